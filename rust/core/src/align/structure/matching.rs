//! Which value of the one model is which of the other.

mod packs;
mod pairs;
mod votes;

use std::collections::{BTreeMap, BTreeSet};

use super::evidence::Evidence;
use super::families::{self, Family};
use super::forms::Form;
use super::model::{Model, Place, tells_apart};
use super::weights::Anchor;
use super::{assign, blocks};
use crate::TensorInfo;
use crate::align::sketch;
use crate::dump::Role;
use packs::split_child;
use pairs::{credit, noise};
use votes::Votes;

/// More pairs of items than this in one segment are scored by type and shape alone, in order.
const FULL: usize = 250_000;
/// The least score of a pair in each of the rounds in which matched neighbours speak for further pairs.
const ROUNDS: [f64; 5] = [3.0, 2.0, 1.0, 0.0, 0.0];
/// Confidence of pairs in blocks that only their order pairs, where the numbers of blocks differ.
const UNCERTAIN: f64 = 0.5;
/// Distance up to which a part of a pack is the tensor it is held against.
const CLOSE: f64 = 0.02;
/// Distance from which two tensors are no longer one value in two precisions.
const NOISE: f64 = 0.12;

/// A value, or a part of its last axis.
#[derive(Clone, Debug)]
struct Item {
    value: usize,
    /// What it is called in every block alike.
    key: String,
    cut: Option<(u64, u64)>,
    info: Option<TensorInfo>,
    sketch: Option<Vec<f64>>,
}

/// A found pair of values.
#[derive(Clone, Debug)]
pub(super) struct Match {
    pub(super) golden: usize,
    pub(super) candidate: usize,
    pub(super) form: Form,
    pub(super) confidence: f64,
    pub(super) evidence: Vec<String>,
}

/// Items of both sides that are matched among each other.
struct Segment {
    golden: Vec<Item>,
    candidate: Vec<Item>,
    /// The number of the golden block; `None` outside blocks.
    block: Option<usize>,
    /// Whether something tells that the two blocks are the same one.
    is_certain: bool,
    /// Distance of content between the same values, where it can be told.
    noise: Option<f64>,
    /// What each pair of items has of its own, whatever is matched around it.
    own: BTreeMap<(usize, usize), (Evidence, Form, Option<f64>)>,
    chosen: Vec<Option<usize>>,
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
        outputs.next().filter(|_| outputs.next().is_none()).map(|p| p.value)
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
            _ => {}
        }
        for (g, c, form) in pairs {
            self.tied.entry(g).or_default().push((c, form));
            self.tied_back.entry(c).or_default().push(g);
        }
    }

    /// Matches all values of the two models.
    pub(super) fn run(&mut self) -> Vec<Match> {
        let mut segments = self.segments();
        let mut noise = None;
        for segment in &mut segments {
            self.look(segment, noise);
            noise = segment.noise;
        }
        let no_votes = Votes::default();
        // What is certain first: it speaks for its neighbours before they are chosen.
        for least in ROUNDS {
            for segment in &mut segments {
                self.choose(segment, &no_votes, least);
            }
            self.remember(&segments);
        }
        let votes = Votes::of(&segments);
        for _ in 0..2 {
            for segment in &mut segments {
                self.choose(segment, &votes, 0.0);
            }
            self.remember(&segments);
        }
        // From the first pair on that is sure and differs, content says nothing about the pairs after it.
        let mut diverged = false;
        let mut matches = Vec::new();
        for segment in &segments {
            matches.extend(self.judge(segment, &votes, &mut diverged));
        }
        self.packs(&mut matches);
        matches
    }

    /// Items of each pair of blocks, then of what is outside.
    fn segments(&mut self) -> Vec<Segment> {
        let (n, m) = (self.golden.blocks.len(), self.candidate.blocks.len());
        let (pairs, certain) = self.block_pairs(n, m);
        let mut segments = Vec::new();
        let missing: Vec<&str> =
            (0..n).filter(|&b| pairs[b].is_none()).map(|b| self.golden.blocks[b].as_str()).collect();
        let extra: Vec<&str> = (0..m)
            .filter(|b| !pairs.contains(&Some(*b)))
            .map(|b| self.candidate.blocks[b].as_str())
            .collect();
        if n > 0 && m > 0 && (!missing.is_empty() || !extra.is_empty()) {
            let list = |names: &[&str]| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            self.notes.push(format!(
                "golden has {n} blocks, the candidate {m}; only in golden: {}; only in the candidate: {}",
                list(&missing),
                list(&extra)
            ));
        }
        if n == 0 || m == 0 {
            // No blocks on one side: all of the other's belong together.
            let all = |model: &Model| items(model, |_| true);
            segments.push(Segment::new(all(self.golden), all(self.candidate), None));
            return segments;
        }
        let (own, other) = (reach(self.golden), reach(self.candidate));
        for (b, pair) in pairs.iter().enumerate() {
            let Some(p) = *pair else { continue };
            let golden = items(self.golden, |v| own[v].contains(&Some(b)));
            let candidate = items(self.candidate, |v| other[v].contains(&Some(p)));
            let mut segment = Segment::new(golden, candidate, Some(b));
            segment.is_certain = certain[b];
            segments.push(segment);
        }
        let golden = items(self.golden, |v| own[v].contains(&None));
        let candidate = items(self.candidate, |v| other[v].contains(&None));
        segments.push(Segment::new(golden, candidate, None));
        segments
    }

    /// The candidate's block of each golden one, and whether more than order says so.
    fn block_pairs(&self, n: usize, m: usize) -> (Vec<Option<usize>>, Vec<bool>) {
        let mut shared: BTreeMap<(usize, usize), f64> = BTreeMap::new();
        for (g, cs) in &self.partner {
            let Some(b) = self.golden.units[*g].block else { continue };
            for c in cs {
                if let Some(p) = self.candidate.units[*c].block {
                    *shared.entry((b, p)).or_default() += 1.0;
                }
            }
        }
        let by_block = |model: &Model, count: usize| {
            let mut blocks = vec![Vec::new(); count];
            for (v, value) in model.values.iter().enumerate() {
                if let (Some(b), Some(sketch)) = (value.block, &value.sketch)
                    && !value.is_weight
                    && tells_apart(sketch)
                {
                    blocks[b].push(v);
                }
            }
            blocks
        };
        let (own, other) = (by_block(self.golden, n), by_block(self.candidate, m));
        // Without weights, content: only where the numbers of blocks leave a question.
        let content = |b: usize, p: usize| {
            let near = own[b]
                .iter()
                .filter(|&&g| other[p].iter().any(|&c| self.distance(g, c).is_some_and(|d| d < 0.01)));
            near.count() as f64 / own[b].len().max(1) as f64
        };
        let score = |b: usize, p: usize| {
            let by_weight = shared.get(&(b, p)).copied().unwrap_or(0.0);
            let by_content = if n == m || by_weight > 0.0 { 0.0 } else { content(b, p) };
            by_weight + 2.0 * by_content
        };
        let pairs = blocks::pair(n, m, score);
        let certain = pairs.iter().enumerate().map(|(b, p)| n == m || p.is_some_and(|p| score(b, p) > 0.2));
        let certain = certain.collect();
        (pairs, certain)
    }

    fn distance(&self, g: usize, c: usize) -> Option<f64> {
        let (a, b) = (&self.golden.values[g], &self.candidate.values[c]);
        (a.info.as_ref()?.numel() == b.info.as_ref()?.numel())
            .then(|| sketch::likeness(a.sketch.as_ref()?, b.sketch.as_ref()?))
            .flatten()
            .map(|like| 1.0 - like)
    }

    /// Finds what each pair of items of a segment has by itself.
    fn look(&self, segment: &mut Segment, earlier: Option<f64>) {
        self.cut_packs(segment);
        let (n, m) = (segment.golden.len(), segment.candidate.len());
        if n * m > FULL {
            return;
        }
        let mut distances: BTreeMap<(usize, usize), (Form, Option<f64>)> = BTreeMap::new();
        for i in 0..n {
            for j in 0..m {
                if let Some(met) = self.meet(&segment.golden[i], &segment.candidate[j]) {
                    distances.insert((i, j), met);
                }
            }
        }
        segment.noise = noise(&distances, n, m);
        let level = segment.noise.or(earlier.filter(|_| n.min(m) < 8));
        for i in 0..n {
            for j in 0..m {
                let Some(&(form, distance)) = distances.get(&(i, j)) else { continue };
                let mut evidence = self.evidence(&segment.golden[i], &segment.candidate[j], form);
                evidence.content = distance.zip(level).map(|(d, noise)| credit(d, noise));
                if form.needs_content() && evidence.content.unwrap_or(0.0) < 0.5 && evidence.weight <= 0.0 {
                    continue;
                }
                let place = |k: usize, n: usize| k as f64 / n.max(1) as f64;
                evidence.distance = (place(i, n) - place(j, m)).abs();
                segment.own.insert((i, j), (evidence, form, distance));
            }
        }
    }

    /// Chooses the pairs of a segment by all that is known so far.
    fn choose(&self, segment: &mut Segment, votes: &Votes, least: f64) {
        let (n, m) = (segment.golden.len(), segment.candidate.len());
        if n * m > FULL {
            if segment.chosen.is_empty() {
                segment.chosen = self.by_type(segment);
            }
            return;
        }
        let mut scores: Vec<Option<f64>> = vec![None; n * m];
        for (&(i, j), (evidence, ..)) in &segment.own {
            scores[i * m + j] =
                self.with_context(segment, i, j, *evidence, votes).score().filter(|&s| s > least);
        }
        segment.chosen = assign::assign(n, m, |i, j| scores[i * m + j]);
    }

    fn with_context(
        &self,
        segment: &Segment,
        i: usize,
        j: usize,
        mut evidence: Evidence,
        votes: &Votes,
    ) -> Evidence {
        let (a, b) = (&segment.golden[i], &segment.candidate[j]);
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

    /// Huge segments without blocks: in order, by type and shape.
    fn by_type(&self, segment: &Segment) -> Vec<Option<usize>> {
        let mut shapes: BTreeMap<Vec<u64>, u32> = BTreeMap::new();
        let mut names: BTreeMap<&str, u32> = BTreeMap::new();
        let mut code = |model: &'a Model<'a>, item: &Item| {
            let squeezed =
                item.info.as_ref().map(|i| i.shape.iter().copied().filter(|&n| n != 1).collect::<Vec<_>>());
            let next = shapes.len() as u32;
            let shape = *shapes.entry(squeezed.unwrap_or_default()).or_insert(next);
            let unit = model.unit_of(item.value);
            let next = names.len() as u32;
            let name = *names.entry(unit.map_or("", |u| u.name.as_str())).or_insert(next);
            (unit.map_or(Family::Unknown, |u| u.family), shape, name)
        };
        let own: Vec<_> = segment.golden.iter().map(|i| code(self.golden, i)).collect();
        let other: Vec<_> = segment.candidate.iter().map(|i| code(self.candidate, i)).collect();
        assign::in_order(own.len(), other.len(), |i, j| {
            let ((family, shape, name), (family_, shape_, name_)) = (own[i], other[j]);
            if shape != shape_ {
                return None;
            }
            Some(1.0 + families::agreement(family, family_) + if name == name_ { 2.0 } else { 0.0 })
        })
    }

    /// The chosen pairs with their confidence.
    fn judge(&self, segment: &Segment, votes: &Votes, diverged: &mut bool) -> Vec<Match> {
        let chosen = segment.chosen.iter().enumerate().filter_map(|(i, j)| Some((i, (*j)?)));
        if segment.own.is_empty() {
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
        for (&(i, j), (evidence, ..)) in &segment.own {
            let evidence = self.with_context(segment, i, j, *evidence, votes);
            scores.insert((i, j), (evidence, evidence.score().unwrap_or(0.0)));
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
                let (_, form, distance) = segment.own.get(&(i, j))?;
                let margin = score - best(&by_row, i, j).max(best(&by_col, j, i));
                let (golden, candidate) = (segment.golden[i].value, segment.candidate[j].value);
                let form = self.heads(&segment.golden[i], &segment.candidate[j], *form, *distance);
                if evidence.content == Some(0.0) {
                    if *diverged {
                        evidence.content = None;
                    }
                    *diverged |= evidence.weight > 0.5 || evidence.name > 0.8 || evidence.vote > 0.5;
                }
                let mut confidence = evidence.confidence(margin);
                let mut evidence = evidence.words(*distance);
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

fn items(model: &Model, wanted: impl Fn(usize) -> bool) -> Vec<Item> {
    let mut values: Vec<usize> =
        (0..model.values.len()).filter(|&v| !model.values[v].is_weight && wanted(v)).collect();
    values.sort_by_key(|&v| model.values[v].order);
    values
        .into_iter()
        .map(|value| {
            let v = &model.values[value];
            Item {
                value,
                key: key(model, value, None),
                cut: None,
                info: v.info.clone(),
                sketch: v.sketch.clone().filter(|s| !s.is_empty()),
            }
        })
        .collect()
}

/// The blocks a value is computed or read in.
fn reach(model: &Model) -> Vec<BTreeSet<Option<usize>>> {
    let mut reach = vec![BTreeSet::new(); model.values.len()];
    for (v, value) in model.values.iter().enumerate() {
        if value.producer.is_some() {
            reach[v].insert(value.block);
            continue;
        }
        reach[v].extend(value.places.iter().map(|&p| model.units[model.places[p].unit].block));
        // What every block reads comes from outside: rotary tables, masks.
        if reach[v].len() > 2 || reach[v].len() == model.blocks.len() {
            reach[v].insert(None);
        }
    }
    reach
}

impl Segment {
    fn new(golden: Vec<Item>, candidate: Vec<Item>, block: Option<usize>) -> Self {
        Self {
            golden,
            candidate,
            block,
            is_certain: true,
            noise: None,
            own: BTreeMap::new(),
            chosen: Vec::new(),
        }
    }
}

/// What a value, or a part of it, is called in every block alike.
fn key(model: &Model, value: usize, cut: Option<(u64, u64)>) -> String {
    let v = &model.values[value];
    let name = v.producer.or(v.places.first().copied()).map(|p| {
        let place = &model.places[p];
        format!("{}#{}{}", model.units[place.unit].local, place.role.name(), place.slot)
    });
    format!("{}{cut:?}", name.unwrap_or_default())
}
