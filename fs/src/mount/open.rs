//! A volume that is open in this process, with all that works on it: what a mount has in common with a server that
//! has none.
//!
//! However it ends, every byte is stored and synced before its lock is given back. Doors are closed before.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use meta::{
    Directories, Ino, LockError, MetaSettings, MetaStore, MountedBy, ProxyStores, Session, Volume,
    VolumeError, VolumeInfo, VolumeLock,
};
use proto::cluster::Cluster;
use proto::guard::keep_going;
use proto::listen::Listen;
use proto::scheme::Scheme;
use proto::size::Size;
use proxy::repair::HealSettings;
use proxy::{BlobStore, Safety};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::control;
use super::embedded::{self, Store};
use super::error::MountError;
use super::follow::{Follower, Warn};
use super::led::Led;
use super::mountpoint;
use super::outage::Outage;
use super::remote;
use super::roll_call::{self, Called, RollCallError};
use crate::data::{Data, DataSettings, Housekeeping};
use crate::doors::{DoorPlan, OpenDoors};
use crate::filesystem::Filesystem;

/// How long a new mount waits for the last one of the volume to have stored everything.
const WAIT_FOR_LAST: Duration = Duration::from_secs(90);
/// How often it looks.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How often gauges are brought up to date.
const OBSERVE: Duration = Duration::from_secs(1);
/// Memory that a mount takes beside dirty bytes and the cache when all is full, in bytes. Beyond it
/// what is free is given back.
const BESIDE: u64 = 192 << 20;
/// How often its memory is looked at: buffers of a few requests grow it by tens of MiB.
const LOOK_AT_MEMORY: Duration = Duration::from_millis(100);

/// A volume that is to be opened.
#[derive(Clone, Debug)]
pub struct VolumePlan {
    /// The volume.
    pub volume: String,
    /// Its cluster.
    pub cluster: Cluster,
    /// The file that says so, to be read again.
    pub file: PathBuf,
    /// Told when that may have changed.
    pub hangup: Arc<Notify>,
    /// Where this machine keeps what is its own of it.
    pub directories: Directories,
    /// How its data are handled.
    pub data: DataSettings,
    /// How it is repaired.
    pub heal: HealSettings,
    /// Days in which disks are read and verified that this process opens; 0: they are not, `None`: as usual.
    pub scrub_days: Option<u32>,
    /// Where metrics are served.
    pub metrics: Option<Listen>,
    /// Takes the volume over also from a mount that is alive, on another machine.
    pub take_over: bool,
    /// Leads the volume itself, though the cluster file names a metad.
    pub leads: bool,
    /// Doors beside the kernel's.
    pub doors: Option<DoorPlan>,
}

impl VolumePlan {
    /// What no remount changes, as the words behind `-o`.
    pub(super) fn settings(&self) -> String {
        let DataSettings { cache_bytes, dirty_bytes, .. } = &self.data;
        let (cache, dirty) = (Size(*cache_bytes), Size(*dirty_bytes));
        let metrics = self.metrics.as_ref().map(|address| format!(",metrics={address}"));
        let grace = humantime::format_duration(self.heal.grace).to_string().replace(' ', "");
        let every = humantime::format_duration(self.heal.every).to_string().replace(' ', "");
        let rate = Size(self.heal.rate);
        let days = embedded::scrub_days(&self.cluster, self.scrub_days);
        let days = days.map_or(String::new(), |days| format!(",scrub-days={days}"));
        let doors = self.doors.as_ref().map(DoorPlan::words);
        format!(
            "cache-size={cache},dirty-size={dirty},disk-grace={grace},heal-rate={rate},census-every={every}{days}{}{}",
            metrics.unwrap_or_default(),
            doors.unwrap_or_default()
        )
    }
}

/// A volume that is open here.
pub struct OpenVolume {
    plan: VolumePlan,
    /// What is served.
    pub(crate) filesystem: Arc<Filesystem>,
    /// What works on it, where it is led here; `None`: a metad leads it.
    led: Option<Led>,
    /// Takes changed cluster files.
    follower: Follower,
    store: Arc<Store>,
    warnings: Vec<String>,
    doors: Option<OpenDoors>,
}

impl OpenVolume {
    /// Opens it, as one that is mounted at `at` (empty: nowhere). Told to end meanwhile, it was not opened, and what
    /// was to be is in the error.
    ///
    /// # Errors
    /// Why it cannot be opened: then everything is as it was.
    pub(super) async fn open(
        plan: VolumePlan,
        (at, what): (&Path, &str),
        stop: &CancellationToken,
    ) -> Result<Self, MountError> {
        match plan.leads || plan.cluster.metad.is_empty() {
            true => Box::pin(Self::open_led(plan, (at, what), stop)).await,
            false => Box::pin(Self::open_remote(plan, (at, what), stop)).await,
        }
    }

    /// Opens it in a session of the metad that leads it.
    async fn open_remote(
        plan: VolumePlan,
        (at, what): (&Path, &str),
        stop: &CancellationToken,
    ) -> Result<Self, MountError> {
        let store = Store::open(&plan.cluster).await?;
        let opening = remote::open((&plan.cluster, &plan.volume), at, plan.take_over, &store);
        let opened = stop.run_until_cancelled(opening).await;
        let opened = opened.unwrap_or_else(|| Err(MountError::Stopped(what.to_owned())));
        let session: Arc<dyn MetaStore> = match opened {
            Ok(session) => Arc::new(session),
            Err(why) => {
                store.close().await;
                return Err(why);
            }
        };
        let store = Arc::new(store);
        // Whoever leads the volume keeps its house, what is inline there too.
        let (housekeeping, inline_bytes) = (Housekeeping::Elsewhere, 0);
        let settings = DataSettings { housekeeping, inline_bytes, ..plan.data.clone() };
        let data = Data::start(session.clone(), store.blobs.clone(), settings);
        let filesystem = Filesystem::start(session.clone(), data, store.blobs.clone());
        let followed = (plan.file.clone(), plan.cluster.clone());
        let of = (session, None, store.clone());
        let follower = Follower::start(followed, plan.hangup.clone(), of, warner(&filesystem));
        keep_in_bounds(&filesystem);
        let (led, warnings, doors) = (None, Vec::new(), None);
        Ok(Self { plan, filesystem, led, follower, store, warnings, doors })
    }

    async fn open_led(
        plan: VolumePlan,
        (at, what): (&Path, &str),
        stop: &CancellationToken,
    ) -> Result<Self, MountError> {
        let stopped = || MountError::Stopped(what.to_owned());
        let locked = stop.run_until_cancelled(lock_volume(&plan, at)).await;
        let lock = locked.unwrap_or_else(|| Err(stopped()))?;
        let store = Store::open_scrubbed(&plan.cluster, plan.scrub_days).await?;
        let (take_over, metad) = (plan.take_over, plan.leads);
        let settings = MetaSettings { take_over, metad, ..MetaSettings::default() };
        let opening = open_volume(&plan.cluster, lock, &store, settings);
        let opened = stop.run_until_cancelled(opening).await;
        let (session, warnings) = match opened.unwrap_or_else(|| Err(stopped())) {
            Ok(opened) => opened,
            Err(why) => {
                store.close().await;
                return Err(why);
            }
        };
        warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        let store = Arc::new(store);
        let volume = session.opened_on().clone();
        if plan.leads
            && let Err(why) = volume.await_sessions().await
        {
            volume.close().await;
            drop((session, volume));
            close(store).await;
            let (name, reason) = (plan.volume, why.to_string());
            return Err(VolumeError::Damaged { name, reason }.into());
        }
        let session: Arc<dyn MetaStore> = Arc::new(session);
        let data = Data::start(session.clone(), store.blobs.clone(), plan.data.clone());
        let filesystem = Filesystem::start(session.clone(), data, store.blobs.clone());
        filesystem.warn_of(warnings.clone());
        let followed = (plan.file.clone(), plan.cluster.clone(), plan.hangup.clone());
        let warn = warner(&filesystem);
        let (led, follower) =
            Led::start((volume, session), &store, followed, plan.heal, warn).await;
        led.shown_by(&filesystem, &store);
        keep_in_bounds(&filesystem);
        let (led, doors) = (Some(led), None);
        Ok(Self { plan, filesystem, led, follower, store, warnings, doors })
    }

    /// Opens its doors, if it is to have any: to this directory, and maybe for reading only, as it is from now on.
    ///
    /// # Errors
    /// Why they cannot be opened.
    pub(super) async fn open_doors(
        &mut self,
        (root, read_only): (Ino, bool),
    ) -> Result<(), MountError> {
        self.filesystem.reads_only(read_only);
        if let Some(plan) = &self.plan.doors {
            let (filesystem, own) = (self.filesystem.clone(), &self.plan.directories);
            self.doors = Some(plan.open(filesystem, (root, read_only), own).await?);
        }
        Ok(())
    }

    /// How it was opened.
    pub(super) fn plan(&self) -> &VolumePlan {
        &self.plan
    }

    /// Is it led by this process?
    pub(super) fn is_led_here(&self) -> bool {
        self.led.is_some()
    }

    /// The volume, for sessions of others on it; `None`: it is led elsewhere.
    pub(crate) fn led_volume(&self) -> Option<&Arc<Volume>> {
        self.led.as_ref().map(|led| &led.volume)
    }

    /// Who takes changed cluster files.
    pub(super) fn follower(&self) -> &Follower {
        &self.follower
    }

    /// Its doors are closed: whoever comes next is refused.
    pub(super) async fn close_doors(&mut self) {
        // The plan has the listeners, too.
        self.plan.doors = None;
        if let Some(doors) = self.doors.take() {
            doors.close().await;
        }
    }

    /// Stores everything and lets go of it. It waits for what cannot be stored until somebody gives that up.
    ///
    /// # Errors
    /// What could not be stored.
    pub(super) async fn end(
        mut self,
        given_up: impl Future<Output = ()>,
    ) -> Result<(), MountError> {
        self.close_doors().await;
        let Self { filesystem, led, follower, store, .. } = self;
        stop_mending(led.as_ref()).await;
        follower.take_leave().await;
        let stopped = tokio::select! {
            stopped = end(&filesystem, led.as_ref()) => stopped,
            () = given_up => Err(MountError::GivenUp(filesystem.data.status().dirty_bytes)),
        };
        follower.end().await;
        drop((filesystem, led));
        close(store).await;
        stopped
    }

    /// Lets go of it when nothing was written: it was opened in vain.
    ///
    /// # Errors
    /// What could not be stored all the same.
    pub(super) async fn end_unused(self) -> Result<(), MountError> {
        let Self { filesystem, led, follower, store, .. } = self;
        stop_mending(led.as_ref()).await;
        follower.end().await;
        let stopped = end(&filesystem, led.as_ref()).await;
        drop((filesystem, led));
        close(store).await;
        stopped
    }

    /// What whoever mounts should know for as long as it is mounted: it was stored on other disks than
    /// these.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Its doors.
    pub fn doors(&self) -> Option<&OpenDoors> {
        self.doors.as_ref()
    }

    /// What losses it survives with all disks there.
    pub fn safety(&self) -> Safety {
        let VolumeInfo { scheme, rules, .. } = self.filesystem.meta.volume();
        Safety::of(scheme, rules, &self.plan.cluster)
    }

    /// How the volume's data are protected.
    pub fn scheme(&self) -> Scheme {
        self.filesystem.meta.volume().scheme
    }

    /// What is away of its disks, if anything is. Asks them, for a moment.
    pub async fn outage(&self) -> Option<Outage> {
        self.store.outage(&self.filesystem.meta.volume()).await
    }

    /// Room for data: in all and still free, in bytes after redundancy.
    pub async fn room(&self) -> (u64, u64) {
        let data = &self.filesystem.data;
        data.learn_space().await;
        data.space.shown()
    }
}

/// Its gauges are brought up to date, and its memory is looked at, as long as it is open.
fn keep_in_bounds(filesystem: &Arc<Filesystem>) {
    let (observed, bounded) = (filesystem.clone(), filesystem.clone());
    tokio::spawn(async move {
        keep_going("observing the mount", || observe(observed.clone())).await;
    });
    tokio::spawn(async move {
        keep_going("bounding memory", || bound_memory(bounded.clone())).await;
    });
}

/// Tells this filesystem what there is to warn of.
fn warner(filesystem: &Arc<Filesystem>) -> Warn {
    let warned = filesystem.clone();
    Box::new(move |warnings| warned.warn_of(warnings))
}

async fn stop_mending(led: Option<&Led>) {
    if let Some(led) = led {
        led.stop_mending().await;
    }
}

/// Stores everything, ends the session, and lets go of the volume. Where something could not be stored, both are
/// left as a crash leaves them.
async fn end(filesystem: &Filesystem, led: Option<&Led>) -> Result<(), MountError> {
    filesystem.stop().await.map_err(MountError::Unstored)?;
    if let Some(led) = led {
        led.volume.close().await;
    }
    Ok(())
}

/// Brings the disks to rest, which nobody uses any more.
async fn close(store: Arc<Store>) {
    match Arc::into_inner(store) {
        Some(store) => store.close().await,
        None => {
            tracing::error!("the disks are still in use: their logs are replayed by the next mount")
        }
    }
}

/// Takes the volume over, and asks its disks whether the cluster file can be right.
pub(crate) async fn open_volume(
    cluster: &Cluster,
    lock: VolumeLock,
    store: &Store,
    settings: MetaSettings,
) -> Result<(Session, Vec<String>), MountError> {
    let called = Called::of(&store.blobs.current()).await;
    called.check(cluster).map_err(RollCallError::from)?;
    let stores = ProxyStores::new(store.blobs.clone());
    check_first(store, cluster, (lock.name(), Some(&lock)), &called).await?;
    let volume = meta::open(&stores, lock, settings).await?;
    let VolumeInfo { id, name, rules, .. } = volume.info();
    store.blobs.abide_by(id, rules);
    let session = volume
        .open_session()
        .await
        .map_err(|why| VolumeError::Damaged { name, reason: why.to_string() })?;
    match roll_call::call(&volume, cluster, &called, Some(session.session())).await {
        Ok(warnings) => Ok((session, warnings)),
        Err(why) => {
            // Nothing was written: there will be nothing to sweep. The reason is what counts.
            if session.close_session().await.is_ok() {
                volume.close().await;
            }
            Err(why.into())
        }
    }
}

/// Holds what the volume knows against the file, before anything is done by it: who takes a volume over by a file
/// that does not list the newest entries' disks would go on without them; and a disk that has learnt of a wrong
/// file refuses the right one. Answers the volume as it was looked at, if that was by the file itself.
///
/// # Errors
/// When the file is refused, or the volume cannot be looked at.
pub(crate) async fn check_first(
    store: &Store,
    cluster: &Cluster,
    (name, lock): (&str, Option<&VolumeLock>),
    called: &Called,
) -> Result<Option<Arc<Volume>>, MountError> {
    let known = called.known_before(cluster);
    let blobs = match known {
        Some(known) => store.onlooker(cluster, known)?,
        None => store.blobs.current(),
    };
    let stores = ProxyStores::new(blobs);
    let looked = meta::look(&stores, name, lock, MetaSettings::default()).await?;
    let members = looked.members().await.map_err(RollCallError::from)?;
    let volume = looked.info();
    store.blobs.abide_by(volume.id, volume.rules);
    roll_call::check_file(&volume, members.as_ref(), cluster).map_err(RollCallError::from)?;
    called.check_for(volume.scheme, cluster).map_err(RollCallError::from)?;
    called.check_joined(&volume, members.as_ref(), cluster).map_err(RollCallError::from)?;
    Ok(known.is_none().then_some(looked))
}

/// Takes the volume's lock on this machine. Its last mount may be gone from the kernel and still be storing
/// what it had: a new one waits for it.
async fn lock_volume(plan: &VolumePlan, at: &Path) -> Result<VolumeLock, MountError> {
    let deadline = Instant::now() + WAIT_FOR_LAST;
    loop {
        let (directories, name) = (plan.directories.clone(), plan.volume.clone());
        let by = MountedBy { pid: std::process::id(), mountpoint: at.to_owned() };
        let taking = move || VolumeLock::take(&directories, &name, &by);
        let taken = tokio::task::spawn_blocking(taking).await;
        let (name, by) = match taken.expect("locking does not panic") {
            Ok(lock) => return Ok(lock),
            Err(LockError::Mounted { name, by }) => (name, by),
            Err(e) => return Err(e.into()),
        };
        let place = place(&name, by.pid, &by.mountpoint);
        // Of one that is not mounted it is not to be seen whether it is ending.
        if by.is_served_only() || place.is_some() || Instant::now() >= deadline {
            let by = MountedBy { mountpoint: place.unwrap_or(by.mountpoint), ..by };
            return Err(LockError::Mounted { name, by }.into());
        }
        // Who held it then: by now it may be free.
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Where a volume is to be seen that this process has open. It may be no longer where it was mounted
/// first.
fn place(volume: &str, pid: u32, first: &Path) -> Option<PathBuf> {
    let first = mountpoint::mounted_at(first);
    let place = first.or_else(|| control::places(volume, pid).into_iter().next());
    place.map(|place| place.path)
}

async fn bound_memory(filesystem: Arc<Filesystem>) {
    let settings = &filesystem.data.settings;
    let bounds = settings.dirty_bytes.saturating_add(settings.cache_bytes);
    while !filesystem.is_stopped() {
        proto::allocator::bound_memory(bounds.saturating_add(BESIDE));
        tokio::time::sleep(LOOK_AT_MEMORY).await;
    }
}

async fn observe(filesystem: Arc<Filesystem>) {
    while !filesystem.is_stopped() {
        filesystem.observe();
        tokio::time::sleep(OBSERVE).await;
    }
}
