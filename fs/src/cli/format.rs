//! `ashlar format`: a new volume in a cluster.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use meta::{MountedBy, ProxyStores, VolumeInfo, VolumeLock};
use proto::cluster::Cluster;
use proto::id::VolumeId;
use proto::part_store::PartError;
use proto::program::{complain, say};
use proto::scheme::Scheme;
use proxy::{BlobStore, Founded, Safety, VolumeRules};

use super::directories;
use super::setup::{ClusterFile, block_on};
use crate::mount::embedded::Store;
use crate::mount::roll_call::{self, WrongFile};

/// Create a volume in a cluster
///
/// Every disk of the cluster must be there.
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
    /// Store only while so many more disks may be lost, however many are away: with 0, as a degraded RAID does
    #[arg(long, value_name = "N", default_value_t = VolumeRules::MIN_SPARE)]
    min_spare: u8,
}

pub(super) fn run(args: Args) -> Result<ExitCode> {
    let cluster = args.cluster.read()?;
    let Args { volume, scheme, min_spare, .. } = args;
    let safety = block_on(create(&cluster, &volume, scheme, min_spare))?;
    let file = args.cluster.path.display();
    for warning in &safety.warnings {
        complain("ashlar", format!("warning: {warning}"));
    }
    say(format!(
        "volume {volume} is formatted with {scheme}: {safety}\n\
         mount it with: ashlar mount {volume} MOUNTPOINT --cluster {file}"
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// Creates the volume, on disks that are all there, and answers what it will survive.
pub(super) async fn create(
    cluster: &Cluster,
    volume: &str,
    scheme: Scheme,
    min_spare: u8,
) -> Result<Safety> {
    cluster.check_scheme(scheme)?;
    let min_spare = VolumeRules::spare(scheme, min_spare)?;
    let (safety, rules) = Safety::of_new(scheme, min_spare, cluster);
    let by = MountedBy { pid: std::process::id(), mountpoint: PathBuf::from("(formatting)") };
    let lock = VolumeLock::take(&directories::of(cluster)?, volume, &by)?;
    let store = Store::open(cluster).await?;
    let created = async {
        check_disks(&store, cluster).await?;
        found(&store, cluster).await?;
        create_on(&store, &lock, cluster, volume, (scheme, rules)).await
    };
    let created = created.await;
    store.close().await;
    created.map(|()| safety)
}

/// The slots of a group that is new serve from now on; those that come to one later are rebuilding.
async fn found(store: &Store, cluster: &Cluster) -> Result<()> {
    match store.blobs.current().found().await {
        Ok(Founded::Now | Founded::Before) => Ok(()),
        Ok(Founded::Unheard(slots)) => bail!("{slots} disks do not say what they hold"),
        Err((index, why)) => bail!("{}: {why}", roll_call::named(index, &cluster.slots[index])),
    }
}

async fn create_on(
    store: &Store,
    lock: &VolumeLock,
    cluster: &Cluster,
    name: &str,
    (scheme, rules): (Scheme, VolumeRules),
) -> Result<()> {
    let (name, id, cluster) = (name.to_owned(), new_id(), cluster.cluster);
    let info = VolumeInfo { name, id, cluster, scheme, rules };
    store.blobs.abide_by(id, rules);
    let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    let stores = ProxyStores::new(store.blobs.clone());
    Ok(meta::format(&stores, lock, &info, (uid, gid, 0o755)).await?)
}

/// A number that no volume of the cluster has: drawn by lot, so that two that are formatted at once
/// have two.
fn new_id() -> VolumeId {
    let (high, _) = uuid::Uuid::new_v4().as_u64_pair();
    VolumeId((high >> 32) as u32)
}

/// Are all disks there, and are they those that the cluster file says?
async fn check_disks(store: &Store, cluster: &Cluster) -> Result<()> {
    let answers = store.blobs.current().roll_call(roll_call::BOUND).await;
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
