//! Files that nobody has in memory, and threads that read them: every read asks the disks.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use nix::libc::O_DIRECT;

use crate::direct::{Aligned, BLOCK};
use crate::load::LONGEST_WAIT;
use crate::process::{PATIENCE, bounded, wait_until};
use crate::seed::{Seed, content, first_difference};

/// Files with parts on every disk, and their length: far more than a small mount keeps in memory.
const FILES: (u64, usize) = (100, 512 << 10);
/// Threads that read them: more than there are threads for a disk.
const READERS: u64 = 16;

fn name(root: &Path, number: u64) -> PathBuf {
    root.join(format!("cold-{number}"))
}

/// Writes the files.
pub fn store(root: &Path) -> Result<()> {
    for number in 0..FILES.0 {
        std::fs::write(name(root, number), content(number, FILES.1))?;
    }
    Ok(nix::unistd::syncfs(File::open(root)?)?)
}

/// Threads that read past the page cache, each from anywhere.
pub struct Readers {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Result<Duration>>>,
}

impl Readers {
    /// Starts them where the files were stored.
    pub fn start(root: &Path, seed: &mut Seed) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let reader = |_| {
            let (root, stop, done) = (root.to_owned(), stop.clone(), done.clone());
            let seed = seed.fork();
            std::thread::spawn(move || read(&root, &stop, &done, seed))
        };
        let threads = (0..READERS).map(reader).collect();
        Self { stop, done, threads }
    }

    /// Waits until so many more were read, or one of the threads has ended, which [`Self::stop`] tells of.
    pub fn progress(&self, more: u64) -> Result<()> {
        let target = self.done.load(Ordering::Relaxed) + more;
        wait_until(&format!("{more} more cold reads"), 2 * PATIENCE, || {
            self.done.load(Ordering::Relaxed) >= target
                || self.threads.iter().any(JoinHandle::is_finished)
        })
    }

    /// How many they have read. Fails when a read failed, was wrong, or took longer than
    /// [`LONGEST_WAIT`].
    pub fn stop(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let join = move || self.threads.into_iter().map(JoinHandle::join).collect::<Vec<_>>();
        let mut slowest = Duration::ZERO;
        for read in bounded("the end of the readers", PATIENCE, join)? {
            slowest = slowest.max(read.map_err(|_| anyhow!("a reader panicked"))??);
        }
        let done = self.done.load(Ordering::Relaxed);
        println!("{done} cold reads, the slowest {slowest:?}");
        ensure!(slowest <= LONGEST_WAIT, "a cold read took {slowest:?}");
        Ok(done)
    }
}

/// Reads until told to stop; the longest that one took.
fn read(root: &Path, stop: &AtomicBool, done: &AtomicU64, mut seed: Seed) -> Result<Duration> {
    let mut block = Box::new(Aligned([0; BLOCK]));
    let mut slowest = Duration::ZERO;
    while !stop.load(Ordering::Relaxed) {
        let (number, at) =
            (seed.below(FILES.0), seed.below((FILES.1 / BLOCK) as u64) * BLOCK as u64);
        let began = Instant::now();
        let mut options = File::options();
        let file = options.read(true).custom_flags(O_DIRECT).open(name(root, number))?;
        file.read_exact_at(&mut block.0, at).context("a cold read")?;
        slowest = slowest.max(began.elapsed());
        ensure!(first_difference(number, at, &block.0).is_none(), "file {number}, wrong at {at}");
        done.fetch_add(1, Ordering::Relaxed);
    }
    Ok(slowest)
}
