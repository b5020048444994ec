//! What a healer knows, and what is under way. Decides what is due; does nothing of it, and reads no clock.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::id::BlobId;
use proto::limits::MAX_SLOTS;
use proto::part_store::Condition;
use tokio::time::Instant;

use crate::placement::quorum::SlotSet;
use crate::repair::census::{Finding, Outcome};
use crate::repair::conditions::Conditions;
use crate::repair::layout::Attendance;
use crate::repair::mend::{End, Mended};
use crate::repair::pace::{Charge, Pace};
use crate::repair::presence::{Presence, Seen};
use crate::repair::queue::{Item, MOST, Queue};
use crate::repair::report::{Change, Counted};
use crate::repair::tally::Tally;

/// How often slots are asked how they are: one that is emptied may be back before it is missed. And how often while
/// something changes.
const ASK: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(1));
/// First and longest wait before a census that is taken because something failed.
const RETRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(600));
/// After a volume was used its blobs are counted again in this time, or so many times as long as that took last.
const FRESH: (Duration, u32) = (Duration::from_secs(10), 100);
/// What a census has found is mended before another begins, but not for longer than this.
const STALE: Duration = Duration::from_secs(600);
/// A blob that is being put or deleted is looked at again after this time.
const PUT_OFF: Duration = Duration::from_millis(100);
/// Of the time no more than one in so many goes to censuses that follow each other.
const SHARE: u32 = 5;
/// Shortest pause between two censuses.
const PAUSE: Duration = Duration::from_millis(500);
/// Lost blobs that are remembered by name, and those that cannot be mended whose reason is.
const NAMED: usize = 64;

/// A blob of which too few parts were found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Short {
    pub(crate) blob: BlobId,
    pub(crate) item: Item,
    /// Not every slot of the group was heard, or there is a newer group.
    pub(crate) gap: bool,
    /// Whether it is wanted; `None`: nobody has said.
    pub(crate) wanted: Option<bool>,
}

/// What is known, and what is under way.
pub(crate) struct Course {
    pub(crate) presence: Presence,
    pub(crate) queue: Queue,
    pub(crate) pace: Pace,
    pub(crate) tally: Tally,
    /// What is being mended, and what the rate was charged for it; and how many of those a census has found.
    pub(crate) mending: BTreeMap<BlobId, Charge>,
    found_mending: usize,
    /// When the next census is due at the latest, and when it may begin at the earliest.
    pub(crate) due: Instant,
    pub(crate) not_before: Instant,
    /// What slots have said of themselves, and when they are asked next; `None`: they are being asked.
    pub(crate) conditions: Conditions,
    pub(crate) ask_at: Option<Instant>,
    retry: Duration,
    failed: bool,
    /// Slots stand otherwise than when the last census began, apart from their room.
    moved: bool,
    /// A slot did not say what it has of a blob that was mended, without being missed.
    unsure: bool,
    /// Slots that were rebuilding when the last census ended.
    pub(crate) to_declare: SlotSet,
    pub(crate) mended_blobs: u64,
    pub(crate) mended_bytes: u64,
    /// Blobs that are lost, and the census that has counted each as one last.
    pub(crate) lost: BTreeMap<BlobId, Option<u64>>,
    /// Those that could not be mended, as many as can wait in the queue, and the census that was under way then, or was
    /// last; and why, of the first of them.
    stuck: BTreeMap<BlobId, u64>,
    pub(crate) reasons: BTreeMap<BlobId, String>,
    pub(crate) fenced: bool,
}

impl Course {
    pub(crate) fn new(slots: usize, grace: Duration, rate: u64, now: Instant) -> Self {
        Self {
            presence: Presence::new(slots, grace),
            queue: Queue::new(MOST),
            pace: Pace::new(rate),
            tally: Tally::default(),
            mending: BTreeMap::new(),
            found_mending: 0,
            due: now,
            not_before: now,
            conditions: Conditions::new(slots),
            ask_at: Some(now),
            retry: RETRY.0,
            failed: false,
            moved: false,
            unsure: false,
            to_declare: SlotSet::EMPTY,
            mended_blobs: 0,
            mended_bytes: 0,
            lost: BTreeMap::new(),
            stuck: BTreeMap::new(),
            reasons: BTreeMap::new(),
            fenced: false,
        }
    }

    /// Something was left undone: it is looked for again, later each time.
    pub(crate) fn try_again(&mut self, now: Instant) {
        self.failed = true;
        self.due = self.due.min(now + self.retry);
    }

    /// Is a census needed to say how all is, since some mend knew less than it needed?
    pub(crate) fn is_unsure(&self) -> bool {
        self.unsure
    }

    /// A census begins: its number. What the last one found is found again.
    pub(crate) fn begin_census(&mut self, now: Instant, every: Duration) -> (u64, Attendance) {
        self.queue.forget_census();
        self.queue.take_overflow();
        // Lists do not tell whether parts are sound.
        self.conditions.tell_again();
        let failed = std::mem::take(&mut self.failed);
        (self.unsure, self.moved) = (false, false);
        self.retry = if failed { (2 * self.retry).min(RETRY.1) } else { RETRY.0 };
        self.due = now + every;
        (self.tally.begin(), self.presence.attendance())
    }

    /// The slots were looked at: when they stand otherwise all is counted anew. Where there is only more or less room
    /// that has time, as mends go by what there is when they begin.
    pub(crate) fn look(&mut self, seen: Seen, now: Instant) {
        let (before, moved) = (self.presence.attendance(), self.presence.is_outdated(seen));
        if self.presence.look(seen, now) {
            let takes = before.takes;
            let but_for_room = Attendance { takes, ..self.presence.attendance() };
            self.moved |= moved || but_for_room != before;
            self.due = now;
        }
    }

    /// A census that was taken some time ago says little of a volume that was used since. `used`: was it, since then?
    pub(crate) fn refresh(&mut self, used: impl FnOnce(Instant) -> bool, now: Instant) {
        let took = self.tally.took();
        if let Some(counted) = self.tally.counted_at()
            && !self.tally.is_counting()
            && now >= counted + FRESH.0.max(FRESH.1 * took)
            // What was put or deleted while it was counted may be counted as anything.
            && used(counted - took)
        {
            self.due = self.due.min(now);
        }
    }

    /// Is a census to be taken? Not while what the last one has found is being mended, unless slots stand otherwise
    /// since, or that takes too long: it would be found anew, with what is just being put and deleted then, and while
    /// users are busy nothing would ever come to its end.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        let ends_first = !self.is_through()
            && !self.moved
            && self.tally.counted_at().is_some_and(|counted| now < counted + STALE);
        self.due <= now && !ends_first
    }

    pub(crate) fn found(&mut self, census: u64, blob: BlobId, finding: Finding) {
        let (counted, spare, bytes) = match finding {
            Finding::Mend { spare, bytes, counts } => (counts.then_some(spare), spare, bytes),
            Finding::Short => (None, 0, 0),
        };
        let (uncounted, census) = (counted.is_none(), Some(census));
        self.queue.push(blob, Item { spare, verify: false, uncounted, counted, bytes, census });
    }

    pub(crate) fn end_census(&mut self, outcome: Outcome, began: Instant, now: Instant) {
        let (failed, rebuilding) = (outcome.failed, outcome.rebuilding);
        self.tally.end(outcome, began, now);
        self.presence.rebuilds(rebuilding);
        self.to_declare = rebuilding;
        // It has found anew what is to be mended; what has failed meanwhile it will not find again.
        let number = self.tally.number();
        self.stuck.retain(|_, census| *census == number);
        self.reasons.retain(|blob, _| self.stuck.contains_key(blob));
        // What was lost may be back; lists do not tell whether parts are sound.
        self.tally.counts.lost = self.lost.len() as u64;
        let census = Some(number);
        for (blob, _) in self.lost.iter().filter(|(_, counted)| **counted != census) {
            let again = Item { census, ..Item::noticed(true) };
            self.queue.push(*blob, again);
        }
        self.not_before = now + PAUSE.max(SHARE * self.tally.took());
        if failed {
            if self.tally.counts.unavailable > 0 {
                self.retry = RETRY.0;
            }
            self.try_again(now);
        }
    }

    /// Blobs that could not be mended.
    pub(crate) fn stuck(&self) -> usize {
        self.stuck.len()
    }

    /// A blob could not be mended.
    fn is_stuck(&mut self, blob: BlobId, why: &str) {
        if self.stuck.len() < MOST || self.stuck.contains_key(&blob) {
            self.stuck.insert(blob, self.tally.number());
        }
        if self.reasons.len() < NAMED && self.reasons.insert(blob, why.to_owned()).is_none() {
            tracing::warn!("blob {blob} cannot be mended: {why}");
        }
    }

    /// It is no more.
    fn goes_on(&mut self, blob: &BlobId) {
        self.stuck.remove(blob);
        self.reasons.remove(blob);
    }

    /// Slots have said how they are.
    pub(crate) fn heard(&mut self, said: Vec<Option<Condition>>, now: Instant) {
        for blob in self.conditions.hear(said) {
            self.queue.push(blob, Item::noticed(true));
        }
        let moves = self.conditions.is_moving() || !self.presence.attendance().leaves.is_empty();
        let pause = if moves { ASK.1 } else { ASK.0 };
        self.ask_at = Some(now + pause);
        let rebuilding = self.conditions.rebuilding();
        if !self.tally.is_counting() && !rebuilding.minus(self.presence.rebuilding()).is_empty() {
            self.presence.rebuilds(rebuilding);
            (self.due, self.moved) = (now, true);
        }
    }

    /// A blob is going to be mended.
    pub(crate) fn begin_mend(&mut self, blob: BlobId, item: Item, busy: bool, now: Instant) {
        self.found_mending += usize::from(item.census.is_some());
        let charge = self.pace.begin(item.bytes, busy, now);
        self.mending.insert(blob, charge);
    }

    /// A blob has been mended, or could not be.
    pub(crate) fn mended(
        &mut self,
        blob: BlobId,
        item: Item,
        mended: &Mended,
        best: usize,
        now: Instant,
    ) {
        let found = item.census.is_some();
        self.found_mending = self.found_mending.saturating_sub(found.into());
        if let Some(charge) = self.mending.remove(&blob) {
            // What has failed may have moved all that it was to.
            let failed = matches!(mended.end, End::Failed(_) | End::Fenced(_));
            let moved = if failed { mended.bytes.max(charge.bytes) } else { mended.bytes };
            self.pace.end(charge, moved, now);
        }
        if mended.end == End::Busy {
            self.queue.put_off(blob, item, now + PUT_OFF);
            return;
        }
        self.mended_bytes += mended.bytes;
        self.mended_blobs += u64::from(mended.bytes > 0);
        self.tally.mended(item);
        if let (Some(before), Some(after)) = (mended.before, mended.after) {
            // As it was counted: it may have changed since, as one does that is being put.
            let (before, after) = (item.was(before), Counted::Spare(after));
            self.tally.change(item, Change { before, after, best });
        }
        match &mended.end {
            End::Done => {
                self.found_again(&blob);
                self.goes_on(&blob);
                if mended.unheard {
                    self.unsure = true;
                    self.left_undone(item, SlotSet::first(MAX_SLOTS), now);
                } else if item.verify && mended.after >= Some(best) {
                    self.conditions.is_whole(&blob);
                }
            }
            End::Deleted { .. } => {
                self.found_again(&blob);
                self.goes_on(&blob);
                let (before, after) = (item.was(item.spare), Counted::Not);
                self.tally.change(item, Change { before, after, best });
            }
            End::Busy | End::Short { .. } => {}
            End::Fenced(epoch) => {
                tracing::warn!(%epoch, "repair ends: the volume has another owner");
                self.fenced = true;
            }
            End::Failed(why) => {
                self.is_stuck(blob, why);
                self.left_undone(item, mended.undone, now);
            }
        }
    }

    /// A blob could not be mended as it should be, and these slots may lack something: another census finds it. One that
    /// was only noticed is no reason to take slots for less than whole that have all that the last census has found, nor
    /// to wait longer each time: as long as blobs are put some always are.
    fn left_undone(&mut self, item: Item, slots: SlotSet, now: Instant) {
        if item.census.is_some() {
            self.tally.leave_undone(slots);
            self.try_again(now);
        } else {
            self.due = self.due.min(now + self.retry);
        }
    }

    /// Too few parts of a blob were found. Only if it is wanted can it not be read, and only if every slot was heard is it
    /// lost. Until somebody says whether it is wanted it counts as nothing.
    pub(crate) fn short(&mut self, short: Short, best: usize, now: Instant) {
        let Short { blob, item, gap, wanted } = short;
        let all = SlotSet::first(MAX_SLOTS);
        if wanted != Some(false) && item.census.is_some() {
            self.tally.leave_undone(all);
        }
        match wanted {
            Some(false) => {
                let (before, after) = (item.was(best), Counted::Not);
                self.tally.change(item, Change { before, after, best });
                self.found_again(&blob);
                self.conditions.nobody_wants(blob);
            }
            Some(true) if !gap => {
                let (before, after) = (item.was(best), Counted::Not);
                self.tally.change(item, Change { before, after, best });
                if let Some(counted) = self.lost.get_mut(&blob) {
                    *counted = item.census.max(*counted);
                    return;
                }
                self.tally.counts.lost += 1;
                if self.lost.len() < NAMED {
                    self.lost.insert(blob, item.census);
                    tracing::error!("blob {blob} is lost: too few of its parts are left");
                }
            }
            // Whoever did not say may do so the next time.
            Some(true) => {
                let (before, after) = (item.was(best), Counted::Unread);
                self.tally.change(item, Change { before, after, best });
                self.look_soon(item, all, now);
            }
            None => {
                self.unsure = true;
                self.look_soon(item, all, now);
            }
        }
    }

    /// What cannot be read, as far as is known, is looked for again without waiting longer each time.
    fn look_soon(&mut self, item: Item, slots: SlotSet, now: Instant) {
        self.retry = RETRY.0;
        self.left_undone(item, slots, now);
    }

    /// A blob that was taken for lost is not, or nobody wants it.
    fn found_again(&mut self, blob: &BlobId) {
        if self.lost.remove(blob).is_some() {
            self.tally.counts.lost = self.tally.counts.lost.saturating_sub(1);
        }
    }

    /// Nothing is being mended any more: whoever did is gone.
    pub(crate) fn break_off(&mut self) {
        self.tally.break_off();
        self.mending.clear();
        self.found_mending = 0;
    }

    /// Is nothing left of what the last census found?
    pub(crate) fn is_through(&self) -> bool {
        !self.tally.is_counting() && self.queue.is_through() && self.found_mending == 0
    }

    /// Is it through with all that the last census found? What there was no room for is found by another.
    pub(crate) fn is_done(&mut self, now: Instant) -> bool {
        let through = self.is_through();
        let overflowed = through && self.queue.take_overflow();
        if overflowed {
            self.due = now;
        }
        through && !overflowed
    }

    /// Those of the slots that were being rebuilt that have all they should now; told once. `Err`: none has.
    pub(crate) fn declares(&mut self, now: Instant) -> Result<SlotSet, SlotSet> {
        if !self.is_done(now) {
            return Ok(SlotSet::EMPTY);
        }
        let slots = std::mem::take(&mut self.to_declare);
        let whole = self.tally.whole(slots);
        if whole.is_empty() && !slots.is_empty() { Err(slots) } else { Ok(whole) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repair::report::Counts;
    use proto::id::{GroupId, SessionId, VolumeId};

    fn blob(sequence: u64) -> BlobId {
        let scheme = "ec(2,1)".parse().unwrap();
        BlobId::new(VolumeId(1), SessionId(7), sequence, GroupId(0), 4096, scheme).unwrap()
    }

    fn course(now: Instant) -> Course {
        Course::new(3, Duration::from_secs(60), 1 << 20, now)
    }

    fn census(course: &mut Course, found: &[u64], now: Instant) {
        let (number, _) = course.begin_census(now, Duration::from_secs(3600));
        for sequence in found {
            course.found(
                number,
                blob(*sequence),
                Finding::Mend { spare: 0, bytes: 1, counts: true },
            );
        }
        let rebuilding = SlotSet::only(1);
        let outcome = Outcome { whole: true, rebuilding, ..Outcome::default() };
        course.end_census(outcome, now, now);
    }

    fn mend(course: &mut Course, now: Instant) {
        let (blob, item) = course.queue.pop().unwrap();
        course.begin_mend(blob, item, false, now);
        course.mended(blob, item, &End::Done.into(), 1, now);
    }

    #[test]
    fn what_there_was_no_room_for_is_counted_again_at_once_and_nothing_is_declared_before() {
        let now = Instant::now();
        let mut course = course(now);
        course.queue = Queue::new(1);
        census(&mut course, &[1, 2], now);
        mend(&mut course, now);
        // Whoever asks first, what is next is a census.
        assert_eq!(course.declares(now), Ok(SlotSet::EMPTY));
        assert_eq!(course.due, now);
        census(&mut course, &[2], now);
        mend(&mut course, now);
        assert_eq!(course.declares(now), Ok(SlotSet::only(1)));
        assert_eq!(course.declares(now), Ok(SlotSet::EMPTY), "once");
    }

    #[test]
    fn a_blob_that_is_busy_is_looked_at_again_soon_and_nothing_is_declared_before() {
        let now = Instant::now();
        let mut course = course(now);
        census(&mut course, &[1], now);
        let (busy, item) = course.queue.pop().unwrap();
        course.mended(busy, item, &End::Busy.into(), 1, now);
        assert_eq!(course.declares(now), Ok(SlotSet::EMPTY));
        assert_eq!((course.tally.left(), course.queue.call_back(now)), (0, Some(now + PUT_OFF)));
        course.queue.call_back(now + PUT_OFF);
        mend(&mut course, now + PUT_OFF);
        assert_eq!(course.declares(now + PUT_OFF), Ok(SlotSet::only(1)));
    }

    #[test]
    fn what_is_noticed_meanwhile_holds_back_no_slot_that_has_all_a_census_has_found() {
        let now = Instant::now();
        let mut course = course(now);
        census(&mut course, &[1], now);
        for sequence in 2..5 {
            course.queue.push(blob(sequence), Item::noticed(false));
        }
        mend(&mut course, now);
        let (noticed, item) = course.queue.pop().unwrap();
        course.begin_mend(noticed, item, true, now);
        course.mended(noticed, item, &End::Failed("it is full".to_owned()).into(), 1, now);
        assert_eq!((course.declares(now), course.due), (Ok(SlotSet::only(1)), now + RETRY.0));
        assert_eq!(course.queue.len(), 2);
        // Nor is it longer until the next census each time that happens.
        census(&mut course, &[], now);
        course.mended(noticed, item, &End::Failed("it is full".to_owned()).into(), 1, now);
        assert_eq!(course.due, now + RETRY.0);
    }

    #[test]
    fn what_a_slot_would_not_take_holds_back_that_slot_and_no_other() {
        let now = Instant::now();
        let mut course = course(now);
        for (undone, whole) in [(0, Ok(SlotSet::only(1))), (1, Err(SlotSet::only(1)))] {
            census(&mut course, &[1], now);
            let (blob, item) = course.queue.pop().unwrap();
            let undone = SlotSet::only(undone);
            let mended = Mended { undone, ..End::Failed("it is full".to_owned()).into() };
            course.mended(blob, item, &mended, 1, now);
            assert_eq!((course.declares(now), course.due <= now + 2 * RETRY.0), (whole, true));
        }
    }

    #[test]
    fn what_a_census_has_found_is_mended_before_another_is_taken_of_a_volume_in_use() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let mut course = course(now);
        course.look(Seen::default(), now);
        census(&mut course, &[1, 2], now);
        course.refresh(|_| false, now + 11 * second);
        assert!(course.due > now + STALE, "nobody has used it");
        course.refresh(|_| true, now + 11 * second);
        // Nor is one taken before for what was noticed and failed, or a slot that is full for a moment.
        let failed = End::Failed("it is full".to_owned()).into();
        course.mended(blob(3), Item::noticed(false), &failed, 1, now);
        course.look(Seen { full: SlotSet::only(2), ..Seen::default() }, now + 11 * second);
        for _ in 0..2 {
            assert!(!course.is_due(now + 12 * second), "one is left");
            mend(&mut course, now + 12 * second);
        }
        assert!(course.is_due(now + 12 * second));
        // But for a slot that is gone, and when it would take for ever.
        census(&mut course, &[1], now);
        course.refresh(|_| true, now + 12 * second);
        assert!(!course.is_due(now + 12 * second) && course.is_due(now + STALE));
        course.look(Seen { down: SlotSet::only(2), ..Seen::default() }, now + 12 * second);
        assert!(course.is_due(now + 12 * second));
    }

    #[test]
    fn a_blob_that_is_busy_costs_no_other_its_turn() {
        let now = Instant::now();
        let mut course = course(now);
        let (census, _) = course.begin_census(now, Duration::from_secs(3600));
        // A minute of its rate.
        course.found(census, blob(1), Finding::Mend { spare: 0, bytes: 60 << 20, counts: true });
        for nth in 0..3 {
            let now = now + nth * PUT_OFF;
            course.queue.call_back(now);
            let (busy, item) = course.queue.pop().unwrap();
            assert_eq!(course.pace.may_begin(0, true, now), Ok(true), "{nth}");
            course.begin_mend(busy, item, true, now);
            course.mended(busy, item, &End::Busy.into(), 1, now);
        }
    }

    #[test]
    fn what_has_failed_is_not_tried_faster_than_the_rate() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let mut course = course(now);
        let item = Item { bytes: 4 << 20, ..Item::noticed(false) };
        course.begin_mend(blob(1), item, false, now);
        course.mended(blob(1), item, &End::Failed("no answer".to_owned()).into(), 1, now);
        assert_eq!(course.pace.may_begin(0, false, now), Err(now + 4 * second));
    }

    #[test]
    fn a_blob_of_which_nobody_said_whether_it_is_wanted_is_looked_for_again() {
        let now = Instant::now();
        let mut course = course(now);
        census(&mut course, &[1], now);
        let (blob, item) = course.queue.pop().unwrap();
        course.mended(blob, item, &End::Short { gap: false }.into(), 1, now);
        course.short(Short { blob, item, gap: false, wanted: None }, 1, now);
        assert_eq!((course.declares(now), course.due), (Err(SlotSet::only(1)), now + RETRY.0));
    }

    #[test]
    fn a_blob_that_is_short_counts_as_nothing_before_it_was_looked_at() {
        let now = Instant::now();
        let (short, whole) = (Finding::Short, Mended::from(End::Done));
        let unread = Counts { unavailable: 1, ..Counts::default() };
        let lost = Counts { lost: 1, ..Counts::default() };
        let put = Counts { by_spare: vec![0, 1], ..Counts::default() };
        for (gap, wanted, expected) in [
            (false, Some(false), Counts::default()),
            (false, None, Counts::default()),
            (true, Some(true), unread),
            (false, Some(true), lost),
        ] {
            let mut course = course(now);
            let (number, _) = course.begin_census(now, Duration::from_secs(3600));
            course.found(number, blob(1), short);
            course.end_census(Outcome { whole: true, ..Outcome::default() }, now, now);
            assert_eq!(course.tally.counts, Counts::default(), "it was not looked at");
            let (blob, item) = course.queue.pop().unwrap();
            course.mended(blob, item, &End::Short { gap }.into(), 1, now);
            course.short(Short { blob, item, gap, wanted }, 1, now);
            assert_eq!(course.tally.counts, expected, "{gap} {wanted:?}");
        }
        // Its put has come to its end.
        let mut course = course(now);
        let (number, _) = course.begin_census(now, Duration::from_secs(3600));
        course.found(number, blob(1), short);
        course.end_census(Outcome { whole: true, ..Outcome::default() }, now, now);
        let (blob, item) = course.queue.pop().unwrap();
        let whole = Mended { before: Some(1), after: Some(1), ..whole };
        course.mended(blob, item, &whole, 1, now);
        assert_eq!(course.tally.counts, put);
    }

    #[test]
    fn what_could_not_be_read_is_looked_for_again_without_waiting_longer_each_time() {
        let mut now = Instant::now();
        let mut course = course(now);
        for nth in 0..5 {
            course.begin_census(now, Duration::from_secs(3600));
            let mut outcome = Outcome { failed: true, ..Outcome::default() };
            outcome.counts.unavailable = 1;
            course.end_census(outcome, now, now);
            assert_eq!(course.due, now + RETRY.0, "{nth}");
            now = course.due;
        }
    }

    #[test]
    fn all_that_cannot_be_mended_are_counted_and_some_are_named() {
        let now = Instant::now();
        let mut course = course(now);
        let found: Vec<u64> = (1..=100).collect();
        // What fails while they are counted is not found again by this census.
        let (number, _) = course.begin_census(now, Duration::from_secs(3600));
        let fails = Mended::from(End::Failed("it is full".to_owned()));
        for sequence in &found {
            course.found(
                number,
                blob(*sequence),
                Finding::Mend { spare: 0, bytes: 1, counts: true },
            );
        }
        while let Some((blob, item)) = course.queue.pop() {
            course.begin_mend(blob, item, false, now);
            course.mended(blob, item, &fails, 1, now);
        }
        course.end_census(Outcome { whole: true, ..Outcome::default() }, now, now);
        assert_eq!((course.stuck(), course.reasons.len()), (100, NAMED));
        // One of them can be after all.
        let item = Item::noticed(false);
        course.mended(blob(1), item, &End::Done.into(), 1, now);
        assert_eq!((course.stuck(), course.reasons.len()), (99, NAMED - 1));
        census(&mut course, &[], now);
        assert_eq!((course.stuck(), course.reasons.len()), (0, 0));
    }

    #[test]
    fn a_blob_of_which_a_slot_did_not_say_what_it_has_is_looked_for_again() {
        let now = Instant::now();
        let mut course = course(now);
        census(&mut course, &[1], now);
        let (blob, item) = course.queue.pop().unwrap();
        let mended = Mended { unheard: true, ..End::Done.into() };
        course.mended(blob, item, &mended, 1, now);
        assert!(course.is_unsure(), "and until then nobody says that all is well");
        assert_eq!((course.declares(now), course.due), (Err(SlotSet::only(1)), now + RETRY.0));
        census(&mut course, &[], now);
        assert!(!course.is_unsure());
    }

    #[test]
    fn what_was_counted_before_it_was_whole_is_counted_as_whole_once_it_is_looked_at() {
        let (now, blob) = (Instant::now(), blob(1));
        let mut course = course(now);
        let (census, _) = course.begin_census(now, Duration::from_secs(3600));
        course.found(census, blob, Finding::Mend { spare: 0, bytes: 2048, counts: true });
        // Somebody has noticed it, too, and does not know.
        course.queue.push(blob, Item::noticed(false));
        let mut outcome = Outcome { whole: true, ..Outcome::default() };
        outcome.counts.add(0, 2);
        course.end_census(outcome, now, now);
        let (blob, item) = course.queue.pop().unwrap();
        // Its put has ended meanwhile: there is nothing to mend.
        let (before, after) = (Some(2), Some(2));
        let whole = Mended { before, after, ..End::Done.into() };
        course.mended(blob, item, &whole, 2, now);
        let expected = Counts { by_spare: vec![0, 0, 1], at_risk: 0, unavailable: 0, lost: 0 };
        assert_eq!(course.tally.counts, expected);
    }
}
