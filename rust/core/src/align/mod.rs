//! Which tensor of one run stands for which tensor of the other: pairs with a confidence and the evidence for it.

mod exact;
mod json;
mod lookup;
mod mapping;
mod names;
mod nearest;
mod repeats;
mod sketch;
mod steps;
mod structure;
mod transform;
mod view;

pub use json::{SCHEMA, read as read_json, write as write_json};
pub use repeats::Repeats;
pub use transform::Transform;
pub use view::tensor;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::dump::{Dump, Role};
use crate::{Error, Result};

/// Below this confidence a pair is shown and never judged.
pub const JUDGED: f32 = 0.6;

/// What the user asks of the aligner.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// A mapping file of the user.
    pub mapping: Option<PathBuf>,
    /// The checkpoint that both runs loaded: a `.safetensors` file or a folder of them.
    pub weights: Option<PathBuf>,
    /// Goes on where a dump's description of its operators cannot be trusted, by names and tensors alone.
    pub ignore_topology: bool,
}

/// One side of a pair: recorded tensors, and what turns them into the compared one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Side {
    /// Indices into [`Dump::records`]; several where a transform joins them.
    pub records: Vec<usize>,
    /// Applied in order; empty for the recorded tensor itself.
    pub transforms: Vec<Transform>,
}

/// A golden tensor and the candidate's tensor that stands for the same value.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// The golden side.
    pub golden: Side,
    /// The candidate's side.
    pub candidate: Side,
    /// 0 to 1; below [`JUDGED`] the pair is shown and never judged.
    pub confidence: f32,
    /// Why they are paired, strongest first: `name`, `weight`, `shape`.
    pub evidence: Vec<String>,
}

/// A record without a partner.
#[derive(Clone, Debug, PartialEq)]
pub struct Unmatched {
    /// Index into [`Dump::records`].
    pub record: usize,
    /// The node of the other side whose name comes nearest.
    pub nearest: Option<String>,
}

/// How steps of the two runs correspond.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Steps {
    /// Golden step and candidate step of the same forward pass.
    pub pairs: Vec<(Option<u64>, Option<u64>)>,
    /// Candidate step minus golden step, where it is one number.
    pub shift: i64,
    /// How that was found.
    pub evidence: String,
}

/// The correspondence of two dumps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Alignment {
    /// The pairs, in the candidate's order of records.
    pub pairs: Vec<Pair>,
    /// Golden records in no pair.
    pub unmatched_golden: Vec<Unmatched>,
    /// Candidate records in no pair.
    pub unmatched_candidate: Vec<Unmatched>,
    /// The steps.
    pub steps: Steps,
    /// What the user should know: a step shift, a prefix that one side lacks, ranks that differ.
    pub notes: Vec<String>,
}

impl Side {
    /// The recorded tensor itself.
    #[must_use]
    pub fn plain(record: usize) -> Self {
        Self { records: vec![record], transforms: Vec::new() }
    }
}

impl Pair {
    /// The transforms of both sides in words; empty when both are the recorded tensors themselves.
    #[must_use]
    pub fn transform(&self) -> String {
        let side = |name: &str, side: &Side| {
            let steps: Vec<String> = side.transforms.iter().map(ToString::to_string).collect();
            (!steps.is_empty()).then(|| format!("{name}: {}", steps.join(", ")))
        };
        let sides = [side("golden", &self.golden), side("candidate", &self.candidate)];
        sides.into_iter().flatten().collect::<Vec<_>>().join("; ")
    }
}

/// Finds out which tensors of two runs stand for the same value.
///
/// # Errors
/// A mapping that cannot be read or names what is not there; a topology that is not the dump's.
pub fn align(golden: &Dump, candidate: &Dump, options: &Options) -> Result<Alignment> {
    for (side, dump) in [("golden", golden), ("candidate", candidate)] {
        if let (Some(fault), false) = (dump.faults.first(), options.ignore_topology) {
            return Err(Error::Invalid(format!(
                "the {side} dump's topology cannot be used: {fault}; give the dump the topology of its own run, \
                 or compare by names and tensors alone with --ignore-topology"
            )));
        }
    }
    let mut alignment = exact::align(golden, candidate);
    let mut by_name = true;
    if !names_suffice(&alignment, golden, candidate) {
        let other = structure::align(golden, candidate, options)?;
        if judged(&other) > judged(&alignment) || alignment.pairs.is_empty() {
            alignment = other;
            by_name = false;
        }
    }
    if let Some(path) = &options.mapping {
        mapping::apply(path, golden, candidate, &mut alignment)?;
    }
    finish(&mut alignment, golden, candidate, by_name);
    Ok(alignment)
}

/// Outputs that may be left over on both sides before the names are taken not to correspond, one in so many.
const LEFT_OVER: usize = 20;

/// Whether next to nothing is left that the other side might have under another name.
fn names_suffice(alignment: &Alignment, golden: &Dump, candidate: &Dump) -> bool {
    let left = |dump: &Dump, side: fn(&Pair) -> &Side| {
        let paired: BTreeSet<usize> =
            alignment.pairs.iter().flat_map(|p| side(p).records.iter().copied()).collect();
        let outputs = |i: &usize| {
            matches!(dump.records[*i].role, Role::Output | Role::Other) && !dump.records[*i].is_stale()
        };
        let all = (0..dump.records.len()).filter(outputs).count();
        (all, (0..dump.records.len()).filter(outputs).filter(|i| !paired.contains(i)).count())
    };
    let (own, left_own) = left(golden, |p| &p.golden);
    let (other, left_other) = left(candidate, |p| &p.candidate);
    left_own.min(left_other) * LEFT_OVER <= own.min(other)
}

/// Golden outputs in a pair that is judged.
fn judged(alignment: &Alignment) -> usize {
    let sure = alignment.pairs.iter().filter(|p| p.confidence >= JUDGED);
    sure.flat_map(|p| p.golden.records.iter().copied()).collect::<BTreeSet<_>>().len()
}

/// Puts pairs in order and lists what is in none of them, with what comes nearest: by name, or by place where names
/// do not correspond.
fn finish(alignment: &mut Alignment, golden: &Dump, candidate: &Dump, by_name: bool) {
    let key = |p: &Pair| (p.candidate.records.clone(), p.golden.records.clone());
    alignment.pairs.sort_by_cached_key(key);
    let unmatched = |side: fn(&Pair) -> &Side, opposite: fn(&Pair) -> &Side, own: &Dump, other: &Dump| {
        let mut partner: BTreeMap<usize, usize> = BTreeMap::new();
        for pair in &alignment.pairs {
            let there = opposite(pair).records.first().copied();
            partner.extend(side(pair).records.iter().filter_map(|&record| Some((record, there?))));
        }
        let left: Vec<usize> = (0..own.records.len()).filter(|i| !partner.contains_key(i)).collect();
        if by_name { nearest::name(&left, own, other) } else { nearest::place(&left, &partner, own, other) }
    };
    alignment.unmatched_golden = unmatched(|p| &p.golden, |p| &p.candidate, golden, candidate);
    alignment.unmatched_candidate = unmatched(|p| &p.candidate, |p| &p.golden, candidate, golden);
}
