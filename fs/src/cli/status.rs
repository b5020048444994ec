//! `ashlar status`: of a mount, or of a cluster's disks.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use proxy::repair::Health;

use proto::cluster::Cluster;
use proto::program::say;
use proto::touch::touch;

use super::setup::ClusterFile;
use super::whole_cluster;
use crate::filesystem::STATUS_XATTR;
use crate::filesystem::status::{MountStatus, Status, VolumeHealth};
use crate::mount::mountpoint::{self, MountEntry};

/// Most that an extended attribute can hold.
const LARGEST: usize = 64 << 10;

/// Show the state of a mount, or of a cluster's disks
///
/// A disk is up when it answers as the right one: of this cluster, disk, group and generation. Exits with 0 when all
/// is healthy, 1 when some blobs can lose less than they should or a disk is away, 2 when some cannot be read, 3 when
/// that is not known. Of several volumes it shows all, and exits as for the one that is worst. Of a cluster it shows its
/// disks, and how safe its volumes are where a process of this machine has them open; of others why that is not known
/// here. It exits as for the worst of these and of the disks: 0 when all are up, 1 when some are, 2 when none is.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  ashlar status\n  ashlar status /mnt/photos\n  ashlar status --cluster cluster.toml --json"
)]
pub(super) struct Args {
    /// Where a volume is mounted
    /// [default: all that are mounted]
    #[arg(conflicts_with = "cluster")]
    mountpoint: Option<PathBuf>,
    /// Ask the cluster's disks, and whoever has its volumes open on this machine, instead of one mount
    #[arg(long, value_name = "FILE")]
    cluster: Option<PathBuf>,
    /// JSON instead of a table
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let status = match (&args.mountpoint, &args.cluster) {
        (Some(path), _) => of_mount(&mountpoint::canonical(path)?)?,
        (None, Some(file)) => of_cluster(file)?,
        (None, None) => match &mounted()[..] {
            [_, _, ..] => return of_all(args.json),
            _ => of_mount(&only_mount()?)?,
        },
    };
    say(if args.json { status.to_json() } else { status.to_string() })?;
    Ok(status.health().into())
}

/// Shows every volume that is mounted: in JSON as a list, each with its `mountpoint`. One that does not answer is told
/// of, and keeps no other from it.
fn of_all(as_json: bool) -> Result<ExitCode> {
    let (mut worst, mut told) = (Health::Healthy, Vec::new());
    for place in mounted() {
        let point = place.path.display().to_string();
        let status = of_mount(&place.path);
        let health = status.as_ref().map_or(Health::Unknown, Status::health);
        worst = worst.and(health);
        told.push(match (status, as_json) {
            (Ok(status), false) => format!("{point}:\n{status}"),
            (Ok(status), true) => with_its_place(&point, serde_json::to_value(&status)?),
            (Err(why), false) => format!("{point}: {why:#}"),
            (Err(why), true) => {
                with_its_place(&point, serde_json::json!({ "error": format!("{why:#}") }))
            }
        });
    }
    say(if as_json { format!("[{}]", told.join(",\n")) } else { told.join("\n\n") })?;
    Ok(worst.into())
}

fn with_its_place(point: &str, mut status: serde_json::Value) -> String {
    status["mountpoint"] = point.into();
    status.to_string()
}

/// What it ends with when it cannot be told how a volume is.
pub(super) fn unknown() -> ExitCode {
    Health::Unknown.into()
}

/// A place of each volume that is mounted. Of one that is mounted at several any will do.
fn mounted() -> Vec<MountEntry> {
    let mut places: Vec<_> = mountpoint::volumes();
    places.sort_by(|a, b| (&a.device, &a.source).cmp(&(&b.device, &b.source)));
    places.dedup_by(|a, b| (&a.device, &a.source) == (&b.device, &b.source));
    places
}

/// Where the one volume is mounted that is.
pub(super) fn only_mount() -> Result<PathBuf> {
    match &mounted()[..] {
        [only] => Ok(only.path.clone()),
        [] => bail!(
            "no volume is mounted here: give --cluster FILE to ask the cluster's disks, or mount one"
        ),
        many => {
            let names: Vec<_> = many.iter().map(|place| place.path.display().to_string()).collect();
            bail!("{} volumes are mounted, give one of: {}", many.len(), names.join(", "))
        }
    }
}

/// Asks the process that serves a mount, through an extended attribute of the root directory.
pub(super) fn of_mount(path: &Path) -> Result<Status> {
    let name = path.display();
    let entry = mountpoint::mounted_at(path);
    if entry.is_none_or(|entry| entry.kind != "fuse.ashlar") {
        bail!("{name}: no volume is mounted there");
    }
    let asked = path.to_owned();
    let json = touch(move || {
        let mut json = vec![0; LARGEST];
        let len = rustix::fs::getxattr(&asked, STATUS_XATTR, &mut json[..])?;
        json.truncate(len);
        std::io::Result::Ok(json)
    });
    let json = json.flatten().with_context(|| format!("asking the mount at {name}"))?;
    serde_json::from_slice(&json).with_context(|| format!("the status of {name}"))
}

fn of_cluster(file: &Path) -> Result<Status> {
    let cluster = ClusterFile::new(file.to_owned()).read()?;
    // Who has opened disks himself is asked instead of them.
    whole_cluster::status(&cluster).or_else(|why| by_its_mounts(&cluster).ok_or(why))
}

/// How a cluster is whose disks a mount of this machine has opened: as that says. `None`: none has.
fn by_its_mounts(cluster: &Cluster) -> Option<Status> {
    let disks: Vec<String> = cluster.slots.iter().map(|slot| slot.disk.to_string()).collect();
    let told = mounted().into_iter().filter_map(|place| of_mount(&place.path).ok());
    let mut own = told.filter(|told| told.disks.iter().any(|disk| disks.contains(&disk.disk)));
    let Status { mount, disks, .. } = own.next()?;
    let MountStatus { volume, heal, .. } = mount?;
    let told = heal.ok_or_else(|| "whoever has it open repairs nothing".to_owned());
    let volumes = vec![VolumeHealth::of(told, volume)];
    Some(Status { volumes, ..Status::of_disks(disks) })
}
