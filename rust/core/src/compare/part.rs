//! Measuring one part of a pair.

use std::mem::take;

use super::plan::{Matrix, Part, Sizes, piece};
use super::twins::Twin;
use crate::stats::pair::{Block, Channels, PairSums, Recipe, RowSums, Scratch, add_block};
use crate::{Result, Tensor};

/// Most rows that the channels' `f32` sums take before they go on in `f64`.
const FLUSH: usize = 32;
/// Rows of this share of a block or more are blocks of their own.
const FEW: usize = 4;

/// Two tensors of one shape and how to measure them.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) golden: Tensor,
    pub(super) candidate: Tensor,
    pub(super) recipe: Recipe,
    pub(super) matrix: Matrix,
    pub(super) components: u64,
    /// Pairs that look like this one.
    pub(super) twins: Vec<Twin>,
}

/// What one part adds to its pair.
#[derive(Debug, Default)]
pub(super) struct PartSums {
    pub(super) sums: PairSums,
    pub(super) rows: Vec<RowSums>,
    /// Σ d² of every channel, then Σ golden²; empty when the pair has one row.
    pub(super) channels: Vec<f64>,
    /// Whether all bytes are equal; only meaningful for tensors of one dtype.
    pub(super) same_bytes: bool,
}

/// Working memory of one thread.
#[derive(Debug, Default)]
pub(super) struct Workspace {
    golden: Bytes,
    candidate: Bytes,
    twin: Bytes,
    narrow: Narrow,
    scratch: Scratch,
}

/// Sums of a strip's channels in `f32`: Σ d² of every channel, then Σ golden².
#[derive(Debug, Default)]
struct Narrow {
    sums: Vec<f32>,
    /// Rows added since the sums were moved on.
    rows: usize,
}

impl Narrow {
    /// Moves the sums on to the channels in `f64`.
    fn flush(&mut self, channels: &mut [f64], cols: usize, col: usize, width: usize) {
        self.rows = 0;
        if channels.is_empty() {
            return;
        }
        let (dd, aa) = channels.split_at_mut(cols);
        let (narrow_dd, narrow_aa) = self.sums.split_at_mut(width);
        for (wide, narrow) in [(dd, narrow_dd), (aa, narrow_aa)] {
            for (wide, narrow) in wide[col..col + width].iter_mut().zip(narrow) {
                *wide += f64::from(take(narrow));
            }
        }
    }
}

/// Bytes aligned for every element type.
#[derive(Debug, Default)]
pub(super) struct Bytes(Vec<u128>);

impl Bytes {
    pub(super) fn get(&mut self, len: usize) -> &mut [u8] {
        let words = len.div_ceil(16);
        if self.0.len() < words {
            self.0.resize(words, 0);
        }
        &mut bytemuck::cast_slice_mut(&mut self.0)[..len]
    }
}

/// Reads and measures one part.
pub(super) fn measure(pair: &Pair, part: Part, sizes: &Sizes, work: &mut Workspace) -> Result<PartSums> {
    let result = measure_strips(pair, part, sizes, work);
    if result.is_err() {
        // A part that broke off leaves channel sums behind.
        work.narrow = Narrow::default();
    }
    result
}

fn measure_strips(pair: &Pair, part: Part, sizes: &Sizes, work: &mut Workspace) -> Result<PartSums> {
    let mut out = PartSums {
        rows: vec![RowSums::default(); part.rows],
        channels: if pair.matrix.rows > 1 { vec![0.0; 2 * part.cols] } else { Vec::new() },
        same_bytes: true,
        ..PartSums::default()
    };
    let chunk = sizes.chunk;
    let whole_rows = part.cols as u64 == pair.matrix.cols;
    let strip = if part.cols <= chunk { part.cols } else { piece(part.cols, chunk) };
    let rows_at_once = if whole_rows && strip == part.cols { (chunk / strip.max(1)).max(1) } else { 1 };
    for col in (0..part.cols).step_by(strip.max(1)) {
        let width = strip.min(part.cols - col);
        for row in (0..part.rows).step_by(rows_at_once) {
            let rows = rows_at_once.min(part.rows - row);
            measure_chunk(pair, part, View { row, rows, col, width }, sizes, work, &mut out)?;
        }
        work.narrow.flush(&mut out.channels, part.cols, col, width);
    }
    Ok(out)
}

/// A rectangle within a part: contiguous components of both tensors.
#[derive(Clone, Copy)]
struct View {
    row: usize,
    rows: usize,
    col: usize,
    width: usize,
}

fn measure_chunk(
    pair: &Pair,
    part: Part,
    view: View,
    sizes: &Sizes,
    work: &mut Workspace,
    out: &mut PartSums,
) -> Result<()> {
    let View { row, rows, col, width } = view;
    let first = (part.row + row as u64) * pair.matrix.cols + part.col + col as u64;
    let (golden_size, candidate_size) = pair.recipe.sizes();
    let golden = work.golden.get(rows * width * golden_size);
    pair.golden.read_at(first / pair.components, golden)?;
    let candidate = work.candidate.get(rows * width * candidate_size);
    pair.candidate.read_at(first / pair.components, candidate)?;
    out.same_bytes = out.same_bytes && golden == candidate;
    for twin in &pair.twins {
        twin.follow(first / pair.components, golden, candidate, &mut work.twin);
    }
    let has_channels = !out.channels.is_empty();
    if has_channels && work.narrow.sums.len() < 2 * width {
        work.narrow.sums.resize(2 * width, 0.0);
    }
    let rows_per_block = if width * FEW > sizes.block { 1 } else { sizes.block / width };
    let step = if width <= sizes.block { width } else { piece(width, sizes.block) };
    for block_row in (0..rows).step_by(rows_per_block) {
        let block_rows = rows_per_block.min(rows - block_row);
        if work.narrow.rows + block_rows > FLUSH {
            work.narrow.flush(&mut out.channels, part.cols, col, width);
        }
        work.narrow.rows += block_rows;
        for at in (0..width).step_by(step.max(1)) {
            let len = step.min(width - at);
            let (from, count) = (block_row * width + at, (block_rows - 1) * width + len);
            let block = Block {
                golden: &golden[from * golden_size..][..count * golden_size],
                candidate: &candidate[from * candidate_size..][..count * candidate_size],
                index: first + from as u64,
                width: len,
            };
            let channels = has_channels.then(|| {
                let (narrow_dd, narrow_aa) = work.narrow.sums.split_at_mut(width);
                let (wide_dd, wide_aa) = out.channels.split_at_mut(part.cols);
                Channels {
                    narrow: (&mut narrow_dd[at..at + len], &mut narrow_aa[at..at + len]),
                    wide: (&mut wide_dd[col + at..][..len], &mut wide_aa[col + at..][..len]),
                }
            });
            let sums = &mut out.rows[row + block_row..][..block_rows];
            add_block(&pair.recipe, block, &mut out.sums, sums, channels, &mut work.scratch);
        }
    }
    Ok(())
}
