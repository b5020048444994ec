//! Starts, kills and corrupts: a demo cluster with a real mount, in a directory of its own.
//!
//! [`Demo`] owns everything it started. Dropping it (also while a test panics) ends the mount and all
//! daemons by their pids, and takes the mount point away even if nobody serves it any more.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::binaries;
use crate::process::{self, PATIENCE, Process, bounded, wait_until};

/// One process, or one per disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `ashlar demo`: the mount opens the disks itself.
    Embedded,
    /// `ashlar demo --daemons`: a `storaged` process per disk, and a mount that talks gRPC to them.
    Daemons,
    /// As for real use: daemons that run on whatever happens to the mount, and `ashlar mount`.
    Served,
}

/// What kind of demo to start.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Embedded or with daemons.
    pub mode: Mode,
    /// Number of disks.
    pub disks: usize,
    /// Scheme, when it is not the default.
    pub scheme: Option<&'static str>,
    /// Room of all disks together, as `--size` takes it.
    pub size: &'static str,
    /// Further arguments of `ashlar mount`, in the mode that uses it.
    pub mount_arguments: Vec<String>,
    /// Further arguments of `ashlar demo`, where that is the mount.
    pub demo_arguments: Vec<String>,
}

impl Setup {
    /// Eight disks, `ec(4,2)`, room enough for any test.
    pub fn new(mode: Mode) -> Self {
        Self {
            mode,
            disks: 8,
            scheme: None,
            size: "48GiB",
            mount_arguments: Vec::new(),
            demo_arguments: Vec::new(),
        }
    }
}

/// How a mount is asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// `umount MOUNTPOINT`.
    Umount,
    /// Ctrl-C.
    Interrupt,
    /// SIGTERM.
    Terminate,
    /// `ashlar umount MOUNTPOINT`.
    AshlarUmount,
}

/// How many lines of each daemon are told when something fails, and how long is looked for how it is.
const LAST_WORDS: usize = 15;
const LOOK: Duration = Duration::from_secs(10);

/// What was found out, or why it was not.
fn told(found: Result<String>) -> String {
    found.map_or_else(|why| format!("{why:#}"), |said| said.trim_end().to_owned())
}

/// One storage daemon of a demo.
struct Daemon {
    pid: Pid,
    /// Its command line, to start it again.
    arguments: Vec<String>,
    /// Set once the test, not the demo, has started it.
    ours: Option<Process>,
}

impl Daemon {
    /// Where it listens.
    fn address(&self) -> Result<&str> {
        let listen = self.arguments.iter().position(|word| word == "--listen");
        let address = listen.and_then(|at| self.arguments.get(at + 1)).context("no --listen")?;
        Ok(address)
    }
}

/// A cluster with a mounted volume.
pub struct Demo {
    home: TempDir,
    setup: Setup,
    mount: Option<Process>,
    daemons: Vec<Daemon>,
    /// Tells the watchdog that there is progress; dropped with the demo, that it may go home.
    watched: mpsc::Sender<()>,
}

/// Longest that any test may need its demo, or one of the parts that it calls [`Demo::goes_on`] after:
/// whoever still waits then waits for ever.
const WATCHDOG: Duration = Duration::from_secs(480);

/// Whether this machine can mount at all. Says so, loudly, when it cannot.
pub fn can_mount() -> bool {
    let can = Path::new("/dev/fuse").exists();
    if !can {
        eprintln!("NOT TESTED: there is no /dev/fuse on this machine, so nothing can be mounted");
    }
    can
}

impl Demo {
    /// Formats and mounts a new volume.
    pub fn start(setup: Setup) -> Result<Self> {
        let home = tempfile::Builder::new().prefix("ashlar-test-").tempdir()?;
        fs::create_dir(home.path().join("mnt"))?;
        let watched = watch(home.path().join("mnt"));
        let mut demo = Self { home, setup, mount: None, daemons: Vec::new(), watched };
        demo.mount()?;
        Ok(demo)
    }

    /// A long test is not stuck: it may need the demo for as long again.
    pub fn goes_on(&self) {
        self.watched.send(()).expect("the watchdog has not given the mount up");
    }

    /// The mount point.
    pub fn path(&self) -> PathBuf {
        self.home.path().join("mnt")
    }

    /// Whether there is a process that serves the mount, as far as this has seen to it.
    pub fn is_mounted(&self) -> bool {
        self.mount.is_some()
    }

    /// A path in the mount.
    pub fn file(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path().join(name)
    }

    /// The directory with the disks, the metadata and the cluster file.
    pub fn directory(&self) -> PathBuf {
        self.home.path().join("demo")
    }

    /// The directory of the client's machine that its cluster file names: what makes volumes fast there.
    pub fn cache(&self) -> Result<PathBuf> {
        let file: toml::Table = toml::from_str(&fs::read_to_string(self.cluster_file())?)?;
        let named = cache_key(&file).and_then(|key| file[key].as_str());
        Ok(self.directory().join(named.context("the cluster file names no such directory")?))
    }

    /// The cluster file that the mount uses.
    pub fn cluster_file(&self) -> PathBuf {
        let embedded = self.setup.mode == Mode::Embedded;
        self.directory().join(if embedded { "cluster.toml" } else { "daemons.toml" })
    }

    /// Directories of all disks.
    pub fn disks(&self) -> impl Iterator<Item = PathBuf> {
        (0..self.setup.disks).map(|number| self.disk(number))
    }

    /// The directory of one disk.
    pub fn disk(&self, number: usize) -> PathBuf {
        self.directory().join("disks").join(number.to_string())
    }

    /// A scratch path outside the mount that is removed with the demo.
    pub fn outside(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// How this demo is set up.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// Changes embedded into daemons or back, from the next mount on.
    pub fn switch(&mut self, mode: Mode) -> Result<()> {
        assert!(self.mount.is_none(), "only between two mounts");
        self.setup.mode = mode;
        self.end_daemons()
    }

    /// Pid of the process that serves the mount.
    pub fn mount_pid(&self) -> Pid {
        self.mount.as_ref().expect("mounted").pid()
    }

    /// Pid of a daemon.
    pub fn daemon_pid(&self, number: usize) -> Pid {
        self.daemons[number].pid
    }

    /// The command that mounts this demo.
    fn command(&self) -> Command {
        if self.setup.mode == Mode::Served {
            let mut command = Command::new(binaries::ashlar());
            command.arg("mount").arg(DEMO_VOLUME).arg(self.path()).arg("--foreground");
            command.arg("--cluster").arg(self.directory().join("daemons.toml"));
            command.args(&self.setup.mount_arguments);
            return command;
        }
        let mut command = self.demo_command();
        command.args(&self.setup.demo_arguments);
        command
    }

    fn demo_command(&self) -> Command {
        let mut command = Command::new(binaries::ashlar());
        command.arg("demo").arg(self.path()).arg("--dir").arg(self.directory());
        command.arg("--disks").arg(self.setup.disks.to_string()).arg("--size").arg(self.setup.size);
        if let Some(scheme) = self.setup.scheme {
            command.args(["--scheme", scheme]);
        }
        if self.setup.mode != Mode::Embedded {
            command.arg("--daemons");
        }
        command
    }

    /// Mounts the volume, again or for the first time, and waits until it is ready.
    pub fn mount(&mut self) -> Result<()> {
        assert!(self.mount.is_none(), "not mounted yet");
        if self.setup.mode == Mode::Served {
            self.serve()?;
        }
        let word = if self.setup.mode == Mode::Served { "mounted" } else { "ready" };
        self.mount = Some(Process::start_ready(&mut self.command(), word, &self.log())?);
        ensure!(is_mounted(&self.path()), "ready, but {:?} is no mount point", self.path());
        if self.setup.mode == Mode::Daemons {
            self.daemons = (0..self.setup.disks).map(|n| self.find(n)).collect::<Result<_>>()?;
        }
        Ok(())
    }

    /// The same, also from a mount that may be alive: another machine knows nothing of what became of it.
    pub fn take_over(&mut self) -> Result<()> {
        if self.setup.mode != Mode::Served {
            // Its disks are locked as long as it is.
            return self.mount();
        }
        self.setup.mount_arguments.push("--take-over".to_owned());
        let mounted = self.mount();
        self.setup.mount_arguments.pop();
        mounted
    }

    /// The volume cannot be mounted: what is said of it.
    pub fn refused(&mut self) -> Result<String> {
        assert!(self.mount.is_none(), "not mounted yet");
        let answer = process::output(&mut self.command(), 2 * PATIENCE)?;
        ensure!(!answer.status.success(), "it was mounted");
        ensure!(answer.status.code().is_some(), "it died with {}", answer.status);
        Ok(String::from_utf8_lossy(&answer.stderr).into_owned())
    }

    /// Sees to it that every disk has a daemon that runs on its own.
    fn serve(&mut self) -> Result<()> {
        if self.daemons.is_empty() {
            // The demo formats, and writes the cluster file with the daemons' addresses.
            let mut demo = Process::start_ready(&mut self.demo_command(), "ready", &self.log())?;
            self.daemons = (0..self.setup.disks).map(|n| self.find(n)).collect::<Result<_>>()?;
            let path = self.path();
            until_unused(|| umount(&path))?;
            demo.wait(PATIENCE)?;
        }
        for number in 0..self.daemons.len() {
            if is_gone(self.daemons[number].pid) {
                self.restart_daemon(number)?;
            }
        }
        Ok(())
    }

    fn log(&self) -> PathBuf {
        self.home.path().join("mount.log")
    }

    fn find(&self, number: usize) -> Result<Daemon> {
        let file = self.directory().join("daemons").join(format!("{number}.pid"));
        let text = fs::read_to_string(&file).with_context(|| format!("reading {file:?}"))?;
        let pid = Pid::from_raw(text.trim().parse()?);
        let line = fs::read(format!("/proc/{pid}/cmdline"))?;
        let arguments = line.split(|byte| *byte == 0).filter(|word| !word.is_empty());
        let arguments = arguments.map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        Ok(Daemon { pid, arguments, ours: None })
    }

    /// Ends the mount in good order: everything flushed, the process gone with exit code 0.
    pub fn stop(&mut self, how: Stop) -> Result<()> {
        let path = self.path();
        let mount = self.mount.as_mut().expect("mounted");
        match how {
            Stop::Umount => until_unused(|| umount(&path))?,
            Stop::Interrupt => mount.signal(Signal::SIGINT)?,
            Stop::Terminate => mount.signal(Signal::SIGTERM)?,
            Stop::AshlarUmount => {
                until_unused(|| {
                    let mut command = Command::new(binaries::ashlar());
                    command.arg("umount").arg(&path);
                    command
                })?;
                ensure!(!mount.runs(), "`ashlar umount` returned before the mount had ended");
            }
        }
        self.ended(&format!("{how:?}"))
    }

    /// Sends the process that serves the mount these signals, one upon the other, which it must take for
    /// its end, as [`Demo::stop`] has it.
    pub fn signal_and_wait(&mut self, signals: &[Signal]) -> Result<()> {
        let mount = self.mount.as_mut().expect("mounted");
        for signal in signals {
            if mount.runs() {
                mount.signal(*signal)?;
            }
        }
        self.ended(&format!("{signals:?}"))
    }

    /// The mount was told to end, and has to.
    fn ended(&mut self, how: &str) -> Result<()> {
        let path = self.path();
        let mount = self.mount.as_mut().expect("mounted");
        let status = mount.wait(PATIENCE).with_context(|| format!("{how}: {}", mount.said()))?;
        ensure!(status.success(), "{how}: the mount ended with {status}:\n{}", mount.said());
        self.mount = None;
        ensure!(!is_mounted(&path), "{how}: still mounted after the process has ended");
        if self.setup.mode == Mode::Served { Ok(()) } else { self.end_daemons() }
    }

    /// Ends and mounts again: nothing of it is in any memory then but the servers'.
    pub fn remount(&mut self) -> Result<()> {
        self.stop(Stop::Umount)?;
        self.mount()
    }

    /// kill -9 of the process that serves the mount. Daemons of a demo end with it, others run on.
    pub fn kill_mount(&mut self) -> Result<()> {
        self.mount.take().expect("mounted").kill_9()?;
        detach(&self.path());
        if self.setup.mode == Mode::Served { Ok(()) } else { self.end_daemons() }
    }

    /// kill -9 of the mount and of every daemon, all at once.
    pub fn kill_everything(&mut self) -> Result<()> {
        let pids = self.daemons.iter().map(|daemon| daemon.pid);
        for pid in pids.chain([self.mount_pid()]) {
            kill(pid, Signal::SIGKILL)?;
        }
        // One that is still ending would be taken for one that runs.
        for (number, daemon) in self.daemons.iter().enumerate() {
            wait_until(&format!("daemon {number} to be gone"), PATIENCE, || is_gone(daemon.pid))?;
        }
        self.kill_mount()
    }

    /// kill -9 of one daemon.
    pub fn kill_daemon(&mut self, number: usize) -> Result<()> {
        let daemon = &mut self.daemons[number];
        kill(daemon.pid, Signal::SIGKILL)?;
        wait_until(&format!("daemon {number} to be gone"), PATIENCE, || is_gone(daemon.pid))
    }

    /// Where a daemon listens.
    pub fn address(&self, number: usize) -> Result<&str> {
        self.daemons[number].address()
    }

    /// Starts a killed daemon again with its old command line, and waits until it answers.
    pub fn restart_daemon(&mut self, number: usize) -> Result<()> {
        let log = self.outside(&format!("daemon-{number}.log"));
        let daemon = &mut self.daemons[number];
        ensure!(is_gone(daemon.pid), "daemon {number} still runs");
        let mut command = Command::new(binaries::ashlar());
        let program = Path::new(&daemon.arguments[0]).file_name().unwrap_or_default();
        if program == "storaged" {
            command = Command::new(binaries::storaged());
        }
        let mut process = Process::start(command.args(&daemon.arguments[1..]), &log)?;
        daemon.pid = process.pid();
        let address = daemon.address()?;
        wait_until(&format!("daemon {number} at {address}"), PATIENCE, || {
            !process.runs() || TcpStream::connect(address).is_ok()
        })?;
        ensure!(process.runs(), "daemon {number} ended at once:\n{}", process.said());
        daemon.ours = Some(process);
        Ok(())
    }

    /// Ends what daemons are left, those of a demo that was killed too.
    fn end_daemons(&mut self) -> Result<()> {
        for (number, daemon) in self.daemons.drain(..).enumerate() {
            if daemon.ours.is_none() && !is_gone(daemon.pid) {
                kill(daemon.pid, Signal::SIGKILL)?;
                wait_until(&format!("the end of daemon {number}"), PATIENCE, || {
                    is_gone(daemon.pid)
                })?;
            }
        }
        Ok(())
    }

    /// Writes back and drops every clean page the kernel holds, so that the next read asks the mount.
    /// Without the right to do so (not root) it says so and goes on.
    pub fn drop_caches(&self) -> Result<()> {
        let path = self.path();
        bounded("syncfs", PATIENCE, move || {
            nix::unistd::syncfs(fs::File::open(path)?).map_err(anyhow::Error::from)
        })??;
        if let Err(error) = fs::write("/proc/sys/vm/drop_caches", "3") {
            eprintln!("the page cache stays as it is: {error}");
        }
        Ok(())
    }

    /// The last lines of what the mount has printed and logged.
    pub fn said(&self) -> String {
        self.mount.as_ref().map_or_else(|| "nothing: it is not mounted".to_owned(), Process::said)
    }

    /// The last lines of what a daemon has logged.
    pub fn said_by_daemon(&self, number: usize) -> String {
        match self.daemons.get(number).and_then(|daemon| daemon.ours.as_ref()) {
            Some(ours) => ours.said(),
            None => {
                let log = self.directory().join("daemons").join(format!("{number}.log"));
                let text = fs::read(log).unwrap_or_default();
                process::last_lines(&String::from_utf8_lossy(&text), 40)
            }
        }
    }

    /// What there is to be known when something fails: how each daemon and its disk are, and the last of what everybody
    /// has logged.
    pub fn said_by_all(&self) -> String {
        let daemons = (0..self.daemons.len()).map(|number| {
            let (status, room) = (told(self.status_of(number)), told(self.room_of(number)));
            let said = process::last_lines(&self.said_by_daemon(number), LAST_WORDS);
            format!("daemon {number}: {status}\n{room}\n{said}\n")
        });
        format!("{}the mount:\n{}", daemons.collect::<String>(), self.said())
    }

    /// What a daemon says of its disk.
    fn status_of(&self, number: usize) -> Result<String> {
        let mut status = Command::new(binaries::storaged());
        status.args(["status", "--json", "--address", self.address(number)?]);
        Ok(process::answer(&mut status, LOOK)?.1)
    }

    /// What a disk's block files take, of which the garbage is all that the daemon does not call used, and what its
    /// filesystem has.
    fn room_of(&self, number: usize) -> Result<String> {
        let line = "echo bytes of files, bytes of the filesystem, free: \
            $(du -sB1 blocks | cut -f1) $(df -B1 --output=size,avail . | tail -n 1)";
        process::shell(&self.disk(number), line, LOOK)
    }

    /// Bytes that a user can still write, as `df` shows them.
    pub fn available(&self) -> Result<u64> {
        let stat = nix::sys::statvfs::statvfs(&self.path())?;
        Ok(stat.blocks_available() * stat.fragment_size())
    }

    /// Lets `ashlar fsck` check the unmounted volume, whose daemons have ended. Fails with all it
    /// says when it finds anything: a lost blob, a wrong count, or a blob that nobody needs.
    pub fn fsck(&self) -> Result<()> {
        self.fsck_by(&[])
    }

    /// The same, and has every byte read and verified.
    pub fn fsck_data(&self) -> Result<()> {
        self.fsck_by(&["--data"])
    }

    fn fsck_by(&self, words: &[&str]) -> Result<()> {
        assert!(self.mount.is_none(), "fsck wants the volume for itself");
        let cluster = self.directory().join("cluster.toml");
        let mut command = Command::new(binaries::ashlar());
        command.arg("fsck").arg(DEMO_VOLUME).arg("--json").arg("--cluster").arg(cluster);
        let answer = process::output(command.args(words), 4 * PATIENCE)?;
        let said = String::from_utf8_lossy(&answer.stdout);
        let all = format!("{said}{}", String::from_utf8_lossy(&answer.stderr));
        ensure!(answer.status.success(), "fsck: {all}");
        let found: serde_json::Value = serde_json::from_str(&said).with_context(|| all.clone())?;
        for finding in ["problem_count", "leaked", "to_sweep"] {
            ensure!(found[finding] == 0, "fsck found {finding}: {all}");
        }
        Ok(())
    }

    /// The virtual attribute with the mount's status, as JSON.
    pub fn status(&self) -> Result<serde_json::Value> {
        let mut command = Command::new(binaries::ashlar());
        let command = command.arg("status").arg(self.path()).arg("--json");
        let (_, text) = process::answer(command, PATIENCE)?;
        serde_json::from_str(&text).with_context(|| format!("reading {text:?}"))
    }

    /// What `ashlar heal status` says, and its exit code.
    pub fn heal(&self) -> Result<(i32, serde_json::Value)> {
        let mut command = Command::new(binaries::ashlar());
        let command = command.args(["heal", "status", "--json"]).arg(self.path());
        let (code, text) = process::answer(command, PATIENCE)?;
        Ok((code, serde_json::from_str(&text).with_context(|| format!("reading {text:?}"))?))
    }

    /// Waits until repair says of itself what is waited for; what it says then.
    pub fn until_heal(
        &self,
        what: &str,
        bound: Duration,
        done: impl Fn(&serde_json::Value) -> bool,
    ) -> Result<serde_json::Value> {
        let mut last = serde_json::Value::Null;
        let waited = wait_until(&format!("repair to say: {what}"), bound, || {
            self.heal().is_ok_and(|(_, report)| {
                last = report;
                done(&last)
            })
        });
        waited.with_context(|| last.to_string())?;
        Ok(last)
    }

    /// Waits until every blob is as safe as it can be, with all disks up and nothing left to mend.
    pub fn until_healthy(&self, bound: Duration) -> Result<()> {
        let healthy = |report: &serde_json::Value| {
            report["health"] == "healthy" && report["queue"] == 0 && report["counting"] == false
        };
        self.until_heal("healthy", bound, healthy).map(drop)
    }

    /// What `ashlar status` says of each disk.
    pub fn states(&self) -> Result<Vec<String>> {
        states(&self.path(), PATIENCE)
    }

    /// Waits until the mount counts all of its disks as up.
    pub fn all_up(&self, bound: Duration) -> Result<()> {
        self.up(self.setup.disks, bound)
    }

    /// Waits until it counts so many of them as up, and no others.
    pub fn up(&self, count: usize, bound: Duration) -> Result<()> {
        wait_until(&format!("the mount to use {count} disks"), bound, || {
            self.states().is_ok_and(|states| {
                let up = states.iter().filter(|state| *state == "up").count();
                states.len() == self.setup.disks && up == count
            })
        })
    }

    /// Peak resident memory in bytes of the mount (`None`) and of each daemon that runs, by its number.
    pub fn peak_memory(&self) -> Result<BTreeMap<Option<usize>, u64>> {
        let daemons = self.daemons.iter().enumerate().map(|(n, daemon)| (Some(n), daemon.pid));
        let all = daemons.filter(|(_, pid)| !is_gone(*pid)).chain([(None, self.mount_pid())]);
        all.map(|(who, pid)| Ok((who, peak_memory(pid)?))).collect()
    }

    /// The files with parts on a disk, in the order of their names.
    pub fn block_files(&self, disk: usize) -> Result<Vec<PathBuf>> {
        let directory = self.disk(disk).join("blocks");
        let entries = fs::read_dir(&directory).with_context(|| format!("listing {directory:?}"))?;
        let mut files = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
        files.sort();
        Ok(files)
    }
}

/// What `ashlar status` says of each disk of a mount, `bound` at most.
pub(crate) fn states(mounted: &Path, bound: Duration) -> Result<Vec<String>> {
    let mut command = Command::new(binaries::ashlar());
    let (_, text) = process::answer(command.arg("status").arg(mounted).arg("--json"), bound)?;
    let status: serde_json::Value = serde_json::from_str(&text)?;
    let disks = status["disks"].as_array().context("no disks")?;
    Ok(disks.iter().filter_map(|disk| disk["state"].as_str().map(str::to_owned)).collect())
}

/// Name of the volume that `ashlar demo` makes.
pub const DEMO_VOLUME: &str = "demo";

/// The key of a cluster file that names the directory of a client's machine.
pub(crate) fn cache_key(file: &toml::Table) -> Option<&'static str> {
    ["cache", "meta"].into_iter().find(|key| file.contains_key(*key))
}

impl Drop for Demo {
    fn drop(&mut self) {
        let path = self.path();
        if std::thread::panicking()
            && let Some(mount) = &self.mount
        {
            eprintln!("the mount's last words:\n{}", mount.said());
        }
        if let Some(mut mount) = self.mount.take() {
            // A mount that does not end by itself soon is cut off from the kernel and killed.
            let asked = mount.signal(Signal::SIGTERM).is_ok();
            if !asked || mount.wait(Duration::from_secs(20)).is_err() {
                eprintln!("the mount at {path:?} does not end: aborting it");
                abort(&path);
            }
        }
        detach(&path);
        if let Err(error) = self.end_daemons() {
            eprintln!("{error:#}");
        }
    }
}

/// The command that unmounts: root's, or the one that FUSE gives to everybody.
pub fn umount(path: &Path) -> Command {
    let mut command = Command::new("umount");
    if !nix::unistd::geteuid().is_root() {
        command = Command::new("fusermount3");
        command.arg("-u");
    }
    command.arg(path);
    command
}

/// Runs a command that unmounts what the test does not use any more. Whoever looks at all mounts of the
/// machine, as df does, is in this one too for a moment.
pub fn until_unused(command: impl Fn() -> Command) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        let answer = process::output(&mut command(), PATIENCE)?;
        if answer.status.success() {
            return Ok(());
        }
        let why = String::from_utf8_lossy(&answer.stderr);
        ensure!(why.contains("busy") && Instant::now() < end, "{:?}: {why}", command());
    }
}

/// Takes a mount away that nobody serves any more.
pub fn detach(path: &Path) {
    for _ in 0..4 {
        if !is_mounted(path) {
            return;
        }
        let flag = if nix::unistd::geteuid().is_root() { "-l" } else { "-z" };
        if let Err(error) = process::output(umount(path).arg(flag), PATIENCE) {
            eprintln!("{error:#}");
        }
    }
}

/// Tells the kernel that nobody will answer any more, so that whoever waits gets an error.
pub(crate) fn abort(path: &Path) {
    if let Some(device) = device(path) {
        let minor = device.rsplit(':').next().unwrap_or_default().to_owned();
        let control = Path::new("/sys/fs/fuse/connections");
        if fs::read_dir(control).map_or(0, Iterator::count) == 0 {
            let mut mount = Command::new("mount");
            let mount = process::run(mount.args(["-t", "fusectl", "none"]).arg(control), PATIENCE);
            eprintln!("FUSE's control files: {mount:?}");
        }
        if let Err(error) = fs::write(control.join(minor.clone() + "/abort"), "1") {
            eprintln!("aborting FUSE connection {minor}: {error}");
        }
    }
}

/// Aborts what is mounted at `path` when the sender lives and has said nothing for [`WATCHDOG`]: a
/// hanging system call of a test becomes an error of that test.
pub(crate) fn watch(path: PathBuf) -> mpsc::Sender<()> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut told = Ok(());
        while told.is_ok() {
            told = receiver.recv_timeout(WATCHDOG);
        }
        if told == Err(mpsc::RecvTimeoutError::Timeout) {
            eprintln!("the mount at {path:?} is still in use after {WATCHDOG:?}: aborting it");
            abort(&path);
        }
    });
    sender
}

/// Whether something is mounted exactly there. Does not touch the mount.
pub fn is_mounted(path: &Path) -> bool {
    device(path).is_some()
}

/// `MAJOR:MINOR` of what is mounted there, from the kernel's table and not from the mount.
fn device(path: &Path) -> Option<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").ok()?;
    table.lines().rev().find_map(|line| {
        let mut words = line.split(' ').skip(2);
        let device = words.next()?;
        (Path::new(words.nth(1)?) == path).then(|| device.to_owned())
    })
}

/// Whether a process has ended; one that only waits for its parent to notice has.
pub(crate) fn has_ended(pid: Pid) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')),
        Err(_) => true,
    }
}

/// Whether it has, and has let go of everything: as long as one of its threads is in a call of the kernel that cannot be
/// interrupted, its files and ports are still its own.
pub(crate) fn is_gone(pid: Pid) -> bool {
    has_ended(pid) && fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count) <= 1
}

fn peak_memory(pid: Pid) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    match line.and_then(|line| line.split_whitespace().next()) {
        Some(kib) => Ok(kib.parse::<u64>()? << 10),
        None => bail!("process {pid} has no VmHWM"),
    }
}

/// Bytes that a file takes on its disk.
pub fn allocated(path: &Path) -> Result<u64> {
    Ok(fs::metadata(path)?.blocks() * 512)
}
