//! From a cluster file to a place for blobs: opens the disks in this process, or connects to the
//! daemons that serve them. Alone in naming `storaged`'s disks.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::future::join_all;
use proto::cluster::{Cluster, Place};
use proto::id::DiskId;
use proxy::{BadSlots, Proxy, ProxySettings, SlotConfig};
use storaged::{Disk, DiskError, DiskOptions};

/// Why the slots of a cluster could not be had.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A disk cannot be opened.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The directory holds another disk of this cluster than its file says.
    #[error("{path} holds disk {found}, and the cluster file says {expected}", path = path.display())]
    OtherDisk {
        /// The directory.
        path: PathBuf,
        /// What is there.
        found: DiskId,
        /// What should be.
        expected: DiskId,
    },
    /// The proxy cannot be made of them.
    #[error(transparent)]
    Slots(#[from] BadSlots),
}

/// The blobs of a cluster, and the disks that this process has opened for them.
pub struct Store {
    /// Where blobs go.
    pub blobs: Arc<Proxy>,
    disks: Vec<Arc<Disk>>,
}

impl Store {
    /// Opens every slot of the cluster. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Every local disk must open: an operator who lost one says so in the cluster file. Daemons
    /// may be away: the proxy finds out.
    pub async fn open(cluster: &Cluster) -> Result<Self, OpenError> {
        let mut slots = Vec::with_capacity(cluster.slots.len());
        let mut disks = Vec::new();
        for slot in &cluster.slots {
            match slot.place() {
                Place::Remote(_) => {}
                Place::Local(path) => {
                    let disk = open_disk(path, cluster, slot.disk).await?;
                    slots.push(SlotConfig {
                        disk: slot.disk,
                        place: path.display().to_string(),
                        domain: slot.domain(),
                        store: disk.slot(slot.slot, cluster.group(), cluster.generation),
                    });
                    disks.push(disk);
                }
            }
        }
        let settings = ProxySettings::default();
        let blobs = if disks.is_empty() {
            Proxy::from_cluster(cluster, settings)?
        } else {
            Proxy::new(slots, settings)
        };
        Ok(Self { blobs, disks })
    }

    /// Brings the disks to rest: the next start has nothing to replay.
    pub async fn close(self) {
        drop(self.blobs);
        // One that hangs does not hold up the others.
        join_all(self.disks.iter().map(|disk| disk.close())).await;
    }
}

async fn open_disk(path: &Path, cluster: &Cluster, id: DiskId) -> Result<Arc<Disk>, OpenError> {
    let options = DiskOptions { cluster: Some(cluster.cluster), ..DiskOptions::default() };
    let dir = path.to_owned();
    let opened = tokio::task::spawn_blocking(move || Disk::open(&dir, options)).await;
    let disk = opened.expect("opening a disk does not panic")?;
    if disk.id() != id {
        let found = disk.id();
        return Err(OpenError::OtherDisk { path: path.to_owned(), found, expected: id });
    }
    Ok(disk)
}
