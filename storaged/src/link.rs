//! The daemon's end of a link ([`proto::link`]): puts and gets, as many at once as fit in a budget.
//!
//! A part is received into a buffer that direct I/O takes as it is. What one connection may have under
//! way, received or on its way out, is bounded by [`BUDGET`], and what all together may have of one
//! disk by the disk's share of the daemon's memory ([`Service::budget`]); waiting for room is the
//! back-pressure that reaches the sender. Only who names a disk of this daemon gets a share at all, and
//! not before the first [`FIRST`] bytes of a payload have arrived: announcing one costs nothing.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use proto::checksum::widen;
use proto::convert::{failure_from, part_from_wire};
use proto::guard::caught_in;
use proto::guests::{Guest, UnderWay};
use proto::limits::DISK_BLOCK;
use proto::link::frame::{self, Arrived, Kind};
use proto::link::outgoing::{Outgoing, Share};
use proto::link::{PREFACE, prepare};
use proto::part_store::PartError;
use proto::rpc::storaged as wire;
use tokio::io::BufReader;
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
/// Bytes of a payload that arrive before room is made for all of it.
const FIRST: usize = 16 << 10;
/// Small frames are read many at a time; payloads longer than this past the buffer.
const READ_BUFFER: usize = 4 << 10;

/// What the answer to a request needs.
struct Caller {
    id: u32,
    outgoing: Arc<Outgoing>,
    share: Option<Share>,
    _under_way: Option<UnderWay>,
}

impl Caller {
    /// A client that is gone needs no answer.
    fn answer(self, result: Result<(impl Message, Bytes), PartError>) {
        let _gone = match result {
            Ok((message, payload)) => {
                let head = frame::encode(self.id, Kind::Done, &message, payload.len());
                self.outgoing.send(head, payload, self.share)
            }
            Err(error) => {
                let head = frame::encode(self.id, Kind::Failed, &failure_from(&error), 0);
                self.outgoing.send(head, Bytes::new(), self.share)
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
    guest: &Arc<Guest>,
    service: Service,
    stop: CancellationToken,
) -> io::Result<()> {
    prepare(&stream, SILENCE)?;
    let (read, write) = stream.into_split();
    let mut input = BufReader::with_capacity(READ_BUFFER, read);
    let mut preface = [0; PREFACE.len()];
    frame::fill(&mut input, &mut preface).await?;
    if preface != PREFACE {
        return Err(nonsense("another version of the link"));
    }
    let outgoing = Arc::new(Outgoing::new(write));
    let under_way = TaskTracker::new();
    let receiver =
        Receiver { guest, service: &service, outgoing: &outgoing, under_way: &under_way };
    let receiving = receiver.receive(&mut input);
    tokio::select! {
        result = receiving => result?,
        error = outgoing.drain() => return Err(error),
        () = guest.leave() => return Err(nonsense("others need the connection more")),
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

/// One connection, as far as it is received from.
struct Receiver<'a> {
    guest: &'a Arc<Guest>,
    service: &'a Service,
    outgoing: &'a Arc<Outgoing>,
    under_way: &'a TaskTracker,
}

impl Receiver<'_> {
    /// Takes requests until there are no more, each a task of its own.
    async fn receive(&self, input: &mut BufReader<OwnedReadHalf>) -> io::Result<()> {
        let own = Arc::new(Semaphore::new(BUDGET / DISK_BLOCK));
        while let Some(Arrived { id, kind, message, payload }) = frame::read(input).await? {
            let outgoing = self.outgoing.clone();
            let mut caller = Caller { id, outgoing, share: None, _under_way: None };
            let (request, disks) = match self.parse(kind, message)? {
                Ok(parsed) => parsed,
                Err(why) => {
                    frame::skip(input, payload).await?;
                    // Who does not listen to refusals does not pile them up.
                    caller.share = Some([share_of(&own, 1).await?, share_of(&own, 1).await?]);
                    caller.answer(Err::<(wire::PutReply, _), _>(why));
                    continue;
                }
            };
            let first = receive_first(input, payload).await?;
            let blocks = payload.max(request.answer_len()).div_ceil(DISK_BLOCK).max(1);
            caller.share = Some([share_of(&own, blocks).await?, share_of(&disks, blocks).await?]);
            let payload = receive_rest(input, first, payload).await?;
            caller._under_way = Some(self.guest.begin());
            let service = self.service.clone();
            match request {
                Asked::Put(request) => self.under_way.spawn(async move {
                    caller.answer(answered(put(&service, request, payload)).await);
                }),
                Asked::Get(request) => self.under_way.spawn(async move {
                    caller.answer(answered(get(&service, request)).await);
                }),
            };
        }
        Ok(())
    }

    /// What is asked, and what it takes its share of; or why it cannot be asked here.
    #[allow(clippy::type_complexity)]
    fn parse(
        &self,
        kind: Kind,
        message: Bytes,
    ) -> io::Result<Result<(Asked, Arc<Semaphore>), PartError>> {
        let asked = match kind {
            Kind::Put => wire::PutRequest::decode(message).map(Asked::Put),
            Kind::Get => wire::GetRequest::decode(message).map(Asked::Get),
            Kind::Done | Kind::Failed => return Err(nonsense("the client sent an answer")),
        };
        Ok(asked.map_err(damaged).and_then(|asked| {
            let budget = self.service.budget(asked.to())?;
            Ok((asked, budget))
        }))
    }
}

async fn share_of(budget: &Arc<Semaphore>, blocks: usize) -> io::Result<OwnedSemaphorePermit> {
    let share = budget.clone().acquire_many_owned(blocks as u32).await;
    share.map_err(|_| nonsense("the budget is never closed"))
}

/// A request.
enum Asked {
    Put(wire::PutRequest),
    Get(wire::GetRequest),
}

impl Asked {
    fn to(&self) -> Option<&wire::Address> {
        match self {
            Self::Put(request) => request.to.as_ref(),
            Self::Get(request) => request.to.as_ref(),
        }
    }

    /// Bytes of payload that it will be answered with; 0 when it will be refused.
    fn answer_len(&self) -> usize {
        let Self::Get(request) = self else { return 0 };
        let Ok(key) = part_from_wire(&request.blob, request.part) else { return 0 };
        let end = request.offset.saturating_add(request.len);
        widen(request.offset..end, key.blob.part_len()).len()
    }
}

/// The first bytes of a payload: a sign that the rest will come, too.
async fn receive_first(input: &mut BufReader<OwnedReadHalf>, len: usize) -> io::Result<Vec<u8>> {
    let mut first = vec![0; len.min(FIRST)];
    frame::fill(input, &mut first).await?;
    Ok(first)
}

/// Reads the rest of a payload, into a buffer that direct I/O takes.
async fn receive_rest(
    input: &mut BufReader<OwnedReadHalf>,
    first: Vec<u8>,
    len: usize,
) -> io::Result<Bytes> {
    if len == 0 {
        return Ok(Bytes::new());
    }
    let mut buffer = PooledBuf::at_least(len);
    let payload = &mut buffer.as_mut()[..len];
    payload[..first.len()].copy_from_slice(&first);
    frame::fill(input, &mut payload[first.len()..]).await?;
    Ok(Bytes::from_owner(buffer).slice(..len))
}

fn damaged(error: prost::DecodeError) -> PartError {
    PartError::Invalid(error.to_string())
}

/// A request that panics is answered like one that fails: on a link nobody else would.
async fn answered<T>(request: impl Future<Output = Result<T, PartError>>) -> Result<T, PartError> {
    let answer = caught_in("a request", request).await;
    answer.unwrap_or_else(|panicked| Err(PartError::Io(panicked.to_string())))
}

async fn put(
    service: &Service,
    request: wire::PutRequest,
    payload: Bytes,
) -> Result<(wire::PutReply, Bytes), PartError> {
    if !request.data.is_empty() {
        return Err(PartError::Invalid("a put with data in its message".to_owned()));
    }
    let reply = service.put_part(wire::PutRequest { data: payload, ..request }).await?;
    Ok((reply, Bytes::new()))
}

async fn get(
    service: &Service,
    request: wire::GetRequest,
) -> Result<(wire::GetReply, Bytes), PartError> {
    let mut reply = service.get_part(request).await?;
    let data = std::mem::take(&mut reply.data);
    Ok((reply, data))
}
