//! A session's way to whoever leads its volume: one connection after the other, for as long as the session goes on.
//!
//! What was asked and not answered when a connection broke is asked again on the next one: what changes something under the
//! same number, by which metad knows whether it was done. Where that is another leader, what was answered and is not durable is asked
//! again before ([`super::kept`]). What is asked meanwhile waits, for [`STALL`] at most; what is given up then may have been done.
//! A session that metad has ended ([`proto::metad::LEASE`]) does not come back: all that is asked of it fails.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use proto::guard::caught_in;
use proto::id::ClusterId;
use proto::metad::{LEASE, VERSION};
use proto::part_store::Issuer;
use proto::rpc::metad as wire;
use proto::tls::Connector;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::connection::{Connection, Ended, Input, Known};
use super::kept::Kept;
use crate::store::MetaError;
use crate::wire::answer::{Answer, Answered, from_wire, senseless};
use crate::wire::bad;
use crate::wire::op::Op;
use crate::wire::values::issuer_from_wire;

/// How long what is asked waits for a metad.
const STALL: Duration = Duration::from_secs(60);
/// How long it is waited before all addresses are tried again.
const AGAIN: Duration = Duration::from_millis(200);
/// So many changes may be asked for from the oldest on that is not answered, with that: metad keeps all their replies, and writes
/// that they are done into each one's transaction.
const SPAN: u64 = 4096;
/// Addresses that are tried, at most: a metad may name others.
const ADDRESSES: usize = 64;
/// So long it is waited that whoever has the volume is over who has no connection: it is dead, most likely. And so long that metad
/// hears that one is broken.
const UNTIL_OVER: Duration = LEASE.saturating_add(Duration::from_secs(2));
const UNTIL_HEARD: Duration = Duration::from_secs(1);

/// Which volume, and who may lead it.
#[derive(Clone, Debug)]
pub struct Target {
    /// Addresses of metads, as `HOST:PORT`.
    pub addresses: Vec<String>,
    /// The cluster.
    pub cluster: ClusterId,
    /// How they are reached.
    pub connector: Connector,
    /// The volume's name.
    pub volume: String,
    /// Who asks, for people: "mount /mnt/a of host-b, process 17".
    pub name: String,
    /// Ends the session that has the volume, which can change nothing from then on.
    pub take_over: bool,
}

/// Why no session could be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RemoteError {
    /// No metad is named.
    #[error("no metad is named for volume {0}")]
    Nobody(String),
    /// None of them can be asked, or leads the volume.
    #[error("no metad leads volume {volume}: {why}")]
    NotLed {
        /// The volume.
        volume: String,
        /// What became of the last one that was tried.
        why: String,
    },
    /// Another has it.
    #[error("volume {volume} is in use by {by}: end that first, or take the volume over")]
    InUse {
        /// The volume.
        volume: String,
        /// Who.
        by: String,
    },
    /// Metad does not want it.
    #[error("metad refuses a session on volume {volume}: {why}")]
    Refused {
        /// The volume.
        volume: String,
        /// Why.
        why: String,
    },
}

/// How it stands with metad.
#[derive(Clone)]
enum State {
    /// There is no connection.
    Away(String),
    Open(Arc<Connection>),
    /// The session is over.
    Over(String),
}

/// Numbers of asks that change something.
#[derive(Default)]
struct Numbers {
    last: u64,
    /// Those whose replies have not arrived.
    waiting: BTreeSet<u64>,
    /// One of them is taken out.
    moved: Arc<Notify>,
}

impl Numbers {
    /// The next one; `None`: it is too far from the oldest.
    fn next(&mut self) -> Option<u64> {
        if self.last - self.answered() >= SPAN {
            return None;
        }
        self.last += 1;
        self.waiting.insert(self.last);
        Some(self.last)
    }

    /// All up to here have been answered, or nobody waits for them any more.
    fn answered(&self) -> u64 {
        self.waiting.first().map_or(self.last, |first| first - 1)
    }
}

/// One of them, for as long as somebody waits for its reply.
struct Numbered<'a> {
    numbers: &'a Mutex<Numbers>,
    number: u64,
}

impl<'a> Numbered<'a> {
    /// The next one. Waits while it would be too far from the oldest that is not answered.
    async fn next(numbers: &'a Mutex<Numbers>, deadline: Instant) -> Result<Self, MetaError> {
        let moved = numbers.lock().moved.clone();
        loop {
            let moving = moved.notified();
            let next = numbers.lock().next();
            if let Some(number) = next {
                return Ok(Self { numbers, number });
            }
            let moving = timeout_at(deadline, moving).await;
            moving.map_err(|_| MetaError::Engine(format!("a change takes metad {STALL:?}")))?;
        }
    }
}

impl Drop for Numbered<'_> {
    fn drop(&mut self) {
        let mut numbers = self.numbers.lock();
        numbers.waiting.remove(&self.number);
        numbers.moved.notify_waiters();
    }
}

/// A session's way to its metad. Dropping it ends it, and the session some time later.
pub(super) struct Link {
    state: watch::Sender<State>,
    numbers: Arc<Mutex<Numbers>>,
    kept: Arc<Kept>,
    /// It is being closed: that it is over then is no news.
    closing: Arc<AtomicBool>,
    _keeping: AbortOnDropHandle<()>,
}

/// What one connection is made with after the other.
struct Keeper {
    addresses: Vec<String>,
    connector: Connector,
    hello: wire::Hello,
    state: watch::Sender<State>,
    closing: Arc<AtomicBool>,
    volume: watch::Sender<Known>,
    numbers: Arc<Mutex<Numbers>>,
    kept: Arc<Kept>,
    /// Tells whoever leads from those before.
    leader: Bytes,
    issuer: watch::Sender<Option<Issuer>>,
}

impl Link {
    /// Opens a new session at the first of the metads that leads the volume. What that is from now on goes to `known`, and in whose
    /// name blobs are put to `issuer`, whenever that changes. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) async fn open(
        target: Target,
        known: watch::Sender<Known>,
        issuer: watch::Sender<Option<Issuer>>,
    ) -> Result<(Self, wire::Welcome), RemoteError> {
        let Target { addresses, cluster, connector, volume, name, take_over } = target;
        if addresses.is_empty() {
            return Err(RemoteError::Nobody(volume));
        }
        let hello = wire::Hello {
            version: VERSION,
            cluster: Bytes::copy_from_slice(cluster.as_bytes()),
            volume: volume.clone(),
            name,
            session: 0,
            secret: Bytes::new(),
            connection: 0,
            take_over,
        };
        let state = watch::Sender::new(State::Away("it is connecting".to_owned()));
        let closing = Arc::<AtomicBool>::default();
        let (numbers, kept) = <(Arc<Mutex<Numbers>>, Arc<Kept>)>::default();
        let mut keeper = Keeper {
            addresses,
            connector,
            hello,
            state: state.clone(),
            closing: closing.clone(),
            volume: known,
            numbers: numbers.clone(),
            kept: kept.clone(),
            leader: Bytes::new(),
            issuer,
        };
        let opened = keeper.first().await;
        let (connection, input, welcome) = opened.map_err(|why| why.told(volume.clone()))?;
        (keeper.hello.session, keeper.hello.secret) = (welcome.session, welcome.secret.clone());
        keeper.hello.take_over = false;
        keeper.welcomed(&welcome).map_err(|why| Ended::Over(why.to_string()).told(volume))?;
        let keeping = AbortOnDropHandle::new(tokio::spawn(keeper.keep(connection, input)));
        Ok((Self { state, numbers, kept, closing, _keeping: keeping }, welcome))
    }

    /// Has an op done.
    ///
    /// # Errors
    /// Why it failed; [`MetaError::Ended`] once the session is over, and [`MetaError::Engine`] where no metad could be
    /// asked: of what was asked before it is not known then whether it was done.
    pub(super) async fn ask(&self, op: &Op) -> Answered {
        let deadline = Instant::now() + STALL;
        if op.is_same_again() {
            let answered = self.send(op, 0, deadline).await;
            if *op == Op::Sync {
                // After it: only then all was made again that a leader lost.
                self.kept.check()?;
            }
            return answered;
        }
        if self.kept.is_full() {
            // Where that fails, too much is kept for a while.
            let _durable = self.send(&Op::Sync, 0, deadline).await;
        }
        let numbered = Numbered::next(&self.numbers, deadline).await?;
        self.send(op, numbered.number, deadline).await
    }

    async fn send(&self, op: &Op, number: u64, deadline: Instant) -> Answered {
        loop {
            let connection = self.connection(deadline).await?;
            let answered = self.numbers.lock().answered();
            let ops = vec![op.to_wire()];
            let ask = wire::Ask { ops, number, answered, ..wire::Ask::default() };
            if let Some(reply) = connection.ask(ask).await? {
                return only(reply);
            }
            if Instant::now() >= deadline {
                let why = format!("for {STALL:?} each connection to metad ended before the answer");
                return Err(MetaError::Engine(why));
            }
        }
    }

    /// Has the session closed, which is over then.
    ///
    /// # Errors
    /// As of [`Self::ask`]. It goes on, unless it is over.
    pub(super) async fn close(&self) -> Answered {
        self.closing.store(true, Ordering::SeqCst);
        let closed = match self.ask(&Op::Close).await {
            // It was closed, and that was not heard; or was over before: it leaves nothing that is not durable either way.
            Err(MetaError::Ended(_)) if self.kept.is_empty() => Ok(Answer::Done),
            closed => closed,
        };
        match &closed {
            Ok(_) => drop(self.state.send_replace(State::Over("it was closed".to_owned()))),
            Err(_) => self.closing.store(false, Ordering::SeqCst),
        }
        closed
    }

    /// The connection there is, or the next one.
    async fn connection(&self, deadline: Instant) -> Result<Arc<Connection>, MetaError> {
        let mut state = self.state.subscribe();
        let settled = state.wait_for(|state| match state {
            State::Away(_) => false,
            // One that has ended is about to be replaced.
            State::Open(connection) => connection.is_open(),
            State::Over(_) => true,
        });
        let settled = match timeout_at(deadline, settled).await {
            Ok(settled) => settled.map(|state| state.clone()),
            Err(_) => Ok(self.state.borrow().clone()),
        };
        match settled {
            Ok(State::Open(connection)) if connection.is_open() => Ok(connection),
            Ok(State::Over(why)) => Err(MetaError::Ended(format!("the session is over: {why}"))),
            Ok(State::Away(why)) => {
                Err(MetaError::Engine(format!("no metad could be asked for {STALL:?}: {why}")))
            }
            Ok(State::Open(_)) | Err(_) => {
                Err(MetaError::Engine(format!("no metad could be asked for {STALL:?}")))
            }
        }
    }
}

/// The answer to the one op of an ask.
fn only(reply: wire::Reply) -> Answered {
    let mut answers = reply.answers.into_iter();
    match (answers.next(), answers.next()) {
        (Some(answer), None) => from_wire(answer),
        _ => Err(senseless(&bad("one op, and not one answer"))),
    }
}

impl Ended {
    /// Why there is no session, for people.
    fn told(self, volume: String) -> RemoteError {
        match self {
            Self::Over(why) => RemoteError::Refused { volume, why },
            Self::InUse { by, .. } => RemoteError::InUse { volume, by },
            Self::Broken(why) => RemoteError::NotLed { volume, why },
            Self::Elsewhere(_) => {
                let why = "none of those that are named does".to_owned();
                RemoteError::NotLed { volume, why }
            }
        }
    }

    /// Of the answers of several metads the one counts that says most.
    fn says(&self) -> u8 {
        match self {
            Self::Elsewhere(_) => 0,
            Self::Broken(_) => 1,
            Self::InUse { .. } => 2,
            Self::Over(_) => 3,
        }
    }
}

impl Keeper {
    /// The first connection. Waits for the end of a session that has the volume and no connection.
    async fn first(&mut self) -> Result<(Arc<Connection>, Input, wire::Welcome), Ended> {
        let began = Instant::now();
        loop {
            let refused = match self.connect().await {
                Ok(opened) => return Ok(opened),
                Err(refused) => refused,
            };
            let until = match refused {
                Ended::InUse { connected: true, .. } => UNTIL_HEARD,
                Ended::InUse { connected: false, .. } => UNTIL_OVER,
                _ => return Err(refused),
            };
            if began.elapsed() >= until {
                return Err(refused);
            }
            sleep(AGAIN).await;
        }
    }

    /// Makes one connection after the other, until the session is over. The first is there.
    async fn keep(mut self, mut connection: Arc<Connection>, mut input: Input) {
        loop {
            let began = Instant::now();
            let serving = self.serve(&connection, &mut input);
            let ran = caught_in("a connection to metad", serving).await;
            let ended = ran.unwrap_or_else(|panicked| Ended::Broken(panicked.to_string()));
            let why = match ended {
                Ended::Over(why) => return self.over(why),
                Ended::Broken(why) => {
                    // It may stand still. Those who stand by for it are asked first.
                    self.addresses.rotate_left(1);
                    why
                }
                // It is said to those who begin.
                Ended::InUse { by, .. } => format!("the volume is in use by {by}"),
                Ended::Elsewhere(more) => {
                    self.add(more);
                    "it leads the volume no more".to_owned()
                }
            };
            tracing::warn!("the connection to metad has ended: {why}; trying on");
            self.become_state(State::Away(why));
            if began.elapsed() < AGAIN {
                // So would the next, maybe.
                sleep(AGAIN).await;
            }
            (connection, input) = match self.again().await {
                Ok(opened) => opened,
                Err(why) => return self.over(why),
            };
            tracing::info!("connected to metad again");
        }
    }

    /// Runs a connection. It is used once whoever leads has all that was answered.
    async fn serve(&self, connection: &Arc<Connection>, input: &mut Input) -> Ended {
        let running = connection.run(input);
        tokio::pin!(running);
        tokio::select! {
            ended = &mut running => return ended,
            () = self.make_again(connection) => {}
        }
        if connection.is_open() {
            self.become_state(State::Open(connection.clone()));
        }
        running.await
    }

    /// Has all changes made again that are owed to whoever leads now; or the connection has ended.
    async fn make_again(&self, connection: &Connection) {
        let owed = self.kept.owed();
        for (at, number) in owed.iter().copied().enumerate() {
            let Some(change) = self.kept.get(number) else { continue };
            // Whoever hears that all up to here are done takes it at its word.
            let lowest = owed[at..].iter().copied().min().unwrap_or(number);
            let answered = self.numbers.lock().answered().min(lowest - 1);
            let (ops, again) = (vec![change.op], Some(change.made.to_wire()));
            let ask = wire::Ask { ops, number, answered, again, ..wire::Ask::default() };
            let answered = loop {
                match connection.ask(ask.clone()).await.map(|reply| reply.map(only)) {
                    // It cannot write for now: nothing that comes later is done before.
                    Ok(Some(Err(MetaError::Engine(why)))) => {
                        tracing::warn!("what was answered and lost is not done again yet: {why}");
                        sleep(AGAIN).await;
                    }
                    Ok(Some(answered)) => break answered,
                    Ok(None) => return,
                    Err(why) => break Err(why),
                }
            };
            if let Err(why) = answered {
                tracing::error!(
                    "what was done, and was lost with whoever led the volume, cannot be done again: {why}"
                );
                self.kept.give_up(number, &why);
            }
        }
        if !owed.is_empty() {
            tracing::info!(
                changes = owed.len(),
                "what was answered and not durable was done again"
            );
        }
    }

    /// A metad has taken the session on.
    fn welcomed(&mut self, welcome: &wire::Welcome) -> Result<(), MetaError> {
        let issuer = welcome.issuer.clone().map(issuer_from_wire).transpose()?;
        self.issuer.send_if_modified(|known| std::mem::replace(known, issuer) != issuer);
        if welcome.leader != self.leader {
            self.leader = welcome.leader.clone();
            self.kept.pass_on(welcome.low, &welcome.done);
        }
        Ok(())
    }

    /// The next connection, however long it takes; or why the session is over.
    async fn again(&mut self) -> Result<(Arc<Connection>, Input), String> {
        loop {
            match self.connect().await {
                Ok((connection, input, welcome)) => match self.welcomed(&welcome) {
                    Ok(()) => return Ok((connection, input)),
                    Err(why) => self.become_state(State::Away(why.to_string())),
                },
                Err(Ended::Over(why)) => return Err(why),
                Err(Ended::Broken(why)) => self.become_state(State::Away(why)),
                Err(Ended::Elsewhere(_) | Ended::InUse { .. }) => {
                    self.become_state(State::Away("none leads the volume".to_owned()));
                }
            }
            sleep(AGAIN).await;
        }
    }

    fn over(&self, why: String) {
        if !self.closing.load(Ordering::SeqCst) {
            tracing::error!("the session with metad is over: {why}");
        }
        self.become_state(State::Over(why));
    }

    /// Unless it was closed.
    fn become_state(&self, next: State) {
        self.state.send_if_modified(|state| {
            let goes_on = !matches!(state, State::Over(_));
            if goes_on {
                *state = next;
            }
            goes_on
        });
    }

    /// Tries all addresses once.
    async fn connect(&mut self) -> Result<(Arc<Connection>, Input, wire::Welcome), Ended> {
        let mut refused = Ended::Elsewhere(Vec::new());
        let mut tried = 0;
        while let Some(address) = self.addresses.get(tried).cloned() {
            tried += 1;
            self.hello.connection += 1;
            let known = (self.volume.clone(), self.kept.clone());
            let to = (&*address, &self.connector);
            match Connection::open(to, self.hello.clone(), known).await {
                Ok(opened) => {
                    // The first to be tried next time.
                    self.addresses.swap(0, tried - 1);
                    return Ok(opened);
                }
                Err(Ended::Elsewhere(more)) => self.add(more),
                Err(why) if why.says() >= refused.says() => refused = why,
                Err(_) => {}
            }
        }
        Err(refused)
    }

    fn add(&mut self, more: Vec<String>) {
        for address in more {
            if self.addresses.len() < ADDRESSES && !self.addresses.contains(&address) {
                self.addresses.push(address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn changes_wait_for_one_that_takes_long_once_many_have_passed_it() {
        let numbers = Mutex::<Numbers>::default();
        let deadline = Instant::now() + STALL;
        let slow = Numbered::next(&numbers, deadline).await.unwrap();
        for _ in 1..SPAN {
            drop(Numbered::next(&numbers, deadline).await.unwrap());
        }
        let mut next = Box::pin(Numbered::next(&numbers, deadline));
        assert!(next.as_mut().now_or_never().is_none());
        assert_eq!(numbers.lock().answered(), 0);
        drop(slow);
        let next = next.await.unwrap();
        assert_eq!((next.number, numbers.lock().answered()), (SPAN + 1, SPAN));
        (1..SPAN).for_each(|_| _ = numbers.lock().next());
        let refused = Numbered::next(&numbers, deadline).await.err();
        assert!(matches!(refused, Some(MetaError::Engine(_))), "{refused:?}");
    }
}
