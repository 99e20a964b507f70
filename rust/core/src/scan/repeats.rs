//! Rows that repeat an earlier row.

use std::collections::HashMap;

use crate::{Result, Tensor};

/// Beyond this many rows nobody looks.
pub(super) const MOST_ROWS: u64 = 1 << 20;
/// Rows shorter than this repeat by chance.
pub(super) const LEAST_BYTES: usize = 32;
/// Rows that are read again, to be sure.
const CHECKED: usize = 256;

/// A number that equal rows share: 24 of their bytes, mixed. 0 where these are all zero.
pub(super) fn fingerprint(row: &[u8]) -> u64 {
    let word = |at: usize| row.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes);
    let (a, b, c) = (word(0), word((row.len() / 2) & !7), word(row.len() - 8));
    if a | b | c == 0 {
        return 0;
    }
    let mixed = (a.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ b).rotate_left(29);
    (mixed.wrapping_mul(0xbf58_476d_1ce4_e5b9) ^ c).wrapping_mul(0x94d0_49bb_1331_11eb).max(1)
}

/// How many rows repeat an earlier one, and the first that does with the one it repeats; `sieve` holds all fingerprints.
///
/// Equal fingerprints of the first [`CHECKED`] repetitions are confirmed by reading both rows; the rest is believed
/// when all of these were right.
pub(super) fn repeated(
    tensor: &Tensor,
    fingerprints: &[u64],
    sieve: &Sieve,
    row_bytes: usize,
) -> Result<(u64, Option<(u64, u64)>)> {
    let elements = (row_bytes / tensor.info.dtype.size()) as u64;
    let mut earlier: HashMap<u64, usize> = HashMap::new();
    let (mut count, mut first, mut checked) = (0, None, 0);
    let (mut a, mut b) = (vec![0; row_bytes], vec![0; row_bytes]);
    let mut wrong = false;
    for row in suspects(fingerprints, sieve) {
        let fingerprint = fingerprints[row];
        let Some(&original) = earlier.get(&fingerprint) else {
            earlier.insert(fingerprint, row);
            continue;
        };
        if checked < CHECKED {
            checked += 1;
            tensor.read_at(row as u64 * elements, &mut a)?;
            tensor.read_at(original as u64 * elements, &mut b)?;
            if a != b {
                wrong = true;
                continue;
            }
        } else if wrong {
            continue;
        }
        count += 1;
        first = first.or(Some((row as u64, original as u64)));
    }
    Ok((count, first))
}

/// Tells fingerprints that met an equal one from most that did not: what is left for a map, which is slow.
pub(super) struct Sieve {
    /// Places that a fingerprint fell on, and those that a second one did.
    once: Vec<u64>,
    again: Vec<u64>,
    /// Bits of a fingerprint that do not count.
    shift: u32,
}

impl Sieve {
    pub(super) fn new(fingerprints: usize, shift: u32) -> Self {
        let words = (fingerprints * 8).next_power_of_two().max(64) / 64;
        Self { once: vec![0; words], again: vec![0; words], shift }
    }

    fn place(&self, fingerprint: u64) -> (usize, u64) {
        let place = (fingerprint >> self.shift) as usize & (self.once.len() * 64 - 1);
        (place / 64, 1 << (place % 64))
    }

    pub(super) fn add(&mut self, fingerprint: u64) {
        let (word, bit) = self.place(fingerprint);
        self.again[word] |= self.once[word] & bit;
        self.once[word] |= bit;
    }

    fn has_met(&self, fingerprint: u64) -> bool {
        let (word, bit) = self.place(fingerprint);
        self.again[word] & bit != 0
    }
}

/// Rows of which another may have the same fingerprint, and few others.
fn suspects(fingerprints: &[u64], sieve: &Sieve) -> Vec<usize> {
    let is_suspect = |&row: &usize| fingerprints[row] != 0 && sieve.has_met(fingerprints[row]);
    let mut rows: Vec<usize> = (0..fingerprints.len()).filter(is_suspect).collect();
    // One in eight met another by chance; by other bits, and among fewer, one in eight of them does again.
    let mut second = Sieve::new(rows.len(), 32);
    for &row in &rows {
        second.add(fingerprints[row]);
    }
    rows.retain(|&row| second.has_met(fingerprints[row]));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn every_row_that_met_an_equal_one_is_a_suspect(
            rows in proptest::collection::vec(0u64..60, 0..200),
        ) {
            let fingerprints: Vec<u64> = rows.iter().map(|row| row.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
            let mut sieve = Sieve::new(fingerprints.len(), 0);
            for &fingerprint in fingerprints.iter().filter(|f| **f != 0) {
                sieve.add(fingerprint);
            }
            let found = suspects(&fingerprints, &sieve);
            for (row, value) in rows.iter().enumerate() {
                let has_equal = *value != 0 && rows.iter().filter(|v| *v == value).count() > 1;
                proptest::prop_assert!(!has_equal || found.contains(&row));
                proptest::prop_assert!(*value != 0 || !found.contains(&row));
            }
        }

        #[test]
        fn few_of_many_different_rows_are_suspects(seed: u64) {
            let mix = |i: u64| (i ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let fingerprints: Vec<u64> = (0..4096).map(mix).collect();
            let mut sieve = Sieve::new(fingerprints.len(), 0);
            for &fingerprint in &fingerprints {
                sieve.add(fingerprint);
            }
            proptest::prop_assert!(suspects(&fingerprints, &sieve).len() < 4096 / 16);
        }
    }
}
