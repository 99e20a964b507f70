//! Weights recorded again at every step: where their bytes are still the same, they are compared once.

use std::collections::BTreeMap;

use super::{Alignment, Side, view};
use crate::dump::{Dump, Role, TensorRecord};
use crate::{Result, Tensor};

/// Bytes that are compared at once.
const CHUNK: usize = 1 << 20;

/// For a record, the earlier one that may be the same weight.
#[derive(Debug, Default)]
pub struct Repeats {
    first: BTreeMap<usize, usize>,
}

/// What a weight is paired with, and where it is recorded at every step.
type Key<'a> = (&'a [usize], &'a str, Role, &'a str, u32, Option<u32>);

impl Repeats {
    /// Of the candidate: records of several steps that one golden record is paired with.
    #[must_use]
    pub fn of(alignment: &Alignment, candidate: &Dump) -> Self {
        let mut known: BTreeMap<Key, usize> = BTreeMap::new();
        let mut first = BTreeMap::new();
        for pair in &alignment.pairs {
            for &record in &pair.candidate.records {
                let TensorRecord { node, role, slot, call, rank, step, .. } = &candidate.records[record];
                let key = (pair.golden.records.as_slice(), node.as_str(), *role, slot.as_str(), *call, *rank);
                let earlier = *known.entry(key).or_insert(record);
                if candidate.records[earlier].step != *step {
                    first.insert(record, earlier);
                }
            }
        }
        Self { first }
    }

    /// As [`super::tensor`]; of equal bytes the tensor that was recorded first.
    ///
    /// # Errors
    /// As [`super::tensor`].
    pub fn tensor(&self, dump: &Dump, side: &Side) -> Result<Tensor> {
        let records = side.records.iter().map(|&record| self.source(dump, record)).collect();
        view::tensor(dump, &Side { records, transforms: side.transforms.clone() })
    }

    fn source(&self, dump: &Dump, record: usize) -> usize {
        let Some(&first) = self.first.get(&record) else { return record };
        let are_same = dump.tensor(first).and_then(|a| have_same_bytes(&a, &dump.tensor(record)?));
        // What cannot be read is told where it is measured.
        if matches!(are_same, Ok(true)) { first } else { record }
    }
}

fn have_same_bytes(a: &Tensor, b: &Tensor) -> Result<bool> {
    let len = a.storage.len();
    if a.info != b.info || a.strides != b.strides || a.first != b.first || len != b.storage.len() {
        return Ok(false);
    }
    let size = CHUNK.min(len as usize);
    let (mut own, mut other) = (vec![0; size], vec![0; size]);
    let mut at = 0;
    while at < len {
        let n = size.min((len - at) as usize);
        a.storage.read(at, &mut own[..n])?;
        b.storage.read(at, &mut other[..n])?;
        if own[..n] != other[..n] {
            return Ok(false);
        }
        at += n as u64;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::align::Pair;
    use crate::dump::Location;
    use crate::io::place::Place;

    #[test]
    fn only_equal_bytes_of_another_step_are_read_from_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let mut dump = Dump::new("folder", dir.path());
        let npy = |values: [u8; 4]| {
            let text = format!("{:<117}\n", "{'descr': '|u1', 'fortran_order': False, 'shape': (4,), }");
            [&b"\x93NUMPY\x01\x00\x76\x00"[..], text.as_bytes(), &values].concat()
        };
        for (step, values) in [[1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 5]].into_iter().enumerate() {
            let file = dir.path().join(format!("{step}.npy"));
            fs::write(&file, npy(values)).unwrap();
            let mut record = TensorRecord::new("fc", Role::Input, "1", Location::File(file));
            record.step = Some(step as u64);
            dump.records.push(record);
        }
        let mut alignment = Alignment::default();
        for record in 0..3 {
            let (golden, candidate) = (Side::plain(0), Side::plain(record));
            alignment.pairs.push(Pair { golden, candidate, confidence: 1.0, evidence: Vec::new() });
        }
        let repeats = Repeats::of(&alignment, &dump);
        let place = |record| Place::of(&repeats.tensor(&dump, &Side::plain(record)).unwrap()).unwrap();
        assert_eq!(place(1), place(0));
        assert_ne!(place(2), place(0));
        // Paired with another tensor, equal bytes are another pair.
        alignment.pairs[1].golden = Side::plain(1);
        let apart = Repeats::of(&alignment, &dump);
        assert_ne!(Place::of(&apart.tensor(&dump, &Side::plain(1)).unwrap()).unwrap(), place(0));
    }
}
