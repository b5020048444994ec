//! `ashlar fsck`: whether everything that metadata promises is really there ([`crate::fsck`]).
//!
//! Three ways to a volume: alone, with its lock, where it is mounted nowhere on this machine; through the process that
//! serves it here, which has the disks (`--online`); or, of one that is mounted elsewhere, beside whoever has it.
//!
//! All that it finds goes to stdout, the verdict last; stderr is for why it could not look.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use indicatif::{ProgressBar, ProgressStyle};
use meta::{Directories, LockError, MetaSettings, MountedBy, ProxyStores, Volume, VolumeLock};
use proto::cluster::Cluster;
use proto::program::say;
use proxy::repair::{Examiner, HealSettings, Users};

use super::directories;
use super::setup::{ClusterFile, block_on};
use crate::fsck::{self, Findings, Patient, Wish};
use crate::mount::control::ControlClient;
use crate::mount::embedded::Store;
use crate::mount::mountpoint;
use crate::mount::outage::Outage;
use crate::mount::roll_call::{self, Called};
use crate::mount::{self, MountError};

/// How long a mount may take to answer a call.
const PATIENCE: Duration = Duration::from_secs(10);
/// Repaired, and something is left that cannot be.
const LEFT: u8 = 4;
/// It could not be repaired, for a reason that is told.
const IN_VAIN: u8 = 8;

/// Check whether all of a volume is there, and repair it
///
/// Walks the metadata, asks the disks for every part of every blob, and reads all copies of what metadata are in; with
/// --data of everything. It tells apart what is lost, what can be restored, and what is only away with disks that do not
/// answer. Writes nothing, unless it shall repair. Exits with 0 if all is in order, and with 1 if something is damaged,
/// missing or away. With --repair: 0 if all was in order, 1 if everything could be put right, 4 if something is left
/// that cannot be (or is away), 8 if it could not work.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  ashlar fsck photos --cluster cluster.toml\n  \
    ashlar fsck photos --online --data --cluster cluster.toml\n  \
    ashlar fsck photos --lost --cluster cluster.toml\n  \
    ashlar fsck photos --repair --cluster cluster.toml")]
pub(super) struct Args {
    /// Name of the volume
    volume: String,
    #[command(flatten)]
    cluster: ClusterFile,
    /// Checks it while it is mounted, as it is on the disks at one moment
    #[arg(long)]
    online: bool,
    /// Puts right what is wrong, as far as that is known: metadata where it is mounted nowhere, and blobs of which enough
    /// is left
    #[arg(long)]
    repair: bool,
    /// Reads and verifies every byte, all parts of all blobs
    #[arg(long)]
    data: bool,
    /// Names the files of which bytes cannot be read
    #[arg(long)]
    lost: bool,
    /// JSON instead of text
    #[arg(long)]
    json: bool,
}

impl Args {
    fn wish(&self) -> Wish {
        Wish { repair: self.repair, data: self.data, lost: self.lost }
    }
}

pub(super) fn run(args: Args) -> Result<ExitCode> {
    match (checked(&args), args.repair) {
        (Err(why), true) => {
            let why: Box<dyn std::error::Error + Send + Sync> = why.into();
            Ok(proto::program::exit_code("ashlar", Err(why), ExitCode::from(IN_VAIN)))
        }
        (checked, _) => checked,
    }
}

fn checked(args: &Args) -> Result<ExitCode> {
    let cluster = args.cluster.read()?;
    let own = directories::of(&cluster)?;
    let holder = match args.online {
        true => meta::lock_holder(&own, &args.volume)?,
        false => None,
    };
    let findings = match holder {
        Some(holder) => by_its_mount(&holder, args)?,
        None => block_on(by_its_disks(&cluster, &own, args))?,
    };
    say(match args.json {
        true => serde_json::to_string_pretty(&findings).expect("findings are plain data"),
        false => findings.told(&args.volume),
    })?;
    Ok(match (findings.is_in_order(), args.repair, findings.has_mended()) {
        (true, false, _) | (true, true, false) => ExitCode::SUCCESS,
        (false, true, _) => ExitCode::from(LEFT),
        (false, false, _) | (true, true, true) => ExitCode::FAILURE,
    })
}

fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {pos} of {len} blobs, {eta} left");
    ProgressBar::no_length().with_style(style.expect("the template is one"))
}

/// Has the process do it that serves the volume here.
fn by_its_mount(holder: &MountedBy, args: &Args) -> Result<Findings> {
    let entry = mountpoint::held_by(holder, &args.volume)?;
    let caller = ControlClient::call_patiently(&entry, PATIENCE);
    let mut caller = caller.with_context(|| format!("process {} does not answer", holder.pid))?;
    let bar = bar();
    let found = caller.fsck(&args.wish().words(), PATIENCE, |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let found = found.map_err(|why| anyhow!("volume {}, {holder}: {why}", args.volume))?;
    serde_json::from_str(&found).context("what the mount has found")
}

/// Asks the disks: with the volume's lock, or beside whoever has it.
async fn by_its_disks(cluster: &Cluster, own: &Directories, args: &Args) -> Result<Findings> {
    if args.online && args.repair {
        bail!(
            "volume {} is not mounted on this machine: repair it without --online, or where it is mounted",
            args.volume
        );
    }
    let by = MountedBy { pid: std::process::id(), mountpoint: PathBuf::from("(fsck)") };
    let lock = match args.online {
        true => None,
        false => Some(VolumeLock::take(own, &args.volume, &by).map_err(with_a_hint)?),
    };
    let store = Store::open(cluster).await?;
    let checked = match with_disks(&store, lock, cluster, args).await {
        Err(why) => Err(fsck::explained(&*store.blobs.current(), why).await),
        checked => checked,
    };
    store.close().await;
    checked
}

fn with_a_hint(why: LockError) -> anyhow::Error {
    match why {
        why @ LockError::Mounted { .. } => anyhow!("{why} (--online checks it there)"),
        why => why.into(),
    }
}

/// Checks it on the disks of a cluster file that can be right.
async fn with_disks(
    store: &Store,
    lock: Option<VolumeLock>,
    cluster: &Cluster,
    args: &Args,
) -> Result<Findings> {
    let called = Called::of(&store.blobs.current()).await;
    called.check(cluster)?;
    let stores = ProxyStores::new(store.blobs.clone());
    let looked = mount::check_first(store, cluster, (&args.volume, lock.as_ref()), &called).await;
    let looked = looked.map_err(|why| match why {
        // What it is about is in the volume's own words.
        MountError::Volume(why) => anyhow::Error::from(why),
        why => why.into(),
    })?;
    let looked = match looked {
        Some(looked) => looked,
        None => meta::look(&stores, &args.volume, lock.as_ref(), MetaSettings::default()).await?,
    };
    let info = looked.info();
    let in_use = !args.repair && meta::holder(&stores, info.id, lock.as_ref()).await?.is_some();
    let led = match lock.filter(|_| args.repair) {
        Some(lock) => {
            let settings = MetaSettings { uncounted: true, ..MetaSettings::default() };
            Some(meta::open(&stores, lock, settings).await?)
        }
        None => None,
    };
    let warnings = roll_call::call(led.as_ref().unwrap_or(&looked), cluster, &called, None).await?;
    let outage = store.outage(&info).await;
    let disks_away = outage.as_ref().map_or(0, Outage::away);
    let outage = outage.map(|outage| outage.to_string());
    let (proxy, bar) = (store.blobs.current(), bar());
    let led_by = led.as_deref();
    let users = match in_use {
        true => Users::Elsewhere(HealSettings::default().rate),
        false => Users::None,
    };
    let (examiner, name) = (Examiner::new(&proxy, users), &args.volume);
    let patient = Patient { stores: &stores, proxy: &proxy, examiner, name, led: led_by, in_use };
    let told = |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    };
    let found = fsck::check(&patient, args.wish(), &told).await;
    bar.finish_and_clear();
    if let Some(led) = led {
        Volume::close(&led).await;
    }
    Ok(Findings { warnings, disks_away, outage, ..found? })
}
