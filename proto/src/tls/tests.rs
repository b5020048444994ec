//! Who may come in, tried over real connections.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, HandshakeKind, SignatureScheme};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::authority::{Authority, MACHINE_LASTS, from_now};
use super::identity::Revoked;
use super::*;
use crate::id::NodeId;
use crate::link::outgoing::Outgoing;

const ONLY: &[Protocol] = &[Protocol::Link];
/// Longest that a test waits for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// A cluster with its CA.
struct Site {
    cluster: ClusterId,
    authority: Authority,
}

/// A machine with its files.
struct Machine {
    directory: TempDir,
    identity: Identity,
}

impl Site {
    fn new() -> Self {
        let cluster = ClusterId::random();
        Self { cluster, authority: Authority::make(cluster).unwrap().0 }
    }

    fn machine(&self, roles: &[Role]) -> Machine {
        self.machine_until(roles, &from_now(MACHINE_LASTS))
    }

    fn machine_until(&self, roles: &[Role], when: &Range<SystemTime>) -> Machine {
        let roles = roles.iter().copied().collect();
        let identity = Identity { cluster: self.cluster, node: NodeId::random(), roles };
        let machine = Machine { directory: tempfile::tempdir().unwrap(), identity };
        self.renew(&machine, when);
        machine
    }

    fn renew(&self, machine: &Machine, when: &Range<SystemTime>) {
        self.authority.equip(&machine.files(), &machine.identity, when).unwrap();
    }
}

impl Machine {
    fn files(&self) -> NodeFiles {
        NodeFiles::new(self.directory.path())
    }

    fn open(&self) -> Arc<Credentials> {
        Credentials::open(self.directory.path()).unwrap()
    }

    fn revoke(&self, whom: &Machine) {
        let mut revoked = Revoked::default();
        revoked.add(whom.files().identity().unwrap().1);
        files::replace(&self.files().revoked(), &revoked.to_text(), 0o644).unwrap();
    }
}

/// Both ends of a connection that a server and a client make, as each sees it.
async fn meet(
    server: &Acceptor,
    client: &Connector,
    speaks: Protocol,
) -> (io::Result<Wire>, io::Result<Wire>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let accepting = async { server.accept(listener.accept().await.unwrap().0, ONLY).await };
    tokio::join!(accepting, client.connect(&address, speaks))
}

async fn says(mut from: Wire, mut to: Wire) {
    from.write_all(b"hello").await.unwrap();
    from.flush().await.unwrap();
    let mut heard = [0; 5];
    to.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"hello");
}

#[tokio::test]
async fn machines_of_a_cluster_know_each_other() {
    let site = Site::new();
    let server = site.machine(&[Role::Node]);
    let acceptor = Acceptor::new(Some(server.open()));
    for roles in [&[Role::Client][..], &[Role::Node], &[Role::Root, Role::Node]] {
        let client = site.machine(roles);
        let connector = Connector::new(Some(client.open()));
        let (far, near) = meet(&acceptor, &connector, Protocol::Link).await;
        let (far, near) = (far.unwrap(), near.unwrap());
        assert_eq!(far.peer().unwrap().identity(), &client.identity);
        assert_eq!(near.peer().unwrap().identity(), &server.identity);
        assert_eq!(far.agreed(), Some(Protocol::Link.name()));
        says(near, far).await;
    }
}

#[tokio::test]
async fn a_stranger_is_refused_and_it_is_known_why() {
    let (site, other) = (Site::new(), Site::new());
    let server = site.machine(&[Role::Node]);
    let acceptor = Acceptor::new(Some(server.open()));
    let day = Duration::from_secs(86400);
    let now = SystemTime::now();
    let revoked = site.machine(&[Role::Root]);
    server.revoke(&revoked);
    acceptor.credentials.as_ref().unwrap().take();
    // One whose certificate the right CA has signed, that is of another cluster.
    let mut wrong = site.machine(&[Role::Node]);
    wrong.identity.cluster = other.cluster;
    site.renew(&wrong, &from_now(MACHINE_LASTS));
    let strangers = [
        (None, "no certificate"),
        (Some(other.machine(&[Role::Root])), "unknown CA"),
        (Some(site.machine_until(&[Role::Node], &(now - 2 * day..now - day))), "expired"),
        (Some(site.machine_until(&[Role::Node], &(now + day..now + 2 * day))), "expired"),
        (Some(revoked), "revoked"),
        (Some(wrong), "not of this cluster"),
    ];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    for (who, why) in &strangers {
        let accepting = async { acceptor.accept(listener.accept().await.unwrap().0, ONLY).await };
        let believing = believing(who.as_ref());
        let (far, near) = tokio::join!(accepting, believe_anybody(address, &believing));
        assert_eq!(reason(&far.unwrap_err()), *why);
        assert!(near.is_err(), "{why}: nothing is said to it");
    }
    assert_eq!(acceptor.refused.lock().since, 5, "the log has one line of six");
}

#[tokio::test]
async fn who_speaks_without_tls_is_refused() {
    let site = Site::new();
    let acceptor = Acceptor::new(Some(site.machine(&[Role::Node]).open()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    for said in [&crate::link::PREFACE[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let accepting = async { acceptor.accept(listener.accept().await.unwrap().0, ONLY).await };
        let plain = async {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(said).await.unwrap();
            stream
        };
        let (far, _stream) = tokio::join!(accepting, plain);
        assert_eq!(reason(&far.unwrap_err()), "no TLS");
    }
}

/// Of a client with the certificate of a machine, or without one, that believes everybody.
fn believing(who: Option<&Machine>) -> TlsConnector {
    let builder = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()));
    let builder = builder
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody));
    let mut config = match who {
        Some(machine) => {
            let files = machine.files();
            let chain = files::certificates(&files.certificate()).unwrap();
            let key = PrivateKeyDer::from_pem_file(files.key()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![Protocol::Link.name().to_vec()];
    TlsConnector::from(Arc::new(config))
}

/// Connects, whoever is there, and hears what it is told: whether all was agreed on anew.
async fn believe_anybody(address: SocketAddr, with: &TlsConnector) -> io::Result<bool> {
    let name = ServerName::try_from("anybody.invalid").unwrap();
    let stream = TcpStream::connect(address).await?;
    let mut stream = with.connect(name, stream).await?;
    stream.read_u8().await?;
    Ok(stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Full))
}

#[tokio::test]
async fn nothing_of_a_connection_is_taken_up_again() {
    let site = Site::new();
    let acceptor = Acceptor::new(Some(site.machine(&[Role::Node]).open()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let client = site.machine(&[Role::Client]);
    // It would like to.
    let believing = believing(Some(&client));
    for _ in 0..3 {
        let greeting = async {
            let accepted = acceptor.accept(listener.accept().await.unwrap().0, ONLY).await;
            let mut wire = accepted.unwrap();
            wire.write_all(b"x").await.unwrap();
            wire.flush().await.unwrap();
            wire
        };
        let (_wire, near) = tokio::join!(greeting, believe_anybody(address, &believing));
        assert!(near.unwrap(), "certificates are looked at again");
    }
}

#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let provider = crypto::ring::default_provider();
        provider.signature_verification_algorithms.supported_schemes()
    }
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_is_given_up() {
    let site = Site::new();
    let acceptor = Acceptor::new(Some(site.machine(&[Role::Node]).open()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let began = tokio::time::Instant::now();
    let far = acceptor.accept(listener.accept().await.unwrap().0, ONLY).await;
    assert_eq!(reason(&far.unwrap_err()), "too slow");
    assert!(began.elapsed() < HANDSHAKE * 2);
    drop(silent);
}

#[tokio::test]
async fn nobody_takes_a_client_for_a_server_nor_a_node_for_a_root() {
    let (site, other) = (Site::new(), Site::new());
    let asks = site.machine(&[Role::Client]);
    let connector = Connector::new(Some(asks.open()));
    let session: &[Protocol] = &[Protocol::Session];
    for (server, speaks, may) in [
        (site.machine(&[Role::Client]), Protocol::Link, false),
        (site.machine(&[Role::Node]), Protocol::Link, true),
        (site.machine(&[Role::Node]), Protocol::Session, false),
        (site.machine(&[Role::Root]), Protocol::Session, true),
        (other.machine(&[Role::Root, Role::Node]), Protocol::Link, false),
    ] {
        let acceptor = Acceptor::new(Some(server.open()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let spoken = if speaks == Protocol::Session { session } else { ONLY };
        let accepting = async { acceptor.accept(listener.accept().await.unwrap().0, spoken).await };
        let (_, near) = tokio::join!(accepting, connector.connect(&address, speaks));
        assert_eq!(near.is_ok(), may, "{} speaks {speaks:?}: {near:?}", server.identity);
    }
    // Who asks a root believes what it says, whatever they speak.
    let to_roots = Connector::to_roots(asks.open());
    for (server, may) in [(site.machine(&[Role::Node]), false), (site.machine(&[Role::Root]), true)]
    {
        let acceptor = Acceptor::new(Some(server.open()));
        let (_, near) = meet(&acceptor, &to_roots, Protocol::Link).await;
        assert_eq!(near.is_ok(), may, "{}: {near:?}", server.identity);
    }
    let acceptor = Acceptor::new(Some(site.machine(&[Role::Node]).open()));
    let (far, near) = meet(&acceptor, &connector, Protocol::Session).await;
    assert!(near.is_err() && far.is_err(), "they have nothing to say to each other");
}

#[tokio::test]
async fn who_knows_the_ca_by_its_fingerprint_alone_finds_a_root_as_a_stranger() {
    let (site, other) = (Site::new(), Site::new());
    let print = |site: &Site| {
        let ca = CertificateDer::from_pem_slice(site.authority.certificate().as_bytes()).unwrap();
        files::fingerprint(&ca)
    };
    let client = site.machine(&[Role::Client]);
    for (server, may) in [
        (site.machine(&[Role::Root, Role::Node]), true),
        (site.machine(&[Role::Node]), false),
        (other.machine(&[Role::Root]), false),
    ] {
        let acceptor = Acceptor::new(Some(server.open())).with_strangers();
        let connector = Connector::pinned(site.cluster, print(&site)).unwrap();
        let (far, near) = meet(&acceptor, &connector, Protocol::Link).await;
        assert_eq!(near.is_ok(), may, "{}", server.identity);
        if let (Ok(far), Ok(near)) = (far, near) {
            assert!(far.peer().is_none(), "a stranger is known to be one");
            says(near, far).await;
            let known = Connector::new(Some(client.open()));
            let (far, _near) = meet(&acceptor, &known, Protocol::Link).await;
            assert_eq!(far.unwrap().peer().unwrap().identity(), &client.identity);
        }
    }
    let acceptor = Acceptor::new(Some(site.machine(&[Role::Root]).open())).with_strangers();
    for wrong in [
        Connector::pinned(site.cluster, print(&other)).unwrap(),
        Connector::pinned(other.cluster, print(&site)).unwrap(),
        Connector::new(Some(other.machine(&[Role::Root]).open())),
    ] {
        let (_, near) = meet(&acceptor, &wrong, Protocol::Link).await;
        assert!(near.is_err(), "{near:?}");
    }
    let closed = Acceptor::new(Some(site.machine(&[Role::Root]).open()));
    let connector = Connector::pinned(site.cluster, print(&site)).unwrap();
    let (far, _near) = meet(&closed, &connector, Protocol::Link).await;
    assert!(far.is_err(), "strangers come in where that is meant");
}

#[tokio::test]
async fn what_was_renewed_or_revoked_is_known_at_once() {
    let site = Site::new();
    let (server, client) = (site.machine(&[Role::Node]), site.machine(&[Role::Node]));
    let (acceptor, has) = (Acceptor::new(Some(server.open())), client.open());
    let connector = Connector::new(Some(has.clone()));
    let (far, _near) = meet(&acceptor, &connector, Protocol::Link).await;
    let old = far.unwrap().peer().unwrap().clone();
    site.renew(&client, &from_now(MACHINE_LASTS));
    has.take();
    let (far, _near) = meet(&acceptor, &connector, Protocol::Link).await;
    let new = far.unwrap().peer().unwrap().clone();
    assert_eq!(old.identity(), new.identity());
    assert_ne!(old.serial(), new.serial());
    assert!(!old.is_revoked() && !new.is_revoked());
    server.revoke(&client);
    let believes = acceptor.credentials.clone().unwrap();
    believes.take();
    assert!(new.is_revoked() && !old.is_revoked(), "the one that it has now");
    let (far, _near) = meet(&acceptor, &connector, Protocol::Link).await;
    assert_eq!(reason(&far.unwrap_err()), "revoked");
    files::replace(&server.files().revoked(), "nonsense", 0o644).unwrap();
    believes.take();
    assert!(new.is_revoked(), "a list that makes no sense changes nothing");
}

#[tokio::test]
async fn without_a_certificate_nobody_is_spoken_to_but_this_machine() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    assert!(Connector::plain().connect(&address, Protocol::Link).await.is_ok());
    let cluster = ClusterId::random();
    let listening = |listen: &str, insecure| {
        Acceptor::listening(&listen.parse().unwrap(), None, cluster, insecure)
    };
    assert!(listening("127.0.0.1:0", false).is_ok_and(|acceptor| !acceptor.is_secure()));
    let refused = listening(":0", false).unwrap_err().to_string();
    assert!(refused.contains("ashlar cluster join"), "{refused}");
    assert!(listening(":0", true).is_ok());
    let foreign = Site::new().machine(&[Role::Node]);
    let named = Some(foreign.directory.path());
    let refused = Acceptor::listening(&":0".parse().unwrap(), named, cluster, false).unwrap_err();
    assert!(refused.to_string().contains(&cluster.to_string()), "{refused}");
}

#[tokio::test]
async fn frames_that_nobody_reads_yet_are_not_lost_by_tls() {
    let site = Site::new();
    let acceptor = Acceptor::new(Some(site.machine(&[Role::Node]).open()));
    let connector = Connector::new(Some(site.machine(&[Role::Client]).open()));
    let (far, near) = meet(&acceptor, &connector, Protocol::Link).await;
    let (far, (mut reading, near)) = (far.unwrap(), near.unwrap().split());
    let (mut answers, writing) = far.split();
    let outgoing = Outgoing::new(writing);
    // Far more than the sockets hold, so that something is left, encrypted and not.
    let payload = Bytes::from((0..48 << 20).map(|n: u32| (n % 251) as u8).collect::<Vec<_>>());
    for _ in 0..2 {
        outgoing.send(Bytes::from_static(b"head"), payload.clone(), None).unwrap();
    }
    let all = async {
        let mut arrived = vec![0; 2 * (4 + payload.len())];
        reading.read_exact(&mut arrived).await.unwrap();
        outgoing.written().await;
        arrived
    };
    let arrived = tokio::select! {
        arrived = timeout(PATIENCE, all) => arrived.expect("all of it arrives"),
        error = outgoing.drain() => panic!("{error}"),
    };
    for one in arrived.chunks(4 + payload.len()) {
        assert!(one[..4] == *b"head" && one[4..] == payload[..]);
    }
    drop((reading, near));
    assert_eq!(answers.read(&mut [0; 1]).await.unwrap(), 0, "closed without a word of TLS");
}
