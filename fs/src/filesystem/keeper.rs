//! The house of a volume that a metad leads: what sessions elsewhere leave to whoever keeps it.

use std::sync::atomic::Ordering;

use meta::Keeper;
use proto::id::SessionId;

use crate::filesystem::Filesystem;

impl Keeper for Filesystem {
    fn session_died(&self, session: SessionId) {
        self.data.session_died(session);
        self.left_behind.store(true, Ordering::SeqCst);
        self.dead_wake.notify_one();
    }

    fn trash_changed(&self) {
        self.trash_wake.notify_one();
    }

    fn rules_changed(&self) {
        let volume = self.meta.volume();
        self.blobs.abide_by(volume.id, volume.rules);
    }
}
