//! The dump of small chips: the same tensors as in `ge_dump`, described by tagged lists of fixed-size numbers.

use super::ge_dtype::Decoding;
use super::ge_dump::{Described, MAX_TENSORS, Place};
use super::input::Input;
use crate::{DType, Error, Result};

const MAGIC: u32 = 0x5a5a_5a5a;
/// Longest description that is read; real ones have a few hundred bytes.
const MAX_HEADER: u64 = 16 << 20;
const INPUTS: u32 = 4;
const OUTPUTS: u32 = 5;
const SHAPE: u32 = 0;
const ORIGINAL_SHAPE: u32 = 1;

/// The tensors, and where their bytes begin.
pub(super) struct Tensors {
    pub(super) list: Vec<Described>,
    pub(super) payload: u64,
}

/// Whether the mark of this kind is where it should be.
pub(super) fn looks_like(input: &Input) -> Result<bool> {
    if input.len < 16 {
        return Ok(false);
    }
    let mut mark = [0; 4];
    input.read_at("mark", 8, &mut mark)?;
    Ok(u32::from_le_bytes(mark) == MAGIC)
}

pub(super) fn parse(input: &Input) -> Result<Tensors> {
    let mut len = [0; 8];
    input.read_at("length of the header", 0, &mut len)?;
    let len = u64::from_le_bytes(len);
    if len > MAX_HEADER {
        let expected = format!("up to {MAX_HEADER} bytes");
        return Err(Error::malformed(&input.path, "header", expected, len.to_string()));
    }
    let bytes = input.bytes("header", 8, len)?;
    let mut header = Cursor { input, bytes: &bytes };
    header.take(8)?;
    let mut list = Vec::new();
    while !header.bytes.is_empty() {
        let (tag, mut section) = header.tagged()?;
        if !matches!(tag, INPUTS | OUTPUTS) {
            continue;
        }
        for _ in 0..section.u32()? {
            if list.len() == MAX_TENSORS {
                let expected = format!("up to {MAX_TENSORS} tensors");
                return Err(Error::malformed(&input.path, "header", expected, "more"));
            }
            list.push(section.tensor(tag)?);
        }
    }
    list.sort_by_key(|tensor| tensor.place);
    Ok(Tensors { list, payload: 8 + len })
}

struct Cursor<'a> {
    input: &'a Input,
    bytes: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let Some((head, rest)) = self.bytes.split_at_checked(len) else {
            let expected = format!("{len} more bytes");
            let found = self.bytes.len().to_string();
            return Err(Error::malformed(&self.input.path, "header", expected, found));
        };
        self.bytes = rest;
        Ok(head)
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(self.take(4)?.iter().rev().fold(0, |n, &byte| n << 8 | u32::from(byte)))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(self.take(8)?.iter().rev().fold(0, |n, &byte| n << 8 | u64::from(byte)))
    }

    /// A tag and the bytes that belong to it.
    fn tagged(&mut self) -> Result<(u32, Cursor<'a>)> {
        let tag = self.u32()?;
        let len = self.u32()? as usize;
        Ok((tag, Cursor { input: self.input, bytes: self.take(len)? }))
    }

    fn tensor(&mut self, tag: u32) -> Result<Described> {
        let mut tensor = Described::new(if tag == INPUTS { Place::Input } else { Place::Output });
        let dtype = self.u32()?;
        tensor.type_number = u64::from(dtype);
        tensor.decoding = DType::from_acl(dtype.cast_signed()).map(Decoding::Known);
        tensor.format = i32::from(self.u32()? as u8);
        // Kind of address; of an output also index, type and layout of the original.
        self.take(if tag == INPUTS { 4 } else { 16 })?;
        // Every tensor promised is written here, whatever its address.
        tensor.address = 1;
        self.take(16)?;
        tensor.size = self.u64()?;
        let len = self.u32()? as usize;
        let mut lists = Cursor { input: self.input, bytes: self.take(len)? };
        while !lists.bytes.is_empty() {
            let (tag, mut list) = lists.tagged()?;
            let target = match tag {
                SHAPE => &mut tensor.shape,
                ORIGINAL_SHAPE => &mut tensor.original_shape,
                _ => continue,
            };
            while !list.bytes.is_empty() {
                target.push(list.u64()?);
            }
        }
        Ok(tensor)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::{bytes_of, mutated, read, survives};
    use super::*;

    fn words(numbers: &[u32]) -> Vec<u8> {
        numbers.iter().flat_map(|n| n.to_le_bytes()).collect()
    }

    fn longs(numbers: &[u64]) -> Vec<u8> {
        numbers.iter().flat_map(|n| n.to_le_bytes()).collect()
    }

    fn tagged(tag: u32, body: &[u8]) -> Vec<u8> {
        [&words(&[tag, body.len() as u32]), body].concat()
    }

    /// One float16 [2] in (ge number 1), one int32 [1] out (ge number 3).
    fn example() -> Vec<u8> {
        let shape = |dims: &[u64]| {
            let list = tagged(SHAPE, &longs(dims));
            [words(&[list.len() as u32]), list].concat()
        };
        let input = [words(&[1, 1, 2, 0]), longs(&[0, 0, 4]), shape(&[2])].concat();
        let output = [words(&[1, 3, 2, 0, 0, 3, 2]), longs(&[0, 0, 4]), shape(&[1])].concat();
        let body = [words(&[MAGIC, 1]), tagged(INPUTS, &input), tagged(OUTPUTS, &output)].concat();
        [longs(&[body.len() as u64]), body, vec![0x00, 0x3c, 0x00, 0xc0, 7, 0, 0, 0]].concat()
    }

    #[test]
    fn tensors_and_their_bytes() {
        let found = read(".1700000000000000", &example()).unwrap();
        let keys: Vec<&str> = found.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["input.0", "output.0"]);
        let tensor = |i: usize| found[i].1.as_ref().unwrap();
        assert_eq!(
            (tensor(0).info.dtype, bytes_of(tensor(0))),
            (DType::Float16, vec![0x00, 0x3c, 0x00, 0xc0])
        );
        assert_eq!((tensor(1).info.dtype, bytes_of(tensor(1))), (DType::Int32, vec![7, 0, 0, 0]));
    }

    proptest! {
        #[test]
        fn mutated_bytes_never_panic(bytes in mutated(vec![example()])) {
            survives(".1700000000000000", &bytes);
        }
    }
}
