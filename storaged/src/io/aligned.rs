//! What direct I/O takes as it lies, and buffers for reads, used again.

use parking_lot::Mutex;
use proto::buffer::{Aligned, note_kept, note_taken};
use proto::limits::DISK_BLOCK;

/// Bytes of buffers kept for the next reads: fresh memory costs more CPU than the read into it.
const POOL_BYTES: usize = 16 << 20;
/// Most buffers kept.
const POOL_BUFFERS: usize = 256;

static POOL: Mutex<Vec<Aligned>> = Mutex::new(Vec::new());

/// A buffer on loan from a pool that all disks share; it goes back when it is dropped. At least as
/// long as asked for, and it holds whatever it held before.
pub(crate) struct PooledBuf(Option<Aligned>);

impl PooledBuf {
    /// A buffer of at least `len` bytes.
    pub(crate) fn at_least(len: usize) -> Self {
        let mut pool = POOL.lock();
        // Not much longer ones: what was read may be cached with all of its buffer.
        let longest = (len + len / 8).next_multiple_of(DISK_BLOCK).max(2 * DISK_BLOCK);
        let fits = |buf: &Aligned| (len..=longest).contains(&buf.len());
        let found = pool.iter().position(fits).map(|at| pool.swap_remove(at));
        drop(pool);
        found.iter().for_each(|buf| note_taken(buf.len()));
        Self(Some(found.unwrap_or_else(|| Aligned::zeroed(len))))
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
            note_kept(buf.len());
            pool.push(buf);
        }
    }
}

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
    fn whole_blocks_at_aligned_addresses_are_taken_directly() {
        let buf = Aligned::zeroed(3 * DISK_BLOCK);
        assert_eq!(direct_prefix(&buf), buf.len());
        assert_eq!(direct_prefix(&buf[..buf.len() - 1]), 2 * DISK_BLOCK);
        assert_eq!(direct_prefix(&buf[1..]), 0);
    }
}
