//! The session that somebody elsewhere works by, and who is told what sessions leave to others.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use proto::id::SessionId;

use super::window::Window;
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
        Arc::new(Self { session, window: Mutex::default(), end })
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
