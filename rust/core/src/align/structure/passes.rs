//! Which forward pass of the one run is which of the other.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::model::tells_apart;
use super::parts::Part;
use crate::align::sketch;
use crate::dump::{Dump, Role};

/// Tensors of a pass that are looked for in the other run's passes.
const SAMPLES: usize = 48;
/// Passes of a model that are looked at, from the first on.
const PASSES: usize = 6;
/// Distance up to which two tensors are the same value in another precision.
const CLOSE: f64 = 0.02;

type Step = Option<u64>;

/// What is known of one pass: its number of tokens, and its tensors by size.
struct Pass {
    step: Step,
    tokens: Option<u64>,
    sketches: Vec<(u64, Vec<f64>)>,
}

/// A model of golden and one of the candidate that run the same passes.
#[derive(Clone, Debug)]
pub(super) struct Meeting {
    pub(super) golden: usize,
    pub(super) candidate: usize,
    /// Golden step and candidate step.
    pub(super) steps: Vec<(Step, Step)>,
    pub(super) agree: usize,
    pub(super) tried: usize,
}

/// Pairs the passes of all models, by their tokens and their content; where content does not tell, by order.
pub(super) fn pair(golden: &Dump, candidate: &Dump, own: &[Part], other: &[Part]) -> Vec<Meeting> {
    let look = |dump: &Dump, parts: &[Part]| -> Vec<Vec<Pass>> {
        parts
            .iter()
            .map(|part| part.steps.iter().map(|&s| look_at(dump, part, s)).collect())
            .map(distinct)
            .collect()
    };
    let (mine, theirs) = (look(golden, own), look(candidate, other));
    let mut options: Vec<Meeting> = Vec::new();
    for (g, golden_passes) in mine.iter().enumerate() {
        for (c, candidate_passes) in theirs.iter().enumerate() {
            options.extend(meetings(g, c, golden_passes, candidate_passes));
        }
    }
    // The best first: share of agreeing tensors, then number of passes, then no shift.
    let share = |m: &Meeting| if m.tried == 0 { 0.0 } else { m.agree as f64 / m.tried as f64 };
    let shift = |m: &Meeting| m.steps.iter().map(|(a, b)| a.unwrap_or(0).abs_diff(b.unwrap_or(0))).max();
    options.sort_by(|a, b| {
        let by_content = (share(b) * 10.0).round().total_cmp(&(share(a) * 10.0).round());
        by_content
            .then(b.steps.len().cmp(&a.steps.len()))
            // Of equal ones the later: a run before the recorded one was a warm-up.
            .then_with(|| shift(a).cmp(&shift(b)))
            .then_with(|| (a.golden, a.candidate).cmp(&(b.golden, b.candidate)))
    });
    let mut taken: Vec<Meeting> = Vec::new();
    for mut option in options {
        option.steps.retain(|&(g, c)| {
            taken.iter().all(|t| {
                let golden_taken = t.golden == option.golden && t.steps.iter().any(|s| s.0 == g);
                let candidate_taken = t.candidate == option.candidate && t.steps.iter().any(|s| s.1 == c);
                !golden_taken && !candidate_taken
            })
        });
        if !option.steps.is_empty() {
            taken.push(option);
        }
    }
    taken.sort_by(|a, b| (&a.steps, a.golden, a.candidate).cmp(&(&b.steps, b.golden, b.candidate)));
    taken
}

/// All ways to put the passes of two models side by side, each a shift of the step.
fn meetings(g: usize, c: usize, golden: &[Pass], candidate: &[Pass]) -> Vec<Meeting> {
    let mut shifts: BTreeMap<i128, Vec<(usize, usize)>> = BTreeMap::new();
    for (i, a) in golden.iter().enumerate() {
        for (j, b) in candidate.iter().enumerate() {
            if a.tokens == b.tokens || a.tokens.is_none() || b.tokens.is_none() {
                let shift = match (a.step, b.step) {
                    (Some(a), Some(b)) => i128::from(b) - i128::from(a),
                    _ => 0,
                };
                shifts.entry(shift).or_default().push((i, j));
            }
        }
    }
    if shifts.is_empty() {
        // Not one pass of equal size: another batch, or another padding.
        shifts.insert(0, (0..golden.len().min(candidate.len())).map(|i| (i, i)).collect());
    }
    shifts
        .into_values()
        .map(|pairs| {
            let seen: Vec<(usize, usize)> =
                pairs.par_iter().take(PASSES).map(|&(i, j)| agreement(&golden[i], &candidate[j])).collect();
            Meeting {
                golden: g,
                candidate: c,
                steps: pairs.iter().map(|&(i, j)| (golden[i].step, candidate[j].step)).collect(),
                agree: seen.iter().map(|s| s.0).sum(),
                tried: seen.iter().map(|s| s.1).sum(),
            }
        })
        .collect()
}

/// How many of a pass's tensors are found in another, and how many were looked for.
fn agreement(a: &Pass, b: &Pass) -> (usize, usize) {
    let stride = a.sketches.len().div_ceil(SAMPLES).max(1);
    let mut seen = (0, 0);
    for (numel, sketch) in a.sketches.iter().step_by(stride) {
        let mut there = b.sketches.iter().filter(|(n, _)| n == numel).peekable();
        if there.peek().is_none() {
            continue;
        }
        seen.1 += 1;
        let found = there.any(|(_, s)| sketch::likeness(sketch, s).is_some_and(|like| 1.0 - like <= CLOSE));
        seen.0 += usize::from(found);
    }
    seen
}

fn look_at(dump: &Dump, part: &Part, step: Step) -> Pass {
    let rank = part
        .records
        .iter()
        .map(|&i| &dump.records[i])
        .filter(|r| r.step == step)
        .filter_map(|r| r.rank)
        .min();
    let records: Vec<usize> = part
        .records
        .iter()
        .copied()
        .filter(|&i| {
            let r = &dump.records[i];
            r.step == step && r.rank == rank.or(r.rank) && r.role != Role::Param && !r.is_stale()
        })
        .collect();
    let outputs = records.iter().filter(|&&i| dump.records[i].role != Role::Input).count();
    let read: Vec<_> = records
        .par_iter()
        .filter(|&&i| outputs < 4 || dump.records[i].role != Role::Input || is_small_integer(dump, i))
        .map(|&i| {
            let tensor = dump.tensor(i).ok();
            let info = tensor.as_ref().map(|t| t.info.clone()).or_else(|| dump.records[i].info.clone())?;
            let sketch = tensor.and_then(|t| sketch::read(&t, &sketch::positions(info.numel())));
            Some((info, sketch))
        })
        .flatten()
        .collect();
    let mut rows: BTreeMap<u64, usize> = BTreeMap::new();
    for (info, _) in read.iter().filter(|(info, _)| info.shape.len() > 1) {
        *rows.entry(info.shape[..info.shape.len() - 1].iter().product()).or_default() += 1;
    }
    let sketches = read
        .into_iter()
        .filter_map(|(info, sketch)| Some((info.numel(), sketch?)))
        .filter(|(_, sketch)| tells_apart(sketch))
        .collect();
    let tokens = rows.into_iter().max_by_key(|&(rows, n)| (n, rows)).map(|(rows, _)| rows);
    Pass { step, tokens, sketches }
}

/// Token ids tell passes apart better than anything else.
fn is_small_integer(dump: &Dump, record: usize) -> bool {
    let is = |info: &crate::TensorInfo| !info.dtype.is_float() && info.numel() <= 1 << 20;
    dump.records[record].info.as_ref().is_some_and(is)
}

/// Leaves out what is the same in every pass of a model: tables and masks tell no passes apart.
fn distinct(mut passes: Vec<Pass>) -> Vec<Pass> {
    let mut seen: BTreeMap<Vec<u64>, usize> = BTreeMap::new();
    let bits = |sketch: &[f64]| sketch.iter().map(|v| v.to_bits()).collect::<Vec<u64>>();
    for pass in &passes {
        let mut own: Vec<Vec<u64>> = pass.sketches.iter().map(|(_, s)| bits(s)).collect();
        own.sort_unstable();
        own.dedup();
        for key in own {
            *seen.entry(key).or_default() += 1;
        }
    }
    for pass in &mut passes {
        pass.sketches.retain(|(_, s)| seen.get(&bits(s)) == Some(&1));
    }
    passes
}
