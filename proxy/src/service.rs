//! The proxy over gRPC: checks what arrives, calls [`LiveProxy`], and answers. Decides nothing.
//!
//! Errors travel as a status whose details are an encoded [`BlobFailure`].

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use proto::convert::{blob_from_wire, blob_to_wire, blobs_from_wire};
use proto::gather::Gather;
use proto::guests::{GuestStream, Guests, room_for};
use proto::id::BlobId;
use proto::limits::MAX_MESSAGE;
use proto::listen::Listen;
use proto::part_store::PartError;
use proto::rpc::proxyd as wire;
use proto::rpc::proxyd::blob_failure::Kind;
use proto::rpc::proxyd::proxyd_server::{Proxyd, ProxydServer};
use proto::tls::Acceptor;
use proto::tls::wire::Protocol;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};

use crate::blob_store::{BlobError, BlobStore};
use crate::proxy::SlotHolds;
use crate::proxy::live::LiveProxy;

/// HTTP/2 frames as large as this: the default of 16 KiB costs a third more CPU.
const MAX_FRAME: u32 = 256 << 10;
/// Bytes that may lie unread in a connection.
const WINDOW: u32 = 1 << 20;
/// Bytes of headers of one request.
const MAX_HEADERS: u32 = 8 << 10;
/// Most connections.
const CONNECTIONS: usize = 256;
/// Connections that wait to be taken over by gRPC.
const WAITING: usize = 64;
/// Blobs that arrive at once, of all connections.
const LARGE_MESSAGES: usize = 16;
/// A silent connection is asked for a sign of life this often, and dropped after as long.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// Most requests of one connection that are worked on at once: each may hold a blob and its parts.
const REQUESTS_AT_ONCE: u32 = 64;

/// Serves `proxy` on `listener` to those who may come in by `acceptor`, until `stop` is done; requests that have begun are
/// finished.
pub async fn serve(
    proxy: Arc<LiveProxy>,
    (listener, acceptor): (TcpListener, Acceptor),
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let service = ProxydServer::new(Service { proxy })
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let guests = Guests::new(room_for(CONNECTIONS));
    let (agreed, incoming) = mpsc::channel(WAITING);
    let accepting = accept(listener, guests, acceptor, agreed);
    let serving = tonic::transport::Server::builder()
        .layer(Gather::new(LARGE_MESSAGES))
        .max_frame_size(MAX_FRAME)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .http2_max_header_list_size(MAX_HEADERS)
        .max_concurrent_streams(REQUESTS_AT_ONCE)
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .serve_with_incoming_shutdown(service, ReceiverStream::new(incoming), stop);
    let served = tokio::select! {
        served = serving => served,
        never = accepting => match never {},
    };
    served.map_err(ServeError::Transport)
}

/// Takes connections for ever. Each agrees on TLS by itself: none waits for another.
async fn accept(
    listener: TcpListener,
    guests: Arc<Guests>,
    acceptor: Acceptor,
    agreed: mpsc::Sender<std::io::Result<GuestStream>>,
) -> Infallible {
    let mut agreeing = JoinSet::new();
    loop {
        let (stream, guest) = tokio::select! {
            accepted = guests.accept(&listener) => accepted,
            // One that panics has logged why.
            Some(_) = agreeing.join_next() => continue,
        };
        let (acceptor, agreed, guest) = (acceptor.clone(), agreed.clone(), Arc::new(guest));
        agreeing.spawn(async move {
            let wire = tokio::select! {
                wire = acceptor.accept(stream, &[Protocol::Grpc]) => wire,
                () = guest.leave() => return,
            };
            // Who may not come in was logged.
            let Ok(wire) = wire else { return };
            guest.know(wire.peer());
            let stream = wire.tcp().set_nodelay(true).map(|()| GuestStream::new(wire, guest));
            // A server that has stopped takes no more: the connection is closed.
            drop(agreed.send(stream).await);
        });
    }
}

/// Why serving ended, or never began.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be listened on.
    #[error("listening on {address}")]
    Listen {
        /// Where.
        address: Listen,
        /// Why not.
        source: std::io::Error,
    },
    /// The server broke.
    #[error("serving")]
    Transport(#[source] tonic::transport::Error),
}

struct Service {
    proxy: Arc<LiveProxy>,
}

fn status_of(error: &BlobError) -> Status {
    let (kind, code) = match error {
        BlobError::NotFound(_) => (Kind::NotFound, Code::NotFound),
        BlobError::Unavailable { .. } | BlobError::TooFewSlots { .. } => {
            (Kind::Unavailable, Code::Unavailable)
        }
        BlobError::Fenced { .. } => (Kind::Fenced, Code::FailedPrecondition),
        BlobError::Full => (Kind::Full, Code::ResourceExhausted),
        BlobError::Conflict(_) => (Kind::Conflict, Code::AlreadyExists),
        BlobError::Invalid(_) => (Kind::Invalid, Code::InvalidArgument),
    };
    let message = error.to_string();
    let details = wire::BlobFailure { kind: kind.into(), message: message.clone() };
    Status::with_details(code, message, details.encode_to_vec().into())
}

fn refused(error: &PartError) -> Status {
    status_of(&BlobError::Invalid(match error {
        PartError::Invalid(why) => why.clone(),
        other => other.to_string(),
    }))
}

fn blob(bytes: &[u8]) -> Result<BlobId, Status> {
    blob_from_wire(bytes).map_err(|e| refused(&e))
}

fn slot_to_wire(holds: SlotHolds) -> wire::stat_reply::Slot {
    let (held, error) = match holds.held {
        Ok(held) => (held, String::new()),
        Err(why) => (Default::default(), why.to_string()),
    };
    wire::stat_reply::Slot {
        slot: holds.slot as u32,
        domain: holds.domain,
        main: holds.main,
        parts: held.parts.0,
        deleted: held.deleted,
        error,
    }
}

#[tonic::async_trait]
impl Proxyd for Service {
    async fn put(
        &self,
        request: Request<wire::PutRequest>,
    ) -> Result<Response<wire::PutReply>, Status> {
        let wire::PutRequest { blob: id, data } = request.into_inner();
        let stored = self.proxy.put(blob(&id)?, data).await.map_err(|e| status_of(&e))?;
        Ok(Response::new(wire::PutReply { degraded: stored.degraded }))
    }

    async fn get(
        &self,
        request: Request<wire::GetRequest>,
    ) -> Result<Response<wire::GetReply>, Status> {
        let wire::GetRequest { blob: id, offset, len } = request.into_inner();
        let end = offset.checked_add(len).ok_or_else(|| {
            status_of(&BlobError::Invalid("the range reaches beyond any blob".to_owned()))
        })?;
        let data = self.proxy.get(blob(&id)?, offset..end).await.map_err(|e| status_of(&e))?;
        Ok(Response::new(wire::GetReply { data }))
    }

    async fn delete(
        &self,
        request: Request<wire::DeleteRequest>,
    ) -> Result<Response<wire::DeleteReply>, Status> {
        let ids = blobs_from_wire(&request.into_inner().blobs).map_err(|e| refused(&e))?;
        let unconfirmed: Vec<Bytes> =
            self.proxy.delete(&ids).await.into_iter().map(blob_to_wire).collect();
        Ok(Response::new(wire::DeleteReply { unconfirmed }))
    }

    async fn stat(
        &self,
        request: Request<wire::StatRequest>,
    ) -> Result<Response<wire::StatReply>, Status> {
        let slots = self.proxy.current().stat(blob(&request.into_inner().blob)?).await;
        let slots = slots.into_iter().map(slot_to_wire).collect();
        Ok(Response::new(wire::StatReply { slots }))
    }
}
