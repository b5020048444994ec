//! The seam between a filesystem and the proxy: whole blobs in, ranges of blobs out.

use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use proto::id::{BlobId, Epoch, GroupId, OwnerId, SessionId, VolumeId};
use proto::part_store::{Beat, Issuer, LastBeat};
use proto::scheme::Scheme;

use crate::rules::VolumeRules;

/// Keeps immutable blobs. Implemented by [`crate::Proxy`] and, in tests, by a faulty one.
#[async_trait]
pub trait BlobStore: Send + Sync + 'static {
    /// The group that new blobs go to: whoever makes an id puts it in.
    fn group(&self) -> GroupId;

    /// How blobs of the volume may lie from now on. Of a volume that nobody has told this of they lie as on a map
    /// that has not changed, with one disk to spare.
    fn abide_by(&self, volume: VolumeId, rules: VolumeRules);

    /// Succeeds only when every part is on stable storage. `data` has exactly `id.len()` bytes.
    ///
    /// A failed put promises nothing: the blob may or may not be readable later. Every wait is
    /// bounded.
    ///
    /// # Errors
    /// [`BlobError::Fenced`] as soon as one slot says so: somebody else has begun to take the volume over.
    async fn put(&self, id: BlobId, data: Bytes) -> Result<Stored, BlobError>;

    /// The same for blobs of a journal: every part on a unit of its own, or it fails. `copies(m + 1)` put
    /// so cannot be stored past a fence that all but m domains know, and with m domains silent it can be told
    /// whether they are there.
    async fn put_apart(&self, id: BlobId, data: Bytes) -> Result<Stored, BlobError>;

    /// Exactly the bytes of `range`, which is not empty and lies within the blob.
    ///
    /// # Errors
    /// [`BlobError::NotFound`] only when absence is proven; else [`BlobError::Unavailable`].
    async fn get(&self, id: BlobId, range: Range<u32>) -> Result<Bytes, BlobError>;

    /// All bytes of a blob that was put apart, once every part of it has been seen, or written again and
    /// acknowledged, on a domain of its own: after that nobody is told that it is not there.
    ///
    /// # Errors
    /// [`BlobError::NotFound`] when its absence is proven; it may succeed later all the same, when slots are back
    /// that were silent. All else as of [`BlobStore::put`] and [`BlobStore::get`].
    async fn restore_read(&self, id: BlobId) -> Result<Bytes, BlobError>;

    /// Has the volume promised to this owner for this epoch by the slots of all but `m` units (or but one host or rack, where that will do), and from
    /// then on changes the volume in its name. The same again is fine.
    ///
    /// # Errors
    /// [`BlobError::Fenced`] when a slot has promised it otherwise, and too few are left;
    /// [`BlobError::TooFewSlots`] when too few answer. Some may have promised it: a higher epoch may be needed.
    async fn fence(
        &self,
        volume: VolumeId,
        epoch: Epoch,
        owner: OwnerId,
        m: usize,
    ) -> Result<(), BlobError>;

    /// The highest promise that slots of all but `m` units know of, or even more of them.
    ///
    /// # Errors
    /// [`BlobError::TooFewSlots`].
    async fn promised(&self, volume: VolumeId, m: usize) -> Result<Option<Issuer>, BlobError>;

    /// From now on changes the volume in the name of whoever has taken it over elsewhere, and lets this be done for
    /// that one; nothing is promised to anybody by it. Nothing to do where slots ask for no name.
    fn act_for(&self, _volume: VolumeId, _issuer: Issuer) {}

    /// Tells every slot that is up how whoever has the volume is: who changes it by this. Nothing where nobody does.
    ///
    /// # Errors
    /// [`BlobError::Fenced`] when a slot has promised the volume to another since.
    async fn beat(&self, volume: VolumeId, beat: Beat) -> Result<(), BlobError>;

    /// What slots of all but `m` units, or even more of them, have heard last of whoever has the volume.
    ///
    /// # Errors
    /// [`BlobError::TooFewSlots`].
    async fn last_beats(&self, volume: VolumeId, m: usize) -> Result<Vec<LastBeat>, BlobError>;

    /// Deletes blobs on every slot of the group. Returns those that not every slot has confirmed:
    /// the caller asks again for them later. Confirmed ones are forgotten by the slots.
    async fn delete(&self, ids: &[BlobId]) -> Vec<BlobId>;

    /// Blobs of a session that some slot holds a part of, in order, after `after`: a page of them. An
    /// empty page is the end.
    ///
    /// # Errors
    /// [`BlobError::TooFewSlots`] when so many slots are silent that a whole blob could be missed.
    async fn list(
        &self,
        volume: VolumeId,
        session: SessionId,
        after: Option<BlobId>,
    ) -> Result<Listing, BlobError>;

    /// The same of all sessions of a volume. None is missing that was put apart and survives the loss of `m` fail
    /// domains: so many may be silent. `None`: as many as those that are found survive, or one.
    ///
    /// # Errors
    /// [`BlobError::TooFewSlots`] when more are silent.
    async fn list_volume(
        &self,
        volume: VolumeId,
        after: Option<BlobId>,
        m: Option<usize>,
    ) -> Result<Listing, BlobError>;

    /// The volumes of which some slot that answers holds parts.
    async fn volumes(&self) -> Volumes;

    /// Room for user data, after redundancy, for blobs of `scheme` of the volume. From what slots last said.
    async fn space(&self, volume: VolumeId, scheme: Scheme) -> Space;

    /// How many parts of a blob are on slots that take writes: what deleting it gives back on those.
    async fn in_reach(&self, id: BlobId) -> usize;

    /// Every slot, as last seen.
    async fn slots(&self) -> Vec<SlotStatus>;
}

/// How a successful put ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Parts are less spread out than they would be with all disks up: repair will mend that.
    pub degraded: bool,
}

/// A page of the blobs of a session.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Listing {
    /// All that can be read, in order, and more or less of those that cannot.
    pub blobs: Vec<BlobId>,
    /// Has every slot answered? One that has not may hold parts of further blobs, too few to read.
    pub whole: bool,
}

/// The volumes that have blobs.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Volumes {
    /// All with a blob that can be read, in order, and more or less of the others.
    pub volumes: Vec<VolumeId>,
    /// Has every slot answered?
    pub whole: bool,
    /// Why others may be missing: so many slots are silent that they could hold all of one.
    pub missed: Option<BlobError>,
}

/// Room in bytes of user data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Space {
    /// All there is.
    pub capacity: u64,
    /// What may still be written.
    pub available: u64,
    /// What metadata may still take, in bytes of theirs: more than data, on a full disk.
    pub metadata: u64,
    /// What chance may leave unused of all there is, as it spreads parts unevenly.
    pub uneven: u64,
    /// Bytes of the blobs that large data should be cut into: [`TARGET_BLOB`](proto::limits::TARGET_BLOB),
    /// or fewer where the disks are so small that few parts would fit on each.
    pub blob: u32,
    /// Disks that take writes.
    pub takers: usize,
    /// Disks that must take writes for a blob to be put, whatever room they have.
    pub needed: usize,
    /// The slots that take no writes, a bit for each.
    pub away: u64,
}

impl Space {
    /// Can no blob be put, because disks are away, or fail?
    pub fn is_cut_off(&self) -> bool {
        self.takers < self.needed
    }
}

/// One slot as the proxy sees it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SlotStatus {
    /// Its number in the group, from 0.
    pub index: usize,
    /// Disk id.
    pub disk: String,
    /// Address or path.
    pub place: String,
    /// Its host: what fails together.
    pub domain: String,
    /// Its rack; empty where it has none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub rack: String,
    /// `up`, or what is wrong.
    pub state: String,
    /// green, yellow, orange, red, or unknown.
    pub fill: String,
    /// Bytes that records may take in all.
    pub capacity: u64,
    /// Bytes of live records.
    pub used: u64,
    /// Bytes that new parts may still take.
    #[serde(default)]
    pub available: u64,
}

/// Why the proxy did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlobError {
    /// Proven: the blob was never acknowledged, or is deleted.
    #[error("no such blob: {0}")]
    NotFound(BlobId),
    /// Too many slots are failed or silent to say or do more.
    #[error("blob {id} is unavailable: {why}")]
    Unavailable {
        /// The blob.
        id: BlobId,
        /// Which slots stand in the way.
        why: String,
    },
    /// Too few slots answer to do what concerns no single blob.
    #[error("{doing}: too few slots answer: {why}")]
    TooFewSlots {
        /// What was to be done.
        doing: String,
        /// Which slots stand in the way.
        why: String,
        /// Some of them were emptied, and cannot say what they had held.
        emptied: bool,
    },
    /// The volume is promised to another owner, of this epoch.
    #[error("volume {volume} has another owner, at epoch {epoch}")]
    Fenced {
        /// The volume.
        volume: VolumeId,
        /// The epoch.
        epoch: Epoch,
    },
    /// No room for new data.
    #[error("the disks are full")]
    Full,
    /// Other bytes are stored under this id: a bug of the caller.
    #[error("blob {0} already holds other bytes")]
    Conflict(BlobId),
    /// The request makes no sense.
    #[error("invalid request: {0}")]
    Invalid(String),
}
