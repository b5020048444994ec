//! Every place where bytes of a disk or of a connection become something, so that they can all be tried: whatever they
//! are given they say what it is or that it is nothing, and neither panic, nor hang, nor take memory without end.
//!
//! Each crate lists its own; its tests try them with [`hold`], and `tools/fuzz` for as long as one likes. Only there: the
//! module is behind the feature `decoders`.

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::cluster::Cluster;
use crate::convert::Address;
use crate::id::{BlobId, ClusterId, DiskId, Epoch, Generation, GroupId, NodeId, OwnerId};
use crate::id::{PartKey, SessionId, SlotId, VolumeId};
use crate::link::frame::{self, HEADER_LEN, Kind};
use crate::link::request::{Hello, Request};
use crate::part_store::{Issuer, Scope};
use crate::scheme::Scheme;
use crate::tls::authority::{Authority, MACHINE_LASTS, from_now, new_key, request, validity};
use crate::tls::identity::{Identity, Revoked, Role};
use crate::tls::token::Token;

/// One of them.
pub struct Decoder {
    /// What it reads.
    pub name: &'static str,
    /// Reads it.
    pub decode: fn(&[u8]),
    /// Bytes that make sense to it.
    pub example: fn() -> Vec<u8>,
    /// Makes the checksums of changed bytes right again, so that what lies behind them is reached.
    pub seal: fn(&mut Vec<u8>),
}

/// For bytes that carry no checksum.
pub fn unsealed(_: &mut Vec<u8>) {}

/// Tries each with noise, and with examples that were changed, cut and made longer, half of them sealed again.
///
/// # Panics
/// When one of them does, with the bytes that it takes.
pub fn hold(decoders: &[Decoder]) {
    for Decoder { name, decode, example, seal } in decoders {
        let whole = example();
        decode(&whole);
        let edits = vec((any::<Index>(), any::<u8>()), 0..6);
        let change = (edits, any::<Index>(), 0..4u8, vec(any::<u8>(), 0..300), any::<bool>());
        let mut runner = TestRunner::new(Config::with_cases(4000));
        let tried = runner.run(&change, |(edits, at, how, noise, sealed)| {
            let mut bytes = whole.clone();
            for (at, byte) in edits {
                *at.get_mut(&mut bytes) = byte;
            }
            match how {
                0 => bytes.truncate(at.index(bytes.len())),
                1 => bytes.extend_from_slice(&noise),
                2 => bytes.clone_from(&noise),
                _ => {}
            }
            if sealed {
                seal(&mut bytes);
            }
            decode(&bytes);
            Ok(())
        });
        tried.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

/// Those of this crate.
pub const DECODERS: &[Decoder] = &[
    Decoder {
        name: "frame",
        decode: read_frame,
        example: a_frame,
        seal: |bytes| seal_frame(bytes),
    },
    Decoder { name: "request", decode: read_request, example: a_request, seal: unsealed },
    Decoder { name: "answer", decode: read_answer, example: a_request, seal: unsealed },
    Decoder { name: "cluster file", decode: read_cluster, example: a_cluster, seal: unsealed },
    Decoder { name: "names", decode: read_names, example: a_name, seal: unsealed },
    Decoder {
        name: "certificate",
        decode: read_certificate,
        example: a_certificate,
        seal: unsealed,
    },
    Decoder {
        name: "certificate request",
        decode: read_certificate_request,
        example: a_certificate_request,
        seal: unsealed,
    },
    Decoder { name: "revoked", decode: read_revoked, example: a_revoked, seal: unsealed },
    Decoder { name: "token", decode: read_token, example: a_token, seal: seal_token },
];

/// A blob's id, for examples.
///
/// # Panics
/// Never: it is a valid one.
pub fn a_blob(len: u32) -> BlobId {
    let scheme = Scheme::copies(3).expect("three copies are possible");
    BlobId::new(VolumeId(1), SessionId(7), 3, GroupId(0), len, scheme).expect("a valid id")
}

fn an_issuer() -> Issuer {
    Issuer { epoch: Epoch(3), owner: OwnerId::random() }
}

fn an_address() -> Address {
    Address {
        cluster: ClusterId::random(),
        disk: DiskId::random(),
        slot: SlotId(0),
        group: GroupId(0),
        generation: Generation(1),
    }
}

fn requests() -> [Request; 4] {
    let key = PartKey::new(a_blob(5000), 1).expect("a valid part");
    let after = Some(a_blob(9));
    [
        Request::Put { key, checks: vec![1, 2], issuer: Some(an_issuer()) },
        Request::Get { key, range: 1000..4000 },
        Request::Delete(vec![a_blob(1), a_blob(2)], Some(an_issuer())),
        Request::List { scope: Scope::Session(VolumeId(1), SessionId(7)), after, limit: 10 },
    ]
}

fn a_frame() -> Vec<u8> {
    let [put, get, delete, list] = requests();
    let to = an_address();
    let hello = Request::Fence(VolumeId(1), an_issuer()).frame(1, to, 0);
    let frames = [put, get, delete, list].map(|request| request.frame(2, to, 0));
    std::iter::once(hello).chain(frames).flatten().collect()
}

/// Makes the first frame's checksum right.
///
/// # Panics
/// Never: four bytes are four bytes.
pub fn seal_frame(bytes: &mut [u8]) {
    let Some(len) = bytes.get(8..12) else { return };
    let len = u32::from_le_bytes(len.try_into().expect("four bytes")) as usize;
    let Some(message) = bytes.get(HEADER_LEN..HEADER_LEN.saturating_add(len)) else { return };
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..16]), message);
    bytes[16..20].copy_from_slice(&crc.to_le_bytes());
}

fn read_frame(mut bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime").block_on(async {
        while let Ok(Some(arrived)) = frame::read(&mut bytes).await {
            // What it means is for the others of these.
            drop(Request::decode(arrived.kind, arrived.message));
            if frame::skip(&mut bytes, arrived.payload).await.is_err() {
                return;
            }
        }
    });
}

/// A kind and a message.
fn a_request() -> Vec<u8> {
    let [put, ..] = requests();
    let frame = put.frame(2, an_address(), 0);
    [&[frame[4]], &frame[HEADER_LEN..]].concat()
}

fn read_request(bytes: &[u8]) {
    let Some((kind, message)) = bytes.split_first() else { return };
    let message = Bytes::copy_from_slice(message);
    drop(Hello::decode(message.clone()));
    if let Some(kind) = Kind::from_byte(*kind)
        && let Some(Ok((_, request))) = Request::decode(kind, message)
    {
        let (_, _) = (request.payloads(), request.memory());
    }
}

fn read_answer(bytes: &[u8]) {
    let Some((which, message)) = bytes.split_first() else { return };
    let message = Bytes::copy_from_slice(message);
    drop(requests()[usize::from(which % 4)].reply(message.clone()));
    drop(Request::Held(a_blob(1)).reply(message.clone()));
    drop(Request::LastBeat(VolumeId(1)).reply(message.clone()));
    drop(Request::Promised(VolumeId(1)).reply(message));
}

fn a_cluster() -> Vec<u8> {
    let (cluster, disk) = (ClusterId::random(), DiskId::random());
    let text = format!(
        "cluster = \"{cluster}\"\ngeneration = 2\n[[slot]]\ndisk = \"{disk}\"\naddress = \"a:1\"\ndomain = \"h\"\n"
    );
    text.into_bytes()
}

fn read_cluster(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        drop(Cluster::parse(text, std::path::Path::new("/")));
    }
}

fn a_name() -> Vec<u8> {
    a_blob(4096).to_bytes().to_vec()
}

fn read_names(bytes: &[u8]) {
    if let Some(id) = BlobId::from_bytes(bytes) {
        assert_eq!(id.to_string().parse().ok(), Some(id), "an id is read as it is shown");
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        drop(text.parse::<BlobId>());
        drop(text.parse::<Scheme>());
    }
}

fn somebody() -> Identity {
    let (cluster, node) = (ClusterId::random(), NodeId::random());
    Identity { cluster, node, roles: Role::ALL.into() }
}

/// One CA for all: making it takes longer than all that is tried with it.
static AUTHORITY: LazyLock<Authority> =
    LazyLock::new(|| Authority::make(ClusterId::random()).expect("a CA is made").0);

fn a_certificate() -> Vec<u8> {
    let when = from_now(MACHINE_LASTS);
    let issued = AUTHORITY.issue(&a_certificate_request(), &somebody(), &when);
    let pem = issued.expect("it is signed").certificate;
    CertificateDer::from_pem_slice(pem.as_bytes()).expect("it is one").to_vec()
}

fn read_certificate(bytes: &[u8]) {
    let certificate = CertificateDer::from(bytes);
    let _ = validity(&certificate);
    if let Ok((identity, serial)) = Identity::of(&certificate) {
        let uris = identity.uris();
        let read = Identity::from_uris(uris.iter().map(String::as_str));
        assert_eq!(read, Ok(identity), "who it is is read as it is written");
        assert_eq!(serial.to_string().parse(), Ok(serial), "a number is read as it is shown");
    }
}

fn a_certificate_request() -> Vec<u8> {
    let asked = new_key().and_then(|key| request(&key));
    asked.expect("a key is made")
}

fn read_certificate_request(bytes: &[u8]) {
    drop(AUTHORITY.issue(bytes, &somebody(), &from_now(MACHINE_LASTS)));
}

fn a_revoked() -> Vec<u8> {
    b"# of m2\n0aff\n4100ff # lost\n".to_vec()
}

fn read_revoked(bytes: &[u8]) {
    if let Ok(revoked) = Revoked::parse(&String::from_utf8_lossy(bytes)) {
        assert_eq!(Revoked::parse(&revoked.to_text()), Ok(revoked), "a list is read as written");
    }
}

fn a_token() -> Vec<u8> {
    let (cluster, expires) = (ClusterId::random(), 2_000_000_000);
    let addresses = vec!["10.0.0.1:7410".to_owned(), "root-b:7410".to_owned()];
    let (fingerprint, secret) = ([1; 32], [2; 32]);
    Token { cluster, fingerprint, secret, expires, addresses }.to_string().into_bytes()
}

/// Makes the checksum right, of whatever can be decoded.
fn seal_token(bytes: &mut Vec<u8>) {
    let Some(encoded) = bytes.strip_prefix(b"ashlar1.") else { return };
    let Ok(mut inner) = URL_SAFE_NO_PAD.decode(encoded) else { return };
    let Some(len) = inner.len().checked_sub(4) else { return };
    inner.truncate(len);
    inner.extend_from_slice(&crc32c::crc32c(&inner).to_be_bytes());
    *bytes = format!("ashlar1.{}", URL_SAFE_NO_PAD.encode(inner)).into_bytes();
}

fn read_token(bytes: &[u8]) {
    if let Ok(token) = String::from_utf8_lossy(bytes).parse::<Token>() {
        assert_eq!(token.to_string().parse(), Ok(token), "a token is read as it is written");
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn whatever_comes_is_read_or_refused() {
        super::hold(super::DECODERS);
    }
}
