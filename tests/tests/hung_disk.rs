//! Promise: a disk that hangs is a lost disk. Reads and writes go on, nothing waits long, whoever asks
//! is told, everything can be ended while it hangs, and it is used again when it answers.
//!
//! The disk is a directory on a FUSE mount whose process is stopped. It has neighbours: in the process
//! of the mount, or in the same daemon.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use tests::cluster::can_mount;
use tests::hanging::Rig;
use tests::load::{Load, Seen};
use tests::process::{PATIENCE, bounded, wait_until};
use tests::seed::Seed;

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
    // More readers than there were ever threads for all disks together.
    let mut load = Load::start(&rig.path(), 3, 12, 60, &mut seed);
    load.progress(500)?;
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
        if let Some(text) = rig.daemon_says(LONGEST_WAIT)? {
            ensure!(text.contains("hangs") && text.matches("  ok  ").count() == 2, "{text}");
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
    for (by, known) in [(None, true), (Some(Signal::SIGTERM), true), (Some(Signal::SIGTERM), false)]
    {
        let mut load = Load::start(&rig.path(), 2, 8, 40, &mut seed);
        load.progress(200)?;
        if known {
            rig.hang()?;
            load.progress(200)?;
            wait_until("status to say that it hangs", NOTICED, || {
                rig.states(LONGEST_WAIT).is_ok_and(|states| states[0].contains("hang"))
            })?;
        }
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

fn unharmed(seen: &Seen) -> Result<()> {
    println!("{} operations, the slowest {:?}", seen.done, seen.slowest);
    ensure!(seen.errors.is_empty(), "{} errors: {:?}", seen.errors.len(), &seen.errors[..1]);
    ensure!(seen.wrong.is_empty(), "wrong bytes: {:?}", seen.wrong);
    ensure!(seen.slowest.0 <= LONGEST_WAIT, "{} took {:?}", seen.slowest.1, seen.slowest.0);
    Ok(())
}
