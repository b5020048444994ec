//! The way from one client to one slot: messages take time, are lost, delayed and doubled, and whole directions fail.
//!
//! It keeps to what [`PartStore`] promises of one client's way to a slot, whatever carries it: requests that have an
//! order are decided in it; one that was given up, or whose connection broke, is decided before all that is asked
//! afterwards, or never. Between clients there is no order: what one has sent may be decided long after another has
//! changed everything. What waits on the way to a machine that stops is lost; an answer that is lost was given.

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
use proto::id::{BlobId, DiskId, Epoch, Generation, OwnerId, PartKey, VolumeId};
use proto::part_store::{
    Beat, Condition, Fill, Held, Issuer, LastBeat, Page, PartError, PartStore, Scope, Standing,
};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until};

use crate::dice::Dice;
use crate::ground::Place;
use crate::machine::Machine;
use crate::witness::{Asker, Witness};

/// A connection on which nothing is heard breaks after so long.
const BREAKS: Duration = Duration::from_secs(8);

/// How the way is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weather {
    /// Nothing arrives at the slot.
    pub deaf: bool,
    /// Nothing comes back from it.
    pub mute: bool,
    /// One message in so many is lost, or an answer to one; 0: none.
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
    line: mpsc::UnboundedSender<Sent>,
}

/// A request on its way.
struct Sent {
    at: Instant,
    deliver: Box<dyn FnOnce() + Send>,
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
        let (line, mut sent) = mpsc::unbounded_channel::<Sent>();
        tokio::spawn(async move {
            while let Some(Sent { at, deliver }) = sent.recv().await {
                sleep_until(at).await;
                deliver();
            }
        });
        let dice = Arc::new(Mutex::new(dice));
        Self { machine, disk: place.disk, generation, client, dice, line }
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

    /// Asks the slot: in order, or as it comes.
    async fn send<T: Send + 'static>(
        &self,
        ordered: bool,
        ask: impl Fn(Arc<dyn PartStore>) -> Asking<T> + Send + 'static,
    ) -> Result<T, PartError> {
        let fate = self.fate();
        let (tell, told) = oneshot::channel();
        let life = self.machine.life();
        let weather = self.weather().clone();
        let end = End { machine: self.machine.clone(), weather, life, ordered };
        let (disk, generation) = (self.disk, self.generation);
        let deliver = move || {
            if fate.lost || end.weather.lock().deaf {
                tokio::spawn(async move {
                    sleep(BREAKS).await;
                    tell.send(Err(broken()))
                });
                return;
            }
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
                let mut answer = end.clone().decided(asking).await;
                sleep(fate.answer_takes).await;
                if fate.answer_lost || end.weather.lock().mute {
                    sleep(BREAKS).await;
                    answer = Err(broken());
                }
                tell.send(answer)
            });
        };
        if ordered {
            let sent = Sent { at: Instant::now() + fate.takes, deliver: Box::new(deliver) };
            // Its end outlives the way.
            let _ = self.line.send(sent);
        } else {
            tokio::spawn(async move {
                sleep(fate.takes).await;
                deliver();
            });
        }
        told.await.unwrap_or_else(|_| Err(broken()))
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
        self.send(true, move |slot| {
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
        self.send(false, move |slot| {
            let range = range.clone();
            Box::pin(async move { slot.get(key, range).await })
        })
        .await
    }

    async fn held(&self, blob: BlobId) -> Result<Held, PartError> {
        let Client { number, witness, .. } = &self.client;
        let by = Asker::current(*number);
        let at = witness.asks(by, blob);
        let held = self.send(true, move |slot| Box::pin(async move { slot.held(blob).await }));
        held.await.inspect(|held| {
            let parts = held.parts.iter().map(|part| part.get());
            witness.tells((by, at), blob, parts, self.machine.number);
        })
    }

    async fn delete(&self, blobs: &[BlobId], issuer: Option<Issuer>) -> Result<(), PartError> {
        let blobs = blobs.to_vec();
        let (witness, machine) = (self.client.witness.clone(), self.machine.number);
        self.send(true, move |slot| {
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
        self.send(true, move |slot| {
            let blobs = blobs.clone();
            Box::pin(async move { slot.forget(&blobs, issuer).await })
        })
        .await
    }

    async fn drop_part(&self, key: PartKey, issuer: Option<Issuer>) -> Result<(), PartError> {
        let (witness, machine) = (self.client.witness.clone(), self.machine.number);
        let by = Asker::current(self.client.number);
        self.send(true, move |slot| {
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
        self.send(true, move |slot| Box::pin(async move { slot.rebuilt(volume, issuer).await }))
            .await
    }

    async fn serve(&self) -> Result<(), PartError> {
        self.send(true, move |slot| Box::pin(async move { slot.serve().await })).await
    }

    async fn fence(&self, volume: VolumeId, epoch: Epoch, owner: OwnerId) -> Result<(), PartError> {
        self.send(true, move |slot| Box::pin(async move { slot.fence(volume, epoch, owner).await }))
            .await
    }

    async fn promised(&self, volume: VolumeId) -> Result<Option<Issuer>, PartError> {
        self.send(true, move |slot| Box::pin(async move { slot.promised(volume).await })).await
    }

    async fn beat(&self, volume: VolumeId, issuer: Issuer, beat: Beat) -> Result<(), PartError> {
        self.send(true, move |slot| {
            let beat = beat.clone();
            Box::pin(async move { slot.beat(volume, issuer, beat).await })
        })
        .await
    }

    async fn last_beat(&self, volume: VolumeId) -> Result<Option<LastBeat>, PartError> {
        self.send(true, move |slot| Box::pin(async move { slot.last_beat(volume).await })).await
    }

    async fn list(
        &self,
        scope: Scope,
        after: Option<BlobId>,
        limit: u32,
    ) -> Result<Page, PartError> {
        self.send(true, move |slot| Box::pin(async move { slot.list(scope, after, limit).await }))
            .await
    }

    async fn fill(&self) -> Result<Fill, PartError> {
        self.send(false, move |slot| Box::pin(async move { slot.fill().await })).await
    }

    async fn standing(&self) -> Result<Option<Standing>, PartError> {
        self.send(false, move |slot| Box::pin(async move { slot.standing().await })).await
    }

    async fn condition(&self, volume: VolumeId) -> Result<Condition, PartError> {
        self.send(false, move |slot| Box::pin(async move { slot.condition(volume).await })).await
    }

    async fn scrub(&self) -> Result<(), PartError> {
        self.send(false, move |slot| Box::pin(async move { slot.scrub().await })).await
    }
}
