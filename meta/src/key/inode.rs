//! `I` inode: one inode ([`crate::record::inode::Inode`]).

use super::Key;
use crate::store::Ino;

const TAG: u8 = b'I';

/// Key of an inode.
pub(crate) fn key(ino: Ino) -> Key {
    Key::tag(TAG).with(ino.0)
}

/// The inode a key names.
pub(crate) fn parse(key: &Key) -> Option<Ino> {
    key.one(TAG).map(Ino)
}

/// Start of all inodes.
pub(crate) fn all() -> Key {
    Key::tag(TAG)
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn it_is_read_back(ino: u64) {
            proptest::prop_assert_eq!(parse(&key(Ino(ino))), Some(Ino(ino)));
        }
    }
}
