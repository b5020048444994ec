//! Load with a memory: threads that write and read files and know, for every file, what it must hold.
//!
//! A [`Load`] runs in a directory of a mount until it is stopped. Each of its operations is timed, each
//! error kept, and each byte read is compared. The [`Ledger`] outlives it (and the mount): what was
//! acknowledged is in it, and can be verified after a crash.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use crate::process::{PATIENCE, bounded, wait_until};
use crate::seed::{Seed, content, fill, first_difference};

/// A file that was written and closed without an error.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Where it is, below the load's directory.
    pub name: PathBuf,
    /// Number that its content is made from.
    pub stamp: u64,
    /// Its length.
    pub len: usize,
    /// Whether fsync has returned for it.
    pub synced: bool,
}

/// What the load has stored and not deleted, by thread.
#[derive(Default)]
pub struct Ledger {
    stored: Mutex<Vec<Stored>>,
}

impl Ledger {
    /// A copy of all entries.
    pub fn entries(&self) -> Vec<Stored> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Stored>> {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn any(&self, seed: &mut Seed) -> Option<Stored> {
        let stored = self.lock();
        let at = seed.below(stored.len().max(1) as u64);
        stored.get(usize::try_from(at).expect("an index")).cloned()
    }

    /// Takes the oldest file of one writer out, once it has more than `keep`.
    fn overdue(&self, prefix: &str, keep: usize) -> Option<Stored> {
        let mut stored = self.lock();
        let of_writer = |file: &Stored| file.name.to_string_lossy().starts_with(prefix);
        if stored.iter().filter(|file| of_writer(file)).count() <= keep {
            return None;
        }
        let at = stored.iter().position(of_writer)?;
        Some(stored.remove(at))
    }

    /// Compares every file with what it must hold; with `synced_only`, those that fsync returned for.
    pub fn verify(&self, root: &Path, synced_only: bool) -> Result<usize> {
        let files: Vec<Stored> =
            self.entries().into_iter().filter(|file| file.synced || !synced_only).collect();
        for file in &files {
            let path = root.join(&file.name);
            let bytes = std::fs::read(&path).with_context(|| format!("{file:?} was stored"))?;
            ensure!(bytes.len() == file.len, "{file:?} is {} bytes long", bytes.len());
            let wrong = first_difference(file.stamp, 0, &bytes);
            ensure!(wrong.is_none(), "{file:?} has a wrong byte at {wrong:?}");
        }
        Ok(files.len())
    }
}

/// What disks that are lost or hang may cost any single system call.
pub const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// What a load has seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// Operations that ended well.
    pub done: u64,
    /// The longest any operation took, and which.
    pub slowest: (Duration, String),
    /// Operations that failed: which, and how.
    pub errors: Vec<(String, io::Error)>,
    /// Bytes read that were not what had been written.
    pub wrong: Vec<String>,
}

impl Seen {
    /// Did everything go well, however long it took?
    pub fn went_well(&self) -> Result<()> {
        println!("{} operations, the slowest {:?}", self.done, self.slowest);
        ensure!(self.errors.is_empty(), "{} errors: {:?}", self.errors.len(), &self.errors[..1]);
        ensure!(self.wrong.is_empty(), "wrong bytes: {:?}", self.wrong);
        Ok(())
    }

    /// Was nothing noticed of what happened to disks meanwhile?
    pub fn unharmed(&self) -> Result<()> {
        self.went_well()?;
        let (took, what) = &self.slowest;
        ensure!(*took <= LONGEST_WAIT, "{what} took {took:?}");
        Ok(())
    }
}

struct Shared {
    root: PathBuf,
    ledger: Ledger,
    seen: Mutex<Seen>,
    done: AtomicU64,
    stop: AtomicBool,
    /// Files that one writer keeps before it deletes old ones.
    keep: usize,
}

/// Threads at work in a directory.
pub struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts writers and readers in `root`, which exists. Each writer keeps `keep` files.
    pub fn start(root: &Path, writers: u64, readers: u64, keep: usize, seed: &mut Seed) -> Self {
        let shared = Arc::new(Shared {
            root: root.to_owned(),
            ledger: Ledger::default(),
            seen: Mutex::default(),
            done: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            keep,
        });
        let mut threads = Vec::new();
        for writer in 0..writers {
            let (shared, seed) = (Arc::clone(&shared), seed.fork());
            threads.push(std::thread::spawn(move || shared.write_files(writer, seed)));
        }
        for _ in 0..readers {
            let (shared, seed) = (Arc::clone(&shared), seed.fork());
            threads.push(std::thread::spawn(move || shared.read_files(seed)));
        }
        Self { shared, threads }
    }

    /// Waits until `more` further operations have ended well (or until all threads gave up).
    pub fn progress(&self, more: u64) -> Result<()> {
        let target = self.shared.done.load(Ordering::Relaxed) + more;
        wait_until(&format!("{more} more operations"), 2 * PATIENCE, || {
            self.shared.done.load(Ordering::Relaxed) >= target
                || self.threads.iter().all(JoinHandle::is_finished)
        })
    }

    /// Operations that have ended well so far.
    pub fn done(&self) -> u64 {
        self.shared.done.load(Ordering::Relaxed)
    }

    /// The files it has stored.
    pub fn ledger(&self) -> &Ledger {
        &self.shared.ledger
    }

    /// Stops it; fails when a thread is still in a system call after `bound`.
    pub fn stop(&mut self, bound: Duration) -> Result<Seen> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let threads = std::mem::take(&mut self.threads);
        let panicked = bounded("stopping the load", bound, move || {
            threads.into_iter().filter_map(|thread| thread.join().err()).count()
        })?;
        ensure!(panicked == 0, "{panicked} threads of the load panicked");
        let mut seen =
            std::mem::take(&mut *self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner));
        seen.done = self.done();
        Ok(seen)
    }
}

impl Shared {
    fn runs(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// Does and times one operation; its error is kept, and its answer then `None`.
    fn timed<T>(
        &self,
        what: impl FnOnce() -> String,
        work: impl FnOnce() -> io::Result<T>,
    ) -> Option<T> {
        let start = Instant::now();
        let answer = work();
        let took = start.elapsed();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let slow = took > seen.slowest.0;
        if !slow && answer.is_ok() {
            self.done.fetch_add(1, Ordering::Relaxed);
            return answer.ok();
        }
        let what = what();
        if slow {
            seen.slowest = (took, what.clone());
        }
        match answer {
            Ok(answer) => {
                self.done.fetch_add(1, Ordering::Relaxed);
                Some(answer)
            }
            Err(error) => {
                seen.errors.push((what, error));
                None
            }
        }
    }

    fn write_files(&self, writer: u64, mut seed: Seed) {
        let prefix = format!("w{writer}-");
        let mut failures = 0;
        for number in 0.. {
            // A mount that is gone fails every call: no use in asking it for ever.
            if !self.runs() || failures > 20 {
                return;
            }
            match self.write_file(&prefix, number, &mut seed) {
                Some(stored) => self.ledger.lock().push(stored),
                None => failures += 1,
            }
            if let Some(old) = self.ledger.overdue(&prefix, self.keep) {
                let path = self.root.join(&old.name);
                self.timed(|| format!("unlink {path:?}"), || std::fs::remove_file(&path));
            }
        }
    }

    fn write_file(&self, prefix: &str, number: u64, seed: &mut Seed) -> Option<Stored> {
        let (stamp, len, synced) = (seed.next_u64(), seed.file_len(), seed.chance(40));
        let name = PathBuf::from(format!("{prefix}{number}"));
        let path = self.root.join(&name);
        let bytes = content(stamp, len);
        let mut file = self.timed(|| format!("create {path:?}"), || File::create_new(&path))?;
        for chunk in bytes.chunks(256 << 10) {
            self.timed(|| format!("write {path:?}"), || file.write_all(chunk))?;
        }
        if synced {
            self.timed(|| format!("fsync {path:?}"), || file.sync_all())?;
        }
        Some(Stored { name, stamp, len, synced })
    }

    fn read_files(&self, mut seed: Seed) {
        let mut failures = 0;
        while self.runs() && failures <= 20 {
            let Some(stored) = self.ledger.any(&mut seed) else {
                std::thread::yield_now();
                continue;
            };
            if self.read_file(&stored, &mut seed).is_none() {
                failures += 1;
            }
        }
    }

    /// Reads a piece of a stored file, most often past the page cache.
    fn read_file(&self, stored: &Stored, seed: &mut Seed) -> Option<()> {
        let path = self.root.join(&stored.name);
        let offset = seed.below(stored.len.max(1) as u64);
        let rest = stored.len as u64 - offset.min(stored.len as u64);
        let len = usize::try_from(rest.min(seed.below(512 << 10))).expect("a small length");
        let mut bytes = vec![0; len];
        let file = match File::open(&path) {
            // A writer deletes its oldest files, maybe this one just now.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Some(()),
            opened => self.timed(|| format!("open {path:?}"), || opened)?,
        };
        if seed.chance(80) {
            // Only a hint: a page that stays cached makes the test easier, not wrong.
            let _ = posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
        }
        self.timed(
            || format!("read {len} at {offset} of {path:?}"),
            || file.read_exact_at(&mut bytes, offset),
        )?;
        if let Some(at) = first_difference(stored.stamp, offset, &bytes) {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.wrong.push(format!("{stored:?}: wrong byte at {at}"));
        }
        Some(())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

/// Bytes of one block of a [`BlockFile`].
const BLOCK: usize = 4096;

/// A file of blocks that are overwritten in place, like a database's: after a crash every block must
/// hold a version that is not older than the last fsync and not newer than the last write.
pub struct BlockFile {
    name: PathBuf,
    stamp: u64,
    written: Vec<u64>,
    synced: Vec<u64>,
}

impl BlockFile {
    /// Creates it with `blocks` blocks of version 0, durably.
    pub fn create(root: &Path, name: &str, blocks: usize, stamp: u64) -> Result<Self> {
        let mut file =
            Self { name: name.into(), stamp, written: vec![0; blocks], synced: vec![0; blocks] };
        let handle = File::create_new(root.join(name))?;
        for block in 0..blocks {
            handle.write_all_at(&file.block(block, 0), (block * BLOCK) as u64)?;
        }
        handle.sync_all()?;
        file.synced.fill(0);
        Ok(file)
    }

    fn block(&self, block: usize, version: u64) -> Vec<u8> {
        let mut bytes = vec![0; BLOCK];
        fill(self.stamp ^ version.wrapping_mul(0x1_0001), (block * BLOCK) as u64, &mut bytes);
        bytes[..8].copy_from_slice(&version.to_le_bytes());
        bytes
    }

    /// Overwrites random blocks, with an fsync now and then, until an error says that the mount is gone
    /// (the answer) or `rounds` are done.
    pub fn work(&mut self, root: &Path, rounds: usize, seed: &mut Seed) -> Option<io::Error> {
        let handle = match File::options().write(true).open(root.join(&self.name)) {
            Ok(handle) => handle,
            Err(error) => return Some(error),
        };
        for _ in 0..rounds {
            let block = usize::try_from(seed.below(self.written.len() as u64)).expect("an index");
            // Counted before it is written: a write that a crash interrupts may or may not be there.
            self.written[block] += 1;
            let bytes = self.block(block, self.written[block]);
            if let Err(error) = handle.write_all_at(&bytes, (block * BLOCK) as u64) {
                return Some(error);
            }
            if seed.chance(10) {
                if let Err(error) = handle.sync_data() {
                    return Some(error);
                }
                self.synced.copy_from_slice(&self.written);
            }
        }
        None
    }

    /// Checks every block, and goes on from what is there.
    pub fn verify(&mut self, root: &Path) -> Result<()> {
        let bytes =
            std::fs::read(root.join(&self.name)).with_context(|| format!("{:?}", self.name))?;
        ensure!(
            bytes.len() == self.written.len() * BLOCK,
            "{:?} is {} bytes",
            self.name,
            bytes.len()
        );
        for (block, bytes) in bytes.chunks(BLOCK).enumerate() {
            let version = u64::from_le_bytes(bytes[..8].try_into()?);
            let (synced, written) = (self.synced[block], self.written[block]);
            ensure!(
                (synced..=written).contains(&version),
                "block {block} of {:?} has version {version}, fsync returned for {synced}, last written {written}",
                self.name
            );
            ensure!(
                bytes == self.block(block, version),
                "block {block} of {:?} is torn",
                self.name
            );
            (self.synced[block], self.written[block]) = (version, version);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_load_finds_a_byte_that_was_changed_behind_its_back() {
        let directory = tempfile::tempdir().unwrap();
        let mut load = Load::start(directory.path(), 2, 0, 20, &mut Seed::new(1));
        load.progress(100).unwrap();
        let seen = load.stop(PATIENCE).unwrap();
        assert!(seen.errors.is_empty() && seen.wrong.is_empty(), "{seen:?}");
        assert!(load.ledger().verify(directory.path(), false).unwrap() > 0);
        let file = load.ledger().entries().into_iter().find(|file| file.len > 0).unwrap();
        let handle = File::options().write(true).open(directory.path().join(&file.name)).unwrap();
        let old = content(file.stamp, 1)[0];
        handle.write_all_at(&[!old], 0).unwrap();
        let error = load.ledger().verify(directory.path(), false).unwrap_err();
        assert!(error.to_string().contains("wrong byte"), "{error:#}");
    }

    #[test]
    fn a_block_older_than_its_fsync_or_torn_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let mut file = BlockFile::create(root, "blocks", 8, 3).unwrap();
        assert!(file.work(root, 200, &mut Seed::new(2)).is_none());
        file.verify(root).unwrap();
        let handle = File::options().write(true).open(root.join("blocks")).unwrap();
        let (good, old) = (file.block(0, file.written[0]), file.block(0, 0));
        handle.write_all_at(&old, 0).unwrap();
        assert!(file.verify(root).unwrap_err().to_string().contains("version 0"));
        handle.write_all_at(&good[..2048], 0).unwrap();
        assert!(file.verify(root).unwrap_err().to_string().contains("torn"));
    }
}
