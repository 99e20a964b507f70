//! Scanning many tensors: worker threads take parts, and what a part found is merged whatever the order.
//!
//! Counts, extremes and places do not depend on the order of merging; the sums of parts are kept and added in
//! order at the end. So the result has the same bits for any number of threads.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::health::Health;
use super::part::{Buffer, Found, Plan, scan_part};
use super::repeats;
use crate::stats::decode::{self, Lanes};
use crate::{Error, Result, Tensor, TensorInfo};

/// How to scan.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Worker threads; 0 for as many as there are processors, 32 at most.
    pub threads: usize,
}

/// The outcome for one tensor.
#[derive(Clone, Debug, Default)]
pub struct Row {
    /// What was counted, as far as the tensor could be read.
    pub health: Health,
    /// Why there is nothing.
    pub reason: Option<String>,
    /// What the reader of the file noticed.
    pub notes: Vec<String>,
    /// Dtype and shape, when it could be opened.
    pub info: Option<TensorInfo>,
}

/// Opens the `i`-th tensor.
pub type Open<'a> = &'a (dyn Fn(usize) -> Result<Tensor> + Sync);

/// Scans `count` tensors and returns one row for each.
///
/// `tick` is called about twenty times a second with tensors done and in all, and ends the run by breaking.
///
/// # Errors
/// [`Error::Cancelled`] when `tick` broke. A tensor that cannot be opened or read is a row with a reason.
pub fn scan(
    count: usize,
    open: Open<'_>,
    options: Options,
    tick: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
) -> Result<Vec<Row>> {
    let workers = match options.threads {
        0 => thread::available_parallelism().map_or(1, usize::from).min(32),
        n => n,
    };
    let shared = Shared {
        open,
        queue: Mutex::new(Queue { next: 0, count, opening: 0, parts: VecDeque::new() }),
        changed: Condvar::new(),
        rows: (0..count).map(|_| Mutex::new(Row::default())).collect(),
        done: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    };
    shared.work(workers, tick)?;
    Ok(shared.rows.into_iter().map(|row| row.into_inner().unwrap_or_else(PoisonError::into_inner)).collect())
}

struct Shared<'a> {
    open: Open<'a>,
    queue: Mutex<Queue>,
    changed: Condvar,
    rows: Vec<Mutex<Row>>,
    done: AtomicU64,
    stop: AtomicBool,
}

struct Queue {
    next: usize,
    count: usize,
    /// Tensors that are being opened and may yet bring parts.
    opening: usize,
    parts: VecDeque<(Arc<Job>, u64)>,
}

/// A tensor under way.
struct Job {
    index: usize,
    tensor: Tensor,
    plan: Plan,
    merged: Mutex<Merged>,
}

struct Merged {
    left: u64,
    health: Health,
    /// Sum and sum of squares of every part.
    sums: Vec<(f64, f64)>,
    /// `None` once every channel has a nonzero element.
    channels: Option<Vec<u8>>,
    /// Of split rows: whether one has a nonzero element.
    alive: Vec<bool>,
    fingerprints: Vec<u64>,
    /// The earliest part that failed, and why.
    failed: Option<(u64, String)>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared<'_> {
    fn work(&self, workers: usize, tick: &mut dyn FnMut(u64, u64) -> ControlFlow<()>) -> Result<()> {
        let of = self.rows.len() as u64;
        thread::scope(|scope| {
            let (alive, gone) = mpsc::channel::<()>();
            for _ in 0..workers.max(1) {
                let alive = alive.clone();
                scope.spawn(move || {
                    self.worker();
                    drop(alive);
                });
            }
            drop(alive);
            loop {
                let ended =
                    gone.recv_timeout(Duration::from_millis(50)) == Err(RecvTimeoutError::Disconnected);
                if tick(self.done.load(Relaxed), of).is_break() {
                    self.stop.store(true, Relaxed);
                    self.changed.notify_all();
                    return Err(Error::Cancelled);
                }
                if ended {
                    return Ok(());
                }
            }
        })
    }

    fn worker(&self) {
        let mut buffer = Buffer::default();
        let mut queue = lock(&self.queue);
        while !self.stop.load(Relaxed) {
            if let Some((job, part)) = queue.parts.pop_front() {
                drop(queue);
                self.part(&job, part, &mut buffer);
                queue = lock(&self.queue);
            } else if queue.next < queue.count {
                let index = queue.next;
                queue.next += 1;
                queue.opening += 1;
                drop(queue);
                let begun = self.begin(index);
                queue = lock(&self.queue);
                queue.opening -= 1;
                if let Some(job) = begun {
                    queue.parts.extend((0..job.plan.parts).map(|part| (Arc::clone(&job), part)));
                }
                self.changed.notify_all();
            } else if queue.opening > 0 {
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            } else {
                return;
            }
        }
    }

    /// Opens a tensor; `None` when there is nothing to scan.
    fn begin(&self, index: usize) -> Option<Arc<Job>> {
        let mut row = Row::default();
        let tensor = match (self.open)(index) {
            Ok(tensor) => tensor,
            Err(error) => {
                row.reason = Some(error.to_string());
                self.finish(index, row);
                return None;
            }
        };
        row.info = Some(tensor.info.clone());
        row.notes.clone_from(&tensor.notes);
        let plan = Plan::new(&tensor);
        if decode::lanes(plan.dtype) == Lanes::None {
            row.reason = Some(format!("dtype {}: packed elements have no known value", plan.dtype));
        }
        if row.reason.is_some() || plan.parts == 0 {
            self.finish(index, row);
            return None;
        }
        *lock(&self.rows[index]) = row;
        let merged = Merged {
            left: plan.parts,
            health: Health::default(),
            sums: vec![(0.0, 0.0); plan.parts as usize],
            channels: plan.has_channels().then(|| vec![0; plan.cols as usize]),
            alive: if plan.splits_rows() { vec![false; plan.rows as usize] } else { Vec::new() },
            fingerprints: if plan.has_fingerprints() { vec![0; plan.rows as usize] } else { Vec::new() },
            failed: None,
        };
        Some(Arc::new(Job { index, tensor, plan, merged: Mutex::new(merged) }))
    }

    fn part(&self, job: &Job, part: u64, buffer: &mut Buffer) {
        let result = if lock(&job.merged).failed.as_ref().is_some_and(|(earliest, _)| *earliest < part) {
            Err(Error::Cancelled)
        } else {
            scan_part(&job.tensor, &job.plan, part, buffer)
        };
        let mut merged = lock(&job.merged);
        match result {
            Ok(found) => merged.add(&job.plan, part, found),
            Err(error) => {
                if merged.failed.as_ref().is_none_or(|(earliest, _)| part < *earliest) {
                    merged.failed = Some((part, error.to_string()));
                }
            }
        }
        merged.left -= 1;
        if merged.left > 0 {
            return;
        }
        let outcome = merged.conclude(job);
        drop(merged);
        let mut row = std::mem::take(&mut *lock(&self.rows[job.index]));
        match outcome {
            Ok(health) => row.health = health,
            Err(reason) => row.reason = Some(reason),
        }
        self.finish(job.index, row);
    }

    fn finish(&self, index: usize, row: Row) {
        *lock(&self.rows[index]) = row;
        self.done.fetch_add(1, Relaxed);
    }
}

impl Merged {
    fn add(&mut self, plan: &Plan, part: u64, found: Found) {
        self.health.merge(&found.health);
        self.sums[part as usize] = (found.health.sum, found.health.squares);
        match (&mut self.channels, found.channels) {
            (Some(channels), Some(alive)) => {
                for (to, from) in channels.iter_mut().zip(alive) {
                    *to |= from;
                }
            }
            (channels, _) => *channels = None,
        }
        let row = plan.row(part) as usize;
        if let Some(alive) = self.alive.get_mut(row) {
            *alive |= found.alive;
        }
        if let Some(to) = self.fingerprints.get_mut(row..row + found.fingerprints.len()) {
            to.copy_from_slice(&found.fingerprints);
        }
    }

    fn conclude(&mut self, job: &Job) -> Result<Health, String> {
        if let Some((_, reason)) = self.failed.take() {
            return Err(reason);
        }
        let plan = &job.plan;
        let mut health = std::mem::take(&mut self.health);
        health.sum = self.sums.iter().map(|s| s.0).sum();
        health.squares = self.sums.iter().map(|s| s.1).sum();
        for first in health.first.iter_mut().filter(|first| **first != u64::MAX) {
            *first /= plan.components;
        }
        (health.rows, health.channels) = (plan.rows, plan.cols / plan.components);
        if plan.is_matrix() && plan.splits_rows() {
            health.dead_rows = self.alive.iter().filter(|alive| !**alive).count() as u64;
        }
        if let Some(channels) = self.channels.take() {
            health.dead_channels = channels.iter().map(|&alive| u64::from(alive == 0)).sum();
        }
        let fingerprints = std::mem::take(&mut self.fingerprints);
        if !fingerprints.is_empty() {
            let bytes = plan.cols as usize * plan.dtype.size();
            (health.repeated_rows, health.repeat) =
                repeats::repeated(&job.tensor, &fingerprints, bytes).map_err(|e| e.to_string())?;
        }
        Ok(health)
    }
}
