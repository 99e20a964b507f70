//! Directories of processes: `<device>_<pid>` in several spellings, and the rank each stands for.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::walk::{self, file_name, natural_cmp};

/// The directory of one process.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    /// Device as written: `0`, `-1`, `npu3`, `cpu`.
    pub(crate) device: String,
    /// Process id as written.
    pub(crate) pid: String,
    /// Its directory.
    pub(crate) path: PathBuf,
    /// Its rank: the place of its device among the devices, or of its pid where devices don't tell.
    pub(crate) rank: u32,
}

impl Process {
    /// Device, pid and rank for `about`.
    pub(crate) fn about(&self) -> Value {
        json!({"rank": self.rank, "device": self.device, "pid": self.pid})
    }
}

/// All processes of one directory, by device, then pid.
#[derive(Debug)]
pub(crate) struct Processes {
    /// The processes.
    pub(crate) all: Vec<Process>,
    /// Whether they are ranks of one run. Otherwise one device was used by several processes: several runs.
    pub(crate) one_run: bool,
}

impl Processes {
    /// Lists the sub-directories that `parse` splits into device and pid.
    ///
    /// Two processes on one device are two runs, unless the device is unknown (`-1`, `cpu`) and the root
    /// carries the time stamp that all ranks of one run share.
    pub(crate) fn list(dir: &Path, parse: fn(&str) -> Option<(&str, &str)>) -> Self {
        let mut all: Vec<Process> = walk::dirs(dir)
            .into_iter()
            .filter_map(|e| {
                let (device, pid) = parse(&e.name)?;
                Some(Process { device: device.to_owned(), pid: pid.to_owned(), path: e.path, rank: 0 })
            })
            .collect();
        all.sort_by(|a, b| natural_cmp(&a.device, &b.device).then_with(|| natural_cmp(&a.pid, &b.pid)));
        let mut devices: Vec<&str> = all.iter().map(|p| p.device.as_str()).collect();
        devices.dedup();
        let unique = devices.len() == all.len();
        let unknown = devices.iter().all(|d| matches!(*d, "-1" | "cpu"));
        let by_pid = !unique && unknown && is_stamped(dir);
        let ranks: Vec<usize> = all
            .iter()
            .enumerate()
            .map(|(i, p)| if by_pid { i } else { devices.iter().position(|d| *d == p.device).unwrap_or(i) })
            .collect();
        for (process, rank) in all.iter_mut().zip(ranks) {
            process.rank = rank as u32;
        }
        Self { all, one_run: unique || by_pid }
    }

    /// The process of one directory, ranked among its siblings.
    pub(crate) fn of(dir: &Path, parse: fn(&str) -> Option<(&str, &str)>) -> Option<Process> {
        let siblings = Self::list(dir.parent()?, parse);
        siblings.all.into_iter().find(|p| p.path == dir)
    }
}

/// Whether the dump's root has a time stamp in its name: `msit_dump_20250101_120000`.
fn is_stamped(dir: &Path) -> bool {
    [Some(dir), dir.parent()].into_iter().flatten().any(|d| {
        let name = file_name(d);
        is_root_name(&name) && name.ends_with(|c: char| c.is_ascii_digit())
    })
}

/// Whether a directory has the name that ait or msit give a dump's root.
pub(crate) fn is_root_name(name: &str) -> bool {
    ["ait_dump", "msit_dump"].iter().any(|stem| {
        name.strip_prefix(stem).is_some_and(|rest| {
            rest.is_empty() || rest.strip_prefix('_').is_some_and(|stamp| !stamp.is_empty())
        })
    })
}

/// The roots that ait or msit left in a directory.
pub(crate) fn roots(dir: &Path) -> Vec<PathBuf> {
    walk::dirs(dir).into_iter().filter(|e| is_root_name(&e.name)).map(|e| e.path).collect()
}

/// Whether a text is a decimal number.
pub(crate) fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(name: &str) -> Option<(&str, &str)> {
        name.rsplit_once('_')
    }

    fn ranks(names: &[&str], root: &str) -> (Vec<(String, u32)>, bool) {
        let dir = tempfile::tempdir().unwrap();
        let tensors = dir.path().join(root).join("tensors");
        for name in names {
            std::fs::create_dir_all(tensors.join(name)).unwrap();
        }
        let found = Processes::list(&tensors, parse);
        (found.all.iter().map(|p| (format!("{}_{}", p.device, p.pid), p.rank)).collect(), found.one_run)
    }

    fn pairs(expected: &[(&str, u32)]) -> Vec<(String, u32)> {
        expected.iter().map(|&(n, r)| (n.to_owned(), r)).collect()
    }

    #[test]
    fn devices_are_ranked_by_number() {
        let (found, one) = ranks(&["10_7", "2_9", "0_8"], "ait_dump");
        assert_eq!((found, one), (pairs(&[("0_8", 0), ("2_9", 1), ("10_7", 2)]), true));
    }

    #[test]
    fn two_processes_on_a_device_are_two_runs() {
        let (found, one) = ranks(&["0_8", "0_11"], "msit_dump_20250101_000000");
        assert_eq!((found, one), (pairs(&[("0_8", 0), ("0_11", 0)]), false));
        let (found, one) = ranks(&["-1_8", "-1_11"], "ait_dump");
        assert_eq!((found, one), (pairs(&[("-1_8", 0), ("-1_11", 0)]), false));
    }

    #[test]
    fn unknown_devices_under_one_stamp_are_ranked_by_pid() {
        let (found, one) = ranks(&["-1_11", "-1_8"], "msit_dump_20250101_000000");
        assert_eq!((found, one), (pairs(&[("-1_8", 0), ("-1_11", 1)]), true));
    }
}
