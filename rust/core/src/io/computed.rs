//! Tensors that are in no file: put together from others, a stretch at a time, when they are read.

use crate::dtype::Kind;
use crate::stats::decode;
use crate::{DType, Error, Result, Tensor};

/// Elements decoded at once.
const CHUNK: usize = 16 << 10;

/// How the elements of a row-major tensor come from those of others.
#[derive(Clone, Debug)]
pub enum Computed {
    /// Row by row, each part's elements after the one before's.
    Joined {
        /// The parts, all of one dtype.
        parts: Vec<Tensor>,
        /// How many elements each part gives to a row.
        widths: Vec<u64>,
    },
    /// Element by element sum of tensors of equal size, as float32 or, of float64, float64.
    Sum {
        /// The terms.
        parts: Vec<Tensor>,
    },
    /// `(x − offset) · scale` as float32.
    Dequantised {
        /// The integers, row-major.
        values: Box<Tensor>,
        /// Scales: one, one for each row, or one for each column.
        scale: Vec<f32>,
        /// As many offsets, or none.
        offset: Vec<f32>,
        /// Elements of a row.
        cols: u64,
        /// Whether a scale belongs to a row; otherwise to a column.
        by_row: bool,
    },
}

impl Computed {
    /// Dtype of the elements.
    #[must_use]
    pub fn dtype(&self) -> DType {
        match self {
            Self::Joined { parts, .. } => parts[0].info.dtype,
            Self::Sum { parts } if parts.iter().any(|p| p.info.dtype == DType::Float64) => DType::Float64,
            Self::Sum { .. } | Self::Dequantised { .. } => DType::Float32,
        }
    }

    /// Number of elements.
    #[must_use]
    pub fn numel(&self) -> u64 {
        match self {
            Self::Joined { parts, .. } => parts.iter().map(|p| p.info.numel()).sum(),
            Self::Sum { parts } => parts[0].info.numel(),
            Self::Dequantised { values, .. } => values.info.numel(),
        }
    }

    /// Length in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.numel() * self.dtype().size() as u64
    }

    /// Reads the bytes from `at` on; whole elements only.
    ///
    /// # Errors
    /// As [`Tensor::read_at`] of the parts.
    pub(crate) fn read(&self, at: u64, out: &mut [u8]) -> Result<()> {
        let size = self.dtype().size() as u64;
        if !at.is_multiple_of(size) || !(out.len() as u64).is_multiple_of(size) {
            return Err(Error::Invalid("a computed tensor is read by whole elements".into()));
        }
        match self {
            Self::Joined { parts, widths } => joined(parts, widths, at / size, out),
            Self::Sum { parts } => {
                in_chunks(at / size, out, self.dtype(), |first, sums| sum(parts, first, sums))
            }
            Self::Dequantised { values, scale, offset, cols, by_row } => {
                in_chunks(at / size, out, DType::Float32, |first, numbers| {
                    read_numbers(values, first, numbers)?;
                    for (number, i) in numbers.iter_mut().zip(first..) {
                        let channel = if *by_row { i / cols } else { i % cols } as usize;
                        let of = |list: &[f32], none: f32| {
                            list.get(if list.len() == 1 { 0 } else { channel }).copied().unwrap_or(none)
                        };
                        *number = (*number - f64::from(of(offset, 0.0))) * f64::from(of(scale, 1.0));
                    }
                    Ok(())
                })
            }
        }
    }
}

fn joined(parts: &[Tensor], widths: &[u64], first: u64, out: &mut [u8]) -> Result<()> {
    let size = parts[0].info.dtype.size();
    let row_width: u64 = widths.iter().sum();
    let (mut at, end) = (first, first + (out.len() / size) as u64);
    let mut rest = out;
    while at < end {
        let (row, within) = (at / row_width, at % row_width);
        let whole_rows = if within == 0 { (end - at) / row_width } else { 0 };
        if whole_rows > 1 {
            let (rows, later) = rest.split_at_mut((whole_rows * row_width) as usize * size);
            whole(parts, widths, row, whole_rows, rows)?;
            at += whole_rows * row_width;
            rest = later;
            continue;
        }
        let mut start = 0;
        let part = widths.iter().position(|w| {
            let inside = within < start + w;
            start += if inside { 0 } else { *w };
            inside
        });
        let Some(part) = part else { return Err(Error::Invalid("a row of no elements".into())) };
        let taken = (start + widths[part] - within).min(end - at);
        let (piece, later) = rest.split_at_mut(taken as usize * size);
        parts[part].read_at(row * widths[part] + within - start, piece)?;
        at += taken;
        rest = later;
    }
    Ok(())
}

/// Whole rows: each part is read once and spread over them.
fn whole(parts: &[Tensor], widths: &[u64], row: u64, rows: u64, out: &mut [u8]) -> Result<()> {
    let size = parts[0].info.dtype.size();
    let row_bytes = widths.iter().sum::<u64>() as usize * size;
    let mut start = 0;
    for (part, &width) in parts.iter().zip(widths) {
        let bytes = width as usize * size;
        let mut own = vec![0; bytes * rows as usize];
        part.read_at(row * width, &mut own)?;
        if bytes > 0 {
            for (to, from) in out.chunks_exact_mut(row_bytes).zip(own.chunks_exact(bytes)) {
                to[start..start + bytes].copy_from_slice(from);
            }
        }
        start += bytes;
    }
    Ok(())
}

fn in_chunks(
    first: u64,
    out: &mut [u8],
    dtype: DType,
    compute: impl Fn(u64, &mut [f64]) -> Result<()>,
) -> Result<()> {
    let size = dtype.size();
    let mut numbers = vec![0f64; CHUNK.min(out.len() / size)];
    let mut at = first;
    for chunk in out.chunks_mut(CHUNK * size) {
        let numbers = &mut numbers[..chunk.len() / size];
        compute(at, numbers)?;
        at += numbers.len() as u64;
        for (to, &number) in chunk.chunks_exact_mut(size).zip(numbers.iter()) {
            match dtype {
                DType::Float64 => to.copy_from_slice(&number.to_le_bytes()),
                _ => to.copy_from_slice(&(number as f32).to_le_bytes()),
            }
        }
    }
    Ok(())
}

fn sum(parts: &[Tensor], first: u64, sums: &mut [f64]) -> Result<()> {
    let mut term = vec![0f64; sums.len()];
    sums.fill(0.0);
    for part in parts {
        read_numbers(part, first, &mut term)?;
        for (sum, term) in sums.iter_mut().zip(&term) {
            *sum += term;
        }
    }
    Ok(())
}

/// Reads elements as numbers.
///
/// # Errors
/// As [`Tensor::read_at`], and for a dtype without numbers.
pub(crate) fn read_numbers(tensor: &Tensor, first: u64, out: &mut [f64]) -> Result<()> {
    let dtype = tensor.info.dtype;
    if matches!(dtype.kind(), Kind::Raw | Kind::Complex) {
        return Err(Error::Invalid(format!("elements of {dtype} cannot be computed with")));
    }
    let bytes = out.len() * dtype.size();
    let mut words = vec![0u64; bytes.div_ceil(8)];
    let raw = &mut bytemuck::cast_slice_mut::<u64, u8>(&mut words)[..bytes];
    tensor.read_at(first, raw)?;
    decode::to_f64(dtype, raw, out);
    Ok(())
}
