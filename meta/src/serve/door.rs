//! Metad's end of one connection of a session ([`proto::metad`]).
//!
//! An ask is begun before the next one is read, and its ops are done one after the other: of a session that waits for
//! no disk, each ask is done when it has been read, by the thread that read it. What one session may have under way is
//! bounded by [`BUDGET`]; waiting for room is the back-pressure that reaches it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto::guests::{Guest, UnderWay};
use proto::limits::MAX_OPS;
use proto::link::outgoing::{Outgoing, Share};
use proto::link::{frame, prepare};
use proto::metad::{LEASE, PREFACE, VERSION, answer_len, hear, reply_len, said};
use proto::on_wake::{self, Threads};
use proto::rpc::metad as wire;
use proto::rpc::metad::from_client::Say;
use proto::rpc::metad::from_metad::Said;
use proto::tls::wire::{Reading, Wire};
use tokio::io::BufReader;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::asked;
use super::led::Led;
use super::sessions::{Presence, Sessions, Stay};
use super::window::Due;
use super::work::Work;
use crate::store::MetaError;
use crate::volume::once::Once;
use crate::wire::answer::{self, Answered};
use crate::wire::made::Made;
use crate::wire::op::{Leaves, Op};
use crate::wire::values::{issuer_to_wire, volume_to_wire};

/// Bytes that asks and their answers may take of one session, about; the smallest counts as a [`UNIT`].
const BUDGET: usize = 64 << 20;
const UNIT: usize = 4 << 10;
/// Longest answers to one ask, in bytes: less than a frame may have.
const LONGEST_REPLY: usize = 7 << 20;
/// A silent client is asked for a sign of life this often.
const SILENCE: Duration = Duration::from_secs(20);
const READ_BUFFER: usize = 16 << 10;

/// Serves one connection until the client closes it or makes a newer one, its session is over, or `stop`: then what is
/// under way is finished and answered.
///
/// # Errors
/// What the connection says, and for what is no session's.
pub(super) async fn serve(
    stream: Wire,
    guest: &Arc<Guest>,
    led: &Led,
    stop: CancellationToken,
) -> io::Result<()> {
    prepare(stream.tcp(), SILENCE)?;
    let (read, write) = stream.split();
    let mut input = BufReader::with_capacity(READ_BUFFER, read);
    let outgoing = Arc::new(Outgoing::new(write));
    let entered = tokio::select! {
        entered = enter(&mut input, led) => entered?,
        () = guest.leave() => return Err(nonsense("others need the connection more")),
        () = stop.cancelled() => return Ok(()),
    };
    let stay = match entered {
        Ok(stay) => stay,
        Err(refusal) => {
            outgoing.send(said(0, *refusal), Bytes::new(), None)?;
            return finish(&outgoing, async {}).await;
        }
    };
    outgoing.send(said(0, welcome(&stay)), Bytes::new(), None)?;
    let under_way = TaskTracker::new();
    let connection = Connection {
        stay: &stay,
        outgoing: &outgoing,
        under_way: &under_way,
        // It is of use from now on.
        _known: guest.begin(),
        room: Arc::new(Semaphore::new(BUDGET / UNIT)),
    };
    tokio::select! {
        biased;
        () = stay.over() => {
            let why = format!(
                "metad has not heard from it for {LEASE:?}, or somebody has taken the volume over"
            );
            let fenced = Said::Fenced(wire::Fenced { why });
            let _gone = outgoing.send(said(0, fenced), Bytes::new(), None);
        }
        () = stay.deposed() => {
            let elsewhere = Said::Elsewhere(wire::Elsewhere { addresses: Vec::new() });
            let _gone = outgoing.send(said(0, elsewhere), Bytes::new(), None);
        }
        () = stay.replaced() => return Err(nonsense("the session has a newer connection")),
        () = stop.cancelled() => {}
        error = outgoing.drain() => return Err(error),
        result = connection.receive(&mut input) => result?,
    }
    drop(connection);
    // Nothing more is read from it, whatever is still to be answered.
    drop(stay);
    under_way.close();
    finish(&outgoing, under_way.wait()).await
}

/// Waits until `last` is done and all is written.
async fn finish(outgoing: &Outgoing, last: impl Future<Output = ()>) -> io::Result<()> {
    tokio::select! {
        () = async { last.await; outgoing.written().await } => Ok(()),
        error = outgoing.drain() => Err(error),
    }
}

fn nonsense(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Who it is, or what it is told instead.
async fn enter(input: &mut BufReader<Reading>, led: &Led) -> io::Result<Result<Stay, Box<Said>>> {
    let mut preface = [0; PREFACE.len()];
    frame::fill(input, &mut preface).await?;
    if preface != PREFACE {
        return Err(nonsense("it is no session's connection, or another version's"));
    }
    let heard = hear(input, false).await?.map(|heard| heard.say);
    let Some(Say::Hello(hello)) = heard else {
        return Err(nonsense("the client does not say who it is"));
    };
    if hello.version != VERSION {
        let why = format!(
            "it speaks version {} of the protocol, and metad version {VERSION}: both sides must run the same Ashlar",
            hello.version
        );
        return Ok(Err(Box::new(Said::Fenced(wire::Fenced { why }))));
    }
    Ok(led.enter(hello).await)
}

fn welcome(stay: &Stay) -> Said {
    let (low, done) = stay.work.before();
    Said::Welcome(wire::Welcome {
        session: stay.work.id().0,
        secret: Bytes::copy_from_slice(stay.proof.bytes()),
        issuer: stay.sessions.volume().issuer().map(issuer_to_wire),
        volume: Some(volume_now(stay)),
        leader: Bytes::copy_from_slice(stay.sessions.leader().as_bytes()),
        low,
        done,
    })
}

/// What the volume is, which others may have changed.
fn volume_now(stay: &Stay) -> wire::Volume {
    let volume = stay.sessions.volume();
    volume_to_wire(&volume.info(), volume.trash_days())
}

/// One connection, as far as it is received from.
struct Connection<'a> {
    stay: &'a Stay,
    outgoing: &'a Arc<Outgoing>,
    under_way: &'a TaskTracker,
    _known: UnderWay,
    room: Arc<Semaphore>,
}

impl Connection<'_> {
    /// Takes what is said until there is no more.
    async fn receive(&self, input: &mut BufReader<Reading>) -> io::Result<()> {
        while let Some(heard) = hear(input, true).await? {
            self.stay.heard();
            match heard.say {
                Say::Ask(ask) => self.take(heard.number, ask, heard.len).await?,
                Say::Renew(wire::Renew { token }) => {
                    let share = self.share(0).await?;
                    let volume = Some(volume_now(self.stay));
                    let durable = self.stay.sessions.volume().durable_batches();
                    let renewed = Said::Renewed(wire::Renewed { token, volume, durable });
                    self.outgoing.send(said(0, renewed), Bytes::new(), Some(share))?;
                }
                Say::Hello(_) => return Err(nonsense("the client says twice who it is")),
            }
        }
        Ok(())
    }

    /// Room for so many bytes, of what the session may have under way: all that is sent takes some, as nobody may take it in.
    async fn share(&self, bytes: usize) -> io::Result<Share> {
        let units = bytes.div_ceil(UNIT).max(1) as u32;
        let share = self.room.clone().acquire_many_owned(units).await;
        Ok((share.map_err(|_| nonsense("the room is never closed"))?, None))
    }

    /// Begins an ask.
    async fn take(&self, number: u32, ask: wire::Ask, len: usize) -> io::Result<()> {
        if ask.ops.len() > MAX_OPS {
            return Err(nonsense("an ask of too many ops"));
        }
        if ask.number != 0 {
            if ask.ops.len() != 1 {
                return Err(nonsense("an ask that is done once, and not of one op"));
            }
            let due = self.stay.work.window.lock().asked(ask.number, ask.answered);
            match due {
                Due::New => {}
                Due::Done(reply) => {
                    let share = self.share(reply_len(&reply)).await?;
                    let frame = said(number, Said::Reply(reply));
                    return self.outgoing.send(frame, Bytes::new(), Some(share));
                }
                Due::Nonsense(why) => return Err(nonsense(why)),
            }
        }
        let again = ask.again.map(Made::from_wire).transpose();
        let again = again.map_err(|_| nonsense("it was done in no way that there is"))?;
        let ops: Vec<_> = ask.ops.into_iter().map(Op::from_wire).collect();
        let answers = ops.iter().flatten().map(Op::memory).sum::<usize>().min(LONGEST_REPLY);
        let share = self.share(len + answers).await?;
        let asked = Asked {
            work: self.stay.work.clone(),
            sessions: self.stay.sessions.clone(),
            outgoing: self.outgoing.clone(),
            _presence: self.stay.presence.clone(),
            share,
            numbered: (ask.number, ask.answered),
            again,
        };
        let answering = asked.answer(number, ops, ask.stop_at_failure);
        let answering = Box::pin(self.under_way.track_future(answering));
        // Whoever has made it durable, say, goes on with it.
        on_wake::begin(&Handle::current(), Threads::Patient, answering);
        Ok(())
    }
}

/// An ask that is under way.
struct Asked {
    work: Arc<Work>,
    sessions: Arc<Sessions>,
    outgoing: Arc<Outgoing>,
    /// The session's next connection is served when this one has asked nothing that is still under way.
    _presence: Arc<Presence>,
    share: Share,
    /// The number under which it is done once, and up to which all were heard; 0: it has none.
    numbered: (u64, u64),
    /// How it was done by a leader before this one, who did not make it durable.
    again: Option<Made>,
}

impl Asked {
    /// Does the ops in their order, and answers. A client that is gone needs no answer.
    async fn answer(self, number: u32, ops: Vec<Result<Op, MetaError>>, stop_at_failure: bool) {
        let mut answers = Vec::with_capacity(ops.len());
        let (mut len, mut closed, mut made) = (0, false, None);
        for op in ops {
            let answered = match op {
                Ok(op) => self.one(op, &mut closed, &mut made).await,
                Err(why) => Err(why),
            };
            if let Err(MetaError::Ended(why)) = &answered {
                tracing::warn!("a session is sent on: {why}");
                // Another leads, who is asked this again.
                return self.sessions.note_deposed();
            }
            let mut failed = answered.is_err();
            let mut answer = answer::to_wire(answered);
            len += answer_len(&answer);
            if len > LONGEST_REPLY {
                let why =
                    MetaError::Invalid("what is asked for at once is too long to be answered");
                answer = answer::to_wire(Err(why));
                failed = true;
            }
            answers.push(answer);
            if failed && (stop_at_failure || len > LONGEST_REPLY) {
                break;
            }
        }
        let durable = self.sessions.volume().durable_batches();
        let reply = wire::Reply { answers, made: made.map(Made::to_wire), durable };
        // What was answered before is tried again, should it fail.
        if self.numbered.0 != 0 && (made.is_some() || self.again.is_none()) {
            self.work.window.lock().keep(self.numbered.0, &reply);
        }
        let frame = said(number, Said::Reply(reply));
        let _gone = self.outgoing.send(frame, Bytes::new(), Some(self.share));
        if closed {
            self.sessions.forget(&self.work);
        }
    }

    async fn one(&self, op: Op, closed: &mut bool, made: &mut Option<Made>) -> Answered {
        let leaves = op.leaves();
        let answered = match self.numbered.0 {
            // Closing is the last of all, and leaves nothing that could say that it is done.
            number if number == 0 || leaves == Leaves::All => {
                asked::answer(&self.work.session, op).await
            }
            number => match self.work.done_before(number) {
                Some(outcome) => asked::again(&self.work.session, op, outcome).await,
                None => self.once(op, made).await,
            },
        };
        if answered.is_ok() {
            match leaves {
                Leaves::Nothing => {}
                Leaves::Trash => self.work.keeper().trash_changed(),
                Leaves::Rules => self.work.keeper().rules_changed(),
                Leaves::All => *closed = true,
            }
        }
        answered
    }

    /// Does what is to be done once.
    async fn once(&self, op: Op, made: &mut Option<Made>) -> Answered {
        let session = &self.work.session;
        let once = Once::new(self.numbered, session.opened_on().now(), self.again);
        let session = session.once(once);
        let answered = asked::answer(&session, op).await;
        *made = session.made().filter(|_| answered.is_ok());
        answered
    }
}
