//! `align` and the alignment it gives.

use std::path::Path;
use std::sync::Arc;

use llmdbg_core::compare::Options;
use llmdbg_core::{Error, align};
use pyo3::exceptions::PyIndexError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::compare::{self, Journal};
use crate::dump::Dump;
use crate::error::to_py;
use crate::tensor::TensorBuffer;

/// Which tensors of two dumps stand for the same value.
#[pyclass(frozen, module = "llmdbg._core")]
pub(crate) struct Alignment {
    pub(crate) inner: Arc<align::Alignment>,
    golden: Py<Dump>,
    candidate: Py<Dump>,
}

#[pyfunction]
#[pyo3(name = "align", signature = (golden, candidate, options_json = "{}"))]
pub(crate) fn align_dumps(
    py: Python<'_>,
    golden: Py<Dump>,
    candidate: Py<Dump>,
    options_json: &str,
) -> PyResult<Alignment> {
    let options: align::Options =
        serde_json::from_str(options_json).map_err(|e| to_py(Error::Invalid(format!("options: {e}"))))?;
    let (own, other) = (golden.get(), candidate.get());
    let found = py.detach(|| align::align(&own.read(), &other.read(), &options)).map_err(to_py)?;
    Ok(Alignment { inner: Arc::new(found), golden, candidate })
}

#[pymethods]
impl Alignment {
    fn __len__(&self) -> usize {
        self.inner.pairs.len()
    }

    /// One element per pair.
    fn columns<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let pairs = &self.inner.pairs;
        let columns = PyDict::new(py);
        macro_rules! column {
            ($name:literal, $cell:expr) => {
                columns.set_item($name, PyList::new(py, pairs.iter().map($cell))?)?;
            };
        }
        column!("golden", |p| p.golden.records[0]);
        column!("candidate", |p| p.candidate.records[0]);
        column!("golden_records", |p| p.golden.records.clone());
        column!("candidate_records", |p| p.candidate.records.clone());
        column!("confidence", |p| p.confidence);
        column!("evidence", |p| p.evidence.join(", "));
        column!("transform", align::Pair::transform);
        Ok(columns)
    }

    /// (record index, nearest node of the other side).
    #[getter]
    fn unmatched_golden(&self) -> Vec<(usize, Option<String>)> {
        loners(&self.inner.unmatched_golden)
    }

    #[getter]
    fn unmatched_candidate(&self) -> Vec<(usize, Option<String>)> {
        loners(&self.inner.unmatched_candidate)
    }

    #[getter]
    fn notes(&self) -> Vec<String> {
        self.inner.notes.clone()
    }

    /// (golden step, candidate step) of each pass that both sides have.
    #[getter]
    fn steps(&self) -> Vec<(Option<u64>, Option<u64>)> {
        self.inner.steps.pairs.clone()
    }

    /// Measures of some of the pairs, after their transforms.
    #[pyo3(signature = (pairs, *, threads = 0, kl = true, journal = None, progress = None))]
    fn compare<'py>(
        &self,
        py: Python<'py>,
        pairs: Vec<usize>,
        threads: usize,
        kl: bool,
        journal: Option<Py<Journal>>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let len = self.inner.pairs.len();
        if let Some(&i) = pairs.iter().find(|&&i| i >= len) {
            return Err(PyIndexError::new_err(format!("pair {i} of {len}")));
        }
        let (golden, candidate) = (self.golden.get(), self.candidate.get());
        let repeats = align::Repeats::of(&self.inner, &candidate.read());
        let open = |i: usize| {
            let pair = &self.inner.pairs[pairs[i]];
            let own = align::tensor(&golden.read(), &pair.golden);
            (own, repeats.tensor(&candidate.read(), &pair.candidate))
        };
        let options = Options { threads, kl, ..Options::default() };
        let journal = journal.as_ref().map(|journal| &journal.get().0);
        let rows = compare::run(py, pairs.len(), &open, &options, journal, progress.as_ref())?;
        compare::columns(py, &rows)
    }

    /// Both tensors of a pair, after its transforms.
    fn tensors(&self, py: Python<'_>, pair: usize) -> PyResult<(TensorBuffer, TensorBuffer)> {
        let len = self.inner.pairs.len();
        let found = self.inner.pairs.get(pair);
        let found = found.ok_or_else(|| PyIndexError::new_err(format!("pair {pair} of {len}")))?;
        let (golden, candidate) = (self.golden.get(), self.candidate.get());
        let open =
            |dump: &Dump, side: &align::Side| align::tensor(&dump.read(), side).and_then(TensorBuffer::new);
        py.detach(|| Ok((open(golden, &found.golden)?, open(candidate, &found.candidate)?))).map_err(to_py)
    }

    fn to_json(&self, py: Python<'_>) -> String {
        let (golden, candidate) = (self.golden.get(), self.candidate.get());
        py.detach(|| align::write_json(&self.inner, &golden.read(), &candidate.read()))
    }

    #[staticmethod]
    #[pyo3(signature = (text, golden, candidate, path = "alignment.json"))]
    fn from_json(
        py: Python<'_>,
        text: &str,
        golden: Py<Dump>,
        candidate: Py<Dump>,
        path: &str,
    ) -> PyResult<Self> {
        let (own, other) = (golden.get(), candidate.get());
        let read = || align::read_json(text, Path::new(path), &own.read(), &other.read());
        let found = py.detach(read).map_err(to_py)?;
        Ok(Self { inner: Arc::new(found), golden, candidate })
    }
}

fn loners(unmatched: &[align::Unmatched]) -> Vec<(usize, Option<String>)> {
    unmatched.iter().map(|u| (u.record, u.nearest.clone())).collect()
}
