//! Choosing pairs out of scores.

/// Up to this many items on the larger side the best assignment is found; beyond, the best one in order.
const EXACT: usize = 320;

/// For each row the column it is paired with: the pairs with the greatest sum of scores. A pair that scores
/// `None`, or nothing above 0, is never chosen.
pub(super) fn assign(
    rows: usize,
    cols: usize,
    score: impl Fn(usize, usize) -> Option<f64> + Sync,
) -> Vec<Option<usize>> {
    if rows == 0 || cols == 0 {
        return vec![None; rows];
    }
    if rows.max(cols) <= EXACT { best(rows, cols, &score) } else { in_order(rows, cols, score) }
}

/// The assignment of least cost by shortest augmenting paths (Jonker and Volgenant 1987).
fn best(rows: usize, cols: usize, score: &dyn Fn(usize, usize) -> Option<f64>) -> Vec<Option<usize>> {
    if rows > cols {
        let turned = best(cols, rows, &|c, r| score(r, c));
        let mut out = vec![None; rows];
        for (c, r) in turned.into_iter().enumerate() {
            if let Some(r) = r {
                out[r] = Some(c);
            }
        }
        return out;
    }
    let cost: Vec<f64> =
        (0..rows * cols).map(|i| -score(i / cols, i % cols).unwrap_or(0.0).max(0.0)).collect();
    let (mut u, mut v) = (vec![0.0; rows + 1], vec![0.0; cols + 1]);
    // Column 0 is where the row that seeks a column stands.
    let mut row_of = vec![0; cols + 1];
    let mut way = vec![0; cols + 1];
    for row in 1..=rows {
        row_of[0] = row;
        let mut at = 0;
        let mut least = vec![f64::INFINITY; cols + 1];
        let mut used = vec![false; cols + 1];
        loop {
            used[at] = true;
            let (r, mut delta, mut next) = (row_of[at], f64::INFINITY, 0);
            for c in 1..=cols {
                if !used[c] {
                    let reduced = cost[(r - 1) * cols + c - 1] - u[r] - v[c];
                    if reduced < least[c] {
                        (least[c], way[c]) = (reduced, at);
                    }
                    if least[c] < delta {
                        (delta, next) = (least[c], c);
                    }
                }
            }
            for c in 0..=cols {
                if used[c] {
                    u[row_of[c]] += delta;
                    v[c] -= delta;
                } else {
                    least[c] -= delta;
                }
            }
            at = next;
            if row_of[at] == 0 {
                break;
            }
        }
        while at != 0 {
            row_of[at] = row_of[way[at]];
            at = way[at];
        }
    }
    let mut out = vec![None; rows];
    for c in 1..=cols {
        let r = row_of[c];
        if r > 0 && cost[(r - 1) * cols + c - 1] < 0.0 {
            out[r - 1] = Some(c - 1);
        }
    }
    out
}

/// Cells up to which the moves of a table are kept; a larger one is halved first.
const TABLE: usize = 1 << 20;

/// The best pairs that keep the order of both sides (Needleman and Wunsch 1970), in memory that grows with the
/// sides and not with their product (Hirschberg 1975).
pub(super) fn in_order(
    rows: usize,
    cols: usize,
    score: impl Fn(usize, usize) -> Option<f64> + Sync,
) -> Vec<Option<usize>> {
    let mut out = vec![None; rows];
    halve(0, cols, 0, &|r, c| score(r, c).map_or(0.0, |s| s.max(0.0) as f32), TABLE, &mut out);
    out
}

/// Fills the columns of the rows from `top` on, out of `cols` columns from `left` on.
fn halve(
    left: usize,
    cols: usize,
    top: usize,
    score: &(impl Fn(usize, usize) -> f32 + Sync),
    table: usize,
    out: &mut [Option<usize>],
) {
    let rows = out.len();
    if rows < 2 || rows * cols <= table {
        return trace(left, cols, top, score, out);
    }
    let middle = rows / 2;
    let (above, below) = rayon::join(
        || edge(middle, cols, |r, c| score(top + r, left + c)),
        || edge(rows - middle, cols, |r, c| score(top + rows - 1 - r, left + cols - 1 - c)),
    );
    let mut split = 0;
    for c in 1..=cols {
        if above[c] + below[cols - c] > above[split] + below[cols - split] {
            split = c;
        }
    }
    let (upper, lower) = out.split_at_mut(middle);
    rayon::join(
        || halve(left, split, top, score, table, upper),
        || halve(left + split, cols - split, top + middle, score, table, lower),
    );
}

/// The best sums of all rows with the first 0, 1, 2, … columns.
fn edge(rows: usize, cols: usize, score: impl Fn(usize, usize) -> f32) -> Vec<f32> {
    let mut above = vec![0f32; cols + 1];
    let mut here = vec![0f32; cols + 1];
    for r in 0..rows {
        for c in 0..cols {
            here[c + 1] = above[c + 1].max(above[c] + score(r, c));
        }
        for c in 0..cols {
            here[c + 1] = here[c + 1].max(here[c]);
        }
        std::mem::swap(&mut above, &mut here);
    }
    above
}

/// The pairs of a table that is small enough to keep every move.
fn trace(
    left: usize,
    cols: usize,
    top: usize,
    score: &impl Fn(usize, usize) -> f32,
    out: &mut [Option<usize>],
) {
    const PAIR: u8 = 0;
    const SKIP_ROW: u8 = 1;
    const SKIP_COL: u8 = 2;
    let rows = out.len();
    let mut moves = vec![SKIP_ROW; rows * cols];
    let mut below = vec![0f32; cols + 1];
    let mut here = vec![0f32; cols + 1];
    for r in (0..rows).rev() {
        here[cols] = 0.0;
        for c in (0..cols).rev() {
            let (mut value, mut step) =
                if below[c] >= here[c + 1] { (below[c], SKIP_ROW) } else { (here[c + 1], SKIP_COL) };
            let s = score(top + r, left + c);
            if s > 0.0 && below[c + 1] + s >= value {
                (value, step) = (below[c + 1] + s, PAIR);
            }
            here[c] = value;
            moves[r * cols + c] = step;
        }
        std::mem::swap(&mut below, &mut here);
    }
    let (mut r, mut c) = (0, 0);
    while r < rows && c < cols {
        match moves[r * cols + c] {
            PAIR => {
                out[r] = Some(left + c);
                (r, c) = (r + 1, c + 1);
            }
            SKIP_ROW => r += 1,
            _ => c += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn total(pairs: &[Option<usize>], table: &[Vec<f64>]) -> f64 {
        pairs.iter().enumerate().filter_map(|(r, c)| c.map(|c| table[r][c])).sum()
    }

    /// Every assignment, one after the other.
    fn greatest(table: &[Vec<f64>], row: usize, used: &mut Vec<bool>) -> f64 {
        if row == table.len() {
            return 0.0;
        }
        let mut most = greatest(table, row + 1, used);
        for c in 0..used.len() {
            if !used[c] && table[row][c] > 0.0 {
                used[c] = true;
                most = most.max(table[row][c] + greatest(table, row + 1, used));
                used[c] = false;
            }
        }
        most
    }

    /// Every choice that keeps the order.
    fn greatest_in_order(table: &[Vec<f64>], row: usize, from: usize) -> f64 {
        if row == table.len() {
            return 0.0;
        }
        let paired = (from..table[row].len()).filter(|&c| table[row][c] > 0.0);
        paired
            .map(|c| table[row][c] + greatest_in_order(table, row + 1, c + 1))
            .fold(greatest_in_order(table, row + 1, from), f64::max)
    }

    proptest! {
        #[test]
        fn nothing_beats_the_assignment(
            rows in 1usize..5, cols in 1usize..6, values in prop::collection::vec(-3i32..9, 30),
        ) {
            let table: Vec<Vec<f64>> =
                (0..rows).map(|r| (0..cols).map(|c| f64::from(values[r * cols + c])).collect()).collect();
            let pairs = best(rows, cols, &|r, c| Some(table[r][c]));
            let mut seen: Vec<usize> = pairs.iter().flatten().copied().collect();
            seen.sort_unstable();
            seen.dedup();
            prop_assert_eq!(seen.len(), pairs.iter().flatten().count());
            prop_assert!((total(&pairs, &table) - greatest(&table, 0, &mut vec![false; cols])).abs() < 1e-9);
            let ordered = in_order(rows, cols, |r, c| Some(table[r][c]));
            let columns: Vec<usize> = ordered.iter().flatten().copied().collect();
            prop_assert!(columns.windows(2).all(|w| w[0] < w[1]));
            let most = greatest_in_order(&table, 0, 0);
            prop_assert!((total(&ordered, &table) - most).abs() < 1e-9);
            // Halved down to single rows, it is as good.
            let mut halved = vec![None; rows];
            halve(0, cols, 0, &|r, c| (table[r][c] as f32).max(0.0), 0, &mut halved);
            prop_assert!((total(&halved, &table) - most).abs() < 1e-9);
            let columns: Vec<usize> = halved.iter().flatten().copied().collect();
            prop_assert!(columns.windows(2).all(|w| w[0] < w[1]));
        }
    }

    #[test]
    fn branches_may_cross_in_an_assignment_only() {
        let score = |r: usize, c: usize| Some(if r + c == 1 { 2.0 } else { 0.5 });
        assert_eq!(best(2, 2, &score), [Some(1), Some(0)]);
        assert_eq!(in_order(2, 2, score).iter().flatten().count(), 1);
    }
}
