//! Values packed side by side: their parts as items of their own, and as pairs of their own.

use std::collections::{BTreeMap, BTreeSet};

use super::{CLOSE, Item, Match, Matching, NOISE, Segment, key};
use crate::align::structure::families::Family;
use crate::align::structure::forms::Form;
use crate::align::structure::model::Model;
use crate::align::{sketch, view};

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
        (Some((start, len)), _) => Form::GoldenColumns { start, len },
        (_, Some((start, len))) if ranks > 1 => Form::RanksPack { start, len },
        (_, Some((start, len))) => Form::CandidateColumns { start, len },
        _ => form,
    }
}
