//! A tensor whose bytes have been located and checked, but not read.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use crate::DType;

/// Dtype and shape of a tensor, with what its producer said about its layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Element type.
    pub dtype: DType,
    /// Sizes, outermost first; empty for a scalar.
    pub shape: Vec<u64>,
    /// `aclFormat` number when the producer gave one (2 is ND, 29 `FRACTAL_NZ`).
    pub acl_format: Option<i32>,
}

impl TensorInfo {
    /// A tensor in plain row-major layout.
    #[must_use]
    pub fn new(dtype: DType, shape: Vec<u64>) -> Self {
        Self { dtype, shape, acl_format: None }
    }

    /// Number of elements; `None` when the product overflows.
    #[must_use]
    pub fn checked_numel(&self) -> Option<u64> {
        self.shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d))
    }

    /// Number of elements. A constructed [`Tensor`] never overflows here.
    #[must_use]
    pub fn numel(&self) -> u64 {
        self.checked_numel().unwrap_or(u64::MAX)
    }
}

/// Where the bytes are.
#[derive(Clone, Debug)]
pub enum Storage {
    /// A range of an open file.
    File {
        /// The open file.
        file: Arc<File>,
        /// Its path, for messages.
        path: Arc<Path>,
        /// First byte.
        offset: u64,
        /// Length in bytes.
        len: u64,
    },
    /// Bytes already in memory.
    Memory(Arc<[u8]>),
}

impl Storage {
    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Self::File { len, .. } => *len,
            Self::Memory(bytes) => bytes.len() as u64,
        }
    }

    /// Whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A located tensor. One that exists is in bounds: every element that shape, strides and offset
/// can reach lies inside `storage`, and the file was long enough when it was opened.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Dtype and shape.
    pub info: TensorInfo,
    /// Strides in elements; `None` for row-major without gaps.
    pub strides: Option<Vec<u64>>,
    /// First element of the view, in elements from the start of `storage`.
    pub first: u64,
    /// The bytes.
    pub storage: Storage,
    /// What the reader noticed and the user should know: "2 records, the last one is read".
    pub notes: Vec<String>,
}
