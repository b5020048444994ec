//! A filesystem in a session of a metad, over a real connection, and whoever keeps the volume's house beside that.

use std::net::SocketAddr;

use meta::{Caller, MetaStore, Metad, NewNode, ROOT, RemoteSession, Target, VolumeInfo};
use nix::errno::Errno;
use proto::id::{ClusterId, VolumeId};
use proto::scheme::Scheme;
use proto::tls::{Acceptor, Connector};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::data::Housekeeping;
use crate::filesystem::Filesystem;

/// Longest that a test waits for anything.
const PATIENCE: Duration = Duration::from_secs(30);
const CALLER: Caller = Caller { uid: 0, gid: 0, umask: 0 };

/// A volume in memory that a metad leads, and whoever keeps its house.
struct Led {
    info: VolumeInfo,
    session: Arc<meta::Session>,
    keeper: Arc<Filesystem>,
    blobs: Arc<MemoryBlobs>,
    address: SocketAddr,
    stop: CancellationToken,
}

fn over(
    meta: Arc<dyn MetaStore>,
    blobs: &Arc<MemoryBlobs>,
    keeps: Housekeeping,
) -> Arc<Filesystem> {
    let settings = DataSettings { housekeeping: keeps, inline_bytes: 0, ..DataSettings::default() };
    let data = Data::start(meta.clone(), blobs.clone(), settings);
    Filesystem::start(meta, data, blobs.clone())
}

impl Led {
    async fn start() -> Self {
        let info = VolumeInfo {
            name: "v".to_owned(),
            id: VolumeId(1),
            cluster: ClusterId::random(),
            scheme: Scheme::erasure(4, 2).unwrap(),
            rules: proxy::VolumeRules::default(),
        };
        let session = meta::in_memory(&info, (0, 0, 0o755));
        let blobs = Arc::new(MemoryBlobs::new());
        let keeper = over(session.clone(), &blobs, Housekeeping::Here);
        let metad = Metad::new(info.cluster, Acceptor::plain());
        metad.lead(session.opened_on().clone(), keeper.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        tokio::spawn(metad.serve(listener, stop.clone()));
        Self { info, session, keeper, blobs, address, stop }
    }

    /// A filesystem elsewhere. It takes the volume from the one before.
    async fn elsewhere(&self) -> Arc<Filesystem> {
        let target = Target {
            addresses: vec![self.address.to_string()],
            cluster: self.info.cluster,
            connector: Connector::plain(),
            volume: self.info.name.clone(),
            name: "a test".to_owned(),
            take_over: true,
        };
        let session = RemoteSession::open(target).await.unwrap();
        over(Arc::new(session), &self.blobs, Housekeeping::Elsewhere)
    }

    /// Waits until there are no more inodes than these.
    async fn until_inodes(&self, inodes: u64) {
        let waiting = async {
            while self.session.usage().await.unwrap().inodes != inodes {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.expect("inodes go that nobody has open");
    }

    async fn end(self) {
        self.stop.cancel();
        self.keeper.stop().await.unwrap();
    }
}

#[tokio::test]
async fn files_are_written_read_listed_and_unlinked_through_a_metad() {
    let led = Led::start().await;
    let fs = led.elsewhere().await;
    let file = fs.create(CALLER, ROOT, b"file", 0o644, NewNode::File).await.unwrap().ino;
    let bytes = Random(7).bytes(3 << 20);
    fs.write(file, 0, Bytes::from(bytes.clone()), None).await.unwrap();
    assert_eq!(fs.getattr(file).await.unwrap().size, 3 << 20, "also before it is stored");
    fs.fsync(file).await.unwrap();
    assert_eq!(led.session.getattr(file).await.unwrap().size, 3 << 20);
    assert!(fs.read(file, 0, 4 << 20).await.unwrap() == bytes);
    fs.write(file, 5, Bytes::from_static(b"changed"), None).await.unwrap();
    assert_eq!(fs.read(file, 5, 7).await.unwrap(), &b"changed"[..]);
    let names = fs.readdir(ROOT, 0, 100).await.unwrap();
    assert!(names.iter().any(|entry| entry.name == b"file" && entry.attr.ino == file));
    // Open: it is there until the kernel has forgotten it, and then it is not.
    fs.unlink(0, ROOT, b"file").await.unwrap();
    assert_eq!(fs.read(file, 5, 7).await.unwrap(), &b"changed"[..]);
    fs.forget(file, 1);
    led.until_inodes(1).await;
    fs.stop().await.unwrap();
    assert_eq!(led.session.dead_sessions().await, Ok(Vec::new()));
    led.end().await;
}

#[tokio::test]
async fn who_has_lost_the_volume_changes_nothing_and_what_it_left_goes() {
    let led = Led::start().await;
    let first = led.elsewhere().await;
    let kept = first.create(CALLER, ROOT, b"kept", 0o644, NewNode::File).await.unwrap().ino;
    first.write(kept, 0, Bytes::from_static(b"synced"), None).await.unwrap();
    first.fsync(kept).await.unwrap();
    first.create(CALLER, ROOT, b"open", 0o644, NewNode::File).await.unwrap();
    first.unlink(0, ROOT, b"open").await.unwrap();
    assert_eq!(led.session.usage().await.unwrap().inodes, 3);
    let second = led.elsewhere().await;
    assert_eq!(second.read(kept, 0, 100).await.unwrap(), &b"synced"[..]);
    // Nobody has it open any more, as far as anybody can tell.
    led.until_inodes(2).await;
    let late = first.create(CALLER, ROOT, b"late", 0o644, NewNode::File).await;
    assert_eq!(late.map_err(|e| e.errno()), Err(Errno::EIO));
    assert_eq!(second.lookup(ROOT, b"late").await.unwrap(), None);
    assert!(first.stop().await.is_err(), "nobody is told that all is stored");
    second.stop().await.unwrap();
    led.end().await;
}
