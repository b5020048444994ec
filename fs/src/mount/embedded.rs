//! From a cluster file to a place for blobs: opens the disks in this process, or connects to the
//! daemons that serve them. Alone in naming `storaged`'s disks.

use std::sync::Arc;

use proto::cluster::{Cluster, Endpoint, Slot};
use proto::id::Generation;
use proto::scheme::Scheme;
use proxy::{BadSlots, BlobStore, Proxy, ProxySettings, SlotConfig};
use storaged::bay::{BayPlan, BayState, Bays};

use crate::mount::outage::Outage;

/// Why the slots of a cluster could not be had.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has the disks.
    #[error("{path}: {why}{}", and_more(*.more))]
    InUse {
        /// One of them.
        path: String,
        /// What is wrong with it.
        why: String,
        /// How many more there are.
        more: usize,
    },
    /// Not one disk of them can be opened.
    #[error("no disk can be opened; {path}: {why}{}", and_more(*.more))]
    NoDisk {
        /// One of them.
        path: String,
        /// What is wrong with it.
        why: String,
        /// How many more there are.
        more: usize,
    },
    /// The proxy cannot be made of them.
    #[error(transparent)]
    Slots(#[from] BadSlots),
}

fn and_more(disks: usize) -> String {
    if disks == 0 { String::new() } else { format!(" (and {disks} more)") }
}

/// The blobs of a cluster, and the disks that this process has opened for them.
pub struct Store {
    /// Where blobs go.
    pub blobs: Arc<Proxy>,
    bays: Option<Arc<Bays>>,
}

impl Store {
    /// Opens every slot of the cluster. Must be called within a tokio runtime. Disks and daemons may
    /// be away: they are slots that are down, and come back when they do.
    ///
    /// # Errors
    /// When not one local disk can be opened, or others have got more of them.
    pub async fn open(cluster: &Cluster) -> Result<Self, OpenError> {
        let store = Self::open_any(cluster).await?;
        let Some(bays) = &store.bays else { return Ok(store) };
        if bays.count_in() > 0 {
            return Ok(store);
        }
        let (path, why, more) = first_out(bays, |_| true);
        store.close().await;
        Err(OpenError::NoDisk { path, why, more })
    }

    /// The same, also with no disk at all.
    ///
    /// # Errors
    /// When others have got more of the disks than this process could open.
    pub async fn open_any(cluster: &Cluster) -> Result<Self, OpenError> {
        let local: Option<Vec<BayPlan>> = cluster
            .slots
            .iter()
            .map(|slot| match slot.endpoint() {
                Endpoint::Local(path) => {
                    Some(BayPlan { dir: path.to_owned(), disk: Some(slot.disk), seen: None })
                }
                Endpoint::Remote(_) => None,
            })
            .collect();
        let Some(local) = local else {
            let blobs = Proxy::from_cluster(cluster, ProxySettings::default())?;
            return Ok(Self { blobs, bays: None });
        };
        // What becomes of a disk is told by its slot.
        let bays = Bays::open(cluster.cluster, local, |_, _| {}).await;
        let in_use = |state: &BayState| matches!(state, BayState::Out { in_use: true, .. });
        let taken = bays.all().iter().filter(|bay| in_use(&bay.state())).count();
        if taken > bays.count_in() {
            let (path, why, more) = first_out(&bays, in_use);
            bays.close().await;
            return Err(OpenError::InUse { path, why, more });
        }
        Ok(Self { blobs: over(&bays, cluster), bays: Some(bays) })
    }

    /// The same blobs to whoever looks at a volume by a file that may be wrong: under the generation that disks
    /// know already, so that it teaches them nothing, and with a fail domain for each disk, so that nothing is
    /// taken for absent because of what the file calls one.
    ///
    /// # Errors
    /// When an address makes no sense.
    pub fn onlooker(&self, cluster: &Cluster, known: Generation) -> Result<Arc<Proxy>, OpenError> {
        let mut cluster = cluster.clone();
        cluster.generation = known;
        cluster.slots.iter_mut().for_each(|slot| slot.domain = slot.disk.to_string());
        match &self.bays {
            Some(bays) => Ok(over(bays, &cluster)),
            None => Ok(Proxy::from_cluster(&cluster, ProxySettings::default())?),
        }
    }

    /// What is away of the disks, for a volume of this scheme. Asks them, for a moment.
    pub async fn outage(&self, scheme: Scheme) -> Option<Outage> {
        let slots = self.blobs.slots().await;
        Outage::of(&slots, scheme, self.blobs.space(scheme).await.is_cut_off())
    }

    /// Brings the disks to rest: the next start has nothing to replay.
    pub async fn close(self) {
        drop(self.blobs);
        if let Some(bays) = self.bays {
            bays.close().await;
        }
    }
}

/// A proxy over the disks of this process, as the cluster says where they are and what fails together.
fn over(bays: &Bays, cluster: &Cluster) -> Arc<Proxy> {
    let slot = |(index, slot): (usize, &Slot)| SlotConfig {
        disk: slot.disk,
        place: bays.all()[index].path().display().to_string(),
        domain: slot.domain(),
        store: bays.slot(index, slot.slot, cluster.group(), cluster.generation),
    };
    let slots = cluster.slots.iter().enumerate().map(slot).collect();
    Proxy::new(cluster.group(), slots, ProxySettings::default())
}

/// The first of the disks that are out in a way, with the reason, and how many more there are.
fn first_out(bays: &Bays, counts: impl Fn(&BayState) -> bool) -> (String, String, usize) {
    let out = bays.all().iter().filter_map(|bay| match bay.state() {
        BayState::Out { why, .. } if counts(&bay.state()) => {
            Some((bay.path().display().to_string(), why))
        }
        _ => None,
    });
    let mut out = out.peekable();
    let (path, why) = out.next().unwrap_or_default();
    (path, why, out.count())
}
