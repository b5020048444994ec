//! Promise: volumes are listed and destroyed by what the disks say alone. A destroyed volume gives all of its
//! room back and is mounted by nobody, whatever interrupts it; what a machine keeps of volumes is its
//! owner's alone, shared by no two, and never needed.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::binaries::ashlar;
use tests::cluster::{Demo, Mode, Setup, Stop, can_mount, is_mounted, until_unused};
use tests::machine::Machine;
use tests::process::{PATIENCE, output, run, wait_until};
use tests::seed::{Seed, content};
use tests::site::only_in;

/// Until disks have counted what was deleted.
const COUNTED: Duration = Duration::from_secs(30);
const FILES: u64 = 60;

fn demo(mode: Mode) -> Result<Demo> {
    let demo = Demo::start(Setup { size: "4GiB", ..Setup::new(mode) })?;
    for number in 0..FILES {
        let path = demo.file(format!("file-{number}"));
        fs::write(&path, content(number + 1, 200_000))?;
        // A blob, or more, of its own.
        fs::File::open(&path)?.sync_all()?;
    }
    Ok(demo)
}

fn cluster(demo: &Demo) -> PathBuf {
    let served = demo.setup().mode == Mode::Served;
    demo.directory().join(if served { "daemons.toml" } else { "cluster.toml" })
}

fn volume(demo: &Demo, words: &[&str]) -> Result<Output> {
    let mut command = Command::new(ashlar());
    output(command.arg("volume").args(words).arg("--cluster").arg(cluster(demo)), PATIENCE)
}

fn listed(demo: &Demo) -> Result<Vec<Value>> {
    let answer = volume(demo, &["list", "--json"])?;
    let said = String::from_utf8_lossy(&answer.stderr).into_owned();
    ensure!(answer.status.success(), "list: {said}");
    Ok(serde_json::from_slice(&answer.stdout)?)
}

/// It must fail with one sentence that has the word.
fn refused(demo: &Demo, words: &[&str], word: &str) -> Result<()> {
    let answer = volume(demo, words)?;
    let said = String::from_utf8_lossy(&answer.stderr).into_owned();
    ensure!(!answer.status.success(), "{words:?} was taken: {said}");
    ensure!(said.lines().count() == 1 && said.contains(word), "{words:?}: {said:?}");
    Ok(())
}

/// Bytes of live records on each disk.
fn used(demo: &Demo) -> Result<Vec<u64>> {
    let mut status = Command::new(ashlar());
    status.args(["status", "--json", "--cluster"]).arg(cluster(demo));
    let status: Value = serde_json::from_str(&run(&mut status, PATIENCE)?)?;
    let disks = status["disks"].as_array().context("disks")?;
    disks.iter().map(|disk| disk["used"].as_u64().context("used")).collect()
}

/// That a blob was deleted is on the disk as long as what is left of it, in 32 bytes.
fn emptied(demo: &Demo) -> Result<()> {
    wait_until("all disks to be as empty as new ones", COUNTED, || {
        used(demo).is_ok_and(|used| used.len() == 8 && used.iter().all(|used| *used < 8 << 10))
    })
    .with_context(|| format!("{:?}", used(demo)))
}

/// A mount of it must be refused with this word.
fn no_mount(demo: &Demo, word: &str) -> Result<()> {
    let mut mount = Command::new(ashlar());
    mount.args(["mount", "demo"]).arg(demo.path()).arg("--cluster").arg(cluster(demo));
    let answer = output(&mut mount, PATIENCE)?;
    let said = String::from_utf8_lossy(&answer.stderr).into_owned();
    ensure!(!answer.status.success() && !is_mounted(&demo.path()), "it is mounted");
    ensure!(said.lines().count() == 1 && said.contains(word), "mount: {said:?}");
    Ok(())
}

fn list_and_destroy(mode: Mode) -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut demo = demo(mode)?;
    refused(&demo, &["destroy", "demo", "--yes"], "is mounted at")?;
    if mode == Mode::Served {
        let list = listed(&demo)?;
        let pid = i64::from(demo.mount_pid().as_raw());
        ensure!(list.len() == 1 && list[0]["mounted"]["pid"] == pid, "{list:?}");
    }
    demo.stop(Stop::Umount)?;
    // All that this machine knows of the volume is gone.
    fs::remove_dir_all(demo.directory().join("cache"))?;
    let list = listed(&demo)?;
    ensure!(list.len() == 1 && list[0]["name"] == "demo", "{list:?}");
    ensure!(list[0]["scheme"] == "ec(4,2)" && list[0]["state"] == "whole", "{list:?}");
    ensure!(list[0]["mounted"].is_null(), "{list:?}");
    let table = String::from_utf8(volume(&demo, &["list"])?.stdout)?;
    let number = list[0]["number"].to_string();
    ensure!(table.lines().count() == 2 && table.contains(&number), "{table}");
    refused(&demo, &["destroy", "demo"], "--yes")?;
    refused(&demo, &["destroy", "other", "--yes"], "only: volume demo")?;
    refused(&demo, &["destroy", "--number", "1", "--yes"], "no volume number 1")?;
    ensure!(used(&demo)?.iter().all(|used| *used > 0), "nothing was stored");
    let answer = volume(&demo, &["destroy", "demo", "--yes"])?;
    let said = String::from_utf8_lossy(&answer.stdout).into_owned();
    ensure!(answer.status.success() && said.contains("volume demo is destroyed"), "{answer:?}");
    ensure!(listed(&demo)?.is_empty(), "it is listed still");
    ensure!(String::from_utf8(volume(&demo, &["list"])?.stdout)? == "no volumes\n", "the table");
    emptied(&demo)?;
    let own = only_in(&demo.directory().join("cache"));
    ensure!(own.is_none(), "this machine keeps {own:?}");
    no_mount(&demo, "no volume demo")?;
    // Its name and its room are free.
    let mut format = Command::new(ashlar());
    run(format.args(["format", "demo", "--cluster"]).arg(cluster(&demo)), PATIENCE)?;
    demo.mount()?;
    ensure!(fs::read_dir(demo.path())?.next().is_none(), "the new one has files");
    fs::write(demo.file("new"), content(9, 1 << 20))?;
    demo.remount()?;
    ensure!(fs::read(demo.file("new"))? == content(9, 1 << 20), "other bytes");
    demo.stop(Stop::Umount)
}

#[test]
fn an_embedded_volume_is_listed_and_destroyed_by_its_disks_alone() -> Result<()> {
    list_and_destroy(Mode::Embedded)
}

#[test]
fn a_served_volume_is_listed_and_destroyed_by_its_disks_alone() -> Result<()> {
    list_and_destroy(Mode::Served)
}

#[test]
fn a_volume_in_use_elsewhere_is_destroyed_only_when_that_is_wanted() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut demo = demo(Mode::Served)?;
    demo.stop(Stop::Umount)?;
    let mut elsewhere = Machine::new(&demo)?;
    elsewhere.mount()?;
    let (pid, at) = (elsewhere.process().pid(), elsewhere.path());
    let host = fs::read_to_string("/proc/sys/kernel/hostname")?;
    let who = format!("is in use by process {pid} of {} at {} (", host.trim(), at.display());
    refused(&demo, &["destroy", "demo", "--yes"], &who)?;
    refused(&demo, &["destroy", "demo", "--yes"], "--take-over")?;
    let stored = |name| {
        let file = fs::File::create_new(elsewhere.file(name))?;
        file.sync_all()
    };
    stored("on")?;
    ensure!(listed(&demo)?[0]["state"] == "whole", "it is not whole any more");
    let answer = volume(&demo, &["destroy", "demo", "--yes", "--take-over"])?;
    ensure!(answer.status.success(), "{answer:?}");
    ensure!(stored("late").is_err(), "it still stores");
    ensure!(listed(&demo)?.is_empty(), "it is listed still");
    elsewhere.kill()
}

fn kill_in_the_midst(mode: Mode) -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut seed = Seed::announced("volumes");
    let mut demo = demo(mode)?;
    demo.stop(Stop::Umount)?;
    let mut killed = 0;
    while killed < 200 && !listed(&demo)?.is_empty() {
        let mut destroy = Command::new(ashlar());
        destroy.args(["volume", "destroy", "demo", "--yes", "--cluster"]).arg(cluster(&demo));
        let mut destroy = destroy.stdout(std::process::Stdio::null()).spawn()?;
        std::thread::sleep(Duration::from_millis(seed.below(120)));
        destroy.kill()?;
        destroy.wait()?;
        killed += 1;
        for volume in listed(&demo)? {
            ensure!(volume["name"] == "demo", "it has lost its name: {volume}");
            match volume["state"].as_str() {
                Some("whole") => {}
                Some("being destroyed") => no_mount(&demo, "being destroyed")?,
                state => anyhow::bail!("after {killed} kills: {state:?}: {volume}"),
            }
        }
    }
    println!("destroyed after {killed} kills");
    emptied(&demo)?;
    refused(&demo, &["destroy", "demo", "--yes"], "no volume demo")
}

#[test]
fn an_embedded_volume_that_was_killed_while_it_was_destroyed_is_brought_to_its_end() -> Result<()> {
    kill_in_the_midst(Mode::Embedded)
}

#[test]
fn a_served_volume_that_was_killed_while_it_was_destroyed_is_brought_to_its_end() -> Result<()> {
    kill_in_the_midst(Mode::Served)
}

#[test]
fn what_disks_keep_that_are_away_brings_no_volume_back() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut demo = demo(Mode::Served)?;
    demo.stop(Stop::Umount)?;
    for number in [2, 5, 7] {
        demo.kill_daemon(number)?;
    }
    refused(&demo, &["destroy", "demo", "--yes"], "too few")?;
    demo.restart_daemon(7)?;
    // Everything can be read, and so all can be fenced.
    refused(&demo, &["destroy", "demo", "--yes"], "run this again")?;
    no_mount(&demo, "being destroyed")?;
    demo.restart_daemon(2)?;
    demo.restart_daemon(5)?;
    let list = listed(&demo)?;
    ensure!(list.len() == 1 && list[0]["state"] == "being destroyed", "{list:?}");
    no_mount(&demo, "being destroyed")?;
    let answer = volume(&demo, &["destroy", "demo", "--yes"])?;
    ensure!(answer.status.success(), "{answer:?}");
    ensure!(listed(&demo)?.is_empty(), "it is listed still");
    emptied(&demo)
}

/// All that is in a directory, with modes.
fn modes(dir: &Path, found: &mut Vec<(PathBuf, u32)>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let meta = fs::symlink_metadata(&path)?;
        found.push((path.clone(), meta.mode() & 0o7777));
        if meta.is_dir() {
            modes(&path, found)?;
        }
    }
    Ok(())
}

#[test]
fn what_a_machine_keeps_is_closed_to_others_and_never_needed() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut demo = Demo::start(Setup { size: "4GiB", ..Setup::new(Mode::Embedded) })?;
    for n in 0..4000 {
        fs::write(demo.file(format!("name-{n}")), "")?;
    }
    demo.stop(Stop::Umount)?;
    let cache = demo.directory().join("cache");
    let (file, point) = (cluster(&demo), demo.path());
    // In the background, which has a log, and by one who would let others read everything.
    let mount = format!(
        "umask 0; {} mount demo {} --cluster {}",
        ashlar().display(),
        point.display(),
        file.display()
    );
    tests::process::shell(&demo.directory(), &mount, PATIENCE)?;
    let mut found = vec![(cache.clone(), fs::metadata(&cache)?.mode() & 0o7777)];
    modes(&cache, &mut found)?;
    until_unused(|| {
        let mut umount = Command::new(ashlar());
        umount.arg("umount").arg(&point);
        umount
    })?;
    for (path, mode) in &found {
        let expected =
            if path.extension().is_none() || path.ends_with("demo.chunks") { 0o700 } else { 0o600 };
        ensure!(*mode == expected, "{} has mode {mode:o}", path.display());
    }
    for name in ["demo.lock", "demo.messages", ".chunk"] {
        let there = found.iter().any(|(path, _)| path.to_string_lossy().ends_with(name));
        ensure!(there, "no {name} in {found:?}");
    }
    // No directory can be made there: chunks are read from the disks, and the lock is elsewhere.
    if !nix::unistd::geteuid().is_root() {
        eprintln!("NOT TESTED: without a cache, as this is not root");
        return Ok(());
    }
    fs::remove_dir_all(&cache)?;
    fs::write(&cache, "no directory")?;
    demo.mount()?;
    ensure!(fs::read_dir(demo.path())?.count() == 4000, "names are lost");
    refused(&demo, &["destroy", "demo", "--yes"], "is mounted at")?;
    fs::remove_file(demo.file("name-17"))?;
    demo.remount()?;
    ensure!(fs::read_dir(demo.path())?.count() == 3999, "it did not happen");
    demo.stop(Stop::Umount)?;
    let id = fs::read_to_string(&file)?;
    let id = id.split('"').nth(1).context("the cluster's id")?.to_owned();
    let answer = volume(&demo, &["destroy", "demo", "--yes"])?;
    ensure!(answer.status.success(), "{answer:?}");
    let left = Path::new("/run/ashlar").join(id);
    ensure!(!left.exists(), "{} is left behind", left.display());
    Ok(())
}

/// A filesystem of its own for the cache, which gets full, and then read-only.
#[test]
fn a_full_cache_stops_nothing() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    if !nix::unistd::geteuid().is_root() {
        eprintln!("NOT TESTED: only root makes a filesystem for the cache");
        return Ok(());
    }
    let mut demo = Demo::start(Setup { size: "4GiB", ..Setup::new(Mode::Embedded) })?;
    demo.stop(Stop::Umount)?;
    let cache = demo.directory().join("cache");
    let small = Small::mount(&cache)?;
    for round in 0..3 {
        if round == 1 {
            small.fill()?;
        }
        if round == 2 {
            run(Command::new("mount").args(["-o", "remount,ro"]).arg(&cache), PATIENCE)?;
        }
        demo.mount().with_context(|| format!("round {round}"))?;
        for n in 0..4000 {
            fs::write(demo.file(format!("name-{round}-{n}")), "")?;
        }
        if round > 0 {
            for n in 0..1000 {
                fs::remove_file(demo.file(format!("name-{}-{n}", round - 1)))?;
            }
        }
        fs::File::open(demo.path())?.sync_all()?;
        demo.stop(Stop::Umount)?;
    }
    demo.mount()?;
    ensure!(fs::read_dir(demo.path())?.count() == 3000 + 3000 + 4000, "names are lost");
    demo.stop(Stop::Umount)?;
    let answer = volume(&demo, &["destroy", "demo", "--yes"])?;
    ensure!(answer.status.success(), "{answer:?}");
    emptied(&demo)
}

/// A filesystem of 64 KiB in memory.
struct Small(PathBuf);

impl Small {
    fn mount(at: &Path) -> Result<Self> {
        fs::create_dir_all(at)?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=64k,mode=0700", "none"]).arg(at);
        run(&mut mount, PATIENCE)?;
        Ok(Self(at.to_owned()))
    }

    /// Takes all that is left.
    fn fill(&self) -> Result<()> {
        let full = fs::write(self.0.join("filler"), vec![1; 1 << 20]);
        ensure!(full.is_err(), "it has more room than it should");
        Ok(())
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        if let Err(e) = run(Command::new("umount").arg("-l").arg(&self.0), PATIENCE) {
            eprintln!("{e:#}");
        }
    }
}

#[test]
fn volumes_of_one_name_in_two_clusters_share_no_cache() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let setup = || Setup { size: "4GiB", ..Setup::new(Mode::Embedded) };
    let (mut one, mut two) = (Demo::start(setup())?, Demo::start(setup())?);
    two.stop(Stop::Umount)?;
    let (shared, own) = (one.directory().join("cache"), two.directory().join("cache"));
    let text = fs::read_to_string(cluster(&two))?;
    let text = text.replace(&own.display().to_string(), &shared.display().to_string());
    fs::write(cluster(&two), text)?;
    two.mount()?;
    for (demo, name) in [(&one, "one"), (&two, "two")] {
        for n in 0..4000 {
            fs::write(demo.file(format!("{name}-{n}")), "")?;
        }
    }
    ensure!(fs::read_dir(&shared)?.count() == 2, "they do not share the directory");
    one.remount()?;
    two.remount()?;
    for (demo, name) in [(&one, "one"), (&two, "two")] {
        ensure!(fs::read_dir(demo.path())?.count() == 4000, "{name} has other files");
        ensure!(demo.file(format!("{name}-3999")).exists(), "{name} is the other one");
    }
    one.stop(Stop::Umount)?;
    two.stop(Stop::Umount)
}
