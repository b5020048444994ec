//! What sessions that ended badly left behind: blobs they put and never committed.
//!
//! In the background, after a mount: nothing waits for it. Blobs that metadata does not know become
//! garbage; once every slot has been heard, the session is forgotten. Slots that are away now may
//! hold parts of further ones: they are asked later, at the latest after the next mount.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use proto::id::{BlobId, SessionId};
use proto::limits::MAX_BLOBS_PER_REQUEST;

use crate::data::{Data, DataError};

/// First and longest wait before a sweep is tried again.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Wait for slots that are away.
const LATER: Duration = Duration::from_secs(600);
/// Records asked for at once.
const PAGE: usize = 4096;

impl Data {
    /// Sweeps all dead sessions, then ends.
    pub(crate) async fn run_sweep(self: Arc<Self>) {
        let mut retry = RETRY.0;
        loop {
            let pause = match self.sweep().await {
                Ok(true) => return,
                Ok(false) => LATER,
                Err(error) => {
                    tracing::info!(%error, "sweeping a dead session waits for the store");
                    let pause = retry;
                    retry = (2 * retry).min(RETRY.1);
                    pause
                }
            };
            tokio::select! {
                () = self.stopping.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Sweeps what can be seen; was that all?
    pub(crate) async fn sweep(&self) -> Result<bool, DataError> {
        let mut whole = true;
        for session in self.meta.dead_sessions().await? {
            if session != self.session {
                whole &= self.sweep_session(session).await?;
            }
        }
        Ok(whole)
    }

    async fn sweep_session(&self, session: SessionId) -> Result<bool, DataError> {
        // The store first: a dead session commits nothing any more, so whatever it has and metadata
        // does not know will never be known.
        let stored = self.blobs.list(self.volume.id, session).await?;
        let known = self.known_blobs(session).await?;
        let unknown = stored.blobs.into_iter().filter(|id| !known.contains(&id.sequence()));
        let unknown: Vec<BlobId> = unknown.collect();
        for batch in unknown.chunks(MAX_BLOBS_PER_REQUEST) {
            self.meta.adopt_garbage(batch).await?;
        }
        let (blobs, whole) = (unknown.len(), stored.whole);
        tracing::info!(%session, blobs, whole, "swept a dead session");
        if whole {
            self.meta.forget_session(session).await?;
        }
        Ok(whole)
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
