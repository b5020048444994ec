//! What somebody else than the kernel has changed, and the kernel, which caches without end, has to forget before
//! whoever changed it is answered.
//!
//! A door changes through the same functions as the kernel's, and then waits here (`Filesystem::outdate`) until the
//! watcher has forgotten. Only what the kernel can know of is told: it holds a count of each inode that it was told of
//! ([`super::lookup_counts`]), from before that answer was sent. Not to be called under a lock, nor while answering a
//! request of the kernel's: to forget a name takes the lock of its directory, which whoever waits for that answer may hold.

use meta::{Ino, Outdated};
use tokio::sync::oneshot;

/// What who caches is told.
pub enum Told {
    /// The attributes of an inode changed as a side effect of a request that is being answered: to be forgotten at
    /// once, without any wait.
    AtOnce(Ino),
    /// All of this is to be forgotten, in its order. Whoever waits for that hears it when the sender is used, or gone.
    Forget(Vec<Outdated>, oneshot::Sender<()>),
}

/// Who caches.
pub type Watcher = Box<dyn Fn(Told) + Send + Sync>;
