//! Who does what is done beside a disk's owner: reads, and the writing of checkpoints.

use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Work to be done once.
pub(crate) type Work = Box<dyn FnOnce() + Send>;

/// Whoever does work.
pub(crate) trait Hands: Send + Sync {
    /// Has it done: it has begun, or will soon, when this returns.
    ///
    /// # Errors
    /// There is nobody to do it: it is dropped.
    fn start(&self, name: &'static str, work: Work) -> io::Result<()>;

    /// How long whoever has nothing to do stays, in case there is something again.
    fn patience(&self) -> Duration;
}

/// A thread for each work, as a disk has that may hang: it holds up nobody else.
struct OwnThreads;

/// The hands of a disk that may hang.
pub(crate) fn own_threads() -> Arc<dyn Hands> {
    Arc::new(OwnThreads)
}

impl Hands for OwnThreads {
    fn start(&self, name: &'static str, work: Work) -> io::Result<()> {
        std::thread::Builder::new().name(name.to_owned()).spawn(work).map(drop)
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(5)
    }
}

/// Whoever asks does it, at once: for a medium that never waits.
pub(crate) struct Asker;

impl Hands for Asker {
    fn start(&self, _: &'static str, work: Work) -> io::Result<()> {
        work();
        Ok(())
    }

    fn patience(&self) -> Duration {
        Duration::ZERO
    }
}
