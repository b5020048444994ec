//! `X` inode hash: the extended attributes of an inode whose names have that hash
//! ([`crate::record::xattr::Bucket`]), nearly always one.

use super::Key;
use crate::store::Ino;

const TAG: u8 = b'X';

/// Key of the attributes with this hash.
pub(crate) fn key(ino: Ino, hash: u64) -> Key {
    Key::tag(TAG).with(ino.0).with(hash)
}

/// Inode and hash of a key.
pub(crate) fn parse(key: &Key) -> Option<(Ino, u64)> {
    key.two(TAG).map(|(ino, hash)| (Ino(ino), hash))
}

/// Start of an inode's attributes.
pub(crate) fn of(ino: Ino) -> Key {
    Key::tag(TAG).with(ino.0)
}

/// Start of all attributes.
pub(crate) fn all() -> Key {
    Key::tag(TAG)
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn it_is_read_back(ino: u64, hash: u64) {
            proptest::prop_assert_eq!(parse(&key(Ino(ino), hash)), Some((Ino(ino), hash)));
        }
    }
}
