//! The life of a mount: open the volume and its disks, start the layers, hand them to the kernel,
//! wait for the end, bring everything to rest.
//!
//! However it ends (umount, or a signal that [`proto::signals`] takes for an end), every byte is stored
//! and synced before the process exits; only then is the volume's lock given back. What of this has nothing to do with
//! the kernel is `open`'s, and a server's as well that mounts nothing.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use meta::Ino;
use proto::metad::LEASE;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use self::control::Desk;
use self::mountpoint::{MountEntry, Unmount};
use crate::filesystem::Filesystem;
use crate::filesystem::atime::AtimeRules;
use crate::fuse;
use crate::fuse::synced::Synced;
use crate::options::{MountOptions, is_root};

pub(crate) mod attach;
pub mod bind_mount;
pub mod catalog;
pub(crate) mod control;
pub mod embedded;
mod error;
pub(crate) mod follow;
mod led;
pub mod mountpoint;
mod open;
pub mod outage;
mod remote;
pub mod roll_call;
mod server;
pub mod tasks;
pub(crate) mod utab;
mod wanted;

pub use error::MountError;
pub use open::{OpenVolume, VolumePlan};
pub(crate) use open::{check_first, open_volume};
pub use server::Server;

/// How long the kernel may believe what it was told where every change comes through it.
const TTL: Duration = Duration::from_secs(3600);
/// How far the kernel reads ahead of a sequential reader.
const KERNEL_READ_AHEAD_KIB: u32 = 1024;
/// How long programs may still use a mount that is being taken down.
const WAIT_FOR_USERS: Duration = Duration::from_secs(5);

/// A mount to be made.
#[derive(Clone, Debug)]
pub struct MountPlan {
    /// Of what.
    pub volume: VolumePlan,
    /// Where, as [`mountpoint::check`] answered it.
    pub mountpoint: PathBuf,
    /// The kernel's side.
    pub options: MountOptions,
}

/// A volume that is mounted.
pub struct Mount {
    open: OpenVolume,
    mountpoint: PathBuf,
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
        let MountPlan { volume, mountpoint, options } = plan;
        let what = format!("{} was mounted", mountpoint.display());
        let mut open = OpenVolume::open(volume, (&mountpoint, &what), &stop).await?;
        let read_only = options.read_only;
        let (root, (ended, entry, desk)) = match serve(&open, &mountpoint, options).await {
            Ok(served) => served,
            Err(why) => {
                // Nothing was written; the session and the volume still have to end well.
                open.end_unused().await?;
                return Err(why);
            }
        };
        let opened = open.open_doors((root, read_only)).await;
        let mut mount = Self { open, mountpoint, ended, stop, entry, desk };
        if let Err(why) = opened {
            mount.take_down().await;
            mount.finish().await?;
            return Err(why);
        }
        Ok(mount)
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
        self.open.close_doors().await;
        self.unmount(true).await;
        if tokio::time::timeout(WAIT_FOR_USERS, &mut self.ended).await.is_err() {
            let at = self.mountpoint.display();
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
        let stopped = self.open.end(given_up(self.desk.as_ref())).await;
        if let Some(desk) = &self.desk {
            desk.tell(stopped.as_ref().err().map(ToString::to_string)).await;
        }
        stopped?;
        tracing::info!("unmounted, everything stored in {:.1?}", since.elapsed());
        Ok(())
    }

    /// The volume that is mounted.
    pub fn open(&self) -> &OpenVolume {
        &self.open
    }
}

/// What a mount that is served has of its own.
type Served = (oneshot::Receiver<()>, Option<MountEntry>, Option<Desk>);

/// Makes the mount and serves it. Answers which directory it shows, too.
async fn serve(
    open: &OpenVolume,
    mountpoint: &Path,
    options: MountOptions,
) -> Result<(Ino, Served), MountError> {
    let filesystem = &open.filesystem;
    let volume = open.plan().volume.clone();
    let root = match &options.subdirectory {
        Some(path) => find(filesystem, &volume, path).await?,
        None => meta::ROOT,
    };
    filesystem.atimes.obey(AtimeRules::of(&options));
    let synced = Arc::new(Synced::new(options.sync, options.dirsync));
    let runtime = tokio::runtime::Handle::current();
    // Another may have a volume that a metad leads, once that has not heard from this process for so long.
    let ttl = if open.is_led_here() { TTL } else { LEASE };
    let (door, ended) = fuse::Door::new(filesystem.clone(), runtime, synced.clone(), ttl);
    let at = mountpoint.to_owned();
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
        .map_err(|why| MountError::Kernel { path: mountpoint.to_owned(), why: why.to_string() })?;
    let entry = mountpoint::mounted_at(mountpoint);
    mountpoint::raise_read_ahead(mountpoint, KERNEL_READ_AHEAD_KIB);
    entry.iter().for_each(utab::add);
    let desk = match &entry {
        Some(entry) => {
            let (settings, way) = (open.plan().settings(), open.follower().way());
            Desk::open(entry, settings, filesystem.clone(), synced, way).await
        }
        None => Err(io::Error::other("the mount is not to be seen here")),
    };
    let desk = desk.inspect_err(|e| tracing::warn!("umount will not be told how it ends: {e}"));
    Ok((root, (ended, entry, desk.ok())))
}

/// The directory in the volume, if there is one.
async fn find(filesystem: &Filesystem, volume: &str, path: &Path) -> Result<Ino, MountError> {
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
    Ok(at)
}

/// Returns when somebody asks not to wait for what cannot be stored.
async fn given_up(desk: Option<&Desk>) {
    match desk {
        Some(desk) => desk.given_up().await,
        None => std::future::pending().await,
    }
}
