//! Putting a graph together from nodes that name their parents in any order.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Graph, Node, NodeId};
use crate::dump::{Problems, TensorRecord};

/// A node that still names its parent.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    /// As in [`Node::name`].
    pub(crate) name: String,
    /// As in [`Node::op_type`].
    pub(crate) op_type: String,
    /// As in [`Node::params`].
    pub(crate) params: Value,
    /// The parent's name.
    pub(crate) parent: Option<String>,
}

/// Orders drafts parents first, siblings as given. Names met twice, unknown parents and circles are told and mended:
/// the first of a name stays, a node without a usable parent stands at the top.
pub(crate) fn assemble(drafts: Vec<Draft>, problems: &mut Problems) -> Graph {
    let mut by_name: BTreeMap<String, usize> = BTreeMap::new();
    let mut kept: Vec<Draft> = Vec::with_capacity(drafts.len());
    for draft in drafts {
        if by_name.contains_key(&draft.name) {
            problems.count("described twice, the first description is kept", "graph node", &draft.name);
        } else {
            by_name.insert(draft.name.clone(), kept.len());
            kept.push(draft);
        }
    }
    let mut parents: Vec<Option<usize>> = Vec::with_capacity(kept.len());
    for draft in &kept {
        let parent = draft.parent.as_ref().and_then(|name| {
            let found = by_name.get(name).copied();
            if found.is_none() {
                problems.count("whose parent is not described", "graph node", &draft.name);
            }
            found
        });
        parents.push(parent);
    }
    break_circles(&mut parents, &kept, problems);

    let mut children: Vec<Vec<usize>> = vec![Vec::new(); kept.len()];
    let mut roots = Vec::new();
    for (i, parent) in parents.iter().enumerate() {
        match parent {
            Some(p) => children[*p].push(i),
            None => roots.push(i),
        }
    }
    let mut graph = Graph::default();
    let mut drafts: Vec<Option<Draft>> = kept.into_iter().map(Some).collect();
    let mut stack: Vec<(usize, Option<NodeId>, u32)> = Vec::new();
    let push = |stack: &mut Vec<_>, nodes: &[usize], parent| {
        stack.extend(nodes.iter().enumerate().rev().map(|(order, &i)| (i, parent, order as u32)));
    };
    push(&mut stack, &roots, None);
    while let Some((i, parent, order)) = stack.pop() {
        let Some(draft) = drafts[i].take() else { continue };
        let id = graph.nodes.len() as NodeId;
        graph.nodes.push(Node {
            name: draft.name,
            op_type: draft.op_type,
            params: draft.params,
            parent,
            order,
            inputs: Vec::new(),
            outputs: Vec::new(),
        });
        push(&mut stack, &children[i], Some(id));
    }
    graph
}

/// Cuts every chain of parents that comes back to where it started.
fn break_circles(parents: &mut [Option<usize>], drafts: &[Draft], problems: &mut Problems) {
    // 0: not looked at, 1: on the current chain, 2: leads to the top.
    let mut state = vec![0u8; parents.len()];
    for start in 0..parents.len() {
        let mut chain = Vec::new();
        let mut at = start;
        loop {
            if state[at] == 1 {
                let name = &drafts[at].name;
                problems.count("its own ancestor, put at the top", "graph node", name);
                problems.fault(format!("the tree of modules goes in a circle at {name:?}"));
                parents[at] = None;
            }
            if state[at] != 0 {
                break;
            }
            state[at] = 1;
            chain.push(at);
            match parents[at] {
                Some(parent) => at = parent,
                None => break,
            }
        }
        for i in chain {
            state[i] = 2;
        }
    }
}

/// The tree that names spell: a node's parent is the longest other name that continues into it at a separator.
/// Where every prefix stands for a node (directories do), give them all.
pub(crate) fn from_names<'a>(
    nodes: impl IntoIterator<Item = (&'a str, Option<&'a str>)>,
    separator: char,
    problems: &mut Problems,
) -> Graph {
    let mut types: BTreeMap<&str, &str> = BTreeMap::new();
    let mut names: Vec<&str> = Vec::new();
    for (name, op_type) in nodes {
        let known = types.entry(name).or_insert_with(|| {
            names.push(name);
            ""
        });
        if known.is_empty() {
            *known = op_type.unwrap_or_default();
        }
    }
    let drafts = names
        .iter()
        .map(|name| {
            let mut parent = name.rsplit_once(separator).map(|(head, _)| head);
            while let Some(head) = parent.filter(|head| !types.contains_key(head)) {
                parent = head.rsplit_once(separator).map(|(head, _)| head);
            }
            Draft {
                name: (*name).to_owned(),
                op_type: types[name].to_owned(),
                params: Value::Null,
                parent: parent.map(str::to_owned),
            }
        })
        .collect();
    assemble(drafts, problems)
}

/// Numbers siblings by when they first ran, as the records tell; those that never ran come last, in their old order.
pub(crate) fn order_by_execution(graph: &mut Graph, records: &[TensorRecord]) {
    let mut first: BTreeMap<&str, u64> = BTreeMap::new();
    for record in records.iter().filter(|r| r.step.is_some()) {
        first.entry(record.node.as_str()).or_insert(record.order);
    }
    let mut ran: Vec<u64> =
        graph.nodes.iter().map(|n| first.get(n.name.as_str()).copied().unwrap_or(u64::MAX)).collect();
    // A container that is never called itself runs when its first child does.
    for i in (0..graph.nodes.len()).rev() {
        if let Some(parent) = graph.nodes[i].parent
            && !first.contains_key(graph.nodes[parent as usize].name.as_str())
        {
            ran[parent as usize] = ran[parent as usize].min(ran[i]);
        }
    }
    let mut siblings: BTreeMap<Option<NodeId>, Vec<usize>> = BTreeMap::new();
    for (i, node) in graph.nodes.iter().enumerate() {
        siblings.entry(node.parent).or_default().push(i);
    }
    for group in siblings.values_mut() {
        group.sort_by_key(|&i| (ran[i], graph.nodes[i].order));
        for (order, &i) in group.iter().enumerate() {
            graph.nodes[i].order = order as u32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft(name: &str, parent: Option<&str>) -> Draft {
        Draft {
            name: name.into(),
            op_type: "T".into(),
            params: Value::Null,
            parent: parent.map(str::to_owned),
        }
    }

    fn shape(graph: &Graph) -> Vec<(&str, Option<u32>, u32)> {
        graph.nodes.iter().map(|n| (n.name.as_str(), n.parent, n.order)).collect()
    }

    #[test]
    fn parents_come_first_and_siblings_keep_their_order() {
        let mut problems = Problems::default();
        let drafts =
            vec![draft("a.c", Some("a")), draft("b", None), draft("a", None), draft("a.b", Some("a"))];
        let graph = assemble(drafts, &mut problems);
        assert_eq!(shape(&graph), [("b", None, 0), ("a", None, 1), ("a.c", Some(1), 0), ("a.b", Some(1), 1)]);
        assert!(problems.into_texts().is_empty());
    }

    #[test]
    fn circles_and_unknown_parents_are_told() {
        let mut problems = Problems::default();
        let drafts = vec![
            draft("a", Some("c")),
            draft("b", Some("a")),
            draft("c", Some("b")),
            draft("d", Some("d")),
            draft("e", Some("nobody")),
            draft("b", None),
        ];
        let graph = assemble(drafts, &mut problems);
        assert_eq!(
            shape(&graph),
            [("a", None, 0), ("b", Some(0), 0), ("c", Some(1), 0), ("d", None, 1), ("e", None, 2)]
        );
        assert_eq!(
            problems.into_texts(),
            [
                "1 graph node described twice, the first description is kept: b",
                "2 graph nodes its own ancestor, put at the top, first: a",
                "1 graph node whose parent is not described: e"
            ]
        );
    }

    #[test]
    fn names_spell_a_tree() {
        let mut problems = Problems::default();
        let names = [("root.x.0", None), ("root", Some("M")), ("root.x.0.y.z", Some("Z"))];
        let graph = from_names(names, '.', &mut problems);
        assert_eq!(
            shape(&graph),
            [("root", None, 0), ("root.x.0", Some(0), 0), ("root.x.0.y.z", Some(1), 0)]
        );
        assert_eq!(graph.nodes[2].op_type, "Z");
    }
}
