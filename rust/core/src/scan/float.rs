//! Passes over one block of floats as they lie on disk, in the first-level cache.
//!
//! The magnitude bits of a float order like its magnitude, so extremes and zeros are found on the bits, whatever the
//! format. Lane `i % LANES` takes element `i` on every instruction set, and lanes are folded in a fixed order.

use multiversion::multiversion;

/// Longest block, in elements: lanes of one byte can count this many zeros.
pub(super) const BLOCK: usize = 2048;
/// Elements after which `f32` sums go on in `f64`.
const FLUSH: usize = 512;
const LANES: usize = 16;

/// What the bits of a block say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Ends {
    /// Bits of the largest magnitude.
    pub(super) most: u64,
    /// Bits of the smallest nonzero magnitude; 0 when all are zero.
    pub(super) least: u64,
    /// Zeros of either sign.
    pub(super) zeros: u64,
    /// Bits of the smallest value.
    pub(super) low: u64,
    /// Bits of the largest value.
    pub(super) high: u64,
}

/// The unsigned integer that holds one element.
pub(super) trait Word: Copy + bytemuck::Pod {
    /// Extremes of a block that is not empty.
    fn ends(x: &[Self]) -> Ends;
    /// How many magnitudes are at least `from`, which is one.
    fn count_from(x: &[Self], from: u64) -> u64;
    /// As `u64`.
    fn wide(self) -> u64;
}

macro_rules! word {
    ($word:ty, $key:ty, $ends:ident, $count:ident, $lanes:literal) => {
        impl Word for $word {
            fn ends(x: &[Self]) -> Ends {
                const SIGN: $word = 1 << (<$word>::BITS - 1);
                let (top, bottom, least, zeros) = $ends(x);
                let least = least.wrapping_add(1);
                let has_negative = bottom & SIGN != 0;
                // A zero lies between the negative and the positive values; without one the closest to it does.
                let inner = |sign: $word| if zeros > 0 { 0 } else { sign | least };
                Ends {
                    most: u64::from((bottom & !SIGN).max(top.max(0).cast_unsigned())),
                    least: u64::from(least),
                    zeros,
                    low: u64::from(if has_negative { bottom } else { inner(0) }),
                    high: u64::from(if top >= 0 { top.cast_unsigned() } else { inner(SIGN) }),
                }
            }
            fn count_from(x: &[Self], from: u64) -> u64 {
                $count(x, from as $word)
            }
            fn wide(self) -> u64 {
                u64::from(self)
            }
        }

        #[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
        fn $count(x: &[$word], from: $word) -> u64 {
            const SIGN: $word = 1 << (<$word>::BITS - 1);
            let mut count: [$word; $lanes] = [0; $lanes];
            let (chunks, tail) = x.as_chunks::<$lanes>();
            for x in chunks {
                for l in 0..$lanes {
                    count[l] += <$word>::from(x[l] & !SIGN >= from);
                }
            }
            let tail = tail.iter().filter(|&&x| x & !SIGN >= from).count() as u64;
            count.into_iter().map(u64::from).sum::<u64>() + tail
        }

        /// The largest bits as a signed integer, which are the largest value's if one is positive; as an unsigned
        /// one, which are the smallest value's if one is negative; the smallest nonzero magnitude minus one;
        /// and the zeros.
        #[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
        fn $ends(x: &[$word]) -> ($key, $word, $word, u64) {
            const SIGN: $word = 1 << (<$word>::BITS - 1);
            let mut top = [<$key>::MIN; $lanes];
            let mut bottom = [0; $lanes];
            let mut least = [<$word>::MAX; $lanes];
            let mut zeros: [$word; $lanes] = [0; $lanes];
            let (chunks, tail) = x.as_chunks::<$lanes>();
            for x in chunks {
                for l in 0..$lanes {
                    let magnitude = x[l] & !SIGN;
                    top[l] = x[l].cast_signed().max(top[l]);
                    bottom[l] = x[l].max(bottom[l]);
                    least[l] = magnitude.wrapping_sub(1).min(least[l]);
                    zeros[l] += <$word>::from(magnitude == 0);
                }
            }
            for (l, &x) in tail.iter().enumerate() {
                let magnitude = x & !SIGN;
                top[l] = x.cast_signed().max(top[l]);
                bottom[l] = x.max(bottom[l]);
                least[l] = magnitude.wrapping_sub(1).min(least[l]);
                zeros[l] += <$word>::from(magnitude == 0);
            }
            (
                top.into_iter().max().unwrap_or(<$key>::MIN),
                bottom.into_iter().max().unwrap_or(0),
                least.into_iter().min().unwrap_or(<$word>::MAX),
                zeros.into_iter().map(u64::from).sum(),
            )
        }
    };
}

word!(u8, i8, ends8, count8, 64);
word!(u16, i16, ends16, count16, 32);
word!(u32, i32, ends32, count32, 16);
word!(u64, i64, ends64, count64, 8);

/// Squares of `f32` magnitudes from 2⁻⁶⁰ …
pub(super) const SMALLEST: u64 = (127 - 60) << 23;
/// … to 2⁵⁸ neither vanish nor overflow, even a lane's full of them.
pub(super) const LARGEST: u64 = (127 + 58) << 23;

/// Bits of a float of 16 or 8 bits in the place of an `f32`'s, without its exponent's bias.
#[inline(always)]
fn small_float<const MANTISSA: u32, const EXPONENT: u32>(word: u32) -> f32 {
    let magnitude = word & ((1 << (MANTISSA + EXPONENT)) - 1);
    let bias = (1 << (EXPONENT - 1)) - 1;
    let normal = f32::from_bits((magnitude << (23 - MANTISSA)) + ((127 - bias) << 23));
    let unit = f32::from_bits((127 + 1 - bias - MANTISSA) << 23);
    let subnormal = magnitude.cast_signed() as f32 * unit;
    // Masks instead of a choice: a choice keeps the loop from becoming vector instructions.
    let is_subnormal = all_bits(magnitude < 1 << MANTISSA);
    let value = (subnormal.to_bits() & is_subnormal) | (normal.to_bits() & !is_subnormal);
    let sign = (word << (31 - MANTISSA - EXPONENT)) & (1 << 31);
    f32::from_bits(value | sign)
}

#[inline(always)]
fn all_bits(yes: bool) -> u32 {
    0u32.wrapping_sub(u32::from(yes))
}

macro_rules! moments {
    ($name:ident, $word:ty, |$x:ident| $value:expr, $doc:literal) => {
        #[doc = $doc]
        #[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
        pub(super) fn $name(x: &[$word]) -> (f64, f64) {
            let (mut total, mut total_squares) = (0f64, 0f64);
            for piece in x.chunks(FLUSH) {
                let (mut sum, mut squares) = ([0f32; LANES], [0f32; LANES]);
                let (chunks, tail) = piece.as_chunks::<LANES>();
                for chunk in chunks {
                    for l in 0..LANES {
                        let $x = chunk[l];
                        let value: f32 = $value;
                        sum[l] += value;
                        squares[l] += value * value;
                    }
                }
                for (l, &$x) in tail.iter().enumerate() {
                    let value: f32 = $value;
                    sum[l] += value;
                    squares[l] += value * value;
                }
                total += fold(sum);
                total_squares += fold(squares);
            }
            (total, total_squares)
        }
    };
}

moments!(moments_f32, u32, |x| f32::from_bits(x), "Sum and sum of squares of `float32` bits.");
/// Sum and sum of squares of `bfloat16` bits.
pub(super) fn moments_bf16(x: &[u16]) -> (f64, f64) {
    let mut wide = [0u32; BLOCK];
    let wide = &mut wide[..x.len()];
    widen_bf16(x, wide);
    moments_f32(wide)
}

// On its own: inside the loop of sums it keeps them from becoming vector instructions.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
fn widen_bf16(from: &[u16], to: &mut [u32]) {
    for (to, &from) in to.iter_mut().zip(from) {
        *to = u32::from(from) << 16;
    }
}

moments!(
    moments_f16,
    u16,
    |x| small_float::<10, 5>(u32::from(x)),
    "Sum and sum of squares of finite `float16` bits."
);
moments!(
    moments_e4m3,
    u8,
    |x| small_float::<3, 4>(u32::from(x)),
    "Sum and sum of squares of finite `float8_e4m3fn` bits."
);
moments!(
    moments_e5m2,
    u8,
    |x| small_float::<2, 5>(u32::from(x)),
    "Sum and sum of squares of finite `float8_e5m2` bits."
);

/// Sum and sum of squares of any finite values.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
pub(super) fn moments_f64(x: &[f64]) -> (f64, f64) {
    let (mut sum, mut squares) = ([0f64; 8], [0f64; 8]);
    let (chunks, tail) = x.as_chunks::<8>();
    for x in chunks {
        for l in 0..8 {
            sum[l] += x[l];
            squares[l] += x[l] * x[l];
        }
    }
    for (l, &x) in tail.iter().enumerate() {
        sum[l] += x;
        squares[l] += x * x;
    }
    (sum.iter().sum(), squares.iter().sum())
}

// Not inlined: the pairs of `f64` in here would make the compiler sum the lanes of `f32` in pairs as well.
#[inline(never)]
fn fold(lanes: [f32; LANES]) -> f64 {
    let mut wide = lanes.map(f64::from);
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for l in 0..width {
            wide[l] += wide[l + width];
        }
    }
    wide[0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;
    use crate::stats::decode;

    #[test]
    fn ends_of_every_length_agree_with_the_values() {
        let values = [3.5f32, -2.0, 0.0, -0.0, 1e-40, -7.25, 1e30, 0.5];
        let mixed = (1..100).map(|len| (0..len).map(|i| values[i * 5 % 8]).collect());
        let edges = [vec![-1.0, -2.0], vec![1.0, 2.0], vec![-1.0, -0.0], vec![0.0], vec![-0.0, 3.0]];
        for x in mixed.chain(edges) {
            let x: Vec<f32> = x;
            let bits: Vec<u32> = x.iter().map(|v| v.to_bits()).collect();
            let ends = u32::ends(&bits);
            assert_eq!(ends.zeros, x.iter().filter(|v| **v == 0.0).count() as u64);
            let close = |bits: u64, value: f32| (f32::from_bits(bits as u32) - value).abs() == 0.0;
            assert!(close(ends.high, x.iter().fold(f32::MIN, |m, &v| m.max(v))), "{x:?}");
            assert!(close(ends.low, x.iter().fold(f32::MAX, |m, &v| m.min(v))), "{x:?}");
            assert!(close(ends.most, x.iter().fold(0.0, |m, &v| m.max(v.abs()))), "{x:?}");
            let nonzero = x.iter().filter(|v| **v != 0.0).fold(f32::INFINITY, |m, v| m.min(v.abs()));
            assert!(close(ends.least, if nonzero.is_finite() { nonzero } else { 0.0 }), "{x:?}");
        }
    }

    #[test]
    fn every_small_float_has_the_decoders_value() {
        let finite = |x: f32| if x.is_finite() { x } else { 0.0 };
        for word in 0..=u16::MAX {
            let expected = finite(half::f16::from_bits(word).to_f32());
            if word & 0x7fff < 0x7c00 {
                assert_eq!(small_float::<10, 5>(u32::from(word)).to_bits(), expected.to_bits(), "{word:#x}");
            }
        }
        for byte in 0..=u8::MAX {
            let mut out = [0.0];
            decode::to_f32(DType::Float8E4M3Fn, &[byte], &mut out);
            if out[0].is_finite() {
                assert_eq!(small_float::<3, 4>(u32::from(byte)).to_bits(), out[0].to_bits(), "{byte:#x}");
            }
            decode::to_f32(DType::Float8E5M2, &[byte], &mut out);
            if out[0].is_finite() {
                assert_eq!(small_float::<2, 5>(u32::from(byte)).to_bits(), out[0].to_bits(), "{byte:#x}");
            }
        }
    }
}
