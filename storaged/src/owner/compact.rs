//! Compaction: what is still needed of a mostly dead file is appended to the log again, and the
//! file goes.
//!
//! What is needed: live parts; deletes that are remembered, many of them in one record; of parts that were taken
//! away that they were, as long as a rebuild could find them elsewhere; what the slots
//! know of their groups, which volumes are rebuilt there, and to whom they have promised volumes. The owner does it, a step at a time between batches, so nothing can be
//! deleted while it is moved. The file goes only after a checkpoint that no longer refers to it.
//!
//! A file is emptied only into room that has all it needs: half of it moved would take the room, and give none. One that
//! does not fit any more, as others have written meanwhile, is left for one that does.
//!
//! Damage does not stop it. Of a part that cannot be read whole the rest is moved under the checks it
//! has, so that it stays known as corrupt and can be put again. What the index has in the file and no
//! record was found for is written from the index: deletes, slots and promises as they are, parts as lost. A part of
//! which there is a dead record, and neither a live one nor a delete, was taken away.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;
use proto::checksum::Checked;
use proto::id::{BlobId, PartKey, SlotId};
use proto::limits::{DISK_BLOCK, MAX_BLOBS_PER_REQUEST};
use proto::part_store::PartError;

use crate::index::IndexResult;
use crate::index::fill::Stage;
use crate::log::block_file::{BlockFile, Found, Scan};
use crate::log::record::{
    Place, What, decode_blobs, decode_fence, decode_parts, decode_rebuilt, decode_slot,
    encode_blobs, encode_fence, encode_parts, encode_rebuilt, encode_slot,
};
use crate::owner::batch::Planned;
use crate::owner::{Compaction, Owner};

/// Bytes of records moved in one step.
const STEP: u64 = 1 << 20;
/// Records looked at in one step.
const STEP_RECORDS: usize = 256;
/// Pause between two steps.
const PACE: Duration = Duration::from_millis(10);
/// Pause after a step that failed.
const BACK_OFF: Duration = Duration::from_secs(5);
/// So many files at most are tried that turn out not to fit, before it is said that there is nothing to gain.
const TRIES: usize = 8;

impl Owner {
    /// One step, if a file is worth it.
    pub(crate) fn compact_in_background(&mut self) {
        self.leave_what_does_not_fit();
        if self.compaction.is_none() {
            let Some(file) = self.ledger.space.mostly_dead(self.room_to_move()) else { return };
            self.begin_compaction(file);
        }
        let mut pause = PACE;
        if let Err(e) = self.compaction_step() {
            tracing::warn!(disk = %self.shared.disk, "compaction: {e}");
            self.compaction = None;
            pause = BACK_OFF;
        }
        self.compact_from = Instant::now() + pause;
    }

    fn begin_compaction(&mut self, file: u32) {
        self.compaction = Some(Compaction {
            file,
            next: 0,
            dead: Vec::new(),
            blobs: BTreeMap::new(),
            dropped: BTreeMap::new(),
            damaged: false,
        });
    }

    /// Gains space at once: takes doomed files away, or empties one. `false`: nothing to gain.
    pub(crate) fn reclaim(&mut self) -> Result<bool, PartError> {
        if !self.doomed.is_empty() {
            let before = self.doomed.len();
            self.checkpoint_now()?;
            return Ok(self.doomed.len() < before);
        }
        let mut too_large = BTreeSet::new();
        while too_large.len() < TRIES {
            self.leave_what_does_not_fit();
            if self.compaction.is_none() {
                let victim = self.ledger.space.best_victim(self.room_to_move(), &too_large);
                let Some(file) = victim else { return Ok(false) };
                self.begin_compaction(file);
            }
            let victim = self.compaction.as_ref().map(|work| work.file);
            match self.compact_to_the_end() {
                // Records that count as nothing take room, too.
                Err(PartError::Full) => too_large.extend(victim),
                Err(e) => return Err(e),
                Ok(()) => {
                    self.checkpoint_now()?;
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    fn compact_to_the_end(&mut self) -> Result<(), PartError> {
        while self.compaction.is_some() {
            self.compaction_step()?;
        }
        Ok(())
    }

    /// Bytes of records that can be moved before a file has gone.
    fn room_to_move(&self) -> u64 {
        let space = &self.ledger.space;
        let spare = if space.may_open(false) { space.file_blocks() } else { 0 };
        u64::from(self.free_blocks() + spare) * DISK_BLOCK as u64
    }

    /// What was begun while there was more room would take what is left, and gain nothing.
    fn leave_what_does_not_fit(&mut self) {
        let room = self.room_to_move();
        let fits = |work: &Compaction| self.ledger.space.fits(work.file, room);
        if self.compaction.as_ref().is_some_and(|work| !fits(work)) {
            self.compaction = None;
        }
    }

    fn compaction_step(&mut self) -> Result<(), PartError> {
        let Some(mut work) = self.compaction.take() else { return Ok(()) };
        let file = self.shared.files.read().get(&work.file).cloned();
        let Some(file) = file else {
            self.keep(work.file, &"it is missing");
            return Ok(());
        };
        let tail = self.ledger.space.file(work.file).tail;
        let mut scan = match Scan::new(&file, self.shared.disk, work.next, tail) {
            Ok(scan) => scan,
            Err(e) => {
                self.keep(work.file, &e);
                return Ok(());
            }
        };
        let (mut moved, mut bytes, mut looked_at) = (Vec::new(), 0, 0);
        let mut done = true;
        for found in scan.by_ref() {
            let records = self
                .still_needed(&file, &found, &mut work)
                .map_err(|e| self.shared.index_failed(&e))?;
            bytes += records.iter().map(|r| u64::from(r.blocks()) * DISK_BLOCK as u64).sum::<u64>();
            moved.extend(records);
            work.next = found.end();
            looked_at += 1;
            if bytes >= STEP || looked_at >= STEP_RECORDS {
                done = work.next >= tail;
                break;
            }
        }
        work.damaged |= scan.damaged;
        moved.extend(self.remembered(&mut work, done).map_err(|e| self.shared.index_failed(&e))?);
        self.move_records(moved)?;
        if done {
            self.mend(&mut work)?;
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
        if batch.is_empty() { Ok(()) } else { self.commit(batch) }
    }

    /// What must be written again of a record before its file may go. What was deleted or dropped is only noted:
    /// [`Owner::remembered`] writes them.
    fn still_needed(
        &self,
        file: &BlockFile,
        found: &Found,
        work: &mut Compaction,
    ) -> IndexResult<Vec<Planned>> {
        let (slot, what) = (found.entry.slot, found.entry.what);
        let place = Place { file: work.file, block: found.block };
        if let What::Put(key) | What::Lost(key) = what {
            work.dead.push((slot, key, place));
            if self.ledger.index.part(slot, key)? != Some(place) {
                return Ok(Vec::new());
            }
            let payload = file.payload(found).unwrap_or_else(|_| file.salvage(found));
            if what == What::Put(key) && payload.verify().is_err() {
                self.shared.note_damage(slot, key);
            }
            return Ok(vec![again(slot, what, payload, Vec::new(), Some(place))]);
        }
        let Some(payload) = file.payload(found).ok().filter(|p| p.verify().is_ok()) else {
            work.damaged = true;
            return Ok(Vec::new());
        };
        match what {
            What::Delete | What::Forget => {
                for blob in decode_blobs(payload.data()) {
                    if self.ledger.index.tombstone(slot, blob)?.is_some() {
                        work.blobs.entry(slot).or_default().insert(blob);
                    }
                }
            }
            What::Drop => {
                for key in decode_parts(payload.data()) {
                    if self.must_stay_dropped(slot, key, work.file)? {
                        work.dropped.entry(slot).or_default().insert(key);
                    }
                }
            }
            What::Rebuilt => {
                let volume = decode_rebuilt(payload.data());
                let noted = |volume| self.shared.rebuilt.read().contains(&(slot, volume));
                if volume.is_some_and(noted) {
                    return Ok(vec![again(slot, What::Rebuilt, payload, Vec::new(), None)]);
                }
            }
            What::Slot => {
                let known = self.shared.slots.read().get(&slot).copied();
                if known.is_some() && decode_slot(payload.data()) == known {
                    return Ok(vec![again(slot, What::Slot, payload, Vec::new(), None)]);
                }
            }
            What::Fence => {
                let fence = decode_fence(payload.data());
                let is_kept =
                    |(volume, promise)| self.shared.promise(slot, volume) == Some(promise);
                if fence.is_some_and(is_kept) {
                    return Ok(vec![again(slot, What::Fence, payload, Vec::new(), None)]);
                }
            }
            What::Put(_) | What::Lost(_) => unreachable!("taken above"),
        }
        Ok(Vec::new())
    }

    /// Would a rebuild from the block files without this one bring the part back, which is not here?
    fn must_stay_dropped(&self, slot: SlotId, key: PartKey, file: u32) -> IndexResult<bool> {
        let index = &self.ledger.index;
        if index.part(slot, key)?.is_some() || index.tombstone(slot, key.blob)?.is_some() {
            return Ok(false);
        }
        // What lies in a file that nobody has read may be a record of it.
        Ok(!self.ledger.space.unread.is_empty() || index.has_dead_elsewhere(slot, key, file)?)
    }

    /// Deletes that are remembered by a record of the file, and which of those noted are forgotten: as
    /// full records as possible, or (`all`) whatever there is.
    fn remembered(&self, work: &mut Compaction, all: bool) -> IndexResult<Vec<Planned>> {
        let mut records = Vec::new();
        for (slot, blobs) in &mut work.blobs {
            if blobs.len() < MAX_BLOBS_PER_REQUEST && !all {
                continue;
            }
            let (mut needed, mut forgotten) = (Vec::new(), Vec::new());
            for blob in std::mem::take(blobs) {
                let Some(tombstone) = self.ledger.index.tombstone(*slot, blob)? else { continue };
                if tombstone.place.file == work.file {
                    needed.push(blob);
                }
                if tombstone.forgotten {
                    forgotten.push(blob);
                }
            }
            records.extend(batches(*slot, What::Delete, &needed));
            records.extend(batches(*slot, What::Forget, &forgotten));
        }
        for (slot, parts) in &mut work.dropped {
            if parts.len() < MAX_BLOBS_PER_REQUEST && !all {
                continue;
            }
            let mut needed = Vec::new();
            for key in std::mem::take(parts) {
                // It may have been put again since it was noted.
                if self.must_stay_dropped(*slot, key, work.file)? {
                    needed.push(key);
                }
            }
            records.extend(
                needed
                    .chunks(MAX_BLOBS_PER_REQUEST)
                    .map(|parts| again(*slot, What::Drop, encode_parts(parts), Vec::new(), None)),
            );
        }
        Ok(records)
    }

    /// What damage has hidden from the scan is written from the index.
    fn mend(&mut self, work: &mut Compaction) -> Result<(), PartError> {
        let state = *self.ledger.space.file(work.file);
        if !work.damaged && state.live == 0 && state.tombstones == 0 {
            return Ok(());
        }
        let index = self.ledger.index.clone();
        for (slot, key, place) in
            index.parts_in(work.file).map_err(|e| self.shared.index_failed(&e))?
        {
            self.shared.note_damage(slot, key);
            let zeros = Checked::compute(Bytes::from(vec![0; key.blob.part_len() as usize]));
            self.move_records(vec![again(slot, What::Lost(key), zeros, Vec::new(), Some(place))])?;
        }
        for (slot, blob) in
            index.tombstones_in(work.file).map_err(|e| self.shared.index_failed(&e))?
        {
            work.blobs.entry(slot).or_default().insert(blob);
        }
        let elsewhere = index.dead_in(|file| file != work.file);
        for (slot, key, _) in elsewhere.map_err(|e| self.shared.index_failed(&e))? {
            work.dropped.entry(slot).or_default().insert(key);
        }
        let mut records = self.remembered(work, true).map_err(|e| self.shared.index_failed(&e))?;
        for (slot, member) in &*self.shared.slots.read() {
            records.push(again(*slot, What::Slot, encode_slot(*member), Vec::new(), None));
        }
        for (slot, volume) in &*self.shared.rebuilt.read() {
            records.push(again(*slot, What::Rebuilt, encode_rebuilt(*volume), Vec::new(), None));
        }
        for ((slot, volume), promise) in &*self.shared.fences.read() {
            let payload = encode_fence(*volume, *promise);
            records.push(again(*slot, What::Fence, payload, Vec::new(), None));
        }
        self.move_records(records)?;
        work.dead =
            index.dead_in(|file| file == work.file).map_err(|e| self.shared.index_failed(&e))?;
        Ok(())
    }

    /// The file may go, unless the index still refers to something in it.
    fn end_compaction(&mut self, work: Compaction) {
        let state = self.ledger.space.file(work.file);
        if state.live > 0 || state.tombstones > 0 {
            self.keep(work.file, &"its account does not add up");
            return;
        }
        state.stage = Stage::Doomed;
        self.doomed.insert(work.file, work.dead);
        self.shared.metrics.compacted();
        self.logged += 1;
    }

    /// The file stays as it is, and the others are gone on with.
    fn keep(&mut self, file: u32, why: &dyn std::fmt::Display) {
        tracing::error!(disk = %self.shared.disk, "block file {file} cannot be emptied: {why}");
        self.ledger.space.file(file).stage = Stage::Kept;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DiskOptions;
    use crate::disk::open;
    use crate::fault_tests::{self, content, fresh, get, key, put};
    use crate::format::superblock::Superblock;
    use crate::index::fill::FileState;
    use crate::io::system::disk_dir;
    use crate::log::block_file::Access;
    use crate::shared::hands::own_threads;

    /// Others have taken the room of a file that was to be emptied; there is room for what another one needs.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_file_that_does_not_fit_any_more_gives_way_to_one_that_does() {
        let dir = fresh();
        let small = |n| key(n, 60_000);
        let gone = |n: &u64| (0..20).contains(n) || (260..380).contains(n);
        {
            let (_disk, store) = fault_tests::open(&dir);
            // Two files and the third of one. Little of the first is dead, and not quite half of the second.
            for n in 0..606 {
                put(&store, small(n)).await.unwrap();
            }
            let blobs: Vec<BlobId> = (0..606).filter(gone).map(|n| small(n).blob).collect();
            store.delete(&blobs, None).await.unwrap();
        }
        let path = dir.path().join("d");
        let superblock = Superblock::read(&path).unwrap();
        let options = DiskOptions::default();
        let (home, hands) = (disk_dir(&path), own_threads());
        let owner = open::recover(&home, &superblock, &options, hands, Access::Write);
        let mut owner = owner.unwrap();
        // So much is taken by others that nothing can be opened.
        let others = FileState { tail: 36 * 256, stage: Stage::Kept, ..FileState::open() };
        owner.ledger.space.files.insert(99, others);
        let room = owner.room_to_move();
        let fit = [1, 2].map(|file| owner.ledger.space.fits(file, room));
        assert_eq!(fit, [false, true], "{room} bytes: {:?}", owner.ledger.space.files);
        owner.begin_compaction(1);
        assert_eq!(owner.ensure_room(4000, false), Ok(()));
        let exists = |file: u32| path.join(format!("blocks/{file:08}")).exists();
        assert_eq!([1, 2].map(exists), [true, false]);
        owner.ledger.space.files.remove(&99);
        owner.ledger.index.close();
        drop(owner);
        let (_disk, store) = fault_tests::open(&dir);
        for n in (0..606).filter(|n| !gone(n)) {
            assert_eq!(get(&store, small(n)).await.unwrap(), content(small(n)), "{n}");
        }
    }
}
