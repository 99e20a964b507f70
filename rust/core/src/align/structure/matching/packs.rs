//! Values packed side by side: their parts as items of their own, and as pairs of their own.

use std::collections::{BTreeMap, BTreeSet};

use super::segments::Cut;
use super::{CLOSE, Item, Match, Matching, NOISE, Segment, key};
use crate::align::structure::families::Family;
use crate::align::structure::forms::Form;
use crate::align::structure::model::Model;
use crate::align::{sketch, view};

/// Most groups that a pack is taken apart into.
const MOST_GROUPS: u64 = 128;

/// For each number of rows: by what they read, the width and item of each operation's output.
type Siblings<'i> = BTreeMap<u64, BTreeMap<Vec<usize>, Vec<(u64, &'i Item)>>>;

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl Matching<'_> {
    /// Adds the parts of packs as items of their own where nothing behind the pack splits it.
    pub(super) fn cut_packs(&self, segment: &mut Segment) {
        let golden = self.cuts(&segment.golden, &segment.candidate, true);
        let candidate = self.cuts(&segment.candidate, &segment.golden, false);
        segment.golden.extend(golden);
        segment.candidate.extend(candidate);
    }

    fn cuts(&self, packs: &[Item], parts: &[Item], is_golden: bool) -> Vec<Item> {
        let (model, other) =
            if is_golden { (self.golden, self.candidate) } else { (self.candidate, self.golden) };
        let siblings = self.siblings(parts, other, is_golden);
        let mut found = Vec::new();
        for pack in packs {
            let Some(info) = &pack.info else { continue };
            let Some(&cols) = info.shape.last() else { continue };
            let mut cuts: BTreeSet<Cut> = BTreeSet::new();
            let back = self.tied_back.get(&pack.value).into_iter().flatten();
            let own = self.tied.get(&pack.value).into_iter().flatten();
            let ties: Vec<Form> = if is_golden {
                own.map(|t| t.1).collect()
            } else {
                back.flat_map(|g| &self.tied[g]).filter(|t| t.0 == pack.value).map(|t| t.1).collect()
            };
            for form in ties {
                match form {
                    Form::CandidateColumns { start, len } | Form::RanksPack { start, len } if !is_golden => {
                        cuts.insert(Cut::plain(start, len));
                    }
                    Form::GoldenColumns { start, len } if is_golden => {
                        cuts.insert(Cut::plain(start, len));
                    }
                    _ => {}
                }
            }
            let may_be_pack = model
                .unit_of(pack.value)
                .is_none_or(|u| !u.is_container && matches!(u.family, Family::Linear | Family::Unknown));
            let covered: u64 = cuts.iter().map(|c| c.len).sum();
            if covered < cols && may_be_pack && split_child(model, pack.value, 0).is_none() {
                let free = |cut: &Cut| {
                    cuts.is_empty()
                        || (cut.groups == 1
                            && cuts
                                .iter()
                                .all(|c| c.start + c.len <= cut.start || cut.start + cut.len <= c.start))
                };
                let guessed = self.guess_cuts(pack, cols, &siblings, is_golden);
                let guessed: Vec<Cut> = guessed.into_iter().filter(free).collect();
                cuts.extend(guessed);
            }
            for cut in cuts {
                found.extend(self.cut(pack, cut, is_golden));
            }
        }
        found
    }

    /// What may be parts of packs: outputs of linear operations that read one value, by their rows; with the width each
    /// has in the pack.
    fn siblings<'i>(&self, parts: &'i [Item], model: &Model, is_golden: bool) -> Siblings<'i> {
        // A rank's pack holds its share of each part. Of ranks' shares no golden tensor is made here.
        let ranks = if is_golden { 1 } else { self.ranks };
        let mut siblings = Siblings::new();
        if is_golden && self.ranks > 1 {
            return siblings;
        }
        for part in parts.iter().filter(|p| p.cut.is_none()) {
            let family = model.unit_of(part.value).filter(|u| !u.is_container).map(|u| u.family);
            let fits = matches!(family, Some(Family::Linear | Family::Unknown | Family::Split));
            let Some(info) = part.info.as_ref().filter(|_| fits) else { continue };
            let width = info.shape.last().copied().unwrap_or(1);
            if width > 0 && width.is_multiple_of(ranks) {
                let parents =
                    model.values[part.value].parents.iter().copied().filter(|&v| !model.values[v].is_weight);
                let rows = siblings.entry(info.numel() / width).or_default();
                rows.entry(parents.collect()).or_default().push((width / ranks, part));
            }
        }
        siblings
    }

    /// Parts of a pack by the widths of operations on the other side that read one value.
    fn guess_cuts(&self, pack: &Item, cols: u64, siblings: &Siblings, is_golden: bool) -> Vec<Cut> {
        let rows = pack.info.as_ref().map_or(0, |i| i.numel() / cols.max(1));
        let Some(siblings) = siblings.get(&rows) else { return Vec::new() };
        // Widths may add up by chance; they count only for what is known to be a linear operation.
        let model = if is_golden { self.golden } else { self.candidate };
        let is_known = model.unit_of(pack.value).is_some_and(|u| u.family == Family::Linear);
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
        let all = siblings.values().flatten().filter(|(len, _)| *len < cols);
        all.filter_map(|&(len, part)| {
            let starts = BTreeSet::from([0, len, cols - len]);
            starts.into_iter().filter(|s| s + len <= cols).map(|s| Cut::plain(s, len)).find(|&cut| {
                self.cut_distance(pack, cut, part, is_golden).is_some_and(|distance| distance < CLOSE)
            })
        })
        .collect()
    }

    /// Distance of content between a part of a pack and what it may be.
    fn cut_distance(&self, pack: &Item, cut: Cut, part: &Item, is_golden: bool) -> Option<f64> {
        pack.sketch.as_ref()?;
        let item = self.cut(pack, cut, is_golden)?;
        Some(1.0 - sketch::likeness(item.sketch.as_ref()?, part.sketch.as_ref()?)?)
    }

    /// The order of parts in a pack that their content speaks for; as they come where it does not and that may be.
    fn best_order(
        &self,
        pack: &Item,
        parts: &[(u64, &Item)],
        is_golden: bool,
        is_known: bool,
    ) -> Option<Vec<Cut>> {
        let orders: &[&[usize]] = match parts.len() {
            3 => &[&[0, 1, 2], &[0, 2, 1], &[1, 0, 2], &[1, 2, 0], &[2, 0, 1], &[2, 1, 0]],
            _ => &[&[0, 1], &[1, 0]],
        };
        let cuts = |order: &[usize], groups: u64| {
            let mut at = 0;
            let of = |&k: &usize| {
                let len = parts[k].0 / groups;
                at += len;
                (k, Cut { groups, start: at - len, len })
            };
            order.iter().map(of).collect::<Vec<_>>()
        };
        let cost = |order: &[usize], groups: u64| -> f64 {
            let apart =
                |(k, cut): (usize, Cut)| self.cut_distance(pack, cut, parts[k].1, is_golden).unwrap_or(1.0);
            cuts(order, groups).into_iter().map(apart).sum()
        };
        let best = |groups: u64| {
            let costs = orders.iter().map(|o| (cost(o, groups), *o));
            costs.min_by(|a, b| a.0.total_cmp(&b.0)).filter(|(c, _)| *c < NOISE * parts.len() as f64)
        };
        let only =
            |order: &[usize], groups: u64| cuts(order, groups).into_iter().map(|(_, cut)| cut).collect();
        if let Some((_, order)) = best(1) {
            return Some(only(order, 1));
        }
        if self.ranks == 1 && pack.sketch.is_some() && parts.iter().all(|p| p.1.sketch.is_some()) {
            // Each group of heads has its part of each.
            let whole = parts.iter().map(|p| p.0).fold(0, gcd);
            let found = (2..=whole.min(MOST_GROUPS))
                .filter(|g| whole.is_multiple_of(*g))
                .filter_map(|groups| best(groups).map(|(cost, order)| (cost, order, groups)));
            if let Some((_, order, groups)) = found.min_by(|a, b| a.0.total_cmp(&b.0)) {
                return Some(only(order, groups));
            }
        }
        is_known.then(|| only(orders[0], 1))
    }

    /// A part of a pack as an item; of several ranks, of all of them together.
    fn cut(&self, pack: &Item, cut: Cut, is_golden: bool) -> Option<Item> {
        let Cut { groups, start, len } = cut;
        let model = if is_golden { self.golden } else { self.candidate };
        let value = &model.values[pack.value];
        let place = value.producer.or(value.places.first().copied())?;
        let mut info = pack.info.clone()?;
        let ranks = if is_golden { 1 } else { self.ranks };
        *info.shape.last_mut()? = len * groups * ranks;
        let read = || {
            let shape = info.shape.clone();
            let (tensors, form) = if ranks > 1 {
                (self.rank_tensors(place, true)?, Form::RanksPack { start, len })
            } else {
                (vec![model.dump.tensor(model.places[place].record).ok()?], cut.of_candidate())
            };
            let (_, steps) = form.transforms(&shape, &tensors.first()?.info.shape)?;
            let tensor = view::apply(tensors, &steps).ok()?;
            sketch::read(&tensor, &sketch::positions(tensor.info.numel()))
        };
        let sketch = read();
        let cut = Some(cut);
        Some(Item { value: pack.value, key: key(model, pack.value, cut), cut, info: Some(info), sketch })
    }

    /// A pack without a partner whose parts have one: each part is a pair of its own.
    pub(super) fn packs(&self, matches: &mut Vec<Match>) {
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
                        let Some(cut) = self.part_of_pack(&m, v, Cut::plain(start, len), is_golden) else {
                            continue;
                        };
                        if is_golden {
                            (m.golden, m.form) = (v, cut.of_golden());
                        } else {
                            (m.candidate, m.form) = (v, cut.of_candidate());
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

impl Matching<'_> {
    /// How a matched part lies in the pack it was split from, which its content may say; else one behind the other.
    fn part_of_pack(&self, m: &Match, pack: usize, plain: Cut, is_golden: bool) -> Option<Cut> {
        let distance = |cut: Cut| {
            if is_golden {
                self.joined_distance(pack, m.candidate, cut.of_golden())
            } else {
                self.joined_distance(m.golden, pack, cut.of_candidate())
            }
        };
        let agrees = self.joined_distance(m.golden, m.candidate, m.form).is_some_and(|d| d < CLOSE);
        if !agrees || distance(plain).is_none_or(|d| d < NOISE) {
            return Some(plain);
        }
        // The split parted each group of heads.
        let model = if is_golden { self.golden } else { self.candidate };
        let cols = *model.shape(pack)?.last()?;
        (2..=gcd(plain.len, cols).min(MOST_GROUPS))
            .filter(|g| {
                plain.len.is_multiple_of(*g) && plain.start.is_multiple_of(*g) && cols.is_multiple_of(*g)
            })
            .map(|groups| Cut { groups, start: plain.start / groups, len: plain.len / groups })
            .find(|&cut| distance(cut).is_some_and(|d| d < CLOSE))
    }
}

/// The value that an operation cuts out of a pack from one column on.
pub(super) fn split_child(model: &Model, pack: usize, start: u64) -> Option<usize> {
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

/// The form of two items of which one is a part.
pub(super) fn with_cut(form: Form, a: &Item, b: &Item, ranks: u64) -> Form {
    match (a.cut, b.cut) {
        (Some(cut), _) => cut.of_golden(),
        (_, Some(Cut { start, len, .. })) if ranks > 1 => Form::RanksPack { start, len },
        (_, Some(cut)) => cut.of_candidate(),
        _ => form,
    }
}
