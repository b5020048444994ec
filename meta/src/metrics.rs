//! What the journal of a volume's metadata counts. Handles are made when a volume is opened: the recorder must be
//! installed before.

use metrics::{Counter, Histogram, counter, histogram};

proto::metric_names! {
    counter ENTRIES = "meta_journal_entries_total": "Entries of the journal that were put";
    counter BYTES = "meta_journal_bytes_total": "Their bytes, of one copy";
    counter RETRIES = "meta_journal_retries_total":
        "Puts of entries that failed, and were tried again";
    histogram BATCH_SECONDS = "meta_journal_batch_seconds":
        "Seconds from sending a batch of changes, of mostly one entry, to its being durable";
    counter SYNCS = "meta_syncs_total":
        "Who waited for changes to be durable. Entries by syncs is how well they share";
    histogram SNAPSHOT_SECONDS = "meta_snapshot_seconds": "Seconds that a snapshot took";
    counter SNAPSHOT_BYTES = "meta_snapshot_bytes_total":
        "Bytes of chunks that snapshots wrote, of one copy";
    gauge UNSYNCED_BYTES = "meta_unsynced_bytes": "Bytes of changes that are not durable";
    gauge WAITING = "meta_waiting_batches":
        "Batches of changes that are not durable, under way or waiting for that";
    gauge JOURNALED_BYTES = "meta_journaled_bytes":
        "Bytes of memory of what is durable and in no snapshot";
    gauge EPOCH = "meta_epoch": "Epoch under which the volume is led";
    gauge DISK_BYTES = "meta_disk_bytes":
        "Bytes of disk that journal and snapshot take, with all copies";
}

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
        describe();
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
