//! Faults that concern one thing: damaged metadata, and panics. All else goes on, and nobody waits for
//! what will not come.

use std::time::Duration;

use meta::{Ino, MetaStore};
use proto::guard::{caught, caught_in};
use proto::id::{BlobId, GroupId, SessionId, VolumeId};
use proto::limits::MAX_LIST;
use proto::scheme::Scheme;

use super::*;
use crate::error::DataError;

/// Longer than anything here may take.
const BOUND: Duration = Duration::from_secs(60);
/// Calls of the store that can be told to panic.
const GET: usize = 0;
const PUT: usize = 1;
const DELETE: usize = 2;

#[tokio::test(start_paused = true)]
async fn a_damaged_inode_costs_no_other_file_its_bytes() {
    let world = World::new(small());
    (2..8).for_each(|ino| world.meta.create_file(Ino(ino)));
    world.meta.damage(Ino(4));
    for ino in 2..8 {
        world.write(Ino(ino), 0, &[ino as u8; 9000]).await;
    }
    for ino in [2, 3, 5, 6, 7] {
        world.data.fsync(Ino(ino)).await.unwrap();
    }
    let told = world.data.sync_all().await;
    assert!(matches!(&told, Err(DataError::Gone(why)) if why.contains("inode 4")), "{told:?}");
    assert_eq!(world.data.sync_all().await, Ok(()), "it was told");
    assert_eq!(world.data.status().dirty_bytes, 0, "lost bytes keep no memory");
    for ino in [2, 3, 5, 6, 7] {
        assert!(world.read(Ino(ino), 0, 20_000).await == vec![ino as u8; 9000]);
    }
    let late = world.data.write(Ino(4), 0, vec![1; 10].into(), Time::default()).await;
    assert!(matches!(late, Err(DataError::Meta(meta::MetaError::Damaged(_)))), "{late:?}");
    assert!(world.data.fsync(Ino(4)).await.is_err());
    assert!(world.data.read(Ino(4), 0..10).await.is_err());
    world.data.discard(Ino(4));
    world.data.stop().await.unwrap();
}

/// All files of one blob, of which one is damaged, sent by the flusher itself.
#[tokio::test(start_paused = true)]
async fn the_flusher_stores_what_shares_a_blob_with_damage() {
    let world = World::new(small());
    (2..50).for_each(|ino| world.meta.create_file(Ino(ino)));
    (2..50).step_by(7).for_each(|ino| world.meta.damage(Ino(ino)));
    for ino in 2..50 {
        world.write(Ino(ino), 0, &[ino as u8; 5000]).await;
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(world.data.status().dirty_bytes, 0);
    for ino in (2..50u64).filter(|ino| (ino - 2) % 7 > 0) {
        assert_eq!(world.meta.size(Ino(ino)), 5000, "inode {ino}");
    }
    let puts = world.blobs.inner.lock().puts;
    tokio::time::sleep(BOUND).await;
    assert_eq!(world.blobs.inner.lock().puts, puts, "nothing is tried again and again");
    assert!(matches!(world.data.stop().await, Err(DataError::Gone(_))), "the end says so");
}

#[tokio::test(start_paused = true)]
async fn a_read_that_panics_fails_and_the_next_one_succeeds() {
    let world = World::new(small());
    world.meta.create_file(Ino(2));
    world.write(Ino(2), 0, &[7; 300_000]).await;
    world.data.fsync(Ino(2)).await.unwrap();
    world.blobs.inner.lock().panics[GET] = 1;
    // So that both wait for it.
    world.blobs.inner.lock().delay = Duration::from_millis(1);
    let reading = || tokio::time::timeout(BOUND, world.data.read(Ino(2), 0..100));
    let (first, second) = tokio::join!(reading(), reading());
    for read in [first, second] {
        let error = read.expect("nobody waits for ever").unwrap_err();
        assert!(error.to_string().contains("panicked"), "{error}");
    }
    assert!(reading().await.unwrap().unwrap() == [7; 100][..], "the bytes are there");
    world.data.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn bytes_of_a_put_that_panics_are_stored_by_the_next() {
    let world = World::new(small());
    (2..4).for_each(|ino| world.meta.create_file(Ino(ino)));
    world.write(Ino(2), 0, &[7; 9000]).await;
    world.blobs.inner.lock().panics[PUT] = 1;
    let synced = caught_in("a sync", world.data.fsync(Ino(2))).await;
    assert!(synced.is_err(), "the panic is the caller's");
    let again = tokio::time::timeout(BOUND, world.data.fsync(Ino(2)));
    again.await.expect("nobody waits for what has panicked").unwrap();
    assert_eq!(world.meta.size(Ino(2)), 9000);
    // And the flusher's own.
    world.blobs.inner.lock().panics[PUT] = 2;
    world.write(Ino(3), 0, &[8; 9000]).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(world.meta.size(Ino(3)), 9000);
    assert!(world.data.has_leaked(), "what was put and is not named is swept");
    world.data.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_cleaner_goes_on_after_a_panic() {
    let world = World::new(small());
    world.meta.create_file(Ino(2));
    world.write(Ino(2), 0, &[7; 9000]).await;
    world.data.fsync(Ino(2)).await.unwrap();
    world.data.truncate(Ino(2), 0).await.unwrap();
    world.meta.sync().await.unwrap();
    world.blobs.inner.lock().panics[DELETE] = 2;
    tokio::time::sleep(BOUND).await;
    assert_eq!(world.blobs.used(), 0, "what is garbage is deleted");
    world.data.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_change_that_panics_half_way_costs_its_file_what_is_not_stored() {
    let world = World::new(small());
    (2..4).for_each(|ino| world.meta.create_file(Ino(ino)));
    world.write(Ino(3), 0, &[8; 9000]).await;
    world.write(Ino(2), 0, &[7; 9000]).await;
    let open_inode = world.data.open_inodes.open(Ino(2));
    let changed = caught("a change", || {
        world.data.change(&open_inode, &mut open_inode.state.lock(), 0, |ranges| {
            ranges.cut(0..5000);
            panic!("half way");
        })
    });
    assert!(changed.is_err());
    assert!(matches!(world.data.read(Ino(2), 0..9000).await, Err(DataError::Gone(_))));
    assert!(world.data.write(Ino(2), 0, vec![1; 9].into(), Time::default()).await.is_err());
    let synced = tokio::time::timeout(BOUND, world.data.sync_all()).await.unwrap();
    assert!(matches!(synced, Err(DataError::Gone(_))), "{synced:?}");
    assert_eq!(world.data.status().dirty_bytes, 0, "memory is accounted for");
    assert!(world.read(Ino(3), 0, 20_000).await == vec![8; 9000]);
    world.data.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_session_of_many_blobs_is_swept_page_by_page() {
    let session = SessionId(1);
    let blob = |sequence| {
        let scheme = Scheme::copies(3).unwrap();
        BlobId::new(VolumeId(1), session, sequence, GroupId(0), 1, scheme).unwrap()
    };
    let before = MemoryMeta::new();
    assert_eq!(before.session, session);
    let known: Vec<_> = (1..40_000).filter(|sequence| sequence % 3 > 0).map(blob).collect();
    before.adopt_garbage(&known).await.unwrap();
    before.sync().await.unwrap();
    let after = Arc::new(before.after_crash());
    let blobs = Arc::new(MemoryBlobs::new());
    {
        let mut inner = blobs.inner.lock();
        // Metadata knows some that the store has not, and the store some that metadata has not.
        let stored = (1..50_000).filter(|sequence| sequence % 5 > 0).map(blob);
        inner.blobs = stored.map(|id| (id, Bytes::from_static(b"x"))).collect();
        inner.deletes_unconfirmed = true;
    }
    let world = World::over(after.clone(), blobs.clone(), small());
    let swept = async {
        while !after.dead_sessions().await.unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(BOUND, swept).await.expect("a session is swept at last");
    let expected = |sequence: &u64| {
        !sequence.is_multiple_of(5) || (*sequence < 40_000 && !sequence.is_multiple_of(3))
    };
    let expected: Vec<_> = (1..50_000).filter(expected).map(blob).collect();
    let known = after.known();
    assert!(known == expected, "{} blobs are known, not {}", known.len(), expected.len());
    let listed = blobs.inner.lock().listed.clone();
    assert!(listed.len() > 8 && listed.iter().all(|page| *page <= MAX_LIST as usize), "{listed:?}");
    drop(world);
}
