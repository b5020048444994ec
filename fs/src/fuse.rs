//! The kernel's door: FUSE requests in, answers out. Alone in naming fuser, with `session` (the
//! handshake and the threads) and `translate` (its words and ours).
//!
//! A session thread takes a request, builds the future of [`crate::filesystem`]'s function for it
//! and polls it once. Nearly always it is ready (metadata and caches are in memory), and the answer
//! is sent at once, without a task or another thread. Otherwise the future goes to the tokio
//! runtime with its reply and the thread takes the next request: no thread waits for I/O. A request
//! that panics is answered with EIO, and its thread takes the next.
//!
//! This process, or its session, is the only one that has the volume, so the kernel sees every change and may cache:
//! attributes, names, missing names, pages, directories and symlinks; without end, or where a metad leads the volume,
//! as long as that keeps it for a session that says nothing ([`Door::new`]). `open`, `opendir` and `flush`
//! answer ENOSYS, after which the kernel no longer asks; what keeps an unlinked file alive is its
//! count of lookups ([`crate::filesystem::lookup_counts`]), not open handles.
//!
//! Not requested, and why: the writeback cache (it moves sizes and times into the kernel), POSIX and
//! flock locks (a parked lock request cannot be interrupted through fuser 0.18, so locks stay in the
//! kernel, within the mount), syncfs (fuser 0.18 does not know it: the flush every second covers it).

mod forget;
mod session;
pub(crate) mod stale;
pub(crate) mod synced;
mod translate;

use std::ffi::OsStr;
use std::future::Future;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, FopenFlags, Generation, INodeNo,
    InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier,
    RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr,
    Request, TimeOrNow, WriteFlags,
};
use futures::FutureExt;
use meta::{Attr, Caller, DirEntry, Ino, MetaError, NAME_MAX, NewNode};
use parking_lot::Mutex;
use proto::guard::{caught, caught_in};
use proto::on_wake::{self, Threads};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

pub(crate) use self::session::Session;
use self::stale::{Pages, Stale};
use self::synced::Synced;
use self::translate::{
    GENERATION, allocate_mode, caller, errno, file_attr, file_type, no_entry, owned, rename_mode,
    reply_attr, reply_empty, reply_entry, reply_written, reply_xattr, requester, set_time, special,
    time_of,
};
use crate::data::BLOCK;
use crate::data::TryWrite;
use crate::error::{FsError, FsResult};
use crate::filesystem::privileges::Requester;
use crate::filesystem::{Change, Filesystem, Room, Seek};
use crate::metrics::{Metrics, Op};

/// Largest write and read request.
const MAX_WRITE: u32 = 1 << 20;
/// Read-ahead and other background requests in flight.
const MAX_BACKGROUND: u16 = 128;
/// Entries that one look at a directory fetches; the kernel has room for several times as many.
const READDIR_STEP: usize = 128;
/// The same with attributes.
const READDIRPLUS_STEP: usize = 64;
/// Requested if the kernel has it.
const CAPABILITIES: InitFlags = InitFlags::FUSE_ASYNC_READ
    .union(InitFlags::FUSE_BIG_WRITES)
    .union(InitFlags::FUSE_MAX_PAGES)
    .union(InitFlags::FUSE_PARALLEL_DIROPS)
    // Always, and not as the kernel guesses (READDIRPLUS_AUTO): programs that list a directory to its
    // end before they look at the first entry (find, du, rm, chmod) would then ask entry by entry.
    .union(InitFlags::FUSE_DO_READDIRPLUS)
    .union(InitFlags::FUSE_ASYNC_DIO)
    .union(InitFlags::FUSE_CACHE_SYMLINKS)
    .union(InitFlags::FUSE_NO_OPEN_SUPPORT)
    .union(InitFlags::FUSE_NO_OPENDIR_SUPPORT)
    // Without it the kernel asks for security.capability before every write.
    .union(InitFlags::FUSE_HANDLE_KILLPRIV_V2)
    // Access lists, which the kernel caches and obeys; inheriting them, and so the umask, is ours.
    .union(InitFlags::FUSE_POSIX_ACL)
    .union(InitFlags::FUSE_DONT_MASK)
    // File handles: inodes can be found by their number when the kernel has forgotten them.
    .union(InitFlags::FUSE_EXPORT_SUPPORT);

/// Whose log says nothing of use: when a signal comes in the midst of a request, the kernel asks to
/// interrupt it; fuser answers that it cannot, mostly when the request has ended already, and calls
/// it an error that nobody waits for that answer. Some programs live on signals.
pub(crate) const NOISE: &str = "fuser::reply";

/// Linux's setxattr(2) flags.
const XATTR_CREATE: i32 = 1;
const XATTR_REPLACE: i32 = 2;
/// Linux's lseek(2) directions.
const SEEK_DATA: i32 = 3;
const SEEK_HOLE: i32 = 4;
/// Most bytes that one system call moves, here as in the kernel: whole pages that an `int` can count,
/// which is where programs keep the answer.
const MAX_COPY: u64 = (1 << 31) - BLOCK as u64;
/// Linux's open(2) flag of reads and writes past the page cache.
const O_DIRECT: i32 = nix::libc::O_DIRECT;
/// Linux's open(2) flag of reads that leave access times alone.
const O_NOATIME: i32 = nix::libc::O_NOATIME;
/// The kernel's door to one filesystem.
pub(crate) struct Door {
    fs: Arc<Filesystem>,
    runtime: Handle,
    synced: Arc<Synced>,
    told: Arc<Told>,
    stale: Stale,
    pages: Option<Pages>,
    /// Held by the session thread that looks into a process: others have to be left for the answer
    /// that this process may be waiting for.
    looking: Mutex<()>,
    /// How long the kernel may believe what it is told.
    ttl: Duration,
    ended: Option<oneshot::Sender<()>>,
}

/// What the door remembers to tell.
struct Told {
    metrics: Metrics,
    /// Second since the epoch in which the last failure was logged.
    last_log: AtomicU64,
}

impl Told {
    /// Logs what should not happen, at most once a second: a lost disk group fails thousands of
    /// requests with the same words.
    fn failed(&self, op: Op, error: &FsError) {
        let errno = error.errno();
        if matches!(errno, nix::errno::Errno::ENOENT | nix::errno::Errno::ENODATA) {
            return;
        }
        self.metrics.failed(op);
        if errno == nix::errno::Errno::EIO {
            let second = crate::filesystem::now().secs as u64;
            self.metrics.failed_at(second);
            if self.last_log.swap(second, Ordering::Relaxed) != second {
                tracing::error!("{}: {error}", op.name());
            }
        }
    }
}

/// Reads are short once the bytes are there; whatever else there is may wait for metadata.
fn threads_of(op: Op) -> Threads {
    match op {
        Op::Read => Threads::Patient,
        _ => Threads::Runtime,
    }
}

impl Door {
    /// Futures that are not ready at once go to `runtime`. The kernel may believe what it is told for so long. Tells when it
    /// has let go.
    pub(crate) fn new(
        fs: Arc<Filesystem>,
        runtime: Handle,
        synced: Arc<Synced>,
        ttl: Duration,
    ) -> (Self, oneshot::Receiver<()>) {
        let told = Told { metrics: Metrics::new(), last_log: AtomicU64::new(0) };
        let (ended, end) = oneshot::channel();
        let (stale, pages) = crate::fuse::stale::channel();
        let (told, pages, ended) = (Arc::new(told), Some(pages), Some(ended));
        let looking = Mutex::new(());
        (Self { fs, runtime, synced, told, stale, pages, looking, ttl, ended }, end)
    }

    /// Runs `work` to its end, here if it is ready at once, and hands the result to `reply`.
    pub(crate) fn answer<T, F, R>(&self, op: Op, work: F, reply: R)
    where
        T: Send + 'static,
        F: Future<Output = FsResult<T>> + Send + 'static,
        R: FnOnce(Result<T, Errno>) + Send + 'static,
    {
        let since = Instant::now();
        let told = self.told.clone();
        let stopped = self.fs.is_stopped();
        let synced = self.synced.covers(op).then(|| self.fs.clone());
        let task: on_wake::Future = Box::pin(async move {
            let result = match stopped {
                true => Err(FsError::Stopped),
                false => caught_in("a request", work).await.unwrap_or_else(|e| Err(e.into())),
            };
            let result = match (result, synced) {
                (Ok(value), Some(fs)) => Box::pin(fs.fsyncdir()).await.map(|()| value),
                (result, _) => result,
            };
            let result = result.map_err(|error| {
                told.failed(op, &error);
                errno(&error)
            });
            reply(result);
            told.metrics.answered(op, since);
        });
        // Of a reply that could not be sent, fuser makes EIO.
        on_wake::begin(&self.runtime, threads_of(op), task);
    }

    /// Creates an inode of any kind.
    fn make(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        (mode, umask): (u32, u32),
        node: NewNode,
    ) -> impl Future<Output = FsResult<Attr>> + Send + 'static {
        let caller = Caller { umask, ..caller(req) };
        let (fs, name) = (self.fs.clone(), owned(name));
        async move { fs.create(caller, Ino(parent.0), &name, mode & 0o7777, node).await }
    }

    /// A file's times are about to be set. Has the kernel send what was stored in a mapping before, so
    /// that it does not get a later time; answers where to wait for that. `None`: nothing was.
    fn write_back(&self, ino: Ino, requester: Requester) -> Option<oneshot::Receiver<()>> {
        let mapped_by = match self.looking.try_lock() {
            Some(_) if self.fs.data.is_mapped(ino) || requester.maps(ino) => None,
            Some(_) => return None,
            None => Some(requester),
        };
        let (sender, written) = oneshot::channel();
        self.stale.write_back(ino, mapped_by, move || {
            // A request that is gone waits for nothing.
            let _ = sender.send(());
        });
        Some(written)
    }

    /// Takes a write without copying it aside when it fits into the buffers, and the file is ours. `None`: it must wait.
    fn write_at_once(
        &self,
        ino: Ino,
        offset: u64,
        data: &[u8],
        kill: Option<Requester>,
    ) -> Option<FsResult<()>> {
        if self.fs.is_stopped() {
            return Some(Err(FsError::Stopped));
        }
        if kill.is_some() && !self.fs.is_led_here() {
            // Whoever leads the volume is asked first.
            return None;
        }
        if let Err(e) = self.fs.before_write(ino, kill).now_or_never()? {
            return Some(Err(e));
        }
        match self.fs.try_write(ino, offset, data) {
            Ok(TryWrite::Done) => Some(Ok(())),
            Ok(TryWrite::Full | TryWrite::NoLease) => None,
            Err(e) => Some(Err(e)),
        }
    }
}

impl fuser::Filesystem for Door {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = CAPABILITIES & config.capabilities();
        let outdated = |what: &str| io::Error::other(format!("the kernel refuses {what}"));
        config.add_capabilities(wanted).map_err(|_| outdated("its own capabilities"))?;
        config.set_max_write(MAX_WRITE).map_err(|_| outdated("writes of 1 MiB"))?;
        config.set_max_background(MAX_BACKGROUND).map_err(|_| outdated("background requests"))?;
        Ok(())
    }

    /// The last call, on the thread that waited for all others. It does not return: behind it fuser
    /// 0.18 unmounts the path once more, having the test of whether that is needed the wrong way
    /// round, and so could take a new mount away that somebody has made there since.
    fn destroy(&mut self) {
        if let Some(ended) = self.ended.take() {
            // Nobody listening means that the process is on its way out.
            let _ = ended.send(());
            loop {
                std::thread::park();
            }
        }
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (fs, name) = (self.fs.clone(), owned(name));
        let work = async move {
            let found = fs.lookup(Ino(parent.0), &name).await?;
            Ok(found.map(|attr| (attr, Generation(fs.generation(attr.ino)))))
        };
        let ttl = self.ttl;
        self.answer(Op::Lookup, work, move |found| match found {
            Ok(None) => reply.entry(&ttl, &no_entry(), GENERATION),
            Ok(Some((attr, generation))) => reply.entry(&ttl, &file_attr(&attr), generation),
            Err(e) => reply.error(e),
        });
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        // Nobody waits for an answer.
        let _ = caught("a forget", || self.fs.forget(Ino(ino.0), nlookup));
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let fs = self.fs.clone();
        let work = async move { fs.getattr(Ino(ino.0)).await };
        let ttl = self.ttl;
        self.answer(Op::Getattr, work, move |result| reply_attr(reply, ttl, result));
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let change = Change {
            mode: mode.map(|mode| mode & 0o7777),
            uid,
            gid,
            size,
            atime: atime.map(set_time),
            mtime: mtime.map(set_time),
            ctime: ctime.map(time_of),
        };
        let (fs, requester) = (self.fs.clone(), requester(req));
        // Of a file that is being cut, the kernel sends nothing before we have answered.
        let times_alone = change.mtime.is_some() && change.size.is_none();
        let written = times_alone.then(|| self.write_back(Ino(ino.0), requester)).flatten();
        let work = async move {
            if let Some(written) = written {
                // It is told, or the thread that would is gone.
                let _ = written.await;
            }
            fs.setattr(requester, Ino(ino.0), change).await
        };
        let ttl = self.ttl;
        self.answer(Op::Setattr, work, move |result| reply_attr(reply, ttl, result));
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        let fs = self.fs.clone();
        let work = async move {
            let target = fs.readlink(Ino(ino.0)).await?;
            fs.was_read(Ino(ino.0));
            Ok(target)
        };
        self.answer(Op::Readlink, work, move |result| match result {
            Ok(target) => reply.data(&target),
            Err(e) => reply.error(e),
        });
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let work = self.make(req, parent, name, (mode, umask), special(mode, rdev));
        let ttl = self.ttl;
        self.answer(Op::Create, work, move |result| reply_entry(reply, ttl, result));
    }

    fn mkdir(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let work = self.make(req, parent, name, (mode, umask), NewNode::Directory);
        let ttl = self.ttl;
        self.answer(Op::Create, work, move |result| reply_entry(reply, ttl, result));
    }

    fn symlink(
        &self,
        req: &Request,
        parent: INodeNo,
        link_name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let node = NewNode::Symlink(target.as_os_str().as_bytes().to_vec());
        let work = self.make(req, parent, link_name, (0o777, 0), node);
        let ttl = self.ttl;
        self.answer(Op::Create, work, move |result| reply_entry(reply, ttl, result));
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let work = self.make(req, parent, name, (mode, umask), NewNode::File);
        let ttl = self.ttl;
        self.answer(Op::Create, work, move |result| match result {
            Ok(attr) => reply.created(
                &ttl,
                &file_attr(&attr),
                GENERATION,
                FileHandle(0),
                FopenFlags::FOPEN_KEEP_CACHE,
            ),
            Err(e) => reply.error(e),
        });
    }

    fn link(
        &self,
        _req: &Request,
        ino: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        let (fs, name) = (self.fs.clone(), owned(newname));
        let work = async move { fs.link(Ino(ino.0), Ino(newparent.0), &name).await };
        let ttl = self.ttl;
        self.answer(Op::Link, work, move |result| reply_entry(reply, ttl, result));
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (fs, name, by) = (self.fs.clone(), owned(name), req.uid());
        let work = async move { fs.unlink(by, Ino(parent.0), &name).await };
        self.answer(Op::Unlink, work, move |result| reply_empty(reply, result));
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (fs, name, by) = (self.fs.clone(), owned(name), req.uid());
        let work = async move { fs.rmdir(by, Ino(parent.0), &name).await };
        self.answer(Op::Rmdir, work, move |result| reply_empty(reply, result));
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (fs, from, to) = (self.fs.clone(), owned(name), owned(newname));
        let (mode, by) = (rename_mode(flags, caller(req)), req.uid());
        let work = async move {
            let mode = mode?;
            fs.rename(by, (Ino(parent.0), &from), (Ino(newparent.0), &to), mode).await
        };
        self.answer(Op::Rename, work, move |result| reply_empty(reply, result));
    }

    fn open(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn opendir(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn flush(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let (fs, told) = (self.fs.clone(), self.told.clone());
        let work = async move {
            let data = fs.read(Ino(ino.0), offset, size.into()).await?;
            if flags.0 & O_NOATIME == 0 {
                fs.was_read(Ino(ino.0));
            }
            Ok(data)
        };
        self.answer(Op::Read, work, move |result: Result<Bytes, Errno>| match result {
            Ok(data) => {
                told.metrics.read(data.len());
                reply.data(&data);
            }
            Err(e) => reply.error(e),
        });
    }

    fn write(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let since = Instant::now();
        let (ino, len) = (Ino(ino.0), data.len() as u32);
        let kill = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        let kill = kill.then(|| requester(req));
        self.told.metrics.written(data.len());
        // Not what comes from the cache itself: it waits for the answer.
        let mapped = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        if mapped {
            self.fs.data.note_mapped(ino);
        }
        let direct = flags.0 & O_DIRECT != 0 && !mapped;
        let stale = direct.then(|| self.stale.clone());
        let answer = move |result: Result<u32, Errno>| match (stale, result) {
            (Some(stale), Ok(len)) => {
                let range = offset..offset.saturating_add(len.into());
                stale.invalidate(ino, range, move || reply.written(len));
            }
            (_, result) => reply_written(reply, result),
        };
        let written = caught("a write", || self.write_at_once(ino, offset, data, kill));
        let Some(result) = written.unwrap_or_else(|panicked| Some(Err(panicked.into()))) else {
            let (fs, data) = (self.fs.clone(), Bytes::copy_from_slice(data));
            let work = async move { fs.write(ino, offset, data, kill).await.map(|()| len) };
            return self.answer(Op::Write, work, answer);
        };
        let result = result.map(|()| len).map_err(|error| {
            self.told.failed(Op::Write, &error);
            errno(&error)
        });
        answer(result);
        self.told.metrics.answered(Op::Write, since);
    }

    fn fsync(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        let fs = self.fs.clone();
        let work = async move { fs.fsync(Ino(ino.0)).await };
        self.answer(Op::Fsync, work, move |result| reply_empty(reply, result));
    }

    fn fsyncdir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        let fs = self.fs.clone();
        let work = async move { fs.fsyncdir().await };
        self.answer(Op::Fsyncdir, work, move |result| reply_empty(reply, result));
    }

    fn readdir(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let fs = self.fs.clone();
        let work = async move {
            let filled = fill(&fs, Ino(ino.0), offset, READDIR_STEP, |entry| {
                let kind = file_type(entry.attr.kind);
                let name = OsStr::from_bytes(&entry.name);
                reply.add(INodeNo(entry.attr.ino.0), entry.cookie, kind, name)
            });
            Ok((filled.await, reply))
        };
        self.answer(Op::Readdir, work, |result| match result {
            Ok((Ok(()), reply)) => reply.ok(),
            Ok((Err(e), reply)) => reply.error(errno(&e)),
            Err(_) => {} // stopped: the reply is dropped, which answers with an error
        });
    }

    fn readdirplus(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let (fs, told_for) = (self.fs.clone(), self.ttl);
        let work = async move {
            let filled = fill(&fs, Ino(ino.0), offset, READDIRPLUS_STEP, |entry| {
                // The kernel counts an entry as a lookup, except for these two.
                let dots = matches!(&entry.name[..], b"." | b"..");
                let attr = if dots { entry.attr } else { fs.named_entry(entry) };
                // What is not true is not to be believed: whoever wants more than the name asks.
                let ttl = if entry.damaged { Duration::ZERO } else { told_for };
                let name = OsStr::from_bytes(&entry.name);
                let at = INodeNo(entry.attr.ino.0);
                let generation = Generation(fs.generation(entry.attr.ino));
                let full = reply.add(at, entry.cookie, name, &ttl, &file_attr(&attr), generation);
                if full && !dots {
                    fs.forget(entry.attr.ino, 1);
                }
                full
            });
            Ok((filled.await, reply))
        };
        self.answer(Op::Readdir, work, |result| match result {
            Ok((Ok(()), reply)) => reply.ok(),
            Ok((Err(e), reply)) => reply.error(errno(&e)),
            Err(_) => {} // stopped: the reply is dropped, which answers with an error
        });
    }

    fn fallocate(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let (fs, requester) = (self.fs.clone(), requester(req));
        let work = async move {
            fs.fallocate(requester, Ino(ino.0), offset, length, allocate_mode(mode)?).await
        };
        self.answer(Op::Fallocate, work, move |result| reply_empty(reply, result));
    }

    fn lseek(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let fs = self.fs.clone();
        let work = async move {
            let offset = u64::try_from(offset).map_err(|_| FsError::BeyondEnd)?;
            let what = match whence {
                SEEK_DATA => Seek::Data,
                SEEK_HOLE => Seek::Hole,
                _ => return Err(FsError::Invalid("no such direction of lseek")),
            };
            fs.seek(Ino(ino.0), offset, what).await
        };
        self.answer(Op::Seek, work, move |result| match result {
            Ok(at) => reply.offset(at.cast_signed()),
            Err(e) => reply.error(e),
        });
    }

    fn copy_file_range(
        &self,
        req: &Request,
        ino_in: INodeNo,
        _fh_in: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        _fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let (fs, requester) = (self.fs.clone(), requester(req));
        let len = len.min(MAX_COPY);
        let synced = self.synced.covers(Op::CopyRange);
        let work = async move {
            let (from, to) = ((Ino(ino_in.0), offset_in), (Ino(ino_out.0), offset_out));
            let copied = fs.copy_range(requester, from, to, len).await?;
            if synced {
                // Bytes that were copied are not stored with metadata.
                fs.fsync(to.0).await?;
            }
            Ok(copied as u32)
        };
        self.answer(Op::CopyRange, work, move |result| reply_written(reply, result));
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let (fs, name) = (self.fs.clone(), owned(name));
        let work = async move { fs.getxattr(Ino(ino.0), &name).await };
        self.answer(Op::Getxattr, work, move |result| reply_xattr(reply, size, result));
    }

    fn setxattr(
        &self,
        req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let must = match flags {
            XATTR_CREATE => Some(false),
            XATTR_REPLACE => Some(true),
            _ => None,
        };
        let (fs, requester) = (self.fs.clone(), requester(req));
        let (name, value) = (owned(name), value.to_vec());
        let work = async move {
            if flags == XATTR_CREATE | XATTR_REPLACE {
                // New and there before: no attribute is both.
                let found = fs.getxattr(Ino(ino.0), &name).await;
                return found.and(Err(MetaError::Exists.into()));
            }
            fs.setxattr(requester, Ino(ino.0), &name, &value, must).await
        };
        self.answer(Op::Setxattr, work, move |result| reply_empty(reply, result));
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let (fs, requester) = (self.fs.clone(), requester(req));
        let work = async move { fs.listxattr(requester, Ino(ino.0)).await };
        self.answer(Op::Listxattr, work, move |result| reply_xattr(reply, size, result));
    }

    fn removexattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (fs, name) = (self.fs.clone(), owned(name));
        let work = async move { fs.removexattr(Ino(ino.0), &name).await };
        self.answer(Op::Removexattr, work, move |result| reply_empty(reply, result));
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let fs = self.fs.clone();
        let work = async move { fs.statfs().await };
        self.answer(Op::Statfs, work, move |result| match result {
            Ok(Room { blocks, free, inodes, free_inodes }) => {
                let name_max = NAME_MAX as u32;
                reply.statfs(blocks, free, free, inodes, free_inodes, BLOCK, name_max, BLOCK);
            }
            Err(e) => reply.error(e),
        });
    }

    fn ioctl(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    fn poll(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _ph: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(Errno::ENOSYS);
    }
}

/// Adds entries after `cookie` until `add` says that the buffer is full, or there are no more. An
/// error after the first entries is told by the next call.
async fn fill(
    fs: &Filesystem,
    ino: Ino,
    mut cookie: u64,
    step: usize,
    mut add: impl FnMut(&DirEntry) -> bool,
) -> FsResult<()> {
    let start = cookie;
    loop {
        let entries = match fs.readdir(ino, cookie, step).await {
            Err(e) if cookie == start => return Err(e),
            Err(_) => return Ok(()),
            Ok(entries) => entries,
        };
        fs.was_listed(ino);
        for entry in &entries {
            if add(entry) {
                return Ok(());
            }
            cookie = entry.cookie;
        }
        if entries.len() < step {
            return Ok(());
        }
    }
}
