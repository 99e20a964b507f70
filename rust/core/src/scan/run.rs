//! Scanning many tensors: workers take their parts, and what a part found is merged whatever the order.
//!
//! Counts, extremes and places do not depend on the order of merging; the sums of parts are kept and added in
//! order at the end. So the result has the same bits for any number of threads.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use super::health::Health;
use super::part::{Buffer, Found, Plan, scan_part};
use super::repeats::{self, Sieve};
use crate::parts::{self, Work, lock};
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
    let shared = Shared {
        open,
        rows: (0..count).map(|_| Mutex::new(Row::default())).collect(),
        done: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    };
    parts::run(&shared, count, parts::workers(options.threads), &shared.stop, &mut || {
        tick(shared.done.load(Relaxed), count as u64)
    })?;
    Ok(shared.rows.into_iter().map(|row| row.into_inner().unwrap_or_else(PoisonError::into_inner)).collect())
}

struct Shared<'a> {
    open: Open<'a>,
    rows: Vec<Mutex<Row>>,
    done: AtomicU64,
    stop: AtomicBool,
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
    sieve: Sieve,
    /// The earliest part that failed, and why.
    failed: Option<(u64, String)>,
}

impl Work for Shared<'_> {
    type Item = Job;
    type Space = Buffer;

    fn begin(&self, index: usize) -> Option<(Arc<Job>, u64)> {
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
        let fingerprints = if plan.has_fingerprints() { plan.rows as usize } else { 0 };
        let merged = Merged {
            left: plan.parts,
            health: Health::default(),
            sums: vec![(0.0, 0.0); plan.parts as usize],
            channels: plan.has_channels().then(|| vec![0; plan.cols as usize]),
            alive: if plan.splits_rows() { vec![false; plan.rows as usize] } else { Vec::new() },
            fingerprints: vec![0; fingerprints],
            sieve: Sieve::new(fingerprints, 0),
            failed: None,
        };
        let parts = plan.parts;
        Some((Arc::new(Job { index, tensor, plan, merged: Mutex::new(merged) }), parts))
    }

    fn part(&self, job: &Job, part: u64, buffer: &mut Buffer) {
        let (known, is_vain) = {
            let merged = lock(&job.merged);
            let failed = merged.failed.as_ref();
            (merged.health.extremes(), failed.is_some_and(|(earliest, _)| *earliest < part))
        };
        let result = if is_vain {
            Err(Error::Cancelled)
        } else {
            scan_part(&job.tensor, &job.plan, part, known, buffer)
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
}

impl Shared<'_> {
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
            for &fingerprint in to.iter().filter(|fingerprint| **fingerprint != 0) {
                self.sieve.add(fingerprint);
            }
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
                repeats::repeated(&job.tensor, &fingerprints, &self.sieve, bytes)
                    .map_err(|e| e.to_string())?;
        }
        Ok(health)
    }
}
