//! Taking a volume over: after a clean end and after a crash, on the machine that had it or on another.
//!
//! 1. Fence: from then on no older leader can change anything.
//! 2. List what there is of the volume's metadata; restore the newest manifest, unless a later leader did not
//!    know it.
//! 3. Follow the chain of entries behind it ([`super::chain`]), each restored, so that a later take-over
//!    finds the same: to the first that is proven absent.
//! 4. Go on under the next LSN. What the chain does not name is garbage, and is deleted once this leader's
//!    first entry is in the store.
//!
//! Whatever is missing or damaged, and was acknowledged, is an error; then nothing is deleted. Where somebody gives it up,
//! the volume is taken over with what is left ([`remains`]).

pub(crate) mod remains;

use std::collections::BTreeSet;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher as _};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, StreamExt};
use proto::id::{BlobId, GroupId, OwnerId, SessionId, VolumeId};
use proto::part_store::{Beat, LastBeat};
use proto::scheme::Scheme;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::chain::{Broken, Chain, Next};
use super::entry::{BadEntry, Entry};
use super::leader::Leader;
use super::pulse::{self, Holder, Pulse};
use crate::engine::Batch;
use crate::journal::tables::{Bounds, Tables};
use crate::table::cache::Cache;
use crate::table::manifest::{BadManifest, Manifest};
use crate::volume_store::names::{EPOCH_MAX, Namer, Role};
use crate::volume_store::{StoreError, VolumeStore};

/// How often a race for an epoch is run again.
const RACES: u32 = 5;
/// Unit of the time in between.
const RACE_WAIT: Duration = Duration::from_millis(20);
/// How often one who only looks begins anew.
const LOOKS: usize = 5;
/// Entries that are read at once.
const READING: usize = 16;

/// Why a volume cannot be taken over. Nothing of it was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TakeOverError {
    /// The store could not be asked, or somebody else has just taken the volume over.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Somebody has it who is alive.
    #[error("it is in use by {0}")]
    Held(Holder),
    /// It has been destroyed, at least in part.
    #[error("it is being destroyed (ashlar volume destroy goes on with that)")]
    Condemned,
    /// An entry that was acknowledged is missing.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// An entry is not what was written.
    #[error("{1} ({0})")]
    Entry(BlobId, BadEntry),
    /// The manifest is not what was written.
    #[error("{1} ({0})")]
    Manifest(BlobId, BadManifest),
    /// What is left of it could not be put together.
    #[error("putting together what is left: {0}")]
    Remains(String),
}

impl TakeOverError {
    /// Is it that something is gone which was acknowledged, or is not what was written?
    pub(crate) fn is_loss(&self) -> bool {
        matches!(
            self,
            Self::Broken(_)
                | Self::Entry(_, BadEntry::Damaged)
                | Self::Manifest(_, BadManifest::Damaged)
        )
    }
}

/// What a volume's metadata are opened with.
pub(crate) struct TakeOver {
    pub(crate) store: Arc<dyn VolumeStore>,
    pub(crate) volume: VolumeId,
    /// How blobs of metadata are protected: `copies(m + 1)`.
    pub(crate) scheme: Scheme,
    /// Where chunks are kept on this machine.
    pub(crate) cache: Option<PathBuf>,
    /// Bytes of blocks in memory.
    pub(crate) cache_bytes: usize,
    pub(crate) bounds: Bounds,
    /// The name of who takes it over, for people.
    pub(crate) holder: String,
}

/// A volume that this process leads.
pub(crate) struct Led {
    /// All its keys.
    pub(crate) tables: Arc<Tables>,
    /// What the volume is called; `None`: there is no such volume.
    pub(crate) name: Option<String>,
    /// Blobs of metadata that nothing stands on.
    pub(crate) garbage: Vec<BlobId>,
    leader: Leader,
    pulse: Pulse,
}

/// The leader's task.
pub(crate) struct Leading {
    stop: CancellationToken,
    task: JoinHandle<()>,
    pulse: Pulse,
}

impl Leading {
    /// Sends what there is, ends, and lets go of the volume.
    pub(crate) async fn end(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            tracing::error!("the leader of the volume's metadata: {error}");
        }
        self.pulse.end().await;
    }

    /// Ends at once, as a crash would.
    pub(crate) fn kill(self) {
        self.task.abort();
    }
}

impl Led {
    /// The store that it is led in.
    pub(crate) fn store(&self) -> Arc<dyn VolumeStore> {
        self.leader.store.clone()
    }

    /// Begins to lead. `name` is what the volume is called from now on.
    pub(crate) fn start(self, name: &str) -> (Arc<Tables>, Leading) {
        let (tables, mut leader) = (self.tables, self.leader);
        leader.name = name.to_owned();
        let stop = CancellationToken::new();
        let task = tokio::spawn(leader.lead(stop.clone(), self.pulse.deposed()));
        (tables, Leading { stop, task, pulse: self.pulse })
    }
}

/// A store that is only looked at: what is restored elsewhere is read.
pub(crate) struct Onlooker(pub(crate) Arc<dyn VolumeStore>);

#[async_trait]
impl VolumeStore for Onlooker {
    fn group(&self) -> GroupId {
        self.0.group()
    }

    async fn put(&self, _: BlobId, _: Bytes) -> Result<(), StoreError> {
        Err(ONLOOKER)
    }

    async fn get(&self, id: BlobId, range: Range<u32>) -> Result<Bytes, StoreError> {
        self.0.get(id, range).await
    }

    async fn restore(&self, id: BlobId) -> Result<Option<Bytes>, StoreError> {
        match self.0.get(id, 0..id.len()).await {
            Err(StoreError::NotFound) => Ok(None),
            got => got.map(Some),
        }
    }

    async fn list(
        &self,
        sessions: Range<SessionId>,
        after: Option<BlobId>,
    ) -> Result<Vec<BlobId>, StoreError> {
        self.0.list(sessions, after).await
    }

    async fn room(&self, scheme: Scheme) -> Option<u64> {
        self.0.room(scheme).await
    }

    async fn delete(&self, _: &[BlobId]) -> Result<(), StoreError> {
        Err(ONLOOKER)
    }

    async fn promised(&self, m: usize) -> Result<u64, StoreError> {
        self.0.promised(m).await
    }

    fn owner(&self) -> OwnerId {
        self.0.owner()
    }

    async fn beat(&self, _: Beat) -> Result<(), StoreError> {
        Err(ONLOOKER)
    }

    async fn last_beats(&self, m: usize) -> Result<Vec<LastBeat>, StoreError> {
        self.0.last_beats(m).await
    }

    async fn fence(&self, _: u64, _: usize) -> Result<(), StoreError> {
        Err(ONLOOKER)
    }
}

/// Nobody who looks changes anything.
const ONLOOKER: StoreError = StoreError::Fenced(u64::MAX);

/// What is led from now on.
struct Recovered {
    tables: Arc<Tables>,
    name: Option<String>,
    leader: Leader,
}

/// A volume as it is in the store at one moment.
pub(crate) struct Looked {
    /// All its keys. Nothing can be changed.
    pub(crate) tables: Arc<Tables>,
    /// The blobs that its metadata are in.
    pub(crate) lies_in: Vec<BlobId>,
}

/// What was found behind the fence.
struct Found {
    manifest: Manifest,
    manifest_id: Option<BlobId>,
    /// In order.
    entries: Vec<BlobId>,
    /// What they change, one over the other.
    changes: Batch,
    name: Option<String>,
}

impl Found {
    /// The blobs that it stands on.
    fn needed(&self) -> BTreeSet<BlobId> {
        let chunks = self.manifest.chunks().map(|chunk| chunk.id);
        chunks.chain(self.manifest_id).chain(self.entries.iter().copied()).collect()
    }
}

impl TakeOver {
    /// Is there nobody alive who has the volume, but for these owners? `metad`: that is who asks.
    ///
    /// # Errors
    /// [`TakeOverError::Held`], and when too few slots answer.
    pub(crate) async fn check_silent(
        &self,
        own: &[OwnerId],
        metad: bool,
    ) -> Result<(), TakeOverError> {
        let heard = self.store.last_beats(self.scheme.parity_parts()).await?;
        pulse::holder(&heard, own, metad).map_or(Ok(()), |holder| Err(TakeOverError::Held(holder)))
    }

    /// Takes the volume over, whoever has it.
    ///
    /// # Errors
    /// See [`TakeOverError`].
    pub(crate) async fn run(self) -> Result<Led, TakeOverError> {
        let epoch = self.fence(0).await?;
        let pulse = Pulse::start(self.store.clone(), self.holder.clone());
        match self.recover(epoch).await {
            Ok((recovered, garbage)) => {
                let Recovered { tables, name, leader } = recovered;
                Ok(Led { tables, name, garbage, leader, pulse })
            }
            Err(why) => {
                pulse.end().await;
                Err(why)
            }
        }
    }

    /// Finds all there is of the volume's metadata, behind the fence.
    async fn recover(self, epoch: u64) -> Result<(Recovered, Vec<BlobId>), TakeOverError> {
        let listed = list(&*self.store).await?;
        // Behind the fence nothing is added while it is listed.
        let found = self.find(&listed, &listed).await?;
        let needed = found.needed();
        let garbage = listed.into_iter().filter(|id| !needed.contains(id)).collect();
        let end = found.entries.last().map_or(found.manifest.lsn, BlobId::sequence);
        let last_epoch =
            found.entries.last().map_or(found.manifest.epoch, |id| Role::of(id.session()).1);
        let cache = Cache::new(self.volume, self.store.clone(), self.cache, self.cache_bytes);
        let chunks = found.manifest.chunks().filter_map(|chunk| cache.path(chunk.id));
        let chunks: BTreeSet<PathBuf> = chunks.collect();
        cache.keep_only(|path| chunks.contains(path));
        let runs = found.manifest.runs.clone();
        let tables = Tables::new(runs, found.changes, end, cache, self.bounds);
        tables.note_epoch(epoch);
        let leader = Leader {
            tables: tables.clone(),
            namer: Namer {
                volume: self.volume,
                epoch,
                group: self.store.group(),
                scheme: self.scheme,
            },
            store: self.store,
            name: String::new(),
            first: (end + 1, last_epoch),
            next: end + 1,
            chunk: Arc::new(AtomicU64::new(0)),
            snapshot: (found.manifest, found.manifest_id),
            entries: found.entries,
            asked_for_room: None,
            metrics: Arc::default(),
        };
        Ok((Recovered { tables, name: found.name, leader }, garbage))
    }

    /// The volume as it is in the store at this moment, to be looked at and not to be changed. Whoever leads
    /// it goes on; so some of what was listed may be gone when it is read, and then all is listed again.
    ///
    /// # Errors
    /// See [`TakeOverError`].
    pub(crate) async fn look(mut self) -> Result<Looked, TakeOverError> {
        self.store = Arc::new(Onlooker(self.store));
        self.next_epoch().await?;
        let mut tries = 0;
        let found = loop {
            let before = list(&*self.store).await?;
            let listed = list(&*self.store).await?;
            match self.find(&listed, &before).await {
                Err(TakeOverError::Broken(why)) if tries < LOOKS => {
                    tracing::debug!("looking again: {why}");
                    tries += 1;
                }
                found => break found?,
            }
        };
        let end = found.entries.last().map_or(found.manifest.lsn, BlobId::sequence);
        let lies_in = found.needed().into_iter().collect();
        let cache = Cache::new(self.volume, self.store, self.cache, self.cache_bytes);
        let tables = Tables::new(found.manifest.runs, found.changes, end, cache, self.bounds);
        tables.end("the volume was opened to be looked at");
        Ok(Looked { tables, lies_in })
    }

    /// Fences the next epoch, or this one where it is later. Of those who race for one, some slots obey this one and some another, so that nobody
    /// may have it: then it is tried again, after a time that is drawn by lot.
    async fn fence(&self, least: u64) -> Result<u64, TakeOverError> {
        let m = self.scheme.parity_parts();
        let mut tries = 0;
        loop {
            let epoch = self.next_epoch().await?.max(least);
            match self.store.fence(epoch, m).await {
                Err(StoreError::Fenced(other)) if other == epoch && tries < RACES => tries += 1,
                fenced => return Ok(fenced.map(|()| epoch)?),
            }
            // The standard library seeds its hash maps from the kernel's randomness.
            let lot = RandomState::new().build_hasher().finish();
            sleep(RACE_WAIT * (lot % (4 << tries)) as u32).await;
        }
    }

    /// The epoch of the next leader.
    async fn next_epoch(&self) -> Result<u64, TakeOverError> {
        match self.store.promised(self.scheme.parity_parts()).await? {
            EPOCH_MAX.. => Err(TakeOverError::Condemned),
            last => Ok(last + 1),
        }
    }

    /// The newest snapshot that counts, and what follows it, of what is `listed`, and of what was there `before` that
    /// list was begun.
    async fn find(&self, listed: &[BlobId], before: &[BlobId]) -> Result<Found, TakeOverError> {
        let mut manifests = manifests(listed);
        loop {
            let newest = newest_manifest(&*self.store, self.volume, &mut manifests).await?;
            let (manifest, id) = newest.unwrap_or_else(|| (Manifest::empty(""), None));
            if let Some(found) = self.follow(manifest, id, (listed, before)).await? {
                return Ok(found);
            }
        }
    }

    /// What follows a snapshot; `None`: it was never acknowledged, and does not count.
    async fn follow(
        &self,
        manifest: Manifest,
        manifest_id: Option<BlobId>,
        (listed, before): (&[BlobId], &[BlobId]),
    ) -> Result<Option<Found>, TakeOverError> {
        let chain = Chain::new((manifest.epoch, manifest.lsn), listed.iter().copied())?;
        let mut chain = chain.knowing_of(before.iter().copied());
        let replay = loop {
            match chain.next()? {
                Next::Replay(replay) => break replay,
                Next::Read(id) => match self.entry(id).await? {
                    Some(entry) if chain.disowns_snapshot(entry.standing) => return Ok(None),
                    Some(entry) => chain.found(entry.standing)?,
                    None => chain.absent(id)?,
                },
            }
        };
        // One that was made of what was left may not know it.
        let name = manifest_id.map(|_| manifest.name.clone()).filter(|name| !name.is_empty());
        let mut found =
            Found { manifest, manifest_id, entries: Vec::new(), changes: Batch::new(), name };
        let sure = replay.sure.len();
        let ids = replay.sure.into_iter().chain(replay.open);
        let reading = ids.map(|id| async move { (id, self.entry(id).await) });
        let mut reading = stream::iter(reading).buffered(READING);
        // Pieces of a batch that are not all there yet.
        let mut pieces: (Vec<BlobId>, Batch) = Default::default();
        while let Some((id, entry)) = reading.next().await {
            match entry? {
                Some(entry) => {
                    pieces.0.push(id);
                    pieces.1.extend(entry.batch);
                    if !entry.more {
                        let (ids, changes) = std::mem::take(&mut pieces);
                        found.entries.extend(ids);
                        found.changes.extend(changes);
                        found.name = Some(entry.name);
                    }
                }
                None if found.entries.len() + pieces.0.len() < sure => {
                    return Err(Broken(format!(
                        "entry {id} is gone, but a later one stands on it"
                    ))
                    .into());
                }
                None => {
                    let (_, epoch) = Role::of(id.session());
                    chain.may_end_before(epoch, id.sequence())?;
                    break;
                }
            }
        }
        // Chunks come after the first entry, and go before the last manifest.
        let mut roles = listed.iter().map(|id| Role::of(id.session()).0);
        let without = found.manifest_id.is_none() && (found.entries.is_empty() || chain.has_gap);
        if without && roles.any(|role| role == Role::Chunk) {
            return Err(Broken("there are chunks of a snapshot, but no manifest".to_owned()).into());
        }
        Ok(Some(found))
    }

    async fn entry(&self, id: BlobId) -> Result<Option<Entry>, TakeOverError> {
        let Some(bytes) = self.store.restore(id).await? else { return Ok(None) };
        Entry::decode(id, &bytes).map(Some).map_err(|e| TakeOverError::Entry(id, e))
    }
}

/// All blobs of the volume's metadata.
pub(crate) async fn list(store: &dyn VolumeStore) -> Result<Vec<BlobId>, StoreError> {
    let sessions = Role::Chunk.session(0)..SessionId(u64::MAX);
    let mut found: Vec<BlobId> = Vec::new();
    loop {
        let page = store.list(sessions.clone(), found.last().copied()).await?;
        if page.is_empty() {
            return Ok(found);
        }
        found.extend(page);
    }
}

/// The manifests among these, the newest last.
pub(crate) fn manifests(listed: &[BlobId]) -> Vec<BlobId> {
    let is_manifest = |id: &BlobId| Role::of(id.session()).0 == Role::Manifest;
    let mut manifests: Vec<BlobId> = listed.iter().copied().filter(is_manifest).collect();
    manifests.sort_by_key(|id| (id.sequence(), id.session()));
    manifests
}

/// The last of these manifests that is there; it and those behind it are taken off. One that is listed and
/// proven absent was never acknowledged, so that what it was to replace is there still.
pub(crate) async fn newest_manifest(
    store: &dyn VolumeStore,
    volume: VolumeId,
    manifests: &mut Vec<BlobId>,
) -> Result<Option<(Manifest, Option<BlobId>)>, TakeOverError> {
    while let Some(id) = manifests.pop() {
        let Some(bytes) = store.restore(id).await? else { continue };
        let manifest = Manifest::decode(&bytes, volume);
        let manifest = manifest.map_err(|e| TakeOverError::Manifest(id, e))?;
        return Ok(Some((manifest, Some(id))));
    }
    Ok(None)
}
