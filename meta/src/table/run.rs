//! Runs: lists of chunks whose keys rise, as a manifest names them. Pure.

use std::ops::Range;
use std::sync::Arc;

use proto::id::BlobId;

use crate::key::Key;

/// A chunk, as a manifest names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChunkRef {
    /// The blob that it is.
    pub(crate) id: BlobId,
    /// What its footer ends with.
    pub(crate) crc: u32,
    /// Its least key.
    pub(crate) first: Key,
    /// Its greatest.
    pub(crate) last: Key,
}

/// A block that is to be fetched.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WantedBlock {
    /// The chunk that it is of.
    pub(crate) chunk: ChunkRef,
    /// `None`: the chunk's index, and whichever block is wanted then.
    pub(crate) block: Option<u32>,
}

/// Chunks whose keys rise from one to the next.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Run {
    /// In order of their keys.
    pub(crate) chunks: Arc<[ChunkRef]>,
}

impl Run {
    /// `None` when the keys of the chunks do not rise.
    pub(crate) fn new(chunks: Vec<ChunkRef>) -> Option<Self> {
        let rise = chunks.iter().all(|chunk| chunk.first <= chunk.last)
            && chunks.is_sorted_by(|a, b| a.last < b.first);
        rise.then(|| Self { chunks: chunks.into() })
    }

    /// The chunk that the key would be in.
    pub(crate) fn find(&self, key: &Key) -> Option<&ChunkRef> {
        let at = self.chunks.partition_point(|chunk| chunk.last < *key);
        self.chunks.get(at).filter(|chunk| chunk.first <= *key)
    }

    /// Numbers of the chunks that may hold keys of a range.
    pub(crate) fn within(&self, range: &Range<Key>) -> Range<usize> {
        let start = self.chunks.partition_point(|chunk| chunk.last < range.start);
        let end = self.chunks.partition_point(|chunk| chunk.first < range.end);
        start..end.max(start)
    }

    /// Bytes of all chunks.
    pub(crate) fn bytes(&self) -> u64 {
        self.chunks.iter().map(|chunk| u64::from(chunk.id.len())).sum()
    }

    /// Bytes of the chunks that one of these keys, which rise, would lie in.
    pub(crate) fn touched<'a>(&self, keys: impl Iterator<Item = &'a Key>) -> u64 {
        let (mut at, mut bytes) = (0, 0);
        for key in keys {
            while self.chunks.get(at).is_some_and(|chunk| chunk.last < *key) {
                at += 1;
            }
            let Some(chunk) = self.chunks.get(at) else { break };
            if chunk.first <= *key {
                bytes += u64::from(chunk.id.len());
                at += 1;
            }
        }
        bytes
    }
}
