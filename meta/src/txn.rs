//! A transaction as the operations see it: records instead of bytes, over the engine's view.
//!
//! Writes gather in memory and shadow what lies below; [`Txn::finish`] turns them into the engine's
//! change. Changes of one blob's live bytes are added up and written once per transaction, and so are
//! the counters' moves: they are an answer, not a record that is read and written.

use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};

use proto::id::{BlobId, SessionId};

use crate::engine::{Batch, Change, Counting, Direction, Over, Scanned, Value, View, Visit};
use crate::key::counters::Counters;
use crate::key::numbers::Numbers;
use crate::key::{self, Key};
use crate::missing::Missing;
use crate::record::dentry;
use crate::record::inode::Inode;
use crate::rules::extent;
use crate::rules::name::Hasher;
use crate::store::{BlobRecord, Extent, Ino, MetaError, Time, is_inline};

/// What a transaction has to know besides its view.
#[derive(Clone, Copy)]
pub(crate) struct Context {
    /// Seed of the hashes of names.
    pub(crate) seed: u64,
    /// The hash of names.
    pub(crate) hasher: Hasher,
    /// The session that is mounted.
    pub(crate) session: SessionId,
    /// The time of the operation.
    pub(crate) now: Time,
    /// It has missed something: see [`Txn::look_ahead`].
    pub(crate) missed: bool,
}

/// Most blocks that one round fetches: beyond them an operation is run again.
const ROUND: usize = 64;

/// Changes of one blob within a transaction.
#[derive(Default)]
struct BlobChange {
    delta: i64,
    new: bool,
}

/// A transaction that is under way.
pub(crate) struct Txn<'a> {
    view: &'a dyn View,
    writes: Batch,
    context: Context,
    counted: Counters,
    blobs: BTreeMap<BlobId, BlobChange>,
}

impl<'a> Txn<'a> {
    /// Nothing written yet.
    pub(crate) fn new(view: &'a dyn View, context: Context) -> Self {
        Self {
            view,
            writes: Batch::new(),
            context,
            counted: Counters::NONE,
            blobs: BTreeMap::new(),
        }
    }

    /// The time of the operation.
    pub(crate) fn now(&self) -> Time {
        self.context.now
    }

    /// It happens at this time, whatever a clock says.
    pub(crate) fn happens_at(&mut self, at: Time) {
        self.context.now = at;
    }

    /// The session that is mounted.
    pub(crate) fn session(&self) -> SessionId {
        self.context.session
    }

    /// Hash of a name.
    pub(crate) fn hash(&self, name: &[u8]) -> u64 {
        (self.context.hasher)(name, self.context.seed)
    }

    /// What it does, with blobs settled.
    pub(crate) fn finish(mut self) -> Result<Change, MetaError> {
        self.look_ahead(self.blobs.keys().map(key::blob::key))?;
        for (id, change) in std::mem::take(&mut self.blobs) {
            self.settle(id, &change)?;
        }
        Ok(Change { writes: self.writes, counting: Counting::Add(self.counted) })
    }

    // Keys.

    /// Says which keys it will look at, as far as it knows them: what is missing of all of them is fetched in
    /// one round. Costs nothing while nothing was missed.
    ///
    /// # Errors
    /// [`MetaError::Elsewhere`]. Any other is for whoever looks at that key.
    pub(crate) fn look_ahead(&self, keys: impl IntoIterator<Item = Key>) -> Result<(), MetaError> {
        if !self.context.missed {
            return Ok(());
        }
        let mut missing = Missing::default();
        for key in keys {
            if let Err(MetaError::Elsewhere(more)) = self.view.get(&key) {
                missing.add(more);
            }
            if missing.blocks().len() >= ROUND {
                break;
            }
        }
        if missing.is_empty() { Ok(()) } else { Err(MetaError::Elsewhere(missing)) }
    }

    /// [`Self::look_ahead`] at a directory and a name of it.
    pub(crate) fn look_ahead_at_entry(&self, parent: Ino, name: &[u8]) -> Result<(), MetaError> {
        self.look_ahead([key::inode::key(parent), self.entry_key(parent, name)])
    }

    /// [`Self::look_ahead`] at inodes.
    pub(crate) fn look_ahead_at_inodes(
        &self,
        inos: impl IntoIterator<Item = Ino>,
    ) -> Result<(), MetaError> {
        self.look_ahead(inos.into_iter().map(key::inode::key))
    }

    /// The key of a name of a directory.
    pub(crate) fn entry_key(&self, parent: Ino, name: &[u8]) -> Key {
        key::dentry::key(parent, self.hash(name))
    }

    /// The value of a key.
    pub(crate) fn get(&self, key: &Key) -> Result<Option<Value>, MetaError> {
        if self.writes.is_empty() {
            return self.view.get(key);
        }
        Over { writes: &self.writes, below: self.view }.get(key)
    }

    /// Sets a key.
    pub(crate) fn put(&mut self, key: Key, value: &[u8]) {
        self.writes.insert(key, Some(Value::from(value)));
    }

    /// Sets a key that says all there is to say.
    pub(crate) fn mark(&mut self, key: Key) {
        self.writes.insert(key, Some(Value::default()));
    }

    /// Sets a key to a value that others have too.
    pub(crate) fn share(&mut self, key: Key, value: &Value) {
        self.writes.insert(key, Some(value.clone()));
    }

    /// Removes a key.
    pub(crate) fn remove(&mut self, key: Key) {
        self.writes.insert(key, None);
    }

    /// Sets a key, or removes it when the value is empty.
    pub(crate) fn put_or_remove(&mut self, key: Key, value: &[u8]) {
        match value {
            [] => self.remove(key),
            _ => self.put(key, value),
        }
    }

    /// Shows the keys of a range, rising.
    pub(crate) fn scan(&self, range: Range<Key>, visit: &mut Visit<'_>) -> Scanned {
        self.scan_in(range, Direction::Forward, visit)
    }

    /// The same, falling.
    pub(crate) fn scan_back(&self, range: Range<Key>, visit: &mut Visit<'_>) -> Scanned {
        self.scan_in(range, Direction::Backward, visit)
    }

    fn scan_in(&self, range: Range<Key>, direction: Direction, visit: &mut Visit<'_>) -> Scanned {
        if self.writes.is_empty() {
            return self.view.scan(range, direction, visit);
        }
        Over { writes: &self.writes, below: self.view }.scan(range, direction, visit)
    }

    // Counters.

    /// The counters, before this transaction.
    pub(crate) fn counters(&self) -> Result<Counters, MetaError> {
        self.view.counters()
    }

    /// There are so many inodes more, or less.
    pub(crate) fn count_inodes(&mut self, more: i64) {
        self.counted.inodes += more;
    }

    /// The numbers that are handed out next.
    pub(crate) fn numbers(&self) -> Result<Numbers, MetaError> {
        let value = self.get(&key::numbers::key())?;
        let numbers = value.and_then(|value| Numbers::decode(&value));
        numbers.ok_or_else(|| damaged("the record of the next numbers"))
    }

    /// Sets them.
    pub(crate) fn put_numbers(&mut self, numbers: &Numbers) {
        self.put(key::numbers::key(), &numbers.encode());
    }

    // Inodes.

    /// An inode that must be there.
    pub(crate) fn inode(&self, ino: Ino) -> Result<Inode, MetaError> {
        self.find_inode(ino)?.ok_or(MetaError::NotFound)
    }

    /// An inode, if it is there.
    pub(crate) fn find_inode(&self, ino: Ino) -> Result<Option<Inode>, MetaError> {
        let Some(value) = self.get(&key::inode::key(ino))? else { return Ok(None) };
        Inode::decode(ino, &value).map(Some).ok_or_else(|| damaged("an inode"))
    }

    /// A directory that must be there.
    pub(crate) fn directory(&self, ino: Ino) -> Result<Inode, MetaError> {
        let inode = self.inode(ino)?;
        if inode.is_dir() { Ok(inode) } else { Err(MetaError::NotDirectory) }
    }

    /// Sets an inode.
    pub(crate) fn put_inode(&mut self, inode: &Inode) {
        self.put(key::inode::key(inode.attr.ino), &inode.encode());
    }

    // Entries of directories.

    /// What a name of a directory names.
    pub(crate) fn entry(&self, parent: Ino, name: &[u8]) -> Result<Option<Ino>, MetaError> {
        match self.get(&self.entry_key(parent, name))? {
            Some(bucket) => dentry::find(&bucket, name),
            None => Ok(None),
        }
    }

    /// Adds an entry; the name must be free. The directory's count is the caller's.
    pub(crate) fn add_entry(
        &mut self,
        parent: Ino,
        name: &[u8],
        ino: Ino,
    ) -> Result<(), MetaError> {
        self.edit_entry(parent, name, |bucket| dentry::insert(bucket, name, ino))
    }

    /// Takes an entry away.
    pub(crate) fn remove_entry(&mut self, parent: Ino, name: &[u8]) -> Result<(), MetaError> {
        self.edit_entry(parent, name, |bucket| dentry::remove(bucket, name))
    }

    /// Has an entry name something else; its cookie stays.
    pub(crate) fn replace_entry(
        &mut self,
        parent: Ino,
        name: &[u8],
        ino: Ino,
    ) -> Result<(), MetaError> {
        self.edit_entry(parent, name, |bucket| dentry::replace(bucket, name, ino))
    }

    fn edit_entry(
        &mut self,
        parent: Ino,
        name: &[u8],
        edit: impl FnOnce(&[u8]) -> Result<Vec<u8>, MetaError>,
    ) -> Result<(), MetaError> {
        let key = self.entry_key(parent, name);
        let old = self.get(&key)?;
        let new = edit(old.as_deref().unwrap_or_default())?;
        self.put_or_remove(key, &new);
        Ok(())
    }

    // Extents.

    /// The extent that ends there, if one does.
    pub(crate) fn extent(&self, ino: Ino, end: u64) -> Result<Option<Extent>, MetaError> {
        let key = key::extent::key(ino, end);
        self.get(&key)?.map(|value| decode_extent(&key, &value)).transpose()
    }

    /// Extents from the first that ends at `from` or behind it, in order, until `visit` says stop.
    pub(crate) fn each_extent(
        &self,
        ino: Ino,
        from: u64,
        visit: &mut dyn FnMut(Extent) -> ControlFlow<()>,
    ) -> Result<(), MetaError> {
        let range = key::extent::key(ino, from)..key::extent::of(ino).after_prefix();
        self.scan(range, &mut |key, value| Ok(visit(decode_extent(key, value)?))).map(drop)
    }

    /// The same from the last extent of the file downwards, as long as they end behind `above`.
    pub(crate) fn each_extent_back(
        &self,
        ino: Ino,
        above: u64,
        visit: &mut dyn FnMut(Extent) -> ControlFlow<()>,
    ) -> Result<(), MetaError> {
        let range = key::extent::key(ino, above).successor()..key::extent::of(ino).after_prefix();
        let direction = Direction::Backward;
        self.scan_in(range, direction, &mut |key, value| Ok(visit(decode_extent(key, value)?)))
            .map(drop)
    }

    /// Extents that overlap the range, in order, not clipped, at most `limit`.
    pub(crate) fn extents_in(
        &self,
        ino: Ino,
        range: &Range<u64>,
        limit: usize,
    ) -> Result<Vec<Extent>, MetaError> {
        let mut found = Vec::new();
        if range.is_empty() || limit == 0 {
            return Ok(found);
        }
        self.each_extent(ino, range.start.saturating_add(1), &mut |extent| {
            if extent.offset >= range.end {
                return ControlFlow::Break(());
            }
            found.push(extent);
            if found.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        Ok(found)
    }

    /// Has `new` take the place of the range's extents. Touches only them and their neighbours;
    /// `stored`, the references to blobs and these' live bytes follow. Putting the inode is the caller's.
    pub(crate) fn replace_extents(
        &mut self,
        inode: &mut Inode,
        range: &Range<u64>,
        new: &[Extent],
    ) -> Result<(), MetaError> {
        let ino = inode.attr.ino;
        let mut old = Vec::new();
        self.each_extent(ino, range.start, &mut |extent| {
            if extent.offset > range.end {
                return ControlFlow::Break(());
            }
            old.push(extent);
            ControlFlow::Continue(())
        })?;
        let mut after = Vec::with_capacity(old.len() + new.len());
        extent::replace(&old, range, new, &mut after);
        let stored = |list: &[Extent]| list.iter().map(|e| e.len).sum::<u64>();
        // The last thing that can go wrong: whoever gets an error finds nothing changed.
        inode.attr.stored = (inode.attr.stored + stored(&after))
            .checked_sub(stored(&old))
            .ok_or_else(|| damaged("the size of what a file stores"))?;
        for gone in old.iter().filter(|e| !after.contains_end(e)) {
            self.remove(key::extent::key(ino, extent::end(gone)));
        }
        for extent in after.iter().filter(|e| !old.contains_same(e)) {
            let (value, used) = key::extent::encode(extent);
            self.put(key::extent::key(ino, extent::end(extent)), &value[..used]);
        }
        let reference = |e: &Extent| key::reference::key(&e.place?.blob, ino, extent::end(e));
        for gone in old.iter().filter(|e| !after.contains_reference(e)) {
            reference(gone).into_iter().for_each(|key| self.remove(key));
        }
        for extent in after.iter().filter(|e| !old.contains_reference(e)) {
            reference(extent).into_iter().for_each(|key| self.mark(key));
        }
        old.iter().for_each(|e| self.account(e, -1));
        after.iter().for_each(|e| self.account(e, 1));
        let zeros = |list: &[Extent]| -> u64 {
            list.iter().filter(|e| e.place.is_none()).map(|e| e.len).sum()
        };
        let (before, now) = (zeros(&old), zeros(&after));
        if before != now {
            self.counted.allocated_bytes += now as i64 - before as i64;
        }
        Ok(())
    }

    fn account(&mut self, extent: &Extent, sign: i64) {
        if let Some(place) = extent.place {
            self.blobs.entry(place.blob).or_default().delta += sign * extent.len as i64;
        }
    }

    // Blobs.

    /// A blob's record.
    pub(crate) fn blob(&self, id: &BlobId) -> Result<Option<BlobRecord>, MetaError> {
        let Some(value) = self.get(&key::blob::key(id))? else { return Ok(None) };
        key::blob::decode(*id, &value).map(Some).ok_or_else(|| damaged("a blob's record"))
    }

    /// Accounts for a blob that was put. Without live bytes at the end of the transaction it is
    /// garbage.
    pub(crate) fn add_blob(&mut self, id: BlobId) {
        self.blobs.entry(id).or_default().new = true;
    }

    /// Takes the record of a blob away, if it has no live byte.
    pub(crate) fn forget_blob(&mut self, id: &BlobId) -> Result<(), MetaError> {
        let record = match self.blob(id) {
            // It was deleted for its mark as garbage, so its record said that nothing of it is alive.
            Err(MetaError::Damaged(_)) if self.get(&key::garbage::key(id))?.is_some() => {
                Some(BlobRecord { id: *id, live: 0 })
            }
            record => record?,
        };
        let Some(record) = record.filter(|record| record.live == 0) else { return Ok(()) };
        self.remove(key::blob::key(id));
        self.remove(key::garbage::key(id));
        self.count_blob(&record, -1);
        Ok(())
    }

    /// Writes what a transaction did to one blob.
    fn settle(&mut self, id: BlobId, change: &BlobChange) -> Result<(), MetaError> {
        let known = match self.blob(&id) {
            Err(MetaError::Damaged(why)) if change.delta <= 0 => {
                return self.uncounted(id, change.delta, &why);
            }
            known => known?,
        };
        if change.delta == 0 && (known.is_some() || !change.new) {
            return Ok(());
        }
        let mut record = match (known, change.new) {
            (Some(record), _) if record.live == 0 && change.delta > 0 => {
                return Err(MetaError::Engine(format!("blob {id} was given up as garbage")));
            }
            (Some(record), _) => record,
            (None, true) => {
                let record = BlobRecord { id, live: 0 };
                self.count_blob(&record, 1);
                record
            }
            (None, false) if change.delta <= 0 => {
                return self.uncounted(id, change.delta, "it has no record");
            }
            (None, false) => return Err(damaged(&format!("the record of blob {id}"))),
        };
        let Some(live) = record.live.checked_add_signed(change.delta) else {
            return self.uncounted(id, change.delta, "it counts too few live bytes");
        };
        self.counted.dead_bytes -= record.dead() as i64;
        record.live = live;
        self.counted.dead_bytes += record.dead() as i64;
        self.counted.live_bytes += change.delta;
        if record.live == 0 {
            self.mark(key::garbage::key(&id));
            if is_inline(&id) {
                self.remove(key::inline::key(&id));
            }
        }
        self.put(key::blob::key(&id), &key::blob::encode(&record));
        Ok(())
    }

    /// Fewer bytes of a blob are in use, and its record cannot say so. It is left as it is: the blob
    /// takes room for nothing, until somebody mends it, and no byte is lost.
    fn uncounted(&mut self, id: BlobId, delta: i64, why: &str) -> Result<(), MetaError> {
        tracing::error!(blob = %id, "a blob's live bytes cannot be counted: {why}");
        self.counted.live_bytes += delta;
        Ok(())
    }

    /// There is a blob more, or less.
    fn count_blob(&mut self, record: &BlobRecord, sign: i64) {
        let counted = &mut self.counted;
        counted.blobs += sign;
        counted.blob_bytes += sign * i64::from(record.id.len());
        counted.disk_bytes += sign * on_disks(&record.id) as i64;
        counted.dead_bytes += sign * record.dead() as i64;
    }
}

/// Bytes of disk that a blob's parts take: of an inline one there are none.
pub(crate) fn on_disks(id: &BlobId) -> u64 {
    if is_inline(id) { 0 } else { id.disk_bytes() }
}

/// Membership in a short, ordered list of extents.
trait Extents {
    fn contains_end(&self, extent: &Extent) -> bool;
    fn contains_same(&self, extent: &Extent) -> bool;
    fn contains_reference(&self, extent: &Extent) -> bool;
}

impl Extents for [Extent] {
    /// Is there one that ends where this one does (and so has its key)?
    fn contains_end(&self, extent: &Extent) -> bool {
        self.binary_search_by_key(&extent::end(extent), extent::end).is_ok()
    }

    /// Is this very one among them?
    fn contains_same(&self, extent: &Extent) -> bool {
        self.binary_search_by_key(&extent::end(extent), extent::end)
            .is_ok_and(|at| self[at] == *extent)
    }

    /// Is there one that ends where this one does, in the same blob (and so has its reference)?
    fn contains_reference(&self, extent: &Extent) -> bool {
        let blob = |e: &Extent| e.place.map(|place| place.blob);
        self.binary_search_by_key(&extent::end(extent), extent::end)
            .is_ok_and(|at| blob(&self[at]) == blob(extent))
    }
}

fn decode_extent(key: &Key, value: &[u8]) -> Result<Extent, MetaError> {
    key::extent::parse(key)
        .and_then(|(_, end)| key::extent::decode(end, value))
        .ok_or_else(|| damaged("an extent"))
}

/// Data of the engine make no sense.
pub(crate) fn damaged(what: &str) -> MetaError {
    MetaError::Damaged(format!("{what} is damaged"))
}
