//! The models of a dump: what runs together in one forward pass.

use std::collections::{BTreeMap, BTreeSet};

use crate::align::names;
use crate::dump::{Dump, Role};

/// Models of one process. A first operation that comes again more often is one of every layer's.
const MODELS: usize = 8;

/// Nodes that run together in one forward pass, and the steps at which they do.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) records: Vec<usize>,
    pub(super) steps: Vec<Option<u64>>,
}

/// The models of a dump: ATB runs prefill and decode as two models of one process.
pub(super) fn parts(dump: &Dump) -> Vec<Part> {
    let top = |node: &str| node.split('/').next().and_then(names::atb_part).map(|(id, n)| (id, n.to_owned()));
    let mut tops: BTreeSet<(u64, String)> = BTreeSet::new();
    if dump.layout == "atb" {
        tops.extend(dump.records.iter().filter_map(|r| top(&r.node)));
        tops.extend(dump.graph.iter().flat_map(|g| &g.nodes).filter_map(|n| top(&n.name)));
    }
    let starts = starts(&tops.into_iter().collect::<Vec<_>>());
    let mut parts: BTreeMap<usize, Part> = BTreeMap::new();
    for (i, record) in dump.records.iter().enumerate() {
        if record.role == Role::Param {
            continue;
        }
        let number = top(&record.node).map_or(0, |(id, _)| starts.iter().filter(|&&s| s <= id).count());
        let part = parts.entry(number).or_insert_with(|| Part { records: Vec::new(), steps: Vec::new() });
        part.records.push(i);
        if !part.steps.contains(&record.step) {
            part.steps.push(record.step);
        }
    }
    let mut parts: Vec<Part> = parts.into_values().collect();
    let params: Vec<usize> =
        (0..dump.records.len()).filter(|&i| dump.records[i].role == Role::Param).collect();
    for part in &mut parts {
        part.steps.sort_unstable();
        part.records.extend(&params);
    }
    parts
}

/// Numbers at which a further model begins: after each head, or where the first operation comes again.
fn starts(tops: &[(u64, String)]) -> Vec<u64> {
    let is_head = |name: &str| name.to_ascii_lowercase().replace('_', "").starts_with("lmhead");
    let heads: Vec<usize> = (0..tops.len()).filter(|&i| is_head(&tops[i].1)).collect();
    if !heads.is_empty() {
        return heads.iter().filter_map(|&i| tops.get(i + 1)).map(|t| t.0).collect();
    }
    let Some(first) = tops.first() else { return Vec::new() };
    let again = (1..tops.len()).filter(|&i| tops[i].1 == first.1 && tops[i - 1].1 != first.1);
    let starts: Vec<u64> = again.map(|i| tops[i].0).collect();
    if starts.len() < MODELS { starts } else { Vec::new() }
}
