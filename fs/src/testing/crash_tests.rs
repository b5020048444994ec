//! What an acknowledged fsync promises, and what a crash may leave behind.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use meta::Ino;
use proto::id::{BlobId, GroupId, SessionId};

use super::*;
use crate::error::DataError;

#[tokio::test(start_paused = true)]
async fn what_was_synced_survives_a_crash_and_what_was_not_is_swept() {
    for seed in 1..=20 {
        println!("seed {seed}");
        let mut random = Random(seed);
        let world = World::new(small());
        world.blobs.inner.lock().delay = Duration::from_millis(5);
        world.meta.create_file(Ino(2));
        world.meta.create_file(Ino(3));
        meta::MetaStore::sync(&*world.meta).await.unwrap();
        let mut synced: Vec<u8> = Vec::new();
        for round in 0..1 + random.below(6) {
            let at = synced.len() as u64;
            let len = 1 + random.below(300_000) as usize;
            let bytes = random.bytes(len);
            world.write(Ino(2), at, &bytes).await;
            let len = random.below(2 << 20) as usize;
            let noise = random.bytes(len);
            world.write(Ino(3), round * 1_000_000, &noise).await;
            world.data.fsync(Ino(2)).await.unwrap();
            synced.extend(bytes);
        }
        let noise = random.bytes(3 << 20);
        world.write(Ino(3), 0, &noise).await;
        world.write(Ino(2), synced.len() as u64, b"never synced").await;
        // Blobs are put and committed, but no metadata are synced.
        let flushed = random.below(2) == 0;
        if flushed {
            world.data.flush_file(Ino(3)).await.unwrap();
        }
        let after = Arc::new(world.meta.after_crash());
        world.blobs.inner.lock().stalled = true;
        let blobs = Arc::new(MemoryBlobs::new());
        blobs.inner.lock().blobs = world.blobs.inner.lock().blobs.clone();
        let again = World::over(after.clone(), blobs.clone(), small());
        let got = again.read(Ino(2), 0, 8 << 20).await;
        assert!(got[..synced.len()] == synced);
        tokio::time::sleep(Duration::from_secs(10)).await;
        meta::MetaStore::sync(&*after).await.unwrap();
        tokio::time::sleep(Duration::from_secs(10)).await;
        let stored: Vec<_> = blobs.inner.lock().blobs.keys().copied().collect();
        assert_eq!(stored, after.known(), "no blob is left that nothing knows");
        assert!(meta::MetaStore::dead_sessions(&*after).await.unwrap().is_empty());
        assert!(again.read(Ino(2), 0, 8 << 20).await[..synced.len()] == synced);
    }
}

#[tokio::test(start_paused = true)]
async fn fsync_fails_while_bytes_are_not_stored_and_succeeds_once_they_are() {
    let world = World::new(small());
    world.meta.create_file(Ino(2));
    world.write(Ino(2), 0, b"precious").await;
    world.blobs.inner.lock().failing_puts = usize::MAX;
    for _ in 0..3 {
        let failed = world.data.fsync(Ino(2)).await;
        assert!(matches!(failed, Err(DataError::Unavailable(_))));
        assert!(world.data.status().last_error.is_some());
        assert_eq!(world.read(Ino(2), 0, 100).await, "precious");
    }
    world.blobs.inner.lock().failing_puts = 0;
    world.data.fsync(Ino(2)).await.unwrap();
    assert_eq!(world.data.status().last_error, None);
    let again = World::over(Arc::new(world.meta.after_crash()), world.blobs.clone(), small());
    assert_eq!(again.read(Ino(2), 0, 100).await, "precious");
}

#[tokio::test(start_paused = true)]
async fn bytes_reach_the_store_by_themselves_also_after_failures() {
    let world = World::new(small());
    world.meta.create_file(Ino(2));
    world.blobs.inner.lock().failing_puts = 3;
    world.write(Ino(2), 0, b"precious").await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(world.data.status().dirty_bytes, 0);
    assert_eq!(world.meta.size(Ino(2)), 8);
    assert_eq!(world.data.pending(Ino(2)), None);
}

#[tokio::test(start_paused = true)]
async fn an_older_write_in_flight_counts_although_a_newer_one_came() {
    let world = World::new(small());
    world.meta.create_file(Ino(2));
    world.write(Ino(2), 0, &[1; 9000]).await;
    world.blobs.inner.lock().stalled = true;
    let sync = |data: Arc<Data>| tokio::spawn(async move { data.fsync(Ino(2)).await });
    let first = sync(world.data.clone());
    tokio::time::sleep(Duration::from_millis(5)).await;
    world.write(Ino(2), 4000, &[2; 9000]).await;
    let second = sync(world.data.clone());
    tokio::time::sleep(Duration::from_millis(5)).await;
    world.blobs.resume();
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
    let again = World::over(Arc::new(world.meta.after_crash()), world.blobs.clone(), small());
    let got = again.read(Ino(2), 0, 20_000).await;
    assert!(got[..4000] == [1; 4000] && got[4000..] == [2; 9000]);
}

/// A world in which a blob was put, and metadata as if its commit had been lost.
async fn crashed_with_an_orphan() -> (World, Arc<MemoryMeta>) {
    let world = World::new(small());
    world.meta.create_file(Ino(2));
    meta::MetaStore::sync(&*world.meta).await.unwrap();
    world.write(Ino(2), 0, &[1; 9000]).await;
    world.data.flush_file(Ino(2)).await.unwrap();
    let after = Arc::new(world.meta.after_crash());
    (world, after)
}

#[tokio::test(start_paused = true)]
async fn what_a_slot_holds_that_is_away_is_swept_when_it_is_back() {
    let (world, after) = crashed_with_an_orphan().await;
    let lost = *world.blobs.inner.lock().blobs.keys().next().unwrap();
    world.blobs.inner.lock().unlisted.insert(lost);
    let again = World::over(after.clone(), world.blobs.clone(), small());
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(world.blobs.inner.lock().blobs.contains_key(&lost));
    world.blobs.inner.lock().unlisted.clear();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    meta::MetaStore::sync(&*after).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(!world.blobs.inner.lock().blobs.contains_key(&lost), "its room is not leaked");
    assert!(meta::MetaStore::dead_sessions(&*after).await.unwrap().is_empty());
    again.data.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_dead_session_is_swept_once_the_store_can_be_listed() {
    let (world, after) = crashed_with_an_orphan().await;
    world.blobs.inner.lock().listing_fails = true;
    let again = World::over(after.clone(), world.blobs.clone(), small());
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(meta::MetaStore::dead_sessions(&*after).await.unwrap().len(), 1);
    world.blobs.inner.lock().listing_fails = false;
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert!(meta::MetaStore::dead_sessions(&*after).await.unwrap().is_empty());
    again.data.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_dies_elsewhere_is_swept_at_once_and_once_more_for_what_was_on_its_way() {
    let world = World::new(small());
    let elsewhere = SessionId(9);
    let volume = meta::MetaStore::volume(&*world.meta);
    let put = |sequence| {
        let (id, group, scheme) = (volume.id, GroupId(0), volume.scheme);
        let id = BlobId::new(id, elsewhere, sequence, group, 5000, scheme).unwrap();
        world.blobs.inner.lock().blobs.insert(id, Bytes::from(vec![1; 5000]));
        id
    };
    let gone = async |id: BlobId| {
        tokio::time::sleep(Duration::from_secs(10)).await;
        meta::MetaStore::sync(&*world.meta).await.unwrap();
        tokio::time::sleep(Duration::from_secs(10)).await;
        !world.blobs.inner.lock().blobs.contains_key(&id)
    };
    let first = put(1);
    assert!(!gone(first).await, "it is at work");
    world.meta.die(elsewhere);
    world.data.session_died(elsewhere);
    assert!(gone(first).await);
    let late = put(2);
    assert!(!gone(late).await, "nobody looks for it yet");
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(gone(late).await);
    assert!(meta::MetaStore::dead_sessions(&*world.meta).await.unwrap().is_empty());
    world.data.stop().await.unwrap();
}
