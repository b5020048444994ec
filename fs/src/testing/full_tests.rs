//! A full volume: what is promised can be written, for ever, and what is not is refused at once.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use meta::{Caller, Ino, MemoryVolume, MetaStore, NewNode, ROOT, Session, Time, VolumeInfo};
use proto::id::{ClusterId, VolumeId};
use proto::scheme::Scheme;
use tokio::time::Instant;

use super::*;
use crate::error::DataError;

const NOW: Time = Time { secs: 1, nanos: 0 };
const CALLER: Caller = Caller { uid: 0, gid: 0, umask: 0 };
const PAGE: u64 = 4096;
const MIB: u64 = 1 << 20;

/// A data plane over real metadata and a store in memory that takes 96 MiB.
pub(super) struct Volume {
    stored: MemoryVolume,
    pub(super) meta: Arc<Session>,
    pub(super) blobs: Arc<MemoryBlobs>,
    pub(super) data: Arc<Data>,
}

impl Volume {
    async fn new() -> Self {
        Self::of(96 * MIB).await
    }

    /// The same with a store that takes so many bytes.
    pub(super) async fn of(capacity: u64) -> Self {
        let info = VolumeInfo {
            name: "full".into(),
            id: VolumeId(1),
            cluster: ClusterId::random(),
            scheme: Scheme::erasure(4, 2).unwrap(),
            rules: proxy::VolumeRules::default(),
        };
        let blobs = Arc::new(MemoryBlobs::new());
        blobs.inner.lock().capacity = Some(capacity);
        Self::over(MemoryVolume::format(&info, (0, 0, 0o755)), blobs).await
    }

    async fn over(stored: MemoryVolume, blobs: Arc<MemoryBlobs>) -> Self {
        let meta = stored.open();
        let data = Data::start(meta.clone(), blobs.clone(), small());
        data.learn_space().await;
        Self { stored, meta, blobs, data }
    }

    pub(super) async fn create(&self, name: &str) -> Ino {
        let made = self.meta.create(CALLER, ROOT, name.as_bytes(), 0o644, NewNode::File);
        made.await.unwrap().ino
    }

    pub(super) async fn remove(&self, name: &str) {
        let gone = self.meta.unlink(ROOT, name.as_bytes()).await.unwrap();
        self.data.discard(gone.ino);
        self.meta.reap(&[gone.ino]).await.unwrap();
    }

    pub(super) async fn write(&self, ino: Ino, at: u64, bytes: Vec<u8>) -> Result<(), DataError> {
        self.data.write(ino, at, Bytes::from(bytes), NOW).await
    }

    async fn available(&self) -> u64 {
        self.data.learn_space().await;
        self.data.status().available.unwrap()
    }

    /// Writes until there is no room; answers how much was written.
    async fn fill(&self, ino: Ino, piece: u64) -> u64 {
        let mut len = 0;
        loop {
            match self.write(ino, len, vec![1; piece as usize]).await {
                Ok(()) => len += piece,
                Err(error) => {
                    assert_eq!(error, DataError::NoSpace);
                    return len;
                }
            }
        }
    }
}

/// What a page holds in its nth version.
fn page(index: u64, version: u64) -> Vec<u8> {
    Random(1 + index * 7919 + version * 104_729).bytes(PAGE as usize)
}

#[tokio::test(start_paused = true)]
async fn stored_bytes_are_overwritten_ten_times_over_on_a_full_volume() {
    let volume = Volume::new().await;
    let file = volume.create("database").await;
    let len = volume.fill(file, MIB).await;
    assert!(len > 60 * MIB, "{len} bytes of 96 MiB");
    volume.data.sync_all().await.unwrap();
    let pages = len / PAGE;
    let mut versions = vec![None; pages as usize];
    let mut random = Random(0x5eed);
    for step in 0..10 * pages {
        let index = random.below(pages);
        versions[index as usize] = Some(step);
        let written = volume.write(file, index * PAGE, page(index, step)).await;
        written.unwrap_or_else(|error| panic!("page {index}, step {step}: {error}"));
        if step % 5000 == 0 {
            volume.data.fsync(file).await.unwrap();
        }
    }
    // New bytes are as unwelcome as before.
    assert_eq!(volume.write(file, len, vec![1; MIB as usize]).await, Err(DataError::NoSpace));
    volume.data.fsync(file).await.unwrap();
    for (index, version) in versions.iter().enumerate() {
        let expected = version.map_or(vec![1; PAGE as usize], |step| page(index as u64, step));
        let found = volume.data.read(file, index as u64 * PAGE..(index as u64 + 1) * PAGE).await;
        assert!(found.unwrap() == expected, "page {index} is not version {version:?}");
    }
    for step in 0..10 * len / MIB {
        let at = random.below(len / MIB) * MIB;
        let written = volume.write(file, at, vec![step as u8; MIB as usize]).await;
        written.unwrap_or_else(|error| panic!("at {at}, step {step}: {error}"));
    }
    volume.data.fsync(file).await.unwrap();
    assert_eq!(volume.meta.opened_on().check().await.unwrap().problems, Vec::<String>::new());
}

/// The fewer blobs there are, the sooner the cleaner has emptied all those that it knows of.
#[tokio::test(start_paused = true)]
async fn small_volumes_are_overwritten_for_ever_as_large_ones_are() {
    for capacity in (16..=96).step_by(8) {
        let volume = Volume::of(capacity * MIB).await;
        let file = volume.create("database").await;
        let len = volume.fill(file, MIB).await;
        volume.data.sync_all().await.unwrap();
        let mut random = Random(0x5eed);
        for piece in [MIB, 64 * PAGE, PAGE] {
            for step in 0..10 * len / piece {
                let at = random.below(len / piece) * piece;
                let written = volume.write(file, at, vec![step as u8; piece as usize]).await;
                written.unwrap_or_else(|e| {
                    panic!("{capacity} MiB, {piece} at {at}, step {step}: {e}")
                });
                if step % 997 == 0 {
                    let synced = volume.data.fsync(file).await;
                    synced.unwrap_or_else(|e| panic!("{capacity} MiB, {piece}, step {step}: {e}"));
                }
            }
        }
        volume.data.fsync(file).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn small_synced_overwrites_go_on_too_though_each_takes_four_times_its_room() {
    let volume = Volume::new().await;
    let file = volume.create("journal").await;
    let len = volume.fill(file, MIB).await;
    volume.data.sync_all().await.unwrap();
    let mut random = Random(0x5eed);
    for step in 0..20_000 {
        let at = random.below(len / PAGE) * PAGE;
        volume.write(file, at, vec![step as u8; PAGE as usize]).await.unwrap();
        let synced = volume.data.fsync(file).await;
        synced.unwrap_or_else(|error| panic!("at {at}, step {step}: {error}"));
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_said_to_be_available_is_what_a_writer_gets() {
    let volume = Volume::new().await;
    let said = volume.available().await;
    let file = volume.create("a").await;
    let got = volume.fill(file, MIB).await;
    assert!(
        said.abs_diff(got) <= MIB + said / 100,
        "{said} bytes were said, {got} could be written"
    );
    volume.data.sync_all().await.unwrap();
    let left = volume.available().await;
    assert!(left < MIB + said / 100, "{left} bytes are left on a full volume");
    volume.remove("a").await;
    let again = volume.available().await;
    assert!(again.abs_diff(said) <= said / 100, "{again} bytes of {said} after the file is gone");
    let file = volume.create("b").await;
    let got = volume.fill(file, 100_000).await;
    assert!(
        said.abs_diff(got) <= MIB + said / 100,
        "{said} bytes were said, {got} could be written"
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_given_up_on_a_full_volume_can_be_written_again() {
    let volume = Volume::new().await;
    let file = volume.create("a").await;
    let len = volume.fill(file, MIB).await;
    volume.data.sync_all().await.unwrap();
    // Disks have filled unevenly meanwhile.
    volume.blobs.inner.lock().capacity = Some(94 * MIB);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(volume.available().await, 0);
    for _ in 0..8 {
        volume.data.punch(file, 0..3 * PAGE).await.unwrap();
        volume.write(file, 0, vec![2; 3 * PAGE as usize]).await.expect("it was given up before");
        volume.data.fsync(file).await.unwrap();
    }
    assert_eq!(volume.write(file, len, vec![1; MIB as usize]).await, Err(DataError::NoSpace));
}

#[tokio::test(start_paused = true)]
async fn small_synced_files_fill_the_volume_as_large_ones_do() {
    let volume = Volume::new().await;
    let said = volume.available().await;
    let file = volume.create("log").await;
    let mut at = 0;
    let full = loop {
        if let Err(error) = volume.write(file, at, vec![2; PAGE as usize]).await {
            break error;
        }
        volume.data.fsync(file).await.unwrap();
        at += PAGE;
    };
    assert_eq!(full, DataError::NoSpace);
    assert!(said.abs_diff(at) <= MIB + said / 100, "{said} bytes were said, {at} could be written");
}

#[tokio::test(start_paused = true)]
async fn what_fallocate_has_promised_can_be_written() {
    let volume = Volume::new().await;
    let (promised, other) = (volume.create("promised").await, volume.create("other").await);
    let len = volume.available().await / MIB * MIB - 8 * MIB;
    volume.data.fallocate(promised, 0..len, false).await.unwrap();
    let left = volume.available().await;
    assert!(left.abs_diff(8 * MIB) < 2 * MIB, "{left} bytes are left");
    let too_much = volume.data.fallocate(other, 0..16 * MIB, true).await;
    assert_eq!(too_much.map(drop), Err(DataError::NoSpace));
    let zeros = volume.data.zero(other, 0..16 * MIB, true).await;
    assert_eq!(zeros.map(drop), Err(DataError::NoSpace));
    volume.fill(other, MIB).await;
    volume.data.sync_all().await.unwrap();
    // A crash and a new mount forget nothing of it.
    let Volume { stored, blobs, data, .. } = volume;
    let crashed = stored.after_crash();
    drop(data);
    let volume = Volume::over(crashed, blobs).await;
    let left = volume.available().await;
    assert!(left < 2 * MIB, "{left} bytes are left after a crash");
    for at in (0..len).step_by(MIB as usize) {
        volume.write(promised, at, vec![3; MIB as usize]).await.unwrap();
    }
    volume.data.fsync(promised).await.unwrap();
    assert_eq!(volume.write(other, 64 * MIB, vec![1; 4 << 20]).await, Err(DataError::NoSpace));
    // What is given up is free for others.
    volume.data.punch(promised, 0..8 * MIB).await.unwrap();
    volume.data.truncate(promised, len - 8 * MIB).await.unwrap();
    let left = volume.available().await;
    assert!(left >= 15 * MIB, "{left} bytes are left after 16 MiB were given up");
    volume.write(other, 64 * MIB, vec![1; 12 << 20]).await.unwrap();
    volume.data.fsync(other).await.unwrap();
    assert_eq!(volume.meta.opened_on().check().await.unwrap().problems, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_clone_is_promised_the_room_to_be_overwritten() {
    let volume = Volume::new().await;
    let (first, second) = (volume.create("first").await, volume.create("second").await);
    let len = volume.available().await / MIB / 2 * MIB;
    for at in (0..len).step_by(MIB as usize) {
        volume.write(first, at, vec![4; MIB as usize]).await.unwrap();
    }
    volume.data.clone_range(first, 0..len, second, 0).await.unwrap();
    let third = volume.create("third").await;
    let more = volume.data.clone_range(first, 0..len, third, 0).await;
    assert_eq!(more.map(drop), Err(DataError::NoSpace));
    for at in (0..len).step_by(MIB as usize) {
        volume.write(second, at, vec![5; MIB as usize]).await.unwrap();
        volume.write(first, at, vec![6; MIB as usize]).await.unwrap();
    }
    volume.data.sync_all().await.unwrap();
    assert!(volume.data.read(second, 0..MIB).await.unwrap() == vec![5; MIB as usize]);
}

#[tokio::test(start_paused = true)]
async fn a_write_that_cannot_be_promised_is_refused_within_three_seconds_while_the_store_stalls() {
    let volume = Volume::new().await;
    let file = volume.create("a").await;
    let len = volume.fill(file, MIB).await;
    volume.data.sync_all().await.unwrap();
    // Half of everything is dead: the cleaner has much to do, and each step of it hangs.
    for at in (0..len).step_by(2 * PAGE as usize) {
        volume.write(file, at, vec![7; PAGE as usize]).await.unwrap();
    }
    volume.blobs.inner.lock().stalled = true;
    let began = Instant::now();
    let refused = volume.write(file, len, vec![1; 2 << 20]).await;
    assert_eq!(refused, Err(DataError::NoSpace));
    assert!(began.elapsed() < Duration::from_secs(4), "it took {:?}", began.elapsed());
    volume.blobs.resume();
    volume.data.fsync(file).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn one_scan_of_all_records_serves_many_victims() {
    let world = World::new(small());
    world.meta.create_file(Ino(2));
    const BLOBS: u64 = 5000;
    for at in 0..BLOBS {
        world.write(Ino(2), at * 100_000, &[8; 500]).await;
        world.data.flush_file(Ino(2)).await.unwrap();
    }
    assert_eq!(world.meta.known().len() as u64, BLOBS);
    // Now the store is nearly full of blobs that take eight times what they hold.
    let full = world.blobs.inner.lock().takes() + MIB;
    world.blobs.inner.lock().capacity = Some(full);
    world.data.learn_space().await;
    world.meta.listed.store(0, Relaxed);
    world.meta.create_file(Ino(3));
    world.write(Ino(3), 0, &Random(3).bytes(16 << 20)).await;
    world.data.sync_all().await.unwrap();
    let emptied = BLOBS.saturating_sub(world.meta.known().len() as u64);
    let listed = world.meta.listed.load(Relaxed);
    assert!(emptied > 1000, "{emptied} blobs were emptied");
    assert!(listed < 64 * emptied + 4 * BLOBS, "{listed} records were read for {emptied} victims");
}

#[tokio::test(start_paused = true)]
async fn clones_that_are_overwritten_page_by_page_keep_no_room_for_ever() {
    let volume = Volume::new().await;
    let (first, second) = (volume.create("first").await, volume.create("second").await);
    let len = volume.available().await / 2 / MIB * MIB;
    for at in (0..len).step_by(MIB as usize) {
        volume.write(first, at, vec![4; MIB as usize]).await.unwrap();
    }
    volume.data.clone_range(first, 0..len, second, 0).await.unwrap();
    let mut random = Random(0x5eed);
    for step in 0..4 * len / PAGE {
        let at = random.below(len / PAGE) * PAGE;
        for file in [first, second] {
            let written = volume.write(file, at, vec![step as u8; PAGE as usize]).await;
            written.unwrap_or_else(|error| panic!("at {at}, step {step}: {error}"));
        }
    }
    volume.data.sync_all().await.unwrap();
    let (one, two) =
        (volume.data.read(first, 0..len).await, volume.data.read(second, 0..len).await);
    assert!(one.unwrap() == two.unwrap());
    assert_eq!(volume.meta.opened_on().check().await.unwrap().problems, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_full_volume_is_overwritten_while_a_slot_is_away() {
    let volume = Volume::new().await;
    let file = volume.create("a").await;
    let len = volume.fill(file, MIB).await;
    volume.data.sync_all().await.unwrap();
    // What is deleted is gone where slots are up, but its records stay.
    volume.blobs.inner.lock().deletes_unconfirmed = true;
    let mut random = Random(0x5eed);
    for step in 0..3 * len / MIB {
        for piece in [MIB, PAGE] {
            let at = random.below(len / piece) * piece;
            let written = volume.write(file, at, vec![step as u8; piece as usize]).await;
            written.unwrap_or_else(|error| panic!("at {at}, step {step}: {error}"));
        }
    }
    volume.data.fsync(file).await.unwrap();
    // Nor do these records make room that is not there.
    assert_eq!(volume.write(file, len, vec![1; 2 << 20]).await, Err(DataError::NoSpace));
    let left = volume.available().await;
    assert!(left < 2 * MIB, "{left} bytes are left on a full volume");
}

#[tokio::test(start_paused = true)]
async fn while_slots_are_away_what_was_stored_since_is_overwritten_for_ever() {
    let volume = Volume::new().await;
    let file = volume.create("a").await;
    let len = volume.fill(file, MIB).await;
    volume.data.sync_all().await.unwrap();
    volume.blobs.inner.lock().lose_two(24 * MIB);
    let mut done = 0;
    let refused = loop {
        match volume.write(file, done, vec![2; MIB as usize]).await {
            Ok(()) => done += MIB,
            Err(error) => break error,
        }
        assert!(done < len, "there was room for everything");
    };
    assert_eq!(refused, DataError::NoSpace);
    // Each byte takes a third more than it gives back, and some room is the cleaner's.
    assert!(done >= 24 * MIB, "{done} bytes of {len} were overwritten");
    volume.data.fsync(file).await.expect("what was taken is stored");
    let mut random = Random(0x5eed);
    for piece in [MIB, PAGE] {
        for step in 0..10 * done / piece {
            let at = random.below(done / piece) * piece;
            let written = volume.write(file, at, vec![step as u8; piece as usize]).await;
            written.unwrap_or_else(|error| panic!("{piece} at {at}, step {step}: {error}"));
        }
        volume.data.fsync(file).await.unwrap();
    }
    let began = Instant::now();
    let refused = volume.write(file, len - MIB, vec![3; MIB as usize]).await;
    assert_eq!(refused, Err(DataError::NoSpace));
    assert!(began.elapsed() < Duration::from_secs(4), "it took {:?}", began.elapsed());
    volume.blobs.inner.lock().return_two(96 * MIB);
    for round in 0..3 {
        for at in (0..len).step_by(MIB as usize) {
            let written = volume.write(file, at, vec![round; MIB as usize]).await;
            written.unwrap_or_else(|error| panic!("at {at} with all back: {error}"));
        }
    }
    volume.data.sync_all().await.unwrap();
    assert!(volume.data.read(file, 0..len).await.unwrap() == vec![2; len as usize]);
    assert_eq!(volume.meta.opened_on().check().await.unwrap().problems, Vec::<String>::new());
}

/// What is logged, as text.
#[derive(Clone, Default)]
struct Log(Arc<parking_lot::Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_blob_that_was_deleted_since_it_was_listed_is_not_called_lost() {
    let log = Log::default();
    let written = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || written.clone()).finish();
    let _logged = tracing::subscriber::set_default(subscriber);
    let world = super::space_tests::half_dead().await;
    let full = world.blobs.inner.lock().takes() + 300 * 1024;
    {
        let mut inner = world.blobs.inner.lock();
        (inner.capacity, inner.delay) = (Some(full), Duration::from_millis(20));
    }
    world.data.learn_space().await;
    world.meta.create_file(Ino(20));
    let data = world.data.clone();
    let writer = tokio::spawn(async move {
        data.write(Ino(20), 0, Bytes::from(vec![9; 24 << 20]), NOW).await.unwrap();
        data.sync_all().await.unwrap();
    });
    // While the cleaner is at work, all that it has listed goes.
    while world.data.status().bytes_cleaned == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for ino in 2..10 {
        world.meta.remove_file(Ino(ino));
        world.data.discard(Ino(ino));
    }
    writer.await.unwrap();
    let said = String::from_utf8(log.0.lock().clone()).unwrap();
    assert!(!said.contains("lost") && !said.contains("left alone"), "{said}");
}
