//! The engine of a volume: newest changes in memory, a journal in the store, and a snapshot behind it.
//!
//! A transaction ends in memory, in the table `active`, and is visible there; it costs no I/O. What has
//! gathered becomes a *batch*, an entry of the journal under the next LSN: when somebody waits in `sync`,
//! when it is [`Bounds::interval`] old, or when it has grown to [`Bounds::batch_bytes`]. A batch is durable
//! when its entry and all before it are in the store. Durable batches add up in `journaled`; grown to
//! [`Bounds::snapshot_bytes`] they are merged into the snapshot, and the entries they came from are deleted.
//!
//! ```text
//! transact -> active -> waiting (sealed, then in flight) -> journaled -> frozen -> runs of chunks
//!             memory             journal's next entries     journal      being merged, both
//! ```
//!
//! Reads look through all of these, newest first. Here are the tables and the views; the leader
//! ([`crate::journal::leader`]) moves them on.
//!
//! The counters are in memory; a batch says what they were at its end, in one record, however many changes it has.
//!
//! Invariants:
//! * Batches become durable in the order of their LSNs: what is durable is a prefix of what was committed.
//! * A table leaves memory only once what it became is in the store: at every moment a reader sees each
//!   write, and [`Kv::read_durable`] sees exactly what a take-over would find.
//! * After a fence nothing is durable any more, and every change and every sync fails with that reason.
//! * Memory is bounded: with [`BATCHES_MOST`] batches waiting, transactions wait.

use std::collections::VecDeque;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use metrics::{Counter, counter};
use parking_lot::{Mutex, RwLock, RwLockUpgradableReadGuard};
use proto::guard;
use tokio::sync::{Notify, oneshot};

use crate::clock::wall_clock;
use crate::engine::{
    Batch, Change, Direction, Kv, Over, Read, Scanned, Value, View, Visit, Write, recorded,
};
use crate::key::Key;
use crate::key::counters::{self, Counters};
use crate::metrics::SYNCS;
use crate::missing::Missing;
use crate::store::{JournalStatus, MetaError};
use crate::table::cache::Cache;
use crate::table::run::{Run, WantedBlock};
use crate::table::view::Snapshot;
use crate::volume_store::StoreError;

/// So many batches may wait for the store before transactions wait for them.
const BATCHES_MOST: usize = 16;
/// Room in the store that is kept for changes that give room back, such as names that go, beside what the
/// next snapshot may take.
const SHRINK_BYTES: u64 = 4 << 20;
/// Longest that a transaction waits for room.
const ROOM_WAIT: Duration = Duration::from_secs(30);
/// What an entry of a table takes besides its value, in bytes, about.
const ENTRY_BYTES: usize = 80;

/// Bounds of the engine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Longest time that a change waits in memory before its batch is on its way.
    pub(crate) interval: Duration,
    /// A batch that has grown to this is sealed, in bytes.
    pub(crate) batch_bytes: usize,
    /// An entry that has grown to this is not made longer, in bytes: with the change that makes it grow beyond,
    /// it fits into a blob by far.
    pub(crate) entry_bytes: usize,
    /// Journaled changes that have grown to this are merged into the snapshot, in bytes.
    pub(crate) snapshot_bytes: usize,
    /// As many entries of the journal are merged too: each is a read when a volume is opened.
    pub(crate) snapshot_entries: usize,
}

/// The engine.
pub(crate) struct JournaledKv {
    pub(crate) tables: Arc<Tables>,
}

impl JournaledKv {
    /// Over tables that were just read, and whose counters, if they have any, are known from now on.
    ///
    /// # Errors
    /// When they cannot be read.
    pub(crate) async fn open(tables: Arc<Tables>) -> Result<Self, MetaError> {
        let kv = Self { tables };
        let value = kv.value(&counters::key()).await?;
        kv.tables.state.write().counters = value.as_deref().and_then(Counters::decode);
        Ok(kv)
    }

    /// Are there sums to add to?
    pub(crate) fn knows_counters(&self) -> bool {
        self.tables.state.read().counters.is_some()
    }
}

/// All keys, and who waits for them.
pub(crate) struct Tables {
    state: RwLock<State>,
    /// Bytes of `active` and of what waits.
    unsynced: AtomicUsize,
    /// Bytes that the store has room for; `u64::MAX`: nobody knows.
    room: AtomicU64,
    /// Bytes of the snapshot's chunks.
    snapshot: AtomicU64,
    /// Bytes of disk that journal and snapshot take.
    disk_bytes: AtomicU64,
    /// Under which these are led; 0: they are only looked at.
    epoch: AtomicU64,
    /// When the last snapshot of this leader was taken: seconds since 1970; 0: none.
    snapshot_at: AtomicU64,
    syncs: Counter,
    waiters: Mutex<Waiters>,
    /// The leader has something to do.
    pub(crate) wanted: Notify,
    /// A batch is durable, or none will be any more.
    moved: Notify,
    pub(crate) cache: Cache,
    pub(crate) bounds: Bounds,
}

struct State {
    active: Sized,
    /// Sealed batches, oldest first: the first ones are in flight.
    waiting: VecDeque<Arc<Sized>>,
    /// Batches that are durable, of those that were sealed here.
    durable: u64,
    /// LSN of the last entry that is.
    lsn: u64,
    /// Durable, and in no snapshot.
    journaled: Sized,
    /// Being merged; older than `journaled`. With the LSN of the last batch that it has.
    frozen: (Arc<Batch>, u64),
    /// The snapshot, newest run first.
    runs: Vec<Run>,
    /// What all changes add up to; `None`: nobody has read it yet, or it is damaged.
    counters: Option<Counters>,
    /// They moved since the last batch was sealed.
    counters_moved: bool,
    /// Nothing can be changed any more, and why.
    ended: Option<String>,
}

/// A table and about how many bytes it takes.
#[derive(Default)]
pub(crate) struct Sized {
    pub(crate) batch: Batch,
    pub(crate) bytes: usize,
}

#[derive(Default)]
struct Waiters {
    /// Who waits, and for how many batches to be durable.
    list: Vec<(u64, oneshot::Sender<Result<(), MetaError>>)>,
    /// So many batches are wanted to be.
    wanted: u64,
}

impl Tables {
    /// Over a snapshot, with what the journal has beyond it; the last batch of both is `lsn`.
    pub(crate) fn new(
        runs: Vec<Run>,
        journaled: Batch,
        lsn: u64,
        cache: Cache,
        bounds: Bounds,
    ) -> Arc<Self> {
        let bytes = size_of_batch(&journaled);
        let snapshot = AtomicU64::new(runs.iter().map(Run::bytes).sum());
        Arc::new(Self {
            state: RwLock::new(State {
                active: Sized::default(),
                waiting: VecDeque::new(),
                durable: 0,
                lsn,
                journaled: Sized { batch: journaled, bytes },
                frozen: (Arc::default(), lsn),
                runs,
                counters: None,
                counters_moved: false,
                ended: None,
            }),
            unsynced: AtomicUsize::new(0),
            room: AtomicU64::new(u64::MAX),
            snapshot,
            disk_bytes: AtomicU64::new(0),
            epoch: AtomicU64::new(0),
            snapshot_at: AtomicU64::new(0),
            syncs: counter!(SYNCS),
            waiters: Mutex::default(),
            wanted: Notify::new(),
            moved: Notify::new(),
            cache,
            bounds,
        })
    }

    /// The next batch to send: the one after `flying` that are under way. One is sealed for it when
    /// somebody wants what is in memory, or all has to go (`due`).
    pub(crate) fn next_batch(&self, flying: usize, due: bool) -> Option<Arc<Sized>> {
        let wanted = self.waiters.lock().wanted;
        let mut state = self.state.write();
        if state.ended.is_some() {
            return None;
        }
        if state.waiting.len() <= flying && (due || wanted > state.sealed()) {
            state.seal();
        }
        state.waiting.get(flying).cloned()
    }

    /// Is there anything that is not under way, and may be sent?
    pub(crate) fn has_unsent(&self, flying: usize) -> bool {
        let state = self.state.read();
        state.ended.is_none() && (state.waiting.len() > flying || !state.active.batch.is_empty())
    }

    /// The first batch that waits is durable; its last entry has this LSN.
    pub(crate) fn durable(&self, lsn: u64) {
        let durable = {
            let mut state = self.state.write();
            let batch = state.waiting.pop_front().expect("a batch was in flight");
            debug_assert!(state.lsn < lsn, "batches become durable in order");
            state.durable += 1;
            state.lsn = lsn;
            self.unsynced.fetch_sub(batch.bytes, Ordering::Relaxed);
            let journaled = &mut state.journaled;
            journaled.bytes += batch.bytes;
            match Arc::try_unwrap(batch) {
                Ok(only) => journaled.batch.extend(only.batch),
                Err(shared) => {
                    journaled.batch.extend(shared.batch.iter().map(|(k, v)| (*k, v.clone())));
                }
            }
            state.durable
        };
        self.moved.notify_waiters();
        let mut waiters = self.waiters.lock();
        for (_, waiter) in waiters.list.extract_if(.., |(until, _)| *until <= durable) {
            let _gone = waiter.send(Ok(()));
        }
    }

    /// Waits until all entries up to this LSN are durable.
    pub(crate) async fn durable_to(&self, lsn: u64) {
        loop {
            let moved = self.moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            if self.state.read().lsn >= lsn {
                return;
            }
            moved.await;
        }
    }

    /// The first batch that waits could not be stored; it will be tried again.
    pub(crate) fn not_put(&self, error: &StoreError) {
        match error {
            StoreError::Full => {
                self.note_room(Some(0));
                self.failed(&MetaError::NoSpace);
            }
            error => self.failed(&MetaError::Engine(format!("writing the journal: {error}"))),
        }
    }

    fn failed(&self, error: &MetaError) {
        for (_, waiter) in self.waiters.lock().list.drain(..) {
            let _gone = waiter.send(Err(error.clone()));
        }
    }

    /// Nothing will be durable any more.
    pub(crate) fn end(&self, why: &str) {
        self.state.write().ended.get_or_insert_with(|| why.to_owned());
        self.failed(&MetaError::Ended(why.to_owned()));
        self.moved.notify_waiters();
    }

    /// Takes what is journaled to be merged, when it has grown to `bytes`: the keys, and their LSN.
    pub(crate) fn freeze(&self, bytes: usize) -> Option<(Arc<Batch>, u64, Vec<Run>)> {
        let mut state = self.state.write();
        if state.frozen.0.is_empty() {
            if state.journaled.bytes < bytes || state.journaled.batch.is_empty() {
                return None;
            }
            let journaled = std::mem::take(&mut state.journaled);
            state.frozen = (Arc::new(journaled.batch), state.lsn);
        }
        let (frozen, lsn) = state.frozen.clone();
        Some((frozen, lsn, state.runs.clone()))
    }

    /// What was frozen is in these runs.
    pub(crate) fn merged(&self, runs: Vec<Run>) {
        self.snapshot.store(runs.iter().map(Run::bytes).sum(), Ordering::Relaxed);
        let mut state = self.state.write();
        state.runs = runs;
        state.frozen.0 = Arc::default();
    }

    /// The store has room for so many more bytes of metadata.
    pub(crate) fn note_room(&self, bytes: Option<u64>) {
        self.room.store(bytes.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Journal and snapshot take so many bytes of disk.
    pub(crate) fn note_disk_bytes(&self, bytes: u64) {
        self.disk_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Entries that take so many more are in the store.
    pub(crate) fn add_disk_bytes(&self, bytes: u64) {
        self.disk_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// They are led under this epoch.
    pub(crate) fn note_epoch(&self, epoch: u64) {
        self.epoch.store(epoch, Ordering::Relaxed);
    }

    /// A snapshot was taken.
    pub(crate) fn note_snapshot(&self) {
        let now = wall_clock().secs.max(0).unsigned_abs();
        self.snapshot_at.store(now, Ordering::Relaxed);
    }

    /// So many bytes of it were put.
    pub(crate) fn take_room(&self, bytes: u64) {
        let less = |room: u64| (room != u64::MAX).then(|| room.saturating_sub(bytes));
        // Where nothing is known, nothing is taken.
        let _ = self.room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// Is there room for what waits, and enough beside it for changes that give room back? A snapshot is
    /// what gives it back, and takes as much again before that.
    pub(crate) fn may_grow(&self) -> bool {
        let waits = self.unsynced.load(Ordering::Relaxed) as u64;
        let snapshot = self.snapshot.load(Ordering::Relaxed);
        let kept = SHRINK_BYTES + snapshot + snapshot / 2;
        self.room.load(Ordering::Relaxed) >= waits + kept
    }

    /// Bytes of the snapshot's chunks.
    pub(crate) fn snapshot_bytes(&self) -> u64 {
        self.snapshot.load(Ordering::Relaxed)
    }

    /// The missing blocks of chunks that are the snapshot's still.
    fn wanted(&self, missing: &Missing) -> Vec<WantedBlock> {
        // A patient look asks while it reads, and a writer may be waiting for its end.
        let state = self.state.read_recursive();
        let chunks = state.runs.iter().flat_map(|run| run.chunks.iter());
        let named = missing.blocks().iter().filter_map(|block| {
            let chunk = *chunks.clone().find(|chunk| chunk.id == block.chunk)?;
            Some(WantedBlock { chunk, block: block.block })
        });
        named.collect()
    }
}

impl State {
    /// Batches that were sealed, durable or not.
    fn sealed(&self) -> u64 {
        self.durable + self.waiting.len() as u64
    }

    fn seal(&mut self) {
        if std::mem::take(&mut self.counters_moved) {
            self.record_counters();
        }
        if !self.active.batch.is_empty() {
            let batch = std::mem::take(&mut self.active);
            self.waiting.push_back(Arc::new(batch));
        }
    }

    /// Has the batch say what the counters are by now.
    fn record_counters(&mut self) {
        let Some(counters) = self.counters else { return };
        let value = Value::from(&counters.encode()[..]);
        self.active.batch.insert(counters::key(), Some(value));
    }

    fn check(&self) -> Result<(), MetaError> {
        self.ended.as_ref().map_or(Ok(()), |why| Err(MetaError::Ended(why.clone())))
    }

    /// Runs `body` on all there is; empty tables need not be looked through.
    fn with<R>(&self, cache: &Cache, body: impl FnOnce(&dyn View) -> R) -> R {
        let waiting = self.waiting.iter().rev().map(|sealed| &sealed.batch);
        let newest = std::iter::once(&self.active.batch).chain(waiting);
        self.over(newest, self.counters, cache, body)
    }

    fn over<'a, R>(
        &'a self,
        newest: impl Iterator<Item = &'a Batch>,
        counters: Option<Counters>,
        cache: &Cache,
        body: impl FnOnce(&dyn View) -> R,
    ) -> R {
        let durable = [&self.journaled.batch, &*self.frozen.0];
        let tables: Vec<&Batch> = newest.chain(durable).filter(|table| !table.is_empty()).collect();
        let below = Snapshot { runs: &self.runs, cache };
        body(&Layers { tables: &tables, below: &below, counters })
    }
}

#[async_trait]
impl Kv for JournaledKv {
    fn read(&self, body: &mut Read<'_>) -> Result<(), MetaError> {
        self.tables.state.read().with(&self.tables.cache, |view| body(view))
    }

    fn read_durable(&self, body: &mut Read<'_>) -> Result<(), MetaError> {
        let state = self.tables.state.read();
        state.over(std::iter::empty(), None, &self.tables.cache, |view| body(view))
    }

    fn transact(&self, body: &mut Write<'_>) -> Result<(), MetaError> {
        let tables = &self.tables;
        let state = tables.state.upgradable_read();
        state.check()?;
        let Change { writes, counting } = state.with(&tables.cache, |view| body(view))?;
        let counted = counting.over(state.counters);
        if writes.is_empty() && counted.is_none() {
            return Ok(());
        }
        let mut bytes = size_of_batch(&writes);
        let mut state = RwLockUpgradableReadGuard::upgrade(state);
        if counted.is_some() && !state.counters_moved {
            bytes += ENTRY_BYTES + counters::LEN;
        }
        state.apply(writes, counted, bytes);
        let full = state.active.bytes >= tables.bounds.batch_bytes;
        if full {
            state.seal();
        }
        let first = tables.unsynced.fetch_add(bytes, Ordering::Relaxed) == 0;
        drop(state);
        if full || first {
            tables.wanted.notify_one();
        }
        Ok(())
    }

    fn unsynced_bytes(&self) -> usize {
        self.tables.unsynced.load(Ordering::Relaxed)
    }

    fn ended(&self) -> Option<String> {
        self.tables.state.read().ended.clone()
    }

    fn batch(&self) -> u64 {
        self.tables.state.read().sealed() + 1
    }

    fn durable_batches(&self) -> u64 {
        self.tables.state.read().durable
    }

    fn disk_bytes(&self) -> u64 {
        self.tables.disk_bytes.load(Ordering::Relaxed)
    }

    fn journal(&self) -> Option<JournalStatus> {
        let tables = &self.tables;
        let epoch = tables.epoch.load(Ordering::Relaxed);
        let snapshot_at = Some(tables.snapshot_at.load(Ordering::Relaxed)).filter(|at| *at > 0);
        let room = Some(tables.room.load(Ordering::Relaxed)).filter(|room| *room < u64::MAX);
        let (waiting, journaled_bytes) = {
            let state = tables.state.read();
            (state.waiting.len(), state.journaled.bytes as u64)
        };
        (epoch > 0).then_some(JournalStatus { epoch, snapshot_at, room, waiting, journaled_bytes })
    }

    fn may_grow(&self) -> bool {
        self.tables.may_grow()
    }

    fn has_room(&self) -> bool {
        self.tables.state.read().waiting.len() < BATCHES_MOST
    }

    async fn room(&self) -> Result<(), MetaError> {
        let waiting = async {
            loop {
                let moved = self.tables.moved.notified();
                {
                    let state = self.tables.state.read();
                    state.check()?;
                    if state.waiting.len() < BATCHES_MOST {
                        return Ok(());
                    }
                }
                moved.await;
            }
        };
        tokio::time::timeout(ROOM_WAIT, waiting).await.unwrap_or_else(|_| {
            let why = "too much waits for the store: it takes no metadata at the moment";
            Err(MetaError::Engine(why.to_owned()))
        })
    }

    async fn fetch(&self, missing: &Missing) -> Result<(), MetaError> {
        let wanted = self.tables.wanted(missing);
        let fetched = self.tables.cache.fetch(&wanted).await;
        // A chunk may be merged into others while it is looked for.
        if fetched.is_err() && self.tables.wanted(missing).len() < wanted.len() {
            return Ok(());
        }
        fetched
    }

    async fn sync(&self) -> Result<(), MetaError> {
        let answer = {
            let mut waiters = self.tables.waiters.lock();
            let state = self.tables.state.read();
            state.check()?;
            let until = state.sealed() + u64::from(!state.active.batch.is_empty());
            if until == state.durable {
                return Ok(());
            }
            self.tables.syncs.increment(1);
            let (sender, answer) = oneshot::channel();
            waiters.list.push((until, sender));
            waiters.wanted = waiters.wanted.max(until);
            answer
        };
        self.tables.wanted.notify_one();
        answer.await.unwrap_or_else(|_| Err(MetaError::Engine("the engine stopped".to_owned())))
    }
}

impl State {
    fn apply(&mut self, writes: Batch, counted: Option<Counters>, bytes: usize) {
        let change = |state: &mut Self| {
            state.active.batch.extend(writes);
            state.active.bytes += bytes;
            if let Some(counters) = counted {
                state.counters = Some(counters);
                if !state.counters_moved {
                    state.counters_moved = true;
                    state.record_counters();
                }
            }
        };
        let torn =
            "a change of metadata was not finished, so nothing more can be changed: mount again";
        guard::or_else(self, change, |state| state.ended = Some(torn.to_owned()));
    }
}

/// About how many bytes a table takes.
pub(crate) fn size_of_batch(batch: &Batch) -> usize {
    batch.values().map(|value| ENTRY_BYTES + value.as_ref().map_or(0, |value| value.len())).sum()
}

/// Tables, newest first, over a view.
struct Layers<'a> {
    tables: &'a [&'a Batch],
    below: &'a dyn View,
    /// As they are by now, if that is known.
    counters: Option<Counters>,
}

impl View for Layers<'_> {
    fn counters(&self) -> Result<Counters, MetaError> {
        match self.counters {
            Some(counters) => Ok(counters),
            None => recorded(self.get(&counters::key())?.as_deref()),
        }
    }

    fn get(&self, key: &Key) -> Result<Option<Value>, MetaError> {
        match self.tables.iter().find_map(|table| table.get(key)) {
            Some(value) => Ok(value.clone()),
            None => self.below.get(key),
        }
    }

    fn scan(&self, range: Range<Key>, direction: Direction, visit: &mut Visit<'_>) -> Scanned {
        match self.tables.split_first() {
            Some((newest, older)) => {
                let below = Layers { tables: older, below: self.below, counters: None };
                Over { writes: newest, below: &below }.scan(range, direction, visit)
            }
            None if range.start >= range.end => Ok(ControlFlow::Continue(())),
            None => self.below.scan(range, direction, visit),
        }
    }
}
