//! Whoever harms disks of a demo, one at a time and in every way there is, while another one rots throughout: together as
//! many as `ec(4,2)` can lose.
//!
//! What was harmed is undone as its operator would undo it. Before the next disk is harmed, the one before is in use
//! again; and where it has lost what it held, that was made good.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, symlink};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};

use crate::binaries::{ashlar, storaged};
use crate::cluster::{DEMO_VOLUME, Demo, Mode, Setup, Stop};
use crate::cut::Link;
use crate::process::{PATIENCE, run, shell, wait_until};
use crate::seed::Seed;
use crate::small::Small;

/// After this a disk that is back must be in use again, and one that is gone be known to be.
const NOTICED: Duration = Duration::from_secs(60);
/// After this what a disk has lost must be made good, and one that is to be emptied be empty, under load.
const HEALED: Duration = Duration::from_secs(180);
/// Disks, and how many of them have a filesystem of their own.
const DISKS: usize = 8;
const SMALL: usize = 3;
/// Room of all disks together, of one, and of one of its block files: small, that a full filesystem is met soon.
const SIZE: &str = "2GiB";
const CAPACITY: [&str; 4] = ["--capacity", "256MiB", "--block-file", "16MiB"];
/// Bytes of such a filesystem: a disk, its index, and what ext4 itself takes.
const FILESYSTEM: u64 = 448 << 20;

/// What is done to a disk, until it is undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// Its daemon is killed.
    Killed,
    /// Its daemon is killed, and its index removed before the next one starts.
    IndexRemoved,
    /// Its daemon stands still.
    Stopped,
    /// Nobody gets through to it.
    Cut,
    /// Its block files and its index are removed under the daemon. It is to be filled again.
    Emptied,
    /// Its directory is removed under the daemon. An empty disk takes its place, and is to be filled.
    Replaced,
    /// It is to be emptied, and is put to use again when it is empty.
    Drained,
    /// Its filesystem is full.
    Filled,
    /// Its filesystem has met an error, and takes no more writes.
    ReadOnly,
    /// Its filesystem is not mounted any more.
    Detached,
}

/// What can be done to any disk, and what needs a filesystem of its own.
const ANYWHERE: [Harm; 7] = [
    Harm::Killed,
    Harm::IndexRemoved,
    Harm::Stopped,
    Harm::Cut,
    Harm::Emptied,
    Harm::Replaced,
    Harm::Drained,
];
const ON_SMALL: [Harm; 3] = [Harm::Filled, Harm::ReadOnly, Harm::Detached];

impl Harm {
    /// Is the daemon dead meanwhile?
    fn kills(self) -> bool {
        matches!(self, Self::Killed | Self::IndexRemoved)
    }

    /// Has the disk, or the daemon's way to it, changed so that a mount is to be told?
    fn moves_data(self) -> bool {
        matches!(self, Self::Emptied | Self::Replaced | Self::Drained)
    }
}

/// Who does it.
pub struct Adversary {
    /// What it is done to.
    pub demo: Demo,
    links: Vec<Link>,
    /// The disks that have a filesystem of their own, which go after the demo.
    small: BTreeMap<usize, Small>,
    seed: Seed,
    /// The disk whose bits are flipped.
    rotten: usize,
    harmed: Option<(usize, Harm)>,
    /// What is still to be done before anything is done again.
    to_do: Vec<Harm>,
    /// Everything that can be done here was done at least once.
    done_all: bool,
    /// The machine has forgotten that the mount is its own.
    forgotten: bool,
    /// How often each thing was done.
    done: BTreeMap<String, u64>,
}

impl Adversary {
    /// With a demo of its own, mounted.
    ///
    /// # Errors
    /// When that cannot be started.
    pub fn start(mut seed: Seed) -> Result<Self> {
        let setup = Setup { disks: DISKS, size: SIZE, ..Setup::new(Mode::Served) };
        let mut demo = Demo::start(setup)?;
        demo.stop(Stop::Umount)?;
        let links = put_links_between(&demo)?;
        let mut order: Vec<usize> = (0..DISKS).collect();
        seed.shuffle(&mut order);
        let small = move_to_small(&mut demo, &order[1..=SMALL])?;
        demo.mount()?;
        let rotten = order[0];
        println!("disk {rotten} rots; {:?} have filesystems of their own", small.keys());
        Ok(Self {
            demo,
            links,
            small,
            seed,
            rotten,
            harmed: None,
            to_do: Vec::new(),
            done_all: false,
            forgotten: false,
            done: BTreeMap::new(),
        })
    }

    /// How often each thing was done.
    pub fn done(&self) -> &BTreeMap<String, u64> {
        &self.done
    }

    /// Was everything done at least once?
    pub fn has_done_all(&self) -> bool {
        self.done_all
    }

    /// Counts one more of these.
    pub fn note(&mut self, what: String) {
        *self.done.entry(what).or_default() += 1;
    }

    /// A number below `bound`, of what it does next.
    pub fn choice(&mut self, bound: u64) -> usize {
        self.seed.below(bound) as usize
    }

    /// Does one thing more, or undoes the last one.
    ///
    /// # Errors
    /// When that cannot be, or a disk is not what it must be after it.
    pub fn act(&mut self) -> Result<()> {
        match (self.seed.below(5), self.harmed) {
            (0, _) => self.flip(),
            (1, None) => self.forget_what_is_cached(),
            (_, None) => self.harm(),
            (_, Some(_)) => self.undo(),
        }
    }

    /// What comes next: everything, in any order, before anything comes again.
    fn next_harm(&mut self) -> Harm {
        if self.to_do.is_empty() {
            self.to_do.extend(ANYWHERE);
            if !self.small.is_empty() {
                self.to_do.extend(ON_SMALL);
            }
            self.seed.shuffle(&mut self.to_do);
        }
        let harm = self.to_do.pop().expect("it was filled");
        self.done_all |= self.to_do.is_empty();
        harm
    }

    fn harm(&mut self) -> Result<()> {
        let harm = self.next_harm();
        let can = |disk: &usize| match ON_SMALL.contains(&harm) {
            true => self.small.contains_key(disk),
            false => *disk != self.rotten,
        };
        let disks: Vec<usize> = (0..DISKS).filter(can).collect();
        let disk = disks[self.choice(disks.len() as u64)];
        self.note(format!("{harm:?}"));
        let began = Instant::now();
        // A test that fails half way has done it.
        self.harmed = Some((disk, harm));
        self.do_harm(disk, harm).with_context(|| self.failed(disk, harm))?;
        println!("disk {disk}: {harm:?} ({:?})", began.elapsed());
        Ok(())
    }

    fn do_harm(&mut self, disk: usize, harm: Harm) -> Result<()> {
        match harm {
            Harm::Killed | Harm::IndexRemoved => self.demo.kill_daemon(disk),
            Harm::Stopped => Ok(kill(self.demo.daemon_pid(disk), Signal::SIGSTOP)?),
            Harm::Cut => {
                self.links[disk].cut();
                Ok(())
            }
            Harm::Emptied => {
                shell(&self.demo.disk(disk), "rm -rf index.redb blocks/*", PATIENCE)?;
                // It may have moved to a new file what it needs of those that are gone, before it looked.
                self.until_away(disk, || self.needs_no_removed_file(disk))
            }
            Harm::Replaced => {
                fs::remove_dir_all(self.demo.disk(disk).canonicalize()?)?;
                self.until_away(disk, || false)
            }
            Harm::Drained => {
                self.change_clusters(disk, "drain", &[])?;
                self.tell_mount()
            }
            Harm::Filled => self.small[&disk].fill(),
            // Where this kernel's ext4 knows no errors on demand nothing happens.
            Harm::ReadOnly => self.small[&disk].break_down().map(drop),
            Harm::Detached => self.small[&disk].detach(),
        }
    }

    /// What is there to be known when something fails.
    fn failed(&self, disk: usize, harm: Harm) -> String {
        let (states, heal) = (self.demo.states(), self.demo.heal());
        let (all, daemon) = (self.demo.said_by_all(), self.demo.said_by_daemon(disk));
        let files = shell(&self.demo.disk(disk), "ls -lR", PATIENCE);
        format!(
            "disk {disk}, {harm:?}: {states:?}\n{heal:?}\n{all}\nits daemon:\n{daemon}\nits files: {files:?}"
        )
    }

    /// The disk has lost what it had, and it is known; or it has lost nothing.
    fn until_away(&self, disk: usize, lost_nothing: impl Fn() -> bool) -> Result<()> {
        wait_until(&format!("the loss of disk {disk} to be noticed"), NOTICED, || {
            let report = self.demo.heal().map(|(_, report)| report);
            report.is_ok_and(|report| {
                report["disks_away"] != 0 || report["disks_rebuilding"] != 0 || lost_nothing()
            })
        })
    }

    /// The disk goes on as it was opened (anew it would have an index), and all its block files have names.
    fn needs_no_removed_file(&self, disk: usize) -> bool {
        let open = fs::read_dir(format!("/proc/{}/fd", self.demo.daemon_pid(disk)));
        let links = open.into_iter().flatten().flatten().map(|file| fs::read_link(file.path()));
        let names = links.flatten().map(|link| link.display().to_string());
        let files: Vec<String> = names.filter(|name| name.contains("/blocks/")).collect();
        let removed = |name: &String| name.ends_with(" (deleted)");
        !files.is_empty()
            && !files.iter().any(removed)
            && !self.demo.disk(disk).join("index.redb").exists()
    }

    /// Undoes what was done last.
    ///
    /// # Errors
    /// When the disk is not in use again afterwards, or not whole.
    pub fn undo(&mut self) -> Result<()> {
        let Some((disk, harm)) = self.harmed else { return Ok(()) };
        let began = Instant::now();
        let undone = self.undo_harm(disk, harm).and_then(|()| self.is_back(harm));
        undone.with_context(|| self.failed(disk, harm))?;
        self.harmed = None;
        println!("disk {disk} after {harm:?} ({:?})", began.elapsed());
        Ok(())
    }

    fn undo_harm(&mut self, disk: usize, harm: Harm) -> Result<()> {
        match harm {
            Harm::Killed => self.demo.restart_daemon(disk),
            Harm::IndexRemoved => {
                self.remove_index(disk)?;
                self.demo.restart_daemon(disk)
            }
            Harm::Stopped => Ok(kill(self.demo.daemon_pid(disk), Signal::SIGCONT)?),
            Harm::Cut => {
                self.links[disk].mend();
                Ok(())
            }
            Harm::Emptied => Ok(()),
            Harm::Replaced => {
                let place = self.demo.disk(disk);
                fs::create_dir(fs::read_link(&place).unwrap_or(place))?;
                self.demo.kill_daemon(disk)?;
                self.change_clusters(disk, "replace", &CAPACITY)?;
                self.demo.restart_daemon(disk)?;
                self.tell_mount()
            }
            Harm::Drained => {
                self.demo.until_heal("the disk is empty", HEALED, |report| {
                    report["drains"][0]["empty"] == true
                })?;
                self.change_clusters(disk, "drain", &["--undo"])?;
                self.tell_mount()
            }
            Harm::Filled => self.small[&disk].free(),
            Harm::ReadOnly => {
                self.demo.kill_daemon(disk)?;
                self.small[&disk].repair()?;
                self.demo.restart_daemon(disk)
            }
            Harm::Detached => self.small[&disk].attach(),
        }
    }

    fn is_back(&self, harm: Harm) -> Result<()> {
        self.demo.all_up(NOTICED)?;
        if harm.moves_data() { self.demo.until_healthy(HEALED) } else { Ok(()) }
    }

    fn remove_index(&self, disk: usize) -> Result<()> {
        Ok(fs::remove_file(self.demo.disk(disk).join("index.redb"))?)
    }

    /// Has `storaged disk` change the files of the cluster, that with the daemons and that without.
    fn change_clusters(&self, disk: usize, command: &str, more: &[&str]) -> Result<()> {
        let file: toml::Table = toml::from_str(&fs::read_to_string(self.demo.cluster_file())?)?;
        let id = file["slot"][disk]["disk"].as_str().context("a disk has an id")?.to_owned();
        for cluster in [self.demo.cluster_file(), self.demo.directory().join("cluster.toml")] {
            let mut change = Command::new(storaged());
            change.args(["disk", command, &id]).args(more).arg("--cluster").arg(cluster);
            if command == "replace" {
                change.arg(self.demo.disk(disk));
            }
            run(&mut change, PATIENCE)?;
        }
        Ok(())
    }

    /// Tells the mount that its cluster file has changed.
    fn tell_mount(&self) -> Result<()> {
        let mut remount = Command::new(ashlar());
        // Which file that is it knows; what its lock says went with the cache.
        remount.env_remove("ASHLAR_CLUSTER").args(["mount", DEMO_VOLUME]).arg(self.demo.path());
        run(remount.args(["-o", "remount"]), PATIENCE).map(drop)
    }

    /// Flips bits of what the rotten disk has.
    fn flip(&mut self) -> Result<()> {
        self.note("Flipped".to_owned());
        let files = self.demo.block_files(self.rotten)?;
        let file = &files[self.choice(files.len() as u64)];
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
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// There is a mount again, as whoever ended the last one finds things.
    ///
    /// # Errors
    /// When it cannot be.
    pub fn mount_again(&mut self) -> Result<()> {
        // A daemon that is dead is started with the mount.
        if let Some((disk, Harm::IndexRemoved)) = self.harmed {
            self.remove_index(disk)?;
        }
        self.harmed = self.harmed.filter(|(_, harm)| !harm.kills());
        if std::mem::take(&mut self.forgotten) { self.demo.take_over() } else { self.demo.mount() }
    }

    /// Has all disks read everything, and waits until all that is damaged is mended, and everything is whole.
    ///
    /// # Errors
    /// When it does not become so.
    pub fn make_whole(&mut self) -> Result<()> {
        self.undo()?;
        let mut scrub = Command::new(ashlar());
        run(scrub.args(["heal", "scrub", "--wait"]).arg(self.demo.path()), HEALED)
            .and_then(|_| self.demo.until_healthy(HEALED))
            .with_context(|| format!("{:?}\n{}", self.demo.heal(), self.demo.said_by_all()))
    }
}

/// Has these disks lie on filesystems of their own, where that can be.
fn move_to_small(demo: &mut Demo, disks: &[usize]) -> Result<BTreeMap<usize, Small>> {
    let mut moved = BTreeMap::new();
    for &disk in disks {
        let Some(small) = Small::new(FILESYSTEM)? else { break };
        let (from, to): (PathBuf, _) = (demo.disk(disk), small.path().join("disk"));
        // The next mount starts it again.
        demo.kill_daemon(disk)?;
        run(Command::new("cp").arg("-a").arg(&from).arg(&to), PATIENCE)?;
        // What its makers have synced must be there whatever becomes of the filesystem.
        nix::unistd::syncfs(File::open(small.path())?)?;
        fs::remove_dir_all(&from)?;
        symlink(&to, &from)?;
        moved.insert(disk, small);
    }
    Ok(moved)
}

/// A link before every daemon: the mount's cluster file names the links from then on.
fn put_links_between(demo: &Demo) -> Result<Vec<Link>> {
    let file = demo.cluster_file();
    let mut cluster: toml::Table = toml::from_str(&fs::read_to_string(&file)?)?;
    let slots = cluster.get_mut("slot").and_then(toml::Value::as_array_mut).context("no slots")?;
    ensure!(slots.len() == DISKS, "{} slots", slots.len());
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
