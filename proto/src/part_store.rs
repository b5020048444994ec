//! The seam between a proxy and a slot: what can be asked of the place where parts lie.
//!
//! All requests but [`PartStore::get`], [`PartStore::fill`], [`PartStore::standing`], [`PartStore::condition`] and
//! [`PartStore::scrub`] have one order: the slot
//! decides them one after the other, those of one caller in the order in which they were asked, and what one
//! says takes in all that were decided before it (and perhaps some that were decided later). One that is given up by its caller, or whose connection
//! broke, is decided before all that the caller asks afterwards, or never.
//!
//! A slot *serves*, or is *rebuilding*. One that serves is sure of what it does not hold. One that is rebuilding
//! has come to a group that may have been there before it, perhaps in the place of a disk that was lost: what it
//! does not hold it might have had. It takes whatever it is asked to, and its acknowledgements count; but in place of
//! "not here" and "never promised" it says [`PartError::NotRebuilt`], until somebody has declared that it holds all
//! it should: of one volume ([`PartStore::rebuilt`]), or of all ([`PartStore::serve`]). Every slot begins so but
//! those of a group that is new, which whoever makes it has serve.
//!
//! A volume may be *fenced*: the slot has promised it to an epoch and an owner, and refuses whatever would change
//! the volume and comes from an older epoch, another owner of the same epoch, or nobody who says. That is decided
//! in the same order, so nothing that was on its way before a fence lands after it.
//!
//! Whoever has a volume says so every few seconds ([`PartStore::beat`]). A slot remembers in memory what it heard
//! last, for those who ask whether they would take the volume from somebody who is alive; it decides nothing.
//!
//! Implemented in process by `storaged`'s disks, over the network by [`crate::client`], and by a
//! faulty one in tests.

use std::ops::Range;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::checksum::Checked;
use crate::id::{BlobId, Epoch, Generation, OwnerId, PartKey, PartSet, SessionId, VolumeId};

/// One slot.
#[async_trait]
pub trait PartStore: Send + Sync + 'static {
    /// Returns once the part is on stable storage. The same bytes again are fine.
    ///
    /// # Errors
    /// [`PartError::Conflict`] for other bytes under a key it holds, [`PartError::Deleted`] for a
    /// blob it knows to be deleted, [`PartError::Full`] when it takes no more data,
    /// [`PartError::Fenced`] when the volume is not the issuer's.
    async fn put(
        &self,
        key: PartKey,
        data: Checked,
        issuer: Option<Issuer>,
    ) -> Result<(), PartError>;

    /// Exactly the bytes of `range` within the part, verified. `range` is not empty and lies within
    /// the part.
    ///
    /// # Errors
    /// [`PartError::NotFound`] only when the slot is sure, [`PartError::NotRebuilt`] while it is not;
    /// [`PartError::Corrupt`] for rotten bytes.
    async fn get(&self, key: PartKey, range: Range<u32>) -> Result<Bytes, PartError>;

    /// Which parts of the blob are here.
    async fn held(&self, blob: BlobId) -> Result<Held, PartError>;

    /// Deletes all parts of the blobs, durably, and remembers it until [`PartStore::forget`].
    /// Blobs that are not here are remembered as deleted all the same.
    ///
    /// # Errors
    /// [`PartError::Fenced`] when the volume of one of them is not the issuer's; nothing is deleted then.
    async fn delete(&self, blobs: &[BlobId], issuer: Option<Issuer>) -> Result<(), PartError>;

    /// Every slot of the group has confirmed these deletes: they need not be remembered.
    ///
    /// # Errors
    /// As of [`PartStore::delete`].
    async fn forget(&self, blobs: &[BlobId], issuer: Option<Issuer>) -> Result<(), PartError>;

    /// Takes one part away, durably, and remembers nothing of it: its blob is not deleted, and the part may be
    /// put again. One that is not here is taken away already.
    ///
    /// # Errors
    /// [`PartError::Fenced`] when the volume is not the issuer's.
    async fn drop_part(&self, key: PartKey, issuer: Option<Issuer>) -> Result<(), PartError>;

    /// Declares, durably, that the slot holds all that it should of the volume: what it does not hold now was
    /// never its to hold, or is deleted. Who says so has looked, and has put here what was missing. Of one that
    /// serves nothing needs to be said.
    ///
    /// # Errors
    /// [`PartError::Fenced`] when the volume is not the issuer's.
    async fn rebuilt(&self, volume: VolumeId, issuer: Option<Issuer>) -> Result<(), PartError>;

    /// Declares the same, durably, of every volume there may be: from now on the slot serves. To be said of all
    /// slots of a group that is new, and of one that was declared rebuilt for each volume of its group.
    async fn serve(&self) -> Result<(), PartError>;

    /// Promises the volume to this owner for this epoch, durably and for good, until a higher one asks. The
    /// same again is fine.
    ///
    /// # Errors
    /// [`PartError::Fenced`] when a higher epoch was promised, or this one to another owner.
    async fn fence(&self, volume: VolumeId, epoch: Epoch, owner: OwnerId) -> Result<(), PartError>;

    /// The highest epoch that the volume was promised to, and to whom; `None`: it never was.
    ///
    /// # Errors
    /// [`PartError::NotRebuilt`] when a promise may have been lost.
    async fn promised(&self, volume: VolumeId) -> Result<Option<Issuer>, PartError>;

    /// A sign of life of whoever has the volume, or that it has none any more. Costs no I/O, and is forgotten
    /// with the process that serves the slot.
    ///
    /// # Errors
    /// [`PartError::Fenced`] when the volume is not the issuer's.
    async fn beat(&self, volume: VolumeId, issuer: Issuer, beat: Beat) -> Result<(), PartError>;

    /// The last beat of whoever the volume is promised to; `None`: none was heard.
    async fn last_beat(&self, volume: VolumeId) -> Result<Option<LastBeat>, PartError>;

    /// Blobs with parts here, in order of id, after `after`; at most `limit` of them, and fewer when the
    /// slot likes: only [`Page::complete`] says that there are no more.
    async fn list(
        &self,
        scope: Scope,
        after: Option<BlobId>,
        limit: u32,
    ) -> Result<Page, PartError>;

    /// How full the slot's disk is. Only the right disk answers, of the right cluster, whose slot is not
    /// another group's and knows no newer generation. Changes nothing.
    ///
    /// # Errors
    /// [`PartError::WrongAddress`] and [`PartError::StaleGeneration`] as for every request.
    async fn fill(&self) -> Result<Fill, PartError>;

    /// How the slot stands to its group; `None`: nothing was ever asked of it. One that was asked for something,
    /// and does not know, has lost what it held. Changes nothing.
    async fn standing(&self) -> Result<Option<Standing>, PartError>;

    /// How what the slot holds of the volume is, as far as its disk knows by itself. Costs no I/O.
    async fn condition(&self, volume: VolumeId) -> Result<Condition, PartError>;

    /// Has the slot's disk read and verify everything that it holds, from now on and as fast as users allow. Returns
    /// at once; how far it is, [`PartStore::condition`] says. Asked again, it begins again.
    ///
    /// # Errors
    /// [`PartError::Invalid`] when the disk is never scrubbed.
    async fn scrub(&self) -> Result<(), PartError>;
}

/// How what a slot holds of a volume is.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Condition {
    /// What is not here of the volume might have been: the slot is being rebuilt, as far as it goes.
    pub rebuilding: bool,
    /// Blobs of the volume of which parts here are known to be damaged, in order of id: the first of them, at most
    /// [`MAX_LIST`](crate::limits::MAX_LIST).
    pub damaged: Vec<BlobId>,
    /// Parts that the disk holds, of whatever volume.
    pub parts: u64,
    /// How far its scrub is; `None`: it is not scrubbed.
    pub scrub: Option<ScrubState>,
}

/// How far the scrub of a disk is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubState {
    /// When the last full pass ended, in seconds since 1970; 0: none has.
    pub ended: u64,
    /// How much of the current pass is done, in percent; 100 until the next begins.
    pub percent: u64,
    /// Somebody has asked for this pass, and it is not done yet.
    pub asked: bool,
    /// Bytes that are still to be read of it, with what is read beside payloads.
    pub left: u64,
}

/// How a slot stands to its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The newest generation of the group that it was addressed under.
    pub generation: Generation,
    /// It does not serve yet.
    pub rebuilding: bool,
    /// It has promised no volume, and its disk holds no part of anything.
    pub pristine: bool,
}

/// Under whose authority a request changes a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Issuer {
    /// Its epoch.
    pub epoch: Epoch,
    /// Its token.
    pub owner: OwnerId,
}

impl Issuer {
    /// May a volume that is promised so be changed by this issuer, as far as the promise goes?
    ///
    /// # Errors
    /// [`PartError::Fenced`].
    pub fn check(issuer: Option<Self>, promise: Option<Self>) -> Result<(), PartError> {
        match (issuer, promise) {
            (_, None) => Ok(()),
            (Some(issuer), Some(promise)) if issuer == promise || issuer.epoch > promise.epoch => {
                Ok(())
            }
            (_, Some(promise)) => Err(PartError::Fenced { epoch: promise.epoch }),
        }
    }
}

/// Bytes of the name that a beat may carry, at most: slots keep it in memory.
pub const MAX_HOLDER: usize = 255;

/// What whoever has a volume says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Beat {
    /// It is alive, and this is its name for people, of no more than [`MAX_HOLDER`] bytes.
    Alive(String),
    /// It has ended, and writes nothing more.
    Ended,
}

/// The last beat that a slot has heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastBeat {
    /// Of whom.
    pub issuer: Issuer,
    /// What it said.
    pub beat: Beat,
    /// How long ago.
    pub ago: Duration,
}

/// What a listing is of. Ids are ordered so that each is a range of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All blobs of the slot.
    All,
    /// The blobs of one volume.
    Volume(VolumeId),
    /// The blobs of one of its sessions.
    Session(VolumeId, SessionId),
}

/// Some of a listing.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Page {
    /// Blobs, in order of id, each with those of its parts that are here.
    pub entries: Vec<(BlobId, PartSet)>,
    /// Nothing follows the last entry.
    pub complete: bool,
    /// What is not here might have been: the slot is being rebuilt, as far as this listing goes.
    pub rebuilding: bool,
}

/// What a slot holds of one blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Held {
    /// The parts that are here.
    pub parts: PartSet,
    /// The blob is known to be deleted.
    pub deleted: bool,
    /// What is not here might have been: the slot is being rebuilt, as far as the blob's volume goes.
    pub rebuilding: bool,
}

/// How full a disk is, as a level that callers act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FillLevel {
    /// Room.
    Green,
    /// Other groups are preferred.
    Yellow,
    /// No new data.
    Orange,
    /// Deletes only.
    Red,
}

impl FillLevel {
    /// The word users see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Green => "green",
            Self::Yellow => "yellow",
            Self::Orange => "orange",
            Self::Red => "red",
        }
    }

    /// Reads the word back.
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Green, Self::Yellow, Self::Orange, Self::Red]
            .into_iter()
            .find(|l| l.as_str() == word)
    }
}

/// First word of the state of a disk that does not answer.
pub const HANGS: &str = "hangs";

/// Room on a slot's disk, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill {
    /// What records may take in all.
    pub capacity: u64,
    /// What live records take.
    pub used: u64,
    /// What new parts may still take before the disk is orange.
    pub available: u64,
    /// What parts of metadata may take beyond that, so that a full disk can be deleted from.
    pub spare: u64,
    /// The level.
    pub level: FillLevel,
}

/// Why a slot did not do what was asked. One variant per decision of the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PartError {
    /// The slot is sure that it does not hold the part.
    #[error("no such part")]
    NotFound,
    /// It does not hold it, and might have: it is being rebuilt.
    #[error("the slot is being rebuilt, and might have held it")]
    NotRebuilt,
    /// The blob was deleted.
    #[error("the blob is deleted")]
    Deleted,
    /// Other bytes are held under this key; nothing was written.
    #[error("the slot holds other bytes under this key")]
    Conflict,
    /// The part is here, but rotten.
    #[error("the part is corrupt: {0}")]
    Corrupt(String),
    /// No room for new data.
    #[error("the disk is full")]
    Full,
    /// The message was for another cluster, disk, slot or group.
    #[error("wrong address: {0}")]
    WrongAddress(String),
    /// The slot knows a newer generation of the group.
    #[error("the group is at generation {0}")]
    StaleGeneration(Generation),
    /// The volume is promised to another owner, of this epoch.
    #[error("fenced: the volume has another owner, at epoch {epoch}")]
    Fenced {
        /// The epoch.
        epoch: Epoch,
    },
    /// The request makes no sense: lengths that do not add up, a part that cannot be.
    #[error("invalid request: {0}")]
    Invalid(String),
    /// The disk failed.
    #[error("disk error: {0}")]
    Io(String),
    /// The slot could not be reached, or the connection broke: the request may have been done.
    #[error("unreachable: {0}")]
    Unreachable(String),
}

impl PartError {
    /// The reason without the kind, where there is one.
    pub fn reason(&self) -> String {
        match self {
            Self::Corrupt(why)
            | Self::WrongAddress(why)
            | Self::Invalid(why)
            | Self::Io(why)
            | Self::Unreachable(why) => why.clone(),
            other => other.to_string(),
        }
    }
}
