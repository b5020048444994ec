//! Metadata of files without names, in memory, with a durable copy that a crash falls back to.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, Range};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};

use async_trait::async_trait;
use meta::*;
use parking_lot::Mutex;
use proto::id::{BlobId, ClusterId, SessionId, VolumeId};
use proto::scheme::Scheme;

#[derive(Clone, Default)]
pub(crate) struct File {
    size: u64,
    mtime: Time,
    extents: BTreeMap<u64, Extent>,
}

#[derive(Clone, Default)]
pub(crate) struct State {
    files: BTreeMap<Ino, File>,
    pub(crate) blobs: BTreeMap<BlobId, i64>,
    pub(crate) dead: BTreeSet<SessionId>,
    pub(crate) inline: BTreeMap<BlobId, Arc<[u8]>>,
}

pub(crate) struct MemoryMeta {
    pub(crate) session: SessionId,
    state: Mutex<State>,
    durable: Mutex<State>,
    pub(crate) relocations_fail: AtomicBool,
    /// Records of blobs that were listed.
    pub(crate) listed: AtomicU64,
    /// Files whose records make no sense to a commit.
    damaged: Mutex<BTreeSet<Ino>>,
    /// Files to which no reference leads.
    unreferred: Mutex<BTreeSet<Ino>>,
    /// Extents that were answered.
    pub(crate) extents_told: AtomicUsize,
    /// Most extents of a blob that were answered at once, or moved.
    pub(crate) largest_step: AtomicUsize,
    /// Extents of the largest commit.
    pub(crate) largest_commit: AtomicUsize,
    /// What is granted. `None`: everything.
    leases: Option<Arc<dyn Leases>>,
}

impl File {
    fn touching(&self, range: &Range<u64>) -> Vec<Extent> {
        let before = self.extents.range(..range.start).next_back();
        let first = before.filter(|(_, e)| e.offset + e.len > range.start);
        let rest = self.extents.range(range.start..range.end.max(range.start));
        first.into_iter().chain(rest).map(|(_, e)| *e).collect()
    }
}

impl State {
    fn file(&mut self, ino: Ino) -> Result<&mut File, MetaError> {
        self.files.get_mut(&ino).ok_or(MetaError::NotFound)
    }

    /// Takes a range out of a file, and its bytes off their blobs.
    fn cut(&mut self, ino: Ino, range: Range<u64>) {
        let Ok(file) = self.file(ino) else { return };
        let touched = file.touching(&range);
        let mut freed = Vec::new();
        for extent in touched {
            file.extents.remove(&extent.offset);
            let end = extent.offset + extent.len;
            let (from, to) = (range.start.max(extent.offset), range.end.min(end));
            freed.extend(extent.place.map(|place| (place.blob, (to - from) as i64)));
            for kept in [extent.offset..from, to..end] {
                if !kept.is_empty() {
                    let place = extent.place.map(|place| Place {
                        offset: place.offset + (kept.start - extent.offset) as u32,
                        ..place
                    });
                    let len = kept.end - kept.start;
                    file.extents.insert(kept.start, Extent { offset: kept.start, len, place });
                }
            }
        }
        for (blob, len) in freed {
            *self.blobs.get_mut(&blob).unwrap() -= len;
        }
    }

    fn put(&mut self, ino: Ino, extent: Extent) {
        self.cut(ino, extent.offset..extent.offset + extent.len);
        if let Some(place) = extent.place {
            *self.blobs.get_mut(&place.blob).expect("the blob is known") += extent.len as i64;
        }
        self.file(ino).unwrap().extents.insert(extent.offset, extent);
    }

    fn touching(&self, ino: Ino, range: &Range<u64>) -> Result<Vec<Extent>, MetaError> {
        let file = self.files.get(&ino).ok_or(MetaError::NotFound)?;
        Ok(file.touching(range))
    }

    fn attr(&mut self, ino: Ino) -> Result<Attr, MetaError> {
        let file = self.file(ino)?;
        let stored = file.extents.values().map(|e| e.len).sum();
        Ok(Attr { size: file.size, stored, ..super::empty_file(ino, file.mtime) })
    }
}

impl MemoryMeta {
    pub(crate) fn new() -> Self {
        Self::over(SessionId(1), State::default())
    }

    fn over(session: SessionId, state: State) -> Self {
        Self {
            session,
            state: Mutex::new(state.clone()),
            durable: Mutex::new(state),
            relocations_fail: AtomicBool::new(false),
            listed: AtomicU64::new(0),
            damaged: Mutex::default(),
            unreferred: Mutex::default(),
            extents_told: AtomicUsize::new(0),
            largest_step: AtomicUsize::new(0),
            largest_commit: AtomicUsize::new(0),
            leases: None,
        }
    }

    /// Of a session that has no more than this of it.
    pub(crate) fn leased(leases: Arc<dyn Leases>) -> Self {
        Self { leases: Some(leases), ..Self::new() }
    }

    /// Content is looked at and changed by what was granted alone.
    fn check_granted(&self, ino: Ino, needed: Access) -> Result<(), MetaError> {
        match &self.leases {
            Some(leases) if leases.access(ino) < needed => {
                Err(MetaError::Ended(format!("{needed:?} of {ino:?} was not granted")))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn create_file(&self, ino: Ino) {
        self.state.lock().files.insert(ino, File::default());
    }

    pub(crate) fn damage(&self, ino: Ino) {
        self.damaged.lock().insert(ino);
    }

    pub(crate) fn lose_references(&self, ino: Ino) {
        self.unreferred.lock().insert(ino);
    }

    pub(crate) fn remove_file(&self, ino: Ino) {
        let mut state = self.state.lock();
        state.cut(ino, 0..u64::MAX);
        state.files.remove(&ino);
    }

    /// What a crash leaves, opened again by the next session.
    pub(crate) fn after_crash(&self) -> Self {
        let mut state = self.durable.lock().clone();
        state.dead.insert(self.session);
        Self::over(SessionId(self.session.0 + 1), state)
    }

    /// A session that works on the volume from elsewhere dies.
    pub(crate) fn die(&self, session: SessionId) {
        self.state.lock().dead.insert(session);
    }

    pub(crate) fn live_bytes(&self) -> u64 {
        self.state.lock().blobs.values().sum::<i64>() as u64
    }

    pub(crate) fn known(&self) -> Vec<BlobId> {
        self.state.lock().blobs.keys().copied().collect()
    }

    pub(crate) fn size(&self, ino: Ino) -> u64 {
        self.state.lock().file(ino).unwrap().size
    }
}

#[async_trait]
impl MetaStore for MemoryMeta {
    fn volume(&self) -> VolumeInfo {
        VolumeInfo {
            name: "test".into(),
            id: VolumeId(1),
            cluster: ClusterId::random(),
            scheme: Scheme::erasure(4, 2).unwrap(),
            rules: proxy::VolumeRules::default(),
        }
    }
    async fn set_min_spare(&self, _: u8) -> Result<(), MetaError> {
        Ok(())
    }
    fn session(&self) -> SessionId {
        self.session
    }
    fn leases(&self) -> Option<Arc<dyn Leases>> {
        self.leases.clone()
    }
    async fn usage(&self) -> Result<Usage, MetaError> {
        let state = self.state.lock();
        Ok(Usage {
            inodes: state.files.len() as u64,
            live_bytes: state.blobs.values().sum::<i64>() as u64,
            blob_bytes: state.blobs.keys().map(|id| u64::from(id.len())).sum(),
            dead_bytes: {
                let dead =
                    |(id, live): (&BlobId, &i64)| u64::from(id.len()).saturating_sub(*live as u64);
                state.blobs.iter().map(dead).sum()
            },
            blobs: state.blobs.len() as u64,
            allocated_bytes: {
                let extents = state.files.values().flat_map(|file| file.extents.values());
                extents.filter(|extent| extent.place.is_none()).map(|extent| extent.len).sum()
            },
            disk_bytes: state.blobs.keys().map(BlobId::disk_bytes).sum(),
        })
    }
    async fn lookup(&self, _: Ino, _: &[u8]) -> Result<Attr, MetaError> {
        Err(MetaError::NotSupported)
    }
    async fn look(
        &self,
        _: Ino,
        _: &[Vec<u8>],
        _: &[u8],
    ) -> Result<Vec<Option<Looked>>, MetaError> {
        Err(MetaError::NotSupported)
    }
    async fn create(
        &self,
        _: Caller,
        _: Ino,
        _: &[u8],
        _: u32,
        _: NewNode,
    ) -> Result<Attr, MetaError> {
        Err(MetaError::NotSupported)
    }
    async fn create_nameless(&self, _: Caller, _: Ino, _: u32) -> Result<Attr, MetaError> {
        Err(MetaError::NotSupported)
    }
    async fn place(
        &self,
        _: Ino,
        _: Ino,
        _: &[u8],
        _: Replaces,
        _: Fate,
    ) -> Result<Option<Unlinked>, MetaError> {
        Err(MetaError::NotSupported)
    }
    async fn link(&self, _: Ino, _: Ino, _: &[u8]) -> Result<Attr, MetaError> {
        Err(MetaError::NotSupported)
    }
    async fn unlink(&self, _: Ino, _: &[u8]) -> Result<Unlinked, MetaError> {
        Err(MetaError::NotSupported)
    }
    async fn rmdir(&self, _: Ino, _: &[u8]) -> Result<Unlinked, MetaError> {
        Err(MetaError::NotSupported)
    }
    async fn rename(
        &self,
        _: (Ino, &[u8]),
        _: (Ino, &[u8]),
        _: RenameMode,
        _: Fate,
    ) -> Result<Option<Unlinked>, MetaError> {
        Err(MetaError::NotSupported)
    }
    async fn readlink(&self, _: Ino) -> Result<Vec<u8>, MetaError> {
        Err(MetaError::NotSupported)
    }
    async fn readdir(&self, _: Ino, _: u64, _: usize) -> Result<Vec<DirEntry>, MetaError> {
        Err(MetaError::NotSupported)
    }
    async fn getattr(&self, ino: Ino) -> Result<Attr, MetaError> {
        self.state.lock().attr(ino)
    }
    async fn setattr(&self, _: Ino, _: SetAttr) -> Result<Attr, MetaError> {
        Err(MetaError::NotSupported)
    }
    async fn accessed(&self, _: &[(Ino, Time)]) -> Result<(), MetaError> {
        Err(MetaError::NotSupported)
    }
    async fn clear_privileges(&self, _: Ino, _: bool) -> Result<(), MetaError> {
        Err(MetaError::NotSupported)
    }
    async fn getxattr(&self, _: Ino, _: &[u8]) -> Result<Vec<u8>, MetaError> {
        Err(MetaError::NotSupported)
    }
    async fn setxattr(&self, _: Ino, _: &[u8], _: &[u8], _: Option<bool>) -> Result<(), MetaError> {
        Err(MetaError::NotSupported)
    }
    async fn listxattr(&self, _: Ino) -> Result<Vec<Vec<u8>>, MetaError> {
        Err(MetaError::NotSupported)
    }
    async fn removexattr(&self, _: Ino, _: &[u8]) -> Result<(), MetaError> {
        Err(MetaError::NotSupported)
    }
    async fn extents(
        &self,
        ino: Ino,
        range: Range<u64>,
        limit: usize,
    ) -> Result<Vec<Extent>, MetaError> {
        self.check_granted(ino, Access::Read)?;
        let mut extents = self.state.lock().touching(ino, &range)?;
        extents.truncate(limit);
        self.extents_told.fetch_add(extents.len(), Relaxed);
        Ok(extents)
    }
    async fn commit(&self, blobs: &[BlobId], files: &[FileUpdate]) -> Result<(), MetaError> {
        files.iter().try_for_each(|update| self.check_granted(update.ino, Access::Write))?;
        let extents = files.iter().map(|update| update.extents.len()).sum();
        self.largest_commit.fetch_max(extents, Relaxed);
        let mut state = self.state.lock();
        if files.iter().any(|file| self.damaged.lock().contains(&file.ino)) {
            return Err(MetaError::Damaged("the test says so".into()));
        }
        for blob in blobs {
            state.blobs.entry(*blob).or_insert(0);
        }
        for update in files {
            if state.files.contains_key(&update.ino) {
                for extent in &update.extents {
                    state.put(update.ino, *extent);
                }
                let file = state.file(update.ino)?;
                file.size = file.size.max(update.size_at_least.unwrap_or(0));
                file.mtime = update.mtime.unwrap_or(file.mtime);
            }
        }
        Ok(())
    }
    async fn commit_inline(
        &self,
        id: BlobId,
        bytes: &[u8],
        files: &[FileUpdate],
    ) -> Result<(), MetaError> {
        self.commit(&[id], files).await?;
        self.state.lock().inline.insert(id, bytes.into());
        Ok(())
    }
    async fn inline_bytes(&self, id: BlobId) -> Result<Option<Arc<[u8]>>, MetaError> {
        let state = self.state.lock();
        let alive = state.blobs.get(&id).is_some_and(|live| *live > 0);
        Ok(state.inline.get(&id).filter(|_| alive).cloned())
    }
    async fn inline_blobs(
        &self,
        after: Option<BlobId>,
        limit: usize,
    ) -> Result<Vec<BlobId>, MetaError> {
        let state = self.state.lock();
        let behind = state.inline.keys().filter(|id| after.is_none_or(|after| **id > after));
        let alive = behind.filter(|id| state.blobs.get(id).is_some_and(|live| *live > 0));
        Ok(alive.take(limit).copied().collect())
    }
    async fn truncate(&self, ino: Ino, size: u64) -> Result<Attr, MetaError> {
        self.check_granted(ino, Access::Write)?;
        let mut state = self.state.lock();
        state.cut(ino, size..u64::MAX);
        state.file(ino)?.size = size;
        state.attr(ino)
    }
    async fn clear_range(
        &self,
        ino: Ino,
        range: Range<u64>,
        allocate: bool,
        grow: bool,
    ) -> Result<Attr, MetaError> {
        self.check_granted(ino, Access::Write)?;
        let mut state = self.state.lock();
        state.cut(ino, range.clone());
        if allocate {
            let len = range.end - range.start;
            state.put(ino, Extent { offset: range.start, len, place: None });
        }
        let file = state.file(ino)?;
        file.size = file.size.max(if grow { range.end } else { 0 });
        state.attr(ino)
    }
    async fn allocate(&self, ino: Ino, range: Range<u64>, grow: bool) -> Result<Attr, MetaError> {
        self.check_granted(ino, Access::Write)?;
        let mut state = self.state.lock();
        let there = state.touching(ino, &range)?;
        let mut at = range.start;
        for extent in there {
            if at < extent.offset {
                let len = extent.offset - at;
                state.put(ino, Extent { offset: at, len, place: None });
            }
            at = extent.offset + extent.len;
        }
        if at < range.end {
            state.put(ino, Extent { offset: at, len: range.end - at, place: None });
        }
        let file = state.file(ino)?;
        file.size = file.size.max(if grow { range.end } else { 0 });
        state.attr(ino)
    }
    async fn clone_range(
        &self,
        from: Ino,
        range: Range<u64>,
        to: Ino,
        to_offset: u64,
    ) -> Result<Attr, MetaError> {
        self.check_granted(from, Access::Read)?;
        self.check_granted(to, Access::Write)?;
        let mut state = self.state.lock();
        let extents = state.touching(from, &range)?;
        state.cut(to, to_offset..to_offset + (range.end - range.start));
        for extent in extents {
            let start = extent.offset.max(range.start);
            let len = (extent.offset + extent.len).min(range.end) - start;
            let skip = (start - extent.offset) as u32;
            let place = extent.place.map(|p| Place { offset: p.offset + skip, ..p });
            state.put(to, Extent { offset: to_offset + start - range.start, len, place });
        }
        let file = state.file(to)?;
        file.size = file.size.max(to_offset + (range.end - range.start));
        state.attr(to)
    }
    async fn orphans(&self) -> Result<Vec<Ino>, MetaError> {
        Ok(Vec::new())
    }
    async fn reap(&self, _: &[Ino]) -> Result<(), MetaError> {
        Ok(())
    }
    async fn garbage(&self, after: Option<BlobId>, limit: usize) -> Result<Vec<BlobId>, MetaError> {
        let (state, durable) = (self.state.lock(), self.durable.lock());
        let dead = |id: &&BlobId| state.blobs[*id] == 0 && durable.blobs.get(*id) == Some(&0);
        let later = state.blobs.keys().filter(|id| after.is_none_or(|after| **id > after));
        Ok(later.filter(dead).take(limit).copied().collect())
    }
    async fn forget_blobs(&self, ids: &[BlobId]) -> Result<(), MetaError> {
        let mut state = self.state.lock();
        for id in ids {
            assert_eq!(state.blobs.remove(id), Some(0));
        }
        Ok(())
    }
    async fn blobs(
        &self,
        after: Option<BlobId>,
        limit: usize,
    ) -> Result<Vec<BlobRecord>, MetaError> {
        let state = self.state.lock();
        let record = |(id, live): (&BlobId, &i64)| BlobRecord { id: *id, live: *live as u64 };
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let later = state.blobs.range((from, Bound::Unbounded));
        let page: Vec<_> = later.take(limit).map(record).collect();
        self.listed.fetch_add(page.len() as u64, Relaxed);
        Ok(page)
    }
    async fn references(
        &self,
        id: BlobId,
        after: Option<(Ino, u64)>,
        limit: usize,
    ) -> Result<ExtentPage, MetaError> {
        let (state, lost) = (self.state.lock(), self.unreferred.lock());
        let files = state.files.iter().filter(|(ino, _)| !lost.contains(ino));
        let all = files.flat_map(|(ino, file)| {
            file.extents.values().map(|extent| ((*ino, extent.offset + extent.len), *extent))
        });
        let within = all.filter(|(at, extent)| {
            extent.place.is_some_and(|place| place.blob == id)
                && after.is_none_or(|after| *at > after)
        });
        let page: Vec<_> = within.take(limit).collect();
        self.largest_step.fetch_max(page.len(), Relaxed);
        let next = page.last().map(|(at, _)| *at).filter(|_| page.len() == limit);
        Ok((page.into_iter().map(|((ino, _), extent)| (ino, extent)).collect(), next))
    }
    async fn blob(&self, id: BlobId) -> Result<Option<BlobRecord>, MetaError> {
        let live = self.state.lock().blobs.get(&id).copied();
        Ok(live.map(|live| BlobRecord { id, live: live as u64 }))
    }
    async fn adopt_garbage(&self, ids: &[BlobId]) -> Result<(), MetaError> {
        let mut state = self.state.lock();
        for id in ids {
            assert_eq!(state.blobs.insert(*id, 0), None, "it was unknown");
        }
        Ok(())
    }
    async fn relocate(&self, blobs: &[BlobId], moves: &[Relocation]) -> Result<(), MetaError> {
        if self.relocations_fail.load(Relaxed) {
            return Err(MetaError::Engine("the test says so".into()));
        }
        self.largest_step.fetch_max(moves.len(), Relaxed);
        let mut state = self.state.lock();
        for blob in blobs {
            assert_eq!(state.blobs.insert(*blob, 0), None);
        }
        for step in moves {
            let range = step.offset..step.offset + step.len;
            for extent in state.touching(step.ino, &range).unwrap_or_default() {
                let start = extent.offset.max(range.start);
                let len = (extent.offset + extent.len).min(range.end) - start;
                let from = step.from.offset + (start - range.start) as u32;
                let to = step.to.offset + (start - range.start) as u32;
                let skip = (start - extent.offset) as u32;
                let is = extent.place.map(|p| Place { offset: p.offset + skip, ..p });
                if is == Some(Place { blob: step.from.blob, offset: from }) {
                    let place = Some(Place { blob: step.to.blob, offset: to });
                    state.put(step.ino, Extent { offset: start, len, place });
                }
            }
        }
        Ok(())
    }
    async fn dead_sessions(&self) -> Result<Vec<SessionId>, MetaError> {
        Ok(self.state.lock().dead.iter().copied().collect())
    }
    async fn forget_session(&self, session: SessionId) -> Result<(), MetaError> {
        self.state.lock().dead.remove(&session);
        Ok(())
    }
    async fn close_session(&self) -> Result<(), MetaError> {
        self.sync().await
    }
    async fn sync(&self) -> Result<(), MetaError> {
        tokio::task::yield_now().await;
        let (state, mut durable) = (self.state.lock(), self.durable.lock());
        *durable = state.clone();
        Ok(())
    }
}
