//! A volume that is led by this process, with what works on it whoever uses it: who repairs it, and who follows its
//! cluster file.
//!
//! There is one of these for a volume, since one process leads it. What uses the volume is over it, and ends first.

use std::path::PathBuf;
use std::sync::Arc;

use meta::{MetaStore, Volume};
use proto::cluster::Cluster;
use proxy::repair::{HealSettings, Healer};
use tokio::sync::Notify;

use super::embedded::Store;
use super::follow::{Follower, Leads, Warn};
use super::roll_call;
use super::wanted::WantedBlobs;
use crate::filesystem::Filesystem;

/// A volume that is led here.
pub(super) struct Led {
    /// It.
    pub(super) volume: Arc<Volume>,
    healer: Arc<Healer>,
}

impl Led {
    /// Starts what works on the volume, in a session of it, and who follows the cluster file: what that says, and what is told
    /// when it may have changed. `warn` hears what there is to warn of then.
    pub(super) async fn start(
        (volume, session): (Arc<Volume>, Arc<dyn MetaStore>),
        store: &Arc<Store>,
        (file, cluster, hangup): (PathBuf, Cluster, Arc<Notify>),
        heal: HealSettings,
        warn: Warn,
    ) -> (Self, Follower) {
        let ledger = Arc::new(WantedBlobs::new(session.clone()));
        let healer = Healer::start(store.blobs.clone(), session.volume().id, ledger, heal);
        healer.remember_empty(roll_call::emptied(&volume, &cluster).await);
        let leads = Leads { volume: volume.clone(), healer: healer.clone() };
        let of = (session, Some(leads), store.clone());
        let follower = Follower::start((file, cluster), hangup, of, warn);
        (Self { volume, healer }, follower)
    }

    /// A filesystem of this process tells how the volume is, too. Once only.
    pub(super) fn shown_by(&self, filesystem: &Filesystem, store: &Store) {
        filesystem.healed_by(self.healer.clone());
        filesystem.seen_through(self.volume.clone(), store.blobs.clone());
    }

    /// Nothing is mended any more. What is left to mend is found again by whoever leads the volume next.
    pub(super) async fn stop_mending(&self) {
        self.healer.stop().await;
    }
}
