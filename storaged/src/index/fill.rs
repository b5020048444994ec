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
//! writes next, and at least half a file's worth of dead records, and one in [`LEAST_GAIN`] of all, so that compaction
//! always finds something to gain ([`gains`]) and deletes always find a place.
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
/// What else it costs to empty a file, a checkpoint and its syncs, in bytes that could be moved meanwhile.
const EMPTYING: u64 = 1 << 20;
/// A file of which one byte in so many is dead is worth emptying for whoever has no room. With less everybody would wait
/// for what gains next to nothing.
const LEAST_GAIN: u64 = 64;

/// Is it worth emptying a file that takes so many bytes of disk for what would be gained?
pub(crate) fn gains(dead: u64, used: u64) -> bool {
    dead * LEAST_GAIN >= used
}

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

    /// Bytes that it takes on the filesystem, cut off behind its last record.
    pub(crate) fn used(&self) -> u64 {
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
        let dead = (self.block_file / 2).max(self.capacity / LEAST_GAIN);
        self.ceiling().saturating_sub(2 * self.block_file + dead)
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

    /// How many more files may be begun for new data.
    pub(crate) fn files_to_come(&self) -> u64 {
        let left = self.ceiling().saturating_sub(self.allocated());
        (left / self.block_file).saturating_sub(1)
    }

    /// Bytes of records in a file that are needed.
    pub(crate) fn needed(&self, file: u32) -> u64 {
        self.files.get(&file).map_or(0, FileState::needed)
    }

    /// The file to be emptied for whoever has no room: of those that are worth it ([`gains`]) and whose live records fit
    /// into `room` bytes, but for some, the one of which most is gained for what it costs. One after which the reserve is
    /// whole comes before all after which it is not: those that are left might not fit any more. The file that is written
    /// counts only where it is full (`open`).
    pub(crate) fn best_victim(&self, room: u64, open: bool, but: &BTreeSet<u32>) -> Option<u32> {
        let counts = |file: &FileState| match file.stage {
            Stage::Sealed => true,
            Stage::Open => open,
            Stage::Kept | Stage::Doomed => false,
        };
        let worth = |file: &FileState| file.dead() > 0 && gains(file.dead(), file.used());
        let (allocated, free) = (self.allocated(), self.free());
        let leaves_reserve = |file: &FileState| {
            let is_open = file.stage == Stage::Open;
            let begun = if is_open || file.needed() > free { self.block_file } else { 0 };
            let gone = if is_open { self.block_file } else { file.used() };
            allocated + begun + self.block_file <= self.ceiling() + gone
        };
        let rate = |file: &FileState| file.dead() * 1024 / (file.needed() + EMPTYING);
        let candidates = self.files.iter().filter(|(number, file)| {
            counts(file) && worth(file) && file.needed() <= room && !but.contains(*number)
        });
        candidates
            .max_by_key(|(_, file)| (leaves_reserve(file), rate(file), file.dead()))
            .map(|(number, _)| *number)
    }

    /// Bytes left in the file that is written.
    fn free(&self) -> u64 {
        let open = self.files.values().filter(|file| file.stage == Stage::Open);
        open.map(|file| self.block_file.saturating_sub(u64::from(file.tail) * DISK_BLOCK as u64))
            .sum()
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
        assert_eq!(space.best_victim(16 * MIB, false, &all), Some(2));
        assert_eq!(space.best_victim(16 * MIB, false, &but), Some(3));
        assert_eq!(space.best_victim(8 * MIB, false, &all), None);
        space.files.insert(4, FileState { punched: 14 * MIB, ..sealed(16, 1) });
        assert_eq!(space.best_victim(8 * MIB, false, &all), Some(4));
        assert_eq!(space.mostly_dead(8 * MIB), Some(4));
        // What gains more and does not fit is no reason to leave what does.
        space.files.insert(5, sealed(16, 7));
        assert_eq!(space.mostly_dead(8 * MIB), Some(5));
        assert_eq!(space.mostly_dead(6 * MIB), Some(4));
        assert_eq!((space.fits(5, 7 * MIB), space.fits(5, 6 * MIB)), (true, false));
    }

    #[test]
    fn what_gains_next_to_nothing_is_not_emptied_and_most_is_gained_for_what_is_moved() {
        let mut space = Space::new(160 * MIB, 16 * MIB);
        let best = |space: &Space, open| space.best_victim(16 * MIB, open, &BTreeSet::new());
        let dead = |bytes| FileState { live: 16 * MIB - bytes, ..sealed(16, 16) };
        space.files.insert(1, dead(MIB / 4 - 4096));
        assert_eq!(best(&space, false), None, "less than one in 64");
        space.files.insert(1, dead(MIB / 4));
        assert_eq!(best(&space, false), Some(1));
        // 2 MiB for 2 moved, or 4 MiB for 12.
        space.files.insert(2, FileState { punched: 12 * MIB, ..sealed(16, 2) });
        space.files.insert(3, sealed(16, 12));
        assert_eq!(best(&space, false), Some(2));
        // The one that is written, full of what is dead, where no other can be begun for data.
        space.files.insert(4, FileState { stage: Stage::Open, ..sealed(16, 4) });
        assert_eq!((best(&space, false), best(&space, true)), (Some(2), Some(4)));
        // After what takes less than a file, moved to a new one, the reserve would not be whole.
        space.files.remove(&4);
        space.files.insert(5, FileState { stage: Stage::Kept, ..sealed(96, 96) });
        assert_eq!(best(&space, false), Some(2), "{} MiB", space.allocated() / MIB);
        space.files.insert(5, FileState { stage: Stage::Kept, ..sealed(100, 100) });
        assert_eq!(best(&space, false), Some(3), "{} MiB", space.allocated() / MIB);
    }

    /// With all that may be taken taken, there is a file to gain from, however evenly what is dead is spread.
    #[test]
    fn what_is_promised_can_be_gained() {
        for files in [4, 6, 32, 48, 64, 256, 4096] {
            let mut space = Space::new(files * 16 * MIB, 16 * MIB);
            let limits = [space.limit(), space.metadata_limit()];
            // All full, the one that is written, too, but for what is kept for the next file of compaction.
            let sealed_files = files - 2;
            for limit in limits {
                for number in 0..sealed_files {
                    let live = limit / sealed_files;
                    let state = FileState { live, ..sealed(16, 0) };
                    space.files.insert(number as u32 + 1, state);
                }
                let best = space.best_victim(16 * MIB, false, &BTreeSet::new());
                assert!(best.is_some(), "{files} files, {} MiB live", limit / MIB);
            }
        }
    }
}
