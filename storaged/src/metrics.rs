//! What a disk counts. Every name is here, with its meaning. All carry the label `disk`.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use proto::id::DiskId;
use proto::part_store::Fill;

/// Seconds that one sync of a batch took.
pub const SYNC_SECONDS: &str = "storaged_sync_seconds";
/// Records made durable.
pub const RECORDS: &str = "storaged_records_total";
/// Batches written: one write and one sync each. Compare with the records for how well they pack.
pub const BATCHES: &str = "storaged_batches_total";
/// Batches that could not be written.
pub const FAILED_BATCHES: &str = "storaged_failed_batches_total";
/// Bytes written to block files, with headers and padding.
pub const WRITTEN_BYTES: &str = "storaged_written_bytes_total";
/// Bytes of payload read and verified.
pub const READ_BYTES: &str = "storaged_read_bytes_total";
/// Reads that met a corrupt part or an error of the disk.
pub const FAILED_READS: &str = "storaged_failed_reads_total";
/// Parts known to be damaged: a read, or compaction, met rot or an error of the disk, and they were
/// neither put again nor deleted since. Starts from zero when the disk is opened.
pub const DAMAGED_PARTS: &str = "storaged_damaged_parts";
/// Block files emptied by compaction.
pub const COMPACTED_FILES: &str = "storaged_compacted_files_total";
/// Bytes of live records.
pub const USED_BYTES: &str = "storaged_used_bytes";
/// Bytes that new parts may still take.
pub const AVAILABLE_BYTES: &str = "storaged_available_bytes";
/// Parts held.
pub const PARTS: &str = "storaged_parts";

/// The handles of one disk.
pub(crate) struct DiskMetrics {
    sync: Histogram,
    records: Counter,
    batches: Counter,
    failed_batches: Counter,
    written: Counter,
    read: Counter,
    failed_reads: Counter,
    compacted: Counter,
    damaged: Gauge,
    used: Gauge,
    available: Gauge,
    parts: Gauge,
}

impl DiskMetrics {
    /// Of this disk. Metrics are served from when a recorder was installed before.
    pub(crate) fn new(disk: DiskId) -> Self {
        let disk = disk.to_string();
        let counter = |name: &'static str| counter!(name, "disk" => disk.clone());
        let gauge = |name: &'static str| gauge!(name, "disk" => disk.clone());
        Self {
            sync: histogram!(SYNC_SECONDS, "disk" => disk.clone()),
            records: counter(RECORDS),
            batches: counter(BATCHES),
            failed_batches: counter(FAILED_BATCHES),
            written: counter(WRITTEN_BYTES),
            read: counter(READ_BYTES),
            failed_reads: counter(FAILED_READS),
            compacted: counter(COMPACTED_FILES),
            damaged: gauge(DAMAGED_PARTS),
            used: gauge(USED_BYTES),
            available: gauge(AVAILABLE_BYTES),
            parts: gauge(PARTS),
        }
    }

    pub(crate) fn sync(&self, took: Duration) {
        self.sync.record(took.as_secs_f64());
    }

    pub(crate) fn batch(&self, records: usize, durable: bool) {
        if durable {
            self.records.increment(records as u64);
            self.batches.increment(1);
        } else {
            self.failed_batches.increment(1);
        }
    }

    pub(crate) fn written(&self, bytes: u64) {
        self.written.increment(bytes);
    }

    pub(crate) fn read(&self, bytes: usize) {
        self.read.increment(bytes as u64);
    }

    pub(crate) fn read_failed(&self) {
        self.failed_reads.increment(1);
    }

    pub(crate) fn compacted(&self) {
        self.compacted.increment(1);
    }

    pub(crate) fn damaged(&self, parts: usize) {
        self.damaged.set(parts as f64);
    }

    pub(crate) fn fill(&self, fill: &Fill, parts: u64) {
        self.used.set(fill.used as f64);
        self.available.set(fill.available as f64);
        self.parts.set(parts as f64);
    }
}
