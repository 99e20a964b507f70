//! The resume journal: finished rows, kept in a file while a long comparison runs, so that the same
//! comparison goes on from there after an interrupt.
//!
//! The file is a header and one record per row: length, the row with its key, CRC-32. Reading ends at the first
//! record that is not whole, so that one torn by a kill costs one row. A row is found again by the places of
//! its two tensors and the options that change it, never by its number.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::run::Row;
use crate::io::place::Place;
use crate::{Error, Result, Tensor};

const NAME: &[u8] = b"llmdbg.journal/";
const HEADER: &[u8] = concat!("llmdbg.journal/1 ", env!("CARGO_PKG_VERSION"), "\n").as_bytes();
/// Length and checksum around a record.
const FRAME: usize = 8;

/// What a row was measured from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Key {
    pub(super) golden: Place,
    pub(super) candidate: Place,
    pub(super) kl: bool,
}

impl Key {
    /// The key of two tensors, if both lie in files.
    pub(super) fn of(golden: &Tensor, candidate: &Tensor, kl: bool) -> Option<Self> {
        Some(Self { golden: Place::of(golden)?, candidate: Place::of(candidate)?, kl })
    }
}

/// Rows of an earlier run of the same comparison, and where those of this one are kept.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    after: Duration,
    started: Instant,
    known: HashMap<Key, Row>,
    resumed: AtomicU64,
    kept: AtomicU64,
    /// Whether the file, if there is one, may be replaced and deleted.
    ours: bool,
    sink: Mutex<Sink>,
}

#[derive(Debug)]
struct Sink {
    state: State,
    /// Why earlier rows are not used, or no rows are kept.
    problem: Option<String>,
}

#[derive(Debug)]
enum State {
    /// Records that wait until the run turns out to be long, and how much of the file is whole.
    Waiting {
        records: Vec<u8>,
        rows: u64,
        whole: u64,
    },
    Writing(File),
    Broken,
}

impl Journal {
    /// Reads the rows that an earlier run left at `path`. New ones are written once this run has taken `after`.
    #[must_use]
    pub fn open(path: &Path, after: Duration) -> Self {
        let mut known = HashMap::new();
        let (mut whole, mut problem, mut ours) = (0, None, true);
        match fs::read(path) {
            Ok(bytes) if bytes.starts_with(HEADER) => whole = read_records(&bytes, &mut known) as u64,
            Ok(bytes) if bytes.starts_with(NAME) => {
                problem = Some("another version of llmdbg wrote it".to_owned());
            }
            Ok(_) => {
                ours = false;
                problem = Some("it is a file of something else".to_owned());
            }
            // What cannot be written there either is said when it is tried.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
            Err(error) => {
                ours = false;
                problem = Some(error.to_string());
            }
        }
        let waiting = State::Waiting { records: Vec::new(), rows: 0, whole };
        let state = if ours { waiting } else { State::Broken };
        Self {
            path: path.to_owned(),
            after,
            started: Instant::now(),
            known,
            resumed: AtomicU64::new(0),
            kept: AtomicU64::new(0),
            ours,
            sink: Mutex::new(Sink { state, problem }),
        }
    }

    /// Rows that an earlier run left.
    #[must_use]
    pub fn known(&self) -> u64 {
        self.known.len() as u64
    }

    /// Rows of an earlier run that this one took over.
    #[must_use]
    pub fn resumed(&self) -> u64 {
        self.resumed.load(Relaxed)
    }

    /// Rows in the file that a further run could take over.
    #[must_use]
    pub fn kept(&self) -> u64 {
        self.resumed() + self.kept.load(Relaxed)
    }

    /// Why rows of an earlier run are not used, or none of this one are kept.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        self.lock().problem.clone()
    }

    /// Deletes the file, if it is a journal: the report is complete.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub fn remove(&self) -> Result<()> {
        if !self.ours {
            return Ok(());
        }
        match fs::remove_file(&self.path) {
            Err(error) if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                Err(Error::io("remove the journal", &self.path)(error))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn recall(&self, key: &Key) -> Option<Row> {
        let row = self.known.get(key)?;
        self.count_resumed();
        Some(row.clone())
    }

    /// Counts a row taken over: that of a pair with the same bytes as one that was recalled.
    pub(super) fn count_resumed(&self) {
        self.resumed.fetch_add(1, Relaxed);
    }

    pub(super) fn keep(&self, key: &Key, row: &Row) {
        let Ok(record) = postcard::to_allocvec(&(key, row)) else { return };
        let mut framed = Vec::with_capacity(record.len() + FRAME);
        framed.extend((record.len() as u32).to_le_bytes());
        framed.extend(checksum(&record).to_le_bytes());
        framed.extend(record);
        let mut sink = self.lock();
        let result = match &mut sink.state {
            State::Broken => return,
            State::Waiting { records, rows, .. } if self.started.elapsed() < self.after => {
                records.extend(framed);
                *rows += 1;
                return;
            }
            State::Waiting { records, rows, whole } => {
                records.extend(framed);
                let rows = *rows + 1;
                self.begin(*whole, records).map(|file| {
                    sink.state = State::Writing(file);
                    rows
                })
            }
            State::Writing(file) => file.write_all(&framed).map(|()| 1),
        };
        match result {
            Ok(rows) => _ = self.kept.fetch_add(rows, Relaxed),
            Err(error) => {
                sink.state = State::Broken;
                sink.problem = Some(error.to_string());
            }
        }
    }

    /// Opens the file behind its whole records and writes those that waited.
    fn begin(&self, whole: u64, records: &[u8]) -> std::io::Result<File> {
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(&self.path)?;
        file.set_len(whole)?;
        file.seek(SeekFrom::End(0))?;
        if whole == 0 {
            file.write_all(HEADER)?;
        }
        file.write_all(records)?;
        Ok(file)
    }

    fn lock(&self) -> MutexGuard<'_, Sink> {
        self.sink.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads whole records and returns where they end.
fn read_records(bytes: &[u8], rows: &mut HashMap<Key, Row>) -> usize {
    let mut at = HEADER.len();
    loop {
        let word =
            |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().unwrap_or_default()));
        let (Some(len), Some(sum)) = (word(at), word(at + 4)) else { return at };
        let Some(record) = bytes.get(at + FRAME..).and_then(|rest| rest.get(..len as usize)) else {
            return at;
        };
        if checksum(record) != sum {
            return at;
        }
        let Ok((key, row)) = postcard::from_bytes(record) else { return at };
        rows.insert(key, row);
        at += FRAME + len as usize;
    }
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}
