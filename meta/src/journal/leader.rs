//! The leader of a volume: sends batches to the journal, several at once, and keeps the snapshot close.
//!
//! One task per opened volume. It alone decides LSNs; it is the only one that writes and deletes blobs of
//! the volume's metadata, all in the name of its epoch. It stops at once when the store says that a later
//! epoch leads: when it writes, or with its next sign of life ([`super::pulse`]).
//!
//! Invariants:
//! * A batch is called durable when its entry and all entries before it are in the store.
//! * A batch that takes several entries is sent once all before it is durable, one entry after another, and no batch
//!   behind it before it is there: an entry is sent only when the one [`FLYING_MOST`] before it is durable.
//! * An entry or a manifest whose put failed is put again, the same bytes under the same name, until it is
//!   there.
//! * A manifest is written after all chunks that it names; entries, chunks and manifests are deleted only
//!   after a newer manifest that does not need them is in the store. Batches go on meanwhile, and the next snapshot waits for it.
//! * Nothing of it goes on once it has ended: whoever has the volume next in this process may do so by the same store, which
//!   changes what it is asked to in his name.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use proto::id::BlobId;
use proto::on_wake::{self, Threads};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::entry::{self, Standing};
use super::pulse::Deposed;
use crate::journal::tables::Tables;
use crate::metrics::Metrics;
use crate::store::MetaError;
use crate::table::manifest::Manifest;
use crate::table::merge::{self, Output};
use crate::volume_store::names::{Namer, Role};
use crate::volume_store::{StoreError, VolumeStore};

/// Entries that may be under way to the store at once.
pub(crate) const FLYING_MOST: usize = 3;
/// How soon a failed put is tried again: at first, and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// How soon a failed snapshot is tried again.
const SNAPSHOT_RETRY: Duration = Duration::from_secs(5);
/// At the end of a mount the snapshot takes in the journal from so many bytes on: the next one need not
/// read them again.
const LAST_SNAPSHOT: usize = 256 << 10;

/// So long it may take there; else the next mount has more to read.
const LAST_SNAPSHOT_WAIT: Duration = Duration::from_secs(20);
/// A snapshot is taken from so many journaled bytes on even where it has fewer.
const SNAPSHOT_LEAST: usize = 2 << 20;
/// Blobs that a snapshot made needless are deleted so many at a time: disks do little else until they have deleted them.
const DELETED_AT_ONCE: usize = 128;
/// How often the store is asked for its room, at most.
const ROOM_EVERY: Duration = Duration::from_millis(200);

/// What the leader of a volume knows besides its tables.
pub(crate) struct Leader {
    pub(crate) tables: Arc<Tables>,
    pub(crate) store: Arc<dyn VolumeStore>,
    pub(crate) namer: Namer,
    /// What the volume is called.
    pub(crate) name: String,
    /// LSN of the first entry of this epoch, and the epoch that the entry before it is of.
    pub(crate) first: (u64, u64),
    /// LSN of the next entry.
    pub(crate) next: u64,
    /// Number of the next chunk, of whichever snapshot.
    pub(crate) chunk: Arc<AtomicU64>,
    /// The snapshot that is in the store, and its blob.
    pub(crate) snapshot: (Manifest, Option<BlobId>),
    /// Entries that are in the store and not in the snapshot, in order.
    pub(crate) entries: Vec<BlobId>,
    /// When the store was last asked for its room.
    pub(crate) asked_for_room: Option<Instant>,
    pub(crate) metrics: Arc<Metrics>,
}

/// What comes of a batch that was sent: the names of its entries.
struct Landed {
    ids: Vec<BlobId>,
    result: Result<(), StoreError>,
}

/// A snapshot that was taken.
struct Taken {
    manifest: Manifest,
    id: BlobId,
}

/// Batches on their way to the store.
#[derive(Default)]
struct Sending {
    flying: VecDeque<oneshot::Receiver<Landed>>,
    /// A batch of several entries is among them: it flies alone.
    long: bool,
    /// When what is in memory has to go, if there is anything.
    due_at: Option<Instant>,
}

impl Sending {
    fn may_send(&self) -> bool {
        self.flying.len() < FLYING_MOST && !self.long
    }

    /// What comes of the oldest batch.
    async fn landed(&mut self) -> Landed {
        let Some(oldest) = self.flying.front_mut() else { return std::future::pending().await };
        let landed = oldest.await.expect("a flight tells what comes of it");
        self.flying.pop_front();
        landed
    }

    /// When something has to go, and can.
    fn due(&self) -> Option<Instant> {
        self.due_at.filter(|_| self.may_send())
    }
}

/// What goes on beside batches.
enum Work {
    /// A snapshot is taken.
    Snapshot(JoinHandle<Result<Taken, MetaError>>),
    /// What it made needless is deleted.
    Deletion(JoinHandle<()>),
}

impl Work {
    fn abort(&self) {
        match self {
            Self::Snapshot(task) => task.abort(),
            Self::Deletion(task) => task.abort(),
        }
    }
}

/// What has ended of that.
enum Ended {
    Snapshot(Result<Taken, MetaError>),
    Deletion,
}

/// A snapshot under way, or what comes after it, or when there may be one.
struct Snapshots {
    task: Option<Work>,
    not_before: Instant,
}

impl Snapshots {
    fn may_begin(&self) -> bool {
        self.task.is_none() && Instant::now() >= self.not_before
    }

    /// What comes of what is under way; it is, no longer.
    async fn ended(&mut self) -> Ended {
        let Some(task) = &mut self.task else { return std::future::pending().await };
        let ended = match task {
            Work::Snapshot(task) => {
                let taken = task.await;
                Ended::Snapshot(taken.unwrap_or_else(|e| Err(MetaError::Engine(e.to_string()))))
            }
            Work::Deletion(task) => {
                // What one that panicked has left is deleted by the next mount.
                let _panicked = task.await;
                Ended::Deletion
            }
        };
        self.task = None;
        ended
    }

    /// When one may begin that might not yet.
    fn again(&self) -> Option<Instant> {
        (self.task.is_none() && !self.may_begin()).then_some(self.not_before)
    }
}

impl Drop for Snapshots {
    /// Of a leader that is none any more nothing goes on.
    fn drop(&mut self) {
        self.task.iter().for_each(Work::abort);
    }
}

impl Leader {
    /// Leads until told to stop, then sends what there is, and ends with a snapshot if one is due. Each turn of the
    /// loop sends, begins a snapshot, or ends, as far as it can; then it waits for whatever may change that.
    pub(crate) async fn lead(mut self, stop: CancellationToken, mut deposed: Deposed) {
        let mut sending = Sending::default();
        let mut snapshots = Snapshots { task: None, not_before: Instant::now() };
        // Once told to stop: so long a snapshot may still take.
        let mut end: Option<Instant> = None;
        self.count();
        self.learn_room().await;
        loop {
            if stop.is_cancelled() {
                end.get_or_insert_with(|| Instant::now() + LAST_SNAPSHOT_WAIT);
            }
            self.send_what_is_due(&mut sending, end.is_some());
            let all_sent = sending.flying.is_empty();
            if snapshots.may_begin() && (end.is_none() || all_sent) {
                snapshots.task = self.begin_snapshot(end.is_some()).map(Work::Snapshot);
            }
            let late = end.is_some_and(|end| Instant::now() >= end);
            if end.is_some() && all_sent && (late || snapshots.task.is_none()) {
                return;
            }
            let (due, again) = (sending.due(), snapshots.again());
            let goes_on = tokio::select! {
                landed = sending.landed() => self.land(landed, &mut sending).await,
                fenced = deposed.heard() => self.yield_to(&fenced),
                ended = snapshots.ended() => match ended {
                    Ended::Snapshot(Ok(taken)) => {
                        snapshots.task = Some(Work::Deletion(self.take_over_snapshot(taken)));
                        true
                    }
                    Ended::Snapshot(Err(error)) => {
                        tracing::warn!("the snapshot of the metadata will be tried again: {error}");
                        snapshots.not_before = Instant::now() + SNAPSHOT_RETRY;
                        end.is_none()
                    }
                    Ended::Deletion => {
                        self.asked_for_room = None;
                        self.learn_room().await;
                        true
                    }
                },
                () = self.tables.wanted.notified() => true,
                () = wait_until(due) => true,
                () = wait_until(again) => true,
                () = stop.cancelled(), if end.is_none() => true,
                () = wait_until(end), if !late => true,
            };
            if !goes_on {
                return;
            }
        }
    }

    /// Sends batches as long as there are any that somebody waits for, or that are due: at the end all are.
    fn send_what_is_due(&mut self, sending: &mut Sending, ending: bool) {
        let now = Instant::now();
        let due = ending || sending.due_at.is_some_and(|at| at <= now);
        while sending.may_send()
            && let Some(batch) = self.tables.next_batch(sending.flying.len(), due)
        {
            let (entries, flight) = self.send(&batch.batch);
            sending.flying.push_back(flight);
            sending.long = entries > 1;
            sending.due_at = None;
        }
        // What stays in memory for ever, as nothing can be changed any more, is not due either.
        let unsent = self.tables.has_unsent(sending.flying.len());
        let due_at = sending.due_at.unwrap_or(now + self.tables.bounds.interval);
        sending.due_at = unsent.then_some(due_at);
    }

    /// Bytes of journaled changes from which on they are merged into the snapshot: about as many as that has,
    /// so that the journal of a small volume takes little room, and few when there is little.
    fn snapshot_bytes(&self) -> usize {
        let most = self.tables.bounds.snapshot_bytes;
        let there = self.tables.snapshot_bytes() as usize;
        if !self.tables.may_grow() {
            return (there / 4).clamp(LAST_SNAPSHOT.min(most), most);
        }
        there.clamp(SNAPSHOT_LEAST.min(most), most)
    }

    /// Says how much disk the journal and the snapshot take.
    fn count(&self) {
        let (manifest, id) = &self.snapshot;
        let blobs = manifest.chunks().map(|chunk| &chunk.id).chain(id).chain(&self.entries);
        self.tables.note_disk_bytes(blobs.map(BlobId::disk_bytes).sum());
    }

    /// Asks how much metadata may still grow.
    async fn learn_room(&mut self) {
        if self.asked_for_room.is_none_or(|at| at.elapsed() >= ROOM_EVERY) {
            self.asked_for_room = Some(Instant::now());
            self.tables.note_room(self.store.room(self.namer.scheme).await);
        }
    }

    /// Puts a batch into the journal, again and again until it is there; with the number of its entries.
    fn send(&mut self, batch: &crate::engine::Batch) -> (usize, oneshot::Receiver<Landed>) {
        let (first, before) = self.first;
        let at = Standing {
            epoch: self.namer.epoch,
            lsn: self.next,
            first,
            before,
            snapshot: (self.snapshot.0.epoch, self.snapshot.0.lsn),
        };
        let entries =
            entry::encode(self.namer.volume, &self.name, at, batch, self.tables.bounds.entry_bytes);
        self.next += entries.len() as u64;
        let named = entries.into_iter().zip(at.lsn..).map(|(bytes, lsn)| {
            let id = self.namer.name(Role::Entry, lsn, bytes.len());
            (id.expect("an entry fits into a blob"), Bytes::from(bytes))
        });
        let entries: Vec<_> = named.collect();
        let count = entries.len();
        let (store, tables, metrics) =
            (self.store.clone(), self.tables.clone(), self.metrics.clone());
        let flight = async move {
            if entries.len() > 1 {
                // Of several, one flies at a time, and none beside what is before them.
                tables.durable_to(at.lsn - 1).await;
            }
            let begun = Instant::now();
            let mut ids = Vec::with_capacity(entries.len());
            for (id, bytes) in entries {
                let failed = |error: &StoreError| {
                    metrics.retries.increment(1);
                    tables.not_put(error);
                };
                let result = put_until_there(&*store, id, bytes, &failed).await;
                ids.push(id);
                if result.is_err() {
                    return Landed { ids, result };
                }
            }
            metrics.batch_seconds.record(begun.elapsed());
            Landed { ids, result: Ok(()) }
        };
        (count, begin_flight(flight))
    }

    /// The oldest batch under way has arrived; `false`: another leads now.
    async fn land(&mut self, Landed { ids, result }: Landed, sending: &mut Sending) -> bool {
        match result {
            Ok(()) => {
                let last = ids.last().expect("a batch has an entry");
                self.tables.durable(last.sequence());
                sending.long &= ids.len() == 1;
                let bytes = ids.iter().map(|id| u64::from(id.len())).sum();
                self.metrics.entries.increment(ids.len() as u64);
                self.metrics.bytes.increment(bytes);
                self.tables.take_room(bytes);
                self.tables.add_disk_bytes(ids.iter().map(BlobId::disk_bytes).sum());
                self.entries.extend(ids);
                self.learn_room().await;
                true
            }
            Err(error) => self.yield_to(&error),
        }
    }

    /// Another leads: nothing more is done here.
    fn yield_to(&self, fenced: &StoreError) -> bool {
        tracing::error!("{fenced}: nothing more can be written here");
        self.tables.end(&fenced.to_string());
        false
    }

    /// Merges what is journaled into the snapshot, once it has grown enough.
    fn begin_snapshot(&self, ending: bool) -> Option<JoinHandle<Result<Taken, MetaError>>> {
        let bytes = if ending { LAST_SNAPSHOT } else { self.snapshot_bytes() };
        let many = self.entries.len() >= self.tables.bounds.snapshot_entries;
        let (newer, lsn, runs) = self.tables.freeze(if many { 0 } else { bytes })?;
        let (tables, store, namer) = (self.tables.clone(), self.store.clone(), self.namer);
        let (name, chunk) = (self.name.clone(), self.chunk.clone());
        // What was removed gives its room back only where it is merged away.
        let all = !self.tables.may_grow();
        let metrics = self.metrics.clone();
        Some(tokio::spawn(async move {
            let begun = Instant::now();
            let size = crate::journal::tables::size_of_batch(&newer) as u64;
            let depth = if all { runs.len() } else { merge::depth(&newer, size, &runs) };
            let (merged, older) = runs.split_at(depth);
            let made = Mutex::default();
            let (store, cache) = (&*store, &tables.cache);
            let out = Output { store, cache, namer, sequence: &chunk, made: &made };
            let run = match merge::merge(&newer, merged, older.is_empty(), out).await {
                Ok(run) => run,
                Err(why) => {
                    let made = made.into_inner();
                    made.iter().for_each(|chunk| cache.forget(*chunk));
                    if let Err(error) = store.delete(&made).await {
                        tracing::debug!("chunks of a failed snapshot stay: {error}");
                    }
                    return Err(why);
                }
            };
            let runs = std::iter::once(run).chain(older.iter().cloned()).collect();
            let manifest = Manifest { name, epoch: namer.epoch, lsn, runs };
            let bytes = Bytes::from(manifest.encode(namer.volume));
            let id = namer.name(Role::Manifest, lsn, bytes.len());
            let id = id.ok_or_else(|| MetaError::Engine("the volume is too large".to_owned()))?;
            // It may be in the store though its put failed, so that nothing else may have its name.
            put_until_there(store, id, bytes, &|e| tracing::warn!("writing a snapshot: {e}"))
                .await
                .map_err(|e| MetaError::Engine(e.to_string()))?;
            metrics.snapshot_seconds.record(begun.elapsed());
            let chunks = made.into_inner();
            metrics.snapshot_bytes.increment(chunks.iter().map(|id| u64::from(id.len())).sum());
            Ok(Taken { manifest, id })
        }))
    }

    /// A snapshot has been taken: what it made needless is deleted, while batches go on.
    fn take_over_snapshot(&mut self, Taken { manifest, id }: Taken) -> JoinHandle<()> {
        self.tables.merged(manifest.runs.clone());
        self.tables.note_snapshot();
        let (old, old_id) = std::mem::replace(&mut self.snapshot, (manifest, Some(id)));
        let kept: BTreeSet<BlobId> = self.snapshot.0.chunks().map(|chunk| chunk.id).collect();
        let chunks = old.chunks().map(|chunk| chunk.id).filter(|id| !kept.contains(id));
        let chunks: Vec<BlobId> = chunks.collect();
        let lsn = self.snapshot.0.lsn;
        let behind = self.entries.partition_point(|entry| entry.sequence() <= lsn);
        let mut needless: Vec<BlobId> = self.entries.drain(..behind).collect();
        needless.extend(&chunks);
        needless.extend(old_id);
        self.count();
        let (store, tables) = (self.store.clone(), self.tables.clone());
        tokio::spawn(async move {
            delete(&*store, &needless).await;
            chunks.iter().for_each(|chunk| tables.cache.forget(*chunk));
        })
    }
}

/// Deletes blobs that nobody needs, a few at a time. Those of which that is not confirmed are deleted again with others.
async fn delete(store: &dyn VolumeStore, needless: &[BlobId]) {
    let mut left = needless;
    while !left.is_empty() {
        let (some, others) = left.split_at(left.len().min(DELETED_AT_ONCE));
        let mut deleted = store.delete(some).await;
        left = others;
        if deleted.is_err() && !left.is_empty() {
            // With each of them those before would be asked for again: all others at once.
            deleted = store.delete(left).await;
            left = &[];
        }
        if let Err(error) = deleted {
            tracing::debug!("needless blobs of metadata stay for the next mount: {error}");
        }
    }
}

/// Puts a batch on its way. Whoever has the answer of a slot goes on with it, so that only the last one wakes the
/// leader. It ends when nobody waits for it any more.
fn begin_flight(
    flight: impl Future<Output = Landed> + Send + 'static,
) -> oneshot::Receiver<Landed> {
    let (mut tell, landed) = oneshot::channel();
    let flying = async move {
        tokio::select! {
            landed = flight => drop(tell.send(landed)),
            () = tell.closed() => {}
        }
    };
    on_wake::begin(&Handle::current(), Threads::Any, Box::pin(flying));
    landed
}

/// Puts a blob, the same bytes again and again until they are there or another leads; says each time why not.
async fn put_until_there(
    store: &dyn VolumeStore,
    id: BlobId,
    bytes: Bytes,
    failed: &(dyn Fn(&StoreError) + Sync),
) -> Result<(), StoreError> {
    let mut wait = RETRY.0;
    loop {
        match store.put(id, bytes.clone()).await {
            Err(error) if !matches!(error, StoreError::Fenced(_)) => failed(&error),
            result => return result,
        }
        sleep(wait).await;
        wait = (wait * 2).min(RETRY.1);
    }
}

async fn wait_until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
