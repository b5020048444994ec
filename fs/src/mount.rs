//! The life of a mount: open the volume and its disks, start the layers, hand them to the kernel,
//! wait for the end, bring everything to rest.
//!
//! However it ends (umount, or a signal that [`proto::signals`] takes for an end), every byte is stored
//! and synced before the process exits; only then is the volume's lock given back.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use meta::{
    Directories, LockError, MetaSettings, MetaStore, MountedBy, ProxyStores, Session, Volume,
    VolumeError, VolumeInfo, VolumeLock,
};
use proto::cluster::Cluster;
use proto::guard::keep_going;
use proto::listen::Listen;
use proto::scheme::Scheme;
use proto::size::Size;
use proxy::repair::{HealSettings, Healer};
use proxy::{BlobStore, Safety};
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use self::control::Desk;
use self::embedded::{OpenError, Store};
use self::follow::Follower;
use self::mountpoint::{MountEntry, MountPointError, Unmount};
use self::outage::Outage;
use self::roll_call::{Called, RollCallError};
use self::wanted::WantedBlobs;
use crate::data::{Data, DataSettings};
use crate::error::FsError;
use crate::filesystem::Filesystem;
use crate::filesystem::atime::AtimeRules;
use crate::fuse;
use crate::fuse::synced::Synced;
use crate::options::{MountOptions, is_root};

pub(crate) mod attach;
pub mod bind_mount;
pub(crate) mod control;
pub mod embedded;
pub(crate) mod follow;
pub mod mountpoint;
pub mod outage;
pub mod roll_call;
pub(crate) mod utab;
mod wanted;

/// How far the kernel reads ahead of a sequential reader.
const KERNEL_READ_AHEAD_KIB: u32 = 1024;
/// How long a new mount waits for the last one of the volume to have stored everything.
const WAIT_FOR_LAST: Duration = Duration::from_secs(90);
/// How often it looks.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How long programs may still use a mount that is being taken down.
const WAIT_FOR_USERS: Duration = Duration::from_secs(5);
/// How often gauges are brought up to date.
const OBSERVE: Duration = Duration::from_secs(1);
/// Memory that a mount takes beside dirty bytes and the cache when all is full, in bytes. Beyond it
/// what is free is given back.
const BESIDE: u64 = 192 << 20;
/// How often its memory is looked at: buffers of a few requests grow it by tens of MiB.
const LOOK_AT_MEMORY: Duration = Duration::from_millis(100);

/// A mount to be made.
#[derive(Clone, Debug)]
pub struct MountPlan {
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
    /// Where, as [`mountpoint::check`] answered it.
    pub mountpoint: PathBuf,
    /// The kernel's side.
    pub options: MountOptions,
    /// Ours.
    pub data: DataSettings,
    /// How it is repaired.
    pub heal: HealSettings,
    /// Where metrics are served.
    pub metrics: Option<Listen>,
    /// Takes the volume over also from a mount that is alive, on another machine.
    pub take_over: bool,
}

impl MountPlan {
    /// What no remount changes, as the words behind `-o`.
    fn settings(&self) -> String {
        let DataSettings { cache_bytes, dirty_bytes, .. } = &self.data;
        let (cache, dirty) = (Size(*cache_bytes), Size(*dirty_bytes));
        let metrics = self.metrics.as_ref().map(|address| format!(",metrics={address}"));
        let grace = humantime::format_duration(self.heal.grace).to_string().replace(' ', "");
        let rate = Size(self.heal.rate);
        format!(
            "cache-size={cache},dirty-size={dirty},disk-grace={grace},heal-rate={rate}{}",
            metrics.unwrap_or_default()
        )
    }
}

/// Why a mount could not be made, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// Its lock on this machine.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The volume.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// Its disks.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// Its cluster file.
    #[error(transparent)]
    RollCall(#[from] RollCallError),
    /// The mount point.
    #[error(transparent)]
    MountPoint(#[from] MountPointError),
    /// The kernel.
    #[error("mounting on {path}: {why}", path = path.display())]
    Kernel {
        /// Where.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// The directory that shall be mounted.
    #[error("subdirectory {path} of volume {volume}: {why}", path = path.display())]
    Subdirectory {
        /// Its path in the volume.
        path: PathBuf,
        /// The volume.
        volume: String,
        /// What is wrong with it.
        why: String,
    },
    /// At the end, something could not be stored, and somebody did not want to wait for it.
    #[error("unmounted by force: {0} bytes are not stored")]
    GivenUp(u64),
    /// At the end, something could not be stored.
    #[error("unmounted, but not everything could be stored: {0}")]
    Unstored(#[source] FsError),
    /// A signal came first.
    #[error("told to end before {} was mounted", .0.display())]
    Stopped(PathBuf),
}

/// A volume that is mounted.
pub struct Mount {
    plan: MountPlan,
    filesystem: Arc<Filesystem>,
    volume: Arc<Volume>,
    healer: Arc<Healer>,
    store: Arc<Store>,
    /// Takes changed cluster files.
    follower: Follower,
    warnings: Vec<String>,
    ended: oneshot::Receiver<()>,
    /// Cancelled when it shall end.
    stop: CancellationToken,
    /// The mount itself: another one may be made at the same place.
    entry: Option<MountEntry>,
    desk: Option<Desk>,
}

impl Mount {
    /// Mounts. When this returns, the mount point works. It ends when `stop` is cancelled.
    pub async fn start(plan: MountPlan, stop: CancellationToken) -> Result<Self, MountError> {
        let locked = stop.run_until_cancelled(lock_volume(&plan)).await;
        let lock = locked.unwrap_or_else(|| Err(MountError::Stopped(plan.mountpoint.clone())))?;
        let store = Store::open(&plan.cluster).await?;
        let settings = MetaSettings { take_over: plan.take_over, ..MetaSettings::default() };
        let opening = open_volume(&plan.cluster, lock, &store, settings);
        let opened = stop.run_until_cancelled(opening).await;
        let opened = opened.unwrap_or_else(|| Err(MountError::Stopped(plan.mountpoint.clone())));
        let (session, warnings) = match opened {
            Ok(opened) => opened,
            Err(why) => {
                store.close().await;
                return Err(why);
            }
        };
        warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        let store = Arc::new(store);
        let settings = plan.data.clone();
        let (volume, number) = (session.opened_on().clone(), session.session());
        let shared: Arc<dyn MetaStore> = Arc::new(session);
        let data = Data::start(shared.clone(), store.blobs.clone(), settings);
        let filesystem = Filesystem::start(shared.clone(), data, store.blobs.clone());
        filesystem.warn_of(warnings.clone());
        let ledger = Arc::new(WantedBlobs::new(shared.clone()));
        let healer = Healer::start(store.blobs.clone(), shared.volume().id, ledger, plan.heal);
        healer.remember_empty(roll_call::emptied(&volume, &plan.cluster).await);
        filesystem.healed_by(healer.clone());
        filesystem.seen_through(volume.clone(), store.blobs.clone());
        let followed = (plan.file.clone(), plan.cluster.clone());
        let of = (volume.clone(), number, store.clone(), filesystem.clone());
        let follower = Follower::start(followed, plan.hangup.clone(), of);
        match serve(&plan, &filesystem, &follower).await {
            Ok((ended, entry, desk)) => Ok(Self {
                plan,
                filesystem,
                volume,
                healer,
                store,
                follower,
                warnings,
                ended,
                stop,
                entry,
                desk,
            }),
            Err(why) => {
                healer.stop().await;
                drop(healer);
                // Nothing was written; the session and the volume still have to end well.
                follower.end().await;
                let stopped = end(&filesystem, &volume).await;
                close(store).await;
                stopped?;
                Err(why)
            }
        }
    }

    /// Waits until somebody unmounts it, or tells it to end, and ends it.
    pub async fn run(mut self) -> Result<(), MountError> {
        tokio::select! {
            biased;
            _ = &mut self.ended => {}
            () = self.stop.cancelled() => self.take_down().await,
        }
        self.finish().await
    }

    /// Unmounts; programs that still use the mount get a moment, then errors.
    async fn take_down(&mut self) {
        self.unmount(true).await;
        if tokio::time::timeout(WAIT_FOR_USERS, &mut self.ended).await.is_err() {
            let at = self.plan.mountpoint.display();
            tracing::warn!("{at} is still in use: its users get errors from now on");
        }
    }

    /// Takes the volume away from every place where it is shown. `served`: the kernel has not let go
    /// of it; otherwise its first place has to be there still, or all the others may be another's, who
    /// has got its number.
    async fn unmount(&self, served: bool) {
        let Some(entry) = self.entry.clone() else { return };
        let work = move || {
            if !served && !mountpoint::is_there(&entry) {
                return utab::remove(&entry);
            }
            // Another one may be mounted over it.
            let uppermost = |place: &MountEntry| {
                mountpoint::mounted_at(&place.path).is_some_and(|seen| seen.id == place.id)
            };
            for place in mountpoint::places(&entry).into_iter().filter(uppermost) {
                let unmounted = mountpoint::unmount(&place.path, Unmount::Unused)
                    .or_else(|_| mountpoint::unmount(&place.path, Unmount::Lazy));
                unmounted.unwrap_or_else(|e| tracing::warn!("{e}"));
                utab::remove(&place);
            }
            utab::remove(&entry);
        };
        // What is written is stored also where this goes wrong.
        let unmounted = tokio::task::spawn_blocking(work).await;
        unmounted.unwrap_or_else(|e| tracing::error!("unmounting: {e}"));
    }

    async fn finish(mut self) -> Result<(), MountError> {
        // A session that broke leaves its mount behind.
        self.unmount(false).await;
        if let Some(desk) = &mut self.desk {
            desk.close().await;
        }
        let since = Instant::now();
        // What is left to mend is found again by the next mount.
        self.healer.stop().await;
        self.follower.take_leave().await;
        let stopped = tokio::select! {
            stopped = end(&self.filesystem, &self.volume) => stopped,
            () = given_up(self.desk.as_ref()) => {
                Err(MountError::GivenUp(self.filesystem.data.status().dirty_bytes))
            }
        };
        self.follower.end().await;
        drop(self.healer);
        drop(self.filesystem);
        drop(self.volume);
        close(self.store).await;
        if let Some(desk) = &self.desk {
            desk.tell(stopped.as_ref().err().map(ToString::to_string)).await;
        }
        stopped?;
        tracing::info!("unmounted, everything stored in {:.1?}", since.elapsed());
        Ok(())
    }

    /// What whoever mounts should know for as long as it is mounted: it was stored on other disks than
    /// these.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// What losses it survives with all disks there.
    pub fn safety(&self) -> Safety {
        let VolumeInfo { scheme, rules, .. } = self.volume.info();
        Safety::of(scheme, rules, &self.plan.cluster)
    }

    /// How the volume's data are protected.
    pub fn scheme(&self) -> Scheme {
        self.volume.info().scheme
    }

    /// What is away of its disks, if anything is. Asks them, for a moment.
    pub async fn outage(&self) -> Option<Outage> {
        self.store.outage(&self.volume.info()).await
    }

    /// Room for data: in all and still free, in bytes after redundancy.
    pub async fn room(&self) -> (u64, u64) {
        let data = &self.filesystem.data;
        data.learn_space().await;
        (data.space.limit().unwrap_or(0), data.space.available().unwrap_or(0))
    }
}

/// Stores everything, ends the session, and lets go of the volume. Where something could not be stored, both are
/// left as a crash leaves them.
async fn end(filesystem: &Filesystem, volume: &Volume) -> Result<(), MountError> {
    filesystem.stop().await.map_err(MountError::Unstored)?;
    volume.close().await;
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

/// What a mount that is served has of its own.
type Served = (oneshot::Receiver<()>, Option<MountEntry>, Option<Desk>);

/// Makes the mount and serves it.
async fn serve(
    plan: &MountPlan,
    filesystem: &Arc<Filesystem>,
    follower: &Follower,
) -> Result<Served, MountError> {
    let MountPlan { volume, mountpoint, options, .. } = plan.clone();
    if let Some(path) = &options.subdirectory {
        find(filesystem, &volume, path).await?;
    }
    filesystem.atimes.obey(AtimeRules::of(&options));
    let synced = Arc::new(Synced::new(options.sync, options.dirsync));
    let runtime = tokio::runtime::Handle::current();
    let (door, ended) = fuse::Door::new(filesystem.clone(), runtime, synced.clone());
    let at = mountpoint.clone();
    let attach = move || {
        if !is_root() {
            return fuse::Session::by_helper(door, &volume, &at, &options)?.serve();
        }
        let (device, detached) = attach::create(&volume, &options)?;
        fuse::Session::over(door, device, &options)?.serve()?;
        detached.attach(&at, options.subdirectory.as_deref())
    };
    let attached = tokio::task::spawn_blocking(attach).await;
    let attached = attached.unwrap_or_else(|e| Err(io::Error::other(e)));
    attached
        .map_err(|why| MountError::Kernel { path: mountpoint.clone(), why: why.to_string() })?;
    let entry = mountpoint::mounted_at(&mountpoint);
    mountpoint::raise_read_ahead(&mountpoint, KERNEL_READ_AHEAD_KIB);
    entry.iter().for_each(utab::add);
    let observed = filesystem.clone();
    tokio::spawn(async move {
        keep_going("observing the mount", || observe(observed.clone())).await;
    });
    let bounded = filesystem.clone();
    tokio::spawn(async move {
        keep_going("bounding memory", || bound_memory(bounded.clone())).await;
    });
    let desk = match &entry {
        Some(entry) => {
            let way = follower.way();
            Desk::open(entry, plan.settings(), filesystem.clone(), synced, way).await
        }
        None => Err(io::Error::other("the mount is not to be seen here")),
    };
    let desk = desk.inspect_err(|e| tracing::warn!("umount will not be told how it ends: {e}"));
    Ok((ended, entry, desk.ok()))
}

/// Is there such a directory in the volume?
async fn find(filesystem: &Filesystem, volume: &str, path: &Path) -> Result<(), MountError> {
    let wrong = |why: String| MountError::Subdirectory {
        path: path.to_owned(),
        volume: volume.to_owned(),
        why,
    };
    if !is_root() {
        return Err(wrong("only root can mount a part of a volume".to_owned()));
    }
    let mut at = meta::ROOT;
    for part in path.components().filter(|part| *part != Component::RootDir) {
        let name = part.as_os_str().as_bytes();
        let found = filesystem.lookup(at, name).await.map_err(|e| wrong(e.to_string()))?;
        if let Some(attr) = &found {
            // The kernel walks there on its own account.
            filesystem.forget(attr.ino, 1);
        }
        match found {
            Some(attr) if attr.kind == meta::Kind::Directory => at = attr.ino,
            Some(_) => return Err(wrong("not a directory".to_owned())),
            None => return Err(wrong("no such directory".to_owned())),
        }
    }
    Ok(())
}

/// Returns when somebody asks not to wait for what cannot be stored.
async fn given_up(desk: Option<&Desk>) {
    match desk {
        Some(desk) => desk.given_up().await,
        None => std::future::pending().await,
    }
}

/// Takes the volume's lock on this machine. Its last mount may be gone from the kernel and still be storing
/// what it had: a new one waits for it.
async fn lock_volume(plan: &MountPlan) -> Result<VolumeLock, MountError> {
    let deadline = Instant::now() + WAIT_FOR_LAST;
    loop {
        let (at, name) = (plan.directories.clone(), plan.volume.clone());
        let by = MountedBy { pid: std::process::id(), mountpoint: plan.mountpoint.clone() };
        let taking = move || VolumeLock::take(&at, &name, &by);
        let taken = tokio::task::spawn_blocking(taking).await;
        let (name, MountedBy { pid, mountpoint }) = match taken.expect("locking does not panic") {
            Ok(lock) => return Ok(lock),
            Err(LockError::Mounted { name, by }) => (name, by),
            Err(e) => return Err(e.into()),
        };
        let place = place(&name, pid, &mountpoint);
        if place.is_some() || Instant::now() >= deadline {
            let by = MountedBy { pid, mountpoint: place.unwrap_or(mountpoint) };
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
