//! What a machine keeps of its cluster, in one directory.
//!
//! Beside its certificate ([`proto::tls::credentials`]):
//!
//! | file | what |
//! |---|---|
//! | `cluster.toml` | the cluster file: on a root the one that is true, elsewhere as a root has told it |
//! | `node.toml` | what this machine serves, and where roots are ([`Settings`]) |
//! | `ca.key` | the key of the cluster's CA: on a root |
//! | `ledger.toml` | whom a root has taken in ([`Ledger`]) |
//! | `begun` | id of a cluster that is being begun here; gone when it is |
//!
//! Each is written whole or not at all; what is read to be changed is locked.

use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use nix::fcntl::{Flock, FlockArg};
use proto::cluster::{Cluster, DEFAULT_FILE};
use proto::id::ClusterId;
use proto::tls::authority::{Authority, Made};
use proto::tls::credentials::{DEFAULT_DIRECTORY, NodeFiles};
use proto::tls::files::replace;
use serde::{Deserialize, Serialize};

use super::ledger::Ledger;

/// The directory of a machine.
#[derive(Clone, Debug)]
pub(crate) struct State(NodeFiles);

/// Where a machine keeps it.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct StateArg {
    /// Directory of what this machine has of its cluster: its key, its certificate, the cluster file
    #[arg(
        long = "state",
        value_name = "DIR",
        env = "ASHLAR_STATE",
        default_value = DEFAULT_DIRECTORY
    )]
    directory: PathBuf,
}

impl StateArg {
    pub(crate) fn state(&self) -> Result<State> {
        let directory = std::path::absolute(&self.directory);
        Ok(State::new(&directory.context("--state")?))
    }
}

/// What a machine serves, and where roots are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Settings {
    /// `HOST:PORT` of each root.
    pub(crate) roots: Vec<String>,
    /// `HOST:PORT` where disks are served, as other machines reach it.
    pub(crate) address: String,
    /// The same of a root's service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) root_address: Option<String>,
    /// `HOST:PORT` at which Prometheus reads the metrics of the disks; by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) metrics: Option<String>,
    /// What fails together with this machine's disks.
    pub(crate) host: String,
    /// Directories of the disks.
    #[serde(default)]
    pub(crate) disk: Vec<PathBuf>,
}

impl State {
    /// In this directory, by its absolute path.
    pub(crate) fn new(directory: &Path) -> Self {
        Self(NodeFiles::new(directory))
    }

    /// Its certificate.
    pub(crate) fn files(&self) -> &NodeFiles {
        &self.0
    }

    /// Where it is.
    pub(crate) fn directory(&self) -> &Path {
        self.0.directory()
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory().join(name)
    }

    pub(crate) fn ca_key(&self) -> PathBuf {
        self.at("ca.key")
    }

    pub(crate) fn cluster_file(&self) -> PathBuf {
        self.at("cluster.toml")
    }

    /// Is it a machine of some cluster?
    pub(crate) fn is_member(&self) -> bool {
        self.files().certificate().exists()
    }

    /// Nobody else changes it meanwhile.
    pub(crate) fn lock(&self) -> Result<Flock<File>> {
        let named = || self.directory().display().to_string();
        fs::create_dir_all(self.directory()).with_context(named)?;
        let path = self.at("lock");
        let mut options = File::options();
        // Whoever could open it could keep it.
        options.create(true).truncate(false).write(true).mode(0o600);
        let file = options.open(&path).with_context(|| path.display().to_string())?;
        let locked = Flock::lock(file, FlockArg::LockExclusive);
        locked.map_err(|(_, why)| anyhow!("locking {}: {why}", path.display()))
    }

    /// The cluster that is begun here: what broke off is gone on with, by the disks that were made for it.
    pub(crate) fn begin(&self) -> Result<ClusterId> {
        let _lock = self.lock()?;
        let path = self.at("begun");
        match fs::read_to_string(&path) {
            Ok(text) => {
                text.trim().parse::<ClusterId>().with_context(|| path.display().to_string())
            }
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => {
                let cluster = ClusterId::random();
                replace(&path, &format!("{cluster}\n"), 0o600)?;
                Ok(cluster)
            }
            Err(why) => Err(why).with_context(|| path.display().to_string()),
        }
    }

    /// It is begun.
    pub(crate) fn has_begun(&self) -> Result<()> {
        let path = self.at("begun");
        match fs::remove_file(&path) {
            Err(why) if why.kind() != std::io::ErrorKind::NotFound => {
                Err(why).with_context(|| path.display().to_string())
            }
            _ => Ok(()),
        }
    }

    /// # Errors
    /// When this machine is of no cluster, or the file makes no sense.
    pub(crate) fn settings(&self) -> Result<Settings> {
        let path = self.at("node.toml");
        let text = fs::read_to_string(&path).with_context(|| {
            format!("{}: is this machine of a cluster (ashlar cluster join)?", path.display())
        })?;
        toml::from_str(&text)
            .map_err(|e| anyhow!("{}: {}", path.display(), e.to_string().trim_end()))
    }

    pub(crate) fn keep_settings(&self, settings: &Settings) -> Result<()> {
        let text = toml::to_string(settings).context("what this machine serves")?;
        Ok(replace(&self.at("node.toml"), &text, 0o644)?)
    }

    /// The cluster file, as it is here.
    pub(crate) fn cluster(&self) -> Result<Cluster> {
        Ok(Cluster::read(&self.cluster_file())?)
    }

    /// Keeps the cluster file, which names this machine's certificate.
    pub(crate) fn keep_cluster(&self, cluster: &Cluster) -> Result<()> {
        let identity = Some(self.directory().to_owned());
        let text = Cluster { identity, ..cluster.clone() }.to_toml();
        // What is kept can be read.
        Cluster::parse(&text, Path::new("/"))?;
        Ok(replace(&self.cluster_file(), &text, 0o644)?)
    }

    /// Has the cluster file found by whoever names none, if this machine has no other: where that is, if it is.
    pub(crate) fn publish(&self) -> Option<PathBuf> {
        let (public, own) = (Path::new(DEFAULT_FILE), self.cluster_file());
        if self.directory() != Path::new(DEFAULT_DIRECTORY) {
            return None;
        }
        if fs::read_link(public).is_ok_and(|to| to == own) {
            return Some(public.to_owned());
        }
        fs::create_dir_all(public.parent()?).ok()?;
        std::os::unix::fs::symlink(own, public).ok()?;
        Some(public.to_owned())
    }

    /// The cluster's CA.
    ///
    /// # Errors
    /// When this is no root.
    pub(crate) fn authority(&self) -> Result<Authority> {
        let read = |path: PathBuf| {
            fs::read_to_string(&path).with_context(|| {
                format!("{}: only a root of the cluster can do that", path.display())
            })
        };
        let made = Made { key: read(self.ca_key())?, certificate: read(self.files().ca())? };
        Ok(Authority::read(&made)?)
    }

    /// Whom this root has taken in, as it is now.
    pub(crate) fn ledger(&self) -> Result<Ledger> {
        let path = self.at("ledger.toml");
        match fs::read_to_string(&path) {
            Ok(text) => Ledger::parse(&text).with_context(|| path.display().to_string()),
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => Ok(Ledger::default()),
            Err(why) => Err(why).with_context(|| path.display().to_string()),
        }
    }

    /// Changes it, and with it what is revoked: as a whole, or, where the change fails, not at all.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Ledger) -> Result<T>) -> Result<T> {
        let _lock = self.lock()?;
        let mut ledger = self.ledger()?;
        let done = change(&mut ledger)?;
        // First whom nobody believes any more.
        replace(&self.files().revoked(), &ledger.revoked().to_text(), 0o644)?;
        replace(&self.at("ledger.toml"), &ledger.to_text()?, 0o600)?;
        Ok(done)
    }

    /// Forgets the cluster.
    pub(crate) fn forget(&self) -> Result<()> {
        let files = self.files();
        // The certificate first: without it the machine is of no cluster.
        let own = [files.certificate(), files.key(), files.ca(), files.revoked()];
        let more = [self.cluster_file(), self.at("node.toml")];
        for path in own.into_iter().chain(more) {
            match fs::remove_file(&path) {
                Err(why) if why.kind() != std::io::ErrorKind::NotFound => {
                    return Err(why).with_context(|| path.display().to_string());
                }
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn nobody_else_can_keep_what_changes_are_locked_by() {
        let directory = tempfile::tempdir().unwrap();
        let state = State::new(directory.path());
        drop(state.lock().unwrap());
        let mode = fs::metadata(directory.path().join("lock")).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{mode:o}");
    }
}
