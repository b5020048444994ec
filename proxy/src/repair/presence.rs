//! Which slots are there, which are away for a moment, and which have been away for so long that repair goes on
//! without them. Pure: whoever tells it says when that was.

use std::time::Duration;

use tokio::time::Instant;

use crate::quorum::SlotSet;
use crate::repair::layout::Attendance;

/// The presence of all slots of a group.
#[derive(Debug)]
pub(crate) struct Presence {
    grace: Duration,
    /// Since when each is away.
    away: Vec<Option<Instant>>,
    attendance: Attendance,
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
}

impl Presence {
    /// Of so many slots; one that is away for longer than `grace` is gone.
    pub(crate) fn new(slots: usize, grace: Duration) -> Self {
        let (attendance, rebuilding) = (Attendance::default(), SlotSet::EMPTY);
        Self { grace, away: vec![None; slots], attendance, rebuilding }
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

    /// The slots were looked at. True when they stand otherwise than before.
    pub(crate) fn look(&mut self, seen: Seen, now: Instant) -> bool {
        let Seen { down, read_only, full } = seen;
        for (slot, away) in self.away.iter_mut().enumerate() {
            match down.contains(slot) {
                true => drop(away.get_or_insert(now)),
                false => *away = None,
            }
        }
        let gone = |slot: usize| self.away[slot].is_some_and(|since| now - since >= self.grace);
        let gone = SlotSet::that_are(self.away.len(), gone);
        let up = SlotSet::first(self.away.len()).minus(down);
        let takes = up.minus(read_only).minus(full);
        let attendance = Attendance { up, takes, away: down.minus(gone) };
        let changed = attendance != self.attendance;
        self.attendance = attendance;
        changed
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
        let expected = Attendance { up: without, takes: without, away: SlotSet::only(1) };
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
    }
}
