//! What a tensor file holds: described from its headers, read when asked.

use std::path::Path;
use std::sync::Arc;

use super::packed::Packed;
use crate::dump::Location;
use crate::tensor::{check_bounds, is_row_major};
use crate::{Result, Storage, Tensor, TensorInfo};

/// One tensor of a file.
#[derive(Debug)]
pub struct Entry {
    /// Its name; empty in a file that holds a single tensor without one.
    pub key: String,
    /// The tensor, or why it cannot be read. One bad tensor does not spoil the others.
    pub view: Result<View>,
}

/// A tensor known from a header: in bounds of the bytes it is made of, which may still have to be inflated.
#[derive(Debug)]
pub struct View {
    info: TensorInfo,
    strides: Option<Vec<u64>>,
    first: u64,
    bytes: Bytes,
    path: Arc<Path>,
    notes: Vec<String>,
}

#[derive(Debug)]
enum Bytes {
    Ready(Storage),
    Packed(Packed),
}

impl View {
    /// A view of bytes that lie readable in the file.
    pub(super) fn ready(
        info: TensorInfo,
        strides: Option<Vec<u64>>,
        first: u64,
        storage: Storage,
        path: &Arc<Path>,
    ) -> Result<Self> {
        Self::of(info, strides, first, Bytes::Ready(storage), path)
    }

    /// A view of bytes that may have to be made first.
    pub(super) fn packed(
        info: TensorInfo,
        strides: Option<Vec<u64>>,
        first: u64,
        packed: Packed,
    ) -> Result<Self> {
        let path = Arc::clone(&packed.input.path);
        let bytes = if packed.is_plain() { Bytes::Ready(packed.storage()?) } else { Bytes::Packed(packed) };
        Self::of(info, strides, first, bytes, &path)
    }

    fn of(
        info: TensorInfo,
        strides: Option<Vec<u64>>,
        first: u64,
        bytes: Bytes,
        path: &Arc<Path>,
    ) -> Result<Self> {
        let len = match &bytes {
            Bytes::Ready(storage) => storage.len(),
            Bytes::Packed(packed) => packed.data_len(),
        };
        check_bounds(&info, strides.as_deref(), first, len, path)?;
        let strides = strides.filter(|strides| !is_row_major(&info.shape, strides));
        Ok(Self { info, strides, first, bytes, path: Arc::clone(path), notes: Vec::new() })
    }

    /// Adds what the user should know.
    pub(super) fn with_notes(mut self, notes: Vec<String>) -> Self {
        self.notes.extend(notes);
        self
    }

    /// Dtype and shape, without reading the data.
    #[must_use]
    pub fn info(&self) -> &TensorInfo {
        &self.info
    }

    /// What the reader noticed.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The tensor. Compressed and big-endian data is made now, in memory or in an unlinked temporary file.
    ///
    /// # Errors
    /// When compressed data is damaged, or no temporary file can be written.
    pub fn tensor(&self) -> Result<Tensor> {
        let storage = match &self.bytes {
            Bytes::Ready(storage) => storage.clone(),
            Bytes::Packed(packed) => packed.storage()?,
        };
        let mut tensor =
            Tensor::new(self.info.clone(), self.strides.clone(), self.first, storage, &self.path)?;
        tensor.notes.clone_from(&self.notes);
        Ok(tensor)
    }
}

impl Entry {
    /// Where the tensor is found again, without parsing the file's headers where that can be avoided.
    #[must_use]
    pub fn location(&self, file: &Path) -> Location {
        if let Ok(View { info, strides: None, first: 0, bytes: Bytes::Ready(storage), notes, .. }) =
            &self.view
            && let Storage::File { offset, len, .. } = storage
            && notes.is_empty()
        {
            let key = self.key.clone();
            let (offset, len, info) = (*offset, *len, info.clone());
            return Location::Region { file: file.into(), key, offset, len, info };
        }
        if self.key.is_empty() {
            return Location::File(file.into());
        }
        Location::Member { file: file.into(), key: self.key.clone() }
    }
}
