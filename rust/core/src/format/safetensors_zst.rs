//! `.safetensors.zst`: a safetensors file through zstd, which `zstd -d` gives back.
//!
//! Our capture writes the header and every tensor as frames of their own, and behind them the seek table of zstd's
//! seekable format (`contrib/seekable_format`), so that a tensor is inflated without those before it. Of a file without
//! the table every tensor is inflated from the start.

use std::io::Read;

use super::entry::{Entry, View};
use super::input::Input;
use super::packed::{Coding, Packed, undecoded};
use super::safetensors::{checked, header_len, tensors};
use crate::{Error, Result};

pub(super) const MAGIC: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
/// Above it activations hardly get smaller, only slower.
const LEVEL: i32 = 1;
/// Begins the skippable frame that holds the table.
const TABLE_MAGIC: u32 = 0x184d_2a5e;
/// Ends the table.
const FOOTER_MAGIC: u32 = 0x8f92_eab1;
const FOOTER: u64 = 9;
/// Set in the footer's descriptor where each entry has a checksum.
const HAS_CHECKSUMS: u8 = 0x80;

/// Where a frame begins, in the file and in what it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Place {
    coded: u64,
    plain: u64,
}

/// Every tensor, in the order of its bytes.
pub(super) fn parse(input: &Input) -> Result<Vec<Entry>> {
    let places = table(input)?;
    // Of the length it will have nothing is known yet.
    let whole = Packed { len: 0, ..packed(input, &places, 0, u64::MAX) };
    let mut start = whole.reader()?;
    let mut read = |out: &mut [u8]| {
        start.read_exact(out).map_err(|error| undecoded(&input.path, "safetensors header", out.len(), error))
    };
    let mut len = [0; 8];
    read(&mut len)?;
    let len = header_len(&input.path, len)?;
    // Grown as it is read: a few bytes may claim a header of any length.
    let mut header = Vec::new();
    while (header.len() as u64) < len {
        let old = header.len();
        header.resize(old + (len - old as u64).min(1 << 16) as usize, 0);
        read(&mut header[old..])?;
    }
    let view = |range: (u64, u64), info| {
        let from = (8 + len).saturating_add(range.0);
        View::packed(info, None, 0, packed(input, &places, from, range.1 - range.0))
    };
    let found = tensors(&input.path, &header)?;
    Ok(found
        .into_iter()
        .map(|(key, described)| Entry {
            view: checked(&input.path, &key, &described)
                .and_then(|(info, _)| view(described.data_offsets, info)),
            key,
        })
        .collect())
}

/// One frame that holds `bytes`, with their checksum.
///
/// # Errors
/// When zstd has no memory left.
pub fn frame(bytes: &[u8]) -> Result<Vec<u8>> {
    let failed = |error: std::io::Error| Error::Invalid(format!("zstd: {error}"));
    let mut compressor = zstd::bulk::Compressor::new(LEVEL).map_err(failed)?;
    compressor.include_checksum(true).map_err(failed)?;
    compressor.compress(bytes).map_err(failed)
}

/// The frames that hold `len` bytes from `from` on.
fn packed(input: &Input, places: &[Place], from: u64, len: u64) -> Packed {
    let first = places[places.partition_point(|place| place.plain <= from).saturating_sub(1)];
    let end = from.saturating_add(len);
    // The last place is the end.
    let last = places.partition_point(|place| place.plain < end).min(places.len() - 1);
    let skip = from - first.plain;
    Packed {
        input: input.clone(),
        offset: first.coded,
        coded_len: places[last].coded.saturating_sub(first.coded),
        coding: Coding::Zstd,
        len: skip.saturating_add(len),
        crc: None,
        skip,
        swap: 1,
    }
}

/// The places of all frames and of the end; only these two where there is no table.
fn table(input: &Input) -> Result<Vec<Place>> {
    let mut footer = [0; FOOTER as usize];
    let end = Place { coded: input.len, plain: u64::MAX };
    if input.len < FOOTER {
        return Ok(vec![Place::default(), end]);
    }
    input.read_at("seek table", input.len - FOOTER, &mut footer)?;
    let word = |bytes: &[u8]| bytes.first_chunk().map_or(0, |word| u32::from_le_bytes(*word));
    if word(&footer[5..]) != FOOTER_MAGIC {
        return Ok(vec![Place::default(), end]);
    }
    let frames = u64::from(word(&footer));
    let each: usize = if footer[4] & HAS_CHECKSUMS == 0 { 8 } else { 12 };
    let content = frames * each as u64 + FOOTER;
    let malformed =
        |expected: &str, found: String| Error::malformed(&input.path, "seek table", expected, found);
    let Some(start) = input.len.checked_sub(content + 8) else {
        return Err(malformed("a table that fits into the file", format!("{frames} frames")));
    };
    let bytes = input.bytes("seek table", start, content + 8)?;
    if word(&bytes) != TABLE_MAGIC || u64::from(word(&bytes[4..])) != content {
        return Err(malformed("a skippable frame of its size", format!("{:02x?}", &bytes[..8])));
    }
    let mut place = Place::default();
    let mut places = vec![place];
    for entry in bytes[8..bytes.len() - FOOTER as usize].chunks_exact(each) {
        place.coded += u64::from(word(entry));
        place.plain += u64::from(word(&entry[4..]));
        places.push(place);
    }
    if place.coded != start {
        return Err(malformed("frames up to the table", format!("{} of {start} bytes", place.coded)));
    }
    Ok(places)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::{bytes_of, mutated, read, survives};

    const HEADER: &str = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"U8","shape":[3,4],"data_offsets":[8,20]},"c":{"dtype":"U8","shape":[0],"data_offsets":[20,20]}}"#;

    fn plain() -> Vec<u8> {
        let data: Vec<u8> = (1..=20).collect();
        [&(HEADER.len() as u64).to_le_bytes()[..], HEADER.as_bytes(), &data].concat()
    }

    /// The format's own words: sizes of every frame, their number, a descriptor, the magic; all of it skippable.
    fn seekable(parts: &[&[u8]]) -> Vec<u8> {
        let (mut bytes, mut table) = (Vec::new(), Vec::new());
        for part in parts {
            let frame = zstd::bulk::compress(part, 3).unwrap();
            table.extend((frame.len() as u32).to_le_bytes());
            table.extend((part.len() as u32).to_le_bytes());
            bytes.extend(frame);
        }
        table.extend((parts.len() as u32).to_le_bytes());
        table.push(0);
        table.extend(0x8f92_eab1_u32.to_le_bytes());
        bytes.extend(0x184d_2a5e_u32.to_le_bytes());
        bytes.extend((table.len() as u32).to_le_bytes());
        bytes.extend(table);
        bytes
    }

    fn frames() -> Vec<u8> {
        let plain = plain();
        let (head, data) = plain.split_at(8 + HEADER.len());
        // The second tensor lies in two frames.
        seekable(&[head, &data[..8], &data[8..15], &data[15..]])
    }

    #[test]
    fn tensors_come_back_with_and_without_a_table() {
        let plain = plain();
        for bytes in [frames(), zstd::bulk::compress(&plain, 3).unwrap(), seekable(&[&plain])] {
            let got = read(".safetensors.zst", &bytes).unwrap();
            let got: Vec<_> = got.into_iter().map(|(key, t)| (key, bytes_of(&t.unwrap()))).collect();
            let expected: Vec<(&str, Vec<u8>)> =
                vec![("a", (1..=8).collect()), ("b", (9..=20).collect()), ("c", Vec::new())];
            assert_eq!(got, expected.map_keys());
        }
    }

    trait MapKeys {
        fn map_keys(self) -> Vec<(String, Vec<u8>)>;
    }

    impl MapKeys for Vec<(&str, Vec<u8>)> {
        fn map_keys(self) -> Vec<(String, Vec<u8>)> {
            self.into_iter().map(|(key, bytes)| (key.to_owned(), bytes)).collect()
        }
    }

    #[test]
    fn what_is_cut_off_is_refused() {
        let whole = zstd::bulk::compress(&plain(), 3).unwrap();
        let got = read(".safetensors.zst", &whole[..whole.len() - 6]);
        assert!(got.is_err() || got.unwrap().iter().any(|(_, tensor)| tensor.is_err()));
        let table = frames();
        assert!(read(".safetensors.zst", &[&table[..20], &table[24..]].concat()).is_err());
    }

    #[test]
    fn few_bytes_do_not_become_many() {
        let header = r#"{"a":{"dtype":"U8","shape":[999999999999],"data_offsets":[0,999999999999]}}"#;
        let plain = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
        let got = read(".safetensors.zst", &zstd::bulk::compress(&plain, 3).unwrap()).unwrap();
        let message = got[0].1.as_ref().unwrap_err().to_string();
        // The header counts: it is inflated on the way to the tensor.
        let claimed = format!("{} bytes claimed", plain.len() as u64 + 999_999_999_999);
        assert!(message.contains(&claimed), "{message}");
    }

    proptest! {
        #[test]
        fn mutations_survive(bytes in mutated(vec![frames(), zstd::bulk::compress(&plain(), 3).unwrap()])) {
            survives(".safetensors.zst", &bytes);
        }
    }
}
