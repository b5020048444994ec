//! What a durable record changes: in the index and in the account of space. The same code runs
//! after a commit, in the replay after a crash, and in a rebuild from the block files alone.

use std::sync::Arc;

use proto::id::{BlobId, PartKey, SlotId};
use proto::limits::{CHECK_BLOCK, DISK_BLOCK};

use crate::index::fill::Space;
use crate::index::{Index, IndexResult, Tombstone};
use crate::log::record::{Place, footprint};

/// Most deletes that are put off being forgotten.
const MAX_UNSETTLED: usize = 64 << 10;

/// A dead payload whose space can be given back: whole blocks of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hole {
    /// Where the payload starts.
    pub(crate) place: Place,
    /// Its bytes, rounded up to blocks.
    pub(crate) len: u64,
}

/// Index and account, changed together.
pub(crate) struct Ledger {
    /// The index.
    pub(crate) index: Arc<Index>,
    /// The account.
    pub(crate) space: Space,
    /// Holes to punch once it is convenient.
    pub(crate) holes: Vec<Hole>,
    /// While no delete is forgotten: those that may have to be, afterwards.
    pub(crate) unsettled: Option<Vec<(SlotId, BlobId)>>,
}

impl Ledger {
    /// A part is at `place`; it was at `replaced` before.
    pub(crate) fn put(
        &mut self,
        slot: SlotId,
        key: PartKey,
        place: Place,
        replaced: Option<Place>,
    ) {
        let bytes = footprint(key.blob.part_len());
        self.space.file(place.file).live += bytes;
        match replaced {
            Some(old) => {
                let file = self.space.file(old.file);
                file.live = file.live.saturating_sub(bytes);
            }
            None => self.space.parts += 1,
        }
        self.index.set_part(slot, key, place, replaced);
    }

    /// A put met in the log. It was accepted, so no delete of its blob was remembered by then.
    pub(crate) fn replay_put(
        &mut self,
        slot: SlotId,
        key: PartKey,
        place: Place,
    ) -> IndexResult<()> {
        if let Some(tombstone) = self.index.tombstone(slot, key.blob)? {
            self.index.set_tombstone(slot, key.blob, None);
            self.uncount(tombstone);
        }
        let replaced = self.index.part(slot, key)?;
        self.put(slot, key, place, replaced);
        Ok(())
    }

    /// The record at `place` deletes the blobs.
    pub(crate) fn delete(
        &mut self,
        slot: SlotId,
        blobs: &[BlobId],
        place: Place,
    ) -> IndexResult<()> {
        for blob in blobs {
            for (part, at) in self.index.parts_of(slot, *blob)? {
                self.kill(slot, PartKey { blob: *blob, part }, at);
            }
            let old = self.index.tombstone(slot, *blob)?;
            if let Some(old) = old {
                self.uncount(old);
            }
            let forgotten = old.is_some_and(|old| old.forgotten);
            self.index.set_tombstone(slot, *blob, Some(Tombstone { place, forgotten }));
            self.space.file(place.file).tombstones += 1;
        }
        Ok(())
    }

    fn kill(&mut self, slot: SlotId, key: PartKey, at: Place) {
        let len = key.blob.part_len();
        let file = self.space.file(at.file);
        file.live = file.live.saturating_sub(footprint(len));
        self.space.parts = self.space.parts.saturating_sub(1);
        self.index.kill_part(slot, key, at);
        if len >= CHECK_BLOCK {
            let place = Place { file: at.file, block: at.block + 1 };
            let len = footprint(len) - DISK_BLOCK as u64;
            self.holes.push(Hole { place, len });
        }
    }

    /// The part is taken away; its blob is not deleted.
    pub(crate) fn drop_part(&mut self, slot: SlotId, key: PartKey) -> IndexResult<()> {
        if let Some(at) = self.index.part(slot, key)? {
            self.kill(slot, key, at);
        }
        Ok(())
    }

    /// The deletes of the blobs need not be remembered.
    pub(crate) fn forget(&mut self, slot: SlotId, blobs: &[BlobId]) -> IndexResult<()> {
        for blob in blobs {
            if let Some(tombstone) = self.index.tombstone(slot, *blob)? {
                self.index.set_tombstone(
                    slot,
                    *blob,
                    Some(Tombstone { forgotten: true, ..tombstone }),
                );
                self.settle(slot, *blob)?;
            }
        }
        Ok(())
    }

    /// Drops the memory of a delete that nothing needs any longer. What lies in a file that nobody has
    /// read may need it.
    fn settle(&mut self, slot: SlotId, blob: BlobId) -> IndexResult<()> {
        if !self.space.unread.is_empty() {
            return Ok(());
        }
        if let Some(later) = &mut self.unsettled {
            // What is forgotten of it is a delete that is remembered for ever.
            if later.len() < MAX_UNSETTLED {
                later.push((slot, blob));
            }
            return Ok(());
        }
        if let Some(tombstone) = self.index.drop_tombstone_if_free(slot, blob)? {
            self.uncount(tombstone);
        }
        Ok(())
    }

    /// From now on no delete is forgotten.
    pub(crate) fn hold_tombstones(&mut self) {
        self.unsettled.get_or_insert_default();
    }

    /// They are again.
    pub(crate) fn release_tombstones(&mut self) -> IndexResult<()> {
        for (slot, blob) in self.unsettled.take().unwrap_or_default() {
            self.settle(slot, blob)?;
        }
        Ok(())
    }

    fn uncount(&mut self, tombstone: Tombstone) {
        let file = self.space.file(tombstone.place.file);
        file.tombstones = file.tombstones.saturating_sub(1);
    }

    /// The dead records are no longer on disk: their file is gone.
    pub(crate) fn bury(&mut self, dead: &[(SlotId, PartKey, Place)]) -> IndexResult<()> {
        for (slot, key, place) in dead {
            self.index.bury(*slot, *key, *place);
        }
        for (slot, key, _) in dead {
            self.settle(*slot, key.blob)?;
        }
        Ok(())
    }
}
