//! Promise: any two of eight disks may be lost, under load, and nothing is noticed: no error, no wrong
//! byte, no long wait. A third lost is an error in bounded time, never a hang, and no damage.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::libc::EIO;
use nix::sys::signal::{Signal, kill};
use tests::cluster::{Demo, Mode, Setup, Stop, can_mount};
use tests::load::{LONGEST_WAIT, Load};
use tests::process::{PATIENCE, bounded, wait_until};
use tests::seed::{Seed, content, first_difference};

/// Longer than any one answer is waited for while others are there.
const STANDSTILL: Duration = Duration::from_millis(2500);
/// Longer than any request is waited for.
const LONG_STANDSTILL: Duration = Duration::from_secs(6);
/// After this a daemon that is back must be in use again.
const NOTICED: Duration = Duration::from_secs(10);
/// After this an operation that cannot succeed must have failed.
const GIVEN_UP: Duration = Duration::from_secs(30);

#[test]
fn two_of_eight_killed_one_after_the_other_under_load() -> Result<()> {
    two_of_eight_killed_under_load(false)
}

#[test]
fn two_of_eight_killed_at_once_under_load() -> Result<()> {
    two_of_eight_killed_under_load(true)
}

fn two_of_eight_killed_under_load(at_once: bool) -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut seed = Seed::announced("lost disks");
    let mut demo = Demo::start(Setup::new(Mode::Daemons))?;
    let mut load = Load::start(&demo.path(), 3, 2, 60, &mut seed);
    load.progress(500)?;
    for round in 0..3 {
        let (one, two) = two_of(8, &mut seed);
        println!("round {round}: killing {one} and {two}");
        demo.kill_daemon(one)?;
        if !at_once {
            load.progress(300)?;
        }
        demo.kill_daemon(two)?;
        load.progress(600)?;
        demo.drop_caches()?;
        load.progress(300)?;
        demo.restart_daemon(one)?;
        if !at_once {
            load.progress(200)?;
        }
        demo.restart_daemon(two)?;
        load.progress(300)?;
        // Only then are the next two the only ones that are lost.
        demo.all_up(NOTICED)?;
    }
    load.stop(PATIENCE)?.unharmed()?;
    demo.remount()?;
    let verified = load.ledger().verify(&demo.path(), false)?;
    println!("{verified} files verified after the remount");
    demo.stop(Stop::Umount)
}

#[test]
fn a_mount_starts_and_serves_everything_with_two_disks_down() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut seed = Seed::announced("two down");
    let mut demo = Demo::start(Setup::new(Mode::Daemons))?;
    let files = write_files(&demo.path(), 40, &mut seed)?;
    for _ in 0..3 {
        demo.remount()?;
        let (one, two) = two_of(8, &mut seed);
        demo.kill_daemon(one)?;
        demo.kill_daemon(two)?;
        let path = demo.path();
        let files = files.clone();
        let answers = bounded("reading with two disks down", 2 * PATIENCE, move || {
            read_files(&path, &files)
        })?;
        for (name, answer, took) in answers {
            ensure!(matches!(answer, Ok(true)), "{one} and {two} down: {name:?}: {answer:?}");
            ensure!(took <= LONGEST_WAIT, "{one} and {two} down: {name:?} took {took:?}");
        }
    }
    demo.stop(Stop::Umount)
}

/// As when the machine is busy with something else: all disks stand still at once, and no more are
/// given up than can be lost.
#[test]
fn a_machine_that_stands_still_for_a_while_loses_nothing() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut seed = Seed::announced("standing still");
    let mut demo = Demo::start(Setup::new(Mode::Daemons))?;
    let mut load = Load::start(&demo.path(), 3, 2, 60, &mut seed);
    load.progress(200)?;
    // Once: a request that meets two of these stands still for longer than it may take.
    let all = (0..8).map(|number| demo.daemon_pid(number));
    all.clone().try_for_each(|pid| kill(pid, Signal::SIGSTOP))?;
    std::thread::sleep(STANDSTILL);
    all.clone().try_for_each(|pid| kill(pid, Signal::SIGCONT))?;
    load.progress(200)?;
    load.stop(PATIENCE)?.unharmed()?;
    let said = demo.said();
    // Those that answer last may be done without for a moment, but never more than can be lost.
    let given_up = said.matches("slot is down").count();
    ensure!(given_up <= 2, "{given_up} disks were given up:\n{said}");
    demo.stop(Stop::Umount)
}

/// As when a laptop sleeps, or a virtual machine is moved.
#[test]
fn whoever_stands_still_longer_than_any_request_may_take_gets_no_error_for_it() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut seed = Seed::announced("standing still for long");
    for (mode, daemons) in [(Mode::Embedded, 0), (Mode::Daemons, 8)] {
        let mut demo = Demo::start(Setup::new(mode))?;
        let mut load = Load::start(&demo.path(), 3, 2, 60, &mut seed);
        load.progress(200)?;
        let daemons = (0..daemons).map(|number| demo.daemon_pid(number));
        let all: Vec<_> = daemons.chain([demo.mount_pid()]).collect();
        // Often enough that all that can be under way has been met.
        for _ in 0..3 {
            all.iter().try_for_each(|pid| kill(*pid, Signal::SIGSTOP))?;
            std::thread::sleep(LONG_STANDSTILL);
            all.iter().try_for_each(|pid| kill(*pid, Signal::SIGCONT))?;
            load.progress(200)?;
        }
        load.stop(PATIENCE)?.went_well().with_context(|| demo.said())?;
        demo.stop(Stop::Umount)?;
    }
    Ok(())
}

#[test]
fn a_third_disk_lost_is_an_error_in_bounded_time_and_all_is_well_when_it_is_back() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut seed = Seed::announced("third disk");
    let mut demo = Demo::start(Setup::new(Mode::Daemons))?;
    let files = write_files(&demo.path(), 60, &mut seed)?;
    // A new mount, so that every read has to ask the disks.
    demo.remount()?;
    let (one, two) = two_of(8, &mut seed);
    let three = (0..8).find(|n| *n != one && *n != two).expect("eight disks");
    for number in [one, two, three] {
        demo.kill_daemon(number)?;
    }
    let (path, list) = (demo.path(), files.clone());
    let answers =
        bounded("reading with three disks down", 10 * GIVEN_UP, move || read_files(&path, &list))?;
    let mut failed = 0;
    for (name, answer, took) in answers {
        ensure!(took <= GIVEN_UP, "{name:?} took {took:?}");
        match answer {
            Ok(right) => ensure!(right, "{name:?} was read with wrong bytes"),
            Err(error) if error.raw_os_error() == Some(EIO) => failed += 1,
            Err(error) => anyhow::bail!("{name:?}: {error}, and not EIO"),
        }
    }
    ensure!(failed > 0, "three of eight disks are gone, and every file could be read");
    ensure!(failed < files.len(), "no file can be read, though many lost only two parts");
    println!("{failed} of {} files unreadable with three disks down", files.len());

    // A write may go on, as long as one more disk can be lost, or fail; it may not hang.
    let path = demo.file("written with three down");
    let (answer, took) = bounded("writing with three disks down", 4 * GIVEN_UP, move || {
        let start = Instant::now();
        (write_synced(&path, &content(9, 5 << 20)), start.elapsed())
    })?;
    ensure!(took <= GIVEN_UP, "a write took {took:?}");
    if let Err(error) = answer {
        ensure!(error.raw_os_error() == Some(EIO), "{error}, and not EIO");
    }

    demo.restart_daemon(three)?;
    let start = Instant::now();
    loop {
        let (path, list) = (demo.path(), files.clone());
        let answers =
            bounded("reading after one came back", 4 * PATIENCE, move || read_files(&path, &list))?;
        let bad = answers.into_iter().find(|(_, answer, _)| !matches!(answer, Ok(true)));
        let Some((name, answer, _)) = bad else { break };
        ensure!(!matches!(answer, Ok(false)), "one is back: {name:?} has wrong bytes");
        ensure!(start.elapsed() <= NOTICED, "one is back for {NOTICED:?}: {name:?}: {answer:?}");
    }
    println!("all is well {:?} after one came back", start.elapsed());
    let path = demo.file("written after one came back");
    bounded("writing after one came back", PATIENCE, move || {
        write_synced(&path, &content(10, 5 << 20))
    })??;
    demo.restart_daemon(one)?;
    demo.restart_daemon(two)?;
    demo.stop(Stop::Umount)
}

#[test]
fn writing_on_with_too_few_disks_fails_and_goes_on_when_they_are_back() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut demo = Demo::start(Setup::new(Mode::Daemons))?;
    fs::write(demo.file("before"), content(1, 1 << 20))?;
    for number in 0..8 {
        demo.kill_daemon(number)?;
    }
    let path = demo.file("during");
    let (answer, took) = bounded("fsync with every disk down", 4 * GIVEN_UP, move || {
        let start = Instant::now();
        (write_synced(&path, &content(2, 1 << 20)), start.elapsed())
    })?;
    let error = answer.err().map(|error| error.raw_os_error());
    ensure!(error == Some(Some(EIO)), "fsync answered {error:?} with every disk down");
    ensure!(took <= GIVEN_UP, "fsync took {took:?}");
    // Nothing more is accepted then; and the disks are lost, not full.
    let path = demo.file("more");
    let (answer, took) = bounded("writing with every disk down", 4 * GIVEN_UP, move || {
        let start = Instant::now();
        (fs::write(path, content(3, 100 << 20)), start.elapsed())
    })?;
    let error = answer.err().map(|error| error.raw_os_error());
    ensure!(error == Some(Some(EIO)), "write answered {error:?} with every disk down");
    ensure!(took <= GIVEN_UP, "write took {took:?}");
    for number in 0..8 {
        demo.restart_daemon(number)?;
    }
    // The range stayed dirty: an fsync stores it, as soon as the daemons are in use again.
    let path = demo.file("during");
    wait_until("fsync after all are back", NOTICED, || {
        File::options().write(true).open(&path).is_ok_and(|file| file.sync_all().is_ok())
    })?;
    demo.remount()?;
    for (name, stamp) in [("before", 1), ("during", 2)] {
        let bytes = fs::read(demo.file(name))?;
        ensure!(bytes.len() == 1 << 20, "{name:?} is {} bytes long", bytes.len());
        ensure!(first_difference(stamp, 0, &bytes).is_none(), "{name:?} has wrong bytes");
    }
    demo.stop(Stop::Umount)
}

fn two_of(disks: u64, seed: &mut Seed) -> (usize, usize) {
    let one = seed.below(disks);
    let two = (one + 1 + seed.below(disks - 1)) % disks;
    (usize::try_from(one).expect("small"), usize::try_from(two).expect("small"))
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

type Named = (PathBuf, u64, usize);

/// Writes files of all sizes, every one of them in blobs of its own.
fn write_files(root: &Path, count: u64, seed: &mut Seed) -> io::Result<Vec<Named>> {
    (0..count)
        .map(|number| {
            let (name, stamp) = (PathBuf::from(format!("file-{number}")), seed.next_u64());
            let len = if number % 2 == 0 { 300 << 10 } else { seed.file_len() + 1 };
            write_synced(&root.join(&name), &content(stamp, len))?;
            Ok((name, stamp, len))
        })
        .collect()
}

/// Reads each file: whether its bytes are right, and how long that took.
fn read_files(root: &Path, files: &[Named]) -> Vec<(PathBuf, io::Result<bool>, Duration)> {
    let read = files.iter().map(|(name, stamp, len)| {
        let start = Instant::now();
        let answer = fs::read(root.join(name));
        let right = answer
            .map(|bytes| bytes.len() == *len && first_difference(*stamp, 0, &bytes).is_none());
        (name.clone(), right, start.elapsed())
    });
    read.collect()
}
