//! The proxy: a group of slots as one store of blobs.
//!
//! It holds nothing that cannot be lost: what is known about slots is learnt again after a restart.
//! The deciding is in [`crate::machines::put`], [`crate::machines::get`] and [`crate::machines::restore`]; here are their calls. What is asked of
//! every slot alike is in [`crate::proxy::survey`].

pub(crate) mod claims;
pub(crate) mod live;
pub(crate) mod sound;
pub(crate) mod standing;
pub(crate) mod survey;
pub(crate) mod traffic;

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::future::join_all;
use parking_lot::{Mutex, RwLock};
use proto::awake::Awake;
use proto::checksum::Checked;
use proto::client::{BadAddress, Daemon};
use proto::cluster::{Cluster, Endpoint};
use proto::convert::Address;
use proto::guard::keep_going;
use proto::id::{
    BlobId, Epoch, Generation, GroupId, OwnerId, PartIndex, PartKey, PartSet, SessionId, VolumeId,
};
use proto::limits::{MAX_BLOBS_PER_REQUEST, footprint};
use proto::part_store::{Beat, Held, Issuer, LastBeat, PartError, Scope};
use proto::scheme::Scheme;
use proto::tls::Connector;
use proto::tls::files::TlsError;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::blob_store::{BlobError, BlobStore, Listing, SlotStatus, Space, Stored, Volumes};
use crate::codec;
use crate::machines::driver::{Machine, Port, REQUEST_TIMEOUT, SLOT_TIMEOUT, drive};
use crate::machines::get::{Get, GetCall, GetOutcome, GetReply};
use crate::machines::notices::{Notices, Why};
use crate::machines::put::{Put, PutCall, PutOutcome};
use crate::machines::restore::Find;
use crate::metrics::Metrics;
use crate::placement::quorum::{SlotSet, Sought, Spread};
use crate::placement::space;
use crate::placement::{Group, Site};
use crate::proxy::claims::Claims;
use crate::proxy::traffic::Traffic;
use crate::rules::VolumeRules;
use crate::slots::health::Health;
use crate::slots::slot_client::{Ask, SlotClient, SlotConfig};

/// How often a roll that nobody answers is called again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// A slot that has room for fewer parts like those of a blob is passed over by it, if others have more.
const SHORT: u64 = 16;

/// What differs between one proxy and another.
#[derive(Clone, Copy, Debug)]
pub struct ProxySettings {
    /// Bytes that may be on their way to one slot, and as many from it: what is more waits.
    pub slot_bytes_in_flight: u32,
}

impl Default for ProxySettings {
    fn default() -> Self {
        Self { slot_bytes_in_flight: 64 << 20 }
    }
}

/// Why a proxy cannot serve a cluster.
#[derive(Debug, thiserror::Error)]
pub enum BadSlots {
    /// The disks are for a mount to open itself.
    #[error("slot {0} is a local path: only slots with an address can be reached over the network")]
    Local(usize),
    /// An address that cannot be one.
    #[error(transparent)]
    Address(#[from] BadAddress),
    /// The certificate of this machine cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// What a slot said when it was asked how it is: that it is the right one, or why it cannot be used; none
/// if it has not said anything yet.
pub type Answer = Option<Result<(), PartError>>;

/// What one slot holds of one blob, for people.
pub struct SlotHolds {
    /// The slot's number.
    pub slot: usize,
    /// Its fail domain.
    pub domain: String,
    /// Is it main for one of the blob's parts?
    pub main: bool,
    /// Its answer.
    pub held: Result<Held, PartError>,
}

/// Keeps blobs on the slots of one group.
pub struct Proxy {
    id: GroupId,
    pub(crate) slots: Vec<Arc<SlotClient>>,
    pub(crate) group: Arc<Group>,
    /// How blobs lie of volumes that were opened.
    rules: RwLock<HashMap<VolumeId, VolumeRules>>,
    /// In whose name volumes are changed that were taken over.
    pub(crate) issuers: RwLock<HashMap<VolumeId, Issuer>>,
    /// Losses that blobs of those survive.
    losses: RwLock<HashMap<VolumeId, usize>>,
    /// In whose name those are that others have taken over, who let this do it for them.
    adopted: RwLock<HashMap<VolumeId, Issuer>>,
    /// Which blobs must be left alone, what wants mending, and whether users are about.
    pub(crate) claims: Claims,
    pub(crate) notices: Notices,
    pub(crate) traffic: Traffic,
    health: Arc<Mutex<Health>>,
    clock: Arc<Awake>,
    /// The newest generation that slots have refused it for; 0: none has.
    newer: Arc<AtomicU64>,
    metrics: Metrics,
    /// One per slot and one for the clock; they end with the proxy.
    _watchers: JoinSet<()>,
}

impl Proxy {
    /// Serves the group `id` of these slots. Must be called within a tokio runtime.
    ///
    /// # Panics
    /// With no slots, or more than [`proto::limits::MAX_SLOTS`].
    pub fn new(id: GroupId, slots: Vec<SlotConfig>, settings: ProxySettings) -> Arc<Self> {
        let group = Arc::new(Group::new(slots.iter().map(|slot| Site {
            disk: slot.stands_for,
            host: &slot.domain,
            rack: &slot.rack,
        })));
        let health = Arc::new(Mutex::new(Health::new(group.clone())));
        let clock = Arc::new(Awake::default());
        let newer = Arc::new(AtomicU64::new(0));
        let in_flight = settings.slot_bytes_in_flight;
        let client = |(index, slot): (usize, SlotConfig)| {
            let judge = (health.clone(), clock.clone(), newer.clone());
            Arc::new(SlotClient::new(slot, judge, index, in_flight))
        };
        let slots: Vec<_> = slots.into_iter().enumerate().map(client).collect();
        let mut watchers = JoinSet::new();
        for slot in &slots {
            let slot = slot.clone();
            watchers.spawn(async move {
                keep_going("watching a slot", || slot.clone().watch()).await;
            });
        }
        let ticking = clock.clone();
        watchers.spawn(async move { ticking.tick().await });
        let (rules, issuers, metrics) = (RwLock::default(), RwLock::default(), Metrics::new());
        let (losses, adopted) = (RwLock::default(), RwLock::default());
        let (claims, notices, traffic) = <(Claims, Notices, Traffic)>::default();
        Arc::new(Self {
            id,
            slots,
            group,
            rules,
            issuers,
            losses,
            adopted,
            claims,
            notices,
            traffic,
            health,
            clock,
            newer,
            metrics,
            _watchers: watchers,
        })
    }

    /// Serves a cluster whose slots are behind daemons. Connections are made on first use. Must be
    /// called within a tokio runtime.
    pub fn from_cluster(cluster: &Cluster, settings: ProxySettings) -> Result<Arc<Self>, BadSlots> {
        let mut slots = Vec::with_capacity(cluster.slots.len());
        let connector = Connector::of(cluster)?;
        for (index, slot) in cluster.slots.iter().enumerate() {
            let Endpoint::Remote(address) = slot.endpoint() else {
                return Err(BadSlots::Local(index));
            };
            let to = Address {
                cluster: cluster.cluster,
                disk: slot.disk,
                slot: slot.slot,
                group: cluster.group(),
                generation: cluster.generation,
            };
            // A connection for each slot, also behind one daemon: large parts do not queue up
            // behind each other.
            let store = Arc::new(Daemon::through(address, connector.clone())?.slot(to));
            let place = address.to_owned();
            let (disk, stands_for) = (slot.disk, slot.stands_for());
            let (domain, rack) = (slot.domain(), slot.rack.clone());
            let drains = slot.drain;
            slots.push(SlotConfig { disk, stands_for, place, domain, rack, drains, store });
        }
        Ok(Self::new(cluster.group(), slots, settings))
    }

    /// The newest generation of the group that slots know, when that is newer than the one they are asked under.
    pub fn newer_generation(&self) -> Option<Generation> {
        let newer = self.newer.load(Ordering::Relaxed);
        (newer > 0).then_some(Generation(newer))
    }

    /// Takes the place of another proxy of the group: changes volumes in the names that it did, and has its slots
    /// promise them, of which some may never have heard ([`Proxy::promise_again`]). One that does not answer is as one that
    /// was away at the fence.
    pub(crate) async fn inherit(&self, before: &Self) {
        let issuers = before.issuers.read().clone();
        let volumes: Vec<VolumeId> = issuers.keys().copied().collect();
        self.issuers.write().extend(issuers);
        let losses = before.losses.read().clone();
        self.losses.write().extend(losses);
        let all = SlotSet::first(self.slots.len());
        let promising = volumes.into_iter().map(|volume| self.promise_again(volume, all));
        for error in join_all(promising).await.into_iter().filter_map(Result::err) {
            tracing::debug!("a slot of the new generation promises nothing: {error}");
        }
    }

    /// Acts for whom another proxy of the group did: their slots have been told by themselves.
    pub(crate) fn adopt_from(&self, before: &Self) {
        let adopted = before.adopted.read().clone();
        self.adopted.write().extend(adopted);
    }

    /// What each slot says of itself: when all have been asked and one of them is there, else after
    /// `bound`.
    pub async fn roll_call(&self, bound: Duration) -> Vec<Answer> {
        let deadline = Instant::now() + bound;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let answers = join_all(self.slots.iter().map(|slot| slot.answer(left))).await;
            let away =
                |answer: &Answer| matches!(answer, None | Some(Err(PartError::Unreachable(_))));
            if !answers.iter().all(away) || left.is_zero() {
                return answers;
            }
            // They may be about to come, as at boot.
            tokio::time::sleep(LOOK_AGAIN.min(left)).await;
        }
    }

    /// Where each part of a blob is, slot by slot.
    pub async fn stat(&self, id: BlobId) -> Vec<SlotHolds> {
        let placement = self.group.place(id);
        let mut main = SlotSet::EMPTY;
        let mains = (0..id.scheme().parts()).filter_map(|part| placement.main(part));
        mains.for_each(|slot| main.insert(slot));
        let ask = |(slot, client): (usize, Arc<SlotClient>)| async move {
            let held = client.held(Ask::IfUp, id).await;
            SlotHolds { slot, domain: client.domain.clone(), main: main.contains(slot), held }
        };
        join_all(self.slots.iter().cloned().enumerate().map(ask)).await
    }

    pub(crate) fn slots_that(&self, are: impl Fn(&SlotClient) -> bool) -> SlotSet {
        SlotSet::that_are(self.slots.len(), |slot| are(&self.slots[slot]))
    }

    /// The slots that are to be emptied, and those that have room for few parts of the blob, from the fullest on, as
    /// long as the others are enough for all.
    fn short_slots(&self, id: BlobId, down: SlotSet) -> SlotSet {
        let enough = SHORT * footprint(id.part_len());
        let room = |slot: usize| match self.slots[slot].drains {
            true => 0,
            false => self.slots[slot].known_room(),
        };
        let mut few: Vec<_> = (0..self.slots.len())
            .filter(|slot| !down.contains(*slot))
            .map(|slot| (room(slot), slot))
            .filter(|(room, _)| *room < enough)
            .collect();
        few.sort_unstable();
        let mut short = SlotSet::EMPTY;
        for (_, slot) in few {
            let without = short.union(SlotSet::only(slot));
            let others = self.group.all().minus(down.union(without));
            if !self.group.spreads(id.scheme(), others) {
                break;
            }
            short = without;
        }
        short
    }

    /// How blobs of the volume may lie; `None`: nobody has said.
    pub(crate) fn known_rules(&self, volume: VolumeId) -> Option<VolumeRules> {
        self.rules.read().get(&volume).copied()
    }

    /// The same of those that survive m losses, as the map suggests where nobody has said.
    pub(crate) fn rules(&self, volume: VolumeId, m: usize) -> VolumeRules {
        let known = self.known_rules(volume);
        known.unwrap_or_else(|| VolumeRules::unknown(self.group.layout(m)))
    }

    /// The same of one blob.
    fn rules_of(&self, id: BlobId) -> VolumeRules {
        self.rules(id.volume(), id.scheme().parity_parts())
    }

    /// How parts of a blob lie that are as safe as its volume wants.
    fn as_wanted(&self, id: BlobId) -> Spread {
        Spread::AsPossible { spare: self.rules_of(id).min_spare.into() }
    }

    /// How they lie where each has a unit of its own.
    fn apart(&self, id: BlobId) -> Spread {
        Spread::Apart(self.rules_of(id).layout)
    }

    /// A volume was taken over by this, of whose blobs so many parts may be lost.
    pub(crate) fn leads(&self, volume: VolumeId, issuer: Issuer, m: usize) {
        self.losses.write().insert(volume, m);
        self.issuers.write().insert(volume, issuer);
    }

    /// In whose name it was, and how many that are; `None`: others have taken it over, or nobody.
    pub(crate) fn led(&self, volume: VolumeId) -> Option<(Issuer, usize)> {
        let issuer = self.issuers.read().get(&volume).copied()?;
        let m = self.losses.read().get(&volume).copied()?;
        Some((issuer, m))
    }

    pub(crate) fn issuer(&self, volume: VolumeId) -> Option<Issuer> {
        let led = self.issuers.read().get(&volume).copied();
        led.or_else(|| self.adopted.read().get(&volume).copied())
    }

    /// Only blobs of the group can be here.
    fn check_group(&self, id: BlobId) -> Result<(), BlobError> {
        if id.group() == self.id {
            return Ok(());
        }
        let (group, own) = (id.group(), self.id);
        Err(BlobError::Invalid(format!("blob {id} is of group {group}, these slots are of {own}")))
    }

    fn unavailable(&self, id: BlobId, down: SlotSet, reasons: &[(usize, PartError)]) -> BlobError {
        BlobError::Unavailable { id, why: self.explain(down, reasons) }
    }

    /// Names the slots in the way, each once.
    pub(crate) fn explain(&self, down: SlotSet, reasons: &[(usize, PartError)]) -> String {
        let mut named = SlotSet::EMPTY;
        let mut lines = Vec::new();
        let from_start = down.iter().map(|slot| (slot, self.slots[slot].state()));
        let later = reasons.iter().map(|(slot, why)| (*slot, why.to_string()));
        for (slot, why) in from_start.chain(later) {
            if !named.contains(slot) {
                named.insert(slot);
                lines.push(format!("slot {slot} ({}): {why}", self.slots[slot].place));
            }
        }
        if lines.is_empty() { "too few good parts".to_owned() } else { lines.join("; ") }
    }

    /// Puts the parts that are not located on a slot, and once more over the slots that are down when it cannot
    /// be done without them.
    async fn put_parts(
        &self,
        id: BlobId,
        parts: Vec<Checked>,
        spread: Spread,
        located: &[(PartIndex, usize)],
    ) -> Result<Stored, BlobError> {
        let deadline = self.clock.now() + REQUEST_TIMEOUT;
        self.health.lock().asked_for(id.scheme());
        let down = self.slots_that(SlotClient::takes_no_writes);
        let issuer = self.issuer(id.volume());
        let mut port = PutPort { slots: &self.slots, ask: Ask::IfUp, id, parts, issuer };
        let result = self.put_without(down, &port, spread, located, deadline).await;
        if down.is_empty() || !matches!(result, Err(BlobError::Unavailable { .. })) {
            return result;
        }
        port.ask = Ask::Anyway;
        self.put_without(SlotSet::EMPTY, &port, spread, located, self.last_resort(deadline)).await
    }

    async fn put_without(
        &self,
        down: SlotSet,
        port: &PutPort<'_>,
        spread: Spread,
        located: &[(PartIndex, usize)],
        deadline: Instant,
    ) -> Result<Stored, BlobError> {
        let id = port.id;
        let (place, scheme) = (self.group.place(id), id.scheme());
        let short = self.short_slots(id, down);
        let mut put = Put::new(&self.group, place, scheme, spread, down, short, located);
        drive(&mut put, port, &self.clock, deadline).await;
        self.metrics.hedges.increment(put.slow_slots().len() as u64);
        self.metrics.retries.increment(put.reasons().len() as u64);
        match put.outcome().expect("a driven machine has settled") {
            // What slots that know a newer map refused lies on those that do not, and these may not be in it.
            PutOutcome::Stored { degraded: true } if self.newer_generation().is_some() => {
                Err(self.unavailable(id, down, put.reasons()))
            }
            PutOutcome::Stored { degraded } => {
                self.metrics.degraded_puts.increment((*degraded).into());
                let unused = self.slots_that(|slot| slot.takes_no_writes() || slot.drains);
                if put.is_displaced(unused) {
                    self.notices.tell(id, Why::Misplaced);
                }
                Ok(Stored { degraded: *degraded })
            }
            PutOutcome::Unavailable => Err(self.unavailable(id, down, put.reasons())),
            PutOutcome::Full => Err(BlobError::Full),
            PutOutcome::Conflict => Err(BlobError::Conflict(id)),
            PutOutcome::Deleted => Err(BlobError::Invalid(format!("blob {id} was deleted"))),
            PutOutcome::Fenced(epoch) => {
                Err(BlobError::Fenced { volume: id.volume(), epoch: *epoch })
            }
        }
    }

    /// Gets, and once more where repair has moved parts meanwhile: one that went from a slot to another may have been
    /// missed on both. Of what is being put nothing is proven to be absent.
    async fn get_at_rest(
        &self,
        id: BlobId,
        range: Range<u32>,
    ) -> (Result<Bytes, BlobError>, Option<Why>) {
        let mended = self.claims.mended();
        let (mut result, mut noticed) = self.get_range(id, range.clone()).await;
        let is_short =
            matches!(result, Err(BlobError::NotFound(_) | BlobError::Unavailable { .. }));
        if is_short && self.claims.has_moved(id, mended) {
            let _ = tokio::time::timeout(SLOT_TIMEOUT, self.claims.until_mended(id)).await;
            (result, noticed) = self.get_range(id, range).await;
        }
        if matches!(result, Err(BlobError::NotFound(_))) && self.claims.is_put_or_mended(id) {
            let why = "it is being put, or mended".to_owned();
            result = Err(BlobError::Unavailable { id, why });
        }
        (result, noticed)
    }

    /// Gets, and once more with the slots that are down when it cannot be done without them.
    /// And what it has noticed on the way.
    pub(crate) async fn get_range(
        &self,
        id: BlobId,
        range: Range<u32>,
    ) -> (Result<Bytes, BlobError>, Option<Why>) {
        let deadline = self.clock.now() + REQUEST_TIMEOUT;
        self.health.lock().asked_for(id.scheme());
        let down = self.slots_that(SlotClient::is_down);
        let mut port = GetPort { slots: &self.slots, ask: Ask::IfUp, id };
        let result = self.get_without(down, &port, range.clone(), deadline).await;
        if down.is_empty() || !matches!(result.0, Err(BlobError::Unavailable { .. })) {
            return result;
        }
        port.ask = Ask::Anyway;
        self.get_without(SlotSet::EMPTY, &port, range, self.last_resort(deadline)).await
    }

    async fn get_without(
        &self,
        down: SlotSet,
        port: &GetPort<'_>,
        range: Range<u32>,
        deadline: Instant,
    ) -> (Result<Bytes, BlobError>, Option<Why>) {
        let (id, len) = (port.id, range.len());
        let place = self.group.place(id);
        let spread = Spread::AsPossible { spare: self.rules_of(id).least_spare.into() };
        let mut get = Get::new(&self.group, place, id, spread, range, down);
        drive(&mut get, port, &self.clock, deadline).await;
        let noticed = get.noticed();
        (self.outcome_of(get, id, len, down), noticed)
    }

    /// What a get has come to.
    fn outcome_of(
        &self,
        get: Get<'_>,
        id: BlobId,
        len: usize,
        down: SlotSet,
    ) -> Result<Bytes, BlobError> {
        self.metrics.hedges.increment(get.slow_slots().len() as u64);
        self.metrics.retries.increment(get.reasons().len() as u64);
        self.metrics.degraded_gets.increment(get.degraded().into());
        match get.outcome().expect("a driven machine has settled") {
            GetOutcome::Data => assemble(id.scheme(), get, len)
                .map_err(|e| BlobError::Unavailable { id, why: e.to_string() }),
            GetOutcome::NotFound => Err(BlobError::NotFound(id)),
            GetOutcome::Unavailable => Err(self.unavailable(id, down, get.reasons())),
        }
    }

    /// Gets all of a blob that was put apart, and sees to it that all its parts are stored.
    async fn restore_whole(&self, id: BlobId) -> Result<Bytes, BlobError> {
        let deadline = self.clock.now() + REQUEST_TIMEOUT;
        self.health.lock().asked_for(id.scheme());
        let down = self.slots_that(SlotClient::is_down);
        let mut port = GetPort { slots: &self.slots, ask: Ask::IfUp, id };
        let mut found = self.find_without(down, &port, deadline).await;
        if !down.is_empty() && matches!(found, Err(BlobError::Unavailable { .. })) {
            port.ask = Ask::Anyway;
            found = self.find_without(SlotSet::EMPTY, &port, self.last_resort(deadline)).await;
        }
        let Restorable { bytes, located, read } = found?;
        let sound = self.sound_parts(id, &located, &read).await;
        let put = |homes| self.put_parts(id, codec::encode(id, &bytes), self.apart(id), homes);
        let restored = match put(&sound).await {
            // Where nothing can be written, what is rotten was still seen: nobody takes the blob for absent.
            Err(BlobError::Unavailable { .. } | BlobError::Full) if sound.len() < located.len() => {
                put(&located).await
            }
            restored => restored,
        };
        restored.map(|_| bytes)
    }

    async fn find_without(
        &self,
        down: SlotSet,
        port: &GetPort<'_>,
        deadline: Instant,
    ) -> Result<Restorable, BlobError> {
        let id = port.id;
        let (place, spread) = (self.group.place(id), self.apart(id));
        let mut find = Find::new(&self.group, place, id, spread, down);
        drive(&mut find, port, &self.clock, deadline).await;
        let (located, read) = (find.located().to_vec(), find.read().to_vec());
        let bytes = self.outcome_of(find.into_get(), id, id.len() as usize, down)?;
        Ok(Restorable { bytes, located, read })
    }

    /// Deletes one batch, of one volume; true when every slot has confirmed.
    async fn delete_batch(&self, ids: &[BlobId], issuer: Option<Issuer>) -> bool {
        let confirmed = join_all(self.slots.iter().map(|slot| slot.delete(ids, issuer))).await;
        let freed = self.slots.iter().zip(&confirmed).filter(|(_, confirmed)| confirmed.is_ok());
        freed.for_each(|(slot, _)| slot.refresh_fill());
        if confirmed.iter().any(Result::is_err) {
            return false;
        }
        // A slot that fails to forget remembers for nothing: no harm.
        join_all(self.slots.iter().map(|slot| slot.forget(ids, issuer))).await;
        true
    }

    /// When a second round over slots that were down must end: one that hangs costs one wait.
    fn last_resort(&self, deadline: Instant) -> Instant {
        deadline.min(self.clock.now() + SLOT_TIMEOUT)
    }

    async fn put_whole(
        &self,
        id: BlobId,
        data: Bytes,
        spread: Spread,
    ) -> Result<Stored, BlobError> {
        self.check_group(id)?;
        if data.len() != id.len() as usize {
            let given = data.len();
            return Err(BlobError::Invalid(format!("{given} bytes given for blob {id}")));
        }
        let (_claim, _user) = (self.claims.put(id), self.traffic.begin());
        let start = Instant::now();
        let result = self.put_parts(id, codec::encode(id, &data), spread, &[]).await;
        self.metrics.put_seconds.record(start.elapsed());
        match &result {
            Ok(_) => self.metrics.put_bytes.increment(data.len() as u64),
            Err(_) => self.metrics.failed_puts.increment(1),
        }
        result
    }
}

/// A blob whose bytes were got, to be restored.
struct Restorable {
    bytes: Bytes,
    /// Where parts lie, as slots say.
    located: Vec<(PartIndex, usize)>,
    /// Of these, those that were read whole for the bytes.
    read: Vec<(PartIndex, usize)>,
}

/// The bytes of the range, from its pieces and what can be restored of them.
fn assemble(scheme: Scheme, get: Get<'_>, len: usize) -> Result<Bytes, codec::CodecError> {
    let (interval, restorable) = get.restorable();
    let here = |part: PartIndex| restorable.iter().find(|(p, _)| *p == part);
    let missing = get.pieces().iter().filter(|(_, bytes)| bytes.is_none());
    let missing = missing.map(|(piece, _)| piece.part).filter(|part| here(*part).is_none());
    let missing: Vec<_> = missing.collect();
    let restored =
        if missing.is_empty() { Vec::new() } else { codec::decode(scheme, restorable, &missing)? };

    let mut chunks = Vec::with_capacity(get.pieces().len());
    for (piece, bytes) in get.pieces() {
        let cut = |bytes: &Bytes| {
            let start = (piece.in_part.start - interval.start) as usize;
            bytes.slice(start..start + piece.in_part.len())
        };
        chunks.push(match (bytes, here(piece.part)) {
            (Some(bytes), _) => bytes.clone(),
            (None, Some((_, bytes))) => cut(bytes),
            (None, None) => {
                let index = missing.iter().position(|part| *part == piece.part);
                cut(&restored[index.expect("what is not here is restored")])
            }
        });
    }
    if let [only] = chunks.as_slice() {
        return Ok(only.clone());
    }
    let mut whole = BytesMut::with_capacity(len);
    chunks.iter().for_each(|chunk| whole.extend_from_slice(chunk));
    Ok(whole.freeze())
}

/// What a slot's answer says to an issuer: one that has promised itself to somebody who did not get the others is
/// promised to no successor.
pub(crate) fn of_own_promise(
    result: Result<(), PartError>,
    issuer: Option<Issuer>,
) -> Result<(), PartError> {
    match (result, issuer) {
        (Err(PartError::Fenced { epoch }), Some(own)) if epoch <= own.epoch => {
            Err(PartError::Invalid(format!("promised to another owner of epoch {epoch}")))
        }
        (result, _) => result,
    }
}

struct PutPort<'a> {
    slots: &'a [Arc<SlotClient>],
    ask: Ask,
    id: BlobId,
    parts: Vec<Checked>,
    issuer: Option<Issuer>,
}

impl<'a> Port<Put<'a>> for PutPort<'_> {
    async fn send(&self, PutCall { part, slot }: PutCall) -> Result<(), PartError> {
        let data = self.parts[part.get()].clone();
        let key = PartKey { blob: self.id, part };
        let result = self.slots[slot].put(self.ask, key, data, self.issuer).await;
        of_own_promise(result, self.issuer)
    }

    fn patience(&self, call: PutCall) -> Duration {
        self.slots[call.slot].write_patience(self.parts[call.part.get()].data().len())
    }
}

struct GetPort<'a> {
    slots: &'a [Arc<SlotClient>],
    ask: Ask,
    id: BlobId,
}

impl<M: Machine<Call = GetCall, Reply = GetReply>> Port<M> for GetPort<'_> {
    async fn send(&self, call: GetCall) -> Result<GetReply, PartError> {
        match call {
            GetCall::Read { part, slot, start, end, .. } => {
                let key = PartKey { blob: self.id, part };
                self.slots[slot].get(self.ask, key, start..end).await.map(GetReply::Bytes)
            }
            GetCall::Held { slot } => {
                self.slots[slot].held(self.ask, self.id).await.map(GetReply::Held)
            }
        }
    }

    fn patience(&self, call: GetCall) -> Duration {
        let len = match call {
            GetCall::Read { start, end, .. } => end - start,
            GetCall::Held { .. } => 0,
        };
        self.slots[call.slot()].read_patience(len as usize)
    }
}

#[async_trait]
impl BlobStore for Proxy {
    fn group(&self) -> GroupId {
        self.id
    }

    async fn put(&self, id: BlobId, data: Bytes) -> Result<Stored, BlobError> {
        self.put_whole(id, data, self.as_wanted(id)).await
    }

    async fn put_apart(&self, id: BlobId, data: Bytes) -> Result<Stored, BlobError> {
        self.put_whole(id, data, self.apart(id)).await
    }

    async fn get(&self, id: BlobId, range: Range<u32>) -> Result<Bytes, BlobError> {
        if range.start >= range.end || range.end > id.len() {
            return Err(BlobError::Invalid(format!("bytes {range:?} of blob {id}")));
        }
        self.check_group(id)?;
        let start = Instant::now();
        let _user = self.traffic.begin();
        let (result, noticed) = self.get_at_rest(id, range).await;
        if let (Ok(_) | Err(BlobError::Unavailable { .. }), Some(why)) = (&result, noticed) {
            self.notices.tell(id, why);
        }
        self.metrics.get_seconds.record(start.elapsed());
        match &result {
            Ok(bytes) => self.metrics.get_bytes.increment(bytes.len() as u64),
            Err(BlobError::NotFound(_)) => {}
            Err(_) => self.metrics.failed_gets.increment(1),
        }
        result
    }

    async fn restore_read(&self, id: BlobId) -> Result<Bytes, BlobError> {
        self.check_group(id)?;
        self.restore_whole(id).await
    }

    async fn fence(
        &self,
        volume: VolumeId,
        epoch: Epoch,
        owner: OwnerId,
        m: usize,
    ) -> Result<(), BlobError> {
        self.fence_volume(volume, Issuer { epoch, owner }, m).await
    }

    async fn promised(&self, volume: VolumeId, m: usize) -> Result<Option<Issuer>, BlobError> {
        self.highest_promise(volume, m).await
    }

    fn act_for(&self, volume: VolumeId, issuer: Issuer) {
        self.adopted.write().insert(volume, issuer);
    }

    async fn beat(&self, volume: VolumeId, beat: Beat) -> Result<(), BlobError> {
        self.beat_all(volume, beat).await
    }

    async fn last_beats(&self, volume: VolumeId, m: usize) -> Result<Vec<LastBeat>, BlobError> {
        self.ask_last_beats(volume, m).await
    }

    async fn delete(&self, ids: &[BlobId]) -> Vec<BlobId> {
        let (ids, mut unconfirmed): (Vec<BlobId>, Vec<BlobId>) =
            ids.iter().partition(|id| self.check_group(**id).is_ok());
        let mut by_volume: BTreeMap<VolumeId, Vec<BlobId>> = BTreeMap::new();
        ids.into_iter().for_each(|id| by_volume.entry(id.volume()).or_default().push(id));
        for (volume, ids) in by_volume {
            for batch in ids.chunks(MAX_BLOBS_PER_REQUEST) {
                // A part that repair puts now must not land behind a delete that is forgotten.
                let (claim, mending) = self.claims.delete(batch.to_vec());
                unconfirmed.extend(mending);
                let batch = claim.blobs();
                if !batch.is_empty() && !self.delete_batch(batch, self.issuer(volume)).await {
                    unconfirmed.extend_from_slice(batch);
                }
            }
        }
        unconfirmed
    }

    async fn list(
        &self,
        volume: VolumeId,
        session: SessionId,
        after: Option<BlobId>,
    ) -> Result<Listing, BlobError> {
        self.list_scope(Scope::Session(volume, session), after, Sought::All).await
    }

    async fn list_volume(
        &self,
        volume: VolumeId,
        after: Option<BlobId>,
        m: Option<usize>,
    ) -> Result<Listing, BlobError> {
        self.list_scope(Scope::Volume(volume), after, Sought::Apart(volume, m)).await
    }

    async fn volumes(&self) -> Volumes {
        self.list_volumes().await
    }

    fn abide_by(&self, volume: VolumeId, rules: VolumeRules) {
        self.rules.write().insert(volume, rules);
    }

    async fn space(&self, volume: VolumeId, scheme: Scheme) -> Space {
        let fills = join_all(self.slots.iter().map(|slot| slot.fill())).await;
        let rules = self.rules(volume, scheme.parity_parts());
        let of = |slots| space::space(&self.group, scheme, rules, slots, &fills);
        let away = self.slots_that(SlotClient::takes_no_writes);
        // What is on a disk that is to be emptied needs room on the others, and gets none there.
        let staying = self.group.all().minus(self.slots_that(|slot| slot.drains));
        let (all, in_use) = (of(staying), of(staying.minus(away)));
        Space { capacity: all.capacity, uneven: all.uneven, blob: all.blob, away: away.0, ..in_use }
    }

    async fn in_reach(&self, id: BlobId) -> usize {
        let slots = self.slots.iter().filter(|slot| !slot.takes_no_writes());
        let held = join_all(slots.map(|slot| slot.held(Ask::IfUp, id))).await;
        let parts = held.into_iter().flatten().map(|held| held.parts);
        parts.fold(PartSet::EMPTY, PartSet::union).len()
    }

    async fn slots(&self) -> Vec<SlotStatus> {
        let fills = join_all(self.slots.iter().map(|slot| slot.fill())).await;
        let status = |(index, (slot, fill)): (usize, (&Arc<SlotClient>, _))| {
            let fill: Option<proto::part_store::Fill> = fill;
            SlotStatus {
                index,
                disk: slot.disk.to_string(),
                place: slot.place.clone(),
                domain: slot.domain.clone(),
                rack: slot.rack.clone(),
                state: slot.state(),
                fill: fill.map_or("unknown", |fill| fill.level.as_str()).to_owned(),
                capacity: fill.map_or(0, |fill| fill.capacity),
                used: fill.map_or(0, |fill| fill.used),
                available: fill.map_or(0, |fill| fill.available),
            }
        };
        self.slots.iter().zip(fills).enumerate().map(status).collect()
    }
}
