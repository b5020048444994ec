//! What a daemon does with a request: checks what arrived, asks the disk, answers. It decides nothing
//! itself. Puts and gets come by [`crate::link`] as well as by gRPC, the rest by gRPC.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto::checksum::Checked;
use proto::convert::{
    Address, blob_from_wire, blob_to_wire, blobs_from_wire, part_from_wire, payload_from_wire,
    status_from,
};
use proto::gather::Gather;
use proto::guard::caught_in;
use proto::id::{BlobId, Generation, GroupId, SessionId, SlotId, VolumeId};
use proto::limits::{DISK_BLOCK, MAX_BLOBS_PER_REQUEST, MAX_LIST, MAX_MESSAGE};
use proto::part_store::PartError;
use proto::rpc::storaged as wire;
use proto::rpc::storaged::storaged_server::{Storaged, StoragedServer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use crate::bay::{Bay, BayState, Bays};
use crate::disk::Disk;
use crate::door;
use crate::queue::Ask;

/// Requests that one connection for gRPC may have under way.
const MAX_STREAMS: u32 = 64;
/// Bytes that may lie unread in a connection for gRPC; what is large comes by a link.
const WINDOW: u32 = 128 << 10;
/// Longest frame of gRPC: a request that fits is whole at once.
const MAX_FRAME: u32 = 64 << 10;
/// Bytes of headers of one request.
const MAX_HEADERS: u32 = 8 << 10;
/// Large messages that arrive by gRPC at once, of all connections.
const LARGE_MESSAGES: usize = 4;
/// Bytes of payload that may be under way between this daemon and everybody, in equal shares for its
/// disks, so that one that hangs does not use up what the others need.
const DAEMON_BYTES: usize = 256 << 20;
/// Least and most of a disk's share.
const DISK_BYTES: (usize, usize) = (16 << 20, 64 << 20);
/// A silent connection is asked for a sign of life this often, and dropped after as long.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// Longest that a request waits for its disk: whoever sent it has given it up long before.
const ANSWER: Duration = Duration::from_secs(5);
/// How long requests under way may take to finish once the daemon is told to stop.
const GRACE: Duration = Duration::from_secs(5);

/// What one daemon serves.
#[derive(Clone)]
pub struct Service {
    bays: Arc<Bays>,
    /// Of each bay, its share of what may be under way, in blocks.
    budgets: Arc<[Arc<Semaphore>]>,
}

impl Service {
    /// Of the disks in these bays, and of those that come into them later.
    pub fn new(bays: Arc<Bays>) -> Self {
        let share = (DAEMON_BYTES / bays.all().len().max(1)).clamp(DISK_BYTES.0, DISK_BYTES.1);
        let budget = |_| Arc::new(Semaphore::new(share / DISK_BLOCK));
        let budgets = bays.all().iter().map(budget).collect();
        Self { bays, budgets }
    }

    /// Serves until told to stop; then lets what is under way finish.
    pub async fn serve(
        self,
        listener: TcpListener,
        stop: CancellationToken,
    ) -> Result<(), tonic::transport::Error> {
        let service = StoragedServer::new(self.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let (grpc, incoming) = tokio::sync::mpsc::channel(door::WAITING);
        let accepting = door::accept(listener, self, grpc, stop.clone());
        let serving = Server::builder()
            .layer(Gather::new(LARGE_MESSAGES))
            .max_frame_size(MAX_FRAME)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .http2_max_header_list_size(MAX_HEADERS)
            .max_concurrent_streams(MAX_STREAMS)
            .http2_keepalive_interval(Some(KEEP_ALIVE))
            .http2_keepalive_timeout(Some(KEEP_ALIVE))
            .serve_with_incoming_shutdown(
                service,
                ReceiverStream::new(incoming),
                stop.clone().cancelled_owned(),
            );
        tokio::select! {
            (result, ()) = async { tokio::join!(serving, accepting) } => result,
            () = async { stop.cancelled().await; tokio::time::sleep(GRACE).await } => Ok(()),
        }
    }

    /// What a request to this address takes its share of.
    pub(crate) fn budget(&self, to: Option<&wire::Address>) -> Result<Arc<Semaphore>, PartError> {
        let (bay, _) = self.served(&Address::from_wire(to)?)?;
        Ok(self.budgets[bay].clone())
    }

    /// The disk, if the address is right and its generation not stale.
    async fn slot(&self, to: Option<&wire::Address>) -> Result<(Arc<Disk>, SlotId), PartError> {
        let to = Address::from_wire(to)?;
        let (_, disk) = self.served(&to)?;
        disk.check_slot(to.slot, to.group, to.generation).await?;
        Ok((disk, to.slot))
    }

    /// The number of its bay, and the disk.
    fn served(&self, to: &Address) -> Result<(usize, Arc<Disk>), PartError> {
        let cluster = self.bays.cluster();
        if to.cluster != cluster {
            return Err(PartError::WrongAddress(format!(
                "this daemon serves cluster {cluster}, not {}",
                to.cluster
            )));
        }
        self.bays.find(to.disk)
    }

    pub(crate) async fn put_part(
        &self,
        request: wire::PutRequest,
    ) -> Result<wire::PutReply, PartError> {
        within(self.put_now(request)).await
    }

    async fn put_now(&self, request: wire::PutRequest) -> Result<wire::PutReply, PartError> {
        let wire::PutRequest { to, blob, part, data, checks } = request;
        let key = part_from_wire(&blob, part)?;
        let (disk, slot) = self.slot(to.as_ref()).await?;
        let data = payload_from_wire(key, data, checks)?;
        disk.put(slot, key, data).await?;
        Ok(wire::PutReply {})
    }

    pub(crate) async fn get_part(
        &self,
        request: wire::GetRequest,
    ) -> Result<wire::GetReply, PartError> {
        within(self.get_now(request)).await
    }

    async fn get_now(&self, request: wire::GetRequest) -> Result<wire::GetReply, PartError> {
        let wire::GetRequest { to, blob, part, offset, len } = request;
        let key = part_from_wire(&blob, part)?;
        let end = offset
            .checked_add(len)
            .filter(|end| len > 0 && *end <= key.blob.part_len())
            .ok_or_else(|| {
                PartError::Invalid(format!("no {len} bytes at {offset} in a part of {}", key.blob))
            })?;
        let (disk, slot) = self.slot(to.as_ref()).await?;
        let (data, checks) = Checked::into_parts(disk.get(slot, key, offset..end).await?);
        Ok(wire::GetReply { data, checks })
    }

    async fn change(
        &self,
        request: wire::BlobsRequest,
        ask: impl FnOnce(Vec<BlobId>) -> Ask,
    ) -> Result<wire::BlobsReply, PartError> {
        let blobs = blobs_from_wire(&request.blobs)?;
        let (disk, slot) = self.slot(request.to.as_ref()).await?;
        debug_assert!(blobs.len() <= MAX_BLOBS_PER_REQUEST);
        if !blobs.is_empty() {
            disk.change(slot, ask(blobs)).await?;
        }
        Ok(wire::BlobsReply {})
    }

    async fn list_blobs(&self, request: wire::ListRequest) -> Result<wire::ListReply, PartError> {
        let wire::ListRequest { to, volume, session, after, limit } = request;
        let after = if after.is_empty() { None } else { Some(blob_from_wire(&after)?) };
        if limit == 0 {
            return Err(PartError::Invalid("a page of no entries".to_owned()));
        }
        let (disk, slot) = self.slot(to.as_ref()).await?;
        let (volume, session) = (VolumeId(volume), SessionId(session));
        let limit = limit.min(MAX_LIST);
        let page = disk.list(slot, volume, session, after, limit).await?;
        let more = page.len() == limit as usize;
        let entry = |(blob, parts): (BlobId, proto::id::PartSet)| wire::list_reply::Entry {
            blob: blob_to_wire(blob),
            parts: parts.0,
        };
        Ok(wire::ListReply { entries: page.into_iter().map(entry).collect(), more })
    }

    fn state(&self) -> wire::StatusReply {
        wire::StatusReply {
            version: proto::VERSION.to_owned(),
            cluster: Bytes::copy_from_slice(self.bays.cluster().as_bytes()),
            disks: self.bays.all().iter().map(|bay| disk_status(bay)).collect(),
        }
    }
}

fn disk_status(bay: &Bay) -> wire::DiskStatus {
    let id = bay.disk_id().map(|id| Bytes::copy_from_slice(id.as_bytes()));
    let status = wire::DiskStatus {
        disk: id.unwrap_or_default(),
        path: bay.path().display().to_string(),
        ..Default::default()
    };
    match bay.state() {
        BayState::In(disk) => {
            let state = disk.state();
            wire::DiskStatus {
                state: state.state,
                fill: state.fill.level.as_str().to_owned(),
                capacity: state.fill.capacity,
                used: state.fill.used,
                parts: state.parts,
                available: state.fill.available,
                damaged: state.damaged,
                slots: disk.slots().into_iter().map(slot_status).collect(),
                ..status
            }
        }
        BayState::Opening => wire::DiskStatus { state: "opening".to_owned(), ..status },
        BayState::Out { why, .. } => wire::DiskStatus { state: format!("out: {why}"), ..status },
    }
}

fn slot_status((slot, (group, generation)): (SlotId, (GroupId, Generation))) -> wire::SlotStatus {
    wire::SlotStatus { slot: slot.0, group: group.0, generation: generation.0 }
}

/// Bounds the wait for a disk, and answers for a panic. What was asked of it may still be done.
async fn within<T>(work: impl Future<Output = Result<T, PartError>>) -> Result<T, PartError> {
    match timeout(ANSWER, caught_in("a request", work)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(panicked)) => Err(PartError::Io(panicked.to_string())),
        Err(_) => Err(PartError::Io(format!("the disk has not answered within {ANSWER:?}"))),
    }
}

type Reply<T> = Result<Response<T>, Status>;

fn reply<T>(result: Result<T, PartError>) -> Reply<T> {
    result.map(Response::new).map_err(|error| status_from(&error))
}

#[tonic::async_trait]
impl Storaged for Service {
    async fn put(&self, request: Request<wire::PutRequest>) -> Reply<wire::PutReply> {
        reply(self.put_part(request.into_inner()).await)
    }

    async fn get(&self, request: Request<wire::GetRequest>) -> Reply<wire::GetReply> {
        reply(self.get_part(request.into_inner()).await)
    }

    async fn held(&self, request: Request<wire::HeldRequest>) -> Reply<wire::HeldReply> {
        let held = async {
            let wire::HeldRequest { to, blob } = request.into_inner();
            let blob = blob_from_wire(&blob)?;
            let (disk, slot) = self.slot(to.as_ref()).await?;
            let held = disk.held(slot, blob).await?;
            Ok(wire::HeldReply { parts: held.parts.0, deleted: held.deleted })
        };
        reply(within(held).await)
    }

    async fn delete(&self, request: Request<wire::BlobsRequest>) -> Reply<wire::BlobsReply> {
        reply(within(self.change(request.into_inner(), Ask::Delete)).await)
    }

    async fn forget(&self, request: Request<wire::BlobsRequest>) -> Reply<wire::BlobsReply> {
        reply(within(self.change(request.into_inner(), Ask::Forget)).await)
    }

    async fn list(&self, request: Request<wire::ListRequest>) -> Reply<wire::ListReply> {
        reply(within(self.list_blobs(request.into_inner())).await)
    }

    async fn status(&self, _: Request<wire::StatusRequest>) -> Reply<wire::StatusReply> {
        reply(Ok(self.state()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn whoever_asks_gets_an_answer_from_a_request_that_panics_or_hangs() {
        let panics = async { panic!("as a test") };
        let answer = within::<()>(panics).await.unwrap_err().to_string();
        assert!(answer.contains("a request panicked: as a test"), "{answer}");
        let answer = within::<()>(std::future::pending()).await.unwrap_err().to_string();
        assert!(answer.contains("has not answered within 5s"), "{answer}");
        assert_eq!(within(async { Ok(1) }).await, Ok(1));
    }
}
