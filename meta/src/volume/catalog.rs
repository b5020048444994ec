//! Which volumes a cluster has, by what its store says alone; and how one is destroyed.

use proto::id::VolumeId;
use proto::scheme::Scheme;

use crate::journal::destroy::{self, Destroyed};
use crate::journal::peek::{self, Peeked};
use crate::journal::pulse::{self, Holder};
use crate::volume::lock::VolumeLock;
use crate::volume_store::{StoreError, VolumeStores, Volumes};

/// A volume of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundVolume {
    /// Its number.
    pub id: VolumeId,
    /// What it is called, if anything readable says so.
    pub name: Option<String>,
    /// How the blobs of its metadata are protected; `None`: there are none.
    pub metadata: Option<Scheme>,
    /// What can be done with it.
    pub state: VolumeState,
}

/// The volumes of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Catalog {
    /// By name; those that cannot be read are among them.
    pub volumes: Vec<FoundVolume>,
    /// Why others may be missing; `None`: none is.
    pub missed: Option<String>,
}

/// What can be done with a volume, as far as it can be told without opening it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeState {
    /// It can be mounted.
    Whole,
    /// Its destruction has begun, and can only go on.
    Condemned,
    /// Its metadata cannot be used, or there are none.
    Damaged(String),
}

/// The volumes of a cluster, as far as the disks that answer can tell. Changes nothing.
pub async fn list(stores: &dyn VolumeStores) -> Catalog {
    let Volumes { ids, missed } = stores.volumes().await;
    let mut volumes = Vec::new();
    for id in ids {
        let looked = peek::peek(&*stores.volume(id), id).await;
        volumes.push(FoundVolume::of(id, looked));
    }
    volumes.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
    Catalog { volumes, missed }
}

/// How the data of a volume are protected; `None`: that cannot be read.
pub async fn scheme_of(stores: &dyn VolumeStores, id: VolumeId) -> Option<Scheme> {
    let read = peek::scheme(stores.volume(id), id).await;
    read.inspect_err(|why| tracing::debug!("the scheme of volume number {id}: {why}")).ok()?
}

/// Who has a volume and is alive. Not those in whose names this machine took it over, which the lock knows: they are no more.
///
/// # Errors
/// When too few disks answer.
pub async fn holder(
    stores: &dyn VolumeStores,
    id: VolumeId,
    lock: Option<&VolumeLock>,
) -> Result<Option<Holder>, StoreError> {
    let store = stores.volume(id);
    let Some(m) = peek::parity_parts(&*store).await? else { return Ok(None) };
    let heard = store.last_beats(m).await?;
    Ok(pulse::holder(&heard, lock.map_or(&[], VolumeLock::owners), false))
}

/// Destroys a volume, whatever is left of it: nobody can write to it or mount it from the first moment on, and its
/// blobs are deleted. Whoever has it ([`holder`]) is not asked. `told` hears how far it is. When parts may be left on disks that are away, or this is
/// interrupted, it is listed still, and doing it again goes on.
///
/// # Errors
/// When too few disks answer.
pub async fn destroy(
    stores: &dyn VolumeStores,
    id: VolumeId,
    told: &(dyn Fn(Destroyed) + Sync),
) -> Result<Destroyed, StoreError> {
    destroy::destroy(&*stores.condemned(id), told).await
}

impl FoundVolume {
    fn of(id: VolumeId, looked: Result<Peeked, StoreError>) -> Self {
        let peeked = looked
            .unwrap_or_else(|why| Peeked { damage: Some(why.to_string()), ..Peeked::default() });
        let state = match peeked.damage {
            _ if peeked.condemned => VolumeState::Condemned,
            Some(why) => VolumeState::Damaged(why),
            None => VolumeState::Whole,
        };
        Self { id, name: peeked.name, metadata: peeked.metadata, state }
    }
}
