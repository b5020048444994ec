//! Putting a blob: keep sending until every part has a home.
//!
//! This module decides; it does no I/O and reads no clock.
//!
//! A part's *home* is the first slot that says the part is on stable storage. Parts are sent to
//! their main slots; a part whose slot fails, is full or is slow goes to a unit that has no part of the blob, on
//! a host and rack that have not got their share of it ([`Group::shares`]), best placed first. So does a part
//! whose slot has little room left, while others have more: else chance would fill a few slots, and what is free
//! on the others be of no use. Only when no such unit is alive do parts go beyond the shares and double up, never
//! more than [`room`](crate::placement::quorum::room) on one disk, so that as many disks as the volume wants can still be lost; and never where
//! they are to lie apart.
//!
//! Invariants:
//! * `Stored` means that each part has a home, and that nothing is home to more than its share, or (degraded) no
//!   disk to more than [`room`](crate::placement::quorum::room).
//! * Nothing is ever *promised* more parts than that, so late answers cannot break it.
//! * At most m slots are given up on as slow, and only once k parts have a home: slow is relative.
//! * Full slots never make parts go beyond shares: [`PutOutcome::Full`] is the answer then.

use proto::cluster::Level;
use proto::id::{Epoch, PartIndex};
use proto::part_store::PartError;
use proto::scheme::Scheme;

use crate::machines::driver::Machine;
use crate::placement::bounds::{Bounds, Fit, homes_apart};
use crate::placement::quorum::{SlotSet, Spread};
use crate::placement::{Group, Placement};

/// Put this part on this slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PutCall {
    pub(crate) part: PartIndex,
    pub(crate) slot: usize,
}

/// How a put ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PutOutcome {
    /// Every part is durable.
    Stored { degraded: bool },
    /// Too few slots for the parts; what each of those in the way said is in [`Put::reasons`].
    Unavailable,
    /// Slots enough, but no room on them.
    Full,
    /// Other bytes lie under this id.
    Conflict,
    /// The blob was deleted before.
    Deleted,
    /// The volume has another owner, of this epoch.
    Fenced(Epoch),
}

/// One part sent to one slot.
#[derive(Clone, Copy, Debug)]
struct Try {
    part: u8,
    slot: u8,
    state: TryState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TryState {
    Waiting,
    /// Given up as slow, but it may still answer.
    Slow,
    Stored,
    Failed,
}

/// One put in progress.
pub(crate) struct Put<'a> {
    group: &'a Group,
    placement: Placement,
    scheme: Scheme,
    bounds: Bounds<'a>,
    /// In the order sent; the first `made` of them have been given out as calls.
    tries: Vec<Try>,
    made: usize,
    dead: SlotSet,
    full: SlotSet,
    /// Slots to be passed over as long as there are others.
    short: SlotSet,
    slow: SlotSet,
    /// Parts that go nowhere until a slow slot has answered.
    deferred: Vec<usize>,
    reasons: Vec<(usize, PartError)>,
    outcome: Option<PutOutcome>,
}

impl<'a> Put<'a> {
    /// Starts a put while the slots `down` are known to be out of reach, and those that are `short` have
    /// little room. The parts that are `located` are known to be on stable storage, each on its slot: those
    /// that lie apart are left where they are.
    pub(crate) fn new(
        group: &'a Group,
        placement: Placement,
        scheme: Scheme,
        spread: Spread,
        down: SlotSet,
        short: SlotSet,
        located: &[(PartIndex, usize)],
    ) -> Self {
        let mut put = Self {
            group,
            placement,
            scheme,
            bounds: Bounds::new(group, scheme, spread),
            tries: Vec::with_capacity(scheme.parts() + 2),
            made: 0,
            dead: down,
            full: SlotSet::EMPTY,
            short,
            slow: SlotSet::EMPTY,
            deferred: Vec::new(),
            reasons: Vec::new(),
            outcome: None,
        };
        for (part, slot) in homes_apart(&put.bounds, located) {
            put.tries.push(Try {
                part: part.get() as u8,
                slot: slot as u8,
                state: TryState::Stored,
            });
        }
        put.made = put.tries.len();
        put.settle_if_stored();
        // Parts that can go where they belong first: the others take what is left.
        let passed_over = down.union(short);
        let mut homeless = Vec::new();
        for part in (0..scheme.parts()).filter(|part| put.home(*part).is_none()).collect::<Vec<_>>()
        {
            let free = |slot: &usize| put.fits(*slot) == Fit::Share;
            match put.placement.main(part).filter(free) {
                Some(slot) if !passed_over.contains(slot) => put.send(part, slot),
                _ => homeless.push(part),
            }
        }
        homeless.into_iter().for_each(|part| put.place_elsewhere(part));
        put
    }

    /// How it ended, once it has.
    pub(crate) fn outcome(&self) -> Option<&PutOutcome> {
        self.outcome.as_ref()
    }

    /// Is a part home elsewhere than on its main slot, though that is none of those `down`?
    pub(crate) fn is_displaced(&self, down: SlotSet) -> bool {
        let displaced = |part: usize| {
            let main = self.placement.main(part).filter(|main| !down.contains(*main));
            main.is_some() && self.home(part) != main
        };
        (0..self.scheme.parts()).any(displaced)
    }

    /// What the slots in the way said, but for those that were down from the start.
    pub(crate) fn reasons(&self) -> &[(usize, PartError)] {
        &self.reasons
    }

    /// Slots given up on as slow that have not answered since.
    pub(crate) fn slow_slots(&self) -> SlotSet {
        let slow = self.tries.iter().filter(|t| t.state == TryState::Slow);
        slow.fold(SlotSet::EMPTY, |set, t| set.union(SlotSet::only(t.slot.into())))
    }

    fn send(&mut self, part: usize, slot: usize) {
        let state = TryState::Waiting;
        self.tries.push(Try { part: part as u8, slot: slot as u8, state });
    }

    fn home(&self, part: usize) -> Option<usize> {
        let home = |t: &&Try| usize::from(t.part) == part && t.state == TryState::Stored;
        self.tries.iter().find(home).map(|t| t.slot.into())
    }

    /// How many parts have a home.
    fn homes(&self) -> usize {
        (0..self.scheme.parts()).filter(|part| self.home(*part).is_some()).count()
    }

    /// How many parts a member of a level is home to, or may become home to by an answer yet to come.
    fn promised(&self, level: Level, member: usize) -> usize {
        let here = |slot: usize| self.group.at(level, slot) == member;
        let mut parts = 0u32;
        for t in &self.tries {
            let open = t.state != TryState::Failed && self.home(t.part.into()).is_none_or(here);
            if open && here(t.slot.into()) {
                parts |= 1 << t.part;
            }
        }
        parts.count_ones() as usize
    }

    /// Is the slot in anything that would have more than its share, or more than it may have, with one more part?
    fn fits(&self, slot: usize) -> Fit {
        self.bounds.fit(slot, |level, member| self.promised(level, member))
    }

    /// Usable slots for the part, in the best of ways: where fewest parts are promised to the same unit, rack, host
    /// and disk, then the best placed.
    fn candidate(&self, part: usize, unusable: SlotSet) -> Option<(Fit, usize)> {
        let mut tried = unusable;
        let of_part = self.tries.iter().filter(|t| usize::from(t.part) == part);
        of_part.for_each(|t| tried.insert(t.slot.into()));
        let free = self.placement.order().filter(|slot| !tried.contains(*slot));
        let promised = |level, member| self.promised(level, member);
        let crowded = |slot: usize| self.bounds.crowd(slot, promised);
        free.map(|slot| (crowded(slot), slot)).min_by_key(|c| c.0).map(|(c, slot)| (c.0, slot))
    }

    /// Sends the part to the best slot there is, or waits for one, or finds out that there is none.
    fn place_elsewhere(&mut self, part: usize) {
        let gone = self.dead.union(self.slow);
        // Slow is better than too many parts at one place.
        let unusable = [gone.union(self.short), gone, self.dead].map(|set| set.union(self.full));
        let mut free = unusable.into_iter().filter_map(|unusable| self.candidate(part, unusable));
        if let Some((_, slot)) = free.find(|(fit, _)| *fit == Fit::Share) {
            return self.send(part, slot);
        }
        if self.slow_may_answer() {
            // Then a unit may become free.
            return self.deferred.push(part);
        }
        // A unit that would take the part, had it room, must not be made up for by doubling up.
        let best_of_full = self.full.minus(gone).iter().map(|slot| self.fits(slot)).min();
        match self.candidate(part, gone.union(self.full)) {
            Some((Fit::Room, slot)) if best_of_full != Some(Fit::Share) => self.send(part, slot),
            _ if best_of_full.is_some_and(|fit| fit < Fit::Not) => {
                self.outcome = Some(PutOutcome::Full);
            }
            _ => self.outcome = Some(PutOutcome::Unavailable),
        }
    }

    /// Is a slow slot still expected to take a part that has no home?
    fn slow_may_answer(&self) -> bool {
        let homeless = |t: &Try| self.home(t.part.into()).is_none();
        self.tries.iter().any(|t| t.state == TryState::Slow && homeless(t))
    }

    /// After an answer: parts that wait for a domain may have one now.
    fn place_deferred(&mut self) {
        for part in std::mem::take(&mut self.deferred) {
            let waits = |t: &Try| usize::from(t.part) == part && t.state == TryState::Waiting;
            let settled = self.home(part).is_some() || self.tries.iter().any(waits);
            if self.outcome.is_none() && !settled {
                self.place_elsewhere(part);
            }
        }
    }

    fn stored(&mut self, call: PutCall) {
        let part = call.part.get();
        if self.home(part).is_some() {
            return;
        }
        self.set_state(call, TryState::Stored);
        self.settle_if_stored();
    }

    fn settle_if_stored(&mut self) {
        let homes = (0..self.scheme.parts()).map(|part| self.home(part));
        if let Some(homes) = homes.collect::<Option<Vec<usize>>>() {
            let degraded = self.bounds.are_exceeded(&homes);
            assert!(self.bounds.hold(&homes), "nothing is promised more than it may hold");
            self.outcome = Some(PutOutcome::Stored { degraded });
        }
    }

    fn failed(&mut self, call: PutCall, why: PartError) {
        match why {
            PartError::Conflict => return self.outcome = Some(PutOutcome::Conflict),
            PartError::Deleted => return self.outcome = Some(PutOutcome::Deleted),
            PartError::Fenced { epoch } => return self.outcome = Some(PutOutcome::Fenced(epoch)),
            PartError::Full => self.full.insert(call.slot),
            _ => self.dead.insert(call.slot),
        }
        self.reasons.push((call.slot, why));
        self.set_state(call, TryState::Failed);
        let part = call.part.get();
        let elsewhere = |t: &Try| usize::from(t.part) == part && t.state == TryState::Waiting;
        if self.home(part).is_none() && !self.tries.iter().any(elsewhere) {
            self.place_elsewhere(part);
        }
    }

    fn find(&mut self, call: PutCall) -> Option<&mut Try> {
        let PutCall { part, slot } = call;
        self.tries
            .iter_mut()
            .find(|t| usize::from(t.part) == part.get() && usize::from(t.slot) == slot)
    }

    fn set_state(&mut self, call: PutCall, state: TryState) {
        self.find(call).expect("an answer belongs to a call").state = state;
    }
}

impl Machine for Put<'_> {
    type Call = PutCall;
    type Reply = ();

    fn next_call(&mut self) -> Option<PutCall> {
        if self.outcome.is_some() {
            return None;
        }
        let Try { part, slot, .. } = *self.tries.get(self.made)?;
        self.made += 1;
        let part = PartIndex::new(part.into()).expect("a scheme's part is a part");
        Some(PutCall { part, slot: slot.into() })
    }

    fn replied(&mut self, call: PutCall, reply: Result<(), PartError>) {
        // An answer after we have called it failed is too late: others were promised its place.
        let open = |t: &mut Try| matches!(t.state, TryState::Waiting | TryState::Slow);
        if self.outcome.is_some() || !self.find(call).is_some_and(open) {
            return;
        }
        match reply {
            Ok(()) => self.stored(call),
            Err(why) => self.failed(call, why),
        }
        self.place_deferred();
    }

    fn slow(&mut self, call: PutCall) {
        let waiting = self.find(call).is_some_and(|t| t.state == TryState::Waiting);
        if self.outcome.is_some() || !waiting {
            return;
        }
        let budget = self.slow.contains(call.slot) || self.slow.len() < self.scheme.parity_parts();
        let mut unusable = self.dead.union(self.slow).union(self.full);
        unusable.insert(call.slot);
        // Slow is worth a handoff, not worth too many parts at one place.
        let worthwhile = budget && self.homes() >= self.scheme.data_parts();
        let candidate = self.candidate(call.part.get(), unusable);
        if let (true, Some((Fit::Share, slot))) = (worthwhile, candidate) {
            self.slow.insert(call.slot);
            self.set_state(call, TryState::Slow);
            self.send(call.part.get(), slot);
        }
    }

    fn can_lose(&self, call: PutCall) -> bool {
        let lost = self.dead.union(SlotSet::only(call.slot));
        // Late, too, is relative.
        self.homes() >= self.scheme.data_parts() && self.group.survives(self.scheme, lost)
    }

    fn timed_out(&mut self) {
        let waiting = self.tries.iter().filter(|t| t.state == TryState::Waiting);
        let silent = || PartError::Unreachable("no answer in time".to_owned());
        let silent: Vec<_> = waiting.map(|t| (usize::from(t.slot), silent())).collect();
        self.reasons.extend(silent);
        self.outcome.get_or_insert(PutOutcome::Unavailable);
    }

    fn settled(&self) -> bool {
        self.outcome.is_some()
    }
}
