//! Giving space back to the filesystem: holes for dead payloads, files cut off behind their last record,
//! files that are not needed any more.
//!
//! None of it is owed to anybody: what the filesystem declines, for want of room for its own notes or
//! because it never can, stays in use, is counted so, is said once, and is tried again. Any other error
//! is the disk's, as everywhere.

use std::io;
use std::time::Instant;

use proto::limits::DISK_BLOCK;
use proto::part_store::PartError;

use crate::index::fill::{FileState, Stage};
use crate::index::ledger::Hole;
use crate::io::direct::{is_declined, is_unsupported};
use crate::log::block_file::{BlockFile, sync_block_files};
use crate::owner::{NO_ROOM, Owner};

const BLOCK: u64 = DISK_BLOCK as u64;
/// Most holes that are remembered; compaction gains what is forgotten.
const MAX_HOLES: usize = 64 << 10;
/// Holes made at once, between two batches.
const HOLES: usize = 16;
/// So many times that is still done when a disk is closed, which is waited for.
const LAST_ROUNDS: usize = 256;
/// Dead records struck off at once.
const STRUCK_OFF: usize = 1024;
const REMOVING: &str = "removing a block file";

impl Owner {
    fn declined(&mut self, doing: &'static str, why: &io::Error) {
        self.declined.until = Some(Instant::now() + NO_ROOM);
        if self.declined.said.insert(doing) {
            tracing::warn!(disk = %self.shared.disk, "{doing}: {why}: the space stays in use for now");
        }
    }

    /// What was left over by those who had the disk before is taken up, too.
    pub(crate) fn give_back_later(&mut self) {
        if !self.ledger.space.long.is_empty() {
            self.declined.until = Some(Instant::now() + NO_ROOM);
        }
    }

    /// What was declined before, when it is time.
    pub(crate) fn give_back_again(&mut self) {
        if self.declined.until.is_none() || self.declined.rests() {
            return;
        }
        self.declined.until = None;
        self.punch();
        for number in self.ledger.space.long.clone() {
            let file = self.shared.files.read().get(&number).cloned();
            match file {
                // A failure has made the disk read-only, and is known by that.
                Some(file) => drop(self.cut_off(&file)),
                None => drop(self.ledger.space.long.remove(&number)),
            }
        }
    }

    /// Does a checkpoint give files back, as far as is known?
    pub(crate) fn frees_soon(&self) -> bool {
        let declined = self.declined.rests() && self.declined.said.contains(REMOVING);
        !self.doomed.is_empty() && Instant::now() >= self.checkpoint_from && !declined
    }

    /// Are there holes to be made, as soon as it is their turn?
    pub(crate) fn has_holes(&self) -> bool {
        !self.ledger.holes.is_empty() && !self.declined.rests()
    }

    /// Is there anything to be gone on with, of what is given back?
    pub(crate) fn owes_something_back(&self) -> bool {
        (self.has_holes() || !self.gone.is_empty()) && self.shared.read_only().is_none()
    }

    /// Gives the space of large dead payloads back, of so many as is done at once.
    pub(crate) fn punch(&mut self) {
        if self.declined.no_holes || self.shared.read_only().is_some() {
            self.ledger.holes.clear();
        }
        if self.ledger.holes.len() > MAX_HOLES {
            self.ledger.holes.truncate(MAX_HOLES);
        }
        for _ in 0..HOLES {
            if self.declined.rests() {
                return;
            }
            let Some(hole) = self.ledger.holes.pop() else { return };
            match self.punch_one(hole) {
                Ok(()) => drop(self.declined.said.remove("making a hole")),
                Err(e) if is_unsupported(&e) => {
                    self.declined("making a hole", &e);
                    self.declined.no_holes = true;
                    self.ledger.holes.clear();
                }
                Err(e) if is_declined(&e) => {
                    self.declined("making a hole", &e);
                    self.ledger.holes.push(hole);
                }
                Err(e) => {
                    self.fail("punching a hole", &e);
                    return;
                }
            }
        }
    }

    /// What is left at the end, within bounds: nobody remembers it.
    pub(crate) fn punch_last(&mut self) {
        for _ in 0..LAST_ROUNDS {
            if !self.has_holes() {
                return;
            }
            self.punch();
        }
    }

    fn punch_one(&mut self, hole: Hole) -> io::Result<()> {
        let file = self.shared.files.read().get(&hole.place.file).cloned();
        let Some(file) = file else { return Ok(()) };
        file.io.punch(u64::from(hole.place.block) * BLOCK, hole.len)?;
        self.ledger.space.file(hole.place.file).punched += hole.len;
        Ok(())
    }

    /// Cuts a sealed file off behind its last record.
    pub(crate) fn cut_off(&mut self, file: &BlockFile) -> Result<(), PartError> {
        let number = file.number;
        let end = u64::from(self.ledger.space.file(number).tail) * BLOCK;
        match file.io.truncate(end).and_then(|()| file.io.sync()) {
            Ok(()) => {
                self.ledger.space.long.remove(&number);
                self.declined.said.remove("cutting a block file off");
                Ok(())
            }
            Err(e) if is_declined(&e) => {
                self.ledger.space.long.insert(number);
                self.declined("cutting a block file off", &e);
                Ok(())
            }
            Err(e) => Err(self.doubt(number, "sealing a block file", &e)),
        }
    }

    /// A checkpoint has been written that refers to these files no more.
    pub(crate) fn after_checkpoint(&mut self, doomed: &[u32]) {
        let call = self.shared.calls.begin();
        let mut gone = Vec::new();
        let mut result = Ok(());
        for number in doomed {
            match BlockFile::remove(&self.shared.dir, *number) {
                Ok(()) => gone.push(*number),
                Err(e) => result = Err(e),
            }
        }
        if !gone.is_empty() {
            result = result.and(sync_block_files(&self.shared.dir));
        }
        drop(call);
        for number in gone {
            self.take_out(number);
        }
        self.strike_off_some();
        match result {
            Ok(()) => drop(self.declined.said.remove(REMOVING)),
            // It stays doomed: the next checkpoint tries again.
            Err(e) if is_declined(&e) => self.declined(REMOVING, &e),
            Err(e) => drop(self.fail(REMOVING, &e)),
        }
        if !doomed.is_empty() {
            self.shared.publish(&self.ledger.space);
        }
    }

    /// The file is gone. It stays known as doomed, and takes nothing, until its dead records are struck off.
    fn take_out(&mut self, number: u32) {
        self.shared.files.write().remove(&number);
        *self.ledger.space.file(number) = FileState { stage: Stage::Doomed, ..FileState::open() };
        self.ledger.space.long.remove(&number);
        let dead = self.doomed.remove(&number).unwrap_or_default();
        self.gone.push((number, dead));
    }

    /// Strikes off dead records of files that are gone, as many as is done at once.
    pub(crate) fn strike_off_some(&mut self) {
        let mut left = STRUCK_OFF;
        while left > 0
            && let Some((number, dead)) = self.gone.last_mut()
        {
            let (number, some) = (*number, dead.split_off(dead.len().saturating_sub(left)));
            left -= some.len();
            if dead.is_empty() {
                self.gone.pop();
                self.ledger.space.files.remove(&number);
            }
            if let Err(e) = self.ledger.bury(&some) {
                drop(self.shared.index_failed(&e));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proto::id::{PartKey, SlotId};
    use tempfile::TempDir;

    use crate::fault_tests::{self, MIB, ask, ask_put, fresh, key, put, recover, taken};
    use crate::owner::Owner;
    use crate::shared::queue::Ask;

    const PARTS: u64 = 40;

    fn large(n: u64) -> PartKey {
        key(n, MIB as u32)
    }

    /// A disk of which all parts are just deleted, which is answered; the bytes that it took before. What comes back is what
    /// holes give.
    async fn deleted() -> (TempDir, Owner, u64) {
        let dir = fresh();
        {
            let (_disk, store) = fault_tests::open(&dir);
            for n in 0..PARTS {
                put(&store, large(n)).await.unwrap();
            }
        }
        let mut owner = recover(&dir);
        owner.compact_from = Instant::now() + Duration::from_secs(3600);
        let before = taken(&dir);
        let deleted = (0..PARTS).map(|n| large(n).blob).collect();
        let asked = ask(&owner, Ask::Delete(deleted, None));
        owner.turn(owner.patience());
        assert_eq!(asked.await, Ok(()));
        (dir, owner, before)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_put_does_not_wait_for_all_that_was_deleted_before_it() {
        let (dir, mut owner, before) = deleted().await;
        assert!(owner.has_holes(), "the next request has its turn before all of it is given back");
        // Nobody asks for anything, and the rest follows.
        while owner.owes_something_back() {
            owner.turn(Duration::ZERO);
        }
        assert!(owner.ledger.holes.is_empty());
        let gone = before - taken(&dir);
        assert!(gone >= PARTS * (MIB - (64 << 10)), "{gone} bytes came back of {before}");
        owner.end();
        owner.ledger.index.close();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_was_deleted_before_a_disk_is_closed_is_given_back() {
        let (dir, mut owner, before) = deleted().await;
        assert!(owner.has_holes());
        owner.end();
        let gone = before - taken(&dir);
        assert!(gone >= PARTS * (MIB - (64 << 10)), "{gone} bytes came back of {before}");
        owner.ledger.index.close();
    }

    /// A file goes, and so many of its records are dead that they are struck off little by little. Whatever of that is not
    /// durable when the disk fails is made up for when it is opened: no delete stays remembered for nothing.
    #[tokio::test(flavor = "multi_thread")]
    async fn dead_records_of_a_file_that_is_gone_are_struck_off_through_crashes() {
        let dir = fresh();
        let mut owner = recover(&dir);
        let all: Vec<_> = (0..4200).map(|n| key(n, 100)).collect();
        for keys in all.chunks(400) {
            let puts: Vec<_> = keys.iter().map(|key| ask_put(&owner, *key)).collect();
            owner.turn(owner.patience());
            for put in puts {
                assert_eq!(put.await, Ok(()));
            }
        }
        for keys in all.chunks(1000) {
            let blobs: Vec<_> = keys.iter().map(|key| key.blob).collect();
            for asks in [Ask::Delete(blobs.clone(), None), Ask::Forget(blobs, None)] {
                let asked = ask(&owner, asks);
                owner.turn(owner.patience());
                assert_eq!(asked.await, Ok(()));
            }
        }
        while owner.doomed.is_empty() {
            owner.background(false);
        }
        assert_eq!(owner.checkpoint_now(), Ok(()));
        assert!(!dir.path().join("d/blocks/00000001").exists());
        assert!(!owner.gone.is_empty(), "they are struck off at once");
        // What is durable knows of some; then it fails.
        assert_eq!(owner.checkpoint_now(), Ok(()));
        owner.ledger.index.close();
        drop(owner);
        let owner = recover(&dir);
        assert!(!owner.ledger.space.files.contains_key(&1));
        assert!(owner.ledger.index.dead_in(|file| file == 1).unwrap().is_empty());
        for key in all.iter().take(4000) {
            let remembered = owner.ledger.index.tombstone(SlotId(0), key.blob).unwrap();
            assert_eq!(remembered, None, "{key}");
        }
    }
}
