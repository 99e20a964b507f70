//! The torch hook of `ait llm` and `msit llm`:
//! `[ait_dump|msit_dump_<ts>/]torch_tensors/<device>_<pid>/<token>/<module>/{input_<i>…,output…}.pth`,
//! with `weights/`, `model_tree.json` and, from msit, `statistics.csv` in the module directories.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::ranks::{self, Processes, is_number};
use super::walk::{self, Entry, Walk, file_name, natural_cmp};
use super::{Dump, Location, Problems, ProducerStats, Role, TensorRecord, json, table};
use crate::graph::{self, Graph};
use crate::{DType, Result, TensorInfo};

/// Files that stand for the dump.
pub(super) const MARKS: &[&str] = &["model_tree.json", "statistics.csv"];

const TENSORS: &str = "torch_tensors";
/// What `llmdbg` says beside the tree when it writes this layout.
const SIDECAR: &str = "llmdbg.jsonl";
const WEIGHTS: &str = "weights";

/// The dumps at or in `dir`, which may be any level from the dump path down to one module's directory.
pub(super) fn find(dir: &Path) -> Vec<PathBuf> {
    if is_process_dir(dir) || is_token_dir(dir) || is_module_dir(dir) || is_weights_dir(dir) {
        return vec![dir.to_owned()];
    }
    let processes = processes(dir);
    if !processes.all.is_empty() {
        return if processes.one_run {
            vec![dir.to_owned()]
        } else {
            processes.all.into_iter().map(|p| p.path).collect()
        };
    }
    if dir.join(TENSORS).is_dir() {
        return find(&dir.join(TENSORS));
    }
    ranks::roots(dir).iter().flat_map(|root| find(&root.join(TENSORS))).collect()
}

/// Reads what `find` found: all processes, one of them, one token, one module, or the weights.
pub(super) fn open(dir: &Path) -> Result<Dump> {
    walk::list(dir)?;
    let (process_dir, scope) = if is_token_dir(dir) {
        (dir.parent(), Scope::Token(dir))
    } else if is_module_dir(dir) {
        (dir.parent().and_then(Path::parent), Scope::Module(dir))
    } else if is_weights_dir(dir) {
        (dir.parent(), Scope::Weights)
    } else {
        (is_process_dir(dir).then_some(dir), Scope::All)
    };
    let processes = match process_dir {
        Some(process) => Processes::of(process, parse_process).map_or_else(
            || {
                let (device, pid) = (String::new(), String::new());
                vec![ranks::Process { device, pid, path: process.to_owned(), rank: 0 }]
            },
            |p| vec![p],
        ),
        None => processes(dir).all,
    };
    let mut dump = Dump::new("ait", dir);
    let mut problems = Problems::default();
    for process in &processes {
        let tree = read_tree(&process.path, &mut problems);
        let mut reader = Reader { rank: process.rank, dump: &mut dump, problems: &mut problems };
        reader.read_process(&process.path, &scope);
        match (&dump.graph, tree) {
            (None, tree) => dump.graph = tree,
            (Some(first), Some(other)) if first.nodes.len() != other.nodes.len() => problems.add(format!(
                "rank {} has another module tree than the first rank, whose tree is used",
                process.rank
            )),
            (Some(_), _) => {}
        }
    }
    let spelled = dir.ancestors().map(file_name).find(|name| ranks::is_root_name(name)).unwrap_or_default();
    spelled.split('_').next().unwrap_or_default().clone_into(&mut dump.variant);
    dump.about.insert("processes".into(), processes.iter().map(ranks::Process::about).collect());
    order_records(&mut dump, &mut problems);
    dump.sort();
    dump.faults = problems.take_faults();
    dump.problems = problems.into_texts();
    Ok(dump)
}

/// How much of a process's directory is wanted.
enum Scope<'a> {
    All,
    Token(&'a Path),
    Module(&'a Path),
    Weights,
}

/// `npu0_1234`, `cpu_77`: a device, which begins with a letter, and a pid.
fn parse_process(name: &str) -> Option<(&str, &str)> {
    let (device, pid) = name.rsplit_once('_')?;
    let kind = device.trim_end_matches(|c: char| c.is_ascii_digit());
    (is_number(pid) && !kind.is_empty() && kind.bytes().all(|c| c.is_ascii_alphabetic()))
        .then_some((device, pid))
}

fn processes(dir: &Path) -> Processes {
    let mut found = Processes::list(dir, parse_process);
    found.all.retain(|p| is_process_dir(&p.path));
    found
}

fn is_process_dir(dir: &Path) -> bool {
    dir.join("model_tree.json").is_file()
        || is_weights_dir(&dir.join(WEIGHTS))
        || walk::dirs(dir).iter().any(|e| is_number(&e.name) && is_token_dir(&e.path))
}

fn is_token_dir(dir: &Path) -> bool {
    is_number(&file_name(dir)) && walk::dirs(dir).iter().any(|e| is_module_name(&e.name))
}

fn is_module_dir(dir: &Path) -> bool {
    is_module_name(&file_name(dir)) && dir.parent().is_some_and(|p| is_number(&file_name(p)))
}

fn is_weights_dir(dir: &Path) -> bool {
    file_name(dir) == WEIGHTS
        && walk::list(dir).is_ok_and(|l| l.iter().any(|e| !e.is_dir && is_module_name(&e.name)))
}

fn is_module_name(name: &str) -> bool {
    name == "root" || name.starts_with("root.")
}

fn read_tree(process: &Path, problems: &mut Problems) -> Option<Graph> {
    let path = process.join("model_tree.json");
    if !path.is_file() {
        return None;
    }
    graph::model_tree::read(&path, problems).map_err(|error| problems.add(error.to_string())).ok()
}

struct Reader<'a> {
    rank: u32,
    dump: &'a mut Dump,
    problems: &'a mut Problems,
}

impl Reader<'_> {
    fn read_process(&mut self, dir: &Path, scope: &Scope) {
        let mut walk = Walk::default();
        match scope {
            Scope::Token(token) => self.read_token(token, &mut walk),
            Scope::Module(module) => {
                let token = module.parent().map(file_name).unwrap_or_default();
                self.read_module(&file_name(module), module, token.parse().ok(), &mut walk);
            }
            Scope::Weights => self.read_weights(&dir.join(WEIGHTS), &mut walk),
            Scope::All => {
                for entry in walk.enter(dir, 0, self.problems) {
                    if !entry.is_dir {
                        if !matches!(entry.name.as_str(), "model_tree.json" | SIDECAR) {
                            self.problems.count("not understood", "file", entry.path.display());
                        }
                    } else if entry.name == WEIGHTS {
                        self.read_weights(&entry.path, &mut walk);
                    } else if is_number(&entry.name) {
                        self.read_token(&entry.path, &mut walk);
                    } else {
                        self.problems.count("not understood", "directory", entry.path.display());
                    }
                }
            }
        }
    }

    fn read_weights(&mut self, dir: &Path, walk: &mut Walk) {
        for entry in walk.enter(dir, 1, self.problems) {
            let Some(name) = entry.name.strip_suffix(".pth").filter(|_| !entry.is_dir) else {
                self.problems.count("not understood", "file", entry.path.display());
                continue;
            };
            let (module, parameter) = name.rsplit_once('.').unwrap_or(("root", name));
            let location = Location::File(entry.path.clone());
            self.push(TensorRecord::new(module, Role::Param, parameter, location));
        }
    }

    fn read_token(&mut self, dir: &Path, walk: &mut Walk) {
        let step = file_name(dir).parse().ok();
        for entry in walk.enter(dir, 1, self.problems) {
            if entry.is_dir {
                self.read_module(&entry.name, &entry.path, step, walk);
            } else {
                self.problems.count("not understood", "file", entry.path.display());
            }
        }
    }

    fn read_module(&mut self, module: &str, dir: &Path, step: Option<u64>, walk: &mut Walk) {
        let first = self.dump.records.len();
        let mut statistics = None;
        for entry in walk.enter(dir, 2, self.problems) {
            if entry.name == "statistics.csv" {
                statistics = Some(entry.path);
                continue;
            }
            match parse_file(&entry) {
                Some((role, slot)) => {
                    let record = TensorRecord::new(module, role, slot, Location::File(entry.path));
                    self.push(TensorRecord { step, ..record });
                }
                None => self.problems.count("not understood", "file", entry.path.display()),
            }
        }
        if let Some(path) = statistics {
            self.read_statistics(&path, module, step, first);
        }
    }

    /// Rows of `statistics.csv`: added to the records of the same directory, or records of their own without bytes.
    fn read_statistics(&mut self, path: &Path, module: &str, step: Option<u64>, first: usize) {
        let text = match fs::read(path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) => return self.problems.add(format!("cannot read: {error}: {}", path.display())),
        };
        for line in text.lines().filter(|l| !l.trim().is_empty() && !l.starts_with("NodeName,")) {
            let cells = table::cells(line);
            let Some(row) = Statistic::parse(&cells) else {
                self.problems.count(
                    "not understood in statistics.csv",
                    "line",
                    format!("{line}: {}", path.display()),
                );
                continue;
            };
            // A row keeps only the last index of a nested place, which several files may share.
            let mut same = (first..self.dump.records.len()).filter(|&i| {
                let record = &self.dump.records[i];
                record.role == row.role && record.slot.rsplit('.').next() == Some(row.index.as_str())
            });
            match (same.next(), same.next()) {
                (Some(i), None) => self.dump.records[i].stats = Some(row.stats),
                (Some(_), Some(_)) => {
                    self.problems.count(
                        "that fit several tensors, left out",
                        "statistics row",
                        format!("{line}: {}", path.display()),
                    );
                }
                (None, _) => {
                    let record = TensorRecord::new(module, row.role, row.index, Location::Nowhere);
                    let op_type = Some(row.node_type).filter(|t| !t.is_empty());
                    self.push(TensorRecord {
                        step,
                        op_type,
                        info: row.info,
                        stats: Some(row.stats),
                        ..record
                    });
                }
            }
        }
    }

    fn push(&mut self, record: TensorRecord) {
        self.dump.records.push(TensorRecord { rank: Some(self.rank), ..record });
    }
}

/// `input_0_1.pth` is input `0.1`; `output.pth` is the only output, `0`; `input_kwargs_mask.pth` is `kwargs.mask`.
fn parse_file(entry: &Entry) -> Option<(Role, String)> {
    let stem = entry.name.strip_suffix(".pth").filter(|_| !entry.is_dir)?;
    let (role, rest) = match (stem.strip_prefix("input"), stem.strip_prefix("output")) {
        (Some(rest), _) => (Role::Input, rest),
        (_, Some(rest)) => (Role::Output, rest),
        _ => return None,
    };
    if rest.is_empty() {
        return Some((role, "0".into()));
    }
    let place = rest.strip_prefix('_')?;
    let slot = match place.strip_prefix("kwargs_") {
        Some(name) => format!("kwargs.{name}"),
        None if place.split('_').all(is_number) => place.replace('_', "."),
        None => place.to_owned(),
    };
    Some((role, slot))
}

/// One row of `statistics.csv`.
struct Statistic {
    node_type: String,
    role: Role,
    index: String,
    info: Option<TensorInfo>,
    stats: ProducerStats,
}

impl Statistic {
    fn parse(cells: &[String]) -> Option<Self> {
        let [_, node_type, place, index, dtype, shape, max, min, mean, norm] = cells else { return None };
        let role = match place.to_ascii_lowercase() {
            p if p.starts_with("in") => Role::Input,
            p if p.starts_with("out") => Role::Output,
            _ => return None,
        };
        let shape: Option<Vec<u64>> = shape
            .trim_matches(['(', ')', '[', ']'])
            .split(',')
            .map(str::trim)
            .filter(|d| !d.is_empty())
            .map(|d| d.parse().ok())
            .collect();
        Some(Self {
            node_type: node_type.clone(),
            role,
            index: index.trim().to_owned(),
            info: DType::from_name(dtype.trim()).zip(shape).map(|(d, s)| TensorInfo::new(d, s)),
            stats: ProducerStats {
                max: json::parse_number(max),
                min: json::parse_number(min),
                mean: json::parse_number(mean),
                norm: json::parse_number(norm),
                ..ProducerStats::default()
            },
        })
    }
}

/// The hook leaves no execution order: a module comes after its children, and they in the order of the tree.
/// Functions, which are no part of the tree, come right before the module that called them.
fn order_records(dump: &mut Dump, problems: &mut Problems) {
    let mut names: Vec<&str> = dump.records.iter().map(|r| r.node.as_str()).collect();
    names.sort_by(|a, b| natural_cmp(a, b));
    names.dedup();
    let tree = match &dump.graph {
        Some(tree) => tree.clone(),
        None => graph::from_names(names.iter().map(|n| (*n, None)), '.', problems),
    };
    let modules: BTreeMap<&str, usize> =
        tree.nodes.iter().enumerate().map(|(i, n)| (n.name.as_str(), i)).collect();
    let completion = completion_order(&tree);
    let mut keys = Vec::with_capacity(names.len());
    for (position, name) in names.into_iter().enumerate() {
        let mut owner = Some(name);
        while let Some(n) = owner.filter(|n| !modules.contains_key(n)) {
            owner = n.rsplit_once('.').map(|(head, _)| head);
        }
        let op_type = owner.map(|n| match name[n.len()..].split('.').nth(1) {
            Some(function) => function.to_owned(),
            None => tree.nodes[modules[n]].op_type.clone(),
        });
        let at = owner.map_or(usize::MAX, |n| completion[modules[n]]);
        let op_type = op_type.filter(|t| !t.is_empty());
        keys.push(((at, owner == Some(name), position), name.to_owned(), op_type));
    }
    keys.sort();
    let places: BTreeMap<&str, (u64, &Option<String>)> =
        (0..).zip(&keys).map(|(order, (_, name, op_type))| (name.as_str(), (order, op_type))).collect();
    for record in &mut dump.records {
        if let Some((order, op_type)) = places.get(record.node.as_str()) {
            record.order = *order;
            record.op_type = (*op_type).clone().or_else(|| record.op_type.take());
        }
    }
    dump.graph = Some(tree);
}

/// When each node of the tree completes: after all its descendants.
fn completion_order(tree: &Graph) -> Vec<usize> {
    let mut children: Vec<Vec<usize>> = vec![Vec::new(); tree.nodes.len()];
    let mut stack = Vec::new();
    for (i, node) in tree.nodes.iter().enumerate() {
        match node.parent {
            Some(parent) => children[parent as usize].push(i),
            None => stack.push((i, false)),
        }
    }
    stack.reverse();
    let mut order = vec![0; tree.nodes.len()];
    let mut next = 0;
    while let Some((i, finished)) = stack.pop() {
        if finished {
            order[i] = next;
            next += 1;
        } else {
            stack.push((i, true));
            stack.extend(children[i].iter().rev().map(|&child| (child, false)));
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_tell_role_and_place() {
        let parse = |name: &str| {
            parse_file(&Entry { name: name.into(), path: name.into(), is_dir: false, is_link: false })
        };
        assert_eq!(parse("input_0_1.pth"), Some((Role::Input, "0.1".into())));
        assert_eq!(parse("output.pth"), Some((Role::Output, "0".into())));
        assert_eq!(parse("output_2.pth"), Some((Role::Output, "2".into())));
        assert_eq!(
            parse("input_kwargs_attention_mask.pth"),
            Some((Role::Input, "kwargs.attention_mask".into()))
        );
        assert_eq!(parse("inputs.pth"), None);
        assert_eq!(parse("output.npy"), None);
    }

    #[test]
    fn processes_begin_with_a_device_name() {
        assert_eq!(parse_process("npu10_77"), Some(("npu10", "77")));
        assert_eq!(parse_process("cpu_77"), Some(("cpu", "77")));
        assert_eq!(parse_process("0_77"), None);
        assert_eq!(parse_process("cpu_x"), None);
    }
}
