//! What disk I/O and the whole write path cost, in CPU time of this process (the wall clock of a
//! shared machine says little): `cargo bench -p storaged`, on the disk that holds TMPDIR.
//!
//! * The same writes and reads by a pool of threads (pread, pwrite) and by one io_uring: this decided
//!   for the threads.
//! * Puts and gets of a [`storaged::Disk`], from the caller's future to the synced record.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use io_uring::{IoUring, opcode, types};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use proto::checksum::Checked;
use proto::id::{BlobId, ClusterId, Generation, GroupId, PartKey, SessionId, SlotId, VolumeId};
use proto::part_store::PartStore;
use storaged::{Disk, DiskOptions, InitOptions, init_disk};

const DEPTH: usize = 8;
const FILE: u64 = 256 << 20;

/// CPU time of the process so far, user and system.
fn cpu() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("own usage is known");
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Duration::from_micros(micros as u64)
}

/// Runs, and prints what it cost.
fn report(name: &str, operations: u64, bytes: u64, run: impl FnOnce()) {
    let (started, before) = (Instant::now(), cpu());
    run();
    let (wall, spent) = (started.elapsed(), cpu() - before);
    let gib = bytes as f64 / (1u64 << 30) as f64;
    println!(
        "{name:28} {:8.0} MiB/s  {:6.3} CPU-s/GiB  {:7.1} us CPU each",
        gib * 1024.0 / wall.as_secs_f64(),
        spent.as_secs_f64() / gib,
        spent.as_secs_f64() * 1e6 / operations as f64,
    );
}

/// Memory aligned for direct I/O, cut out of a larger vector.
fn aligned(len: usize) -> (Vec<u8>, usize) {
    let buf = vec![0x5a; len + 4096];
    let start = buf.as_ptr().align_offset(4096);
    (buf, start)
}

fn by_threads(file: &Arc<File>, block: usize, count: u64, write: bool) {
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..DEPTH {
            scope.spawn(|| {
                let (mut buf, start) = aligned(block);
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    let (buf, at) = (&mut buf[start..start + block], number * block as u64);
                    let done = if write {
                        file.write_all_at(buf, at)
                    } else {
                        file.read_exact_at(buf, at)
                    };
                    done.expect("I/O on the bench file");
                }
            });
        }
    });
}

#[allow(unsafe_code)]
fn by_ring(file: &Arc<File>, block: usize, count: u64, write: bool) {
    let mut ring = IoUring::new(DEPTH as u32).expect("io_uring is allowed here");
    let mut buffers: Vec<_> = (0..DEPTH).map(|_| aligned(block)).collect();
    let fd = types::Fd(file.as_raw_fd());
    let (mut next, mut done) = (0, 0);
    let mut idle: Vec<usize> = (0..DEPTH).collect();
    while done < count {
        while next < count
            && let Some(slot) = idle.pop()
        {
            let (buf, start) = &mut buffers[slot];
            let (at, len) = (next * block as u64, block as u32);
            let pointer = buf[*start..].as_mut_ptr();
            let entry = if write {
                opcode::Write::new(fd, pointer, len).offset(at).build()
            } else {
                opcode::Read::new(fd, pointer, len).offset(at).build()
            };
            // SAFETY: the buffer outlives the ring's use of it: a slot is idle, and its buffer
            // touched again, only after its completion was seen.
            unsafe { ring.submission().push(&entry.user_data(slot as u64)) }
                .expect("there is room");
            next += 1;
        }
        ring.submit_and_wait(1).expect("the ring takes what is pushed");
        for completion in ring.completion() {
            assert_eq!(completion.result(), block as i32, "a whole transfer");
            idle.push(completion.user_data() as usize);
            done += 1;
        }
    }
}

fn raw(dir: &Path) {
    let path = dir.join("raw");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(nix::libc::O_DIRECT)
        .open(path)
        .expect("a file for direct I/O");
    let file = Arc::new(file);
    by_threads(&file, 1 << 20, FILE >> 20, true);
    for block in [4 << 10, 64 << 10, 1 << 20] {
        let count = (FILE / block as u64).min(16_384);
        let bytes = count * block as u64;
        for (what, write) in [("write", true), ("read", false)] {
            let name = |by: &str| format!("{what} {} KiB, {by}", block >> 10);
            report(&name("threads"), count, bytes, || by_threads(&file, block, count, write));
            report(&name("io_uring"), count, bytes, || by_ring(&file, block, count, write));
        }
    }
}

fn key(sequence: u64, len: u32) -> PartKey {
    let scheme = "copies(1)".parse().expect("a scheme");
    let blob = BlobId::new(VolumeId(1), SessionId(1), sequence, GroupId(0), len, scheme)
        .expect("a length");
    PartKey::new(blob, 0).expect("a part")
}

fn whole_disk(dir: &Path) {
    let dir = dir.join("disk");
    let options = InitOptions { capacity: Some(8 << 30), ..InitOptions::default() };
    init_disk(&dir, ClusterId::random(), options).expect("an empty directory");
    let disk = Disk::open(&dir, DiskOptions::default()).expect("a fresh disk");
    let store: Arc<dyn PartStore> = disk.slot(SlotId(0), GroupId(0), Generation(1));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let mut first = 0;
    for (len, count, depth) in
        [(4096u32, 2_000u64, 1), (4096, 20_000, 32), (64 << 10, 8_000, 8), (1 << 20, 1_024, 8)]
    {
        // As it comes from gRPC: not aligned, so the copy into the batch is counted.
        let data = Checked::compute(Bytes::from(vec![7; len as usize + 1]).slice(1..));
        let keys = move || (first..first + count).map(move |n| key(n, len));
        let name = |what: &str| format!("disk: {what} {} KiB, {depth} at once", len >> 10);
        let bytes = count * u64::from(len);
        report(&name("put"), count, bytes, || {
            let puts = futures::stream::iter(keys().map(|key| store.put(key, data.clone(), None)));
            let all = puts.buffer_unordered(depth).for_each(|done| async { done.expect("room") });
            runtime.block_on(all);
        });
        report(&name("get"), count, bytes, || {
            let gets = futures::stream::iter(keys().map(|key| store.get(key, 0..len)));
            let all = gets.buffer_unordered(depth).for_each(|done| async {
                done.expect("it was put");
            });
            runtime.block_on(all);
        });
        first += count;
    }
}

fn main() {
    // `cargo test` builds benches too, and runs them without this flag.
    if !std::env::args().any(|arg| arg == "--bench") {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory for the bench");
    raw(dir.path());
    whole_disk(dir.path());
}
