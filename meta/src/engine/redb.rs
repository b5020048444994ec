//! The embedded engine: a write-back table in memory over one redb file and a [`Log`].
//!
//! A transaction ends in memory, in the table `active`, and is visible there; it costs no I/O. One
//! thread makes things durable. For those who wait in `sync` it takes the whole table and writes it to
//! the log, as one record with one sync. At least every [`RedbSettings::interval`], when the table has
//! grown to [`RedbSettings::table_bytes`], or when the log is full, it writes all there is into redb,
//! in one transaction with one sync, which makes the log obsolete. Reads look into `active`, then
//! `flushing`, then `logged`, then the file.
//!
//! ```text
//! transact --> active --(flusher takes it)--> flushing --(one record of the log)--> logged
//!                                                 |                                   |
//!                                                 '--------(one redb commit)----------'--> file
//! ```
//!
//! Invariants:
//! * A table is flushed whole and tables are flushed in order, so what is durable is a prefix of
//!   what was committed.
//! * `flushing` is emptied only after it is durable, `logged` only with the renewal of the reader: at
//!   every moment a reader sees each write.
//! * A commit that failed leaves both as they are; the file is opened again and the same tables are
//!   tried first the next time. Until a commit has gone well, nothing is logged.
//! * Each commit names a new epoch in redb; only records of the log under that epoch count.
//! * A panic of redb, which bytes that it did not expect may cause, is an error of what was done: of a
//!   read, or of a commit, after which the file is opened again. The flusher outlives it, and nobody
//!   waits for what will not come. One in the midst of a change of `active` ends all further changes
//!   and commits: half a transaction is never written.
//! * Memory is bounded: with [`TABLES_MOST`] times `table_bytes` waiting, transactions wait for the
//!   flusher, at most [`ROOM_WAIT`].

use std::hash::{BuildHasher, Hasher, RandomState};
use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::{Condvar, Mutex, RwLock, RwLockUpgradableReadGuard};
use proto::guard::{self, caught};
use redb::{Database, Durability, ReadOnlyTable, ReadableDatabase, TableDefinition, TableError};
use tokio::sync::oneshot;

use super::log::Log;
use super::{Batch, Direction, Kv, Over, Read, Scanned, Value, View, Visit, Write};
use crate::key::Key;
use crate::store::MetaError;

const TABLE: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("metadata");
/// One row: the epoch of the log that continues this state.
const EPOCH: TableDefinition<'static, (), u64> = TableDefinition::new("epoch");
/// So many tables' worth of unflushed writes are held before transactions wait.
const TABLES_MOST: usize = 4;
/// Longest wait of a transaction for the flusher to make room.
const ROOM_WAIT: Duration = Duration::from_secs(30);
/// What an entry of a table takes besides its value, in bytes, about.
const ENTRY_BYTES: usize = 80;

/// Opens the database: at the start, and again after an I/O error.
pub(crate) type Opener = Box<dyn Fn() -> Result<Database, redb::DatabaseError> + Send>;
type Reader = ReadOnlyTable<&'static [u8], &'static [u8]>;

/// Bounds of the engine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RedbSettings {
    /// Longest time a change waits in memory.
    pub(crate) interval: Duration,
    /// A table that has grown to this is flushed at once, in bytes.
    pub(crate) table_bytes: usize,
}

/// The engine. Dropped, it flushes what it holds and its thread ends.
pub(crate) struct RedbKv {
    shared: Arc<Shared>,
    flusher: Option<JoinHandle<()>>,
}

struct Shared {
    state: RwLock<State>,
    /// Bytes of `active`, readable without the lock.
    active_bytes: AtomicUsize,
    /// A read failed: redb answers nothing more before the file is opened again.
    unreadable: AtomicBool,
    queue: Mutex<Queue>,
    /// There is something in the queue.
    wanted: Condvar,
    /// A flush ended.
    flushed: Condvar,
    settings: RedbSettings,
}

struct State {
    active: Batch,
    flushing: Arc<Batch>,
    /// Durable in the log.
    logged: Arc<Batch>,
    /// The file as of the last commit; `None` while it cannot be opened.
    reader: Option<Reader>,
    /// `active` may hold half a transaction.
    torn: bool,
}

#[derive(Default)]
struct Queue {
    waiters: Vec<oneshot::Sender<Result<(), MetaError>>>,
    table_full: bool,
    /// A read failed.
    reopen: bool,
    stop: bool,
}

impl RedbKv {
    /// Opens the file, takes in what the log has beyond it, and starts the flusher.
    pub(crate) fn start(
        open: Opener,
        log: Option<Log>,
        settings: RedbSettings,
    ) -> Result<Self, MetaError> {
        let mut file = File { open, db: None, log };
        let reader = file.recover()?;
        let shared = Arc::new(Shared {
            state: RwLock::new(State {
                active: Batch::new(),
                flushing: Arc::default(),
                logged: Arc::default(),
                reader: Some(reader),
                torn: false,
            }),
            active_bytes: AtomicUsize::new(0),
            unreadable: AtomicBool::new(false),
            queue: Mutex::default(),
            wanted: Condvar::new(),
            flushed: Condvar::new(),
            settings,
        });
        let flusher = {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name("meta-flush".to_owned())
                .spawn(move || shared.run(file))
                .map_err(|e| MetaError::Engine(format!("starting the flusher: {e}")))?
        };
        Ok(Self { shared, flusher: Some(flusher) })
    }
}

#[cfg(test)]
impl RedbKv {
    /// Has a panic come in the midst of a change.
    pub(crate) fn tear(&self) {
        let torn = |active: &mut Batch| {
            active.pop_first();
            panic!("the test says so");
        };
        let _ = caught("a change", || self.shared.state.write().apply(torn));
    }
}

impl Drop for RedbKv {
    fn drop(&mut self) {
        self.shared.queue.lock().stop = true;
        self.shared.wanted.notify_all();
        if let Some(flusher) = self.flusher.take()
            && flusher.join().is_err()
        {
            tracing::error!("the metadata flusher had panicked");
        }
    }
}

#[async_trait]
impl Kv for RedbKv {
    fn read(&self, body: &mut Read<'_>) -> Result<(), MetaError> {
        self.shared.state.read().with(&self.shared, |view| body(view))
    }

    fn read_durable(&self, body: &mut Read<'_>) -> Result<(), MetaError> {
        let state = self.shared.state.read();
        let stored = Stored { reader: &state.reader, shared: &self.shared };
        body(&Over { writes: &state.logged, below: &stored })
    }

    fn transact(&self, body: &mut Write<'_>) -> Result<(), MetaError> {
        let shared = &self.shared;
        shared.wait_for_room()?;
        let state = shared.state.upgradable_read();
        state.check_whole()?;
        let batch = state.with(shared, |view| body(view))?;
        if batch.is_empty() {
            return Ok(());
        }
        let bytes: usize =
            batch.values().map(|v| ENTRY_BYTES + v.as_ref().map_or(0, |v| v.len())).sum();
        let mut state = RwLockUpgradableReadGuard::upgrade(state);
        state.apply(|active| active.extend(batch));
        let before = shared.active_bytes.fetch_add(bytes, Ordering::Relaxed);
        drop(state);
        let full = shared.settings.table_bytes;
        if before < full && before + bytes >= full {
            shared.queue.lock().table_full = true;
            shared.wanted.notify_all();
        }
        Ok(())
    }

    fn unsynced_bytes(&self) -> usize {
        self.shared.active_bytes.load(Ordering::Relaxed)
    }

    async fn sync(&self) -> Result<(), MetaError> {
        let answer = {
            let clean = {
                let state = self.shared.state.read();
                state.check_whole()?;
                state.active.is_empty() && state.flushing.is_empty()
            };
            if clean {
                return Ok(());
            }
            let (sender, answer) = oneshot::channel();
            self.shared.queue.lock().waiters.push(sender);
            self.shared.wanted.notify_all();
            answer
        };
        answer.await.unwrap_or_else(|_| Err(MetaError::Engine("the engine stopped".to_owned())))
    }
}

impl State {
    /// Changes the newest table.
    fn apply(&mut self, change: impl FnOnce(&mut Batch)) {
        guard::or_else(self, |state| change(&mut state.active), |state| state.torn = true);
    }

    fn check_whole(&self) -> Result<(), MetaError> {
        let why =
            "a change of metadata was not finished, so nothing more can be changed: mount again";
        if self.torn { Err(MetaError::Engine(why.to_owned())) } else { Ok(()) }
    }

    /// Runs `body` on all four layers; empty ones need not be looked through.
    fn with<R>(&self, shared: &Shared, body: impl FnOnce(&dyn View) -> R) -> R {
        let stored = Stored { reader: &self.reader, shared };
        let logged = Over { writes: &self.logged, below: &stored };
        let stored: &dyn View = if self.logged.is_empty() { &stored } else { &logged };
        let flushing = Over { writes: &self.flushing, below: stored };
        let below: &dyn View = if self.flushing.is_empty() { stored } else { &flushing };
        body(&Over { writes: &self.active, below })
    }
}

impl Shared {
    /// Back-pressure: waits while far too much is unflushed.
    fn wait_for_room(&self) -> Result<(), MetaError> {
        let most = self.settings.table_bytes * TABLES_MOST;
        if self.active_bytes.load(Ordering::Relaxed) < most {
            return Ok(());
        }
        let deadline = Instant::now() + ROOM_WAIT;
        let mut queue = self.queue.lock();
        while self.active_bytes.load(Ordering::Relaxed) >= most {
            if self.flushed.wait_until(&mut queue, deadline).timed_out() {
                return Err(MetaError::Engine(
                    "too many changes wait to be written to the metadata file".to_owned(),
                ));
            }
        }
        Ok(())
    }

    /// The flusher's life: one round after another until it is told to stop.
    fn run(&self, mut file: File) {
        let mut committed = Instant::now();
        loop {
            let Round { waiters, commit, stop } = self.next_round(committed);
            if commit {
                committed = Instant::now();
            }
            let flushed = caught("the metadata flusher", || self.flush(&mut file, commit));
            let result = flushed.unwrap_or_else(|panicked| Err(engine(&panicked)));
            if let Err(error) = &result {
                tracing::error!(%error, "metadata could not be made durable, trying again");
            }
            for waiter in waiters {
                // A caller that no longer waits has given up its interest.
                let _ = waiter.send(result.clone());
            }
            // The lock orders this with a waiter that has looked but does not wait yet.
            drop(self.queue.lock());
            self.flushed.notify_all();
            if stop {
                // Nobody reads any more; the file is closed before the engine is gone.
                self.state.write().reader = None;
                return;
            }
        }
    }

    /// Waits for work, at most one interval after the last commit.
    fn next_round(&self, committed: Instant) -> Round {
        let deadline = committed + self.settings.interval;
        let mut queue = self.queue.lock();
        while queue.waiters.is_empty() && !queue.table_full && !queue.reopen && !queue.stop {
            if self.wanted.wait_until(&mut queue, deadline).timed_out() {
                break;
            }
        }
        let full = std::mem::take(&mut queue.table_full);
        queue.reopen = false;
        let commit = full || queue.stop || Instant::now() >= deadline;
        Round { waiters: std::mem::take(&mut queue.waiters), commit, stop: queue.stop }
    }

    /// Makes everything visible now durable: in redb, or (not `commit`) in the log if it has room.
    fn flush(&self, file: &mut File, commit: bool) -> Result<(), MetaError> {
        self.state.read().check_whole()?;
        if self.unreadable.swap(false, Ordering::Relaxed) {
            self.reopen(file)?;
        }
        if !self.state.read().flushing.is_empty() {
            self.write_out(file)?;
        }
        {
            let mut state = self.state.write();
            if !state.active.is_empty() {
                state.flushing = Arc::new(std::mem::take(&mut state.active));
                self.active_bytes.store(0, Ordering::Relaxed);
            } else if !commit || state.logged.is_empty() {
                return Ok(());
            }
        }
        if !commit && self.log(file) {
            return Ok(());
        }
        self.write_out(file)
    }

    /// Writes `flushing` to the log. `false`: it did not work, and redb must take it.
    fn log(&self, file: &mut File) -> bool {
        let Some(log) = &mut file.log else { return false };
        let batch = Arc::clone(&self.state.read().flushing);
        let appended = caught("writing the metadata log", || log.append(&batch));
        match appended.unwrap_or_else(|panicked| Err(std::io::Error::other(panicked))) {
            Ok(true) => {}
            Ok(false) => return false,
            Err(error) => {
                tracing::warn!(%error, "the metadata log cannot be written: going without it");
                return false;
            }
        }
        drop(batch);
        let mut state = self.state.write();
        let flushed = Arc::unwrap_or_clone(std::mem::take(&mut state.flushing));
        Arc::make_mut(&mut state.logged).extend(flushed);
        true
    }

    /// Commits `logged` and `flushing`, and lets them go.
    fn write_out(&self, file: &mut File) -> Result<(), MetaError> {
        let (logged, flushing) = {
            let state = self.state.read();
            (Arc::clone(&state.logged), Arc::clone(&state.flushing))
        };
        let committed = caught("writing metadata", || file.commit(&[&logged, &flushing]));
        match committed.unwrap_or_else(|panicked| Err(engine(&panicked))) {
            Ok(reader) => {
                let mut state = self.state.write();
                let tables =
                    (std::mem::take(&mut state.logged), std::mem::take(&mut state.flushing));
                let old = (tables, state.reader.replace(reader));
                drop(state);
                drop(old);
                Ok(())
            }
            Err(error) => {
                // That it cannot be opened either is no news.
                let _ = self.reopen(file);
                Err(error)
            }
        }
    }

    /// Opens the file anew: redb refuses everything after an I/O error until then. That needs all
    /// readers gone.
    fn reopen(&self, file: &mut File) -> Result<(), MetaError> {
        let last = self.state.write().reader.take();
        let reopened = caught("opening the metadata file", || {
            drop(last);
            file.reopen()
        });
        let reader = reopened.unwrap_or_else(|panicked| Err(engine(&panicked)))?;
        self.state.write().reader = Some(reader);
        Ok(())
    }

    /// A read failed: the flusher shall open the file again.
    fn failed_to_read(&self) {
        if !self.unreadable.swap(true, Ordering::Relaxed) {
            self.queue.lock().reopen = true;
            self.wanted.notify_all();
        }
    }
}

/// What the flusher is to do next.
struct Round {
    /// Who waits for it.
    waiters: Vec<oneshot::Sender<Result<(), MetaError>>>,
    /// All into redb, not into the log.
    commit: bool,
    /// It is the last one.
    stop: bool,
}

/// The database file and the log, as the flusher owns them.
struct File {
    open: Opener,
    db: Option<Database>,
    log: Option<Log>,
}

impl File {
    /// Opens the file, and takes in what was logged after its last commit.
    fn recover(&mut self) -> Result<Reader, MetaError> {
        let reader = self.reopen()?;
        let (Some(log), Some(epoch)) = (&self.log, self.epoch()?) else { return Ok(reader) };
        let batch = log
            .replay(epoch)
            .map_err(|e| MetaError::Engine(format!("reading the metadata log: {e}")))?;
        if batch.is_empty() { Ok(reader) } else { self.commit(&[&batch]) }
    }

    /// The epoch that the last commit named.
    fn epoch(&self) -> Result<Option<u64>, MetaError> {
        let Some(db) = &self.db else { return Ok(None) };
        let txn = db.begin_read().map_err(failed("reading metadata"))?;
        match txn.open_table(EPOCH) {
            Err(TableError::TableDoesNotExist(_)) => Ok(None),
            table => {
                let table = table.map_err(failed("reading metadata"))?;
                let epoch = table.get(()).map_err(failed("reading metadata"))?;
                Ok(epoch.map(|epoch| epoch.value()))
            }
        }
    }

    /// Opens the file (anew).
    fn reopen(&mut self) -> Result<Reader, MetaError> {
        self.db = None;
        let db = self.db.insert((self.open)().map_err(failed("opening the metadata file"))?);
        // A reader needs the table to be there.
        let txn = db.begin_write().map_err(failed("opening the metadata file"))?;
        let missing = txn.list_tables().map_err(failed("opening the metadata file"))?.count() == 0;
        if missing {
            txn.open_table(TABLE).map_err(failed("creating the metadata table"))?;
            txn.commit().map_err(failed("creating the metadata table"))?;
        } else {
            txn.abort().map_err(failed("opening the metadata file"))?;
        }
        reader(db)
    }

    /// Writes batches durably, one over the other; the reader sees them. A new epoch begins.
    fn commit(&mut self, batches: &[&Batch]) -> Result<Reader, MetaError> {
        // Which epoch counts is not known before all has gone well.
        self.log.iter_mut().for_each(Log::stop);
        let epoch = draw();
        let db = match &self.db {
            Some(db) => db,
            None => {
                self.reopen()?;
                self.db.as_ref().expect("it was just opened")
            }
        };
        let mut txn = db.begin_write().map_err(failed("writing metadata"))?;
        txn.set_durability(Durability::Immediate).map_err(failed("writing metadata"))?;
        {
            let mut table = txn.open_table(TABLE).map_err(failed("writing metadata"))?;
            for (key, value) in batches.iter().copied().flatten() {
                match value {
                    Some(value) => table.insert(key.as_bytes(), &value[..]).map(drop),
                    None => table.remove(key.as_bytes()).map(drop),
                }
                .map_err(failed("writing metadata"))?;
            }
            let mut named = txn.open_table(EPOCH).map_err(failed("writing metadata"))?;
            named.insert((), epoch).map_err(failed("writing metadata"))?;
        }
        txn.commit().map_err(failed("syncing metadata"))?;
        let reader = reader(db)?;
        self.log.iter_mut().for_each(|log| log.begin(epoch));
        Ok(reader)
    }
}

/// A number that was never drawn before: the standard library seeds its hash maps from the kernel's
/// randomness.
fn draw() -> u64 {
    RandomState::new().build_hasher().finish()
}

fn reader(db: &Database) -> Result<Reader, MetaError> {
    let txn = db.begin_read().map_err(failed("reading metadata"))?;
    txn.open_table(TABLE).map_err(failed("reading metadata"))
}

/// Words for an error of redb.
fn failed<E: Into<redb::Error>>(doing: &'static str) -> impl Fn(E) -> MetaError {
    move |error| MetaError::Engine(format!("{doing}: {}", error.into()))
}

/// What panicked was the engine, and not what is recorded of some inode.
fn engine(panicked: &guard::Panicked) -> MetaError {
    MetaError::Engine(panicked.to_string())
}

/// The file as of the last commit.
struct Stored<'a> {
    reader: &'a Option<Reader>,
    shared: &'a Shared,
}

impl Stored<'_> {
    fn table(&self) -> Result<&Reader, MetaError> {
        self.reader.as_ref().ok_or_else(|| {
            MetaError::Engine("the metadata file cannot be opened after an I/O error".to_owned())
        })
    }

    /// A read failed, for good where its page makes no sense.
    fn failed(&self, error: redb::StorageError) -> MetaError {
        match error {
            redb::StorageError::Corrupted(why) => MetaError::Damaged(format!("a page: {why}")),
            error => {
                self.shared.failed_to_read();
                failed("reading metadata")(error)
            }
        }
    }
}

impl View for Stored<'_> {
    fn get(&self, key: &Key) -> Result<Option<Value>, MetaError> {
        let found = self.table()?.get(key.as_bytes()).map_err(|e| self.failed(e))?;
        Ok(found.map(|value| Value::from(value.value())))
    }

    fn scan(&self, range: Range<Key>, direction: Direction, visit: &mut Visit<'_>) -> Scanned {
        let (start, end) = (range.start.as_bytes(), range.end.as_bytes());
        let mut range = self.table()?.range(start..end).map_err(|e| self.failed(e))?;
        loop {
            let next = match direction {
                Direction::Forward => range.next(),
                Direction::Backward => range.next_back(),
            };
            let Some(entry) = next else { return Ok(ControlFlow::Continue(())) };
            let (key, value) = entry.map_err(|e| self.failed(e))?;
            let key = Key::from_bytes(key.value())
                .ok_or_else(|| MetaError::Engine("a key is too long".to_owned()))?;
            if visit(&key, value.value())?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
    }
}

/// An opener of a file with a cache of so many bytes.
pub(crate) fn file_opener(path: std::path::PathBuf, cache_bytes: usize) -> Opener {
    Box::new(move || Database::builder().set_cache_size(cache_bytes).open(&path))
}
