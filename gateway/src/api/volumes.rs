//! Which volumes the cluster has, for administrators. The disks are asked for it, which may take a while: by one at a time, every few
//! seconds at most, and while somebody wants to know only.

use std::sync::Arc;
use std::time::Duration;

use fs::filesystem::Filesystem;
use fs::mount::catalog;
use meta::Directories;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::server::Server;

/// How long what was found is told again.
const FRESH: Duration = Duration::from_secs(10);

/// The volumes, as they were a moment ago.
pub(super) struct Volumes {
    filesystem: Arc<Filesystem>,
    own: Directories,
    /// Held by who looks.
    looking: tokio::sync::Mutex<()>,
    last: Last<catalog::Volumes>,
}

/// What was found last, and when.
struct Last<T>(Mutex<Option<(Instant, Arc<T>)>>);

impl<T> Default for Last<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T> Last<T> {
    /// It, and whether it is fresh.
    fn get(&self) -> Option<(Arc<T>, bool)> {
        let last = self.0.lock();
        last.as_ref().map(|(at, found)| (found.clone(), at.elapsed() < FRESH))
    }

    fn put(&self, found: T) -> Arc<T> {
        let found = Arc::new(found);
        *self.0.lock() = Some((Instant::now(), found.clone()));
        found
    }
}

impl Volumes {
    /// Of the cluster that one is of which is served here. `own`: where this machine keeps what is its own of it.
    pub(super) fn of(filesystem: Arc<Filesystem>, own: Directories) -> Self {
        Self { filesystem, own, looking: tokio::sync::Mutex::default(), last: Last::default() }
    }

    /// Those that there are; the one that is served here is the first.
    pub(super) async fn now(&self) -> Arc<catalog::Volumes> {
        let _alone = self.looking.lock().await;
        if let Some((found, true)) = self.last.get() {
            return found;
        }
        self.last.put(catalog::beside(&self.filesystem, &self.own).await)
    }

    /// What is known of them, without waiting for a disk: at first the one that is served here. Where it is old it is looked for
    /// again meanwhile, as long as the server goes on.
    pub(super) fn known(self: &Arc<Self>, server: &Server) -> Arc<catalog::Volumes> {
        let last = self.last.get();
        let fresh = last.as_ref().is_some_and(|(_, fresh)| *fresh);
        if !fresh && self.looking.try_lock().is_ok() {
            let (volumes, stop) = (self.clone(), server.stop.clone());
            server.tasks.spawn(async move { stop.run_until_cancelled(volumes.now()).await });
        }
        last.map(|(found, _)| found).unwrap_or_else(|| {
            let this = catalog::this(&self.filesystem, &self.own);
            Arc::new(catalog::Volumes { listed: vec![this], missed: None })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_was_found_is_told_again_and_grows_old() {
        let last = Last::default();
        assert_eq!(last.get(), None);
        last.put(7);
        tokio::time::advance(FRESH - Duration::from_millis(1)).await;
        assert_eq!(last.get(), Some((Arc::new(7), true)));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(
            last.get(),
            Some((Arc::new(7), false)),
            "old, and told while it is looked again"
        );
        last.put(8);
        assert_eq!(last.get(), Some((Arc::new(8), true)));
    }
}
