//! Which user of the volume whoever comes in stands for.
//!
//! There are no users to be told apart yet: doors are open on this machine alone, and who comes in acts as whoever
//! serves the volume, with all that this user may.

use std::sync::Arc;

use fs::filesystem::Filesystem;
use fs::tree::{Sending, View, Viewer};
use meta::Ino;

/// Who may come in, and what is shared by all of them.
pub(crate) struct Who {
    view: View,
    sending: Sending,
}

impl Who {
    /// Those who come in to this directory.
    pub(crate) fn new(filesystem: Arc<Filesystem>, root: Ino) -> Self {
        let own = nix::unistd::getegid();
        let more = nix::unistd::getgroups().unwrap_or_default();
        let gids = std::iter::once(own).chain(more).map(nix::unistd::Gid::as_raw).collect();
        let uid = nix::unistd::geteuid().as_raw();
        let viewer = Viewer { uid, gids, root, write: true };
        Self { view: View::new(filesystem, viewer), sending: Sending::default() }
    }

    /// What whoever comes in sees.
    pub(crate) fn view(&self) -> View {
        self.view.clone()
    }

    /// Memory for what is being sent.
    pub(crate) fn sending(&self) -> Sending {
        self.sending.clone()
    }
}
