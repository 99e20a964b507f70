//! `compare_pairs`, `compare_tensors`, `tensor_stats` and the table of measures.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

use llmdbg_core::compare::{self, Get, Options, Progress, Row};
use llmdbg_core::stats::describe::describe;
use llmdbg_core::{Error, Result, Tensor, TensorInfo, format};
use numpy::PyArray1;
use pyo3::exceptions::PyIndexError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::dump::Dump;
use crate::error::to_py;

/// (name, meaning) of every measure.
#[pyfunction]
pub(crate) fn measures() -> Vec<(&'static str, &'static str)> {
    compare::columns().map(|column| (column.name, column.meaning)).collect()
}

#[pyfunction]
#[pyo3(signature = (golden, candidate, golden_index, candidate_index, *, threads = 0, kl = true, journal = None, progress = None))]
#[allow(clippy::too_many_arguments, reason = "keyword arguments of the Python function")]
pub(crate) fn compare_pairs(
    py: Python<'_>,
    golden: Py<Dump>,
    candidate: Py<Dump>,
    golden_index: Vec<usize>,
    candidate_index: Vec<usize>,
    threads: usize,
    kl: bool,
    journal: Option<Py<Journal>>,
    progress: Option<Py<PyAny>>,
) -> PyResult<Bound<'_, PyDict>> {
    if golden_index.len() != candidate_index.len() {
        let (a, b) = (golden_index.len(), candidate_index.len());
        return Err(to_py(Error::Invalid(format!("{a} golden indices for {b} candidate indices"))));
    }
    for (side, dump, index) in
        [("golden", &golden, &golden_index), ("candidate", &candidate, &candidate_index)]
    {
        let len = dump.get().read().records.len();
        if let Some(&i) = index.iter().find(|&&i| i >= len) {
            return Err(PyIndexError::new_err(format!("{side} tensor {i} of {len}")));
        }
    }
    let (golden, candidate) = (golden.get(), candidate.get());
    let options = Options { threads, kl, ..Options::default() };
    let open =
        |i: usize| (golden.read().tensor(golden_index[i]), candidate.read().tensor(candidate_index[i]));
    let journal = journal.as_ref().map(|journal| &journal.get().0);
    let rows = run(py, golden_index.len(), &open, &options, journal, progress.as_ref())?;
    columns(py, &rows)
}

#[pyfunction]
#[pyo3(signature = (golden, candidate, golden_key = None, candidate_key = None, *, threads = 0, kl = true, progress = None))]
#[allow(clippy::too_many_arguments, reason = "keyword arguments of the Python function")]
pub(crate) fn compare_tensors(
    py: Python<'_>,
    golden: PathBuf,
    candidate: PathBuf,
    golden_key: Option<String>,
    candidate_key: Option<String>,
    threads: usize,
    kl: bool,
    progress: Option<Py<PyAny>>,
) -> PyResult<Bound<'_, PyDict>> {
    let options = Options { threads, kl, ..Options::default() };
    let open = |_: usize| {
        (format::open(&golden, golden_key.as_deref()), format::open(&candidate, candidate_key.as_deref()))
    };
    let rows = run(py, 1, &open, &options, None, progress.as_ref())?;
    columns(py, &rows)
}

/// Rows that a comparison has finished, kept for when it is interrupted.
#[pyclass(frozen, module = "llmdbg._core")]
pub(crate) struct Journal(pub(crate) compare::Journal);

#[pymethods]
impl Journal {
    #[new]
    #[pyo3(signature = (path, *, after_ms = 2000))]
    fn new(py: Python<'_>, path: PathBuf, after_ms: u64) -> Self {
        Self(py.detach(|| compare::Journal::open(&path, Duration::from_millis(after_ms))))
    }

    #[getter]
    fn known(&self) -> u64 {
        self.0.known()
    }

    #[getter]
    fn resumed(&self) -> u64 {
        self.0.resumed()
    }

    #[getter]
    fn kept(&self) -> u64 {
        self.0.kept()
    }

    #[getter]
    fn problem(&self) -> Option<String> {
        self.0.problem()
    }

    fn remove(&self) -> PyResult<()> {
        self.0.remove().map_err(to_py)
    }
}

/// Relative L2 per row, and how many rows each value stands for.
#[pyfunction]
#[pyo3(signature = (golden, candidate, golden_index, candidate_index, most = 65536, *, threads = 0))]
pub(crate) fn row_profile(
    py: Python<'_>,
    golden: Py<Dump>,
    candidate: Py<Dump>,
    golden_index: usize,
    candidate_index: usize,
    most: usize,
    threads: usize,
) -> PyResult<(Bound<'_, PyArray1<f32>>, u64)> {
    let open = |side: &Dump, i: usize| {
        let dump = side.read();
        if i < dump.records.len() { dump.tensor(i) } else { Err(Error::Invalid(format!("no tensor {i}"))) }
    };
    let (golden, candidate) = (golden.get(), candidate.get());
    let (rows, each) = py
        .detach(|| {
            let options = Options { threads, kl: false, ..Options::default() };
            let pair = (open(golden, golden_index)?, open(candidate, candidate_index)?);
            compare::row_profile(&pair.0, &pair.1, most, &options)
        })
        .map_err(to_py)?;
    Ok((PyArray1::from_vec(py, rows), each))
}

#[pyfunction]
#[pyo3(signature = (path, key = None, *, histogram = false))]
pub(crate) fn tensor_stats(
    py: Python<'_>,
    path: PathBuf,
    key: Option<String>,
    histogram: bool,
) -> PyResult<Bound<'_, PyDict>> {
    let (info, stats) = py
        .detach(|| {
            let tensor = format::open(&path, key.as_deref())?;
            Ok((tensor.info.clone(), describe(&tensor, histogram)?))
        })
        .map_err(to_py)?;
    let side = stats.side;
    let out = PyDict::new(py);
    out.set_item("dtype", info.dtype.name())?;
    out.set_item("shape", info.shape)?;
    out.set_item("elements", stats.elements)?;
    out.set_item("finite", side.finite)?;
    out.set_item("min", side.lowest())?;
    out.set_item("max", side.highest())?;
    out.set_item("mean", side.mean())?;
    out.set_item("rms", stats.rms())?;
    out.set_item("norm", stats.norm())?;
    out.set_item("nan", side.nan)?;
    out.set_item("pos_inf", side.pos_inf)?;
    out.set_item("neg_inf", side.neg_inf)?;
    out.set_item("zero", side.zero)?;
    out.set_item("subnormal", side.subnormal)?;
    out.set_item("near_max", side.near_max)?;
    if histogram {
        let counts = stats.histogram.into_iter().map(u64::cast_signed).collect();
        out.set_item("histogram", PyArray1::<i64>::from_vec(py, counts))?;
    }
    Ok(out)
}

/// Runs without the GIL; the calling thread takes it back now and then for signals and progress.
pub(crate) fn run(
    py: Python<'_>,
    count: usize,
    open: &(dyn Fn(usize) -> (Result<Tensor>, Result<Tensor>) + Sync),
    options: &Options,
    journal: Option<&compare::Journal>,
    progress: Option<&Py<PyAny>>,
) -> PyResult<Vec<Row>> {
    let mut raised = None;
    let rows = py.detach(|| {
        let mut reported = None;
        let mut tick = |now: Progress| {
            let told = Python::attach(|py| {
                py.check_signals()?;
                match progress {
                    Some(call) if reported != Some(now) => call.call1(py, (now.pairs, now.of)).map(drop),
                    _ => Ok(()),
                }
            });
            reported = Some(now);
            match told {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    raised = Some(error);
                    ControlFlow::Break(())
                }
            }
        };
        compare::run(count, open, options, journal, &mut tick)
    });
    match raised {
        Some(error) => Err(error),
        None => rows.map_err(to_py),
    }
}

/// One array or list per column, one element per row.
pub(crate) fn columns<'py>(py: Python<'py>, rows: &[Row]) -> PyResult<Bound<'py, PyDict>> {
    let out = PyDict::new(py);
    for column in compare::columns() {
        let measures = rows.iter().map(|row| &row.measures);
        match column.get {
            Get::Float(get) => {
                let values: Vec<f64> = measures.map(get).collect();
                out.set_item(column.name, PyArray1::from_vec(py, values))?;
            }
            Get::Int(get) => {
                let values: Vec<i64> =
                    measures.map(|m| get(m).and_then(|v| i64::try_from(v).ok()).unwrap_or(-1)).collect();
                out.set_item(column.name, PyArray1::from_vec(py, values))?;
            }
            Get::Flag(get) => {
                let values: Vec<u8> = measures.map(|m| u8::from(get(m))).collect();
                out.set_item(column.name, PyArray1::from_vec(py, values))?;
            }
        }
    }
    let dtype = |info: &Option<TensorInfo>| info.as_ref().map(|i| i.dtype.name());
    let shape = |info: &Option<TensorInfo>| info.as_ref().map(|i| i.shape.clone());
    out.set_item("golden_dtype", PyList::new(py, rows.iter().map(|r| dtype(&r.golden)))?)?;
    out.set_item("golden_shape", PyList::new(py, rows.iter().map(|r| shape(&r.golden)))?)?;
    out.set_item("candidate_dtype", PyList::new(py, rows.iter().map(|r| dtype(&r.candidate)))?)?;
    out.set_item("candidate_shape", PyList::new(py, rows.iter().map(|r| shape(&r.candidate)))?)?;
    out.set_item("shape_note", PyList::new(py, rows.iter().map(|r| r.shape_note.as_deref()))?)?;
    let notes = rows.iter().map(|r| (!r.notes.is_empty()).then(|| r.notes.join("; ")));
    out.set_item("note", PyList::new(py, notes)?)?;
    out.set_item("cmp_fail_reason", PyList::new(py, rows.iter().map(|r| r.reason.as_deref()))?)?;
    Ok(out)
}
