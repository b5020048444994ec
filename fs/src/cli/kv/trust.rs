//! Whom `ashlar kv` trusts to be the door it means, where that is reached by TLS: one certificate, known by its
//! fingerprint, or whoever has one of an authority's.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Who is trusted.
#[derive(clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Trust, at https://")]
pub(super) struct Args {
    /// SHA-256 of the door's certificate, as is printed where it is served
    #[arg(
        long,
        global = true,
        value_name = "SHA256",
        env = "ASHLAR_FINGERPRINT",
        conflicts_with = "ca"
    )]
    fingerprint: Option<String>,
    /// Certificates of authorities, in PEM, one of which has signed the door's
    #[arg(long, global = true, value_name = "FILE", env = "ASHLAR_CA")]
    ca: Option<PathBuf>,
}

impl Args {
    /// How the door at this host is reached by TLS.
    pub(super) fn tls(&self, host: &str) -> Result<Tls> {
        let provider = Arc::new(ring::default_provider());
        let verifier: Arc<dyn ServerCertVerifier> = match (&self.fingerprint, &self.ca) {
            (Some(text), _) => {
                Arc::new(Known { digest: digest(text)?, provider: provider.clone() })
            }
            (None, Some(file)) => {
                let verifier =
                    WebPkiServerVerifier::builder_with_provider(roots(file)?, provider.clone());
                verifier.build().with_context(|| file.display().to_string())?
            }
            (None, None) => bail!(
                "bad_request: whom to trust is not said: give --fingerprint with what is printed where it is served, or --ca"
            ),
        };
        let config = ClientConfig::builder_with_provider(provider);
        let config = config.with_safe_default_protocol_versions().context("TLS")?;
        // It is not less than what the library does by itself: one certificate and no other, or those of authorities.
        let config = config.dangerous().with_custom_certificate_verifier(verifier);
        let mut config = config.with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let name = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(name).map_err(|e| anyhow!("bad_request: {host}: {e}"))?;
        Ok(Tls { connector: TlsConnector::from(Arc::new(config)), name })
    }

    /// Is anything said, which is for TLS alone?
    pub(super) fn is_given(&self) -> bool {
        self.fingerprint.is_some() || self.ca.is_some()
    }
}

/// How one door is reached by TLS.
pub(super) struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl Tls {
    /// Agrees on it with the other end.
    pub(super) async fn over(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        self.connector.connect(self.name.clone(), stream).await
    }
}

fn roots(file: &Path) -> Result<Arc<RootCertStore>> {
    let certificates = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
    let certificates: Vec<_> = certificates.map_err(|e| anyhow!("{}: {e}", file.display()))?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate).with_context(|| file.display().to_string())?;
    }
    Ok(Arc::new(roots))
}

/// 64 hexadecimal digits, with or without colons.
fn digest(text: &str) -> Result<[u8; 32]> {
    let digits: String = text.chars().filter(|c| *c != ':').collect();
    let byte = |at: usize| u8::from_str_radix(digits.get(2 * at..2 * at + 2)?, 16).ok();
    let bytes: Option<Vec<u8>> = (0..32).map(byte).collect();
    let bytes = bytes.filter(|_| digits.len() == 64).and_then(|bytes| bytes.try_into().ok());
    bytes.context(
        "bad_request: a fingerprint is SHA-256: 64 hexadecimal digits, with or without colons",
    )
}

/// One certificate is trusted, whatever it says of itself.
#[derive(Debug)]
struct Known {
    digest: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Known {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if Sha256::digest(certificate)[..] == self.digest {
            return Ok(ServerCertVerified::assertion());
        }
        Err(rustls::Error::General("its certificate has another fingerprint".to_owned()))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_64_digits() {
        let plain = "00ff".repeat(16);
        let colons = vec!["00:FF"; 16].join(":");
        for good in [&plain, &colons] {
            assert_eq!(digest(good).unwrap()[..2], [0, 255]);
        }
        for bad in ["", "00", &plain[1..], &format!("{plain}00"), &"gg".repeat(32), &"é".repeat(32)]
        {
            assert!(digest(bad).is_err(), "{bad}");
        }
    }
}
