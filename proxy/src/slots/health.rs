//! Which slots of a group are out of use: all of them judged together.
//!
//! This module decides; it does no I/O and reads no clock: whoever tells it of an event says when that
//! was. What counts is of two kinds:
//!
//! * A slot that *refuses* (no connection, another cluster's disk, a stale generation) is down at once.
//! * A slot that is *silent* may be slow, or the whole machine may be. So its silence, which is the time
//!   that it was waited for in vain since its last answer, is held against its own history, and the
//!   longest wait in it against the others that were asked in that time: most of them must have answered
//!   far sooner.
//!
//! Invariants:
//! * Silence takes no more slots out of use than the scheme can lose, those that refuse
//!   included, unless it has lasted so long that no load explains it.
//! * An outage is told when it ends if, and only if, its beginning was told.
//!
//! What is known of reads proves nothing about writes, which are what hangs or fails first, and neither
//! follows from what a slot says of itself: each [`Kind`] of request has a clock of its own.

use std::sync::Arc;
use std::time::Duration;

use proto::scheme::Scheme;
use tokio::time::Instant;

use crate::machines::driver::LONGEST_WAIT;
use crate::placement::Group;
use crate::placement::quorum::SlotSet;

/// Shorter than this no silence means anything: a sync on a busy disk may take as long.
pub(crate) const SILENCE: Duration = Duration::from_secs(2);
/// A slot is slow only if it is silent for so many times as long as it, and others, take to answer.
const FAR_LONGER: u32 = 3;
/// No load makes a slot say nothing of itself for so long: it hangs, however many do.
const HANGS: Duration = Duration::from_secs(6);
/// The same for reads and writes, some of which were waited for to the end: they wait for each other on
/// its disk.
const DISK_HANGS: Duration = Duration::from_secs(20);
/// After an outage by silence this much of it, and no answer, is the next outage.
const PROBATION: Duration = Duration::from_millis(400);
/// First and longest time that a slot stays out of use although it says that it is there.
const HOLD: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(8));
/// Outages of one slot that begin within this time of each other are told together.
const TELL: Duration = Duration::from_secs(60);

/// What is asked of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    Write,
    /// How it is: needs no disk.
    Probe,
}

/// What an event has changed, for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It is out of use. `untold`: so many outages before this one were not told.
    Down { why: String, untold: u32 },
    /// It takes no writes.
    ReadOnly { why: String },
    /// It is in use again, after so long.
    Up { after: Duration },
}

/// Time that a slot was waited for in vain since its last answer.
#[derive(Debug, Default)]
struct Clock {
    /// Requests under way.
    waiting: u32,
    /// Since when; meaningless while there are none.
    since: Option<Instant>,
    /// Waited for requests that were given up, and longest for one of them.
    waited: Duration,
    longest: Duration,
    /// When the last answer came, and how long it took.
    last: Option<(Instant, Duration)>,
    /// Smoothed time of an answer.
    typical: Duration,
}

impl Clock {
    fn sent(&mut self, now: Instant) {
        if self.waiting == 0 {
            self.since = Some(now);
        }
        self.waiting += 1;
    }

    fn answered(&mut self, took: Duration, now: Instant) {
        self.waiting = self.waiting.saturating_sub(1);
        self.forgive(now);
        self.last = Some((now, took));
        self.typical = if self.typical.is_zero() { took } else { (self.typical * 7 + took) / 8 };
    }

    fn gave_up(&mut self, sent: Instant, now: Instant) {
        self.waiting = self.waiting.saturating_sub(1);
        self.longest = self.longest.max(now - sent);
        if self.waiting == 0 {
            self.waited += self.since.map_or(Duration::ZERO, |since| now - since);
        }
    }

    fn forgive(&mut self, now: Instant) {
        (self.waited, self.longest) = (Duration::ZERO, Duration::ZERO);
        self.since = Some(now);
    }

    fn silence(&self, now: Instant) -> Duration {
        let under_way = self.since.filter(|_| self.waiting > 0);
        self.waited + under_way.map_or(Duration::ZERO, |since| now - since)
    }

    /// Was it asked within `silence`, and then: has it answered far sooner than after `longest`, which
    /// another let somebody wait in vain?
    fn testifies(&self, silence: Duration, longest: Duration, now: Instant) -> Option<bool> {
        let answered = self.last.filter(|(at, _)| now - *at <= silence);
        let under_way = self.since.filter(|_| self.waiting > 0).map_or(Duration::ZERO, |s| now - s);
        let own = self.longest.max(under_way);
        if answered.is_none() && own.is_zero() {
            return None;
        }
        let far_sooner = |took: Duration| took * FAR_LONGER <= longest;
        Some(far_sooner(own) && answered.is_some_and(|(_, took)| far_sooner(took)))
    }
}

#[derive(Debug)]
struct Outage {
    why: String,
    since: Instant,
    /// The kind of request that it was silent to; `None`: it refused.
    silent: Option<Kind>,
    told: bool,
}

#[derive(Debug, Default)]
struct SlotHealth {
    clocks: [Clock; 3],
    down: Option<Outage>,
    /// It takes no writes, although it is up.
    read_only: Option<Outage>,
    /// Whatever it says of itself, it stays so until then.
    hold_until: Option<Instant>,
    /// The next hold.
    hold: Duration,
    /// When an outage was told last, and how many have not been since.
    told_at: Option<Instant>,
    untold: u32,
}

impl SlotHealth {
    fn hold_longer(&mut self, now: Instant) {
        self.hold = (self.hold * 2).clamp(HOLD.0, HOLD.1);
        self.hold_until = Some(now + self.hold);
    }

    /// Is an outage that begins now told? Then with how many before it.
    fn tell(&mut self, now: Instant) -> Option<u32> {
        if self.told_at.is_some_and(|at| now - at < TELL) {
            self.untold += 1;
            return None;
        }
        self.told_at = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

/// The health of all slots of a group.
#[derive(Debug)]
pub(crate) struct Health {
    slots: Vec<SlotHealth>,
    group: Arc<Group>,
    /// Of the blobs asked for last; `None`: none was asked for.
    scheme: Option<Scheme>,
}

impl Health {
    /// All are up.
    pub(crate) fn new(group: Arc<Group>) -> Self {
        let slots = group.all().iter().map(|_| SlotHealth::default()).collect();
        Self { slots, group, scheme: None }
    }

    /// Blobs are asked for that can lose as much as the scheme can.
    pub(crate) fn asked_for(&mut self, scheme: Scheme) {
        self.scheme = Some(scheme);
    }

    /// Why the slot is not in use, or not for writes.
    pub(crate) fn trouble(&self, slot: usize) -> Option<&str> {
        let slot = &self.slots[slot];
        slot.down.as_ref().or(slot.read_only.as_ref()).map(|outage| outage.why.as_str())
    }

    /// For how long it has said nothing of itself, if that is too long.
    pub(crate) fn is_silent(&self, slot: usize, now: Instant) -> Option<Duration> {
        let silence = self.slots[slot].clocks[Kind::Probe as usize].silence(now);
        (silence >= SILENCE).then_some(silence)
    }

    /// Is it out of use?
    pub(crate) fn is_down(&self, slot: usize) -> bool {
        self.slots[slot].down.is_some()
    }

    /// Does it take no writes, although it may be up?
    pub(crate) fn is_read_only(&self, slot: usize) -> bool {
        self.slots[slot].read_only.is_some()
    }

    /// A request is on its way.
    pub(crate) fn sent(&mut self, slot: usize, kind: Kind, now: Instant) {
        self.slots[slot].clocks[kind as usize].sent(now);
    }

    /// It was answered, after `took`.
    pub(crate) fn answered(&mut self, slot: usize, kind: Kind, took: Duration, now: Instant) {
        let slot = &mut self.slots[slot];
        slot.clocks[kind as usize].answered(took, now);
        if kind == Kind::Write && slot.down.is_none() && slot.read_only.is_none() {
            slot.hold = Duration::ZERO;
        }
    }

    /// It failed on the way: what that says of the slot is said by [`Health::refused`].
    pub(crate) fn lost(&mut self, slot: usize, kind: Kind, sent: Instant, now: Instant) {
        self.slots[slot].clocks[kind as usize].gave_up(sent, now);
    }

    /// Nobody waits for it any more.
    pub(crate) fn gave_up(
        &mut self,
        slot: usize,
        kind: Kind,
        sent: Instant,
        now: Instant,
    ) -> Option<Change> {
        self.lost(slot, kind, sent, now);
        self.judge(slot, kind, sent, now)
    }

    /// Is it time to do without the slot, when it has not answered what was sent then?
    pub(crate) fn judge(
        &mut self,
        slot: usize,
        kind: Kind,
        sent: Instant,
        now: Instant,
    ) -> Option<Change> {
        let clock = &mut self.slots[slot].clocks[kind as usize];
        clock.longest = clock.longest.max(now - sent);
        if self.is_down(slot) || !self.is_worse(slot, kind, now) {
            return None;
        }
        let silence = self.slots[slot].clocks[kind as usize].silence(now).as_secs();
        let why = match kind {
            Kind::Read => format!("reads hang: no answer for {silence} s"),
            Kind::Write => format!("writes hang: no answer for {silence} s"),
            Kind::Probe => format!("no sign of life for {silence} s"),
        };
        if kind != Kind::Probe {
            self.slots[slot].hold_longer(now);
        }
        self.down(slot, why, Some(kind), now)
    }

    /// Is the slot too slow by itself, and not as slow as everything is?
    fn is_worse(&self, slot: usize, kind: Kind, now: Instant) -> bool {
        let clock = &self.slots[slot].clocks[kind as usize];
        let silence = clock.silence(now);
        let hangs = match kind {
            Kind::Probe => silence >= HANGS,
            _ => silence >= DISK_HANGS && clock.longest >= LONGEST_WAIT,
        };
        if hangs {
            return true;
        }
        if silence < SILENCE.max(clock.typical * FAR_LONGER) {
            return false;
        }
        if self.is_one_too_many(slot) {
            return false;
        }
        let others = (0..self.slots.len()).filter(|other| *other != slot && !self.is_down(*other));
        let longest = clock.longest;
        let of = |other: usize| &self.slots[other].clocks[kind as usize];
        let witnesses = others.filter_map(|other| of(other).testifies(silence, longest, now));
        let (prompt, late): (Vec<bool>, Vec<bool>) = witnesses.partition(|prompt| *prompt);
        prompt.len() > late.len()
    }

    /// Would more be lost than can be, without this one too?
    fn is_one_too_many(&self, slot: usize) -> bool {
        let gone = SlotSet::that_are(self.slots.len(), |other| self.is_down(other));
        let lost = gone.union(SlotSet::only(slot));
        self.scheme.is_some_and(|scheme| !self.group.survives(scheme, lost))
    }

    /// It said that it cannot be used.
    pub(crate) fn refused(&mut self, slot: usize, why: &str, now: Instant) -> Option<Change> {
        if let Some(outage) = &mut self.slots[slot].down {
            why.clone_into(&mut outage.why);
            return self.remind(slot, now);
        }
        self.down(slot, why.to_owned(), None, now)
    }

    /// It said that its disk does not answer: where that would be one too many, the machine may be slow.
    pub(crate) fn hangs(&mut self, slot: usize, why: &str, now: Instant) -> Option<Change> {
        if !self.is_down(slot) && self.is_one_too_many(slot) {
            return None;
        }
        self.refused(slot, why, now)
    }

    fn down(
        &mut self,
        slot: usize,
        why: String,
        silent: Option<Kind>,
        now: Instant,
    ) -> Option<Change> {
        let slot = &mut self.slots[slot];
        let untold = slot.tell(now);
        let told = untold.is_some();
        slot.down = Some(Outage { why: why.clone(), since: now, silent, told });
        untold.map(|untold| Change::Down { why, untold })
    }

    /// An outage that was not told, as there had been one just before, is told when it lasts.
    pub(crate) fn remind(&mut self, slot: usize, now: Instant) -> Option<Change> {
        let slot = &mut self.slots[slot];
        let why = slot.down.as_ref().filter(|outage| !outage.told)?.why.clone();
        if slot.told_at.is_some_and(|at| now - at < TELL) {
            return None;
        }
        // It is itself one of the untold.
        let untold = slot.tell(now)?.saturating_sub(1);
        slot.down.as_mut()?.told = true;
        Some(Change::Down { why, untold })
    }

    /// A write failed: it gets none, for longer each time.
    pub(crate) fn stop_writes(&mut self, slot: usize, why: &str, now: Instant) -> Option<Change> {
        let slot = &mut self.slots[slot];
        if slot.read_only.is_some() {
            return None;
        }
        slot.hold_longer(now);
        let told = slot.tell(now).is_some();
        slot.read_only = Some(Outage { why: why.to_owned(), since: now, silent: None, told });
        told.then(|| Change::ReadOnly { why: why.to_owned() })
    }

    /// It has shown that it can be used: back in use, unless it is on hold.
    pub(crate) fn alive(&mut self, slot: usize, now: Instant) -> Option<Change> {
        let slot = &mut self.slots[slot];
        if slot.hold_until.is_some_and(|until| now < until) {
            return None;
        }
        let outages = [slot.down.take(), slot.read_only.take()];
        let first = outages.iter().flatten().map(|outage| outage.since).min()?;
        slot.clocks.iter_mut().for_each(|clock| clock.forgive(now));
        slot.hold_until = None;
        if let Some(kind) = outages.iter().flatten().find_map(|outage| outage.silent)
            && kind != Kind::Probe
        {
            slot.clocks[kind as usize].waited = SILENCE - PROBATION;
        }
        let told = outages.iter().flatten().any(|outage| outage.told);
        told.then(|| Change::Up { after: now - first })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::id::DiskId;

    const MS: Duration = Duration::from_millis(1);

    /// Slots of a domain each that take a while to answer, or never do, asked over and over.
    struct World {
        health: Health,
        now: Instant,
        /// How long each takes to answer; `None`: it never does.
        takes: Vec<Option<Duration>>,
        told: Vec<(usize, Change)>,
    }

    impl World {
        fn new(slots: usize, parity: usize) -> Self {
            let disk = |n: usize| DiskId::from_slice(&[n as u8 + 1; 16]).unwrap();
            let group = Group::new(
                (0..slots).map(|n| (disk(n), ["a", "b", "c", "d", "e", "f", "g", "h"][n])),
            );
            let mut health = Health::new(Arc::new(group));
            health.asked_for(Scheme::copies(parity + 1).unwrap());
            let (now, takes) = (Instant::now(), vec![Some(5 * MS); slots]);
            Self { health, now, takes, told: Vec::new() }
        }

        /// One write to each of `asked`, given up after `patience`, or two seconds if nobody is slow.
        fn write(&mut self, asked: &[usize], patience: Duration) {
            let asked: Vec<usize> =
                asked.iter().copied().filter(|slot| !self.health.is_down(*slot)).collect();
            asked.iter().for_each(|slot| self.health.sent(*slot, Kind::Write, self.now));
            let start = self.now;
            let mut events: Vec<(Duration, usize, bool)> = asked
                .iter()
                .map(|slot| match self.takes[*slot] {
                    Some(takes) if takes <= patience => (takes, *slot, true),
                    _ => (patience, *slot, false),
                })
                .collect();
            events.sort_unstable();
            for (after, slot, answered) in events {
                self.now = start + after;
                if answered {
                    self.health.answered(slot, Kind::Write, after, self.now);
                } else if let Some(change) = self.health.gave_up(slot, Kind::Write, start, self.now)
                {
                    self.told.push((slot, change));
                }
            }
        }

        fn down(&self) -> Vec<usize> {
            (0..self.takes.len()).filter(|slot| self.health.is_down(*slot)).collect()
        }
    }

    #[test]
    fn one_that_is_slow_by_itself_is_called_down_and_told_when_it_is_back() {
        let mut world = World::new(8, 2);
        world.takes[3] = None;
        for round in 1..=3 {
            assert_eq!(world.down(), [], "after {round} rounds");
            world.write(&[0, 1, 2, 3, 4, 5], 600 * MS);
        }
        world.write(&[0, 1, 2, 3, 4, 5], 600 * MS);
        assert_eq!(world.down(), [3]);
        let [(3, Change::Down { why, untold: 0 })] = &world.told[..] else {
            panic!("{:?}", world.told);
        };
        assert!(why.starts_with("writes hang"), "{why}");
        // It says that it is there; that alone is not believed at once.
        assert_eq!(world.health.alive(3, world.now + 900 * MS), None);
        let up = world.health.alive(3, world.now + 1500 * MS);
        assert_eq!(up, Some(Change::Up { after: 1500 * MS }));
        // On probation one more is one too many, until it has answered.
        world.now += 1500 * MS;
        world.write(&[0, 1, 2, 3, 4, 5], 600 * MS);
        assert_eq!(world.down(), [3]);
        world.takes[3] = Some(5 * MS);
        world.now += 3000 * MS;
        world.health.alive(3, world.now);
        world.write(&[0, 1, 2, 3, 4, 5], 600 * MS);
        world.takes[3] = None;
        world.write(&[0, 1, 2, 3, 4, 5], 600 * MS);
        assert_eq!(world.down(), []);
    }

    #[test]
    fn a_machine_that_is_slow_has_no_slot_that_is_down() {
        for seed in 1..200u64 {
            let mut world = World::new(8, 2);
            let mut state = seed;
            let mut dice = |below: u64| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 33) % below
            };
            for _ in 0..40 {
                for takes in &mut world.takes {
                    // Some answers come too late for whoever waits.
                    *takes = Some(MS * (800 + dice(2200) as u32));
                }
                let first = dice(8) as usize;
                let asked: Vec<usize> = (first..first + 6).map(|slot| slot % 8).collect();
                world.write(&asked, 2600 * MS);
                assert_eq!(world.told, [], "seed {seed}: all are as slow");
            }
        }
    }

    #[test]
    fn silence_takes_no_more_slots_than_can_be_lost_unless_it_lasts() {
        let mut world = World::new(8, 2);
        (0..3).for_each(|slot| world.takes[slot] = None);
        for _ in 0..3 {
            world.write(&[0, 1, 2, 3, 4, 5, 6, 7], SILENCE);
        }
        assert_eq!(world.down(), [0, 1]);
        let mut rounds = 0;
        while world.down().len() < 3 {
            world.write(&[0, 1, 2, 3, 4, 5, 6, 7], LONGEST_WAIT);
            rounds += 1;
            assert!(rounds < 12, "a disk that never answers stays in use");
        }
        // The same of those that say so themselves.
        let mut world = World::new(8, 2);
        for slot in 0..8 {
            world.health.hangs(slot, "hangs: no answer for 5 s", world.now);
        }
        assert_eq!(world.down(), [0, 1]);
        // One that refuses is down at once, whatever the others are.
        let mut world = World::new(3, 1);
        for slot in 0..3 {
            let change = world.health.refused(slot, "connection refused", world.now);
            assert!(matches!(change, Some(Change::Down { .. })), "{slot}: {change:?}");
        }
    }

    #[test]
    fn a_slot_that_is_always_slow_is_measured_by_itself() {
        let mut world = World::new(8, 2);
        world.takes[2] = Some(1500 * MS);
        for _ in 0..10 {
            world.write(&[0, 1, 2, 3, 4, 5], 4 * SILENCE);
        }
        world.takes[2] = Some(3000 * MS);
        world.write(&[0, 1, 2, 3, 4, 5], SILENCE);
        assert_eq!(world.down(), [], "twice as slow as usual is no outage");
    }

    #[test]
    fn outages_one_after_the_other_are_told_once_a_minute() {
        let mut world = World::new(8, 2);
        let mut told = Vec::new();
        for second in 0..150u32 {
            let now = world.now + second * Duration::from_secs(1);
            told.extend(world.health.refused(5, "connection reset", now));
            told.extend(world.health.alive(5, now + 300 * MS));
        }
        let down = |untold| Change::Down { why: "connection reset".to_owned(), untold };
        let up = || Change::Up { after: 300 * MS };
        assert_eq!(told, [down(0), up(), down(59), up(), down(59), up()]);
        // One that lasts is told all the same, and so is its end.
        let start = world.now + Duration::from_secs(150);
        assert_eq!(world.health.refused(5, "connection reset", start), None);
        assert_eq!(world.health.remind(5, start + 10 * SILENCE), None);
        let later = start + TELL;
        assert!(matches!(world.health.remind(5, later), Some(Change::Down { .. })));
        assert_eq!(world.health.remind(5, later), None);
        assert_eq!(world.health.alive(5, later), Some(Change::Up { after: TELL }));
    }
}
