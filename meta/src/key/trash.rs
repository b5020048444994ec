//! `T` directory inode: what was in that directory and is in the trash ([`crate::record::trash`]).
//! `W` time inode: the same in the order in which it was deleted, in nanoseconds since the epoch; its value is the
//! directory's number. A time of 0: somebody wants it gone for good.

use super::Key;
use crate::store::Ino;

const TAG: u8 = b'T';
const BY_TIME: u8 = b'W';

/// Key of what was in a directory.
pub(crate) fn key(dir: Ino, ino: Ino) -> Key {
    of(dir).with(ino.0)
}

/// The directory and the inode of a key.
pub(crate) fn parse(key: &Key) -> Option<(Ino, Ino)> {
    key.two(TAG).map(|(dir, ino)| (Ino(dir), Ino(ino)))
}

/// Start of all that was in a directory.
pub(crate) fn of(dir: Ino) -> Key {
    Key::tag(TAG).with(dir.0)
}

/// Start of all.
pub(crate) fn all() -> Key {
    Key::tag(TAG)
}

/// Key of what was deleted at a time.
pub(crate) fn key_by_time(when: u64, ino: Ino) -> Key {
    Key::tag(BY_TIME).with(when).with(ino.0)
}

/// The time and the inode of such a key.
pub(crate) fn parse_by_time(key: &Key) -> Option<(u64, Ino)> {
    key.two(BY_TIME).map(|(when, ino)| (when, Ino(ino)))
}

/// Start of all by their times.
pub(crate) fn all_by_time() -> Key {
    Key::tag(BY_TIME)
}

/// The value of a key by time: the directory.
pub(crate) fn encode_dir(dir: Ino) -> [u8; 8] {
    dir.0.to_le_bytes()
}

/// The directory of such a value; `None`: it makes no sense.
pub(crate) fn decode_dir(value: &[u8]) -> Option<Ino> {
    Some(Ino(u64::from_le_bytes(value.try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn they_are_read_back(one: u64, other: u64) {
            let (dir, ino) = (Ino(one), Ino(other));
            proptest::prop_assert_eq!(parse(&key(dir, ino)), Some((dir, ino)));
            proptest::prop_assert_eq!(parse_by_time(&key_by_time(one, ino)), Some((one, ino)));
            proptest::prop_assert_eq!(decode_dir(&encode_dir(dir)), Some(dir));
            proptest::prop_assert_eq!(parse(&key_by_time(one, ino)), None);
        }
    }
}
