//! `A`, a letter, and a name: who may come in by a door. `A` and `s` alone: what share links are signed with.
//!
//! The letter says of what kind it is: `k` an access key, `l` a share link, `t` a token, `u` a user. The name is the
//! user's, or the id of the other, up to 29 bytes, so that each kind is in the order of its names. Values are accounts
//! ([`crate::account`]), and 32 secret bytes.

use super::Key;
use crate::account::AccountKind;

const TAG: u8 = b'A';
const SIGNING: u8 = b's';

/// Key of an account.
///
/// # Panics
/// When the name is too long: accounts are checked.
pub(crate) fn key(kind: AccountKind, name: &str) -> Key {
    of(kind).with_bytes(name.as_bytes())
}

/// Key of what links are signed with.
pub(crate) fn signing() -> Key {
    Key::tag(TAG).with_bytes(&[SIGNING])
}

/// Start of all of a kind.
pub(crate) fn of(kind: AccountKind) -> Key {
    Key::tag(TAG).with_bytes(&[kind.letter()])
}

/// Start of all.
pub(crate) fn all() -> Key {
    Key::tag(TAG)
}

/// The kind and name that a key names.
pub(crate) fn parse(key: &Key) -> Option<(AccountKind, &str)> {
    let (letter, name) = key.body(TAG)?.split_first()?;
    let kind = AccountKind::ALL.into_iter().find(|kind| kind.letter() == *letter)?;
    Some((kind, std::str::from_utf8(name).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::ACCOUNT_NAME_MAX;
    use crate::key::KEY_MAX;

    #[test]
    fn they_are_read_back_and_in_order() {
        let mut last = all();
        for kind in AccountKind::ALL {
            for name in ["A", "a", "a.b", "a@b", &"z".repeat(ACCOUNT_NAME_MAX)] {
                let key = key(kind, name);
                assert_eq!(parse(&key), Some((kind, name)));
                assert!(last < key && of(kind) < key && key < of(kind).after_prefix());
                last = key;
            }
        }
        assert_eq!(last.as_bytes().len(), KEY_MAX);
        assert_eq!(parse(&signing()), None);
        assert!(all() < signing() && signing() < all().after_prefix());
    }
}
