//! What is to be stored: files with dirty ranges, and flights that have not ended.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use meta::Ino;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::data::open_inode::{OpenInode, State};

/// First and longest wait before flights are tried again after one failed.
pub(crate) const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));

/// Files with dirty ranges, and flights that have not ended.
#[derive(Default)]
pub(crate) struct Queue {
    files: Mutex<BTreeMap<Ino, Arc<OpenInode>>>,
    /// With the bytes of their blobs, once these are known.
    pub(super) in_flight: Mutex<BTreeMap<u64, u64>>,
    /// Flights whose extents are committed; counted before their bytes leave memory.
    pub(crate) commits: AtomicU64,
    /// Told whenever a flight has ended.
    pub(super) landed: Notify,
    /// Wakes the flusher.
    pub(crate) kick: Notify,
}

impl Queue {
    /// Adds a file that has dirty ranges now.
    pub(crate) fn add(&self, open_inode: &Arc<OpenInode>) {
        self.files.lock().insert(open_inode.ino, Arc::clone(open_inode));
    }

    pub(super) fn next(&self, from: Ino) -> Option<Arc<OpenInode>> {
        let files = self.files.lock();
        files.range((Bound::Included(from), Bound::Unbounded)).next().map(|(_, h)| Arc::clone(h))
    }

    /// Takes a file out that has none any more. Its state is locked, so that none can be added.
    pub(crate) fn settle(&self, open_inode: &OpenInode, state: &mut State) {
        if state.queued && state.dirty_ranges.dirty_len() == 0 {
            state.queued = false;
            self.files.lock().remove(&open_inode.ino);
        }
    }

    fn in_flight(&self) -> Vec<u64> {
        self.in_flight.lock().keys().copied().collect()
    }

    /// Flights that have not ended.
    pub(crate) fn flights(&self) -> usize {
        self.in_flight.lock().len()
    }

    /// Bytes of their blobs.
    pub(crate) fn flying_bytes(&self) -> u64 {
        self.in_flight.lock().values().sum()
    }

    /// Waits until these flights have ended, well or not. Every put is bounded, so this is too.
    pub(super) async fn landed(&self, flights: &[u64]) {
        loop {
            let landed = self.landed.notified();
            tokio::pin!(landed);
            landed.as_mut().enable();
            let in_flight = |flight| self.in_flight.lock().contains_key(flight);
            if !flights.iter().any(in_flight) {
                return;
            }
            landed.await;
        }
    }
}

/// Whose dirty ranges are meant.
pub(crate) enum Scope<'a> {
    /// One file's.
    One(&'a Arc<OpenInode>),
    /// All files'.
    All,
}

impl Scope<'_> {
    pub(super) fn next(&self, queue: &Queue, from: Ino) -> Option<Arc<OpenInode>> {
        match self {
            Self::One(open_inode) => (open_inode.ino >= from).then(|| Arc::clone(open_inode)),
            Self::All => queue.next(from),
        }
    }

    pub(super) fn flights(&self, queue: &Queue) -> Vec<u64> {
        match self {
            Self::One(open_inode) => open_inode.state.lock().dirty_ranges.flights(),
            Self::All => queue.in_flight(),
        }
    }
}
