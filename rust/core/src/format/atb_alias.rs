//! Files of an ATB dump that name another file instead of holding data.
//!
//! `data=3_1_0_intensor0.bin` means: in the same execution directory, the operation reached by the children
//! numbered 3, 1, 0, its input 0. `data=intensor0.bin` in a kernel's directory means the file of that name of the
//! operation that ran the kernel.

use std::path::{Path, PathBuf};

use super::atb_bin::{self, Header};
use super::input::Input;
use crate::{Error, Result};

/// Aliases point at files with data; a chain this long is a circle.
const MAX_HOPS: usize = 16;
/// Deeper than operations are ever nested.
const MAX_DEPTH: usize = 64;

/// Follows an alias, and the aliases it leads to, to a file that is none.
pub(super) fn resolve(file: &Path, alias: &str) -> Result<(Input, Header)> {
    let mut path = file.to_owned();
    let mut alias = alias.to_owned();
    for _ in 0..MAX_HOPS {
        path = target(&path, &alias)?;
        let input = Input::open(&path)?;
        let header = atb_bin::read(&input)?;
        match &header.alias {
            Some(next) if header.data.is_none() => alias.clone_from(next),
            _ => return Ok((input, header)),
        }
    }
    Err(Error::refused(file, "an alias that leads through too many others, perhaps in a circle"))
}

/// The file that an alias found in `file` names.
fn target(file: &Path, alias: &str) -> Result<PathBuf> {
    let missing = |why: String| Error::not_found(file, format!("alias of {alias}, but {why}"));
    let Some(name) = Name::parse(alias) else {
        let expected = "the name of an input or output file such as 3_1_intensor0.bin";
        return Err(Error::malformed(file, "header line data", expected, alias));
    };
    let absolute = std::path::absolute(file).map_err(Error::io("find the directory of", file))?;
    let mut holder = absolute.clone();
    holder.pop();
    holder.pop();
    let operation = if name.ids.is_empty() {
        holder.parent().map(Path::to_owned).ok_or_else(|| missing("there is no directory above it".into()))?
    } else {
        let mut directory =
            execution(&absolute).ok_or_else(|| missing("the file lies in no execution directory".into()))?;
        for id in &name.ids {
            let start = format!("{id}_");
            let children = names(&directory, |name| name.starts_with(&start))?;
            directory = match children.as_slice() {
                [one] => directory.join(one),
                [] => return Err(missing(format!("{} has no child {id}", directory.display()))),
                _ => return Err(missing(format!("{} has several children {id}", directory.display()))),
            };
        }
        directory
    };
    for phase in name.phases() {
        let directory = operation.join(phase);
        if !is_real_directory(&directory) {
            continue;
        }
        // Writers that put the parameter's name behind the number leave it out of the alias.
        let found = names(&directory, |candidate| name.matches(candidate))?;
        match found.as_slice() {
            [] => {}
            [one] => return inside(file, &operation, &directory.join(one)),
            _ => return Err(missing(format!("{} has several such files", directory.display()))),
        }
    }
    Err(missing(format!("{} has no such file", operation.display())))
}

/// An alias taken apart.
struct Name<'a> {
    ids: Vec<u32>,
    /// `intensor0` or `outtensor3`.
    stem: &'a str,
}

impl<'a> Name<'a> {
    fn parse(alias: &'a str) -> Option<Self> {
        let whole = alias.strip_suffix(".bin")?;
        let at = whole.rfind("intensor").or_else(|| whole.rfind("outtensor"))?;
        let (ids, stem) = whole.split_at(at);
        let digits = stem.trim_start_matches("intensor").trim_start_matches("outtensor");
        let ids = match ids {
            "" => Vec::new(),
            ids => {
                ids.strip_suffix('_')?.split('_').map(|id| id.parse().ok()).collect::<Option<Vec<u32>>>()?
            }
        };
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        (is_number && ids.len() <= MAX_DEPTH).then_some(Self { ids, stem })
    }

    /// Inputs are saved before the operation and outputs after it, when only one of each is saved.
    fn phases(&self) -> [&'static str; 2] {
        if self.stem.starts_with('i') { ["before", "after"] } else { ["after", "before"] }
    }

    fn matches(&self, candidate: &str) -> bool {
        let parameter = candidate.strip_suffix(".bin").and_then(|name| name.strip_prefix(self.stem));
        parameter.is_some_and(|parameter| parameter.is_empty() || parameter.starts_with('_'))
    }
}

/// The nearest directory above that is named by a number alone: one execution of the model.
fn execution(file: &Path) -> Option<PathBuf> {
    let is_number = |directory: &&Path| {
        directory
            .file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
    };
    file.ancestors().skip(1).take(MAX_DEPTH).find(is_number).map(Path::to_owned)
}

/// Sorted names in a directory.
fn names(directory: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<String>> {
    if !is_real_directory(directory) {
        return Err(Error::not_found(directory, "an alias leads to something that is no directory"));
    }
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(Error::io("list", directory))? {
        let entry = entry.map_err(Error::io("list", directory))?;
        if let Some(name) = entry.file_name().to_str().filter(|name| wanted(name)) {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// A directory that is no link, so that following it stays inside the dump.
fn is_real_directory(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|kind| kind.is_dir())
}

/// The path, unless links lead it out of the operation's directory.
fn inside(file: &Path, operation: &Path, found: &Path) -> Result<PathBuf> {
    let real = |path: &Path| path.canonicalize().map_err(Error::io("follow the alias to", path));
    if real(found)?.starts_with(real(operation)?) {
        return Ok(found.to_owned());
    }
    Err(Error::refused(file, format!("an alias to {}, which lies outside the dump", found.display())))
}
