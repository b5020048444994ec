//! The daemon's end of a link ([`proto::link`]): puts and gets, as many at once as fit in a budget.
//!
//! A part is received into a buffer that direct I/O takes as it is. What one connection may have
//! under way, received or on its way out, is bounded by [`BUDGET`]; waiting for room in it is the
//! back-pressure that reaches the sender.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use proto::checksum::widen;
use proto::convert::{failure_from, part_from_wire};
use proto::limits::DISK_BLOCK;
use proto::link::frame::{self, Arrived, Kind};
use proto::link::outgoing::Outgoing;
use proto::link::{PREFACE, prepare};
use proto::part_store::PartError;
use proto::rpc::storaged as wire;
use tokio::io::{AsyncReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::io::aligned::PooledBuf;
use crate::service::Service;

/// Bytes of payload that one connection may have under way; one that has none counts as a block.
const BUDGET: usize = 32 << 20;
/// A silent client is asked for a sign of life this often.
const SILENCE: Duration = Duration::from_secs(20);
/// Small frames are read many at a time; payloads longer than this past the buffer.
const READ_BUFFER: usize = 4 << 10;

/// What the answer to a request needs.
struct Caller {
    id: u32,
    outgoing: Arc<Outgoing>,
    share: OwnedSemaphorePermit,
}

impl Caller {
    /// A client that is gone needs no answer.
    fn answer(self, result: Result<(impl Message, Bytes), PartError>) {
        let _gone = match result {
            Ok((message, payload)) => {
                let head = frame::encode(self.id, Kind::Done, &message, payload.len());
                self.outgoing.send(head, payload, Some(self.share))
            }
            Err(error) => {
                let head = frame::encode(self.id, Kind::Failed, &failure_from(&error), 0);
                self.outgoing.send(head, Bytes::new(), Some(self.share))
            }
        };
    }
}

/// Serves one connection until the client closes it, or `stop`: then what is under way is finished
/// and answered.
///
/// # Errors
/// What the connection says, and for bytes that are no frames.
pub(crate) async fn serve(
    stream: TcpStream,
    service: Service,
    stop: CancellationToken,
) -> io::Result<()> {
    prepare(&stream, SILENCE)?;
    let (read, write) = stream.into_split();
    let mut input = BufReader::with_capacity(READ_BUFFER, read);
    let mut preface = [0; PREFACE.len()];
    input.read_exact(&mut preface).await?;
    if preface != PREFACE {
        return Err(nonsense("another version of the link"));
    }
    let outgoing = Arc::new(Outgoing::new(write));
    let under_way = TaskTracker::new();
    let receiving = receive(&mut input, &service, &outgoing, &under_way);
    tokio::select! {
        result = receiving => result?,
        error = outgoing.drain() => return Err(error),
        () = stop.cancelled() => {}
    }
    under_way.close();
    tokio::select! {
        () = async { under_way.wait().await; outgoing.written().await } => Ok(()),
        error = outgoing.drain() => Err(error),
    }
}

fn nonsense(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Takes requests until there are no more, each a task of its own.
async fn receive(
    input: &mut BufReader<OwnedReadHalf>,
    service: &Service,
    outgoing: &Arc<Outgoing>,
    under_way: &TaskTracker,
) -> io::Result<()> {
    let budget = Arc::new(Semaphore::new(BUDGET / DISK_BLOCK));
    while let Some(Arrived { id, kind, message, payload }) = frame::read(input).await? {
        let request = match kind {
            Kind::Put => Asked::Put(wire::PutRequest::decode(message).map_err(damaged)),
            Kind::Get => Asked::Get(wire::GetRequest::decode(message).map_err(damaged)),
            Kind::Done | Kind::Failed => return Err(nonsense("the client sent an answer")),
        };
        let blocks = payload.max(request.answer_len()).div_ceil(DISK_BLOCK).max(1);
        let share = budget.clone().acquire_many_owned(blocks as u32).await;
        let share = share.map_err(|_| nonsense("the budget is never closed"))?;
        let payload = receive_payload(input, payload).await?;
        let caller = Caller { id, outgoing: outgoing.clone(), share };
        let service = service.clone();
        match request {
            Asked::Put(request) => under_way.spawn(async move {
                caller.answer(put(&service, request, payload).await);
            }),
            Asked::Get(request) => under_way.spawn(async move {
                caller.answer(get(&service, request).await);
            }),
        };
    }
    Ok(())
}

/// A request, or why its message is none.
enum Asked {
    Put(Result<wire::PutRequest, PartError>),
    Get(Result<wire::GetRequest, PartError>),
}

impl Asked {
    /// Bytes of payload that it will be answered with; 0 when it will be refused.
    fn answer_len(&self) -> usize {
        let Self::Get(Ok(request)) = self else { return 0 };
        let Ok(key) = part_from_wire(&request.blob, request.part) else { return 0 };
        let end = request.offset.saturating_add(request.len);
        widen(request.offset..end, key.blob.part_len()).len()
    }
}

/// Reads a payload into a buffer that direct I/O takes.
async fn receive_payload(input: &mut BufReader<OwnedReadHalf>, len: usize) -> io::Result<Bytes> {
    if len == 0 {
        return Ok(Bytes::new());
    }
    let mut buffer = PooledBuf::at_least(len);
    input.read_exact(&mut buffer.as_mut()[..len]).await?;
    Ok(Bytes::from_owner(buffer).slice(..len))
}

fn damaged(error: prost::DecodeError) -> PartError {
    PartError::Invalid(error.to_string())
}

async fn put(
    service: &Service,
    request: Result<wire::PutRequest, PartError>,
    payload: Bytes,
) -> Result<(wire::PutReply, Bytes), PartError> {
    let request = request?;
    if !request.data.is_empty() {
        return Err(PartError::Invalid("a put with data in its message".to_owned()));
    }
    let reply = service.put_part(wire::PutRequest { data: payload, ..request }).await?;
    Ok((reply, Bytes::new()))
}

async fn get(
    service: &Service,
    request: Result<wire::GetRequest, PartError>,
) -> Result<(wire::GetReply, Bytes), PartError> {
    let mut reply = service.get_part(request?).await?;
    let data = std::mem::take(&mut reply.data);
    Ok((reply, data))
}
