//! From a written name to records, or to an error that says what is there instead.

use std::collections::BTreeMap;
use std::path::Path;

use super::json::{self, Place};
use super::{names, nearest};
use crate::dump::{Dump, Role};
use crate::{Error, Result};

type StepAndRank = (Option<u64>, Option<u32>);

/// The names of one dump.
pub(super) struct Lookup<'a> {
    dump: &'a Dump,
    side: &'static str,
    /// The mapping file, for messages.
    file: &'a Path,
    nodes: BTreeMap<String, Vec<usize>>,
}

impl<'a> Lookup<'a> {
    pub(super) fn new(dump: &'a Dump, side: &'static str, file: &'a Path) -> Self {
        let mut nodes: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (i, record) in dump.records.iter().enumerate() {
            nodes.entry(spelling(&record.node, record.op_type.as_deref())).or_default().push(i);
        }
        Self { dump, side, file, nodes }
    }

    /// The records a place stands for, by step and rank.
    ///
    /// # Errors
    /// No such node, or no such tensor of it.
    pub(super) fn find(&self, place: &Place) -> Result<BTreeMap<StepAndRank, Vec<usize>>> {
        let Some(records) = self.nodes.get(&spelling(&place.node, None)) else {
            let near = nearest::to_name(&place.node, self.dump);
            let near = near.map_or_else(String::new, |near| format!("; the nearest name there is {near:?}"));
            let (node, side) = (&place.node, self.side);
            return Err(self.error(format!("node {node:?} of the mapping is not in the {side} dump{near}")));
        };
        let role = match &place.role {
            None => None,
            Some(name) => Some(json::role(name).ok_or_else(|| {
                self.error(format!(
                    "role {name:?} of node {:?}: expected input, output, param or tensor",
                    place.node
                ))
            })?),
        };
        let phase = place.phase.as_deref().and_then(json::phase);
        let mut found: BTreeMap<_, Vec<usize>> = BTreeMap::new();
        for &i in records {
            let r = &self.dump.records[i];
            let role_fits = role.map_or(matches!(r.role, Role::Output | Role::Other), |role| r.role == role);
            let slot_fits = place
                .slot
                .as_deref()
                .is_none_or(|slot| names::canonical_slot(slot) == names::canonical_slot(&r.slot));
            let fits = role_fits
                && slot_fits
                && r.call == place.call
                && place.step.is_none_or(|step| r.step == Some(step))
                && place.rank.is_none_or(|rank| r.rank == Some(rank))
                && phase.map_or(!r.is_stale(), |phase| r.phase == Some(phase));
            if fits {
                found.entry((r.step, r.rank)).or_default().push(i);
            }
        }
        if found.is_empty() {
            let there: Vec<String> = records.iter().take(6).map(|&i| self.describe(i)).collect();
            return Err(self.error(format!(
                "the mapping asks for {} of the {} dump, which has {}",
                describe_place(place),
                self.side,
                there.join(", ")
            )));
        }
        Ok(found)
    }

    fn describe(&self, record: usize) -> String {
        let r = &self.dump.records[record];
        let step = r.step.map_or_else(String::new, |s| format!(" at step {s}"));
        format!("{} {}{step}", r.role.name(), r.slot)
    }

    fn error(&self, what: String) -> Error {
        Error::not_found(self.file, what)
    }
}

fn spelling(node: &str, op_type: Option<&str>) -> String {
    names::normalise(node, op_type).name
}

fn describe_place(place: &Place) -> String {
    let role = place.role.as_deref().unwrap_or("output");
    let slot = place.slot.as_deref().map_or_else(String::new, |slot| format!(" {slot}"));
    let step = place.step.map_or_else(String::new, |step| format!(" at step {step}"));
    let call = if place.call == 0 { String::new() } else { format!(" call {}", place.call) };
    format!("{role}{slot} of {:?}{call}{step}", place.node)
}
