//! Passes over one block of integers of one byte.

use fearless_simd::{Level, dispatch, i8x64, i16x32, i32x16, prelude::*, u8x64, u16x32};

use super::float::{ByteCount as Count, each};

/// What a block holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Ends {
    /// Largest magnitude.
    pub(super) most: u8,
    pub(super) low: i32,
    pub(super) high: i32,
    /// Smallest nonzero magnitude; 0 when all are zero.
    pub(super) least: u8,
    pub(super) zeros: u64,
    /// At the end of the range: −128, −127 and 127, or 255.
    pub(super) last: u64,
}

/// An integer of one byte.
pub(super) trait Small: Copy + Into<i32> {
    /// The smallest there is.
    const MIN: i32;
    /// Extremes and counts of a block that is not empty and at most [`super::float::SPAN`] long.
    fn ends(x: &[Self]) -> Ends;
    /// The same of a block of which only the largest magnitude and the counts are wanted; the other extremes are
    /// those of one that only holds 0 and 1.
    fn glance(x: &[Self]) -> Ends;
    /// Sum and sum of squares of such a block.
    fn sums(x: &[Self]) -> (i32, i32);
}

macro_rules! small {
    ($int:ty, $vector:ident, $sums:ident, $last:literal, |$x:ident| $magnitude:expr) => {
        const _: () = {
            #[inline(always)]
            fn look<S: Simd, const GLANCE: bool>(s: S, x: &[$int]) -> Ends {
                let (mut low, mut high) = ($vector::splat(s, <$int>::MAX), $vector::splat(s, <$int>::MIN));
                let (zero, mut least) = (u8x64::splat(s, 0), u8x64::splat(s, u8::MAX));
                let (mut most, mut alive, mut last) = (zero, Count::new(s), Count::new(s));
                each::<_, 64>(
                    x,
                    x[0],
                    #[inline(always)]
                    |x| {
                        let $x = $vector::from_slice(s, x);
                        let magnitude: u8x64<S> = $magnitude.bitcast();
                        most = most.max(magnitude);
                        if !GLANCE {
                            low = low.min($x);
                            high = high.max($x);
                            // One less, so that a zero's wraps around to the largest.
                            least = least.min(magnitude - 1);
                        }
                        alive.add_from(magnitude, 1);
                        last.add_from(magnitude, $last);
                    },
                );
                // Without what filled up the last vector.
                let pad = (x.len().next_multiple_of(64) - x.len()) as u64;
                let first = i32::from(x[0]).unsigned_abs();
                let zeros = x.len() as u64 + if first > 0 { pad } else { 0 } - alive.total();
                let last = last.total() - if first >= $last { pad } else { 0 };
                let most = most.reduce_max();
                if GLANCE {
                    return Ends { most, low: 0, high: 0, least: 1, zeros, last };
                }
                let (low, high) = (low.reduce_min().into(), high.reduce_max().into());
                Ends { most, low, high, least: least.reduce_min().wrapping_add(1), zeros, last }
            }

            impl Small for $int {
                const MIN: i32 = <$int>::MIN as i32;

                fn ends(x: &[Self]) -> Ends {
                    #[inline(always)]
                    fn ends_in<S: Simd>(s: S, x: &[$int]) -> Ends {
                        look::<S, false>(s, x)
                    }
                    dispatch!(Level::new(), s => ends_in(s, x))
                }

                fn glance(x: &[Self]) -> Ends {
                    #[inline(always)]
                    fn glance_in<S: Simd>(s: S, x: &[$int]) -> Ends {
                        look::<S, true>(s, x)
                    }
                    dispatch!(Level::new(), s => glance_in(s, x))
                }

                fn sums(x: &[Self]) -> (i32, i32) {
                    #[inline(always)]
                    fn sums_in<S: Simd>(s: S, x: &[$int]) -> (i32, i32) {
                        let (mut sum, mut squares) = ($sums::splat(s, 0), i32x16::splat(s, 0));
                        each::<_, 64>(
                            x,
                            0,
                            #[inline(always)]
                            |x| {
                                let $x = $vector::from_slice(s, x);
                                sum += $x.pairwise_widening_add();
                                let (left, right) = $x.widen();
                                let (left, right): (i16x32<S>, i16x32<S>) = (left.bitcast(), right.bitcast());
                                squares +=
                                    left.pairwise_dot_product(left) + right.pairwise_dot_product(right);
                            },
                        );
                        let sum = sum.as_slice().iter().map(|&lane| i32::from(lane)).sum();
                        (sum, squares.reduce_sum())
                    }
                    dispatch!(Level::new(), s => sums_in(s, x))
                }
            }
        };
    };
}

small!(i8, i8x64, i16x32, 127, |x| x.abs());
small!(u8, u8x64, u16x32, 255, |x| x);

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T: Small>(x: &[T], last: u32) {
        let wide: Vec<i32> = x.iter().map(|&v| v.into()).collect();
        let nonzero = wide.iter().filter(|v| **v != 0).map(|v| v.unsigned_abs()).min();
        let most = wide.iter().map(|v| v.unsigned_abs() as u8).max().expect("not empty");
        let expected = Ends {
            most,
            low: *wide.iter().min().expect("not empty"),
            high: *wide.iter().max().expect("not empty"),
            least: nonzero.map_or(0, |m| m as u8),
            zeros: wide.iter().filter(|v| **v == 0).count() as u64,
            last: wide.iter().filter(|v| v.unsigned_abs() >= last).count() as u64,
        };
        assert_eq!(T::ends(x), expected, "{}", x.len());
        let glance = Ends { low: 0, high: 0, least: 1, ..expected };
        assert_eq!(T::glance(x), glance, "{}", x.len());
        assert_eq!(T::sums(x), (wide.iter().sum(), wide.iter().map(|v| v * v).sum()), "{}", x.len());
    }

    #[test]
    fn blocks_of_every_length_agree_with_counting() {
        for len in [1, 2, 63, 64, 65, 130, 2048, 8192] {
            for step in [1usize, 7, 64] {
                let x: Vec<u8> = (0..len).map(|i| (i * step + len) as u8).collect();
                check::<u8>(&x, 255);
                check::<i8>(bytemuck::cast_slice(&x), 127);
            }
            check::<i8>(&vec![-128; len], 127);
            check::<u8>(&vec![255; len], 255);
            check::<i8>(&vec![0; len], 127);
        }
    }
}
