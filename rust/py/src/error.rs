//! The one map from the engine's errors to Python exceptions.

use llmdbg_core::Error;
use pyo3::exceptions::{PyKeyboardInterrupt, PyOSError, PyValueError};
use pyo3::{PyErr, create_exception};

create_exception!(
    llmdbg._core,
    LlmdbgError,
    PyValueError,
    "A file or argument that llmdbg cannot work with; the message says why and what to do."
);

/// For `map_err`: an engine error as the exception a Python user expects.
pub(crate) fn to_py(error: Error) -> PyErr {
    match error {
        Error::Io { action, path, source } => match source.raw_os_error() {
            // Called with an errno, OSError picks its subclass itself: FileNotFoundError, PermissionError, …
            Some(errno) => {
                let words = source.to_string();
                let words = words.strip_suffix(&format!(" (os error {errno})")).unwrap_or(&words);
                PyOSError::new_err((errno, format!("cannot {action}: {words}"), path.into_os_string()))
            }
            None => PyOSError::new_err(format!("cannot {action}: {source}: {}", path.display())),
        },
        Error::Malformed { .. } | Error::Refused { .. } | Error::NotFound { .. } | Error::Invalid(_) => {
            LlmdbgError::new_err(error.to_string())
        }
        Error::Cancelled => PyKeyboardInterrupt::new_err(()),
    }
}
