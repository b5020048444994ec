//! `N` blob id: the bytes of an inline blob, which are kept here and not on the slots.

use proto::id::BlobId;

use super::Key;
use super::blob::{pack, unpack};

const TAG: u8 = b'N';

/// Key of an inline blob's bytes.
pub(crate) fn key(id: &BlobId) -> Key {
    Key::tag(TAG).with_bytes(&pack(id))
}

/// The blob a key names.
pub(crate) fn parse(key: &Key) -> Option<BlobId> {
    unpack(key.body(TAG)?)
}

/// Start of all of them.
pub(crate) fn all() -> Key {
    Key::tag(TAG)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::id::{GroupId, SessionId, VolumeId};
    use proto::scheme::Scheme;

    proptest::proptest! {
        #[test]
        fn it_is_read_back(session: u64, sequence: u64) {
            let scheme = Scheme::copies(3).unwrap();
            let id = BlobId::new(VolumeId(1), SessionId(session), sequence, GroupId(0), 9, scheme).unwrap();
            proptest::prop_assert_eq!(parse(&key(&id)), Some(id));
        }
    }
}
