//! The index: what lies where. A cache of the logs, and ordered, so that it can be listed.
//!
//! Three layers, each over the one below: `active` takes what was just made durable; `frozen` is
//! what a checkpoint is writing; redb holds the rest. Only the disk's owner changes layers, so it
//! sees its own changes at once; readers look from the top down and so never miss a record that
//! moves down meanwhile.
//!
//! ```text
//! table  key (big endian)                        value
//! parts  slot 4 | blob 31 | part 1               place: file 4 | block 4
//! tombs  slot 4 | blob 31                        place of the delete record, forgotten 0 or 1
//! dead   slot 4 | blob 31 | part 1 | place 8     ()   dead records that are still on disk
//! slots  slot                                    group, generation, rebuilding 0 or 1
//! fences slot, volume                            epoch, owner
//! rebuilt slot, volume                           ()   rebuilt while the slot is rebuilding
//! files  number                                  tail, live, punched, tombstones, stage
//! unread number                                  ()   files that could not be read when they should have been
//! meta   name                                    number
//! ```
//!
//! Invariants:
//! * A place in the index is of a durable record.
//! * A delete is forgotten only when no dead record of its blob is left on disk: a rebuild from the
//!   block files alone can never bring a deleted part back.
//! * A checkpoint that finds no room changes nothing: its layer is taken back, and written later.
//!
//! [`stored`] is what calls redb, [`backend`] what redb writes to; [`scan`] walks over many parts.

pub(crate) mod fill;
pub(crate) mod ledger;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;
use proto::id::{BlobId, DiskId, PartKey, SlotId, VolumeId};
use proto::part_store::Issuer;
use redb::ReadableTable;

use crate::index::fill::Space;
use crate::io::calls::Calls;
use crate::io::medium::{DiskDir, Medium};
use crate::log::record::{Membership, Place};

mod backend;
mod key;
mod layer;
mod scan;
mod stored;

pub(crate) use backend::Home;
use key::{
    BlobBytes, DeadBytes, blob_bytes, dead_bytes, key_of, part_bytes, place_of_dead, prefixed,
};
use layer::Layer;
pub(crate) use layer::{Checkpoint, Fences, IndexResult, Mark, Tombstone};
pub(crate) use stored::{Saved, is_echo, is_no_room};
use stored::{Store, Stored, guarded};

#[derive(Default)]
struct Layers {
    active: Layer,
    frozen: Option<Arc<Layer>>,
    /// Holds at least what neither layer above holds.
    stored: Arc<Stored>,
}

impl Layers {
    /// From the top down.
    fn iter(&self) -> impl DoubleEndedIterator<Item = &Layer> {
        std::iter::once(&self.active).chain(self.frozen.as_deref())
    }
}

/// The index of one disk.
pub(crate) struct Index {
    store: Store,
    pub(crate) calls: Arc<Calls>,
    layers: RwLock<Layers>,
}

impl Index {
    /// Opens it, or makes it.
    pub(crate) fn open(medium: Arc<dyn Medium>, home: Home, cache: usize) -> IndexResult<Self> {
        let calls = Arc::new(Calls::default());
        let (store, stored) = Store::open(medium, home, cache, calls.clone())?;
        let layers = RwLock::new(Layers { stored: Arc::new(stored), ..Layers::default() });
        Ok(Self { store, calls, layers })
    }

    /// Closes the file, which writes to it. What asks for it afterwards fails.
    pub(crate) fn close(&self) {
        self.store.close();
    }

    /// Can it be gone on with?
    pub(crate) fn is_open(&self) -> bool {
        self.store.is_open()
    }

    /// What the last checkpoint says; `None` if there is none or it is not this disk's.
    pub(crate) fn saved(&self, disk: DiskId) -> IndexResult<Option<Saved>> {
        self.store.saved(disk)
    }

    /// Looks into the tables that were those of redb a moment ago; again, if they have been opened anew
    /// meanwhile.
    fn look<T>(
        &self,
        mut stored: Arc<Stored>,
        look: impl Fn(&Stored) -> IndexResult<T>,
    ) -> IndexResult<T> {
        loop {
            match guarded(|| look(&stored)) {
                Err(e) => stored = self.opened_anew(&stored, e)?,
                done => return done,
            }
        }
    }

    /// The tables to look into after those failed.
    ///
    /// # Errors
    /// The failure, if there are no others.
    fn opened_anew(&self, stored: &Arc<Stored>, failed: redb::Error) -> IndexResult<Arc<Stored>> {
        if !is_echo(&failed) {
            return Err(failed);
        }
        // What failed before failed whoever is writing, and may be opening them anew.
        self.store.wait();
        let now = self.layers.read().stored.clone();
        if Arc::ptr_eq(&now, stored) { Err(failed) } else { Ok(now) }
    }

    /// Where the part lies.
    pub(crate) fn part(&self, slot: SlotId, key: PartKey) -> IndexResult<Option<Place>> {
        let bytes = part_bytes(slot, key);
        let layers = self.layers.read();
        for layer in layers.iter() {
            if let Some(place) = layer.parts.get(&bytes) {
                return Ok(*place);
            }
        }
        let stored = layers.stored.clone();
        drop(layers);
        self.look(stored, |stored| {
            let Some(table) = &stored.parts else { return Ok(None) };
            Ok(table.get(&bytes)?.map(|value| Place::unpack(value.value())))
        })
    }

    /// The delete that is remembered of the blob.
    pub(crate) fn tombstone(&self, slot: SlotId, blob: BlobId) -> IndexResult<Option<Tombstone>> {
        let bytes = blob_bytes(slot, blob);
        let layers = self.layers.read();
        for layer in layers.iter() {
            if let Some(tombstone) = layer.tombstones.get(&bytes) {
                return Ok(*tombstone);
            }
        }
        let stored = layers.stored.clone();
        drop(layers);
        self.look(stored, |stored| {
            let Some(table) = &stored.tombstones else { return Ok(None) };
            Ok(table.get(&bytes)?.map(|value| Tombstone::of(value.value())))
        })
    }

    /// Deletes that a record in the file remembers. Reads the whole table: for damage only.
    pub(crate) fn tombstones_in(&self, file: u32) -> IndexResult<Vec<(SlotId, BlobId)>> {
        let stored = self.layers.read().stored.clone();
        let mut tombstones = self.look(stored, |stored| {
            let mut tombstones: BTreeMap<BlobBytes, Option<Tombstone>> = BTreeMap::new();
            let Some(table) = &stored.tombstones else { return Ok(tombstones) };
            for row in table.iter()? {
                let (key, value) = row?;
                let tombstone = Tombstone::of(value.value());
                if tombstone.place.file == file {
                    tombstones.insert(*key.value(), Some(tombstone));
                }
            }
            Ok(tombstones)
        })?;
        let layers = self.layers.read();
        for layer in layers.iter().rev() {
            tombstones.extend(layer.tombstones.iter().map(|(key, tombstone)| (*key, *tombstone)));
        }
        let here = |(key, tombstone): (BlobBytes, Option<Tombstone>)| {
            tombstone.filter(|tombstone| tombstone.place.file == file)?;
            let slot = SlotId(u32::from_be_bytes(key[..4].try_into().ok()?));
            Some((slot, BlobId::from_bytes(&key[4..])?))
        };
        Ok(tombstones.into_iter().filter_map(here).collect())
    }

    /// Is a dead record of the blob still on disk?
    fn has_dead(&self, slot: SlotId, blob: BlobId) -> IndexResult<bool> {
        self.has_dead_of(&blob_bytes(slot, blob), |_| true)
    }

    fn has_dead_of(&self, prefix: &[u8], counts: impl Fn(&DeadBytes) -> bool) -> IndexResult<bool> {
        let range: RangeInclusive<DeadBytes> = prefixed(prefix);
        let layers = self.layers.read();
        let mut gone = BTreeSet::new();
        for layer in layers.iter() {
            for (key, present) in layer.dead.range(range.clone()) {
                if gone.contains(key) {
                    continue;
                }
                if *present && counts(key) {
                    return Ok(true);
                }
                gone.insert(*key);
            }
        }
        let stored = layers.stored.clone();
        drop(layers);
        self.look(stored, |stored| {
            let Some(table) = &stored.dead else { return Ok(false) };
            for row in table.range::<&DeadBytes>(range.start()..=range.end())? {
                let row = row?;
                let key = row.0.value();
                if !gone.contains(key) && counts(key) {
                    return Ok(true);
                }
            }
            Ok(false)
        })
    }

    /// Is a dead record of the part on disk, in another file than this one?
    pub(crate) fn has_dead_elsewhere(
        &self,
        slot: SlotId,
        key: PartKey,
        file: u32,
    ) -> IndexResult<bool> {
        let prefix = part_bytes(slot, key);
        let elsewhere = |dead: &DeadBytes| place_of_dead(dead).file != file;
        self.has_dead_of(&prefix, elsewhere)
    }

    /// Is the part's record at `place` known to be dead?
    pub(crate) fn is_dead(&self, slot: SlotId, key: PartKey, place: Place) -> IndexResult<bool> {
        let bytes = dead_bytes(slot, key, place);
        let layers = self.layers.read();
        for layer in layers.iter() {
            if let Some(present) = layer.dead.get(&bytes) {
                return Ok(*present);
            }
        }
        let stored = layers.stored.clone();
        drop(layers);
        self.look(stored, |stored| {
            let Some(table) = &stored.dead else { return Ok(false) };
            Ok(table.get(&bytes)?.is_some())
        })
    }

    /// What the index says of the part was wrong: it lies at `place`, or nowhere.
    pub(crate) fn correct_part(&self, slot: SlotId, key: PartKey, place: Option<Place>) {
        self.layers.write().active.parts.insert(part_bytes(slot, key), place);
    }

    /// The part lies at `place` now; a record of it at `replaced` is dead.
    pub(crate) fn set_part(
        &self,
        slot: SlotId,
        key: PartKey,
        place: Place,
        replaced: Option<Place>,
    ) {
        let active = &mut self.layers.write().active;
        active.parts.insert(part_bytes(slot, key), Some(place));
        if let Some(old) = replaced {
            active.dead.insert(dead_bytes(slot, key, old), true);
        }
    }

    /// The part's record at `place` is dead.
    pub(crate) fn kill_part(&self, slot: SlotId, key: PartKey, place: Place) {
        let active = &mut self.layers.write().active;
        active.parts.insert(part_bytes(slot, key), None);
        active.dead.insert(dead_bytes(slot, key, place), true);
    }

    /// Remembers a delete, or stops remembering it.
    pub(crate) fn set_tombstone(&self, slot: SlotId, blob: BlobId, tombstone: Option<Tombstone>) {
        self.layers.write().active.tombstones.insert(blob_bytes(slot, blob), tombstone);
    }

    /// A forgotten delete is gone once no dead record needs it. Answers the tombstone that went.
    pub(crate) fn drop_tombstone_if_free(
        &self,
        slot: SlotId,
        blob: BlobId,
    ) -> IndexResult<Option<Tombstone>> {
        match self.tombstone(slot, blob)? {
            Some(tombstone) if tombstone.forgotten && !self.has_dead(slot, blob)? => {
                self.set_tombstone(slot, blob, None);
                Ok(Some(tombstone))
            }
            _ => Ok(None),
        }
    }

    /// The dead record is no longer on disk.
    pub(crate) fn bury(&self, slot: SlotId, key: PartKey, place: Place) {
        self.layers.write().active.dead.insert(dead_bytes(slot, key, place), false);
    }

    /// Dead records in files for which `gone` holds. Reads the whole table: for recovery and damage
    /// only.
    pub(crate) fn dead_in(
        &self,
        gone: impl Fn(u32) -> bool,
    ) -> IndexResult<Vec<(SlotId, PartKey, Place)>> {
        let stored = self.layers.read().stored.clone();
        let mut dead = self.look(stored, |stored| {
            let mut dead: BTreeMap<DeadBytes, bool> = BTreeMap::new();
            let Some(table) = &stored.dead else { return Ok(dead) };
            for row in table.iter()? {
                let bytes = *row?.0.value();
                if gone(place_of_dead(&bytes).file) {
                    dead.insert(bytes, true);
                }
            }
            Ok(dead)
        })?;
        let layers = self.layers.read();
        for layer in layers.iter().rev() {
            let here = layer.dead.iter().filter(|(bytes, _)| gone(place_of_dead(bytes).file));
            dead.extend(here.map(|(bytes, present)| (*bytes, *present)));
        }
        let present = dead.iter().filter(|(_, present)| **present);
        Ok(present
            .filter_map(|(bytes, _)| {
                let (slot, key) = key_of(bytes)?;
                Some((slot, key, place_of_dead(bytes)))
            })
            .collect())
    }

    /// The slot belongs to the group.
    pub(crate) fn set_slot(&self, slot: SlotId, member: Membership) {
        self.layers.write().active.slots.insert(slot, member);
    }

    /// The slot has all that it should of the volume, or that need not be noted any more.
    pub(crate) fn set_rebuilt(&self, slot: SlotId, volume: VolumeId, noted: bool) {
        self.layers.write().active.rebuilt.insert((slot, volume), noted);
    }

    /// The volume is promised.
    pub(crate) fn set_fence(&self, slot: SlotId, volume: VolumeId, promise: Issuer) {
        self.layers.write().active.fences.insert((slot, volume), promise);
    }

    /// Changes that are not in redb yet and not on their way there.
    pub(crate) fn pending(&self) -> usize {
        let layers = self.layers.read();
        let Layer { parts, tombstones, dead, slots, fences, rebuilt } = &layers.active;
        let notes = slots.len() + fences.len() + rebuilt.len();
        parts.len() + tombstones.len() + dead.len() + notes
    }

    /// Takes the active layer to be written; until [`Index::thaw`] there may be only one.
    pub(crate) fn freeze(&self, disk: DiskId, space: &Space, mark: Mark) -> Checkpoint {
        let mut layers = self.layers.write();
        assert!(layers.frozen.is_none(), "one checkpoint at a time");
        let layer = Arc::new(std::mem::take(&mut layers.active));
        layers.frozen = Some(layer.clone());
        Checkpoint { layer, space: space.clone(), mark, disk }
    }

    /// Writes a checkpoint, durably. Changes nothing that readers see.
    ///
    /// # Errors
    /// After [`is_no_room`] it can be gone on with, once the layer is taken back.
    pub(crate) fn write(&self, checkpoint: &Checkpoint) -> IndexResult<()> {
        self.store.write(checkpoint, |stored| self.layers.write().stored = Arc::new(stored))
    }

    /// The frozen layer is in redb.
    pub(crate) fn thaw(&self) {
        self.layers.write().frozen = None;
    }

    /// The frozen layer is not in redb: it is part of the active one again.
    pub(crate) fn take_back(&self) {
        let mut layers = self.layers.write();
        let Some(frozen) = layers.frozen.take() else { return };
        let newer = std::mem::replace(&mut layers.active, Arc::unwrap_or_clone(frozen));
        let Layer { parts, tombstones, dead, slots, fences, rebuilt } = &mut layers.active;
        parts.extend(newer.parts);
        tombstones.extend(newer.tombstones);
        dead.extend(newer.dead);
        fences.extend(newer.fences);
        slots.extend(newer.slots);
        rebuilt.extend(newer.rebuilt);
    }
}

/// The index's file.
pub(crate) fn path_in(dir: &Path) -> PathBuf {
    dir.join("index.redb")
}

/// Keeps a damaged index for whoever wants to know why; one is enough.
pub(crate) fn set_aside(dir: &DiskDir) -> std::io::Result<()> {
    let path = path_in(dir);
    if dir.medium.len(&path).is_ok() {
        dir.medium.rename(&path, &path.with_extension("redb.damaged"))?;
    }
    Ok(())
}
