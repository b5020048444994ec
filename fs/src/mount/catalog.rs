//! Which volumes a cluster has, as `ashlar volume list` and administrators who come by a door are told.

use std::path::PathBuf;

use meta::{Catalog, Directories, FoundVolume, MountedBy, ProxyStores, VolumeState};
use serde::Serialize;

use crate::filesystem::Filesystem;

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// What it is called, if anything readable says so.
    pub name: Option<String>,
    /// Its number.
    pub number: u32,
    /// As the volume was formatted; `None`: that cannot be read.
    pub scheme: Option<String>,
    /// `whole`, `being destroyed` or `damaged`.
    pub state: &'static str,
    /// Why it is damaged.
    pub reason: Option<String>,
    /// The process of this machine that has it open, and where.
    pub mounted: Option<Mounted>,
}

/// Who has a volume open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mounted {
    /// The process.
    pub pid: u32,
    /// Where it is mounted; empty: nowhere, it is served by doors alone.
    pub mountpoint: PathBuf,
}

/// The volumes of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Volumes {
    /// By name.
    pub listed: Vec<Listed>,
    /// Why there may be more; `None`: there are none.
    pub missed: Option<String>,
}

/// Asks the disks. `own`: where this machine keeps what is its own of the cluster.
pub async fn look(stores: &ProxyStores, own: &Directories) -> Volumes {
    let mut listed = Vec::new();
    let Catalog { volumes, missed } = meta::list(stores).await;
    for FoundVolume { id, name, state, .. } in volumes {
        let scheme = match state {
            VolumeState::Whole => meta::scheme_of(stores, id).await,
            _ => None,
        };
        let (state, reason) = match state {
            VolumeState::Whole => ("whole", None),
            VolumeState::Condemned => ("being destroyed", None),
            VolumeState::Damaged(why) => ("damaged", Some(why)),
        };
        let mounted = name.as_deref().and_then(|name| holder(own, name));
        let scheme = scheme.map(|scheme| scheme.to_string());
        listed.push(Listed { name, number: id.0, scheme, state, reason, mounted });
    }
    Volumes { listed, missed }
}

/// The volumes of the cluster that one is of which is served here; that one comes first.
pub async fn beside(filesystem: &Filesystem, own: &Directories) -> Volumes {
    let Some((volume, blobs)) = filesystem.inside.get() else { return Volumes::default() };
    let mut volumes = look(&ProxyStores::new(blobs.clone()), own).await;
    let number = volume.info().id.0;
    volumes.listed.sort_by_key(|one| one.number != number);
    volumes
}

/// The volume that is served here, as it is listed. Asks no disk.
pub fn this(filesystem: &Filesystem, own: &Directories) -> Listed {
    let info = filesystem.meta.volume();
    Listed {
        number: info.id.0,
        scheme: Some(info.scheme.to_string()),
        state: "whole",
        reason: None,
        mounted: holder(own, &info.name),
        name: Some(info.name),
    }
}

fn holder(own: &Directories, name: &str) -> Option<Mounted> {
    let MountedBy { pid, mountpoint } = meta::lock_holder(own, name).ok()??;
    Some(Mounted { pid, mountpoint })
}
