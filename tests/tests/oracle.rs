//! Promise: programs cannot tell an Ashlar mount from a good local filesystem. The same random system
//! calls go to ext4 and to Ashlar side by side, by root and by others, and every answer, every errno
//! and everything stat(2) says of the files they name are equal; now and then so is the whole tree.
//! Up to three threads do so at once, each in directories of its own.
//!
//! Each case is up to three sequences of calls, which shrink when it fails. Some mount the volume anew
//! in their midst: what was before is there behind it, to the last time. In others the mount is killed,
//! or that and every daemon: then there is what docs/semantics.md promises ([`tests::moments`]), and
//! the calls go on from there.
//! `ASHLAR_SEED` repeats a run, `ASHLAR_ORACLE_CASES` makes it longer. Needs root and a loop device.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{RngAlgorithm, TestError, TestRng, TestRunner};
use tests::binaries::ashlar;
use tests::calls::{Raw, Step, replacing};
use tests::cluster::{Demo, Mode, Setup, Stop, can_mount};
use tests::pair::{Ext4, PAIRS, Pair, Progress};
use tests::process::{PATIENCE, run};
use tests::seed::Seed;
use tests::side::Memory;

/// Sequences of calls in a plain run: well below a minute.
const CASES: u32 = 60;
/// One in so many is run with daemons, too.
const WITH_DAEMONS: u32 = 4;
/// How likely something happens to the mount in the midst of a case.
const DISTURBED: f64 = 0.4;
/// Everything is stored in the background within about this time, in milliseconds: a rest before a
/// crash is somewhat longer at most.
const LONGEST_REST: u64 = 1300;
/// A call is killed at most so many microseconds after it began.
const LONGEST_CALL: u64 = 2000;

/// What happens to the mount.
#[derive(Clone, Debug)]
enum Event {
    /// umount(8), and mounted anew.
    Remount,
    /// kill -9.
    Kill(Kill),
}

#[derive(Clone, Copy, Debug)]
enum Between {
    /// fsync(2) of a directory: all names are durable, and what was written need not be.
    SyncNames,
    /// The same after a file was replaced by a new one that was not synced.
    SyncReplaced,
    /// Nothing for so many milliseconds.
    Rest(u64),
}

#[derive(Clone, Debug)]
struct Kill {
    /// The daemons too.
    everything: bool,
    /// What comes between two of the calls before.
    between: Option<(Index, Between)>,
    /// In the midst of the next call, so many microseconds after its beginning.
    during: Option<u64>,
}

/// Sequences of calls, each by a thread of its own; perhaps something happens somewhere in them.
#[derive(Clone, Debug)]
struct Case {
    sequences: Vec<Vec<Raw>>,
    event: Option<(Index, Event)>,
}

fn kills() -> impl Strategy<Value = Event> {
    let between = prop_oneof![
        Just(Between::SyncNames),
        Just(Between::SyncReplaced),
        (0..LONGEST_REST).prop_map(Between::Rest),
    ];
    let between = proptest::option::weighted(0.7, (any::<Index>(), between));
    let during = proptest::option::of(0..LONGEST_CALL);
    (any::<bool>(), between, during)
        .prop_map(|(everything, between, during)| Event::Kill(Kill { everything, between, during }))
}

fn cases_of_calls() -> impl Strategy<Value = Case> {
    let calls = proptest::collection::vec(any::<Raw>(), 1..200);
    let sequences = proptest::collection::vec(calls, 1..=PAIRS);
    let events = prop_oneof![Just(Event::Remount), kills()];
    let event = proptest::option::weighted(DISTURBED, (any::<Index>(), events));
    (sequences, event).prop_map(|(sequences, event)| Case { sequences, event })
}

impl Case {
    fn steps(&self) -> Vec<Vec<Step>> {
        let steps = |raws: &Vec<Raw>| raws.iter().copied().map(Step::from_raw).collect();
        self.sequences.iter().map(steps).collect()
    }

    /// The calls before which it happens, of each sequence.
    fn middles(&self) -> Vec<usize> {
        let middle = |raws: &Vec<Raw>| {
            self.event.as_ref().map_or(raws.len(), |(index, _)| index.index(raws.len() + 1))
        };
        self.sequences.iter().map(middle).collect()
    }

    fn told(&self) -> String {
        let mut told =
            format!("{:?} before calls {:?}", self.event.as_ref().map(|e| &e.1), self.middles());
        for (number, steps) in self.steps().iter().enumerate() {
            told += &format!("\nthread {number}:");
            for step in steps {
                told += &format!("\n  {step:?}");
            }
        }
        told
    }
}

/// Both filesystems.
struct Both<'a> {
    ext4: PathBuf,
    demo: RefCell<&'a mut Demo>,
    cases: Cell<usize>,
}

/// Each pair makes its calls from one index up to another, all at once.
fn together(
    pairs: &mut [Pair],
    steps: &[Vec<Step>],
    (from, to): (&[usize], &[usize]),
    progress: &Progress,
) -> Result<()> {
    std::thread::scope(|scope| {
        let threads = pairs.iter_mut().zip(steps).zip(from.iter().zip(to));
        let threads = threads.map(|((pair, steps), (from, to))| {
            scope.spawn(move || pair.run(&steps[*from..*to], *from, progress))
        });
        let threads: Vec<_> = threads.collect();
        let done = threads.into_iter().enumerate().map(|(number, thread)| {
            let done = thread.join().expect("the thread does not panic");
            done.with_context(|| format!("thread {number}"))
        });
        done.collect::<Vec<Result<()>>>().into_iter().collect()
    })
}

impl Both<'_> {
    fn try_case(&self, case: &Case) -> Result<()> {
        self.cases.set(self.cases.get() + 1);
        self.demo.borrow().goes_on();
        if !self.demo.borrow().is_mounted() {
            // The last case has failed in the midst of an event, and shrinks now.
            self.demo.borrow_mut().mount()?;
            keep_no_access_times(&self.demo.borrow())?;
        }
        let roots = [self.ext4.clone(), self.demo.borrow().path()];
        let name = format!("case-{}", self.cases.get());
        let numbers = 0..case.sequences.len();
        let pairs = numbers.map(|number| Pair::start(&roots, &name, number));
        let mut pairs = pairs.collect::<Result<Vec<Pair>>>()?;
        let played = self.play(&mut pairs, case);
        let removed: Result<()> = pairs.into_iter().try_for_each(Pair::remove);
        played.and(removed)
    }

    fn play(&self, pairs: &mut [Pair], case: &Case) -> Result<()> {
        let (steps, mut middles) = (case.steps(), case.middles());
        let progress = Progress::default();
        let start = vec![0; steps.len()];
        match &case.event {
            None => {}
            Some((_, Event::Remount)) => {
                together(pairs, &steps, (&start, &middles), &progress)?;
                self.remount(pairs)?;
            }
            Some((_, Event::Kill(kill))) => {
                pairs.iter_mut().try_for_each(Pair::expect_crash)?;
                let stop = |middle: &usize| {
                    kill.between.as_ref().map_or(0, |(index, _)| index.index(middle + 1))
                };
                let stops: Vec<usize> = middles.iter().map(stop).collect();
                together(pairs, &steps, (&start, &stops), &progress)?;
                match kill.between {
                    None => {}
                    Some((_, Between::SyncNames)) => Pair::sync_names(pairs)?,
                    Some((_, Between::SyncReplaced)) => {
                        for pair in pairs.iter_mut() {
                            pair.run(&replacing(), 0, &progress).context("replacing a file")?;
                        }
                        Pair::sync_names(pairs)?;
                    }
                    Some((_, Between::Rest(millis))) => {
                        std::thread::sleep(Duration::from_millis(millis));
                    }
                }
                together(pairs, &steps, (&stops, &middles), &progress)?;
                self.kill(pairs, kill, &steps, &mut middles, &progress)?;
            }
        }
        let ends: Vec<usize> = steps.iter().map(Vec::len).collect();
        together(pairs, &steps, (&middles, &ends), &progress)
    }

    fn remount(&self, pairs: &mut [Pair]) -> Result<()> {
        let memories: Vec<[Memory; 2]> = pairs.iter_mut().map(Pair::leave).collect();
        let mut demo = self.demo.borrow_mut();
        demo.remount().context("mounting anew")?;
        keep_no_access_times(&demo)?;
        pairs.iter_mut().zip(memories).try_for_each(|(pair, memory)| {
            pair.enter(memory)?;
            pair.compare_trees().context("looking at what was mounted anew")
        })
    }

    fn kill(
        &self,
        pairs: &mut [Pair],
        kill: &Kill,
        steps: &[Vec<Step>],
        middles: &mut [usize],
        progress: &Progress,
    ) -> Result<()> {
        let mut demo = self.demo.borrow_mut();
        let done = progress.done();
        let mut begun: Vec<Option<&Step>> = vec![None; pairs.len()];
        if let Some(micros) = kill.during {
            let next = steps.iter().zip(middles.iter());
            begun = next.map(|(steps, middle)| steps.get(*middle)).collect();
            for (pair, step) in pairs.iter().zip(&begun) {
                step.iter().for_each(|step| pair.begin(step));
            }
            std::thread::sleep(Duration::from_micros(micros));
        }
        let killed = if kill.everything { demo.kill_everything() } else { demo.kill_mount() };
        killed.context("killing the mount")?;
        for ((pair, step), middle) in pairs.iter_mut().zip(begun).zip(middles) {
            if let Some(step) = step {
                pair.end_killed(step, done, progress)
                    .with_context(|| format!("killed in {step:?}"))?;
                *middle += 1;
            }
            pair.leave();
        }
        demo.mount().context("mounting after the kill")?;
        keep_no_access_times(&demo)?;
        for (number, pair) in pairs.iter_mut().enumerate() {
            pair.recover(progress).with_context(|| format!("thread {number}"))?;
            pair.enter([Memory::default(), Memory::default()])?;
            pair.compare_trees().context("comparing ext4's copy with what the crash left")?;
        }
        Ok(())
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
    let failed = Cell::new(false);
    let try_case = |case: Case| {
        let Err(error) = both.try_case(&case) else { return Ok(()) };
        if !failed.replace(true) {
            // What it shrinks to may be another failure.
            eprintln!("case {}: {error:#}", both.cases.get());
        }
        Err(TestCaseError::fail(format!("{error:#}")))
    };
    match TestRunner::new_with_rng(config, rng).run(&cases_of_calls(), try_case) {
        Ok(()) => Ok(()),
        Err(TestError::Fail(why, case)) => anyhow::bail!("{why}\n{}", case.told()),
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
    let compared = random_calls(&both, cases);
    compared.map_err(|why| why.context(format!("the mount has said:\n{}\n", demo.said())))?;
    demo.stop(Stop::Umount)?;
    // What a crash near the end has left is swept by one more mount.
    demo.switch(Mode::Embedded)?;
    demo.mount()?;
    demo.stop(Stop::Umount)?;
    demo.fsck()
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
