//! What the property tests of the formats share: files with given bytes, mutations, and the promise of a tensor.

use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;

use crate::{DType, Result, Storage, Tensor, dtype};

/// Describes and opens every tensor of a file with these bytes.
pub(super) fn read(suffix: &str, bytes: &[u8]) -> Result<Vec<(String, Result<Tensor>)>> {
    let mut file = tempfile::Builder::new().suffix(suffix).tempfile().expect("a temporary file");
    file.write_all(bytes).expect("room for the file");
    let contents = super::contents(file.path())?;
    let entries = contents.entries.iter();
    Ok(entries
        .map(|entry| {
            let tensor = match &entry.view {
                Ok(view) => view.tensor(),
                Err(error) => Err(error.clone()),
            };
            (entry.key.clone(), tensor)
        })
        .collect())
}

/// The only tensor of such a file.
pub(super) fn read_one(suffix: &str, bytes: &[u8]) -> Result<Tensor> {
    let mut all = read(suffix, bytes)?;
    assert_eq!(all.len(), 1);
    all.remove(0).1
}

/// The elements' bytes in row-major order, one element at a time.
pub(super) fn bytes_of(tensor: &Tensor) -> Vec<u8> {
    let size = tensor.info.dtype.size();
    let storage = match &tensor.storage {
        Storage::Memory(bytes) => bytes.to_vec(),
        Storage::File { file, offset, len, .. } => {
            let mut bytes = vec![0; *len as usize];
            file.read_exact_at(&mut bytes, *offset).expect("a storage inside its file");
            bytes
        }
        Storage::Computed(_) => unreachable!("files hold their bytes"),
    };
    let shape = &tensor.info.shape;
    let mut out = Vec::new();
    for index in 0..tensor.info.numel() {
        let (mut rest, mut at) = (index, tensor.first);
        let mut row_major = 1;
        for axis in (0..shape.len()).rev() {
            let stride = tensor.strides.as_ref().map_or(row_major, |strides| strides[axis]);
            at += rest % shape[axis] * stride;
            rest /= shape[axis];
            row_major *= shape[axis];
        }
        out.extend_from_slice(&storage[at as usize * size..][..size]);
    }
    out
}

/// Any bytes may be refused, but nothing may panic, and what is let through must be in bounds.
pub(super) fn survives(suffix: &str, bytes: &[u8]) {
    let Ok(entries) = read(suffix, bytes) else { return };
    for tensor in entries.into_iter().filter_map(|(_, tensor)| tensor.ok()) {
        if let Storage::File { file, offset, len, .. } = &tensor.storage {
            assert!(offset + len <= file.metadata().expect("an open file").len());
        }
        let (info, path) = (tensor.info.clone(), Path::new("again"));
        Tensor::new(info, tensor.strides.clone(), tensor.first, tensor.storage.clone(), path)
            .expect("a tensor in bounds");
    }
}

/// A dtype with a given property, a small shape, and as many bytes as they need.
pub(super) fn small_tensor(
    wanted: fn(&dtype::DTypeRow) -> bool,
) -> impl Strategy<Value = (DType, Vec<u64>, Vec<u8>)> {
    let dtypes: Vec<DType> = dtype::TABLE.iter().filter(|row| wanted(row)).map(|row| row.dtype).collect();
    (proptest::sample::select(dtypes), vec(0u64..5, 0..5)).prop_flat_map(|(dtype, shape)| {
        let len = shape.iter().product::<u64>() as usize * dtype.size();
        (Just(dtype), Just(shape), vec(any::<u8>(), len))
    })
}

/// A valid file with a few bytes changed, inserted, removed, doubled or cut off.
pub(super) fn mutated(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<proptest::sample::Index>(), 0..8u8, any::<u8>(), any::<proptest::sample::Index>());
    (proptest::sample::select(seeds), vec(change, 1..6)).prop_map(|(mut bytes, changes)| {
        for (index, kind, value, other) in changes {
            if bytes.is_empty() {
                break;
            }
            let at = index.index(bytes.len());
            let to = at + other.index(bytes.len() - at);
            match kind {
                0 | 1 => bytes[at] = value,
                2 => bytes[at] ^= 1 << (value % 8),
                3 => bytes.truncate(at),
                4 => drop(bytes.drain(at..to.min(at + 16))),
                5 => bytes.insert(at, value),
                6 => {
                    let piece = bytes[at..to].to_vec();
                    bytes.splice(at..at, piece);
                }
                _ => {
                    let end = bytes.len().min(at + 8);
                    bytes[at..end].fill(if value < 128 { 0xff } else { 0 });
                }
            }
        }
        bytes
    })
}

/// A zip with stored members.
pub(super) fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in members {
        let header = bytes.len() as u32;
        let mut common = vec![20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        common.extend((data.len() as u32).to_le_bytes());
        common.extend((data.len() as u32).to_le_bytes());
        common.extend((name.len() as u16).to_le_bytes());
        common.extend([0, 0]);
        bytes.extend(b"PK\x03\x04");
        bytes.extend(&common);
        bytes.extend(name.as_bytes());
        bytes.extend(*data);
        directory.extend(b"PK\x01\x02\x14\x00");
        directory.extend(&common);
        directory.extend([0; 10]);
        directory.extend(header.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let start = bytes.len() as u32;
    bytes.extend(&directory);
    bytes.extend(b"PK\x05\x06\0\0\0\0");
    bytes.extend([members.len() as u8, 0, members.len() as u8, 0]);
    bytes.extend((directory.len() as u32).to_le_bytes());
    bytes.extend(start.to_le_bytes());
    bytes.extend([0, 0]);
    bytes
}
