//! When repair does what: one healer for each volume that is led.
//!
//! A census is taken at the start, whenever the slots stand otherwise than before (one is away, is back, has been away
//! for too long, is being rebuilt), when there was more to mend than could be remembered, after what failed, and every
//! so often anyway. What it finds, and what puts and gets notice, is mended meanwhile.
//!
//! One task decides; censuses and mends are tasks of their own that it waits for.

use std::sync::Arc;
use std::time::Duration;

use futures::future::{join, join_all};
use parking_lot::Mutex;
use proto::guard::{caught_in, keep_going};
use proto::health::Health;
use proto::id::{BlobId, DiskId, VolumeId};
use proto::part_store::{Condition, PartError};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::machines::notices::{Inbox, Why};
use crate::proxy::Proxy;
use crate::proxy::live::LiveProxy;
use crate::repair::census::{Ledger, Missing, Outcome};
use crate::repair::course::{Course, Short};
use crate::repair::gauges;
use crate::repair::layout::Attendance;
use crate::repair::mend::{End, Mended};
use crate::repair::queue::Item;
use crate::repair::report::{Drain, Report, ScrubReport, Stuck};

/// How often it is looked how slots stand.
const LOOK: Duration = Duration::from_millis(250);
/// Lost blobs, and those that cannot be mended, that are told of by name.
const TOLD: usize = 16;

/// What differs between one volume's repair and another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealSettings {
    /// A disk that is away for longer is done without: its parts are made anew on others.
    pub grace: Duration,
    /// Bytes of parts put per second, at most, while nobody else wants anything of the disks.
    pub rate: u64,
    /// A census is taken this often, whatever happens.
    pub every: Duration,
}

impl Default for HealSettings {
    fn default() -> Self {
        let hour = Duration::from_secs(3600);
        Self { grace: hour, rate: 512 << 20, every: 24 * hour }
    }
}

/// Repairs one volume for as long as it is led.
pub struct Healer {
    /// Who does it with the slots that the group has now. With others it is begun anew, by a census.
    now: Arc<Mutex<Arc<Inner>>>,
    /// Disks that were empty when somebody asked them last.
    emptied: Arc<Mutex<Vec<DiskId>>>,
    stop: CancellationToken,
    running: Mutex<Option<tokio::task::JoinHandle<()>>>,
    census_ended: watch::Receiver<u64>,
}

impl Healer {
    /// Begins. Must be called within a tokio runtime, by who leads the volume.
    pub fn start(
        proxy: Arc<LiveProxy>,
        volume: VolumeId,
        ledger: Arc<dyn Ledger>,
        settings: HealSettings,
    ) -> Arc<Self> {
        let ended = Arc::new(watch::Sender::new(0));
        let census_ended = ended.subscribe();
        let emptied = Arc::<Mutex<Vec<DiskId>>>::default();
        let known = emptied.clone();
        let begin = move |proxy: Arc<Proxy>| {
            let inbox = proxy.notices.listen(volume);
            let HealSettings { grace, rate, .. } = settings;
            let course = Course::new(proxy.slots.len(), grace, rate, Instant::now());
            let (ledger, ended) = (ledger.clone(), ended.clone());
            ended.send_replace(0);
            let course = Mutex::new(course);
            let inner = Inner { proxy, volume, ledger, settings, inbox, ended, course };
            inner.were_empty(&known.lock());
            Arc::new(inner)
        };
        let now = Arc::new(Mutex::new(begin(proxy.current())));
        let (healing, stop) = (now.clone(), CancellationToken::new());
        let stopped = stop.clone();
        let running = tokio::spawn(async move {
            loop {
                let inner = healing.lock().clone();
                let next = tokio::select! {
                    () = stopped.cancelled() => None,
                    () = keep_going("repair", || inner.clone().run()) => None,
                    next = another(&proxy, &inner.proxy) => next,
                };
                inner.proxy.notices.deafen(volume);
                let Some(next) = next else { return };
                *healing.lock() = begin(next);
            }
        });
        Arc::new(Self { now, emptied, stop, running: Mutex::new(Some(running)), census_ended })
    }

    /// These disks were empty when somebody asked them last: one that is to be emptied and has gone since is not
    /// missed.
    pub fn remember_empty(&self, disks: Vec<DiskId>) {
        self.emptied.lock().clone_from(&disks);
        let inner = self.now.lock().clone();
        inner.were_empty(&disks);
    }

    /// How it is with the slots of this proxy, as far as is known. `None`: it does not repair with those yet.
    pub fn glance_over(&self, proxy: &Arc<Proxy>) -> Option<Report> {
        let inner = self.now.lock().clone();
        Arc::ptr_eq(&inner.proxy, proxy).then(|| inner.report())
    }

    /// How it is. Waits for the first census, no longer than `patience`.
    pub async fn report(&self, patience: Duration) -> Report {
        let mut ended = self.census_ended.clone();
        // Then nobody has counted yet, which is what is told.
        let _ = tokio::time::timeout(patience, ended.wait_for(|n| *n > 0)).await;
        self.glance()
    }

    /// How it is, as far as is known.
    pub fn glance(&self) -> Report {
        let inner = self.now.lock().clone();
        inner.report()
    }

    /// Bytes of parts that it puts per second, at most.
    pub fn rate(&self) -> u64 {
        self.now.lock().settings.rate
    }

    /// Blobs that are lost: the first of them.
    pub fn lost(&self) -> Vec<BlobId> {
        let inner = self.now.lock().clone();
        let course = inner.course.lock();
        course.lost.keys().copied().collect()
    }

    /// Brings the gauges of monitoring up to date.
    pub fn observe(&self) {
        let inner = self.now.lock().clone();
        gauges::set(inner.volume, &inner.report());
        gauges::set_slots(inner.volume, &inner.proxy);
    }

    /// Has all disks of the group that are there read and verify everything, now: how many have begun.
    ///
    /// # Errors
    /// What the first of them said, when none has.
    pub async fn scrub(&self) -> Result<usize, PartError> {
        let inner = self.now.lock().clone();
        let asked = join_all(inner.proxy.slots.iter().map(|slot| slot.scrub())).await;
        // So that whoever looks from now on whether they are through is not told of the time before.
        let attendance = inner.course.lock().presence.attendance();
        if let Done::Asked { said } = inner.clone().ask_how_slots_are(attendance).await {
            inner.course.lock().heard(said, Instant::now());
        }
        let begun = asked.iter().filter(|asked| asked.is_ok()).count();
        match asked.into_iter().find_map(Result::err) {
            Some(why) if begun == 0 => Err(why),
            _ => Ok(begun),
        }
    }

    /// Mends nothing any more when this returns.
    pub async fn stop(&self) {
        self.stop.cancel();
        let running = self.running.lock().take();
        if let Some(running) = running {
            running.await.unwrap_or_else(|e| tracing::error!("repair: {e}"));
        }
    }
}

/// The proxy that takes the place of this one.
async fn another(live: &LiveProxy, this: &Arc<Proxy>) -> Option<Arc<Proxy>> {
    let mut changes = live.changes();
    let other = changes.wait_for(|now| !Arc::ptr_eq(now, this)).await;
    other.ok().map(|other| other.clone())
}

impl Drop for Healer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

struct Inner {
    proxy: Arc<Proxy>,
    volume: VolumeId,
    ledger: Arc<dyn Ledger>,
    settings: HealSettings,
    inbox: Arc<Inbox>,
    /// Counts the censuses that have ended.
    ended: Arc<watch::Sender<u64>>,
    course: Mutex<Course>,
}

/// What the tasks of a healer come back with.
enum Done {
    Counted { outcome: Outcome, began: Instant },
    Mended { blob: BlobId, item: Item, mended: Mended, wanted: Option<bool> },
    Asked { said: Vec<Option<Condition>> },
    Panicked,
}

/// Why parts that belong on a slot are nowhere, and what is to be done.
fn no_room_for(Missing { parts, bytes }: Missing, rebuilding: bool) -> String {
    let stays = if rebuilding { ", and it stays one that is being filled again" } else { "" };
    format!(
        "there is no room for {parts} parts that belong there, nor a place for them elsewhere: {} MiB are missing\
         {stays}; put a larger disk in its place (storaged disk replace), add disks to the cluster file, or delete \
         files",
        bytes.div_ceil(1 << 20)
    )
}

impl Inner {
    async fn run(self: Arc<Self>) {
        let mut tasks: JoinSet<Done> = JoinSet::new();
        let mut tick = tokio::time::interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        {
            // What was under way when this panicked, if it did, is not.
            let mut course = self.course.lock();
            course.break_off();
            (course.due, course.ask_at) = (Instant::now(), Some(Instant::now()));
        }
        self.look();
        while !self.course.lock().fenced {
            let next = self.begin_what_is_due(&mut tasks);
            tokio::select! {
                Some(done) = tasks.join_next() => self.take(done.unwrap_or(Done::Panicked)).await,
                () = self.inbox.wake.notified() => self.read_inbox(),
                _ = tick.tick() => self.look(),
                () = tokio::time::sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
            }
        }
    }

    fn were_empty(&self, disks: &[DiskId]) {
        let mut course = self.course.lock();
        for (number, slot) in self.proxy.slots.iter().enumerate() {
            if slot.drains && disks.contains(&slot.disk) {
                course.conditions.was_empty(number);
            }
        }
    }

    /// How the slots stand now.
    fn look(&self) {
        let seen = self.proxy.seen();
        let mut course = self.course.lock();
        let now = Instant::now();
        course.look(seen, now);
        course.is_done(now);
        course.refresh(|then| self.proxy.traffic.any_since(then), now);
    }

    fn read_inbox(&self) {
        let (blobs, overflowed) = self.inbox.take();
        let mut course = self.course.lock();
        for (blob, why) in blobs {
            course.queue.push(blob, Item::noticed(why == Why::Damaged));
        }
        if overflowed {
            course.due = Instant::now();
        }
    }

    /// Begins a census and mends, as many as may be; answers when there will be more to begin.
    fn begin_what_is_due(self: &Arc<Self>, tasks: &mut JoinSet<Done>) -> Option<Instant> {
        let now = Instant::now();
        let busy = self.proxy.traffic.is_busy(now);
        let mut course = self.course.lock();
        if !course.tally.is_counting() && course.is_due(now) && course.not_before <= now {
            let (census, attendance) = course.begin_census(now, self.settings.every);
            tasks.spawn(self.clone().count(census, attendance, now));
        }
        if course.ask_at.is_some_and(|at| at <= now) {
            course.ask_at = None;
            tasks.spawn(self.clone().ask_how_slots_are(course.presence.attendance()));
        }
        let attendance = course.presence.attendance();
        let put_off = course.queue.call_back(now);
        loop {
            match course.pace.may_begin(course.mending.len(), busy, now) {
                Ok(true) => {}
                Ok(false) => return None,
                Err(next) => return (course.queue.len() > 0).then_some(next),
            }
            let Some((blob, item)) = course.queue.pop() else {
                if course.mending.is_empty() {
                    course.pace.rest();
                }
                return put_off;
            };
            course.begin_mend(blob, item, busy, now);
            tasks.spawn(self.clone().mend(blob, item, attendance));
        }
    }

    /// What slots say of themselves: nothing, those that are away.
    async fn ask_how_slots_are(self: Arc<Self>, attendance: Attendance) -> Done {
        let this = &self;
        let asking = this.proxy.slots.iter().enumerate().map(|(number, slot)| async move {
            match attendance.up.contains(number) {
                true => slot.condition(this.volume).await.ok(),
                false => None,
            }
        });
        Done::Asked { said: join_all(asking).await }
    }

    async fn count(self: Arc<Self>, census: u64, attendance: Attendance, began: Instant) -> Done {
        let find = |blob, finding| self.course.lock().found(census, blob, finding);
        // One that has come back takes nothing any more from whoever had the volume before.
        let promising = self.proxy.promise_again(self.volume, attendance.writable);
        let counting = self.proxy.census(self.volume, attendance, &self.ledger, find);
        match caught_in("a census", join(promising, counting)).await {
            Ok((promised, outcome)) => {
                if let Err(why) = promised {
                    tracing::debug!("not all promise volume {} again: {why}", self.volume);
                }
                Done::Counted { outcome, began }
            }
            Err(_) => Done::Panicked,
        }
    }

    async fn mend(self: Arc<Self>, blob: BlobId, item: Item, attendance: Attendance) -> Done {
        let began = Instant::now();
        let mending = async {
            let mended = self.proxy.mend(blob, attendance, item.verify).await;
            let End::Short { .. } = mended.end else { return (mended, None) };
            let wanted = self.ledger.wants(blob).await;
            if wanted != Some(true) {
                return (mended, wanted);
            }
            // It may have been put since it was looked for, but for what was wanted before: now it is there, or lost.
            (self.proxy.mend(blob, attendance, item.verify).await, wanted)
        };
        let (mended, wanted) = match caught_in("mending a blob", mending).await {
            Ok(mended) => mended,
            Err(why) => (End::Failed(why.to_string()).into(), None),
        };
        let (took, Mended { end, bytes, .. }) = (began.elapsed(), &mended);
        tracing::debug!(%blob, census = item.census, bytes, ?took, ?end, "a blob was to be mended");
        Done::Mended { blob, item, mended, wanted }
    }

    /// A task has ended.
    async fn take(&self, done: Done) {
        let now = Instant::now();
        match done {
            Done::Counted { outcome, began } => {
                let mut course = self.course.lock();
                let (blobs, mends, whole) = (outcome.counts.blobs(), outcome.mends, outcome.whole);
                course.end_census(outcome, began, now);
                let took = now - began;
                tracing::info!(
                    blobs,
                    mends,
                    whole,
                    ?took,
                    "counted the blobs of volume {}",
                    self.volume
                );
                drop(course);
                self.ended.send_modify(|ended| *ended += 1);
            }
            Done::Mended { blob, item, mended, wanted } => {
                let best = self.proxy.case(&blob, Attendance::default()).best();
                let mut course = self.course.lock();
                course.mended(blob, item, &mended, best, now);
                if let End::Short { gap } = mended.end {
                    course.short(Short { blob, item, gap, wanted }, best, now);
                }
            }
            Done::Asked { said } => return self.course.lock().heard(said, now),
            Done::Panicked => {
                let mut course = self.course.lock();
                course.tally.break_off();
                course.ask_at.get_or_insert(now);
                course.try_again(now);
            }
        }
        self.declare_rebuilt().await;
    }

    /// Once nothing is left of what a census without a gap found, slots that were being rebuilt are whole.
    async fn declare_rebuilt(&self) {
        let declares = self.course.lock().declares(Instant::now());
        let slots = declares.unwrap_or_else(|slots| slots);
        if slots.is_empty() {
            return;
        }
        let told = match declares {
            Ok(_) => self.proxy.all_rebuilt(self.volume, slots).await.map_err(|e| e.to_string()),
            Err(_) => Err("not all of it could be mended, or has a place".to_owned()),
        };
        let mut course = self.course.lock();
        match told {
            Ok(()) => {
                let left = course.presence.rebuilding().minus(slots);
                course.presence.rebuilds(left);
                tracing::info!(?slots, "volume {} is whole on disks that were filled", self.volume);
            }
            Err(why) => {
                tracing::info!(?slots, why, "volume {} is not whole there yet", self.volume);
                course.try_again(Instant::now());
            }
        }
    }

    /// What there is no use in doing yet.
    fn waiting(&self, course: &Course, now: Instant) -> Vec<Stuck> {
        let drains = |(slot, _): &(usize, Duration)| self.proxy.slots[*slot].drains;
        let slot = |(slot, left): (usize, Duration)| Stuck {
            what: format!("disk {slot} at {}", self.proxy.slots[slot].place),
            why: match left.as_secs() {
                0 => {
                    "it does not answer; its parts are made anew where there is a place".to_owned()
                }
                left => format!("it does not answer; in {left} s its parts are made anew"),
            },
        };
        let mut waiting: Vec<Stuck> =
            course.presence.awaited(now).filter(|away| !drains(away)).map(slot).collect();
        let missing = course.tally.missing();
        waiting.extend(missing.map(|(slot, missing)| Stuck {
            what: format!("disk {slot} at {}", self.proxy.slots[slot].place),
            why: no_room_for(missing, course.presence.rebuilding().contains(slot)),
        }));
        let missing: u64 = course.tally.missing().map(|(_, missing)| missing.parts).sum();
        let placeless = course.tally.placeless().saturating_sub(missing);
        if placeless > 0 {
            let what = format!("{placeless} parts");
            let why = "there is no disk that would make their blobs safer".to_owned();
            waiting.push(Stuck { what, why });
        }
        let staying = course.tally.staying();
        if staying > 0 {
            let what = format!("{staying} parts");
            let why = "they stay on disks that are to be emptied or take nothing: there is no room for them on a disk \
                       that has none of their blobs";
            waiting.push(Stuck { what, why: why.to_owned() });
        }
        waiting
    }

    /// How far a disk is that is to be emptied.
    fn drain(&self, course: &Course, slot: usize) -> Drain {
        let client = &self.proxy.slots[slot];
        Drain {
            disk: slot,
            id: client.disk.to_string(),
            place: client.place.clone(),
            parts: course.conditions.parts(slot),
            bytes: client.known_use(),
            empty: course.conditions.empty().contains(slot),
        }
    }

    fn report(&self) -> Report {
        let now = Instant::now();
        let mut course = self.course.lock();
        let rate = course.pace.measured(now);
        let left = course.tally.left();
        let disks = self.proxy.slots.len();
        let seen = self.proxy.seen();
        // One that was empty is not missed.
        let empty = seen.drains.both(course.conditions.empty());
        let away = seen.down.minus(empty);
        // What has just become of a slot is counted next.
        let changed = course.presence.is_outdated(seen);
        let due = course.is_due(now) || course.is_unsure() || changed;
        let stuck = |(blob, why): (&BlobId, &String)| Stuck {
            what: format!("blob {blob}"),
            why: why.clone(),
        };
        let report = Report {
            health: Health::Unknown,
            line: String::new(),
            disks,
            disks_away: away.len(),
            disks_read_only: self
                .proxy
                .slots_that(|slot| slot.takes_no_writes() && !slot.is_down())
                .len(),
            disks_rebuilding: course.presence.rebuilding().len(),
            room_missing: course.tally.missing().map(|(_, missing)| missing.bytes).sum(),
            drains: seen.drains.iter().map(|slot| self.drain(&course, slot)).collect(),
            damaged_blobs: course.conditions.damaged_blobs() as u64,
            scrub: ScrubReport::of(course.conditions.scrubs()),
            counts: course.tally.counts.clone(),
            census_age: course.tally.counted_at().map(|at| (now - at).as_secs()),
            censuses: *self.ended.borrow(),
            counting: course.tally.is_counting() || due,
            queue: (course.queue.len() + course.mending.len()) as u64,
            bytes_left: left,
            rate,
            seconds_left: (left > 0 && rate > 0).then(|| left.div_ceil(rate)),
            mended_blobs: course.mended_blobs,
            mended_bytes: course.mended_bytes,
            lost: course.lost.keys().take(TOLD).map(BlobId::to_string).collect(),
            stuck_blobs: course.stuck() as u64,
            stuck: course.reasons.iter().take(TOLD).map(stuck).collect(),
            waiting: self.waiting(&course, now),
        };
        drop(course);
        report.conclude()
    }
}
