//! `ashlar volume`: which volumes a cluster has, what one may be told to do otherwise, and the end of one. All are
//! told from the disks alone; nothing of it needs anything that was kept on this machine.

use std::fs;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use indicatif::{ProgressBar, ProgressStyle};
use meta::{
    Catalog, Destroyed, Directories, FoundVolume, LockError, MetaSettings, MetaStore, MountedBy,
    ProxyStores, VolumeLock, VolumeState,
};
use proto::cluster::Cluster;
use proto::id::VolumeId;
use proto::program::say;
use proxy::{BlobStore, VolumeRules};

use super::directories;
use super::setup::{ClusterFile, block_on};
use crate::filesystem::trash::DAYS;
use crate::mount;
use crate::mount::catalog::{self, Listed, Volumes};
use crate::mount::control::ControlClient;
use crate::mount::embedded::Store;
use crate::mount::mountpoint;

/// How long a mount may take to answer: what it is told is durable then.
const PATIENCE: Duration = Duration::from_secs(20);

/// List the volumes of a cluster, change one, or destroy one
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// List the volumes of a cluster
    ///
    /// Reads the disks; what this machine keeps is not needed. A volume that cannot be read is listed with the
    /// reason. Disks that a mount on this machine has opened itself can be asked when it has ended.
    #[command(after_help = "Example:\n  ashlar volume list --cluster cluster.toml")]
    List(ListArgs),
    /// Change how a volume stores, and how long it keeps what is deleted
    ///
    /// What is mounted on this machine goes by it at once. A volume that is mounted on another machine is changed there.
    #[command(
        after_help = "Examples:\n  ashlar volume set photos --min-spare 0 --cluster cluster.toml\n  ashlar volume set photos --trash-days 30 --cluster cluster.toml"
    )]
    Set(SetArgs),
    /// Delete a volume with all that is in it
    ///
    /// From the first moment on nobody can write to it or mount it, on any machine. It is refused while the volume is
    /// mounted; of a mount on another machine that holds while it was heard from within 15 s, and not with --take-over.
    /// When this is interrupted, or disks are away, the volume stays in the list until it was run again to the end.
    #[command(
        after_help = "Examples:\n  ashlar volume destroy photos --cluster cluster.toml\n  ashlar volume destroy --number 3735928559 --yes"
    )]
    Destroy(DestroyArgs),
}

#[derive(clap::Args)]
struct ListArgs {
    #[command(flatten)]
    cluster: ClusterFile,
    /// JSON instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
struct SetArgs {
    /// Name of the volume
    volume: String,
    #[command(flatten)]
    cluster: ClusterFile,
    /// Store only while so many more disks may be lost, however many are away: with 0, as a degraded RAID does
    #[arg(long, value_name = "N", required_unless_present = "trash_days")]
    min_spare: Option<u8>,
    /// Keep what is deleted in the trash for so many days, whoever deletes it; with 0 it goes at once, but for what is put
    /// into the trash by the page
    #[arg(long, value_name = "N")]
    trash_days: Option<u16>,
}

#[derive(clap::Args)]
struct DestroyArgs {
    /// Name of the volume
    #[arg(required_unless_present = "number", conflicts_with = "number")]
    volume: Option<String>,
    /// Its number instead, as `ashlar volume list` shows it: some have lost their name
    #[arg(long, value_name = "N")]
    number: Option<u32>,
    #[command(flatten)]
    cluster: ClusterFile,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Also while it is mounted on another machine, which can write nothing from then on
    #[arg(long)]
    take_over: bool,
}

pub(super) fn run(args: Args) -> Result<ExitCode> {
    match args.command {
        Command::List(args) => list(&args),
        Command::Set(args) => set(&args),
        Command::Destroy(args) => destroy(&args),
    }
}

fn list(args: &ListArgs) -> Result<ExitCode> {
    let cluster = args.cluster.read()?;
    let own = directories::of(&cluster)?;
    let volumes = block_on(async {
        let store = Store::open(&cluster).await?;
        let stores = ProxyStores::new(store.blobs.clone());
        let volumes = catalog::look(&stores, &own).await;
        store.close().await;
        anyhow::Ok(volumes)
    })?;
    let Volumes { listed, missed } = volumes;
    say(match args.json {
        true => serde_json::to_string_pretty(&listed).expect("a list is plain data"),
        false => table(&listed),
    })?;
    if let Some(why) = missed {
        bail!("disks are away, and with them there may be more: {why}");
    }
    Ok(ExitCode::SUCCESS)
}

fn table(listed: &[Listed]) -> String {
    if listed.is_empty() {
        return "no volumes".to_owned();
    }
    let mut rows: Vec<[String; 4]> = vec![["NAME", "SCHEME", "NUMBER", "STATE"].map(str::to_owned)];
    rows.extend(listed.iter().map(|volume| {
        let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        let state = match (&volume.reason, &volume.mounted) {
            (Some(why), _) => format!("{}: {why}", volume.state),
            (None, Some(by)) if volume.state == "whole" => {
                let (pid, mountpoint) = (by.pid, by.mountpoint.clone());
                MountedBy { pid, mountpoint }.to_string()
            }
            (None, None) if volume.state == "whole" => "not mounted on this machine".to_owned(),
            (None, _) => volume.state.to_owned(),
        };
        [or_dash(&volume.name), or_dash(&volume.scheme), volume.number.to_string(), state]
    }));
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let (name, scheme, number) = (width(0), width(1), width(2));
    let line = |row: &[String; 4]| {
        format!("{:name$}  {:scheme$}  {:number$}  {}", row[0], row[1], row[2], row[3])
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn set(args: &SetArgs) -> Result<ExitCode> {
    let volume = &args.volume;
    let cluster = args.cluster.read()?;
    let own = directories::of(&cluster)?;
    match meta::lock_holder(&own, volume)? {
        Some(holder) => set_mounted(&holder, args)?,
        None => block_on(set_unmounted(&cluster, &own, args))?,
    }
    if let Some(disks) = args.min_spare {
        say(format!("volume {volume} stores while {disks} more disks may be lost"))?;
    }
    if let Some(days) = args.trash_days {
        say(kept(volume, days))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What becomes of what is deleted, and of what was.
fn kept(volume: &str, days: u16) -> String {
    let (deleted, stays) = match days {
        0 => ("keeps nothing of what is deleted from now on".to_owned(), DAYS),
        1 => ("keeps what is deleted in the trash for a day".to_owned(), 1),
        _ => (format!("keeps what is deleted in the trash for {days} days"), days),
    };
    format!(
        "volume {volume} {deleted}; what was deleted more than {stays} days ago goes for good, but not for ten minutes: until then this can be changed again"
    )
}

/// Tells the process that serves it.
fn set_mounted(holder: &MountedBy, args: &SetArgs) -> Result<()> {
    let volume = &args.volume;
    let entry = mountpoint::held_by(holder, volume)?;
    let caller = ControlClient::call_patiently(&entry, PATIENCE);
    let mut caller = caller.with_context(|| format!("process {} does not answer", holder.pid))?;
    let failed = |why| anyhow!("volume {volume}, {holder}: {why}");
    if let Some(disks) = args.min_spare {
        caller.set_min_spare(disks, PATIENCE).map_err(failed)?;
    }
    if let Some(days) = args.trash_days {
        caller.set_trash_days(days, PATIENCE).map_err(failed)?;
    }
    Ok(())
}

/// Takes it over for a moment.
async fn set_unmounted(cluster: &Cluster, own: &Directories, args: &SetArgs) -> Result<()> {
    let by = MountedBy { pid: std::process::id(), mountpoint: PathBuf::from("(setting)") };
    let lock = VolumeLock::take(own, &args.volume, &by)?;
    let store = Store::open(cluster).await?;
    let setting = async {
        let opening = mount::open_volume(cluster, lock, &store, MetaSettings::default());
        let (session, _) = opening.await?;
        let set = async {
            if let Some(disks) = args.min_spare {
                let disks = VolumeRules::spare(session.volume().scheme, disks)?;
                session.set_min_spare(disks).await?;
            }
            if let Some(days) = args.trash_days {
                session.set_trash_days(days).await?;
            }
            anyhow::Ok(())
        };
        let set = set.await;
        session.close_session().await?;
        session.opened_on().close().await;
        set
    };
    let set: Result<()> = setting.await;
    store.close().await;
    set
}

fn destroy(args: &DestroyArgs) -> Result<ExitCode> {
    let cluster = args.cluster.read()?;
    let own = directories::of(&cluster)?;
    // Whoever has it mounted has its disks, too, where there are no daemons.
    let lock = args.volume.as_deref().map(|name| lock(&own, name)).transpose()?;
    block_on(async {
        let store = Store::open(&cluster).await?;
        let stores = ProxyStores::new(store.blobs.clone());
        let destroyed = destroy_found(args, (&store, &stores), &own, lock).await;
        store.close().await;
        destroyed
    })
}

fn lock(own: &Directories, name: &str) -> Result<VolumeLock, LockError> {
    let by = MountedBy { pid: std::process::id(), mountpoint: PathBuf::from("(destroying)") };
    VolumeLock::take(own, name, &by)
}

async fn destroy_found(
    args: &DestroyArgs,
    (store, stores): (&Store, &ProxyStores),
    own: &Directories,
    lock: Option<VolumeLock>,
) -> Result<ExitCode> {
    let found = match find(args, meta::list(stores).await) {
        Ok(found) => found,
        Err(why) => {
            // There is no such volume to be locked.
            lock.into_iter().for_each(VolumeLock::remove);
            return Err(why);
        }
    };
    let lock = match (lock, &found.name) {
        (None, Some(name)) => Some(self::lock(own, name)?),
        (lock, _) => lock,
    };
    let named = named(&found);
    let in_use = async || -> Result<()> {
        // What is half destroyed nobody can use.
        if args.take_over || found.state == VolumeState::Condemned {
            return Ok(());
        }
        let holder = meta::holder(stores, found.id, lock.as_ref()).await;
        let holder = holder.with_context(|| {
            format!(
                "whether {named} is in use nobody can say; --take-over destroys it all the same"
            )
        })?;
        holder.map_or(Ok(()), |holder| {
            Err(anyhow!(
                "{named} is in use by {holder}: unmount it there, or destroy it all the same with --take-over"
            ))
        })
    };
    in_use().await?;
    if !args.yes {
        if !confirmed(&named)? {
            say("nothing was destroyed")?;
            return Ok(ExitCode::FAILURE);
        }
        // Somebody may have mounted it meanwhile.
        in_use().await?;
    }
    if let Some(lock) = &lock
        && let Ok(looked) =
            meta::look(stores, lock.name(), Some(lock), MetaSettings::default()).await
    {
        // Where nothing can be read of it the map says whose answers keep others from writing to it.
        store.blobs.abide_by(found.id, looked.info().rules);
    }
    let Destroyed { deleted, unconfirmed } = with_progress(stores, found.id).await?;
    if unconfirmed > 0 {
        bail!(
            "{named} cannot be mounted any more, and {deleted} of its blobs are deleted; parts of \
             {unconfirmed} more may be on disks that are away: run this again when they are back"
        );
    }
    if let Some(lock) = lock {
        let log = directories::messages_of(own, lock.name());
        log.iter().for_each(|file| drop(fs::remove_file(file)));
        lock.remove();
    }
    say(format!("{named} is destroyed: {deleted} blobs are deleted"))?;
    Ok(ExitCode::SUCCESS)
}

/// The volume that is meant.
fn find(args: &DestroyArgs, all: Catalog) -> Result<FoundVolume> {
    let Catalog { volumes: all, missed } = all;
    let meant = |found: &FoundVolume| match (&args.volume, args.number) {
        (Some(name), _) => found.name.as_ref() == Some(name),
        (None, number) => Some(found.id.0) == number,
    };
    let whole: Vec<String> = all.iter().map(named).collect();
    let mut found = all.into_iter().filter(meant);
    match (found.next(), found.next()) {
        (Some(only), None) => Ok(only),
        (Some(one), Some(other)) => {
            bail!("two volumes are called so: give --number {} or --number {}", one.id, other.id)
        }
        (None, _) => {
            if let Some(why) = missed {
                bail!("it cannot be found while disks are away: {why}");
            }
            let asked = match (&args.volume, args.number) {
                (Some(name), _) => name.clone(),
                (None, number) => format!("number {}", number.unwrap_or_default()),
            };
            let others =
                if whole.is_empty() { "nor any other".to_owned() } else { whole.join(", ") };
            bail!("there is no volume {asked} in the cluster, only: {others}")
        }
    }
}

fn named(found: &FoundVolume) -> String {
    match &found.name {
        Some(name) => format!("volume {name}"),
        None => format!("volume number {}", found.id),
    }
}

/// Asks whoever sits at the terminal.
fn confirmed(named: &str) -> Result<bool> {
    if !io::stdin().is_terminal() {
        bail!("nobody can be asked here whether {named} shall be destroyed: give --yes");
    }
    let mut out = io::stderr();
    write!(out, "destroy {named} with all that is in it? [y/N] ").context("asking")?;
    out.flush().context("asking")?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).context("asking")?;
    Ok(["y", "yes"].contains(&answer.trim().to_lowercase().as_str()))
}

async fn with_progress(stores: &ProxyStores, id: VolumeId) -> Result<Destroyed> {
    let style = ProgressStyle::with_template("{spinner} {pos} blobs deleted, {per_sec}");
    let bar = ProgressBar::no_length().with_style(style.expect("the template is one"));
    let told = |at: Destroyed| bar.set_position(at.deleted + at.unconfirmed);
    let destroyed = meta::destroy(stores, id, &told).await;
    bar.finish_and_clear();
    Ok(destroyed?)
}
