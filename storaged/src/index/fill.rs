//! How full a disk is: pure accounting of what its block files take and hold.
//!
//! ```text
//! 0             limit                                   capacity
//! |-- records ---|-- reserve: max(3 files, 1/16) --------|
//!                |-- metadata --|-- 2.5 files -----------|
//! ```
//!
//! Parts are taken while live records stay below `limit`; those of metadata beyond it too, so that a full
//! disk can be deleted from. What is left has room for the file that is written, the file that compaction
//! writes next, and at least half a file's worth of dead records, so that compaction always finds
//! something to gain and deletes always find a place.
//!
//! Invariant: a file's `allocated` is what it takes on the filesystem: all of it until it is sealed and
//! cut off, then what is in use and not punched.

use std::collections::{BTreeMap, BTreeSet};

use proto::limits::DISK_BLOCK;
use proto::part_store::{Fill, FillLevel};

/// What one remembered delete is counted as, in bytes.
const TOMBSTONE: u64 = 32;
/// Share of the limit from which other groups are preferred, in percent.
const YELLOW: u64 = 85;
/// Dead bytes from which a file is worth compacting in the background.
const WORTHWHILE: u64 = 1 << 20;

/// What becomes of a block file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Records are appended to it.
    Open,
    /// It is full.
    Sealed,
    /// Sealed, and compaction could not empty it because of damage: it stays.
    Kept,
    /// Nothing in it is needed; it is taken away with the next checkpoint.
    Doomed,
}

/// One block file's account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileState {
    /// Blocks in use: the next record starts here.
    pub(crate) tail: u32,
    /// Bytes of live parts' records.
    pub(crate) live: u64,
    /// Bytes given back by holes.
    pub(crate) punched: u64,
    /// Remembered deletes whose record is here.
    pub(crate) tombstones: u32,
    /// What becomes of it.
    pub(crate) stage: Stage,
}

impl FileState {
    /// An empty file that is written to.
    pub(crate) fn open() -> Self {
        Self { tail: 0, live: 0, punched: 0, tombstones: 0, stage: Stage::Open }
    }

    fn used(&self) -> u64 {
        (u64::from(self.tail) * DISK_BLOCK as u64).saturating_sub(self.punched)
    }

    fn needed(&self) -> u64 {
        self.live + u64::from(self.tombstones) * TOMBSTONE
    }

    /// Bytes that compaction would gain.
    pub(crate) fn dead(&self) -> u64 {
        self.used().saturating_sub(self.needed())
    }
}

/// The account of a whole disk.
#[derive(Clone, Debug)]
pub(crate) struct Space {
    capacity: u64,
    block_file: u64,
    /// Set while the filesystem has less room than the capacity promises.
    pub(crate) ceiling: Option<u64>,
    /// Parts held.
    pub(crate) parts: u64,
    /// The block files by number.
    pub(crate) files: BTreeMap<u32, FileState>,
    /// Files that cannot be opened, and have records that nobody has seen: they are read when they can
    /// be.
    pub(crate) unread: BTreeSet<u32>,
    /// Sealed files that are not cut off behind their last record yet.
    pub(crate) long: BTreeSet<u32>,
}

impl Space {
    /// An empty disk.
    pub(crate) fn new(capacity: u64, block_file: u64) -> Self {
        Self {
            capacity,
            block_file,
            ceiling: None,
            parts: 0,
            files: BTreeMap::new(),
            unread: BTreeSet::new(),
            long: BTreeSet::new(),
        }
    }

    /// Blocks of one file.
    pub(crate) fn file_blocks(&self) -> u32 {
        (self.block_file / DISK_BLOCK as u64) as u32
    }

    /// The account of one file, if it is known.
    pub(crate) fn file(&mut self, number: u32) -> &mut FileState {
        self.files
            .entry(number)
            .or_insert_with(|| FileState { stage: Stage::Sealed, ..FileState::open() })
    }

    /// Bytes that all files take on the filesystem.
    pub(crate) fn allocated(&self) -> u64 {
        let one = |(number, file): (&u32, &FileState)| match file.stage {
            Stage::Sealed | Stage::Kept | Stage::Doomed if !self.long.contains(number) => {
                file.used()
            }
            _ => self.block_file.saturating_sub(file.punched),
        };
        self.files.iter().map(one).sum()
    }

    fn used(&self) -> u64 {
        self.files.values().map(FileState::needed).sum()
    }

    fn ceiling(&self) -> u64 {
        self.ceiling.map_or(self.capacity, |ceiling| ceiling.min(self.capacity))
    }

    fn limit(&self) -> u64 {
        let reserve = (3 * self.block_file).max(self.capacity / 16);
        self.ceiling().saturating_sub(reserve)
    }

    /// Like [`Self::limit`], for records of metadata.
    fn metadata_limit(&self) -> u64 {
        let least = 2 * self.block_file + self.block_file / 2;
        self.ceiling().saturating_sub(least)
    }

    /// May a new part of so many bytes of records be taken, now or after compaction?
    pub(crate) fn admits(&self, bytes: u64, metadata: bool) -> bool {
        let limit = if metadata { self.metadata_limit() } else { self.limit() };
        self.used() + bytes <= limit
    }

    /// Is there room for one more file, with the reserve (`spare`) or without?
    pub(crate) fn may_open(&self, spare: bool) -> bool {
        let files = if spare { 2 } else { 1 };
        self.allocated() + files * self.block_file <= self.ceiling()
    }

    /// Has the reserve been broken into, so that new data must wait for compaction?
    pub(crate) fn reserve_broken(&self) -> bool {
        self.allocated() + self.block_file > self.ceiling()
    }

    /// Do the live records of a file fit into `room` bytes?
    pub(crate) fn fits(&self, file: u32, room: u64) -> bool {
        self.files.get(&file).is_none_or(|file| file.needed() <= room)
    }

    /// Of the sealed files whose live records fit into `room` bytes, but for some, the one that compaction gains most
    /// from.
    pub(crate) fn best_victim(&self, room: u64, but: &BTreeSet<u32>) -> Option<u32> {
        let sealed = self.files.iter().filter(|(_, file)| file.stage == Stage::Sealed);
        sealed
            .filter(|(number, file)| {
                file.dead() > 0 && file.needed() <= room && !but.contains(*number)
            })
            .max_by_key(|(_, file)| file.dead())
            .map(|(number, _)| *number)
    }

    /// A sealed file that is mostly dead, and whose live records fit into `room` bytes.
    pub(crate) fn mostly_dead(&self, room: u64) -> Option<u32> {
        let sealed = self.files.iter().filter(|(_, file)| file.stage == Stage::Sealed);
        sealed
            .filter(|(_, file)| file.needed() <= room)
            .filter(|(_, file)| {
                file.needed() == 0 || (file.dead() >= WORTHWHILE && file.dead() >= file.needed())
            })
            .max_by_key(|(_, file)| file.dead())
            .map(|(number, _)| *number)
    }

    /// What callers are told.
    pub(crate) fn fill(&self) -> Fill {
        let (used, capacity) = (self.used(), self.limit());
        let available = capacity.saturating_sub(used);
        let spare = self.metadata_limit().saturating_sub(used.max(capacity));
        let level = if available >= DISK_BLOCK as u64 {
            if used * 100 >= capacity * YELLOW { FillLevel::Yellow } else { FillLevel::Green }
        } else if self.may_open(false) {
            FillLevel::Orange
        } else {
            FillLevel::Red
        };
        Fill { capacity, used, available, spare, level }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn sealed(tail_mib: u32, live_mib: u64) -> FileState {
        FileState {
            tail: tail_mib * 256,
            live: live_mib * MIB,
            punched: 0,
            tombstones: 0,
            stage: Stage::Sealed,
        }
    }

    #[test]
    fn levels() {
        let mut space = Space::new(160 * MIB, 16 * MIB);
        assert_eq!((space.fill().available, space.fill().spare), (112 * MIB, 8 * MIB));
        for (live, level) in
            [(0, FillLevel::Green), (96, FillLevel::Yellow), (112, FillLevel::Orange)]
        {
            space.files.insert(1, sealed(120, live));
            assert_eq!(space.fill().level, level, "{live} MiB");
            let admits = |metadata| space.admits((119 - live) * MIB, metadata);
            assert_eq!((admits(true), admits(false)), (true, false));
        }
        space.files.insert(2, sealed(30, 0));
        assert_eq!(space.fill().level, FillLevel::Red);
    }

    #[test]
    fn compaction_takes_what_gains_most_and_fits() {
        let mut space = Space::new(160 * MIB, 16 * MIB);
        space.files.insert(1, sealed(16, 16));
        space.files.insert(2, sealed(16, 9));
        space.files.insert(3, sealed(16, 12));
        let (all, but) = (BTreeSet::new(), BTreeSet::from([2]));
        assert_eq!(space.mostly_dead(16 * MIB), None);
        assert_eq!(space.best_victim(16 * MIB, &all), Some(2));
        assert_eq!(space.best_victim(16 * MIB, &but), Some(3));
        assert_eq!(space.best_victim(8 * MIB, &all), None);
        space.files.insert(4, FileState { punched: 14 * MIB, ..sealed(16, 1) });
        assert_eq!(space.best_victim(8 * MIB, &all), Some(4));
        assert_eq!(space.mostly_dead(8 * MIB), Some(4));
        // What gains more and does not fit is no reason to leave what does.
        space.files.insert(5, sealed(16, 7));
        assert_eq!(space.mostly_dead(8 * MIB), Some(5));
        assert_eq!(space.mostly_dead(6 * MIB), Some(4));
        assert_eq!((space.fits(5, 7 * MIB), space.fits(5, 6 * MIB)), (true, false));
    }
}
