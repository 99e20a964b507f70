//! The operator graph of a run: nodes with type, parameters, parent and order; edges by tensor.
//!
//! Each producer's description of its graph has a file of its own here.

pub(crate) mod atb_json;
mod build;
pub(crate) mod construct_json;
pub(crate) mod ge_text;
pub(crate) mod model_tree;
mod text_proto;

pub(crate) use build::{Draft, assemble, from_names, order_by_execution};

/// Index of a node in [`Graph::nodes`].
pub type NodeId = u32;
/// Index of a tensor name in [`Graph::tensors`].
pub type TensorId = u32;

/// One operator or module.
#[derive(Clone, Debug)]
pub struct Node {
    /// The name that ties it to the dump's records: equal to [`crate::dump::TensorRecord::node`].
    pub name: String,
    /// Class or operation type: `Linear`, `LinearOperation`.
    pub op_type: String,
    /// Operator parameters as the producer wrote them; `Null` when it wrote none.
    pub params: serde_json::Value,
    /// The enclosing module or graph operation.
    pub parent: Option<NodeId>,
    /// Position among its siblings in execution order where known, else definition order.
    pub order: u32,
    /// Tensors read, in argument order; empty where the producer left no dataflow.
    pub inputs: Vec<TensorId>,
    /// Tensors written.
    pub outputs: Vec<TensorId>,
}

/// Nodes and the tensors between them.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// Nodes; a parent comes before its children.
    pub nodes: Vec<Node>,
    /// Names of the tensors that nodes refer to.
    pub tensors: Vec<String>,
}

impl Graph {
    /// The node of that name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|n| n.name == name)
    }

    /// The graph as JSON: `{"nodes": [{name, type, params, parent, order, inputs, outputs}], "tensors": [name]}`.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let nodes: Vec<_> = self
            .nodes
            .iter()
            .map(|n| {
                serde_json::json!({
                    "name": n.name, "type": n.op_type, "params": n.params, "parent": n.parent,
                    "order": n.order, "inputs": n.inputs, "outputs": n.outputs,
                })
            })
            .collect();
        serde_json::json!({"nodes": nodes, "tensors": self.tensors})
    }
}
