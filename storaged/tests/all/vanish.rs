//! Disks whose files go away under whoever has them open: it is noticed within ten seconds, and nothing is
//! acknowledged any more that nobody will ever see again.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use proto::part_store::{PartError, PartStore};
use storaged::bay::{BayPlan, BayState, Bays};
use storaged::superblock::Superblock;
use tokio::task::JoinSet;

use super::*;

/// Within this a loss must be noticed.
const NOTICED: Duration = Duration::from_secs(10);
/// For what takes its time on a slow machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The disk in a directory, as a daemon or an embedded store has it.
async fn bays(disk: &Path) -> (Arc<Bays>, Arc<dyn PartStore>) {
    let cluster = Superblock::read(disk).unwrap().cluster;
    let plan = BayPlan { dir: disk.to_owned(), disk: None, seen: None };
    let bays = Bays::open(cluster, vec![plan], |_, _| {}).await;
    let store = bays.slot(0, SlotId(0), GroupId(0), Generation(1));
    (bays, store)
}

/// What the only disk is said to be.
fn state(bays: &Bays) -> String {
    match bays.all()[0].state() {
        BayState::In(disk) => disk.state().state,
        BayState::Out { why, .. } => format!("out: {why}"),
        BayState::Opening => "opening".to_owned(),
    }
}

async fn until(what: &str, within: Duration, holds: impl Fn() -> bool) {
    let began = Instant::now();
    let mut tick = tokio::time::interval(Duration::from_millis(5));
    while !holds() {
        tick.tick().await;
        assert!(began.elapsed() < within, "{what}: not within {within:?}");
    }
}

/// Puts parts one after another until one is refused; `acknowledged` is how many were not.
fn load(store: &Arc<dyn PartStore>, acknowledged: &Arc<AtomicU64>) -> JoinSet<PartError> {
    let mut load = JoinSet::new();
    let (store, acknowledged) = (store.clone(), acknowledged.clone());
    load.spawn(async move {
        loop {
            let next = acknowledged.load(Ordering::Acquire);
            match put(&store, key(next, 5000)).await {
                Ok(()) => acknowledged.store(next + 1, Ordering::Release),
                Err(why) => return why,
            }
            // The directory is small, and has to last.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    load
}

/// The files of a disk under load are taken away: within ten seconds it is not `ok` any more and takes nothing.
/// Answers how many puts were acknowledged before.
async fn vanishes(bays: &Bays, store: &Arc<dyn PartStore>, take_away: impl FnOnce()) -> u64 {
    let acknowledged = Arc::new(AtomicU64::new(0));
    let mut load = load(store, &acknowledged);
    until("the load", PATIENCE, || acknowledged.load(Ordering::Acquire) > 20).await;
    take_away();
    until("the loss is noticed", NOTICED, || state(bays) != "ok").await;
    let refused = load.join_next().await.unwrap().unwrap();
    assert!(matches!(refused, PartError::Unreachable(_) | PartError::Io(_)), "{refused}");
    acknowledged.load(Ordering::Acquire)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_is_removed_under_load_puts_its_disk_out() {
    let dir = fresh();
    let disk = dir.path().join("d");
    let (bays, store) = bays(&disk).await;
    vanishes(&bays, &store, || std::fs::remove_dir_all(&disk).unwrap()).await;
    until("it is said to be out", PATIENCE, || state(&bays).starts_with("out: ")).await;
    assert!(matches!(put(&store, key(1 << 20, 5000)).await, Err(PartError::Unreachable(_))));
    bays.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn block_files_that_are_removed_under_load_put_their_disk_out_and_what_comes_later_is_kept() {
    let dir = fresh();
    let disk = dir.path().join("d");
    let (bays, store) = bays(&disk).await;
    let blocks = disk.join("blocks");
    let before = vanishes(&bays, &store, || {
        let files: Vec<_> =
            std::fs::read_dir(&blocks).unwrap().map(|e| e.unwrap().path()).collect();
        files.iter().for_each(|file| std::fs::remove_file(file).unwrap());
    })
    .await;
    until("it is in again", PATIENCE, || state(&bays) == "ok").await;
    // What was in that file is lost.
    let got = get(&store, key(0, 5000)).await;
    assert!(matches!(got, Err(PartError::Corrupt(_) | PartError::NotRebuilt)), "{got:?}");
    let later: Vec<PartKey> = (0..50).map(|n| key(before + 10 + n, 5000)).collect();
    for key in &later {
        put(&store, *key).await.unwrap();
    }
    bays.close().await;
    let disk = open(dir.path());
    for key in later {
        assert_eq!(get(&slot(&disk), key).await.unwrap(), content(key));
    }
}

/// An ext4 filesystem in a file, mounted until this is dropped.
struct Ext4(TempDir);

impl Ext4 {
    /// `None`, loudly, where that cannot be.
    fn new() -> Option<Self> {
        let home = tempfile::Builder::new().prefix("ashlar-ext4-").tempdir().unwrap();
        std::fs::create_dir(home.path().join("mnt")).unwrap();
        std::fs::File::create(home.path().join("image")).unwrap().set_len(256 * MIB).unwrap();
        // What is not made at once is made by the kernel later on.
        let whole = "lazy_itable_init=0,lazy_journal_init=0";
        let mut mkfs = Command::new("mkfs.ext4");
        let made = mkfs.args(["-q", "-E", whole]).arg(home.path().join("image")).status();
        let ext4 = Self(home);
        if made.is_ok_and(|status| status.success()) && ext4.mount() {
            return Some(ext4);
        }
        eprintln!("NOT TESTED: ext4 cannot be mounted from a file here");
        None
    }

    fn mount(&self) -> bool {
        let mut mount = Command::new("mount");
        mount.args(["-o", "loop,errors=remount-ro"]).arg(self.0.path().join("image"));
        mount.arg(self.path()).status().is_ok_and(|status| status.success())
    }

    fn path(&self) -> std::path::PathBuf {
        self.0.path().join("mnt")
    }

    fn detach(&self) -> bool {
        Command::new("umount").arg("-l").arg(self.path()).status().is_ok_and(|s| s.success())
    }

    /// Its device, as `loop0`.
    fn device(&self) -> String {
        let found =
            Command::new("findmnt").args(["-no", "SOURCE"]).arg(self.path()).output().unwrap();
        let device = String::from_utf8(found.stdout).unwrap();
        device.trim().trim_start_matches("/dev/").to_owned()
    }

    /// Has the kernel find an error, upon which it lets nothing be written any more.
    fn break_down(&self) -> bool {
        let trigger = format!("/sys/fs/ext4/{}/trigger_fs_error", self.device());
        std::fs::write(trigger, "as a test wants it").is_ok()
    }

    /// How often something was written to the device, and it was told to keep what it had been given.
    fn writes(&self) -> (u64, u64) {
        let said = std::fs::read_to_string(format!("/sys/block/{}/stat", self.device())).unwrap();
        let numbers: Vec<u64> = said.split_whitespace().map(|word| word.parse().unwrap()).collect();
        // Writes, and flushes since Linux 5.5.
        (numbers[4], numbers.get(15).copied().unwrap_or(0))
    }
}

impl Drop for Ext4 {
    fn drop(&mut self) {
        let _gone_before = Command::new("umount").arg("-lq").arg(self.path()).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_that_is_detached_under_load_puts_its_disk_out_until_it_is_back() {
    let Some(ext4) = Ext4::new() else { return };
    let disk = ext4.path().join("d");
    init_disk(&disk, ClusterId::random(), SMALL).unwrap();
    let (bays, store) = bays(&disk).await;
    let before = vanishes(&bays, &store, || assert!(ext4.detach())).await;
    until("it is said to be out", PATIENCE, || state(&bays).starts_with("out: ")).await;
    assert!(matches!(put(&store, key(1 << 20, 5000)).await, Err(PartError::Unreachable(_))));
    assert!(before > 20 && ext4.mount());
    until("it is in again", PATIENCE, || state(&bays) == "ok").await;
    for n in 0..before {
        assert_eq!(
            get(&store, key(n, 5000)).await.unwrap(),
            content(key(n, 5000)),
            "{n} of {before}"
        );
    }
    put(&store, key(1 << 21, 5000)).await.unwrap();
    bays.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filesystem_that_becomes_read_only_makes_an_idle_disk_read_only() {
    let Some(ext4) = Ext4::new() else { return };
    let disk = ext4.path().join("d");
    init_disk(&disk, ClusterId::random(), SMALL).unwrap();
    let (bays, store) = bays(&disk).await;
    for n in 0..50 {
        put(&store, key(n, 5000)).await.unwrap();
    }
    // Opened anew it has nothing to write by itself, which would fail: somebody has to look.
    bays.close().await;
    let (bays, store) = self::bays(&disk).await;
    if !ext4.break_down() {
        eprintln!("NOT TESTED: this kernel's ext4 cannot be told to fail");
        return;
    }
    until("it is noticed", NOTICED, || state(&bays).starts_with("read-only: ")).await;
    for n in 0..50 {
        assert_eq!(get(&store, key(n, 5000)).await.unwrap(), content(key(n, 5000)), "{n}");
    }
    assert!(put(&store, key(51, 5000)).await.is_err());
    bays.close().await;
}

/// Whoever looks whether a disk is there has nothing written.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_disk_is_not_written_to() {
    let Some(ext4) = Ext4::new() else { return };
    let disk = ext4.path().join("d");
    init_disk(&disk, ClusterId::random(), SMALL).unwrap();
    let (bays, store) = bays(&disk).await;
    for n in 0..50 {
        put(&store, key(n, 5000)).await.unwrap();
    }
    // Longer than between two looks at the device, once what there is to write down is.
    let mut since = (Instant::now(), ext4.writes());
    let began = since.0;
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    while since.0.elapsed() < NOTICED {
        tick.tick().await;
        if ext4.writes() != since.1 {
            since = (Instant::now(), ext4.writes());
        }
        assert!(began.elapsed() < PATIENCE + NOTICED, "it is written for ever: {since:?}");
    }
    assert_eq!(state(&bays), "ok");
    bays.close().await;
}
