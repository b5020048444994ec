//! `B` blob id: what metadata knows of a blob.
//!
//! ```text
//! offset  size  field                                      (big-endian)
//! 0       8     live       bytes of it that extents refer to
//! 8       1     flags      1: degraded, its parts had to share fail domains
//! ```

use proto::id::BlobId;

use super::Key;
use crate::store::BlobRecord;

const TAG: u8 = b'B';
/// Bytes of a value.
pub(crate) const LEN: usize = 9;
const DEGRADED: u8 = 1;

/// Key of a blob's record.
pub(crate) fn key(id: &BlobId) -> Key {
    Key::tag(TAG).with_bytes(&id.to_bytes())
}

/// The blob a key names.
pub(crate) fn parse(key: &Key) -> Option<BlobId> {
    BlobId::from_bytes(key.body(TAG)?)
}

/// Start of all records.
pub(crate) fn all() -> Key {
    Key::tag(TAG)
}

/// The value of a record.
pub(crate) fn encode(record: &BlobRecord) -> [u8; LEN] {
    let mut out = [0; LEN];
    out[..8].copy_from_slice(&record.live.to_be_bytes());
    out[8] = if record.degraded { DEGRADED } else { 0 };
    out
}

/// The record of a blob; `None` if the value makes no sense.
pub(crate) fn decode(id: BlobId, value: &[u8]) -> Option<BlobRecord> {
    let (live, flags) = value.split_first_chunk::<8>()?;
    let degraded = match flags {
        [0] => false,
        [DEGRADED] => true,
        _ => return None,
    };
    Some(BlobRecord { id, live: u64::from_be_bytes(*live), degraded })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::id::{SessionId, VolumeId};
    use proto::scheme::Scheme;

    proptest::proptest! {
        #[test]
        fn it_is_read_back(session: u64, sequence: u64, live: u64, degraded: bool) {
            let scheme = Scheme::erasure(4, 2).unwrap();
            let id = BlobId::new(VolumeId(1), SessionId(session), sequence, 9, scheme).unwrap();
            let record = BlobRecord { id, live, degraded };
            proptest::prop_assert_eq!(parse(&key(&id)), Some(id));
            proptest::prop_assert_eq!(decode(id, &encode(&record)), Some(record));
        }
    }
}
