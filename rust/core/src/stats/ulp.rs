//! Distance of two floats in units in the last place.
//!
//! The representable numbers of a format are numbered in order, both zeros 0; the distance is the difference
//! of the numbers. Values of different formats are first rounded (to nearest, ties to even) to the coarser
//! one: the one with fewer mantissa bits. A finite value that rounds beyond the largest finite number counts
//! as its successor.

use fearless_simd::{Level, dispatch, f32x16, i32x16, prelude::*, u32x16};

use super::block32::each_pair;
use crate::DType;

/// The format whose units are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// 8 exponent bits, 23 mantissa bits.
    Float32,
    /// 8 exponent bits, 7 mantissa bits.
    BFloat16,
    /// 5 exponent bits, 10 mantissa bits.
    Float16,
}

/// The coarser format of two; `None` unless both are 16- or 32-bit floats.
#[must_use]
pub fn common_format(golden: DType, candidate: DType) -> Option<Format> {
    let format = |dtype| match dtype {
        DType::Float32 => Some(Format::Float32),
        DType::Float16 => Some(Format::Float16),
        DType::BFloat16 => Some(Format::BFloat16),
        _ => None,
    };
    let pair = [format(golden)?, format(candidate)?];
    [Format::BFloat16, Format::Float16].into_iter().find(|f| pair.contains(f)).or(Some(Format::Float32))
}

/// No distance of two finite blocks exceeds this, by their largest distance in units of `f32`.
///
/// A unit of a coarser format is at least so many units of `f32`, and rounding moves both ends by half a unit.
#[must_use]
pub fn at_most(format: Format, ulp: u32) -> u32 {
    match format {
        Format::Float32 => ulp,
        Format::BFloat16 => (ulp >> 16) + 1,
        Format::Float16 => (ulp >> 13) + 1,
    }
}

/// Largest distance between corresponding elements of two finite blocks.
#[must_use]
pub fn max_distance(format: Format, a: &[f32], b: &[f32]) -> u32 {
    dispatch!(Level::new(), s => max_distance_in(s, format, a, b))
}

#[inline(always)]
fn max_distance_in<S: Simd>(s: S, format: Format, a: &[f32], b: &[f32]) -> u32 {
    match format {
        Format::Float32 => largest(
            s,
            a,
            b,
            #[inline(always)]
            |x| x,
        ),
        // The low half stays empty, so distances are counted in its size.
        Format::BFloat16 => {
            largest(
                s,
                a,
                b,
                #[inline(always)]
                |x| to_bf16(s, x),
            ) >> 16
        }
        Format::Float16 => largest(
            s,
            a,
            b,
            #[inline(always)]
            |x| to_f16(s, x),
        ),
    }
}

#[inline(always)]
fn largest<S: Simd>(s: S, a: &[f32], b: &[f32], round: impl Fn(u32x16<S>) -> u32x16<S>) -> u32 {
    let mut most = u32x16::splat(s, 0);
    each_pair(
        s,
        a,
        b,
        (0.0, 0.0),
        #[inline(always)]
        |a, b| {
            let (x, y) = (round(a.abs().bitcast()), round(b.abs().bitcast()));
            most = distance(s, (a, b), (x, y)).max(most);
        },
    );
    most.reduce_max()
}

/// Distances of elements of which the numbers of the magnitudes are known.
#[inline(always)]
pub(super) fn distance<S: Simd>(
    s: S,
    (a, b): (f32x16<S>, f32x16<S>),
    (x, y): (u32x16<S>, u32x16<S>),
) -> u32x16<S> {
    let (a, b): (i32x16<S>, i32x16<S>) = (a.bitcast(), b.bitcast());
    let (apart, near) = (x + y, x.max(y) - x.min(y));
    (a ^ b).simd_lt(i32x16::splat(s, 0)).select(apart, near)
}

/// Magnitude bits of a finite `f32`, rounded to `bfloat16`; the low half is 0.
#[inline(always)]
fn to_bf16<S: Simd>(s: S, bits: u32x16<S>) -> u32x16<S> {
    let (half, one) = (u32x16::splat(s, 0x7fff), u32x16::splat(s, 1));
    (bits + half + ((bits >> 16) & one)) & u32x16::splat(s, 0x7fff_0000)
}

/// Magnitude bits of a finite `f32`, rounded to `float16`.
#[inline(always)]
fn to_f16<S: Simd>(s: S, bits: u32x16<S>) -> u32x16<S> {
    // Adding one half leaves 2⁻²⁴, the step of float16's subnormal numbers, as the last bit.
    let half = f32x16::splat(s, 0.5);
    let shifted: u32x16<S> = (bits.bitcast::<f32x16<S>>() + half).bitcast();
    let subnormal = shifted - half.bitcast::<u32x16<S>>();
    let normal = (bits + u32x16::splat(s, 0xfff) + ((bits >> 13) & u32x16::splat(s, 1))
        - u32x16::splat(s, 112 << 23))
        >> 13;
    bits.simd_lt(u32x16::splat(s, 0x3880_0000)).select(subnormal, normal).min(u32x16::splat(s, 0x7c00))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn distances_by_hand() {
        let next = f32::from_bits(1.0f32.to_bits() + 3);
        assert_eq!(max_distance(Format::Float32, &[1.0], &[next]), 3);
        assert_eq!(max_distance(Format::Float32, &[-0.0], &[0.0]), 0);
        assert_eq!(max_distance(Format::Float32, &[-f32::from_bits(1)], &[f32::from_bits(2)]), 3);
        // 1 + 2⁻⁷ is bfloat16's successor of 1; half a step rounds to even.
        assert_eq!(max_distance(Format::BFloat16, &[1.0], &[1.0 + 1.0 / 128.0]), 1);
        assert_eq!(max_distance(Format::BFloat16, &[1.0], &[1.0 + 1.0 / 256.0]), 0);
        assert_eq!(max_distance(Format::BFloat16, &[1.0], &[1.0 + 3.0 / 256.0]), 2);
        assert_eq!(max_distance(Format::Float16, &[65504.0], &[1e6]), 1);
        assert_eq!(max_distance(Format::Float32, &[f32::MAX], &[f32::MIN]), 2 * 0x7f7f_ffff);
    }

    #[test]
    fn the_coarser_format_is_taken() {
        use DType::{BFloat16, Float16, Float32, Int8};
        assert_eq!(common_format(Float32, Float16), Some(Format::Float16));
        assert_eq!(common_format(BFloat16, Float16), Some(Format::BFloat16));
        assert_eq!(common_format(Float32, Float32), Some(Format::Float32));
        assert_eq!(common_format(Float32, Int8), None);
    }

    proptest! {
        #[test]
        fn no_distance_exceeds_the_bound(a in 0u32..0xff80_0000, b in 0u32..0xff80_0000, near in 0u32..100_000) {
            let finite = |bits: u32| Some(f32::from_bits(bits)).filter(|x| x.is_finite());
            for b in [b, a.saturating_add(near), a ^ 0x8000_0000] {
                let (Some(a), Some(b)) = (finite(a), finite(b)) else { continue };
                let exact = max_distance(Format::Float32, &[a], &[b]);
                for format in [Format::BFloat16, Format::Float16] {
                    prop_assert!(max_distance(format, &[a], &[b]) <= at_most(format, exact));
                }
            }
        }

        #[test]
        fn rounding_agrees_with_the_half_crate(bits in 0u32..0x7f80_0000) {
            let value = f32::from_bits(bits);
            // From 0, the distance is the number of the rounded value.
            prop_assert_eq!(
                max_distance(Format::Float16, &[value], &[0.0]),
                u32::from(half::f16::from_f32(value).to_bits())
            );
            prop_assert_eq!(
                max_distance(Format::BFloat16, &[value], &[0.0]),
                u32::from(half::bf16::from_f32(value).to_bits())
            );
        }
    }
}
