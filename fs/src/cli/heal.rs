//! `ashlar heal`: how safe the blobs of a mounted volume are, what is being done about it, and to have all of it read
//! and verified now.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use proto::program::say;
use proxy::repair::{Health, Report};

use super::progress::{Amount, Countdown, Screen};
use super::status::{of_mount, only_mount};
use crate::mount::control::ControlClient;
use crate::mount::mountpoint;

/// How often what is watched is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How long a mount may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// See how lost, damaged and misplaced parts are made good, which happens by itself
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Status(StatusArgs),
    Scrub(ScrubArgs),
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
    /// Say it again whenever it changes, until there is nothing left to mend; on a terminal with a bar of the bytes left
    #[arg(long)]
    watch: bool,
    /// JSON instead of text
    #[arg(long)]
    json: bool,
}

/// Have all disks read and verify everything that they hold, now
///
/// They do so by themselves within two weeks, unless told otherwise. What is damaged is mended. With --wait it returns
/// when all is read and mended, and exits as `ashlar heal status` does.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  ashlar heal scrub\n  ashlar heal scrub --wait /mnt/photos")]
struct ScrubArgs {
    /// Where a volume is mounted
    /// [default: the one volume that is mounted]
    mountpoint: Option<PathBuf>,
    /// Return when that is done, and say meanwhile how far it is; on a terminal with a bar of the bytes left
    #[arg(long)]
    wait: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    match &args.command {
        Command::Status(args) => status(args),
        Command::Scrub(args) => scrub(args),
    }
}

fn place(named: Option<&Path>) -> Result<PathBuf> {
    match named {
        Some(path) => Ok(mountpoint::canonical(path)?),
        None => only_mount(),
    }
}

fn scrub(args: &ScrubArgs) -> Result<ExitCode> {
    let at = place(args.mountpoint.as_deref())?;
    let entry = mountpoint::volume_at(&at)?;
    let mut caller = ControlClient::call_patiently(&entry, PATIENCE)
        .with_context(|| format!("the process that serves {} does not answer", at.display()))?;
    let disks = caller.scrub(PATIENCE).map_err(|why| anyhow!("{}: {why}", at.display()))?;
    if !args.wait {
        say(format!(
            "{disks} disks read and verify all they hold: ashlar heal status {} says how far they are",
            at.display()
        ))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut left = Countdown::default();
    let words = |report: &Report| Ok(format!("{} ({})", report.line, report.scrub));
    watch(&at, Screen::new(false), words, |report| left.at(report.scrub.bytes_left, Instant::now()))
}

fn status(args: &StatusArgs) -> Result<ExitCode> {
    let at = place(args.mountpoint.as_deref())?;
    let words = |report: &Report| match args.json {
        true => serde_json::to_string(report).context("a report is plain data"),
        false if args.watch => Ok(report.line.clone()),
        false => Ok(report.to_string()),
    };
    if args.watch {
        let mut mended = None;
        return watch(&at, Screen::new(args.json), words, |report| {
            let before = *mended.get_or_insert(report.mended_bytes);
            let done = report.mended_bytes.saturating_sub(before);
            Amount { done, left: report.bytes_left, rate: report.rate }
        });
    }
    let report = of(&at)?;
    say(words(&report)?)?;
    Ok(report.health.into())
}

/// Shows how it is, as often as that changes, until there is nothing left to be done.
fn watch(
    at: &Path,
    mut screen: Screen,
    words: impl Fn(&Report) -> Result<String>,
    mut amount: impl FnMut(&Report) -> Amount,
) -> Result<ExitCode> {
    loop {
        let report = of(at)?;
        let text = words(&report)?;
        let read = screen.show(text.clone(), amount(&report))?;
        let rests = report.queue == 0 && !report.counting && report.scrub.asked == 0;
        if report.health != Health::Unknown && rests || !read {
            screen.end(&text)?;
            return Ok(report.health.into());
        }
        std::thread::sleep(LOOK);
    }
}

fn of(at: &Path) -> Result<Report> {
    let mount = of_mount(at)?.mount.context("the mount says nothing of itself")?;
    mount.heal.with_context(|| format!("the mount at {} repairs nothing", at.display()))
}
