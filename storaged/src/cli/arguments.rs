//! What commands on disks are given. The doc comments are the help texts.

use std::path::{Path, PathBuf};

use clap::Args;
use proto::id::{BlobId, ClusterId, DiskId, SlotId};
use proto::scheme::Scheme;
use proto::size::Size;

use crate::daemon;
use crate::format::superblock::Superblock;

/// Which disks.
#[derive(Debug, Args)]
pub(crate) struct Disks {
    /// Directories of the disks
    #[arg(required = true, value_name = "DIR")]
    pub(crate) dirs: Vec<PathBuf>,
    /// Print JSON, one object per line
    #[arg(long)]
    pub(crate) json: bool,
}

/// The disk to be.
#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// Directory; must be empty or not there yet
    pub(crate) dir: PathBuf,
    /// Where the disk belongs.
    #[command(flatten)]
    pub(crate) belongs: Belongs,
    /// Space to use [default: 90 % of what is free and not promised to other disks there]
    #[arg(long, value_name = "SIZE")]
    pub(crate) capacity: Option<Size>,
    /// Size of one block file
    #[arg(long, value_name = "SIZE", default_value = "256MiB")]
    pub(crate) block_file: Size,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// One of the two.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Belongs {
    /// Cluster to join: the id that the first disk's init printed, or the directory of a disk of it
    #[arg(long, value_name = "UUID|DIR", value_parser = cluster)]
    pub(crate) cluster: Option<ClusterId>,
    /// Begin a new cluster
    #[arg(long)]
    pub(crate) new_cluster: bool,
}

/// Which cluster file is changed.
#[derive(Debug, Args)]
pub(crate) struct ClusterFileArg {
    /// The cluster's file, which is changed
    #[arg(
        long,
        value_name = "FILE",
        env = "ASHLAR_CLUSTER",
        default_value = proto::cluster::DEFAULT_FILE
    )]
    pub(crate) cluster: PathBuf,
}

/// Which disk takes whose place.
#[derive(Debug, Args)]
pub(crate) struct ReplaceArgs {
    /// Id of the disk that is lost, as the cluster file lists it
    #[arg(value_name = "DISK")]
    pub(crate) old: DiskId,
    /// Directory of the new disk: empty or not there yet, or made by `storaged disk init` for this cluster
    pub(crate) dir: PathBuf,
    #[command(flatten)]
    pub(crate) file: ClusterFileArg,
    /// Space to use [default: 90 % of what is free and not promised to other disks there]
    #[arg(long, value_name = "SIZE")]
    pub(crate) capacity: Option<Size>,
    /// Size of one block file
    #[arg(long, value_name = "SIZE", default_value = "256MiB")]
    pub(crate) block_file: Size,
    /// Print the lines of the slot instead of changing the file
    #[arg(long, conflicts_with = "json")]
    pub(crate) print: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which volumes have to go on.
#[derive(Debug, Args)]
pub(crate) struct Schemes {
    /// Schemes of the cluster's volumes, all of them: they have to fit on the other disks [default: ec(4,2), and any
    /// that survives fewer losses]
    #[arg(long = "scheme", value_name = "SCHEME")]
    pub(crate) schemes: Vec<Scheme>,
}

impl Schemes {
    /// Those named, or where none is: the usual one, and the least that can be of those with metadata in fewer copies.
    pub(crate) fn of_volumes(&self) -> Vec<Scheme> {
        let usual = || {
            let widest: Scheme = "ec(4,2)".parse().expect("it is a scheme");
            let fewer = (1..widest.parity_parts()).filter_map(|m| Scheme::copies(m + 1).ok());
            std::iter::once(widest).chain(fewer).collect()
        };
        if self.schemes.is_empty() { usual() } else { self.schemes.clone() }
    }
}

/// Which disk is gone for good.
#[derive(Debug, Args)]
pub(crate) struct LostArgs {
    /// Id of the disk, as the cluster file lists it
    pub(crate) disk: DiskId,
    #[command(flatten)]
    pub(crate) file: ClusterFileArg,
    #[command(flatten)]
    pub(crate) schemes: Schemes,
}

/// Which disk is to be emptied.
#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    /// Id of the disk, as the cluster file lists it
    pub(crate) disk: DiskId,
    #[command(flatten)]
    pub(crate) file: ClusterFileArg,
    #[command(flatten)]
    pub(crate) schemes: Schemes,
    /// It stays after all
    #[arg(long)]
    pub(crate) undo: bool,
}

/// Which disks of which daemon.
#[derive(Debug, Args)]
pub(crate) struct ScrubArgs {
    /// Ids of disks [default: all that the daemon serves]
    #[arg(value_name = "DISK")]
    pub(crate) disks: Vec<DiskId>,
    /// Where the daemon listens
    #[arg(long, value_name = "HOST:PORT", default_value = daemon::DEFAULT_LISTEN)]
    pub(crate) address: String,
    /// Directory of this machine's certificate in the cluster [default: /var/lib/ashlar/node, where there is one]
    #[arg(long, value_name = "DIR", env = "ASHLAR_IDENTITY")]
    pub(crate) identity: Option<PathBuf>,
    /// Return when they are read, and say what is damaged
    #[arg(long)]
    pub(crate) wait: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which daemon.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Where it listens
    #[arg(long, value_name = "HOST:PORT", default_value = daemon::DEFAULT_LISTEN)]
    pub(crate) address: String,
    /// Directory of this machine's certificate in the cluster [default: /var/lib/ashlar/node, where there is one]
    #[arg(long, value_name = "DIR", env = "ASHLAR_IDENTITY")]
    pub(crate) identity: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which part of which blob.
#[derive(Debug, Args)]
pub(crate) struct PartArgs {
    /// Directory of the disk
    pub(crate) dir: PathBuf,
    /// The blob, as VOLUME-SESSION-SEQUENCE-GROUP-LENGTH-SCHEME
    pub(crate) blob: BlobId,
    /// Which of its parts, from 0
    #[arg(long, default_value_t = 0)]
    pub(crate) part: usize,
    /// The slot on the disk
    #[arg(long, value_parser = slot, default_value = "0")]
    pub(crate) slot: SlotId,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

fn slot(text: &str) -> Result<SlotId, std::num::ParseIntError> {
    text.parse().map(SlotId)
}

/// A cluster's id, or that of a disk.
fn cluster(text: &str) -> Result<ClusterId, String> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    let of_disk = Superblock::read_soon(Path::new(text));
    let neither = |e| format!("neither a cluster's id nor the directory of a disk of it: {e}");
    of_disk.map(|superblock| superblock.cluster).map_err(neither)
}
