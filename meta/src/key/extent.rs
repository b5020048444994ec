//! `E` inode end: a run of a file's bytes, under the offset *behind* its last byte. So the runs that
//! touch a range are found by one forward scan from its start, without a search for the one before.
//!
//! Most bytes of the value would be zero, and of fragmented files there are many. So it says which are not, a
//! bit for each byte of the table, the first in the highest bit; and then these.
//!
//! ```text
//! offset  size  field                                      (big-endian)
//! 0       6     which of the 41 bytes below are not zero
//! 6       -     those that are not
//!
//! 0       8     length     bytes of the run; it starts at end - length
//! 8       29    blob       where its bytes are, as in keys; all zero: allocated room that reads as zeros
//! 37      4     offset     first byte within the blob
//! ```

use super::Key;
use super::blob::{PACKED, pack, unpack};
use crate::store::{Extent, Ino, Place};

const TAG: u8 = b'E';
/// Bytes of the table.
const TABLE: usize = 8 + PACKED + 4;
/// Bytes that say which of them are not zero.
const BITS: usize = TABLE.div_ceil(8);
/// Most bytes of a value.
const LEN: usize = BITS + TABLE;

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
pub(crate) fn encode(extent: &Extent) -> ([u8; LEN], usize) {
    let mut table = [0; TABLE];
    table[..8].copy_from_slice(&extent.len.to_be_bytes());
    if let Some(place) = extent.place {
        table[8..8 + PACKED].copy_from_slice(&pack(&place.blob));
        table[8 + PACKED..].copy_from_slice(&place.offset.to_be_bytes());
    }
    let (mut out, mut used) = ([0; LEN], BITS);
    for (at, byte) in table.into_iter().enumerate().filter(|(_, byte)| *byte != 0) {
        out[at / 8] |= 128 >> (at % 8);
        out[used] = byte;
        used += 1;
    }
    (out, used)
}

/// The run that ends at `end`; `None` if the value makes no sense.
pub(crate) fn decode(end: u64, value: &[u8]) -> Option<Extent> {
    let (bits, bytes) = value.split_first_chunk::<BITS>()?;
    let mut set = [0; 8];
    set[..BITS].copy_from_slice(bits);
    let mut set = u64::from_be_bytes(set);
    if set.count_ones() as usize != bytes.len() || bytes.contains(&0) {
        return None;
    }
    let mut table = [0; TABLE];
    for byte in bytes {
        let at = set.leading_zeros();
        *table.get_mut(at as usize)? = *byte;
        set ^= 1 << 63 >> at;
    }
    let (len, rest) = table.split_first_chunk::<8>()?;
    let (blob, offset) = rest.split_first_chunk::<PACKED>()?;
    let len = u64::from_be_bytes(*len);
    let place = match offset.try_into().map(u32::from_be_bytes).ok()? {
        0 if *blob == [0; PACKED] => None,
        offset => Some(Place { blob: unpack(blob)?, offset }),
    };
    Some(Extent { offset: end.checked_sub(len)?, len, place })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::id::{BlobId, GroupId, SessionId, VolumeId};
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

        #[test]
        fn any_bytes_are_read_as_what_they_are_or_refused(
            value in proptest::collection::vec(0u8..4, 0..LEN), end: u64,
        ) {
            if let Some(extent) = decode(end, &value) {
                let (again, used) = encode(&extent);
                proptest::prop_assert_eq!(&again[..used], &value[..]);
            }
        }
    }
}
