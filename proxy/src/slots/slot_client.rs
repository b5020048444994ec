//! One slot as the proxy knows it: is it up, how fast does it answer, how full is it, and how many
//! bytes are on their way to and from it.
//!
//! A slot that is *down* fails requests at once, without waiting, while [`SlotClient::watch`] asks it
//! again and again until it answers as the right disk, of the right cluster, group and generation. A
//! request that cannot do without it asks [`Ask::Anyway`], and an answer ends its being down as the
//! watcher's would. When it is down is decided by [`crate::slots::health`], for all slots of the group together;
//! one whose writes fail is still read.

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use proto::awake::{self, Awake};
use proto::checksum::Checked;
use proto::id::{BlobId, DiskId, PartKey, VolumeId};
use proto::limits::footprint;
use proto::part_store::{
    Beat, Condition, Fill, HANGS, Held, Issuer, LastBeat, Page, PartError, PartStore, Scope,
    Standing,
};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{Instant, timeout};

use crate::machines::driver::SLOT_TIMEOUT;
use crate::slots::health::{Change, Health, Kind};

/// How often a slot that is up is asked how full it is.
const POLL: Duration = Duration::from_secs(1);
/// Who has said that its disk is full is spared by repair for so long, whatever it says of its room: it makes some.
const FULL: Duration = Duration::from_secs(5);
/// However often there is reason to ask, a slot is left in peace for so long.
const REST: Duration = Duration::from_millis(20);
/// First and longest pause between two attempts to reach a slot that does not answer.
const RETRY: Range<Duration> = Duration::from_millis(50)..Duration::from_secs(1);
/// How long one attempt may take while the slot is down, and how long while it may just be slow.
const SIGN_OF_LIFE: Duration = Duration::from_secs(2);
const LONGEST_SIGN: Duration = Duration::from_secs(6);

/// No write is called slow before this: a sync on a busy disk may take as long.
const WRITE_FLOOR: Duration = Duration::from_millis(500);
/// No read is called slow before this.
const READ_FLOOR: Duration = Duration::from_millis(10);
/// However slow a slot usually is, waiting longer than this for a write is worth a handoff.
const WRITE_CAP: Duration = Duration::from_millis(1200);
/// However slow a slot usually is, waiting longer than this for a read is worth asking others.
const READ_CAP: Duration = Duration::from_millis(500);
/// What large requests are allowed on top, in bytes per second.
const SLOWEST_TRANSFER: u64 = 64 << 20;

/// How long answers take: a smoothed mean and deviation, as TCP keeps them.
///
/// Both are microseconds in one word (mean above, deviation below), so that readers see a pair that
/// belongs together.
#[derive(Debug, Default)]
struct Latency(AtomicU64);

impl Latency {
    fn record(&self, sample: Duration) {
        let sample = sample.as_micros().min(u128::from(u32::MAX)) as u64;
        let update = |word: u64| {
            let (mean, deviation) = (word >> 32, word & u64::from(u32::MAX));
            if word == 0 {
                return Some((sample << 32) | (sample / 2));
            }
            let deviation = (deviation * 3 + mean.abs_diff(sample)) / 4;
            Some((((mean * 7 + sample) / 8) << 32) | deviation)
        };
        // A lost race costs one sample.
        let word = self.0.load(Ordering::Relaxed);
        if let Some(new) = update(word) {
            let _ = self.0.compare_exchange(word, new, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// What all but a few answers stay within.
    fn usual(&self) -> Duration {
        let word = self.0.load(Ordering::Relaxed);
        Duration::from_micros((word >> 32) + 4 * (word & u64::from(u32::MAX)))
    }
}

/// Time that the bytes alone may take.
fn transfer(len: usize) -> Duration {
    Duration::from_micros(len as u64 * 1_000_000 / SLOWEST_TRANSFER)
}

/// What the watcher last heard.
#[derive(Clone, Debug, Default)]
struct Heard {
    /// Its last answer; `None`: it was never asked to the end.
    answer: Option<Result<(), PartError>>,
    /// How full it was when it last told.
    fill: Option<Fill>,
}

/// Is a slot asked that is known to be down?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// No: it fails at once.
    IfUp,
    /// Yes: nothing else is left, and it may be back since the watcher asked.
    Anyway,
}

/// One slot of the group.
pub struct SlotConfig {
    /// The disk it is on.
    pub disk: DiskId,
    /// The disk by which parts are placed on it, which is another one's when it is in that one's place.
    pub stands_for: DiskId,
    /// Address or path, for people.
    pub place: String,
    /// Its host: what fails together.
    pub domain: String,
    /// Its rack; empty where it has none.
    pub rack: String,
    /// It is to be emptied: it gets parts only where others are not enough.
    pub drains: bool,
    /// How it is reached.
    pub store: Arc<dyn PartStore>,
}

/// One slot.
pub(crate) struct SlotClient {
    pub(crate) disk: DiskId,
    pub(crate) place: String,
    pub(crate) domain: String,
    pub(crate) rack: String,
    /// It is to be emptied.
    pub(crate) drains: bool,
    store: Arc<dyn PartStore>,
    /// Of the whole group, in which this slot has `index`.
    health: Arc<Mutex<Health>>,
    /// By which it is judged.
    clock: Arc<Awake>,
    /// The newest generation that a slot of the group has refused a request for.
    newer: Arc<AtomicU64>,
    index: usize,
    /// Most bytes in flight each way.
    in_flight: u32,
    to_slot: Semaphore,
    from_slot: Semaphore,
    reads: Latency,
    writes: Latency,
    /// What `health` says, to be read without a lock.
    is_down: AtomicBool,
    is_read_only: AtomicBool,
    /// How often either has changed.
    changes: AtomicU64,
    heard: watch::Sender<Heard>,
    /// Bytes of parts stored that the last fill may not know of.
    stored_since: AtomicU64,
    /// When it has refused a part last because its disk was full.
    full_at: Mutex<Option<Instant>>,
    /// It is time for the watcher to ask.
    kick: Notify,
}

impl SlotClient {
    pub(crate) fn new(
        SlotConfig { disk, place, domain, rack, drains, store, .. }: SlotConfig,
        (health, clock, newer): (Arc<Mutex<Health>>, Arc<Awake>, Arc<AtomicU64>),
        index: usize,
        in_flight: u32,
    ) -> Self {
        Self {
            disk,
            place,
            domain,
            rack,
            drains,
            store,
            health,
            clock,
            newer,
            index,
            in_flight,
            to_slot: Semaphore::new(in_flight as usize),
            from_slot: Semaphore::new(in_flight as usize),
            reads: Latency::default(),
            writes: Latency::default(),
            is_down: AtomicBool::new(false),
            is_read_only: AtomicBool::new(false),
            changes: AtomicU64::new(0),
            heard: watch::Sender::new(Heard::default()),
            stored_since: AtomicU64::new(0),
            full_at: Mutex::default(),
            kick: Notify::new(),
        }
    }

    /// Is it known to be out of reach?
    pub(crate) fn is_down(&self) -> bool {
        self.is_down.load(Ordering::Relaxed)
    }

    /// Is there no use in writing to it?
    pub(crate) fn takes_no_writes(&self) -> bool {
        self.is_down() || self.is_read_only.load(Ordering::Relaxed)
    }

    /// How often it has come to be down or to take no writes, or ceased to: an outage shows in it however short it was.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// `up`, which means that it answers as what it should be; or what is wrong.
    pub(crate) fn state(&self) -> String {
        let health = self.health.lock();
        if let Some(why) = health.trouble(self.index) {
            return why.to_owned();
        }
        if let Some(silence) = health.is_silent(self.index, self.clock.now()) {
            return format!("slow: no sign of life for {} s", silence.as_secs());
        }
        let heard = self.heard.borrow();
        match &heard.answer {
            Some(Err(PartError::Unreachable(why))) => why.clone(),
            Some(_) => "up".to_owned(),
            None => "not heard from yet".to_owned(),
        }
    }

    /// Waits, no longer than `bound`, until it was asked once; then its last answer.
    pub(crate) async fn answer(&self, bound: Duration) -> Option<Result<(), PartError>> {
        let mut heard = self.heard.subscribe();
        let answer = timeout(bound, heard.wait_for(|heard| heard.answer.is_some())).await;
        answer.ok()?.ok()?.answer.clone()
    }

    /// How full it is: what it last said, and what was stored since. Waits, bounded, if it was
    /// never asked.
    pub(crate) async fn fill(&self) -> Option<Fill> {
        self.answer(POLL).await;
        let mut fill = self.heard.borrow().fill?;
        let since = self.stored_since.load(Ordering::Relaxed);
        fill.used += since;
        let beyond = since.saturating_sub(fill.available);
        fill.available = fill.available.saturating_sub(since);
        fill.spare = fill.spare.saturating_sub(beyond);
        Some(fill)
    }

    /// May repair give it so many bytes of parts? Not while it has said a moment ago that its disk is full: users' puts ask
    /// it then all the same, as parts that went elsewhere would take room there that others were promised.
    pub(crate) fn has_room_for_repair(&self, bytes: u64) -> bool {
        let was_full = self.full_at.lock().is_some_and(|at| self.clock.now() < at + FULL);
        !was_full && self.known_room() >= bytes
    }

    /// Bytes of parts that it may still take, less those on their way to it; all there can be, if it was never asked.
    pub(crate) fn known_room(&self) -> u64 {
        let Some(fill) = self.heard.borrow().fill else { return u64::MAX };
        let sending = self.in_flight as usize - self.to_slot.available_permits();
        let taken = self.stored_since.load(Ordering::Relaxed) + sending as u64;
        fill.available.saturating_sub(taken)
    }

    /// Bytes that its disk used when it told last.
    pub(crate) fn known_use(&self) -> u64 {
        self.heard.borrow().fill.map_or(0, |fill| fill.used)
    }

    /// Has it asked soon how full it is: what is known has just become wrong.
    pub(crate) fn refresh_fill(&self) {
        self.kick.notify_one();
    }

    /// When a write of so many bytes becomes slow.
    pub(crate) fn write_patience(&self, len: usize) -> Duration {
        self.writes.usual().clamp(WRITE_FLOOR, WRITE_CAP) + transfer(len)
    }

    /// When a read of so many bytes becomes slow.
    pub(crate) fn read_patience(&self, len: usize) -> Duration {
        self.reads.usual().clamp(READ_FLOOR, READ_CAP) + transfer(len)
    }

    /// Stores one part.
    pub(crate) async fn put(
        &self,
        ask: Ask,
        key: PartKey,
        data: Checked,
        issuer: Option<Issuer>,
    ) -> Result<(), PartError> {
        let len = data.data().len();
        let record = footprint(len as u32);
        let bytes = Some((&self.to_slot, len));
        let result = self.call(ask, bytes, Kind::Write, self.store.put(key, data, issuer)).await;
        match &result {
            Ok(()) => drop(self.stored_since.fetch_add(record, Ordering::Relaxed)),
            Err(PartError::Full) => {
                *self.full_at.lock() = Some(self.clock.now());
                self.refresh_fill();
            }
            Err(_) => {}
        }
        result
    }

    /// Reads a range of one part.
    pub(crate) async fn get(
        &self,
        ask: Ask,
        key: PartKey,
        range: Range<u32>,
    ) -> Result<Bytes, PartError> {
        let len = range.len();
        let room = Some((&self.from_slot, len));
        let bytes = self.call(ask, room, Kind::Read, self.store.get(key, range)).await?;
        if bytes.len() == len {
            return Ok(bytes);
        }
        Err(PartError::Corrupt(format!("{} bytes came instead of {len}", bytes.len())))
    }

    /// What it holds of the blob.
    pub(crate) async fn held(&self, ask: Ask, blob: BlobId) -> Result<Held, PartError> {
        self.within(self.call(ask, None, Kind::Read, self.store.held(blob))).await
    }

    /// How it stands to its group; `None`: nothing was ever asked of it.
    pub(crate) async fn standing(&self) -> Result<Option<Standing>, PartError> {
        match self.answer(Duration::ZERO).await {
            Some(Ok(())) if !self.is_down() => self.within(self.store.standing()).await,
            _ => Err(PartError::Unreachable(self.state())),
        }
    }

    /// Says that it holds all it should of every volume.
    pub(crate) async fn serve(&self) -> Result<(), PartError> {
        self.within(self.call(Ask::IfUp, None, Kind::Write, self.store.serve())).await
    }

    /// Deletes blobs.
    pub(crate) async fn delete(
        &self,
        blobs: &[BlobId],
        issuer: Option<Issuer>,
    ) -> Result<(), PartError> {
        self.within(self.call(Ask::IfUp, None, Kind::Write, self.store.delete(blobs, issuer))).await
    }

    /// Forgets deleted blobs.
    pub(crate) async fn forget(
        &self,
        blobs: &[BlobId],
        issuer: Option<Issuer>,
    ) -> Result<(), PartError> {
        self.within(self.call(Ask::IfUp, None, Kind::Write, self.store.forget(blobs, issuer))).await
    }

    /// Takes one part away.
    pub(crate) async fn drop_part(
        &self,
        key: PartKey,
        issuer: Option<Issuer>,
    ) -> Result<(), PartError> {
        self.within(self.call(Ask::IfUp, None, Kind::Write, self.store.drop_part(key, issuer)))
            .await
    }

    /// Declares that it has all of a volume that it should.
    pub(crate) async fn rebuilt(
        &self,
        volume: VolumeId,
        issuer: Option<Issuer>,
    ) -> Result<(), PartError> {
        self.within(self.call(Ask::IfUp, None, Kind::Write, self.store.rebuilt(volume, issuer)))
            .await
    }

    /// Promises a volume. Asked whether it is up or not.
    pub(crate) async fn fence(&self, volume: VolumeId, issuer: Issuer) -> Result<(), PartError> {
        let fence = self.store.fence(volume, issuer.epoch, issuer.owner);
        self.within(self.call(Ask::Anyway, None, Kind::Write, fence)).await
    }

    /// What it has promised. Asked whether it is up or not.
    pub(crate) async fn promised(&self, volume: VolumeId) -> Result<Option<Issuer>, PartError> {
        let promised = self.store.promised(volume);
        self.within(self.call(Ask::Anyway, None, Kind::Read, promised)).await
    }

    /// Says how whoever has a volume is. Tells nothing of the slot: nothing is waited for by it.
    pub(crate) async fn beat(
        &self,
        volume: VolumeId,
        issuer: Issuer,
        beat: Beat,
    ) -> Result<(), PartError> {
        if self.is_down() {
            return Err(PartError::Unreachable(self.state()));
        }
        self.within(self.store.beat(volume, issuer, beat)).await
    }

    /// What it has heard last of whoever has a volume. Asked whether it is up or not; what comes of it tells as little
    /// of the slot.
    pub(crate) async fn last_beat(&self, volume: VolumeId) -> Result<Option<LastBeat>, PartError> {
        self.within(self.store.last_beat(volume)).await
    }

    /// How what it holds of a volume is. Tells nothing of the slot, and waits for nothing that the disk does.
    pub(crate) async fn condition(&self, volume: VolumeId) -> Result<Condition, PartError> {
        if self.is_down() {
            return Err(PartError::Unreachable(self.state()));
        }
        self.within(self.store.condition(volume)).await
    }

    /// Has its disk read and verify everything.
    pub(crate) async fn scrub(&self) -> Result<(), PartError> {
        if self.is_down() {
            return Err(PartError::Unreachable(self.state()));
        }
        self.within(self.store.scrub()).await
    }

    /// One page of a listing, in order and going on.
    pub(crate) async fn list(
        &self,
        ask: Ask,
        scope: Scope,
        after: Option<BlobId>,
        limit: u32,
    ) -> Result<Page, PartError> {
        let page = self.store.list(scope, after, limit);
        let page = self.within(self.call(ask, None, Kind::Read, page)).await?;
        let blobs = || page.entries.iter().map(|(blob, _)| *blob);
        let in_order = after.into_iter().chain(blobs()).is_sorted_by(|a, b| a < b);
        if !in_order || page.entries.is_empty() && !page.complete {
            return Err(PartError::Corrupt("its listing is out of order".to_owned()));
        }
        Ok(page)
    }

    /// Bounds the wait, for calls that no driver watches.
    async fn within<T>(
        &self,
        call: impl Future<Output = Result<T, PartError>>,
    ) -> Result<T, PartError> {
        awake::timeout(SLOT_TIMEOUT, call).await.unwrap_or_else(|_| {
            Err(PartError::Unreachable(format!("no answer within {SLOT_TIMEOUT:?}")))
        })
    }

    async fn call<T>(
        &self,
        ask: Ask,
        bytes: Option<(&Semaphore, usize)>,
        kind: Kind,
        call: impl Future<Output = Result<T, PartError>>,
    ) -> Result<T, PartError> {
        if ask == Ask::IfUp && self.is_down() {
            return Err(PartError::Unreachable(self.state()));
        }
        let mut _room = None;
        if let Some((semaphore, len)) = bytes {
            let len = u32::try_from(len).unwrap_or(u32::MAX).min(self.in_flight);
            let room = semaphore.acquire_many(len).await;
            _room = Some(room.expect("the semaphore is never closed"));
        }
        let flight = PendingRequest::start(self, kind);
        let result = call.await;
        let took = flight.answered(result.as_ref().err());
        match (&result, kind) {
            (Ok(_), Kind::Read) => self.reads.record(took),
            (Ok(_), Kind::Write) => self.writes.record(took),
            _ => {}
        }
        if result.is_ok() && self.is_down() {
            self.alive();
        }
        result
    }

    /// What an error says of the slot.
    fn blame(&self, health: &mut Health, why: &PartError, kind: Kind) -> Option<Change> {
        let now = self.clock.now();
        match why {
            PartError::Unreachable(why) if why.starts_with(HANGS) => {
                health.hangs(self.index, why, now)
            }
            PartError::Unreachable(why) => health.refused(self.index, why, now),
            PartError::WrongAddress(_) | PartError::StaleGeneration(_) => {
                if let PartError::StaleGeneration(newest) = why {
                    self.newer.fetch_max(newest.0, Ordering::Relaxed);
                }
                health.refused(self.index, &why.to_string(), now)
            }
            // A rotten sector fails one read, and a disk that takes no writes may still be read.
            PartError::Io(why) if kind != Kind::Read => health.stop_writes(self.index, why, now),
            // Whoever answers so when asked how it is, is no slot.
            _ if kind == Kind::Probe => health.refused(self.index, &why.to_string(), now),
            _ => None,
        }
    }

    /// It answers as it should.
    fn alive(&self) {
        self.change(|health| health.alive(self.index, self.clock.now()));
    }

    /// Lets the group's health learn of an event, and tells what that has changed.
    fn change(&self, event: impl FnOnce(&mut Health) -> Option<Change>) {
        let mut health = self.health.lock();
        let change = event(&mut health);
        let (is_down, is_read_only) = (health.is_down(self.index), health.is_read_only(self.index));
        let was_down = self.is_down.swap(is_down, Ordering::Relaxed);
        let was_read_only = self.is_read_only.swap(is_read_only, Ordering::Relaxed);
        if (was_down, was_read_only) != (is_down, is_read_only) {
            self.changes.fetch_add(1, Ordering::Relaxed);
        }
        if !was_down && is_down {
            self.kick.notify_one();
        }
        drop(health);
        let (disk, place) = (self.disk, self.place.as_str());
        match change {
            Some(Change::Down { why, untold: 0 }) => {
                tracing::warn!(%disk, %place, why, "slot is down");
            }
            Some(Change::Down { why, untold }) => {
                tracing::warn!(%disk, %place, why, short_outages_before = untold, "slot is down");
            }
            Some(Change::ReadOnly { why }) => {
                tracing::warn!(%disk, %place, why, "slot takes no writes");
            }
            Some(Change::Up { after }) => {
                tracing::warn!(%disk, %place, "slot is up again after {:.1} s", after.as_secs_f32());
            }
            None => {}
        }
    }

    /// Asks the slot how it is: now and then while it answers, more often while it does not. Ends only
    /// by being dropped.
    pub(crate) async fn watch(self: Arc<Self>) {
        let mut retry = RETRY.start;
        loop {
            let good = self.probe().await;
            if good {
                retry = RETRY.start;
                tokio::time::sleep(REST).await;
                // Either way it is time to ask.
                let _ = timeout(POLL - REST, self.kick.notified()).await;
            } else {
                self.change(|health| health.remind(self.index, self.clock.now()));
                tokio::time::sleep(retry).await;
                retry = (retry * 2).min(RETRY.end);
            }
        }
    }

    /// Asks once; true when it answers as what it should be, and may be used.
    async fn probe(&self) -> bool {
        // What is stored while it answers counts until the next answer, which surely knows of it.
        let known = self.stored_since.load(Ordering::Relaxed);
        let flight = PendingRequest::start(self, Kind::Probe);
        let mut fill = self.store.fill();
        let mut waited = Duration::ZERO;
        let answer = loop {
            if let Ok(answer) = awake::timeout(SIGN_OF_LIFE, &mut fill).await {
                break answer;
            }
            waited += SIGN_OF_LIFE;
            let sent = flight.start;
            self.change(|health| health.judge(self.index, Kind::Probe, sent, self.clock.now()));
            self.heard.send_modify(|heard| {
                let silent = || PartError::Unreachable(format!("no answer within {waited:?}"));
                heard.answer.get_or_insert_with(|| Err(silent()));
            });
            // A late answer is one; but from who is down, a new question is answered sooner.
            if self.is_down() || waited >= LONGEST_SIGN {
                return false;
            }
        };
        flight.answered(answer.as_ref().err());
        let (fill, answer) = match answer {
            Ok(fill) => (Some(fill), Ok(())),
            Err(why) => (None, Err(why)),
        };
        if fill.is_some() {
            self.stored_since.fetch_sub(known, Ordering::Relaxed);
            self.alive();
        }
        let good = answer.is_ok() && !self.is_down();
        self.heard.send_modify(|heard| {
            heard.answer = Some(answer);
            heard.fill = fill.or(heard.fill);
        });
        good
    }
}

/// A request on its way. Dropped before its answer, it tells against the slot.
struct PendingRequest<'a> {
    slot: &'a SlotClient,
    kind: Kind,
    start: Instant,
    answered: bool,
}

impl<'a> PendingRequest<'a> {
    fn start(slot: &'a SlotClient, kind: Kind) -> Self {
        let start = slot.clock.now();
        slot.health.lock().sent(slot.index, kind, start);
        Self { slot, kind, start, answered: false }
    }

    /// It was answered, perhaps with an error; how long that took.
    fn answered(mut self, error: Option<&PartError>) -> Duration {
        self.answered = true;
        let (slot, kind, now) = (self.slot, self.kind, self.slot.clock.now());
        let (start, took) = (self.start, now - self.start);
        let Some(why) = error else {
            slot.health.lock().answered(slot.index, kind, took, now);
            return took;
        };
        slot.change(|health| {
            match why {
                PartError::Unreachable(_) => health.lost(slot.index, kind, start, now),
                _ => health.answered(slot.index, kind, took, now),
            }
            slot.blame(health, why, kind)
        });
        took
    }
}

impl Drop for PendingRequest<'_> {
    fn drop(&mut self) {
        if !self.answered {
            let (slot, kind, sent) = (self.slot, self.kind, self.start);
            slot.change(|health| health.gave_up(slot.index, kind, sent, slot.clock.now()));
        }
    }
}
