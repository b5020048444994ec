//! The mailbox of a disk's owner: everyone puts in, the owner takes all there is at once, and decides it in the
//! order in which it came.
//!
//! What waits in it is bounded, in bytes and so in number: each request brings its share of somebody's room,
//! which is given back with the answer. Of requests in this process that is [`IN_FLIGHT`], of those of a link the
//! room that the daemon has for the disk. Waiting for room is the back-pressure that reaches the caller.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use proto::checksum::Checked;
use proto::id::{BLOB_ID_LEN, BlobId, Generation, GroupId, PartKey, SlotId, VolumeId};
use proto::limits::DISK_BLOCK;
use proto::on_wake::{self, Threads};
use proto::part_store::{Issuer, PartError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::log::record::{FENCE_LEN, PART_LEN, REBUILT_LEN, SLOT_LEN, footprint_blocks};

/// Bytes of records that callers in this process may have waiting for one disk, or on their way to it.
const IN_FLIGHT: usize = 16 << 20;

/// Where a request goes: to a slot, of which the sender knows the group and its generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct To {
    /// The slot.
    pub(crate) slot: SlotId,
    /// The group it belongs to.
    pub(crate) group: GroupId,
    /// The newest generation of the group that the sender knows.
    pub(crate) generation: Generation,
}

/// What is asked of the owner.
pub(crate) enum Ask {
    /// Store a part.
    Put(PartKey, Checked, Option<Issuer>),
    /// Delete blobs.
    Delete(Vec<BlobId>, Option<Issuer>),
    /// Forget deletes.
    Forget(Vec<BlobId>, Option<Issuer>),
    /// Take a part away.
    DropPart(PartKey, Option<Issuer>),
    /// The slot holds all that it should of a volume.
    Rebuilt(VolumeId, Option<Issuer>),
    /// The slot holds all that it should of every volume.
    Serve,
    /// Promise a volume.
    Fence(VolumeId, Issuer),
    /// Nothing but its turn: whoever looks after the answer sees all that was asked before.
    Turn,
}

/// One request, and where its answer goes.
pub(crate) struct Request {
    /// The slot it concerns.
    pub(crate) to: To,
    /// What is asked.
    pub(crate) ask: Ask,
    /// Who waits.
    pub(crate) waiter: Waiter,
    /// Since when it waits for room on the disk.
    pub(crate) waits_since: Option<Instant>,
}

/// Where an answer goes, and the share of the room that is given back with it.
pub(crate) struct Waiter {
    done: oneshot::Sender<Result<(), PartError>>,
    _room: OwnedSemaphorePermit,
}

impl Waiter {
    /// Answers, and sends the answer on if that is all there is to do; the caller may have gone away, then nobody
    /// needs it. To be called without a lock.
    pub(crate) fn answer(self, result: Result<(), PartError>) {
        let _ = on_wake::lend(Threads::Any, || self.done.send(result));
    }
}

impl Ask {
    /// Is it new data?
    pub(crate) fn is_put(&self) -> bool {
        matches!(self, Self::Put(..))
    }

    /// The blobs that it names.
    pub(crate) fn blobs(&self) -> &[BlobId] {
        match self {
            Self::Put(key, ..) | Self::DropPart(key, _) => std::slice::from_ref(&key.blob),
            Self::Delete(blobs, _) | Self::Forget(blobs, _) => blobs,
            Self::Rebuilt(..) | Self::Serve | Self::Fence(..) | Self::Turn => &[],
        }
    }

    /// Blocks of disk that the record will take at most.
    pub(crate) fn blocks(&self) -> u32 {
        footprint_blocks(match self {
            Self::Put(_, data, _) => data.data().len() as u32,
            Self::Delete(blobs, _) | Self::Forget(blobs, _) => (blobs.len() * BLOB_ID_LEN) as u32,
            Self::DropPart(..) => PART_LEN as u32,
            Self::Rebuilt(..) => REBUILT_LEN as u32,
            Self::Serve => SLOT_LEN as u32,
            Self::Fence(..) => FENCE_LEN as u32,
            Self::Turn => 0,
        })
    }
}

/// What is said once the queue is closed.
pub(crate) fn closed() -> PartError {
    PartError::Io("the disk is closed".to_owned())
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
    pub(crate) async fn ask(&self, to: To, ask: Ask) -> Result<(), PartError> {
        let room = self.room.clone().acquire_many_owned(ask.blocks().max(1));
        let room = room.await.map_err(|_| closed())?;
        self.push(to, ask, room).await
    }

    /// Asks with a share of somebody else's room: the request has its place when this returns, and its answer
    /// is to be waited for.
    pub(crate) fn push(
        &self,
        to: To,
        ask: Ask,
        room: OwnedSemaphorePermit,
    ) -> impl Future<Output = Result<(), PartError>> + Send + use<> {
        let (done, answer) = oneshot::channel();
        let waiter = Waiter { done, _room: room };
        let request = Request { to, ask, waiter, waits_since: None };
        {
            let mut state = self.state.lock();
            // One that comes too late is dropped, and so answered.
            if !state.closed {
                state.requests.push_back(request);
            }
        }
        self.wake.notify_one();
        async move { answer.await.map_err(|_| closed())? }
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
