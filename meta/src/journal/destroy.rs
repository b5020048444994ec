//! The end of a volume: all its blobs are deleted, those of its data and those of its metadata.
//!
//! 1. Fence, for good: the volume is promised to the highest epoch there is, under which nobody leads, and to
//!    the one owner that all who destroy it share. A mount of it, here or on another machine, can write nothing
//!    more; nobody can take it over, whatever becomes of the rest; and whoever destroys it again goes on.
//! 2. List its blobs, page by page, and delete each page: data first, then chunks, entries and manifests. The
//!    last blob goes when all other deletes are confirmed, so a volume that is not gone altogether is
//!    still listed, by its name if it had metadata.
//!
//! It needs no room, reads no metadata, and so ends damaged volumes and those that have nothing but data.
//! Up to `m` units may be away: the volume stays then, with what they may hold of it.

use proto::id::{BlobId, SessionId};

use super::peek;
use crate::volume_store::names::EPOCH_MAX;
use crate::volume_store::{StoreError, VolumeStore};

/// How far the end of a volume has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Destroyed {
    /// Blobs of which nothing is left anywhere.
    pub deleted: u64,
    /// Blobs of which parts may be left on disks that are away.
    pub unconfirmed: u64,
}

impl Destroyed {
    /// Nothing is left of the volume.
    pub fn is_whole(&self) -> bool {
        self.unconfirmed == 0
    }

    async fn delete(&mut self, store: &dyn VolumeStore, ids: &[BlobId]) {
        if ids.is_empty() {
            return;
        }
        match store.delete(ids).await {
            Ok(()) => self.deleted += ids.len() as u64,
            Err(error) => {
                tracing::debug!("{error}");
                self.unconfirmed += ids.len() as u64;
            }
        }
    }
}

/// Deletes all of a volume; `told` hears how far it is, page by page.
///
/// # Errors
/// When the volume can be neither fenced nor listed. What was deleted is; again goes on.
pub(crate) async fn destroy(
    store: &dyn VolumeStore,
    told: &(dyn Fn(Destroyed) + Sync),
) -> Result<Destroyed, StoreError> {
    let mut destroyed = Destroyed::default();
    let Some(m) = peek::parity_parts(store).await? else { return Ok(destroyed) };
    store.fence(EPOCH_MAX, m).await?;
    let (mut after, mut last) = (None, None);
    loop {
        let mut page = store.list(SessionId(0)..SessionId(u64::MAX), after).await?;
        let Some(end) = page.pop() else { break };
        after = Some(end);
        page.extend(last.replace(end));
        destroyed.delete(store, &page).await;
        told(destroyed);
    }
    match last {
        Some(_) if !destroyed.is_whole() => destroyed.unconfirmed += 1,
        last => destroyed.delete(store, last.as_slice()).await,
    }
    told(destroyed);
    Ok(destroyed)
}
