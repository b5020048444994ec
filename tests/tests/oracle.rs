//! Promise: programs cannot tell an Ashlar mount from a good local filesystem. The same random system
//! calls go to ext4 and to Ashlar side by side, by root and by others, and every answer, every errno
//! and everything stat(2) says of the files they name are equal; now and then so is the whole tree.
//!
//! Each case is a sequence of calls in a directory of its own, which shrinks when it fails. Some
//! mount the volume anew in their midst: what was before is there behind it, to the last time.
//! `ASHLAR_SEED` repeats a run, `ASHLAR_ORACLE_CASES` makes it longer. Needs root and a loop device.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{RngAlgorithm, TestError, TestRng, TestRunner};
use tempfile::TempDir;
use tests::binaries::ashlar;
use tests::calls::{Raw, Step};
use tests::cluster::{Demo, Mode, Setup, Stop, can_mount};
use tests::process::{PATIENCE, output, run};
use tests::seed::Seed;
use tests::side::{Answer, Memory, Side, Tree};

/// Sequences of calls in a plain run: well below a minute.
const CASES: u32 = 60;
/// One in so many is run with daemons, too.
const WITH_DAEMONS: u32 = 4;
/// How likely a sequence is to have the volume mounted anew.
const REMOUNTED: f64 = 0.2;
/// Calls between two looks at everything.
const BETWEEN_LOOKS: usize = 40;

/// An ext4 filesystem in a file, mounted for as long as this lives.
struct Ext4 {
    home: TempDir,
}

impl Ext4 {
    /// `None`, loudly, where that cannot be.
    fn mount() -> Result<Option<Self>> {
        let home = tempfile::Builder::new().prefix("ashlar-ext4-").tempdir()?;
        let image = home.path().join("image");
        std::fs::create_dir(home.path().join("mnt"))?;
        std::fs::File::create(&image)?.set_len(2 << 30)?;
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

    fn path(&self) -> PathBuf {
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

/// The same directory on both.
struct Pair {
    directories: [PathBuf; 2],
    sides: [Side; 2],
}

impl Pair {
    fn start(roots: &[PathBuf; 2], name: &str) -> Result<Self> {
        let directories = roots.each_ref().map(|root| root.join(name));
        for directory in &directories {
            std::fs::create_dir(directory)?;
            // Everybody may make names here, as in /tmp but for its sticky bit.
            let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
            std::fs::set_permissions(directory, open)?;
        }
        let new = |directory| Side::start(directory, Memory::default());
        let sides = [new(&directories[0])?, new(&directories[1])?];
        Ok(Self { directories, sides })
    }

    /// Mounts Ashlar anew. Open files are closed, on both.
    fn remount(self, demo: &mut Demo) -> Result<Self> {
        let Self { directories, sides } = self;
        let [ext4, ashlar] = sides.map(Side::end);
        demo.remount()?;
        keep_no_access_times(demo)?;
        let sides = [Side::start(&directories[0], ext4)?, Side::start(&directories[1], ashlar)?];
        Ok(Self { directories, sides })
    }

    fn step(&self, step: &Step) -> Result<()> {
        self.sides.iter().for_each(|side| side.run(step));
        let [ext4, ashlar]: [Answer; 2] = [self.sides[0].answer()?, self.sides[1].answer()?];
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
        Ok(())
    }

    fn compare_trees(&self) -> Result<Tree> {
        let [ext4, ashlar] = [self.sides[0].walk()?, self.sides[1].walk()?];
        for path in ext4.keys().chain(ashlar.keys()) {
            let (on_ext4, on_ashlar) = (ext4.get(path), ashlar.get(path));
            ensure!(
                on_ext4 == on_ashlar,
                "{path:?}\n on ext4   {on_ext4:?}\n on Ashlar {on_ashlar:?}"
            );
        }
        Ok(ext4)
    }

    fn run(&self, steps: &[Step], first: usize) -> Result<()> {
        for (nth, step) in steps.iter().enumerate() {
            let call = first + nth;
            self.step(step).with_context(|| format!("call {call}: {step:?}"))?;
            if nth % BETWEEN_LOOKS == BETWEEN_LOOKS - 1 || nth == steps.len() - 1 {
                self.compare_trees().with_context(|| format!("looking after call {call}"))?;
            }
        }
        Ok(())
    }

    fn remove(self) -> Result<()> {
        self.sides.into_iter().for_each(|side| drop(side.end()));
        self.directories.iter().try_for_each(|path| Ok(std::fs::remove_dir_all(path)?))
    }
}

/// A sequence of calls; perhaps the volume is mounted anew somewhere in it.
type Case = (Vec<Raw>, Option<Index>);

fn sequences() -> impl Strategy<Value = Case> {
    let calls = proptest::collection::vec(any::<Raw>(), 1..200);
    (calls, proptest::option::weighted(REMOUNTED, any::<Index>()))
}

/// Both filesystems.
struct Both<'a> {
    ext4: PathBuf,
    demo: RefCell<&'a mut Demo>,
    cases: Cell<usize>,
}

impl Both<'_> {
    fn try_case(&self, steps: &[Step], remount: Option<Index>) -> Result<()> {
        self.cases.set(self.cases.get() + 1);
        let roots = [self.ext4.clone(), self.demo.borrow().path()];
        let mut pair = Pair::start(&roots, &format!("case-{}", self.cases.get()))?;
        let middle = remount.map_or(0, |index| index.index(steps.len() + 1));
        let (before, after) = steps.split_at(middle);
        let mut compared = pair.run(before, 0);
        if remount.is_some() && compared.is_ok() {
            pair = pair.remount(&mut self.demo.borrow_mut())?;
            compared = pair.compare_trees().map(drop).context("looking at what was mounted anew");
        }
        let compared = compared.and_then(|()| pair.run(after, middle));
        pair.remove().expect("both directories can be removed");
        compared
    }
}

/// Reads shall change nothing on either side.
fn keep_no_access_times(demo: &Demo) -> Result<()> {
    let mut remount = Command::new(ashlar());
    remount.args(["mount", "demo"]).arg(demo.path()).args(["-o", "remount,noatime"]);
    run(&mut remount, PATIENCE).map(drop)
}

fn cases() -> u32 {
    let asked = std::env::var("ASHLAR_ORACLE_CASES").ok();
    asked.map_or(CASES, |text| text.parse().expect("ASHLAR_ORACLE_CASES is a number"))
}

fn random_calls(both: &Both<'_>, cases: u32) -> Result<()> {
    let mut seed = Seed::announced("oracle");
    let bytes: Vec<u8> = (0..4).flat_map(|_| seed.next_u64().to_le_bytes()).collect();
    let config = ProptestConfig {
        cases,
        failure_persistence: None,
        max_shrink_time: 60_000,
        max_shrink_iters: 20_000,
        ..ProptestConfig::default()
    };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let steps = |raws: Vec<Raw>| raws.into_iter().map(Step::from_raw).collect::<Vec<Step>>();
    let case = |(raws, remount): Case| {
        let differs = both.try_case(&steps(raws), remount).err();
        differs.map_or(Ok(()), |error| Err(TestCaseError::fail(format!("{error:#}"))))
    };
    match TestRunner::new_with_rng(config, rng).run(&sequences(), case) {
        Ok(()) => Ok(()),
        Err(TestError::Fail(why, (raws, remount))) => {
            let steps = steps(raws);
            let anew = remount.map(|index| index.index(steps.len() + 1));
            let calls: Vec<String> = steps.iter().map(|step| format!("  {step:?}")).collect();
            anyhow::bail!("{why}\nmounted anew before call {anew:?} of:\n{}", calls.join("\n"))
        }
        Err(TestError::Abort(why)) => anyhow::bail!("{why}"),
    }
}

fn same_answers(mode: Mode, cases: u32) -> Result<()> {
    if !can_compare() {
        return Ok(());
    }
    let Some(ext4) = Ext4::mount()? else { return Ok(()) };
    let mut demo = Demo::start(Setup::new(mode))?;
    keep_no_access_times(&demo)?;
    let both = Both { ext4: ext4.path(), demo: RefCell::new(&mut demo), cases: Cell::new(0) };
    random_calls(&both, cases)?;
    demo.stop(Stop::Umount)?;
    if mode == Mode::Embedded { demo.fsck() } else { Ok(()) }
}

fn can_compare() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("NOT TESTED: comparing with ext4 needs root");
    }
    let tools = Path::new("/sbin/mkfs.ext4").exists() || Path::new("/usr/sbin/mkfs.ext4").exists();
    if !tools {
        eprintln!("NOT TESTED: comparing with ext4 needs mkfs.ext4 (Debian: e2fsprogs)");
    }
    root && tools && can_mount()
}

#[test]
fn ext4_and_ashlar_answer_random_calls_alike() -> Result<()> {
    same_answers(Mode::Embedded, cases())
}

#[test]
fn ext4_and_ashlar_with_daemons_answer_random_calls_alike() -> Result<()> {
    same_answers(Mode::Served, cases().div_ceil(WITH_DAEMONS))
}
