//! `S` session: the session was opened and not closed. The value is empty, or what the next leader has to know of one that works
//! from elsewhere ([`crate::record::window`]). All but the one that is mounted
//! are dead: what they put and never committed must be swept.

use proto::id::SessionId;

use super::Key;

const TAG: u8 = b'S';

/// Key of a session.
pub(crate) fn key(session: SessionId) -> Key {
    Key::tag(TAG).with(session.0)
}

/// The session a key names.
pub(crate) fn parse(key: &Key) -> Option<SessionId> {
    key.one(TAG).map(SessionId)
}

/// Start of all sessions.
pub(crate) fn all() -> Key {
    Key::tag(TAG)
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn it_is_read_back(session: u64) {
            proptest::prop_assert_eq!(parse(&key(SessionId(session))), Some(SessionId(session)));
        }
    }
}
