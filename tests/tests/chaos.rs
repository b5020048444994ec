//! Promise: whatever happens to two of eight disks, to daemons, links, filesystems, block files, and to the machine that
//! mounts, no acknowledged byte is lost or changed, nothing hangs, what is lost on disks is made good, and all is in
//! order in the end.
//!
//! `ASHLAR_CHAOS_SECONDS` says how long it goes on (90 by default), but not before every harm has come once;
//! `tools/chaos MINUTES SEED` is the same for longer.
//!
//! One disk has bits flipped in it throughout; one other at a time is harmed in one of the ways of
//! [`tests::adversary::Harm`]. Both together are as many as the scheme can lose, so nothing but the end of the mount
//! itself may be noticed.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::adversary::Adversary;
use tests::cluster::{Demo, Mode, Stop, can_mount};
use tests::load::{BlockFile, Load};
use tests::process::{PATIENCE, bounded, shell};
use tests::seed::Seed;
use tests::tree::assert_readable;

/// Peak memory that the mount, and each daemon, may take, in bytes.
const MEMORY: (u64, u64) = (1 << 30, 400 << 20);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RoundEnd {
    Nothing,
    MountKilled,
    AllKilled,
    Umount,
}

impl RoundEnd {
    /// Any of them.
    fn chosen_by(adversary: &mut Adversary) -> Result<Self> {
        let end =
            [Self::Nothing, Self::MountKilled, Self::AllKilled, Self::Umount][adversary.choice(4)];
        adversary.note(format!("{end:?}"));
        if end == Self::AllKilled {
            // Those that stand still would not go; those that are dead come back with the mount.
            adversary.undo()?;
        }
        Ok(end)
    }

    /// The mount ends so, and there is one again.
    fn happen(self, adversary: &mut Adversary) -> Result<()> {
        check_memory(&adversary.demo)?;
        match self {
            Self::Nothing => return Ok(()),
            Self::MountKilled => adversary.demo.kill_mount()?,
            Self::AllKilled => adversary.demo.kill_everything()?,
            Self::Umount => adversary.demo.stop(Stop::Umount)?,
        }
        adversary.mount_again()
    }

    /// Are there errors of the mount's end among those of the load?
    fn is_noticed(self) -> bool {
        matches!(self, Self::MountKilled | Self::AllKilled)
    }
}

#[test]
fn whatever_happens_to_two_disks_and_to_the_mount_nothing_is_lost() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let seconds = std::env::var("ASHLAR_CHAOS_SECONDS").ok().map_or(Ok(90), |n| n.parse())?;
    let mut seed = Seed::announced("chaos");
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut adversary = Adversary::start(seed.fork())?;
    let mount = adversary.demo.path();
    let mut blocks = BlockFile::create(&mount, "blocks", 64, seed.next_u64())?;
    let mut kept: Vec<(PathBuf, Load, bool)> = Vec::new();
    for round in 0.. {
        let directory = mount.join(format!("round-{round}"));
        fs::create_dir(&directory)?;
        let mut load = Load::start(&directory, 2, 1, 60, &mut seed);
        let (path, mut work, mut fork) = (mount.clone(), blocks, seed.fork());
        let overwriting = std::thread::spawn(move || {
            let error = work.work(&path, 2000, &mut fork);
            (work, error)
        });
        for _ in 0..=seed.below(6) {
            let progress = load.progress(30 + seed.below(400));
            progress.with_context(|| adversary.demo.said_by_all())?;
            adversary.act()?;
            adversary.demo.goes_on();
        }
        load.progress(100)?;
        let how = RoundEnd::chosen_by(&mut adversary)?;
        if how.is_noticed() {
            how.happen(&mut adversary)?;
        }
        let seen = load.stop(2 * PATIENCE)?;
        let (work, error) = bounded("the overwriting thread", 2 * PATIENCE, || overwriting.join())?
            .map_err(|_| anyhow::anyhow!("the overwriting thread panicked"))?;
        blocks = work;
        if how.is_noticed() {
            // What was written within the last second may be lost, also of the round before.
            kept.iter_mut().for_each(|(_, _, synced_only)| *synced_only = true);
            ensure!(seen.wrong.is_empty(), "wrong bytes: {:?}", seen.wrong);
        } else {
            seen.went_well().with_context(|| adversary.demo.said_by_all())?;
            ensure!(error.is_none(), "overwriting: {error:?}\n{}", adversary.demo.said_by_all());
            how.happen(&mut adversary)?;
        }
        kept.push((directory, load, how.is_noticed()));
        println!("round {round} ended with {how:?}");
        for (directory, load, synced_only) in &kept {
            let verified = load.ledger().verify(directory, *synced_only);
            verified
                .with_context(|| format!("{directory:?}:\n{}", adversary.demo.said_by_all()))?;
        }
        blocks.verify(&mount).with_context(|| adversary.demo.said_by_all())?;
        // Its removal is part of what comes next.
        if kept.len() > 2 {
            let (directory, ..) = kept.remove(0);
            fs::remove_dir_all(&directory)?;
        }
        if Instant::now() >= end && adversary.has_done_all() {
            break;
        }
    }
    println!("done: {:?}", adversary.done());
    ends_in_order(adversary, &kept, &mut blocks)
}

/// None takes more than it may.
fn check_memory(demo: &Demo) -> Result<()> {
    for (who, peak) in demo.peak_memory()? {
        let most = if who.is_none() { MEMORY.0 } else { MEMORY.1 };
        ensure!(peak <= most, "{who:?} took {} MiB", peak >> 20);
    }
    Ok(())
}

/// Once nothing happens any more: what can be lost is whole, and all is there with the client's machine lost.
fn ends_in_order(
    mut adversary: Adversary,
    kept: &[(PathBuf, Load, bool)],
    blocks: &mut BlockFile,
) -> Result<()> {
    adversary.make_whole()?;
    let demo = &mut adversary.demo;
    check_memory(demo)?;
    assert_readable(&demo.path(), 4 * PATIENCE)?;
    demo.stop(Stop::Umount)?;
    demo.switch(Mode::Embedded)?;
    demo.fsck()?;
    demo.fsck_data()?;
    fs::remove_dir_all(demo.directory().join("cache")).or_else(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    })?;
    demo.mount()?;
    for (directory, load, synced_only) in kept {
        load.ledger().verify(directory, *synced_only)?;
    }
    blocks.verify(&demo.path())?;
    shell(&demo.path(), "rm -rf round-*", PATIENCE)?;
    demo.stop(Stop::Umount)
}
