//! Memory for bytes that are not stored yet, and its bound.
//!
//! A write reserves its length before it is accepted. Memory is counted as chunks really hold it, so
//! the bound holds for any pattern of writes. WriteBudget in the store is [`crate::data::space`]'s.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::sync::Notify;

/// Counters of what is not stored yet.
pub(crate) struct WriteBudget {
    limit: u64,
    memory: AtomicU64,
    dirty: AtomicU64,
    /// Told whenever some came free.
    pub(crate) freed: Notify,
}

impl WriteBudget {
    /// At most `limit` bytes of memory.
    pub(crate) fn new(limit: u64) -> Self {
        Self { limit, memory: AtomicU64::new(0), dirty: AtomicU64::new(0), freed: Notify::new() }
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
}
