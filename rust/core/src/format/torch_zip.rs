//! `torch.save` files since torch 1.6: a zip with a pickle that describes tensors and one member per storage.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::entry::{Entry, View};
use super::input::Input;
use super::pickle::{self, Global, Node, Pickle, Policy, Value};
use super::zip::{self, Member};
use crate::dtype::Kind;
use crate::{DType, Error, Result, TensorInfo};

/// A pickle of 100 000 tensors has about 16 MB; each of its bytes can cost tens of bytes of memory.
const MAX_PICKLE: u64 = 32 << 20;
const MAX_NESTING: usize = 100;

/// Every tensor of the saved object, in stored order, named by its path in it: `model.layers.0.weight`.
pub(super) fn parse(input: &Input) -> Result<Vec<Entry>> {
    let members = zip::members(input)?;
    let Some(main) = members.iter().find(|m| m.name == "data.pkl" || m.name.ends_with("/data.pkl")) else {
        return Err(Error::refused(&input.path, "a zip without data.pkl: not written by torch.save"));
    };
    let prefix = main.name.strip_suffix("data.pkl").unwrap_or_default().to_owned();
    let script = members.iter().any(|m| {
        m.name.strip_prefix(&prefix).is_some_and(|name| name == "constants.pkl" || name.starts_with("code/"))
    });
    if script {
        return Err(Error::refused(
            &input.path,
            "a TorchScript archive holds a program; load it with torch.jit.load and torch.save its state_dict()",
        ));
    }
    let bytes = small_member(input, main, MAX_PICKLE)?;
    let pickle = pickle::parse(&bytes, &input.path, policy)?;
    let members: BTreeMap<&str, &Member> =
        members.iter().filter_map(|m| Some((m.name.strip_prefix(&prefix)?, m))).collect();
    let big_endian = match members.get("byteorder") {
        None => false,
        Some(member) => match small_member(input, member, 16)?.as_slice() {
            b"little" => false,
            b"big" => true,
            other => {
                let found = String::from_utf8_lossy(other).into_owned();
                return Err(Error::malformed(&input.path, "byteorder", "little or big", found));
            }
        },
    };
    let mut reader = Reader {
        input,
        members,
        big_endian,
        pickle: &pickle,
        visits: 2 * bytes.len() + 1000,
        key_bytes: 16 * bytes.len() + (1 << 16),
        entries: Vec::new(),
    };
    reader.walk(&pickle.root, String::new(), 0)?;
    Ok(number_doubles(reader.entries))
}

fn small_member(input: &Input, member: &Member, limit: u64) -> Result<Vec<u8>> {
    if member.len > limit {
        let reason = format!("{} has {} bytes, more than the {limit} that are read", member.name, member.len);
        return Err(Error::refused(&input.path, reason));
    }
    let packed = member.packed(input)?;
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut std::io::Read::take(packed.reader()?, member.len), &mut bytes)
        .map_err(|e| Error::malformed(&input.path, &member.name, "readable bytes", e.to_string()))?;
    if bytes.len() as u64 != member.len {
        let expected = format!("{} bytes", member.len);
        return Err(Error::malformed(&input.path, &member.name, expected, bytes.len().to_string()));
    }
    Ok(bytes)
}

/// Two paths can be spelled alike (`{"a.b": …, "a": {"b": …}}`): later ones get a number.
fn number_doubles(mut entries: Vec<Entry>) -> Vec<Entry> {
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    for entry in &mut entries {
        let count = seen.entry(entry.key.clone()).or_default();
        *count += 1;
        if *count > 1 {
            entry.key = format!("{}#{count}", entry.key);
        }
    }
    entries
}

/// What a call in the pickle means.
enum Callee {
    /// `(storage, offset, size, stride, requires_grad, hooks, …)`.
    Tensor,
    /// The same with the dtype behind the hooks, for dtypes without a storage class.
    TensorWithDtype,
    /// The first argument is the tensor.
    Wrapper,
    /// `(function, class, arguments, state)`: an instance of a subclass, or a tensor with attributes.
    Subclass,
    /// A value that is no tensor.
    Plain,
    /// A tensor whose bytes do not lie in one strided storage.
    Unreadable,
}

fn callee(global: &Global) -> Option<Callee> {
    Some(match (global.module.as_str(), global.name.as_str()) {
        ("torch._utils", "_rebuild_tensor_v2")
        // torch_npu wraps the same arguments; the bytes are the logical tensor's, the format only a hint.
        | ("torch_npu.utils.storage", "_rebuild_npu_tensor") => Callee::Tensor,
        ("torch._utils", "_rebuild_tensor_v3") => Callee::TensorWithDtype,
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => Callee::Wrapper,
        ("torch._tensor", "_rebuild_from_type_v2") => Callee::Subclass,
        ("torch._utils" | "torch._tensor", name) if name.starts_with("_rebuild_") => Callee::Unreadable,
        ("torch", "Size" | "device")
        | ("torch.serialization", "_get_layout")
        | ("torch_npu.npu._format", "Format")
        | ("_codecs", "encode")
        | ("builtins" | "__builtin__", "set" | "frozenset" | "complex" | "bytearray" | "slice" | "range") => {
            Callee::Plain
        }
        _ => return None,
    })
}

fn policy(global: &Global) -> Policy {
    match (global.module.as_str(), global.name.as_str()) {
        ("collections", "OrderedDict" | "defaultdict") => Policy::Dict,
        _ if callee(global).is_some() => Policy::Describe,
        _ => Policy::Refuse,
    }
}

/// Element type of a storage class; `None` for one without (`UntypedStorage` counts bytes).
fn storage_dtype(name: &str) -> Option<DType> {
    Some(match name {
        "DoubleStorage" => DType::Float64,
        "FloatStorage" => DType::Float32,
        "HalfStorage" => DType::Float16,
        "BFloat16Storage" => DType::BFloat16,
        "LongStorage" => DType::Int64,
        "IntStorage" => DType::Int32,
        "ShortStorage" => DType::Int16,
        "CharStorage" => DType::Int8,
        "ByteStorage" | "UntypedStorage" => DType::UInt8,
        "BoolStorage" => DType::Bool,
        "ComplexFloatStorage" => DType::Complex64,
        "ComplexDoubleStorage" => DType::Complex128,
        _ => return None,
    })
}

struct Reader<'a> {
    input: &'a Input,
    members: BTreeMap<&'a str, &'a Member>,
    big_endian: bool,
    pickle: &'a Pickle,
    /// Values still allowed to be looked at: a few shared containers can spell out endless trees.
    visits: usize,
    key_bytes: usize,
    entries: Vec<Entry>,
}

impl<'a> Reader<'a> {
    fn walk(&mut self, value: &Value, key: String, depth: usize) -> Result<()> {
        self.charge(key.len())?;
        if depth > MAX_NESTING {
            let reason = format!("its containers are nested deeper than {MAX_NESTING}");
            return Err(Error::refused(&self.input.path, reason));
        }
        let index = match value {
            Value::Node(index) => *index,
            Value::Global(global) if !is_harmless_name(global) => {
                let reason = pickle::call_refused(global).replacen("call", "import", 1);
                return Err(Error::refused(&self.input.path, reason));
            }
            _ => return Ok(()),
        };
        let pickle = self.pickle;
        match &pickle.nodes[index] {
            Node::Tuple(items) | Node::List(items) => {
                for (i, item) in items.iter().enumerate() {
                    self.walk(item, join(&key, &i.to_string()), depth + 1)?;
                }
            }
            Node::Dict(items) => {
                // A key that is set again replaces the value but keeps its place, as in Python.
                let mut last: BTreeMap<(bool, String), (usize, &Value)> = BTreeMap::new();
                for (i, (name, value)) in items.iter().enumerate() {
                    self.charge(if let Value::Text(text) = name { text.len() } else { 0 })?;
                    let name = (matches!(name, Value::Text(_)), key_text(name, i));
                    last.entry(name).or_insert((i, value)).1 = value;
                }
                let mut ordered: Vec<_> = last.into_iter().collect();
                ordered.sort_by_key(|(_, (i, _))| *i);
                for ((_, name), (_, value)) in ordered {
                    self.walk(value, join(&key, &name), depth + 1)?;
                }
            }
            Node::Call(global, arguments) => {
                if let Some(view) = self.call(global, arguments, depth) {
                    self.entries.push(Entry { key, view });
                }
            }
            Node::Persistent(_) => {
                let reason = "a bare storage, not a tensor; save the tensor itself";
                self.entries.push(Entry { key, view: Err(Error::refused(&self.input.path, reason)) });
            }
        }
        Ok(())
    }

    /// Pays for looking at one more value, out of what the size of the pickle allows.
    fn charge(&mut self, key_bytes: usize) -> Result<()> {
        let left = self.visits.checked_sub(1).zip(self.key_bytes.checked_sub(key_bytes));
        let again = "the pickle refers to the same containers over and over";
        (self.visits, self.key_bytes) = left.ok_or_else(|| Error::refused(&self.input.path, again))?;
        Ok(())
    }

    /// The tensor that a call builds; `None` for calls that build something else.
    fn call(&mut self, global: &Rc<Global>, arguments: &Value, depth: usize) -> Option<Result<View>> {
        let arguments = self.items(arguments);
        match callee(global)? {
            Callee::Plain => None,
            Callee::Tensor => Some(self.tensor(arguments, None)),
            Callee::TensorWithDtype => Some(self.tensor(arguments, arguments.get(6))),
            Callee::Wrapper => self.inner(arguments.first(), depth),
            Callee::Subclass => {
                let Some(Value::Global(function)) = arguments.first() else {
                    return Some(Err(self.malformed("a function that rebuilds a tensor", "another value")));
                };
                if depth > MAX_NESTING || callee(function).is_none() {
                    return Some(Err(Error::refused(&self.input.path, pickle::call_refused(function))));
                }
                let view = self.call(function, arguments.get(2).unwrap_or(&Value::None), depth + 1)?;
                Some(view.map(|view| match arguments.get(1) {
                    Some(Value::Global(class)) if !is_torch(class) => {
                        let class = format!("{}.{}", class.module, class.name);
                        view.with_notes(vec![format!("a {class}, read as a plain tensor")])
                    }
                    _ => view,
                }))
            }
            Callee::Unreadable => {
                let reason = format!(
                    "{}.{} builds a sparse, quantised, wrapped or meta tensor; save .to_dense(), .dequantize() \
                     or a plain copy of it",
                    global.module, global.name
                );
                Some(Err(Error::refused(&self.input.path, reason)))
            }
        }
    }

    /// The tensor inside a Parameter.
    fn inner(&mut self, value: Option<&Value>, depth: usize) -> Option<Result<View>> {
        let pickle = self.pickle;
        match value {
            Some(&Value::Node(index)) if depth <= MAX_NESTING => match &pickle.nodes[index] {
                Node::Call(global, arguments) => self.call(global, arguments, depth + 1),
                _ => Some(Err(self.malformed("a tensor in the Parameter", "another value"))),
            },
            _ => Some(Err(self.malformed("a tensor in the Parameter", "another value"))),
        }
    }

    fn tensor(&self, arguments: &'a [Value], dtype: Option<&'a Value>) -> Result<View> {
        let [storage, first, size, stride, ..] = arguments else {
            return Err(self.malformed("storage, offset, size and stride", "fewer arguments"));
        };
        let numbers = |value: &Value| self.items(value).iter().map(number).collect::<Option<Vec<u64>>>();
        let (Some(first), Some(shape), Some(strides)) = (number(first), numbers(size), numbers(stride))
        else {
            return Err(self.malformed("offset, sizes and strides of at least 0", "other values"));
        };
        if let Some(flag) = arguments[4..].iter().find_map(|argument| self.lazy_flag(argument)) {
            let reason = format!("a view with its {flag} bit set; save .resolve_{flag}() of it");
            return Err(Error::refused(&self.input.path, reason));
        }
        let (class, key, count) = self.storage(storage)?;
        let Some(storage_dtype) = storage_dtype(&class.name).filter(|_| is_torch(class)) else {
            let reason = format!("a tensor of {}.{}, which llmdbg does not know", class.module, class.name);
            return Err(Error::refused(&self.input.path, reason));
        };
        let dtype = match dtype {
            None => storage_dtype,
            Some(Value::Global(name)) => DType::from_name(&name.name)
                .filter(|dtype| name.module == "torch" && !matches!(dtype.kind(), Kind::Raw))
                .ok_or_else(|| {
                    let reason = format!("dtype {}.{}, which llmdbg does not know", name.module, name.name);
                    Error::refused(&self.input.path, reason)
                })?,
            Some(_) => return Err(self.malformed("a dtype", "another value")),
        };
        let Some(member) = self.members.get(format!("data/{key}").as_str()) else {
            return Err(self.malformed(format!("storage data/{key}"), "no such member of the archive"));
        };
        let mut packed = member.packed(self.input)?;
        let len = count.checked_mul(storage_dtype.size() as u64).filter(|&len| len <= packed.len);
        let Some(len) = len else {
            let expected = format!("{count} elements of {storage_dtype}");
            return Err(self.malformed(expected, format!("{} bytes in data/{key}", packed.len)));
        };
        if packed.is_plain() {
            (packed.coded_len, packed.len) = (len, len);
        }
        if self.big_endian {
            packed.swap = if dtype.kind() == Kind::Complex { dtype.size() / 2 } else { dtype.size() };
        }
        View::packed(TensorInfo::new(dtype, shape), Some(strides), first, packed)
    }

    /// Class, name and length of a storage.
    fn storage(&self, value: &Value) -> Result<(&'a Global, &'a str, u64)> {
        let pickle = self.pickle;
        if let Value::Node(index) = value
            && let Node::Persistent(id) = &pickle.nodes[*index]
            && let [Value::Text(tag), Value::Global(class), Value::Text(key), _, count, ..] = self.items(id)
            && tag.as_ref() == "storage"
            && let Some(count) = number(count)
        {
            return Ok((class, key, count));
        }
        Err(self.malformed("a reference to a storage", "another value"))
    }

    /// `conj` or `neg`, when a metadata argument says that the values are stored without it.
    fn lazy_flag(&self, argument: &Value) -> Option<&'static str> {
        let &Value::Node(index) = argument else { return None };
        let Node::Dict(entries) = &self.pickle.nodes[index] else { return None };
        entries.iter().find_map(|(name, value)| match (name, value) {
            (Value::Text(name), Value::Bool(true)) => ["conj", "neg"].into_iter().find(|f| *f == &**name),
            _ => None,
        })
    }

    fn items(&self, value: &Value) -> &'a [Value] {
        match value {
            Value::Node(index) => match &self.pickle.nodes[*index] {
                Node::Tuple(items) | Node::List(items) => items,
                // torch.Size((2, 3)) stands where a tuple could.
                Node::Call(global, Value::Node(index)) if global.name == "Size" => {
                    match &self.pickle.nodes[*index] {
                        Node::Tuple(items) => match items.as_slice() {
                            [Value::Node(inner)] => match &self.pickle.nodes[*inner] {
                                Node::Tuple(items) | Node::List(items) => items,
                                _ => &[],
                            },
                            _ => &[],
                        },
                        _ => &[],
                    }
                }
                _ => &[],
            },
            _ => &[],
        }
    }

    fn malformed(&self, expected: impl Into<String>, found: impl Into<String>) -> Error {
        Error::malformed(&self.input.path, "tensor in the pickle", expected, found)
    }
}

fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Int(number) => u64::try_from(*number).ok(),
        _ => None,
    }
}

fn is_torch(global: &Global) -> bool {
    global.module == "torch" || global.module.starts_with("torch.")
}

/// Names that stand for a value: dtypes, memory formats, layouts. They are read, never imported.
fn is_harmless_name(global: &Global) -> bool {
    is_torch(global) || global.module == "collections"
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn key_text(key: &Value, position: usize) -> String {
    match key {
        Value::Text(text) => text.to_string(),
        Value::Int(number) => number.to_string(),
        Value::Bool(true) => "True".into(),
        Value::Bool(false) => "False".into(),
        Value::None => "None".into(),
        Value::Float(number) => number.to_string(),
        // A tuple or another object as key: its place in the dictionary names it.
        Value::Opaque | Value::Global(_) | Value::Node(_) => format!("[{position}]"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::{archive, bytes_of, mutated, read, survives};

    fn text(text: &str) -> Vec<u8> {
        [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
    }

    fn int(number: u64) -> Vec<u8> {
        [b"\x8a\x08", &number.to_le_bytes()[..]].concat()
    }

    fn ints(numbers: &[u64]) -> Vec<u8> {
        [b"(".to_vec(), numbers.iter().flat_map(|number| int(*number)).collect(), b"t".to_vec()].concat()
    }

    /// The call that rebuilds a float32 tensor on storage 0.
    fn tensor(count: u64, first: u64, shape: &[u64], strides: &[u64]) -> Vec<u8> {
        [
            b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec(),
            text("storage"),
            b"ctorch\nFloatStorage\n".to_vec(),
            text("0"),
            text("cpu"),
            int(count),
            b"tQ".to_vec(),
            int(first),
            ints(shape),
            ints(strides),
            b"\x89ccollections\nOrderedDict\n)RtR".to_vec(),
        ]
        .concat()
    }

    fn file(pickle: &[u8], storage: &[u8]) -> Vec<u8> {
        archive(&[
            ("x/data.pkl", pickle),
            ("x/byteorder", b"little"),
            ("x/data/0", storage),
            ("x/version", b"3"),
        ])
    }

    fn nested() -> Vec<u8> {
        let one = tensor(6, 0, &[2, 3], &[3, 1]);
        let two = tensor(6, 1, &[2], &[2]);
        [&b"\x80\x02}("[..], &text("a"), b"]", &one, b"a", &text("b"), b"(", &two, b"Ntu."].concat()
    }

    #[test]
    fn containers_become_paths() {
        let got = read(".pt", &file(&nested(), &[5; 24])).unwrap();
        let keys: Vec<&str> = got.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["a.0", "b.0"]);
    }

    proptest! {
        #[test]
        fn views_are_where_their_strides_say(
            storage in proptest::collection::vec(any::<f32>(), 0..60),
            first in 0u64..10,
            view in proptest::collection::vec((0u64..4, 0u64..8), 0..4),
        ) {
            let (shape, strides): (Vec<u64>, Vec<u64>) = view.into_iter().unzip();
            let bytes: Vec<u8> = storage.iter().flat_map(|number| number.to_le_bytes()).collect();
            let pickle = [tensor(storage.len() as u64, first, &shape, &strides), b".".to_vec()].concat();
            let got = read(".pt", &file(&pickle, &bytes)).unwrap().remove(0).1;
            // The oracle walks every index.
            let mut wanted = Some(vec![first]);
            for (size, stride) in shape.iter().zip(&strides) {
                wanted = wanted.map(|w| w.iter().flat_map(|at| (0..*size).map(move |i| at + i * stride)).collect());
            }
            let wanted: Option<Vec<u8>> = wanted
                .unwrap_or_default()
                .into_iter()
                .map(|at| bytes.get(4 * at as usize..4 * at as usize + 4).map(<[u8]>::to_vec))
                .collect::<Option<Vec<_>>>()
                .map(|elements| elements.concat());
            match wanted {
                Some(wanted) => prop_assert_eq!(bytes_of(&got.unwrap()), wanted),
                None => prop_assert!(got.is_err()),
            }
        }

        #[test]
        fn mutated_archives_survive(bytes in mutated(vec![file(&nested(), &[5; 24])])) {
            survives(".pt", &bytes);
        }

        #[test]
        fn mutated_pickles_survive(pickle in mutated(vec![
            nested(),
            [&b"]q\x00"[..], &tensor(6, 0, &[6], &[1]), b"ah\x00ah\x00a."].concat(),
            b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00\x8c\x05torch\x94\x8c\x04Size\x94\x93\x94(K\x01M\x01\x00t\x85R.".to_vec(),
        ])) {
            survives(".pt", &file(&pickle, &[5; 24]));
        }

        #[test]
        fn any_pickle_survives(pickle in proptest::collection::vec(any::<u8>(), 0..300)) {
            survives(".pt", &file(&pickle, &[5; 24]));
        }
    }
}
