//! The dump that llmdbg's own capture writes: `manifest.json` or, of a run that was cut off, `journal.jsonl`,
//! beside `data/*.safetensors`; one such directory per rank, `rank<r>/`, when there are several, below a
//! `manifest.json` that lists them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use rayon::prelude::*;
use serde_json::{Map, Value};

use super::walk::{self, file_name};
use super::{Dump, Location, Problems, ProducerStats, Role, TensorRecord, ValueRecord, json};
use crate::graph::{self, Draft, Graph};
use crate::{DType, Error, Result, TensorInfo, format};

/// Files that stand for the dump.
pub(super) const MARKS: &[&str] = &[MANIFEST, JOURNAL];
const MANIFEST: &str = "manifest.json";
const JOURNAL: &str = "journal.jsonl";
/// How many of many are named.
const SOME: usize = 8;
/// What `format` begins with; the version follows.
const FORMAT: &str = "llmdbg.dump/";
const VERSION: &str = "1";

/// The dump at `dir`, whose `data` directory `dir` may also be.
pub(super) fn find(dir: &Path) -> Vec<PathBuf> {
    if is_rank_dir(dir) || !rank_dirs(dir).is_empty() {
        return vec![dir.to_owned()];
    }
    match dir.parent() {
        Some(parent) if file_name(dir) == "data" && is_rank_dir(parent) => vec![parent.to_owned()],
        _ => Vec::new(),
    }
}

/// Reads all ranks below `dir`, or the one it is.
pub(super) fn open(dir: &Path) -> Result<Dump> {
    let mut dump = Dump::new("native", dir);
    VERSION.clone_into(&mut dump.variant);
    let mut problems = Problems::default();
    if is_rank_dir(dir) {
        read_rank(dir, number_after_rank(&file_name(dir)), &mut dump, &mut problems)?;
    } else {
        let ranks = rank_dirs(dir);
        let mut unread = Vec::new();
        for (rank, path) in &ranks {
            // One rank's damage is not the others'.
            if let Err(error) = read_rank(path, Some(*rank), &mut dump, &mut problems) {
                problems.add(format!("rank {rank} is not read: {error}"));
                unread.push(error);
            }
        }
        if unread.len() == ranks.len()
            && let Some(error) = unread.into_iter().next()
        {
            return Err(error);
        }
        name_missing(dir, &ranks, &mut dump, &mut problems);
    }
    locate(&mut dump, &mut problems);
    dump.sort();
    if let Some(graph) = &mut dump.graph {
        graph::order_by_execution(graph, &dump.records);
    }
    dump.faults = problems.take_faults();
    dump.problems = problems.into_texts();
    Ok(dump)
}

/// Whether a manifest or journal of ours lies in `dir`; other tools have a `manifest.json` too.
fn is_rank_dir(dir: &Path) -> bool {
    MARKS.iter().any(|mark| {
        let mut head = Vec::new();
        fs::File::open(dir.join(mark))
            .and_then(|file| std::io::Read::read_to_end(&mut std::io::Read::take(file, 4096), &mut head))
            .is_ok_and(|_| String::from_utf8_lossy(&head).contains(FORMAT))
    })
}

fn number_after_rank(name: &str) -> Option<u32> {
    name.strip_prefix("rank")?.parse().ok()
}

fn rank_dirs(dir: &Path) -> Vec<(u32, PathBuf)> {
    walk::dirs(dir)
        .into_iter()
        .filter_map(|e| Some((number_after_rank(&e.name)?, e.path)))
        .filter(|(_, path)| is_rank_dir(path))
        .collect()
}

/// Tells which ranks of the run are not below `dir`. The manifest over all ranks is written when one ends; without
/// it the dumps themselves say how many there were.
fn name_missing(dir: &Path, ranks: &[(u32, PathBuf)], dump: &mut Dump, problems: &mut Problems) {
    let manifest = json::read(&dir.join(MANIFEST)).unwrap_or_default();
    let world = manifest.get("world_size").or_else(|| dump.about.get("world_size")).and_then(Value::as_u64);
    let Some(world) = world else { return };
    let found: BTreeSet<u64> =
        ranks.iter().map(|(rank, _)| u64::from(*rank)).filter(|r| *r < world).collect();
    let missing = world - found.len() as u64;
    if missing == 0 {
        return;
    }
    let first: Vec<u64> = (0..world).filter(|rank| !found.contains(rank)).take(SOME).collect();
    let listed = first.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
    let more = missing - first.len() as u64;
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    problems.add(format!(
        "of {world} ranks, {listed}{more} left nothing here, having died early or written to another disk: {}",
        dir.display()
    ));
}

fn read_rank(dir: &Path, named: Option<u32>, dump: &mut Dump, problems: &mut Problems) -> Result<()> {
    let manifest = dir.join(MANIFEST);
    let (header, complete) = if manifest.exists() {
        (json::read(&manifest)?, true)
    } else {
        (read_journal(dir, problems)?, false)
    };
    let source = dir.join(if complete { MANIFEST } else { JOURNAL });
    let Value::Object(mut header) = header else {
        return Err(Error::malformed(&source, "manifest", "an object", json::type_name(&header)));
    };
    check_version(&header, &source)?;
    let rank = header.get("rank").and_then(Value::as_u64).map(|r| r as u32).or(named).unwrap_or(0);
    let graph = read_modules(&header, problems);
    match &dump.graph {
        None => dump.graph = Some(graph),
        Some(first) if !same_names(first, &graph) => {
            problems.add(format!("rank {rank} has other modules than the first rank, whose graph is used"));
        }
        Some(_) => {}
    }
    let reader = Reader { dir, rank };
    for list in ["records", "weights"] {
        for (i, record) in take_list(&mut header, list).into_iter().enumerate() {
            if let Err(reason) = reader.read(&record, list == "weights", dump, problems) {
                problems.add(format!("{list}[{i}]: {reason}: {}", source.display()));
            }
        }
    }
    for problem in header.get("problems").and_then(Value::as_array).into_iter().flatten() {
        problems.add(problem.as_str().map_or_else(|| problem.to_string(), str::to_owned));
    }
    if dump.about.is_empty() {
        if let Some(Value::Object(about)) = header.remove("about") {
            dump.about = about;
        }
        for key in ["world_size", "steps"] {
            if let Some(value) = header.remove(key) {
                dump.about.insert(key.into(), value);
            }
        }
    }
    if !complete {
        dump.about.insert("complete".into(), Value::Bool(false));
        let who = named.map_or(String::new(), |rank| format!("rank {rank}: "));
        problems.add(format!(
            "{who}the run ended before its dump was complete; what was written is read: {}",
            source.display()
        ));
    }
    name_types(dump);
    Ok(())
}

fn check_version(header: &Map<String, Value>, source: &Path) -> Result<()> {
    let found = header.get("format").and_then(Value::as_str).unwrap_or_default();
    if found.strip_prefix(FORMAT) == Some(VERSION) {
        return Ok(());
    }
    let expected = format!("{FORMAT}{VERSION} (a later llmdbg may have written it)");
    Err(Error::malformed(source, "format of the dump", expected, format!("{found:?}")))
}

/// The journal as a manifest: its header with the record lines gathered under `records`.
fn read_journal(dir: &Path, problems: &mut Problems) -> Result<Value> {
    let path = dir.join(JOURNAL);
    let bytes = json::read_bytes(&path)?;
    let mut lines = bytes.split(|&c| c == b'\n').filter(|line| !line.trim_ascii().is_empty());
    let first = lines.next().unwrap_or_default();
    let mut header = json::parse(first)
        .map_err(|error| Error::malformed(&path, "first line", "the header object", error.to_string()))?;
    let Value::Object(fields) = &mut header else {
        return Err(Error::malformed(&path, "first line", "the header object", json::type_name(&header)));
    };
    let mut records = Vec::new();
    for line in lines {
        match json::parse(line) {
            Ok(record) => records.push(record),
            Err(error) => problems.count("cut off or damaged", "journal line", error),
        }
    }
    fields.insert("records".into(), Value::Array(records));
    Ok(header)
}

fn take_list(header: &mut Map<String, Value>, key: &str) -> Vec<Value> {
    match header.remove(key) {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    }
}

/// The modules, and below them the functions that were called.
fn read_modules(header: &Map<String, Value>, problems: &mut Problems) -> Graph {
    let list = |key| header.get(key).and_then(Value::as_array).into_iter().flatten();
    let mut drafts = Vec::new();
    for module in list("modules") {
        let Some(name) = module.get("name").and_then(Value::as_str) else {
            problems.count("without a name", "module", module);
            continue;
        };
        let text = |key| module.get(key).and_then(Value::as_str).map(str::to_owned);
        drafts.push(Draft {
            name: name.to_owned(),
            op_type: text("type").unwrap_or_default(),
            params: module.get("params").cloned().unwrap_or(Value::Null),
            parent: text("parent"),
        });
    }
    let modules: BTreeSet<String> = drafts.iter().map(|draft| draft.name.clone()).collect();
    let mut functions = BTreeSet::new();
    for record in list("records") {
        let text = |key| record.get(key).and_then(Value::as_str);
        let (Some(node), Some(op_type)) = (text("node"), text("type")) else { continue };
        if !modules.contains(node) && functions.insert(node) {
            let parent = node.rsplit_once('/').map(|(module, _)| module.to_owned());
            drafts.push(Draft {
                name: node.to_owned(),
                op_type: op_type.to_owned(),
                params: record.get("stack").map_or(Value::Null, |stack| serde_json::json!({"stack": stack})),
                parent: parent.filter(|module| modules.contains(module)),
            });
        }
    }
    let mut graph = graph::assemble(drafts, problems);
    read_edges(&mut graph, list("modules"));
    graph
}

/// The tensors between nodes, where what was reduced to this dump had them.
fn read_edges<'a>(graph: &mut Graph, modules: impl Iterator<Item = &'a Value>) {
    let named = |module: &'a Value| Some((module.get("name")?.as_str()?, module));
    let modules: BTreeMap<&str, &Value> = modules.filter_map(named).collect();
    let mut ids: BTreeMap<&str, graph::TensorId> = BTreeMap::new();
    let Graph { nodes, tensors } = graph;
    for node in nodes {
        let Some(module) = modules.get(node.name.as_str()) else { continue };
        for (key, place) in [("inputs", &mut node.inputs), ("outputs", &mut node.outputs)] {
            let names = module.get(key).and_then(Value::as_array).into_iter().flatten();
            for name in names.filter_map(Value::as_str) {
                let id = *ids.entry(name).or_insert_with(|| {
                    tensors.push(name.to_owned());
                    tensors.len() as graph::TensorId - 1
                });
                place.push(id);
            }
        }
    }
}

fn same_names(a: &Graph, b: &Graph) -> bool {
    a.nodes.len() == b.nodes.len() && a.nodes.iter().zip(&b.nodes).all(|(x, y)| x.name == y.name)
}

/// Gives each record the type of its module.
fn name_types(dump: &mut Dump) {
    let Some(graph) = &dump.graph else { return };
    let types: BTreeMap<&str, &str> =
        graph.nodes.iter().map(|n| (n.name.as_str(), n.op_type.as_str())).collect();
    for record in &mut dump.records {
        record.op_type = types.get(record.node.as_str()).map(|t| (*t).to_owned());
    }
}

/// Looks every record's bytes up in its file's header, each file once.
fn locate(dump: &mut Dump, problems: &mut Problems) {
    let files: BTreeSet<PathBuf> = dump
        .records
        .iter()
        .flat_map(|r| [Some(&r.location), r.sketch.as_ref()])
        .filter_map(|place| place?.path())
        .map(Path::to_owned)
        .collect();
    let files: Vec<PathBuf> = files.into_iter().collect();
    let opened: Vec<_> = files.par_iter().map(|file| format::contents(file)).collect();
    let mut places: BTreeMap<(&Path, &str), Location> = BTreeMap::new();
    for (file, contents) in files.iter().zip(&opened) {
        match contents {
            Ok(contents) => places.extend(
                contents.entries.iter().map(|e| ((file.as_path(), e.key.as_str()), e.location(file))),
            ),
            Err(error) => problems.add(error.to_string()),
        }
    }
    for place in dump.records.iter_mut().flat_map(|r| [Some(&mut r.location), r.sketch.as_mut()]).flatten() {
        let Location::Member { file, key } = &*place else { continue };
        match places.get(&(file.as_path(), key.as_str())) {
            Some(found) => *place = found.clone(),
            None => problems.count(
                "not in the file that the manifest names",
                "tensor",
                format!("{key}: {}", file.display()),
            ),
        }
    }
}

/// What all records of one rank share.
struct Reader<'a> {
    dir: &'a Path,
    rank: u32,
}

impl Reader<'_> {
    fn read(
        &self,
        record: &Value,
        weight: bool,
        dump: &mut Dump,
        problems: &mut Problems,
    ) -> Result<(), String> {
        let text = |key: &str| record.get(key).and_then(Value::as_str);
        let number = |key: &str| record.get(key).and_then(Value::as_u64);
        let node = text("node").ok_or("no node")?;
        let role = match text("role") {
            Some("input") => Role::Input,
            Some("output") => Role::Output,
            Some("param") => Role::Param,
            None if weight => Role::Param,
            other => return Err(format!("role {other:?} is none of input, output, param")),
        };
        let slot = text("slot").ok_or("no slot")?;
        let step = number("step");
        let call = number("call").unwrap_or(0) as u32;
        let rank = Some(self.rank);
        if let Some(reason) = text("skipped") {
            problems.count("not stored by the capture", "tensor", format!("{node} {slot}: {reason}"));
            return Ok(());
        }
        if text("file").is_none()
            && let Some(value) = record.get("value")
        {
            let (node, slot, value) = (node.to_owned(), slot.to_owned(), value.clone());
            dump.values.push(ValueRecord { step, rank, node, call, role, slot, value });
            return Ok(());
        }
        let sketch = record.get("sketch").map(|place| self.place(place)).transpose()?;
        let stats = record.get("stats").map(read_stats);
        let hash = text("hash").map(str::to_owned);
        // A record may hold what was computed of the bytes instead of them.
        let location = if text("file").is_none() && (stats.is_some() || hash.is_some()) {
            Location::Nowhere
        } else {
            self.place(record)?
        };
        dump.records.push(TensorRecord {
            step,
            rank,
            call,
            info: read_info(record),
            stats,
            hash,
            sketch,
            order: number("order").unwrap_or(0),
            ..TensorRecord::new(node, role, slot, location)
        });
        Ok(())
    }

    fn place(&self, fields: &Value) -> Result<Location, String> {
        let text = |key: &str| fields.get(key).and_then(Value::as_str);
        Ok(Location::Member {
            file: self.inside(text("file").ok_or("neither file nor value")?)?,
            key: text("key").ok_or("no key")?.to_owned(),
        })
    }

    /// A path that a manifest names, refused when it leads out of the dump.
    fn inside(&self, file: &str) -> Result<PathBuf, String> {
        let relative = Path::new(file);
        if relative.components().all(|c| matches!(c, Component::Normal(_))) && !file.is_empty() {
            return Ok(self.dir.join(relative));
        }
        Err(format!("file {file:?} leads out of the dump"))
    }
}

fn read_stats(fields: &Value) -> ProducerStats {
    let number = |key| fields.get(key).and_then(json::number);
    let count = |key| fields.get(key).and_then(Value::as_u64);
    ProducerStats {
        max: number("max"),
        min: number("min"),
        mean: number("mean"),
        norm: number("norm"),
        nan: count("nan"),
        pos_inf: count("pos_inf"),
        neg_inf: count("neg_inf"),
        zero: count("zero"),
    }
}

fn read_info(record: &Value) -> Option<TensorInfo> {
    let dtype = DType::from_name(record.get("dtype")?.as_str()?)?;
    let shape = record.get("shape")?.as_array()?.iter().map(Value::as_u64).collect::<Option<Vec<_>>>()?;
    Some(TensorInfo::new(dtype, shape))
}
