//! One tensor in about two kilobytes: statistics, and a sketch by which two tensors are held against each other
//! without the bytes of either.
//!
//! A sketch is a fixed random projection, the norms of groups of rows, and the values at fixed positions. Element
//! `i` of the flattened tensor is added with a random sign to bucket `i % BUCKETS` of the projection (a count
//! sketch, Charikar et al. 2002), so that the squared norm of the difference of two projections has the squared
//! norm of the tensors' difference for its mean, and at most `sqrt(2 / BUCKETS)` of it for its deviation. The
//! number of buckets is prime so that the elements of one channel spread over all of them.

use std::sync::LazyLock;

use fearless_simd::{Level, dispatch, f32x16, prelude::*};
use rayon::prelude::*;
use xxhash_rust::xxh3::Xxh3;

use super::block32::{self, BLOCK, LANES, LARGEST};
use super::decode::{self, Lanes, Limits};
use super::side::Side;
use crate::{DType, Error, Result, Tensor, TensorInfo};

/// Numbers of the projection.
pub const BUCKETS: usize = 193;
/// Most values that are kept as they are.
pub const SAMPLES: u64 = 64;
/// Most row norms; a tensor with more rows has the norms of groups of neighbouring rows.
pub const ROW_NORMS: u64 = 256;
/// Elements after which the table of signs begins again, with new signs for each bucket.
const TURN: usize = 64 * BUCKETS;
/// Components that one thread works on at a time.
const PART: u64 = 16 * TURN as u64;
/// Below this a square is lost in `f32`.
const SMALLEST: f32 = 1.0 / (1u64 << 48) as f32;

/// What is kept of a tensor instead of its bytes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    /// Elements.
    pub elements: u64,
    /// Counts, extremes, sum and squares; of complex elements both parts are counted.
    pub side: Side,
    /// Projection, then row norms, then samples; empty when not asked for.
    pub sketch: Vec<f32>,
}

/// Rows per norm of a sketch, and how many norms there are.
#[must_use]
pub fn row_groups(shape: &[u64]) -> (u64, u64) {
    let rows: u64 = shape.split_last().map_or(1, |(_, leading)| leading.iter().product());
    let each = rows.div_ceil(ROW_NORMS).max(1);
    (each, rows.div_ceil(each))
}

/// The positions whose values a sketch keeps.
pub fn samples(elements: u64) -> impl Iterator<Item = u64> {
    let count = elements.min(SAMPLES);
    (0..count).map(move |k| {
        if elements <= SAMPLES {
            k
        } else {
            (u128::from(2 * k + 1) * u128::from(elements) / u128::from(2 * SAMPLES)) as u64
        }
    })
}

/// Summarises a tensor whose bytes are in memory, row-major.
///
/// # Errors
/// When the elements have no numeric meaning, or `bytes` are not as many as `info` says.
pub fn of_bytes(info: &TensorInfo, bytes: &[u8], sketch: bool) -> Result<Summary> {
    let size = info.dtype.size();
    if info.checked_numel().and_then(|n| n.checked_mul(size as u64)) != Some(bytes.len() as u64) {
        return Err(Error::Invalid(format!("{} bytes for a tensor of {info}", bytes.len())));
    }
    let aligned = (bytes.as_ptr() as usize).is_multiple_of(16.min(size));
    summary(info, sketch, &|first, count, buffer: &mut Vec<u128>, work: &mut dyn FnMut(&[u8])| {
        let bytes = &bytes[first as usize * size..][..count * size];
        if aligned {
            work(bytes);
        } else {
            let copy = resized(buffer, bytes.len());
            copy.copy_from_slice(bytes);
            work(copy);
        }
        Ok(())
    })
}

/// Summarises a located tensor.
///
/// # Errors
/// When the elements have no numeric meaning, or reading fails.
pub fn of_tensor(tensor: &Tensor, sketch: bool) -> Result<Summary> {
    let size = tensor.info.dtype.size();
    summary(&tensor.info, sketch, &|first, count, buffer: &mut Vec<u128>, work: &mut dyn FnMut(&[u8])| {
        let bytes = resized(buffer, count * size);
        tensor.read_at(first, bytes)?;
        work(bytes);
        Ok(())
    })
}

/// XXH3 (128 bit) of a tensor's bytes, in hexadecimal.
///
/// # Errors
/// When reading fails.
pub fn hash_of_tensor(tensor: &Tensor) -> Result<String> {
    let size = tensor.info.dtype.size();
    let (count, step) = (tensor.info.numel(), (1usize << 20) / size);
    let mut hasher = Xxh3::new();
    let mut buffer = Vec::new();
    for first in (0..count).step_by(step) {
        let bytes = resized(&mut buffer, (count - first).min(step as u64) as usize * size);
        tensor.read_at(first, bytes)?;
        hasher.update(bytes);
    }
    Ok(format!("{:032x}", hasher.digest128()))
}

/// XXH3 (128 bit) of bytes in memory, in hexadecimal.
#[must_use]
pub fn hash_of_bytes(bytes: &[u8]) -> String {
    format!("{:032x}", xxhash_rust::xxh3::xxh3_128(bytes))
}

/// Gives `count` elements from `first` on to the function; the buffer is for those that must be read or aligned.
type Source<'a> = dyn Fn(u64, usize, &mut Vec<u128>, &mut dyn FnMut(&[u8])) -> Result<()> + Sync + 'a;

fn resized(buffer: &mut Vec<u128>, len: usize) -> &mut [u8] {
    buffer.resize(len.div_ceil(16), 0);
    &mut bytemuck::cast_slice_mut(buffer)[..len]
}

fn summary(info: &TensorInfo, sketch: bool, source: &Source<'_>) -> Result<Summary> {
    let part = decode::component(info.dtype);
    if decode::lanes(part) == Lanes::None {
        return Err(Error::Invalid(format!("dtype {part}: packed elements have no known value")));
    }
    let components = decode::components(info.dtype);
    let (rows_each, groups) = row_groups(&info.shape);
    let elements = info.numel();
    let work = Work {
        dtype: part,
        limits: decode::limits(part),
        sketch,
        group: rows_each * info.shape.last().copied().unwrap_or(1) * components,
    };
    let step = PART / components;
    let pieces: Vec<u64> = (0..elements).step_by(step as usize).collect();
    let measure = |&first: &u64| {
        let mut buffer = Vec::new();
        let mut sums = Sums::new(&work, first * components);
        source(first, (elements - first).min(step) as usize, &mut buffer, &mut |bytes| {
            sums.add(&work, first * components, bytes);
        })?;
        Ok(sums)
    };
    let sums: Vec<Sums> = if pieces.len() > 1 {
        pieces.par_iter().map(measure).collect::<Result<_>>()?
    } else {
        pieces.iter().map(measure).collect::<Result<_>>()?
    };
    let mut out = Summary { elements, ..Summary::default() };
    let mut projection = [0f64; BUCKETS];
    let mut squares = vec![0f64; if sketch { groups as usize } else { 0 }];
    for sums in &sums {
        out.side.merge(&sums.side);
        if sketch {
            projection.iter_mut().zip(&sums.projection).for_each(|(to, from)| *to += from);
            squares[sums.first_group..].iter_mut().zip(&sums.squares).for_each(|(to, from)| *to += from);
        }
    }
    if sketch {
        out.sketch.extend(projection.map(narrowed));
        out.sketch.extend(squares.iter().map(|square| narrowed(square.sqrt())));
        let mut buffer = Vec::new();
        for position in samples(elements) {
            source(position, 1, &mut buffer, &mut |bytes| {
                let mut value = [0f64; 2];
                let value = &mut value[..components as usize];
                decode::to_f64(part, bytes, value);
                out.sketch.push(value[0] as f32);
            })?;
        }
    }
    Ok(out)
}

/// What all parts of a tensor share.
struct Work {
    dtype: DType,
    limits: Limits,
    sketch: bool,
    /// Components of a group of rows.
    group: u64,
}

/// Sums over one part.
struct Sums {
    side: Side,
    projection: Box<[f64]>,
    first_group: usize,
    squares: Vec<f64>,
}

impl Sums {
    fn new(work: &Work, first: u64) -> Self {
        let first_group = first.checked_div(work.group).unwrap_or(0) as usize;
        Self {
            side: Side::default(),
            projection: vec![0f64; if work.sketch { BUCKETS } else { 0 }].into(),
            first_group,
            squares: Vec::new(),
        }
    }

    /// Adds the components of a part that begins at component `first`, a multiple of [`TURN`].
    fn add(&mut self, work: &Work, first: u64, bytes: &[u8]) {
        let size = work.dtype.size();
        let (mut narrow, mut wide) = ([0f32; BLOCK], [0f64; BLOCK]);
        for (t, turn) in bytes.chunks(TURN * size).enumerate() {
            let mut buckets = [0f32; BUCKETS];
            let begin = first + (t * TURN) as u64;
            let mut at = 0;
            while at < turn.len() / size {
                let position = begin + at as u64;
                let in_group = (work.group - position % work.group).min(BLOCK as u64) as usize;
                let len = in_group.min(turn.len() / size - at);
                let block = &turn[at * size..][..len * size];
                let (values, squares) = self.block(work, block, &mut narrow[..len], &mut wide[..len]);
                self.side.squares += squares;
                if work.sketch {
                    project(values, at, &SIGNS, &mut buckets);
                    let group = (position / work.group) as usize - self.first_group;
                    if group == self.squares.len() {
                        self.squares.push(0.0);
                    }
                    self.squares[group] += squares;
                }
                at += len;
            }
            let turn = begin / TURN as u64;
            for (b, (sum, bucket)) in self.projection.iter_mut().zip(&buckets).enumerate() {
                *sum += f64::from(*bucket) * turn_sign(turn, b);
            }
        }
    }

    /// Adds one block to the statistics; its values, finite ones only, and their squares. The buffers hold values
    /// that do not lie in `bytes` as they are.
    fn block<'a>(
        &mut self,
        work: &Work,
        bytes: &'a [u8],
        narrow: &'a mut [f32],
        wide: &mut [f64],
    ) -> (&'a [f32], f64) {
        let direct: Option<&[f32]> = (work.dtype == DType::Float32 && cfg!(target_endian = "little"))
            .then(|| bytemuck::cast_slice(bytes));
        if decode::lanes(work.dtype) == Lanes::F32 {
            if direct.is_none() {
                decode::to_f32(work.dtype, bytes, narrow);
            }
            if let Some(squares) = self.finite_block(work, direct.unwrap_or(narrow)) {
                return (direct.unwrap_or(narrow), squares);
            }
        }
        decode::to_f64(work.dtype, bytes, wide);
        self.side.add_any(wide.iter().copied(), work.limits);
        for (to, &from) in narrow.iter_mut().zip(wide.iter()) {
            *to = if from.is_finite() { narrowed(from) } else { 0.0 };
        }
        let squares = wide.iter().filter(|x| x.is_finite()).map(|x| x * x).sum();
        (narrow, squares)
    }

    /// Adds a block of finite values; its squares, or none when a value is not finite.
    fn finite_block(&mut self, work: &Work, values: &[f32]) -> Option<f64> {
        let (extent, squares) = block32::extent_and_squares(values);
        if !extent.sum.is_finite() {
            return None;
        }
        self.side.add_finite(values, &extent, work.limits);
        let farthest = extent.farthest();
        Some(if farthest == 0.0 || (SMALLEST..LARGEST).contains(&farthest) {
            squares
        } else {
            values.iter().map(|&x| f64::from(x) * f64::from(x)).sum()
        })
    }
}

/// As `f32`, the largest of which stands for all beyond.
fn narrowed(x: f64) -> f32 {
    x.clamp(f64::from(f32::MIN), f64::from(f32::MAX)) as f32
}

/// Adds signed values to their buckets; `at` is the place of the first within its turn.
fn project(x: &[f32], at: usize, signs: &[f32], buckets: &mut [f32; BUCKETS]) {
    dispatch!(Level::new(), s => project_in(s, x, at, signs, buckets));
}

#[inline(always)]
fn project_in<S: Simd>(s: S, mut x: &[f32], mut at: usize, signs: &[f32], buckets: &mut [f32; BUCKETS]) {
    while !x.is_empty() {
        let bucket = at % BUCKETS;
        let len = x.len().min(BUCKETS - bucket);
        let (now, rest) = x.split_at(len);
        let (sums, sums_tail) = buckets[bucket..bucket + len].as_chunks_mut::<LANES>();
        let (values, values_tail) = now.as_chunks::<LANES>();
        let (signs_now, signs_tail) = signs[at..at + len].as_chunks::<LANES>();
        for ((sum, value), sign) in sums.iter_mut().zip(values).zip(signs_now) {
            let value = f32x16::from_slice(s, value) * f32x16::from_slice(s, sign);
            (f32x16::from_slice(s, sum) + value).store_array(sum);
        }
        for ((sum, value), sign) in sums_tail.iter_mut().zip(values_tail).zip(signs_tail) {
            *sum += value * sign;
        }
        x = rest;
        at += len;
    }
}

/// Signs within a turn.
static SIGNS: LazyLock<Vec<f32>> = LazyLock::new(|| (0..TURN as u64).map(|i| sign(i) as f32).collect());

/// What a bucket's signs are multiplied by in one turn.
fn turn_sign(turn: u64, bucket: usize) -> f64 {
    sign((1 << 62) + turn * BUCKETS as u64 + bucket as u64)
}

/// 1 or −1: the lowest bit of splitmix64 (Steele et al. 2014) at `i`.
fn sign(i: u64) -> f64 {
    let mut z = i.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    if (z ^ (z >> 31)) & 1 == 0 { 1.0 } else { -1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Storage;

    fn bytes(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    fn values(count: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7919 % 1013) as f32 - 506.0) / 100.0).collect()
    }

    /// The definition, element by element.
    fn by_definition(values: &[f32], shape: &[u64]) -> Vec<f32> {
        let mut projection = vec![0f64; BUCKETS];
        for (i, &v) in values.iter().enumerate() {
            let within = sign((i % TURN) as u64);
            projection[i % BUCKETS] += f64::from(v) * within * turn_sign((i / TURN) as u64, i % BUCKETS);
        }
        let (each, _) = row_groups(shape);
        let cols = *shape.last().unwrap() as usize;
        let norms = values
            .chunks(each as usize * cols)
            .map(|group| group.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt());
        let kept = samples(values.len() as u64).map(|i| values[i as usize]);
        let numbers = projection.into_iter().chain(norms).map(|x| x as f32);
        numbers.chain(kept).collect()
    }

    #[test]
    fn a_sketch_is_what_its_definition_says() {
        for shape in [vec![5], vec![3, 1], vec![700, 100], vec![2, 5, 193], vec![1, 900_001], vec![4000, 513]]
        {
            let values = values(shape.iter().product::<u64>() as usize);
            let info = TensorInfo::new(DType::Float32, shape.clone());
            let found = of_bytes(&info, &bytes(&values), true).unwrap().sketch;
            let expected = by_definition(&values, &shape);
            assert_eq!(found.len(), expected.len());
            let scale = values.iter().map(|v| v * v).sum::<f32>().sqrt();
            for (i, (a, b)) in found.iter().zip(&expected).enumerate() {
                assert!((a - b).abs() <= 1e-5 * scale, "{shape:?} {i}: {a} {b}");
            }
            assert!(found.len() <= 513);
        }
    }

    #[test]
    fn unaligned_bytes_and_files_give_the_same() {
        let values = values(900_000);
        let info = TensorInfo::new(DType::Float32, vec![900, 1000]);
        let plain = bytes(&values);
        let shifted: Vec<u8> = std::iter::once(0).chain(plain.iter().copied()).collect();
        let first = of_bytes(&info, &plain, true).unwrap();
        assert_eq!(of_bytes(&info, &shifted[1..], true).unwrap(), first);
        let tensor = Tensor {
            info: info.clone(),
            strides: None,
            first: 0,
            storage: Storage::Memory(plain.clone().into()),
            notes: Vec::new(),
        };
        assert_eq!(of_tensor(&tensor, true).unwrap(), first);
        assert_eq!(hash_of_tensor(&tensor).unwrap(), hash_of_bytes(&plain));
    }

    #[test]
    fn what_is_not_finite_is_counted_and_stands_as_zero() {
        let info = TensorInfo::new(DType::Float32, vec![2, 2]);
        let found = of_bytes(&info, &bytes(&[f32::NAN, 3.0, f32::INFINITY, -4.0]), true).unwrap();
        assert_eq!((found.side.nan, found.side.pos_inf, found.side.finite), (1, 1, 2));
        let zeros = of_bytes(&info, &bytes(&[0.0, 3.0, 0.0, -4.0]), true).unwrap();
        assert_eq!(found.sketch[..BUCKETS + 2], zeros.sketch[..BUCKETS + 2]);
        assert!(found.sketch[BUCKETS + 2].is_nan());
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        let info = TensorInfo::new(DType::Float32, vec![3]);
        assert!(of_bytes(&info, &[0; 8], true).is_err());
        let empty = TensorInfo::new(DType::Float32, vec![0, 4]);
        assert_eq!(of_bytes(&empty, &[], true).unwrap().elements, 0);
        let scalar = TensorInfo::new(DType::Float32, vec![]);
        assert_eq!(of_bytes(&scalar, &bytes(&[2.0]), true).unwrap().sketch.len(), BUCKETS + 2);
    }
}
