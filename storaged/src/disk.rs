//! One disk: its handle for everyone, and how it is opened.
//!
//! Writes go through the queue to the owner's thread ([`crate::owner::commit`]); reads go past it
//! ([`crate::read`]), on threads of their own ([`crate::read::readers`]). What both share is [`Shared`].
//!
//! Whatever may wait for the device does so on a thread that belongs to this disk alone, the closing
//! of its files included: a disk that hangs holds up nobody but who asked it.

pub mod bay;
pub(crate) mod late;
pub(crate) mod open;
pub(crate) mod recovery;
pub(crate) mod replay;
pub(crate) mod slot;
pub(crate) mod stepped;

use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::fcntl::Flock;
use parking_lot::Mutex;
use proto::checksum::Checked;
use proto::id::{BlobId, ClusterId, DiskId, Generation, GroupId, PartKey, SlotId, VolumeId};
use proto::limits::MAX_LIST;
use proto::part_store::{
    Beat, Condition, Fill, HANGS, Held, Issuer, LastBeat, Page, PartError, Scope, ScrubState,
    Standing,
};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::disk::open::DiskOptions;
use crate::error::{DiskError, DiskProblem};
use crate::format::superblock::{Locked, Superblock, lock};
use crate::io::system::disk_dir;
use crate::log::record::Membership;
use crate::owner::Owner;
use crate::owner::watch::Watch;
use crate::read::readers::Readers;
use crate::scrub::{self, Scrub};
use crate::shared::hands::own_threads;
use crate::shared::queue::{Ask, To};
use crate::shared::{Shared, fits};

/// How long the end of a disk waits for what may only be slow.
const CLOSING: Duration = if cfg!(test) { Duration::from_secs(3) } else { Duration::from_secs(10) };
/// How long it waits for a disk that is known to hang.
const CLOSING_HUNG: Duration = Duration::from_millis(500);
/// How often it looks whether that is known.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// An open disk. Dropping it leaves everything in order on disk, and waits for that, but not for ever:
/// the log has all that was acknowledged.
pub struct Disk {
    shared: Arc<Shared>,
    superblock: Superblock,
    readers: Readers,
    owner: Mutex<Option<OwnersThread>>,
}

/// The owner's thread; its end closes the channel.
struct OwnersThread {
    thread: JoinHandle<()>,
    end: Receiver<()>,
}

/// How a slot of a disk stands to its group.
pub(crate) struct SlotStanding {
    pub(crate) slot: SlotId,
    pub(crate) group: GroupId,
    pub(crate) standing: Standing,
}

/// What a disk tells of itself.
#[derive(Clone, Debug)]
pub struct DiskState {
    /// `ok`, `read-only: WHY`, or `hangs: SINCE WHEN`.
    pub state: String,
    /// How full it is.
    pub fill: Fill,
    /// Parts held.
    pub parts: u64,
    /// Those of them that are known to be damaged.
    pub damaged: u64,
    /// How far its scrub is; `None`: it is not scrubbed.
    pub scrub: Option<ScrubState>,
    /// Volumes that somebody has, and of which it does not have all that it should yet.
    pub filling: u64,
}

impl Disk {
    /// Opens a disk: takes the lock, checks whose it is, and recovers. Blocks; may take long after
    /// the index was lost.
    ///
    /// # Errors
    /// If it is no disk, another cluster's, in use, or cannot be read.
    pub fn open(dir: &Path, options: DiskOptions) -> Result<Arc<Self>, DiskError> {
        let Locked { lock, superblock, access } = lock(dir)?;
        if let Some(expected) = options.cluster
            && expected != superblock.cluster
        {
            let problem = DiskProblem::ForeignCluster { found: superblock.cluster, expected };
            return Err(DiskError::new(dir, problem));
        }
        if let Some(named) = options.disk.filter(|named| *named != superblock.disk) {
            let problem = DiskProblem::OtherDisk { found: superblock.disk, named, home: None };
            return Err(DiskError::new(dir, problem));
        }
        let mut owner = open::recover(&disk_dir(dir), &superblock, &options, own_threads(), access)
            .map_err(|problem| DiskError::new(dir, problem))?;
        let watch = Watch::new(&owner.shared, &lock, access);
        owner.watch = Some(watch.map_err(|e| DiskError::new(dir, DiskProblem::Io(e)))?);
        let shared = owner.shared.clone();
        shared.publish(&owner.ledger.space);
        let (sender, receiver) = channel();
        if options.scrub_days > 0 {
            start_scrub(&shared, options.scrub_days, sender.clone());
        }
        let end = OwnersEnd { shared: shared.clone(), _lock: lock, _sender: sender };
        let thread = std::thread::Builder::new()
            .name("disk".to_owned())
            .spawn(move || {
                let _end = end;
                owner.run();
            })
            .map_err(|e| DiskError::new(dir, DiskProblem::Io(e)))?;
        let owner = Mutex::new(Some(OwnersThread { thread, end: receiver }));
        let readers = Readers::new(shared.hands.clone());
        Ok(Arc::new(Self { readers, shared, superblock, owner }))
    }

    /// A disk whose owner is somebody else's to run.
    pub(crate) fn of(owner: &Owner, superblock: Superblock) -> Self {
        let shared = owner.shared.clone();
        shared.publish(&owner.ledger.space);
        let readers = Readers::new(shared.hands.clone());
        Self { readers, shared, superblock, owner: Mutex::new(None) }
    }

    /// Its id.
    pub fn id(&self) -> DiskId {
        self.superblock.disk
    }

    /// The cluster it belongs to.
    pub fn cluster(&self) -> ClusterId {
        self.superblock.cluster
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.shared.dir
    }

    /// Waits until the disk cannot go on, and answers why: it has to be opened anew. `None`: it was
    /// closed. Blocks.
    pub(crate) fn until_lost(&self) -> Option<String> {
        self.shared.until_lost()
    }

    /// What its threads share.
    #[cfg(test)]
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Changes that are in memory and in the log alone.
    #[cfg(test)]
    pub(crate) fn changes(&self) -> usize {
        self.shared.index.pending()
    }

    /// How it is.
    pub fn state(&self) -> DiskState {
        let (fill, parts) = self.shared.view();
        let state = match (self.hangs(), self.shared.read_only()) {
            (Some(why), _) => why,
            (None, Some(why)) => format!("read-only: {why}{}", self.shared.doubts.told()),
            (None, None) => "ok".to_owned(),
        };
        let (damaged, scrub) = (self.shared.damaged(), self.shared.scrub());
        DiskState { state, fill, parts, damaged, scrub, filling: self.shared.filling() }
    }

    /// In words: how long it has not answered, if that is too long.
    pub(crate) fn hangs(&self) -> Option<String> {
        let since = self.shared.calls.hanging()?;
        Some(format!("{HANGS}: no answer for {} s", since.as_secs()))
    }

    /// Takes no more requests, writes the last checkpoint, and returns when that is done, or when it
    /// hangs for too long.
    pub async fn close(&self) {
        self.refuse();
        let Some(owner) = self.owner.lock().take() else { return };
        let (tell, told) = oneshot::channel();
        let shared = self.shared.clone();
        // Waiting blocks. Without a thread for that, nobody waits.
        let _waiting = std::thread::Builder::new().name("disk-close".to_owned()).spawn(move || {
            owner.wait(&shared);
            let _ = tell.send(());
        });
        let _ = told.await;
    }

    pub(crate) fn refuse(&self) {
        self.readers.close();
        self.shared.close();
    }

    /// The slots that were ever addressed.
    pub(crate) fn standings(&self) -> Vec<SlotStanding> {
        let bare = self.shared.view().1 == 0;
        let members = self.shared.slots.read().clone();
        let standing = |(slot, member): (SlotId, Membership)| {
            let Membership { group, generation, rebuilding } = member;
            let pristine = bare && !self.shared.has_promised(slot);
            let standing = Standing { generation, rebuilding, pristine };
            SlotStanding { slot, group, standing }
        };
        members.into_iter().map(standing).collect()
    }

    /// May the slot be addressed so?
    ///
    /// # Errors
    /// [`PartError::WrongAddress`] and [`PartError::StaleGeneration`].
    pub(crate) fn check_fits(
        &self,
        slot: SlotId,
        group: GroupId,
        generation: Generation,
    ) -> Result<(), PartError> {
        let known = self.shared.slots.read().get(&slot).copied();
        fits(slot, known, group, generation).map(drop)
    }

    /// Asks the owner, and waits for its answer.
    pub(crate) async fn ask(&self, to: To, ask: Ask) -> Result<(), PartError> {
        check(to, &ask)?;
        self.shared.queue.ask(to, ask).await
    }

    /// The same with a share of the daemon's room: the request has its place in the order when this returns.
    pub(crate) fn push(
        &self,
        to: To,
        ask: Ask,
        room: OwnedSemaphorePermit,
    ) -> Result<impl Future<Output = Result<(), PartError>> + Send + use<>, PartError> {
        check(to, &ask)?;
        Ok(self.shared.queue.push(to, ask, room))
    }

    /// The whole check blocks around `range`, verified.
    pub(crate) async fn get(
        &self,
        to: To,
        key: PartKey,
        range: Range<u32>,
    ) -> Result<Checked, PartError> {
        if range.is_empty() || range.end > key.blob.part_len() {
            return Err(PartError::Invalid(format!(
                "no bytes {range:?} in a part of {}",
                key.blob
            )));
        }
        if !self.shared.admits(to)? && self.shared.read_only().is_none() {
            self.ask(to, Ask::Turn).await?;
        }
        self.blocking(move |shared| {
            // A newer generation may have become known while it waited.
            shared.admits(to)?;
            shared.read(to.slot, key, range)
        })
        .await
    }

    /// Runs a read on one of the disk's threads.
    async fn blocking<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Shared) -> Result<T, PartError> + Send + 'static,
    ) -> Result<T, PartError> {
        let shared = self.shared.clone();
        self.readers.run(move || read(&shared)).await
    }

    /// Which parts of the blob are here. To be asked when its turn has come.
    pub(crate) async fn held(&self, slot: SlotId, blob: BlobId) -> Result<Held, PartError> {
        self.blocking(move |shared| {
            shared.doubts.check_all()?;
            let failed = |e| shared.index_failed(&e);
            // What is put before it is declared rebuilt is seen below.
            let rebuilding = shared.is_rebuilding(slot, blob.volume());
            let deleted = shared.index.tombstone(slot, blob).map_err(failed)?.is_some();
            let parts = shared.index.parts_of(slot, blob).map_err(failed)?;
            if parts.is_empty() && !deleted {
                shared.check_all_read()?;
            }
            let parts = parts.into_iter().map(|(part, _)| part).collect();
            Ok(Held { parts, deleted, rebuilding })
        })
        .await
    }

    /// A page of a listing. To be asked when its turn has come.
    pub(crate) async fn list(
        &self,
        slot: SlotId,
        scope: Scope,
        after: Option<BlobId>,
        limit: u32,
    ) -> Result<Page, PartError> {
        let limit = limit.min(MAX_LIST) as usize;
        self.blocking(move |shared| {
            shared.doubts.check_all()?;
            let rebuilding = match scope {
                Scope::All => !shared.serves(slot),
                Scope::Volume(volume) | Scope::Session(volume, _) => {
                    shared.is_rebuilding(slot, volume)
                }
            };
            let page = shared.index.list(slot, scope, after, limit);
            let page = page.map_err(|e| shared.index_failed(&e))?;
            Ok(Page { rebuilding, ..page })
        })
        .await
    }

    /// To whom the volume is promised. To be asked when its turn has come.
    ///
    /// # Errors
    /// When a promise may be in a block file that could not be read, or was lost with what the slot had before.
    pub(crate) fn promised(
        &self,
        slot: SlotId,
        volume: VolumeId,
    ) -> Result<Option<Issuer>, PartError> {
        match self.shared.unread {
            None => {
                let unsure = self.shared.is_rebuilding(slot, volume);
                match self.shared.promise(slot, volume) {
                    None if unsure => Err(PartError::NotRebuilt),
                    promise => Ok(promise),
                }
            }
            Some(file) => Err(PartError::Io(format!(
                "block file {file} cannot be opened and may hold a promise"
            ))),
        }
    }

    /// Hears from whoever has a volume. Needs no turn: a fence was answered before its owner says anything.
    ///
    /// # Errors
    /// [`PartError::Fenced`] when the volume is another's.
    pub(crate) fn beat(
        &self,
        to: To,
        volume: VolumeId,
        issuer: Issuer,
        beat: Beat,
    ) -> Result<(), PartError> {
        self.shared.admits(to)?;
        Issuer::check(Some(issuer), self.shared.promise(to.slot, volume))?;
        self.shared.beats.heard(to.slot, volume, issuer, beat);
        Ok(())
    }

    /// What was heard last of whoever has a volume; nothing, when it is another's by now.
    pub(crate) fn last_beat(
        &self,
        to: To,
        volume: VolumeId,
    ) -> Result<Option<LastBeat>, PartError> {
        self.shared.admits(to)?;
        let promise = self.shared.promise(to.slot, volume);
        let last = self.shared.beats.last(to.slot, volume);
        Ok(last.filter(|last| Issuer::check(Some(last.issuer), promise).is_ok()))
    }

    /// How what a slot holds of a volume is, as far as is known. Costs no I/O, and needs no turn: what was damaged
    /// stays so until it is put again.
    pub(crate) fn condition(&self, to: To, volume: VolumeId) -> Result<Condition, PartError> {
        self.shared.admits(to)?;
        Ok(Condition {
            rebuilding: self.shared.is_rebuilding(to.slot, volume),
            damaged: self.shared.damaged_blobs(to.slot, volume, MAX_LIST as usize),
            parts: self.shared.view().1,
            scrub: self.shared.scrub(),
        })
    }

    /// Has all that is on it read and verified, from now on and as fast as users allow.
    ///
    /// # Errors
    /// [`PartError::Invalid`] when it is never scrubbed.
    pub fn scrub(&self) -> Result<(), PartError> {
        let unscrubbed = || PartError::Invalid("it is never scrubbed (scrub-days is 0)".to_owned());
        self.shared.ask_for_scrub().then_some(()).ok_or_else(unscrubbed)
    }

    /// Every part, with its slot, in order, until `take` says `false`. Blocks.
    pub fn each_part(
        &self,
        mut take: impl FnMut(SlotId, PartKey) -> bool,
    ) -> Result<(), PartError> {
        let all = self.shared.index.all_parts(|slot, key, _| take(slot, key));
        all.map_err(|e| self.shared.index_failed(&e))
    }

    /// Bytes of a part, verified. Blocks.
    pub fn read_part(&self, slot: SlotId, key: PartKey) -> Result<Checked, PartError> {
        self.shared.read(slot, key, 0..key.blob.part_len())
    }
}

/// Has a thread scrub the disk; whoever waits for the end of the owner waits for its end, too. Without a thread it
/// is not scrubbed until it is opened again.
fn start_scrub(shared: &Arc<Shared>, days: u32, end: Sender<()>) {
    let scrub = Scrub::new(shared.clone(), days, scrub::seconds_now());
    let started = std::thread::Builder::new().name("disk-scrub".to_owned()).spawn(move || {
        let _end = end;
        scrub.run();
    });
    if let Err(e) = started {
        tracing::error!(disk = %shared.disk, "the disk is not scrubbed: {e}");
    }
}

/// Does the request make sense in itself?
fn check(to: To, ask: &Ask) -> Result<(), PartError> {
    let Ask::Put(key, data, _) = ask else { return Ok(()) };
    let (blob, len) = (key.blob, data.data().len());
    if len != blob.part_len() as usize {
        return Err(PartError::Invalid(format!(
            "the payload has {len} bytes, a part of {blob} has {}",
            blob.part_len()
        )));
    }
    if blob.group() != to.group {
        let (of, to) = (blob.group(), to.group);
        return Err(PartError::Invalid(format!("blob {blob} is of group {of}, not of group {to}")));
    }
    Ok(())
}

/// When the owner's thread ends, even by a panic, nobody is left waiting for it, and nothing of the
/// disk is open any more: what is left of it can be dropped anywhere.
struct OwnersEnd {
    shared: Arc<Shared>,
    // Then: the disk is ours until everything is closed.
    _lock: Flock<File>,
    // Last: it tells of the end.
    _sender: Sender<()>,
}

impl Drop for OwnersEnd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.shared.lose("its thread ended in a panic".to_owned());
        }
        self.shared.release();
    }
}

impl OwnersThread {
    /// Waits for its end, within bounds. A thread that hangs keeps the disk's lock.
    fn wait(self, shared: &Shared) {
        let began = Instant::now();
        loop {
            match self.end.recv_timeout(LOOK_AGAIN) {
                Err(RecvTimeoutError::Timeout) => {}
                // A panic in the owner has been reported by itself.
                _ => return drop(self.thread.join()),
            }
            let waited = began.elapsed();
            let hangs = shared.calls.hanging().is_some();
            if waited >= CLOSING || hangs && waited >= CLOSING_HUNG {
                return tracing::error!(
                    disk = %shared.disk, waiting = shared.queue.waiting(),
                    changes = shared.index.pending(),
                    "the disk hangs: given up after {waited:.1?} with requests waiting and changes not \
                     in the index; the next start reads them from the log"
                );
            }
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.refuse();
        // The owner itself may be the last to let go, as it answers: it ends by itself then.
        if let Some(owner) = self.owner.get_mut().take()
            && owner.thread.thread().id() != std::thread::current().id()
        {
            owner.wait(&self.shared);
        }
    }
}
