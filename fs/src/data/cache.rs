//! Pieces of blobs kept in memory to be read again.
//!
//! The unit is what was fetched at once: one check block for random reads, up to a whole part for
//! sequential ones. It is kept and evicted whole, because its slices share one allocation, so that
//! the bound on memory is honest. Units of a blob never overlap: what is here, or on its way, is
//! not fetched again.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::Shared;
use lru::LruCache;
use parking_lot::Mutex;
use proto::id::BlobId;
use proto::limits::CHECK_BLOCK;
use proxy::BlobError;
use tokio::sync::oneshot;

/// What a fetch brought, for all who wait for it.
pub(crate) type Fetched = Result<Bytes, BlobError>;
/// Where to wait for a fetch.
pub(crate) type Awaited = Shared<oneshot::Receiver<Fetched>>;

/// Cost of a unit beyond its bytes, roughly.
const OVERHEAD: u64 = 256;
/// Blobs whose last miss is remembered.
const WALKS: usize = 256;
/// Misses this close behind one another walk through a blob.
const STRIDE: u32 = 512 << 10;

/// Units that a sequential reader has passed and that are kept all the same: its requests may
/// overtake one another.
const BEHIND: usize = 8;

/// Session and sequence: what tells the blobs of one volume apart.
type Key = (u64, u64);

fn key(id: &BlobId) -> Key {
    (id.session().0, id.sequence())
}

/// Part of a blob that is here or on its way.
struct Span {
    range: Range<u32>,
    awaited: Option<Awaited>,
}

/// The cache.
pub(crate) struct Cache {
    limit: u64,
    inner: Mutex<Inner>,
}

struct Inner {
    units: LruCache<(Key, u32), Bytes>,
    /// In order of start.
    spans: HashMap<Key, Vec<Span>>,
    /// Where the last miss in a blob ended, and how much was fetched for it.
    walks: LruCache<Key, (u32, u32)>,
    /// Units that sequential readers have passed, the last few.
    behind: VecDeque<(Key, u32)>,
    bytes: u64,
    coming: u64,
    hits: u64,
    misses: u64,
}

/// How full the cache is, and how good.
pub(crate) struct CacheUsage {
    pub(crate) bytes: u64,
    pub(crate) hits: u64,
    pub(crate) misses: u64,
}

/// A fetch that somebody has to do now.
pub(crate) struct Fetch {
    /// From this blob.
    pub(crate) blob: BlobId,
    /// This range.
    pub(crate) range: Range<u32>,
    sender: oneshot::Sender<Fetched>,
}

/// A range that is being fetched, by us or by another.
pub(crate) struct Coming {
    /// The range.
    pub(crate) range: Range<u32>,
    /// Its bytes.
    pub(crate) awaited: Awaited,
}

impl Inner {
    fn span(&self, key: Key, at: u32) -> Option<&Span> {
        let spans = self.spans.get(&key)?;
        let after = spans.partition_point(|span| span.range.start <= at);
        spans[..after].last().filter(|span| span.range.contains(&at))
    }

    fn evict_span(&mut self, key: Key, start: u32) {
        if let Some(spans) = self.spans.get_mut(&key) {
            spans.retain(|span| span.range.start != start);
            if spans.is_empty() {
                self.spans.remove(&key);
            }
        }
    }
}

impl Cache {
    /// Keeps at most `limit` bytes.
    pub(crate) fn new(limit: u64) -> Self {
        let walks = std::num::NonZeroUsize::new(WALKS).expect("not zero");
        let inner = Inner {
            units: LruCache::unbounded(),
            spans: HashMap::new(),
            walks: LruCache::new(walks),
            behind: VecDeque::with_capacity(BEHIND + 1),
            bytes: 0,
            coming: 0,
            hits: 0,
            misses: 0,
        };
        Self { limit, inner: Mutex::new(inner) }
    }

    /// How full it is, and how good.
    pub(crate) fn usage(&self) -> CacheUsage {
        let inner = self.inner.lock();
        CacheUsage { bytes: inner.bytes, hits: inner.hits, misses: inner.misses }
    }

    /// May bytes be fetched that nobody asked for yet?
    pub(crate) fn has_room_ahead(&self) -> bool {
        self.inner.lock().coming < self.limit / 2
    }

    /// The unit of the blob that holds the byte at `at`, with where it starts.
    pub(crate) fn get(&self, blob: &BlobId, at: u32) -> Option<(u32, Bytes)> {
        let mut inner = self.inner.lock();
        let key = key(blob);
        let start = inner.span(key, at)?.range.start;
        let bytes = inner.units.get(&(key, start))?.clone();
        inner.hits += 1;
        Some((start, bytes))
    }

    /// A sequential reader has read `range`. Units that it has thereby come to the end of will hardly
    /// be read again (the kernel has their pages now): their memory is worth more to the next ones,
    /// which then need none that was never used before.
    pub(crate) fn passed(&self, blob: &BlobId, range: &Range<u32>) {
        let mut inner = self.inner.lock();
        let key = key(blob);
        let Some(spans) = inner.spans.get(&key) else { return };
        // What lies between the last byte of files and the end of the blob is padding.
        let ended = |span: &&Span| {
            range.start < span.range.end && span.range.end < range.end.saturating_add(CHECK_BLOCK)
        };
        let passed: Vec<_> =
            spans.iter().filter(ended).map(|span| (key, span.range.start)).collect();
        for unit in passed {
            if inner.behind.contains(&unit) {
                continue;
            }
            inner.behind.push_back(unit);
            if inner.behind.len() > BEHIND
                && let Some(unit) = inner.behind.pop_front()
                && let Some(bytes) = inner.units.pop(&unit)
            {
                inner.bytes -= bytes.len() as u64 + OVERHEAD;
                inner.evict_span(unit.0, unit.1);
            }
        }
    }

    /// How much to fetch for a miss of `range`: when misses walk forward through the blob, more each
    /// time, up to `most` bytes and the end of the part.
    pub(crate) fn widen_walk(
        &self,
        blob: &BlobId,
        range: Range<u32>,
        part: Range<u32>,
        most: u32,
    ) -> Range<u32> {
        let mut inner = self.inner.lock();
        inner.misses += 1;
        let last = inner.walks.get(&key(blob)).copied();
        let walking =
            last.filter(|(end, _)| (*end..end.saturating_add(STRIDE)).contains(&range.start));
        let width = walking.map_or(range.end - range.start, |(_, width)| {
            let most = most.min(part.end - part.start).max(range.end - range.start);
            width.saturating_mul(2).clamp(range.end - range.start, most)
        });
        let end = range.start.saturating_add(width).min(part.end).max(range.end);
        inner.walks.put(key(blob), (end, width));
        range.start..end
    }

    /// Claims what of `range` is neither here nor on its way, cut at the starts of `blocks`: the
    /// caller fetches it. Answers those fetches, and everything on its way in the range.
    pub(crate) fn claim(&self, blob: BlobId, range: Range<u32>) -> (Vec<Fetch>, Vec<Coming>) {
        let mut inner = self.inner.lock();
        let key = key(&blob);
        let spans = inner.spans.entry(key).or_default();
        let (mut fetches, mut coming, mut added) = (Vec::new(), Vec::new(), Vec::new());
        let mut at = range.start;
        while at < range.end {
            let after = spans.partition_point(|span| span.range.start <= at);
            if let Some(span) = spans[..after].last().filter(|span| span.range.contains(&at)) {
                if let Some(awaited) = &span.awaited {
                    coming.push(Coming { range: span.range.clone(), awaited: awaited.clone() });
                }
                at = span.range.end;
                continue;
            }
            let end = spans.get(after).map_or(range.end, |next| next.range.start.min(range.end));
            let (sender, receiver) = oneshot::channel();
            let awaited = receiver.shared();
            coming.push(Coming { range: at..end, awaited: awaited.clone() });
            fetches.push(Fetch { blob, range: at..end, sender });
            added.push(Span { range: at..end, awaited: Some(awaited) });
            at = end;
        }
        let bytes: u64 =
            added.iter().map(|span| u64::from(span.range.end - span.range.start)).sum();
        spans.append(&mut added);
        spans.sort_unstable_by_key(|span| span.range.start);
        inner.coming += bytes;
        (fetches, coming)
    }

    /// A fetch has ended.
    pub(crate) fn arrived(&self, fetch: Fetch, fetched: Fetched) {
        let mut inner = self.inner.lock();
        let (key, start) = (key(&fetch.blob), fetch.range.start);
        inner.coming -= u64::from(fetch.range.end - start);
        match &fetched {
            Ok(bytes) => {
                let bytes = bytes.clone();
                let span = inner
                    .spans
                    .get_mut(&key)
                    .and_then(|spans| spans.iter_mut().find(|span| span.range == fetch.range));
                // A blob that was forgotten meanwhile is not kept.
                if let Some(span) = span {
                    span.awaited = None;
                    inner.bytes += bytes.len() as u64 + OVERHEAD;
                    // Claimed again while the first fetch was on its way: both came.
                    if let Some(twin) = inner.units.put((key, start), bytes) {
                        inner.bytes -= twin.len() as u64 + OVERHEAD;
                    }
                }
            }
            Err(_) => inner.evict_span(key, start),
        }
        while inner.bytes > self.limit {
            let Some(((key, start), bytes)) = inner.units.pop_lru() else { break };
            inner.bytes -= bytes.len() as u64 + OVERHEAD;
            inner.evict_span(key, start);
        }
        drop(inner);
        // Nobody waiting is fine: it was read ahead.
        let _ = fetch.sender.send(fetched);
    }

    /// The blob is deleted.
    pub(crate) fn forget(&self, blob: &BlobId) {
        let mut inner = self.inner.lock();
        let key = key(blob);
        for span in inner.spans.remove(&key).unwrap_or_default() {
            if let Some(bytes) = inner.units.pop(&(key, span.range.start)) {
                inner.bytes -= bytes.len() as u64 + OVERHEAD;
            }
        }
        inner.walks.pop(&key);
    }
}
