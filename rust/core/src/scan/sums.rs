//! Sum and sum of squares of one block of finite numbers.
//!
//! Lane `i % LANES` takes element `i` on every instruction set, and lanes are folded in a fixed order.

use fearless_simd::{Level, dispatch, f32x16, f64x8, i8x64, i16x32, i32x16, prelude::*, u16x32, u32x16};

use super::float::each;
use crate::stats::block32::folded;

/// Elements that are summed at once, or not.
pub(super) const BLOCK: usize = 2048;
/// Elements after which `f32` sums go on in `f64`.
const FLUSH: usize = 512;

/// Squares of `f32` magnitudes from 2⁻⁶⁰ …
pub(super) const SMALLEST: u64 = (127 - 60) << 23;
/// … to 2⁵⁸ neither vanish nor overflow, even a lane's full of them.
pub(super) const LARGEST: u64 = (127 + 58) << 23;

/// Of `float32` bits.
pub(super) fn of_f32(x: &[f32]) -> (f64, f64) {
    #[inline(always)]
    fn sums<S: Simd>(s: S, x: &[f32]) -> (f64, f64) {
        flushed::<_, _, 16>(
            s,
            x,
            0.0,
            #[inline(always)]
            |lanes, x| lanes.add(f32x16::from_slice(s, x)),
        )
    }
    dispatch!(Level::new(), s => sums(s, x))
}

/// Of `bfloat16` bits.
pub(super) fn of_bf16(x: &[u16]) -> (f64, f64) {
    #[inline(always)]
    fn sums<S: Simd>(s: S, x: &[u16]) -> (f64, f64) {
        flushed::<_, _, 32>(
            s,
            x,
            0,
            #[inline(always)]
            |lanes, x| {
                let (low, high) = u16x32::from_slice(s, x).widen();
                lanes.add((low << 16).bitcast());
                lanes.add((high << 16).bitcast());
            },
        )
    }
    dispatch!(Level::new(), s => sums(s, x))
}

/// Of `float16` bits.
pub(super) fn of_f16(x: &[i16]) -> (f64, f64) {
    #[inline(always)]
    fn sums<S: Simd>(s: S, x: &[i16]) -> (f64, f64) {
        flushed::<_, _, 32>(
            s,
            x,
            0,
            #[inline(always)]
            |lanes, x| {
                let (low, high) = i16x32::from_slice(s, x).widen();
                lanes.add(small_float::<S, 10, 5>(low));
                lanes.add(small_float::<S, 10, 5>(high));
            },
        )
    }
    dispatch!(Level::new(), s => sums(s, x))
}

/// Of `float8_e4m3fn` bits.
pub(super) fn of_e4m3(x: &[i8]) -> (f64, f64) {
    dispatch!(Level::new(), s => of_bytes::<_, 3, 4>(s, x))
}

/// Of `float8_e5m2` bits.
pub(super) fn of_e5m2(x: &[i8]) -> (f64, f64) {
    dispatch!(Level::new(), s => of_bytes::<_, 2, 5>(s, x))
}

#[inline(always)]
fn of_bytes<S: Simd, const MANTISSA: u32, const EXPONENT: u32>(s: S, x: &[i8]) -> (f64, f64) {
    flushed::<_, _, 64>(
        s,
        x,
        0,
        #[inline(always)]
        |lanes, x| {
            let (low, high) = i8x64::from_slice(s, x).widen();
            for half in [low, high] {
                let (low, high) = half.widen();
                lanes.add(small_float::<S, MANTISSA, EXPONENT>(low));
                lanes.add(small_float::<S, MANTISSA, EXPONENT>(high));
            }
        },
    )
}

/// Of any finite values.
pub(super) fn of_f64(x: &[f64]) -> (f64, f64) {
    #[inline(always)]
    fn sums<S: Simd>(s: S, x: &[f64]) -> (f64, f64) {
        let (mut sum, mut squares) = (f64x8::splat(s, 0.0), f64x8::splat(s, 0.0));
        each::<_, 8>(
            x,
            0.0,
            #[inline(always)]
            |x| {
                let x = f64x8::from_slice(s, x);
                sum += x;
                squares += x * x;
            },
        );
        (sum.reduce_sum(), squares.reduce_sum())
    }
    dispatch!(Level::new(), s => sums(s, x))
}

/// Values of float bits, which were widened with their sign.
#[inline(always)]
fn small_float<S: Simd, const MANTISSA: u32, const EXPONENT: u32>(words: i32x16<S>) -> f32x16<S> {
    let (s, bias) = (words.token(), (1 << (EXPONENT - 1)) - 1);
    let placed: u32x16<S> = (words << (23 - MANTISSA)).bitcast();
    let magnitude = placed & (((1 << (MANTISSA + EXPONENT)) - 1) << (23 - MANTISSA));
    // With the smallest exponent the leading bit is not there: right is then twice the value minus that bit, which
    // is more than the value for every other exponent. Never a subnormal `f32`, which some processors are slow at.
    let normal = magnitude + ((127 - bias) << 23);
    let twice: f32x16<S> = (magnitude + ((128 - bias) << 23)).bitcast();
    let leading = f32x16::splat(s, f32::from_bits((128 - bias) << 23));
    let value = normal.min((twice - leading).bitcast::<u32x16<S>>());
    (value | (placed & (1 << 31))).bitcast()
}

/// Lanes of sums.
struct Sums<S: Simd> {
    sum: f32x16<S>,
    squares: f32x16<S>,
}

impl<S: Simd> Sums<S> {
    #[inline(always)]
    fn add(&mut self, x: f32x16<S>) {
        self.sum += x;
        self.squares += x * x;
    }
}

#[inline(always)]
fn flushed<S: Simd, T: Copy, const N: usize>(
    s: S,
    x: &[T],
    zero: T,
    mut add: impl FnMut(&mut Sums<S>, &[T; N]),
) -> (f64, f64) {
    let (mut sum, mut squares) = (0.0, 0.0);
    for piece in x.chunks(FLUSH) {
        let mut lanes = Sums { sum: f32x16::splat(s, 0.0), squares: f32x16::splat(s, 0.0) };
        each::<_, N>(
            piece,
            zero,
            #[inline(always)]
            |x| add(&mut lanes, x),
        );
        sum += folded(lanes.sum);
        squares += folded(lanes.squares);
    }
    (sum, squares)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;
    use crate::stats::decode;

    #[test]
    fn every_small_float_has_the_decoders_value() {
        let check = |dtype: DType, bytes: &[u8], found: (f64, f64)| {
            let mut value = [0.0];
            decode::to_f64(dtype, bytes, &mut value);
            if value[0].is_finite() {
                assert_eq!(found.0.to_bits(), value[0].to_bits(), "{dtype} {bytes:x?}");
                let square = f64::from(value[0] as f32 * value[0] as f32);
                assert_eq!(found.1.to_bits(), square.to_bits(), "{dtype} {bytes:x?}");
            }
        };
        // Zeros have no sign in a sum.
        for word in (0..=u16::MAX).filter(|w| w << 1 != 0) {
            let bytes = word.to_ne_bytes();
            check(DType::Float16, &bytes, of_f16(&[word.cast_signed()]));
            check(DType::BFloat16, &bytes, of_bf16(&[word]));
        }
        for byte in (0..=u8::MAX).filter(|b| b << 1 != 0) {
            check(DType::Float8E4M3Fn, &[byte], of_e4m3(&[byte.cast_signed()]));
            check(DType::Float8E5M2, &[byte], of_e5m2(&[byte.cast_signed()]));
        }
    }

    #[test]
    fn sums_of_every_length_are_those_of_the_values() {
        for len in [1, 15, 16, 63, 64, 65, 511, 512, 513, BLOCK] {
            let values: Vec<f32> = (0..len).map(|i| (i as f32 * 0.37).sin() * 5.0).collect();
            let halves: Vec<half::f16> = values.iter().map(|&v| half::f16::from_f32(v)).collect();
            let close = |found: (f64, f64), values: &mut dyn Iterator<Item = f64>| {
                let (sum, squares) = values.fold((0.0, 0.0), |(s, q), v| (s + v, q + v * v));
                assert!((found.0 - sum).abs() <= 1e-6 * squares, "{len}: {found:?} {sum}");
                assert!((found.1 - squares).abs() <= 1e-6 * squares, "{len}: {found:?} {squares}");
            };
            close(of_f32(&values), &mut values.iter().map(|&v| f64::from(v)));
            close(of_f16(bytemuck::cast_slice(&halves)), &mut halves.iter().map(|v| v.to_f64()));
            let bytes: Vec<i8> = (0..len).map(|i| (i * 37 % 127) as i8).collect();
            let mut wide = vec![0.0; len];
            decode::to_f64(DType::Float8E4M3Fn, bytemuck::cast_slice(&bytes), &mut wide);
            close(of_e4m3(&bytes), &mut wide.iter().copied());
        }
    }
}
