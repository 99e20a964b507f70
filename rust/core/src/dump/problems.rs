//! What could not be read, in words; a thousand alike become one sentence.

use std::collections::BTreeMap;
use std::fmt::Display;

/// Collects problems in the order they are met.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    texts: Vec<String>,
    groups: BTreeMap<(String, String), Group>,
    faults: Vec<String>,
}

#[derive(Debug)]
struct Group {
    count: u64,
    first: String,
}

impl Problems {
    /// One of its kind.
    pub(crate) fn add(&mut self, text: impl Into<String>) {
        self.texts.push(text.into());
    }

    /// One of possibly very many: told as "`count` `noun`s `what`, first: `example`".
    pub(crate) fn count(&mut self, what: &str, noun: &str, example: impl Display) {
        self.groups
            .entry((noun.to_owned(), what.to_owned()))
            .and_modify(|group| group.count += 1)
            .or_insert_with(|| Group { count: 1, first: example.to_string() });
    }

    /// Why the description of operators cannot be trusted: see [`super::Dump::faults`].
    pub(crate) fn fault(&mut self, text: impl Into<String>) {
        self.faults.push(text.into());
    }

    /// The faults told so far.
    pub(crate) fn take_faults(&mut self) -> Vec<String> {
        std::mem::take(&mut self.faults)
    }

    /// The sentences: single ones as met, then the counted ones by noun and kind.
    pub(crate) fn into_texts(self) -> Vec<String> {
        let mut texts = self.texts;
        for ((noun, what), Group { count, first }) in self.groups {
            texts.push(match count {
                1 => format!("1 {noun} {what}: {first}"),
                _ => format!("{count} {} {what}, first: {first}", plural(&noun)),
            });
        }
        texts
    }
}

fn plural(noun: &str) -> String {
    match noun.strip_suffix('y') {
        Some(stem) => format!("{stem}ies"),
        None => format!("{noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_alike_are_one_sentence() {
        let mut problems = Problems::default();
        problems.count("not read", "directory", "b");
        problems.add("x is gone");
        problems.count("not read", "directory", "a");
        problems.count("empty", "file", "f");
        assert_eq!(
            problems.into_texts(),
            ["x is gone", "2 directories not read, first: b", "1 file empty: f"]
        );
    }
}
