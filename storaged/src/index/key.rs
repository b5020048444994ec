//! The keys of the index: numbers big endian, so that they sort as what they name does.

use std::ops::RangeInclusive;

use proto::id::{BLOB_ID_LEN, BlobId, PartKey, SlotId};

use crate::log::record::Place;

pub(super) const BLOB_KEY: usize = 4 + BLOB_ID_LEN;
pub(super) const PART_KEY: usize = BLOB_KEY + 1;
pub(super) const DEAD_KEY: usize = PART_KEY + 8;

pub(super) type BlobBytes = [u8; BLOB_KEY];
pub(super) type PartBytes = [u8; PART_KEY];
pub(super) type DeadBytes = [u8; DEAD_KEY];

pub(super) fn blob_bytes(slot: SlotId, blob: BlobId) -> BlobBytes {
    let mut out = [0; BLOB_KEY];
    out[..4].copy_from_slice(&slot.0.to_be_bytes());
    out[4..].copy_from_slice(&blob.to_bytes());
    out
}

pub(super) fn part_bytes(slot: SlotId, key: PartKey) -> PartBytes {
    let mut out = [0; PART_KEY];
    out[..BLOB_KEY].copy_from_slice(&blob_bytes(slot, key.blob));
    out[BLOB_KEY] = key.part.get() as u8;
    out
}

pub(super) fn dead_bytes(slot: SlotId, key: PartKey, place: Place) -> DeadBytes {
    let mut out = [0; DEAD_KEY];
    out[..PART_KEY].copy_from_slice(&part_bytes(slot, key));
    out[PART_KEY..].copy_from_slice(&place.pack().to_be_bytes());
    out
}

pub(super) fn key_of(bytes: &[u8]) -> Option<(SlotId, PartKey)> {
    let slot = SlotId(u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?));
    let blob = BlobId::from_bytes(bytes.get(4..BLOB_KEY)?)?;
    Some((slot, PartKey::new(blob, (*bytes.get(BLOB_KEY)?).into())?))
}

pub(super) fn place_of_dead(bytes: &DeadBytes) -> Place {
    let mut packed = [0; 8];
    packed.copy_from_slice(&bytes[PART_KEY..]);
    Place::unpack(u64::from_be_bytes(packed))
}

/// All keys that start with `prefix`.
pub(super) fn prefixed<const N: usize>(prefix: &[u8]) -> RangeInclusive<[u8; N]> {
    let (mut low, mut high) = ([0; N], [0xff; N]);
    low[..prefix.len()].copy_from_slice(prefix);
    high[..prefix.len()].copy_from_slice(prefix);
    low..=high
}
