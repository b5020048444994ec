//! What a machine shows and whom it believes: the directory of its certificate, read again while it is in use.
//!
//! | file | what |
//! |---|---|
//! | `node.key` | its private key, for its owner alone |
//! | `node.pem` | its certificate |
//! | `ca.pem` | the cluster's CA; two of them while it is exchanged |
//! | `revoked` | numbers of certificates that are worth nothing any more; may be missing |
//!
//! What was exchanged holds for connections from then on, and a certificate that was revoked ends those that were made
//! with it. Files that make no sense change nothing, and the log says why.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use parking_lot::RwLock;
use rustls::client::Resumption;
use rustls::crypto::{self, CryptoProvider};
use rustls::pki_types::CertificateDer;
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::files::{TlsError, Watched, at, certificates, load, replace};
use super::identity::{BadIdentity, Identity, Revoked, Serial};
use super::verify::Verifier;
use crate::id::ClusterId;

/// Where a machine's certificate is, unless told otherwise.
pub const DEFAULT_DIRECTORY: &str = "/var/lib/ashlar/node";

/// Files of a machine's directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFiles(PathBuf);

impl NodeFiles {
    /// In this directory.
    pub fn new(directory: &Path) -> Self {
        Self(directory.to_owned())
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.0
    }

    /// Its private key.
    pub fn key(&self) -> PathBuf {
        self.0.join("node.key")
    }

    /// Its certificate.
    pub fn certificate(&self) -> PathBuf {
        self.0.join("node.pem")
    }

    /// The certificates of the cluster's CA.
    pub fn ca(&self) -> PathBuf {
        self.0.join("ca.pem")
    }

    /// What was revoked.
    pub fn revoked(&self) -> PathBuf {
        self.0.join("revoked")
    }

    /// Keeps what a machine has got: the certificate last, so that where it is all is. The directory is made.
    ///
    /// # Errors
    /// [`TlsError::File`].
    pub fn keep(&self, key: &str, certificate: &str, ca: &str) -> Result<(), TlsError> {
        fs::create_dir_all(&self.0).map_err(|why| at(&self.0)(why.to_string()))?;
        replace(&self.key(), key, 0o600)?;
        replace(&self.ca(), ca, 0o644)?;
        replace(&self.certificate(), certificate, 0o644)
    }

    /// Whom the certificate is for.
    ///
    /// # Errors
    /// When it does not say so.
    pub fn identity(&self) -> Result<(Identity, Serial), TlsError> {
        let own = certificates(&self.certificate())?;
        self.whom(&own)
    }

    fn whom(&self, chain: &[CertificateDer<'_>]) -> Result<(Identity, Serial), TlsError> {
        let own = chain.first().ok_or(BadIdentity::Names);
        own.and_then(Identity::of).map_err(|why| at(&self.certificate())(why.to_string()))
    }

    fn read_revoked(&self) -> Result<Revoked, TlsError> {
        let path = self.revoked();
        match fs::read_to_string(&path) {
            Ok(text) => Revoked::parse(&text).map_err(|why| at(&path)(why.to_string())),
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => Ok(Revoked::default()),
            Err(why) => Err(at(&path)(why.to_string())),
        }
    }
}

/// What the files say.
#[derive(Debug)]
pub(super) struct Current {
    pub(super) identity: Arc<Identity>,
    pub(super) server: ServerConfig,
    /// For a server that strangers may come to: it shows the CA, too.
    pub(super) open: ServerConfig,
    pub(super) client: ClientConfig,
    revoked: Arc<Revoked>,
}

impl Current {
    fn read(files: &NodeFiles) -> Result<Self, TlsError> {
        let pair = load(&files.certificate(), &files.key())?;
        let (identity, _) = files.whom(&pair.cert)?;
        let mut roots = RootCertStore::empty();
        let authorities = certificates(&files.ca())?;
        for ca in authorities.clone() {
            roots.add(ca).map_err(|why| at(&files.ca())(why.to_string()))?;
        }
        let revoked = Arc::new(files.read_revoked()?);
        let provider = Arc::new(crypto::ring::default_provider());
        let verifier = Verifier::new(identity.cluster, roots, revoked.clone(), provider.clone());
        let verifier = verifier.map_err(|why| at(&files.ca())(why))?;
        let making = |why: rustls::Error| TlsError::Making(why.to_string());
        let shown = [pair.cert.clone(), authorities].concat();
        let shown = CertifiedKey::new(shown, pair.key.clone());
        let open = serving(shown, verifier.with_strangers(), &provider).map_err(making)?;
        let client = asking(Some(pair.clone()), verifier.clone(), &provider).map_err(making)?;
        let server = serving(pair, verifier, &provider).map_err(making)?;
        Ok(Self { identity: Arc::new(identity), server, open, client, revoked })
    }
}

/// How a machine asks a root of a cluster that it is to be of.
///
/// # Errors
/// When the library has no TLS.
pub(super) fn pinned(cluster: ClusterId, fingerprint: [u8; 32]) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(crypto::ring::default_provider());
    let verifier = Verifier::pinned(cluster, fingerprint, &provider);
    asking(None, verifier, &provider).map_err(|why| TlsError::Making(why.to_string()))
}

/// TLS 1.3, and nothing of a connection is taken up again by another: that would let in whose certificate was revoked
/// meanwhile.
fn serving(
    own: CertifiedKey,
    verifier: Arc<Verifier>,
    provider: &Arc<CryptoProvider>,
) -> Result<ServerConfig, rustls::Error> {
    let mut server = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(own)));
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    Ok(server)
}

/// The same for who asks; `own`: unless he has none.
fn asking(
    own: Option<CertifiedKey>,
    verifier: Arc<Verifier>,
    provider: &Arc<CryptoProvider>,
) -> Result<ClientConfig, rustls::Error> {
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut client = match own {
        Some(own) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own))),
        None => builder.with_no_client_auth(),
    };
    client.resumption = Resumption::disabled();
    client.enable_sni = false;
    Ok(client)
}

/// A machine's certificate in use.
#[derive(Debug)]
pub struct Credentials {
    files: NodeFiles,
    current: RwLock<Arc<Current>>,
}

impl Credentials {
    /// Those in this directory, looked at again for as long as somebody has them. Must be called within a tokio
    /// runtime.
    ///
    /// # Errors
    /// When the files make no sense.
    pub fn open(directory: &Path) -> Result<Arc<Self>, TlsError> {
        let files = NodeFiles::new(directory);
        // Before they are read.
        let watched = [files.key(), files.certificate(), files.ca(), files.revoked()];
        let watched = Watched::new(watched.to_vec());
        let current = RwLock::new(Arc::new(Current::read(&files)?));
        let credentials = Arc::new(Self { files, current });
        tokio::spawn(Self::follow(Arc::downgrade(&credentials), watched));
        Ok(credentials)
    }

    /// Those with which a machine speaks in a cluster: in the directory that is named, or in [`DEFAULT_DIRECTORY`] when
    /// those there are of the cluster. `None`: it has none. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the files that are named make no sense or are another cluster's; when the machine is of the cluster, and its
    /// key cannot be read by whoever asks.
    pub fn find(named: Option<&Path>, cluster: ClusterId) -> Result<Option<Arc<Self>>, TlsError> {
        let Some(path) = named else {
            let default = NodeFiles::new(Path::new(DEFAULT_DIRECTORY));
            return match default.identity() {
                Ok((identity, _)) if identity.cluster == cluster => {
                    Self::open(default.directory()).map(Some)
                }
                _ => Ok(None),
            };
        };
        let credentials = Self::open(path)?;
        let found = credentials.identity().cluster;
        match found == cluster {
            true => Ok(Some(credentials)),
            false => Err(TlsError::Foreign { path: path.to_owned(), found, expected: cluster }),
        }
    }

    /// Who this machine is.
    pub fn identity(&self) -> Arc<Identity> {
        self.current().identity.clone()
    }

    pub(super) fn current(&self) -> Arc<Current> {
        self.current.read().clone()
    }

    async fn follow(credentials: Weak<Self>, mut watched: Watched) {
        loop {
            watched.changed().await;
            let Some(credentials) = credentials.upgrade() else { return };
            // One that panics has logged why.
            let _ = tokio::task::spawn_blocking(move || credentials.take()).await;
        }
    }

    /// Takes what the files say now.
    pub(super) fn take(&self) {
        match Current::read(&self.files) {
            Ok(new) => {
                let (directory, identity) = (self.files.directory().display(), &new.identity);
                tracing::info!("{directory}: {identity} is this machine from now on");
                *self.current.write() = Arc::new(new);
            }
            Err(why) => tracing::error!("this machine stays who it is: {why}"),
        }
    }
}

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    identity: Arc<Identity>,
    serial: Serial,
    believed: Arc<Credentials>,
}

impl Peer {
    /// Whose certificate this is, that was looked at.
    ///
    /// # Errors
    /// When it says of nobody who he is.
    pub(super) fn new(
        certificate: &CertificateDer<'_>,
        believed: &Arc<Credentials>,
    ) -> Result<Self, BadIdentity> {
        let (identity, serial) = Identity::of(certificate)?;
        Ok(Self { identity: Arc::new(identity), serial, believed: believed.clone() })
    }

    /// Who it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The number of its certificate.
    pub fn serial(&self) -> &Serial {
        &self.serial
    }

    /// Is its certificate worth nothing any more?
    pub fn is_revoked(&self) -> bool {
        self.believed.current.read().revoked.has(&self.serial)
    }
}
