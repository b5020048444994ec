//! The filesystem on its own types: one function per system call, over metadata and the data plane.
//!
//! Nothing here knows the kernel; [`crate::fuse`] is one door to it. What this layer adds to the two
//! below is what needs both: sizes and times of data that are written but not yet stored are merged
//! into attributes, a rename over an existing file waits until the new content is stored, an
//! unlinked file lives until nobody has it open, and changes by the unprivileged clear setuid bits.
//! Whether the caller may at all has been decided by the kernel ([`crate::filesystem::privileges`]).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use meta::{
    Attr, Caller, DirEntry, Fate, Ino, Kind, MetaError, MetaStore, NewNode, RenameMode, SetAttr,
    Takes, Time, Unlinked, Volume,
};
use parking_lot::Mutex;
use proto::guard::keep_going;
use proxy::repair::Healer;
use proxy::{BlobStore, LiveProxy};
use tokio::sync::Notify;

use self::atime::Atimes;
use self::lookup_counts::LookupCounts;
use self::lost_files::LostFiles;
use self::outdated::Watcher;
use self::privileges::{Loses, Requester};
use crate::data::{BLOCK, Data, Housekeeping, TryWrite};
use crate::error::{FsError, FsResult};
use crate::metrics::{self, Memory};

pub(crate) mod atime;
pub mod beside;
mod keeper;
pub(crate) mod lookup_counts;
pub mod lost_files;
pub mod outdated;
pub mod privileges;
pub mod status;
#[cfg(test)]
mod tests;
pub mod trash;

/// Inodes that statfs(2) says may still be created: only room for their data limits them.
const FREE_INODES: u64 = 1 << 32;
/// Longest range that copy_file_range(2) copies through memory, in bytes.
const COPY_SMALL: u64 = 64 << 10;
/// The setgid bit of a mode.
const SETGID: u32 = 0o2000;
/// Orphans that are reaped in one transaction.
const REAP_BATCH: usize = 256;
/// Wait after metadata refused to reap.
const REAP_AGAIN: Duration = Duration::from_secs(1);
/// Extended attribute that tells the state of the mount as JSON. Everything has it, though no list
/// shows it: any directory may be what is mounted.
pub const STATUS_XATTR: &str = "user.ashlar.status";

/// The extended attributes that hold access lists.
const ACCESS_LIST: &[u8] = b"system.posix_acl_access";
const DEFAULT_LIST: &[u8] = b"system.posix_acl_default";

/// The extended attribute that holds an SELinux label. A kernel with SELinux never asks for it.
const LABEL: &[u8] = b"security.selinux";

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// The server's time.
    Now,
    /// This one.
    To(Time),
}

/// Everything that chmod, chown, truncate and utimens may change at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Bytes of a file.
    pub size: Option<u64>,
    /// Last read.
    pub atime: Option<SetTime>,
    /// Last change of the content.
    pub mtime: Option<SetTime>,
    /// Last change of anything.
    pub ctime: Option<Time>,
}

/// What fallocate(2) shall do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocate {
    /// Room for the range; grows the file to its end if `grow`.
    Reserve {
        /// Without FALLOC_FL_KEEP_SIZE.
        grow: bool,
    },
    /// The range becomes a hole.
    Punch,
    /// The range becomes allocated zeros.
    Zero {
        /// Without FALLOC_FL_KEEP_SIZE.
        grow: bool,
    },
}

/// Which edge lseek(2) looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    /// SEEK_DATA.
    Data,
    /// SEEK_HOLE.
    Hole,
}

/// statfs(2), in units of [`BLOCK`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// All there is, after redundancy.
    pub blocks: u64,
    /// What may still be written.
    pub free: u64,
    /// Inodes in use and free.
    pub inodes: u64,
    /// Inodes that may still be created.
    pub free_inodes: u64,
}

/// A mounted volume's operations.
pub struct Filesystem {
    pub(crate) meta: Arc<dyn MetaStore>,
    pub(crate) data: Arc<Data>,
    pub(crate) blobs: Arc<dyn BlobStore>,
    lookup_counts: LookupCounts,
    dead: Mutex<Vec<Ino>>,
    dead_wake: Notify,
    /// Dead sessions may have left orphans.
    left_behind: AtomicBool,
    /// Somebody wants something in the trash gone, or it is kept for another time.
    trash_wake: Notify,
    /// Days that anything is kept there, as seen last, and when it was seen that somebody had changed them.
    trash_days_seen: Mutex<(u16, Option<tokio::time::Instant>)>,
    stopped: AtomicBool,
    /// Those who come by doors change nothing; who comes by the mount the kernel refuses.
    read_only: AtomicBool,
    pub(crate) atimes: Atimes,
    watcher: OnceLock<Watcher>,
    /// What there was to warn of when it was mounted, or its disks have changed.
    warnings: Mutex<Arc<[String]>>,
    /// Who repairs the volume, where anybody does.
    pub(crate) healer: OnceLock<Arc<Healer>>,
    /// The volume and its slots, where it is mounted: to look at, past what users change.
    pub(crate) inside: OnceLock<(Arc<Volume>, Arc<LiveProxy>)>,
    /// Of which files bytes are lost, as last looked for.
    pub(crate) lost_files: LostFiles,
}

/// The time of day: the only clock of this layer, and metadata's.
pub(crate) fn now() -> Time {
    meta::wall_clock()
}

impl Filesystem {
    /// Over an opened volume. Unlinked files are reaped in the background, those that earlier sessions left too; where the
    /// house is kept here ([`Housekeeping`]), the trash is emptied. Must be called within a tokio runtime.
    pub fn start(
        meta: Arc<dyn MetaStore>,
        data: Arc<Data>,
        blobs: Arc<dyn BlobStore>,
    ) -> Arc<Self> {
        let trash_days = meta.trash_days();
        let filesystem = Arc::new(Self {
            meta,
            data,
            blobs,
            lookup_counts: LookupCounts::new(),
            dead: Mutex::default(),
            dead_wake: Notify::new(),
            left_behind: AtomicBool::new(false),
            trash_wake: Notify::new(),
            trash_days_seen: Mutex::new((trash_days, None)),
            stopped: AtomicBool::new(false),
            read_only: AtomicBool::new(false),
            atimes: Atimes::new(),
            watcher: OnceLock::new(),
            warnings: Mutex::default(),
            healer: OnceLock::new(),
            inside: OnceLock::new(),
            lost_files: LostFiles::default(),
        });
        let (reaping, telling) = (filesystem.clone(), filesystem.clone());
        tokio::spawn(async move {
            keep_going("reaping unlinked files", || reaping.clone().reap_forever()).await;
        });
        tokio::spawn(async move {
            keep_going("telling access times", || telling.clone().tell_forever()).await;
        });
        if filesystem.data.settings.housekeeping == Housekeeping::Here {
            let emptying = filesystem.clone();
            tokio::spawn(async move {
                keep_going("emptying the trash", || emptying.clone().empty_forever()).await;
            });
        }
        filesystem
    }

    /// The end: refuses every later operation, stores and syncs everything, reaps all orphans.
    pub async fn stop(&self) -> FsResult<()> {
        self.stopped.store(true, Ordering::SeqCst);
        self.dead_wake.notify_one();
        self.trash_wake.notify_one();
        self.atimes.end();
        let stored = self.data.stop().await;
        self.tell_reads().await;
        stored?;
        if self.data.has_leaked() {
            // The session is not closed, so that the next mount sweeps it.
            return Ok(self.meta.sync().await?);
        }
        Ok(self.meta.close_session().await?)
    }

    /// What its status shall warn of from now on.
    pub fn warn_of(&self, warnings: Vec<String>) {
        *self.warnings.lock() = warnings.into();
    }

    /// Who repairs the volume. Once only.
    pub fn healed_by(&self, healer: Arc<Healer>) {
        assert!(self.healer.set(healer).is_ok(), "one healer");
    }

    /// The volume and its slots, to be looked at. Once only.
    pub fn seen_through(&self, volume: Arc<Volume>, blobs: Arc<LiveProxy>) {
        assert!(self.inside.set((volume, blobs)).is_ok(), "one volume");
    }

    /// Is the volume led by this process? Else a metad is asked for whatever nobody keeps here.
    pub(crate) fn is_led_here(&self) -> bool {
        self.inside.get().is_some()
    }

    /// What there is to warn of, as its cluster file and its disks were when they were looked at last.
    pub(crate) fn warnings(&self) -> Arc<[String]> {
        self.warnings.lock().clone()
    }

    /// Is it mounted for reading only from now on?
    pub fn reads_only(&self, only: bool) {
        self.read_only.store(only, Ordering::SeqCst);
        self.trash_wake.notify_one();
    }

    /// Is nothing changed by those who come by doors?
    pub fn is_read_only(&self) -> bool {
        self.read_only.load(Ordering::SeqCst)
    }

    /// Is the mount being taken down?
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Brings the figures of metrics up to date.
    pub(crate) fn observe(&self) {
        let (files, extents) = self.data.open_inodes.usage();
        let memory = Memory {
            flights: self.data.queue.flying_bytes(),
            pools: proto::buffer::kept_bytes() as u64,
            metadata: self.meta.unsynced_bytes() as u64,
            extents: (extents * size_of::<meta::Extent>()) as u64,
            allocated: proto::allocator::allocated_bytes(),
            resident: proto::allocator::resident_bytes(),
        };
        let (capacity, _) = self.data.space.shown();
        let data = (&self.data.status(), capacity);
        metrics::observe(data, &memory, self.lookup_counts.count(), files);
        metrics::observe_metadata(&*self.meta);
        self.healer.get().into_iter().for_each(|healer| healer.observe());
    }

    // Lookup counts.

    /// The kernel gives `count` lookups of an inode back.
    pub fn forget(&self, ino: Ino, count: u64) {
        if self.lookup_counts.forgotten(ino, count) {
            self.reap_later(ino);
        }
    }

    fn unlinked(&self, gone: Unlinked) {
        if gone.orphan && self.lookup_counts.orphaned(gone.ino) {
            self.reap_later(gone.ino);
        }
    }

    // Bounded by the orphans there are.
    fn reap_later(&self, ino: Ino) {
        self.data.dying.fetch_add(1, Ordering::Relaxed);
        self.dead.lock().push(ino);
        self.dead_wake.notify_one();
    }

    /// Looks for what dead sessions have unlinked: nothing has it open.
    async fn find_orphans(&self) {
        match self.meta.orphans().await {
            Ok(orphans) => {
                self.data.dying.fetch_add(orphans.len() as u64, Ordering::Relaxed);
                self.dead.lock().extend(orphans);
            }
            Err(e) => tracing::error!("orphans of earlier mounts stay for now: {e}"),
        }
    }

    async fn reap_forever(self: Arc<Self>) {
        self.left_behind.store(true, Ordering::SeqCst);
        while !self.is_stopped() {
            if self.left_behind.swap(false, Ordering::SeqCst) {
                self.find_orphans().await;
            }
            let mut batch: Vec<Ino> = {
                let mut dead = self.dead.lock();
                let from = dead.len().saturating_sub(REAP_BATCH);
                dead.split_off(from)
            };
            if batch.is_empty() {
                self.dead_wake.notified().await;
                continue;
            }
            // What was found before its last name went, and is held since, lives until that is forgotten.
            let all = batch.len();
            batch.retain(|&ino| self.lookup_counts.orphaned(ino));
            self.data.dying.fetch_sub((all - batch.len()) as u64, Ordering::Relaxed);
            batch.iter().for_each(|&ino| self.data.discard(ino));
            if let Err(e) = self.meta.reap(&batch).await {
                tracing::error!("unlinked files stay for now: {e}");
                self.dead.lock().extend(batch);
                tokio::time::sleep(REAP_AGAIN).await;
                continue;
            }
            self.data.dying.fetch_sub(batch.len() as u64, Ordering::Relaxed);
        }
    }

    // When files were read.

    /// Somebody read the content of a file, or the target of a symbolic link.
    pub fn was_read(&self, ino: Ino) {
        self.atimes.note(ino, Kind::File, now());
    }

    /// Somebody listed a directory.
    pub fn was_listed(&self, ino: Ino) {
        self.atimes.note(ino, Kind::Directory, now());
    }

    async fn tell_forever(self: Arc<Self>) {
        loop {
            self.atimes.due().await;
            if self.is_stopped() {
                return;
            }
            self.tell_reads().await;
        }
    }

    /// Tells metadata what was read so far. What it does not take stays noted.
    pub(crate) async fn tell_reads(&self) {
        self.atimes.tell_all(&*self.meta, |attr| self.overlay(attr)).await;
    }

    /// Moves when what was in memory alone has come to metadata.
    fn moves(&self) -> (u64, u64) {
        (self.data.commits(), self.atimes.told())
    }

    /// Attributes as the caller must see them: with what is written and not yet stored, and with
    /// what was read.
    ///
    /// When a flight is committed between a look at metadata and this one, its bytes may be in
    /// neither: callers then look again ([`Self::moves`]), because the kernel keeps the answer.
    pub(crate) fn overlay(&self, mut attr: Attr) -> Attr {
        if attr.kind == Kind::File
            && let Some(pending) = self.data.pending(attr.ino)
        {
            attr.size = attr.size.max(pending.size);
            // What overwrites stored bytes is not counted twice.
            attr.stored = (attr.stored + pending.dirty_bytes).min(attr.size.max(attr.stored));
            // The last write is later than what metadata knows, even if that lies in the future:
            // whoever sets a time, or changes content otherwise, drops the pending one.
            if let Some(mtime) = pending.mtime {
                attr.mtime = mtime;
                attr.ctime = attr.ctime.max(mtime);
            }
        }
        attr.atime = self.atimes.atime(&attr);
        attr
    }

    // Names.

    /// `None`: there is no such name.
    pub async fn lookup(&self, parent: Ino, name: &[u8]) -> FsResult<Option<Attr>> {
        if name == b"." {
            return self.lookup_handle(parent).await;
        }
        let found = self.glance(parent, name).await?;
        if let Some(attr) = &found {
            self.lookup_counts.named(attr.ino);
        }
        Ok(found)
    }

    /// The name `.`, by which the kernel finds again what a file handle names: an inode of any kind
    /// that still has a name.
    async fn lookup_handle(&self, ino: Ino) -> FsResult<Option<Attr>> {
        // Before the look: nothing keeps the last name from going in between.
        self.lookup_counts.named(ino);
        let found = self.getattr(ino).await;
        if matches!(&found, Ok(attr) if attr.nlink > 0) {
            return found.map(Some);
        }
        self.forget(ino, 1);
        match found {
            Ok(_) | Err(FsError::Meta(MetaError::NotFound)) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// mknod(2), mkdir(2), symlink(2), and open(2) with O_CREAT.
    pub async fn create(
        &self,
        caller: Caller,
        parent: Ino,
        name: &[u8],
        mode: u32,
        node: NewNode,
    ) -> FsResult<Attr> {
        self.data.space.admit_names()?;
        let attr = self.meta.create(caller, parent, name, mode, node).await?;
        self.lookup_counts.named(attr.ino);
        Ok(attr)
    }

    /// link(2).
    pub async fn link(&self, ino: Ino, parent: Ino, name: &[u8]) -> FsResult<Attr> {
        self.data.space.admit_names()?;
        self.meta.link(ino, parent, name).await?;
        let attr = self.getattr(ino).await?;
        self.lookup_counts.named(ino);
        Ok(attr)
    }

    /// unlink(2), by this user.
    pub async fn unlink(&self, by: u32, parent: Ino, name: &[u8]) -> FsResult<()> {
        self.remove((parent, name), Kind::File, self.fate(by, [name])).await.map(drop)
    }

    /// rmdir(2), by this user of the mount.
    pub async fn rmdir(&self, by: u32, parent: Ino, name: &[u8]) -> FsResult<()> {
        let gone = self.remove((parent, name), Kind::Directory, self.fate(by, [name])).await?;
        self.died(gone);
        Ok(())
    }

    /// rmdir(2) of a directory, unlink(2) of anything else. Who is not the kernel has it told afterwards, and so that does not take
    /// the directory for dead.
    pub(crate) async fn remove(
        &self,
        (parent, name): (Ino, &[u8]),
        kind: Kind,
        fate: Fate,
    ) -> FsResult<Unlinked> {
        let directory = kind == Kind::Directory;
        // Of `.` and `..` it is said what is wrong, as ever.
        let dots = matches!(name, b"." | b"..");
        let gone = match (fate, directory) {
            (Fate::Trash { by }, true) if !dots => {
                self.meta.discard(parent, name, Takes::EmptyDirectory, by).await?
            }
            (Fate::Trash { by }, false) => {
                self.meta.discard(parent, name, Takes::NoDirectory, by).await?
            }
            (_, true) => self.meta.rmdir(parent, name).await?,
            (Fate::Gone, false) => self.meta.unlink(parent, name).await?,
        };
        self.unlinked(gone);
        Ok(gone)
    }

    /// rename(2). Programs replace a file by writing another and renaming it over: after a crash
    /// there must be the old or the new content, so the new one is stored first. `by`: the user who does it. What is replaced
    /// whole goes to the trash in any case.
    pub async fn rename(
        &self,
        by: u32,
        from: (Ino, &[u8]),
        to: (Ino, &[u8]),
        mode: RenameMode,
    ) -> FsResult<()> {
        if mode.replaces()
            && let Ok(source) = self.meta.lookup(from.0, from.1).await
            && self.data.pending(source.ino).is_some()
            && self.meta.lookup(to.0, to.1).await.is_ok()
        {
            self.data.flush_file(source.ino).await?;
        }
        let whole = matches!(mode, RenameMode::ReplaceWhole(_));
        let fate = if whole { Fate::Trash { by } } else { self.fate(by, [to.1]) };
        if let Some(gone) = self.meta.rename(from, to, mode, fate).await? {
            self.unlinked(gone);
            // Of what is replaced whole the kernel is told behind it, and has not done that itself.
            let gone_is_a_directory = async {
                // The rename is done, whatever comes of this look.
                let attr = self.meta.getattr(gone.ino).await;
                attr.is_ok_and(|attr| attr.kind == Kind::Directory)
            };
            if !whole && !gone.orphan && gone_is_a_directory.await {
                self.died(gone);
            }
        }
        Ok(())
    }

    /// readlink(2).
    pub async fn readlink(&self, ino: Ino) -> FsResult<Vec<u8>> {
        Ok(self.meta.readlink(ino).await?)
    }

    /// Up to `limit` entries after `cookie`.
    pub async fn readdir(&self, ino: Ino, cookie: u64, limit: usize) -> FsResult<Vec<DirEntry>> {
        loop {
            let moves = self.moves();
            let mut entries = self.meta.readdir(ino, cookie, limit).await?;
            let whole = entries.iter_mut().filter(|entry| !entry.damaged);
            whole.for_each(|entry| entry.attr = self.overlay(entry.attr));
            if self.moves() == moves {
                return Ok(entries);
            }
        }
    }

    /// An entry of [`Self::readdir`] goes into an answer that names its inode.
    pub fn named_entry(&self, entry: &DirEntry) -> Attr {
        self.lookup_counts.named(entry.attr.ino);
        entry.attr
    }

    // Attributes.

    /// stat(2).
    pub async fn getattr(&self, ino: Ino) -> FsResult<Attr> {
        loop {
            let moves = self.moves();
            let attr = self.overlay(self.meta.getattr(ino).await?);
            if self.moves() == moves {
                return Ok(attr);
            }
        }
    }

    /// chmod(2), chown(2), truncate(2), utimensat(2).
    pub async fn setattr(
        &self,
        requester: Requester,
        ino: Ino,
        mut change: Change,
    ) -> FsResult<Attr> {
        if change == Change::default() {
            // chown(2) that names neither owner nor group: as if to the present owner, as elsewhere.
            change.uid = Some(self.meta.getattr(ino).await?.uid);
        }
        if let Some(size) = change.size {
            if self.meta.getattr(ino).await?.kind != Kind::File {
                return Err(FsError::Invalid("only files have a size to set"));
            }
            self.clear_privileges(requester, ino).await?;
            self.data.truncate(ino, size).await?;
        }
        let time = |time: SetTime| match time {
            SetTime::Now => now(),
            SetTime::To(time) => time,
        };
        let new_owner = change.uid.is_some() || change.gid.is_some();
        let set = SetAttr {
            outsider: new_owner && requester.is_outsider(&self.meta.getattr(ino).await?),
            mode: change.mode,
            uid: change.uid,
            gid: change.gid,
            atime: change.atime.map(time),
            mtime: change.mtime.map(time),
            ctime: change.ctime,
        };
        if set != SetAttr::default() {
            // A flight that commits now must not bring the time of an earlier write back.
            let handle = set.mtime.and_then(|_| self.data.open_inodes.get(ino));
            let _order = match &handle {
                Some(handle) => Some(handle.order.lock().await),
                None => None,
            };
            if set.mtime.is_some() {
                self.data.drop_mtime(ino);
            }
            let _untold = match set.atime {
                Some(_) => Some(self.atimes.discard(ino).await),
                None => None,
            };
            self.meta.setattr(ino, set).await?;
        }
        self.getattr(ino).await
    }

    /// Setuid and setgid go when somebody unprivileged changes the content. (File capabilities are
    /// the kernel's: it removes their attribute itself.)
    async fn clear_privileges(&self, requester: Requester, ino: Ino) -> FsResult<()> {
        let attr = self.meta.getattr(ino).await?;
        self.take_away(ino, requester.loses_by_writing(&attr, None)).await
    }

    async fn take_away(&self, ino: Ino, what: Loses) -> FsResult<()> {
        if what != Loses::Nothing {
            self.meta.clear_privileges(ino, what == Loses::All).await?;
            self.outdate_at_once(ino);
        }
        Ok(())
    }

    // Content.

    /// read(2): short at the end of the file.
    pub async fn read(&self, ino: Ino, offset: u64, len: u64) -> FsResult<Bytes> {
        Ok(self.data.read(ino, offset..offset.saturating_add(len)).await?)
    }

    /// What must be done before a write. `kill`: the writer, who has not CAP_FSETID.
    pub async fn before_write(&self, ino: Ino, kill: Option<Requester>) -> FsResult<()> {
        let Some(requester) = kill else { return Ok(()) };
        let attr = self.meta.getattr(ino).await?;
        self.take_away(ino, requester.loses_by_writing(&attr, Some(false))).await
    }

    /// Takes the bytes at once, or says why not, and [`Self::write`] must wait.
    /// [`Self::before_write`] comes first.
    pub fn try_write(&self, ino: Ino, offset: u64, data: &[u8]) -> FsResult<TryWrite> {
        Ok(self.data.try_write(ino, offset, data, now())?)
    }

    /// write(2) that may wait for room in the buffers.
    pub async fn write(
        &self,
        ino: Ino,
        offset: u64,
        data: Bytes,
        kill: Option<Requester>,
    ) -> FsResult<()> {
        self.before_write(ino, kill).await?;
        Ok(self.data.write(ino, offset, data, now()).await?)
    }

    /// fsync(2) of a file.
    pub async fn fsync(&self, ino: Ino) -> FsResult<()> {
        Ok(self.data.fsync(ino).await?)
    }

    /// fsync(2) of a directory: every change of names so far is durable.
    pub async fn fsyncdir(&self) -> FsResult<()> {
        Ok(self.meta.sync().await?)
    }

    /// fallocate(2).
    pub async fn fallocate(
        &self,
        requester: Requester,
        ino: Ino,
        offset: u64,
        len: u64,
        how: Allocate,
    ) -> FsResult<()> {
        let end = offset.checked_add(len).ok_or(MetaError::FileTooLarge)?;
        self.clear_privileges(requester, ino).await?;
        match how {
            Allocate::Reserve { grow } => self.data.fallocate(ino, offset..end, grow).await?,
            Allocate::Punch => self.data.punch(ino, offset..end).await?,
            Allocate::Zero { grow } => self.data.zero(ino, offset..end, grow).await?,
        };
        Ok(())
    }

    /// lseek(2) with SEEK_DATA or SEEK_HOLE.
    pub async fn seek(&self, ino: Ino, offset: u64, what: Seek) -> FsResult<u64> {
        let found = match what {
            Seek::Data => self.data.seek_data(ino, offset).await?,
            Seek::Hole => self.data.seek_hole(ino, offset).await?,
        };
        found.ok_or(FsError::BeyondEnd)
    }

    /// copy_file_range(2): a clone of the extents, no data move. Answers the bytes copied.
    ///
    /// Extents are of what is stored. To store each small file that was just written, so that its
    /// copy can share them, would be a blob for each: those bytes are copied, and packed as all others.
    pub async fn copy_range(
        &self,
        requester: Requester,
        from: (Ino, u64),
        to: (Ino, u64),
        len: u64,
    ) -> FsResult<u64> {
        let size = self.getattr(from.0).await?.size;
        let len = len.min(size.saturating_sub(from.1));
        if len == 0 {
            return Ok(0);
        }
        if from.0 == to.0 && from.1.abs_diff(to.1) < len {
            return Err(FsError::Invalid("the ranges overlap"));
        }
        self.clear_privileges(requester, to.0).await?;
        if len <= COPY_SMALL && self.data.is_unstored(from.0, from.1..from.1 + len) {
            let bytes = self.data.read(from.0, from.1..from.1 + len).await?;
            let copied = bytes.len() as u64;
            self.data.write(to.0, to.1, bytes, now()).await?;
            return Ok(copied);
        }
        self.data.clone_range(from.0, from.1..from.1 + len, to.0, to.1).await?;
        Ok(len)
    }

    // Extended attributes.

    /// getxattr(2).
    pub async fn getxattr(&self, ino: Ino, name: &[u8]) -> FsResult<Vec<u8>> {
        if name == STATUS_XATTR.as_bytes() {
            return Ok(self.status().await?.to_json().into_bytes());
        }
        check_namespace(name)?;
        match self.meta.getxattr(ino, name).await {
            // Programs that look for labels, `ls -l` among them, then ask once and not file by file.
            Err(MetaError::NoAttribute) if name == LABEL => Err(FsError::NotSupported),
            value => Ok(value?),
        }
    }

    /// setxattr(2). `must`: `Some(true)` it has to exist, `Some(false)` it must not.
    pub async fn setxattr(
        &self,
        requester: Requester,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        must: Option<bool>,
    ) -> FsResult<()> {
        if name == STATUS_XATTR.as_bytes() {
            return Err(FsError::NotPermitted);
        }
        check_namespace(name)?;
        if name == ACCESS_LIST {
            let attr = self.meta.getattr(ino).await?;
            if requester.is_outsider(&attr) {
                let set = SetAttr { mode: Some(attr.mode & !SETGID), ..SetAttr::default() };
                self.meta.setattr(ino, set).await?;
            }
        }
        self.data.space.admit_names()?;
        Ok(self.meta.setxattr(ino, name, value, must).await?)
    }

    /// listxattr(2): the names, each ended by a zero byte. Those in `trusted.` are root's alone.
    pub async fn listxattr(&self, requester: Requester, ino: Ino) -> FsResult<Vec<u8>> {
        let names = self.meta.listxattr(ino).await?;
        let visible = |name: &&Vec<u8>| requester.uid == 0 || !name.starts_with(b"trusted.");
        let mut list = Vec::new();
        for name in names.iter().filter(visible) {
            list.extend_from_slice(name);
            list.push(0);
        }
        Ok(list)
    }

    /// removexattr(2).
    pub async fn removexattr(&self, ino: Ino, name: &[u8]) -> FsResult<()> {
        check_namespace(name)?;
        match self.meta.removexattr(ino, name).await {
            // A list that is not there is as good as removed, as on other filesystems.
            Err(MetaError::NoAttribute) if name == ACCESS_LIST || name == DEFAULT_LIST => Ok(()),
            removed => Ok(removed?),
        }
    }

    // The volume.

    /// statfs(2): what may be promised in all, after redundancy, and what of that a writer may still
    /// write. Room that is kept back for overwrites is neither.
    pub async fn statfs(&self) -> FsResult<Room> {
        self.data.learn_space().await;
        let usage = self.meta.usage().await?;
        let block = u64::from(BLOCK);
        let (all, available) = self.data.space.shown();
        Ok(Room {
            blocks: all / block,
            free: available / block,
            inodes: usage.inodes + FREE_INODES,
            free_inodes: FREE_INODES,
        })
    }
}

/// Refuses what no namespace claims; of `system.` there are the two access lists.
fn check_namespace(name: &[u8]) -> FsResult<()> {
    if name == ACCESS_LIST || name == DEFAULT_LIST {
        return Ok(());
    }
    let known: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];
    match known.iter().find(|prefix| name.starts_with(prefix)) {
        Some(prefix) if name.len() > prefix.len() => Ok(()),
        Some(_) => Err(FsError::Invalid("an attribute without a name of its own")),
        None => Err(FsError::NotSupported),
    }
}
