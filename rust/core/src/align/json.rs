//! `alignment.json`: an alignment by names, which a person can read, edit and give back.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Alignment, Pair, Side, Steps, Transform, Unmatched, lookup};
use crate::dump::{Dump, Phase, Role};
use crate::{Error, Result};

/// The format's name and version.
pub const SCHEMA: &str = "llmdbg.alignment/1";

/// A record by name. In a file written by hand, what is left out means every step, every rank, call 0, the output.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Place {
    pub(super) node: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) role: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) slot: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) step: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) rank: Option<u32>,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) call: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) phase: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// A place in a file: the name alone, or with everything that tells it apart.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Node(String),
    Place(Place),
    Many(Vec<Written>),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenPair {
    golden: Written,
    candidate: Written,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    golden_transform: Vec<Transform>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    candidate_transform: Vec<Transform>,
    #[serde(default = "certain")]
    confidence: f32,
    #[serde(default)]
    evidence: Vec<String>,
}

fn certain() -> f32 {
    1.0
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct WrittenRun {
    layout: String,
    path: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct WrittenLoner {
    #[serde(flatten)]
    place: Place,
    #[serde(default)]
    nearest: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct File {
    schema: String,
    #[serde(default)]
    golden: WrittenRun,
    #[serde(default)]
    candidate: WrittenRun,
    #[serde(default)]
    steps: Vec<(Option<u64>, Option<u64>)>,
    #[serde(default)]
    steps_evidence: String,
    #[serde(default)]
    notes: Vec<String>,
    /// Whether what no pair names is aligned automatically; a hand-written file leaves it out and means yes.
    #[serde(default = "yes")]
    align_rest: bool,
    pairs: Vec<WrittenPair>,
    #[serde(default)]
    unmatched_golden: Vec<WrittenLoner>,
    #[serde(default)]
    unmatched_candidate: Vec<WrittenLoner>,
}

fn yes() -> bool {
    true
}

/// What a mapping file asks for.
#[derive(Debug)]
pub(super) struct Given {
    pub(super) pairs: Vec<Pair>,
    pub(super) align_rest: bool,
}

/// The alignment as text, one pair per line.
#[must_use]
pub fn write(alignment: &Alignment, golden: &Dump, candidate: &Dump) -> String {
    let run =
        |dump: &Dump| WrittenRun { layout: dump.layout.to_owned(), path: dump.root.display().to_string() };
    let side = |dump: &Dump, side: &Side| match side.records.as_slice() {
        [one] => Written::Place(place(dump, *one)),
        many => Written::Many(many.iter().map(|&i| Written::Place(place(dump, i))).collect()),
    };
    let pairs = alignment.pairs.iter().map(|pair| WrittenPair {
        golden: side(golden, &pair.golden),
        candidate: side(candidate, &pair.candidate),
        golden_transform: pair.golden.transforms.clone(),
        candidate_transform: pair.candidate.transforms.clone(),
        confidence: pair.confidence,
        evidence: pair.evidence.clone(),
    });
    let loners = |dump: &Dump, loners: &[Unmatched]| {
        lines(
            loners.iter().map(|u| WrittenLoner { place: place(dump, u.record), nearest: u.nearest.clone() }),
        )
    };
    let json = |value: serde_json::Value| value.to_string();
    let mut out = String::from("{\n");
    let fields = [
        ("schema", json(SCHEMA.into())),
        ("golden", to_text(&run(golden))),
        ("candidate", to_text(&run(candidate))),
        ("steps", to_text(&alignment.steps.pairs)),
        ("steps_evidence", json(alignment.steps.evidence.as_str().into())),
        ("notes", lines(alignment.notes.iter())),
        ("align_rest", "false".to_owned()),
        ("pairs", lines(pairs)),
        ("unmatched_golden", loners(golden, &alignment.unmatched_golden)),
        ("unmatched_candidate", loners(candidate, &alignment.unmatched_candidate)),
    ];
    for (i, (name, value)) in fields.iter().enumerate() {
        let comma = if i + 1 == fields.len() { "" } else { "," };
        for part in ["  \"", name, "\": ", value, comma, "\n"] {
            out.push_str(part);
        }
    }
    out.push_str("}\n");
    out
}

fn to_text(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|error| unreachable!("plain data is JSON: {error}"))
}

fn lines<T: Serialize>(items: impl Iterator<Item = T>) -> String {
    let items: Vec<String> = items.map(|item| format!("    {}", to_text(&item))).collect();
    if items.is_empty() { "[]".to_owned() } else { format!("[\n{}\n  ]", items.join(",\n")) }
}

/// Reads an alignment file against the two dumps it speaks of.
///
/// # Errors
/// Not that format, or a name that a dump does not have.
pub fn read(text: &str, path: &Path, golden: &Dump, candidate: &Dump) -> Result<Alignment> {
    let file = parse(text, path)?;
    let steps = Steps {
        shift: common_shift(&file.steps),
        pairs: file.steps.clone(),
        evidence: file.steps_evidence.clone(),
    };
    let notes = file.notes.clone();
    let nearest = |loners: &[WrittenLoner]| -> Vec<(Place, Option<String>)> {
        loners.iter().map(|l| (l.place.clone(), l.nearest.clone())).collect()
    };
    let known = (nearest(&file.unmatched_golden), nearest(&file.unmatched_candidate));
    let pairs = resolve(file, path, golden, candidate, &steps.pairs)?;
    let mut alignment = Alignment { pairs, steps, notes, ..Alignment::default() };
    super::finish(&mut alignment, golden, candidate, true);
    recall(&known.0, golden, &mut alignment.unmatched_golden);
    recall(&known.1, candidate, &mut alignment.unmatched_candidate);
    Ok(alignment)
}

/// Gives records without a partner the nearest node that the file names. Both are in the dump's order.
fn recall(known: &[(Place, Option<String>)], dump: &Dump, unmatched: &mut [Unmatched]) {
    let mut known = known.iter().peekable();
    for one in unmatched {
        let own = place(dump, one.record);
        if let Some((_, nearest)) = known.next_if(|(place, _)| *place == own) {
            one.nearest.clone_from(nearest);
        }
    }
}

/// The pairs of a mapping, for an alignment that may go on from them.
pub(super) fn given(
    text: &str,
    path: &Path,
    golden: &Dump,
    candidate: &Dump,
    steps: &[(Option<u64>, Option<u64>)],
) -> Result<Given> {
    let file = parse(text, path)?;
    let align_rest = file.align_rest;
    let steps = if file.steps.is_empty() { steps.to_vec() } else { file.steps.clone() };
    Ok(Given { pairs: resolve(file, path, golden, candidate, &steps)?, align_rest })
}

fn common_shift(steps: &[(Option<u64>, Option<u64>)]) -> i64 {
    let shift = |pair: &(Option<u64>, Option<u64>)| Some(pair.1?.cast_signed() - pair.0?.cast_signed());
    let first = steps.iter().find_map(shift).unwrap_or(0);
    if steps.iter().filter_map(shift).all(|s| s == first) { first } else { 0 }
}

fn parse(text: &str, path: &Path) -> Result<File> {
    let file: File = serde_json::from_str(text).map_err(|error| {
        Error::malformed(path, "alignment", format!("the fields of {SCHEMA}"), error.to_string())
    })?;
    if file.schema == SCHEMA { Ok(file) } else { Err(Error::malformed(path, "schema", SCHEMA, file.schema)) }
}

fn place(dump: &Dump, record: usize) -> Place {
    let record = &dump.records[record];
    Place {
        node: record.node.clone(),
        role: Some(record.role.name().to_owned()),
        slot: Some(record.slot.clone()),
        step: record.step,
        rank: record.rank,
        call: record.call,
        phase: record.phase.map(|phase| phase.name().to_owned()),
    }
}

/// Role of a written name.
pub(super) fn role(name: &str) -> Option<Role> {
    [Role::Input, Role::Output, Role::Param, Role::Other].into_iter().find(|role| role.name() == name)
}

/// Phase of a written name.
pub(super) fn phase(name: &str) -> Option<Phase> {
    [Phase::Before, Phase::After].into_iter().find(|&phase| phase.name() == name)
}

fn flatten(written: &Written, out: &mut Vec<Place>) {
    match written {
        Written::Node(node) => out.push(Place { node: node.clone(), ..Place::default() }),
        Written::Place(place) => out.push(place.clone()),
        Written::Many(many) => many.iter().for_each(|w| flatten(w, out)),
    }
}

/// Records of each (step, rank) that a written place stands for.
type Found = BTreeMap<(Option<u64>, Option<u32>), Vec<usize>>;

fn resolve(
    file: File,
    path: &Path,
    golden: &Dump,
    candidate: &Dump,
    steps: &[(Option<u64>, Option<u64>)],
) -> Result<Vec<Pair>> {
    let own = lookup::Lookup::new(golden, "golden", path);
    let other = lookup::Lookup::new(candidate, "candidate", path);
    let mut pairs = Vec::new();
    for written in file.pairs {
        let found = |written: &Written, lookup: &lookup::Lookup| -> Result<Vec<Found>> {
            let mut places = Vec::new();
            flatten(written, &mut places);
            places.iter().map(|place| lookup.find(place)).collect()
        };
        let (golden, candidate) = (found(&written.golden, &own)?, found(&written.candidate, &other)?);
        let evidence = if written.evidence.is_empty() {
            vec!["the user's mapping".to_owned()]
        } else {
            written.evidence
        };
        for (own, other) in meet(&golden, &candidate, steps) {
            pairs.push(Pair {
                golden: Side { records: own, transforms: written.golden_transform.clone() },
                candidate: Side { records: other, transforms: written.candidate_transform.clone() },
                confidence: written.confidence.clamp(0.0, 1.0),
                evidence: evidence.clone(),
            });
        }
    }
    Ok(pairs)
}

/// The records of both sides, pass by pass. A place that stands for one record only needs no common step.
pub(super) fn meet(
    golden: &[Found],
    candidate: &[Found],
    steps: &[(Option<u64>, Option<u64>)],
) -> Vec<(Vec<usize>, Vec<usize>)> {
    let single = |side: &[Found]| -> Option<Vec<usize>> {
        side.iter()
            .map(|found| match found.values().collect::<Vec<_>>().as_slice() {
                [records] => records.first().copied(),
                _ => None,
            })
            .collect()
    };
    if let (Some(own), Some(other)) = (single(golden), single(candidate)) {
        return vec![(own, other)];
    }
    let to: BTreeMap<Option<u64>, Option<u64>> = steps.iter().copied().collect();
    let at = |side: &[Found], key: (Option<u64>, Option<u32>)| -> Option<Vec<usize>> {
        side.iter().map(|found| found.get(&key).and_then(|r| r.first().copied())).collect()
    };
    let Some(first) = golden.first() else { return Vec::new() };
    let ranks: Vec<Option<u32>> =
        candidate.first().into_iter().flat_map(|f| f.keys().map(|&(_, rank)| rank)).collect();
    first
        .keys()
        .filter_map(|&(step, rank)| {
            let other_step = to.get(&step).copied().or_else(|| steps.is_empty().then_some(step))?;
            let own = at(golden, (step, rank))?;
            let other = at(candidate, (other_step, rank))
                .or_else(|| at(candidate, (other_step, ranks.first().copied()?)))?;
            Some((own, other))
        })
        .collect()
}
