//! Compaction: what is still needed of a mostly dead file is appended to the log again, and the
//! file goes.
//!
//! What is needed: live parts; deletes that are remembered; what the slots know of their groups.
//! The owner does it, a step at a time between batches, so nothing can be deleted while it is
//! moved. The file goes only after a checkpoint that no longer refers to it.

use std::time::Instant;

use proto::checksum::Checked;
use proto::id::{BlobId, SlotId};
use proto::limits::{DISK_BLOCK, MAX_BLOBS_PER_REQUEST};
use proto::part_store::PartError;

use crate::batch::Planned;
use crate::block_file::{Found, Scan};
use crate::commit::{Dead, Owner};
use crate::fill::Stage;
use crate::index::IndexResult;
use crate::record::{Place, What, decode_blobs, decode_slot, encode_blobs};

/// Bytes of records moved in one step.
const STEP: u64 = 1 << 20;
/// Records looked at in one step.
const STEP_RECORDS: usize = 256;

/// A file that is being emptied.
pub(crate) struct Compaction {
    file: u32,
    next: u32,
    dead: Dead,
}

impl Owner {
    /// One step, if a file is worth it.
    pub(crate) fn compact_in_background(&mut self) {
        if self.compaction.is_none() {
            let Some(file) = self.ledger.space.mostly_dead() else { return };
            self.begin_compaction(file);
        }
        if let Err(e) = self.compaction_step() {
            tracing::warn!(disk = %self.shared.disk, "compaction: {e}");
            self.compaction = None;
        }
        self.compacted_at = Instant::now();
    }

    fn begin_compaction(&mut self, file: u32) {
        self.compaction = Some(Compaction { file, next: 0, dead: Vec::new() });
    }

    /// Gains space at once: takes doomed files away, or empties one. `false`: nothing to gain.
    pub(crate) fn reclaim(&mut self) -> Result<bool, PartError> {
        let index_error = |e: redb::Error| PartError::Io(format!("index: {e}"));
        if !self.doomed.is_empty() {
            self.checkpoint_now().map_err(index_error)?;
            return Ok(true);
        }
        if self.compaction.is_none() {
            let spare =
                if self.ledger.space.may_open(false) { self.ledger.space.file_blocks() } else { 0 };
            let room = u64::from(self.free_blocks() + spare) * DISK_BLOCK as u64;
            let Some(file) = self.ledger.space.best_victim(room) else { return Ok(false) };
            self.begin_compaction(file);
        }
        while self.compaction.is_some() {
            self.compaction_step()?;
        }
        self.checkpoint_now().map_err(index_error)?;
        Ok(true)
    }

    fn compaction_step(&mut self) -> Result<(), PartError> {
        let Some(mut work) = self.compaction.take() else { return Ok(()) };
        let file = self.shared.files.read().get(&work.file).cloned();
        let file = file.ok_or_else(|| PartError::Io("the block file is missing".to_owned()))?;
        let tail = self.ledger.space.file(work.file).tail;
        let io_error = |e: std::io::Error| PartError::Io(e.to_string());
        let scan = Scan::new(&file, self.shared.disk, work.next, tail).map_err(io_error)?;
        let (mut moved, mut bytes, mut looked_at) = (Vec::new(), 0, 0);
        let mut done = true;
        for found in scan {
            let place = Place { file: work.file, block: found.block };
            if let What::Put(key) = found.entry.what {
                work.dead.push((found.entry.slot, key, place));
            }
            let records = self
                .still_needed(&found, place, || file.payload(&found))
                .map_err(|e| PartError::Io(format!("moving a record: {e}")))?;
            bytes += records.iter().map(|r| u64::from(r.blocks()) * DISK_BLOCK as u64).sum::<u64>();
            moved.extend(records);
            work.next = found.end();
            looked_at += 1;
            if bytes >= STEP || looked_at >= STEP_RECORDS {
                done = work.next >= tail;
                break;
            }
        }
        self.move_records(moved)?;
        if done {
            self.end_compaction(work);
        } else {
            self.compaction = Some(work);
        }
        Ok(())
    }

    /// Batches the records so that each lies in one file.
    fn move_records(&mut self, moved: Vec<Planned>) -> Result<(), PartError> {
        let mut batch = Vec::new();
        let mut blocks = 0;
        for record in moved {
            if blocks + record.blocks() > self.free_blocks() {
                self.commit_moved(std::mem::take(&mut batch))?;
                blocks = 0;
                let fits = self.free_blocks() >= record.blocks();
                let room = fits || self.ledger.space.may_open(false) && self.roll()?;
                if !room {
                    return Err(PartError::Full);
                }
            }
            blocks += record.blocks();
            batch.push(record);
        }
        self.commit_moved(batch)
    }

    fn commit_moved(&mut self, batch: Vec<Planned>) -> Result<(), PartError> {
        if batch.is_empty() || self.commit(batch) {
            return Ok(());
        }
        Err(PartError::Io("the records could not be moved".to_owned()))
    }

    /// What must be written again of a record before its file may go.
    fn still_needed(
        &self,
        found: &Found,
        place: Place,
        payload: impl Fn() -> std::io::Result<Checked>,
    ) -> Result<Vec<Planned>, redb::Error> {
        let slot = found.entry.slot;
        let index = &self.ledger.index;
        match found.entry.what {
            What::Put(key) if index.part(slot, key)? == Some(place) => {
                // As it is, even if it is rotten: then it stays known as rotten.
                Ok(vec![again(slot, found.entry.what, payload()?, Vec::new(), Some(place))])
            }
            What::Put(_) => Ok(Vec::new()),
            What::Delete => {
                let blobs = decode_blobs(payload()?.data());
                let (needed, forgotten) = self.remembered(slot, &blobs, Some(place))?;
                let mut records = batches(slot, What::Delete, &needed);
                records.extend(batches(slot, What::Forget, &forgotten));
                Ok(records)
            }
            What::Forget => {
                let blobs = decode_blobs(payload()?.data());
                let (_, forgotten) = self.remembered(slot, &blobs, None)?;
                Ok(batches(slot, What::Forget, &forgotten))
            }
            What::Slot => {
                let payload = payload()?;
                let known = self.shared.slots.read().get(&slot).copied();
                let current = known.is_some() && decode_slot(payload.data()) == known;
                Ok(if current {
                    vec![again(slot, What::Slot, payload, Vec::new(), None)]
                } else {
                    Vec::new()
                })
            }
        }
    }

    /// Of the blobs: those whose delete is remembered (by the record at `place`, if one is given),
    /// and those of them whose delete is forgotten.
    fn remembered(
        &self,
        slot: SlotId,
        blobs: &[BlobId],
        place: Option<Place>,
    ) -> IndexResult<(Vec<BlobId>, Vec<BlobId>)> {
        let (mut needed, mut forgotten) = (Vec::new(), Vec::new());
        for blob in blobs {
            if let Some(tomb) = self.ledger.index.tomb(slot, *blob)?
                && place.is_none_or(|place| tomb.place == place)
            {
                needed.push(*blob);
                if tomb.forgotten {
                    forgotten.push(*blob);
                }
            }
        }
        Ok((needed, forgotten))
    }

    /// The file may go, unless damage hid something in it that the index still refers to.
    fn end_compaction(&mut self, work: Compaction) {
        let state = self.ledger.space.file(work.file);
        if state.live > 0 || state.tombs > 0 {
            tracing::warn!(
                disk = %self.shared.disk, file = work.file,
                "damage in a block file keeps it from being reused"
            );
            state.stage = Stage::Kept;
            return;
        }
        state.stage = Stage::Doomed;
        self.doomed.insert(work.file, work.dead);
        self.shared.metrics.compacted();
        self.logged += 1;
    }
}

fn again(
    slot: SlotId,
    what: What,
    payload: Checked,
    blobs: Vec<BlobId>,
    replaced: Option<Place>,
) -> Planned {
    Planned { slot, what, payload, blobs, replaced, waiter: None }
}

fn batches(slot: SlotId, what: What, blobs: &[BlobId]) -> Vec<Planned> {
    blobs
        .chunks(MAX_BLOBS_PER_REQUEST)
        .map(|blobs| again(slot, what, encode_blobs(blobs), blobs.to_vec(), None))
        .collect()
}
