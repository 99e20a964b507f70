//! Reads a pickle as a description: which containers it builds and which calls it asks for. Nothing is ever
//! imported or called; a call outside the caller's list ends the reading.

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

use crate::{Error, Result};

/// A value on the pickle's stack. Cheap to copy: containers are indices, so sharing and cycles cost nothing
/// and dropping never recurses.
#[derive(Clone, Debug)]
pub(super) enum Value {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Rc<str>),
    /// Bytes and integers beyond 64 bits: nothing a tensor is described with.
    Opaque,
    Global(Rc<Global>),
    Node(usize),
}

/// A name that the pickle would import.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Global {
    pub(super) module: String,
    pub(super) name: String,
}

/// What a value can refer to.
#[derive(Debug)]
pub(super) enum Node {
    Tuple(Vec<Value>),
    List(Vec<Value>),
    Dict(Vec<(Value, Value)>),
    /// A call the pickle asks for, with its argument tuple.
    Call(Rc<Global>, Value),
    /// A reference that the writer resolves itself: torch's storages.
    Persistent(Value),
}

/// What to make of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Policy {
    /// Ends the reading.
    Refuse,
    /// Becomes a [`Node::Call`].
    Describe,
    /// Becomes a [`Node::Dict`].
    Dict,
}

/// A whole pickle.
#[derive(Debug)]
pub(super) struct Pickle {
    pub(super) root: Value,
    pub(super) nodes: Vec<Node>,
}

/// Reads one pickle of protocol 0 to 5.
pub(super) fn parse(bytes: &[u8], path: &Path, policy: fn(&Global) -> Policy) -> Result<Pickle> {
    let mut machine = Machine {
        bytes,
        at: 0,
        path,
        policy,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: BTreeMap::new(),
        nodes: Vec::new(),
    };
    let root = machine.run()?;
    Ok(Pickle { root, nodes: machine.nodes })
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    path: &'a Path,
    policy: fn(&Global) -> Policy,
    stack: Vec<Value>,
    marks: Vec<usize>,
    memo: BTreeMap<u64, Value>,
    nodes: Vec<Node>,
}

impl Machine<'_> {
    fn bad(&self, expected: impl Into<String>, found: impl Into<String>) -> Error {
        Error::malformed(self.path, format!("pickle at byte {}", self.at), expected, found)
    }

    fn run(&mut self) -> Result<Value> {
        loop {
            let opcode = self.take(1)?[0];
            if opcode == b'.' {
                return self.pop();
            }
            self.step(opcode)?;
        }
    }

    #[expect(clippy::too_many_lines, reason = "one line per opcode is the clearest form of the table")]
    fn step(&mut self, opcode: u8) -> Result<()> {
        match opcode {
            // Framing: a protocol number, or a length that only helps buffering.
            0x80 => drop(self.take(1)?),
            0x95 => drop(self.take(8)?),
            // The stack itself.
            b'(' => self.marks.push(self.stack.len()),
            b'0' => {
                if self.marks.last() == Some(&self.stack.len()) {
                    self.marks.pop();
                } else {
                    self.pop()?;
                }
            }
            b'1' => drop(self.pop_mark()?),
            b'2' => {
                let top = self.stack.last().cloned();
                self.stack.push(top.ok_or_else(|| self.bad("a value to copy", "an empty stack"))?);
            }
            // The memo.
            b'p' => {
                let key = self.line_number()?;
                self.remember(key)?;
            }
            b'q' => {
                let key = self.number(1)?;
                self.remember(key)?;
            }
            b'r' => {
                let key = self.number(4)?;
                self.remember(key)?;
            }
            0x94 => self.remember(self.memo.len() as u64)?,
            b'g' => {
                let key = self.line_number()?;
                self.recall(key)?;
            }
            b'h' => {
                let key = self.number(1)?;
                self.recall(key)?;
            }
            b'j' => {
                let key = self.number(4)?;
                self.recall(key)?;
            }
            // Plain values.
            b'N' => self.stack.push(Value::None),
            0x88 => self.stack.push(Value::Bool(true)),
            0x89 => self.stack.push(Value::Bool(false)),
            b'K' => self.int(1)?,
            b'M' => self.int(2)?,
            b'J' => {
                let number = self.number(4)? as u32;
                self.stack.push(Value::Int(i64::from(number.cast_signed())));
            }
            b'I' | b'L' => self.int_line()?,
            0x8a => self.long(1)?,
            0x8b => self.long(4)?,
            b'F' => {
                let value = self.line()?.parse().map_or(Value::Opaque, Value::Float);
                self.stack.push(value);
            }
            b'G' => {
                let bits: [u8; 8] = self.take(8)?.try_into().unwrap_or_default();
                self.stack.push(Value::Float(f64::from_be_bytes(bits)));
            }
            b'X' | b'T' => self.text(4)?,
            b'U' | 0x8c => self.text(1)?,
            0x8d => self.text(8)?,
            b'V' => {
                let text = Value::Text(self.line()?.into());
                self.stack.push(text);
            }
            b'S' => {
                let text = Value::Text(self.line()?.trim_matches(['\'', '"']).into());
                self.stack.push(text);
            }
            b'B' => self.opaque(4)?,
            b'C' => self.opaque(1)?,
            0x8e | 0x96 => self.opaque(8)?,
            // Containers.
            b')' => self.push_node(Node::Tuple(Vec::new())),
            b'\x85' => self.tuple(1)?,
            b'\x86' => self.tuple(2)?,
            b'\x87' => self.tuple(3)?,
            b't' | 0x91 => {
                let items = self.pop_mark()?;
                self.push_node(Node::Tuple(items));
            }
            b']' | 0x8f => self.push_node(Node::List(Vec::new())),
            b'l' => {
                let items = self.pop_mark()?;
                self.push_node(Node::List(items));
            }
            b'a' => {
                let item = self.pop()?;
                self.extend(vec![item])?;
            }
            b'e' | 0x90 => {
                let items = self.pop_mark()?;
                self.extend(items)?;
            }
            b'}' => self.push_node(Node::Dict(Vec::new())),
            b'd' => {
                let items = self.pop_mark()?;
                self.push_node(Node::Dict(Vec::new()));
                self.set_items(items)?;
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set_items(vec![key, value])?;
            }
            b'u' => {
                let items = self.pop_mark()?;
                self.set_items(items)?;
            }
            // Names and calls.
            b'c' => {
                let global = self.global_lines()?;
                self.stack.push(Value::Global(global));
            }
            0x93 => {
                let name = self.pop()?;
                let module = self.pop()?;
                let (Value::Text(module), Value::Text(name)) = (module, name) else {
                    return Err(self.bad("two strings that name an import", "other values"));
                };
                let global = Global { module: module.to_string(), name: name.to_string() };
                self.stack.push(Value::Global(Rc::new(global)));
            }
            b'R' | 0x81 => {
                let arguments = self.pop()?;
                let callee = self.pop()?;
                self.call(&callee, arguments)?;
            }
            0x92 => {
                self.pop()?;
                let arguments = self.pop()?;
                let callee = self.pop()?;
                self.call(&callee, arguments)?;
            }
            b'i' => {
                let global = self.global_lines()?;
                let items = self.pop_mark()?;
                let arguments = self.node(Node::Tuple(items));
                self.call(&Value::Global(global), arguments)?;
            }
            b'o' => {
                let mut items = self.pop_mark()?;
                if items.is_empty() {
                    return Err(self.bad("a class to build", "nothing"));
                }
                let callee = items.remove(0);
                let arguments = self.node(Node::Tuple(items));
                self.call(&callee, arguments)?;
            }
            b'b' => self.build()?,
            b'Q' => {
                let id = self.pop()?;
                self.push_node(Node::Persistent(id));
            }
            b'P' | 0x82..=0x84 | 0x97 | 0x98 => {
                let reason = format!("its pickle uses opcode 0x{opcode:02x}, which torch.save never writes");
                return Err(Error::refused(self.path, reason));
            }
            other => return Err(self.bad("a pickle opcode", format!("byte 0x{other:02x}"))),
        }
        Ok(())
    }

    fn take(&mut self, len: usize) -> Result<&[u8]> {
        let left = self.bytes.len() - self.at;
        if len > left {
            return Err(self.bad(format!("{len} more bytes"), format!("{left}")));
        }
        self.at += len;
        Ok(&self.bytes[self.at - len..self.at])
    }

    /// A little-endian number of up to 8 bytes.
    fn number(&mut self, len: usize) -> Result<u64> {
        Ok(self.take(len)?.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    fn line(&mut self) -> Result<String> {
        let len = self.bytes[self.at..].iter().position(|&byte| byte == b'\n');
        let len = len.ok_or_else(|| self.bad("the end of a line", "the end of the pickle"))?;
        let line = String::from_utf8_lossy(self.take(len)?).into_owned();
        self.at += 1;
        Ok(line)
    }

    fn line_number(&mut self) -> Result<u64> {
        let line = self.line()?;
        line.trim().parse().map_err(|_| self.bad("a memo number", line))
    }

    fn sized(&mut self, width: usize) -> Result<&[u8]> {
        let len = self.number(width)?;
        self.take(usize::try_from(len).unwrap_or(usize::MAX))
    }

    fn text(&mut self, width: usize) -> Result<()> {
        let text = Value::Text(String::from_utf8_lossy(self.sized(width)?).into());
        self.stack.push(text);
        Ok(())
    }

    fn opaque(&mut self, width: usize) -> Result<()> {
        self.sized(width)?;
        self.stack.push(Value::Opaque);
        Ok(())
    }

    fn int(&mut self, width: usize) -> Result<()> {
        let number = self.number(width)?;
        self.stack.push(Value::Int(number.cast_signed()));
        Ok(())
    }

    fn int_line(&mut self) -> Result<()> {
        let line = self.line()?;
        self.stack.push(match line.as_str() {
            "00" => Value::Bool(false),
            "01" => Value::Bool(true),
            digits => digits.trim_end_matches('L').parse().map_or(Value::Opaque, Value::Int),
        });
        Ok(())
    }

    fn long(&mut self, width: usize) -> Result<()> {
        let bytes = self.sized(width)?;
        let value = if bytes.len() <= 8 {
            let fill = if bytes.last().is_some_and(|byte| byte & 0x80 != 0) { 0xff } else { 0 };
            let mut wide = [fill; 8];
            wide[..bytes.len()].copy_from_slice(bytes);
            Value::Int(i64::from_le_bytes(wide))
        } else {
            Value::Opaque
        };
        self.stack.push(value);
        Ok(())
    }

    fn pop(&mut self) -> Result<Value> {
        // A mark fences off what lies below it.
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err(self.bad("a value on the stack", "none"));
        }
        Ok(self.stack.pop().unwrap_or(Value::None))
    }

    fn pop_mark(&mut self) -> Result<Vec<Value>> {
        let mark = self.marks.pop().ok_or_else(|| self.bad("a mark on the stack", "none"))?;
        Ok(self.stack.split_off(mark))
    }

    fn remember(&mut self, key: u64) -> Result<()> {
        let top = self.stack.last().cloned().ok_or_else(|| self.bad("a value to remember", "none"))?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, key: u64) -> Result<()> {
        let value = self.memo.get(&key).cloned();
        self.stack.push(value.ok_or_else(|| self.bad(format!("memo entry {key}"), "none"))?);
        Ok(())
    }

    fn node(&mut self, node: Node) -> Value {
        self.nodes.push(node);
        Value::Node(self.nodes.len() - 1)
    }

    fn push_node(&mut self, node: Node) {
        let value = self.node(node);
        self.stack.push(value);
    }

    fn tuple(&mut self, len: usize) -> Result<()> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let start = self.stack.len().checked_sub(len).filter(|&start| start >= floor);
        let start = start.ok_or_else(|| self.bad(format!("{len} values for a tuple"), "fewer"))?;
        let items = self.stack.split_off(start);
        self.push_node(Node::Tuple(items));
        Ok(())
    }

    /// The container that the top of the stack refers to.
    fn top_node(&mut self) -> Result<&mut Node> {
        match self.stack.last() {
            Some(&Value::Node(index)) => Ok(&mut self.nodes[index]),
            _ => Err(self.bad("a container on the stack", "something else")),
        }
    }

    fn extend(&mut self, items: Vec<Value>) -> Result<()> {
        match self.top_node()? {
            Node::List(list) => list.extend(items),
            // A described call may be asked to append (a torch container): its items are not tensors' data.
            Node::Call(..) => {}
            _ => return Err(self.bad("a list to append to", "another container")),
        }
        Ok(())
    }

    fn set_items(&mut self, items: Vec<Value>) -> Result<()> {
        if !items.len().is_multiple_of(2) {
            return Err(self.bad("keys and values in pairs", format!("{} of them", items.len())));
        }
        let Node::Dict(entries) = self.top_node()? else {
            return Err(self.bad("a dictionary to set items of", "another container"));
        };
        let mut items = items.into_iter();
        while let (Some(key), Some(value)) = (items.next(), items.next()) {
            entries.push((key, value));
        }
        Ok(())
    }

    fn global_lines(&mut self) -> Result<Rc<Global>> {
        let module = self.line()?;
        let name = self.line()?;
        Ok(Rc::new(Global { module, name }))
    }

    fn call(&mut self, callee: &Value, arguments: Value) -> Result<()> {
        let Value::Global(global) = callee else {
            return Err(Error::refused(self.path, "the pickle asks to call something it computed itself"));
        };
        match (self.policy)(global) {
            Policy::Refuse => Err(Error::refused(self.path, call_refused(global))),
            Policy::Describe => {
                self.push_node(Node::Call(Rc::clone(global), arguments));
                Ok(())
            }
            Policy::Dict => {
                let entries = self.pairs(&arguments);
                self.push_node(Node::Dict(entries));
                Ok(())
            }
        }
    }

    /// The items of a dictionary that is built from a list of pairs, as old protocols do.
    fn pairs(&self, arguments: &Value) -> Vec<(Value, Value)> {
        let items = |value: &Value| match value {
            Value::Node(index) => match &self.nodes[*index] {
                Node::Tuple(items) | Node::List(items) => items.as_slice(),
                _ => &[],
            },
            _ => &[],
        };
        let pairs = items(arguments).iter().flat_map(items);
        pairs
            .filter_map(|pair| match items(pair) {
                [key, value] => Some((key.clone(), value.clone())),
                _ => None,
            })
            .collect()
    }

    /// State that is set on an object: it concerns attributes, never the data of a tensor.
    fn build(&mut self) -> Result<()> {
        self.pop()?;
        match self.stack.last() {
            Some(Value::Node(_)) => Ok(()),
            Some(Value::Global(global)) => {
                let reason = format!("the pickle asks to change {}.{}", global.module, global.name);
                Err(Error::refused(self.path, reason))
            }
            _ => Err(self.bad("an object whose state to set", "something else")),
        }
    }
}

/// Why a call is not made.
pub(super) fn call_refused(global: &Global) -> String {
    let name: String = format!("{}.{}", global.module, global.name).chars().take(200).collect();
    format!(
        "the pickle asks to call {name}; llmdbg never runs code from a dump (save plain tensors, or a dict \
         of them such as model.state_dict())"
    )
}
