//! Mapping files of the user.

use std::collections::BTreeSet;
use std::path::Path;

use super::{Alignment, Pair, json};
use crate::dump::Dump;
use crate::{Error, Result};

/// Puts the user's pairs before everything found: what they name is in no other pair.
///
/// # Errors
/// A file that cannot be read, of an unknown form, or that names what is not there.
pub(super) fn apply(path: &Path, golden: &Dump, candidate: &Dump, alignment: &mut Alignment) -> Result<()> {
    let text = std::fs::read_to_string(path).map_err(Error::io("read the mapping", path))?;
    let given = json::given(&text, path, golden, candidate, &alignment.steps.pairs)?;
    if given.align_rest {
        let named = |side: fn(&Pair) -> &[usize]| -> BTreeSet<usize> {
            given.pairs.iter().flat_map(|pair| side(pair).iter().copied()).collect()
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
    alignment.pairs.extend(given.pairs);
    Ok(())
}
