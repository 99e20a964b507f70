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

/// How many rows repeat an earlier one, and the first that does with the one it repeats.
///
/// Equal fingerprints of the first [`CHECKED`] repetitions are confirmed by reading both rows; the rest is believed
/// when all of these were right.
pub(super) fn repeated(
    tensor: &Tensor,
    fingerprints: &[u64],
    row_bytes: usize,
) -> Result<(u64, Option<(u64, u64)>)> {
    let elements = (row_bytes / tensor.info.dtype.size()) as u64;
    let mut earlier: HashMap<u64, usize> = HashMap::new();
    let (mut count, mut first, mut checked) = (0, None, 0);
    let (mut a, mut b) = (vec![0; row_bytes], vec![0; row_bytes]);
    let mut wrong = false;
    for row in suspects(fingerprints) {
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

/// Rows of which another may have the same fingerprint, and few others: what is left for a map, which is slow.
fn suspects(fingerprints: &[u64]) -> Vec<usize> {
    let rows = meeting(fingerprints, (0..fingerprints.len()).filter(|&row| fingerprints[row] != 0), 0);
    // One in eight met another by chance; by other bits, and among fewer, one in eight of them does again.
    meeting(fingerprints, rows.iter().copied(), 32)
}

/// Those of some rows whose fingerprint, shifted, falls on the same place as that of another.
fn meeting(fingerprints: &[u64], rows: impl Iterator<Item = usize> + Clone, shift: u32) -> Vec<usize> {
    let places = (rows.clone().count() * 8).next_power_of_two().max(64);
    let (mut once, mut again) = (vec![0u64; places / 64], vec![0u64; places / 64]);
    let place = |row: usize| {
        let place = (fingerprints[row] >> shift) as usize & (places - 1);
        (place / 64, 1 << (place % 64))
    };
    for row in rows.clone() {
        let (word, bit) = place(row);
        again[word] |= once[word] & bit;
        once[word] |= bit;
    }
    let meets = |&row: &usize| {
        let (word, bit) = place(row);
        again[word] & bit != 0
    };
    rows.filter(meets).collect()
}
