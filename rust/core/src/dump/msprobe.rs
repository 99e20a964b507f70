//! msprobe: `step<n>/{rank<r>|proc<pid>}/dump.json` with `construct.json`, `stack.json` and `dump_tensor_data/`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use serde_json::{Map, Value};

use super::ranks::is_number;
use super::walk::{self, file_name, natural_cmp};
use super::{Dump, Location, Problems, ProducerStats, Role, TensorRecord, ValueRecord, json};
use crate::graph;
use crate::{DType, Error, Result, TensorInfo};

/// Files that stand for the dump.
pub(super) const MARKS: &[&str] = &["dump.json", "debug.json", "construct.json", "stack.json"];
const DATA: &str = "dump_tensor_data";
/// Stack frames kept per call: the innermost outside of torch.
const FRAMES: usize = 3;

/// The dump at or in `dir`: all steps, one step, one rank or its data directory.
pub(super) fn find(dir: &Path) -> Vec<PathBuf> {
    if !places(dir).is_empty() {
        return vec![dir.to_owned()];
    }
    match dir.parent() {
        Some(parent) if file_name(dir) == DATA && description(parent).is_some() => vec![parent.to_owned()],
        _ => Vec::new(),
    }
}

/// Reads all steps and ranks at or below `dir`.
pub(super) fn open(dir: &Path) -> Result<Dump> {
    let mut dump = Dump::new("msprobe", dir);
    let mut problems = Problems::default();
    let places = places(dir);
    let ranks = rank_numbers(&places);
    let mut seen_ranks = BTreeSet::new();
    for place in &places {
        let rank = ranks[&place.process];
        if seen_ranks.insert(rank) && rank_number(&place.process).is_none() && ranks.len() > 1 {
            problems.add(format!(
                "{} is taken for rank {rank}: processes are ranked by their ids",
                place.process
            ));
        }
        let mut reader = Reader::new(place, rank, &mut dump, &mut problems);
        if let Err(error) = reader.read() {
            if places.len() == 1 {
                return Err(error);
            }
            problems.add(error.to_string());
        }
    }
    if let Some(graph) = &mut dump.graph {
        graph::order_by_execution(graph, &dump.records);
    }
    dump.sort();
    dump.faults = problems.take_faults();
    dump.problems = problems.into_texts();
    Ok(dump)
}

/// One directory with a description.
#[derive(Debug)]
struct Place {
    step: Option<u64>,
    /// `rank0`, `proc77`, `rank`, or empty.
    process: String,
    dir: PathBuf,
}

/// The description file of a directory.
fn description(dir: &Path) -> Option<PathBuf> {
    ["dump.json", "debug.json"].iter().map(|name| dir.join(name)).find(|path| path.is_file())
}

fn places(dir: &Path) -> Vec<Place> {
    let name = file_name(dir);
    let above = dir.parent().map(file_name).unwrap_or_default();
    if description(dir).is_some() {
        let process = if is_process(&name) { name } else { String::new() };
        return vec![Place { step: step_number(&above), process, dir: dir.to_owned() }];
    }
    let mut places = Vec::new();
    let mut add = |step: Option<u64>, process: &str, dir: &Path| {
        // Graph mode puts one more level below the rank.
        let inner = if description(dir).is_some() {
            Some(dir.to_owned())
        } else {
            walk::dirs(dir).into_iter().map(|e| e.path).find(|d| description(d).is_some())
        };
        if let Some(dir) = inner {
            places.push(Place { step, process: process.to_owned(), dir });
        }
    };
    if is_process(&name) && is_step(&above) {
        add(step_number(&above), &name, dir);
    } else if is_step(&name) {
        for process in walk::dirs(dir).iter().filter(|e| is_process(&e.name)) {
            add(step_number(&name), &process.name, &process.path);
        }
    } else {
        for step in walk::dirs(dir).iter().filter(|e| is_step(&e.name)) {
            for process in walk::dirs(&step.path).iter().filter(|e| is_process(&e.name)) {
                add(step_number(&step.name), &process.name, &process.path);
            }
        }
    }
    places
}

fn is_step(name: &str) -> bool {
    name.strip_prefix("step").is_some_and(|n| n.is_empty() || is_number(n))
}

fn step_number(name: &str) -> Option<u64> {
    name.strip_prefix("step")?.parse().ok()
}

fn is_process(name: &str) -> bool {
    ["rank", "proc"].iter().any(|p| name.strip_prefix(p).is_some_and(|n| n.is_empty() || is_number(n)))
}

fn rank_number(name: &str) -> Option<u32> {
    name.strip_prefix("rank")?.parse().ok()
}

/// The rank of each process: the number in its name, or its place among the processes.
fn rank_numbers(places: &[Place]) -> BTreeMap<String, u32> {
    let mut names: Vec<&str> = places.iter().map(|p| p.process.as_str()).collect();
    names.sort_by(|a, b| natural_cmp(a, b));
    names.dedup();
    (0..).zip(names).map(|(place, name)| (name.to_owned(), rank_number(name).unwrap_or(place))).collect()
}

struct Reader<'a> {
    place: &'a Place,
    rank: u32,
    /// Files of the data directory.
    files: BTreeSet<String>,
    dump: &'a mut Dump,
    problems: &'a mut Problems,
}

/// A call that entries of `dump.json` belong to.
struct Call {
    node: String,
    op_type: Option<String>,
    number: u32,
}

impl<'a> Reader<'a> {
    fn new(place: &'a Place, rank: u32, dump: &'a mut Dump, problems: &'a mut Problems) -> Self {
        let files = walk::list(&place.dir.join(DATA)).unwrap_or_default();
        let files = files.into_iter().filter(|e| !e.is_dir).map(|e| e.name).collect();
        Self { place, rank, files, dump, problems }
    }

    fn read(&mut self) -> Result<()> {
        let path = description(&self.place.dir)
            .ok_or_else(|| Error::not_found(&self.place.dir, "no dump.json here"))?;
        let value = json::read(&path)?;
        let Value::Object(mut head) = value else {
            return Err(Error::malformed(&path, "dump.json", "an object", json::type_name(&value)));
        };
        let Some(Value::Object(data)) = head.remove("data") else {
            return Err(Error::malformed(&path, "dump.json", "an object \"data\"", "none"));
        };
        if self.dump.about.is_empty() {
            head.remove("dump_data_dir");
            head.get("task").and_then(Value::as_str).unwrap_or_default().clone_into(&mut self.dump.variant);
            self.dump.about = head;
        }
        for (order, (name, entry)) in (0..).zip(&data) {
            self.read_entry(name, entry, order);
        }
        if self.dump.graph.is_none() {
            self.read_graph(&data);
        }
        Ok(())
    }

    fn read_entry(&mut self, name: &str, entry: &Value, order: u64) {
        let call = parse_call(name);
        let Value::Object(groups) = entry else {
            // Tensors saved by hand stand where groups of them otherwise do.
            return self.read_list(&call, Role::Other, entry, order);
        };
        if groups.contains_key("type") && !groups.contains_key("output") {
            return self.read_item(&call, Role::Other, "0", entry, order);
        }
        for (group, items) in groups {
            match group.as_str() {
                "input_args" | "input" => self.read_list(&call, Role::Input, items, order),
                "input_kwargs" => self.read_items(&call, Role::Input, "kwargs", items, order),
                "output" => self.read_list(&call, Role::Output, items, order),
                "parameters" => self.read_items(&call, Role::Param, "", items, order),
                "is_recompute" | "is_nan" => {}
                // Gradients of parameters: each name has a list of one tensor.
                parameter if name.contains(".parameters_grad") => {
                    self.read_list_at(&call, Role::Output, parameter, items, order);
                }
                other => self.read_items(&call, Role::Other, other, items, order),
            }
        }
    }

    /// A list of arguments: item 3 is slot `3`.
    fn read_list(&mut self, call: &Call, role: Role, items: &Value, order: u64) {
        match items {
            Value::Array(_) => self.read_items(call, role, "", items, order),
            other => self.read_items(call, role, "0", other, order),
        }
    }

    fn read_list_at(&mut self, call: &Call, role: Role, slot: &str, items: &Value, order: u64) {
        match items {
            Value::Array(list) if list.len() == 1 => self.read_items(call, role, slot, &list[0], order),
            other => self.read_items(call, role, slot, other, order),
        }
    }

    /// Whatever stands at a slot: a tensor, a value, or a list or object of more.
    fn read_items(&mut self, call: &Call, role: Role, slot: &str, value: &Value, order: u64) {
        let below = |name: &str| if slot.is_empty() { name.to_owned() } else { format!("{slot}.{name}") };
        match value {
            Value::Array(items) => {
                for (i, item) in items.iter().enumerate() {
                    self.read_items(call, role, &below(&i.to_string()), item, order);
                }
            }
            Value::Object(fields) if fields.contains_key("type") || fields.contains_key("data_name") => {
                self.read_item(call, role, slot, value, order);
            }
            Value::Object(fields) if fields.contains_key("class_type") => {
                if let Some(tensor) = fields.get("tensor") {
                    self.read_items(call, role, slot, tensor, order);
                }
            }
            Value::Object(fields) => {
                for (name, item) in fields {
                    self.read_items(call, role, &below(name), item, order);
                }
            }
            other => self.value(call, role, slot, other),
        }
    }

    fn read_item(&mut self, call: &Call, role: Role, slot: &str, item: &Value, order: u64) {
        let Value::Object(fields) = item else { return self.value(call, role, slot, item) };
        let data_name = fields.get("data_name").and_then(Value::as_str);
        if data_name.is_none() && !(fields.contains_key("dtype") && fields.contains_key("shape")) {
            return self.value(call, role, slot, fields.get("value").unwrap_or(item));
        }
        let location = data_name.map_or(Location::Nowhere, |name| self.locate(name));
        let record = TensorRecord::new(call.node.clone(), role, slot, location);
        self.dump.records.push(TensorRecord {
            step: self.place.step,
            rank: Some(self.rank),
            op_type: call.op_type.clone(),
            call: call.number,
            info: read_info(fields),
            stats: read_stats(fields),
            hash: fields.get("md5").and_then(Value::as_str).map(|hash| format!("msprobe:{hash}")),
            order,
            ..record
        });
    }

    fn value(&mut self, call: &Call, role: Role, slot: &str, value: &Value) {
        self.dump.values.push(ValueRecord {
            step: self.place.step,
            rank: Some(self.rank),
            node: call.node.clone(),
            call: call.number,
            role,
            slot: slot.to_owned(),
            value: value.clone(),
        });
    }

    fn locate(&mut self, name: &str) -> Location {
        let mut parts = Path::new(name).components();
        if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
            self.problems.count("that lead out of the dump, left out", "file name", name);
            return Location::Nowhere;
        }
        if !self.files.contains(name) {
            let path = self.place.dir.join(DATA).join(name);
            self.problems.count("named in dump.json but not there", "tensor file", path.display());
            return Location::Nowhere;
        }
        Location::File(self.place.dir.join(DATA).join(name))
    }

    fn read_graph(&mut self, data: &Map<String, Value>) {
        let rename = |name: &str| {
            let call = parse_call(name);
            (call.node, call.op_type)
        };
        let path = self.place.dir.join("construct.json");
        let mut graph = None;
        if path.is_file() {
            match graph::construct_json::read(&path, rename, self.problems) {
                Ok(read) if !read.nodes.is_empty() => graph = Some(read),
                Ok(_) => {}
                Err(error) => self.problems.add(error.to_string()),
            }
        }
        // Level L1 leaves an empty tree: the names still tell which modules lie in which.
        let mut graph = graph.unwrap_or_else(|| {
            let calls: Vec<Call> = data.keys().map(|name| parse_call(name)).collect();
            let names = calls.iter().map(|call| (call.node.as_str(), call.op_type.as_deref()));
            graph::from_names(names, '.', self.problems)
        });
        let stacks = self.read_stacks();
        for node in &mut graph.nodes {
            if let Some(frames) = stacks.get(&node.name) {
                node.params = serde_json::json!({"stack": frames});
            }
        }
        self.dump.graph = Some(graph);
    }

    /// The innermost frames of the calls that `stack.json` knows, by node.
    fn read_stacks(&mut self) -> BTreeMap<String, Vec<Value>> {
        let path = self.place.dir.join("stack.json");
        let mut stacks = BTreeMap::new();
        let value = match path.is_file().then(|| json::read(&path)) {
            Some(Ok(value)) => value,
            Some(Err(error)) => {
                self.problems.add(error.to_string());
                return stacks;
            }
            None => return stacks,
        };
        let frames = |list: &Value| -> Vec<Value> {
            list.as_array().into_iter().flatten().filter(|f| !is_of_torch(f)).take(FRAMES).cloned().collect()
        };
        for (name, entry) in value.as_object().into_iter().flatten() {
            match entry.as_array().map(Vec::as_slice) {
                // Several calls that share one stack.
                Some([Value::Array(calls), list @ Value::Array(_)]) => {
                    for call in calls.iter().filter_map(Value::as_str) {
                        stacks.entry(parse_call(call).node).or_insert_with(|| frames(list));
                    }
                }
                // The older form: one call, its frames.
                Some(_) => {
                    stacks.entry(parse_call(name).node).or_insert_with(|| frames(entry));
                }
                None => {}
            }
        }
        stacks
    }
}

/// `Module.a.b.Class.forward.0` is call 0 of node `Module.a.b`, type `Class`;
/// `Torch.matmul.3.forward` is node `Torch.matmul.3`, type `matmul`. What is not forward keeps its word in the name.
fn parse_call(name: &str) -> Call {
    let parts: Vec<&str> = name.split('.').collect();
    if let [head @ .., class, direction @ ("forward" | "backward" | "parameters_grad"), number] =
        parts.as_slice()
        && let Ok(number) = number.parse()
    {
        return module_call(head, class, direction, number);
    }
    match parts.as_slice() {
        [head @ .., class, direction @ "parameters_grad"] => module_call(head, class, direction, 0),
        [head @ .., api, number, direction @ ("forward" | "backward" | "debug")] if is_number(number) => {
            let plain = matches!(*direction, "forward" | "debug");
            let base = [head, &[*api, *number]].concat().join(".");
            Call {
                node: if plain { base } else { format!("{base}.{direction}") },
                op_type: Some(if plain { (*api).to_owned() } else { format!("{api}.{direction}") })
                    .filter(|_| *direction != "debug"),
                number: 0,
            }
        }
        _ => Call { node: name.to_owned(), op_type: None, number: 0 },
    }
}

fn module_call(head: &[&str], class: &str, direction: &str, number: u32) -> Call {
    let base = head.join(".");
    let plain = direction == "forward";
    Call {
        node: if plain { base } else { format!("{base}.{direction}") },
        op_type: Some(if plain { class.to_owned() } else { format!("{class}.{direction}") }),
        number,
    }
}

/// torch's own frames between a module's call and its `forward` say nothing about the model.
fn is_of_torch(frame: &Value) -> bool {
    frame.as_str().is_some_and(|text| text.contains("/site-packages/torch/"))
}

fn read_info(fields: &Map<String, Value>) -> Option<TensorInfo> {
    let dtype = fields.get("dtype")?.as_str()?;
    let dtype = DType::from_name(dtype).or_else(|| DType::from_name(&dtype.to_lowercase()))?;
    let shape = fields.get("shape")?.as_array()?.iter().map(Value::as_u64).collect::<Option<_>>()?;
    Some(TensorInfo::new(dtype, shape))
}

fn read_stats(fields: &Map<String, Value>) -> Option<ProducerStats> {
    let number = |key| fields.get(key).and_then(json::number);
    let stats = ProducerStats {
        max: number("Max"),
        min: number("Min"),
        mean: number("Mean"),
        norm: number("Norm"),
        ..ProducerStats::default()
    };
    (stats != ProducerStats::default()).then_some(stats)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_node_type_and_call() {
        let parse = |name| {
            let call = parse_call(name);
            (call.node, call.op_type.unwrap_or_default(), call.number)
        };
        let expect = |node: &str, op_type: &str, number| (node.to_owned(), op_type.to_owned(), number);
        assert_eq!(parse("Module.layers.0.mlp.Linear.forward.2"), expect("Module.layers.0.mlp", "Linear", 2));
        assert_eq!(parse("Module.fc.Linear.backward.0"), expect("Module.fc.backward", "Linear.backward", 0));
        assert_eq!(
            parse("Module.fc.Linear.parameters_grad"),
            expect("Module.fc.parameters_grad", "Linear.parameters_grad", 0)
        );
        assert_eq!(parse("Torch.matmul.3.forward"), expect("Torch.matmul.3", "matmul", 0));
        assert_eq!(parse("Tensor.add.0.backward"), expect("Tensor.add.0.backward", "add.backward", 0));
        assert_eq!(parse("logits.1.debug"), expect("logits.1", "", 0));
        assert_eq!(parse("optimizer"), expect("optimizer", "", 0));
    }
}
