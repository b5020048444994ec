//! Dead and half-dead blobs.
//!
//! Metadata counts the live bytes of every blob. Those with none are garbage: once that is durable
//! they are deleted, and their records go when every slot has confirmed it.

use std::sync::Arc;

use proto::limits::MAX_BLOBS_PER_REQUEST;

use crate::data::{Data, DataError};

impl Data {
    /// Looks for garbage until stopped.
    pub(crate) async fn run_cleaner(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = self.stopping.cancelled() => return,
                () = tokio::time::sleep(self.settings.garbage_interval) => {}
            }
            let _ = self.collect_garbage().await;
            self.room.learn(self.blobs.space(self.volume.scheme).await);
        }
    }

    /// Deletes what is garbage now. Answers how many blobs are gone.
    pub(crate) async fn collect_garbage(&self) -> Result<usize, DataError> {
        let _one_at_a_time = self.cleaning.lock().await;
        let mut gone = 0;
        loop {
            let ids = self.meta.garbage(MAX_BLOBS_PER_REQUEST).await?;
            if ids.is_empty() {
                return Ok(gone);
            }
            ids.iter().for_each(|id| self.cache.forget(id));
            let unconfirmed = self.blobs.delete(&ids).await;
            let confirmed: Vec<_> =
                ids.iter().filter(|id| !unconfirmed.contains(id)).copied().collect();
            self.meta.forget_blobs(&confirmed).await?;
            gone += confirmed.len();
            self.status.lock().blobs_deleted += confirmed.len() as u64;
            if !unconfirmed.is_empty() {
                return Ok(gone);
            }
        }
    }

    /// Space is short: gets back what can be had at once, and asks how much there is.
    pub(crate) async fn make_space(&self) {
        let _ = self.meta.sync().await;
        let _ = self.collect_garbage().await;
        self.room.learn(self.blobs.space(self.volume.scheme).await);
    }
}
