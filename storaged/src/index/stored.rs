//! What of the index is in redb, and every call of redb there is.
//!
//! Redb panics on pages that make no sense to it, and after a failed write answers nothing but that:
//! so each call is guarded ([`guarded`]), a panic is damage like any other that redb tells of, and
//! after a write that failed the file is opened anew. A panic while a table is let go in one is beyond
//! any guard: tables are written one at a time ([`change`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;
use proto::guard::caught;
use proto::id::{DiskId, Epoch, Generation, GroupId, OwnerId, SlotId, VolumeId};
use proto::part_store::Issuer;
use redb::{
    Database, Key, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable, Table,
    TableDefinition, TableError, Value, WriteTransaction,
};

use super::backend::{Home, IndexFile};
use super::key::{BLOB_KEY, BlobBytes, DEAD_KEY, DeadBytes, PART_KEY, PartBytes};
use super::layer::{Checkpoint, Fences, IndexResult, Layer, Mark};
use crate::index::fill::{FileState, Space, Stage};
use crate::io::calls::Calls;
use crate::io::direct::is_no_space;
use crate::io::medium::Medium;
use crate::log::record::{Membership, Place};

const PARTS: TableDefinition<'_, &[u8; PART_KEY], u64> = TableDefinition::new("parts");
const TOMBSTONES: TableDefinition<'_, &[u8; BLOB_KEY], (u64, u8)> = TableDefinition::new("tombs");
const DEAD: TableDefinition<'_, &[u8; DEAD_KEY], ()> = TableDefinition::new("dead");
const SLOTS: TableDefinition<'_, u32, (u32, u64, u8)> = TableDefinition::new("slots");
const FENCES: TableDefinition<'_, (u32, u32), (u64, u128)> = TableDefinition::new("fences");
const REBUILT: TableDefinition<'_, (u32, u32), ()> = TableDefinition::new("rebuilt");
const FILES: TableDefinition<'_, u32, (u32, u64, u64, u32, u8)> = TableDefinition::new("files");
const UNREAD: TableDefinition<'_, u32, ()> = TableDefinition::new("unread");
const META: TableDefinition<'_, &str, u128> = TableDefinition::new("meta");

const FORMAT: u128 = 4;

/// Makes calls of redb; one that panics has met damage.
pub(super) fn guarded<T>(calls: impl FnOnce() -> IndexResult<T>) -> IndexResult<T> {
    caught("the index", calls)
        .unwrap_or_else(|panicked| Err(redb::Error::Corrupted(panicked.to_string())))
}

/// Is there no room now (or no descriptor, or no memory), while the index itself is not damaged?
pub(crate) fn is_no_room(error: &redb::Error) -> bool {
    matches!(error, redb::Error::Io(e) if is_no_space(e))
}

/// Does it say nothing but that something failed before, or that the file is closed?
pub(crate) fn is_echo(error: &redb::Error) -> bool {
    matches!(error, redb::Error::PreviousIo | redb::Error::DatabaseClosed)
}

/// The tables as the last checkpoint left them, opened: that costs several times what a lookup does.
/// `None` before there is a first.
#[derive(Default)]
pub(super) struct Stored {
    pub(super) parts: Option<ReadOnlyTable<&'static PartBytes, u64>>,
    pub(super) tombstones: Option<ReadOnlyTable<&'static BlobBytes, (u64, u8)>>,
    pub(super) dead: Option<ReadOnlyTable<&'static DeadBytes, ()>>,
}

impl Stored {
    fn open(db: &Database) -> IndexResult<Self> {
        let txn = db.begin_read()?;
        Ok(Self {
            parts: table(&txn, PARTS)?,
            tombstones: table(&txn, TOMBSTONES)?,
            dead: table(&txn, DEAD)?,
        })
    }
}

impl Drop for Stored {
    fn drop(&mut self) {
        // After a panic redb's locks may be poisoned, and letting go panics, too.
        let Self { parts, tombstones, dead } = self;
        let tables = (parts.take(), tombstones.take(), dead.take());
        let _told = caught("closing the index", || drop(tables));
    }
}

fn table<K: Key, V: Value>(
    txn: &ReadTransaction,
    definition: TableDefinition<'static, K, V>,
) -> IndexResult<Option<ReadOnlyTable<K, V>>> {
    match txn.open_table(definition) {
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        table => Ok(Some(table?)),
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
    /// Files that could not be read when they should have been taken in.
    pub(crate) unread: BTreeSet<u32>,
    /// Groups of the slots.
    pub(crate) slots: BTreeMap<SlotId, Membership>,
    /// Volumes of which slots that are rebuilding have all they should.
    pub(crate) rebuilt: BTreeSet<(SlotId, VolumeId)>,
    /// Promises of the slots.
    pub(crate) fences: Fences,
}

/// The database, open or not.
pub(super) struct Store {
    medium: Arc<dyn Medium>,
    home: Home,
    cache: usize,
    calls: Arc<Calls>,
    /// `None`: closed. Held by whoever writes, until the tables of that are open.
    db: Mutex<Option<Database>>,
}

impl Store {
    /// Opens it, or makes it.
    pub(super) fn open(
        medium: Arc<dyn Medium>,
        home: Home,
        cache: usize,
        calls: Arc<Calls>,
    ) -> IndexResult<(Self, Stored)> {
        let store = Self { medium, home, cache, calls, db: Mutex::new(None) };
        let stored = store.begin(&mut store.db.lock())?;
        Ok((store, stored))
    }

    fn begin(&self, db: &mut Option<Database>) -> IndexResult<Stored> {
        guarded(|| {
            let file = IndexFile::open(&*self.medium, &self.home, self.calls.clone())?;
            let opened =
                Database::builder().set_cache_size(self.cache).create_with_backend(file)?;
            let stored = Stored::open(&opened)?;
            *db = Some(opened);
            Ok(stored)
        })
    }

    fn end(db: &mut Option<Database>) {
        let db = db.take();
        let _told = caught("closing the index", || drop(db));
    }

    /// Closes the file, which writes to it. What asks for it afterwards fails.
    pub(super) fn close(&self) {
        Self::end(&mut self.db.lock());
    }

    pub(super) fn is_open(&self) -> bool {
        self.db.lock().is_some()
    }

    /// Returns when nobody is writing or opening it anew.
    pub(super) fn wait(&self) {
        drop(self.db.lock());
    }

    /// Writes a checkpoint, durably. `publish` is told of the tables with it; or, if it failed for want
    /// of room, of those that there were before, opened anew.
    pub(super) fn write(
        &self,
        checkpoint: &Checkpoint,
        publish: impl Fn(Stored),
    ) -> IndexResult<()> {
        let mut db = self.db.lock();
        let written = guarded(|| {
            let db = db.as_ref().ok_or(redb::Error::DatabaseClosed)?;
            let mut txn = db.begin_write()?;
            // After a crash the index opens at once instead of being read through.
            txn.set_quick_repair(true);
            checkpoint.fill(&txn)?;
            txn.commit()?;
            Stored::open(db)
        });
        match written {
            Ok(stored) => publish(stored),
            Err(e) if is_no_room(&e) => {
                Self::end(&mut db);
                publish(self.begin(&mut db)?);
                return Err(e);
            }
            Err(e) => return Err(e),
        }
        Ok(())
    }

    /// What the last checkpoint says; `None` if there is none or it is not this disk's.
    pub(super) fn saved(&self, disk: DiskId) -> IndexResult<Option<Saved>> {
        let db = self.db.lock();
        guarded(|| read_saved(&db.as_ref().ok_or(redb::Error::DatabaseClosed)?.begin_read()?, disk))
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        Self::end(self.db.get_mut());
    }
}

fn read_saved(txn: &ReadTransaction, disk: DiskId) -> IndexResult<Option<Saved>> {
    let Some(meta) = table(txn, META)? else { return Ok(None) };
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
        let (tail, live, punched, tombstones, stage) = value.value();
        let stage = match stage {
            0 => Stage::Open,
            1 => Stage::Sealed,
            2 => Stage::Kept,
            _ => Stage::Doomed,
        };
        files.insert(number.value(), FileState { tail, live, punched, tombstones, stage });
    }
    let mut slots = BTreeMap::new();
    for row in txn.open_table(SLOTS)?.iter()? {
        let (slot, value) = row?;
        let (group, generation, rebuilding) = value.value();
        let (group, generation) = (GroupId(group), Generation(generation));
        let member = Membership { group, generation, rebuilding: rebuilding != 0 };
        slots.insert(SlotId(slot.value()), member);
    }
    let mut rebuilt = BTreeSet::new();
    for row in txn.open_table(REBUILT)?.iter()? {
        let (slot, volume) = row?.0.value();
        rebuilt.insert((SlotId(slot), VolumeId(volume)));
    }
    let mut fences = Fences::new();
    for row in txn.open_table(FENCES)?.iter()? {
        let (key, value) = row?;
        let ((slot, volume), (epoch, owner)) = (key.value(), value.value());
        let owner = OwnerId::from_slice(&owner.to_be_bytes()).expect("it is of 16 bytes");
        let promise = Issuer { epoch: Epoch(epoch), owner };
        fences.insert((SlotId(slot), VolumeId(volume)), promise);
    }
    let mut unread = BTreeSet::new();
    if let Some(table) = table(txn, UNREAD)? {
        for row in table.iter()? {
            unread.insert(row?.0.value());
        }
    }
    let mark = Mark { place: Place::unpack(place as u64), sequence: sequence as u64 };
    Ok(Some(Saved { mark, parts: parts as u64, files, unread, slots, rebuilt, fences }))
}

/// Changes one table, which is closed then: redb panics where it opens a table over a damaged page, and the drop of
/// each that is open at that moment panics again, which nothing can catch.
fn change<K: Key + 'static, V: Value + 'static>(
    txn: &WriteTransaction,
    definition: TableDefinition<'_, K, V>,
    with: impl FnOnce(&mut Table<'_, K, V>) -> IndexResult<()>,
) -> IndexResult<()> {
    with(&mut txn.open_table(definition)?)
}

impl Checkpoint {
    fn fill(&self, txn: &WriteTransaction) -> IndexResult<()> {
        self.layer.fill(txn)?;
        fill_files(txn, &self.space)?;
        change(txn, META, |meta| {
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
        })
    }
}

fn fill_files(txn: &WriteTransaction, space: &Space) -> IndexResult<()> {
    change(txn, FILES, |files| {
        files.retain(|number, _| space.files.contains_key(&number))?;
        for (number, file) in &space.files {
            let stage = match file.stage {
                Stage::Open => 0,
                Stage::Sealed => 1,
                Stage::Kept => 2,
                Stage::Doomed => 3,
            };
            files.insert(number, (file.tail, file.live, file.punched, file.tombstones, stage))?;
        }
        Ok(())
    })?;
    change(txn, UNREAD, |unread| {
        unread.retain(|number, ()| space.unread.contains(&number))?;
        for number in &space.unread {
            unread.insert(number, ())?;
        }
        Ok(())
    })
}

impl Layer {
    fn fill(&self, txn: &WriteTransaction) -> IndexResult<()> {
        change(txn, PARTS, |parts| {
            for (key, place) in &self.parts {
                match place {
                    Some(place) => drop(parts.insert(key, place.pack())?),
                    None => drop(parts.remove(key)?),
                }
            }
            Ok(())
        })?;
        change(txn, TOMBSTONES, |tombstones| {
            for (key, tombstone) in &self.tombstones {
                match tombstone {
                    Some(tombstone) => {
                        let value = (tombstone.place.pack(), u8::from(tombstone.forgotten));
                        drop(tombstones.insert(key, value)?);
                    }
                    None => drop(tombstones.remove(key)?),
                }
            }
            Ok(())
        })?;
        change(txn, DEAD, |dead| {
            for (key, present) in &self.dead {
                match present {
                    true => drop(dead.insert(key, ())?),
                    false => drop(dead.remove(key)?),
                }
            }
            Ok(())
        })?;
        self.fill_memberships(txn)
    }

    fn fill_memberships(&self, txn: &WriteTransaction) -> IndexResult<()> {
        change(txn, SLOTS, |slots| {
            for (slot, Membership { group, generation, rebuilding }) in &self.slots {
                slots.insert(slot.0, (group.0, generation.0, u8::from(*rebuilding)))?;
            }
            Ok(())
        })?;
        change(txn, REBUILT, |rebuilt| {
            for ((slot, volume), noted) in &self.rebuilt {
                match noted {
                    true => drop(rebuilt.insert((slot.0, volume.0), ())?),
                    false => drop(rebuilt.remove((slot.0, volume.0))?),
                }
            }
            Ok(())
        })?;
        change(txn, FENCES, |fences| {
            for ((slot, volume), promise) in &self.fences {
                let owner = u128::from_be_bytes(*promise.owner.as_bytes());
                fences.insert((slot.0, volume.0), (promise.epoch.0, owner))?;
            }
            Ok(())
        })
    }
}
