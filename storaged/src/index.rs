//! The index: what lies where. A cache of the logs, and ordered, so that it can be listed.
//!
//! Three layers, each over the one below: `active` takes what was just made durable; `frozen` is
//! what a checkpoint is writing; redb holds the rest. Only the disk's owner changes layers, so it
//! sees its own changes at once; readers look from the top down and so never miss a record that
//! moves down meanwhile.
//!
//! ```text
//! table  key (big endian)                        value
//! parts  slot 4 | blob 27 | part 1               place: file 4 | block 4
//! tombs  slot 4 | blob 27                        place of the delete record, forgotten 0 or 1
//! dead   slot 4 | blob 27 | part 1 | place 8     ()   dead records that are still on disk
//! slots  slot                                    group, generation
//! files  number                                  tail, live, punched, tombs, stage
//! meta   name                                    number
//! ```
//!
//! Invariants:
//! * A place in the index is of a durable record.
//! * A delete is forgotten only when no dead record of its blob is left on disk: a rebuild from the
//!   block files alone can never bring a deleted part back.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use parking_lot::RwLock;
use proto::id::{
    BLOB_ID_LEN, BlobId, DiskId, Generation, GroupId, PartIndex, PartKey, PartSet, SessionId,
    SlotId, VolumeId,
};
use redb::backends::FileBackend;
use redb::{
    Database, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable, StorageBackend,
    TableDefinition, TableError, WriteTransaction,
};

use crate::calls::Calls;
use crate::fill::{FileState, Space, Stage};
use crate::record::Place;

const PARTS: TableDefinition<'_, &[u8; PART_KEY], u64> = TableDefinition::new("parts");
const TOMBS: TableDefinition<'_, &[u8; BLOB_KEY], (u64, u8)> = TableDefinition::new("tombs");
const DEAD: TableDefinition<'_, &[u8; DEAD_KEY], ()> = TableDefinition::new("dead");
const SLOTS: TableDefinition<'_, u32, (u32, u64)> = TableDefinition::new("slots");
const FILES: TableDefinition<'_, u32, (u32, u64, u64, u32, u8)> = TableDefinition::new("files");
const META: TableDefinition<'_, &str, u128> = TableDefinition::new("meta");

const BLOB_KEY: usize = 4 + BLOB_ID_LEN;
const PART_KEY: usize = BLOB_KEY + 1;
const DEAD_KEY: usize = PART_KEY + 8;
const FORMAT: u128 = 1;

type BlobBytes = [u8; BLOB_KEY];
type PartBytes = [u8; PART_KEY];
type DeadBytes = [u8; DEAD_KEY];

fn blob_bytes(slot: SlotId, blob: BlobId) -> BlobBytes {
    let mut out = [0; BLOB_KEY];
    out[..4].copy_from_slice(&slot.0.to_be_bytes());
    out[4..].copy_from_slice(&blob.to_bytes());
    out
}

fn part_bytes(slot: SlotId, key: PartKey) -> PartBytes {
    let mut out = [0; PART_KEY];
    out[..BLOB_KEY].copy_from_slice(&blob_bytes(slot, key.blob));
    out[BLOB_KEY] = key.part.get() as u8;
    out
}

fn dead_bytes(slot: SlotId, key: PartKey, place: Place) -> DeadBytes {
    let mut out = [0; DEAD_KEY];
    out[..PART_KEY].copy_from_slice(&part_bytes(slot, key));
    out[PART_KEY..].copy_from_slice(&place.pack().to_be_bytes());
    out
}

fn key_of(bytes: &[u8]) -> Option<(SlotId, PartKey)> {
    let slot = SlotId(u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?));
    let blob = BlobId::from_bytes(bytes.get(4..BLOB_KEY)?)?;
    Some((slot, PartKey::new(blob, (*bytes.get(BLOB_KEY)?).into())?))
}

fn place_of_dead(bytes: &DeadBytes) -> Place {
    let mut packed = [0; 8];
    packed.copy_from_slice(&bytes[PART_KEY..]);
    Place::unpack(u64::from_be_bytes(packed))
}

/// All keys that start with `prefix`.
fn prefixed<const N: usize>(prefix: &[u8]) -> RangeInclusive<[u8; N]> {
    let (mut low, mut high) = ([0; N], [0xff; N]);
    low[..prefix.len()].copy_from_slice(prefix);
    high[..prefix.len()].copy_from_slice(prefix);
    low..=high
}

/// A remembered delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tomb {
    /// Where its record lies.
    pub(crate) place: Place,
    /// It is kept only for dead records that are still there.
    pub(crate) forgotten: bool,
}

/// Up to which record everything is in redb.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// The next record's place.
    pub(crate) place: Place,
    /// The last record's sequence.
    pub(crate) sequence: u64,
}

/// Changes over a lower layer; `None` and `false` hide what is below.
#[derive(Default)]
struct Layer {
    parts: BTreeMap<PartBytes, Option<Place>>,
    tombs: BTreeMap<BlobBytes, Option<Tomb>>,
    dead: BTreeMap<DeadBytes, bool>,
    slots: BTreeMap<SlotId, (GroupId, Generation)>,
}

/// The tables of redb as the last checkpoint left them, opened: that costs several times what a
/// lookup does. `None` before there is a first.
#[derive(Default)]
struct Stored {
    parts: Option<ReadOnlyTable<&'static PartBytes, u64>>,
    tombs: Option<ReadOnlyTable<&'static BlobBytes, (u64, u8)>>,
    dead: Option<ReadOnlyTable<&'static DeadBytes, ()>>,
}

impl Stored {
    fn open(db: &Database) -> IndexResult<Self> {
        fn table<K: redb::Key, V: redb::Value>(
            txn: &ReadTransaction,
            definition: TableDefinition<'static, K, V>,
        ) -> IndexResult<Option<ReadOnlyTable<K, V>>> {
            match txn.open_table(definition) {
                Err(TableError::TableDoesNotExist(_)) => Ok(None),
                table => Ok(Some(table?)),
            }
        }
        let txn = db.begin_read()?;
        Ok(Self {
            parts: table(&txn, PARTS)?,
            tombs: table(&txn, TOMBS)?,
            dead: table(&txn, DEAD)?,
        })
    }
}

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

/// Any failure of redb.
pub(crate) type IndexResult<T> = Result<T, redb::Error>;

/// The index of one disk.
pub(crate) struct Index {
    /// `None`: closed.
    db: RwLock<Option<Database>>,
    pub(crate) calls: Arc<Calls>,
    layers: RwLock<Layers>,
}

/// The index's file. Nobody else has it: the disk is locked.
#[derive(Debug)]
struct IndexFile {
    file: FileBackend,
    calls: Arc<Calls>,
}

impl StorageBackend for IndexFile {
    fn len(&self) -> io::Result<u64> {
        let _call = self.calls.begin();
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let _call = self.calls.begin();
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let _call = self.calls.begin();
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        let _call = self.calls.begin();
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let _call = self.calls.begin();
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
}

/// What the last checkpoint left.
pub(crate) struct Saved {
    /// Up to where.
    pub(crate) mark: Mark,
    /// Parts held.
    pub(crate) parts: u64,
    /// The files' accounts.
    pub(crate) files: BTreeMap<u32, FileState>,
    /// Groups of the slots.
    pub(crate) slots: BTreeMap<SlotId, (GroupId, Generation)>,
}

/// A layer on its way into redb.
pub(crate) struct Checkpoint {
    layer: Arc<Layer>,
    space: Space,
    mark: Mark,
    disk: DiskId,
}

impl Index {
    /// Opens or creates the file.
    pub(crate) fn open(path: &Path, cache: usize) -> IndexResult<Self> {
        let calls = Arc::new(Calls::default());
        let file =
            File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        let file = IndexFile { file: FileBackend::new(file)?, calls: calls.clone() };
        let db = Database::builder().set_cache_size(cache).create_with_backend(file)?;
        let stored = Arc::new(Stored::open(&db)?);
        let layers = RwLock::new(Layers { stored, ..Layers::default() });
        Ok(Self { db: RwLock::new(Some(db)), calls, layers })
    }

    /// Closes the file, which writes to it. What asks for it afterwards fails.
    pub(crate) fn close(&self) {
        let db = self.db.write().take();
        drop(db);
    }

    fn with_db<T>(&self, work: impl FnOnce(&Database) -> IndexResult<T>) -> IndexResult<T> {
        match &*self.db.read() {
            Some(db) => work(db),
            None => Err(redb::Error::DatabaseClosed),
        }
    }

    /// What the last checkpoint says; `None` if there is none or it is not this disk's.
    pub(crate) fn saved(&self, disk: DiskId) -> IndexResult<Option<Saved>> {
        let txn = self.with_db(|db| Ok(db.begin_read()?))?;
        let meta = match txn.open_table(META) {
            Err(TableError::TableDoesNotExist(_)) => return Ok(None),
            other => other?,
        };
        let number = |name: &str| -> IndexResult<Option<u128>> {
            Ok(meta.get(name)?.map(|value| value.value()))
        };
        let identity = Some(u128::from_be_bytes(*disk.as_bytes()));
        if number("format")? != Some(FORMAT) || number("disk")? != identity {
            return Ok(None);
        }
        let (Some(place), Some(sequence), Some(parts)) =
            (number("place")?, number("sequence")?, number("parts")?)
        else {
            return Ok(None);
        };
        let mut files = BTreeMap::new();
        for row in txn.open_table(FILES)?.iter()? {
            let (number, value) = row?;
            let (tail, live, punched, tombs, stage) = value.value();
            let stage = match stage {
                0 => Stage::Open,
                1 => Stage::Sealed,
                2 => Stage::Kept,
                _ => Stage::Doomed,
            };
            files.insert(number.value(), FileState { tail, live, punched, tombs, stage });
        }
        let mut slots = BTreeMap::new();
        for row in txn.open_table(SLOTS)?.iter()? {
            let (slot, value) = row?;
            let (group, generation) = value.value();
            slots.insert(SlotId(slot.value()), (GroupId(group), Generation(generation)));
        }
        let mark = Mark { place: Place::unpack(place as u64), sequence: sequence as u64 };
        Ok(Some(Saved { mark, parts: parts as u64, files, slots }))
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
        let Some(table) = &stored.parts else { return Ok(None) };
        Ok(table.get(&bytes)?.map(|value| Place::unpack(value.value())))
    }

    /// The delete that is remembered of the blob.
    pub(crate) fn tomb(&self, slot: SlotId, blob: BlobId) -> IndexResult<Option<Tomb>> {
        let bytes = blob_bytes(slot, blob);
        let layers = self.layers.read();
        for layer in layers.iter() {
            if let Some(tomb) = layer.tombs.get(&bytes) {
                return Ok(*tomb);
            }
        }
        let stored = layers.stored.clone();
        drop(layers);
        let Some(table) = &stored.tombs else { return Ok(None) };
        Ok(table.get(&bytes)?.map(|value| {
            let (place, forgotten) = value.value();
            Tomb { place: Place::unpack(place), forgotten: forgotten != 0 }
        }))
    }

    /// Parts in a range of keys, in order, up to `stop` saying enough.
    fn scan_parts(
        &self,
        range: RangeInclusive<PartBytes>,
        mut take: impl FnMut(SlotId, PartKey, Place) -> bool,
    ) -> IndexResult<()> {
        let layers = self.layers.read();
        // Changes of the upper layers in the range, the topmost winning.
        let mut changes: BTreeMap<PartBytes, Option<Place>> = BTreeMap::new();
        for layer in layers.iter().rev() {
            changes.extend(layer.parts.range(range.clone()).map(|(key, place)| (*key, *place)));
        }
        let stored = layers.stored.clone();
        drop(layers);
        let mut stored = match &stored.parts {
            Some(table) => Some(table.range::<&PartBytes>(range.start()..=range.end())?),
            None => None,
        };
        let mut next_stored = || -> IndexResult<Option<(PartBytes, Place)>> {
            match stored.as_mut().and_then(Iterator::next) {
                Some(row) => {
                    let (key, place) = row?;
                    Ok(Some((*key.value(), Place::unpack(place.value()))))
                }
                None => Ok(None),
            }
        };
        let mut below = next_stored()?;
        let mut above = changes.into_iter().peekable();
        loop {
            let (key, place) = match (below, above.peek().copied()) {
                (None, None) => return Ok(()),
                (Some((low, place)), high) if high.is_none_or(|(key, _)| low < key) => {
                    below = next_stored()?;
                    (low, Some(place))
                }
                (low, Some((key, place))) => {
                    above.next();
                    if low.is_some_and(|(low, _)| low == key) {
                        below = next_stored()?;
                    }
                    (key, place)
                }
                (Some(_), None) => unreachable!("nothing above: the arm before took it"),
            };
            if let (Some(place), Some((slot, part))) = (place, key_of(&key))
                && !take(slot, part, place)
            {
                return Ok(());
            }
        }
    }

    /// The parts of a blob, with their places.
    pub(crate) fn parts_of(
        &self,
        slot: SlotId,
        blob: BlobId,
    ) -> IndexResult<Vec<(PartIndex, Place)>> {
        let mut parts = Vec::new();
        self.scan_parts(prefixed(&blob_bytes(slot, blob)), |_, key, place| {
            parts.push((key.part, place));
            true
        })?;
        Ok(parts)
    }

    /// Every part of the disk, in order, until `take` says `false`.
    pub(crate) fn all_parts(
        &self,
        take: impl FnMut(SlotId, PartKey, Place) -> bool,
    ) -> IndexResult<()> {
        self.scan_parts(prefixed(&[]), take)
    }

    /// Parts whose record is in the file. Reads the whole table: for damage only.
    pub(crate) fn parts_in(&self, file: u32) -> IndexResult<Vec<(SlotId, PartKey, Place)>> {
        let mut found = Vec::new();
        self.all_parts(|slot, key, place| {
            if place.file == file {
                found.push((slot, key, place));
            }
            true
        })?;
        Ok(found)
    }

    /// Deletes that a record in the file remembers. Reads the whole table: for damage only.
    pub(crate) fn tombs_in(&self, file: u32) -> IndexResult<Vec<(SlotId, BlobId)>> {
        let layers = self.layers.read();
        let mut tombs: BTreeMap<BlobBytes, Option<Tomb>> = BTreeMap::new();
        match self.with_db(|db| Ok(db.begin_read()?))?.open_table(TOMBS) {
            Err(TableError::TableDoesNotExist(_)) => {}
            table => {
                for row in table?.iter()? {
                    let (key, value) = row?;
                    let (place, forgotten) = value.value();
                    let tomb = Tomb { place: Place::unpack(place), forgotten: forgotten != 0 };
                    if tomb.place.file == file {
                        tombs.insert(*key.value(), Some(tomb));
                    }
                }
            }
        }
        for layer in layers.iter().rev() {
            tombs.extend(layer.tombs.iter().map(|(key, tomb)| (*key, *tomb)));
        }
        let here = |(key, tomb): (BlobBytes, Option<Tomb>)| {
            tomb.filter(|tomb| tomb.place.file == file)?;
            let slot = SlotId(u32::from_be_bytes(key[..4].try_into().ok()?));
            Some((slot, BlobId::from_bytes(&key[4..])?))
        };
        Ok(tombs.into_iter().filter_map(here).collect())
    }

    /// A page of the blobs of a session.
    pub(crate) fn list(
        &self,
        slot: SlotId,
        volume: VolumeId,
        session: SessionId,
        after: Option<BlobId>,
        limit: usize,
    ) -> IndexResult<Vec<(BlobId, PartSet)>> {
        let mut prefix = slot.0.to_be_bytes().to_vec();
        prefix.extend(volume.0.to_be_bytes());
        prefix.extend(session.0.to_be_bytes());
        let mut range: RangeInclusive<PartBytes> = prefixed(&prefix);
        if let Some(after) = after {
            let mut start = [0xff; PART_KEY];
            start[..BLOB_KEY].copy_from_slice(&blob_bytes(slot, after));
            if start > *range.end() {
                return Ok(Vec::new());
            }
            range = start.max(*range.start())..=*range.end();
        }
        let mut page: Vec<(BlobId, PartSet)> = Vec::new();
        self.scan_parts(range, |_, key, _| {
            if let Some((blob, parts)) = page.last_mut()
                && *blob == key.blob
            {
                parts.insert(key.part);
                return true;
            }
            let room = page.len() < limit;
            if room {
                page.push((key.blob, [key.part].into_iter().collect()));
            }
            room
        })?;
        Ok(page)
    }

    /// Is a dead record of the blob still on disk?
    fn has_dead(&self, slot: SlotId, blob: BlobId) -> IndexResult<bool> {
        let range: RangeInclusive<DeadBytes> = prefixed(&blob_bytes(slot, blob));
        let layers = self.layers.read();
        let mut gone = BTreeSet::new();
        for layer in layers.iter() {
            for (key, present) in layer.dead.range(range.clone()) {
                if gone.contains(key) {
                    continue;
                }
                if *present {
                    return Ok(true);
                }
                gone.insert(*key);
            }
        }
        let stored = layers.stored.clone();
        drop(layers);
        let Some(table) = &stored.dead else { return Ok(false) };
        for row in table.range::<&DeadBytes>(range.start()..=range.end())? {
            if !gone.contains(row?.0.value()) {
                return Ok(true);
            }
        }
        Ok(false)
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
    pub(crate) fn set_tomb(&self, slot: SlotId, blob: BlobId, tomb: Option<Tomb>) {
        self.layers.write().active.tombs.insert(blob_bytes(slot, blob), tomb);
    }

    /// A forgotten delete is gone once no dead record needs it. Answers the tomb that went.
    pub(crate) fn drop_tomb_if_free(
        &self,
        slot: SlotId,
        blob: BlobId,
    ) -> IndexResult<Option<Tomb>> {
        match self.tomb(slot, blob)? {
            Some(tomb) if tomb.forgotten && !self.has_dead(slot, blob)? => {
                self.set_tomb(slot, blob, None);
                Ok(Some(tomb))
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
        let layers = self.layers.read();
        let mut dead: BTreeMap<DeadBytes, bool> = BTreeMap::new();
        match self.with_db(|db| Ok(db.begin_read()?))?.open_table(DEAD) {
            Err(TableError::TableDoesNotExist(_)) => {}
            table => {
                for row in table?.iter()? {
                    let bytes = *row?.0.value();
                    if gone(place_of_dead(&bytes).file) {
                        dead.insert(bytes, true);
                    }
                }
            }
        }
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
    pub(crate) fn set_slot(&self, slot: SlotId, group: GroupId, generation: Generation) {
        self.layers.write().active.slots.insert(slot, (group, generation));
    }

    /// Changes that are not in redb yet and not on their way there.
    pub(crate) fn pending(&self) -> usize {
        let layers = self.layers.read();
        let Layer { parts, tombs, dead, slots } = &layers.active;
        parts.len() + tombs.len() + dead.len() + slots.len()
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
    pub(crate) fn write(&self, checkpoint: &Checkpoint) -> IndexResult<()> {
        self.with_db(|db| {
            let mut txn = db.begin_write()?;
            // After a crash the index opens at once instead of being read through.
            txn.set_quick_repair(true);
            checkpoint.fill(&txn)?;
            txn.commit()?;
            let stored = Arc::new(Stored::open(db)?);
            self.layers.write().stored = stored;
            Ok(())
        })
    }

    /// The frozen layer is in redb.
    pub(crate) fn thaw(&self) {
        self.layers.write().frozen = None;
    }
}

impl Checkpoint {
    fn fill(&self, txn: &WriteTransaction) -> IndexResult<()> {
        let mut parts = txn.open_table(PARTS)?;
        for (key, place) in &self.layer.parts {
            match place {
                Some(place) => drop(parts.insert(key, place.pack())?),
                None => drop(parts.remove(key)?),
            }
        }
        let mut tombs = txn.open_table(TOMBS)?;
        for (key, tomb) in &self.layer.tombs {
            match tomb {
                Some(tomb) => {
                    drop(tombs.insert(key, (tomb.place.pack(), u8::from(tomb.forgotten)))?);
                }
                None => drop(tombs.remove(key)?),
            }
        }
        let mut dead = txn.open_table(DEAD)?;
        for (key, present) in &self.layer.dead {
            if *present {
                dead.insert(key, ())?;
            } else {
                dead.remove(key)?;
            }
        }
        let mut slots = txn.open_table(SLOTS)?;
        for (slot, (group, generation)) in &self.layer.slots {
            slots.insert(slot.0, (group.0, generation.0))?;
        }
        let mut files = txn.open_table(FILES)?;
        let known = &self.space.files;
        files.retain(|number, _| known.contains_key(&number))?;
        for (number, file) in known {
            let stage = match file.stage {
                Stage::Open => 0,
                Stage::Sealed => 1,
                Stage::Kept => 2,
                Stage::Doomed => 3,
            };
            files.insert(number, (file.tail, file.live, file.punched, file.tombs, stage))?;
        }
        let mut meta = txn.open_table(META)?;
        for (name, value) in [
            ("format", FORMAT),
            ("disk", u128::from_be_bytes(*self.disk.as_bytes())),
            ("place", self.mark.place.pack().into()),
            ("sequence", self.mark.sequence.into()),
            ("parts", self.space.parts.into()),
        ] {
            meta.insert(name, value)?;
        }
        Ok(())
    }
}
