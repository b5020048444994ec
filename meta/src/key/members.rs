//! `M`: the slots that the volume's blobs are on, by the cluster files that it was mounted with.
//!
//! ```text
//! offset  size  field                                      (little-endian)
//! 0       4     version     1
//! 4       8     generation  of the cluster file that it was mounted with last
//! 12      -     members, one after another:
//! 0       16    disk
//! 16      4     slot
//! 20      8     since       first session that used it
//! 28      8     until       first session that did not any more, or used it otherwise; 0: in use
//! 36      1     flags       1: it has answered as what it should be; 2: it was to be emptied, and holds nothing
//! 37      2     length of its names
//! 39      -     the name of its fail domain, and where a rack is known that this is in, a zero and the rack's
//! ```

use proto::id::{DiskId, Generation, SessionId, SlotId};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::Key;
use crate::record::members::{Member, Members};

const TAG: u8 = b'M';
const VERSION: u32 = 1;

/// Key of the record.
pub(crate) fn key() -> Key {
    Key::tag(TAG)
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Head {
    version: U32,
    generation: U64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Entry {
    disk: [u8; 16],
    slot: U32,
    since: U64,
    until: U64,
    flags: u8,
    names_len: U16,
}

const MET: u8 = 1;
const EMPTIED: u8 = 2;
/// Between the names of a domain and its rack: no name of a cluster file has one.
const BETWEEN: char = '\0';

const _: () = assert!(size_of::<Head>() == 12 && size_of::<Entry>() == 39);

/// The encoding in the table above.
pub(crate) fn encode(members: &Members) -> Vec<u8> {
    let generation = U64::new(members.generation.0);
    let mut bytes = Head { version: U32::new(VERSION), generation }.as_bytes().to_vec();
    for member in &members.slots {
        let mut names = member.domain.clone();
        if !member.rack.is_empty() {
            names.push(BETWEEN);
            names += &member.rack;
        }
        // Names longer than this name the same by their beginning.
        let names = &names.as_bytes()[..names.len().min(usize::from(u16::MAX))];
        let flag = |is: bool, flag: u8| if is { flag } else { 0 };
        let entry = Entry {
            disk: *member.disk.as_bytes(),
            slot: U32::new(member.slot.0),
            since: U64::new(member.since.0),
            until: U64::new(member.until.map_or(0, |session| session.0)),
            flags: flag(member.met, MET) | flag(member.emptied, EMPTIED),
            names_len: U16::new(names.len() as u16),
        };
        bytes.extend_from_slice(entry.as_bytes());
        bytes.extend_from_slice(names);
    }
    bytes
}

/// What the bytes say; `None` if they make no sense, or are another version's.
pub(crate) fn decode(value: &[u8]) -> Option<Members> {
    let (head, mut rest) = Head::read_from_prefix(value).ok()?;
    if head.version.get() != VERSION {
        return None;
    }
    let mut slots = Vec::new();
    while !rest.is_empty() {
        let (entry, behind) = Entry::read_from_prefix(rest).ok()?;
        let (names, behind) = behind.split_at_checked(entry.names_len.get().into())?;
        rest = behind;
        let names = String::from_utf8_lossy(names);
        let (domain, rack) = names.split_once(BETWEEN).unwrap_or((&names, ""));
        slots.push(Member {
            disk: DiskId::from_slice(&entry.disk)?,
            slot: SlotId(entry.slot.get()),
            domain: domain.to_owned(),
            rack: rack.to_owned(),
            since: SessionId(entry.since.get()),
            until: (entry.until.get() > 0).then(|| SessionId(entry.until.get())),
            met: entry.flags & MET > 0,
            emptied: entry.flags & EMPTIED > 0,
        });
    }
    Some(Members { generation: Generation(head.generation.get()), slots })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_back_and_nothing_less_is() {
        let member = |n: u8, until| Member {
            disk: DiskId::from_slice(&[n; 16]).unwrap(),
            slot: SlotId(n.into()),
            domain: "host-".repeat(n.into()),
            rack: if n == 3 { "rack".to_owned() } else { String::new() },
            since: SessionId(1),
            until,
            met: n == 2,
            emptied: n > 1,
        };
        let slots = vec![member(1, None), member(2, Some(SessionId(9))), member(3, None)];
        let members = Members { generation: Generation(7), slots };
        let bytes = encode(&members);
        assert_eq!(decode(&bytes), Some(members));
        assert_eq!(decode(&bytes[..bytes.len() - 1]), None);
        assert_eq!(decode(b""), None);
        let mut newer = bytes.clone();
        newer[0] = 2;
        assert_eq!(decode(&newer), None);
    }
}
