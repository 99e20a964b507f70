//! GE graphs as torchair and GE write them for people: protobuf text of `GraphDef` or, around it, `ModelDef`.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, json};

use super::text_proto::{Reader, Value};
use super::{Draft, Graph, TensorId, assemble};
use crate::Result;
use crate::dump::{Problems, json};

/// Longest text of an attribute that is kept; a constant's bytes are no parameter.
const MAX_TEXT: usize = 4096;
/// Longest list of an attribute that is kept.
const MAX_LIST: usize = 1024;

/// A graph with the name it gives itself.
pub(crate) struct Named {
    pub(crate) name: String,
    pub(crate) graph: Graph,
}

/// Reads the first graph of a text.
pub(crate) fn read(path: &Path, problems: &mut Problems) -> Result<Named> {
    let bytes = json::read_bytes(path)?;
    let mut found = Found::default();
    let mut reader = Reader::new(&bytes, path);
    level(&mut reader, &mut found, 0)?;
    if !reader.is_over() {
        problems.add(format!("text after the end of the graph is ignored: {}", path.display()));
    }
    Ok(Named { name: found.name, graph: put_together(found.ops, problems) })
}

#[derive(Default)]
struct Found {
    name: String,
    ops: Vec<Op>,
    graphs: usize,
}

struct Op {
    draft: Draft,
    inputs: Vec<String>,
    outputs: usize,
}

/// The fields of `GraphDef`, or those of `ModelDef` around it.
fn level(reader: &mut Reader<'_>, found: &mut Found, depth: usize) -> Result<()> {
    while let Some(field) = reader.field()? {
        if field == "graph" && depth == 0 {
            // A model's graphs after the first are parts of it, called from its operators.
            found.graphs += 1;
            if found.graphs == 1 && reader.enter() {
                level(reader, found, 1)?;
                reader.leave()?;
                continue;
            }
        }
        for value in reader.values()? {
            match (field.as_str(), value.as_text()) {
                ("name", Some(name)) if found.graphs == depth => name.clone_into(&mut found.name),
                ("op", None) => found.ops.push(op(&value)),
                _ => {}
            }
        }
    }
    Ok(())
}

fn op(value: &Value) -> Op {
    let text = |name| value.get(name).and_then(Value::as_text).unwrap_or_default().to_owned();
    let mut params = attributes(value);
    let outputs: Vec<_> = value.all("output_desc").map(|desc| json!(attributes(desc))).collect();
    let count = outputs.len();
    if outputs.iter().any(|desc| desc.as_object().is_some_and(|attrs| !attrs.is_empty())) {
        params.insert("output_desc".into(), outputs.into());
    }
    // Behind a control edge stands -1: it orders, and carries nothing. An empty name is an input left out.
    let inputs = value.all("input").filter_map(Value::as_text).filter(|name| !name.ends_with(":-1"));
    Op {
        draft: Draft {
            name: text("name"),
            op_type: text("type"),
            params: if params.is_empty() { serde_json::Value::Null } else { params.into() },
            parent: None,
        },
        inputs: inputs.filter(|name| !name.is_empty()).map(str::to_owned).collect(),
        outputs: count,
    }
}

fn attributes(value: &Value) -> Map<String, serde_json::Value> {
    let pair = |attr: &Value| {
        let key = attr.get("key")?.as_text()?.to_owned();
        Some((key, attribute(attr.get("value")?)?))
    };
    value.all("attr").filter_map(pair).collect()
}

/// What an `AttrDef` holds; `None` for tensors, graphs and functions, and for what is too long to be a parameter.
fn attribute(value: &Value) -> Option<serde_json::Value> {
    let Value::Message(fields) = value else { return None };
    match fields.first() {
        // A zero is not written.
        None => Some(serde_json::Value::Null),
        Some((kind, list)) if kind == "list" => {
            let Value::Message(items) = list else { return None };
            let items = items.iter().filter(|(kind, _)| kind != "val_type").take(MAX_LIST);
            Some(items.filter_map(|(kind, item)| scalar(kind, item)).collect())
        }
        Some((kind, value)) => scalar(kind, value),
    }
}

fn scalar(kind: &str, value: &Value) -> Option<serde_json::Value> {
    let text = value.as_text()?;
    Some(match kind {
        "s" if text.len() <= MAX_TEXT => json!(text),
        "i" => json!(text.parse::<i64>().ok()?),
        "f" => json!(text.parse::<f64>().ok()?),
        "b" => json!(text == "true"),
        "dt" => json!(text),
        _ => return None,
    })
}

/// Nodes in the order of the text, which is that of the graph; tensors are called `<op>:<output>`.
fn put_together(ops: Vec<Op>, problems: &mut Problems) -> Graph {
    let mut edges: BTreeMap<String, (Vec<String>, usize)> = BTreeMap::new();
    let mut drafts = Vec::with_capacity(ops.len());
    for op in ops {
        edges.entry(op.draft.name.clone()).or_insert((op.inputs, op.outputs));
        drafts.push(op.draft);
    }
    let mut graph = assemble(drafts, problems);
    let mut tensors: BTreeMap<String, TensorId> = BTreeMap::new();
    let mut names = Vec::new();
    let mut number = |name: String| {
        *tensors.entry(name.clone()).or_insert_with(|| {
            names.push(name);
            names.len() as TensorId - 1
        })
    };
    for node in &mut graph.nodes {
        let Some((inputs, outputs)) = edges.remove(&node.name) else { continue };
        node.inputs = inputs.into_iter().map(&mut number).collect();
        node.outputs = (0..outputs).map(|i| number(format!("{}:{i}", node.name))).collect();
    }
    graph.tensors = names;
    graph
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = r#"
name: "graph_1"
op {
  name: "arg0_1"
  type: "Data"
  attr { key: "index" value { i: 0 } }
  output_desc {
    name: "y"
    dtype: DT_FLOAT16
    shape { dim: 2 dim: 3 }
    layout: "ND"
    attr { key: "_meta" value { s: "Tensor(dtype=torch.float16, shape=torch.Size([2, 3]))" } }
  }
}
op { name: "Cast" type: "Cast" input: "arg0_1:0" output_desc { name: "y" dtype: DT_FLOAT } }
op {
  name: "Mul"
  type: "Mul"
  input: "Cast:0"
  input: ""
  input: "Cast:-1"
  attr { key: "_datadump_original_op_names" value { list { s: "a" s: "b: {" val_type: VT_LIST_STRING } } }
  output_desc {
    attr { key: "_fx_tensor_name" value { s: "mul-aten.mul.Tensor.OUTPUT.0" } }
  }
}
attr { key: "k" value { b: true } }
"#;

    fn graph_of(text: &str) -> Named {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let mut problems = Problems::default();
        let named = read(file.path(), &mut problems).unwrap();
        assert_eq!(problems.into_texts(), [""; 0]);
        named
    }

    #[test]
    fn operators_edges_and_names_of_fx() {
        for text in [TEXT.to_owned(), format!("name: \"m\" graph {{ {TEXT} }} version: 1")] {
            let Named { name, graph } = graph_of(&text);
            assert_eq!(name, "graph_1");
            let names: Vec<&str> = graph.nodes.iter().map(|n| n.name.as_str()).collect();
            assert_eq!(names, ["arg0_1", "Cast", "Mul"]);
            assert_eq!(graph.tensors, ["arg0_1:0", "Cast:0", "Mul:0"]);
            assert_eq!(
                (graph.nodes[2].inputs.as_slice(), graph.nodes[2].outputs.as_slice()),
                (&[1][..], &[2][..])
            );
            assert_eq!(graph.nodes[0].params["index"], 0);
            assert_eq!(
                graph.nodes[2].params,
                json!({
                    "_datadump_original_op_names": ["a", "b: {"],
                    "output_desc": [{"_fx_tensor_name": "mul-aten.mul.Tensor.OUTPUT.0"}],
                })
            );
        }
    }

    proptest! {
        #[test]
        fn mutated_text_never_panics(cuts in proptest::collection::vec((0..TEXT.len(), any::<u8>()), 1..6)) {
            let mut bytes = TEXT.as_bytes().to_vec();
            for (at, byte) in cuts {
                bytes[at] = byte;
            }
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), bytes).unwrap();
            drop(read(file.path(), &mut Problems::default()));
        }
    }
}
