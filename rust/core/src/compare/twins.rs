//! Pairs that look like an earlier one.
//!
//! Modules give what the next one takes, and dumps of some tools write it for each of them. Such a copy still has to
//! be read, for it may differ where the run went wrong; but as long as it does not, it needs no measuring.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use super::journal::Key;
use super::part::Bytes;
use super::run::Open;
use crate::parts::{self, Work, lock};
use crate::{Result, Storage, Tensor};

/// Shorter tensors are measured in less time than it takes to look.
const LEAST_BYTES: u64 = 64 << 10;
/// Bytes that are looked at.
const LOOK: usize = 4 << 10;
/// Bytes of a twin that are read at once, so that those of its pair stay in the cache.
const PIECE: usize = 128 << 10;
/// Twins of one pair, whose files are open together.
const MOST: usize = 8;

/// A pair that looks like the one that is measured.
#[derive(Debug)]
pub(super) struct Twin {
    pub(super) index: usize,
    pub(super) key: Option<Key>,
    pub(super) golden: Tensor,
    pub(super) candidate: Tensor,
    differs: AtomicBool,
}

impl Twin {
    pub(super) fn new(index: usize, key: Option<Key>, golden: Tensor, candidate: Tensor) -> Self {
        Self { index, key, golden, candidate, differs: AtomicBool::new(false) }
    }

    /// Holds its elements from `first` on against those that were read of the pair.
    pub(super) fn follow(&self, first: u64, golden: &[u8], candidate: &[u8], space: &mut Bytes) {
        let same = self.is_same()
            && holds(&self.golden, first, golden, space)
            && holds(&self.candidate, first, candidate, space);
        self.differs.fetch_or(!same, Relaxed);
    }

    /// Whether no byte was found to differ.
    pub(super) fn is_same(&self) -> bool {
        !self.differs.load(Relaxed)
    }
}

fn holds(tensor: &Tensor, first: u64, bytes: &[u8], space: &mut Bytes) -> bool {
    let size = tensor.info.dtype.size();
    let step = PIECE / size;
    bytes.chunks(step * size).enumerate().all(|(i, piece)| {
        let own = space.get(piece.len());
        tensor.read_at(first + (i * step) as u64, own).is_ok_and(|()| own == piece)
    })
}

/// By leader, the pairs that look like it.
pub(super) type Families = HashMap<usize, Vec<usize>>;

/// Looks at every pair.
///
/// # Errors
/// [`crate::Error::Cancelled`] when `tick` broke.
pub(super) fn families(
    count: usize,
    open: Open<'_>,
    workers: usize,
    stop: &AtomicBool,
    tick: &mut dyn FnMut() -> ControlFlow<()>,
) -> Result<Families> {
    let looks = Looks { open, seen: (0..count).map(|_| Mutex::new(None)).collect() };
    parts::run(&looks, count, workers, stop, tick)?;
    let (mut leaders, mut families) = (HashMap::new(), Families::new());
    let mut places = HashSet::new();
    for (index, look) in looks.seen.iter().enumerate() {
        let Some((look, key)) = lock(look).take() else { continue };
        // What stands at the same place is known without reading it.
        if key.is_some_and(|key| !places.insert(key)) {
            continue;
        }
        let leader = *leaders.entry(look).or_insert(index);
        if leader == index {
            continue;
        }
        let family: &mut Vec<usize> = families.entry(leader).or_default();
        if family.len() < MOST {
            family.push(index);
        } else {
            leaders.insert(look, index);
        }
    }
    Ok(families)
}

/// A look, and where the pair lies.
type Seen = (u64, Option<Key>);

/// Looks of all pairs, as far as they are worth one.
struct Looks<'a> {
    open: Open<'a>,
    seen: Vec<Mutex<Option<Seen>>>,
}

impl Work for Looks<'_> {
    type Item = ();
    type Space = ();

    fn begin(&self, index: usize) -> Option<(Arc<()>, u64)> {
        if let (Ok(golden), Ok(candidate)) = (self.open)(index) {
            let look = look(&golden).zip(look(&candidate));
            *lock(&self.seen[index]) =
                look.map(|(a, b)| (a.rotate_left(1) ^ b, Key::of(&golden, &candidate, false)));
        }
        None
    }

    fn part(&self, (): &(), _: u64, (): &mut ()) {}
}

/// A number that tensors of the same content share; `None` for one that is not worth it, or lies in no file as it is.
fn look(tensor: &Tensor) -> Option<u64> {
    let bytes = tensor.info.numel() * tensor.info.dtype.size() as u64;
    let in_file = matches!(tensor.storage, Storage::File { .. }) && tensor.is_contiguous();
    if bytes < LEAST_BYTES || !in_file {
        return None;
    }
    let mut start = [0; LOOK];
    tensor.read_at(0, &mut start).ok()?;
    let mut hasher = DefaultHasher::new();
    (tensor.info.dtype, &tensor.info.shape, start).hash(&mut hasher);
    Some(hasher.finish())
}
