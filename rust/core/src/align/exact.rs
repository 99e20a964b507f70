//! Dumps whose names correspond: one model recorded twice, whatever the layouts.

use std::collections::{BTreeMap, BTreeSet};

use super::{Alignment, Pair, Side, Steps, names, steps};
use crate::dump::{Dump, Phase, Role, TensorRecord};

/// A prefix of names is taken for what one side adds when so many more nodes match without it.
const PREFIX_GAIN: f64 = 0.3;
/// Parts of a name that are tried as such a prefix.
const PREFIX_PARTS: usize = 4;

/// A record's place with its name in the common spelling.
struct Place {
    node: String,
    call: u32,
}

/// The nodes of both sides under one name.
pub(super) struct Names {
    golden: Vec<Place>,
    candidate: Vec<Place>,
    /// What was changed to make names meet, in words.
    pub(super) notes: Vec<String>,
    /// Confidence that equal names now mean equal nodes.
    certainty: f32,
}

/// Pairs records of equal name, role, slot and step.
pub(super) fn align(golden: &Dump, candidate: &Dump) -> Alignment {
    let mut alignment = Alignment::default();
    if let ([_], [_]) = (golden.records.as_slice(), candidate.records.as_slice()) {
        let only = ("the only tensor of each side", 1.0);
        alignment.pairs.push(pair(0, 0, only.1, &[only.0]));
        return alignment;
    }
    let names = meet(golden, candidate);
    let anchors = anchors(golden, candidate, &names);
    alignment.steps = steps::find(golden, candidate, &anchors, true);
    let ranks = ranks(golden, candidate, &mut alignment.notes);
    step_notes(&alignment.steps, golden, candidate, &mut alignment.notes);
    alignment.notes.extend(names.notes.iter().cloned());

    let groups = |dump: &Dump, places: &[Place]| {
        let mut groups: BTreeMap<(String, Role), Vec<usize>> = BTreeMap::new();
        for (i, (record, place)) in dump.records.iter().zip(places).enumerate() {
            groups.entry((place.node.clone(), record.role)).or_default().push(i);
        }
        groups
    };
    let other = groups(candidate, &names.candidate);
    for (key, own) in groups(golden, &names.golden) {
        let Some(theirs) = other.get(&key) else { continue };
        let found = if key.1 == Role::Param {
            weights(golden, candidate, &own, theirs)
        } else {
            let group = Group { golden, candidate, names: &names };
            group.pairs(&own, theirs, &alignment.steps, &ranks)
        };
        alignment.pairs.extend(found);
    }
    alignment
}

fn pair(golden: usize, candidate: usize, confidence: f32, evidence: &[&str]) -> Pair {
    Pair {
        golden: Side::plain(golden),
        candidate: Side::plain(candidate),
        confidence,
        evidence: evidence.iter().map(|e| (*e).to_owned()).collect(),
    }
}

/// Spells both sides' names alike.
pub(super) fn meet(golden: &Dump, candidate: &Dump) -> Names {
    let mut names =
        Names { golden: places(golden), candidate: places(candidate), notes: Vec::new(), certainty: 1.0 };
    let own: BTreeSet<&str> = names.golden.iter().map(|p| p.node.as_str()).collect();
    let other: BTreeSet<&str> = names.candidate.iter().map(|p| p.node.as_str()).collect();
    let equal = own.intersection(&other).count();
    let possible = own.len().min(other.len());
    if equal * 2 >= possible.max(1) {
        return names;
    }
    if let Some(shift) = id_shift(&own, &other, equal) {
        names.notes.push(format!("ids of the candidate's operators are shifted by {shift}"));
        for place in &mut names.candidate {
            place.node = shift_id(&place.node, -shift);
        }
        names.certainty = 0.9;
        return names;
    }
    let strip_own = best_prefix(&own, &other, equal, possible).map(str::to_owned);
    let strip_other = best_prefix(&other, &own, equal, possible).map(str::to_owned);
    for (prefix, side, places) in
        [(strip_own, "golden", &mut names.golden), (strip_other, "candidate", &mut names.candidate)]
    {
        let Some(prefix) = prefix else { continue };
        names.notes.push(format!("the {side} names begin with {prefix:?}, which the other side's lack"));
        for place in places.iter_mut() {
            if let Some(rest) = without(&place.node, &prefix) {
                place.node = rest.to_owned();
            }
        }
        names.certainty = 0.95;
    }
    names
}

fn places(dump: &Dump) -> Vec<Place> {
    dump.records
        .iter()
        .map(|record| {
            let normal = names::normalise(&record.node, record.op_type.as_deref());
            Place { node: normal.name, call: normal.call.unwrap_or(record.call) }
        })
        .collect()
}

fn without<'a>(name: &'a str, prefix: &str) -> Option<&'a str> {
    let rest = name.strip_prefix(prefix)?;
    if rest.is_empty() { Some(rest) } else { rest.strip_prefix(['.', '/']) }
}

/// The prefix of `own` names without which clearly more of them are names of `other`.
fn best_prefix<'a>(
    own: &BTreeSet<&'a str>,
    other: &BTreeSet<&str>,
    equal: usize,
    possible: usize,
) -> Option<&'a str> {
    let mut gains: BTreeMap<&str, usize> = BTreeMap::new();
    for name in own {
        let ends = name.match_indices(['.', '/']).take(PREFIX_PARTS);
        for (end, _) in ends {
            if other.contains(&name[end + 1..]) {
                *gains.entry(&name[..end]).or_default() += 1;
            }
        }
    }
    let (prefix, gain) = gains.into_iter().max_by_key(|&(prefix, gain)| (gain, std::cmp::Reverse(prefix)))?;
    (gain as f64 >= equal as f64 + PREFIX_GAIN * possible as f64).then_some(prefix)
}

/// ATB numbers all operators of a process, so an extra one before the model moves every id.
fn id_shift(own: &BTreeSet<&str>, other: &BTreeSet<&str>, equal: usize) -> Option<i64> {
    let first =
        |name: &str| names::atb_part(name.split('/').next()?).map(|(id, n)| (n.to_owned(), id.cast_signed()));
    let mut ids: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for (name, id) in other.iter().filter(|n| names::is_atb(n)).filter_map(|n| first(n)) {
        ids.entry(name).or_default().push(id);
    }
    for all in ids.values_mut() {
        all.sort_unstable();
        all.dedup();
    }
    let mut votes: BTreeMap<i64, usize> = BTreeMap::new();
    let tops: BTreeSet<(String, i64)> =
        own.iter().filter(|n| names::is_atb(n)).filter_map(|n| first(n)).collect();
    for (name, id) in &tops {
        for other in ids.get(name).into_iter().flatten() {
            *votes.entry(other - id).or_default() += 1;
        }
    }
    let mut shifts: Vec<(i64, usize)> = votes.into_iter().filter(|&(s, _)| s != 0).collect();
    shifts.sort_by_key(|&(shift, n)| (std::cmp::Reverse(n), shift.unsigned_abs(), shift));
    let (best, matches) = shifts.first().map(|&(shift, _)| {
        (shift, own.iter().filter(|n| other.contains(shift_id(n, shift).as_str())).count())
    })?;
    (matches > equal && matches * 2 >= own.len().min(other.len())).then_some(best)
}

fn shift_id(name: &str, shift: i64) -> String {
    let (top, rest) = name.split_once('/').map_or((name, None), |(top, rest)| (top, Some(rest)));
    let Some((id, op)) = names::atb_part(top) else { return name.to_owned() };
    let Some(id) = id.checked_add_signed(shift) else { return name.to_owned() };
    rest.map_or_else(|| format!("{id}_{op}"), |rest| format!("{id}_{op}/{rest}"))
}

/// One output of each node that both sides have, by step: what the search for a step shift looks at.
fn anchors(golden: &Dump, candidate: &Dump, names: &Names) -> Vec<steps::Anchor> {
    let first = |dump: &Dump, places: &[Place]| {
        let mut nodes: BTreeMap<String, BTreeMap<u64, usize>> = BTreeMap::new();
        let rank = dump.records.iter().filter_map(|r| r.rank).min();
        for (i, (record, place)) in dump.records.iter().zip(places).enumerate() {
            let plain = matches!(record.role, Role::Output | Role::Other) && !record.is_stale();
            if let (Some(step), true) = (record.step, plain && record.rank == rank && place.call == 0) {
                nodes.entry(place.node.clone()).or_default().entry(step).or_insert(i);
            }
        }
        nodes
    };
    let mut other = first(candidate, &names.candidate);
    let own = first(golden, &names.golden);
    own.into_iter()
        .filter_map(|(node, golden)| Some(steps::Anchor { golden, candidate: other.remove(&node)? }))
        .collect()
}

/// Golden rank to candidate rank.
fn ranks(golden: &Dump, candidate: &Dump, notes: &mut Vec<String>) -> BTreeMap<Option<u32>, Option<u32>> {
    let ranks = |dump: &Dump| dump.records.iter().map(|r| r.rank).collect::<BTreeSet<_>>();
    let (own, other) = (ranks(golden), ranks(candidate));
    let text = |ranks: &BTreeSet<Option<u32>>| {
        ranks.iter().flatten().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    let common: BTreeMap<_, _> = own.intersection(&other).map(|&r| (r, r)).collect();
    if own == other {
        return common;
    }
    if own.len() == other.len() || common.is_empty() {
        // Renumbered ranks keep their order; a side without ranks is the other's first.
        let map: BTreeMap<_, _> = own.iter().copied().zip(other.iter().copied()).collect();
        if own.len() > 1 || other.len() > 1 {
            notes.push(format!("ranks {} are compared with ranks {}", text(&own), text(&other)));
        }
        return map;
    }
    notes.push(format!(
        "golden has ranks {}, the candidate {}: common ones are compared",
        text(&own),
        text(&other)
    ));
    common
}

fn step_notes(steps: &Steps, golden: &Dump, candidate: &Dump, notes: &mut Vec<String>) {
    if steps.shift != 0 {
        notes.push(format!("golden step n is the candidate's step n{:+} ({})", steps.shift, steps.evidence));
    }
    let count = |dump: &Dump| dump.records.iter().filter_map(|r| r.step).collect::<BTreeSet<_>>().len();
    let (own, other) = (count(golden), count(candidate));
    let paired = steps.pairs.iter().filter(|(g, c)| g.is_some() || c.is_some()).count();
    if own.max(other) > paired {
        notes.push(format!("{paired} steps are on both sides; golden has {own}, the candidate {other}"));
    }
}

/// Weights don't belong to a step: each is paired once.
fn weights(golden: &Dump, candidate: &Dump, own: &[usize], theirs: &[usize]) -> Vec<Pair> {
    let mut by_slot: BTreeMap<(Option<u32>, &str), usize> = BTreeMap::new();
    for &i in theirs {
        let record = &candidate.records[i];
        by_slot.entry((record.rank, record.slot.as_str())).or_insert(i);
    }
    let mut done = BTreeSet::new();
    own.iter()
        .filter_map(|&g| {
            let record = &golden.records[g];
            let key = (record.rank, record.slot.as_str());
            let any_rank = || by_slot.iter().find(|((_, slot), _)| *slot == key.1).map(|(_, &c)| c);
            let c = by_slot.get(&key).copied().or_else(any_rank)?;
            done.insert(key).then(|| pair(g, c, 1.0, &["name"]))
        })
        .collect()
}

struct Group<'a> {
    golden: &'a Dump,
    candidate: &'a Dump,
    names: &'a Names,
}

/// Records of one node and role that were taken in one pass.
type Passes = BTreeMap<(Option<u64>, Option<u32>, u32), Vec<usize>>;

impl Group<'_> {
    /// Pairs the records of one node and role, pass by pass.
    fn pairs(
        &self,
        own: &[usize],
        theirs: &[usize],
        steps: &Steps,
        ranks: &BTreeMap<Option<u32>, Option<u32>>,
    ) -> Vec<Pair> {
        let passes = |dump: &Dump, places: &[Place], records: &[usize]| {
            let mut passes = Passes::new();
            for &i in records {
                let record = &dump.records[i];
                passes.entry((record.step, record.rank, places[i].call)).or_default().push(i);
            }
            passes
        };
        let to: BTreeMap<Option<u64>, Option<u64>> = steps.pairs.iter().copied().collect();
        let theirs = passes(self.candidate, &self.names.candidate, theirs);
        let mut found = Vec::new();
        for ((step, rank, call), own) in passes(self.golden, &self.names.golden, own) {
            let (Some(&step), Some(&rank)) = (to.get(&step), ranks.get(&rank)) else { continue };
            if let Some(theirs) = theirs.get(&(step, rank, call)) {
                self.slots(own, theirs.clone(), &mut found);
            }
        }
        found
    }

    /// Pairs by slot and phase; what is left over by slot, then by position.
    fn slots(&self, mut own: Vec<usize>, mut theirs: Vec<usize>, found: &mut Vec<Pair>) {
        let certainty = self.names.certainty;
        let key = |r: &TensorRecord| (names::canonical_slot(&r.slot).to_owned(), effective_phase(r));
        self.take(&mut own, &mut theirs, found, certainty, &["name", "slot"], key);
        let key = |r: &TensorRecord| names::canonical_slot(&r.slot).to_owned();
        self.take(
            &mut own,
            &mut theirs,
            found,
            certainty * 0.8,
            &["name", "slot", "taken at another time"],
            key,
        );
        if own.is_empty() || theirs.is_empty() {
            return;
        }
        if own.len() == theirs.len() {
            for (&g, &c) in own.iter().zip(&theirs) {
                found.push(pair(g, c, certainty * 0.85, &["name", "position"]));
            }
            return;
        }
        // A flag or a cache that only one side recorded moves the positions: shapes tell what stayed.
        let shape = |dump: &Dump, i: usize| {
            let known = dump.records[i].info.as_ref().map(|info| info.shape.clone());
            known.or_else(|| dump.tensor(i).ok().map(|t| t.info.shape))
        };
        for g in own {
            let Some(wanted) = shape(self.golden, g) else { continue };
            if let Some(at) = theirs.iter().position(|&c| shape(self.candidate, c).as_ref() == Some(&wanted))
            {
                found.push(pair(g, theirs.remove(at), certainty * 0.65, &["name", "shape"]));
            }
        }
    }

    fn take<K: Ord>(
        &self,
        own: &mut Vec<usize>,
        theirs: &mut Vec<usize>,
        found: &mut Vec<Pair>,
        confidence: f32,
        evidence: &[&str],
        key: impl Fn(&TensorRecord) -> K,
    ) {
        let mut by_key: BTreeMap<K, Vec<usize>> = BTreeMap::new();
        for &c in theirs.iter().rev() {
            by_key.entry(key(&self.candidate.records[c])).or_default().push(c);
        }
        let mut taken = BTreeSet::new();
        own.retain(|&g| {
            let partner = by_key.get_mut(&key(&self.golden.records[g])).and_then(Vec::pop);
            if let Some(c) = partner {
                taken.insert(c);
                found.push(pair(g, c, confidence, evidence));
            }
            partner.is_none()
        });
        theirs.retain(|c| !taken.contains(c));
    }
}

/// Inputs are taken before and outputs after, unless the producer says otherwise.
fn effective_phase(record: &TensorRecord) -> Phase {
    record.phase.unwrap_or(if record.role == Role::Input { Phase::Before } else { Phase::After })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::dump::Location;

    fn dump(records: &[(&str, Role, &str, Option<u64>)]) -> Dump {
        let mut dump = Dump::new("native", Path::new("d"));
        for &(node, role, slot, step) in records {
            let record = TensorRecord::new(node, role, slot, Location::Nowhere);
            dump.records.push(TensorRecord { step, ..record });
        }
        dump
    }

    fn pairs(golden: &Dump, candidate: &Dump) -> Vec<(usize, usize)> {
        let mut pairs: Vec<_> = align(golden, candidate)
            .pairs
            .iter()
            .map(|p| (p.golden.records[0], p.candidate.records[0]))
            .collect();
        pairs.sort_unstable();
        pairs
    }

    #[test]
    fn producers_spell_one_model_differently() {
        let ait = dump(&[
            ("root.model.layers.0.mlp", Role::Input, "0", Some(0)),
            ("root.model.layers.0.mlp", Role::Output, "0", Some(0)),
            ("root", Role::Output, "0", Some(0)),
        ]);
        let msprobe = dump(&[
            ("Module.model.layers.0.mlp.Mlp.forward.0", Role::Output, "0.0", Some(0)),
            ("Module.model.layers.0.mlp.Mlp.forward.0", Role::Input, "kwargs.x", Some(0)),
            ("", Role::Output, "logits", Some(0)),
        ]);
        assert_eq!(pairs(&ait, &msprobe), [(0, 1), (1, 0), (2, 2)]);
    }

    #[test]
    fn a_prefix_of_one_side_is_found() {
        let inner = dump(&[("layers.0.mlp", Role::Output, "0", None), ("norm", Role::Output, "0", None)]);
        let outer = dump(&[
            ("model.norm", Role::Output, "0", None),
            ("model.layers.0.mlp", Role::Output, "0", None),
            ("lm_head", Role::Output, "0", None),
        ]);
        assert_eq!(pairs(&inner, &outer), [(0, 1), (1, 0)]);
        assert_eq!(pairs(&outer, &inner), [(0, 1), (1, 0)]);
    }

    #[test]
    fn shifted_operator_ids_are_found() {
        let own =
            dump(&[("0_Embed", Role::Output, "0", None), ("1_Layer/0_Linear", Role::Output, "0", None)]);
        let other =
            dump(&[("2_Embed", Role::Output, "0", None), ("3_Layer/0_Linear", Role::Output, "0", None)]);
        assert_eq!(pairs(&own, &other), [(0, 0), (1, 1)]);
    }

    #[test]
    fn stale_memory_meets_stale_memory_only() {
        let phase = |phase, mut dump: Dump| {
            dump.records[0].phase = Some(phase);
            dump
        };
        let one = |role| dump(&[("1_A", role, "0", None), ("2_B", Role::Output, "0", None)]);
        let own = phase(Phase::Before, one(Role::Output));
        let other = phase(Phase::After, one(Role::Output));
        let found = align(&own, &other).pairs;
        let weak = found.iter().find(|p| p.golden.records == [0]).unwrap();
        assert!(weak.confidence < 0.9, "{weak:?}");
    }

    #[test]
    fn weights_are_paired_once_whatever_the_step() {
        let own = dump(&[("a", Role::Param, "weight", None), ("a", Role::Output, "0", Some(0))]);
        let other = dump(&[
            ("a", Role::Param, "weight", Some(0)),
            ("a", Role::Param, "weight", Some(1)),
            ("a", Role::Output, "0", Some(0)),
        ]);
        assert_eq!(pairs(&own, &other), [(0, 0), (1, 2)]);
    }

    #[test]
    fn nothing_in_common_is_no_pair() {
        let own = dump(&[("a", Role::Output, "0", None), ("b", Role::Output, "0", None)]);
        let other = dump(&[("x", Role::Output, "0", None), ("y", Role::Output, "0", None)]);
        assert!(pairs(&own, &other).is_empty());
    }
}
