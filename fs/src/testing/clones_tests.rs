//! What clones keep alive: the cleaner finds it as it finds everything else.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use meta::{Extent, FileUpdate, Ino, MetaStore, ROOT};

use super::full_tests::Volume;
use super::space_tests::half_dead;
use super::{Random, World, small};

const MIB: u64 = 1 << 20;
/// Small files, of which some hundred share a blob.
const FILES: u64 = 4000;
const SIZE: u64 = 10_000;

fn content(n: u64) -> Vec<u8> {
    Random(1 + n).bytes(SIZE as usize)
}

/// Waits for the cleaner as long as it can need.
async fn let_it_clean(meta: &dyn MetaStore) {
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_secs(2)).await;
        meta.sync().await.unwrap();
    }
}

/// `cp -r a b` and `cp -r a c`: small files that are stored, and two clones of each, over real metadata.
async fn cloned_tree() -> Volume {
    let volume = Volume::of(1024 * MIB).await;
    for n in 0..FILES {
        let ino = volume.create(&format!("a{n}")).await;
        volume.write(ino, 0, content(n)).await.unwrap();
    }
    volume.data.sync_all().await.unwrap();
    for n in 0..FILES {
        let from = volume.meta.lookup(ROOT, format!("a{n}").as_bytes()).await.unwrap().ino;
        for tree in ["b", "c"] {
            let to = volume.create(&format!("{tree}{n}")).await;
            volume.meta.clone_range(from, 0..SIZE, to, 0).await.unwrap();
        }
    }
    volume
}

#[tokio::test(start_paused = true)]
async fn blobs_that_only_clones_refer_to_are_emptied_and_what_they_share_stays_shared() {
    let volume = cloned_tree().await;
    let before: Vec<_> = volume.blobs.inner.lock().blobs.keys().copied().collect();
    for n in 0..FILES {
        volume.remove(&format!("a{n}")).await;
        if n % 20 != 0 {
            volume.remove(&format!("b{n}")).await;
            volume.remove(&format!("c{n}")).await;
        }
    }
    let_it_clean(&*volume.meta).await;
    let (used, alive) = (volume.blobs.used(), FILES / 20 * SIZE);
    assert!(used < alive * 3 / 2, "{used} bytes are kept for {alive} that are alive");
    let left: Vec<_> = volume.blobs.inner.lock().blobs.keys().copied().collect();
    assert!(before.iter().all(|id| !left.contains(id)), "a blob was not emptied");
    for n in (0..FILES).step_by(20) {
        for tree in ["b", "c"] {
            let ino = volume.meta.lookup(ROOT, format!("{tree}{n}").as_bytes()).await.unwrap().ino;
            let read = volume.data.read(ino, 0..SIZE).await.unwrap();
            assert!(read == content(n), "{tree}{n} is not what was copied");
        }
    }
    assert_eq!(volume.meta.opened_on().check().await.unwrap().problems, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_blob_that_very_many_refer_to_is_emptied_in_bounded_pieces() {
    const OWNERS: u64 = 20;
    const EACH: u64 = 10_000;
    let world = World::new(small());
    let source = Ino(2);
    world.meta.create_file(source);
    let bytes = Random(7).bytes(32 << 20);
    world.write(source, 0, &bytes).await;
    world.data.sync_all().await.unwrap();
    // Of each blob some bytes are cloned, and of one very many, none beside the next.
    let stored = world.meta.extents(source, 0..32 << 20, 99).await.unwrap();
    for (nth, extent) in stored.iter().enumerate() {
        let (owners, each) = if nth == 3 { (OWNERS, EACH) } else { (1, 10) };
        for owner in 0..owners {
            let ino = Ino(100 * (1 + nth as u64) + owner);
            world.meta.create_file(ino);
            let clone = |n: u64| {
                let mut place = extent.place.unwrap();
                place.offset += (n * owners + owner) as u32;
                Extent { offset: 2 * n, len: 1, place: Some(place) }
            };
            for from in (0..each).step_by(4096) {
                let extents = (from..each.min(from + 4096)).map(clone).collect();
                let update =
                    FileUpdate { ino, extents, size_at_least: Some(2 * each), mtime: None };
                world.meta.commit(&[], &[update]).await.unwrap();
            }
        }
    }
    let before = world.meta.known();
    world.meta.remove_file(source);
    world.data.discard(source);
    world.meta.largest_step.store(0, Relaxed);
    let_it_clean(&*world.meta).await;
    let left = world.meta.known();
    assert!(before.iter().all(|id| !left.contains(id)), "a blob was not emptied");
    let largest = world.meta.largest_step.load(Relaxed);
    assert!((1000..=4096).contains(&largest), "{largest} references at once");
    let from = stored[3].offset as usize;
    for owner in [0, 7, OWNERS - 1] {
        let read = world.read(Ino(400 + owner), 0, 2 * EACH).await;
        let bytes = bytes[from + owner as usize..].iter().step_by(OWNERS as usize);
        let expected: Vec<u8> = bytes.take(EACH as usize).flat_map(|byte| [*byte, 0]).collect();
        assert!(read == expected, "owner {owner} reads what was not cloned");
    }
}

#[tokio::test(start_paused = true)]
async fn a_blob_whose_references_are_not_all_there_is_left_alone() {
    let world = half_dead().await;
    let blobs = || world.blobs.inner.lock().blobs.keys().copied().collect::<BTreeSet<_>>();
    let extents = world.meta.extents(Ino(2), 0..u64::MAX, usize::MAX).await.unwrap();
    let of_lost: BTreeSet<_> = extents.iter().map(|e| e.place.unwrap().blob).collect();
    world.meta.lose_references(Ino(2));
    let_it_clean(&*world.meta).await;
    assert!(world.blobs.used() < 20 << 20, "{} left", world.blobs.used());
    assert!(blobs().is_superset(&of_lost), "a blob is gone that a file has bytes in");
    let puts = world.blobs.inner.lock().puts;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(world.blobs.inner.lock().puts, puts, "idle when there is nothing to gain");
    assert!(world.read(Ino(2), 0, 8192).await == Random(2).bytes(8 << 20)[..8192]);
}
