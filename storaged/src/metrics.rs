//! What a disk counts. Every name is here, with its meaning. All carry the label `disk`.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use proto::id::DiskId;
use proto::part_store::Fill;

proto::metric_names! {
    histogram SYNC_SECONDS = "storaged_sync_seconds": "Seconds that one sync of a batch took";
    counter RECORDS = "storaged_records_total": "Records made durable";
    counter BATCHES = "storaged_batches_total":
        "Batches written: one write and one sync each. Compare with the records for how well they pack";
    counter FAILED_BATCHES = "storaged_failed_batches_total": "Batches that could not be written";
    counter WRITTEN_BYTES = "storaged_written_bytes_total":
        "Bytes written to block files, with headers and padding";
    counter READ_BYTES = "storaged_read_bytes_total": "Bytes of payload read and verified";
    counter FAILED_READS = "storaged_failed_reads_total":
        "Reads that met a corrupt part or an error of the disk";
    gauge DAMAGED_PARTS = "storaged_damaged_parts":
        "Parts known to be damaged: a read, or compaction, met rot or an error of the disk, and they were neither put again nor deleted since. After a restart those known before are looked at first";
    counter SCRUBBED_PARTS = "storaged_scrubbed_parts_total":
        "Parts read and verified by the scrub";
    counter SCRUBBED_BYTES = "storaged_scrubbed_bytes_total":
        "Bytes of payload that the scrub has read";
    counter SCRUB_FOUND = "storaged_scrub_damaged_parts_total":
        "Parts that the scrub found damaged, again with each pass";
    gauge SCRUB_PERCENT = "storaged_scrub_percent":
        "How much of the scrub's pass is done, in percent; 100 until the next one begins";
    gauge SCRUB_ENDED = "storaged_scrub_ended_seconds":
        "When the last full pass of the scrub ended, in seconds since 1970; 0: none has";
    counter MENDED_ENTRIES = "storaged_mended_entries_total":
        "Entries of the index that were not what the log says, and were put right";
    counter COMPACTED_FILES = "storaged_compacted_files_total":
        "Block files emptied by compaction";
    gauge USED_BYTES = "storaged_used_bytes": "Bytes of live records";
    gauge AVAILABLE_BYTES = "storaged_available_bytes": "Bytes that new parts may still take";
    gauge PARTS = "storaged_parts": "Parts held";
}

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
    scrubbed: Counter,
    scrubbed_bytes: Counter,
    scrub_found: Counter,
    mended: Counter,
    scrub_percent: Gauge,
    scrub_ended: Gauge,
    damaged: Gauge,
    used: Gauge,
    available: Gauge,
    parts: Gauge,
}

impl DiskMetrics {
    /// Of this disk. Metrics are served from when a recorder was installed before.
    pub(crate) fn new(disk: DiskId) -> Self {
        describe();
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
            scrubbed: counter(SCRUBBED_PARTS),
            scrubbed_bytes: counter(SCRUBBED_BYTES),
            scrub_found: counter(SCRUB_FOUND),
            mended: counter(MENDED_ENTRIES),
            scrub_percent: gauge(SCRUB_PERCENT),
            scrub_ended: gauge(SCRUB_ENDED),
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

    pub(crate) fn scrubbed(&self, bytes: u32, damaged: bool) {
        self.scrubbed.increment(1);
        self.scrubbed_bytes.increment(bytes.into());
        self.scrub_found.increment(damaged.into());
    }

    pub(crate) fn scrub(&self, percent: u64, ended: u64) {
        self.scrub_percent.set(percent as f64);
        self.scrub_ended.set(ended as f64);
    }

    pub(crate) fn mended(&self, entries: usize) {
        self.mended.increment(entries as u64);
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
