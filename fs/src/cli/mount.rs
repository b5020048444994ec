//! `ashlar mount`: one volume of a cluster, in the background unless told otherwise.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use proto::listen::Listen;
use proto::metrics_server::serve_metrics;
use proto::observe::ObserveError;
use proto::program::say;
use proto::signals::{self, Hangup};
use proto::size::Size;
use proto::systemd;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::care::Care;
use super::doors::{self, DoorArgs};
use super::options::Options;
use super::request::{Request, at_least};
use super::setup::{ClusterFile, block_on, with_logs};
use super::{background, directories, remount};
use crate::data::DataSettings;
use crate::doors::{DoorError, WantedDoors};
use crate::mount::bind_mount;
use crate::mount::mountpoint;
use crate::mount::outage::Outage;
use crate::mount::{Mount, MountPlan, VolumePlan};

/// Between the metrics' address and the volume, a mount takes nothing else.
const NEXT: Duration = Duration::from_millis(500);
/// Memory for either purpose.
const MEMORY: u64 = 64 << 20;
/// Mount a volume
///
/// Returns when the volume is mounted; a process in the background serves it, and logs to
/// VOLUME.messages in the cache directory (up to 4 MiB, and the 4 MiB before in VOLUME.messages.1). SIGHUP
/// has it open that file anew, and read the cluster file again. End it with `ashlar umount MOUNTPOINT`. With `ashlar install-helper`,
/// mount(8), fstab and systemd mount volumes too.
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
    /// Stay in the foreground and log to stderr; ends, with everything stored, when its terminal goes
    #[arg(long, short = 'f')]
    pub(super) foreground: bool,
    /// Memory for reading again [default: 64MiB]
    #[arg(long, value_name = "SIZE")]
    pub(super) cache_size: Option<Size>,
    /// Memory for what is written and not yet stored [default: 64MiB]
    #[arg(long, value_name = "SIZE")]
    pub(super) dirty_size: Option<Size>,
    /// Serve Prometheus metrics at http://ADDR/metrics
    #[arg(long, value_name = "HOST:PORT")]
    pub(super) metrics: Option<Listen>,
    #[command(flatten)]
    pub(super) doors: DoorArgs,
    #[command(flatten)]
    pub(super) care: Care,
    /// Take the volume over though it is mounted on another machine, which can write nothing from then on
    #[arg(long)]
    pub(super) take_over: bool,
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
  remount                      change the mount that is there: with ro, rw and the others above, and log;
                               it reads the cluster file again
  take-over                    though it is mounted on another machine, which can write nothing from then on
  nonempty                     the mount point may have something in it, which is hidden then
  cluster=FILE, log=FILTER, cache-size=SIZE, dirty-size=SIZE, metrics=ADDR, disk-grace=TIME, heal-rate=SIZE,
  census-every=TIME, scrub-days=DAYS, http=ADDR, kv=ADDR, s3=ADDR, tls, tls-cert=FILE, tls-key=FILE,
  insecure-no-tls, no-login
                               as the options of `ashlar mount` with these names
mount(8) shows a volume that is mounted at a second place, with ro, suid, dev, exec, noatime and subdir
of its own; the rest is as it was mounted first.
What concerns mount(8) and systemd alone is accepted: defaults, auto, noauto, nofail, _netdev, user,
users, x-... Owners cannot be mapped: uid=, gid= and umask= are refused.

Examples:
  ashlar mount photos /mnt/photos --cluster /etc/ashlar/cluster.toml -o noexec
  ashlar mount photos /mnt/2024 -o ro,subdir=/2024
  ashlar mount photos /mnt/photos -o remount,ro";

pub(super) fn run(args: Args, log: Option<&str>) -> Result<ExitCode> {
    let text = args.options.join(",");
    let mut options: Options = text.parse()?;
    if options.remount {
        // What is not named stays as it is. For our helper, mount(8) has seen to that.
        let entry = mountpoint::volume_at(&mountpoint::canonical(&args.mountpoint)?)?;
        options = format!("{},{text}", entry.options).parse()?;
    }
    options.cache_size = args.cache_size.or(options.cache_size);
    options.dirty_size = args.dirty_size.or(options.dirty_size);
    options.metrics = args.metrics.or(options.metrics);
    options.doors = args.doors.or(options.doors);
    options.care = args.care.or(options.care);
    options.take_over |= args.take_over;
    options.log = log.map(str::to_owned).or(options.log);
    let Args { volume, mountpoint, cluster, foreground, .. } = args;
    run_request(Request { volume, mountpoint, cluster, options, foreground, bind_mount: false })
}

/// Mounts, or changes a mount.
pub(super) fn run_request(request: Request) -> Result<ExitCode> {
    let log = request.options.log.clone();
    let log = log.as_deref();
    if request.options.remount {
        return with_logs(log, "warn", || remount::run(&request));
    }
    match background::is_here() {
        true => background::run(|| with_logs(log, "info", || mount(request))),
        false => with_logs(log, "info", || mount(request)),
    }
}

fn mount(request: Request) -> Result<ExitCode> {
    let Request { volume, mountpoint, cluster, options, foreground, bind_mount } = request;
    options.doors.check()?;
    let file = options.cluster.map_or(cluster, ClusterFile::new);
    let (cluster, file) =
        (file.read()?, std::path::absolute(&file.path).context("the cluster file")?);
    let directories = directories::of(&cluster)?;
    let needed = directories::needed(&cluster, &directories);
    let needed: Vec<_> = needed.iter().map(PathBuf::as_path).collect();
    let mountpoint = mountpoint::check(&mountpoint, &needed, options.nonempty)?;
    let log = directories::messages(&directories, &volume);
    let background = background::is_here();
    if background {
        background::settle(&log)?;
    } else if !foreground {
        return background::start(&log);
    }
    let data = DataSettings {
        cache_bytes: options.cache_size.map_or(MEMORY, |size| size.0),
        dirty_bytes: options.dirty_size.map_or(MEMORY, |size| at_least(size).0),
        ..DataSettings::default()
    };
    let Options { mount: options, metrics, take_over, doors, care, .. } = options;
    let hangup = Arc::new(Notify::new());
    let volume = VolumePlan {
        volume,
        cluster,
        file,
        hangup: hangup.clone(),
        directories,
        data,
        heal: care.heal(),
        scrub_days: care.scrub_days(),
        metrics,
        take_over,
        leads: false,
        doors: None,
    };
    let plan = MountPlan { volume, mountpoint, options };
    block_on(async {
        let reload = move || {
            background::reload();
            hangup.notify_one();
        };
        let hangup = match background {
            true => Hangup::Reloads(Box::new(reload)),
            false => Hangup::of_terminal(reload),
        };
        let stop = signals::take("ashlar", hangup).context("waiting for signals")?;
        log_start(&plan);
        let at = plan.mountpoint.clone();
        let bind_mount = bind_mount && nix::unistd::geteuid().is_root();
        let starting = Box::pin(start_or_show(plan, &doors, bind_mount, stop));
        let mount = systemd::starting(starting).await?;
        systemd::ready();
        let warnings = mount.iter().flat_map(|mount| mount.open().warnings());
        warnings.for_each(|warning| background::warn(warning));
        let outage = started_without(&mount).await.map(|outage| outage.to_string());
        outage.iter().flat_map(|outage| outage.lines()).for_each(background::warn);
        match background {
            true => background::succeed()?,
            false => drop(say(format!("mounted on {}", at.display()))?),
        }
        let Some(mount) = mount else { return Ok(()) };
        anyhow::Ok(mount.run().await?)
    })?;
    Ok(ExitCode::SUCCESS)
}

/// What is away of the disks of a mount that has begun.
async fn started_without(mount: &Option<Mount>) -> Option<Outage> {
    mount.as_ref()?.open().outage().await
}

/// Mounts it, to be served; or shows it here, if another process has mounted it and that will do.
async fn start_or_show(
    mut plan: MountPlan,
    wanted: &WantedDoors,
    bind_mount: bool,
    stop: CancellationToken,
) -> Result<Option<Mount>> {
    let MountPlan { mountpoint, options, .. } = plan.clone();
    let VolumePlan { volume, metrics, directories, .. } = plan.volume.clone();
    let start = async || {
        metrics.as_ref().map_or(Ok(()), serve_metrics)?;
        plan.volume.doors = doors::take(wanted)?;
        anyhow::Ok(Mount::start(plan, stop).await?)
    };
    let why = match start().await {
        Err(why) if bind_mount => why,
        started => return started.map(Some),
    };
    if why.is::<ObserveError>() || why.is::<DoorError>() {
        // Who has got that address takes the volume next.
        tokio::time::sleep(NEXT).await;
    }
    match bind_mount::first(&directories, &volume).await {
        Some(first) => bind_mount::show(&first, &mountpoint, &options)?,
        None => return Err(why),
    }
    Ok(None)
}

/// The one line that says which program runs with which settings.
pub(super) fn log_start(plan: &MountPlan) {
    let MountPlan { volume, mountpoint, options } = plan;
    let VolumePlan { volume, cluster, data, .. } = volume;
    tracing::info!(
        version = proto::VERSION,
        volume,
        mountpoint = %mountpoint.display(),
        disks = cluster.slots.len(),
        %options,
        dirty_bytes = data.dirty_bytes,
        cache_bytes = data.cache_bytes,
        "starting"
    );
}
