//! `construct.json` of msprobe: each call's name to the name of the call around it, or null at the top.

use std::path::Path;

use serde_json::Value;

use super::{Draft, Graph, assemble};
use crate::dump::{Problems, json};
use crate::{Error, Result};

/// Reads the tree. `rename` turns the name of a call into a node's name and type.
pub(crate) fn read(
    path: &Path,
    rename: impl Fn(&str) -> (String, Option<String>),
    problems: &mut Problems,
) -> Result<Graph> {
    let value = json::read(path)?;
    let Value::Object(calls) = value else {
        return Err(Error::malformed(path, "construct.json", "an object", json::type_name(&value)));
    };
    let mut drafts = Vec::with_capacity(calls.len());
    let mut seen = std::collections::BTreeSet::new();
    for (call, parent) in &calls {
        let parent = match parent {
            Value::String(name) => Some(name.as_str()),
            // Megatron's writer adds the micro-step: [parent, step].
            Value::Array(pair) => pair.first().and_then(Value::as_str),
            Value::Null => None,
            // Its counter stands among the calls.
            _ => continue,
        };
        let (name, op_type) = rename(call);
        // Further calls of a module are the same node.
        if seen.insert(name.clone()) {
            let op_type = op_type.unwrap_or_default();
            let parent = parent.map(|p| rename(p).0);
            drafts.push(Draft { name, op_type, params: Value::Null, parent });
        }
    }
    // A wrapper such as the optimizer is named as a parent only.
    let named: Vec<String> = drafts.iter().filter_map(|d| d.parent.clone()).collect();
    for parent in named {
        if seen.insert(parent.clone()) {
            drafts.push(Draft { name: parent, op_type: String::new(), params: Value::Null, parent: None });
        }
    }
    Ok(assemble(drafts, problems))
}
