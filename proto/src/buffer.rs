//! Buffers for the bytes of blobs: aligned to disk blocks, so that storage writes them without a copy,
//! and used again, because fresh memory costs a page fault per 4 KiB.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::limits::DISK_BLOCK;

/// One aligned disk block.
#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(4096))]
struct Page([u8; DISK_BLOCK]);

const _: () = assert!(size_of::<Page>() == DISK_BLOCK && align_of::<Page>() == DISK_BLOCK);

/// Keeps buffers of one size that were let go, up to a number of them.
pub struct Pool {
    free: Mutex<Vec<Vec<Page>>>,
    pages: usize,
    keep: usize,
}

impl Pool {
    /// Keeps up to `keep` buffers of `len` bytes.
    pub fn new(len: usize, keep: usize) -> Arc<Self> {
        let pages = len.div_ceil(DISK_BLOCK);
        Arc::new(Self { free: Mutex::default(), pages, keep })
    }

    /// A buffer of `len` bytes; what is in it is left from earlier use.
    pub fn take(self: &Arc<Self>, len: usize) -> Buffer {
        let wanted = len.div_ceil(DISK_BLOCK);
        // What is nearly as large as the pool's is made in one of the pool's; less is not worth so
        // much memory.
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

/// Memory for one blob, or for its parity. Goes back to its pool when the last [`Bytes`] of it is dropped.
pub struct Buffer {
    pages: Vec<Page>,
    len: usize,
    pool: Option<Arc<Pool>>,
}

impl Buffer {
    /// Its bytes, to fill in.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.pages.as_mut_slice().as_mut_bytes()[..self.len]
    }

    /// Shares it, unchanged from now on.
    pub fn freeze(self) -> Bytes {
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
}
