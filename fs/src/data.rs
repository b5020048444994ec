//! The data plane of a mount: what lies between `write(2)`, `read(2)`, `fsync(2)` and the two stores,
//! metadata and blobs.
//!
//! Writes go to memory, bounded by [`DataSettings::dirty_bytes`], and from there in packed blobs to
//! the store ([`crate::data::flush`]); reads see memory over what metadata says ([`crate::data::read`]). Blobs
//! nothing refers to any more are deleted, half-dead ones emptied ([`crate::data::clean`]), what dead
//! sessions left is swept ([`crate::data::sweep`]): here, unless another does ([`Housekeeping`]).
//!
//! Promises:
//! * a read sees every write that returned before it;
//! * when [`Data::fsync`] has returned, the bytes written before it survive a crash; when it fails
//!   they are kept in memory and tried again;
//! * memory for bytes that are not stored is bounded: writers wait, and no longer than
//!   [`DataSettings::stall_limit`];
//! * calls that need no waiting are ready when first polled.
//!
//! All changes of a file's content must come through here: sizes and extents are remembered.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use std::time::Duration;

use bytes::Bytes;
use meta::{Access, FILE_MAX, Ino, MetaError, MetaStore, Time, VolumeInfo};
use parking_lot::Mutex;
use proto::buffer::Pool;
use proto::guard::{self, keep_going};
use proto::id::SessionId;
use proto::limits::TARGET_BLOB;
use proxy::BlobStore;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::cache::Cache;
use self::dirty_ranges::{DirtyRanges, KEEPING};
use self::open_inode::{OpenInode, OpenInodes, State};
use self::queue::{Queue, RETRY, Scope};
use self::reach::Reach;
use self::space::{FULL_PATIENCE, StoreRoom};
use self::write_budget::WriteBudget;
use crate::error::DataError;

pub(crate) mod admit;
pub(crate) mod buffer;
pub(crate) mod cache;
pub(crate) mod clean;
pub(crate) mod content;
pub(crate) mod dirty_ranges;
pub(crate) mod evacuate;
pub(crate) mod flush;
pub(crate) mod inline;
pub(crate) mod lease;
pub(crate) mod open_inode;
pub(crate) mod pack;
pub(crate) mod plan;
pub(crate) mod queue;
pub(crate) mod reach;
pub(crate) mod read;
pub(crate) mod space;
pub(crate) mod sweep;
pub(crate) mod victims;
pub(crate) mod write_budget;

/// Unit in which files are counted by statfs(2) and stat(2), and cut by fallocate(2), in bytes.
pub(crate) const BLOCK: u32 = 4096;
/// Reads of several slices that are worked on at once.
const TURNS: usize = 4;

/// Bounds of a mount's data plane.
#[derive(Clone, Debug)]
pub struct DataSettings {
    /// Most bytes of memory for what is not stored yet.
    pub dirty_bytes: u64,
    /// Most bytes of blobs kept to be read again.
    pub cache_bytes: u64,
    /// How far to read ahead of a sequential reader, in bytes.
    pub read_ahead: u64,
    /// Blobs put at once.
    pub puts_in_flight: usize,
    /// Bytes are sent to the store at this age.
    pub flush_interval: Duration,
    /// Longest wait of a writer for room.
    pub stall_limit: Duration,
    /// How often dead blobs are looked for.
    pub garbage_interval: Duration,
    /// Bytes that inline blobs may have, which metadata keep.
    pub inline_bytes: u64,
    /// Who keeps house.
    pub housekeeping: Housekeeping,
}

/// Who keeps the house of a volume: cleans it, sweeps what dead sessions left, and empties the trash. There must be one, and
/// only one. What was unlinked and is not open any more, each session deletes of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Housekeeping {
    /// This data plane, and the filesystem over it.
    #[default]
    Here,
    /// Who leads the volume, in another process.
    Elsewhere,
}

impl Default for DataSettings {
    fn default() -> Self {
        Self {
            dirty_bytes: 64 << 20,
            cache_bytes: 64 << 20,
            read_ahead: 8 << 20,
            puts_in_flight: 4,
            flush_interval: Duration::from_secs(1),
            stall_limit: Duration::from_secs(60),
            garbage_interval: Duration::from_secs(1),
            inline_bytes: 8 << 20,
            housekeeping: Housekeeping::Here,
        }
    }
}

/// The data plane of one mounted volume.
pub struct Data {
    pub(crate) meta: Arc<dyn MetaStore>,
    pub(crate) blobs: Arc<dyn BlobStore>,
    pub(crate) settings: DataSettings,
    pub(crate) volume: VolumeInfo,
    pub(crate) session: SessionId,
    /// Sequence of the next blob; also the number of its flight.
    pub(crate) sequence: AtomicU64,
    pub(crate) open_inodes: OpenInodes,
    pub(crate) queue: Queue,
    pub(crate) budget: WriteBudget,
    pub(crate) space: StoreRoom,
    /// Held by who promises room to a range, from the look whether there is any.
    pub(crate) promising: tokio::sync::Mutex<()>,
    /// Unlinked files whose bytes are about to be given up.
    pub(crate) dying: AtomicU64,
    pub(crate) pool: Arc<Pool>,
    pub(crate) cache: Cache,
    /// Reads of fragmented files take turns.
    pub(crate) turns: Semaphore,
    /// There are dirty bytes that the flusher has not been told of.
    pub(crate) armed: AtomicBool,
    pub(crate) reach: Reach,
    /// Bytes of inline blobs, those that are garbage by now included.
    pub(crate) inline_bytes: AtomicU64,
    /// How many flights failed.
    pub(crate) failures: AtomicU64,
    pub(crate) leaked: AtomicBool,
    /// Sessions that died while they worked on the volume from elsewhere, and are not forgotten yet; since when.
    pub(crate) died: Mutex<BTreeMap<SessionId, Instant>>,
    pub(crate) one_died: Notify,
    /// Why bytes of some file are gone, until somebody is told who stores all.
    lost: Mutex<Option<DataError>>,
    pub(crate) status: Mutex<Counters>,
    pub(crate) stopping: CancellationToken,
    tasks: TaskTracker,
}

/// Counters behind [`DataStatus`].
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) blobs_put: u64,
    pub(crate) bytes_put: u64,
    pub(crate) blobs_deleted: u64,
    pub(crate) bytes_cleaned: u64,
    pub(crate) last_error: Option<DataError>,
}

/// Did a write need no waiting?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum TryWrite {
    /// It is done.
    Done,
    /// No room now: nothing was taken; [`Data::write`] waits for some.
    Full,
    /// Others may have the file at present: nothing was taken; [`Data::write`] asks for it.
    NoLease,
}

/// What metadata does not know yet of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    /// The file is at least this long.
    pub size: u64,
    /// Time of the last write: mtime and ctime of the file, unless metadata's are later.
    pub mtime: Option<Time>,
    /// Bytes that are not stored yet.
    pub dirty_bytes: u64,
}

/// How the data plane is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DataStatus {
    /// Memory of bytes that are not stored yet.
    pub dirty_bytes: u64,
    /// Blobs being put.
    pub blobs_in_flight: u64,
    /// Blobs put since the start.
    pub blobs_put: u64,
    /// Their bytes.
    pub bytes_put: u64,
    /// Dead blobs deleted since the start.
    pub blobs_deleted: u64,
    /// Live bytes moved out of half-dead blobs since the start.
    pub bytes_cleaned: u64,
    /// Memory of the read cache.
    pub cache_bytes: u64,
    /// Reads of blobs answered from it.
    pub cache_hits: u64,
    /// Reads of blobs that went to the store.
    pub cache_misses: u64,
    /// What the store has room for, when known.
    pub available: Option<u64>,
    /// Why the last blob could not be stored; `None` once one could.
    pub last_error: Option<String>,
}

impl Data {
    /// Starts the data plane of a volume on the current runtime. It ends with [`Data::stop`].
    pub fn start(
        meta: Arc<dyn MetaStore>,
        blobs: Arc<dyn BlobStore>,
        settings: DataSettings,
    ) -> Arc<Self> {
        let (volume, session) = (meta.volume(), meta.session());
        let data = Arc::new(Self {
            session,
            sequence: AtomicU64::new(1),
            open_inodes: OpenInodes::new(meta.leases()),
            queue: Queue::default(),
            budget: WriteBudget::new(settings.dirty_bytes),
            space: StoreRoom::new(volume.scheme),
            promising: tokio::sync::Mutex::default(),
            dying: AtomicU64::new(0),
            pool: Pool::new(TARGET_BLOB as usize, settings.puts_in_flight + 1),
            cache: Cache::new(settings.cache_bytes),
            turns: Semaphore::new(TURNS),
            armed: AtomicBool::new(false),
            reach: Reach::default(),
            inline_bytes: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            leaked: AtomicBool::new(false),
            died: Mutex::default(),
            one_died: Notify::new(),
            lost: Mutex::default(),
            status: Mutex::default(),
            stopping: CancellationToken::new(),
            tasks: TaskTracker::new(),
            volume,
            meta,
            blobs,
            settings,
        });
        data.keep_going("the flusher", Self::run_flusher);
        match data.settings.housekeeping {
            Housekeeping::Here => {
                data.keep_going("the cleaner", Self::run_cleaner);
                data.keep_going("the sweep", Self::run_sweep);
            }
            Housekeeping::Elsewhere => data.keep_going("the look at room", Self::look_at_room),
        }
        data
    }

    /// Runs a task that lives as long as the data plane.
    fn keep_going<F: Future<Output = ()> + Send + 'static>(
        self: &Arc<Self>,
        what: &'static str,
        run: fn(Arc<Self>) -> F,
    ) {
        let data = Arc::clone(self);
        let mut begun = false;
        self.tasks.spawn(async move {
            let again = keep_going(what, || {
                // What panicked may have put a blob that nothing names, and not have sent what it was
                // told of.
                if std::mem::replace(&mut begun, true) {
                    data.leaked.store(true, Relaxed);
                    data.armed.store(true, Relaxed);
                }
                run(Arc::clone(&data))
            });
            again.await;
        });
    }

    /// Changes what is not stored of a file, and keeps the books. `reserved` bytes of memory were
    /// taken before.
    pub(crate) fn change<R>(
        &self,
        open_inode: &Arc<OpenInode>,
        state: &mut State,
        reserved: u64,
        f: impl FnOnce(&mut DirtyRanges) -> R,
    ) -> R {
        let (memory, dirty) = (state.dirty_ranges.memory(), state.dirty_ranges.dirty_len());
        let unstored = state.dirty_ranges.unstored_len();
        let half_done = |state: &mut State| {
            self.budget.account((memory, 0), reserved, (dirty, 0));
            self.space.note_unstored(unstored, 0);
            let why = "what was written was lost in a fault of this program";
            self.lose(open_inode, state, DataError::Gone(why.to_owned()));
        };
        let result = guard::or_else(state, |state| f(&mut state.dirty_ranges), half_done);
        let now = (state.dirty_ranges.memory(), state.dirty_ranges.dirty_len());
        self.space.note_unstored(unstored, state.dirty_ranges.unstored_len());
        let (before, after) = self.budget.account((memory, now.0), reserved, (dirty, now.1));
        if now.1 > 0 && !state.queued {
            state.queued = true;
            self.queue.add(open_inode);
        }
        let blob = u64::from(self.space.blob());
        let grown = after > before && after / blob != before / blob;
        if grown || (now.1 > 0 && !self.armed.load(Relaxed) && !self.armed.swap(true, Relaxed)) {
            self.queue.kick.notify_one();
        }
        result
    }

    /// Bytes of a file that can never be stored are let go, so that they keep no memory from others.
    /// The file is lost until it is mounted again.
    pub(crate) fn give_up(&self, open_inode: &Arc<OpenInode>, state: &mut State, why: &DataError) {
        self.change(open_inode, state, 0, |ranges| ranges.cut(0..u64::MAX));
        self.lose(open_inode, state, why.clone());
    }

    fn lose(&self, open_inode: &OpenInode, state: &mut State, why: DataError) {
        let ino = open_inode.ino.0;
        tracing::error!("what was written to inode {ino} and not stored is lost: {why}");
        let told = format!("what was written to inode {ino} is lost: {why}");
        self.lost.lock().get_or_insert(DataError::Gone(told));
        state.lose(why);
        self.queue.settle(open_inode, state);
    }

    /// Writes, if that needs no waiting.
    ///
    /// # Errors
    /// When the file would be too large, or is lost.
    pub fn try_write(
        &self,
        ino: Ino,
        offset: u64,
        data: &[u8],
        now: Time,
    ) -> Result<TryWrite, DataError> {
        let len = data.len() as u64;
        if offset.checked_add(len).is_none_or(|end| end > FILE_MAX) {
            return Err(MetaError::FileTooLarge.into());
        }
        if len == 0 {
            return Ok(TryWrite::Done);
        }
        if !self.space.fits(len) {
            return Ok(TryWrite::Full);
        }
        self.take_in(ino, offset, data, now)
    }

    /// Takes bytes that are promised room in the store into memory, if that has room, and the file is ours.
    fn take_in(&self, ino: Ino, at: u64, data: &[u8], now: Time) -> Result<TryWrite, DataError> {
        let len = data.len() as u64;
        let taken = len + KEEPING;
        if !self.budget.reserve(taken) {
            return Ok(TryWrite::Full);
        }
        let open_inode = self.open_inodes.open(ino);
        let mut state = open_inode.state.lock();
        if let Err(lost) = state.check() {
            self.budget.account((0, 0), taken, (0, 0));
            return Err(lost);
        }
        if state.access < Access::Write {
            self.budget.account((0, 0), taken, (0, 0));
            return Ok(TryWrite::NoLease);
        }
        self.change(&open_inode, &mut state, taken, |ranges| ranges.write(at, data));
        state.mtime = Some(now);
        Ok(TryWrite::Done)
    }

    /// Writes; waits for room.
    ///
    /// # Errors
    /// [`DataError::NoSpace`] when the store has no room; [`DataError::Unavailable`] when too few of
    /// its disks take writes, or it has not taken anything for [`DataSettings::stall_limit`]. A
    /// part may have been written then.
    pub async fn write(
        self: &Arc<Self>,
        ino: Ino,
        offset: u64,
        data: Bytes,
        now: Time,
    ) -> Result<(), DataError> {
        let mut at = offset;
        for piece in data.chunks(self.budget.piece()) {
            self.write_piece(ino, at, piece, now).await?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    async fn write_piece(
        self: &Arc<Self>,
        ino: Ino,
        offset: u64,
        data: &[u8],
        now: Time,
    ) -> Result<(), DataError> {
        let deadline = Instant::now() + self.settings.stall_limit;
        let range = offset..offset + data.len() as u64;
        let (mut admitted, mut refused) = (false, None);
        let mut granted = None;
        loop {
            let freed = self.budget.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if self.stopping.is_cancelled() {
                return Err(DataError::Unavailable("the mount has ended".to_owned()));
            }
            let mut tried = self.try_write(ino, offset, data, now)?;
            if tried == TryWrite::Full && !self.space.fits(data.len() as u64) {
                if !admitted {
                    self.admit_write(ino, &range).await?;
                    admitted = true;
                }
                tried = self.take_in(ino, offset, data, now)?;
            }
            // What was granted is kept from others for one try, and not while waiting for memory.
            drop(granted.take());
            match tried {
                TryWrite::Done => return Ok(()),
                TryWrite::Full => {}
                TryWrite::NoLease => {
                    let open_inode = self.open_inodes.open(ino);
                    granted = Some(self.using(&[(&open_inode, Access::Write)]).await?);
                    continue;
                }
            }
            self.queue.kick.notify_one();
            let mut until = deadline;
            if self.space.is_refused() {
                until = *refused.get_or_insert(Instant::now() + FULL_PATIENCE);
            } else {
                refused = None;
            }
            if tokio::time::timeout_at(until, freed).await.is_err() {
                return Err(self.why_stalled());
            }
        }
    }

    /// Why a writer waited in vain for memory.
    fn why_stalled(&self) -> DataError {
        match self.status.lock().last_error.clone() {
            Some(DataError::NoSpace) => self.space.why_short(),
            why => {
                let why = why.map_or_else(|| "the store is slow".to_owned(), |e| e.to_string());
                let stalled = self.settings.stall_limit;
                DataError::Unavailable(format!("no room for {stalled:?}: {why}"))
            }
        }
    }

    /// What metadata does not know yet of a file; `None` when it knows all.
    pub fn pending(&self, ino: Ino) -> Option<Pending> {
        let open_inode = self.open_inodes.get(ino)?;
        let state = open_inode.state.lock();
        (!state.dirty_ranges.is_empty() || state.mtime.is_some()).then(|| Pending {
            size: state.dirty_ranges.end(),
            mtime: state.mtime,
            dirty_bytes: state.dirty_ranges.unstored_len(),
        })
    }

    /// How many flights have been committed. When it is the same before metadata was asked for a file
    /// and after [`Data::pending`] was, no bytes have slipped from the one to the other in between.
    pub fn commits(&self) -> u64 {
        self.queue.commits.load(SeqCst)
    }

    /// An explicit time is about to be set: those of earlier writes must not replace it.
    pub fn drop_mtime(&self, ino: Ino) {
        if let Some(open_inode) = self.open_inodes.get(ino) {
            open_inode.state.lock().mtime = None;
        }
    }

    /// The kernel sends bytes that were stored in a mapping of the file.
    pub fn note_mapped(&self, ino: Ino) {
        self.open_inodes.open(ino).state.lock().mapped = true;
    }

    /// Has it sent such bytes, not long ago?
    pub fn is_mapped(&self, ino: Ino) -> bool {
        self.open_inodes.get(ino).is_some_and(|open_inode| open_inode.state.lock().mapped)
    }

    /// Returns when what was written to the file before the call, and all metadata changed before
    /// it, are durable.
    ///
    /// # Errors
    /// Why not. The bytes stay in memory and are tried again.
    pub async fn fsync(self: &Arc<Self>, ino: Ino) -> Result<(), DataError> {
        self.flush_file(ino).await?;
        Ok(self.meta.sync().await?)
    }

    /// Returns when what was written to the file before the call is stored and its extents are
    /// committed.
    ///
    /// # Errors
    /// Why not. The bytes stay in memory and are tried again.
    pub async fn flush_file(self: &Arc<Self>, ino: Ino) -> Result<(), DataError> {
        match self.open_inodes.get(ino) {
            Some(open_inode) => {
                self.settle(&Scope::One(&open_inode)).await?;
                open_inode.state.lock().check()
            }
            None => Ok(()),
        }
    }

    /// Like [`Data::fsync`], for all files.
    ///
    /// # Errors
    /// Why some file's bytes are not durable. Those that never can be are told of once.
    pub async fn sync_all(self: &Arc<Self>) -> Result<(), DataError> {
        self.settle(&Scope::All).await?;
        self.meta.sync().await?;
        self.lost.lock().take().map_or(Ok(()), Err)
    }

    /// The inode is gone: nothing of it needs to be stored.
    pub fn discard(&self, ino: Ino) {
        if let Some(open_inode) = self.open_inodes.remove(ino) {
            let mut state = open_inode.state.lock();
            state.mtime = None;
            state.layout_changed(None);
            self.change(&open_inode, &mut state, 0, |ranges| ranges.cut(0..u64::MAX));
            self.queue.settle(&open_inode, &mut state);
        }
    }

    /// How it is doing.
    pub fn status(&self) -> DataStatus {
        let cache = self.cache.usage();
        let counters = self.status.lock();
        DataStatus {
            dirty_bytes: self.budget.memory(),
            blobs_in_flight: self.queue.flights() as u64,
            blobs_put: counters.blobs_put,
            bytes_put: counters.bytes_put,
            blobs_deleted: counters.blobs_deleted,
            bytes_cleaned: counters.bytes_cleaned,
            cache_bytes: cache.bytes,
            cache_hits: cache.hits,
            cache_misses: cache.misses,
            available: self.space.available(),
            last_error: counters.last_error.as_ref().map(ToString::to_string),
        }
    }

    /// Stores everything and ends all tasks. Tries for [`DataSettings::stall_limit`].
    ///
    /// # Errors
    /// What could not be stored is lost with the process: the reason why.
    pub async fn stop(self: &Arc<Self>) -> Result<(), DataError> {
        let deadline = Instant::now() + self.settings.stall_limit;
        let mut pause = RETRY.0;
        let mut stored = self.sync_all().await;
        while let Err(error @ (DataError::Unavailable(_) | DataError::Meta(_))) = &stored
            && !matches!(error, DataError::Meta(MetaError::Ended(_)))
            && Instant::now() < deadline
        {
            tracing::warn!(%error, "not everything is stored yet; trying again before the end");
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(RETRY.1);
            stored = self.sync_all().await;
        }
        self.stopping.cancel();
        self.budget.freed.notify_waiters();
        self.tasks.close();
        self.tasks.wait().await;
        // A writer may have got its room from that very flush.
        stored.and(self.sync_all().await)
    }

    /// Is there a blob that neither files nor garbage name? The next mount must sweep this session.
    pub fn has_leaked(&self) -> bool {
        self.leaked.load(Relaxed)
    }
}
