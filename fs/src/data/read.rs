//! Reading: bytes in memory over extents over zeros.
//!
//! A read goes in slices of bounded work ([`crate::data::plan`]). Nearly always one is enough, and when all
//! of it is in memory the answer is there at once, without a copy if it is one run. Else the missing
//! pieces of blobs are fetched: a check block for a random read, more when misses walk through a
//! blob, whole units ahead of a sequential reader.
//!
//! A read of a fragmented file takes many slices. It leaves the caller's thread after the first, waits
//! for its turn (`TURNS`), so that memory and the threads of the runtime stay free for others, and
//! lets them go between two slices. Each slice asks metadata for its own extents: readers at several
//! places do not wait for one another's.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use meta::{Access, Ino, MetaError};
use proto::guard::caught_in;
use proto::id::BlobId;
use proto::on_wake::{self, Threads};
use proxy::BlobError;
use tokio::runtime::Handle;
use tokio::sync::SemaphorePermit;

use crate::data::Data;
use crate::data::cache::{Coming, Fetch};
use crate::data::open_inode::{OpenInode, State, WINDOW_EXTENTS};
use crate::data::plan::{Segment, Slice, Snapshot, Window};
use crate::error::DataError;

/// Largest unit of a fetch, in bytes.
const UNIT: u32 = 1 << 20;
/// Extents are asked for this far ahead, in bytes.
const WINDOW: u64 = 256 << 20;
/// Extents asked for ahead of a random read, which has no use for those behind it.
const FEW: usize = 16;
/// Reads of up to this do not wait for a turn before they have tried, in bytes.
const SHORT: u64 = 16 << 10;
/// How often a slice is planned anew when blobs went away under it.
const REPLANS: usize = 4;

/// How much one slice may be.
#[derive(Clone, Copy)]
struct Measure {
    /// Extents, and runs in memory.
    runs: usize,
    /// Fetches.
    fetches: usize,
}

/// On the thread of the caller, where others may wait.
const FIRST: Measure = Measure { runs: WINDOW_EXTENTS, fetches: 16 };
/// On a task of its own.
const FURTHER: Measure = Measure { runs: 1024, fetches: 64 };

static ZEROS: [u8; 1 << 20] = [0; 1 << 20];

/// A piece of the answer.
enum Piece {
    Here(Bytes),
    /// Of the run with this number.
    Missing(usize, Range<u32>),
}

impl Piece {
    fn len(&self) -> u64 {
        match self {
            Self::Here(bytes) => bytes.len() as u64,
            Self::Missing(_, range) => u64::from(range.end - range.start),
        }
    }
}

/// A run of a blob that is not in the cache, within one unit.
struct Missing {
    blob: BlobId,
    range: Range<u32>,
    /// Bytes of it that are needed.
    needed: u32,
}

/// What the cache has of a slice, and what not.
struct Found {
    pieces: Vec<Piece>,
    missing: Vec<Missing>,
    /// As far as there are not too many missing runs.
    end: u64,
}

impl Found {
    fn push(&mut self, piece: Piece) {
        self.end += piece.len();
        self.pieces.push(piece);
    }

    /// Notes that `range`, which lies in one check block, is missing; `false` when that is one run too
    /// many.
    fn miss(&mut self, blob: BlobId, range: Range<u32>, most: usize) -> bool {
        let unit = unit_around(&blob, range.start);
        let near = |run: &Missing| {
            let reach = run.range.end.saturating_add(proto::limits::CHECK_BLOCK);
            run.blob == blob
                && run.range.start >= unit.start
                && run.range.end <= unit.end
                && (run.range.start..=reach).contains(&range.start)
        };
        let number = match self.missing.iter().rposition(near) {
            Some(number) => number,
            None if self.missing.len() >= most => return false,
            None => {
                self.missing.push(Missing { blob, range: range.clone(), needed: 0 });
                self.missing.len() - 1
            }
        };
        let run = &mut self.missing[number];
        run.range.end = run.range.end.max(range.end);
        run.needed += range.end - range.start;
        self.end += u64::from(range.end - range.start);
        match self.pieces.last_mut() {
            Some(Piece::Missing(last, piece)) if *last == number && piece.end == range.start => {
                piece.end = range.end;
            }
            _ => self.pieces.push(Piece::Missing(number, range)),
        }
        true
    }
}

/// A slice of an answer.
struct Answer {
    pieces: Vec<Bytes>,
    end: u64,
    /// The file ends here.
    is_last: bool,
}

/// The range of the blob that is fetched at once around `at`, at most: its part, cut into units.
fn unit_around(blob: &BlobId, at: u32) -> Range<u32> {
    let part_len = blob.scheme().part_len(blob.len());
    let base = at / part_len * part_len;
    let start = base + (at - base) / UNIT * UNIT;
    start..start.saturating_add(UNIT).min(base.saturating_add(part_len)).min(blob.len())
}

/// Cuts `range` of a blob where units end.
fn units(blob: &BlobId, range: Range<u32>) -> impl Iterator<Item = Range<u32>> {
    let mut at = range.start;
    std::iter::from_fn(move || {
        (at < range.end).then(|| {
            let end = unit_around(blob, at).end.min(range.end);
            std::mem::replace(&mut at, end)..end
        })
    })
}

/// What can be said of a slice under the file's lock.
enum Plan {
    Ready {
        slice: Slice,
        is_last: bool,
    },
    NeedsSize,
    /// What is not in memory has to be asked for; the answer counts as of these changes.
    NeedsExtents {
        snapshot: Snapshot,
        changes: u64,
        is_last: bool,
    },
}

/// Plans the first slice of a range from what is in memory. It is the last one if the file ends there.
fn plan(state: &mut State, range: &Range<u64>, most: usize) -> Plan {
    let Some(size) = state.size() else { return Plan::NeedsSize };
    let end = range.end.min(size);
    let snapshot = Snapshot::take(&state.dirty_ranges, range.start..end, most);
    let is_last = end < range.end && snapshot.range.end >= end;
    if snapshot.is_whole() {
        return Plan::Ready { slice: snapshot.over(None, most), is_last };
    }
    let Some(window) = state.window(&snapshot.range) else {
        return Plan::NeedsExtents { snapshot, changes: state.changes(), is_last };
    };
    let end = snapshot.range.end;
    let slice = snapshot.over(Some(window), most);
    let is_last = is_last && slice.range.end == end;
    Plan::Ready { slice, is_last }
}

fn join(mut pieces: Vec<Bytes>) -> Bytes {
    if pieces.len() <= 1 {
        return pieces.pop().unwrap_or_default();
    }
    let mut whole = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
    pieces.iter().for_each(|piece| whole.extend_from_slice(piece));
    whole.freeze()
}

impl Data {
    /// The file's bytes in `range`, short at its end. Ready at once when everything is in memory and
    /// in few pieces.
    ///
    /// # Errors
    /// When bytes cannot be had now, or are lost.
    pub async fn read(self: &Arc<Self>, ino: Ino, range: Range<u64>) -> Result<Bytes, DataError> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let open_inode = self.open_inodes.open(ino);
        let _pins = self.using(&[(&open_inode, Access::Read)]).await?;
        let size = self.learn_size(&open_inode).await?;
        let range = range.start..range.end.min(size);
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let long = range.end - range.start > SHORT;
        let (sequential, ahead, fragmented) = {
            let mut state = open_inode.state.lock();
            let (sequential, ahead) = state.readers.note(&range, self.settings.read_ahead);
            (sequential, ahead, long && state.fragmented)
        };
        let turn = if fragmented { Some(self.turn().await) } else { None };
        let measure = if fragmented { FURTHER } else { FIRST };
        let first = self.slice(&open_inode, &range, measure, (sequential, ahead)).await?;
        let is_whole = first.is_last || first.end >= range.end;
        if long {
            open_inode.state.lock().fragmented = !is_whole;
        }
        if is_whole {
            return Ok(join(first.pieces));
        }
        let _turn = match turn {
            Some(turn) => turn,
            None => self.turn().await,
        };
        self.read_on(&open_inode, range, first, sequential).await
    }

    /// A read of more than one slice goes on where others wait for their turn, not on the thread that
    /// asks first.
    async fn turn(&self) -> SemaphorePermit<'_> {
        let turn = self.turns.acquire().await.expect("it is never closed");
        tokio::task::yield_now().await;
        turn
    }

    /// All slices of a read after the first.
    async fn read_on(
        self: &Arc<Self>,
        open_inode: &Arc<OpenInode>,
        range: Range<u64>,
        first: Answer,
        sequential: bool,
    ) -> Result<Bytes, DataError> {
        let mut whole = BytesMut::with_capacity((range.end - range.start) as usize);
        let mut last = first;
        loop {
            last.pieces.iter().for_each(|piece| whole.extend_from_slice(piece));
            if last.is_last || last.end >= range.end {
                return Ok(whole.freeze());
            }
            tokio::task::yield_now().await;
            let rest = last.end..range.end;
            last = self.slice(open_inode, &rest, FURTHER, (sequential, None)).await?;
        }
    }

    /// The size with what is not stored yet.
    async fn learn_size(&self, open_inode: &OpenInode) -> Result<u64, DataError> {
        loop {
            let changes = {
                let state = open_inode.state.lock();
                // What is lost is no empty file.
                state.check()?;
                if let Some(size) = state.size() {
                    return Ok(size);
                }
                state.changes()
            };
            let size = self.meta.getattr(open_inode.ino).await?.size;
            open_inode.state.lock().learn_size(size, changes);
        }
    }

    /// The first bytes of a range, as many as `measure` allows. `how`: is the reader a sequential one,
    /// and what is to be fetched ahead of it?
    async fn slice(
        self: &Arc<Self>,
        open_inode: &Arc<OpenInode>,
        range: &Range<u64>,
        measure: Measure,
        (sequential, ahead): (bool, Option<Range<u64>>),
    ) -> Result<Answer, DataError> {
        let mut replans = 0;
        loop {
            let (slice, is_last) = self.plan(open_inode, range, measure.runs, sequential).await?;
            let found = self.look_up(&slice, measure.fetches);
            let end = found.end;
            let is_last = is_last && end == slice.range.end;
            if sequential {
                slice.streams().iter().for_each(|(blob, run)| self.cache.passed(blob, run));
            }
            let coming = self.start_fetches(&found.missing, sequential);
            if let Some(ahead) = &ahead {
                self.read_ahead(open_inode, ahead.clone());
            }
            match self.wait_for(found, coming).await {
                // The cleaner may have moved the bytes since metadata was asked.
                Err(BlobError::NotFound(_)) if replans < REPLANS => {
                    replans += 1;
                    open_inode.state.lock().layout_changed(None);
                }
                answer => return Ok(Answer { pieces: answer?, end, is_last }),
            }
        }
    }

    /// What the first bytes of a range are made of; does the file end there?
    async fn plan(
        &self,
        open_inode: &Arc<OpenInode>,
        range: &Range<u64>,
        most: usize,
        sequential: bool,
    ) -> Result<(Slice, bool), DataError> {
        loop {
            let planned = {
                let mut state = open_inode.state.lock();
                state.check()?;
                plan(&mut state, range, most)
            };
            match planned {
                Plan::Ready { slice, is_last } => return Ok((slice, is_last)),
                Plan::NeedsSize => {}
                Plan::NeedsExtents { snapshot, changes, is_last } => {
                    let window =
                        self.ask(open_inode.ino, &snapshot.range, most, sequential).await?;
                    let end = snapshot.range.end;
                    let slice = snapshot.over(Some(&window), most);
                    open_inode.state.lock().learn_window(window, changes);
                    self.open_inodes.bound_windows();
                    let is_last = is_last && slice.range.end == end;
                    return Ok((slice, is_last));
                }
            }
            self.learn_size(open_inode).await?;
        }
    }

    /// Asks metadata for the extents of a range, at most `most`, and for some behind it.
    async fn ask(
        &self,
        ino: Ino,
        range: &Range<u64>,
        most: usize,
        sequential: bool,
    ) -> Result<Window, MetaError> {
        let far = range.start.saturating_add(WINDOW).max(range.end);
        let few = if sequential { most.min(WINDOW_EXTENTS) } else { FEW };
        let mut window = self.extents(ino, range.start..far, few).await?;
        if window.range.end < range.end && most > few {
            let rest = self.extents(ino, window.range.end..range.end, most - few).await?;
            window.range.end = rest.range.end;
            window.extents.extend(rest.extents);
        }
        Ok(window)
    }

    async fn extents(&self, ino: Ino, range: Range<u64>, most: usize) -> Result<Window, MetaError> {
        let extents = self.meta.extents(ino, range.clone(), most).await?;
        let end = match extents.last() {
            Some(last) if extents.len() >= most => (last.offset + last.len).min(range.end),
            _ => range.end,
        };
        Ok(Window { range: range.start..end, extents })
    }

    /// Takes what is in the cache; what is not is runs of at most a unit.
    fn look_up(&self, slice: &Slice, most: usize) -> Found {
        let pieces = Vec::with_capacity(slice.segments.len());
        let mut found = Found { pieces, missing: Vec::new(), end: slice.range.start };
        // Fragments mostly lie in the same unit as those before them.
        let mut unit: Option<(BlobId, u32, Bytes)> = None;
        for segment in &slice.segments {
            let (blob, range) = match segment {
                Segment::Memory(bytes) => {
                    found.push(Piece::Here(bytes.clone()));
                    continue;
                }
                Segment::Zeros(len) => {
                    push_zeros(&mut found, *len);
                    continue;
                }
                Segment::Stored(blob, range) => (*blob, range),
            };
            let mut at = range.start;
            while at < range.end {
                let has = |(of, start, bytes): &(BlobId, u32, Bytes)| {
                    *of == blob && *start <= at && at - start < bytes.len() as u32
                };
                if !unit.as_ref().is_some_and(has) {
                    let cached = self.cache.get(&blob, at);
                    unit = cached.map(|(start, bytes)| (blob, start, bytes)).or(unit);
                }
                if let Some((_, start, bytes)) = unit.as_ref().filter(|unit| has(unit)) {
                    let to = (range.end - start).min(bytes.len() as u32);
                    let here = bytes.slice((at - start) as usize..to as usize);
                    at += here.len() as u32;
                    found.push(Piece::Here(here));
                    continue;
                }
                let end = blob.scheme().block_around(blob.len(), at).end.min(range.end);
                if !found.miss(blob, at..end, most) {
                    return found;
                }
                at = end;
            }
        }
        found
    }

    /// Starts what has to be fetched for the missing runs; answers all that is on its way there.
    fn start_fetches(self: &Arc<Self>, missing: &[Missing], sequential: bool) -> Vec<Vec<Coming>> {
        let needed: u64 = missing.iter().map(|run| u64::from(run.needed)).sum();
        // What is fetched beyond the need is the less, the more places it is to be fetched from.
        let share = self.settings.read_ahead / missing.len().max(1) as u64;
        let share = u32::try_from(share).unwrap_or(u32::MAX);
        let start = |run: &Missing| {
            let unit = unit_around(&run.blob, run.range.start);
            let wanted = if sequential && 8 * u64::from(run.needed) >= needed {
                unit
            } else {
                let block = |at| run.blob.scheme().block_around(run.blob.len(), at);
                let blocks = block(run.range.start).start..block(run.range.end - 1).end;
                self.cache.widen_walk(&run.blob, blocks, unit, share)
            };
            let (fetches, coming) = self.cache.claim(run.blob, wanted);
            fetches.into_iter().for_each(|fetch| self.fetch(fetch));
            coming
        };
        missing.iter().map(start).collect()
    }

    /// Fetches whole units ahead of a reader, as far as it is known where they are, and where nobody
    /// has asked for them yet.
    fn read_ahead(self: &Arc<Self>, open_inode: &OpenInode, range: Range<u64>) {
        let slice = {
            let mut state = open_inode.state.lock();
            let size = state.size().unwrap_or(0);
            let snapshot = Snapshot::take(
                &state.dirty_ranges,
                range.start..range.end.min(size),
                WINDOW_EXTENTS,
            );
            let at = snapshot.range.start..snapshot.range.start + 1;
            match state.window(&at) {
                Some(window) if !snapshot.range.is_empty() => {
                    snapshot.over(Some(window), WINDOW_EXTENTS)
                }
                _ => return,
            }
        };
        for (blob, range) in slice.streams() {
            for piece in units(&blob, range) {
                if !self.cache.has_room_ahead() {
                    return;
                }
                let (fetches, _) = self.cache.claim(blob, unit_around(&blob, piece.start));
                fetches.into_iter().for_each(|fetch| self.fetch(fetch));
            }
        }
    }

    fn fetch(self: &Arc<Self>, fetch: Fetch) {
        let data = Arc::clone(self);
        // Others may wait for it too, and every get is bounded.
        let fetching = async move {
            let getting = data.get_blob(fetch.blob, fetch.range.clone());
            let fetched = caught_in("a read of a blob", getting).await.unwrap_or_else(|panicked| {
                Err(BlobError::Unavailable { id: fetch.blob, why: panicked.to_string() })
            });
            let fetched = fetched.and_then(|bytes| {
                if bytes.len() == fetch.range.len() {
                    Ok(bytes)
                } else {
                    let why = format!("{} bytes for range {:?}", bytes.len(), fetch.range);
                    Err(BlobError::Unavailable { id: fetch.blob, why })
                }
            });
            data.cache.arrived(fetch, fetched);
        };
        on_wake::begin(&Handle::current(), Threads::Patient, Box::pin(fetching));
    }

    /// Waits for the missing runs and puts the answer together.
    async fn wait_for(
        &self,
        found: Found,
        coming: Vec<Vec<Coming>>,
    ) -> Result<Vec<Bytes>, BlobError> {
        let mut runs = Vec::with_capacity(found.missing.len());
        for (run, sources) in found.missing.iter().zip(coming) {
            runs.push(self.arrive(run, sources).await?);
        }
        let mut whole = Vec::with_capacity(found.pieces.len());
        for piece in found.pieces {
            match piece {
                Piece::Here(bytes) => whole.push(bytes),
                Piece::Missing(run, range) => take(&runs[run], range, &mut whole),
            }
        }
        Ok(whole)
    }

    /// The bytes of one missing run, with where they start, from what came or from what the cache has
    /// got meanwhile.
    async fn arrive(
        &self,
        run: &Missing,
        sources: Vec<Coming>,
    ) -> Result<Vec<(u32, Bytes)>, BlobError> {
        let (blob, range) = (run.blob, &run.range);
        let mut parts = Vec::with_capacity(sources.len());
        let mut at = range.start;
        while at < range.end {
            let (start, bytes) =
                if let Some(source) = sources.iter().find(|source| source.range.contains(&at)) {
                    let lost =
                        || BlobError::Unavailable { id: blob, why: "its fetch was dropped".into() };
                    (source.range.start, source.awaited.clone().await.map_err(|_| lost())??)
                } else if let Some(unit) = self.cache.get(&blob, at) {
                    unit
                } else {
                    // Here when it was claimed, evicted since.
                    let end = unit_around(&blob, at).end.min(range.end);
                    (at, self.get_blob(blob, at..end).await?)
                };
            at = start + bytes.len() as u32;
            parts.push((start, bytes));
        }
        Ok(parts)
    }
}

fn push_zeros(found: &mut Found, mut len: u64) {
    while len > 0 {
        let some = len.min(ZEROS.len() as u64);
        found.push(Piece::Here(Bytes::from_static(&ZEROS[..some as usize])));
        len -= some;
    }
}

/// Takes a range out of the parts of a run.
fn take(parts: &[(u32, Bytes)], range: Range<u32>, out: &mut Vec<Bytes>) {
    let first = parts.partition_point(|(start, bytes)| start + bytes.len() as u32 <= range.start);
    let mut at = range.start;
    for (start, bytes) in &parts[first..] {
        let to = (range.end - start).min(bytes.len() as u32);
        out.push(bytes.slice((at - start) as usize..to as usize));
        at = start + to;
        if at == range.end {
            return;
        }
    }
}
