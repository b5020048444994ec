//! Inline blobs: small synced writes that ride in the journal of the metadata.
//!
//! An fsync of a little data would be two rounds of puts, one after the other: the blob, then the journal
//! entry that names it. So a small blob is not put: its bytes go into the entry, and an fsync is one round.
//! They are moved into full blobs later, like what is live of a half-dead blob; what was overwritten by then
//! is never moved.
//!
//! Invariant: inline blobs have at most [`DataSettings::inline_bytes`](crate::data::DataSettings::inline_bytes)
//! bytes, and few beside the volume's room, but for what is flushed at one moment. Beyond that blobs are put,
//! however small.

use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use meta::is_inline;
use proto::id::BlobId;
use proxy::BlobError;

use crate::data::Data;
use crate::error::DataError;

/// Longest inline blob, in bytes. Of a longer one k data parts on as many disks are
/// written sooner than m + 1 whole copies.
const LONGEST: u32 = 64 << 10;
/// Inline blobs listed at once.
const PAGE: usize = 1024;

impl Data {
    /// Is a blob of this length to be an inline one?
    pub(crate) fn takes_inline(&self, len: u32) -> bool {
        len <= LONGEST && self.inline_bytes.load(Relaxed) + u64::from(len) <= self.inline_most()
    }

    fn inline_most(&self) -> u64 {
        self.space.inline_most().min(self.settings.inline_bytes)
    }

    /// Are there so many bytes of them that they are to be moved?
    pub(crate) fn inline_is_due(&self) -> bool {
        self.inline_bytes.load(Relaxed) > self.inline_most() / 2
    }

    /// A range of a blob, from wherever it is.
    ///
    /// # Errors
    /// See [`proxy::BlobStore::get`].
    pub(crate) async fn get_blob(&self, id: BlobId, range: Range<u32>) -> Result<Bytes, BlobError> {
        if !is_inline(&id) {
            return self.blobs.get(id, range).await;
        }
        let unavailable = |why: String| BlobError::Unavailable { id, why };
        let bytes = self.meta.inline_bytes(id).await.map_err(|e| unavailable(e.to_string()))?;
        let bytes = bytes.ok_or(BlobError::NotFound(id))?;
        if bytes.len() != id.len() as usize || range.end > id.len() {
            return Err(unavailable(format!("it has {} bytes", bytes.len())));
        }
        Ok(Bytes::copy_from_slice(&bytes[range.start as usize..range.end as usize]))
    }

    /// Deletes blobs, wherever they are; answers those that some slot has not confirmed.
    pub(crate) async fn delete_blobs(&self, ids: &[BlobId]) -> Vec<BlobId> {
        // Of an inline one nothing is anywhere but its record.
        let on_slots: Vec<BlobId> = ids.iter().filter(|id| !is_inline(id)).copied().collect();
        if on_slots.is_empty() { Vec::new() } else { self.blobs.delete(&on_slots).await }
    }

    /// All inline blobs; counts them anew.
    ///
    /// # Errors
    /// When metadata cannot be read.
    pub(crate) async fn inline_blobs(&self) -> Result<Vec<BlobId>, DataError> {
        let mut all: Vec<BlobId> = Vec::new();
        loop {
            let page = self.meta.inline_blobs(all.last().copied(), PAGE).await?;
            all.extend(&page);
            if page.len() < PAGE {
                break;
            }
        }
        self.inline_bytes.store(all.iter().map(|id| u64::from(id.len())).sum(), Relaxed);
        Ok(all)
    }
}
