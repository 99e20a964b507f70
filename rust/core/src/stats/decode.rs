//! From bytes on disk to lanes of `f32` or `f64`, and what each dtype calls subnormal or near its maximum.

use std::sync::LazyLock;

use fearless_simd::{Level, dispatch, f32x16, prelude::*, u16x32};
use half::slice::HalfFloatSliceExt;

use crate::DType;
use crate::dtype::Kind;

/// The numbers a dtype's elements are measured as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lanes {
    /// Every value is exact in `f32`.
    F32,
    /// Values need `f64`; 64-bit integers are rounded to it, but their differences are exact.
    F64,
    /// Bytes without a numeric meaning.
    None,
}

/// The dtype of one number of an element: the part of a complex number, otherwise the dtype itself.
#[must_use]
pub fn component(dtype: DType) -> DType {
    match dtype {
        DType::Complex32 => DType::Float16,
        DType::Complex64 => DType::Float32,
        DType::Complex128 => DType::Float64,
        other => other,
    }
}

/// Numbers per element: 2 for complex dtypes.
#[must_use]
pub fn components(dtype: DType) -> u64 {
    if dtype.kind() == Kind::Complex { 2 } else { 1 }
}

/// Which lanes a dtype (not a complex one: its [`component`]) is measured in.
#[must_use]
pub fn lanes(dtype: DType) -> Lanes {
    match dtype {
        DType::Float64 | DType::Int64 | DType::Int32 | DType::UInt64 | DType::UInt32 => Lanes::F64,
        _ if dtype.kind() == Kind::Raw => Lanes::None,
        _ => Lanes::F32,
    }
}

/// What a floating dtype calls special.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Nonzero magnitudes below this are subnormal.
    pub normal: f64,
    /// Magnitudes above this are near the dtype's maximum: 0.9 of it.
    pub near_max: f64,
}

/// The limits of a dtype (of a complex one: its [`component`]'s). Integers have neither subnormal numbers
/// nor a maximum worth a warning.
#[must_use]
pub fn limits(dtype: DType) -> Limits {
    let (normal, max) = match dtype {
        DType::Float64 => (f64::MIN_POSITIVE, f64::MAX),
        DType::Float32 => (f64::from(f32::MIN_POSITIVE), f64::from(f32::MAX)),
        DType::Float16 => (2f64.powi(-14), 65504.0),
        DType::BFloat16 => (2f64.powi(-126), half::bf16::MAX.to_f64()),
        DType::Float8E4M3Fn => (2f64.powi(-6), 448.0),
        DType::Float8E5M2 => (2f64.powi(-14), 57344.0),
        DType::Float8E8M0 => (0.0, 2f64.powi(127)),
        DType::HiFloat8 => (2f64.powi(-15), 32768.0),
        _ => (0.0, f64::INFINITY),
    };
    Limits { normal, near_max: 0.9 * max }
}

/// Decodes elements of a dtype with [`Lanes::F32`]. `bytes` holds `out.len()` elements, aligned to them.
///
/// # Panics
/// On a dtype with other lanes, or unaligned bytes.
pub fn to_f32(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    match dtype {
        DType::Float32 => out.copy_from_slice(bytemuck::cast_slice(bytes)),
        DType::BFloat16 => bf16(bytemuck::cast_slice(bytes), out),
        DType::Float16 => bytemuck::cast_slice::<u8, half::f16>(bytes).convert_to_f32_slice(out),
        DType::Float8E4M3Fn => table(&E4M3FN, bytes, out),
        DType::Float8E5M2 => table(&E5M2, bytes, out),
        DType::Float8E8M0 => table(&E8M0, bytes, out),
        DType::HiFloat8 => table(&HIFLOAT8, bytes, out),
        DType::Int16 => widen(bytemuck::cast_slice::<u8, i16>(bytes), out),
        DType::UInt16 => widen(bytemuck::cast_slice::<u8, u16>(bytes), out),
        DType::Int8 => widen(bytemuck::cast_slice::<u8, i8>(bytes), out),
        DType::UInt8 => widen(bytes, out),
        DType::Bool => {
            for (to, &from) in out.iter_mut().zip(bytes) {
                *to = f32::from(u8::from(from != 0));
            }
        }
        _ => unreachable!("{dtype} is not measured in f32"),
    }
}

/// Decodes elements of any numeric dtype. `bytes` holds `out.len()` elements, aligned to them.
///
/// # Panics
/// On a dtype without numbers, or unaligned bytes.
pub fn to_f64(dtype: DType, bytes: &[u8], out: &mut [f64]) {
    match dtype {
        DType::Float64 => out.copy_from_slice(bytemuck::cast_slice(bytes)),
        DType::Int32 => widen(bytemuck::cast_slice::<u8, i32>(bytes), out),
        DType::UInt32 => widen(bytemuck::cast_slice::<u8, u32>(bytes), out),
        DType::Int64 => {
            for (to, &from) in out.iter_mut().zip(bytemuck::cast_slice::<u8, i64>(bytes)) {
                *to = from as f64;
            }
        }
        DType::UInt64 => {
            for (to, &from) in out.iter_mut().zip(bytemuck::cast_slice::<u8, u64>(bytes)) {
                *to = from as f64;
            }
        }
        _ => {
            let mut narrow = [0f32; 64];
            let size = dtype.size();
            for (to, from) in out.chunks_mut(64).zip(bytes.chunks(64 * size)) {
                let narrow = &mut narrow[..to.len()];
                to_f32(dtype, from, narrow);
                widen(narrow, to);
            }
        }
    }
}

/// Whether differences of these two dtypes are taken in integers.
#[must_use]
pub fn wide_integers(golden: DType, candidate: DType) -> bool {
    let wide = |d| matches!(d, DType::Int64 | DType::UInt64);
    wide(golden) && wide(candidate)
}

/// Differences candidate − golden of two 64-bit integer blocks, exact before they are rounded once.
pub fn integer_difference(golden: (DType, &[u8]), candidate: (DType, &[u8]), out: &mut [f64]) {
    let value = |(dtype, bytes): (DType, &[u8]), i: usize| {
        if dtype == DType::Int64 {
            i128::from(bytemuck::cast_slice::<u8, i64>(bytes)[i])
        } else {
            i128::from(bytemuck::cast_slice::<u8, u64>(bytes)[i])
        }
    };
    for (i, out) in out.iter_mut().enumerate() {
        *out = (value(candidate, i) - value(golden, i)) as f64;
    }
}

fn bf16(from: &[u16], to: &mut [f32]) {
    dispatch!(Level::new(), s => bf16_in(s, from, to));
}

#[inline(always)]
fn bf16_in<S: Simd>(s: S, from: &[u16], to: &mut [f32]) {
    let (from, from_tail) = from.as_chunks::<32>();
    let (to, to_tail) = to.as_chunks_mut::<32>();
    for (from, to) in from.iter().zip(to) {
        let (low, high) = u16x32::from_slice(s, from).widen();
        let (to_low, to_high) = to.split_at_mut(16);
        f32x16::store_slice(&(low << 16).bitcast(), to_low);
        f32x16::store_slice(&(high << 16).bitcast(), to_high);
    }
    for (&from, to) in from_tail.iter().zip(to_tail) {
        *to = f32::from_bits(u32::from(from) << 16);
    }
}

fn widen<T: Copy + Into<U>, U>(from: &[T], to: &mut [U]) {
    for (to, &from) in to.iter_mut().zip(from) {
        *to = from.into();
    }
}

type Table = [f32; 256];

fn table(table: &LazyLock<Table>, from: &[u8], to: &mut [f32]) {
    let table: &Table = table;
    for (to, &from) in to.iter_mut().zip(from) {
        *to = table[usize::from(from)];
    }
}

fn by_byte(decode: fn(u8) -> f64) -> Table {
    std::array::from_fn(|byte| decode(byte as u8) as f32)
}

static E4M3FN: LazyLock<Table> =
    LazyLock::new(|| by_byte(|b| if b & 0x7f == 0x7f { f64::NAN } else { small_float(b, 3, 7) }));
static E5M2: LazyLock<Table> = LazyLock::new(|| {
    by_byte(|b| match b & 0x7f {
        0x7c => f64::INFINITY.copysign(small_float(b, 2, 15)),
        0x7d.. => f64::NAN,
        _ => small_float(b, 2, 15),
    })
});
static E8M0: LazyLock<Table> =
    LazyLock::new(|| by_byte(|b| if b == 0xff { f64::NAN } else { 2f64.powi(i32::from(b) - 127) }));
static HIFLOAT8: LazyLock<Table> = LazyLock::new(|| by_byte(hifloat8));

/// Sign, exponent with a bias, mantissa; exponent 0 is subnormal.
fn small_float(byte: u8, mantissa_bits: u32, bias: i32) -> f64 {
    let one = 1u8 << mantissa_bits;
    let mantissa = f64::from(byte & (one - 1)) / f64::from(one);
    let exponent = i32::from((byte & 0x7f) >> mantissa_bits);
    let magnitude = if exponent == 0 {
        mantissa * 2f64.powi(1 - bias)
    } else {
        (1.0 + mantissa) * 2f64.powi(exponent - bias)
    };
    if byte & 0x80 == 0 { magnitude } else { -magnitude }
}

/// Ascend's `HiFloat8`: a prefix code after the sign tells how many exponent bits follow it.
fn hifloat8(byte: u8) -> f64 {
    match byte {
        0x00 => return 0.0,
        0x80 => return f64::NAN,
        0x6f => return f64::INFINITY,
        0xef => return f64::NEG_INFINITY,
        _ => {}
    }
    let sign = if byte & 0x80 == 0 { 1.0 } else { -1.0 };
    let bits = byte & 0x7f;
    let (exponent_bits, mantissa_bits) = match bits {
        0x60.. => (4, 1),
        0x40.. => (3, 2),
        0x20.. => (2, 3),
        0x10.. => (1, 3),
        0x08.. => (0, 3),
        _ => return sign * 2f64.powi(i32::from(bits) - 23),
    };
    let field = u32::from(bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
    let mantissa = f64::from(bits & ((1 << mantissa_bits) - 1)) / f64::from(1u8 << mantissa_bits);
    let exponent = if exponent_bits == 0 {
        0
    } else {
        // The first bit is the exponent's sign; its magnitude starts with a 1 that is not stored.
        let top = 1u32 << (exponent_bits - 1);
        let magnitude = (top | (field & (top - 1))).cast_signed();
        if field & top == 0 { magnitude } else { -magnitude }
    };
    sign * (1.0 + mantissa) * 2f64.powi(exponent)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(dtype: DType, byte: u8) -> f32 {
        let mut out = [0.0];
        to_f32(dtype, &[byte], &mut out);
        out[0]
    }

    #[test]
    fn hifloat8_follows_its_prefix_code() {
        let vectors = [
            (0x00, 0.0),
            (0x6f, f32::INFINITY),
            (0xef, f32::NEG_INFINITY),
            (0x01, 2f32.powi(-22)),
            (0x07, 2f32.powi(-16)),
            (0x08, 1.0),
            (0x0c, 1.5),
            (0x88, -1.0),
            (0x10, 2.0),
            (0x14, 3.0),
            (0x18, 0.5),
            (0x20, 4.0),
            (0x28, 8.0),
            (0x30, 0.25),
            (0x40, 16.0),
            (0x42, 24.0),
            (0x60, 256.0),
            (0x6e, 32768.0),
            (0x7f, 1.5 * 2f32.powi(-15)),
        ];
        for (byte, value) in vectors {
            assert_eq!(one(DType::HiFloat8, byte).to_bits(), value.to_bits(), "{byte:#x}");
        }
        assert!(one(DType::HiFloat8, 0x80).is_nan());
    }

    #[test]
    fn eight_bit_floats_follow_the_ocp_tables() {
        for (byte, value) in [(0x7e, 448.0), (0x08, 0.015_625), (0x01, 2f32.powi(-9)), (0xb8, -1.0)] {
            assert_eq!(one(DType::Float8E4M3Fn, byte).to_bits(), f32::to_bits(value), "{byte:#x}");
        }
        assert!(one(DType::Float8E4M3Fn, 0x7f).is_nan() && one(DType::Float8E4M3Fn, 0xff).is_nan());
        for (byte, value) in [(0x7b, 57344.0), (0x01, 2f32.powi(-16)), (0xfc, f32::NEG_INFINITY), (0x3c, 1.0)]
        {
            assert_eq!(one(DType::Float8E5M2, byte).to_bits(), f32::to_bits(value), "{byte:#x}");
        }
        assert!(one(DType::Float8E5M2, 0x7d).is_nan());
        for (byte, value) in [(0x7f, 1.0), (0x00, 2f32.powi(-127)), (0xfe, 2f32.powi(127))] {
            assert_eq!(one(DType::Float8E8M0, byte).to_bits(), f32::to_bits(value), "{byte:#x}");
        }
        assert!(one(DType::Float8E8M0, 0xff).is_nan());
    }

    #[test]
    fn every_half_decodes_as_the_half_crate_says() {
        let bits: Vec<u16> = (0..=u16::MAX).collect();
        let mut out = vec![0.0; bits.len()];
        to_f32(DType::Float16, bytemuck::cast_slice(&bits), &mut out);
        for (&bits, value) in bits.iter().zip(&out) {
            let expected = half::f16::from_bits(bits).to_f32();
            assert!(expected.to_bits() == value.to_bits() || (expected.is_nan() && value.is_nan()));
        }
        to_f32(DType::BFloat16, bytemuck::cast_slice(&bits), &mut out);
        for (&bits, value) in bits.iter().zip(&out) {
            let expected = half::bf16::from_bits(bits).to_f32();
            assert!(expected.to_bits() == value.to_bits() || (expected.is_nan() && value.is_nan()));
        }
    }

    #[test]
    fn integer_differences_keep_every_bit() {
        let (a, b) = ([i64::MAX, (1 << 53) + 1], [i64::MAX - 1, 1 << 53]);
        let mut out = [0.0; 2];
        integer_difference(
            (DType::Int64, bytemuck::cast_slice(&a)),
            (DType::Int64, bytemuck::cast_slice(&b)),
            &mut out,
        );
        assert_eq!(out.map(f64::to_bits), [-1.0f64, -1.0].map(f64::to_bits));
    }
}
