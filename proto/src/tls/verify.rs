//! Both ends look at the other's certificate alike: it is signed by the cluster's CA, is valid now, says of the same
//! cluster's machine what it is, and was not revoked. A server has to be one that may serve.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    SignatureScheme,
};

use super::files::fingerprint;
use super::identity::{Identity, Revoked, Role};
use crate::id::ClusterId;

/// Whose signatures are believed.
#[derive(Clone, Debug)]
enum Believed {
    /// Of these CAs.
    Roots(Arc<RootCertStore>),
    /// Of the one with this fingerprint, which a root shows beside its own certificate.
    Pinned([u8; 32]),
}

/// Looks at certificates in the name of one cluster.
#[derive(Clone, Debug)]
pub(super) struct Verifier {
    cluster: ClusterId,
    believed: Believed,
    /// Clients may show no certificate.
    strangers: bool,
    clients: Arc<dyn ClientCertVerifier>,
    algorithms: WebPkiSupportedAlgorithms,
    revoked: Arc<Revoked>,
}

impl Verifier {
    /// Of this cluster, whose CAs these are.
    ///
    /// # Errors
    /// When there is no CA.
    pub(super) fn new(
        cluster: ClusterId,
        roots: RootCertStore,
        revoked: Arc<Revoked>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Arc<Self>, String> {
        let (roots, algorithms) = (Arc::new(roots), provider.signature_verification_algorithms);
        let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider).build();
        let clients = clients.map_err(|why| why.to_string())?;
        let (believed, strangers) = (Believed::Roots(roots), false);
        Ok(Arc::new(Self { cluster, believed, strangers, clients, algorithms, revoked }))
    }

    /// The same, where clients may show no certificate.
    pub(super) fn with_strangers(&self) -> Arc<Self> {
        Arc::new(Self { strangers: true, ..self.clone() })
    }

    /// For who knows nothing but the fingerprint of the CA, and looks for a root.
    pub(super) fn pinned(
        cluster: ClusterId,
        fingerprint: [u8; 32],
        provider: &CryptoProvider,
    ) -> Arc<Self> {
        let algorithms = provider.signature_verification_algorithms;
        let (believed, strangers) = (Believed::Pinned(fingerprint), false);
        let (clients, revoked) = (WebPkiClientVerifier::no_client_auth(), Arc::default());
        Arc::new(Self { cluster, believed, strangers, clients, algorithms, revoked })
    }

    /// The CAs that may have signed a server's certificate.
    fn roots(&self, shown: &[CertificateDer<'_>]) -> Result<Arc<RootCertStore>, Error> {
        let pinned = match &self.believed {
            Believed::Roots(roots) => return Ok(roots.clone()),
            Believed::Pinned(pinned) => pinned,
        };
        let ca = shown.iter().find(|one| fingerprint(one) == *pinned);
        let ca = ca.ok_or(CertificateError::UnknownIssuer)?;
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone())?;
        Ok(Arc::new(roots))
    }

    /// Is somebody who is known the server that is looked for?
    fn may_serve(&self, identity: &Identity) -> bool {
        match self.believed {
            Believed::Roots(_) => identity.may_serve(),
            Believed::Pinned(_) => identity.is(Role::Root),
        }
    }

    /// Whom a certificate is for that is signed and valid.
    fn whom(&self, certificate: &CertificateDer<'_>) -> Result<Identity, Error> {
        let nobody = CertificateError::ApplicationVerificationFailure;
        let (identity, serial) = Identity::of(certificate).map_err(|_| nobody.clone())?;
        if identity.cluster != self.cluster {
            return Err(nobody.into());
        }
        if self.revoked.has(&serial) {
            return Err(CertificateError::Revoked.into());
        }
        Ok(identity)
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let (roots, algorithms) = (self.roots(intermediates)?, self.algorithms.all);
        verify_server_cert_signed_by_trust_anchor(&parsed, &roots, &[], now, algorithms)?;
        match self.may_serve(&self.whom(end_entity)?) {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        !self.strangers
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.clients.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.clients.verify_client_cert(end_entity, intermediates, now)?;
        self.whom(end_entity).map(|_| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
