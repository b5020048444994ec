//! What is asked of a root, over real connections.

use bytes::Bytes;
use proto::client::channel;
use proto::id::ClusterId;
use proto::rpc::root::root_client::RootClient;
use proto::tls::Connector;
use proto::tls::authority::{new_key, request};
use proto::tls::credentials::{Credentials, NodeFiles};
use proto::tls::files::{certificates, fingerprint};
use proto::tls::token::Token;
use tempfile::TempDir;
use tonic::Code;
use tonic::transport::Channel;

use super::super::found::found;
use super::super::state::Settings;
use super::*;

/// A root that serves.
struct Served {
    directory: TempDir,
    state: State,
    cluster: ClusterId,
    address: String,
    /// The disk that it has.
    disk: DiskId,
}

impl Served {
    async fn start() -> Self {
        let (directory, cluster) = (tempfile::tempdir().unwrap(), ClusterId::random());
        let state = State::new(&directory.path().join("root"));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let settings = Settings {
            roots: vec![address.clone()],
            address: "127.0.0.1:7411".to_owned(),
            root_address: Some(address.clone()),
            metrics: None,
            host: "here".to_owned(),
            disk: Vec::new(),
        };
        let disk = DiskId::random();
        found(&state, cluster, &settings, &[disk].into()).unwrap();
        let acceptor = Acceptor::new(Some(Credentials::open(state.directory()).unwrap()));
        // It ends with the test's runtime.
        tokio::spawn(serve(state.clone(), (listener, acceptor), CancellationToken::new()));
        Self { directory, state, cluster, address, disk }
    }

    fn client(&self, connector: Connector) -> RootClient<Channel> {
        RootClient::new(channel(&self.address, connector).unwrap())
    }

    fn fingerprint(&self) -> [u8; 32] {
        fingerprint(&certificates(&self.state.files().ca()).unwrap()[0])
    }

    fn stranger(&self) -> RootClient<Channel> {
        self.client(Connector::pinned(self.cluster, self.fingerprint()).unwrap())
    }

    fn token(&self, secret: u8, role: Role) -> Token {
        let (cluster, addresses) = (self.cluster, vec![self.address.clone()]);
        let (fingerprint, secret) = (self.fingerprint(), [secret; 32]);
        let token = Token { cluster, fingerprint, secret, expires: now() + 600, addresses };
        let offered = self.state.change(|ledger| {
            ledger.offer(&token, [role].into(), false);
            Ok(())
        });
        offered.unwrap();
        token
    }

    /// A machine with this role, taken in by a token of its own.
    async fn joined(&self, secret: u8, role: Role) -> RootClient<Channel> {
        let (token, key) = (self.token(secret, role), new_key().unwrap());
        let admission = self.stranger().join(ask(&token, &key)).await.unwrap().into_inner();
        let files = NodeFiles::new(&self.directory.path().join(secret.to_string()));
        let ca = admission.news.unwrap().ca;
        files.keep(&key, &admission.certificate, &ca).unwrap();
        assert_eq!(files.identity().unwrap().0.roles, [role].into());
        self.client(Connector::new(Some(Credentials::open(files.directory()).unwrap())))
    }
}

fn ask(token: &Token, key: &str) -> wire::JoinRequest {
    let asked = request(key).unwrap();
    let proof = token.key().prove(&asked, "m");
    wire::JoinRequest {
        token: Bytes::copy_from_slice(&token.id()),
        request: Bytes::from(asked),
        name: "m".to_owned(),
        proof: Bytes::copy_from_slice(&proof),
    }
}

fn bring(disk: DiskId) -> wire::AddDisksRequest {
    let (address, domain) = ("10.0.0.9:7411".to_owned(), "there".to_owned());
    let disk = Bytes::copy_from_slice(disk.as_bytes());
    wire::AddDisksRequest { disks: vec![wire::add_disks_request::Disk { disk, address, domain }] }
}

fn renewal(key: &str) -> wire::RenewRequest {
    wire::RenewRequest { request: Bytes::from(request(key).unwrap()) }
}

#[tokio::test]
async fn strangers_ask_to_be_taken_in_and_nothing_else() {
    let served = Served::start().await;
    let mut stranger = served.stranger();
    let refused = [
        stranger.look(wire::LookRequest {}).await.err(),
        stranger.renew(renewal(&new_key().unwrap())).await.err(),
        stranger.add_disks(bring(DiskId::random())).await.err(),
        stranger.leave(wire::LeaveRequest {}).await.err(),
    ];
    for why in refused {
        assert_eq!(why.map(|why| why.code()), Some(Code::Unauthenticated));
    }
    let unknown = Token { secret: [9; 32], ..served.token(1, Role::Node) };
    let key = new_key().unwrap();
    let why = stranger.join(ask(&unknown, &key)).await.unwrap_err();
    assert!(why.message().contains("no such token"), "{why}");
    // Who puts his own question under another's proof.
    let token = served.token(2, Role::Node);
    let theirs = ask(&token, &new_key().unwrap());
    let swapped = wire::JoinRequest { request: ask(&token, &key).request, ..theirs };
    let why = stranger.join(swapped).await.unwrap_err();
    assert!(why.message().contains("no such token"), "{why}");
    assert!(stranger.join(ask(&token, &key)).await.is_ok());
    let why = stranger.join(ask(&token, &new_key().unwrap())).await.unwrap_err();
    assert!(why.message().contains("another machine"), "{why}");
    for asked in [
        wire::JoinRequest::default(),
        wire::JoinRequest { request: Bytes::from(vec![0x30; 9000]), ..ask(&token, &key) },
        wire::JoinRequest { name: "m".repeat(5000), ..ask(&token, &key) },
    ] {
        assert!(stranger.join(asked).await.is_err());
    }
    assert_eq!(served.state.ledger().unwrap().machines().len(), 2, "the root, and one");
    assert!(served.client(Connector::plain()).look(wire::LookRequest {}).await.is_err());
}

/// Whoever asks and goes away takes no thread of those that serve disks, and keeps no machine waiting.
#[tokio::test]
async fn strangers_who_ask_and_go_do_not_keep_machines_waiting() {
    let served = Served::start().await;
    let mut node = served.joined(1, Role::Node).await;
    let (unknown, key) = (served.token(2, Role::Node), new_key().unwrap());
    let unknown = Token { secret: [9; 32], ..unknown };
    let stranger = served.stranger();
    assert!(stranger.clone().look(wire::LookRequest {}).await.is_err(), "it is connected");
    // What each of them asks waits for this, or for those before it.
    let lock = served.state.lock().unwrap();
    for _ in 0..64 {
        let (mut asking, asked) = (stranger.clone(), ask(&unknown, &key));
        let gone = tokio::time::timeout(Duration::from_millis(20), asking.join(asked)).await;
        assert!(gone.is_err(), "it waits");
    }
    let news = node.look(wire::LookRequest {});
    let news = tokio::time::timeout(Duration::from_secs(60), news).await;
    assert!(news.expect("it waits for no stranger").is_ok());
    drop(lock);
}

#[tokio::test]
async fn machines_may_what_their_roles_say() {
    let served = Served::start().await;
    let mut node = served.joined(1, Role::Node).await;
    let mut client = served.joined(2, Role::Client).await;
    let news = client.look(wire::LookRequest {}).await.unwrap().into_inner();
    assert_eq!(news.roots, std::slice::from_ref(&served.address));
    assert!(!news.cluster_file.contains("identity"), "that is each machine's own");
    let own = DiskId::random();
    let why = client.add_disks(bring(own)).await.unwrap_err();
    assert_eq!(why.code(), Code::PermissionDenied, "{why}");
    let why = node.add_disks(bring(served.disk)).await.unwrap_err();
    assert!(why.message().contains("another machine's"), "{why}");
    let before = served.state.cluster().unwrap();
    for (address, domain) in
        [("my host:7411", "there"), ("h\u{1b}[2K:1", "there"), ("h", "there"), ("h:1", "a\nb")]
    {
        let mut asked = bring(own);
        (asked.disks[0].address, asked.disks[0].domain) = (address.to_owned(), domain.to_owned());
        let why = node.add_disks(asked).await.unwrap_err();
        assert_eq!(why.code(), Code::FailedPrecondition, "{address:?} {domain:?}: {why}");
        assert_eq!(served.state.cluster().unwrap(), before);
    }
    node.add_disks(bring(own)).await.unwrap();
    let cluster = served.state.cluster().unwrap();
    assert_eq!((cluster.generation, cluster.slots.len()), (Generation(2), 2));
    node.add_disks(bring(own)).await.unwrap();
    assert_eq!(served.state.cluster().unwrap(), cluster, "it is there already");
    let why = node.leave(wire::LeaveRequest {}).await.unwrap_err();
    assert!(why.message().contains(&own.to_string()), "{why}");
    // A key that is not the machine's is not signed for it.
    let why = client.renew(renewal(&new_key().unwrap())).await.unwrap_err();
    assert!(why.message().contains("not that of the machine"), "{why}");
    let key = fs::read_to_string(served.directory.path().join("2/node.key")).unwrap();
    let again = client.renew(renewal(&key)).await.unwrap().into_inner();
    assert!(again.certificate.contains("CERTIFICATE"));
    client.leave(wire::LeaveRequest {}).await.unwrap();
    let why = client.renew(renewal(&key)).await.unwrap_err();
    assert!(why.message().contains("revoked"), "{why}");
    let machines = served.state.ledger().unwrap();
    let revoked = machines.machines().iter().filter(|machine| machine.revoked).count();
    assert_eq!(revoked, 1);
}
