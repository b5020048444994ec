//! The bytes of accounts ([`crate::account`]).
//!
//! ```text
//! user, behind its name                                    (little-endian)
//! 0       1     version   1
//! 1       1     flags     1: may write; 2: disabled
//! 2       4     uid
//! 6       2     number of groups, 1 to 256
//! 8       2     length of the folder
//! 10      2     length of the hash
//! 12      4n    groups, the effective one first
//! -       -     folder, from the root: /, or /a/b
//! -       -     hash of the password, as argon2 writes it; empty: there is none, and none is right
//!
//! pass, behind its id
//! 0       1     version   1
//! 1       1     flags     1: may write
//! 2       8     created   in seconds since the epoch
//! 10      8     expires   in seconds since the epoch; 0: never
//! 18      1     length of the user's name
//! 19      2     length of the folder
//! 21      2     length of the secret
//! 23      -     user, folder, secret
//! ```
//!
//! What the secret of a pass is depends on its kind. Of an access key it is the secret itself: a request by S3 is signed
//! with it, and who verifies that has to know it. Of a token it is a hash; of a link nothing, since links are signed.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::account::{Account, AccountKind, Pass, Secret, User};

const VERSION: u8 = 1;
const WRITE: u8 = 1;
const DISABLED: u8 = 2;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct UserHead {
    version: u8,
    flags: u8,
    uid: U32,
    groups: U16,
    folder_len: U16,
    hash_len: U16,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct PassHead {
    version: u8,
    flags: u8,
    created: U64,
    expires: U64,
    user_len: u8,
    folder_len: U16,
    secret_len: U16,
}

const _: () = assert!(size_of::<UserHead>() == 12 && size_of::<PassHead>() == 23);

impl Account {
    /// The encoding in the tables above.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let len = |text: &[u8]| U16::new(text.len() as u16);
        match self {
            Self::User(user) => {
                let head = UserHead {
                    version: VERSION,
                    flags: flag(WRITE, user.write) | flag(DISABLED, user.disabled),
                    uid: U32::new(user.uid),
                    groups: U16::new(user.gids.len() as u16),
                    folder_len: len(user.folder.as_bytes()),
                    hash_len: len(&user.password.0),
                };
                let gids: Vec<U32> = user.gids.iter().map(|gid| U32::new(*gid)).collect();
                let rest = [user.folder.as_bytes(), &user.password.0].concat();
                [head.as_bytes(), gids.as_bytes(), &rest].concat()
            }
            Self::Pass(pass) => {
                let head = PassHead {
                    version: VERSION,
                    flags: flag(WRITE, pass.write),
                    created: U64::new(pass.created),
                    expires: U64::new(pass.expires.unwrap_or(0)),
                    user_len: pass.user.len() as u8,
                    folder_len: len(pass.folder.as_bytes()),
                    secret_len: len(&pass.secret.0),
                };
                let rest = [pass.user.as_bytes(), pass.folder.as_bytes(), &pass.secret.0].concat();
                [head.as_bytes(), &rest].concat()
            }
        }
    }

    /// What the bytes say of the account of this kind and name; `None`: nothing that makes sense.
    pub(crate) fn decode(kind: AccountKind, name: &str, value: &[u8]) -> Option<Self> {
        let account = match kind {
            AccountKind::User => Self::User(decode_user(name, value)?),
            _ => Self::Pass(decode_pass(kind, name, value)?),
        };
        account.check().ok().map(|()| account)
    }
}

fn decode_user(name: &str, value: &[u8]) -> Option<User> {
    let (head, rest) = UserHead::read_from_prefix(value).ok()?;
    if head.version != VERSION || head.flags & !(WRITE | DISABLED) != 0 {
        return None;
    }
    let (gids, rest) = <[U32]>::ref_from_prefix_with_elems(rest, head.groups.get().into()).ok()?;
    let (folder, password) = rest.split_at_checked(head.folder_len.get().into())?;
    if password.len() != usize::from(head.hash_len.get()) {
        return None;
    }
    Some(User {
        name: name.to_owned(),
        password: Secret(password.to_vec()),
        uid: head.uid.get(),
        gids: gids.iter().map(|gid| gid.get()).collect(),
        folder: text(folder)?,
        write: head.flags & WRITE != 0,
        disabled: head.flags & DISABLED != 0,
    })
}

fn decode_pass(kind: AccountKind, id: &str, value: &[u8]) -> Option<Pass> {
    let (head, rest) = PassHead::read_from_prefix(value).ok()?;
    if head.version != VERSION || head.flags & !WRITE != 0 {
        return None;
    }
    let (user, rest) = rest.split_at_checked(head.user_len.into())?;
    let (folder, secret) = rest.split_at_checked(head.folder_len.get().into())?;
    if secret.len() != usize::from(head.secret_len.get()) {
        return None;
    }
    Some(Pass {
        kind,
        id: id.to_owned(),
        user: text(user)?,
        folder: text(folder)?,
        write: head.flags & WRITE != 0,
        created: head.created.get(),
        expires: Some(head.expires.get()).filter(|at| *at != 0),
        secret: Secret(secret.to_vec()),
    })
}

fn text(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).ok().map(str::to_owned)
}

fn flag(bit: u8, set: bool) -> u8 {
    if set { bit } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::tests::{pass, user};

    #[test]
    fn they_are_read_back_and_nothing_else_is() {
        let accounts = [
            Account::User(user("ann")),
            Account::User(User { password: Secret::default(), disabled: true, ..user("b@c") }),
            Account::Pass(pass(AccountKind::Key, "AK1", "ann")),
            Account::Pass(Pass { expires: None, ..pass(AccountKind::Link, "x", "ann") }),
        ];
        for account in accounts {
            let bytes = account.encode();
            let read = |bytes: &[u8]| Account::decode(account.kind(), account.name(), bytes);
            assert_eq!(read(&bytes), Some(account.clone()));
            for cut in 0..bytes.len() {
                assert_eq!(read(&bytes[..cut]), None, "{cut} bytes of {account:?}");
            }
            let longer = [&bytes[..], &[0]].concat();
            let (mut version, mut flags) = (bytes.clone(), bytes.clone());
            (version[0], flags[1]) = (2, 128);
            for bad in [longer, version, flags] {
                assert_eq!(read(&bad), None);
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_an_account_or_none(bytes in proptest::collection::vec(0u8..9, 0..80)) {
            for kind in AccountKind::ALL {
                if let Some(account) = Account::decode(kind, "a", &bytes) {
                    proptest::prop_assert_eq!(account.encode(), &bytes[..]);
                }
            }
        }
    }
}
