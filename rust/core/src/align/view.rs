//! From one side of a pair to the tensor that is compared. A view of the recorded bytes where strides can
//! express it; otherwise put together while it is read.

use std::path::Path;
use std::sync::Arc;

use super::{Side, Transform};
use crate::dump::Dump;
use crate::io::computed::{Computed, read_numbers};
use crate::{Error, Result, Storage, Tensor, TensorInfo};

/// The tensor that a side of a pair stands for.
///
/// # Errors
/// A record that cannot be opened, or a transform that does not fit its shape.
pub fn tensor(dump: &Dump, side: &Side) -> Result<Tensor> {
    let opened = side.records.iter().map(|&i| dump.tensor(i)).collect::<Result<Vec<_>>>()?;
    apply(opened, &side.transforms)
}

/// Applies transforms in order; only the first may take several tensors.
pub(super) fn apply(mut tensors: Vec<Tensor>, transforms: &[Transform]) -> Result<Tensor> {
    for transform in transforms {
        let result = match transform {
            Transform::Concat { axis } | Transform::ShardConcat { axis } => concat(&tensors, *axis),
            Transform::Sum | Transform::ShardSum => sum(&tensors),
            Transform::Dequantise => dequantise(&tensors),
            _ => match tensors.as_slice() {
                [one] => view(one, transform),
                several => Err(format!("takes one tensor, not {}", several.len())),
            },
        };
        let tensor = result.map_err(|why| {
            let of: Vec<String> = tensors.iter().map(|t| t.info.to_string()).collect();
            Error::Invalid(format!("transform {transform} of {}: {why}", of.join(" and ")))
        })?;
        tensors = vec![tensor];
    }
    match tensors.len() {
        1 => Ok(tensors.remove(0)),
        n => Err(Error::Invalid(format!("{n} tensors without a transform that makes them one"))),
    }
}

type Made<T = Tensor> = Result<T, String>;

fn view(tensor: &Tensor, transform: &Transform) -> Made {
    let shape = &tensor.info.shape;
    match transform {
        Transform::Reshape { shape } => reshape(tensor, shape),
        Transform::Slice { axis, start, len } => {
            let size = *shape.get(*axis).ok_or_else(|| no_axis(*axis, shape))?;
            if start.checked_add(*len).is_none_or(|end| end > size) {
                return Err(format!("the axis has {size} elements"));
            }
            let strides = strides(tensor);
            let mut to = shape.clone();
            to[*axis] = *len;
            restride(tensor, to, strides.clone(), tensor.first + start * strides[*axis])
        }
        Transform::Permute { axes } => permute(tensor, axes),
        Transform::HeadPermutation { head, interleave } => {
            let last = shape.last().copied().unwrap_or(1);
            if *head == 0 || head % 2 != 0 || last % head != 0 {
                return Err(format!("the last axis of {last} is not made of even heads of {head}"));
            }
            let leading = &shape[..shape.len().saturating_sub(1)];
            let (a, b) = if *interleave { (2, head / 2) } else { (head / 2, 2) };
            let split = reshape(tensor, &[leading, &[last / head, a, b]].concat())?;
            let n = leading.len();
            let axes: Vec<usize> = (0..=n).chain([n + 2, n + 1]).collect();
            reshape(&permute(&split, &axes)?, shape)
        }
        Transform::Broadcast { times } => {
            let first = shape.first().copied().unwrap_or(1);
            let rest = shape.get(1..).unwrap_or_default();
            let whole = [&[*times, first], rest].concat();
            let own = strides(tensor);
            let steps = if shape.is_empty() { vec![0, 0] } else { [&[0], own.as_slice()].concat() };
            let total = times.checked_mul(first).ok_or("it is too large")?;
            reshape(&restride(tensor, whole, steps, tensor.first)?, &[&[total], rest].concat())
        }
        Transform::NzToNd { shape: to } => nz_to_nd(tensor, to),
        _ => unreachable!("the caller joins tensors"),
    }
}

fn no_axis(axis: usize, shape: &[u64]) -> String {
    format!("there is no axis {axis}, only {}", shape.len())
}

/// Strides in elements, whether or not they are the row-major ones.
fn strides(tensor: &Tensor) -> Vec<u64> {
    tensor.strides.clone().unwrap_or_else(|| row_major(&tensor.info.shape))
}

fn row_major(shape: &[u64]) -> Vec<u64> {
    let mut strides = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i];
    }
    strides
}

fn restride(tensor: &Tensor, shape: Vec<u64>, strides: Vec<u64>, first: u64) -> Made {
    let info = TensorInfo { shape, acl_format: None, dtype: tensor.info.dtype };
    let path = Path::new("a view");
    let mut made = Tensor::new(info, Some(strides), first, tensor.storage.clone(), path)
        .map_err(|error| error.to_string())?;
    made.notes.clone_from(&tensor.notes);
    Ok(made)
}

fn permute(tensor: &Tensor, axes: &[usize]) -> Made {
    let shape = &tensor.info.shape;
    let mut sorted = axes.to_vec();
    sorted.sort_unstable();
    if sorted != (0..shape.len()).collect::<Vec<_>>() {
        return Err(format!("not an order of its {} axes", shape.len()));
    }
    let own = strides(tensor);
    let to = axes.iter().map(|&a| shape[a]).collect();
    restride(tensor, to, axes.iter().map(|&a| own[a]).collect(), tensor.first)
}

/// The tensor with its elements in row-major order, read through its strides.
fn straight(tensor: &Tensor) -> Made {
    if tensor.strides.is_none() {
        return Ok(tensor.clone());
    }
    let widths = vec![tensor.info.numel().max(1)];
    computed(Computed::Joined { parts: vec![tensor.clone()], widths }, tensor.info.shape.clone(), tensor)
}

fn computed(computed: Computed, shape: Vec<u64>, like: &Tensor) -> Made {
    let info = TensorInfo::new(computed.dtype(), shape);
    let storage = Storage::Computed(Arc::new(computed));
    let made = Tensor::new(info, None, 0, storage, Path::new("a computed tensor"));
    let mut made = made.map_err(|error| error.to_string())?;
    made.notes.clone_from(&like.notes);
    Ok(made)
}

fn reshape(tensor: &Tensor, shape: &[u64]) -> Made {
    let numel = shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d));
    if numel != Some(tensor.info.numel()) {
        return Err(format!("{shape:?} has another number of elements"));
    }
    let mut made = straight(tensor)?;
    made.info.shape = shape.to_vec();
    made.info.acl_format = None;
    Ok(made)
}

fn concat(tensors: &[Tensor], axis: usize) -> Made {
    let first = &tensors[0].info;
    if axis >= first.shape.len() {
        return Err(no_axis(axis, &first.shape));
    }
    let mut shape = first.shape.clone();
    shape[axis] = 0;
    let mut widths = Vec::with_capacity(tensors.len());
    for t in tensors {
        let mut own = t.info.shape.clone();
        let size = own.get(axis).copied().unwrap_or(0);
        own.resize(first.shape.len().max(own.len()), 0);
        own[axis] = first.shape[axis];
        if own != first.shape || t.info.dtype != first.dtype {
            return Err("they differ in dtype, or in another axis".into());
        }
        shape[axis] += size;
        widths.push(t.info.shape[axis..].iter().product());
    }
    if widths.iter().sum::<u64>() == 0 {
        return Err("they are empty".into());
    }
    let parts = tensors.iter().map(straight).collect::<Made<_>>()?;
    computed(Computed::Joined { parts, widths }, shape, &tensors[0])
}

fn sum(tensors: &[Tensor]) -> Made {
    let shape = tensors[0].info.shape.clone();
    if let Some(other) = tensors.iter().find(|t| t.info.numel() != tensors[0].info.numel()) {
        return Err(format!("{:?} and {shape:?} have other numbers of elements", other.info.shape));
    }
    let parts = tensors.iter().map(straight).collect::<Made<_>>()?;
    computed(Computed::Sum { parts }, shape, &tensors[0])
}

/// Integers, their scale, and perhaps their offset.
fn dequantise(tensors: &[Tensor]) -> Made {
    let (values, scale, offset) = match tensors {
        [values, scale] => (values, scale, None),
        [values, scale, offset] => (values, scale, Some(offset)),
        _ => return Err("it takes the integers, their scale and perhaps their offset".into()),
    };
    let shape = values.info.shape.clone();
    let (rows, cols) = match shape.split_last() {
        Some((&last, leading)) => (leading.iter().product::<u64>(), last),
        None => (1, 1),
    };
    let n = scale.info.numel();
    if n != 1 && n != rows && n != cols {
        return Err(format!("{n} scales fit neither its {rows} rows nor its {cols} columns"));
    }
    if offset.is_some_and(|o| o.info.numel() != n && o.info.numel() != 1) {
        return Err("there are not as many offsets as scales".into());
    }
    let read = |tensor: &Tensor| -> Made<Vec<f32>> {
        let mut numbers = vec![0.0; tensor.info.numel() as usize];
        read_numbers(tensor, 0, &mut numbers).map_err(|error| error.to_string())?;
        Ok(numbers.into_iter().map(|x| x as f32).collect())
    };
    // Of a square weight, [output, input], the scales are the outputs' unless their shape, [1, cols], says otherwise.
    let is_row_vector = scale.info.shape.len() > 1 && scale.info.shape.last() == Some(&n);
    let by_row = n == rows && !(n == cols && is_row_vector && n > 1);
    let offset = offset.map(read).transpose()?.unwrap_or_default();
    let made = Computed::Dequantised {
        values: Box::new(straight(values)?),
        scale: read(scale)?,
        offset,
        cols: cols.max(1),
        by_row,
    };
    computed(made, shape, values)
}

/// `FRACTAL_NZ` blocks as rows and columns: `[…, cols / c0, rows / 16, 16, c0]` as GE spells it, and
/// `[n, cols / c0, rows, c0]` with rows in sixteens as ATB does.
fn nz_to_nd(tensor: &Tensor, to: &[u64]) -> Made {
    let [leading @ .., rows, cols] = to else { return Err("fewer than two axes".into()) };
    let n: u64 = leading.iter().product();
    let (blocks, held, c0) = match *tensor.info.shape.as_slice() {
        // With one column of blocks, or one row, the two spellings differ by their sizes alone.
        [ref before @ .., blocks, row_blocks, 16, c0]
            if c0 > 0
                && before.iter().product::<u64>() == n
                && blocks == cols.div_ceil(c0)
                && row_blocks == rows.div_ceil(16) =>
        {
            (blocks, row_blocks * 16, c0)
        }
        [held_n, blocks, held, c0] if (c0 == 16 || c0 == 32) && held.is_multiple_of(16) && held_n == n => {
            (blocks, held, c0)
        }
        // The logical shape over bytes in blocks; padding was cut off, so there may be none.
        _ => {
            let c0 = if tensor.info.dtype.size() == 1 { 32 } else { 16 };
            if !rows.is_multiple_of(16) || !cols.is_multiple_of(c0) {
                return Err(format!("the dump cut its padding off: {rows} × {cols} is not whole blocks"));
            }
            (cols / c0, *rows, c0)
        }
    };
    if blocks * c0 < *cols || held < *rows {
        return Err(format!("its blocks hold {held} × {} elements", blocks * c0));
    }
    let whole = reshape(tensor, &[n, blocks, held, c0])?;
    let rows_first = permute(&whole, &[0, 2, 1, 3])?;
    let wide = reshape(&rows_first, &[n, held, blocks * c0])?;
    let cut = view(&wide, &Transform::Slice { axis: 1, start: 0, len: *rows })?;
    reshape(&view(&cut, &Transform::Slice { axis: 2, start: 0, len: *cols })?, to)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;

    fn ints(shape: &[u64], values: impl IntoIterator<Item = i32>) -> Tensor {
        let bytes: Vec<u8> = values.into_iter().flat_map(i32::to_le_bytes).collect();
        let info = TensorInfo::new(DType::Int32, shape.to_vec());
        Tensor::new(info, None, 0, Storage::Memory(bytes.into()), Path::new("t")).unwrap()
    }

    fn floats(shape: &[u64], values: &[f32]) -> Tensor {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let info = TensorInfo::new(DType::Float32, shape.to_vec());
        Tensor::new(info, None, 0, Storage::Memory(bytes.into()), Path::new("t")).unwrap()
    }

    fn numbers(tensor: &Tensor) -> Vec<f64> {
        let mut out = vec![0.0; tensor.info.numel() as usize];
        read_numbers(tensor, 0, &mut out).unwrap();
        // Any stretch of it reads the same.
        for first in 0..out.len() {
            let mut part = vec![0.0; (out.len() - first).min(3)];
            read_numbers(tensor, first as u64, &mut part).unwrap();
            assert_eq!(part, out[first..first + part.len()]);
        }
        out
    }

    fn made(tensors: Vec<Tensor>, transforms: &[Transform]) -> (Vec<u64>, Vec<f64>) {
        let tensor = apply(tensors, transforms).unwrap();
        (tensor.info.shape.clone(), numbers(&tensor))
    }

    #[test]
    fn parts_of_a_pack() {
        let pack = ints(&[2, 5], 0..10);
        let (shape, values) = made(vec![pack], &[Transform::Slice { axis: 1, start: 2, len: 3 }]);
        assert_eq!((shape, values), (vec![2, 3], vec![2.0, 3.0, 4.0, 7.0, 8.0, 9.0]));
    }

    #[test]
    fn side_by_side() {
        let tensors = vec![ints(&[3, 1], 0..3), ints(&[3, 2], 10..16)];
        let (shape, values) = made(tensors.clone(), &[Transform::Concat { axis: 1 }]);
        assert_eq!(shape, [3, 3]);
        assert_eq!(values, [0.0, 10.0, 11.0, 1.0, 12.0, 13.0, 2.0, 14.0, 15.0]);
        assert!(apply(tensors, &[Transform::Concat { axis: 0 }]).is_err());
        let tensors = vec![ints(&[1, 2], 0..2), ints(&[2, 2], 2..6)];
        assert_eq!(made(tensors, &[Transform::ShardConcat { axis: 0 }]).1, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    }

    #[test]
    fn sums_are_float() {
        let tensors = vec![ints(&[2], [1, 2]), floats(&[2], &[0.5, -1.0]), floats(&[1, 2], &[1.0, 1.0])];
        assert_eq!(made(tensors, &[Transform::ShardSum]), (vec![2], vec![2.5, 2.0]));
    }

    #[test]
    fn heads_change_between_halves_and_pairs() {
        let heads = ints(&[1, 8], 0..8);
        let pairs = Transform::HeadPermutation { head: 4, interleave: true };
        let (_, values) = made(vec![heads.clone()], std::slice::from_ref(&pairs));
        assert_eq!(values, [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
        let back = Transform::HeadPermutation { head: 4, interleave: false };
        assert_eq!(made(vec![heads], &[pairs, back]).1, (0..8).map(f64::from).collect::<Vec<_>>());
    }

    #[test]
    fn copies_and_other_shapes() {
        let (shape, values) = made(
            vec![ints(&[2, 1], 0..2)],
            &[Transform::Permute { axes: vec![1, 0] }, Transform::Broadcast { times: 2 }],
        );
        assert_eq!((shape, values), (vec![2, 2], vec![0.0, 1.0, 0.0, 1.0]));
        assert!(apply(vec![ints(&[2], 0..2)], &[Transform::Reshape { shape: vec![3] }]).is_err());
    }

    #[test]
    fn blocks_of_sixteen_become_rows() {
        // 2 × 20 in storage [1, 2, 16, 16]: element (r, c) lies at block c / 16, row r, column c % 16.
        let mut storage = vec![-1i32; 512];
        for (r, first) in [(0, 0), (1, 20)] {
            for (c, value) in (first..first + 20).enumerate() {
                storage[c / 16 * 256 + r * 16 + c % 16] = value;
            }
        }
        let nz = ints(&[1, 2, 16, 16], storage);
        let to = Transform::NzToNd { shape: vec![2, 20] };
        assert_eq!(
            made(vec![nz], std::slice::from_ref(&to)),
            (vec![2, 20], (0..40).map(f64::from).collect())
        );
        let message = apply(vec![ints(&[2, 20], 0..40)], &[to]).unwrap_err().to_string();
        assert!(message.contains("cut its padding off"), "{message}");
    }

    #[test]
    fn blocks_of_ge_become_rows() {
        // Element (b, r, c) lies at [b, c / c0, r / 16, r % 16, c % c0]; what is around is padding.
        for (n, rows, cols, c0) in [
            (1u64, 40u64, 5u64, 16u64), // one column of blocks, three rows of them
            (1, 16, 16, 16),            // a single block
            (1, 5, 40, 16),             // one row of blocks
            (1, 33, 20, 8),             // float32 blocks of 16 × 8
            (1, 48, 32, 16),            // no padding
            (3, 17, 40, 16),
            (2, 17, 33, 32),
        ] {
            let (blocks, row_blocks) = (cols.div_ceil(c0), rows.div_ceil(16));
            let mut storage = vec![-1i32; (n * blocks * row_blocks * 16 * c0) as usize];
            for b in 0..n {
                for r in 0..rows {
                    for c in 0..cols {
                        let block = (b * blocks + c / c0) * row_blocks + r / 16;
                        storage[((block * 16 + r % 16) * c0 + c % c0) as usize] =
                            ((b * rows + r) * cols + c) as i32;
                    }
                }
            }
            let expected: Vec<f64> = (0..n * rows * cols).map(|i| i as f64).collect();
            let nz = [blocks, row_blocks, 16, c0];
            let (shapes, to) = if n == 1 {
                (vec![nz.to_vec(), [&[1], &nz[..]].concat()], vec![rows, cols])
            } else {
                (vec![[&[n], &nz[..]].concat()], vec![n, rows, cols])
            };
            for shape in shapes {
                let transform = Transform::NzToNd { shape: to.clone() };
                assert_eq!(
                    made(vec![ints(&shape, storage.clone())], &[transform]),
                    (to.clone(), expected.clone()),
                    "{shape:?}"
                );
            }
        }
    }

    #[test]
    fn integers_with_scales_of_rows_or_columns() {
        let q = ints(&[2, 3], [1, 2, 3, 4, 5, 6]);
        let rows = floats(&[2, 1], &[1.0, 10.0]);
        assert_eq!(
            made(vec![q.clone(), rows], &[Transform::Dequantise]).1,
            [1.0, 2.0, 3.0, 40.0, 50.0, 60.0]
        );
        let (scale, offset) = (floats(&[3], &[1.0, 2.0, 4.0]), floats(&[1], &[1.0]));
        let (_, values) = made(vec![q, scale, offset], &[Transform::Dequantise]);
        assert_eq!(values, [0.0, 2.0, 8.0, 3.0, 8.0, 20.0]);
        let (square, scale) = (ints(&[2, 2], [1, 1, 1, 1]), floats(&[2], &[1.0, 3.0]));
        assert_eq!(made(vec![square, scale], &[Transform::Dequantise]).1, [1.0, 1.0, 3.0, 3.0]);
    }
}
