//! Tensor file formats: one file each, one line each in the table below.
//!
//! Reading locates tensors and checks that they are in bounds; their data is not read. No format is ever
//! unpickled, and no number of a header is believed before the file is known to hold that much.

mod atb_alias;
pub mod atb_bin;
mod cache;
mod entry;
mod ge_dtype;
pub(crate) mod ge_dump;
mod ge_nano;
mod input;
mod npy;
mod npz;
mod packed;
mod pickle;
mod safetensors;
pub mod safetensors_zst;
#[cfg(test)]
mod testing;
mod torch_zip;
mod wire;
mod zip;

use std::path::Path;
use std::sync::Arc;

pub use entry::{Entry, View};

use crate::dump::Location;
use crate::{Error, Result, Tensor};
use input::Input;

/// One format.
struct Format {
    /// What a user calls it.
    name: &'static str,
    /// Its usual suffixes, lower case.
    suffixes: &'static [&'static str],
    /// Whether the start of a file (and its name's suffix being no help) shows this format.
    sniff: fn(&[u8], &Input) -> bool,
    /// Finds the tensors.
    parse: fn(&Input) -> Result<Vec<Entry>>,
}

static FORMATS: [Format; 7] = [
    Format { name: "npy", suffixes: &["npy"], sniff: |s, _| s.starts_with(npy::MAGIC), parse: npy::parse },
    Format { name: "torch", suffixes: &["pt", "pth"], sniff: is_torch_zip, parse: torch_zip::parse },
    Format { name: "npz", suffixes: &["npz"], sniff: |s, _| is_zip(s), parse: npz::parse },
    Format { name: "ATB", suffixes: &["bin"], sniff: |s, _| atb_bin::looks_like(s), parse: atb_bin::parse },
    Format {
        name: "safetensors",
        suffixes: &["safetensors"],
        sniff: is_safetensors,
        parse: safetensors::parse,
    },
    Format {
        name: "safetensors.zst",
        suffixes: &["zst"],
        sniff: |s, _| s.starts_with(safetensors_zst::MAGIC),
        parse: safetensors_zst::parse,
    },
    // Its files have no suffix and no mark, so that it is asked last.
    Format { name: "GE", suffixes: &[], sniff: ge_dump::looks_like, parse: ge_dump::parse },
];

/// The tensors of one file, described.
#[derive(Debug)]
pub struct Contents {
    /// In stored order.
    pub entries: Vec<Entry>,
}

/// Whether a path has the suffix of a tensor file.
#[must_use]
pub fn is_tensor_file(path: &Path) -> bool {
    by_suffix(path).is_some()
}

/// Describes every tensor of a file without reading data.
///
/// # Errors
/// When the file as a whole cannot be read; a single tensor that cannot is an entry with its reason.
pub fn contents(path: &Path) -> Result<Arc<Contents>> {
    cache::remembered(path, |path| {
        let input = Input::open(path)?;
        let entries = format_of(&input)?;
        Ok(Contents { entries: (entries.parse)(&input)? })
    })
}

/// Locates one tensor of a file. Without a key the file must hold a single tensor.
///
/// # Errors
/// When the file or the tensor cannot be read, or there is no tensor of that name.
pub fn open(path: &Path, key: Option<&str>) -> Result<Tensor> {
    let contents = contents(path)?;
    let entries = &contents.entries;
    let entry = match key {
        Some(key) => entries.iter().find(|entry| entry.key == key),
        None => match entries.as_slice() {
            [one] => Some(one),
            entries => entries.iter().find(|entry| entry.key.is_empty()),
        },
    };
    match entry {
        Some(Entry { view: Ok(view), .. }) => view.tensor(),
        Some(Entry { view: Err(error), .. }) => Err(error.clone()),
        None => Err(Error::not_found(path, no_such_tensor(entries, key))),
    }
}

/// Locates every tensor of a file, in stored order. A file with a single unnamed tensor gives it the name "".
///
/// # Errors
/// When the file or one of its tensors cannot be read; [`contents`] tells which one.
pub fn entries(path: &Path) -> Result<Vec<(String, Tensor)>> {
    let contents = contents(path)?;
    let read = |entry: &Entry| match &entry.view {
        Ok(view) => Ok((entry.key.clone(), view.tensor()?)),
        Err(error) => Err(error.clone()),
    };
    contents.entries.iter().map(read).collect()
}

/// Locates the tensor of a dump's record.
///
/// # Errors
/// When there is none, or it cannot be read.
pub fn open_location(location: &Location) -> Result<Tensor> {
    match location {
        Location::File(path) => open(path, None),
        Location::Member { file, key } => open(file, Some(key)),
        Location::Region { file, offset, len, info, .. } => {
            let input = Input::open(file)?;
            let storage = input.storage("tensor data", *offset, *len)?;
            Tensor::new(info.clone(), None, 0, storage, file)
        }
        Location::Nowhere => Err(Error::Invalid(
            "the producer left a description or statistics of this tensor, no data".into(),
        )),
    }
}

fn no_such_tensor(entries: &[Entry], key: Option<&str>) -> String {
    let names: Vec<&str> = entries.iter().take(10).map(|entry| entry.key.as_str()).collect();
    let more = if entries.len() > names.len() { ", …" } else { "" };
    let held = match names.as_slice() {
        [] => "the file holds no tensors".to_owned(),
        names => format!("the file holds {}: {}{more}", entries.len(), names.join(", ")),
    };
    match key {
        Some(key) => format!("no tensor {key:?}; {held}"),
        None if entries.is_empty() => held,
        None => format!("several tensors, name one of them; {held}"),
    }
}

fn by_suffix(path: &Path) -> Option<&'static Format> {
    let suffix = path.extension()?.to_str()?.to_ascii_lowercase();
    FORMATS.iter().find(|format| format.suffixes.contains(&suffix.as_str()))
}

/// The format of a file: what its suffix says, unless the suffix is shared or says nothing.
fn format_of(input: &Input) -> Result<&'static Format> {
    let mut start = [0; 512];
    let len = start.len().min(usize::try_from(input.len).unwrap_or(usize::MAX));
    if len == 0 {
        return Err(Error::malformed(&input.path, "file", "a tensor", "an empty file"));
    }
    input.read_at("start of the file", 0, &mut start[..len])?;
    let start = &start[..len];
    let named = by_suffix(&input.path);
    match named {
        // torch.save is used with .bin too, and legacy pickles hide behind any suffix.
        Some(format) if format.name == "ATB" && is_zip(start) => {}
        Some(format) if format.name == "torch" && !is_zip(start) => return Err(not_a_zip(start, input)),
        Some(format) => return Ok(format),
        None => {}
    }
    FORMATS.iter().find(|format| (format.sniff)(start, input)).ok_or_else(|| not_a_zip(start, input))
}

/// Why a file that should be torch's, or could be anything, is not read.
fn not_a_zip(start: &[u8], input: &Input) -> Error {
    let is_tar = start.get(257..262) == Some(b"ustar");
    let reason = match start {
        [0x80, 0..=5, ..] => {
            "a bare pickle, as torch.save wrote before version 1.6: only unpickling could read it, and llmdbg never \
             runs code from a dump; load it where you trust it and torch.save it again with torch 1.6 or newer"
        }
        _ if is_tar => {
            "a tar file, as torch wrote before version 0.1.10; torch.save it again with torch 1.6 or newer"
        }
        _ => {
            "the content is of no known format (ATB .bin, .npy, .npz, torch .pt and .pth, .safetensors, .safetensors.zst, GE dumps)"
        }
    };
    Error::refused(&input.path, reason)
}

fn is_zip(start: &[u8]) -> bool {
    start.starts_with(b"PK\x03\x04") || start.starts_with(b"PK\x05\x06")
}

fn is_torch_zip(start: &[u8], input: &Input) -> bool {
    let is_main = |member: &zip::Member| member.name == "data.pkl" || member.name.ends_with("/data.pkl");
    is_zip(start) && zip::members(input).is_ok_and(|members| members.iter().any(is_main))
}

fn is_safetensors(start: &[u8], input: &Input) -> bool {
    let len = start.first_chunk().map(|len| u64::from_le_bytes(*len));
    len.is_some_and(|len| len < input.len) && start.get(8) == Some(&b'{')
}
