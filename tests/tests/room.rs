//! Promise: `df` counts what can be used, and nothing else: the room of disks that do not answer is neither there nor used,
//! what files have is used whatever is away, and a disk that is back is counted again.

use std::fs::{self, File};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::statvfs::statvfs;
use tests::cluster::{Demo, Mode, Setup, Stop, can_mount};
use tests::process::{PATIENCE, bounded, wait_until};
use tests::seed::{Seed, content};

/// Until a disk that went or came is known of, and what df may lag behind then.
const NOTICED: Duration = Duration::from_secs(60);
/// What files have.
const STORED: u64 = FILES * LEN as u64;
const FILES: u64 = 8;
const LEN: usize = 8 << 20;

/// A figure of df, in bytes.
#[derive(Clone, Copy, Debug)]
struct Room {
    used: u64,
    available: u64,
}

impl Room {
    fn all(self) -> u64 {
        self.used + self.available
    }

    /// Is all that is there about this share of what was, in hundredths?
    fn is_about(self, percent: u64, whole: Self) -> bool {
        self.all().abs_diff(whole.all() * percent / 100) <= whole.all() / 10
    }
}

fn df(demo: &Demo) -> Result<Room> {
    let path = demo.path();
    let stat = bounded("statfs", PATIENCE, move || statvfs(&path))??;
    let unit = stat.fragment_size();
    let (all, free) = (stat.blocks() * unit, stat.blocks_free() * unit);
    ensure!(stat.blocks_available() == stat.blocks_free(), "some of it is only root's: {stat:?}");
    ensure!(free <= all, "{free} bytes are free of {all}");
    Ok(Room { used: all - free, available: free })
}

/// Waits until df says this; at any time what files have is used, and no more.
fn until(demo: &Demo, what: &str, is: impl Fn(Room) -> bool) -> Result<Room> {
    let mut last = df(demo)?;
    let mut wrong = None;
    let waited = wait_until(&format!("df to show {what}"), NOTICED, || {
        match df(demo) {
            Ok(room) => last = room,
            Err(error) => wrong = Some(format!("{error:#}")),
        }
        if last.used.abs_diff(STORED) > 1 << 20 {
            wrong = Some(format!("files have {STORED} bytes, and df says {last:?}"));
        }
        wrong.is_some() || is(last)
    });
    ensure!(wrong.is_none(), "{what}: {wrong:?}");
    waited.with_context(|| format!("{last:?}"))?;
    println!("{what}: {last:?}");
    Ok(last)
}

/// A volume with files, and what df says of it while all disks are up.
fn stored(mode: Mode, seed: &mut Seed) -> Result<(Demo, Room)> {
    let demo = Demo::start(Setup { size: "4GiB", ..Setup::new(mode) })?;
    for number in 0..FILES {
        let path = demo.file(format!("file-{number}"));
        fs::write(&path, content(seed.next_u64(), LEN))?;
        File::open(&path)?.sync_all()?;
    }
    demo.all_up(NOTICED)?;
    let whole = until(&demo, "all disks", |_| true)?;
    // Of 4 GiB two thirds are the users' with ec(4,2), less what is kept back.
    ensure!(whole.all() > 1 << 30 && whole.all() < 3 << 30, "{whole:?}");
    Ok((demo, whole))
}

#[test]
fn room_of_daemons_that_are_killed_is_neither_there_nor_used_until_they_are_back() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut seed = Seed::announced("room");
    let (mut demo, whole) = stored(Mode::Served, &mut seed)?;
    let first = seed.below(8) as usize;
    let disks: Vec<usize> = (0..6).map(|nth| (first + nth) % 8).collect();
    for disk in &disks[..2] {
        demo.kill_daemon(*disk)?;
    }
    demo.up(6, NOTICED)?;
    until(&demo, "the room of six of eight", |room| room.is_about(75, whole))?;
    // With so few up that nothing can be stored there is no room, and what is stored is all that there is.
    for disk in &disks[2..] {
        demo.kill_daemon(*disk)?;
    }
    until(&demo, "nothing available", |room| room.available == 0)?;
    for disk in &disks {
        demo.restart_daemon(*disk)?;
    }
    demo.all_up(NOTICED)?;
    until(&demo, "the room of all again", |room| room.all().abs_diff(whole.all()) < 64 << 20)?;
    demo.stop(Stop::Umount)
}

#[test]
fn disks_that_are_missing_at_the_start_are_counted_when_they_are_there() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut seed = Seed::announced("room at the start");
    let (mut demo, whole) = stored(Mode::Embedded, &mut seed)?;
    demo.stop(Stop::Umount)?;
    let first = seed.below(8) as usize;
    let missing = [first, (first + 3) % 8].map(|disk| demo.disk(disk));
    for disk in &missing {
        fs::rename(disk, disk.with_extension("aside"))?;
    }
    demo.mount()?;
    until(&demo, "the room of six of eight", |room| room.is_about(75, whole))?;
    for disk in &missing {
        fs::rename(disk.with_extension("aside"), disk)?;
    }
    demo.all_up(NOTICED)?;
    until(&demo, "the room of all again", |room| room.all().abs_diff(whole.all()) < 64 << 20)?;
    demo.stop(Stop::Umount)
}
