//! Memory maps, for handing the bytes of a tensor to Python without copying them.
//!
//! Scans use positional reads instead: those are faster on a warm page cache, and a file that shrinks meanwhile
//! is an error there. Under a map it is a SIGBUS, so a map is only made of what the file holds at that moment,
//! and whoever keeps one must not let the file be truncated.

use std::path::Path;
use std::sync::Arc;

use memmap2::{Mmap, MmapOptions};

use crate::{Error, Result, Storage};

/// The bytes of a storage, readable in place.
#[derive(Debug)]
pub enum Mapped {
    /// Pages of the file.
    File(Mmap),
    /// Bytes in memory: those that were there already, those computed, and what is left of a map of nothing.
    Memory(Arc<[u8]>),
}

impl Mapped {
    /// Maps a storage.
    ///
    /// # Errors
    /// When the file has become shorter than the storage, or cannot be mapped.
    pub fn new(storage: &Storage) -> Result<Self> {
        match storage {
            Storage::Memory(bytes) => Ok(Self::Memory(Arc::clone(bytes))),
            Storage::File { len: 0, .. } => Ok(Self::Memory(Arc::from([]))),
            Storage::Computed(_) => {
                let mut bytes = vec![0; storage.len() as usize];
                storage.read(0, &mut bytes)?;
                Ok(Self::Memory(bytes.into()))
            }
            Storage::File { file, path, offset, len } => map(file, path, *offset, *len).map(Self::File),
        }
    }
}

impl std::ops::Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::File(map) => map,
            Self::Memory(bytes) => bytes,
        }
    }
}

#[expect(
    unsafe_code,
    reason = "a map is only sound while the file is not changed, which no type can promise"
)]
fn map(file: &std::fs::File, path: &Path, offset: u64, len: u64) -> Result<Mmap> {
    let held = file.metadata().map_err(Error::io("read the length of", path))?.len();
    if offset.checked_add(len).is_none_or(|end| end > held) {
        let expected = format!("{len} bytes at offset {offset}");
        return Err(Error::malformed(path, "tensor data", expected, format!("a file of {held} bytes")));
    }
    // SAFETY: the range lies inside the file as checked above, and the map is read-only. Dumps are
    // finished files; one that is truncated while mapped ends the process with SIGBUS, as documented above, and
    // one that is rewritten shows other numbers, which is no undefined behaviour of code that reads plain bytes.
    unsafe { MmapOptions::new().offset(offset).len(len as usize).map(file) }.map_err(Error::io("map", path))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn storage(len: u64) -> Storage {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[0, 1, 2, 3, 4, 5, 6, 7]).unwrap();
        Storage::File { file: Arc::new(file), path: Path::new("t").into(), offset: 3, len }
    }

    #[test]
    fn maps_at_any_offset() {
        assert_eq!(&*Mapped::new(&storage(4)).unwrap(), &[3, 4, 5, 6]);
        assert!(Mapped::new(&storage(0)).unwrap().is_empty());
    }

    #[test]
    fn a_file_that_shrank_is_an_error() {
        assert!(matches!(Mapped::new(&storage(6)), Err(Error::Malformed { .. })));
    }
}
