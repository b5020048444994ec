//! `ashlar cluster join`: this machine becomes one of a cluster that it knows by a token alone.
//!
//! Its key is made here and stays here. What broke off can be done again: with the key that was made, and the disks.

use std::fs;
use std::net::UdpSocket;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use proto::id::NodeId;
use proto::program::say;
use proto::rpc::root as wire;
use proto::tls::Connector;
use proto::tls::authority::{Authority, new_key, request, validity};
use proto::tls::files::{certificates, fingerprint, replace};
use proto::tls::identity::{Identity, Role};
use proto::tls::token::Token;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::served::ServedArgs;
use crate::cli::node::ask::Roots;
use crate::cli::node::keep;
use crate::cli::node::state::{Settings, State, StateArg};

/// A machine that is to be of a cluster.
#[derive(clap::Args)]
pub(super) struct JoinArgs {
    /// What `ashlar cluster token` has printed on a root
    token: String,
    #[command(flatten)]
    served: ServedArgs,
    /// Name or address by which other machines reach this one [default: the address from which it reaches the root]
    #[arg(long, value_name = "HOST")]
    address: Option<String>,
    #[command(flatten)]
    state: StateArg,
}

pub(super) async fn join(args: &JoinArgs) -> Result<ExitCode> {
    let token: Token = args.token.parse().context("the token")?;
    let state = args.state.state()?;
    let host = match &args.address {
        Some(address) => address.clone(),
        None => own_address(&token.addresses)?,
    };
    if !is_admitted(&state, &token)? {
        if token.has_expired(SystemTime::now()) {
            bail!("the token has expired: make another one (ashlar cluster token)");
        }
        be_admitted(&state, &token, &host).await?;
    }
    let (identity, _) = state.files().identity()?;
    if args.served.has_disks() && !identity.is(Role::Node) {
        bail!(
            "this machine was taken in as {identity}, which serves no disks: join without --disk"
        );
    }
    let disks: Vec<PathBuf> = match args.served.has_disks() {
        true => args.served.prepare(identity.cluster)?.into_iter().map(|(path, _)| path).collect(),
        // Those that it has.
        false => state.settings().map(|known| known.disk).unwrap_or_default(),
    };
    state.keep_settings(&Settings {
        roots: token.addresses.clone(),
        address: args.served.address(&host),
        root_address: None,
        host,
        disk: disks,
    })?;
    let run = match state.publish() {
        Some(_) => "systemctl enable --now ashlar-node".to_owned(),
        None => format!("ashlar node run --state {}", state.directory().display()),
    };
    let cluster = identity.cluster;
    say(format!("{identity} of cluster {cluster}\nserve it, and be kept up to date:  {run}"))?;
    Ok(ExitCode::SUCCESS)
}

/// Is this machine one of the token's cluster, with a certificate that is not over?
fn is_admitted(state: &State, token: &Token) -> Result<bool> {
    if !state.is_member() {
        return Ok(false);
    }
    let (identity, _) = state.files().identity()?;
    if identity.cluster != token.cluster {
        bail!(
            "this machine is of cluster {} already: leave it first (ashlar cluster leave)",
            identity.cluster
        );
    }
    if identity.is(Role::Root) {
        bail!("this machine is the root of the cluster");
    }
    let own = certificates(&state.files().certificate())?;
    let valid = own.first().and_then(validity).context("this machine's certificate")?;
    Ok(valid.end > SystemTime::now())
}

/// The address of this machine from which a root is reached. Nothing is sent.
fn own_address(roots: &[String]) -> Result<String> {
    let from = |root: &String| {
        let any = if root.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
        let socket = UdpSocket::bind(any)?;
        socket.connect(root)?;
        socket.local_addr()
    };
    let found = roots.iter().find_map(|root| from(root).ok());
    let found = found.context("no root of the token can be reached; or give --address HOST")?;
    Ok(found.ip().to_string())
}

/// Has a root sign this machine's key, and keeps what it says.
async fn be_admitted(state: &State, token: &Token, name: &str) -> Result<()> {
    let files = state.files();
    let key = match fs::read_to_string(files.key()) {
        Ok(key) if request(&key).is_ok() => key,
        _ => {
            fs::create_dir_all(state.directory())
                .with_context(|| state.directory().display().to_string())?;
            let key = new_key()?;
            replace(&files.key(), &key, 0o600)?;
            key
        }
    };
    let asked = request(&key)?;
    let node = Authority::node_of(&asked)?;
    let proof = token.key().prove(&asked, name);
    let asked = wire::JoinRequest {
        token: Bytes::copy_from_slice(&token.id()),
        request: Bytes::from(asked),
        name: name.to_owned(),
        proof: Bytes::copy_from_slice(&proof),
    };
    let connector = Connector::pinned(token.cluster, token.fingerprint)?;
    let roots = Roots { addresses: &token.addresses, connector };
    let admission = roots.ask(async |mut root| root.join(asked.clone()).await).await?;
    let news = check(&admission, token, node)?;
    keep(state, news)?;
    Ok(files.keep(&key, &admission.certificate, &news.ca)?)
}

/// Is this machine what it asked for, by the CA of the token?
fn check<'a>(
    admission: &'a wire::Admission,
    token: &Token,
    node: NodeId,
) -> Result<&'a wire::News> {
    let news = admission.news.as_ref().context("the root says nothing of the cluster")?;
    let own = CertificateDer::from_pem_slice(admission.certificate.as_bytes());
    let (identity, _) = Identity::of(&own.context("the certificate")?)?;
    let ca = CertificateDer::pem_slice_iter(news.ca.as_bytes());
    let mut known = ca.filter_map(Result::ok).map(|ca| fingerprint(&ca));
    ensure!(known.any(|ca| ca == token.fingerprint), "the root has another CA than the token");
    let is_own = identity.cluster == token.cluster && identity.node == node;
    ensure!(is_own, "the root has signed for {identity} of cluster {}", identity.cluster);
    Ok(news)
}
