//! Promise: bad input gets a clear error, and nothing is lost. Every row of the tables is a wrong
//! invocation: its answer is one sentence on stderr that names what is wrong, and an exit code that is
//! not 0. What was there before is untouched.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use tests::binaries::{ashlar, proxyd, storaged};
use tests::cluster::{Demo, Mode, Setup, Stop, can_mount, is_mounted};
use tests::process::{PATIENCE, output};
use tests::seed::content;

/// A wrong command line and a word that its error must have.
struct Row {
    what: &'static str,
    command: Command,
    /// One of them must be in the message, in any case of letters.
    names: &'static [&'static str],
}

fn row(
    what: &'static str,
    program: PathBuf,
    arguments: &[&str],
    names: &'static [&'static str],
) -> Row {
    let mut command = Command::new(program);
    command.args(arguments);
    Row { what, command, names }
}

/// Runs all rows, and fails with all that is wrong at once.
fn refuse(rows: Vec<Row>) -> Result<()> {
    let mut wrong = Vec::new();
    let total = rows.len();
    for mut row in rows {
        let answer = output(&mut row.command, PATIENCE);
        if let Err(why) = answer.and_then(|answer| refused(&row, &answer)) {
            wrong.push(format!("{}: {why:#}", row.what));
        }
    }
    ensure!(wrong.is_empty(), "{} of {total} rows:\n{}", wrong.len(), wrong.join("\n"));
    Ok(())
}

fn refused(row: &Row, answer: &Output) -> Result<()> {
    let said = String::from_utf8_lossy(&answer.stderr).into_owned();
    ensure!(!answer.status.success(), "it was taken, saying {said:?}");
    ensure!(answer.status.code().is_some(), "it died with {}", answer.status);
    ensure!(!said.contains("panicked"), "it panicked: {said}");
    let lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
    // clap adds to its sentence how the command is used; ours stand alone.
    let usage = answer.status.code() == Some(2);
    ensure!(usage || lines.len() == 1, "{} lines, not one sentence:\n{said}", lines.len());
    let sentence = said.to_lowercase();
    let named = row.names.iter().any(|name| sentence.contains(&name.to_lowercase()));
    ensure!(named, "the message names none of {:?}: {said}", row.names);
    Ok(())
}

#[test]
fn wrong_flags_of_the_mount() -> Result<()> {
    refuse(vec![
        row("no command", ashlar(), &[], &["usage"]),
        row("unknown command", ashlar(), &["mnt"], &["mnt"]),
        row("unknown flag", ashlar(), &["demo", "/m", "--disk-count", "8"], &["--disk-count"]),
        row("missing mount point", ashlar(), &["demo"], &["mountpoint"]),
        row("missing cluster", ashlar(), &["mount", "v", "/m"], &["--cluster"]),
        row("disks not a number", ashlar(), &["demo", "/m", "--disks", "many"], &["many"]),
        row("no size", ashlar(), &["demo", "/m", "--size", "big"], &["big"]),
        row(
            "counting all the time",
            ashlar(),
            &["mount", "v", "/m", "--census-every", "1s"],
            &["1min"],
        ),
        row("scrub for ever", ashlar(), &["demo", "/m", "--scrub-days", "4000"], &["3650"]),
        row(
            "scheme without data",
            ashlar(),
            &["demo", "/m", "--scheme", "ec(0,2)"],
            &["ec(0,2)", "at least"],
        ),
        row(
            "scheme too wide",
            ashlar(),
            &["demo", "/m", "--scheme", "ec(40,300)"],
            &["ec(40,300)", "at most"],
        ),
        row("scheme of another world", ashlar(), &["demo", "/m", "--scheme", "raid5"], &["raid5"]),
        row("no size of ours", ashlar(), &["demo", "/m", "--size", "1.5G"], &["10GiB"]),
        row("too small a size", ashlar(), &["demo", "/m", "--size", "1M"], &["at least 512MiB"]),
        row(
            "status of nothing",
            ashlar(),
            &["status", "--cluster", "/nonexistent/c"],
            &["/nonexistent/c"],
        ),
        row("no daemon there", ashlar(), &["cluster", "file", "127.0.0.1"], &["127.0.0.1"]),
        row(
            "a cluster of nothing",
            ashlar(),
            &["cluster", "create", "--address", "h"],
            &["--disk"],
        ),
        row("no token", ashlar(), &["cluster", "join", "nonsense"], &["ashlar1."]),
        row(
            "no machine of a cluster",
            ashlar(),
            &["node", "run", "--state", "/nonexistent/node"],
            &["/nonexistent/node"],
        ),
        row("no log filter", ashlar(), &["status", "/m", "--log", "a=b=c"], &["a=b=c"]),
    ])
}

#[test]
fn wrong_flags_of_doors_and_accounts() -> Result<()> {
    refuse(vec![
        row("serve by no door", ashlar(), &["serve", "v"], &["--http"]),
        row("serve to all", ashlar(), &["serve", "v", "--http", ":7480"], &["--insecure-no-tls"]),
        row(
            "a certificate in the clear",
            ashlar(),
            &["kv", "get", "a", "--ca", "/c"],
            &["https://"],
        ),
        row(
            "whom to trust",
            ashlar(),
            &["kv", "get", "a", "--at", "https://localhost:1"],
            &["--fingerprint"],
        ),
        row(
            "no authority",
            ashlar(),
            &["kv", "get", "a", "--at", "https://localhost:1", "--ca", "/nonexistent/c"],
            &["/nonexistent/c"],
        ),
        row(
            "users of nothing",
            ashlar(),
            &["user", "list", "v", "--cluster", "/nonexistent/c"],
            &["/nonexistent/c"],
        ),
        row("mount for all", ashlar(), &["mount", "v", "/m", "--kv", "0.0.0.0:1"], &["0.0.0.0:1"]),
        row(
            "http and none",
            ashlar(),
            &["demo", "/m", "--http", ":1", "--no-http"],
            &["--no-http"],
        ),
        row(
            "no door there",
            ashlar(),
            &["kv", "get", "a", "--at", "127.0.0.1:1"],
            &["not_connected"],
        ),
        row("no key", ashlar(), &["kv", "put", "", "v"], &["bad_request"]),
        row(
            "no database",
            ashlar(),
            &["kv", "get", "a", "--database", "-1"],
            &["--database", "-1"],
        ),
    ])
}

#[test]
fn a_check_that_is_called_wrongly_does_not_say_that_data_are_unavailable() -> Result<()> {
    for words in ["status --nonsense", "heal", "heal status a b", "--log info heal nonsense"] {
        let answer = output(Command::new(ashlar()).args(words.split(' ')), PATIENCE)?;
        let said = String::from_utf8_lossy(&answer.stderr);
        ensure!(answer.status.code() == Some(3), "{words}: {} and {said}", answer.status);
        ensure!(said.contains("Usage"), "{words}: {said}");
    }
    Ok(())
}

#[test]
fn wrong_flags_of_the_daemons() -> Result<()> {
    refuse(vec![
        row("storaged: no command", storaged(), &[], &["usage"]),
        row("storaged: no disk", storaged(), &["run", "--listen", "127.0.0.1:0"], &["disk"]),
        row(
            "storaged: bad address",
            storaged(),
            &["run", "--disk", "/d", "--listen", "here"],
            &["10.0.0.1:7411"],
        ),
        row(
            "storaged: no such host",
            storaged(),
            &["run", "--disk", "/d", "--listen", "no-such-host.invalid:7411"],
            &["no-such-host.invalid"],
        ),
        row(
            "storaged: a cluster by no disk",
            storaged(),
            &["disk", "init", "/nonexistent/d", "--cluster", "/nonexistent/e"],
            &["/nonexistent/e"],
        ),
        row(
            "proxyd: no cluster",
            proxyd(),
            &["blob", "ls", "1", "1"],
            &["/etc/ashlar/cluster.toml"],
        ),
        row("proxyd: no command", proxyd(), &[], &["usage"]),
        row(
            "storaged: cluster twice",
            storaged(),
            &[
                "disk",
                "init",
                "/nonexistent/d",
                "--new-cluster",
                "--cluster",
                "5ad0c2f0-0000-4000-8000-000000000000",
            ],
            &["--new-cluster", "--cluster"],
        ),
        row("storaged: no cluster", storaged(), &["disk", "init", "/nonexistent/d"], &["cluster"]),
        row(
            "storaged: cluster is no id",
            storaged(),
            &["disk", "init", "/nonexistent/d", "--cluster", "x"],
            &["x"],
        ),
        row(
            "storaged: capacity is no size",
            storaged(),
            &["disk", "init", "/nonexistent/d", "--new-cluster", "--capacity", "huge"],
            &["huge"],
        ),
    ])
}

#[test]
fn mount_points_that_cannot_be() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let scratch = tempfile::tempdir()?;
    let at = |name: &str| scratch.path().join(name).display().to_string();
    fs::write(at("file"), "")?;
    fs::create_dir_all(at("full/inside"))?;
    fs::create_dir_all(at("inner/disks/0/mnt"))?;
    let dir = at("demo");
    let demo = |what, point: &str, dir: &str, names| {
        row(what, ashlar(), &["demo", point, "--dir", dir, "--size", "1GiB"], names)
    };
    let mut busy = Demo::start(Setup { size: "1GiB", ..Setup::new(Mode::Embedded) })?;
    fs::write(busy.file("kept"), "kept")?;
    let busy_point = busy.path().display().to_string();
    let busy_dir = busy.directory().display().to_string();
    let inside = busy.disk(0).join("mnt").display().to_string();
    fs::create_dir(busy.outside("second"))?;
    let second = busy.outside("second").display().to_string();
    refuse(vec![
        demo("one that cannot be made", &at("file/none"), &dir, &["file/none"]),
        demo("a file", &at("file"), &dir, &["not a directory"]),
        demo("not empty", &at("full"), &dir, &["not empty"]),
        demo("a mount already", &busy_point, &dir, &["mount"]),
        demo("inside a disk", &at("inner/disks/0/mnt"), &at("inner"), &["inside", "disk"]),
        demo("the same volume a second time", &second, &busy_dir, &["mounted"]),
        row("umount of what is no mount", ashlar(), &["umount", &at("full")], &["mount"]),
        row("status of what is no mount", ashlar(), &["status", &at("full")], &["mount"]),
    ])?;
    ensure!(!is_mounted(Path::new(&second)), "the refused mount is there");
    ensure!(!Path::new(&inside).exists());
    ensure!(fs::read_to_string(busy.file("kept"))? == "kept", "the first mount was disturbed");
    busy.remount()?;
    ensure!(fs::read_to_string(busy.file("kept"))? == "kept", "the volume was disturbed");
    busy.stop(Stop::Umount)
}

#[test]
fn machines_without_what_a_mount_needs() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("NOT TESTED: only root can hide /dev/fuse from a process");
        return Ok(());
    }
    let scratch = tempfile::tempdir()?;
    let at = |name: &str| scratch.path().join(name);
    fs::create_dir(at("mnt"))?;
    let demo = format!(
        "{} demo {} --dir {} --size 1GiB",
        at("ashlar").display(),
        at("mnt").display(),
        at("demo").display()
    );
    // Another user must be able to run the program and to use the directories.
    fs::copy(ashlar(), at("ashlar"))?;
    tests::process::shell(
        scratch.path(),
        "chmod 755 . ashlar && chown -R 65534:65534 .",
        PATIENCE,
    )?;
    let hidden = format!("mount -t tmpfs none /dev && exec {demo}");
    let other =
        format!("exec setpriv --reuid 65534 --regid 65534 --clear-groups env PATH=/none {demo}");
    refuse(vec![
        row("no /dev/fuse", "unshare".into(), &["-m", "bash", "-c", &hidden], &["/dev/fuse"]),
        row("no fusermount3", "bash".into(), &["-c", &other], &["fusermount3", "/dev/fuse"]),
    ])
}

/// Runs a `storaged` command that must work.
fn admin(arguments: &[&str]) -> Result<String> {
    tests::process::run(Command::new(storaged()).args(arguments), PATIENCE)
}

/// The ids that `storaged disk init --json` prints.
fn init(directory: &Path, cluster: Option<&str>) -> Result<(String, String)> {
    let directory = directory.display().to_string();
    let mut arguments =
        vec!["disk", "init", &directory, "--capacity", "1GiB", "--block-file", "16MiB", "--json"];
    match cluster {
        Some(cluster) => arguments.extend(["--cluster", cluster]),
        None => arguments.push("--new-cluster"),
    }
    let said = admin(&arguments)?;
    let ids: serde_json::Value = serde_json::from_str(&said).with_context(|| said.clone())?;
    let id = |key: &str| {
        ids[key].as_str().map(str::to_owned).with_context(|| format!("{key} in {said}"))
    };
    Ok((id("cluster")?, id("disk")?))
}

#[test]
fn disks_that_do_not_belong() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let at = |name: &str| scratch.path().join(name);
    let text = |name: &str| at(name).display().to_string();
    let (cluster, _) = init(&at("mine"), None)?;
    init(&at("foreign"), None)?;
    init(&at("newer"), Some(&cluster))?;
    for offset in newer_version(&at("mine/superblock"))? {
        File::options().write(true).open(at("newer/superblock"))?.write_all_at(&[0xee], offset)?;
    }
    fs::create_dir_all(at("full/of files"))?;
    fs::create_dir(at("empty"))?;
    fs::write(at("file"), "")?;
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let port = taken.local_addr()?.to_string();
    let run = |what, disks: &[&str], names| {
        let mut row = row(what, storaged(), &["run", "--listen", "127.0.0.1:0"], names);
        for disk in disks {
            row.command.arg("--disk").arg(at(disk));
        }
        row
    };
    refuse(vec![
        row(
            "init of a full directory",
            storaged(),
            &["disk", "init", &text("full"), "--new-cluster"],
            &["not empty"],
        ),
        row(
            "init of a disk",
            storaged(),
            &["disk", "init", &text("mine"), "--new-cluster"],
            &["already", "not empty"],
        ),
        row(
            "init on a file",
            storaged(),
            &["disk", "init", &text("file"), "--new-cluster"],
            &["directory"],
        ),
        run("no such directory", &["none"], &["none"]),
        run("not a disk", &["empty"], &["superblock", "not a disk", "init"]),
        run("the same disk twice", &["mine", "mine"], &["twice", "same disk"]),
        run("disks of two clusters", &["mine", "foreign"], &["cluster"]),
        run("a newer format", &["newer"], &["newer", "version", "checksum", "superblock"]),
        row(
            "a port in use",
            storaged(),
            &["run", "--disk", &text("mine"), "--listen", &port],
            &["in use", "listen"],
        ),
        row(
            "info of no disk",
            storaged(),
            &["disk", "info", &text("empty")],
            &["superblock", "not a disk", "init"],
        ),
        row("verify of nothing", storaged(), &["disk", "verify", &text("none")], &["none"]),
        row(
            "status of nobody",
            storaged(),
            &["status", "--address", "127.0.0.1:1"],
            &["127.0.0.1:1"],
        ),
    ])
}

#[test]
fn a_disk_in_use_by_another_daemon_is_refused() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let (disk, log) = (scratch.path().join("disk"), scratch.path().join("log"));
    init(&disk, None)?;
    let run = || {
        let mut command = Command::new(storaged());
        command.args(["run", "--listen", "127.0.0.1:0", "--disk"]).arg(&disk);
        command
    };
    let mut daemon = tests::process::Process::start(&mut run(), &log)?;
    tests::process::wait_until("the daemon to hold its disk", PATIENCE, || {
        !daemon.runs() || is_held(&disk)
    })?;
    let mut row = row("in use", storaged(), &[], &["in use", "lock", "another"]);
    row.command = run();
    refuse(vec![row])?;
    ensure!(daemon.runs(), "the first daemon was disturbed: {}", daemon.said());
    daemon.signal(nix::sys::signal::Signal::SIGTERM)?;
    let status = daemon.wait(PATIENCE)?;
    ensure!(status.success(), "SIGTERM ended the daemon with {status}: {}", daemon.said());
    Ok(())
}

/// Whether somebody holds a lock on a file of the disk, by the kernel's table of locks.
fn is_held(disk: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let Ok(table) = fs::read_to_string("/proc/locks") else { return false };
    let Ok(entries) = fs::read_dir(disk) else { return false };
    let inodes: Vec<String> = entries
        .flatten()
        .filter_map(|entry| Some(format!(":{} ", entry.metadata().ok()?.ino())))
        .collect();
    table.lines().any(|line| inodes.iter().any(|inode| line.contains(inode.as_str())))
}

/// Places of the low byte of the format version in the copies of a superblock: right behind each of its
/// magics, which its first eight bytes are.
fn newer_version(superblock: &Path) -> Result<Vec<u64>> {
    let bytes = fs::read(superblock)?;
    let magic = bytes.get(..8).context("a superblock is longer than its magic")?;
    let starts = bytes.windows(8).enumerate().filter(|(_, window)| *window == magic);
    Ok(starts.map(|(at, _)| at as u64 + 8).collect())
}

/// A cluster file of local disks, with something changed.
fn cluster_file(path: &Path, cluster: &str, slots: &[(&str, &str)], extra: &str) -> Result<String> {
    let mut text = format!("cluster = \"{cluster}\"\ncache = \"cache\"\n{extra}\n");
    for (disk, place) in slots {
        text += &format!("[[slot]]\ndisk = \"{disk}\"\n{place}\n");
    }
    fs::write(path, text)?;
    Ok(path.display().to_string())
}

/// Six formatted disks of one cluster, `d0` to `d5` in a directory of their own.
struct Six {
    scratch: tempfile::TempDir,
    cluster: String,
    /// Id of each disk, and the line of a cluster file that says where it is.
    slots: Vec<(String, String)>,
}

impl Six {
    fn init() -> Result<Self> {
        let scratch = tempfile::tempdir()?;
        let (cluster, first) = init(&scratch.path().join("d0"), None)?;
        let mut slots = vec![(first, "path = \"d0\"".to_owned())];
        for number in 1..6 {
            let (_, disk) = init(&scratch.path().join(format!("d{number}")), Some(&cluster))?;
            slots.push((disk, format!("path = \"d{number}\"")));
        }
        Ok(Self { scratch, cluster, slots })
    }

    fn at(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn slots(&self) -> Vec<(&str, &str)> {
        self.slots.iter().map(|(disk, place)| (disk.as_str(), place.as_str())).collect()
    }

    /// A cluster file of the good disks.
    fn good(&self) -> Result<String> {
        cluster_file(&self.at("good"), &self.cluster, &self.slots(), "")
    }
}

#[test]
fn cluster_files_that_cannot_be() -> Result<()> {
    let six = Six::init()?;
    let all = six.slots();
    let twice = [all[0], all[1], all[2], all[3], all[4], (all[0].0, all[5].1)];
    let swapped = [(all[1].0, all[0].1), (all[0].0, all[1].1), all[2], all[3], all[4], all[5]];
    let same_address = [
        (all[0].0, "address = \"127.0.0.1:7411\"\ndomain = \"a\""),
        (all[1].0, "address = \"127.0.0.1:7411\"\ndomain = \"b\""),
    ];
    let homeless = [(all[0].0, "")];
    let no_port = [(all[0].0, "address = \"127.0.0.1\"")];
    let gone = [all[0], all[1], all[2], all[3], all[4], (all[5].0, "path = \"none\"")];
    let other = "5ad0c2f0-0000-4000-8000-000000000000";
    type Files<'a> =
        [(&'static str, &'a str, &'a [(&'a str, &'a str)], &'a str, &'static [&'static str]); 10];
    let files: Files<'_> = [
        ("four slots for ec(4,2)", &six.cluster, &all[..4], "", &["6 disks"]),
        ("no slots", &six.cluster, &[], "", &["no slots"]),
        ("an unknown key", &six.cluster, &all, "colour = \"red\"", &["colour"]),
        ("a disk twice", &six.cluster, &twice, "", &["same disk"]),
        ("disks swapped", &six.cluster, &swapped, "", &["disk"]),
        ("an address twice", &six.cluster, &same_address, "", &["same address"]),
        ("no place", &six.cluster, &homeless, "", &["address", "path"]),
        ("no port", &six.cluster, &no_port, "", &["HOST:PORT"]),
        ("another cluster's disks", other, &all, "", &["cluster"]),
        ("a directory that is gone", &six.cluster, &gone, "", &["none"]),
    ];
    let mut rows = Vec::new();
    for (number, (what, cluster, slots, extra, names)) in files.into_iter().enumerate() {
        let file = cluster_file(&six.at(&format!("file-{number}")), cluster, slots, extra)?;
        let format = ["format", "v", "--cluster", &file, "--scheme", "ec(4,2)"];
        rows.push(row(what, ashlar(), &format, names));
    }
    let good = six.good()?;
    let none = six.at("absent").display().to_string();
    rows.extend([
        row("no cluster file", ashlar(), &["format", "v", "--cluster", &none], &["absent"]),
        row("a volume without a name", ashlar(), &["format", "", "--cluster", &good], &["name"]),
        row("a name like a path", ashlar(), &["format", "../v", "--cluster", &good], &["name"]),
    ]);
    refuse(rows)
}

#[test]
fn volumes_that_are_not_there_or_there_already() -> Result<()> {
    let six = Six::init()?;
    let good = six.good()?;
    tests::process::run(
        Command::new(ashlar()).args(["format", "v", "--cluster", &good]),
        PATIENCE,
    )?;
    fs::create_dir(six.at("mnt"))?;
    let point = six.at("mnt").display().to_string();
    let mount = |volume: &'static str| ["mount", volume, &point, "--cluster", &good];
    let shiny = [mount("v").as_slice(), &["-o", "shiny"]].concat();
    refuse(vec![
        row("format again", ashlar(), &["format", "v", "--cluster", &good], &["already", "exists"]),
        row("mount of no volume", ashlar(), &mount("w"), &["w"]),
        row("fsck of no volume", ashlar(), &["fsck", "w", "--cluster", &good], &["w"]),
        row("an unknown option", ashlar(), &shiny, &["shiny"]),
    ])?;
    if can_mount() {
        mounted_twice_is_refused(&good, six.scratch.path())?;
    }
    Ok(())
}

fn mounted_twice_is_refused(cluster: &str, scratch: &Path) -> Result<()> {
    let (point, second) = (scratch.join("mnt"), scratch.join("second"));
    fs::create_dir(&second)?;
    let mount = |at: &Path| {
        let mut command = Command::new(ashlar());
        command.args(["mount", "v"]).arg(at).args(["--cluster", cluster]);
        command
    };
    tests::process::run(&mut mount(&point), PATIENCE).context("ashlar mount")?;
    let checked = (|| {
        ensure!(is_mounted(&point), "ashlar mount returned, and nothing is mounted");
        fs::write(point.join("kept"), content(3, 1 << 20))?;
        let first = point.display().to_string();
        let answer = output(&mut mount(&second), PATIENCE)?;
        let said = String::from_utf8_lossy(&answer.stderr);
        ensure!(!answer.status.success() && !is_mounted(&second), "a second mount was taken");
        ensure!(said.contains(&first), "the refusal does not name the first mount {first}: {said}");
        let fsck =
            output(Command::new(ashlar()).args(["fsck", "v", "--cluster", cluster]), PATIENCE)?;
        ensure!(!fsck.status.success(), "fsck of a mounted volume was taken");
        ensure!(
            fs::read(point.join("kept"))? == content(3, 1 << 20),
            "the first mount was disturbed"
        );
        Ok(())
    })();
    tests::process::run(Command::new(ashlar()).arg("umount").arg(&point), PATIENCE)?;
    ensure!(!is_mounted(&point), "still mounted after ashlar umount");
    let fsck = output(Command::new(ashlar()).args(["fsck", "v", "--cluster", cluster]), PATIENCE)?;
    ensure!(fsck.status.success(), "fsck: {}", String::from_utf8_lossy(&fsck.stderr));
    checked
}

/// Commands that print, and end well. Each is to be run more than once.
fn that_print(six: &Six) -> Result<Vec<Vec<String>>> {
    let good = six.good()?;
    let disk = six.at("d0").display().to_string();
    let mut format = Command::new(ashlar());
    tests::process::run(format.args(["format", "v", "--cluster", &good]), PATIENCE)?;
    let program = |path: PathBuf| path.display().to_string();
    let (ashlar, storaged, proxyd) = (program(ashlar()), program(storaged()), program(proxyd()));
    let lines = [
        format!("{ashlar} --help"),
        format!("{ashlar} help mount"),
        format!("{ashlar} --version"),
        format!("{ashlar} status --cluster {good}"),
        format!("{ashlar} status --json --cluster {good}"),
        format!("{ashlar} fsck v --cluster {good}"),
        format!("{ashlar} fsck v --json --cluster {good}"),
        format!("{ashlar} cluster file {disk}"),
        format!("{storaged} --help"),
        format!("{storaged} disk list {disk}"),
        format!("{storaged} disk info {disk}"),
        format!("{storaged} disk verify {disk}"),
        format!("{proxyd} --help"),
        format!("{proxyd} blob --help"),
    ];
    Ok(lines.iter().map(|line| line.split(' ').map(str::to_owned).collect()).collect())
}

fn command(words: &[String]) -> Command {
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).stdin(Stdio::null());
    command
}

/// A pipe that nobody reads.
fn closed_pipe() -> Result<Stdio> {
    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    Ok(writer.into())
}

fn full_disk() -> Result<Stdio> {
    Ok(File::options().write(true).open("/dev/full")?.into())
}

#[test]
fn output_that_nobody_reads_is_no_error_and_one_that_cannot_be_written_is() -> Result<()> {
    let six = Six::init()?;
    let mut wrong = Vec::new();
    for words in that_print(&six)? {
        let shown = words.join(" ");
        let unread = command(&words).stdout(closed_pipe()?).output()?;
        let said = String::from_utf8_lossy(&unread.stderr);
        if !unread.status.success() || !said.is_empty() {
            wrong.push(format!("{shown} | nobody: {}, {said}", unread.status));
        }
        let unsaid = command(&words).stdout(full_disk()?).output()?;
        let said = String::from_utf8_lossy(&unsaid.stderr);
        let one = said.lines().count() == 1 && said.contains("standard output");
        // One that could not say how a volume is says by its code that nobody knows.
        let expected = if words.get(1).is_some_and(|word| word == "status") { 3 } else { 1 };
        if unsaid.status.code() != Some(expected) || !one {
            wrong.push(format!("{shown} > /dev/full: {}, {said}", unsaid.status));
        }
        // What is wrong is told to nobody then, and is no less wrong.
        let missing = [&words[..1], &["--no-such-flag".to_owned()]].concat();
        for stderr in [closed_pipe()?, full_disk()?] {
            let status = command(&missing).stderr(stderr).status()?;
            if status.code() != Some(2) {
                wrong.push(format!("{} without stderr: {status}", missing.join(" ")));
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[test]
fn errors_and_logs_that_nobody_reads_end_nothing() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let none = scratch.path().join("none").display().to_string();
    for stderr in [closed_pipe()?, full_disk()?] {
        let mut fsck = Command::new(ashlar());
        let status = fsck.args(["fsck", "v", "--cluster", &none]).stderr(stderr).status()?;
        ensure!(status.code() == Some(1), "ashlar without stderr ended with {status}");
    }
    let disk = scratch.path().join("disk");
    init(&disk, None)?;
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    for stderr in [closed_pipe()?, full_disk()?] {
        let mut run = Command::new(storaged());
        run.args(["run", "--listen", &address, "--log", "debug", "--disk"]).arg(&disk);
        let mut daemon = run.stdin(Stdio::null()).stderr(stderr).spawn()?;
        let asked = tests::process::wait_until("the daemon to answer", PATIENCE, || {
            let mut status = Command::new(storaged());
            output(status.args(["status", "--address", &address]), PATIENCE)
                .is_ok_and(|answer| answer.status.success())
        });
        let pid = nix::unistd::Pid::from_raw(i32::try_from(daemon.id())?);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)?;
        let status = daemon.wait()?;
        asked?;
        ensure!(status.success(), "a daemon without stderr ended with {status}");
    }
    Ok(())
}

#[test]
fn a_demo_that_cannot_be_made_leaves_nothing_and_one_that_was_interrupted_goes_on() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let scratch = tempfile::tempdir()?;
    let at = |name: &str| scratch.path().join(name);
    let demo = |size: &str| {
        let mut command = Command::new(ashlar());
        command.arg("demo").arg(at("a/mnt")).arg("--dir").arg(at("b/demo"));
        command.args(["--background", "--size", size]);
        command
    };
    for (size, names) in [("1MiB", &["too small"]), ("100TiB", &["free"])] {
        refuse(vec![Row { what: "a size that cannot be", command: demo(size), names }])?;
        ensure!(!at("a").exists() && !at("b").exists(), "{size} has left something behind");
    }
    // Killed while it formatted: the disks are not whole.
    fs::create_dir_all(at("b/demo/formatting/disks/0"))?;
    let umount =
        || tests::process::run(Command::new(ashlar()).arg("umount").arg(at("a/mnt")), PATIENCE);
    tests::process::run(&mut demo("1GiB"), PATIENCE)?;
    ensure!(
        is_mounted(&at("a/mnt")) && !at("b/demo/formatting").exists(),
        "not mounted, or not whole"
    );
    fs::write(at("a/mnt/kept"), "kept")?;
    umount()?;
    // Killed while it put the whole in place.
    fs::create_dir(at("b/demo/formatting"))?;
    fs::rename(at("b/demo/cluster.toml"), at("b/demo/formatting/cluster.toml"))?;
    tests::process::run(&mut demo("1GiB"), PATIENCE)?;
    let kept = fs::read_to_string(at("a/mnt/kept"));
    umount()?;
    ensure!(kept? == "kept", "another volume");
    let another = |size: &str, more: &[&str]| {
        let mut command = demo(size);
        command.args(more);
        command
    };
    refuse(vec![
        Row { what: "another size", command: another("2GiB", &[]), names: &["128MiB"] },
        Row {
            what: "other disks",
            command: another("1GiB", &["--disks", "9"]),
            names: &["8 disks"],
        },
        Row {
            what: "another scheme",
            command: another("1GiB", &["--scheme", "ec(3,2)"]),
            names: &["ec(4,2)"],
        },
    ])?;
    ensure!(!is_mounted(&at("a/mnt")), "a refused demo is mounted");
    Ok(())
}
