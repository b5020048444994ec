//! Promise: a lost disk is replaced, and a changed cluster file is taken, while everything goes on: nobody unmounts,
//! and no read or write fails.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;
use tests::binaries::{ashlar, storaged};
use tests::cluster::{can_mount, detach, is_mounted, until_unused};
use tests::load::Load;
use tests::process::{PATIENCE, Process, answer, output, run, wait_until};
use tests::seed::{Seed, content};
use tests::site::{is_gone, only_in, pid_in};

const DISKS: usize = 8;
/// Until a change shows in the status of a mount.
const NOTICED: Duration = Duration::from_secs(60);

/// Disks in a directory of their own, a volume of ec(4,2) on them, and a mount point.
struct Site {
    scratch: tempfile::TempDir,
    /// Their ids.
    disks: Vec<String>,
    /// Where each is served, and by whom; none: by the mount itself.
    daemons: Vec<(String, Process)>,
}

impl Drop for Site {
    fn drop(&mut self) {
        let mut failed = std::thread::panicking();
        for point in ["mnt", "second"] {
            let point = self.at(point);
            if is_mounted(&point) {
                let mut umount = Command::new(ashlar());
                let asked = output(umount.args(["umount", "-f"]).arg(&point), PATIENCE);
                eprintln!("the test left its mount behind: {asked:?}");
                failed = true;
            }
        }
        if failed {
            let log =
                only_in(&self.at("cache")).map(|own| fs::read_to_string(own.join("v.messages")));
            eprintln!("the mount's log:\n{}", log.and_then(Result::ok).unwrap_or_default());
        }
    }
}

fn ids(said: &str) -> Result<(String, String)> {
    let said: Value = serde_json::from_str(said)?;
    let word = |key: &str| said[key].as_str().map(str::to_owned).context("an id");
    Ok((word("cluster")?, word("disk")?))
}

impl Site {
    fn new(served: bool) -> Result<Self> {
        Self::over(DISKS, served)
    }

    fn over(disks: usize, served: bool) -> Result<Self> {
        let scratch = tempfile::Builder::new().prefix("ashlar-replace-").tempdir()?;
        let mut site = Self { scratch, disks: Vec::new(), daemons: Vec::new() };
        fs::create_dir(site.at("mnt"))?;
        fs::create_dir(site.at("second"))?;
        let mut belongs = "--new-cluster".to_owned();
        let mut text = String::new();
        for number in 0..disks {
            let name = format!("d{number}");
            let (cluster, disk) = ids(&site.init(&name, &belongs)?)?;
            if number == 0 {
                text = format!(
                    "# The cluster in the cellar.\ncluster = {cluster:?}\ncache = \"cache\"\n"
                );
                belongs = format!("--cluster {cluster}");
            }
            let place = match served {
                true => format!("address = {:?}", site.serve(number, &name)?),
                false => format!("path = {name:?}"),
            };
            text += &format!("[[slot]] # number {number}\ndisk = {disk:?}\n{place}\n");
            site.disks.push(disk);
        }
        fs::write(site.file(), text)?;
        site.ashlar(&["format", "v", "--scheme", "ec(4,2)"])?;
        Ok(site)
    }

    fn init(&self, name: &str, belongs: &str) -> Result<String> {
        let mut init = Command::new(storaged());
        init.args(["disk", "init"]).arg(self.at(name)).args(belongs.split(' '));
        init.args(["--capacity", "512MiB", "--block-file", "16MiB", "--json"]);
        run(&mut init, PATIENCE)
    }

    /// Starts a daemon of the disk in the directory; at the address that the disk of that number had, if it had one.
    fn serve(&mut self, number: usize, name: &str) -> Result<String> {
        let address = match self.daemons.get(number) {
            Some((address, _)) => address.clone(),
            None => TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string(),
        };
        let mut command = Command::new(storaged());
        command.args(["run", "--listen", &address, "--disk"]).arg(self.at(name));
        let mut daemon = Process::start(&mut command, &self.at(&format!("{name}.log")))?;
        wait_until("a daemon to listen", PATIENCE, || {
            !daemon.runs() || TcpStream::connect(&address).is_ok()
        })?;
        ensure!(daemon.runs(), "the daemon of {name}: {}", daemon.said());
        match self.daemons.get_mut(number) {
            Some((_, before)) => *before = daemon,
            None => self.daemons.push((address.clone(), daemon)),
        }
        Ok(address)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn file(&self) -> PathBuf {
        self.at("cluster.toml")
    }

    fn ashlar(&self, words: &[&str]) -> Result<String> {
        self.ashlar_by(words, &self.file())
    }

    fn ashlar_by(&self, words: &[&str], file: &Path) -> Result<String> {
        run(Command::new(ashlar()).args(words).arg("--cluster").arg(file), PATIENCE)
    }

    fn mount(&self) -> Result<()> {
        self.mount_with(&[])
    }

    fn mount_with(&self, options: &[&str]) -> Result<()> {
        let point = self.at("mnt").display().to_string();
        self.ashlar(&[&["mount", "v", point.as_str()][..], options].concat())?;
        ensure!(is_mounted(&self.at("mnt")), "mount returned, and nothing is mounted");
        Ok(())
    }

    /// kill -9 of the process that serves the mount; the dead mount is taken away.
    fn kill_mount(&self) -> Result<()> {
        let pid = pid_in(&self.said_of_status()?)?;
        kill(pid, Signal::SIGKILL)?;
        wait_until("the mount's process to be gone", PATIENCE, || is_gone(pid))?;
        detach(&self.at("mnt"));
        ensure!(!is_mounted(&self.at("mnt")), "the dead mount stays");
        Ok(())
    }

    /// Bytes that the disk behind a daemon uses, as that says, whoever has mounted anything.
    fn used(&self, number: usize) -> Result<u64> {
        let mut status = Command::new(storaged());
        status.args(["status", "--json", "--address", &self.daemons[number].0]);
        let status: Value = serde_json::from_str(&answer(&mut status, PATIENCE)?.1)?;
        status["disks"][0]["used"].as_u64().context("bytes used")
    }

    fn remount(&self) -> Result<String> {
        let point = self.at("mnt").display().to_string();
        self.ashlar(&["mount", "v", &point, "-o", "remount"])
    }

    fn umount(&self, point: &str) -> Result<()> {
        until_unused(|| {
            let mut command = Command::new(ashlar());
            command.arg("umount").arg(self.at(point));
            command
        })
    }

    fn said_of_status(&self) -> Result<String> {
        // How it exits is how healthy the volume is.
        let mut status = Command::new(ashlar());
        Ok(answer(status.arg("status").arg("--json").arg(self.at("mnt")), PATIENCE)?.1)
    }

    fn status(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.said_of_status()?)?)
    }

    fn hang_up(&self) -> Result<()> {
        Ok(kill(pid_in(&self.said_of_status()?)?, Signal::SIGHUP)?)
    }

    /// State, place and bytes used of each disk.
    fn states(&self) -> Result<Vec<(String, String, u64)>> {
        let status = self.status()?;
        let disks = status["disks"].as_array().context("disks")?;
        let one = |disk: &Value| {
            let word = |key: &str| disk[key].as_str().unwrap_or_default().to_owned();
            (word("state"), word("place"), disk["used"].as_u64().unwrap_or(0))
        };
        Ok(disks.iter().map(one).collect())
    }

    fn until_all_are_up(&self) -> Result<()> {
        let all_up = || self.states().is_ok_and(|all| all.iter().all(|(state, ..)| state == "up"));
        wait_until("all disks to be up", NOTICED, all_up)
            .with_context(|| format!("{:?}", self.states()))
    }

    /// `storaged disk replace`, of the disk of that number by one in the directory.
    fn replace(&self, number: usize, name: &str) -> Result<String> {
        self.replace_by(&self.disks[number], name, "512MiB")
    }

    fn replace_by(&self, disk: &str, name: &str, capacity: &str) -> Result<String> {
        let mut replace = Command::new(storaged());
        replace.args(["disk", "replace", disk]).arg(self.at(name));
        replace.arg("--cluster").arg(self.file());
        replace.args(["--capacity", capacity, "--block-file", "16MiB"]);
        run(&mut replace, PATIENCE)
    }

    /// What the mount says of its repair.
    fn heal(&self) -> Result<Value> {
        Ok(self.status()?["mount"]["heal"].clone())
    }

    /// Waits until repair has nothing to do and is as it should be.
    fn until_it_rests(&self, what: &str, is: impl Fn(&Value) -> bool) -> Result<Value> {
        let rests = |heal: &Value| heal["counting"] == false && heal["queue"] == 0 && is(heal);
        wait_until(what, 2 * NOTICED, || self.heal().is_ok_and(|heal| rests(&heal)))
            .with_context(|| format!("{:?}", self.heal()))?;
        self.heal()
    }

    /// Raises the generation in the text of the cluster file.
    fn raised(&self, from: u64) -> Result<String> {
        let text = fs::read_to_string(self.file())?;
        if from == 1 {
            return Ok(format!("generation = 2\n{text}"));
        }
        let line = format!("generation = {from}");
        ensure!(text.contains(&line), "{text}");
        Ok(text.replace(&line, &format!("generation = {}", from + 1)))
    }
}

fn load(site: &Site) -> Load {
    let mut seed = Seed::announced("replace");
    Load::start(&site.at("mnt"), 3, 2, 12, &mut seed)
}

#[test]
fn a_disk_is_replaced_under_a_mount_that_opens_the_disks_itself() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let site = Site::new(false)?;
    fs::set_permissions(site.file(), fs::Permissions::from_mode(0o640))?;
    site.mount()?;
    let mut load = load(&site);
    load.progress(30)?;
    fs::rename(site.at("d3"), site.at("broken"))?;
    wait_until("the loss to be noticed", NOTICED, || {
        site.states().is_ok_and(|all| all[3].0.starts_with("out: "))
    })?;
    load.progress(20)?;
    let said = site.replace(3, "new")?;
    ensure!(said.contains(&site.disks[3]) && said.contains("generation 2"), "{said}");
    let text = fs::read_to_string(site.file())?;
    ensure!(text.contains("# The cluster in the cellar.") && text.contains("# number 3"), "{text}");
    ensure!(text.contains(&format!("replaces = {:?}", site.disks[3])), "{text}");
    ensure!(fs::metadata(site.file())?.permissions().mode() & 0o777 == 0o640, "its mode changed");
    let again = site.replace(3, "newer").unwrap_err().to_string();
    ensure!(again.contains("replaced already") && !site.at("newer").exists(), "{again}");
    ensure!(site.states()?[3].0.starts_with("out: "), "nobody has told the mount yet");
    site.hang_up()?;
    site.until_all_are_up()?;
    let new = site.at("new").display().to_string();
    ensure!(site.states()?[3].1 == new, "{:?}", site.states());
    // It takes parts of what is written from now on.
    let used = site.states()?[3].2;
    wait_until("the new disk to be used", NOTICED, || {
        load.progress(5).is_ok() && site.states().is_ok_and(|all| all[3].2 > used)
    })?;
    load.stop(PATIENCE)?.went_well()?;
    load.ledger().verify(&site.at("mnt"), false)?;
    // One more may be lost, as the new one has not what the old one had.
    fs::rename(site.at("d6"), site.at("d6.away"))?;
    site.umount("mnt")?;
    site.mount()?;
    load.ledger().verify(&site.at("mnt"), false)?;
    fs::rename(site.at("d6.away"), site.at("d6"))?;
    site.until_all_are_up()?;
    site.umount("mnt")
}

#[test]
fn a_disk_is_replaced_behind_a_daemon_and_taken_by_a_remount() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut site = Site::new(true)?;
    site.mount()?;
    let mut load = load(&site);
    load.progress(30)?;
    site.daemons[5].1.kill_9()?;
    load.progress(10)?;
    let said = site.replace(5, "new")?;
    ensure!(said.contains(&site.daemons[5].0) && said.contains("storaged.toml"), "{said}");
    site.serve(5, "new")?;
    site.remount()?;
    site.until_all_are_up()?;
    load.progress(30)?;
    ensure!(site.states()?[5].2 > 0, "the new disk is not used: {:?}", site.states());
    // A file that is wrong changes nothing, and is told.
    let good = fs::read_to_string(site.file())?;
    for (what, bad, said) in [
        ("an older one", good.replace("generation = 2", "generation = 1"), "generation 1"),
        ("no file", "not = [toml".to_owned(), "cluster.toml"),
        (
            "one of fewer disks",
            good.split("[[slot]] # number 5").next().unwrap_or_default().to_owned(),
            "needs 6 disks",
        ),
    ] {
        fs::write(site.file(), bad)?;
        let refused = site.remount().unwrap_err().to_string();
        ensure!(refused.contains(said), "{what}: {refused}");
        load.progress(3)?;
    }
    fs::write(site.file(), good)?;
    site.remount()?;
    site.until_all_are_up()?;
    load.stop(PATIENCE)?.went_well()?;
    load.ledger().verify(&site.at("mnt"), false)?;
    site.umount("mnt")?;
    site.mount()?;
    load.ledger().verify(&site.at("mnt"), false)?;
    site.umount("mnt")
}

/// An empty disk in a lost one's place is filled slowly, and the mount that does it dies half way. The next one goes on with
/// what is missing, and everything is as safe as before.
#[test]
fn what_a_mount_that_is_killed_has_filled_of_a_disk_is_not_filled_again() -> Result<()> {
    const LOST: usize = 5;
    const LEN: usize = 2 << 20;
    // Of some 9 MiB.
    const HALF: u64 = 4 << 20;
    if !can_mount() {
        return Ok(());
    }
    let mut seed = Seed::announced("half way");
    let mut site = Site::new(true)?;
    site.mount_with(&["--heal-rate", "1MiB"])?;
    let files: Vec<u64> = (0..24).map(|_| seed.next_u64()).collect();
    for (number, stamp) in files.iter().enumerate() {
        let path = site.at(&format!("mnt/{number}"));
        fs::write(&path, content(*stamp, LEN))?;
        fs::File::open(&path)?.sync_all()?;
    }
    site.until_it_rests("all to be whole", |heal| heal["health"] == "healthy")?;
    site.daemons[LOST].1.kill_9()?;
    site.replace(LOST, "new")?;
    site.serve(LOST, "new")?;
    site.remount()?;
    let is_half = || site.used(LOST).is_ok_and(|used| used >= HALF);
    wait_until("half of the disk to be filled", NOTICED, is_half)
        .with_context(|| format!("{:?}", site.heal()))?;
    let heal = site.heal()?;
    ensure!(heal["disks_rebuilding"] == 1 && heal["health"] == "degraded", "{heal}");
    site.kill_mount()?;
    let half = site.used(LOST)?;

    site.mount()?;
    let heal = site.until_it_rests("it to be filled", |heal| heal["health"] == "healthy")?;
    let mended = heal["mended_bytes"].as_u64().context("bytes that were mended")?;
    let whole = site.used(LOST)?;
    println!("{half} bytes were there, {mended} were put, and {whole} are there");
    ensure!(half + mended <= whole + (1 << 20), "{half} and {mended} bytes are more than {whole}");
    let mut status = Command::new(ashlar());
    status.args(["heal", "status", "--json"]).arg(site.at("mnt"));
    let (code, said) = answer(&mut status, PATIENCE)?;
    let report: Value = serde_json::from_str(&said)?;
    let counts = &report["counts"];
    let by_spare = counts["by_spare"].as_array().context("blobs by spare losses")?;
    ensure!(code == 0 && counts["at_risk"] == 0 && counts["lost"] == 0, "{code}: {said}");
    ensure!(by_spare[..2] == [0, 0] && by_spare[2].as_u64() > Some(0), "{said}");

    // Any two others may be away.
    let others = [0, 1].map(|nth| (LOST + 1 + 3 * nth + seed.below(3) as usize) % DISKS);
    for other in others {
        site.daemons[other].1.kill_9()?;
    }
    site.umount("mnt")?;
    site.mount()?;
    for (number, stamp) in files.iter().enumerate() {
        let bytes = fs::read(site.at(&format!("mnt/{number}")))?;
        ensure!(bytes == content(*stamp, LEN), "file {number} without {others:?}");
    }
    for other in others {
        site.serve(other, &format!("d{other}"))?;
    }
    site.until_all_are_up()?;
    site.umount("mnt")
}

#[test]
fn a_newer_generation_that_disks_know_reaches_a_mount_by_itself() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let site = Site::new(true)?;
    site.mount()?;
    let mut load = load(&site);
    load.progress(20)?;
    // Another volume is mounted by the newer file: the disks know of it before the first mount does.
    let newer = site.raised(1)?;
    fs::write(site.file(), &newer)?;
    site.ashlar(&["format", "w"])?;
    let second = site.at("second").display().to_string();
    site.ashlar(&["mount", "w", &second])?;
    load.progress(30)?;
    site.until_all_are_up()?;
    load.stop(PATIENCE)?.unharmed()?;
    load.ledger().verify(&site.at("mnt"), false)?;
    // Here the newer file is elsewhere at first: until it comes nothing works, and then all does.
    let older = fs::read_to_string(site.file())?;
    let elsewhere = site.at("elsewhere.toml");
    fs::write(&elsewhere, site.raised(2)?)?;
    site.ashlar_by(&["mount", "w", &second, "-o", "remount"], &elsewhere)?;
    ensure!(fs::read_to_string(site.file())? == older, "the file has changed");
    wait_until("the first mount to meet the newer generation", NOTICED, || {
        site.states().is_ok_and(|all| all.iter().all(|(state, ..)| state.contains("generation 3")))
    })?;
    fs::copy(&elsewhere, site.file())?;
    site.until_all_are_up()?;
    fs::write(site.at("mnt/later"), b"stored")?;
    // What could not be stored meanwhile is told once, and stored now.
    wait_until("what is written to be stored", NOTICED, || {
        fs::File::open(site.at("mnt/later")).is_ok_and(|file| file.sync_all().is_ok())
    })?;
    load.ledger().verify(&site.at("mnt"), false)?;
    site.umount("second")?;
    site.umount("mnt")
}

#[test]
fn a_disk_that_is_lost_for_good_leaves_the_file_when_the_others_are_enough() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let site = Site::new(false)?;
    site.mount()?;
    let mut load = load(&site);
    load.progress(20)?;
    let lost = |number: usize| {
        let mut lost = Command::new(storaged());
        lost.args(["disk", "lost", &site.disks[number], "--cluster"]).arg(site.file());
        run(&mut lost, PATIENCE)
    };
    for (number, generation) in [(7, 2), (0, 3)] {
        let said = lost(number)?;
        ensure!(said.contains(&format!("generation {generation}")), "{said}");
        ensure!(said.contains("one less may be lost"), "{said}");
    }
    let refused = lost(1).unwrap_err().to_string();
    ensure!(refused.contains("needs 6 disks, and 5"), "{refused}");
    site.remount()?;
    wait_until("the mount to go on without", NOTICED, || {
        site.states().is_ok_and(|all| all.len() == 6)
    })?;
    let warnings = || -> Result<String> { Ok(site.status()?["mount"]["warnings"].to_string()) };
    let now = warnings()?;
    ensure!(now.contains("2 disks that hold parts"), "{now}");
    // Nothing has them open any more.
    for name in ["d7", "d0"] {
        let mut list = Command::new(storaged());
        let said = run(list.args(["disk", "list"]).arg(site.at(name)), PATIENCE)?;
        ensure!(said.contains("idle"), "{said}");
    }
    load.progress(20)?;
    load.stop(PATIENCE)?.went_well()?;
    load.ledger().verify(&site.at("mnt"), false)?;
    // What they had is made again on the others, and nobody misses them from then on.
    site.until_it_rests("all to be made good", |heal| heal["health"] == "healthy")?;
    wait_until("nothing to be warned of", NOTICED, || {
        warnings().is_ok_and(|warnings| !warnings.contains("hold parts"))
    })
    .with_context(|| format!("{:?}", warnings()))?;
    site.umount("mnt")?;
    site.mount()?;
    let now = warnings()?;
    ensure!(!now.contains("hold parts"), "{now}");
    for name in ["d1", "d2"] {
        fs::rename(site.at(name), site.at(&format!("{name}.away")))?;
    }
    wait_until("both disks to be out", NOTICED, || {
        site.states().is_ok_and(|all| all.iter().filter(|disk| disk.0 != "up").count() == 2)
    })?;
    load.ledger().verify(&site.at("mnt"), false)?;
    for name in ["d1", "d2"] {
        fs::rename(site.at(&format!("{name}.away")), site.at(name))?;
    }
    site.until_all_are_up()?;
    site.umount("mnt")
}

#[test]
fn a_disk_is_emptied_while_everything_goes_on_and_then_pulled() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let site = Site::new(false)?;
    site.mount()?;
    let mut load = load(&site);
    load.progress(30)?;
    let drain = |number: usize, more: &[&str]| {
        let mut drain = Command::new(storaged());
        drain.args(["disk", "drain", &site.disks[number], "--cluster"]).arg(site.file());
        run(drain.args(more), PATIENCE)
    };
    let said = drain(3, &[])?;
    ensure!(said.contains("is to be emptied") && said.contains("generation 2"), "{said}");
    let again = drain(3, &[]).unwrap_err().to_string();
    ensure!(again.contains("emptied already"), "{again}");
    // One may change one's mind.
    drain(5, &[])?;
    let narrow = drain(6, &[]).unwrap_err().to_string();
    ensure!(narrow.contains("ec(4,2) needs 6"), "{narrow}");
    drain(5, &["--undo"])?;
    site.remount()?;
    let heal = || -> Result<Value> { Ok(site.status()?["mount"]["heal"].clone()) };
    wait_until("the disk to be empty", 2 * NOTICED, || {
        load.progress(3).is_ok() && heal().is_ok_and(|heal| heal["drains"][0]["empty"] == true)
    })
    .with_context(|| format!("{:?}", heal()))?;
    let report = heal()?;
    let line = report["line"].as_str().unwrap_or_default();
    ensure!(line.contains("disk 3 is empty and can be pulled"), "{line}");
    fs::rename(site.at("d3"), site.at("pulled"))?;
    wait_until("the disk to be out", NOTICED, || {
        site.states().is_ok_and(|all| all[3].0.starts_with("out: "))
    })?;
    load.progress(20)?;
    let settled = || {
        heal().is_ok_and(|heal| {
            heal["health"] == "healthy" && heal["counting"] == false && heal["queue"] == 0
        })
    };
    wait_until("nothing to be degraded", NOTICED, settled)
        .with_context(|| format!("{:?}", heal()))?;
    ensure!(heal()?["disks_away"] == 0, "{:?}", heal());
    let mut lost = Command::new(storaged());
    lost.args(["disk", "lost", &site.disks[3], "--cluster"]).arg(site.file());
    let said = run(&mut lost, PATIENCE)?;
    ensure!(said.contains("nothing, if all mounts called it empty"), "{said}");
    site.remount()?;
    wait_until("the mount to go on without", NOTICED, || {
        site.states().is_ok_and(|all| all.len() == 7)
    })?;
    let warnings = site.status()?["mount"]["warnings"].to_string();
    ensure!(!warnings.contains("hold parts"), "{warnings}");
    load.progress(20)?;
    load.stop(PATIENCE)?.went_well()?;
    // What it had is elsewhere: two others may go.
    site.umount("mnt")?;
    for name in ["d0", "d6"] {
        fs::rename(site.at(name), site.at(&format!("{name}.away")))?;
    }
    site.mount()?;
    load.ledger().verify(&site.at("mnt"), false)?;
    for name in ["d0", "d6"] {
        fs::rename(site.at(&format!("{name}.away")), site.at(name))?;
    }
    site.until_all_are_up()?;
    site.umount("mnt")
}

/// Nothing is mounted when it is pulled, nor when it leaves the file.
#[test]
fn a_disk_that_was_emptied_is_not_missed_by_the_next_mount() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let site = Site::new(false)?;
    site.mount()?;
    let mut load = load(&site);
    load.progress(20)?;
    load.stop(PATIENCE)?.went_well()?;
    let change = |command: &str| {
        let mut change = Command::new(storaged());
        change.args(["disk", command, &site.disks[3], "--cluster"]).arg(site.file());
        run(&mut change, PATIENCE)
    };
    change("drain")?;
    site.remount()?;
    let heal = || -> Result<Value> { Ok(site.status()?["mount"]["heal"].clone()) };
    wait_until("the disk to be empty", 2 * NOTICED, || {
        heal().is_ok_and(|heal| heal["drains"][0]["empty"] == true)
    })
    .with_context(|| format!("{:?}", heal()))?;
    site.umount("mnt")?;
    // It is pulled, and the file says still that it is to be emptied.
    fs::rename(site.at("d3"), site.at("pulled"))?;
    site.mount()?;
    wait_until("nothing to be degraded", NOTICED, || {
        heal().is_ok_and(|heal| heal["health"] == "healthy" && heal["disks_away"] == 0)
    })
    .with_context(|| format!("{:?}", heal()))?;
    ensure!(heal()?["drains"][0]["empty"] == true, "{:?}", heal());
    site.umount("mnt")?;
    change("lost")?;
    site.mount()?;
    let warnings = site.status()?["mount"]["warnings"].to_string();
    ensure!(!warnings.contains("hold parts"), "{warnings}");
    load.ledger().verify(&site.at("mnt"), false)?;
    site.umount("mnt")
}

/// Commands that change one cluster file at once: every change is made, and each of its own generation.
#[test]
fn commands_at_once_lose_no_change_of_the_cluster_file() -> Result<()> {
    let site = Site::new(false)?;
    let commands: Vec<_> = (0..DISKS)
        .map(|number| {
            let mut drain = Command::new(storaged());
            drain.args(["disk", "drain", &site.disks[number], "--scheme", "copies(1)"]);
            drain.arg("--cluster").arg(site.file()).stdout(Stdio::piped()).stderr(Stdio::piped());
            drain.spawn().context("storaged")
        })
        .collect::<Result<_>>()?;
    let mut said = Vec::new();
    for command in commands {
        let answer = command.wait_with_output()?;
        said.push((answer.status.success(), [answer.stdout, answer.stderr].concat()));
    }
    let told = || said.iter().map(|(_, said)| String::from_utf8_lossy(said)).collect::<String>();
    // The last one would leave none.
    ensure!(said.iter().filter(|(done, _)| *done).count() == DISKS - 1, "{}", told());
    let text = fs::read_to_string(site.file())?;
    ensure!(text.contains(&format!("generation = {DISKS}")), "{text}");
    ensure!(text.matches("drain = true").count() == DISKS - 1, "{text}");
    for generation in 2..=DISKS {
        let said = told();
        ensure!(said.contains(&format!("is of generation {generation} now")), "{said}");
    }
    Ok(())
}

/// The disk in a lost one's place has room for a part of what that had: it stays "being filled", nothing that found no
/// place is called absent, and a larger one in its place is filled.
#[test]
fn a_disk_that_is_too_small_stays_one_that_is_filled_until_a_larger_one_is_in_its_place()
-> Result<()> {
    const LOST: usize = 2;
    if !can_mount() {
        return Ok(());
    }
    // As many as a blob has parts: there is no other place for any.
    let site = Site::over(6, false)?;
    site.mount()?;
    let seed = Seed::announced("too small");
    let bytes = |file: u64| {
        let mut seed = Seed::new(seed.clone().next_u64() ^ file);
        (0..2 << 20).flat_map(|_| seed.next_u64().to_le_bytes()).collect::<Vec<u8>>()
    };
    let files = 0..20_u64;
    for file in files.clone() {
        let path = site.at(&format!("mnt/{file}"));
        fs::write(&path, bytes(file))?;
        fs::File::open(&path)?.sync_all()?;
    }
    let all_read = || -> Result<()> {
        for file in files.clone() {
            let read = fs::read(site.at(&format!("mnt/{file}")))?;
            ensure!(read == bytes(file), "file {file} has other bytes");
        }
        Ok(())
    };
    site.until_it_rests("all to be whole", |heal| heal["health"] == "healthy")?;
    fs::rename(site.at(&format!("d{LOST}")), site.at("broken"))?;
    site.replace_by(&site.disks[LOST], "small", "64MiB")?;
    site.remount()?;
    let told = "the mount to say how much room is missing";
    let heal = site.until_it_rests(told, |heal| heal["room_missing"].as_u64() > Some(0))?;
    ensure!(heal["disks_rebuilding"] == 1 && heal["health"] == "degraded", "{heal}");
    let (line, waiting) = (heal["line"].to_string(), heal["waiting"].to_string());
    ensure!(line.contains("1 of 6 disks being filled again"), "{line}");
    ensure!(line.contains("MiB of room missing"), "{line}");
    for part in
        ["disk 2 at ", "it stays one that is being filled", "put a larger disk in its place"]
    {
        ensure!(waiting.contains(part), "{waiting}");
    }
    all_read()?;
    // It is what it was after all disks have been asked anew.
    site.umount("mnt")?;
    site.mount()?;
    let again = site.until_it_rests(told, |heal| heal["room_missing"].as_u64() > Some(0))?;
    ensure!(again["disks_rebuilding"] == 1 && again["counts"]["lost"] == 0, "{again}");
    all_read()?;
    let mut list = Command::new(storaged());
    let small = run(list.args(["disk", "list", "--json"]).arg(site.at("small")), PATIENCE)?;
    let small: Value = serde_json::from_str(&small)?;
    let small = small["disk"].as_str().context("a disk")?;
    site.replace_by(small, "large", "512MiB")?;
    site.remount()?;
    let heal = site.until_it_rests("it to be filled", |heal| heal["health"] == "healthy")?;
    ensure!(heal["room_missing"] == 0 && heal["disks_rebuilding"] == 0, "{heal}");
    // What belongs on it is there: any two others may be away.
    site.umount("mnt")?;
    for name in ["d0", "d5"] {
        fs::rename(site.at(name), site.at(&format!("{name}.away")))?;
    }
    site.mount()?;
    all_read()?;
    site.umount("mnt")
}
