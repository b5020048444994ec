//! What the kernel is told to forget, because somebody changed it who came beside it: a door.
//!
//! To forget a name, the kernel takes the lock of its directory, which a request may hold that waits for our answer; and
//! a page that is being read is waited for. So this is done on a thread of its own, that nothing waits for which answers
//! the kernel. (The one of [`crate::fuse::stale`] will not do: answers wait for that.) A name that the kernel was just
//! asking us for is forgotten after it has got the answer, since it asks under that lock; attributes that were on their
//! way are known by it to be older.
//!
//! Bounded by the requests of doors under way, each of which waits for its own.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::mpsc;

use fuser::{INodeNo, Notifier};
use meta::Outdated;
use proto::guard::caught;
use tokio::sync::oneshot;

type Wish = (Vec<Outdated>, oneshot::Sender<()>);

/// The way to the thread.
pub(super) struct Forgetting(mpsc::Sender<Wish>);

impl Forgetting {
    /// Starts the thread. It ends with this handle.
    pub(super) fn start(kernel: Notifier) -> io::Result<Self> {
        let (tell, told) = mpsc::channel::<Wish>();
        let serve = move || {
            for (outdated, forgotten) in told {
                // Whoever waits goes on all the same, and so does the next.
                let _ = caught("having names forgotten", || {
                    outdated.iter().for_each(|one| forget(&kernel, one));
                });
                let _gone = forgotten.send(());
            }
        };
        std::thread::Builder::new().name("forget".to_owned()).spawn(serve)?;
        Ok(Self(tell))
    }

    /// Has all of it forgotten, and then says so.
    pub(super) fn have(&self, outdated: Vec<Outdated>, forgotten: oneshot::Sender<()>) {
        // Without the thread, the sender is dropped: nobody waits.
        let _ended = self.0.send((outdated, forgotten));
    }
}

/// Tells the kernel. Attributes alone are forgotten without any wait.
pub(super) fn forget(kernel: &Notifier, outdated: &Outdated) {
    let forgotten = match outdated {
        // A negative offset leaves the pages alone.
        Outdated::Attributes(ino) => kernel.inval_inode(INodeNo(ino.0), -1, 0),
        Outdated::Content(ino) => kernel.inval_inode(INodeNo(ino.0), 0, 0),
        Outdated::Name(parent, name) => {
            kernel.inval_entry(INodeNo(parent.0), OsStr::from_bytes(name))
        }
    };
    if let Err(e) = forgotten {
        tracing::debug!("the kernel does not forget {outdated:?}: {e}");
    }
}
