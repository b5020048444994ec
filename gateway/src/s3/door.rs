//! What is shared by all who come by this door.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use fs::tree::View;
use parking_lot::Mutex;
use tokio::sync::{Notify, RwLock, Semaphore};
use tokio_util::task::TaskTracker;

use super::names::NameCache;
use crate::who::Who;

/// Documents of more than a little that are read at once: each is up to 4 MiB, and what is made of it.
const DOCUMENTS: usize = 4;
/// Lists that are made at once: each holds names of two folders, each of up to 5 MiB.
const LISTS: usize = 32;

/// The door to one volume.
pub(crate) struct Door {
    pub(super) who: Arc<Who>,
    /// Names by which clients know this machine: what stands before them in `Host` is a bucket.
    pub(super) hosts: Vec<String>,
    /// What the door itself sees: all. Parts are kept there.
    pub(super) own: View,
    pub(super) names: NameCache,
    /// Shared by who gives a file its name in folders that he has made for it; alone has it who takes empty ones away.
    pub(super) folders: RwLock<()>,
    /// Uploads by parts that are being ended.
    pub(super) ending: Mutex<HashSet<String>>,
    /// One of these has ended, or could not be.
    pub(super) ended: Notify,
    /// Those that are open, and whose: by ids, with uids. `None`: they are to be counted.
    pub(super) open: tokio::sync::Mutex<Option<HashMap<String, u32>>>,
    pub(super) documents: Semaphore,
    pub(super) lists: Semaphore,
    /// What goes on behind an answer.
    pub(super) tasks: TaskTracker,
}

impl Door {
    /// For those who come in so.
    pub(crate) fn new(who: Arc<Who>, hosts: Vec<String>, tasks: TaskTracker) -> Self {
        let own = who.own_view();
        Self {
            who,
            hosts,
            own,
            names: NameCache::default(),
            folders: RwLock::default(),
            ending: Mutex::default(),
            ended: Notify::new(),
            open: tokio::sync::Mutex::default(),
            documents: Semaphore::new(DOCUMENTS),
            lists: Semaphore::new(LISTS),
            tasks,
        }
    }
}
