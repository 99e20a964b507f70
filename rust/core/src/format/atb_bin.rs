//! ATB's `.bin`: text lines `key=value` up to `$End=1`, then the bytes. Written in append mode, so a file can
//! hold several records one after the other.

use std::collections::BTreeMap;
use std::path::Path;

use super::atb_alias;
use super::entry::{Entry, View};
use super::input::Input;
use crate::dtype::Kind;
use crate::dump::ProducerStats;
use crate::{DType, Error, Result, TensorInfo};

const END: &str = "$End";
const MAX_LINES: usize = 8000;
const MAX_HEADER: usize = 1 << 20;
/// Headers have about 100 bytes; the first read nearly always suffices.
const FIRST_READ: usize = 4096;
const MAX_RECORDS: u32 = 1 << 20;

/// What a file says about its tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    /// Dtype, shape and `aclFormat`.
    pub info: TensorInfo,
    /// Statistics that the probe wrote instead of the data.
    pub stats: Option<ProducerStats>,
    /// Name of the file that holds the data, when this one only refers to it.
    pub alias: Option<String>,
    /// Complete records in the file; this is the last of them.
    pub records: u32,
    /// Offset and length of the data; `None` in a file that only describes a tensor.
    pub data: Option<(u64, u64)>,
    /// What the reader noticed.
    pub notes: Vec<String>,
}

/// Reads what a file says about its tensor, without its data.
///
/// # Errors
/// When the file is no ATB file, is cut off, or its numbers contradict each other.
pub fn header(path: &Path) -> Result<Header> {
    read(&Input::open(path)?)
}

/// The one tensor of a file, an alias followed to the data.
pub(super) fn parse(input: &Input) -> Result<Vec<Entry>> {
    let header = read(input)?;
    if let Some((offset, len)) = header.data {
        let storage = input.storage("tensor data", offset, len)?;
        let view = View::ready(header.info, None, 0, storage, &input.path)?.with_notes(header.notes);
        return Ok(vec![Entry { key: String::new(), view: Ok(view) }]);
    }
    if let Some(alias) = &header.alias {
        let (target, found) = atb_alias::resolve(&input.path, alias)?;
        let Some((offset, len)) = found.data else {
            return Err(Error::refused(&input.path, format!("alias of {alias}, which holds no data either")));
        };
        // Shapes that a reader makes up (no dims, unknown packing) need the data to be known.
        let told = header.info.dtype.kind() != Kind::Raw && !header.info.shape.is_empty();
        if found.info.dtype != header.info.dtype || told && found.info.shape != header.info.shape {
            let what = format!("alias of {alias}");
            return Err(Error::malformed(&input.path, what, header.info.to_string(), found.info.to_string()));
        }
        let storage = target.storage("tensor data", offset, len)?;
        let mut notes = found.notes;
        notes.push(format!("alias of {}", target.path.display()));
        let view = View::ready(found.info, None, 0, storage, &target.path)?.with_notes(notes);
        return Ok(vec![Entry { key: String::new(), view: Ok(view) }]);
    }
    let what = if header.stats.is_some() { "its statistics" } else { "its description" };
    let reason =
        format!("the file holds no data of {}, only {what}; dump tensors to compare them", header.info);
    Err(Error::refused(&input.path, reason))
}

/// Whether bytes can be the start of an ATB header.
pub(super) fn looks_like(start: &[u8]) -> bool {
    let line = start.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let key = line.split(|&byte| byte == b'=').next().unwrap_or_default();
    let key = key.strip_prefix(b"$").unwrap_or(key);
    key.len() < line.len() && !key.is_empty() && key.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'.')
}

pub(super) fn read(input: &Input) -> Result<Header> {
    let (mut header, mut end) = record(input, 0)?;
    while end < input.len {
        if header.records == MAX_RECORDS {
            return Err(Error::refused(&input.path, format!("more than {MAX_RECORDS} records in one file")));
        }
        match record(input, end) {
            Ok((next, next_end)) => {
                header = Header { records: header.records + 1, ..next };
                end = next_end;
            }
            Err(error @ Error::Io { .. }) => return Err(error),
            Err(_) => {
                let left = input.len - end;
                header.notes.push(format!("{left} bytes after the last complete record are ignored"));
                break;
            }
        }
    }
    if header.records > 1 {
        header
            .notes
            .insert(0, format!("{} records in the file, the last complete one is read", header.records));
    }
    Ok(header)
}

/// Reads the record that starts at an offset, and tells where it ends.
fn record(input: &Input, start: u64) -> Result<(Header, u64)> {
    let (lines, payload) = lines(input, start)?;
    let bad = |what: &str, expected: &str, found: &str| {
        Error::malformed(&input.path, format!("header line {what}"), expected, found)
    };
    let length = match lines.get("$Object.Length") {
        None => None,
        Some(text) => Some(text.parse().map_err(|_| bad("$Object.Length", "a number", text))?),
    };
    let Some(dtype_text) = lines.get("dtype") else {
        return Err(bad("dtype", "one", "none"));
    };
    let Some(dtype) = dtype_text.parse().ok().and_then(DType::from_acl) else {
        return Err(bad("dtype", "the number of an aclDataType", dtype_text));
    };
    let Some(dims_text) = lines.get("dims") else {
        return Err(bad("dims", "one", "none"));
    };
    let dims = match dims_text.as_str() {
        "" => None,
        text => match text.split(',').map(|dim| dim.parse::<u64>().ok()).collect::<Option<Vec<u64>>>() {
            Some(dims) => Some(dims),
            None => return Err(bad("dims", "numbers joined with commas", text)),
        },
    };
    let acl_format = lines.get("format").and_then(|text| text.parse().ok());
    let extent = extent(input, &lines, payload, length)?;
    let mut header = Header {
        info: TensorInfo { dtype, shape: dims.clone().unwrap_or_default(), acl_format },
        stats: stats(&lines),
        alias: lines.get("data").cloned(),
        records: 1,
        data: None,
        notes: Vec::new(),
    };
    let (first, len, end) = match extent {
        Extent::Absent => return Ok((header, payload)),
        Extent::Object { first, len, end } => (first, len, end),
        // A reduced header leaves only the file's end to go by: what the shape needs, and perhaps a next record.
        Extent::Unknown => {
            let left = input.len - payload;
            let need = header.info.checked_numel().and_then(|n| n.checked_mul(dtype.size() as u64));
            let len = need.filter(|&need| dims.is_some() && need <= left).unwrap_or(left);
            (0, len, payload + len)
        }
    };
    input.check("tensor data", payload, end - payload)?;
    header.info.shape = shape(input, dtype, dims, len, &mut header.notes)?;
    header.data = Some((payload + first, len));
    Ok((header, end))
}

/// Where a record's payload is.
enum Extent {
    /// A description without data: an empty tensor has an object of no bytes instead.
    Absent,
    /// Neither length nor object is given.
    Unknown,
    /// The object's place in the payload, and the offset at which the record ends.
    Object { first: u64, len: u64, end: u64 },
}

fn extent(
    input: &Input,
    lines: &BTreeMap<String, String>,
    payload: u64,
    length: Option<u64>,
) -> Result<Extent> {
    let mut objects = lines.iter().filter_map(|(key, value)| {
        let name = key.strip_prefix("$Object.").filter(|name| !matches!(*name, "Count" | "Length"))?;
        Some((name, value))
    });
    let first = objects.next();
    let object = match lines.get("$Object.data") {
        Some(value) => Some(("data", value)),
        None if objects.next().is_none() => first,
        None => return Err(Error::refused(&input.path, "several objects, none of them called data")),
    };
    let bad = |expected: String, found: String| Error::malformed(&input.path, "header", expected, found);
    let Some((name, value)) = object else {
        return Ok(match length {
            None if lines.contains_key("$Object.Count") => Extent::Absent,
            None => Extent::Unknown,
            Some(0) => Extent::Absent,
            Some(len) => Extent::Object { first: 0, len, end: end_of(input, payload, len)? },
        });
    };
    let numbers = value.split_once(',').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    let Some((first, len)): Option<(u64, u64)> = numbers else {
        return Err(bad(format!("$Object.{name}=offset,length"), value.clone()));
    };
    let object_end =
        first.checked_add(len).ok_or_else(|| bad("an object below 2^64".into(), value.clone()))?;
    let total = length.unwrap_or(object_end);
    if object_end > total {
        let expected = format!("an object inside the $Object.Length of {total}");
        return Err(bad(expected, format!("$Object.{name}={value}")));
    }
    Ok(Extent::Object { first, len, end: end_of(input, payload, total)? })
}

fn end_of(input: &Input, payload: u64, len: u64) -> Result<u64> {
    input.check("tensor data", payload, len)?;
    Ok(payload + len)
}

/// The shape that fits the bytes, which must be those that dims and dtype ask for.
fn shape(
    input: &Input,
    dtype: DType,
    dims: Option<Vec<u64>>,
    len: u64,
    notes: &mut Vec<String>,
) -> Result<Vec<u64>> {
    let size = dtype.size() as u64;
    let Some(dims) = dims else {
        return match len {
            // A scalar and a tensor of shape [0] both have no dims; the length tells them apart.
            0 => Ok(vec![0]),
            len if len == size => Ok(Vec::new()),
            len => {
                let expected = format!("0 bytes, or {size} for a {dtype} scalar");
                Err(Error::malformed(
                    &input.path,
                    "tensor data without dims",
                    expected,
                    format!("{len} bytes"),
                ))
            }
        };
    };
    let info = TensorInfo::new(dtype, dims);
    if info.checked_numel().and_then(|n| n.checked_mul(size)) == Some(len) {
        return Ok(info.shape);
    }
    if dtype.kind() == Kind::Raw {
        notes.push(format!("{info} of unknown packing, read as {len} raw bytes"));
        return Ok(vec![len]);
    }
    let expected = match info.checked_numel().and_then(|n| n.checked_mul(size)) {
        Some(need) => format!("{need} bytes for {info}"),
        None => format!("a size below 2^64 bytes for {info}"),
    };
    Err(Error::malformed(&input.path, "tensor data", expected, format!("{len} bytes")))
}

fn stats(lines: &BTreeMap<String, String>) -> Option<ProducerStats> {
    let names = ["max", "min", "mean", "l2norm"];
    if !names.iter().any(|name| lines.contains_key(*name)) {
        return None;
    }
    let [max, min, mean, norm] = names.map(|name| lines.get(name).and_then(|text| text.parse().ok()));
    Some(ProducerStats { max, min, mean, norm, ..ProducerStats::default() })
}

/// The lines of a header and the offset of the first byte behind it.
fn lines(input: &Input, start: u64) -> Result<(BTreeMap<String, String>, u64)> {
    let left = usize::try_from(input.len - start).unwrap_or(usize::MAX);
    let mut want = FIRST_READ.min(left);
    loop {
        let bytes = input.bytes("header", start, want as u64)?;
        if let Some((lines, used)) = split(&bytes, input)? {
            return Ok((lines, start + used as u64));
        }
        let limit = MAX_HEADER.min(left);
        if want == limit {
            let expected = format!("a line {END}=1 within {limit} bytes");
            return Err(Error::malformed(&input.path, "header", expected, "none"));
        }
        want = (want * 16).min(limit);
    }
}

/// Splits a header into its lines; `None` when its end is not among the bytes.
fn split(bytes: &[u8], input: &Input) -> Result<Option<(BTreeMap<String, String>, usize)>> {
    let mut lines = BTreeMap::new();
    let mut at = 0;
    for count in 0.. {
        let Some(len) = bytes[at..].iter().position(|&byte| byte == b'\n') else { break };
        let line = &bytes[at..at + len];
        at += len + 1;
        let text = || -> String { String::from_utf8_lossy(line).chars().take(80).collect() };
        if count == MAX_LINES {
            let found = "more".to_owned();
            return Err(Error::malformed(&input.path, "header", format!("at most {MAX_LINES} lines"), found));
        }
        let Some((key, value)) = std::str::from_utf8(line).ok().and_then(|line| line.split_once('=')) else {
            return Err(Error::malformed(&input.path, "header", "lines of the form key=value", text()));
        };
        if key == END {
            return Ok(Some((lines, at)));
        }
        if lines.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(Error::malformed(&input.path, "header", format!("one line {key}"), "two"));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::super::testing::{bytes_of, mutated, read_one, small_tensor, survives};
    use super::*;

    fn file(dtype: i32, dims: &str, data: &[u8]) -> Vec<u8> {
        let len = data.len();
        let header = format!(
            "$Version=1.0\n$Object.Count=1\n$Object.Length={len}\nformat=2\ndtype={dtype}\ndims={dims}\n\
             $Object.data=0,{len}\n$End=1\n"
        );
        [header.as_bytes(), data].concat()
    }

    fn described(extra: &str) -> Vec<u8> {
        format!(
            "$Version=1.0\n$Object.Count=0\n$Object.Length=0\nformat=29\ndtype=27\ndims=2,3\n{extra}$End=1\n"
        )
        .into_bytes()
    }

    fn header_of(bytes: &[u8]) -> Result<Header> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        header(file.path())
    }

    #[test]
    fn header_tells_what_a_file_is() {
        let plain = header_of(&file(0, "2", &[1; 8])).unwrap();
        assert_eq!(plain.data, Some((94, 8)));
        assert_eq!(plain.records, 1);
        let description = header_of(&described("")).unwrap();
        let info = TensorInfo { dtype: DType::BFloat16, shape: vec![2, 3], acl_format: Some(29) };
        assert_eq!(description.info, info);
        assert_eq!((description.data, description.stats, description.alias), (None, None, None));
        let alias = header_of(&described("data=3_1_intensor0.bin\n")).unwrap();
        assert_eq!(alias.alias.as_deref(), Some("3_1_intensor0.bin"));
        let stats = header_of(&described("max=1.500000\nmin=-inf\nmean=N/A\nl2norm=2\n")).unwrap().stats;
        let expected = ProducerStats {
            max: Some(1.5),
            min: Some(f64::NEG_INFINITY),
            norm: Some(2.0),
            ..ProducerStats::default()
        };
        assert_eq!(stats, Some(expected));
    }

    #[test]
    fn a_header_longer_than_the_first_read() {
        let extra = (0..2000).map(|i| format!("key{i}=value{i}\n")).collect::<Vec<_>>().concat();
        let mut bytes = described(&extra);
        bytes.extend(file(2, "3", &[1, 2, 3]));
        let header = header_of(&bytes).unwrap();
        assert_eq!((header.records, header.info.shape), (2, vec![3]));
    }

    proptest! {
        #[test]
        fn round_trip(
            (dtype, shape, data) in small_tensor(|row| row.kind != Kind::Raw).prop_filter("no dims", |t| !t.1.is_empty()),
            records in 1..4usize,
        ) {
            let dims = shape.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
            let bytes = file(dtype.row().acl, &dims, &data).repeat(records);
            let tensor = read_one(".bin", &bytes).unwrap();
            prop_assert_eq!((tensor.info.dtype, &tensor.info.shape), (dtype, &shape));
            prop_assert_eq!(bytes_of(&tensor), data);
            prop_assert_eq!(tensor.notes.len(), usize::from(records > 1));
        }

        #[test]
        fn mutations_survive(bytes in mutated(vec![
            file(0, "2,3", &[1; 24]),
            file(16, "", &[1; 8]).repeat(3),
            described("data=3_1_intensor0.bin\n"),
            described("max=1.5\nmin=N/A\n"),
            b"dtype=9\ndims=1\n$End=1\n12345678".to_vec(),
        ])) {
            survives(".bin", &bytes);
        }
    }
}
