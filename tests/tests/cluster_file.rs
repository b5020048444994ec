//! Promise: a cluster file that is wrong or old is refused in a sentence where nothing could work with it,
//! and warned of where some can; what counts as up answers as the right disk; and nobody is told that
//! more may be lost than may.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::binaries::{ashlar, storaged};
use tests::cluster::{can_mount, is_mounted, until_unused};
use tests::process::{PATIENCE, Process, answer, output, run, wait_until};
use tests::records::{Disks, Role};
use tests::seed::{content, first_difference};
use tests::site::only_in;

/// Until a change shows in the status of a mount.
const NOTICED: Duration = Duration::from_secs(30);
const FILES: u64 = 12;

/// One slot of a cluster file.
#[derive(Clone, Debug)]
struct Slot {
    disk: String,
    place: String,
    domain: Option<String>,
}

/// Disks in a directory of their own, with daemons or without.
struct Site {
    scratch: tempfile::TempDir,
    cluster: String,
    slots: Vec<Slot>,
    daemons: Vec<Process>,
}

impl Drop for Site {
    fn drop(&mut self) {
        let mount = self.at("mnt");
        if is_mounted(&mount) {
            let asked = output(Command::new(ashlar()).args(["umount", "-f"]).arg(&mount), PATIENCE);
            eprintln!("the test left its mount behind: {asked:?}");
        }
    }
}

impl Site {
    fn new(disks: usize) -> Result<Self> {
        let scratch = tempfile::Builder::new().prefix("ashlar-test-").tempdir()?;
        fs::create_dir(scratch.path().join("mnt"))?;
        let mut site =
            Self { scratch, cluster: String::new(), slots: Vec::new(), daemons: Vec::new() };
        for number in 0..disks {
            let slot = site.init(&format!("d{number}"))?;
            site.slots.push(slot);
        }
        Ok(site)
    }

    /// Disks with the volume `v` on them, which has files and is mounted nowhere, and the file that says so.
    fn stored(disks: usize) -> Result<(Self, PathBuf)> {
        let site = Self::new(disks)?;
        let good = site.file("good", 1, &site.slots)?;
        site.store(&good)?;
        Ok((site, good))
    }

    /// Makes that volume by a cluster file, and writes its files.
    fn store(&self, file: &Path) -> Result<()> {
        ensure!(self.format(file, "ec(4,2)")?.status.success(), "format");
        self.mount("v", file)?;
        self.write()?;
        self.umount()
    }

    fn at(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// Makes a new disk of the cluster, or of a new one.
    fn init(&mut self, name: &str) -> Result<Slot> {
        let mut command = Command::new(storaged());
        command.args(["disk", "init"]).arg(self.at(name));
        command.args(["--capacity", "256MiB", "--block-file", "16MiB", "--json"]);
        match self.cluster.as_str() {
            "" => command.arg("--new-cluster"),
            cluster => command.args(["--cluster", cluster]),
        };
        let said: Value = serde_json::from_str(&run(&mut command, PATIENCE)?)?;
        let word = |key: &str| said[key].as_str().map(str::to_owned).context("an id");
        self.cluster = word("cluster")?;
        let place = format!("path = {:?}", self.at(name).display().to_string());
        Ok(Slot { disk: word("disk")?, place, domain: None })
    }

    /// A daemon for each disk, at an address of its own, from now on in the file instead of its path.
    fn serve(&mut self) -> Result<()> {
        for number in 0..self.slots.len() {
            let listen = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
            self.slots[number].place = format!("address = {listen:?}");
            let daemon = self.daemon(number)?;
            self.daemons.push(daemon);
        }
        Ok(())
    }

    fn address(&self, number: usize) -> &str {
        self.slots[number].place.split('"').nth(1).expect("an address in quotes")
    }

    fn daemon(&self, number: usize) -> Result<Process> {
        let address = self.address(number).to_owned();
        let mut command = Command::new(storaged());
        command.args(["run", "--listen", &address, "--disk"]).arg(self.at(&format!("d{number}")));
        let mut daemon = Process::start(&mut command, &self.at(&format!("daemon-{number}.log")))?;
        wait_until("a daemon to listen", PATIENCE, || {
            !daemon.runs() || TcpStream::connect(&address).is_ok()
        })?;
        ensure!(daemon.runs(), "daemon {number}: {}", daemon.said());
        Ok(daemon)
    }

    /// Writes a cluster file of these slots.
    fn file(&self, name: &str, generation: u64, slots: &[Slot]) -> Result<PathBuf> {
        self.file_of(name, &self.cluster, generation, slots)
    }

    fn file_of(&self, name: &str, id: &str, generation: u64, slots: &[Slot]) -> Result<PathBuf> {
        let mut text = format!("cluster = {id:?}\ngeneration = {generation}\ncache = \"cache\"\n");
        for Slot { disk, place, domain } in slots {
            text += &format!("[[slot]]\ndisk = {disk:?}\n{place}\n");
            if let Some(domain) = domain {
                text += &format!("domain = {domain:?}\n");
            }
        }
        let path = self.at(name);
        fs::write(&path, text)?;
        Ok(path)
    }

    fn ashlar(&self, words: &[&str], file: &Path) -> Result<Output> {
        output(Command::new(ashlar()).args(words).arg("--cluster").arg(file), PATIENCE)
    }

    fn format(&self, file: &Path, scheme: &str) -> Result<Output> {
        self.ashlar(&["format", "v", "--scheme", scheme], file)
    }

    /// Mounts; what was said, which must be nothing but warnings.
    fn mount(&self, volume: &str, file: &Path) -> Result<String> {
        let point = self.at("mnt").display().to_string();
        let answer = self.ashlar(&["mount", volume, &point], file)?;
        let said = String::from_utf8_lossy(&answer.stderr).into_owned();
        ensure!(answer.status.success(), "mount: {said}");
        ensure!(is_mounted(&self.at("mnt")), "mount returned, and nothing is mounted");
        ensure!(said.lines().all(|line| line.contains("warning: ")), "mount said {said:?}");
        Ok(said)
    }

    fn umount(&self) -> Result<()> {
        until_unused(|| {
            let mut command = Command::new(ashlar());
            command.arg("umount").arg(self.at("mnt"));
            command
        })
    }

    /// The status of the mount, as JSON and as text.
    fn status(&self) -> Result<(Value, String)> {
        let ask = |json: &[&str]| {
            let mut status = Command::new(ashlar());
            answer(status.arg("status").args(json).arg(self.at("mnt")), PATIENCE)
        };
        Ok((serde_json::from_str(&ask(&["--json"])?.1)?, ask(&[])?.1))
    }

    fn write(&self) -> Result<()> {
        for number in 0..FILES {
            let path = self.at("mnt").join(format!("file-{number}"));
            fs::write(&path, content(number + 1, 300_000))?;
            fs::File::open(&path)?.sync_all()?;
        }
        Ok(())
    }

    /// How many files can be read; none of them wrong.
    fn readable(&self) -> Result<u64> {
        let mut good = 0;
        for number in 0..FILES {
            let Ok(bytes) = fs::read(self.at("mnt").join(format!("file-{number}"))) else {
                continue;
            };
            ensure!(bytes.len() == 300_000, "file {number} has {} bytes", bytes.len());
            ensure!(first_difference(number + 1, 0, &bytes).is_none(), "file {number} is wrong");
            good += 1;
        }
        Ok(good)
    }

    /// Mount and fsck must refuse the file with one sentence that has the word.
    fn refused(&self, what: &str, volume: &str, file: &Path, word: &str) -> Result<()> {
        let point = self.at("mnt").display().to_string();
        for words in [&["mount", volume, point.as_str()][..], &["fsck", volume]] {
            let answer = self.ashlar(words, file)?;
            let said = String::from_utf8_lossy(&answer.stderr).into_owned();
            ensure!(!answer.status.success(), "{what}: {} was taken: {said:?}", words[0]);
            ensure!(!is_mounted(&self.at("mnt")), "{what}: it is mounted");
            ensure!(said.lines().count() == 1, "{what}: not one sentence:\n{said}");
            // Where all copies of an entry are on disks that the file does not list, that is what is said.
            let said_so =
                said.contains(word) || (word == FEW && said.contains("journal is broken"));
            ensure!(said_so, "{what}: {said:?} does not say {word:?}");
        }
        Ok(())
    }
}

/// What is said of a file that lists too few disks.
const FEW: &str = "disks";

fn in_domains(slots: &[Slot], domain: impl Fn(usize) -> String) -> Vec<Slot> {
    let named = slots.iter().enumerate();
    named.map(|(n, slot)| Slot { domain: Some(domain(n)), ..slot.clone() }).collect()
}

#[test]
fn a_file_that_is_not_what_the_volume_was_stored_by_is_refused() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut site = Site::new(8)?;
    let slots = in_domains(&site.slots, |n| format!("host-{n}"));
    let good = site.file("good", 3, &slots)?;
    site.store(&good)?;

    let others: Vec<Slot> =
        (0..8).map(|n| site.init(&format!("other{n}"))).collect::<Result<_>>()?;
    let joined = in_domains(&slots, |n| format!("host-{}", n.max(2)));
    let new_id = "5ad0c2f0-0000-4000-8000-000000000000";
    // What this machine keeps of one volume makes no other.
    let own = only_in(&site.at("cache")).context("a directory for the cluster")?;
    fs::copy(own.join("v.lock"), own.join("w.lock"))?;
    fs::create_dir(own.join("w.chunks"))?;
    let cases = [
        ("another cluster's id", "v", site.file_of("f0", new_id, 3, &slots)?, "cluster"),
        ("an older generation", "v", site.file("f1", 2, &slots)?, "generation"),
        ("five of eight slots", "v", site.file("f2", 3, &slots[..5])?, FEW),
        ("the same of a newer generation", "v", site.file("f3", 4, &slots[..5])?, FEW),
        ("three domains made one", "v", site.file("f4", 4, &joined)?, "fail domain"),
        ("other disks", "v", site.file("f5", 4, &others)?, "no volume v"),
        ("a volume that is only in the cache", "w", good.clone(), "no volume w"),
    ];
    for (what, volume, file, word) in cases {
        site.refused(what, volume, &file, word)?;
    }
    ensure!(site.mount("v", &good)?.is_empty(), "the right file is warned of");
    ensure!(site.readable()? == FILES, "files are unreadable after the refusals");
    site.umount()
}

/// One from when metadata lay in a directory of the machine that mounts, which is that of the cache by now.
#[test]
fn an_older_file_is_understood_and_one_with_both_names_is_not() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let site = Site::new(6)?;
    let text = fs::read_to_string(site.file("good", 1, &site.slots)?)?;
    let (old, both) = (site.at("old"), site.at("both"));
    fs::write(&old, text.replace("cache = ", "meta = "))?;
    fs::write(&both, format!("meta = \"elsewhere\"\n{text}"))?;
    site.refused("both names", "v", &both, "leave one of the two lines out")?;
    ensure!(site.format(&old, "ec(4,2)")?.status.success(), "format");
    ensure!(site.mount("v", &old)?.is_empty(), "an older file is warned of");
    site.umount()
}

#[test]
fn a_file_that_some_can_be_read_by_is_taken_with_a_warning() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut site = Site::new(8)?;
    let slots = in_domains(&site.slots, |n| format!("host-{n}"));
    let good = site.file("good", 1, &slots)?;
    site.store(&good)?;
    // The order of slots means nothing.
    let turned: Vec<Slot> = slots.iter().rev().cloned().collect();
    ensure!(site.mount("v", &site.file("turned", 1, &turned)?)?.is_empty(), "warned of an order");
    ensure!(site.readable()? == FILES, "another order of slots costs files");
    site.umount()?;
    // Two domains made one, without a new generation: both are said, again at the next mount.
    let joined = in_domains(&slots, |n| format!("host-{}", n.max(1)));
    let file = site.file("joined", 1, &joined)?;
    // With a disk away two copies of an entry of the journal may be in that domain, and the third there.
    let (there, away) = (site.at("d7"), site.at("away"));
    fs::rename(&there, &away)?;
    site.refused("joined domains and a disk away", "v", &file, "makes one host of 2")?;
    fs::rename(&away, &there)?;
    let said = site.mount("v", &file)?;
    ensure!(said.contains("raise it") && said.contains("other fail domains"), "{said}");
    ensure!(site.readable()? == FILES, "joined domains cost files");
    wait_until("all to lie by the names of now", 2 * PATIENCE, || {
        site.status().is_ok_and(|(json, _)| {
            let heal = &json["mount"]["heal"];
            heal["health"] == "healthy" && heal["counting"] == false && heal["queue"] == 0
        })
    })?;
    site.umount()?;
    fs::rename(&there, &away)?;
    let said = site.mount("v", &file)?;
    ensure!(!said.contains("raise it") && !said.contains("other fail domains"), "{said}");
    ensure!(site.readable()? == FILES, "a disk that is away costs files");
    site.umount()?;
    fs::rename(&away, &there)?;
    site.mount("v", &site.file("good", 2, &slots)?)?;
    site.umount()?;
    // Two of eight replaced by empty ones: all can be read, and older data are said to be in danger, though they may
    // have been mended by now.
    let mut replaced = slots.clone();
    for number in [1, 6] {
        let slot = site.init(&format!("new{number}"))?;
        replaced[number] = Slot { domain: replaced[number].domain.clone(), ..slot };
    }
    let file = site.file("replaced", 3, &replaced)?;
    // A look mends nothing; a mount may have when it has ended.
    let fsck = site.ashlar(&["fsck", "v"], &file)?;
    let said = String::from_utf8_lossy(&fsck.stdout).into_owned();
    ensure!(said.contains("2 disks that hold parts"), "fsck: {said}");
    ensure!(fsck.stderr.is_empty(), "what fsck found is on stderr too");
    let said = site.mount("v", &file)?;
    ensure!(
        said.contains("2 disks that hold parts") && said.contains("cannot lose another"),
        "{said}"
    );
    let (json, text) = site.status()?;
    ensure!(json["mount"]["warnings"].to_string().contains("2 disks that hold parts"), "{json}");
    ensure!(text.contains("2 disks that hold parts"), "{text}");
    ensure!(site.readable()? == FILES, "files cannot be read without two of eight disks");
    site.umount()
}

#[test]
fn an_emptied_disk_is_missed() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let (site, file) = Site::stored(6)?;
    // Its superblock is all that somebody has left of it.
    for block in fs::read_dir(site.at("d2/blocks"))? {
        fs::remove_file(block?.path())?;
    }
    fs::remove_file(site.at("d2/index.redb"))?;
    let said = site.mount("v", &file)?;
    ensure!(said.contains("slot 2") && said.contains("lost what it held"), "{said}");
    ensure!(site.status()?.1.contains("lost what it held"), "status does not say so");
    ensure!(site.readable()? == FILES, "one disk emptied costs files");
    site.umount()
}

/// Three of eight empty disks are more than ec(4,2) can do without: nobody opens the volume until somebody has given up
/// what was on them, and then what is left can be read, and the rest is named. Each entry of the journal has three copies,
/// of which all may have been on those disks: then it takes one order more.
#[test]
fn what_more_empty_disks_than_can_be_had_is_given_up_by_hand() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let (mut site, good) = Site::stored(8)?;
    let accept = |site: &Site, disks: &[&str], file: &Path| -> Result<(bool, String)> {
        let words: Vec<&str> = ["cluster", "accept-loss"].iter().chain(disks).copied().collect();
        let answer = site.ashlar(&words, file)?;
        let said = [answer.stdout, answer.stderr].map(|s| String::from_utf8_lossy(&s).into_owned());
        Ok((answer.status.success(), said.concat()))
    };
    let (done, said) = accept(&site, &[&site.slots[1].disk], &good)?;
    ensure!(!done && said.contains("nothing has to be given up"), "{said}");

    // Without the first entry nobody would know what the volume is.
    let first = holders_of_entries(&site)?.swap_remove(0);
    let mut threes = [[1, 3, 6], [1, 3, 7]].into_iter();
    let wiped = threes.find(|three| first.iter().any(|disk| !three.contains(disk)));
    let wiped = wiped.context("no disk but these has the first entry")?;
    let (new, slots) = wipe(&mut site, &wiped)?;
    site.refused("three disks are empty", "v", &new, "ashlar cluster accept-loss")?;
    let empty = wiped.map(|number| slots[number].disk.as_str());
    let away = site.at("d0");
    fs::rename(&away, site.at("away"))?;
    let (done, said) = accept(&site, &empty, &new)?;
    ensure!(!done && said.contains("1 disks do not answer"), "{said}");
    fs::rename(site.at("away"), &away)?;
    let (done, said) = accept(&site, &[&slots[0].disk], &new)?;
    ensure!(!done && said.contains("nothing to give up"), "{said}");
    site.refused("nothing was given up", "v", &new, "ashlar cluster accept-loss")?;
    let (done, said) = accept(&site, &empty, &new)?;
    ensure!(done && said.contains("fsck VOLUME --lost"), "{said}");

    let fsck = site.ashlar(&["fsck", "v", "--lost"], &new)?;
    let told = String::from_utf8_lossy(&fsck.stdout).into_owned();
    let why = String::from_utf8_lossy(&fsck.stderr).into_owned();
    if why.contains("--salvage") {
        println!("the journal has lost an entry with them: {why}");
        return salvage(&site, &new);
    }
    ensure!(fsck.status.code() == Some(1) && !told.contains("in order"), "{told}{why}");
    site.mount("v", &new)?;
    let readable = site.readable()?;
    println!("{readable} of {FILES} files are left");
    let named = told.lines().filter(|line| line.starts_with("lost: ")).count() as u64;
    // What was acknowledged last may be gone with its names: an entry, and the two that may have been under way
    // with it. Then its blobs, one for each file, are told of.
    let nameless = told.lines().find_map(|line| {
        line.split_once(" blobs of a crashed mount").and_then(|(count, _)| count.parse().ok())
    });
    let nameless: u64 = nameless.unwrap_or(0);
    ensure!(
        readable + named + nameless == FILES && nameless <= 3,
        "{readable} files are readable, {named} are named, {nameless} are counted:\n{told}"
    );
    site.umount()
}

/// The three disks that an entry of the journal has its copies on are wiped, and given up: the volume is refused in a sentence
/// that names the order, and once that is given it is mounted with what is left, and what is lost is named.
#[test]
fn a_volume_whose_journal_has_lost_an_entry_is_opened_with_what_is_left_by_order() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let (mut site, _) = Site::stored(8)?;
    let wiped = holders_of_an_entry(&site)?;
    println!("disks {wiped:?} are wiped");
    let (new, slots) = wipe(&mut site, &wiped)?;
    let mut words = vec!["cluster", "accept-loss"];
    words.extend(wiped.iter().map(|number| slots[*number].disk.as_str()));
    let accepted = site.ashlar(&words, &new)?;
    ensure!(accepted.status.success(), "{}", String::from_utf8_lossy(&accepted.stderr));
    salvage(&site, &new)
}

/// Puts new, empty disks in the place of these; the cluster file that says so, and its slots.
fn wipe(site: &mut Site, disks: &[usize]) -> Result<(PathBuf, Vec<Slot>)> {
    let mut slots = site.slots.clone();
    for number in disks {
        fs::remove_dir_all(site.at(&format!("d{number}")))?;
        slots[*number] = site.init(&format!("d{number}"))?;
    }
    Ok((site.file("new", 2, &slots)?, slots))
}

/// Opens a volume with what is left that is refused as its journal has lost an entry: what is lost is named, and all else goes on.
fn salvage(site: &Site, file: &Path) -> Result<()> {
    site.refused("an entry is lost", "v", file, "ashlar fsck v --salvage")?;
    let fsck = site.ashlar(&["fsck", "v", "--salvage", "--lost"], file)?;
    let told = String::from_utf8_lossy(&fsck.stdout).into_owned();
    let why = String::from_utf8_lossy(&fsck.stderr).into_owned();
    ensure!(matches!(fsck.status.code(), Some(1 | 4)), "{:?}: {told}{why}", fsck.status);
    ensure!(
        told.contains("of the journal is lost") || told.contains("of the journal are lost"),
        "{told}"
    );
    ensure!(told.contains("are nobody's now"), "{told}");
    site.mount("v", file)?;
    println!("{} of {FILES} files are left:\n{told}", site.readable()?);
    for entry in fs::read_dir(site.at("mnt"))? {
        let path = entry?.path();
        let name = path.file_name().context("a name")?.to_string_lossy().into_owned();
        if path.is_file() && fs::read(&path).is_err() {
            let named = told.lines().any(|line| line.contains(&format!("bytes of /{name},")));
            ensure!(named, "{name} cannot be read, and is not named:\n{told}");
        }
    }
    // It is a volume as any other.
    fs::write(site.at("mnt/later"), b"stored")?;
    fs::File::open(site.at("mnt/later"))?.sync_all()?;
    site.umount()?;
    site.mount("v", file)?;
    ensure!(fs::read(site.at("mnt/later"))? == b"stored", "what came later is gone");
    site.umount()
}

/// The disks that have copies of each entry of the journal, in the order of those.
fn holders_of_entries(site: &Site) -> Result<Vec<Vec<usize>>> {
    let disks = Disks::read((0..8).map(|number| site.at(&format!("d{number}"))))?;
    let mut entries = disks.blobs(Role::Entry);
    entries.sort_by_key(|id| id.sequence());
    ensure!(!entries.is_empty(), "there is no journal");
    let holders = |blob| -> Vec<usize> {
        disks.copies_by_disk(blob).into_iter().map(|(disk, _)| disk).collect()
    };
    Ok(entries.into_iter().map(holders).collect())
}

/// The disks that all copies of one entry in the midst of the journal are on, of which the first entry is not among them.
fn holders_of_an_entry(site: &Site) -> Result<Vec<usize>> {
    let holders = holders_of_entries(site)?;
    let behind = holders.len().saturating_sub(5);
    let mut midst = holders.get(2..behind).unwrap_or_default().iter();
    let found = midst.find(|on| holders[0].iter().any(|disk| !on.contains(disk)));
    found.cloned().with_context(|| format!("none of {} entries will do", holders.len()))
}

#[test]
fn addresses_that_are_not_what_the_file_says() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut site = Site::new(6)?;
    site.serve()?;
    let slots = site.slots.clone();
    let good = site.file("good", 1, &slots)?;
    site.store(&good)?;
    let place = |n: usize, of: usize| Slot { place: slots[of].place.clone(), ..slots[n].clone() };
    // Every address is another disk's.
    let turned: Vec<Slot> = (0..6).map(|n| place(n, (n + 1) % 6)).collect();
    let file = site.file("turned", 1, &turned)?;
    site.refused("addresses turned", "v", &file, "6 of its 6 disks")?;
    let refused = site.ashlar(&["format", "w"], &file)?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(!refused.status.success() && said.contains("has no disk"), "format: {said}");
    let status = site.ashlar(&["status"], &file)?;
    let said = String::from_utf8_lossy(&status.stdout).into_owned();
    ensure!(said.contains("0 of 6 disks up") && !status.status.success(), "status: {said}");
    // One address is another disk's, and one is somebody else's altogether.
    let stranger = TcpListener::bind("127.0.0.1:0")?;
    let address = stranger.local_addr()?.to_string();
    std::thread::spawn(move || {
        // Answers as a web server would; ends with the test's process.
        for stream in stranger.incoming().flatten() {
            let _ = std::io::Write::write_all(&mut &stream, b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let mut two = slots.clone();
    two[4] = place(4, 0);
    two[5].place = format!("address = {address:?}");
    let said = site.mount("v", &site.file("two", 1, &two)?)?;
    ensure!(said.contains("4 of 6 disks are up"), "{said}");
    // Whichever answer came first: that of its status, or that of a request.
    let strange = |said: &str| said.contains("has no disk") || said.contains("does not serve disk");
    ensure!(said.contains("disk 4 at") && strange(&said), "{said}");
    ensure!(said.contains("disk 5 at"), "{said}");
    ensure!(site.readable()? == FILES, "two wrong addresses cost files");
    let (_, text) = site.status()?;
    ensure!(text.contains("4 of 6 disks up") && strange(&text), "{text}");
    site.umount()
}

#[test]
fn a_mount_without_its_disks_is_refused_and_a_stale_one_says_so() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut site = Site::new(6)?;
    site.serve()?;
    let good = site.file("good", 1, &site.slots)?;
    site.store(&good)?;
    site.daemons.clear();
    site.refused("a mount without disks", "v", &good, "too few slots answer")?;
    for number in 0..6 {
        let daemon = site.daemon(number)?;
        site.daemons.push(daemon);
    }
    ensure!(site.mount("v", &good)?.is_empty(), "warned of disks that are back");
    ensure!(site.readable()? == FILES, "files are lost");
    // The cluster goes on to a new generation, with another volume.
    let newer = site.file("newer", 2, &site.slots)?;
    let point = site.at("second").display().to_string();
    fs::create_dir(&point)?;
    ensure!(site.ashlar(&["format", "w"], &newer)?.status.success(), "format w");
    ensure!(site.ashlar(&["mount", "w", &point], &newer)?.status.success(), "mount w");
    let noticed = wait_until("status to say that the generation is old", NOTICED, || {
        site.status().is_ok_and(|(_, text)| {
            text.contains("0 of 6 disks up") && text.contains("generation 2")
        })
    });
    until_unused(|| {
        let mut command = Command::new(ashlar());
        command.args(["umount", &point]);
        command
    })?;
    noticed?;
    // Not even the end of its session can be stored, which the next mount makes up for.
    let umount =
        output(Command::new(ashlar()).args(["umount", "-f"]).arg(site.at("mnt")), PATIENCE)?;
    ensure!(!is_mounted(&site.at("mnt")), "it is still mounted: {umount:?}");
    site.refused("a generation that the disks know to be old", "v", &good, "generation 2")?;
    ensure!(!site.mount("v", &newer)?.contains("disks are up"), "the newer file is warned of");
    ensure!(site.readable()? == FILES, "files are lost");
    site.umount()
}

#[test]
fn what_is_said_of_safety_is_what_holds() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut site = Site::new(3)?;
    site.serve()?;
    let file = site.file("good", 1, &site.slots)?;
    let formatted = site.format(&file, "ec(2,1)")?;
    let (said, warned) = (
        String::from_utf8_lossy(&formatted.stdout).into_owned(),
        String::from_utf8_lossy(&formatted.stderr).into_owned(),
    );
    ensure!(
        said.contains("reads go on with any 1 of the 3 disks lost, writes with none"),
        "{said}"
    );
    ensure!(warned.contains("writes stop with the first disk"), "{warned}");
    site.mount("v", &file)?;
    site.write()?;
    ensure!(site.status()?.1.contains("writes with none"), "status does not say so");
    site.daemons.remove(1);
    site.umount()?;
    site.mount("v", &file)?;
    ensure!(site.readable()? == FILES, "one of three lost costs files");
    let more = fs::write(site.at("mnt/more"), content(99, 100_000));
    let more = more.and_then(|()| fs::File::open(site.at("mnt/more"))?.sync_all());
    ensure!(more.is_err(), "one of three lost, and a write was taken");
    site.daemons.clear();
    for number in 0..3 {
        let daemon = site.daemon(number)?;
        site.daemons.push(daemon);
    }
    wait_until("everything to be stored", NOTICED, || {
        fs::File::open(site.at("mnt/more")).is_ok_and(|file| file.sync_all().is_ok())
    })?;
    site.umount()
}
