//! What the blocks agree on.

use std::collections::{BTreeMap, BTreeSet};

use super::{Item, Segment};
use crate::align::structure::model::Model;

/// Which operations of a block the other blocks pair.
#[derive(Default)]
pub(super) struct Votes {
    /// For a golden operation's name within its block: the candidate's names, with their votes by block.
    golden: BTreeMap<String, BTreeMap<String, Vec<usize>>>,
    /// Blocks whose operations have the same names as most blocks'.
    usual: BTreeSet<usize>,
}

impl Votes {
    pub(super) fn of(segments: &[Segment], golden: &Model, candidate: &Model) -> Self {
        let mut votes = Self::default();
        // A block with one operation more or less numbers the others differently.
        let (own, other) = (operations(golden), operations(candidate));
        let mut kinds: BTreeMap<(&[&str], &[&str]), Vec<usize>> = BTreeMap::new();
        for segment in segments {
            if let (Some(b), Some(p)) = (segment.block, segment.partner) {
                kinds.entry((own[b].as_slice(), other[p].as_slice())).or_default().push(b);
            }
        }
        let most = kinds.values().max_by_key(|blocks| (blocks.len(), std::cmp::Reverse(blocks[0])));
        votes.usual.extend(most.into_iter().flatten());
        for segment in segments {
            let Some(block) = segment.block.filter(|b| votes.usual.contains(b)) else { continue };
            for (i, j) in segment.chosen.iter().enumerate().filter_map(|(i, j)| Some((i, (*j)?))) {
                let Some(known) = segment.known(i, j) else { continue };
                if known.evidence.is_strong() {
                    let (a, b) = (segment.golden[i].key.clone(), segment.candidate[j].key.clone());
                    votes.golden.entry(a).or_default().entry(b).or_default().push(block);
                }
            }
        }
        votes
    }

    pub(super) fn of_pair(&self, block: Option<usize>, a: &Item, b: &Item) -> f64 {
        let Some(block) = block.filter(|b| self.usual.contains(b)) else { return 0.0 };
        let Some(votes) = self.golden.get(&a.key) else { return 0.0 };
        let other = |blocks: &Vec<usize>| blocks.iter().filter(|&&b| b != block).count() as f64;
        let all: f64 = votes.values().map(other).sum();
        let own = votes.get(&b.key).map_or(0.0, other);
        if all == 0.0 { 0.0 } else { (2.0 * own - all) / all }
    }
}

/// The operations of each block, by their names in it.
fn operations<'m>(model: &'m Model) -> Vec<Vec<&'m str>> {
    let mut blocks = vec![Vec::new(); model.blocks.len()];
    for unit in &model.units {
        if let Some(block) = unit.block {
            blocks[block].push(unit.local.as_str());
        }
    }
    for block in &mut blocks {
        block.sort_unstable();
        block.dedup();
    }
    blocks
}
