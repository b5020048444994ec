//! `storaged run`: opens the disks, serves them, and stops cleanly.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, bail};
use proto::id::{ClusterId, DiskId};
use proto::listen::Listen;
use proto::log_file;
use proto::metrics_server::serve_metrics;
use proto::observe::change_filter;
use proto::program::sentence;
use proto::signals::{self, Hangup};
use proto::systemd;
use proto::tls::Acceptor;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::sync::mpsc::unbounded_channel;
use tokio_util::sync::CancellationToken;

use crate::disk::bay::{Bay, BayPlan, BayState, Bays};
use crate::disk::late::all_but_late;
use crate::error::{DiskError, DiskProblem};
use crate::format::superblock::Superblock;
use crate::scrub;
use crate::serve::service::Service;

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
    /// Directory of this machine's certificate in the cluster.
    pub identity: Option<PathBuf>,
    /// Serve without TLS to whoever reaches the address.
    pub insecure: bool,
    /// Address to serve metrics on.
    pub metrics: Option<Listen>,
    /// What to log.
    pub log: Option<String>,
    /// Days in which everything on the disks is read and verified; 0: never.
    #[serde(rename = "scrub-days")]
    pub scrub_days: Option<u32>,
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
            identity: self.identity.or(file.identity),
            insecure: self.insecure || file.insecure,
            metrics: self.metrics.or(file.metrics),
            log: self.log.or(file.log),
            scrub_days: self.scrub_days.or(file.scrub_days),
        }
    }
}

/// Serves until a signal ends it; `reload` is what SIGHUP means.
pub(crate) async fn run(
    config: RunConfig,
    reload: impl FnMut() + Send + 'static,
) -> anyhow::Result<()> {
    // Before disks are opened, which may take long: whoever says stop then means it, too.
    let stop = signals::take("storaged", Hangup::Reloads(Box::new(reload)))?;
    serve(config, stop).await
}

/// Serves until `stop`: for a program that does more than that.
///
/// # Errors
/// When nothing can be served, in a sentence.
pub async fn serve(config: RunConfig, stop: CancellationToken) -> anyhow::Result<()> {
    if config.disk.is_empty() {
        bail!("no disks: give at least one --disk DIR");
    }
    let scrub_days = config.scrub_days.unwrap_or(scrub::DEFAULT_DAYS);
    if scrub_days > scrub::MAX_DAYS {
        bail!("scrub-days is {scrub_days}, and may be {} at most", scrub::MAX_DAYS);
    }
    let listen = match config.listen {
        Some(address) => address,
        None => DEFAULT_LISTEN.parse().expect("the default is an address"),
    };
    // Before disks are opened, so that none is in vain.
    let listener = TcpListener::bind(listen.addresses()).await;
    let listener = listener.with_context(|| format!("listening on {listen}"))?;
    if let Some(address) = &config.metrics {
        serve_metrics(address)?;
    }
    let bays = tokio::select! {
        opened = systemd::starting(open_all(&config.disk, scrub_days)) => opened?,
        // What is being opened is left as a crash would leave it.
        () = stop.cancelled() => return Ok(()),
    };
    let identity = config.identity.as_deref();
    let acceptor = Acceptor::listening(&listen, identity, bays.cluster(), config.insecure);
    let acceptor = match acceptor {
        Ok(acceptor) => acceptor,
        Err(why) => {
            bays.close().await;
            return Err(why.into());
        }
    };
    if !acceptor.is_secure() && !listen.is_here() {
        tracing::warn!("listening on {listen} without TLS: whoever reaches it can read and delete");
    }
    let listen = listener.local_addr()?;
    let metrics = config.metrics.map_or("none".to_owned(), |address| address.to_string());
    let (disks, out) = (bays.count_in(), bays.all().len() - bays.count_in());
    tracing::info!(
        version = proto::VERSION, %listen, cluster = %bays.cluster(),
        disks, out, metrics, tls = acceptor.is_secure(), "storaged is ready"
    );
    systemd::ready();
    let served = Service::new(bays.clone()).admitting(acceptor).serve(listener, stop).await;
    bays.close().await;
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

/// Opens all disks at once. One that cannot be opened is tried again later and does not stop the
/// others; none at all, or a mistake in what was asked for, does.
async fn open_all(paths: &[PathBuf], scrub_days: u32) -> anyhow::Result<Arc<Bays>> {
    let survey = survey(paths).await;
    let cluster = check_asked(&survey)?;
    let plan = |(dir, superblock): &Surveyed| BayPlan {
        dir: dir.clone(),
        disk: None,
        seen: superblock.as_ref().ok().map(|superblock| superblock.disk),
    };
    // Where there is no disk to serve, the error that ends the daemon says why.
    let goes_on = Arc::new(AtomicBool::new(false));
    let log = {
        let goes_on = goes_on.clone();
        move |bay: &Bay, before: &BayState| {
            if goes_on.load(Ordering::Relaxed) {
                log_change(bay, before);
            }
        }
    };
    let plans = survey.iter().map(plan).collect();
    let bays = Bays::open_scrubbed(cluster, plans, scrub_days, log).await;
    if bays.count_in() > 0 {
        goes_on.store(true, Ordering::Relaxed);
        bays.all().iter().for_each(|bay| log_change(bay, &BayState::Opening));
        return Ok(bays);
    }
    bays.close().await;
    let out = |bay: &Arc<Bay>| match bay.state() {
        BayState::Out { why, .. } => Some(format!("{}: {why}", bay.path().display())),
        _ => None,
    };
    Err(none_of(bays.all().len(), bays.all().iter().find_map(out).unwrap_or_default()))
}

/// No disk can be had; one of the reasons is `why`.
fn none_of(disks: usize, why: String) -> anyhow::Error {
    match disks {
        1 => anyhow::Error::msg(why),
        _ => anyhow::anyhow!("none of the {disks} disks can be opened; {why}"),
    }
}

/// A directory, and what its superblock says.
type Surveyed = (PathBuf, Result<Superblock, DiskError>);

/// Reads all superblocks at once. One that hangs is like one that cannot be read.
async fn survey(paths: &[PathBuf]) -> Vec<Surveyed> {
    let (sender, mut said) = unbounded_channel();
    for (index, path) in paths.iter().enumerate() {
        let (sender, path) = (sender.clone(), path.clone());
        let spawned = std::thread::Builder::new()
            .name("survey".to_owned())
            .spawn(move || sender.send((index, Superblock::read(&path))));
        spawned.map(drop).unwrap_or_else(|e| tracing::warn!("looking at the disks: {e}"));
    }
    drop(sender);
    let mut found: BTreeMap<usize, _> =
        all_but_late(paths.len(), &mut said).await.into_iter().collect();
    let silent = |path: &Path| {
        let hangs = std::io::Error::new(std::io::ErrorKind::TimedOut, "it does not answer");
        Err(DiskError::new(path, DiskProblem::Io(hangs)))
    };
    let one = |(index, path): (usize, &PathBuf)| {
        (path.clone(), found.remove(&index).unwrap_or_else(|| silent(path)))
    };
    paths.iter().enumerate().map(one).collect()
}

/// The cluster of most of the disks that can be read. The same directory twice, or as many disks of
/// one cluster as of another, are mistakes.
fn check_asked(survey: &[Surveyed]) -> anyhow::Result<ClusterId> {
    let mut clusters: BTreeMap<ClusterId, usize> = BTreeMap::new();
    let mut directories: BTreeMap<(u64, u64), (&Path, DiskId)> = BTreeMap::new();
    for (path, superblock) in survey {
        let Ok(superblock) = superblock else { continue };
        *clusters.entry(superblock.cluster).or_default() += 1;
        let Ok(metadata) = std::fs::metadata(path) else { continue };
        let identity = (metadata.dev(), metadata.ino());
        if let Some((other, disk)) = directories.insert(identity, (path, superblock.disk)) {
            let problem = DiskProblem::Twice { disk, other: other.to_owned() };
            return Err(DiskError::new(path, problem).into());
        }
    }
    let most = clusters.values().max().copied().unwrap_or(0);
    let mut largest = clusters.iter().filter(|(_, count)| **count == most).map(|(id, _)| *id);
    match (largest.next(), largest.next()) {
        (Some(cluster), None) => Ok(cluster),
        (Some(expected), Some(_)) => {
            let other = survey.iter().find_map(|(path, superblock)| {
                let found = superblock.as_ref().ok()?.cluster;
                (found != expected).then_some((path, found))
            });
            let (path, found) = other.expect("there is a disk of the other cluster");
            Err(DiskError::new(path, DiskProblem::ForeignCluster { found, expected }).into())
        }
        (None, _) => {
            let why = survey.iter().find_map(|(_, superblock)| superblock.as_ref().err());
            Err(none_of(survey.len(), why.map(ToString::to_string).unwrap_or_default()))
        }
    }
}

/// Says what became of a disk.
fn log_change(bay: &Bay, before: &BayState) {
    let path = bay.path().display();
    match (bay.state(), before) {
        (BayState::In(disk), BayState::Out { .. }) => {
            tracing::warn!(disk = %disk.id(), %path, "the disk is back, and in use");
        }
        (BayState::In(disk), _) => {
            let parts = disk.state().parts;
            tracing::info!(disk = %disk.id(), %path, parts, "disk is open");
        }
        (BayState::Out { why, .. }, _) => {
            tracing::warn!(%path, "the disk is out, and the others go on without it: {why}");
        }
        (BayState::Opening, _) => {}
    }
}
