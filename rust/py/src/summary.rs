//! Summaries and hashes of tensors in memory and in dumps, and what a capture makes of bytes.

use llmdbg_core::format::safetensors_zst;
use llmdbg_core::stats::summary::{self, BUCKETS, Summary, row_groups, samples};
use llmdbg_core::{DType, Error, TensorInfo};
use numpy::{PyArray1, PyReadonlyArray1};
use pyo3::exceptions::PyIndexError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::dump::Dump;
use crate::error::to_py;

#[pyfunction]
pub(crate) fn summarize_bytes<'py>(
    py: Python<'py>,
    data: PyReadonlyArray1<'py, u8>,
    dtype: &str,
    shape: Vec<u64>,
    sketch: bool,
) -> PyResult<Bound<'py, PyDict>> {
    let dtype = DType::from_name(dtype)
        .ok_or_else(|| to_py(Error::Invalid(format!("dtype {dtype:?} is not known"))))?;
    let bytes = data.as_slice().map_err(|_| to_py(Error::Invalid("the bytes have gaps".into())))?;
    let info = TensorInfo::new(dtype, shape);
    let summary = py.detach(|| summary::of_bytes(&info, bytes, sketch)).map_err(to_py)?;
    fields(py, summary)
}

#[pyfunction]
pub(crate) fn summarize_record(
    py: Python<'_>,
    dump: Py<Dump>,
    index: usize,
    sketch: bool,
) -> PyResult<Bound<'_, PyDict>> {
    check(&dump, index)?;
    let dump = dump.get();
    let summary = py
        .detach(|| {
            let tensor = dump.read().tensor(index)?;
            summary::of_tensor(&tensor, sketch)
        })
        .map_err(to_py)?;
    fields(py, summary)
}

#[pyfunction]
pub(crate) fn hash_bytes(py: Python<'_>, data: PyReadonlyArray1<'_, u8>) -> PyResult<String> {
    let bytes = data.as_slice().map_err(|_| to_py(Error::Invalid("the bytes have gaps".into())))?;
    Ok(py.detach(|| summary::hash_of_bytes(bytes)))
}

#[pyfunction]
pub(crate) fn zstd_frame<'py>(
    py: Python<'py>,
    data: PyReadonlyArray1<'py, u8>,
) -> PyResult<Bound<'py, PyBytes>> {
    let bytes = data.as_slice().map_err(|_| to_py(Error::Invalid("the bytes have gaps".into())))?;
    let frame = py.detach(|| safetensors_zst::frame(bytes)).map_err(to_py)?;
    Ok(PyBytes::new(py, &frame))
}

#[pyfunction]
pub(crate) fn hash_record(py: Python<'_>, dump: Py<Dump>, index: usize) -> PyResult<String> {
    check(&dump, index)?;
    let dump = dump.get();
    py.detach(|| {
        let tensor = dump.read().tensor(index)?;
        summary::hash_of_tensor(&tensor)
    })
    .map_err(to_py)
}

/// (buckets, rows per norm, norms, samples) of a sketch.
#[pyfunction]
pub(crate) fn sketch_layout(shape: Vec<u64>) -> (usize, u64, u64, Vec<u64>) {
    let (each, norms) = row_groups(&shape);
    let elements = shape.iter().fold(1u64, |n, &d| n.saturating_mul(d));
    (BUCKETS, each, norms, samples(elements).collect())
}

fn check(dump: &Py<Dump>, index: usize) -> PyResult<()> {
    let len = dump.get().read().records.len();
    if index < len { Ok(()) } else { Err(PyIndexError::new_err(format!("tensor {index} of {len}"))) }
}

fn fields(py: Python<'_>, summary: Summary) -> PyResult<Bound<'_, PyDict>> {
    let side = summary.side;
    let out = PyDict::new(py);
    out.set_item("elements", summary.elements)?;
    out.set_item("finite", side.finite)?;
    out.set_item("min", side.lowest())?;
    out.set_item("max", side.highest())?;
    out.set_item("mean", side.mean())?;
    out.set_item("norm", side.squares.sqrt())?;
    out.set_item("nan", side.nan)?;
    out.set_item("pos_inf", side.pos_inf)?;
    out.set_item("neg_inf", side.neg_inf)?;
    out.set_item("zero", side.zero)?;
    if !summary.sketch.is_empty() {
        out.set_item("sketch", PyArray1::from_vec(py, summary.sketch))?;
    }
    Ok(out)
}
