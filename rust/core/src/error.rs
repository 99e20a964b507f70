//! The one error type of the crate. Messages say what, where, what was expected and found; the path comes last.

use std::path::{Path, PathBuf};

/// Result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong while reading, aligning or measuring.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused an operation.
    #[error("cannot {action}: {source}: {}", path.display())]
    Io {
        /// What was tried, as an infinitive: "read the header".
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The operating system's own words.
        source: std::io::Error,
    },
    /// The bytes do not follow the format they claim.
    #[error("{what}: expected {expected}, found {found}: {}", path.display())]
    Malformed {
        /// Which part of the file.
        what: String,
        /// What the format demands there.
        expected: String,
        /// What is there.
        found: String,
        /// The file.
        path: PathBuf,
    },
    /// A well-formed file that is not read, and why.
    #[error("refused: {reason}: {}", path.display())]
    Refused {
        /// Why, and what to do instead.
        reason: String,
        /// The file.
        path: PathBuf,
    },
    /// Nothing at that path, or not what was asked for.
    #[error("{what}: {}", path.display())]
    NotFound {
        /// What was looked for and what to do next.
        what: String,
        /// Where.
        path: PathBuf,
    },
    /// Arguments that contradict each other or the data.
    #[error("{0}")]
    Invalid(String),
    /// The caller asked to stop.
    #[error("interrupted")]
    Cancelled,
}

impl Error {
    /// Builds the closure that `map_err` wants for an I/O error.
    pub fn io<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(std::io::Error) -> Self + 'a {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }

    /// A malformed file.
    pub fn malformed(
        path: &Path,
        what: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self::Malformed {
            what: what.into(),
            expected: expected.into(),
            found: found.into(),
            path: path.to_owned(),
        }
    }

    /// A file that is not read on purpose.
    pub fn refused(path: &Path, reason: impl Into<String>) -> Self {
        Self::Refused { reason: reason.into(), path: path.to_owned() }
    }

    /// Something that is not there.
    pub fn not_found(path: &Path, what: impl Into<String>) -> Self {
        Self::NotFound { what: what.into(), path: path.to_owned() }
    }
}

impl Clone for Error {
    fn clone(&self) -> Self {
        match self {
            Self::Io { action, path, source } => {
                let source = match source.raw_os_error() {
                    Some(errno) => std::io::Error::from_raw_os_error(errno),
                    None => std::io::Error::new(source.kind(), source.to_string()),
                };
                Self::Io { action, path: path.clone(), source }
            }
            Self::Malformed { what, expected, found, path } => Self::Malformed {
                what: what.clone(),
                expected: expected.clone(),
                found: found.clone(),
                path: path.clone(),
            },
            Self::Refused { reason, path } => Self::Refused { reason: reason.clone(), path: path.clone() },
            Self::NotFound { what, path } => Self::NotFound { what: what.clone(), path: path.clone() },
            Self::Invalid(words) => Self::Invalid(words.clone()),
            Self::Cancelled => Self::Cancelled,
        }
    }
}
