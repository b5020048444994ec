//! Promise: what a mount takes of memory is bounded, whatever is done with it, and shown by kind.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nix::libc::O_DIRECT;
use tests::cluster::{Demo, Mode, Setup, Stop, can_mount};
use tests::seed::Seed;

/// Bytes of each file.
const FILE: usize = 24 << 20;
/// Programs at once, and files that each makes, uses and removes.
const PROGRAMS: u64 = 4;
const FILES: u64 = 6;
/// Reads and writes of each file.
const STEPS: usize = 400;
/// Lengths of them: buffers of many sizes.
const LENGTHS: [usize; 7] = [4 << 10, 8 << 10, 16 << 10, 64 << 10, 128 << 10, 256 << 10, 1 << 20];
/// What the mount may take at its default settings, in bytes.
const MOST: u64 = 512 << 20;
const BLOCK: usize = 4096;

/// Writes and reads at random places, past the page cache.
fn use_one(path: &Path, mut seed: Seed) -> Result<()> {
    let mut options = File::options();
    let file = options.read(true).write(true).create_new(true).custom_flags(O_DIRECT).open(path)?;
    let mut memory = vec![7u8; (1 << 20) + BLOCK];
    let aligned = memory.as_ptr().align_offset(BLOCK);
    let buffer = &mut memory[aligned..aligned + (1 << 20)];
    for _ in 0..STEPS {
        let len = LENGTHS[seed.below(LENGTHS.len() as u64) as usize];
        let at = seed.below(((FILE - len) / BLOCK) as u64) * BLOCK as u64;
        if seed.chance(50) {
            file.write_all_at(&buffer[..len], at)?;
        } else {
            file.read_at(&mut buffer[..len], at)?;
        }
    }
    drop(file);
    Ok(fs::remove_file(path)?)
}

fn use_many(directory: PathBuf, mut seed: Seed, program: u64) -> Result<()> {
    for nth in 0..FILES {
        use_one(&directory.join(format!("file-{program}-{nth}")), seed.fork())?;
    }
    Ok(())
}

fn files_that_come_and_go(mode: Mode) -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut seed = Seed::announced("files that come and go");
    let mut demo = Demo::start(Setup::new(mode))?;
    let programs: Vec<_> = (0..PROGRAMS)
        .map(|program| {
            let (directory, seed) = (demo.path(), seed.fork());
            std::thread::spawn(move || use_many(directory, seed, program))
        })
        .collect();
    for program in programs {
        program.join().map_err(|_| anyhow::anyhow!("a program panicked"))??;
    }
    let peak = demo.peak_memory()?[&None];
    println!("{mode:?}: {} MiB at most", peak >> 20);
    ensure!(peak < MOST, "{mode:?}: the mount took {} MiB", peak >> 20);
    demo.stop(Stop::Umount).context("it ends as ever")
}

#[test]
fn a_mount_stays_small_while_files_come_and_go() -> Result<()> {
    files_that_come_and_go(Mode::Embedded)
}

#[test]
fn a_mount_with_daemons_stays_small_while_files_come_and_go() -> Result<()> {
    files_that_come_and_go(Mode::Daemons)
}
