//! An open file that is only read where its length says there is something to read.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use crate::{Error, Result, Storage};

/// A regular file, open for positional reads.
#[derive(Clone, Debug)]
pub(crate) struct Input {
    pub(crate) file: Arc<File>,
    pub(crate) path: Arc<Path>,
    /// Length when it was opened.
    pub(crate) len: u64,
}

impl Input {
    /// Opens a regular file. Anything else is refused before opening: a pipe would block for ever.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let kind = std::fs::metadata(path).map_err(Error::io("open", path))?;
        if kind.is_dir() {
            return Err(Error::refused(path, "this is a directory, not a tensor file"));
        }
        if !kind.is_file() {
            return Err(Error::refused(path, "this is neither a file nor a directory"));
        }
        let file = File::open(path).map_err(Error::io("open", path))?;
        let len = file.metadata().map_err(Error::io("read the length of", path))?.len();
        Ok(Self { file: Arc::new(file), path: path.into(), len })
    }

    /// Checks that a range of the file exists.
    pub(crate) fn check(&self, what: &str, offset: u64, len: u64) -> Result<()> {
        if offset.checked_add(len).is_some_and(|end| end <= self.len) {
            return Ok(());
        }
        let expected = format!("{len} bytes at offset {offset}");
        Err(Error::malformed(&self.path, what, expected, format!("a file of {} bytes", self.len)))
    }

    /// Reads a range that must exist.
    pub(crate) fn read_at(&self, what: &str, offset: u64, out: &mut [u8]) -> Result<()> {
        self.check(what, offset, out.len() as u64)?;
        self.file.read_exact_at(out, offset).map_err(Error::io("read", &self.path))
    }

    /// Reads a range that must exist; nothing is allocated before that is known.
    pub(crate) fn bytes(&self, what: &str, offset: u64, len: u64) -> Result<Vec<u8>> {
        self.check(what, offset, len)?;
        let mut out = vec![0; len as usize];
        self.read_at(what, offset, &mut out)?;
        Ok(out)
    }

    /// A range of the file as the storage of a tensor.
    pub(crate) fn storage(&self, what: &str, offset: u64, len: u64) -> Result<Storage> {
        self.check(what, offset, len)?;
        Ok(Storage::File { file: Arc::clone(&self.file), path: Arc::clone(&self.path), offset, len })
    }

    /// Reads a range from its start, whatever other readers of the file do.
    pub(crate) fn section(&self, offset: u64, len: u64) -> Section<'_> {
        Section { file: &self.file, offset, left: len }
    }
}

/// Sequential reading of one range.
pub(crate) struct Section<'a> {
    file: &'a File,
    offset: u64,
    left: u64,
}

impl Read for Section<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let want = out.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let got = self.file.read_at(&mut out[..want], self.offset)?;
        self.offset += got as u64;
        self.left -= got as u64;
        Ok(got)
    }
}
