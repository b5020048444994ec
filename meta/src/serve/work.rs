//! The session that somebody elsewhere works by, and who is told what sessions leave to others.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use proto::id::SessionId;

use super::window::Window;
use crate::record::window::{self, Outcome};
use crate::store::MetaStore;
use crate::volume::session::Session;

/// Who keeps the house of a volume, beside its leader. It is told what there is to do for it, must not wait, and may be told
/// under a lock.
pub trait Keeper: Send + Sync + 'static {
    /// This session is dead: what it unlinked is to be reaped, and what it put and never committed to be swept.
    fn session_died(&self, session: SessionId);
    /// Something in the trash is wanted gone, or what is there is kept for another time.
    fn trash_changed(&self);
    /// How blobs of the volume are to lie has changed.
    fn rules_changed(&self);
}

/// A session that somebody elsewhere works by, until it is over and nothing of it is under way.
pub(super) struct Work {
    // Dropped in this order: it is dead before that is told.
    pub(super) session: Session,
    /// What it was answered and may not have heard.
    pub(super) window: Mutex<Window>,
    /// Which of its changes were done before this leader began; `None`: all of it is this leader's.
    before: Option<window::Window>,
    end: End,
}

struct End {
    id: SessionId,
    keeper: Arc<dyn Keeper>,
    closed: AtomicBool,
}

impl Drop for End {
    fn drop(&mut self) {
        if !self.closed.load(Ordering::SeqCst) {
            self.keeper.session_died(self.id);
        }
    }
}

impl Work {
    pub(super) fn new(session: Session, keeper: Arc<dyn Keeper>) -> Arc<Self> {
        let id = session.session();
        let end = End { id, keeper, closed: AtomicBool::new(false) };
        Arc::new(Self { session, window: Mutex::default(), before: None, end })
    }

    /// Of one that worked before this leader began, and goes on.
    pub(super) fn resumed(
        session: Session,
        keeper: Arc<dyn Keeper>,
        before: window::Window,
    ) -> Arc<Self> {
        let id = session.session();
        let end = End { id, keeper, closed: AtomicBool::new(false) };
        let window = Mutex::new(Window::behind(before.low));
        Arc::new(Self { session, window, before: Some(before), end })
    }

    /// What its change of this number came to, if it was done before this leader began.
    pub(super) fn done_before(&self, number: u64) -> Option<Outcome> {
        self.before.as_ref()?.done.get(&number).copied()
    }

    /// Its changes that were done before this leader began: all up to the first number, and those.
    pub(super) fn before(&self) -> (u64, Vec<u64>) {
        let before = self.before.as_ref();
        before.map_or((0, Vec::new()), |before| (before.low, before.done.keys().copied().collect()))
    }

    /// Its number.
    pub(super) fn id(&self) -> SessionId {
        self.end.id
    }

    /// Who keeps the volume's house.
    pub(super) fn keeper(&self) -> &dyn Keeper {
        &*self.end.keeper
    }

    /// It has closed itself: it leaves nothing.
    pub(super) fn closed(&self) {
        self.end.closed.store(true, Ordering::SeqCst);
    }
}
