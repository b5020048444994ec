//! Volumes of a cluster, on a store in memory: format, open, lock, and what a reopened volume holds.

#![allow(clippy::unwrap_used)] // it is a test throughout

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use meta::testing::MemoryStores;
use meta::{
    Caller, Directories, Extent, Fate, FileUpdate, Ino, LockError, MetaError, MetaSettings,
    MetaStore, MountedBy, NewNode, Place, ROOT, RenameMode, Session, VolumeError, VolumeInfo,
    VolumeLock,
};
use proto::id::{BlobId, ClusterId, GroupId, SessionId, VolumeId};
use proto::scheme::Scheme;

const CALLER: Caller = Caller { uid: 0, gid: 0, umask: 0 };

fn info(name: &str) -> VolumeInfo {
    VolumeInfo {
        name: name.to_owned(),
        // As good as drawn by lot: two names have two numbers.
        id: VolumeId(
            name.bytes().fold(7u32, |id, byte| id.wrapping_mul(31).wrapping_add(byte.into())),
        ),
        cluster: ClusterId::from_slice(&[5; 16]).unwrap(),
        scheme: Scheme::erasure(4, 2).unwrap(),
        rules: proxy::VolumeRules::default(),
    }
}

fn here() -> MountedBy {
    MountedBy { pid: std::process::id(), mountpoint: PathBuf::from("/mnt/here") }
}

/// A cluster, and a machine that mounts its volumes.
#[derive(Default)]
struct Site {
    stores: MemoryStores,
    dir: Option<tempfile::TempDir>,
}

impl Site {
    fn new() -> Self {
        Self { stores: MemoryStores::default(), dir: Some(tempfile::tempdir().unwrap()) }
    }

    fn dir(&self) -> &Path {
        self.dir.as_ref().unwrap().path()
    }

    fn directories(&self) -> Directories {
        Directories::only(self.dir())
    }

    async fn format(&self, name: &str) -> Result<(), VolumeError> {
        let lock = VolumeLock::take(&self.directories(), name, &here()).unwrap();
        meta::format(&self.stores, &lock, &info(name), (10, 20, 0o1777)).await
    }

    async fn open(&self, name: &str) -> Result<Arc<Session>, VolumeError> {
        self.open_with(name, MetaSettings::default()).await
    }

    async fn open_with(
        &self,
        name: &str,
        settings: MetaSettings,
    ) -> Result<Arc<Session>, VolumeError> {
        let lock = VolumeLock::take(&self.directories(), name, &here()).unwrap();
        open_session(&self.stores, lock, settings).await
    }

    /// Another machine, that has seen none of its volumes.
    fn lose_machine(&mut self) {
        self.dir = Some(tempfile::tempdir().unwrap());
    }
}

/// Opens a volume, and a session on it.
async fn open_session(
    stores: &MemoryStores,
    lock: VolumeLock,
    settings: MetaSettings,
) -> Result<Arc<Session>, VolumeError> {
    let volume = meta::open(stores, lock, settings).await?;
    Ok(Arc::new(volume.open_session().await.unwrap()))
}

/// Ends the only session of a volume, and the volume.
async fn close(session: &Session) {
    session.close_session().await.unwrap();
    session.opened_on().close().await;
}

/// Opens the volume though somebody else may be alive.
fn whoever_has_it() -> MetaSettings {
    MetaSettings { take_over: true, ..MetaSettings::default() }
}

#[tokio::test(start_paused = true)]
async fn a_volume_is_not_taken_from_somebody_alive_unless_it_is_wanted() {
    let mut site = Site::new();
    site.format("home").await.unwrap();
    let first = site.open("home").await.unwrap();
    let file = first.create(CALLER, ROOT, b"a", 0o644, NewNode::File).await.unwrap();
    let machine = site.dir.replace(tempfile::tempdir().unwrap());
    // However long it does nothing.
    for seconds in [0, 3, 100] {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        let said = site.open("home").await.map(drop).unwrap_err().to_string();
        let who = format!("volume home is in use by process {} of ", std::process::id());
        assert!(said.starts_with(&who) && said.contains("at /mnt/here (epoch"), "{said}");
        assert!(said.contains("--take-over") && said.contains("15 s"), "{said}");
    }
    first.sync().await.unwrap();
    let second = site.open_with("home", whoever_has_it()).await.unwrap();
    assert_eq!(second.lookup(ROOT, b"a").await.unwrap(), file);
    first.create(CALLER, ROOT, b"b", 0o644, NewNode::File).await.unwrap();
    assert!(first.sync().await.is_err(), "the first one still writes");
    drop(first);
    // The second one crashes: on its machine it is replaced at once, elsewhere once it was silent.
    drop(second);
    drop(site.open("home").await.unwrap());
    site.dir = machine;
    let dead = site.open("home").await.map(drop).unwrap_err().to_string();
    assert!(dead.contains("heard from 0.0 s ago"), "{dead}");
    tokio::time::sleep(Duration::from_secs(14)).await;
    assert!(site.open("home").await.is_err(), "14 s");
    tokio::time::sleep(Duration::from_millis(1001)).await;
    let third = site.open("home").await.unwrap();
    // One that ends lets go of it.
    close(&third).await;
    site.lose_machine();
    close(&site.open("home").await.unwrap()).await;
}

#[tokio::test(start_paused = true)]
async fn a_volume_is_as_it_was_left_on_whatever_machine() {
    let mut site = Site::new();
    site.format("home").await.unwrap();
    let meta = site.open("home").await.unwrap();
    assert_eq!(meta.volume(), info("home"));
    assert_eq!(meta.session(), SessionId(1));
    let root = meta.getattr(ROOT).await.unwrap();
    assert_eq!((root.uid, root.gid, root.mode, root.nlink), (10, 20, 0o1777, 2));
    let file = meta.create(CALLER, ROOT, b"a", 0o644, NewNode::File).await.unwrap();
    close(&meta).await;
    drop(meta);
    for (round, lost) in [(2, false), (3, true), (4, true)] {
        if lost {
            site.lose_machine();
        }
        let meta = site.open("home").await.unwrap();
        assert_eq!(meta.lookup(ROOT, b"a").await.unwrap(), file);
        assert_eq!(meta.session(), SessionId(round));
        assert_eq!(meta.dead_sessions().await.unwrap(), []);
        assert_eq!(meta.opened_on().check().await.unwrap().problems, Vec::<String>::new());
        close(&meta).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_synced_outlives_the_process_and_the_machine() {
    let mut site = Site::new();
    site.format("home").await.unwrap();
    for round in 0..6u64 {
        let meta = site.open_with("home", whoever_has_it()).await.unwrap();
        for n in 0..round * 300 {
            let name = format!("{round}-{n}");
            meta.create(CALLER, ROOT, name.as_bytes(), 0o644, NewNode::File).await.unwrap();
        }
        meta.sync().await.unwrap();
        // Nobody closes it.
        drop(meta);
        site.lose_machine();
    }
    let meta = site.open_with("home", whoever_has_it()).await.unwrap();
    assert_eq!(
        meta.usage().await.unwrap().inodes,
        1 + (1..6).map(|round| round * 300).sum::<u64>()
    );
    assert_eq!(meta.opened_on().check().await.unwrap().problems, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_session_that_was_not_closed_is_dead_until_it_is_forgotten() {
    let site = Site::new();
    site.format("v").await.unwrap();
    drop(site.open("v").await.unwrap());
    let meta = site.open("v").await.unwrap();
    assert_eq!(meta.dead_sessions().await.unwrap(), [SessionId(1)]);
    assert!(meta.forget_session(meta.session()).await.is_err());
    meta.forget_session(SessionId(1)).await.unwrap();
    assert_eq!(meta.dead_sessions().await.unwrap(), []);
    close(&meta).await;
    let meta = site.open("v").await.unwrap();
    assert_eq!(meta.session(), SessionId(3));
    assert_eq!(meta.dead_sessions().await.unwrap(), []);
}

async fn new_file(session: &Session, name: &str) -> Ino {
    session.create(CALLER, ROOT, name.as_bytes(), 0o644, NewNode::File).await.unwrap().ino
}

/// Ending one, well or not, leaves what the others have, and none takes another for dead.
#[tokio::test(start_paused = true)]
async fn two_sessions_work_on_a_volume_and_end_apart() {
    let mut site = Site::new();
    site.format("v").await.unwrap();
    let one = site.open("v").await.unwrap();
    let volume = one.opened_on().clone();
    let two = volume.open_session().await.unwrap();
    assert_eq!((one.session(), two.session()), (SessionId(1), SessionId(2)));
    let (a, b) = (new_file(&one, "a").await, new_file(&two, "b").await);
    assert_ne!(a, b);
    // What each unlinks and has open still is its own.
    assert!(one.unlink(ROOT, b"a").await.unwrap().orphan);
    assert!(two.unlink(ROOT, b"b").await.unwrap().orphan);
    for session in [&*one, &two] {
        assert_eq!(session.dead_sessions().await.unwrap(), []);
        assert_eq!(session.orphans().await.unwrap(), []);
        for alive in [SessionId(1), SessionId(2)] {
            assert!(session.forget_session(alive).await.is_err(), "session {alive} is alive");
        }
    }
    one.close_session().await.unwrap();
    assert_eq!(two.getattr(a).await, Err(MetaError::NotFound));
    assert_eq!(two.getattr(b).await.unwrap().nlink, 0);
    assert_eq!(two.dead_sessions().await.unwrap(), []);
    new_file(&two, "c").await;
    // One that is not closed is dead, and what it unlinked is for others to delete.
    let three = volume.open_session().await.unwrap();
    assert_eq!(three.session(), SessionId(3));
    let d = new_file(&three, "d").await;
    three.unlink(ROOT, b"d").await.unwrap();
    drop(three);
    assert_eq!(two.dead_sessions().await.unwrap(), [SessionId(3)]);
    assert_eq!(two.orphans().await.unwrap(), [d]);
    two.reap(&[d]).await.unwrap();
    two.forget_session(SessionId(3)).await.unwrap();
    assert_eq!(two.getattr(b).await.unwrap().nlink, 0);
    assert_eq!(volume.check().await.unwrap().problems, Vec::<String>::new());
    two.close_session().await.unwrap();
    volume.close().await;
    drop((one, two, volume));
    site.lose_machine();
    let last = site.open("v").await.unwrap();
    assert_eq!(last.session(), SessionId(4));
    assert_eq!(last.dead_sessions().await.unwrap(), []);
    assert_eq!(last.orphans().await.unwrap(), []);
    assert_eq!(last.usage().await.unwrap().inodes, 2);
}

/// Several sessions take numbers for their inodes, more than one range each, and each round ends in a crash.
#[tokio::test(start_paused = true)]
async fn no_number_of_an_inode_is_used_twice_whatever_crashes() {
    let mut site = Site::new();
    site.format("v").await.unwrap();
    let mut used = BTreeSet::new();
    for round in 0..3 {
        let one = site.open_with("v", whoever_has_it()).await.unwrap();
        let two = one.opened_on().open_session().await.unwrap();
        for n in 0..1300 {
            for (session, name) in [(&*one, "one"), (&two, "two")] {
                let ino = new_file(session, &format!("{name}-{round}-{n}")).await;
                assert!(used.insert(ino), "round {round}: inode {} is made twice", ino.0);
            }
        }
        two.sync().await.unwrap();
        drop((one, two));
        site.lose_machine();
    }
    let last = site.open_with("v", whoever_has_it()).await.unwrap();
    assert_eq!(last.usage().await.unwrap().inodes, 1 + used.len() as u64);
    assert_eq!(last.opened_on().check().await.unwrap().problems, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_second_open_is_refused_and_names_the_first() {
    let site = Site::new();
    site.format("v").await.unwrap();
    assert_eq!(meta::lock_holder(&site.directories(), "v").unwrap(), None);
    let first = site.open("v").await.unwrap();
    let second = || VolumeLock::take(&site.directories(), "v", &here());
    let error = second().err().unwrap().to_string();
    let expected = format!("volume v is mounted at /mnt/here by process {}", std::process::id());
    assert_eq!(error, expected);
    assert_eq!(meta::lock_holder(&site.directories(), "v").unwrap(), Some(here()));
    assert!(matches!(second(), Err(LockError::Mounted { .. })));
    drop(first);
    assert_eq!(meta::lock_holder(&site.directories(), "v").unwrap(), None);
    site.open("v").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_formatted_or_opened_says_why() {
    let site = Site::new();
    for bad in ["", "A", "a/b", "..", ".hidden", "-x", "ü", &"x".repeat(65)] {
        let error = VolumeLock::take(&site.directories(), bad, &here()).err().unwrap();
        assert!(matches!(error, LockError::BadName(_)), "{bad}: {error}");
    }
    let error = site.open("none").await.err().unwrap().to_string();
    assert!(error.contains("nor any other"), "{error}");
    site.format("a.b").await.unwrap();
    site.format("a").await.unwrap();
    assert!(matches!(site.format("a").await, Err(VolumeError::Exists(_))));
    let names = meta::list(&site.stores).await.volumes;
    assert_eq!(
        names.iter().map(|found| found.name.as_deref().unwrap()).collect::<Vec<_>>(),
        ["a", "a.b"]
    );
    let error = site.open("none").await.err().unwrap().to_string();
    assert!(error.contains("only: a, a.b"), "{error}");
}

/// Every file of the cache is cut, changed or taken away in turn: the volume is as it was.
#[tokio::test(start_paused = true)]
async fn the_cache_of_a_machine_decides_nothing() {
    let site = Site::new();
    site.format("v").await.unwrap();
    let meta = site.open("v").await.unwrap();
    for n in 0..3000 {
        let name = format!("file-{n}");
        meta.create(CALLER, ROOT, name.as_bytes(), 0o644, NewNode::File).await.unwrap();
    }
    close(&meta).await;
    let chunks = site.dir().join("v.chunks");
    let files: Vec<PathBuf> =
        std::fs::read_dir(&chunks).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!files.is_empty());
    let whole = std::fs::read(&files[0]).unwrap();
    let mut seed = 1usize;
    for round in 0..60 {
        seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f) >> 1;
        let at = seed % whole.len();
        let mut bytes = whole.clone();
        match round % 4 {
            0 => bytes.truncate(at),
            1 => bytes[at..].fill(0),
            _ => bytes[at] ^= 1 << (round % 8),
        }
        match round {
            59 => std::fs::remove_file(&files[0]).unwrap(),
            _ => std::fs::write(&files[0], bytes).unwrap(),
        }
        let meta = site.open("v").await.unwrap();
        assert_eq!(meta.usage().await.unwrap().inodes, 3001, "round {round}");
        assert_eq!(
            meta.opened_on().check().await.unwrap().problems,
            Vec::<String>::new(),
            "round {round}"
        );
        // What was put right is right again, and nothing was written but the session.
        drop(meta);
        assert_eq!(std::fs::read(&files[0]).unwrap(), whole, "round {round}");
    }
}

/// Files of one volume under the names of another's, as a copy of a directory makes them.
#[tokio::test(start_paused = true)]
async fn a_cache_of_another_volume_is_ignored() {
    let site = Site::new();
    for name in ["v", "w"] {
        site.format(name).await.unwrap();
        let meta = site.open(name).await.unwrap();
        for n in 0..3000 {
            // As long in one as in the other.
            let file = format!("{name}-{n}");
            meta.create(CALLER, ROOT, file.as_bytes(), 0o644, NewNode::File).await.unwrap();
        }
        close(&meta).await;
    }
    let chunks = |name: &str| site.dir().join(format!("{name}.chunks"));
    let files = |name: &str| {
        let mut files: Vec<_> = std::fs::read_dir(chunks(name))
            .unwrap()
            .map(|file| file.unwrap().file_name())
            .collect();
        files.sort();
        files
    };
    assert!(!files("v").is_empty() && files("v") == files("w"));
    for file in files("v") {
        std::fs::copy(chunks("v").join(&file), chunks("w").join(&file)).unwrap();
    }
    let meta = site.open("w").await.unwrap();
    meta.lookup(ROOT, b"w-2999").await.unwrap();
    meta.lookup(ROOT, b"v-2999").await.unwrap_err();
    assert_eq!(meta.opened_on().check().await.unwrap().problems, Vec::<String>::new());
}

/// Names, renames and content from several threads at once, with syncs in between; and what a machine
/// finds that takes the volume over in their midst.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_threads_leave_a_volume_in_order() {
    const THREADS: u64 = 4;
    let mut site = Site::new();
    site.format("v").await.unwrap();
    let settings = MetaSettings { unsynced_bytes: 20_000, ..MetaSettings::default() };
    let meta = site.open_with("v", settings).await.unwrap();
    let work = (0..THREADS).map(|thread| {
        let meta = meta.clone();
        tokio::spawn(async move { work(&meta, thread).await })
    });
    for ended in futures::future::join_all(work).await {
        ended.unwrap();
    }
    assert_eq!(meta.opened_on().check().await.unwrap().problems, Vec::<String>::new());
    meta.sync().await.unwrap();
    let usage = meta.usage().await.unwrap();
    site.lose_machine();
    let other = site.open_with("v", whoever_has_it()).await.unwrap();
    assert_eq!(other.opened_on().check().await.unwrap().problems, Vec::<String>::new());
    assert_eq!(other.usage().await.unwrap(), usage);
    let refused = meta.create(CALLER, ROOT, b"late", 0o644, NewNode::File).await;
    let late = meta.sync().await.unwrap_err().to_string();
    assert!(late.contains("taken over"), "{late}, after {refused:?}");
}

/// One thread's share: all of them fight for the same ten names.
async fn work(meta: &Session, thread: u64) {
    for i in 0..400u64 {
        let name = |n: u64| format!("n{}", n % 10).into_bytes();
        let (one, two) = (name(i * 7 + thread), name(i * 3));
        // Any of these may lose a race: what counts is what is left.
        let _ = meta.create(CALLER, ROOT, &one, 0o644, NewNode::File).await;
        let _ = meta.rename((ROOT, &one), (ROOT, &two), RenameMode::Replace, Fate::Gone).await;
        if let Ok(attr) = meta.lookup(ROOT, &two).await {
            let sequence = thread * 1_000_000 + i;
            let scheme = Scheme::erasure(4, 2).unwrap();
            let id = BlobId::new(info("v").id, SessionId(1), sequence, GroupId(0), 4096, scheme)
                .unwrap();
            let place = Some(Place { blob: id, offset: 0 });
            let extents = vec![Extent { offset: i * 100, len: 4096, place }];
            let update = FileUpdate { ino: attr.ino, extents, size_at_least: Some(i), mtime: None };
            meta.commit(&[id], &[update]).await.unwrap();
        }
        if let Ok(gone) = meta.unlink(ROOT, &two).await
            && gone.orphan
        {
            meta.reap(&[gone.ino]).await.unwrap();
        }
        if i % 50 == 0 {
            meta.sync().await.unwrap();
            let garbage = meta.garbage(None, 100).await.unwrap();
            meta.forget_blobs(&garbage).await.unwrap();
        }
    }
}

/// Names and attributes are in these files: nobody but their owner reads them.
#[tokio::test(start_paused = true)]
async fn what_a_machine_keeps_of_a_volume_is_closed_to_others() {
    use std::fs::metadata;
    use std::os::unix::fs::MetadataExt;
    let stores = MemoryStores::default();
    let above = tempfile::tempdir().unwrap();
    let dir = above.path().join("made/here");
    let lock = VolumeLock::take(&Directories::only(&dir), "v", &here()).unwrap();
    meta::format(&stores, &lock, &info("v"), (0, 0, 0o755)).await.unwrap();
    let meta = open_session(&stores, lock, MetaSettings::default()).await.unwrap();
    close(&meta).await;
    let mode = |name: &str| metadata(dir.join(name)).unwrap().mode() & 0o7777;
    assert_eq!(["", "..", "v.chunks"].map(mode), [0o700; 3]);
    assert_eq!(mode("v.lock"), 0o600);
    for chunk in std::fs::read_dir(dir.join("v.chunks")).unwrap() {
        assert_eq!(chunk.unwrap().metadata().unwrap().mode() & 0o7777, 0o600);
    }
}

/// The directory of its cache is none, is closed to it, or is full: a lock is taken elsewhere, and whoever holds
/// one in either place is seen.
#[tokio::test(start_paused = true)]
async fn a_machine_without_a_cache_opens_volumes_all_the_same() {
    let mut site = Site::new();
    site.format("v").await.unwrap();
    let meta = site.open("v").await.unwrap();
    for n in 0..3000 {
        let name = format!("file-{n}");
        meta.create(CALLER, ROOT, name.as_bytes(), 0o644, NewNode::File).await.unwrap();
    }
    close(&meta).await;
    drop(meta);
    site.lose_machine();
    let (cache, runtime) = (site.dir().join("cache"), site.dir().join("run"));
    std::fs::write(&cache, "no directory").unwrap();
    let none = Directories::only(&cache);
    let at = Directories { cache: cache.clone(), runtime: Some(runtime.clone()) };
    let refused = VolumeLock::take(&none, "v", &here()).err().unwrap();
    assert!(matches!(refused, LockError::Io { .. }), "{refused}");
    assert_eq!(meta::lock_holder(&at, "v").unwrap(), None);
    let lock = VolumeLock::take(&at, "v", &here()).unwrap();
    assert_eq!(meta::lock_holder(&at, "v").unwrap(), Some(here()));
    let meta = open_session(&site.stores, lock, MetaSettings::default()).await.unwrap();
    assert_eq!(meta.usage().await.unwrap().inodes, 3001);
    assert_eq!(meta.opened_on().check().await.unwrap().problems, Vec::<String>::new());
    meta.create(CALLER, ROOT, b"one more", 0o644, NewNode::File).await.unwrap();
    meta.sync().await.unwrap();
    // By now there is a cache, and the other lock counts still.
    std::fs::remove_file(&cache).unwrap();
    let refused = VolumeLock::take(&at, "v", &here()).err().unwrap();
    assert!(matches!(refused, LockError::Mounted { .. }), "{refused}");
    close(&meta).await;
    let in_cache = VolumeLock::take(&at, "v", &here()).unwrap();
    // Gone again, under one that has its lock there: as a filesystem that was made read-only is.
    let elsewhere = Directories { cache: runtime, runtime: Some(cache) };
    let refused = VolumeLock::take(&elsewhere, "v", &here()).err().unwrap();
    assert!(matches!(refused, LockError::Mounted { .. }), "{refused}");
    drop(in_cache);
    let lock = VolumeLock::take(&elsewhere, "v", &here()).unwrap();
    let meta = open_session(&site.stores, lock, MetaSettings::default()).await.unwrap();
    assert_eq!(meta.usage().await.unwrap().inodes, 3002);
}
