//! What commands begin and end with: the cluster's file, logs, a runtime, an exit code.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use proto::cluster::{Cluster, DEFAULT_FILE};
use proto::observe::init_logs;
use proto::program;
use proto::touch::touch;

/// The cluster that a command works on.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ClusterFile {
    /// The cluster's file
    #[arg(
        long = "cluster",
        value_name = "FILE",
        env = "ASHLAR_CLUSTER",
        default_value = DEFAULT_FILE
    )]
    pub(super) path: PathBuf,
}

impl ClusterFile {
    /// This one.
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Reads and validates it.
    pub(super) fn read(&self) -> Result<Cluster> {
        let path = self.path.clone();
        let read = touch(move || Cluster::read(&path));
        Ok(read.with_context(|| format!("cluster file {}", self.path.display()))??)
    }

    /// Has somebody said which?
    pub(super) fn is_named(&self) -> bool {
        self.path != Path::new(DEFAULT_FILE)
    }
}

impl Default for ClusterFile {
    fn default() -> Self {
        Self::new(std::env::var_os("ASHLAR_CLUSTER").map_or(DEFAULT_FILE.into(), PathBuf::from))
    }
}

/// Says what went wrong, if anything did.
pub(super) fn exit_code(result: Result<ExitCode>, failure: ExitCode) -> ExitCode {
    program::exit_code("ashlar", result, failure)
}

/// Interactive commands are quiet unless something is wrong: `default` says from where on.
pub(super) fn with_logs(
    log: Option<&str>,
    default: &str,
    run: impl FnOnce() -> Result<ExitCode>,
) -> Result<ExitCode> {
    init_logs(log, default, Some(crate::fuse::NOISE))?;
    run()
}

/// Threads for what blocks and is no disk's own business: little, such as opening disks and mounting.
const BLOCKING_THREADS: usize = 8;

/// Runs a command's future to its end.
pub(super) fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    // A disk has a file open for each of its block files.
    proto::guests::raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build()
        .context("starting threads")?;
    let result = runtime.block_on(work);
    // What the kernel or a dead daemon still owes an answer must not keep the process.
    runtime.shutdown_background();
    result
}
