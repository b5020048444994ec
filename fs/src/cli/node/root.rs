//! The service of a root: takes machines in, signs their certificates, gives their disks slots, and tells all of them what
//! is new. Who may be taken in is for the [`Ledger`](super::ledger::Ledger) to say.
//!
//! Strangers may come as far as `Join`; all else is for machines of the cluster, which are known by their certificates.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use proto::cluster::{Cluster, Slot, is_address};
use proto::guests::{Guest, GuestStream, Guests, room_for};
use proto::id::{DiskId, Generation, NodeId, SlotId};
use proto::program::sentence;
use proto::rpc::root as wire;
use proto::rpc::root::root_server::{Root, RootServer};
use proto::tls::Acceptor;
use proto::tls::authority::{Authority, MACHINE_LASTS, from_now};
use proto::tls::identity::{Identity, Role};
use proto::tls::token::LONGEST_NAME;
use proto::tls::wire::Protocol;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::{Server, Uri};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::ledger::{Asked, Ledger, is_name};
use super::state::State;

/// Most connections: a machine has one, for moments.
const CONNECTIONS: usize = 1024;
/// Connections that wait to be taken over by gRPC.
const WAITING: usize = 64;
/// Bytes of what is asked: 64 disks with their addresses, say.
const MAX_MESSAGE: usize = 64 << 10;
/// Bytes of headers of one request.
const MAX_HEADERS: u32 = 8 << 10;
/// Requests that one connection may have under way: a machine asks one thing after the other.
const MAX_STREAMS: u32 = 2;
/// Bytes that may lie unread in a connection.
const WINDOW: u32 = 64 << 10;
/// Longest frame of gRPC.
const MAX_FRAME: u32 = 16 << 10;
/// A silent connection is asked for a sign of life this often, and dropped after as long.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// Strangers that are looked at at once, and machines that are answered: neither waits for the other, and both leave threads to
/// the disks that this process serves.
const AT_ONCE: usize = 4;
/// How long requests under way may take once it is told to stop.
const GRACE: Duration = Duration::from_secs(5);

/// Serves until told to stop.
///
/// # Errors
/// When this machine is no root; when the server breaks.
pub(super) async fn serve(
    state: State,
    (listener, acceptor): (TcpListener, Acceptor),
    stop: CancellationToken,
) -> Result<()> {
    let service = Service::new(state)?;
    let service = RootServer::new(service).max_decoding_message_size(MAX_MESSAGE);
    let (agreed, incoming) = mpsc::channel(WAITING);
    let accepting = accept(listener, acceptor.with_strangers(), agreed, stop.clone());
    let serving = Server::builder()
        .max_frame_size(MAX_FRAME)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .http2_max_header_list_size(MAX_HEADERS)
        .max_concurrent_streams(MAX_STREAMS)
        .serve_with_incoming_shutdown(
            service,
            ReceiverStream::new(incoming),
            stop.clone().cancelled_owned(),
        );
    tokio::select! {
        (served, ()) = async { tokio::join!(serving, accepting) } => Ok(served?),
        () = async { stop.cancelled().await; tokio::time::sleep(GRACE).await } => Ok(()),
    }
}

async fn accept(
    listener: TcpListener,
    acceptor: Acceptor,
    agreed: mpsc::Sender<std::io::Result<GuestStream>>,
    stop: CancellationToken,
) {
    let (guests, agreeing) = (Guests::new(room_for(CONNECTIONS)), TaskTracker::new());
    loop {
        let (stream, guest) = tokio::select! {
            accepted = guests.accept(&listener) => accepted,
            () = stop.cancelled() => return,
        };
        agreeing.spawn(agree(stream, Arc::new(guest), acceptor.clone(), agreed.clone()));
    }
}

async fn agree(
    stream: TcpStream,
    guest: Arc<Guest>,
    acceptor: Acceptor,
    agreed: mpsc::Sender<std::io::Result<GuestStream>>,
) {
    let wire = tokio::select! {
        wire = acceptor.accept(stream, &[Protocol::Grpc]) => wire,
        () = guest.leave() => return,
    };
    // Who may not come in was logged.
    let Ok(wire) = wire else { return };
    guest.know(wire.peer());
    // A server that has stopped takes no more: the connection is closed.
    drop(agreed.send(Ok(GuestStream::new(wire, guest))).await);
}

/// What is asked of a root.
struct Service {
    inner: Arc<Inner>,
    strangers: Arc<Semaphore>,
    machines: Arc<Semaphore>,
}

struct Inner {
    state: State,
    authority: Authority,
    identity: Identity,
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// In the words that whoever asks is told.
fn refused(why: &anyhow::Error) -> Status {
    Status::failed_precondition(sentence(why.as_ref()))
}

/// Who asks, by his certificate, with one of these roles.
fn asking<T>(request: &Request<T>, roles: &[Role]) -> Result<Identity, Status> {
    let guest = request.extensions().get::<Arc<Guest>>();
    let peer = guest.and_then(|guest| {
        let peer = guest.peer()?;
        // It is no stranger who may be asked to make room.
        drop(guest.begin());
        Some(peer)
    });
    let peer = peer.ok_or_else(|| {
        Status::unauthenticated("only machines of the cluster may ask this (ashlar cluster join)")
    })?;
    let identity = peer.identity().clone();
    match roles.iter().any(|role| identity.is(*role)) {
        true => Ok(identity),
        false => {
            let roles: Vec<String> = roles.iter().map(Role::to_string).collect();
            let why = format!("that is for a {}, and not for {identity}", roles.join(" or "));
            Err(Status::permission_denied(why))
        }
    }
}

/// Signs the root's own key anew. It asks nobody: when its certificate is over, nobody answers.
///
/// # Errors
/// When this machine is no root; when the request is not by its key.
pub(super) fn renew_own(state: &State, request: &[u8]) -> Result<wire::Admission> {
    let root = Inner::of(state.clone())?;
    root.renew(root.identity.node, request)
}

impl Service {
    fn new(state: State) -> Result<Self> {
        let some = || Arc::new(Semaphore::new(AT_ONCE));
        Ok(Self { inner: Arc::new(Inner::of(state)?), strangers: some(), machines: some() })
    }

    /// Does what waits for files, for a machine of the cluster.
    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T> + Send + 'static,
    ) -> Result<Response<T>, Status> {
        self.work_within(&self.machines, work).await
    }

    async fn work_within<T: Send + 'static>(
        &self,
        places: &Arc<Semaphore>,
        work: impl FnOnce(&Inner) -> Result<T> + Send + 'static,
    ) -> Result<Response<T>, Status> {
        let place = places.clone().acquire_owned().await;
        let place = place.map_err(|why| Status::internal(why.to_string()))?;
        let inner = self.inner.clone();
        let working = move || {
            // Until it is done, also when whoever has asked is gone.
            let _place = place;
            work(&inner)
        };
        let done = tokio::task::spawn_blocking(working).await;
        let done = done.map_err(|why| Status::internal(why.to_string()))?;
        done.map(Response::new).map_err(|why| refused(&why))
    }
}

impl Inner {
    fn of(state: State) -> Result<Self> {
        let (authority, (identity, _)) = (state.authority()?, state.files().identity()?);
        Ok(Self { state, authority, identity })
    }

    fn join(&self, asked: &wire::JoinRequest) -> Result<wire::Admission> {
        let token = Uuid::from_slice(&asked.token).context("the token's id is not 16 bytes")?;
        let node = Authority::node_of(&asked.request)?;
        let asked =
            Asked { token, request: &asked.request, node, name: &asked.name, proof: &asked.proof };
        let certificate = self.state.change(|ledger| {
            let roles = ledger.admit(asked, now())?;
            self.certify(ledger, node, (asked.name, roles), asked.request)
        })?;
        tracing::info!("{node}, called {:?}, is of the cluster from now on", asked.name);
        Ok(wire::Admission { certificate, news: Some(self.news()?) })
    }

    /// Signs what a machine asks, and notes that.
    fn certify(
        &self,
        ledger: &mut Ledger,
        node: NodeId,
        (name, roles): (&str, BTreeSet<Role>),
        request: &[u8],
    ) -> Result<String> {
        let cluster = self.identity.cluster;
        let identity = Identity { cluster, node, roles: roles.clone() };
        let when = from_now(MACHINE_LASTS);
        let issued = self.authority.issue(request, &identity, &when)?;
        let until = when.end.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        ledger.note(node, (name, roles), (&issued.serial, until))?;
        Ok(issued.certificate)
    }

    fn renew(&self, node: NodeId, request: &[u8]) -> Result<wire::Admission> {
        ensure!(Authority::node_of(request)? == node, "the key is not that of the machine");
        let certificate = self.state.change(|ledger| {
            let machine = ledger.machine(node)?.clone();
            self.certify(ledger, node, (&*machine.name, machine.roles), request)
        })?;
        Ok(wire::Admission { certificate, news: Some(self.news()?) })
    }

    fn news(&self) -> Result<wire::News> {
        let read =
            |path: PathBuf| fs::read_to_string(&path).with_context(|| path.display().to_string());
        // Whose certificate is where is for each machine to say.
        let cluster = Cluster { identity: None, ..self.state.cluster()? };
        Ok(wire::News {
            ca: read(self.state.files().ca())?,
            revoked: self.state.ledger()?.revoked().to_text(),
            cluster_file: cluster.to_toml(),
            roots: self.state.settings()?.roots,
        })
    }

    /// Gives a machine's disks slots; those that have one are where the machine says.
    fn add_disks(&self, node: NodeId, asked: &wire::AddDisksRequest) -> Result<wire::News> {
        let disks: Vec<(DiskId, &wire::add_disks_request::Disk)> =
            asked.disks.iter().map(checked).collect::<Result<_>>()?;
        self.state.change(|ledger| {
            ledger.own(node, disks.iter().map(|(id, _)| *id))?;
            let old = self.state.cluster()?;
            let new = with_disks(&old, &disks);
            match new == old {
                true => Ok(()),
                false => self.state.keep_cluster(&new),
            }
        })?;
        self.news()
    }

    fn leave(&self, node: NodeId) -> Result<wire::LeaveReply> {
        let cluster = self.state.cluster()?;
        self.state.change(|ledger| {
            let machine = ledger.machine(node)?;
            let used = cluster.slots.iter().find(|slot| machine.disks.contains(&slot.disk));
            if let Some(used) = used {
                anyhow::bail!(
                    "disk {} of this machine is in the cluster file: have it emptied (storaged disk drain), and take it out (storaged disk lost) first",
                    used.disk
                );
            }
            Ok(ledger.revoke(node)?)
        })?;
        tracing::info!("{node} has left the cluster");
        Ok(wire::LeaveReply {})
    }
}

/// A disk that makes sense.
fn checked(
    disk: &wire::add_disks_request::Disk,
) -> Result<(DiskId, &wire::add_disks_request::Disk)> {
    let id = DiskId::from_slice(&disk.disk).context("a disk's id is not 16 bytes")?;
    ensure!(is_reachable(&disk.address), "{:?} is not HOST:PORT", disk.address);
    ensure!(
        is_name(&disk.domain),
        "the name of a host has {LONGEST_NAME} bytes at most, and none that cannot be shown"
    );
    Ok((id, disk))
}

/// Can machines be told to connect to it? One address that they cannot makes the cluster file of no use to all of them.
pub(crate) fn is_reachable(address: &str) -> bool {
    let names = |uri: Uri| uri.authority().is_some_and(|found| found.as_str() == address);
    is_address(address) && format!("http://{address}").parse::<Uri>().is_ok_and(names)
}

/// The cluster with these disks where they are said to be. It is of the next generation when there are more, and not when one is
/// elsewhere only: it stays who it is.
fn with_disks(old: &Cluster, disks: &[(DiskId, &wire::add_disks_request::Disk)]) -> Cluster {
    let mut new = old.clone();
    for (disk, asked) in disks {
        let (address, domain) = (Some(asked.address.clone()), asked.domain.clone());
        match new.slots.iter_mut().find(|slot| slot.disk == *disk) {
            Some(slot) => slot.address = address,
            None => {
                let (slot, rack) = (SlotId(0), String::new());
                let (path, replaces, drain) = (None, None, false);
                let disk = *disk;
                new.slots.push(Slot { disk, address, path, replaces, slot, drain, domain, rack });
            }
        }
    }
    if new.slots.len() > old.slots.len() {
        new.generation = Generation(old.generation.0 + 1);
    }
    new
}

#[tonic::async_trait]
impl Root for Service {
    async fn join(
        &self,
        request: Request<wire::JoinRequest>,
    ) -> Result<Response<wire::Admission>, Status> {
        let asked = request.into_inner();
        self.work_within(&self.strangers, move |inner| inner.join(&asked)).await
    }

    async fn renew(
        &self,
        request: Request<wire::RenewRequest>,
    ) -> Result<Response<wire::Admission>, Status> {
        let node = asking(&request, &Role::ALL)?.node;
        let asked = request.into_inner();
        self.work(move |inner| inner.renew(node, &asked.request)).await
    }

    async fn look(
        &self,
        request: Request<wire::LookRequest>,
    ) -> Result<Response<wire::News>, Status> {
        asking(&request, &Role::ALL)?;
        self.work(|inner| inner.news()).await
    }

    async fn add_disks(
        &self,
        request: Request<wire::AddDisksRequest>,
    ) -> Result<Response<wire::News>, Status> {
        let node = asking(&request, &[Role::Root, Role::Node])?.node;
        let asked = request.into_inner();
        self.work(move |inner| inner.add_disks(node, &asked)).await
    }

    async fn leave(
        &self,
        request: Request<wire::LeaveRequest>,
    ) -> Result<Response<wire::LeaveReply>, Status> {
        let node = asking(&request, &[Role::Node, Role::Client])?;
        if node.is(Role::Root) {
            return Err(Status::failed_precondition("a root does not leave its cluster"));
        }
        let node = node.node;
        self.work(move |inner| inner.leave(node)).await
    }
}

#[cfg(test)]
mod tests;
