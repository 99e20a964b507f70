//! JSON files of any origin: bounded in size and depth, Python's bare `NaN` and `Infinity` understood.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::Value;

use crate::{Error, Result};

/// Largest file that is read: a hundred times the largest real one met.
const MAX_BYTES: u64 = 1 << 30;

/// Reads and parses a file.
pub(crate) fn read(path: &Path) -> Result<Value> {
    let text = read_bytes(path)?;
    parse(&text).map_err(|error| Error::malformed(path, "JSON", "a complete document", error.to_string()))
}

/// Reads a whole small file, refusing one that is no small file.
pub(crate) fn read_bytes(path: &Path) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    let meta = file.metadata().map_err(Error::io("look at", path))?;
    if !meta.is_file() {
        return Err(Error::malformed(path, "description file", "a regular file", "something else"));
    }
    if meta.len() > MAX_BYTES {
        let found = format!("{} bytes", meta.len());
        return Err(Error::malformed(path, "description file", format!("at most {MAX_BYTES} bytes"), found));
    }
    let mut bytes = Vec::with_capacity(meta.len() as usize);
    file.take(MAX_BYTES).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    Ok(bytes)
}

/// Parses; non-finite numbers, which Python writes as bare words, become the strings `NaN`, `Infinity`, `-Infinity`.
pub(crate) fn parse(text: &[u8]) -> serde_json::Result<Value> {
    serde_json::from_slice(text).or_else(|error| match quote_bare_words(text) {
        Some(quoted) => serde_json::from_slice(&quoted),
        None => Err(error),
    })
}

/// The text with each bare non-finite word in quotes; `None` when there is none.
fn quote_bare_words(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let (mut copied, mut at, mut in_string) = (0, 0, false);
    while at < text.len() {
        match text[at] {
            b'\\' if in_string => at += 1,
            b'"' => in_string = !in_string,
            b'N' | b'I' | b'-' if !in_string => {
                let words: [&[u8]; 3] = [b"NaN", b"Infinity", b"-Infinity"];
                if let Some(word) = words.into_iter().find(|w| text[at..].starts_with(w)) {
                    out.extend_from_slice(&text[copied..at]);
                    out.push(b'"');
                    out.extend_from_slice(word);
                    out.push(b'"');
                    at += word.len();
                    copied = at;
                    continue;
                }
            }
            _ => {}
        }
        at += 1;
    }
    (copied > 0).then(|| {
        out.extend_from_slice(&text[copied..]);
        out
    })
}

/// A number, also where it is written as a word or a boolean.
pub(crate) fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(n) => n.as_f64(),
        Value::Bool(b) => Some(f64::from(u8::from(*b))),
        Value::String(text) => parse_number(text),
        _ => None,
    }
}

/// A decimal number, `nan` or `inf` in any producer's spelling; `None` for `N/A` and other text.
pub(crate) fn parse_number(text: &str) -> Option<f64> {
    text.trim().parse().ok()
}

/// The name of a JSON value's type, for messages.
pub(crate) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn bare_words_of_python_are_understood() {
        let text = br#"{"NaN": NaN, "a\"-Infinity": [-Infinity, Infinity, -1, "NaN, \\"]}"#;
        let expected = json!({"NaN": "NaN", "a\"-Infinity": ["-Infinity", "Infinity", -1, "NaN, \\"]});
        assert_eq!(parse(text).unwrap(), expected);
        assert!(number(&json!("NaN")).unwrap().is_nan());
        assert_eq!(number(&json!("-Infinity")), Some(f64::NEG_INFINITY));
        assert_eq!(number(&json!("N/A")), None);
        assert_eq!(number(&json!(true)), Some(1.0));
    }

    #[test]
    fn depth_is_bounded() {
        let deep = "[".repeat(100_000);
        assert!(parse(deep.as_bytes()).unwrap_err().to_string().contains("recursion limit"));
    }
}
