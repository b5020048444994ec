//! Who may come in by a door that the kernel does not watch: users, and what lets in somebody in their name.
//!
//! A *user* has a password, of which a hash is kept, and stands for a user and groups of the tree, a folder that is
//! all he sees of it, and whether he may write. A *pass* is an access key, a bearer token or a share link of a user: it lets in
//! whoever has it as that user, perhaps to less of the tree, or only to read, and perhaps only for a time.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest name of a user, and longest id of a pass, in bytes: they are in a key.
pub const ACCOUNT_NAME_MAX: usize = 29;
/// Longest folder, in bytes.
const FOLDER_MAX: usize = 4095;
/// Most groups of a user.
const GROUPS_MAX: usize = 256;
/// Longest secret or hash, in bytes.
const SECRET_MAX: usize = 512;

/// Bytes that are in no log and in no error.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// What may be changed of a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UserChange {
    /// This is the hash of his password from now on.
    Password(Secret),
    /// He is let in no more, nor is anybody in his name; or is so again.
    Disabled(bool),
}

/// A kind of account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccountKind {
    /// Somebody with a password.
    User,
    /// An access key, of which requests by S3 are signed.
    Key,
    /// A bearer token.
    Token,
    /// A share link.
    Link,
}

impl AccountKind {
    /// All, in the order of their keys.
    pub(crate) const ALL: [Self; 4] = [Self::Key, Self::Link, Self::Token, Self::User];
    /// Those that let in somebody in a user's name.
    pub const PASSES: [Self; 3] = [Self::Key, Self::Link, Self::Token];

    /// The letter that its keys have behind their tag.
    pub(crate) fn letter(self) -> u8 {
        match self {
            Self::Key => b'k',
            Self::Link => b'l',
            Self::Token => b't',
            Self::User => b'u',
        }
    }
}

impl fmt::Display for AccountKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::User => "user",
            Self::Key => "key",
            Self::Token => "token",
            Self::Link => "link",
        })
    }
}

/// A user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Name.
    pub name: String,
    /// Hash of the password, as argon2 writes it; empty: there is none, and none is right.
    pub password: Secret,
    /// Whom the user is in the tree.
    pub uid: u32,
    /// Groups there, at least one: the first is that of what the user creates.
    pub gids: Vec<u32>,
    /// The folder that is all the user sees: `/`, or `/a/b`.
    pub folder: String,
    /// May change things there, as far as permissions allow.
    pub write: bool,
    /// Lets nobody in, neither by password nor by any pass.
    pub disabled: bool,
}

/// A pass of a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pass {
    /// An access key, a token or a link.
    pub kind: AccountKind,
    /// By which it is found.
    pub id: String,
    /// The user in whose name.
    pub user: String,
    /// The folder that is all that is seen, from the root of the volume: within the user's.
    pub folder: String,
    /// To change things there, as far as the user may.
    pub write: bool,
    /// When it was made, in seconds since the epoch.
    pub created: u64,
    /// When it ends, in seconds since the epoch; `None`: when it is revoked.
    pub expires: Option<u64>,
    /// What proves it: see the head of the module.
    pub secret: Secret,
}

/// A user or a pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Account {
    /// A user.
    User(User),
    /// A pass of a user.
    Pass(Pass),
}

impl Account {
    /// Its kind.
    pub fn kind(&self) -> AccountKind {
        match self {
            Self::User(_) => AccountKind::User,
            Self::Pass(pass) => pass.kind,
        }
    }

    /// The user's name, or the pass's id.
    pub fn name(&self) -> &str {
        match self {
            Self::User(user) => &user.name,
            Self::Pass(pass) => &pass.id,
        }
    }

    /// Can it be kept?
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<(), &'static str> {
        if !is_name(self.name()) {
            return Err(
                "names have 1 to 29 of a-z, A-Z, 0-9, dot, dash, underscore, + and @, and begin with no dash",
            );
        }
        let (folder, secret) = match self {
            Self::User(user) if !(1..=GROUPS_MAX).contains(&user.gids.len()) => {
                return Err("a user is in 1 to 256 groups");
            }
            Self::User(user) => (&user.folder, &user.password),
            Self::Pass(pass) if pass.kind == AccountKind::User || !is_name(&pass.user) => {
                return Err("a pass is a key, a token or a link of a user");
            }
            Self::Pass(pass) if pass.expires == Some(0) => return Err("it has expired long ago"),
            Self::Pass(pass) => (&pass.folder, &pass.secret),
        };
        if !is_folder(folder) {
            return Err("a folder is given from the root: /, or /a/b without dots");
        }
        if secret.0.len() > SECRET_MAX {
            return Err("a secret of more than 512 bytes");
        }
        Ok(())
    }
}

/// May something be called so?
fn is_name(name: &str) -> bool {
    let good = |c: u8| c.is_ascii_alphanumeric() || b".-_+@".contains(&c);
    (1..=ACCOUNT_NAME_MAX).contains(&name.len()) && name.bytes().all(good) && !name.starts_with('-')
}

/// Is it a path from the root as it is kept: without empty components, dots and zeros?
fn is_folder(folder: &str) -> bool {
    let Some(path) = folder.strip_prefix('/') else { return false };
    let good = |part: &str| !["", ".", ".."].contains(&part) && !part.contains('\0');
    folder.len() <= FOLDER_MAX && (path.is_empty() || path.split('/').all(good))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn user(name: &str) -> User {
        User {
            name: name.to_owned(),
            password: Secret(b"$argon2id$v=19$...".to_vec()),
            uid: 1000,
            gids: vec![1000, 44],
            folder: "/photos/2026".to_owned(),
            write: true,
            disabled: false,
        }
    }

    pub(crate) fn pass(kind: AccountKind, id: &str, user: &str) -> Pass {
        Pass {
            kind,
            id: id.to_owned(),
            user: user.to_owned(),
            folder: "/".to_owned(),
            write: false,
            created: 5,
            expires: Some(9),
            secret: Secret(vec![7; 32]),
        }
    }

    #[test]
    fn secrets_are_in_no_log() {
        let pass = Pass { secret: Secret(b"hush".to_vec()), ..pass(AccountKind::Key, "A", "ann") };
        let words = format!("{:?} {:?}", Account::Pass(pass), Account::User(user("ann")));
        assert!(!words.contains("104") && !words.contains("hush") && !words.contains("argon2"));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let good = user("ann");
        let with_folder = |folder: &str| User { folder: folder.to_owned(), ..good.clone() };
        let folders = ["", "a", "//", "/a/", "/a//b", "/.", "/a/..", "/a\0"];
        let mut bad: Vec<User> = folders.map(with_folder).into();
        bad.push(with_folder(&format!("/{}", "a".repeat(FOLDER_MAX))));
        bad.push(User { gids: vec![], ..good.clone() });
        bad.push(User { gids: vec![1; 257], ..good.clone() });
        bad.push(User { password: Secret(vec![b'a'; 513]), ..good.clone() });
        let names = ["", "-a", "a b", "a:b", "a/b", "ä", &"a".repeat(30)];
        bad.extend(names.map(user));
        for user in bad {
            let found = Account::User(user.clone()).check();
            assert!(found.is_err(), "{user:?}");
        }
        assert_eq!(Account::User(with_folder("/")).check(), Ok(()));
        for bad in [
            Pass { kind: AccountKind::User, ..pass(AccountKind::Key, "A", "ann") },
            Pass { user: String::new(), ..pass(AccountKind::Key, "A", "ann") },
            Pass { expires: Some(0), ..pass(AccountKind::Key, "A", "ann") },
        ] {
            assert!(Account::Pass(bad).check().is_err());
        }
    }
}
