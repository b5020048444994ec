//! The client's end: many requests at once over one connection, made when it is needed and again
//! after it broke, under the same identity and the next number.
//!
//! A request that was sent and not answered when the connection breaks fails as
//! [`PartError::Unreachable`]: it may have been done. Dropping a request's future forgets its answer.
//! Bounding the wait is the caller's. Memory is set aside only for payloads that were asked for, and
//! somebody waits for.
//!
//! Answers are received on threads of their own ([`receivers`]), which go on with whoever waited for one, if that is
//! allowed ([`crate::on_wake`]).

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use prost::Message;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::frame::{self, Kind};
use super::outgoing::Outgoing;
use super::request::{Hello, Reply, Request};
use super::{PREFACE, prepare, receivers};
use crate::convert::{Address, error_from_failure};
use crate::guard::caught_in;
use crate::id::ClientId;
use crate::on_wake::{self, Threads};
use crate::part_store::PartError;
use crate::rpc::storaged::PartFailure;
use crate::tls::Connector;
use crate::tls::credentials::Peer;
use crate::tls::wire::{Protocol, Reading};

/// A daemon that does not even acknowledge bytes for this long is given up.
const SILENCE: Duration = Duration::from_secs(2);
/// Small frames are read many at a time; payloads longer than this past the buffer.
const READ_BUFFER: usize = 4 << 10;

/// What a daemon answered: message and payload.
type Answer = Result<(Bytes, Bytes), PartError>;

/// A link to one daemon.
#[derive(Debug)]
pub struct Link {
    address: String,
    connector: Connector,
    connect_timeout: Duration,
    client: ClientId,
    current: tokio::sync::Mutex<Current>,
}

/// The newest connection, and how many were begun.
#[derive(Debug, Default)]
struct Current {
    connection: Option<Arc<Connection>>,
    begun: u64,
}

impl Link {
    /// To `HOST:PORT`; connects on first use.
    pub fn new(address: &str, connector: Connector, connect_timeout: Duration) -> Self {
        let (address, client) = (address.to_owned(), ClientId::random());
        let current = tokio::sync::Mutex::default();
        Self { address, connector, connect_timeout, client, current }
    }

    /// Sends a request and waits for its answer, which may have a payload.
    ///
    /// # Errors
    /// What the daemon answered, or [`PartError::Unreachable`].
    pub async fn call(
        &self,
        to: Address,
        request: &Request,
        payload: Bytes,
    ) -> Result<(Reply, Bytes), PartError> {
        let (message, payload) = self.connection().await?.call(to, request, payload).await?;
        Ok((request.reply(message)?, payload))
    }

    async fn connection(&self) -> Result<Arc<Connection>, PartError> {
        let mut current = self.current.lock().await;
        if let Some(connection) = &current.connection
            && connection.is_usable()
        {
            return Ok(connection.clone());
        }
        current.connection = None;
        current.begun += 1;
        let hello = Hello { client: self.client, connection: current.begun };
        let to = (self.address.clone(), self.connector.clone());
        let opening = receivers::run(Connection::open(to, hello));
        let opening = tokio::time::timeout(self.connect_timeout, opening);
        let connection = match opening.await {
            Ok(Ok(connection)) => Arc::new(connection),
            Ok(Err(e)) => return Err(unreachable(&format!("{}: {e}", self.address))),
            Err(_) => return Err(unreachable(&format!("{} does not answer", self.address))),
        };
        Ok(current.connection.insert(connection).clone())
    }
}

fn unreachable(why: &str) -> PartError {
    PartError::Unreachable(why.to_owned())
}

/// The requests that wait for answers; `Err` once the connection is closed, with the reason.
struct Waiting(Mutex<Result<HashMap<u32, Waiter>, String>>);

/// Who waits for an answer, and how long its payload may be.
struct Waiter {
    sender: oneshot::Sender<Answer>,
    largest: usize,
}

impl Waiting {
    fn is_open(&self) -> bool {
        self.0.lock().is_ok()
    }

    fn enter(&self, id: u32, largest: usize) -> Result<oneshot::Receiver<Answer>, PartError> {
        let (sender, receiver) = oneshot::channel();
        match &mut *self.0.lock() {
            Ok(waiting) => waiting.insert(id, Waiter { sender, largest }),
            Err(why) => return Err(unreachable(why)),
        };
        Ok(receiver)
    }

    fn take(&self, id: u32) -> Option<Waiter> {
        self.0.lock().as_mut().ok()?.remove(&id)
    }

    /// How long the payload of the answer may be; `None`: nobody waits for it.
    fn largest(&self, id: u32) -> Option<usize> {
        Some(self.0.lock().as_ref().ok()?.get(&id)?.largest)
    }

    /// Everybody who waits learns why there will be no answer.
    fn close(&self, why: &str) {
        let waiting = std::mem::replace(&mut *self.0.lock(), Err(why.to_owned()));
        for (_, Waiter { sender, .. }) in waiting.into_iter().flatten() {
            // Gone already: then nobody needs it.
            let _ = sender.send(Err(unreachable(why)));
        }
    }
}

/// One connection. Dropping it closes it.
struct Connection {
    outgoing: Arc<Outgoing>,
    waiting: Arc<Waiting>,
    next: AtomicU32,
    /// Who is at the other end, if that is known.
    peer: Option<Peer>,
    /// Reads answers, and writes what senders had to leave.
    _tasks: JoinSet<()>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("open", &self.waiting.is_open()).finish_non_exhaustive()
    }
}

/// Takes a request back whose caller went away.
struct Entered<'a>(&'a Waiting, u32);

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.0.take(self.1);
    }
}

impl Connection {
    async fn open((address, connector): (String, Connector), hello: Hello) -> io::Result<Self> {
        let mut stream = connector.connect(&address, Protocol::Link).await?;
        prepare(stream.tcp(), SILENCE)?;
        stream.write_all(&[&PREFACE[..], &hello.frame()].concat()).await?;
        stream.flush().await?;
        let peer = stream.peer().cloned();
        let (read, write) = stream.split();
        let outgoing = Arc::new(Outgoing::new(write));
        let waiting = Arc::new(Waiting(Mutex::new(Ok(HashMap::new()))));
        let mut tasks = JoinSet::new();
        tasks.spawn(receive(read, waiting.clone()));
        let (draining, lost) = (outgoing.clone(), waiting.clone());
        tasks.spawn(async move {
            let why = caught_in("writing requests", draining.drain()).await;
            lost.close(&why.map_or_else(|panicked| panicked.to_string(), |e| e.to_string()));
        });
        Ok(Self { outgoing, waiting, next: AtomicU32::new(0), peer, _tasks: tasks })
    }

    /// Does the other end answer, and is it still somebody?
    fn is_usable(&self) -> bool {
        self.waiting.is_open() && !self.peer.as_ref().is_some_and(Peer::is_revoked)
    }

    async fn call(&self, to: Address, request: &Request, payload: Bytes) -> Answer {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let answer = self.waiting.enter(id, request.payloads().1)?;
        let _entered = Entered(&self.waiting, id);
        let head = request.frame(id, to, payload.len());
        if let Err(e) = self.outgoing.send(head, payload, None) {
            self.waiting.close(&e.to_string());
        }
        answer.await.map_err(|_| unreachable("the connection was closed"))?
    }
}

/// Hands answers to those who wait, until the connection ends, of which they are told.
async fn receive(stream: Reading, waiting: Arc<Waiting>) {
    let why = caught_in("reading answers", hand_out(stream, &waiting)).await;
    waiting.close(&why.unwrap_or_else(|panicked| panicked.to_string()));
}

/// Answers why the connection has ended.
async fn hand_out(stream: Reading, waiting: &Waiting) -> String {
    let mut input = BufReader::with_capacity(READ_BUFFER, stream);
    loop {
        match answer(&mut input, waiting).await {
            Ok(Some((id, answer))) => {
                if let Some(Waiter { sender, .. }) = waiting.take(id) {
                    // Gone in this moment: nobody needs it.
                    let _ = on_wake::lend(Threads::Patient, || sender.send(answer));
                }
            }
            Ok(None) => return "the daemon closed the connection".to_owned(),
            Err(e) => return e.to_string(),
        }
    }
}

async fn answer(
    input: &mut BufReader<Reading>,
    waiting: &Waiting,
) -> io::Result<Option<(u32, Answer)>> {
    let nonsense = |why| Err(io::Error::new(io::ErrorKind::InvalidData, why));
    let Some(arrived) = frame::read(input).await? else { return Ok(None) };
    let payload = match waiting.largest(arrived.id) {
        Some(largest) if arrived.payload > largest => {
            return nonsense("the daemon sends more than it was asked for");
        }
        Some(_) if arrived.payload > 0 => {
            let mut payload = BytesMut::zeroed(arrived.payload);
            frame::fill(input, &mut payload).await?;
            payload.freeze()
        }
        Some(_) => Bytes::new(),
        // Whoever asked has gone.
        None => {
            frame::skip(input, arrived.payload).await?;
            Bytes::new()
        }
    };
    let answer = match arrived.kind {
        Kind::Done => Ok((arrived.message, payload)),
        Kind::Failed => Err(PartFailure::decode(arrived.message)
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
            .map(error_from_failure)?),
        _ => return nonsense("the daemon sent a request"),
    };
    Ok(Some((arrived.id, answer)))
}
