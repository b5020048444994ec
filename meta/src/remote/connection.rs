//! One connection to a metad ([`proto::metad`]): many asks at once, and beats.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use proto::limits::MAX_SESSION_MESSAGE;
use proto::link::outgoing::Outgoing;
use proto::link::prepare;
use proto::metad::{BEAT, BEAT_ANSWER, PREFACE, listen, say};
use proto::on_wake::{self, Threads};
use proto::rpc::metad as wire;
use proto::rpc::metad::from_client::Say;
use proto::rpc::metad::from_metad::Said;
use proto::tls::Connector;
use proto::tls::wire::{Protocol, Reading};
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::sync::{oneshot, watch};
use tokio::time::{sleep, timeout};

use super::kept::{Change, Kept};
use crate::store::{MetaError, VolumeInfo};
use crate::wire::bad;
use crate::wire::made::Made;
use crate::wire::values::volume_from_wire;

/// A metad that does not even acknowledge bytes for this long is given up.
const SILENCE: Duration = Duration::from_secs(2);
/// How long connecting may take, and then the welcome: a new session waits for the disks once.
const CONNECT: Duration = Duration::from_secs(2);
const WELCOME: Duration = Duration::from_secs(15);
/// The same of one that goes on: a metad that stands still takes connections, too, and another that leads the volume by now waits
/// for [`proto::metad::LEASE`] and no longer. One that has not done yet what was asked before is asked again.
const WELCOME_BACK: Duration = Duration::from_secs(3);
const READ_BUFFER: usize = 16 << 10;

/// Why a connection has ended, or was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// It broke, or could not be made: another may do.
    Broken(String),
    /// This metad does not lead the volume; these may.
    Elsewhere(Vec<String>),
    /// Another session has the volume.
    InUse {
        /// Its name.
        by: String,
        /// It has a connection; else it is soon over, unless it comes back.
        connected: bool,
    },
    /// The session is over.
    Over(String),
}

/// What the volume is, with the days that what is deleted stays in its trash, as metad said last; `None`: it has not yet.
pub(super) type Known = Option<(VolumeInfo, u16)>;

/// What is received.
pub(super) type Input = BufReader<Reading>;

/// One connection.
pub(super) struct Connection {
    outgoing: Outgoing,
    /// The asks that wait for replies; `None` once it has ended.
    waiting: Mutex<Option<HashMap<u32, Waiting>>>,
    /// What was answered, for the next leader.
    kept: Arc<Kept>,
    next: AtomicU32,
    /// The newest beat that was answered.
    renewed: watch::Sender<u64>,
    /// What those answers say.
    volume: watch::Sender<Known>,
}

/// An ask that waits for its reply.
struct Waiting {
    sender: oneshot::Sender<wire::Reply>,
    /// Its number, op and length, if it changes something.
    change: Option<(u64, wire::Op, usize)>,
}

/// Takes an ask back whose caller went away.
struct Entered<'a>(&'a Connection, u32);

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.0.take(self.1);
    }
}

impl Connection {
    /// Connects and says whose connection it is. [`Self::run`] has to be run for it to be of any use. What the volume is goes
    /// to `volume`, with each beat; what is changed by it to `kept`.
    ///
    /// # Errors
    /// Why not.
    pub(super) async fn open(
        (address, connector): (&str, &Connector),
        hello: wire::Hello,
        (volume, kept): (watch::Sender<Known>, Arc<Kept>),
    ) -> Result<(Arc<Self>, Input, wire::Welcome), Ended> {
        let broken = |e: io::Error| Ended::Broken(format!("{address}: {e}"));
        let late = || Ended::Broken(format!("{address} does not answer"));
        let connected = timeout(CONNECT, connector.connect(address, Protocol::Session)).await;
        let mut stream = connected.map_err(|_| late())?.map_err(broken)?;
        prepare(stream.tcp(), SILENCE).map_err(broken)?;
        let patience = if hello.session == 0 { WELCOME } else { WELCOME_BACK };
        let first = [&PREFACE[..], &say(0, Say::Hello(hello))].concat();
        stream.write_all(&first).await.map_err(broken)?;
        stream.flush().await.map_err(broken)?;
        let (read, write) = stream.split();
        let mut input = BufReader::with_capacity(READ_BUFFER, read);
        let said = timeout(patience, listen(&mut input)).await;
        match said.map_err(|_| late())?.map_err(broken)? {
            Some((_, Said::Welcome(welcome))) => {
                let (outgoing, waiting) = (Outgoing::new(write), Mutex::new(Some(HashMap::new())));
                let (next, renewed) = (AtomicU32::new(1), watch::Sender::new(0));
                let connection = Self { outgoing, waiting, kept, next, renewed, volume };
                Ok((Arc::new(connection), input, welcome))
            }
            Some((_, Said::Elsewhere(wire::Elsewhere { addresses }))) => {
                Err(Ended::Elsewhere(addresses))
            }
            Some((_, Said::Fenced(wire::Fenced { why }))) => Err(Ended::Over(why)),
            Some((_, Said::InUse(wire::InUse { by, connected }))) => {
                Err(Ended::InUse { by, connected })
            }
            Some(_) => Err(Ended::Broken(format!("{address} does not welcome who connects"))),
            None => Err(Ended::Broken(format!("{address} closed the connection"))),
        }
    }

    /// Has it not ended?
    pub(super) fn is_open(&self) -> bool {
        self.waiting.lock().is_some()
    }

    /// Asks; `None` when the connection ends before the reply: it may have been done.
    ///
    /// # Errors
    /// [`MetaError::Invalid`] for more than fits into a message: it was not sent.
    pub(super) async fn ask(&self, ask: wire::Ask) -> Result<Option<wire::Reply>, MetaError> {
        let number = self.number();
        let numbered = (ask.number != 0).then(|| (ask.number, ask.ops.first().cloned()));
        let frame = say(number, Say::Ask(ask));
        if frame.len() > MAX_SESSION_MESSAGE as usize {
            return Err(bad("more than is sent to metad at once"));
        }
        let (sender, reply) = oneshot::channel();
        let change = numbered.and_then(|(number, op)| Some((number, op?, frame.len())));
        match &mut *self.waiting.lock() {
            Some(waiting) => waiting.insert(number, Waiting { sender, change }),
            None => return Ok(None),
        };
        let _entered = Entered(self, number);
        if self.outgoing.send(frame, Bytes::new(), None).is_err() {
            return Ok(None);
        }
        Ok(reply.await.ok())
    }

    /// Numbers of asks; 0 is none's.
    fn number(&self) -> u32 {
        loop {
            match self.next.fetch_add(1, Ordering::Relaxed) {
                0 => {}
                number => return number,
            }
        }
    }

    fn take(&self, number: u32) -> Option<Waiting> {
        self.waiting.lock().as_mut()?.remove(&number)
    }

    /// Receives, sends what senders had to leave, and beats, until it has ended: then nobody waits any more.
    pub(super) async fn run(&self, input: &mut Input) -> Ended {
        let _closed = Closed(self);
        tokio::select! {
            ended = self.receive(input) => ended,
            error = self.outgoing.drain() => Ended::Broken(error.to_string()),
            ended = self.beat() => ended,
        }
    }

    async fn receive(&self, input: &mut Input) -> Ended {
        loop {
            let said = match listen(input).await {
                Ok(Some(said)) => said,
                Ok(None) => return Ended::Broken("metad closed the connection".to_owned()),
                Err(e) => return Ended::Broken(e.to_string()),
            };
            match said {
                (number, Said::Reply(reply)) => {
                    if let Err(why) = self.replied(number, reply) {
                        return Ended::Broken(why.to_string());
                    }
                }
                (_, Said::Renewed(wire::Renewed { token, volume, durable })) => {
                    self.kept.durable(durable);
                    match volume.map(volume_from_wire).transpose() {
                        Ok(volume) => self.learn(volume),
                        Err(why) => return Ended::Broken(why.to_string()),
                    }
                    self.renewed.send_replace(token);
                }
                (_, Said::Fenced(wire::Fenced { why })) => return Ended::Over(why),
                (_, Said::Elsewhere(wire::Elsewhere { addresses })) => {
                    return Ended::Elsewhere(addresses);
                }
                (_, Said::Welcome(_) | Said::InUse(_)) => {
                    return Ended::Broken("metad says again who is served".to_owned());
                }
            }
        }
    }

    /// Keeps what was changed, and only then wakes who waits for it.
    fn replied(&self, number: u32, mut reply: wire::Reply) -> Result<(), MetaError> {
        let (made, durable) = (reply.made.take(), reply.durable);
        if let Some(Waiting { sender, change }) = self.take(number) {
            if let (Some(made), Some((number, op, len))) = (made, change) {
                self.kept.keep(number, Change { op, len, made: Made::from_wire(made)? });
            }
            // Gone in this moment: nobody needs it.
            let _gone = on_wake::lend(Threads::Patient, || sender.send(reply));
        }
        self.kept.durable(durable);
        Ok(())
    }

    fn learn(&self, volume: Known) {
        self.volume.send_if_modified(|known| {
            let news = volume.is_some() && *known != volume;
            if news {
                *known = volume;
            }
            news
        });
    }

    /// Says again and again that the session is there, until that is not answered.
    async fn beat(&self) -> Ended {
        let mut renewed = self.renewed.subscribe();
        let mut token = 0;
        loop {
            token += 1;
            let renew = say(0, Say::Renew(wire::Renew { token }));
            if let Err(e) = self.outgoing.send(renew, Bytes::new(), None) {
                return Ended::Broken(e.to_string());
            }
            let answered = renewed.wait_for(|newest| *newest >= token);
            if timeout(BEAT_ANSWER, answered).await.is_err() {
                let why = format!("metad has not answered for {BEAT_ANSWER:?}");
                return Ended::Broken(why);
            }
            sleep(BEAT).await;
        }
    }
}

/// However it ends, everybody who waits learns it.
struct Closed<'a>(&'a Connection);

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        let waiting = self.0.waiting.lock().take();
        // Not under the lock: whoever waits goes on.
        drop(waiting);
    }
}
