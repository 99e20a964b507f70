//! A pass over one block of integers of one byte.

use multiversion::multiversion;

/// What a block holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Ends {
    pub(super) low: i32,
    pub(super) high: i32,
    /// Smallest nonzero magnitude; 0 when all are zero.
    pub(super) least: u8,
    pub(super) zeros: u64,
    /// At the end of the range: −128, −127 and 127, or 255.
    pub(super) saturated: u64,
    pub(super) sum: i32,
    pub(super) squares: i32,
}

const LANES: usize = 64;

macro_rules! ends {
    ($name:ident, $int:ty, |$x:ident| $saturated:expr, |$y:ident| $magnitude:expr) => {
        /// Counts, extremes and sums of at most [`super::float::BLOCK`] integers.
        #[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
        pub(super) fn $name(x: &[$int]) -> Ends {
            let mut low = [<$int>::MAX; LANES];
            let mut high = [<$int>::MIN; LANES];
            let mut least = [u8::MAX; LANES];
            let (mut zeros, mut saturated) = ([0u8; LANES], [0u8; LANES]);
            let (chunks, tail) = x.as_chunks::<LANES>();
            for chunk in chunks {
                for l in 0..LANES {
                    let ($x, $y) = (chunk[l], chunk[l]);
                    low[l] = low[l].min(chunk[l]);
                    high[l] = high[l].max(chunk[l]);
                    least[l] = least[l].min(($magnitude).wrapping_sub(1));
                    zeros[l] += u8::from(chunk[l] == 0);
                    saturated[l] += u8::from($saturated);
                }
            }
            for (l, &value) in tail.iter().enumerate() {
                let ($x, $y) = (value, value);
                low[l] = low[l].min(value);
                high[l] = high[l].max(value);
                least[l] = least[l].min(($magnitude).wrapping_sub(1));
                zeros[l] += u8::from(value == 0);
                saturated[l] += u8::from($saturated);
            }
            let wide = |x: &$int| i32::from(*x);
            Ends {
                low: low.iter().map(wide).min().unwrap_or(0),
                high: high.iter().map(wide).max().unwrap_or(0),
                least: least.into_iter().min().unwrap_or(u8::MAX).wrapping_add(1),
                zeros: zeros.into_iter().map(u64::from).sum(),
                saturated: saturated.into_iter().map(u64::from).sum(),
                sum: x.iter().map(wide).sum(),
                squares: x.iter().map(|x| i32::from(*x) * i32::from(*x)).sum(),
            }
        }
    };
}

ends!(ends_i8, i8, |x| !(-126..=126).contains(&x), |y| y.unsigned_abs());
ends!(ends_u8, u8, |x| x == u8::MAX, |y| y);
