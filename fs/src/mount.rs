//! The life of a mount: open the volume and its disks, start the layers, hand them to the kernel,
//! wait for the end, bring everything to rest.
//!
//! However it ends (umount, Ctrl-C, SIGTERM), every byte is stored and synced before the process
//! exits; only then is the volume's lock given back.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use meta::{LocalMeta, MetaSettings, MetaStore, MountedBy, VolumeError};
use proto::cluster::Cluster;
use proto::scheme::Scheme;
use proxy::BlobStore;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::data::{Data, DataSettings};
use crate::embedded::{OpenError, Store};
use crate::filesystem::{Filesystem, FsError};
use crate::fuse;
use crate::metrics;
use crate::mountpoint::{self, MountPointError};

/// How far the kernel reads ahead of a sequential reader.
const KERNEL_READ_AHEAD_KIB: u32 = 1024;
/// How long a new mount waits for the last one of the volume to have stored everything.
const WAIT_FOR_LAST: Duration = Duration::from_secs(30);
/// How often it looks.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How long programs may still use a mount that is being taken down.
const WAIT_FOR_USERS: Duration = Duration::from_secs(5);
/// How often gauges are brought up to date.
const OBSERVE: Duration = Duration::from_secs(1);

/// What the user chose about the kernel's side of a mount.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// No writes.
    pub read_only: bool,
    /// Other users may enter. `None`: root's mounts only.
    pub allow_other: Option<bool>,
    /// Setuid programs do not get their rights. `None`: not in root's mounts.
    pub nosuid: Option<bool>,
    /// Device files are dead. `None`: not in root's mounts.
    pub nodev: Option<bool>,
    /// Nothing can be executed.
    pub noexec: bool,
}

/// A mount to be made.
#[derive(Clone, Debug)]
pub struct MountPlan {
    /// The volume.
    pub volume: String,
    /// Its cluster.
    pub cluster: Cluster,
    /// Where, as [`mountpoint::check`] answered it.
    pub mountpoint: PathBuf,
    /// The kernel's side.
    pub options: MountOptions,
    /// Ours.
    pub data: DataSettings,
}

/// Why a mount could not be made, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The volume.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// Its disks.
    #[error(transparent)]
    Store(#[from] OpenError),
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
    /// At the end, something could not be stored.
    #[error("unmounted, but not everything could be stored: {0}")]
    Unstored(#[source] FsError),
    /// Signals cannot be waited for.
    #[error("waiting for signals: {0}")]
    Signals(io::Error),
}

/// A volume that is mounted.
pub struct Mount {
    filesystem: Arc<Filesystem>,
    meta: Arc<LocalMeta>,
    store: Store,
    ended: oneshot::Receiver<()>,
    mountpoint: PathBuf,
    /// `MAJOR:MINOR` of this mount: another one may be made at the same place.
    device: Option<String>,
}

impl Mount {
    /// Mounts. When this returns, the mount point works.
    pub async fn start(plan: MountPlan) -> Result<Self, MountError> {
        let meta = open_volume(&plan).await?;
        let store = Store::open(&plan.cluster).await?;
        let settings = plan.data.clone();
        let shared: Arc<dyn MetaStore> = meta.clone();
        let data = Data::start(shared.clone(), store.blobs.clone(), settings);
        let filesystem = Filesystem::start(shared, data, store.blobs.clone());
        let (door, ended) = fuse::Door::new(filesystem.clone(), tokio::runtime::Handle::current());
        let MountPlan { volume, mountpoint, options, .. } = plan;
        let at = mountpoint.clone();
        let session = tokio::task::spawn_blocking(move || {
            fuse::Session::mount(door, &volume, &at, &options)?.serve()
        });
        if let Err(why) = session.await.expect("mounting does not panic") {
            // Nothing was written; the session of the volume still has to end well.
            let stopped = filesystem.stop().await;
            store.close().await;
            stopped.map_err(MountError::Unstored)?;
            return Err(MountError::Kernel { path: mountpoint, why: why.to_string() });
        }
        let device = mountpoint::mounted_at(&mountpoint).map(|entry| entry.device);
        mountpoint::raise_read_ahead(&mountpoint, KERNEL_READ_AHEAD_KIB);
        tokio::spawn(observe(filesystem.clone()));
        Ok(Self { filesystem, meta, store, ended, mountpoint, device })
    }

    /// Waits until somebody unmounts it, or SIGINT or SIGTERM asks for the end, and ends it.
    pub async fn run(mut self) -> Result<(), MountError> {
        let mut interrupt = stop_signal(SignalKind::interrupt())?;
        let mut terminate = stop_signal(SignalKind::terminate())?;
        tokio::select! {
            _ = &mut self.ended => {}
            _ = interrupt.recv() => self.take_down().await,
            _ = terminate.recv() => self.take_down().await,
        }
        self.finish().await
    }

    /// Unmounts; programs that still use the mount get a moment, then errors.
    async fn take_down(&mut self) {
        self.unmount().await;
        if tokio::time::timeout(WAIT_FOR_USERS, &mut self.ended).await.is_err() {
            let at = self.mountpoint.display();
            tracing::warn!("{at} is still in use: its users get errors from now on");
        }
    }

    async fn unmount(&self) {
        let (path, device) = (self.mountpoint.clone(), self.device.clone());
        let work = move || match mountpoint::mounted_at(&path) {
            Some(entry) if Some(&entry.device) == device.as_ref() => {
                mountpoint::unmount(&path, false).or_else(|_| mountpoint::unmount(&path, true))
            }
            _ => Ok(()),
        };
        let unmounted = tokio::task::spawn_blocking(work).await;
        if let Err(e) = unmounted.expect("unmounting does not panic") {
            tracing::warn!("{e}");
        }
    }

    async fn finish(self) -> Result<(), MountError> {
        // A session that broke leaves its mount behind.
        self.unmount().await;
        let since = Instant::now();
        let stopped = self.filesystem.stop().await;
        drop(self.filesystem);
        drop(self.meta);
        self.store.close().await;
        stopped.map_err(MountError::Unstored)?;
        tracing::info!("unmounted, everything stored in {:.1?}", since.elapsed());
        Ok(())
    }

    /// How the volume's data are protected.
    pub fn scheme(&self) -> Scheme {
        self.meta.volume().scheme
    }

    /// Room for data: in all and still free, in bytes after redundancy.
    pub async fn room(&self) -> (u64, u64) {
        let space = self.store.blobs.space(self.scheme()).await;
        (space.capacity, space.available)
    }
}

fn stop_signal(kind: SignalKind) -> Result<tokio::signal::unix::Signal, MountError> {
    signal(kind).map_err(MountError::Signals)
}

/// Opens the volume. Its last mount may be gone from the kernel and still be storing what it had:
/// a new one waits for it.
async fn open_volume(plan: &MountPlan) -> Result<Arc<LocalMeta>, MountError> {
    let deadline = Instant::now() + WAIT_FOR_LAST;
    loop {
        let (dir, name) = (plan.cluster.meta.clone(), plan.volume.clone());
        let by = MountedBy { pid: std::process::id(), mountpoint: plan.mountpoint.clone() };
        let opened = tokio::task::spawn_blocking(move || {
            meta::open(&dir, &name, by, MetaSettings::default())
        })
        .await
        .expect("opening a volume does not panic");
        let refused = match opened {
            Ok(meta) => return Ok(meta),
            Err(e) => e,
        };
        let ending = meta::lock_holder(&plan.cluster.meta, &plan.volume)
            .is_ok_and(|holder| holder.is_some_and(|holder| is_ending(&holder.mountpoint)));
        if !ending || Instant::now() >= deadline {
            return Err(refused.into());
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

fn is_ending(mountpoint: &Path) -> bool {
    mountpoint::mounted_at(mountpoint).is_none()
}

async fn observe(filesystem: Arc<Filesystem>) {
    while !filesystem.is_stopped() {
        metrics::observe(&filesystem.data.status());
        tokio::time::sleep(OBSERVE).await;
    }
}
