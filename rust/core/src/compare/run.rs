//! Running a comparison: workers take the parts of pairs, each pair merges its parts in order.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::journal::{Journal, Key};
use super::measures::Measures;
use super::merge::Merger;
use super::part::{Pair, PartSums, Workspace, measure};
use super::plan::{Plan, Sizes};
use super::prepare::{Prepared, prepare};
use super::twins::{self, Families, Twin};
use crate::parts::{self, Work, lock};
use crate::{Error, Result, Tensor, TensorInfo};

/// How to compare.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Worker threads; 0 for as many as there are processors, 32 at most.
    pub threads: usize,
    /// Whether to take softmax divergences.
    pub kl: bool,
    /// How pairs are cut.
    pub sizes: Sizes,
}

impl Default for Options {
    fn default() -> Self {
        Self { threads: 0, kl: true, sizes: Sizes::default() }
    }
}

/// The outcome for one pair.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Row {
    /// The measures, as far as there are any.
    pub measures: Measures,
    /// Why there are none, or only some.
    pub reason: Option<String>,
    /// How shapes were reconciled.
    pub shape_note: Option<String>,
    /// What the readers of the two files noticed.
    pub notes: Vec<String>,
    /// Golden dtype and shape, when it could be opened.
    pub golden: Option<TensorInfo>,
    /// Candidate dtype and shape, when it could be opened.
    pub candidate: Option<TensorInfo>,
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Pairs finished.
    pub pairs: u64,
    /// Pairs in all.
    pub of: u64,
    /// Bytes measured.
    pub bytes: u64,
}

/// Opens the `i`-th pair: golden, then candidate.
pub type Open<'a> = &'a (dyn Fn(usize) -> (Result<Tensor>, Result<Tensor>) + Sync);

/// Compares `count` pairs and returns one row for each. Pairs of the very same bytes are measured once.
///
/// Rows that `journal` knows are taken from there, and finished ones are kept in it. `tick` is called about twenty times a second on the calling thread, and ends the run by breaking.
///
/// # Errors
/// [`Error::Cancelled`] when `tick` broke. A pair that cannot be opened, read or measured is a row with a
/// reason instead.
pub fn run(
    count: usize,
    open: Open<'_>,
    options: &Options,
    journal: Option<&Journal>,
    tick: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Vec<Row>> {
    let mut shared = Shared::new(count, open, options);
    shared.journal = journal;
    let workers = parts::workers(options.threads).min(count.max(1) * 64);
    if count > 1 {
        shared.families =
            twins::families(count, open, workers, &shared.stop, &mut || tick(shared.progress()))?;
    }
    let twins: HashSet<usize> = shared.families.values().flatten().copied().collect();
    shared.work((0..count).filter(|index| !twins.contains(index)).collect(), workers, tick)?;
    // Those that turned out to differ.
    shared.families.clear();
    let mut left: Vec<usize> =
        twins.into_iter().filter(|&index| lock(&shared.rows[index]).is_none()).collect();
    left.sort_unstable();
    shared.work(left, workers, tick)?;
    let mut rows: Vec<Row> = shared
        .rows
        .into_iter()
        .map(|row| row.into_inner().unwrap_or_else(PoisonError::into_inner).unwrap_or_default().0)
        .collect();
    let seen = shared.seen.into_inner().unwrap_or_else(PoisonError::into_inner);
    for (again, first) in seen.again {
        rows[again] = rows[first].clone();
    }
    Ok(rows)
}

/// Relative L2 of every row of a pair, joined over neighbouring rows when there are more than `most`.
///
/// Returns the values and the number of rows that each stands for.
///
/// # Errors
/// When the pair cannot be measured.
pub fn row_profile(
    golden: &Tensor,
    candidate: &Tensor,
    most: usize,
    options: &Options,
) -> Result<(Vec<f32>, u64)> {
    let open = |_: usize| (Ok(golden.clone()), Ok(candidate.clone()));
    let mut shared = Shared::new(1, &open, options);
    shared.profile = true;
    shared.work(vec![0], parts::workers(options.threads), &mut |_| ControlFlow::Continue(()))?;
    let (row, profile) = lock(&shared.rows[0]).take().unwrap_or_default();
    if let Some(reason) = row.reason {
        return Err(Error::Invalid(reason));
    }
    let group = profile.len().div_ceil(most.max(1)).max(1);
    // Of joined rows the worst one shows.
    let joined = profile.chunks(group).map(|rows| rows.iter().fold(0f64, |m, &v| m.max(v)) as f32).collect();
    Ok((joined, group as u64))
}

/// What the readers of two files noticed.
fn notes_of(golden: &Tensor, candidate: &Tensor) -> Vec<String> {
    let side = |name: &'static str, tensor: &Tensor| -> Vec<String> {
        tensor.notes.iter().map(|note| format!("{name}: {note}")).collect()
    };
    [side("golden", golden), side("candidate", candidate)].concat()
}

type Finished = (Row, Vec<f64>);

struct Shared<'a> {
    open: Open<'a>,
    options: &'a Options,
    journal: Option<&'a Journal>,
    profile: bool,
    rows: Vec<Mutex<Option<Finished>>>,
    seen: Mutex<Seen>,
    families: Families,
    pairs_done: AtomicU64,
    bytes: AtomicU64,
    stop: AtomicBool,
}

/// Which bytes were met already.
#[derive(Default)]
struct Seen {
    /// The first pair of these bytes, and whether its row came from the journal.
    first: HashMap<Key, (usize, bool)>,
    /// Pairs of the same bytes as an earlier one, and that one.
    again: Vec<(usize, usize)>,
}

/// A pair under way.
struct Active {
    index: usize,
    key: Option<Key>,
    pair: Pair,
    plan: Plan,
    row: Mutex<Row>,
    broken: AtomicBool,
    joining: Mutex<Joining>,
    joined: Condvar,
}

struct Joining {
    merger: Option<Merger>,
    next: u64,
    early: BTreeMap<u64, Result<PartSums>>,
}

/// Results that may wait for an earlier part of their pair; beyond, their workers wait too.
const EARLY: usize = 8;

/// Some of the pairs, in order.
struct Round<'a> {
    shared: &'a Shared<'a>,
    pairs: Vec<usize>,
}

impl Work for Round<'_> {
    type Item = Active;
    type Space = Workspace;

    fn begin(&self, index: usize) -> Option<(Arc<Active>, u64)> {
        let active = self.shared.begin(self.pairs[index])?;
        let parts = active.plan.parts();
        Some((Arc::new(active), parts))
    }

    fn part(&self, active: &Active, index: u64, work: &mut Workspace) {
        self.shared.part(active, index, work);
    }
}

impl<'a> Shared<'a> {
    fn new(count: usize, open: Open<'a>, options: &'a Options) -> Self {
        Self {
            open,
            options,
            journal: None,
            profile: false,
            rows: (0..count).map(|_| Mutex::new(None)).collect(),
            seen: Mutex::default(),
            families: Families::new(),
            pairs_done: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        }
    }

    fn progress(&self) -> Progress {
        let (pairs, bytes) = (self.pairs_done.load(Relaxed), self.bytes.load(Relaxed));
        Progress { pairs, of: self.rows.len() as u64, bytes }
    }

    fn work(
        &self,
        pairs: Vec<usize>,
        workers: usize,
        tick: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<()> {
        let count = pairs.len();
        let round = Round { shared: self, pairs };
        parts::run(&round, count, workers, &self.stop, &mut || tick(self.progress()))
    }

    /// Opens a pair; `None` when it is finished without measuring.
    fn begin(&self, index: usize) -> Option<Active> {
        let (golden, candidate) = (self.open)(index);
        let mut row = Row {
            golden: golden.as_ref().ok().map(|t| t.info.clone()),
            candidate: candidate.as_ref().ok().map(|t| t.info.clone()),
            ..Row::default()
        };
        let (golden, candidate) = match (golden, candidate) {
            (Ok(golden), Ok(candidate)) => (golden, candidate),
            (golden, candidate) => {
                let side = |name: &str, side: Result<Tensor>| side.err().map(|e| format!("{name}: {e}"));
                let reasons = [side("golden", golden), side("candidate", candidate)];
                row.reason = Some(reasons.into_iter().flatten().collect::<Vec<_>>().join("; "));
                self.finish(index, row, Vec::new());
                return None;
            }
        };
        let key = Key::of(&golden, &candidate, self.options.kl);
        if let Some(key) = &key
            && self.is_known(index, key)
        {
            return None;
        }
        row.notes = notes_of(&golden, &candidate);
        row.measures.elements = golden.info.numel();
        let same_dtype = golden.info.dtype == candidate.info.dtype;
        let (prepared, note) = prepare(golden, candidate, self.options.kl);
        row.shape_note = note;
        let mut pair = match prepared {
            Prepared::Pair(pair) => *pair,
            Prepared::Reason(reason) => {
                row.measures.bitwise_equal = same_dtype && row.measures.elements == 0;
                row.reason = Some(reason);
                self.finish(index, row, Vec::new());
                return None;
            }
            Prepared::Bytes(tensors) => {
                self.compare_bytes(&tensors, &mut row);
                self.finish(index, row, Vec::new());
                return None;
            }
        };
        let plan = Plan::new(pair.matrix, &self.options.sizes);
        let (has_ulp, has_kl) = (pair.recipe.has_ulp(), pair.recipe.has_kl());
        let merger = Merger::new(&plan, pair.components, has_ulp, has_kl, self.profile);
        pair.twins = self.twins_of(index, &pair);
        Some(Active {
            index,
            key,
            pair,
            plan,
            row: Mutex::new(row),
            broken: AtomicBool::new(false),
            joining: Mutex::new(Joining { merger: Some(merger), next: 0, early: BTreeMap::new() }),
            joined: Condvar::new(),
        })
    }

    /// Opens the pairs that look like this one; what cannot be opened is told of when its turn comes.
    fn twins_of(&self, index: usize, pair: &Pair) -> Vec<Twin> {
        let family = self.families.get(&index).into_iter().flatten();
        let open = |&index: &usize| {
            let (Ok(golden), Ok(candidate)) = (self.open)(index) else { return None };
            if golden.info != pair.golden.info || candidate.info != pair.candidate.info {
                return None;
            }
            let key = Key::of(&golden, &candidate, self.options.kl);
            Some(Twin::new(index, key, golden, candidate))
        };
        family.filter_map(open).collect()
    }

    fn part(&self, active: &Active, index: u64, work: &mut Workspace) {
        let part = active.plan.part(index);
        let result = if active.broken.load(Relaxed) {
            Err(Error::Cancelled)
        } else {
            let size = active.pair.golden.info.dtype.size() + active.pair.candidate.info.dtype.size();
            let bytes = (part.rows * part.cols * size) as u64 / active.pair.components;
            self.bytes.fetch_add(bytes, Relaxed);
            measure(&active.pair, part, &self.options.sizes, work)
        };
        self.join(active, index, result);
    }

    /// Merges a part and those that waited for it.
    fn join(&self, active: &Active, index: u64, result: Result<PartSums>) {
        let mut joining = lock(&active.joining);
        while joining.next != index && joining.early.len() >= EARLY && !self.stop.load(Relaxed) {
            let wait = active.joined.wait_timeout(joining, Duration::from_millis(50));
            joining = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
        joining.early.insert(index, result);
        loop {
            let next = joining.next;
            let Some(result) = joining.early.remove(&next) else { break };
            joining.next += 1;
            match result {
                Ok(sums) => {
                    if let Some(merger) = &mut joining.merger {
                        merger.add(active.plan.part(next), sums);
                    }
                }
                Err(error) => {
                    joining.merger = None;
                    if !active.broken.swap(true, Relaxed) {
                        lock(&active.row).reason = Some(error.to_string());
                    }
                }
            }
        }
        active.joined.notify_all();
        if joining.next == active.plan.parts() {
            let merger = joining.merger.take();
            drop(joining);
            let mut row = std::mem::take(&mut *lock(&active.row));
            let mut profile = Vec::new();
            if let Some(merger) = merger {
                let (mut merged, rows) = merger.finish();
                merged.same_bytes &=
                    row.golden.as_ref().map(|i| i.dtype) == row.candidate.as_ref().map(|i| i.dtype);
                if merged.sums.counted == 0 {
                    row.reason = Some("no element is finite on both sides".into());
                }
                row.measures = Measures::from_sums(&merged, row.measures.elements, active.pair.components);
                profile = rows;
            }
            if row.reason.is_none() {
                for twin in active.pair.twins.iter().filter(|twin| twin.is_same()) {
                    let notes = notes_of(&twin.golden, &twin.candidate);
                    self.keep(twin.index, twin.key.as_ref(), Row { notes, ..row.clone() }, Vec::new());
                }
            }
            self.keep(active.index, active.key.as_ref(), row, profile);
        }
    }

    /// Finishes a measured row, which the journal keeps if it is whole.
    fn keep(&self, index: usize, key: Option<&Key>, row: Row, profile: Vec<f64>) {
        if let (Some(journal), Some(key), None) = (self.journal, key, &row.reason) {
            journal.keep(key, &row);
        }
        self.finish(index, row, profile);
    }

    /// Whether a pair needs no measuring because an earlier pair, or an earlier run, has the row.
    fn is_known(&self, index: usize, key: &Key) -> bool {
        let mut seen = lock(&self.seen);
        if let Some(&(first, recalled)) = seen.first.get(key) {
            seen.again.push((index, first));
            if let (Some(journal), true) = (self.journal, recalled) {
                journal.count_resumed();
            }
            self.pairs_done.fetch_add(1, Relaxed);
            return true;
        }
        let row = self.journal.and_then(|journal| journal.recall(key));
        seen.first.insert(key.clone(), (index, row.is_some()));
        drop(seen);
        let Some(row) = row else { return false };
        self.finish(index, row, Vec::new());
        true
    }

    fn finish(&self, index: usize, row: Row, profile: Vec<f64>) {
        *lock(&self.rows[index]) = Some((row, profile));
        self.pairs_done.fetch_add(1, Relaxed);
    }

    fn compare_bytes(&self, [golden, candidate]: &[Tensor; 2], row: &mut Row) {
        let dtype = golden.info.dtype;
        row.reason = Some(format!("dtype not measurable: {dtype}: only bitwise equality is known"));
        let chunk = self.options.sizes.chunk as u64;
        let (mut a, mut b) = (Vec::new(), Vec::new());
        row.measures.bitwise_equal = true;
        for first in (0..golden.info.numel()).step_by(chunk as usize) {
            let len = chunk.min(golden.info.numel() - first) as usize * dtype.size();
            a.resize(len, 0);
            b.resize(len, 0);
            if let Err(error) = golden.read_at(first, &mut a).and_then(|()| candidate.read_at(first, &mut b))
            {
                row.reason = Some(error.to_string());
                row.measures.bitwise_equal = false;
                return;
            }
            self.bytes.fetch_add(2 * len as u64, Relaxed);
            if a != b || self.stop.load(Relaxed) {
                row.measures.bitwise_equal = false;
                return;
            }
        }
    }
}
