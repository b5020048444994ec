//! `O` session inode, empty value: the inode lost its last name in that session. It is kept until
//! nothing has it open, or until the session is dead.

use proto::id::SessionId;

use super::Key;
use crate::store::Ino;

const TAG: u8 = b'O';

/// Key of an orphan.
pub(crate) fn key(session: SessionId, ino: Ino) -> Key {
    Key::tag(TAG).with(session.0).with(ino.0)
}

/// Session and inode of a key.
pub(crate) fn parse(key: &Key) -> Option<(SessionId, Ino)> {
    key.two(TAG).map(|(session, ino)| (SessionId(session), Ino(ino)))
}

/// Start of a session's orphans.
pub(crate) fn of(session: SessionId) -> Key {
    Key::tag(TAG).with(session.0)
}

/// Start of all orphans.
pub(crate) fn all() -> Key {
    Key::tag(TAG)
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn it_is_read_back(session: u64, ino: u64) {
            let key = key(SessionId(session), Ino(ino));
            proptest::prop_assert_eq!(parse(&key), Some((SessionId(session), Ino(ino))));
        }
    }
}
