//! The way from one client to one slot: connections that take time, stall and break, as TCP's do.
//!
//! What is sent over a connection arrives in its order, or not at all; when a client gives one up and makes another,
//! what it sent before may be on its way still, for as long as the network likes. That all the same nothing of it is
//! decided after what is asked by the newer one is what [`PartStore`] promises, and what a daemon's book of clients
//! ([`storaged::clients`], which is the real one) is there for. Between clients there is no order: what one has sent may be decided
//! long after another has changed everything. What waits on the way to a machine that stops is lost; an answer that is
//! lost was given. Reads and questions about the machine itself have no order.

use std::future::poll_fn;
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use proto::checksum::Checked;
use proto::id::{BlobId, ClientId, DiskId, Epoch, Generation, OwnerId, PartKey, VolumeId};
use proto::link::request::Hello;
use proto::part_store::{
    Beat, Condition, Fill, Held, Issuer, LastBeat, Page, PartError, PartStore, Scope, Standing,
};
use storaged::clients::Stay;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::dice::Dice;
use crate::ground::Place;
use crate::machine::Machine;
use crate::witness::{Asker, Witness};

/// A connection on which nothing is heard breaks after so long.
const BREAKS: Duration = Duration::from_secs(8);
/// One cannot be made for so long: it is given up.
const CONNECTS: Duration = Duration::from_secs(1);
/// What does not arrive is sent again, each time after so long, and so often.
const AGAIN: (Duration, u32) = (Duration::from_millis(500), 120);

/// How the way is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weather {
    /// Nothing arrives at the slot, until it does again.
    pub deaf: bool,
    /// Nothing comes back from it.
    pub mute: bool,
    /// With one request in so many the connection breaks, before it has arrived, or before its answer has; what has
    /// no order is lost then, or its answer; 0: none.
    pub loses: u64,
    /// One request in so many arrives twice; 0: none.
    pub doubles: u64,
    /// One request in so many takes seconds, and holds up those behind it; 0: none.
    pub stalls: u64,
}

impl Weather {
    /// Does every message get through, soon?
    pub fn is_fine(&self) -> bool {
        *self == Self::default()
    }
}

/// How all ways of a client are, by the numbers of the machines at their ends.
pub type Weathers = Arc<[Arc<Mutex<Weather>>]>;

/// A client, as its ways know it.
#[derive(Clone)]
pub struct Client {
    /// Its number.
    pub number: u64,
    /// How its ways are.
    pub weathers: Weathers,
    /// Who sees what is decided of what it asks.
    pub witness: Arc<Witness>,
}

/// The way of one client to one slot.
pub struct Wire {
    machine: Arc<Machine>,
    disk: DiskId,
    generation: Generation,
    client: Client,
    dice: Arc<Mutex<Dice>>,
    /// Who it is to daemons.
    identity: ClientId,
    connections: Mutex<Connections>,
}

/// The newest connection, and how many were begun.
#[derive(Default)]
struct Connections {
    newest: Option<Connection>,
    begun: u64,
}

/// A connection, as its client has it. What was sent by it goes its way, whatever becomes of this.
#[derive(Clone)]
struct Connection {
    /// The machine's life that it leads to.
    life: u64,
    line: mpsc::UnboundedSender<Sent>,
    /// Whoever waits for an answer waits in vain.
    broken: CancellationToken,
}

/// A request on its way.
struct Sent {
    at: Instant,
    deliver: Box<dyn FnOnce() + Send>,
}

/// Sends again what does not arrive until it does. `false`: that takes too long.
async fn gets_through(arrives: impl Fn() -> bool) -> bool {
    for _ in 0..AGAIN.1 {
        if arrives() {
            return true;
        }
        sleep(AGAIN.0).await;
    }
    false
}

/// The daemon's end of a connection: reads what arrives, in its order, until a newer one of the client has come.
async fn serve(
    (stay, hello): (Stay, Hello),
    mut line: mpsc::UnboundedReceiver<Sent>,
    weather: Arc<Mutex<Weather>>,
) {
    let reading = async {
        if !stay.enter(hello).await {
            return;
        }
        while let Some(Sent { at, deliver }) = line.recv().await {
            sleep_until(at).await;
            if !gets_through(|| !weather.lock().deaf).await {
                return;
            }
            deliver();
        }
    };
    tokio::select! {
        () = reading => {}
        () = stay.replaced() => {}
    }
}

/// Asks the slot.
type Asking<T> = BoxFuture<'static, Result<T, PartError>>;

/// What becomes of a request.
struct Fate {
    takes: Duration,
    lost: bool,
    doubled: bool,
    answer_takes: Duration,
    answer_lost: bool,
}

impl Wire {
    /// To the slot of the disk that should be on the machine, for who knows the group at this generation. Must be
    /// called within a runtime.
    pub fn new(
        machine: Arc<Machine>,
        place: Place,
        generation: Generation,
        client: Client,
        dice: Dice,
    ) -> Self {
        let (dice, connections) = (Arc::new(Mutex::new(dice)), Mutex::default());
        let (disk, identity) = (place.disk, ClientId::random());
        Self { machine, disk, generation, client, dice, identity, connections }
    }

    fn weather(&self) -> &Arc<Mutex<Weather>> {
        &self.client.weathers[self.machine.number]
    }

    fn fate(&self) -> Fate {
        let weather = *self.weather().lock();
        let mut dice = self.dice.lock();
        let mut once_in = |times: u64| times > 0 && dice.one_in(times);
        let (lost, doubled) = (once_in(weather.loses), once_in(weather.doubles));
        let (stalled, answer_lost) = (once_in(weather.stalls), once_in(weather.loses));
        let takes = dice.below(4) + if stalled { 500 + dice.below(6000) } else { 0 };
        let answer_takes = dice.below(4);
        Fate {
            takes: Duration::from_millis(takes),
            lost,
            doubled,
            answer_takes: Duration::from_millis(answer_takes),
            answer_lost,
        }
    }

    /// The connection, or a new one where that is broken.
    ///
    /// # Errors
    /// It cannot be made.
    async fn connection(&self) -> Result<Connection, PartError> {
        let life = self.machine.life();
        let good =
            |connection: &Connection| connection.life == life && !connection.broken.is_cancelled();
        if let Some(connection) = self.connections.lock().newest.clone().filter(good) {
            return Ok(connection);
        }
        let Weather { deaf, mute, .. } = *self.weather().lock();
        if deaf || mute {
            sleep(CONNECTS).await;
            return Err(broken());
        }
        let Some(clients) = self.machine.clients() else {
            return Err(PartError::Unreachable("connection refused".to_owned()));
        };
        let mut connections = self.connections.lock();
        connections.begun += 1;
        let hello = Hello { client: self.identity, connection: connections.begun };
        let (line, sent) = mpsc::unbounded_channel();
        tokio::spawn(serve((clients.stay(), hello), sent, self.weather().clone()));
        let connection = Connection { life, line, broken: CancellationToken::new() };
        Ok(connections.newest.insert(connection).clone())
    }

    /// Asks the slot what has an order.
    async fn send<T: Send + 'static>(
        &self,
        ask: impl Fn(Arc<dyn PartStore>) -> Asking<T> + Send + 'static,
    ) -> Result<T, PartError> {
        let connection = self.connection().await?;
        let fate = self.fate();
        let (tell, told) = oneshot::channel();
        let (life, broken_by) = (connection.life, connection.broken.clone());
        let end = self.end(life, true);
        let (disk, generation) = (self.disk, self.generation);
        let deliver = move || {
            let slot = match end.machine.slot(disk, generation) {
                Ok(slot) if end.machine.life() == life => slot,
                Ok(_) => return drop(tell.send(Err(broken()))),
                Err(why) => return drop(tell.send(Err(why))),
            };
            if fate.doubled {
                tokio::spawn(end.clone().decided(ask(slot.clone())));
            }
            let asking = ask(slot);
            tokio::spawn(async move {
                let answer = end.clone().decided(asking).await;
                sleep(fate.answer_takes).await;
                if fate.answer_lost {
                    broken_by.cancel();
                }
                if gets_through(|| !end.weather.lock().mute).await {
                    // Whoever asked may have gone.
                    let _ = tell.send(answer);
                }
            });
        };
        let sent = Sent { at: Instant::now() + fate.takes, deliver: Box::new(deliver) };
        // Its end may have gone: then nothing is answered.
        let _ = connection.line.send(sent);
        if fate.lost {
            connection.broken.cancel();
        }
        tokio::select! {
            biased;
            () = connection.broken.cancelled() => Err(broken()),
            answer = told => answer.unwrap_or_else(|_| Err(broken())),
            () = self.silence() => {
                connection.broken.cancel();
                Err(broken())
            }
        }
    }

    /// Returns when nothing was heard for as long as a connection lives without, because nothing gets through.
    async fn silence(&self) {
        loop {
            sleep(BREAKS).await;
            let Weather { deaf, mute, .. } = *self.weather().lock();
            if deaf || mute {
                return;
            }
        }
    }

    /// Asks the slot what has no order.
    async fn query<T: Send + 'static>(
        &self,
        ask: impl Fn(Arc<dyn PartStore>) -> Asking<T> + Send + 'static,
    ) -> Result<T, PartError> {
        let fate = self.fate();
        let life = self.machine.life();
        let end = self.end(life, false);
        sleep(fate.takes).await;
        if fate.lost || end.weather.lock().deaf {
            sleep(BREAKS).await;
            return Err(broken());
        }
        let slot = self.machine.slot(self.disk, self.generation)?;
        if self.machine.life() != life {
            return Err(broken());
        }
        let answer = end.clone().decided(ask(slot)).await;
        sleep(fate.answer_takes).await;
        if fate.answer_lost || end.weather.lock().mute {
            sleep(BREAKS).await;
            return Err(broken());
        }
        answer
    }

    fn end(&self, life: u64, ordered: bool) -> End {
        let (machine, weather) = (self.machine.clone(), self.weather().clone());
        End { machine, weather, life, ordered }
    }
}

fn broken() -> PartError {
    PartError::Unreachable("connection reset".to_owned())
}

/// The slot's end of the way, for one request.
#[derive(Clone)]
struct End {
    machine: Arc<Machine>,
    weather: Arc<Mutex<Weather>>,
    life: u64,
    ordered: bool,
}

impl End {
    /// What the slot decides, if its machine lives to say so.
    async fn decided<T>(self, asking: Asking<T>) -> Result<T, PartError> {
        if !self.ordered {
            // What has an order has its turn with the owner of the disk, whose time is his.
            self.machine.goes_on().await;
            self.machine.spend().await;
        }
        let mut asking = pin!(asking);
        let answer = poll_fn(|context| {
            let answer = asking.as_mut().poll(context);
            if answer.is_pending() {
                self.machine.wake();
            }
            answer
        });
        let answer = answer.await;
        if self.machine.life() == self.life { answer } else { Err(broken()) }
    }
}

#[async_trait]
impl PartStore for Wire {
    async fn put(
        &self,
        key: PartKey,
        data: Checked,
        issuer: Option<Issuer>,
    ) -> Result<(), PartError> {
        let (witness, machine) = (self.client.witness.clone(), self.machine.number);
        let by = Asker::current(self.client.number);
        self.send(move |slot| {
            let (data, witness) = (data.clone(), witness.clone());
            Box::pin(async move {
                let put = slot.put(key, data, issuer).await;
                put.inspect(|()| witness.put(machine, key))
            })
        })
        .await
        .inspect(|()| self.client.witness.acknowledges(by, key, machine))
    }

    async fn get(&self, key: PartKey, range: Range<u32>) -> Result<Bytes, PartError> {
        self.query(move |slot| {
            let range = range.clone();
            Box::pin(async move { slot.get(key, range).await })
        })
        .await
    }

    async fn held(&self, blob: BlobId) -> Result<Held, PartError> {
        let Client { number, witness, .. } = &self.client;
        let by = Asker::current(*number);
        let at = witness.asks(by, blob);
        let held = self.send(move |slot| Box::pin(async move { slot.held(blob).await }));
        held.await.inspect(|held| {
            let parts = held.parts.iter().map(|part| part.get());
            witness.tells((by, at), blob, parts, self.machine.number);
        })
    }

    async fn delete(&self, blobs: &[BlobId], issuer: Option<Issuer>) -> Result<(), PartError> {
        let blobs = blobs.to_vec();
        let (witness, machine) = (self.client.witness.clone(), self.machine.number);
        self.send(move |slot| {
            let (blobs, witness) = (blobs.clone(), witness.clone());
            witness.deletes(&blobs);
            Box::pin(async move {
                let deleted = slot.delete(&blobs, issuer).await;
                deleted.inspect(|()| witness.deleted(machine, &blobs))
            })
        })
        .await
    }

    async fn forget(&self, blobs: &[BlobId], issuer: Option<Issuer>) -> Result<(), PartError> {
        let blobs = blobs.to_vec();
        self.send(move |slot| {
            let blobs = blobs.clone();
            Box::pin(async move { slot.forget(&blobs, issuer).await })
        })
        .await
    }

    async fn drop_part(&self, key: PartKey, issuer: Option<Issuer>) -> Result<(), PartError> {
        let (witness, machine) = (self.client.witness.clone(), self.machine.number);
        let by = Asker::current(self.client.number);
        self.send(move |slot| {
            let witness = witness.clone();
            Box::pin(async move {
                let dropping = witness.drops(by, machine, key);
                slot.drop_part(key, issuer).await?;
                witness.dropped(&dropping);
                Ok(())
            })
        })
        .await
    }

    async fn rebuilt(&self, volume: VolumeId, issuer: Option<Issuer>) -> Result<(), PartError> {
        self.send(move |slot| Box::pin(async move { slot.rebuilt(volume, issuer).await })).await
    }

    async fn serve(&self) -> Result<(), PartError> {
        self.send(move |slot| Box::pin(async move { slot.serve().await })).await
    }

    async fn fence(&self, volume: VolumeId, epoch: Epoch, owner: OwnerId) -> Result<(), PartError> {
        self.send(move |slot| Box::pin(async move { slot.fence(volume, epoch, owner).await })).await
    }

    async fn promised(&self, volume: VolumeId) -> Result<Option<Issuer>, PartError> {
        self.send(move |slot| Box::pin(async move { slot.promised(volume).await })).await
    }

    async fn beat(&self, volume: VolumeId, issuer: Issuer, beat: Beat) -> Result<(), PartError> {
        self.send(move |slot| {
            let beat = beat.clone();
            Box::pin(async move { slot.beat(volume, issuer, beat).await })
        })
        .await
    }

    async fn last_beat(&self, volume: VolumeId) -> Result<Option<LastBeat>, PartError> {
        self.send(move |slot| Box::pin(async move { slot.last_beat(volume).await })).await
    }

    async fn list(
        &self,
        scope: Scope,
        after: Option<BlobId>,
        limit: u32,
    ) -> Result<Page, PartError> {
        self.send(move |slot| Box::pin(async move { slot.list(scope, after, limit).await })).await
    }

    async fn fill(&self) -> Result<Fill, PartError> {
        self.query(move |slot| Box::pin(async move { slot.fill().await })).await
    }

    async fn standing(&self) -> Result<Option<Standing>, PartError> {
        self.query(move |slot| Box::pin(async move { slot.standing().await })).await
    }

    async fn condition(&self, volume: VolumeId) -> Result<Condition, PartError> {
        self.query(move |slot| Box::pin(async move { slot.condition(volume).await })).await
    }

    async fn scrub(&self) -> Result<(), PartError> {
        self.query(move |slot| Box::pin(async move { slot.scrub().await })).await
    }
}
