//! `ashlar node`: what a machine of a cluster runs: its disks are served, its certificate is renewed, and on a root others
//! are taken in.

mod agent;
pub(super) mod ask;
pub(super) mod found;
mod ledger;
pub(super) mod root;
pub(super) mod state;

use std::process::ExitCode;

use anyhow::{Context, Result};
use proto::listen::Listen;
use proto::program::say;
use proto::signals::{self, Hangup};
use proto::systemd;
use proto::tls::Acceptor;
use proto::tls::credentials::Credentials;
use proto::tls::identity::Role;
use storaged::daemon::RunConfig;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::agent::Agent;
use self::state::{Settings, State, StateArg};
use super::setup::block_on;

pub(super) use agent::keep;

/// Be a machine of a cluster
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Serve this machine's disks, and keep it one of its cluster, until told to stop (SIGTERM or Ctrl-C)
    ///
    /// What it serves is in node.toml of the state's directory, which `ashlar cluster create` and `join` write. A root takes
    /// machines in as well.
    #[command(after_help = "Example:\n  ashlar node run")]
    Run(RunArgs),
}

#[derive(clap::Args)]
struct RunArgs {
    #[command(flatten)]
    state: StateArg,
}

pub(super) fn run(args: Args) -> Result<ExitCode> {
    let Command::Run(args) = args.command;
    let state = args.state.state()?;
    block_on(serve(state))?;
    Ok(ExitCode::SUCCESS)
}

async fn serve(state: State) -> Result<()> {
    let settings = state.settings()?;
    let stop = signals::take("ashlar", Hangup::of_terminal(|| {}));
    let stop = stop.context("waiting for signals")?;
    let credentials = Credentials::open(state.directory())?;
    let identity = credentials.identity();
    let root = match &settings.root_address {
        Some(address) if identity.is(Role::Root) => {
            Some((listen(address).await?, Acceptor::new(Some(credentials.clone()))))
        }
        _ => None,
    };
    say(format!("{identity} of cluster {}", identity.cluster))?;
    let (led, disks) = (state.clone(), disks(&state, &settings, stop.clone()));
    let leading = async {
        match root {
            Some(root) => root::serve(led, root, stop.clone()).await,
            None => {
                stop.cancelled().await;
                Ok(())
            }
        }
    };
    let agent = Agent { state: state.clone(), settings: settings.clone(), credentials };
    let keeping = async {
        agent.keep(stop.clone()).await;
        Ok(())
    };
    let (disks, led, kept) = tokio::join!(
        Box::pin(ending(&stop, disks)),
        Box::pin(ending(&stop, leading)),
        Box::pin(ending(&stop, keeping)),
    );
    disks.and(led).and(kept)
}

/// When one of them ends, all do.
async fn ending(stop: &CancellationToken, work: impl Future<Output = Result<()>>) -> Result<()> {
    let done = work.await;
    stop.cancel();
    done
}

async fn listen(address: &str) -> Result<TcpListener> {
    let listen: Listen = address.parse()?;
    let listener = TcpListener::bind(listen.addresses()).await;
    listener.with_context(|| format!("listening on {listen}"))
}

/// Serves the disks, if there are any.
async fn disks(state: &State, settings: &Settings, stop: CancellationToken) -> Result<()> {
    if settings.disk.is_empty() {
        systemd::ready();
        stop.cancelled().await;
        return Ok(());
    }
    let metrics = settings.metrics.as_deref().map(str::parse::<Listen>).transpose();
    let config = RunConfig {
        disk: settings.disk.clone(),
        metrics: metrics.context("metrics, in node.toml")?,
        listen: Some(settings.address.parse()?),
        identity: Some(state.directory().to_owned()),
        ..RunConfig::default()
    };
    storaged::daemon::serve(config, stop).await
}
