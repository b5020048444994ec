//! Why a volume could not be mounted or served, or did not end well.

use std::path::PathBuf;

use meta::{LockError, RemoteError, VolumeError};

use crate::doors::DoorError;
use crate::error::FsError;
use crate::mount::embedded::OpenError;
use crate::mount::mountpoint::MountPointError;
use crate::mount::roll_call::RollCallError;

/// Why a mount could not be made, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// Its lock on this machine.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The volume.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// The certificate of this machine.
    #[error(transparent)]
    Tls(#[from] proto::tls::files::TlsError),
    /// The metad that leads it.
    #[error(transparent)]
    Remote(#[from] RemoteError),
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
    #[error("told to end before {0}")]
    Stopped(String),
    /// Its doors.
    #[error(transparent)]
    Doors(#[from] DoorError),
}
