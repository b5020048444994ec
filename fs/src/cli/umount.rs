//! `ashlar umount`: takes a mount away and waits until everything is stored.
//!
//! What cannot be stored is not given up silently: then the mount stays, and says why. `--force` gives
//! it up, within a bound, and says so.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use proto::program::complain;

use super::options::Options;
use crate::mount::control::{ControlClient, Ended, has_threads};
use crate::mount::mountpoint::{self, MountPointError, Unmount};
use crate::mount::utab;

/// Everything dirty fits into memory, so storing it ends soon or not at all.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long a mount that is forced may go on storing, before it gives up what it cannot store.
const FORCE_PATIENCE: Duration = Duration::from_secs(10);
/// How long a mount may be there before its process can be asked.
const BEGINNING: Duration = Duration::from_secs(10);
/// Giving up takes no time, unless the process hangs.
const QUIT_PATIENCE: Duration = Duration::from_secs(5);
/// The kernel lets go of a mount at once, unless it is where we do not see it.
const UNSEEN: Duration = Duration::from_secs(3);
/// How often to look whether the process has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Unmount a volume
///
/// Stores everything first. If that fails, the volume stays mounted and nothing is lost. Returns when
/// the process that served the mount has ended; at once where the volume is mounted elsewhere too.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  ashlar umount /mnt/photos\n  ashlar umount --force /mnt/photos"
)]
pub(super) struct Args {
    /// Where it is mounted
    pub(super) mountpoint: PathBuf,
    /// Even if it hangs, or its disks are gone: what cannot be stored within seconds is lost
    #[arg(long, short = 'f')]
    pub(super) force: bool,
    /// Even if programs use it: out of sight at once, and ended when they have gone
    #[arg(long, short = 'l')]
    pub(super) lazy: bool,
    /// If programs use it, make it read-only
    #[arg(long, short = 'r')]
    pub(super) read_only: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let at = mountpoint::canonical(&args.mountpoint)?;
    let entry = mountpoint::volume_at(&at)?;
    let called = match args.force {
        true => ControlClient::call(&entry),
        false => ControlClient::call_patiently(&entry, BEGINNING),
    };
    let Some(mut caller) = called else {
        return unserved(&at, args);
    };
    let only = mountpoint::places(&entry).len() < 2;
    if args.force && only {
        return force(&at, caller, args.lazy);
    }
    if args.lazy {
        mountpoint::unmount(&at, Unmount::Lazy)?;
        utab::remove(&entry);
        return Ok(ExitCode::SUCCESS);
    }
    if only && let Err(why) = caller.store(PATIENCE) {
        let name = at.display();
        bail!(
            "{name} is still mounted, as not everything could be stored: {why} (give it up with: umount -f {name})"
        );
    }
    match mountpoint::unmount(&at, Unmount::Unused) {
        Err(busy @ MountPointError::InUse(_)) if args.read_only && only => {
            let options: Options = format!("{},ro", entry.options).parse()?;
            mountpoint::remount(&at, &options.mount)?;
            bail!("{busy}: it is read-only from now on");
        }
        unmounted => unmounted?,
    }
    utab::remove(&entry);
    if !mountpoint::places(&entry).is_empty() {
        // The volume is mounted elsewhere too, and goes on there.
        return Ok(ExitCode::SUCCESS);
    }
    let pid = caller.pid;
    let ended = caller.end(UNSEEN).or_else(|| {
        caller.ask_elsewhere();
        caller.end(PATIENCE)
    });
    match ended {
        Some(ended) => ended_well(ended, pid),
        None => bail!("unmounted, but process {pid} has not stored everything after {PATIENCE:?}"),
    }
}

/// A mount whose process is gone, or does not want to hear from us.
fn unserved(at: &Path, args: &Args) -> Result<ExitCode> {
    if !args.force && !mountpoint::is_dead(at) {
        let how = if args.lazy { Unmount::Lazy } else { Unmount::Unused };
        mountpoint::unmount(at, how)?;
        bail!(
            "{} is unmounted, but its process cannot be asked whether everything is stored: the next mount waits for it",
            at.display()
        );
    }
    mountpoint::unmount(at, if args.force { Unmount::ForceLazy } else { Unmount::Lazy })?;
    complain("ashlar", "the process that served this mount had ended before");
    Ok(ExitCode::SUCCESS)
}

/// Takes it away from its process first, so that whoever waits in it gets an error.
fn force(at: &Path, mut caller: ControlClient, lazy: bool) -> Result<ExitCode> {
    mountpoint::unmount(at, if lazy { Unmount::ForceLazy } else { Unmount::Force })?;
    let pid = caller.pid;
    let ended = caller.end(FORCE_PATIENCE).or_else(|| {
        caller.quit();
        caller.end(QUIT_PATIENCE)
    });
    match ended {
        Some(ended) => ended_well(ended, pid),
        None => bail!(
            "unmounted, but process {pid} does not end: what it has not stored is lost when it is killed"
        ),
    }
}

fn ended_well(ended: Ended, pid: u32) -> Result<ExitCode> {
    let deadline = Instant::now() + QUIT_PATIENCE;
    while ended != Ended::Elsewhere && has_threads(pid) && Instant::now() < deadline {
        // Its connection was closed, which is one of the last things that a process does.
        std::thread::sleep(LOOK_AGAIN);
    }
    match ended {
        Ended::Stored => Ok(ExitCode::SUCCESS),
        Ended::Elsewhere => {
            complain(
                "ashlar",
                format!(
                    "unmounted here; process {pid} goes on, as the volume is mounted in another mount namespace (of a container?)"
                ),
            );
            Ok(ExitCode::SUCCESS)
        }
        Ended::Failed(why) => bail!("{why}"),
        Ended::Died => bail!("unmounted, but process {pid} died before it had stored everything"),
    }
}
