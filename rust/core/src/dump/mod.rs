//! One recorded run: which tensors it left, of which node, step and rank, and where their bytes are.
//!
//! Each directory layout has a file of its own that turns a directory into a [`Dump`]; [`open`] finds out which.

use std::path::PathBuf;

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
    /// Position in execution order within its step and rank.
    pub order: u64,
}

/// One recorded run.
#[derive(Debug)]
pub struct Dump {
    /// The layout's name: `native`, `ait`, `atb`, `manual`, `msprobe`, `folder`, `file`.
    pub layout: &'static str,
    /// The writer's era or version where it can be told: `C'`, `msit`, `1`.
    pub variant: String,
    /// The directory (or file) that the layout starts at.
    pub root: PathBuf,
    /// All tensors: by step, rank, execution order, role, slot.
    pub records: Vec<TensorRecord>,
    /// The graph, when the producer left one.
    pub graph: Option<Graph>,
    /// What could not be read and was left out, in words; never silently dropped.
    pub problems: Vec<String>,
    /// What the producer said about the run: versions, dtype, device, command line.
    pub about: serde_json::Map<String, serde_json::Value>,
}
