//! `ashlar format`: a new volume in a cluster.

use std::process::ExitCode;

use anyhow::{Result, bail};
use meta::VolumeInfo;
use proto::cluster::Cluster;
use proto::id::VolumeId;
use proto::part_store::PartError;
use proto::program::{complain, say};
use proto::scheme::Scheme;
use proxy::Safety;

use super::{ClusterFile, block_on};
use crate::embedded::Store;
use crate::roll_call::{self, WrongFile};

/// Create a volume in a cluster
///
/// Every disk of the cluster must be there. Nothing is written to them yet.
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  ashlar format photos --cluster cluster.toml --scheme 'ec(4,2)'"
)]
pub(super) struct Args {
    /// Name of the new volume: up to 64 of a-z, 0-9, dot, dash and underscore
    volume: String,
    #[command(flatten)]
    cluster: ClusterFile,
    /// How data are protected: ec(K,M), readable with any M disks lost, or copies(N)
    #[arg(long, default_value = "ec(4,2)")]
    scheme: Scheme,
}

pub(super) fn run(args: Args) -> Result<ExitCode> {
    let cluster = args.cluster.read()?;
    let Args { volume, scheme, .. } = args;
    block_on(async {
        check_disks(&cluster).await?;
        create(&cluster, &volume, scheme)
    })?;
    let file = args.cluster.path.display();
    let safety = Safety::of(scheme, &cluster);
    if let Some(warning) = safety.warning() {
        complain("ashlar", format!("warning: {warning}"));
    }
    say(format!(
        "volume {volume} is formatted with {scheme}: {safety}\n\
         mount it with: ashlar mount {volume} MOUNTPOINT --cluster {file}"
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// Creates the volume's metadata.
pub(super) fn create(cluster: &Cluster, volume: &str, scheme: Scheme) -> Result<()> {
    cluster.check_scheme(scheme)?;
    let info =
        VolumeInfo { name: volume.to_owned(), id: new_id(), cluster: cluster.cluster, scheme };
    let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    Ok(meta::format(&cluster.meta, &info, (uid, gid, 0o755))?)
}

/// A number that no volume of the cluster has: drawn by lot, as metadata of the others may lie on
/// other machines.
fn new_id() -> VolumeId {
    let (high, _) = uuid::Uuid::new_v4().as_u64_pair();
    VolumeId((high >> 32) as u32)
}

/// Are all disks there, and are they those that the cluster file says?
async fn check_disks(cluster: &Cluster) -> Result<()> {
    let store = Store::open(cluster).await?;
    let answers = store.blobs.roll_call(roll_call::BOUND).await;
    store.close().await;
    for (index, (slot, answer)) in cluster.slots.iter().zip(answers).enumerate() {
        let named = roll_call::named(index, slot);
        match answer {
            Some(Ok(())) => {}
            Some(Err(PartError::StaleGeneration(known))) => {
                let (file, who) = (cluster.generation, named);
                return Err(WrongFile::Old { file, who, known }.into());
            }
            Some(Err(why)) => bail!("{named}: {why}"),
            None => bail!("{named} does not answer"),
        }
    }
    Ok(())
}
