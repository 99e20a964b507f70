//! `align` and the alignment it gives.

use std::path::Path;
use std::sync::Arc;

use llmdbg_core::{Error, align};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::dump::Dump;
use crate::error::to_py;

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
