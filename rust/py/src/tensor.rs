//! One tensor for Python: dtype, shape, and its bytes through the buffer protocol.

use std::ffi::c_int;
use std::path::PathBuf;

use llmdbg_core::io::map::Mapped;
use llmdbg_core::{Tensor, TensorInfo, format};
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::error::to_py;

/// A located tensor whose bytes Python can read in place.
#[pyclass(frozen, module = "llmdbg._core")]
pub(crate) struct TensorBuffer {
    info: TensorInfo,
    strides: Option<Vec<u64>>,
    first: u64,
    notes: Vec<String>,
    bytes: Mapped,
}

impl TensorBuffer {
    /// Maps the bytes of a tensor.
    pub(crate) fn new(tensor: Tensor) -> llmdbg_core::Result<Self> {
        let bytes = Mapped::new(&tensor.storage)?;
        let Tensor { info, strides, first, notes, .. } = tensor;
        Ok(Self { info, strides, first, notes, bytes })
    }
}

#[pymethods]
impl TensorBuffer {
    #[getter]
    fn dtype(&self) -> &'static str {
        self.info.dtype.name()
    }

    #[getter]
    fn numpy_dtype(&self) -> &'static str {
        self.info.dtype.row().numpy
    }

    #[getter]
    fn shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, &self.info.shape)
    }

    #[getter]
    fn strides<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyTuple>>> {
        self.strides.as_ref().map(|strides| PyTuple::new(py, strides)).transpose()
    }

    #[getter]
    fn offset(&self) -> u64 {
        self.first
    }

    #[getter]
    fn acl_format(&self) -> Option<i32> {
        self.info.acl_format
    }

    #[getter]
    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }

    fn __repr__(&self) -> String {
        format!("TensorBuffer({})", self.info)
    }

    #[expect(unsafe_code, reason = "the buffer protocol is a C interface")]
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        if view.is_null() {
            return Err(PyBufferError::new_err("no buffer to fill"));
        }
        let bytes: &[u8] = &slf.get().bytes;
        // SAFETY: `view` is the caller's Py_buffer. The bytes live as long as this frozen object, of which the
        // filled view takes a reference; they are marked read-only, so nobody writes through the pointer.
        let status = unsafe {
            ffi::PyBuffer_FillInfo(
                view,
                slf.as_ptr(),
                bytes.as_ptr().cast_mut().cast(),
                bytes.len().cast_signed(),
                1,
                flags,
            )
        };
        if status == 0 { Ok(()) } else { Err(PyErr::fetch(slf.py())) }
    }
}

/// Locates one tensor of a file.
#[pyfunction]
#[pyo3(signature = (path, key=None))]
pub(crate) fn open_tensor(py: Python<'_>, path: PathBuf, key: Option<&str>) -> PyResult<TensorBuffer> {
    py.detach(|| TensorBuffer::new(format::open(&path, key)?)).map_err(to_py)
}

/// Names of the tensors of a file, in stored order.
#[pyfunction]
pub(crate) fn list_tensors(py: Python<'_>, path: PathBuf) -> PyResult<Vec<String>> {
    let contents = py.detach(|| format::contents(&path)).map_err(to_py)?;
    Ok(contents.entries.iter().map(|entry| entry.key.clone()).collect())
}
