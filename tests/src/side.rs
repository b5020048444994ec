//! One of two filesystems that get the same calls: a thread that lives in a directory of it, which is
//! its root, so that every path, symbolic link and `..` stays inside.
//!
//! What a call answers is compared, and what it did to every file it names: mode, owner, links, size,
//! and which times it changed. Times are read before and after; their values are compared only where a
//! call has set them. Left out is what filesystems may choose: inode numbers, blocks, directories' sizes.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, unshare};
use nix::sys::time::TimeSpec;
use nix::time::ClockId;
use rustix::fs::{self as sys, AtFlags, CWD, FileType, Mode, SeekFrom, Stat, Timespec, Timestamps};
use rustix::io::Errno;
use rustix::thread::{Gid, Uid};
use xxhash_rust::xxh3::Xxh3;

use crate::calls::{At, CALLERS, Call, SLOTS, Stamp, Step, Whence};
use crate::somebody::acting;

/// Longest wait for one call's answer.
const BOUND: Duration = Duration::from_secs(60);
/// A part of a tick of the clock that files' times are taken from.
const TICK: Duration = Duration::from_millis(1);
/// Of a file that is longer, only the two ends are compared.
const WINDOW: u64 = 4 << 20;

/// What a call answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There is no open file of that number: not called.
    NoFile,
    /// Nothing but success.
    Done,
    /// A count or an offset.
    Number(u64),
    /// Bytes: how many, their hash, and the first of them.
    Bytes(usize, u64, Vec<u8>),
    /// Names, sorted.
    Names(Vec<Vec<u8>>),
    /// Attributes.
    Seen(Seen),
}

/// One time of a file, since it was last looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Far from now: somebody has set it.
    Set(i64, i64),
    /// As before.
    Same,
    /// Another than before, or never seen.
    Changed,
}

/// What stat(2) says, as far as it must be equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    mode: u32,
    links: u64,
    owner: (u32, u32),
    device: u64,
    size: u64,
    /// Access, modification, change.
    times: [Moment; 3],
}

/// A call's answer, and what there is to see of the files it names, each with how it was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What it returned.
    pub result: Result<Outcome, Errno>,
    /// The files it names, and their directories.
    pub seen: Vec<(String, Result<Seen, Errno>)>,
    /// Their inode numbers, in the same order, which are each filesystem's own.
    pub inodes: Vec<Option<u64>>,
}

impl Answer {
    /// What kind of file the call named first.
    pub(crate) fn kind(&self) -> Option<FileType> {
        let (_, seen) = self.seen.first()?;
        seen.as_ref().ok().map(|seen| FileType::from_raw_mode(seen.mode))
    }
}

/// A file of the whole tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its attributes.
    pub seen: Seen,
    /// Hash of its bytes, its target, or nothing.
    pub content: u64,
    /// Extended attributes, sorted, with hashes of their values.
    pub xattrs: BTreeMap<Vec<u8>, (usize, u64)>,
}

/// Everything there is.
pub type Tree = BTreeMap<PathBuf, Entry>;

enum Order {
    Run(Step),
    Walk,
}

enum Reply {
    Ran(Answer),
    Walked(std::io::Result<Tree>),
}

/// A file as it was looked at, and its inode number.
type Look = ((String, Result<Seen, Errno>), Option<u64>);

/// Times of each inode when it was last looked at.
type Times = BTreeMap<u64, [(i64, i64); 3]>;

/// What a side remembers while its filesystem is mounted anew.
#[derive(Default)]
pub struct Memory(Times);

/// A filesystem under comparison. Its thread ends when it is dropped.
pub struct Side {
    orders: mpsc::Sender<Order>,
    replies: mpsc::Receiver<Reply>,
    thread: JoinHandle<Memory>,
    /// When the last call was answered, by the clock of files' times.
    answered: Cell<TimeSpec>,
}

impl Side {
    /// Calls will be made with `root` as the root directory.
    ///
    /// # Errors
    /// When the thread may not change its root.
    pub fn start(root: &Path, memory: Memory) -> Result<Self> {
        let (orders, inbox) = mpsc::channel();
        let (outbox, replies) = mpsc::channel();
        let (ready, started) = mpsc::channel();
        let root = root.to_owned();
        let thread = std::thread::spawn(move || {
            let entered = enter(&root);
            let (entered, outside) = (entered.as_ref().map(drop).map_err(copied), entered.ok());
            if ready.send(entered).is_err() {
                return memory;
            }
            let Some(outside) = outside else { return memory };
            let mut caller = Caller { files: Default::default(), times: memory.0 };
            caller.obey(&inbox, &outbox);
            leave(&outside).expect("root may change its root");
            Memory(caller.times)
        });
        started.recv().context("the thread has ended")?.context("entering the directory")?;
        Ok(Self { orders, replies, thread, answered: Cell::new(file_clock()) })
    }

    /// Closes all files and leaves the directory: nothing of it is in use then. Answers what
    /// [`Self::start`] needs to go on.
    pub fn end(self) -> Memory {
        drop(self.orders);
        self.thread.join().expect("the thread does not panic")
    }

    /// Starts a call, with times of its own; [`Self::answer`] waits for it.
    pub fn run(&self, step: &Step) {
        // On ext4 a change gets a time of its own also within one tick of the clock, where somebody has
        // looked at the time before (multigrain timestamps, Linux 6.13).
        while file_clock() == self.answered.get() {
            std::thread::sleep(TICK);
        }
        self.orders.send(Order::Run(step.clone())).expect("the thread waits for orders");
    }

    /// What the call answered.
    ///
    /// # Errors
    /// When it hangs.
    pub fn answer(&self) -> Result<Answer> {
        match self.replies.recv_timeout(BOUND).context("a call hangs")? {
            Reply::Ran(answer) => {
                self.answered.set(file_clock());
                Ok(answer)
            }
            Reply::Walked(_) => unreachable!("a call was asked for"),
        }
    }

    /// Everything there is now.
    ///
    /// # Errors
    /// When something cannot be read.
    pub fn walk(&self) -> Result<Tree> {
        self.orders.send(Order::Walk).expect("the thread waits for orders");
        match self.replies.recv_timeout(BOUND).context("a walk hangs")? {
            Reply::Walked(tree) => tree.context("walking the tree"),
            Reply::Ran(_) => unreachable!("a walk was asked for"),
        }
    }
}

/// The clock that files' times are taken from.
fn file_clock() -> TimeSpec {
    ClockId::CLOCK_REALTIME_COARSE.now().expect("the kernel has this clock")
}

struct Caller {
    files: [Option<OwnedFd>; SLOTS],
    times: Times,
}

/// From here on the root, working directory and umask are this thread's alone. Answers the way back.
fn enter(root: &Path) -> std::io::Result<File> {
    let outside = File::open("/")?;
    unshare(CloneFlags::CLONE_FS)?;
    rustix::process::chroot(root)?;
    std::env::set_current_dir("/")?;
    Ok(outside)
}

fn leave(outside: &File) -> std::io::Result<()> {
    rustix::process::fchdir(outside)?;
    Ok(rustix::process::chroot(".")?)
}

fn copied(error: &std::io::Error) -> std::io::Error {
    std::io::Error::new(error.kind(), error.to_string())
}

/// Whether a time is so far from now that somebody must have set it.
pub(crate) fn is_far(secs: i64) -> bool {
    let today = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    secs.abs_diff(today as i64) > 86_400
}

fn hash(bytes: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(bytes)
}

fn bytes(bytes: &[u8]) -> Outcome {
    Outcome::Bytes(bytes.len(), hash(bytes), bytes[..bytes.len().min(16)].to_vec())
}

fn count(number: usize) -> Outcome {
    Outcome::Number(number as u64)
}

impl Caller {
    /// Does what is asked until nobody asks any more, and closes all files.
    fn obey(&mut self, inbox: &mpsc::Receiver<Order>, outbox: &mpsc::Sender<Reply>) {
        for order in inbox {
            let reply = match order {
                Order::Run(step) => Reply::Ran(self.run(&step)),
                Order::Walk => Reply::Walked(self.walk()),
            };
            if outbox.send(reply).is_err() {
                break;
            }
        }
        self.files = Default::default();
    }

    fn run(&mut self, step: &Step) -> Answer {
        // A file that may go leaves its number to another, of which nothing has been seen yet.
        for ino in self.may_go(&step.call) {
            self.times.remove(&ino);
        }
        let result = acting(CALLERS[step.who], || {
            rustix::process::umask(Mode::from_raw_mode(step.umask));
            self.call(&step.call).unwrap_or(Ok(Outcome::NoFile))
        });
        let (seen, inodes) = self.look_around(&step.call).into_iter().unzip();
        Answer { result, seen, inodes }
    }

    fn may_go(&self, call: &Call) -> Vec<u64> {
        let (slots, paths) = match call {
            Call::Unlink { .. } | Call::Rmdir { .. } | Call::Rename { .. } => named(call),
            Call::Close { slot } | Call::Open { slot, .. } => (vec![*slot], vec![]),
            _ => return Vec::new(),
        };
        let paths = paths.into_iter().map(|path| sys::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW));
        let files = slots.into_iter().filter_map(|slot| self.file(slot)).map(sys::fstat);
        paths.chain(files).flatten().map(|stat| stat.st_ino).collect()
    }

    fn file(&self, slot: usize) -> Option<&OwnedFd> {
        self.files[slot].as_ref()
    }

    /// `None`: there is no such open file.
    fn call(&mut self, call: &Call) -> Option<Result<Outcome, Errno>> {
        let done = |result: Result<(), Errno>| result.map(|()| Outcome::Done);
        Some(match call {
            Call::Open { slot, path, flags, mode } => {
                self.files[*slot] = None;
                let file = sys::openat(CWD, &path[..], *flags, Mode::from_raw_mode(*mode));
                file.map(|file| {
                    self.files[*slot] = Some(file);
                    Outcome::Done
                })
            }
            Call::Close { slot } => {
                self.files[*slot].take()?;
                Ok(Outcome::Done)
            }
            Call::Read { slot, offset, len } => {
                let (file, mut buffer) = (self.file(*slot)?, vec![0; *len]);
                let read = match offset {
                    Some(offset) => rustix::io::pread(file, &mut buffer[..], *offset),
                    None => rustix::io::read(file, &mut buffer[..]),
                };
                read.map(|read| bytes(&buffer[..read]))
            }
            Call::Write { slot, offset, len, byte } => {
                let (file, buffer) = (self.file(*slot)?, vec![*byte; *len]);
                let written = match offset {
                    Some(offset) => rustix::io::pwrite(file, &buffer, *offset),
                    None => rustix::io::write(file, &buffer),
                };
                written.map(count)
            }
            Call::Seek { slot, offset, whence } => seek(self.file(*slot)?, *offset, *whence),
            Call::Truncate { at: At::Slot(slot), size } => {
                done(sys::ftruncate(self.file(*slot)?, *size))
            }
            Call::Truncate { at: At::Path(path, _), size } => done(truncate(path, *size)),
            Call::Fallocate { slot, mode, offset, len } => {
                done(sys::fallocate(self.file(*slot)?, *mode, *offset, *len))
            }
            Call::Copy { from, start, to, at, len } => {
                let (mut start, mut at) = (*start, *at);
                let (from, to) = (self.file(*from)?, self.file(*to)?);
                sys::copy_file_range(from, Some(&mut start), to, Some(&mut at), *len).map(count)
            }
            Call::Sync { slot } => done(sys::fsync(self.file(*slot)?)),
            Call::Chmod { at: At::Slot(slot), mode } => {
                done(sys::fchmod(self.file(*slot)?, Mode::from_raw_mode(*mode)))
            }
            Call::Chown { at: At::Slot(slot), uid, gid } => {
                let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
                done(sys::fchown(self.file(*slot)?, uid, gid))
            }
            Call::Utimens { at: At::Slot(slot), atime, mtime } => {
                done(sys::futimens(self.file(*slot)?, &stamps(*atime, *mtime)))
            }
            Call::SetXattr { at: At::Slot(slot), name, value, flags } => {
                done(sys::fsetxattr(self.file(*slot)?, &name[..], value, *flags))
            }
            Call::RemoveXattr { at: At::Slot(slot), name } => {
                done(sys::fremovexattr(self.file(*slot)?, &name[..]))
            }
            Call::GetXattr { at, name, room } => return self.get_xattr(at, name, *room),
            Call::ListXattr { at, room } => return self.list_xattr(at, *room),
            call => by_path(call),
        })
    }

    fn get_xattr(&self, at: &At, name: &[u8], room: usize) -> Option<Result<Outcome, Errno>> {
        let mut buffer = vec![0; room];
        let got = match at {
            At::Slot(slot) => sys::fgetxattr(self.file(*slot)?, name, &mut buffer[..]),
            At::Path(path, true) => sys::getxattr(&path[..], name, &mut buffer[..]),
            At::Path(path, false) => sys::lgetxattr(&path[..], name, &mut buffer[..]),
        };
        // With no room, the answer is a length.
        Some(got.map(|got| if room == 0 { count(got) } else { bytes(&buffer[..got]) }))
    }

    fn list_xattr(&self, at: &At, room: usize) -> Option<Result<Outcome, Errno>> {
        let mut buffer = vec![0; room];
        let got = match at {
            At::Slot(slot) => sys::flistxattr(self.file(*slot)?, &mut buffer[..]),
            At::Path(path, true) => sys::listxattr(&path[..], &mut buffer[..]),
            At::Path(path, false) => sys::llistxattr(&path[..], &mut buffer[..]),
        };
        Some(got.map(|got| if room == 0 { count(got) } else { sorted(&buffer[..got]) }))
    }

    /// Looks at every file that a call names, and at the directories they are in.
    fn look_around(&mut self, call: &Call) -> Vec<Look> {
        let mut seen = Vec::new();
        let (slots, paths) = named(call);
        for slot in slots {
            if let Some(file) = self.file(slot) {
                let stat = sys::fstat(file);
                seen.push(self.look(format!("slot {slot}"), stat));
            }
        }
        for path in paths {
            let name = String::from_utf8_lossy(&path[..path.len().min(60)]).into_owned();
            for (how, flags) in
                [("followed", AtFlags::empty()), ("itself", AtFlags::SYMLINK_NOFOLLOW)]
            {
                seen.push(self.look(format!("{name:?} {how}"), sys::statat(CWD, path, flags)));
            }
            let above = path
                .iter()
                .rposition(|byte| *byte == b'/')
                .map_or(&b"."[..], |at| &path[..at.max(1)]);
            let stat = sys::statat(CWD, above, AtFlags::empty());
            seen.push(self.look(format!("directory of {name:?}"), stat));
        }
        seen
    }

    fn look(&mut self, how: String, stat: Result<Stat, Errno>) -> Look {
        let inode = stat.map(|stat| stat.st_ino).ok();
        ((how, stat.map(|stat| self.note(&stat))), inode)
    }

    fn note(&mut self, stat: &Stat) -> Seen {
        let now = [
            (stat.st_atime, stat.st_atime_nsec as i64),
            (stat.st_mtime, stat.st_mtime_nsec as i64),
            (stat.st_ctime, stat.st_ctime_nsec as i64),
        ];
        let before = self.times.insert(stat.st_ino, now);
        let moment = |nth: usize| {
            let (secs, nanos) = now[nth];
            match before {
                _ if is_far(secs) => Moment::Set(secs, nanos),
                Some(before) if before[nth] == now[nth] => Moment::Same,
                _ => Moment::Changed,
            }
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        let directory = kind == FileType::Directory;
        // The kernel's own pipes, sockets and devices: FUSE does not note when they are used.
        let kept = directory || matches!(kind, FileType::RegularFile | FileType::Symlink);
        Seen {
            mode: stat.st_mode,
            links: stat.st_nlink,
            owner: (stat.st_uid, stat.st_gid),
            device: stat.st_rdev,
            size: if directory { 0 } else { stat.st_size as u64 },
            times: if kept { [0, 1, 2].map(moment) } else { [const { Moment::Same }; 3] },
        }
    }

    fn walk(&mut self) -> std::io::Result<Tree> {
        let (mut tree, mut open) = (Tree::new(), vec![PathBuf::from("/")]);
        while let Some(directory) = open.pop() {
            let mut entries = std::fs::read_dir(&directory)?.collect::<Result<Vec<_>, _>>()?;
            // Of a file with two names, the first one is looked at first, on either side.
            entries.sort_by_key(std::fs::DirEntry::path);
            for entry in entries {
                let path = entry.path();
                let seen = self.note(&sys::statat(CWD, &path, AtFlags::SYMLINK_NOFOLLOW)?);
                let kind = entry.file_type()?;
                let content = if kind.is_file() {
                    digest(&path)?
                } else if kind.is_symlink() {
                    hash(std::fs::read_link(&path)?.as_os_str().as_bytes())
                } else {
                    0
                };
                if kind.is_dir() {
                    open.push(path.clone());
                }
                let xattrs = xattrs(&path)?;
                tree.insert(path, Entry { seen, content, xattrs });
            }
        }
        Ok(tree)
    }
}

fn by_path(call: &Call) -> Result<Outcome, Errno> {
    let done = |result: Result<(), Errno>| result.map(|()| Outcome::Done);
    let nofollow = |follow: bool| if follow { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW };
    match call {
        Call::Mkdir { path, mode } => {
            done(sys::mkdirat(CWD, &path[..], Mode::from_raw_mode(*mode)))
        }
        Call::Mknod { path, kind, mode } => {
            // /dev/null's numbers, which only a device looks at.
            let device = sys::makedev(1, 3);
            done(sys::mknodat(CWD, &path[..], *kind, Mode::from_raw_mode(*mode), device))
        }
        Call::Symlink { target, path } => done(sys::symlinkat(&target[..], CWD, &path[..])),
        Call::Link { from, to, follow } => {
            let flags = if *follow { AtFlags::SYMLINK_FOLLOW } else { AtFlags::empty() };
            done(sys::linkat(CWD, &from[..], CWD, &to[..], flags))
        }
        Call::Unlink { path } => done(sys::unlinkat(CWD, &path[..], AtFlags::empty())),
        Call::Rmdir { path } => done(sys::unlinkat(CWD, &path[..], AtFlags::REMOVEDIR)),
        Call::Rename { from, to, flags } => {
            done(sys::renameat_with(CWD, &from[..], CWD, &to[..], *flags))
        }
        Call::Chmod { at: At::Path(path, _), mode } => {
            done(sys::chmodat(CWD, &path[..], Mode::from_raw_mode(*mode), AtFlags::empty()))
        }
        Call::Chown { at: At::Path(path, follow), uid, gid } => {
            let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
            done(sys::chownat(CWD, &path[..], uid, gid, nofollow(*follow)))
        }
        Call::Utimens { at: At::Path(path, follow), atime, mtime } => {
            done(sys::utimensat(CWD, &path[..], &stamps(*atime, *mtime), nofollow(*follow)))
        }
        Call::Access { path, mode } => done(sys::accessat(CWD, &path[..], *mode, AtFlags::empty())),
        Call::List { path } => list(path),
        Call::Readlink { path } => {
            sys::readlinkat(CWD, &path[..], Vec::new()).map(|target| bytes(target.as_bytes()))
        }
        Call::Stat { path, follow } => {
            // What it sees is compared in any case.
            done(sys::statat(CWD, &path[..], nofollow(*follow)).map(drop))
        }
        Call::SetXattr { at: At::Path(path, follow), name, value, flags } => {
            let set = if *follow { sys::setxattr } else { sys::lsetxattr };
            done(set(&path[..], &name[..], value, *flags))
        }
        Call::RemoveXattr { at: At::Path(path, true), name } => {
            done(sys::removexattr(&path[..], &name[..]))
        }
        Call::RemoveXattr { at: At::Path(path, false), name } => {
            done(sys::lremovexattr(&path[..], &name[..]))
        }
        call => unreachable!("{call:?} is no call by path"),
    }
}

/// Both kinds of edge may lie at any block's border: what is said must be true, no more. The position
/// is then set to where the search began.
fn seek(file: &OwnedFd, offset: i64, whence: Whence) -> Result<Outcome, Errno> {
    let stat = sys::fstat(file)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind == FileType::Directory {
        // What a position in a directory means is its file system's own business.
        return Ok(Outcome::Done);
    }
    let unsigned = offset as u64;
    let found = match whence {
        Whence::Set if offset < 0 => return Err(Errno::INVAL),
        Whence::Set => return sys::seek(file, SeekFrom::Start(unsigned)).map(Outcome::Number),
        Whence::Current => return sys::seek(file, SeekFrom::Current(offset)).map(Outcome::Number),
        Whence::End => return sys::seek(file, SeekFrom::End(offset)).map(Outcome::Number),
        Whence::Data => sys::seek(file, SeekFrom::Data(unsigned)),
        Whence::Hole => sys::seek(file, SeekFrom::Hole(unsigned)),
    };
    let size = stat.st_size as u64;
    if kind != FileType::RegularFile || unsigned >= size {
        return found.map(|_| Outcome::Done);
    }
    let to = match (found, whence) {
        (Ok(at), _) => at,
        (Err(Errno::NXIO), Whence::Data) => size,
        (Err(error), _) => return Err(error),
    };
    assert!(unsigned <= to && to <= size, "{whence:?} from {unsigned}: {to} of {size}");
    if matches!(whence, Whence::Data) {
        let mut buffer = vec![1; (to - unsigned).min(1 << 20) as usize];
        // A file that is not open for reading is not looked into.
        if let Ok(read) = rustix::io::pread(file, &mut buffer[..], unsigned) {
            assert!(
                buffer[..read].iter().all(|byte| *byte == 0),
                "data before {to}, from {unsigned}"
            );
        }
    }
    sys::seek(file, SeekFrom::Start(unsigned)).map(|_| Outcome::Done)
}

fn truncate(path: &[u8], size: u64) -> Result<(), Errno> {
    let size = i64::try_from(size).expect("sizes are far below");
    nix::unistd::truncate(path, size).map_err(|error| Errno::from_raw_os_error(error as i32))
}

fn stamps(atime: Stamp, mtime: Stamp) -> Timestamps {
    let time = |stamp| match stamp {
        Stamp::Omit => Timespec { tv_sec: 0, tv_nsec: sys::UTIME_OMIT },
        Stamp::Now => Timespec { tv_sec: 0, tv_nsec: sys::UTIME_NOW },
        Stamp::To(secs, nanos) => Timespec { tv_sec: secs, tv_nsec: nanos },
    };
    Timestamps { last_access: time(atime), last_modification: time(mtime) }
}

fn sorted(list: &[u8]) -> Outcome {
    let names = list.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let mut names: Vec<Vec<u8>> = names.map(<[u8]>::to_vec).collect();
    names.sort();
    Outcome::Names(names)
}

fn list(path: &[u8]) -> Result<Outcome, Errno> {
    let flags = sys::OFlags::DIRECTORY | sys::OFlags::RDONLY | sys::OFlags::CLOEXEC;
    let mut names = Vec::new();
    for entry in sys::Dir::new(sys::openat(CWD, path, flags, Mode::empty())?)? {
        let entry = entry?;
        names.push(
            [entry.file_name().to_bytes(), b" ", format!("{:?}", entry.file_type()).as_bytes()]
                .concat(),
        );
    }
    names.sort();
    Ok(Outcome::Names(names))
}

fn digest(path: &Path) -> std::io::Result<u64> {
    let file = File::open(path)?;
    let (len, mut hash) = (file.metadata()?.len(), Xxh3::new());
    let mut buffer = vec![0; WINDOW as usize];
    for start in [0, len.saturating_sub(WINDOW)] {
        let want = (len - start).min(WINDOW) as usize;
        file.read_exact_at(&mut buffer[..want], start)?;
        hash.update(&buffer[..want]);
    }
    Ok(hash.digest())
}

/// Extended attributes, with lengths and hashes of their values.
pub(crate) fn xattrs(path: &Path) -> std::io::Result<BTreeMap<Vec<u8>, (usize, u64)>> {
    let mut list = vec![0; 1 << 16];
    let len = sys::llistxattr(path, &mut list[..])?;
    let mut found = BTreeMap::new();
    for name in list[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 1 << 16];
        let len = sys::lgetxattr(path, name, &mut value[..])?;
        found.insert(name.to_vec(), (len, hash(&value[..len])));
    }
    Ok(found)
}

/// The open files and the paths that a call names.
fn named(call: &Call) -> (Vec<usize>, Vec<&[u8]>) {
    match call {
        Call::Open { slot, path, .. } => (vec![*slot], vec![path]),
        Call::Close { slot }
        | Call::Read { slot, .. }
        | Call::Write { slot, .. }
        | Call::Seek { slot, .. }
        | Call::Fallocate { slot, .. }
        | Call::Sync { slot } => (vec![*slot], vec![]),
        Call::Copy { from, to, .. } => (vec![*from, *to], vec![]),
        Call::Link { from, to, .. } | Call::Rename { from, to, .. } => (vec![], vec![from, to]),
        Call::Mkdir { path, .. }
        | Call::Mknod { path, .. }
        | Call::Symlink { path, .. }
        | Call::Unlink { path }
        | Call::Rmdir { path }
        | Call::Access { path, .. }
        | Call::List { path }
        | Call::Readlink { path }
        | Call::Stat { path, .. } => (vec![], vec![path]),
        Call::Truncate { at, .. }
        | Call::Chmod { at, .. }
        | Call::Chown { at, .. }
        | Call::Utimens { at, .. }
        | Call::SetXattr { at, .. }
        | Call::GetXattr { at, .. }
        | Call::ListXattr { at, .. }
        | Call::RemoveXattr { at, .. } => match at {
            At::Slot(slot) => (vec![*slot], vec![]),
            At::Path(path, _) => (vec![], vec![path]),
        },
    }
}
