//! What is matched among each other: the values of two blocks, or a stretch of two runs without blocks.

use std::collections::{BTreeMap, BTreeSet};

use super::{FULL, Matching, windows};
use crate::TensorInfo;
use crate::align::sketch;
use crate::align::structure::blocks;
use crate::align::structure::evidence::Evidence;
use crate::align::structure::forms::Form;
use crate::align::structure::model::{Model, tells_apart};

/// A part of a tensor's last axis, or of each of equal groups of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Cut {
    pub(super) groups: u64,
    /// First column within a group.
    pub(super) start: u64,
    /// Columns within a group.
    pub(super) len: u64,
}

impl Cut {
    pub(super) fn plain(start: u64, len: u64) -> Self {
        Self { groups: 1, start, len }
    }

    pub(super) fn of_candidate(self) -> Form {
        let Self { groups, start, len } = self;
        if groups == 1 {
            Form::CandidateColumns { start, len }
        } else {
            Form::CandidateGroups { groups, start, len }
        }
    }

    pub(super) fn of_golden(self) -> Form {
        let Self { groups, start, len } = self;
        if groups == 1 {
            Form::GoldenColumns { start, len }
        } else {
            Form::GoldenGroups { groups, start, len }
        }
    }
}

/// A value, or a part of its last axis.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) value: usize,
    /// What it is called in every block alike.
    pub(super) key: String,
    pub(super) cut: Option<Cut>,
    pub(super) info: Option<TensorInfo>,
    pub(super) sketch: Option<Vec<f64>>,
}

/// What two items have of their own, whatever is matched around them.
pub(super) struct Known {
    /// Their places in the segment's lists.
    pub(super) at: (usize, usize),
    pub(super) evidence: Evidence,
    pub(super) form: Form,
    pub(super) distance: Option<f64>,
}

/// Items of both sides that are matched among each other.
pub(super) struct Segment {
    pub(super) golden: Vec<Item>,
    pub(super) candidate: Vec<Item>,
    /// The number of the golden block; `None` outside blocks.
    pub(super) block: Option<usize>,
    /// The number of the candidate's.
    pub(super) partner: Option<usize>,
    /// Whether something tells that the two blocks are the same one.
    pub(super) is_certain: bool,
    /// Distance of content between the same values, where it can be told.
    pub(super) noise: Option<f64>,
    /// Pairs of items that may be the same value, in order.
    pub(super) known: Vec<Known>,
    pub(super) chosen: Vec<Option<usize>>,
}

impl Segment {
    pub(super) fn new(golden: Vec<Item>, candidate: Vec<Item>, block: Option<usize>) -> Self {
        Self {
            golden,
            candidate,
            block,
            partner: None,
            is_certain: true,
            noise: None,
            known: Vec::new(),
            chosen: Vec::new(),
        }
    }

    /// Whether it has too many pairs to look at each.
    pub(super) fn is_huge(&self) -> bool {
        self.golden.len() * self.candidate.len() > FULL
    }

    pub(super) fn known(&self, i: usize, j: usize) -> Option<&Known> {
        self.known.binary_search_by_key(&(i, j), |k| k.at).ok().map(|k| &self.known[k])
    }
}

impl Matching<'_> {
    /// Items of each pair of blocks, then of what is outside.
    pub(super) fn segments(&mut self) -> Vec<Segment> {
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
            return self.in_windows(segments);
        }
        let (own, other) = (reach(self.golden), reach(self.candidate));
        for (b, pair) in pairs.iter().enumerate() {
            let Some(p) = *pair else { continue };
            let golden = items(self.golden, |v| own[v].contains(&Some(b)));
            let candidate = items(self.candidate, |v| other[v].contains(&Some(p)));
            let mut segment = Segment::new(golden, candidate, Some(b));
            segment.partner = Some(p);
            segment.is_certain = certain[b];
            segments.push(segment);
        }
        let golden = items(self.golden, |v| own[v].contains(&None));
        let candidate = items(self.candidate, |v| other[v].contains(&None));
        segments.push(Segment::new(golden, candidate, None));
        self.in_windows(segments)
    }

    /// Huge segments in pieces, where something tells which pieces belong together.
    fn in_windows(&self, segments: Vec<Segment>) -> Vec<Segment> {
        let mut pieces = Vec::with_capacity(segments.len());
        for segment in segments {
            if !segment.is_huge() {
                pieces.push(segment);
                continue;
            }
            let landmarks = self.landmarks(&segment.golden, &segment.candidate);
            let cuts = windows::cuts(&landmarks);
            let (mut golden, mut candidate) = (segment.golden.into_iter(), segment.candidate.into_iter());
            let (mut i, mut j) = (0, 0);
            let ends = cuts.into_iter().chain([(usize::MAX, usize::MAX)]);
            for (to_i, to_j) in ends {
                let own = golden.by_ref().take(to_i - i).collect();
                let other = candidate.by_ref().take(to_j - j).collect();
                pieces.push(Segment {
                    partner: segment.partner,
                    is_certain: segment.is_certain,
                    ..Segment::new(own, other, segment.block)
                });
                (i, j) = (to_i, to_j);
            }
        }
        pieces
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
}

pub(super) fn items(model: &Model, wanted: impl Fn(usize) -> bool) -> Vec<Item> {
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

/// What a value, or a part of it, is called in every block alike.
pub(super) fn key(model: &Model, value: usize, cut: Option<Cut>) -> String {
    let v = &model.values[value];
    let name = v.producer.or(v.places.first().copied()).map(|p| {
        let place = &model.places[p];
        format!("{}#{}{}", model.units[place.unit].local, place.role.name(), place.slot)
    });
    format!("{}{cut:?}", name.unwrap_or_default())
}
