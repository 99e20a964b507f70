//! What torchair's FX interpreter leaves: `<node>-<target>.<INPUT|OUTPUT>.<i>[.<j>].<time>.npy` in directories of
//! three generations: `graph_<n>/<step>`, `data_dump/<token>/gm_<time>_dump`, `gm_<time>_dump`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::ranks::is_number;
use super::torchair::{holds, is_counter, names, rank_of};
use super::walk::{self, Walk, file_name, natural_cmp};
use super::{Dump, Location, Problems, Role, TensorRecord, ValueRecord};
use crate::{Error, Result, format};

/// No file stands for the dump.
pub(super) const MARKS: &[&str] = &[];
const DATA_DUMP: &str = "data_dump";

/// The dump at `dir`, which may be any level of it.
pub(super) fn find(dir: &Path) -> Vec<PathBuf> {
    let known =
        |name: &str| rank_of(name).is_some() || is_graph(name) || is_module(name) || name == DATA_DUMP;
    let inside = known(&file_name(dir)) || dir.parent().is_some_and(|parent| known(&file_name(parent)));
    let above =
        || walk::list(dir).is_ok_and(|list| list.iter().any(|e| known(&e.name) || is_fx(dir, &e.name)));
    if (inside || above()) && holds(dir, is_fx) { vec![dir.to_owned()] } else { Vec::new() }
}

/// Reads everything at and below `dir`.
pub(super) fn open(dir: &Path) -> Result<Dump> {
    // A directory that cannot be listed is an error here, a problem further down.
    walk::list(dir)?;
    let mut dump = Dump::new("fx", dir);
    let mut problems = Problems::default();
    let mut files = Vec::new();
    collect(dir, 0, &mut Walk::default(), &mut problems, &mut files);
    let several = files.iter().map(|f| &f.graph).collect::<BTreeSet<_>>().len() > 1;
    // The newest writers count steps from 0, the others tokens from 1.
    let kinds: BTreeSet<&str> = files.iter().map(|f| f.generation).collect();
    dump.variant = kinds.into_iter().collect::<Vec<_>>().join(", ");

    // The files of one call share its time.
    files.sort_by(|a, b| {
        (a.rank, a.step, &a.graph, &a.time)
            .cmp(&(b.rank, b.step, &b.graph, &b.time))
            .then_with(|| natural_cmp(&a.name.node, &b.name.node))
            .then_with(|| a.path.cmp(&b.path))
    });
    let mut times: BTreeMap<(Option<u32>, Option<u64>, String), Vec<String>> = BTreeMap::new();
    for file in &files {
        let node = file.node(several);
        let seen = times.entry((file.rank, file.step, node)).or_default();
        if seen.last() != Some(&file.time) {
            seen.push(file.time.clone());
        }
    }
    let opened: Vec<_> = files.par_iter().map(|file| format::contents(&file.path)).collect();
    for (file, contents) in files.into_iter().zip(opened) {
        let node = file.node(several);
        let calls = &times[&(file.rank, file.step, node.clone())];
        let call = calls.iter().position(|time| *time == file.time).unwrap_or(0) as u32;
        let (role, slot) = (file.name.role, file.name.slot.clone());
        let entry = contents.as_ref().ok().and_then(|contents| match contents.entries.as_slice() {
            [one] => Some(one),
            _ => None,
        });
        let refused = match (entry.map(|entry| &entry.view), &contents) {
            (Some(Err(error @ Error::Refused { .. })), _) | (None, Err(error @ Error::Refused { .. })) => {
                Some(error.to_string())
            }
            _ => None,
        };
        if let Some(reason) = refused {
            // A flag, a dtype, None: numpy pickles what is no number.
            let value = serde_json::json!({ "not read": reason });
            let (step, rank) = (file.step, file.rank);
            dump.values.push(ValueRecord { step, rank, node, call, role, slot, value });
            continue;
        }
        let location = entry.map_or_else(|| Location::File(file.path.clone()), |e| e.location(&file.path));
        let info = match entry.map(|entry| &entry.view) {
            Some(Ok(view)) => Some(view.info().clone()),
            Some(Err(error)) => {
                problems.add(error.to_string());
                None
            }
            None => {
                problems.add(contents.err().map_or_else(
                    || format!("not one tensor in the file: {}", file.path.display()),
                    |error| error.to_string(),
                ));
                None
            }
        };
        dump.records.push(TensorRecord {
            step: file.step,
            rank: file.rank,
            op_type: file.name.op_type.clone(),
            call,
            info,
            order: micros(&file.time),
            ..TensorRecord::new(node, role, slot, location)
        });
    }
    dump.sort();
    dump.problems = problems.into_texts();
    Ok(dump)
}

fn is_graph(name: &str) -> bool {
    name.strip_prefix("graph_").is_some_and(is_number)
}

/// `gm_<time>_dump`.
fn is_module(name: &str) -> bool {
    name.strip_prefix("gm_").is_some_and(|rest| rest.ends_with("dump"))
}

fn is_fx(_dir: &Path, name: &str) -> bool {
    parse(name).is_some()
}

/// One file of the dump.
struct Found {
    path: PathBuf,
    name: FileName,
    time: String,
    rank: Option<u32>,
    step: Option<u64>,
    /// The compiled graph it belongs to, as its directory says.
    graph: String,
    generation: &'static str,
}

impl Found {
    /// The node's name, which is unique in one graph only.
    fn node(&self, several: bool) -> String {
        if several && !self.graph.is_empty() {
            format!("{}/{}", self.graph, self.name.node)
        } else {
            self.name.node.clone()
        }
    }
}

/// What a file's name tells.
#[derive(Debug, PartialEq)]
struct FileName {
    node: String,
    op_type: Option<String>,
    role: Role,
    slot: String,
    time: String,
}

/// `add_1-aten.add.Tensor.INPUT.0.1.20240125031118787351.npy`, or of a captured graph `add_1_device_0_3.pt`.
fn parse(name: &str) -> Option<FileName> {
    if let Some(stem) = name.strip_suffix(".pt") {
        let (rest, count) = stem.rsplit_once('_').filter(|(_, count)| is_number(count))?;
        let (rest, _) = rest.rsplit_once('_').filter(|(_, device)| is_number(device))?;
        let node = rest.strip_suffix("_device").filter(|node| !node.is_empty())?;
        let (slot, time) = ("0".to_owned(), format!("{count:0>20}"));
        return Some(FileName { node: node.to_owned(), op_type: None, role: Role::Output, slot, time });
    }
    let stem = name.strip_suffix(".npy")?;
    let (stem, time) = stem.rsplit_once('.').filter(|(_, time)| time.len() == 20 && is_number(time))?;
    let places = [(".INPUT.", Role::Input), (".OUTPUT.", Role::Output)];
    let (at, word, role) = places
        .iter()
        .filter_map(|&(word, role)| Some((stem.rfind(word)?, word, role)))
        .max_by_key(|f| f.0)?;
    let (key, slot) = (&stem[..at], &stem[at + word.len()..]);
    if key.is_empty() || !slot.split('.').all(is_number) {
        return None;
    }
    // A node's name is an identifier; what follows it is what it calls.
    let (node, op_type) = key.split_once('-').map_or((key, None), |(node, target)| (node, Some(target)));
    Some(FileName {
        node: node.to_owned(),
        op_type: op_type.map(str::to_owned),
        role,
        slot: slot.to_owned(),
        time: time.to_owned(),
    })
}

fn collect(dir: &Path, depth: usize, walk: &mut Walk, problems: &mut Problems, files: &mut Vec<Found>) {
    for entry in walk.enter(dir, depth, problems) {
        if entry.is_dir {
            collect(&entry.path, depth + 1, walk, problems, files);
        } else if let Some(name) = parse(&entry.name) {
            files.push(place(dir, entry.path, name));
        } else if format::is_tensor_file(&entry.path) {
            problems.count("whose name is none of torchair's, left out", "file", entry.path.display());
        }
    }
}

/// Rank, step and graph as the directories tell.
fn place(dir: &Path, path: PathBuf, name: FileName) -> Found {
    let above = names(dir);
    let rank = above.iter().rev().find_map(|name| rank_of(name));
    let mut file = Found {
        path,
        time: name.time.clone(),
        name,
        rank,
        step: None,
        graph: String::new(),
        generation: "gm",
    };
    match above.as_slice() {
        [.., graph, step] if is_graph(graph) && is_counter(step) => {
            (file.step, file.graph, file.generation) = (step.parse().ok(), graph.clone(), "graph");
        }
        [.., token, module] if is_module(module) && is_counter(token) => {
            // Tokens begin at 1 where GE's steps begin at 0.
            file.step = token.parse::<u64>().ok().map(|token| token.saturating_sub(1));
            (file.graph, file.generation) = (module_place(dir), "data_dump");
        }
        [.., module] if is_module(module) => file.graph = module_place(dir),
        [.., last] if rank_of(last).is_some() => {
            file.step = file.time.parse().ok();
            file.generation = "aclgraph";
        }
        _ => {}
    }
    file
}

/// Microseconds since 1970 of `YYYYMMDDhhmmssffffff`; the number itself where it is no date.
fn micros(time: &str) -> u64 {
    let part = |from: usize, len: usize| time.get(from..from + len).and_then(|text| text.parse::<u64>().ok());
    let date = (|| Some((part(0, 4)?, part(4, 2)?, part(6, 2)?)))();
    let clock = (|| Some((part(8, 2)?, part(10, 2)?, part(12, 2)?, part(14, 6)?)))();
    match date.zip(clock) {
        Some(((year @ 1970.., month @ 1..=12, day @ 1..), (hour, minute, second, micro))) => {
            // Years that begin in March have their leap day at the end.
            let (year, month) = if month < 3 { (year - 1, month + 9) } else { (year, month - 3) };
            let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1;
            let seconds = ((days - 719_468) * 24 + hour) * 3600 + minute * 60 + second;
            seconds * 1_000_000 + micro
        }
        _ => time.parse().unwrap_or(0),
    }
}

/// The place of a `gm_<time>_dump` among its siblings, which is that of its graph in every token.
fn module_place(dir: &Path) -> String {
    let name = file_name(dir);
    let siblings = dir.parent().map(walk::dirs).unwrap_or_default();
    let place = siblings.iter().filter(|e| is_module(&e.name)).position(|e| e.name == name);
    format!("gm_{}", place.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_node_target_and_place() {
        let found = parse("cat-aten.cat.default.INPUT.0.1.20240125031118787351.npy").unwrap();
        let expected = FileName {
            node: "cat".into(),
            op_type: Some("aten.cat.default".into()),
            role: Role::Input,
            slot: "0.1".into(),
            time: "20240125031118787351".into(),
        };
        assert_eq!(found, expected);
        // The last of the two words counts.
        let odd = parse("a-my.OUTPUT.op.INPUT.3.20240125031118787351.npy").unwrap();
        assert_eq!((odd.op_type.as_deref(), odd.role), (Some("my.OUTPUT.op"), Role::Input));
        let captured = parse("add_1_device_0_12.pt").unwrap();
        assert_eq!((captured.node.as_str(), captured.time.as_str()), ("add_1", "00000000000000000012"));
    }

    #[test]
    fn times_are_counted_from_1970() {
        // date -u -d '2024-02-29 03:11:18.787351' +%s%6N
        assert_eq!(micros("20240229031118787351"), 1_709_176_278_787_351);
        assert_eq!(micros("20260101000000000000"), 1_767_225_600_000_000);
        assert_eq!(micros("00000000000000000012"), 12);
    }

    #[test]
    fn what_is_no_such_name() {
        for name in
            ["a.npy", "x-y.INPUT.0.2024.npy", "x-y.INPUT.a.20240125031118787351.npy", "m_0_1.pt", ".npy"]
        {
            assert_eq!(parse(name), None, "{name}");
        }
    }
}
