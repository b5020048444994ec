//! A volume whose metadata have lost what was acknowledged, taken over with what is left of them.
//!
//! Only where somebody has ordered it. What counts is decided without I/O ([`salvage`]); here all that is there is read,
//! and what was decided is written as one new snapshot, behind which nothing of before counts: so whoever takes the volume
//! over after that finds a journal in order. Nothing is deleted; what the snapshot does not name is garbage for the next
//! take-over.
//!
//! Only what is proven to be nowhere, or is not what was written, is taken for lost. As long as disks do not answer which
//! may have it, nothing is done at all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use parking_lot::Mutex;
use proto::id::{BlobId, SessionId};

use super::{Led, Looked, Onlooker, READING, Recovered, TakeOver, TakeOverError, list, manifests};
use crate::engine::Batch;
use crate::journal::entry::{BadEntry, Entry};
use crate::journal::leader::Leader;
use crate::journal::pulse::Pulse;
use crate::journal::salvage::{self, At, Base, Left, Plan};
use crate::journal::tables::Tables;
use crate::key;
use crate::record::inode::Inode;
use crate::store::Time;
use crate::table::cache::Cache;
use crate::table::chunk::Index;
use crate::table::manifest::{BadManifest, Manifest};
use crate::table::merge::{self, Output};
use crate::table::run::{ChunkRef, Run};
use crate::volume_store::names::{Namer, Role};
use crate::volume_store::{StoreError, VolumeStore};

/// Chunks that are read at once: each takes its whole length of memory meanwhile.
const CHUNKS: usize = 4;

/// What a volume's metadata have lost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Entries of the journal that are gone, by their numbers.
    pub entries: Vec<LostEntries>,
    /// Entries that are there, and were applied to the snapshot.
    pub applied: u64,
    /// Chunks of the snapshot that are gone.
    pub chunks: u64,
    /// Chunks of the snapshot that only this machine's cache has: they are put into the store again.
    pub kept_here: u64,
    /// What says of which chunks the snapshot is made is gone: they were stacked as they were written.
    pub manifest: bool,
}

/// Entries of the journal that are gone, one behind the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LostEntries {
    /// The number of the first.
    pub first: u64,
    /// The number of the last.
    pub last: u64,
    /// When the last change was made that is there before them; `None`: the snapshot is all there is before them.
    pub after: Option<Time>,
    /// When the first change was made that is there behind them; `None`: there is none.
    pub before: Option<Time>,
}

impl Losses {
    /// Is nothing lost?
    pub fn is_none(&self) -> bool {
        self.entries.is_empty() && self.chunks == 0 && self.kept_here == 0 && !self.manifest
    }

    /// How many entries of the journal are gone.
    pub fn entry_count(&self) -> u64 {
        self.entries.iter().map(|lost| lost.last - lost.first + 1).sum()
    }
}

/// What is left, and what is made of it.
struct Remains {
    runs: Vec<Run>,
    /// Over them.
    changes: Batch,
    name: Option<String>,
    /// The last LSN that anything has, and the epoch of the last entry that counts.
    end: u64,
    last_epoch: u64,
    /// Chunks of the runs that only this machine has.
    here: Vec<ChunkRef>,
    losses: Losses,
}

/// A snapshot, and which of its chunks are where.
struct Snapshot {
    manifest: Manifest,
    gone: BTreeSet<BlobId>,
    here: Vec<ChunkRef>,
}

type Entries = BTreeMap<At, Entry>;

impl TakeOver {
    /// What would be left of the volume, to be looked at. Nothing is changed.
    ///
    /// # Errors
    /// When it cannot be told what is lost, as not all disks answer that may have it.
    pub(crate) async fn look_at_remains(mut self) -> Result<(Looked, Losses), TakeOverError> {
        self.store = Arc::new(Onlooker(self.store));
        self.next_epoch().await?;
        let listed = list(&*self.store).await?;
        let cache = self.cache();
        let remains = self.remains(&listed, &cache).await?;
        let Remains { runs, changes, end, losses, .. } = remains;
        let tables = Tables::new(runs, changes, end, cache, self.bounds);
        tables.end("the volume was opened to be looked at");
        Ok((Looked { tables, lies_in: Vec::new() }, losses))
    }

    /// Takes the volume over with what is left of it, whoever has it.
    ///
    /// # Errors
    /// As [`Self::look_at_remains`], and when it cannot be written: then it is as it was.
    pub(crate) async fn run_with_remains(self) -> Result<(Led, Losses), TakeOverError> {
        // Disks that have lost their promises may be so many that nobody is left to know the last epoch; what was
        // written under it is.
        let listed = list(&*self.store).await?;
        let last = listed.iter().map(|id| Role::of(id.session()).1).max();
        let epoch = self.fence(last.map_or(0, |last| last + 1)).await?;
        let pulse = Pulse::start(self.store.clone(), self.holder.clone());
        match self.recover_remains(epoch).await {
            Ok((Recovered { tables, name, leader }, losses)) => {
                Ok((Led { tables, name, garbage: Vec::new(), leader, pulse }, losses))
            }
            Err(why) => {
                pulse.end().await;
                Err(why)
            }
        }
    }

    /// Writes what is left as one snapshot, behind the fence, and leads on from there.
    async fn recover_remains(self, epoch: u64) -> Result<(Recovered, Losses), TakeOverError> {
        let listed = list(&*self.store).await?;
        let cache = self.cache();
        let Remains { runs, changes, name, end, last_epoch, here, losses } =
            self.remains(&listed, &cache).await?;
        for chunk in &here {
            let (_, bytes) = cache.whole(chunk).await.map_err(unfinished)?;
            self.store.put(chunk.id, bytes).await?;
        }
        let (volume, group) = (self.volume, self.store.group());
        let namer = Namer { volume, group, epoch, scheme: self.scheme };
        let (chunk, made) = (Arc::new(AtomicU64::new(0)), Mutex::default());
        let out =
            Output { store: &*self.store, cache: &cache, namer, sequence: &chunk, made: &made };
        let run = merge::merge(&changes, &runs, true, out).await.map_err(unfinished)?;
        let called = name.clone().unwrap_or_default();
        let manifest = Manifest { name: called, epoch, lsn: end, runs: vec![run] };
        let bytes = Bytes::from(manifest.encode(volume));
        let id = namer.name(Role::Manifest, end, bytes.len());
        let id = id.ok_or_else(|| unfinished("the volume is too large"))?;
        self.store.put(id, bytes).await?;
        let tables = Tables::new(manifest.runs.clone(), Batch::new(), end, cache, self.bounds);
        tables.note_epoch(epoch);
        let leader = Leader {
            tables: tables.clone(),
            namer,
            store: self.store,
            name: String::new(),
            first: (end + 1, last_epoch),
            next: end + 1,
            chunk,
            snapshot: (manifest, Some(id)),
            entries: Vec::new(),
            asked_for_room: None,
            metrics: Arc::default(),
        };
        Ok((Recovered { tables, name, leader }, losses))
    }

    fn cache(&self) -> Cache {
        Cache::new(self.volume, self.store.clone(), self.cache.clone(), self.cache_bytes)
    }

    /// All that is left, of what is listed.
    async fn remains(&self, listed: &[BlobId], cache: &Cache) -> Result<Remains, TakeOverError> {
        let of = |role| listed.iter().copied().filter(move |id| Role::of(id.session()).0 == role);
        let mut entries = self.readable(of(Role::Entry).collect()).await?;
        let mut snapshots = self.snapshots(listed, cache).await?;
        let chunks: Vec<BlobId> = of(Role::Chunk).collect();
        let places = snapshots.iter().map(|(place, snapshot)| (*place, snapshot.gone.len()));
        let left = Left {
            snapshots: places.collect(),
            has_chunks: !chunks.is_empty(),
            entries: entries.iter().map(|(at, entry)| (*at, entry.standing)).collect(),
            listed: of(Role::Entry).map(|id| (Role::of(id.session()).1, id.sequence())).collect(),
        };
        let plan = left.plan();
        let mut losses = Losses { applied: plan.entries.len() as u64, ..Losses::default() };
        let (runs, here, name) = match plan.base {
            Base::Snapshot(lsn, epoch) => match snapshots.remove(&(lsn, epoch)) {
                Some(Snapshot { manifest, gone, here }) => {
                    losses.chunks = gone.len() as u64;
                    losses.kept_here = here.len() as u64;
                    (without(&manifest.runs, &gone), here, Some(manifest.name))
                }
                None => (Vec::new(), Vec::new(), None),
            },
            Base::Chunks(..) => {
                losses.manifest = true;
                let name = snapshots.pop_last().map(|(_, snapshot)| snapshot.manifest.name);
                let all = chunks.len();
                let chunks = self.all_chunks(chunks).await?;
                losses.chunks = (all - chunks.len()) as u64;
                (salvage::stacked(chunks), Vec::new(), name)
            }
        };
        losses.entries = gaps(&plan, &entries);
        let last_epoch = plan.last_epoch();
        let Plan { entries: counting, end, .. } = plan;
        let (mut changes, mut name) = (Batch::new(), name);
        for entry in counting.iter().filter_map(|at| entries.remove(at)) {
            changes.extend(entry.batch);
            name = Some(entry.name);
        }
        Ok(Remains { runs, changes, name, end, last_epoch, here, losses })
    }

    /// Those of these entries that can be read.
    async fn readable(&self, ids: Vec<BlobId>) -> Result<Entries, TakeOverError> {
        let reading = ids.into_iter().map(|id| async move { (id, self.entry(id).await) });
        let mut reading = stream::iter(reading).buffered(READING);
        let mut found = Entries::new();
        while let Some((id, entry)) = reading.next().await {
            match entry {
                Ok(Some(entry)) => {
                    found.entry((entry.standing.epoch, entry.standing.lsn)).or_insert(entry);
                }
                Ok(None) | Err(TakeOverError::Entry(_, BadEntry::Damaged)) => {
                    tracing::warn!("entry {id} of the journal is lost");
                }
                Err(why) => return Err(why),
            }
        }
        Ok(found)
    }

    /// The snapshots whose manifests can be read, by LSN and epoch.
    async fn snapshots(
        &self,
        listed: &[BlobId],
        cache: &Cache,
    ) -> Result<BTreeMap<(u64, u64), Snapshot>, TakeOverError> {
        let mut found = BTreeMap::new();
        for id in manifests(listed) {
            let Some(bytes) = self.store.restore(id).await? else { continue };
            let manifest = match Manifest::decode(&bytes, self.volume) {
                Ok(manifest) => manifest,
                Err(BadManifest::Damaged) => continue,
                Err(why) => return Err(TakeOverError::Manifest(id, why)),
            };
            let (gone, here) = self.missing(&manifest, cache).await?;
            found.insert((manifest.lsn, manifest.epoch), Snapshot { manifest, gone, here });
        }
        Ok(found)
    }

    /// The chunks of a snapshot that are gone, and those that only this machine has.
    async fn missing(
        &self,
        manifest: &Manifest,
        cache: &Cache,
    ) -> Result<(BTreeSet<BlobId>, Vec<ChunkRef>), TakeOverError> {
        let chunks: Vec<ChunkRef> = manifest.chunks().copied().collect();
        let reading = chunks.into_iter().map(|chunk| async move {
            let stored = self.store.restore(chunk.id).await;
            (chunk, stored.map(|bytes| bytes.is_some_and(|bytes| self.is_chunk(&chunk, &bytes))))
        });
        let mut reading = stream::iter(reading).buffered(CHUNKS);
        let (mut gone, mut here) = (BTreeSet::new(), Vec::new());
        while let Some((chunk, stored)) = reading.next().await {
            if stored? {
                continue;
            }
            match cache.whole(&chunk).await {
                Ok(_) => here.push(chunk),
                Err(why) => {
                    tracing::warn!("chunk {} of the snapshot is lost: {why}", chunk.id);
                    gone.insert(chunk.id);
                }
            }
        }
        Ok((gone, here))
    }

    fn is_chunk(&self, chunk: &ChunkRef, bytes: &Bytes) -> bool {
        let words = (chunk.crc, chunk.first, chunk.last);
        Index::words_of(bytes, self.volume).is_ok_and(|said| said == words)
    }

    /// All chunks that can be read, in the order in which they were written.
    async fn all_chunks(&self, mut ids: Vec<BlobId>) -> Result<Vec<ChunkRef>, TakeOverError> {
        ids.sort_by_key(|id| (id.session(), id.sequence()));
        let reading = ids.into_iter().map(|id| async move { (id, self.store.restore(id).await) });
        let mut reading = stream::iter(reading).buffered(CHUNKS);
        let mut found = Vec::new();
        while let Some((id, bytes)) = reading.next().await {
            let Some(bytes) = bytes? else { continue };
            match Index::words_of(&bytes, self.volume) {
                Ok((crc, first, last)) => found.push(ChunkRef { id, crc, first, last }),
                Err(why) => tracing::warn!("chunk {id} is lost: {why}"),
            }
        }
        Ok(found)
    }
}

/// The highest number of a session from `from` on that slots have data of; `None`: there is none.
///
/// # Errors
/// When they cannot be listed.
pub(crate) async fn last_session(
    store: &dyn VolumeStore,
    from: SessionId,
) -> Result<Option<SessionId>, StoreError> {
    let (mut last, mut after) = (None, None);
    loop {
        let page = store.list(from..Role::Chunk.session(0), after).await?;
        let Some(id) = page.last() else { return Ok(last) };
        last = Some(id.session()).max(last);
        after = Some(*id);
    }
}

fn unfinished(why: impl std::fmt::Display) -> TakeOverError {
    TakeOverError::Remains(why.to_string())
}

/// The runs without these chunks.
fn without(runs: &[Run], gone: &BTreeSet<BlobId>) -> Vec<Run> {
    let left = |run: &Run| {
        let chunks = run.chunks.iter().filter(|chunk| !gone.contains(&chunk.id));
        Run { chunks: chunks.copied().collect() }
    };
    runs.iter().map(left).collect()
}

/// What is gone of the journal, and between which times.
fn gaps(plan: &Plan, entries: &Entries) -> Vec<LostEntries> {
    let times: Vec<(u64, Time)> = plan
        .entries
        .iter()
        .filter_map(|at| Some((at.1, time_of(&entries.get(at)?.batch)?)))
        .collect();
    let gap = |(first, last): &(u64, u64)| {
        let before = times.partition_point(|(lsn, _)| lsn < first);
        let after = before.checked_sub(1).and_then(|at| times.get(at));
        let (after, before) = (after.map(|(_, time)| *time), times.get(before).map(|(_, t)| *t));
        LostEntries { first: *first, last: *last, after, before }
    };
    plan.gaps.iter().map(gap).collect()
}

/// When the last change of a batch was made, as far as that changed an inode.
fn time_of(batch: &Batch) -> Option<Time> {
    let changed = batch.iter().filter_map(|(key, value)| {
        let inode = Inode::decode(key::inode::parse(key)?, value.as_deref()?)?;
        Some(inode.attr.ctime)
    });
    changed.max()
}
