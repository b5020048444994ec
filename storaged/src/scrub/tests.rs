//! Scrubs of real disks in directories: what is damaged is found, what the index has lost is found again, and
//! nothing else is said. Time is what the test says it is.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::join_all;
use proto::id::{PartKey, SlotId};
use proto::part_store::{PartError, PartStore};
use redb::{Database, ReadableTable, TableDefinition};
use tempfile::TempDir;

use super::*;
use crate::fault_tests::{content, delete, fill, fresh, get, key, log, open, place_of, put};
use crate::{Disk, DiskOptions};

const PARTS: TableDefinition<'_, &[u8; 36], u64> = TableDefinition::new("parts");
const TOMBSTONES: TableDefinition<'_, &[u8; 35], (u64, u8)> = TableDefinition::new("tombs");
const DEAD: TableDefinition<'_, &[u8; 44], ()> = TableDefinition::new("dead");
/// When these tests are.
const NOW: u64 = 1_800_000_000;

fn scrub(disk: &Arc<Disk>) -> Scrub {
    Scrub::new(disk.shared().clone(), 14, NOW)
}

/// A step, by whom the owner has a thread.
fn step(scrub: &mut Scrub, now: u64) -> Result<Work, PartError> {
    let shared = scrub.shared.clone();
    scrub.step(now, &mut |wish| shared.wish(wish))
}

/// A pass from wherever it is to its end, and what is found in it mended.
fn pass(scrub: &mut Scrub) {
    while step(scrub, NOW).unwrap() != Work::None {}
}

/// The next one.
fn another(scrub: &mut Scrub) {
    scrub.position.again(NOW, scrub.shared.written());
    pass(scrub);
}

async fn put_all(store: &Arc<dyn PartStore>, keys: &[PartKey]) {
    for keys in keys.chunks(400) {
        let puts = join_all(keys.iter().map(|key| put(store, *key))).await;
        puts.into_iter().for_each(|put| put.unwrap());
    }
}

fn flip(path: &Path, at: u64) {
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
}

/// Parts of all sizes: with payload behind the header and apart from it, in one window and over several.
fn keys() -> Vec<PartKey> {
    let len = |n: u64| match n % 100 {
        0 => 300_000,
        1 => 70_000,
        n => 50 * n as u32 + 1,
    };
    (0..3000).map(|n| key(n, len(n))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pass_finds_what_is_damaged_and_nothing_else() {
    let dir = fresh();
    let (disk, store) = open(&dir);
    let keys = keys();
    put_all(&store, &keys).await;
    let mut first = scrub(&disk);
    pass(&mut first);
    assert_eq!((disk.state().damaged, first.suspects.len()), (0, 0));
    assert_eq!(
        disk.state().scrub,
        Some(ScrubState { ended: NOW, percent: 100, asked: false, left: 0 })
    );
    // Payloads, headers and tables, in small parts and large ones.
    let mut hit = Vec::new();
    for (n, offset) in [
        (5, 100),
        (6, 20),
        (700, 4096 + 299_999),
        (701, 4096 + 65_536),
        (801, 30),
        (900, 97),
        (1599, 100),
    ] {
        let at = place_of(&log(&dir), keys[n]);
        flip(&log(&dir), at + offset);
        hit.push((SlotId(0), keys[n]));
    }
    another(&mut first);
    let mut found = disk.shared().damaged_parts();
    found.sort_unstable();
    hit.sort_unstable();
    assert_eq!(found, hit);
    for (_, key) in &hit {
        assert!(matches!(get(&store, *key).await, Err(PartError::Corrupt(_))), "{key}");
        put(&store, *key).await.unwrap();
    }
    assert_eq!(disk.state().damaged, 0);
    another(&mut first);
    assert_eq!((disk.state().damaged, first.suspects.len()), (0, 0));
    for key in keys {
        assert_eq!(get(&store, key).await.unwrap(), content(key));
    }
}

/// Of a part whose header is damaged nothing is served that was remembered of it when it was good: nobody could tell
/// any more whether it is that part.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_remembered_of_a_part_goes_when_its_header_is_found_damaged() {
    let dir = fresh();
    let parts = [1, 2].map(|n| key(n, 300_000));
    let (disk, store) = open(&dir);
    let block = 65_536..70_000;
    for part in parts {
        put(&store, part).await.unwrap();
        store.get(part, block.clone()).await.unwrap();
        flip(&log(&dir), place_of(&log(&dir), part) + 20);
        let remembered = store.get(part, block.clone()).await.unwrap();
        assert_eq!(remembered, content(part).slice(65_536..70_000), "its table is remembered");
    }
    // Whoever meets it: the index is compared with what lies at its places, whatever the log told.
    let mut scrub = scrub(&disk);
    pass(&mut scrub);
    for part in parts {
        let got = store.get(part, block.clone()).await;
        assert!(matches!(got, Err(PartError::Corrupt(_))), "{got:?}");
    }
    assert_eq!(disk.state().damaged, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrub_goes_on_after_a_restart_and_knows_what_it_had_found() {
    let dir = fresh();
    let keys = keys();
    let early = {
        let (disk, store) = open(&dir);
        put_all(&store, &keys).await;
        flip(&log(&dir), place_of(&log(&dir), keys[3]) + 100);
        let mut scrub = scrub(&disk);
        while disk.state().damaged == 0 || scrub.position.log.block < 100 {
            assert!(step(&mut scrub, NOW).unwrap() != Work::None);
        }
        scrub.save();
        scrub.position.clone()
    };
    assert_eq!((early.phase, early.damaged.len()), (Phase::Log, 1));
    let (disk, store) = open(&dir);
    assert_eq!(disk.state().damaged, 0);
    let mut scrub = scrub(&disk);
    assert_eq!((scrub.position.log, scrub.position.done), (early.log, early.done));
    step(&mut scrub, NOW).unwrap();
    assert_eq!(disk.state().damaged, 1, "what was known is looked at first");
    pass(&mut scrub);
    assert_eq!(disk.shared().damaged_parts(), [(SlotId(0), keys[3])]);
    put(&store, keys[3]).await.unwrap();
    scrub.save();
    drop((scrub, store, disk));
    let (disk, _store) = open(&dir);
    let mut scrub = self::scrub(&disk);
    pass(&mut scrub);
    assert_eq!((disk.state().damaged, disk.state().scrub.unwrap().ended), (0, NOW));
}

#[tokio::test(flavor = "multi_thread")]
async fn new_parts_are_read_within_the_hour_and_all_of_them_within_the_days() {
    let dir = fresh();
    let (disk, store) = open(&dir);
    let mut scrub = scrub(&disk);
    pass(&mut scrub);
    put_all(&store, &[key(1, 5000), key(2, 5000)]).await;
    flip(&log(&dir), place_of(&log(&dir), key(2, 5000)) + 5000);
    let at = |scrub: &mut Scrub, now| while step(scrub, now).unwrap() != Work::None {};
    at(&mut scrub, NOW + FRESH - 1);
    assert_eq!(disk.state().damaged, 0);
    at(&mut scrub, NOW + 3600);
    assert_eq!(disk.state().damaged, 1);
    assert_eq!(disk.state().scrub.unwrap().ended, NOW, "that was no pass");
    // What was good once may rot.
    flip(&log(&dir), place_of(&log(&dir), key(1, 5000)) + 5000);
    at(&mut scrub, NOW + 11 * 86_400);
    assert_eq!(disk.state().damaged, 1);
    at(&mut scrub, NOW + 14 * 86_400);
    assert_eq!(disk.state().damaged, 2);
}

/// The bytes of a part's key in the index.
fn bytes(key: PartKey) -> [u8; 36] {
    let mut bytes = [0; 36];
    bytes[4..35].copy_from_slice(&key.blob.to_bytes());
    bytes[35] = key.part.get() as u8;
    bytes
}

/// Changes the index of a disk that is closed.
fn change(dir: &TempDir, change: impl FnOnce(&redb::WriteTransaction)) {
    let db = Database::open(dir.path().join("d/index.redb")).unwrap();
    let txn = db.begin_write().unwrap();
    change(&txn);
    txn.commit().unwrap();
}

/// What the index says is used of each file, as the last checkpoint left it.
fn live(dir: &TempDir) -> BTreeMap<u32, u64> {
    type Row = (u32, u64, u64, u32, u8);
    const FILES: TableDefinition<'_, u32, Row> = TableDefinition::new("files");
    let db = Database::open(dir.path().join("d/index.redb")).unwrap();
    let txn = redb::ReadableDatabase::begin_read(&db).unwrap();
    let table = txn.open_table(FILES).unwrap();
    table.iter().unwrap().map(|row| row.map(|(n, v)| (n.value(), v.value().1)).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_index_lost_is_found_in_the_log_and_what_it_made_up_goes() {
    let dir = fresh();
    let keys = keys();
    let (gone, forgotten) = (key(5000, 3000), key(5001, 3000));
    {
        let (_disk, store) = open(&dir);
        put_all(&store, &keys).await;
        put_all(&store, &[gone, forgotten]).await;
        store.delete(&[gone.blob], None).await.unwrap();
        delete(&store, [forgotten].into_iter()).await;
    }
    let before = live(&dir);
    let made_up = key(77_777, 2001);
    let lost: Vec<PartKey> = (0..8).map(|n| keys[40 + 300 * n]).collect();
    change(&dir, |txn| {
        let mut parts = txn.open_table(PARTS).unwrap();
        let place = |parts: &redb::Table<'_, &[u8; 36], u64>, key| {
            parts.get(&bytes(key)).unwrap().unwrap().value()
        };
        // Values that point to another record, into one, behind all, and to a file that is not there.
        let other = place(&parts, keys[9]);
        parts.insert(&bytes(lost[0]), other).unwrap();
        let inside = place(&parts, keys[100]) + 20;
        parts.insert(&bytes(lost[1]), inside).unwrap();
        parts.insert(&bytes(lost[2]), (1 << 32) + 4095).unwrap();
        parts.insert(&bytes(lost[3]), (7 << 32) + 1).unwrap();
        // Keys that are gone, and one that is another's.
        for key in &lost[4..7] {
            parts.remove(&bytes(*key)).unwrap();
        }
        let place = parts.remove(&bytes(lost[7])).unwrap().unwrap().value();
        parts.insert(&bytes(made_up), place).unwrap();
        // Nothing of the index knows that these are deleted.
        let mut tombstones = txn.open_table(TOMBSTONES).unwrap();
        tombstones.retain(|_, _| false).unwrap();
        txn.open_table(DEAD).unwrap().retain(|_, ()| false).unwrap();
    });
    let (disk, store) = open(&dir);
    for key in &lost {
        assert!(get(&store, *key).await.is_err(), "{key}");
    }
    let mut scrub = scrub(&disk);
    pass(&mut scrub);
    for key in &keys {
        assert_eq!(get(&store, *key).await.as_ref(), Ok(&content(*key)), "{key}");
    }
    for key in [gone, forgotten, made_up] {
        let got = get(&store, key).await;
        assert!(matches!(got, Err(PartError::NotFound | PartError::Deleted)), "{key}: {got:?}");
    }
    assert_eq!(disk.state().damaged, 0, "{:?}", disk.shared().damaged_parts());
    drop((scrub, store, disk));
    assert_eq!(live(&dir), before);
    let (disk, store) = open(&dir);
    let mut scrub = self::scrub(&disk);
    another(&mut scrub);
    assert_eq!((disk.state().damaged, scrub.suspects.len()), (0, 0), "it is as good as ever");
    assert_eq!(get(&store, lost[0]).await.unwrap(), content(lost[0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_while_the_log_is_asked_about_it_stays_deleted() {
    let dir = fresh();
    let keys: Vec<PartKey> = (0..2000).map(|n| key(n, 5000)).collect();
    {
        let (_disk, store) = open(&dir);
        put_all(&store, &keys).await;
    }
    let (deleted, again) = (keys[10], keys[20]);
    change(&dir, |txn| {
        let mut parts = txn.open_table(PARTS).unwrap();
        parts.remove(&bytes(deleted)).unwrap();
        parts.remove(&bytes(again)).unwrap();
    });
    let (disk, store) = open(&dir);
    let mut scrub = scrub(&disk);
    while scrub.inquiry.is_none() {
        assert!(step(&mut scrub, NOW).unwrap() != Work::None);
    }
    step(&mut scrub, NOW).unwrap();
    delete(&store, [deleted].into_iter()).await;
    put(&store, again).await.unwrap();
    pass(&mut scrub);
    let got = get(&store, deleted).await;
    assert!(matches!(got, Err(PartError::NotFound | PartError::Deleted)), "{got:?}");
    assert_eq!(get(&store, again).await.unwrap(), content(again));
    another(&mut scrub);
    let got = get(&store, deleted).await;
    assert!(matches!(got, Err(PartError::NotFound | PartError::Deleted)), "{got:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_is_wrong_about_too_much_is_made_anew() {
    let dir = fresh();
    let keys: Vec<PartKey> = (0..6000).map(|n| key(n, 100)).collect();
    {
        let (_disk, store) = open(&dir);
        put_all(&store, &keys).await;
    }
    change(&dir, |txn| txn.open_table(PARTS).unwrap().retain(|_, _| false).unwrap());
    {
        let (disk, _store) = open(&dir);
        let mut scrub = scrub(&disk);
        while step(&mut scrub, NOW).is_ok() {}
        assert!(disk.shared().is_lost());
    }
    let (_disk, store) = open(&dir);
    for key in keys {
        assert_eq!(get(&store, key).await.unwrap(), content(key));
    }
}

/// Parts come and go at random, and compaction moves them, while one pass follows another.
#[tokio::test(flavor = "multi_thread")]
async fn what_moves_and_goes_while_it_is_read_is_never_called_damaged() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_126);
    println!("SEED={seed}");
    let mut state: u64 = seed;
    let mut random = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let dir = fresh();
    let (disk, store) = open(&dir);
    let over = Arc::new(AtomicBool::new(false));
    let scrubbing = {
        let (mut scrub, over) = (scrub(&disk), over.clone());
        std::thread::spawn(move || {
            let (mut now, mut passes) = (NOW, 0);
            while !over.load(Ordering::Acquire) {
                now += 60;
                if step(&mut scrub, now).unwrap() == Work::None {
                    passes += 1;
                    scrub.position.again(now, scrub.shared.written());
                }
                assert!(scrub.suspects.is_empty(), "{:?}", scrub.suspects);
            }
            passes
        })
    };
    let mut kept: BTreeMap<u64, u32> = BTreeMap::new();
    let mut next = 0;
    for _ in 0..6 {
        // To the brim, so that compaction has to run; then most of it goes.
        let len = 1000 + random(90_000) as u32;
        let end = fill(&store, next, len).await;
        kept.extend((next..end).map(|n| (n, len)));
        next = end;
        let going: BTreeSet<u64> = kept.keys().copied().filter(|_| random(5) > 0).collect();
        for numbers in going.iter().collect::<Vec<_>>().chunks(500) {
            delete(&store, numbers.iter().map(|n| key(**n, kept[n]))).await;
        }
        kept.retain(|n, _| !going.contains(n));
        if scrubbing.is_finished() {
            break;
        }
    }
    over.store(true, Ordering::Release);
    let passes = scrubbing.join().unwrap();
    assert!(passes > 0);
    assert_eq!(disk.state().damaged, 0, "{:?}", disk.shared().damaged_parts());
    for (n, len) in kept {
        assert_eq!(get(&store, key(n, len)).await.unwrap(), content(key(n, len)), "{n}");
    }
}

/// The thread of a disk, by the clock, while the disk is used.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_scrubs_itself_while_it_is_used_and_ends_at_once() {
    let dir = fresh();
    let keys: Vec<PartKey> = (0..400).map(|n| key(n, 3000)).collect();
    {
        let (_disk, store) = open(&dir);
        put_all(&store, &keys).await;
    }
    flip(&log(&dir), place_of(&log(&dir), keys[300]) + 1000);
    let options = DiskOptions { scrub_days: 14, ..DiskOptions::default() };
    let disk = Disk::open(&dir.path().join("d"), options).unwrap();
    let store = disk.slot(SlotId(0), proto::id::GroupId(0), proto::id::Generation(1));
    let began = Instant::now();
    let mut next = 10_000;
    while disk.state().damaged == 0 {
        put(&store, key(next, 5000)).await.unwrap();
        next += 1;
        assert!(began.elapsed() < Duration::from_secs(60), "{:?}", disk.state());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(disk.shared().damaged_parts(), [(SlotId(0), keys[300])]);
    disk.close().await;
    let saved = Position::read(&dir.path().join("d"), disk.id()).unwrap();
    assert_eq!(saved.damaged, [(SlotId(0), keys[300])]);
}

/// A pass was just made, and the next is not due for days.
#[tokio::test(flavor = "multi_thread")]
async fn a_scrub_that_is_asked_for_begins_at_once_and_says_when_it_is_through() {
    let dir = fresh();
    let keys: Vec<PartKey> = (0..400).map(|n| key(n, 3000)).collect();
    {
        let (disk, store) = open(&dir);
        assert!(disk.scrub().unwrap_err().to_string().contains("never scrubbed"));
        put_all(&store, &keys).await;
        let mut scrub = Scrub::new(disk.shared().clone(), 14, seconds_now());
        while step(&mut scrub, seconds_now()).unwrap() != Work::None {}
        scrub.save();
    }
    flip(&log(&dir), place_of(&log(&dir), keys[300]) + 1000);
    let options = DiskOptions { scrub_days: 14, ..DiskOptions::default() };
    let disk = Disk::open(&dir.path().join("d"), options).unwrap();
    let store = disk.slot(SlotId(0), proto::id::GroupId(0), proto::id::Generation(1));
    let volume = keys[0].blob.volume();
    assert_eq!(store.condition(volume).await.unwrap().damaged, []);
    store.scrub().await.unwrap();
    let began = Instant::now();
    let condition = loop {
        let condition = store.condition(volume).await.unwrap();
        if !condition.scrub.unwrap().asked {
            break condition;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{condition:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    };
    assert_eq!(condition.damaged, [keys[300].blob]);
    assert_eq!((condition.parts, condition.rebuilding), (400, false));
    put(&store, keys[300]).await.unwrap();
    assert_eq!(store.condition(volume).await.unwrap().damaged, []);
    disk.close().await;
}
