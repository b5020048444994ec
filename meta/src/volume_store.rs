//! The seam between a volume's metadata and the store that keeps it; and what its blobs are called there, so that
//! they are found without an index ([`names`]).

pub(crate) mod on_proxy;

pub(crate) mod names;

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use proto::id::{BlobId, GroupId, OwnerId, SessionId, VolumeId};
use proto::part_store::{Beat, LastBeat};
use proto::scheme::Scheme;

/// The store of one volume, as its metadata use it. Every wait is bounded.
#[async_trait]
pub trait VolumeStore: Send + Sync + 'static {
    /// The group whose slots keep new blobs.
    fn group(&self) -> GroupId;

    /// Returns once every copy is on stable storage, each in a unit of its own. The same bytes
    /// again are fine.
    async fn put(&self, id: BlobId, data: Bytes) -> Result<(), StoreError>;

    /// The bytes of a range.
    async fn get(&self, id: BlobId, range: Range<u32>) -> Result<Bytes, StoreError>;

    /// The whole blob, once all its parts are where they belong: after that no later read may say that
    /// it is absent. `None`: proven never to have been acknowledged.
    async fn restore(&self, id: BlobId) -> Result<Option<Bytes>, StoreError>;

    /// The volume's blobs of sessions within `sessions`, in order, after `after`: a page of them. An
    /// empty page is the end. No acknowledged blob of metadata is missing,
    /// as they are put apart.
    async fn list(
        &self,
        sessions: Range<SessionId>,
        after: Option<BlobId>,
    ) -> Result<Vec<BlobId>, StoreError>;

    /// Bytes of blobs, protected by this scheme, that may still be put; `None`: nobody knows yet. Cheap.
    async fn room(&self, scheme: Scheme) -> Option<u64>;

    /// Deletes blobs; the store goes on until every slot has confirmed.
    async fn delete(&self, ids: &[BlobId]) -> Result<(), StoreError>;

    /// The highest epoch that enough slots (all but `m` units) know to be promised to anybody; 0: none.
    async fn promised(&self, m: usize) -> Result<u64, StoreError>;

    /// In whose name [`Self::fence`] asks.
    fn owner(&self) -> OwnerId;

    /// Tells the slots how the owner is, once it has fenced the volume.
    async fn beat(&self, beat: Beat) -> Result<(), StoreError>;

    /// What enough slots (all but `m` units) have heard last of whoever has the volume.
    async fn last_beats(&self, m: usize) -> Result<Vec<LastBeat>, StoreError>;

    /// From when this returns, enough slots (all but `m` units) know it: none of them takes anything from a
    /// lower epoch, or from another owner of this one; all requests of this store are in the name of this
    /// epoch from now on.
    async fn fence(&self, epoch: u64, m: usize) -> Result<(), StoreError>;
}

/// The stores of all volumes of a cluster.
#[async_trait]
pub trait VolumeStores: Send + Sync {
    /// The volumes that have any blob.
    async fn volumes(&self) -> Volumes;

    /// The store of one.
    fn volume(&self, id: VolumeId) -> Arc<dyn VolumeStore>;

    /// The store of one that is destroyed. All who destroy it are one owner, so that each can go on with what
    /// another has begun; and deletes that are not confirmed are not asked for again, but by whoever finds
    /// the blobs listed.
    fn condemned(&self, id: VolumeId) -> Arc<dyn VolumeStore>;
}

/// Volumes that have blobs.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Volumes {
    /// Their numbers, in order.
    pub ids: Vec<VolumeId>,
    /// Why others may be missing; `None`: none that was acknowledged is.
    pub missed: Option<String>,
}

/// Why the store did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The volume was taken over: its slots obey a leader with this epoch.
    #[error("the volume was taken over by another mount, its epoch is {0}")]
    Fenced(u64),
    /// No such blob: proven.
    #[error("no such blob")]
    NotFound,
    /// No room.
    #[error("the disks are full")]
    Full,
    /// Too few disks answer.
    #[error("{0}")]
    Unavailable(String),
}
