//! The store of tests: blobs in memory, that any number of mounts share, with faults.
//!
//! A handle is one mount's way to it. It can be cut off, as a crash of that mount does it: what it had sent
//! may or may not have arrived.

use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use proto::id::{BlobId, Epoch, GroupId, OwnerId, SessionId, VolumeId};
use proto::part_store::{Beat, Issuer, LastBeat};
use proto::scheme::Scheme;
use tokio::sync::Semaphore;
use tokio::time::{Duration, Instant, sleep};

use crate::key;
use crate::store::{MetaError, ROOT};
use crate::txn::Txn;
use crate::volume::opened::Volume;
use crate::volume_store::{StoreError, VolumeStore, VolumeStores, Volumes};

/// One mount's way to the store of one volume.
pub struct MemoryStore {
    volume: VolumeId,
    shared: Arc<Mutex<Shared>>,
    owner: u64,
    epoch: Mutex<u64>,
    /// Requests that still arrive.
    left: Mutex<u64>,
    /// Requests so far.
    requests: Mutex<u64>,
    /// What was never acknowledged is on slots that are silent as long as this lives.
    blind: bool,
}

#[derive(Default)]
struct Shared {
    blobs: BTreeMap<BlobId, Stored>,
    /// Of each volume: the epoch, and who has it.
    promised: BTreeMap<VolumeId, (u64, u64)>,
    owners: u64,
    /// Of each volume: what its owner said last, and when.
    beats: BTreeMap<VolumeId, (Issuer, Beat, Instant)>,
    /// Whether the next puts fail, and what becomes of their blobs.
    faults: Vec<Fault>,
    /// Which puts fail besides.
    failing: Option<Failing>,
    dice: u64,
    puts: u64,
    /// Bytes that may still be put; `None`: any number.
    room: Option<u64>,
    /// What deletes wait for.
    gate: Option<Arc<Semaphore>>,
}

/// Whether a put fails, and how.
type Failing = Box<dyn Fn(BlobId) -> Option<Fault> + Send>;

struct Stored {
    bytes: Bytes,
    /// Was its put acknowledged?
    whole: bool,
}

/// What goes wrong with a put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails, and nothing is stored.
    Lost,
    /// It fails, and some parts are stored.
    Partial,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::of(Arc::default(), VolumeId(3))
    }
}

/// The owner in whose name volumes are destroyed: others count from 1.
const DESTROYER: u64 = 0;

/// A cluster's store in memory, with any number of volumes.
#[derive(Default)]
pub struct MemoryStores {
    shared: Arc<Mutex<Shared>>,
}

impl Shared {
    /// A number by chance; 0 where nothing is left to chance.
    fn throw(&mut self) -> u64 {
        // Marsaglia's xorshift.
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        self.dice
    }
}

#[async_trait]
impl VolumeStores for MemoryStores {
    async fn volumes(&self) -> Volumes {
        let mut ids: Vec<_> = self.shared.lock().blobs.keys().map(BlobId::volume).collect();
        ids.dedup();
        Volumes { ids, missed: None }
    }

    fn volume(&self, id: VolumeId) -> Arc<dyn VolumeStore> {
        Arc::new(MemoryStore::of(self.shared.clone(), id))
    }

    fn condemned(&self, id: VolumeId) -> Arc<dyn VolumeStore> {
        Arc::new(MemoryStore { owner: DESTROYER, ..MemoryStore::of(self.shared.clone(), id) })
    }
}

impl MemoryStores {
    /// A mount's way to the store of one volume.
    pub fn store(&self, id: VolumeId) -> MemoryStore {
        MemoryStore::of(self.shared.clone(), id)
    }
}

impl MemoryStore {
    fn of(shared: Arc<Mutex<Shared>>, volume: VolumeId) -> Self {
        let (owner, blind) = {
            let mut shared = shared.lock();
            shared.owners += 1;
            (shared.owners, shared.throw().is_multiple_of(2) && shared.dice != 0)
        };
        Self {
            volume,
            shared,
            owner,
            epoch: Mutex::new(0),
            left: Mutex::new(u64::MAX),
            requests: Mutex::new(0),
            blind,
        }
    }

    /// Another mount's way to the same store.
    #[must_use]
    pub fn another(&self) -> Self {
        Self::of(self.shared.clone(), self.volume)
    }

    /// Nothing that this mount sends from now on arrives; it is not told so.
    pub fn cut(&self) {
        self.cut_after(0);
    }

    /// As [`Self::cut`], after so many more requests.
    pub fn cut_after(&self, requests: u64) {
        *self.left.lock() = requests;
    }

    /// Requests that this mount has sent.
    pub fn requests(&self) -> u64 {
        *self.requests.lock()
    }

    /// The next puts of anybody fail so.
    pub fn fail_next(&self, faults: &[Fault]) {
        self.shared.lock().faults.extend_from_slice(faults);
    }

    /// From now on puts of anybody fail so, as long as this says it.
    pub fn fail_if(&self, failing: impl Fn(BlobId) -> Option<Fault> + Send + 'static) {
        self.shared.lock().failing = Some(Box::new(failing));
    }

    /// A blob that shows up late: never acknowledged, on slots that were silent.
    pub fn turn_up(&self, id: BlobId, bytes: Vec<u8>) {
        self.shared.lock().blobs.insert(id, Stored { bytes: bytes.into(), whole: false });
    }

    /// Chance from this seed on: requests overtake one another, and every other mount sees nothing of what
    /// was never acknowledged.
    pub fn shuffle(&self, seed: u64) {
        self.shared.lock().dice = seed | 1;
    }

    /// From now on deletes of anybody wait, until a permit is added to this.
    pub fn hold_deletes(&self) -> Arc<Semaphore> {
        let gate = Arc::new(Semaphore::new(0));
        self.shared.lock().gate = Some(gate.clone());
        gate
    }

    /// From now on there is room for so many more bytes.
    pub fn limit_room(&self, bytes: u64) {
        self.shared.lock().room = Some(bytes);
    }

    /// Puts so far.
    pub fn puts(&self) -> u64 {
        self.shared.lock().puts
    }

    /// Names of all blobs.
    pub fn names(&self) -> Vec<BlobId> {
        self.shared.lock().blobs.keys().copied().collect()
    }

    /// Changes a blob's bytes, as a store that lies would; `None` takes it away.
    pub fn tamper(&self, id: BlobId, change: impl FnOnce(Vec<u8>) -> Option<Vec<u8>>) {
        let mut shared = self.shared.lock();
        let Some(mut stored) = shared.blobs.remove(&id) else { return };
        if let Some(bytes) = change(stored.bytes.to_vec()) {
            stored.bytes = bytes.into();
            shared.blobs.insert(id, stored);
        }
    }

    /// A time that differs from request to request.
    async fn travel(&self) -> Result<(), StoreError> {
        let dice = self.shared.lock().throw();
        match dice % 4 {
            0 => tokio::task::yield_now().await,
            more => sleep(Duration::from_millis(more * (dice >> 8) % 20)).await,
        }
        *self.requests.lock() += 1;
        let arrives = {
            let mut left = self.left.lock();
            let arrives = *left > 0;
            *left = left.saturating_sub(1);
            arrives
        };
        if !arrives {
            std::future::pending::<()>().await;
        }
        Ok(())
    }

    fn obeyed(&self, shared: &Shared) -> Result<(), StoreError> {
        let promised = shared.promised.get(&self.volume).copied().unwrap_or_default();
        let mine = promised == (*self.epoch.lock(), self.owner);
        if mine { Ok(()) } else { Err(StoreError::Fenced(promised.0)) }
    }
}

#[async_trait]
impl VolumeStore for MemoryStore {
    fn group(&self) -> GroupId {
        GroupId(2)
    }

    async fn put(&self, id: BlobId, data: Bytes) -> Result<(), StoreError> {
        self.travel().await?;
        let mut shared = self.shared.lock();
        self.obeyed(&shared)?;
        assert_eq!(data.len(), id.len() as usize, "a blob has the length of its name");
        let room = shared.room.unwrap_or(u64::MAX);
        if u64::from(id.len()) > room {
            return Err(StoreError::Full);
        }
        shared.puts += 1;
        let fault = shared.faults.pop();
        let fault = fault.or_else(|| shared.failing.as_ref().and_then(|failing| failing(id)));
        if fault == Some(Fault::Lost) {
            return Err(StoreError::Unavailable("the test loses it".to_owned()));
        }
        if let Some(held) = shared.blobs.get(&id) {
            assert_eq!(held.bytes, data, "one name, two contents: {id}");
        }
        let whole = fault.is_none() || shared.blobs.get(&id).is_some_and(|stored| stored.whole);
        if shared.blobs.insert(id, Stored { bytes: data, whole }).is_none()
            && let Some(room) = &mut shared.room
        {
            *room -= u64::from(id.len());
        }
        match fault {
            Some(_) => Err(StoreError::Unavailable("the test stores a part of it".to_owned())),
            None => Ok(()),
        }
    }

    async fn get(&self, id: BlobId, range: Range<u32>) -> Result<Bytes, StoreError> {
        self.travel().await?;
        let shared = self.shared.lock();
        let stored = shared.blobs.get(&id).ok_or(StoreError::NotFound)?;
        Ok(stored.bytes.slice(range.start as usize..range.end as usize))
    }

    async fn restore(&self, id: BlobId) -> Result<Option<Bytes>, StoreError> {
        self.travel().await?;
        let mut shared = self.shared.lock();
        let silent = self.blind || shared.throw() % 4 == 1;
        let Some(stored) = shared.blobs.get_mut(&id) else { return Ok(None) };
        if !stored.whole && silent {
            return Ok(None);
        }
        stored.whole = true;
        Ok(Some(stored.bytes.clone()))
    }

    async fn list(
        &self,
        sessions: Range<SessionId>,
        after: Option<BlobId>,
    ) -> Result<Vec<BlobId>, StoreError> {
        self.travel().await?;
        let shared = self.shared.lock();
        let seen = shared.blobs.iter().filter(|(_, stored)| stored.whole || !self.blind);
        let listed = seen.map(|(id, _)| *id).filter(|id| {
            let within = id.volume() == self.volume && sessions.contains(&id.session());
            within && after.is_none_or(|after| *id > after)
        });
        Ok(listed.take(7).collect())
    }

    async fn room(&self, _: Scheme) -> Option<u64> {
        self.shared.lock().room
    }

    async fn delete(&self, ids: &[BlobId]) -> Result<(), StoreError> {
        let gate = self.shared.lock().gate.clone();
        if let Some(gate) = gate {
            drop(gate.acquire().await);
        }
        self.travel().await?;
        let mut shared = self.shared.lock();
        self.obeyed(&shared)?;
        for id in ids {
            if let (Some(stored), Some(room)) = (shared.blobs.remove(id), &mut shared.room) {
                *room += stored.bytes.len() as u64;
            }
        }
        Ok(())
    }

    async fn promised(&self, _: usize) -> Result<u64, StoreError> {
        self.travel().await?;
        Ok(self.shared.lock().promised.get(&self.volume).map_or(0, |(epoch, _)| *epoch))
    }

    fn owner(&self) -> OwnerId {
        let owner = u128::from(self.owner).to_be_bytes();
        OwnerId::from_slice(&owner).expect("an owner is 16 bytes")
    }

    // Beats come at times of their own, and are no steps of what a test does: they do not travel.
    async fn beat(&self, beat: Beat) -> Result<(), StoreError> {
        if *self.left.lock() > 0 {
            let mut shared = self.shared.lock();
            self.obeyed(&shared)?;
            let issuer = Issuer { epoch: Epoch(*self.epoch.lock()), owner: self.owner() };
            shared.beats.insert(self.volume, (issuer, beat, Instant::now()));
        }
        Ok(())
    }

    async fn last_beats(&self, _: usize) -> Result<Vec<LastBeat>, StoreError> {
        let last = self.shared.lock().beats.get(&self.volume).cloned();
        let last = last.map(|(issuer, beat, at)| LastBeat { issuer, beat, ago: at.elapsed() });
        Ok(last.into_iter().collect())
    }

    async fn fence(&self, epoch: u64, _: usize) -> Result<(), StoreError> {
        self.travel().await?;
        let mut shared = self.shared.lock();
        let (promised, owner) = shared.promised.get(&self.volume).copied().unwrap_or_default();
        if epoch < promised || (epoch == promised && owner != self.owner) {
            return Err(StoreError::Fenced(promised));
        }
        shared.promised.insert(self.volume, (epoch, self.owner));
        *self.epoch.lock() = epoch;
        Ok(())
    }
}

/// What a fault of this program could do to the metadata of a volume: whole records that are right by
/// themselves, and do not fit together. For tests of who finds and mends it.
///
/// # Errors
/// When the engine fails, or there is no such file.
pub async fn disarray(
    volume: &Volume,
    nameless: &[u8],
    miscounted: &[u8],
) -> Result<(), MetaError> {
    let lost = |txn: &mut Txn<'_>| {
        txn.entry(ROOT, nameless)?.ok_or(MetaError::NotFound)?;
        txn.remove_entry(ROOT, nameless)?;
        let ino = txn.entry(ROOT, miscounted)?.ok_or(MetaError::NotFound)?;
        let mut inode = txn.inode(ino)?;
        inode.attr.nlink += 1;
        txn.put_inode(&inode);
        txn.count_inodes(7);
        let all = key::reference::all();
        let mut references = Vec::new();
        let _whole = txn.scan(all..all.after_prefix(), &mut |key, _| {
            references.push(*key);
            Ok(ControlFlow::Continue(()))
        })?;
        references.into_iter().for_each(|key| txn.remove(key));
        Ok(())
    };
    volume.write(SessionId(0), lost).await?;
    volume.kv.sync().await
}
