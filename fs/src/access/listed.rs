//! Accounts as they are listed, by commands and by the API: all but what proves them.

use meta::{Pass, User};
use serde::Serialize;

/// A user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ListedUser {
    /// Name.
    pub name: String,
    /// Whom the user is in the tree.
    pub uid: u32,
    /// Groups there; the first is that of what the user creates.
    pub gids: Vec<u32>,
    /// The folder that is all the user sees, from the volume's root.
    pub folder: String,
    /// May change things there.
    pub write: bool,
    /// Is let in no more, nor is anybody in this name.
    pub disabled: bool,
}

/// An access key, a token or a share link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ListedPass {
    /// By which it is found.
    pub id: String,
    /// The user in whose name.
    pub user: String,
    /// The folder that is all that is seen, from the volume's root.
    pub folder: String,
    /// To change things there.
    pub write: bool,
    /// When it was made, in seconds since the epoch.
    pub created: u64,
    /// When it ends, in seconds since the epoch; `None`: when it is revoked.
    pub expires: Option<u64>,
}

impl From<User> for ListedUser {
    fn from(user: User) -> Self {
        let User { name, uid, gids, folder, write, disabled, .. } = user;
        Self { name, uid, gids, folder, write, disabled }
    }
}

impl From<Pass> for ListedPass {
    fn from(pass: Pass) -> Self {
        let Pass { id, user, folder, write, created, expires, .. } = pass;
        Self { id, user, folder, write, created, expires }
    }
}
