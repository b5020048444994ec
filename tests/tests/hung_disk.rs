//! Promise: a disk that hangs is a lost disk. Reads and writes go on, nothing waits long, whoever asks
//! is told, everything can be ended while it hangs, and it is used again when it answers.
//!
//! The disk is a directory on a FUSE mount whose process is stopped. It has neighbours: in the process
//! of the mount, or in the same daemon.

use std::fs::{self, File};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use nix::sys::signal::Signal;
use tests::binaries::{ashlar, storaged};
use tests::cluster::can_mount;
use tests::cold;
use tests::hanging::Rig;
use tests::load::{LONGEST_WAIT, Load};
use tests::process::{PATIENCE, bounded, output, wait_until};
use tests::seed::Seed;

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
    cold::store(&rig.path())?;
    // By reads alone: no write finds out first that the disk hangs.
    let readers = cold::Readers::start(&rig.path(), &mut seed);
    readers.progress(500)?;
    rig.hang()?;
    readers.progress(1000)?;
    is_said_to_hang(&rig)?;
    rig.answer()?;
    is_used_again(&rig)?;
    ensure!(readers.stop()? > 0, "nothing was read");
    let mut load = Load::start(&rig.path(), 3, 2, 60, &mut seed);
    load.progress(500)?;
    let readers = cold::Readers::start(&rig.path(), &mut seed);
    for round in 0..2 {
        println!("round {round}: the disk hangs, at {} operations", load.done());
        rig.hang()?;
        load.progress(1000)?;
        is_said_to_hang(&rig)?;
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
        is_used_again(&rig)?;
        load.progress(300)?;
    }
    ensure!(readers.stop()? > 0, "nothing was read");
    load.stop(PATIENCE)?.unharmed()?;
    rig.end_mount(None, ENDED)?;
    rig.mount()?;
    println!("{} files verified", load.ledger().verify(&rig.path(), false)?);
    rig.end_mount(None, ENDED)?;
    rig.answer()
}

/// Waits until the disk, and no other, is said to hang.
fn is_said_to_hang(rig: &Rig) -> Result<()> {
    let one_is_down = || {
        let states = rig.states(LONGEST_WAIT)?;
        ensure!(states[1..].iter().all(|state| state == "up"), "healthy disks: {states:?}");
        anyhow::Ok(states[0].contains("hang"))
    };
    wait_until("status to say that it hangs", NOTICED, || one_is_down().unwrap_or(false))?;
    one_is_down().map(drop)
}

fn is_used_again(rig: &Rig) -> Result<()> {
    wait_until("the disk to be used again", NOTICED, || {
        rig.states(LONGEST_WAIT).is_ok_and(|states| states.iter().all(|state| state == "up"))
    })
    .with_context(|| format!("{:?}\n{}", rig.states(LONGEST_WAIT), rig.said()))
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
    cold::store(&rig.path())?;
    for (by, known) in [(None, true), (Some(Signal::SIGTERM), true), (Some(Signal::SIGTERM), false)]
    {
        let mut load = Load::start(&rig.path(), 2, 2, 40, &mut seed);
        load.progress(200)?;
        let readers = cold::Readers::start(&rig.path(), &mut seed);
        if known {
            rig.hang()?;
            load.progress(200)?;
            wait_until("status to say that it hangs", NOTICED, || {
                rig.states(LONGEST_WAIT).is_ok_and(|states| states[0].contains("hang"))
            })?;
        }
        readers.stop()?;
        load.stop(PATIENCE)?.unharmed()?;
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

/// Longest that a command may take on a busy machine which waits five seconds for the disk.
const TOLD: Duration = Duration::from_secs(20);

/// Commands that are told of the directory that hangs, and whether they have to ask it.
fn commands(rig: &Rig) -> Vec<(String, bool)> {
    let (disk, below) = (rig.hung_disk(), rig.below());
    let (disk, below, good) = (disk.display(), below.display(), rig.cluster_file());
    let good = good.display();
    let (file, point) = (format!("{below}/cluster.toml"), format!("{below}/point"));
    [
        (format!("storaged disk list {disk}"), true),
        (format!("storaged disk info {disk}"), true),
        (format!("storaged disk verify {disk}"), true),
        (format!("storaged disk rebuild-index {disk}"), true),
        (format!("storaged disk init {below}/new --new-cluster"), true),
        (format!("storaged parts ls {disk}"), true),
        (format!("ashlar cluster file {disk}"), true),
        (format!("ashlar status --cluster {file}"), true),
        (format!("ashlar fsck vol --cluster {file}"), true),
        (format!("ashlar format another --cluster {file}"), true),
        (format!("ashlar mount vol {point} --cluster {file}"), true),
        (format!("ashlar mount vol {point} --cluster {good}"), true),
        (format!("ashlar status {below}"), true),
        (format!("ashlar status {point}"), false),
        (format!("ashlar umount {point}"), false),
        (format!("ashlar format another --cluster {good}"), false),
    ]
    .into()
}

/// Runs a command; what is wrong with what it said.
fn say_that_it_hangs(line: &str, must: bool) -> Result<()> {
    let mut words = line.split(' ');
    let mut command = match words.next() {
        Some("storaged") => Command::new(storaged()),
        _ => Command::new(ashlar()),
    };
    let began = Instant::now();
    let answer = output(command.args(words), TOLD).with_context(|| line.to_owned())?;
    let said = String::from_utf8_lossy(&answer.stderr).into_owned();
    println!("{line}: {:?}, {said}", began.elapsed());
    if must {
        let expected = if line.starts_with("ashlar status") { 3 } else { 1 };
        ensure!(answer.status.code() == Some(expected), "{line}: {}: {said}", answer.status);
        ensure!(said.contains("no answer within 5s"), "{line}: {said}");
    }
    ensure!(said.lines().count() <= 1, "{line}: {said}");
    Ok(())
}

#[test]
fn commands_on_a_directory_that_hangs_say_so_within_seconds() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut rig = Rig::start(false)?;
    fs::create_dir(rig.below().join("point"))?;
    fs::copy(rig.cluster_file(), rig.below().join("cluster.toml"))?;
    nix::unistd::syncfs(File::open(rig.below())?)?;
    // What the kernel remembers of the directory is told while it hangs.
    let forgotten = fs::write("/proc/sys/vm/drop_caches", "3");
    if let Err(e) = &forgotten {
        eprintln!("NOT TESTED that they ask: {e}");
    }
    rig.hang()?;
    let lines = commands(&rig);
    let must = forgotten.is_ok();
    let told = std::thread::scope(|scope| {
        let ask = |(line, asks): &(String, bool)| say_that_it_hangs(line, must && *asks);
        let asking: Vec<_> = lines.iter().map(|row| scope.spawn(move || ask(row))).collect();
        let told = asking.into_iter().map(|told| told.join().map_err(|_| anyhow!("a panic")));
        told.map(Result::flatten).filter_map(Result::err).collect::<Vec<_>>()
    });
    rig.answer()?;
    ensure!(told.is_empty(), "{told:#?}");
    rig.end_mount(None, ENDED)
}
