//! What sessions that ended badly left behind: blobs they put and never committed.
//!
//! In the background, after a mount, and when a session dies that worked on the volume from elsewhere: nothing waits for it.
//! Blobs that metadata does not know become garbage; once every slot has been heard, the session is forgotten. Slots that are
//! away now may hold parts of further ones: they are asked later, at the latest after the next mount. Who has only just died
//! may have put something that is still on its way: it is swept at once, and once more when that cannot be.
//!
//! A session may have made many millions of blobs. What slots list and what metadata knows are both in
//! order of id, so they are walked side by side, a page of each in memory.

use std::sync::Arc;
use std::time::Duration;

use meta::BlobRecord;
use proto::id::{BlobId, SessionId};
use proto::limits::MAX_BLOBS_PER_REQUEST;
use tokio::time::Instant;

use crate::data::Data;
use crate::error::DataError;

/// First and longest wait before a sweep is tried again.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Wait for slots that are away, and for puts of who has died.
const LATER: Duration = Duration::from_secs(600);
/// Records asked for at once.
const PAGE: usize = 4096;

impl Data {
    /// Sweeps all dead sessions, and each that dies, until stopped.
    pub(crate) async fn run_sweep(self: Arc<Self>) {
        let mut retry = RETRY.0;
        loop {
            let pause = match self.sweep().await {
                Ok(true) => None,
                Ok(false) => Some(LATER),
                Err(error) => {
                    tracing::info!(%error, "sweeping a dead session waits for the store");
                    let pause = retry;
                    retry = (2 * retry).min(RETRY.1);
                    Some(pause)
                }
            };
            let later = async {
                match pause {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.stopping.cancelled() => return,
                () = self.one_died.notified() => {}
                () = later => {}
            }
        }
    }

    /// A session that worked on the volume from elsewhere is dead.
    pub(crate) fn session_died(&self, session: SessionId) {
        self.died.lock().insert(session, Instant::now());
        self.one_died.notify_one();
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
        // A dead session commits nothing any more, so whatever the store has and metadata does not
        // know will never be known.
        let mut known = Known::new(self, session);
        let (mut after, mut whole, mut blobs) = (None, true, 0);
        loop {
            let page = self.blobs.list(self.volume.id, session, after).await?;
            whole &= page.whole;
            let Some(last) = page.blobs.last() else { break };
            after = Some(*last);
            let mut unknown = Vec::new();
            for id in page.blobs {
                if !known.has(id).await? {
                    unknown.push(id);
                }
            }
            for batch in unknown.chunks(MAX_BLOBS_PER_REQUEST) {
                self.meta.adopt_garbage(batch).await?;
            }
            blobs += unknown.len();
        }
        tracing::info!(%session, blobs, whole, "swept a dead session");
        let late = self.died.lock().get(&session).is_some_and(|at| at.elapsed() < LATER);
        if whole && !late {
            self.meta.forget_session(session).await?;
            self.died.lock().remove(&session);
        }
        Ok(whole && !late)
    }
}

/// The blobs of a session that metadata knows, as they are asked for: in rising order, like both lists.
struct Known<'a> {
    data: &'a Data,
    session: SessionId,
    /// Those that were fetched and lie before us.
    page: std::vec::IntoIter<BlobRecord>,
    last: Option<BlobId>,
    ended: bool,
}

impl<'a> Known<'a> {
    fn new(data: &'a Data, session: SessionId) -> Self {
        // Sequences start at 1.
        let (volume, group) = (&data.volume, data.blobs.group());
        let last = BlobId::new(volume.id, session, 0, group, 1, volume.scheme);
        Self { data, session, page: Vec::new().into_iter(), last, ended: false }
    }

    /// Does metadata know this one? It comes after those that were asked for before.
    async fn has(&mut self, id: BlobId) -> Result<bool, DataError> {
        loop {
            while let Some(next) = self.page.as_slice().first() {
                if next.id.sequence() >= id.sequence() {
                    return Ok(next.id.sequence() == id.sequence());
                }
                self.page.next();
            }
            if self.ended {
                return Ok(false);
            }
            let mut page = self.data.meta.blobs(self.last, PAGE).await?;
            self.last = page.last().map(|record| record.id);
            self.ended = page.len() < PAGE;
            let ours = page.partition_point(|record| record.id.session() <= self.session);
            self.ended |= ours < page.len();
            page.truncate(ours);
            self.page = page.into_iter();
        }
    }
}
