//! What the calls of a FUSE thread cost, with its journal at work on a store in memory.
//!
//! `cargo bench -p meta`

#![allow(clippy::unwrap_used, missing_docs)]

use std::future::Future;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use meta::testing::MemoryStores;
use meta::{
    Caller, Directories, Extent, Fate, FileUpdate, Ino, MetaSettings, MetaStore, MountedBy,
    NewNode, Place, ROOT, RenameMode, Session, VolumeInfo, VolumeLock,
};
use proto::id::{BlobId, ClusterId, GroupId, SessionId, VolumeId};
use proto::scheme::Scheme;

const CALLER: Caller = Caller { uid: 0, gid: 0, umask: 0 };

/// The futures of the local implementation are ready when first polled.
fn now<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("the call waits"),
    }
}

struct Volume {
    meta: Arc<Session>,
    runtime: tokio::runtime::Runtime,
    next: u64,
    _dir: tempfile::TempDir,
}

impl Volume {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let info = VolumeInfo {
            name: "bench".to_owned(),
            id: VolumeId(1),
            cluster: ClusterId::random(),
            scheme: Scheme::erasure(4, 2).unwrap(),
            rules: proxy::VolumeRules::default(),
        };
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let meta = runtime.block_on(async {
            let stores = MemoryStores::default();
            let by = MountedBy { pid: 1, mountpoint: PathBuf::from("/bench") };
            let lock = VolumeLock::take(&Directories::only(dir.path()), "bench", &by).unwrap();
            meta::format(&stores, &lock, &info, (0, 0, 0o755)).await.unwrap();
            let settings = MetaSettings::default();
            let volume = meta::open(&stores, lock, settings).await.unwrap();
            Arc::new(volume.open_session().await.unwrap())
        });
        Self { meta, runtime, next: 0, _dir: dir }
    }

    fn create(&mut self) -> (String, Ino) {
        self.next += 1;
        let name = format!("file-{}", self.next);
        let node = NewNode::File;
        let attr = now(self.meta.create(CALLER, ROOT, name.as_bytes(), 0o644, node)).unwrap();
        (name, attr.ino)
    }

    /// With so many files, made durable.
    fn with_files(count: u64) -> Self {
        let mut volume = Self::new();
        (0..count).for_each(|_| drop(volume.create()));
        volume.sync();
        volume
    }

    fn sync(&self) {
        self.runtime.block_on(self.meta.sync()).unwrap();
    }
}

fn names(c: &mut Criterion) {
    let mut volume = Volume::with_files(100_000);
    c.bench_function("create", |b| b.iter(|| volume.create()));

    let volume = Volume::with_files(100_000);
    let mut at = 0u64;
    c.bench_function("lookup in 100,000", |b| {
        b.iter(|| {
            at = (at + 7919) % 100_000;
            now(volume.meta.lookup(ROOT, format!("file-{}", at + 1).as_bytes())).unwrap()
        });
    });
    c.bench_function("getattr", |b| {
        b.iter(|| {
            at = (at + 7919) % 100_000;
            now(volume.meta.getattr(Ino(at + 2))).unwrap()
        });
    });

    let mut volume = Volume::with_files(10_000);
    let meta = Arc::clone(&volume.meta);
    c.bench_function("unlink", |b| {
        b.iter_batched(
            || volume.create(),
            |(name, _)| now(meta.unlink(ROOT, name.as_bytes())).unwrap(),
            BatchSize::SmallInput,
        );
    });
    c.bench_function("create, unlink, reap", |b| {
        b.iter(|| {
            let (name, ino) = volume.create();
            now(meta.unlink(ROOT, name.as_bytes())).unwrap();
            now(meta.reap(&[ino])).unwrap();
        });
    });
    c.bench_function("rename", |b| {
        b.iter_batched(
            || volume.create().0,
            |name| {
                let to = format!("{name}-new");
                let (from, to) = ((ROOT, name.as_bytes()), (ROOT, to.as_bytes()));
                now(meta.rename(from, to, RenameMode::Replace, Fate::Gone)).unwrap()
            },
            BatchSize::SmallInput,
        );
    });

    let volume = Volume::with_files(10_000);
    c.bench_function("readdir of 10,000", |b| {
        b.iter(|| {
            let (mut cookie, mut count) = (0, 0);
            loop {
                let page = now(volume.meta.readdir(ROOT, cookie, 256)).unwrap();
                let Some(last) = page.last() else { break count };
                cookie = last.cookie;
                count += page.len();
            }
        });
    });
}

/// Every 4-KiB block of a file of 256 MiB lies in an extent of its own.
fn extents(c: &mut Criterion) {
    const BLOCKS: u64 = 65_536;
    let mut volume = Volume::new();
    let (_, ino) = volume.create();
    let (mut sequence, mut seed) = (0, 1u64);
    let mut flush = |meta: &Session, blocks: &[u64]| {
        sequence += 1;
        let scheme = Scheme::erasure(4, 2).unwrap();
        let id =
            BlobId::new(VolumeId(1), SessionId(1), sequence, GroupId(0), 4 << 20, scheme).unwrap();
        let place = |i: usize| Some(Place { blob: id, offset: 4096 * i as u32 });
        let extents = blocks.iter().enumerate();
        let extents = extents
            .map(|(i, block)| Extent { offset: block * 4096, len: 4096, place: place(i) })
            .collect();
        let update = FileUpdate { ino, extents, size_at_least: Some(BLOCKS * 4096), mtime: None };
        now(meta.commit(&[id], &[update])).unwrap();
    };
    let mut shuffled = |count: usize| -> Vec<u64> {
        let mut step = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % BLOCKS
        };
        let mut blocks = std::collections::BTreeSet::new();
        while blocks.len() < count {
            blocks.insert(step());
        }
        blocks.into_iter().collect()
    };
    // Odd blocks after even ones: no two neighbours are one run.
    for parity in 0..2 {
        let all: Vec<u64> = (0..BLOCKS).filter(|b| b % 2 == parity).collect();
        all.chunks(1000).for_each(|blocks| flush(&volume.meta, blocks));
    }
    volume.sync();
    c.bench_function("commit of 1,000 random extents into 65,536", |b| {
        b.iter_batched(
            || shuffled(1000),
            |blocks| flush(&volume.meta, &blocks),
            BatchSize::SmallInput,
        );
    });
    c.bench_function("extents of 1 MiB", |b| {
        let mut at = 0;
        b.iter(|| {
            at = (at + 77 * 4096) % ((BLOCKS - 256) * 4096);
            now(volume.meta.extents(ino, at..at + (1 << 20), 4096)).unwrap()
        });
    });
}

criterion_group!(benches, names, extents);
criterion_main!(benches);
