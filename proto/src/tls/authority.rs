//! The CA of a cluster: makes the certificates by which its machines know each other.
//!
//! Its key is on roots alone. What a machine asks for is its public key and nothing else: who it is and what it may be
//! is for the CA to say.

use std::ops::Range;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
    SubjectPublicKeyInfo, date_time_ymd,
};
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use uuid::Uuid;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use super::credentials::NodeFiles;
use super::files::TlsError;
use super::identity::{Identity, Serial};
use crate::id::{ClusterId, NodeId};

/// How long a machine's certificate is valid. It is renewed at half of that.
pub const MACHINE_LASTS: Duration = Duration::from_secs(30 * 86400);
/// How long the CA's is.
const CA_LASTS: Duration = Duration::from_secs(20 * 365 * 86400);
/// Clocks of machines may differ by so much.
const CLOCKS: Duration = Duration::from_secs(3600);
/// Bytes of what asks for a certificate, at most.
pub const LONGEST_REQUEST: usize = 4 << 10;

/// The CA of a cluster, with its key.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// In PEM.
    certificate: String,
}

/// A CA as it is kept: certificate and key, in PEM.
#[derive(Clone)]
pub struct Made {
    /// The certificate.
    pub certificate: String,
    /// The key.
    pub key: String,
}

/// A certificate that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// It, in PEM.
    pub certificate: String,
    /// Its number.
    pub serial: Serial,
}

fn failed(why: rcgen::Error) -> TlsError {
    TlsError::Making(why.to_string())
}

/// From now on for so long, and a little before, for clocks that are behind.
pub fn from_now(lasts: Duration) -> Range<SystemTime> {
    let now = SystemTime::now();
    now - CLOCKS..now + lasts
}

/// A new private key, in PEM.
///
/// # Errors
/// [`TlsError::Making`].
pub fn new_key() -> Result<String, TlsError> {
    Ok(KeyPair::generate().map_err(failed)?.serialize_pem())
}

/// What a machine with this key (in PEM) asks a CA to sign.
///
/// # Errors
/// [`TlsError::Making`] when it is no key.
pub fn request(key: &str) -> Result<Vec<u8>, TlsError> {
    let key = KeyPair::from_pem(key).map_err(failed)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    Ok(params.serialize_request(&key).map_err(failed)?.der().to_vec())
}

/// From when until when a certificate is valid; `None`: it is none.
pub fn validity(certificate: &CertificateDer<'_>) -> Option<Range<SystemTime>> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let at = |timestamp: i64| {
        UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(timestamp).ok()?))
    };
    let validity = parsed.validity();
    Some(at(validity.not_before.timestamp())?..at(validity.not_after.timestamp())?)
}

impl Authority {
    /// A new one for a cluster.
    ///
    /// # Errors
    /// [`TlsError::Making`].
    pub fn make(cluster: ClusterId) -> Result<(Self, Made), TlsError> {
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = named(&format!("Ashlar cluster {cluster}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        valid(&mut params, &from_now(CA_LASTS));
        let certificate = params.self_signed(&key).map_err(failed)?.pem();
        let made = Made { certificate, key: key.serialize_pem() };
        let certificate = made.certificate.clone();
        Ok((Self { issuer: Issuer::new(params, key), certificate }, made))
    }

    /// One that was made.
    ///
    /// # Errors
    /// [`TlsError::Making`] when it is none.
    pub fn read(made: &Made) -> Result<Self, TlsError> {
        let key = KeyPair::from_pem(&made.key).map_err(failed)?;
        let issuer = Issuer::from_ca_cert_pem(&made.certificate, key).map_err(failed)?;
        Ok(Self { issuer, certificate: made.certificate.clone() })
    }

    /// Its certificate, in PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// A certificate for a machine with the key that it [asks](request) for, valid for this time. Nothing else that is
    /// in the request counts.
    ///
    /// # Errors
    /// [`TlsError::Making`] when the request makes no sense, or is not signed by its key.
    pub fn issue(
        &self,
        request: &[u8],
        identity: &Identity,
        when: &Range<SystemTime>,
    ) -> Result<Issued, TlsError> {
        let asked = asked(request)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = named(&identity.node.to_string());
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if identity.may_serve() {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        for uri in identity.uris() {
            params.subject_alt_names.push(SanType::URI(uri.try_into().map_err(failed)?));
        }
        params.use_authority_key_identifier_extension = true;
        valid(&mut params, when);
        let serial = serial();
        params.serial_number = Some(SerialNumber::from(serial.to_vec()));
        let serial = Serial::from_bytes(&serial)
            .ok_or_else(|| TlsError::Making("the serial number is none".to_owned()))?;
        let certificate = params.signed_by(&asked, &self.issuer).map_err(failed)?;
        Ok(Issued { certificate: certificate.pem(), serial })
    }

    /// Which machine asks: the one that has this key, and no other.
    ///
    /// # Errors
    /// [`TlsError::Making`] when the request makes no sense, or is not signed by its key.
    pub fn node_of(request: &[u8]) -> Result<NodeId, TlsError> {
        let key = Sha256::digest(asked(request)?.der_bytes());
        NodeId::from_slice(&key[..16]).ok_or_else(|| TlsError::Making("no id".to_owned()))
    }

    /// Makes a machine what the identity says: a key and a certificate, as [`Self::issue`] makes it, into its files. For
    /// the machine that the CA is on.
    ///
    /// # Errors
    /// When they cannot be made, or kept.
    pub fn equip(
        &self,
        files: &NodeFiles,
        identity: &Identity,
        when: &Range<SystemTime>,
    ) -> Result<Issued, TlsError> {
        let key = new_key()?;
        let issued = self.issue(&request(&key)?, identity, when)?;
        files.keep(&key, &issued.certificate, &self.certificate)?;
        Ok(issued)
    }
}

/// The key of a request that is signed by it, of the one kind that machines make. Nothing else in it is looked at.
fn asked(request: &[u8]) -> Result<SubjectPublicKeyInfo, TlsError> {
    let bad = |why: &str| TlsError::Making(format!("the request {why}"));
    if request.len() > LONGEST_REQUEST {
        return Err(bad("is too long"));
    }
    let parsed = X509CertificationRequest::from_der(request);
    let (rest, parsed) = parsed.map_err(|_| bad("makes no sense"))?;
    if !rest.is_empty() {
        return Err(bad("is longer than it says"));
    }
    parsed.verify_signature().map_err(|_| bad("is not signed by its key"))?;
    let key = parsed.certification_request_info.subject_pki.raw;
    let key = SubjectPublicKeyInfo::from_der(key).map_err(failed)?;
    match *key.algorithm() == PKCS_ECDSA_P256_SHA256 {
        true => Ok(key),
        false => Err(bad("has another kind of key than machines have")),
    }
}

fn named(name: &str) -> DistinguishedName {
    let mut named = DistinguishedName::new();
    named.push(DnType::CommonName, name);
    named
}

fn valid(params: &mut CertificateParams, when: &Range<SystemTime>) {
    // Certificates know seconds.
    let seconds = |at: SystemTime| at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(seconds(when.start));
    params.not_after = epoch + Duration::from_secs(seconds(when.end));
}

/// Random, positive, and with no byte to be left out in front.
fn serial() -> [u8; 16] {
    let mut serial = *Uuid::new_v4().as_bytes();
    serial[0] = (serial[0] & 0x3f) | 0x40;
    serial
}

#[cfg(test)]
mod tests {
    use rcgen::SigningKey;
    use rustls::pki_types::pem::PemObject;

    use super::*;
    use crate::tls::identity::Role;

    fn somebody(cluster: ClusterId) -> Identity {
        Identity { cluster, node: NodeId::random(), roles: [Role::Node].into() }
    }

    #[test]
    fn a_certificate_says_what_the_ca_says_whatever_was_asked() {
        let cluster = ClusterId::random();
        let (_, made) = Authority::make(cluster).unwrap();
        let authority = Authority::read(&made).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["root.example".to_owned()]).unwrap();
        let grand = format!("ashlar://{cluster}/role/root");
        params.subject_alt_names.push(SanType::URI(grand.try_into().unwrap()));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let asked = params.serialize_request(&key).unwrap().der().to_vec();
        let identity = somebody(cluster);
        let when = from_now(MACHINE_LASTS);
        let issued = authority.issue(&asked, &identity, &when).unwrap();
        let der = CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap();
        assert_eq!(Identity::of(&der), Ok((identity.clone(), issued.serial.clone())));
        let read = validity(&der).unwrap();
        let apart = when.end.duration_since(read.end).unwrap();
        assert!(apart < Duration::from_secs(1), "{read:?}");
        let again = authority.issue(&asked, &identity, &when).unwrap();
        assert_ne!(again.serial, issued.serial, "each has a number of its own");
        let other = params.serialize_request(&key).unwrap().der().to_vec();
        let node = Authority::node_of(&asked).unwrap();
        assert_eq!(Authority::node_of(&other).unwrap(), node, "it is who has the key");
        let stranger = request(&new_key().unwrap()).unwrap();
        assert_ne!(Authority::node_of(&stranger).unwrap(), node);
    }

    #[test]
    fn who_does_not_have_the_key_gets_no_certificate_for_it() {
        let (authority, _) = Authority::make(ClusterId::random()).unwrap();
        let asked = request(&new_key().unwrap()).unwrap();
        let (identity, when) = (somebody(ClusterId::random()), from_now(MACHINE_LASTS));
        assert!(authority.issue(&asked, &identity, &when).is_ok());
        // Behind that comes the signature, which may be written in more than one way.
        for at in 0..asked.len() - 90 {
            let mut changed = asked.clone();
            changed[at] ^= 1;
            assert!(authority.issue(&changed, &identity, &when).is_err(), "byte {at}");
        }
        assert!(authority.issue(&vec![0x30; LONGEST_REQUEST + 1], &identity, &when).is_err());
        let other = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let other = CertificateParams::default().serialize_request(&other).unwrap();
        let why = authority.issue(other.der(), &identity, &when).unwrap_err().to_string();
        assert!(why.contains("another kind of key"), "{why}");
        let longer = [&asked[..], &[0]].concat();
        assert!(authority.issue(&longer, &identity, &when).is_err());
    }

    /// DER of fewer than 256 bytes.
    fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let body = parts.concat();
        let len = u8::try_from(body.len()).unwrap();
        let head = if len < 128 { vec![tag, len] } else { vec![tag, 0x81, len] };
        [head, body].concat()
    }

    #[test]
    fn a_name_that_is_not_looked_at_may_be_anything() {
        let (authority, _) = Authority::make(ClusterId::random()).unwrap();
        let key = KeyPair::generate().unwrap();
        let (identity, when) = (somebody(ClusterId::random()), from_now(MACHINE_LASTS));
        let ecdsa_with_sha256 = [0x30_u8, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
        // A set without anything in it, over which libraries fall; and none.
        for name in [der(0x30, &[&der(0x31, &[])]), der(0x30, &[])] {
            let spki = key.subject_public_key_info();
            let info = der(0x30, &[&[2, 1, 0], &name, &spki, &[0xa0, 0]]);
            let signature = der(3, &[&[0], &key.sign(&info).unwrap()]);
            let asked = der(0x30, &[&info, &ecdsa_with_sha256, &signature]);
            let node = Authority::node_of(&asked);
            assert_eq!(authority.issue(&asked, &identity, &when).is_ok(), node.is_ok());
        }
    }
}
