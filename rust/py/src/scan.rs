//! `scan_records`, `scan_tensors` and `byte_differences`.

use std::ops::ControlFlow;
use std::path::PathBuf;

use llmdbg_core::scan::{self, Class, Health, Options, Row};
use llmdbg_core::{Result, Tensor, TensorInfo, format};
use numpy::PyArray1;
use pyo3::exceptions::PyIndexError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::dump::Dump;
use crate::error::to_py;

#[pyfunction]
#[pyo3(signature = (dump, index, *, threads = 0, progress = None))]
pub(crate) fn scan_records(
    py: Python<'_>,
    dump: Py<Dump>,
    index: Vec<usize>,
    threads: usize,
    progress: Option<Py<PyAny>>,
) -> PyResult<Bound<'_, PyDict>> {
    check(&dump, &index)?;
    let dump = dump.get();
    let rows = run(py, index.len(), &|i| dump.read().tensor(index[i]), threads, progress.as_ref())?;
    columns(py, &rows)
}

#[pyfunction]
#[pyo3(signature = (path, keys, *, threads = 0, progress = None))]
pub(crate) fn scan_tensors(
    py: Python<'_>,
    path: PathBuf,
    keys: Vec<Option<String>>,
    threads: usize,
    progress: Option<Py<PyAny>>,
) -> PyResult<Bound<'_, PyDict>> {
    let open = |i: usize| format::open(&path, keys[i].as_deref());
    let rows = run(py, keys.len(), &open, threads, progress.as_ref())?;
    columns(py, &rows)
}

#[pyfunction]
#[pyo3(signature = (first, second, first_index, second_index, *, threads = 0, progress = None))]
pub(crate) fn byte_differences(
    py: Python<'_>,
    first: Py<Dump>,
    second: Py<Dump>,
    first_index: Vec<usize>,
    second_index: Vec<usize>,
    threads: usize,
    progress: Option<Py<PyAny>>,
) -> PyResult<Bound<'_, PyDict>> {
    check(&first, &first_index)?;
    check(&second, &second_index)?;
    if first_index.len() != second_index.len() {
        let (a, b) = (first_index.len(), second_index.len());
        return Err(PyIndexError::new_err(format!("{a} indices beside {b}")));
    }
    let (first, second) = (first.get(), second.get());
    let open = |i: usize| (first.read().tensor(first_index[i]), second.read().tensor(second_index[i]));
    let rows = ticking(py, progress.as_ref(), |tick| {
        scan::byte_differences(first_index.len(), &open, threads, tick)
    })?;
    let out = PyDict::new(py);
    let numbers = |get: fn(&scan::ByteDifference) -> u64| -> Vec<i64> {
        rows.iter().map(|row| get(row).cast_signed()).collect()
    };
    out.set_item("count", PyArray1::from_vec(py, numbers(|r| r.count)))?;
    out.set_item("first", PyArray1::from_vec(py, numbers(|r| r.first)))?;
    out.set_item("last", PyArray1::from_vec(py, numbers(|r| r.last)))?;
    out.set_item("reason", PyList::new(py, rows.iter().map(|r| r.reason.as_deref()))?)?;
    Ok(out)
}

fn check(dump: &Py<Dump>, index: &[usize]) -> PyResult<()> {
    let len = dump.get().read().records.len();
    match index.iter().find(|&&i| i >= len) {
        Some(i) => Err(PyIndexError::new_err(format!("tensor {i} of {len}"))),
        None => Ok(()),
    }
}

fn run(
    py: Python<'_>,
    count: usize,
    open: &(dyn Fn(usize) -> Result<Tensor> + Sync),
    threads: usize,
    progress: Option<&Py<PyAny>>,
) -> PyResult<Vec<Row>> {
    ticking(py, progress, |tick| scan::scan(count, open, Options { threads }, tick))
}

/// Works without the GIL; the calling thread takes it back now and then for signals and progress.
fn ticking<T: Send>(
    py: Python<'_>,
    progress: Option<&Py<PyAny>>,
    work: impl FnOnce(&mut dyn FnMut(u64, u64) -> ControlFlow<()>) -> Result<T> + Send,
) -> PyResult<T> {
    let mut raised = None;
    let result = py.detach(|| {
        let mut reported = None;
        work(&mut |done, of| {
            let told = Python::attach(|py| {
                py.check_signals()?;
                match progress {
                    Some(call) if reported != Some(done) => call.call1(py, (done, of)).map(drop),
                    _ => Ok(()),
                }
            });
            reported = Some(done);
            match told {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    raised = Some(error);
                    ControlFlow::Break(())
                }
            }
        })
    });
    match raised {
        Some(error) => Err(error),
        None => result.map_err(to_py),
    }
}

fn columns<'py>(py: Python<'py>, rows: &[Row]) -> PyResult<Bound<'py, PyDict>> {
    let out = PyDict::new(py);
    // Beyond i64 means that there is none.
    let whole = |get: &dyn Fn(&Health) -> u64| -> Vec<i64> {
        rows.iter().map(|row| i64::try_from(get(&row.health)).unwrap_or(-1)).collect()
    };
    let real =
        |get: &dyn Fn(&Health) -> f64| -> Vec<f64> { rows.iter().map(|row| get(&row.health)).collect() };
    let none_if_empty = |h: &Health, value: f64| if h.finite() == 0 { f64::NAN } else { value };
    out.set_item("numbers", PyArray1::from_vec(py, whole(&|h| h.numbers)))?;
    for class in Class::ALL {
        out.set_item(class.name(), PyArray1::from_vec(py, whole(&|h| h.count(class))))?;
        let first = whole(&|h| h.first[class as usize]);
        out.set_item(format!("first_{}", class.name()), PyArray1::from_vec(py, first))?;
    }
    for (name, values) in [
        ("min", real(&|h| none_if_empty(h, h.min))),
        ("max", real(&|h| none_if_empty(h, h.max))),
        ("abs_max", real(&Health::abs_max)),
        ("abs_min", real(&|h| if h.least.is_finite() { h.least } else { f64::NAN })),
        ("mean", real(&Health::mean)),
        ("rms", real(&Health::rms)),
    ] {
        out.set_item(name, PyArray1::from_vec(py, values))?;
    }
    for (name, values) in [
        ("rows", whole(&|h| h.rows)),
        ("channels", whole(&|h| h.channels)),
        ("dead_rows", whole(&|h| h.dead_rows)),
        ("dead_channels", whole(&|h| h.dead_channels)),
        ("repeated_rows", whole(&|h| h.repeated_rows)),
        ("first_repeated_row", whole(&|h| h.repeat.map_or(u64::MAX, |r| r.0))),
        ("first_repeated_of", whole(&|h| h.repeat.map_or(u64::MAX, |r| r.1))),
    ] {
        out.set_item(name, PyArray1::from_vec(py, values))?;
    }
    let constant: Vec<u8> = rows.iter().map(|row| u8::from(row.health.is_constant())).collect();
    out.set_item("constant", PyArray1::from_vec(py, constant))?;
    let dtype = |info: &Option<TensorInfo>| info.as_ref().map(|i| i.dtype.name());
    out.set_item("dtype", PyList::new(py, rows.iter().map(|r| dtype(&r.info)))?)?;
    let shape = |info: &Option<TensorInfo>| info.as_ref().map(|i| i.shape.clone());
    out.set_item("shape", PyList::new(py, rows.iter().map(|r| shape(&r.info)))?)?;
    let notes = rows.iter().map(|r| (!r.notes.is_empty()).then(|| r.notes.join("; ")));
    out.set_item("note", PyList::new(py, notes)?)?;
    out.set_item("reason", PyList::new(py, rows.iter().map(|r| r.reason.as_deref()))?)?;
    Ok(out)
}
