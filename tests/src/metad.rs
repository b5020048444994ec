//! A metad that leads the volume of a demo: whoever mounts it from then on is a session of that.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use crate::binaries;
use crate::cluster::{DEMO_VOLUME, Demo, Mode, Setup, Stop};
use crate::door::free_address;
use crate::process::{self, PATIENCE, Process};

/// A mounted demo whose disks daemons serve, and the metad that leads its volume: the mount ends first.
pub fn mounted(setup: Setup) -> Result<(Metad, Demo)> {
    let mut demo = Demo::start(Setup { mode: Mode::Served, ..setup })?;
    demo.stop(Stop::Umount)?;
    let metad = Metad::start(&demo)?;
    demo.mount().with_context(|| metad.said())?;
    Ok((metad, demo))
}

/// The same, and another metad that stands by: as if on another machine (`elsewhere`), which knows nothing of the locks of this one.
pub fn mounted_with_standby(setup: Setup, elsewhere: bool) -> Result<(Metad, Metad, Demo)> {
    let mut demo = Demo::start(Setup { mode: Mode::Served, ..setup })?;
    demo.stop(Stop::Umount)?;
    let metad = Metad::start(&demo)?;
    let standby = metad.standby(&demo, elsewhere)?;
    demo.mount().with_context(|| metad.said())?;
    Ok((metad, standby, demo))
}

/// A metad.
pub struct Metad {
    process: Process,
    address: String,
    cluster: PathBuf,
    log: PathBuf,
}

impl Metad {
    /// Starts one that leads the volume of this demo, whose disks daemons serve and which is not mounted. Its cluster file names
    /// it from now on.
    pub fn start(demo: &Demo) -> Result<Self> {
        let (address, cluster) = (free_address()?, demo.cluster_file());
        let text = fs::read_to_string(&cluster)?;
        fs::write(&cluster, format!("metad = [\"{address}\"]\n{text}"))?;
        let log = demo.outside("metad.log");
        let process = Process::start_ready(&mut run(&address, &cluster), "leading", &log)?;
        Ok(Self { process, address, cluster, log })
    }

    /// Another one, which stands by for it. The cluster file names both from now on.
    pub fn standby(&self, demo: &Demo, elsewhere: bool) -> Result<Self> {
        let (address, mut cluster) = (free_address()?, self.cluster.clone());
        let text = fs::read_to_string(&cluster)?;
        let both = format!("metad = [\"{}\", \"{address}\"]", self.address);
        let one = format!("metad = [\"{}\"]", self.address);
        let text = text.replacen(&one, &both, 1);
        fs::write(&cluster, &text)?;
        if elsewhere {
            let cache = |line: &str| match line.starts_with("cache = ") {
                true => format!("cache = {:?}\n", demo.outside("elsewhere")),
                false => format!("{line}\n"),
            };
            let text: String = text.lines().map(cache).collect();
            ensure!(text.contains("elsewhere"), "the cluster file says nothing of a cache");
            cluster = demo.outside("elsewhere.toml");
            fs::write(&cluster, text)?;
        }
        let log = demo.outside("standby.log");
        let mut standing_by = run(&address, &cluster);
        let process = Process::start_ready(standing_by.arg("--standby"), "standing", &log)?;
        Ok(Self { process, address, cluster, log })
    }

    /// Kills it.
    pub fn kill_9(mut self) -> Result<()> {
        self.process.kill_9()
    }

    /// It stands still.
    pub fn pause(&self) -> Result<()> {
        self.process.signal(Signal::SIGSTOP)
    }

    /// It goes on, and finds that another leads its volume: it ends, and says so.
    pub fn resume_deposed(mut self) -> Result<()> {
        self.process.signal(Signal::SIGCONT)?;
        let status = self.process.wait(PATIENCE)?;
        let said = self.process.said();
        ensure!(!status.success() && said.contains("another leads"), "{status}: {said}");
        Ok(())
    }

    /// Where it listens.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Kills it, and starts another one there.
    pub fn kill_9_and_start_again(&mut self) -> Result<()> {
        self.process.kill_9()?;
        let mut again = run(&self.address, &self.cluster);
        self.process = Process::start_ready(&mut again, "leading", &self.log)?;
        Ok(())
    }

    /// Another one cannot lead the volume meanwhile: what it says.
    pub fn refused_beside_it(&self) -> Result<String> {
        let answer = process::output(&mut run(&free_address()?, &self.cluster), 2 * PATIENCE)?;
        ensure!(
            answer.status.code().is_some_and(|code| code != 0),
            "it ended with {}",
            answer.status
        );
        Ok(String::from_utf8_lossy(&answer.stderr).into_owned())
    }

    /// Ends it in good order.
    pub fn stop(mut self) -> Result<()> {
        self.process.signal(Signal::SIGTERM)?;
        let status = self.process.wait(PATIENCE)?;
        ensure!(status.success(), "metad ended with {status}:\n{}", self.process.said());
        Ok(())
    }

    /// The last lines of what it has said.
    pub fn said(&self) -> String {
        self.process.said()
    }
}

fn run(address: &str, cluster: &Path) -> Command {
    let mut command = Command::new(binaries::ashlar());
    command.args(["metad", "run", "--listen", address, "--volume", DEMO_VOLUME]);
    command.arg("--cluster").arg(cluster);
    command
}
