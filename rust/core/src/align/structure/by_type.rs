//! Pairs by operation types that the user names, in the manner of the reference tool's mapping files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::model::Model;
use super::{parts, passes};
use crate::align::mapping::{Kind, Rule};
use crate::align::{Pair, Side};
use crate::dump::Dump;
use crate::{Error, Result};

/// Types named in a message.
const SHOWN: usize = 12;

/// Pairs operations of the named types in order, block by block where both sides have as many.
///
/// # Errors
/// A type that no operation has.
pub(in crate::align) fn by_types(
    golden: &Dump,
    candidate: &Dump,
    rules: &[Rule],
    path: &Path,
    notes: &mut Vec<String>,
) -> Result<Vec<Pair>> {
    for rule in rules {
        check(golden, &rule.golden, "golden", path)?;
        check(candidate, &rule.candidate, "candidate", path)?;
    }
    let (own, other) = (parts::parts(golden), parts::parts(candidate));
    let mut pairs = Vec::new();
    for meeting in passes::pair(golden, candidate, &own, &other) {
        let Some(&(step, other_step)) = meeting.steps.first() else { continue };
        let golden = Model::new(golden, &own[meeting.golden], step);
        let candidate = Model::new(candidate, &other[meeting.candidate], other_step);
        for rule in rules {
            let (mine, theirs) = (places(&golden, &rule.golden), places(&candidate, &rule.candidate));
            let by_block = golden.blocks.len() == candidate.blocks.len();
            let (mine, theirs) = (grouped(&golden, mine, by_block), grouped(&candidate, theirs, by_block));
            for (block, own) in mine {
                let there = theirs.get(&block).map(Vec::as_slice).unwrap_or_default();
                if own.len() != there.len() {
                    notes.push(format!(
                        "the mapping of {} to {} pairs nothing where golden has {} of them and the candidate {}",
                        rule.candidate.op_type, rule.golden.op_type, own.len(), there.len()
                    ));
                    continue;
                }
                for &(g, c) in &meeting.steps {
                    for (&own_rank, &rank) in golden.ranks.iter().zip(&candidate.ranks) {
                        pairs.extend(own.iter().zip(there).filter_map(|(&p, &q)| {
                            let g = golden.record(p, (g, own_rank))?;
                            let c = candidate.record(q, (c, rank))?;
                            Some(Pair {
                                golden: Side::plain(g),
                                candidate: Side::plain(c),
                                confidence: 1.0,
                                evidence: vec!["the user's mapping".to_owned()],
                            })
                        }));
                    }
                }
            }
        }
    }
    notes.dedup();
    Ok(pairs)
}

fn check(dump: &Dump, kind: &Kind, side: &str, path: &Path) -> Result<()> {
    let types: BTreeSet<&str> = dump.records.iter().filter_map(|r| r.op_type.as_deref()).collect();
    if types.iter().any(|t| t.contains(&kind.op_type)) {
        return Ok(());
    }
    let mut there: Vec<&str> = types.iter().copied().filter(|t| !t.is_empty()).take(SHOWN).collect();
    if types.len() > SHOWN {
        there.push("…");
    }
    let there = if there.is_empty() { "no types at all".to_owned() } else { there.join(", ") };
    Err(Error::not_found(
        path,
        format!(
            "the mapping names {:?}, but no operation of the {side} dump is of that type; it has {there}",
            kind.op_type
        ),
    ))
}

fn places(model: &Model, kind: &Kind) -> Vec<usize> {
    let mut places: Vec<usize> = (0..model.places.len())
        .filter(|&p| {
            let place = &model.places[p];
            let unit = &model.units[place.unit];
            unit.kind.contains(&kind.op_type) && place.role == kind.role && place.slot == kind.slot
        })
        .collect();
    places.sort_by_key(|&p| model.places[p].unit);
    places
}

fn grouped(model: &Model, places: Vec<usize>, by_block: bool) -> BTreeMap<Option<usize>, Vec<usize>> {
    let mut groups: BTreeMap<Option<usize>, Vec<usize>> = BTreeMap::new();
    for p in places {
        let block = model.units[model.places[p].unit].block.filter(|_| by_block);
        groups.entry(block).or_default().push(p);
    }
    groups
}
