//! Where two tensors that should hold the same bytes do not.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::{Error, Result, Tensor};

/// Bytes read at once from either side.
const CHUNK: usize = 256 << 10;

/// The bytes that differ between two tensors, in row-major order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ByteDifference {
    /// How many bytes differ.
    pub count: u64,
    /// The first that does.
    pub first: u64,
    /// The last that does.
    pub last: u64,
    /// Why they could not be compared.
    pub reason: Option<String>,
}

/// Compares `count` pairs of tensors byte by byte.
///
/// # Errors
/// [`Error::Cancelled`] when `tick` broke. A pair that cannot be read, or is of unequal sizes, has a reason.
pub fn byte_differences(
    count: usize,
    open: &(dyn Fn(usize) -> (Result<Tensor>, Result<Tensor>) + Sync),
    threads: usize,
    tick: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
) -> Result<Vec<ByteDifference>> {
    let workers = match threads {
        0 => thread::available_parallelism().map_or(1, usize::from).min(32),
        n => n,
    };
    let (next, done, stop) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
    let rows: Vec<_> = (0..count).map(|_| Mutex::new(ByteDifference::default())).collect();
    thread::scope(|scope| {
        for _ in 0..workers.max(1) {
            scope.spawn(|| {
                let mut space = (Vec::new(), Vec::new());
                loop {
                    let index = next.fetch_add(1, Relaxed);
                    if index >= count || stop.load(Relaxed) {
                        return;
                    }
                    let (a, b) = open(index);
                    let row = a.and_then(|a| difference(&a, &b?, &mut space)).unwrap_or_else(|error| {
                        ByteDifference { reason: Some(error.to_string()), ..ByteDifference::default() }
                    });
                    *rows[index].lock().unwrap_or_else(PoisonError::into_inner) = row;
                    done.fetch_add(1, Relaxed);
                }
            });
        }
        loop {
            let finished = done.load(Relaxed);
            if tick(finished as u64, count as u64).is_break() {
                stop.store(true, Relaxed);
                return Err(Error::Cancelled);
            }
            if finished == count {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(5));
        }
    })?;
    Ok(rows.into_iter().map(|row| row.into_inner().unwrap_or_else(PoisonError::into_inner)).collect())
}

fn difference(a: &Tensor, b: &Tensor, space: &mut (Vec<u8>, Vec<u8>)) -> Result<ByteDifference> {
    if a.info.dtype != b.info.dtype || a.info.numel() != b.info.numel() {
        return Err(Error::Invalid(format!("{} beside {}", a.info, b.info)));
    }
    let mut found = ByteDifference::default();
    let size = a.info.dtype.size();
    let chunk = (CHUNK / size) as u64;
    for first in (0..a.info.numel()).step_by(chunk as usize) {
        let len = chunk.min(a.info.numel() - first) as usize * size;
        space.0.resize(len, 0);
        space.1.resize(len, 0);
        a.read_at(first, &mut space.0)?;
        b.read_at(first, &mut space.1)?;
        if space.0 == space.1 {
            continue;
        }
        for (i, _) in space.0.iter().zip(&space.1).enumerate().filter(|(_, (x, y))| x != y) {
            let at = first * size as u64 + i as u64;
            found.first = if found.count == 0 { at } else { found.first };
            found.last = at;
            found.count += 1;
        }
    }
    Ok(found)
}
