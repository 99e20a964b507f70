//! A tensor whose bytes have been located and checked, but not read.

use std::fmt;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::io::computed::Computed;
use crate::{DType, Error, Result};

/// numpy's limit; no producer comes near it, and it bounds what a header can make us build.
const MAX_DIMS: usize = 64;

/// Dtype and shape of a tensor, with what its producer said about its layout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

impl fmt::Display for TensorInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.dtype, self.shape)
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
    /// Bytes computed from other tensors when they are read.
    Computed(Arc<Computed>),
}

impl Storage {
    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Self::File { len, .. } => *len,
            Self::Memory(bytes) => bytes.len() as u64,
            Self::Computed(computed) => computed.bytes(),
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

impl Tensor {
    /// Locates a tensor in `storage`. `path` is the file that an error speaks of.
    ///
    /// # Errors
    /// When shape, strides and offset reach beyond the storage, or their arithmetic overflows.
    pub fn new(
        info: TensorInfo,
        strides: Option<Vec<u64>>,
        first: u64,
        storage: Storage,
        path: &Path,
    ) -> Result<Self> {
        check_bounds(&info, strides.as_deref(), first, storage.len(), path)?;
        let strides = strides.filter(|strides| !is_row_major(&info.shape, strides));
        Ok(Self { info, strides, first, storage, notes: Vec::new() })
    }
}

/// Checks that a view of `len` bytes stays inside them.
///
/// # Errors
/// When it does not, or when the arithmetic overflows.
pub fn check_bounds(
    info: &TensorInfo,
    strides: Option<&[u64]>,
    first: u64,
    len: u64,
    path: &Path,
) -> Result<()> {
    if info.shape.len() > MAX_DIMS {
        let found = format!("{} dimensions", info.shape.len());
        return Err(Error::malformed(path, "shape", format!("at most {MAX_DIMS} dimensions"), found));
    }
    if let Some(strides) = strides.filter(|strides| strides.len() != info.shape.len()) {
        let expected = format!("{} numbers", info.shape.len());
        return Err(Error::malformed(path, "strides", expected, format!("{strides:?}")));
    }
    let Some(end) = end_of(info, strides, first) else {
        return Err(Error::malformed(
            path,
            "shape",
            "sizes that multiply to less than 2^64 bytes",
            format!("{info}, strides {strides:?}, first element {first}"),
        ));
    };
    if end > len {
        let view = match strides {
            Some(strides) => format!(" with strides {strides:?} from element {first}"),
            None if first > 0 => format!(" from element {first}"),
            None => String::new(),
        };
        let expected = format!("{end} bytes for {info}{view}");
        return Err(Error::malformed(path, "tensor data", expected, format!("{len} bytes")));
    }
    Ok(())
}

/// One past the last byte that the view reaches; `None` when that overflows.
fn end_of(info: &TensorInfo, strides: Option<&[u64]>, first: u64) -> Option<u64> {
    let numel = info.checked_numel()?;
    // Even the logical size must be a number: everything downstream multiplies it without looking.
    numel.checked_mul(info.dtype.size() as u64)?;
    if numel == 0 {
        return Some(0);
    }
    let last = match strides {
        None => numel - 1,
        Some(strides) => info
            .shape
            .iter()
            .zip(strides)
            .try_fold(0u64, |last, (&d, &s)| last.checked_add((d - 1).checked_mul(s)?))?,
    };
    first.checked_add(last)?.checked_add(1)?.checked_mul(info.dtype.size() as u64)
}

/// Whether the strides are those of a row-major tensor without gaps.
pub(crate) fn is_row_major(shape: &[u64], strides: &[u64]) -> bool {
    if shape.contains(&0) {
        return true;
    }
    let mut expected = 1u64;
    for (&size, &stride) in shape.iter().zip(strides).rev() {
        // The stride of a dimension of one element is never used, and torch leaves anything there.
        if size != 1 && stride != expected {
            return false;
        }
        expected = expected.saturating_mul(size);
    }
    true
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn tensor(shape: &[u64], strides: Option<&[u64]>, first: u64, bytes: usize) -> Result<Tensor> {
        let info = TensorInfo::new(DType::Float32, shape.to_vec());
        let storage = Storage::Memory(vec![0u8; bytes].into());
        Tensor::new(info, strides.map(<[u64]>::to_vec), first, storage, &PathBuf::from("t"))
    }

    #[test]
    fn bounds_are_exact() {
        assert!(tensor(&[2, 3], None, 0, 24).is_ok());
        assert!(tensor(&[2, 3], None, 0, 23).is_err());
        assert!(tensor(&[2, 3], None, 1, 27).is_err());
        assert!(tensor(&[3, 2], Some(&[1, 3]), 0, 24).is_ok());
        assert!(tensor(&[3, 2], Some(&[1, 3]), 1, 24).is_err());
        assert!(tensor(&[1_000_000], Some(&[0]), 5, 24).is_ok());
        assert!(tensor(&[], None, 0, 4).is_ok());
        assert!(tensor(&[0, 7], Some(&[7, 1]), 100, 0).is_ok());
    }

    #[test]
    fn overflow_is_an_error() {
        let big = u64::MAX / 2;
        assert!(tensor(&[big, big], None, 0, 8).is_err());
        assert!(tensor(&[2], Some(&[u64::MAX]), 1, 8).is_err());
        assert!(tensor(&[2], None, u64::MAX, 8).is_err());
        assert!(tensor(&[u64::MAX], Some(&[0]), 0, 8).is_err());
        assert!(tensor(&[1; 65], None, 0, 4).is_err());
        assert!(tensor(&[2, 3], Some(&[1]), 0, 24).is_err());
    }

    #[test]
    fn row_major_strides_are_dropped() {
        assert_eq!(tensor(&[2, 1, 3], Some(&[3, 99, 1]), 0, 24).unwrap().strides, None);
        assert_eq!(tensor(&[3, 2], Some(&[1, 3]), 0, 24).unwrap().strides, Some(vec![1, 3]));
    }
}
