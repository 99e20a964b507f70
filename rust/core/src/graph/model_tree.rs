//! `model_tree.json` of the ait/msit torch hook: `{"name", "type", "children": […]}`, root `root`.

use std::path::Path;

use serde_json::Value;

use super::{Draft, Graph, assemble};
use crate::dump::{Problems, json};
use crate::{Error, Result};

/// Reads the module tree. Children keep their order of definition.
pub(crate) fn read(path: &Path, problems: &mut Problems) -> Result<Graph> {
    let value = json::read(path)?;
    let mut drafts = Vec::new();
    collect(&value, None, &mut drafts)
        .map_err(|found| Error::malformed(path, "module tree", "name, type and children", found))?;
    Ok(assemble(drafts, problems))
}

fn collect(value: &Value, parent: Option<&str>, drafts: &mut Vec<Draft>) -> Result<(), String> {
    let Some(own) = value.get("name").and_then(Value::as_str) else {
        return Err(format!("a node without a name below {}", parent.unwrap_or("the top")));
    };
    // Names are full paths; a writer that gives only the attribute is understood too.
    let name = match parent {
        Some(p) if !own.strip_prefix(p).is_some_and(|rest| rest.starts_with('.')) => format!("{p}.{own}"),
        _ => own.to_owned(),
    };
    drafts.push(Draft {
        name: name.clone(),
        op_type: value.get("type").and_then(Value::as_str).unwrap_or_default().to_owned(),
        params: Value::Null,
        parent: parent.map(str::to_owned),
    });
    match value.get("children") {
        None | Some(Value::Null) => Ok(()),
        Some(Value::Array(children)) => {
            children.iter().try_for_each(|child| collect(child, Some(&name), drafts))
        }
        Some(other) => Err(format!("{} as children of {name}", json::type_name(other))),
    }
}
