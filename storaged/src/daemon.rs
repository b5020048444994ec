//! `storaged run`: opens the disks, serves them, and stops cleanly.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use futures::future::join_all;
use proto::id::{ClusterId, DiskId};
use proto::listen::Listen;
use proto::log_file;
use proto::metrics_server::serve_metrics;
use proto::observe::change_filter;
use proto::program::sentence;
use proto::signals::{self, Hangup};
use proto::systemd;
use serde::Deserialize;
use tokio::net::TcpListener;

use crate::disk::{Disk, DiskOptions};
use crate::error::{DiskError, DiskProblem};
use crate::service::Service;
use crate::superblock::Superblock;

/// Where a daemon listens that was not told.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:7411";
/// What it logs that was not told.
pub(crate) const LOG: &str = "info";

/// What a daemon serves, and where. The configuration file has the same keys.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunConfig {
    /// Directories of the disks.
    pub disk: Vec<PathBuf>,
    /// Address to serve on.
    pub listen: Option<Listen>,
    /// Address to serve metrics on.
    pub metrics: Option<Listen>,
    /// What to log.
    pub log: Option<String>,
}

impl RunConfig {
    /// Reads a configuration file.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        toml::from_str(&text)
            .map_err(|e| anyhow::anyhow!("{}: {}", path.display(), e.to_string().trim_end()))
    }

    /// What is given here, over what the file says.
    pub fn or(self, file: Self) -> Self {
        Self {
            disk: if self.disk.is_empty() { file.disk } else { self.disk },
            listen: self.listen.or(file.listen),
            metrics: self.metrics.or(file.metrics),
            log: self.log.or(file.log),
        }
    }
}

/// Opened disks, and those that could not be, with why.
struct Opened {
    cluster: ClusterId,
    disks: BTreeMap<DiskId, Arc<Disk>>,
    broken: Vec<(String, String)>,
}

/// Serves until it is told to end; `reload` is what SIGHUP means.
pub(crate) async fn run(
    config: RunConfig,
    reload: impl FnMut() + Send + 'static,
) -> anyhow::Result<()> {
    if config.disk.is_empty() {
        bail!("no disks: give at least one --disk DIR");
    }
    let listen = match config.listen {
        Some(address) => address,
        None => DEFAULT_LISTEN.parse().expect("the default is an address"),
    };
    // Before disks are opened, which may take long: whoever says stop then means it, too.
    let stop = signals::take("storaged", Hangup::Reloads(Box::new(reload)))?;
    // Before that as well, so that nothing is opened in vain.
    let listener = TcpListener::bind(listen.addresses()).await;
    let listener = listener.with_context(|| format!("listening on {listen}"))?;
    if listen.is_everywhere() {
        tracing::warn!(
            "listening on {listen}: whoever reaches this machine there can read and delete"
        );
    }
    let listen = listener.local_addr()?;
    if let Some(address) = &config.metrics {
        serve_metrics(address)?;
    }
    let paths = config.disk.clone();
    let opened = systemd::starting(tokio::task::spawn_blocking(move || open_all(&paths))).await??;
    let metrics = config.metrics.map_or("none".to_owned(), |address| address.to_string());
    tracing::info!(
        version = proto::VERSION, %listen, cluster = %opened.cluster,
        disks = opened.disks.len(), metrics, "storaged is ready"
    );
    systemd::ready();
    let disks: Vec<Arc<Disk>> = opened.disks.values().cloned().collect();
    let service = Service::new(opened.cluster, opened.disks, opened.broken);
    let served = service.serve(listener, stop).await;
    // One that hangs does not hold up the others.
    join_all(disks.iter().map(|disk| disk.close())).await;
    tracing::info!("stopped");
    Ok(served?)
}

/// Reads again what can change while it serves: how much is logged, and where that goes.
pub(crate) fn reload(flags: &RunConfig, file: Option<&Path>) {
    let read = || {
        let config = match file {
            Some(path) => flags.clone().or(RunConfig::read(path)?),
            None => flags.clone(),
        };
        log_file::reopen().context("the log")?;
        anyhow::Ok(change_filter(config.log.as_deref(), LOG, None)?)
    };
    match read() {
        Ok(()) => tracing::info!("reloaded, by SIGHUP"),
        Err(e) => tracing::error!("not reloaded: {}", sentence(e.as_ref())),
    }
}

/// Opens all disks at once. One that fails does not stop the others, a mistake in what was asked
/// for does.
fn open_all(paths: &[PathBuf]) -> anyhow::Result<Opened> {
    let cluster = check_asked(paths)?;
    let options = DiskOptions { cluster: Some(cluster), ..DiskOptions::default() };
    let results: Vec<Result<Arc<Disk>, DiskError>> = std::thread::scope(|scope| {
        let opening: Vec<_> =
            paths.iter().map(|path| scope.spawn(move || Disk::open(path, options))).collect();
        opening.into_iter().map(|t| t.join().expect("opening a disk does not panic")).collect()
    });
    let (mut disks, mut broken, mut failed) = (BTreeMap::new(), Vec::new(), Vec::new());
    for (path, result) in paths.iter().zip(results) {
        match result {
            Ok(disk) => {
                tracing::info!(disk = %disk.id(), path = %path.display(), parts = disk.state().parts, "disk is open");
                disks.insert(disk.id(), disk);
            }
            Err(e) => {
                broken.push((path.display().to_string(), e.problem.to_string()));
                failed.push(e);
            }
        }
    }
    if disks.is_empty()
        && let Some(e) = failed.pop()
    {
        match paths.len() {
            1 => return Err(e.into()),
            disks => bail!("none of the {disks} disks can be opened; the last: {e}"),
        }
    }
    failed.iter().for_each(|e| tracing::error!("{e}"));
    Ok(Opened { cluster, disks, broken })
}

/// The cluster of all disks that can be read; the same disk twice or two clusters are mistakes.
fn check_asked(paths: &[PathBuf]) -> Result<ClusterId, DiskError> {
    let mut known: BTreeMap<DiskId, &Path> = BTreeMap::new();
    let mut cluster = None;
    let mut failed = None;
    for path in paths {
        let superblock = match Superblock::read(path) {
            Ok(superblock) => superblock,
            Err(e) => {
                failed = Some(e);
                continue;
            }
        };
        if let Some(other) = known.insert(superblock.disk, path) {
            let problem = DiskProblem::Twice { disk: superblock.disk, other: other.to_owned() };
            return Err(DiskError::new(path, problem));
        }
        let expected = *cluster.get_or_insert(superblock.cluster);
        if expected != superblock.cluster {
            let problem = DiskProblem::ForeignCluster { found: superblock.cluster, expected };
            return Err(DiskError::new(path, problem));
        }
    }
    match (cluster, failed) {
        (Some(cluster), _) => Ok(cluster),
        (None, Some(e)) => Err(e),
        (None, None) => unreachable!("there is at least one disk"),
    }
}
