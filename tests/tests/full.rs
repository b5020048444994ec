//! Promise: a full volume says ENOSPC and damages nothing; what is deleted is room again, for ever.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::libc::ENOSPC;
use tests::cluster::{Demo, Mode, Setup, Stop, can_mount};
use tests::process::{PATIENCE, bounded, output, wait_until};
use tests::seed::{Seed, content, first_difference};

/// Rounds of filling and deleting that a volume must take without shrinking.
const ROUNDS: usize = 50;
/// What df may lag behind.
const LAG: Duration = Duration::from_secs(10);
/// Until deleted room must be there again.
const FREED: Duration = Duration::from_secs(60);

/// A volume that is filled in seconds.
fn small(mode: Mode) -> Result<Demo> {
    Demo::start(Setup { size: "768MiB", ..Setup::new(mode) })
}

#[test]
fn a_full_volume_refuses_and_keeps_and_goes_on_after_rm_embedded() -> Result<()> {
    a_full_volume_refuses_and_keeps_and_goes_on_after_rm(Mode::Embedded)
}

#[test]
fn a_full_volume_refuses_and_keeps_and_goes_on_after_rm_with_daemons() -> Result<()> {
    a_full_volume_refuses_and_keeps_and_goes_on_after_rm(Mode::Daemons)
}

fn a_full_volume_refuses_and_keeps_and_goes_on_after_rm(mode: Mode) -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut seed = Seed::announced("full");
    let mut demo = small(mode)?;
    let empty = demo.available()?;
    ensure!(empty > 100 << 20, "a fresh volume of 768 MiB has room for {empty} bytes only");
    fs::write(demo.file("kept"), content(1, 10 << 20))?;
    let filled = fill(&demo.path(), "big", 8 << 20, &mut seed)?;
    // The figure of df may lag behind a little; it must come to say that the volume is full.
    wait_until("df to show a full volume", LAG, || {
        demo.available().is_ok_and(|available| available < empty / 10)
    })
    .with_context(|| format!("ENOSPC with {:?} of {empty} bytes free", demo.available()))?;
    // A full volume still takes what makes it less full, and what needs no room.
    fs::rename(demo.file("kept"), demo.file("renamed"))?;
    let bytes = output(Command::new("cp").arg("/etc/services").arg(demo.file("s")), PATIENCE)?;
    println!("a small file on the full volume: {}", bytes.status);
    assert_kept(&demo, "renamed", 1, 10 << 20)?;
    verify(&demo.path(), &filled)?;
    demo.drop_caches()?;
    verify(&demo.path(), &filled)?;
    demo.remount().context("remounting the full volume")?;
    verify(&demo.path(), &filled)?;
    assert_kept(&demo, "renamed", 1, 10 << 20)?;

    let half = filled.len() / 2;
    remove(&demo.path(), &filled[..half])?;
    room_again(&demo, empty / 3)?;
    verify(&demo.path(), &filled[half..])?;
    let more = fill(&demo.path(), "more", 200 << 10, &mut seed)?;
    ensure!(
        total(&more) > empty / 4,
        "after rm there was room for {} bytes of {empty}",
        total(&more)
    );
    verify(&demo.path(), &filled[half..])?;
    verify(&demo.path(), &more)?;
    demo.stop(Stop::Umount)
}

#[test]
fn fifty_rounds_of_fill_and_delete_do_not_shrink_the_volume() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut seed = Seed::announced("fifty rounds");
    let mut demo = small(Mode::Embedded)?;
    let empty = demo.available()?;
    let mut first = 0;
    for round in 0..ROUNDS {
        // Big files and small ones in turn: whole blobs and packed ones.
        let len = if round % 25 == 1 { 40 << 10 } else { [8 << 20, 600 << 10][round % 2] };
        let files = fill(&demo.path(), "f", len, &mut seed)?;
        let stored = total(&files);
        if round < 3 {
            verify(&demo.path(), &files)?;
        }
        println!("round {round}: {} files, {} MiB", files.len(), stored >> 20);
        first = if round == 0 { stored } else { first };
        ensure!(stored * 10 >= first * 8, "round {round} stored {stored} bytes, the first {first}");
        remove(&demo.path(), &files)?;
        room_again(&demo, empty / 10 * 9).with_context(|| format!("round {round}"))?;
    }
    let files = fill(&demo.path(), "last", 1 << 20, &mut seed)?;
    verify(&demo.path(), &files)?;
    demo.remount()?;
    verify(&demo.path(), &files)?;
    demo.stop(Stop::Umount)
}

#[test]
fn overwriting_in_place_needs_no_more_room_than_the_file() -> Result<()> {
    use std::os::unix::fs::FileExt;
    if !can_mount() {
        return Ok(());
    }
    let mut seed = Seed::announced("overwriting");
    let mut demo = small(Mode::Embedded)?;
    let len = demo.available()? / 4;
    let file = File::create_new(demo.file("database"))?;
    let pages = len / 65_536;
    let mut versions = vec![0; usize::try_from(pages)?];
    // Eight times the file, in pages at random: dead blobs and half-dead ones must make room.
    for step in 0..pages * 8 {
        let page = if step < pages { step } else { seed.below(pages) };
        versions[usize::try_from(page)?] = step;
        file.write_all_at(&content(step, 65_536), page * 65_536)
            .with_context(|| format!("overwriting page {page}, step {step} of {}", pages * 8))?;
        if step % 1000 == 0 {
            file.sync_data()
                .with_context(|| format!("fdatasync at step {step} of {}", pages * 8))?;
        }
    }
    file.sync_all().context("fsync after all steps")?;
    drop(file);
    demo.remount()?;
    let bytes = fs::read(demo.file("database"))?;
    for (page, (bytes, version)) in bytes.chunks(65_536).zip(&versions).enumerate() {
        ensure!(
            first_difference(*version, 0, bytes).is_none(),
            "page {page} is not version {version}"
        );
    }
    demo.stop(Stop::Umount)
}

/// A file that was stored: its path below the mount, its number, its length.
type Stored = (PathBuf, u64, usize);

/// Writes synced files of `len` bytes until the volume is full, which must be said as ENOSPC; the ones
/// that were stored whole.
fn fill(root: &Path, prefix: &str, len: usize, seed: &mut Seed) -> Result<Vec<Stored>> {
    let mut files: Vec<Stored> = Vec::new();
    let mut unsynced: Vec<File> = Vec::new();
    let error = 'full: loop {
        let (name, stamp) = (PathBuf::from(format!("{prefix}-{}", files.len())), seed.next_u64());
        match write(&root.join(&name), &content(stamp, len)) {
            Ok(file) => unsynced.push(file),
            Err(error) => {
                remove(root, &[(name, stamp, len)])?;
                break error;
            }
        }
        files.push((name, stamp, len));
        // Small files are synced in groups: one by one they would be stored as whole copies.
        if unsynced.len() * len >= 8 << 20 {
            let group = files.len() - unsynced.len();
            for (at, file) in std::mem::take(&mut unsynced).into_iter().enumerate() {
                if let Err(error) = sync(file) {
                    remove(root, &files.split_off(group + at))?;
                    break 'full error;
                }
            }
        }
    };
    ensure!(error.raw_os_error() == Some(ENOSPC), "a full volume said: {error}");
    // Those of the last group may not be stored: a file that cannot be synced goes.
    let group = files.len() - unsynced.len().min(files.len());
    for (at, file) in unsynced.into_iter().enumerate().rev() {
        if sync(file).is_err() {
            remove(root, &files.split_off(group + at))?;
        }
    }
    Ok(files)
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let path = path.to_owned();
    let bytes = bytes.to_vec();
    let written = bounded("a write to a nearly full volume", PATIENCE, move || {
        let mut file = File::create_new(path)?;
        file.write_all(&bytes)?;
        Ok(file)
    });
    written.unwrap_or_else(|hang| Err(io::Error::other(hang)))
}

fn sync(file: File) -> io::Result<()> {
    let synced = bounded("fsync on a nearly full volume", PATIENCE, move || file.sync_all());
    synced.unwrap_or_else(|hang| Err(io::Error::other(hang)))
}

fn remove(root: &Path, files: &[Stored]) -> Result<()> {
    for (name, ..) in files {
        match fs::remove_file(root.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => removed.with_context(|| format!("removing {name:?} from a full volume"))?,
        }
    }
    Ok(())
}

fn verify(root: &Path, files: &[Stored]) -> Result<()> {
    for (name, stamp, len) in files {
        let bytes = fs::read(root.join(name)).with_context(|| format!("{name:?} was stored"))?;
        ensure!(bytes.len() == *len, "{name:?} is {} bytes long, not {len}", bytes.len());
        ensure!(first_difference(*stamp, 0, &bytes).is_none(), "{name:?} has wrong bytes");
    }
    Ok(())
}

fn assert_kept(demo: &Demo, name: &str, stamp: u64, len: usize) -> Result<()> {
    verify(&demo.path(), &[(name.into(), stamp, len)])
}

fn total(files: &[Stored]) -> u64 {
    files.iter().map(|(_, _, len)| *len as u64).sum()
}

fn room_again(demo: &Demo, wanted: u64) -> Result<()> {
    let mut last = 0;
    wait_until("deleted room to be there again", FREED, || {
        last = demo.available().unwrap_or(0);
        last >= wanted
    })
    .with_context(|| format!("{last} bytes are free, {wanted} are expected"))
}
