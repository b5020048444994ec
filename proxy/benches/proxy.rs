//! What the proxy itself costs: requests over slots that do nothing, so placement, encoding,
//! checksums and deciding.

use std::cell::Cell;
use std::hint::black_box;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use proto::checksum::Checked;
use proto::id::{BlobId, DiskId, PartKey, PartSet, SessionId, VolumeId};
use proto::part_store::{Fill, FillLevel, Held, PartError, PartStore};
use proxy::{BlobStore, Proxy, ProxySettings, SlotConfig};

/// Takes everything and gives zeros.
struct Null {
    zeros: Bytes,
    absent: bool,
}

#[async_trait]
impl PartStore for Null {
    async fn put(&self, _key: PartKey, data: Checked) -> Result<(), PartError> {
        black_box(data);
        Ok(())
    }
    async fn get(&self, _key: PartKey, range: Range<u32>) -> Result<Bytes, PartError> {
        if self.absent {
            return Err(PartError::NotFound);
        }
        Ok(self.zeros.slice(..range.len()))
    }
    async fn held(&self, _blob: BlobId) -> Result<Held, PartError> {
        Ok(Held::default())
    }
    async fn delete(&self, _blobs: &[BlobId]) -> Result<(), PartError> {
        Ok(())
    }
    async fn forget(&self, _blobs: &[BlobId]) -> Result<(), PartError> {
        Ok(())
    }
    async fn list(
        &self,
        _volume: VolumeId,
        _session: SessionId,
        _after: Option<BlobId>,
        _limit: u32,
    ) -> Result<Vec<(BlobId, PartSet)>, PartError> {
        Ok(Vec::new())
    }
    async fn fill(&self) -> Result<Fill, PartError> {
        let (capacity, level) = (1 << 40, FillLevel::Green);
        Ok(Fill { capacity, used: 0, available: capacity, level })
    }
}

/// Eight slots, of which the first `absent` hold nothing.
fn null_proxy(absent: usize) -> Arc<Proxy> {
    let zeros = Bytes::from(vec![0; 8 << 20]);
    let slot = |n: usize| SlotConfig {
        disk: DiskId::from_slice(&[n as u8 + 1; 16]).expect("16 bytes"),
        place: format!("null{n}"),
        domain: format!("domain{n}"),
        store: Arc::new(Null { zeros: zeros.clone(), absent: n < absent }),
    };
    Proxy::new((0..8).map(slot).collect(), ProxySettings::default())
}

fn blob(sequence: u64, len: u32, scheme: &str) -> BlobId {
    let scheme = scheme.parse().expect("a scheme");
    BlobId::new(VolumeId(1), SessionId(1), sequence, len, scheme).expect("a blob id")
}

fn puts_and_gets(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let _inside = runtime.enter();
    let proxy = null_proxy(0);
    let data = Bytes::from(vec![7; 4 << 20]);
    let mut group = c.benchmark_group("null store");
    for (name, len, scheme) in [
        ("put 4 MiB ec(4,2)", 4 << 20, "ec(4,2)"),
        ("put 64 KiB ec(4,2)", 64 << 10, "ec(4,2)"),
        ("put 4 KiB copies(3)", 4 << 10, "copies(3)"),
    ] {
        group.throughput(Throughput::Bytes(u64::from(len)));
        group.bench_function(name, |b| {
            b.to_async(&runtime).iter(|| async {
                proxy.put(blob(1, len, scheme), data.slice(..len as usize)).await
            });
        });
    }
    let half_empty = null_proxy(2);
    for (name, proxy, range) in [
        ("get 4 KiB of one part", &proxy, 0..4096),
        ("get 1 MiB of one part", &proxy, 0..1 << 20),
        ("get 4 MiB of all parts", &proxy, 0..4 << 20),
        ("get 4 KiB, two slots empty", &half_empty, 0..4096),
        ("get 4 MiB, two slots empty", &half_empty, 0..4 << 20),
    ] {
        group.throughput(Throughput::Bytes(range.len() as u64));
        // Many blobs: which of their parts lie on the empty slots differs.
        let next = Cell::new(0);
        group.bench_function(name, |b| {
            b.to_async(&runtime).iter(|| {
                next.set(next.get() + 1);
                proxy.get(blob(next.get(), 4 << 20, "ec(4,2)"), range.clone())
            });
        });
    }
    group.finish();
}

criterion_group!(benches, puts_and_gets);
criterion_main!(benches);
