//! Buffers for whole blobs: aligned to disk blocks, so that storage writes them without a copy, and
//! used again, because fresh memory costs a page fault per 4 KiB.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use proto::limits::DISK_BLOCK;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// One aligned disk block.
#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(4096))]
struct Page([u8; DISK_BLOCK]);

const _: () = assert!(size_of::<Page>() == DISK_BLOCK && align_of::<Page>() == DISK_BLOCK);

/// Keeps buffers of one size that were let go, up to a number of them.
pub(crate) struct Pool {
    free: Mutex<Vec<Vec<Page>>>,
    pages: usize,
    keep: usize,
}

impl Pool {
    /// Keeps up to `keep` buffers of `len` bytes.
    pub(crate) fn new(len: usize, keep: usize) -> Arc<Self> {
        let pages = len.div_ceil(DISK_BLOCK);
        Arc::new(Self { free: Mutex::default(), pages, keep })
    }

    /// A buffer of `len` bytes; what is in it is left from earlier use.
    pub(crate) fn take(self: &Arc<Self>, len: usize) -> Buffer {
        let wanted = len.div_ceil(DISK_BLOCK);
        // A blob nearly as large as the pool's is made in one of the pool's; a small one is not
        // worth so much memory.
        let pooled = wanted <= self.pages && wanted > self.pages / 2;
        let pages = if pooled {
            let kept = self.free.lock().pop();
            kept.unwrap_or_else(|| zeroed(self.pages))
        } else {
            zeroed(wanted)
        };
        Buffer { pages, len, pool: pooled.then(|| Arc::clone(self)) }
    }
}

fn zeroed(pages: usize) -> Vec<Page> {
    vec![Page([0; DISK_BLOCK]); pages]
}

/// Memory for one blob. Goes back to its pool when the last [`Bytes`] of it is dropped.
pub(crate) struct Buffer {
    pages: Vec<Page>,
    len: usize,
    pool: Option<Arc<Pool>>,
}

impl Buffer {
    /// Its bytes, to fill in.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.pages.as_mut_slice().as_mut_bytes()[..self.len]
    }

    /// Shares it, unchanged from now on.
    pub(crate) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.pages.as_slice().as_bytes()[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            let mut free = pool.free.lock();
            if free.len() < pool.keep {
                free.push(std::mem::take(&mut self.pages));
            }
        }
    }
}

/// Most bytes of one chunk of dirty data.
pub(crate) const CHUNK: usize = 1 << 20;
/// Free chunks kept: what the flights of one volume need.
const CHUNKS_KEPT: usize = 24;

/// Free chunks of this process, all empty and with room for [`CHUNK`] bytes.
static CHUNKS: Mutex<Vec<BytesMut>> = Mutex::new(Vec::new());

/// An empty chunk with room for `len` bytes.
pub(crate) fn chunk(len: usize) -> BytesMut {
    let kept = if len == CHUNK { CHUNKS.lock().pop() } else { None };
    kept.unwrap_or_else(|| BytesMut::with_capacity(len))
}

/// Bytes of a chunk are not needed any more: its memory is used again if nobody else has it.
pub(crate) fn recycle(bytes: Bytes) {
    if bytes.len() == CHUNK
        && let Ok(mut chunk) = bytes.try_into_mut()
    {
        chunk.clear();
        let mut chunks = CHUNKS.lock();
        if chunk.capacity() == CHUNK && chunks.len() < CHUNKS_KEPT {
            chunks.push(chunk);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_used_again() {
        let pool = Pool::new(1 << 20, 1);
        let mut buffer = pool.take(1 << 20);
        buffer.bytes_mut().fill(7);
        let bytes = buffer.freeze();
        let address = bytes.as_ptr();
        assert_eq!(address.align_offset(DISK_BLOCK), 0);
        let slice = bytes.slice(5..9);
        drop(bytes);
        assert_ne!(pool.take(1 << 20).freeze().as_ptr(), address, "a slice keeps it");
        drop(slice);
        // The pool keeps one; the other one is freed.
        assert_eq!(pool.free.lock().len(), 1);
        let small = pool.take(4097);
        assert_eq!((small.as_ref().len(), small.pages.len()), (4097, 2));
    }

    #[test]
    fn chunks_are_used_again_unless_somebody_reads_them() {
        let mut full = chunk(CHUNK);
        full.resize(CHUNK, 7);
        let bytes = full.freeze();
        let reader = bytes.slice(..10);
        recycle(bytes);
        assert_eq!(reader[..], [7; 10]);
        let chunk = chunk(CHUNK);
        assert_eq!((chunk.len(), chunk.capacity()), (0, CHUNK));
    }
}
