//! ATB topology files: a model's operations with the tensors between them, and a layer's own graph.
//!
//! A first-level operation is `<name>_<number>` where the number counts over all models of the process; deeper ones
//! append their index in each parent: `Linear_3_4_0` runs in directory `3_…/4_…/0_…`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Graph, Node, NodeId, TensorId};
use crate::dump::{Problems, json, natural_cmp};
use crate::{Error, Result};

/// How far a model's numbers are sought to be off: stand-alone operations use numbers up.
const MAX_SHIFT: i64 = 64;

/// One operation as its file describes it.
#[derive(Clone, Debug)]
pub(crate) struct Op {
    /// Name without numbers: what follows the number in the directory's name.
    name: String,
    /// `opType`, which is the name for all but graph operations.
    kind: String,
    /// Its number: the leading integer of its directory.
    id: u64,
    params: Value,
    inputs: Vec<String>,
    outputs: Vec<String>,
    internals: Vec<String>,
    children: Vec<Op>,
}

/// One model of the process.
#[derive(Debug)]
pub(crate) struct Model {
    path: PathBuf,
    name: String,
    ops: Vec<Op>,
}

impl Model {
    /// The number of its first operation, by which models are ordered.
    pub(crate) fn first(&self) -> Option<u64> {
        self.ops.first().map(|op| op.id)
    }

    /// How many first-level operations it has.
    pub(crate) fn len(&self) -> usize {
        self.ops.len()
    }

    /// Name, first and last number, for `about`.
    pub(crate) fn about(&self) -> Value {
        let ids = || self.ops.iter().map(|op| op.id);
        serde_json::json!({"name": self.name, "first": ids().min(), "last": ids().max()})
    }
}

/// Reads a model's file. Numbers that its operations lack are counted on from `next`.
pub(crate) fn read_model(path: &Path, next: u64, problems: &mut Problems) -> Result<Model> {
    let value = read_object(path, "model topology")?;
    let nodes = list(&value, "nodes", path)?;
    let ops = nodes.iter().zip(next..).map(|(node, index)| read_op(node, 1, index, path, problems));
    let name = value.get("modelName").and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok(Model { path: path.to_owned(), name, ops: ops.collect::<Result<_>>()? })
}

/// Reads a layer's file: one first-level operation with its inner graph.
pub(crate) fn read_layer(path: &Path, problems: &mut Problems) -> Result<Op> {
    let value = read_object(path, "layer topology")?;
    if value.get("opName").and_then(Value::as_str).is_none() {
        return Err(Error::malformed(path, "layer topology", "an opName", "none"));
    }
    read_op(&value, 1, 0, path, problems)
}

fn read_object(path: &Path, what: &str) -> Result<Value> {
    let value = json::read(path)?;
    if value.is_object() {
        return Ok(value);
    }
    Err(Error::malformed(path, what, "an object", json::type_name(&value)))
}

fn list<'a>(value: &'a Value, key: &str, path: &Path) -> Result<&'a [Value]> {
    match value.get(key) {
        None | Some(Value::Null) => Ok(&[]),
        Some(Value::Array(items)) => Ok(items),
        Some(other) => Err(Error::malformed(path, key, "a list", json::type_name(other))),
    }
}

fn names(value: &Value, key: &str, path: &Path) -> Result<Vec<String>> {
    Ok(list(value, key, path)?.iter().map(|name| name.as_str().unwrap_or("?").to_owned()).collect())
}

fn read_op(value: &Value, depth: usize, index: u64, path: &Path, problems: &mut Problems) -> Result<Op> {
    let text = |key| value.get(key).and_then(Value::as_str);
    // A plugin operation tells only a `name`.
    let full = text("opName").or_else(|| text("name"));
    let numbered = full.and_then(|full| split_numbers(full, depth));
    let (name, id) = if let Some((name, id)) = numbered {
        (name.to_owned(), id)
    } else {
        let called = full.or_else(|| text("opType")).unwrap_or_default();
        let example = format!("{called:?} at place {index}: {}", path.display());
        problems.count("without a number in its opName, placed by position", "operation", example);
        (called.to_owned(), index)
    };
    let children = list(value, "nodes", path)?.iter().zip(0..);
    Ok(Op {
        kind: text("opType").unwrap_or(&name).to_owned(),
        name,
        id,
        params: value.get("param").filter(|p| !is_blank(p)).cloned().unwrap_or(Value::Null),
        inputs: names(value, "inTensors", path)?,
        outputs: names(value, "outTensors", path)?,
        internals: names(value, "internalTensors", path)?,
        children: children
            .map(|(child, index)| read_op(child, depth + 1, index, path, problems))
            .collect::<Result<_>>()?,
    })
}

/// Graph operations have an empty string for parameters.
fn is_blank(params: &Value) -> bool {
    params.as_str().is_some_and(str::is_empty)
}

/// `Prefill_layer_5_0` at depth 2 is `Prefill_layer` with last number 0.
fn split_numbers(full: &str, depth: usize) -> Option<(&str, u64)> {
    let mut name = full;
    let mut last = None;
    for _ in 0..depth {
        let (head, number) = name.rsplit_once('_')?;
        let number: u64 = number.parse().ok()?;
        last = last.or(Some(number));
        name = head;
    }
    Some((name, last?)).filter(|(name, _)| !name.is_empty())
}

/// Splits a directory's name, `3_Layer`, into number and text.
pub(crate) fn split_dir(name: &str) -> Option<(u64, &str)> {
    let (number, text) = name.split_once('_')?;
    let plain = !number.is_empty() && number.bytes().all(|c| c.is_ascii_digit());
    (plain && !text.is_empty()).then_some(number.parse().ok().map(|n| (n, text)))?
}

/// Ties the files to the directories met in the dump (`3_Layer/0_Linear`, …) and gives the graph of both.
/// What does not fit is told; a model that fits nowhere is left out. Where none fits, the files are another model's.
pub(crate) fn tie(
    models: &[Model],
    layers: &[Op],
    dirs: &BTreeSet<String>,
    problems: &mut Problems,
) -> Graph {
    let mut tying = Tying::new(dirs, problems);
    let layers: BTreeMap<u64, &Op> = layers.iter().map(|layer| (layer.id, layer)).collect();
    let mut tops: BTreeMap<u64, Vec<&str>> = BTreeMap::new();
    for (id, name) in dirs.iter().filter(|dir| !dir.contains('/')).filter_map(|dir| split_dir(dir)) {
        tops.entry(id).or_default().push(name);
    }
    for (id, layer) in &layers {
        tops.entry(*id).or_default().push(&layer.name);
    }
    let mut described = BTreeSet::new();
    let mut fitting = 0;
    for model in models {
        let Some((shift, fits)) = tying.shift(model, &tops) else { continue };
        fitting += usize::from(fits);
        for op in &model.ops {
            let mut op = op.clone();
            op.id = op.id.saturating_add_signed(shift);
            if !described.insert(op.id) {
                let example = format!("{}_{}: {}", op.id, op.name, model.path.display());
                tying.problems.count("whose number another model uses, left out", "operation", example);
                continue;
            }
            // The writer merges a layer into the model by number; when numbers are off it merged none or a sibling's.
            if let Some(layer) = layers.get(&op.id).filter(|_| op.children.is_empty() || shift != 0) {
                adopt(&mut op, layer);
            }
            tying.add(&op, None);
        }
    }
    for (id, layer) in &layers {
        if !described.contains(id) {
            tying.add(layer, None);
        }
    }
    tying.add_rest();
    if let (Some(model), 0, Some(dir)) = (models.first(), fitting, dirs.first()) {
        let begin = model.ops.first().map(|op| format!(" (it begins with {}_{})", op.id, op.name));
        tying.problems.fault(format!(
            "the topology{} fits none of its directories ({dir}, …): {}",
            begin.unwrap_or_default(),
            model.path.display()
        ));
    }
    tying.graph
}

/// Gives a model's operation the inner graph of its layer file, with the outer tensors under the model's names.
fn adopt(op: &mut Op, layer: &Op) {
    let outer: BTreeMap<&String, &String> =
        layer.inputs.iter().zip(&op.inputs).chain(layer.outputs.iter().zip(&op.outputs)).collect();
    let mut children = layer.children.clone();
    rename(&mut children, &outer);
    op.children = children;
    op.internals.clone_from(&layer.internals);
    if op.params.is_null() {
        op.params = layer.params.clone();
    }
}

fn rename(ops: &mut [Op], names: &BTreeMap<&String, &String>) {
    for op in ops {
        for tensor in op.inputs.iter_mut().chain(&mut op.outputs) {
            if let Some(name) = names.get(tensor) {
                tensor.clone_from(name);
            }
        }
        rename(&mut op.children, names);
    }
}

struct Tying<'a> {
    dirs: &'a BTreeSet<String>,
    /// Directory names by parent path and number.
    by_number: BTreeMap<(&'a str, u64), Vec<&'a str>>,
    problems: &'a mut Problems,
    graph: Graph,
    tensors: BTreeMap<String, TensorId>,
    nodes: BTreeMap<String, NodeId>,
    /// Nodes that a file describes as made of others.
    composed: BTreeSet<NodeId>,
}

impl<'a> Tying<'a> {
    fn new(dirs: &'a BTreeSet<String>, problems: &'a mut Problems) -> Self {
        let mut by_number: BTreeMap<_, Vec<&str>> = BTreeMap::new();
        for dir in dirs {
            let (parent, name) = dir.rsplit_once('/').unwrap_or(("", dir));
            if let Some((number, _)) = split_dir(name) {
                by_number.entry((parent, number)).or_default().push(name);
            }
        }
        Self {
            dirs,
            by_number,
            problems,
            graph: Graph::default(),
            tensors: BTreeMap::new(),
            nodes: BTreeMap::new(),
            composed: BTreeSet::new(),
        }
    }

    /// By how much the model's numbers must grow to meet the directories, and whether any then fits; `None` when all
    /// that meet are called otherwise.
    fn shift(&mut self, model: &Model, tops: &BTreeMap<u64, Vec<&str>>) -> Option<(i64, bool)> {
        let fit = |shift: i64| {
            let (mut met, mut agree) = (0usize, 0usize);
            for op in &model.ops {
                if let Some(names) = op.id.checked_add_signed(shift).and_then(|id| tops.get(&id)) {
                    met += 1;
                    agree += usize::from(names.iter().any(|name| is_called(op, name)));
                }
            }
            (met, agree)
        };
        let (met, agree) = fit(0);
        if met == agree {
            return Some((0, agree > 0));
        }
        let best = (-MAX_SHIFT..=MAX_SHIFT).max_by_key(|&s| (fit(s).1, -s.abs(), s)).unwrap_or(0);
        let file = model.path.display();
        match fit(best).1 {
            0 => {
                let first = model.ops.first().map(|op| format!("{}_{}", op.id, op.name)).unwrap_or_default();
                let there =
                    tops.iter().next().map(|(id, names)| format!("{id}_{}", names[0])).unwrap_or_default();
                self.problems.add(format!(
                    "the topology does not fit the directories and is left out: it begins with {first}, they with {there}: {file}"
                ));
                None
            }
            _ if best != 0 => {
                self.problems.add(format!(
                    "the topology's numbers are {best:+} off the directories' (an operation outside the models used a number), corrected: {file}"
                ));
                Some((best, true))
            }
            _ => Some((0, true)),
        }
    }

    fn add(&mut self, op: &Op, parent: Option<NodeId>) {
        let path = parent.map(|id| self.graph.nodes[id as usize].name.clone()).unwrap_or_default();
        let (dir, fits) = self.directory(op, &path);
        let name = if path.is_empty() { dir } else { format!("{path}/{dir}") };
        if !fits {
            self.problems.count(
                "named otherwise in the topology, tied by number",
                "directory",
                format!("{name}, there {}", op.name),
            );
        }
        if self.nodes.contains_key(&name) {
            self.problems.count("described twice, the first description is kept", "graph node", &name);
            return;
        }
        let id = self.push(&name, op.kind.clone(), parent, op.id);
        let inputs = op.inputs.iter().map(|t| self.tensor(t)).collect();
        let outputs = op.outputs.iter().map(|t| self.tensor(t)).collect();
        for tensor in &op.internals {
            self.tensor(tensor);
        }
        let node = &mut self.graph.nodes[id as usize];
        (node.params, node.inputs, node.outputs) = (op.params.clone(), inputs, outputs);
        if !op.children.is_empty() {
            self.composed.insert(id);
        }
        for child in &op.children {
            self.add(child, Some(id));
        }
    }

    /// The directory an operation ran in, and whether it has the expected name.
    fn directory(&self, op: &Op, parent: &str) -> (String, bool) {
        let there = self.by_number.get(&(parent, op.id)).map(Vec::as_slice).unwrap_or_default();
        let text = |dir: &str| split_dir(dir).map(|(_, text)| text.to_owned()).unwrap_or_default();
        match there.iter().find(|dir| is_called(op, &text(dir))).or(there.first()) {
            Some(dir) => ((*dir).to_owned(), is_called(op, &text(dir))),
            None => (format!("{}_{}", op.id, op.name), true),
        }
    }

    /// Adds the directories that no file describes: kernels, stand-alone operations, strangers.
    fn add_rest(&mut self) {
        let mut rest: Vec<&String> = self.dirs.iter().filter(|dir| !self.nodes.contains_key(*dir)).collect();
        rest.sort_by(|a, b| natural_cmp(a, b));
        for dir in rest {
            let (parent, name) = match dir.rsplit_once('/') {
                Some((head, name)) => (self.nodes.get(head).copied(), name),
                None => (None, dir.as_str()),
            };
            if parent.is_some_and(|id| self.composed.contains(&id)) {
                self.problems.count("not in the topology of its parent", "directory", dir);
            }
            let (number, text) = split_dir(name).unwrap_or((0, name));
            self.push(dir, text.to_owned(), parent, number);
        }
    }

    fn push(&mut self, name: &str, op_type: String, parent: Option<NodeId>, order: u64) -> NodeId {
        let id = self.graph.nodes.len() as NodeId;
        self.nodes.insert(name.to_owned(), id);
        self.graph.nodes.push(Node {
            name: name.to_owned(),
            op_type,
            params: Value::Null,
            parent,
            order: u32::try_from(order).unwrap_or(u32::MAX),
            inputs: Vec::new(),
            outputs: Vec::new(),
        });
        id
    }

    fn tensor(&mut self, name: &str) -> TensorId {
        if let Some(&id) = self.tensors.get(name) {
            return id;
        }
        let id = self.graph.tensors.len() as TensorId;
        self.graph.tensors.push(name.to_owned());
        self.tensors.insert(name.to_owned(), id);
        id
    }
}

/// Built-in operations are named after their type, graph operations by their author.
fn is_called(op: &Op, text: &str) -> bool {
    text == op.name || text == op.kind
}
