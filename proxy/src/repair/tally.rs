//! What the last census has counted, kept true while what it found is mended. Pure.
//!
//! A census that is under way counts blobs as it meets them, and some of them are mended before it ends: what has
//! become of those is remembered, and taken into account when its counts are there.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::placement::quorum::SlotSet;
use crate::repair::census::{Missing, Outcome};
use crate::repair::queue::Item;
use crate::repair::report::{Change, Counts};

/// The census that is under way or was last, and what has become of what it found.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Its number.
    number: u64,
    counting: bool,
    pub(crate) counts: Counts,
    /// When the last one ended, and how long it took.
    counted_at: Option<Instant>,
    took: Duration,
    /// Bytes of parts that the last one found to be put.
    bytes: u64,
    /// Bytes put of them.
    done: u64,
    /// What has become of blobs that the one under way has found.
    changes: BTreeMap<Change, u64>,
    /// It had no gap, and every part has a place.
    thorough: bool,
    /// Slots that something it found has been left undone for so far.
    undone: SlotSet,
    /// Parts that it found no place for, and that stay on slots that are to be left.
    placeless: u64,
    staying: u64,
    /// By the slot that they belong on, those without a place that lie nowhere.
    missing: BTreeMap<usize, Missing>,
}

impl Tally {
    /// A census begins: its number.
    pub(crate) fn begin(&mut self) -> u64 {
        self.number += 1;
        self.counting = true;
        (self.thorough, self.undone) = (true, SlotSet::EMPTY);
        self.done = 0;
        self.changes.clear();
        self.number
    }

    /// It has ended.
    pub(crate) fn end(&mut self, outcome: Outcome, began: Instant, now: Instant) {
        let Outcome { counts, whole, bytes, placeless, staying, missing, .. } = outcome;
        (self.counts, self.counted_at, self.counting) = (counts, Some(now), false);
        (self.bytes, self.took) = (bytes, now - began);
        (self.placeless, self.staying) = (placeless, staying);
        for (change, times) in std::mem::take(&mut self.changes) {
            (0..times).for_each(|_| self.counts.change(change));
        }
        // Who lacks a part must not say that it was never there. It may have been handed to any other slot before:
        // they all wait.
        self.thorough &= whole && missing.is_empty();
        self.missing = missing;
    }

    /// It was broken off: nobody knows what it would have found.
    pub(crate) fn break_off(&mut self) {
        (self.counting, self.thorough) = (false, false);
    }

    /// Its number.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Is one under way?
    pub(crate) fn is_counting(&self) -> bool {
        self.counting
    }

    /// When the last one ended.
    pub(crate) fn counted_at(&self) -> Option<Instant> {
        self.counted_at
    }

    /// How long it took.
    pub(crate) fn took(&self) -> Duration {
        self.took
    }

    /// Parts that it found no place for.
    pub(crate) fn placeless(&self) -> u64 {
        self.placeless
    }

    /// Those of them that lie nowhere, by the slot that they belong on.
    pub(crate) fn missing(&self) -> impl Iterator<Item = (usize, Missing)> {
        self.missing.iter().map(|(slot, missing)| (*slot, *missing))
    }

    /// Parts that stay on slots that are to be left, for want of others.
    pub(crate) fn staying(&self) -> u64 {
        self.staying
    }

    /// Bytes of parts that are still to be put.
    pub(crate) fn left(&self) -> u64 {
        self.bytes.saturating_sub(self.done)
    }

    /// Those of the slots that have all they should, once nothing of what was found waits: all of the group was heard,
    /// every part has a place, and nothing was left undone for them.
    pub(crate) fn whole(&self, slots: SlotSet) -> SlotSet {
        if self.thorough { slots.minus(self.undone) } else { SlotSet::EMPTY }
    }

    /// Something of it was left undone that these slots may lack.
    pub(crate) fn leave_undone(&mut self, slots: SlotSet) {
        self.undone = self.undone.union(slots);
    }

    /// A blob that was to be mended has been.
    pub(crate) fn mended(&mut self, item: Item) {
        if item.census == Some(self.number) {
            self.done += item.bytes;
        }
    }

    /// Something has become of a blob that was to be mended. What no census has found is counted by none.
    pub(crate) fn change(&mut self, item: Item, change: Change) {
        match item.census == Some(self.number) {
            true if self.counting => *self.changes.entry(change).or_default() += 1,
            true => self.counts.change(change),
            false => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repair::report::Counted;

    fn is_thorough(tally: &Tally) -> bool {
        let slots = SlotSet::first(3);
        tally.whole(slots) == slots
    }

    #[test]
    fn what_is_mended_while_it_is_counted_is_counted_as_mended() {
        let mut tally = Tally::default();
        let number = tally.begin();
        let item = Item { bytes: 7, census: Some(number), ..Item::noticed(false) };
        let (before, after) = (Counted::Spare(0), Counted::Spare(2));
        let change = Change { before, after, best: 2 };
        tally.mended(item);
        tally.change(item, change);
        tally.change(Item { census: None, ..item }, change);
        let mut outcome = Outcome { bytes: 14, whole: true, ..Outcome::default() };
        (0..2).for_each(|_| outcome.counts.add(0, 2));
        let now = Instant::now();
        tally.end(outcome, now, now);
        assert_eq!((tally.counts.by_spare.as_slice(), tally.left()), (&[1, 0, 1][..], 7));
        tally.mended(item);
        tally.change(item, change);
        assert_eq!((tally.counts.by_spare.as_slice(), tally.left()), (&[0, 0, 2][..], 0));
        assert!(is_thorough(&tally) && !tally.is_counting());
        // What an older one has found says nothing of the next.
        tally.begin();
        tally.change(item, change);
        tally.end(Outcome::default(), now, now);
        assert_eq!(tally.counts.blobs(), 0);
    }

    #[test]
    fn a_census_that_was_broken_off_or_found_no_place_for_a_part_is_not_thorough() {
        let (mut tally, now) = (Tally::default(), Instant::now());
        let whole = || Outcome { whole: true, ..Outcome::default() };
        tally.begin();
        tally.end(whole(), now, now);
        assert!(is_thorough(&tally));
        tally.begin();
        tally.break_off();
        assert!(!is_thorough(&tally) && !tally.is_counting());
        tally.begin();
        let missing = BTreeMap::from([(3, Missing { parts: 1, bytes: 8192 })]);
        tally.end(Outcome { missing, ..whole() }, now, now);
        assert!(!is_thorough(&tally));
        tally.begin();
        tally.end(whole(), now, now);
        assert!(is_thorough(&tally) && tally.missing().next().is_none());
    }
}
