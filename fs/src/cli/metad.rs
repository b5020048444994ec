//! `ashlar metad`: leads volumes for mounts and servers elsewhere.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use meta::{LockError, Metad, ProxyStores, VolumeError, VolumeState};
use proto::cluster::{Cluster, Endpoint};
use proto::listen::Listen;
use proto::program::say;
use proto::signals::{self, Hangup};
use proto::systemd;
use proto::tls::Acceptor;
use proto::tls::identity::Role;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::care::Care;
use super::setup::{ClusterFile, block_on};
use super::{background, directories};
use crate::data::DataSettings;
use crate::mount::embedded::Store;
use crate::mount::{MountError, Server, VolumePlan};

/// Where it listens unless told otherwise.
const DEFAULT_LISTEN: &str = "127.0.0.1:7413";

/// How often it is tried to take over what another leads.
const AGAIN: Duration = Duration::from_millis(500);

/// Lead volumes of a cluster, for mounts on any machine
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Lead volumes until told to stop (SIGTERM or Ctrl-C)
    ///
    /// Takes volumes over that nobody has, keeps house for them, and does what sessions ask. SIGHUP has it read the
    /// cluster file again.
    #[command(
        after_help = "Example:\n  ashlar metad run --listen 10.0.0.1:7413 --cluster /etc/ashlar/cluster.toml"
    )]
    Run(RunArgs),
}

#[derive(clap::Args)]
struct RunArgs {
    #[command(flatten)]
    cluster: ClusterFile,
    /// Address to serve on, as in 10.0.0.1:7413; :7413 is every address of the machine. Other machines are served by TLS, as
    /// far as they are of the cluster, once this one is a root of it (ashlar cluster create, join) [default: 127.0.0.1:7413]
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<Listen>,
    /// Lead this volume; repeat for each [default: all that nobody has]
    #[arg(long = "volume", value_name = "NAME")]
    volumes: Vec<String>,
    /// Wait for volumes that others lead, and take each over when whoever leads it is gone: another metad on this machine at once, on
    /// another once it was not heard from for 3 s. The cluster file names all of them
    #[arg(long)]
    standby: bool,
    #[command(flatten)]
    care: Care,
}

pub(super) fn run(args: Args) -> Result<ExitCode> {
    let Command::Run(args) = args.command;
    block_on(serve(args))?;
    Ok(ExitCode::SUCCESS)
}

async fn serve(args: RunArgs) -> Result<()> {
    let cluster = args.cluster.read()?;
    check(&cluster)?;
    let listen = match args.listen.clone() {
        Some(listen) => listen,
        None => DEFAULT_LISTEN.parse().context("the default address")?,
    };
    let hangups: Arc<parking_lot::Mutex<Vec<Arc<Notify>>>> = Arc::default();
    let told = hangups.clone();
    let reload = Hangup::of_terminal(move || told.lock().iter().for_each(|one| one.notify_one()));
    let stop = signals::take("ashlar", reload).context("waiting for signals")?;
    // Before volumes are taken over, so that none is in vain.
    let listener = TcpListener::bind(listen.addresses()).await;
    let listener = listener.with_context(|| format!("listening on {listen}"))?;
    let identity = cluster.identity.as_deref();
    let acceptor = Acceptor::listening(&listen, identity, cluster.cluster, cluster.insecure)?;
    if let Some(own) = acceptor.identity().filter(|own| !own.is(Role::Root)) {
        bail!("volumes are led by roots of the cluster, and this machine is {own}");
    }
    if !acceptor.is_secure() && !listen.is_here() {
        tracing::warn!(
            "listening on {listen} without TLS: whoever reaches it can read and change every volume"
        );
    }
    let address = listener.local_addr()?;
    let metad = Metad::new(cluster.cluster, acceptor);
    // Who stands by sends on whoever comes; else nobody is answered before it is known what is led.
    let answers = CancellationToken::new();
    if args.standby {
        answers.cancel();
    }
    let (serving, may, stopped) = (metad.clone(), answers.clone(), stop.clone());
    let serving = tokio::spawn(async move {
        may.cancelled().await;
        serving.serve(listener, stopped).await;
    });
    let mut leading = Leading { metad, servers: Vec::new() };
    let how = How { args: &args, cluster: &cluster, hangups: &hangups, stop: &stop, address };
    let opening = Box::pin(leading.open(&how));
    let opened = systemd::starting(opening).await;
    answers.cancel();
    let served = match opened {
        Ok(waiting) => Box::pin(leading.serve(&how, waiting)).await,
        Err(why) => Err(why),
    };
    stop.cancel();
    serving.await.context("serving sessions")?;
    let ended = leading.end().await;
    served.and(ended)
}

/// With what volumes are led.
struct How<'a> {
    args: &'a RunArgs,
    cluster: &'a Cluster,
    hangups: &'a parking_lot::Mutex<Vec<Arc<Notify>>>,
    stop: &'a CancellationToken,
    address: SocketAddr,
}

/// Can sessions reach the disks that it says?
fn check(cluster: &Cluster) -> Result<()> {
    let local = cluster.slots.iter().find_map(|slot| match slot.endpoint() {
        Endpoint::Local(path) => Some(path),
        Endpoint::Remote(_) => None,
    });
    if let Some(path) = local {
        bail!(
            "the cluster file has the disk at {} without an address: mounts elsewhere cannot reach it; serve it by storaged, and give its address",
            path.display()
        );
    }
    Ok(())
}

/// What is led.
struct Leading {
    metad: Arc<Metad>,
    /// By the names of the volumes.
    servers: Vec<(String, Server)>,
}

impl Leading {
    /// Takes over what is wanted; answers what others lead, and is waited for. Those that were not named are passed over where that
    /// fails, unless all do.
    async fn open(&mut self, how: &How<'_>) -> Result<Vec<String>> {
        let named = !how.args.volumes.is_empty();
        let wanted = if named { how.args.volumes.clone() } else { all(how.cluster).await? };
        let mut waiting = Vec::new();
        for volume in wanted {
            match self.take(how, &volume).await {
                Ok(()) => {}
                Err(Refused::Led(_)) if how.args.standby => waiting.push(volume),
                Err(Refused::Led(why) | Refused::No(why)) if named || how.stop.is_cancelled() => {
                    return Err(why);
                }
                Err(Refused::Led(why) | Refused::No(why)) => {
                    background::warn(&format!("volume {volume} is not led here: {why:#}"));
                }
            }
        }
        if self.servers.is_empty() && waiting.is_empty() {
            bail!("there is no volume to lead: none of the cluster's can be taken over");
        }
        Ok(waiting)
    }

    /// Takes a volume over.
    async fn take(&mut self, how: &How<'_>, volume: &str) -> Result<(), Refused> {
        let hangup = Arc::new(Notify::new());
        let plan = plan(how.args, how.cluster, volume, hangup.clone()).map_err(Refused::No)?;
        let server = Box::pin(Server::start(plan, how.stop.clone())).await?;
        how.hangups.lock().push(hangup);
        server.open().warnings().iter().for_each(|warning| background::warn(warning));
        let led = server.open().led_volume().expect("it leads what it opens");
        self.metad.lead(led.clone(), server.open().filesystem.clone());
        self.servers.push((volume.to_owned(), server));
        Ok(())
    }

    /// Leads until told to stop, and takes over what is waited for as soon as that is free.
    async fn serve(&mut self, how: &How<'_>, waiting: Vec<String>) -> Result<()> {
        let address = how.address;
        systemd::ready();
        if !self.servers.is_empty() {
            let names: Vec<&str> = self.servers.iter().map(|(name, _)| &**name).collect();
            tracing::info!(version = proto::VERSION, %address, volumes = names.join(","), "metad is ready");
            say(format!("leading {} at {address}", names.join(", ")))?;
        }
        if !waiting.is_empty() {
            say(format!("standing by for {} at {address}", waiting.join(", ")))?;
            self.stand_by(how, waiting).await?;
        }
        let lost = tokio::select! {
            () = how.stop.cancelled() => None,
            lost = self.metad.lost() => Some(lost),
        };
        systemd::stopping();
        match lost {
            Some(lost) => bail!("another leads what was led here: {lost}"),
            None => Ok(()),
        }
    }

    /// Takes over what is waited for, or is told to stop, or another has taken over what is led here.
    async fn stand_by(&mut self, how: &How<'_>, mut waiting: Vec<String>) -> Result<()> {
        let metad = self.metad.clone();
        // Of which that was said.
        let mut failing = BTreeSet::new();
        while !waiting.is_empty() {
            tokio::select! {
                () = tokio::time::sleep(AGAIN) => {}
                () = how.stop.cancelled() => return Ok(()),
                _ = metad.lost() => return Ok(()),
            }
            let mut others = Vec::new();
            for volume in waiting {
                match self.take(how, &volume).await {
                    Ok(()) => {
                        say(format!("leading {volume} at {}", how.address))?;
                    }
                    Err(Refused::Led(why)) => {
                        tracing::debug!("volume {volume} is not taken over: {why:#}");
                        failing.remove(&volume);
                        others.push(volume);
                    }
                    Err(Refused::No(why)) => {
                        if failing.insert(volume.clone()) {
                            tracing::warn!(
                                "volume {volume} cannot be taken over: {why:#}; trying on"
                            );
                        }
                        others.push(volume);
                    }
                }
            }
            waiting = others;
        }
        Ok(())
    }

    /// Lets go of all, which have been told to stop.
    async fn end(self) -> Result<()> {
        let mut failed = Ok(());
        for (name, server) in self.servers {
            self.metad.hand_over(&name);
            if let Err(why) = server.run().await {
                failed = Err(anyhow::Error::from(why).context(format!("volume {name}")));
            }
        }
        failed
    }
}

/// Why a volume was not taken over.
enum Refused {
    /// Somebody leads it, who is alive.
    Led(anyhow::Error),
    /// Something is wrong.
    No(anyhow::Error),
}

impl From<MountError> for Refused {
    fn from(why: MountError) -> Self {
        match why {
            MountError::Volume(VolumeError::Held { .. })
            | MountError::Lock(LockError::Mounted { .. }) => Self::Led(why.into()),
            why => Self::No(why.into()),
        }
    }
}

/// The volumes that can be led.
async fn all(cluster: &Cluster) -> Result<Vec<String>> {
    let store = Store::open(cluster).await?;
    let found = meta::list(&ProxyStores::new(store.blobs.clone())).await;
    store.close().await;
    if let Some(why) = found.missed {
        background::warn(&format!("volumes may be missing: {why}"));
    }
    let whole = found.volumes.into_iter().filter(|volume| volume.state == VolumeState::Whole);
    Ok(whole.filter_map(|volume| volume.name).collect())
}

fn plan(
    args: &RunArgs,
    cluster: &Cluster,
    volume: &str,
    hangup: Arc<Notify>,
) -> Result<VolumePlan> {
    Ok(VolumePlan {
        volume: volume.to_owned(),
        directories: directories::of(cluster)?,
        cluster: cluster.clone(),
        file: std::path::absolute(&args.cluster.path).context("the cluster file")?,
        hangup,
        data: DataSettings::default(),
        heal: args.care.heal(),
        scrub_days: args.care.scrub_days(),
        metrics: None,
        take_over: false,
        leads: true,
        doors: None,
    })
}
