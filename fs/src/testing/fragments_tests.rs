//! Fragmented files: what is asked of metadata and of the store is bounded, for each request and for
//! each time that a thread is held by one.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, Waker};

use futures::future::join_all;

use super::*;
use crate::data::TryWrite;

const FILE: Ino = Ino(2);
/// Bytes from one fragment to the next.
const STEP: u64 = 64;
const COUNT: u64 = 40_000;
const MIB: u64 = 1 << 20;
/// What one look at such a file may bring, whoever waits.
const BOUNDED: usize = 2048;

fn fragment(n: u64) -> u8 {
    (1 + n % 250) as u8
}

/// What a range of the file holds.
fn content(range: std::ops::Range<u64>) -> Vec<u8> {
    range
        .map(|at| if at % STEP == 0 && at / STEP < COUNT { fragment(at / STEP) } else { 0 })
        .collect()
}

/// A file of single bytes far apart.
async fn fragmented() -> World {
    let world = World::new(small());
    world.meta.create_file(FILE);
    for n in 0..COUNT {
        world.write(FILE, n * STEP, &[fragment(n)]).await;
    }
    world
}

/// Polls once, as the thread that takes the kernel's requests does.
fn first_poll<F: Future>(work: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    work.poll(&mut Context::from_waker(Waker::noop()))
}

#[tokio::test]
async fn a_read_of_very_many_extents_leaves_the_thread_that_asks_and_asks_once_for_each() {
    let world = fragmented().await;
    world.data.sync_all().await.unwrap();
    let told = || world.meta.extents_told.swap(0, Relaxed);
    told();
    for at in [0, MIB, 3 * MIB / 2] {
        let (from, to) = (at, (at + MIB).min(COUNT * STEP - STEP + 1));
        let mut read = pin!(world.data.read(FILE, from..from + MIB));
        assert!(first_poll(read.as_mut()).is_pending(), "it is long");
        let first = told();
        assert!(first <= BOUNDED, "{first} extents on the thread that asks");
        assert!(read.await.unwrap() == content(from..to));
        let all = first + told();
        let there = ((to - from) / STEP) as usize;
        assert!(all <= there + BOUNDED, "{all} extents asked for, to read {there}");
    }
    // Readers at several places do not take from one another what they have learnt.
    let places = (0..COUNT * STEP - MIB).step_by(200_000);
    let reads = places.clone().map(|at| world.data.read(FILE, at..at + MIB));
    for (at, read) in places.clone().zip(join_all(reads).await) {
        assert!(read.unwrap() == content(at..at + MIB), "from {at}");
    }
    let (all, reads) = (told(), places.count());
    assert!(all <= reads * ((MIB / STEP) as usize + BOUNDED), "{all} extents for {reads} reads");
}

#[tokio::test]
async fn very_many_ranges_in_memory_are_read_and_stored_in_bounded_pieces_too() {
    let world = fragmented().await;
    world.blobs.inner.lock().stalled = true;
    for n in 0..COUNT / 4 {
        let now = Time { secs: 1, nanos: 0 };
        let written = world.data.try_write(FILE, n * STEP, &[fragment(n)], now).unwrap();
        assert_eq!(written, TryWrite::Done);
    }
    let mut read = pin!(world.data.read(FILE, 0..MIB));
    assert!(first_poll(read.as_mut()).is_pending(), "it is long");
    world.blobs.resume();
    assert!(read.await.unwrap() == content(0..MIB));
    world.data.sync_all().await.unwrap();
    let largest = world.meta.largest_commit.load(Relaxed);
    assert!((1000..=4096).contains(&largest), "{largest} extents in one transaction");
    assert!(world.read(FILE, 0, MIB).await == content(0..MIB));
}

#[tokio::test]
async fn the_edges_of_very_many_extents_are_looked_for_in_bounded_pieces() {
    let world = fragmented().await;
    world.data.sync_all().await.unwrap();
    world.meta.extents_told.store(0, Relaxed);
    let mut seek = pin!(world.data.seek_hole(FILE, 0));
    assert!(first_poll(seek.as_mut()).is_pending(), "it is long");
    let first = world.meta.extents_told.load(Relaxed);
    assert!(first <= BOUNDED, "{first} extents on the thread that asks");
    assert_eq!(seek.await.unwrap(), Some((COUNT - 1) * STEP + 1), "each block has data");
    let all = world.meta.extents_told.load(Relaxed);
    assert!(all <= COUNT as usize, "{all} extents asked for, of {COUNT}");
}

#[tokio::test]
async fn pages_scattered_over_many_blobs_are_not_fetched_with_all_that_lies_around_them() {
    const PAGE: u64 = 4096;
    const PAGES: u64 = 4096;
    let world = World::new(small());
    world.meta.create_file(FILE);
    let mut random = Random(5);
    let mut order: Vec<u64> = (0..PAGES).collect();
    for n in (1..PAGES).rev() {
        order.swap(n as usize, random.below(n + 1) as usize);
    }
    for (nth, page) in order.iter().enumerate() {
        world.write(FILE, page * PAGE, &[*page as u8; PAGE as usize]).await;
        if nth % 256 == 255 {
            world.data.sync_all().await.unwrap();
        }
    }
    world.blobs.inner.lock().gets.clear();
    for at in (0..PAGES * PAGE).step_by(MIB as usize) {
        let read = world.read(FILE, at, MIB).await;
        let pages = read.chunks(PAGE as usize).enumerate();
        assert!(read.len() as u64 == MIB);
        for (nth, page) in pages {
            assert!(page.iter().all(|byte| *byte == (at / PAGE + nth as u64) as u8), "at {at}");
        }
    }
    let gets = world.blobs.inner.lock().gets.clone();
    let fetched: u64 = gets.iter().map(|(_, range)| range.len() as u64).sum();
    let times = fetched / (PAGES * PAGE);
    // A check block is sixteen pages: without a cache that remembers, it would be that often.
    assert!(times < 16, "the file was fetched {times} times");
}
