//! Rotten bytes are never returned.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::*;

/// Flips a byte of the log while nobody reads, asks, and flips it back.
#[tokio::test(flavor = "multi_thread")]
async fn no_flipped_byte_is_ever_served() {
    let dir = fresh();
    let disk = open(dir.path());
    let store = slot(&disk);
    // The first record is the slot's; these follow, with their tables and payloads.
    let keys = [key(1, 500), key(2, 150_000)];
    for key in keys {
        put(&store, key).await.unwrap();
    }
    let file = File::options().read(true).write(true).open(dir.path().join("d/blocks/00000001"));
    let file = file.unwrap();
    let header: Vec<u64> = (4096..4096 + 704).chain(8192..8192 + 124).collect();
    let payload = (12_288..12_288 + 150_000u64).step_by(4099);
    let mut corrupt = 0;
    for at in header.into_iter().chain(payload) {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x41], at).unwrap();
        for key in keys {
            match get(&store, key).await {
                Ok(data) => assert_eq!(data, content(key), "byte {at}"),
                Err(PartError::Corrupt(_)) => corrupt += 1,
                Err(e) => panic!("byte {at}: {e}"),
            }
        }
        file.write_all_at(&byte, at).unwrap();
    }
    // 96 + 4 + 500 bytes of the first record, and of the second what its cached table does not
    // answer: every payload sample.
    assert!(corrupt >= 600 + 37, "only {corrupt} flips were noticed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotten_part_is_mended_by_putting_it_again() {
    let dir = fresh();
    let disk = open(dir.path());
    let store = slot(&disk);
    let key = key(1, 150_000);
    put(&store, key).await.unwrap();
    let file = File::options().write(true).open(dir.path().join("d/blocks/00000001")).unwrap();
    file.write_all_at(b"rot", 8192 + 70_000).unwrap();
    assert!(matches!(get(&store, key).await, Err(PartError::Corrupt(_))));
    assert_eq!(store.get(key, 0..100).await.unwrap(), content(key).slice(..100));
    put(&store, key).await.unwrap();
    assert_eq!(get(&store, key).await.unwrap(), content(key));
    drop((store, disk));
    std::fs::remove_file(dir.path().join("d/index.redb")).unwrap();
    let store = slot(&open(dir.path()));
    assert_eq!(get(&store, key).await.unwrap(), content(key));
}

#[tokio::test(flavor = "multi_thread")]
async fn rot_in_the_middle_of_a_log_costs_only_what_it_hit() {
    let dir = fresh();
    let disk = open(dir.path());
    let store = slot(&disk);
    for n in 0..20 {
        put(&store, key(n, 1000)).await.unwrap();
    }
    drop((store, disk));
    let file = File::options().write(true).open(dir.path().join("d/blocks/00000001")).unwrap();
    file.write_all_at(b"rot", 4096 * 5 + 30).unwrap();
    std::fs::remove_file(dir.path().join("d/index.redb")).unwrap();
    let store = slot(&open(dir.path()));
    for n in 0..20 {
        let got = get(&store, key(n, 1000)).await;
        if n == 4 {
            assert_eq!(got, Err(PartError::NotFound));
        } else {
            assert_eq!(got.unwrap(), content(key(n, 1000)));
        }
    }
}
