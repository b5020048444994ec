//! Promise: metadata are as safe as data. What a machine keeps of a volume decides nothing; of what the disks
//! keep, any m may be rotten; beyond that the volume is refused in one sentence, and nothing is deleted.
//! Whoever has the cluster's addresses has the volume, and of two who want it one does.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::libc::EIO;
use nix::sys::signal::Signal;
use proto::id::BlobId;
use tests::binaries;
use tests::cluster::{Demo, Mode, Setup, Stop, can_mount};
use tests::load::Load;
use tests::machine::Machine;
use tests::process::{self, PATIENCE, bounded};
use tests::records::{Disks, Record, Role};
use tests::seed::{Seed, content};

/// Disks that may be lost.
const M: usize = 2;

/// What a volume must hold: names without content, and small files with it, each synced.
#[derive(Default)]
struct Expected {
    empty: u64,
    full: BTreeSet<u64>,
}

impl Expected {
    /// Makes so many names, and returns once they are durable.
    fn names(&mut self, mount: &Path, count: u64) -> Result<()> {
        for n in self.empty..self.empty + count {
            File::create(mount.join(format!("empty-{n}")))?;
        }
        self.empty += count;
        Ok(File::open(mount)?.sync_all()?)
    }

    /// Writes files, and returns once they are durable.
    fn files(&mut self, mount: &Path, count: u64) -> Result<()> {
        let next = self.full.last().map_or(0, |last| last + 1);
        for n in next..next + count {
            let mut file = File::create(mount.join(format!("full-{n}")))?;
            file.write_all(&content(n, 5000))?;
            file.sync_all()?;
            self.full.insert(n);
        }
        Ok(())
    }

    /// All of it is there, and nothing else.
    fn verify(&self, mount: &Path) -> Result<()> {
        let names = fs::read_dir(mount)?.map(|entry| Ok(entry?.file_name()));
        let names = names.collect::<std::io::Result<BTreeSet<_>>>()?;
        let empty = (0..self.empty).map(|n| format!("empty-{n}"));
        let full = self.full.iter().map(|n| format!("full-{n}"));
        let expected: BTreeSet<_> = empty.chain(full).map(std::ffi::OsString::from).collect();
        let missing: Vec<_> = expected.difference(&names).take(5).collect();
        let new: Vec<_> = names.difference(&expected).take(5).collect();
        ensure!(names == expected, "{} names; missing: {missing:?}, new: {new:?}", names.len());
        for n in &self.full {
            let bytes = fs::read(mount.join(format!("full-{n}")));
            ensure!(bytes.with_context(|| format!("file {n}"))? == content(*n, 5000), "file {n}");
        }
        Ok(())
    }
}

fn files_in(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| format!("listing {directory:?}"))? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(files_in(&path)?);
        } else {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn start(mode: Mode) -> Result<Option<Demo>> {
    if !can_mount() {
        return Ok(None);
    }
    Demo::start(Setup { size: "4GiB", ..Setup::new(mode) }).map(Some)
}

/// Ends the mount, in order or not.
fn end(demo: &mut Demo, seed: &mut Seed) -> Result<()> {
    if seed.chance(50) { demo.stop(Stop::Umount) } else { demo.kill_mount() }
}

/// A volume with several chunks in its snapshot, and entries of the journal behind it.
fn filled(demo: &mut Demo) -> Result<Expected> {
    let mut expected = Expected::default();
    expected.names(&demo.path(), 16_000)?;
    expected.files(&demo.path(), 20)?;
    demo.remount()?;
    expected.names(&demo.path(), 1000)?;
    demo.remount()?;
    expected.files(&demo.path(), 5)?;
    Ok(expected)
}

#[test]
fn what_a_machine_keeps_decides_nothing_embedded() -> Result<()> {
    what_a_machine_keeps_decides_nothing(Mode::Embedded)
}

#[test]
fn what_a_machine_keeps_decides_nothing_with_daemons() -> Result<()> {
    what_a_machine_keeps_decides_nothing(Mode::Served)
}

fn what_a_machine_keeps_decides_nothing(mode: Mode) -> Result<()> {
    let Some(mut demo) = start(mode)? else { return Ok(()) };
    let mut seed = Seed::announced("cache");
    let mut expected = filled(&mut demo)?;
    for round in 0..24 {
        end(&mut demo, &mut seed)?;
        if round == 0 {
            several_chunks(&mut demo, &mut expected)?;
        }
        let files = files_in(&demo.cache()?)?;
        let victims: Vec<_> = match round % 4 {
            0 => files,
            _ => vec![files[seed.below(files.len() as u64) as usize].clone()],
        };
        for victim in &victims {
            spoil(victim, &mut seed).with_context(|| victim.display().to_string())?;
        }
        demo.take_over().with_context(|| format!("round {round}, {victims:?}"))?;
        expected.verify(&demo.path()).with_context(|| format!("round {round}, {victims:?}"))?;
        expected.files(&demo.path(), 1)?;
    }
    demo.stop(Stop::Umount)?;
    fs::remove_dir_all(demo.cache()?)?;
    demo.mount()?;
    expected.verify(&demo.path())?;
    demo.stop(Stop::Umount)?;
    demo.switch(Mode::Embedded)?;
    demo.fsck()
}

/// Several chunks are kept of a volume that is not mounted: how many names that takes depends on how often they were
/// merged into one.
fn several_chunks(demo: &mut Demo, expected: &mut Expected) -> Result<()> {
    let is_chunk = |file: &PathBuf| file.extension().is_some_and(|e| e == "chunk");
    for _ in 0..10 {
        if files_in(&demo.cache()?)?.into_iter().filter(is_chunk).count() >= 2 {
            return Ok(());
        }
        demo.take_over()?;
        expected.names(&demo.path(), 8000)?;
        demo.stop(Stop::Umount)?;
    }
    bail!("few chunks are kept: {:?}", files_in(&demo.cache()?)?)
}

/// Takes a file away, cuts it, or flips bits of it.
fn spoil(path: &Path, seed: &mut Seed) -> Result<()> {
    let len = fs::metadata(path)?.len();
    let file = File::options().read(true).write(true).open(path)?;
    match seed.below(4) {
        0 => fs::remove_file(path)?,
        1 => file.set_len(seed.below(len.max(1)))?,
        kind => {
            for _ in 0..if kind == 2 { 1 } else { 50 } {
                let (mut byte, at) = ([0], seed.below(len.max(1)));
                if file.read_at(&mut byte, at)? == 1 {
                    byte[0] ^= 1 << seed.below(8);
                    file.write_all_at(&byte, at)?;
                }
            }
        }
    }
    Ok(())
}

#[test]
fn metadata_that_rot_on_two_disks_are_read_around() -> Result<()> {
    let Some(mut demo) = start(Mode::Embedded)? else { return Ok(()) };
    let mut seed = Seed::announced("rotten metadata");
    let mut expected = filled(&mut demo)?;
    let mut all = 0;
    for round in 0..6 {
        end(&mut demo, &mut seed)?;
        let disks = Disks::read(demo.disks())?;
        let mut spoilt = 0;
        for disk in [1, 6] {
            for record in disks.metadata(disk) {
                // Many places of a chunk, some of an entry, now and then of a header.
                for _ in 0..1 + record.blob.len() / 50_000 {
                    record.flip(seed.next_u64() >> 8)?;
                }
                if seed.chance(10) {
                    record.flip_header(seed.next_u64() >> 8)?;
                }
                spoilt += 1;
            }
        }
        println!("round {round}: {spoilt} records are spoilt");
        all += spoilt;
        if seed.chance(60) {
            fs::remove_dir_all(demo.cache()?)?;
        }
        demo.mount().with_context(|| format!("round {round}"))?;
        expected.verify(&demo.path()).with_context(|| format!("round {round}"))?;
        expected.files(&demo.path(), 3)?;
        expected.names(&demo.path(), 300)?;
    }
    ensure!(all > 0, "no metadata on two disks of eight, in six rounds");
    demo.stop(Stop::Umount)
}

#[test]
fn a_copy_of_an_entry_that_has_rotted_is_written_again_by_the_next_mount() -> Result<()> {
    let Some(mut demo) = start(Mode::Embedded)? else { return Ok(()) };
    let mut seed = Seed::announced("a rotten copy");
    let mut expected = Expected::default();
    for round in 0..M + 1 {
        // So few that they stay in the journal.
        expected.files(&demo.path(), 3)?;
        demo.stop(Stop::Umount)?;
        let disks = Disks::read(demo.disks())?;
        let victim = victim(&disks, Role::Entry)?;
        // Another one each time: the first is the one that is read.
        let (disk, copy) = disks.copies_by_disk(victim).swap_remove(round);
        copy.flip(seed.next_u64() >> 8)?;
        ensure!(
            !is_sound(&demo.disk(disk))?,
            "round {round}: {victim} is not rotten on disk {disk}"
        );
        demo.mount()?;
        expected.verify(&demo.path())?;
        demo.stop(Stop::Umount)?;
        ensure!(
            is_sound(&demo.disk(disk))?,
            "round {round}: {victim} is still rotten on disk {disk}"
        );
        let (there, all) = (Disks::read(demo.disks())?, M + 1);
        ensure!(there.copies_by_disk(victim).len() >= all, "round {round}: {victim} is gone");
        demo.mount()?;
    }
    demo.stop(Stop::Umount)?;
    demo.fsck()
}

/// Can all that a disk holds be read?
fn is_sound(disk: &Path) -> Result<bool> {
    let mut verify = Command::new(binaries::storaged());
    let answer = process::output(verify.args(["disk", "verify"]).arg(disk), 2 * PATIENCE)?;
    let said = String::from_utf8_lossy(&answer.stderr);
    ensure!(answer.status.code().is_some_and(|code| code <= 1), "{}: {said}", answer.status);
    Ok(answer.status.success())
}

#[test]
fn metadata_that_rot_beyond_that_are_refused_and_nothing_is_deleted() -> Result<()> {
    let Some(mut demo) = start(Mode::Embedded)? else { return Ok(()) };
    let mut seed = Seed::announced("rotten beyond");
    let mut expected = filled(&mut demo)?;
    for round in 0..6 {
        // Entries that a later one stands on, and a snapshot.
        expected.files(&demo.path(), 2)?;
        demo.stop(Stop::Umount)?;
        let before = Disks::read(demo.disks())?;
        let role = [Role::Manifest, Role::Entry, Role::Chunk][round % 3];
        let victim = victim(&before, role)?;
        let copies = before.copies(victim);
        ensure!(copies.len() == M + 1, "{} copies of {victim}", copies.len());
        let bits: Vec<u64> = copies.iter().map(|_| seed.next_u64() >> 8).collect();
        let flip = |copies: &[&Record]| {
            copies.iter().zip(&bits).try_for_each(|(copy, bit)| copy.flip(*bit))
        };
        flip(&copies)?;
        fs::remove_dir_all(demo.cache()?)?;
        match role {
            Role::Chunk => unreadable_in_part(&mut demo).with_context(|| victim.to_string())?,
            _ => {
                let said =
                    demo.refused().with_context(|| format!("{role:?} {victim} is rotten"))?;
                // The log goes there too.
                let ours: Vec<_> = said.lines().filter(|l| l.starts_with("ashlar: ")).collect();
                ensure!(ours.len() == 1 && !said.contains("panicked"), "not a sentence: {said}");
                println!("{role:?}: {}", ours[0]);
            }
        }
        let after = Disks::read(demo.disks())?;
        let gone: Vec<_> = before.parts().difference(&after.parts()).copied().collect();
        ensure!(gone.is_empty(), "{role:?}: parts were deleted: {gone:?}");
        flip(&copies)?;
        demo.mount().with_context(|| format!("{role:?}: bits are put back"))?;
        expected.verify(&demo.path()).with_context(|| format!("{role:?}: bits are put back"))?;
    }
    demo.stop(Stop::Umount)?;
    demo.fsck()
}

/// A blob of this kind that was acknowledged, and is needed.
fn victim(disks: &Disks, role: Role) -> Result<BlobId> {
    let blobs = disks.blobs(role);
    let at = match role {
        // The last entry could not be told from one that never was.
        Role::Entry => blobs.len().checked_sub(2),
        Role::Manifest => blobs.len().checked_sub(1),
        _ => Some(0),
    };
    let found = at.and_then(|at| blobs.get(at));
    found.copied().with_context(|| format!("{} blobs: {role:?}", blobs.len()))
}

/// A chunk cannot be read: some names cannot, and the mount is told so; or the volume is refused.
fn unreadable_in_part(demo: &mut Demo) -> Result<()> {
    if demo.mount().is_err() {
        return Ok(());
    }
    let path = demo.path();
    let listed = bounded("listing", 2 * PATIENCE, move || {
        fs::read_dir(path)?
            .map(|entry| entry?.metadata().map(drop))
            .collect::<Vec<_>>()
            .into_iter()
            .collect::<std::io::Result<()>>()
    })?;
    ensure!(errno(listed) == EIO, "all is there without one chunk");
    demo.kill_mount()
}

fn errno<T>(answer: std::io::Result<T>) -> i32 {
    answer.err().and_then(|error| error.raw_os_error()).unwrap_or(0)
}

#[test]
fn a_machine_that_has_never_seen_the_volume_opens_it_whatever_became_of_the_last_one() -> Result<()>
{
    let Some(mut demo) = start(Mode::Served)? else { return Ok(()) };
    let mut seed = Seed::announced("lost machines");
    let mut expected = Expected::default();
    expected.names(&demo.path(), 3000)?;
    expected.files(&demo.path(), 10)?;
    demo.stop(Stop::Umount)?;
    fs::remove_dir_all(demo.cache()?)?;
    for round in 0..4 {
        let mut machine = Machine::new(&demo)?;
        machine.mount().with_context(|| format!("round {round}"))?;
        expected.verify(&machine.path()).with_context(|| format!("round {round}"))?;
        fs::create_dir(machine.file("load"))?;
        File::open(machine.path())?.sync_all()?;
        let mut load = Load::start(&machine.file("load"), 2, 1, 40, &mut seed);
        load.progress(200 + seed.below(800))?;
        // In the midst of work.
        machine.kill()?;
        let seen = load.stop(PATIENCE)?;
        ensure!(seen.wrong.is_empty(), "{:?}", seen.wrong);
        let mut next = Machine::new(&demo)?;
        next.take_over().with_context(|| format!("round {round}, after the kill"))?;
        let verified = load.ledger().verify(&next.file("load"), true)?;
        println!("round {round}: {verified} synced files are whole");
        fs::remove_dir_all(next.file("load"))?;
        expected.files(&next.path(), 5)?;
        ensure!(next.umount()?, "{}", next.log_text()?);
    }
    let mut last = Machine::new(&demo)?;
    last.mount()?;
    expected.verify(&last.path())?;
    ensure!(last.umount()?);
    last.fsck().map(drop)
}

#[test]
fn a_mount_that_was_stopped_while_another_took_the_volume_over_changes_nothing() -> Result<()> {
    let Some(mut demo) = start(Mode::Served)? else { return Ok(()) };
    let mut expected = Expected::default();
    demo.stop(Stop::Umount)?;
    let (mut a, mut b) = (Machine::new(&demo)?, Machine::new(&demo)?);
    a.mount()?;
    expected.names(&a.path(), 500)?;
    expected.files(&a.path(), 20)?;
    // Not synced: may be lost, or come through.
    let mut late = File::create(a.file("late"))?;
    late.write_all(&content(77, 300_000))?;
    a.process().signal(Signal::SIGSTOP)?;
    b.take_over()?;
    let there = fs::exists(b.file("late"))?;
    if there {
        fs::remove_file(b.file("late"))?;
    }
    expected.verify(&b.path())?;
    expected.files(&b.path(), 20)?;
    fs::rename(b.file("full-3"), b.file("full-1000"))?;
    fs::write(b.file("full-1000"), content(1000, 5000))?;
    File::open(b.file("full-1000"))?.sync_all()?;
    expected.full.remove(&3);
    expected.full.insert(1000);
    a.process().signal(Signal::SIGCONT)?;
    let synced =
        bounded("fsync of the one that was stopped", 2 * PATIENCE, move || late.sync_all())?;
    ensure!(errno(synced) == EIO, "fsync of the one that was stopped");
    // Whatever it tries.
    let path = a.path();
    bounded("what the one that was stopped tries", 2 * PATIENCE, move || {
        let _ = fs::remove_file(path.join("full-1"));
        let _ = fs::write(path.join("full-2"), "of the one that was stopped");
        let made = File::create(path.join("new")).and_then(|file| file.sync_all());
        ensure!(made.is_err(), "it still writes");
        Ok(())
    })??;
    let log = a.log_text()?;
    ensure!(log.contains("taken over"), "it does not say why: {log}");
    expected.verify(&b.path())?;
    a.kill()?;
    expected.files(&b.path(), 5)?;
    ensure!(b.umount()?, "{}", b.log_text()?);
    let mut c = Machine::new(&demo)?;
    c.mount()?;
    expected.verify(&c.path())?;
    ensure!(c.umount()?);
    let said = c.fsck()?;
    ensure!(said.contains("is in order"), "{said}");
    Ok(())
}

#[test]
fn a_volume_is_not_taken_from_a_machine_that_is_alive_unless_it_is_wanted() -> Result<()> {
    let Some(mut demo) = start(Mode::Served)? else { return Ok(()) };
    let mut expected = Expected::default();
    demo.stop(Stop::Umount)?;
    let (mut a, mut b) = (Machine::new(&demo)?, Machine::new(&demo)?);
    a.mount()?;
    expected.names(&a.path(), 200)?;
    expected.files(&a.path(), 5)?;
    let said = b.try_mount()?.context("it was taken from a mount that is alive")?;
    heard_ago(&said)?;
    let who = format!("is in use by process {} of ", a.process().pid());
    let at = format!(" at {} (epoch ", a.path().display());
    ensure!(said.contains(&who) && said.contains(&at) && said.contains("--take-over"), "{said}");
    expected.files(&a.path(), 2)?;
    b.take_over()?;
    expected.verify(&b.path())?;
    let late = File::create(a.file("late")).and_then(|file| file.sync_all());
    ensure!(errno(late) == EIO, "the first one still writes");
    ensure!(a.log_text()?.contains("taken over"), "it does not say why: {}", a.log_text()?);
    a.kill()?;
    expected.files(&b.path(), 2)?;
    // On the machine of one that was killed nothing is waited for.
    b.kill()?;
    b.mount()?;
    expected.verify(&b.path())?;
    expected.files(&b.path(), 2)?;
    let killed = Instant::now();
    b.kill()?;
    let mut c = Machine::new(&demo)?;
    match c.try_mount()? {
        Some(said) => {
            let left = LIVE.saturating_sub(heard_ago(&said)?) + Duration::from_millis(200);
            println!("{said}");
            std::thread::sleep(left);
            c.mount()?;
        }
        // A busy machine has taken its time.
        None => ensure!(killed.elapsed() > LIVE / 3, "taken {:?} after the kill", killed.elapsed()),
    }
    expected.verify(&c.path())?;
    ensure!(c.umount()?, "{}", c.log_text()?);
    // It has ended, and said so.
    let mut d = Machine::new(&demo)?;
    d.mount()?;
    expected.verify(&d.path())?;
    ensure!(d.umount()?);
    d.fsck().map(drop)
}

/// How long a mount is taken to be alive after it was last heard from.
const LIVE: Duration = Duration::from_secs(15);

/// How long ago it was, as the sentence says.
fn heard_ago(said: &str) -> Result<Duration> {
    let (_, behind) = said.split_once("heard from ").context("no age").context(said.to_owned())?;
    let (number, _) = behind.split_once(" s ago").context("no age").context(said.to_owned())?;
    Ok(Duration::from_secs_f32(number.parse()?))
}

#[test]
fn of_two_machines_that_mount_at_once_one_has_the_volume() -> Result<()> {
    let Some(mut demo) = start(Mode::Served)? else { return Ok(()) };
    let mut expected = Expected::default();
    expected.names(&demo.path(), 300)?;
    expected.files(&demo.path(), 5)?;
    demo.stop(Stop::Umount)?;
    let mut both = 0;
    for round in 0..8 {
        let machines = [Machine::new(&demo)?, Machine::new(&demo)?];
        let racing = machines.map(|mut machine| {
            std::thread::spawn(move || {
                let mounted = machine.mount();
                (machine, mounted)
            })
        });
        let mut writers = Vec::new();
        for thread in racing {
            let (machine, mounted) = thread.join().expect("mounting does not panic");
            match mounted {
                Ok(()) => writers.push(machine),
                Err(why) => one_clear_sentence(&format!("{why:#}"))?,
            }
        }
        both += usize::from(writers.len() == 2);
        ensure!(!writers.is_empty(), "round {round}: nobody has it");
        let mut won = Vec::new();
        for (n, machine) in writers.iter().enumerate() {
            let file = machine.file(&format!("full-{}", 10_000 + round));
            let wrote = File::create(file).and_then(|mut file| {
                file.write_all(&content(10_000 + round, 5000))?;
                file.sync_all()
            });
            match wrote {
                Ok(()) => won.push(n),
                Err(_) => ensure!(machine.log_text()?.contains("taken over"), "round {round}"),
            }
        }
        ensure!(won.len() == 1, "round {round}: {won:?} of {} could write", writers.len());
        expected.full.insert(10_000 + round);
        let winner = &mut writers[won[0]];
        expected.verify(&winner.path()).with_context(|| format!("round {round}"))?;
        ensure!(winner.umount()?, "{}", winner.log_text()?);
        for (n, mut loser) in writers.into_iter().enumerate() {
            if n != won[0] {
                loser.kill()?;
            }
        }
    }
    println!("both were mounted in {both} of 8 rounds");
    let mut last = Machine::new(&demo)?;
    last.mount()?;
    expected.verify(&last.path())?;
    ensure!(last.umount()?);
    last.fsck().map(drop)
}

/// What a mount says that lost.
fn one_clear_sentence(said: &str) -> Result<()> {
    let clear = |line: &&str| line.contains("taken over") || line.contains("is in use by process");
    let sentence = said.lines().filter(clear).count();
    ensure!(sentence >= 1 && !said.contains("panicked"), "not a clear sentence: {said}");
    Ok(())
}

#[test]
fn a_volume_can_be_mounted_with_two_disks_away() -> Result<()> {
    let Some(mut demo) = start(Mode::Served)? else { return Ok(()) };
    let mut expected = Expected::default();
    expected.names(&demo.path(), 300)?;
    expected.files(&demo.path(), 20)?;
    demo.kill_mount()?;
    for (one, other) in [(0, 1), (3, 7), (5, 6)] {
        let mut machine = Machine::new(&demo)?;
        demo.kill_daemon(one)?;
        demo.kill_daemon(other)?;
        machine.take_over().with_context(|| format!("without disks {one} and {other}"))?;
        expected.verify(&machine.path())?;
        expected.files(&machine.path(), 3)?;
        demo.restart_daemon(one)?;
        demo.restart_daemon(other)?;
        machine.kill()?;
    }

    demo.take_over()?;
    expected.verify(&demo.path())?;
    demo.stop(Stop::Umount)
}
