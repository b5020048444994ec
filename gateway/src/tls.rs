//! TLS: a certificate from files, which may be exchanged while they are in use, or one that is made here.
//!
//! Files are looked at every ten seconds; where they have changed and make sense, connections from then on get the new
//! certificate. Where they make none, the old one stays in use, and the log says why.
//!
//! A certificate that is made here is signed by itself, and is kept, so that its fingerprint stays: whoever comes in
//! compares that once. It lies with its key in one file, so that nobody meets one of them with another's other; that is
//! readable by its owner only. A copy without the key is for those who are to trust it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use proto::tls::files::{Watched, at, fingerprint, load, shown, write_new};
use rustls::pki_types::ServerName;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, crypto};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;
use webpki::EndEntityCert;

use crate::patient::Patient;

pub(crate) use proto::tls::files::TlsError;

/// Of a certificate that was made here, in the directory where it is kept: with its key, and without.
const OWN: &str = "tls.key";
const OWN_COPY: &str = "tls.crt";
/// How a certificate begins in PEM.
const BEGINS: &str = "-----BEGIN CERTIFICATE-----";

/// A certificate with its key, in two files.
#[derive(Debug)]
pub(crate) struct Certificate {
    files: [PathBuf; 2],
    /// As they were when they were read first.
    first: Watched,
    current: RwLock<Arc<CertifiedKey>>,
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.read().clone())
    }
}

impl Certificate {
    /// That of these files.
    ///
    /// # Errors
    /// When they make no sense.
    pub(crate) fn read(cert: PathBuf, key: PathBuf) -> Result<Arc<Self>, TlsError> {
        // Before: what is exchanged meanwhile is seen.
        let first = Watched::new(vec![cert.clone(), key.clone()]);
        let current = RwLock::new(Arc::new(load(&cert, &key)?));
        Ok(Arc::new(Self { files: [cert, key], first, current }))
    }

    /// One for these names and addresses, made here and kept in this directory; or the one that is there.
    ///
    /// # Errors
    /// When it cannot be kept, or what is there makes no sense.
    pub(crate) fn own(directory: &Path, names: Vec<String>) -> Result<Arc<Self>, TlsError> {
        let [own, copy] = [OWN, OWN_COPY].map(|name| directory.join(name));
        if !own.exists() {
            let made = rcgen::generate_simple_self_signed(names.clone());
            let made = made.map_err(|why| TlsError::Making(why.to_string()))?;
            let both = made.signing_key.serialize_pem() + &made.cert.pem();
            write_new(&own, &both, 0o600)?;
        }
        let read = Self::read(own.clone(), own.clone())?;
        let both = fs::read_to_string(&own).map_err(|why| at(&own)(why.to_string()))?;
        let begins = both.find(BEGINS).unwrap_or(both.len());
        // One of before may be another's.
        let _ = fs::remove_file(&copy);
        write_new(&copy, &both[begins..], 0o644)?;
        let missing = read.missing(&names);
        if !missing.is_empty() {
            let own = own.display();
            tracing::warn!(
                "the certificate that was made here is not valid for {}: who comes to that needs its fingerprint; without {own} another one is made, with another fingerprint",
                missing.join(", ")
            );
        }
        Ok(read)
    }

    /// Those of these names and addresses for which it is not valid.
    fn missing(&self, names: &[String]) -> Vec<String> {
        let current = self.current.read();
        let Some(Ok(cert)) = current.cert.first().map(EndEntityCert::try_from) else {
            return names.to_vec();
        };
        let is_valid = |name: &str| {
            ServerName::try_from(name)
                .is_ok_and(|name| cert.verify_is_valid_for_subject_name(&name).is_ok())
        };
        names.iter().filter(|name| !is_valid(name)).cloned().collect()
    }

    /// SHA-256 of it, as browsers show it.
    pub(crate) fn fingerprint(&self) -> String {
        let current = self.current.read();
        shown(&fingerprint(current.cert.first().map_or(&[][..], |cert| cert)))
    }

    /// Begins TLS on connections. `protocols`: what is spoken within, as clients name it.
    ///
    /// # Errors
    /// When the library knows no version of TLS.
    pub(crate) fn acceptor(self: &Arc<Self>, protocols: &[&str]) -> Result<TlsAcceptor, TlsError> {
        let provider = Arc::new(crypto::ring::default_provider());
        let builder =
            ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.map_err(|why| TlsError::Making(why.to_string()))?;
        let mut config = builder.with_no_client_auth().with_cert_resolver(self.clone());
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    /// Takes changed files, until it is told to stop.
    pub(crate) async fn follow(self: Arc<Self>, stop: CancellationToken) {
        let mut watched = self.first.clone();
        while stop.run_until_cancelled(watched.changed()).await.is_some() {
            self.take().await;
        }
    }

    async fn take(self: &Arc<Self>) {
        let certificate = self.clone();
        let taking = move || {
            let [cert, key] = &certificate.files;
            match load(cert, key) {
                Ok(new) => {
                    *certificate.current.write() = Arc::new(new);
                    let (cert, known) = (cert.display(), certificate.fingerprint());
                    tracing::info!("certificate {cert} is in use from now on: SHA-256 {known}");
                }
                Err(why) => tracing::error!("the certificate in use stays: {why}"),
            }
        };
        // One that panics has logged why.
        let _ = tokio::task::spawn_blocking(taking).await;
    }
}

/// How long a client may take to agree on TLS.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// A connection: as it is, or with TLS.
pub(crate) type Wire = Either<Patient, Box<TlsStream<Patient>>>;

/// Over a connection, with TLS if there is an acceptor. `None`: the client has not agreed on it.
pub(crate) async fn agree(stream: Patient, tls: Option<TlsAcceptor>) -> Option<Wire> {
    let Some(tls) = tls else { return Some(Either::Left(stream)) };
    match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
        Ok(Ok(agreed)) => Some(Either::Right(Box::new(agreed))),
        Ok(Err(why)) => {
            tracing::debug!("a client at a door does not agree on TLS: {why}");
            None
        }
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::PermissionsExt;

    use proto::tls::files::LOOK;

    use super::*;

    fn names() -> Vec<String> {
        vec!["localhost".to_owned(), "127.0.0.1".to_owned()]
    }

    #[test]
    fn one_that_is_made_is_kept_and_its_key_is_private() {
        let directory = tempfile::tempdir().unwrap();
        let one = Certificate::own(directory.path(), names()).unwrap();
        let again = Certificate::own(directory.path(), vec!["other".to_owned()]).unwrap();
        assert_eq!(one.fingerprint(), again.fingerprint());
        assert_eq!(one.fingerprint().len(), 32 * 3 - 1);
        let copy = fs::read_to_string(directory.path().join("tls.crt")).unwrap();
        assert!(copy.starts_with(BEGINS) && !copy.contains("PRIVATE"));
        let mode = fs::metadata(directory.path().join("tls.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let other = tempfile::tempdir().unwrap();
        let other = Certificate::own(other.path(), names()).unwrap();
        assert_ne!(one.fingerprint(), other.fingerprint());
    }

    #[test]
    fn names_that_one_of_before_is_not_valid_for_are_known() {
        let directory = tempfile::tempdir().unwrap();
        Certificate::own(directory.path(), names()).unwrap();
        let all = ["localhost", "127.0.0.1", "10.0.0.5", "photos.example"].map(str::to_owned);
        let kept = Certificate::own(directory.path(), all.to_vec()).unwrap();
        assert_eq!(kept.missing(&all), ["10.0.0.5", "photos.example"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_exchanged_since_it_was_read_is_taken_though_it_is_older() {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let other = Certificate::own(there.path(), names()).unwrap();
        let one = Certificate::own(here.path(), names()).unwrap();
        let file = here.path().join(OWN);
        let new = file.with_extension("new");
        fs::copy(there.path().join(OWN), &new).unwrap();
        let times = fs::metadata(&file).unwrap().modified().unwrap();
        File::options().write(true).open(&new).unwrap().set_modified(times).unwrap();
        fs::rename(&new, &file).unwrap();
        let stop = CancellationToken::new();
        let following = tokio::spawn(one.clone().follow(stop.clone()));
        while one.fingerprint() != other.fingerprint() {
            assert!(!following.is_finished());
            tokio::time::sleep(LOOK).await;
        }
        stop.cancel();
        following.await.unwrap();
    }

    #[test]
    fn files_that_make_no_sense_are_named() {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for directory in [&here, &there] {
            Certificate::own(directory.path(), names()).unwrap();
        }
        let file = |directory: &tempfile::TempDir, name: &str| directory.path().join(name);
        fs::write(file(&here, "text"), "no certificate").unwrap();
        for (cert, key, named) in [
            (file(&here, "tls.crt"), file(&there, "tls.key"), "tls.key"),
            (file(&here, "text"), file(&here, "tls.key"), "text"),
            (file(&here, "tls.crt"), file(&here, "text"), "text"),
            (file(&here, "none"), file(&here, "tls.key"), "none"),
        ] {
            let why = Certificate::read(cert, key).unwrap_err().to_string();
            assert!(why.contains(named), "{why}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_certificate_that_was_exchanged_is_taken_and_a_senseless_one_is_not() {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let one = Certificate::own(here.path(), names()).unwrap();
        let other = Certificate::own(there.path(), names()).unwrap();
        let before = one.fingerprint();
        fs::copy(there.path().join(OWN), here.path().join(OWN)).unwrap();
        one.take().await;
        assert_ne!(before, other.fingerprint());
        assert_eq!(one.fingerprint(), other.fingerprint());
        fs::write(here.path().join(OWN), "nonsense").unwrap();
        one.take().await;
        assert_eq!(one.fingerprint(), other.fingerprint());
    }
}
