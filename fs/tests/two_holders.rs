//! Two machines that want one volume, over the real proxy and real disks in one process: each is paused, goes on
//! and mounts again, interleaved by a seed. What either was told is durable stays, in one history.
//!
//! `ASHLAR_SEEDS` says how many seeds are tried (500 by default).

#![allow(clippy::unwrap_used)] // it is a test throughout

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::join_all;
use meta::{
    Caller, Directories, MetaError, MetaSettings, MetaStore, MountedBy, NewNode, ProxyStores, ROOT,
    Session, VolumeInfo, VolumeLock,
};
use proto::checksum::Checked;
use proto::id::{
    BlobId, ClusterId, DiskId, Epoch, Generation, GroupId, OwnerId, PartKey, SlotId, VolumeId,
};
use proto::part_store::{
    Beat, Condition, Fill, Held, Issuer, LastBeat, Page, PartError, PartStore, Scope, Standing,
};
use proto::scheme::Scheme;
use proxy::{Proxy, ProxySettings, SlotConfig};
use storaged::bay::{BayPlan, Bays};
use storaged::{InitOptions, init_disk};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;

const CALLER: Caller = Caller { uid: 0, gid: 0, umask: 0 };
/// 2m + 1: as few as a volume needs that can lose two.
const DISKS: usize = 5;
/// Volumes that share disks: whoever mounts looks at all there are.
const SEEDS_AT_ONCE: u64 = 25;
const STEPS: u64 = 16;

/// A slot as one machine reaches it: nothing gets there, and nothing back, while the machine is paused.
struct Way {
    slot: Arc<dyn PartStore>,
    paused: watch::Receiver<bool>,
}

impl Way {
    async fn through<T>(&self, asking: impl Future<Output = T>) -> T {
        self.goes_on().await;
        let answer = asking.await;
        self.goes_on().await;
        answer
    }

    async fn goes_on(&self) {
        // Once whoever pauses it is gone, nobody waits any more.
        let _ = self.paused.clone().wait_for(|paused| !paused).await;
    }
}

#[async_trait]
impl PartStore for Way {
    async fn put(
        &self,
        key: PartKey,
        data: Checked,
        issuer: Option<Issuer>,
    ) -> Result<(), PartError> {
        self.through(self.slot.put(key, data, issuer)).await
    }

    async fn get(&self, key: PartKey, range: Range<u32>) -> Result<Bytes, PartError> {
        self.through(self.slot.get(key, range)).await
    }

    async fn held(&self, blob: BlobId) -> Result<Held, PartError> {
        self.through(self.slot.held(blob)).await
    }

    async fn delete(&self, blobs: &[BlobId], issuer: Option<Issuer>) -> Result<(), PartError> {
        self.through(self.slot.delete(blobs, issuer)).await
    }

    async fn forget(&self, blobs: &[BlobId], issuer: Option<Issuer>) -> Result<(), PartError> {
        self.through(self.slot.forget(blobs, issuer)).await
    }

    async fn fence(&self, volume: VolumeId, epoch: Epoch, owner: OwnerId) -> Result<(), PartError> {
        self.through(self.slot.fence(volume, epoch, owner)).await
    }

    async fn promised(&self, volume: VolumeId) -> Result<Option<Issuer>, PartError> {
        self.through(self.slot.promised(volume)).await
    }

    async fn beat(&self, volume: VolumeId, issuer: Issuer, beat: Beat) -> Result<(), PartError> {
        self.through(self.slot.beat(volume, issuer, beat)).await
    }

    async fn last_beat(&self, volume: VolumeId) -> Result<Option<LastBeat>, PartError> {
        self.through(self.slot.last_beat(volume)).await
    }

    async fn condition(&self, volume: VolumeId) -> Result<Condition, PartError> {
        self.through(self.slot.condition(volume)).await
    }

    async fn scrub(&self) -> Result<(), PartError> {
        self.through(self.slot.scrub()).await
    }

    async fn list(
        &self,
        scope: Scope,
        after: Option<BlobId>,
        limit: u32,
    ) -> Result<Page, PartError> {
        self.through(self.slot.list(scope, after, limit)).await
    }

    async fn fill(&self) -> Result<Fill, PartError> {
        self.slot.fill().await
    }

    async fn standing(&self) -> Result<Option<Standing>, PartError> {
        self.slot.standing().await
    }

    async fn drop_part(&self, key: PartKey, issuer: Option<Issuer>) -> Result<(), PartError> {
        self.through(self.slot.drop_part(key, issuer)).await
    }

    async fn rebuilt(&self, volume: VolumeId, issuer: Option<Issuer>) -> Result<(), PartError> {
        self.through(self.slot.rebuilt(volume, issuer)).await
    }

    async fn serve(&self) -> Result<(), PartError> {
        self.through(self.slot.serve()).await
    }
}

/// Disks, each a fail domain.
struct Site {
    _home: TempDir,
    cluster: ClusterId,
    disks: Vec<DiskId>,
    bays: Arc<Bays>,
}

impl Site {
    async fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let cluster = ClusterId::random();
        let dirs: Vec<PathBuf> = (0..DISKS).map(|n| home.path().join(n.to_string())).collect();
        let options = || InitOptions { capacity: Some(1 << 30), block_file: 16 << 20 };
        let init = |dir: &PathBuf| init_disk(dir, cluster, options()).unwrap();
        let disks: Vec<DiskId> = dirs.iter().map(init).collect();
        let plan = |(dir, disk): (PathBuf, &DiskId)| BayPlan { dir, disk: Some(*disk), seen: None };
        let plans = dirs.into_iter().zip(&disks).map(plan).collect();
        let bays = Bays::open(cluster, plans, |_, _| {}).await;
        assert_eq!(bays.count_in(), DISKS);
        let slots = (0..DISKS).map(|n| bays.slot(n, SlotId(0), GroupId(0), Generation(1)));
        for slot in slots {
            slot.serve().await.unwrap();
        }
        Self { _home: home, cluster, disks, bays }
    }

    /// A new process's way to the disks, and how to pause it.
    fn machine(&self) -> (ProxyStores, watch::Sender<bool>) {
        let (pause, paused) = watch::channel(false);
        let slot = |(n, disk): (usize, &DiskId)| {
            let slot = self.bays.slot(n, SlotId(0), GroupId(0), Generation(1));
            SlotConfig {
                disk: *disk,
                stands_for: *disk,
                place: format!("disk {n}"),
                domain: n.to_string(),
                rack: String::new(),
                drains: false,
                store: Arc::new(Way { slot, paused: paused.clone() }),
            }
        };
        let slots = self.disks.iter().enumerate().map(slot).collect();
        let blobs = Proxy::new(GroupId(0), slots, ProxySettings::default());
        (ProxyStores::new(blobs), pause)
    }

    async fn format(&self, dir: &TempDir, name: &str, seed: u64) {
        let (stores, _pause) = self.machine();
        let info = VolumeInfo {
            name: name.to_owned(),
            id: VolumeId(seed as u32 + 1),
            cluster: self.cluster,
            scheme: Scheme::erasure(3, 2).unwrap(),
            rules: proxy::VolumeRules::default(),
        };
        meta::format(&stores, &lock(dir, name), &info, (0, 0, 0o755)).await.unwrap();
    }

    async fn open(&self, dir: &TempDir, name: &str) -> (Arc<Session>, watch::Sender<bool>) {
        let (stores, pause) = self.machine();
        let settings = MetaSettings { take_over: true, ..MetaSettings::default() };
        let volume = meta::open(&stores, lock(dir, name), settings).await.unwrap();
        (Arc::new(volume.open_session().await.unwrap()), pause)
    }
}

fn lock(dir: &TempDir, name: &str) -> VolumeLock {
    let by = MountedBy { pid: 1, mountpoint: PathBuf::from("/mnt") };
    VolumeLock::take(&Directories::only(dir.path()), name, &by).unwrap()
}

/// One machine that has the volume, as far as it knows.
struct Holder {
    meta: Arc<Session>,
    pause: watch::Sender<bool>,
    /// What it has written and was not told to be durable, in order.
    pending: Vec<u64>,
    /// Under way while it is paused: what is written, and what comes of it.
    late: Option<(u64, JoinHandle<Result<(), MetaError>>)>,
    /// Another has mounted since.
    lost: bool,
}

async fn write(meta: Arc<Session>, number: u64, sync: bool) -> Result<(), MetaError> {
    let name = number.to_string();
    meta.create(CALLER, ROOT, name.as_bytes(), 0o644, NewNode::File).await?;
    if sync { meta.sync().await } else { Ok(()) }
}

async fn numbers(meta: &Session) -> BTreeSet<u64> {
    let listed = meta.readdir(ROOT, 0, 10_000).await.unwrap();
    let names = listed.iter().filter_map(|entry| std::str::from_utf8(&entry.name).ok());
    names.filter_map(|name| name.parse().ok()).collect()
}

/// What is known of the volume.
struct History {
    seed: u64,
    /// Was acknowledged, or found by whoever mounted it: stays.
    kept: BTreeSet<u64>,
}

impl History {
    /// A holder was told that what it has written up to this number is durable.
    fn acknowledge(&mut self, holder: &mut Holder, number: u64) {
        let seed = self.seed;
        holder.pending.push(number);
        for number in std::mem::take(&mut holder.pending) {
            let known = self.kept.contains(&number);
            assert!(known || !holder.lost, "seed {seed}: {number} was acknowledged and is lost");
            self.kept.insert(number);
        }
    }

    /// A machine has mounted the volume, which `last` had, and found these.
    fn found(&mut self, found: BTreeSet<u64>, last: Option<&Holder>) {
        let seed = self.seed;
        let lost: Vec<_> = self.kept.difference(&found).collect();
        assert!(lost.is_empty(), "seed {seed}: {lost:?} were acknowledged and are lost");
        let new: Vec<u64> = found.difference(&self.kept).copied().collect();
        let of = |last: &Holder| -> Vec<u64> {
            let late = last.late.iter().map(|(number, _)| *number);
            last.pending.iter().copied().chain(late).collect()
        };
        let pending = last.map(of).unwrap_or_default();
        assert!(pending.starts_with(&new), "seed {seed}: {new:?} of {pending:?}: not a prefix");
        self.kept = found;
    }
}

async fn two_holders(site: Arc<Site>, seed: u64) {
    let mut dice = Dice(seed);
    let (name, dirs) = (format!("seed-{seed}"), [(); 2].map(|()| tempfile::tempdir().unwrap()));
    site.format(&dirs[0], &name, seed).await;
    let mut history = History { seed, kept: BTreeSet::new() };
    let mut holders: [Option<Holder>; 2] = [None, None];
    for number in 0..STEPS {
        let who = dice.below(2) as usize;
        let Some(mut holder) = holders[who].take() else {
            let (meta, pause) = site.open(&dirs[who], &name).await;
            let last = holders[1 - who].as_mut().filter(|other| !other.lost);
            history.found(numbers(&meta).await, last.as_deref());
            last.into_iter().for_each(|last| last.lost = true);
            holders[who] =
                Some(Holder { meta, pause, pending: Vec::new(), late: None, lost: false });
            continue;
        };
        let wrote = if let Some((number, late)) = holder.late.take() {
            // It goes on.
            holder.pause.send_replace(false);
            late.await.unwrap().map(|()| history.acknowledge(&mut holder, number))
        } else {
            match dice.below(8) {
                0..=2 => {
                    // It is paused somewhere on the way.
                    let late = tokio::spawn(write(holder.meta.clone(), number, true));
                    tokio::time::sleep(Duration::from_micros(dice.below(4000))).await;
                    holder.pause.send_replace(true);
                    holder.late = Some((number, late));
                    Ok(())
                }
                3 => {
                    let wrote = write(holder.meta.clone(), number, false).await;
                    wrote.map(|()| holder.pending.push(number))
                }
                _ => {
                    let wrote = write(holder.meta.clone(), number, true).await;
                    wrote.map(|()| history.acknowledge(&mut holder, number))
                }
            }
        };
        match wrote {
            Ok(()) => holders[who] = Some(holder),
            // It was taken over, and says so; it mounts again later.
            Err(why) => assert!(holder.lost, "seed {seed}: who has the volume cannot write: {why}"),
        }
    }
    for holder in holders.iter().flatten() {
        holder.pause.send_replace(false);
    }
}

/// A small generator (SplitMix64): the same seed throws the same numbers.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_machines_over_real_disks_one_has_the_volume() {
    let seeds = std::env::var("ASHLAR_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(500);
    println!("{seeds} seeds (ASHLAR_SEEDS)");
    for first in (0..seeds).step_by(SEEDS_AT_ONCE as usize) {
        let site = Arc::new(Site::new().await);
        let seeds = first..(first + SEEDS_AT_ONCE).min(seeds);
        let runs = seeds.map(|seed| tokio::spawn(two_holders(site.clone(), seed)));
        for ended in join_all(runs).await {
            ended.unwrap();
        }
        site.bays.close().await;
    }
}
