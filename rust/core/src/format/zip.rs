//! The directory of a zip archive, read by position: where each member's bytes start and how they are coded.
//!
//! The search for the directory is bounded by the longest comment a zip can carry, so a ten-gigabyte file that
//! is no archive costs one small read.

use std::collections::BTreeSet;

use super::input::Input;
use super::packed::{Coding, Packed};
use crate::{Error, Result};

const END: &[u8; 4] = b"PK\x05\x06";
const END_LEN: u64 = 22;
const END64: &[u8; 4] = b"PK\x06\x06";
const END64_LEN: u64 = 56;
const LOCATOR64: &[u8; 4] = b"PK\x06\x07";
const LOCATOR64_LEN: u64 = 20;
const CENTRAL: &[u8; 4] = b"PK\x01\x02";
const CENTRAL_LEN: usize = 46;
const LOCAL: &[u8; 4] = b"PK\x03\x04";
const LOCAL_LEN: u64 = 30;
/// No real dump has a directory of this size; each entry of it costs memory.
const MAX_DIRECTORY: u64 = 256 << 20;

/// One member as the directory describes it.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) name: String,
    method: u16,
    encrypted: bool,
    crc: u32,
    coded_len: u64,
    pub(super) len: u64,
    header: u64,
}

/// Reads the directory. Two members of one name are an error: readers disagree on which of them counts.
pub(super) fn members(input: &Input) -> Result<Vec<Member>> {
    let (offset, len) = directory(input)?;
    if len > MAX_DIRECTORY {
        let found = format!("{len} bytes");
        return Err(Error::malformed(&input.path, "zip directory", "at most 256 MiB", found));
    }
    let bytes = input.bytes("zip directory", offset, len)?;
    let mut members = Vec::new();
    let mut names = BTreeSet::new();
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        let (member, used) = central(rest).ok_or_else(|| {
            let at = format!("something else at byte {}", bytes.len() - rest.len());
            Error::malformed(&input.path, "zip directory", format!("entry {}", members.len()), at)
        })?;
        if !names.insert(member.name.clone()) {
            let found = format!("two members called {:?}", member.name);
            return Err(Error::malformed(&input.path, "zip directory", "unique names", found));
        }
        members.push(member);
        rest = &rest[used..];
    }
    Ok(members)
}

impl Member {
    /// Where the member's bytes are; reads its local header.
    pub(super) fn packed(&self, input: &Input) -> Result<Packed> {
        let refuse = |why: String| Error::refused(&input.path, format!("member {:?} {why}", self.name));
        if self.encrypted {
            return Err(refuse("is encrypted".into()));
        }
        let coding = match self.method {
            0 => Coding::Stored,
            8 => Coding::Deflated,
            other => {
                return Err(refuse(format!("is compressed with zip method {other}; use stored or deflated")));
            }
        };
        let what = format!("zip member {:?}", self.name);
        if coding == Coding::Stored && self.coded_len != self.len {
            let expected = format!("{} stored bytes", self.len);
            return Err(Error::malformed(&input.path, what, expected, self.coded_len.to_string()));
        }
        let mut local = [0; LOCAL_LEN as usize];
        input.read_at(&what, self.header, &mut local)?;
        if &local[..4] != LOCAL {
            return Err(Error::malformed(
                &input.path,
                what,
                "a local header",
                format!("{:02x?}", &local[..4]),
            ));
        }
        let offset = self.header + LOCAL_LEN + u64::from(u16_at(&local, 26)) + u64::from(u16_at(&local, 28));
        input.check(&what, offset, self.coded_len)?;
        Ok(Packed {
            input: input.clone(),
            offset,
            coded_len: self.coded_len,
            coding,
            len: self.len,
            crc: Some(self.crc),
            skip: 0,
            swap: 1,
        })
    }
}

/// Where the record stands that ends the archive, and what it holds.
fn end_record(input: &Input) -> Result<(u64, Vec<u8>)> {
    // Hardly any archive has a comment, and then the record is what the file ends with.
    for tail_len in [END_LEN, END_LEN + u64::from(u16::MAX)] {
        let tail_len = input.len.min(tail_len);
        let tail_at = input.len - tail_len;
        let tail = input.bytes("end of the archive", tail_at, tail_len)?;
        // A comment may hold anything, even this signature; a true end's comment ends with the file.
        let found = tail.windows(END_LEN as usize).enumerate().rposition(|(at, end)| {
            &end[..4] == END && at + END_LEN as usize + usize::from(u16_at(end, 20)) == tail.len()
        });
        if let Some(at) = found {
            return Ok((tail_at + at as u64, tail[at..].to_vec()));
        }
    }
    Err(Error::malformed(
        &input.path,
        "zip archive",
        "a directory at the end of the file",
        "none: the file is cut off or no zip",
    ))
}

/// Offset and length of the central directory.
fn directory(input: &Input) -> Result<(u64, u64)> {
    let (at, end) = end_record(input)?;
    let (count, len, offset) = (u16_at(&end, 10), u32_at(&end, 12), u32_at(&end, 16));
    if count != u16::MAX && len != u32::MAX && offset != u32::MAX {
        return Ok((u64::from(offset), u64::from(len)));
    }
    let locator_at = at.checked_sub(LOCATOR64_LEN);
    let mut locator = [0; LOCATOR64_LEN as usize];
    if let Some(locator_at) = locator_at {
        input.read_at("zip64 locator", locator_at, &mut locator)?;
    }
    if &locator[..4] != LOCATOR64 {
        // 65535 members, or these very sizes, in an archive without the extension.
        return Ok((u64::from(offset), u64::from(len)));
    }
    let mut end64 = [0; END64_LEN as usize];
    input.read_at("zip64 directory", u64_at(&locator, 8), &mut end64)?;
    if &end64[..4] != END64 {
        let found = format!("{:02x?}", &end64[..4]);
        return Err(Error::malformed(&input.path, "zip64 directory", "its signature", found));
    }
    Ok((u64_at(&end64, 48), u64_at(&end64, 40)))
}

/// Parses one directory entry and tells its length; `None` when it is cut off or none.
fn central(bytes: &[u8]) -> Option<(Member, usize)> {
    let head = bytes.get(..CENTRAL_LEN)?;
    if &head[..4] != CENTRAL {
        return None;
    }
    let name_len = usize::from(u16_at(head, 28));
    let extra_len = usize::from(u16_at(head, 30));
    let used = CENTRAL_LEN + name_len + extra_len + usize::from(u16_at(head, 32));
    let name = bytes.get(CENTRAL_LEN..CENTRAL_LEN + name_len)?;
    let extra = bytes.get(CENTRAL_LEN + name_len..CENTRAL_LEN + name_len + extra_len)?;
    bytes.get(..used)?;
    let mut sizes = [u32_at(head, 24), u32_at(head, 20), u32_at(head, 42)].map(u64::from);
    if sizes.contains(&u64::from(u32::MAX)) {
        let mut wide = zip64_extra(extra)?;
        for size in &mut sizes {
            if *size == u64::from(u32::MAX) {
                *size = u64_at(wide.get(..8)?, 0);
                wide = &wide[8..];
            }
        }
    }
    let [len, coded_len, header] = sizes;
    let member = Member {
        name: String::from_utf8_lossy(name).into_owned(),
        method: u16_at(head, 10),
        encrypted: u16_at(head, 8) & 1 != 0,
        crc: u32_at(head, 16),
        coded_len,
        len,
        header,
    };
    Some((member, used))
}

/// The 64-bit sizes among the extra fields.
fn zip64_extra(mut extra: &[u8]) -> Option<&[u8]> {
    while let Some(head) = extra.get(..4) {
        let field = extra.get(4..4 + usize::from(u16_at(head, 2)))?;
        if u16_at(head, 0) == 1 {
            return Some(field);
        }
        extra = &extra[4 + field.len()..];
    }
    None
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
