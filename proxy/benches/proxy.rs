//! What the proxy itself costs: placement alone, the code alone, and requests over slots that do
//! nothing, so both with checksums and deciding.

use std::cell::Cell;
use std::hint::black_box;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use proto::checksum::Checked;
use proto::id::{
    BlobId, DiskId, Epoch, Generation, GroupId, OwnerId, PartIndex, PartKey, SessionId, VolumeId,
};
use proto::part_store::{
    Beat, Condition, Fill, FillLevel, Held, Issuer, LastBeat, Page, PartError, PartStore, Scope,
    Standing,
};
use proto::scheme::Scheme;
use proxy::placement::Group;
use proxy::{BlobStore, Proxy, ProxySettings, SlotConfig, codec};

/// Takes everything and gives zeros.
struct Null {
    zeros: Bytes,
    absent: bool,
}

#[async_trait]
impl PartStore for Null {
    async fn standing(&self) -> Result<Option<Standing>, PartError> {
        Ok(Some(Standing { generation: Generation(1), rebuilding: false, pristine: false }))
    }
    async fn drop_part(&self, _: PartKey, _: Option<Issuer>) -> Result<(), PartError> {
        Ok(())
    }
    async fn rebuilt(&self, _: VolumeId, _: Option<Issuer>) -> Result<(), PartError> {
        Ok(())
    }
    async fn serve(&self) -> Result<(), PartError> {
        Ok(())
    }

    async fn put(
        &self,
        _key: PartKey,
        data: Checked,
        _issuer: Option<Issuer>,
    ) -> Result<(), PartError> {
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
    async fn delete(&self, _: &[BlobId], _: Option<Issuer>) -> Result<(), PartError> {
        Ok(())
    }
    async fn fence(&self, _: VolumeId, _: Epoch, _: OwnerId) -> Result<(), PartError> {
        Ok(())
    }
    async fn promised(&self, _: VolumeId) -> Result<Option<Issuer>, PartError> {
        Ok(None)
    }
    async fn beat(&self, _: VolumeId, _: Issuer, _: Beat) -> Result<(), PartError> {
        Ok(())
    }
    async fn last_beat(&self, _: VolumeId) -> Result<Option<LastBeat>, PartError> {
        Ok(None)
    }
    async fn forget(&self, _: &[BlobId], _: Option<Issuer>) -> Result<(), PartError> {
        Ok(())
    }
    async fn list(
        &self,
        _scope: Scope,
        _after: Option<BlobId>,
        _limit: u32,
    ) -> Result<Page, PartError> {
        Ok(Page { complete: true, ..Page::default() })
    }
    async fn condition(&self, _: VolumeId) -> Result<Condition, PartError> {
        Ok(Condition::default())
    }
    async fn scrub(&self) -> Result<(), PartError> {
        Ok(())
    }
    async fn fill(&self) -> Result<Fill, PartError> {
        let (capacity, level) = (1 << 40, FillLevel::Green);
        Ok(Fill { capacity, used: 0, available: capacity, spare: 0, level })
    }
}

/// Eight slots, of which the first `absent` hold nothing.
fn null_proxy(absent: usize) -> Arc<Proxy> {
    let zeros = Bytes::from(vec![0; 8 << 20]);
    let slot = |n: usize| SlotConfig {
        disk: disk(n),
        stands_for: disk(n),
        place: format!("null{n}"),
        domain: format!("domain{n}"),
        rack: String::new(),
        drains: false,
        store: Arc::new(Null { zeros: zeros.clone(), absent: n < absent }),
    };
    Proxy::new(GroupId(0), (0..8).map(slot).collect(), ProxySettings::default())
}

fn blob(sequence: u64, len: u32, scheme: &str) -> BlobId {
    let scheme = scheme.parse().expect("a scheme");
    BlobId::new(VolumeId(1), SessionId(1), sequence, GroupId(0), len, scheme).expect("a blob id")
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

fn disk(n: usize) -> DiskId {
    DiskId::from_slice(&[n as u8 + 1; 16]).expect("16 bytes")
}

fn placement(c: &mut Criterion) {
    let mut group = c.benchmark_group("placement");
    for (name, slots, domains) in
        [("8 slots", 8, 8), ("64 slots", 64, 64), ("64 slots of 8 machines", 64, 8)]
    {
        let names: Vec<String> = (0..slots).map(|n| format!("domain{}", n % domains)).collect();
        let slots = Group::new(names.iter().enumerate().map(|(n, name)| (disk(n), name.as_str())));
        let mut sequence = 0;
        group.bench_function(name, |b| {
            b.iter(|| {
                sequence += 1;
                slots.place(blob(sequence, 4 << 20, "ec(4,2)")).main(0)
            });
        });
    }
    group.finish();
}

fn code(c: &mut Criterion) {
    let data = Bytes::from(vec![7; 4 << 20]);
    let mut group = c.benchmark_group("code");
    for name in ["ec(4,2)", "ec(8,3)"] {
        let scheme: Scheme = name.parse().expect("a scheme");
        let id = blob(1, 4 << 20, name);
        group.throughput(Throughput::Bytes(4 << 20));
        group.bench_function(format!("encode 4 MiB {name}"), |b| {
            b.iter(|| codec::encode(id, &data))
        });
        // The first two parts are lost.
        let parts: Vec<_> = (0..).map_while(PartIndex::new).zip(codec::encode(id, &data)).collect();
        for len in [4096, 64 << 10, id.part_len() as usize] {
            let piece = |(part, bytes): &(_, Checked)| (*part, bytes.data().slice(..len));
            let here: Vec<_> = parts[2..].iter().map(piece).collect();
            let lost = [parts[0].0, parts[1].0];
            group.throughput(Throughput::Bytes(2 * len as u64));
            group.bench_function(format!("restore 2 x {} KiB {name}", len >> 10), |b| {
                b.iter(|| codec::decode(scheme, &here, &lost));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, placement, code, puts_and_gets);
criterion_main!(benches);
