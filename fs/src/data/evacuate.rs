//! Emptying a blob: finds what is live of it and moves that to a new one.
//!
//! Metadata's references lead from the blob to all that have bytes in it, clones included. What moves
//! meanwhile is left alone by [`meta::MetaStore::relocate`].
//!
//! However many refer to a blob, they are found, read and moved in parts of a bounded number. What clones
//! share stays shared where it goes into one new blob.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;
use meta::{Extent, Ino, Place, Relocation};
use proto::id::BlobId;

use crate::data::Data;
use crate::data::pack::Packer;
use crate::error::DataError;

/// References of a blob that are looked up, and moved, without letting others go in between.
const PART: usize = 1024;
/// Most ranges that are moved by one change of metadata: other changes wait for it.
const MOVES: usize = 4096;
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
    /// `None`: what the extent says cannot be.
    fn new((ino, extent): (Ino, Extent)) -> Option<Self> {
        let (from, len) = (extent.place?, u32::try_from(extent.len).ok()?);
        let within = from.offset.checked_add(len)? <= from.blob.len();
        within.then_some(Self { ino, offset: extent.offset, from, len })
    }
}

/// Where a part of what refers to a blob ends, and the next begins.
type Mark = (Ino, u64);

/// Some of what is live of a blob, with its bytes.
pub(crate) struct Part {
    pieces: Vec<(Live, Bytes)>,
    /// `None`: there is no more.
    next: Option<Mark>,
}

impl Data {
    /// What is live of a blob, with its bytes: the part behind this mark.
    pub(crate) async fn live_part(
        &self,
        id: BlobId,
        after: Option<Mark>,
    ) -> Result<Part, DataError> {
        let (mut live, next) = self.references(id, after).await?;
        live.sort_unstable_by_key(|live| live.from.offset);
        Ok(Part { pieces: self.bytes_of(id, live).await?, next })
    }

    /// How many bytes of a blob files have, of which this is the first part.
    pub(crate) async fn referred_bytes(&self, id: BlobId, first: &Part) -> Result<u64, DataError> {
        let sum = |live: &mut dyn Iterator<Item = &Live>| -> u64 {
            live.map(|live| u64::from(live.len)).sum()
        };
        let mut bytes = sum(&mut first.pieces.iter().map(|(live, _)| live));
        let mut after = first.next;
        while after.is_some() {
            let (live, next) = self.references(id, after).await?;
            bytes += sum(&mut live.iter());
            after = next;
        }
        Ok(bytes)
    }

    /// [`PART`] of those that refer to a blob, or all that are left.
    async fn references(
        &self,
        id: BlobId,
        mut after: Option<Mark>,
    ) -> Result<(Vec<Live>, Option<Mark>), DataError> {
        let mut live = Vec::new();
        loop {
            let (page, next) = self.meta.references(id, after, PART - live.len()).await?;
            live.extend(page.into_iter().filter_map(Live::new));
            if next.is_none() || live.len() >= PART {
                return Ok((live, next));
            }
            after = next;
            // Metadata answer at once: others would wait for all of them.
            tokio::task::yield_now().await;
        }
    }

    /// The bytes of ranges of a blob, in order.
    async fn bytes_of(&self, id: BlobId, live: Vec<Live>) -> Result<Vec<(Live, Bytes)>, DataError> {
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
}

/// Moves live bytes to new blobs.
pub(crate) struct Mover<'a> {
    data: &'a Data,
    packer: Packer,
    /// `to.blob` is not known yet while the blob fills: it is set when it is sent.
    moves: Vec<Relocation>,
    /// Where in it bytes of another blob are already, of which clones have as many.
    shared: HashMap<(Place, u32), u32>,
    /// Bytes of each blob.
    target: u32,
    /// Room that the blobs take that were sent.
    pub(crate) sent: u64,
}

impl<'a> Mover<'a> {
    /// Makes blobs of `target` bytes.
    pub(crate) fn new(data: &'a Data, target: u32) -> Self {
        let (packer, moves, shared) = (Packer::of(target), Vec::new(), HashMap::new());
        Self { data, packer, moves, shared, target, sent: 0 }
    }

    /// Moves one part of what is live of a blob; answers where the next begins.
    pub(crate) async fn take_part(&mut self, part: &Part) -> Result<Option<Mark>, DataError> {
        for (live, bytes) in &part.pieces {
            self.take(live, bytes).await?;
        }
        Ok(part.next)
    }

    /// Adds a run of live bytes; sends each blob that is full.
    async fn take(&mut self, live: &Live, bytes: &Bytes) -> Result<(), DataError> {
        let mut done = 0u32;
        while done < live.len {
            if self.moves.len() >= MOVES {
                self.send().await?;
            }
            let offset = live.offset + u64::from(done);
            let from = Place { offset: live.from.offset + done, ..live.from };
            let shared = self.shared.get(&(from, live.len - done)).copied();
            let (len, at) = match shared {
                Some(at) => (live.len - done, at),
                None => {
                    let len = self.packer.fits(offset, (live.len - done).into()) as u32;
                    if len == 0 {
                        self.send().await?;
                        continue;
                    }
                    let data = bytes.slice(done as usize..(done + len) as usize);
                    (len, self.packer.push(data))
                }
            };
            self.shared.insert((from, len), at);
            let to = Place { offset: at, ..from };
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
        self.shared.clear();
        let id = data.next_blob(packer.blob_len());
        data.put(id, packer.assemble(&data.pool)).await?;
        data.space.spent(data.space.cost(&id));
        moves.iter_mut().for_each(|relocation| relocation.to.blob = id);
        if let Err(error) = data.meta.relocate(&[id], &moves).await {
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
