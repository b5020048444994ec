//! The same directory on ext4 and on Ashlar, side by side: each call goes to both, and whatever they
//! answer and hold is equal. Up to three pairs work at once, in directories of their own.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::calls::Step;
use crate::moments::History;
use crate::process::{PATIENCE, output, run};
use crate::side::{Answer, Memory, Side};

/// Pairs that may work at once.
pub const PAIRS: usize = 3;
/// Calls between two looks at everything.
const BETWEEN_LOOKS: usize = 40;

/// An ext4 filesystem in a file, mounted for as long as this lives.
pub struct Ext4 {
    home: TempDir,
}

impl Ext4 {
    /// `None`, loudly, where that cannot be.
    ///
    /// # Errors
    /// When the filesystem cannot be made.
    pub fn mount() -> Result<Option<Self>> {
        let home = tempfile::Builder::new().prefix("ashlar-ext4-").tempdir()?;
        let image = home.path().join("image");
        std::fs::create_dir(home.path().join("mnt"))?;
        File::create(&image)?.set_len(2 << 30)?;
        // Large inodes, and attributes of up to 64 KiB.
        let features = ["-q", "-I", "1024", "-O", "ea_inode"];
        run(Command::new("mkfs.ext4").args(features).arg(&image), PATIENCE)?;
        let ext4 = Self { home };
        // Which reads count depends on what the kernel has cached, and that differs.
        let mut mount = Command::new("mount");
        mount.args(["-o", "loop,noatime"]).arg(&image).arg(ext4.path());
        let mounted = output(&mut mount, PATIENCE)?;
        if mounted.status.success() {
            return Ok(Some(ext4));
        }
        let why = String::from_utf8_lossy(&mounted.stderr);
        eprintln!("NOT TESTED: ext4 cannot be mounted from a file here: {}", why.trim_end());
        Ok(None)
    }

    /// The mount point.
    pub fn path(&self) -> PathBuf {
        self.home.path().join("mnt")
    }
}

impl Drop for Ext4 {
    fn drop(&mut self) {
        if let Err(error) = output(Command::new("umount").arg("-l").arg(self.path()), PATIENCE) {
            eprintln!("{error:#}");
        }
    }
}

/// What is durable of the pairs of one mount: a sync by one of them makes the names of all durable.
#[derive(Default)]
pub struct Progress {
    done: [AtomicUsize; PAIRS],
    durable: [AtomicUsize; PAIRS],
}

impl Progress {
    /// How many calls each has seen answered.
    pub fn done(&self) -> [usize; PAIRS] {
        self.done.each_ref().map(|calls| calls.load(SeqCst))
    }

    fn made_durable(&self, done: [usize; PAIRS]) {
        for (durable, done) in self.durable.iter().zip(done) {
            durable.fetch_max(done, SeqCst);
        }
    }
}

/// The same directory on both.
pub struct Pair {
    /// Which of those that work at once.
    number: usize,
    directories: [PathBuf; 2],
    sides: Option<[Side; 2]>,
    /// What a crash may leave, if there will be one.
    history: Option<History>,
}

impl Pair {
    /// New directories in ext4's and Ashlar's root.
    ///
    /// # Errors
    /// When they cannot be made or entered.
    pub fn start(roots: &[PathBuf; 2], name: &str, number: usize) -> Result<Self> {
        let directories = roots.each_ref().map(|root| root.join(format!("{name}-{number}")));
        for directory in &directories {
            std::fs::create_dir(directory)?;
            // Everybody may make names here, as in /tmp but for its sticky bit.
            let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
            std::fs::set_permissions(directory, open)?;
        }
        let mut pair = Self { number, directories, sides: None, history: None };
        pair.enter([Memory::default(), Memory::default()])?;
        Ok(pair)
    }

    /// Notes from here on what a crash may leave. All there is becomes durable.
    ///
    /// # Errors
    /// When that fails.
    pub fn expect_crash(&mut self) -> Result<()> {
        File::open(&self.directories[1])?.sync_all()?;
        self.history = Some(History::start(&self.directories[0])?);
        Ok(())
    }

    /// Has a directory synced on Ashlar, which makes the names of all durable.
    ///
    /// # Errors
    /// fsync(2)'s.
    pub fn sync_names(pairs: &mut [Self]) -> Result<()> {
        File::open(&pairs[0].directories[1])?.sync_all()?;
        let histories = pairs.iter_mut().filter_map(|pair| pair.history.as_mut());
        histories.for_each(History::names_are_durable);
        Ok(())
    }

    /// Works in the directories.
    ///
    /// # Errors
    /// When they cannot be entered.
    pub fn enter(&mut self, [ext4, ashlar]: [Memory; 2]) -> Result<()> {
        let [on_ext4, on_ashlar] = &self.directories;
        self.sides = Some([Side::start(on_ext4, ext4)?, Side::start(on_ashlar, ashlar)?]);
        Ok(())
    }

    /// Closes all files and leaves the directories. What to [`Self::enter`] with.
    pub fn leave(&mut self) -> [Memory; 2] {
        self.sides.take().map_or_else(Default::default, |sides| sides.map(Side::end))
    }

    fn sides(&self) -> &[Side; 2] {
        self.sides.as_ref().expect("it works in its directories")
    }

    fn step(&mut self, step: &Step, progress: &Progress) -> Result<()> {
        let done = progress.done();
        self.begin(step);
        let [ext4, ashlar]: [Answer; 2] = [self.sides()[0].answer()?, self.sides()[1].answer()?];
        ensure!(
            ext4.result == ashlar.result,
            "ext4 answers {:?}, Ashlar {:?}",
            ext4.result,
            ashlar.result
        );
        for (on_ext4, on_ashlar) in ext4.seen.iter().zip(&ashlar.seen) {
            ensure!(
                on_ext4 == on_ashlar,
                "after the same answer {:?}:\n on ext4   {on_ext4:?}\n on Ashlar {on_ashlar:?}",
                ext4.result
            );
        }
        self.record(step, &ext4, true, done, progress)
    }

    fn record(
        &mut self,
        step: &Step,
        ext4: &Answer,
        answered: bool,
        done: [usize; PAIRS],
        progress: &Progress,
    ) -> Result<()> {
        let Some(history) = &mut self.history else { return Ok(()) };
        if history.record(step, ext4, answered)? {
            progress.made_durable(done);
        }
        progress.done[self.number].store(history.calls(), SeqCst);
        Ok(())
    }

    /// Sends a call to both.
    pub fn begin(&self, step: &Step) {
        self.sides().iter().for_each(|side| side.run(step));
    }

    /// Ends a call in whose midst Ashlar was killed: it may have answered or not. `done`: what was
    /// answered before it began.
    ///
    /// # Errors
    /// When it hangs.
    pub fn end_killed(
        &mut self,
        step: &Step,
        done: [usize; PAIRS],
        progress: &Progress,
    ) -> Result<()> {
        let [ext4, ashlar] = [self.sides()[0].answer()?, self.sides()[1].answer()?];
        let answered = ashlar.result == ext4.result;
        self.record(step, &ext4, answered, done, progress)
    }

    /// Everything is equal.
    ///
    /// # Errors
    /// What differs.
    pub fn compare_trees(&self) -> Result<()> {
        let [ext4, ashlar] = [self.sides()[0].walk()?, self.sides()[1].walk()?];
        for path in ext4.keys().chain(ashlar.keys()) {
            let (on_ext4, on_ashlar) = (ext4.get(path), ashlar.get(path));
            ensure!(
                on_ext4 == on_ashlar,
                "{path:?}\n on ext4   {on_ext4:?}\n on Ashlar {on_ashlar:?}"
            );
        }
        Ok(())
    }

    /// Makes calls, of which the first has the number `first`.
    ///
    /// # Errors
    /// What differs.
    pub fn run(&mut self, steps: &[Step], first: usize, progress: &Progress) -> Result<()> {
        for (nth, step) in steps.iter().enumerate() {
            let call = first + nth;
            self.step(step, progress).with_context(|| format!("call {call}: {step:?}"))?;
            if nth % BETWEEN_LOOKS == BETWEEN_LOOKS - 1 || nth == steps.len() - 1 {
                self.compare_trees().with_context(|| format!("looking after call {call}"))?;
            }
        }
        Ok(())
    }

    /// Ashlar is mounted again after a crash: is there what may be? Then ext4 gets the same, for both
    /// to go on from there.
    ///
    /// # Errors
    /// What has no business there, or is missing.
    pub fn recover(&mut self, progress: &Progress) -> Result<()> {
        let [ext4, ashlar] = &self.directories;
        let history = self.history.take().context("no crash was expected")?;
        history.allows(ashlar, progress.durable[self.number].load(SeqCst))?;
        drop(history);
        std::fs::remove_dir_all(ext4)?;
        let mut copy = Command::new("cp");
        copy.args(["--archive", "--sparse=always", "--no-target-directory"]).arg(ashlar).arg(ext4);
        run(&mut copy, PATIENCE).map(drop)
    }

    /// Takes the directories away.
    ///
    /// # Errors
    /// When that cannot be.
    pub fn remove(mut self) -> Result<()> {
        self.leave();
        let gone = |path: &Path| std::fs::remove_dir_all(path).context("removing the directories");
        self.directories.iter().try_for_each(|path| gone(path))
    }
}
