//! What the blocks agree on.

use std::collections::{BTreeMap, BTreeSet};

use super::{Item, Segment};

/// Which operations of a block the other blocks pair.
#[derive(Default)]
pub(super) struct Votes {
    /// For a golden operation's name within its block: the candidate's names, with their votes by block.
    golden: BTreeMap<String, BTreeMap<String, Vec<usize>>>,
    /// Blocks whose operations have the same names as most blocks'.
    usual: BTreeSet<usize>,
}

impl Votes {
    pub(super) fn of(segments: &[Segment]) -> Self {
        let mut votes = Self::default();
        // A block with one operation more or less numbers the others differently.
        let signature = |segment: &Segment| {
            let names = |items: &[Item]| -> Vec<String> {
                items.iter().filter(|i| i.cut.is_none()).map(|i| i.key.clone()).collect()
            };
            (names(&segment.golden), names(&segment.candidate))
        };
        let mut kinds: BTreeMap<(Vec<String>, Vec<String>), Vec<usize>> = BTreeMap::new();
        for segment in segments {
            if let Some(block) = segment.block {
                kinds.entry(signature(segment)).or_default().push(block);
            }
        }
        let most = kinds.values().max_by_key(|blocks| (blocks.len(), std::cmp::Reverse(blocks[0])));
        votes.usual.extend(most.into_iter().flatten());
        for segment in segments {
            let Some(block) = segment.block.filter(|b| votes.usual.contains(b)) else { continue };
            for (i, j) in segment.chosen.iter().enumerate().filter_map(|(i, j)| Some((i, (*j)?))) {
                let Some((evidence, ..)) = segment.own.get(&(i, j)) else { continue };
                if evidence.is_strong() {
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
