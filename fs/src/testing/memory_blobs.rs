//! A store of blobs in memory that can fail, stall, and be full.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::{Bound, Range};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use proto::id::{BlobId, Epoch, GroupId, OwnerId, SessionId, VolumeId};
use proto::limits::MAX_LIST;
use proto::part_store::{Beat, Issuer, LastBeat};
use proto::scheme::Scheme;
use proxy::{
    BlobError, BlobStore, Listing, SlotStatus, Space, Stored, VolumeRules, Volumes, blob_len,
};
use tokio::sync::Notify;

#[derive(Default)]
pub(crate) struct Inner {
    pub(crate) blobs: BTreeMap<BlobId, Bytes>,
    pub(crate) deleted: HashSet<BlobId>,
    /// Puts that fail next.
    pub(crate) failing_puts: usize,
    /// Of 100 puts, so many fail, half of them after the blob was stored.
    pub(crate) failing_percent: u64,
    pub(crate) stalled: bool,
    pub(crate) listing_fails: bool,
    /// Blobs of each page that was listed.
    pub(crate) listed: Vec<usize>,
    /// Calls that panic: gets, puts, deletes.
    pub(crate) panics: [usize; 3],
    /// What only slots hold that are away.
    pub(crate) unlisted: HashSet<BlobId>,
    pub(crate) deletes_unconfirmed: bool,
    /// Deletes that were asked for, each time counted.
    pub(crate) deletes: usize,
    pub(crate) unreadable: HashSet<BlobId>,
    pub(crate) capacity: Option<u64>,
    /// Blobs that have parts on two of eight slots which are away.
    pub(crate) out_of_reach: HashSet<BlobId>,
    /// Slots are away.
    pub(crate) away: u64,
    pub(crate) delay: Duration,
    pub(crate) gets: Vec<(BlobId, Range<u32>)>,
    pub(crate) puts: u64,
    promises: HashMap<VolumeId, Issuer>,
    random: u64,
}

/// Room that a blob takes in a volume of ec(4,2): its parts with their headers, after redundancy.
fn takes(id: &BlobId) -> u64 {
    id.disk_bytes() / 6 * 4
}

impl Inner {
    /// Room that all blobs take.
    pub(crate) fn takes(&self) -> u64 {
        let in_reach =
            |id| if self.out_of_reach.contains(id) { 2 * takes(id) / 3 } else { takes(id) };
        self.blobs.keys().map(in_reach).sum()
    }

    /// Two of six slots go, with their part of everything that is stored; the others have `more` room.
    pub(crate) fn lose_two(&mut self, more: u64) {
        self.out_of_reach = self.blobs.keys().copied().collect();
        self.away = 0b11;
        self.capacity = Some(self.takes() + more);
        self.deletes_unconfirmed = true;
    }

    /// They come back, and catch up with what was deleted.
    pub(crate) fn return_two(&mut self, capacity: u64) {
        self.out_of_reach.clear();
        self.away = 0;
        self.capacity = Some(capacity);
        self.deletes_unconfirmed = false;
    }
}

pub(crate) struct MemoryBlobs {
    pub(crate) inner: Mutex<Inner>,
    resumed: Notify,
}

impl MemoryBlobs {
    pub(crate) fn new() -> Self {
        let inner = Inner { random: 0x9e37_79b9_7f4a_7c15, ..Inner::default() };
        Self { inner: Mutex::new(inner), resumed: Notify::new() }
    }

    pub(crate) fn resume(&self) {
        self.inner.lock().stalled = false;
        self.resumed.notify_waiters();
    }

    pub(crate) fn used(&self) -> u64 {
        self.inner.lock().blobs.values().map(|bytes| bytes.len() as u64).sum()
    }

    fn panic_if_asked(&self, call: usize) {
        let left = std::mem::take(&mut self.inner.lock().panics[call]);
        if left > 0 {
            self.inner.lock().panics[call] = left - 1;
            panic!("the test says so");
        }
    }

    async fn wait(&self) {
        let delay = self.inner.lock().delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        loop {
            let resumed = self.resumed.notified();
            tokio::pin!(resumed);
            resumed.as_mut().enable();
            if !self.inner.lock().stalled {
                return;
            }
            resumed.await;
        }
    }
}

#[async_trait]
impl BlobStore for MemoryBlobs {
    fn group(&self) -> GroupId {
        GroupId(0)
    }

    async fn put(&self, id: BlobId, data: Bytes) -> Result<Stored, BlobError> {
        assert_eq!(data.len(), id.len() as usize);
        self.wait().await;
        self.panic_if_asked(1);
        let unavailable = || BlobError::Unavailable { id, why: "the test says so".into() };
        let mut inner = self.inner.lock();
        inner.puts += 1;
        if inner.failing_puts > 0 {
            inner.failing_puts -= 1;
            return Err(unavailable());
        }
        if inner.capacity.is_some_and(|capacity| inner.takes() + takes(&id) > capacity) {
            return Err(BlobError::Full);
        }
        inner.random = inner.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let dice = (inner.random >> 33) % 200;
        let failing = 2 * inner.failing_percent;
        if dice < failing / 2 {
            return Err(unavailable());
        }
        assert!(!inner.deleted.contains(&id), "a deleted id is never used again");
        assert!(inner.blobs.insert(id, data).is_none(), "an id is used once");
        if dice < failing { Err(unavailable()) } else { Ok(Stored { degraded: false }) }
    }

    async fn put_apart(&self, id: BlobId, data: Bytes) -> Result<Stored, BlobError> {
        self.put(id, data).await
    }

    async fn restore_read(&self, id: BlobId) -> Result<Bytes, BlobError> {
        self.get(id, 0..id.len()).await
    }

    async fn fence(
        &self,
        volume: VolumeId,
        epoch: Epoch,
        owner: OwnerId,
        _: usize,
    ) -> Result<(), BlobError> {
        let issuer = Issuer { epoch, owner };
        let promises = &mut self.inner.lock().promises;
        match promises.get(&volume).copied() {
            Some(other) if Issuer::check(Some(issuer), Some(other)).is_err() => {
                Err(BlobError::Fenced { volume, epoch: other.epoch })
            }
            _ => {
                promises.insert(volume, issuer);
                Ok(())
            }
        }
    }

    async fn promised(&self, volume: VolumeId, _: usize) -> Result<Option<Issuer>, BlobError> {
        Ok(self.inner.lock().promises.get(&volume).copied())
    }

    async fn beat(&self, _: VolumeId, _: Beat) -> Result<(), BlobError> {
        Ok(())
    }

    async fn last_beats(&self, _: VolumeId, _: usize) -> Result<Vec<LastBeat>, BlobError> {
        Ok(Vec::new())
    }

    async fn get(&self, id: BlobId, range: Range<u32>) -> Result<Bytes, BlobError> {
        self.wait().await;
        self.panic_if_asked(0);
        assert!(range.start < range.end && range.end <= id.len());
        let mut inner = self.inner.lock();
        inner.gets.push((id, range.clone()));
        if inner.unreadable.contains(&id) {
            return Err(BlobError::Unavailable { id, why: "the test says so".into() });
        }
        let blob = inner.blobs.get(&id).ok_or(BlobError::NotFound(id))?;
        Ok(blob.slice(range.start as usize..range.end as usize))
    }

    async fn delete(&self, ids: &[BlobId]) -> Vec<BlobId> {
        self.panic_if_asked(2);
        let mut inner = self.inner.lock();
        inner.deletes += ids.len();
        for id in ids {
            inner.blobs.remove(id);
            inner.deleted.insert(*id);
        }
        if inner.deletes_unconfirmed { ids.to_vec() } else { Vec::new() }
    }

    async fn list(
        &self,
        _: VolumeId,
        session: SessionId,
        after: Option<BlobId>,
    ) -> Result<Listing, BlobError> {
        let mut inner = self.inner.lock();
        if inner.listing_fails {
            let id =
                BlobId::new(VolumeId(1), session, 1, GroupId(0), 1, Scheme::copies(1).unwrap())
                    .unwrap();
            return Err(BlobError::Unavailable { id, why: "the test says so".into() });
        }
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let behind = inner.blobs.range((from, Bound::Unbounded)).map(|(id, _)| id);
        let ours = behind.filter(|id| id.session() == session && !inner.unlisted.contains(id));
        let blobs: Vec<_> = ours.take(MAX_LIST as usize).copied().collect();
        inner.listed.push(blobs.len());
        Ok(Listing { blobs, whole: inner.unlisted.is_empty() })
    }

    async fn list_volume(
        &self,
        volume: VolumeId,
        after: Option<BlobId>,
        _: Option<usize>,
    ) -> Result<Listing, BlobError> {
        let inner = self.inner.lock();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let behind = inner.blobs.range((from, Bound::Unbounded)).map(|(id, _)| *id);
        let blobs = behind.filter(|id| id.volume() == volume).take(MAX_LIST as usize).collect();
        Ok(Listing { blobs, whole: true })
    }

    async fn volumes(&self) -> Volumes {
        let volumes: BTreeSet<_> = self.inner.lock().blobs.keys().map(BlobId::volume).collect();
        Volumes { volumes: volumes.into_iter().collect(), whole: true, missed: None }
    }

    fn abide_by(&self, _: VolumeId, _: VolumeRules) {}

    async fn space(&self, _: VolumeId, scheme: Scheme) -> Space {
        let inner = self.inner.lock();
        let capacity = inner.capacity.unwrap_or(1 << 40);
        Space {
            capacity,
            available: capacity.saturating_sub(inner.takes()),
            metadata: capacity.saturating_sub(inner.takes()),
            uneven: 0,
            blob: blob_len(scheme, capacity / scheme.data_parts() as u64),
            takers: 6,
            needed: 3,
            away: inner.away,
        }
    }

    async fn in_reach(&self, id: BlobId) -> usize {
        let parts = id.scheme().parts();
        if self.inner.lock().out_of_reach.contains(&id) { 2 * parts / 3 } else { parts }
    }

    async fn slots(&self) -> Vec<SlotStatus> {
        Vec::new()
    }
}
