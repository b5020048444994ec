//! A volume's tree as doors use it: by paths, for a [`Viewer`], who is a user of the volume and sees a subtree of it.
//!
//! What the kernel does for a mount is done here for a door: paths are walked (`walk`, within the subtree, whatever
//! links say), permissions are decided (`may`), files are held while they are open. Each operation is one function over
//! [`Filesystem`]:
//!
//! * `list` and `read` stream, a page or a chunk at a time; `folder` looks for names of one directory;
//! * `upload` writes a file under no name; when it is whole and stored, it gets its name in one step. One that breaks off
//!   leaves nothing, whatever breaks it off;
//! * `places` says on which disks a file lies;
//! * `notes` are left for whoever serves the volume next;
//! * `change` makes and takes away names; `attributes` are the extended ones;
//! * `trash` is where what was deleted can be had back from.
//!
//! A change is durable when it is answered, and whoever looks through the mount sees it from then on. It is carried
//! through when who asked for it goes away meanwhile: the future that waits for it may be dropped at any time.

use std::sync::Arc;

use meta::{Attr, Caller, Ino, Kind, MetaError, Outdated};

use crate::data::Data;
use crate::error::{DataError, FsError};
use crate::filesystem::Filesystem;

mod attributes;
mod change;
mod folder;
mod list;
mod may;
mod notes;
pub mod path;
mod places;
mod read;
#[cfg(test)]
mod tests;
mod trash;
mod trouble;
mod upload;
mod walk;

pub use folder::Folder;
pub use list::Listing;
pub use may::AccessLists;
pub use path::{BadPath, TreePath};
pub use places::{OnDisk, Places};
pub use read::{OpenFile, Sending};
pub use trash::{InTrash, TrashPlace};
pub use trouble::Trouble;
pub use upload::Upload;

/// Permissions that new files and directories have beyond the owner's, unless a default access list decides.
const UMASK: u32 = 0o022;

/// Who comes by a door.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Viewer {
    /// The user, as owners of files are.
    pub uid: u32,
    /// All groups; the first is that of what is created.
    pub gids: Vec<u32>,
    /// The directory that is all there is for this one.
    pub root: Ino,
    /// Not for reading only.
    pub write: bool,
}

/// Why an operation was refused.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The filesystem did.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// It is no path.
    #[error(transparent)]
    Path(#[from] BadPath),
    /// A symbolic link leads to where this viewer sees nothing, or is an absolute one.
    #[error("a symbolic link leads out of the tree")]
    LeadsOut,
    /// They go round in circles.
    #[error("too many symbolic links")]
    TooManyLinks,
    /// This viewer changes nothing.
    #[error("only reading is allowed")]
    ReadOnly,
    /// A pipe, socket or device.
    #[error("not a regular file")]
    Special,
    /// A folder does not go as a whole: this viewer may not delete all that is in it.
    #[error("something is in it that may not be deleted")]
    NotWhole,
    /// It would have to come back from the trash before.
    #[error("the folder that it was in is in the trash of somebody else: give another place")]
    FolderOfOthers,
}

impl From<MetaError> for TreeError {
    fn from(error: MetaError) -> Self {
        Self::Fs(error.into())
    }
}

impl From<DataError> for TreeError {
    fn from(error: DataError) -> Self {
        Self::Fs(error.into())
    }
}

/// What an operation answers.
pub type TreeResult<T> = Result<T, TreeError>;

/// The tree as one viewer sees it. Cheap to clone.
#[derive(Clone)]
pub struct View {
    filesystem: Arc<Filesystem>,
    viewer: Arc<Viewer>,
}

impl View {
    /// Of this one.
    pub fn new(filesystem: Arc<Filesystem>, viewer: Viewer) -> Self {
        Self { filesystem, viewer: Arc::new(viewer) }
    }

    /// Whose it is.
    pub fn viewer(&self) -> &Viewer {
        &self.viewer
    }

    /// Name of the volume that it is of.
    pub fn volume(&self) -> String {
        self.filesystem.meta.volume().name
    }

    /// May this viewer change anything at all?
    pub fn may_write(&self) -> bool {
        self.writes().is_ok()
    }

    /// Is the volume only read here, whoever comes?
    pub fn is_read_only(&self) -> bool {
        self.filesystem.is_read_only()
    }

    fn data(&self) -> &Arc<Data> {
        &self.filesystem.data
    }

    fn caller(&self) -> Caller {
        let gid = self.viewer.gids.first().copied().unwrap_or(self.viewer.uid);
        Caller { uid: self.viewer.uid, gid, umask: UMASK }
    }

    /// Refuses whoever only reads.
    fn writes(&self) -> TreeResult<()> {
        match self.filesystem.is_stopped() {
            true => Err(FsError::Stopped.into()),
            false if self.viewer.write && !self.filesystem.is_read_only() => Ok(()),
            false => Err(TreeError::ReadOnly),
        }
    }

    /// Carries a change through, whoever waits for it or goes away.
    async fn through<T: Send + 'static>(
        work: impl Future<Output = TreeResult<T>> + Send + 'static,
    ) -> TreeResult<T> {
        let done = tokio::spawn(proto::guard::caught_in("a change by a door", work)).await;
        match done {
            Ok(Ok(done)) => done,
            Ok(Err(panicked)) => Err(FsError::Panicked(panicked).into()),
            // The runtime ends, and everything with it.
            Err(_) => Err(FsError::Stopped.into()),
        }
    }

    /// After a change: it is durable, and the kernel has forgotten what was.
    async fn settle(&self, outdated: Vec<Outdated>) -> TreeResult<()> {
        let durable = self.filesystem.fsyncdir();
        let (durable, ()) = tokio::join!(durable, self.filesystem.outdate(outdated));
        Ok(durable?)
    }
}

/// What a directory is known by no more, where a name of it has changed.
fn renamed(dir: Ino, name: &[u8]) -> [Outdated; 2] {
    [Outdated::Name(dir, name.into()), Outdated::Content(dir)]
}

/// Refuses what is no file to read.
fn regular(attr: &Attr) -> TreeResult<()> {
    match attr.kind {
        Kind::File => Ok(()),
        Kind::Directory => Err(FsError::IsDirectory.into()),
        _ => Err(TreeError::Special),
    }
}
