//! Which value of the one model is which of the other.

use std::collections::{BTreeMap, BTreeSet};

use super::evidence::Evidence;
use super::families::{self, Family};
use super::forms::{self, Form};
use super::model::{Model, Place, tells_apart};
use super::weights::Anchor;
use super::{assign, blocks};
use crate::align::{sketch, view};
use crate::dump::Role;
use crate::{Tensor, TensorInfo};

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

    /// The way two items meet, with the distance of their content.
    fn meet(&self, a: &Item, b: &Item) -> Option<(Form, Option<f64>)> {
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
            return Some((form, self.joined_distance(a, b, form)));
        }
        let ranks = if b.cut.is_some() { 1 } else { self.ranks };
        let options = forms::between(&info.shape, &other.shape, ranks, other.acl_format == Some(29));
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
                self.joined_distance(a, b, form)
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
    fn joined_distance(&self, a: &Item, b: &Item, form: Form) -> Option<f64> {
        a.sketch.as_ref()?;
        let record = |model: &Model, value: usize| {
            let v = &model.values[value];
            v.producer.or(v.places.first().copied())
        };
        let (p, q) = (record(self.golden, a.value)?, record(self.candidate, b.value)?);
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

    fn rank_tensors(&self, place: usize, all: bool) -> Option<Vec<Tensor>> {
        let model = self.candidate;
        let first = model.places[place].record;
        if !all {
            return Some(vec![model.dump.tensor(first).ok()?]);
        }
        let step = model.dump.records[first].step;
        model.ranks.iter().map(|&rank| model.dump.tensor(model.record(place, (step, rank))?).ok()).collect()
    }

    fn evidence(&self, a: &Item, b: &Item, form: Form) -> Evidence {
        let (value, other) = (&self.golden.values[a.value], &self.candidate.values[b.value]);
        let (unit, partner) = (self.golden.unit_of(a.value), self.candidate.unit_of(b.value));
        let family = match (unit, partner) {
            (Some(x), Some(y)) if !x.is_container && !y.is_container => {
                families::agreement(x.family, y.family)
            }
            (Some(x), Some(y)) if x.is_container && y.is_container => 0.5,
            _ => 0.0,
        };
        let role = |u: &super::model::Unit| u.role;
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
        if let Some(ties) = self.tied.get(&a.value) {
            let fits = ties.iter().any(|&(c, form)| {
                c == b.value
                    && match (form, a.cut, b.cut) {
                        (Form::CandidateColumns { start, len } | Form::RanksPack { start, len }, _, cut) => {
                            cut == Some((start, len))
                        }
                        (Form::GoldenColumns { start, len }, cut, _) => cut == Some((start, len)),
                        (_, x, y) => x.is_none() && y.is_none(),
                    }
            });
            if fits {
                return 1.0;
            }
            if ties.iter().any(|t| t.0 == b.value) || !self.tied_back.contains_key(&b.value) {
                return -0.9;
            }
        }
        if self.tied_back.contains_key(&b.value) {
            return -0.9;
        }
        // An operation whose partner left no output of its own may be found where that output is read.
        let unit = self.golden.values[a.value].producer.map(|p| self.golden.places[p].unit);
        let other = self.candidate.values[b.value].producer.map(|p| self.candidate.places[p].unit);
        let (Some(u), Some(v)) = (unit, other) else { return 0.0 };
        let meets = |model: &Model, partners: &BTreeSet<usize>, unit: usize| {
            partners.iter().any(|&p| p == unit || is_inside(model, p, unit))
        };
        match (self.partner.get(&u), self.partner_back.get(&v)) {
            (Some(units), _) if meets(self.candidate, units, v) => 0.5,
            (_, Some(units)) if meets(self.golden, units, u) => 0.5,
            // Of several outputs only one belongs to the weight.
            (None, Some(_)) if Self::output(self.candidate, v).is_none() => 0.0,
            (Some(_), None) if Self::output(self.golden, u).is_none() => 0.0,
            (None, None) => 0.0,
            _ => -0.9,
        }
    }

    /// Adds the parts of packs as items of their own where nothing behind the pack splits it.
    fn cut_packs(&self, segment: &mut Segment) {
        let golden = self.cuts(&segment.golden, &segment.candidate, true);
        let candidate = self.cuts(&segment.candidate, &segment.golden, false);
        segment.golden.extend(golden);
        segment.candidate.extend(candidate);
    }

    fn cuts(&self, packs: &[Item], parts: &[Item], is_golden: bool) -> Vec<Item> {
        let (model, other) =
            if is_golden { (self.golden, self.candidate) } else { (self.candidate, self.golden) };
        let ranks = if is_golden { 1 } else { self.ranks };
        let mut found = Vec::new();
        for pack in packs {
            let Some(info) = &pack.info else { continue };
            let Some(&cols) = info.shape.last() else { continue };
            let mut cuts: BTreeSet<(u64, u64)> = BTreeSet::new();
            for (g, ties) in &self.tied {
                for &(c, form) in ties {
                    match form {
                        Form::CandidateColumns { start, len } | Form::RanksPack { start, len }
                            if !is_golden && c == pack.value =>
                        {
                            cuts.insert((start, len));
                        }
                        Form::GoldenColumns { start, len } if is_golden && *g == pack.value => {
                            cuts.insert((start, len));
                        }
                        _ => {}
                    }
                }
            }
            let may_be_pack = model
                .unit_of(pack.value)
                .is_none_or(|u| !u.is_container && matches!(u.family, Family::Linear | Family::Unknown));
            if cuts.is_empty() && may_be_pack && split_child(model, pack.value, 0).is_none() {
                cuts.extend(self.guess_cuts(pack, cols, parts, other, is_golden, ranks));
            }
            for (start, len) in cuts {
                found.extend(self.cut(pack, start, len, is_golden));
            }
        }
        found
    }

    /// Parts of a pack by the widths of linear operations on the other side that read one value.
    fn guess_cuts(
        &self,
        pack: &Item,
        cols: u64,
        parts: &[Item],
        other: &Model,
        is_golden: bool,
        ranks: u64,
    ) -> Vec<(u64, u64)> {
        let rows = pack.info.as_ref().map(|i| i.numel() / cols.max(1));
        // Widths may add up by chance; they count only for what is known to be a linear operation.
        let model = if is_golden { self.golden } else { self.candidate };
        let is_known = model.unit_of(pack.value).is_some_and(|u| u.family == Family::Linear);
        let mut siblings: BTreeMap<Vec<usize>, Vec<(u64, &Item)>> = BTreeMap::new();
        for part in parts.iter().filter(|p| p.cut.is_none()) {
            let family = other.unit_of(part.value).filter(|u| !u.is_container).map(|u| u.family);
            let fits = matches!(family, Some(Family::Linear | Family::Unknown | Family::Split));
            let Some(info) = part.info.as_ref().filter(|_| fits) else { continue };
            let width = info.shape.last().copied().unwrap_or(1);
            if Some(info.numel() / width.max(1)) == rows
                && width.is_multiple_of(ranks)
                && width / ranks < cols
            {
                let parents =
                    other.values[part.value].parents.iter().copied().filter(|&v| !other.values[v].is_weight);
                siblings.entry(parents.collect()).or_default().push((width / ranks, part));
            }
        }
        for group in siblings.values() {
            // Neighbours whose widths make up the pack's.
            for size in [3, 2] {
                for window in group.windows(size) {
                    if window.iter().map(|w| w.0).sum::<u64>() == cols
                        && let Some(cuts) = self.best_order(pack, window, is_golden, is_known)
                    {
                        return cuts;
                    }
                }
            }
        }
        // With a part missing, the content of the others says where they are.
        let all = siblings.values().flatten();
        all.filter_map(|&(len, part)| {
            let starts: BTreeSet<u64> =
                [0, len, cols - len].into_iter().filter(|s| s + len <= cols).collect();
            starts.into_iter().find_map(|start| {
                let item = self.cut(pack, start, len, is_golden)?;
                let like = sketch::likeness(item.sketch.as_ref()?, part.sketch.as_ref()?)?;
                (1.0 - like < CLOSE).then_some((start, len))
            })
        })
        .collect()
    }

    /// The order of parts in a pack that their content speaks for; as they come where it does not and that may be.
    fn best_order(
        &self,
        pack: &Item,
        parts: &[(u64, &Item)],
        is_golden: bool,
        is_known: bool,
    ) -> Option<Vec<(u64, u64)>> {
        let orders: &[&[usize]] = match parts.len() {
            3 => &[&[0, 1, 2], &[0, 2, 1], &[1, 0, 2], &[1, 2, 0], &[2, 0, 1], &[2, 1, 0]],
            _ => &[&[0, 1], &[1, 0]],
        };
        let cuts = |order: &[usize]| {
            let mut at = 0;
            order
                .iter()
                .map(|&k| {
                    let cut = (at, parts[k].0);
                    at += parts[k].0;
                    (k, cut)
                })
                .collect::<Vec<_>>()
        };
        let cost = |order: &&&[usize]| -> f64 {
            cuts(order)
                .into_iter()
                .map(|(k, (start, len))| {
                    let item = self.cut(pack, start, len, is_golden);
                    let like = item.and_then(|item| {
                        sketch::likeness(item.sketch.as_ref()?, parts[k].1.sketch.as_ref()?)
                    });
                    1.0 - like.unwrap_or(0.0)
                })
                .sum()
        };
        let best = orders.iter().map(|o| (cost(&o), o)).min_by(|a, b| a.0.total_cmp(&b.0));
        let sure = best.filter(|(c, _)| *c < NOISE * parts.len() as f64).map(|(_, o)| *o);
        let order = sure.or(is_known.then_some(orders[0]))?;
        Some(cuts(order).into_iter().map(|(_, cut)| cut).collect())
    }

    /// A part of a pack as an item; of several ranks, of all of them together.
    fn cut(&self, pack: &Item, start: u64, len: u64, is_golden: bool) -> Option<Item> {
        let model = if is_golden { self.golden } else { self.candidate };
        let value = &model.values[pack.value];
        let place = value.producer.or(value.places.first().copied())?;
        let mut info = pack.info.clone()?;
        let ranks = if is_golden { 1 } else { self.ranks };
        *info.shape.last_mut()? = len * ranks;
        let read = || {
            let shape = info.shape.clone();
            let (tensors, form) = if ranks > 1 {
                (self.rank_tensors(place, true)?, Form::RanksPack { start, len })
            } else {
                (
                    vec![model.dump.tensor(model.places[place].record).ok()?],
                    Form::CandidateColumns { start, len },
                )
            };
            let (_, steps) = form.transforms(&shape, &tensors.first()?.info.shape)?;
            let tensor = view::apply(tensors, &steps).ok()?;
            sketch::read(&tensor, &sketch::positions(tensor.info.numel()))
        };
        let sketch = read();
        let cut = Some((start, len));
        Some(Item { value: pack.value, key: key(model, pack.value, cut), cut, info: Some(info), sketch })
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

    /// Whether the content agrees once halves of heads become pairs, or the reverse.
    fn heads(&self, a: &Item, b: &Item, form: Form, distance: Option<f64>) -> Form {
        let far = distance.is_some_and(|d| d > 0.2);
        let Some(cols) = a.info.as_ref().and_then(|i| i.shape.last().copied()) else { return form };
        if form != Form::Same || !far || a.cut.is_some() || b.cut.is_some() {
            return form;
        }
        let sizes = [4, 8, 16, 32, 64, 80, 96, 128, 192, 256];
        let options = sizes
            .into_iter()
            .filter(|head| cols.is_multiple_of(*head))
            .flat_map(|head| [true, false].map(|interleave| Form::Heads { head, interleave }));
        let found = options
            .filter_map(|form| Some((self.joined_distance(a, b, form)?, form)))
            .min_by(|x, y| x.0.total_cmp(&y.0));
        found.filter(|(d, _)| *d < 0.02).map_or(form, |(_, form)| form)
    }

    /// A pack without a partner whose parts have one: each part is a pair of its own.
    fn packs(&self, matches: &mut Vec<Match>) {
        let matched: BTreeSet<usize> = matches.iter().map(|m| m.golden).collect();
        let matched_back: BTreeSet<usize> = matches.iter().map(|m| m.candidate).collect();
        let mut more = Vec::new();
        for (model, is_golden) in [(self.golden, true), (self.candidate, false)] {
            for v in 0..model.values.len() {
                let taken = if is_golden { matched.contains(&v) } else { matched_back.contains(&v) };
                if taken || (!is_golden && self.ranks > 1) {
                    continue;
                }
                let mut start = 0;
                while let Some(part) = split_child(model, v, start) {
                    let len = model.shape(part).and_then(|s| s.last().copied()).unwrap_or(0);
                    if len == 0 {
                        break;
                    }
                    let own = |m: &&Match| if is_golden { m.golden == part } else { m.candidate == part };
                    for m in
                        matches.iter().filter(own).filter(|m| matches!(m.form, Form::Same | Form::Reshape))
                    {
                        let mut m = m.clone();
                        if is_golden {
                            (m.golden, m.form) = (v, Form::GoldenColumns { start, len });
                        } else {
                            (m.candidate, m.form) = (v, Form::CandidateColumns { start, len });
                        }
                        m.confidence *= 0.98;
                        m.evidence.insert(0, "part of a pack".to_owned());
                        more.push(m);
                    }
                    start += len;
                }
            }
        }
        matches.extend(more);
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

/// The value that an operation cuts out of a pack from one column on.
fn split_child(model: &Model, pack: usize, start: u64) -> Option<usize> {
    let cols = *model.shape(pack)?.last()?;
    let mut by_unit: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (v, place) in model.values[pack].children.iter().filter_map(|&v| Some((v, model.values[v].producer?)))
    {
        by_unit.entry(model.places[place].unit).or_default().push(v);
    }
    by_unit.into_iter().find_map(|(unit, parts)| {
        if !matches!(model.units[unit].family, Family::Split | Family::Layout | Family::Unknown)
            || parts.len() < 2
        {
            return None;
        }
        let slot = |v: usize| model.values[v].producer.and_then(|p| model.places[p].slot.parse::<u64>().ok());
        let mut parts: Vec<usize> = parts;
        parts.sort_by_key(|&v| slot(v));
        // With a part missing the places of the others are not known.
        let widths: Vec<u64> = parts.iter().filter_map(|&v| model.shape(v)?.last().copied()).collect();
        if widths.iter().sum::<u64>() != cols || widths.len() != parts.len() {
            return None;
        }
        let mut at = 0;
        for (part, width) in parts.into_iter().zip(widths) {
            if at == start {
                return Some(part);
            }
            at += width;
        }
        None
    })
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

fn with_cut(form: Form, a: &Item, b: &Item, ranks: u64) -> Form {
    match (a.cut, b.cut) {
        (Some((start, len)), _) => Form::GoldenColumns { start, len },
        (_, Some((start, len))) if ranks > 1 => Form::RanksPack { start, len },
        (_, Some((start, len))) => Form::CandidateColumns { start, len },
        _ => form,
    }
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

/// The usual distance of content between the same values in two precisions: the middle one of those pairs of items
/// that are each other's nearest.
fn noise(distances: &BTreeMap<(usize, usize), (Form, Option<f64>)>, n: usize, m: usize) -> Option<f64> {
    let mut rows = vec![(f64::INFINITY, 0); n];
    let mut cols = vec![(f64::INFINITY, 0); m];
    for (&(i, j), &(_, distance)) in distances {
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
fn credit(distance: f64, noise: f64) -> f64 {
    let (near, far) = (4.0 * noise + 1e-4, 16.0 * noise + 1e-3);
    if distance <= near { 1.0 } else { ((far / distance).ln() / (far / near).ln()).clamp(0.0, 1.0) }
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

/// Which operations of a block the other blocks pair.
#[derive(Default)]
struct Votes {
    /// For a golden operation's name within its block: the candidate's names, with their votes by block.
    golden: BTreeMap<String, BTreeMap<String, Vec<usize>>>,
    /// Blocks whose operations have the same names as most blocks'.
    usual: BTreeSet<usize>,
}

impl Votes {
    fn of(segments: &[Segment]) -> Self {
        let mut votes = Self::default();
        // A block with one operation more or less numbers the others differently.
        let signature = |segment: &Segment| {
            let names = |items: &[Item]| -> Vec<String> {
                items.iter().filter(|i| i.cut.is_none()).map(|i| i.key.clone()).collect()
            };
            (names(&segment.golden), names(&segment.candidate))
        };
        let mut kinds: BTreeMap<(Vec<String>, Vec<String>), Vec<usize>> = BTreeMap::new();
        for segment in segments {
            if let Some(block) = segment.block {
                kinds.entry(signature(segment)).or_default().push(block);
            }
        }
        let most = kinds.values().max_by_key(|blocks| (blocks.len(), std::cmp::Reverse(blocks[0])));
        votes.usual.extend(most.into_iter().flatten());
        for segment in segments {
            let Some(block) = segment.block.filter(|b| votes.usual.contains(b)) else { continue };
            for (i, j) in segment.chosen.iter().enumerate().filter_map(|(i, j)| Some((i, (*j)?))) {
                let Some((evidence, ..)) = segment.own.get(&(i, j)) else { continue };
                if evidence.is_strong() {
                    let (a, b) = (segment.golden[i].key.clone(), segment.candidate[j].key.clone());
                    votes.golden.entry(a).or_default().entry(b).or_default().push(block);
                }
            }
        }
        votes
    }

    fn of_pair(&self, block: Option<usize>, a: &Item, b: &Item) -> f64 {
        let Some(block) = block.filter(|b| self.usual.contains(b)) else { return 0.0 };
        let Some(votes) = self.golden.get(&a.key) else { return 0.0 };
        let other = |blocks: &Vec<usize>| blocks.iter().filter(|&&b| b != block).count() as f64;
        let all: f64 = votes.values().map(other).sum();
        let own = votes.get(&b.key).map_or(0.0, other);
        if all == 0.0 { 0.0 } else { (2.0 * own - all) / all }
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
