//! A volume that is mounted by mount(8), through the helpers that `ashlar install-helper` puts into
//! /sbin. They are installed for one test at a time, and taken away behind it, unless they were there
//! before. Only root can.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, mpsc};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::binaries::{ashlar, storaged};
use crate::cluster::{abort, can_mount, detach, is_mounted, umount, until_unused, watch};
use crate::process::{PATIENCE, Process, answer, output, run, wait_until};

/// What a umount by force may take.
pub const FORCED: Duration = Duration::from_secs(30);
/// The volume of every test.
pub const VOLUME: &str = "photos";
/// The cluster's file, beside the disks.
pub const CLUSTER: &str = "cluster.toml";
const HELPERS: [&str; 2] = ["/sbin/mount.fuse.ashlar", "/sbin/umount.fuse.ashlar"];

/// The helpers in /sbin, as long as this lives; one test at a time.
struct Helpers {
    before: Vec<(PathBuf, Option<PathBuf>)>,
    _alone: MutexGuard<'static, ()>,
}

impl Helpers {
    fn install() -> Result<Self> {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let before =
            HELPERS.map(|helper| (PathBuf::from(helper), fs::read_link(helper).ok())).into();
        run(Command::new(ashlar()).arg("install-helper"), PATIENCE)?;
        Ok(Self { before, _alone: alone })
    }
}

impl Drop for Helpers {
    fn drop(&mut self) {
        let mut uninstall = Command::new(ashlar());
        if let Err(e) = run(uninstall.args(["install-helper", "--uninstall"]), PATIENCE) {
            eprintln!("{e:#}");
        }
        for (helper, target) in &self.before {
            if let Some(Err(e)) = target.as_ref().map(|target| symlink(target, helper)) {
                eprintln!("{}: {e}", helper.display());
            }
        }
    }
}

/// Makes six disks in `home`, a cluster's file of them, and the volume. `run_by` says how a program of
/// ours is run, `place` where a disk is to be found: a line of that file.
pub fn format(
    home: &Path,
    run_by: impl Fn(&Path) -> Command,
    mut place: impl FnMut(usize, &Path) -> Result<String>,
) -> Result<()> {
    let mut file = String::new();
    let mut cluster = "--new-cluster".to_owned();
    for number in 0..6 {
        let disk = home.join(format!("disk{number}"));
        let mut init = run_by(&storaged());
        init.args(["disk", "init"]).arg(&disk).args(cluster.split(' '));
        init.args(["--capacity", "1GiB", "--block-file", "16MiB", "--json"]);
        let ids: serde_json::Value = serde_json::from_str(&run(&mut init, PATIENCE)?)?;
        let id = |key: &str| ids[key].as_str().map(str::to_owned).context("an id");
        if number == 0 {
            file = format!("cluster = \"{}\"\ncache = \"cache\"\n", id("cluster")?);
            cluster = format!("--cluster {}", id("cluster")?);
        }
        file += &format!("[[slot]]\ndisk = \"{}\"\n{}\n", id("disk")?, place(number, &disk)?);
    }
    fs::write(home.join(CLUSTER), file)?;
    let mut format = run_by(&ashlar());
    format.args(["format", VOLUME, "--cluster"]).arg(home.join(CLUSTER));
    run(&mut format, PATIENCE).map(drop)
}

/// The place of a disk that the mount opens itself: beside the file.
pub fn embedded(number: usize) -> String {
    format!("path = \"disk{number}\"")
}

/// The process that serves a mount, by what `ashlar status --json` has said.
pub fn pid_in(status: &str) -> Result<Pid> {
    let status: serde_json::Value = serde_json::from_str(status)?;
    Ok(Pid::from_raw(i32::try_from(status["mount"]["pid"].as_i64().context("pid")?)?))
}

/// Six disks, a volume on them, a mount point, and the helpers. All is taken away when it is dropped.
pub struct Site {
    /// Where all of it is.
    pub home: tempfile::TempDir,
    /// One per disk, if there are any.
    daemons: Vec<Process>,
    /// Alive as long as a call that hangs has to become an error.
    _watched: mpsc::Sender<()>,
    _helpers: Helpers,
}

impl Site {
    /// Disks that the mount opens itself. `None`, said loudly: not as this user, or not here.
    pub fn embedded() -> Result<Option<Self>> {
        Self::new(false)
    }

    /// Disks behind daemons.
    pub fn served() -> Result<Option<Self>> {
        Self::new(true)
    }

    fn new(served: bool) -> Result<Option<Self>> {
        if !can_mount() {
            return Ok(None);
        }
        if !nix::unistd::geteuid().is_root() {
            eprintln!("NOT TESTED: only root mounts by mount(8), and this is not root");
            return Ok(None);
        }
        let home = tempfile::Builder::new().prefix("ashlar-mounting-").tempdir()?;
        fs::create_dir(home.path().join("mnt"))?;
        let helpers = Helpers::install()?;
        let watched = watch(home.path().join("mnt"));
        let mut site = Self { home, daemons: Vec::new(), _watched: watched, _helpers: helpers };
        site.format(served)?;
        Ok(Some(site))
    }

    fn format(&mut self, served: bool) -> Result<()> {
        let home = self.home.path().to_owned();
        format(
            &home,
            |program| Command::new(program),
            |number, disk| match served {
                true => Ok(format!("address = \"{}\"", self.serve(number, disk)?)),
                false => Ok(embedded(number)),
            },
        )
    }

    /// The file of another cluster, which has a volume of the same name.
    pub fn another_cluster(&self) -> Result<String> {
        let home = self.outside("other");
        fs::create_dir(&home)?;
        format(&home, |program| Command::new(program), |number, _| Ok(embedded(number)))?;
        Ok(home.join(CLUSTER).display().to_string())
    }

    fn serve(&mut self, number: usize, disk: &Path) -> Result<String> {
        let free = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let mut command = Command::new(storaged());
        command.args(["run", "--listen", &free, "--disk"]).arg(disk);
        let log = self.outside(&format!("daemon{number}.log"));
        let mut daemon = Process::start(&mut command, &log)?;
        wait_until("a daemon to listen", PATIENCE, || {
            !daemon.runs() || std::net::TcpStream::connect(&free).is_ok()
        })?;
        ensure!(daemon.runs(), "the daemon has ended: {}", daemon.said());
        self.daemons.push(daemon);
        Ok(free)
    }

    /// A path beside the mount point.
    pub fn outside(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// A path in what this machine keeps of the cluster.
    pub fn own(&self, name: &str) -> PathBuf {
        only_in(&self.outside("cache")).unwrap_or_default().join(name)
    }

    /// The cluster's file.
    pub fn cluster(&self) -> PathBuf {
        self.outside(CLUSTER)
    }

    /// The mount point.
    pub fn point(&self) -> PathBuf {
        self.outside("mnt")
    }

    /// A path in the mount.
    pub fn file(&self, name: &str) -> PathBuf {
        self.point().join(name)
    }

    /// `mount -t fuse.ashlar` with these options after the one that names the cluster.
    pub fn mount_command(&self, options: &str) -> Command {
        self.mount_at(&self.point(), options)
    }

    /// The same at another place.
    pub fn mount_at(&self, at: &Path, options: &str) -> Command {
        let mut command = Command::new("mount");
        let options = format!("cluster={},{options}", self.cluster().display());
        command.args(["-t", "fuse.ashlar", VOLUME]).arg(at).args(["-o", &options]);
        command
    }

    /// Mounts.
    pub fn mount(&self, options: &str) -> Result<()> {
        run(&mut self.mount_command(options), PATIENCE)?;
        ensure!(is_mounted(&self.point()), "mount returned, and nothing is mounted");
        Ok(())
    }

    /// `mount -o remount` with these options.
    pub fn remount(&self, options: &str) -> Result<()> {
        let options = format!("remount,{options}");
        run(Command::new("mount").args(["-o", &options]).arg(self.point()), PATIENCE).map(drop)
    }

    /// Unmounts by umount(8).
    pub fn umount(&self) -> Result<()> {
        until_unused(|| umount(&self.point()))?;
        ensure!(!is_mounted(&self.point()), "umount returned, and it is still mounted");
        Ok(())
    }

    /// The options that /proc/mounts shows.
    pub fn shown(&self) -> Result<Vec<String>> {
        let table = fs::read_to_string("/proc/mounts")?;
        let point = self.point().display().to_string();
        let line = table.lines().rfind(|line| line.split(' ').nth(1) == Some(&point));
        let words: Vec<&str> = line.context("it is not in /proc/mounts")?.split(' ').collect();
        ensure!(words[0] == VOLUME && words[2] == "fuse.ashlar", "{words:?}");
        Ok(words[3].split(',').map(str::to_owned).collect())
    }

    /// The process that serves the mount.
    pub fn pid(&self) -> Result<Pid> {
        let mut status = Command::new(ashlar());
        let (_, said) = answer(status.arg("status").arg(self.point()).arg("--json"), PATIENCE)?;
        pid_in(&said)
    }

    /// kill -9 of the process that serves it; the dead mount is taken away.
    pub fn kill_mount(&self) -> Result<()> {
        kill(self.pid()?, Signal::SIGKILL)?;
        run(Command::new("umount").arg("-l").arg(self.point()), PATIENCE).map(drop)
    }

    /// kill -9 of so many.
    pub fn kill_daemons(&mut self, count: usize) -> Result<()> {
        self.daemons.iter_mut().take(count).try_for_each(Process::kill_9)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // Each of the places that a test may have mounted one over the other.
        for _ in 0..4 {
            if !is_mounted(&self.point()) {
                return;
            }
            if std::thread::panicking()
                && let Ok(log) = fs::read_to_string(self.own("photos.messages"))
            {
                eprintln!("the mount's log:\n{log}");
            }
            let mut umount = Command::new("umount");
            if let Err(e) = output(umount.args(["-f", "-l"]).arg(self.point()), FORCED) {
                eprintln!("{e:#}");
            }
        }
        // What is below it cannot be taken away, and looking at it may never end.
        eprintln!("{} cannot be unmounted", self.point().display());
        abort(&self.point());
        detach(&self.point());
    }
}

/// The only entry of a directory.
pub fn only_in(dir: &Path) -> Option<PathBuf> {
    let mut entries = fs::read_dir(dir).ok()?;
    let first = entries.next()?.ok()?.path();
    entries.next().is_none().then_some(first)
}

/// What a command has said on stderr that must have failed.
pub fn refused(command: &mut Command, bound: Duration) -> Result<String> {
    let Output { status, stderr, .. } = output(command, bound)?;
    let said = String::from_utf8_lossy(&stderr).into_owned();
    ensure!(!status.success(), "{command:?} was taken, saying {said:?}");
    Ok(said)
}

/// Whether a process has ended; one that only waits for its parent to notice has.
pub fn is_gone(pid: Pid) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| {
        stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
    })
}

/// Whether it was refused as there are no writes.
pub fn is_read_only(result: std::io::Result<()>) -> bool {
    result.is_err_and(|e| e.kind() == ErrorKind::ReadOnlyFilesystem)
}
