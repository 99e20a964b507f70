//! Worker threads that open items in order and take their parts: what comparing and scanning share.
//!
//! What is computed must depend on the items alone. Threads decide only who computes it.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::{Error, Result};

/// Work that comes in items, each of which has parts.
pub(crate) trait Work: Sync {
    /// An item under way.
    type Item: Send + Sync;
    /// Working memory of one thread.
    type Space: Default;
    /// Opens the `index`-th item and says how many parts it has; `None` when there is nothing left to do with it.
    fn begin(&self, index: usize) -> Option<(Arc<Self::Item>, u64)>;
    /// Does one part.
    fn part(&self, item: &Self::Item, part: u64, space: &mut Self::Space);
}

/// Threads for an option of which 0 means as many as there are processors.
pub(crate) fn workers(threads: usize) -> usize {
    match threads {
        // Beyond this the memory is the limit, and every worker has buffers of its own.
        0 => thread::available_parallelism().map_or(1, usize::from).min(32),
        n => n,
    }
}

/// Does all parts of `count` items.
///
/// `tick` is called about twenty times a second on the calling thread and ends the run by breaking; `stop` tells
/// those at work of it.
///
/// # Errors
/// [`Error::Cancelled`] when `tick` broke.
pub(crate) fn run<W: Work>(
    work: &W,
    count: usize,
    workers: usize,
    stop: &AtomicBool,
    tick: &mut dyn FnMut() -> ControlFlow<()>,
) -> Result<()> {
    let queue = Mutex::new(Queue { next: 0, count, opening: 0, parts: VecDeque::new() });
    let crew = Crew { work, queue, changed: Condvar::new(), stop };
    thread::scope(|scope| {
        let (alive, gone) = mpsc::channel::<()>();
        for _ in 0..workers.max(1) {
            let (alive, crew) = (alive.clone(), &crew);
            scope.spawn(move || {
                crew.worker();
                drop(alive);
            });
        }
        drop(alive);
        loop {
            let ended = gone.recv_timeout(Duration::from_millis(50)) == Err(RecvTimeoutError::Disconnected);
            if tick().is_break() {
                stop.store(true, Relaxed);
                crew.changed.notify_all();
                return Err(Error::Cancelled);
            }
            if ended {
                return Ok(());
            }
        }
    })
}

struct Crew<'a, W: Work> {
    work: &'a W,
    queue: Mutex<Queue<W::Item>>,
    changed: Condvar,
    stop: &'a AtomicBool,
}

struct Queue<T> {
    next: usize,
    count: usize,
    /// Items that are being opened and may yet bring parts.
    opening: usize,
    parts: VecDeque<(Arc<T>, u64)>,
}

/// Locks, whatever befell the thread that held the lock before.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<W: Work> Crew<'_, W> {
    fn worker(&self) {
        let mut space = W::Space::default();
        let mut queue = lock(&self.queue);
        while !self.stop.load(Relaxed) {
            if let Some((item, part)) = queue.parts.pop_front() {
                drop(queue);
                self.work.part(&item, part, &mut space);
                queue = lock(&self.queue);
            } else if queue.next < queue.count {
                let index = queue.next;
                queue.next += 1;
                queue.opening += 1;
                drop(queue);
                let begun = self.work.begin(index);
                queue = lock(&self.queue);
                queue.opening -= 1;
                if let Some((item, parts)) = &begun {
                    queue.parts.extend((1..*parts).map(|part| (Arc::clone(item), part)));
                }
                self.changed.notify_all();
                if let Some((item, _)) = begun {
                    drop(queue);
                    self.work.part(&item, 0, &mut space);
                    queue = lock(&self.queue);
                }
            } else if queue.opening > 0 {
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            } else {
                return;
            }
        }
    }
}
