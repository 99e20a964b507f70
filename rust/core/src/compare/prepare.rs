//! From two opened tensors to a measurable pair, or to the reason why there is none.

use super::part::Pair;
use super::plan::Matrix;
use crate::dtype::Kind;
use crate::stats::decode;
use crate::stats::pair::Recipe;
use crate::{DType, Tensor};

/// What can be done with a pair of tensors.
pub(super) enum Prepared {
    /// Measure it.
    Pair(Box<Pair>),
    /// Only compare the bytes: the dtype has no numeric meaning.
    Bytes(Box<[Tensor; 2]>),
    /// Neither.
    Reason(String),
}

/// Decides how to compare two tensors; the second value is what the user should know about their shapes.
pub(super) fn prepare(golden: Tensor, candidate: Tensor, kl: bool) -> (Prepared, Option<String>) {
    let (a, b) = (&golden.info, &candidate.info);
    let mut note = None;
    let mut shape = a.shape.clone();
    if a.shape != b.shape {
        let (short_a, short_b) = (squeezed(&a.shape), squeezed(&b.shape));
        let shapes = format!("golden {:?}, candidate {:?}", a.shape, b.shape);
        if short_a != short_b {
            return (Prepared::Reason(format!("shape differs: {shapes}")), None);
        }
        note = Some(format!("compared without axes of size 1: {shapes}"));
        shape = short_a;
    }
    let (dtype_a, dtype_b) = (a.dtype, b.dtype);
    if a.numel() == 0 {
        return (Prepared::Reason("empty".into()), note);
    }
    let Some(recipe) = Recipe::new(dtype_a, dtype_b, kl) else {
        if dtype_a == dtype_b && golden.is_contiguous() && candidate.is_contiguous() {
            return (Prepared::Bytes(Box::new([golden, candidate])), note);
        }
        return (Prepared::Reason(not_measurable(dtype_a, dtype_b)), note);
    };
    let components = decode::components(dtype_a);
    let matrix = Matrix::new(&shape, components);
    (
        Prepared::Pair(Box::new(Pair { golden, candidate, recipe, matrix, components, twins: Vec::new() })),
        note,
    )
}

fn squeezed(shape: &[u64]) -> Vec<u64> {
    shape.iter().copied().filter(|&n| n != 1).collect()
}

fn not_measurable(golden: DType, candidate: DType) -> String {
    let why = if golden.kind() == Kind::Raw || candidate.kind() == Kind::Raw {
        "packed elements have no known value"
    } else {
        "only one is complex"
    };
    format!("dtype not measurable: golden {golden}, candidate {candidate}: {why}")
}
