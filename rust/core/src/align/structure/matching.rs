//! Which value of the one model is which of the other.

mod packs;
mod pairs;
mod segments;
mod votes;
mod windows;

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;

use super::assign;
use super::evidence::Evidence;
use super::families::Family;
use super::forms::Form;
use super::model::{Model, Place};
use super::weights::Anchor;
use crate::dump::Role;
use packs::split_child;
use pairs::{credit, noise};
use segments::{Item, Known, Segment, key};
use votes::Votes;

/// More pairs of items than this in one segment are not looked at one by one.
const FULL: usize = 250_000;
/// The least score of a pair in each of the rounds in which matched neighbours speak for further pairs.
const ROUNDS: [f64; 5] = [3.0, 2.0, 1.0, 0.0, 0.0];
/// Confidence of pairs in blocks that only their order pairs, where the numbers of blocks differ.
const UNCERTAIN: f64 = 0.5;
/// Distance up to which a part of a pack is the tensor it is held against.
const CLOSE: f64 = 0.02;
/// Distance from which two tensors are no longer one value in two precisions.
const NOISE: f64 = 0.12;

/// Places of two items, the way they meet, and the distance of their content.
type Met = ((usize, usize), Form, Option<f64>);

/// A found pair of values.
#[derive(Clone, Debug)]
pub(super) struct Match {
    pub(super) golden: usize,
    pub(super) candidate: usize,
    pub(super) form: Form,
    pub(super) confidence: f64,
    pub(super) evidence: Vec<String>,
}

/// Neighbours of a value, and their neighbours.
type Near = (BTreeSet<usize>, BTreeSet<usize>);

pub(super) struct Matching<'a> {
    golden: &'a Model<'a>,
    candidate: &'a Model<'a>,
    ranks: u64,
    /// Values that weights tie together, and how.
    tied: BTreeMap<usize, Vec<(usize, Form)>>,
    tied_back: BTreeMap<usize, Vec<usize>>,
    /// Operations whose weight is known on the other side.
    partner: BTreeMap<usize, BTreeSet<usize>>,
    partner_back: BTreeMap<usize, BTreeSet<usize>>,
    /// What each of the candidate's values is computed from and goes into, in one operation and in two.
    near: [Vec<Near>; 2],
    /// Golden value to candidate value, as far as found.
    found: BTreeMap<usize, BTreeSet<usize>>,
    pub(super) notes: Vec<String>,
}

impl<'a> Matching<'a> {
    pub(super) fn new(
        golden: &'a Model<'a>,
        candidate: &'a Model<'a>,
        anchors: &[Anchor],
        ranks: u64,
    ) -> Self {
        let mut matching = Self {
            golden,
            candidate,
            ranks,
            tied: BTreeMap::new(),
            tied_back: BTreeMap::new(),
            partner: BTreeMap::new(),
            partner_back: BTreeMap::new(),
            near: [true, false].map(|up| near(candidate, up)),
            found: BTreeMap::new(),
            notes: Vec::new(),
        };
        for anchor in anchors {
            matching.tie(anchor);
        }
        matching
    }

    /// The output of an operation that has just one.
    fn output(model: &Model, unit: usize) -> Option<usize> {
        let mut outputs = model.places.iter().filter(|p: &&Place| p.unit == unit && p.role == Role::Output);
        // A second one may be the only one whose file is there.
        let is_first = |p: &&Place| p.slot.parse().unwrap_or(0) == 0;
        let only = outputs.next().filter(|_| outputs.next().is_none()).filter(is_first);
        only.filter(|_| model.units[unit].family != Family::AddNorm).map(|p| p.value)
    }

    fn tie(&mut self, anchor: &Anchor) {
        self.partner.entry(anchor.golden_unit).or_default().insert(anchor.candidate_unit);
        self.partner_back.entry(anchor.candidate_unit).or_default().insert(anchor.golden_unit);
        let (golden, candidate) = (
            Self::output(self.golden, anchor.golden_unit),
            Self::output(self.candidate, anchor.candidate_unit),
        );
        let mut pairs = Vec::new();
        if let (Some(g), Some(c)) = (golden, candidate) {
            pairs.push((g, c, anchor.output));
        }
        // What a split behind the pack makes of it is the same value again.
        match anchor.output {
            Form::CandidateColumns { start, .. } | Form::RanksPack { start, .. } => {
                let part = candidate.and_then(|c| split_child(self.candidate, c, start));
                let plain = if self.ranks > 1 { Form::RanksColumns } else { Form::Same };
                pairs.extend(golden.zip(part).map(|(g, c)| (g, c, plain)));
            }
            Form::GoldenColumns { start, .. } => {
                let part = golden.and_then(|g| split_child(self.golden, g, start));
                pairs.extend(part.zip(candidate).map(|(g, c)| (g, c, Form::Same)));
            }
            Form::RanksSum => {
                // The reduction behind the partial sums.
                let reduced = candidate.and_then(|c| {
                    let children = &self.candidate.values[c].children;
                    children
                        .iter()
                        .copied()
                        .find(|&v| self.candidate.unit_of(v).is_some_and(|u| u.family == Family::Collective))
                });
                pairs.extend(golden.zip(reduced).map(|(g, c)| (g, c, Form::Same)));
            }
            Form::Same if self.ranks == 1 => pairs.extend(self.split_ties(golden, candidate)),
            _ => {}
        }
        for (g, c, form) in pairs {
            self.tied.entry(g).or_default().push((c, form));
            self.tied_back.entry(c).or_default().push(g);
        }
    }

    /// What the splits behind two equal packs give: parts of each other, and of the other's pack.
    fn split_ties(&self, golden: Option<usize>, candidate: Option<usize>) -> Vec<(usize, usize, Form)> {
        let (Some(g), Some(c)) = (golden, candidate) else { return Vec::new() };
        let mut ties = Vec::new();
        let mut start = 0;
        loop {
            let (own, other) = (split_child(self.golden, g, start), split_child(self.candidate, c, start));
            let width = |model: &Model, part: usize| model.shape(part).and_then(|s| s.last().copied());
            let len = own.map(|v| width(self.golden, v)).or(other.map(|v| width(self.candidate, v)));
            let Some(len) = len.flatten().filter(|len| *len > 0) else { return ties };
            match (own, other) {
                (Some(own), Some(other)) => ties.push((own, other, Form::Same)),
                (Some(own), None) => ties.push((own, c, Form::CandidateColumns { start, len })),
                (None, Some(other)) => ties.push((g, other, Form::GoldenColumns { start, len })),
                (None, None) => {}
            }
            start += len;
        }
    }

    /// Matches all values of the two models.
    pub(super) fn run(&mut self) -> Vec<Match> {
        let mut segments = self.segments();
        let met: Vec<Vec<Met>> = segments.par_iter_mut().map(|segment| self.meetings(segment)).collect();
        // Too few pairs to tell the noise by have that of the block before.
        let before: Vec<Option<f64>> = [None].into_iter().chain(segments.iter().map(|s| s.noise)).collect();
        segments.par_iter_mut().zip(met).zip(before).for_each(|((segment, met), before)| {
            self.weigh(segment, &met, before);
        });
        let no_votes = Votes::default();
        // What is certain first: it speaks for its neighbours before they are chosen.
        for least in ROUNDS {
            segments.par_iter_mut().for_each(|segment| self.choose(segment, &no_votes, least));
            self.remember(&segments);
        }
        let votes = Votes::of(&segments, self.golden, self.candidate);
        for _ in 0..2 {
            segments.par_iter_mut().for_each(|segment| self.choose(segment, &votes, 0.0));
            self.remember(&segments);
        }
        // From the first pair on that is sure and differs, content says nothing about the pairs after it.
        let mut diverged = false;
        let mut matches = Vec::new();
        for segment in &segments {
            matches.extend(self.judge(segment, &votes, &mut diverged));
        }
        self.packs(&mut matches);
        self.partial_sums(&mut matches);
        matches
    }

    /// What ranks have before the reduction, where its result is what was chosen.
    fn partial_sums(&self, matches: &mut Vec<Match>) {
        let taken: BTreeSet<usize> = matches.iter().map(|m| m.candidate).collect();
        let ties = self.tied.iter().flat_map(|(&g, ties)| ties.iter().map(move |&(c, form)| (g, c, form)));
        let sums = ties.filter(|(_, c, form)| *form == Form::RanksSum && !taken.contains(c));
        for (golden, candidate, form) in sums {
            let distance = self.joined_distance(golden, candidate, form);
            if distance.is_some_and(|d| d < CLOSE) {
                let evidence = vec!["weight".to_owned(), "content".to_owned()];
                matches.push(Match { golden, candidate, form, confidence: 0.95, evidence });
            }
        }
    }

    /// The ways in which items of a segment meet.
    fn meetings(&self, segment: &mut Segment) -> Vec<Met> {
        if segment.is_huge() {
            return Vec::new();
        }
        self.cut_packs(segment);
        let (n, m) = (segment.golden.len(), segment.candidate.len());
        let mut met = Vec::new();
        for i in 0..n {
            for j in 0..m {
                if let Some((form, distance)) = self.meet(&segment.golden[i], &segment.candidate[j]) {
                    met.push(((i, j), form, distance));
                }
            }
        }
        segment.noise = noise(&met, n, m);
        met
    }

    /// Finds what each pair of items of a segment has by itself.
    fn weigh(&self, segment: &mut Segment, met: &[Met], before: Option<f64>) {
        let (n, m) = (segment.golden.len(), segment.candidate.len());
        let level = segment.noise.or(before.filter(|_| n.min(m) < 8));
        for &((i, j), form, distance) in met {
            let mut evidence = self.evidence(&segment.golden[i], &segment.candidate[j], form);
            evidence.content = distance.zip(level).map(|(d, noise)| credit(d, noise));
            if form.needs_content() && evidence.content.unwrap_or(0.0) < 0.5 && evidence.weight <= 0.0 {
                continue;
            }
            let place = |k: usize, n: usize| k as f64 / n.max(1) as f64;
            evidence.distance = (place(i, n) - place(j, m)).abs();
            segment.known.push(Known { at: (i, j), evidence, form, distance });
        }
    }

    /// Chooses the pairs of a segment by all that is known so far.
    fn choose(&self, segment: &mut Segment, votes: &Votes, least: f64) {
        if segment.is_huge() {
            if segment.chosen.is_empty() {
                segment.chosen = self.by_type(segment);
            }
            return;
        }
        let (n, m) = (segment.golden.len(), segment.candidate.len());
        let mut scores: Vec<Option<f64>> = vec![None; n * m];
        for known in &segment.known {
            let score = self.with_context(segment, known, votes).score();
            scores[known.at.0 * m + known.at.1] = score.filter(|&s| s > least);
        }
        segment.chosen = assign::assign(n, m, |i, j| scores[i * m + j]);
    }

    fn with_context(&self, segment: &Segment, known: &Known, votes: &Votes) -> Evidence {
        let (a, b) = (&segment.golden[known.at.0], &segment.candidate[known.at.1]);
        let mut evidence = known.evidence;
        evidence.flow = self.flow(a.value, b.value);
        evidence.vote = votes.of_pair(segment.block, a, b);
        evidence
    }

    /// How far the matched values that two values are computed from, and go into, belong together.
    fn flow(&self, g: usize, c: usize) -> f64 {
        let (mut sum, mut count) = (0.0, 0.0);
        let value = &self.golden.values[g];
        for (mine, there) in [&value.parents, &value.children].into_iter().zip(&self.near) {
            let (first, second) = &there[c];
            for v in mine {
                let Some(there) = self.found.get(v) else { continue };
                count += 1.0;
                sum += if there.iter().any(|w| first.contains(w)) {
                    1.0
                } else if there.iter().any(|w| second.contains(w)) {
                    0.7
                } else {
                    -0.7
                };
            }
        }
        if count > 0.0 { sum / count } else { 0.0 }
    }

    fn remember(&mut self, segments: &[Segment]) {
        self.found.clear();
        for segment in segments {
            for (i, j) in segment.chosen.iter().enumerate().filter_map(|(i, j)| Some((i, (*j)?))) {
                let (g, c) = (segment.golden[i].value, segment.candidate[j].value);
                self.found.entry(g).or_default().insert(c);
            }
        }
    }

    /// The chosen pairs with their confidence.
    fn judge(&self, segment: &Segment, votes: &Votes, diverged: &mut bool) -> Vec<Match> {
        let chosen = segment.chosen.iter().enumerate().filter_map(|(i, j)| Some((i, (*j)?)));
        if segment.is_huge() {
            return chosen
                .filter_map(|(i, j)| {
                    let (a, b) = (&segment.golden[i], &segment.candidate[j]);
                    let (form, _) = self.meet(a, b)?;
                    let evidence = self.evidence(a, b, form);
                    let confidence = evidence.confidence(0.5);
                    let evidence = evidence.words(None);
                    Some(Match { golden: a.value, candidate: b.value, form, confidence, evidence })
                })
                .collect();
        }
        let mut scores: BTreeMap<(usize, usize), (Evidence, f64)> = BTreeMap::new();
        for known in &segment.known {
            let evidence = self.with_context(segment, known, votes);
            scores.insert(known.at, (evidence, evidence.score().unwrap_or(0.0)));
        }
        let mut by_row: BTreeMap<usize, Vec<(usize, f64)>> = BTreeMap::new();
        let mut by_col: BTreeMap<usize, Vec<(usize, f64)>> = BTreeMap::new();
        for (&(i, j), &(_, score)) in &scores {
            by_row.entry(i).or_default().push((j, score));
            by_col.entry(j).or_default().push((i, score));
        }
        let best = |list: &BTreeMap<usize, Vec<(usize, f64)>>, key: usize, but: usize| {
            list.get(&key)
                .into_iter()
                .flatten()
                .filter(|(k, _)| *k != but)
                .map(|(_, s)| *s)
                .fold(0.0, f64::max)
        };
        chosen
            .filter_map(|(i, j)| {
                let (mut evidence, score) = *scores.get(&(i, j))?;
                let known = segment.known(i, j)?;
                let margin = score - best(&by_row, i, j).max(best(&by_col, j, i));
                let (golden, candidate) = (segment.golden[i].value, segment.candidate[j].value);
                let (mut form, mut distance) = (known.form, known.distance);
                if let Some(found) = self.heads(&segment.golden[i], &segment.candidate[j], known) {
                    evidence.content = Some(1.0);
                    (form, distance) = (found.0, Some(found.1));
                }
                if evidence.content == Some(0.0) {
                    if *diverged {
                        evidence.content = None;
                    }
                    *diverged |= evidence.weight > 0.5 || evidence.name > 0.8 || evidence.vote > 0.5;
                }
                let mut confidence = evidence.confidence(margin);
                let mut evidence = evidence.words(distance);
                if !segment.is_certain {
                    confidence = confidence.min(UNCERTAIN);
                    evidence.push("but nothing tells which block is which".to_owned());
                }
                Some(Match { golden, candidate, form, confidence, evidence })
            })
            .collect()
    }
}

fn near(model: &Model, up: bool) -> Vec<Near> {
    let step = |v: usize| if up { &model.values[v].parents } else { &model.values[v].children };
    let of = |v: usize| {
        let first: BTreeSet<usize> = step(v).iter().copied().collect();
        let second = first.iter().flat_map(|&w| step(w)).copied().collect();
        (first, second)
    };
    (0..model.values.len()).map(of).collect()
}
