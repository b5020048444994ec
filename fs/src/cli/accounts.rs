//! How `ashlar user`, `key`, `token`, `link` and `trash` get their orders done: by the process that serves the volume on this
//! machine, or, of one that is not mounted, by themselves, with its lock.

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow};
use meta::{Account, AccountKind, MetaSettings, MetaStore, MountedBy, VolumeLock};
use proto::cluster::Cluster;

use super::directories;
use super::setup::{ClusterFile, block_on};
use crate::access::orders::{Answer, Order};
use crate::mount;
use crate::mount::control::ControlClient;
use crate::mount::embedded::Store;
use crate::mount::mountpoint;
use crate::trash::back::Done;
use crate::trash::orders as trash;

/// How long a mount may take to answer: what it is told is durable then.
const PATIENCE: Duration = Duration::from_secs(20);

/// The same, where there may be much to do.
const WORK: Duration = Duration::from_secs(600);

/// How soon it is looked again whether another command has ended.
const AGAIN: Duration = Duration::from_millis(50);
/// In the place of a mountpoint: a command has the volume.
const COMMAND: &str = "(orders)";

/// Of what an order is.
#[derive(Clone)]
enum About {
    Accounts(Order),
    Trash(trash::Order),
}

/// What was done.
enum Told {
    Accounts(Answer),
    Trash(trash::Answer),
}

/// The volume whose accounts they are, or its trash.
#[derive(clap::Args)]
pub(super) struct Of {
    /// Name of the volume
    pub(super) volume: String,
    #[command(flatten)]
    cluster: ClusterFile,
}

impl Of {
    /// Has it done, wherever the volume is.
    pub(super) fn have(&self, order: Order) -> Result<Answer> {
        match self.have_any(About::Accounts(order))? {
            Told::Accounts(answer) => Ok(answer),
            Told::Trash(answer) => Err(anyhow!("the mount answers something else: {answer:?}")),
        }
    }

    /// The same of the trash.
    pub(super) fn have_of_trash(&self, order: trash::Order) -> Result<trash::Answer> {
        match self.have_any(About::Trash(order))? {
            Told::Trash(answer) => Ok(answer),
            Told::Accounts(answer) => Err(anyhow!("the mount answers something else: {answer:?}")),
        }
    }

    fn have_any(&self, order: About) -> Result<Told> {
        let cluster = self.cluster.read()?;
        let own = directories::of(&cluster)?;
        let by = MountedBy { pid: std::process::id(), mountpoint: PathBuf::from(COMMAND) };
        let until = Instant::now() + PATIENCE;
        loop {
            let waits = |holder: &Option<MountedBy>| {
                holder.as_ref().is_some_and(is_command) && Instant::now() < until
            };
            let holder = meta::lock_holder(&own, &self.volume)?;
            if !waits(&holder) {
                if let Some(holder) = holder {
                    return by_its_mount(&holder, &self.volume, &order);
                }
                match VolumeLock::take(&own, &self.volume, &by) {
                    Ok(lock) => {
                        return block_on(by_its_disks(&cluster, lock, &self.volume, order));
                    }
                    Err(_) if waits(&meta::lock_holder(&own, &self.volume)?) => {}
                    Err(why) => return Err(why.into()),
                }
            }
            // Another such command has it for a moment.
            std::thread::sleep(AGAIN);
        }
    }

    /// All of a kind.
    pub(super) fn all(&self, kind: AccountKind) -> Result<Vec<Account>> {
        match self.have(Order::List(kind))? {
            Answer::Accounts(all) => Ok(all),
            answer => Err(anyhow!("the mount answers something else: {answer:?}")),
        }
    }
}

/// Is it no mount that has the volume, as far as is known, but a command like this one?
fn is_command(holder: &MountedBy) -> bool {
    !holder.is_served_only() && holder.mountpoint.as_os_str().as_encoded_bytes().starts_with(b"(")
}

fn by_its_mount(holder: &MountedBy, volume: &str, order: &About) -> Result<Told> {
    let entry = mountpoint::held_by(holder, volume)?;
    let caller = ControlClient::call_patiently(&entry, PATIENCE);
    let mut caller = caller.with_context(|| format!("process {} does not answer", holder.pid))?;
    let failed = |why| anyhow!("volume {volume}: {why}");
    let (plain, answers) = ("an order is plain data", "what the mount answers");
    Ok(match order {
        About::Accounts(order) => {
            let order = serde_json::to_string(order).context(plain)?;
            let answer = caller.accounts(&order, PATIENCE).map_err(failed)?;
            Told::Accounts(serde_json::from_str(&answer).context(answers)?)
        }
        About::Trash(order) => {
            let order = serde_json::to_string(order).context(plain)?;
            let answer = caller.trash(&order, WORK).map_err(failed)?;
            Told::Trash(serde_json::from_str(&answer).context(answers)?)
        }
    })
}

/// Takes the volume over for a moment.
async fn by_its_disks(
    cluster: &Cluster,
    lock: VolumeLock,
    volume: &str,
    order: About,
) -> Result<Told> {
    let store = Store::open(cluster).await?;
    let done = async {
        let opening = mount::open_volume(cluster, lock, &store, MetaSettings::default());
        let (session, _) = opening.await?;
        let done = obey(order, &session).await.with_context(|| format!("volume {volume}"));
        session.close_session().await?;
        session.opened_on().close().await;
        done
    };
    let done: Result<Told> = done.await;
    store.close().await;
    done
}

async fn obey(order: About, meta: &dyn MetaStore) -> Result<Told> {
    Ok(match order {
        About::Accounts(order) => Told::Accounts(order.obey(meta).await?),
        About::Trash(order) => {
            let by = nix::unistd::geteuid().as_raw();
            // Nobody caches anything of it.
            Told::Trash(order.obey(meta, by, &|attr| attr, &mut Done::default()).await?)
        }
    })
}

/// Seconds since the epoch.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Rows under their heads, in columns.
pub(super) fn table<const N: usize>(heads: [&str; N], rows: Vec<[String; N]>) -> String {
    let all: Vec<[String; N]> = [heads.map(str::to_owned)].into_iter().chain(rows).collect();
    let width = |column: usize| all.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    all.iter().map(line).collect::<Vec<_>>().join("\n")
}
