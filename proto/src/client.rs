//! Talking to a storage daemon: [`Daemon`] is where it is, [`RemoteSlot`] one slot behind it.
//!
//! What is asked of a slot travels over a [`Link`], how the daemon is by gRPC: two connections to one
//! address. Connections are made on first use and again after they broke, by the transport; a request that
//! meets a dead daemon fails at once or within [`CONNECT_TIMEOUT`]. Bounding the wait for an answer
//! is the caller's: only it knows what else it could do in the meantime.
//!
//! Bytes that arrive are verified against the checksums that came with them before anybody sees
//! them.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use crate::checksum::{Checked, widen};
use crate::convert::{Address, transport_error};
use crate::id::{BlobId, ClusterId, DiskId, Epoch, Generation, OwnerId, PartKey, VolumeId};
use crate::link::client::Link;
use crate::link::request::{Reply, Request};
use crate::part_store::{
    Beat, Condition, Fill, FillLevel, Held, Issuer, LastBeat, Page, PartError, PartStore, Scope,
    Standing,
};
use crate::rpc::storaged as wire;
use crate::rpc::storaged::storaged_client::StoragedClient;
use crate::tls::Connector;
use crate::tls::wire::Protocol;

/// How long a connection may take to be made.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A connection without a sign of life is asked for one this often, and given up after as long.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// Bytes of answers that may be under way on a connection for gRPC: they are small.
const WINDOW: u32 = 1 << 20;

/// An address that cannot be connected to, ever.
#[derive(Debug, thiserror::Error)]
#[error("{address:?} is not an address: {source}")]
pub struct BadAddress {
    address: String,
    source: tonic::transport::Error,
}

/// For gRPC to `HOST:PORT`, connected on first use. Must be called within a tokio runtime.
///
/// # Errors
/// [`BadAddress`].
pub fn channel(address: &str, connector: Connector) -> Result<Channel, BadAddress> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|source| BadAddress { address: address.to_owned(), source })?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW);
    let address: Arc<str> = address.into();
    let connecting = move |_: Uri| {
        let (connector, address) = (connector.clone(), address.clone());
        async move { connector.connect(&address, Protocol::Grpc).await.map(TokioIo::new) }
    };
    Ok(endpoint.connect_with_connector_lazy(service_fn(connecting)))
}

/// One storage daemon. Cheap to clone; clones share the connections.
#[derive(Clone, Debug)]
pub struct Daemon {
    client: StoragedClient<Channel>,
    link: Arc<Link>,
}

impl Daemon {
    /// One of this machine, at `HOST:PORT`, without TLS. Connects on first use. Must be called within a tokio runtime.
    pub fn new(address: &str) -> Result<Self, BadAddress> {
        Self::through(address, Connector::plain())
    }

    /// Connects to `HOST:PORT` on first use, by this. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`BadAddress`].
    pub fn through(address: &str, connector: Connector) -> Result<Self, BadAddress> {
        let link = Arc::new(Link::new(address, connector.clone(), CONNECT_TIMEOUT));
        Ok(Self { client: StoragedClient::new(channel(address, connector)?), link })
    }

    /// One slot of this daemon.
    pub fn slot(&self, address: Address) -> RemoteSlot {
        RemoteSlot { daemon: self.clone(), address }
    }

    /// What the daemon serves.
    pub async fn status(&self) -> Result<wire::StatusReply, PartError> {
        let reply = self.client.clone().status(wire::StatusRequest {}).await;
        Ok(reply.map_err(|status| transport_error(&status))?.into_inner())
    }

    /// Has a disk read and verify everything that it holds, or each that the daemon serves: how many have begun.
    ///
    /// # Errors
    /// [`PartError::Invalid`] when it is never scrubbed.
    pub async fn scrub(&self, disk: Option<DiskId>) -> Result<u32, PartError> {
        let disk = disk.map(|disk| Bytes::copy_from_slice(disk.as_bytes())).unwrap_or_default();
        let reply = self.client.clone().scrub(wire::ScrubRequest { disk }).await;
        Ok(reply.map_err(|status| transport_error(&status))?.into_inner().disks)
    }
}

/// A slot behind a daemon.
#[derive(Clone, Debug)]
pub struct RemoteSlot {
    daemon: Daemon,
    address: Address,
}

impl RemoteSlot {
    /// What the daemon says of the disk, once it is sure to be the right one.
    async fn disk(&self) -> Result<wire::DiskStatus, PartError> {
        let status = self.daemon.status().await?;
        let Address { cluster, disk, slot, group, generation } = self.address;
        if status.cluster[..] != cluster.as_bytes()[..] {
            let found = ClusterId::from_slice(&status.cluster)
                .map_or_else(|| "no cluster".to_owned(), |found| format!("cluster {found}"));
            let why = format!("the daemon there serves {found}, not {cluster}");
            return Err(PartError::WrongAddress(why));
        }
        let is_it = |found: &wire::DiskStatus| found.disk[..] == disk.as_bytes()[..];
        let Some(found) = status.disks.iter().find(|found| is_it(found)) else {
            // One that the daemon could not open may be it.
            return Err(match status.disks.iter().find(|found| found.disk.is_empty()) {
                Some(out) => PartError::Unreachable(format!("{}: {}", out.path, out.state)),
                None => PartError::WrongAddress(format!("the daemon there has no disk {disk}")),
            });
        };
        match found.slots.iter().find(|known| known.slot == slot.0) {
            Some(known) if known.group != group.0 => Err(PartError::WrongAddress(format!(
                "slot {slot} belongs to group {}, not to group {group}",
                known.group
            ))),
            Some(known) if known.generation > generation.0 => {
                Err(PartError::StaleGeneration(Generation(known.generation)))
            }
            _ => Ok(found.clone()),
        }
    }

    /// Asks, with a payload, and takes the answer without one.
    async fn ask(&self, request: &Request, payload: Bytes) -> Result<Reply, PartError> {
        Ok(self.daemon.link.call(self.address, request, payload).await?.0)
    }
}

fn unexpected() -> PartError {
    nonsense("it is the answer to something else")
}

fn nonsense(why: &str) -> PartError {
    PartError::Corrupt(format!("the daemon's answer makes no sense: {why}"))
}

#[async_trait]
impl PartStore for RemoteSlot {
    async fn put(
        &self,
        key: PartKey,
        data: Checked,
        issuer: Option<Issuer>,
    ) -> Result<(), PartError> {
        let (payload, checks) = data.into_parts();
        self.ask(&Request::Put { key, checks, issuer }, payload).await?;
        Ok(())
    }

    async fn get(&self, key: PartKey, range: Range<u32>) -> Result<Bytes, PartError> {
        let request = Request::Get { key, range: range.clone() };
        let answer = self.daemon.link.call(self.address, &request, Bytes::new()).await?;
        let (Reply::Got(checks), data) = answer else { return Err(unexpected()) };
        let wide = widen(range.clone(), key.blob.part_len());
        if data.len() != wide.len() {
            return Err(nonsense("wrong number of bytes"));
        }
        let checked =
            Checked::received(data, checks).ok_or_else(|| nonsense("wrong number of checksums"))?;
        checked.verify().map_err(|e| PartError::Corrupt(format!("in transit: {e}")))?;
        let start = (range.start - wide.start) as usize;
        Ok(checked.data().slice(start..start + range.len()))
    }

    async fn held(&self, blob: BlobId) -> Result<Held, PartError> {
        match self.ask(&Request::Held(blob), Bytes::new()).await? {
            Reply::Held(held) => Ok(held),
            _ => Err(unexpected()),
        }
    }

    async fn delete(&self, blobs: &[BlobId], issuer: Option<Issuer>) -> Result<(), PartError> {
        self.ask(&Request::Delete(blobs.to_vec(), issuer), Bytes::new()).await?;
        Ok(())
    }

    async fn forget(&self, blobs: &[BlobId], issuer: Option<Issuer>) -> Result<(), PartError> {
        self.ask(&Request::Forget(blobs.to_vec(), issuer), Bytes::new()).await?;
        Ok(())
    }

    async fn drop_part(&self, key: PartKey, issuer: Option<Issuer>) -> Result<(), PartError> {
        self.ask(&Request::DropPart(key, issuer), Bytes::new()).await?;
        Ok(())
    }

    async fn rebuilt(&self, volume: VolumeId, issuer: Option<Issuer>) -> Result<(), PartError> {
        self.ask(&Request::Rebuilt(volume, issuer), Bytes::new()).await?;
        Ok(())
    }

    async fn serve(&self) -> Result<(), PartError> {
        self.ask(&Request::Serve, Bytes::new()).await?;
        Ok(())
    }

    async fn fence(&self, volume: VolumeId, epoch: Epoch, owner: OwnerId) -> Result<(), PartError> {
        self.ask(&Request::Fence(volume, Issuer { epoch, owner }), Bytes::new()).await?;
        Ok(())
    }

    async fn promised(&self, volume: VolumeId) -> Result<Option<Issuer>, PartError> {
        match self.ask(&Request::Promised(volume), Bytes::new()).await? {
            Reply::Promised(promise) => Ok(promise),
            _ => Err(unexpected()),
        }
    }

    async fn beat(&self, volume: VolumeId, issuer: Issuer, beat: Beat) -> Result<(), PartError> {
        self.ask(&Request::Beat(volume, issuer, beat), Bytes::new()).await?;
        Ok(())
    }

    async fn last_beat(&self, volume: VolumeId) -> Result<Option<LastBeat>, PartError> {
        match self.ask(&Request::LastBeat(volume), Bytes::new()).await? {
            Reply::LastBeat(heard) => Ok(heard),
            _ => Err(unexpected()),
        }
    }

    async fn list(
        &self,
        scope: Scope,
        after: Option<BlobId>,
        limit: u32,
    ) -> Result<Page, PartError> {
        match self.ask(&Request::List { scope, after, limit }, Bytes::new()).await? {
            Reply::Page(page) => Ok(page),
            _ => Err(unexpected()),
        }
    }

    async fn standing(&self) -> Result<Option<Standing>, PartError> {
        let disk = self.disk().await?;
        let ours = disk.slots.iter().find(|slot| slot.slot == self.address.slot.0);
        Ok(ours.map(|slot| {
            let wire::SlotStatus { generation, rebuilding, pristine, .. } = *slot;
            Standing { generation: Generation(generation), rebuilding, pristine }
        }))
    }

    async fn condition(&self, volume: VolumeId) -> Result<Condition, PartError> {
        match self.ask(&Request::Condition(volume), Bytes::new()).await? {
            Reply::Condition(condition) => Ok(condition),
            _ => Err(unexpected()),
        }
    }

    async fn scrub(&self) -> Result<(), PartError> {
        self.daemon.scrub(Some(self.address.disk)).await.map(drop)
    }

    async fn fill(&self) -> Result<Fill, PartError> {
        let disk = self.disk().await?;
        if disk.state != "ok" {
            let readable = disk.state.starts_with("read-only");
            let error = if readable { PartError::Io } else { PartError::Unreachable };
            return Err(error(disk.state));
        }
        let level =
            FillLevel::from_word(&disk.fill).ok_or_else(|| nonsense("unknown fill level"))?;
        let wire::DiskStatus { capacity, used, available, spare, .. } = disk;
        Ok(Fill { capacity, used, available, spare, level })
    }
}
