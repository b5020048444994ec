//! What only those do who come beside the kernel: doors.
//!
//! They hold inodes, which live until these handles are gone, too, whatever becomes of their names; files that have no
//! name yet live no longer than their handle. And they have the kernel forget what they have changed.

use std::sync::Arc;
use std::time::Duration;

use meta::{Attr, Caller, Ino, Looked, MetaError, Outdated, Replaces};
use tokio::sync::oneshot;

use crate::error::FsResult;
use crate::filesystem::Filesystem;
use crate::filesystem::outdated::{Told, Watcher};

/// How long a door waits for the kernel to forget. It is held up by requests in the same directory, which are bounded
/// themselves.
const FORGETS: Duration = Duration::from_secs(30);

/// An inode that is held.
pub struct Held {
    filesystem: Arc<Filesystem>,
    ino: Ino,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.filesystem.forget(self.ino, 1);
    }
}

impl Held {
    /// Which.
    pub fn ino(&self) -> Ino {
        self.ino
    }

    /// Where it is.
    pub fn filesystem(&self) -> &Arc<Filesystem> {
        &self.filesystem
    }
}

impl Filesystem {
    /// Holds an inode that has a name. `None`: it has none any more.
    pub async fn hold(self: &Arc<Self>, ino: Ino) -> FsResult<Option<(Held, Attr)>> {
        let found = self.lookup(ino, b".").await?;
        Ok(found.map(|attr| (Held { filesystem: self.clone(), ino }, attr)))
    }

    /// Creates an empty file, as a new entry of `parent`, but without a name.
    pub async fn create_nameless(
        self: &Arc<Self>,
        caller: Caller,
        parent: Ino,
        mode: u32,
    ) -> FsResult<Held> {
        self.data.space.admit_names()?;
        let ino = self.meta.create_nameless(caller, parent, mode).await?.ino;
        self.lookup_counts.nameless(ino);
        Ok(Held { filesystem: self.clone(), ino })
    }

    /// Returns when all that was written to such a file is stored.
    pub async fn store(&self, held: &Held) -> FsResult<()> {
        Ok(self.data.flush_file(held.ino).await?)
    }

    /// Gives such a file its name, once all that was written to it is stored. What had the name before, and whether
    /// that was its last one, is answered; it goes as what is unlinked `by` this user.
    pub async fn place(
        &self,
        held: &Held,
        parent: Ino,
        name: &[u8],
        (replaces, by): (Replaces, u32),
    ) -> FsResult<Option<Ino>> {
        self.data.flush_file(held.ino).await?;
        // From the moment it has a name, somebody may take that away.
        self.lookup_counts.placed(held.ino);
        let placed = self.meta.place(held.ino, parent, name, replaces, self.fate(by, [name])).await;
        if placed.is_err() && self.lookup_counts.orphaned(held.ino) {
            self.reap_later(held.ino);
        }
        let gone = placed?;
        if let Some(gone) = gone {
            self.unlinked(gone);
        }
        Ok(gone.map(|gone| gone.ino))
    }

    /// What a name of a directory is, without keeping it.
    pub async fn glance(&self, parent: Ino, name: &[u8]) -> FsResult<Option<Attr>> {
        loop {
            let moves = self.moves();
            let attr = match self.meta.lookup(parent, name).await {
                Ok(attr) => self.overlay(attr),
                Err(MetaError::NotFound) => return Ok(None),
                Err(e) => return Err(e.into()),
            };
            if self.moves() == moves {
                return Ok(Some(attr));
            }
        }
    }

    /// The same of many names, in their order, each with an extended attribute.
    pub async fn glance_at(
        &self,
        parent: Ino,
        names: &[Vec<u8>],
        attribute: &[u8],
    ) -> FsResult<Vec<Option<Looked>>> {
        loop {
            let moves = self.moves();
            let mut found = self.meta.look(parent, names, attribute).await?;
            for one in found.iter_mut().flatten() {
                one.attr = self.overlay(one.attr);
            }
            if self.moves() == moves {
                return Ok(found);
            }
        }
    }
}

impl Filesystem {
    /// Who caches wants to know what changes behind its back. Once only.
    pub fn watch(&self, watcher: Watcher) {
        assert!(self.watcher.set(watcher).is_ok(), "one watcher");
    }

    /// Attributes of an inode changed as a side effect of what is being answered.
    pub(super) fn outdate_at_once(&self, ino: Ino) {
        if let Some(watcher) = self.watcher.get() {
            watcher(Told::AtOnce(ino));
        }
    }

    /// Returns when whoever caches has forgotten all of this. The inodes of names, and then these, come first: a name
    /// is forgotten when requests in its directory that began before have been answered.
    pub async fn outdate(&self, mut outdated: Vec<Outdated>) {
        let Some(watcher) = self.watcher.get() else { return };
        outdated.retain(|one| self.lookup_counts.knows(one.about()));
        if outdated.is_empty() {
            return;
        }
        outdated.sort_by_key(|one| !matches!(one, Outdated::Name(..)));
        let (forgotten, wait) = oneshot::channel();
        watcher(Told::Forget(outdated, forgotten));
        // One that is gone has forgotten everything.
        if tokio::time::timeout(FORGETS, wait).await.is_err() {
            tracing::warn!("the kernel has not forgotten within {FORGETS:?} what a door changed");
        }
    }
}
