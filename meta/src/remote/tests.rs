//! Sessions through a metad, over real connections, on a volume in memory.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use proto::id::{BlobId, ClusterId, GroupId, NodeId, SessionId};
use proto::limits::MAX_LOOKS;
use proto::metad::{LEASE, PREFACE, VERSION, hear, listen, said, say};
use proto::rpc::metad as wire;
use proto::rpc::metad::from_client::Say;
use proto::rpc::metad::from_metad::Said;
use proto::tls::authority::{Authority, MACHINE_LASTS, from_now};
use proto::tls::credentials::{Credentials, NodeFiles};
use proto::tls::identity::{Identity, Role};
use proto::tls::{Acceptor, Connector};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::{RemoteError, RemoteSession, Target};
use crate::serve::{Keeper, Metad};
use crate::store::{
    Caller, Fate, FileUpdate, INLINE, Ino, MetaError, MetaStore, NewNode, Place, ROOT, RenameMode,
    Takes, Time, XATTR_VALUE_MAX,
};
use crate::volume::MemoryVolume;
use crate::volume::session::Session;
use crate::wire::samples;
use crate::wire::values::volume_to_wire;
use crate::{Extent, SetAttr};

/// Longest that a test waits for anything.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the keeper of the volume was told.
#[derive(Default)]
struct Told {
    died: Mutex<Vec<SessionId>>,
    changed: Mutex<Vec<&'static str>>,
}

impl Keeper for Told {
    fn session_died(&self, session: SessionId) {
        self.died.lock().push(session);
    }

    fn trash_changed(&self) {
        self.changed.lock().push("trash");
    }

    fn rules_changed(&self) {
        self.changed.lock().push("rules");
    }
}

/// A metad that serves one volume.
struct Served {
    cluster: ClusterId,
    address: SocketAddr,
    /// The keeper's session, and what that is told.
    keeper: Arc<Session>,
    told: Arc<Told>,
    /// What the volume lies in.
    memory: MemoryVolume,
    stop: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
}

impl Served {
    async fn start() -> Self {
        Self::over(MemoryVolume::format(&samples::a_volume(), (0, 0, 0o755))).await
    }

    /// Takes the volume over, and waits for who worked on it.
    async fn over(memory: MemoryVolume) -> Self {
        Self::admitting(Acceptor::plain(), memory).await
    }

    /// The same, for those who may come in.
    async fn admitting(acceptor: Acceptor, memory: MemoryVolume) -> Self {
        let keeper = memory.open();
        keeper.opened_on().await_sessions().await.unwrap();
        let cluster = keeper.volume().cluster;
        let (metad, told) = (Metad::new(cluster, acceptor), Arc::<Told>::default());
        metad.lead(keeper.opened_on().clone(), told.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        let serving = tokio::spawn(metad.serve(listener, stop.clone()));
        Self { cluster, address, keeper, told, memory, stop, serving }
    }

    fn target_at(&self, address: SocketAddr) -> Target {
        Target {
            addresses: vec![address.to_string()],
            cluster: self.cluster,
            connector: Connector::plain(),
            volume: self.keeper.volume().name,
            name: "a test".to_owned(),
            take_over: false,
        }
    }

    async fn session(&self) -> RemoteSession {
        RemoteSession::open(self.target_at(self.address)).await.unwrap()
    }

    async fn end(self) {
        self.stop.cancel();
        timeout(PATIENCE, self.serving).await.expect("it ends").unwrap();
    }

    /// It dies with all that is not durable, and another metad takes its place.
    async fn killed(self, between: &Between) -> Self {
        self.stop.cancel();
        timeout(PATIENCE, self.serving).await.expect("it ends").unwrap();
        let next = Self::over(self.memory.after_crash()).await;
        *between.to.lock() = next.address;
        next
    }
}

fn file() -> NewNode {
    NewNode::File
}

#[tokio::test]
async fn what_a_session_does_those_see_who_work_where_it_is_led() {
    let served = Served::start().await;
    let (one, two) = (served.session().await, served.keeper.clone());
    assert_ne!(one.session(), two.session());
    assert_eq!(one.volume(), served.keeper.volume());
    let caller = Caller { uid: 7, gid: 8, umask: 0o022 };
    let made = one.create(caller, ROOT, b"a", 0o666, file()).await.unwrap();
    assert_eq!((made.uid, made.gid, made.mode), (7, 8, 0o644));
    assert_eq!(two.lookup(ROOT, b"a").await, Ok(made));
    assert_eq!(two.create(caller, ROOT, b"a", 0o666, file()).await, Err(MetaError::Exists));
    let set = SetAttr { mode: Some(0o600), ..SetAttr::default() };
    let set = two.setattr(made.ino, set).await.unwrap();
    assert_eq!(one.getattr(made.ino).await, Ok(set));
    one.setxattr(made.ino, b"user.a", b"value", None).await.unwrap();
    assert_eq!(two.getxattr(made.ino, b"user.a").await.as_deref(), Ok(&b"value"[..]));
    assert_eq!(two.listxattr(made.ino).await, Ok(vec![b"user.a".to_vec()]));
    let link = NewNode::Symlink(b"a".to_vec());
    let link = two.create(caller, ROOT, b"l", 0o777, link).await.unwrap();
    assert_eq!(one.readlink(link.ino).await, Ok(b"a".to_vec()));
    let fate = Fate::Gone;
    let gone = one.rename((ROOT, b"a"), (ROOT, b"l"), RenameMode::Replace, fate).await.unwrap();
    assert_eq!(gone.map(|gone| (gone.ino, gone.orphan)), Some((link.ino, true)));
    one.reap(&[link.ino]).await.unwrap();
    assert_eq!(two.getattr(link.ino).await, Err(MetaError::NotFound));
    let names: Vec<_> = two.readdir(ROOT, 0, 10).await.unwrap();
    let names: Vec<_> = names.iter().map(|entry| &entry.name[..]).collect();
    assert_eq!(names, [&b"."[..], b"..", b"l"]);
    assert_eq!(one.usage().await, two.usage().await);
    one.sync().await.unwrap();
    assert!(served.told.changed.lock().is_empty());
    one.set_trash_days(7).await.unwrap();
    one.set_min_spare(0).await.unwrap();
    assert_eq!((one.trash_days(), one.volume()), (7, two.volume()));
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    one.tell_changes(move |info| drop(tell.send(info)));
    two.set_min_spare(1).await.unwrap();
    let heard = timeout(PATIENCE, told.recv()).await.expect("the next beat says so");
    assert_eq!(heard, Some(two.volume()));
    assert_eq!(one.volume(), two.volume());
    let gone = one.discard(ROOT, b"l", Takes::NoDirectory, 7).await.unwrap();
    assert_eq!(two.trashed(gone.ino).await.unwrap().name, b"l");
    one.give_up_trash(&[gone.ino]).await.unwrap();
    assert_eq!(*served.told.changed.lock(), ["trash", "rules", "trash"]);
    served.end().await;
}

#[tokio::test]
async fn many_names_are_looked_at_and_many_folders_found_at_once() {
    let served = Served::start().await;
    let (one, two) = (served.session().await, served.keeper.clone());
    let longest = |of: usize| vec![of as u8; XATTR_VALUE_MAX];
    let mut names = vec![b"none".to_vec()];
    for n in 0..MAX_LOOKS + 6 {
        let name = format!("f{n}").into_bytes();
        let made = two.create(Caller::default(), ROOT, &name, 0o644, file()).await.unwrap();
        two.setxattr(made.ino, b"user.a", &longest(n), None).await.unwrap();
        names.push(name);
    }
    let looked = one.look(ROOT, &names, b"user.a").await.unwrap();
    let values = looked.iter().map(|one| one.as_ref().and_then(|one| one.value.as_deref()));
    let (first, last) = (longest(0), longest(MAX_LOOKS + 5));
    let values: Vec<_> = values.collect();
    assert!(values[..2] == [None, Some(&first[..])] && values.last() == Some(&Some(&last[..])));
    assert!(looked == two.look(ROOT, &names, b"user.a").await.unwrap());
    let mut dirs = vec![Ino(1 << 40)];
    for (n, name) in [&b"dir"[..], b"sub", b"gone"].into_iter().enumerate() {
        let parent = if n == 0 { ROOT } else { dirs[1] };
        let node = NewNode::Directory;
        dirs.push(two.create(Caller::default(), parent, name, 0o755, node).await.unwrap().ino);
    }
    two.discard(dirs[1], b"gone", Takes::EmptyDirectory, 7).await.unwrap();
    let above = one.above(&dirs).await.unwrap();
    let told: Vec<_> = above.iter().map(|(ino, above)| (*ino, above.in_trash)).collect();
    assert_eq!(told, [(dirs[1], false), (dirs[2], false), (dirs[3], true)]);
    assert_eq!(above, two.above(&dirs).await.unwrap());
    // Nothing is replaced, so that it takes no room.
    assert_eq!(one.restore(dirs[3], (ROOT, b"back"), false, 7).await, Ok(None));
    assert_eq!(two.lookup(ROOT, b"back").await.unwrap().ino, dirs[3]);
    served.end().await;
}

#[tokio::test]
async fn content_is_committed_and_found_again() {
    let served = Served::start().await;
    let one = served.session().await;
    let made = one.create(Caller::default(), ROOT, b"a", 0o666, file()).await.unwrap();
    let VolumeOf { volume, scheme } = VolumeOf::of(&one);
    let id =
        |sequence| BlobId::new(volume, one.session(), sequence, GroupId(0), 4096, scheme).unwrap();
    let update = |id, offset| {
        let place = Some(Place { blob: id, offset: 0 });
        let extents = vec![Extent { offset, len: 4096, place }];
        let mtime = Some(Time { secs: 5, nanos: 6 });
        vec![FileUpdate { ino: made.ino, extents, size_at_least: Some(offset + 4096), mtime }]
    };
    one.commit(&[id(1)], &update(id(1), 0)).await.unwrap();
    let inline = id(INLINE | 2);
    one.commit_inline(inline, &[9; 4096], &update(inline, 4096)).await.unwrap();
    let found = one.extents(made.ino, 0..u64::MAX, 1).await.unwrap();
    assert_eq!(found.iter().map(|extent| extent.offset).collect::<Vec<_>>(), [0]);
    let found = one.extents(made.ino, 0..u64::MAX, 100).await.unwrap();
    assert_eq!(found.iter().map(|extent| extent.offset).collect::<Vec<_>>(), [0, 4096]);
    assert_eq!(one.inline_bytes(inline).await.unwrap().as_deref(), Some(&[9; 4096][..]));
    let attr = one.truncate(made.ino, 4096).await.unwrap();
    assert_eq!((attr.size, attr.stored), (4096, 4096));
    assert_eq!(one.inline_bytes(inline).await, Ok(None));
    assert_eq!(one.blob(id(1)).await, Err(MetaError::NotSupported), "it is the keeper's");
    served.end().await;
}

/// What ids of blobs are made of.
struct VolumeOf {
    volume: proto::id::VolumeId,
    scheme: proto::scheme::Scheme,
}

impl VolumeOf {
    fn of(session: &RemoteSession) -> Self {
        let info = session.volume();
        Self { volume: info.id, scheme: info.scheme }
    }
}

#[tokio::test]
async fn a_session_that_closes_leaves_nothing() {
    let served = Served::start().await;
    let one = served.session().await;
    let made = one.create(Caller::default(), ROOT, b"a", 0o666, file()).await.unwrap();
    let gone = one.unlink(ROOT, b"a").await.unwrap();
    assert!(gone.orphan && gone.ino == made.ino);
    one.close_session().await.unwrap();
    assert_eq!(served.keeper.getattr(made.ino).await, Err(MetaError::NotFound), "it is reaped");
    assert_eq!(served.keeper.dead_sessions().await, Ok(Vec::new()));
    assert!(served.told.died.lock().is_empty());
    assert!(matches!(one.getattr(ROOT).await, Err(MetaError::Ended(_))));
    served.end().await;
}

#[tokio::test]
async fn one_session_at_a_time_has_the_volume_until_it_is_taken_over() {
    let served = Served::start().await;
    let one = served.session().await;
    let refused = RemoteSession::open(served.target_at(served.address)).await.err();
    let (volume, by) = (one.volume().name, "a test".to_owned());
    assert_eq!(refused, Some(RemoteError::InUse { volume, by }));
    assert!(one.getattr(ROOT).await.is_ok());
    let target = Target { take_over: true, ..served.target_at(served.address) };
    let two = RemoteSession::open(target).await.unwrap();
    let over = async {
        while !matches!(one.getattr(ROOT).await, Err(MetaError::Ended(_))) {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, over).await.expect("it is told");
    assert!(two.getattr(ROOT).await.is_ok());
    let id = one.session();
    drop(one);
    let dead = async {
        while served.keeper.dead_sessions().await != Ok(vec![id]) {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, dead).await.expect("its last ask has ended");
    assert_eq!(*served.told.died.lock(), [id]);
    two.close_session().await.unwrap();
    served.end().await;
}

#[tokio::test]
async fn who_does_not_belong_here_is_told_so() {
    let served = Served::start().await;
    let mut target = served.target_at(served.address);
    target.cluster = ClusterId::random();
    let refused = RemoteSession::open(target).await.err();
    assert!(matches!(refused, Some(RemoteError::Refused { .. })), "{refused:?}");
    let mut target = served.target_at(served.address);
    target.volume = "another".to_owned();
    let refused = RemoteSession::open(target).await.err();
    assert!(matches!(refused, Some(RemoteError::NotLed { .. })), "{refused:?}");
    let mut target = served.target_at(served.address);
    target.addresses.clear();
    let refused = RemoteSession::open(target).await.err();
    assert!(matches!(refused, Some(RemoteError::Nobody(_))), "{refused:?}");
    // Bytes of anything else end that connection and no other.
    let one = served.session().await;
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &proto::link::PREFACE, &[0xa5; 4096]] {
        let mut stranger = TcpStream::connect(served.address).await.unwrap();
        stranger.write_all(bytes).await.unwrap();
        stranger.shutdown().await.unwrap();
    }
    assert!(one.getattr(ROOT).await.is_ok());
    served.end().await;
}

#[tokio::test]
async fn who_takes_nothing_in_that_is_sent_is_heard_no_more() {
    let served = Served::start().await;
    let mut client = TcpStream::connect(served.address).await.unwrap();
    let hello = wire::Hello {
        version: VERSION,
        cluster: served.cluster.as_bytes().to_vec().into(),
        volume: served.keeper.volume().name,
        connection: 1,
        ..wire::Hello::default()
    };
    client.write_all(&[&PREFACE[..], &say(0, Say::Hello(hello))].concat()).await.unwrap();
    assert!(matches!(listen(&mut client).await, Ok(Some((_, Said::Welcome(_))))));
    // Beats, each of which is answered with much more: on their ways there is room for some MiB.
    let beats = say(0, Say::Renew(wire::Renew { token: u64::MAX })).repeat(1 << 14);
    let most = (20 << 20) / beats.len();
    let mut sent = 0;
    while sent < most
        && timeout(Duration::from_secs(2), client.write_all(&beats)).await.is_ok_and(|w| w.is_ok())
    {
        sent += 1;
    }
    assert!(sent < most, "metad takes in whatever comes, and keeps the answers");
    drop(client);
    served.end().await;
}

/// A machine of a cluster whose CA is this, with its files in a directory.
fn machine(authority: &Authority, cluster: ClusterId, role: Role) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let identity = Identity { cluster, node: NodeId::random(), roles: [role].into() };
    let files = NodeFiles::new(directory.path());
    authority.equip(&files, &identity, &from_now(MACHINE_LASTS)).unwrap();
    directory
}

#[tokio::test]
async fn sessions_are_of_machines_of_the_cluster_and_led_by_its_roots() {
    let volume = samples::a_volume();
    let memory = MemoryVolume::format(&volume, (0, 0, 0o755));
    let cluster = volume.cluster;
    let (authority, other) =
        (Authority::make(cluster).unwrap().0, Authority::make(cluster).unwrap().0);
    let with = |directory: &TempDir| Some(Credentials::open(directory.path()).unwrap());
    let root = machine(&authority, cluster, Role::Root);
    let served = Served::admitting(Acceptor::new(with(&root)), memory).await;
    let asked =
        |connector| RemoteSession::open(Target { connector, ..served.target_at(served.address) });
    let client = machine(&authority, cluster, Role::Client);
    let session = asked(Connector::new(with(&client))).await.unwrap();
    assert!(session.getattr(ROOT).await.is_ok());
    let foreign = machine(&other, cluster, Role::Root);
    for stranger in [Connector::plain(), Connector::new(with(&foreign))] {
        let refused = asked(stranger).await.err();
        assert!(matches!(refused, Some(RemoteError::NotLed { .. })), "{refused:?}");
    }
    // The right certificate, and another cluster in what is said with it.
    let target = served.target_at(served.address);
    let (connector, cluster) = (Connector::new(with(&client)), ClusterId::random());
    let refused = RemoteSession::open(Target { connector, cluster, ..target }).await.err();
    assert!(matches!(refused, Some(RemoteError::Refused { .. })), "{refused:?}");
    assert!(session.getattr(ROOT).await.is_ok(), "the session goes on");
    served.end().await;
    // Whoever is no root leads nothing.
    let memory = MemoryVolume::format(&volume, (0, 0, 0o755));
    let node = machine(&authority, volume.cluster, Role::Node);
    let served = Served::admitting(Acceptor::new(with(&node)), memory).await;
    let connector = Connector::new(with(&client));
    let target = Target { connector, ..served.target_at(served.address) };
    let refused = RemoteSession::open(target).await.err();
    assert!(matches!(refused, Some(RemoteError::NotLed { .. })), "{refused:?}");
    served.end().await;
}

/// Something between a session and its metad that can cut connections, and keep back what metad says.
struct Between {
    address: SocketAddr,
    cut: Arc<Notify>,
    mute: Arc<AtomicBool>,
    /// Where the next connection leads.
    to: Arc<Mutex<SocketAddr>>,
    _carrying: AbortOnDropHandle<()>,
}

impl Between {
    async fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, cut) = (listener.local_addr().unwrap(), Arc::new(Notify::new()));
        let mute = Arc::<AtomicBool>::default();
        let to = Arc::new(Mutex::new(to));
        let (cutting, muted, leads) = (cut.clone(), mute.clone(), to.clone());
        let carrying = tokio::spawn(async move {
            loop {
                let (near, _) = listener.accept().await.unwrap();
                let to = *leads.lock();
                // Nobody is there: it is closed.
                let Ok(far) = TcpStream::connect(to).await else { continue };
                tokio::select! {
                    () = carry(near, far, &muted) => {}
                    () = cutting.notified() => {}
                }
            }
        });
        Self { address, cut, mute, to, _carrying: AbortOnDropHandle::new(carrying) }
    }
}

/// Carries bytes there, and back unless `muted`, until either side has ended.
async fn carry(mut near: TcpStream, mut far: TcpStream, muted: &AtomicBool) {
    let (mut from_near, mut to_near) = near.split();
    let (mut from_far, mut to_far) = far.split();
    let back = async {
        let mut bytes = [0; 4096];
        loop {
            let len = from_far.read(&mut bytes).await.unwrap_or(0);
            let goes_on = len > 0 && {
                muted.load(Ordering::SeqCst) || to_near.write_all(&bytes[..len]).await.is_ok()
            };
            if !goes_on {
                return;
            }
        }
    };
    tokio::select! {
        _ = tokio::io::copy(&mut from_near, &mut to_far) => {}
        () = back => {}
    }
}

#[tokio::test]
async fn a_session_goes_on_when_its_connection_was_cut() {
    let served = Served::start().await;
    let between = Between::start(served.address).await;
    let one = RemoteSession::open(served.target_at(between.address)).await.unwrap();
    let id = one.session();
    let caller = Caller::default();
    let before = one.create(caller, ROOT, b"0", 0o666, file()).await.unwrap();
    for round in 1..5u8 {
        between.cut.notify_one();
        assert_eq!(timeout(PATIENCE, one.lookup(ROOT, b"0")).await.unwrap(), Ok(before));
        one.create(caller, ROOT, &[b'a' + round], 0o666, file()).await.unwrap();
    }
    assert_eq!(one.session(), id);
    one.close_session().await.unwrap();
    assert_eq!(served.keeper.dead_sessions().await, Ok(Vec::new()), "it was one session");
    served.end().await;
}

/// Takes connections, and says nothing, as a metad that is stopped.
struct Stopped(std::net::TcpListener);

impl Stopped {
    fn begin() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        Self(listener)
    }

    fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    /// Waits for a connection.
    async fn connected(&self) -> std::net::TcpStream {
        loop {
            match self.0.accept() {
                Ok((stream, _)) => return stream,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    }
}

#[tokio::test]
async fn a_session_is_back_in_time_though_a_metad_that_is_stopped_was_asked_before() {
    let served = Served::start().await;
    let between = Between::start(served.address).await;
    let one = RemoteSession::open(served.target_at(between.address)).await.unwrap();
    let stopped = Stopped::begin();
    *between.to.lock() = stopped.address();
    between.cut.notify_one();
    let _held = timeout(PATIENCE, stopped.connected()).await.expect("it is asked");
    *between.to.lock() = served.address;
    // Whoever leads the volume by now waits for it for as long as a session may be silent.
    let asked = timeout(LEASE / 2, one.getattr(ROOT)).await.expect("it is back by then");
    assert!(asked.is_ok());
    one.close_session().await.unwrap();
    served.end().await;
}

#[tokio::test]
async fn who_stands_by_is_asked_before_a_metad_that_may_be_stopped() {
    let served = Served::start().await;
    let (first, second) =
        (Between::start(served.address).await, Between::start(served.address).await);
    let mut target = served.target_at(first.address);
    target.addresses.push(second.address.to_string());
    let one = RemoteSession::open(target).await.unwrap();
    let stopped = Stopped::begin();
    *first.to.lock() = stopped.address();
    // Nothing is answered by the connection that is about to be cut.
    first.mute.store(true, Ordering::SeqCst);
    first.cut.notify_one();
    assert!(timeout(PATIENCE, one.getattr(ROOT)).await.unwrap().is_ok());
    assert!(stopped.0.accept().is_err(), "it was not asked");
    one.close_session().await.unwrap();
    served.end().await;
}

/// Welcomes whoever comes, and then closes the connection; counts them.
async fn closing(listener: TcpListener, times: Arc<AtomicUsize>) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        times.fetch_add(1, Ordering::SeqCst);
        let mut preface = [0; PREFACE.len()];
        stream.read_exact(&mut preface).await.unwrap();
        hear(&mut stream, false).await.unwrap();
        let volume = Some(volume_to_wire(&samples::a_volume(), 0));
        let welcome = wire::Welcome { session: 7, volume, ..wire::Welcome::default() };
        stream.write_all(&said(0, Said::Welcome(welcome))).await.unwrap();
    }
}

#[tokio::test]
async fn a_metad_that_closes_each_connection_is_not_asked_all_the_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, times) = (listener.local_addr().unwrap(), Arc::<AtomicUsize>::default());
    let _closing = AbortOnDropHandle::new(tokio::spawn(closing(listener, times.clone())));
    let served = Served::start().await;
    let one = RemoteSession::open(served.target_at(address)).await.unwrap();
    let asked = timeout(Duration::from_secs(1), one.getattr(ROOT)).await;
    assert!(asked.is_err(), "nobody answers");
    let times = times.load(Ordering::SeqCst);
    assert!((2..=10).contains(&times), "{times} times in a second");
    drop(one);
    served.end().await;
}

#[tokio::test]
async fn what_was_done_and_not_heard_is_done_once() {
    let served = Served::start().await;
    let between = Between::start(served.address).await;
    let one = Arc::new(RemoteSession::open(served.target_at(between.address)).await.unwrap());
    between.mute.store(true, Ordering::SeqCst);
    let asking = one.clone();
    let asked = tokio::spawn(async move {
        asking.create(Caller::default(), ROOT, b"once", 0o666, file()).await
    });
    let done = async {
        while served.keeper.lookup(ROOT, b"once").await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, done).await.expect("it is done");
    assert!(!asked.is_finished(), "nobody has said so");
    between.mute.store(false, Ordering::SeqCst);
    between.cut.notify_one();
    let made = timeout(PATIENCE, asked).await.unwrap().unwrap();
    assert_eq!(made, served.keeper.lookup(ROOT, b"once").await, "it is there, and was not before");
    one.close_session().await.unwrap();
    served.end().await;
}

#[tokio::test]
async fn a_session_that_was_closed_and_did_not_hear_it_is_closed() {
    let served = Served::start().await;
    let between = Between::start(served.address).await;
    let one = Arc::new(RemoteSession::open(served.target_at(between.address)).await.unwrap());
    one.create(Caller::default(), ROOT, b"a", 0o666, file()).await.unwrap();
    one.sync().await.unwrap();
    between.mute.store(true, Ordering::SeqCst);
    let closing = one.clone();
    let closing = tokio::spawn(async move { closing.close_session().await });
    let done = async {
        while served.keeper.opened_on().alive().contains(&one.session()) {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, done).await.expect("it is done");
    // The session is forgotten once that was sent.
    tokio::task::yield_now().await;
    between.mute.store(false, Ordering::SeqCst);
    between.cut.notify_one();
    assert_eq!(timeout(PATIENCE, closing).await.unwrap().unwrap(), Ok(()));
    served.end().await;
}

/// The names in a directory.
async fn names(session: &dyn MetaStore, dir: Ino) -> Vec<String> {
    let entries = session.readdir(dir, 0, 4096).await.unwrap();
    let names = entries.into_iter().map(|entry| String::from_utf8(entry.name).unwrap());
    let mut names: Vec<_> = names.filter(|name| !name.starts_with('.')).collect();
    names.sort();
    names
}

#[tokio::test]
async fn what_was_answered_is_there_as_it_was_though_whoever_led_the_volume_lost_it() {
    let served = Served::start().await;
    let between = Between::start(served.address).await;
    let one = RemoteSession::open(served.target_at(between.address)).await.unwrap();
    let (id, caller) = (one.session(), Caller { uid: 7, gid: 8, umask: 0 });
    let dir = one.create(caller, ROOT, b"dir", 0o755, NewNode::Directory).await.unwrap().ino;
    one.sync().await.unwrap();
    let made = one.create(caller, dir, b"a", 0o644, file()).await.unwrap().ino;
    let to = (ROOT, &b"b"[..]);
    one.rename((dir, b"a"), to, RenameMode::NoReplace, Fate::Gone).await.unwrap();
    one.setxattr(made, b"user.a", b"value", Some(false)).await.unwrap();
    let gone = one.create(caller, dir, b"gone", 0o644, file()).await.unwrap().ino;
    one.link(gone, dir, b"link").await.unwrap();
    one.unlink(dir, b"gone").await.unwrap();
    let before = (one.getattr(made).await, one.getattr(gone).await, one.getattr(dir).await);
    // Twice: what was made again, and is lost again, is owed as before.
    let served = served.killed(&between).await;
    assert_eq!(one.getattr(made).await, before.0, "with its number and times");
    let served = served.killed(&between).await;
    let after = (one.getattr(made).await, one.getattr(gone).await, one.getattr(dir).await);
    assert_eq!(after, before);
    assert_eq!((one.session(), names(&one, dir).await), (id, vec!["link".to_owned()]));
    assert_eq!(names(&one, ROOT).await, ["b", "dir"]);
    assert_eq!(one.getxattr(made, b"user.a").await.as_deref(), Ok(&b"value"[..]));
    let exists = one.create(caller, ROOT, b"b", 0o644, file()).await;
    assert_eq!(exists, Err(MetaError::Exists));
    let fresh = one.create(caller, ROOT, b"fresh", 0o644, file()).await.unwrap().ino;
    assert!(fresh != made && fresh != gone && fresh != dir);
    one.close_session().await.unwrap();
    // Of the leaders that died their own are left.
    let dead = served.keeper.dead_sessions().await.unwrap();
    assert!(dead.len() == 2 && !dead.contains(&id), "{dead:?}");
    assert_eq!(served.keeper.opened_on().check().await.unwrap().problems, Vec::<String>::new());
    served.end().await;
}

#[tokio::test]
async fn nothing_is_synced_any_more_once_what_was_answered_cannot_be_done_again() {
    let served = Served::start().await;
    let between = Between::start(served.address).await;
    let one = RemoteSession::open(served.target_at(between.address)).await.unwrap();
    let caller = Caller::default();
    one.create(caller, ROOT, b"a", 0o644, file()).await.unwrap();
    served.stop.cancel();
    timeout(PATIENCE, served.serving).await.expect("it ends").unwrap();
    let next = Served::over(served.memory.after_crash()).await;
    next.keeper.create(caller, ROOT, b"a", 0o644, file()).await.unwrap();
    *between.to.lock() = next.address;
    for _ in 0..2 {
        let synced = timeout(PATIENCE, one.sync()).await.unwrap();
        assert!(matches!(synced, Err(MetaError::Engine(_))), "{synced:?}");
    }
    one.create(caller, ROOT, b"b", 0o644, file()).await.unwrap();
    assert_eq!(names(&one, ROOT).await, ["a", "b"]);
    one.close_session().await.unwrap();
    next.end().await;
}

#[tokio::test]
async fn what_was_done_durably_and_not_heard_is_done_once() {
    let served = Served::start().await;
    let between = Between::start(served.address).await;
    let one = Arc::new(RemoteSession::open(served.target_at(between.address)).await.unwrap());
    one.create(Caller::default(), ROOT, b"first", 0o666, file()).await.unwrap();
    between.mute.store(true, Ordering::SeqCst);
    let asking = one.clone();
    let asked = tokio::spawn(async move {
        asking.create(Caller::default(), ROOT, b"once", 0o666, file()).await
    });
    let done = async {
        while served.keeper.lookup(ROOT, b"once").await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, done).await.expect("it is done");
    let there = served.keeper.lookup(ROOT, b"once").await;
    served.keeper.sync().await.unwrap();
    let served = served.killed(&between).await;
    between.mute.store(false, Ordering::SeqCst);
    between.cut.notify_one();
    assert_eq!(timeout(PATIENCE, asked).await.unwrap().unwrap(), there, "it was done before");
    assert_eq!(names(&*one, ROOT).await, ["first", "once"]);
    one.close_session().await.unwrap();
    served.end().await;
}

#[tokio::test]
async fn however_often_whoever_leads_dies_all_that_was_answered_is_there() {
    let mut served = Served::start().await;
    let between = Between::start(served.address).await;
    let one = RemoteSession::open(served.target_at(between.address)).await.unwrap();
    let caller = Caller::default();
    let mut expected = Vec::new();
    for number in 0..120u32 {
        let (name, moved) = (format!("{number:03}"), format!("{number:03} moved"));
        one.create(caller, ROOT, name.as_bytes(), 0o644, file()).await.unwrap();
        if number % 3 == 0 {
            let to = (ROOT, moved.as_bytes());
            one.rename((ROOT, name.as_bytes()), to, RenameMode::NoReplace, Fate::Gone)
                .await
                .unwrap();
            expected.push(moved);
        } else if number % 3 == 1 {
            let gone = one.unlink(ROOT, name.as_bytes()).await.unwrap();
            one.reap(&[gone.ino]).await.unwrap();
        } else {
            expected.push(name);
        }
        if number % 17 == 16 {
            served.keeper.sync().await.unwrap();
        }
        if number % 10 == 9 {
            served = served.killed(&between).await;
        }
    }
    assert_eq!(names(&one, ROOT).await, expected);
    one.close_session().await.unwrap();
    assert_eq!(served.keeper.opened_on().check().await.unwrap().problems, Vec::<String>::new());
    served.end().await;
}
