//! Two runs whose names do not correspond: aligned by weights, types, the repeated block, dataflow and content.
//!
//! Cheap and certain first: equal weights say which operation is which whatever it is called. Then the blocks
//! are paired, and inside each pair of blocks the values are, by everything that speaks for a pair of them;
//! what most blocks agree on counts in the others. Values, not operations, are matched: an operation fused on one
//! side has fewer of them, one that is split has more, and those in between have no partner.

mod assign;
mod blocks;
mod by_type;
mod emit;
mod evidence;
mod families;
mod forms;
mod matching;
mod model;
mod parts;
mod passes;
mod sums;
mod values;
mod weights;

use std::collections::BTreeSet;
use std::path::Path;

use super::{Alignment, Options, Pair, Steps};
use crate::dump::{Dump, Role};
use crate::{Error, Result, Tensor, format};
pub(super) use by_type::by_types;
use model::Model;

/// Aligns two dumps by their structure.
///
/// # Errors
/// A checkpoint that cannot be read.
pub(super) fn align(golden: &Dump, candidate: &Dump, options: &Options) -> Result<Alignment> {
    let checkpoint = options.weights.as_deref().map(checkpoint).transpose()?.unwrap_or_default();
    let mut alignment = Alignment::default();
    let (own, other) = (parts::parts(golden), parts::parts(candidate));
    let meetings = passes::pair(golden, candidate, &own, &other);
    for meeting in &meetings {
        let sides = (&own[meeting.golden], &other[meeting.candidate]);
        let mut seen = (BTreeSet::new(), BTreeSet::new());
        let mut paired = (BTreeSet::new(), BTreeSet::new());
        let mut looks = 0;
        for &(step, other_step) in &meeting.steps {
            // A file that is missing at one step may be there at another.
            let more = (places(golden, sides.0, step), places(candidate, sides.1, other_step));
            if looks == LOOKS || (looks > 0 && more.0.is_subset(&seen.0) && more.1.is_subset(&seen.1)) {
                continue;
            }
            looks += 1;
            seen.0.extend(more.0);
            seen.1.extend(more.1);
            let models = (Model::new(golden, sides.0, step), Model::new(candidate, sides.1, other_step));
            let mut pairs = look(&models.0, &models.1, &checkpoint, meeting, &mut alignment.notes);
            // What an earlier look knows both sides of, it knew better.
            pairs.retain(|p| {
                let known =
                    |side: &[usize], paired: &BTreeSet<usize>| side.iter().all(|i| paired.contains(i));
                !(known(&p.golden.records, &paired.0) && known(&p.candidate.records, &paired.1))
            });
            for pair in &pairs {
                paired.0.extend(pair.golden.records.iter().copied());
                paired.1.extend(pair.candidate.records.iter().copied());
            }
            alignment.pairs.extend(pairs);
        }
    }
    alignment.steps = steps(&meetings);
    step_notes(&meetings, &mut alignment);
    once(&mut alignment);
    Ok(alignment)
}

/// Steps of one meeting that are looked at, the first and those where something new was recorded.
const LOOKS: usize = 4;

/// Which tensors a step has, whatever is in them.
fn places<'d>(
    dump: &'d Dump,
    part: &parts::Part,
    step: Option<u64>,
) -> BTreeSet<(&'d str, u32, Role, &'d str)> {
    let records = part.records.iter().map(|&i| &dump.records[i]);
    records
        .filter(|r| r.step == step && r.role != Role::Param && !r.is_stale())
        .map(|r| (r.node.as_str(), r.call, r.role, r.slot.as_str()))
        .collect()
}

/// The pairs of a meeting, as one of its steps shows them.
fn look(
    golden: &Model,
    candidate: &Model,
    checkpoint: &[(String, Tensor)],
    meeting: &passes::Meeting,
    notes: &mut Vec<String>,
) -> Vec<Pair> {
    let ranks = if golden.ranks.len() == 1 { candidate.ranks.len() as u64 } else { 1 };
    let anchors = find_anchors(golden, candidate, checkpoint, ranks.max(1));
    let mut matching = matching::Matching::new(golden, candidate, &anchors, ranks.max(1));
    let matches = matching.run();
    let mut pairs = emit::pairs(golden, candidate, &matches, meeting);
    if ranks == 1 {
        pairs.extend(sums::pairs(golden, candidate, &matches, meeting));
    }
    let steps: Vec<Option<u64>> = meeting.steps.iter().map(|s| s.1).collect();
    pairs.extend(emit::weights(golden, candidate, &anchors, &steps));
    for note in matching.notes {
        if !notes.contains(&note) {
            notes.push(note);
        }
    }
    pairs
}

fn find_anchors(
    golden: &Model,
    candidate: &Model,
    checkpoint: &[(String, Tensor)],
    ranks: u64,
) -> Vec<weights::Anchor> {
    let mut own = weights::of_model(golden);
    if own.is_empty() {
        own = weights::of_checkpoint(golden, checkpoint);
    }
    let other = weights::of_model(candidate);
    let mut anchors = weights::anchors(golden, candidate, &own, &other, ranks);
    // What is packed on the golden side is looked for from the other.
    let known: std::collections::BTreeSet<usize> = anchors.iter().map(|a| a.candidate_place).collect();
    let back = weights::anchors(candidate, golden, &other, &own, 1);
    anchors.extend(
        back.into_iter()
            .filter(|a| !a.golden_place.is_some_and(|p| known.contains(&p)))
            .filter_map(weights::Anchor::flipped),
    );
    anchors
}

/// The tensors of a checkpoint: one safetensors file, or a folder of them.
fn checkpoint(path: &Path) -> Result<Vec<(String, Tensor)>> {
    let mut files = Vec::new();
    if path.is_dir() {
        for entry in std::fs::read_dir(path).map_err(Error::io("list the checkpoint", path))? {
            let file = entry.map_err(Error::io("list the checkpoint", path))?.path();
            if file.extension().is_some_and(|e| e == "safetensors") {
                files.push(file);
            }
        }
        files.sort();
        if files.is_empty() {
            return Err(Error::not_found(path, "no .safetensors file of weights in this folder"));
        }
    } else {
        files.push(path.to_owned());
    }
    let mut tensors = Vec::new();
    for file in files {
        let contents = format::contents(&file)?;
        for entry in &contents.entries {
            if let Ok(tensor) = format::open_location(&entry.location(&file)) {
                tensors.push((entry.key.clone(), tensor));
            }
        }
    }
    Ok(tensors)
}

fn steps(meetings: &[passes::Meeting]) -> Steps {
    let mut pairs: Vec<_> = meetings.iter().flat_map(|m| m.steps.iter().copied()).collect();
    pairs.sort_unstable();
    pairs.dedup();
    let shifts: std::collections::BTreeSet<i64> =
        pairs.iter().filter_map(|&(g, c)| Some(c?.cast_signed() - g?.cast_signed())).collect();
    let (agree, tried) = meetings.iter().fold((0, 0), |(a, t), m| (a + m.agree, t + m.tried));
    let evidence = match tried {
        0 => "numbers only".to_owned(),
        _ => format!("{agree} of {tried} tensors agree"),
    };
    let shift = if shifts.len() == 1 { shifts.first().copied().unwrap_or(0) } else { 0 };
    Steps { pairs, shift, evidence }
}

/// Says where steps of one number are not the same pass.
fn step_notes(meetings: &[passes::Meeting], alignment: &mut Alignment) {
    for meeting in meetings {
        let moved: Vec<String> = meeting
            .steps
            .iter()
            .filter(|(g, c)| g != c)
            .filter_map(|&(g, c)| Some(format!("{} is {}", g?, c?)))
            .take(4)
            .collect();
        if !moved.is_empty() {
            let more = if meeting.steps.len() > moved.len() { ", …" } else { "" };
            alignment.notes.push(format!(
                "golden step {}{more} of the candidate ({} of {} tensors agree)",
                moved.join(", "),
                meeting.agree,
                meeting.tried
            ));
        }
    }
}

/// Each pair of records once, with the greatest confidence it was found with.
fn once(alignment: &mut Alignment) {
    let mut best: std::collections::BTreeMap<(Vec<usize>, Vec<usize>, String), super::Pair> =
        std::collections::BTreeMap::new();
    for pair in std::mem::take(&mut alignment.pairs) {
        let key = (pair.golden.records.clone(), pair.candidate.records.clone(), pair.transform());
        match best.get(&key) {
            Some(known) if known.confidence >= pair.confidence => {}
            _ => {
                best.insert(key, pair);
            }
        }
    }
    alignment.pairs = best.into_values().collect();
}
