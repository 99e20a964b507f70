//! Positional reads of a tensor's elements in row-major order, whatever its strides.
//!
//! Reading instead of mapping: a file cut short meanwhile is an error, never a signal, and a scan of the
//! page cache is faster than its page faults.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::{Error, Result, Storage, Tensor};

/// A strided view is gathered from stretches of storage of at most this many bytes …
const STRETCH: u64 = 4 << 20;
/// … unless more than this share of a stretch would be thrown away.
const WASTE: u64 = 8;
/// Stretches up to this many bytes are read whatever the waste.
const CHEAP: u64 = 16 << 10;

impl Tensor {
    /// Reads elements `first ..` in row-major order until `out` is full.
    ///
    /// `out` must hold a whole number of elements, all inside the tensor.
    ///
    /// # Errors
    /// When the range is outside the tensor, when the operating system refuses the read, or when the file
    /// became shorter than it was when the tensor was opened.
    pub fn read_at(&self, first: u64, out: &mut [u8]) -> Result<()> {
        let size = self.info.dtype.size() as u64;
        let count = out.len() as u64 / size;
        let inside = first.checked_add(count).is_some_and(|end| end <= self.info.numel());
        if !inside || count * size != out.len() as u64 {
            return Err(Error::Invalid(format!(
                "elements {first}..+{count} of a tensor of {}: outside, or not whole elements",
                self.info.numel()
            )));
        }
        if count == 0 {
            return Ok(());
        }
        match &self.strides {
            None => self.storage.read((self.first + first) * size, out),
            Some(strides) => {
                let axes = collapse(&self.info.shape, strides);
                let mut gather = Gather { tensor: self, stretch: Vec::new() };
                gather.range(&axes, self.first, first, count, out)
            }
        }
    }

    /// Whether the elements lie in row-major order without gaps.
    #[must_use]
    pub fn is_contiguous(&self) -> bool {
        self.strides.as_ref().is_none_or(|strides| {
            let axes = collapse(&self.info.shape, strides);
            axes.is_empty() || (axes.len() == 1 && axes[0].stride == 1)
        })
    }
}

impl Storage {
    /// Reads the bytes from `at` on; of a computed storage whole elements only.
    pub(crate) fn read(&self, at: u64, out: &mut [u8]) -> Result<()> {
        match self {
            Self::File { file, path, offset, .. } => read_file(file, path, offset + at, out),
            Self::Memory(bytes) => {
                let at = usize::try_from(at).unwrap_or(usize::MAX);
                let source = bytes
                    .get(at..)
                    .and_then(|rest| rest.get(..out.len()))
                    .ok_or_else(|| Error::Invalid("a tensor reaches beyond its bytes in memory".into()))?;
                out.copy_from_slice(source);
                Ok(())
            }
            Self::Computed(computed) => computed.read(at, out),
        }
    }
}

fn read_file(file: &File, path: &Path, at: u64, out: &mut [u8]) -> Result<()> {
    file.read_exact_at(out, at).map_err(|source| {
        if source.kind() == std::io::ErrorKind::UnexpectedEof {
            let found = file.metadata().map_or_else(|_| "fewer".into(), |m| format!("{} bytes", m.len()));
            let expected = format!("at least {} bytes", at + out.len() as u64);
            Error::malformed(path, "the file became shorter after it was opened", expected, found)
        } else {
            Error::io("read the tensor", path)(source)
        }
    })
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Axis {
    size: u64,
    stride: u64,
}

/// Axes of size 1 dropped, neighbours that continue each other joined.
fn collapse(shape: &[u64], strides: &[u64]) -> Vec<Axis> {
    let mut axes: Vec<Axis> = Vec::with_capacity(shape.len());
    for (&size, &stride) in shape.iter().zip(strides).filter(|&(&size, _)| size != 1) {
        match axes.last_mut() {
            Some(outer) if stride.checked_mul(size) == Some(outer.stride) => {
                *outer = Axis { size: outer.size * size, stride };
            }
            _ => axes.push(Axis { size, stride }),
        }
    }
    axes
}

struct Gather<'a> {
    tensor: &'a Tensor,
    stretch: Vec<u8>,
}

/// One axis of a box that is copied: the step in storage and the step in the output, in elements.
#[derive(Clone, Copy)]
struct Step {
    size: u64,
    from: u64,
    to: u64,
}

impl Gather<'_> {
    /// Reads `count` elements from the `first`-th on: at most one partial block at either end of every axis,
    /// and boxes in between.
    fn range(&mut self, axes: &[Axis], base: u64, first: u64, count: u64, out: &mut [u8]) -> Result<()> {
        let size = self.tensor.info.dtype.size();
        let Some((outer, inner)) = axes.split_first() else {
            return self.tensor.storage.read(base * size as u64, out);
        };
        let step: u64 = inner.iter().map(|a| a.size).product();
        let (mut at, end) = (first, first + count);
        let mut rest = out;
        while at < end {
            let (index, within) = (at / step, at % step);
            let whole = if within == 0 { (end - at) / step } else { 0 };
            let taken = if whole > 0 { whole * step } else { (step - within).min(end - at) };
            let from = base + index * outer.stride;
            let (part, later) = rest.split_at_mut(taken as usize * size);
            if whole > 0 {
                let mut steps = Vec::with_capacity(axes.len());
                let mut to = step;
                steps.push(Step { size: whole, from: outer.stride, to });
                for axis in inner {
                    to /= axis.size;
                    steps.push(Step { size: axis.size, from: axis.stride, to });
                }
                self.block(&steps, from, part)?;
            } else {
                self.range(inner, from, within, taken, part)?;
            }
            at += taken;
            rest = later;
        }
        Ok(())
    }

    /// Reads a whole box: its stretch of storage at once when that is small or mostly needed, otherwise in
    /// halves along the axis that reaches farthest. `out` starts at the box's first element.
    fn block(&mut self, steps: &[Step], base: u64, out: &mut [u8]) -> Result<()> {
        let size = self.tensor.info.dtype.size() as u64;
        let bytes = (steps.iter().map(|s| (s.size - 1) * s.from).sum::<u64>() + 1) * size;
        let wanted = steps.iter().map(|s| s.size).product::<u64>() * size;
        let farthest = (0..steps.len())
            .filter(|&i| steps[i].size > 1)
            .max_by_key(|&i| steps[i].from * (steps[i].size - 1));
        match farthest {
            Some(axis) if bytes > CHEAP && (bytes > STRETCH || bytes / WASTE > wanted) => {
                let low = steps[axis].size / 2;
                let mut half = steps.to_vec();
                half[axis].size = low;
                self.block(&half, base, out)?;
                half[axis].size = steps[axis].size - low;
                let skip = (low * steps[axis].to * size) as usize;
                self.block(&half, base + low * steps[axis].from, &mut out[skip..])
            }
            _ => {
                let mut stretch = std::mem::take(&mut self.stretch);
                stretch.resize(bytes as usize, 0);
                self.tensor.storage.read(base * size, &mut stretch)?;
                pick(steps, size as usize, &stretch, out);
                self.stretch = stretch;
                Ok(())
            }
        }
    }
}

/// Copies the elements of a box out of the stretch of storage that it spans.
fn pick(steps: &[Step], size: usize, stretch: &[u8], out: &mut [u8]) {
    match steps {
        [] => out[..size].copy_from_slice(&stretch[..size]),
        [Step { size: count, from: 1, to: 1 }] => {
            let bytes = *count as usize * size;
            out[..bytes].copy_from_slice(&stretch[..bytes]);
        }
        [last] => match size {
            1 => pick_row::<1>(last, stretch, out),
            2 => pick_row::<2>(last, stretch, out),
            4 => pick_row::<4>(last, stretch, out),
            8 => pick_row::<8>(last, stretch, out),
            _ => pick_row::<16>(last, stretch, out),
        },
        [outer, inner @ ..] => {
            for i in 0..outer.size {
                let (from, to) = ((i * outer.from) as usize * size, (i * outer.to) as usize * size);
                pick(inner, size, &stretch[from..], &mut out[to..]);
            }
        }
    }
}

fn pick_row<const SIZE: usize>(step: &Step, stretch: &[u8], out: &mut [u8]) {
    for i in 0..step.size {
        let (from, to) = ((i * step.from) as usize * SIZE, (i * step.to) as usize * SIZE);
        out[to..to + SIZE].copy_from_slice(&stretch[from..from + SIZE]);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::{DType, TensorInfo};

    fn view(values: &[u32], shape: &[u64], strides: &[u64], first: u64) -> Tensor {
        Tensor {
            info: TensorInfo::new(DType::UInt32, shape.to_vec()),
            strides: Some(strides.to_vec()),
            first,
            storage: Storage::Memory(values.iter().flat_map(|v| v.to_le_bytes()).collect()),
            notes: Vec::new(),
        }
    }

    fn read(tensor: &Tensor, first: u64, count: usize) -> Vec<u32> {
        let mut out = vec![0; count * 4];
        tensor.read_at(first, &mut out).unwrap();
        out.chunks_exact(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect()
    }

    #[test]
    fn a_transposed_view_reads_column_by_column() {
        let tensor = view(&[0, 1, 2, 3, 4, 5], &[3, 2], &[1, 3], 0);
        assert_eq!(read(&tensor, 0, 6), [0, 3, 1, 4, 2, 5]);
        assert_eq!(read(&tensor, 1, 3), [3, 1, 4]);
    }

    #[test]
    fn an_expanded_view_repeats() {
        assert_eq!(read(&view(&[7, 8], &[2, 3], &[1, 0], 0), 1, 4), [7, 7, 8, 8]);
    }

    #[test]
    fn a_large_transposed_view_is_read_in_halves() {
        let (rows, cols) = (3000u64, 1100u64);
        let values: Vec<u32> = (0..(rows * cols) as u32).collect();
        let tensor = view(&values, &[cols, rows], &[1, cols], 0);
        let first = 5 * rows + 17;
        let got = read(&tensor, first, 40_000);
        for (i, &value) in got.iter().enumerate() {
            let at = first + i as u64;
            assert_eq!(u64::from(value), (at % rows) * cols + at / rows);
        }
    }

    #[test]
    fn a_file_cut_short_after_opening_is_an_error() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&[1; 64]).unwrap();
        let tensor = Tensor {
            info: TensorInfo::new(DType::UInt8, vec![64]),
            strides: None,
            first: 0,
            storage: Storage::File {
                file: Arc::new(file.reopen().unwrap()),
                path: file.path().into(),
                offset: 0,
                len: 64,
            },
            notes: Vec::new(),
        };
        let mut out = [0; 64];
        tensor.read_at(0, &mut out).unwrap();
        file.as_file().set_len(10).unwrap();
        let message = tensor.read_at(0, &mut out).unwrap_err().to_string();
        assert!(message.contains("became shorter") && message.contains("found 10 bytes"), "{message}");
    }

    #[test]
    fn a_range_outside_is_refused() {
        assert!(view(&[0, 1], &[2], &[1], 0).read_at(1, &mut [0; 8]).is_err());
        assert!(view(&[0, 1], &[2], &[1], 0).read_at(0, &mut [0; 3]).is_err());
    }

    proptest! {
        #[test]
        fn any_view_reads_like_the_index_formula(
            shape in prop::collection::vec(1u64..6, 0..4),
            seed in prop::collection::vec(0u64..40, 4),
            first in 0u64..5,
            from in 0usize..10_000,
            to in 0usize..10_000,
        ) {
            let strides = &seed[..shape.len()];
            let values: Vec<u32> = (0..1000).collect();
            let tensor = view(&values, &shape, strides, first);
            let all: Vec<u32> = (0..tensor.info.numel()).map(|flat| {
                let mut rest = flat;
                let mut at = first;
                for (&size, &stride) in shape.iter().zip(strides).rev() {
                    at += rest % size * stride;
                    rest /= size;
                }
                at as u32
            }).collect();
            let start = from % (all.len() + 1);
            let count = to % (all.len() - start + 1);
            prop_assert_eq!(&read(&tensor, start as u64, count)[..], &all[start..start + count]);
            prop_assert_eq!(&read(&tensor, 0, all.len())[..], &all[..]);
        }
    }
}
