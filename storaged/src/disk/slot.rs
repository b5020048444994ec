//! A slot of a disk in this process, as a proxy sees it.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use proto::checksum::{Checked, widen};
use proto::id::{BlobId, Epoch, Generation, GroupId, OwnerId, PartKey, SlotId, VolumeId};
use proto::limits::MAX_BLOBS_PER_REQUEST;
use proto::part_store::{
    Beat, Condition, Fill, Held, Issuer, LastBeat, Page, PartError, PartStore, Scope, Standing,
};

use crate::disk::Disk;
use crate::disk::bay::{Bay, Bays};
use crate::shared::queue::{Ask, To};

/// One slot, with what the caller knows of its group.
pub(crate) struct LocalSlot {
    bay: Arc<Bay>,
    to: To,
}

impl LocalSlot {
    /// Checked with every request.
    pub(crate) fn new(bay: Arc<Bay>, slot: SlotId, group: GroupId, generation: Generation) -> Self {
        Self { bay, to: To { slot, group, generation } }
    }

    async fn ask(&self, ask: Ask) -> Result<(), PartError> {
        self.bay.disk()?.ask(self.to, ask).await
    }
}

impl Disk {
    /// One slot, for a proxy in this process that knows the group at this generation.
    pub fn slot(
        self: &Arc<Self>,
        slot: SlotId,
        group: GroupId,
        generation: Generation,
    ) -> Arc<dyn PartStore> {
        Arc::new(LocalSlot::new(Arc::new(Bay::of(self.clone())), slot, group, generation))
    }
}

impl Bays {
    /// One slot of the disk in the `nth` bay, for a proxy in this process that knows the group at this
    /// generation.
    pub fn slot(
        &self,
        nth: usize,
        slot: SlotId,
        group: GroupId,
        generation: Generation,
    ) -> Arc<dyn PartStore> {
        Arc::new(LocalSlot::new(self.all()[nth].clone(), slot, group, generation))
    }
}

#[async_trait]
impl PartStore for LocalSlot {
    async fn put(
        &self,
        key: PartKey,
        data: Checked,
        issuer: Option<Issuer>,
    ) -> Result<(), PartError> {
        self.ask(Ask::Put(key, data, issuer)).await
    }

    async fn get(&self, key: PartKey, range: Range<u32>) -> Result<Bytes, PartError> {
        let wide = self.bay.disk()?.get(self.to, key, range.clone()).await?;
        let start = (range.start - widen(range.clone(), key.blob.part_len()).start) as usize;
        Ok(wide.data().slice(start..start + range.len()))
    }

    async fn held(&self, blob: BlobId) -> Result<Held, PartError> {
        let disk = self.bay.disk()?;
        disk.ask(self.to, Ask::Turn).await?;
        disk.held(self.to.slot, blob).await
    }

    async fn delete(&self, blobs: &[BlobId], issuer: Option<Issuer>) -> Result<(), PartError> {
        for blobs in blobs.chunks(MAX_BLOBS_PER_REQUEST) {
            self.ask(Ask::Delete(blobs.to_vec(), issuer)).await?;
        }
        Ok(())
    }

    async fn forget(&self, blobs: &[BlobId], issuer: Option<Issuer>) -> Result<(), PartError> {
        for blobs in blobs.chunks(MAX_BLOBS_PER_REQUEST) {
            self.ask(Ask::Forget(blobs.to_vec(), issuer)).await?;
        }
        Ok(())
    }

    async fn drop_part(&self, key: PartKey, issuer: Option<Issuer>) -> Result<(), PartError> {
        self.ask(Ask::DropPart(key, issuer)).await
    }

    async fn rebuilt(&self, volume: VolumeId, issuer: Option<Issuer>) -> Result<(), PartError> {
        self.ask(Ask::Rebuilt(volume, issuer)).await
    }

    async fn serve(&self) -> Result<(), PartError> {
        self.ask(Ask::Serve).await
    }

    async fn fence(&self, volume: VolumeId, epoch: Epoch, owner: OwnerId) -> Result<(), PartError> {
        self.ask(Ask::Fence(volume, Issuer { epoch, owner })).await
    }

    async fn promised(&self, volume: VolumeId) -> Result<Option<Issuer>, PartError> {
        let disk = self.bay.disk()?;
        disk.ask(self.to, Ask::Turn).await?;
        disk.promised(self.to.slot, volume)
    }

    async fn beat(&self, volume: VolumeId, issuer: Issuer, beat: Beat) -> Result<(), PartError> {
        self.bay.disk()?.beat(self.to, volume, issuer, beat)
    }

    async fn last_beat(&self, volume: VolumeId) -> Result<Option<LastBeat>, PartError> {
        self.bay.disk()?.last_beat(self.to, volume)
    }

    async fn list(
        &self,
        scope: Scope,
        after: Option<BlobId>,
        limit: u32,
    ) -> Result<Page, PartError> {
        let disk = self.bay.disk()?;
        disk.ask(self.to, Ask::Turn).await?;
        disk.list(self.to.slot, scope, after, limit).await
    }

    async fn standing(&self) -> Result<Option<Standing>, PartError> {
        let standings = self.bay.disk()?.standings();
        Ok(standings.into_iter().find(|at| at.slot == self.to.slot).map(|at| at.standing))
    }

    async fn condition(&self, volume: VolumeId) -> Result<Condition, PartError> {
        self.bay.disk()?.condition(self.to, volume)
    }

    async fn scrub(&self) -> Result<(), PartError> {
        self.bay.disk()?.scrub()
    }

    async fn fill(&self) -> Result<Fill, PartError> {
        let disk = self.bay.disk()?;
        let To { slot, group, generation } = self.to;
        disk.check_fits(slot, group, generation)?;
        if let Some(why) = disk.hangs() {
            return Err(PartError::Unreachable(why));
        }
        let state = disk.state();
        if state.state == "ok" { Ok(state.fill) } else { Err(PartError::Io(state.state)) }
    }
}
