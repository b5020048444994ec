//! Promise: a disk that is missing, damaged or another's at the start is a disk that is down: it is
//! named with the reason, everything goes on without it, and it is in use again when it is back.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use tests::binaries::{ashlar, storaged};
use tests::cluster::{Demo, Mode, Setup, Stop, can_mount, umount, until_unused};
use tests::process::{PATIENCE, Process, answer, output, run, wait_until};
use tests::seed::{content, first_difference};

/// After this a disk that is back must be in use.
const NOTICED: Duration = Duration::from_secs(60);
/// What a start without some disks may take.
const START: Duration = Duration::from_secs(25);

/// Takes one disk out of a demo, and answers how it comes back.
type Loss = fn(&Path) -> Result<()>;

fn aside(disk: &Path) -> PathBuf {
    disk.with_extension("aside")
}

fn move_away(disk: &Path) -> Result<()> {
    Ok(fs::rename(disk, aside(disk))?)
}

/// The filesystem of the disk is not mounted: what is there is the mount point.
fn unmount(disk: &Path) -> Result<()> {
    move_away(disk)?;
    Ok(fs::create_dir(disk)?)
}

fn cut_superblock(disk: &Path) -> Result<()> {
    unmount(disk)?;
    fs::create_dir(disk.join("blocks"))?;
    let superblock = fs::read(aside(disk).join("superblock"))?;
    Ok(fs::write(disk.join("superblock"), &superblock[..superblock.len() / 300])?)
}

fn file_instead(disk: &Path) -> Result<()> {
    move_away(disk)?;
    Ok(fs::write(disk, "")?)
}

fn foreign(disk: &Path) -> Result<()> {
    move_away(disk)?;
    let mut init = Command::new(storaged());
    init.args(["disk", "init"]).arg(disk).arg("--new-cluster");
    init.args(["--capacity", "64MiB", "--block-file", "16MiB"]);
    run(&mut init, PATIENCE).map(drop)
}

/// What every loss is called, how it comes about, and what must be said of it.
const LOSSES: [(&str, Loss, &str); 5] = [
    ("moved away", move_away, "No such file"),
    ("not mounted", unmount, "not an ashlar disk"),
    ("cut", cut_superblock, "superblock"),
    ("a file", file_instead, "Not a directory"),
    ("foreign", foreign, "cluster"),
];

fn come_back(disk: &Path) -> Result<()> {
    match fs::metadata(disk) {
        Ok(there) if there.is_dir() => fs::remove_dir_all(disk)?,
        Ok(_) => fs::remove_file(disk)?,
        Err(_) => {}
    }
    Ok(fs::rename(aside(disk), disk)?)
}

fn write(path: &Path, stamp: u64) -> Result<()> {
    fs::write(path, content(stamp, 3 << 20))?;
    Ok(File::open(path)?.sync_all()?)
}

fn is_right(path: &Path, stamp: u64) -> Result<()> {
    let bytes = fs::read(path).with_context(|| path.display().to_string())?;
    ensure!(bytes.len() == 3 << 20 && first_difference(stamp, 0, &bytes).is_none(), "wrong bytes");
    Ok(())
}

#[test]
fn an_embedded_volume_starts_without_two_disks_names_them_and_takes_them_in() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut demo = Demo::start(Setup { size: "4GiB", ..Setup::new(Mode::Embedded) })?;
    write(&demo.file("before"), 1)?;
    for (round, (what, lose, said)) in (2..).zip(LOSSES) {
        demo.stop(Stop::Umount)?;
        let gone = [round as usize % 8, (round as usize + 3) % 8];
        gone.iter().try_for_each(|disk| lose(&demo.disk(*disk)))?;
        let began = Instant::now();
        demo.mount().with_context(|| what.to_owned())?;
        ensure!(began.elapsed() < START, "{what}: started in {:?}", began.elapsed());
        let words = demo.said();
        ensure!(words.contains("6 of 8 disks are up: reads and writes go on"), "{what}: {words}");
        let states = demo.states()?;
        for disk in gone {
            let place = demo.disk(disk).display().to_string();
            let line =
                words.lines().rfind(|line| line.contains(&format!("disk {disk} at {place}")));
            ensure!(line.is_some_and(|line| line.contains(said)), "{what}: {words}");
            let state = &states[disk];
            ensure!(state.starts_with("out: ") && state.contains(said), "{what}: {state}");
            ensure!(!words.contains("disk init"), "{what}: dangerous advice: {words}");
        }
        let up = states.iter().filter(|state| *state == "up").count();
        ensure!(up == 6, "{what}: {states:?}");
        for stamp in 2..round {
            is_right(&demo.file(format!("file-{stamp}")), stamp)?;
        }
        is_right(&demo.file("before"), 1)?;
        write(&demo.file(format!("file-{round}")), round)?;
        gone.iter().try_for_each(|disk| come_back(&demo.disk(*disk)))?;
        demo.all_up(NOTICED).with_context(|| what.to_owned())?;
        // The log has one line for each end of an outage, both at the level that is always there.
        let log = demo.said();
        let mounts: Vec<usize> = log.match_indices("ready: ").map(|(at, _)| at).collect();
        let log = &log[mounts.iter().rev().nth(1).copied().unwrap_or(0)..];
        for disk in gone {
            let place = format!("place={}", demo.disk(disk).display());
            for end in ["slot is down", "slot is up again"] {
                let told = |line: &&str| line.contains(&place) && line.contains(end);
                let lines: Vec<&str> = log.lines().filter(told).collect();
                ensure!(lines.len() == 1 && lines[0].contains("WARN"), "{what}: {end}: {log}");
            }
        }
        ensure!(log.matches("of 8 disks are up").count() == 1, "{what}: told twice: {log}");
    }
    demo.remount()?;
    for stamp in 2..7 {
        is_right(&demo.file(format!("file-{stamp}")), stamp)?;
    }
    demo.stop(Stop::Umount)?;
    demo.fsck()
}

#[test]
fn swapped_disks_are_out_and_each_is_said_to_belong_elsewhere() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut demo = Demo::start(Setup { size: "4GiB", ..Setup::new(Mode::Embedded) })?;
    write(&demo.file("before"), 1)?;
    demo.stop(Stop::Umount)?;
    let (one, two) = (demo.disk(1), demo.disk(5));
    let swap = || {
        fs::rename(&one, aside(&one))?;
        fs::rename(&two, &one)?;
        fs::rename(aside(&one), &two)
    };
    swap()?;
    demo.mount()?;
    let states = demo.states()?;
    let belongs = |state: &str, home: &Path| {
        state.contains("it holds disk") && state.contains(&format!("belongs in {}", home.display()))
    };
    ensure!(belongs(&states[1], &two) && belongs(&states[5], &one), "{states:?}");
    is_right(&demo.file("before"), 1)?;
    write(&demo.file("after"), 2)?;
    swap()?;
    demo.all_up(NOTICED)?;
    is_right(&demo.file("after"), 2)?;
    demo.stop(Stop::Umount)?;
    demo.fsck()
}

#[test]
fn fsck_and_status_of_a_cluster_go_on_without_a_disk_and_a_new_volume_does_not() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut demo = Demo::start(Setup { size: "4GiB", ..Setup::new(Mode::Embedded) })?;
    // Blobs enough for some to have a part on every disk.
    (0..16).try_for_each(|stamp| write(&demo.file(format!("file-{stamp}")), stamp))?;
    demo.stop(Stop::Umount)?;
    unmount(&demo.disk(3))?;
    let cluster = demo.directory().join("cluster.toml");
    let ask = |arguments: &[&str]| {
        let answer = output(
            Command::new(ashlar()).args(arguments).arg("--cluster").arg(&cluster),
            4 * PATIENCE,
        )?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        anyhow::Ok((answer.status.code(), text(answer.stdout), text(answer.stderr)))
    };
    // What was found is on stdout, once, and the verdict comes last.
    let (code, said, complained) = ask(&["fsck", "demo"])?;
    ensure!(code == Some(1) && complained.is_empty(), "{code:?}: {said}{complained}");
    ensure!(said.matches("7 of 8 disks are up").count() == 1, "{said}");
    let place = demo.disk(3).display().to_string();
    ensure!(said.matches(&place).count() == 1, "{said}");
    ensure!(said.contains("can be read") && !said.contains("problems"), "{said}");
    ensure!(said.lines().last().is_some_and(|line| line.contains("is in order")), "{said}");
    let (code, said, complained) = ask(&["fsck", "demo", "--json"])?;
    let found: serde_json::Value = serde_json::from_str(&said)?;
    let outage = found["outage"].as_str().unwrap_or_default();
    ensure!(code == Some(1) && complained.is_empty(), "{code:?}: {said}{complained}");
    ensure!(outage.contains("7 of 8 disks are up") && outage.contains(&place), "{said}");
    let (code, said, _) = ask(&["status"])?;
    ensure!(code == Some(1) && said.contains("7 of 8 disks up"), "{code:?}: {said}");
    ensure!(said.contains("out: not an ashlar disk"), "{said}");
    let (code, _, said) = ask(&["format", "another"])?;
    ensure!(code == Some(1) && said.contains("not an ashlar disk"), "{code:?}: {said}");
    (0..8).filter(|disk| *disk != 3).try_for_each(|disk| unmount(&demo.disk(disk)))?;
    let (code, found, said) = ask(&["fsck", "demo"])?;
    ensure!(code == Some(1) && said.contains("no disk can be opened"), "{code:?}: {said}");
    ensure!(found.is_empty(), "{found}");
    let (code, said, _) = ask(&["status"])?;
    ensure!(code == Some(2) && said.contains("0 of 8 disks up"), "{code:?}: {said}");
    (0..8).try_for_each(|disk| come_back(&demo.disk(disk)))?;
    demo.fsck()
}

#[test]
fn a_demo_with_daemons_starts_without_a_disk() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut demo = Demo::start(Setup { size: "4GiB", ..Setup::new(Mode::Daemons) })?;
    write(&demo.file("before"), 1)?;
    demo.stop(Stop::Umount)?;
    unmount(&demo.disk(3))?;
    let mut command = Command::new(ashlar());
    command.arg("demo").arg(demo.path()).arg("--daemons").arg("--dir").arg(demo.directory());
    let log = demo.outside("degraded.log");
    let began = Instant::now();
    let mut mount = Process::start_ready(&mut command, "ready", &log)?;
    ensure!(began.elapsed() < START, "started in {:?}", began.elapsed());
    wait_until("the words on disks", PATIENCE, || mount.said().contains("7 of 8 disks are up"))?;
    let said = mount.said();
    ensure!(said.contains("not an ashlar disk") && !said.contains("disk init"), "{said}");
    is_right(&demo.file("before"), 1)?;
    write(&demo.file("after"), 2)?;
    until_unused(|| umount(&demo.path()))?;
    ensure!(mount.wait(PATIENCE)?.success(), "{}", mount.said());
    come_back(&demo.disk(3))?;
    demo.mount()?;
    is_right(&demo.file("after"), 2)?;
    demo.stop(Stop::Umount)
}

/// Makes disks of one cluster; answers it, and the id of each.
fn disks(home: &Path, names: &[&str]) -> Result<(String, Vec<String>)> {
    let mut cluster: Option<String> = None;
    let mut ids = Vec::new();
    for name in names {
        let mut init = Command::new(storaged());
        init.args(["disk", "init"]).arg(home.join(name));
        match &cluster {
            Some(cluster) => init.args(["--cluster", cluster]),
            None => init.arg("--new-cluster"),
        };
        init.args(["--capacity", "64MiB", "--block-file", "16MiB", "--json"]);
        let made: serde_json::Value = serde_json::from_str(&run(&mut init, PATIENCE)?)?;
        ids.push(made["disk"].as_str().context("disk")?.to_owned());
        cluster = Some(made["cluster"].as_str().context("cluster")?.to_owned());
    }
    Ok((cluster.context("no disks")?, ids))
}

/// A daemon of these directories, and where it listens.
fn serve(home: &Path, names: &[&str]) -> Result<(Process, String)> {
    let mut command = Command::new(storaged());
    command.args(["run", "--listen", "127.0.0.1:0"]);
    for name in names {
        command.arg("--disk").arg(home.join(name));
    }
    let log = home.join("log");
    let _before = fs::remove_file(&log);
    let daemon = Process::start(&mut command, &log)?;
    let ready = || {
        let said = fs::read_to_string(&log).ok()?;
        said.lines().find(|line| line.contains("storaged is ready")).map(str::to_owned)
    };
    wait_until("the daemon to be ready", PATIENCE, || ready().is_some())?;
    let ready = ready().context("ready")?;
    let listen = ready.split("listen=").nth(1).context("listen")?;
    Ok((daemon, listen.split(' ').next().context("listen")?.to_owned()))
}

/// `storaged status` says this of the daemon, in words and for programs, and ends with this code.
fn told(address: &str, code: i32, line: &str) -> Result<()> {
    let ask = |json: &[&str]| {
        let mut status = Command::new(storaged());
        answer(status.args(["status", "--address", address]).args(json), PATIENCE)
    };
    let (ended, said) = ask(&[])?;
    ensure!((ended, said.lines().next()) == (code, Some(line)), "{ended}: {said}");
    let (ended, said) = ask(&["--json"])?;
    let status: serde_json::Value = serde_json::from_str(&said)?;
    ensure!(ended == code && status["line"] == line, "{ended}: {said}");
    let word = line.split(':').next().unwrap_or_default().to_lowercase().replace(' ', "-");
    ensure!(status["health"] == word, "{said}");
    Ok(())
}

/// State of each disk, by its directory's name.
fn served_states(address: &str) -> Result<Vec<(String, String)>> {
    let answer = output(
        Command::new(storaged()).args(["status", "--json", "--address", address]),
        PATIENCE,
    )?;
    let status: serde_json::Value = serde_json::from_slice(&answer.stdout)?;
    let disks = status["disks"].as_array().context("disks")?;
    let one = |disk: &serde_json::Value| {
        let path = Path::new(disk["path"].as_str().unwrap_or_default());
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        (name, disk["state"].as_str().unwrap_or_default().to_owned())
    };
    Ok(disks.iter().map(one).collect())
}

#[test]
fn a_daemon_starts_without_bad_disks_names_them_and_takes_them_in() -> Result<()> {
    let home = tempfile::tempdir()?;
    let home = home.path();
    let names = ["d0", "d1", "d2", "d3", "d4", "d5", "d6", "d7"];
    let (cluster, _) = disks(home, &names)?;
    for (disk, (_, lose, _)) in names.iter().zip(LOSSES) {
        lose(&home.join(disk))?;
    }
    let (mut daemon, address) = serve(home, &names)?;
    let states = served_states(&address)?;
    for ((what, _, said), (name, state)) in LOSSES.iter().zip(&states) {
        // One of these is good, but for a moment while it is opened.
        ensure!(state.starts_with("out: ") && state.contains(said), "{what}: {name} is {state}");
    }
    ensure!(states[5..].iter().all(|(_, state)| state == "ok"), "{states:?}");
    let log = fs::read_to_string(home.join("log"))?;
    for name in &names[..5] {
        let path = home.join(name).display().to_string();
        let out = log.lines().filter(|line| line.contains(&path) && line.contains("out")).count();
        ensure!(out == 1, "{out} lines on {name}:\n{log}");
    }
    ensure!(!log.contains("disk init"), "dangerous advice: {log}");
    names[..5].iter().try_for_each(|name| come_back(&home.join(name)))?;
    wait_until("all disks to be in", NOTICED, || {
        served_states(&address).is_ok_and(|all| all.iter().all(|(_, state)| state == "ok"))
    })?;
    daemon.signal(Signal::SIGTERM)?;
    ensure!(daemon.wait(PATIENCE)?.success(), "{}", daemon.said());

    // The disks of another cluster are the fewer ones; a copy and its original cannot be told apart.
    foreign(&home.join("d0"))?;
    let copy = ["-a", "d1", "d2.copy"];
    run(Command::new("cp").args(copy).current_dir(home), PATIENCE)?;
    let (mut daemon, address) = serve(home, &["d0", "d1", "d2", "d3", "d2.copy"])?;
    let states = served_states(&address)?;
    ensure!(states[0].1.contains("belongs to cluster") && states[0].1.contains(&cluster));
    ensure!(states[1].1.contains("given twice") && states[4].1.contains("given twice"));
    ensure!(states[2].1 == "ok" && states[3].1 == "ok", "{states:?}");
    daemon.signal(Signal::SIGTERM)?;
    ensure!(daemon.wait(PATIENCE)?.success(), "{}", daemon.said());
    Ok(())
}

#[test]
fn a_daemon_without_one_good_disk_is_refused_in_a_sentence() -> Result<()> {
    let home = tempfile::tempdir()?;
    fs::create_dir(home.path().join("one"))?;
    let mut command = Command::new(storaged());
    command.args(["run", "--listen", "127.0.0.1:0", "--disk"]).arg(home.path().join("one"));
    command.arg("--disk").arg(home.path().join("two"));
    let answer = output(&mut command, PATIENCE)?;
    let said = String::from_utf8_lossy(&answer.stderr).into_owned();
    ensure!(answer.status.code() == Some(1), "{said}");
    ensure!(
        said.contains("none of the 2 disks can be opened") && said.lines().count() == 1,
        "{said}"
    );
    Ok(())
}

/// After this a disk whose files went away under whoever had them open must be out.
const VANISHED: Duration = Duration::from_secs(10);

#[test]
fn a_mount_whose_disk_is_removed_under_it_goes_on_without_it() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut demo = Demo::start(Setup::new(Mode::Embedded))?;
    write(&demo.file("before"), 1)?;
    fs::remove_dir_all(demo.disk(3))?;
    let mut stamp = 1;
    wait_until("the loss to be noticed", VANISHED, || {
        stamp += 1;
        // What is stored meanwhile is on the seven others, too.
        write(&demo.file(format!("file-{stamp}")), stamp).is_ok()
            && demo.states().is_ok_and(|states| states[3].starts_with("out: "))
    })?;
    let noticed = stamp;
    for stamp in noticed + 1..noticed + 4 {
        write(&demo.file(format!("file-{stamp}")), stamp)?;
    }
    demo.remount()?;
    for stamp in 2..noticed + 4 {
        is_right(&demo.file(format!("file-{stamp}")), stamp)?;
    }
    is_right(&demo.file("before"), 1)?;
    demo.stop(Stop::Umount)
}

#[test]
fn a_daemon_whose_disk_is_removed_says_so_and_serves_it_again_when_it_is_back() -> Result<()> {
    let home = tempfile::tempdir()?;
    let home = home.path();
    disks(home, &["d0", "d1"])?;
    let (mut daemon, address) = serve(home, &["d0", "d1"])?;
    let states = || served_states(&address).unwrap_or_default();
    ensure!(states().iter().all(|(_, state)| state == "ok"), "{:?}", states());
    told(&address, 0, "HEALTHY: 2 of 2 disks serve")?;
    move_away(&home.join("d1"))?;
    let is_out = || states().iter().any(|(name, state)| name == "d1" && state.starts_with("out: "));
    wait_until("the loss to be noticed", VANISHED, is_out)?;
    ensure!(states()[0].1 == "ok", "{:?}", states());
    told(&address, 1, "DEGRADED: 1 of 2 disks out")?;
    let log = fs::read_to_string(home.join("log"))?;
    ensure!(log.contains("its superblock is gone"), "{log}");
    move_away(&home.join("d0"))?;
    let all_out = || states().iter().all(|(_, state)| state.starts_with("out: "));
    wait_until("the other loss to be noticed", VANISHED, all_out)?;
    told(&address, 2, "DATA UNAVAILABLE: 2 of 2 disks out")?;
    come_back(&home.join("d0"))?;
    come_back(&home.join("d1"))?;
    wait_until("it to be in", NOTICED, || states().iter().all(|(_, state)| state == "ok"))?;
    let words = run(Command::new(storaged()).args(["status", "--address", &address]), PATIENCE)?;
    ensure!(words.matches("scrubbed").count() == 2, "{words}");
    daemon.signal(Signal::SIGTERM)?;
    ensure!(daemon.wait(PATIENCE)?.success(), "{}", daemon.said());
    // Nor is anything known where nobody answers, or nobody was asked.
    for words in [vec!["--address", address.as_str()], vec!["--nonsense"]] {
        let asked = output(Command::new(storaged()).arg("status").args(&words), PATIENCE)?;
        ensure!(asked.status.code() == Some(3), "{words:?}: {asked:?}");
    }
    let words =
        run(Command::new(storaged()).args(["disk", "list"]).arg(home.join("d0")), PATIENCE)?;
    ensure!(words.contains("idle  ") && words.contains("scrubbed"), "{words}");
    Ok(())
}
