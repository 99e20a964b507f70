//! The text format of protobuf, field by field: what is not wanted is gone over without being kept.

use crate::{Error, Result};
use std::path::Path;

/// Deepest nesting of messages; the schemas read here need about ten.
const MAX_DEPTH: usize = 64;

/// A field's value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// Between quotes, escapes resolved; what is no UTF-8 replaced.
    Text(String),
    /// A number, an enum's name, `true` or `false`.
    Word(String),
    /// Fields in braces.
    Message(Vec<(String, Value)>),
}

impl Value {
    /// The value as text, of either kind.
    pub(super) fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) | Self::Word(text) => Some(text),
            Self::Message(_) => None,
        }
    }

    /// The values of all fields of that name.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Value> {
        let fields = match self {
            Self::Message(fields) => fields.as_slice(),
            _ => &[],
        };
        fields.iter().filter(move |(key, _)| key == name).map(|(_, value)| value)
    }

    /// The value of the first field of that name.
    pub(super) fn get<'a>(&'a self, name: &'a str) -> Option<&'a Value> {
        self.all(name).next()
    }
}

/// A text being read.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    path: &'a Path,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8], path: &'a Path) -> Self {
        Self { bytes, at: 0, path }
    }

    /// The name of the next field; `None` at the end of the message or of the text.
    pub(super) fn field(&mut self) -> Result<Option<String>> {
        self.skip_blank();
        match self.bytes.get(self.at) {
            None | Some(b'}' | b'>') => Ok(None),
            Some(_) => {
                let word = self.word();
                if word.is_empty() { Err(self.bad("the name of a field")) } else { Ok(Some(word)) }
            }
        }
    }

    /// Goes into the message that a field holds; false where it holds none.
    pub(super) fn enter(&mut self) -> bool {
        self.skip_colon();
        let opens = matches!(self.bytes.get(self.at), Some(b'{' | b'<'));
        self.at += usize::from(opens);
        opens
    }

    /// Goes past the end of a message.
    pub(super) fn leave(&mut self) -> Result<()> {
        self.skip_blank();
        match self.bytes.get(self.at) {
            Some(b'}' | b'>') => {
                self.at += 1;
                Ok(())
            }
            _ => Err(self.bad("}")),
        }
    }

    /// Whether the text is over.
    pub(super) fn is_over(&mut self) -> bool {
        self.skip_blank();
        self.at >= self.bytes.len()
    }

    /// The value of a field; lists in brackets give all of theirs.
    pub(super) fn values(&mut self) -> Result<Vec<Value>> {
        self.skip_colon();
        if self.bytes.get(self.at) != Some(&b'[') {
            return Ok(vec![self.value(0)?]);
        }
        self.at += 1;
        let mut values = Vec::new();
        loop {
            self.skip_blank();
            if self.bytes.get(self.at) == Some(&b']') {
                self.at += 1;
                return Ok(values);
            }
            values.push(self.value(0)?);
        }
    }

    fn value(&mut self, depth: usize) -> Result<Value> {
        if depth > MAX_DEPTH {
            return Err(self.bad("messages nested less deeply"));
        }
        self.skip_blank();
        match self.bytes.get(self.at) {
            Some(b'{' | b'<') => {
                self.at += 1;
                let mut fields = Vec::new();
                while let Some(name) = self.field()? {
                    self.skip_colon();
                    if self.bytes.get(self.at) == Some(&b'[') {
                        self.at += 1;
                        loop {
                            self.skip_blank();
                            if self.bytes.get(self.at) == Some(&b']') {
                                self.at += 1;
                                break;
                            }
                            fields.push((name.clone(), self.value(depth + 1)?));
                        }
                    } else {
                        fields.push((name, self.value(depth + 1)?));
                    }
                }
                self.leave()?;
                Ok(Value::Message(fields))
            }
            Some(b'"' | b'\'') => self.text(),
            Some(_) => {
                let word = self.word();
                if word.is_empty() { Err(self.bad("a value")) } else { Ok(Value::Word(word)) }
            }
            None => Err(self.bad("a value")),
        }
    }

    /// One or more quoted pieces, which belong together.
    fn text(&mut self) -> Result<Value> {
        let mut out = Vec::new();
        while let Some(&quote @ (b'"' | b'\'')) = self.bytes.get(self.at) {
            self.at += 1;
            loop {
                let Some(&byte) = self.bytes.get(self.at) else { return Err(self.bad("a closing quote")) };
                self.at += 1;
                match byte {
                    b'\\' => self.escape(&mut out)?,
                    byte if byte == quote => break,
                    byte => out.push(byte),
                }
            }
            self.skip_blank();
        }
        Ok(Value::Text(String::from_utf8_lossy(&out).into_owned()))
    }

    fn escape(&mut self, out: &mut Vec<u8>) -> Result<()> {
        let Some(&byte) = self.bytes.get(self.at) else { return Err(self.bad("an escaped character")) };
        self.at += 1;
        out.push(match byte {
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'a' => 7,
            b'b' => 8,
            b'f' => 12,
            b'v' => 11,
            b'x' | b'X' => self.digits(2, 16, 0),
            digit @ b'0'..=b'7' => self.digits(2, 8, u32::from(digit - b'0')),
            other => other,
        });
        Ok(())
    }

    /// Up to `count` more digits behind `value`.
    fn digits(&mut self, count: usize, radix: u32, mut value: u32) -> u8 {
        for _ in 0..count {
            let digit = self.bytes.get(self.at).and_then(|&byte| char::from(byte).to_digit(radix));
            let Some(digit) = digit else { break };
            value = value * radix + digit;
            self.at += 1;
        }
        value as u8
    }

    fn word(&mut self) -> String {
        let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"_.+-/".contains(byte);
        let len = self.bytes[self.at..].iter().take_while(|byte| is_part(byte)).count();
        let word = &self.bytes[self.at..self.at + len];
        self.at += len;
        String::from_utf8_lossy(word).into_owned()
    }

    fn skip_colon(&mut self) {
        self.skip_blank();
        if self.bytes.get(self.at) == Some(&b':') {
            self.at += 1;
            self.skip_blank();
        }
    }

    /// Blanks, separators and comments.
    fn skip_blank(&mut self) {
        while let Some(&byte) = self.bytes.get(self.at) {
            match byte {
                b'#' => {
                    let rest = &self.bytes[self.at..];
                    self.at += rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len());
                }
                b' ' | b'\t' | b'\r' | b'\n' | b',' | b';' => self.at += 1,
                _ => return,
            }
        }
    }

    fn bad(&self, expected: &str) -> Error {
        let line = self.bytes[..self.at.min(self.bytes.len())].split(|&byte| byte == b'\n').count();
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let found: String = String::from_utf8_lossy(&rest[..rest.len().min(40)]).into_owned();
        Error::malformed(self.path, format!("graph text, line {line}"), expected, format!("{found:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<(String, Value)>> {
        let mut reader = Reader::new(text.as_bytes(), Path::new("g"));
        let mut fields = Vec::new();
        while let Some(name) = reader.field()? {
            fields.extend(reader.values()?.into_iter().map(|value| (name.clone(), value)));
        }
        Ok(fields)
    }

    #[test]
    fn fields_in_every_spelling() {
        let word = |text: &str| Value::Word(text.into());
        let found = read(
            "a: 1 b { c: -2.5e3, d: [1, 2] } # note\ne: 'x' \"y\\n\\342\\200\\246\\\"\" f < g: DT_FLOAT >",
        )
        .unwrap();
        let message = |fields: Vec<(&str, Value)>| {
            Value::Message(fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())
        };
        assert_eq!(
            found,
            [
                ("a".into(), word("1")),
                ("b".into(), message(vec![("c", word("-2.5e3")), ("d", word("1")), ("d", word("2"))])),
                ("e".into(), Value::Text("xy\n…\"".into())),
                ("f".into(), message(vec![("g", word("DT_FLOAT"))])),
            ]
        );
    }

    #[test]
    fn what_breaks_other_parsers() {
        let found = read("s: \"a: b {} }\" t { u: \"{\" }").unwrap();
        assert_eq!(found[0].1, Value::Text("a: b {} }".into()));
    }

    #[test]
    fn damage_is_located() {
        let said = |text: &str| read(text).unwrap_err().to_string();
        assert!(said("a: 1\nb: \"x").contains("line 2: expected a closing quote"));
        assert!(said("a { b: 1").contains("expected }"));
        assert!(said("a: !").contains("expected a value, found \"!\""));
        assert!(said(&"a {".repeat(100)).contains("nested less deeply"));
    }
}
