//! [`Volume`]: a volume that this process has open: its tables, its journal, its leader, and who works on it.
//!
//! Whoever works on it is a session; the volume outlives them all, and is ended by [`Volume::close`]. What
//! concerns no session, the walk of a check or the disks that it was stored on, is asked of the volume itself.
//!
//! Invariants:
//! * A session is among the living from before its record can be seen, so that none is ever taken for dead that
//!   works here. All others whose records are there are dead: nobody but the leader has sessions.
//! * What a take-over found needless is deleted only once this leader has an entry in the store.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use parking_lot::{Mutex, RwLock};
use proto::guard::caught;
use proto::id::{BlobId, Epoch, SessionId};
use proto::part_store::Issuer;
use tokio::runtime::Handle;

use crate::clock::{Clock, wall_clock};
use crate::engine::patient::Patient;
use crate::engine::{Kv, View};
use crate::journal::takeover::Leading;
use crate::key;
use crate::key::volume::VolumeRecord;
use crate::missing::Missing;
use crate::ops::{blobs, sessions};
use crate::record::members::Members;
use crate::record::window::Window;
use crate::rules::name::{self, Hasher};
use crate::store::{BlobRecord, ExtentPage, Ino, MetaError, Time, VolumeInfo};
use crate::txn::{Context, Txn};
use crate::volume::lock::VolumeLock;
use crate::volume_store::VolumeStore;

/// What differs in tests.
#[derive(Clone, Copy)]
pub(crate) struct Seams {
    /// Tells the time.
    pub(crate) clock: Clock,
    /// Hashes names.
    pub(crate) hasher: Hasher,
}

impl Default for Seams {
    fn default() -> Self {
        Self { clock: wall_clock, hasher: name::hash }
    }
}

/// What leads a volume, and what it may delete.
pub(crate) struct Lead {
    /// The journal's task.
    pub(crate) leading: Leading,
    /// Says on this machine who has the volume.
    pub(crate) lock: VolumeLock,
    /// Blobs of metadata that nothing stands on.
    pub(crate) needless: (Arc<dyn VolumeStore>, Vec<BlobId>),
}

/// A volume, opened.
pub struct Volume {
    pub(crate) kv: Arc<dyn Kv>,
    info: RwLock<VolumeInfo>,
    /// One at a time changes what the volume is.
    changing: tokio::sync::Mutex<()>,
    /// Of the hashes of names.
    seed: u64,
    trash_days: AtomicU16,
    seams: Seams,
    alive: Mutex<BTreeSet<SessionId>>,
    /// Sessions that work from elsewhere, and are waited for since the volume was taken over.
    awaited: Mutex<Vec<(SessionId, Window)>>,
    /// One at a time marks which of them are over. Such marks may not be durable.
    marking: tokio::sync::Mutex<bool>,
    /// `None`: it has no journal, is only looked at, or was closed.
    lead: Mutex<Option<Lead>>,
    lies_in: Vec<BlobId>,
}

impl Drop for Volume {
    /// Who does not close it leaves what a crash leaves.
    fn drop(&mut self) {
        if let Some(lead) = self.lead.get_mut().take() {
            lead.leading.kill();
        }
    }
}

impl Volume {
    /// Over a formatted key space.
    pub(crate) fn new(
        kv: Arc<dyn Kv>,
        record: VolumeRecord,
        seams: Seams,
        lead: Option<Lead>,
    ) -> Arc<Self> {
        Arc::new(Self::over(kv, record, seams, lead, Vec::new()))
    }

    /// As it is in the store at one moment, to be looked at.
    pub(crate) fn looked_at(
        kv: Arc<dyn Kv>,
        record: VolumeRecord,
        lies_in: Vec<BlobId>,
    ) -> Arc<Self> {
        Arc::new(Self::over(kv, record, Seams::default(), None, lies_in))
    }

    fn over(
        kv: Arc<dyn Kv>,
        record: VolumeRecord,
        seams: Seams,
        lead: Option<Lead>,
        lies_in: Vec<BlobId>,
    ) -> Self {
        let VolumeRecord { info, seed, trash_days } = record;
        let (alive, lead) = (Mutex::default(), Mutex::new(lead));
        let (info, changing) = (RwLock::new(info), tokio::sync::Mutex::default());
        let trash_days = AtomicU16::new(trash_days);
        let (awaited, marking) = (Mutex::default(), tokio::sync::Mutex::default());
        Self { kv, info, changing, seed, trash_days, seams, alive, awaited, marking, lead, lies_in }
    }

    /// The blobs that its metadata are in: entries of the journal, the manifest and the chunks of the snapshot. Of a volume
    /// that is looked at; of others they change all the time, and none is told.
    pub fn lies_in(&self) -> &[BlobId] {
        &self.lies_in
    }

    /// What the volume is.
    pub fn info(&self) -> VolumeInfo {
        self.info.read().clone()
    }

    /// In whose name blobs of the volume are put; `None`: nobody leads it here.
    pub(crate) fn issuer(&self) -> Option<Issuer> {
        let owner = self.lead.lock().as_ref()?.needless.0.owner();
        let epoch = Epoch(self.kv.journal()?.epoch);
        Some(Issuer { epoch, owner })
    }

    /// Why nothing can be changed here any more; `None`: it can.
    pub(crate) fn ended(&self) -> Option<String> {
        self.kv.ended()
    }

    /// Batches of changes of this leader that are durable.
    pub(crate) fn durable_batches(&self) -> u64 {
        self.kv.durable_batches()
    }

    /// Changes how many disks can still be lost once a blob is stored. Durable when this returns.
    ///
    /// # Errors
    /// When the engine fails: then it may be changed at the next mount, and is not here.
    pub async fn set_min_spare(&self, min_spare: u8) -> Result<(), MetaError> {
        let _alone = self.changing.lock().await;
        let mut info = self.info();
        info.rules = info.rules.with_min_spare(min_spare);
        self.put_record(info.clone(), self.trash_days()).await?;
        *self.info.write() = info;
        Ok(())
    }

    /// Days that what is deleted stays in the trash; 0: it goes at once.
    pub fn trash_days(&self) -> u16 {
        self.trash_days.load(Ordering::Relaxed)
    }

    /// Changes that. Durable when this returns.
    ///
    /// # Errors
    /// When the engine fails: then it may be changed at the next mount, and is not here.
    pub async fn set_trash_days(&self, days: u16) -> Result<(), MetaError> {
        let _alone = self.changing.lock().await;
        self.put_record(self.info(), days).await?;
        self.trash_days.store(days, Ordering::Relaxed);
        Ok(())
    }

    async fn put_record(&self, info: VolumeInfo, trash_days: u16) -> Result<(), MetaError> {
        let value = VolumeRecord { info, seed: self.seed, trash_days }.encode();
        self.write(SessionId(0), |txn| {
            txn.put(key::volume::key(), &value);
            Ok(())
        })
        .await?;
        self.kv.sync().await
    }

    /// Once an entry of this leader is in the store, no older leader's can count any more.
    pub(crate) async fn delete_needless(&self) {
        let needless = match &mut *self.lead.lock() {
            Some(Lead { needless: (store, ids), .. }) => (store.clone(), std::mem::take(ids)),
            None => return,
        };
        let (store, ids) = needless;
        if !ids.is_empty()
            && let Err(error) = store.delete(&ids).await
        {
            tracing::debug!("needless blobs of metadata stay for the next mount: {error}");
        }
    }

    /// The end of a volume whose sessions have ended: lets go of it.
    pub async fn close(&self) {
        let lead = self.lead.lock().take();
        if let Some(Lead { leading, lock, .. }) = lead {
            leading.end().await;
            drop(lock);
        }
    }

    /// Sessions that work here.
    pub(crate) fn alive(&self) -> BTreeSet<SessionId> {
        self.alive.lock().clone()
    }

    /// A session begins.
    pub(crate) fn note_begin(&self, session: SessionId) {
        self.alive.lock().insert(session);
    }

    /// A session has ended.
    pub(crate) fn note_end(&self, session: SessionId) {
        self.alive.lock().remove(&session);
    }

    /// Sessions that worked from elsewhere when whoever led the volume ended are alive from now on: they may come back. To be
    /// called before anybody looks which are dead.
    ///
    /// # Errors
    /// When the engine fails.
    pub async fn await_sessions(&self) -> Result<(), MetaError> {
        let all = self.read(|txn| sessions::elsewhere(txn)).await?;
        all.iter().for_each(|(session, _)| self.note_begin(*session));
        *self.awaited.lock() = all;
        Ok(())
    }

    /// Sessions from elsewhere that are over stay so, whoever leads the volume next: nobody waits for them. Durable when this
    /// returns.
    ///
    /// # Errors
    /// When the engine fails.
    pub(crate) async fn mark_over(&self) -> Result<(), MetaError> {
        let mark = |txn: &mut Txn<'_>| {
            let mut over = sessions::elsewhere(txn)?;
            // One that begins is alive before it can be seen here.
            let alive = self.alive();
            over.retain(|(session, _)| !alive.contains(session));
            over.iter().for_each(|(session, _)| sessions::mark_over(txn, *session));
            Ok(!over.is_empty())
        };
        let mut unsynced = self.marking.lock().await;
        let marked = self.write(SessionId(0), mark).await?;
        *unsynced |= marked;
        if *unsynced {
            self.kv.sync().await?;
            *unsynced = false;
        }
        Ok(())
    }

    /// Those, which are somebody's to wait for from now on.
    pub(crate) fn take_awaited(&self) -> Vec<(SessionId, Window)> {
        std::mem::take(&mut *self.awaited.lock())
    }

    /// Sessions that ended without being closed.
    ///
    /// # Errors
    /// When the engine fails.
    pub async fn dead_sessions(&self) -> Result<Vec<SessionId>, MetaError> {
        let all = self.read(|txn| sessions::all(txn)).await?;
        let alive = self.alive();
        Ok(all.into_iter().filter(|session| !alive.contains(session)).collect())
    }

    /// The session that will be opened next: all that ever were have lower numbers.
    ///
    /// # Errors
    /// When the engine fails, or what is recorded makes no sense.
    pub async fn next_session(&self) -> Result<SessionId, MetaError> {
        let numbers = self.read(|txn| txn.numbers()).await?;
        Ok(SessionId(numbers.next_session))
    }

    /// Records of blobs after `after`, in order, at most `limit`. A damaged one counts as alive.
    ///
    /// # Errors
    /// When the engine fails.
    pub async fn blobs(
        &self,
        after: Option<BlobId>,
        limit: usize,
    ) -> Result<Vec<BlobRecord>, MetaError> {
        self.read(|txn| blobs::list(txn, after, limit)).await
    }

    /// Extents of any file that lie in a blob, a page of them: see [`MetaStore::references`].
    ///
    /// # Errors
    /// When the engine fails.
    ///
    /// [`MetaStore::references`]: crate::store::MetaStore::references
    pub async fn references(
        &self,
        id: BlobId,
        after: Option<(Ino, u64)>,
        limit: usize,
    ) -> Result<ExtentPage, MetaError> {
        self.read(|txn| blobs::references(txn, id, after, limit)).await
    }

    /// The slots that the volume has used, those that no blob needs left out. `None`: nobody has noted
    /// any yet, or what is noted cannot be read.
    ///
    /// # Errors
    /// When the engine fails.
    pub async fn members(&self) -> Result<Option<Members>, MetaError> {
        let value = self.read(|txn| txn.get(&key::members::key())).await?;
        let Some(mut members) = value.as_deref().and_then(key::members::decode) else {
            return Ok(None);
        };
        let oldest = self.blobs(None, 1).await?;
        members.forget(oldest.first().map(|blob| blob.id.session()));
        Ok(Some(members))
    }

    /// Notes the slots that the volume uses, durably.
    ///
    /// # Errors
    /// When the engine fails.
    pub async fn note_members(&self, members: &Members) -> Result<(), MetaError> {
        let value = key::members::encode(members);
        self.write(SessionId(0), |txn| {
            txn.put(key::members::key(), &value);
            Ok(())
        })
        .await?;
        self.kv.sync().await
    }

    /// The time.
    pub(crate) fn now(&self) -> Time {
        (self.seams.clock)()
    }

    fn context(&self, session: SessionId, missed: bool) -> Context {
        let (seed, hasher, now) = (self.seed, self.seams.hasher, self.now());
        Context { seed, hasher, session, now, missed }
    }

    /// Runs a transaction of a session: again, once what it missed was fetched.
    pub(crate) async fn write<R: Send>(
        &self,
        session: SessionId,
        mut body: impl FnMut(&mut Txn<'_>) -> Result<R, MetaError> + Send,
    ) -> Result<R, MetaError> {
        if !self.kv.has_room() {
            self.kv.room().await?;
        }
        let mut missed = false;
        loop {
            match self.try_write(session, missed, &mut body) {
                Err(MetaError::Elsewhere(missing)) => {
                    self.after_a_miss(&missing, &mut missed).await?;
                }
                done => return done,
            }
        }
    }

    /// What is to be done before a transaction is run again, which missed something: the first time it is
    /// only told, so that it says what else it will look at.
    async fn after_a_miss(&self, missing: &Missing, missed: &mut bool) -> Result<(), MetaError> {
        if std::mem::replace(missed, true) { self.kv.fetch(missing).await } else { Ok(()) }
    }

    fn try_write<R>(
        &self,
        session: SessionId,
        missed: bool,
        body: &mut impl FnMut(&mut Txn<'_>) -> Result<R, MetaError>,
    ) -> Result<R, MetaError> {
        let mut answer = None;
        let mut run = |view: &dyn View| {
            let mut txn = Txn::new(view, self.context(session, missed));
            answer = Some(body(&mut txn)?);
            txn.finish()
        };
        caught("a change of metadata", || self.kv.transact(&mut run))??;
        Ok(answer.expect("a transaction that succeeded has run"))
    }

    /// Runs a transaction that writes nothing: again, once what it missed was fetched.
    pub(crate) async fn read<R: Send>(
        &self,
        mut body: impl FnMut(&mut Txn<'_>) -> Result<R, MetaError> + Send,
    ) -> Result<R, MetaError> {
        let mut missed = false;
        loop {
            match self.try_read(missed, &mut body) {
                Err(MetaError::Elsewhere(missing)) => {
                    self.after_a_miss(&missing, &mut missed).await?;
                }
                done => return done,
            }
        }
    }

    fn try_read<R>(
        &self,
        missed: bool,
        body: &mut impl FnMut(&mut Txn<'_>) -> Result<R, MetaError>,
    ) -> Result<R, MetaError> {
        let mut answer = None;
        let mut run = |view: &dyn View| {
            answer = Some(body(&mut Txn::new(view, self.context(SessionId(0), missed)))?);
            Ok(())
        };
        caught("a look at metadata", || self.kv.read(&mut run))??;
        Ok(answer.expect("a read that succeeded has run"))
    }

    /// Runs a long look at everything on a thread of its own, which waits for what must be fetched.
    pub(crate) async fn read_patiently<R: Send + 'static>(
        &self,
        body: impl Fn(&mut Txn<'_>) -> Result<R, MetaError> + Send + 'static,
    ) -> Result<R, MetaError> {
        let (kv, context, runtime) =
            (self.kv.clone(), self.context(SessionId(0), false), Handle::current());
        let look = move || {
            let mut answer = None;
            let mut run = |view: &dyn View| {
                let patient = Patient { view, kv: &*kv, runtime: &runtime };
                answer = Some(body(&mut Txn::new(&patient, context))?);
                Ok(())
            };
            caught("a look at metadata", || kv.read(&mut run))??;
            Ok(answer.expect("a read that succeeded has run"))
        };
        let looked = tokio::task::spawn_blocking(look).await;
        looked.unwrap_or_else(|e| Err(MetaError::Engine(e.to_string())))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::engine::memory::{Failing, MemoryKv};
    use crate::store::MetaStore;
    use crate::volume::initialise;
    use crate::wire::samples;

    #[tokio::test]
    async fn whoever_is_said_to_be_dead_is_so_durably_also_where_that_failed_before() {
        let kv = Arc::new(Failing { kv: MemoryKv::default(), fails: AtomicBool::new(false) });
        let record = initialise(&kv.kv, &samples::a_volume(), (0, 0, 0o755)).unwrap();
        let volume = Volume::new(kv.clone(), record.clone(), Seams::default(), None);
        let keeper = volume.open_session().await.unwrap();
        let window = Window::new([7; 32], "a test".to_owned());
        let dead = volume.open_session_elsewhere(&window).await.unwrap();
        let id = dead.session();
        drop(dead);
        kv.fails.store(true, Ordering::SeqCst);
        for _ in 0..2 {
            assert!(keeper.dead_sessions().await.is_err(), "nobody may sweep it yet");
        }
        kv.fails.store(false, Ordering::SeqCst);
        assert_eq!(keeper.dead_sessions().await, Ok(vec![id]));
        let next = Volume::new(Arc::new(kv.kv.crash()), record, Seams::default(), None);
        next.await_sessions().await.unwrap();
        assert!(next.take_awaited().is_empty(), "it may have been swept");
    }
}
