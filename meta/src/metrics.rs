//! What the journal of a volume's metadata counts. Handles are made when a volume is opened: the recorder must be
//! installed before.

use metrics::{Counter, Histogram, counter, histogram};

/// Entries of the journal that were put.
pub const ENTRIES: &str = "meta_journal_entries_total";
/// Their bytes, of one copy.
pub const BYTES: &str = "meta_journal_bytes_total";
/// Puts of entries that failed, and were tried again.
pub const RETRIES: &str = "meta_journal_retries_total";
/// Seconds from sending a batch of changes, of mostly one entry, to its being durable.
pub const BATCH_SECONDS: &str = "meta_journal_batch_seconds";
/// Who waited for changes to be durable. Entries by syncs is how well they share.
pub const SYNCS: &str = "meta_syncs_total";
/// Seconds that a snapshot took.
pub const SNAPSHOT_SECONDS: &str = "meta_snapshot_seconds";
/// Bytes of chunks that snapshots wrote, of one copy.
pub const SNAPSHOT_BYTES: &str = "meta_snapshot_bytes_total";
/// Bytes of changes that are not durable.
pub const UNSYNCED_BYTES: &str = "meta_unsynced_bytes";
/// Batches of changes that are not durable, under way or waiting for that.
pub const WAITING: &str = "meta_waiting_batches";
/// Bytes of memory of what is durable and in no snapshot.
pub const JOURNALED_BYTES: &str = "meta_journaled_bytes";
/// Epoch under which the volume is led.
pub const EPOCH: &str = "meta_epoch";
/// Bytes of disk that journal and snapshot take, with all copies.
pub const DISK_BYTES: &str = "meta_disk_bytes";

/// Handles of the leader's.
pub(crate) struct Metrics {
    pub(crate) entries: Counter,
    pub(crate) bytes: Counter,
    pub(crate) retries: Counter,
    pub(crate) batch_seconds: Histogram,
    pub(crate) snapshot_seconds: Histogram,
    pub(crate) snapshot_bytes: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            entries: counter!(ENTRIES),
            bytes: counter!(BYTES),
            retries: counter!(RETRIES),
            batch_seconds: histogram!(BATCH_SECONDS),
            snapshot_seconds: histogram!(SNAPSHOT_SECONDS),
            snapshot_bytes: counter!(SNAPSHOT_BYTES),
        }
    }
}
