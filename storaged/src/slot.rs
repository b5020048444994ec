//! A slot of a disk in this process, as a proxy sees it.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use proto::checksum::{Checked, widen};
use proto::id::{BlobId, Generation, GroupId, PartKey, PartSet, SessionId, SlotId, VolumeId};
use proto::limits::MAX_BLOBS_PER_REQUEST;
use proto::part_store::{Fill, Held, PartError, PartStore};

use crate::bay::Bay;
use crate::disk::{Disk, fits};
use crate::queue::Ask;

/// One slot, with what the caller knows of its group.
pub(crate) struct LocalSlot {
    bay: Arc<Bay>,
    slot: SlotId,
    group: GroupId,
    generation: Generation,
}

impl LocalSlot {
    /// Checked with every request.
    pub(crate) fn new(bay: Arc<Bay>, slot: SlotId, group: GroupId, generation: Generation) -> Self {
        Self { bay, slot, group, generation }
    }

    /// The disk, if it is there and its slot is what the caller takes it for.
    async fn check(&self) -> Result<Arc<Disk>, PartError> {
        let disk = self.bay.disk()?;
        disk.check_slot(self.slot, self.group, self.generation).await?;
        Ok(disk)
    }

    async fn change(
        &self,
        blobs: &[BlobId],
        ask: impl Fn(Vec<BlobId>) -> Ask,
    ) -> Result<(), PartError> {
        let disk = self.check().await?;
        for blobs in blobs.chunks(MAX_BLOBS_PER_REQUEST) {
            disk.change(self.slot, ask(blobs.to_vec())).await?;
        }
        Ok(())
    }

    /// Whole check blocks around the range, with their checks: what travels to a reader far away.
    pub(crate) async fn get_checked(
        &self,
        key: PartKey,
        range: Range<u32>,
    ) -> Result<Checked, PartError> {
        let disk = self.check().await?;
        disk.get(self.slot, key, range).await
    }
}

#[async_trait]
impl PartStore for LocalSlot {
    async fn put(&self, key: PartKey, data: Checked) -> Result<(), PartError> {
        let disk = self.check().await?;
        disk.put(self.slot, key, data).await
    }

    async fn get(&self, key: PartKey, range: Range<u32>) -> Result<Bytes, PartError> {
        let wide = self.get_checked(key, range.clone()).await?;
        let start = (range.start - widen(range.clone(), key.blob.part_len()).start) as usize;
        Ok(wide.data().slice(start..start + range.len()))
    }

    async fn held(&self, blob: BlobId) -> Result<Held, PartError> {
        let disk = self.check().await?;
        disk.held(self.slot, blob).await
    }

    async fn delete(&self, blobs: &[BlobId]) -> Result<(), PartError> {
        self.change(blobs, Ask::Delete).await
    }

    async fn forget(&self, blobs: &[BlobId]) -> Result<(), PartError> {
        self.change(blobs, Ask::Forget).await
    }

    async fn list(
        &self,
        volume: VolumeId,
        session: SessionId,
        after: Option<BlobId>,
        limit: u32,
    ) -> Result<Vec<(BlobId, PartSet)>, PartError> {
        let disk = self.check().await?;
        disk.list(self.slot, volume, session, after, limit).await
    }

    async fn has_served(&self) -> Result<bool, PartError> {
        Ok(self.bay.disk()?.slots().contains_key(&self.slot))
    }

    async fn fill(&self) -> Result<Fill, PartError> {
        let disk = self.bay.disk()?;
        let known = disk.slots().get(&self.slot).copied();
        fits(self.slot, known, self.group, self.generation)?;
        if let Some(why) = disk.hangs() {
            return Err(PartError::Unreachable(why));
        }
        let state = disk.state();
        if state.state == "ok" { Ok(state.fill) } else { Err(PartError::Io(state.state)) }
    }
}
