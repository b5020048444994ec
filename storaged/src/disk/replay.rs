//! Reading the logs of a disk again: those behind a checkpoint, or all of them.
//!
//! The same code ([`Ledger`]) takes each record in as after a commit, and [`crate::disk::recovery`] says
//! where the log ends. Of a file only the records of one batch are in memory at a time.
//!
//! A block file that cannot be opened keeps nothing else from being served. What the index knows of
//! it stays known, and unreadable; when it has records that were never taken in, it is noted as
//! *unread*, and once it can be opened the index is made anew.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::Arc;
use std::time::Instant;

use nix::libc::{EMFILE, ENFILE, ENOMEM};
use proto::buffer::Aligned;
use proto::limits::DISK_BLOCK;

use crate::disk::recovery::{Seen, end_of_log};
use crate::error::DiskProblem;
use crate::format::superblock::Superblock;
use crate::index::fill::{FileState, Space, Stage};
use crate::index::ledger::Ledger;
use crate::index::{Index, Mark, Saved, is_no_room};
use crate::io::medium::DiskDir;
use crate::log::block_file::{Access, BlockFile, Found, Scan, len_of, sync_block_files};
use crate::log::record::{Place, What, decode_blobs, decode_parts};
use crate::owner::ahead::Ahead;
use crate::owner::waiting::Waiting;
use crate::owner::{Dead, Declined, Owner};
use crate::shared::Shared;
use crate::shared::hands::Hands;

const BLOCK: u64 = DISK_BLOCK as u64;
/// A new life of the disk starts its sequences so far behind the last one it knows of, so that no
/// number of a torn batch is ever used again.
const SEQUENCE_JUMP: u64 = 1 << 32;
/// Changes after which a rebuild writes a checkpoint.
const REBUILD_CHECKPOINT: usize = 64 << 10;

/// A disk on its way to an owner.
pub(crate) struct Recovery<'a> {
    superblock: &'a Superblock,
    access: Access,
    shared: Shared,
    ledger: Ledger,
    /// The block files there are, in order.
    files: Vec<u32>,
    /// Those of them that cannot be opened.
    shut: BTreeSet<u32>,
    sequence: u64,
    tail: Option<u32>,
    /// The index is good up to its checkpoint.
    replaying: bool,
    /// The filesystem had room for all checkpoints.
    roomy: bool,
}

impl<'a> Recovery<'a> {
    /// Opens the block files.
    ///
    /// # Errors
    /// When not one can be opened.
    pub(crate) fn new(
        dir: &DiskDir,
        superblock: &'a Superblock,
        index: Index,
        hands: Arc<dyn Hands>,
        files: &[u32],
        access: Access,
    ) -> Result<Self, DiskProblem> {
        let index = Arc::new(index);
        let shared = Shared::new(dir, superblock.disk, index.clone(), hands);
        let mut shut = BTreeSet::new();
        for number in files {
            match BlockFile::open(dir, *number, access, &shared.calls) {
                Ok(file) => drop(shared.files.write().insert(*number, Arc::new(file))),
                Err(e) if is_ours(&e) || shut.len() + 1 == files.len() => return Err(e.into()),
                Err(e) => {
                    tracing::error!(disk = %superblock.disk, "block file {number} cannot be opened: {e}");
                    shut.insert(*number);
                }
            }
        }
        shared.reserve_numbers(files.last().copied().unwrap_or(0));
        let space = Space::new(superblock.capacity, superblock.block_file);
        let ledger = Ledger { index, space, holes: Vec::new(), unsettled: None };
        let files = files.to_vec();
        Ok(Self {
            superblock,
            access,
            shared,
            ledger,
            files,
            shut,
            sequence: 0,
            tail: None,
            replaying: false,
            roomy: true,
        })
    }

    /// A file whose records the index lacks, and that can be opened now.
    pub(crate) fn readable_again(&self, saved: &Saved) -> Option<u32> {
        let opened = |number: &&u32| self.shared.files.read().contains_key(number);
        saved.unread.iter().find(opened).copied()
    }

    /// All block files, from the first record on.
    pub(crate) fn rebuild(mut self) -> Result<Owner, DiskProblem> {
        for number in self.files.clone() {
            self.take_or_note(number, 0)?;
        }
        self.into_owner(true)
    }

    /// What was written behind the checkpoint.
    pub(crate) fn replay(mut self, saved: Saved) -> Result<Owner, DiskProblem> {
        let Mark { place, sequence } = saved.mark;
        self.replaying = true;
        self.sequence = sequence;
        self.ledger.space.parts = saved.parts;
        self.ledger.space.files = saved.files;
        self.ledger.space.unread = &saved.unread & &self.shut;
        self.shared.reserve_numbers(place.file.saturating_sub(1));
        *self.shared.slots.write() = saved.slots;
        *self.shared.rebuilt.write() = saved.rebuilt;
        *self.shared.fences.write() = saved.fences;
        let doomed = self.drop_doomed(place.file)?;
        for number in self.files.clone().into_iter().filter(|n| *n >= place.file) {
            let start = if number == place.file { place.block } else { 0 };
            self.take_or_note(number, start)?;
        }
        for (number, state) in &self.ledger.space.files {
            if !self.files.contains(number) && (state.live > 0 || state.tombstones > 0) {
                tracing::error!(disk = %self.shared.disk, "block file {number} is missing: its parts are lost");
            }
        }
        self.note_long(place.file);
        let mut owner = self.into_owner(false)?;
        owner.doomed = doomed;
        Ok(owner)
    }

    /// Files that were sealed, and not cut off.
    fn note_long(&mut self, mark: u32) {
        let space = &mut self.ledger.space;
        for (number, file) in self.shared.files.read().iter().filter(|(n, _)| **n < mark) {
            let Some(state) = space.files.get(number) else { continue };
            // Where the length cannot be had, reads say more.
            if state.stage == Stage::Sealed && file.blocks().is_ok_and(|len| len > state.tail) {
                space.long.insert(*number);
            }
        }
    }

    /// Finishes what a crash interrupted: files that the checkpoint had emptied. Those that cannot be
    /// taken away stay doomed.
    fn drop_doomed(&mut self, mark: u32) -> Result<HashMap<u32, Dead>, DiskProblem> {
        let known = &self.ledger.space.files;
        let goes = |n: &u32| known.get(n).map_or(*n < mark, |file| file.stage == Stage::Doomed);
        let mut doomed: Vec<u32> = self.files.iter().copied().filter(goes).collect();
        let vanished = |(n, file): (&u32, &FileState)| {
            (file.stage == Stage::Doomed && !self.files.contains(n)).then_some(*n)
        };
        doomed.extend(known.iter().filter_map(vanished));
        if doomed.is_empty() {
            return Ok(HashMap::new());
        }
        let mut dead_in: HashMap<u32, Dead> = HashMap::new();
        for dead in self.ledger.index.dead_in(|file| doomed.contains(&file))? {
            dead_in.entry(dead.2.file).or_default().push(dead);
        }
        let mut staying = HashMap::new();
        for number in doomed {
            let dead = dead_in.remove(&number).unwrap_or_default();
            // On a disk that cannot be written it is only not looked at.
            if self.access == Access::Write
                && let Err(e) = BlockFile::remove(&self.shared.dir, number)
            {
                tracing::warn!(disk = %self.shared.disk, "block file {number} stays for now: {e}");
                self.ledger.space.file(number).stage = Stage::Doomed;
                staying.insert(number, dead);
                continue;
            }
            self.shared.files.write().remove(&number);
            self.ledger.space.files.remove(&number);
            self.files.retain(|other| *other != number);
            self.ledger.bury(&dead)?;
        }
        if self.access == Access::Write {
            sync_block_files(&self.shared.dir)?;
        }
        Ok(staying)
    }

    /// Takes in the records of one file from `start` on, or notes that nobody has seen them.
    fn take_or_note(&mut self, number: u32, start: u32) -> Result<(), DiskProblem> {
        if !self.shut.contains(&number) {
            return self.take_file(number, start);
        }
        let blocks = len_of(&self.shared.dir, number).map_or(0, |len| (len / BLOCK) as u32);
        let state = self.ledger.space.file(number);
        state.tail = state.tail.max(blocks);
        state.stage = Stage::Kept;
        self.ledger.space.unread.insert(number);
        Ok(())
    }

    /// Only the last file can end in a tear, so only of its last batch nothing is sure before the end.
    fn take_file(&mut self, number: u32, start: u32) -> Result<(), DiskProblem> {
        let last = Some(&number) == self.files.last();
        let file = self.shared.files.read()[&number].clone();
        if last {
            self.settle(&file);
        }
        let state = self.ledger.space.file(number);
        state.stage = if last { Stage::Open } else { Stage::Sealed };
        state.tail = start;
        let mut batch: Vec<Found> = Vec::new();
        let (mut sure, mut seen) = (start, start);
        for found in Scan::new(&file, self.shared.disk, start, u32::MAX)? {
            seen = found.end();
            self.sequence = self.sequence.max(found.entry.sequence);
            let earlier = batch.partition_point(|other| other.block < found.entry.batch);
            for found in batch.drain(..earlier) {
                sure = found.end();
                self.take_record(&file, &found)?;
            }
            if last {
                batch.push(found);
            } else {
                sure = found.end();
                self.take_record(&file, &found)?;
            }
        }
        let end = Self::end_of(&file, sure, &batch);
        for found in batch.iter().filter(|found| found.block < end) {
            self.take_record(&file, found)?;
        }
        self.ledger.space.file(number).tail = end;
        if last {
            self.tail = Some(number);
            self.erase_behind(&file, end, seen)?;
        }
        Ok(())
    }

    /// The sync of the last batch may have failed, or never have been asked for: nothing may be answered on the
    /// strength of it before it is durable. A disk that cannot do that is only read.
    fn settle(&self, file: &BlockFile) {
        if self.access == Access::Write
            && let Err(e) = file.io.settle()
        {
            let why = format!("making the log durable: {e}");
            tracing::error!(disk = %self.superblock.disk, "the disk is read-only: {why}");
            self.shared.set_read_only(&why);
        }
    }

    /// Where the log ends whose last batch, behind `sure`, is this.
    fn end_of(file: &BlockFile, sure: u32, batch: &[Found]) -> u32 {
        let seen = |f: &Found| Seen { block: f.block, end: f.end(), batch: f.entry.batch };
        let seen: Vec<Seen> = batch.iter().map(seen).collect();
        end_of_log(sure, &seen, |suspect| {
            let found = batch.iter().find(|found| found.block == suspect.block);
            found.is_some_and(|found| file.verify(found).is_ok())
        })
    }

    fn take_record(&mut self, file: &BlockFile, found: &Found) -> Result<(), DiskProblem> {
        let slot = found.entry.slot;
        let place = Place { file: file.number, block: found.block };
        self.ledger.space.file(file.number).tail = found.end();
        if let What::Put(key) | What::Lost(key) = found.entry.what {
            self.ledger.replay_put(slot, key, place)?;
        } else {
            let payload = match file.payload(found) {
                Ok(payload) if payload.verify().is_ok() => payload,
                read => {
                    let why = read.err().map_or("it has rotted".to_owned(), |e| e.to_string());
                    let Place { file, block } = place;
                    tracing::error!(disk = %self.shared.disk, file, block, "what a record said is lost: {why}");
                    return Ok(());
                }
            };
            match found.entry.what {
                What::Put(_) | What::Lost(_) => unreachable!("taken above"),
                What::Delete => self.ledger.delete(slot, &decode_blobs(payload.data()), place)?,
                What::Forget => self.ledger.forget(slot, &decode_blobs(payload.data()))?,
                What::Drop => {
                    for key in decode_parts(payload.data()) {
                        self.ledger.drop_part(slot, key)?;
                    }
                }
                What::Slot => self.shared.learn_slot(slot, payload.data()),
                What::Rebuilt => self.shared.learn_rebuilt(slot, payload.data()),
                What::Fence => self.shared.learn_fence(slot, payload.data()),
            }
        }
        if self.roomy && self.ledger.index.pending() >= REBUILD_CHECKPOINT {
            self.save(Mark {
                place: Place { file: file.number, block: found.end() },
                sequence: found.entry.sequence,
            })?;
        }
        Ok(())
    }

    fn save(&mut self, mark: Mark) -> Result<(), DiskProblem> {
        let checkpoint = self.ledger.index.freeze(self.shared.disk, &self.ledger.space, mark);
        match self.ledger.index.write(&checkpoint) {
            Ok(()) => self.ledger.index.thaw(),
            // What is behind the checkpoint is bounded, and stays in memory.
            Err(e) if is_no_room(&e) && self.replaying => {
                self.ledger.index.take_back();
                self.roomy = false;
            }
            Err(e) => return Err(e.into()),
        }
        Ok(())
    }

    /// Remains of a torn batch must not be found by a later scan: zeros take their place.
    fn erase_behind(&self, file: &BlockFile, end: u32, seen: u32) -> Result<(), DiskProblem> {
        if seen <= end || self.shared.read_only().is_some() || self.access == Access::Read {
            return Ok(());
        }
        tracing::warn!(disk = %self.shared.disk, file = file.number, "the last batch was torn: cut off");
        // Made as long again by `into_owner`, with zeros.
        file.io.truncate(u64::from(end) * BLOCK)?;
        Ok(file.io.sync()?)
    }

    fn into_owner(mut self, rebuilt: bool) -> Result<Owner, DiskProblem> {
        self.sequence += SEQUENCE_JUMP;
        self.shared.unread = self.ledger.space.unread.first().copied();
        if self.access == Access::Read {
            self.shared.set_read_only("its filesystem is mounted read-only");
        }
        if self.shared.read_only().is_some() {
            self.tail = None;
        }
        let current = self.tail.and_then(|number| self.shared.files.read().get(&number).cloned());
        if let Some(current) = &current {
            // A log that was cut off, or sealed in vain, is made whole again; without room for that
            // it stays sealed.
            let whole = current.io.len()? >= self.superblock.block_file;
            if !whole && let Err(e) = current.io.preallocate(self.superblock.block_file) {
                tracing::warn!(disk = %self.shared.disk, "no room for a whole block file: {e}");
                self.ledger.space.file(current.number).stage = Stage::Sealed;
            }
        }
        let open = |number: u32| {
            self.ledger.space.files.get(&number).is_some_and(|file| file.stage == Stage::Open)
        };
        let current = current.filter(|file| open(file.number));
        let mut owner = Owner {
            shared: Arc::new(self.shared),
            ledger: self.ledger,
            current,
            sequence: self.sequence,
            scratch: Aligned::zeroed(DISK_BLOCK),
            ahead: Ahead::default(),
            waiting: Waiting::default(),
            debt: 0,
            closing: false,
            compaction: None,
            compact_from: Instant::now(),
            gain_from: Instant::now(),
            unfit: BTreeSet::new(),
            doomed: HashMap::new(),
            gone: Vec::new(),
            checkpoint: None,
            checkpoint_from: Instant::now(),
            logged: 0,
            changed_at: Instant::now(),
            declined: Declined::default(),
            watch: None,
        };
        owner.tell_end();
        owner.punch();
        owner.give_back_later();
        if rebuilt {
            owner.first_checkpoint()?;
        }
        Ok(owner)
    }
}

/// Is this want of something of this process, and not of the file?
fn is_ours(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(EMFILE | ENFILE | ENOMEM))
}
