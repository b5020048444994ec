//! Whether users ask for anything at the moment: what goes on in the background gives way to them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Who asked for something so shortly ago is about to ask again.
const STILL: Duration = Duration::from_millis(250);

/// Requests of users.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    under_way: AtomicUsize,
    last: Mutex<Option<Instant>>,
}

impl Traffic {
    /// A request begins; it ends when this is dropped.
    pub(crate) fn begin(&self) -> UserRequest<'_> {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        UserRequest(self)
    }

    /// Has one ended since then?
    pub(crate) fn any_since(&self, then: Instant) -> bool {
        self.last.lock().is_some_and(|last| last > then)
    }

    /// Is one under way, or was a moment ago?
    pub(crate) fn is_busy(&self, now: Instant) -> bool {
        self.under_way.load(Ordering::Relaxed) > 0
            || self.last.lock().is_some_and(|last| now.saturating_duration_since(last) < STILL)
    }
}

/// A request under way.
pub(crate) struct UserRequest<'a>(&'a Traffic);

impl Drop for UserRequest<'_> {
    fn drop(&mut self) {
        *self.0.last.lock() = Some(Instant::now());
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}
