//! Disks whose index, or one of whose block files, fails: no part is lost with it, and nothing else.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use nix::libc::{EACCES, EIO, ENOSPC};
use proto::id::{Generation, GroupId, PartKey, SlotId};
use proto::part_store::{PartError, PartStore};
use redb::ReadableTable;
use tempfile::TempDir;

use crate::disk::bay::{BayPlan, Bays};
use crate::fault_tests::{ALL, MIB, content, delete, fresh, get, key, log, open, put};
use crate::format::superblock::Superblock;
use crate::io::faults::{Call, Fault};

fn index(dir: &Path) -> std::path::PathBuf {
    dir.join("d/index.redb")
}

async fn put_all(store: &Arc<dyn PartStore>, keys: impl Iterator<Item = PartKey>) {
    let keys: Vec<PartKey> = keys.collect();
    for keys in keys.chunks(400) {
        let puts = join_all(keys.iter().map(|key| put(store, *key))).await;
        puts.into_iter().for_each(|put| put.unwrap());
    }
}

/// Waits for what comes to be without anybody doing anything.
async fn until<T>(what: &str, mut happens: impl AsyncFnMut() -> Option<T>) -> T {
    let mut tick = tokio::time::interval(Duration::from_millis(20));
    let waiting = async {
        loop {
            tick.tick().await;
            if let Some(it) = happens().await {
                return it;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(40), waiting).await.expect(what)
}

/// A reader meets the fault; the disk is back without anybody doing anything, and has everything.
async fn reader_meets(fault: impl FnOnce(&Path) -> Fault) {
    let dir = fresh();
    let keys: Vec<PartKey> = (0..3000).map(|n| key(n, 100)).collect();
    {
        let (_disk, store) = open(&dir);
        put_all(&store, keys.iter().copied()).await;
    }
    let disk = dir.path().join("d");
    let cluster = Superblock::read(&disk).unwrap().cluster;
    let plan = BayPlan { dir: disk, disk: None, seen: None };
    let bays = Bays::open(cluster, vec![plan], |_, _| {}).await;
    let store = bays.slot(0, SlotId(0), GroupId(0), Generation(1));
    let damaged = index(dir.path()).with_extension("redb.damaged");
    assert!(!damaged.exists());
    let fault = fault(dir.path());
    let refused = get(&store, keys[1500]).await.unwrap_err();
    assert!(fault.met() > 0, "nothing was read of the index");
    assert!(matches!(refused, PartError::Io(_)), "{refused}");
    drop(fault);
    until("the disk comes back", async || get(&store, keys[1500]).await.ok()).await;
    assert!(damaged.exists());
    for key in keys {
        assert_eq!(get(&store, key).await.unwrap(), content(key));
    }
    bays.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_of_the_index_in_a_reader_has_it_made_anew() {
    reader_meets(|dir| Fault::panic(dir, Call::ReadIndex)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_the_index_in_a_reader_has_it_made_anew() {
    reader_meets(|dir| Fault::error(dir, Call::ReadIndex, ALL, EIO)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_page_of_the_index_is_damaged_the_disk_opens_and_has_everything() {
    use std::os::unix::fs::FileExt;
    let dir = fresh();
    let (kept, gone, late): (Vec<_>, Vec<_>, Vec<_>) = (
        (0..600).map(|n| key(n, 100)).collect(),
        (1000..1200).map(|n| key(n, 100)).collect(),
        (2000..2020).map(|n| key(n, 100)).collect(),
    );
    {
        let (_disk, store) = open(&dir);
        put_all(&store, kept.iter().chain(&gone).copied()).await;
    }
    // Behind the last checkpoint: what a replay takes in.
    let crashed = tempfile::tempdir().unwrap();
    {
        let (_disk, store) = open(&dir);
        delete(&store, gone.iter().copied()).await;
        put_all(&store, late.iter().copied()).await;
        let copied = std::process::Command::new("cp")
            .args(["-a", "--sparse=always"])
            .args([dir.path().join("d"), crashed.path().join("d")])
            .status();
        assert!(copied.unwrap().success());
    }
    let good = std::fs::read(index(crashed.path())).unwrap();
    let pages: Vec<usize> = (0..good.len() / 4096)
        .filter(|page| good[page * 4096..][..4096].iter().any(|byte| *byte != 0))
        .collect();
    assert!(pages.len() > 20, "{pages:?}");
    let mut rebuilt = 0;
    for page in pages {
        std::fs::write(index(crashed.path()), &good).unwrap();
        let _none = std::fs::remove_file(index(crashed.path()).with_extension("redb.damaged"));
        let file = std::fs::File::options().write(true).open(index(crashed.path())).unwrap();
        file.write_all_at(&[0xa5; 4096], page as u64 * 4096).unwrap();
        // A reader may be the one that finds it.
        for attempt in 0.. {
            assert!(attempt < 3, "page {page}: the damage is met again and again");
            let (_disk, store) = open(&crashed);
            let mut good = true;
            for key in kept.iter().chain(&late) {
                good &= get(&store, *key).await == Ok(content(*key));
            }
            for key in &gone {
                let got = get(&store, *key).await;
                good &= matches!(got, Err(PartError::Deleted | PartError::NotFound));
            }
            if good {
                break;
            }
        }
        rebuilt += u32::from(index(crashed.path()).with_extension("redb.damaged").exists());
    }
    assert!(rebuilt > 5, "only {rebuilt} pages mattered");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_makes_no_sense_has_the_index_made_anew() {
    type Row = (u32, u64, u64, u32, u8);
    let rows: [fn(Row) -> Row; 2] = [
        |row| (u32::MAX, row.1, row.2, row.3, row.4),
        |row| (row.0, u64::MAX, row.2, row.3, row.4),
    ];
    for change in rows {
        let dir = fresh();
        let keys: Vec<PartKey> = (0..100).map(|n| key(n, 100)).collect();
        {
            let (_disk, store) = open(&dir);
            put_all(&store, keys.iter().copied()).await;
        }
        let files: redb::TableDefinition<'_, u32, Row> = redb::TableDefinition::new("files");
        let db = redb::Database::open(index(dir.path())).unwrap();
        let txn = db.begin_write().unwrap();
        {
            let mut files = txn.open_table(files).unwrap();
            let row = files.get(1).unwrap().unwrap().value();
            files.insert(1, change(row)).unwrap();
        }
        txn.commit().unwrap();
        drop(db);
        let (_disk, store) = open(&dir);
        assert!(index(dir.path()).with_extension("redb.damaged").exists());
        for key in keys {
            assert_eq!(get(&store, key).await.unwrap(), content(key));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_without_room_costs_nothing_and_is_written_later() {
    let dir = fresh();
    let keys: Vec<PartKey> = (0..3000).map(|n| key(n, 100)).collect();
    let (stored, later) = keys.split_at(2000);
    {
        let (_disk, store) = open(&dir);
        put_all(&store, stored.iter().copied()).await;
    }
    let (disk, store) = open(&dir);
    put_all(&store, later.iter().copied()).await;
    delete(&store, stored[..100].iter().copied()).await;
    // Behind the first page, which is written in place and needs no room.
    let fault = Fault::error(dir.path(), Call::WriteIndex, 4096..u64::MAX, ENOSPC);
    // What is deleted here was put by nobody.
    delete(&store, [key(9000, 100)].into_iter()).await;
    let tried = async |times: u64| {
        until("a checkpoint is tried", async || (fault.met() >= times).then_some(())).await;
    };
    // The second shows that the first was given up.
    for times in 1..3 {
        tried(times).await;
        for key in &keys[100..] {
            assert_eq!(get(&store, *key).await.unwrap(), content(*key), "{:?}", disk.state());
        }
        for key in &stored[..100] {
            let got = get(&store, *key).await;
            assert!(matches!(got, Err(PartError::Deleted | PartError::NotFound)), "{got:?}");
        }
        assert_eq!(disk.state().state, "ok");
    }
    drop(fault);
    until("new data is taken", async || put(&store, key(5000, 100)).await.ok()).await;
    let mark = async || {
        // Nothing is left for a replay: the tail of the log is in the index.
        (disk.changes() == 0).then_some(())
    };
    until("the checkpoint is written", mark).await;
    drop((store, disk));
    assert!(!index(dir.path()).with_extension("redb.damaged").exists(), "it was good");
    let (_disk, store) = open(&dir);
    for key in &keys[100..] {
        assert_eq!(get(&store, *key).await.unwrap(), content(*key));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_is_made_anew_without_room_is_in_memory() {
    let dir = fresh();
    let keys: Vec<PartKey> = (0..500).map(|n| key(n, 100)).collect();
    {
        let (_disk, store) = open(&dir);
        put_all(&store, keys.iter().copied()).await;
    }
    std::fs::remove_file(index(dir.path())).unwrap();
    let fault = Fault::error(dir.path(), Call::WriteIndex, 4096..u64::MAX, ENOSPC);
    for _ in 0..2 {
        let (disk, store) = open(&dir);
        for key in &keys {
            assert_eq!(get(&store, *key).await.unwrap(), content(*key));
        }
        put(&store, key(1000, 100)).await.unwrap();
        assert_eq!(disk.state().state, "ok");
        assert!(!index(dir.path()).exists());
    }
    drop(fault);
    let (_disk, store) = open(&dir);
    for key in keys.into_iter().chain([key(1000, 100)]) {
        assert_eq!(get(&store, key).await.unwrap(), content(key));
    }
    assert!(index(dir.path()).exists());
}

/// Parts of a MiB: about 15 in a block file.
fn large(n: u64) -> PartKey {
    key(n, MIB as u32)
}

/// Fifteen in each of two block files, and two in the third.
async fn put_large(store: &Arc<dyn PartStore>) {
    for n in 0..32 {
        put(store, large(n)).await.unwrap();
    }
}

fn shut(dir: &TempDir, file: u32, errno: i32) -> Fault {
    Fault::error(&dir.path().join(format!("d/blocks/{file:08}")), Call::Open, ALL, errno)
}

async fn check(store: &Arc<dyn PartStore>, numbers: Range<u64>) {
    for n in numbers {
        assert_eq!(get(store, large(n)).await.unwrap(), content(large(n)), "{n}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_file_that_cannot_be_opened_costs_its_own_parts_alone() {
    let dir = fresh();
    {
        let (_disk, store) = open(&dir);
        put_large(&store).await;
    }
    assert!(log(&dir).exists());
    for errno in [EIO, EACCES] {
        let fault = shut(&dir, 1, errno);
        let (disk, store) = open(&dir);
        assert!(fault.met() > 0);
        let got = get(&store, large(0)).await;
        assert!(matches!(got, Err(PartError::Corrupt(_))), "{got:?}");
        check(&store, 20..32).await;
        assert_eq!(disk.state().state, "ok");
        if errno == EACCES {
            put(&store, large(0)).await.unwrap();
            put(&store, large(40)).await.unwrap();
            check(&store, 0..1).await;
        }
    }
    let (_disk, store) = open(&dir);
    check(&store, 0..32).await;
    check(&store, 40..41).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_block_file_holds_that_nobody_could_read_is_taken_in_once_it_can_be() {
    let dir = fresh();
    {
        let (_disk, store) = open(&dir);
        put_large(&store).await;
    }
    // Without an index nobody knows what is in the first; and then in the one that is written.
    for (round, file) in [(0, 1), (1, 3)] {
        std::fs::remove_file(index(dir.path())).unwrap();
        let fault = shut(&dir, file, EIO);
        let missing = if file == 1 { large(0) } else { large(31) };
        for _ in 0..2 {
            let (_disk, store) = open(&dir);
            check(&store, 15..19).await;
            check(&store, 21..29).await;
            let got = get(&store, missing).await;
            assert!(
                matches!(got, Err(PartError::Io(_))),
                "it is not said never to have been: {got:?}"
            );
            assert!(store.held(missing.blob).await.is_err());
            put(&store, large(100 + round)).await.unwrap();
            delete(&store, [large(20 - round)].into_iter()).await;
        }
        drop(fault);
        let (_disk, store) = open(&dir);
        check(&store, 0..20 - round).await;
        check(&store, 21..32).await;
        check(&store, 100..101 + round).await;
        let got: Result<Bytes, _> = get(&store, large(20)).await;
        assert!(matches!(got, Err(PartError::Deleted | PartError::NotFound)), "{got:?}");
    }
}
