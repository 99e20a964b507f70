//! Which places hold one value: by the topology's names of tensors, and by content.

use std::collections::{BTreeMap, BTreeSet};

use super::model::{Model, Value, tells_apart};
use crate::dump::Role;
use crate::tensor::TensorInfo;

impl Model<'_> {
    /// Joins places that hold the same tensor: by the topology's tensor names, and by content.
    pub(super) fn join(&mut self, tensors: &[(Option<TensorInfo>, Option<Vec<f64>>)]) {
        let mut group: Vec<usize> = (0..self.places.len()).collect();
        let meet = |group: &mut [usize], a: usize, b: usize| {
            let (a, b) = (find(group, a), find(group, b));
            group[a.max(b)] = a.min(b);
        };
        let mut by_name: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        if let Some(graph) = &self.dump.graph {
            let nodes: BTreeMap<&str, &crate::graph::Node> =
                graph.nodes.iter().map(|n| (n.name.as_str(), n)).collect();
            for (p, place) in self.places.iter().enumerate() {
                let Some(node) = nodes.get(self.units[place.unit].node.as_str()) else { continue };
                let list = if place.role == Role::Input { &node.inputs } else { &node.outputs };
                if let Some(&id) = place.slot.parse::<usize>().ok().and_then(|slot| list.get(slot)) {
                    by_name.entry(id).or_default().push(p);
                }
            }
        }
        for places in by_name.values() {
            // A buffer that several operations write holds several values.
            let writers: BTreeSet<usize> = places
                .iter()
                .filter(|&&p| {
                    self.places[p].role == Role::Output && !self.units[self.places[p].unit].is_container
                })
                .map(|&p| self.places[p].unit)
                .collect();
            if writers.len() <= 1 {
                for &p in &places[1..] {
                    meet(&mut group, places[0], p);
                }
            }
        }
        let mut by_content: BTreeMap<(u64, Vec<u64>), Vec<usize>> = BTreeMap::new();
        for (p, (info, sketch)) in tensors.iter().enumerate() {
            let (Some(info), Some(sketch)) = (info, sketch) else { continue };
            if self.places[p].role != Role::Param && tells_apart(sketch) {
                let bits = sketch.iter().map(|v| v.to_bits()).collect();
                by_content.entry((info.numel(), bits)).or_default().push(p);
            }
        }
        for places in by_content.values() {
            for &p in places {
                if let Some(source) = self.source(p, places) {
                    meet(&mut group, source, p);
                }
            }
        }
        let mut values: BTreeMap<usize, usize> = BTreeMap::new();
        for p in 0..self.places.len() {
            let root = find(&mut group, p);
            let value = *values.entry(root).or_insert_with(|| {
                self.values.push(Value {
                    places: Vec::new(),
                    producer: None,
                    info: None,
                    sketch: None,
                    block: None,
                    parents: Vec::new(),
                    children: Vec::new(),
                    readers: BTreeSet::new(),
                    is_weight: false,
                    order: 0,
                });
                self.values.len() - 1
            });
            self.values[value].places.push(p);
            self.places[p].value = value;
        }
        for value in &mut self.values {
            // The first leaf that wrote it; what encloses or copies it comes later.
            let outputs = value
                .places
                .iter()
                .copied()
                .filter(|&p| matches!(self.places[p].role, Role::Output | Role::Other));
            value.producer = outputs.min_by_key(|&p| (self.units[self.places[p].unit].is_container, p));
            let known = value.producer.or(value.places.first().copied());
            if let Some(p) = known {
                (value.info, value.sketch) = tensors[p].clone();
            }
            let firsts = value.places.iter().map(|&p| self.places[p].unit);
            let own = value.producer.map(|p| self.places[p].unit).or(firsts.min());
            value.block = own.and_then(|u| self.units[u].block);
            value.is_weight = value.places.iter().any(|&p| self.places[p].role == Role::Param);
        }
    }

    /// Of places with equal content, the one whose tensor place `p` holds. Two operations may compute the same
    /// numbers, when one of them adds a zero for instance: those are two values, and a reader has the later one.
    fn source(&self, p: usize, alike: &[usize]) -> Option<usize> {
        let unit = self.places[p].unit;
        let is_output = |q: usize| matches!(self.places[q].role, Role::Output | Role::Other);
        let writers = || {
            alike.iter().copied().filter(|&q| is_output(q) && !self.units[self.places[q].unit].is_container)
        };
        let inside = |q: usize| {
            let (outer, inner) = (&self.units[unit].name, &self.units[self.places[q].unit].name);
            outer.is_empty()
                || inner.strip_prefix(outer.as_str()).is_some_and(|rest| rest.starts_with(['.', '/']))
        };
        let by_unit = |q: &usize| self.places[*q].unit;
        match (is_output(p), self.units[unit].is_container) {
            (true, false) => None,
            (true, true) => writers().filter(|&q| inside(q)).max_by_key(by_unit).or_else(|| {
                // What no part of it computed: the copy of another container's.
                let outer = |q: usize| is_output(q) && (inside(q) || q < p);
                alike.iter().copied().find(|&q| q != p && outer(q))
            }),
            (false, is_container) => {
                // An enclosing module ends after its parts but reads before them.
                let reads_at = |q: usize| if is_container { !inside(q) } else { true };
                let earlier =
                    writers().filter(|&q| self.places[q].unit < unit && reads_at(q)).max_by_key(by_unit);
                earlier.or_else(|| writers().next()).or_else(|| {
                    let outputs = alike.iter().copied().find(|&q| is_output(q));
                    outputs.or_else(|| alike.first().copied()).filter(|&q| q != p)
                })
            }
        }
    }
}

/// The representative of a set of places that are joined, with the way to it shortened.
fn find(group: &mut [usize], mut i: usize) -> usize {
    while group[i] != i {
        group[i] = group[group[i]];
        i = group[i];
    }
    i
}
