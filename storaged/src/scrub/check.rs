//! What a scrub checks: a record of the log against the index, and an entry of the index against the log.
//!
//! Everything goes on meanwhile, so that what looks wrong is looked at again: a part that has moved, was put
//! again or deleted is not wrong.

use proto::id::{PartKey, SlotId};
use proto::part_store::PartError;

use crate::log::block_file::{BlockFile, Found, Scan};
use crate::log::record::{Place, What, parse};
use crate::shared::Shared;

/// Most attempts to look at a part that keeps moving.
const ATTEMPTS: usize = 8;

/// What a record turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// What the index says lies here, and it is good.
    Good,
    /// It is damaged, and noted so.
    Damaged,
    /// Nothing needs it any longer, or it is no part.
    Idle,
    /// A part that the index should know of, and does not.
    Unknown(SlotId, PartKey),
}

/// What lies at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lies {
    /// The part that was asked for.
    It,
    /// The note that damage has taken it.
    Lost,
    /// A good record of something else.
    Another,
    /// Nothing that makes sense, or that can be read.
    Nothing,
}

impl Shared {
    /// Checks a record that the log has.
    pub(super) fn check_record(
        &self,
        file: &BlockFile,
        scan: &Scan<'_>,
        found: &Found,
    ) -> Result<Verdict, PartError> {
        let place = Place { file: file.number, block: found.block };
        let whole = || scan.payload(found).is_ok_and(|payload| payload.verify().is_ok());
        let (What::Put(key) | What::Lost(key)) = found.entry.what else {
            if !whole() {
                tracing::warn!(
                    disk = %self.disk, file = place.file, block = place.block,
                    "what a record of deletes or promises says is damaged; the index has it still"
                );
            }
            return Ok(Verdict::Idle);
        };
        let slot = found.entry.slot;
        let failed = |e| self.index_failed(&e);
        if self.index.part(slot, key).map_err(failed)? != Some(place) {
            return self
                .is_unknown(slot, key, place)
                .map_err(failed)
                .map(|unknown| if unknown { Verdict::Unknown(slot, key) } else { Verdict::Idle });
        }
        if found.entry.what == What::Put(key) && whole() {
            return Ok(Verdict::Good);
        }
        Ok(if self.is_whole(slot, key)? { Verdict::Good } else { Verdict::Damaged })
    }

    /// Should the index know that the part lies here? What was replaced or deleted is remembered as dead for as
    /// long as it is in the log.
    fn is_unknown(
        &self,
        slot: SlotId,
        key: PartKey,
        place: Place,
    ) -> crate::index::IndexResult<bool> {
        if self.index.is_dead(slot, key, place)? || self.index.tombstone(slot, key.blob)?.is_some()
        {
            return Ok(false);
        }
        // It may have gone with its file since.
        Ok(self.files.read().contains_key(&place.file)
            && self.index.part(slot, key)? != Some(place)
            && !self.index.is_dead(slot, key, place)?)
    }

    /// Reads a part, its header too, wherever it is by then. What is damaged is noted.
    pub(super) fn is_whole(&self, slot: SlotId, key: PartKey) -> Result<bool, PartError> {
        let mut tried = None;
        for _ in 0..ATTEMPTS {
            let place = self.index.part(slot, key).map_err(|e| self.index_failed(&e))?;
            let Some(place) = place else { return Ok(true) };
            if tried == Some(place) {
                self.note_damage(slot, key);
                return Ok(false);
            }
            self.tables.lock().pop(&place);
            if self.read_at(place, slot, key, 0..key.blob.part_len()).is_ok() {
                return Ok(true);
            }
            tried = Some(place);
        }
        Ok(true)
    }

    /// Does the part lie where the index says? `None`: it does, or is not there any more.
    pub(super) fn check_entry(
        &self,
        slot: SlotId,
        key: PartKey,
        mut place: Place,
    ) -> Result<Option<Lies>, PartError> {
        for _ in 0..ATTEMPTS {
            let lies = self.lies(slot, key, place);
            if matches!(lies, Lies::It | Lies::Lost) {
                return Ok(None);
            }
            match self.index.part(slot, key).map_err(|e| self.index_failed(&e))? {
                None => return Ok(None),
                Some(now) if now == place => {
                    // What is remembered of the part was read before it was damaged.
                    self.tables.lock().pop(&place);
                    self.note_damage(slot, key);
                    return Ok(Some(lies));
                }
                Some(now) => place = now,
            }
        }
        Ok(None)
    }

    /// What lies at a place, in which the part should be.
    pub(super) fn lies(&self, slot: SlotId, key: PartKey, place: Place) -> Lies {
        let file = self.files.read().get(&place.file).cloned();
        let block = file.and_then(|file| file.read(place.block, 1).ok());
        let entry = block.and_then(|block| parse(&block, self.disk, place).ok());
        match entry {
            None => Lies::Nothing,
            Some(entry) if entry.slot == slot && entry.what == What::Put(key) => Lies::It,
            Some(entry) if entry.slot == slot && entry.what == What::Lost(key) => Lies::Lost,
            Some(_) => Lies::Another,
        }
    }
}
