//! What a mount counts. All names start with `ashlar_`; served by `--metrics ADDRESS`.

use std::time::Instant;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use meta::MetaStore;

use crate::data::DataStatus;

proto::metric_names! {
    histogram OP_SECONDS = "ashlar_op_seconds":
        "Seconds from the kernel's request to our answer, by kind of request";
    counter OP_ERRORS = "ashlar_op_errors_total":
        "Answers that are an error other than that there is no such name or attribute";
    counter READ_BYTES = "ashlar_read_bytes_total": "Bytes that read(2) moved";
    counter WRITTEN_BYTES = "ashlar_written_bytes_total": "Bytes that write(2) moved";
    gauge CAPACITY_BYTES = "ashlar_capacity_bytes":
        "Bytes of user data that may be stored in all; 0: not known";
    gauge AVAILABLE_BYTES = "ashlar_available_bytes": "Bytes of user data that may still be stored";
    gauge STORING_FAILS = "ashlar_storing_fails": "1 while the last blob could not be stored, else 0";
    gauge LAST_EIO = "ashlar_last_io_error_seconds":
        "When an answer was EIO last, in seconds since 1970; 0: none was";
    gauge DIRTY_BYTES = "ashlar_dirty_bytes": "Bytes written and not yet stored";
    gauge CACHE_BYTES = "ashlar_cache_bytes": "Bytes cached in memory";
    gauge MEMORY_BYTES = "ashlar_memory_bytes": "What the memory of the mount's process is used for";
    gauge INODES = "ashlar_inodes": "Inodes that the kernel remembers";
    gauge FILES = "ashlar_files": "Files in use here, or lately";
    counter CACHE_HITS = "ashlar_cache_hits_total": "Blocks found in the cache";
    counter CACHE_MISSES = "ashlar_cache_misses_total": "Blocks missing from the cache";
}

macro_rules! ops {
    ($($op:ident = $name:literal),* $(,)?) => {
        /// Kinds of requests.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Op { $($op),* }

        const OPS: &[(Op, &str)] = &[$((Op::$op, $name)),*];

        impl Op {
            /// As metrics and logs call it.
            pub(crate) fn name(self) -> &'static str {
                match self {
                    $(Self::$op => $name),*
                }
            }
        }
    };
}

// A macro, so that an operation cannot be without its name.
ops! {
    Lookup = "lookup", Create = "create", Link = "link", Unlink = "unlink", Rmdir = "rmdir",
    Rename = "rename", Readlink = "readlink", Readdir = "readdir", Getattr = "getattr",
    Setattr = "setattr", Read = "read", Write = "write", Fsync = "fsync", Fsyncdir = "fsyncdir",
    Fallocate = "fallocate", Seek = "lseek", CopyRange = "copy_file_range", Getxattr = "getxattr",
    Setxattr = "setxattr", Listxattr = "listxattr", Removexattr = "removexattr", Statfs = "statfs",
}

struct OpMetrics {
    seconds: Histogram,
    errors: Counter,
}

/// Handles of all metrics of the kernel's door, looked up once.
pub(crate) struct Metrics {
    ops: Vec<OpMetrics>,
    read: Counter,
    written: Counter,
    last_eio: Gauge,
}

impl Metrics {
    /// To be called after the recorder is installed, if there is to be one.
    pub(crate) fn new() -> Self {
        describe();
        let ops = OPS
            .iter()
            .map(|&(_, op)| OpMetrics {
                seconds: histogram!(OP_SECONDS, "op" => op),
                errors: counter!(OP_ERRORS, "op" => op),
            })
            .collect();
        let (read, written) = (counter!(READ_BYTES), counter!(WRITTEN_BYTES));
        Self { ops, read, written, last_eio: gauge!(LAST_EIO) }
    }

    /// An operation was answered.
    pub(crate) fn answered(&self, op: Op, since: Instant) {
        self.ops[op as usize].seconds.record(since.elapsed());
    }

    /// Its answer was an error.
    pub(crate) fn failed(&self, op: Op) {
        self.ops[op as usize].errors.increment(1);
    }

    /// Its answer was EIO, at this second since 1970.
    pub(crate) fn failed_at(&self, second: u64) {
        self.last_eio.set(second as f64);
    }

    /// read(2) got this much.
    pub(crate) fn read(&self, bytes: usize) {
        self.read.increment(bytes as u64);
    }

    /// write(2) gave this much.
    pub(crate) fn written(&self, bytes: usize) {
        self.written.increment(bytes as u64);
    }
}

/// What the memory of a mount's process is used for, in bytes, beside dirty ranges and the cache.
pub(crate) struct Memory {
    /// `flights`: blobs being put.
    pub(crate) flights: u64,
    /// `pools`: buffers that are kept to be used again.
    pub(crate) pools: u64,
    /// `metadata`: changes of metadata that are not synced yet.
    pub(crate) metadata: u64,
    /// `extents`: what is remembered of where the bytes of files lie.
    pub(crate) extents: u64,
    /// `allocated`: what the allocator has from the system, used or not.
    pub(crate) allocated: u64,
    /// `resident`: pages of the process that are in memory.
    pub(crate) resident: u64,
}

/// Brings the data plane's figures up to date.
pub(crate) fn observe(
    (status, capacity): (&DataStatus, u64),
    memory: &Memory,
    inodes: usize,
    files: usize,
) {
    let kinds = [
        ("dirty", status.dirty_bytes),
        ("cache", status.cache_bytes),
        ("flights", memory.flights),
        ("pools", memory.pools),
        ("metadata", memory.metadata),
        ("extents", memory.extents),
        ("allocated", memory.allocated),
        ("resident", memory.resident),
    ];
    for (kind, bytes) in kinds {
        gauge!(MEMORY_BYTES, "kind" => kind).set(bytes as f64);
    }
    gauge!(INODES).set(inodes as f64);
    gauge!(FILES).set(files as f64);
    gauge!(CAPACITY_BYTES).set(capacity as f64);
    gauge!(AVAILABLE_BYTES).set(status.available.unwrap_or(0) as f64);
    gauge!(STORING_FAILS).set(f64::from(u8::from(status.last_error.is_some())));
    gauge!(DIRTY_BYTES).set(status.dirty_bytes as f64);
    gauge!(CACHE_BYTES).set(status.cache_bytes as f64);
    counter!(CACHE_HITS).absolute(status.cache_hits);
    counter!(CACHE_MISSES).absolute(status.cache_misses);
}

/// Sets those of the metadata's that are not counted where they change.
pub(crate) fn observe_metadata(meta: &dyn MetaStore) {
    gauge!(meta::metrics::UNSYNCED_BYTES).set(meta.unsynced_bytes() as f64);
    gauge!(meta::metrics::DISK_BYTES).set(meta.disk_bytes() as f64);
    if let Some(journal) = meta.journal() {
        gauge!(meta::metrics::EPOCH).set(journal.epoch as f64);
        gauge!(meta::metrics::WAITING).set(journal.waiting as f64);
        gauge!(meta::metrics::JOURNALED_BYTES).set(journal.journaled_bytes as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_is_at_its_place() {
        for (index, &(op, name)) in OPS.iter().enumerate() {
            assert_eq!(op as usize, index, "{name}");
        }
    }
}
