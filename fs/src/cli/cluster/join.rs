//! `ashlar cluster join`: this machine becomes one of a cluster that it knows by a token alone.
//!
//! Its key is made here and stays here. What broke off can be done again: with the key that was made, and the disks.

use std::fs;
use std::io::{self, BufRead, Read};
use std::net::UdpSocket;
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use proto::id::NodeId;
use proto::program::say;
use proto::rpc::root as wire;
use proto::tls::Connector;
use proto::tls::authority::{Authority, new_key, request, validity};
use proto::tls::files::{certificates, fingerprint, load, replace};
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
    /// What `ashlar cluster token` has printed on a root; - has it read from standard input, where no other user of this machine
    /// sees it
    token: String,
    #[command(flatten)]
    served: ServedArgs,
    /// Name or address by which other machines reach this one [default: the address from which it reaches the root]
    #[arg(long, value_name = "HOST")]
    address: Option<String>,
    #[command(flatten)]
    state: StateArg,
}

/// Bytes of a token, at most.
const LONGEST_TOKEN: u64 = 8 << 10;

impl JoinArgs {
    fn token(&self) -> Result<Token> {
        let mut text = self.token.clone();
        if text == "-" {
            text.clear();
            let read = io::stdin().lock().take(LONGEST_TOKEN).read_line(&mut text);
            read.context("reading the token")?;
        }
        text.parse::<Token>().context("the token")
    }
}

pub(super) async fn join(args: &JoinArgs) -> Result<ExitCode> {
    let token = args.token()?;
    let state = args.state.state()?;
    let host = match &args.address {
        Some(address) => address.clone(),
        None => own_address(&token.addresses)?,
    };
    let address = args.served.address(&host)?;
    // What it serves as one of the cluster already.
    let is_of_it = || state.cluster().is_ok_and(|known| known.cluster == token.cluster);
    let known = state.settings().ok().filter(|_| is_of_it());
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
    let brings = args.served.prepare(identity.cluster)?.into_iter().map(|(path, _)| path);
    let given = Settings {
        roots: token.addresses.clone(),
        address,
        root_address: None,
        metrics: None,
        host,
        disk: brings.collect(),
    };
    let is_placed = args.address.is_some() || args.served.has_port();
    state.keep_settings(&joined(given, known, is_placed))?;
    let run = match state.publish() {
        Some(_) => "systemctl enable --now ashlar-node".to_owned(),
        None => format!("ashlar node run --state {}", state.directory().display()),
    };
    let cluster = identity.cluster;
    say(format!("{identity} of cluster {cluster}\nserve it, and be kept up to date:  {run}"))?;
    Ok(ExitCode::SUCCESS)
}

/// What a machine serves that has served this before, and is where it was unless that is said.
fn joined(given: Settings, known: Option<Settings>, is_placed: bool) -> Settings {
    let Some(known) = known else { return given };
    let mut disk = known.disk.clone();
    disk.extend(given.disk.iter().filter(|path| !known.disk.contains(path)).cloned());
    match is_placed {
        true => Settings { disk, metrics: known.metrics, ..given },
        false => Settings { disk, roots: given.roots, ..known },
    }
}

/// Is this machine one of the token's cluster, with its key, and a certificate that is not over?
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
    let has_key = load(&state.files().certificate(), &state.files().key()).is_ok();
    Ok(has_key && valid.end > SystemTime::now())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_joins_again_serves_what_it_did_and_is_where_it_was() {
        let settings = |host: &str, disks: &[&str]| Settings {
            roots: vec![format!("root-of-{host}:1")],
            address: format!("{host}:7411"),
            root_address: None,
            metrics: Some(format!("{host}:9411")),
            host: host.to_owned(),
            disk: disks.iter().map(|disk| (*disk).into()).collect(),
        };
        let (was, given) = (settings("a", &["/d0", "/d1"]), settings("b", &["/d1", "/d2"]));
        assert_eq!(joined(given.clone(), None, false), given);
        let all = &["/d0", "/d1", "/d2"];
        // What was given by hand, and is no question of who joins.
        let moved =
            |disks: &[&str]| Settings { metrics: was.metrics.clone(), ..settings("b", disks) };
        assert_eq!(joined(given.clone(), Some(was.clone()), true), moved(all));
        let stays = Settings { roots: given.roots.clone(), ..settings("a", all) };
        assert_eq!(joined(given, Some(was.clone()), false), stays);
        let none = settings("b", &[]);
        assert_eq!(joined(none, Some(was.clone()), true), moved(&["/d0", "/d1"]));
    }
}
