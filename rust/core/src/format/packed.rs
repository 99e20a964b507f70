//! Bytes that must be made before they can be read: inflated out of an archive, or swapped to little-endian.

use std::io::{BufReader, ErrorKind, Read, Write};
use std::path::Path;
use std::sync::Arc;

use flate2::Crc;
use flate2::read::DeflateDecoder;

use super::input::Input;
use crate::{Error, Result, Storage};

/// Beyond this the bytes go to an unlinked temporary file: many threads hold such tensors at a time.
const MEMORY_LIMIT: u64 = 8 << 20;
/// The largest window that zstd may ask for, as a power of two: 8 MB, up to level 19's.
const WINDOW_LOG: u32 = 23;

/// How a range of a file is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    Stored,
    Deflated,
    Zstd,
}

impl Coding {
    /// The most bytes that one coded byte can stand for; who claims more is lying about a size.
    fn best_ratio(self) -> u64 {
        match self {
            Self::Stored => 1,
            Self::Deflated => 1032,
            // A block of up to 128 KiB that repeats one byte takes four.
            Self::Zstd => 1 << 15,
        }
    }
}

/// A range of a file and what to do to it.
#[derive(Clone, Debug)]
pub(super) struct Packed {
    pub(super) input: Input,
    /// First byte in the file.
    pub(super) offset: u64,
    /// Bytes in the file.
    pub(super) coded_len: u64,
    pub(super) coding: Coding,
    /// Bytes when decoded.
    pub(super) len: u64,
    /// Checksum of the decoded bytes, where the archive has one.
    pub(super) crc: Option<u32>,
    /// Bytes of a header at the start of the decoded bytes that are no tensor data.
    pub(super) skip: u64,
    /// Bytes per number when the numbers are big-endian; 1 for little-endian.
    pub(super) swap: usize,
}

impl Packed {
    /// Length of the tensor data.
    pub(super) fn data_len(&self) -> u64 {
        self.len.saturating_sub(self.skip)
    }

    /// Whether the bytes can be used as they lie in the file.
    pub(super) fn is_plain(&self) -> bool {
        self.coding == Coding::Stored && self.swap <= 1
    }

    /// The decoded bytes from their start, header included.
    pub(super) fn reader(&self) -> Result<Box<dyn Read + '_>> {
        self.input.check("archive member", self.offset, self.coded_len)?;
        self.check_ratio()?;
        let section = self.input.section(self.offset, self.coded_len);
        Ok(match self.coding {
            Coding::Stored => Box::new(BufReader::new(section)),
            Coding::Deflated => Box::new(DeflateDecoder::new(section)),
            Coding::Zstd => {
                let mut decoder =
                    zstd::Decoder::new(section).map_err(Error::io("inflate", &self.input.path))?;
                decoder.window_log_max(WINDOW_LOG).map_err(Error::io("inflate", &self.input.path))?;
                Box::new(decoder)
            }
        })
    }

    /// Refuses a size that the coded bytes cannot have.
    fn check_ratio(&self) -> Result<()> {
        let best = self.coding.best_ratio();
        if self.len / best <= self.coded_len {
            return Ok(());
        }
        Err(Error::malformed(
            &self.input.path,
            "compressed data",
            format!("at most {best} bytes from each of {}", self.coded_len),
            format!("{} bytes claimed", self.len),
        ))
    }

    /// The tensor data as a storage: the file itself where nothing has to be done to the bytes.
    pub(super) fn storage(&self) -> Result<Storage> {
        if self.is_plain() {
            return self.input.storage("tensor data", self.offset + self.skip, self.data_len());
        }
        let mut source = Decoded { reader: self.reader()?, packed: self, crc: Crc::new() };
        let mut header = self.skip;
        let mut block = vec![0; 1 << 16];
        while header > 0 {
            let step = header.min(block.len() as u64) as usize;
            source.fill(&mut block[..step])?;
            header -= step as u64;
        }
        if self.data_len() <= MEMORY_LIMIT {
            let mut bytes: Arc<[u8]> = std::iter::repeat_n(0, self.data_len() as usize).collect();
            let out = Arc::get_mut(&mut bytes).expect("nobody else holds it yet");
            source.fill(out)?;
            source.finish()?;
            swap_bytes(out, self.swap);
            return Ok(Storage::Memory(bytes));
        }
        let path = &self.input.path;
        let mut file = tempfile::tempfile().map_err(Error::io("make a temporary file to inflate", path))?;
        let mut left = self.data_len();
        while left > 0 {
            let step = left.min(block.len() as u64) as usize;
            source.fill(&mut block[..step])?;
            // The block's length is a multiple of every number's size, so no number straddles two blocks.
            swap_bytes(&mut block[..step], self.swap);
            file.write_all(&block[..step]).map_err(Error::io("write a temporary file to inflate", path))?;
            left -= step as u64;
        }
        source.finish()?;
        let (file, path) = (Arc::new(file), Arc::clone(path));
        Ok(Storage::File { file, path, offset: 0, len: self.data_len() })
    }
}

/// Decoded bytes with a running checksum.
struct Decoded<'a> {
    reader: Box<dyn Read + 'a>,
    packed: &'a Packed,
    crc: Crc,
}

impl Decoded<'_> {
    fn fill(&mut self, out: &mut [u8]) -> Result<()> {
        let path = &self.packed.input.path;
        let len = self.packed.len;
        self.reader.read_exact(out).map_err(|error| undecoded(path, "compressed data", len, error))?;
        self.crc.update(out);
        Ok(())
    }

    fn finish(self) -> Result<()> {
        match self.packed.crc {
            Some(crc) if crc != self.crc.sum() => Err(Error::malformed(
                &self.packed.input.path,
                "archive member",
                format!("checksum {crc:08x}"),
                format!("{:08x}", self.crc.sum()),
            )),
            _ => Ok(()),
        }
    }
}

/// Why `len` bytes could not be decoded.
pub(super) fn undecoded(
    path: &Path,
    what: &str,
    len: impl std::fmt::Display,
    error: std::io::Error,
) -> Error {
    match error.kind() {
        // What a decoder calls invalid is the file's fault, not the operating system's; zstd calls everything other.
        ErrorKind::UnexpectedEof | ErrorKind::InvalidData | ErrorKind::InvalidInput | ErrorKind::Other => {
            Error::malformed(path, what, format!("{len} bytes when inflated"), error.to_string())
        }
        _ => Error::io("read", path)(error),
    }
}

/// Reverses each number of `size` bytes.
fn swap_bytes(bytes: &mut [u8], size: usize) {
    if size > 1 {
        for number in bytes.chunks_exact_mut(size) {
            number.reverse();
        }
    }
}
