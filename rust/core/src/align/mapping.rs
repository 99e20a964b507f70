//! Mapping files of the user: an edited `alignment.json`, or the reference tool's `op_mapping_file.json`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Alignment, Pair, json, structure};
use crate::dump::{Dump, Role};
use crate::{Error, Result};

/// Names that a folder given as a mapping is searched for.
const NAMES: [&str; 2] = ["alignment.json", "op_mapping_file.json"];

/// Operations of one type on each side, and which of their tensors is meant.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rule {
    pub(super) golden: Kind,
    pub(super) candidate: Kind,
}

/// A part of a type's name, with the tensor.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Kind {
    pub(super) op_type: String,
    pub(super) role: Role,
    pub(super) slot: String,
}

/// Puts the user's pairs before everything found: what they name is in no other pair.
///
/// # Errors
/// A file that cannot be read, of an unknown form, or that names what is not there.
pub(super) fn apply(path: &Path, golden: &Dump, candidate: &Dump, alignment: &mut Alignment) -> Result<()> {
    let path = &file(path)?;
    let bytes = std::fs::read(path).map_err(Error::io("read the mapping", path))?;
    let text = String::from_utf8_lossy(&bytes);
    let (pairs, align_rest) = match serde_json::from_str::<Value>(&text) {
        Ok(value) if value.is_object() && value.get("schema").is_none() => {
            let rules = rules(&value, path)?;
            (structure::by_types(golden, candidate, &rules, path, &mut alignment.notes)?, true)
        }
        _ => {
            let given = json::given(&text, path, golden, candidate, &alignment.steps.pairs)?;
            (given.pairs, given.align_rest)
        }
    };
    if align_rest {
        let named = |side: fn(&Pair) -> &[usize]| -> BTreeSet<usize> {
            pairs.iter().flat_map(|pair| side(pair).iter().copied()).collect()
        };
        let own = named(|p| &p.golden.records);
        let other = named(|p| &p.candidate.records);
        alignment.pairs.retain(|pair| {
            !pair.golden.records.iter().any(|r| own.contains(r))
                && !pair.candidate.records.iter().any(|r| other.contains(r))
        });
    } else {
        alignment.pairs.clear();
    }
    alignment.pairs.extend(pairs);
    Ok(())
}

/// The file itself, or the one in a folder.
fn file(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let there: Vec<PathBuf> = NAMES.iter().map(|name| path.join(name)).filter(|p| p.is_file()).collect();
    there.into_iter().next().ok_or_else(|| {
        Error::not_found(path, format!("no mapping in this folder: expected {}", NAMES.join(" or ")))
    })
}

/// `{"candidate type": "golden type" or ["golden type", …]}`, each with `_outtensor0` or `_output_0` behind it or not.
fn rules(value: &Value, path: &Path) -> Result<Vec<Rule>> {
    let expected = "a type's name, or a list of them";
    let mut rules = Vec::new();
    for (key, value) in value.as_object().into_iter().flatten() {
        let names: Vec<&str> = match value {
            Value::String(name) => vec![name],
            Value::Array(names) => names
                .iter()
                .map(|name| {
                    name.as_str().ok_or_else(|| {
                        Error::malformed(path, format!("mapping of {key:?}"), expected, name.to_string())
                    })
                })
                .collect::<Result<_>>()?,
            other => {
                let what = format!("mapping of {key:?}");
                return Err(Error::malformed(path, what, expected, other.to_string()));
            }
        };
        rules.extend(names.into_iter().map(|name| Rule { golden: kind(name), candidate: kind(key) }));
    }
    if rules.is_empty() {
        return Err(Error::malformed(path, "mapping", "at least one pair of types", "none"));
    }
    Ok(rules)
}

/// Splits `CommonLayer_outtensor0` or `GLMBlock_output_0` into type and tensor; without one the first output is meant.
fn kind(text: &str) -> Kind {
    for (word, role) in [
        ("outtensor", Role::Output),
        ("intensor", Role::Input),
        ("output", Role::Output),
        ("input", Role::Input),
    ] {
        let Some((op_type, rest)) = text.rsplit_once(&format!("_{word}")) else { continue };
        let slot = rest.strip_prefix('_').unwrap_or(rest).replace('_', ".");
        if slot.is_empty() || slot.bytes().all(|c| c.is_ascii_digit() || c == b'.') {
            let slot = if slot.is_empty() { "0".to_owned() } else { slot };
            return Kind { op_type: op_type.to_owned(), role, slot };
        }
    }
    Kind { op_type: text.to_owned(), role: Role::Output, slot: "0".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_name_the_tensor() {
        let parts = |text| {
            let k = kind(text);
            (k.op_type, k.role, k.slot)
        };
        assert_eq!(parts("CommonLayer_outtensor0"), ("CommonLayer".into(), Role::Output, "0".into()));
        assert_eq!(parts("GLMBlock_output_0"), ("GLMBlock".into(), Role::Output, "0".into()));
        assert_eq!(parts("Block_output_0_1"), ("Block".into(), Role::Output, "0.1".into()));
        assert_eq!(parts("Prefill_layer_intensor3"), ("Prefill_layer".into(), Role::Input, "3".into()));
        assert_eq!(parts("RMSNorm"), ("RMSNorm".into(), Role::Output, "0".into()));
        assert_eq!(parts("My_output_layer"), ("My_output_layer".into(), Role::Output, "0".into()));
    }

    #[test]
    fn values_are_names_or_lists() {
        let read = |text: &str| rules(&serde_json::from_str(text).unwrap(), Path::new("m.json"));
        assert_eq!(read(r#"{"A": "B"}"#).unwrap().len(), 1);
        assert_eq!(read(r#"{"A": ["B", "C_output_0"], "D": "E"}"#).unwrap().len(), 3);
        assert!(read(r#"{"A": 3}"#).unwrap_err().to_string().contains("mapping of \"A\""));
        assert!(read(r#"{"A": ["B", 3]}"#).is_err());
        assert!(read("{}").is_err());
    }
}
