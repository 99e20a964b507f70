//! Sixty-four values of a tensor at fixed places: enough to know it again, cheap enough to read for every tensor.

use std::os::unix::fs::FileExt;

use half::{bf16, f16};

use crate::dtype::Kind;
use crate::{DType, Storage, Tensor};

/// Values in a sketch.
pub(super) const LEN: usize = 64;

/// A tensor of up to this many bytes is read whole, which is cheaper than one read for each value.
const WHOLE: u64 = 64 << 10;

/// The places of a sketch in a tensor of `numel` elements: golden-ratio steps, so that no axis repeats them.
#[expect(clippy::cast_sign_loss, reason = "a fraction of a count is not negative")]
pub(super) fn positions(numel: u64) -> Vec<u64> {
    if numel <= LEN as u64 {
        return (0..numel).collect();
    }
    let mut at: Vec<u64> = (0..LEN)
        .map(|i| {
            let fraction = (i as f64 + 0.5) * 0.618_033_988_749_894_9;
            ((fraction.fract() * numel as f64) as u64).min(numel - 1)
        })
        .collect();
    at.sort_unstable();
    at.dedup();
    at
}

/// Reads the elements at `positions` (row-major, whatever the strides) as numbers. `None` when the dtype has no
/// meaning as a number or the bytes cannot be read.
pub(super) fn read(tensor: &Tensor, positions: &[u64]) -> Option<Vec<f64>> {
    let dtype = tensor.info.dtype;
    if matches!(dtype.kind(), Kind::Raw | Kind::Complex) {
        return None;
    }
    let size = dtype.size() as u64;
    let whole = (tensor.storage.len() <= WHOLE).then(|| read_range(&tensor.storage, 0, tensor.storage.len()));
    if let Some(None) = whole {
        return None;
    }
    let whole = whole.flatten();
    let mut element = [0u8; 8];
    positions
        .iter()
        .map(|&position| {
            let start = place(tensor, position).checked_mul(size)?;
            let bytes = &mut element[..size as usize];
            match &whole {
                Some(all) => bytes.copy_from_slice(all.get(start as usize..(start + size) as usize)?),
                None => read_into(&tensor.storage, start, bytes)?,
            }
            decode(dtype, bytes)
        })
        .collect()
}

/// Where in the storage the element at a row-major position lies.
fn place(tensor: &Tensor, position: u64) -> u64 {
    let Some(strides) = &tensor.strides else { return tensor.first + position };
    let mut rest = position;
    let mut at = tensor.first;
    for (&size, &stride) in tensor.info.shape.iter().zip(strides).rev() {
        at += rest % size.max(1) * stride;
        rest /= size.max(1);
    }
    at
}

fn read_range(storage: &Storage, start: u64, len: u64) -> Option<Vec<u8>> {
    let mut bytes = vec![0; len as usize];
    read_into(storage, start, &mut bytes)?;
    Some(bytes)
}

fn read_into(storage: &Storage, start: u64, out: &mut [u8]) -> Option<()> {
    match storage {
        Storage::File { file, offset, .. } => file.read_exact_at(out, offset + start).ok(),
        Storage::Memory(_) | Storage::Computed(_) => storage.read(start, out).ok(),
    }
}

/// One element as a number.
fn decode(dtype: DType, bytes: &[u8]) -> Option<f64> {
    let value = match dtype {
        DType::Float64 => f64::from_le_bytes(bytes.try_into().ok()?),
        DType::Float32 => f32::from_le_bytes(bytes.try_into().ok()?).into(),
        DType::Float16 => f16::from_le_bytes(bytes.try_into().ok()?).to_f64(),
        DType::BFloat16 => bf16::from_le_bytes(bytes.try_into().ok()?).to_f64(),
        DType::Int64 => i64::from_le_bytes(bytes.try_into().ok()?) as f64,
        DType::Int32 => i32::from_le_bytes(bytes.try_into().ok()?).into(),
        DType::Int16 => i16::from_le_bytes(bytes.try_into().ok()?).into(),
        DType::Int8 => i8::from_le_bytes(bytes.try_into().ok()?).into(),
        DType::UInt64 => u64::from_le_bytes(bytes.try_into().ok()?) as f64,
        DType::UInt32 => u32::from_le_bytes(bytes.try_into().ok()?).into(),
        DType::UInt16 => u16::from_le_bytes(bytes.try_into().ok()?).into(),
        DType::UInt8 | DType::Bool => bytes[0].into(),
        _ => return None,
    };
    Some(value)
}

/// How alike two readings of the same places are: 1 − ‖a−b‖ / ‖a‖+‖b‖, over the places finite on both sides.
/// Unlike the cosine it sees a factor. `None` where there is nothing to tell by: empty, or all zero.
pub(super) fn likeness(a: &[f64], b: &[f64]) -> Option<f64> {
    let (mut aa, mut bb, mut dd, mut n) = (0.0, 0.0, 0.0, 0);
    for (&x, &y) in a.iter().zip(b) {
        if x.is_finite() && y.is_finite() {
            aa += x * x;
            bb += y * y;
            dd += (x - y) * (x - y);
            n += 1;
        }
    }
    let size = f64::sqrt(aa) + f64::sqrt(bb);
    (n > 0 && size > 0.0).then(|| 1.0 - f64::sqrt(dd) / size)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::TensorInfo;

    fn tensor(dtype: DType, shape: &[u64], strides: Option<Vec<u64>>, bytes: Vec<u8>) -> Tensor {
        let info = TensorInfo::new(dtype, shape.to_vec());
        Tensor::new(info, strides, 0, Storage::Memory(bytes.into()), Path::new("t")).unwrap()
    }

    #[test]
    fn positions_are_inside_and_spread() {
        assert!(positions(0).is_empty());
        assert_eq!(positions(3), [0, 1, 2]);
        let at = positions(1 << 40);
        assert_eq!(at.len(), LEN);
        assert!(at[0] < 1 << 35 && at[63] > (1 << 40) - (1 << 35) && at[63] < 1 << 40);
    }

    #[test]
    fn strided_elements_are_read_in_logical_order() {
        let bytes: Vec<u8> = (0..6i32).flat_map(i32::to_le_bytes).collect();
        let t = tensor(DType::Int32, &[3, 2], Some(vec![1, 3]), bytes);
        assert_eq!(read(&t, &[0, 1, 2, 3, 4, 5]).unwrap(), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    }

    #[test]
    fn big_and_small_reads_agree() {
        let bytes: Vec<u8> = (0..100_000u32).flat_map(|i| (i as f32).to_le_bytes()).collect();
        let t = tensor(DType::Float32, &[100_000], None, bytes);
        assert_eq!(read(&t, &[0, 77_777]).unwrap(), [0.0, 77_777.0]);
    }

    #[test]
    fn likeness_sees_factors_and_ignores_nan() {
        assert!((likeness(&[1.0, 2.0], &[1.0, 2.0]).unwrap() - 1.0).abs() < 1e-12);
        assert!((likeness(&[1.0, f64::NAN], &[3.0, 1.0]).unwrap() - 0.5).abs() < 1e-12);
        assert_eq!(likeness(&[0.0], &[0.0]), None);
        assert_eq!(likeness(&[], &[]), None);
    }
}
