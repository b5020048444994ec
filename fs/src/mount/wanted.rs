//! Which blobs the metadata of a volume need, for its repair: those that extents refer to and that the slots keep.

use std::sync::Arc;

use async_trait::async_trait;
use meta::{BlobRecord, MetaStore, is_inline};
use proto::id::BlobId;
use proxy::repair::{Ledger, Wanted};

/// The blobs of a volume that is led here.
pub(crate) struct WantedBlobs {
    meta: Arc<dyn MetaStore>,
}

impl WantedBlobs {
    /// Of this volume.
    pub(crate) fn new(meta: Arc<dyn MetaStore>) -> Self {
        Self { meta }
    }
}

fn is_wanted(record: &BlobRecord) -> bool {
    record.live > 0 && !is_inline(&record.id)
}

#[async_trait]
impl Ledger for WantedBlobs {
    async fn wanted(&self, mut after: Option<BlobId>, limit: usize) -> Option<Wanted> {
        loop {
            let records = self.meta.blobs(after, limit).await.ok()?;
            let complete = records.len() < limit;
            after = records.last().map(|record| record.id).or(after);
            let blobs: Vec<BlobId> =
                records.iter().filter(|record| is_wanted(record)).map(|record| record.id).collect();
            if complete || !blobs.is_empty() {
                return Some(Wanted { blobs, complete });
            }
        }
    }

    async fn wants(&self, blob: BlobId) -> Option<bool> {
        // The one before it, in the order of ids: that of a blob that nobody makes.
        let scheme = blob.scheme();
        let (volume, session) = (blob.volume(), blob.session());
        let before = blob.sequence().checked_sub(1).and_then(|sequence| {
            BlobId::new(volume, session, sequence, blob.group(), proto::limits::MAX_BLOB, scheme)
        });
        let records = self.meta.blobs(before, 2).await.ok()?;
        Some(records.iter().any(|record| record.id == blob && is_wanted(record)))
    }
}
