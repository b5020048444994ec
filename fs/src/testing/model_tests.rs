//! Random operations against plain byte arrays, over a store that is slow and fails.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use meta::{Access, Ino, Leases, MetaStore};

use super::*;
use crate::data::TryWrite;
use crate::error::DataError;

const FILE: u64 = 600_000;

/// A file as it should read.
struct Model {
    ino: Ino,
    bytes: Vec<u8>,
}

impl Model {
    fn grow(&mut self, end: u64) {
        if self.bytes.len() < end as usize {
            self.bytes.resize(end as usize, 0);
        }
    }

    fn fill(&mut self, start: u64, end: u64) {
        let len = self.bytes.len();
        self.bytes[(start as usize).min(len)..(end as usize).min(len)].fill(0);
    }
}

fn range(random: &mut Random) -> (u64, u64) {
    let longest = [100, 5000, 200_000][random.below(3) as usize];
    let start = random.below(FILE);
    (start, start + 1 + random.below(longest))
}

async fn step(world: &World, random: &mut Random, files: &mut [Model]) {
    let nth = random.below(files.len() as u64) as usize;
    let file = &mut files[nth];
    let (start, end) = range(random);
    match random.below(100) {
        0..40 => {
            let bytes = random.bytes((end - start) as usize);
            world.write(file.ino, start, &bytes).await;
            file.grow(end);
            file.bytes[start as usize..end as usize].copy_from_slice(&bytes);
        }
        40..70 => {
            let got = world.read(file.ino, start, end - start).await;
            let len = file.bytes.len();
            assert!(got == file.bytes[(start as usize).min(len)..(end as usize).min(len)]);
        }
        70..74 => {
            let attr = world.data.truncate(file.ino, start).await.unwrap();
            assert_eq!(attr.size, start);
            file.bytes.resize(start as usize, 0);
        }
        74..78 => {
            let attr = world.data.punch(file.ino, start..end).await.unwrap();
            file.fill(start, end);
            assert_eq!(attr.size, file.bytes.len() as u64);
        }
        78..80 => {
            world.data.zero(file.ino, start..end, true).await.unwrap();
            file.fill(start, end);
            file.grow(end);
        }
        80..85 => clone(world, random, files, nth).await,
        85..92 => match world.data.fsync(file.ino).await {
            Ok(()) => assert_eq!(world.data.pending(file.ino), None),
            Err(error) => assert!(matches!(error, DataError::Unavailable(_)), "{error}"),
        },
        92..96 => tokio::time::sleep(Duration::from_millis(random.below(900))).await,
        _ => {
            let size = file.bytes.len() as u64;
            let pending = world.data.pending(file.ino).map_or(0, |pending| pending.size);
            assert_eq!(world.meta.size(file.ino).max(pending), size);
            if let Some(at) = world.data.seek_data(file.ino, start).await.unwrap() {
                assert!(
                    at < size && file.bytes[start as usize..at as usize].iter().all(|b| *b == 0)
                );
            }
            if let Some(at) = world.data.seek_hole(file.ino, start).await.unwrap() {
                assert!(start <= at && at <= size);
            }
        }
    }
}

async fn clone(world: &World, random: &mut Random, files: &mut [Model], from: usize) {
    let to = random.below(files.len() as u64) as usize;
    let len = files[from].bytes.len() as u64;
    let (start, end) = range(random);
    let end = end.min(len);
    if from == to || start >= end {
        return;
    }
    let at = random.below(FILE);
    let (source, target) = (files[from].ino, files[to].ino);
    match world.data.clone_range(source, start..end, target, at).await {
        Ok(_) => {
            let bytes = files[from].bytes[start as usize..end as usize].to_vec();
            files[to].grow(at + bytes.len() as u64);
            files[to].bytes[at as usize..at as usize + bytes.len()].copy_from_slice(&bytes);
        }
        Err(error) => assert!(matches!(error, DataError::Unavailable(_)), "{error}"),
    }
}

async fn check_all(world: &World, files: &[Model]) {
    for file in files {
        let got = world.read(file.ino, 0, 2 * FILE).await;
        assert!(got == file.bytes, "file {:?}", file.ino);
    }
}

/// Files that [`use_files`] uses.
const INODES: Range<u64> = 10..18;

/// Four tasks use two files each, at random.
async fn use_files(world: &Arc<World>, seed: u64) -> Vec<Model> {
    let tasks = (0..4u64).map(|task| {
        let world = Arc::clone(world);
        tokio::spawn(async move {
            let mut random = Random(seed * 1000 + task);
            let file = |n| {
                world.meta.create_file(Ino(n));
                Model { ino: Ino(n), bytes: Vec::new() }
            };
            let first = INODES.start + task * 2;
            let mut files: Vec<Model> = (first..first + 2).map(file).collect();
            for _ in 0..250 {
                step(&world, &mut random, &mut files).await;
            }
            files
        })
    });
    let mut files = Vec::new();
    for task in tasks.collect::<Vec<_>>() {
        files.extend(task.await.unwrap());
    }
    files
}

#[tokio::test(start_paused = true)]
async fn files_read_as_written_while_the_store_is_slow_and_fails() {
    for seed in 1..=12 {
        println!("seed {seed}");
        let world = Arc::new(World::new(small()));
        {
            let mut inner = world.blobs.inner.lock();
            inner.delay = Duration::from_millis([0, 3, 40][seed as usize % 3]);
            inner.failing_percent = [0, 10, 30][(seed / 3) as usize % 3];
        }
        let files = use_files(&world, seed).await;
        check_all(&world, &files).await;
        world.blobs.inner.lock().failing_percent = 0;
        world.data.stop().await.unwrap();
        assert_eq!(world.data.status().dirty_bytes, 0);
        // Read again by a mount that remembers nothing.
        let again = World::over(world.meta.clone(), world.blobs.clone(), small());
        check_all(&again, &files).await;
    }
}

/// Metadata refuse what is done to content without a grant.
#[tokio::test(start_paused = true)]
async fn files_read_as_written_while_grants_are_refused_and_wanted_back() {
    for seed in 1..=6 {
        println!("seed {seed}");
        let leases = Arc::new(Grudging::new(seed));
        let meta = Arc::new(MemoryMeta::leased(leases.clone()));
        let world = Arc::new(World::over(meta, Arc::new(MemoryBlobs::new()), small()));
        world.blobs.inner.lock().delay = Duration::from_millis([0, 3, 40][seed as usize % 3]);
        let over = Arc::new(AtomicBool::new(false));
        let (data, ended) = (world.data.clone(), over.clone());
        let others = tokio::spawn(async move {
            let mut random = Random(seed * 1000 + 999);
            while !ended.load(Relaxed) {
                tokio::time::sleep(Duration::from_millis(1 + random.below(30))).await;
                let ino = Ino(INODES.start + random.below(INODES.end - INODES.start));
                let to = [Access::None, Access::Hold, Access::Read][random.below(3) as usize];
                data.give_back(ino, to).await.unwrap();
                assert_eq!(data.pending(ino), None, "all is stored under what was granted");
            }
        });
        let files = use_files(&world, seed).await;
        check_all(&world, &files).await;
        over.store(true, Relaxed);
        others.await.unwrap();
        let (refused, returned) = leases.counts();
        assert!(refused > 5 && returned > 20, "{refused} refused, {returned} given back");
        world.data.stop().await.unwrap();
        let again = World::over(world.meta.clone(), world.blobs.clone(), small());
        check_all(&again, &files).await;
    }
}

/// A read that waits for its blob keeps what was granted from others until it has ended.
#[tokio::test(start_paused = true)]
async fn what_is_in_use_is_given_back_when_it_is_no_more() {
    let leases = Arc::new(Grudging::new(1));
    let meta = Arc::new(MemoryMeta::leased(leases.clone()));
    let world = World::over(meta, Arc::new(MemoryBlobs::new()), small());
    world.meta.create_file(Ino(5));
    assert_eq!(world.data.try_write(Ino(5), 0, b"bytes", Time::default()), Ok(TryWrite::NoLease));
    world.write(Ino(5), 0, b"bytes").await;
    world.data.give_back(Ino(5), Access::Read).await.unwrap();
    assert_eq!(leases.access(Ino(5)), Access::Read);
    world.blobs.inner.lock().stalled = true;
    let data = world.data.clone();
    let reading = tokio::spawn(async move { data.read(Ino(5), 0..100).await });
    tokio::time::sleep(Duration::from_millis(10)).await;
    let data = world.data.clone();
    let giving = tokio::spawn(async move { data.give_back(Ino(5), Access::None).await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!giving.is_finished() && leases.access(Ino(5)) == Access::Read);
    world.blobs.resume();
    assert_eq!(reading.await.unwrap().unwrap(), &b"bytes"[..]);
    giving.await.unwrap().unwrap();
    assert_eq!(leases.access(Ino(5)), Access::None);
    assert_eq!(world.data.try_write(Ino(5), 0, b"bytes", Time::default()), Ok(TryWrite::NoLease));
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_cut_while_its_bytes_fly_stays_cut() {
    let world = World::new(small());
    world.meta.create_file(Ino(5));
    world.write(Ino(5), 0, &[7; 100_000]).await;
    world.blobs.inner.lock().stalled = true;
    let data = world.data.clone();
    let fsync = tokio::spawn(async move { data.fsync(Ino(5)).await });
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(world.data.status().blobs_in_flight, 1);
    world.data.truncate(Ino(5), 10).await.unwrap();
    world.data.punch(Ino(5), 2..4).await.unwrap();
    world.blobs.resume();
    fsync.await.unwrap().unwrap();
    assert_eq!(world.meta.size(Ino(5)), 10);
    assert_eq!(world.read(Ino(5), 0, 100).await[..], [7, 7, 0, 0, 7, 7, 7, 7, 7, 7]);
    assert_eq!(world.meta.live_bytes(), 8);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_fetched_twice_and_streams_are_fetched_whole() {
    let world = World::new(DataSettings { cache_bytes: 64 << 20, ..small() });
    world.meta.create_file(Ino(5));
    let bytes = Random(3).bytes(12 << 20);
    for (nth, chunk) in bytes.chunks(1 << 20).enumerate() {
        world.write(Ino(5), (nth as u64) << 20, chunk).await;
    }
    world.data.sync_all().await.unwrap();
    world.blobs.inner.lock().delay = Duration::from_millis(5);
    for (nth, chunk) in bytes.chunks(128 << 10).enumerate() {
        assert!(world.read(Ino(5), nth as u64 * (128 << 10), 128 << 10).await == chunk);
    }
    let gets = world.blobs.inner.lock().gets.clone();
    assert!(gets.len() < 20, "{} gets of whole parts", gets.len());
    let blobs: u64 = world.blobs.used();
    let fetched: u64 = gets.iter().map(|(_, range)| range.len() as u64).sum();
    assert!(fetched <= blobs, "{fetched} of {blobs} bytes");
    let mut random = Random(9);
    // What the stream passed long ago is let go; its last units are still here.
    for _ in 0..50 {
        let at = (8 << 20) + random.below(4 << 20);
        assert!(
            world.read(Ino(5), at, 4096).await
                == bytes[at as usize..][..4096.min(bytes.len() - at as usize)]
        );
    }
    assert_eq!(world.blobs.inner.lock().gets.len(), gets.len(), "it is in memory");
    let held = world.data.status().cache_bytes;
    assert!(held <= 9 << 20, "{held} bytes are kept of a stream");
}

#[tokio::test(start_paused = true)]
async fn small_files_come_with_their_neighbours() {
    let world = World::new(small());
    for ino in 10..510 {
        world.meta.create_file(Ino(ino));
        world.write(Ino(ino), 0, &[ino as u8; 3000]).await;
    }
    world.data.sync_all().await.unwrap();
    assert_eq!(world.blobs.inner.lock().puts, 1, "500 small files are one put");
    let again = World::over(world.meta.clone(), world.blobs.clone(), small());
    for ino in 10..510 {
        assert_eq!(again.read(Ino(ino), 0, 9000).await[..], [ino as u8; 3000]);
    }
    let gets = world.blobs.inner.lock().gets.len();
    assert!(gets <= 10, "{gets} gets");
}

#[tokio::test(start_paused = true)]
async fn a_read_finds_bytes_that_the_cleaner_moved_under_it() {
    let world = World::new(DataSettings { cache_bytes: 0, ..small() });
    world.meta.create_file(Ino(5));
    let bytes = Random(3).bytes(40 << 20);
    world.write(Ino(5), 0, &bytes).await;
    world.data.sync_all().await.unwrap();
    // The reader learns where the bytes lie, then all but a tenth of them go away.
    assert!(world.read(Ino(5), 0, 4096).await == bytes[..4096]);
    let reader = {
        let (data, bytes) = (world.data.clone(), bytes[4096..8192].to_vec());
        world.blobs.inner.lock().stalled = true;
        tokio::spawn(async move { data.read(Ino(5), 4096..8192).await.unwrap() == bytes })
    };
    tokio::time::sleep(Duration::from_millis(1)).await;
    world.data.punch(Ino(5), 8192..40 << 20).await.unwrap();
    // The cleaner's own reads pass, the reader's waits: it was first and is let go last.
    world.blobs.inner.lock().stalled = false;
    let before = world.data.status().bytes_cleaned;
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_secs(2)).await;
        world.meta.sync().await.unwrap();
    }
    assert!(world.data.status().bytes_cleaned > before);
    world.blobs.resume();
    assert!(reader.await.unwrap());
    assert!(world.blobs.inner.lock().deleted.len() >= 10);
    assert!(world.read(Ino(5), 4096, 4096).await == bytes[4096..8192]);
}

#[tokio::test(start_paused = true)]
async fn a_read_over_thousands_of_extents_finds_them_all() {
    let world = World::new(small());
    world.meta.create_file(Ino(5));
    for page in (0..2000u64).rev() {
        world.write(Ino(5), page * 200, &[page as u8; 100]).await;
    }
    world.data.sync_all().await.unwrap();
    for start in [0, 50, 200, 99_999] {
        let got = world.read(Ino(5), start, 400_000).await;
        let byte = |at: u64| if at % 200 < 100 { (at / 200) as u8 } else { 0 };
        assert!(got.iter().enumerate().all(|(nth, got)| *got == byte(start + nth as u64)));
        assert_eq!(got.len() as u64, 399_900 - start);
    }
}
