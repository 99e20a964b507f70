//! Which level of an ATB dump a directory is, seen from the names around it.

use std::path::{Path, PathBuf};

use super::names::{is_op, parse_process};
use crate::dump::ranks::{self, Process, Processes, is_number};
use crate::dump::walk::{self, file_name};

/// Deepest operation looked into before a directory is declared no operation.
const MAX_PROBE: usize = 6;
const TENSOR_DIRS: [&str; 2] = ["tensors", "data"];
const MSPROBE_ROOT: &str = "atb_dump_data";

/// What part of which dump is wanted.
#[derive(Debug)]
pub(super) struct Place {
    /// The directory that holds `tensors` or `data`, and the topology; `None` when it cannot be told.
    pub(super) root: Option<PathBuf>,
    /// The processes wanted; each has its executions below its path.
    pub(super) processes: Vec<Process>,
    /// The one execution wanted.
    pub(super) execution: Option<PathBuf>,
    /// The one operation wanted: its names from the top.
    pub(super) operation: Vec<String>,
    /// The one of `before` and `after` wanted.
    pub(super) phase: Option<String>,
    /// Whether the dump has msprobe's layout (era E).
    pub(super) is_msprobe: bool,
    /// Whether process directories lie in the output directory itself (era A0).
    pub(super) is_bare: bool,
}

impl Place {
    /// Reads the levels off the names above and including `dir`.
    pub(super) fn of(dir: &Path) -> Self {
        let mut at = dir.to_owned();
        let mut phase = None;
        let mut operation = Vec::new();
        let mut execution = None;
        if is_phase(&file_name(&at)) {
            phase = Some(file_name(&at));
            at.pop();
        }
        while is_op(&file_name(&at)) && (phase.is_some() || is_op_dir(&at, MAX_PROBE)) {
            operation.insert(0, file_name(&at));
            at.pop();
        }
        let process_known = if !operation.is_empty() || is_execution(&at) {
            execution = Some(at.clone());
            is_number(&file_name(&at)) && at.pop()
        } else {
            is_process_dir(&at)
        };
        let (processes, holder) = if execution.is_some() || process_known {
            let process = Processes::of(&at, parse_process).unwrap_or_else(|| Process {
                device: String::new(),
                pid: String::new(),
                path: at.clone(),
                rank: 0,
            });
            let holder = at.parent().map(Path::to_owned);
            (vec![process], holder.filter(|_| process_known))
        } else {
            let holder = tensor_dir(&at).unwrap_or(at);
            (processes(&holder).all, Some(holder))
        };
        let is_inside = holder.as_ref().is_some_and(|h| TENSOR_DIRS.contains(&file_name(h).as_str()));
        let is_bare = holder.is_some() && !is_inside;
        let root = match holder {
            Some(holder) if is_inside => holder.parent().map(Path::to_owned),
            other => other,
        };
        let is_msprobe = root.as_ref().is_some_and(|root| {
            file_name(root) == MSPROBE_ROOT || (is_inside && !root.join("tensors").is_dir())
        });
        Self { root, processes, execution, operation, phase, is_msprobe, is_bare }
    }
}

/// As [`super::find`].
pub(super) fn find(dir: &Path) -> Vec<PathBuf> {
    let name = file_name(dir);
    let is_part = (is_phase(&name) && dir.parent().is_some_and(|p| is_op(&file_name(p))))
        || (is_op(&name) && is_op_dir(dir, MAX_PROBE))
        || is_execution(dir)
        || is_process_dir(dir);
    if is_part {
        return vec![dir.to_owned()];
    }
    let mut found = runs(dir);
    if let Some(tensors) = tensor_dir(dir) {
        found.extend(runs(&tensors));
    }
    let mut roots = ranks::roots(dir);
    roots.push(dir.join(MSPROBE_ROOT));
    found.extend(roots.iter().filter_map(|root| tensor_dir(root)).flat_map(|tensors| runs(&tensors)));
    found
}

/// The directory of processes, or each process where they are runs of their own.
fn runs(holder: &Path) -> Vec<PathBuf> {
    let processes = processes(holder);
    match processes.all.as_slice() {
        [] => Vec::new(),
        _ if processes.one_run => vec![holder.to_owned()],
        several => several.iter().map(|p| p.path.clone()).collect(),
    }
}

fn processes(holder: &Path) -> Processes {
    let mut found = Processes::list(holder, parse_process);
    found.all.retain(|p| is_process_dir(&p.path));
    found
}

fn tensor_dir(root: &Path) -> Option<PathBuf> {
    TENSOR_DIRS.iter().map(|name| root.join(name)).find(|dir| !processes(dir).all.is_empty())
}

fn is_process_dir(dir: &Path) -> bool {
    walk::dirs(dir).iter().any(|e| is_number(&e.name) && is_execution(&e.path))
}

/// Whether operations, or their statistics, lie in `dir`. Its own name is a number unless someone copied it.
fn is_execution(dir: &Path) -> bool {
    let is_named = is_number(&file_name(dir));
    (is_named && dir.join("statistic.csv").is_file())
        || (!is_op(&file_name(dir)) || is_named)
            && walk::dirs(dir).iter().any(|e| is_op(&e.name) && is_op_dir(&e.path, MAX_PROBE))
}

/// Whether `before` or `after` is found in an operation's directory or in its children's.
fn is_op_dir(dir: &Path, depth: usize) -> bool {
    let dirs = walk::dirs(dir);
    dirs.iter().any(|e| is_phase(&e.name))
        || dir.join("op_param.json").is_file()
        || (depth > 0 && dirs.iter().any(|e| is_op(&e.name) && is_op_dir(&e.path, depth - 1)))
}

pub(super) fn is_phase(name: &str) -> bool {
    matches!(name, "before" | "after")
}
