//! Crashes: a log cut anywhere, a directory as it was at some moment, a lost index.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::*;

/// The one block file of a small disk.
fn log(dir: &Path) -> std::path::PathBuf {
    dir.join("d/blocks/00000001")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_cut_anywhere_in_its_last_batch_keeps_exactly_the_whole_records() {
    let dir = fresh();
    let disk = open(dir.path());
    let store = slot(&disk);
    let keys = [key(1, 9000), key(2, 100), key(3, 5000), key(4, 70_000), key(5, 4090)];
    put(&store, keys[0]).await.unwrap();
    // All at once: one batch, most likely; every cut must hold whether or not it is.
    let puts = keys[1..].iter().map(|key| put(&store, *key));
    for done in futures::future::join_all(puts).await {
        done.unwrap();
    }
    let crashed = tempfile::tempdir().unwrap();
    copy(&dir.path().join("d"), &crashed.path().join("d"));
    let index_path = crashed.path().join("d/index.redb");
    let (image, index) =
        (std::fs::read(log(crashed.path())).unwrap(), std::fs::read(&index_path).unwrap());
    let used = image.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    // Every block boundary and its neighbours, and a sample of what lies between.
    let cuts = (0..used).filter(|at| at % 4096 < 2 || at % 4096 == 4095 || at % 1009 == 0);
    for (round, cut) in cuts.enumerate() {
        let mut torn = image[..cut].to_vec();
        torn.resize(image.len(), 0);
        std::fs::write(log(crashed.path()), &torn).unwrap();
        if round % 3 == 0 {
            std::fs::remove_file(&index_path).unwrap();
        } else {
            std::fs::write(&index_path, &index).unwrap();
        }
        let disk = open(crashed.path());
        let store = slot(&disk);
        let (mut lost, mut sequence_of_lost) = (false, Vec::new());
        for key in keys {
            match get(&store, key).await {
                Ok(data) => {
                    assert_eq!(data, content(key), "cut at {cut}");
                    assert!(!lost, "cut at {cut}: {key} is there after a loss");
                }
                // What the slot knows of its group may be cut off, too.
                Err(PartError::NotFound | PartError::NotRebuilt) => {
                    lost = true;
                    sequence_of_lost.push(key);
                }
                Err(e) => panic!("cut at {cut}: {key}: {e}"),
            }
        }
        // The disk goes on, and what is put again stays.
        for key in sequence_of_lost {
            put(&store, key).await.unwrap();
            assert_eq!(get(&store, key).await.unwrap(), content(key));
        }
        drop((store, disk));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn remains_of_a_torn_batch_never_come_back() {
    let dir = fresh();
    let crashed = tempfile::tempdir().unwrap();
    let (first, second) = (key(1, 9000), key(2, 9000));
    {
        let disk = open(dir.path());
        let store = slot(&disk);
        let (a, b) = futures::join!(put(&store, first), put(&store, second));
        a.and(b).unwrap();
        copy(&dir.path().join("d"), &crashed.path().join("d"));
    }
    // The payload of the first is torn: both are of a batch, so both go (or neither was one).
    let file = File::options().read(true).write(true).open(log(crashed.path())).unwrap();
    let mut block = vec![0; 4096];
    let mut at = 0;
    while !(block.starts_with(b"ASHLREC\n") && block[10] == 1) {
        file.read_exact_at(&mut block, at).unwrap();
        at += 4096;
    }
    file.write_all_at(&[9; 100], at + 10).unwrap();
    for _ in 0..2 {
        let _ = std::fs::remove_file(crashed.path().join("d/index.redb"));
        let disk = open(crashed.path());
        let store = slot(&disk);
        let state = [get(&store, first).await, get(&store, second).await];
        for (key, got) in [first, second].into_iter().zip(state) {
            match got {
                Ok(data) => assert_eq!(data, content(key)),
                Err(PartError::NotFound) | Err(PartError::Corrupt(_)) => {}
                Err(e) => panic!("{e}"),
            }
        }
        drop((store, disk));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_brings_no_deleted_part_back() {
    let dir = fresh();
    let disk = open(dir.path());
    let store = slot(&disk);
    for n in 0..200 {
        put(&store, key(n, 3000 + n as u32 * 500)).await.unwrap();
    }
    let gone: Vec<BlobId> =
        (0..200).step_by(3).map(|n| key(n, 3000 + n as u32 * 500).blob).collect();
    store.delete(&gone, None).await.unwrap();
    store.forget(&gone[..10], None).await.unwrap();
    drop((store, disk));
    for _ in 0..2 {
        std::fs::remove_file(dir.path().join("d/index.redb")).unwrap();
        let disk = open(dir.path());
        let store = slot(&disk);
        for n in 0..200 {
            let key = key(n, 3000 + n as u32 * 500);
            let got = get(&store, key).await;
            if gone.contains(&key.blob) {
                assert_eq!(got, Err(PartError::Deleted));
                assert_eq!(put(&store, key).await, Err(PartError::Deleted));
            } else {
                assert_eq!(got.unwrap(), content(key));
            }
        }
        assert_eq!(disk.state().parts, 133);
    }
}
