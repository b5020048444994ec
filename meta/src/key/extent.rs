//! `E` inode end: a run of a file's bytes, under the offset *behind* its last byte. So the runs that
//! touch a range are found by one forward scan from its start, without a search for the one before.
//!
//! ```text
//! offset  size  field                                      (big-endian)
//! 0       8     length     bytes of the run; it starts at end - length
//! 8       31    blob       where its bytes are; absent: allocated room that reads as zeros
//! 39      4     offset     first byte within the blob
//! ```

use proto::id::{BLOB_ID_LEN, BlobId};

use super::Key;
use crate::store::{Extent, Ino, Place};

const TAG: u8 = b'E';
/// Bytes of a value without a place.
const ZEROS_LEN: usize = 8;
/// Bytes of a value with a place.
const PLACED_LEN: usize = ZEROS_LEN + BLOB_ID_LEN + 4;

/// Key of the run that ends at `end`.
pub(crate) fn key(ino: Ino, end: u64) -> Key {
    Key::tag(TAG).with(ino.0).with(end)
}

/// Inode and end of a key.
pub(crate) fn parse(key: &Key) -> Option<(Ino, u64)> {
    key.two(TAG).map(|(ino, end)| (Ino(ino), end))
}

/// Start of a file's runs.
pub(crate) fn of(ino: Ino) -> Key {
    Key::tag(TAG).with(ino.0)
}

/// Start of all runs.
pub(crate) fn all() -> Key {
    Key::tag(TAG)
}

/// The value of a run, as its buffer and how much of that is used.
pub(crate) fn encode(extent: &Extent) -> ([u8; PLACED_LEN], usize) {
    let mut out = [0; PLACED_LEN];
    out[..8].copy_from_slice(&extent.len.to_be_bytes());
    let Some(place) = extent.place else { return (out, ZEROS_LEN) };
    out[8..8 + BLOB_ID_LEN].copy_from_slice(&place.blob.to_bytes());
    out[8 + BLOB_ID_LEN..].copy_from_slice(&place.offset.to_be_bytes());
    (out, PLACED_LEN)
}

/// The run that ends at `end`; `None` if the value makes no sense.
pub(crate) fn decode(end: u64, value: &[u8]) -> Option<Extent> {
    let (len, place) = value.split_first_chunk::<8>()?;
    let len = u64::from_be_bytes(*len);
    let place = match place {
        [] => None,
        _ => {
            let (blob, offset) = place.split_at_checked(BLOB_ID_LEN)?;
            let offset = u32::from_be_bytes(offset.try_into().ok()?);
            Some(Place { blob: BlobId::from_bytes(blob)?, offset })
        }
    };
    Some(Extent { offset: end.checked_sub(len)?, len, place })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::id::{GroupId, SessionId, VolumeId};
    use proto::scheme::Scheme;

    proptest::proptest! {
        #[test]
        fn it_is_read_back(ino: u64, start in 0u64..1 << 62, len in 1u64..1 << 40, at: u32, placed: bool) {
            let blob = BlobId::new(VolumeId(1), SessionId(ino), start, GroupId(0), 77, Scheme::copies(3).unwrap());
            let place = placed.then(|| Place { blob: blob.unwrap(), offset: at });
            let extent = Extent { offset: start, len, place };
            let key = key(Ino(ino), start + len);
            let (value, used) = encode(&extent);
            proptest::prop_assert_eq!(parse(&key), Some((Ino(ino), start + len)));
            proptest::prop_assert_eq!(decode(start + len, &value[..used]), Some(extent));
            proptest::prop_assert_eq!(decode(start + len, &value[..used - 1]), None);
        }
    }
}
