//! `ashlar metad`: leads volumes for mounts and servers elsewhere.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use meta::{Metad, ProxyStores, VolumeState};
use proto::cluster::{Cluster, Endpoint};
use proto::listen::Listen;
use proto::program::say;
use proto::signals::{self, Hangup};
use proto::systemd;
use proxy::repair::HealSettings;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::setup::{ClusterFile, block_on};
use super::{background, directories};
use crate::data::DataSettings;
use crate::mount::embedded::Store;
use crate::mount::{Server, VolumePlan};

/// Where it listens unless told otherwise.
const DEFAULT_LISTEN: &str = "127.0.0.1:7413";

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
    /// Address to serve on, as in 10.0.0.1:7413; :7413 is every address of the machine, for a network that you trust:
    /// whoever reaches it can read and change every volume [default: 127.0.0.1:7413]
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<Listen>,
    /// Lead this volume; repeat for each [default: all that nobody has]
    #[arg(long = "volume", value_name = "NAME")]
    volumes: Vec<String>,
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
    if listen.is_everywhere() {
        tracing::warn!(
            "listening on {listen}: whoever reaches this machine there can read and change every volume"
        );
    }
    let mut leading = Leading { metad: Metad::new(cluster.cluster), servers: Vec::new() };
    let opening = Box::pin(leading.open(&args, &cluster, &hangups, &stop));
    let opened = systemd::starting(opening).await;
    let served = match opened {
        Ok(()) => leading.serve(listener, stop.clone()).await,
        Err(why) => Err(why),
    };
    stop.cancel();
    let ended = leading.end().await;
    served.and(ended)
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
    /// Takes over what is wanted. Those that were not named are passed over where that fails, unless all do.
    async fn open(
        &mut self,
        args: &RunArgs,
        cluster: &Cluster,
        hangups: &parking_lot::Mutex<Vec<Arc<Notify>>>,
        stop: &CancellationToken,
    ) -> Result<()> {
        let named = !args.volumes.is_empty();
        let wanted = if named { args.volumes.clone() } else { all(cluster).await? };
        for volume in wanted {
            let hangup = Arc::new(Notify::new());
            let plan = plan(args, cluster, &volume, hangup.clone())?;
            match Box::pin(Server::start(plan, stop.clone())).await {
                Ok(server) => {
                    hangups.lock().push(hangup);
                    server.open().warnings().iter().for_each(|warning| background::warn(warning));
                    let led = server.open().led_volume().expect("it leads what it opens");
                    self.metad.lead(led.clone(), server.open().filesystem.clone());
                    self.servers.push((volume, server));
                }
                Err(why) if named || stop.is_cancelled() => return Err(why.into()),
                Err(why) => background::warn(&format!("volume {volume} is not led here: {why}")),
            }
        }
        if self.servers.is_empty() {
            bail!("there is no volume to lead: none of the cluster's can be taken over");
        }
        Ok(())
    }

    /// Serves sessions until told to stop.
    async fn serve(&self, listener: TcpListener, stop: CancellationToken) -> Result<()> {
        let names: Vec<&str> = self.servers.iter().map(|(name, _)| &**name).collect();
        let address = listener.local_addr()?;
        tracing::info!(version = proto::VERSION, %address, volumes = names.join(","), "metad is ready");
        systemd::ready();
        say(format!("leading {} at {address}", names.join(", ")))?;
        self.metad.clone().serve(listener, stop).await;
        systemd::stopping();
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
        heal: HealSettings::default(),
        metrics: None,
        take_over: false,
        leads: true,
        doors: None,
    })
}
