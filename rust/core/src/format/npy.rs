//! numpy's `.npy`, versions 1 to 3.

use std::io::Read;
use std::path::Path;

use super::entry::{Entry, View};
use super::input::Input;
use super::packed::{Coding, Packed};
use crate::dtype::Kind;
use crate::{DType, Error, Result, TensorInfo};

pub(super) const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// numpy refuses more than 10 000 bytes unless told otherwise; only structured dtypes come near.
const MAX_HEADER: u64 = 1 << 20;
const MAX_NESTING: u32 = 16;

/// The one array of a file.
pub(super) fn parse(input: &Input) -> Result<Vec<Entry>> {
    let packed = Packed {
        input: input.clone(),
        offset: 0,
        coded_len: input.len,
        coding: Coding::Stored,
        len: input.len,
        crc: None,
        skip: 0,
        swap: 1,
    };
    Ok(vec![Entry { key: String::new(), view: Ok(view(packed)?) }])
}

/// The array in a range that holds a whole `.npy`.
pub(super) fn view(mut packed: Packed) -> Result<View> {
    let path = packed.input.path.clone();
    let mut reader = packed.reader()?;
    let (text, used) = header_text(&mut reader, packed.len, &path)?;
    drop(reader);
    let header = header(&text, &path)?;
    let info = TensorInfo::new(header.dtype, header.shape);
    packed.skip = used;
    packed.swap = header.swap;
    let strides = header.fortran_order.then(|| column_major(&info.shape)).flatten();
    let mut notes = header.notes;
    if let Some(extra) = info
        .checked_numel()
        .and_then(|n| n.checked_mul(info.dtype.size() as u64))
        .and_then(|need| packed.data_len().checked_sub(need))
        .filter(|&extra| extra > 0)
    {
        notes.push(format!("{extra} bytes after the array are ignored"));
    }
    Ok(View::packed(info, strides, 0, packed)?.with_notes(notes))
}

fn column_major(shape: &[u64]) -> Option<Vec<u64>> {
    let mut next = Some(1u64);
    shape
        .iter()
        .map(|&size| {
            let stride = next?;
            next = stride.checked_mul(size.max(1));
            Some(stride)
        })
        .collect()
}

/// The header's dictionary as text, and the bytes from the start of the array file to its data.
fn header_text(reader: &mut dyn Read, available: u64, path: &Path) -> Result<(String, u64)> {
    let mut fill = |out: &mut [u8]| {
        reader.read_exact(out).map_err(|error| {
            let expected = format!("{} more bytes", out.len());
            Error::malformed(path, "npy header", expected, error.to_string())
        })
    };
    let mut start = [0; 8];
    fill(&mut start)?;
    if &start[..6] != MAGIC {
        let found = format!("{:02x?}", &start[..6]);
        return Err(Error::malformed(path, "npy header", "the bytes \\x93NUMPY", found));
    }
    let (len, head) = match start[6] {
        1 => {
            let mut len = [0; 2];
            fill(&mut len)?;
            (u64::from(u16::from_le_bytes(len)), 10)
        }
        2 | 3 => {
            let mut len = [0; 4];
            fill(&mut len)?;
            (u64::from(u32::from_le_bytes(len)), 12)
        }
        other => return Err(Error::malformed(path, "npy version", "1, 2 or 3", other.to_string())),
    };
    if len > MAX_HEADER || head + len > available {
        let expected = format!("at most {} bytes", MAX_HEADER.min(available.saturating_sub(head)));
        return Err(Error::malformed(path, "npy header", expected, format!("{len} bytes")));
    }
    let mut text = vec![0; len as usize];
    fill(&mut text)?;
    Ok((String::from_utf8_lossy(&text).into_owned(), head + len))
}

struct Header {
    dtype: DType,
    swap: usize,
    fortran_order: bool,
    shape: Vec<u64>,
    notes: Vec<String>,
}

fn header(text: &str, path: &Path) -> Result<Header> {
    let bad = |expected: &str| {
        let found: String = text.trim_end().chars().take(200).collect();
        Error::malformed(path, "npy header", expected, found)
    };
    let mut literal = Literal { text: text.as_bytes(), at: 0 };
    let Some(Value::Dict(entries)) = literal.value(0).filter(|_| literal.rest_is_blank()) else {
        return Err(bad("a Python dictionary"));
    };
    let get = |key: &str| entries.iter().rev().find(|(k, _)| k == key).map(|(_, v)| v);
    let Some(Value::Bool(fortran_order)) = get("fortran_order") else {
        return Err(bad("'fortran_order' with True or False"));
    };
    let Some(Value::Sequence(sizes)) = get("shape") else {
        return Err(bad("'shape' with a tuple"));
    };
    let shape = sizes
        .iter()
        .map(|size| match size {
            Value::Int(size) => Some(*size),
            _ => None,
        })
        .collect::<Option<Vec<u64>>>()
        .ok_or_else(|| bad("a shape of integers below 2^64, none of them negative"))?;
    let (dtype, swap, notes) = match get("descr") {
        Some(Value::Text(descr)) => dtype(descr, path)?,
        Some(Value::Sequence(_)) => {
            return Err(Error::refused(path, "a structured array; save its fields one by one"));
        }
        _ => return Err(bad("'descr' with a dtype")),
    };
    Ok(Header { dtype, swap, fortran_order: *fortran_order, shape, notes })
}

/// Dtype of a numpy type string, the size of the numbers to swap (1 for none), and notes.
fn dtype(descr: &str, path: &Path) -> Result<(DType, usize, Vec<String>)> {
    let (order, code) = match descr.chars().next() {
        Some(order @ ('<' | '>' | '|' | '=')) => (order, &descr[1..]),
        _ => ('|', descr),
    };
    let mut notes = Vec::new();
    let dtype = match code {
        "f8" => DType::Float64,
        "f4" => DType::Float32,
        "f2" => DType::Float16,
        "f1" => {
            notes
                .push("1-byte float 'f1' is read as float8_e5m2, the only dtype that is saved so".to_owned());
            DType::Float8E5M2
        }
        "i8" => DType::Int64,
        "i4" => DType::Int32,
        "i2" => DType::Int16,
        "i1" => DType::Int8,
        "u8" => DType::UInt64,
        "u4" => DType::UInt32,
        "u2" => DType::UInt16,
        "u1" => DType::UInt8,
        "b1" | "?" => DType::Bool,
        "c8" => DType::Complex64,
        "c16" => DType::Complex128,
        "V2" => {
            notes.push("2-byte void 'V2' is read as bfloat16, which ml_dtypes saves so".to_owned());
            DType::BFloat16
        }
        _ => match DType::from_name(descr).filter(|dtype| dtype.kind() != Kind::Raw) {
            Some(dtype) => dtype,
            None => return Err(Error::refused(path, refusal(descr, code))),
        },
    };
    let number = if dtype.kind() == Kind::Complex { dtype.size() / 2 } else { dtype.size() };
    Ok((dtype, if order == '>' { number } else { 1 }, notes))
}

fn refusal(descr: &str, code: &str) -> String {
    match code.as_bytes().first() {
        Some(b'O') => "an array of Python objects, which only unpickling could read; llmdbg never runs code \
                       from a dump"
            .to_owned(),
        Some(b'V') if code == "V1" => {
            "dtype 'V1' stands for several 8-bit types (float8_e4m3fn, float8_e8m0fnu, \
                                       int4, …) and the file does not say which; save array.view('uint8') or \
                                       use safetensors"
                .to_owned()
        }
        Some(b'U' | b'S' | b'a') => format!("dtype {descr:?} is text, not numbers"),
        Some(b'M' | b'm') => format!("dtype {descr:?} is a time; save array.view('int64')"),
        Some(b'f' | b'c') => format!("dtype {descr:?} is a platform's long double; save it as float64"),
        _ => format!("dtype {descr:?} is not one llmdbg knows"),
    }
}

/// The values a header may hold.
enum Value {
    Text(String),
    Int(u64),
    Bool(bool),
    Sequence(Vec<Value>),
    Dict(Vec<(String, Value)>),
    Other,
}

/// Reads the subset of Python literals that numpy writes.
struct Literal<'a> {
    text: &'a [u8],
    at: usize,
}

impl Literal<'_> {
    fn peek(&mut self) -> Option<u8> {
        while self.text.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
        self.text.get(self.at).copied()
    }

    fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn rest_is_blank(&mut self) -> bool {
        self.peek().is_none()
    }

    fn value(&mut self, depth: u32) -> Option<Value> {
        if depth > MAX_NESTING {
            return None;
        }
        match self.peek()? {
            b'{' => self.dict(depth),
            b'(' => self.sequence(b'(', b')', depth),
            b'[' => self.sequence(b'[', b']', depth),
            b'\'' | b'"' => self.string().map(Value::Text),
            b'0'..=b'9' => self.int(),
            b'-' => {
                self.at += 1;
                self.int().map(|_| Value::Other)
            }
            b'A'..=b'Z' | b'a'..=b'z' => Some(self.word()),
            _ => None,
        }
    }

    fn dict(&mut self, depth: u32) -> Option<Value> {
        self.eat(b'{');
        let mut entries = Vec::new();
        while !self.eat(b'}') {
            self.peek().filter(|byte| matches!(byte, b'\'' | b'"'))?;
            let key = self.string()?;
            if !self.eat(b':') {
                return None;
            }
            entries.push((key, self.value(depth + 1)?));
            if !self.eat(b',') && self.peek()? != b'}' {
                return None;
            }
        }
        Some(Value::Dict(entries))
    }

    fn sequence(&mut self, open: u8, close: u8, depth: u32) -> Option<Value> {
        self.eat(open);
        let mut items = Vec::new();
        while !self.eat(close) {
            items.push(self.value(depth + 1)?);
            if !self.eat(b',') && self.peek()? != close {
                return None;
            }
        }
        Some(Value::Sequence(items))
    }

    fn string(&mut self) -> Option<String> {
        let quote = self.peek()?;
        let start = self.at + 1;
        let len = self.text[start..].iter().position(|&byte| byte == quote)?;
        self.at = start + len + 1;
        let bytes = &self.text[start..start + len];
        // numpy escapes only in field names, which are of no use here.
        Some(String::from_utf8_lossy(bytes).into_owned())
    }

    fn int(&mut self) -> Option<Value> {
        let digits = self.text[self.at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let text = std::str::from_utf8(&self.text[self.at..self.at + digits]).ok()?;
        self.at += digits;
        // Python 2 wrote long integers with a trailing L.
        self.eat(b'L');
        text.parse().ok().map(Value::Int)
    }

    fn word(&mut self) -> Value {
        let len = self.text[self.at..].iter().take_while(|byte| byte.is_ascii_alphanumeric()).count();
        let word = &self.text[self.at..self.at + len];
        self.at += len;
        match word {
            b"True" => Value::Bool(true),
            b"False" => Value::Bool(false),
            _ => Value::Other,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::super::testing::{bytes_of, mutated, read_one, small_tensor, survives};
    use super::*;

    /// A version 1 file.
    pub(in super::super) fn file(descr: &str, fortran: &str, shape: &[u64], data: &[u8]) -> Vec<u8> {
        let sizes = shape.iter().map(|size| format!("{size}, ")).collect::<Vec<_>>().concat();
        let mut header = format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': ({sizes}), }}");
        while (header.len() + 11) % 64 != 0 {
            header.push(' ');
        }
        header.push('\n');
        let len = (header.len() as u16).to_le_bytes();
        [&b"\x93NUMPY\x01\x00"[..], &len, header.as_bytes(), data].concat()
    }

    fn code(dtype: DType) -> Option<&'static str> {
        Some(match dtype {
            DType::Float64 => "f8",
            DType::Float32 => "f4",
            DType::Float16 => "f2",
            DType::BFloat16 => "V2",
            DType::Int64 => "i8",
            DType::UInt16 => "u2",
            DType::Bool => "b1",
            DType::Complex128 => "c16",
            _ => return None,
        })
    }

    #[test]
    fn column_major_strides() {
        assert_eq!(column_major(&[2, 3, 4]), Some(vec![1, 2, 6]));
        assert_eq!(column_major(&[]), Some(vec![]));
        assert_eq!(column_major(&[u64::MAX, u64::MAX, 1]), None);
    }

    proptest! {
        #[test]
        fn round_trip((dtype, shape, data) in small_tensor(|row| code(row.dtype).is_some())) {
            let descr = format!("<{}", code(dtype).unwrap());
            let tensor = read_one(".npy", &file(&descr, "False", &shape, &data)).unwrap();
            prop_assert_eq!((tensor.info.dtype, &tensor.info.shape), (dtype, &shape));
            prop_assert_eq!(bytes_of(&tensor), data);
        }

        #[test]
        fn big_endian_numbers_are_swapped(data in proptest::collection::vec(any::<u32>(), 0..50)) {
            let swapped: Vec<u8> = data.iter().flat_map(|number| number.to_be_bytes()).collect();
            let tensor = read_one(".npy", &file(">u4", "False", &[data.len() as u64], &swapped)).unwrap();
            let native: Vec<u8> = data.iter().flat_map(|number| number.to_le_bytes()).collect();
            prop_assert_eq!(bytes_of(&tensor), native);
        }

        #[test]
        fn mutations_survive(bytes in mutated(vec![
            file("<f4", "False", &[2, 3], &[1; 24]),
            file(">c8", "True", &[2, 2], &[1; 32]),
            file("<V2", "False", &[], &[1; 2]),
        ])) {
            survives(".npy", &bytes);
        }

        #[test]
        fn any_header_survives(header in ".{0,200}") {
            let len = (header.len() as u16).to_le_bytes();
            survives(".npy", &[&b"\x93NUMPY\x01\x00"[..], &len, header.as_bytes(), &[0; 8]].concat());
        }
    }
}
