//! Memory and space: both are bounded, and both come back.

use std::collections::HashSet;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use meta::{Ino, MetaStore, Time, Usage};
use proto::id::{BlobId, GroupId, SessionId, VolumeId};
use proto::limits::TARGET_BLOB;
use proto::scheme::Scheme;
use proxy::Space;

use super::*;
use crate::data::space::StoreRoom;
use crate::data::{Housekeeping, TryWrite};
use crate::error::DataError;

const NOW: Time = Time { secs: 1, nanos: 0 };

#[tokio::test(start_paused = true)]
async fn memory_stays_bounded_while_the_store_stalls() {
    let world = World::new(small());
    for ino in 2..6 {
        world.meta.create_file(Ino(ino));
    }
    world.blobs.inner.lock().stalled = true;
    let limit = small().dirty_bytes;
    let mut random = Random(7);
    let mut refused = 0;
    for _ in 0..20_000 {
        let bytes = random.bytes(4096);
        let (ino, page) = (Ino(2 + random.below(4)), random.below(100_000));
        if world.data.try_write(ino, page * 4096, &bytes, NOW).unwrap() == TryWrite::Full {
            refused += 1;
        }
        assert!(world.data.status().dirty_bytes <= limit);
    }
    assert!(refused > 10_000);
    let stalled = world.data.write(Ino(2), 0, vec![1; 5 << 20].into(), NOW).await;
    assert!(matches!(stalled, Err(DataError::Unavailable(why)) if why.contains("slow")));
    assert!(world.data.status().dirty_bytes <= limit);
    world.blobs.resume();
    world.write(Ino(2), 0, &[1; 5 << 20]).await;
    world.data.sync_all().await.unwrap();
    assert_eq!(world.data.status().dirty_bytes, 0);
}

#[tokio::test(start_paused = true)]
async fn a_full_store_says_so_at_write_and_takes_more_after_a_delete() {
    let world = World::new(small());
    world.blobs.inner.lock().capacity = Some(64 << 20);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut files = 0;
    let full = loop {
        world.meta.create_file(Ino(10 + files));
        let written = world.data.write(Ino(10 + files), 0, vec![1; 1 << 20].into(), NOW).await;
        if let Err(error) = written {
            break error;
        }
        files += 1;
        assert!(files < 64);
    };
    assert_eq!(full, DataError::NoSpace);
    assert!(files > 40, "{files} MiB of 64 could be written");
    world.data.sync_all().await.unwrap();
    assert!(world.blobs.used() <= 64 << 20);
    for ino in 0..files / 2 {
        world.meta.remove_file(Ino(10 + ino));
        world.data.discard(Ino(10 + ino));
    }
    for ino in 0..files / 2 - 4 {
        world.meta.create_file(Ino(100 + ino));
        world.write(Ino(100 + ino), 0, &[1; 1 << 20]).await;
    }
    world.data.sync_all().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn on_a_full_volume_names_are_made_as_long_as_metadata_have_room_of_their_own() {
    let room = StoreRoom::new(Scheme::erasure(4, 2).unwrap());
    let (capacity, blob) = (1 << 30, TARGET_BLOB);
    let store = |available| Space { capacity, available, blob, takers: 6, ..Space::default() };
    room.learn(store(capacity), &Usage::default(), 0);
    let full = room.limit().unwrap();
    let usage = Usage { live_bytes: full, disk_bytes: full / 4 * 6, ..Usage::default() };
    // The store is a log: now and then there is a little less of it than there was.
    for lost in 0..16 {
        tokio::time::advance(Duration::from_secs(60)).await;
        room.learn(store(capacity - full - (lost << 20)), &usage, 1 << 20);
        assert_eq!(room.admit_names(), Ok(()), "{lost} MiB fewer");
    }
    // Beyond their share they take of what is kept back, a little.
    tokio::time::advance(Duration::from_secs(60)).await;
    let share = capacity / 12 / 4 * 6;
    room.learn(store(capacity - full - capacity / 12 - (32 << 20)), &usage, share + (48 << 20));
    assert_eq!(room.admit_names(), Err(DataError::NoSpace));
}

#[tokio::test(start_paused = true)]
async fn disks_that_went_a_moment_ago_are_waited_for_before_anything_is_refused() {
    let room = StoreRoom::new(Scheme::erasure(4, 2).unwrap());
    let (capacity, blob) = (1 << 30, TARGET_BLOB);
    let store = |takers| Space { capacity, blob, takers, needed: 3, ..Space::default() };
    let learn = |takers| room.learn(store(takers), &Usage::default(), 0);
    let (short, long) = (Duration::from_millis(1900), Duration::from_secs(2));
    for _ in 0..2 {
        learn(2);
        tokio::time::advance(short).await;
        learn(2);
        assert!(room.is_cut_off() && room.is_just_cut_off());
        // They are back, and go again.
        learn(6);
        assert!(!room.is_cut_off() && !room.is_just_cut_off());
    }
    learn(2);
    tokio::time::advance(long).await;
    learn(2);
    assert!(room.is_cut_off() && !room.is_just_cut_off());
}

/// Neither at once, when the store is taken for as large as it was a moment ago, nor later.
#[tokio::test(start_paused = true)]
async fn what_is_shown_as_used_is_what_files_have_however_few_disks_take_writes() {
    let room = StoreRoom::new(Scheme::erasure(4, 2).unwrap());
    let (capacity, blob, stored) = (1_u64 << 30, TARGET_BLOB, 100_u64 << 20);
    let usage = Usage { live_bytes: stored, disk_bytes: stored / 4 * 6, ..Usage::default() };
    let shown = |available, takers, away| {
        let space =
            Space { capacity, available, blob, takers, needed: 3, away, ..Space::default() };
        room.learn(space, &usage, 0);
        room.shown()
    };
    assert_eq!(room.shown(), (0, 0), "the store was not heard");
    let whole = shown(capacity - stored, 8, 0);
    // Two are away; two that have no room for more than they have; and all but two.
    for (available, takers, away) in
        [(capacity / 4 * 3 - stored, 6, 3), (1 << 20, 6, 3), (0, 2, 63)]
    {
        for later in [0, 10] {
            tokio::time::advance(Duration::from_secs(later)).await;
            let (all, writable) = shown(available, takers, away);
            let told = format!("{available} on {takers}, {later} s later: {writable} of {all}");
            assert_eq!(all - writable, stored, "{told}");
            assert!(later == 0 || writable <= available, "{told}");
        }
        assert_eq!(shown(capacity - stored, 8, 0), whole, "all are back");
    }
}

#[tokio::test(start_paused = true)]
async fn space_of_what_was_deleted_or_overwritten_comes_back() {
    let world = half_dead().await;
    assert!(world.blobs.used() > 60 << 20);
    let_it_clean(&world).await;
    assert!(world.blobs.used() < 20 << 20, "{} left", world.blobs.used());
    assert!(world.data.status().bytes_cleaned >= 64 * 8 * 8192);
    let puts = world.blobs.inner.lock().puts;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(world.blobs.inner.lock().puts, puts, "idle when there is nothing to gain");
    for ino in 2..10 {
        let bytes = Random(ino).bytes(8 << 20);
        for page in 0..64usize {
            let at = page * (128 << 10);
            assert!(world.read(Ino(ino), at as u64, 8192).await == bytes[at..at + 8192]);
        }
        world.meta.remove_file(Ino(ino));
        world.data.discard(Ino(ino));
    }
    world.meta.sync().await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(world.blobs.used(), 0);
    assert!(world.meta.known().is_empty());
}

/// Eight files of 8 MiB, cut so that every blob keeps a few live pages: none is garbage.
pub(super) async fn half_dead() -> World {
    let world = World::new(small());
    for ino in 2..10 {
        world.meta.create_file(Ino(ino));
        world.write(Ino(ino), 0, &Random(ino).bytes(8 << 20)).await;
    }
    world.data.sync_all().await.unwrap();
    for ino in 2..10 {
        punch_most(&world, Ino(ino)).await;
    }
    world
}

/// Leaves 8 KiB of every 128 KiB of a file of 8 MiB.
async fn punch_most(world: &World, ino: Ino) {
    for page in 0..64u64 {
        let (from, to) = (page * (128 << 10), (page + 1) * (128 << 10));
        world.data.punch(ino, from + 8192..to).await.unwrap();
    }
}

/// Waits for the cleaner as long as it can need.
async fn let_it_clean(world: &World) {
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_secs(2)).await;
        world.meta.sync().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_with_less_room_than_a_blob_is_emptied_of_what_is_dead() {
    let world = half_dead().await;
    // Others have taken what was free.
    let full = world.blobs.inner.lock().takes() + (300 << 10);
    world.blobs.inner.lock().capacity = Some(full);
    world.data.learn_space().await;
    world.meta.create_file(Ino(20));
    world.write(Ino(20), 0, &Random(20).bytes(32 << 20)).await;
    world.data.sync_all().await.unwrap();
    assert!(world.blobs.inner.lock().takes() <= full);
    assert!(world.read(Ino(20), 0, 32 << 20).await == Random(20).bytes(32 << 20));
    assert!(world.read(Ino(9), 0, 8192).await == Random(9).bytes(8192));
}

#[tokio::test(start_paused = true)]
async fn clones_do_not_hide_what_is_wasted() {
    let world = World::new(small());
    for ino in 2..10 {
        world.meta.create_file(Ino(ino));
        world.write(Ino(ino), 0, &Random(ino).bytes(8 << 20)).await;
        world.data.sync_all().await.unwrap();
    }
    for ino in 2..6 {
        for copy in 1..4 {
            let copy = Ino(100 * copy + ino);
            world.meta.create_file(copy);
            world.meta.clone_range(Ino(ino), 0..8 << 20, copy, 0).await.unwrap();
        }
        punch_most(&world, Ino(ino + 4)).await;
    }
    let_it_clean(&world).await;
    assert!(world.blobs.used() < 44 << 20, "{} left", world.blobs.used());
}

#[tokio::test(start_paused = true)]
async fn a_blob_that_metadata_did_not_take_is_deleted() {
    let world = World::new(small());
    for ino in 2..6 {
        world.meta.create_file(Ino(ino));
        world.write(Ino(ino), 0, &Random(ino).bytes(8 << 20)).await;
    }
    world.data.sync_all().await.unwrap();
    let puts = world.blobs.inner.lock().puts;
    world.meta.relocations_fail.store(true, Relaxed);
    for ino in 2..6 {
        punch_most(&world, Ino(ino)).await;
    }
    let_it_clean(&world).await;
    assert!(world.blobs.inner.lock().puts > puts, "the cleaner has tried");
    let stored: Vec<_> = world.blobs.inner.lock().blobs.keys().copied().collect();
    // The last one may not have been deleted yet.
    assert!(stored.len() <= puts as usize + 1, "{} blobs are stored, not {puts}", stored.len());
    assert_eq!(stored, world.meta.known());
}

#[tokio::test(start_paused = true)]
async fn a_blob_that_cannot_be_read_does_not_keep_others_from_being_emptied() {
    let world = half_dead().await;
    let lost: HashSet<_> = world.meta.known().into_iter().take(6).collect();
    world.blobs.inner.lock().unreadable = lost.clone();
    // Few rounds, not one for each of them.
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        world.meta.sync().await.unwrap();
    }
    assert!(world.data.status().bytes_cleaned > 0, "nothing is emptied");
    let_it_clean(&world).await;
    assert!(world.blobs.used() < 44 << 20, "{} left", world.blobs.used());
    assert!(lost.iter().all(|id| world.blobs.inner.lock().blobs.contains_key(id)));
    world.blobs.inner.lock().unreadable.clear();
    tokio::time::sleep(Duration::from_secs(600)).await;
    let_it_clean(&world).await;
    assert!(world.blobs.used() < 20 << 20, "{} left", world.blobs.used());
}

#[tokio::test(start_paused = true)]
async fn dead_blobs_are_left_to_who_keeps_house_elsewhere() {
    let elsewhere = DataSettings { housekeeping: Housekeeping::Elsewhere, ..small() };
    let world = World::new(elsewhere);
    world.meta.create_file(Ino(2));
    world.write(Ino(2), 0, &[1; 9000]).await;
    world.data.sync_all().await.unwrap();
    world.meta.remove_file(Ino(2));
    world.meta.sync().await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(world.meta.known().len(), 1, "it is another's to delete");
    assert!(world.data.status().available.is_some(), "how much room there is, it knows");
    let _keeper = World::over(world.meta.clone(), world.blobs.clone(), small());
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(world.meta.known().is_empty());
    world.data.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn deletes_that_a_slot_has_not_confirmed_are_asked_again() {
    let world = World::new(small());
    world.meta.create_file(Ino(2));
    world.write(Ino(2), 0, &[1; 9000]).await;
    world.data.sync_all().await.unwrap();
    world.meta.remove_file(Ino(2));
    world.data.discard(Ino(2));
    world.meta.sync().await.unwrap();
    world.blobs.inner.lock().deletes_unconfirmed = true;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(world.meta.known().len(), 1, "its record stays");
    world.blobs.inner.lock().deletes_unconfirmed = false;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(world.meta.known().is_empty());
}

#[tokio::test(start_paused = true)]
async fn all_garbage_is_deleted_on_the_slots_that_are_up_and_not_each_second() {
    let world = World::new(small());
    world.blobs.inner.lock().deletes_unconfirmed = true;
    let scheme = Scheme::erasure(4, 2).unwrap();
    let id = |sequence| {
        BlobId::new(VolumeId(1), SessionId(9), sequence, GroupId(0), 4096, scheme).unwrap()
    };
    let garbage: Vec<_> = (1..=3000).map(id).collect();
    world.meta.adopt_garbage(&garbage).await.unwrap();
    world.meta.sync().await.unwrap();
    tokio::time::sleep(Duration::from_secs(8)).await;
    {
        let inner = world.blobs.inner.lock();
        assert!(garbage.iter().all(|id| inner.deleted.contains(id)));
        assert_eq!(inner.deletes, garbage.len());
    }
    world.blobs.inner.lock().deletes_unconfirmed = false;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(world.meta.known().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_discarded_file_frees_its_memory_and_stores_nothing() {
    let world = World::new(small());
    world.meta.create_file(Ino(2));
    world.write(Ino(2), 0, &[1; 900_000]).await;
    world.meta.remove_file(Ino(2));
    world.data.discard(Ino(2));
    assert_eq!(world.data.status().dirty_bytes, 0);
    world.data.stop().await.unwrap();
    assert_eq!(world.blobs.inner.lock().puts, 0);
}
