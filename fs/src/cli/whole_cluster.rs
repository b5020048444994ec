//! How a whole cluster is, for `ashlar status --cluster`: what its disks say, and how safe its volumes are.
//!
//! Disks know nothing of that: whoever has a volume open counts its blobs. Of those that processes of this machine have
//! these are asked. Of any other it is said in a line why it is not known here, and where it is.

use std::time::Duration;

use anyhow::Result;
use meta::{Catalog, Directories, FoundVolume, MountedBy, ProxyStores, VolumeState, VolumeStores};
use proto::cluster::Cluster;
use proxy::repair::Report;
use proxy::{BlobStore, SlotStatus};

use super::directories;
use super::setup::block_on;
use crate::filesystem::status::{Status, VolumeHealth};
use crate::mount::control::ControlClient;
use crate::mount::embedded::Store;
use crate::mount::mountpoint;
use crate::mount::roll_call;

/// How long disks may take to tell which volumes there are.
const LISTED: Duration = Duration::from_secs(10);
/// How long a process may take to be there, and to answer.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// What the disks have told.
struct Told {
    disks: Vec<SlotStatus>,
    volumes: Vec<(String, Who)>,
    /// Why there may be more volumes.
    missed: Option<String>,
}

/// Who knows how safe a volume is.
enum Who {
    /// A process of this machine.
    Here(MountedBy),
    /// Nobody here, and why.
    Nobody(String),
}

/// Asks the disks, and whoever has volumes open on this machine.
///
/// # Errors
/// Why the disks cannot be asked: somebody has opened them, say.
pub(super) fn status(cluster: &Cluster) -> Result<Status> {
    // Without one it is not known who has volumes open here.
    let own = directories::of(cluster).ok();
    let Told { disks, volumes, missed } = block_on(ask(cluster, own.as_ref()))?;
    let health = |(volume, who): (String, Who)| match who {
        Who::Nobody(why) => VolumeHealth { volume, heal: None, unknown: Some(why) },
        Who::Here(by) => VolumeHealth::of(report_of(&by, &volume), volume),
    };
    let volumes = volumes.into_iter().map(health).collect();
    Ok(Status { volumes, volumes_missed: missed, ..Status::of_disks(disks) })
}

async fn ask(cluster: &Cluster, own: Option<&Directories>) -> Result<Told> {
    let store = Store::open_any(cluster).await?;
    store.blobs.current().roll_call(roll_call::BOUND).await;
    let disks = store.blobs.slots().await;
    let stores = ProxyStores::new(store.blobs.clone());
    let listing = tokio::time::timeout(LISTED, Box::pin(list(&stores, own))).await;
    let (volumes, missed) = listing.unwrap_or_else(|_| {
        (Vec::new(), Some(format!("the disks do not tell of any within {LISTED:?}")))
    });
    drop(stores);
    store.close().await;
    Ok(Told { disks, volumes, missed })
}

/// Which volumes there are, and who knows of each; and why there may be more.
async fn list(
    stores: &ProxyStores,
    own: Option<&Directories>,
) -> (Vec<(String, Who)>, Option<String>) {
    let Catalog { volumes, missed } = meta::list(stores).await;
    let mut known = Vec::new();
    for found in volumes {
        let name = found.name.clone().unwrap_or_else(|| format!("number {}", found.id));
        let who = who_knows(stores, own, &found).await;
        known.push((name, who));
    }
    let missed = missed.map(|why| format!("there may be more on disks that are away: {why}"));
    (known, missed)
}

async fn who_knows(
    stores: &dyn VolumeStores,
    own: Option<&Directories>,
    found: &FoundVolume,
) -> Who {
    let FoundVolume { id, name, state, .. } = found;
    if *state == VolumeState::Condemned {
        return Who::Nobody("it is being destroyed".to_owned());
    }
    // Whoever has it open knows, also while too few disks are there to read anything of it.
    let by = own.zip(name.as_deref()).and_then(|(own, name)| meta::lock_holder(own, name).ok()?);
    if let Some(by) = by {
        return Who::Here(by);
    }
    if let VolumeState::Damaged(why) = state {
        return Who::Nobody(format!("it is damaged: {why}"));
    }
    Who::Nobody(match meta::holder(stores, *id, None).await {
        Ok(Some(holder)) => format!("{holder} has it open: ashlar status says it there"),
        Ok(None) => {
            let name = name.as_deref().unwrap_or("it");
            format!("nobody has it open to count its blobs; ashlar fsck {name} does")
        }
        Err(why) => format!("whether anybody has it open is not known: {why}"),
    })
}

/// What the process of this machine says that has the volume open.
fn report_of(by: &MountedBy, volume: &str) -> Result<Report, String> {
    let entry = mountpoint::held_by(by, volume).map_err(|why| why.to_string())?;
    let caller = ControlClient::call_patiently(&entry, PATIENCE.0);
    let mut caller =
        caller.ok_or_else(|| format!("process {} has it open, and does not answer", by.pid))?;
    let status = caller.status(PATIENCE.1)?;
    let status: Status =
        serde_json::from_str(&status).map_err(|why| format!("process {}: {why}", by.pid))?;
    let report = status.mount.and_then(|mount| mount.heal);
    report.ok_or_else(|| format!("process {} repairs nothing", by.pid))
}
