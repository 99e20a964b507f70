//! What CANN dumps while a compiled graph or single kernels run:
//! `[worldsize<W>_global_rank<R>/]<time>/<device>[/<model>/<model id>/<step>]/<files>`, with torchair's graphs as text
//! beside the first of these levels.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::ge_names::{self, FileName, Kind};
use super::ranks::is_number;
use super::torchair::{holds, is_counter, names, rank_of};
use super::walk::{self, Walk, file_name, natural_cmp};
use super::{Dump, Location, Problems, ProducerStats, Role, TensorRecord, table};
use crate::format::{Entry, ge_dump};
use crate::graph::{Graph, Node, ge_text};
use crate::{DType, Result, TensorInfo};

/// No file stands for the dump.
pub(super) const MARKS: &[&str] = &[];
/// Levels between a file and its time stamp.
const BELOW_TIME: usize = 5;

/// The dumps at or in `dir`, which may be any level of one. Two runs in one place are two dumps.
pub(super) fn find(dir: &Path) -> Vec<PathBuf> {
    let mut times = times_in(dir);
    for rank in walk::dirs(dir).into_iter().filter(|e| rank_of(&e.name).is_some()) {
        let own = times_in(&rank.path);
        // A rank that ran twice: the runs cannot be told apart across ranks.
        if own.len() > 1 {
            return own.into_iter().filter(|time| holds(time, is_ge)).collect();
        }
        times.extend(own);
    }
    times.retain(|time| holds(time, is_ge));
    if !times.is_empty() {
        return if are_one_run(&times) { vec![dir.to_owned()] } else { times };
    }
    let above = names(dir);
    let inside = above.iter().rev().take(BELOW_TIME).any(|name| is_time(name));
    let direct = || walk::list(dir).is_ok_and(|list| list.iter().any(|e| !e.is_dir && is_ge(dir, &e.name)));
    if inside && holds(dir, is_ge) || direct() { vec![dir.to_owned()] } else { Vec::new() }
}

/// Reads everything at and below `dir`.
pub(super) fn open(dir: &Path) -> Result<Dump> {
    // A directory that cannot be listed is an error here, a problem further down.
    walk::list(dir)?;
    let mut dump = Dump::new("ge", dir);
    let mut problems = Problems::default();
    let mut files = Vec::new();
    collect(dir, 0, &mut Walk::default(), &mut problems, &mut files);
    rank(&mut files);
    let models: BTreeSet<String> = files.iter().map(|f| f.place.model.clone()).collect();
    let graphs = read_graphs(dir, &files, &models, &mut problems);
    let opened: Vec<Opened> = files.par_iter().map(read_file).collect();
    let mut reader = Reader {
        several: models.len() > 1,
        spelled: graphs.nodes.iter().map(|n| (ge_names::as_in_files(&n.name), n.name.clone())).collect(),
        calls: BTreeMap::new(),
    };
    let kinds: BTreeSet<&str> = files.iter().map(Found::kind_name).collect();
    dump.variant = kinds.into_iter().collect::<Vec<_>>().join(", ");
    for (file, opened) in files.iter().zip(opened) {
        reader.add(file, opened, &mut dump, &mut problems);
    }
    if !graphs.nodes.is_empty() {
        dump.graph = Some(graphs);
    }
    dump.sort();
    dump.problems = problems.into_texts();
    Ok(dump)
}

/// `YYYYMMDDhhmmss`.
fn is_time(name: &str) -> bool {
    name.len() == 14 && is_number(name)
}

fn times_in(dir: &Path) -> Vec<PathBuf> {
    walk::dirs(dir).into_iter().filter(|e| is_time(&e.name)).map(|e| e.path).collect()
}

/// Whether times are those at which the processes of one run began: no two of them share rank and device.
fn are_one_run(times: &[PathBuf]) -> bool {
    let mut seen = BTreeSet::new();
    times.iter().all(|time| {
        let rank = time.parent().and_then(|parent| rank_of(&file_name(parent)));
        walk::dirs(time).into_iter().all(|device| seen.insert((rank, device.name)))
    })
}

fn is_ge(dir: &Path, name: &str) -> bool {
    ge_names::parse(name).is_some()
        || ge_names::is_replacement(name) && ge_names::replaced(dir).contains_key(name)
}

/// What the directories say of a file.
#[derive(Clone, Debug, Default)]
struct Place {
    rank: Option<u32>,
    device: Option<String>,
    /// Empty for kernels outside of any graph.
    model: String,
    step: Option<u64>,
}

struct Found {
    path: PathBuf,
    name: FileName,
    place: Place,
}

impl Found {
    fn kind_name(&self) -> &'static str {
        match self.name.kind {
            Kind::Tensors => "tensors",
            Kind::Statistics => "statistics",
            Kind::Converted(..) => "converted",
        }
    }
}

fn collect(dir: &Path, depth: usize, walk: &mut Walk, problems: &mut Problems, files: &mut Vec<Found>) {
    let entries = walk.enter(dir, depth, problems);
    let replaced = ge_names::replaced(dir);
    let place = place(dir);
    for entry in entries {
        if entry.is_dir {
            collect(&entry.path, depth + 1, walk, problems, files);
            continue;
        }
        let name = replaced.get(&entry.name).unwrap_or(&entry.name);
        match ge_names::parse(name) {
            Some(name) => files.push(Found { path: entry.path, name, place: place.clone() }),
            None if is_of_run(&entry.name) => {}
            None => problems.count("whose name is none of GE's, left out", "file", entry.path.display()),
        }
    }
}

/// Files that belong to such a run and are no tensors of it.
fn is_of_run(name: &str) -> bool {
    name == "mapping.csv" || [".txt", ".json", ".pbtxt", ".py", ".log"].iter().any(|end| name.ends_with(end))
}

fn place(dir: &Path) -> Place {
    let above = names(dir);
    let rank = above.iter().rev().find_map(|name| rank_of(name));
    let Some(time) = above.iter().rposition(|name| is_time(name)) else {
        // Copied out of its dump: the innermost number can only be the step.
        let step = above.last().filter(|name| is_counter(name)).and_then(|name| name.parse().ok());
        return Place { rank, step, ..Place::default() };
    };
    let below = &above[time + 1..];
    let device = below.first().cloned();
    match below {
        [_, model, _id, step, ..] => Place { rank, device, model: model.clone(), step: step.parse().ok() },
        _ => Place { rank, device, ..Place::default() },
    }
}

/// Gives files without a rank of their own that of their device, and brings all into the order they were run in.
fn rank(files: &mut [Found]) {
    let mut devices: Vec<String> = files.iter().filter_map(|f| f.place.device.clone()).collect();
    devices.sort_by(|a, b| natural_cmp(a, b));
    devices.dedup();
    for file in files.iter_mut().filter(|f| f.place.rank.is_none()) {
        let at = file.place.device.as_ref().and_then(|d| devices.iter().position(|known| known == d));
        file.place.rank = at.map(|at| at as u32);
    }
    files.sort_by(|a, b| {
        (a.place.rank, a.place.step, a.name.time, &a.name.task)
            .cmp(&(b.place.rank, b.place.step, b.name.time, &b.name.task))
            .then_with(|| natural_cmp(&a.path.to_string_lossy(), &b.path.to_string_lossy()))
    });
}

/// What one file holds.
enum Opened {
    Tensors(Result<(ge_dump::About, Vec<Entry>)>),
    Statistics(Vec<Result<Statistic, String>>),
    /// To be opened when it is wanted.
    Later,
}

fn read_file(file: &Found) -> Opened {
    match file.name.kind {
        Kind::Tensors => Opened::Tensors(ge_dump::open(&file.path)),
        Kind::Statistics => Opened::Statistics(statistics(&file.path)),
        Kind::Converted(..) => Opened::Later,
    }
}

/// An operator of a rank and step.
type Ran = (Option<u32>, Option<u64>, String);
/// When and as which task something ran.
type Execution = (u64, Vec<u64>);

/// Turns files into records, in the order in which they were written.
struct Reader {
    /// Whether operators of several graphs may share their names.
    several: bool,
    /// Names of the graph by how file names spell them.
    spelled: BTreeMap<String, String>,
    /// Executions of each operator of a step so far.
    calls: BTreeMap<Ran, (u32, Execution)>,
}

impl Reader {
    fn add(&mut self, file: &Found, opened: Opened, dump: &mut Dump, problems: &mut Problems) {
        let given = match &opened {
            Opened::Tensors(Ok((about, _))) => Some(about.op_name.clone()).filter(|name| !name.is_empty()),
            _ => None,
        };
        let bare = given.unwrap_or_else(|| file.name.op_name.clone());
        let full = if self.several && !file.place.model.is_empty() {
            format!("{}/{bare}", file.place.model)
        } else {
            bare
        };
        let node = self.spelled.get(&ge_names::as_in_files(&full)).cloned().unwrap_or(full);
        let record = self.record(file, &node);
        match opened {
            Opened::Tensors(Ok((about, entries))) => {
                for note in about.notes {
                    problems.count(&format!("with the note that {note}"), "file", file.path.display());
                }
                for entry in entries {
                    dump.records.push(of_entry(&record, &entry, file, problems));
                }
            }
            Opened::Tensors(Err(error)) => {
                problems.add(error.to_string());
                dump.records.push(TensorRecord { location: Location::File(file.path.clone()), ..record });
            }
            Opened::Statistics(rows) => {
                for row in rows {
                    match row {
                        Ok(row) => dump.records.push(TensorRecord {
                            role: row.role,
                            slot: row.slot,
                            info: row.info,
                            stats: Some(row.stats),
                            ..record.clone()
                        }),
                        Err(reason) => problems.count(&reason, "line", file.path.display()),
                    }
                }
            }
            Opened::Later => {
                let Kind::Converted(role, index) = file.name.kind else { return };
                let location = Location::File(file.path.clone());
                dump.records.push(TensorRecord { role, slot: index.to_string(), location, ..record });
            }
        }
    }

    /// A record of this execution, without a tensor yet.
    fn record(&mut self, file: &Found, node: &str) -> TensorRecord {
        let (rank, step) = (file.place.rank, file.place.step);
        // The files a converter made of one dump are one execution.
        let execution = (file.name.time, file.name.task.clone());
        let call = self
            .calls
            .entry((rank, step, node.to_owned()))
            .and_modify(|(call, last)| {
                if *last != execution {
                    *call += 1;
                    last.clone_from(&execution);
                }
            })
            .or_insert_with(|| (0, execution.clone()))
            .0;
        TensorRecord {
            step,
            rank,
            op_type: Some(file.name.op_type.clone()),
            call,
            order: file.name.time,
            ..TensorRecord::new(node, Role::Other, "0", Location::Nowhere)
        }
    }
}

/// The record of one tensor of a file. Input 1 has the key `input.1`; buffers keep their word in the slot.
fn of_entry(record: &TensorRecord, entry: &Entry, file: &Found, problems: &mut Problems) -> TensorRecord {
    let (place, index) = entry.key.split_once('.').unwrap_or(("", "0"));
    let (role, slot) = match place {
        "input" => (Role::Input, index.to_owned()),
        "output" => (Role::Output, index.to_owned()),
        _ => (Role::Other, entry.key.clone()),
    };
    let info = match &entry.view {
        Ok(view) => {
            for note in view.notes() {
                let layout = note.split(',').next().unwrap_or(note);
                problems.count(layout, "tensor", format!("{}: {}", entry.key, file.path.display()));
            }
            Some(view.info().clone())
        }
        Err(error) => {
            problems.add(error.to_string());
            None
        }
    };
    TensorRecord { role, slot, info, location: entry.location(&file.path), ..record.clone() }
}

/// One line of a statistics file.
struct Statistic {
    role: Role,
    slot: String,
    info: Option<TensorInfo>,
    stats: ProducerStats,
}

/// Longest statistics file: an operator has a line for each tensor.
const MAX_STATISTICS: u64 = 64 << 20;

fn statistics(path: &Path) -> Vec<Result<Statistic, String>> {
    let text = match std::fs::metadata(path) {
        Ok(meta) if meta.len() > MAX_STATISTICS => {
            return vec![Err(format!("of {} bytes, too long for statistics", meta.len()))];
        }
        _ => match std::fs::read(path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) => return vec![Err(format!("not read: {error}"))],
        },
    };
    let mut lines = text.lines();
    let header = table::cells(lines.next().unwrap_or_default());
    let column = |name: &str| header.iter().position(|cell| cell.trim().eq_ignore_ascii_case(name));
    let Some((side, index)) = column("Input/Output").zip(column("Index")) else {
        return vec![Err("without the columns Input/Output and Index".into())];
    };
    let named = ["Max Value", "Min Value", "Avg Value", "l2norm", "Data Type", "Shape"].map(column);
    lines
        .filter(|line| !line.trim().is_empty())
        .map(|line| {
            let cells = table::cells(line);
            let cell = |at: usize| cells.get(at).map(|cell| cell.trim());
            let [max, min, mean, norm, dtype, shape] = named.map(|at| at.and_then(cell));
            let role = match cell(side).map(str::to_lowercase).as_deref() {
                Some("input") => Role::Input,
                Some("output") => Role::Output,
                _ => return Err("whose first cell is neither Input nor Output".to_owned()),
            };
            let slot = cell(index).filter(|slot| is_number(slot)).ok_or("without an index")?.to_owned();
            let number = |text: Option<&str>| text.and_then(|text| text.parse().ok());
            let stats = ProducerStats {
                max: number(max),
                min: number(min),
                mean: number(mean),
                norm: number(norm),
                ..ProducerStats::default()
            };
            Ok(Statistic { role, slot, info: info(dtype, shape), stats })
        })
        .collect()
}

fn info(dtype: Option<&str>, shape: Option<&str>) -> Option<TensorInfo> {
    let name = dtype?.to_lowercase();
    let name = name.strip_prefix("dt_").unwrap_or(&name);
    let dtype = DType::from_name(if name == "bf16" { "bfloat16" } else { name })?;
    let shape = match shape? {
        "-" | "" => Vec::new(),
        dims => dims.split('x').map(|dim| dim.parse().ok()).collect::<Option<Vec<u64>>>()?,
    };
    Some(TensorInfo::new(dtype, shape))
}

/// The graphs whose text lies beside the dump, the most compiled form of each.
fn read_graphs(dir: &Path, files: &[Found], models: &BTreeSet<String>, problems: &mut Problems) -> Graph {
    let mut texts = graph_texts(dir, files);
    // GE's own graph after compilation names what runs; torchair's last one comes near; its first one is a start.
    let stage = |name: &str| {
        if name.starts_with("ge_proto_") { 0 } else { 1 + u8::from(name.starts_with("dynamo_original")) }
    };
    texts.sort_by_key(|path| {
        let name = file_name(path);
        (stage(&name), rank_in(&name))
    });
    let mut graphs: BTreeMap<String, Graph> = BTreeMap::new();
    for path in texts {
        match ge_text::read(&path, problems) {
            Ok(named) if named.graph.nodes.is_empty() => {}
            // Ranks compile the same graph; the first rank's stands for all.
            Ok(named) => {
                graphs.entry(named.name).or_insert(named.graph);
            }
            Err(error) => problems.add(error.to_string()),
        }
    }
    let mut whole = Graph::default();
    let single = models.len() <= 1;
    let only = graphs.len() == 1;
    for (name, graph) in graphs {
        let model = models.iter().find(|model| is_model_of(model, &name));
        match model {
            Some(_) if single => append(&mut whole, graph, ""),
            Some(model) => append(&mut whole, graph, &format!("{model}/")),
            None if single && only => append(&mut whole, graph, ""),
            None => problems.count("of which no tensor was dumped", "graph", name),
        }
    }
    whole
}

/// GE calls the model of `graph_1` just that, or `graph_1_0`.
fn is_model_of(model: &str, graph: &str) -> bool {
    let graph = ge_names::as_in_files(graph);
    model
        .strip_prefix(&graph)
        .is_some_and(|rest| rest.is_empty() || rest.strip_prefix('_').is_some_and(is_number))
}

fn rank_in(name: &str) -> Option<u32> {
    let (_, rest) = name.split_once("_rank_")?;
    rest.split('_').next()?.parse().ok()
}

/// Text files of graphs in `dir`, and in the directories that hold the dump's time stamps and ranks.
fn graph_texts(dir: &Path, files: &[Found]) -> Vec<PathBuf> {
    let mut places = BTreeSet::from([dir.to_owned()]);
    for file in files {
        let time = file.path.ancestors().find(|above| is_time(&file_name(above)));
        let mut above = time.and_then(Path::parent);
        if let Some(rank) = above.filter(|above| rank_of(&file_name(above)).is_some()) {
            places.insert(rank.to_owned());
            above = rank.parent();
        }
        places.extend(above.map(Path::to_owned));
    }
    let is_graph = |name: &str| {
        let stem = name.strip_suffix(".txt").unwrap_or_default();
        stem.starts_with("dynamo_original")
            || stem.starts_with("dynamo_optimized")
            || stem.starts_with("ge_proto_") && stem.contains("Build")
    };
    let list = |dir: &PathBuf| walk::list(dir).unwrap_or_default();
    places.iter().flat_map(list).filter(|e| !e.is_dir && is_graph(&e.name)).map(|e| e.path).collect()
}

fn append(whole: &mut Graph, part: Graph, prefix: &str) {
    let (nodes, tensors) = (whole.nodes.len() as u32, whole.tensors.len() as u32);
    whole.tensors.extend(part.tensors.into_iter().map(|name| format!("{prefix}{name}")));
    whole.nodes.extend(part.nodes.into_iter().map(|node| Node {
        name: format!("{prefix}{}", node.name),
        parent: node.parent.map(|parent| parent + nodes),
        inputs: node.inputs.into_iter().map(|tensor| tensor + tensors).collect(),
        outputs: node.outputs.into_iter().map(|tensor| tensor + tensors).collect(),
        ..node
    }));
}
