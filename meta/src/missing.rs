//! What a look at metadata has missed: blocks that are not at hand, and must be fetched before it can go on.

use proto::id::BlobId;

/// Blocks that are missing: as many as a look could name.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Missing(Vec<MissingBlock>);

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MissingBlock {
    /// The chunk that it is of.
    pub(crate) chunk: BlobId,
    /// `None`: the chunk's index, and whichever block is wanted then.
    pub(crate) block: Option<u32>,
}

impl Missing {
    /// One block.
    pub(crate) fn one(chunk: BlobId, block: Option<u32>) -> Self {
        Self(vec![MissingBlock { chunk, block }])
    }

    /// Which blocks.
    pub(crate) fn blocks(&self) -> &[MissingBlock] {
        &self.0
    }

    /// Is nothing missing?
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// These too.
    pub(crate) fn add(&mut self, more: Self) {
        for block in more.0 {
            if !self.0.contains(&block) {
                self.0.push(block);
            }
        }
    }
}
