//! What the directories of torchair's two dumps have in common.

use std::path::{Component, Path};

use super::ranks::is_number;
use super::walk;

/// How many levels below a directory its first dump file is looked for.
const DEPTH: usize = 7;
/// Sub-directories looked into at each level.
const BREADTH: usize = 16;

/// The rank of `worldsize<W>_global_rank<R>`.
pub(super) fn rank_of(name: &str) -> Option<u32> {
    let (world, rank) = name.strip_prefix("worldsize")?.split_once("_global_rank")?;
    is_number(world).then(|| rank.parse().ok())?
}

/// Whether a directory's name is a number of a step, a token or a model, which a time stamp is not.
pub(super) fn is_counter(name: &str) -> bool {
    is_number(name) && name.len() < 12
}

/// The names of a directory and of those above it, from the top.
pub(super) fn names(path: &Path) -> Vec<String> {
    let name = |part: Component<'_>| match part {
        Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
        _ => None,
    };
    path.components().filter_map(name).collect()
}

/// Whether a file that passes `test` lies at or below `dir`.
pub(super) fn holds(dir: &Path, test: fn(&Path, &str) -> bool) -> bool {
    fn look(dir: &Path, depth: usize, test: fn(&Path, &str) -> bool) -> bool {
        let Ok(entries) = walk::list(dir) else { return false };
        if entries.iter().any(|e| !e.is_dir && test(dir, &e.name)) {
            return true;
        }
        let below = entries.iter().filter(|e| e.is_dir && !e.is_link).take(BREADTH);
        depth > 0 && below.into_iter().any(|e| look(&e.path, depth - 1, test))
    }
    look(dir, DEPTH, test)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_of_directories() {
        assert_eq!(rank_of("worldsize8_global_rank13"), Some(13));
        assert_eq!(rank_of("worldsize_global_rank1"), None);
        assert_eq!(rank_of("rank1"), None);
    }
}
