//! The mailbox of a disk's owner: everyone puts in, the owner takes all there is at once.
//!
//! What waits in it is bounded by [`IN_FLIGHT`], in bytes and so in number; waiting for room is the
//! back-pressure that reaches the caller.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use proto::checksum::Checked;
use proto::id::{BLOB_ID_LEN, BlobId, Generation, GroupId, PartKey, SlotId};
use proto::limits::DISK_BLOCK;
use proto::part_store::PartError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::record::{encode_slot, footprint_blocks};

/// Bytes of records that may wait for one disk, or be on their way to it.
const IN_FLIGHT: usize = 16 << 20;

/// What is asked of the owner.
pub(crate) enum Ask {
    /// Store a part.
    Put(PartKey, Checked),
    /// Delete blobs.
    Delete(Vec<BlobId>),
    /// Forget deletes.
    Forget(Vec<BlobId>),
    /// Remember the slot's group.
    Slot(GroupId, Generation),
}

/// One request, and where its answer goes.
pub(crate) struct Request {
    /// The slot it concerns.
    pub(crate) slot: SlotId,
    /// What is asked.
    pub(crate) ask: Ask,
    /// Who waits.
    pub(crate) waiter: Waiter,
}

/// Where an answer goes, and the share of the room that is given back with it.
pub(crate) struct Waiter {
    done: oneshot::Sender<Result<(), PartError>>,
    _room: OwnedSemaphorePermit,
}

impl Waiter {
    /// Answers; the caller may have gone away, then nobody needs it.
    pub(crate) fn answer(self, result: Result<(), PartError>) {
        let _ = self.done.send(result);
    }
}

impl Ask {
    /// Blocks of disk that the record will take at most.
    pub(crate) fn blocks(&self) -> u32 {
        footprint_blocks(match self {
            Self::Put(_, data) => data.data().len() as u32,
            Self::Delete(blobs) | Self::Forget(blobs) => (blobs.len() * BLOB_ID_LEN) as u32,
            Self::Slot(group, generation) => encode_slot(*group, *generation).data().len() as u32,
        })
    }
}

#[derive(Default)]
struct State {
    requests: VecDeque<Request>,
    closed: bool,
}

/// The mailbox.
pub(crate) struct Queue {
    state: Mutex<State>,
    wake: Condvar,
    room: Arc<Semaphore>,
}

impl Queue {
    /// An empty one.
    pub(crate) fn new() -> Self {
        let room = Arc::new(Semaphore::new(IN_FLIGHT / DISK_BLOCK));
        Self { state: Mutex::default(), wake: Condvar::new(), room }
    }

    /// Asks, and waits for room first and for the answer then.
    pub(crate) async fn ask(&self, slot: SlotId, ask: Ask) -> Result<(), PartError> {
        let closed = || PartError::Io("the disk is closed".to_owned());
        let room = self.room.clone().acquire_many_owned(ask.blocks());
        let _room = room.await.map_err(|_| closed())?;
        let (done, answer) = oneshot::channel();
        {
            let mut state = self.state.lock();
            if state.closed {
                return Err(closed());
            }
            state.requests.push_back(Request { slot, ask, waiter: Waiter { done, _room } });
        }
        self.wake.notify_one();
        answer.await.map_err(|_| closed())?
    }

    /// Takes no more requests.
    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.wake.notify_one();
    }

    /// Requests that the owner has not taken.
    pub(crate) fn waiting(&self) -> usize {
        self.state.lock().requests.len()
    }

    /// Takes no more requests, and answers none of those that wait: their callers see it closed.
    pub(crate) fn abandon(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.requests.clear();
    }

    /// All requests there are, after waiting at most so long for the first. `true`: closed, and
    /// these are the last.
    pub(crate) fn take(&self, patience: Duration) -> (VecDeque<Request>, bool) {
        let mut state = self.state.lock();
        if state.requests.is_empty() && !state.closed {
            self.wake.wait_for(&mut state, patience);
        }
        (std::mem::take(&mut state.requests), state.closed)
    }
}
