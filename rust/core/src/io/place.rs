//! Which bytes of which file a tensor is.

use std::path::PathBuf;
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use crate::{DType, Storage, Tensor};

/// Where a tensor's elements are, and the state of the file that holds them. Two tensors of one place have the
/// same elements, as long as whoever rewrites a file changes its size or its time.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Place {
    path: PathBuf,
    file_len: u64,
    modified_ns: u64,
    offset: u64,
    first: u64,
    strides: Option<Vec<u64>>,
    dtype: DType,
    shape: Vec<u64>,
}

impl Place {
    /// The place of a tensor; `None` when its bytes are not those of a file.
    #[must_use]
    pub fn of(tensor: &Tensor) -> Option<Self> {
        let Storage::File { file, path, offset, .. } = &tensor.storage else { return None };
        let metadata = file.metadata().ok()?;
        let modified = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
        Some(Self {
            path: std::path::absolute(path).ok()?,
            file_len: metadata.len(),
            modified_ns: modified.as_nanos() as u64,
            offset: *offset,
            first: tensor.first,
            strides: tensor.strides.clone(),
            dtype: tensor.info.dtype,
            shape: tensor.info.shape.clone(),
        })
    }
}
