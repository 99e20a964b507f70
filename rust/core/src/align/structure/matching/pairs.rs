//! What a pair of items has by itself: how their shapes meet, how far their content is apart, what speaks for it.

use std::collections::BTreeSet;

use super::packs::with_cut;
use super::segments::{Cut, Known};
use super::{CLOSE, Item, Matching, Met, NOISE};
use crate::align::structure::evidence::Evidence;
use crate::align::structure::families;
use crate::align::structure::forms::{self, Form};
use crate::align::structure::model::{Model, Unit};
use crate::align::structure::weights::FRACTAL_NZ;
use crate::align::{sketch, view};
use crate::dump::Role;
use crate::{Tensor, TensorInfo};

/// Distance from which the same elements may be there in another order.
const FAR: f64 = 0.2;

impl Matching<'_> {
    /// The way two items meet, with the distance of their content.
    pub(super) fn meet(&self, a: &Item, b: &Item) -> Option<(Form, Option<f64>)> {
        if a.cut.is_some() && b.cut.is_some() {
            return None;
        }
        let (info, other) = (a.info.as_ref()?, b.info.as_ref()?);
        let is_number = |info: &TensorInfo| info.dtype.is_float();
        if is_number(info) != is_number(other) {
            return None;
        }
        let tied = self.tied.get(&a.value).and_then(|ties| ties.iter().find(|t| t.0 == b.value)).map(|t| t.1);
        if let (Some(form), None, None) = (tied, a.cut, b.cut)
            && matches!(form, Form::RanksSum)
        {
            return Some((form, self.joined_distance(a.value, b.value, form)));
        }
        let ranks = if b.cut.is_some() { 1 } else { self.ranks };
        let options = forms::between(&info.shape, &other.shape, ranks, other.acl_format == Some(FRACTAL_NZ));
        let mut best: Option<(Form, Option<f64>)> = None;
        for form in options {
            let equal_order = matches!(form, Form::Same | Form::Reshape);
            let distance = if equal_order {
                a.sketch
                    .as_ref()
                    .zip(b.sketch.as_ref())
                    .and_then(|(x, y)| sketch::likeness(x, y))
                    .map(|l| 1.0 - l)
            } else if a.cut.is_none() && b.cut.is_none() {
                self.joined_distance(a.value, b.value, form)
            } else {
                None
            };
            let better = match (&best, distance) {
                (None, _) => !form.needs_content() || distance.is_some_and(|d| d < NOISE),
                (Some((_, Some(old))), Some(new)) => new < old / 3.0 && new < NOISE,
                (Some((_, None)), Some(_)) => true,
                _ => false,
            };
            if better {
                best = Some((form, distance));
            }
        }
        best.map(|(form, d)| (with_cut(form, a, b, self.ranks), d))
    }

    /// Distance of content after the transforms of a form.
    pub(super) fn joined_distance(&self, golden: usize, candidate: usize, form: Form) -> Option<f64> {
        self.golden.values[golden].sketch.as_ref()?;
        let record = |model: &Model, value: usize| {
            let v = &model.values[value];
            v.producer.or(v.places.first().copied())
        };
        let (p, q) = (record(self.golden, golden)?, record(self.candidate, candidate)?);
        let own = self.golden.dump.tensor(self.golden.places[p].record).ok()?;
        let others = self.rank_tensors(q, form.joins_ranks())?;
        let (golden, candidate) = form.transforms(&own.info.shape, &others.first()?.info.shape)?;
        let own = view::apply(vec![own], &golden).ok()?;
        let other = view::apply(others, &candidate).ok()?;
        if own.info.numel() != other.info.numel() {
            return None;
        }
        let positions = sketch::positions(own.info.numel());
        let (x, y) = (sketch::read(&own, &positions)?, sketch::read(&other, &positions)?);
        sketch::likeness(&x, &y).map(|like| 1.0 - like)
    }

    pub(super) fn rank_tensors(&self, place: usize, all: bool) -> Option<Vec<Tensor>> {
        let model = self.candidate;
        let first = model.places[place].record;
        if !all {
            return Some(vec![model.dump.tensor(first).ok()?]);
        }
        let step = model.dump.records[first].step;
        model.ranks.iter().map(|&rank| model.dump.tensor(model.record(place, (step, rank))?).ok()).collect()
    }

    pub(super) fn evidence(&self, a: &Item, b: &Item, form: Form) -> Evidence {
        let (value, other) = (&self.golden.values[a.value], &self.candidate.values[b.value]);
        let (unit, partner) = (self.golden.unit_of(a.value), self.candidate.unit_of(b.value));
        let family = match (unit, partner) {
            (Some(x), Some(y)) if !x.is_container && !y.is_container => {
                families::agreement(x.family, y.family)
            }
            (Some(x), Some(y)) if x.is_container && y.is_container => 0.5,
            _ => 0.0,
        };
        let role = |u: &Unit| u.role;
        let name = match (unit, partner) {
            _ if ends_block(self.golden, a) && ends_block(self.candidate, b) => 1.0,
            (Some(x), Some(y)) if x.name == y.name && x.call == y.call => 1.2,
            (Some(x), Some(y)) if !x.local.is_empty() && x.local == y.local && x.family == y.family => 0.6,
            (Some(x), Some(y)) => match (role(x), role(y)) {
                (Some(p), Some(q)) if p == q => 1.0,
                (Some(_), Some(_)) => -1.2,
                _ => 0.0,
            },
            _ => 0.0,
        };
        let readers = if value.readers.is_empty() || other.readers.is_empty() {
            if value.readers.is_empty() == other.readers.is_empty() { 0.0 } else { -0.3 }
        } else {
            let pairs =
                value.readers.iter().flat_map(|x| other.readers.iter().map(|y| families::agreement(*x, *y)));
            pairs.fold(-1.0, f64::max)
        };
        Evidence {
            weight: self.by_weight(a, b),
            name,
            family,
            readers,
            shape: form.plainness(),
            ..Evidence::default()
        }
    }

    fn by_weight(&self, a: &Item, b: &Item) -> f64 {
        let ties = |g: usize| self.tied.get(&g).into_iter().flatten();
        let fits = |form: Form| match form {
            Form::CandidateColumns { start, len } | Form::RanksPack { start, len } => {
                a.cut.is_none() && b.cut == Some(Cut::plain(start, len))
            }
            Form::GoldenColumns { start, len } => a.cut == Some(Cut::plain(start, len)) && b.cut.is_none(),
            _ => a.cut.is_none() && b.cut.is_none(),
        };
        if ties(a.value).any(|&(c, form)| c == b.value && fits(form)) {
            return 1.0;
        }
        // What is known of a part says nothing about the others, and the whole nothing about its parts.
        let is_golden_part = |form: Form| match (a.cut, form) {
            (None, _) => true,
            (cut, Form::GoldenColumns { start, len }) => cut == Some(Cut::plain(start, len)),
            _ => false,
        };
        let is_candidate_part = |form: Form| match (b.cut, form) {
            (None, _) => true,
            (cut, Form::CandidateColumns { start, len } | Form::RanksPack { start, len }) => {
                cut == Some(Cut::plain(start, len))
            }
            _ => false,
        };
        let back = self.tied_back.get(&b.value).into_iter().flatten();
        let mut back = back.flat_map(|&g| ties(g)).filter(|(c, _)| *c == b.value);
        if ties(a.value).any(|&(_, form)| is_golden_part(form))
            || back.any(|&(_, form)| is_candidate_part(form))
        {
            return -0.9;
        }
        // An operation whose partner left no output of its own may be found where that output is read.
        let unit = self.golden.values[a.value].producer.map(|p| self.golden.places[p].unit);
        let other = self.candidate.values[b.value].producer.map(|p| self.candidate.places[p].unit);
        let (Some(u), Some(v)) = (unit, other) else { return 0.0 };
        let meets = |model: &Model, partners: &BTreeSet<usize>, unit: usize| {
            partners.iter().any(|&p| p == unit || is_inside(model, p, unit))
        };
        let is_within = |model: &Model, partners: &BTreeSet<usize>, unit: usize| {
            partners.iter().any(|&p| is_inside(model, unit, p))
        };
        match (self.partner.get(&u), self.partner_back.get(&v)) {
            (Some(units), _) if meets(self.candidate, units, v) => 0.5,
            (_, Some(units)) if meets(self.golden, units, u) => 0.5,
            // Of several outputs, or parts, only one belongs to the weight.
            (None, Some(_)) if b.cut.is_some() || Self::output(self.candidate, v).is_none() => 0.0,
            (Some(_), None) if a.cut.is_some() || Self::output(self.golden, u).is_none() => 0.0,
            // The weight was recorded at what encloses the operation.
            (Some(units), _) if is_within(self.candidate, units, v) => 0.0,
            (_, Some(units)) if is_within(self.golden, units, u) => 0.0,
            (None, None) => 0.0,
            _ => -0.9,
        }
    }

    /// The form and distance under which the content agrees once halves of heads become pairs, or the reverse.
    pub(super) fn heads(&self, a: &Item, b: &Item, known: &Known) -> Option<(Form, f64)> {
        let cols = a.info.as_ref()?.shape.last().copied()?;
        let is_far = known.distance.is_some_and(|d| d > FAR);
        if known.form != Form::Same || !is_far || a.cut.is_some() || b.cut.is_some() {
            return None;
        }
        let sizes = [4, 8, 16, 32, 64, 80, 96, 128, 192, 256];
        let options = sizes
            .into_iter()
            .filter(|head| cols.is_multiple_of(*head))
            .flat_map(|head| [true, false].map(|interleave| Form::Heads { head, interleave }));
        options
            .filter_map(|form| Some((form, self.joined_distance(a.value, b.value, form)?)))
            .filter(|(_, d)| *d < CLOSE)
            .min_by(|x, y| x.1.total_cmp(&y.1))
    }
}

/// Whether one operation is part of another.
fn is_inside(model: &Model, inner: usize, outer: usize) -> bool {
    let (inner, outer) = (&model.units[inner].name, &model.units[outer].name);
    inner.strip_prefix(outer.as_str()).is_some_and(|rest| rest.starts_with(['.', '/']))
}

/// Whether a value is what its whole block gives.
fn ends_block(model: &Model, item: &Item) -> bool {
    model.values[item.value].places.iter().any(|&p| {
        let (place, unit) = (&model.places[p], &model.units[model.places[p].unit]);
        place.role == Role::Output && unit.block.is_some() && unit.local.is_empty() && unit.is_container
    })
}

/// The usual distance of content between the same values in two precisions: the middle one of those pairs of items
/// that are each other's nearest.
pub(super) fn noise(met: &[Met], n: usize, m: usize) -> Option<f64> {
    let mut rows = vec![(f64::INFINITY, 0); n];
    let mut cols = vec![(f64::INFINITY, 0); m];
    for &((i, j), _, distance) in met {
        let Some(d) = distance else { continue };
        if d < rows[i].0 {
            rows[i] = (d, j);
        }
        if d < cols[j].0 {
            cols[j] = (d, i);
        }
    }
    let mut nearest: Vec<f64> =
        (0..n).filter(|&i| rows[i].0 < NOISE && cols[rows[i].1].1 == i).map(|i| rows[i].0).collect();
    nearest.sort_by(f64::total_cmp);
    (nearest.len() >= 3).then(|| nearest[nearest.len() / 2])
}

/// 1 for a distance like that of the same values, 0 for one far beyond.
pub(super) fn credit(distance: f64, noise: f64) -> f64 {
    let (near, far) = (4.0 * noise + 1e-4, 16.0 * noise + 1e-3);
    if distance <= near { 1.0 } else { ((far / distance).ln() / (far / near).ln()).clamp(0.0, 1.0) }
}
