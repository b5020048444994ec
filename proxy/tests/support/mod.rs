//! Slots in memory that fail on demand.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use proto::checksum::Checked;
use proto::id::{
    BlobId, DiskId, Epoch, Generation, GroupId, OwnerId, PartKey, PartSet, SessionId, VolumeId,
};
use proto::limits::footprint;
use proto::part_store::{
    Beat, Condition, Fill, FillLevel, Held, Issuer, LastBeat, Page, PartError, PartStore, Scope,
    ScrubState, Standing,
};
use proxy::{Proxy, ProxySettings, SlotConfig};
use tokio::sync::Notify;

/// What a slot that reads everything says is left, in bytes.
pub(crate) const SCRUB_LEFT: u64 = 1000;

/// What a slot does to requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    Good,
    /// Refuses connections.
    Dead,
    /// Accepts and never answers, the watcher neither.
    Hung,
    /// Answers the watcher, and nothing else.
    HungDisk,
    /// Answers after this long.
    Slow(Duration),
    /// Parts are rotten.
    Rotten,
    /// No room.
    Full,
    /// Claims to hold nothing: a disk replaced by an empty one.
    Empty,
    /// Takes no part, and all else.
    RefusesPuts,
    /// Drops what it is to drop, and its answer to that is lost.
    DropsUnheard,
    /// Does not take it that it is to serve, and all else.
    RefusesToServe,
    /// Promises nobody anything, and does all else.
    RefusesToPromise,
    /// Takes no changes.
    ReadOnly,
    /// Knows a newer generation of its group.
    Newer(Generation),
}

#[derive(Default)]
struct State {
    parts: BTreeMap<(BlobId, usize), Bytes>,
    rotten: BTreeSet<(BlobId, usize)>,
    /// Some of them, of which it knows.
    known_rotten: BTreeSet<(BlobId, usize)>,
    deleted: BTreeSet<BlobId>,
    promises: BTreeMap<VolumeId, Issuer>,
    beats: BTreeMap<VolumeId, (Issuer, Beat, tokio::time::Instant)>,
    used: u64,
    limited: bool,
    /// Nothing was ever asked of it since it was made, or wiped.
    fresh: bool,
    rebuilding: bool,
    rebuilt: BTreeSet<VolumeId>,
    /// Until when it reads everything, as somebody has asked it to.
    scrubs_until: Option<tokio::time::Instant>,
    /// Blobs whose parts are taken later.
    kept_waiting: BTreeSet<BlobId>,
    /// Blobs of which it says later what it holds.
    kept_quiet: BTreeSet<BlobId>,
}

impl State {
    fn check(&self, blob: BlobId, issuer: Option<Issuer>) -> Result<(), PartError> {
        Issuer::check(issuer, self.promises.get(&blob.volume()).copied())
    }

    fn is_rebuilding(&self, volume: VolumeId) -> bool {
        self.rebuilding && !self.rebuilt.contains(&volume)
    }
}

const CAPACITY: u64 = 64 << 20;

pub(crate) struct MemorySlot {
    mood: Mutex<Mood>,
    state: Mutex<State>,
    /// Some blob is kept waiting no more.
    goes_on: Notify,
    pub(crate) requests: AtomicU32,
    /// Requests for bytes of parts.
    pub(crate) reads: AtomicU32,
}

impl MemorySlot {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            mood: Mutex::new(Mood::Good),
            state: Mutex::default(),
            goes_on: Notify::new(),
            requests: AtomicU32::new(0),
            reads: AtomicU32::new(0),
        })
    }

    pub(crate) fn set(&self, mood: Mood) {
        *self.mood.lock() = mood;
    }

    pub(crate) fn parts_of(&self, blob: BlobId) -> PartSet {
        let state = self.state.lock();
        let parts = state.parts.keys().filter(|(b, _)| *b == blob);
        parts.map(|(b, part)| PartKey::new(*b, *part).unwrap().part).collect()
    }

    /// Does it remember nothing of the blob's deletion?
    pub(crate) fn forgot(&self, blob: BlobId) -> bool {
        !self.state.lock().deleted.contains(&blob)
    }

    /// Takes a part away from it, as if it had never come.
    pub(crate) fn lose(&self, blob: BlobId) {
        self.state.lock().parts.retain(|(b, _), _| *b != blob);
    }

    /// It is emptied, and does not know that it had ever held anything.
    pub(crate) fn wipe(&self) {
        *self.state.lock() = State { fresh: true, rebuilding: true, ..State::default() };
    }

    /// The parts of a blob here read badly from now on, until they are put again.
    pub(crate) fn rot(&self, blob: BlobId) {
        let parts = self.parts_of(blob);
        self.state.lock().rotten.extend(parts.iter().map(|part| (blob, part.get())));
    }

    /// Each part of a blob goes to where the next one lay, as if the map had been another.
    pub(crate) fn turn(slots: &[Arc<Self>], blob: BlobId) {
        let at = |part: usize| {
            let holds = |slot: &&Arc<Self>| slot.state.lock().parts.contains_key(&(blob, part));
            slots.iter().find(holds).cloned().unwrap()
        };
        let parts = blob.scheme().parts();
        let homes: Vec<Arc<Self>> = (0..parts).map(at).collect();
        let take = |part: usize| homes[part].state.lock().parts.remove(&(blob, part)).unwrap();
        let bytes: Vec<Bytes> = (0..parts).map(take).collect();
        for (part, bytes) in bytes.into_iter().enumerate() {
            homes[(part + 1) % parts].state.lock().parts.insert((blob, part), bytes);
        }
    }

    /// It has the parts of a blob that another has.
    pub(crate) fn copy_of(&self, other: &Self, blob: BlobId) {
        let parts = other.state.lock().parts.clone();
        self.state.lock().parts.extend(parts.into_iter().filter(|((of, _), _)| *of == blob));
    }

    pub(crate) fn is_rotten(&self, blob: BlobId) -> bool {
        self.state.lock().rotten.iter().any(|(rotten, _)| *rotten == blob)
    }

    /// From now on it is full once its capacity is used up.
    pub(crate) fn limit(&self) {
        self.state.lock().limited = true;
    }

    /// Has no room any more, or so much.
    pub(crate) fn leave_room(&self, bytes: u64) {
        let mut state = self.state.lock();
        (state.used, state.limited) = (CAPACITY - bytes, true);
    }

    /// Does it say that it has all it should of the volume?
    pub(crate) fn has_all_of(&self, volume: VolumeId) -> bool {
        !self.state.lock().is_rebuilding(volume)
    }

    /// Puts of a blob's parts wait here from now on, or go on.
    pub(crate) fn keep_waiting(&self, blob: BlobId, wait: bool) {
        let waiting = &mut self.state.lock().kept_waiting;
        let _ = if wait { waiting.insert(blob) } else { waiting.remove(&blob) };
        self.goes_on.notify_waiters();
    }

    /// It does not say from now on what it holds of a blob, or does again.
    pub(crate) fn keep_quiet(&self, blob: BlobId, quiet: bool) {
        let kept = &mut self.state.lock().kept_quiet;
        let _ = if quiet { kept.insert(blob) } else { kept.remove(&blob) };
        self.goes_on.notify_waiters();
    }

    async fn until_it_goes_on(&self, waits: impl Fn(&State) -> bool) {
        loop {
            let goes_on = self.goes_on.notified();
            if !waits(&self.state.lock()) {
                return;
            }
            goes_on.await;
        }
    }

    async fn enter(&self) -> Result<Mood, PartError> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.state.lock().fresh = false;
        let mood = *self.mood.lock();
        match mood {
            Mood::Dead => return Err(PartError::Unreachable("connection refused".to_owned())),
            Mood::Hung | Mood::HungDisk => std::future::pending::<()>().await,
            Mood::Newer(generation) => return Err(PartError::StaleGeneration(generation)),
            Mood::Slow(time) => tokio::time::sleep(time).await,
            _ => {}
        }
        Ok(mood)
    }

    async fn enter_to_change(&self) -> Result<Mood, PartError> {
        match self.enter().await? {
            Mood::ReadOnly => Err(PartError::Io("read-only: as a test wants it".to_owned())),
            mood => Ok(mood),
        }
    }
}

#[async_trait]
impl PartStore for MemorySlot {
    async fn put(
        &self,
        key: PartKey,
        data: Checked,
        issuer: Option<Issuer>,
    ) -> Result<(), PartError> {
        match self.enter_to_change().await? {
            Mood::Full => return Err(PartError::Full),
            Mood::RefusesPuts => return Err(PartError::Io("as a test wants it".to_owned())),
            _ => {}
        }
        data.verify().expect("the proxy sends good checksums");
        assert_eq!(data.data().len(), key.blob.part_len() as usize);
        self.until_it_goes_on(|state| state.kept_waiting.contains(&key.blob)).await;
        let mut state = self.state.lock();
        state.check(key.blob, issuer)?;
        if state.deleted.contains(&key.blob) {
            return Err(PartError::Deleted);
        }
        let len = footprint(key.blob.part_len());
        if state.limited && state.used + len > CAPACITY {
            return Err(PartError::Full);
        }
        state.used += len;
        state.rotten.remove(&(key.blob, key.part.get()));
        state.known_rotten.remove(&(key.blob, key.part.get()));
        let held = state.parts.entry((key.blob, key.part.get())).or_insert(data.data().clone());
        if held == data.data() { Ok(()) } else { Err(PartError::Conflict) }
    }

    async fn get(&self, key: PartKey, range: Range<u32>) -> Result<Bytes, PartError> {
        let mood = self.enter().await?;
        self.reads.fetch_add(1, Ordering::Relaxed);
        assert!(range.start < range.end && range.end <= key.blob.part_len(), "{range:?}");
        let state = self.state.lock();
        if state.deleted.contains(&key.blob) {
            return Err(PartError::Deleted);
        }
        let part = state.parts.get(&(key.blob, key.part.get()));
        let rebuilding = state.is_rebuilding(key.blob.volume());
        let absent = if rebuilding { PartError::NotRebuilt } else { PartError::NotFound };
        let part = part.filter(|_| mood != Mood::Empty).ok_or(absent)?;
        if mood == Mood::Rotten || state.rotten.contains(&(key.blob, key.part.get())) {
            return Err(PartError::Corrupt("checksum mismatch".to_owned()));
        }
        Ok(part.slice(range.start as usize..range.end as usize))
    }

    async fn held(&self, blob: BlobId) -> Result<Held, PartError> {
        let mood = self.enter().await?;
        self.until_it_goes_on(|state| state.kept_quiet.contains(&blob)).await;
        let (deleted, rebuilding) = {
            let state = self.state.lock();
            (state.deleted.contains(&blob), state.is_rebuilding(blob.volume()))
        };
        let parts = if mood == Mood::Empty { PartSet::EMPTY } else { self.parts_of(blob) };
        Ok(Held { parts, deleted, rebuilding })
    }

    async fn drop_part(&self, key: PartKey, issuer: Option<Issuer>) -> Result<(), PartError> {
        let mood = self.enter_to_change().await?;
        let mut state = self.state.lock();
        state.check(key.blob, issuer)?;
        state.rotten.remove(&(key.blob, key.part.get()));
        state.known_rotten.remove(&(key.blob, key.part.get()));
        if state.parts.remove(&(key.blob, key.part.get())).is_some() {
            state.used = state.used.saturating_sub(footprint(key.blob.part_len()));
        }
        match mood {
            Mood::DropsUnheard => Err(PartError::Unreachable("connection reset".to_owned())),
            _ => Ok(()),
        }
    }

    async fn rebuilt(&self, volume: VolumeId, issuer: Option<Issuer>) -> Result<(), PartError> {
        self.enter().await?;
        let mut state = self.state.lock();
        Issuer::check(issuer, state.promises.get(&volume).copied())?;
        state.rebuilt.insert(volume);
        Ok(())
    }

    async fn serve(&self) -> Result<(), PartError> {
        if self.enter().await? == Mood::RefusesToServe {
            return Err(PartError::Io("as a test wants it".to_owned()));
        }
        self.state.lock().rebuilding = false;
        Ok(())
    }

    async fn delete(&self, blobs: &[BlobId], issuer: Option<Issuer>) -> Result<(), PartError> {
        self.enter_to_change().await?;
        let mut state = self.state.lock();
        blobs.iter().try_for_each(|blob| state.check(*blob, issuer))?;
        let mut freed = 0;
        state.parts.retain(|(blob, _), _| {
            let keep = !blobs.contains(blob);
            freed += if keep { 0 } else { footprint(blob.part_len()) };
            keep
        });
        state.used = state.used.saturating_sub(freed);
        state.deleted.extend(blobs);
        Ok(())
    }

    async fn forget(&self, blobs: &[BlobId], issuer: Option<Issuer>) -> Result<(), PartError> {
        self.enter().await?;
        let mut state = self.state.lock();
        blobs.iter().try_for_each(|blob| state.check(*blob, issuer))?;
        state.deleted.retain(|blob| !blobs.contains(blob));
        Ok(())
    }

    async fn fence(&self, volume: VolumeId, epoch: Epoch, owner: OwnerId) -> Result<(), PartError> {
        if self.enter().await? == Mood::RefusesToPromise {
            return Err(PartError::Invalid("as a test wants it".to_owned()));
        }
        let issuer = Issuer { epoch, owner };
        let mut state = self.state.lock();
        Issuer::check(Some(issuer), state.promises.get(&volume).copied())?;
        state.promises.insert(volume, issuer);
        Ok(())
    }

    async fn promised(&self, volume: VolumeId) -> Result<Option<Issuer>, PartError> {
        self.enter().await?;
        let state = self.state.lock();
        match state.promises.get(&volume).copied() {
            None if state.is_rebuilding(volume) => Err(PartError::NotRebuilt),
            promise => Ok(promise),
        }
    }

    async fn beat(&self, volume: VolumeId, issuer: Issuer, beat: Beat) -> Result<(), PartError> {
        self.enter().await?;
        let mut state = self.state.lock();
        Issuer::check(Some(issuer), state.promises.get(&volume).copied())?;
        state.beats.insert(volume, (issuer, beat, tokio::time::Instant::now()));
        Ok(())
    }

    async fn last_beat(&self, volume: VolumeId) -> Result<Option<LastBeat>, PartError> {
        self.enter().await?;
        let beats = &self.state.lock().beats;
        let last = beats.get(&volume).cloned();
        Ok(last.map(|(issuer, beat, at)| LastBeat { issuer, beat, ago: at.elapsed() }))
    }

    async fn list(
        &self,
        scope: Scope,
        after: Option<BlobId>,
        limit: u32,
    ) -> Result<Page, PartError> {
        self.enter().await?;
        let blobs: BTreeSet<BlobId> = self.state.lock().parts.keys().map(|(b, _)| *b).collect();
        let mine = blobs.into_iter().filter(|b| match scope {
            Scope::All => true,
            Scope::Volume(volume) => b.volume() == volume,
            Scope::Session(volume, session) => b.volume() == volume && b.session() == session,
        });
        let mut rest = mine.filter(|b| after.is_none_or(|after| *b > after)).peekable();
        let first = rest.by_ref().take(limit as usize);
        let entries = first.map(|b| (b, self.parts_of(b))).collect();
        let complete = rest.peek().is_none();
        let state = self.state.lock();
        let rebuilding = match scope {
            Scope::All => state.rebuilding,
            Scope::Volume(volume) | Scope::Session(volume, _) => state.is_rebuilding(volume),
        };
        Ok(Page { entries, complete, rebuilding })
    }

    async fn standing(&self) -> Result<Option<Standing>, PartError> {
        if *self.mood.lock() == Mood::Dead {
            return Err(PartError::Unreachable("connection refused".to_owned()));
        }
        let state = self.state.lock();
        let pristine = state.promises.is_empty() && state.parts.is_empty();
        let (generation, rebuilding) = (Generation(1), state.rebuilding);
        Ok((!state.fresh).then_some(Standing { generation, rebuilding, pristine }))
    }

    async fn condition(&self, volume: VolumeId) -> Result<Condition, PartError> {
        self.enter().await?;
        let state = self.state.lock();
        let mut damaged: Vec<BlobId> = state.known_rotten.iter().map(|(blob, _)| *blob).collect();
        damaged.dedup();
        let (rebuilding, parts) = (state.is_rebuilding(volume), state.parts.len() as u64);
        let asked = state.scrubs_until.is_some_and(|end| tokio::time::Instant::now() < end);
        let (percent, left) = if asked { (50, SCRUB_LEFT) } else { (100, 0) };
        let scrub = Some(ScrubState { ended: 1, percent, asked, left });
        Ok(Condition { rebuilding, damaged, parts, scrub })
    }

    async fn scrub(&self) -> Result<(), PartError> {
        self.enter().await?;
        let mut state = self.state.lock();
        state.known_rotten = state.rotten.clone();
        state.scrubs_until = Some(tokio::time::Instant::now() + Duration::from_secs(2));
        Ok(())
    }

    async fn fill(&self) -> Result<Fill, PartError> {
        let mood = *self.mood.lock();
        match mood {
            Mood::HungDisk => {}
            _ => drop(self.enter().await?),
        }
        if mood == Mood::ReadOnly {
            return Err(PartError::Io("read-only: as a test wants it".to_owned()));
        }
        let used = self.state.lock().used;
        let level = FillLevel::Green;
        let available = CAPACITY.saturating_sub(used);
        Ok(Fill { capacity: CAPACITY, used, available, spare: 0, level })
    }
}

/// A proxy over `count` slots, each a fail domain of its own.
pub(crate) fn proxy_over(count: usize) -> (Arc<Proxy>, Vec<Arc<MemorySlot>>) {
    let slots: Vec<_> = (0..count).map(|_| MemorySlot::new()).collect();
    (another_over(&slots), slots)
}

/// Another proxy over the same slots.
pub(crate) fn another_over(slots: &[Arc<MemorySlot>]) -> Arc<Proxy> {
    let configs = slots.iter().enumerate().map(|(n, slot)| config(n, slot.clone())).collect();
    Proxy::new(GroupId(0), configs, ProxySettings::default())
}

/// A slot that is a fail domain of its own.
pub(crate) fn config(n: usize, store: Arc<dyn PartStore>) -> SlotConfig {
    SlotConfig {
        disk: DiskId::from_slice(&[n as u8 + 1; 16]).unwrap(),
        stands_for: DiskId::from_slice(&[n as u8 + 1; 16]).unwrap(),
        place: format!("memory{n}"),
        domain: format!("domain{n}"),
        rack: String::new(),
        drains: false,
        store,
    }
}

/// Bytes that differ everywhere.
pub(crate) fn noise(len: u32, seed: u64) -> Bytes {
    let mut state = seed.wrapping_mul(2).wrapping_add(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// The blob of that number in session 7 of volume 1.
pub(crate) fn blob(sequence: u64, len: u32, scheme: &str) -> BlobId {
    BlobId::new(VolumeId(1), SessionId(7), sequence, GroupId(0), len, scheme.parse().unwrap())
        .unwrap()
}
