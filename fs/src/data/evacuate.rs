//! Emptying a blob: finds what is live of it and moves that to a new one.
//!
//! The blob's summary says whose bytes it held, metadata says which of these still lie there. What
//! moves meanwhile is left alone by [`meta::MetaStore::relocate`].

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use bytes::Bytes;
use meta::{Extent, Ino, NewBlob, Place, Relocation};
use proto::id::BlobId;

use crate::data::Data;
use crate::data::pack::Packer;
use crate::data::summary::{self, TRAILER_LEN};
use crate::error::DataError;

/// Ranges of a blob that are looked up without letting others go in between.
const LOOKS: usize = 64;
/// Extents asked for at once.
const PAGE: usize = 1024;
/// A first read of a blob's end: summaries are mostly shorter, and small blobs are read whole.
const TAIL: u32 = 32 << 10;
/// Live ranges this close are read at once, in bytes.
const GAP: u32 = 64 << 10;

/// A run of live bytes.
pub(crate) struct Live {
    ino: Ino,
    offset: u64,
    from: Place,
    len: u32,
}

impl Live {
    /// How many.
    pub(crate) fn bytes(&self) -> u64 {
        self.len.into()
    }
}

impl Data {
    /// What is live of a blob, with its bytes.
    pub(crate) async fn live_bytes(&self, id: BlobId) -> Result<Vec<(Live, Bytes)>, DataError> {
        self.bytes_of(id, self.live_ranges(id).await?).await
    }

    /// What is live of blobs that clones refer to, found by looking at every extent of the volume.
    /// Bytes that several files share are there for each.
    pub(crate) async fn live_of_all(
        &self,
        ids: &BTreeSet<BlobId>,
    ) -> Result<BTreeMap<BlobId, Vec<Live>>, DataError> {
        let mut all: BTreeMap<BlobId, Vec<Live>> = BTreeMap::new();
        let mut after = None;
        loop {
            let (found, next) = self.meta.extents_in_blobs(ids, after, PAGE).await?;
            for (ino, extent) in found {
                let Some(from) = extent.place else { continue };
                let live = Live { ino, offset: extent.offset, from, len: extent.len as u32 };
                all.entry(from.blob).or_default().push(live);
            }
            if next.is_none() {
                break;
            }
            after = next;
        }
        all.values_mut().for_each(|live| live.sort_unstable_by_key(|live| live.from.offset));
        Ok(all)
    }

    /// The bytes of ranges of a blob, in order.
    pub(crate) async fn bytes_of(
        &self,
        id: BlobId,
        live: Vec<Live>,
    ) -> Result<Vec<(Live, Bytes)>, DataError> {
        let mut live = live.into_iter().peekable();
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
            let bytes = self.get_blob(id, start..end).await?;
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
        let mut tail = self.get_blob(id, tail_at..id.len()).await?;
        let bad =
            |error: summary::BadSummary| DataError::Unavailable(format!("blob {id}: {error}"));
        let len =
            summary::claimed_len(&tail[tail.len().saturating_sub(TRAILER_LEN)..]).map_err(bad)?;
        if len > tail.len() {
            let at = (id.len() as usize).checked_sub(len).ok_or(summary::BadSummary::Length);
            tail = self.get_blob(id, at.map_err(bad)? as u32..id.len()).await?;
        }
        let entries = summary::decode(&tail[tail.len() - len..], id.len()).map_err(bad)?;
        let mut live = Vec::new();
        for (nth, entry) in entries.into_iter().enumerate() {
            let range = entry.offset..entry.offset + u64::from(entry.len);
            self.live_of(id, entry.ino, range, &mut live).await?;
            if nth % LOOKS == LOOKS - 1 {
                // Metadata answer at once: others would wait for a blob of very many ranges.
                tokio::task::yield_now().await;
            }
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

/// Moves live bytes to new blobs.
pub(crate) struct Mover<'a> {
    data: &'a Data,
    packer: Packer,
    /// `to.blob` is not known yet while the blob fills: it is set when it is sent.
    moves: Vec<Relocation>,
    /// Bytes of each blob.
    target: u32,
    /// Room that the blobs take that were sent.
    pub(crate) sent: u64,
}

impl<'a> Mover<'a> {
    /// Makes blobs of `target` bytes.
    pub(crate) fn new(data: &'a Data, target: u32) -> Self {
        Self { data, packer: Packer::of(target), moves: Vec::new(), target, sent: 0 }
    }

    /// Adds a run of live bytes; sends each blob that is full.
    pub(crate) async fn take(&mut self, live: &Live, bytes: &Bytes) -> Result<(), DataError> {
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
    pub(crate) async fn send(&mut self) -> Result<(), DataError> {
        if self.packer.is_empty() {
            return Ok(());
        }
        let data = self.data;
        let packer = std::mem::replace(&mut self.packer, Packer::of(self.target));
        let mut moves = std::mem::take(&mut self.moves);
        let id = data.next_blob(packer.blob_len());
        let stored = data.put(id, packer.assemble(&data.pool)).await?;
        data.space.spent(data.space.cost(&id));
        moves.iter_mut().for_each(|relocation| relocation.to.blob = id);
        let new = NewBlob { id, degraded: stored.degraded };
        if let Err(error) = data.meta.relocate(&[new], &moves).await {
            data.abandon(id).await;
            return Err(error.into());
        }
        for ino in moves.iter().map(|relocation| relocation.ino).collect::<BTreeSet<_>>() {
            if let Some(open_inode) = data.open_inodes.get(ino) {
                // Sizes did not change, but asking again costs little.
                open_inode.state.lock().layout_changed(None);
            }
        }
        data.status.lock().bytes_cleaned += packer.data_len() as u64;
        self.sent += data.space.cost(&id);
        Ok(())
    }
}
