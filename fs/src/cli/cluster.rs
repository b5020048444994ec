//! `ashlar cluster`: the machines of a cluster, and the file that describes it, made of what daemons and disks say, so that
//! nobody has to copy ids.

mod create;
mod join;
mod members;
mod served;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use proto::client::Daemon;
use proto::cluster::{Cluster, Slot};
use proto::id::{ClusterId, DiskId, Generation, SlotId};
use proto::program::say;
use proto::rpc::storaged::{DiskStatus, StatusReply};
use proto::tls::Connector;
use proto::touch::touch;
use storaged::superblock::Superblock;

use super::setup::{ClusterFile, block_on};
use crate::mount::embedded::Store;
use crate::mount::roll_call;

/// How long a daemon may take to be there, which may have been started just now.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long it may take to answer.
const ANSWER: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Begin a cluster, have machines join it, and write the file that describes it
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Begin a cluster with this machine and its disks
    ///
    /// Makes the CA by which machines know each other, this machine's key and certificate, its disks, and the cluster file. It is
    /// the root of the cluster: it takes other machines in, while `ashlar node run` runs. What broke off can be done again.
    #[command(
        after_help = "Example:\n  ashlar cluster create --address 10.0.0.1 --disk /srv/disk0 --disk /srv/disk1"
    )]
    Create(create::CreateArgs),
    /// Print a token, with which one other machine can join the cluster (on a root)
    #[command(after_help = "Example:\n  ashlar cluster token --ttl 1h")]
    Token(members::TokenArgs),
    /// Make this machine one of the cluster that a token is of
    ///
    /// Its key is made here and stays here; the root is known by the token. Its disks get their slots once `ashlar node run` runs. What
    /// broke off can be done again; what it served before it serves still.
    #[command(
        after_help = "Examples:\n  ashlar cluster join ashlar1.AX... --disk /srv/disk0\n  ssh root-a ashlar cluster token | ashlar cluster join - --disk /srv/disk0"
    )]
    Join(join::JoinArgs),
    /// Say who this machine is, which machines there are (on a root), and which disks answer
    #[command(after_help = "Example:\n  ashlar cluster status")]
    Status(members::MemberArgs),
    /// Have a machine be of the cluster no more (on a root)
    ///
    /// Its certificates are worth nothing from then on, and it gets no other. Its disks stay in the cluster file: see storaged disk lost.
    #[command(
        after_help = "Example:\n  ashlar cluster revoke 7d1c0000-0000-4000-8000-000000000000"
    )]
    Revoke(members::RevokeArgs),
    /// Take this machine out of its cluster: its certificate is worth nothing from then on, and forgotten
    ///
    /// Refused while disks of it are in the cluster file, and on the root. A machine that was revoked can ask nobody: --forget.
    #[command(after_help = "Example:\n  ashlar cluster leave")]
    Leave(members::LeaveArgs),
    /// Print a cluster file with all disks that these daemons serve, or with these disks
    ///
    /// Waits for daemons that are starting. Disks in directories are opened by the mount itself, without
    /// a daemon. By this file every disk fails alone; with --by-host those of one host fail together.
    #[command(
        after_help = "Examples:\n  ashlar cluster file /srv/disk0 /srv/disk1 /srv/disk2 > cluster.toml\n  ashlar cluster file 10.0.0.1:7411 10.0.0.2:7411 --by-host > cluster.toml"
    )]
    File(FileArgs),
    /// Give up what was only on disks that are empty now
    ///
    /// For when more disks were lost, and replaced by empty ones, than can be: nobody can prove then what was on them, so
    /// that no volume is opened. Afterwards volumes are mounted with what is left, what can be mended is, and
    /// `ashlar fsck VOLUME --lost` names the files of which bytes are gone. What was acknowledged last before the
    /// loss may be gone without a trace. Refused while any disk does not answer, and where nothing has to be given up.
    #[command(
        after_help = "Example:\n  ashlar cluster accept-loss 0b6c0000-0000-4000-8000-000000000001 0b6c0000-0000-4000-8000-000000000002 --cluster cluster.toml"
    )]
    AcceptLoss(AcceptLossArgs),
}

#[derive(clap::Args)]
struct AcceptLossArgs {
    /// Ids of the empty disks, as the cluster file lists them
    #[arg(required = true, value_name = "DISK")]
    disks: Vec<DiskId>,
    #[command(flatten)]
    cluster: ClusterFile,
}

#[derive(clap::Args)]
struct FileArgs {
    /// Where a daemon listens, as the machine that mounts reaches it, or the directory of a disk
    #[arg(required = true, value_name = "HOST:PORT|DIR")]
    places: Vec<String>,
    /// Directory in which a machine keeps what makes volumes fast; relative to the file
    /// [default: not in the file: /var/cache/ashlar for root, ~/.cache/ashlar for others]
    #[arg(long, alias = "meta", value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Disks of one host fail together
    #[arg(long)]
    by_host: bool,
    /// Where an `ashlar metad` leads the volumes, as the machines that mount reach it; repeat for each
    /// [default: whoever mounts a volume leads it]
    #[arg(long, value_name = "HOST:PORT")]
    metad: Vec<String>,
    /// Directory of this machine's certificate in the cluster, which goes into the file
    /// [default: not in the file; /var/lib/ashlar/node, where there is one]
    #[arg(long, value_name = "DIR", env = "ASHLAR_IDENTITY")]
    identity: Option<PathBuf>,
    /// Speak to other machines without TLS: on a network that you trust
    #[arg(long, conflicts_with = "identity")]
    insecure: bool,
}

pub(super) fn run(args: Args) -> Result<ExitCode> {
    let args = match args.command {
        Command::File(args) => args,
        Command::AcceptLoss(args) => return block_on(accept_loss(&args)),
        Command::Create(args) => return create::create(&args),
        Command::Token(args) => return members::token(&args),
        Command::Join(args) => return block_on(join::join(&args)),
        Command::Status(args) => return block_on(members::status(&args)),
        Command::Revoke(args) => return members::revoke(&args),
        Command::Leave(args) => return block_on(members::leave(&args)),
    };
    let cluster = block_on(cluster(&args))?;
    // What this prints must be a file that can be read.
    let text = cluster.to_toml();
    Cluster::parse(&text, Path::new("/"))?;
    say(text.trim_end())?;
    Ok(ExitCode::SUCCESS)
}

async fn accept_loss(args: &AcceptLossArgs) -> Result<ExitCode> {
    let store = Store::open(&args.cluster.read()?).await?;
    let given_up = given_up(&store, &args.disks).await;
    store.close().await;
    given_up?;
    let disks = match args.disks.len() {
        1 => "1 disk has".to_owned(),
        disks => format!("{disks} disks have"),
    };
    say(format!(
        "{disks} nothing to wait for any more: mount the volumes to have them mended, and see what is lost with ashlar fsck VOLUME --lost"
    ))?;
    Ok(ExitCode::SUCCESS)
}

async fn given_up(store: &Store, disks: &[DiskId]) -> Result<()> {
    let slots = store.blobs.current();
    slots.roll_call(roll_call::BOUND).await;
    if !slots.waits_for_emptied().await {
        bail!("nothing has to be given up: mount the volumes, and the empty disks are filled");
    }
    Ok(slots.give_up(disks).await?)
}

async fn cluster(args: &FileArgs) -> Result<Cluster> {
    let mut cluster = None;
    let mut slots: Vec<Slot> = Vec::new();
    let connector = match args.insecure {
        true => Connector::insecure(),
        false => Connector::with(args.identity.as_deref())?,
    };
    for place in &args.places {
        let (id, found) = match place.rsplit_once(':') {
            _ if is_directory(place)? => in_directory(place)?,
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
                served(place, &connector, args.by_host).await?
            }
            _ => bail!("{place} is neither HOST:PORT, as 10.0.0.1:7411, nor a directory"),
        };
        let first = *cluster.get_or_insert(id);
        if first != id {
            bail!("{place} is of cluster {id}, and what comes before it of {first}");
        }
        for slot in found {
            if slots.iter().any(|other| other.disk == slot.disk) {
                bail!("{place} has disk {}, which comes before it already", slot.disk);
            }
            slots.push(slot);
        }
    }
    let cluster = cluster.context("no disks")?;
    let (cache, metad) = (args.cache.clone(), args.metad.clone());
    let identity = args.identity.as_deref().map(std::path::absolute).transpose();
    let (identity, insecure) = (identity.context("--identity")?, args.insecure);
    let generation = Generation(1);
    Ok(Cluster { cluster, generation, cache, metad, identity, insecure, slots })
}

fn is_directory(place: &str) -> Result<bool> {
    let path = PathBuf::from(place);
    touch(move || path.is_dir()).with_context(|| place.to_owned())
}

fn in_directory(place: &str) -> Result<(ClusterId, Vec<Slot>)> {
    let path = std::path::absolute(place).with_context(|| place.to_owned())?;
    let Superblock { cluster, disk, .. } = Superblock::read_soon(&path)?;
    let (slot, (domain, rack)) = (SlotId(0), Default::default());
    let (address, path, replaces) = (None, Some(path), None);
    Ok((cluster, vec![Slot { disk, replaces, address, path, slot, domain, rack, drain: false }]))
}

async fn served(
    address: &str,
    connector: &Connector,
    by_host: bool,
) -> Result<(ClusterId, Vec<Slot>)> {
    let status = ask(address, connector).await.with_context(|| format!("storaged at {address}"))?;
    let cluster = ClusterId::from_slice(&status.cluster)
        .with_context(|| format!("storaged at {address} names no cluster"))?;
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let domain = if by_host { host } else { "" };
    let slot = |served: &DiskStatus| {
        let disk = DiskId::from_slice(&served.disk).filter(|_| served.state == "ok");
        let Some(disk) = disk else {
            bail!("storaged at {address}: its disk {} is {}", served.path, served.state);
        };
        let (address, domain) = (Some(address.to_owned()), domain.to_owned());
        let (slot, replaces, path, rack) = (SlotId(0), None, None, String::new());
        Ok(Slot { disk, replaces, address, path, slot, domain, rack, drain: false })
    };
    Ok((cluster, status.disks.iter().map(slot).collect::<Result<_>>()?))
}

async fn ask(address: &str, connector: &Connector) -> Result<StatusReply> {
    let daemon = Daemon::through(address, connector.clone())?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match tokio::time::timeout(ANSWER, daemon.status()).await {
            Ok(Ok(status)) => return Ok(status),
            Ok(Err(_)) if Instant::now() < deadline => tokio::time::sleep(LOOK_AGAIN).await,
            Ok(Err(e)) => return Err(e.into()),
            Err(_) => bail!("no answer within {ANSWER:?}"),
        }
    }
}
