//! Directory listings in natural order, and trees walked once, safe against loops of links.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Problems;
use crate::{Error, Result};

/// Deepest directory that a walk enters; deeper ones are reported, not read.
const MAX_DEPTH: usize = 64;

/// Compares with runs of digits as numbers: `out2` before `out10`.
#[must_use]
pub fn natural_cmp(a: &str, b: &str) -> Ordering {
    let (mut x, mut y) = (a.as_bytes(), b.as_bytes());
    while let (Some(&p), Some(&q)) = (x.first(), y.first()) {
        if p.is_ascii_digit() && q.is_ascii_digit() {
            let (m, rest_x) = split_number(x);
            let (n, rest_y) = split_number(y);
            let order = m.len().cmp(&n.len()).then_with(|| m.cmp(n));
            if order != Ordering::Equal {
                return order;
            }
            (x, y) = (rest_x, rest_y);
        } else {
            if p != q {
                return p.cmp(&q);
            }
            (x, y) = (&x[1..], &y[1..]);
        }
    }
    // Equal numbers may still be spelled differently: `01` and `1`.
    x.len().cmp(&y.len()).then_with(|| a.cmp(b))
}

/// The leading digits without leading zeros, and what follows.
fn split_number(bytes: &[u8]) -> (&[u8], &[u8]) {
    let digits = bytes.iter().take_while(|c| c.is_ascii_digit()).count();
    let zeros = bytes[..digits].iter().take_while(|&&c| c == b'0').count();
    (&bytes[zeros..digits], &bytes[digits..])
}

/// One entry of a directory.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// File name; bytes that are not UTF-8 are replaced.
    pub(crate) name: String,
    /// Full path.
    pub(crate) path: PathBuf,
    /// A directory, or a link to one.
    pub(crate) is_dir: bool,
    /// Reached through a symbolic link.
    pub(crate) is_link: bool,
}

/// The entries of a directory in natural order. A link that leads nowhere counts as a file.
pub(crate) fn list(dir: &Path) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(dir).map_err(Error::io("list the directory", dir))? {
        let entry = entry.map_err(Error::io("list the directory", dir))?;
        let path = entry.path();
        let kind = entry.file_type().map_err(Error::io("look at", &path))?;
        let is_dir = if kind.is_symlink() { path.is_dir() } else { kind.is_dir() };
        let name = entry.file_name().to_string_lossy().into_owned();
        entries.push(Entry { name, path, is_dir, is_link: kind.is_symlink() });
    }
    entries.sort_by(|a, b| natural_cmp(&a.name, &b.name));
    Ok(entries)
}

/// The sub-directories of a directory, in natural order; none where it cannot be listed.
pub(crate) fn dirs(dir: &Path) -> Vec<Entry> {
    let mut entries = list(dir).unwrap_or_default();
    entries.retain(|e| e.is_dir);
    entries
}

/// The last component of a path, as text.
pub(crate) fn file_name(path: &Path) -> String {
    path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Directories met in one walk, each entered once however many links lead to it.
#[derive(Debug, Default)]
pub(crate) struct Walk {
    seen: BTreeSet<(u64, u64)>,
}

impl Walk {
    /// Lists a directory; what is unreadable, too deep or already read is told and gives no entries.
    pub(crate) fn enter(&mut self, dir: &Path, depth: usize, problems: &mut Problems) -> Vec<Entry> {
        if depth > MAX_DEPTH {
            problems.count("nested too deep and not read", "directory", dir.display());
            return Vec::new();
        }
        match identity(dir) {
            Ok(id) if !self.seen.insert(id) => {
                problems.count("already read under another name (a link)", "directory", dir.display());
                return Vec::new();
            }
            Ok(_) => {}
            Err(source) => {
                problems.add(format!("cannot look at the directory: {source}: {}", dir.display()));
                return Vec::new();
            }
        }
        list(dir).unwrap_or_else(|error| {
            problems.add(error.to_string());
            Vec::new()
        })
    }
}

fn identity(dir: &Path) -> io::Result<(u64, u64)> {
    let meta = fs::metadata(dir)?;
    Ok((meta.dev(), meta.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_sort_as_numbers() {
        let mut names =
            vec!["outtensor10", "outtensor2", "b", "a", "outtensor02", "outtensor1_x", "", "-1_9"];
        names.sort_by(|a, b| natural_cmp(a, b));
        assert_eq!(names, ["", "-1_9", "a", "b", "outtensor1_x", "outtensor02", "outtensor2", "outtensor10"]);
    }

    #[test]
    fn a_loop_of_links_is_walked_once() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("a")).unwrap();
        std::os::unix::fs::symlink(dir.path(), dir.path().join("a/back")).unwrap();
        let (mut walk, mut problems) = (Walk::default(), Problems::default());
        let mut queue = vec![(dir.path().to_owned(), 0)];
        let mut entered = 0;
        while let Some((next, depth)) = queue.pop() {
            entered += 1;
            let found = walk.enter(&next, depth, &mut problems);
            queue.extend(found.into_iter().filter(|e| e.is_dir).map(|e| (e.path, depth + 1)));
        }
        assert_eq!(entered, 3);
        assert_eq!(problems.into_texts().len(), 1);
    }
}
