//! `D` parent hash: the entries of a directory whose names have that hash
//! ([`crate::record::dentry::Bucket`]), nearly always one.
//!
//! The hash has 55 bits and is at least 1, so that `hash << 8 | disc` is a cookie of readdir that
//! is stable while other entries come and go, above those of `.` and `..`, and below 2^63.

use super::Key;
use crate::store::Ino;

const TAG: u8 = b'D';

/// Bits of a name's hash.
pub(crate) const HASH_BITS: u32 = 55;

/// Key of the entries with this hash.
pub(crate) fn key(parent: Ino, hash: u64) -> Key {
    Key::tag(TAG).with(parent.0).with(hash)
}

/// Directory and hash of a key.
pub(crate) fn parse(key: &Key) -> Option<(Ino, u64)> {
    key.two(TAG).map(|(parent, hash)| (Ino(parent), hash))
}

/// Start of a directory's entries.
pub(crate) fn of(parent: Ino) -> Key {
    Key::tag(TAG).with(parent.0)
}

/// Start of all entries.
pub(crate) fn all() -> Key {
    Key::tag(TAG)
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn it_is_read_back(parent: u64, hash: u64) {
            proptest::prop_assert_eq!(parse(&key(Ino(parent), hash)), Some((Ino(parent), hash)));
        }
    }
}
