//! The embedded engine: a write-back table in memory over one redb file.
//!
//! A transaction ends in memory, in the table `active`, and is visible there; it costs no I/O. One
//! thread makes things durable: at least every [`RedbSettings::interval`], when the table has grown
//! to [`RedbSettings::table_bytes`], and for everybody who waits in `sync` by then, it takes the
//! whole table and writes it in one redb transaction with one sync. Reads look into `active`, then
//! `flushing`, then the file.
//!
//! ```text
//! transact --> active --(flusher takes it)--> flushing --(one redb commit)--> file
//! ```
//!
//! Invariants:
//! * A table is flushed whole and tables are flushed in order, so what is durable is a prefix of
//!   what was committed.
//! * `flushing` is emptied only after its commit and together with the renewal of the reader: at
//!   every moment a reader sees each write.
//! * A commit that failed leaves `flushing` as it is; the file is opened again and the same table is
//!   tried first the next time.
//! * Memory is bounded: with [`TABLES_MOST`] times `table_bytes` waiting, transactions wait for the
//!   flusher, at most [`ROOM_WAIT`].

use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::{Condvar, Mutex, RwLock, RwLockUpgradableReadGuard};
use redb::{Database, Durability, ReadOnlyTable, ReadableDatabase, TableDefinition};
use tokio::sync::oneshot;

use super::{Batch, Direction, Kv, Over, Read, Scanned, Value, View, Visit, Write};
use crate::key::Key;
use crate::store::MetaError;

const TABLE: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("metadata");
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
    /// The file as of the last commit; `None` while it cannot be opened.
    reader: Option<Reader>,
}

#[derive(Default)]
struct Queue {
    waiters: Vec<oneshot::Sender<Result<(), MetaError>>>,
    table_full: bool,
    stop: bool,
}

impl RedbKv {
    /// Opens the file and starts the flusher.
    pub(crate) fn start(open: Opener, settings: RedbSettings) -> Result<Self, MetaError> {
        let mut file = File { open, db: None };
        let reader = file.reopen()?;
        let shared = Arc::new(Shared {
            state: RwLock::new(State {
                active: Batch::new(),
                flushing: Arc::default(),
                reader: Some(reader),
            }),
            active_bytes: AtomicUsize::new(0),
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
        self.shared.state.read().with(|view| body(view))
    }

    fn read_durable(&self, body: &mut Read<'_>) -> Result<(), MetaError> {
        body(&Stored(&self.shared.state.read().reader))
    }

    fn transact(&self, body: &mut Write<'_>) -> Result<(), MetaError> {
        let shared = &self.shared;
        shared.wait_for_room()?;
        let state = shared.state.upgradable_read();
        let batch = state.with(|view| body(view))?;
        if batch.is_empty() {
            return Ok(());
        }
        let bytes: usize =
            batch.values().map(|v| ENTRY_BYTES + v.as_ref().map_or(0, |v| v.len())).sum();
        let mut state = RwLockUpgradableReadGuard::upgrade(state);
        state.active.extend(batch);
        let before = shared.active_bytes.fetch_add(bytes, Ordering::Relaxed);
        drop(state);
        let full = shared.settings.table_bytes;
        if before < full && before + bytes >= full {
            shared.queue.lock().table_full = true;
            shared.wanted.notify_all();
        }
        Ok(())
    }

    async fn sync(&self) -> Result<(), MetaError> {
        let answer = {
            let clean = {
                let state = self.shared.state.read();
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
    /// Runs `body` on all three layers.
    fn with<R>(&self, body: impl FnOnce(&dyn View) -> R) -> R {
        let stored = Stored(&self.reader);
        let flushing = Over { writes: &self.flushing, below: &stored };
        // While nothing is being flushed, one layer less to look through.
        if self.flushing.is_empty() {
            body(&Over { writes: &self.active, below: &stored })
        } else {
            body(&Over { writes: &self.active, below: &flushing })
        }
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
        loop {
            let (waiters, stop) = self.next_round();
            let result = self.flush(&mut file);
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

    /// Waits for work, at most one interval.
    fn next_round(&self) -> (Vec<oneshot::Sender<Result<(), MetaError>>>, bool) {
        let deadline = Instant::now() + self.settings.interval;
        let mut queue = self.queue.lock();
        while queue.waiters.is_empty() && !queue.table_full && !queue.stop {
            if self.wanted.wait_until(&mut queue, deadline).timed_out() {
                break;
            }
        }
        queue.table_full = false;
        (std::mem::take(&mut queue.waiters), queue.stop)
    }

    /// Makes everything visible now durable.
    fn flush(&self, file: &mut File) -> Result<(), MetaError> {
        let left_over = Arc::clone(&self.state.read().flushing);
        if !left_over.is_empty() {
            self.write_out(file, &left_over)?;
        }
        let batch = {
            let mut state = self.state.write();
            if state.active.is_empty() {
                return Ok(());
            }
            state.flushing = Arc::new(std::mem::take(&mut state.active));
            self.active_bytes.store(0, Ordering::Relaxed);
            Arc::clone(&state.flushing)
        };
        self.write_out(file, &batch)
    }

    /// Commits `flushing`, and lets it go.
    fn write_out(&self, file: &mut File, batch: &Batch) -> Result<(), MetaError> {
        match file.commit(batch) {
            Ok(reader) => {
                let mut state = self.state.write();
                let old = (std::mem::take(&mut state.flushing), state.reader.replace(reader));
                drop(state);
                drop(old);
                Ok(())
            }
            Err(error) => {
                // redb refuses everything after an I/O error until the file is opened anew, which
                // needs all readers gone.
                self.state.write().reader = None;
                let reader = file.reopen();
                self.state.write().reader = reader.ok();
                Err(error)
            }
        }
    }
}

/// The database file, as the flusher owns it.
struct File {
    open: Opener,
    db: Option<Database>,
}

impl File {
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

    /// Writes a batch durably; the reader sees it.
    fn commit(&mut self, batch: &Batch) -> Result<Reader, MetaError> {
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
            for (key, value) in batch {
                match value {
                    Some(value) => table.insert(key.as_bytes(), &value[..]).map(drop),
                    None => table.remove(key.as_bytes()).map(drop),
                }
                .map_err(failed("writing metadata"))?;
            }
        }
        txn.commit().map_err(failed("syncing metadata"))?;
        reader(db)
    }
}

fn reader(db: &Database) -> Result<Reader, MetaError> {
    let txn = db.begin_read().map_err(failed("reading metadata"))?;
    txn.open_table(TABLE).map_err(failed("reading metadata"))
}

/// Words for an error of redb.
fn failed<E: Into<redb::Error>>(doing: &'static str) -> impl Fn(E) -> MetaError {
    move |error| MetaError::Engine(format!("{doing}: {}", error.into()))
}

/// The file as of the last commit.
struct Stored<'a>(&'a Option<Reader>);

impl Stored<'_> {
    fn table(&self) -> Result<&Reader, MetaError> {
        self.0.as_ref().ok_or_else(|| {
            MetaError::Engine("the metadata file cannot be opened after an I/O error".to_owned())
        })
    }
}

impl View for Stored<'_> {
    fn get(&self, key: &Key) -> Result<Option<Value>, MetaError> {
        let found = self.table()?.get(key.as_bytes()).map_err(failed("reading metadata"))?;
        Ok(found.map(|value| Value::from(value.value())))
    }

    fn scan(&self, range: Range<Key>, direction: Direction, visit: &mut Visit<'_>) -> Scanned {
        let (start, end) = (range.start.as_bytes(), range.end.as_bytes());
        let mut range = self.table()?.range(start..end).map_err(failed("reading metadata"))?;
        loop {
            let next = match direction {
                Direction::Forward => range.next(),
                Direction::Backward => range.next_back(),
            };
            let Some(entry) = next else { return Ok(ControlFlow::Continue(())) };
            let (key, value) = entry.map_err(failed("reading metadata"))?;
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
