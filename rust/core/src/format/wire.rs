//! The wire format of protobuf, walked in place: a message may be as large as its file, and is never held in memory.

use std::fmt::Display;

use super::input::Input;
use crate::{Error, Result};

/// Bytes read at a time; headers have a few hundred.
const WINDOW: u64 = 4096;
/// Longest text that is taken out of a message.
const MAX_TEXT: u64 = 1 << 16;

/// A range of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) at: u64,
    pub(super) len: u64,
}

impl Span {
    fn end(self) -> u64 {
        self.at + self.len
    }
}

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// A number or enum.
    Number(u64),
    /// A text, bytes, a message or packed numbers.
    Bytes(Span),
    /// Eight or four bytes; none of the messages read here has such a field.
    Fixed,
}

/// A file read in small pieces.
pub(super) struct Wire<'a> {
    input: &'a Input,
    start: u64,
    bytes: Vec<u8>,
}

impl<'a> Wire<'a> {
    pub(super) fn new(input: &'a Input) -> Self {
        Self { input, start: 0, bytes: Vec::new() }
    }

    /// Hands each field of a message to `visit`: its number and what it holds.
    ///
    /// # Errors
    /// When the bytes are no message, or `visit` fails.
    pub(super) fn fields(
        &mut self,
        message: Span,
        mut visit: impl FnMut(&mut Self, u64, Value) -> Result<()>,
    ) -> Result<()> {
        self.input.check("message", message.at, message.len)?;
        let mut at = message.at;
        while at < message.end() {
            let key = self.varint(&mut at, message.end())?;
            let value = match key & 7 {
                0 => Value::Number(self.varint(&mut at, message.end())?),
                2 => {
                    let len = self.varint(&mut at, message.end())?;
                    Value::Bytes(Span { at, len: self.step(&mut at, len, message.end())? })
                }
                kind @ (1 | 5) => {
                    self.step(&mut at, if kind == 1 { 8 } else { 4 }, message.end())?;
                    Value::Fixed
                }
                kind => return Err(self.bad("a field of wire type 0, 1, 2 or 5", kind)),
            };
            if key >> 3 == 0 {
                return Err(self.bad("field numbers from 1", 0));
            }
            visit(self, key >> 3, value)?;
        }
        Ok(())
    }

    /// The numbers of a packed field.
    pub(super) fn numbers(&mut self, packed: Span, mut visit: impl FnMut(u64) -> Result<()>) -> Result<()> {
        let mut at = packed.at;
        while at < packed.end() {
            visit(self.varint(&mut at, packed.end())?)?;
        }
        Ok(())
    }

    /// A short text; what is no UTF-8 is replaced.
    pub(super) fn text(&mut self, span: Span) -> Result<String> {
        if span.len > MAX_TEXT {
            return Err(self.bad(&format!("texts of up to {MAX_TEXT} bytes"), span.len));
        }
        let bytes = self.input.bytes("text", span.at, span.len)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Goes over `len` bytes that must lie before `end`, and gives `len` back.
    fn step(&self, at: &mut u64, len: u64, end: u64) -> Result<u64> {
        match at.checked_add(len).filter(|&next| next <= end) {
            Some(next) => {
                *at = next;
                Ok(len)
            }
            None => Err(self.bad(&format!("at most {} more bytes in the message", end - *at), len)),
        }
    }

    fn varint(&mut self, at: &mut u64, end: u64) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            if *at == end {
                break;
            }
            let byte = self.byte(*at)?;
            *at += 1;
            // The tenth byte holds the last bit; more would be lost.
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(self.bad("a number of up to 64 bits", "more, or the end of the message"))
    }

    fn byte(&mut self, at: u64) -> Result<u8> {
        let held = |wire: &Self| at.checked_sub(wire.start).and_then(|i| wire.bytes.get(i as usize).copied());
        if let Some(byte) = held(self) {
            return Ok(byte);
        }
        let len = WINDOW.min(self.input.len.saturating_sub(at)).max(1);
        self.bytes = self.input.bytes("message", at, len)?;
        self.start = at;
        Ok(self.bytes[0])
    }

    fn bad(&self, expected: &str, found: impl Display) -> Error {
        Error::malformed(&self.input.path, "protobuf message", expected, found.to_string())
    }
}
