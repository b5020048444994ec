//! One slot as the proxy knows it: is it up, how fast does it answer, how full is it, and how many
//! bytes are on their way to and from it.
//!
//! A slot that cannot be reached is *down*: requests fail at once, without waiting, while
//! [`SlotClient::watch`] asks it again and again until it answers. A request that cannot do without
//! it asks [`Ask::Anyway`], and an answer ends its being down as the watcher's would. A slot that answers the watcher
//! but hangs on real requests stays down for a while longer each time; one whose writes fail is
//! still read.

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use proto::checksum::Checked;
use proto::id::{BlobId, DiskId, PartKey, PartSet, SessionId, VolumeId};
use proto::limits::footprint;
use proto::part_store::{Fill, Held, PartError, PartStore};
use tokio::sync::{Notify, Semaphore, SemaphorePermit, watch};
use tokio::time::{Instant, timeout};

use crate::driver::SLOT_TIMEOUT;

/// How often a slot that is up is asked how full it is.
const POLL: Duration = Duration::from_secs(1);
/// However often there is reason to ask, a slot is left in peace for so long.
const REST: Duration = Duration::from_millis(20);
/// First and longest pause between two attempts to reach a slot that is down.
const RETRY: Range<Duration> = Duration::from_millis(50)..Duration::from_secs(1);
/// So many requests in a row that it let hang, and the slot is down.
const STRIKES: u32 = 2;
/// Longest time that a slot stays down although it answers the watcher.
const LONGEST_HOLD: Duration = Duration::from_secs(8);

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

#[derive(Debug, Default)]
struct Health {
    /// Why it is down; `None`: up.
    down: Option<String>,
    /// Why it takes no writes, although it is up.
    read_only: Option<String>,
    /// It stays so until then, even when it answers.
    hold_until: Option<Instant>,
    /// The next hold.
    hold: Duration,
    strikes: u32,
}

impl Health {
    fn hold_longer(&mut self) {
        self.hold = (self.hold * 2).clamp(RETRY.end, LONGEST_HOLD);
        self.hold_until = Some(Instant::now() + self.hold);
    }
}

/// What the watcher last heard.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LastFill {
    /// The slot was asked at least once, with whatever result.
    pub(crate) asked: bool,
    pub(crate) fill: Option<Fill>,
}

/// Is a slot asked that is known to be down?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// No: it fails at once.
    IfUp,
    /// Yes: nothing else is left, and it may be back since the watcher asked.
    Anyway,
}

/// One slot.
pub(crate) struct SlotClient {
    pub(crate) disk: DiskId,
    pub(crate) place: String,
    pub(crate) domain: String,
    store: Arc<dyn PartStore>,
    /// Most bytes in flight each way.
    in_flight: u32,
    to_slot: Semaphore,
    from_slot: Semaphore,
    reads: Latency,
    writes: Latency,
    /// The same as `health.down.is_some()`, to be read without a lock.
    is_down: AtomicBool,
    /// The same as `health.read_only.is_some()`.
    is_read_only: AtomicBool,
    health: Mutex<Health>,
    fill: watch::Sender<LastFill>,
    /// Bytes of parts stored that the last fill may not know of.
    stored_since: AtomicU64,
    /// It is time for the watcher to ask.
    kick: Notify,
}

impl SlotClient {
    pub(crate) fn new(
        disk: DiskId,
        place: String,
        domain: String,
        store: Arc<dyn PartStore>,
        in_flight: u32,
    ) -> Self {
        Self {
            disk,
            place,
            domain,
            store,
            in_flight,
            to_slot: Semaphore::new(in_flight as usize),
            from_slot: Semaphore::new(in_flight as usize),
            reads: Latency::default(),
            writes: Latency::default(),
            is_down: AtomicBool::new(false),
            is_read_only: AtomicBool::new(false),
            health: Mutex::default(),
            fill: watch::Sender::new(LastFill::default()),
            stored_since: AtomicU64::new(0),
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

    /// `up`, or what is wrong.
    pub(crate) fn state(&self) -> String {
        let health = self.health.lock();
        let why = health.down.as_ref().or(health.read_only.as_ref());
        why.cloned().unwrap_or_else(|| "up".to_owned())
    }

    /// How full it is: what it last said, and what was stored since. Waits, bounded, if it was
    /// never asked.
    pub(crate) async fn fill(&self) -> Option<Fill> {
        let mut fill = self.fill.subscribe();
        let heard = timeout(POLL, fill.wait_for(|last| last.asked)).await;
        let mut fill = heard.ok().and_then(Result::ok).and_then(|last| last.fill)?;
        let since = self.stored_since.load(Ordering::Relaxed).min(fill.available);
        fill.used += since;
        fill.available -= since;
        Some(fill)
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
    pub(crate) async fn put(&self, ask: Ask, key: PartKey, data: Checked) -> Result<(), PartError> {
        let len = data.data().len();
        let record = footprint(len as u32);
        let bytes = Some((&self.to_slot, len));
        let result = self.call(ask, bytes, &self.writes, self.store.put(key, data)).await;
        match &result {
            Ok(()) => drop(self.stored_since.fetch_add(record, Ordering::Relaxed)),
            Err(PartError::Full) => self.refresh_fill(),
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
        let bytes = self.call(ask, room, &self.reads, self.store.get(key, range)).await?;
        if bytes.len() == len {
            return Ok(bytes);
        }
        Err(PartError::Corrupt(format!("{} bytes came instead of {len}", bytes.len())))
    }

    /// What it holds of the blob.
    pub(crate) async fn held(&self, ask: Ask, blob: BlobId) -> Result<Held, PartError> {
        self.within(self.call(ask, None, &self.reads, self.store.held(blob))).await
    }

    /// Deletes blobs.
    pub(crate) async fn delete(&self, blobs: &[BlobId]) -> Result<(), PartError> {
        self.within(self.call(Ask::IfUp, None, &self.writes, self.store.delete(blobs))).await
    }

    /// Forgets deleted blobs.
    pub(crate) async fn forget(&self, blobs: &[BlobId]) -> Result<(), PartError> {
        self.within(self.call(Ask::IfUp, None, &self.writes, self.store.forget(blobs))).await
    }

    /// One page of a listing.
    pub(crate) async fn list(
        &self,
        ask: Ask,
        volume: VolumeId,
        session: SessionId,
        after: Option<BlobId>,
        limit: u32,
    ) -> Result<Vec<(BlobId, PartSet)>, PartError> {
        let page = self.store.list(volume, session, after, limit);
        self.within(self.call(ask, None, &self.reads, page)).await
    }

    /// Bounds the wait, for calls that no driver watches.
    async fn within<T>(
        &self,
        call: impl Future<Output = Result<T, PartError>>,
    ) -> Result<T, PartError> {
        timeout(SLOT_TIMEOUT, call).await.unwrap_or_else(|_| {
            Err(PartError::Unreachable(format!("no answer within {SLOT_TIMEOUT:?}")))
        })
    }

    async fn call<T>(
        &self,
        ask: Ask,
        bytes: Option<(&Semaphore, usize)>,
        latency: &Latency,
        call: impl Future<Output = Result<T, PartError>>,
    ) -> Result<T, PartError> {
        if ask == Ask::IfUp && self.is_down() {
            return Err(PartError::Unreachable(self.state()));
        }
        let mut flight = Flight { slot: self, start: Instant::now(), answered: false, _room: None };
        if let Some((semaphore, len)) = bytes {
            let len = u32::try_from(len).unwrap_or(u32::MAX).min(self.in_flight);
            let room = semaphore.acquire_many(len).await;
            flight._room = Some(room.expect("the semaphore is never closed"));
        }
        let result = call.await;
        flight.answered = true;
        self.judge(result.as_ref().err(), latency, flight.start.elapsed());
        result
    }

    /// Learns from an answer.
    fn judge(&self, error: Option<&PartError>, latency: &Latency, took: Duration) {
        match error {
            Some(PartError::Unreachable(why)) => self.down(why, false),
            // A rotten sector fails one read, and a disk that takes no writes may still be read.
            Some(PartError::Io(why)) if std::ptr::eq(latency, &self.writes) => {
                self.stop_writes(why);
            }
            Some(why @ (PartError::WrongAddress(_) | PartError::StaleGeneration(_))) => {
                self.down(&why.to_string(), true);
            }
            Some(_) => {}
            None => {
                latency.record(took);
                let mut health = self.health.lock();
                // Reads prove nothing about writes, which are what hangs or fails first.
                if std::ptr::eq(latency, &self.writes) && health.down.is_none() {
                    health.strikes = 0;
                    health.hold = Duration::ZERO;
                }
                let was_down = health.down.is_some();
                drop(health);
                if was_down {
                    self.up();
                }
            }
        }
    }

    /// Takes the slot out of use: until the watcher reaches it, or (`hold`) for longer each time.
    fn down(&self, why: &str, hold: bool) {
        let mut health = self.health.lock();
        if health.down.is_some() {
            return;
        }
        tracing::warn!(disk = %self.disk, place = %self.place, why, "slot is down");
        if hold {
            health.hold_longer();
        }
        health.down = Some(why.to_owned());
        self.is_down.store(true, Ordering::Relaxed);
        drop(health);
        self.kick.notify_one();
    }

    /// Sends it no writes, for longer each time.
    fn stop_writes(&self, why: &str) {
        let mut health = self.health.lock();
        if health.read_only.is_none() {
            tracing::warn!(disk = %self.disk, place = %self.place, why, "slot takes no writes");
            health.hold_longer();
            health.read_only = Some(why.to_owned());
            self.is_read_only.store(true, Ordering::Relaxed);
        }
    }

    /// Puts it back into use, unless it is on hold.
    fn up(&self) {
        let mut health = self.health.lock();
        let trouble = health.down.is_some() || health.read_only.is_some();
        if !trouble || health.hold_until.is_some_and(|until| Instant::now() < until) {
            return;
        }
        tracing::info!(disk = %self.disk, place = %self.place, "slot is up");
        let hold = health.hold;
        // Back on probation: the next request that hangs is one too many.
        let strikes = if hold.is_zero() { 0 } else { STRIKES - 1 };
        *health = Health { hold, strikes, ..Health::default() };
        self.is_down.store(false, Ordering::Relaxed);
        self.is_read_only.store(false, Ordering::Relaxed);
    }

    /// It let a request hang.
    pub(crate) fn strike(&self) {
        let mut health = self.health.lock();
        health.strikes += 1;
        if health.strikes >= STRIKES {
            drop(health);
            self.down("requests hang", true);
        }
    }

    /// Asks the slot how full it is: now and then while it is up, more often while it is down.
    /// Ends only by being dropped.
    pub(crate) async fn watch(self: Arc<Self>) {
        let mut retry = RETRY.start;
        loop {
            // What is stored while it answers counts until the next answer, which surely knows of it.
            let known = self.stored_since.load(Ordering::Relaxed);
            let answer = timeout(POLL, self.store.fill()).await.unwrap_or_else(|_| {
                Err(PartError::Unreachable(format!("no sign of life within {POLL:?}")))
            });
            match answer {
                Ok(fill) => {
                    self.stored_since.fetch_sub(known, Ordering::Relaxed);
                    self.fill.send_replace(LastFill { asked: true, fill: Some(fill) });
                    self.up();
                }
                Err(why) => {
                    self.fill.send_modify(|last| last.asked = true);
                    self.judge(Some(&why), &self.writes, Duration::ZERO);
                }
            }
            if self.is_down() {
                tokio::time::sleep(retry).await;
                retry = (retry * 2).min(RETRY.end);
            } else {
                retry = RETRY.start;
                tokio::time::sleep(REST).await;
                // Either way it is time to ask.
                let _ = timeout(POLL - REST, self.kick.notified()).await;
            }
        }
    }
}

/// A request on its way. Dropped before its answer, it may tell against the slot.
struct Flight<'a> {
    slot: &'a SlotClient,
    start: Instant,
    answered: bool,
    _room: Option<SemaphorePermit<'a>>,
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        // Merely hedged requests are abandoned sooner.
        if self.start.elapsed() >= SLOT_TIMEOUT {
            self.slot.strike();
        }
    }
}
