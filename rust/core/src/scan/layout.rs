//! Which rows and channels of a matrix are zero throughout.

/// The unsigned integer that holds an element.
pub(super) trait Bits: Copy + PartialEq + std::ops::BitAnd<Output = Self> {
    const ZERO: Self;
    /// The lowest bits of a mask.
    fn of(mask: u64) -> Self;
}

macro_rules! bits {
    ($($word:ty),*) => {$(
        impl Bits for $word {
            const ZERO: Self = 0;
            fn of(mask: u64) -> Self {
                mask as $word
            }
        }
    )*};
}

bits!(u8, u16, u32, u64);

/// Follows consecutive elements of a matrix.
pub(super) struct Tracker {
    cols: usize,
    /// Column of the next element.
    col: usize,
    /// Whether the row under way has a nonzero element.
    alive: bool,
    seen: bool,
    /// Rows that ended without one.
    pub(super) dead_rows: u64,
    /// Which channels have a nonzero element; `None` when all have, or nobody asks.
    pub(super) channels: Option<Vec<u8>>,
    /// Elements seen, and how many there will be when it is next asked whether all channels are alive.
    elements: usize,
    look_at: usize,
}

impl Tracker {
    /// Starts at column `col` of a matrix of `cols` columns.
    pub(super) fn new(cols: usize, col: usize, channels: bool) -> Self {
        let channels = channels.then(|| vec![0; cols]);
        Self { cols, col, alive: false, seen: false, dead_rows: 0, channels, elements: 0, look_at: 0 }
    }

    /// Whether a nonzero element was seen at all.
    pub(super) fn saw_nonzero(&self) -> bool {
        self.seen
    }

    /// Adds elements, `zeros` of which are zero.
    pub(super) fn add<W: Bits>(&mut self, x: &[W], mask: u64, zeros: u64) {
        let mask = W::of(mask);
        self.seen |= zeros < x.len() as u64;
        self.elements += x.len();
        if zeros == 0 {
            self.add_nonzero(x.len());
        } else if zeros == x.len() as u64 {
            self.add_zeros(x.len());
        } else {
            // A dead channel would need more zeros than there are.
            if zeros < (x.len() / self.cols) as u64 {
                self.channels = None;
            }
            self.add_mixed(x, mask);
        }
        // Most tensors have no dead channel, which a few rows tell; of others it is not asked often.
        if self.elements >= self.look_at && self.channels.is_some() {
            self.look_at = 2 * self.elements.max(self.cols);
            if self.channels.as_ref().is_some_and(|channels| channels.iter().all(|&alive| alive != 0)) {
                self.channels = None;
            }
        }
    }

    fn add_mixed<W: Bits>(&mut self, mut rest: &[W], mask: W) {
        while !rest.is_empty() {
            let (row, later) = rest.split_at(rest.len().min(self.cols - self.col));
            if let Some(channels) = &mut self.channels {
                for (alive, &w) in channels[self.col..].iter_mut().zip(row) {
                    *alive |= u8::from(w & mask != W::ZERO);
                }
            }
            self.alive = self.alive || row.iter().any(|&w| w & mask != W::ZERO);
            self.advance(row.len());
            rest = later;
        }
    }

    fn add_zeros(&mut self, len: usize) {
        let mut left = len;
        while left > 0 {
            let step = left.min(self.cols - self.col);
            self.advance(step);
            left -= step;
        }
    }

    fn add_nonzero(&mut self, len: usize) {
        if len >= self.cols {
            self.channels = None;
        }
        if let Some(channels) = &mut self.channels {
            let end = (self.col + len).min(self.cols);
            channels[self.col..end].fill(1);
            channels[..(self.col + len).saturating_sub(self.cols)].fill(1);
        }
        let at = (self.col + len) % self.cols;
        self.alive = at > 0 || len == 0 && self.alive;
        self.col = at;
    }

    fn advance(&mut self, len: usize) {
        self.col += len;
        if self.col == self.cols {
            self.dead_rows += u64::from(!self.alive);
            (self.col, self.alive) = (0, false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows and channels by definition, and as found when the matrix comes in pieces.
    fn check(values: &[u8], cols: usize, pieces: &[usize]) {
        let rows = values.chunks(cols).filter(|row| row.iter().all(|&v| v == 0)).count() as u64;
        let channels = (0..cols).filter(|&c| values.iter().skip(c).step_by(cols).all(|&v| v == 0)).count();
        let mut tracker = Tracker::new(cols, 0, true);
        let mut rest = values;
        for &piece in pieces.iter().cycle() {
            let (now, later) = rest.split_at(piece.min(rest.len()));
            tracker.add(now, u64::MAX, now.iter().map(|&v| u64::from(v == 0)).sum());
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        assert_eq!(tracker.dead_rows, rows, "{values:?} {cols} {pieces:?}");
        let found = tracker.channels.map_or(0, |c| c.iter().map(|&alive| usize::from(alive == 0)).sum());
        assert_eq!(found, channels, "{values:?} {cols} {pieces:?}");
    }

    proptest::proptest! {
        #[test]
        fn any_matrix_in_any_pieces(
            values in proptest::collection::vec(0u8..2, 1..12),
            cols in 1usize..6,
            rows in 1usize..5,
            pieces in proptest::collection::vec(1usize..9, 1..4),
        ) {
            let matrix: Vec<u8> = values.iter().copied().cycle().take(cols * rows).collect();
            check(&matrix, cols, &pieces);
        }
    }
}
