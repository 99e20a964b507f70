//! What turns recorded tensors into the one that is compared.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One step from recorded tensors to the compared one. A chain of them is applied in order; only the first
/// may take several tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Transform {
    /// Same elements in the same order under another shape: leading ones dropped, heads split or merged.
    Reshape {
        /// The new sizes.
        shape: Vec<u64>,
    },
    /// A part of one axis: q out of a packed qkv.
    Slice {
        /// Which axis.
        axis: usize,
        /// First index.
        start: u64,
        /// How many.
        len: u64,
    },
    /// Axes in another order.
    Permute {
        /// `axes[i]` is the old axis that becomes axis `i`.
        axes: Vec<usize>,
    },
    /// Tensors side by side along an axis: q, k and v against a packed qkv.
    Concat {
        /// Which axis.
        axis: usize,
    },
    /// Element by element sum: a residual that one stack fuses into the next operator.
    Sum,
    /// Rotary halves to pairs or back, on the last axis: `heads × [x0…, y0…]` to `heads × [x0, y0, …]`.
    HeadPermutation {
        /// Elements of one head.
        head: u64,
        /// From halves to pairs; otherwise from pairs to halves.
        interleave: bool,
    },
    /// The whole tensor several times along its first axis: one golden sequence against a batch of copies.
    Broadcast {
        /// How often.
        times: u64,
    },
    /// `FRACTAL_NZ` storage to rows and columns, without padding.
    NzToNd {
        /// Rows, columns and what lies before them.
        shape: Vec<u64>,
    },
    /// Quantised integers back to numbers: `(x − offset) · scale`, per tensor or per last-axis channel.
    Dequantise,
    /// Ranks' shards side by side along an axis.
    ShardConcat {
        /// Which axis.
        axis: usize,
    },
    /// Ranks' partial sums added up.
    ShardSum,
}

impl fmt::Display for Transform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reshape { shape } => write!(f, "reshape {shape:?}"),
            Self::Slice { axis, start, len } => write!(f, "slice axis {axis} {start}:{}", start + len),
            Self::Permute { axes } => write!(f, "permute {axes:?}"),
            Self::Concat { axis } => write!(f, "concat axis {axis}"),
            Self::Sum => f.write_str("sum"),
            Self::HeadPermutation { head, interleave: true } => write!(f, "heads of {head}: halves to pairs"),
            Self::HeadPermutation { head, interleave: false } => {
                write!(f, "heads of {head}: pairs to halves")
            }
            Self::Broadcast { times } => write!(f, "repeat {times} times"),
            Self::NzToNd { shape } => write!(f, "NZ to {shape:?}"),
            Self::Dequantise => f.write_str("dequantise"),
            Self::ShardConcat { axis } => write!(f, "ranks concat axis {axis}"),
            Self::ShardSum => f.write_str("ranks sum"),
        }
    }
}
