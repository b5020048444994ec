//! What the layers of an index are made of: changes over what is below them.

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::id::{DiskId, SlotId, VolumeId};
use proto::part_store::Issuer;

use super::key::{BlobBytes, DeadBytes, PartBytes};
use crate::index::fill::Space;
use crate::log::record::{Membership, Place};

/// A remembered delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tombstone {
    /// Where its record lies.
    pub(crate) place: Place,
    /// It is kept only for dead records that are still there.
    pub(crate) forgotten: bool,
}

impl Tombstone {
    pub(super) fn of((place, forgotten): (u64, u8)) -> Self {
        Self { place: Place::unpack(place), forgotten: forgotten != 0 }
    }
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
#[derive(Clone, Default)]
pub(super) struct Layer {
    pub(super) parts: BTreeMap<PartBytes, Option<Place>>,
    pub(super) tombstones: BTreeMap<BlobBytes, Option<Tombstone>>,
    pub(super) dead: BTreeMap<DeadBytes, bool>,
    pub(super) slots: BTreeMap<SlotId, Membership>,
    pub(super) fences: Fences,
    pub(super) rebuilt: BTreeMap<(SlotId, VolumeId), bool>,
}

/// To whom the volumes of each slot are promised.
pub(crate) type Fences = BTreeMap<(SlotId, VolumeId), Issuer>;

/// Any failure of redb.
pub(crate) type IndexResult<T> = Result<T, redb::Error>;

/// A layer on its way into redb.
pub(crate) struct Checkpoint {
    pub(super) layer: Arc<Layer>,
    pub(super) space: Space,
    pub(super) mark: Mark,
    pub(super) disk: DiskId,
}
