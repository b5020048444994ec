//! Buffers that direct I/O accepts. All `unsafe` of the storage daemon is here.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use parking_lot::Mutex;
use proto::limits::DISK_BLOCK;

/// A zeroed byte buffer whose address and length are multiples of [`DISK_BLOCK`].
///
/// Invariant: `ptr` came from `alloc_zeroed` with exactly `layout`, and is owned.
pub(crate) struct AlignedBuf {
    ptr: NonNull<u8>,
    layout: Layout,
}

impl AlignedBuf {
    /// A buffer of at least `len` bytes, rounded up to whole blocks.
    pub(crate) fn zeroed(len: usize) -> Self {
        let size = len.max(1).next_multiple_of(DISK_BLOCK);
        let layout = Layout::from_size_align(size, DISK_BLOCK).expect("size fits in isize");
        // SAFETY: `layout` has non-zero size, as `size >= DISK_BLOCK`.
        let ptr = unsafe { alloc_zeroed(layout) };
        let ptr = NonNull::new(ptr).unwrap_or_else(|| handle_alloc_error(layout));
        Self { ptr, layout }
    }
}

/// Bytes of buffers kept for the next reads: fresh memory costs more CPU than the read into it.
const POOL_BYTES: usize = 16 << 20;
/// Most buffers kept.
const POOL_BUFFERS: usize = 256;

static POOL: Mutex<Vec<AlignedBuf>> = Mutex::new(Vec::new());

/// A buffer on loan from a pool that all disks share; it goes back when it is dropped. At least as
/// long as asked for, and it holds whatever it held before.
pub(crate) struct PooledBuf(Option<AlignedBuf>);

impl PooledBuf {
    /// A buffer of at least `len` bytes.
    pub(crate) fn at_least(len: usize) -> Self {
        let mut pool = POOL.lock();
        let fits = |buf: &AlignedBuf| (len..=2 * len.max(DISK_BLOCK)).contains(&buf.len());
        let found = pool.iter().position(fits).map(|at| pool.swap_remove(at));
        drop(pool);
        Self(Some(found.unwrap_or_else(|| AlignedBuf::zeroed(len))))
    }
}

impl AsRef<[u8]> for PooledBuf {
    fn as_ref(&self) -> &[u8] {
        self.0.as_ref().expect("it is there until the drop")
    }
}

impl AsMut<[u8]> for PooledBuf {
    fn as_mut(&mut self) -> &mut [u8] {
        self.0.as_mut().expect("it is there until the drop")
    }
}

impl Drop for PooledBuf {
    fn drop(&mut self) {
        let Some(buf) = self.0.take() else { return };
        let mut pool = POOL.lock();
        let held: usize = pool.iter().map(|buf| buf.len()).sum();
        if pool.len() < POOL_BUFFERS && held + buf.len() <= POOL_BYTES {
            pool.push(buf);
        }
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `ptr` is valid for `layout.size()` initialised bytes while `self` lives.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.layout.size()) }
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` makes this the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.layout.size()) }
    }
}

impl AsRef<[u8]> for AlignedBuf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        // SAFETY: allocated in `zeroed` with this very layout, and dropped once.
        unsafe { dealloc(self.ptr.as_ptr(), self.layout) }
    }
}

// SAFETY: the buffer owns its memory, as a `Vec<u8>` does.
unsafe impl Send for AlignedBuf {}
// SAFETY: shared access gives only `&[u8]`.
unsafe impl Sync for AlignedBuf {}

/// How many bytes at the start of `data` direct I/O takes as they lie: all whole blocks if the
/// address is aligned, else none.
pub(crate) fn direct_prefix(data: &[u8]) -> usize {
    if (data.as_ptr() as usize).is_multiple_of(DISK_BLOCK) {
        data.len() / DISK_BLOCK * DISK_BLOCK
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_and_length_are_whole_blocks() {
        for len in [0, 1, 4095, 4096, 4097, 1 << 20] {
            let buf = AlignedBuf::zeroed(len);
            assert_eq!(buf.as_ptr() as usize % DISK_BLOCK, 0);
            assert_eq!(buf.len() % DISK_BLOCK, 0);
            assert!(buf.len() >= len.max(1));
            assert_eq!(direct_prefix(&buf), buf.len());
            assert_eq!(direct_prefix(&buf[1..]), 0);
        }
    }
}
