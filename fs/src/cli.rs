//! The command line: one file per command. Text becomes domain types here and nowhere deeper; an
//! error is one sentence on stderr and exit code 1 (2 for a command line that makes no sense).

use std::ffi::OsString;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use meta::Directories;
use proto::cluster::{Cluster, DEFAULT_FILE};
use proto::observe::init_logs;
use proto::program;
use proto::touch::touch;

mod background;
mod cluster;
mod daemons;
mod demo;
mod directories;
mod format;
mod fsck;
mod helper;
mod manual;
mod mount;
mod options;
mod remount;
mod status;
mod umount;
mod volume;

/// A filesystem that keeps every byte erasure-coded across many disks.
#[derive(Parser)]
#[command(name = "ashlar", version = proto::VERSION, max_term_width = 100)]
struct Cli {
    /// What to log: error, warn, info, debug, or a filter such as fs=debug,proxy=info
    /// [default: $RUST_LOG, or info for mount and demo --background, error for format, status, fsck and volume, warn for
    /// the others]
    #[arg(long, global = true, value_name = "FILTER")]
    log: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Demo(demo::Args),
    Cluster(cluster::Args),
    Format(format::Args),
    Mount(mount::Args),
    Status(status::Args),
    Umount(umount::Args),
    Fsck(fsck::Args),
    Volume(volume::Args),
    InstallHelper(helper::InstallArgs),
    Completions(manual::CompletionsArgs),
    Man(manual::ManArgs),
    /// The storage daemon, as `storaged` (the demo starts it with --daemons)
    #[command(hide = true, disable_help_flag = true)]
    Storaged {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
}

/// The cluster that a command works on.
#[derive(Clone, Debug, clap::Args)]
struct ClusterFile {
    /// The cluster's file
    #[arg(
        long = "cluster",
        value_name = "FILE",
        env = "ASHLAR_CLUSTER",
        default_value = DEFAULT_FILE
    )]
    path: PathBuf,
}

impl ClusterFile {
    fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Reads and validates it.
    fn read(&self) -> Result<Cluster> {
        let path = self.path.clone();
        let read = touch(move || Cluster::read(&path));
        Ok(read.with_context(|| format!("cluster file {}", self.path.display()))??)
    }

    /// Has somebody said which?
    fn is_named(&self) -> bool {
        self.path != Path::new(DEFAULT_FILE)
    }
}

impl Default for ClusterFile {
    fn default() -> Self {
        Self::new(std::env::var_os("ASHLAR_CLUSTER").map_or(DEFAULT_FILE.into(), PathBuf::from))
    }
}

/// Runs the program on its arguments. Called `mount.fuse.ashlar` or `umount.fuse.ashlar` it is the
/// helper of mount(8) or umount(8).
pub fn main() -> ExitCode {
    if let Some(helper) = helper::Helper::by_name(std::env::args_os().next().as_deref()) {
        return helper.run();
    }
    let Cli { log, command } = match program::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let log = log.as_deref();
    let result = match command {
        Command::Storaged { args } => return daemons::run_storaged(args),
        Command::Demo(args) => with_logs(log, args.log(), || demo::run(args)),
        Command::Cluster(args) => with_logs(log, "warn", || cluster::run(args)),
        Command::Format(args) => with_logs(log, "error", || format::run(args)),
        Command::Mount(args) => mount::run(args, log),
        Command::Status(args) => with_logs(log, "error", || status::run(&args)),
        Command::Umount(args) => with_logs(log, "warn", || umount::run(&args)),
        Command::Fsck(args) => with_logs(log, "error", || fsck::run(args)),
        Command::Volume(args) => with_logs(log, "error", || volume::run(args)),
        Command::InstallHelper(args) => helper::install(&args),
        Command::Completions(args) => manual::completions(&args),
        Command::Man(args) => manual::write_pages(&args),
    };
    exit_code(result, ExitCode::FAILURE)
}

fn exit_code(result: Result<ExitCode>, failure: ExitCode) -> ExitCode {
    program::exit_code("ashlar", result, failure)
}

/// Interactive commands are quiet unless something is wrong: `default` says from where on.
fn with_logs(
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
fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
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

/// Directories that a mount of the cluster's volumes must keep off.
fn needed_directories(cluster: &Cluster, own: &Directories) -> Vec<PathBuf> {
    let disks = cluster.slots.iter().filter_map(|slot| slot.path.clone());
    disks.chain(own.all().map(Path::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_error_is_one_sentence_without_repetition() {
        let inner = anyhow::anyhow!("no\n  such  disk");
        let error = inner.context("disk 3: no\n  such  disk").context("mounting");
        assert_eq!(program::sentence(error.as_ref()), "mounting: disk 3: no such disk");
    }
}
