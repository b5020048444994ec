//! What the data plane itself costs: over metadata in memory and a store that keeps blobs in memory.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fs::data::{Data, DataSettings, TryWrite};
use meta::{Caller, Ino, MetaStore, NewNode, ROOT, Time, VolumeInfo};
use parking_lot::Mutex;
use proto::id::{BlobId, ClusterId, Epoch, GroupId, OwnerId, SessionId, VolumeId};
use proto::limits::TARGET_BLOB;
use proto::part_store::{Beat, Issuer, LastBeat};
use proto::scheme::Scheme;
use proxy::{BlobError, BlobStore, Listing, SlotStatus, Space, Stored, VolumeRules, Volumes};
use tokio::runtime::Runtime;

#[global_allocator]
static ALLOCATOR: proto::allocator::MiMalloc = proto::allocator::MiMalloc;

/// Keeps blobs in memory; forgets old ones, so that writers can run for long.
#[derive(Default)]
struct Blobs(Mutex<HashMap<BlobId, Bytes>>);

const KEPT: usize = 64;

#[async_trait]
impl BlobStore for Blobs {
    fn group(&self) -> GroupId {
        GroupId(0)
    }
    async fn put(&self, id: BlobId, data: Bytes) -> Result<Stored, BlobError> {
        let mut blobs = self.0.lock();
        if blobs.len() < KEPT {
            blobs.insert(id, data);
        }
        Ok(Stored { degraded: false })
    }
    async fn get(&self, id: BlobId, range: Range<u32>) -> Result<Bytes, BlobError> {
        let blob = self.0.lock().get(&id).cloned().ok_or(BlobError::NotFound(id))?;
        Ok(blob.slice(range.start as usize..range.end as usize))
    }
    async fn delete(&self, ids: &[BlobId]) -> Vec<BlobId> {
        let mut blobs = self.0.lock();
        ids.iter().for_each(|id| drop(blobs.remove(id)));
        Vec::new()
    }
    async fn list(
        &self,
        _: VolumeId,
        _: SessionId,
        _: Option<BlobId>,
    ) -> Result<Listing, BlobError> {
        Ok(Listing::default())
    }
    async fn put_apart(&self, id: BlobId, data: Bytes) -> Result<Stored, BlobError> {
        self.put(id, data).await
    }
    async fn restore_read(&self, id: BlobId) -> Result<Bytes, BlobError> {
        self.get(id, 0..id.len()).await
    }
    async fn fence(&self, _: VolumeId, _: Epoch, _: OwnerId, _: usize) -> Result<(), BlobError> {
        Ok(())
    }
    async fn promised(&self, _: VolumeId, _: usize) -> Result<Option<Issuer>, BlobError> {
        Ok(None)
    }
    async fn beat(&self, _: VolumeId, _: Beat) -> Result<(), BlobError> {
        Ok(())
    }
    async fn last_beats(&self, _: VolumeId, _: usize) -> Result<Vec<LastBeat>, BlobError> {
        Ok(Vec::new())
    }
    async fn list_volume(
        &self,
        _: VolumeId,
        _: Option<BlobId>,
        _: Option<usize>,
    ) -> Result<Listing, BlobError> {
        Ok(Listing::default())
    }
    async fn volumes(&self) -> Volumes {
        Volumes::default()
    }
    fn abide_by(&self, _: VolumeId, _: VolumeRules) {}

    async fn space(&self, _: VolumeId, _: Scheme) -> Space {
        let room = 1 << 50;
        Space {
            capacity: room,
            available: room,
            metadata: room,
            uneven: 0,
            blob: TARGET_BLOB,
            takers: 6,
            needed: 3,
            away: 0,
        }
    }
    async fn in_reach(&self, id: BlobId) -> usize {
        id.scheme().parts()
    }

    async fn slots(&self) -> Vec<SlotStatus> {
        Vec::new()
    }
}

const NOW: Time = Time { secs: 1, nanos: 0 };

fn world(runtime: &Runtime) -> (Arc<Data>, Ino) {
    let info = VolumeInfo {
        name: "bench".into(),
        id: VolumeId(1),
        cluster: ClusterId::random(),
        scheme: Scheme::erasure(4, 2).expect("a valid scheme"),
        rules: proxy::VolumeRules::default(),
    };
    let meta = meta::in_memory(&info, (0, 0, 0o755));
    let caller = Caller { uid: 0, gid: 0, umask: 0 };
    let attr = runtime
        .block_on(meta.create(caller, ROOT, b"file", 0o644, NewNode::File))
        .expect("a new file");
    let data = runtime
        .block_on(async { Data::start(meta, Arc::new(Blobs::default()), DataSettings::default()) });
    (data, attr.ino)
}

async fn write(data: &Arc<Data>, ino: Ino, offset: u64, bytes: &Bytes) {
    if data.try_write(ino, offset, bytes, NOW).expect("a write") != TryWrite::Done {
        data.write(ino, offset, bytes.clone(), NOW).await.expect("a write");
    }
}

fn writes(c: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let mut group = c.benchmark_group("write");
    for len in [4096usize, 1 << 20] {
        let (data, ino) = world(&runtime);
        let bytes = Bytes::from(vec![7u8; len]);
        let offset = AtomicU64::new(0);
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(format!("sequential {len}"), |b| {
            b.to_async(&runtime).iter(|| {
                let at = offset.fetch_add(len as u64, Relaxed) % (8 << 30);
                write(&data, ino, at, &bytes)
            });
        });
    }
    let (data, ino) = world(&runtime);
    let bytes = Bytes::from(vec![7u8; 4096]);
    let dice = AtomicU64::new(1);
    group.throughput(Throughput::Bytes(4096));
    group.bench_function("random 4096", |b| {
        b.to_async(&runtime).iter(|| {
            let random = dice.fetch_add(0x9e37_79b9_7f4a_7c15, Relaxed) >> 20;
            write(&data, ino, random % (256 << 8) * 4096, &bytes)
        });
    });
    let (data, ino) = world(&runtime);
    group.bench_function("4096 and fsync", |b| {
        b.to_async(&runtime).iter(|| async {
            let at = dice.fetch_add(4096, Relaxed) % (1 << 20);
            write(&data, ino, at, &bytes).await;
            data.fsync(ino).await.expect("an fsync");
        });
    });
}

fn reads(c: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let mut group = c.benchmark_group("read");
    let (data, ino) = world(&runtime);
    let bytes = Bytes::from(vec![7u8; 1 << 20]);
    runtime.block_on(async {
        for nth in 0..64 {
            write(&data, ino, nth << 20, &bytes).await;
        }
        data.sync_all().await.expect("a sync");
        tokio::time::sleep(Duration::from_millis(10)).await;
        for nth in 0..64 {
            data.read(ino, nth << 20..(nth + 1) << 20).await.expect("a read");
        }
    });
    let dice = AtomicU64::new(1);
    group.throughput(Throughput::Bytes(4096));
    group.bench_function("cached 4096", |b| {
        b.to_async(&runtime).iter(|| async {
            let page = (dice.fetch_add(0x9e37_79b9_7f4a_7c15, Relaxed) >> 20) % (64 << 8);
            data.read(ino, page * 4096..(page + 1) * 4096).await.expect("a read")
        });
    });
    group.throughput(Throughput::Bytes(1 << 20));
    group.bench_function("cached sequential 1 MiB", |b| {
        b.to_async(&runtime).iter(|| async {
            let at = dice.fetch_add(1, Relaxed) % 64;
            data.read(ino, at << 20..(at + 1) << 20).await.expect("a read")
        });
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(2));
    targets = writes, reads
}
criterion_main!(benches);
