//! `ashlar umount`: takes a mount away and waits until everything is stored.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::status::of_mount;
use crate::mountpoint;

/// Everything dirty fits into memory, so storing it ends soon or not at all.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often to look whether the process has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Unmount a volume
///
/// Returns when everything is stored and the process that served the mount has ended.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  ashlar umount /mnt/photos")]
pub(super) struct Args {
    /// Where it is mounted
    mountpoint: PathBuf,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let at = mountpoint::canonical(&args.mountpoint)?;
    if mountpoint::mounted_at(&at).is_some() && mountpoint::is_dead(&at) {
        mountpoint::unmount(&at, true)?;
        eprintln!("ashlar: the process that served this mount had ended before");
        return Ok(ExitCode::SUCCESS);
    }
    let pid = of_mount(&at)?.mount.map(|mount| mount.pid);
    mountpoint::unmount(&at, false)?;
    let deadline = Instant::now() + PATIENCE;
    while pid.is_some_and(runs) {
        if Instant::now() >= deadline {
            let pid = pid.unwrap_or_default();
            bail!("unmounted, but process {pid} has not stored everything after {PATIENCE:?}");
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    Ok(ExitCode::SUCCESS)
}

/// A process that only waits for its parent to notice its end has ended.
fn runs(pid: u32) -> bool {
    match std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")) {
        Ok(stat) => !stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')),
        Err(_) => false,
    }
}
