//! Which slots are there, which are away for a moment, and which have been away for so long that repair goes on
//! without them. Pure: whoever tells it says when that was.

use std::time::Duration;

use tokio::time::Instant;

use crate::placement::quorum::SlotSet;
use crate::repair::layout::Attendance;

/// The presence of all slots of a group.
#[derive(Debug)]
pub(crate) struct Presence {
    grace: Duration,
    /// Since when each is away, and since when it takes no changes.
    away: Vec<Option<Instant>>,
    read_only: Vec<Option<Instant>>,
    attendance: Attendance,
    /// As it was seen last.
    changes: u64,
    rebuilding: SlotSet,
}

/// What is seen of the slots at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    /// They do not answer.
    pub(crate) down: SlotSet,
    /// They take no writes.
    pub(crate) read_only: SlotSet,
    /// They have no room for parts.
    pub(crate) full: SlotSet,
    /// They are to be emptied.
    pub(crate) drains: SlotSet,
    /// How often any of them has come or gone until now, also between two looks.
    pub(crate) changes: u64,
}

impl Presence {
    /// Of so many slots; one that is away for longer than `grace` is gone.
    pub(crate) fn new(slots: usize, grace: Duration) -> Self {
        let (attendance, rebuilding) = (Attendance::default(), SlotSet::EMPTY);
        let (away, read_only) = (vec![None; slots], vec![None; slots]);
        Self { grace, away, read_only, attendance, changes: 0, rebuilding }
    }

    /// How the slots stand, as last seen.
    pub(crate) fn attendance(&self) -> Attendance {
        self.attendance
    }

    /// Those that do not answer, and how long each is still waited for.
    pub(crate) fn awaited(&self, now: Instant) -> impl Iterator<Item = (usize, Duration)> {
        let left = move |since: Instant| self.grace.saturating_sub(now - since);
        let away = self.away.iter().enumerate();
        away.filter_map(move |(slot, since)| since.map(|since| (slot, left(since))))
    }

    /// Slots that say of themselves that they do not have all that they should.
    pub(crate) fn rebuilding(&self) -> SlotSet {
        self.rebuilding
    }

    /// These have said of themselves that they are rebuilding, and no others.
    pub(crate) fn rebuilds(&mut self, rebuilding: SlotSet) {
        self.rebuilding = rebuilding;
    }

    /// Has some slot come or gone since they were looked at?
    pub(crate) fn is_outdated(&self, seen: Seen) -> bool {
        seen.changes != self.changes
    }

    /// The slots were looked at. True when they stand otherwise than before, or did so meanwhile. Nobody waits for one that is to be emptied,
    /// and parts do not stay for ever on one that takes no changes.
    pub(crate) fn look(&mut self, seen: Seen, now: Instant) -> bool {
        let Seen { down, read_only, full, drains, changes } = seen;
        note(&mut self.away, down, now);
        note(&mut self.read_only, read_only.minus(down), now);
        let for_long = |since: &[Option<Instant>]| {
            let long = |slot: usize| since[slot].is_some_and(|since| now - since >= self.grace);
            SlotSet::that_are(since.len(), long)
        };
        let gone = for_long(&self.away).union(drains);
        let up = SlotSet::first(self.away.len()).minus(down);
        let writable = up.minus(read_only);
        let leaves = drains.union(for_long(&self.read_only)).minus(down);
        let (takes, away) = (writable.minus(full), down.minus(gone));
        let attendance = Attendance { up, takes, writable, leaves, away };
        let changed = attendance != self.attendance || changes != self.changes;
        (self.attendance, self.changes) = (attendance, changes);
        changed
    }
}

/// Remembers since when slots are so.
fn note(since: &mut [Option<Instant>], are: SlotSet, now: Instant) {
    for (slot, since) in since.iter_mut().enumerate() {
        match are.contains(slot) {
            true => drop(since.get_or_insert(now)),
            false => *since = None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_away_until_it_is_back_or_gone() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut presence = Presence::new(3, 10 * second);
        let down = |slot| Seen { down: SlotSet::only(slot), ..Seen::default() };
        let all = SlotSet::first(3);
        assert!(presence.look(Seen::default(), start));
        assert!(presence.look(down(1), start));
        let without = all.minus(SlotSet::only(1));
        let expected = Attendance {
            up: without,
            takes: without,
            writable: without,
            leaves: SlotSet::EMPTY,
            away: SlotSet::only(1),
        };
        assert_eq!(presence.attendance(), expected);
        assert!(!presence.look(down(1), start + 9 * second));
        assert!(presence.look(Seen::default(), start + 9 * second), "it is back");
        assert!(presence.look(down(1), start + 10 * second));
        assert!(!presence.look(down(1), start + 19 * second), "it is away anew");
        assert!(presence.look(down(1), start + 20 * second));
        assert_eq!(presence.attendance(), Attendance { away: SlotSet::EMPTY, ..expected }, "gone");
        let read_only = Seen { read_only: SlotSet::only(2), full: SlotSet::only(0), ..down(1) };
        assert!(presence.look(read_only, start + 20 * second));
        assert_eq!(
            (presence.attendance().up, presence.attendance().takes),
            (without, SlotSet::EMPTY)
        );
        assert_eq!(presence.attendance().writable, SlotSet::only(0));
        presence.look(read_only, start + 29 * second);
        assert_eq!(presence.attendance().leaves, SlotSet::EMPTY);
        assert!(presence.look(read_only, start + 30 * second));
        assert_eq!(presence.attendance().leaves, SlotSet::only(2), "it takes nothing for long");
    }

    #[test]
    fn an_outage_between_two_looks_is_seen() {
        let now = Instant::now();
        let mut presence = Presence::new(3, Duration::from_secs(10));
        presence.look(Seen::default(), now);
        let seen = Seen { changes: 2, ..Seen::default() };
        assert!(presence.is_outdated(seen) && presence.look(seen, now));
        assert!(!presence.is_outdated(seen) && !presence.look(seen, now));
    }

    #[test]
    fn nobody_waits_for_a_slot_that_is_to_be_emptied() {
        let (start, all) = (Instant::now(), SlotSet::first(3));
        let mut presence = Presence::new(3, Duration::from_secs(10));
        let drains = Seen { drains: SlotSet::only(1), ..Seen::default() };
        assert!(presence.look(drains, start));
        let attendance = presence.attendance();
        assert_eq!((attendance.leaves, attendance.takes), (SlotSet::only(1), all));
        assert!(presence.look(Seen { down: SlotSet::only(1), ..drains }, start));
        let attendance = presence.attendance();
        assert_eq!((attendance.leaves, attendance.away), (SlotSet::EMPTY, SlotSet::EMPTY));
    }
}
