//! `ashlar mount`: one volume of a cluster, in the background unless told otherwise.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, anyhow, bail};
use proto::observe::serve_metrics;

use super::size::Size;
use super::{block_on, needed_directories, read_cluster};
use crate::data::DataSettings;
use crate::mount::{Mount, MountOptions, MountPlan};
use crate::mountpoint;

/// First words of the line by which a background mount tells that it is mounted.
const MOUNTED: &str = "mounted";
/// Set in a process that serves a mount in the background.
const BACKGROUND: &str = "ASHLAR_BACKGROUND";

/// Mount a volume
///
/// Returns when the volume is mounted; a process in the background serves it, and logs to
/// VOLUME.log next to the metadata. End it with `ashlar umount MOUNTPOINT`.
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  ashlar mount photos /mnt/photos --cluster /etc/ashlar/cluster.toml -o noexec"
)]
pub(super) struct Args {
    /// Name of the volume, as given to `ashlar format`
    volume: String,
    /// An empty directory
    mountpoint: PathBuf,
    /// The cluster's file
    #[arg(long, value_name = "FILE")]
    cluster: PathBuf,
    /// Options, separated by commas: ro, rw, allow_other, suid, nosuid, dev, nodev, exec, noexec,
    /// and what a filesystem may ignore (defaults, noatime, relatime, sync, dirsync, ...)
    #[arg(short = 'o', value_name = "OPTS", value_parser = parse_options)]
    options: Option<MountOptions>,
    /// Stay in the foreground and log to stderr
    #[arg(long, short = 'f')]
    foreground: bool,
    /// Memory for reading again
    #[arg(long, value_name = "SIZE", default_value = "64MiB")]
    cache_size: Size,
    /// Memory for what is written and not yet stored
    #[arg(long, value_name = "SIZE", default_value = "64MiB")]
    dirty_size: Size,
    /// Serve Prometheus metrics at http://ADDR/metrics
    #[arg(long, value_name = "ADDR")]
    metrics: Option<SocketAddr>,
}

fn parse_options(text: &str) -> Result<MountOptions, String> {
    let mut options = MountOptions::default();
    for word in text.split(',').filter(|word| !word.is_empty()) {
        match word {
            "ro" => options.read_only = true,
            "rw" => options.read_only = false,
            "allow_other" => options.allow_other = Some(true),
            "suid" => options.nosuid = Some(false),
            "nosuid" => options.nosuid = Some(true),
            "dev" => options.nodev = Some(false),
            "nodev" => options.nodev = Some(true),
            "exec" => options.noexec = false,
            "noexec" => options.noexec = true,
            // Access times are not kept; everything else is how we work anyway.
            "defaults"
            | "default_permissions"
            | "noatime"
            | "atime"
            | "relatime"
            | "norelatime"
            | "strictatime"
            | "nodiratime"
            | "diratime"
            | "lazytime"
            | "sync"
            | "async"
            | "dirsync"
            | "auto"
            | "noauto"
            | "nofail"
            | "_netdev"
            | "user"
            | "nouser" => {}
            _ => return Err(format!("no such mount option: {word}")),
        }
    }
    Ok(options)
}

pub(super) fn run(args: Args, log: Option<&str>) -> Result<ExitCode> {
    let cluster = read_cluster(&args.cluster)?;
    if !meta::volumes(&cluster.meta)?.contains(&args.volume) {
        bail!("there is no volume {} in {}", args.volume, cluster.meta.display());
    }
    let needed = needed_directories(&cluster);
    let needed: Vec<_> = needed.iter().map(PathBuf::as_path).collect();
    let mountpoint = mountpoint::check(&args.mountpoint, &needed)?;
    if !args.foreground && std::env::var_os(BACKGROUND).is_none() {
        let file = cluster.meta.join(format!("{}.log", args.volume));
        return in_background(&file, log);
    }
    let data = DataSettings {
        cache_bytes: args.cache_size.0,
        dirty_bytes: args.dirty_size.0.max(8 << 20),
        ..DataSettings::default()
    };
    let plan = MountPlan {
        volume: args.volume,
        cluster,
        mountpoint,
        options: args.options.unwrap_or_default(),
        data,
    };
    block_on(async {
        if let Some(address) = args.metrics {
            serve_metrics(address)?;
        }
        log_start(&plan);
        let at = plan.mountpoint.clone();
        let mount = Mount::start(plan).await?;
        println!("{MOUNTED} on {}", at.display());
        if std::env::var_os(BACKGROUND).is_some() {
            let null = File::options().write(true).open("/dev/null").context("/dev/null")?;
            nix::unistd::dup2_stdout(&null).context("letting go of stdout")?;
        }
        Ok(mount.run().await?)
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The one line that says which program runs with which settings.
pub(super) fn log_start(plan: &MountPlan) {
    let MountPlan { volume, cluster, mountpoint, options, data } = plan;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        volume,
        mountpoint = %mountpoint.display(),
        disks = cluster.slots.len(),
        ?options,
        dirty_bytes = data.dirty_bytes,
        cache_bytes = data.cache_bytes,
        "starting"
    );
}

/// Starts this command again as a process of its own, and waits for its word.
fn in_background(log_file: &std::path::Path, log: Option<&str>) -> Result<ExitCode> {
    let named = || format!("log file {}", log_file.display());
    let opened = File::options().create(true).append(true).open(log_file).with_context(named)?;
    let start = opened.metadata().with_context(named)?.len();
    let mut command = Command::new(std::env::current_exe().context("finding this program")?);
    command.args(std::env::args_os().skip(1)).env(BACKGROUND, "1");
    if log.is_none() && std::env::var_os("RUST_LOG").is_none() {
        command.env("RUST_LOG", "info");
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(opened)
        .process_group(0)
        .spawn()
        .context("starting the background process")?;
    let mut line = String::new();
    let out = child.stdout.take().expect("stdout is piped");
    BufReader::new(out).read_line(&mut line).context("waiting for the background process")?;
    if line.starts_with(MOUNTED) {
        return Ok(ExitCode::SUCCESS);
    }
    child.wait().context("waiting for the background process")?;
    Err(last_words(log_file, start))
}

/// The error of a process that ended, which is the last line of its log.
fn last_words(log_file: &std::path::Path, start: u64) -> anyhow::Error {
    let text = std::fs::read(log_file).unwrap_or_default();
    let text = String::from_utf8_lossy(text.get(start as usize..).unwrap_or_default()).into_owned();
    let last =
        text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it ended without a word");
    anyhow!("{}", last.trim_start_matches("ashlar: "))
}
