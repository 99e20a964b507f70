//! Two long lists without blocks cut into stretches that belong together, at pairs that are known beforehand.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;

use super::segments::Item;
use super::{CLOSE, Matching, Segment};
use crate::align::structure::families::{self, Family};
use crate::align::structure::model::Model;
use crate::align::structure::{assign, forms::Form};

/// Items of a stretch, at least.
const WINDOW: usize = 48;
/// A tensor's nearest counterpart is it when the next one is so much further away.
const APART: f64 = 4.0;

impl Matching<'_> {
    /// Pairs of places in the two lists that weights, names or content tell alone, each place once, in order.
    pub(super) fn landmarks(&self, golden: &[Item], candidate: &[Item]) -> Vec<(usize, usize)> {
        let mut pairs = BTreeMap::new();
        let mut taken = BTreeSet::new();
        for found in
            [self.by_tie(golden, candidate), self.by_name(golden, candidate), by_content(golden, candidate)]
        {
            for (i, j) in found {
                if !pairs.contains_key(&i) && taken.insert(j) {
                    pairs.insert(i, j);
                }
            }
        }
        pairs.into_iter().collect()
    }

    fn by_tie(&self, golden: &[Item], candidate: &[Item]) -> Vec<(usize, usize)> {
        let places: BTreeMap<usize, usize> =
            candidate.iter().enumerate().map(|(j, b)| (b.value, j)).collect();
        let only = |item: &Item| match self.tied.get(&item.value)?.as_slice() {
            [(c, Form::Same | Form::Reshape | Form::RanksColumns)] => {
                (self.tied_back.get(c)?.len() == 1).then(|| places.get(c).copied())?
            }
            _ => None,
        };
        golden.iter().enumerate().filter_map(|(i, a)| Some((i, only(a)?))).collect()
    }

    fn by_name(&self, golden: &[Item], candidate: &[Item]) -> Vec<(usize, usize)> {
        let other = names(self.candidate, candidate);
        let own = names(self.golden, golden);
        own.into_iter().filter_map(|(name, i)| Some((i?, (*other.get(&name)?)?))).collect()
    }

    /// What is left of a huge segment: in order, by type and shape.
    pub(super) fn by_type(&self, segment: &Segment) -> Vec<Option<usize>> {
        let mut classes: BTreeMap<(Family, Vec<u64>), usize> = BTreeMap::new();
        let mut class = |model: &Model, item: &Item| {
            let shape = item.info.as_ref().map(|i| i.shape.iter().copied().filter(|&n| n != 1).collect());
            let family = model.unit_of(item.value).map_or(Family::Unknown, |u| u.family);
            let next = classes.len();
            *classes.entry((family, shape.unwrap_or_default())).or_insert(next)
        };
        let own: Vec<usize> = segment.golden.iter().map(|i| class(self.golden, i)).collect();
        let other: Vec<usize> = segment.candidate.iter().map(|i| class(self.candidate, i)).collect();
        let n = classes.len();
        let mut table = vec![None; n * n];
        for ((family, shape), &a) in &classes {
            for ((other_family, _), &b) in classes.iter().filter(|((_, other), _)| other == shape) {
                table[a * n + b] = Some(1.0 + families::agreement(*family, *other_family));
            }
        }
        assign::in_order(own.len(), other.len(), |i, j| table[own[i] * n + other[j]])
    }
}

/// The place of each name that occurs once.
fn names<'a>(model: &'a Model, items: &[Item]) -> BTreeMap<(&'a str, u32, &'a str), Option<usize>> {
    let mut names = BTreeMap::new();
    for (i, item) in items.iter().enumerate().filter(|(_, item)| item.cut.is_none()) {
        let Some(place) = model.values[item.value].producer.map(|p| &model.places[p]) else { continue };
        let unit = &model.units[place.unit];
        names
            .entry((unit.name.as_str(), unit.call, place.slot.as_str()))
            .and_modify(|known| *known = None)
            .or_insert(Some(i));
    }
    names
}

/// Items that are each other's nearest by content, and by far.
fn by_content(golden: &[Item], candidate: &[Item]) -> Vec<(usize, usize)> {
    let back = nearest(candidate, golden);
    let there = nearest(golden, candidate).into_iter().enumerate();
    there.filter_map(|(i, j)| Some((i, j.filter(|&j| back[j] == Some(i))?))).collect()
}

struct Candidate<'i> {
    place: usize,
    sketch: &'i [f64],
    /// Its Euclidean norm.
    size: f64,
}

fn nearest(own: &[Item], other: &[Item]) -> Vec<Option<usize>> {
    let mut by_size: BTreeMap<u64, Vec<Candidate>> = BTreeMap::new();
    for (j, item) in other.iter().enumerate() {
        if let (Some(info), Some(sketch)) = (&item.info, &item.sketch) {
            let candidate = Candidate { place: j, sketch, size: size(sketch) };
            by_size.entry(info.numel()).or_default().push(candidate);
        }
    }
    own.par_iter()
        .map(|item| {
            let (info, sketch) = (item.info.as_ref()?, item.sketch.as_ref()?);
            let own_size = size(sketch);
            let (mut best, mut next) = ((f64::INFINITY, 0), f64::INFINITY);
            for other in by_size.get(&info.numel())? {
                // Nothing further away than the second best is of interest.
                let sizes = own_size + other.size;
                let limit = next.min(APART * CLOSE) * sizes;
                let Some(d) = distance(sketch, other.sketch, limit) else { continue };
                let d = d / sizes;
                if d < best.0 {
                    (best, next) = ((d, other.place), best.0);
                } else if d < next {
                    next = d;
                }
            }
            (best.0 < CLOSE && next > APART * best.0).then_some(best.1)
        })
        .collect()
}

fn size(sketch: &[f64]) -> f64 {
    sketch.iter().filter(|v| v.is_finite()).map(|v| v * v).sum::<f64>().sqrt()
}

/// ‖a − b‖, if less than `limit`; the first values decide for most.
fn distance(a: &[f64], b: &[f64], limit: f64) -> Option<f64> {
    let most = limit * limit;
    let mut sum = 0.0;
    for (a, b) in a.chunks(8).zip(b.chunks(8)) {
        for (x, y) in a.iter().zip(b) {
            let d = x - y;
            sum += if d.is_finite() { d * d } else { 0.0 };
        }
        if sum >= most {
            return None;
        }
    }
    Some(sum.sqrt())
}

/// Places at which both lists can be cut so that no landmark's two ends come apart, [`WINDOW`] items after each other.
pub(super) fn cuts(landmarks: &[(usize, usize)]) -> Vec<(usize, usize)> {
    let landmarks = without_strays(landmarks);
    // The least candidate place of each landmark and all after it.
    let mut behind: Vec<usize> = landmarks.iter().map(|l| l.1).collect();
    for k in (1..behind.len()).rev() {
        behind[k - 1] = behind[k - 1].min(behind[k]);
    }
    let mut cuts = Vec::new();
    let (mut i, mut j) = (0, 0);
    let mut most = None;
    for (&(to_i, to_j), &least) in landmarks.iter().zip(&behind) {
        let is_clean = most < Some(to_j) && least >= to_j;
        if is_clean && to_i >= i + WINDOW && to_j >= j + WINDOW {
            cuts.push((to_i, to_j));
            (i, j) = (to_i, to_j);
        }
        most = most.max(Some(to_j));
    }
    cuts
}

/// Landmarks without those that lie far from where the longest row of them in order says: mistakes.
fn without_strays(landmarks: &[(usize, usize)]) -> Vec<(usize, usize)> {
    let chain = longest(landmarks);
    let mut next = 0;
    let mut kept = Vec::with_capacity(landmarks.len());
    for (k, &(i, j)) in landmarks.iter().enumerate() {
        while next < chain.len() && chain[next] < k {
            next += 1;
        }
        let beside = [next.checked_sub(1), Some(next)].into_iter().flatten().filter_map(|c| chain.get(c));
        let mut off = beside.map(|&c| {
            let (ci, cj) = landmarks[c];
            (i.abs_diff(ci)).abs_diff(j.abs_diff(cj))
        });
        if off.any(|off| off <= WINDOW / 4) {
            kept.push((i, j));
        }
    }
    kept
}

/// Indices of the longest row of landmarks that is in order on both sides.
fn longest(landmarks: &[(usize, usize)]) -> Vec<usize> {
    // For each length the last landmark of the row of that length which ends first.
    let mut ends: Vec<usize> = Vec::new();
    let mut before = vec![None; landmarks.len()];
    for (k, &(_, j)) in landmarks.iter().enumerate() {
        let at = ends.partition_point(|&e| landmarks[e].1 < j);
        before[k] = at.checked_sub(1).map(|at| ends[at]);
        if at == ends.len() {
            ends.push(k);
        } else {
            ends[at] = k;
        }
    }
    let mut row: Vec<usize> = std::iter::successors(ends.last().copied(), |&k| before[k]).collect();
    row.reverse();
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_are_where_nothing_crosses() {
        // Two that cross where the second cut would be, and one landmark that is far off.
        let mut landmarks: Vec<(usize, usize)> = (0..200).map(|k| (k, k)).collect();
        (landmarks[96].1, landmarks[97].1) = (97, 96);
        landmarks[30].1 = 180;
        landmarks.remove(180);
        assert_eq!(cuts(&landmarks), [(48, 48), (98, 98), (146, 146), (194, 194)]);
    }

    #[test]
    fn a_cut_never_parts_two_that_cross() {
        let mut landmarks: Vec<(usize, usize)> = (0..200).map(|k| (k, k)).collect();
        for k in (0..200).step_by(2) {
            landmarks[k].1 = k + 1;
            landmarks[k + 1].1 = k;
        }
        for (i, j) in cuts(&landmarks) {
            assert_eq!(i % 2, 0);
            assert_eq!(i, j + j % 2);
            assert!(landmarks.iter().all(|&(a, b)| (a < i) == (b < j)), "{i} {j}");
        }
    }

    #[test]
    fn the_longest_row_is_found() {
        let pairs = [(0, 5), (1, 1), (2, 2), (3, 9), (4, 3)];
        assert_eq!(longest(&pairs), [1, 2, 4]);
        assert!(longest(&[]).is_empty());
    }
}
