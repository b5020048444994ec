//! From dirty ranges to stored ones: forms blobs, puts them, commits their extents.
//!
//! A blob on its way is **in flight**, and called a flight. Its bytes stay readable in their files until
//! the commit; if the put fails, or the flight is dropped half-way, they are dirty again. Data are durable before
//! metadata names them. The flusher starts flights as soon as enough is dirty for a full blob, and
//! sends everything once a second; fsync sends one file's ranges at once, on the caller's own task.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use meta::{FileUpdate, INLINE, Ino, MetaError, Time, is_inline};
use proto::id::BlobId;
use proto::limits::CHECK_BLOCK;
use tokio::time::Instant;

use crate::data::Data;
use crate::data::open_inode::OpenInode;
use crate::data::pack::Packer;
use crate::data::queue::{RETRY, Scope};
use crate::data::space::FULL_PATIENCE;
use crate::error::DataError;

/// Rounds in which a sync tries to store what other flights kept back.
const ROUNDS: usize = 4;

/// What metadata was told of one file's times, or why it does not take the file.
type Told = Result<Option<Time>, MetaError>;

/// How far a pass over files has come.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cursor {
    ino: Ino,
    offset: u64,
}

impl Cursor {
    const START: Self = Self { ino: Ino(0), offset: 0 };
}

/// Bytes that are on their way, or about to be. However they come to grief, they are dirty again, and
/// nobody waits for them.
struct InFlight {
    data: Arc<Data>,
    number: u64,
    /// In order of inode.
    files: Vec<Arc<OpenInode>>,
    ended: bool,
}

/// A blob on its way.
struct InFlightBlob {
    in_flight: InFlight,
    id: BlobId,
    bytes: Bytes,
}

impl InFlight {
    /// Before any range says it flies, so that nobody takes it for landed.
    fn start(data: &Arc<Data>) -> Self {
        let number = data.sequence.fetch_add(1, Relaxed);
        data.queue.in_flight.lock().insert(number, 0);
        Self { data: Arc::clone(data), number, files: Vec::new(), ended: false }
    }

    /// Nobody needs to wait for it.
    fn end(&mut self) {
        self.ended = true;
        self.data.queue.in_flight.lock().remove(&self.number);
        self.data.queue.landed.notify_waiters();
    }

    /// Its bytes are dirty again.
    fn give_back(&mut self, error: Option<&DataError>) {
        for open_inode in &self.files {
            let mut state = open_inode.state.lock();
            self.data.change(open_inode, &mut state, 0, |ranges| ranges.give_back(self.number));
            if let Some(error) = error {
                state.error = Some(error.clone());
            }
        }
        self.data.failures.fetch_add(1, Relaxed);
        self.end();
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if !self.ended {
            // Its blob may be stored, and nothing names it.
            self.data.leaked.store(true, Relaxed);
            self.give_back(None);
        }
    }
}

impl Data {
    /// Packs a blob from where `cursor` stands, and moves it on. `None` when nothing is left there
    /// (or, if it may `wrap` around to the first file, anywhere).
    fn form(
        self: &Arc<Self>,
        scope: &Scope<'_>,
        cursor: &mut Cursor,
        wrap: bool,
    ) -> Option<InFlightBlob> {
        let start = *cursor;
        let mut wrapped = !wrap;
        let mut in_flight = InFlight::start(self);
        let number = in_flight.number;
        let mut packer = Packer::of(self.space.blob());
        loop {
            let Some(open_inode) = scope.next(&self.queue, cursor.ino) else {
                if wrapped {
                    break;
                }
                (wrapped, *cursor) = (true, Cursor::START);
                continue;
            };
            if wrap && wrapped && open_inode.ino > start.ino {
                break;
            }
            let from = if open_inode.ino == cursor.ino { cursor.offset } else { 0 };
            let before = packer.data_len();
            let ino = open_inode.ino;
            in_flight.files.push(Arc::clone(&open_inode));
            let mut state = open_inode.state.lock();
            let stopped = self.change(&open_inode, &mut state, 0, |ranges| {
                ranges.take(number, from, &mut packer)
            });
            self.queue.settle(&open_inode, &mut state);
            drop(state);
            if packer.data_len() == before {
                in_flight.files.pop();
            }
            *cursor = match stopped {
                Some(offset) => Cursor { ino, offset },
                None => Cursor { ino: Ino(ino.0 + 1), offset: 0 },
            };
            if stopped.is_some() || packer.is_full() {
                break;
            }
        }
        if packer.is_empty() {
            in_flight.end();
            return None;
        }
        in_flight.files.sort_unstable_by_key(|open_inode| open_inode.ino);
        in_flight.files.dedup_by_key(|open_inode| open_inode.ino);
        let len = packer.blob_len();
        // Who waits for one file waits for its metadata next.
        let inline = matches!(scope, Scope::One(_)) && self.takes_inline(len);
        let id = self.blob_id(number | if inline { INLINE } else { 0 }, len);
        let bytes = packer.assemble(&self.pool);
        self.queue.in_flight.lock().insert(number, bytes.len() as u64);
        Some(InFlightBlob { in_flight, id, bytes })
    }

    /// Puts and commits one blob.
    async fn fly(self: &Arc<Self>, mut flight: InFlightBlob) -> Result<(), DataError> {
        match self.store(&flight).await {
            Ok(sent) => {
                let number = flight.in_flight.number;
                for (open_inode, mtime) in flight.in_flight.files.iter().zip(sent) {
                    let mut state = open_inode.state.lock();
                    let mtime = match mtime {
                        Ok(mtime) => mtime,
                        Err(why) => {
                            self.give_up(open_inode, &mut state, &why.into());
                            continue;
                        }
                    };
                    let landed = state.dirty_ranges.landed(number, flight.id);
                    state.landed(landed.last().map_or(0, |e| e.offset + e.len));
                    self.change(open_inode, &mut state, 0, |ranges| ranges.settle(number));
                    state.error = None;
                    if mtime.is_some() && state.mtime == mtime {
                        state.mtime = None;
                    }
                }
                flight.in_flight.end();
                self.status.lock().last_error = None;
                Ok(())
            }
            Err(error) => {
                if error == DataError::NoSpace {
                    self.space.refuse();
                }
                let blob = flight.id;
                tracing::warn!(%blob, %error, "a blob is not stored; its bytes are tried again");
                self.status.lock().last_error = Some(error.clone());
                flight.in_flight.give_back(Some(&error));
                self.budget.freed.notify_waiters();
                Err(error)
            }
        }
    }

    fn blob_id(&self, sequence: u64, len: u32) -> BlobId {
        let scheme = self.volume.scheme;
        // Of a small blob, whole copies cost fewer and whole I/Os.
        let scheme = if len <= CHECK_BLOCK { scheme.as_copies() } else { scheme };
        let group = self.blobs.group();
        BlobId::new(self.volume.id, self.session, sequence, group, len, scheme)
            .expect("a packed blob is not empty and not too long")
    }

    /// The id of a new blob.
    pub(crate) fn next_blob(&self, len: u32) -> BlobId {
        self.blob_id(self.sequence.fetch_add(1, Relaxed), len)
    }

    /// Puts a blob. One that fails is garbage from then on.
    pub(crate) async fn put(&self, id: BlobId, bytes: Bytes) -> Result<(), DataError> {
        match self.blobs.put(id, bytes).await {
            Ok(_) => {
                let mut status = self.status.lock();
                status.blobs_put += 1;
                status.bytes_put += u64::from(id.len());
                Ok(())
            }
            Err(error) => {
                self.abandon(id).await;
                Err(error.into())
            }
        }
    }

    /// The blob, or parts of it, may lie somewhere, and nothing will ever name them.
    pub(crate) async fn abandon(&self, id: BlobId) {
        if is_inline(&id) {
            return;
        }
        if let Err(error) = self.meta.adopt_garbage(&[id]).await {
            tracing::warn!(blob = %id, %error, "an abandoned blob is left to the next mount's sweep");
            self.leaked.store(true, Relaxed);
        }
    }

    /// The two steps, in this order. Answers which time was told to metadata of each file, or why it
    /// takes nothing of that one.
    async fn store(&self, flight: &InFlightBlob) -> Result<Vec<Told>, DataError> {
        let room = self.room_to_put(&flight.id).await?;
        if !is_inline(&flight.id) {
            self.put(flight.id, flight.bytes.clone()).await?;
        }
        drop(room);
        let files = &flight.in_flight.files;
        let mut orders = Vec::with_capacity(files.len());
        for open_inode in files {
            orders.push(open_inode.order.lock().await);
        }
        let mut updates = Vec::with_capacity(files.len());
        let mut times: Vec<Told> = Vec::with_capacity(files.len());
        for open_inode in files {
            let state = open_inode.state.lock();
            let extents = state.dirty_ranges.landed(flight.in_flight.number, flight.id);
            let Some(last) = extents.last() else {
                times.push(Ok(None));
                continue;
            };
            times.push(Ok(state.mtime));
            let size_at_least = Some(last.offset + last.len);
            updates.push(FileUpdate {
                ino: open_inode.ino,
                size_at_least,
                extents,
                mtime: state.mtime,
            });
        }
        let refused = match self.commit(flight.id, &flight.bytes, &updates).await {
            Ok(refused) => refused,
            Err(error) => {
                self.abandon(flight.id).await;
                return Err(error.into());
            }
        };
        for (ino, why) in refused {
            let at = files.iter().position(|open_inode| open_inode.ino == ino);
            times[at.expect("an update is of a file of the flight")] = Err(why);
        }
        if is_inline(&flight.id) {
            self.inline_bytes.fetch_add(flight.id.len().into(), Relaxed);
            if self.inline_is_due() {
                self.space.wanted.notify_one();
            }
        }
        self.note_stored().await;
        self.queue.commits.fetch_add(1, SeqCst);
        Ok(times)
    }

    /// Commits what a blob holds of files. Where damage refuses one of them, the others go each by
    /// itself; answers which were refused. Nothing else changes these files meanwhile.
    async fn commit(
        &self,
        id: BlobId,
        bytes: &Bytes,
        updates: &[FileUpdate],
    ) -> Result<Vec<(Ino, MetaError)>, MetaError> {
        let commit = async |updates: &[FileUpdate]| match is_inline(&id) {
            true => self.meta.commit_inline(id, bytes, updates).await,
            false => self.meta.commit(&[id], updates).await,
        };
        match commit(updates).await {
            Err(MetaError::Damaged(_)) => {}
            committed => return committed.map(|()| Vec::new()),
        }
        let mut refused = Vec::new();
        for update in updates {
            match commit(std::slice::from_ref(update)).await {
                Err(why @ MetaError::Damaged(_)) => refused.push((update.ino, why)),
                committed => committed?,
            }
        }
        if refused.len() == updates.len() {
            self.abandon(id).await;
        }
        Ok(refused)
    }

    /// Stores what is dirty in the scope now, in one pass; stops at the first failure.
    async fn pass(self: &Arc<Self>, scope: &Scope<'_>) -> Result<(), DataError> {
        let mut cursor = Cursor::START;
        let mut flights = FuturesUnordered::new();
        let mut failed = None;
        loop {
            while failed.is_none() && flights.len() < self.settings.puts_in_flight {
                match self.form(scope, &mut cursor, false) {
                    Some(flight) => flights.push(self.fly(flight)),
                    None => break,
                }
            }
            match flights.next().await {
                Some(Ok(())) => {}
                Some(Err(error)) => failed = Some(error),
                None => return failed.map_or(Ok(()), Err),
            }
        }
    }

    /// Returns when every byte of the scope that was written before the call is stored and
    /// committed.
    ///
    /// Bytes that overlap a flight are kept back by [`crate::data::dirty_ranges`] until it has ended, hence a
    /// second round; a flight of the flusher that fails gives its bytes back, hence further ones.
    pub(crate) async fn settle(self: &Arc<Self>, scope: &Scope<'_>) -> Result<(), DataError> {
        for round in 0..ROUNDS {
            let failures = self.failures.load(Relaxed);
            let others = scope.flights(&self.queue);
            let refused_until = Instant::now() + FULL_PATIENCE;
            loop {
                match self.pass(scope).await {
                    // The store may count what was deleted a little later than we do.
                    Err(DataError::NoSpace) if Instant::now() < refused_until => {
                        tokio::time::sleep(RETRY.0).await;
                        self.learn_space().await;
                    }
                    passed => break passed?,
                }
            }
            self.queue.landed(&others).await;
            // The flusher may have taken bytes of the scope before the pass came to them.
            self.queue.landed(&scope.flights(&self.queue)).await;
            let calm = failures == self.failures.load(Relaxed);
            if calm && (others.is_empty() || round > 0) {
                return Ok(());
            }
        }
        let error = self.status.lock().last_error.clone();
        Err(error.unwrap_or_else(|| DataError::Unavailable("other flights kept failing".into())))
    }

    /// Starts flights until stopped.
    pub(crate) async fn run_flusher(self: Arc<Self>) {
        let mut flusher =
            Flusher { cursor: Cursor::START, due: None, drain: false, retry: None, pause: RETRY.0 };
        let mut flights = FuturesUnordered::new();
        loop {
            self.launch(&mut flusher, &mut flights);
            let wake = flusher.wake();
            tokio::select! {
                () = self.stopping.cancelled() => break,
                () = self.queue.kick.notified() => {}
                () = until(wake) => {}
                Some(ended) = flights.next(), if !flights.is_empty() => flusher.ended(&ended),
            }
        }
        // Each put is bounded, so this is too.
        while flights.next().await.is_some() {}
    }

    /// Starts as many flights as may be and are worth it.
    fn launch(self: &Arc<Self>, flusher: &mut Flusher, flights: &mut FuturesUnordered<Landing>) {
        let now = Instant::now();
        if flusher.retry.is_some_and(|at| at > now) {
            return;
        }
        flusher.retry = None;
        if flusher.due.is_none() && self.armed.swap(false, Relaxed) {
            flusher.due = Some(now + self.settings.flush_interval);
        }
        if flusher.due.is_some_and(|at| at <= now) {
            (flusher.due, flusher.drain, flusher.cursor) = (None, true, Cursor::START);
        }
        while flights.len() < self.settings.puts_in_flight {
            let enough = self.budget.dirty() >= u64::from(self.space.blob())
                || (flights.is_empty() && self.budget.is_pressed() && self.budget.dirty() > 0);
            if !enough && !flusher.drain {
                return;
            }
            let formed = self.form(&Scope::All, &mut flusher.cursor, !flusher.drain);
            let Some(flight) = formed else {
                // What is still dirty overlaps a flight: its end wakes us, and so does the clock.
                if flusher.drain && self.budget.dirty() > 0 {
                    flusher.due = Some(now + self.settings.flush_interval);
                }
                (flusher.drain, flusher.cursor) = (false, Cursor::START);
                return;
            };
            let small = flight.id.len() < self.space.blob() / 2;
            let data = Arc::clone(self);
            // Ends with its put, which is bounded; `stop` waits for it.
            flights.push(tokio::spawn(async move { data.fly(flight).await }));
            if small && !flusher.drain {
                return;
            }
        }
    }
}

async fn until(wake: Option<Instant>) {
    match wake {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

type Landing = tokio::task::JoinHandle<Result<(), DataError>>;

/// What the flusher's loop remembers.
struct Flusher {
    cursor: Cursor,
    /// When everything is to be sent.
    due: Option<Instant>,
    /// Everything is being sent, in one pass over all files.
    drain: bool,
    /// Not before this, after a failure.
    retry: Option<Instant>,
    pause: Duration,
}

impl Flusher {
    fn wake(&self) -> Option<Instant> {
        self.retry.or(self.due)
    }

    fn ended(&mut self, ended: &Result<Result<(), DataError>, tokio::task::JoinError>) {
        if matches!(ended, Ok(Ok(()))) {
            self.pause = RETRY.0;
        } else {
            let at = Instant::now() + self.pause;
            (self.retry, self.due) = (Some(at), Some(at));
            self.pause = (2 * self.pause).min(RETRY.1);
        }
    }
}
