//! Space: what is promised can be put, what is deleted comes back, a full disk still deletes.

use super::*;

/// Puts parts of `len` until the disk is full; answers their number.
async fn fill(store: &Arc<dyn PartStore>, from: u64, len: u32) -> u64 {
    for n in from.. {
        match put(store, key(n, len)).await {
            Ok(()) => {}
            Err(PartError::Full) => return n - from,
            Err(e) => panic!("{n}: {e}"),
        }
    }
    unreachable!("a disk is finite")
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_rounds_of_fill_and_delete_do_not_shrink_the_disk() {
    let dir = fresh();
    let disk = open(dir.path());
    let store = slot(&disk);
    let available = store.fill().await.unwrap().available;
    let mut from = 0;
    for round in 0..50 {
        let len = [1 << 20, 300_000, 1_500_000][round % 3];
        let count = fill(&store, from, len).await;
        // Record bytes: the part, rounded up, and its header block.
        let taken = count * (u64::from(len).next_multiple_of(4096) + 4096);
        assert!(taken + 2 * MIB > available, "round {round}: {taken} of {available}");
        let blobs: Vec<BlobId> = (from..from + count).map(|n| key(n, len).blob).collect();
        store.delete(&blobs, None).await.unwrap();
        store.forget(&blobs, None).await.unwrap();
        from += count;
    }
    assert_eq!(disk.state().parts, 0);
    let on_disk: u64 = std::fs::read_dir(dir.path().join("d/blocks"))
        .unwrap()
        .map(|file| {
            std::os::unix::fs::MetadataExt::blocks(&file.unwrap().metadata().unwrap()) * 512
        })
        .sum();
    assert!(on_disk <= 96 * MIB, "{on_disk} bytes are allocated");
}

#[tokio::test(flavor = "multi_thread")]
async fn small_parts_come_back_through_compaction_and_survive_a_rebuild() {
    let dir = fresh();
    let mut disk = open(dir.path());
    let mut store = slot(&disk);
    let (mut live, mut next): (Vec<PartKey>, u64) = (Vec::new(), 0);
    let mut deleted = Vec::new();
    for round in 0..6 {
        let count = fill(&store, next, 20_000).await;
        live.extend((next..next + count).map(|n| key(n, 20_000)));
        next += count;
        // Two of three go, scattered over all files.
        let (kept, gone): (Vec<PartKey>, Vec<PartKey>) =
            live.iter().partition(|key| key.blob.sequence() % 3 == round % 3);
        for blobs in gone.chunks(1000) {
            let blobs: Vec<BlobId> = blobs.iter().map(|key| key.blob).collect();
            store.delete(&blobs, None).await.unwrap();
            if round % 2 == 0 {
                store.forget(&blobs, None).await.unwrap();
            }
        }
        deleted = gone;
        live = kept;
        drop((store, disk));
        if round % 3 == 2 {
            std::fs::remove_file(dir.path().join("d/index.redb")).unwrap();
        }
        disk = open(dir.path());
        store = slot(&disk);
        assert_eq!(disk.state().parts, live.len() as u64, "round {round}");
        for key in &live {
            assert_eq!(get(&store, *key).await.unwrap(), content(*key), "round {round}");
        }
        for key in deleted.iter().step_by(17) {
            let got = get(&store, *key).await;
            assert!(matches!(got, Err(PartError::Deleted | PartError::NotFound)), "{got:?}");
        }
    }
    assert!(next > 3 * 1000 && !deleted.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_still_takes_deletes_and_says_that_it_is_full() {
    let dir = fresh();
    let disk = open(dir.path());
    let store = slot(&disk);
    let count = fill(&store, 0, 4000).await;
    let state = store.fill().await.unwrap();
    assert!(state.available < 4096 && state.level >= proto::part_store::FillLevel::Orange);
    for n in 0..count / 2 {
        store.delete(&[key(n, 4000).blob], None).await.unwrap();
        if n == 2000 {
            break;
        }
    }
    assert!(fill(&store, count, 4000).await >= 1000);
}

/// Payload lengths of the delete records in the block files.
fn delete_records(dir: &Path) -> Vec<u32> {
    let mut found = Vec::new();
    for file in std::fs::read_dir(dir.join("d/blocks")).unwrap() {
        let image = std::fs::read(file.unwrap().path()).unwrap();
        for block in image.chunks(4096) {
            if block.starts_with(b"ASHLREC\n") && block[10] == 2 {
                found.push(u32::from_le_bytes(block[52..56].try_into().unwrap()));
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn compaction_puts_many_remembered_deletes_into_one_record() {
    let dir = fresh();
    let disk = open(dir.path());
    let store = slot(&disk);
    let gone: Vec<PartKey> = (0..300).map(|n| key(n, 100)).collect();
    for key in &gone {
        put(&store, *key).await.unwrap();
        store.delete(&[key.blob], None).await.unwrap();
    }
    assert_eq!(delete_records(dir.path()), [31; 300]);
    // The disk fills up until the first file is emptied.
    let mut from = 1000;
    while dir.path().join("d/blocks/00000001").exists() {
        let next = from + fill(&store, from, 60_000).await;
        let blobs: Vec<BlobId> = (from..next).map(|n| key(n, 60_000).blob).collect();
        for blobs in blobs.chunks(1000) {
            store.delete(blobs, None).await.unwrap();
            store.forget(blobs, None).await.unwrap();
        }
        from = next;
        assert!(from < 20_000, "the first file is never emptied");
    }
    let records = delete_records(dir.path());
    assert!(records.contains(&(300 * 31)) && !records.contains(&31), "{records:?}");
    drop((store, disk));
    std::fs::remove_file(dir.path().join("d/index.redb")).unwrap();
    let store = slot(&open(dir.path()));
    for key in gone {
        assert_eq!(put(&store, key).await, Err(PartError::Deleted));
    }
}
