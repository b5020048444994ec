//! What sessions that ended badly left behind: blobs they put and never committed.
//!
//! In the background, after a mount: nothing waits for it, and while slots are away it waits for
//! them. Blobs that metadata does not know become garbage; then the session is forgotten.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use proto::id::{BlobId, SessionId};
use proto::limits::MAX_BLOBS_PER_REQUEST;

use crate::data::{Data, DataError};

/// First and longest wait before a sweep is tried again.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Records asked for at once.
const PAGE: usize = 4096;

impl Data {
    /// Sweeps all dead sessions, then ends.
    pub(crate) async fn run_sweep(self: Arc<Self>) {
        let mut pause = RETRY.0;
        while let Err(error) = self.sweep().await {
            tracing::info!(%error, "sweeping a dead session waits for the store");
            tokio::select! {
                () = self.stopping.cancelled() => return,
                () = tokio::time::sleep(pause) => pause = (2 * pause).min(RETRY.1),
            }
        }
    }

    pub(crate) async fn sweep(&self) -> Result<(), DataError> {
        for session in self.meta.dead_sessions().await? {
            if session != self.session {
                self.sweep_session(session).await?;
            }
        }
        Ok(())
    }

    async fn sweep_session(&self, session: SessionId) -> Result<(), DataError> {
        // The store first: a dead session commits nothing any more, so whatever it has and metadata
        // does not know will never be known.
        let stored = self.blobs.list(self.volume.id, session).await?;
        let known = self.known_blobs(session).await?;
        let unknown: Vec<BlobId> =
            stored.into_iter().filter(|id| !known.contains(&id.sequence())).collect();
        for batch in unknown.chunks(MAX_BLOBS_PER_REQUEST) {
            self.meta.adopt_garbage(batch).await?;
        }
        tracing::info!(%session, blobs = unknown.len(), "swept a dead session");
        Ok(self.meta.forget_session(session).await?)
    }

    /// Sequences of the session's blobs that metadata knows. Sequences start at 1.
    async fn known_blobs(&self, session: SessionId) -> Result<HashSet<u64>, DataError> {
        let mut known = HashSet::new();
        let mut after = BlobId::new(self.volume.id, session, 0, 1, self.volume.scheme);
        loop {
            let page = self.meta.blobs(after, PAGE).await?;
            let ours = page.iter().take_while(|record| record.id.session() == session);
            let before = known.len();
            known.extend(ours.map(|record| record.id.sequence()));
            if known.len() - before < PAGE {
                return Ok(known);
            }
            after = page.last().map(|record| record.id);
        }
    }
}
