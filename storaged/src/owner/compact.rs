//! Compaction: what is still needed of a mostly dead file is appended to the log again, and the
//! file goes.
//!
//! What is needed: live parts; deletes that are remembered, many of them in one record; of parts that were taken
//! away that they were, as long as a rebuild could find them elsewhere; what the slots
//! know of their groups, which volumes are rebuilt there, and to whom they have promised volumes. The owner does it, a
//! slice at a time between batches, so nothing can be deleted while it is moved. The file goes only after a checkpoint that
//! no longer refers to it. A slice is bounded ([`SLICE`], [`SLICE_RECORDS`], [`SLICE_READ`]), and one record more; when it is
//! due is said by [`crate::owner::room`].
//!
//! A file is emptied only into room that has all it needs: half of it moved would take the room, and give none. One that
//! does not fit any more, as others have written meanwhile, is left for one that does.
//!
//! Damage does not stop it. Of a part that cannot be read whole the rest is moved under the checks it
//! has, so that it stays known as corrupt and can be put again. What the index has in the file and no
//! record was found for is written from the index: deletes, slots and promises as they are, parts as lost. A part of
//! which there is a dead record, and neither a live one nor a delete, was taken away.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use proto::checksum::Checked;
use proto::id::{BlobId, PartKey, SlotId};
use proto::limits::{DISK_BLOCK, MAX_BLOBS_PER_REQUEST};
use proto::part_store::PartError;

use crate::index::IndexResult;
use crate::index::fill::{Stage, gains};
use crate::log::block_file::{BlockFile, Found, Scan};
use crate::log::record::{
    Place, What, decode_blobs, decode_fence, decode_parts, decode_rebuilt, decode_slot,
    encode_blobs, encode_fence, encode_parts, encode_rebuilt, encode_slot, footprint,
};
use crate::owner::batch::Planned;
use crate::owner::{Compaction, Owner};

/// Bytes of records from which on a slice moves no more.
pub(crate) const SLICE: u64 = 1 << 20;
/// Records looked at in one slice.
const SLICE_RECORDS: usize = 256;
/// Bytes of the file looked through in one slice, from which on it is enough.
const SLICE_READ: u64 = 8 << 20;
/// Pause between two slices that nobody waits for.
const PACE: Duration = Duration::from_millis(10);
/// Pause after a slice that failed, and after a file of which nothing was gained.
const BACK_OFF: Duration = Duration::from_secs(5);

impl Owner {
    /// A slice, if room is wanted, or if it is time and a file is worth it.
    pub(crate) fn compact(&mut self) {
        let (now, wanted) = (Instant::now(), self.wants_room());
        let rests = now < self.gain_from;
        if !rests && !wanted && now < self.compact_from {
            return;
        }
        self.leave_what_does_not_fit();
        if rests || self.compaction.is_none() && !self.begin_another(wanted) {
            // There is nothing to pay with.
            self.debt = 0;
            return;
        }
        self.compact_from = now + PACE;
        let file = self.compaction.as_ref().map(|work| work.file);
        match self.slice() {
            Ok(moved) => self.debt = self.debt.saturating_sub(moved),
            // Records that count as nothing take room, too.
            Err(PartError::Full) => {
                self.compaction = None;
                self.unfit.extend(file);
            }
            Err(e) => {
                tracing::warn!(disk = %self.shared.disk, "compaction: {e}");
                self.compaction = None;
                self.gain_from = now + BACK_OFF;
            }
        }
    }

    /// Begins to empty a file, if there is one to gain from.
    fn begin_another(&mut self, wanted: bool) -> bool {
        let fits = |file: &u32| !self.unfit.contains(file);
        let free = self.free_blocks();
        let is_full = self.waiting.first().is_some_and(|first| first.ask.blocks().max(1) > free);
        let victim = match wanted {
            true => self.victim(is_full),
            false => self.ledger.space.mostly_dead(self.room_to_move()).filter(fits),
        };
        let Some(file) = victim else { return false };
        let open = self.current.as_ref().is_some_and(|current| current.number == file);
        // A failure has made the disk read-only, and is known by that.
        let begins = !open || self.roll().unwrap_or(false);
        if begins {
            self.begin_compaction(file);
        }
        begins
    }

    fn begin_compaction(&mut self, file: u32) {
        self.compaction = Some(Compaction {
            file,
            next: 0,
            moved: 0,
            dead: Vec::new(),
            blobs: BTreeMap::new(),
            dropped: BTreeMap::new(),
            damaged: false,
            hidden: None,
        });
    }

    /// What was begun while there was more room would take what is left, and gain nothing.
    fn leave_what_does_not_fit(&mut self) {
        let room = self.room_to_move();
        let fits = |work: &Compaction| self.ledger.space.fits(work.file, room);
        if self.compaction.as_ref().is_some_and(|work| !fits(work)) {
            self.compaction = None;
        }
    }

    /// Goes on with the file that is being emptied; bytes of records moved.
    fn slice(&mut self) -> Result<u64, PartError> {
        let Some(mut work) = self.compaction.take() else { return Ok(0) };
        if let Some(hidden) = work.hidden.take() {
            return self.mend(work, hidden);
        }
        let file = self.shared.files.read().get(&work.file).cloned();
        let Some(file) = file else {
            self.keep(work.file, &"it is missing");
            return Ok(0);
        };
        let tail = self.ledger.space.file(work.file).tail;
        let begin = work.next;
        let mut scan = match Scan::new(&file, self.shared.disk, begin, tail) {
            Ok(scan) => scan,
            Err(e) => {
                self.keep(work.file, &e);
                return Ok(0);
            }
        };
        let (mut moved, mut bytes, mut looked_at) = (Vec::new(), 0, 0);
        let mut done = true;
        for found in scan.by_ref() {
            let records = self
                .still_needed(&file, &found, &mut work)
                .map_err(|e| self.shared.index_failed(&e))?;
            bytes += bytes_of(&records);
            moved.extend(records);
            work.next = found.end();
            looked_at += 1;
            let read = u64::from(work.next - begin) * DISK_BLOCK as u64;
            if bytes >= SLICE || looked_at >= SLICE_RECORDS || read >= SLICE_READ {
                done = work.next >= tail;
                break;
            }
        }
        work.damaged |= scan.damaged;
        moved.extend(self.remembered(&mut work, done).map_err(|e| self.shared.index_failed(&e))?);
        let bytes = bytes_of(&moved);
        work.moved += bytes;
        self.move_records(moved)?;
        if done {
            let state = *self.ledger.space.file(work.file);
            if !work.damaged && state.live == 0 && state.tombstones == 0 {
                self.end_compaction(work);
                return Ok(bytes);
            }
            let hidden = self.ledger.index.parts_in(work.file);
            work.hidden = Some(hidden.map_err(|e| self.shared.index_failed(&e))?);
        }
        self.compaction = Some(work);
        Ok(bytes)
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

    /// What damage has hidden from the scan is written from the index; bytes of records.
    fn mend(
        &mut self,
        mut work: Compaction,
        mut hidden: Vec<(SlotId, PartKey, Place)>,
    ) -> Result<u64, PartError> {
        let index = self.ledger.index.clone();
        let (mut lost, mut bytes) = (Vec::new(), 0);
        while bytes < SLICE
            && let Some((slot, key, place)) = hidden.pop()
        {
            // It may have been put again since, or deleted.
            if index.part(slot, key).map_err(|e| self.shared.index_failed(&e))? == Some(place) {
                self.shared.note_damage(slot, key);
                let zeros = Checked::compute(Bytes::from(vec![0; key.blob.part_len() as usize]));
                lost.push(again(slot, What::Lost(key), zeros, Vec::new(), Some(place)));
                bytes += footprint(key.blob.part_len());
            }
        }
        self.move_records(lost)?;
        if hidden.is_empty() {
            self.mend_the_rest(&mut work)?;
            self.end_compaction(work);
        } else {
            work.hidden = Some(hidden);
            self.compaction = Some(work);
        }
        Ok(bytes)
    }

    /// The same of all that are no parts.
    fn mend_the_rest(&mut self, work: &mut Compaction) -> Result<(), PartError> {
        let index = self.ledger.index.clone();
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
        // Of what counts for nothing, and is needed all the same, no room is gained however often it is moved.
        if !gains(state.used().saturating_sub(work.moved), state.used()) {
            self.gain_from = Instant::now() + BACK_OFF;
        }
        state.stage = Stage::Doomed;
        self.doomed.insert(work.file, work.dead);
        // What was paid for is there after the next checkpoint.
        self.debt = 0;
        self.shared.metrics.compacted();
        self.logged += 1;
    }

    /// The file stays as it is, and the others are gone on with.
    fn keep(&mut self, file: u32, why: &dyn std::fmt::Display) {
        tracing::error!(disk = %self.shared.disk, "block file {file} cannot be emptied: {why}");
        self.ledger.space.file(file).stage = Stage::Kept;
    }
}

fn bytes_of(records: &[Planned]) -> u64 {
    records.iter().map(|record| u64::from(record.blocks()) * DISK_BLOCK as u64).sum()
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
    use crate::fault_tests::{self, content, fresh, get, key, put, recover};
    use crate::index::fill::FileState;

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
        let mut owner = recover(&dir);
        // So much is taken by others that nothing can be opened.
        let others = FileState { tail: 36 * 256, stage: Stage::Kept, ..FileState::open() };
        owner.ledger.space.files.insert(99, others);
        let room = owner.room_to_move();
        let fit = [1, 2].map(|file| owner.ledger.space.fits(file, room));
        assert_eq!(fit, [false, true], "{room} bytes: {:?}", owner.ledger.space.files);
        owner.begin_compaction(1);
        while owner.room(4000, false) == Ok(false) {
            assert!(owner.wants_room() || owner.frees_soon());
            owner.background(false);
        }
        assert_eq!(owner.room(4000, false), Ok(true));
        let exists = |file: u32| dir.path().join(format!("d/blocks/{file:08}")).exists();
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
