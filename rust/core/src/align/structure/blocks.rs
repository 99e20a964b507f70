//! The repeated block of a model: which one each operation is in, and which of one run is which of the other.

use std::collections::BTreeMap;

use super::model::Model;
use crate::align::names;

/// An outermost ATB operation made of at least so many others is a block even when it is the only one of its kind.
const LARGE: usize = 6;

/// Finds the blocks, by the number in a module's path or by the outermost ATB operations of one type.
pub(super) fn find(model: &mut Model) {
    let mut kinds: BTreeMap<&str, BTreeMap<&str, usize>> = BTreeMap::new();
    for unit in model.units.iter().filter(|u| names::is_atb(&u.name)) {
        let (top, _) = split(&unit.name);
        let kind = names::atb_part(top).map_or("", |(_, kind)| kind);
        *kinds.entry(kind).or_default().entry(top).or_default() += 1;
    }
    let is_block = |top: &str, kind: &str| {
        let Some(tops) = kinds.get(kind) else { return false };
        let inside = tops.get(top).copied().unwrap_or(0);
        inside > 1 && (tops.len() > 1 || inside >= LARGE)
    };
    let mut found: Vec<(Option<String>, String)> = Vec::with_capacity(model.units.len());
    for unit in &model.units {
        let name = unit.name.as_str();
        let place = if names::is_atb(name) {
            let (top, rest) = split(name);
            let kind = names::atb_part(top).map_or("", |(_, kind)| kind);
            if is_block(top, kind) {
                (Some(top.to_owned()), rest.to_owned())
            } else {
                (None, kind_path(name))
            }
        } else {
            in_path(name)
        };
        found.push(place);
    }
    let mut blocks: BTreeMap<String, usize> = BTreeMap::new();
    let mut calls: BTreeMap<String, Vec<Option<usize>>> = BTreeMap::new();
    for ((block, local), unit) in found.into_iter().zip(&mut model.units) {
        unit.block = block.map(|block| {
            let next = blocks.len();
            *blocks.entry(block.clone()).or_insert_with(|| {
                model.blocks.push(block);
                next
            })
        });
        unit.local = local;
        calls.entry(unit.name.clone()).or_default().push(unit.block);
    }
    // A module that every block calls is in as many blocks as it has calls.
    let count = model.blocks.len();
    let mut totals: BTreeMap<&str, usize> = BTreeMap::new();
    for unit in &model.units {
        *totals.entry(unit.node.as_str()).or_default() += 1;
    }
    let shared: Vec<usize> = (0..model.units.len())
        .filter(|&u| {
            let unit = &model.units[u];
            count > 1 && unit.block.is_none() && totals.get(unit.node.as_str()) == Some(&count)
        })
        .collect();
    for u in shared {
        model.units[u].block = Some(model.units[u].call as usize).filter(|&b| b < count);
    }
}

fn split(name: &str) -> (&str, &str) {
    name.split_once('/').unwrap_or((name, ""))
}

/// An ATB path without numbers.
fn kind_path(name: &str) -> String {
    let kinds: Vec<&str> =
        name.split('/').map(|part| names::atb_part(part).map_or(part, |(_, n)| n)).collect();
    kinds.join("/")
}

/// `model.layers.3.mlp` is `mlp` in block `model.layers.3`.
fn in_path(name: &str) -> (Option<String>, String) {
    let mut at = 0;
    for part in name.split('.') {
        let end = at + part.len();
        if !part.is_empty() && part.bytes().all(|c| c.is_ascii_digit()) {
            return (Some(name[..end].to_owned()), name.get(end + 1..).unwrap_or_default().to_owned());
        }
        at = end + 1;
    }
    (None, name.to_owned())
}

/// Which block of the golden side is which of the candidate: in order, by what is known of each pair.
/// A pair of which nothing is known scores 0 and is better than none.
pub(super) fn pair(
    golden: usize,
    candidate: usize,
    score: impl Fn(usize, usize) -> f64,
) -> Vec<Option<usize>> {
    // Blocks missing from one side are few; pairs far off the diagonal are not looked at.
    let band = golden.abs_diff(candidate) + 2;
    let near = |i: usize, j: usize| i.abs_diff(j) <= band;
    let mut best = vec![vec![f64::NEG_INFINITY; candidate + 1]; golden + 1];
    for i in (0..=golden).rev() {
        for j in (0..=candidate).rev() {
            if i == golden || j == candidate {
                best[i][j] = 0.0;
                continue;
            }
            let paired = if near(i, j) { score(i, j) + 0.01 + best[i + 1][j + 1] } else { f64::NEG_INFINITY };
            best[i][j] = paired.max(best[i + 1][j]).max(best[i][j + 1]);
        }
    }
    let mut pairs = vec![None; golden];
    let (mut i, mut j) = (0, 0);
    while i < golden && j < candidate {
        if near(i, j) && best[i][j] <= score(i, j) + 0.01 + best[i + 1][j + 1] + 1e-12 {
            pairs[i] = Some(j);
            (i, j) = (i + 1, j + 1);
        } else if best[i][j] <= best[i + 1][j] {
            i += 1;
        } else {
            j += 1;
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_paths_are_blocks() {
        assert_eq!(in_path("model.layers.3.mlp.up"), (Some("model.layers.3".into()), "mlp.up".into()));
        assert_eq!(in_path("layers.12"), (Some("layers.12".into()), String::new()));
        assert_eq!(in_path("lm_head"), (None, "lm_head".into()));
    }

    #[test]
    fn blocks_keep_their_order() {
        assert_eq!(pair(3, 3, |_, _| 0.0), [Some(0), Some(1), Some(2)]);
        // The candidate lacks the second.
        let same = |i: usize, j: usize| if i == if j == 0 { 0 } else { j + 1 } { 1.0 } else { 0.0 };
        assert_eq!(pair(4, 3, same), [Some(0), None, Some(1), Some(2)]);
        assert_eq!(pair(2, 3, |_, _| 0.0), [Some(0), Some(1)]);
        assert_eq!(pair(0, 3, |_, _| 0.0), []);
    }
}
