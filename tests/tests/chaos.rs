//! Promise: whatever happens to two of eight disks, to daemons, links, block files, and to the machine that mounts, no
//! acknowledged byte is lost or changed, nothing hangs, and all is in order in the end.
//!
//! `ASHLAR_CHAOS_SECONDS` says how long it goes on (90 by default); `tools/chaos MINUTES SEED` is the same for longer.
//!
//! One disk has bits flipped in it throughout; one other at a time is harmed in one of the ways of [`Harm`]. Both
//! together are as many as the scheme can lose, so nothing but the end of the mount itself may be noticed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use tests::cluster::{Demo, Mode, Setup, Stop, can_mount};
use tests::cut::Link;
use tests::load::{BlockFile, Load};
use tests::process::{PATIENCE, bounded, shell};
use tests::seed::Seed;
use tests::tree::assert_readable;

/// After this a disk that is back must be in use again.
const NOTICED: Duration = Duration::from_secs(60);
/// Disks, and how many of them lie behind a link that can be cut.
const DISKS: usize = 8;
/// Peak memory that the mount, and each daemon, may take, in bytes.
const MEMORY: (u64, u64) = (1 << 30, 400 << 20);

/// What is done to a disk, until it is undone.
#[derive(Clone, Copy, Debug)]
enum Harm {
    /// Its daemon is killed.
    Killed,
    /// Its daemon is killed, and its index removed before the next one starts.
    IndexRemoved,
    /// Its daemon stands still.
    Stopped,
    /// Nobody gets through to it.
    Cut,
}

const HARMS: [Harm; 4] = [Harm::Killed, Harm::IndexRemoved, Harm::Stopped, Harm::Cut];

/// Who does it.
struct Adversary {
    demo: Demo,
    links: Vec<Link>,
    seed: Seed,
    /// The disk whose bits are flipped.
    rotten: usize,
    harmed: Option<(usize, Harm)>,
    /// The machine has forgotten that the mount is its own.
    forgotten: bool,
    /// How often each thing was done.
    done: BTreeMap<String, u64>,
}

impl Adversary {
    fn start(mut seed: Seed) -> Result<Self> {
        let setup = Setup { disks: DISKS, size: "8GiB", ..Setup::new(Mode::Served) };
        let mut demo = Demo::start(setup)?;
        demo.stop(Stop::Umount)?;
        let links = put_links_between(&demo)?;
        demo.mount()?;
        let rotten = seed.below(DISKS as u64) as usize;
        println!("disk {rotten} rots");
        Ok(Self {
            demo,
            links,
            seed,
            rotten,
            harmed: None,
            forgotten: false,
            done: BTreeMap::new(),
        })
    }

    fn note(&mut self, what: String) {
        *self.done.entry(what).or_default() += 1;
    }

    /// Does one thing more, or undoes the last one.
    fn act(&mut self) -> Result<()> {
        match (self.seed.below(4), self.harmed) {
            (0, _) => self.flip(),
            (1, None) => self.forget_what_is_cached(),
            (_, None) => self.harm(),
            (_, Some(_)) => self.undo(),
        }
    }

    fn harm(&mut self) -> Result<()> {
        let others: Vec<usize> = (0..DISKS).filter(|disk| *disk != self.rotten).collect();
        let disk = others[self.seed.below(others.len() as u64) as usize];
        let harm = HARMS[self.seed.below(HARMS.len() as u64) as usize];
        self.note(format!("{harm:?}"));
        match harm {
            Harm::Killed | Harm::IndexRemoved => self.demo.kill_daemon(disk)?,
            Harm::Stopped => kill(self.demo.daemon_pid(disk), Signal::SIGSTOP)?,
            Harm::Cut => self.links[disk].cut(),
        }
        self.harmed = Some((disk, harm));
        Ok(())
    }

    fn undo(&mut self) -> Result<()> {
        let Some((disk, harm)) = self.harmed.take() else { return Ok(()) };
        match harm {
            Harm::Killed => self.demo.restart_daemon(disk)?,
            Harm::IndexRemoved => {
                fs::remove_file(self.demo.disk(disk).join("index.redb"))?;
                self.demo.restart_daemon(disk)?;
            }
            Harm::Stopped => kill(self.demo.daemon_pid(disk), Signal::SIGCONT)?,
            Harm::Cut => self.links[disk].mend(),
        }
        if self.demo.is_mounted() {
            self.demo.all_up(NOTICED).with_context(|| {
                let (states, said) = (self.demo.states(), self.demo.said());
                format!("disk {disk} after {harm:?}: {states:?}\n{said}")
            })?;
        }
        Ok(())
    }

    /// Flips bits of what the rotten disk has.
    fn flip(&mut self) -> Result<()> {
        self.note("Flipped".to_owned());
        let files = self.demo.block_files(self.rotten)?;
        let file = &files[self.seed.below(files.len() as u64) as usize];
        let len = fs::metadata(file)?.len();
        let file = File::options().read(true).write(true).open(file)?;
        for _ in 0..50 {
            let (at, mut byte) = (self.seed.below(len), [0]);
            file.read_exact_at(&mut byte, at)?;
            byte[0] ^= 1 << self.seed.below(8);
            file.write_all_at(&byte, at)?;
        }
        Ok(file.sync_all()?)
    }

    /// What the machine keeps of metadata goes, under the mount.
    fn forget_what_is_cached(&mut self) -> Result<()> {
        self.note("CacheRemoved".to_owned());
        self.forgotten = true;
        match fs::remove_dir_all(self.demo.cache()?) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// How a round ends.
    fn end_of_round(&mut self) -> Result<RoundEnd> {
        let end = [RoundEnd::Nothing, RoundEnd::MountKilled, RoundEnd::AllKilled, RoundEnd::Umount]
            [self.seed.below(4) as usize];
        self.note(format!("{end:?}"));
        if end == RoundEnd::AllKilled {
            // Those that stand still would not go; those that are dead come back with the mount.
            self.undo()?;
        }
        Ok(end)
    }

    /// The mount ends so, and there is one again.
    fn end_mount(&mut self, end: RoundEnd) -> Result<()> {
        match end {
            RoundEnd::Nothing => return Ok(()),
            RoundEnd::MountKilled => self.demo.kill_mount()?,
            RoundEnd::AllKilled => self.demo.kill_everything()?,
            RoundEnd::Umount => self.demo.stop(Stop::Umount)?,
        }
        // A daemon that is dead is started with the mount.
        if let Some((disk, Harm::IndexRemoved)) = self.harmed {
            fs::remove_file(self.demo.disk(disk).join("index.redb"))?;
        }
        if self.harmed.is_some_and(|(_, h)| matches!(h, Harm::Killed | Harm::IndexRemoved)) {
            self.harmed = None;
        }
        if std::mem::take(&mut self.forgotten) { self.demo.take_over() } else { self.demo.mount() }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RoundEnd {
    Nothing,
    MountKilled,
    AllKilled,
    Umount,
}

impl RoundEnd {
    /// Are there errors of the mount's end among those of the load?
    fn is_noticed(self) -> bool {
        matches!(self, Self::MountKilled | Self::AllKilled)
    }
}

/// A link before every daemon: the mount's cluster file names the links from then on.
fn put_links_between(demo: &Demo) -> Result<Vec<Link>> {
    let file = demo.cluster_file();
    let mut cluster: toml::Table = toml::from_str(&fs::read_to_string(&file)?)?;
    let slots = cluster.get_mut("slot").and_then(toml::Value::as_array_mut).context("no slots")?;
    let mut links = Vec::with_capacity(slots.len());
    for slot in slots {
        let daemon = slot["address"].as_str().context("no address")?;
        let link = Link::to(daemon)?;
        slot["address"] = toml::Value::String(link.address());
        links.push(link);
    }
    fs::write(&file, toml::to_string(&cluster)?)?;
    Ok(links)
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
            load.progress(30 + seed.below(400))?;
            adversary.act()?;
            adversary.demo.goes_on();
        }
        load.progress(100)?;
        let how = adversary.end_of_round()?;
        if how.is_noticed() {
            adversary.end_mount(how)?;
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
            seen.went_well().with_context(|| adversary.demo.said())?;
            ensure!(error.is_none(), "overwriting: {error:?}");
            adversary.end_mount(how)?;
        }
        kept.push((directory, load, how.is_noticed()));
        println!("round {round} ended with {how:?}");
        for (directory, load, synced_only) in &kept {
            let verified = load.ledger().verify(directory, *synced_only);
            verified
                .with_context(|| format!("{}:\n{}", directory.display(), adversary.demo.said()))?;
        }
        blocks.verify(&mount)?;
        // Its removal is part of what comes next.
        if kept.len() > 2 {
            let (directory, ..) = kept.remove(0);
            fs::remove_dir_all(&directory)?;
        }
        if Instant::now() >= end {
            break;
        }
    }
    println!("done: {:?}", adversary.done);
    ends_in_order(adversary, &kept, &mut blocks)
}

/// Once nothing happens any more: memory was bounded, and all is there with the client's machine lost.
fn ends_in_order(
    mut adversary: Adversary,
    kept: &[(PathBuf, Load, bool)],
    blocks: &mut BlockFile,
) -> Result<()> {
    adversary.undo()?;
    let demo = &mut adversary.demo;
    demo.all_up(NOTICED)?;
    for (who, peak) in demo.peak_memory()? {
        let most = if who.is_none() { MEMORY.0 } else { MEMORY.1 };
        ensure!(peak <= most, "{who:?} took {} MiB", peak >> 20);
    }
    assert_readable(&demo.path(), 4 * PATIENCE)?;
    demo.stop(Stop::Umount)?;
    demo.switch(Mode::Embedded)?;
    demo.fsck()?;
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
