//! A disk that hangs: a directory on a FUSE mount whose process can be stopped.
//!
//! Eight disks, the first of which lies there; served by the mount itself, or by two daemons that have
//! several disks each.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::binaries;
use crate::cluster::{abort, detach, has_ended, is_mounted, states, umount, until_unused};
use crate::process::{self, PATIENCE, Process, wait_until};

/// Disks of each of the two daemons; the first of the first is the one that hangs.
const DAEMONS: [std::ops::Range<usize>; 2] = [0..3, 3..8];
/// The volume.
const VOLUME: &str = "vol";

/// A volume on eight disks, one of which can be made to hang.
pub struct Rig {
    // In this order: whoever uses the disk ends before the disk does.
    mount: Option<Process>,
    daemons: Vec<Process>,
    /// What has ended but for a thread that waits for the disk.
    ended: Vec<Process>,
    below: Process,
    with_daemons: bool,
    ports: Vec<u16>,
    home: TempDir,
}

impl Rig {
    /// Everything up to a mounted volume.
    pub fn start(with_daemons: bool) -> Result<Self> {
        let home = tempfile::Builder::new().prefix("ashlar-hang-").tempdir()?;
        let at = |name: &str| home.path().join(name);
        for name in ["below", "mnt", "cache"] {
            fs::create_dir(at(name))?;
        }
        let mut demo = Command::new(binaries::ashlar());
        demo.arg("demo").arg(at("below")).arg("--dir").arg(at("below.demo"));
        demo.args(["--disks", "3", "--scheme", "copies(2)", "--size", "6GiB"]);
        let below = Process::start_ready(&mut demo, "ready", &at("below.log"))?;
        let ports = DAEMONS.iter().map(|_| free_port()).collect::<Result<_>>()?;
        let mut rig = Self {
            mount: None,
            daemons: Vec::new(),
            ended: Vec::new(),
            below,
            with_daemons,
            ports,
            home,
        };
        rig.make_disks()?;
        rig.serve()?;
        let mut format = Command::new(binaries::ashlar());
        format.args(["format", VOLUME, "--scheme", "ec(4,2)", "--cluster"]);
        process::run(format.arg(rig.at("cluster.toml")), PATIENCE)?;
        rig.mount()?;
        Ok(rig)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// The mount point.
    pub fn path(&self) -> PathBuf {
        self.at("mnt")
    }

    fn disk(&self, number: usize) -> PathBuf {
        if number == 0 { self.at("below").join("disk") } else { self.at(&format!("disk-{number}")) }
    }

    /// The disks, and the cluster file.
    fn make_disks(&self) -> Result<()> {
        let cluster = fs::read_to_string("/proc/sys/kernel/random/uuid")?.trim().to_owned();
        let mut text = format!("cluster = \"{cluster}\"\ncache = {:?}\n", self.at("cache"));
        for number in 0..8 {
            let mut init = Command::new(binaries::storaged());
            init.args(["disk", "init", "--cluster", &cluster, "--json"]).arg(self.disk(number));
            init.args(["--capacity", "1GiB", "--block-file", "16MiB"]);
            let made: serde_json::Value =
                serde_json::from_str(&process::run(&mut init, PATIENCE)?)?;
            text += &format!("[[slot]]\ndisk = {}\n", made["disk"]);
            let daemon = DAEMONS.iter().position(|disks| disks.contains(&number));
            text += &match daemon.filter(|_| self.with_daemons) {
                Some(daemon) => format!("address = \"127.0.0.1:{}\"\n", self.ports[daemon]),
                None => format!("path = {:?}\n", self.disk(number)),
            };
        }
        Ok(fs::write(self.at("cluster.toml"), text)?)
    }

    /// Starts the daemons, if it has any.
    pub fn serve(&mut self) -> Result<()> {
        for (daemon, disks) in DAEMONS.into_iter().enumerate().filter(|_| self.with_daemons) {
            let mut run = Command::new(binaries::storaged());
            run.args(["run", "--listen", &format!("127.0.0.1:{}", self.ports[daemon])]);
            for number in disks {
                run.arg("--disk").arg(self.disk(number));
            }
            let log = self.at(&format!("daemon-{daemon}.log"));
            self.daemons.push(Process::start(&mut run, &log)?);
        }
        for port in self.ports.iter().filter(|_| self.with_daemons) {
            wait_until("a daemon", PATIENCE, || {
                storaged_status(*port, PATIENCE).is_ok_and(|text| !text.is_empty())
            })?;
        }
        Ok(())
    }

    /// Mounts the volume.
    pub fn mount(&mut self) -> Result<()> {
        let mut mount = Command::new(binaries::ashlar());
        mount.arg("mount").arg(VOLUME).arg(self.path()).arg("-f").arg("--cluster");
        mount.arg(self.at("cluster.toml")).args(["--cache-size", "1MiB"]);
        self.mount = Some(Process::start_ready(&mut mount, "mounted", &self.at("mount.log"))?);
        Ok(())
    }

    /// From now on the first disk does not answer.
    pub fn hang(&self) -> Result<()> {
        self.below.signal(Signal::SIGSTOP)
    }

    /// It answers again; what has ended meanwhile has ended well.
    pub fn answer(&mut self) -> Result<()> {
        self.below.signal(Signal::SIGCONT)?;
        for mut process in self.ended.drain(..) {
            let status = process.wait(PATIENCE)?;
            ensure!(status.success(), "{status}: {}", process.said());
        }
        Ok(())
    }

    /// What `ashlar status` says of each disk.
    pub fn states(&self, bound: Duration) -> Result<Vec<String>> {
        states(&self.path(), bound)
    }

    /// The directory that hangs. The disk is in it.
    pub fn below(&self) -> PathBuf {
        self.at("below")
    }

    /// The disk that hangs.
    pub fn hung_disk(&self) -> PathBuf {
        self.disk(0)
    }

    /// The cluster's file.
    pub fn cluster_file(&self) -> PathBuf {
        self.at("cluster.toml")
    }

    /// What `storaged status` says of the daemon with the disk that hangs.
    pub fn daemon_says(&self, bound: Duration) -> Result<String> {
        storaged_status(self.ports[0], bound)
    }

    /// Unmounts, by umount(8) or by a signal to its process, which must end within `bound`.
    pub fn end_mount(&mut self, by: Option<Signal>, bound: Duration) -> Result<()> {
        let mount = self.mount.take().context("not mounted")?;
        match by {
            Some(signal) => mount.signal(signal)?,
            None => until_unused(|| umount(&self.path()))?,
        }
        ended(&mount, bound).with_context(|| mount.said())?;
        ensure!(!is_mounted(&self.path()), "its process has ended, and it is still mounted");
        self.ended.push(mount);
        Ok(())
    }

    /// Ends the daemons by SIGTERM, each within `bound`.
    pub fn end_daemons(&mut self, bound: Duration) -> Result<()> {
        for daemon in &self.daemons {
            daemon.signal(Signal::SIGTERM)?;
        }
        for daemon in self.daemons.drain(..) {
            ended(&daemon, bound).with_context(|| daemon.said())?;
            self.ended.push(daemon);
        }
        Ok(())
    }

    /// What everybody has logged: the mount, the daemons, and the one that serves the disk that hangs.
    pub fn said(&self) -> String {
        let all = self.mount.iter().chain(&self.daemons).chain([&self.below]);
        all.map(Process::said).collect::<Vec<_>>().join("\n--\n")
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // Whatever waits for the disk is let go.
        if let Err(error) = self.answer() {
            eprintln!("{error:#}");
        }
        if let Some(mut mount) = self.mount.take()
            && (mount.signal(Signal::SIGTERM).is_err() || mount.wait(PATIENCE).is_err())
        {
            eprintln!("the mount does not end: aborting it\n{}", mount.said());
            abort(&self.path());
        }
        detach(&self.path());
        self.daemons.clear();
        let below = self.at("below");
        if self.below.signal(Signal::SIGTERM).is_err() || self.below.wait(PATIENCE).is_err() {
            abort(&below);
        }
        detach(&below);
    }
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn storaged_status(port: u16, bound: Duration) -> Result<String> {
    let mut status = Command::new(binaries::storaged());
    let status = status.args(["status", "--address", &format!("127.0.0.1:{port}")]);
    // It fails when a disk is not well, and says all the same.
    Ok(String::from_utf8_lossy(&process::output(status, bound)?.stdout).into_owned())
}

/// Waits until a process has ended, but for threads that the kernel does not let go of.
fn ended(process: &Process, bound: Duration) -> Result<()> {
    wait_until(&format!("the end of process {}", process.pid()), bound, || has_ended(process.pid()))
}
