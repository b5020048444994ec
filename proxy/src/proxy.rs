//! The proxy: a group of slots as one store of blobs.
//!
//! It holds nothing that cannot be lost: what is known about slots is learnt again after a restart.
//! The deciding is in [`crate::put`] and [`crate::get`]; here are their calls, and what needs no
//! machine because it asks every slot the same.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::future::join_all;
use parking_lot::Mutex;
use proto::checksum::Checked;
use proto::client::{BadAddress, Daemon};
use proto::cluster::{Cluster, Place};
use proto::convert::Address;
use proto::guard::keep_going;
use proto::id::{BlobId, DiskId, GroupId, PartIndex, PartKey, PartSet, SessionId, VolumeId};
use proto::limits::{MAX_BLOBS_PER_REQUEST, MAX_LIST, footprint};
use proto::part_store::{Held, PartError, PartStore, Scope};
use proto::scheme::Scheme;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::blob_store::{BlobError, BlobStore, Listing, SlotStatus, Space, Stored};
use crate::codec;
use crate::driver::{Port, REQUEST_TIMEOUT, SLOT_TIMEOUT, drive};
use crate::get::{Get, GetCall, GetOutcome, GetReply};
use crate::health::Health;
use crate::metrics::Metrics;
use crate::placement::Group;
use crate::put::{Put, PutCall, PutOutcome};
use crate::quorum::{SlotSet, could_hide};
use crate::slot_client::{Ask, SlotClient};
use crate::space;

/// How often a roll that nobody answers is called again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// A slot that has room for fewer parts like those of a blob is passed over by it, if others have more.
const SHORT: u64 = 16;

/// One slot of the group.
pub struct SlotConfig {
    /// The disk it is on.
    pub disk: DiskId,
    /// Address or path, for people.
    pub place: String,
    /// What fails together.
    pub domain: String,
    /// How it is reached.
    pub store: Arc<dyn PartStore>,
}

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
    slots: Vec<Arc<SlotClient>>,
    group: Group,
    health: Arc<Mutex<Health>>,
    metrics: Metrics,
    /// One per slot; they end with the proxy.
    _watchers: JoinSet<()>,
}

impl Proxy {
    /// Serves the group `id` of these slots. Must be called within a tokio runtime.
    ///
    /// # Panics
    /// With no slots, or more than [`proto::limits::MAX_SLOTS`].
    pub fn new(id: GroupId, slots: Vec<SlotConfig>, settings: ProxySettings) -> Arc<Self> {
        let group = Group::new(slots.iter().map(|slot| (slot.disk, slot.domain.as_str())));
        let domains = (0..slots.len()).map(|slot| group.domain(slot)).collect();
        let health = Arc::new(Mutex::new(Health::new(domains)));
        let in_flight = settings.slot_bytes_in_flight;
        let client = |(index, slot): (usize, SlotConfig)| {
            let SlotConfig { disk, place, domain, store } = slot;
            let health = (health.clone(), index);
            Arc::new(SlotClient::new(disk, place, domain, store, health, in_flight))
        };
        let slots: Vec<_> = slots.into_iter().enumerate().map(client).collect();
        let mut watchers = JoinSet::new();
        for slot in &slots {
            let slot = slot.clone();
            watchers.spawn(async move {
                keep_going("watching a slot", || slot.clone().watch()).await;
            });
        }
        Arc::new(Self { id, slots, group, health, metrics: Metrics::new(), _watchers: watchers })
    }

    /// Serves a cluster whose slots are behind daemons. Connections are made on first use. Must be
    /// called within a tokio runtime.
    pub fn from_cluster(cluster: &Cluster, settings: ProxySettings) -> Result<Arc<Self>, BadSlots> {
        let mut slots = Vec::with_capacity(cluster.slots.len());
        for (index, slot) in cluster.slots.iter().enumerate() {
            let Place::Remote(address) = slot.place() else { return Err(BadSlots::Local(index)) };
            let to = Address {
                cluster: cluster.cluster,
                disk: slot.disk,
                slot: slot.slot,
                group: cluster.group(),
                generation: cluster.generation,
            };
            // A connection for each slot, also behind one daemon: large parts do not queue up
            // behind each other.
            let store = Arc::new(Daemon::new(address)?.slot(to));
            let place = address.to_owned();
            slots.push(SlotConfig { disk: slot.disk, place, domain: slot.domain(), store });
        }
        Ok(Self::new(cluster.group(), slots, settings))
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

    /// Lets every slot that is up know its group at this generation, so that it refuses older ones from
    /// now on. Answers for each of them whether it had ever served the group before.
    pub async fn enlist(&self) -> Vec<Option<bool>> {
        join_all(self.slots.iter().map(|slot| async move {
            let before = slot.has_served().await.ok()?;
            // Whatever it holds: what counts is that it was addressed.
            slot.list(Ask::IfUp, Scope::All, None, 1).await.ok()?;
            Some(before)
        }))
        .await
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

    fn slots_that(&self, are: impl Fn(&SlotClient) -> bool) -> SlotSet {
        SlotSet::that_are(self.slots.len(), |slot| are(&self.slots[slot]))
    }

    /// The slots that have room for few parts of the blob, from the fullest on, as long as there are other
    /// domains enough for all.
    fn short_slots(&self, id: BlobId, down: SlotSet) -> SlotSet {
        let enough = SHORT * footprint(id.part_len());
        let room = |slot: usize| self.slots[slot].known_room();
        let mut few: Vec<_> = (0..self.slots.len())
            .filter(|slot| !down.contains(*slot))
            .map(|slot| (room(slot), slot))
            .filter(|(room, _)| *room < enough)
            .collect();
        few.sort_unstable();
        let mut short = SlotSet::EMPTY;
        for (_, slot) in few {
            let without = short.union(SlotSet::only(slot));
            let others = SlotSet::first(self.slots.len()).minus(down.union(without));
            if self.group.domains_of(others) < id.scheme().parts() {
                break;
            }
            short = without;
        }
        short
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
    fn explain(&self, down: SlotSet, reasons: &[(usize, PartError)]) -> String {
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

    /// Puts, and once more over the slots that are down when it cannot be done without them.
    async fn put_parts(&self, id: BlobId, parts: Vec<Checked>) -> Result<Stored, BlobError> {
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        self.health.lock().can_lose(id.scheme().parity_parts());
        let down = self.slots_that(SlotClient::takes_no_writes);
        let mut port = PutPort { slots: &self.slots, ask: Ask::IfUp, id, parts };
        let result = self.put_without(down, &port, deadline).await;
        if down.is_empty() || !matches!(result, Err(BlobError::Unavailable { .. })) {
            return result;
        }
        port.ask = Ask::Anyway;
        self.put_without(SlotSet::EMPTY, &port, last_resort(deadline)).await
    }

    async fn put_without(
        &self,
        down: SlotSet,
        port: &PutPort<'_>,
        deadline: Instant,
    ) -> Result<Stored, BlobError> {
        let id = port.id;
        let short = self.short_slots(id, down);
        let mut put = Put::new(&self.group, self.group.place(id), id.scheme(), down, short);
        drive(&mut put, port, deadline).await;
        self.metrics.hedges.increment(put.slow_slots().len() as u64);
        self.metrics.retries.increment(put.reasons().len() as u64);
        match put.outcome().expect("a driven machine has settled") {
            PutOutcome::Stored { degraded } => {
                self.metrics.degraded_puts.increment((*degraded).into());
                Ok(Stored { degraded: *degraded })
            }
            PutOutcome::Unavailable => Err(self.unavailable(id, down, put.reasons())),
            PutOutcome::Full => Err(BlobError::Full),
            PutOutcome::Conflict => Err(BlobError::Conflict(id)),
            PutOutcome::Deleted => Err(BlobError::Invalid(format!("blob {id} was deleted"))),
        }
    }

    /// Gets, and once more with the slots that are down when it cannot be done without them.
    async fn get_range(&self, id: BlobId, range: Range<u32>) -> Result<Bytes, BlobError> {
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        self.health.lock().can_lose(id.scheme().parity_parts());
        let down = self.slots_that(SlotClient::is_down);
        let mut port = GetPort { slots: &self.slots, ask: Ask::IfUp, id };
        let result = self.get_without(down, &port, range.clone(), deadline).await;
        if down.is_empty() || !matches!(result, Err(BlobError::Unavailable { .. })) {
            return result;
        }
        port.ask = Ask::Anyway;
        self.get_without(SlotSet::EMPTY, &port, range, last_resort(deadline)).await
    }

    async fn get_without(
        &self,
        down: SlotSet,
        port: &GetPort<'_>,
        range: Range<u32>,
        deadline: Instant,
    ) -> Result<Bytes, BlobError> {
        let (id, len) = (port.id, range.len());
        let mut get = Get::new(&self.group, self.group.place(id), id, range, down);
        drive(&mut get, port, deadline).await;
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

    /// Deletes one batch; true when every slot has confirmed.
    async fn delete_batch(&self, ids: &[BlobId]) -> bool {
        let confirmed = join_all(self.slots.iter().map(|slot| slot.delete(ids))).await;
        let freed = self.slots.iter().zip(&confirmed).filter(|(_, confirmed)| confirmed.is_ok());
        freed.for_each(|(slot, _)| slot.refresh_fill());
        if confirmed.iter().any(Result::is_err) {
            return false;
        }
        // A slot that fails to forget remembers for nothing: no harm.
        join_all(self.slots.iter().map(|slot| slot.forget(ids))).await;
        true
    }

    /// Could the silent slots hide a blob? It may be of any scheme seen, or of the copies that go
    /// with it; of none seen, two copies at least.
    fn may_miss(&self, found: &BTreeSet<BlobId>, silent: SlotSet) -> bool {
        let silent = self.group.domains_of(silent);
        let mut schemes: BTreeSet<Scheme> = found.iter().map(BlobId::scheme).collect();
        schemes.insert(Scheme::copies(2).expect("two copies are possible"));
        schemes.iter().any(|s| could_hide(*s, silent) || could_hide(s.as_copies(), silent))
    }
}

/// When a second round over slots that were down must end: one that hangs costs one wait.
fn last_resort(deadline: Instant) -> Instant {
    deadline.min(Instant::now() + SLOT_TIMEOUT)
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

struct PutPort<'a> {
    slots: &'a [Arc<SlotClient>],
    ask: Ask,
    id: BlobId,
    parts: Vec<Checked>,
}

impl<'a> Port<Put<'a>> for PutPort<'_> {
    async fn send(&self, PutCall { part, slot }: PutCall) -> Result<(), PartError> {
        let data = self.parts[part.get()].clone();
        self.slots[slot].put(self.ask, PartKey { blob: self.id, part }, data).await
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

impl<'a> Port<Get<'a>> for GetPort<'_> {
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
        self.check_group(id)?;
        if data.len() != id.len() as usize {
            let given = data.len();
            return Err(BlobError::Invalid(format!("{given} bytes given for blob {id}")));
        }
        let start = Instant::now();
        let result = self.put_parts(id, codec::encode(id, &data)).await;
        self.metrics.put_seconds.record(start.elapsed());
        match &result {
            Ok(_) => self.metrics.put_bytes.increment(data.len() as u64),
            Err(_) => self.metrics.failed_puts.increment(1),
        }
        result
    }

    async fn get(&self, id: BlobId, range: Range<u32>) -> Result<Bytes, BlobError> {
        if range.start >= range.end || range.end > id.len() {
            return Err(BlobError::Invalid(format!("bytes {range:?} of blob {id}")));
        }
        self.check_group(id)?;
        let start = Instant::now();
        let result = self.get_range(id, range).await;
        self.metrics.get_seconds.record(start.elapsed());
        match &result {
            Ok(bytes) => self.metrics.get_bytes.increment(bytes.len() as u64),
            Err(BlobError::NotFound(_)) => {}
            Err(_) => self.metrics.failed_gets.increment(1),
        }
        result
    }

    async fn delete(&self, ids: &[BlobId]) -> Vec<BlobId> {
        let (ids, mut unconfirmed): (Vec<_>, Vec<_>) =
            ids.iter().partition(|id| self.check_group(**id).is_ok());
        for batch in ids.chunks(MAX_BLOBS_PER_REQUEST) {
            if !self.delete_batch(batch).await {
                unconfirmed.extend_from_slice(batch);
            }
        }
        unconfirmed
    }

    /// Each slot's pages are in order, so what lies up to the last blob of every page that is not its
    /// slot's last is whole: a page of a listing holds no more than a page of each slot does.
    async fn list(
        &self,
        volume: VolumeId,
        session: SessionId,
        after: Option<BlobId>,
    ) -> Result<Listing, BlobError> {
        let mut found = BTreeSet::new();
        let mut reach: Option<BlobId> = None;
        let mut silent = SlotSet::first(self.slots.len());
        for ask in [Ask::IfUp, Ask::Anyway] {
            let down = self.slots_that(SlotClient::is_down);
            let scope = Scope::Session(volume, session);
            let listing = |slot: usize| async move {
                (slot, self.slots[slot].list(ask, scope, after, MAX_LIST).await)
            };
            let mut reasons = Vec::new();
            for (slot, listing) in join_all(silent.iter().map(listing)).await {
                match listing {
                    Ok(page) => {
                        let blobs = page.entries.into_iter().map(|(blob, _)| blob);
                        let mut last = None;
                        found.extend(blobs.inspect(|blob| last = Some(*blob)));
                        reach = reach.into_iter().chain(last.filter(|_| !page.complete)).min();
                        silent = silent.minus(SlotSet::only(slot));
                    }
                    Err(why) => reasons.push((slot, why)),
                }
            }
            if !self.may_miss(&found, silent) {
                break;
            }
            // What was asked in vain need not be asked again.
            if ask == Ask::Anyway || down.is_empty() {
                let least = Scheme::copies(2).expect("two copies are possible");
                let id = BlobId::new(volume, session, 0, self.id, 1, least).expect("a valid id");
                let why =
                    format!("listing its session: {}", self.explain(SlotSet::EMPTY, &reasons));
                return Err(BlobError::Unavailable { id, why });
            }
        }
        let within = |id: &BlobId| reach.is_none_or(|reach| *id <= reach);
        let blobs = found.into_iter().take_while(within).collect();
        Ok(Listing { blobs, whole: silent.is_empty() })
    }

    async fn space(&self, scheme: Scheme) -> Space {
        let fills = join_all(self.slots.iter().map(|slot| slot.fill())).await;
        let per_domain = |usable: &dyn Fn(usize) -> bool| -> Vec<_> {
            let slots = |domain| {
                let slots = 0..self.slots.len();
                slots.filter(move |slot| self.group.domain(*slot) == domain)
            };
            let domains = 0..self.group.domains();
            let fill = |domain| {
                space::sum(slots(domain).filter(|slot| usable(*slot)).filter_map(|s| fills[s]))
            };
            domains.filter_map(fill).collect()
        };
        let all = space::space(scheme, &per_domain(&|_| true));
        let away = self.slots_that(SlotClient::takes_no_writes);
        let in_use = space::space(scheme, &per_domain(&|slot| !away.contains(slot)));
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
                state: slot.state(),
                fill: fill.map_or("unknown", |fill| fill.level.as_str()).to_owned(),
                capacity: fill.map_or(0, |fill| fill.capacity),
                used: fill.map_or(0, |fill| fill.used),
            }
        };
        self.slots.iter().zip(fills).enumerate().map(status).collect()
    }
}
