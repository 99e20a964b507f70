//! ATB's probe, all eras: `[ait_dump|msit_dump_<ts>|atb_dump_data/][tensors|data/]<device>_<pid>/<execution>/`, then
//! `<number>_<operation>/…/{before,after}/{in,out}tensor<i>.bin`, with topology files and statistics beside.

mod names;
mod place;
mod statistics;
mod topology;
mod walk_ops;

use std::path::{Path, PathBuf};

use serde_json::json;

use super::{Dump, Problems, ranks};
use crate::Result;
use place::Place;

/// Files that stand for the dump.
pub(super) const MARKS: &[&str] = &["statistic.csv", "op_param.json"];

/// The dumps at or in `dir`, which may be any level from the output directory down to one `before` or `after`.
pub(super) fn find(dir: &Path) -> Vec<PathBuf> {
    place::find(dir)
}

/// Reads what `find` found: all processes, one of them, one execution, or one operation.
pub(super) fn open(dir: &Path) -> Result<Dump> {
    super::walk::list(dir)?;
    let place = Place::of(dir);
    let mut dump = Dump::new("atb", dir);
    let mut problems = Problems::default();
    let found = walk_ops::walk(&place, &mut dump.records, &mut problems);
    dump.graph = Some(topology::read(&place, &found, &mut dump, &mut problems));
    dump.sort();

    let renumbered = names::is_renumbered(&dump.records);
    era(&place, renumbered, found.links > 0).clone_into(&mut dump.variant);
    let about = &mut dump.about;
    about.insert("processes".into(), place.processes.iter().map(ranks::Process::about).collect());
    if let Some(renumbered) = renumbered {
        about.insert("renumbered".into(), json!(renumbered));
    }
    for (key, count) in [("tiling_files", found.tiling), ("links", found.links)] {
        if count > 0 {
            about.insert(key.into(), json!(count));
        }
    }
    dump.faults = problems.take_faults();
    dump.problems = problems.into_texts();
    Ok(dump)
}

/// The writer's era, as far as names and content tell.
fn era(place: &Place, renumbered: Option<bool>, links: bool) -> &'static str {
    let root = place.root.as_deref().map(super::walk::file_name).unwrap_or_default();
    match (root.as_str(), renumbered) {
        _ if place.is_msprobe => "E",
        _ if place.is_bare => "A0",
        _ if place.root.is_none() => "",
        ("ait_dump", _) => "A",
        (name, _) if name.starts_with("ait_dump") => "A'",
        (_, Some(true)) => "C",
        // Links came with era C, whose raw-numbered successor is C'.
        (_, Some(false)) if links => "C'",
        (name, _) if name.starts_with("msit_dump") => "B",
        _ => "A-D",
    }
}
