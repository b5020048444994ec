//! Giving space back to the filesystem: holes for dead payloads, files cut off behind their last record,
//! files that are not needed any more.
//!
//! Of many holes a few are made at a time, so that whoever waits for a put does not wait for all that others have
//! deleted. What is left of them at the end stays in use until its file is compacted.
//!
//! None of it is owed to anybody: what the filesystem declines, for want of room for its own notes or
//! because it never can, stays in use, is counted so, is said once, and is tried again. Any other error
//! is the disk's, as everywhere.

use std::io;
use std::time::Instant;

use proto::limits::DISK_BLOCK;
use proto::part_store::PartError;

use crate::index::ledger::Hole;
use crate::io::direct::{is_declined, is_unsupported};
use crate::log::block_file::{BlockFile, sync_block_files};
use crate::owner::{NO_ROOM, Owner};

const BLOCK: u64 = DISK_BLOCK as u64;
/// Most holes that are remembered; compaction gains what is forgotten.
const MAX_HOLES: usize = 64 << 10;
/// Holes that are made in a row while others may wait: each takes about as long as a small write.
const HOLES_AT_ONCE: usize = 8;
/// Holes that are still made when a disk is closed, which is waited for.
const LAST_HOLES: usize = 4096;

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
        self.punch_some();
        for number in self.ledger.space.long.clone() {
            let file = self.shared.files.read().get(&number).cloned();
            match file {
                // A failure has made the disk read-only, and is known by that.
                Some(file) => drop(self.cut_off(&file)),
                None => drop(self.ledger.space.long.remove(&number)),
            }
        }
    }

    /// Gives the space of large dead payloads back: a little of it, where there is much.
    pub(crate) fn punch_some(&mut self) {
        self.punch_up_to(HOLES_AT_ONCE);
    }

    /// What is left at the end, within bounds.
    pub(crate) fn punch_last(&mut self) {
        self.punch_up_to(LAST_HOLES);
    }

    /// All of it, which may last.
    pub(crate) fn punch(&mut self) {
        self.punch_up_to(MAX_HOLES);
    }

    /// Is there space left to be given back so, and nothing in the way of that?
    pub(crate) fn has_holes(&self) -> bool {
        let may = !self.declined.rests() && self.shared.read_only().is_none();
        may && !self.ledger.holes.is_empty()
    }

    fn punch_up_to(&mut self, most: usize) {
        if self.declined.no_holes || self.shared.read_only().is_some() {
            self.ledger.holes.clear();
        }
        self.ledger.holes.truncate(MAX_HOLES);
        for _ in 0..most {
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
            self.strike_off(number);
        }
        match result {
            Ok(()) => drop(self.declined.said.remove("removing a block file")),
            // It stays doomed: the next checkpoint tries again.
            Err(e) if is_declined(&e) => self.declined("removing a block file", &e),
            Err(e) => drop(self.fail("removing a block file", &e)),
        }
        if !doomed.is_empty() {
            self.shared.publish(&self.ledger.space);
        }
    }

    fn strike_off(&mut self, number: u32) {
        self.shared.files.write().remove(&number);
        self.ledger.space.files.remove(&number);
        self.ledger.space.long.remove(&number);
        let dead = self.doomed.remove(&number).unwrap_or_default();
        if let Err(e) = self.ledger.bury(&dead) {
            drop(self.shared.index_failed(&e));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proto::id::{Generation, GroupId, SlotId};

    use super::*;
    use crate::DiskOptions;
    use crate::disk::open;
    use crate::fault_tests::{self, MIB, fresh, key, put, taken};
    use crate::format::superblock::Superblock;
    use crate::io::system::disk_dir;
    use crate::log::block_file::Access;
    use crate::shared::hands::own_threads;
    use crate::shared::queue::{Ask, To};

    #[tokio::test(flavor = "multi_thread")]
    async fn a_put_does_not_wait_for_all_that_was_deleted_before_it() {
        const PARTS: u64 = 40;
        let large = |n| key(n, MIB as u32);
        let dir = fresh();
        {
            let (_disk, store) = fault_tests::open(&dir);
            for n in 0..PARTS {
                put(&store, large(n)).await.unwrap();
            }
        }
        let path = dir.path().join("d");
        let superblock = Superblock::read(&path).unwrap();
        let options = DiskOptions::default();
        let home = disk_dir(&path);
        let owner = open::recover(&home, &superblock, &options, own_threads(), Access::Write);
        let mut owner = owner.unwrap();
        let before = taken(&dir);
        let shared = owner.shared.clone();
        let asked = tokio::spawn(async move {
            let to = To { slot: SlotId(0), group: GroupId(0), generation: Generation(1) };
            let blobs = (0..PARTS).map(|n| large(n).blob).collect();
            shared.queue.ask(to, Ask::Delete(blobs, None)).await
        });
        owner.turn(Duration::from_secs(30));
        asked.await.unwrap().unwrap();
        assert!(owner.has_holes(), "the next request has its turn before all of it is given back");
        // Nobody asks for anything: the rest follows without a pause.
        while owner.patience().is_zero() {
            owner.turn(Duration::ZERO);
        }
        assert!(owner.ledger.holes.is_empty());
        let gone = before - taken(&dir);
        assert!(gone >= PARTS * (MIB - (64 << 10)), "{gone} bytes came back of {before}");
        owner.end();
        owner.ledger.index.close();
    }
}
