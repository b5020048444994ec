//! The command line. The doc comments are the help texts; values become domain types while
//! parsing, so nothing behind sees a string.

mod admin;
mod arguments;
mod cluster_file;
mod cluster_text;
mod replacing;
mod scrubbing;
mod status;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};
use proto::health::Health;
use proto::listen::Listen;
use proto::observe::init_logs;
use proto::program;

use crate::cli::arguments::{
    Disks, DrainArgs, InitArgs, LostArgs, PartArgs, ReplaceArgs, ScrubArgs, StatusArgs,
};
use crate::daemon::{self, RunConfig};

/// Keeps parts of blobs on the disks of this machine.
#[derive(Debug, Parser)]
#[command(name = "storaged", version = proto::VERSION, propagate_version = true)]
struct Cli {
    /// What to log: error, warn, info, debug, or a filter such as storaged=debug
    /// [default: $RUST_LOG, or info for run and warn for the others]
    #[arg(long, global = true, value_name = "FILTER")]
    log: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve disks until told to stop (SIGTERM or Ctrl-C)
    ///
    /// Logs to stderr. SIGHUP has the key log of the configuration file read again, and nothing else.
    #[command(
        after_help = "Example:\n  storaged run --disk /srv/disk0 --disk /srv/disk1 --listen 10.0.0.1:7411"
    )]
    Run(RunArgs),
    /// Make disks, look at them, verify them
    #[command(subcommand)]
    Disk(DiskCommand),
    /// Ask a running daemon what it serves
    ///
    /// Says in one word and one line how its disks are, and then each. Exits with 0 when all of them serve and nothing on
    /// them is damaged, 1 when one is out, read-only, full, being filled again or has damaged parts, 2 when none can be
    /// read, 3 when that is not known, as the daemon does not answer or is opening them.
    #[command(after_help = "Example:\n  storaged status --address 10.0.0.1:7411")]
    Status(StatusArgs),
    /// Look at single parts on a disk that is not in use
    #[command(subcommand)]
    Parts(PartsCommand),
}

/// What to serve.
#[derive(Debug, Args)]
struct RunArgs {
    /// Directory of a disk; repeat for each
    #[arg(long = "disk", value_name = "DIR")]
    disks: Vec<PathBuf>,
    /// Address to serve on, as in 10.0.0.1:7411; :7411 is every address of the machine. Other machines are served by TLS,
    /// as far as they are of the cluster, once this one is (ashlar cluster join) [default: 127.0.0.1:7411]
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<Listen>,
    /// Directory of this machine's certificate in the cluster
    /// [default: /var/lib/ashlar/node, where there is one of the disks' cluster]
    #[arg(long, value_name = "DIR", env = "ASHLAR_IDENTITY")]
    identity: Option<PathBuf>,
    /// Serve without TLS to whoever reaches the address, who can read and delete: on a network that you trust
    #[arg(long, conflicts_with = "identity")]
    insecure: bool,
    /// Address to serve Prometheus metrics on
    #[arg(long, value_name = "HOST:PORT")]
    metrics: Option<Listen>,
    /// Read and verify everything on the disks within so many days, again and again; 0: never [default: 14]
    #[arg(long, value_name = "DAYS")]
    scrub_days: Option<u32>,
    /// TOML file with the keys disk (a list), listen, identity, insecure, metrics, log and scrub-days; flags win over it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum DiskCommand {
    /// Make an empty directory a disk of a cluster
    #[command(
        after_help = "Examples:\n  storaged disk init /srv/disk0 --new-cluster\n  storaged disk init /srv/disk1 --cluster /srv/disk0\n  storaged disk init /srv/disk1 --cluster 5ad0c2f0-0000-4000-8000-000000000000 --capacity 500GiB"
    )]
    Init(InitArgs),
    /// Put a new disk in the place of a lost one
    ///
    /// Makes the directory a disk of the cluster and writes it into the cluster file in the place of the old one, with
    /// a new generation; all else in the file stays as it is. Parts belong on it that were on the old one, and no
    /// others move.
    #[command(
        after_help = "Example:\n  storaged disk replace 0b6c0000-0000-4000-8000-000000000001 /srv/disk9 --cluster cluster.toml"
    )]
    Replace(ReplaceArgs),
    /// Have a disk emptied while everything goes on, so that it can be taken out
    ///
    /// Says so in the cluster file, with a new generation. Mounts that follow it store nothing more on the disk as long
    /// as others take it, and move what their volumes have there; `ashlar heal status` says how much is left. A disk that
    /// is empty can be pulled, and `storaged disk lost` takes it out of the file.
    #[command(
        after_help = "Example:\n  storaged disk drain 0b6c0000-0000-4000-8000-000000000001 --cluster cluster.toml"
    )]
    Drain(DrainArgs),
    /// Take a disk that is lost for good, or empty, out of a cluster file, without another in its place
    #[command(
        after_help = "Example:\n  storaged disk lost 0b6c0000-0000-4000-8000-000000000001 --cluster cluster.toml"
    )]
    Lost(LostArgs),
    /// Have a running daemon read and verify all that its disks hold, now and as fast as users allow
    ///
    /// They do so by themselves within the days of --scrub-days. What is damaged is mended by whoever has its volume
    /// mounted. With --wait it exits with 1 if something was damaged and is not mended yet.
    #[command(after_help = "Example:\n  storaged disk scrub --address 10.0.0.1:7411 --wait")]
    Scrub(ScrubArgs),
    /// One line for each disk
    #[command(after_help = "Example:\n  storaged disk list /srv/disk*")]
    List(Disks),
    /// All that a disk's superblock and directory say; works while the disk is in use
    #[command(after_help = "Example:\n  storaged disk info /srv/disk0")]
    Info(Disks),
    /// Read every part and verify its checksums; fails if one is rotten. Changes nothing
    #[command(after_help = "Example:\n  storaged disk verify /srv/disk0 /srv/disk1")]
    Verify(Disks),
    /// Make the index anew from the block files
    #[command(after_help = "Example:\n  storaged disk rebuild-index /srv/disk0")]
    RebuildIndex(Disks),
}

#[derive(Debug, Subcommand)]
enum PartsCommand {
    /// List all parts
    #[command(after_help = "Example:\n  storaged parts ls /srv/disk0")]
    Ls(Disks),
    /// Which parts of a blob are there, and whether it is deleted
    #[command(after_help = "Example:\n  storaged parts stat /srv/disk0 '1-3-17-0-4096-ec(4,2)'")]
    Stat(PartArgs),
    /// Write a part's verified bytes to standard output
    #[command(
        after_help = "Example:\n  storaged parts get /srv/disk0 '1-3-17-0-4096-ec(4,2)' --part 0 > part0"
    )]
    Get(PartArgs),
}

/// What the program understands, for its manual pages and completions.
pub fn command() -> clap::Command {
    Cli::command()
}

/// The whole program. Call it outside of any tokio runtime; the first argument is the program's
/// name. An error is one sentence on stderr and exit code 1, wrong usage is exit code 2; of `status` both are 3.
pub fn main_with(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    match program::parse_telling::<Cli>(args, &["status"]) {
        Ok(cli) => {
            let tells = matches!(cli.command, Command::Status(_));
            let failure = if tells { Health::Unknown.into() } else { ExitCode::FAILURE };
            program::exit_code("storaged", dispatch(cli), failure)
        }
        Err(code) => code,
    }
}

fn dispatch(Cli { log, command }: Cli) -> anyhow::Result<ExitCode> {
    if let Command::Run(args) = command {
        return run(args, log);
    }
    init_logs(log.as_deref(), "warn", None)?;
    match command {
        Command::Run(_) => unreachable!("taken above"),
        Command::Disk(DiskCommand::Init(args)) => admin::init(&args),
        Command::Disk(DiskCommand::Replace(args)) => replacing::replace(&args),
        Command::Disk(DiskCommand::Drain(args)) => replacing::drain(&args),
        Command::Disk(DiskCommand::Lost(args)) => replacing::lost(&args),
        Command::Disk(DiskCommand::Scrub(args)) => block_on(scrubbing::scrub(&args)),
        Command::Disk(DiskCommand::List(disks)) => admin::list(&disks),
        Command::Disk(DiskCommand::Info(disks)) => admin::info(&disks),
        Command::Disk(DiskCommand::Verify(disks)) => admin::verify(&disks),
        Command::Disk(DiskCommand::RebuildIndex(disks)) => admin::rebuild_index(&disks),
        Command::Status(args) => block_on(status::status(&args)),
        Command::Parts(PartsCommand::Ls(disks)) => admin::parts_ls(&disks),
        Command::Parts(PartsCommand::Stat(args)) => block_on(admin::part_stat(&args)),
        Command::Parts(PartsCommand::Get(args)) => admin::part_get(&args),
    }
}

fn run(args: RunArgs, log: Option<String>) -> anyhow::Result<ExitCode> {
    let RunArgs { disks, listen, identity, insecure, metrics, scrub_days, config: file } = args;
    let flags = RunConfig { disk: disks, listen, identity, insecure, metrics, log, scrub_days };
    let config = match &file {
        Some(path) => flags.clone().or(RunConfig::read(path)?),
        None => flags.clone(),
    };
    init_logs(config.log.as_deref(), daemon::LOG, None)?;
    let reload = move || daemon::reload(&flags, file.as_deref());
    let threads = config.disk.len().clamp(1, cores());
    block_on_threads(threads, daemon::run(config, reload))?;
    Ok(ExitCode::SUCCESS)
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Threads for what blocks and is no disk's own business: little, such as opening disks.
const BLOCKING_THREADS: usize = 8;

/// Runs a command's future to its end.
fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    block_on_threads(cores(), work)
}

/// The same on so many threads, beside the disks' own. One for each disk takes what arrives for it; with more of them
/// each request wakes one that finds nothing to do.
fn block_on_threads<T>(
    threads: usize,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    // A disk has a file open for each of its block files.
    proto::guests::raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_name("storaged")
        .build()?;
    let result = runtime.block_on(work);
    // What a disk still owes an answer must not keep the process.
    runtime.shutdown_background();
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }
}
