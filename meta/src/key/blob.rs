//! `B` blob id: what metadata knows of a blob. In a key an id takes fewer bytes than elsewhere, in the same
//! order:
//!
//! ```text
//! offset  size  field                                      (big-endian)
//! 0       24    volume, session, sequence and group, as in [`BlobId`]
//! 24      3     length
//! 27      2     codec (5 bits), k (6 bits), m (5 bits)
//! ```
//!
//! The value:
//!
//! ```text
//! offset  size  field                                      (big-endian)
//! 0       8     live       bytes of it that extents refer to
//! ```

use proto::id::{BLOB_ID_LEN, BlobId};

use super::Key;
use crate::store::BlobRecord;

const TAG: u8 = b'B';
/// Bytes of a value.
pub(crate) const LEN: usize = 8;

/// Key of a blob's record.
pub(crate) fn key(id: &BlobId) -> Key {
    Key::tag(TAG).with_bytes(&pack(id))
}

/// The blob a key names.
pub(crate) fn parse(key: &Key) -> Option<BlobId> {
    unpack(key.body(TAG)?)
}

/// Bytes of an id in a key.
pub(crate) const PACKED: usize = 29;

/// An id as it is in keys.
pub(crate) fn pack(id: &BlobId) -> [u8; PACKED] {
    let bytes = id.to_bytes();
    let [codec, k, m] = [bytes[28], bytes[29], bytes[30]].map(u16::from);
    assert!(bytes[24] == 0 && codec < 32 && k < 64 && m < 32, "{id} fits");
    let mut out = [0; PACKED];
    out[..24].copy_from_slice(&bytes[..24]);
    out[24..27].copy_from_slice(&bytes[25..28]);
    out[27..].copy_from_slice(&(codec << 11 | k << 5 | m).to_be_bytes());
    out
}

/// Reads it back; `None` if it is no id.
pub(crate) fn unpack(packed: &[u8]) -> Option<BlobId> {
    let packed: &[u8; PACKED] = packed.try_into().ok()?;
    let scheme = u16::from_be_bytes([packed[27], packed[28]]);
    let mut bytes = [0; BLOB_ID_LEN];
    bytes[..24].copy_from_slice(&packed[..24]);
    bytes[25..28].copy_from_slice(&packed[24..27]);
    let scheme = [scheme >> 11, scheme >> 5 & 63, scheme & 31];
    bytes[28..].copy_from_slice(&scheme.map(|field| field as u8));
    BlobId::from_bytes(&bytes)
}

/// Start of all records.
pub(crate) fn all() -> Key {
    Key::tag(TAG)
}

/// The value of a record.
pub(crate) fn encode(record: &BlobRecord) -> [u8; LEN] {
    record.live.to_be_bytes()
}

/// The record of a blob; `None` if the value makes no sense.
pub(crate) fn decode(id: BlobId, value: &[u8]) -> Option<BlobRecord> {
    Some(BlobRecord { id, live: u64::from_be_bytes(value.try_into().ok()?) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::id::{GroupId, SessionId, VolumeId};
    use proto::limits::MAX_BLOB;
    use proto::scheme::Scheme;

    proptest::proptest! {
        #[test]
        fn it_is_read_back(
            volume: u32, session: u64, sequence: u64, group: u32, len in 1..=MAX_BLOB, k in 1usize..17,
            m in 0usize..9, live: u64,
        ) {
            let scheme = Scheme::erasure(k, m).or(Scheme::copies(m + 1)).unwrap();
            let (volume, session) = (VolumeId(volume), SessionId(session));
            let id = BlobId::new(volume, session, sequence, GroupId(group), len, scheme).unwrap();
            let record = BlobRecord { id, live };
            proptest::prop_assert_eq!(parse(&key(&id)), Some(id));
            proptest::prop_assert_eq!(decode(id, &encode(&record)), Some(record));
        }
    }
}
