//! The daemons of a demo: one `storaged` process per disk, on fixed loopback ports.
//!
//! The `ashlar` binary carries the daemon's command line as a hidden command, so that a demo needs
//! no other program. Daemons are process groups of their own, or a Ctrl-C at the terminal would end
//! them before the mount has stored everything; if the demo is killed, the kernel ends them.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getppid};
use proto::client::Daemon;
use proto::cluster::{Cluster, Slot};
use proto::id::DiskId;
use proto::log_file;
use proto::program::{complain, say};

use super::care::ScrubDays;

/// Set for a daemon that shall not outlive the process with this pid.
const PARENT: &str = "ASHLAR_DEMO_PID";
/// Set for a daemon whose stderr is this file, which must not grow for ever.
const LOG: &str = "ASHLAR_DEMO_LOG";
/// How long a daemon may take to open its disk, or to let go of it.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often to look whether it has.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Runs the `storaged` command line in this process.
pub(super) fn run_storaged(args: Vec<OsString>) -> ExitCode {
    let parent = std::env::var(PARENT).ok().and_then(|pid| pid.parse().ok());
    if let Some(parent) = parent {
        // A parent that ended in between cannot tell any more.
        if set_pdeathsig(Signal::SIGTERM).is_err() || getppid() != Pid::from_raw(parent) {
            return ExitCode::FAILURE;
        }
    }
    if let Some(log) = std::env::var_os(LOG)
        && let Err(e) = log_file::keep(Path::new(&log))
    {
        complain("storaged", format!("{}: {e}", Path::new(&log).display()));
    }
    storaged::cli::main_with([OsString::from("ashlar storaged")].into_iter().chain(args))
}

/// Daemons that this process has started. They end with it.
pub(super) struct Daemons {
    running: Vec<(usize, Child)>,
    dir: PathBuf,
    scrub_days: Option<ScrubDays>,
}

impl Daemons {
    /// Starts one daemon per slot and waits until all serve their disks. Must be called on the main
    /// thread: the kernel ends the daemons with the thread that started them.
    pub(super) async fn start(
        dir: &Path,
        cluster: &Cluster,
        disks: &[PathBuf],
        scrub_days: Option<ScrubDays>,
    ) -> Result<Self> {
        let dir = dir.join("daemons");
        std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        let mut daemons = Self { running: Vec::new(), dir, scrub_days };
        for (index, (slot, disk)) in cluster.slots.iter().zip(disks).enumerate() {
            let child = daemons.spawn(index, slot, disk)?;
            daemons.running.push((index, child));
        }
        let deadline = Instant::now() + PATIENCE;
        let mut out = Vec::new();
        for (index, (slot, disk)) in cluster.slots.iter().zip(disks).enumerate() {
            if let Err(why) = daemons.wait_for(index, slot, disk, deadline).await {
                out.push(format!("the daemon of {} does not start: {why:#}", disk.display()));
                let ended = matches!(daemons.running[index].1.try_wait(), Ok(Some(_)));
                if ended {
                    let _ = std::fs::remove_file(daemons.pid_file(index));
                }
            }
        }
        if out.len() == disks.len() {
            bail!("{}", out.swap_remove(0));
        }
        out.iter().try_for_each(|why| say(why).map(drop))?;
        Ok(daemons)
    }

    fn log(&self, index: usize) -> PathBuf {
        self.dir.join(format!("{index}.log"))
    }

    fn pid_file(&self, index: usize) -> PathBuf {
        self.dir.join(format!("{index}.pid"))
    }

    fn spawn(&self, index: usize, slot: &Slot, disk: &Path) -> Result<Child> {
        let path = self.log(index);
        // What the last one said is of no use, and would be taken for this one's words.
        let _ = std::fs::remove_file(&path);
        let log = log_file::open(&path).with_context(|| path.display().to_string())?;
        let child = Command::new(std::env::current_exe().context("finding this program")?)
            .args(["storaged", "run", "--disk"])
            .arg(disk)
            .args(["--listen", slot.address.as_deref().expect("served slots have addresses")])
            .args(self.scrub_days.map(|days| format!("--scrub-days={days}")))
            .env(PARENT, std::process::id().to_string())
            .env(LOG, &path)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("daemon's log")?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting the daemon of {}", disk.display()))?;
        let pid = self.pid_file(index);
        let write = || writeln!(File::create(&pid)?, "{}", child.id());
        write().with_context(|| pid.display().to_string())?;
        Ok(child)
    }

    /// Waits until the daemon serves its disk. One that finds the disk or its port in use is started
    /// again for a while: the last demo's daemon may be on its way out. It may also have gone between that
    /// and our own look, so that one that ended is started once more in any case.
    async fn wait_for(
        &mut self,
        index: usize,
        slot: &Slot,
        disk: &Path,
        deadline: Instant,
    ) -> Result<()> {
        let address = slot.address.as_deref().expect("served slots have addresses");
        let mut ended_for_nothing = false;
        loop {
            let ended = self.running[index].1.try_wait().context("waiting for a daemon")?;
            if ended.is_none() {
                let status = Daemon::new(address)?.status().await;
                let disks = status.map(|status| status.disks).unwrap_or_default();
                let found = disks.first().and_then(|found| DiskId::from_slice(&found.disk));
                match found {
                    Some(found) if found == slot.disk => return Ok(()),
                    Some(found) => bail!("it has disk {found}, and {} belongs there", slot.disk),
                    None => {}
                }
            }
            let taken =
                storaged::superblock::is_in_use(disk) || TcpListener::bind(address).is_err();
            if Instant::now() >= deadline || ended.is_some() && !taken && ended_for_nothing {
                let text = std::fs::read_to_string(self.log(index)).unwrap_or_default();
                let last = text.lines().last().unwrap_or("no word from it");
                bail!("{}", last.trim_start_matches("storaged: "));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
            if ended.is_some() {
                ended_for_nothing = !taken;
                tokio::time::sleep(5 * LOOK_AGAIN).await;
                self.running[index].1 = self.spawn(index, slot, disk)?;
            }
        }
    }
}

impl Drop for Daemons {
    fn drop(&mut self) {
        for (_, child) in &mut self.running {
            // Of one that has ended the number may be another's by now.
            if matches!(child.try_wait(), Ok(None)) {
                let _ = kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM);
            }
        }
        let deadline = Instant::now() + PATIENCE;
        let pids: Vec<_> = self.running.iter().map(|(index, _)| self.pid_file(*index)).collect();
        for ((index, child), pid) in self.running.iter_mut().zip(pids) {
            while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(LOOK_AGAIN);
            }
            if matches!(child.try_wait(), Ok(None)) {
                let what = format!("the daemon of disk {index} does not end: killing it");
                complain("ashlar", what);
                let _ = child.kill();
                let _ = child.wait();
            }
            let _ = std::fs::remove_file(pid);
        }
    }
}

/// A loopback port for each of `count` daemons that nobody uses now.
pub(super) fn free_ports(count: usize) -> Result<Vec<u16>> {
    // All bound at once, so that no port comes twice.
    let bind = |_| TcpListener::bind(("127.0.0.1", 0));
    let listeners: Vec<TcpListener> =
        (0..count).map(bind).collect::<Result<_, _>>().context("finding free ports")?;
    let port = |l: &TcpListener| l.local_addr().map(|address| address.port());
    listeners.iter().map(port).collect::<Result<_, _>>().context("finding free ports")
}
