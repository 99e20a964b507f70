//! Distance of two floats in units in the last place.
//!
//! The representable numbers of a format are numbered in order, both zeros 0; the distance is the difference
//! of the numbers. Values of different formats are first rounded (to nearest, ties to even) to the coarser
//! one: the one with fewer mantissa bits. A finite value that rounds beyond the largest finite number counts
//! as its successor.

use multiversion::multiversion;

use super::block32::LANES;
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

/// Largest distance between corresponding elements of two finite blocks.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
pub fn max_distance(format: Format, a: &[f32], b: &[f32]) -> u32 {
    match format {
        Format::Float32 => largest(a, b, |x| x),
        Format::BFloat16 => largest(a, b, to_bf16),
        Format::Float16 => largest(a, b, to_f16),
    }
}

#[inline(always)]
fn largest(a: &[f32], b: &[f32], round: impl Fn(u32) -> u32 + Copy) -> u32 {
    let mut acc = [0u32; LANES];
    let (a_chunks, a_tail) = a.as_chunks::<LANES>();
    let (b_chunks, b_tail) = b.as_chunks::<LANES>();
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for l in 0..LANES {
            acc[l] = acc[l].max(distance(a[l], b[l], round));
        }
    }
    let mut most = acc.into_iter().fold(0, u32::max);
    for (&a, &b) in a_tail.iter().zip(b_tail) {
        most = most.max(distance(a, b, round));
    }
    most
}

#[inline(always)]
fn distance(a: f32, b: f32, round: impl Fn(u32) -> u32) -> u32 {
    let (a, b) = (a.to_bits(), b.to_bits());
    let (x, y) = (round(a & 0x7fff_ffff), round(b & 0x7fff_ffff));
    let apart = x + y;
    let near = x.max(y) - x.min(y);
    if (a ^ b).cast_signed() < 0 { apart } else { near }
}

/// Magnitude bits of a finite `f32`, rounded to `bfloat16`.
#[inline(always)]
fn to_bf16(bits: u32) -> u32 {
    (bits + 0x7fff + ((bits >> 16) & 1)) >> 16
}

/// Magnitude bits of a finite `f32`, rounded to `float16`.
#[inline(always)]
fn to_f16(bits: u32) -> u32 {
    // Adding one half leaves 2⁻²⁴, the step of float16's subnormal numbers, as the last bit.
    let subnormal = (f32::from_bits(bits) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
    let normal = (bits + 0xfff + ((bits >> 13) & 1)).wrapping_sub(112 << 23) >> 13;
    let rounded = if bits < 0x3880_0000 { subnormal } else { normal };
    rounded.min(0x7c00)
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
        fn rounding_agrees_with_the_half_crate(bits in 0u32..0x7f80_0000) {
            let value = f32::from_bits(bits);
            prop_assert_eq!(to_f16(bits), u32::from(half::f16::from_f32(value).to_bits()));
            prop_assert_eq!(to_bf16(bits), u32::from(half::bf16::from_f32(value).to_bits()));
        }
    }
}
