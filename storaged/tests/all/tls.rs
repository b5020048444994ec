//! Promise: a daemon of a machine that belongs to a cluster speaks to machines of that cluster alone.

use std::time::{Duration, SystemTime};

use proto::client::Daemon;
use proto::convert::Address;
use proto::id::NodeId;
use proto::tls::Connector;
use proto::tls::authority::{Authority, MACHINE_LASTS, from_now};
use proto::tls::credentials::{Credentials, NodeFiles};
use proto::tls::identity::{Identity, Revoked, Role};

use super::daemon::{Running, address, storaged};
use super::*;

/// Longest that something is waited for: files are looked at every ten seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// A cluster: its disk, its CA, and machines with their files.
struct Site {
    dir: TempDir,
    cluster: ClusterId,
    authority: Authority,
}

impl Site {
    fn new() -> Self {
        let dir = fresh();
        let cluster =
            storaged::superblock::Superblock::read(&dir.path().join("d")).unwrap().cluster;
        Self { dir, cluster, authority: Authority::make(cluster).unwrap().0 }
    }

    /// A machine by its name, valid until then.
    fn machine(&self, name: &str, role: Role, until: SystemTime) -> NodeFiles {
        let files = NodeFiles::new(&self.dir.path().join(name));
        let identity =
            Identity { cluster: self.cluster, node: NodeId::random(), roles: [role].into() };
        let when = from_now(MACHINE_LASTS).start - MACHINE_LASTS..until;
        self.authority.equip(&files, &identity, &when).unwrap();
        files
    }

    fn valid(&self, name: &str, role: Role) -> NodeFiles {
        self.machine(name, role, SystemTime::now() + MACHINE_LASTS)
    }

    fn start(&self, server: &NodeFiles) -> Running {
        let mut command = storaged(&["run", "--listen", "127.0.0.1:0", "--identity"]);
        command.arg(server.directory());
        Running::run(command, &[&self.dir.path().join("d")], |_| {})
    }
}

fn with(files: &NodeFiles) -> Connector {
    Connector::new(Some(Credentials::open(files.directory()).unwrap()))
}

fn revoke(believes: &NodeFiles, whom: &NodeFiles) {
    let mut revoked = Revoked::default();
    revoked.add(whom.identity().unwrap().1);
    std::fs::write(believes.revoked(), revoked.to_text()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_serves_machines_of_its_cluster_and_nobody_else() {
    let (site, other) = (Site::new(), Site::new());
    let server = site.valid("server", Role::Node);
    let revoked = site.valid("revoked", Role::Root);
    revoke(&server, &revoked);
    let running = site.start(&server);
    let path = site.dir.path().join("d");
    let to = address(&path);
    let through = |connector| Daemon::through(&running.address, connector).unwrap();
    for role in Role::ALL {
        let daemon = through(with(&site.valid(&role.to_string(), role)));
        let store: Arc<dyn PartStore> = Arc::new(daemon.slot(to));
        let key = key(role as u64, 2 << 20);
        put(&store, key).await.unwrap();
        assert_eq!(get(&store, key).await.unwrap(), content(key));
        assert_eq!(daemon.status().await.unwrap().disks.len(), 1);
    }
    let past = SystemTime::now() - Duration::from_secs(60);
    for (who, connector) in [
        ("no TLS", Connector::plain()),
        ("another cluster's", with(&other.valid("root", Role::Root))),
        ("expired", with(&site.machine("expired", Role::Node, past))),
        ("revoked", with(&revoked)),
    ] {
        let stranger = through(connector);
        let store: Arc<dyn PartStore> = Arc::new(stranger.slot(to));
        let refused = [
            put(&store, key(9, 100)).await.err(),
            get(&store, key(0, 2 << 20)).await.err(),
            store.delete(&[key(0, 2 << 20).blob], None).await.err(),
            store.list(Scope::Session(VolumeId(1), SessionId(1)), None, 9).await.err(),
            stranger.status().await.err(),
            stranger.scrub(None).await.err(),
        ];
        let all = refused.iter().all(|why| matches!(why, Some(PartError::Unreachable(_))));
        assert!(all, "{who}: {refused:?}");
    }
    // The right certificate, and another cluster in what is asked with it.
    let wrong = Address { cluster: other.cluster, ..to };
    let error = through(with(&site.valid("wrong", Role::Client))).slot(wrong);
    let error = error.held(key(0, 2 << 20).blob).await.unwrap_err();
    assert!(matches!(error, PartError::WrongAddress(_)), "{error:?}");
    assert!(running.stop());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_revoked_loses_the_connections_that_there_are() {
    let site = Site::new();
    let (server, client) = (site.valid("server", Role::Node), site.valid("client", Role::Client));
    let running = site.start(&server);
    let path = site.dir.path().join("d");
    let daemon = Daemon::through(&running.address, with(&client)).unwrap();
    let store: Arc<dyn PartStore> = Arc::new(daemon.slot(address(&path)));
    put(&store, key(1, 100)).await.unwrap();
    daemon.status().await.unwrap();
    revoke(&server, &client);
    let gone = async {
        // Files are looked at every ten seconds: nothing says when.
        while get(&store, key(1, 100)).await.is_ok() || daemon.status().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("it is shown the door");
    let other = site.valid("other", Role::Client);
    assert!(Daemon::through(&running.address, with(&other)).unwrap().status().await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_revoked_is_asked_nothing_more() {
    let site = Site::new();
    let (server, client) = (site.valid("server", Role::Node), site.valid("client", Role::Client));
    let running = site.start(&server);
    let path = site.dir.path().join("d");
    let daemon = Daemon::through(&running.address, with(&client)).unwrap();
    let store: Arc<dyn PartStore> = Arc::new(daemon.slot(address(&path)));
    put(&store, key(1, 100)).await.unwrap();
    revoke(&client, &server);
    let over = async {
        // Files are looked at every ten seconds: nothing says when.
        while get(&store, key(1, 100)).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, over).await.expect("it is somebody no more");
    let why = put(&store, key(2, 100)).await.unwrap_err();
    assert!(matches!(&why, PartError::Unreachable(why) if why.contains("revoked")), "{why:?}");
}

#[test]
fn a_daemon_without_a_certificate_serves_its_machine_alone() {
    let site = Site::new();
    let disk = site.dir.path().join("d");
    let refused =
        storaged(&["run", "--listen", "0.0.0.0:0", "--disk"]).arg(&disk).output().unwrap();
    assert!(!refused.status.success());
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("has no certificate of the cluster"), "{said}");
    let running =
        Running::run(storaged(&["run", "--listen", "0.0.0.0:0", "--insecure"]), &[&disk], |_| {});
    assert!(running.stop());
    // One of another cluster does not do.
    let elsewhere = Site::new();
    let foreign = elsewhere.valid("foreign", Role::Node);
    let mut command = storaged(&["run", "--listen", "127.0.0.1:0", "--identity"]);
    command.arg(foreign.directory()).arg("--disk").arg(&disk);
    let refused = command.output().unwrap();
    assert!(!refused.status.success());
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains(&site.cluster.to_string()), "{said}");
}
