//! Room for bytes that are not stored yet: a bound on memory, and on what the store can take.
//!
//! A write reserves its length before it is accepted. Memory is counted as chunks really hold it, so
//! the bound holds for any pattern of writes. The store's room is what it last said, less what was
//! put since; a part of it is kept back for the cleaner, without which a full volume could not be
//! emptied.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use proto::limits::TARGET_BLOB;
use proxy::Space;
use tokio::sync::Notify;

use crate::data::DataError;

/// Room below which space is scarce on any volume, in bytes.
const SCARCE: u64 = 64 << 20;

/// Counters of what is not stored yet.
pub(crate) struct Room {
    limit: u64,
    memory: AtomicU64,
    dirty: AtomicU64,
    available: AtomicU64,
    capacity: AtomicU64,
    refused: AtomicBool,
    cut_off: AtomicBool,
    /// Told whenever memory or the store's room grew.
    pub(crate) freed: Notify,
}

impl Room {
    /// At most `limit` bytes of memory.
    pub(crate) fn new(limit: u64) -> Self {
        Self {
            limit,
            memory: AtomicU64::new(0),
            dirty: AtomicU64::new(0),
            available: AtomicU64::new(u64::MAX),
            capacity: AtomicU64::new(0),
            refused: AtomicBool::new(false),
            cut_off: AtomicBool::new(false),
            freed: Notify::new(),
        }
    }

    /// Longest write that is accepted in one piece.
    pub(crate) fn piece(&self) -> usize {
        (self.limit / 4).clamp(1, 1 << 20) as usize
    }

    /// Memory in use.
    pub(crate) fn memory(&self) -> u64 {
        self.memory.load(Relaxed)
    }

    /// Bytes that wait to be packed.
    pub(crate) fn dirty(&self) -> u64 {
        self.dirty.load(Relaxed)
    }

    /// Is more than half of the memory in use?
    pub(crate) fn is_pressed(&self) -> bool {
        self.memory() > self.limit / 2
    }

    /// Takes `len` bytes of memory, if there are so many.
    pub(crate) fn reserve(&self, len: u64) -> bool {
        let take = |used: u64| (used + len <= self.limit).then_some(used + len);
        self.memory.fetch_update(Relaxed, Relaxed, take).is_ok()
    }

    /// Would the store not have room for what waits and `len` bytes more?
    pub(crate) fn is_short(&self, len: u64) -> bool {
        let available = self.available.load(Relaxed);
        if available == u64::MAX {
            return false;
        }
        let waiting = self.memory() + len;
        // Records have headers, and every blob a summary.
        waiting + waiting / 16 + u64::from(TARGET_BLOB) > available
    }

    /// Why there is no room: the store is full, or its disks are out of reach.
    pub(crate) fn why_short(&self) -> DataError {
        match self.cut_off.load(Relaxed) {
            true => DataError::Unavailable("too few disks take writes".to_owned()),
            false => DataError::NoSpace,
        }
    }

    /// Is it time to empty blobs that are worth less?
    pub(crate) fn is_scarce(&self) -> bool {
        self.is_short((self.capacity.load(Relaxed) / 16).min(SCARCE))
    }

    /// Corrects memory and dirty bytes after a change. Answers the dirty bytes before and after.
    pub(crate) fn account(
        &self,
        memory: (u64, u64),
        reserved: u64,
        dirty: (u64, u64),
    ) -> (u64, u64) {
        // Differences may be negative: wrapping sums come out right.
        let change = memory.1.wrapping_sub(memory.0).wrapping_sub(reserved);
        self.memory.fetch_add(change, Relaxed);
        let change = dirty.1.wrapping_sub(dirty.0);
        let before = self.dirty.fetch_add(change, Relaxed);
        if memory.1 < memory.0 + reserved {
            self.freed.notify_waiters();
        }
        (before, before.wrapping_add(change))
    }

    /// What the store says now.
    pub(crate) fn learn(&self, space: Space) {
        if space.capacity == 0 {
            return;
        }
        let kept = (space.capacity / 64).clamp(4 << 20, 256 << 20).min(space.capacity / 8);
        let available = space.available.saturating_sub(kept);
        self.capacity.store(space.capacity, Relaxed);
        self.cut_off.store(space.cut_off, Relaxed);
        let before = self.available.swap(available, Relaxed);
        if available > before {
            self.refused.store(false, Relaxed);
            self.freed.notify_waiters();
        }
    }

    /// A blob of `len` bytes was put.
    pub(crate) fn spent(&self, len: u64) {
        self.refused.store(false, Relaxed);
        let take = |available: u64| (available != u64::MAX).then(|| available.saturating_sub(len));
        // Nothing known yet is no error.
        let _ = self.available.fetch_update(Relaxed, Relaxed, take);
    }

    /// The store refused a blob because it is full.
    pub(crate) fn refuse(&self) {
        self.refused.store(true, Relaxed);
    }

    /// Did the store refuse the last blob?
    pub(crate) fn is_refused(&self) -> bool {
        self.refused.load(Relaxed)
    }

    /// What the store has room for, writers' share; `None` when it has not said.
    pub(crate) fn available(&self) -> Option<u64> {
        let available = self.available.load(Relaxed);
        (available != u64::MAX).then_some(available)
    }
}
