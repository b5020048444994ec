//! `ashlar cluster token`, `status`, `revoke` and `leave`: the machines of a cluster.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail};
use proto::client::Daemon;
use proto::cluster::{Cluster, Endpoint};
use proto::id::NodeId;
use proto::program::say;
use proto::rpc::root as wire;
use proto::tls::Connector;
use proto::tls::authority::validity;
use proto::tls::credentials::Credentials;
use proto::tls::files::{certificates, fingerprint};
use proto::tls::identity::Role;
use proto::tls::token::Token;

use crate::cli::node::ask::Roots;
use crate::cli::node::state::{State, StateArg};

/// How long a daemon may take to answer.
const ANSWER: Duration = Duration::from_secs(5);

/// A token that is to be made.
#[derive(clap::Args)]
pub(super) struct TokenArgs {
    /// How long it can be used
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = humantime::parse_duration)]
    ttl: Duration,
    /// What the machine is to be: a node serves disks, a client mounts only
    #[arg(long, value_name = "ROLE", default_value_t = Role::Node)]
    role: Role,
    /// For any number of machines, instead of one
    #[arg(long)]
    reusable: bool,
    /// Make none, and have those that were made take in no machine any more
    #[arg(long, conflicts_with_all = ["ttl", "role", "reusable"])]
    withdraw: bool,
    #[command(flatten)]
    state: StateArg,
}

/// A machine of some cluster.
#[derive(clap::Args)]
pub(super) struct MemberArgs {
    #[command(flatten)]
    state: StateArg,
}

/// A machine that is to forget its cluster.
#[derive(clap::Args)]
pub(super) struct LeaveArgs {
    /// Forget the cluster without asking its root: of a machine that was revoked, or a cluster that is no more
    #[arg(long)]
    forget: bool,
    #[command(flatten)]
    state: StateArg,
}

/// A machine that is to be of the cluster no more.
#[derive(clap::Args)]
pub(super) struct RevokeArgs {
    /// Its id, as `ashlar cluster status` shows it
    node: NodeId,
    #[command(flatten)]
    state: StateArg,
}

fn since_epoch(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn day(seconds: u64) -> String {
    let at = UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap_or(UNIX_EPOCH);
    humantime::format_rfc3339_seconds(at).to_string()
}

pub(super) fn token(args: &TokenArgs) -> Result<ExitCode> {
    let state = args.state.state()?;
    if args.role == Role::Root {
        bail!("a cluster has one root yet: make a token for a node or a client");
    }
    // A token of who cannot sign is worth nothing.
    state.authority()?;
    if args.withdraw {
        state.change(|ledger| {
            ledger.withdraw();
            Ok(())
        })?;
        say("the tokens that were made take in no machine any more")?;
        return Ok(ExitCode::SUCCESS);
    }
    let (identity, _) = state.files().identity()?;
    let ca = certificates(&state.files().ca())?;
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(|why| anyhow!("random bytes: {why}"))?;
    let expires = SystemTime::now().checked_add(args.ttl).context("--ttl is too long")?;
    let token = Token {
        cluster: identity.cluster,
        fingerprint: fingerprint(ca.first().context("the CA has no certificate")?),
        secret,
        expires: since_epoch(expires),
        addresses: state.settings()?.roots,
    };
    state.change(|ledger| {
        ledger.offer(&token, [args.role].into(), args.reusable);
        Ok(())
    })?;
    say(token)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn revoke(args: &RevokeArgs) -> Result<ExitCode> {
    let state = args.state.state()?;
    state.authority()?;
    let (own, _) = state.files().identity()?;
    if own.node == args.node {
        bail!("{} is this machine, the root of the cluster", args.node);
    }
    state.change(|ledger| Ok(ledger.revoke(args.node)?))?;
    say(format!(
        "{} is of the cluster no more: machines that ashlar node run keeps up to date let it in no more within 30 s; its disks stay in the cluster file. Who has a token that can still be used comes in again: ashlar cluster token --withdraw",
        args.node
    ))?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn leave(args: &LeaveArgs) -> Result<ExitCode> {
    let state = args.state.state()?;
    let (identity, _) = state.files().identity()?;
    if identity.is(Role::Root) {
        bail!("this machine is the root of cluster {}, which ends with it", identity.cluster);
    }
    if !args.forget {
        let connector = Connector::to_roots(Credentials::open(state.directory())?);
        let roots = Roots { addresses: &state.settings()?.roots, connector };
        roots.ask(async |mut root| root.leave(wire::LeaveRequest {}).await).await?;
    }
    state.forget()?;
    say(format!("this machine has left cluster {}", identity.cluster))?;
    Ok(ExitCode::SUCCESS)
}

/// Says who there is and what answers. "No" is that a disk does not.
pub(super) async fn status(args: &MemberArgs) -> Result<ExitCode> {
    let state = args.state.state()?;
    let (identity, serial) = state.files().identity()?;
    let cluster = state.cluster()?;
    let own = certificates(&state.files().certificate())?;
    let until = own.first().and_then(validity).map_or(0, |valid| since_epoch(valid.end));
    let (id, generation) = (cluster.cluster, cluster.generation);
    say(format!("cluster  {id}, generation {generation}, {} disks", cluster.slots.len()))?;
    say(format!("machine  {identity}, certificate {serial} until {}", day(until)))?;
    if identity.is(Role::Root) {
        machines(&state)?;
    }
    let connector = Connector::new(Some(Credentials::open(state.directory())?));
    let all = disks(&cluster, &connector).await?;
    Ok(if all { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn machines(state: &State) -> Result<()> {
    for machine in state.ledger()?.machines() {
        let roles: Vec<String> = machine.roles.iter().map(Role::to_string).collect();
        let how = match (machine.revoked, machine.until()) {
            (true, _) => "revoked".to_owned(),
            (false, Some(until)) if until > since_epoch(SystemTime::now()) => {
                format!("until {}", day(until))
            }
            (false, _) => "its certificate has expired".to_owned(),
        };
        let (node, name) = (machine.node, &machine.name);
        say(format!("  {node}  {name}  {}  {how}", roles.join(",")))?;
    }
    Ok(())
}

/// One line for each disk; whether all are there.
async fn disks(cluster: &Cluster, connector: &Connector) -> Result<bool> {
    let places: BTreeSet<&str> = cluster
        .slots
        .iter()
        .filter_map(|slot| match slot.endpoint() {
            Endpoint::Remote(address) => Some(address),
            Endpoint::Local(_) => None,
        })
        .collect();
    let mut all = true;
    for place in places {
        let daemon = Daemon::through(place, connector.clone())?;
        let answer = match tokio::time::timeout(ANSWER, daemon.status()).await {
            Ok(answer) => answer.map_err(|why| why.to_string()),
            Err(_) => Err(format!("no answer within {ANSWER:?}")),
        };
        let here = cluster.slots.iter().filter(|slot| slot.address.as_deref() == Some(place));
        for slot in here {
            let how = match &answer {
                Ok(status) => {
                    let is_it = |served: &&proto::rpc::storaged::DiskStatus| {
                        served.disk[..] == slot.disk.as_bytes()[..]
                    };
                    status.disks.iter().find(is_it).map_or("not there", |disk| &*disk.state)
                }
                Err(why) => why.as_str(),
            };
            all &= how == "ok";
            say(format!("  {}  {place}  {how}", slot.disk))?;
        }
    }
    Ok(all)
}
