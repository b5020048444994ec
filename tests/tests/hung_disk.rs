//! Promise: a disk that hangs is a lost disk. Reads and writes go on, nothing waits long, whoever asks
//! is told, everything can be ended while it hangs, and it is used again when it answers.
//!
//! The disk is a directory on a FUSE mount whose process is stopped. It has neighbours: in the process
//! of the mount, or in the same daemon.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use nix::libc::O_DIRECT;
use nix::sys::signal::Signal;
use tests::cluster::can_mount;
use tests::direct::{Aligned, BLOCK};
use tests::hanging::Rig;
use tests::load::{Load, Seen};
use tests::process::{PATIENCE, bounded, wait_until};
use tests::seed::{Seed, content, first_difference};

/// What a disk that hangs may cost any single call.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// After this everybody is told that it hangs, or that it is back.
const NOTICED: Duration = Duration::from_secs(15);
/// After this an end that was asked for must have come.
const ENDED: Duration = Duration::from_secs(20);

#[test]
fn the_mounts_own_disk_hangs_and_comes_back() -> Result<()> {
    hangs_and_comes_back(false)
}

#[test]
fn a_disk_of_a_daemon_with_several_hangs_and_comes_back() -> Result<()> {
    hangs_and_comes_back(true)
}

fn hangs_and_comes_back(with_daemons: bool) -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut seed = Seed::announced("hung disk");
    let mut rig = Rig::start(with_daemons)?;
    store_cold(&rig.path())?;
    let mut load = Load::start(&rig.path(), 3, 2, 60, &mut seed);
    load.progress(500)?;
    let cold = ColdReaders::start(&rig.path(), &mut seed);
    for round in 0..2 {
        println!("round {round}: the disk hangs, at {} operations", load.done());
        rig.hang()?;
        load.progress(1000)?;
        let one_is_down = |rig: &Rig| {
            let states = rig.states(LONGEST_WAIT)?;
            ensure!(states[1..].iter().all(|state| state == "up"), "healthy disks: {states:?}");
            anyhow::Ok(states[0].contains("hang"))
        };
        wait_until("status to say that it hangs", NOTICED, || one_is_down(&rig).unwrap_or(false))?;
        one_is_down(&rig)?;
        if with_daemons {
            let one_hangs =
                |text: &str| text.contains("hangs") && text.matches("  ok  ").count() == 2;
            wait_until("the daemon to say that it hangs", NOTICED, || {
                rig.daemon_says(LONGEST_WAIT).is_ok_and(|text| one_hangs(&text))
            })?;
        }
        let path = rig.path();
        bounded("statfs", LONGEST_WAIT, move || nix::sys::statvfs::statvfs(&path))??;
        load.progress(500)?;
        rig.answer()?;
        wait_until("the disk to be used again", NOTICED, || {
            rig.states(LONGEST_WAIT).is_ok_and(|states| states.iter().all(|state| state == "up"))
        })?;
        load.progress(300)?;
    }
    ensure!(cold.stop()? > 0, "nothing was read");
    unharmed(&load.stop(PATIENCE)?)?;
    rig.end_mount(None, ENDED)?;
    rig.mount()?;
    println!("{} files verified", load.ledger().verify(&rig.path(), false)?);
    rig.end_mount(None, ENDED)?;
    rig.answer()
}

#[test]
fn everything_can_be_ended_while_the_mounts_own_disk_hangs() -> Result<()> {
    can_be_ended(false)
}

#[test]
fn everything_can_be_ended_while_a_disk_of_a_daemon_hangs() -> Result<()> {
    can_be_ended(true)
}

fn can_be_ended(with_daemons: bool) -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut seed = Seed::announced("ended while hung");
    let mut rig = Rig::start(with_daemons)?;
    store_cold(&rig.path())?;
    for (by, known) in [(None, true), (Some(Signal::SIGTERM), true), (Some(Signal::SIGTERM), false)]
    {
        let mut load = Load::start(&rig.path(), 2, 2, 40, &mut seed);
        load.progress(200)?;
        let cold = ColdReaders::start(&rig.path(), &mut seed);
        if known {
            rig.hang()?;
            load.progress(200)?;
            wait_until("status to say that it hangs", NOTICED, || {
                rig.states(LONGEST_WAIT).is_ok_and(|states| states[0].contains("hang"))
            })?;
        }
        cold.stop()?;
        unharmed(&load.stop(PATIENCE)?)?;
        // Or in this very moment.
        rig.hang()?;
        let began = Instant::now();
        rig.end_mount(by, ENDED)?;
        println!("ended by {by:?} after {:?}", began.elapsed());
        let began = Instant::now();
        rig.end_daemons(ENDED)?;
        println!("daemons ended after {:?}", began.elapsed());
        rig.answer()?;
        rig.serve()?;
        rig.mount()?;
        println!("{} files verified", load.ledger().verify(&rig.path(), false)?);
        for file in load.ledger().entries() {
            std::fs::remove_file(rig.path().join(file.name))?;
        }
    }
    rig.end_mount(None, ENDED)?;
    rig.answer()
}

/// Files with parts on every disk, far more than the mount keeps in memory, and their length.
const COLD: (u64, usize) = (100, 512 << 10);
/// Threads that read them: more than there are threads for a disk.
const READERS: u64 = 16;

fn cold(root: &Path, number: u64) -> PathBuf {
    root.join(format!("cold-{number}"))
}

fn store_cold(root: &Path) -> Result<()> {
    for number in 0..COLD.0 {
        std::fs::write(cold(root, number), content(number, COLD.1))?;
    }
    Ok(nix::unistd::syncfs(File::open(root)?)?)
}

/// Threads that read past the page cache, each from anywhere.
struct ColdReaders {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<(u64, Duration)>>>,
}

impl ColdReaders {
    fn start(root: &Path, seed: &mut Seed) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let reader = |_| {
            let (root, stop, seed) = (root.to_owned(), stop.clone(), seed.fork());
            std::thread::spawn(move || read_cold(&root, &stop, seed))
        };
        let threads = (0..READERS).map(reader).collect();
        Self { stop, threads }
    }

    /// How many they have read.
    fn stop(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let join = move || self.threads.into_iter().map(JoinHandle::join).collect::<Vec<_>>();
        let (mut done, mut slowest) = (0, Duration::ZERO);
        for read in bounded("the end of the readers", PATIENCE, join)? {
            let (more, wait) = read.map_err(|_| anyhow!("a reader panicked"))??;
            (done, slowest) = (done + more, slowest.max(wait));
        }
        println!("{done} cold reads, the slowest {slowest:?}");
        ensure!(slowest <= LONGEST_WAIT, "a cold read took {slowest:?}");
        Ok(done)
    }
}

/// How many it has read, and the longest that one took.
fn read_cold(root: &Path, stop: &AtomicBool, mut seed: Seed) -> Result<(u64, Duration)> {
    let mut block = Box::new(Aligned([0; BLOCK]));
    let (mut done, mut slowest) = (0, Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        let (number, at) = (seed.below(COLD.0), seed.below((COLD.1 / BLOCK) as u64) * BLOCK as u64);
        let began = Instant::now();
        let mut options = File::options();
        let file = options.read(true).custom_flags(O_DIRECT).open(cold(root, number))?;
        file.read_exact_at(&mut block.0, at).context("a cold read")?;
        slowest = slowest.max(began.elapsed());
        ensure!(first_difference(number, at, &block.0).is_none(), "file {number}, wrong at {at}");
        done += 1;
    }
    Ok((done, slowest))
}

fn unharmed(seen: &Seen) -> Result<()> {
    println!("{} operations, the slowest {:?}", seen.done, seen.slowest);
    ensure!(seen.errors.is_empty(), "{} errors: {:?}", seen.errors.len(), &seen.errors[..1]);
    ensure!(seen.wrong.is_empty(), "wrong bytes: {:?}", seen.wrong);
    ensure!(seen.slowest.0 <= LONGEST_WAIT, "{} took {:?}", seen.slowest.1, seen.slowest.0);
    Ok(())
}
