//! A volume of a cluster: format, open.
//!
//! All that a volume is lies in the cluster's store. What makes it fast and orderly on this machine is
//! [`crate::volume::lock`]'s: `NAME.chunks` has chunks of its snapshot, which are read again from the store where they
//! are missing or rotten, and `NAME.lock` says who has it open.

pub(crate) mod catalog;
pub(crate) mod lock;
pub(crate) mod once;
pub(crate) mod opened;
pub(crate) mod session;

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use proto::id::{SessionId, VolumeId};
use proto::limits::TARGET_BLOB;
use proto::scheme::Scheme;

use crate::clock::wall_clock;
use crate::engine::memory::MemoryKv;
use crate::engine::{Batch, Change, Counting, Kv, Value};
use crate::journal::pulse::{Holder, LIVE, METAD};
use crate::journal::tables::{Bounds, JournaledKv, Tables};
use crate::journal::takeover::remains::{self, Losses};
use crate::journal::takeover::{Led, Looked, TakeOver, TakeOverError};
use crate::key;
use crate::key::counters::Counters;
use crate::key::numbers::Numbers;
use crate::key::volume::VolumeRecord;
use crate::record::inode::Inode;
use crate::store::{Attr, Kind, MetaError, ROOT, VolumeInfo};
use crate::volume::catalog::{Catalog, FoundVolume, VolumeState};
use crate::volume::lock::VolumeLock;
use crate::volume::opened::{Lead, Seams, Volume};
use crate::volume::session::Session;
use crate::volume_store::{StoreError, VolumeStore, VolumeStores};

/// A batch of changes that has grown to this is sent: it is one entry of the journal, if no change is large.
const BATCH_BYTES: usize = 4 << 20;
/// Bytes of memory of what is in the journal and in no snapshot.
const SNAPSHOT_BYTES: usize = 32 << 20;
/// Entries of the journal that are in no snapshot: each is a read when the volume is opened.
const SNAPSHOT_ENTRIES: usize = 2048;

/// How a volume is opened: how much memory its metadata may take, how long a change may wait in it, and from whom
/// it may be taken.
#[derive(Clone, Copy, Debug)]
pub struct MetaSettings {
    /// Cache of the metadata file, in bytes.
    pub cache_bytes: usize,
    /// Longest time until a change is durable without a sync.
    pub flush_interval: Duration,
    /// Unsynced changes beyond this are written out at once, in bytes. At most four times as much
    /// is held before operations wait.
    pub unsynced_bytes: usize,
    /// Takes the volume over also from somebody who is alive.
    pub take_over: bool,
    /// A metad opens it, to lead it for others.
    pub metad: bool,
    /// Opens the volume also where it is not known how much there is in it: to repair that.
    pub uncounted: bool,
}

impl Default for MetaSettings {
    fn default() -> Self {
        Self {
            cache_bytes: 64 << 20,
            flush_interval: Duration::from_secs(1),
            unsynced_bytes: 16 << 20,
            take_over: false,
            metad: false,
            uncounted: false,
        }
    }
}

/// Why a volume could not be formatted or opened.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// There is one by that name.
    #[error("volume {0} exists")]
    Exists(String),
    /// There is none by that name.
    #[error("there is no volume {name} in the cluster, {}", whose(others))]
    NotFound {
        /// The name.
        name: String,
        /// Those there are.
        others: Vec<FoundVolume>,
    },
    /// There are several by that name.
    #[error(
        "several volumes are called {name}, with the numbers {numbers}: destroy what is not wanted by its number"
    )]
    Ambiguous {
        /// The name.
        name: String,
        /// Theirs.
        numbers: String,
    },
    /// A volume cannot be read, and so it is not known what it is called.
    #[error(
        "volume number {id} cannot be read and could be called so: {why} (ashlar volume destroy --number {id} removes it)"
    )]
    Nameless {
        /// Its number.
        id: VolumeId,
        /// Why not.
        why: String,
    },
    /// The cluster's disks cannot be asked.
    #[error("looking for volumes: {0}")]
    Store(#[from] StoreError),
    /// Somebody has it who is alive.
    #[error(
        "volume {name} is in use by {holder}: unmount it there, try again when it has been silent for {} s, or take it over with --take-over",
        LIVE.as_secs()
    )]
    Held {
        /// The volume.
        name: String,
        /// Who.
        holder: Holder,
    },
    /// Its metadata cannot be used.
    #[error("volume {name}: {reason}")]
    Damaged {
        /// The volume.
        name: String,
        /// Why.
        reason: String,
    },
}

/// Makes a new, empty volume, whose root directory belongs to this user and group.
///
/// # Errors
/// [`VolumeError::Exists`] when the cluster has one of that name.
pub async fn format(
    stores: &dyn VolumeStores,
    lock: &VolumeLock,
    info: &VolumeInfo,
    root: (u32, u32, u32),
) -> Result<(), VolumeError> {
    let name = lock.name();
    check_new(stores, name).await?;
    let taking = taking(stores, Some(lock), info.id, info.scheme, MetaSettings::default());
    let led = taking.run().await.map_err(|e| damaged(name, &e))?;
    if led.name.is_some() {
        return Err(VolumeError::Exists(name.to_owned()));
    }
    let (tables, leading) = led.start(name);
    let made = async {
        let kv = JournaledKv::open(tables).await?;
        initialise(&kv, info, root)?;
        kv.sync().await
    };
    let made = made.await;
    leading.end().await;
    made.map_err(|e| damaged(name, &e))
}

/// Opens a volume: takes it over from whoever had it. Sessions that were not closed are remembered as dead.
///
/// # Errors
/// [`VolumeError::Held`] while somebody else has it who is alive, unless it shall be taken over all the same. See
/// [`VolumeError`].
pub async fn open(
    stores: &dyn VolumeStores,
    mut lock: VolumeLock,
    settings: MetaSettings,
) -> Result<Arc<Volume>, VolumeError> {
    let taking = ready(stores, &mut lock, settings).await?;
    let led = taking.run().await.map_err(|e| refused(lock.name(), &e))?;
    lead(led, lock, !settings.uncounted).await
}

/// Opens a volume whose metadata have lost what was acknowledged, with what is left of them: see [`look_at_remains`], which
/// says what that would be. They are written as a new snapshot, so that the volume can be opened as any other from then on;
/// numbers are handed out far behind all that may have been. What does not fit together is left to a repair. No blob is
/// deleted before somebody else opens it.
///
/// # Errors
/// As [`open`]; and when it cannot be told what is lost, as not all disks answer that may have it.
pub async fn salvage(
    stores: &dyn VolumeStores,
    mut lock: VolumeLock,
    settings: MetaSettings,
) -> Result<(Arc<Volume>, Losses), VolumeError> {
    let taking = ready(stores, &mut lock, settings).await?;
    let name = lock.name().to_owned();
    let taken = taking.run_with_remains().await;
    let (led, losses) = taken.map_err(|e| damaged(&name, &e))?;
    let store = led.store();
    let volume = lead(led, lock, false).await?;
    if let Err(why) = skip_numbers(&volume, &*store, losses.entry_count()).await {
        volume.close().await;
        return Err(damaged(&name, &why));
    }
    Ok((volume, losses))
}

/// Sessions beyond all that are known, and one for each lost entry: each began with an entry.
const SESSIONS_SKIPPED: u64 = 1000;
/// Numbers of inodes that may have been handed out since the last time that is known: far fewer.
const INODES_SKIPPED: u64 = 1 << 32;

/// What was lost may have handed out numbers: none of them is handed out again. Where their record is lost itself a
/// repair makes it anew.
async fn skip_numbers(
    volume: &Volume,
    store: &dyn VolumeStore,
    lost: u64,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let known = match volume.read(|txn| txn.numbers()).await {
        Err(MetaError::Damaged(_)) => return Ok(()),
        known => known?,
    };
    let last = remains::last_session(store, SessionId(known.next_session)).await?;
    let next_session = known.next_session.max(last.map_or(0, |last| last.0 + 1));
    let numbers = Numbers {
        next_ino: known.next_ino + INODES_SKIPPED,
        next_session: next_session + SESSIONS_SKIPPED + lost,
    };
    let written = volume.write(SessionId(0), |txn| {
        txn.put_numbers(&numbers);
        Ok(())
    });
    written.await?;
    Ok(volume.kv.sync().await?)
}

/// How a volume is taken over by who has its lock, unless somebody else has it who is alive.
async fn ready(
    stores: &dyn VolumeStores,
    lock: &mut VolumeLock,
    settings: MetaSettings,
) -> Result<TakeOver, VolumeError> {
    let name = lock.name().to_owned();
    let (id, scheme) = find(stores, &name).await?;
    let taking = taking(stores, Some(&*lock), id, scheme, settings);
    if !settings.take_over {
        let silent = taking.check_silent(lock.owners(), settings.metad).await;
        silent.map_err(|why| match why {
            TakeOverError::Held(holder) => VolumeError::Held { name: name.clone(), holder },
            why => damaged(&name, &why),
        })?;
    }
    lock.note_owner(taking.store.owner());
    Ok(taking)
}

/// Begins to lead what was taken over. To be worked on, its counters have to be known (`counted`).
async fn lead(mut led: Led, lock: VolumeLock, counted: bool) -> Result<Arc<Volume>, VolumeError> {
    let name = lock.name().to_owned();
    let needless = (led.store(), std::mem::take(&mut led.garbage));
    let (tables, leading) = led.start(&name);
    match read_tables(tables, counted).await {
        Ok((kv, record)) => {
            let lead = Lead { leading, lock, needless };
            Ok(Volume::new(kv, record, Seams::default(), Some(lead)))
        }
        Err(why) => {
            leading.end().await;
            Err(damaged(&name, &why))
        }
    }
}

/// Looks at what would be left of a volume whose metadata have lost what was acknowledged, and says what that is. Nothing
/// is changed, and nothing can be.
///
/// # Errors
/// See [`VolumeError`]; and when it cannot be told what is lost, as not all disks answer that may have it.
pub async fn look_at_remains(
    stores: &dyn VolumeStores,
    lock: &VolumeLock,
    settings: MetaSettings,
) -> Result<(Arc<Volume>, Losses), VolumeError> {
    let name = lock.name();
    let (id, scheme) = find(stores, name).await?;
    let taking = taking(stores, Some(lock), id, scheme, settings);
    let looked = taking.look_at_remains().await;
    let (Looked { tables, lies_in }, losses) = looked.map_err(|e| damaged(name, &e))?;
    let (kv, record) = read_tables(tables, false).await.map_err(|e| damaged(name, &e))?;
    Ok((Volume::looked_at(kv, record, lies_in), losses))
}

/// Opens a volume to look at it: as it is in the store at this moment, whoever leads it. Nothing is changed,
/// and nothing can be. Only who has its lock uses what this machine keeps of it.
///
/// # Errors
/// See [`VolumeError`].
pub async fn look(
    stores: &dyn VolumeStores,
    name: &str,
    lock: Option<&VolumeLock>,
    settings: MetaSettings,
) -> Result<Arc<Volume>, VolumeError> {
    let (id, scheme) = find(stores, name).await?;
    let taking = taking(stores, lock, id, scheme, settings);
    let looked = taking.look().await.map_err(|e| refused(name, &e))?;
    let Looked { tables, lies_in } = looked;
    let (kv, record) = read_tables(tables, false).await.map_err(|e| damaged(name, &e))?;
    Ok(Volume::looked_at(kv, record, lies_in))
}

/// The engine over tables, and what the volume is. To be worked on, its counters have to be known (`counted`).
async fn read_tables(
    tables: Arc<Tables>,
    counted: bool,
) -> Result<(Arc<dyn Kv>, VolumeRecord), Box<dyn std::error::Error + Send + Sync>> {
    let kv = JournaledKv::open(tables).await?;
    let value = kv.value(&key::volume::key()).await?.unwrap_or_default();
    let record = VolumeRecord::decode(&value)?;
    if counted && !kv.knows_counters() {
        let why = "the record of the counters is damaged (ashlar fsck --repair counts anew)";
        return Err(why.into());
    }
    Ok((Arc::new(kv), record))
}

/// How a volume is taken over.
fn taking(
    stores: &dyn VolumeStores,
    lock: Option<&VolumeLock>,
    id: VolumeId,
    scheme: Scheme,
    settings: MetaSettings,
) -> TakeOver {
    let name = lock.map(VolumeLock::holder).unwrap_or_default();
    let holder = if settings.metad { format!("{METAD}{name}") } else { name };
    TakeOver {
        store: stores.volume(id),
        volume: id,
        scheme: scheme.as_copies(),
        cache: lock.and_then(VolumeLock::chunk_directory),
        cache_bytes: settings.cache_bytes,
        bounds: Bounds {
            interval: settings.flush_interval,
            batch_bytes: settings.unsynced_bytes.clamp(1, BATCH_BYTES),
            entry_bytes: TARGET_BLOB as usize,
            snapshot_bytes: SNAPSHOT_BYTES,
            snapshot_entries: SNAPSHOT_ENTRIES,
        },
        holder,
    }
}

/// The number of a volume and the scheme of its metadata's blobs.
async fn find(stores: &dyn VolumeStores, name: &str) -> Result<(VolumeId, Scheme), VolumeError> {
    let Catalog { volumes, missed } = catalog::list(stores).await;
    let (named, others): (Vec<_>, Vec<_>) =
        volumes.into_iter().partition(|found| found.name.as_deref() == Some(name));
    if let (true, Some(why)) = (named.is_empty(), missed) {
        return Err(StoreError::Unavailable(why).into());
    }
    match named[..] {
        [FoundVolume { id, metadata: Some(scheme), .. }] => Ok((id, scheme)),
        [] | [_] => Err(VolumeError::NotFound { name: name.to_owned(), others }),
        _ => {
            let numbers: Vec<String> = named.iter().map(|found| found.id.to_string()).collect();
            Err(VolumeError::Ambiguous { name: name.to_owned(), numbers: numbers.join(", ") })
        }
    }
}

/// May a new volume be called so?
async fn check_new(stores: &dyn VolumeStores, name: &str) -> Result<(), VolumeError> {
    let Catalog { volumes, missed } = catalog::list(stores).await;
    if let Some(why) = missed {
        return Err(StoreError::Unavailable(why).into());
    }
    for found in volumes {
        match (found.name, found.state) {
            (Some(other), _) if other == name => return Err(VolumeError::Exists(name.to_owned())),
            // It will be called something again, when it can be read.
            (None, VolumeState::Damaged(why)) if found.metadata.is_some() => {
                return Err(VolumeError::Nameless { id: found.id, why });
            }
            _ => {}
        }
    }
    Ok(())
}

/// A volume that lives in memory only: for tests of what is built on metadata.
pub struct MemoryVolume {
    kv: Arc<MemoryKv>,
    record: VolumeRecord,
}

impl MemoryVolume {
    /// A new one.
    pub fn format(info: &VolumeInfo, root: (u32, u32, u32)) -> Self {
        let kv = MemoryKv::default();
        let record = initialise(&kv, info, root).expect("memory does not fail");
        Self { kv: Arc::new(kv), record }
    }

    /// Opens it in a new session; the last one has ended.
    pub fn open(&self) -> Arc<Session> {
        let volume = Volume::new(self.kv.clone(), self.record.clone(), Seams::default(), None);
        let opened = volume.open_session().now_or_never().expect("memory does not wait");
        Arc::new(opened.expect("memory does not fail"))
    }

    /// What a crash at this moment leaves of it: all that was synced, and nothing else.
    #[must_use]
    pub fn after_crash(&self) -> Self {
        Self { kv: Arc::new(self.kv.crash()), record: self.record.clone() }
    }
}

/// A new volume in memory, opened.
pub fn in_memory(info: &VolumeInfo, root: (u32, u32, u32)) -> Arc<Session> {
    MemoryVolume::format(info, root).open()
}

/// Writes what every volume starts with.
pub(crate) fn initialise(
    kv: &dyn Kv,
    info: &VolumeInfo,
    (uid, gid, mode): (u32, u32, u32),
) -> Result<VolumeRecord, MetaError> {
    let now = wall_clock();
    let attr = Attr {
        ino: ROOT,
        kind: Kind::Directory,
        mode: mode & 0o7777,
        nlink: 2,
        uid,
        gid,
        rdev: 0,
        xattrs: 0,
        size: 0,
        stored: 0,
        atime: now,
        mtime: now,
        ctime: now,
        btime: now,
    };
    let root = Inode { attr, parent: ROOT, orphan_of: None, in_trash: false };
    let numbers = Numbers { next_ino: ROOT.0 + 1, next_session: 1 };
    // The standard library seeds its hash maps from the kernel's randomness.
    let seed = RandomState::new().build_hasher().finish();
    let record = VolumeRecord { info: info.clone(), seed, trash_days: 0 };
    kv.transact(&mut |_| {
        let put = |value: &[u8]| Some(Value::from(value));
        let writes = Batch::from([
            (key::volume::key(), put(&record.encode())),
            (key::numbers::key(), put(&numbers.encode())),
            (key::inode::key(ROOT), put(&root.encode())),
        ]);
        let counting = Counting::Set(Counters { inodes: 1, ..Counters::NONE });
        Ok(Change { writes, counting })
    })?;
    Ok(record)
}

fn whose(others: &[FoundVolume]) -> String {
    let named = |found: &FoundVolume| match (&found.name, &found.state) {
        (Some(name), _) => name.clone(),
        (None, VolumeState::Damaged(why)) => format!("number {} ({why})", found.id),
        (None, _) => format!("number {}", found.id),
    };
    match others {
        [] => "nor any other (ashlar format makes one)".to_owned(),
        others => format!("only: {}", others.iter().map(named).collect::<Vec<_>>().join(", ")),
    }
}

/// Why a volume is not taken over; and what can be done where something is lost for good.
fn refused(name: &str, why: &TakeOverError) -> VolumeError {
    if !why.is_loss() {
        return damaged(name, why);
    }
    let order = format!(
        "{why}; once no disk is away that may have it, ashlar fsck {name} --salvage opens the volume with what is left"
    );
    damaged(name, &order)
}

fn damaged(name: &str, reason: &dyn std::fmt::Display) -> VolumeError {
    VolumeError::Damaged { name: name.to_owned(), reason: reason.to_string() }
}
