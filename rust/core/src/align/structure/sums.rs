//! A value that only one side computes by itself, found as the sum of two of the other: a residual sum or a bias that
//! one stack fuses into the next operation.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;

use super::matching::Match;
use super::model::Model;
use super::passes::Meeting;
use crate::align::{Pair, Side, Transform, sketch};
use crate::dump::Role;

/// Distance up to which a sum is the value it is held against.
const CLOSE: f64 = 0.02;
/// What else there is must be so much further away: another sum, and each of the two alone.
const APART: f64 = 4.0;
/// Pairs of a value and a sum that are looked at.
const MOST: usize = 4_000_000;
/// Content alone says so, but for one operation that reads both.
const CONFIDENCE: f32 = 0.85;

/// A value of one side that is the sum of two of the other.
struct Sum {
    whole: usize,
    parts: (usize, usize),
    reader: String,
}

/// Two values that one operation reads.
struct Both<'m> {
    values: (usize, usize),
    sum: Vec<f64>,
    reader: &'m str,
}

/// Pairs of records for every sum, at all steps of the meeting.
pub(super) fn pairs(golden: &Model, candidate: &Model, matches: &[Match], meeting: &Meeting) -> Vec<Pair> {
    let own: BTreeSet<usize> = matches.iter().filter(|m| m.confidence >= 0.5).map(|m| m.golden).collect();
    let other: BTreeSet<usize> =
        matches.iter().filter(|m| m.confidence >= 0.5).map(|m| m.candidate).collect();
    let mut pairs = Vec::new();
    for (is_golden, sums) in [(true, find(golden, candidate, &own)), (false, find(candidate, golden, &other))]
    {
        let (whole, parts) = if is_golden { (golden, candidate) } else { (candidate, golden) };
        for sum in sums {
            for &(step, other_step) in &meeting.steps {
                let (own_step, part_step) = if is_golden { (step, other_step) } else { (other_step, step) };
                for (&rank, &part_rank) in whole.ranks.iter().zip(&parts.ranks) {
                    let at = |model: &Model, value: usize, at| record(model, value, at);
                    let (Some(one), Some(a), Some(b)) = (
                        at(whole, sum.whole, (own_step, rank)),
                        at(parts, sum.parts.0, (part_step, part_rank)),
                        at(parts, sum.parts.1, (part_step, part_rank)),
                    ) else {
                        continue;
                    };
                    let plain = Side::plain(one);
                    let joined = Side { records: vec![a, b], transforms: vec![Transform::Sum] };
                    let (golden, candidate) = if is_golden { (plain, joined) } else { (joined, plain) };
                    let evidence = vec!["content".to_owned(), format!("{} reads both parts", sum.reader)];
                    pairs.push(Pair { golden, candidate, confidence: CONFIDENCE, evidence });
                }
            }
        }
    }
    pairs
}

/// The record that holds a value: of what computed it, or else of whatever read it.
fn record(model: &Model, value: usize, at: super::model::At) -> Option<usize> {
    let value = &model.values[value];
    value.producer.into_iter().chain(value.places.iter().copied()).find_map(|place| model.record(place, at))
}

/// Values of one model without a partner that are sums of two of the other.
fn find(whole: &Model, parts: &Model, taken: &BTreeSet<usize>) -> Vec<Sum> {
    let mut by_size: BTreeMap<u64, Vec<Both>> = BTreeMap::new();
    for both in read_together(parts) {
        let size = parts.values[both.values.0].info.as_ref().map_or(0, crate::TensorInfo::numel);
        by_size.entry(size).or_default().push(both);
    }
    let lonely: Vec<usize> = (0..whole.values.len())
        .filter(|v| {
            let value = &whole.values[*v];
            !taken.contains(v) && !value.is_weight && value.info.as_ref().is_some_and(|i| i.dtype.is_float())
        })
        .collect();
    let most = by_size.values().map(Vec::len).max().unwrap_or(0);
    if lonely.len() * most > MOST {
        return Vec::new();
    }
    lonely.into_par_iter().filter_map(|v| best(whole, parts, v, &by_size)).collect()
}

fn best(whole: &Model, parts: &Model, v: usize, by_size: &BTreeMap<u64, Vec<Both>>) -> Option<Sum> {
    let value = &whole.values[v];
    let (info, sought) = (value.info.as_ref()?, value.sketch.as_ref()?);
    let distance = |other: &[f64]| sketch::likeness(sought, other).map_or(f64::INFINITY, |like| 1.0 - like);
    let mut found: Option<(f64, &Both)> = None;
    let mut next = f64::INFINITY;
    for both in by_size.get(&info.numel())? {
        let d = distance(&both.sum);
        if found.is_none_or(|(known, _)| d < known) {
            next = found.map_or(next, |f| f.0);
            found = Some((d, both));
        } else {
            next = next.min(d);
        }
    }
    let (d, both) = found.filter(|(d, _)| *d < CLOSE)?;
    let (a, b) = both.values;
    let alone = [a, b].map(|part| parts.values[part].sketch.as_deref().map_or(0.0, distance));
    let apart = APART * (d + 1e-6);
    (next > apart && alone[0] > apart && alone[1] > apart).then(|| Sum {
        whole: v,
        parts: both.values,
        reader: both.reader.to_owned(),
    })
}

/// Every two values of equal shape that one operation reads.
fn read_together<'m>(model: &'m Model) -> Vec<Both<'m>> {
    let mut reads: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
    for place in model.places.iter().filter(|p| p.role == Role::Input) {
        let value = &model.values[place.value];
        if !value.is_weight && !model.units[place.unit].is_container && value.sketch.is_some() {
            reads.entry(place.unit).or_default().insert(place.value);
        }
    }
    let mut both = Vec::new();
    let mut known = BTreeSet::new();
    for (unit, values) in reads {
        let values: Vec<usize> = values.into_iter().collect();
        for (k, &a) in values.iter().enumerate() {
            for &b in &values[k + 1..] {
                let (x, y) = (&model.values[a], &model.values[b]);
                let (Some(i), Some(j)) = (&x.info, &y.info) else { continue };
                if i.numel() == j.numel() && i.dtype.is_float() && j.dtype.is_float() && known.insert((a, b))
                {
                    let terms = x.sketch.iter().flatten().zip(y.sketch.iter().flatten());
                    let sum = terms.map(|(p, q)| p + q).collect();
                    both.push(Both { values: (a, b), sum, reader: &model.units[unit].node });
                }
            }
        }
    }
    both
}
