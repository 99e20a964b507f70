//! The dump of one executed GE operator: a protobuf header, then the bytes of every input, output, buffer and
//! workspace back to back. Older writers put the bytes into the message itself; small chips use `ge_nano`.

use std::path::Path;

use super::entry::{Entry, View};
use super::ge_dtype::{Decoding, decoding, format_name, is_plain};
use super::ge_nano;
use super::input::Input;
use super::wire::{Span, Value, Wire};
use crate::dtype::Kind;
use crate::{DType, Error, Result, TensorInfo};

/// More tensors than any operator has; a header cannot make us build more.
pub(super) const MAX_TENSORS: usize = 1 << 16;
/// Dimensions kept; a tensor of more is refused later.
const MAX_DIMS: usize = 65;

/// What a file says of its operator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct About {
    /// The operator's full name, where the writer gave it.
    pub(crate) op_name: String,
    /// What the reader noticed of the file as a whole.
    pub(crate) notes: Vec<String>,
}

/// Where a tensor stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    Input,
    Output,
    Buffer,
    Space,
}

impl Place {
    /// The first part of an entry's key: `input.0`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Output => "output",
            Self::Buffer => "buffer",
            Self::Space => "space",
        }
    }
}

/// One tensor as its header describes it.
#[derive(Clone, Debug)]
pub(super) struct Described {
    pub(super) place: Place,
    pub(super) decoding: Option<Decoding>,
    /// The number of its type, for messages.
    pub(super) type_number: u64,
    pub(super) format: i32,
    pub(super) shape: Vec<u64>,
    pub(super) original_shape: Vec<u64>,
    pub(super) groups: u64,
    /// Bytes set aside for it, which may be more than its elements need.
    pub(super) size: u64,
    /// Device address; writers leave the bytes of address 0 out.
    pub(super) address: u64,
    /// The bytes, where they lie inside the message.
    inline: Option<Span>,
}

impl Described {
    pub(super) fn new(place: Place) -> Self {
        Self {
            place,
            decoding: Some(Decoding::Untyped),
            type_number: 0,
            format: 2,
            shape: Vec::new(),
            original_shape: Vec::new(),
            groups: 0,
            size: 0,
            address: 0,
            inline: None,
        }
    }
}

/// The tensors of a file, in the order of their bytes.
pub(super) fn parse(input: &Input) -> Result<Vec<Entry>> {
    read(input).map(|(_, entries)| entries)
}

/// What a file says of its operator, and its tensors.
pub(crate) fn open(path: &Path) -> Result<(About, Vec<Entry>)> {
    read(&Input::open(path)?)
}

/// Whether a file can be one of these.
pub(super) fn looks_like(start: &[u8], input: &Input) -> bool {
    let Some(len) = header_len(start) else { return false };
    if ge_nano::looks_like(input).unwrap_or(false) {
        return true;
    }
    let header = if len <= input.len - 8 { Span { at: 8, len } } else { Span { at: 0, len: input.len } };
    // An empty message is a message; a dump has at least a tensor.
    message(input, header).is_ok_and(|found| !found.tensors.is_empty())
}

fn header_len(start: &[u8]) -> Option<u64> {
    start.first_chunk().map(|len| u64::from_le_bytes(*len))
}

fn read(input: &Input) -> Result<(About, Vec<Entry>)> {
    let mut start = [0; 8];
    input.read_at("length of the header", 0, &mut start)?;
    if ge_nano::looks_like(input)? {
        let tensors = ge_nano::parse(input)?;
        let (list, notes) = located(input, &tensors.list, tensors.payload);
        return Ok((About { op_name: String::new(), notes }, list));
    }
    let len = u64::from_le_bytes(start);
    // A length beyond the file is no length: the first bytes are those of a message that holds everything.
    let old = len > input.len - 8;
    let header = if old { Span { at: 0, len: input.len } } else { Span { at: 8, len } };
    let Message { op_name, tensors, sliced } = message(input, header)?;
    let payload = if old { input.len } else { 8 + len };
    let (list, mut notes) = located(input, &tensors, payload);
    if sliced {
        notes.push("one thread's slice of the operator, not merged with the others".into());
    }
    Ok((About { op_name, notes }, list))
}

struct Message {
    op_name: String,
    tensors: Vec<Described>,
    /// Whether the writer described slices of an FFTS+ task.
    sliced: bool,
}

/// Reads `DumpData`. The tensors come in payload order, which is not that of their field numbers.
fn message(input: &Input, span: Span) -> Result<Message> {
    let mut found = Message { op_name: String::new(), tensors: Vec::new(), sliced: false };
    let mut wire = Wire::new(input);
    wire.fields(span, |wire, field, value| {
        let Value::Bytes(span) = value else { return Ok(()) };
        let tensor = match field {
            3 => described(wire, span, Place::Output, OUTPUT)?,
            4 => described(wire, span, Place::Input, INPUT)?,
            5 => described(wire, span, Place::Buffer, BUFFER)?,
            8 => described(wire, span, Place::Space, BUFFER)?,
            6 => {
                found.op_name = wire.text(span)?;
                return Ok(());
            }
            7 => {
                found.sliced = true;
                return Ok(());
            }
            _ => return Ok(()),
        };
        if found.tensors.len() == MAX_TENSORS {
            let expected = format!("up to {MAX_TENSORS} tensors");
            return Err(Error::malformed(&input.path, "header", expected, "more"));
        }
        found.tensors.push(tensor);
        Ok(())
    })?;
    found.tensors.sort_by_key(|tensor| tensor.place);
    Ok(found)
}

/// Where a message keeps what is of interest; 0 for what it does not have.
#[derive(Clone, Copy)]
struct Numbers {
    data: u64,
    size: u64,
    original_shape: u64,
    groups: u64,
    address: u64,
    typed: bool,
}

const OUTPUT: Numbers = Numbers { data: 5, size: 6, original_shape: 7, groups: 8, address: 9, typed: true };
const INPUT: Numbers = Numbers { data: 4, size: 5, original_shape: 6, groups: 7, address: 8, typed: true };
const BUFFER: Numbers = Numbers { data: 2, size: 3, original_shape: 0, groups: 0, address: 0, typed: false };

fn described(wire: &mut Wire<'_>, span: Span, place: Place, numbers: Numbers) -> Result<Described> {
    let mut tensor = Described::new(place);
    let mut shape = None;
    // Buffers have no address, and their bytes are always there.
    tensor.address = u64::from(!numbers.typed);
    wire.fields(span, |wire, field, value| {
        match value {
            Value::Number(n) if numbers.typed && field == 1 => {
                tensor.type_number = n;
                tensor.decoding = decoding(n);
            }
            // The primary format; sub-format and block size are packed above it.
            Value::Number(n) if numbers.typed && field == 2 => tensor.format = (n & 0xff) as i32,
            Value::Number(n) if field == numbers.size => tensor.size = n,
            Value::Number(n) if field == numbers.groups => tensor.groups = n,
            Value::Number(n) if field == numbers.address => tensor.address = n,
            Value::Bytes(span) if field == numbers.data && span.len > 0 => tensor.inline = Some(span),
            Value::Bytes(span) if numbers.typed && field == 3 => shape = Some(dims(wire, span)?),
            Value::Bytes(span) if field == numbers.original_shape => {
                tensor.original_shape = dims(wire, span)?;
            }
            _ => {}
        }
        Ok(())
    })?;
    let bytes = tensor.inline.map_or(tensor.size, |span| span.len);
    tensor.shape = if numbers.typed { shape.unwrap_or_default() } else { vec![bytes] };
    Ok(tensor)
}

fn dims(wire: &mut Wire<'_>, span: Span) -> Result<Vec<u64>> {
    let mut dims = Vec::new();
    let mut add = |n| {
        if dims.len() < MAX_DIMS {
            dims.push(n);
        }
    };
    wire.fields(span, |wire, field, value| match value {
        Value::Number(n) if field == 1 => {
            add(n);
            Ok(())
        }
        Value::Bytes(packed) if field == 1 => wire.numbers(packed, |n| {
            add(n);
            Ok(())
        }),
        _ => Ok(()),
    })?;
    Ok(dims)
}

/// Entries of tensors whose bytes begin at `payload`, and what was noticed on the way.
fn located(input: &Input, tensors: &[Described], payload: u64) -> (Vec<Entry>, Vec<String>) {
    let mut notes = Vec::new();
    let behind = |tensor: &&Described| tensor.inline.is_none();
    let held = u128::from(input.len - payload);
    let sum = |written: &dyn Fn(&&Described) -> bool| -> u128 {
        tensors.iter().filter(behind).filter(|t| written(t)).map(|t| u128::from(t.size)).sum()
    };
    let all = sum(&|_| true);
    let with_address = sum(&|t| t.address != 0);
    // Writers promise bytes for tensors without a device address, too, and do not write them.
    let skips = all > held && with_address > 0 && with_address < all;
    let need = if skips { with_address } else { all };
    if need < held && tensors.iter().any(|t| t.inline.is_none()) {
        notes.push(format!("{} bytes after the last tensor are ignored", held - need));
    }
    let mut entries = Vec::with_capacity(tensors.len());
    let mut counts = [0usize; 4];
    let mut at = u128::from(payload);
    for tensor in tensors {
        let count = &mut counts[tensor.place as usize];
        let key = format!("{}.{count}", tensor.place.name());
        *count += 1;
        let left_out = skips && tensor.inline.is_none() && tensor.address == 0 && tensor.size > 0;
        let view = if left_out {
            Err(Error::refused(&input.path, format!("{key}: not written, it had no device address")))
        } else {
            let (from, len) = match tensor.inline {
                Some(span) => (u128::from(span.at), span.len),
                None => (at, tensor.size),
            };
            view(input, &key, tensor, from, len)
        };
        if tensor.inline.is_none() && !left_out {
            at += u128::from(tensor.size);
        }
        entries.push(Entry { key, view });
    }
    (entries, notes)
}

fn view(input: &Input, key: &str, tensor: &Described, at: u128, len: u64) -> Result<View> {
    let Some(at) =
        u64::try_from(at).ok().filter(|at| at.checked_add(len).is_some_and(|end| end <= input.len))
    else {
        let expected = format!("{len} bytes at offset {at}");
        return Err(Error::malformed(&input.path, key, expected, format!("a file of {} bytes", input.len)));
    };
    let mut notes = Vec::new();
    let (dtype, shape) = match tensor.decoding {
        Some(Decoding::Known(dtype)) if dtype.kind() == Kind::Raw => {
            notes.push(format!("{dtype} {:?} of unknown packing, read as {len} raw bytes", tensor.shape));
            (dtype, vec![len])
        }
        Some(Decoding::Known(dtype)) => (dtype, tensor.shape.clone()),
        Some(Decoding::Untyped) => (DType::Int8, vec![len]),
        Some(Decoding::Opaque(name)) => {
            return Err(Error::refused(&input.path, format!("{key}: elements of type {name} are not read")));
        }
        None => {
            let what = format!("{key}: data type");
            let found = tensor.type_number.to_string();
            return Err(Error::malformed(&input.path, what, "a number of OutputDataType", found));
        }
    };
    if !is_plain(tensor.format) {
        let groups = if tensor.groups > 1 { format!(" in {} groups", tensor.groups) } else { String::new() };
        notes.push(format!(
            "stored as {}{groups}, original shape {:?}; layout not converted",
            format_name(tensor.format),
            tensor.original_shape
        ));
    }
    let info = TensorInfo { dtype, shape, acl_format: Some(tensor.format) };
    let need = info.checked_numel().and_then(|n| n.checked_mul(dtype.size() as u64));
    let need = need.unwrap_or(u64::MAX);
    if need > len {
        let expected = format!("{info} in the {len} bytes set aside for it");
        return Err(Error::malformed(&input.path, key, expected, format!("a need of {need} bytes")));
    }
    let storage = input.storage(key, at, need)?;
    Ok(View::ready(info, None, 0, storage, &input.path)?.with_notes(notes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::{mutated, survives};
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    /// Add of float16 [1, -2] and bfloat16 [1, 2] to float32 [2, 0].
    fn example() -> Vec<u8> {
        hex("5900000000000000 0a03322e30 108080f9c0c1c48203
             1a1a 0801 1002 1a03 0a0102 2205 0a03416464 3008 3a03 0a0102 48c025
             2213 0802 1002 1a03 0a0102 2804 3203 0a0102 408024
             2213 081b 1002 1a03 0a0102 2804 3203 0a0102 40c024
             3203416464 003c00c0 803f0040 0000004000000000")
    }

    fn field(number: u64, value: &[u8]) -> Vec<u8> {
        [varint(number << 3 | 2), varint(value.len() as u64), value.to_vec()].concat()
    }

    fn number(number: u64, value: u64) -> Vec<u8> {
        [varint(number << 3), varint(value)].concat()
    }

    fn varint(mut value: u64) -> Vec<u8> {
        let mut out = Vec::new();
        while value >= 0x80 {
            out.push(value as u8 | 0x80);
            value >>= 7;
        }
        out.push(value as u8);
        out
    }

    fn shape(dims: &[u64]) -> Vec<u8> {
        field(1, &dims.iter().flat_map(|&d| varint(d)).collect::<Vec<u8>>())
    }

    fn input_of(dtype: u64, format: u64, dims: &[u64], size: u64, address: u64) -> Vec<u8> {
        let body = [
            number(1, dtype),
            number(2, format),
            field(3, &shape(dims)),
            number(5, size),
            number(8, address),
        ];
        field(4, &body.concat())
    }

    fn file_of(message: &[u8], payload: &[u8]) -> Vec<u8> {
        [&(message.len() as u64).to_le_bytes()[..], message, payload].concat()
    }

    fn input_with(bytes: &[u8]) -> (Input, tempfile::NamedTempFile) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        (Input::open(file.path()).unwrap(), file)
    }

    fn entries_of(bytes: &[u8]) -> (About, Vec<Entry>) {
        let (input, _file) = input_with(bytes);
        read(&input).unwrap()
    }

    fn bytes_at(entry: &Entry, file: &[u8]) -> Vec<u8> {
        match entry.view.as_ref().unwrap().tensor().unwrap().storage {
            crate::Storage::File { offset, len, .. } => {
                file[offset as usize..(offset + len) as usize].to_vec()
            }
            crate::Storage::Memory(bytes) => bytes.to_vec(),
            crate::Storage::Computed(_) => unreachable!("files hold their bytes"),
        }
    }

    fn reasons(entries: &[Entry]) -> Vec<String> {
        entries.iter().filter_map(|e| e.view.as_ref().err().map(ToString::to_string)).collect()
    }

    #[test]
    fn inputs_lie_before_outputs() {
        let file = example();
        assert_eq!(file.len(), 113);
        let (about, found) = entries_of(&file);
        assert_eq!(about, About { op_name: "Add".into(), notes: Vec::new() });
        let keys: Vec<&str> = found.iter().map(|e| e.key.as_str()).collect();
        assert_eq!(keys, ["input.0", "input.1", "output.0"]);
        let types: Vec<DType> = found.iter().map(|e| e.view.as_ref().unwrap().info().dtype).collect();
        assert_eq!(types, [DType::Float16, DType::BFloat16, DType::Float32]);
        assert_eq!(bytes_at(&found[0], &file), [0x00, 0x3c, 0x00, 0xc0]);
        assert_eq!(bytes_at(&found[1], &file), [0x80, 0x3f, 0x00, 0x40]);
        assert_eq!(bytes_at(&found[2], &file), [0, 0, 0, 0x40, 0, 0, 0, 0]);
    }

    #[test]
    fn padding_belongs_to_no_tensor() {
        // 32 bytes are set aside for two float32, then a scalar of int32 follows.
        let message = [input_of(1, 2, &[2], 32, 1), input_of(7, 2, &[], 4, 2)].concat();
        let payload = [&[1u8; 8][..], &[9; 24], &[7, 0, 0, 0]].concat();
        let file = file_of(&message, &payload);
        let (_, found) = entries_of(&file);
        assert_eq!(bytes_at(&found[0], &file), [1; 8]);
        assert_eq!(found[1].view.as_ref().unwrap().info().shape, [0u64; 0]);
        assert_eq!(bytes_at(&found[1], &file), [7, 0, 0, 0]);
    }

    #[test]
    fn tensors_without_address_have_no_bytes() {
        let message = [input_of(4, 2, &[3], 3, 0), input_of(4, 2, &[2], 2, 77)].concat();
        let file = file_of(&message, &[5, 6]);
        let (_, found) = entries_of(&file);
        assert!(reasons(&found)[0].contains("input.0: not written, it had no device address"));
        assert_eq!(bytes_at(&found[1], &file), [5, 6]);
        // Where every byte is there, the missing address says nothing.
        let file = file_of(&message, &[1, 2, 3, 5, 6]);
        let (_, found) = entries_of(&file);
        assert_eq!(bytes_at(&found[0], &file), [1, 2, 3]);
        assert_eq!(bytes_at(&found[1], &file), [5, 6]);
    }

    #[test]
    fn a_cut_file_keeps_what_is_whole() {
        let file = example();
        let (_, found) = entries_of(&file[..file.len() - 1]);
        assert_eq!(bytes_at(&found[1], &file), [0x80, 0x3f, 0x00, 0x40]);
        assert_eq!(reasons(&found).len(), 1);
        assert!(
            reasons(&found)[0]
                .contains("output.0: expected 8 bytes at offset 105, found a file of 112 bytes")
        );
    }

    #[test]
    fn trailing_bytes_are_told() {
        let file = [example(), vec![0; 5]].concat();
        let (about, found) = entries_of(&file);
        assert_eq!(about.notes, ["5 bytes after the last tensor are ignored"]);
        assert!(reasons(&found).is_empty());
    }

    #[test]
    fn layouts_are_noted_and_not_converted() {
        // 17×5 float32 as FRACTAL_NZ with blocks of 16×8; a packed format says the same in its low byte.
        for format in [29, 0x0400_021d] {
            let body = [
                number(1, 1),
                number(2, format),
                field(3, &shape(&[1, 2, 16, 8])),
                number(6, 1024),
                field(7, &shape(&[17, 5])),
            ];
            let file = file_of(&field(3, &body.concat()), &[0; 1024]);
            let (_, found) = entries_of(&file);
            let view = found[0].view.as_ref().unwrap();
            assert_eq!(
                (view.info().acl_format, view.info().shape.as_slice()),
                (Some(29), &[1, 2, 16, 8][..])
            );
            let note = "stored as FRACTAL_NZ, original shape [17, 5]; layout not converted";
            assert_eq!(view.notes(), [note]);
        }
    }

    #[test]
    fn types_without_numbers_are_named() {
        let message = [
            input_of(13, 2, &[1], 4, 1),
            input_of(99, 2, &[1], 4, 1),
            input_of(0, 2, &[7], 4, 1),
            input_of(28, 2, &[8], 4, 1),
            input_of(1, 2, &[2], 4, 1),
            input_of(1, 2, &[u64::MAX], 4, 1),
        ]
        .concat();
        let (_, found) = entries_of(&file_of(&message, &[0; 24]));
        let reasons = reasons(&found);
        assert!(reasons[0].contains("input.0: elements of type string are not read"));
        assert!(reasons[1].contains("input.1: data type: expected a number of OutputDataType, found 99"));
        assert!(reasons[2].contains("input.4: expected float32 [2] in the 4 bytes set aside for it"));
        assert_eq!(reasons.len(), 4);
        assert_eq!(
            found[2].view.as_ref().unwrap().info(),
            &TensorInfo { dtype: DType::Int8, shape: vec![4], acl_format: Some(2) }
        );
        assert_eq!(found[3].view.as_ref().unwrap().info().shape, [4]);
    }

    #[test]
    fn bytes_inside_the_message() {
        // Before the header had a length of its own, the file was the message.
        let body = [number(1, 4), field(3, &shape(&[3])), field(4, &[1, 2, 3])];
        let file = [field(1, b"1.0"), field(4, &body.concat()), field(6, b"Old")].concat();
        let (about, found) = entries_of(&file);
        assert_eq!(about.op_name, "Old");
        assert_eq!(bytes_at(&found[0], &file), [1, 2, 3]);
    }

    #[test]
    fn hostile_lengths_are_refused() {
        // A text longer than the message, a tensor of 2^63 bytes, a varint without end.
        for message in [vec![0x32, 0xff, 0xff, 0x03], vec![0x0a; 3], [vec![0x10], vec![0xff; 20]].concat()] {
            let (input, _file) = input_with(&file_of(&message, &[]));
            assert!(read(&input).is_err());
        }
        let message = input_of(1, 2, &[1 << 61], 1 << 63, 1);
        let (_, found) = entries_of(&file_of(&message, &[0; 8]));
        assert_eq!(reasons(&found).len(), 1);
    }

    #[test]
    fn other_files_are_not_taken_for_it() {
        for other in [&b"plain text, and some more of it"[..], &[0; 64], &[1, 0, 0, 0, 0, 0, 0, 0, 255]] {
            let (input, _file) = input_with(other);
            assert!(!looks_like(other, &input));
        }
        let (input, _file) = input_with(&example());
        assert!(looks_like(&example(), &input));
    }

    proptest! {
        #[test]
        fn mutated_bytes_never_panic(bytes in mutated(vec![example()])) {
            survives(".1700000000000000", &bytes);
        }
    }
}
