//! A volume whose journal has lost entries for good is opened with what is left when that is ordered, and what is left is
//! put in order.

#![allow(clippy::unwrap_used)] // it is a test throughout

use std::path::PathBuf;
use std::sync::Arc;

use meta::testing::{MemoryStore, MemoryStores};
use meta::{
    Caller, Directories, Extent, Fate, FileUpdate, Ino, MetaSettings, MetaStore, MountedBy,
    NewNode, Place, ROOT, RenameMode, Session, VolumeInfo, VolumeLock,
};
use proto::id::{BlobId, ClusterId, GroupId, VolumeId};
use proto::scheme::Scheme;

const CALLER: Caller = Caller { uid: 0, gid: 0, umask: 0 };
const VOLUME: VolumeId = VolumeId(7);

/// A cluster in memory, and a machine.
struct Site {
    stores: MemoryStores,
    dir: tempfile::TempDir,
}

impl Site {
    async fn new() -> Self {
        let site = Self { stores: MemoryStores::default(), dir: tempfile::tempdir().unwrap() };
        let info = VolumeInfo {
            name: "v".to_owned(),
            id: VOLUME,
            cluster: ClusterId::from_slice(&[5; 16]).unwrap(),
            scheme: Scheme::erasure(4, 2).unwrap(),
            rules: proxy::VolumeRules::default(),
        };
        meta::format(&site.stores, &site.lock(), &info, (0, 0, 0o755)).await.unwrap();
        site
    }

    fn lock(&self) -> VolumeLock {
        let by = MountedBy { pid: std::process::id(), mountpoint: PathBuf::from("/mnt/here") };
        VolumeLock::take(&Directories::only(self.dir.path()), "v", &by).unwrap()
    }

    async fn open(&self) -> Session {
        let settings = MetaSettings::default();
        let volume = meta::open(&self.stores, self.lock(), settings).await.unwrap();
        volume.open_session().await.unwrap()
    }

    fn store(&self) -> MemoryStore {
        self.stores.store(VOLUME)
    }

    /// The entries of its journal, in order.
    fn entries(&self) -> Vec<BlobId> {
        let names = self.store().names().into_iter();
        let mut entries: Vec<BlobId> = names.filter(|id| id.session().0 >> 62 == 2).collect();
        entries.sort_by_key(BlobId::sequence);
        entries
    }
}

/// A small generator (xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Things that happen to a tree of few names. Some are refused, as names are taken or gone.
async fn happen(
    meta: &Session,
    dice: &mut Dice,
    dirs: &mut Vec<Ino>,
    files: &mut Vec<Ino>,
    n: u64,
) {
    let name = [b'a' + dice.below(6) as u8];
    let other = [b'a' + dice.below(6) as u8];
    let [from, to] = [0, 1].map(|_| dirs[dice.below(dirs.len() as u64) as usize]);
    match dice.below(8) {
        0 | 1 => {
            let made = meta.create(CALLER, from, &name, 0o755, NewNode::Directory).await;
            dirs.extend(made.map(|attr| attr.ino));
        }
        2 | 3 => {
            let made = meta.create(CALLER, from, &name, 0o644, NewNode::File).await;
            files.extend(made.map(|attr| attr.ino));
        }
        4 => drop(meta.rename((from, &name), (to, &other), RenameMode::Replace, Fate::Gone).await),
        5 => drop(meta.unlink(from, &name).await),
        _ => {
            let Some(ino) = files.get(dice.below(8) as usize).copied() else { return };
            let scheme = Scheme::erasure(4, 2).unwrap();
            let blob = BlobId::new(VOLUME, meta.session(), n, GroupId(0), 200_000, scheme).unwrap();
            let (offset, len) = (dice.below(40) * 4096, (1 + dice.below(9)) * 4096);
            let extents = vec![Extent { offset, len, place: Some(Place { blob, offset: 0 }) }];
            let size_at_least = Some(offset + len);
            let update = FileUpdate { ino, extents, size_at_least, mtime: None };
            drop(meta.commit(&[blob], &[update]).await);
        }
    }
}

/// Any entries but the very first, which says what the volume is, are gone: what is left is a tree in which fsck finds
/// nothing wrong, from then on the volume opens as any other, and numbers go on behind all that were handed out.
#[tokio::test(start_paused = true)]
async fn whatever_entries_are_lost_what_is_left_is_put_in_order() {
    for seed in 1..=60 {
        println!("seed {seed}");
        let mut dice = Dice(seed);
        let site = Site::new().await;
        let meta = site.open().await;
        let (mut dirs, mut files) = (vec![ROOT], Vec::new());
        for n in 0..60 {
            happen(&meta, &mut dice, &mut dirs, &mut files, n).await;
            // Each is an entry of its own.
            meta.sync().await.unwrap();
        }
        let (session, last) = (meta.session(), dirs.iter().chain(&files).max().copied().unwrap());
        meta.close_session().await.unwrap();
        meta.opened_on().close().await;
        let entries = site.entries();
        let share = 1 + dice.below(6);
        let mut lost = 0;
        for id in &entries[1..] {
            if dice.below(10) < share {
                site.store().tamper(*id, |_| None);
                lost += 1;
            }
        }
        let settings = MetaSettings::default();
        let (_, would) = meta::look_at_remains(&site.stores, &site.lock(), settings).await.unwrap();
        let (volume, losses) = meta::salvage(&site.stores, site.lock(), settings).await.unwrap();
        assert_eq!(would, losses);
        assert!(losses.entry_count() <= lost && losses.applied + lost >= entries.len() as u64);
        let repaired = volume.repair_remains().await.unwrap();
        let left: Vec<String> = repaired.left.sentences().collect();
        assert_eq!(left, Vec::<String>::new(), "seed {seed}: {losses:?}");
        volume.close().await;
        let next = site.open().await;
        assert_eq!(next.opened_on().check().await.unwrap().problems, Vec::<String>::new());
        assert!(next.session() > session, "session {session} is opened twice");
        let made = next.create(CALLER, ROOT, b"new", 0o644, NewNode::File).await.unwrap();
        assert!(made.ino > last, "inode {} is made twice", made.ino.0);
        next.close_session().await.unwrap();
        next.opened_on().close().await;
    }
}

/// A volume that has lost an entry is refused in a sentence that names the order, and nothing changes before it is given.
#[tokio::test(start_paused = true)]
async fn without_the_order_the_volume_stays_as_it_is() {
    let site = Site::new().await;
    let meta = Arc::new(site.open().await);
    for n in 0..20 {
        let name = format!("file-{n}");
        meta.create(CALLER, ROOT, name.as_bytes(), 0o644, NewNode::File).await.unwrap();
        meta.sync().await.unwrap();
    }
    meta.close_session().await.unwrap();
    meta.opened_on().close().await;
    let entries = site.entries();
    site.store().tamper(entries[10], |_| None);
    let settings = MetaSettings::default();
    let left = site.store().names();
    let refused = meta::open(&site.stores, site.lock(), settings).await.err().unwrap().to_string();
    assert!(refused.contains("ashlar fsck v --salvage"), "{refused}");
    let looked = meta::look(&site.stores, "v", None, settings).await.err().unwrap().to_string();
    assert!(looked.contains("ashlar fsck v --salvage"), "{looked}");
    let (_, losses) = meta::look_at_remains(&site.stores, &site.lock(), settings).await.unwrap();
    assert_eq!((losses.entry_count(), losses.chunks, losses.manifest), (1, 0, false));
    let gap = losses.entries[0];
    assert_eq!(gap.first, entries[10].sequence());
    assert!(gap.after.is_some() && gap.after <= gap.before, "{gap:?}");
    assert_eq!(site.store().names(), left);
    let (volume, _) = meta::salvage(&site.stores, site.lock(), settings).await.unwrap();
    volume.repair_remains().await.unwrap();
    volume.close().await;
    let next = site.open().await;
    let usage = next.usage().await.unwrap();
    // The root and twenty files, of which one or two may have been in that entry.
    assert!((19..=21).contains(&usage.inodes), "{usage:?}");
}
