//! The name on the other side that comes nearest to one without a partner.

use std::collections::BTreeMap;

use super::{Unmatched, names};
use crate::dump::Dump;

/// A word in more names than this tells them apart too little to be worth looking at.
const COMMON: usize = 400;

/// For each record, the node of `other` that shares the most, and the rarest, parts of its name.
pub(super) fn name(left: &[usize], own: &Dump, other: &Dump) -> Vec<Unmatched> {
    if left.is_empty() {
        return Vec::new();
    }
    let (nodes, index) = index(other);
    let mut known: BTreeMap<&str, Option<String>> = BTreeMap::new();
    left.iter()
        .map(|&record| {
            let node = own.records[record].node.as_str();
            let nearest = known.entry(node).or_insert_with(|| find(node, &nodes, &index));
            Unmatched { record, nearest: nearest.clone() }
        })
        .collect()
}

/// For each record, the node of `other` that stands where its own would: the partner of the nearest record in order.
pub(super) fn place(
    left: &[usize],
    partner: &BTreeMap<usize, usize>,
    own: &Dump,
    other: &Dump,
) -> Vec<Unmatched> {
    left.iter()
        .map(|&record| {
            let r = &own.records[record];
            let beside =
                |&(&i, _): &(&usize, &usize)| (own.records[i].step, own.records[i].rank) == (r.step, r.rank);
            let before = partner.range(..record).next_back().filter(beside);
            let after = partner.range(record..).next().filter(beside);
            let nearest = before.into_iter().chain(after).min_by_key(|(i, _)| i.abs_diff(record));
            Unmatched { record, nearest: nearest.map(|(_, &there)| other.records[there].node.clone()) }
        })
        .collect()
}

/// The node of a dump whose name comes nearest to `node`.
pub(super) fn to_name(node: &str, dump: &Dump) -> Option<String> {
    let (nodes, index) = index(dump);
    find(node, &nodes, &index)
}

fn index(dump: &Dump) -> (Vec<&str>, BTreeMap<String, Vec<u32>>) {
    let mut nodes: Vec<&str> = dump.records.iter().map(|r| r.node.as_str()).collect();
    nodes.sort_unstable();
    nodes.dedup();
    let mut index: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for (i, node) in nodes.iter().enumerate() {
        for part in parts(node) {
            index.entry(part).or_default().push(i as u32);
        }
    }
    (nodes, index)
}

fn find(node: &str, nodes: &[&str], index: &BTreeMap<String, Vec<u32>>) -> Option<String> {
    let wanted = parts(node);
    let mut scores: BTreeMap<u32, f64> = BTreeMap::new();
    for hits in wanted.iter().filter_map(|part| index.get(part)) {
        if hits.len() <= COMMON || hits.len() == nodes.len() {
            for &hit in hits {
                *scores.entry(hit).or_default() += 1.0 / (1.0 + (hits.len() as f64).ln());
            }
        }
    }
    // A name that says much more than the one sought is further away.
    let score = |i: u32, s: f64| s - 0.01 * parts(nodes[i as usize]).len().abs_diff(wanted.len()) as f64;
    scores
        .into_iter()
        .map(|(i, s)| (i, score(i, s)))
        .reduce(|best, next| if next.1 > best.1 { next } else { best })
        .map(|(i, _)| nodes[i as usize].to_owned())
}

/// Words, numbers, and the whole: `layers`, `layers.3`, `q`, `proj`.
fn parts(node: &str) -> Vec<String> {
    let name = names::normalise(node, None).name;
    let mut parts = names::words(&name);
    let pieces: Vec<&str> = name.split(['.', '/']).collect();
    parts.extend(pieces.iter().map(|p| (*p).to_owned()));
    parts.extend(pieces.windows(2).map(|w| format!("{}.{}", w[0], w[1])));
    parts.sort();
    parts.dedup();
    parts
}
