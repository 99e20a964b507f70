//! How a pair is cut: a function of its shape alone, never of the number of threads.

use crate::stats::block32::BLOCK;

/// Sizes in components. The defaults suit caches and disks; tests force tiny ones to reach the edges.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Longest block.
    pub block: usize,
    /// Components read at once from each side; also the widest strip of columns worked on at once.
    pub chunk: usize,
    /// Most columns of a part.
    pub segment: usize,
    /// Components of a part, about.
    pub part: usize,
}

impl Default for Sizes {
    fn default() -> Self {
        Self { block: BLOCK, chunk: 128 << 10, segment: 64 << 10, part: 4 << 20 }
    }
}

/// Most rows of a part.
const MOST_ROWS: u64 = 64 << 10;

/// A tensor as a matrix: all but the last axis are the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Matrix {
    /// Number of rows; a scalar is one row.
    pub rows: u64,
    /// Components per row.
    pub cols: u64,
}

impl Matrix {
    /// From a shape and the number of components per element.
    #[must_use]
    pub(super) fn new(shape: &[u64], components: u64) -> Self {
        let (last, leading) = shape.split_last().map_or((1, &[][..]), |(&last, rest)| (last, rest));
        Self { rows: leading.iter().product(), cols: last * components }
    }
}

/// A rectangle of the matrix, measured by one thread in one go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// First row.
    pub row: u64,
    /// Number of rows.
    pub rows: usize,
    /// First column.
    pub col: u64,
    /// Number of columns.
    pub cols: usize,
}

/// The parts of a matrix, in the order in which they are merged: column segment by column segment, so that
/// the sums of one segment's channels are all that is held.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    matrix: Matrix,
    segment: u64,
    rows_per_part: u64,
}

impl Plan {
    /// Cuts a matrix.
    #[must_use]
    pub(super) fn new(matrix: Matrix, sizes: &Sizes) -> Self {
        // One row has no channels to hold.
        let widest = if matrix.rows <= 1 { sizes.part.max(sizes.segment) } else { sizes.segment };
        let segments = matrix.cols.div_ceil(widest as u64).max(1);
        // Whole elements of a complex tensor, whole lanes of the kernels.
        let segment = matrix.cols.div_ceil(segments).max(1).next_multiple_of(16);
        // What is kept of every row is larger than a short row itself.
        let rows_per_part = (sizes.part as u64 / segment.min(matrix.cols).max(1)).clamp(1, MOST_ROWS);
        Self { matrix, segment, rows_per_part }
    }

    /// Number of column segments.
    #[must_use]
    pub(super) fn segments(&self) -> u64 {
        self.matrix.cols.div_ceil(self.segment).max(1)
    }

    fn bands(&self) -> u64 {
        self.matrix.rows.div_ceil(self.rows_per_part)
    }

    /// Number of parts.
    #[must_use]
    pub(super) fn parts(&self) -> u64 {
        self.bands() * self.segments()
    }

    /// The `i`-th part.
    #[must_use]
    pub(super) fn part(&self, i: u64) -> Part {
        let (segment, band) = (i / self.bands(), i % self.bands());
        let (row, col) = (band * self.rows_per_part, segment * self.segment);
        Part {
            row,
            rows: self.rows_per_part.min(self.matrix.rows - row) as usize,
            col,
            cols: self.segment.min(self.matrix.cols - col) as usize,
        }
    }
}

/// Lengths of the pieces of a row: nearly equal, at most `block`, whole lanes but for the last.
#[must_use]
pub(super) fn piece(width: usize, block: usize) -> usize {
    width.div_ceil(width.div_ceil(block).max(1)).next_multiple_of(16).min(block.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_a_matrix_once() {
        let sizes = Sizes { block: 16, chunk: 32, segment: 48, part: 200 };
        for (rows, cols) in [(1, 1), (7, 3), (5, 48), (9, 49), (3, 1000), (300, 2), (0, 4), (1, 0)] {
            let plan = Plan::new(Matrix { rows, cols }, &sizes);
            let mut seen = vec![0u8; (rows * cols) as usize];
            for part in (0..plan.parts()).map(|i| plan.part(i)) {
                assert!(part.rows * part.cols <= 208 && (rows == 1 || part.cols <= 48));
                for r in part.row..part.row + part.rows as u64 {
                    for c in part.col..part.col + part.cols as u64 {
                        seen[(r * cols + c) as usize] += 1;
                    }
                }
            }
            assert!(seen.iter().all(|&n| n == 1), "{rows}×{cols}");
        }
    }

    #[test]
    fn pieces_are_nearly_equal() {
        assert_eq!(piece(640, 512), 320);
        assert_eq!(piece(512, 512), 512);
        assert_eq!(piece(1000, 512), 512);
        assert_eq!(piece(513, 512), 272);
    }

    #[test]
    fn all_but_the_last_axis_are_rows() {
        assert_eq!(Matrix::new(&[], 1), Matrix { rows: 1, cols: 1 });
        assert_eq!(Matrix::new(&[5], 1), Matrix { rows: 1, cols: 5 });
        assert_eq!(Matrix::new(&[2, 3, 4], 2), Matrix { rows: 6, cols: 8 });
    }
}
