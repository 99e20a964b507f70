//! From matched values to pairs of records, at every step and rank.

use std::collections::{BTreeMap, BTreeSet};

use super::forms::Form;
use super::matching::Match;
use super::model::Model;
use super::passes::Meeting;
use super::weights::{Anchor, FRACTAL_NZ};
use crate::TensorInfo;
use crate::align::{Pair, Side, Transform};
use crate::dump::{Dump, Role};

type Rank = Option<u32>;

/// Confidence of a pair whose shapes nothing brings together, at most.
const SHOWN: f64 = 0.5;

/// Dtypes and shapes of records, each read once.
struct Infos<'a> {
    dump: &'a Dump,
    known: BTreeMap<usize, Option<TensorInfo>>,
}

impl<'a> Infos<'a> {
    fn new(dump: &'a Dump) -> Self {
        Self { dump, known: BTreeMap::new() }
    }

    fn of(&mut self, record: usize) -> Option<TensorInfo> {
        let dump = self.dump;
        self.known
            .entry(record)
            .or_insert_with(|| {
                let known = dump.records[record].info.clone();
                known.or_else(|| dump.tensor(record).ok().map(|t| t.info))
            })
            .clone()
    }
}

/// A place of golden and a place of the candidate that hold one value.
struct Spot {
    golden: usize,
    candidate: usize,
    form: Form,
    confidence: f64,
    evidence: Vec<String>,
}

/// Pairs of records for every matched value, at all steps of the meeting.
pub(super) fn pairs(golden: &Model, candidate: &Model, matches: &[Match], meeting: &Meeting) -> Vec<Pair> {
    let units = units(golden, candidate, matches);
    let mut spots = Vec::new();
    for found in matches {
        places(golden, candidate, found, &units, &mut spots);
    }
    let mut infos = (Infos::new(golden.dump), Infos::new(candidate.dump));
    let mut pairs = Vec::new();
    for &(step, other_step) in &meeting.steps {
        for (own, others) in rank_groups(golden, candidate) {
            for spot in &spots {
                at(golden, candidate, spot, (step, own), other_step, &others, &mut infos, &mut pairs);
            }
        }
    }
    pairs
}

/// Ranks that are compared: each golden rank with one of the candidate's, or with all that share its work.
fn rank_groups(golden: &Model, candidate: &Model) -> Vec<(Rank, Vec<Rank>)> {
    let (own, other) = (&golden.ranks, &candidate.ranks);
    if own.len() == 1 && other.len() > 1 {
        return vec![(own[0], other.clone())];
    }
    own.iter().zip(other).map(|(&g, &c)| (g, vec![c])).collect()
}

#[expect(clippy::too_many_arguments, reason = "one place of one pass, with where to read and write")]
fn at(
    golden: &Model,
    candidate: &Model,
    spot: &Spot,
    own: (Option<u64>, Rank),
    step: Option<u64>,
    ranks: &[Rank],
    infos: &mut (Infos, Infos),
    pairs: &mut Vec<Pair>,
) {
    let Some(g) = golden.record(spot.golden, own) else { return };
    let records: Option<Vec<usize>> =
        ranks.iter().map(|&rank| candidate.record(spot.candidate, (step, rank))).collect();
    let mut push = |records: Vec<usize>, transforms: (Vec<Transform>, Vec<Transform>), most: f64| {
        pairs.push(Pair {
            golden: Side { records: vec![g], transforms: transforms.0 },
            candidate: Side { records, transforms: transforms.1 },
            confidence: spot.confidence.min(most) as f32,
            evidence: spot.evidence.clone(),
        });
    };
    let Some(shape) = infos.0.of(g).map(|info| info.shape) else { return };
    if spot.form.joins_ranks() {
        let Some(records) = records else { return };
        let other = infos.1.of(records[0]);
        if let Some(transforms) = other.and_then(|other| spot.form.transforms(&shape, &other.shape)) {
            push(records, transforms, 1.0);
        }
        return;
    }
    for &rank in ranks {
        let Some(record) = candidate.record(spot.candidate, (step, rank)) else { continue };
        let Some(other) = infos.1.of(record) else { continue };
        // Of one value some records may be in blocks and others in rows.
        let form = match (spot.form, is_nz(&other)) {
            (Form::Nz, false) => Form::Same,
            (Form::Same | Form::Reshape, true) => Form::Nz,
            (form, _) => form,
        };
        match form.transforms(&shape, &other.shape) {
            Some(transforms) => push(vec![record], transforms, 1.0),
            // At this step the shapes differ in another way: shown as they are, and not judged.
            None => push(vec![record], (Vec::new(), Vec::new()), SHOWN),
        }
    }
}

fn is_nz(info: &TensorInfo) -> bool {
    info.acl_format == Some(FRACTAL_NZ)
}

/// For each golden operation, the candidate's that computes the same.
fn units(golden: &Model, candidate: &Model, matches: &[Match]) -> BTreeMap<usize, BTreeSet<usize>> {
    let mut units: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
    for found in matches {
        for &p in &golden.values[found.golden].places {
            for &q in &candidate.values[found.candidate].places {
                let (a, b) = (&golden.places[p], &candidate.places[q]);
                if a.role == Role::Output && b.role == Role::Output {
                    units.entry(a.unit).or_default().insert(b.unit);
                }
            }
        }
    }
    units
}

/// Which record of the one value is shown beside which of the other: every one of either side once or more.
fn places(
    golden: &Model,
    candidate: &Model,
    found: &Match,
    units: &BTreeMap<usize, BTreeSet<usize>>,
    spots: &mut Vec<Spot>,
) {
    let (value, other) = (&golden.values[found.golden], &candidate.values[found.candidate]);
    let is_output = |model: &Model, p: usize| model.places[p].role != Role::Input;
    let container = |model: &Model, p: usize| model.units[model.places[p].unit].is_container;
    let mut used = BTreeSet::new();
    let mut push = |p: usize, q: usize| {
        spots.push(Spot {
            golden: p,
            candidate: q,
            form: found.form,
            confidence: found.confidence,
            evidence: found.evidence.clone(),
        });
    };
    for &p in &value.places {
        let unit = golden.places[p].unit;
        let matched = units.get(&unit);
        // Likest first: same direction, the operation that does the same, container to container.
        let best = other.places.iter().copied().max_by_key(|&q| {
            let same_role = is_output(golden, p) == is_output(candidate, q);
            let same_unit = matched.is_some_and(|units| units.contains(&candidate.places[q].unit));
            let same_kind = container(golden, p) == container(candidate, q);
            let is_source = Some(q) == other.producer;
            let same_name = golden.units[unit].name == candidate.units[candidate.places[q].unit].name;
            (same_role, same_name, same_kind, same_unit, is_source, std::cmp::Reverse(q))
        });
        if let Some(q) = best {
            used.insert(q);
            push(p, q);
        }
    }
    for &q in other.places.iter().filter(|q| !used.contains(q)) {
        let best = value.places.iter().copied().max_by_key(|&p| {
            let same_role = is_output(golden, p) == is_output(candidate, q);
            let same_kind = container(golden, p) == container(candidate, q);
            (same_role, same_kind, Some(p) == value.producer, std::cmp::Reverse(p))
        });
        if let Some(p) = best {
            push(p, q);
        }
    }
}

/// Pairs of equal weights: of every place and step at which the candidate's was recorded, for memory may be
/// overwritten between two of them.
pub(super) fn weights(
    golden: &Model,
    candidate: &Model,
    anchors: &[Anchor],
    steps: &[Option<u64>],
) -> Vec<Pair> {
    let mut pairs = Vec::new();
    let mut infos = Infos::new(candidate.dump);
    for anchor in anchors {
        let Some(p) = anchor.golden_place else { continue };
        let own = golden.places[p].record;
        let value = candidate.places[anchor.candidate_place].value;
        for (&q, &step) in
            candidate.values[value].places.iter().flat_map(|q| steps.iter().map(move |s| (q, s)))
        {
            let of_ranks: Vec<usize> =
                candidate.ranks.iter().filter_map(|&r| candidate.record(q, (step, r))).collect();
            let groups: Vec<Vec<usize>> = match of_ranks.len() == candidate.ranks.len() {
                true if anchor.joins_ranks => vec![of_ranks],
                false if anchor.joins_ranks => continue,
                _ => of_ranks.into_iter().map(|record| vec![record]).collect(),
            };
            for mut records in groups {
                let mut steps = anchor.candidate_transforms.as_slice();
                // Recorded in rows here, and in blocks where it was recognised.
                let here = infos.of(records[0]);
                if let ([Transform::NzToNd { .. }, rest @ ..], Some(false)) =
                    (steps, here.as_ref().map(is_nz))
                {
                    steps = rest;
                }
                records.extend(anchor.candidate_scale.map(|s| candidate.places[s].record));
                pairs.push(Pair {
                    golden: Side { records: vec![own], transforms: anchor.golden_transforms.clone() },
                    candidate: Side { records, transforms: steps.to_vec() },
                    confidence: 0.99,
                    evidence: vec!["weight".to_owned()],
                });
            }
        }
    }
    pairs
}
