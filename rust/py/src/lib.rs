//! Python bindings: conversions and error mapping only, no logic.
#![allow(missing_docs, reason = "documented in python/llmdbg/_core.pyi")]
#![allow(clippy::needless_pass_by_value, reason = "Python arguments arrive by value")]

mod align;
mod compare;
mod dump;
mod error;
mod live;
mod scan;
mod summary;
mod tensor;

use pyo3::prelude::*;

#[pymodule(gil_used = false)]
mod _core {
    use super::{Bound, PyModule, PyModuleMethods, PyResult};

    #[pymodule_export]
    use super::error::LlmdbgError;
    #[pymodule_export]
    use super::tensor::{TensorBuffer, list_tensors, open_tensor};

    #[pymodule_export]
    use super::dump::{Dump, open_dump};

    #[pymodule_export]
    use super::align::{Alignment, align_dumps};

    #[pymodule_export]
    use super::compare::{Journal, compare_pairs, compare_tensors, measures, row_profile, tensor_stats};

    #[pymodule_export]
    use super::live::compare_bytes;

    #[pymodule_export]
    use super::scan::{byte_differences, scan_records, scan_tensors};

    #[pymodule_export]
    use super::summary::{
        hash_bytes, hash_record, sketch_layout, summarize_bytes, summarize_record, zstd_frame,
    };

    #[pymodule_init]
    fn init(m: &Bound<'_, PyModule>) -> PyResult<()> {
        m.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
