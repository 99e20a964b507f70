//! `.safetensors`: a length, a JSON header, the bytes.

use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use super::entry::{Entry, View};
use super::input::Input;
use crate::{DType, Error, Result, TensorInfo};

/// The limit of the reference implementation.
const MAX_HEADER: u64 = 100_000_000;

/// Every tensor, in the order of its bytes.
pub(super) fn parse(input: &Input) -> Result<Vec<Entry>> {
    let mut len = [0; 8];
    input.read_at("safetensors header", 0, &mut len)?;
    let len = header_len(&input.path, len)?;
    let header = tensors(&input.path, &input.bytes("safetensors header", 8, len)?)?;
    let view = |key: &str, described: &Described| {
        let (info, from) = checked(&input.path, key, described)?;
        let need = described.data_offsets.1 - from;
        let offset = (8 + len).saturating_add(from);
        let storage = input.storage(&format!("safetensors entry {key:?}"), offset, need)?;
        View::ready(info, None, 0, storage, &input.path)
    };
    Ok(header.into_iter().map(|(key, described)| Entry { view: view(&key, &described), key }).collect())
}

/// Length of the header that the file's first bytes announce.
pub(super) fn header_len(path: &Path, bytes: [u8; 8]) -> Result<u64> {
    let len = u64::from_le_bytes(bytes);
    if len > MAX_HEADER {
        let expected = format!("at most {MAX_HEADER} bytes");
        return Err(Error::malformed(path, "safetensors header", expected, format!("{len} bytes")));
    }
    Ok(len)
}

/// The tensors that a header describes, in the order of their bytes.
pub(super) fn tensors(path: &Path, header: &[u8]) -> Result<Vec<(String, Described)>> {
    let header: Header = serde_json::from_slice(header).map_err(|error| {
        Error::malformed(path, "safetensors header", "JSON that describes tensors", error.to_string())
    })?;
    let mut tensors = header.0;
    tensors.sort_by_key(|(_, described)| described.data_offsets);
    Ok(tensors)
}

/// What a tensor is and where its bytes begin behind the header; they are as many as its shape needs.
pub(super) fn checked(path: &Path, key: &str, described: &Described) -> Result<(TensorInfo, u64)> {
    let what = || format!("safetensors entry {key:?}");
    let Some(dtype) = DType::from_safetensors(&described.dtype) else {
        let reason = format!("entry {key:?} has dtype {:?}, which llmdbg does not know", described.dtype);
        return Err(Error::refused(path, reason));
    };
    let (from, to) = described.data_offsets;
    let Some(len) = to.checked_sub(from) else {
        return Err(Error::malformed(path, what(), "offsets in order", format!("{from} to {to}")));
    };
    let info = TensorInfo::new(dtype, described.shape.clone());
    let need = info.checked_numel().and_then(|n| n.checked_mul(dtype.size() as u64));
    if need != Some(len) {
        let expected = need.map_or("a size below 2^64".to_owned(), |need| need.to_string());
        let expected = format!("{expected} bytes for {info}");
        return Err(Error::malformed(path, what(), expected, format!("{len} bytes")));
    }
    Ok((info, from))
}

/// One tensor of a header.
#[derive(Deserialize)]
pub(super) struct Described {
    dtype: String,
    shape: Vec<u64>,
    /// First byte and the one behind the last, counted from the header's end.
    pub(super) data_offsets: (u64, u64),
}

/// The header's tensors. A map type would silently keep the last of two equal names.
struct Header(Vec<(String, Described)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Header, A::Error> {
        let mut tensors = Vec::new();
        let mut names = std::collections::BTreeSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if !names.insert(name.clone()) {
                return Err(serde::de::Error::custom(format!("two tensors called {name:?}")));
            }
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
            } else {
                tensors.push((name, map.next_value()?));
            }
        }
        Ok(Header(tensors))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::{bytes_of, mutated, read, small_tensor, survives};

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
    }

    proptest! {
        #[test]
        fn round_trip((dtype, shape, data) in small_tensor(|row| row.safetensors.is_some())) {
            let name = dtype.row().safetensors.unwrap();
            let len = data.len();
            let header = format!(
                r#"{{"__metadata__":{{"a":"b"}},"z":{{"dtype":"U8","shape":[2],"data_offsets":[{len},{}]}},
                    "x":{{"dtype":"{name}","shape":{shape:?},"data_offsets":[0,{len}]}}}}"#,
                len + 2
            );
            let mut got = read(".safetensors", &file(&header, &[&data[..], &[8, 9]].concat())).unwrap();
            // Stored order is the order of the bytes; an empty tensor ties with the one behind it.
            got.sort_by(|a, b| a.0.cmp(&b.0));
            let x = got[0].1.as_ref().unwrap();
            prop_assert_eq!((x.info.dtype, &x.info.shape), (dtype, &shape));
            prop_assert_eq!(bytes_of(x), data);
            prop_assert_eq!(bytes_of(got[1].1.as_ref().unwrap()), &[8, 9]);
        }

        #[test]
        fn mutations_survive(bytes in mutated(vec![file(
            r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"BF16","shape":[],"data_offsets":[8,10]}}"#,
            &[1; 10],
        )])) {
            survives(".safetensors", &bytes);
        }
    }
}
