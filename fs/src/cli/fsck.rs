//! `ashlar fsck`: whether everything that metadata promises is really there ([`crate::fsck`]).
//!
//! Three ways to a volume: alone, with its lock, where it is mounted nowhere on this machine; through the process that
//! serves it here, which has the disks (`--online`); or, of one that is mounted elsewhere, beside whoever has it.
//!
//! All that it finds goes to stdout, the verdict last; stderr is for why it could not look.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use indicatif::{ProgressBar, ProgressStyle};
use meta::{
    Directories, LockError, Losses, MetaSettings, MountedBy, ProxyStores, Volume, VolumeLock,
};
use proto::cluster::Cluster;
use proto::program::say;
use proxy::BlobStore as _;
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
/// that cannot be (or is away), 8 if it could not work. With --salvage the same, of a volume that is refused as its metadata
/// have lost what no disk has any more: it is opened with what is left.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  ashlar fsck photos --cluster cluster.toml\n  \
    ashlar fsck photos --online --data --cluster cluster.toml\n  \
    ashlar fsck photos --lost --cluster cluster.toml\n  \
    ashlar fsck photos --repair --cluster cluster.toml\n  \
    ashlar fsck photos --salvage --lost --cluster cluster.toml")]
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
    /// Opens a volume whose metadata have lost what no disk has any more, with what is left, and repairs it
    #[arg(long, conflicts_with = "online")]
    salvage: bool,
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
        Wish { repair: self.repairs(), data: self.data, lost: self.lost }
    }

    /// Is anything changed?
    fn repairs(&self) -> bool {
        self.repair || self.salvage
    }
}

pub(super) fn run(args: Args) -> Result<ExitCode> {
    match (checked(&args), args.repairs()) {
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
    Ok(match (findings.is_in_order(), args.repairs(), findings.has_mended()) {
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

/// A volume that is checked.
struct Opened {
    volume: Arc<Volume>,
    /// This process leads it; else it is only looked at.
    led: bool,
    /// Others work on it.
    in_use: bool,
    /// It was opened with what was left of its metadata.
    losses: Option<Losses>,
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
    let opened = match lock {
        Some(lock) if args.salvage => salvaged(store, &stores, lock, (cluster, &called)).await?,
        lock => opened(store, &stores, lock, (cluster, &called), args).await?,
    };
    let Opened { volume, led, in_use, losses } = opened;
    let info = volume.info();
    let warnings = roll_call::call(&volume, cluster, &called, None).await?;
    let outage = store.outage(&info).await;
    let disks_away = outage.as_ref().map_or(0, Outage::away);
    let outage = outage.map(|outage| outage.to_string());
    let (proxy, bar) = (store.blobs.current(), bar());
    let led_by = led.then_some(&*volume);
    let users = match in_use {
        true => Users::Elsewhere(HealSettings::default().rate),
        false => Users::None,
    };
    let (examiner, name) = (Examiner::new(&proxy, users), &args.volume);
    let (led, salvaged) = (led_by, losses.as_ref());
    let patient = Patient { stores: &stores, proxy: &proxy, examiner, name, led, in_use, salvaged };
    let told = |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    };
    let found = fsck::check(&patient, args.wish(), &told).await;
    bar.finish_and_clear();
    if led_by.is_some() {
        Volume::close(&volume).await;
    }
    Ok(Findings { warnings, disks_away, outage, ..found? })
}

/// The volume as it is: led by who repairs it, else looked at.
async fn opened(
    store: &Store,
    stores: &ProxyStores,
    lock: Option<VolumeLock>,
    (cluster, called): (&Cluster, &Called),
    args: &Args,
) -> Result<Opened> {
    let looked = mount::check_first(store, cluster, (&args.volume, lock.as_ref()), called).await;
    let looked = looked.map_err(|why| match why {
        // What it is about is in the volume's own words.
        MountError::Volume(why) => anyhow::Error::from(why),
        why => why.into(),
    })?;
    let looked = match looked {
        Some(looked) => looked,
        None => meta::look(stores, &args.volume, lock.as_ref(), MetaSettings::default()).await?,
    };
    let id = looked.info().id;
    let in_use = !args.repairs() && meta::holder(stores, id, lock.as_ref()).await?.is_some();
    if let Some(lock) = lock.filter(|_| args.repairs()) {
        let settings = MetaSettings { uncounted: true, ..MetaSettings::default() };
        let volume = meta::open(stores, lock, settings).await?;
        return Ok(Opened { volume, led: true, in_use, losses: None });
    }
    Ok(Opened { volume: looked, led: false, in_use, losses: None })
}

/// The volume with what is left of its metadata, led; as any other, where nothing of them is lost. First it is looked at,
/// so that no wrong cluster file makes anything lost that is only on disks which it does not name.
async fn salvaged(
    store: &Store,
    stores: &ProxyStores,
    lock: VolumeLock,
    (cluster, called): (&Cluster, &Called),
) -> Result<Opened> {
    let slots = store.blobs.slots().await;
    let away = slots.iter().filter(|slot| slot.state != "up").count();
    if away > 0 {
        bail!(
            "{away} of {} disks do not answer, and may have what is missing: bring them back, or replace them and give up \
             what they had with ashlar cluster accept-loss, and run this again",
            slots.len()
        );
    }
    let (looked, losses) = meta::look_at_remains(stores, &lock, MetaSettings::default()).await?;
    let (info, members) = (looked.info(), looked.members().await?);
    store.blobs.abide_by(info.id, info.rules);
    roll_call::check_file(&info, members.as_ref(), cluster)?;
    called.check_for(info.scheme, cluster)?;
    called.check_joined(&info, members.as_ref(), cluster)?;
    let settings = MetaSettings { uncounted: true, ..MetaSettings::default() };
    let whole = meta::look(stores, lock.name(), None, MetaSettings::default()).await;
    let (volume, losses) = match whole {
        Ok(_) if losses.is_none() => (meta::open(stores, lock, settings).await?, None),
        _ => {
            let (volume, losses) = meta::salvage(stores, lock, settings).await?;
            (volume, Some(losses))
        }
    };
    Ok(Opened { volume, led: true, in_use: false, losses })
}
