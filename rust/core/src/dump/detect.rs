//! Finding out which layout a path belongs to, whatever level of it the user named.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::walk::{self, file_name};
use super::{Dump, atb, fx, ge, loose, manual, msprobe, native, torch_hook};
use crate::{Error, Result};

/// A directory layout that llmdbg reads.
struct Layout {
    /// What it is called in messages.
    name: &'static str,
    /// Files that stand for the directory they lie in.
    marks: &'static [&'static str],
    /// The dumps that a directory is or holds at a place the layout prescribes; each can be given to `open`.
    find: fn(&Path) -> Vec<PathBuf>,
    /// Reads what `find` found.
    open: fn(&Path) -> Result<Dump>,
}

/// The layouts; a directory may hold dumps of several.
static LAYOUTS: [Layout; 7] = [
    Layout { name: "llmdbg", marks: native::MARKS, find: native::find, open: native::open },
    Layout { name: "ait torch", marks: torch_hook::MARKS, find: torch_hook::find, open: torch_hook::open },
    Layout { name: "ATB", marks: atb::MARKS, find: atb::find, open: atb::open },
    Layout { name: "msprobe", marks: msprobe::MARKS, find: msprobe::find, open: msprobe::open },
    Layout { name: "manual mapping", marks: manual::MARKS, find: manual::find, open: manual::open },
    Layout { name: "GE", marks: ge::MARKS, find: ge::find, open: ge::open },
    Layout { name: "FX", marks: fx::MARKS, find: fx::find, open: fx::open },
];

/// How many levels below the named directory a single dump is looked for.
const SEARCH_DEPTH: usize = 3;

/// Directories looked at during that search.
const SEARCH_LIMIT: usize = 10_000;

/// Opens a dump. Names and places are read, tensors are not.
///
/// # Errors
///
/// Nothing at `path`, nothing in it that llmdbg reads, several dumps in it, or a description file that cannot be read.
pub fn open(path: &Path) -> Result<Dump> {
    let meta = std::fs::metadata(path).map_err(Error::io("open the dump", path))?;
    let path = &absolute(path)?;
    if meta.is_file() {
        return open_file(path);
    }
    let found = find(path);
    if let Some(dump) = open_only(path, &found)? {
        return Ok(dump);
    }
    if loose::is_direct(path) {
        return loose::open(path);
    }
    let found = find_below(path);
    if let Some(dump) = open_only(path, &found)? {
        return Ok(dump);
    }
    let dump = loose::open(path)?;
    if dump.records.is_empty() { Err(nothing_here(path)) } else { Ok(dump) }
}

/// The path from the root of the file system, without `.` and `..`, so that the names of the levels above can be read.
fn absolute(path: &Path) -> Result<PathBuf> {
    use std::path::Component;
    if path.components().any(|c| c == Component::ParentDir) {
        return path.canonicalize().map_err(Error::io("open the dump", path));
    }
    std::path::absolute(path).map_err(Error::io("open the dump", path))
}

/// One dump found: its layout and where.
type Found = (&'static Layout, PathBuf);

fn find(dir: &Path) -> Vec<Found> {
    LAYOUTS.iter().flat_map(|layout| (layout.find)(dir).into_iter().map(move |at| (layout, at))).collect()
}

/// Level by level, until a level holds a dump.
fn find_below(dir: &Path) -> Vec<Found> {
    let mut level = vec![dir.to_owned()];
    let mut looked_at = 0;
    for _ in 0..SEARCH_DEPTH {
        let below: Vec<PathBuf> =
            level.iter().flat_map(|dir| walk::dirs(dir)).filter(|e| !e.is_link).map(|e| e.path).collect();
        let found: Vec<Found> =
            below.iter().take(SEARCH_LIMIT - looked_at).flat_map(|dir| find(dir)).collect();
        looked_at += below.len();
        if !found.is_empty() || looked_at >= SEARCH_LIMIT {
            return found;
        }
        level = below;
    }
    Vec::new()
}

fn open_only(named: &Path, found: &[Found]) -> Result<Option<Dump>> {
    match found {
        [] => Ok(None),
        [(layout, at)] => (layout.open)(at).map(Some),
        several => {
            let mut what = format!("{} dumps here, name one of them:", several.len());
            for (layout, at) in several.iter().take(10) {
                let shown = at.strip_prefix(named).unwrap_or(at);
                let _ = write!(what, " {} ({}),", shown.display(), layout.name);
            }
            if several.len() > 10 {
                let _ = write!(what, " and {} more,", several.len() - 10);
            }
            Err(Error::not_found(named, what.trim_end_matches(',')))
        }
    }
}

fn open_file(path: &Path) -> Result<Dump> {
    let name = file_name(path);
    let parent = path.parent().unwrap_or(path);
    for layout in LAYOUTS.iter().filter(|layout| layout.marks.contains(&name.as_str())) {
        if let [at] = (layout.find)(parent).as_slice() {
            return (layout.open)(at);
        }
    }
    if loose::is_tensor_file(path) {
        return loose::open_single(path);
    }
    // The content decides where the name does not.
    if let Ok(dump) = loose::open_single(path) {
        return Ok(dump);
    }
    Err(Error::not_found(
        path,
        "neither a tensor file (.npy .npz .pt .pth .bin .safetensors) nor the description file of a dump",
    ))
}

fn nothing_here(path: &Path) -> Error {
    let entries = walk::list(path).unwrap_or_default();
    let mut what = String::from("no dump here");
    if entries.is_empty() {
        what.push_str(", the directory is empty");
    } else {
        what.push_str("; it holds");
        for entry in entries.iter().take(8) {
            let _ = write!(what, " {}{},", entry.name, if entry.is_dir { "/" } else { "" });
        }
        if entries.len() > 8 {
            let _ = write!(what, " and {} more,", entries.len() - 8);
        }
        what.truncate(what.len() - 1);
    }
    what.push_str(". Known are dumps of llmdbg, ait/msit, ATB, msprobe and torchair (GE and FX), and folders of tensor files");
    Error::not_found(path, what)
}
