//! How a tensor is cut into parts, and scanning one of them.

use super::format::Scanner;
use super::health::{Extremes, Health};
use super::layout::Tracker;
use super::repeats::{LEAST_BYTES, MOST_ROWS, fingerprint};
use crate::stats::decode;
use crate::{DType, Result, Tensor};

/// Bytes of a part, unless one row is longer.
const PART: usize = 4 << 20;
/// Bytes read at once: as many as are read fastest.
const CHUNK: usize = 1 << 20;
/// Bytes whose rows are fingerprinted at once, unless one row is longer.
const PIECE: usize = 64 << 10;
/// Longer rows are not compared with each other.
const LONGEST_ROW: usize = 256 << 10;
/// Matrices of more channels are not searched for dead ones.
const MOST_CHANNELS: u64 = 1 << 20;

/// What is scanned and how it is cut, which depends on the tensor alone.
pub(super) struct Plan {
    /// The dtype of the numbers.
    pub(super) dtype: DType,
    /// Numbers per element: 2 for complex dtypes.
    pub(super) components: u64,
    /// Size of all but the last dimension, and of the last. A tensor without rows is one row.
    pub(super) rows: u64,
    pub(super) cols: u64,
    /// Rows of a part; 0 where a row has several parts.
    rows_per_part: u64,
    /// Numbers of a part of a row.
    piece: u64,
    /// Parts.
    pub(super) parts: u64,
}

impl Plan {
    pub(super) fn new(tensor: &Tensor) -> Self {
        let info = &tensor.info;
        let dtype = decode::component(info.dtype);
        let components = decode::components(info.dtype);
        let cols = info.shape.last().copied().unwrap_or(1) * components;
        let numbers = info.numel() * components;
        let (rows, cols) = if cols <= components { (1, numbers) } else { (numbers / cols.max(1), cols) };
        let most = (PART / dtype.size()) as u64;
        let (rows_per_part, piece, parts) = if cols <= most {
            let rows_per_part = most / cols.max(1);
            (rows_per_part, 0, rows.div_ceil(rows_per_part.max(1)))
        } else {
            (0, most, rows * cols.div_ceil(most))
        };
        let parts = if numbers == 0 { 0 } else { parts };
        Self { dtype, components, rows, cols, rows_per_part, piece, parts }
    }

    /// Whether rows and channels are told apart.
    pub(super) fn is_matrix(&self) -> bool {
        self.components == 1 && self.rows > 1
    }

    /// Whether channels are searched for dead ones.
    pub(super) fn has_channels(&self) -> bool {
        self.is_matrix() && self.cols <= MOST_CHANNELS
    }

    /// Whether a row is cut into parts.
    pub(super) fn splits_rows(&self) -> bool {
        self.rows_per_part == 0
    }

    /// Whether rows are compared with each other.
    pub(super) fn has_fingerprints(&self) -> bool {
        let bytes = self.cols.saturating_mul(self.dtype.size() as u64);
        self.is_matrix()
            && self.rows <= MOST_ROWS
            && (LEAST_BYTES as u64..=LONGEST_ROW as u64).contains(&bytes)
    }

    /// First number and how many.
    fn range(&self, part: u64) -> (u64, u64) {
        if self.splits_rows() {
            let pieces = self.cols.div_ceil(self.piece);
            let (row, at) = (part / pieces, part % pieces * self.piece);
            (row * self.cols + at, self.piece.min(self.cols - at))
        } else {
            let row = part * self.rows_per_part;
            (row * self.cols, self.rows_per_part.min(self.rows - row) * self.cols)
        }
    }

    /// The row that a part begins in.
    pub(super) fn row(&self, part: u64) -> u64 {
        self.range(part).0 / self.cols.max(1)
    }
}

/// What one part adds.
#[derive(Default)]
pub(super) struct Found {
    pub(super) health: Health,
    /// Of a split row: whether this piece has a nonzero element.
    pub(super) alive: bool,
    /// Channels with a nonzero element; `None` when all have.
    pub(super) channels: Option<Vec<u8>>,
    /// One per row, where there are any.
    pub(super) fingerprints: Vec<u64>,
    /// Bytes read.
    pub(super) bytes: u64,
}

/// Working memory of one thread, aligned for every dtype.
#[derive(Default)]
pub(super) struct Buffer(Vec<u128>);

/// Reads and scans one part; `known` are the extremes of parts that were merged before, which what it finds need not
/// tell again.
pub(super) fn scan_part(
    tensor: &Tensor,
    plan: &Plan,
    part: u64,
    known: Extremes,
    buffer: &mut Buffer,
) -> Result<Found> {
    let size = plan.dtype.size();
    let (first, count) = plan.range(part);
    let mut scanner = Scanner::new(plan.dtype, plan.rows * plan.cols, known);
    let mut found = Found::default();
    let mut tracker = plan.is_matrix().then(|| {
        let col = (first % plan.cols) as usize;
        Tracker::new(plan.cols as usize, col, plan.has_channels())
    });
    let row = plan.cols.saturating_mul(size as u64);
    let chunk =
        if row <= CHUNK as u64 { CHUNK as u64 / row.max(1) * plan.cols } else { (CHUNK / size) as u64 };
    // Whole rows that are still in the second-level cache when they are looked at again.
    let piece =
        if plan.has_fingerprints() { (PIECE as u64 / row).max(1) * row } else { CHUNK as u64 } as usize;
    if buffer.0.is_empty() {
        // Pages that the system has cleared are not cleared again.
        buffer.0 = vec![0; CHUNK.div_ceil(16)];
    }
    for at in (0..count).step_by(chunk as usize) {
        let len = chunk.min(count - at) as usize;
        let bytes = &mut bytemuck::cast_slice_mut(&mut buffer.0)[..len * size];
        tensor.read_at((first + at) / plan.components, bytes)?;
        found.bytes += bytes.len() as u64;
        let mut place = first + at;
        for piece in bytes.chunks(piece) {
            for block in piece.chunks(scanner.span()) {
                let zeros = scanner.add(block, place, &mut found.health);
                place += (block.len() / size) as u64;
                if let Some(tracker) = &mut tracker {
                    track(tracker, size, block, scanner.mask(), zeros);
                }
            }
            if plan.has_fingerprints() {
                found.fingerprints.extend(piece.chunks_exact(row as usize).map(fingerprint));
            }
        }
    }
    if let Some(tracker) = tracker {
        found.alive = tracker.saw_nonzero();
        found.health.dead_rows = if plan.splits_rows() { 0 } else { tracker.dead_rows };
        found.channels = tracker.channels;
    }
    Ok(found)
}

fn track(tracker: &mut Tracker, size: usize, block: &[u8], mask: u64, zeros: u64) {
    match size {
        1 => tracker.add::<u8>(block, mask, zeros),
        2 => tracker.add::<u16>(bytemuck::cast_slice(block), mask, zeros),
        4 => tracker.add::<u32>(bytemuck::cast_slice(block), mask, zeros),
        _ => tracker.add::<u64>(bytemuck::cast_slice(block), mask, zeros),
    }
}
