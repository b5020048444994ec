//! `ashlar mount`: one volume of a cluster, in the background unless told otherwise.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use proto::metrics_server::serve_metrics;
use proto::observe::ObserveError;
use proto::systemd;

use super::options::Options;
use super::size::Size;
use super::{ClusterFile, block_on, needed_directories, sentence, with_logs};
use crate::control::Caller;
use crate::data::DataSettings;
use crate::mount::{Mount, MountPlan};
use crate::mountpoint;
use crate::second;

/// First words of the line by which a background mount tells that it is mounted, or why not.
const MOUNTED: &str = "mounted";
const FAILED: &str = "failed ";
/// How long a mount may take to hear what has changed.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between the metrics' address and the volume, a mount takes nothing else.
const NEXT: Duration = Duration::from_millis(500);
/// Set in a process that serves a mount in the background.
const BACKGROUND: &str = "ASHLAR_BACKGROUND";
/// Memory for either purpose.
const MEMORY: u64 = 64 << 20;
/// Less than this for what is not yet stored would make every write wait.
const LEAST_DIRTY: u64 = 8 << 20;

/// Mount a volume
///
/// Returns when the volume is mounted; a process in the background serves it, and logs to
/// VOLUME.messages next to the metadata. End it with `ashlar umount MOUNTPOINT`. With
/// `ashlar install-helper`, mount(8), fstab and systemd mount volumes too.
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  ashlar mount photos /mnt/photos --cluster /etc/ashlar/cluster.toml -o noexec",
    after_long_help = OPTIONS
)]
pub(super) struct Args {
    /// Name of the volume, as given to `ashlar format`
    pub(super) volume: String,
    /// An empty directory
    pub(super) mountpoint: PathBuf,
    #[command(flatten)]
    pub(super) cluster: ClusterFile,
    /// Options of the mount, separated by commas (listed by --help)
    #[arg(short = 'o', value_name = "OPTS")]
    pub(super) options: Vec<String>,
    /// Stay in the foreground and log to stderr
    #[arg(long, short = 'f')]
    pub(super) foreground: bool,
    /// Memory for reading again [default: 64MiB]
    #[arg(long, value_name = "SIZE")]
    pub(super) cache_size: Option<Size>,
    /// Memory for what is written and not yet stored [default: 64MiB]
    #[arg(long, value_name = "SIZE")]
    pub(super) dirty_size: Option<Size>,
    /// Serve Prometheus metrics at http://ADDR/metrics
    #[arg(long, value_name = "ADDR")]
    pub(super) metrics: Option<SocketAddr>,
}

/// What may stand behind `-o`.
pub(super) const OPTIONS: &str = "\
Options behind -o:
  ro, rw                       no writes, or writes
  suid, nosuid, dev, nodev     setuid bits and device files count, or not [default: they do for root]
  exec, noexec                 programs run, or not
  relatime, noatime, strictatime, nodiratime
                               when reading changes access times
  sync                         every write and change is stored before its call returns
  dirsync                      every change of names is
  lazytime                     times may be stored later
  allow_other                  other users may enter [default: root's mounts only]
  subdir=/DIR                  mount this directory of the volume (root only)
  remount                      change the mount that is there: with ro, rw and the others above
  nonempty                     the mount point may have something in it, which is hidden then
  cluster=FILE, log=FILTER, cache-size=SIZE, dirty-size=SIZE, metrics=ADDR
                               as the options of `ashlar mount` with these names
mount(8) shows a volume that is mounted at a second place, with ro, suid, dev, exec, noatime and subdir
of its own; the rest is as it was mounted first.
What concerns mount(8) and systemd alone is accepted: defaults, auto, noauto, nofail, _netdev, user,
users, x-... Owners cannot be mapped: uid=, gid= and umask= are refused.

Examples:
  ashlar mount photos /mnt/photos --cluster /etc/ashlar/cluster.toml -o noexec
  ashlar mount photos /mnt/2024 -o ro,subdir=/2024
  ashlar mount photos /mnt/photos -o remount,ro";

/// Everything that decides how a volume is mounted, from wherever it was said.
pub(super) struct Request {
    volume: String,
    mountpoint: PathBuf,
    cluster: ClusterFile,
    options: Options,
    foreground: bool,
    /// A volume that is mounted may be shown here as well; only root can do that.
    second: bool,
}

pub(super) fn run(args: Args, log: Option<&str>) -> Result<ExitCode> {
    let text = args.options.join(",");
    let mut options: Options = text.parse()?;
    if options.remount {
        // What is not named stays as it is. For its helper, mount(8) has seen to that.
        let entry = mountpoint::volume_at(&mountpoint::canonical(&args.mountpoint)?)?;
        options = format!("{},{text}", entry.options).parse()?;
    }
    options.cache_size = args.cache_size.or(options.cache_size);
    options.dirty_size = args.dirty_size.or(options.dirty_size);
    options.metrics = args.metrics.or(options.metrics);
    options.log = log.map(str::to_owned).or(options.log);
    let Args { volume, mountpoint, cluster, foreground, .. } = args;
    run_request(Request { volume, mountpoint, cluster, options, foreground, second: false })
}

impl Request {
    /// As mount(8) asks its helper.
    pub(super) fn of_helper(volume: String, mountpoint: PathBuf, options: Options) -> Self {
        let cluster = ClusterFile::default();
        Self { volume, mountpoint, cluster, options, foreground: false, second: true }
    }
}

/// Mounts, or changes a mount.
pub(super) fn run_request(request: Request) -> Result<ExitCode> {
    let log = request.options.log.clone();
    let log = log.as_deref();
    if request.options.remount {
        return with_logs(log, "warn", || remount(&request));
    }
    if std::env::var_os(BACKGROUND).is_none() {
        return with_logs(log, "info", || mount(request));
    }
    detach().context("letting go of the terminal")?;
    let mounted = with_logs(log, "info", || mount(request));
    if let Err(e) = &mounted {
        // Whoever waits for this process does not read its log. Once mounted, nobody waits.
        println!("{FAILED}{}", sentence(e.as_ref()));
    }
    mounted
}

/// Cuts a background process off from who started it: whatever that had open must end with it, and
/// not with the mount.
fn detach() -> Result<()> {
    nix::unistd::setsid()?;
    let inherited: Vec<i32> = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|&fd| fd > 2)
        .collect();
    for fd in inherited {
        // The listing had one of its own, which is closed by now.
        let _ = nix::unistd::close(fd);
    }
    Ok(())
}

fn remount(request: &Request) -> Result<ExitCode> {
    let at = mountpoint::canonical(&request.mountpoint)?;
    mountpoint::remount(&at, &request.options.mount)?;
    let entry = mountpoint::volume_at(&at)?;
    // One who cannot be told is dead, or hangs.
    if let Some(mut caller) = Caller::call(&entry) {
        caller.remounted(&entry.options, PATIENCE).context("telling the process that serves it")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn mount(request: Request) -> Result<ExitCode> {
    let Request { volume, mountpoint, cluster, options, foreground, second } = request;
    let cluster = options.cluster.map_or(cluster, ClusterFile::new).read()?;
    if !meta::volumes(&cluster.meta)?.contains(&volume) {
        bail!("there is no volume {volume} in {}", cluster.meta.display());
    }
    let needed = needed_directories(&cluster);
    let needed: Vec<_> = needed.iter().map(PathBuf::as_path).collect();
    let mountpoint = mountpoint::check(&mountpoint, &needed, options.nonempty)?;
    let background = std::env::var_os(BACKGROUND).is_some();
    if !foreground && !background {
        return in_background(&cluster.meta.join(format!("{volume}.messages")));
    }
    if background {
        // All paths are absolute by now, and no other filesystem shall be in use because of us.
        std::env::set_current_dir("/").context("/")?;
    }
    let data = DataSettings {
        cache_bytes: options.cache_size.map_or(MEMORY, |size| size.0),
        dirty_bytes: options.dirty_size.map_or(MEMORY, |size| size.0).max(LEAST_DIRTY),
        ..DataSettings::default()
    };
    let plan = MountPlan { volume, cluster, mountpoint, options: options.mount, data };
    block_on(async {
        log_start(&plan);
        let at = plan.mountpoint.clone();
        let second = second && nix::unistd::geteuid().is_root();
        let mount = systemd::starting(start_or_show(plan, options.metrics, second)).await?;
        systemd::ready();
        println!("{MOUNTED} on {}", at.display());
        let Some(mount) = mount else { return Ok(()) };
        if background {
            let null = File::options().write(true).open("/dev/null").context("/dev/null")?;
            nix::unistd::dup2_stdout(&null).context("letting go of stdout")?;
        }
        anyhow::Ok(mount.run().await?)
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Mounts it, to be served; or shows it here, if another process has mounted it and that will do.
async fn start_or_show(
    plan: MountPlan,
    metrics: Option<SocketAddr>,
    second: bool,
) -> Result<Option<Mount>> {
    let MountPlan { volume, mountpoint, options, .. } = plan.clone();
    let dir = plan.cluster.meta.clone();
    let start = async || {
        metrics.map_or(Ok(()), serve_metrics)?;
        anyhow::Ok(Mount::start(plan).await?)
    };
    let why = match start().await {
        Err(why) if second => why,
        started => return started.map(Some),
    };
    if why.is::<ObserveError>() {
        // Who has got that address takes the volume next.
        tokio::time::sleep(NEXT).await;
    }
    match second::first(&dir, &volume).await {
        Some(first) => second::show(&first, &mountpoint, &options)?,
        None => return Err(why),
    }
    Ok(None)
}

/// The one line that says which program runs with which settings.
pub(super) fn log_start(plan: &MountPlan) {
    let MountPlan { volume, cluster, mountpoint, options, data } = plan;
    tracing::info!(
        version = proto::VERSION,
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
fn in_background(log_file: &Path) -> Result<ExitCode> {
    let named = || format!("log file {}", log_file.display());
    let log = File::options().create(true).append(true).open(log_file).with_context(named)?;
    let mut words = std::env::args_os();
    let mut command = Command::new(std::env::current_exe().context("finding this program")?);
    if let Some(name) = words.next() {
        // The mount helper is known by its name.
        command.arg0(name);
    }
    let mut child = command
        .args(words)
        .env(BACKGROUND, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .context("starting the background process")?;
    let mut line = String::new();
    let out = child.stdout.take().expect("stdout is piped");
    BufReader::new(out).read_line(&mut line).context("waiting for the background process")?;
    if line.starts_with(MOUNTED) {
        return Ok(ExitCode::SUCCESS);
    }
    child.wait().context("waiting for the background process")?;
    match line.trim_end().strip_prefix(FAILED) {
        Some(why) => Err(anyhow!("{why}")),
        None => bail!("the background process ended without a word: see {}", log_file.display()),
    }
}
