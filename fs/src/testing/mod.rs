//! Both stores in memory, with faults and crashes, and tests of the data plane over them.

mod clones_tests;
mod crash_tests;
mod fault_tests;
mod fragments_tests;
mod full_tests;
mod grudging;
mod inline_tests;
mod local_tests;
mod memory_blobs;
mod memory_meta;
mod model_tests;
mod reference;
mod remote_tests;
mod space_tests;
mod tree_tests;

pub(crate) use grudging::Grudging;
pub(crate) use memory_blobs::MemoryBlobs;
pub(crate) use memory_meta::MemoryMeta;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use meta::{Attr, Ino, Kind, Time};

use crate::data::{Data, DataSettings};

/// An empty file of root, made and never touched since.
pub(crate) fn empty_file(ino: Ino, made: Time) -> Attr {
    Attr {
        ino,
        kind: Kind::File,
        mode: 0o644,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        xattrs: 0,
        size: 0,
        stored: 0,
        atime: made,
        mtime: made,
        ctime: made,
        btime: made,
    }
}

/// Settings small enough that every bound is met.
pub(crate) fn small() -> DataSettings {
    DataSettings {
        dirty_bytes: 8 << 20,
        cache_bytes: 4 << 20,
        read_ahead: 2 << 20,
        puts_in_flight: 3,
        stall_limit: Duration::from_secs(5),
        inline_bytes: 0,
        ..DataSettings::default()
    }
}

/// A data plane over memory.
pub(crate) struct World {
    pub(crate) meta: Arc<MemoryMeta>,
    pub(crate) blobs: Arc<MemoryBlobs>,
    pub(crate) data: Arc<Data>,
}

impl World {
    pub(crate) fn new(settings: DataSettings) -> Self {
        Self::over(Arc::new(MemoryMeta::new()), Arc::new(MemoryBlobs::new()), settings)
    }

    pub(crate) fn over(
        meta: Arc<MemoryMeta>,
        blobs: Arc<MemoryBlobs>,
        settings: DataSettings,
    ) -> Self {
        let data = Data::start(meta.clone(), blobs.clone(), settings);
        Self { meta, blobs, data }
    }

    pub(crate) async fn write(&self, ino: Ino, offset: u64, bytes: &[u8]) {
        let now = Time { secs: 1, nanos: 0 };
        self.data.write(ino, offset, Bytes::copy_from_slice(bytes), now).await.unwrap();
    }

    pub(crate) async fn read(&self, ino: Ino, offset: u64, len: u64) -> Bytes {
        self.data.read(ino, offset..offset + len).await.unwrap()
    }
}

/// A small, seeded generator: failures print the seed.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        let first = self.next();
        (0..len as u64).map(|i| (first.wrapping_add(i.wrapping_mul(31)) >> 3) as u8).collect()
    }
}
