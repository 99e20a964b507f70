//! `open_dump` and the dump it gives.

use std::path::PathBuf;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use llmdbg_core::dump;
use pyo3::exceptions::PyIndexError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::error::to_py;
use crate::tensor::TensorBuffer;

/// One recorded run. Locked, because `describe` fills what the others read.
#[pyclass(frozen, module = "llmdbg._core")]
pub(crate) struct Dump(RwLock<dump::Dump>);

impl Dump {
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, dump::Dump> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, dump::Dump> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pyfunction]
pub(crate) fn open_dump(py: Python<'_>, path: PathBuf) -> PyResult<Dump> {
    py.detach(|| dump::open(&path)).map(|dump| Dump(RwLock::new(dump))).map_err(to_py)
}

#[pymethods]
impl Dump {
    #[getter]
    fn layout(&self) -> &'static str {
        self.read().layout
    }

    #[getter]
    fn variant(&self) -> String {
        self.read().variant.clone()
    }

    #[getter]
    fn root<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Ok(self.read().root.as_os_str().into_pyobject(py)?.into_any())
    }

    #[getter]
    fn steps(&self) -> Vec<u64> {
        self.read().steps()
    }

    #[getter]
    fn ranks(&self) -> Vec<u32> {
        self.read().ranks()
    }

    #[getter]
    fn problems(&self) -> Vec<String> {
        self.read().problems.clone()
    }

    #[getter]
    fn about_json(&self) -> String {
        serde_json::Value::Object(self.read().about.clone()).to_string()
    }

    fn __len__(&self) -> usize {
        self.read().records.len()
    }

    fn tensor(&self, py: Python<'_>, index: usize) -> PyResult<TensorBuffer> {
        let dump = &*self.read();
        if index >= dump.records.len() {
            return Err(PyIndexError::new_err(format!("tensor {index} of {}", dump.records.len())));
        }
        py.detach(|| TensorBuffer::new(dump.tensor(index)?)).map_err(to_py)
    }

    fn candidate(&self, py: Python<'_>) -> PyResult<Option<Self>> {
        let other = py.detach(|| dump::manual::candidate(&self.read()));
        other.transpose().map(|dump| dump.map(|dump| Self(RwLock::new(dump)))).map_err(to_py)
    }

    fn describe(&self, py: Python<'_>) {
        py.detach(|| self.write().describe());
    }

    fn graph_json(&self, py: Python<'_>) -> Option<String> {
        py.detach(|| self.read().graph.as_ref().map(|graph| graph.to_json().to_string()))
    }

    fn values_json(&self, py: Python<'_>) -> String {
        py.detach(|| self.read().values_json().to_string())
    }

    fn columns<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dump = self.read();
        let records = &dump.records;
        let columns = PyDict::new(py);
        macro_rules! column {
            ($name:literal, $cell:expr) => {
                columns.set_item($name, PyList::new(py, records.iter().map($cell))?)?;
            };
        }
        column!("step", |r| r.step);
        column!("rank", |r| r.rank);
        column!("node", |r| r.node.as_str());
        column!("op_type", |r| r.op_type.as_deref());
        column!("call", |r| r.call);
        column!("role", |r| r.role.name());
        column!("phase", |r| r.phase.map(dump::Phase::name));
        column!("slot", |r| r.slot.as_str());
        column!("order", |r| r.order);
        column!("path", |r| r.location.path().map(std::path::Path::as_os_str));
        column!("key", |r| r.location.key());
        column!("dtype", |r| r.info.as_ref().map(|i| i.dtype.name()));
        column!("shape", |r| r.info.as_ref().map(|i| i.shape.clone()));
        column!("max", |r| r.stats.as_ref().and_then(|s| s.max));
        column!("min", |r| r.stats.as_ref().and_then(|s| s.min));
        column!("mean", |r| r.stats.as_ref().and_then(|s| s.mean));
        column!("norm", |r| r.stats.as_ref().and_then(|s| s.norm));
        column!("nan", |r| r.stats.as_ref().and_then(|s| s.nan));
        column!("pos_inf", |r| r.stats.as_ref().and_then(|s| s.pos_inf));
        column!("neg_inf", |r| r.stats.as_ref().and_then(|s| s.neg_inf));
        column!("zero", |r| r.stats.as_ref().and_then(|s| s.zero));
        column!("hash", |r| r.hash.as_deref());
        column!("sketch_path", |r| {
            r.sketch.as_ref().and_then(dump::Location::path).map(std::path::Path::as_os_str)
        });
        column!("sketch_key", |r| r.sketch.as_ref().and_then(dump::Location::key));
        Ok(columns)
    }
}
