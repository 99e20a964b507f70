//! Which step of the one run is which step of the other. Numbers alone don't tell: warm-up runs and renumbering
//! shift them, so every shift that is possible is tried on the data.

use std::collections::{BTreeMap, BTreeSet};

use super::{Steps, sketch};
use crate::dump::Dump;

/// Nodes that are looked at for each shift.
const ANCHORS: usize = 12;
/// Step pairs that are looked at for each shift.
const STEPS: usize = 6;
/// Shifts that are tried.
const SHIFTS: usize = 65;
/// Agreement that another shift must have above that of equal numbers.
const BETTER: f64 = 0.25;
/// Likeness from which two tensors count as the same value computed in another precision.
const SAME: f64 = 0.9;

/// For one tensor that both runs have: its record at each step.
pub(super) struct Anchor {
    pub(super) golden: BTreeMap<u64, usize>,
    pub(super) candidate: BTreeMap<u64, usize>,
}

/// Finds the shift under which the anchors agree.
pub(super) fn find(golden: &Dump, candidate: &Dump, anchors: &[Anchor], content: bool) -> Steps {
    let steps = |dump: &Dump| dump.records.iter().filter_map(|r| r.step).collect::<BTreeSet<u64>>();
    let (own, other) = (steps(golden), steps(candidate));
    if own.is_empty() || other.is_empty() {
        // One side has no steps: its only pass is the other's first.
        let pair = (own.first().copied(), other.first().copied());
        let evidence = if own == other { "no steps" } else { "one side has no steps" };
        return Steps { pairs: vec![pair], shift: 0, evidence: evidence.into() };
    }
    let mut shifts: BTreeSet<i64> = BTreeSet::new();
    for &g in &own {
        shifts.extend(other.iter().map(|&c| c.cast_signed() - g.cast_signed()));
    }
    let mut shifts: Vec<i64> = shifts.into_iter().collect();
    shifts.sort_by_key(|&s| (s.unsigned_abs(), s));
    shifts.truncate(SHIFTS);
    let mut seen = Seen { golden, candidate, known: BTreeMap::new() };
    let tried: Vec<(i64, Agreement)> = shifts
        .iter()
        .map(|&shift| {
            let pairs = paired(&own, &other, shift);
            (shift, if content { agreement(&pairs, anchors, &mut seen) } else { Agreement::default() })
        })
        .collect();
    let overlap = |shift: i64| paired(&own, &other, shift).len();
    let (mut best, mut best_score) = tried[0].clone();
    for (shift, agreement) in &tried[1..] {
        let better = agreement.share() > best_score.share() + BETTER;
        let as_good = (agreement.share() - best_score.share()).abs() <= BETTER;
        if better || (as_good && best != 0 && overlap(*shift) > overlap(best)) {
            (best, best_score) = (*shift, agreement.clone());
        }
    }
    let pairs = paired(&own, &other, best).into_iter().map(|(g, c)| (Some(g), Some(c))).collect();
    let evidence = match best_score.tried {
        0 => "numbers only".to_owned(),
        n => format!("{} of {n} tensors agree", best_score.agree),
    };
    Steps { pairs, shift: best, evidence }
}

/// Shift of every step number by one amount.
fn paired(own: &BTreeSet<u64>, other: &BTreeSet<u64>, shift: i64) -> Vec<(u64, u64)> {
    own.iter()
        .filter_map(|&g| {
            let c = g.checked_add_signed(shift)?;
            other.contains(&c).then_some((g, c))
        })
        .collect()
}

#[derive(Clone, Default)]
struct Agreement {
    agree: u32,
    tried: u32,
}

impl Agreement {
    fn share(&self) -> f64 {
        if self.tried == 0 { 0.0 } else { f64::from(self.agree) / f64::from(self.tried) }
    }
}

struct Seen<'a> {
    golden: &'a Dump,
    candidate: &'a Dump,
    known: BTreeMap<(bool, usize), Option<Reading>>,
}

#[derive(Clone)]
struct Reading {
    numel: u64,
    values: Vec<f64>,
}

impl Seen<'_> {
    fn read(&mut self, is_golden: bool, record: usize) -> Option<Reading> {
        let dump = if is_golden { self.golden } else { self.candidate };
        self.known
            .entry((is_golden, record))
            .or_insert_with(|| {
                let tensor = dump.tensor(record).ok()?;
                let numel = tensor.info.numel();
                let values = sketch::read(&tensor, &sketch::positions(numel))?;
                Some(Reading { numel, values })
            })
            .clone()
    }
}

fn agreement(pairs: &[(u64, u64)], anchors: &[Anchor], seen: &mut Seen) -> Agreement {
    let mut total = Agreement::default();
    let stride = anchors.len().div_ceil(ANCHORS).max(1);
    for &(g, c) in pairs.iter().take(STEPS) {
        for anchor in anchors.iter().step_by(stride) {
            let (Some(&a), Some(&b)) = (anchor.golden.get(&g), anchor.candidate.get(&c)) else { continue };
            let (Some(a), Some(b)) = (seen.read(true, a), seen.read(false, b)) else { continue };
            let like = if a.numel == b.numel { sketch::likeness(&a.values, &b.values) } else { Some(0.0) };
            if let Some(like) = like {
                total.tried += 1;
                total.agree += u32::from(like >= SAME);
            }
        }
    }
    total
}
