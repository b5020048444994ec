//! `ashlar demo`: a mounted directory on a few small disks, with one command.
//!
//! ```text
//! DIR/disks/0 .. N-1   the disks
//! DIR/cache/           what makes it fast and can be removed, and the volume's lock
//! DIR/cluster.toml     the disks by path
//! DIR/formatting/      the disks and the file, while they are made: see `make`
//! DIR/daemons.toml     the same disks by the fixed ports of their daemons, once --daemons was used
//! DIR/daemons/N.pid    process of the daemon of disk N, while it runs; N.log what it says
//! DIR/demo.log         what a demo in the background says
//! ```

use std::fmt;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use proto::cluster::Cluster;
use proto::program::say;
use proto::signals::{self, Hangup};
use tokio::sync::Notify;

use super::care::{Care, ScrubDays};
use super::daemons::{Daemons, free_ports};
use super::doors::{DoorArgs, TlsWords};
use super::setup::block_on;
use super::{background, directories};
use crate::data::DataSettings;
use crate::doors::{DoorPlan, OpenDoors, WantedDoors};
use crate::filesystem::status::bytes;
use crate::mount::mountpoint;
use crate::mount::{Mount, MountPlan, VolumePlan};
use crate::options::MountOptions;

mod make;

use make::{Made, VOLUME, Wanted};

/// Where HTTP is, unless somebody else is there.
const HTTP_PORT: u16 = 7480;
/// Where key-value, as lines of JSON, is.
const KV_PORT: u16 = 7481;
/// Where S3 is.
const S3_PORT: u16 = 7482;
/// The file of the disks as daemons serve them.
const DAEMONS: &str = "daemons.toml";

/// Try it: a directory on a few small disks, mounted with one command
///
/// The first run formats the disks, which are directories; later runs mount the same volume with
/// everything in it. Runs until Ctrl-C, the terminal's end or umount, which all store everything first.
/// With --background it returns when the volume is mounted; `ashlar umount MOUNTPOINT` ends it.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  ashlar demo ~/ashlar\n  ashlar demo ~/ashlar --background\n  ashlar demo /mnt/ashlar --daemons --dir /srv/demo --disks 6 --scheme 'ec(3,2)'"
)]
pub(super) struct Args {
    /// An empty directory; made if it is not there
    mountpoint: PathBuf,
    /// Where the disks lie, which keep everything [default: ~/.local/share/ashlar/demo]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Return when it is mounted; a process in the background serves it, and logs to DIR/demo.log
    #[arg(long)]
    background: bool,
    #[command(flatten)]
    wanted: Wanted,
    /// One storage daemon per disk, reached by gRPC, instead of everything in one process
    #[arg(long)]
    daemons: bool,
    #[command(flatten)]
    doors: DoorArgs,
    /// Read and verify everything on the disks within so many days, again and again; 0: never [default: 14]
    #[arg(long, value_name = "DAYS")]
    scrub_days: Option<ScrubDays>,
    /// No HTTP: else it is at 127.0.0.1:7480, or at another port where that one is taken; where no door is given,
    /// key-value as lines of JSON is at 127.0.0.1:7481 and S3 at 127.0.0.1:7482 likewise
    #[arg(long, conflicts_with = "http")]
    no_http: bool,
}

impl Args {
    /// What is logged unless told otherwise: at a terminal, what is wrong.
    pub(super) fn log(&self) -> &'static str {
        if self.background { "info" } else { "warn" }
    }
}

pub(super) fn run(args: Args) -> Result<ExitCode> {
    match background::is_here() {
        true => background::run(|| start(&args)),
        false => start(&args),
    }
}

fn start(args: &Args) -> Result<ExitCode> {
    let dir = match &args.dir {
        Some(dir) => dir.clone(),
        None => default_dir()?,
    };
    let dir = std::path::absolute(&dir).with_context(|| dir.display().to_string())?;
    let planned: Vec<PathBuf> = [dir.join("disks"), dir.join("cache")].into();
    let planned: Vec<&Path> = planned.iter().map(PathBuf::as_path).collect();
    let made = Made::directory(&args.mountpoint).context("mount point")?;
    let mountpoint = mountpoint::check(&args.mountpoint, &planned, false)?;
    let local = make::find_or_make(&args.wanted, &dir)?;
    let directories = directories::of(&local)?;
    let needed = directories::needed(&local, &directories);
    mountpoint::check(
        &mountpoint,
        &needed.iter().map(PathBuf::as_path).collect::<Vec<_>>(),
        false,
    )?;
    if let Some(holder) = meta::lock_holder(&directories, VOLUME)?
        && mountpoint::mounted_at(&holder.mountpoint).is_some()
    {
        let (at, pid) = (holder.mountpoint.display(), holder.pid);
        bail!("the demo in {} is mounted at {at} by process {pid} already", dir.display());
    }
    let log = dir.join("demo.log");
    if background::is_here() {
        background::settle(&log)?;
    } else if args.background {
        let started = background::start(&log)?;
        made.keep();
        return Ok(started);
    }
    block_on(serve(args, &dir, local, mountpoint, made))?;
    Ok(ExitCode::SUCCESS)
}

async fn serve(
    args: &Args,
    dir: &Path,
    local: Cluster,
    mountpoint: PathBuf,
    made: Made,
) -> Result<()> {
    let hangup = Arc::new(Notify::new());
    let heard = hangup.clone();
    let reload = move || {
        background::reload();
        heard.notify_one();
    };
    let hung_up = match background::is_here() {
        true => Hangup::Reloads(Box::new(reload)),
        false => Hangup::Ends,
    };
    let stop = signals::take("ashlar", hung_up).context("waiting for signals")?;
    let disks: Vec<PathBuf> = local.slots.iter().filter_map(|slot| slot.path.clone()).collect();
    let (cluster, daemons) = if args.daemons {
        let cluster = served_cluster(dir, &local)?;
        let starting = Daemons::start(dir, &cluster, &disks, args.scrub_days);
        let started = stop.run_until_cancelled(starting).await;
        let daemons = started.context("told to end before all daemons ran")??;
        (cluster, Some(daemons))
    } else {
        (local, None)
    };
    let own_disks =
        Care { scrub_days: args.scrub_days.filter(|_| !args.daemons), ..Care::default() };
    let volume = VolumePlan {
        volume: VOLUME.to_owned(),
        directories: directories::of(&cluster)?,
        cluster,
        file: dir.join(if args.daemons { DAEMONS } else { make::LAST }),
        hangup,
        data: DataSettings::default(),
        heal: own_disks.heal(),
        scrub_days: own_disks.scrub_days(),
        metrics: None,
        take_over: false,
        leads: true,
        doors: doors(args)?,
    };
    let options = MountOptions::default();
    let plan = MountPlan { volume, mountpoint: mountpoint.clone(), options };
    super::mount::log_start(&plan);
    let mount = Mount::start(plan, stop.clone()).await?;
    made.keep();
    let scheme = mount.open().scheme();
    if let Some(asked) = args.wanted.scheme.filter(|asked| *asked != scheme) {
        stop.cancel();
        mount.run().await?;
        let dir = dir.display();
        bail!("the demo in {dir} has {scheme}, not {asked}: choose another --dir, or remove it");
    }
    say(told(args, dir, disks.len(), &mountpoint, &mount).await)?;
    if background::is_here() {
        background::succeed()?;
    }
    let ended = mount.run().await;
    drop(daemons);
    Ok(ended?)
}

/// Doors, on this machine alone. Where a usual port is taken (by another demo, say), any other will do.
fn doors(args: &Args) -> Result<Option<DoorPlan>> {
    let wanted = args.doors.clone().or(WantedDoors::default());
    if args.no_http || wanted.http.is_some() {
        return super::doors::take(&wanted);
    }
    let at = |port: &dyn Fn(u16) -> u16| usual(wanted.clone(), port);
    super::doors::take(&at(&|usual| usual))
        .or_else(|_| super::doors::take(&at(&or_another)))
        // Somebody else was faster.
        .or_else(|_| super::doors::take(&at(&|_| 0)))
}

/// With HTTP; and with all doors, where none is given. `port`: where one is that is usually at this port.
fn usual(wanted: WantedDoors, port: &dyn Fn(u16) -> u16) -> WantedDoors {
    let at = |usual| Some(format!("127.0.0.1:{}", port(usual)).parse().expect("an address"));
    match wanted.any() {
        true => WantedDoors { http: at(HTTP_PORT), ..wanted },
        false => {
            let (http, kv, s3) = (at(HTTP_PORT), at(KV_PORT), at(S3_PORT));
            WantedDoors { http, kv, s3, ..wanted }
        }
    }
}

/// This port, or any (0) where somebody else has it.
fn or_another(port: u16) -> u16 {
    TcpListener::bind(("127.0.0.1", port)).map_or(0, |_| port)
}

/// What there is to know of a demo that is mounted.
async fn told(args: &Args, dir: &Path, all: usize, at: &Path, mount: &Mount) -> String {
    let open = mount.open();
    let scheme = open.scheme();
    let (capacity, available) = open.room().await;
    let safety = open.safety();
    let (dir, at) = (dir.display(), at.display());
    let outage = open.outage().await;
    let mut lines: Vec<String> = outage.iter().map(ToString::to_string).collect();
    lines.extend([
        format!("ready: {at} is mounted"),
        format!("  data      {dir}/disks ({all} disks)"),
        format!("  safety    {scheme}: {safety}"),
        format!("  room      {} of {} free, after redundancy", bytes(available), bytes(capacity)),
        format!("  try       cp -a /usr/include {at}/ && ashlar status {at}"),
    ]);
    lines.extend(open.doors().into_iter().flat_map(OpenDoors::lines));
    let warnings = safety.warnings.iter().chain(open.warnings());
    lines.extend(warnings.map(|warning| format!("  warning   {warning}")));
    let again = format!("ashlar demo {at}{}", Again(args));
    if args.daemons {
        let lose = scheme.parity_parts().min(2);
        let number = |n: usize| all * (n + 1) / (lose + 1);
        let pids = (0..lose).map(|n| format!(" $(cat {dir}/daemons/{}.pid)", number(n)));
        if lose > 0 {
            lines.push(format!("  lose {lose}    kill -9{}, and go on", pids.collect::<String>()));
        }
        lines.push(format!("  get back  ashlar umount {at} && {again}"));
    } else {
        lines.push(format!(
            "  next      ashlar umount {at} && {again} --daemons   # one daemon per disk"
        ));
    }
    let or = if background::is_here() { "" } else { "Ctrl-C, or: " };
    lines.push(format!("  end       {or}ashlar umount {at}"));
    lines.join("\n")
}

/// The options that it takes to start this demo again.
struct Again<'a>(&'a Args);

impl fmt::Display for Again<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(dir) = &self.0.dir {
            write!(f, " --dir {}", dir.display())?;
        }
        if let Some(http) = &self.0.doors.http {
            write!(f, " --http {http}")?;
        }
        if let Some(kv) = &self.0.doors.kv {
            write!(f, " --kv {kv}")?;
        }
        if let Some(s3) = &self.0.doors.s3 {
            write!(f, " --s3 {s3}")?;
        }
        if let Some(days) = &self.0.scrub_days {
            write!(f, " --scrub-days {days}")?;
        }
        write!(f, "{}", TlsWords(&self.0.doors))?;
        let words = [
            (self.0.daemons, " --daemons"),
            (self.0.background, " --background"),
            (self.0.no_http, " --no-http"),
            (self.0.doors.no_login, " --no-login"),
        ];
        words.into_iter().filter(|(set, _)| *set).try_for_each(|(_, word)| f.write_str(word))
    }
}

fn default_dir() -> Result<PathBuf> {
    let var = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let data = var("XDG_DATA_HOME").or_else(|| Some(var("HOME")?.join(".local/share")));
    Ok(data.context("no $HOME to keep the demo in: give --dir")?.join("ashlar/demo"))
}

/// The same disks, served by daemons. Their ports are chosen once and remembered.
fn served_cluster(dir: &Path, local: &Cluster) -> Result<Cluster> {
    let file = dir.join(DAEMONS);
    if file.exists() {
        let served = Cluster::read(&file)?;
        let same = served.cluster == local.cluster
            && served.slots.len() == local.slots.len()
            && served.slots.iter().zip(&local.slots).all(|(a, b)| a.disk == b.disk);
        if same {
            return Ok(served);
        }
    }
    let mut served = local.clone();
    for (slot, port) in served.slots.iter_mut().zip(free_ports(local.slots.len())?) {
        slot.path = None;
        slot.address = Some(format!("127.0.0.1:{port}"));
    }
    make::write_cluster(&file, &served)?;
    Ok(served)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_doors_are_open_where_none_is_given_at_ports_that_nobody_has() {
        let told = |wanted: WantedDoors, port: &dyn Fn(u16) -> u16| {
            let WantedDoors { http, kv, s3, .. } = usual(wanted, port);
            [http, kv, s3].map(|address| address.map(|address| address.to_string()))
        };
        let some = |ports: [u16; 3]| ports.map(|port| Some(format!("127.0.0.1:{port}")));
        let same = |port: u16| port;
        assert_eq!(told(WantedDoors::default(), &same), some([7480, 7481, 7482]));
        let kv = Some("127.0.0.1:9".parse().unwrap());
        let [http, kv, s3] = told(WantedDoors { kv, ..WantedDoors::default() }, &same);
        assert_eq!((http.as_deref(), s3), (Some("127.0.0.1:7480"), None));
        assert_eq!(kv.as_deref(), Some("127.0.0.1:9"));
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(or_another(taken.local_addr().unwrap().port()), 0);
    }
}
