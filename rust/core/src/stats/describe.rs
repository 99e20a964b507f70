//! One tensor alone: counts, extremes, mean, norm, and a histogram on request.

use super::block32::{self, BLOCK};
use super::decode::{self, Lanes, Limits};
use super::side::Side;
use crate::{DType, Error, Result, Tensor};

/// Bins of a histogram.
pub const BINS: usize = 64;
/// Elements read at once.
const CHUNK: usize = 64 << 10;

/// What one tensor's values are like. Of complex elements both parts are counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TensorStats {
    /// Elements.
    pub elements: u64,
    /// Counts, extremes, sum and squares.
    pub side: Side,
    /// Values in [`BINS`] equal steps from the smallest to the largest finite value; empty when not asked for,
    /// or without finite values.
    pub histogram: Vec<u64>,
}

impl TensorStats {
    /// L2 norm of the finite values.
    #[must_use]
    pub fn norm(&self) -> f64 {
        self.side.squares.sqrt()
    }

    /// Root of the mean square of the finite values; NaN when there is none.
    #[must_use]
    pub fn rms(&self) -> f64 {
        (self.side.squares / self.side.finite as f64).sqrt()
    }
}

/// Reads a tensor once (twice for a histogram) and describes its values.
///
/// # Errors
/// When the elements have no numeric meaning, or reading fails.
pub fn describe(tensor: &Tensor, histogram: bool) -> Result<TensorStats> {
    let part = decode::component(tensor.info.dtype);
    if decode::lanes(part) == Lanes::None {
        return Err(Error::Invalid(format!("dtype {part}: packed elements have no known value")));
    }
    let limits = decode::limits(part);
    let mut stats = TensorStats { elements: tensor.info.numel(), ..TensorStats::default() };
    let mut wide = vec![0f64; BLOCK];
    blocks(tensor, |bytes| add(part, bytes, limits, &mut wide, &mut stats.side))?;
    if histogram && stats.side.finite > 0 {
        let (low, high) = (stats.side.min, stats.side.max);
        let scale = if high > low { BINS as f64 / (high - low) } else { 0.0 };
        let mut bins = vec![0u64; BINS];
        blocks(tensor, |bytes| {
            let wide = &mut wide[..bytes.len() / part.size()];
            decode::to_f64(part, bytes, wide);
            for x in wide.iter().filter(|x| x.is_finite()) {
                // The largest value belongs to the last bin; a range beyond f64 to the first.
                #[allow(clippy::cast_sign_loss, reason = "x is not below the smallest value")]
                let bin = ((x - low) * scale) as usize;
                bins[bin.min(BINS - 1)] += 1;
            }
        })?;
        stats.histogram = bins;
    }
    Ok(stats)
}

fn blocks(tensor: &Tensor, mut each: impl FnMut(&[u8])) -> Result<()> {
    let size = tensor.info.dtype.size();
    let part = decode::component(tensor.info.dtype).size();
    let mut space = vec![0u128; (CHUNK * size).div_ceil(16)];
    let count = tensor.info.numel();
    for first in (0..count).step_by(CHUNK) {
        let len = (count - first).min(CHUNK as u64) as usize;
        let bytes = &mut bytemuck::cast_slice_mut(&mut space)[..len * size];
        tensor.read_at(first, bytes)?;
        bytes.chunks(BLOCK * part).for_each(&mut each);
    }
    Ok(())
}

fn add(dtype: DType, bytes: &[u8], limits: Limits, wide: &mut [f64], side: &mut Side) {
    let len = bytes.len() / dtype.size();
    if decode::lanes(dtype) == Lanes::F32 {
        let mut narrow = [0f32; BLOCK];
        let narrow = &mut narrow[..len];
        decode::to_f32(dtype, bytes, narrow);
        let extent = block32::extent(narrow);
        if extent.sum.is_finite() {
            side.add_finite(narrow, &extent, limits);
            side.squares += narrow.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>();
            return;
        }
    }
    let wide = &mut wide[..len];
    decode::to_f64(dtype, bytes, wide);
    side.add_any(wide.iter().copied(), limits);
    side.squares += wide.iter().filter(|x| x.is_finite()).map(|x| x * x).sum::<f64>();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Storage, TensorInfo};

    fn tensor(values: &[f32]) -> Tensor {
        Tensor {
            info: TensorInfo::new(DType::Float32, vec![values.len() as u64]),
            strides: None,
            first: 0,
            storage: Storage::Memory(values.iter().flat_map(|v| v.to_le_bytes()).collect()),
            notes: Vec::new(),
        }
    }

    #[test]
    fn counts_extremes_and_bins_by_hand() {
        let values = [-2.0, 0.0, 1.0, 2.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e-40, 3.2e38];
        let stats = describe(&tensor(&values), false).unwrap();
        let side = stats.side;
        assert_eq!((side.finite, side.nan, side.pos_inf, side.neg_inf), (6, 1, 1, 1));
        assert_eq!((side.zero, side.subnormal, side.near_max), (1, 1, 1));
        let stats = describe(&tensor(&values[..4]), true).unwrap();
        let exact = [(stats.norm(), 3.0f64), (stats.side.mean(), 0.25), (stats.rms(), 1.5)];
        assert!(exact.iter().all(|(got, expected)| got.to_bits() == expected.to_bits()));
        assert_eq!(stats.histogram.iter().sum::<u64>(), 4);
        assert_eq!([0, 32, 48, 63].map(|i| stats.histogram[i]), [1, 1, 1, 1]);
    }

    #[test]
    fn equal_values_fill_one_bin() {
        let stats = describe(&tensor(&[3.0; 1000]), true).unwrap();
        assert_eq!(stats.histogram[0], 1000);
    }
}
