//! Finding a blob for a restore-read: its bytes, and which slots hold which of its parts.
//!
//! This module decides; it does no I/O and reads no clock. A restore-read is this and then a put of the parts
//! that have no home ([`crate::machines::put`]): once that is acknowledged, every part has been seen or written, on a
//! unit of its own, and no later get can say that the blob is absent.
//!
//! Every slot is asked what it holds, once, while the bytes are got ([`crate::machines::get`]). What a slot does not say
//! in time is not waited for: then it counts as holding nothing, and its part is written again.
//!
//! Invariants:
//! * Data and absence are what [`Get`] says they are.
//! * A part is located only where a slot said so.
//! * A part is known to be sound only where all of it was read.

use proto::id::{BlobId, PartIndex};
use proto::part_store::{Held, PartError};

use crate::machines::driver::Machine;
use crate::machines::get::{Get, GetCall, GetOutcome, GetReply};
use crate::placement::bounds::{Bounds, homes_apart};
use crate::placement::quorum::{SlotSet, Spread};
use crate::placement::{Group, Placement};

/// The first half of a restore-read in progress.
pub(crate) struct Find<'a> {
    bounds: Bounds<'a>,
    parts: usize,
    get: Get<'a>,
    /// Slots that are still to be asked what they hold.
    unasked: SlotSet,
    /// Those whose answer is worth waiting for.
    awaited: SlotSet,
    /// What each slot has said.
    said: Vec<Option<Result<Held, PartError>>>,
    located: Vec<(PartIndex, usize)>,
    part_len: u32,
    /// Parts that were read whole, and where.
    read: Vec<(PartIndex, usize)>,
}

impl<'a> Find<'a> {
    /// Starts while the slots `down` are known to be out of reach.
    pub(crate) fn new(
        group: &'a Group,
        placement: Placement,
        blob: BlobId,
        spread: Spread,
        down: SlotSet,
    ) -> Self {
        let up = SlotSet::first(group.len()).minus(down);
        Self {
            bounds: Bounds::new(group, blob.scheme(), spread),
            parts: blob.scheme().parts(),
            get: Get::new(group, placement, blob, spread, 0..blob.len(), down),
            unasked: up,
            awaited: up,
            said: vec![None; group.len()],
            located: Vec::new(),
            part_len: blob.part_len(),
            read: Vec::new(),
        }
    }

    /// Parts that were read whole, and are sound therefore.
    pub(crate) fn read(&self) -> &[(PartIndex, usize)] {
        &self.read
    }

    /// Where parts lie, as far as slots have said.
    pub(crate) fn located(&self) -> &[(PartIndex, usize)] {
        &self.located
    }

    /// The bytes, or why there are none.
    pub(crate) fn into_get(self) -> Get<'a> {
        self.get
    }

    /// Has each part a home already?
    fn is_whole(&self) -> bool {
        homes_apart(&self.bounds, &self.located).len() == self.parts
    }
}

impl Machine for Find<'_> {
    type Call = GetCall;
    type Reply = GetReply;

    fn next_call(&mut self) -> Option<GetCall> {
        if self.settled() {
            return None;
        }
        if let Some(slot) = self.unasked.iter().next() {
            self.unasked = self.unasked.minus(SlotSet::only(slot));
            return Some(GetCall::Held { slot });
        }
        loop {
            let call = self.get.next_call()?;
            let GetCall::Held { slot } = call else { return Some(call) };
            // It has been asked: the answer is here, or will be.
            if let Some(held) = self.said[slot].clone() {
                self.get.replied(call, held.map(GetReply::Held));
            }
        }
    }

    fn replied(&mut self, call: GetCall, reply: Result<GetReply, PartError>) {
        if let GetCall::Held { slot } = call {
            self.awaited = self.awaited.minus(SlotSet::only(slot));
            let held = reply.clone().map(|reply| match reply {
                GetReply::Held(held) => held,
                GetReply::Bytes(_) => unreachable!("bytes are no answer to this"),
            });
            // A late answer counts instead of the failure that it was taken for.
            self.located.retain(|(_, at)| *at != slot);
            let parts = held.iter().flat_map(|held| held.parts.iter());
            self.located.extend(parts.map(|part| (part, slot)));
            self.said[slot] = Some(held);
        }
        if let (GetCall::Read { part, slot, start: 0, end, .. }, Ok(_)) = (call, &reply)
            && end == self.part_len
        {
            self.read.push((part, slot));
        }
        self.get.replied(call, reply);
    }

    fn slow(&mut self, call: GetCall) {
        if let GetCall::Held { slot } = call {
            self.awaited = self.awaited.minus(SlotSet::only(slot));
        }
        self.get.slow(call);
    }

    fn can_lose(&self, call: GetCall) -> bool {
        self.get.can_lose(call)
    }

    fn timed_out(&mut self) {
        self.awaited = SlotSet::EMPTY;
        self.get.timed_out();
    }

    fn settled(&self) -> bool {
        match self.get.outcome() {
            None => false,
            Some(GetOutcome::Data) => self.awaited.is_empty() || self.is_whole(),
            Some(GetOutcome::NotFound | GetOutcome::Unavailable) => true,
        }
    }
}
