//! One pass over the directories of all operations.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::names::{completion_cmp, is_op, parse_tensor};
use super::place::{Place, is_phase};
use super::statistics;
use crate::dump::ranks::is_number;
use crate::dump::walk::{Entry, Walk, file_name};
use crate::dump::{Location, Phase, Problems, Role, TensorRecord};
use crate::graph::atb_json::split_dir;

/// What the pass met beside tensors.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Every operation's directory, as in [`TensorRecord::node`].
    pub(super) nodes: BTreeSet<String>,
    /// Each operation's first `op_param.json`.
    pub(super) params: BTreeMap<String, PathBuf>,
    /// Files of kernel tiling, which are no tensors.
    pub(super) tiling: u64,
    /// Tensor files that are links to others with the same content.
    pub(super) links: u64,
}

/// Reads the names of everything that `place` asks for.
pub(super) fn walk(place: &Place, records: &mut Vec<TensorRecord>, problems: &mut Problems) -> Found {
    let mut walker = Walker { place, records, problems, found: Found::default(), walk: Walk::default() };
    for process in &place.processes {
        match &place.execution {
            Some(execution) => walker.execution(execution, process.rank),
            None => walker.process(&process.path, process.rank),
        }
    }
    walker.found
}

struct Walker<'a> {
    place: &'a Place,
    records: &'a mut Vec<TensorRecord>,
    problems: &'a mut Problems,
    found: Found,
    walk: Walk,
}

impl Walker<'_> {
    fn process(&mut self, dir: &Path, rank: u32) {
        for entry in self.walk.enter(dir, 0, self.problems) {
            if entry.is_dir && is_number(&entry.name) {
                self.execution(&entry.path, rank);
            } else {
                self.strange(&entry);
            }
        }
    }

    fn execution(&mut self, dir: &Path, rank: u32) {
        let first = self.records.len();
        if self.place.operation.is_empty() {
            for entry in self.walk.enter(dir, 1, self.problems) {
                if entry.is_dir && is_op(&entry.name) {
                    self.operation(&entry.path, &entry.name, 2);
                } else if entry.name != statistics::FILE {
                    self.strange(&entry);
                }
            }
        } else {
            let mut path = dir.to_owned();
            path.extend(&self.place.operation);
            self.operation(&path, &self.place.operation.join("/"), 2);
        }
        let csv = dir.join(statistics::FILE);
        if csv.is_file() {
            let wanted = self.place.operation.join("/");
            statistics::read(&csv, &wanted, self.records, first, self.problems);
            if let Some(wanted) = self.place.phase.as_deref() {
                self.records.retain(|r| r.phase.is_some_and(|phase| phase.name() == wanted));
            }
            self.found.nodes.extend(self.records[first..].iter().map(|r| r.node.clone()));
        }
        let step = file_name(dir).parse().ok();
        let nodes: BTreeSet<&str> = self.records[first..].iter().map(|r| r.node.as_str()).collect();
        let mut nodes: Vec<String> = nodes.into_iter().map(str::to_owned).collect();
        nodes.sort_by(|a, b| completion_cmp(a, b));
        let orders: BTreeMap<String, u64> = nodes.into_iter().zip(0..).collect();
        for record in &mut self.records[first..] {
            record.step = step;
            record.rank = Some(rank);
            record.order = orders[&record.node];
        }
    }

    fn operation(&mut self, dir: &Path, node: &str, depth: usize) {
        self.found.nodes.insert(node.to_owned());
        let wanted = self.place.phase.as_deref();
        for entry in self.walk.enter(dir, depth, self.problems) {
            match entry.name.as_str() {
                phase if entry.is_dir && is_phase(phase) => {
                    if wanted.is_none_or(|wanted| wanted == phase) {
                        let phase = if phase == "before" { Phase::Before } else { Phase::After };
                        self.tensors(&entry.path, node, phase, depth + 1);
                    }
                }
                name if entry.is_dir && is_op(name) => {
                    if wanted.is_none() {
                        self.operation(&entry.path, &format!("{node}/{name}"), depth + 1);
                    }
                }
                "op_param.json" if !entry.is_dir => {
                    self.found.params.entry(node.to_owned()).or_insert(entry.path);
                }
                _ => self.strange(&entry),
            }
        }
    }

    fn tensors(&mut self, dir: &Path, node: &str, phase: Phase, depth: usize) {
        let op_type = node.rsplit('/').next().and_then(split_dir).map(|(_, text)| text.to_owned());
        let mut places: BTreeSet<(Role, String)> = BTreeSet::new();
        for entry in self.walk.enter(dir, depth, self.problems) {
            let Some((role, slot)) = parse_tensor(&entry.name).filter(|_| !entry.is_dir) else {
                self.strange(&entry);
                continue;
            };
            if !places.insert((role, slot.to_owned())) {
                self.problems.count("for a place that another file has", "tensor file", entry.path.display());
            }
            let location = Location::File(self.follow(&entry));
            self.records.push(TensorRecord {
                phase: Some(phase),
                op_type: op_type.clone(),
                ..TensorRecord::new(node, role, slot, location)
            });
        }
    }

    /// The file behind a link. Links hold absolute paths, which break when a dump is moved: then the same place
    /// inside this dump is meant.
    fn follow(&mut self, entry: &Entry) -> PathBuf {
        if !entry.is_link {
            return entry.path.clone();
        }
        self.found.links += 1;
        if entry.path.exists() {
            return entry.path.clone();
        }
        let target = fs::read_link(&entry.path).unwrap_or_default();
        let moved = self.place.root.as_ref().and_then(|root| {
            let names: Vec<_> = target.iter().collect();
            let holder = names.iter().rposition(|name| *name == "tensors" || *name == "data")?;
            Some(root.join(names[holder..].iter().collect::<PathBuf>())).filter(|path| path.exists())
        });
        if moved.is_none() {
            self.problems.count("that lead nowhere", "link", entry.path.display());
        }
        moved.unwrap_or_else(|| entry.path.clone())
    }

    fn strange(&mut self, entry: &Entry) {
        if !entry.is_dir && entry.name.ends_with("tilingdata.bin") {
            self.found.tiling += 1;
        } else if entry.is_dir {
            self.problems.count("not understood", "directory", entry.path.display());
        } else {
            self.problems.count("not understood", "file", entry.path.display());
        }
    }
}
