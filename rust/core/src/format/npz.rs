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

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, Crc, write::DeflateEncoder};
    use proptest::prelude::*;

    use super::super::npy::tests::file;
    use super::super::testing::{archive, bytes_of, mutated, read, survives};

    /// An archive of one deflated member, made from a stored one by editing its headers.
    fn deflated(name: &str, data: &[u8]) -> Vec<u8> {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(data).unwrap();
        let packed = encoder.finish().unwrap();
        let mut crc = Crc::new();
        crc.update(data);
        let mut bytes = archive(&[(name, &packed)]);
        let central = bytes.windows(4).rposition(|window| window == b"PK\x01\x02").unwrap();
        for at in [4, central + 6] {
            bytes[at + 4] = 8;
            bytes[at + 10..at + 14].copy_from_slice(&crc.sum().to_le_bytes());
            bytes[at + 18..at + 22].copy_from_slice(&(data.len() as u32).to_le_bytes());
        }
        bytes
    }

    fn through_deflate(data: &[u8]) -> Vec<u8> {
        let whole = file("|u1", "False", &[data.len() as u64], data);
        bytes_of(&read(".npz", &deflated("x.npy", &whole)).unwrap().remove(0).1.unwrap())
    }

    #[test]
    fn beyond_the_memory_limit_the_bytes_take_another_road() {
        let data: Vec<u8> = (0..9_000_000u32).map(|i| (i % 251) as u8).collect();
        assert!(through_deflate(&data) == data);
    }

    proptest! {
        #[test]
        fn members_keep_names_order_and_bytes(
            arrays in proptest::collection::btree_map("[a-z.]{1,8}", proptest::collection::vec(any::<u8>(), 0..40), 1..5)
        ) {
            let files: Vec<(String, Vec<u8>)> = arrays
                .iter()
                .rev()
                .map(|(key, data)| (format!("{key}.npy"), file("|u1", "False", &[data.len() as u64], data)))
                .collect();
            let members: Vec<(&str, &[u8])> = files.iter().map(|(n, d)| (n.as_str(), d.as_slice())).collect();
            let got = read(".npz", &archive(&members)).unwrap();
            let got: Vec<(String, Vec<u8>)> =
                got.into_iter().map(|(key, tensor)| (key, bytes_of(&tensor.unwrap()))).collect();
            prop_assert_eq!(got, arrays.into_iter().rev().collect::<Vec<_>>());
        }

        #[test]
        fn deflated_members_come_back(data in proptest::collection::vec(any::<u8>(), 0..2000)) {
            prop_assert_eq!(through_deflate(&data), data);
        }

        #[test]
        fn mutations_survive(bytes in mutated(vec![
            archive(&[("a.npy", &file("<f4", "False", &[2, 3], &[1; 24])), ("b.txt", b"x")]),
            deflated("a.npy", &file("<f4", "True", &[20, 3], &[1; 240])),
        ])) {
            survives(".npz", &bytes);
        }
    }
}
