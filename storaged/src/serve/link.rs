//! The daemon's end of a link ([`proto::link`]): as many requests at once as fit in a budget, in one order.
//!
//! A connection begins with whose it is ([`crate::serve::clients`]). A request has its place in the queue of its disk
//! before the next one is read; what is under way then is only its answer.
//!
//! A part is received into a buffer that direct I/O takes as it is. What one connection may have under
//! way, received or on its way out, is bounded by [`BUDGET`], and what all together may have of one
//! disk by the disk's share of the daemon's memory ([`Service::find`]), half of it for what is written and half
//! for what is read; waiting for room is the back-pressure that reaches the sender. Only who names a disk of
//! this daemon gets a share at all, and not before the first [`FIRST`] bytes of a payload have arrived:
//! announcing one costs nothing.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto::convert::{Address, failure_from};
use proto::guests::{Guest, UnderWay};
use proto::limits::DISK_BLOCK;
use proto::link::frame::{self, Arrived, Kind};
use proto::link::outgoing::{Outgoing, Share};
use proto::link::request::{Hello, Request};
use proto::link::{PREFACE, prepare};
use proto::on_wake::{self, Threads};
use proto::part_store::PartError;
use proto::tls::wire::{Reading, Wire};
use tokio::io::BufReader;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::io::aligned::PooledBuf;
use crate::serve::asked::{Answer, begin};
use crate::serve::clients::Stay;
use crate::serve::service::{Found, Service};
use crate::shared::queue::To;

/// Bytes of payload that one connection may have under way; one that has none counts as a block.
const BUDGET: usize = 32 << 20;
/// A silent client is asked for a sign of life this often.
const SILENCE: Duration = Duration::from_secs(20);
/// Bytes of a payload that arrive before room is made for all of it.
const FIRST: usize = 16 << 10;
/// Small frames are read many at a time; payloads longer than this past the buffer.
const READ_BUFFER: usize = 4 << 10;

/// What the answer to a request needs.
struct Responder {
    id: u32,
    outgoing: Arc<Outgoing>,
    share: Share,
    _under_way: Option<UnderWay>,
}

impl Responder {
    /// A client that is gone needs no answer.
    fn answer(self, answer: Answer) {
        let (head, payload) = match answer {
            Ok((reply, payload)) => (reply.frame(self.id, payload.len()), payload),
            Err(error) => {
                (frame::encode(self.id, Kind::Failed, &failure_from(&error), 0), Bytes::new())
            }
        };
        let _gone = self.outgoing.send(head, payload, Some(self.share));
    }
}

/// Serves one connection until the client closes it or makes a newer one, or `stop`: then what is under way
/// is finished and answered.
///
/// # Errors
/// What the connection says, and for bytes that are no frames.
pub(crate) async fn serve(
    stream: Wire,
    guest: &Arc<Guest>,
    service: Service,
    stop: CancellationToken,
) -> io::Result<()> {
    prepare(stream.tcp(), SILENCE)?;
    let (read, write) = stream.split();
    let mut input = BufReader::with_capacity(READ_BUFFER, read);
    let outgoing = Arc::new(Outgoing::new(write));
    let under_way = TaskTracker::new();
    let stay = service.clients().stay();
    let runtime = Handle::current();
    let receiver = Receiver {
        guest,
        service: &service,
        outgoing: &outgoing,
        under_way: &under_way,
        runtime: &runtime,
    };
    tokio::select! {
        result = receiver.receive(&mut input, &stay) => result?,
        error = outgoing.drain() => return Err(error),
        () = guest.leave() => return Err(nonsense("others need the connection more")),
        () = stay.replaced() => return Err(nonsense("the client has a newer connection")),
        () = stop.cancelled() => {}
    }
    // Nothing more is read from it, whatever is still to be answered.
    drop(stay);
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
    runtime: &'a Handle,
}

impl Receiver<'_> {
    /// Takes requests until there are no more.
    async fn receive(&self, input: &mut BufReader<Reading>, stay: &Stay) -> io::Result<()> {
        let mut preface = [0; PREFACE.len()];
        frame::fill(input, &mut preface).await?;
        if preface != PREFACE {
            return Err(nonsense("another version of the link"));
        }
        let Some(first) = frame::read(input).await? else { return Ok(()) };
        if first.kind != Kind::Hello || first.payload > 0 {
            return Err(nonsense("the client does not say who it is"));
        }
        let hello = Hello::decode(first.message).map_err(|e| nonsense(&e.reason()))?;
        if !stay.enter(hello).await {
            return Err(nonsense("the client has a newer connection"));
        }
        let own = Arc::new(Semaphore::new(BUDGET / DISK_BLOCK));
        while let Some(arrived) = frame::read(input).await? {
            self.take(input, arrived, &own).await?;
        }
        Ok(())
    }

    /// Takes one request: it has its place among all others when this returns.
    async fn take(
        &self,
        input: &mut BufReader<Reading>,
        arrived: Arrived,
        own: &Arc<Semaphore>,
    ) -> io::Result<()> {
        let Arrived { id, kind, message, payload } = arrived;
        let asked = Request::decode(kind, message)
            .ok_or_else(|| nonsense("the client sent what is no request"))?;
        let (to, request, found) = match asked.and_then(|asked| self.find(asked, payload)) {
            Ok(found) => found,
            Err(why) => {
                frame::skip(input, payload).await?;
                // Who does not listen to refusals does not pile them up.
                let share = (share_of(own, 1).await?, None);
                let outgoing = self.outgoing.clone();
                Responder { id, outgoing, share, _under_way: None }.answer(Err(why));
                return Ok(());
            }
        };
        let first = receive_first(input, payload).await?;
        let blocks = request.memory().div_ceil(DISK_BLOCK).max(1);
        let is_get = matches!(request, Request::Get { .. });
        let is_read = is_get
            || matches!(
                request,
                Request::Held(_)
                    | Request::List { .. }
                    | Request::Promised(_)
                    | Request::Beat(..)
                    | Request::LastBeat(_)
                    | Request::Condition(_)
            );
        let share = share_of(own, blocks).await?;
        let room = if is_read { &found.budget.reads } else { &found.budget.writes };
        let room = share_of(room, blocks).await?;
        let payload = receive_rest(input, first, payload).await?;
        // The bytes of an answer are there until they are out; all else, until the disk has answered.
        let (room, share) =
            if is_get { (None, (share, Some(room))) } else { (Some(room), (share, None)) };
        let (outgoing, _under_way) = (self.outgoing.clone(), Some(self.guest.begin()));
        let responder = Responder { id, outgoing, share, _under_way };
        let answering = begin(found.disk, to, request, payload, room);
        let answered = async move { responder.answer(answering.await) };
        // The thread of the disk that has the answer sends it.
        on_wake::begin(self.runtime, Threads::Any, Box::pin(self.under_way.track_future(answered)));
        Ok(())
    }

    /// Where what is asked is asked, if it can be.
    fn find(
        &self,
        (to, request): (Address, Request),
        payload: usize,
    ) -> Result<(To, Request, Found), PartError> {
        let expected = request.payloads().0;
        if payload != expected {
            return Err(PartError::Invalid(format!(
                "the payload has {payload} bytes instead of {expected}"
            )));
        }
        let found = self.service.find(&to)?;
        let Address { slot, group, generation, .. } = to;
        Ok((To { slot, group, generation }, request, found))
    }
}

async fn share_of(budget: &Arc<Semaphore>, blocks: usize) -> io::Result<OwnedSemaphorePermit> {
    let share = budget.clone().acquire_many_owned(blocks as u32).await;
    share.map_err(|_| nonsense("the budget is never closed"))
}

/// The first bytes of a payload: a sign that the rest will come, too.
async fn receive_first(input: &mut BufReader<Reading>, len: usize) -> io::Result<Vec<u8>> {
    let mut first = vec![0; len.min(FIRST)];
    frame::fill(input, &mut first).await?;
    Ok(first)
}

/// Reads the rest of a payload, into a buffer that direct I/O takes.
async fn receive_rest(
    input: &mut BufReader<Reading>,
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
