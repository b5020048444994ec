//! What has a place beside its own for a while: a copy until it is whole, and what is replaced until it is deleted. It has a
//! hidden name there, and a note in the volume ([`fs::tree`]) says what it is, so that what a process leaves that is killed is
//! tidied up (`tidy`).

use std::sync::LazyLock;

use fs::tree::{TreePath, View, Viewer};
use meta::{Attr, Ino};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::place::no_folder;
use crate::refusal::{Code, Refusal};

/// What this process leaves it tidies up itself.
static PROCESS: LazyLock<String> = LazyLock::new(|| Uuid::new_v4().simple().to_string());

/// Something beside its place, and the note that says so.
pub(super) struct Beside {
    pub(super) path: TreePath,
    note: String,
}

/// What it is.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum What {
    /// A copy that is not whole.
    Copied,
    /// The inode that had this name, until that one has it.
    Replaced { name: Vec<u8>, which: u64, by: u64 },
}

/// What a note says.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    process: String,
    folder: u64,
    uid: u32,
    gids: Vec<u32>,
    pub(super) what: What,
}

impl Note {
    /// What it says, if another process has left it.
    pub(super) fn of_others(text: &[u8]) -> Option<Self> {
        let note: Option<Self> = serde_json::from_slice(text).ok();
        note.filter(|note| note.process != *PROCESS)
    }

    /// Whose it is, who sees the folder alone.
    pub(super) fn viewer(&self) -> Viewer {
        let Self { folder, uid, gids, .. } = self;
        Viewer { uid: *uid, gids: gids.clone(), root: Ino(*folder), write: true }
    }
}

impl What {
    /// What is at this path is replaced by that.
    pub(super) fn replaced(path: &TreePath, which: &Attr, by: &Attr) -> Self {
        let name = path.names().last().map_or_else(Vec::new, |name| name.to_vec());
        Self::Replaced { name, which: which.ino.0, by: by.ino.0 }
    }

    fn word(&self) -> &'static str {
        match self {
            Self::Copied => "copied",
            Self::Replaced { .. } => "replaced",
        }
    }
}

impl Beside {
    /// A name beside this one that nobody has, for what will be there.
    ///
    /// # Errors
    /// When there is no folder for it.
    pub(super) async fn of(view: &View, path: &TreePath, what: What) -> Result<Self, Refusal> {
        let (folder, _) = path.split().unwrap_or_default();
        let note = format!(".ashlar-{}-{}", what.word(), Uuid::new_v4().simple());
        let path = folder.join(note.as_bytes());
        let path = path.map_err(|e| Refusal::new(Code::BadRequest, e.to_string()))?;
        let folder = view.stat(&folder).await.map_err(|e| no_folder(&e))?.ino.0;
        let Viewer { uid, gids, .. } = view.viewer().clone();
        let said = Note { process: PROCESS.clone(), folder, uid, gids, what };
        let said =
            serde_json::to_vec(&said).map_err(|e| Refusal::new(Code::Broken, e.to_string()))?;
        if let Err(e) = view.leave_note(&note, &said).await {
            // It goes on without: only one that is killed leaves anything.
            tracing::warn!("no note is left of {note}: {e}");
        }
        Ok(Self { path, note })
    }

    /// It is not there any more, or stays as it is.
    pub(super) async fn done(self, view: &View) {
        if let Err(e) = view.drop_note(&self.note).await {
            tracing::warn!("the note of {} stays: {e}", self.note);
        }
    }
}
