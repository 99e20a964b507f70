//! One recorded run: which tensors it left, of which node, step and rank, and where their bytes are.
//!
//! Each directory layout has a file of its own that turns a directory into a [`Dump`]; [`open`] finds out which.

mod atb;
mod detect;
mod fx;
mod ge;
mod ge_names;
pub(crate) mod json;
mod loose;
pub mod manual;
mod msprobe;
mod native;
mod problems;
mod ranks;
mod read;
mod table;
mod torch_hook;
mod torchair;
mod walk;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

pub use detect::open;
pub(crate) use problems::Problems;
pub use walk::natural_cmp;

use crate::graph::Graph;
use crate::tensor::TensorInfo;

/// Which side of its node a tensor was on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Read by the node.
    Input,
    /// Written by the node.
    Output,
    /// A weight or buffer of the node.
    Param,
    /// A file whose name does not say.
    Other,
}

impl Role {
    /// `input`, `output`, `param` or `tensor`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Output => "output",
            Self::Param => "param",
            Self::Other => "tensor",
        }
    }
}

/// When the bytes were taken, for producers that tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Before the node ran.
    Before,
    /// After the node ran.
    After,
}

impl Phase {
    /// `before` or `after`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::After => "after",
        }
    }
}

/// Statistics a producer left instead of, or beside, the bytes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProducerStats {
    /// Largest element.
    pub max: Option<f64>,
    /// Smallest element.
    pub min: Option<f64>,
    /// Mean.
    pub mean: Option<f64>,
    /// L2 norm.
    pub norm: Option<f64>,
    /// NaN values; where these counts are told, the other numbers are over the finite values.
    pub nan: Option<u64>,
    /// +Inf values.
    pub pos_inf: Option<u64>,
    /// −Inf values.
    pub neg_inf: Option<u64>,
    /// Zeros of either sign.
    pub zero: Option<u64>,
}

/// Where a record's bytes are.
#[derive(Clone, Debug, PartialEq)]
pub enum Location {
    /// A file that holds one tensor; its header must be read to know dtype and shape.
    File(PathBuf),
    /// A named member of a container (`.npz`, `.pt`, `.safetensors`).
    Member {
        /// The container.
        file: PathBuf,
        /// The member's name.
        key: String,
    },
    /// Bytes whose place a container's header already told.
    Region {
        /// The container.
        file: PathBuf,
        /// The member's name; empty in a file of one unnamed tensor.
        key: String,
        /// First byte.
        offset: u64,
        /// Length in bytes.
        len: u64,
        /// Dtype and shape.
        info: TensorInfo,
    },
    /// No bytes: the producer left statistics or a description only.
    Nowhere,
}

/// One tensor of a dump.
#[derive(Clone, Debug)]
pub struct TensorRecord {
    /// Step (token) number as the layout defines it; `None` where the layout has none.
    pub step: Option<u64>,
    /// Rank as the layout defines it; `None` where the layout has none.
    pub rank: Option<u32>,
    /// The node's name as its producer spells it: `root.model.layers.0.mlp` or `3_Layer/1_Attention`.
    pub node: String,
    /// The node's type where the producer tells: a class name or operation name.
    pub op_type: Option<String>,
    /// The number of this call when a node ran several times in one step, from 0.
    pub call: u32,
    /// Input, output or weight.
    pub role: Role,
    /// Before or after the node ran.
    pub phase: Option<Phase>,
    /// The tensor's place in the node's arguments or results: `0`, `0.1`, `kwargs.mask`, a weight's name.
    pub slot: String,
    /// Where the bytes are.
    pub location: Location,
    /// Dtype and shape where the dump tells without opening the file.
    pub info: Option<TensorInfo>,
    /// Statistics the producer left.
    pub stats: Option<ProducerStats>,
    /// `algorithm:digits` of the bytes, where the producer left one.
    pub hash: Option<String>,
    /// The sketch that [`crate::stats::summary`] made of the bytes.
    pub sketch: Option<Location>,
    /// Position in execution order within its step and rank.
    pub order: u64,
}

/// An argument or result that is no tensor: a flag, a scale, a length.
#[derive(Clone, Debug, PartialEq)]
pub struct ValueRecord {
    /// As in [`TensorRecord::step`].
    pub step: Option<u64>,
    /// As in [`TensorRecord::rank`].
    pub rank: Option<u32>,
    /// As in [`TensorRecord::node`].
    pub node: String,
    /// As in [`TensorRecord::call`].
    pub call: u32,
    /// As in [`TensorRecord::role`].
    pub role: Role,
    /// As in [`TensorRecord::slot`].
    pub slot: String,
    /// The value as the producer wrote it.
    pub value: serde_json::Value,
}

/// One recorded run.
#[derive(Debug)]
pub struct Dump {
    /// The layout's name: `native`, `ait`, `atb`, `manual`, `msprobe`, `ge`, `fx`, `folder`, `file`.
    pub layout: &'static str,
    /// The writer's era or version where it can be told: `C'`, `msit`, `1`.
    pub variant: String,
    /// The directory (or file) that the layout starts at.
    pub root: PathBuf,
    /// All tensors: by step, rank, execution order, role, slot.
    pub records: Vec<TensorRecord>,
    /// Arguments and results that are no tensors, in the order the producer wrote them.
    pub values: Vec<ValueRecord>,
    /// The graph, when the producer left one.
    pub graph: Option<Graph>,
    /// What could not be read and was left out, in words; never silently dropped.
    pub problems: Vec<String>,
    /// Why what the dump says of its operators cannot be trusted: it describes another model, or cannot be read.
    /// Its tensors can be; comparing it by them alone must be asked for.
    pub faults: Vec<String>,
    /// What the producer said about the run: versions, dtype, device, command line.
    pub about: serde_json::Map<String, serde_json::Value>,
}

impl Dump {
    /// A dump without records yet.
    #[must_use]
    pub fn new(layout: &'static str, root: &Path) -> Self {
        Self {
            layout,
            variant: String::new(),
            root: root.to_owned(),
            records: Vec::new(),
            values: Vec::new(),
            graph: None,
            problems: Vec::new(),
            faults: Vec::new(),
            about: serde_json::Map::new(),
        }
    }

    /// The steps that records belong to, ascending.
    #[must_use]
    pub fn steps(&self) -> Vec<u64> {
        self.records.iter().filter_map(|r| r.step).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// The ranks that records belong to, ascending.
    #[must_use]
    pub fn ranks(&self) -> Vec<u32> {
        self.records.iter().filter_map(|r| r.rank).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// The values as a JSON list: `[{step, rank, node, call, role, slot, value}]`.
    #[must_use]
    pub fn values_json(&self) -> serde_json::Value {
        let row = |v: &ValueRecord| {
            serde_json::json!({
                "step": v.step, "rank": v.rank, "node": v.node, "call": v.call,
                "role": v.role.name(), "slot": v.slot, "value": v.value,
            })
        };
        self.values.iter().map(row).collect()
    }

    /// Brings the records into the order that [`Dump::records`] promises.
    pub(crate) fn sort(&mut self) {
        self.records.sort_by(|a, b| {
            (a.step, a.rank, a.order)
                .cmp(&(b.step, b.rank, b.order))
                .then_with(|| natural_cmp(&a.node, &b.node))
                .then_with(|| (a.call, a.role, a.phase).cmp(&(b.call, b.role, b.phase)))
                .then_with(|| natural_cmp(&a.slot, &b.slot))
        });
    }
}

impl TensorRecord {
    /// A record of which only place and name are known.
    pub(crate) fn new(
        node: impl Into<String>,
        role: Role,
        slot: impl Into<String>,
        location: Location,
    ) -> Self {
        Self {
            step: None,
            rank: None,
            node: node.into(),
            op_type: None,
            call: 0,
            role,
            phase: None,
            slot: slot.into(),
            location,
            info: None,
            stats: None,
            hash: None,
            sketch: None,
            order: 0,
        }
    }

    /// Whether the bytes are an output taken before the node wrote it: memory of something else.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.role == Role::Output && self.phase == Some(Phase::Before)
    }
}

impl Location {
    /// The file that holds the bytes.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::File(file) | Self::Member { file, .. } | Self::Region { file, .. } => Some(file),
            Self::Nowhere => None,
        }
    }

    /// The member's name inside its container.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        match self {
            Self::Member { key, .. } | Self::Region { key, .. } => {
                Some(key.as_str()).filter(|key| !key.is_empty())
            }
            Self::File(_) | Self::Nowhere => None,
        }
    }
}
