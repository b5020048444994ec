//! One entry of the journal: a batch of changes under its LSN, or a piece of a batch that is too long for
//! one blob. The pieces of a batch follow one another, and count only together.
//!
//! ```text
//! offset  size  field                                  (numbers are little endian)
//! 0       8     magic      b"ASHLJRNL"
//! 8       4     version    1
//! 12      4     volume
//! 16      8     epoch      of the leader that wrote it
//! 24      8     lsn        counts up by one, over all epochs
//! 32      8     first      LSN of the epoch's first entry
//! 40      8     before     epoch that the entry before that one is of; 0: there is none
//! 48      8     snapshot epoch, and
//! 56      8     snapshot lsn: a snapshot that was there when it was written
//! 64      4     name       bytes of the volume's name
//! 68      4     more       1: the batch goes on in the next entry; else 0
//! 72      4     crc        CRC-32C of bytes 0 to 71 and of all that follows
//! 76      -     the volume's name, then the changes: key length 1, key, value length 4
//!               (2^32 - 1: removed), value; keys rise
//! ```
//!
//! [`Entry::decode`] believes no byte before the checksum over all of them was found right. What an entry
//! says of its place (volume, epoch, LSN) must agree with the blob's name.

use proto::id::{BlobId, VolumeId};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::engine::{Batch, Value};
use crate::table::chunk::{put_entry, take_entry};
use crate::volume_store::names::Role;

const MAGIC: [u8; 8] = *b"ASHLJRNL";
const VERSION: u32 = 1;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Head {
    magic: [u8; 8],
    version: U32,
    volume: U32,
    epoch: U64,
    lsn: U64,
    first: U64,
    before: U64,
    snapshot_epoch: U64,
    snapshot_lsn: U64,
    name: U32,
    more: U32,
    crc: U32,
}

const HEAD: usize = size_of::<Head>();
const _: () = assert!(HEAD == 76);

/// Where an entry stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Epoch of the leader that wrote it.
    pub(crate) epoch: u64,
    /// Its number.
    pub(crate) lsn: u64,
    /// The number of the epoch's first entry.
    pub(crate) first: u64,
    /// The epoch that the entry before that one is of; 0: it is the volume's very first.
    pub(crate) before: u64,
    /// Epoch and LSN of a snapshot that was in the store when this was written.
    pub(crate) snapshot: (u64, u64),
}

/// An entry, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Where it stands.
    pub(crate) standing: Standing,
    /// What the volume is called.
    pub(crate) name: String,
    /// What it changes.
    pub(crate) batch: Batch,
    /// The batch goes on in the next entry.
    pub(crate) more: bool,
}

/// Why an entry is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadEntry {
    /// Not what was written.
    #[error("an entry of the metadata journal is damaged")]
    Damaged,
    /// Written by another version of this software.
    #[error(
        "an entry of the metadata journal has format {0}, this software reads format {VERSION}"
    )]
    Version(u32),
}

/// The encoding in the table above of a batch: its entries, in order; the first one stands `at`. One that
/// has grown to `entry_bytes` ends with the change that made it grow.
pub(crate) fn encode(
    volume: VolumeId,
    name: &str,
    at: Standing,
    batch: &Batch,
    entry_bytes: usize,
) -> Vec<Vec<u8>> {
    let mut pieces = Vec::new();
    let mut piece = Vec::new();
    for (key, value) in batch {
        if piece.len() >= entry_bytes {
            pieces.push(std::mem::take(&mut piece));
        }
        put_entry(&mut piece, key, value.as_deref());
    }
    pieces.push(piece);
    let last = pieces.len() - 1;
    let numbered = pieces.into_iter().enumerate();
    numbered
        .map(|(number, piece)| {
            let at = Standing { lsn: at.lsn + number as u64, ..at };
            sealed(volume, name, at, number < last, &piece)
        })
        .collect()
}

fn sealed(volume: VolumeId, name: &str, at: Standing, more: bool, piece: &[u8]) -> Vec<u8> {
    let mut head = Head {
        magic: MAGIC,
        version: U32::new(VERSION),
        volume: U32::new(volume.0),
        epoch: U64::new(at.epoch),
        lsn: U64::new(at.lsn),
        first: U64::new(at.first),
        before: U64::new(at.before),
        snapshot_epoch: U64::new(at.snapshot.0),
        snapshot_lsn: U64::new(at.snapshot.1),
        name: U32::new(name.len() as u32),
        more: U32::new(more.into()),
        crc: U32::ZERO,
    };
    let mut bytes = vec![0; HEAD];
    bytes.extend_from_slice(name.as_bytes());
    bytes.extend_from_slice(piece);
    head.crc = U32::new(checksum(&head, &bytes[HEAD..]));
    bytes[..HEAD].copy_from_slice(head.as_bytes());
    bytes
}

impl Entry {
    /// What the bytes of a blob say, or why they say nothing.
    pub(crate) fn decode(id: BlobId, bytes: &[u8]) -> Result<Self, BadEntry> {
        let damaged = BadEntry::Damaged;
        let (head, rest) = Head::ref_from_prefix(bytes).map_err(|_| damaged)?;
        if head.magic != MAGIC {
            return Err(damaged);
        }
        if head.version.get() != VERSION {
            return Err(BadEntry::Version(head.version.get()));
        }
        let standing = Standing {
            epoch: head.epoch.get(),
            lsn: head.lsn.get(),
            first: head.first.get(),
            before: head.before.get(),
            snapshot: (head.snapshot_epoch.get(), head.snapshot_lsn.get()),
        };
        let here = head.volume.get() == id.volume().0
            && (Role::Entry, standing.epoch) == Role::of(id.session())
            && standing.lsn == id.sequence();
        if !here || checksum(head, rest) != head.crc.get() {
            return Err(damaged);
        }
        let (name, mut rest) = rest.split_at_checked(head.name.get() as usize).ok_or(damaged)?;
        let name = std::str::from_utf8(name).map_err(|_| damaged)?.to_owned();
        let mut batch = Batch::new();
        while !rest.is_empty() {
            let (key, value) = take_entry(&mut rest).ok_or(damaged)?;
            batch.insert(key, value.map(Value::from));
        }
        Ok(Self { standing, name, batch, more: head.more.get() != 0 })
    }
}

fn checksum(head: &Head, rest: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&head.as_bytes()[..HEAD - 4]), rest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proto::scheme::Scheme;

    use super::*;
    use crate::key::Key;
    use crate::volume_store::names::Namer;

    const VOLUME: VolumeId = VolumeId(9);

    fn written(at: Standing, batch: &Batch) -> (BlobId, Vec<u8>) {
        let bytes = encode(VOLUME, "home", at, batch, 1 << 20).remove(0);
        let namer = Namer {
            volume: VOLUME,
            group: proto::id::GroupId(0),
            epoch: at.epoch,
            scheme: Scheme::copies(3).unwrap(),
        };
        (namer.name(Role::Entry, at.lsn, bytes.len()).unwrap(), bytes)
    }

    const AT: Standing = Standing { epoch: 3, lsn: 40, first: 30, before: 2, snapshot: (2, 20) };

    proptest! {
        #[test]
        fn it_is_read_back(changes in proptest::collection::btree_map(
            proptest::collection::vec(any::<u8>(), 1..20),
            proptest::option::of(proptest::collection::vec(any::<u8>(), 0..50)),
            0..20,
        )) {
            let batch: Batch = changes
                .iter()
                .map(|(key, value)| (Key::from_bytes(key).unwrap(), value.clone().map(Value::from)))
                .collect();
            let (id, bytes) = written(AT, &batch);
            let entry = Entry { standing: AT, name: "home".to_owned(), batch, more: false };
            prop_assert_eq!(Entry::decode(id, &bytes), Ok(entry));
        }
    }

    #[test]
    fn a_long_batch_is_cut_into_entries_that_follow_one_another() {
        let value = Some(Value::from(&[7; 60_000][..]));
        let batch: Batch = (0..200).map(|n| (Key::tag(b'X').with(n), value.clone())).collect();
        let pieces = encode(VOLUME, "home", AT, &batch, 4 << 20);
        assert_eq!(pieces.len(), 3);
        let mut whole = Batch::new();
        for (n, piece) in pieces.iter().enumerate() {
            assert!(piece.len() <= proto::limits::MAX_BLOB as usize);
            let at = Standing { lsn: AT.lsn + n as u64, ..AT };
            let id = Namer {
                volume: VOLUME,
                group: proto::id::GroupId(0),
                epoch: AT.epoch,
                scheme: Scheme::copies(3).unwrap(),
            }
            .name(Role::Entry, at.lsn, piece.len());
            let entry = Entry::decode(id.unwrap(), piece).unwrap();
            assert_eq!((entry.standing, entry.more), (at, n < 2));
            whole.extend(entry.batch);
        }
        assert_eq!(whole, batch);
    }

    #[test]
    fn nothing_that_changed_or_lies_elsewhere_is_believed() {
        let batch =
            (0..5).map(|n| (Key::tag(b'I').with(n), Some(Value::from(&[7; 30][..])))).collect();
        let (id, bytes) = written(AT, &batch);
        for bit in 0..bytes.len() * 8 {
            let mut rotten = bytes.clone();
            rotten[bit / 8] ^= 1 << (bit % 8);
            assert!(Entry::decode(id, &rotten).is_err(), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(Entry::decode(id, &bytes[..len]).is_err(), "cut at {len}");
        }
        let (elsewhere, _) = written(Standing { lsn: 41, ..AT }, &batch);
        let (later, _) = written(Standing { epoch: 4, ..AT }, &batch);
        assert!(Entry::decode(elsewhere, &bytes).is_err() && Entry::decode(later, &bytes).is_err());
    }
}
