//! Passes over one block of floats as they lie on disk, in the first-level cache.
//!
//! The magnitude bits of a float order like its magnitude, so extremes and zeros are found on the bits, whatever the
//! format, and their results do not depend on the width of a vector.

use fearless_simd::{
    Level, dispatch, i8x64, i16x32, i32x16, i64x8, prelude::*, u8x64, u16x32, u32x16, u64x8,
};

/// Bytes of the longest block: what lanes of one byte can count.
pub(super) const SPAN: usize = 8192;

/// What the bits of a block say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Ends {
    /// Bits of the largest magnitude.
    pub(super) most: u64,
    /// Bits of the smallest nonzero magnitude; 0 when all are zero.
    pub(super) least: u64,
    /// Zeros of either sign.
    pub(super) zeros: u64,
    /// Magnitudes of at least what is normal, where they are counted in the same pass: of words of one byte, most
    /// blocks of which have others.
    pub(super) normal: Option<u64>,
    /// Bits of the smallest value.
    pub(super) low: u64,
    /// Bits of the largest value.
    pub(super) high: u64,
}

/// The unsigned integer that holds one element.
pub(super) trait Word: Copy + bytemuck::Pod {
    /// Extremes of a block that is not empty; `normal` is the smallest normal magnitude.
    fn ends(x: &[Self], normal: u64) -> Ends;
    /// The same for a block of which only the largest magnitude and the counts are wanted; the other extremes are
    /// those of one that only holds zero and the smallest magnitude there is.
    fn glance(x: &[Self], normal: u64) -> Ends;
    /// How many magnitudes are at least `from`, which is one.
    fn count_from(x: &[Self], from: u64) -> u64;
    /// Copies a block with `instead` for the magnitudes from `limit` on.
    fn below(x: &[Self], limit: u64, instead: Self, out: &mut [Self]);
    /// As `u64`.
    fn wide(self) -> u64;
}

macro_rules! word {
    ($word:ty, $key:ty, $vector:ident, $keys:ident, $lanes:literal, $count:ident, |$counts:ident| $total:expr) => {
        /// Counts lanes: those from 1 on in the lanes themselves, others in a register where a comparison leaves a bit
        /// per lane.
        pub(super) struct $count<S: Simd> {
            lanes: $vector<S>,
            bits: u64,
        }

        impl<S: Simd> $count<S> {
            #[inline(always)]
            pub(super) fn new(s: S) -> Self {
                Self { lanes: $vector::splat(s, 0), bits: 0 }
            }

            #[inline(always)]
            pub(super) fn add_from(&mut self, magnitude: $vector<S>, from: $word) {
                if from == 1 {
                    self.lanes += magnitude.min(1);
                } else if S::u8s::LEN >= 64 {
                    self.bits += u64::from(magnitude.simd_ge(from).to_bitmask().count_ones());
                } else {
                    self.lanes += (magnitude.max(from - 1) - (from - 1)).min(1);
                }
            }

            #[inline(always)]
            pub(super) fn total(self) -> u64 {
                let $counts = self.lanes;
                self.bits + $total
            }
        }

        const _: () = {
            const SIGN: $word = 1 << (<$word>::BITS - 1);
            const COUNTED: bool = <$word>::BITS == 8;

            #[inline(always)]
            fn look<S: Simd, const GLANCE: bool>(s: S, x: &[$word], subnormal: $word) -> Ends {
                // The largest bits as a signed integer, which are the largest value's if one is positive; as an
                // unsigned one, which are the smallest value's if one is negative.
                let mut top = $keys::splat(s, <$key>::MIN);
                let mut bottom = $vector::splat(s, 0);
                // One less, so that a zero's wraps around to the largest.
                let mut least = $vector::splat(s, <$word>::MAX);
                let (mut alive, mut normal) = ($count::new(s), $count::new(s));
                each::<_, $lanes>(
                    x,
                    x[0],
                    #[inline(always)]
                    |x| {
                        let x = $vector::from_slice(s, x);
                        let magnitude = x & !SIGN;
                        if GLANCE {
                            bottom = bottom.max(magnitude);
                        } else {
                            top = top.max(x.bitcast::<$keys<S>>());
                            bottom = bottom.max(x);
                            least = least.min(magnitude - 1);
                        }
                        alive.add_from(magnitude, 1);
                        if COUNTED {
                            normal.add_from(magnitude, subnormal + 1);
                        }
                    },
                );
                let pad = (x.len().next_multiple_of($lanes) - x.len()) as u64;
                let first = x[0] & !SIGN;
                let zeros = x.len() as u64 + if first > 0 { pad } else { 0 } - alive.total();
                let mut of_normal = None;
                if COUNTED {
                    of_normal = Some(normal.total() - if first > subnormal { pad } else { 0 });
                }
                if GLANCE {
                    let most = bottom.reduce_max().into();
                    return Ends { most, least: 1, zeros, normal: of_normal, low: 0, high: 0 };
                }
                let (top, bottom) = (top.reduce_max(), bottom.reduce_max());
                let least = least.reduce_min().wrapping_add(1);
                // A zero lies between the negative and the positive values; without one the closest to it does.
                let (above, below) = if zeros > 0 { (0, 0) } else { (least, SIGN | least) };
                Ends {
                    most: u64::from((bottom & !SIGN).max(top.max(0).cast_unsigned())),
                    least: u64::from(least),
                    zeros,
                    normal: of_normal,
                    low: u64::from(if bottom & SIGN != 0 { bottom } else { above }),
                    high: u64::from(if top >= 0 { top.cast_unsigned() } else { below }),
                }
            }

            impl Word for $word {
                fn ends(x: &[Self], normal: u64) -> Ends {
                    #[inline(always)]
                    fn ends_in<S: Simd>(s: S, x: &[$word], subnormal: $word) -> Ends {
                        look::<S, false>(s, x, subnormal)
                    }
                    dispatch!(Level::new(), s => ends_in(s, x, normal as $word - 1))
                }

                fn glance(x: &[Self], normal: u64) -> Ends {
                    #[inline(always)]
                    fn glance_in<S: Simd>(s: S, x: &[$word], subnormal: $word) -> Ends {
                        look::<S, true>(s, x, subnormal)
                    }
                    dispatch!(Level::new(), s => glance_in(s, x, normal as $word - 1))
                }

                fn count_from(x: &[Self], from: u64) -> u64 {
                    #[inline(always)]
                    fn count_in<S: Simd>(s: S, x: &[$word], from: $word) -> u64 {
                        let mut found = $count::new(s);
                        each::<_, $lanes>(
                            x,
                            0,
                            #[inline(always)]
                            |x| {
                                let magnitude = $vector::from_slice(s, x) & (<$word>::MAX >> 1);
                                found.add_from(magnitude, from);
                            },
                        );
                        found.total()
                    }
                    dispatch!(Level::new(), s => count_in(s, x, from as $word))
                }

                fn below(x: &[Self], limit: u64, instead: Self, out: &mut [Self]) {
                    let limit = limit as $word;
                    for (to, &from) in out.iter_mut().zip(x) {
                        *to = if from & (<$word>::MAX >> 1) < limit { from } else { instead };
                    }
                }

                fn wide(self) -> u64 {
                    u64::from(self)
                }
            }
        };
    };
}

word!(u8, i8, u8x64, i8x64, 64, ByteCount, |counts| u64::from(counts.pairwise_widening_add().reduce_sum()));
word!(u16, i16, u16x32, i16x32, 32, HalfCount, |counts| u64::from(counts.reduce_sum()));
word!(u32, i32, u32x16, i32x16, 16, WordCount, |counts| u64::from(counts.reduce_sum()));
word!(u64, i64, u64x8, i64x8, 8, LongCount, |counts| counts.reduce_sum());

/// Calls `f` with every `N` elements of a block, the last ones filled up with `pad`.
#[inline(always)]
pub(super) fn each<T: Copy, const N: usize>(x: &[T], pad: T, mut f: impl FnMut(&[T; N])) {
    let (chunks, tail) = x.as_chunks::<N>();
    for x in chunks {
        f(x);
    }
    if !tail.is_empty() {
        let mut last = [pad; N];
        last[..tail.len()].copy_from_slice(tail);
        f(&last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_every_length_agree_with_the_values() {
        let values = [3.5f32, -2.0, 0.0, -0.0, 1e-40, -7.25, 1e30, 0.5];
        let mixed = (1..100).map(|len| (0..len).map(|i| values[i * 5 % 8]).collect());
        let edges = [vec![-1.0, -2.0], vec![1.0, 2.0], vec![-1.0, -0.0], vec![0.0], vec![-0.0, 3.0]];
        for x in mixed.chain(edges) {
            let x: Vec<f32> = x;
            let bits: Vec<u32> = x.iter().map(|v| v.to_bits()).collect();
            let ends = u32::ends(&bits, 1 << 23);
            assert_eq!(ends.zeros, x.iter().filter(|v| **v == 0.0).count() as u64);
            let close = |bits: u64, value: f32| (f32::from_bits(bits as u32) - value).abs() == 0.0;
            assert!(close(ends.high, x.iter().fold(f32::MIN, |m, &v| m.max(v))), "{x:?}");
            assert!(close(ends.low, x.iter().fold(f32::MAX, |m, &v| m.min(v))), "{x:?}");
            assert!(close(ends.most, x.iter().fold(0.0, |m, &v| m.max(v.abs()))), "{x:?}");
            let nonzero = x.iter().filter(|v| **v != 0.0).fold(f32::INFINITY, |m, v| m.min(v.abs()));
            assert!(close(ends.least, if nonzero.is_finite() { nonzero } else { 0.0 }), "{x:?}");
        }
    }

    fn counts<W: Word + TryFrom<u64>>(bits: u32)
    where
        W::Error: std::fmt::Debug,
    {
        let word = |i: u64| W::try_from(i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - bits)).expect("fits");
        for len in [1, 63, 64, 65, 1000, SPAN as u64 / 2] {
            let x: Vec<W> = (0..len).map(word).collect();
            for from in [1, 2, 1 << (bits - 3), (1 << (bits - 1)) - 1] {
                let magnitude = |w: &&W| w.wide() & ((1 << (bits - 1)) - 1);
                let expected = x.iter().filter(|w| magnitude(w) >= from).count() as u64;
                assert_eq!(W::count_from(&x, from), expected, "{bits} {len} {from}");
                if let Some(normal) = W::ends(&x, from).normal {
                    assert_eq!(normal, expected, "{bits} {len} {from}");
                }
            }
        }
    }

    #[test]
    fn counts_of_every_width_agree_with_counting() {
        counts::<u8>(8);
        counts::<u16>(16);
        counts::<u32>(32);
        counts::<u64>(64);
    }
}
