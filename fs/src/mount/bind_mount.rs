//! A volume that is mounted already, shown at a second place: one filesystem under two directories,
//! as mount(8) makes it of a block device that is mounted. The process that serves the volume need
//! not know; the kernel lets go of it with the last of its places.
//!
//! What belongs to a place (`ro`, `nosuid`, `nodev`, `noexec`, and whether the kernel asks for access
//! times) is each place's own. All else is as the first mount was asked for.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use meta::Directories;

use crate::mount::attach::Detached;
use crate::mount::control;
use crate::mount::mountpoint::MountEntry;
use crate::mount::utab;
use crate::options::MountOptions;

/// How long another process may take to mount a volume that it has opened.
const WAIT_FOR_FIRST: Duration = Duration::from_secs(30);
/// How often to look.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Why a mounted volume cannot be shown at a second place.
#[derive(Debug, thiserror::Error)]
pub enum SecondError {
    /// The directory asked for is not in what is mounted.
    #[error(
        "volume {volume} is mounted at {at}, but its directory {only} alone: unmount that first",
        at = at.display(),
        only = only.display()
    )]
    Outside {
        /// The volume.
        volume: String,
        /// Where it is mounted.
        at: PathBuf,
        /// The directory of the volume that is mounted there.
        only: PathBuf,
    },
    /// Nothing can be written to it, anywhere.
    #[error(
        "volume {volume} is mounted read-only at {at}: mount it with ro here too, or remount that with rw",
        at = at.display()
    )]
    ReadOnly {
        /// The volume.
        volume: String,
        /// Where it is mounted.
        at: PathBuf,
    },
    /// The kernel refuses.
    #[error("showing {from} at {at}: {why}", from = from.display(), at = at.display())]
    Kernel {
        /// What is to be shown.
        from: PathBuf,
        /// Where.
        at: PathBuf,
        /// Why not.
        why: std::io::Error,
    },
}

/// Where another process of this machine shows this volume: the place that shows most of it.
/// One that has the volume open, and does not show it yet, is waited for. `None`: none has, or that
/// takes too long.
pub async fn first(at: &Directories, volume: &str) -> Option<MountEntry> {
    let deadline = Instant::now() + WAIT_FOR_FIRST;
    loop {
        let by = meta::lock_holder(at, volume).ok()??;
        if by.is_served_only() {
            return None;
        }
        let places = control::places(volume, by.pid).into_iter();
        let found = places.min_by_key(|place| place.root.components().count());
        if found.is_some() || Instant::now() >= deadline {
            return found;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Shows what is mounted at `first` at `at` as well: with these options, and of its directory that
/// they name.
pub fn show(first: &MountEntry, at: &Path, options: &MountOptions) -> Result<(), SecondError> {
    let (volume, first_at) = (first.source.clone(), first.path.clone());
    if first.is_read_only() && !options.read_only {
        return Err(SecondError::ReadOnly { volume, at: first_at });
    }
    let wanted = options.subdirectory.as_deref().unwrap_or(Path::new("/"));
    let Ok(inside) = wanted.strip_prefix(&first.root) else {
        let only = first.root.clone();
        return Err(SecondError::Outside { volume, at: first_at, only });
    };
    Detached::copy(&first_at, inside)
        .and_then(|copy| copy.attach_with(at, options))
        .map_err(|why| SecondError::Kernel { from: first_at.join(inside), at: at.into(), why })?;
    utab::add(&MountEntry { path: at.to_owned(), root: wanted.to_owned(), ..first.clone() });
    Ok(())
}
