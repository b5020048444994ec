//! Another machine that mounts a demo's volume: a cluster file and a cache directory of its own, and the same
//! daemons.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::binaries;
use crate::cluster::{DEMO_VOLUME, Demo, cache_key, detach, is_mounted, umount, until_unused};
use crate::process::{self, PATIENCE, Process};

/// A machine that knows the addresses of the daemons, and nothing else.
pub struct Machine {
    home: TempDir,
    mount: Option<Process>,
}

impl Machine {
    /// One that has never seen the volume.
    ///
    /// # Errors
    /// When its files cannot be made.
    pub fn new(demo: &Demo) -> Result<Self> {
        let home = tempfile::Builder::new().prefix("ashlar-machine-").tempdir()?;
        fs::create_dir(home.path().join("mnt"))?;
        let mut file: toml::Table = toml::from_str(&fs::read_to_string(demo.cluster_file())?)?;
        let key = cache_key(&file).unwrap_or("cache");
        let cache = home.path().join("cache").display().to_string();
        file.insert(key.to_owned(), cache.into());
        fs::write(home.path().join("cluster.toml"), toml::to_string(&file)?)?;
        Ok(Self { home, mount: None })
    }

    /// Its mount point.
    pub fn path(&self) -> PathBuf {
        self.home.path().join("mnt")
    }

    /// A path in its mount.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Its cluster file.
    pub fn cluster_file(&self) -> PathBuf {
        self.home.path().join("cluster.toml")
    }

    fn log(&self) -> PathBuf {
        self.home.path().join("mount.log")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(binaries::ashlar());
        command.arg("mount").arg(DEMO_VOLUME).arg(self.path()).arg("--foreground");
        command.arg("--cluster").arg(self.cluster_file());
        command
    }

    /// Mounts, and waits until it is ready.
    ///
    /// # Errors
    /// When it cannot be mounted.
    pub fn mount(&mut self) -> Result<()> {
        self.mount_with(&[])
    }

    /// The same, whoever has the volume.
    ///
    /// # Errors
    /// When it cannot be mounted.
    pub fn take_over(&mut self) -> Result<()> {
        self.mount_with(&["--take-over"])
    }

    fn mount_with(&mut self, arguments: &[&str]) -> Result<()> {
        assert!(self.mount.is_none(), "not mounted yet");
        let command = &mut self.command();
        let mount = Process::start_ready(command.args(arguments), "mounted", &self.log())?;
        self.mount = Some(mount);
        ensure!(is_mounted(&self.path()), "ready, but {:?} is no mount point", self.path());
        Ok(())
    }

    /// Tries to mount; what is said of it, if the volume is refused.
    ///
    /// # Errors
    /// When that ends in another way than with one sentence and 1.
    pub fn try_mount(&mut self) -> Result<Option<String>> {
        let Err(why) = self.mount() else { return Ok(None) };
        let said = format!("{why:#}");
        ensure!(said.contains("(exit status: 1)"), "{said}");
        // The log goes there too.
        let sentence = said.lines().rev().find_map(|line| line.strip_prefix("ashlar: "));
        sentence.map(|sentence| Some(sentence.to_owned())).with_context(|| said.clone())
    }

    /// The process that serves it.
    pub fn process(&self) -> &Process {
        self.mount.as_ref().expect("mounted")
    }

    /// All that its mounts have printed and logged.
    ///
    /// # Errors
    /// When there is no log.
    pub fn log_text(&self) -> Result<String> {
        fs::read_to_string(self.log()).context("the log of a mount")
    }

    /// Unmounts; whether everything was stored.
    ///
    /// # Errors
    /// When the mount does not end.
    pub fn umount(&mut self) -> Result<bool> {
        let path = self.path();
        until_unused(|| umount(&path))?;
        let mut mount = self.mount.take().expect("mounted");
        Ok(mount.wait(2 * PATIENCE)?.success())
    }

    /// kill -9 of what serves the mount.
    ///
    /// # Errors
    /// When it does not end.
    pub fn kill(&mut self) -> Result<()> {
        self.mount.take().expect("mounted").kill_9()?;
        detach(&self.path());
        Ok(())
    }

    /// Lets `ashlar fsck` check the unmounted volume; what it says.
    ///
    /// # Errors
    /// When it finds anything.
    pub fn fsck(&self) -> Result<String> {
        let mut command = Command::new(binaries::ashlar());
        command.arg("fsck").arg(DEMO_VOLUME);
        command.arg("--cluster").arg(self.cluster_file());
        process::run(&mut command, 2 * PATIENCE)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(mount) = self.mount.take() {
            if std::thread::panicking() {
                eprintln!("the last words of {:?}:\n{}", self.path(), mount.said());
            }
            // Ends it by its pid.
            drop(mount);
        }
        detach(&self.path());
    }
}
