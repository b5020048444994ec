//! Promise: what a disk has lost or mangled is never served and never in the way. The index is rebuilt
//! from the logs; files are read through their other parts.
//!
//! That every single byte of a record is covered is shown where records are made, in `storaged`; here
//! whole disks are damaged under a real mount.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Result, ensure};
use tests::cluster::{Demo, Mode, Setup, Stop, can_mount};
use tests::load::{Ledger, Load};
use tests::process::{PATIENCE, shell};
use tests::seed::Seed;

#[test]
fn lost_and_cut_indices_are_rebuilt_embedded() -> Result<()> {
    lost_and_cut_indices_are_rebuilt(Mode::Embedded)
}

#[test]
fn lost_and_cut_indices_are_rebuilt_with_daemons() -> Result<()> {
    lost_and_cut_indices_are_rebuilt(Mode::Daemons)
}

fn lost_and_cut_indices_are_rebuilt(mode: Mode) -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut seed = Seed::announced("index");
    let (mut demo, load) = filled(mode, &mut seed)?;
    demo.stop(Stop::Umount)?;
    // Every disk but two: had an index not been rebuilt, nothing could be read.
    for disk in 0..6 {
        let index = demo.disk(disk).join("index.redb");
        let len = fs::metadata(&index)?.len();
        let file = File::options().write(true).open(&index)?;
        match disk % 3 {
            0 => fs::remove_file(&index)?,
            1 => file.set_len(seed.below(len))?,
            _ => file.write_all_at(&tests::seed::content(seed.next_u64(), 8192), 0)?,
        }
    }
    demo.mount()?;
    println!("{} files verified", load.ledger().verify(&demo.path(), false)?);
    more_is_stored(&demo, &mut seed)?;
    demo.remount()?;
    load.ledger().verify(&demo.path(), false)?;
    demo.stop(Stop::Umount)
}

#[test]
fn two_disks_with_flipped_bits_everywhere_are_read_around() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut seed = Seed::announced("rot");
    for round in 0..3 {
        let (mut demo, load) = filled(Mode::Embedded, &mut seed)?;
        demo.stop(Stop::Umount)?;
        let (one, two) = (round * 2, round * 2 + 1);
        for disk in [one, two] {
            for file in demo.block_files(disk)? {
                rot(&file, 2000, &mut seed)?;
            }
        }
        demo.mount()?;
        println!("{} files verified", load.ledger().verify(&demo.path(), false)?);
        more_is_stored(&demo, &mut seed)?;
        // What recovery makes of flipped headers, when the index is gone as well.
        demo.stop(Stop::Umount)?;
        fs::remove_file(demo.disk(one).join("index.redb"))?;
        demo.mount()?;
        load.ledger().verify(&demo.path(), false)?;
        demo.stop(Stop::Umount)?;
    }
    Ok(())
}

#[test]
fn bits_that_flip_while_it_runs_are_never_served() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut seed = Seed::announced("running rot");
    let (mut demo, load) = filled(Mode::Daemons, &mut seed)?;
    demo.remount()?;
    let mut running = Load::start(&demo.file("more"), 1, 1, 40, &mut seed);
    running.progress(100)?;
    for disk in [2, 7] {
        for file in demo.block_files(disk)? {
            rot(&file, 3000, &mut seed)?;
        }
    }
    let verified = load.ledger().verify(&demo.path(), false)?;
    running.progress(200)?;
    demo.drop_caches()?;
    running.progress(200)?;
    let seen = running.stop(PATIENCE)?;
    ensure!(seen.errors.is_empty() && seen.wrong.is_empty(), "{:?} {:?}", seen.errors, seen.wrong);
    println!("{verified} files verified, {} operations went on", seen.done);
    demo.stop(Stop::Umount)
}

#[test]
fn two_disks_that_are_empty_again_do_not_lose_a_file() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut seed = Seed::announced("emptied");
    let (mut demo, load) = filled(Mode::Embedded, &mut seed)?;
    demo.stop(Stop::Umount)?;
    for disk in [1, 4] {
        // As a disk whose files were deleted by mistake: superblock and lock are there, no data.
        shell(&demo.disk(disk), "rm -rf index.redb blocks/*", PATIENCE)?;
    }
    demo.mount()?;
    println!("{} files verified", load.ledger().verify(&demo.path(), false)?);
    more_is_stored(&demo, &mut seed)?;
    demo.stop(Stop::Umount)
}

/// A demo with some hundred files, flushed, and the load that knows them.
fn filled(mode: Mode, seed: &mut Seed) -> Result<(Demo, Load)> {
    let demo = Demo::start(Setup { size: "4GiB", ..Setup::new(mode) })?;
    fs::create_dir(demo.file("more"))?;
    let mut load = Load::start(&demo.path(), 3, 0, 60, seed);
    load.progress(900)?;
    let seen = load.stop(PATIENCE)?;
    ensure!(seen.errors.is_empty(), "{:?}", seen.errors);
    Ok((demo, load))
}

/// Writing goes on, and what is written can be read.
fn more_is_stored(demo: &Demo, seed: &mut Seed) -> Result<()> {
    let directory = demo.file(format!("later-{}", seed.next_u64()));
    fs::create_dir(&directory)?;
    let mut load = Load::start(&directory, 1, 0, 100, seed);
    load.progress(100)?;
    let seen = load.stop(PATIENCE)?;
    ensure!(seen.errors.is_empty(), "{:?}", seen.errors);
    let ledger: &Ledger = load.ledger();
    demo.drop_caches()?;
    ledger.verify(&directory, false).map(drop)
}

/// Flips `count` random bits among the file's allocated bytes.
fn rot(path: &Path, count: u64, seed: &mut Seed) -> Result<()> {
    let used = tests::cluster::allocated(path)?.min(fs::metadata(path)?.len());
    let file = File::options().read(true).write(true).open(path)?;
    for _ in 0..count {
        let (mut byte, at) = ([0], seed.below(used.max(1)));
        if file.read_at(&mut byte, at)? == 1 {
            byte[0] ^= 1 << seed.below(8);
            file.write_all_at(&byte, at)?;
        }
    }
    Ok(file.sync_all()?)
}
