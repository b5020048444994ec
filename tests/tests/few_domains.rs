//! Promise: three hosts with two disks each carry ec(4,2): any one of them, or any two disks, may be away, and
//! everything goes on, a new mount too. A volume stores only as long as it wants disks to spare; with none to spare
//! it goes on as long as what it stores can be read. What may be lost is said, and no more than may.

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use serde_json::Value;
use tests::binaries::{ashlar, storaged};
use tests::cluster::{can_mount, is_mounted, until_unused};
use tests::process::{PATIENCE, Process, answer, output, run, wait_until};
use tests::seed::{content, first_difference};

/// Until a change shows in the status of a mount.
const NOTICED: Duration = Duration::from_secs(60);
/// Until some files are as safe as they can be, on a busy machine.
const HEALED: Duration = Duration::from_secs(120);
/// Bytes of a file: a blob of parts, and one of copies beside it.
const LEN: usize = 700_000;

/// Disks with a daemon each, on hosts by name, and the volume `v` on them.
struct Site {
    scratch: tempfile::TempDir,
    addresses: Vec<String>,
    daemons: Vec<Option<Process>>,
    files: u64,
}

impl Drop for Site {
    fn drop(&mut self) {
        if is_mounted(&self.at("mnt")) {
            let asked =
                output(Command::new(ashlar()).args(["umount", "-f"]).arg(self.at("mnt")), PATIENCE);
            eprintln!("the test left its mount behind: {asked:?}");
        }
    }
}

impl Site {
    /// The hosts of so many disks, all served.
    fn new(hosts: &[usize]) -> Result<Self> {
        let scratch = tempfile::Builder::new().prefix("ashlar-test-").tempdir()?;
        fs::create_dir(scratch.path().join("mnt"))?;
        let (addresses, daemons) = (Vec::new(), Vec::new());
        let mut site = Self { scratch, addresses, daemons, files: 0 };
        let (mut cluster, mut slots): (Option<String>, _) = (None, String::new());
        let on_hosts = hosts.iter().enumerate().flat_map(|(host, disks)| vec![host; *disks]);
        for (number, host) in on_hosts.enumerate() {
            let mut init = Command::new(storaged());
            init.args(["disk", "init"]).arg(site.at(&format!("d{number}")));
            init.args(["--capacity", "256MiB", "--block-file", "16MiB", "--json"]);
            match &cluster {
                None => init.arg("--new-cluster"),
                Some(cluster) => init.args(["--cluster", cluster]),
            };
            let said: Value = serde_json::from_str(&run(&mut init, PATIENCE)?)?;
            cluster = Some(said["cluster"].as_str().context("a cluster")?.to_owned());
            let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
            slots += &format!(
                "[[slot]]\ndisk = {}\naddress = {address:?}\ndomain = \"host-{host}\"\n",
                said["disk"]
            );
            site.addresses.push(address);
            site.daemons.push(None);
            site.start(number)?;
        }
        let head = format!("cluster = {:?}\ncache = \"cache\"\n", cluster.context("disks")?);
        fs::write(site.at("cluster.toml"), head + &slots)?;
        Ok(site)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn start(&mut self, number: usize) -> Result<()> {
        let address = self.addresses[number].clone();
        let mut command = Command::new(storaged());
        command.args(["run", "--listen", &address, "--disk"]).arg(self.at(&format!("d{number}")));
        let mut daemon = Process::start(&mut command, &self.at(&format!("daemon-{number}.log")))?;
        wait_until("a daemon to listen", PATIENCE, || {
            !daemon.runs() || TcpStream::connect(&address).is_ok()
        })?;
        ensure!(daemon.runs(), "daemon {number}: {}", daemon.said());
        self.daemons[number] = Some(daemon);
        Ok(())
    }

    fn kill(&mut self, disks: &[usize]) -> Result<()> {
        disks.iter().try_for_each(|disk| {
            self.daemons[*disk].take().context("a daemon that runs")?.kill_9()
        })?;
        self.up(self.addresses.len() - disks.len())
    }

    fn bring_back(&mut self, disks: &[usize]) -> Result<()> {
        disks.iter().try_for_each(|disk| self.start(*disk))?;
        self.up(self.addresses.len())
    }

    /// Waits until every blob is as safe as it can be.
    fn until_healthy(&self) -> Result<()> {
        let mut last = Value::Null;
        let waited = wait_until("repair to spread everything out", HEALED, || {
            let mut command = Command::new(ashlar());
            command.args(["heal", "status", "--json"]).arg(self.at("mnt"));
            let told = answer(&mut command, PATIENCE).and_then(|(_, told)| {
                last = serde_json::from_str(&told)?;
                Ok(last["health"] == "healthy" && last["queue"] == 0 && last["counting"] == false)
            });
            told.unwrap_or(false)
        });
        waited.with_context(|| last.to_string())
    }

    /// With nothing in memory, everything can be read while any of these sets is away.
    fn read_without_any(&mut self, sets: &[&[usize]]) -> Result<()> {
        for away in sets {
            self.kill(away)?;
            self.umount()?;
            self.mount()?;
            self.read_all().with_context(|| format!("{away:?} away"))?;
            self.bring_back(away)?;
        }
        Ok(())
    }

    /// Waits until the mount, if there is one, knows of so many.
    fn up(&self, count: usize) -> Result<()> {
        if !is_mounted(&self.at("mnt")) {
            return Ok(());
        }
        wait_until("the mount to notice", NOTICED, || {
            let disks = self.status().map(|status| status["disks"].clone());
            let up = |disk: &Value| disk["state"] == "up";
            disks.is_ok_and(|disks| {
                disks.as_array().is_some_and(|all| all.iter().filter(|d| up(d)).count() == count)
            })
        })
    }

    fn ashlar(&self, words: &[&str]) -> Result<Output> {
        let mut command = Command::new(ashlar());
        output(command.args(words).arg("--cluster").arg(self.at("cluster.toml")), PATIENCE)
    }

    /// What a command that succeeds says, on both streams.
    fn said(&self, words: &[&str]) -> Result<String> {
        let answer = self.ashlar(words)?;
        let said = [answer.stdout, answer.stderr].map(|s| String::from_utf8_lossy(&s).into_owned());
        ensure!(answer.status.success(), "{words:?}: {said:?}");
        Ok(said.concat())
    }

    fn mount(&self) -> Result<()> {
        let point = self.at("mnt").display().to_string();
        self.said(&["mount", "v", &point]).map(drop)
    }

    fn umount(&self) -> Result<()> {
        until_unused(|| {
            let mut command = Command::new(ashlar());
            command.arg("umount").arg(self.at("mnt"));
            command
        })
    }

    fn status(&self) -> Result<Value> {
        let mut command = Command::new(ashlar());
        let (_, text) = answer(command.args(["status", "--json"]).arg(self.at("mnt")), PATIENCE)?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Stores one more file, durably.
    fn write(&mut self) -> std::io::Result<()> {
        let path = self.at("mnt").join(format!("file-{}", self.files));
        fs::write(&path, content(self.files + 1, LEN))?;
        File::open(&path)?.sync_all()?;
        self.files += 1;
        Ok(())
    }

    /// A few at least, so that each disk has parts of some.
    fn write_some(&mut self) -> Result<()> {
        Ok((0..6).try_for_each(|_| self.write())?)
    }

    fn read(&self, number: u64) -> Result<()> {
        let bytes = fs::read(self.at("mnt").join(format!("file-{number}")))
            .with_context(|| format!("file {number}"))?;
        ensure!(bytes.len() == LEN, "file {number} has {} bytes", bytes.len());
        ensure!(first_difference(number + 1, 0, &bytes).is_none(), "file {number} is wrong");
        Ok(())
    }

    fn read_all(&self) -> Result<()> {
        (0..self.files).try_for_each(|number| self.read(number))
    }
}

#[test]
fn any_host_of_three_or_any_two_disks_may_be_away() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    // A host, then two disks of two hosts.
    [[2, 3], [0, 5]].iter().try_for_each(|away| two_disks_away(away))
}

fn two_disks_away(away: &[usize]) -> Result<()> {
    let mut site = Site::new(&[2, 2, 2])?;
    let said = site.said(&["format", "v", "--scheme", "ec(4,2)"])?;
    let promise = "reads go on with any 1 of the 3 hosts lost, writes with any 1; \
                   reads go on with any 2 of the 6 disks lost, writes with any 3";
    ensure!(said.contains(promise) && !said.contains("warning"), "{said}");
    site.mount()?;
    ensure!(site.status()?["mount"]["safety"] == promise, "{}", site.status()?);
    site.write_some()?;
    site.kill(away)?;
    site.write_some().with_context(|| format!("{away:?} away"))?;
    site.read_all()?;
    // Nothing of it is in memory then; and whoever takes the volume over hears from all that are needed.
    site.umount()?;
    site.mount()?;
    site.read_all().with_context(|| format!("mounted with {away:?} away"))?;
    site.write_some()?;
    site.bring_back(away)?;
    site.until_healthy()?;
    // What was written meanwhile lies as all else: any host, or any two disks, may be away.
    site.read_without_any(&[&[0, 1], &[4, 5], &[1, 3]])?;
    ensure!(site.status()?["mount"]["min_spare"] == 1, "{}", site.status()?);
    site.umount()
}

#[test]
fn what_is_stored_with_three_of_six_disks_is_soon_as_safe_as_all_else() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut site = Site::new(&[2, 2, 2])?;
    site.said(&["format", "v", "--scheme", "ec(4,2)"])?;
    site.mount()?;
    site.write_some()?;
    let before = site.files;
    // More than may be lost for reads, and as many as may be for writes: two parts of each blob lie on each disk.
    site.kill(&[0, 2, 4])?;
    site.write_some()?;
    ensure!(site.read(before).is_ok(), "what was stored meanwhile cannot be read");
    site.bring_back(&[0, 2, 4])?;
    site.until_healthy()?;
    site.read_without_any(&[&[1, 3], &[0, 5], &[2, 3]])?;
    site.umount()
}

#[test]
fn three_hosts_of_more_disks_do_without_any_of_them() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut site = Site::new(&[3, 3, 3])?;
    let said = site.said(&["format", "v", "--scheme", "ec(4,2)"])?;
    ensure!(said.contains("any 1 of the 3 hosts lost, writes with any 1"), "{said}");
    site.mount()?;
    site.write_some()?;
    let host = [3, 4, 5];
    site.kill(&host)?;
    site.write_some()?;
    site.umount()?;
    site.mount()?;
    site.read_all()?;
    site.bring_back(&host)?;
    site.until_healthy()?;
    site.read_without_any(&[&[0, 1, 2], &[6, 7, 8]])?;
    site.umount()
}

#[test]
fn a_volume_on_hosts_goes_on_without_two_of_them_and_keeps_their_names_apart() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut site = Site::new(&[2, 2, 1, 1, 1, 1])?;
    let said = site.said(&["format", "v", "--scheme", "ec(4,2)"])?;
    ensure!(said.contains("any 2 of the 6 hosts lost, writes with any 3"), "{said}");
    site.mount()?;
    site.write_some()?;
    // One is started anew, as for an update of its system.
    site.kill(&[0, 1])?;
    site.write_some()?;
    site.bring_back(&[0, 1])?;
    site.until_healthy()?;
    site.read_without_any(&[&[2, 3, 4], &[0, 1, 7]])?;

    // Too few hosts for its metadata are refused, and nothing has changed.
    let file = site.at("cluster.toml");
    let good = fs::read_to_string(&file)?;
    let few = good.replace("host-5", "host-1").replace("host-4", "host-1");
    fs::write(&file, format!("generation = 2\n{few}"))?;
    let point = site.at("mnt").display().to_string();
    let refused = site.ashlar(&["mount", "v", &point, "-o", "remount"])?;
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    let expected = "lie apart by host, which needs 5 hosts, and the cluster file has 4";
    ensure!(!refused.status.success() && why.contains(expected), "{why}");
    site.write_some()?;
    // Names of racks are taken.
    let racks = ["host-0", "host-1", "host-2", "host-3", "host-4", "host-5"].iter().enumerate();
    let named = racks.fold(good, |text, (number, host)| {
        let rack = format!("domain = {host:?}\nrack = \"rack-{}\"", number / 2);
        text.replace(&format!("domain = {host:?}"), &rack)
    });
    fs::write(&file, format!("generation = 2\n{named}"))?;
    site.said(&["mount", "v", &point, "-o", "remount"])?;
    ensure!(
        site.status()?["mount"]["safety"].as_str().is_some_and(|said| said.contains("3 racks")),
        "{}",
        site.status()?
    );
    site.until_healthy()?;
    site.kill(&[0, 1])?;
    site.write_some()?;
    site.read_all()?;
    site.bring_back(&[0, 1])?;
    site.until_healthy()?;
    site.umount()
}

#[test]
fn a_volume_goes_on_without_disks_to_spare_only_if_it_is_told_to() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut site = Site::new(&[1, 1, 1])?;
    let said = site.said(&["format", "v", "--scheme", "ec(2,1)"])?;
    ensure!(said.contains("writes stop with the first disk that is lost"), "{said}");
    ensure!(said.contains("or --min-spare 0"), "{said}");
    let refused = site.ashlar(&["format", "w", "--scheme", "ec(2,1)", "--min-spare", "2"])?;
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(!refused.status.success() && why.contains("survives the loss of 1 disks"), "{why}");
    site.mount()?;
    site.write_some()?;
    site.kill(&[1])?;
    let error = site.write().err().context("a disk of three is away, and it is stored")?;
    let expected = [Errno::ENOSPC as i32, Errno::EIO as i32];
    ensure!(error.raw_os_error().is_some_and(|error| expected.contains(&error)), "{error}");
    let why = site.status()?["mount"]["no_writes"].to_string();
    ensure!(why.contains("3 are needed that can fail independently, 2 do"), "{why}");
    site.read_all()?;

    let point = site.at("mnt").display().to_string();
    let said = site.said(&["volume", "set", "v", "--min-spare", "0"])?;
    ensure!(said.contains("while 0 more disks may be lost"), "{said}");
    wait_until("writes to go on", NOTICED, || site.write().is_ok())?;
    site.write_some()?;
    site.read_all()?;
    let mut last = String::new();
    let counted = wait_until("what was stored to be counted", NOTICED, || {
        let mut status = Command::new(ashlar());
        let told = answer(status.args(["status", &point]), PATIENCE);
        told.is_ok_and(|(code, text)| {
            let counted = code == 1 && text.contains("have 0 spare losses left");
            last = text;
            counted
        })
    });
    counted.with_context(|| last.clone())?;
    ensure!(last.contains("storing goes on while what is stored can be read"), "{last}");
    site.umount()?;
    site.mount()?;
    site.read_all()?;
    site.write_some()?;
    site.bring_back(&[1])?;
    site.until_healthy()?;
    site.read_without_any(&[&[0], &[2]])?;
    site.umount()?;

    // It is as it was told to be, whoever mounts it; and can be told otherwise while nobody does.
    site.said(&["volume", "set", "v", "--min-spare", "1"])?;
    site.mount()?;
    ensure!(site.status()?["mount"]["min_spare"] == 1, "{}", site.status()?);
    site.read_all()?;
    site.write_some()?;
    site.umount()
}
