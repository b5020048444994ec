//! From a cluster file to a place for blobs: opens the disks in this process, or connects to the
//! daemons that serve them. Alone in naming `storaged`'s disks.

use std::path::Path;
use std::sync::Arc;

use meta::VolumeInfo;
use parking_lot::Mutex;
use proto::cluster::{Cluster, Endpoint, Slot};
use proto::id::{DiskId, Generation};
use proxy::{BadSlots, BlobStore, LiveProxy, Proxy, ProxySettings, SlotConfig};
use storaged::bay::{Bay, BayPlan, BayState, Bays};
use storaged::scrub;

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
    /// It was to say how often disks are scrubbed that others open.
    #[error(
        "scrub-days is for disks that this process opens, and these are daemons': it is storaged run --scrub-days (or scrub-days in storaged.toml) that says so there"
    )]
    ScrubbedByDaemons,
    /// A store of one kind does not become one of the other.
    #[error(
        "it has {} where this mount was made by one with {}: unmount, and mount by this one",
        way(!.was_local), way(*.was_local)
    )]
    Way {
        /// The mount has opened the disks itself.
        was_local: bool,
    },
}

fn way(local: bool) -> &'static str {
    if local { "paths of disks" } else { "addresses of daemons" }
}

/// Why a disk is closed that the file does not list any more.
const GONE: &str = "it is not in the cluster file any more";

fn and_more(disks: usize) -> String {
    if disks == 0 { String::new() } else { format!(" (and {disks} more)") }
}

/// The blobs of a cluster, and the disks that this process has opened for them.
pub struct Store {
    /// Where blobs go.
    pub blobs: Arc<LiveProxy>,
    /// The disks that this process has opened: those that it began with, and each that came later. `None`: daemons
    /// serve them.
    bays: Option<Mutex<Vec<Arc<Bays>>>>,
    /// Days in which such disks are read and verified; 0: they are not.
    scrub_days: u32,
}

/// A store as another cluster file says, which is not in use yet.
pub struct Successor {
    /// Where blobs would go.
    pub blobs: Arc<Proxy>,
    /// The disks that it has opened beside those that were.
    added: Vec<Arc<Bays>>,
}

impl Store {
    /// Opens every slot of the cluster. Must be called within a tokio runtime. Disks and daemons may
    /// be away: they are slots that are down, and come back when they do.
    ///
    /// # Errors
    /// When not one local disk can be opened, or others have got more of them.
    pub async fn open(cluster: &Cluster) -> Result<Self, OpenError> {
        Self::open_scrubbed(cluster, None).await
    }

    /// The same. Everything on disks that this process opens is read and verified within so many days, again and
    /// again; 0: it is not, `None`: as usual.
    ///
    /// # Errors
    /// The same, and when that is said of disks that daemons have.
    pub async fn open_scrubbed(cluster: &Cluster, days: Option<u32>) -> Result<Self, OpenError> {
        let store = Self::open_some(cluster, days).await?;
        let Some(bays) = store.first_bays() else { return Ok(store) };
        if bays.count_in() > 0 {
            return Ok(store);
        }
        let (path, why, more) = first_out(&bays, |_| true);
        store.close().await;
        Err(OpenError::NoDisk { path, why, more })
    }

    /// The same, also with no disk at all.
    ///
    /// # Errors
    /// When others have got more of the disks than this process could open.
    pub async fn open_any(cluster: &Cluster) -> Result<Self, OpenError> {
        Self::open_some(cluster, None).await
    }

    async fn open_some(cluster: &Cluster, days: Option<u32>) -> Result<Self, OpenError> {
        let scrub_days = days.unwrap_or(scrub::DEFAULT_DAYS);
        let local: Option<Vec<BayPlan>> = cluster.slots.iter().map(plan).collect();
        let Some(local) = local else {
            if days.is_some() {
                return Err(OpenError::ScrubbedByDaemons);
            }
            let blobs = Proxy::from_cluster(cluster, ProxySettings::default())?;
            return Ok(Self { blobs: LiveProxy::new(blobs), bays: None, scrub_days });
        };
        // What becomes of a disk is told by its slot.
        let bays = Bays::open_scrubbed(cluster.cluster, local, scrub_days, |_, _| {}).await;
        let in_use = |state: &BayState| matches!(state, BayState::Out { in_use: true, .. });
        let taken = bays.all().iter().filter(|bay| in_use(&bay.state())).count();
        if taken > bays.count_in() {
            let (path, why, more) = first_out(&bays, in_use);
            bays.close().await;
            return Err(OpenError::InUse { path, why, more });
        }
        let all = vec![bays];
        let blobs = LiveProxy::new(over(&all, cluster));
        Ok(Self { blobs, bays: Some(Mutex::new(all)), scrub_days })
    }

    fn first_bays(&self) -> Option<Arc<Bays>> {
        self.bays.as_ref()?.lock().first().cloned()
    }

    /// Opens what another cluster file lists beside the disks that are open. Nothing is asked of any slot that
    /// it would remember, and what is in use stays so.
    ///
    /// # Errors
    /// When disks are opened here and would be daemons' by that file, or the other way round, or an address makes
    /// no sense.
    pub async fn successor(&self, cluster: &Cluster) -> Result<Successor, OpenError> {
        let local: Option<Vec<BayPlan>> = cluster.slots.iter().map(plan).collect();
        let (bays, plans) = match (&self.bays, local) {
            (Some(bays), Some(plans)) => (bays, plans),
            (None, None) => {
                let blobs = Proxy::from_cluster(cluster, ProxySettings::default())?;
                return Ok(Successor { blobs, added: Vec::new() });
            }
            (bays, _) => return Err(OpenError::Way { was_local: bays.is_some() }),
        };
        let mut all = bays.lock().clone();
        let mut added = Vec::new();
        for plan in plans {
            if bay_of(&all, &plan.dir, plan.disk).is_none() {
                let (cluster, days) = (cluster.cluster, self.scrub_days);
                let bays = Bays::open_scrubbed(cluster, vec![plan], days, |_, _| {}).await;
                all.push(bays.clone());
                added.push(bays);
            }
        }
        Ok(Successor { blobs: over(&all, cluster), added })
    }

    /// From now on it is this one that is used. Disks that are not listed any more are closed.
    pub async fn succeed(&self, Successor { blobs, added }: Successor, cluster: &Cluster) {
        self.blobs.replace(blobs).await;
        let Some(bays) = &self.bays else { return };
        let all = {
            let mut bays = bays.lock();
            bays.extend(added);
            bays.clone()
        };
        for bays in &all {
            for (nth, bay) in bays.all().iter().enumerate() {
                let is_it = |slot: &Slot| {
                    slot.path.as_deref() == Some(bay.path()) && bay.disk_id() == Some(slot.disk)
                };
                if !cluster.slots.iter().any(is_it) {
                    bays.retire(nth, GONE).await;
                }
            }
        }
        // What is retired comes in again in a bay of its own.
        let in_use = |bays: &Arc<Bays>| !bays.all().iter().all(|bay| bay.is_retired());
        bays.lock().retain(in_use);
    }

    /// The same blobs to whoever looks at a volume by a file that may be wrong: under the generation that disks
    /// know already, so that it teaches them nothing, and with each disk failing alone, so that nothing is
    /// taken for absent because of what the file calls one.
    ///
    /// # Errors
    /// When an address makes no sense.
    pub fn onlooker(&self, cluster: &Cluster, known: Generation) -> Result<Arc<Proxy>, OpenError> {
        let mut cluster = cluster.clone();
        cluster.generation = known;
        for slot in &mut cluster.slots {
            (slot.domain, slot.rack) = Default::default();
        }
        match &self.bays {
            Some(bays) => Ok(over(&bays.lock(), &cluster)),
            None => Ok(Proxy::from_cluster(&cluster, ProxySettings::default())?),
        }
    }

    /// What is away of the disks, for a volume. Asks them, for a moment.
    pub async fn outage(&self, volume: &VolumeInfo) -> Option<Outage> {
        let slots = self.blobs.slots().await;
        let space = self.blobs.space(volume.id, volume.scheme).await;
        Outage::of(&slots, volume.scheme, space.is_cut_off())
    }

    /// Brings the disks to rest: the next start has nothing to replay.
    pub async fn close(self) {
        drop(self.blobs);
        for bays in self.bays.into_iter().flat_map(Mutex::into_inner) {
            bays.close().await;
        }
    }
}

impl Successor {
    /// It does not come into use.
    pub async fn close(self) {
        drop(self.blobs);
        for bays in self.added {
            bays.close().await;
        }
    }
}

/// Days in which disks of the cluster are read that this process opens, where that was said or not; `None`: daemons have
/// them.
pub(super) fn scrub_days(cluster: &Cluster, said: Option<u32>) -> Option<u32> {
    let local = cluster.slots.iter().all(|slot| plan(slot).is_some());
    local.then(|| said.unwrap_or(scrub::DEFAULT_DAYS))
}

/// Where this process would open the disk of a slot.
fn plan(slot: &Slot) -> Option<BayPlan> {
    match slot.endpoint() {
        Endpoint::Local(path) => {
            Some(BayPlan { dir: path.to_owned(), disk: Some(slot.disk), seen: None })
        }
        Endpoint::Remote(_) => None,
    }
}

/// The bay of a disk in a directory.
fn bay_of<'a>(
    all: &'a [Arc<Bays>],
    dir: &Path,
    disk: Option<DiskId>,
) -> Option<(&'a Arc<Bays>, usize)> {
    all.iter().find_map(|bays| {
        let mut bays_of = bays.all().iter();
        let is_it =
            |bay: &Arc<Bay>| bay.path() == dir && bay.disk_id() == disk && !bay.is_retired();
        Some((bays, bays_of.position(is_it)?))
    })
}

/// A proxy over the disks of this process, as the cluster says where they are and what fails together.
fn over(all: &[Arc<Bays>], cluster: &Cluster) -> Arc<Proxy> {
    let slot = |slot: &Slot| {
        let path = slot.path.as_deref().expect("a slot of this process has a path");
        let (bays, nth) = bay_of(all, path, Some(slot.disk)).expect("each slot has a bay");
        SlotConfig {
            disk: slot.disk,
            stands_for: slot.stands_for(),
            place: path.display().to_string(),
            domain: slot.domain(),
            rack: slot.rack.clone(),
            drains: slot.drain,
            store: bays.slot(nth, slot.slot, cluster.group(), cluster.generation),
        }
    };
    let slots = cluster.slots.iter().map(slot).collect();
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
