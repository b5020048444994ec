//! Requests that wait for room on the disk, in the order in which they came.
//!
//! Whoever has nothing to do with them passes them. Who has waits behind them, so that what was asked before lands
//! before, or never: a put behind all that wait, as it would take the room that they wait for; what names a blob
//! behind those that name it; and who wants to see all that a slot was asked ([`Ask::Turn`]) behind those that asked it.

use std::collections::{HashSet, VecDeque};

use proto::id::{BlobId, SlotId};

use crate::shared::queue::{Ask, Request};

/// Requests that wait.
#[derive(Default)]
pub(crate) struct Waiting {
    requests: VecDeque<Request>,
    slots: HashSet<SlotId>,
    blobs: HashSet<(SlotId, BlobId)>,
}

impl Waiting {
    /// Does nobody wait?
    pub(crate) fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Who waits longest.
    pub(crate) fn first(&self) -> Option<&Request> {
        self.requests.front()
    }

    /// Must whoever asks this wait, too?
    pub(crate) fn concerns(&self, Request { to, ask, .. }: &Request) -> bool {
        match ask {
            _ if self.is_empty() => false,
            Ask::Put(..) => true,
            Ask::Turn => self.slots.contains(&to.slot),
            // Of what was asked before a fence, and is decided after it, nothing is done.
            _ => ask.blobs().iter().any(|blob| self.blobs.contains(&(to.slot, *blob))),
        }
    }

    /// Waits behind all others.
    pub(crate) fn push(&mut self, request: Request) {
        let slot = request.to.slot;
        self.slots.insert(slot);
        self.blobs.extend(request.ask.blobs().iter().map(|blob| (slot, *blob)));
        self.requests.push_back(request);
    }

    /// All of them, who wait no more.
    pub(crate) fn take(&mut self) -> VecDeque<Request> {
        std::mem::take(self).requests
    }
}
