//! Dead and half-dead blobs.
//!
//! Metadata counts the live bytes of every blob. Those with none are garbage: once that is durable
//! they are deleted, and their records go when every slot has confirmed it. Those with few are
//! emptied: their summary says whose bytes they held, metadata says which of these still lie there,
//! and those move to a new blob. What moved meanwhile is left alone by [`meta::MetaStore::relocate`].
//!
//! Bounded: a blob is emptied when it is less than a quarter alive, so that a byte is moved for
//! every three that come free; only when the store is nearly full are fuller ones emptied too, the
//! emptiest first. Nothing is scanned while little is wasted.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use meta::{BlobRecord, Extent, Ino, MetaStore, NewBlob, Place, Relocation};
use parking_lot::Mutex;
use proto::id::BlobId;
use proto::limits::{MAX_BLOBS_PER_REQUEST, TARGET_BLOB};
use tokio::time::Instant;

use crate::data::{Data, DataError};
use crate::pack::Packer;
use crate::summary::{self, TRAILER_LEN};

/// Blobs less alive than this many percent are emptied; the second when space is short.
const LIVE_PERCENT: (u64, u64) = (25, 90);
/// Waste that is not worth looking for victims, in bytes.
const TOLERATED: u64 = 16 << 20;
/// New waste that is worth another look when space is short, in bytes.
const STEP: u64 = 1 << 20;
/// Least bytes of a blob that live ones are moved to where the store is full.
const LEAST: u32 = 128 << 10;
/// Most victims of one round.
const VICTIMS: usize = 64;
/// Records and extents asked for at once.
const PAGE: usize = 1024;
/// A first read of a blob's end: summaries are mostly shorter.
const TAIL: u32 = 4096;
/// Live ranges this close are read at once, in bytes.
const GAP: u32 = 64 << 10;
/// Victims that cannot be read after which a round ends: each may take seconds to fail.
const UNREADABLE: usize = 4;
/// How long a victim that could not be read is left alone.
const LEFT_ALONE: Duration = Duration::from_secs(600);
/// Most unconfirmed deletes that are remembered.
const TOLD: usize = 1 << 20;
/// Unconfirmed deletes are asked again after so long for each, and at the latest.
const ASK_EACH: Duration = Duration::from_millis(4);
const ASK_AGAIN: Duration = Duration::from_secs(60);
/// Deleting in the background rests for so many times as long as it took: a page of
/// [`MAX_BLOBS_PER_REQUEST`] small blobs is 30 ms of CPU on all disks together.
const SLOWLY: u32 = 9;
/// How long freed space may take to be seen.
const SEEN_AFTER: Duration = Duration::from_secs(3);

/// What the cleaner remembers.
#[derive(Default)]
pub(crate) struct Cleaning {
    /// Percentage and waste of the last scan that found all there was to find: without more waste
    /// there is nothing new.
    scanned: Option<(u64, u64)>,
    /// Victims that stayed alive: clones refer to them, of which their summary does not know.
    stuck: BTreeSet<BlobId>,
    /// Victims that could not be read, and when.
    unreadable: BTreeMap<BlobId, Instant>,
    /// Garbage that was deleted where slots are up: others have not confirmed.
    told: HashSet<BlobId>,
    /// Since when these are remembered.
    told_since: Option<Instant>,
}

impl Cleaning {
    /// Victims that were unreadable long ago may be readable now.
    fn forgive(&mut self) {
        let before = self.unreadable.len();
        self.unreadable.retain(|_, at| at.elapsed() < LEFT_ALONE);
        if self.unreadable.len() < before {
            self.scanned = None;
        }
    }

    /// Slots that were away may be back: what they have not confirmed is asked again, the later the
    /// more it is.
    fn ask_again(&mut self) {
        let patience = (ASK_EACH * self.told.len() as u32).min(ASK_AGAIN);
        if self.told_since.is_none_or(|since| since.elapsed() >= patience) {
            self.told.clear();
            self.told_since = Some(Instant::now());
        }
    }

    /// Is there no use in trying to empty it?
    fn leaves(&self, id: &BlobId) -> bool {
        self.stuck.contains(id) || self.unreadable.contains_key(id)
    }
}

/// A run of live bytes.
struct Live {
    ino: Ino,
    offset: u64,
    from: Place,
    len: u32,
}

/// When blobs were last deleted.
#[derive(Default)]
pub(crate) struct Freed(Mutex<Option<Instant>>);

impl Freed {
    fn note(&self) {
        *self.0.lock() = Some(Instant::now());
    }

    /// May the store have more room than it says?
    pub(crate) fn is_recent(&self) -> bool {
        self.0.lock().is_some_and(|at| at.elapsed() < SEEN_AFTER)
    }
}

impl Data {
    /// Looks for garbage, and for half-dead blobs, until stopped.
    pub(crate) async fn run_cleaner(self: Arc<Self>) {
        let mut pause = self.settings.garbage_interval;
        // Before much is written: what does not fit must not be accepted.
        self.learn_space().await;
        loop {
            tokio::select! {
                () = self.stopping.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            self.learn_space().await;
            let eager = self.room.is_scarce();
            let cleaned = async {
                self.collect_garbage_slowly(eager).await?;
                self.clean(eager).await
            };
            pause = match cleaned.await {
                Ok(()) => self.settings.garbage_interval,
                Err(error) => {
                    tracing::warn!(%error, "cleaning was interrupted and is tried again");
                    (2 * pause).min(16 * self.settings.garbage_interval)
                }
            };
        }
    }

    pub(crate) async fn learn_space(&self) {
        self.room.learn(self.blobs.space(self.volume.scheme).await);
    }

    /// Space is short: gets back what can be had at once, and asks how much there is.
    pub(crate) async fn make_space(&self) {
        let made = async {
            self.meta.sync().await?;
            self.collect_garbage().await?;
            self.learn_space().await;
            if self.room.is_short(0) || self.room.is_refused() {
                let cleaned = self.clean(true).await;
                self.learn_space().await;
                cleaned?;
            }
            Ok::<_, DataError>(())
        };
        if let Err(error) = made.await {
            tracing::warn!(%error, "no space could be got back");
        }
    }

    /// Deletes what is garbage now.
    pub(crate) async fn collect_garbage(&self) -> Result<(), DataError> {
        self.delete_pages(&mut *self.cleaning.lock().await).await
    }

    async fn delete_pages(&self, cleaning: &mut Cleaning) -> Result<(), DataError> {
        let mut after = None;
        while let Some(last) = self.delete_page(cleaning, after).await? {
            after = Some(last);
        }
        Ok(())
    }

    /// The same, leaving time for others, unless `eager` or stopping.
    async fn collect_garbage_slowly(&self, eager: bool) -> Result<(), DataError> {
        let mut after = None;
        loop {
            let began = Instant::now();
            let deleted = self.delete_page(&mut *self.cleaning.lock().await, after).await;
            let Some(last) = deleted? else { return Ok(()) };
            after = Some(last);
            if !eager {
                tokio::select! {
                    () = self.stopping.cancelled() => return Ok(()),
                    () = tokio::time::sleep(SLOWLY * began.elapsed()) => {}
                }
            }
        }
    }

    /// Deletes one page of garbage, and answers its last blob; `None` when there is no more.
    async fn delete_page(
        &self,
        cleaning: &mut Cleaning,
        after: Option<BlobId>,
    ) -> Result<Option<BlobId>, DataError> {
        if after.is_none() {
            cleaning.ask_again();
        }
        let page = self.meta.garbage(after, MAX_BLOBS_PER_REQUEST).await?;
        let last = page.last().copied();
        let ids: Vec<_> = page.into_iter().filter(|id| !cleaning.told.contains(id)).collect();
        if ids.is_empty() {
            return Ok(last);
        }
        ids.iter().for_each(|id| self.cache.forget(id));
        let unconfirmed: HashSet<BlobId> = self.blobs.delete(&ids).await.into_iter().collect();
        self.freed.note();
        let confirmed: Vec<_> =
            ids.iter().filter(|id| !unconfirmed.contains(id)).copied().collect();
        if !confirmed.is_empty() {
            self.meta.forget_blobs(&confirmed).await?;
            self.status.lock().blobs_deleted += confirmed.len() as u64;
        }
        // Some slot is away. What lies behind is deleted on the others all the same.
        let room = TOLD.saturating_sub(cleaning.told.len());
        cleaning.told.extend(unconfirmed.into_iter().take(room));
        Ok(last)
    }

    /// Empties half-dead blobs, one round.
    pub(crate) async fn clean(&self, eager: bool) -> Result<(), DataError> {
        let usage = self.meta.usage().await?;
        let waste = usage.dead_bytes;
        let mut cleaning = self.cleaning.lock().await;
        let (percent, tolerated, step) = if eager {
            (LIVE_PERCENT.1, 0, STEP)
        } else {
            (LIVE_PERCENT.0, TOLERATED.max(usage.blob_bytes / 8), TOLERATED)
        };
        cleaning.forgive();
        // Waste that was deleted since may have been what was found.
        cleaning.scanned = cleaning.scanned.map(|(percent, at)| (percent, at.min(waste)));
        let known = cleaning.scanned.is_some_and(|(p, at)| percent <= p && waste < at + step);
        if waste <= tolerated || known {
            return Ok(());
        }
        // Where too few slots have room for a part of a full blob, there may be room for smaller ones.
        let mut target = TARGET_BLOB;
        let emptied = loop {
            let victims = victims(&*self.meta, percent, &cleaning).await?;
            match self.empty(&victims, target, eager, &mut cleaning).await {
                Err(DataError::NoSpace) if eager && target > LEAST => target /= 2,
                emptied => break emptied.map(|all| all && victims.len() < VICTIMS),
            }
        };
        if eager {
            self.free_now(&mut cleaning).await?;
        }
        let all = emptied?;
        cleaning.scanned = all.then_some((percent, waste));
        Ok(())
    }

    /// Moves what is live of the victims to blobs of `target` bytes; were all of them done? An `eager`
    /// round needs no more room than a blob or two: what is empty is deleted before more is moved,
    /// until room is plenty.
    async fn empty(
        &self,
        victims: &[BlobRecord],
        target: u32,
        eager: bool,
        cleaning: &mut Cleaning,
    ) -> Result<bool, DataError> {
        let mut unreadable = 0;
        let mut mover = Mover::new(self, target);
        let mut freed = 0;
        for victim in victims {
            let pieces = match self.live_bytes(victim.id).await {
                Ok(pieces) => pieces,
                Err(error) => {
                    tracing::warn!(blob = %victim.id, %error, "a half-dead blob is left alone");
                    cleaning.unreadable.insert(victim.id, Instant::now());
                    unreadable += 1;
                    if unreadable < UNREADABLE {
                        continue;
                    }
                    break;
                }
            };
            let found: u64 = pieces.iter().map(|(live, _)| u64::from(live.len)).sum();
            for (live, bytes) in &pieces {
                mover.take(live, bytes).await?;
            }
            if found < victim.live {
                cleaning.stuck.insert(victim.id);
            }
            if target < TARGET_BLOB {
                // Each victim that is empty is the room for the next.
                mover.send().await?;
            }
            if eager && mover.sent > freed {
                freed = mover.sent;
                self.free_now(cleaning).await?;
                self.learn_space().await;
                if !self.room.is_scarce() {
                    mover.send().await?;
                    return Ok(false);
                }
            }
        }
        mover.send().await?;
        Ok(unreadable == 0)
    }

    /// Deletes what is garbage by now, at once.
    async fn free_now(&self, cleaning: &mut Cleaning) -> Result<(), DataError> {
        self.meta.sync().await?;
        self.delete_pages(cleaning).await
    }

    /// What is live of a blob, with its bytes.
    async fn live_bytes(&self, id: BlobId) -> Result<Vec<(Live, Bytes)>, DataError> {
        let mut live = self.live_ranges(id).await?.into_iter().peekable();
        let mut pieces = Vec::new();
        while let Some(first) = live.next() {
            let start = first.from.offset;
            let mut end = start + first.len;
            let mut run = vec![first];
            while let Some(next) = live.next_if(|next| next.from.offset <= end.saturating_add(GAP))
            {
                end = end.max(next.from.offset + next.len);
                run.push(next);
            }
            let bytes = self.blobs.get(id, start..end).await?;
            pieces.extend(run.into_iter().map(|live| {
                let at = (live.from.offset - start) as usize;
                let bytes = bytes.slice(at..at + live.len as usize);
                (live, bytes)
            }));
        }
        Ok(pieces)
    }

    async fn live_ranges(&self, id: BlobId) -> Result<Vec<Live>, DataError> {
        let tail_at = id.len().saturating_sub(TAIL);
        let mut tail = self.blobs.get(id, tail_at..id.len()).await?;
        let bad =
            |error: summary::BadSummary| DataError::Unavailable(format!("blob {id}: {error}"));
        let len =
            summary::claimed_len(&tail[tail.len().saturating_sub(TRAILER_LEN)..]).map_err(bad)?;
        if len > tail.len() {
            let at = (id.len() as usize).checked_sub(len).ok_or(summary::BadSummary::Length);
            tail = self.blobs.get(id, at.map_err(bad)? as u32..id.len()).await?;
        }
        let entries = summary::decode(&tail[tail.len() - len..], id.len()).map_err(bad)?;
        let mut live = Vec::new();
        for entry in entries {
            let range = entry.offset..entry.offset + u64::from(entry.len);
            self.live_of(id, entry.ino, range, &mut live).await?;
        }
        live.sort_unstable_by_key(|live| live.from.offset);
        Ok(live)
    }

    /// Which bytes of a file's range still lie in the blob.
    async fn live_of(
        &self,
        id: BlobId,
        ino: Ino,
        mut range: Range<u64>,
        live: &mut Vec<Live>,
    ) -> Result<(), DataError> {
        while range.start < range.end {
            let page = match self.meta.extents(ino, range.clone(), PAGE).await {
                Err(meta::MetaError::NotFound) => return Ok(()),
                page => page?,
            };
            for extent in &page {
                live.extend(clip(extent, &range, id, ino));
            }
            match page.last() {
                Some(last) if page.len() == PAGE => range.start = last.offset + last.len,
                _ => return Ok(()),
            }
        }
        Ok(())
    }
}

/// The bytes of an extent that lie in the range and in the blob.
fn clip(extent: &Extent, range: &Range<u64>, id: BlobId, ino: Ino) -> Option<Live> {
    let place = extent.place.filter(|place| place.blob == id)?;
    let start = extent.offset.max(range.start);
    let end = (extent.offset + extent.len).min(range.end);
    let from = Place { blob: id, offset: place.offset + (start - extent.offset) as u32 };
    (start < end).then(|| Live { ino, offset: start, from, len: (end - start) as u32 })
}

/// The emptiest blobs below `percent`, at most [`VICTIMS`].
async fn victims(
    meta: &dyn MetaStore,
    percent: u64,
    cleaning: &Cleaning,
) -> Result<Vec<BlobRecord>, DataError> {
    let mut found: Vec<BlobRecord> = Vec::new();
    let mut after = None;
    loop {
        let page = meta.blobs(after, PAGE).await?;
        let fits = |record: &&BlobRecord| {
            let len = u64::from(record.id.len());
            record.live > 0 && record.live * 100 < len * percent && !cleaning.leaves(&record.id)
        };
        found.extend(page.iter().filter(fits));
        found.sort_by_key(|record| record.live * 1000 / u64::from(record.id.len()));
        found.truncate(VICTIMS);
        match page.last() {
            Some(last) if page.len() == PAGE => after = Some(last.id),
            _ => return Ok(found),
        }
    }
}

/// Moves live bytes to new blobs.
struct Mover<'a> {
    data: &'a Data,
    packer: Packer,
    /// `to.blob` is not known yet while the blob fills: it is set when it is sent.
    moves: Vec<Relocation>,
    /// Bytes of each blob.
    target: u32,
    /// Blobs that were sent.
    sent: u64,
}

impl<'a> Mover<'a> {
    fn new(data: &'a Data, target: u32) -> Self {
        Self { data, packer: Packer::of(target), moves: Vec::new(), target, sent: 0 }
    }

    async fn take(&mut self, live: &Live, bytes: &Bytes) -> Result<(), DataError> {
        let mut done = 0u32;
        while done < live.len {
            let offset = live.offset + u64::from(done);
            let len = self.packer.fits(offset, (live.len - done).into()) as u32;
            if len == 0 {
                self.send().await?;
                continue;
            }
            let from = Place { blob: live.from.blob, offset: live.from.offset + done };
            let data = bytes.slice(done as usize..(done + len) as usize);
            let to =
                Place { blob: live.from.blob, offset: self.packer.push(live.ino, offset, data) };
            self.moves.push(Relocation { ino: live.ino, offset, len: len.into(), from, to });
            done += len;
        }
        Ok(())
    }

    /// Puts the blob and tells metadata.
    async fn send(&mut self) -> Result<(), DataError> {
        if self.packer.is_empty() {
            return Ok(());
        }
        let data = self.data;
        let packer = std::mem::replace(&mut self.packer, Packer::of(self.target));
        let mut moves = std::mem::take(&mut self.moves);
        let id = data.next_blob(packer.blob_len());
        let stored = data.put(id, packer.assemble(&data.pool)).await?;
        moves.iter_mut().for_each(|relocation| relocation.to.blob = id);
        let new = NewBlob { id, degraded: stored.degraded };
        if let Err(error) = data.meta.relocate(&[new], &moves).await {
            data.abandon(id).await;
            return Err(error.into());
        }
        for ino in moves.iter().map(|relocation| relocation.ino).collect::<BTreeSet<_>>() {
            if let Some(handle) = data.handles.get(ino) {
                // Sizes did not change, but asking again costs little.
                handle.state.lock().layout_changed(None);
            }
        }
        data.status.lock().bytes_cleaned += packer.data_len() as u64;
        self.sent += 1;
        Ok(())
    }
}
