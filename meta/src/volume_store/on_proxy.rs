//! Volumes in a group of slots: the metadata's way to the proxy.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use proto::id::{BlobId, Epoch, GroupId, OwnerId, SessionId, VolumeId};
use proto::part_store::{Beat, LastBeat};
use proto::scheme::Scheme;
use proxy::{BlobError, BlobStore};

use crate::volume_store::{StoreError, VolumeStore, VolumeStores, Volumes};

/// In whose name volumes are destroyed.
const DESTROYER: &[u8; 16] = b"ashlar destroyer";

/// The volumes of a group of slots.
pub struct ProxyStores {
    blobs: Arc<dyn BlobStore>,
}

impl ProxyStores {
    /// Of this group.
    pub fn new(blobs: Arc<dyn BlobStore>) -> Self {
        Self { blobs }
    }
}

#[async_trait]
impl VolumeStores for ProxyStores {
    async fn volumes(&self) -> Volumes {
        let found = self.blobs.volumes().await;
        Volumes { ids: found.volumes, missed: found.missed.map(|why| why.to_string()) }
    }

    fn volume(&self, id: VolumeId) -> Arc<dyn VolumeStore> {
        let (blobs, owner) = (self.blobs.clone(), OwnerId::random());
        let unconfirmed = Some(Mutex::default());
        Arc::new(ProxyStore { blobs, volume: id, owner, known: Mutex::default(), unconfirmed })
    }

    fn condemned(&self, id: VolumeId) -> Arc<dyn VolumeStore> {
        let (blobs, owner) = (self.blobs.clone(), OwnerId::from_slice(DESTROYER));
        let owner = owner.expect("an owner is 16 bytes");
        let (known, unconfirmed) = (Mutex::default(), None);
        Arc::new(ProxyStore { blobs, volume: id, owner, known, unconfirmed })
    }
}

/// Most deletes that are asked for again with each one.
const UNCONFIRMED_MOST: usize = 4096;

/// One volume.
struct ProxyStore {
    blobs: Arc<dyn BlobStore>,
    volume: VolumeId,
    /// In whose name it is led.
    owner: OwnerId,
    /// How many units blobs of it can lose: all the same.
    known: Mutex<Option<usize>>,
    /// Deletes that not every slot has confirmed: they are asked for again with the next ones. `None`: they
    /// are not.
    unconfirmed: Option<Mutex<BTreeSet<BlobId>>>,
}

impl From<BlobError> for StoreError {
    fn from(error: BlobError) -> Self {
        match error {
            BlobError::NotFound(_) => Self::NotFound,
            BlobError::Full => Self::Full,
            BlobError::Fenced { epoch, .. } => Self::Fenced(epoch.0),
            error => Self::Unavailable(error.to_string()),
        }
    }
}

#[async_trait]
impl VolumeStore for ProxyStore {
    fn group(&self) -> GroupId {
        self.blobs.group()
    }

    async fn put(&self, id: BlobId, data: Bytes) -> Result<(), StoreError> {
        Ok(self.blobs.put_apart(id, data).await.map(drop)?)
    }

    async fn get(&self, id: BlobId, range: Range<u32>) -> Result<Bytes, StoreError> {
        Ok(self.blobs.get(id, range).await?)
    }

    async fn restore(&self, id: BlobId) -> Result<Option<Bytes>, StoreError> {
        match self.blobs.restore_read(id).await {
            Err(BlobError::NotFound(_)) => Ok(None),
            read => Ok(read.map(Some)?),
        }
    }

    async fn list(
        &self,
        sessions: Range<SessionId>,
        after: Option<BlobId>,
    ) -> Result<Vec<BlobId>, StoreError> {
        // The last id there can be before the first session.
        let before = sessions.start.0.checked_sub(1).map(SessionId);
        let copies = Scheme::copies(1).expect("one copy is a scheme");
        let last = |of| BlobId::new(self.volume, of, u64::MAX, GroupId(u32::MAX), 1, copies);
        let start = before.and_then(last);
        let mut after = after.max(start);
        loop {
            let known = *self.known.lock();
            let page = self.blobs.list_volume(self.volume, after, known).await?.blobs;
            let Some(last) = page.last() else { return Ok(page) };
            self.known.lock().get_or_insert(last.scheme().parity_parts());
            let ended = last.session() >= sessions.end;
            after = Some(*last);
            let within: Vec<BlobId> =
                page.into_iter().filter(|id| sessions.contains(&id.session())).collect();
            if ended || !within.is_empty() {
                return Ok(within);
            }
        }
    }

    async fn room(&self, scheme: Scheme) -> Option<u64> {
        let space = self.blobs.space(self.volume, scheme).await;
        (space.capacity > 0).then_some(space.metadata)
    }

    async fn delete(&self, ids: &[BlobId]) -> Result<(), StoreError> {
        let before = self.unconfirmed.as_ref().map(|kept| std::mem::take(&mut *kept.lock()));
        let mut all = before.unwrap_or_default();
        all.extend(ids);
        let all: Vec<BlobId> = all.into_iter().collect();
        let left = self.blobs.delete(&all).await;
        let why = (!left.is_empty()).then(|| format!("{} deletes are not confirmed", left.len()));
        // While a disk is away for long, those beyond are left to the next mount, which lists what is there.
        let again = left.iter().take(UNCONFIRMED_MOST);
        self.unconfirmed.iter().for_each(|kept| kept.lock().extend(again.clone()));
        why.map_or(Ok(()), |why| Err(StoreError::Unavailable(why)))
    }

    async fn promised(&self, m: usize) -> Result<u64, StoreError> {
        let promise = self.blobs.promised(self.volume, m).await?;
        Ok(promise.map_or(0, |promise| promise.epoch.0))
    }

    fn owner(&self) -> OwnerId {
        self.owner
    }

    async fn beat(&self, beat: Beat) -> Result<(), StoreError> {
        Ok(self.blobs.beat(self.volume, beat).await?)
    }

    async fn last_beats(&self, m: usize) -> Result<Vec<LastBeat>, StoreError> {
        Ok(self.blobs.last_beats(self.volume, m).await?)
    }

    async fn fence(&self, epoch: u64, m: usize) -> Result<(), StoreError> {
        Ok(self.blobs.fence(self.volume, Epoch(epoch), self.owner, m).await?)
    }
}
