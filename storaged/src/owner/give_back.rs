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

use crate::index::ledger::Hole;
use crate::io::direct::{is_declined, is_unsupported};
use crate::log::block_file::{BlockFile, sync_block_files};
use crate::owner::{NO_ROOM, Owner};

const BLOCK: u64 = DISK_BLOCK as u64;
/// Most holes that are remembered; compaction gains what is forgotten.
const MAX_HOLES: usize = 64 << 10;

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

    /// Gives the space of large dead payloads back.
    pub(crate) fn punch(&mut self) {
        if self.declined.no_holes || self.shared.read_only().is_some() {
            self.ledger.holes.clear();
        }
        if self.ledger.holes.len() > MAX_HOLES {
            self.ledger.holes.truncate(MAX_HOLES);
        }
        while !self.declined.rests()
            && let Some(hole) = self.ledger.holes.pop()
        {
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
