//! A disk in a directory: what is acknowledged is there, through crashes, rot and a lost index.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use proto::checksum::Checked;
use proto::id::{
    BlobId, ClusterId, Generation, GroupId, PartKey, SessionId, SlotId, VolumeId,
};
use proto::part_store::{FillLevel, PartError, PartStore};
use storaged::{Disk, DiskOptions, InitOptions, init_disk};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
const SMALL: InitOptions = InitOptions { capacity: Some(96 * MIB), block_file: 16 * MIB };

fn fresh() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    init_disk(&dir.path().join("d"), ClusterId::random(), SMALL).unwrap();
    dir
}

fn open(dir: &Path) -> Arc<Disk> {
    Disk::open(&dir.join("d"), DiskOptions::default()).unwrap()
}

fn slot(disk: &Arc<Disk>) -> Arc<dyn PartStore> {
    disk.slot(SlotId(0), GroupId(0), Generation(1))
}

fn key(sequence: u64, len: u32) -> PartKey {
    let scheme = "copies(3)".parse().unwrap();
    let blob = BlobId::new(VolumeId(1), SessionId(1), sequence, len, scheme).unwrap();
    PartKey::new(blob, 1).unwrap()
}

/// Bytes that depend on the key alone.
fn content(key: PartKey) -> Bytes {
    let seed = key.blob.sequence().wrapping_mul(0x9e37_79b9_7f4a_7c15) + key.part.get() as u64;
    let bytes = (0..key.blob.part_len()).map(|i| (seed >> (i % 56)) as u8 ^ (i >> 8) as u8);
    bytes.collect::<Vec<u8>>().into()
}

async fn put(slot: &Arc<dyn PartStore>, key: PartKey) -> Result<(), PartError> {
    slot.put(key, Checked::compute(content(key))).await
}

async fn get(slot: &Arc<dyn PartStore>, key: PartKey) -> Result<Bytes, PartError> {
    slot.get(key, 0..key.blob.part_len()).await
}

/// What a crash leaves: the files as they are now.
fn copy(from: &Path, to: &Path) {
    let script = "cp -a --sparse=always \"$0\" \"$1\"";
    let done = std::process::Command::new("sh").arg("-c").arg(script).arg(from).arg(to).status();
    assert!(done.unwrap().success());
}

const LENGTHS: [u32; 9] = [1, 100, 4000, 4001, 4096, 65_536, 65_537, 300_000, 1 << 20];

async fn check_all(store: &Arc<dyn PartStore>) {
    for (n, len) in LENGTHS.iter().enumerate() {
        let key = key(n as u64, *len);
        assert_eq!(get(store, key).await.unwrap(), content(key), "{len}");
        for range in [0..1, len / 2..*len, len - 1..*len] {
            let want = content(key).slice(range.start as usize..range.end as usize);
            assert_eq!(store.get(key, range).await.unwrap(), want);
        }
    }
    assert_eq!(store.get(key(99, 5), 0..5).await, Err(PartError::NotFound));
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_are_there_whole_and_by_range_also_after_a_restart_or_a_crash() {
    let dir = fresh();
    let crashed = tempfile::tempdir().unwrap();
    {
        let store = slot(&open(dir.path()));
        for (n, len) in LENGTHS.iter().enumerate() {
            put(&store, key(n as u64, *len)).await.unwrap();
        }
        check_all(&store).await;
        copy(&dir.path().join("d"), &crashed.path().join("d"));
    }
    check_all(&slot(&open(dir.path()))).await;
    check_all(&slot(&open(crashed.path()))).await;
    for damage in [&b""[..], b"not a database", b"redb\x1a\x0a\xa9\x0d\x0a"] {
        std::fs::write(crashed.path().join("d/index.redb"), damage).unwrap();
        check_all(&slot(&open(crashed.path()))).await;
    }
    std::fs::remove_file(crashed.path().join("d/index.redb")).unwrap();
    check_all(&slot(&open(crashed.path()))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_bytes_again_are_fine_and_others_a_conflict() {
    let dir = fresh();
    let disk = open(dir.path());
    let store = slot(&disk);
    let key = key(1, 100_000);
    put(&store, key).await.unwrap();
    put(&store, key).await.unwrap();
    let other = Checked::compute(vec![1; 100_000].into());
    assert_eq!(store.put(key, other).await, Err(PartError::Conflict));
    store.delete(&[key.blob]).await.unwrap();
    store.delete(&[key.blob]).await.unwrap();
    assert_eq!(put(&store, key).await, Err(PartError::Deleted));
    let held = store.held(key.blob).await.unwrap();
    assert!(held.deleted && held.parts.is_empty());
    assert_eq!(store.fill().await.unwrap().level, FillLevel::Green);
}
