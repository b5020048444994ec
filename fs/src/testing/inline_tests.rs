//! Small synced writes over metadata that keep them.

use meta::{Ino, MetaStore};

use super::{MemoryMeta, Random, World, small};
use crate::data::DataSettings;

const FILES: u64 = 20;
const SIZE: u64 = 200_000;
const MOST: u64 = 256 << 10;

fn settings() -> DataSettings {
    DataSettings { inline_bytes: MOST, ..small() }
}

async fn world() -> World {
    let world = World::new(settings());
    (0..FILES).for_each(|n| world.meta.create_file(Ino(2 + n)));
    // From then on it is known how much room there is.
    world.data.learn_space().await;
    world
}

async fn inline_bytes(meta: &MemoryMeta) -> u64 {
    let blobs = meta.inline_blobs(None, usize::MAX).await.unwrap();
    blobs.iter().map(|id| u64::from(id.len())).sum()
}

async fn assert_reads(world: &World, n: u64, expected: &[u8]) {
    let read = world.read(Ino(2 + n), 0, SIZE).await;
    assert_eq!(read, expected[..read.len()], "file {n}");
    assert!(expected[read.len()..].iter().all(|byte| *byte == 0), "file {n} is short");
}

#[tokio::test(start_paused = true)]
async fn a_small_synced_write_puts_no_blob_and_survives_a_crash() {
    let world = world().await;
    for n in 0..FILES {
        world.write(Ino(2 + n), 0, b"precious").await;
        world.data.fsync(Ino(2 + n)).await.unwrap();
    }
    assert_eq!(world.data.status().blobs_put, 0);
    let again = World::over(world.meta.after_crash().into(), world.blobs.clone(), settings());
    for n in 0..FILES {
        assert_eq!(again.read(Ino(2 + n), 0, 100).await, "precious");
    }
}

#[tokio::test(start_paused = true)]
async fn what_many_small_synced_writes_leave_moves_into_full_blobs() {
    let mut random = Random(0x5eed);
    let world = world().await;
    let mut files = vec![vec![0; SIZE as usize]; FILES as usize];
    let mut most = 0;
    for step in 0..2000 {
        let n = random.below(FILES);
        let (at, len) = (random.below(SIZE - 9000) as usize, 1 + random.below(9000) as usize);
        let bytes = random.bytes(len);
        files[n as usize][at..at + len].copy_from_slice(&bytes);
        world.write(Ino(2 + n), at as u64, &bytes).await;
        world.data.fsync(Ino(2 + n)).await.unwrap();
        most = most.max(inline_bytes(&world.meta).await);
        if step % 50 == 0 {
            assert_reads(&world, n, &files[n as usize]).await;
        }
    }
    assert!(most > MOST / 4 && most <= MOST + (64 << 10), "{most} bytes at most");
    assert!(world.data.status().bytes_cleaned > 0, "nothing was moved");
    let again = World::over(world.meta.after_crash().into(), world.blobs.clone(), settings());
    for n in 0..FILES {
        assert_reads(&again, n, &files[n as usize]).await;
    }
}
