//! numpy's `.npz`: a zip of `.npy` members.

use super::entry::Entry;
use super::input::Input;
use super::{npy, zip};
use crate::{Error, Result};

/// Every array, in stored order, under the name it was saved with.
pub(super) fn parse(input: &Input) -> Result<Vec<Entry>> {
    let members = zip::members(input)?;
    let arrays = members.iter().filter(|member| !member.name.ends_with('/'));
    Ok(arrays
        .map(|member| match member.name.strip_suffix(".npy") {
            Some(key) => Entry { key: key.to_owned(), view: member.packed(input).and_then(npy::view) },
            None => Entry {
                key: member.name.clone(),
                view: Err(Error::refused(&input.path, format!("member {:?} is no .npy array", member.name))),
            },
        })
        .collect())
}
