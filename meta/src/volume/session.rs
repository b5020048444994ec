//! [`Session`]: somebody who works on a volume: a mount, a door.
//!
//! Its number, never used before, is the prefix of the blobs that it puts, and marks the inodes that it unlinked
//! and may still have open. Any number of sessions work on one volume at once; each is ended by
//! [`MetaStore::close_session`], and one that is dropped instead is dead: what it left is for others to reap and
//! sweep.
//!
//! Each method is one transaction (long ones several, and others get their turn between two) and
//! never waits for the disk, except [`MetaStore::sync`], [`MetaStore::close_session`], and
//! back-pressure when far too much is unsynced.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use async_trait::async_trait;
use parking_lot::Mutex;
use proto::guard::caught;
use proto::id::{BlobId, SessionId};

use crate::account::{Account, AccountKind, Secret, UserChange};
use crate::engine::{Value, View};
use crate::key;
use crate::ops::{
    Step, accounts, acl, attr, blobs, content, list, nameless, names, orphans, rename, sessions,
    trash::{self, Parents},
    xattr,
};
use crate::record::window::Window;
use crate::store::{
    Above, Attr, BlobRecord, Caller, DirEntry, Extent, ExtentPage, Fate, FileUpdate, Ino,
    JournalStatus, Looked, MetaError, MetaStore, NewNode, Relocation, RenameMode, Replaces,
    SetAttr, Takes, Time, Trashed, Unlinked, Usage, VolumeInfo,
};
use crate::txn::Txn;
use crate::volume::once::{Comes, Once};
use crate::volume::opened::Volume;
use crate::wire::made::Made;

/// A session on a volume.
pub struct Session {
    seat: Arc<Seat>,
    /// The change that is asked of it, where that is to be done once.
    once: Option<Once>,
}

/// What all that is asked of a session share.
struct Seat {
    volume: Arc<Volume>,
    id: SessionId,
    /// Numbers of inodes that are this session's to hand out.
    inodes: Mutex<Range<u64>>,
    /// Somebody elsewhere works by it, who makes inodes again by their numbers: those are durably its own.
    elsewhere: bool,
    /// Changes that were made once.
    orders: AtomicU64,
}

impl Seat {
    fn new(volume: &Arc<Volume>, id: SessionId, elsewhere: bool) -> Self {
        let (inodes, orders) = (Mutex::new(0..0), AtomicU64::new(0));
        Self { volume: volume.clone(), id, inodes, elsewhere, orders }
    }
}

impl Drop for Seat {
    /// Who does not close it leaves what a crash leaves.
    fn drop(&mut self) {
        self.volume.note_end(self.id);
    }
}

impl Volume {
    /// Opens a new session. Its number is durable before it is used.
    ///
    /// # Errors
    /// When the engine fails, or the volume is only looked at.
    pub async fn open_session(self: &Arc<Self>) -> Result<Session, MetaError> {
        self.open_with(&[]).await
    }

    /// Opens one that somebody elsewhere works by, and that whoever leads the volume next knows again: by this.
    ///
    /// # Errors
    /// As of [`Self::open_session`].
    pub(crate) async fn open_session_elsewhere(
        self: &Arc<Self>,
        window: &Window,
    ) -> Result<Session, MetaError> {
        self.open_with(&window.encode()).await
    }

    async fn open_with(self: &Arc<Self>, value: &[u8]) -> Result<Session, MetaError> {
        let nobody = SessionId(0);
        let begin = |txn: &mut Txn<'_>| {
            let id = sessions::open(txn, value)?;
            self.note_begin(id);
            Ok(id)
        };
        let id = self.write(nobody, begin).await?;
        let seat = Arc::new(Seat::new(self, id, !value.is_empty()));
        let session = Session { seat, once: None };
        self.kv.sync().await?;
        self.delete_needless().await;
        Ok(session)
    }

    /// One of [`Self::take_awaited`], which goes on.
    pub(crate) fn resume_session(self: &Arc<Self>, id: SessionId) -> Session {
        Session { seat: Arc::new(Seat::new(self, id, true)), once: None }
    }
}

impl Session {
    /// The volume that it works on.
    pub fn opened_on(&self) -> &Arc<Volume> {
        &self.seat.volume
    }

    async fn read<R: Send>(
        &self,
        body: impl FnMut(&mut Txn<'_>) -> Result<R, MetaError> + Send,
    ) -> Result<R, MetaError> {
        self.seat.volume.read(body).await
    }

    /// It, for one change that is done once.
    pub(crate) fn once(&self, once: Once) -> Self {
        Self { seat: self.seat.clone(), once: Some(once) }
    }

    /// How that change was made; `None`: it was not, or there is none.
    pub(crate) fn made(&self) -> Option<Made> {
        self.once.as_ref()?.made(self.seat.volume.kv.batch())
    }

    pub(crate) async fn write<R: Comes + Send>(
        &self,
        mut body: impl FnMut(&mut Txn<'_>) -> Result<R, MetaError> + Send,
    ) -> Result<R, MetaError> {
        let seat = &*self.seat;
        let Some(once) = &self.once else { return seat.volume.write(seat.id, body).await };
        let noted = |txn: &mut Txn<'_>| {
            txn.happens_at(once.at());
            let done = body(txn)?;
            if let Some(outcome) = done.outcome() {
                once.note(txn, seat.id, &seat.orders, outcome)?;
            }
            Ok(done)
        };
        seat.volume.write(seat.id, noted).await
    }

    /// [`Self::write`] of what takes room: refused when there is little.
    async fn grow<R: Comes + Send>(
        &self,
        body: impl FnMut(&mut Txn<'_>) -> Result<R, MetaError> + Send,
    ) -> Result<R, MetaError> {
        let again = self.once.as_ref().is_some_and(Once::is_again);
        if !again && !self.seat.volume.kv.may_grow() {
            return Err(MetaError::NoSpace);
        }
        self.write(body).await
    }

    /// A number for a new inode, that no inode ever had.
    async fn new_ino(&self) -> Result<Ino, MetaError> {
        if let Some(ino) = self.once.as_ref().and_then(Once::ino) {
            // Whoever asks for it says so.
            self.read(|txn| sessions::check_again(txn, ino)).await?;
            return Ok(ino);
        }
        let seat = &*self.seat;
        loop {
            let next = seat.inodes.lock().next().map(Ino);
            if let Some(ino) = next {
                self.once.iter().for_each(|once| once.takes(ino));
                return Ok(ino);
            }
            let taken = seat.volume.write(seat.id, sessions::take_inodes).await?;
            if seat.elsewhere {
                seat.volume.kv.sync().await?;
            }
            // Where two take some at once, the numbers of the first are used by nobody.
            *seat.inodes.lock() = taken;
        }
    }

    /// Deletes orphans. A damaged one stays behind, alone.
    async fn reap_all(&self, inos: &[Ino]) -> Result<(), MetaError> {
        match self.reap_together(inos).await {
            Err(MetaError::Damaged(_)) => {}
            done => return done,
        }
        for ino in inos {
            match self.reap_together(&[*ino]).await {
                Err(MetaError::Damaged(why)) => {
                    tracing::error!("unlinked inode {} cannot be deleted: {why}", ino.0);
                }
                done => done?,
            }
        }
        Ok(())
    }

    async fn reap_together(&self, inos: &[Ino]) -> Result<(), MetaError> {
        self.write_steps(0, |txn, done: &usize| {
            Ok(match orphans::reap(txn, &inos[*done..])? {
                Step::More(more) => Step::More(done + more),
                Step::Done(()) => Step::Done(()),
            })
        })
        .await
    }

    /// Runs a long operation, one transaction after another, and lets others go in between: whoever
    /// polls it first, a thread that serves many, has done with it after one step.
    async fn write_steps<T: Comes + Send, P: Send + Sync>(
        &self,
        mut from: P,
        mut step: impl FnMut(&mut Txn<'_>, &P) -> Result<Step<T, P>, MetaError> + Send,
    ) -> Result<T, MetaError> {
        loop {
            match self.write(|txn| step(txn, &from)).await? {
                Step::More(next) => from = next,
                Step::Done(done) => return Ok(done),
            }
            tokio::task::yield_now().await;
        }
    }
}

#[async_trait]
impl MetaStore for Session {
    fn volume(&self) -> VolumeInfo {
        self.seat.volume.info()
    }

    async fn set_min_spare(&self, min_spare: u8) -> Result<(), MetaError> {
        self.seat.volume.set_min_spare(min_spare).await
    }

    fn trash_days(&self) -> u16 {
        self.seat.volume.trash_days()
    }

    async fn set_trash_days(&self, days: u16) -> Result<(), MetaError> {
        self.seat.volume.set_trash_days(days).await
    }

    fn session(&self) -> SessionId {
        self.seat.id
    }

    fn unsynced_bytes(&self) -> usize {
        self.seat.volume.kv.unsynced_bytes()
    }

    fn disk_bytes(&self) -> u64 {
        self.seat.volume.kv.disk_bytes()
    }

    fn journal(&self) -> Option<JournalStatus> {
        self.seat.volume.kv.journal()
    }

    async fn usage(&self) -> Result<Usage, MetaError> {
        self.read(|txn| txn.counters().map(|counters| counters.usage())).await
    }

    async fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Attr, MetaError> {
        self.read(|txn| names::lookup(txn, parent, name)).await
    }

    async fn look(
        &self,
        parent: Ino,
        names: &[Vec<u8>],
        attribute: &[u8],
    ) -> Result<Vec<Option<Looked>>, MetaError> {
        self.read(|txn| names::look(txn, parent, names, attribute)).await
    }

    async fn create(
        &self,
        caller: Caller,
        parent: Ino,
        name: &[u8],
        mode: u32,
        node: NewNode,
    ) -> Result<Attr, MetaError> {
        let ino = self.new_ino().await?;
        self.grow(|txn| names::create(txn, caller, ino, parent, name, mode, &node)).await
    }

    async fn create_nameless(
        &self,
        caller: Caller,
        parent: Ino,
        mode: u32,
    ) -> Result<Attr, MetaError> {
        let ino = self.new_ino().await?;
        self.grow(|txn| nameless::create(txn, caller, ino, parent, mode)).await
    }

    async fn place(
        &self,
        ino: Ino,
        parent: Ino,
        name: &[u8],
        replaces: Replaces,
        fate: Fate,
    ) -> Result<Option<Unlinked>, MetaError> {
        self.grow(|txn| nameless::place(txn, ino, parent, name, replaces, fate)).await
    }

    async fn link(&self, ino: Ino, parent: Ino, name: &[u8]) -> Result<Attr, MetaError> {
        self.grow(|txn| names::link(txn, ino, parent, name)).await
    }

    async fn unlink(&self, parent: Ino, name: &[u8]) -> Result<Unlinked, MetaError> {
        self.write(|txn| names::unlink(txn, parent, name)).await
    }

    async fn rmdir(&self, parent: Ino, name: &[u8]) -> Result<Unlinked, MetaError> {
        self.write(|txn| names::rmdir(txn, parent, name)).await
    }

    async fn rename(
        &self,
        from: (Ino, &[u8]),
        to: (Ino, &[u8]),
        mode: RenameMode,
        fate: Fate,
    ) -> Result<Option<Unlinked>, MetaError> {
        let whiteout = match mode {
            RenameMode::Whiteout { .. } => self.new_ino().await?,
            _ => Ino(0),
        };
        self.write(|txn| rename::rename(txn, from, to, mode, whiteout, fate)).await
    }

    async fn readlink(&self, ino: Ino) -> Result<Vec<u8>, MetaError> {
        self.read(|txn| names::readlink(txn, ino)).await
    }

    async fn readdir(
        &self,
        ino: Ino,
        cookie: u64,
        limit: usize,
    ) -> Result<Vec<DirEntry>, MetaError> {
        self.read(|txn| list::readdir(txn, ino, cookie, limit)).await
    }

    async fn getattr(&self, ino: Ino) -> Result<Attr, MetaError> {
        self.read(|txn| attr::getattr(txn, ino)).await
    }

    async fn setattr(&self, ino: Ino, set: SetAttr) -> Result<Attr, MetaError> {
        self.write(|txn| attr::setattr(txn, ino, &set)).await
    }

    async fn accessed(&self, reads: &[(Ino, Time)]) -> Result<(), MetaError> {
        self.write(|txn| attr::accessed(txn, reads)).await
    }

    async fn clear_privileges(&self, ino: Ino, outsider: bool) -> Result<(), MetaError> {
        self.write(|txn| attr::clear_privileges(txn, ino, outsider)).await
    }

    async fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>, MetaError> {
        self.read(|txn| xattr::get(txn, ino, name)).await
    }

    async fn setxattr(
        &self,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        must: Option<bool>,
    ) -> Result<(), MetaError> {
        self.grow(|txn| acl::setxattr(txn, ino, name, value, must)).await
    }

    async fn listxattr(&self, ino: Ino) -> Result<Vec<Vec<u8>>, MetaError> {
        self.read(|txn| xattr::list(txn, ino)).await
    }

    async fn removexattr(&self, ino: Ino, name: &[u8]) -> Result<(), MetaError> {
        self.write(|txn| xattr::remove(txn, ino, name)).await
    }

    async fn extents(
        &self,
        ino: Ino,
        range: Range<u64>,
        limit: usize,
    ) -> Result<Vec<Extent>, MetaError> {
        self.read(|txn| content::extents(txn, ino, &range, limit)).await
    }

    async fn commit(&self, blobs: &[BlobId], files: &[FileUpdate]) -> Result<(), MetaError> {
        self.grow(|txn| content::commit(txn, blobs, files)).await
    }

    async fn commit_inline(
        &self,
        id: BlobId,
        bytes: &[u8],
        files: &[FileUpdate],
    ) -> Result<(), MetaError> {
        let bytes = Value::from(bytes);
        self.grow(|txn| blobs::commit_inline(txn, id, &bytes, files)).await
    }

    async fn inline_bytes(&self, id: BlobId) -> Result<Option<Arc<[u8]>>, MetaError> {
        self.read(|txn| txn.get(&key::inline::key(&id))).await
    }

    async fn inline_blobs(
        &self,
        after: Option<BlobId>,
        limit: usize,
    ) -> Result<Vec<BlobId>, MetaError> {
        self.read(|txn| blobs::inline(txn, after, limit)).await
    }

    async fn truncate(&self, ino: Ino, size: u64) -> Result<Attr, MetaError> {
        self.write_steps((), |txn, ()| content::truncate(txn, ino, size)).await
    }

    async fn clear_range(
        &self,
        ino: Ino,
        range: Range<u64>,
        allocate: bool,
        grow: bool,
    ) -> Result<Attr, MetaError> {
        self.write_steps(range.start, |txn, at| {
            content::clear_range(txn, ino, &(*at..range.end), allocate, grow)
        })
        .await
    }

    async fn allocate(&self, ino: Ino, range: Range<u64>, grow: bool) -> Result<Attr, MetaError> {
        self.write_steps(range.start, |txn, at| {
            content::allocate(txn, ino, &(*at..range.end), grow)
        })
        .await
    }

    async fn clone_range(
        &self,
        from: Ino,
        range: Range<u64>,
        to: Ino,
        to_offset: u64,
    ) -> Result<Attr, MetaError> {
        self.write_steps(range.start, |txn, at| {
            let to_offset =
                to_offset.checked_add(at - range.start).ok_or(MetaError::FileTooLarge)?;
            content::clone_range(txn, from, &(*at..range.end), to, to_offset)
        })
        .await
    }

    async fn orphans(&self) -> Result<Vec<Ino>, MetaError> {
        // What is reaped of a session is nothing that it could come back to.
        self.seat.volume.mark_over().await?;
        let all = self.read(|txn| orphans::all(txn)).await?;
        let alive = self.seat.volume.alive();
        let dead = all.into_iter().filter(|(session, _)| !alive.contains(session));
        Ok(dead.map(|(_, ino)| ino).collect())
    }

    async fn reap(&self, inos: &[Ino]) -> Result<(), MetaError> {
        self.reap_all(inos).await
    }

    async fn garbage(
        &self,
        mut after: Option<BlobId>,
        limit: usize,
    ) -> Result<Vec<BlobId>, MetaError> {
        let mut found = Vec::new();
        while found.len() < limit {
            // What is marked durably, less what has been forgotten since.
            let mut marked = Vec::new();
            let mut look = |view: &dyn View| {
                marked = blobs::garbage(view, after, limit)?;
                Ok(())
            };
            loop {
                match caught("a look at garbage", || self.seat.volume.kv.read_durable(&mut look))? {
                    Err(MetaError::Elsewhere(missing)) => {
                        self.seat.volume.kv.fetch(&missing).await?
                    }
                    looked => break looked?,
                }
            }
            let Some(last) = marked.last() else { break };
            after = Some(*last);
            self.read(|txn| {
                for id in &marked {
                    if found.len() < limit && blobs::is_garbage(txn, id)? {
                        found.push(*id);
                    }
                }
                Ok(())
            })
            .await?;
        }
        Ok(found)
    }

    async fn forget_blobs(&self, ids: &[BlobId]) -> Result<(), MetaError> {
        self.write(|txn| blobs::forget(txn, ids)).await
    }

    async fn blobs(
        &self,
        after: Option<BlobId>,
        limit: usize,
    ) -> Result<Vec<BlobRecord>, MetaError> {
        self.read(|txn| blobs::list(txn, after, limit)).await
    }

    async fn references(
        &self,
        id: BlobId,
        after: Option<(Ino, u64)>,
        limit: usize,
    ) -> Result<ExtentPage, MetaError> {
        self.read(|txn| blobs::references(txn, id, after, limit)).await
    }

    async fn blob(&self, id: BlobId) -> Result<Option<BlobRecord>, MetaError> {
        self.read(|txn| txn.blob(&id)).await
    }

    async fn adopt_garbage(&self, ids: &[BlobId]) -> Result<(), MetaError> {
        self.write(|txn| {
            blobs::adopt(txn, ids);
            Ok(())
        })
        .await
    }

    async fn relocate(&self, blobs: &[BlobId], moves: &[Relocation]) -> Result<(), MetaError> {
        self.write(|txn| content::relocate(txn, blobs, moves)).await
    }

    async fn dead_sessions(&self) -> Result<Vec<SessionId>, MetaError> {
        self.seat.volume.mark_over().await?;
        self.seat.volume.dead_sessions().await
    }

    async fn forget_session(&self, session: SessionId) -> Result<(), MetaError> {
        if self.seat.volume.alive().contains(&session) {
            return Err(MetaError::Invalid("the session is alive"));
        }
        self.write(|txn| {
            sessions::forget(txn, session);
            Ok(())
        })
        .await
    }

    async fn close_session(&self) -> Result<(), MetaError> {
        let own = self.read(|txn| orphans::of_session(txn, self.seat.id)).await?;
        self.reap_all(&own).await?;
        self.write(|txn| {
            sessions::forget(txn, self.seat.id);
            Ok(())
        })
        .await?;
        self.seat.volume.kv.sync().await?;
        self.seat.volume.note_end(self.seat.id);
        Ok(())
    }

    async fn sync(&self) -> Result<(), MetaError> {
        self.seat.volume.kv.sync().await
    }

    async fn discard(
        &self,
        parent: Ino,
        name: &[u8],
        takes: Takes,
        by: u32,
    ) -> Result<Unlinked, MetaError> {
        // Also where there is no room: whoever has little deletes, and empties the trash next.
        self.write(|txn| trash::discard(txn, parent, name, takes, by)).await
    }

    async fn trashed(&self, ino: Ino) -> Result<Trashed, MetaError> {
        self.read(|txn| trash::one(txn, ino)).await
    }

    async fn newest_trash(
        &self,
        before: Option<(Time, Ino)>,
        limit: usize,
    ) -> Result<Vec<Trashed>, MetaError> {
        self.read(|txn| trash::newest(txn, before, limit)).await
    }

    async fn oldest_trash(
        &self,
        until: Time,
        after: Option<(Time, Ino)>,
        limit: usize,
    ) -> Result<Vec<Trashed>, MetaError> {
        self.read(|txn| trash::oldest(txn, until, after, limit)).await
    }

    async fn trash_of(
        &self,
        dir: Ino,
        after: Option<Ino>,
        limit: usize,
    ) -> Result<Vec<Trashed>, MetaError> {
        self.read(|txn| trash::of(txn, dir, after, limit)).await
    }

    async fn above(&self, dirs: &[Ino]) -> Result<BTreeMap<Ino, Above>, MetaError> {
        let Parents { mut known, named } = self.read(|txn| trash::parents(txn, dirs)).await?;
        for (dir, mut wanted) in named {
            let mut cookie = Some(0);
            while let Some(at) = cookie.filter(|_| !wanted.is_empty()) {
                let (names, next) = self.read(|txn| trash::names(txn, dir, &wanted, at)).await?;
                for (ino, name) in names {
                    wanted.remove(&ino);
                    known.insert(ino, Above { dir, name, in_trash: false });
                }
                cookie = next;
                tokio::task::yield_now().await;
            }
        }
        Ok(known)
    }

    async fn restore(
        &self,
        ino: Ino,
        to: (Ino, &[u8]),
        replaces: bool,
        by: u32,
    ) -> Result<Option<Unlinked>, MetaError> {
        let restore = |txn: &mut Txn<'_>| trash::restore(txn, ino, to, replaces, by);
        match replaces {
            true => self.grow(restore).await,
            // It takes no more room than it gives back.
            false => self.write(restore).await,
        }
    }

    async fn give_up_trash(&self, inos: &[Ino]) -> Result<(), MetaError> {
        self.write(|txn| trash::give_up(txn, inos)).await
    }

    async fn delete_trash(&self, ino: Ino) -> Result<Unlinked, MetaError> {
        self.write(|txn| trash::delete(txn, ino)).await
    }

    async fn account(&self, kind: AccountKind, name: &str) -> Result<Option<Account>, MetaError> {
        self.read(|txn| accounts::find(txn, kind, name)).await
    }

    async fn accounts(
        &self,
        kind: AccountKind,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Account>, MetaError> {
        self.read(|txn| accounts::list(txn, kind, after, limit)).await
    }

    async fn has_users(&self) -> Result<bool, MetaError> {
        self.read(|txn| accounts::any_user(txn)).await
    }

    async fn add_account(&self, account: &Account) -> Result<(), MetaError> {
        self.grow(|txn| accounts::add(txn, account)).await
    }

    async fn change_user(&self, name: &str, change: &UserChange) -> Result<(), MetaError> {
        // Also where there is no room: somebody is to be kept out, perhaps who has filled it.
        self.write(|txn| accounts::change(txn, name, change)).await
    }

    async fn remove_account(&self, kind: AccountKind, name: &str) -> Result<(), MetaError> {
        self.write(|txn| accounts::remove(txn, kind, name)).await
    }

    async fn signing_secret(&self) -> Result<Option<Secret>, MetaError> {
        self.read(|txn| accounts::signing(txn)).await
    }

    async fn keep_signing_secret(&self, bytes: &[u8]) -> Result<Secret, MetaError> {
        self.write(|txn| accounts::keep_signing(txn, bytes)).await
    }
}
