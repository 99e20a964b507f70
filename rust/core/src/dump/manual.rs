//! The manual mapping of `dump_data`: `<pid>_<device>/golden_tensor/metadata.json`, which names the two files of each
//! pair, with the golden files beside it. One directory is both sides of a comparison.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::ranks::{self, Processes, is_number};
use super::walk::{self, file_name};
use super::{Dump, Location, Problems, Role, TensorRecord, json};
use crate::{Error, Result, format};

/// Files that stand for the dump.
pub(super) const MARKS: &[&str] = &[METADATA];
const METADATA: &str = "metadata.json";
const GOLDEN: &str = "golden_tensor";

/// The mappings at or in `dir`: `golden_tensor`, its process, the root or the directory above.
pub(super) fn find(dir: &Path) -> Vec<PathBuf> {
    if is_mapping(dir) || is_mapping(&dir.join(GOLDEN)) {
        return vec![dir.to_owned()];
    }
    if is_number(&file_name(dir)) && dir.parent().is_some_and(is_mapping) {
        return vec![dir.parent().unwrap_or(dir).to_owned()];
    }
    let processes = processes(dir);
    match processes.all.as_slice() {
        [] => ranks::roots(dir).iter().flat_map(|root| find(root)).collect(),
        _ if processes.one_run => vec![dir.to_owned()],
        several => several.iter().map(|p| p.path.clone()).collect(),
    }
}

/// The golden side.
pub(super) fn open(dir: &Path) -> Result<Dump> {
    read(dir, Side::Golden)
}

/// The candidate side of a manual mapping: records equal to the golden ones in all but their files, those that the
/// mapping has no usable file for left out. `None` for a dump of another layout.
///
/// # Errors
/// When the mapping can no longer be read.
#[must_use]
pub fn candidate(golden: &Dump) -> Option<Result<Dump>> {
    (golden.layout == "manual").then(|| read(&golden.root, Side::Candidate))
}

#[derive(Clone, Copy, PartialEq)]
enum Side {
    Golden,
    Candidate,
}

/// `77_0`, `77_-1`: pid, then device, unlike everywhere else. Given as device and pid.
fn parse_process(name: &str) -> Option<(&str, &str)> {
    let (pid, device) = name.split_once('_')?;
    (is_number(pid) && is_number(device.strip_prefix('-').unwrap_or(device))).then_some((device, pid))
}

fn processes(dir: &Path) -> Processes {
    let mut found = Processes::list(dir, parse_process);
    found.all.retain(|p| is_mapping(&p.path.join(GOLDEN)));
    found
}

fn is_mapping(dir: &Path) -> bool {
    file_name(dir) == GOLDEN && dir.join(METADATA).is_file()
}

fn read(dir: &Path, side: Side) -> Result<Dump> {
    let mut dump = Dump::new("manual", dir);
    let mut problems = Problems::default();
    let golden = if is_mapping(dir) { dir.to_owned() } else { dir.join(GOLDEN) };
    let mappings = if is_mapping(&golden) {
        let process = golden.parent().and_then(|process| Processes::of(process, parse_process));
        vec![(process.map_or(0, |p| p.rank), golden)]
    } else {
        let all = processes(dir).all;
        dump.about.insert("processes".into(), all.iter().map(ranks::Process::about).collect());
        all.iter().map(|p| (p.rank, p.path.join(GOLDEN))).collect()
    };
    for (rank, golden) in mappings {
        read_mapping(&golden, rank, side, &mut dump, &mut problems)?;
    }
    dump.about.insert("side".into(), if side == Side::Golden { "golden" } else { "candidate" }.into());
    dump.sort();
    dump.problems = problems.into_texts();
    Ok(dump)
}

fn read_mapping(
    golden: &Path,
    rank: u32,
    side: Side,
    dump: &mut Dump,
    problems: &mut Problems,
) -> Result<()> {
    let path = golden.join(METADATA);
    let value = json::read(&path)?;
    let Value::Object(entries) = value else {
        return Err(Error::malformed(&path, "metadata.json", "an object", json::type_name(&value)));
    };
    let mut named = BTreeSet::new();
    for (order, (data_id, tokens)) in (0..).zip(&entries) {
        let Value::Object(tokens) = tokens else {
            problems.count("without tokens in metadata.json", "data id", data_id);
            continue;
        };
        for (token, pair) in tokens {
            let paths: Vec<&str> = pair.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            let [golden_path, my_path, ..] = paths.as_slice() else {
                problems.count("that are no two paths", "entry", format!("{data_id}, token {token}: {pair}"));
                continue;
            };
            let beside = golden.join(token).join(format!("{data_id}_tensor.pth"));
            named.insert(beside.clone());
            let place = match side {
                Side::Golden => locate(&beside, golden_path, golden),
                Side::Candidate => locate(Path::new(my_path), my_path, golden),
            };
            let Some(file) = place else {
                let missing = if side == Side::Golden { golden_path } else { my_path };
                let example = format!("{missing:?} (data {data_id}, token {token})");
                problems.count("named in metadata.json but not there, or no tensor file", "file", example);
                continue;
            };
            dump.records.push(record(data_id, token, rank, order, Location::File(file)));
        }
    }
    if side == Side::Golden {
        add_unnamed(golden, &named, rank, entries.len() as u64, dump, problems);
    }
    Ok(())
}

/// The writer keeps one token per data id in `metadata.json`; the golden files of the others are still there.
fn add_unnamed(
    golden: &Path,
    named: &BTreeSet<PathBuf>,
    rank: u32,
    order: u64,
    dump: &mut Dump,
    problems: &mut Problems,
) {
    for token in walk::dirs(golden) {
        for entry in walk::list(&token.path).unwrap_or_default() {
            let Some(data_id) =
                entry.name.strip_suffix("_tensor.pth").filter(|_| !named.contains(&entry.path))
            else {
                continue;
            };
            problems.count("without an entry in metadata.json", "golden file", entry.path.display());
            let location = Location::File(entry.path.clone());
            dump.records.push(record(data_id, &token.name, rank, order, location));
        }
    }
}

fn record(data_id: &str, token: &str, rank: u32, order: u64, location: Location) -> TensorRecord {
    let step = token.parse().ok();
    // The writer's default of -1 says that the user gave none; any other word must not be lost.
    let node =
        if step.is_some() || token == "-1" { data_id.to_owned() } else { format!("{data_id}@{token}") };
    let record = TensorRecord::new(node, Role::Output, "0", location);
    TensorRecord { step, rank: Some(rank), order, ..record }
}

/// The file meant: where the dump lies now, as written, or as written from the mapping's own directory.
fn locate(here: &Path, written: &str, golden: &Path) -> Option<PathBuf> {
    let candidates = [here.to_owned(), PathBuf::from(written), golden.join(written)];
    candidates.into_iter().find(|path| path.is_file() && format::is_tensor_file(path))
}
