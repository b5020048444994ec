//! Disks whose filesystem fails: what is answered, what is kept, and what goes on.

use std::ops::Range;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use nix::libc::{EINVAL, EIO, EMFILE, ENFILE, ENOMEM, ENOSPC, EOPNOTSUPP};
use proto::checksum::Checked;
use proto::id::{
    BlobId, ClusterId, Epoch, Generation, GroupId, OwnerId, PartKey, SessionId, SlotId, VolumeId,
};
use proto::part_store::{FillLevel, Issuer, PartError, PartStore, Scope};
use tempfile::TempDir;

use crate::format::superblock::Superblock;
use crate::io::faults::{Call, Fault};
use crate::io::system::disk_dir;
use crate::log::block_file::Access;
use crate::owner::Owner;
use crate::shared::hands::own_threads;
use crate::shared::queue::{Ask, To};
use crate::{Disk, DiskOptions, InitOptions, init_disk};

pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const ALL: Range<u64> = 0..u64::MAX;

pub(crate) fn fresh() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let options = InitOptions { capacity: Some(96 * MIB), block_file: 16 * MIB };
    init_disk(&dir.path().join("d"), ClusterId::random(), options).unwrap();
    let (_disk, store) = open(&dir);
    futures::executor::block_on(store.serve()).unwrap();
    dir
}

pub(crate) fn open(dir: &TempDir) -> (Arc<Disk>, Arc<dyn PartStore>) {
    let disk = Disk::open(&dir.path().join("d"), DiskOptions::default()).unwrap();
    let store = disk.slot(SlotId(0), GroupId(0), Generation(1));
    (disk, store)
}

/// The owner of the disk, for who says when it does what.
pub(crate) fn recover(dir: &TempDir) -> Owner {
    let path = dir.path().join("d");
    let superblock = Superblock::read(&path).unwrap();
    let (home, options, hands) = (disk_dir(&path), DiskOptions::default(), own_threads());
    crate::disk::open::recover(&home, &superblock, &options, hands, Access::Write).unwrap()
}

/// What becomes of a request.
pub(crate) type Asked = Pin<Box<dyn Future<Output = Result<(), PartError>> + Send>>;

/// Asks slot 0 of it: it is in the owner's queue when this returns.
pub(crate) fn ask(owner: &Owner, ask: Ask) -> Asked {
    use futures::FutureExt;
    let shared = owner.shared.clone();
    let to = To { slot: SlotId(0), group: GroupId(0), generation: Generation(1) };
    let asking = async move { shared.queue.ask(to, ask).await };
    // Whoever has the owner looks again and again whether it is answered, and lets nobody else have a turn.
    let mut asked: Asked = Box::pin(tokio::task::unconstrained(asking));
    assert_eq!(asked.as_mut().now_or_never(), None);
    asked
}

/// Asks it to store a part.
pub(crate) fn ask_put(owner: &Owner, key: PartKey) -> Asked {
    ask(owner, Ask::Put(key, Checked::compute(content(key)), None))
}

pub(crate) fn key(sequence: u64, len: u32) -> PartKey {
    let scheme = "copies(3)".parse().unwrap();
    let blob = BlobId::new(VolumeId(1), SessionId(1), sequence, GroupId(0), len, scheme).unwrap();
    PartKey::new(blob, 1).unwrap()
}

pub(crate) fn content(key: PartKey) -> Bytes {
    vec![key.blob.sequence() as u8; key.blob.part_len() as usize].into()
}

pub(crate) async fn put(store: &Arc<dyn PartStore>, key: PartKey) -> Result<(), PartError> {
    store.put(key, Checked::compute(content(key)), None).await
}

pub(crate) async fn get(store: &Arc<dyn PartStore>, key: PartKey) -> Result<Bytes, PartError> {
    store.get(key, 0..key.blob.part_len()).await
}

/// Puts parts of `len` until the disk is full; answers the next number.
pub(crate) async fn fill(store: &Arc<dyn PartStore>, from: u64, len: u32) -> u64 {
    for n in from.. {
        match put(store, key(n, len)).await {
            Ok(()) => {}
            Err(PartError::Full) => return n,
            Err(e) => panic!("{n}: {e}"),
        }
    }
    unreachable!("a disk is finite")
}

pub(crate) async fn delete(store: &Arc<dyn PartStore>, keys: impl Iterator<Item = PartKey>) {
    let blobs: Vec<BlobId> = keys.map(|key| key.blob).collect();
    store.delete(&blobs, None).await.unwrap();
    store.forget(&blobs, None).await.unwrap();
}

pub(crate) fn log(dir: &TempDir) -> std::path::PathBuf {
    dir.path().join("d/blocks/00000001")
}

/// Where the record of the part starts in the file, in bytes.
pub(crate) fn place_of(path: &Path, key: PartKey) -> u64 {
    let image = std::fs::read(path).unwrap();
    let here = |block: &&[u8]| {
        block.starts_with(b"ASHLREC\n") && block[10] == 1 && block[56..87] == key.blob.to_bytes()
    };
    let block = image.chunks(4096).position(|block| here(&block));
    block.expect("the part is in this file") as u64 * 4096
}

/// A part too small for its space to be given back without compaction.
fn small(n: u64) -> PartKey {
    key(n, 60_000)
}

/// A disk is filled, and damage hits two parts of its first file: one in the header, and one in the
/// middle of its payload. Four in five of the others are deleted. Then it is filled again and again.
async fn fills_on_over(dir: &TempDir, damage: impl FnOnce(&Path, Range<u64>, Range<u64>)) {
    let (disk, store) = open(dir);
    let (headless, holey) = (key(10_001, 20_000), key(10_002, 300_000));
    put(&store, headless).await.unwrap();
    put(&store, holey).await.unwrap();
    let end = fill(&store, 0, 60_000).await;
    let (head, payload) = (place_of(&log(dir), headless), place_of(&log(dir), holey));
    damage(&log(dir), head..head + 4096, payload + 4096 + 70_000..payload + 4096 + 70_001);
    delete(&store, (0..end).filter(|n| n % 5 != 0).map(small)).await;
    let mut from = end;
    for round in 0..3 {
        let next = fill(&store, from, 60_000).await;
        assert!(next > from + end / 2, "round {round}: only {} parts fit", next - from);
        delete(&store, (from..next).map(small)).await;
        from = next;
    }
    assert!(!log(dir).exists(), "the damaged file was not given back");
    let check = async |store: &Arc<dyn PartStore>, when: &str| {
        for n in (0..end).step_by(5) {
            assert_eq!(get(store, small(n)).await.unwrap(), content(small(n)), "{when}: {n}");
        }
        for key in [headless, holey] {
            let got = get(store, key).await;
            assert!(matches!(got, Err(PartError::Corrupt(_))), "{when}: {key}: {got:?}");
            let held = store.held(key.blob).await.unwrap();
            assert_eq!(held.parts.len(), 1, "{when}: what is lost must not look like never stored");
        }
        let beside = store.get(holey, 0..65_536).await;
        assert_eq!(beside.unwrap(), content(holey).slice(..65_536), "{when}: beside the hole");
    };
    check(&store, "after compaction").await;
    assert_eq!(disk.state().damaged, 2);
    assert_eq!(disk.state().state, "ok");
    drop((store, disk));
    std::fs::remove_file(dir.path().join("d/index.redb")).unwrap();
    let (disk, store) = open(dir);
    check(&store, "after a rebuild").await;
    for key in [headless, holey] {
        put(&store, key).await.unwrap();
        assert_eq!(get(&store, key).await.unwrap(), content(key), "put again");
    }
    assert_eq!(disk.state().damaged, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_with_unreadable_sectors_still_takes_deletes_and_puts() {
    let dir = fresh();
    let mut faults = Vec::new();
    fills_on_over(&dir, |path, head, payload| {
        faults.push(Fault::error(path, Call::Read, head, EIO));
        faults.push(Fault::error(path, Call::Read, payload, EIO));
    })
    .await;
    assert!(faults.iter().all(|fault| fault.met() > 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_with_rotten_records_still_takes_deletes_and_puts() {
    use std::os::unix::fs::FileExt;
    let dir = fresh();
    fills_on_over(&dir, |path, head, payload| {
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.write_all_at(b"rot", head.start + 20).unwrap();
        file.write_all_at(b"rot", payload.start).unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_reads_well_again_is_not_called_damaged_any_more() {
    let dir = fresh();
    let (disk, store) = open(&dir);
    let part = key(1, 300_000);
    put(&store, part).await.unwrap();
    let fails = async || {
        let fault = Fault::error(&log(&dir), Call::Read, 0..u64::MAX, EIO);
        assert!(matches!(get(&store, part).await, Err(PartError::Io(_))));
        assert!(fault.met() > 0);
        assert_eq!(disk.state().damaged, 1);
    };
    fails().await;
    assert_eq!(get(&store, part).await.unwrap(), content(part));
    assert_eq!(disk.state().damaged, 0, "it was read");
    fails().await;
    put(&store, part).await.unwrap();
    assert_eq!(disk.state().damaged, 0, "it was asked for again, and is there");
}

#[tokio::test(flavor = "multi_thread")]
async fn deletes_whose_record_is_damaged_stay_remembered() {
    let dir = fresh();
    let (disk, store) = open(&dir);
    let gone: Vec<PartKey> = (0..40).map(|n| key(n, 1000)).collect();
    let kept = key(100, 1000);
    put(&store, kept).await.unwrap();
    for key in &gone {
        put(&store, *key).await.unwrap();
    }
    // One record each: 40 of them, of which every other one cannot be read any more.
    for key in &gone {
        store.delete(&[key.blob], None).await.unwrap();
    }
    let image = std::fs::read(log(&dir)).unwrap();
    let deletes: Vec<u64> = (0..image.len() as u64 / 4096)
        .filter(|block| image[*block as usize * 4096..].starts_with(b"ASHLREC\n"))
        .filter(|block| image[*block as usize * 4096 + 10] == 2)
        .collect();
    assert_eq!(deletes.len(), 40);
    let unreadable =
        |block: &u64| Fault::error(&log(&dir), Call::Read, block * 4096..block * 4096 + 1, EIO);
    let faults: Vec<Fault> = deletes.iter().step_by(2).map(unreadable).collect();
    // Compaction takes that file once the disk is full.
    let mut from = 1000;
    while log(&dir).exists() {
        let next = fill(&store, from, 60_000).await;
        delete(&store, (from..next).map(small)).await;
        from = next;
        assert!(from < 9000, "the damaged file is never given back");
    }
    drop(faults);
    drop((store, disk));
    std::fs::remove_file(dir.path().join("d/index.redb")).unwrap();
    let (_disk, store) = open(&dir);
    for key in gone {
        assert_eq!(get(&store, key).await, Err(PartError::Deleted));
        assert_eq!(put(&store, key).await, Err(PartError::Deleted));
    }
    assert_eq!(get(&store, kept).await.unwrap(), content(kept));
}

/// A disk on which one write fails: it says so, keeps what it had, and takes no more.
async fn fails_once(call: Call, errno: i32) {
    let dir = fresh();
    let (first, second) = (key(1, 5000), key(2, 5000));
    {
        let (disk, store) = open(&dir);
        put(&store, first).await.unwrap();
        let fault = Fault::error(dir.path(), call, ALL, errno);
        let refused = put(&store, second).await.unwrap_err();
        assert!(matches!(refused, PartError::Io(_)), "{refused}");
        drop(fault);
        // It may have written half of it: nothing goes on top of that before recovery.
        let refused = put(&store, second).await.unwrap_err().to_string();
        assert!(refused.contains("read-only") && refused.contains("os error 5"), "{refused}");
        assert!(disk.state().state.starts_with("read-only: "), "{}", disk.state().state);
        until_it_says(&disk, "was read back (good parts: 1, damaged: 0)").await;
        assert_eq!(get(&store, first).await.unwrap(), content(first), "reads go on");
        let fill = store.fill().await.unwrap_err();
        assert!(matches!(fill, PartError::Io(_)), "{fill}");
    }
    let (disk, store) = open(&dir);
    assert_eq!(disk.state().state, "ok");
    assert_eq!(get(&store, first).await.unwrap(), content(first));
    put(&store, second).await.unwrap();
    assert_eq!(get(&store, second).await.unwrap(), content(second));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_write_makes_the_disk_read_only_until_it_is_opened_again() {
    fails_once(Call::Write, EIO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_sync_makes_the_disk_read_only_until_it_is_opened_again() {
    fails_once(Call::Sync, EIO).await;
}

/// Waits until the disk says this of itself.
async fn until_it_says(disk: &Disk, what: &str) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !disk.state().state.contains(what) {
        assert!(std::time::Instant::now() < deadline, "{what}: {:?}", disk.state());
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

/// The device has lost what it said was durable, and a sync tells so: what is left of the file is served once it was
/// read back, and what is not is known to be damaged, though nobody has asked for it.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_failed_sync_nothing_of_the_file_is_answered_for_until_it_was_read_back() {
    use std::os::unix::fs::FileExt;
    let dir = fresh();
    let [good, lost, refused] = [1, 2, 3].map(|n| key(n, 100_000));
    let unread = |told: Result<(), PartError>| {
        let Err(PartError::Io(why)) = &told else { panic!("{told:?}") };
        assert!(why.contains("block file 1 is being read back"), "{why}");
    };
    {
        let (disk, store) = open(&dir);
        put(&store, good).await.unwrap();
        put(&store, lost).await.unwrap();
        // So that what was read before is remembered.
        assert_eq!(get(&store, lost).await.unwrap(), content(lost));
        let file = std::fs::File::options().write(true).open(log(&dir)).unwrap();
        file.write_all_at(&[0; 4096], place_of(&log(&dir), lost)).unwrap();
        let hangs = Fault::hang(&log(&dir), Call::Forget);
        let fails = Fault::error(dir.path(), Call::Sync, ALL, EIO);
        assert!(matches!(put(&store, refused).await, Err(PartError::Io(_))));
        let hangs = tokio::task::spawn_blocking(move || {
            hangs.wait();
            hangs
        });
        let hangs = hangs.await.unwrap();
        for part in [good, lost] {
            unread(get(&store, part).await.map(drop));
            unread(store.held(part.blob).await.map(drop));
        }
        unread(store.list(Scope::All, None, 10).await.map(drop));
        assert_eq!(disk.state().damaged, 0, "nobody knows yet");
        drop(hangs);
        until_it_says(&disk, "was read back (good parts: 1, damaged: 1)").await;
        assert_eq!(get(&store, good).await.unwrap(), content(good));
        assert_eq!(disk.state().damaged, 1);
        assert!(matches!(get(&store, lost).await, Err(PartError::Corrupt(_))));
        for (part, parts) in [(good, 1), (lost, 1), (refused, 0)] {
            assert_eq!(store.held(part.blob).await.unwrap().parts.len(), parts);
        }
        assert_eq!(fails.met(), 1, "it was tried again");
        // It would succeed now, which proves nothing.
        drop(fails);
        let again = put(&store, refused).await.unwrap_err().to_string();
        assert!(again.contains("read-only"), "{again}");
    }
    let (disk, store) = open(&dir);
    put(&store, refused).await.unwrap();
    put(&store, lost).await.unwrap();
    for part in [good, lost, refused] {
        assert_eq!(get(&store, part).await.unwrap(), content(part));
    }
    assert_eq!(disk.state().state, "ok");
}

/// Where the kernel does not let go of what it has in memory, nothing can be read back.
#[tokio::test(flavor = "multi_thread")]
async fn what_can_only_be_read_out_of_the_kernels_memory_stays_in_doubt() {
    let dir = fresh();
    let (first, second) = (key(1, 5000), key(2, 5000));
    let (disk, store) = open(&dir);
    put(&store, first).await.unwrap();
    let keeps = Fault::error(dir.path(), Call::Forget, ALL, EIO);
    let fails = Fault::error(dir.path(), Call::Sync, ALL, EIO);
    assert!(matches!(put(&store, second).await, Err(PartError::Io(_))));
    let keeps = tokio::task::spawn_blocking(move || {
        keeps.wait();
        keeps
    });
    let keeps = keeps.await.unwrap();
    for _ in 0..3 {
        assert!(matches!(get(&store, first).await, Err(PartError::Io(_))));
    }
    until_it_says(&disk, "block file 1 could not be read back").await;
    assert!(matches!(get(&store, first).await, Err(PartError::Io(_))));
    drop((keeps, fails, store, disk));
    let (disk, store) = open(&dir);
    assert_eq!(get(&store, first).await.unwrap(), content(first));
    assert_eq!(disk.state().state, "ok");
}

/// What is damaged, and cannot be remembered as that, would be taken for held once the doubt has ended.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_with_more_damage_than_is_remembered_stays_in_doubt() {
    use std::os::unix::fs::FileExt;
    let dir = fresh();
    let [good, lost, refused] = [1, 2, 3].map(|n| key(n, 5000));
    let (disk, store) = open(&dir);
    put(&store, good).await.unwrap();
    put(&store, lost).await.unwrap();
    let elsewhere = 1000..1000 + crate::shared::MAX_DAMAGED as u64;
    for n in elsewhere {
        assert!(disk.shared().note_damage(SlotId(0), key(n, 5000)));
    }
    let file = std::fs::File::options().write(true).open(log(&dir)).unwrap();
    file.write_all_at(&[0; 4096], place_of(&log(&dir), lost)).unwrap();
    let _fails = Fault::error(dir.path(), Call::Sync, ALL, EIO);
    assert!(matches!(put(&store, refused).await, Err(PartError::Io(_))));
    until_it_says(&disk, "block file 1 could not be read back: more than 10000 parts").await;
    for part in [good, lost] {
        assert!(matches!(get(&store, part).await, Err(PartError::Io(_))));
        assert!(matches!(store.held(part.blob).await, Err(PartError::Io(_))), "no testimony");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_failed_sync_left_in_the_log_is_answered_for_only_once_it_is_durable() {
    let dir = fresh();
    let (first, second) = (key(1, 5000), key(2, 5000));
    {
        let (_disk, store) = open(&dir);
        put(&store, first).await.unwrap();
        let fault = Fault::error(dir.path(), Call::Sync, ALL, EIO);
        assert!(matches!(put(&store, second).await, Err(PartError::Io(_))));
        drop(fault);
    }
    for rebuilt in [false, true] {
        if rebuilt {
            std::fs::remove_file(dir.path().join("d/index.redb")).unwrap();
        }
        let fault = Fault::error(dir.path(), Call::Sync, ALL, EIO);
        let (disk, store) = open(&dir);
        assert!(fault.met() > 0, "rebuilt: {rebuilt}");
        // The bytes are there, and whole; whether they stay is not known.
        let again = put(&store, second).await;
        assert!(matches!(again, Err(PartError::Io(_))), "rebuilt: {rebuilt}: {again:?}");
        assert!(disk.state().state.starts_with("read-only: "), "{}", disk.state().state);
        assert_eq!(get(&store, first).await.unwrap(), content(first), "reads go on");
    }
    let (disk, store) = open(&dir);
    put(&store, second).await.unwrap();
    assert_eq!(get(&store, second).await.unwrap(), content(second));
    assert_eq!(disk.state().state, "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_room_below_is_full_and_not_a_failure() {
    let room = [(Call::Write, ENOSPC), (Call::Preallocate, ENOSPC)];
    // What this process or machine is short of is not the disk's fault either.
    let short = [(Call::Preallocate, EMFILE), (Call::Preallocate, ENFILE), (Call::Write, ENOMEM)];
    for (call, errno) in room.into_iter().chain(short) {
        let dir = fresh();
        let (disk, store) = open(&dir);
        let len = 1 << 20;
        for n in 0..10 {
            put(&store, key(n, len)).await.unwrap();
        }
        let fault = Fault::error(dir.path(), call, ALL, errno);
        // Up to 16 MiB fit into the file that there is.
        let mut refused = None;
        for n in 10..30 {
            refused = put(&store, key(n, len)).await.err().map(|e| (n, e));
            if refused.is_some() {
                break;
            }
        }
        let (n, why) = refused.expect("the file is full after 16 MiB");
        assert_eq!(why, PartError::Full, "{call:?} {errno}");
        assert_eq!(disk.state().state, "ok", "{call:?} {errno}");
        if call == Call::Preallocate {
            assert!(store.fill().await.unwrap().level >= FillLevel::Orange);
        }
        drop(fault);
        // Nobody asks it for anything: it finds out by itself that it may try again.
        let mut tick = tokio::time::interval(std::time::Duration::from_millis(20));
        let roomy = async {
            while store.fill().await.unwrap().level != FillLevel::Green {
                tick.tick().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(20), roomy).await.unwrap();
        put(&store, key(n, len)).await.unwrap();
        for n in [0, 9, n] {
            assert_eq!(get(&store, key(n, len)).await.unwrap(), content(key(n, len)));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filesystem_without_direct_io_keeps_parts_just_as_well() {
    let dir = fresh();
    let fault = Fault::error(dir.path(), Call::OpenDirect, ALL, EINVAL);
    let keys = [key(1, 1), key(2, 4132), key(3, 70_000), key(4, 1 << 20)];
    for round in 0..3 {
        let (_disk, store) = open(&dir);
        for key in keys {
            if round == 0 {
                put(&store, key).await.unwrap();
            }
            assert_eq!(get(&store, key).await.unwrap(), content(key), "round {round}");
        }
        if round == 1 {
            std::fs::remove_file(dir.path().join("d/index.redb")).unwrap();
        }
    }
    assert!(fault.met() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_that_hangs_does_not_hold_up_the_end_and_keeps_the_disk_locked() {
    let dir = fresh();
    let (disk, store) = open(&dir);
    let (first, second) = (key(1, 5000), key(2, 5000));
    put(&store, first).await.unwrap();
    let fault = Fault::hang(dir.path(), Call::Sync);
    let putting = {
        let store = store.clone();
        tokio::spawn(async move { put(&store, second).await })
    };
    let fault = tokio::task::spawn_blocking(move || {
        fault.wait();
        fault
    });
    let fault = fault.await.unwrap();
    let began = std::time::Instant::now();
    disk.close().await;
    assert!(began.elapsed() < std::time::Duration::from_secs(8), "{:?}", began.elapsed());
    drop((store, disk));
    // The thread that hangs may write any time: nobody else may have the disk before it ends.
    let open_again = || Disk::open(&dir.path().join("d"), DiskOptions::default());
    let refused = open_again().map(drop).unwrap_err().to_string();
    assert!(refused.contains("in use"), "{refused}");
    drop(fault);
    assert_eq!(putting.await.unwrap(), Ok(()), "it was done after all");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let disk = loop {
        match open_again() {
            Ok(disk) => break disk,
            Err(e) => assert!(std::time::Instant::now() < deadline, "{e}"),
        }
        tokio::task::yield_now().await;
    };
    let store: Arc<dyn PartStore> = disk.slot(SlotId(0), GroupId(0), Generation(1));
    for key in [first, second] {
        assert_eq!(get(&store, key).await.unwrap(), content(key));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_hangs_says_so_until_it_answers_and_others_do_not_wait_for_it() {
    let dirs = [fresh(), fresh()];
    let [(disk, store), (_other, beside)] = dirs.each_ref().map(open);
    let (first, second) = (key(1, 100_000), key(2, 5000));
    put(&store, first).await.unwrap();
    put(&beside, first).await.unwrap();
    let fault = Fault::hang(dirs[0].path(), Call::Read);
    let reading: Vec<_> = (0..100)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { get(&store, first).await })
        })
        .collect();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !matches!(store.fill().await, Err(PartError::Unreachable(why)) if why.starts_with("hangs"))
    {
        assert!(std::time::Instant::now() < deadline, "{:?}", disk.state());
        assert_eq!(get(&beside, first).await.unwrap(), content(first));
        tokio::task::yield_now().await;
    }
    assert!(disk.state().state.starts_with("hangs"), "{:?}", disk.state());
    put(&store, second).await.unwrap();
    drop(fault);
    for read in reading {
        assert_eq!(read.await.unwrap().unwrap(), content(first));
    }
    assert_eq!(disk.state().state, "ok");
}

/// Bytes that the block files take.
pub(crate) fn taken(dir: &TempDir) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let files = std::fs::read_dir(dir.path().join("d/blocks")).unwrap();
    files.map(|file| file.unwrap().metadata().map_or(0, |file| file.blocks() * 512)).sum()
}

/// The filesystem declines to give space back: nothing comes of that but space in use, and when it does
/// not any more, `then` holds without anybody doing anything.
async fn declines(call: Call, errno: i32, deleted: Range<u64>, then: impl Fn(&TempDir) -> bool) {
    let dir = fresh();
    let (disk, store) = open(&dir);
    let large = |n| key(n, MIB as u32);
    let fault = Fault::error(dir.path(), call, ALL, errno);
    // Fifteen fit into a block file.
    for n in 0..32 {
        put(&store, large(n)).await.unwrap();
    }
    delete(&store, deleted.clone().map(large)).await;
    let mut tick = tokio::time::interval(std::time::Duration::from_millis(20));
    let mut until = async |done: &dyn Fn() -> bool| {
        let waiting = async {
            while !done() {
                tick.tick().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(40), waiting).await.expect("in time");
    };
    until(&|| fault.met() > 0).await;
    assert_eq!(disk.state().state, "ok", "{call:?}");
    assert!(!then(&dir), "{call:?}: {}", taken(&dir));
    put(&store, large(50)).await.unwrap();
    drop(fault);
    if errno == ENOSPC {
        until(&|| then(&dir)).await;
    }
    assert_eq!(disk.state().state, "ok", "{call:?}");
    for n in (deleted.end..32).chain([50]) {
        assert_eq!(get(&store, large(n)).await.unwrap(), content(large(n)), "{call:?}: {n}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn holes_that_find_no_room_are_made_later() {
    // Five of fifteen: no reason to empty the file.
    declines(Call::Punch, ENOSPC, 0..5, |dir| taken(dir) <= 42 * MIB + MIB / 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filesystem_without_holes_gives_space_back_by_compaction() {
    declines(Call::Punch, EOPNOTSUPP, 0..5, |_| false).await;
    let dir = fresh();
    let (_disk, store) = open(&dir);
    let _fault = Fault::error(dir.path(), Call::Punch, ALL, EOPNOTSUPP);
    let mut from = 0;
    for round in 0..4 {
        let next = fill(&store, from, MIB as u32).await;
        assert!(next - from > 40, "round {round}: only {} fit", next - from);
        delete(&store, (from..next).map(|n| key(n, MIB as u32))).await;
        from = next;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_cut_off_is_cut_off_later() {
    let short = |dir: &TempDir| log(dir).metadata().unwrap().len() < 16 * MIB;
    declines(Call::Truncate, ENOSPC, 0..1, short).await;
    declines(Call::Truncate, EOPNOTSUPP, 0..1, short).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_removed_is_removed_later() {
    declines(Call::Remove, ENOSPC, 0..16, |dir| !log(dir).exists()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_the_disk_is_one_when_space_is_given_back_too() {
    let dir = fresh();
    let (disk, store) = open(&dir);
    put(&store, key(1, MIB as u32)).await.unwrap();
    let fault = Fault::error(dir.path(), Call::Punch, ALL, EIO);
    store.delete(&[key(1, MIB as u32).blob], None).await.unwrap();
    // The owner gives space back before it takes the next request.
    let refused = put(&store, key(2, 5000)).await.unwrap_err().to_string();
    assert!(fault.met() > 0 && refused.contains("read-only: punching a hole"), "{refused}");
    assert!(disk.state().state.starts_with("read-only: punching a hole"), "{:?}", disk.state());
}

/// The owner of a disk is held up in a sync by a put to another slot. What `meanwhile` polls once, in that
/// order, is asked of slot 0, which knows generation 5; then the owner goes on.
async fn while_the_owner_waits(
    dir: &TempDir,
    disk: &Arc<Disk>,
    meanwhile: impl FnOnce(),
) -> Result<(), PartError> {
    let beside = disk.slot(SlotId(1), GroupId(0), Generation(1));
    put(&beside, key(100, 5000)).await.unwrap();
    let fault = Fault::hang(dir.path(), Call::Sync);
    let held_up = tokio::spawn(async move { put(&beside, key(101, 5000)).await });
    let fault = tokio::task::spawn_blocking(move || {
        fault.wait();
        fault
    });
    let fault = fault.await.unwrap();
    meanwhile();
    drop(fault);
    held_up.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_that_waits_behind_news_of_a_newer_generation_is_refused() {
    use futures::FutureExt;
    let dir = fresh();
    let (disk, _) = open(&dir);
    let [five, six] = [5, 6].map(|n| disk.slot(SlotId(0), GroupId(0), Generation(n)));
    put(&five, key(1, 5000)).await.unwrap();
    let mut news = Box::pin(six.held(key(2, 5000).blob));
    let (late, gone) = (key(2, 5000), [key(1, 5000).blob]);
    let (mut putting, mut deleting) =
        (Box::pin(put(&five, late)), Box::pin(five.delete(&gone, None)));
    while_the_owner_waits(&dir, &disk, || {
        assert!(news.as_mut().now_or_never().is_none());
        assert!(putting.as_mut().now_or_never().is_none());
        assert!(deleting.as_mut().now_or_never().is_none());
    })
    .await
    .unwrap();
    assert_eq!(news.await.unwrap().parts.len(), 0);
    assert_eq!(putting.await, Err(PartError::StaleGeneration(Generation(6))));
    assert_eq!(deleting.await, Err(PartError::StaleGeneration(Generation(6))));
    assert_eq!(get(&five, key(1, 5000)).await, Err(PartError::StaleGeneration(Generation(6))));
    assert_eq!(get(&six, key(1, 5000)).await.unwrap(), content(key(1, 5000)));
    assert_eq!(get(&six, late).await, Err(PartError::NotFound));
    drop((five, six, disk));
    let (disk, _) = open(&dir);
    let five = disk.slot(SlotId(0), GroupId(0), Generation(5));
    assert_eq!(put(&five, late).await, Err(PartError::StaleGeneration(Generation(6))));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_there_when_a_newer_generation_was_answered_never_comes() {
    use futures::FutureExt;
    let dir = fresh();
    let (disk, _) = open(&dir);
    let [five, six] = [5, 6].map(|n| disk.slot(SlotId(0), GroupId(0), Generation(n)));
    let four = disk.slot(SlotId(0), GroupId(0), Generation(4));
    put(&four, key(1, 5000)).await.unwrap();
    // The first that says 5, and before it is done, one that says 6.
    let late = key(2, 5000);
    let (mut putting, mut news) = (Box::pin(put(&five, late)), Box::pin(six.held(late.blob)));
    while_the_owner_waits(&dir, &disk, || {
        assert!(putting.as_mut().now_or_never().is_none());
        assert!(news.as_mut().now_or_never().is_none());
    })
    .await
    .unwrap();
    // Whoever put it has not looked at its answer yet.
    let seen = news.await.unwrap().parts.len();
    let put = putting.await;
    let there = get(&six, late).await.is_ok();
    assert_eq!((seen == 1, put.is_ok()), (there, there), "{put:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_behind_a_fence_is_refused_and_what_is_before_it_was_done() {
    use futures::FutureExt;
    let dir = fresh();
    let (disk, store) = open(&dir);
    let (old, new) = (OwnerId::random(), OwnerId::random());
    let issuer = |epoch, owner| Some(Issuer { epoch: Epoch(epoch), owner });
    store.fence(VolumeId(1), Epoch(1), old).await.unwrap();
    let data = |key| Checked::compute(content(key));
    let (kept, before, late) = (key(1, 5000), key(2, 5000), key(3, 5000));
    store.put(kept, data(kept), issuer(1, old)).await.unwrap();
    let gone = [kept.blob];
    let mut first = store.put(before, data(before), issuer(1, old));
    let mut fence = store.fence(VolumeId(1), Epoch(2), new);
    let mut putting = store.put(late, data(late), issuer(1, old));
    let mut deleting = store.delete(&gone, issuer(1, old));
    let mut by_new = store.put(late, data(late), issuer(2, new));
    while_the_owner_waits(&dir, &disk, || {
        assert!(first.as_mut().now_or_never().is_none());
        assert!(fence.as_mut().now_or_never().is_none());
        for asked in [&mut putting, &mut deleting, &mut by_new] {
            assert!(asked.as_mut().now_or_never().is_none());
        }
    })
    .await
    .unwrap();
    assert_eq!((first.await, fence.await), (Ok(()), Ok(())));
    let fenced = Err(PartError::Fenced { epoch: Epoch(2) });
    assert_eq!((putting.await, deleting.await), (fenced.clone(), fenced));
    assert_eq!(by_new.await, Ok(()));
    for key in [kept, before, late] {
        assert_eq!(get(&store, key).await.unwrap(), content(key));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn promises_whose_record_is_damaged_are_kept_by_compaction() {
    let dir = fresh();
    let (disk, store) = open(&dir);
    let owner = OwnerId::random();
    for volume in 10..30 {
        store.fence(VolumeId(volume), Epoch(u64::from(volume)), owner).await.unwrap();
    }
    let image = std::fs::read(log(&dir)).unwrap();
    let fences: Vec<u64> = (0..image.len() as u64 / 4096)
        .filter(|block| image[*block as usize * 4096..].starts_with(b"ASHLREC\n"))
        .filter(|block| image[*block as usize * 4096 + 10] == 6)
        .collect();
    assert_eq!(fences.len(), 20);
    let unreadable =
        |block: &u64| Fault::error(&log(&dir), Call::Read, block * 4096..block * 4096 + 1, EIO);
    let faults: Vec<Fault> = fences.iter().step_by(2).map(unreadable).collect();
    let mut from = 1000;
    while log(&dir).exists() {
        let next = fill(&store, from, 60_000).await;
        delete(&store, (from..next).map(small)).await;
        from = next;
        assert!(from < 9000, "the damaged file is never given back");
    }
    drop(faults);
    drop((store, disk));
    std::fs::remove_file(dir.path().join("d/index.redb")).unwrap();
    let (_disk, store) = open(&dir);
    for volume in 10..30 {
        let promise = Some(Issuer { epoch: Epoch(u64::from(volume)), owner });
        assert_eq!(store.promised(VolumeId(volume)).await, Ok(promise));
    }
}

/// Parts are taken away whose records lie in one file, what says so lies in another, and some are put again. The
/// other file is compacted, with damage in it or without.
async fn dropped_parts_stay_dropped(damage: bool) {
    let dir = fresh();
    let (disk, store) = open(&dir);
    let part = |n| key(n, 5000);
    for n in 0..100 {
        put(&store, part(n)).await.unwrap();
    }
    let second = dir.path().join("d/blocks/00000002");
    // Enough that the file stays, and as much again.
    let mut from = 1000;
    while !second.exists() {
        put(&store, small(from)).await.unwrap();
        from += 1;
    }
    let kept = 1000..from;
    for n in 0..100 {
        store.drop_part(part(n), None).await.unwrap();
        store.drop_part(part(n), None).await.unwrap();
    }
    for n in 0..20 {
        put(&store, part(n)).await.unwrap();
    }
    let image = std::fs::read(&second).unwrap();
    let drops: Vec<u64> = (0..image.len() as u64 / 4096)
        .filter(|block| image[*block as usize * 4096..].starts_with(b"ASHLREC\n"))
        .filter(|block| image[*block as usize * 4096 + 10] == 7)
        .collect();
    assert_eq!(drops.len(), 100, "of what is not there nothing is noted");
    let unreadable =
        |block: &u64| Fault::error(&second, Call::Read, block * 4096..block * 4096 + 1, EIO);
    let damaged = if damage { drops.iter().step_by(2).map(unreadable).collect() } else { vec![] };
    while second.exists() {
        let next = fill(&store, from, 60_000).await;
        delete(&store, (from..next).map(small)).await;
        from = next;
        assert!(from < 9000, "the file is never given back");
    }
    drop(damaged);
    assert!(log(&dir).exists(), "the records of the parts are still there");
    drop((store, disk));
    std::fs::remove_file(dir.path().join("d/index.redb")).unwrap();
    let (disk, store) = open(&dir);
    for n in 0..20 {
        assert_eq!(get(&store, part(n)).await.unwrap(), content(part(n)));
    }
    for n in 20..100 {
        assert_eq!(get(&store, part(n)).await, Err(PartError::NotFound), "{n}");
        put(&store, part(n)).await.unwrap();
    }
    for n in kept.clone() {
        assert_eq!(get(&store, small(n)).await.unwrap(), content(small(n)));
    }
    assert_eq!(disk.state().parts, 100 + kept.count() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_brings_no_dropped_part_back_after_compaction() {
    dropped_parts_stay_dropped(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn drops_whose_record_is_damaged_are_kept_by_compaction() {
    dropped_parts_stay_dropped(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fails_because_it_is_away_is_lost_though_it_is_back_before_the_next_look() {
    let dir = fresh();
    let (disk, store) = open(&dir);
    let (there, away) = (dir.path().join("d"), dir.path().join("away"));
    std::fs::rename(&there, &away).unwrap();
    let mut end = 0;
    // Until another block file is to be made.
    while put(&store, key(end, 1_000_000)).await.is_ok() {
        end += 1;
    }
    std::fs::rename(&away, &there).unwrap();
    assert!(disk.shared().is_lost(), "{:?}", disk.shared().read_only());
    drop((disk, store));
    let (_disk, store) = open(&dir);
    for n in 0..end {
        assert_eq!(get(&store, key(n, 1_000_000)).await.unwrap(), content(key(n, 1_000_000)));
    }
    put(&store, key(end, 1_000_000)).await.unwrap();
}
