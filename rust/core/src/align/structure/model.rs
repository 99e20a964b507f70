//! One model of one run as the aligner sees it: its operations, and the values that flow between them.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;

use super::families::{self, Family};
use super::parts::Part;
use crate::align::{names, sketch};
use crate::dump::{Dump, Phase, Role, TensorRecord};
use crate::tensor::TensorInfo;

/// Step and rank of a record.
pub(super) type At = (Option<u64>, Option<u32>);

/// One call of an operation or module.
#[derive(Debug)]
pub(super) struct Unit {
    pub(super) node: String,
    /// Name in the common spelling.
    pub(super) name: String,
    pub(super) call: u32,
    /// The type's name as its producer spells it.
    pub(super) kind: String,
    pub(super) family: Family,
    /// What its name says it is for: `q`, `gate`.
    pub(super) role: Option<&'static str>,
    /// The repeated block it is in, counted in order.
    pub(super) block: Option<usize>,
    /// Its name within the block.
    pub(super) local: String,
    pub(super) is_container: bool,
}

/// Where a tensor is in the graph, whatever the step.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) unit: usize,
    pub(super) role: Role,
    pub(super) slot: String,
    /// The record at the step that the model was looked at.
    pub(super) record: usize,
    pub(super) value: usize,
}

/// One value: all places that hold the same tensor.
#[derive(Debug)]
pub(super) struct Value {
    pub(super) places: Vec<usize>,
    /// The place of the operation that computed it; `None` where only readers were recorded.
    pub(super) producer: Option<usize>,
    pub(super) info: Option<TensorInfo>,
    pub(super) sketch: Option<Vec<f64>>,
    pub(super) block: Option<usize>,
    /// Values that its producer read, and values computed from it.
    pub(super) parents: Vec<usize>,
    pub(super) children: Vec<usize>,
    /// Families of the operations that read it.
    pub(super) readers: BTreeSet<Family>,
    pub(super) is_weight: bool,
    /// Position in execution order.
    pub(super) order: usize,
}

/// The operations of one model at one step, and where their tensors are at all steps.
pub(super) struct Model<'a> {
    pub(super) dump: &'a Dump,
    pub(super) units: Vec<Unit>,
    pub(super) places: Vec<Place>,
    pub(super) values: Vec<Value>,
    /// Names of the repeated blocks.
    pub(super) blocks: Vec<String>,
    pub(super) rank: Option<u32>,
    pub(super) ranks: Vec<Option<u32>>,
    records: BTreeMap<(usize, At), usize>,
}

impl<'a> Model<'a> {
    /// Looks at a part of a dump at one of its steps.
    pub(super) fn new(dump: &'a Dump, part: &Part, step: Option<u64>) -> Self {
        let ranks: BTreeSet<Option<u32>> = part
            .records
            .iter()
            .map(|&i| &dump.records[i])
            .filter(|r| r.step == step && r.role != Role::Param)
            .map(|r| r.rank)
            .collect();
        let rank = ranks.first().copied().flatten();
        let mut model = Self {
            dump,
            units: Vec::new(),
            places: Vec::new(),
            values: Vec::new(),
            blocks: Vec::new(),
            rank,
            ranks: ranks.into_iter().collect(),
            records: BTreeMap::new(),
        };
        model.read_places(part, step);
        super::blocks::find(&mut model);
        let tensors = model.describe();
        model.join(&tensors);
        model.connect();
        model.settle_weights(part, step);
        model
    }

    /// The record of a place at a step and rank; weights belong to every step.
    pub(super) fn record(&self, place: usize, at: At) -> Option<usize> {
        let weights = (None, at.1);
        let is_param = self.places[place].role == Role::Param;
        self.records
            .get(&(place, at))
            .or_else(|| if is_param { self.records.get(&(place, weights)) } else { None })
            .copied()
            .or_else(|| is_param.then_some(self.places[place].record))
    }

    pub(super) fn shape(&self, value: usize) -> Option<&[u64]> {
        self.values[value].info.as_ref().map(|info| info.shape.as_slice())
    }

    pub(super) fn unit_of(&self, value: usize) -> Option<&Unit> {
        self.values[value].producer.map(|p| &self.units[self.places[p].unit])
    }

    fn read_places(&mut self, part: &Part, step: Option<u64>) {
        let graph: BTreeMap<&str, &crate::graph::Node> =
            self.dump.graph.iter().flat_map(|g| &g.nodes).map(|n| (n.name.as_str(), n)).collect();
        let mut units: BTreeMap<(&str, u32), usize> = BTreeMap::new();
        let mut known: BTreeMap<(usize, Role, String), usize> = BTreeMap::new();
        let mut wrong_phase: BTreeSet<(usize, At)> = BTreeSet::new();
        // First the step looked at, so that its order is the order of units.
        let (now, later): (Vec<usize>, Vec<usize>) = part.records.iter().partition(|&&i| {
            let r = &self.dump.records[i];
            r.role != Role::Param && r.step == step && r.rank == self.rank_of(r)
        });
        let is_now = now.len();
        for (n, &i) in now.iter().chain(&later).enumerate() {
            let r = &self.dump.records[i];
            if r.is_stale() {
                continue;
            }
            let key = (r.node.as_str(), r.call);
            let unit = match units.get(&key) {
                Some(&unit) => unit,
                None if n < is_now || r.role == Role::Param => {
                    // A weight belongs to the first call of its module, which may not have been recorded.
                    if r.role == Role::Param && !units.keys().any(|k| k.0 == r.node) && r.node.is_empty() {
                        continue;
                    }
                    let node = graph.get(r.node.as_str());
                    let op_type =
                        r.op_type.as_deref().or(node.map(|n| n.op_type.as_str())).unwrap_or_default();
                    let name = names::normalise(&r.node, r.op_type.as_deref()).name;
                    let last = name.rsplit(['.', '/']).next().unwrap_or_default();
                    let null = serde_json::Value::Null;
                    let mut family = families::of(op_type, node.map_or(&null, |n| &n.params));
                    if family == Family::Unknown {
                        family = families::of(last, &null);
                    }
                    // The linear operation of `LmHead` is the head.
                    let around = || name.rsplit('/').find_map(|p| families::role(names::atb_part(p)?.1));
                    let role = families::role(last).or_else(|| around().filter(|_| family == Family::Linear));
                    let unit = self.units.len();
                    self.units.push(Unit {
                        node: r.node.clone(),
                        role,
                        name,
                        call: r.call,
                        kind: op_type.to_owned(),
                        family,
                        block: None,
                        local: String::new(),
                        is_container: false,
                    });
                    units.insert(key, unit);
                    unit
                }
                None => continue,
            };
            let slot = names::canonical_slot(&r.slot).to_owned();
            let place = match known.get(&(unit, r.role, slot.clone())) {
                Some(&place) => place,
                None if n < is_now || r.role == Role::Param => {
                    known.insert((unit, r.role, slot.clone()), self.places.len());
                    self.places.push(Place { unit, role: r.role, slot, record: i, value: usize::MAX });
                    self.places.len() - 1
                }
                None => continue,
            };
            // Inputs are taken before and outputs after; the other reading is second choice.
            let at = (place, (r.step, r.rank));
            let is_wrong = r.phase.is_some_and(|p| (p == Phase::Before) != (r.role == Role::Input));
            if !self.records.contains_key(&at) || (wrong_phase.contains(&at) && !is_wrong) {
                self.records.insert(at, i);
                if is_wrong {
                    wrong_phase.insert(at);
                } else {
                    wrong_phase.remove(&at);
                }
                if (r.step == step && r.rank == self.rank_of(r)) && r.role != Role::Param {
                    self.places[place].record = i;
                }
            }
        }
        let names: BTreeSet<&str> = self.units.iter().map(|u| u.name.as_str()).collect();
        let mut outer: BTreeSet<String> = BTreeSet::new();
        for name in &names {
            for (end, _) in name.match_indices(['.', '/']) {
                outer.insert(name[..end].to_owned());
            }
        }
        let several = names.len() > 1;
        drop(names);
        for unit in &mut self.units {
            unit.is_container = outer.contains(&unit.name) || (unit.name.is_empty() && several);
        }
    }

    fn rank_of(&self, record: &TensorRecord) -> Option<u32> {
        if record.rank.is_none() { None } else { self.rank }
    }

    /// Dtype, shape and sketch of every place.
    fn describe(&self) -> Vec<(Option<TensorInfo>, Option<Vec<f64>>)> {
        self.places
            .par_iter()
            .map(|place| {
                let record = &self.dump.records[place.record];
                match self.dump.tensor(place.record) {
                    Ok(tensor) => {
                        let sketch = sketch::read(&tensor, &sketch::positions(tensor.info.numel()));
                        (Some(tensor.info), sketch)
                    }
                    Err(_) => (record.info.clone(), None),
                }
            })
            .collect()
    }

    /// Edges between values, and their order.
    fn connect(&mut self) {
        let mut reads: Vec<Vec<usize>> = vec![Vec::new(); self.units.len()];
        let mut writes: Vec<Vec<usize>> = vec![Vec::new(); self.units.len()];
        for place in &self.places {
            match place.role {
                Role::Input => reads[place.unit].push(place.value),
                Role::Output | Role::Other => writes[place.unit].push(place.value),
                Role::Param => {}
            }
        }
        for (u, unit) in self.units.iter().enumerate() {
            for &v in &reads[u] {
                if !unit.is_container {
                    self.values[v].readers.insert(unit.family);
                }
            }
            if unit.is_container {
                continue;
            }
            for &w in &writes[u] {
                for &v in reads[u].iter().filter(|&&v| v != w) {
                    if self.values[w].producer.is_some_and(|p| self.places[p].unit == u) {
                        self.values[w].parents.push(v);
                        self.values[v].children.push(w);
                    }
                }
            }
        }
        self.order();
    }

    /// Execution order where the dump tells it wrongly: after all parents, otherwise as recorded.
    fn order(&mut self) {
        let n = self.values.len();
        let recorded = |v: &Value| {
            let unit = v.producer.map(|p| self.places[p].unit);
            unit.or_else(|| v.places.iter().map(|&p| self.places[p].unit).min()).unwrap_or(0)
        };
        let key: Vec<(usize, bool)> =
            self.values.iter().map(|v| (recorded(v), v.producer.is_some())).collect();
        let mut waits: Vec<usize> = self.values.iter().map(|v| v.parents.len()).collect();
        let mut ready: BTreeSet<((usize, bool), usize)> =
            (0..n).filter(|&v| waits[v] == 0).map(|v| (key[v], v)).collect();
        let mut done = vec![false; n];
        let mut next = 0;
        while next < n {
            // A circle of copies is broken at its first value.
            let v = match ready.pop_first() {
                Some((_, v)) => v,
                None => (0..n).find(|&v| !done[v]).unwrap_or(0),
            };
            if done[v] {
                continue;
            }
            done[v] = true;
            self.values[v].order = next;
            next += 1;
            for i in 0..self.values[v].children.len() {
                let child = self.values[v].children[i];
                waits[child] = waits[child].saturating_sub(1);
                if waits[child] == 0 && !done[child] {
                    ready.insert((key[child], child));
                }
            }
        }
    }

    /// Inputs that nothing computed and that are the same at every step are weights.
    fn settle_weights(&mut self, part: &Part, step: Option<u64>) {
        let tokens = self.tokens();
        let other = part.steps.iter().copied().find(|&s| s != step);
        let constant: Vec<Option<bool>> = (0..self.values.len())
            .into_par_iter()
            .map(|v| {
                let value = &self.values[v];
                let place = *value.places.first()?;
                let again = self.record(place, (other?, self.rank))?;
                let tensor = self.dump.tensor(again).ok()?;
                let sketch = sketch::read(&tensor, &sketch::positions(tensor.info.numel()))?;
                Some(Some(&sketch) == value.sketch.as_ref())
            })
            .collect();
        for (v, constant) in constant.into_iter().enumerate() {
            let value = &self.values[v];
            let (Some(info), None) = (&value.info, value.producer) else { continue };
            let is_nz = info.acl_format == Some(super::weights::FRACTAL_NZ);
            if value.is_weight || !(matches!(info.shape.len(), 1 | 2) || is_nz) {
                continue;
            }
            let as_weight = value.places.iter().all(|&p| {
                let place = &self.places[p];
                let family = self.units[place.unit].family;
                let first = place.slot == "0";
                place.role == Role::Input
                    && match family {
                        Family::Linear | Family::Norm | Family::AddNorm => {
                            !first || self.units[place.unit].is_container
                        }
                        Family::Embedding | Family::Unknown => true,
                        _ => self.units[place.unit].is_container,
                    }
            });
            let is_float = info.dtype.is_float() || info.dtype == crate::DType::Int8;
            let by_shape = info.shape.len() == 1 || Some(info.shape[0]) != tokens;
            let is_constant = constant.unwrap_or(by_shape);
            self.values[v].is_weight = as_weight && is_float && is_constant;
        }
    }

    /// Rows of most values: the tokens of the pass.
    pub(super) fn tokens(&self) -> Option<u64> {
        let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
        for value in self.values.iter().filter(|v| v.producer.is_some()) {
            if let Some(info) = value.info.as_ref().filter(|i| i.shape.len() > 1) {
                let rows = info.shape[..info.shape.len() - 1].iter().product();
                *counts.entry(rows).or_default() += 1;
            }
        }
        counts.into_iter().max_by_key(|&(rows, n)| (n, rows)).map(|(rows, _)| rows)
    }
}

/// Whether a sketch is that of one tensor only: enough values, and not all the same.
pub(super) fn tells_apart(sketch: &[f64]) -> bool {
    let mut distinct = BTreeSet::new();
    sketch.iter().any(|v| {
        distinct.insert(v.to_bits());
        distinct.len() >= 4
    })
}
