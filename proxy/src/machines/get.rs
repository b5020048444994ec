//! Getting a range of a blob: ask little first, more when that fails.
//!
//! This module decides; it does no I/O and reads no clock. It escalates:
//!
//! 1. *Direct*: each piece of the range from the main slot of its data part.
//! 2. *Handoff*: pieces that are not there, from the handoff slots where a put would have left them.
//! 3. *Restore*: the interval that the missing pieces span, from any k parts on their main slots.
//! 4. *Search*: every slot says what it holds; parts found elsewhere are fetched from there.
//!
//! Copies skip the second step: another copy is as good. A step begins as soon as the one before
//! has nothing left in flight that is not slow.
//!
//! Invariants:
//! * Data only from k parts, or from the very part asked for.
//! * [`GetOutcome::NotFound`] only when [`absence_proven`], or a slot knows the blob to be deleted; and not where parts
//!   are there that silent slots may have enough of the others for, unless it was put apart. A slot that is
//!   being rebuilt gives what it has, and proves no absence: it might have had more.
//! * At most m slots are given up on as slow.

use std::ops::Range;

use bytes::Bytes;
use proto::id::{BlobId, PartIndex, PartSet};
use proto::part_store::{Held, PartError};
use proto::scheme::{Piece, Scheme};

use crate::codec::interval;
use crate::machines::driver::Machine;
use crate::machines::notices::Why;
use crate::placement::quorum::{SlotSet, Spread, absence_proven};
use crate::placement::{Group, Placement};

/// Intervals up to this size are restored without waiting for the handoff slots' answers: the
/// k-fold reading costs less than the round trip.
const EAGER_RESTORE: usize = 64 << 10;

/// One question to one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GetCall {
    /// Bytes `start` to `end` of a part.
    Read { part: PartIndex, slot: usize, start: u32, end: u32, what: What },
    /// What the slot holds.
    Held { slot: usize },
}

/// What bytes are read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// One piece of the range, by its number.
    Piece(usize),
    /// The interval to restore.
    Interval,
}

impl GetCall {
    pub(crate) fn slot(self) -> usize {
        match self {
            Self::Read { slot, .. } | Self::Held { slot } => slot,
        }
    }

    fn part(self) -> Option<PartIndex> {
        match self {
            Self::Read { part, .. } => Some(part),
            Self::Held { .. } => None,
        }
    }
}

/// Its answer.
#[derive(Clone, Debug)]
pub(crate) enum GetReply {
    Bytes(Bytes),
    Held(Held),
}

/// How a get ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GetOutcome {
    /// All pieces are there, or can be restored: see [`Get::pieces`] and [`Get::restorable`].
    Data,
    /// Absence is proven.
    NotFound,
    /// Too many slots failed to say more; see [`Get::reasons`].
    Unavailable,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Direct,
    Handoff,
    Restore,
    Search,
}

struct PendingCall {
    call: GetCall,
    slow: bool,
}

/// One get in progress.
pub(crate) struct Get<'a> {
    group: &'a Group,
    placement: Placement,
    scheme: Scheme,
    spread: Spread,
    pieces: Vec<(Piece, Option<Bytes>)>,
    step: Step,
    /// What is restored: set when the third step begins.
    interval: Range<u32>,
    restored: Vec<(PartIndex, Bytes)>,
    calls: Vec<GetCall>,
    made: usize,
    flights: Vec<PendingCall>,
    /// Slots that each part was asked of as an interval.
    asked: [SlotSet; 32],
    /// Slots that said they hold the part.
    located: [SlotSet; 32],
    seen: PartSet,
    /// Slots that have told what they hold.
    told: SlotSet,
    /// Those of them that cannot have held more.
    heard: SlotSet,
    dead: SlotSet,
    slow: SlotSet,
    /// Some slot has answered.
    answered: bool,
    /// A part that should be somewhere is not, or is rotten.
    noticed: Option<Why>,
    reasons: Vec<(usize, PartError)>,
    outcome: Option<GetOutcome>,
}

impl<'a> Get<'a> {
    /// Starts a get of `range` while the slots `down` are known to be out of reach.
    pub(crate) fn new(
        group: &'a Group,
        placement: Placement,
        blob: BlobId,
        spread: Spread,
        range: Range<u32>,
        down: SlotSet,
    ) -> Self {
        let scheme = blob.scheme();
        let pieces = scheme.pieces(blob.len(), range).map(|piece| (piece, None)).collect();
        let mut get = Self {
            group,
            placement,
            scheme,
            spread,
            pieces,
            step: Step::Direct,
            interval: 0..0,
            restored: Vec::new(),
            calls: Vec::new(),
            made: 0,
            flights: Vec::new(),
            asked: [SlotSet::EMPTY; 32],
            located: [SlotSet::EMPTY; 32],
            seen: PartSet::EMPTY,
            told: SlotSet::EMPTY,
            heard: SlotSet::EMPTY,
            dead: down,
            slow: SlotSet::EMPTY,
            answered: false,
            noticed: None,
            reasons: Vec::new(),
            outcome: None,
        };
        for piece in 0..get.pieces.len() {
            let part = get.pieces[piece].0.part;
            if let Some(slot) = get.placement.main(part.get()).filter(|s| !down.contains(*s)) {
                get.read_piece(piece, slot);
            }
        }
        get.advance();
        get
    }

    /// How it ended, once it has.
    pub(crate) fn outcome(&self) -> Option<GetOutcome> {
        self.outcome
    }

    /// The pieces of the range, with their bytes where they came directly.
    pub(crate) fn pieces(&self) -> &[(Piece, Option<Bytes>)] {
        &self.pieces
    }

    /// The interval that the missing pieces lie in, and parts with its bytes.
    pub(crate) fn restorable(&self) -> (Range<u32>, &[(PartIndex, Bytes)]) {
        (self.interval.clone(), &self.restored)
    }

    /// What slots in the way said, but for those that were down from the start.
    pub(crate) fn reasons(&self) -> &[(usize, PartError)] {
        &self.reasons
    }

    /// Why the blob wants mending, as far as this get has met it.
    pub(crate) fn noticed(&self) -> Option<Why> {
        self.noticed
    }

    /// Slots given up on as slow.
    pub(crate) fn slow_slots(&self) -> SlotSet {
        self.slow
    }

    /// Did it need more than the main slots of the range?
    pub(crate) fn degraded(&self) -> bool {
        self.step > Step::Direct
    }

    fn call(&mut self, call: GetCall) {
        self.calls.push(call);
        self.flights.push(PendingCall { call, slow: false });
    }

    fn read_piece(&mut self, piece: usize, slot: usize) {
        let Piece { part, in_part: Range { start, end }, .. } = self.pieces[piece].0;
        self.call(GetCall::Read { part, slot, start, end, what: What::Piece(piece) });
    }

    fn missing(&self) -> impl Iterator<Item = &Piece> {
        let restored = |part| self.restored.iter().any(|(p, _)| *p == part);
        self.pieces
            .iter()
            .filter(move |(piece, bytes)| bytes.is_none() && !restored(piece.part))
            .map(|(piece, _)| piece)
    }

    /// Does what follows from what is known: settle, ask more, or wait.
    fn advance(&mut self) {
        while self.outcome.is_none() {
            if self.missing().next().is_none() || self.restored.len() >= self.scheme.data_parts() {
                self.outcome = Some(GetOutcome::Data);
            } else if self.absent() {
                self.outcome = Some(GetOutcome::NotFound);
            } else if !self.may_go_on() {
                return;
            } else {
                match self.step {
                    Step::Direct => self.begin_handoff(),
                    Step::Handoff => self.begin_restore(),
                    Step::Restore => self.begin_search(),
                    Step::Search if self.flights.is_empty() => {
                        self.outcome = Some(GetOutcome::Unavailable);
                    }
                    Step::Search => return,
                }
            }
        }
    }

    /// Waits for all that answer promptly: what was never acknowledged may yet be had. For what was put apart, as
    /// metadata are, all are waited for that may answer at all: who leads a volume deletes what it takes for
    /// absent, and what fails together may be said wrong.
    fn absent(&self) -> bool {
        let unheard = self.group.all().minus(self.heard);
        let waits = match self.spread {
            Spread::Apart(_) => !self.flights.is_empty(),
            Spread::AsPossible { .. } => self.prompt().next().is_some(),
        };
        let hidden = || self.group.hidden(self.scheme, self.spread, unheard);
        self.step == Step::Search
            && !waits
            && absence_proven(self.scheme, self.seen, hidden())
            && !self.may_be_whole(hidden())
    }

    /// May what is silent have enough of a blob of which parts are here? It is not as it was put where disks have left
    /// the group since: so it is not absent, though one that was never acknowledged may lie so, too.
    fn may_be_whole(&self, hidden: usize) -> bool {
        let seen = self.seen.len();
        let as_possible = matches!(self.spread, Spread::AsPossible { .. });
        as_possible && seen > 0 && seen + hidden >= self.scheme.data_parts()
    }

    /// Has the present step come to nothing? (Asks more within the step where there is more.)
    fn may_go_on(&mut self) -> bool {
        match self.step {
            Step::Direct => {
                let flying = |part| self.prompt().any(|call| call.part() == Some(part));
                self.missing().any(|piece| !flying(piece.part))
            }
            Step::Handoff => {
                let missing: PartSet = self.missing().map(|piece| piece.part).collect();
                !self.prompt().any(|call| call.part().is_some_and(|part| missing.contains(part)))
            }
            Step::Restore | Step::Search => {
                self.ask_for_intervals();
                let coming = self.intervals_coming();
                self.restored.len() + coming.len() < self.scheme.data_parts()
            }
        }
    }

    /// Calls in flight that are not slow.
    fn prompt(&self) -> impl Iterator<Item = GetCall> {
        self.flights.iter().filter(|flight| !flight.slow).map(|flight| flight.call)
    }

    fn begin_handoff(&mut self) {
        self.step = Step::Handoff;
        if self.scheme.is_copies() {
            return;
        }
        // A put hands parts to the first handoff slots that work: so many of them at most.
        let most = self.scheme.parity_parts();
        let handoff = self.placement.handoff(self.scheme.parts());
        let alive: Vec<_> = handoff.filter(|slot| !self.dead.contains(*slot)).take(most).collect();
        for piece in 0..self.pieces.len() {
            let part = self.pieces[piece].0.part;
            if self.pieces[piece].1.is_some() || self.prompt().any(|c| c.part() == Some(part)) {
                continue;
            }
            for slot in &alive {
                self.read_piece(piece, *slot);
            }
        }
        let spans = self.missing().map(|p| p.in_part.clone()).reduce(hull).unwrap_or(0..0);
        if spans.len() <= EAGER_RESTORE {
            self.begin_restore();
        }
    }

    fn begin_restore(&mut self) {
        self.step = Step::Restore;
        let span = self.missing().map(|p| p.in_part.clone()).reduce(hull);
        self.interval = interval(self.scheme, span.expect("something is missing"));
        // Pieces that are here and cover the interval need not be read again.
        for (piece, bytes) in &self.pieces {
            let (Some(bytes), at) = (bytes, &piece.in_part) else { continue };
            if at.start <= self.interval.start && self.interval.end <= at.end {
                let start = (self.interval.start - at.start) as usize;
                let bytes = bytes.slice(start..start + self.interval.len());
                self.restored.push((piece.part, bytes));
            }
        }
    }

    fn begin_search(&mut self) {
        self.step = Step::Search;
        for slot in SlotSet::first(self.group.len()).minus(self.dead).iter() {
            self.call(GetCall::Held { slot });
        }
    }

    /// Parts whose interval is in flight and not slow.
    fn intervals_coming(&self) -> PartSet {
        let interval = |call| match call {
            GetCall::Read { part, what: What::Interval, .. } => Some(part),
            _ => None,
        };
        self.prompt().filter_map(interval).collect()
    }

    /// Asks for as many intervals as are still needed, of parts neither here nor coming.
    fn ask_for_intervals(&mut self) {
        self.ask_for_intervals_but_from(self.slow);
        if self.step == Step::Search {
            // Slow slots are better than none.
            self.ask_for_intervals_but_from(SlotSet::EMPTY);
        }
    }

    fn ask_for_intervals_but_from(&mut self, avoided: SlotSet) {
        let mut have: PartSet = self.restored.iter().map(|(part, _)| *part).collect();
        have = have.union(self.intervals_coming());
        for part in PartSet::first(self.scheme.parts()).minus(have).iter() {
            if have.len() >= self.scheme.data_parts() {
                return;
            }
            let main = self.placement.main(part.get());
            let mut places = self.located[part.get()];
            main.into_iter().for_each(|slot| places.insert(slot));
            let useless = self.asked[part.get()].union(self.dead).union(avoided);
            // Where a slot has told what it holds, only that counts.
            let known_empty = self.told.minus(self.located[part.get()]);
            if let Some(slot) = places.minus(useless).minus(known_empty).iter().next() {
                self.asked[part.get()].insert(slot);
                have.insert(part);
                let Range { start, end } = self.interval;
                self.call(GetCall::Read { part, slot, start, end, what: What::Interval });
            }
        }
    }

    fn received(&mut self, call: GetCall, bytes: Bytes) {
        let GetCall::Read { part, what, .. } = call else { return };
        self.seen.insert(part);
        match what {
            What::Piece(piece) => self.pieces[piece].1 = Some(bytes),
            What::Interval if self.restored.iter().any(|(p, _)| *p == part) => {}
            What::Interval => self.restored.push((part, bytes)),
        }
    }

    fn held(&mut self, slot: usize, held: Held) {
        if held.deleted {
            self.outcome = Some(GetOutcome::NotFound);
        }
        self.told.insert(slot);
        match held.rebuilding {
            true => self.reasons.push((slot, PartError::NotRebuilt)),
            false => self.heard.insert(slot),
        }
        self.seen = self.seen.union(held.parts);
        for part in held.parts.iter() {
            self.located[part.get()].insert(slot);
        }
    }

    fn failed(&mut self, call: GetCall, why: PartError) {
        let slot = call.slot();
        if let GetCall::Read { part, what: What::Piece(_), .. } = call
            && self.placement.main(part.get()) == Some(slot)
        {
            // Its main slot does not have it: no use asking that again for the interval.
            self.asked[part.get()].insert(slot);
        }
        let noticed = match why {
            PartError::NotFound | PartError::NotRebuilt => Some(Why::Misplaced),
            PartError::Corrupt(_) | PartError::Io(_) => Some(Why::Damaged),
            _ => None,
        };
        let at_home = |part: PartIndex| self.placement.main(part.get()) == Some(slot);
        if noticed == Some(Why::Damaged) || call.part().is_some_and(at_home) {
            self.noticed = self.noticed.max(noticed);
        }
        match why {
            PartError::Deleted => self.outcome = Some(GetOutcome::NotFound),
            // What it might have had is asked for when it is asked for all it has.
            PartError::NotFound | PartError::NotRebuilt => {}
            PartError::Corrupt(_) => {
                call.part().into_iter().for_each(|part| self.seen.insert(part));
                self.reasons.push((slot, why));
            }
            // A bad sector spoils one part: what else the slot holds may be fine.
            PartError::Io(_) => self.reasons.push((slot, why)),
            _ => {
                self.dead.insert(slot);
                self.reasons.push((slot, why));
            }
        }
    }
}

/// The smallest range that covers both.
fn hull(a: Range<u32>, b: Range<u32>) -> Range<u32> {
    a.start.min(b.start)..a.end.max(b.end)
}

impl Machine for Get<'_> {
    type Call = GetCall;
    type Reply = GetReply;

    fn next_call(&mut self) -> Option<GetCall> {
        if self.outcome.is_some() {
            return None;
        }
        let call = *self.calls.get(self.made)?;
        self.made += 1;
        Some(call)
    }

    fn replied(&mut self, call: GetCall, reply: Result<GetReply, PartError>) {
        self.flights.retain(|flight| flight.call != call);
        self.answered |= !matches!(reply, Err(PartError::Unreachable(_)));
        if self.outcome.is_some() {
            return;
        }
        match reply {
            Ok(GetReply::Bytes(bytes)) => self.received(call, bytes),
            Ok(GetReply::Held(held)) => self.held(call.slot(), held),
            Err(why) => self.failed(call, why),
        }
        self.advance();
    }

    fn slow(&mut self, call: GetCall) {
        let slot = call.slot();
        let budget = self.slow.contains(slot) || self.slow.len() < self.scheme.parity_parts();
        // Not to wait for what a slot holds costs nobody any work: it is not giving up on the slot.
        let search = matches!(call, GetCall::Held { .. });
        if self.outcome.is_some() || !(budget || search) {
            return;
        }
        if !search {
            self.slow.insert(slot);
        }
        for flight in self.flights.iter_mut().filter(|flight| flight.call == call) {
            flight.slow = true;
        }
        self.advance();
    }

    fn can_lose(&self, call: GetCall) -> bool {
        let lost = self.dead.union(SlotSet::only(call.slot()));
        // Late is relative: somebody must have been sooner.
        self.answered && self.group.survives(self.scheme, lost)
    }

    fn timed_out(&mut self) {
        for flight in std::mem::take(&mut self.flights) {
            let silent = PartError::Unreachable("no answer in time".to_owned());
            self.reasons.push((flight.call.slot(), silent));
        }
        let absent = self.absent();
        let outcome = if absent { GetOutcome::NotFound } else { GetOutcome::Unavailable };
        self.outcome.get_or_insert(outcome);
    }

    fn settled(&self) -> bool {
        self.outcome.is_some()
    }
}
