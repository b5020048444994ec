//! A volume that a metad leads, as a mount, or a server, of it has it: a session there, and its blobs put in the name of whoever
//! leads it.

use std::path::Path;

use meta::{MetaStore, RemoteSession, Target};
use proto::cluster::Cluster;
use proto::tls::Connector;
use proxy::BlobStore;

use super::embedded::Store;
use super::error::MountError;
use super::roll_call::{self, Called, RollCallError};

/// Opens a session of the metads that the cluster file names, for whoever is mounted at `at` (empty: nowhere), and has the
/// store act for the one that leads the volume. `take_over`: whoever has the volume is ended.
///
/// # Errors
/// Why there is none: then everything is as it was.
pub(super) async fn open(
    (cluster, volume): (&Cluster, &str),
    at: &Path,
    take_over: bool,
    store: &Store,
) -> Result<RemoteSession, MountError> {
    let called = Called::of(&store.blobs.current()).await;
    called.check(cluster).map_err(RollCallError::from)?;
    called.check_known(cluster).map_err(RollCallError::from)?;
    let target = Target {
        addresses: cluster.metad.clone(),
        cluster: cluster.cluster,
        connector: Connector::of(cluster)?,
        volume: volume.to_owned(),
        name: name(at),
        take_over,
    };
    let session = RemoteSession::open(target).await?;
    let volume = session.volume();
    let fits = roll_call::check_file(&volume, None, cluster);
    if let Err(why) = fits.and_then(|_| called.check_for(volume.scheme, cluster)) {
        // Nothing was written, so that there is nothing to sweep. The reason is what counts.
        let _ = session.close_session().await;
        return Err(RollCallError::from(why).into());
    }
    store.blobs.abide_by(volume.id, volume.rules);
    let (blobs, id) = (store.blobs.clone(), volume.id);
    session.tell_issuer(move |issuer| blobs.act_for(id, issuer));
    let blobs = store.blobs.clone();
    session.tell_changes(move |volume| blobs.abide_by(volume.id, volume.rules));
    Ok(session)
}

/// Who asks, for people.
fn name(at: &Path) -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let (host, pid) = (host.trim(), std::process::id());
    match at.as_os_str().is_empty() {
        true => format!("the server of {host}, process {pid}"),
        false => format!("mount {} of {host}, process {pid}", at.display()),
    }
}
