//! What all requests of WebDAV share.

use std::sync::Arc;

use tokio::sync::Mutex;

use super::locks::Locks;
use crate::who::Who;

/// The door.
pub(super) struct Door {
    pub(super) who: Arc<Who>,
    pub(super) locks: Locks,
    /// Properties are read, changed and written by one at a time.
    pub(super) patching: Mutex<()>,
}

impl Door {
    /// For those who come in by this.
    pub(super) fn new(who: Arc<Who>) -> Self {
        Self { who, locks: Locks::default(), patching: Mutex::new(()) }
    }
}
