//! Merging newer keys into a snapshot's runs.
//!
//! What is merged are the newest keys, in memory, and the newest runs; how many runs, [`depth`] decides: as
//! many as are cheap to rewrite beside what is new, so that a key is rewritten some few times for each
//! fourfold growth of the table, and a lookup has few runs to look through (the logarithmic method of
//! Bentley and Saxe, 1980). Of the oldest run that is merged into, chunks that no newer key falls into are
//! shared, not written again.

use std::collections::btree_map;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use proto::id::BlobId;

use super::cache::Cache;
use super::chunk::{Block, Builder, Built, CHUNK, Index};
use super::run::{ChunkRef, Run};
use crate::engine::{Batch, Value};
use crate::key::Key;
use crate::store::MetaError;
use crate::volume_store::VolumeStore;
use crate::volume_store::names::{Namer, Role};

/// A run is merged into when it costs at most so many times the bytes of what is newer.
const WORTH: u64 = 4;
/// More runs than this a lookup need not look through.
const RUNS_MOST: usize = 6;
/// A chunk smaller than this is joined with what follows rather than closed before a shared one.
const SMALL: usize = CHUNK / 4;

/// How many of the newest runs to merge newer keys of so many bytes into.
pub(crate) fn depth(newer: &Batch, bytes: u64, runs: &[Run]) -> usize {
    let mut newer_bytes = bytes.max(1);
    let mut depth = 0;
    for (number, run) in runs.iter().enumerate() {
        // Of runs that are merged themselves not all keys are at hand: all of the next may be touched.
        let cost = if number == 0 { run.touched(newer.keys()) } else { run.bytes() };
        let too_many = runs.len() - number >= RUNS_MOST;
        if cost > newer_bytes * WORTH && !too_many {
            break;
        }
        newer_bytes += run.bytes();
        depth = number + 1;
    }
    depth
}

/// Where merged chunks go.
pub(crate) struct Output<'a> {
    /// The store.
    pub(crate) store: &'a dyn VolumeStore,
    /// This machine's files.
    pub(crate) cache: &'a Cache,
    /// Names them.
    pub(crate) namer: Namer,
    /// The next chunk's number within the epoch.
    pub(crate) sequence: &'a AtomicU64,
    /// Is told of each one before it is written.
    pub(crate) made: &'a Mutex<Vec<BlobId>>,
}

impl Output<'_> {
    async fn put(&self, built: Built) -> Result<ChunkRef, MetaError> {
        let Built { bytes, first, last, crc } = built;
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        let named = self.namer.name(Role::Chunk, sequence, bytes.len());
        let id = named.ok_or_else(|| MetaError::Engine("a chunk is too long".to_owned()))?;
        self.made.lock().push(id);
        self.cache.add(id, &bytes);
        let put = self.store.put(id, bytes).await;
        put.map_err(|e| MetaError::Engine(format!("writing a chunk of metadata: {e}")))?;
        Ok(ChunkRef { id, crc, first, last })
    }
}

/// Merges newer keys into runs, newest first, and answers the one run that they are together. `bottom`:
/// nothing lies below, so that what is removed need not be remembered.
///
/// # Errors
/// When a chunk cannot be read or written. What was written by then is named by nobody.
pub(crate) async fn merge(
    newer: &Batch,
    runs: &[Run],
    bottom: bool,
    out: Output<'_>,
) -> Result<Run, MetaError> {
    let mut memory = newer.iter().peekable();
    let mut cursors = Vec::new();
    for run in runs {
        cursors.push(Cursor::new(run.chunks.clone()));
    }
    let mut builder = Builder::new(out.namer.volume);
    let mut done = Vec::new();
    loop {
        share(&mut memory, &mut cursors, &mut builder, &mut done, &out).await?;
        for cursor in &mut cursors {
            cursor.load(out.cache).await?;
        }
        let heads = cursors.iter().filter_map(Cursor::key);
        let Some(key) = memory.peek().map(|(key, _)| **key).into_iter().chain(heads).min() else {
            break;
        };
        // The newest that has it: memory, then the runs in their order.
        let mut value: Option<Option<Value>> = None;
        if let Some((_, newest)) = memory.next_if(|(at, _)| **at == key) {
            value = Some(newest.clone());
        }
        for cursor in cursors.iter_mut().filter(|cursor| cursor.key() == Some(key)) {
            let older = cursor.take()?;
            value.get_or_insert(older);
        }
        let value = value.expect("some source has the key");
        if value.is_some() || !bottom {
            builder.add(key, value.as_deref());
        }
        if builder.len() >= CHUNK
            && let Some(built) = builder.finish()
        {
            done.push(out.put(built).await?);
            tokio::task::yield_now().await;
        }
    }
    if let Some(built) = builder.finish() {
        done.push(out.put(built).await?);
    }
    Run::new(done).ok_or_else(|| MetaError::Engine("a merge is out of order".to_owned()))
}

/// Takes chunks of the oldest run over as they are, as long as nothing newer falls into them.
async fn share(
    memory: &mut std::iter::Peekable<btree_map::Iter<'_, Key, Option<Value>>>,
    cursors: &mut [Cursor],
    builder: &mut Builder,
    done: &mut Vec<ChunkRef>,
    out: &Output<'_>,
) -> Result<(), MetaError> {
    let Some((oldest, newer)) = cursors.split_last_mut() else { return Ok(()) };
    while let Some(chunk) = oldest.unopened() {
        let mut heads = newer.iter().filter_map(Cursor::next_key);
        let free = heads.all(|key| key > chunk.last)
            && memory.peek().is_none_or(|(key, _)| **key > chunk.last);
        if !free || (builder.len() > 0 && builder.len() < SMALL) {
            return Ok(());
        }
        if let Some(built) = builder.finish() {
            done.push(out.put(built).await?);
        }
        done.push(chunk);
        oldest.skip();
    }
    Ok(())
}

/// A place in a run that is being merged.
struct Cursor {
    chunks: Arc<[ChunkRef]>,
    /// The chunk at hand.
    at: usize,
    open: Option<Open>,
}

struct Open {
    index: Index,
    bytes: Bytes,
    number: u32,
    block: Block,
    entry: usize,
}

impl Cursor {
    fn new(chunks: Arc<[ChunkRef]>) -> Self {
        Self { chunks, at: 0, open: None }
    }

    /// The chunk at hand, if nothing of it was taken.
    fn unopened(&self) -> Option<ChunkRef> {
        if self.open.is_some() { None } else { self.chunks.get(self.at).copied() }
    }

    fn skip(&mut self) {
        self.at += 1;
    }

    /// Opens the chunk at hand.
    async fn load(&mut self, cache: &Cache) -> Result<(), MetaError> {
        let (None, Some(chunk)) = (&self.open, self.chunks.get(self.at)) else { return Ok(()) };
        let (index, bytes) = cache.whole(chunk).await?;
        let block = block(&index, &bytes, 0)?;
        self.open = Some(Open { index, bytes, number: 0, block, entry: 0 });
        Ok(())
    }

    fn key(&self) -> Option<Key> {
        self.open.as_ref().map(|open| open.block.entry(open.entry).0)
    }

    /// The next key, also when its chunk was not opened.
    fn next_key(&self) -> Option<Key> {
        self.key().or_else(|| self.unopened().map(|chunk| chunk.first))
    }

    /// The value at hand; goes on.
    fn take(&mut self) -> Result<Option<Value>, MetaError> {
        let open = self.open.as_mut().expect("a cursor with a key is open");
        let value = open.block.entry(open.entry).1.map(Value::from);
        open.entry += 1;
        if open.entry < open.block.len() {
            return Ok(value);
        }
        (open.number, open.entry) = (open.number + 1, 0);
        if open.number < open.index.blocks() {
            open.block = block(&open.index, &open.bytes, open.number)?;
        } else {
            self.open = None;
            self.at += 1;
        }
        Ok(value)
    }
}

fn block(index: &Index, bytes: &Bytes, number: u32) -> Result<Block, MetaError> {
    let range = index.range(number);
    let bytes = bytes.slice(range.start as usize..range.end as usize);
    index.block(number, bytes).map_err(|e| MetaError::Damaged(e.to_string()))
}
