//! File names of GE dumps: `<type>.<name>.<task>.<stream>.<time>[.<kind>.<context>.<thread>.<device>]`.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;

use super::Role;

/// Largest list of replaced names that is read.
const MAX_MAPPING: u64 = 64 << 20;
const MAPPING: &str = "mapping.csv";

/// What a file's name tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FileName {
    pub(super) op_type: String,
    /// The operator's name, with `_` for each space, dot, slash and backslash.
    pub(super) op_name: String,
    pub(super) kind: Kind,
    /// Microseconds since 1970.
    pub(super) time: u64,
    /// Tells executions of one moment apart: task, stream, and of a slice kind, context, thread and device.
    pub(super) task: Vec<u64>,
    /// Whether it is one thread's slice of an FFTS+ task.
    pub(super) slice: bool,
}

/// What lies in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The dump itself.
    Tensors,
    /// Statistics of every tensor.
    Statistics,
    /// One tensor, put there by a converter: its role and index.
    Converted(Role, u32),
}

/// Reads a file's name; `None` where it is none of these.
pub(super) fn parse(name: &str) -> Option<FileName> {
    let parts: Vec<&str> = name.split('.').collect();
    let (parts, kind) = match parts.as_slice() {
        [base @ .., "csv"] => (base, Kind::Statistics),
        [base @ .., "npy" | "pt"] => {
            let at = base.iter().rposition(|part| matches!(*part, "input" | "output"))?;
            let role = if base[at] == "input" { Role::Input } else { Role::Output };
            (&base[..at], Kind::Converted(role, base.get(at + 1)?.parse().ok()?))
        }
        base => (base, Kind::Tensors),
    };
    let number = |at: usize| parts.get(at).filter(|part| is_digits(part)).and_then(|part| part.parse().ok());
    let is_time = |part: &&str| part.len() == 16 && is_digits(part);
    let last = parts.len().checked_sub(1)?;
    let tail = |from: usize| -> Option<Vec<u64>> { (from..=last).map(number).collect() };
    let (time, suffix) = if is_time(&parts[last]) {
        (last, Vec::new())
    } else {
        let time = last.checked_sub(4).filter(|&at| is_time(&parts[at]))?;
        (time, tail(time + 1)?)
    };
    let slice = !suffix.is_empty();
    // The oldest writers name no stream.
    let (first, mut task) = match (time.checked_sub(2).and_then(number), time.checked_sub(1).and_then(number))
    {
        (Some(task), Some(stream)) if time >= 4 => (time - 2, vec![task, stream]),
        (_, Some(task)) if time >= 3 => (time - 1, vec![task]),
        _ => return None,
    };
    task.extend(suffix);
    let op_name = parts[1..first].join(".");
    let time = number(time)?;
    Some(FileName { op_type: parts[0].to_owned(), op_name, kind, time, task, slice })
}

/// Names that were too long for a file, by the number that stands for them in `dir`.
pub(super) fn replaced(dir: &Path) -> BTreeMap<String, String> {
    let mut text = String::new();
    let read =
        fs::File::open(dir.join(MAPPING)).and_then(|file| file.take(MAX_MAPPING).read_to_string(&mut text));
    if read.is_err() {
        return BTreeMap::new();
    }
    let pair = |line: &str| {
        let (number, name) = line.split_once(',')?;
        Some((number.trim().to_owned(), name.trim().to_owned()))
    };
    text.lines().filter_map(pair).collect()
}

/// Whether a name can stand for a longer one.
pub(super) fn is_replacement(name: &str) -> bool {
    is_digits(name)
}

/// A name of the graph as file names spell it.
pub(super) fn as_in_files(name: &str) -> String {
    name.replace([' ', '.', '/', '\\'], "_")
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensors(op_type: &str, op_name: &str, time: u64, task: &[u64]) -> FileName {
        let (op_type, op_name) = (op_type.to_owned(), op_name.to_owned());
        FileName { op_type, op_name, kind: Kind::Tensors, time, task: task.to_vec(), slice: task.len() > 2 }
    }

    #[test]
    fn names_are_read_from_the_right() {
        let at = 1_734_070_081_497_686;
        assert_eq!(
            parse("MatMulV2.MatMulV2_1.12.7.1734070081497686"),
            Some(tensors("MatMulV2", "MatMulV2_1", at, &[12, 7]))
        );
        assert_eq!(
            parse("MatMulV2.MatMulV2_1.12.7.1734070081497686.4.3.0.0"),
            Some(tensors("MatMulV2", "MatMulV2_1", at, &[12, 7, 4, 3, 0, 0]))
        );
        assert_eq!(parse("Add.a.b.5.3.1734070081497686"), Some(tensors("Add", "a.b", at, &[5, 3])));
        assert_eq!(parse("Add.Add_2.5.1734070081497686"), Some(tensors("Add", "Add_2", at, &[5])));
        // A name of digits is a name.
        assert_eq!(parse("Add.7.5.1734070081497686"), Some(tensors("Add", "7", at, &[5])));
    }

    #[test]
    fn other_kinds() {
        let kind = |name| parse(name).map(|n| (n.op_name, n.kind));
        assert_eq!(kind("Add.x.5.3.1734070081497686.csv"), Some(("x".into(), Kind::Statistics)));
        let converted = |role, index| Some(("x".to_owned(), Kind::Converted(role, index)));
        assert_eq!(kind("Add.x.5.3.1734070081497686.input.1.npy"), converted(Role::Input, 1));
        assert_eq!(kind("Add.x.5.3.1734070081497686.output.0.ND.npy"), converted(Role::Output, 0));
        assert_eq!(kind("Add.x.5.3.1734070081497686.output.0.pt"), converted(Role::Output, 0));
    }

    #[test]
    fn what_is_no_such_name() {
        for name in [
            "",
            "Add",
            "a.b.c.d.e",
            "Add.x.5.3.17340700814976",
            "1734070081497686",
            "a.npy",
            "x.INPUT.0.20240125031118787351.npy",
        ] {
            assert_eq!(parse(name), None, "{name}");
        }
    }
}
