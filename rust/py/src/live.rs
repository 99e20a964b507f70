//! Measuring a tensor in memory against a record.

use std::path::Path;
use std::sync::Arc;

use llmdbg_core::compare::Options;
use llmdbg_core::{DType, Error, Storage, Tensor, TensorInfo};
use numpy::PyReadonlyArray1;
use pyo3::exceptions::PyIndexError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::compare::{columns, run};
use crate::dump::Dump;
use crate::error::to_py;

#[pyfunction]
#[pyo3(signature = (golden, index, data, dtype, shape, *, kl = true))]
pub(crate) fn compare_bytes<'py>(
    py: Python<'py>,
    golden: Py<Dump>,
    index: usize,
    data: PyReadonlyArray1<'py, u8>,
    dtype: &str,
    shape: Vec<u64>,
    kl: bool,
) -> PyResult<Bound<'py, PyDict>> {
    let len = golden.get().read().records.len();
    if index >= len {
        return Err(PyIndexError::new_err(format!("tensor {index} of {len}")));
    }
    let dtype = DType::from_name(dtype)
        .ok_or_else(|| to_py(Error::Invalid(format!("dtype {dtype:?} is not known"))))?;
    let bytes = data.as_slice().map_err(|_| to_py(Error::Invalid("the bytes have gaps".into())))?;
    let bytes: Arc<[u8]> = Arc::from(bytes);
    let info = TensorInfo::new(dtype, shape);
    let open = |_: usize| {
        let candidate =
            Tensor::new(info.clone(), None, 0, Storage::Memory(bytes.clone()), Path::new("memory"));
        (golden.get().read().tensor(index), candidate)
    };
    // The model has the other processors.
    let options = Options { threads: 1, kl, ..Options::default() };
    let rows = run(py, 1, &open, &options, None, None)?;
    columns(py, &rows)
}
