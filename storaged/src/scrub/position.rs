//! Where the scrub of a disk is, and what it has found: the file `scrub` in the disk's directory.
//!
//! It is written to another name and renamed, once a minute at most, so that it is whole or an older one.
//! Nothing depends on it: without it, or with one that is damaged, a pass begins anew.
//!
//! ```text
//! offset  size  field     meaning (numbers are little endian)
//! 0       8     magic     b"ASHLSCR\n"
//! 8       4     version   1
//! 12      4     phase     of the pass: 0 reads the log, 1 compares the index, 2 done
//! 16      16    disk      id
//! 32      8     began     when the pass began, in seconds since 1970
//! 40      8     ended     when the last one ended; 0: none has
//! 48      8     done      bytes read in this pass
//! 56      8     log       place of the next record of the pass: block, then file, 4 bytes each
//! 64      8     until     where the log ended when the pass began
//! 72      8     fresh     place of the first record that was written since new ones were last read
//! 80      8     fresh_at  when that was
//! 88      36    entry     the part in the index that was compared last: slot 4, blob 31, part 1; or zeros
//! 124     4     damaged   number of damaged parts
//! 128     4     suspects  number of parts whose entry in the index has to be looked into
//! 132     36*n  parts     those, then these, as above
//! ...     4     crc       CRC-32C of all before
//! ```

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use proto::id::{BLOB_ID_LEN, BlobId, DiskId, PartKey, SlotId};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::log::record::Place;

const MAGIC: [u8; 8] = *b"ASHLSCR\n";
const VERSION: u32 = 1;
/// Most bytes that are read of such a file.
const LONGEST: u64 = 4 << 20;

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Part {
    slot: U32,
    blob: [u8; BLOB_ID_LEN],
    part: u8,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Head {
    magic: [u8; 8],
    version: U32,
    phase: U32,
    disk: [u8; 16],
    began: U64,
    ended: U64,
    done: U64,
    log: U64,
    until: U64,
    fresh: U64,
    fresh_at: U64,
    entry: Part,
    damaged: U32,
    suspects: U32,
}

const HEAD: usize = size_of::<Head>();
const PART: usize = size_of::<Part>();
const _: () = assert!(HEAD == 132 && PART == 36);

/// What a pass is at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It reads the log.
    #[default]
    Log,
    /// It compares the index with it.
    Index,
    /// It is through, and the next one is not due yet.
    Done,
}

/// A part of a slot.
pub(crate) type SlotPart = (SlotId, PartKey);

/// All that is kept of a scrub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    /// What the pass is at.
    pub(crate) phase: Phase,
    /// When it began, in seconds since 1970.
    pub(crate) began: u64,
    /// When the last one ended; 0: none has.
    pub(crate) ended: u64,
    /// Bytes read in this pass.
    pub(crate) done: u64,
    /// The next record.
    pub(crate) log: Place,
    /// Where the log ended when the pass began.
    pub(crate) until: Place,
    /// The first record that is newer than what was read as new.
    pub(crate) fresh: Place,
    /// When that was.
    pub(crate) fresh_at: u64,
    /// The part in the index that was compared last.
    pub(crate) entry: Option<SlotPart>,
    /// Parts that were damaged.
    pub(crate) damaged: Vec<SlotPart>,
    /// Parts whose entry has to be looked into.
    pub(crate) suspects: Vec<SlotPart>,
}

/// Before everything.
const START: Place = Place { file: 0, block: 0 };

impl Position {
    /// Of a pass that begins now, on a log that ends here.
    pub(crate) fn begin(now: u64, until: Place) -> Self {
        Self {
            phase: Phase::Log,
            began: now,
            ended: 0,
            done: 0,
            log: START,
            until,
            fresh: until,
            fresh_at: now,
            entry: None,
            damaged: Vec::new(),
            suspects: Vec::new(),
        }
    }

    /// The next pass.
    pub(crate) fn again(&mut self, now: u64, until: Place) {
        (self.phase, self.began, self.done) = (Phase::Log, now, 0);
        (self.log, self.until, self.entry) = (START, until, None);
    }

    fn path(dir: &Path) -> PathBuf {
        dir.join("scrub")
    }

    /// Reads it; `None` if there is none that makes sense.
    pub(crate) fn read(dir: &Path, disk: DiskId) -> Option<Self> {
        let path = Self::path(dir);
        if std::fs::metadata(&path).ok()?.len() > LONGEST {
            return None;
        }
        Self::decode(&std::fs::read(path).ok()?, disk)
    }

    /// Writes it, durably.
    ///
    /// # Errors
    /// What the filesystem says; then there is the one that was there before.
    pub(crate) fn write(&self, dir: &Path, disk: DiskId) -> io::Result<()> {
        let fresh = dir.join("scrub.new");
        let mut file = std::fs::File::create(&fresh)?;
        file.write_all(&self.encode(disk))?;
        file.sync_data()?;
        std::fs::rename(&fresh, Self::path(dir))
    }

    pub(crate) fn encode(&self, disk: DiskId) -> Vec<u8> {
        let phase = match self.phase {
            Phase::Log => 0,
            Phase::Index => 1,
            Phase::Done => 2,
        };
        let none = Part { slot: 0.into(), blob: [0; BLOB_ID_LEN], part: 0 };
        let head = Head {
            magic: MAGIC,
            version: VERSION.into(),
            phase: phase.into(),
            disk: *disk.as_bytes(),
            began: self.began.into(),
            ended: self.ended.into(),
            done: self.done.into(),
            log: self.log.pack().into(),
            until: self.until.pack().into(),
            fresh: self.fresh.pack().into(),
            fresh_at: self.fresh_at.into(),
            entry: self.entry.map_or(none, part),
            damaged: (self.damaged.len() as u32).into(),
            suspects: (self.suspects.len() as u32).into(),
        };
        let mut bytes = head.as_bytes().to_vec();
        for one in self.damaged.iter().chain(&self.suspects) {
            bytes.extend_from_slice(part(*one).as_bytes());
        }
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8], disk: DiskId) -> Option<Self> {
        let (bytes, crc) = bytes.split_last_chunk::<4>()?;
        let (head, parts) = Head::read_from_prefix(bytes).ok()?;
        let known = head.magic == MAGIC && head.version.get() == VERSION;
        if !known || crc32c::crc32c(bytes).to_le_bytes() != *crc || head.disk != *disk.as_bytes() {
            return None;
        }
        let (damaged, suspects) = (head.damaged.get() as usize, head.suspects.get() as usize);
        if parts.len() != PART * (damaged + suspects) {
            return None;
        }
        let parts = |bytes: &[u8]| {
            let one = |bytes: &[u8]| key(&Part::read_from_bytes(bytes).ok()?);
            bytes.chunks_exact(PART).filter_map(one).collect()
        };
        let bytes = &bytes[HEAD..];
        Some(Self {
            phase: match head.phase.get() {
                0 => Phase::Log,
                1 => Phase::Index,
                _ => Phase::Done,
            },
            began: head.began.get(),
            ended: head.ended.get(),
            done: head.done.get(),
            log: Place::unpack(head.log.get()),
            until: Place::unpack(head.until.get()),
            fresh: Place::unpack(head.fresh.get()),
            fresh_at: head.fresh_at.get(),
            entry: key(&head.entry),
            damaged: parts(&bytes[..PART * damaged]),
            suspects: parts(&bytes[PART * damaged..]),
        })
    }
}

fn part((slot, key): SlotPart) -> Part {
    Part { slot: slot.0.into(), blob: key.blob.to_bytes(), part: key.part.get() as u8 }
}

fn key(part: &Part) -> Option<SlotPart> {
    let blob = BlobId::from_bytes(&part.blob)?;
    Some((SlotId(part.slot.get()), PartKey::new(blob, part.part.into())?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault_tests;

    #[test]
    fn it_reads_back_and_nothing_that_is_damaged_is_believed() {
        let dir = tempfile::tempdir().unwrap();
        let disk = DiskId::random();
        assert_eq!(Position::read(dir.path(), disk), None);
        let part = |n| (SlotId(n), fault_tests::key(n.into(), 100));
        let position = Position {
            phase: Phase::Index,
            ended: 99,
            log: Place { file: 3, block: 4 },
            entry: Some(part(7)),
            damaged: vec![part(1), part(2)],
            suspects: vec![part(3)],
            ..Position::begin(1_000_000, Place { file: 9, block: 1 })
        };
        position.write(dir.path(), disk).unwrap();
        assert_eq!(Position::read(dir.path(), disk), Some(position));
        assert_eq!(Position::read(dir.path(), DiskId::random()), None);
        let good = std::fs::read(Position::path(dir.path())).unwrap();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Position::decode(&bad, disk), None, "bit {bit}");
        }
        for len in 0..good.len() {
            assert_eq!(Position::decode(&good[..len], disk), None, "{len} bytes");
        }
    }
}
