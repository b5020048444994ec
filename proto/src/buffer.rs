//! Memory aligned to disk blocks, which direct I/O takes; and pools of it for the bytes of blobs, so
//! that storage writes them without a copy. It is used again, because fresh memory costs a page fault
//! per 4 KiB.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use bytes::Bytes;
use parking_lot::Mutex;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::limits::DISK_BLOCK;

/// One aligned disk block.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(4096))]
struct Page([u8; DISK_BLOCK]);

const _: () = assert!(size_of::<Page>() == DISK_BLOCK && align_of::<Page>() == DISK_BLOCK);

/// Bytes whose address and length are multiples of [`DISK_BLOCK`]: direct I/O takes them.
#[derive(Default)]
pub struct Aligned(Vec<Page>);

impl Aligned {
    /// At least `len` zeros, rounded up to whole blocks; at least one block.
    pub fn zeroed(len: usize) -> Self {
        let pages = len.div_ceil(DISK_BLOCK).max(1);
        // What the allocator gets from the system is zero as it is.
        Self(Page::new_vec_zeroed(pages).expect("memory"))
    }
}

impl Deref for Aligned {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_slice().as_bytes()
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.0.as_mut_slice().as_mut_bytes()
    }
}

impl AsRef<[u8]> for Aligned {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

/// Bytes that all pools of this process keep for later use.
static KEPT: AtomicUsize = AtomicUsize::new(0);

/// Bytes that all pools of this process keep for later use.
pub fn kept_bytes() -> usize {
    KEPT.load(Relaxed)
}

/// A pool keeps so many bytes more.
pub fn note_kept(bytes: usize) {
    KEPT.fetch_add(bytes, Relaxed);
}

/// A pool has handed out, or freed, bytes that it kept.
pub fn note_taken(bytes: usize) {
    KEPT.fetch_sub(bytes, Relaxed);
}

/// Keeps buffers of one size that were let go, up to a number of them.
pub struct Pool {
    free: Mutex<Vec<Aligned>>,
    size: usize,
    keep: usize,
}

impl Pool {
    /// Keeps up to `keep` buffers of `len` bytes.
    pub fn new(len: usize, keep: usize) -> Arc<Self> {
        let size = len.next_multiple_of(DISK_BLOCK);
        Arc::new(Self { free: Mutex::default(), size, keep })
    }

    /// A buffer of `len` bytes; what is in it is left from earlier use.
    pub fn take(self: &Arc<Self>, len: usize) -> Buffer {
        // What is nearly as large as the pool's is made in one of the pool's; less is not worth so
        // much memory.
        let pooled = len <= self.size && len > self.size / 2;
        let aligned = if pooled {
            let kept = self.free.lock().pop().inspect(|_| note_taken(self.size));
            kept.unwrap_or_else(|| Aligned::zeroed(self.size))
        } else {
            Aligned::zeroed(len)
        };
        Buffer { aligned, len, pool: pooled.then(|| Arc::clone(self)) }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        note_taken(self.size * self.free.get_mut().len());
    }
}

/// Memory for one blob, or for its parity. Goes back to its pool when the last [`Bytes`] of it is dropped.
pub struct Buffer {
    aligned: Aligned,
    len: usize,
    pool: Option<Arc<Pool>>,
}

impl Buffer {
    /// Its bytes, to fill in.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.aligned[..self.len]
    }

    /// Shares it, unchanged from now on.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.aligned[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            let mut free = pool.free.lock();
            if free.len() < pool.keep {
                free.push(std::mem::take(&mut self.aligned));
                note_kept(pool.size);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_and_length_are_whole_blocks() {
        for len in [0, 1, 4095, 4096, 4097, 1 << 20] {
            let aligned = Aligned::zeroed(len);
            assert_eq!(aligned.as_ptr().align_offset(DISK_BLOCK), 0);
            assert_eq!(aligned.len(), len.max(1).next_multiple_of(DISK_BLOCK));
            assert!(aligned.iter().all(|byte| *byte == 0));
        }
    }

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
        assert_eq!((small.as_ref().len(), small.aligned.len()), (4097, 2 * DISK_BLOCK));
    }
}
