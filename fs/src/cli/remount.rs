//! `-o remount`: changes the mount that is there.
//!
//! What is asked for is done, or refused before anything is changed: the kernel's options and the log's
//! filter can change, and all else must be as it is. Last, the cluster file is read again, which may have changed. mount(8) repeats what fstab says, so what is
//! said again is fine.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use proto::listen::Listen;
use proto::size::Size;

use super::directories;
use super::options::Options;
use super::request::{Request, at_least};
use super::setup::ClusterFile;
use crate::mount::control::ControlClient;
use crate::mount::mountpoint::{self, MountEntry};

/// How long a mount may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long it may take to look at other disks.
const DISKS: Duration = Duration::from_secs(30);

pub(super) fn run(request: &Request) -> Result<ExitCode> {
    let at = mountpoint::canonical(&request.mountpoint)?;
    let entry = mountpoint::volume_at(&at)?;
    let mut caller = ControlClient::call_patiently(&entry, PATIENCE);
    check(request, &entry, caller.as_mut()).with_context(|| at.display().to_string())?;
    if let (Some(filter), Some(caller)) = (&request.options.log, &mut caller) {
        // First, as it can be refused.
        caller.log(filter, PATIENCE).map_err(|why| anyhow!("{why}"))?;
    }
    mountpoint::remount(&at, &request.options.mount)?;
    let entry = mountpoint::volume_at(&at)?;
    let Some(mut caller) = caller else {
        bail!("remounted, but the process that serves {} cannot be told", at.display());
    };
    caller.remounted(&entry.options, PATIENCE).context("telling the process that serves it")?;
    let named = request.options.cluster.as_deref();
    let file = named.or(request.cluster.is_named().then_some(request.cluster.path.as_path()));
    let file = file.map(std::path::absolute).transpose().context("the cluster file")?;
    let followed = caller.read_again(file.as_deref(), DISKS);
    followed
        .map_err(|why| anyhow!("remounted, and goes on by the cluster file that it had: {why}"))?;
    Ok(ExitCode::SUCCESS)
}

/// Is all that cannot change as it is?
fn check(request: &Request, entry: &MountEntry, caller: Option<&mut ControlClient>) -> Result<()> {
    let Request { volume, options, .. } = request;
    if *volume != entry.source {
        bail!("volume {} is mounted there, not {volume}", entry.source);
    }
    if let Some(part) = options.mount.subdirectory.as_ref().filter(|part| **part != entry.root) {
        bail!("its directory {} is mounted there, not {}", entry.root.display(), part.display());
    }
    let shown: Options = entry.options.parse()?;
    if options.mount.allow_other == Some(true) && shown.mount.allow_other.is_none() {
        bail!("allow_other cannot change while it is mounted: unmount it, and mount it with that");
    }
    let pid = caller.as_ref().map(|caller| caller.pid);
    check_cluster(request, pid)?;
    check_settings(options, caller)
}

/// Is it a volume of the cluster that is named?
fn check_cluster(request: &Request, pid: Option<u32>) -> Result<()> {
    let named = request.options.cluster.clone().map(ClusterFile::new);
    let file = named.as_ref().unwrap_or(&request.cluster);
    if !file.is_named() {
        return Ok(());
    }
    let cluster = file.read()?;
    let holder =
        meta::lock_holder(&directories::of(&cluster)?, &request.volume)?.map(|holder| holder.pid);
    match pid {
        // Who is a session of a metad has no lock by which to be told.
        Some(pid) if cluster.metad.is_empty() && holder != Some(pid) => {
            let (volume, file) = (&request.volume, file.path.display());
            bail!("what is mounted there is not the volume {volume} of the cluster in {file}")
        }
        _ => Ok(()),
    }
}

/// Has it the memory and metrics that are asked for?
fn check_settings(options: &Options, caller: Option<&mut ControlClient>) -> Result<()> {
    let text = |size: Option<Size>| size.map(|size| size.to_string());
    let asked = |options: &Options| {
        let address = |listen: &Option<Listen>| listen.as_ref().map(ToString::to_string);
        let care = &options.care;
        let entry = |options: &Options| {
            let words = options.doors.entry.words();
            Some(words.trim_start_matches(',').to_owned()).filter(|words| !words.is_empty())
        };
        [
            ("cache-size", text(options.cache_size)),
            ("dirty-size", text(options.dirty_size.map(at_least))),
            ("metrics", address(&options.metrics)),
            ("http", address(&options.doors.http)),
            ("kv", address(&options.doors.kv)),
            ("s3", address(&options.doors.s3)),
            ("how doors are entered", entry(options)),
            ("disk-grace", care.disk_grace.map(|grace| grace.to_string().replace(' ', ""))),
            ("heal-rate", text(care.heal_rate)),
            ("census-every", care.census_every.map(|every| every.to_string())),
            ("scrub-days", care.scrub_days.map(|days| days.to_string())),
        ]
    };
    let wanted = asked(options);
    if wanted.iter().all(|(_, wanted)| wanted.is_none()) {
        return Ok(());
    }
    let caller = caller.context("the process that serves it cannot be asked")?;
    let words = caller.settings(PATIENCE).context("asking the process that serves it")?;
    let have = asked(&words.parse::<Options>().context("what it says of itself")?);
    for ((name, wanted), (_, have)) in wanted.into_iter().zip(have) {
        if let Some(wanted) = wanted.filter(|wanted| Some(wanted) != have.as_ref()) {
            let have = have.unwrap_or("none".to_owned());
            bail!(
                "{name} is {have} and cannot become {wanted} while it is mounted: unmount it, and mount it with that"
            );
        }
    }
    Ok(())
}
