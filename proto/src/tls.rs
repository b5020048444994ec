//! TLS between machines, below links, sessions and gRPC: everybody knows by a certificate of the cluster's CA who is
//! at the other end, and what he may be.
//!
//! * [`Acceptor`] is how a server takes connections, [`Connector`] how a client makes them. One without credentials speaks
//!   without TLS: to this machine alone, unless its cluster file says `insecure = true`.
//! * [`credentials`] are the files of a machine, [`identity`] what a certificate says; [`authority`] is the CA, and with a
//!   [`token`] a machine gets its first certificate.
//! * [`wire`] is a connection. What is spoken on it is agreed on within TLS.
//!
//! Handshakes are bounded: in time by [`HANDSHAKE`], in number by the [guests](crate::guests) that may be strangers.
//! A refusal is counted, and the log has a line a minute of them.

pub mod authority;
pub mod credentials;
pub mod files;
pub mod identity;
#[cfg(test)]
mod tests;
pub mod token;
mod verify;
pub mod wire;

use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::counter;
use parking_lot::Mutex;
use rustls::pki_types::{DnsName, ServerName};
use rustls::{CertificateError, ClientConfig, CommonState, Error};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use self::credentials::{Credentials, DEFAULT_DIRECTORY, NodeFiles, Peer};
use self::files::TlsError;
use self::identity::{Identity, Role};
use self::wire::{Protocol, Wire, told};
use crate::cluster::Cluster;
use crate::id::ClusterId;
use crate::listen::Listen;

crate::metric_names! {
    counter TLS_REFUSED = "ashlar_tls_refused_total": "Connections that were refused because of who made them: no certificate, an unknown CA's, expired, revoked, of another cluster, none of TLS, too slow";
}

/// How long the other end may take to say who it is.
pub const HANDSHAKE: Duration = Duration::from_secs(5);
/// How often refusals are logged.
const SAY_AGAIN: Duration = Duration::from_secs(60);
/// Servers are known by what their certificates say of machines: names of hosts mean nothing.
const NO_NAME: &str = "node.ashlar.invalid";

/// How a server takes connections. Clones count refusals together.
#[derive(Clone, Debug, Default)]
pub struct Acceptor {
    credentials: Option<Arc<Credentials>>,
    /// Who shows no certificate comes in, too.
    strangers: bool,
    refused: Arc<Mutex<Refused>>,
}

/// Why nobody is listened to.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Everybody could come in.
    #[error(
        "listening on {0}: this machine has no certificate of the cluster (ashlar cluster join TOKEN), so that whoever reaches that address could do everything; listen on 127.0.0.1, or say insecure on a network that you trust"
    )]
    Open(Listen),
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Refusals since the log had a line of them.
#[derive(Debug, Default)]
struct Refused {
    said: Option<Instant>,
    since: u64,
}

impl Acceptor {
    /// With these; without any there is no TLS.
    pub fn new(credentials: Option<Arc<Credentials>>) -> Self {
        Self { credentials, strangers: false, refused: Arc::default() }
    }

    /// The same, for strangers as well: [`Wire::peer`] says who is none. They are shown the CA, too.
    #[must_use]
    pub fn with_strangers(self) -> Self {
        Self { strangers: true, ..self }
    }

    /// Without TLS.
    pub fn plain() -> Self {
        Self::default()
    }

    /// For who listens at this address for a cluster: with the certificate of this machine, if it has one there. Must be
    /// called within a tokio runtime.
    ///
    /// # Errors
    /// When the certificate cannot be used; when there is none, the address is not this machine's alone, and `insecure`
    /// does not say that the network is trusted.
    pub fn listening(
        listen: &Listen,
        identity: Option<&Path>,
        cluster: ClusterId,
        insecure: bool,
    ) -> Result<Self, ListenError> {
        if insecure && identity.is_none() {
            return Ok(Self::plain());
        }
        match Credentials::find(identity, cluster)? {
            None if !listen.is_here() => Err(ListenError::Open(listen.clone())),
            credentials => Ok(Self::new(credentials)),
        }
    }

    /// Who this machine is; `None`: it has no certificate.
    pub fn identity(&self) -> Option<Arc<Identity>> {
        self.credentials.as_ref().map(|credentials| credentials.identity())
    }

    /// Does it know who connects?
    pub fn is_secure(&self) -> bool {
        self.credentials.is_some()
    }

    /// Agrees with who has connected on one of the protocols, if there is TLS.
    ///
    /// # Errors
    /// Whoever it is may not come in, or does not say who it is in time.
    pub async fn accept(&self, stream: TcpStream, protocols: &[Protocol]) -> io::Result<Wire> {
        let Some(credentials) = &self.credentials else { return Ok(stream.into()) };
        let from = stream.peer_addr();
        let current = credentials.current();
        let mut config = match self.strangers {
            true => current.open.clone(),
            false => current.server.clone(),
        };
        config.alpn_protocols = protocols.iter().map(|one| one.name().to_vec()).collect();
        let accepting = TlsAcceptor::from(Arc::new(config)).accept(stream);
        let agreed = match timeout(HANDSHAKE, Box::pin(accepting)).await {
            Ok(agreed) => agreed,
            Err(_) => Err(ErrorKind::TimedOut.into()),
        };
        let agreed = agreed.and_then(|stream| {
            let agreed = stream.get_ref().1.alpn_protocol().is_some();
            let stream = TlsStream::from(stream);
            // A client that names no protocol is none of ours.
            match agreed {
                true => known(stream, Some(credentials)),
                false => Err(no_protocol()),
            }
        });
        agreed.inspect_err(|why| {
            let from = from.map_or("somebody".to_owned(), |from| from.to_string());
            self.refuse(&from, why);
        })
    }

    fn refuse(&self, from: &str, why: &io::Error) {
        let reason = reason(why);
        counter!(TLS_REFUSED, "why" => reason).increment(1);
        let mut refused = self.refused.lock();
        refused.since += 1;
        if refused.said.is_none_or(|said| said.elapsed() >= SAY_AGAIN) {
            let since = std::mem::take(&mut refused.since);
            refused.said = Some(Instant::now());
            drop(refused);
            tracing::warn!(
                "{from} was refused: {reason} ({why}); refused since this was said last: {since}"
            );
        }
    }
}

fn no_protocol() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "it does not say what it speaks")
}

/// Who is at the other end of a connection that was agreed on: nobody, where strangers come in.
fn known(stream: TlsStream<TcpStream>, credentials: Option<&Arc<Credentials>>) -> io::Result<Wire> {
    let state: &CommonState = stream.get_ref().1;
    let certificate = state.peer_certificates().and_then(<[_]>::first);
    let peer = match (certificate, credentials) {
        (Some(certificate), Some(credentials)) => {
            Some(Peer::new(certificate, credentials).map_err(io::Error::other)?)
        }
        _ => None,
    };
    Ok(Wire::secured(stream, peer))
}

/// Why a connection was refused, in a word that metrics count by.
fn reason(why: &io::Error) -> &'static str {
    if why.kind() == ErrorKind::TimedOut {
        return "too slow";
    }
    let error = why.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    let certificate = match error {
        Some(Error::NoCertificatesPresented) => return "no certificate",
        Some(Error::NoApplicationProtocol) => return "another protocol",
        Some(Error::InvalidCertificate(certificate)) => certificate,
        // What it thinks of us.
        Some(Error::AlertReceived(_)) => return "it refuses this machine",
        _ => return "no TLS",
    };
    match certificate {
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => "expired",
        CertificateError::Revoked => "revoked",
        CertificateError::UnknownIssuer | CertificateError::BadSignature => "unknown CA",
        _ => "not of this cluster",
    }
}

/// How a client makes connections.
#[derive(Clone, Debug)]
pub struct Connector(Kind);

#[derive(Clone, Debug)]
enum Kind {
    /// Without TLS: within this machine, or anywhere.
    Plain { anywhere: bool },
    /// With what this machine has.
    Tls(Arc<Credentials>),
    /// The same, to roots alone.
    Roots(Arc<Credentials>),
    /// To a root of a cluster that this machine is to be of.
    Pinned(Arc<ClientConfig>),
}

impl Connector {
    /// Without TLS, to this machine alone.
    pub fn plain() -> Self {
        Self(Kind::Plain { anywhere: false })
    }

    /// Without TLS, over a network that is trusted.
    pub fn insecure() -> Self {
        Self(Kind::Plain { anywhere: true })
    }

    /// With these; without any only to this machine.
    pub fn new(credentials: Option<Arc<Credentials>>) -> Self {
        credentials.map_or_else(Self::plain, |credentials| Self(Kind::Tls(credentials)))
    }

    /// With these, to roots of the cluster alone: what they say of it is believed.
    pub fn to_roots(credentials: Arc<Credentials>) -> Self {
        Self(Kind::Roots(credentials))
    }

    /// As the cluster's file has it: with the certificate of this machine, if it has one in the cluster. Must be called within
    /// a tokio runtime.
    ///
    /// # Errors
    /// When the certificate that is there cannot be used.
    pub fn of(cluster: &Cluster) -> Result<Self, TlsError> {
        if cluster.insecure {
            return Ok(Self::insecure());
        }
        Credentials::find(cluster.identity.as_deref(), cluster.cluster).map(Self::new)
    }

    /// With the certificate in this directory; `None`: with the one that this machine has by default, if it has one. For
    /// who does not know yet to which cluster it speaks. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the certificate that is there cannot be used.
    pub fn with(directory: Option<&Path>) -> Result<Self, TlsError> {
        let default = Path::new(DEFAULT_DIRECTORY);
        let has_default = || NodeFiles::new(default).identity().is_ok();
        let directory = directory.or_else(|| has_default().then_some(default));
        directory.map(Credentials::open).transpose().map(Self::new)
    }

    /// To a root of a cluster of which nothing is known but this fingerprint of its CA, without saying who is there.
    ///
    /// # Errors
    /// When the library has no TLS.
    pub fn pinned(cluster: ClusterId, fingerprint: [u8; 32]) -> Result<Self, TlsError> {
        credentials::pinned(cluster, fingerprint).map(|config| Self(Kind::Pinned(Arc::new(config))))
    }

    /// Connects to `HOST:PORT`, to speak this. Bounding the time is the caller's, but for the handshake.
    ///
    /// # Errors
    /// What the network says; that the other end is nobody to be spoken to, or does not want to.
    pub async fn connect(&self, address: &str, protocol: Protocol) -> io::Result<Wire> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (mut config, credentials) = match &self.0 {
            Kind::Plain { anywhere } => {
                let here = stream.peer_addr()?.ip().to_canonical().is_loopback();
                return if *anywhere || here { Ok(stream.into()) } else { Err(unknown_here()) };
            }
            Kind::Tls(credentials) | Kind::Roots(credentials) => {
                (credentials.current().client.clone(), Some(credentials))
            }
            Kind::Pinned(config) => ((**config).clone(), None),
        };
        config.alpn_protocols = vec![protocol.name().to_vec()];
        let name = ServerName::DnsName(DnsName::try_from(NO_NAME).map_err(io::Error::other)?);
        let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
        let agreed = timeout(HANDSHAKE, Box::pin(connecting)).await;
        let stream = agreed.map_err(|_| late())?.map_err(said)?;
        let wire = known(stream.into(), credentials)?;
        let by_a_root = protocol == Protocol::Session || matches!(self.0, Kind::Roots(_));
        match wire.peer() {
            Some(peer) if by_a_root && !peer.identity().is(Role::Root) => Err(no_root()),
            _ => Ok(wire),
        }
    }
}

fn unknown_here() -> io::Error {
    let why = "this machine has no certificate of the cluster (ashlar cluster join TOKEN), without which it speaks to itself alone; insecure = true in the cluster file is for networks that you trust";
    io::Error::new(ErrorKind::PermissionDenied, why)
}

fn no_root() -> io::Error {
    let why = "whoever is there is no root of the cluster: its certificate is not a root's";
    io::Error::new(ErrorKind::PermissionDenied, why)
}

fn late() -> io::Error {
    let why = format!("it does not agree on TLS within {HANDSHAKE:?}");
    io::Error::new(ErrorKind::TimedOut, why)
}

/// Why a server is nobody to be spoken to, for people.
fn said(why: io::Error) -> io::Error {
    let error = why.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    let text = match error {
        Some(Error::AlertReceived(_)) => return told(why),
        Some(Error::InvalidCertificate(_)) => format!("its certificate: {} ({why})", reason(&why)),
        _ if matches!(why.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof) => {
            "it speaks without TLS, or something else".to_owned()
        }
        _ => return why,
    };
    io::Error::new(ErrorKind::PermissionDenied, text)
}
