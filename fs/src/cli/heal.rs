//! `ashlar heal status`: how safe the blobs of a mounted volume are, and what is being done about it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use proto::program::say;
use proxy::repair::{Health, Report};

use super::status::{of_mount, only_mount};
use crate::mount::mountpoint;

/// How often what is watched is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// See how lost and misplaced parts are made good, which happens by itself
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Status(StatusArgs),
}

/// Show how safe a mounted volume is, and what is being mended
///
/// Exits as `ashlar status` does: with 0 when all is healthy, 1 when it is degraded, 2 when data cannot be read, 3 when
/// that is not known.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  ashlar heal status\n  ashlar heal status --watch /mnt/photos\n  ashlar heal status /mnt/photos --json"
)]
struct StatusArgs {
    /// Where a volume is mounted
    /// [default: the one volume that is mounted]
    mountpoint: Option<PathBuf>,
    /// Say it again whenever it changes, until there is nothing left to mend
    #[arg(long)]
    watch: bool,
    /// JSON instead of text
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let Command::Status(args) = &args.command;
    let at = match &args.mountpoint {
        Some(path) => mountpoint::canonical(path)?,
        None => only_mount()?,
    };
    let mut said = None;
    loop {
        let report = of(&at)?;
        let text = match (args.json, args.watch) {
            (true, _) => serde_json::to_string(&report).context("a report is plain data")?,
            (false, true) => report.line.clone(),
            (false, false) => report.to_string(),
        };
        let read = said.as_ref() == Some(&text) || say(&text)?;
        let done = report.health != Health::Unknown && report.queue == 0 && !report.counting;
        if !args.watch || done || !read {
            return Ok(ExitCode::from(report.health.exit_code()));
        }
        said = Some(text);
        std::thread::sleep(LOOK);
    }
}

fn of(at: &Path) -> Result<Report> {
    let mount = of_mount(at)?.mount.context("the mount says nothing of itself")?;
    mount.heal.with_context(|| format!("the mount at {} repairs nothing", at.display()))
}
