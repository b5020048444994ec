//! Promise: what disks missed or lost is made good by itself: a disk that comes back gets its parts, one that does not is
//! done without, rot is mended by whoever reads it; and one can see how safe everything is meanwhile.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use tests::binaries::{ashlar, storaged};
use tests::cluster::{Demo, Mode, Setup, Stop, can_mount};
use tests::process::{PATIENCE, Process, answer, shell, wait_until};
use tests::seed::{Seed, content, first_difference};
use tests::site::refused;

/// How long healing some files may take on a busy machine.
const HEALED: Duration = Duration::from_secs(120);
/// Bytes of each file: a blob of its own.
const FILE: usize = 300 << 10;

/// Runs a command at a terminal, and ends as it does.
const AT_A_TERMINAL: &str = "import os, pty, sys
sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))";

struct Files(Vec<(String, u64)>);

impl Files {
    /// Writes files, each stored on its own.
    fn write(demo: &Demo, name: &str, count: u64, seed: &mut Seed) -> Result<Self> {
        let write = |number| {
            let (name, stamp) = (format!("{name}-{number}"), seed.next_u64());
            let mut file = File::create(demo.file(&name))?;
            file.write_all(&content(stamp, FILE))?;
            file.sync_all()?;
            Ok((name, stamp))
        };
        (0..count).map(write).collect::<Result<_>>().map(Self)
    }

    /// Reads all of them from the disks.
    fn verify(&self, demo: &Demo) -> Result<()> {
        let unread = self.unread(demo)?;
        ensure!(unread.is_empty(), "{unread:?} cannot be read");
        Ok(())
    }

    /// Reads all of them from the disks: those that give an error. None gives wrong bytes.
    fn unread(&self, demo: &Demo) -> Result<Vec<String>> {
        demo.drop_caches()?;
        let mut unread = Vec::new();
        for (name, stamp) in &self.0 {
            let Ok(bytes) = fs::read(demo.file(name)) else {
                unread.push(name.clone());
                continue;
            };
            let right = bytes.len() == FILE && first_difference(*stamp, 0, &bytes).is_none();
            ensure!(right, "{name} has wrong bytes");
        }
        Ok(unread)
    }
}

/// Without a cache, whatever is read comes from disks.
fn served(mount_arguments: &[&str]) -> Result<Demo> {
    let mut arguments = vec!["--cache-size", "1MiB"];
    arguments.extend(mount_arguments);
    let mount_arguments = arguments.into_iter().map(str::to_owned).collect();
    Demo::start(Setup { mount_arguments, size: "4GiB", ..Setup::new(Mode::Served) })
}

#[test]
fn what_was_written_while_disks_were_away_goes_home_when_they_are_back() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut seed = Seed::announced("home");
    let mut demo = served(&[])?;
    demo.until_healthy(HEALED)?;
    let lost = [seed.below(8) as usize, seed.below(7) as usize];
    let lost = [lost[0], (lost[0] + 1 + lost[1]) % 8];
    for disk in lost {
        demo.kill_daemon(disk)?;
    }
    demo.up(6, HEALED)?;
    let files = Files::write(&demo, "file", 40, &mut seed)?;
    let degraded = |report: &Value| report["health"] == "degraded";
    let report = demo.until_heal("degraded", HEALED, degraded)?;
    let line = report["line"].as_str().unwrap_or_default();
    ensure!(line.starts_with("DEGRADED: 2 of 8 disks away"), "{line}");
    ensure!(demo.heal()?.0 == 1, "degraded is told by the exit code");
    for disk in lost {
        demo.restart_daemon(disk)?;
    }
    demo.until_healthy(HEALED)?;
    ensure!(demo.heal()?.0 == 0, "healthy is told by the exit code");
    // Any two others may go now.
    let others: Vec<usize> = (0..8).filter(|disk| !lost.contains(disk)).collect();
    for round in 0..2 {
        let gone = [others[3 * round], others[3 * round + 1 + seed.below(2) as usize]];
        for disk in gone {
            demo.kill_daemon(disk)?;
        }
        demo.up(6, HEALED)?;
        files.verify(&demo).with_context(|| format!("{gone:?} are gone, {lost:?} were away"))?;
        for disk in gone {
            demo.restart_daemon(disk)?;
        }
        demo.all_up(HEALED)?;
    }
    demo.stop(Stop::Umount)
}

#[test]
fn a_disk_that_stays_away_is_done_without() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut seed = Seed::announced("grace");
    let mut demo = served(&["--disk-grace", "2s"])?;
    let files = Files::write(&demo, "file", 40, &mut seed)?;
    demo.until_healthy(HEALED)?;
    let gone = seed.below(8) as usize;
    demo.kill_daemon(gone)?;
    // As safe as before, on the seven that are left.
    let done = |report: &Value| {
        report["disks_away"] == 1
            && report["counts"]["at_risk"] == 0
            && report["queue"] == 0
            && report["mended_bytes"].as_u64() > Some(0)
    };
    let report = demo.until_heal("a lost disk is made good", HEALED, done)?;
    ensure!(report["health"] == "degraded", "a disk is away: {report}");
    let others = [(gone + 1 + seed.below(3) as usize) % 8, (gone + 4 + seed.below(4) as usize) % 8];
    for disk in others {
        demo.kill_daemon(disk)?;
    }
    demo.up(5, HEALED)?;
    files.verify(&demo).with_context(|| format!("{gone} was lost, then {others:?}"))?;
    for disk in [gone, others[0], others[1]] {
        demo.restart_daemon(disk)?;
    }
    demo.until_healthy(HEALED)?;
    files.verify(&demo)?;
    demo.stop(Stop::Umount)
}

#[test]
fn a_disk_that_was_emptied_is_filled_again() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut seed = Seed::announced("emptied");
    let mut demo = served(&[])?;
    let files = Files::write(&demo, "file", 40, &mut seed)?;
    demo.until_healthy(HEALED)?;
    let emptied = seed.below(8) as usize;
    demo.kill_daemon(emptied)?;
    shell(&demo.disk(emptied), "rm -rf index.redb blocks/*", PATIENCE)?;
    demo.restart_daemon(emptied)?;
    let filled = |report: &Value| {
        report["health"] == "healthy"
            && report["mended_bytes"].as_u64() > Some(0)
            && report["queue"] == 0
    };
    demo.until_heal("it is filled", HEALED, filled)?;
    let others =
        [(emptied + 1 + seed.below(3) as usize) % 8, (emptied + 4 + seed.below(4) as usize) % 8];
    for disk in others {
        demo.kill_daemon(disk)?;
    }
    demo.up(6, HEALED)?;
    files.verify(&demo).with_context(|| format!("{emptied} was emptied, then {others:?} lost"))?;
    demo.stop(Stop::Umount)
}

#[test]
fn rot_is_mended_by_whoever_reads_it_and_what_is_lost_is_named() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut seed = Seed::announced("rot");
    let mut demo = served(&[])?;
    let files = Files::write(&demo, "file", 40, &mut seed)?;
    demo.until_healthy(HEALED)?;
    rot(&demo, 0, &mut seed)?;
    files.verify(&demo)?;
    let mended = |report: &Value| report["mended_blobs"].as_u64() > Some(0) && report["queue"] == 0;
    demo.until_heal("rot is mended", HEALED, mended)?;
    // Each file meets what is left of it at last.
    for disk in [1, 2] {
        rot(&demo, disk, &mut seed)?;
    }
    files.unread(&demo)?;
    demo.until_heal("all that was read is mended", HEALED, |report| report["queue"] == 0)?;
    let unread = files.unread(&demo)?;
    println!("{} of {} files are lost: {unread:?}", unread.len(), files.0.len());
    if !unread.is_empty() {
        let named = |report: &Value| report["lost"].as_array().is_some_and(|lost| !lost.is_empty());
        let report = demo.until_heal("what is lost is named", HEALED, named)?;
        ensure!(report["health"] == "data-unavailable" && demo.heal()?.0 == 2, "{report}");
    }
    let table = answer(Command::new(ashlar()).args(["heal", "status"]).arg(demo.path()), PATIENCE)?;
    ensure!(table.1.contains("losses      of blobs: "), "{}", table.1);
    // What can be read stays readable, and writing goes on.
    Files::write(&demo, "later", 5, &mut seed)?.verify(&demo)?;
    ensure!(files.unread(&demo)? == unread, "others are lost by now");
    demo.kill_mount()
}

#[test]
fn what_a_scrub_finds_is_mended_though_nobody_reads_it() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut seed = Seed::announced("scrub");
    let mut demo = served(&[])?;
    let files = Files::write(&demo, "file", 40, &mut seed)?;
    demo.until_healthy(HEALED)?;
    let rotten = [0, 1].map(|nth| (4 * nth + seed.below(4) as usize) % 8);
    for (round, disk) in rotten.into_iter().enumerate() {
        let mended = demo.heal()?.1["mended_blobs"].as_u64();
        rot(&demo, disk, &mut seed)?;
        match round {
            // Of all disks, by the mount; it ends when all is mended.
            0 => {
                let mut scrub = Command::new(ashlar());
                scrub.args(["heal", "scrub", "--wait"]).arg(demo.path());
                let (code, said) = answer(&mut scrub, HEALED)?;
                ensure!(code == 0, "exit code {code}: {said}");
                ensure!(!said.contains('\u{1b}'), "drawn where there is no terminal: {said:?}");
            }
            // Of one disk, by its daemon.
            _ => {
                let mut scrub = Command::new(storaged());
                scrub.args(["disk", "scrub", "--wait", "--address"]).arg(demo.address(disk)?);
                // It says that some are damaged, unless they are mended already.
                let (_, said) = answer(&mut scrub, HEALED)?;
                ensure!(said.contains("parts are"), "{said}");
            }
        }
        demo.until_heal("what was found is mended", HEALED, |report| {
            report["mended_blobs"].as_u64() > mended && report["damaged_blobs"] == 0
        })?;
        demo.until_healthy(HEALED)?;
    }
    // At a terminal that is drawn, and what it came to stays.
    let mut drawn = Command::new("python3");
    drawn.args(["-c", AT_A_TERMINAL]).arg(ashlar());
    let (code, said) = answer(drawn.args(["heal", "scrub", "--wait"]).arg(demo.path()), HEALED)?;
    let last = said.trim_end().lines().last().unwrap_or_default();
    ensure!(code == 0 && said.contains('\u{1b}'), "exit code {code}: {said:?}");
    ensure!(last.contains("HEALTHY: all ") && last.contains("8 disks were read"), "{said:?}");
    // None of it was needed by anybody; now all of it is.
    let others: Vec<usize> = (0..8).filter(|disk| !rotten.contains(disk)).collect();
    for disk in [others[seed.below(3) as usize], others[3 + seed.below(3) as usize]] {
        demo.kill_daemon(disk)?;
    }
    demo.up(6, HEALED)?;
    files.verify(&demo)?;
    demo.stop(Stop::Umount)
}

/// Flips a bit in every stretch of the block files of a disk that is shorter than a part.
fn rot(demo: &Demo, disk: usize, seed: &mut Seed) -> Result<()> {
    for path in demo.block_files(disk)? {
        let used = tests::cluster::allocated(&path)?.min(fs::metadata(&path)?.len());
        let file = File::options().read(true).write(true).open(&path)?;
        for stretch in (0..used).step_by(32 << 10) {
            let (mut byte, at) = ([0], stretch + seed.below(32 << 10));
            if file.read_at(&mut byte, at)? == 1 {
                byte[0] ^= 1 << seed.below(8);
                file.write_all_at(&byte, at)?;
            }
        }
        file.sync_all()?;
    }
    Ok(())
}

#[test]
fn whoever_opens_the_disks_says_how_often_they_are_read() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let scrub = |demo: &Demo| {
        let mut scrub = Command::new(ashlar());
        scrub.args(["heal", "scrub"]).arg(demo.path());
        scrub
    };
    for mode in [Mode::Embedded, Mode::Daemons] {
        let demo_arguments = ["--scrub-days", "0"].map(str::to_owned).to_vec();
        let mut demo = Demo::start(Setup { demo_arguments, ..Setup::new(mode) })?;
        let said = refused(&mut scrub(&demo), PATIENCE)?;
        ensure!(said.contains("never scrubbed"), "{mode:?}: {said}");
        demo.stop(Stop::Umount)?;
    }
    let demo_arguments = ["--scrub-days", "3"].map(str::to_owned).to_vec();
    let mut demo = Demo::start(Setup { demo_arguments, ..Setup::new(Mode::Embedded) })?;
    let (code, said) = answer(&mut scrub(&demo), PATIENCE)?;
    ensure!(code == 0 && said.starts_with("8 disks"), "{code}: {said}");
    demo.stop(Stop::Umount)?;
    // Those of daemons are not for a mount to say.
    let mut demo = served(&[])?;
    demo.stop(Stop::Umount)?;
    let mut mount = Command::new(ashlar());
    mount.args(["mount", "demo"]).arg(demo.path()).args(["--scrub-days", "3", "--cluster"]);
    let said = refused(mount.arg(demo.cluster_file()), PATIENCE)?;
    ensure!(said.contains("storaged run --scrub-days"), "{said}");
    Ok(())
}

/// `ashlar status --cluster`: its exit code, and what it says.
fn of_cluster(demo: &Demo) -> Result<(i32, Value)> {
    let mut status = Command::new(ashlar());
    status.args(["status", "--json", "--cluster"]).arg(demo.cluster_file());
    let (code, said) = answer(&mut status, PATIENCE)?;
    Ok((code, serde_json::from_str(&said)?))
}

#[test]
fn a_cluster_is_told_of_with_how_safe_its_volumes_are_where_somebody_here_knows() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    for mode in [Mode::Served, Mode::Embedded] {
        let mut demo = Demo::start(Setup { size: "4GiB", ..Setup::new(mode) })?;
        fs::write(demo.file("file"), "bytes")?;
        demo.until_healthy(HEALED)?;
        let (code, status) = of_cluster(&demo)?;
        let volume = &status["volumes"][0];
        let known = volume["volume"] == "demo" && volume["heal"]["health"] == "healthy";
        ensure!(code == 0 && known, "{mode:?}: {code}: {status}");
        ensure!(volume["heal"]["counts"]["by_spare"].is_array(), "{volume}");
        let mut words = Command::new(ashlar());
        words.args(["status", "--cluster"]).arg(demo.cluster_file());
        let (_, said) = answer(&mut words, PATIENCE)?;
        ensure!(said.starts_with("volume      demo: HEALTHY: "), "{mode:?}: {said}");
        demo.stop(Stop::Umount)?;
        let (code, status) = of_cluster(&demo)?;
        let volume = &status["volumes"][0];
        let why = volume["unknown"].as_str().unwrap_or_default();
        ensure!(code == 0 && why.contains("ashlar fsck demo"), "{mode:?}: {code}: {status}");
        ensure!(volume["heal"].is_null(), "{volume}");
    }
    Ok(())
}

#[test]
fn a_cluster_whose_volume_is_degraded_is_and_whoever_serves_it_without_a_mount_knows() -> Result<()>
{
    if !can_mount() {
        return Ok(());
    }
    let mut demo = served(&[])?;
    demo.stop(Stop::Umount)?;
    let mut serve = Command::new(ashlar());
    serve.args(["serve", "demo", "--http", "127.0.0.1:0", "--cluster"]).arg(demo.cluster_file());
    let mut server = Process::start_ready(&mut serve, "serving", &demo.outside("serve.log"))?;
    demo.kill_daemon(3)?;
    let line = |status: &Value| {
        let line = status["volumes"][0]["heal"]["line"].as_str();
        line.unwrap_or_default().to_owned()
    };
    let mut told = of_cluster(&demo)?;
    wait_until("the loss to be told of", HEALED, || {
        told = of_cluster(&demo).unwrap_or((-1, Value::Null));
        line(&told.1).starts_with("DEGRADED: 1 of 8 disks away")
    })
    .with_context(|| format!("{told:?}"))?;
    ensure!(told.0 == 1, "{told:?}");
    server.signal(Signal::SIGTERM)?;
    ensure!(server.wait(PATIENCE)?.success(), "{}", server.said());
    Ok(())
}
