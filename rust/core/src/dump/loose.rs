//! No layout at all: one tensor file, or a folder of them. A tensor's name is its path below the folder.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use rayon::prelude::*;

use super::walk::{self, Walk, natural_cmp};
use super::{Dump, Location, Phase, Problems, Role, TensorRecord};
use crate::Result;
use crate::format::{self, Entry, atb_bin};

/// Whether a file's name is that of a tensor file.
pub(super) fn is_tensor_file(path: &Path) -> bool {
    format::is_tensor_file(path)
}

/// Whether `dir` holds tensor files itself.
pub(super) fn is_direct(dir: &Path) -> bool {
    walk::list(dir).is_ok_and(|entries| entries.iter().any(|e| !e.is_dir && is_tensor_file(&e.path)))
}

/// One file: a tensor, or a container of named ones.
pub(super) fn open_single(path: &Path) -> Result<Dump> {
    let (mut dump, mut problems) = (Dump::new("file", path), Problems::default());
    dump.variant = suffix(path);
    let stem = stem(path.file_name().map_or(path, Path::new));
    match format::contents(path) {
        Ok(contents) => {
            add(&mut dump.records, &mut problems, path, &stem, true, &contents.entries);
        }
        // A description without data is still worth showing.
        Err(error) => match atb_bin::header(path) {
            Ok(header) => {
                let record = whole(path, &stem);
                dump.records.push(TensorRecord { info: Some(header.info), stats: header.stats, ..record });
            }
            Err(_) => return Err(error),
        },
    }
    number(&mut dump);
    dump.problems = problems.into_texts();
    Ok(dump)
}

/// All tensor files below `dir`.
pub(super) fn open(dir: &Path) -> Result<Dump> {
    // A directory that cannot be listed is an error here, a problem further down.
    walk::list(dir)?;
    let mut dump = Dump::new("folder", dir);
    let (mut walk, mut problems) = (Walk::default(), Problems::default());
    let mut files = Vec::new();
    // Links last: what they lead to keeps its own name where that lies in the folder, too.
    let mut links = vec![Found { path: dir.to_owned(), name: String::new() }];
    while let Some(Found { path, name }) = links.pop() {
        let depth = name.matches('/').count();
        collect(&path, &name, depth, &mut walk, &mut problems, &mut files, &mut links);
    }
    files.sort_by(|a, b| natural_cmp(&a.name, &b.name).then_with(|| a.path.cmp(&b.path)));
    let opened: Vec<_> = files
        .par_iter()
        .map(|file| if is_container(&file.path) { Some(format::contents(&file.path)) } else { None })
        .collect();

    let mut keys = BTreeSet::new();
    let containers = opened.iter().flatten().filter_map(|contents| contents.as_ref().ok());
    let mut named = containers.flat_map(|c| &c.entries).map(|e| e.key.as_str()).filter(|key| !key.is_empty());
    let unique = named.all(|key| keys.insert(key));
    for (file, contents) in files.iter().zip(&opened) {
        match contents {
            None => dump.records.push(whole(&file.path, &file.name)),
            Some(Err(error)) => {
                problems.add(error.to_string());
                dump.records.push(whole(&file.path, &file.name));
            }
            Some(Ok(contents)) => {
                add(&mut dump.records, &mut problems, &file.path, &file.name, unique, &contents.entries);
            }
        }
    }
    for record in &mut dump.records {
        record.phase = phase(&record.node);
    }
    number(&mut dump);
    dump.problems = problems.into_texts();
    Ok(dump)
}

/// Adds the tensors of one file. Members go by their key alone where keys are `unique`: the shards of one
/// checkpoint, cut differently, then still correspond.
fn add(
    records: &mut Vec<TensorRecord>,
    problems: &mut Problems,
    path: &Path,
    name: &str,
    unique: bool,
    entries: &[Entry],
) {
    for entry in entries {
        let node = match (entry.key.as_str(), unique) {
            ("", _) => name.to_owned(),
            (key, true) => key.to_owned(),
            (key, false) => format!("{name}/{key}"),
        };
        let (role, slot) = guess(&node);
        let info = match &entry.view {
            Ok(view) => Some(view.info().clone()),
            Err(error) => {
                problems.add(error.to_string());
                None
            }
        };
        records.push(TensorRecord { info, ..TensorRecord::new(node, role, slot, entry.location(path)) });
    }
}

fn whole(path: &Path, name: &str) -> TensorRecord {
    let (role, slot) = guess(name);
    TensorRecord::new(name, role, slot, Location::File(path.to_owned()))
}

struct Found {
    path: std::path::PathBuf,
    /// Path below the folder, without suffix.
    name: String,
}

fn collect(
    dir: &Path,
    prefix: &str,
    depth: usize,
    walk: &mut Walk,
    problems: &mut Problems,
    files: &mut Vec<Found>,
    links: &mut Vec<Found>,
) {
    for entry in walk.enter(dir, depth, problems) {
        let name = format!("{prefix}{}", entry.name);
        if entry.is_dir && entry.is_link {
            links.push(Found { path: entry.path, name: format!("{name}/") });
        } else if entry.is_dir {
            collect(&entry.path, &format!("{name}/"), depth + 1, walk, problems, files, links);
        } else if is_tensor_file(&entry.path) {
            files.push(Found { name: stem(Path::new(&name)), path: entry.path });
        }
    }
}

fn number(dump: &mut Dump) {
    for (order, record) in (0..).zip(&mut dump.records) {
        record.order = order;
    }
}

fn suffix(path: &Path) -> String {
    path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default()
}

/// Whether a file may hold several tensors. `.bin` is ATB's, with one tensor, unless torch wrote a zip file.
fn is_container(path: &Path) -> bool {
    let is_zip = || {
        let mut start = [0; 2];
        File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok_and(|()| start == *b"PK")
    };
    match suffix(path).as_str() {
        "npy" => false,
        "bin" => is_zip(),
        _ => true,
    }
}

fn stem(path: &Path) -> String {
    path.with_extension("").to_string_lossy().into_owned()
}

fn phase(name: &str) -> Option<Phase> {
    match name.rsplit('/').nth(1) {
        Some("before") => Some(Phase::Before),
        Some("after") => Some(Phase::After),
        _ => None,
    }
}

/// Role and slot from the last part of a name: `intensor3_x`, `output`, `model.fc.input.0`.
fn guess(name: &str) -> (Role, String) {
    let last = name.rsplit('/').next().unwrap_or(name).to_lowercase();
    let places = [
        ("output", Role::Output),
        ("outtensor", Role::Output),
        ("input", Role::Input),
        ("intensor", Role::Input),
    ];
    let found =
        places.iter().filter_map(|&(word, role)| Some((last.rfind(word)?, word, role))).max_by_key(|f| f.0);
    let Some((at, word, role)) = found else { return (Role::Other, "0".into()) };
    let rest = last[at + word.len()..].trim_start_matches(['_', '.', '-']);
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    (role, if digits.is_empty() { "0".into() } else { digits })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_the_role() {
        assert_eq!(guess("layer/after/outtensor10"), (Role::Output, "10".into()));
        assert_eq!(guess("x/intensor0_query"), (Role::Input, "0".into()));
        assert_eq!(guess("Torch.matmul.0.forward.input.1"), (Role::Input, "1".into()));
        assert_eq!(guess("output"), (Role::Output, "0".into()));
        assert_eq!(guess("input_layernorm.output"), (Role::Output, "0".into()));
        assert_eq!(guess("logits"), (Role::Other, "0".into()));
    }
}
