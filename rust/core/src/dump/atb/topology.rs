//! Finding the topology files of a dump's processes, and the graph made of them and the directories.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde_json::Value;

use super::place::Place;
use super::walk_ops::Found;
use crate::dump::ranks::Process;
use crate::dump::walk::{self, Entry};
use crate::dump::{Dump, Problems, json};
use crate::graph::Graph;
use crate::graph::atb_json::{self, Model};

/// The graph of the first process, which the ranks of one run share, and of the directories of all.
pub(super) fn read(place: &Place, found: &Found, dump: &mut Dump, problems: &mut Problems) -> Graph {
    let mut models: Vec<Model> = Vec::new();
    let mut layers = Vec::new();
    let mut unread = Vec::new();
    if let (Some(root), Some(process)) = (&place.root, place.processes.first()) {
        for file in files(root, "model", process, problems) {
            let next = models.iter().map(|m| m.len() as u64).sum();
            match atb_json::read_model(&file.path, next, problems) {
                Ok(model) => models.push(model),
                Err(error) => {
                    unread.push(error.to_string());
                    problems.add(error.to_string());
                }
            }
        }
        models.sort_by_key(Model::first);
        for file in files(root, "layer", process, problems) {
            match atb_json::read_layer(&file.path, problems) {
                Ok(layer) => layers.push(layer),
                Err(error) => problems.add(error.to_string()),
            }
        }
    }
    if models.is_empty() {
        for text in unread {
            problems.fault(text);
        }
    } else {
        dump.about.insert("models".into(), models.iter().map(Model::about).collect());
    }
    let mut graph = atb_json::tie(&models, &layers, &found.nodes, problems);
    add_params(&mut graph, &found.params, problems);

    let types: BTreeMap<&str, &str> =
        graph.nodes.iter().map(|n| (n.name.as_str(), n.op_type.as_str())).collect();
    for record in &mut dump.records {
        if let Some(op_type) = types.get(record.node.as_str()) {
            record.op_type = Some((*op_type).to_owned());
        }
    }
    graph
}

/// The `.json` files of one kind that a process wrote, in natural order.
fn files(root: &Path, kind: &str, process: &Process, problems: &mut Problems) -> Vec<Entry> {
    let full = format!("{}_{}", process.device, process.pid);
    let homes = [root.join(kind), root.join("info").join(kind)];
    let mut dir =
        homes.iter().flat_map(|home| [home.join(&full), home.join(&process.pid)]).find(|d| d.is_dir());
    if dir.is_none() {
        // A dump put together by hand may have one topology under another number.
        let any: Vec<PathBuf> = homes.iter().flat_map(|home| walk::dirs(home)).map(|e| e.path).collect();
        if let [only] = any.as_slice() {
            problems
                .add(format!("no {kind} topology of process {full}; another's is used: {}", only.display()));
            dir = Some(only.clone());
        }
    }
    let mut files = dir.and_then(|dir| walk::list(&dir).ok()).unwrap_or_default();
    files.retain(|e| !e.is_dir && e.path.extension().is_some_and(|s| s == "json"));
    files
}

/// Fills the parameters that the topology lacks from the operations' own files.
fn add_params(graph: &mut Graph, files: &BTreeMap<String, PathBuf>, problems: &mut Problems) {
    let lacking: Vec<(usize, &PathBuf)> = graph
        .nodes
        .iter()
        .enumerate()
        .filter(|(_, node)| node.params.is_null())
        .filter_map(|(i, node)| Some((i, files.get(&node.name)?)))
        .collect();
    let read: Vec<_> = lacking.par_iter().map(|(i, path)| (*i, json::read(path))).collect();
    for (i, params) in read {
        match params {
            Ok(params) => graph.nodes[i].params = params,
            Err(error) => {
                problems.add(error.to_string());
                graph.nodes[i].params = Value::Null;
            }
        }
    }
}
