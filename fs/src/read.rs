//! Reading: bytes in memory over extents over zeros.
//!
//! A read is planned under the file's lock, without waiting: what is not stored yet and the extents
//! remembered from metadata give a list of segments. When all of it is in memory the answer is
//! there at once, without a copy if it is one slice. Else the missing pieces of blobs are fetched:
//! a check block for a random read, more when misses walk through a blob, whole units ahead of a
//! sequential reader.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use meta::Ino;
use proto::guard::caught_in;
use proto::id::BlobId;
use proxy::BlobError;

use crate::cache::{Coming, Fetch};
use crate::data::{Data, DataError};
use crate::dirty::Found;
use crate::handle::{Handle, State, Window};

/// Largest unit of a fetch, in bytes.
const UNIT: u32 = 1 << 20;
/// Extents are asked for this far ahead, in bytes.
const WINDOW: u64 = 256 << 20;
/// At most so many extents are asked for: few for a random read of a fragmented file.
const EXTENTS: (usize, usize) = (16, 256);
/// How often a read is planned anew when blobs went away under it.
const REPLANS: usize = 4;
/// Requests of one sequential reader may overtake one another by this much.
const SLACK: u64 = 2 << 20;
/// First read-ahead; doubles with every read.
const FIRST_AHEAD: u64 = 512 << 10;
/// A first read of at least this is taken for the begin of a sequential one.
const BOLD: u64 = 64 << 10;

static ZEROS: [u8; 1 << 20] = [0; 1 << 20];

/// How a file is being read. Pure.
#[derive(Default)]
pub(crate) struct Reader {
    next: u64,
    streak: u32,
    ahead: u64,
}

impl Reader {
    /// Notes a read and answers what should be fetched ahead of the next ones, if anything.
    fn note(&mut self, range: &Range<u64>, limit: u64) -> Option<Range<u64>> {
        let follows = self.next > 0 && self.next.abs_diff(range.start) <= SLACK;
        let bold = range.start == 0 && range.end >= BOLD;
        // Small steps around one place are not a walk: it has to go on where the last one ended.
        if bold || (follows && (self.streak > 0 || range.start == self.next)) {
            self.streak += 1;
            self.next = if bold { range.end } else { self.next.max(range.end) };
        } else {
            *self = Self { next: range.end, streak: 0, ahead: 0 };
            return None;
        }
        if bold {
            self.ahead = 0;
        }
        let window = (FIRST_AHEAD << self.streak.min(16)).min(limit);
        let from = self.ahead.max(range.end);
        let to = range.end + window;
        // Not for every read: in steps of a quarter.
        (to >= from + window / 4).then(|| {
            self.ahead = to;
            from..to
        })
    }

    fn is_sequential(&self) -> bool {
        self.streak > 0
    }
}

/// A run of a file's bytes.
enum Segment {
    Memory(Bytes),
    Zeros(u64),
    Stored(BlobId, Range<u32>),
}

/// What can be said of a read under the file's lock.
enum Plan {
    Ready {
        segments: Vec<Segment>,
        sequential: bool,
        ahead: Vec<(BlobId, Range<u32>)>,
    },
    NeedsSize(u64),
    /// From where on, and at which count of changes.
    NeedsExtents(u64, u64),
}

/// A piece of the answer.
enum Piece {
    Here(Bytes),
    Missing(BlobId, Range<u32>),
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

fn zeros(len: u64) -> Bytes {
    match ZEROS.get(..len as usize) {
        Some(zeros) => Bytes::from_static(zeros),
        None => BytesMut::zeroed(len as usize).freeze(),
    }
}

/// Segments of `range` from extents alone; `None` where the window does not reach.
fn stored_segments(state: &State, range: Range<u64>, out: &mut Vec<Segment>) -> Option<()> {
    let mut at = range.start;
    while at < range.end {
        let window = state.window(at)?;
        let end = range.end.min(window.range.end);
        let first = window.extents.partition_point(|e| e.offset + e.len <= at);
        for extent in window.extents[first..].iter().take_while(|e| e.offset < end) {
            if extent.offset > at {
                out.push(Segment::Zeros(extent.offset - at));
                at = extent.offset;
            }
            let to = (extent.offset + extent.len).min(end);
            out.push(match extent.place {
                Some(place) => {
                    let from = place.offset + (at - extent.offset) as u32;
                    Segment::Stored(place.blob, from..from + (to - at) as u32)
                }
                None => Segment::Zeros(to - at),
            });
            at = to;
        }
        if at < end {
            out.push(Segment::Zeros(end - at));
            at = end;
        }
    }
    Some(())
}

/// Plans a read from what is in memory.
fn plan(state: &mut State, range: &Range<u64>, read_ahead: u64) -> Plan {
    let Some(size) = state.size() else { return Plan::NeedsSize(state.changes()) };
    let range = range.start..range.end.min(size);
    let mut segments = Vec::with_capacity(2);
    let mut at = range.start;
    while at < range.end {
        let (next, found) = match state.unstored.find(at..range.end) {
            Some((next, Found::Dirty(data))) => (next, Bytes::copy_from_slice(data)),
            Some((next, Found::Flying(data))) => (next, data),
            None => (range.end, Bytes::new()),
        };
        if stored_segments(state, at..next, &mut segments).is_none() {
            // Without a gap behind what is remembered, so that in the end all is.
            let from = state.window(range.start).map_or(range.start, |window| window.range.end);
            return Plan::NeedsExtents(from, state.changes());
        }
        at = next + found.len() as u64;
        if !found.is_empty() {
            segments.push(Segment::Memory(found));
        }
    }
    let ahead = state.reader.note(&range, read_ahead);
    let mut wanted = Vec::new();
    if let Some(ahead) = ahead {
        let reach = state.window(ahead.start).map_or(ahead.start, |window| window.range.end);
        let to = ahead.end.min(size).min(reach);
        let mut segments = Vec::new();
        if ahead.start < to && stored_segments(state, ahead.start..to, &mut segments).is_some() {
            wanted = stored(&segments);
        }
    }
    Plan::Ready { segments, sequential: state.reader.is_sequential(), ahead: wanted }
}

fn stored(segments: &[Segment]) -> Vec<(BlobId, Range<u32>)> {
    let stored = |segment: &Segment| match segment {
        Segment::Stored(blob, range) => Some((*blob, range.clone())),
        Segment::Memory(_) | Segment::Zeros(_) => None,
    };
    segments.iter().filter_map(stored).collect()
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
    /// The file's bytes in `range`, short at its end. Ready at once when everything is in memory.
    ///
    /// # Errors
    /// When bytes cannot be had now, or are lost.
    pub async fn read(self: &Arc<Self>, ino: Ino, range: Range<u64>) -> Result<Bytes, DataError> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let handle = self.handles.open(ino);
        let mut replans = 0;
        loop {
            let planned = {
                let mut state = handle.state.lock();
                state.check()?;
                plan(&mut state, &range, self.settings.read_ahead)
            };
            let (segments, sequential, ahead) = match planned {
                Plan::Ready { segments, sequential, ahead } => (segments, sequential, ahead),
                Plan::NeedsSize(changes) => {
                    let size = self.meta.getattr(ino).await?.size;
                    handle.state.lock().learn_size(size, changes);
                    continue;
                }
                Plan::NeedsExtents(at, changes) => {
                    self.learn_extents(&handle, at, at > range.start, changes).await?;
                    continue;
                }
            };
            let passed = if sequential { stored(&segments) } else { Vec::new() };
            let pieces = self.look_up(segments);
            passed.iter().for_each(|(blob, range)| self.cache.passed(blob, range));
            let missing = pieces.iter().any(|piece| matches!(piece, Piece::Missing(..)));
            let answer = if missing {
                let coming = self.start_fetches(&pieces, sequential);
                self.read_ahead(ahead);
                self.wait_for(pieces, coming).await
            } else {
                self.read_ahead(ahead);
                let here = pieces.into_iter().map(|piece| match piece {
                    Piece::Here(bytes) => bytes,
                    Piece::Missing(..) => unreachable!("nothing is missing"),
                });
                return Ok(join(here.collect()));
            };
            match answer {
                // The cleaner may have moved the bytes since metadata was asked.
                Err(BlobError::NotFound(_)) if replans < REPLANS => {
                    replans += 1;
                    handle.state.lock().layout_changed(None);
                }
                answer => return Ok(answer?),
            }
        }
    }

    /// Asks metadata for the extents from `at` on; `goes_on` where the remembered ones end.
    async fn learn_extents(
        &self,
        handle: &Handle,
        at: u64,
        goes_on: bool,
        changes: u64,
    ) -> Result<(), DataError> {
        let range = at..at.saturating_add(WINDOW);
        let sequential = handle.state.lock().reader.is_sequential();
        let limit = if sequential { EXTENTS.1 } else { EXTENTS.0 };
        let extents = self.meta.extents(handle.ino, range.clone(), limit).await?;
        let end = match extents.last() {
            Some(last) if extents.len() >= limit => last.offset + last.len,
            _ => range.end,
        };
        handle.state.lock().learn_window(Window { range: at..end, extents }, goes_on, changes);
        Ok(())
    }

    /// Takes what is in the cache; what is not is one piece per unit.
    fn look_up(&self, segments: Vec<Segment>) -> Vec<Piece> {
        let mut pieces = Vec::with_capacity(segments.len());
        for segment in segments {
            match segment {
                Segment::Memory(bytes) => pieces.push(Piece::Here(bytes)),
                Segment::Zeros(mut len) => {
                    while len > 0 {
                        let some = len.min(ZEROS.len() as u64);
                        pieces.push(Piece::Here(zeros(some)));
                        len -= some;
                    }
                }
                Segment::Stored(blob, range) => self.look_up_stored(blob, range, &mut pieces),
            }
        }
        pieces
    }

    fn look_up_stored(&self, blob: BlobId, range: Range<u32>, pieces: &mut Vec<Piece>) {
        let mut at = range.start;
        while at < range.end {
            if let Some(bytes) = self.cache.get(&blob, at..range.end) {
                at += bytes.len() as u32;
                pieces.push(Piece::Here(bytes));
                continue;
            }
            let unit = unit_around(&blob, at);
            let end = blob.scheme().block_around(blob.len(), at).end.min(range.end);
            match pieces.last_mut() {
                Some(Piece::Missing(last, missing))
                    if *last == blob && missing.end == at && missing.start >= unit.start =>
                {
                    missing.end = end;
                }
                _ => pieces.push(Piece::Missing(blob, at..end)),
            }
            at = end;
        }
    }

    /// Starts what has to be fetched for the missing pieces; answers all that is on its way there.
    fn start_fetches(self: &Arc<Self>, pieces: &[Piece], sequential: bool) -> Vec<Vec<Coming>> {
        let mut all = Vec::new();
        for piece in pieces {
            let Piece::Missing(blob, range) = piece else { continue };
            let unit = unit_around(blob, range.start);
            let wanted = if sequential {
                unit
            } else {
                let first = blob.scheme().block_around(blob.len(), range.start);
                let last = blob.scheme().block_around(blob.len(), range.end - 1);
                self.cache.widen_walk(blob, first.start..last.end, unit)
            };
            let (fetches, coming) = self.cache.claim(*blob, wanted);
            fetches.into_iter().for_each(|fetch| self.fetch(fetch));
            all.push(coming);
        }
        all
    }

    /// Fetches whole units that nobody has asked for yet.
    fn read_ahead(self: &Arc<Self>, wanted: Vec<(BlobId, Range<u32>)>) {
        for (blob, range) in wanted {
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
        // Its own task: others may wait for it too, and every get is bounded.
        tokio::spawn(async move {
            let getting = data.blobs.get(fetch.blob, fetch.range.clone());
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
        });
    }

    /// Waits for the missing pieces and puts the answer together.
    async fn wait_for(
        &self,
        pieces: Vec<Piece>,
        coming: Vec<Vec<Coming>>,
    ) -> Result<Bytes, BlobError> {
        let mut coming = coming.into_iter();
        let mut whole = Vec::with_capacity(pieces.len());
        for piece in pieces {
            match piece {
                Piece::Here(bytes) => whole.push(bytes),
                Piece::Missing(blob, range) => {
                    let sources = coming.next().expect("fetches for each missing piece");
                    self.fill(blob, range, sources, &mut whole).await?;
                }
            }
        }
        Ok(join(whole))
    }

    /// One missing piece from what came, or from what the cache has got meanwhile.
    async fn fill(
        &self,
        blob: BlobId,
        range: Range<u32>,
        sources: Vec<Coming>,
        whole: &mut Vec<Bytes>,
    ) -> Result<(), BlobError> {
        let mut at = range.start;
        while at < range.end {
            if let Some(source) = sources.iter().find(|source| source.range.contains(&at)) {
                let lost =
                    || BlobError::Unavailable { id: blob, why: "its fetch was dropped".into() };
                let bytes = source.awaited.clone().await.map_err(|_| lost())??;
                let to = source.range.end.min(range.end);
                let start = source.range.start;
                whole.push(bytes.slice((at - start) as usize..(to - start) as usize));
                at = to;
            } else if let Some(bytes) = self.cache.get(&blob, at..range.end) {
                at += bytes.len() as u32;
                whole.push(bytes);
            } else {
                // Here when it was claimed, evicted since.
                let end = unit_around(&blob, at).end.min(range.end);
                whole.push(self.blobs.get(blob, at..end).await?);
                at = end;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequential_readers_get_more_and_more_ahead_and_others_nothing() {
        const K: u64 = 1 << 10;
        let mut reader = Reader::default();
        assert_eq!(reader.note(&(0..4 * K), 8 << 20), None, "a short first read says nothing");
        assert!(reader.note(&(4 * K..8 * K), 8 << 20).is_some(), "the next one does");
        let mut reader = Reader::default();
        let mut ahead = 0;
        for nth in 0..200 {
            let range = nth * 128 * K..(nth + 1) * 128 * K;
            if let Some(wanted) = reader.note(&range, 8 << 20) {
                assert!(nth == 0 || wanted.start == ahead, "no gap, nothing twice");
                ahead = wanted.end;
            }
            assert!(nth == 0 || ahead >= range.end + (6 << 20).min(nth * 256 * K));
            assert!(ahead <= range.end + (8 << 20));
        }
        let mut reader = Reader::default();
        for at in [90u64, 17, 44, 3, 71, 28] {
            assert_eq!(reader.note(&(at << 30..(at << 30) + 4096), 8 << 20), None);
        }
    }
}
