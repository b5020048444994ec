//! What all requests of WebDAV share.

use std::collections::HashMap;
use std::sync::Arc;

use meta::Ino;
use tokio::sync::Mutex;

use super::locks::Locks;
use crate::who::Who;

/// The door.
pub(super) struct Door {
    pub(super) who: Arc<Who>,
    /// By the directory that is all there is for who has them: paths begin there. There are no more than accounts have folders.
    locks: parking_lot::Mutex<HashMap<Ino, Arc<Locks>>>,
    /// Properties are read, changed and written by one at a time.
    pub(super) patching: Mutex<()>,
}

impl Door {
    /// For those who come in by this.
    pub(super) fn new(who: Arc<Who>) -> Self {
        Self { who, locks: parking_lot::Mutex::default(), patching: Mutex::new(()) }
    }

    /// The locks of what is below this directory.
    pub(super) fn locks(&self, root: Ino) -> Arc<Locks> {
        self.locks.lock().entry(root).or_default().clone()
    }
}
