//! Volumes on this machine: format, open, lock, list.
//!
//! A volume NAME in a directory is three files: `NAME.redb` holds its metadata, `NAME.log` what was
//! synced since they were last written there (nothing, once it was unmounted), and `NAME.lock` is locked (flock) by whoever has it open and says who that is. The lock ends with its process, so a
//! lock file that was left over means nothing. A volume is formatted under another name first and
//! appears whole.
//!
//! All of them are their owner's alone: they hold names, attributes, and who has mounted what where,
//! which the modes of a volume's directories may keep from others.

use std::collections::hash_map::RandomState;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::future::Future;
use std::hash::{BuildHasher, Hasher as _};
use std::io::{self, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use proto::guard::caught;

use crate::engine::direct::DirectFile;
use crate::engine::log::Log;
use crate::engine::memory::MemoryKv;
use crate::engine::redb::{RedbKv, RedbSettings, file_opener};
use crate::engine::{Batch, Kv, Value};
use crate::inode::Inode;
use crate::key;
use crate::key::counters::Counters;
use crate::key::volume::VolumeRecord;
use crate::local::{LocalMeta, Seams, volume_record, wall_clock};
use crate::store::{Attr, Kind, MetaError, ROOT, Usage, VolumeInfo};

/// Longest name of a volume, in bytes.
const NAME_MAX: usize = 64;
/// A look at a lock holds it for a moment: so often an opener tries again, and waits in between.
const LOCK_TRIES: usize = 20;
const LOCK_WAIT: Duration = Duration::from_millis(5);
/// Cache of the engine while a volume is formatted, in bytes.
const FORMAT_CACHE: usize = 1 << 20;
/// Modes of what is made: nothing for others.
const PRIVATE_FILE: u32 = 0o600;
const PRIVATE_DIRECTORY: u32 = 0o700;
/// Endings of a volume's files; of the last, the program that mounts in the background is the author.
const FILES: [&str; 5] = ["redb", "log", "lock", "messages", "messages.1"];

/// Who has a volume open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountedBy {
    /// The process.
    pub pid: u32,
    /// Where it is mounted.
    pub mountpoint: PathBuf,
}

/// How much memory metadata may take, and how long a change may wait in it.
#[derive(Clone, Copy, Debug)]
pub struct MetaSettings {
    /// Cache of the metadata file, in bytes.
    pub cache_bytes: usize,
    /// Longest time until a change is durable without a sync.
    pub flush_interval: Duration,
    /// Unsynced changes beyond this are written out at once, in bytes. At most four times as much
    /// is held before operations wait.
    pub unsynced_bytes: usize,
}

impl Default for MetaSettings {
    fn default() -> Self {
        Self {
            cache_bytes: 64 << 20,
            flush_interval: Duration::from_secs(1),
            unsynced_bytes: 16 << 20,
        }
    }
}

/// Why a volume could not be formatted or opened.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// Not a name that a volume may have.
    #[error(
        "not a name of a volume: {0:?} (1 to {NAME_MAX} of a-z, 0-9, '.', '_' and '-', not starting with '.' or '-')"
    )]
    BadName(String),
    /// There is one by that name.
    #[error("volume {0} exists")]
    Exists(String),
    /// There is none by that name.
    #[error("there is no volume {name} in {dir}")]
    NotFound {
        /// The name.
        name: String,
        /// Where it was looked for.
        dir: PathBuf,
    },
    /// Somebody else has it open.
    #[error("volume {name} is mounted at {at} by process {pid}", at = by.mountpoint.display(), pid = by.pid)]
    Mounted {
        /// The volume.
        name: String,
        /// Who has it open.
        by: MountedBy,
    },
    /// Its metadata cannot be used.
    #[error("volume {name}: {reason}")]
    Damaged {
        /// The volume.
        name: String,
        /// Why.
        reason: String,
    },
    /// A file operation failed.
    #[error("{doing} {path}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// Makes a new, empty volume, whose root directory belongs to this user and group.
pub fn format(dir: &Path, info: &VolumeInfo, root: (u32, u32, u32)) -> Result<(), VolumeError> {
    check_name(&info.name)?;
    let name = &info.name;
    let mut directories = fs::DirBuilder::new();
    directories.recursive(true).mode(PRIVATE_DIRECTORY);
    directories.create(dir).map_err(io_error("creating metadata directory", dir))?;
    let by = MountedBy { pid: std::process::id(), mountpoint: PathBuf::from("(formatting)") };
    let _lock = Lock::take(dir, name, &by)?;
    let (path, new) = (file(dir, name, "redb"), file(dir, name, "redb.new"));
    if path.exists() {
        return Err(VolumeError::Exists(name.clone()));
    }
    // Left over from a format that did not come to its end.
    let _ = fs::remove_file(&new);
    let mut empty = OpenOptions::new();
    empty.read(true).write(true).create_new(true).mode(PRIVATE_FILE);
    let empty = empty.open(&new).map_err(io_error("creating", &new))?;
    let database = redb::Database::builder().create_file(empty);
    drop(database.map_err(|e| damaged(name, &e))?);
    let settings = MetaSettings { cache_bytes: FORMAT_CACHE, ..MetaSettings::default() };
    let kv = start(&new, None, settings).map_err(|e| damaged(name, &e))?;
    initialise(&kv, info, root).and_then(|_| wait_for(kv.sync())).map_err(|e| damaged(name, &e))?;
    drop(kv);
    match fs::hard_link(&new, &path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(VolumeError::Exists(name.clone()));
        }
        linked => linked.map_err(io_error("creating", &path))?,
    }
    fs::remove_file(&new).map_err(io_error("removing", &new))?;
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io_error("syncing", dir))
}

/// Opens a volume: locks it and starts a new session. Sessions that were not closed are remembered
/// as dead.
pub fn open(
    dir: &Path,
    name: &str,
    by: MountedBy,
    settings: MetaSettings,
) -> Result<Arc<LocalMeta>, VolumeError> {
    check_name(name)?;
    let path = file(dir, name, "redb");
    if !path.exists() {
        return Err(VolumeError::NotFound { name: name.to_owned(), dir: dir.to_owned() });
    }
    let lock = Lock::take(dir, name, &by)?;
    close_to_others(dir, name);
    let log = file(dir, name, "log");
    let opened = caught("opening the metadata", || {
        let kv = start(&path, Some(&log), settings).map_err(|e| damaged(name, &e))?;
        open_locked(name, kv, lock)
    });
    opened.unwrap_or_else(|panicked| Err(damaged(name, &panicked)))
}

/// Opens what its engine has, once nobody else can.
fn open_locked(name: &str, kv: RedbKv, lock: Lock) -> Result<Arc<LocalMeta>, VolumeError> {
    let value = volume_record(&kv).map_err(|e| damaged(name, &e))?.unwrap_or_default();
    let record = VolumeRecord::decode(&value).map_err(|e| damaged(name, &e))?;
    if record.info.name != name {
        let owner = &record.info.name;
        let reason = format!(
            "its file holds the metadata of volume {owner}, under another name: call it {owner}.redb again"
        );
        return Err(damaged(name, &reason));
    }
    let opening = LocalMeta::open(Arc::new(kv), record, Seams::default(), Some(lock));
    wait_for(opening).map(Arc::new).map_err(|e| damaged(name, &e))
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
    pub fn open(&self) -> Arc<LocalMeta> {
        let record = self.record.clone();
        let opening = LocalMeta::open(self.kv.clone(), record, Seams::default(), None);
        Arc::new(wait_for(opening).expect("memory does not fail"))
    }

    /// What a crash at this moment leaves of it: all that was synced, and nothing else.
    #[must_use]
    pub fn after_crash(&self) -> Self {
        Self { kv: Arc::new(self.kv.crash()), record: self.record.clone() }
    }
}

/// A new volume in memory, opened.
pub fn in_memory(info: &VolumeInfo, root: (u32, u32, u32)) -> Arc<LocalMeta> {
    MemoryVolume::format(info, root).open()
}

/// Names of the volumes in a directory, in order.
pub fn volumes(dir: &Path) -> Result<Vec<String>, VolumeError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(io_error("listing", dir))? {
        let entry = entry.map_err(io_error("listing", dir))?;
        let file = entry.file_name();
        let name = file.to_str().and_then(|f| f.strip_suffix(".redb"));
        names.extend(name.filter(|n| check_name(n).is_ok()).map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

/// Who has a volume open, if anybody has.
pub fn lock_holder(dir: &Path, name: &str) -> Result<Option<MountedBy>, VolumeError> {
    check_name(name)?;
    let path = file(dir, name, "lock");
    let mut file = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(io_error("opening", &path))?,
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => Ok(Some(read_holder(&mut file))),
        Err(TryLockError::Error(source)) => Err(io_error("locking", &path)(source)),
    }
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
        size: 0,
        stored: 0,
        atime: now,
        mtime: now,
        ctime: now,
        btime: now,
    };
    let root = Inode { attr, xattrs: 0, parent: ROOT, orphan_of: None };
    let usage = Usage { inodes: 1, ..Usage::default() };
    let counters = Counters { next_ino: ROOT.0 + 1, next_session: 1, usage };
    // The standard library seeds its hash maps from the kernel's randomness.
    let seed = RandomState::new().build_hasher().finish();
    let record = VolumeRecord { info: info.clone(), seed };
    kv.transact(&mut |_| {
        let put = |value: &[u8]| Some(Value::from(value));
        Ok(Batch::from([
            (key::volume::key(), put(&record.encode())),
            (key::counters::key(), put(&counters.encode())),
            (key::inode::key(ROOT), put(&root.encode())),
        ]))
    })?;
    Ok(record)
}

fn start(path: &Path, log: Option<&Path>, settings: MetaSettings) -> Result<RedbKv, MetaError> {
    let open_log = |path| Log::new(Box::new(DirectFile::open(path)?));
    let log = log
        .map(open_log)
        .transpose()
        .map_err(|e| MetaError::Engine(format!("opening the metadata log: {e}")))?;
    let opener = file_opener(path.to_owned(), settings.cache_bytes);
    let bounds = RedbSettings {
        interval: settings.flush_interval,
        table_bytes: settings.unsynced_bytes.max(1),
    };
    RedbKv::start(opener, log, bounds)
}

fn check_name(name: &str) -> Result<(), VolumeError> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
    let good = (1..=NAME_MAX).contains(&name.len())
        && !name.starts_with(['.', '-'])
        && name.bytes().all(allowed);
    if good { Ok(()) } else { Err(VolumeError::BadName(name.to_owned())) }
}

fn file(dir: &Path, name: &str, suffix: &str) -> PathBuf {
    dir.join(format!("{name}.{suffix}"))
}

/// Files that were made when others could read them are so no longer.
fn close_to_others(dir: &Path, name: &str) {
    for path in FILES.map(|suffix| file(dir, name, suffix)) {
        let Ok(found) = fs::metadata(&path) else { continue };
        if found.mode() & 0o077 == 0 {
            continue;
        }
        if let Err(error) = fs::set_permissions(&path, fs::Permissions::from_mode(PRIVATE_FILE)) {
            tracing::warn!(path = %path.display(), %error, "others may read what is in a volume");
        }
    }
}

fn damaged(name: &str, reason: &dyn std::fmt::Display) -> VolumeError {
    VolumeError::Damaged { name: name.to_owned(), reason: reason.to_string() }
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> VolumeError {
    let path = path.to_owned();
    move |source| VolumeError::Io { doing, path, source }
}

/// A volume's lock; given back when dropped.
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    fn take(dir: &Path, name: &str, by: &MountedBy) -> Result<Self, VolumeError> {
        let path = file(dir, name, "lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(PRIVATE_FILE)
            .open(&path)
            .map_err(io_error("opening", &path))?;
        for attempt in 1.. {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if attempt < LOCK_TRIES => thread::sleep(LOCK_WAIT),
                Err(TryLockError::WouldBlock) => {
                    let by = read_holder(&mut file);
                    return Err(VolumeError::Mounted { name: name.to_owned(), by });
                }
                Err(TryLockError::Error(source)) => {
                    return Err(io_error("locking", &path)(source));
                }
            }
        }
        let mut holder = format!("{}\n", by.pid).into_bytes();
        holder.extend_from_slice(by.mountpoint.as_os_str().as_bytes());
        file.set_len(0)
            .and_then(|()| file.write_all(&holder))
            .map_err(io_error("writing", &path))?;
        Ok(Self { _file: file })
    }
}

/// What a lock file says. Its holder may just be writing it: then nobody in particular.
fn read_holder(file: &mut File) -> MountedBy {
    let mut text = Vec::new();
    let parse = |text: &[u8]| {
        let at = text.iter().position(|&b| b == b'\n')?;
        let pid = std::str::from_utf8(&text[..at]).ok()?.parse().ok()?;
        Some(MountedBy { pid, mountpoint: OsStr::from_bytes(&text[at + 1..]).into() })
    };
    let read = file.read_to_end(&mut text).ok().and_then(|_| parse(&text));
    read.unwrap_or_else(|| MountedBy { pid: 0, mountpoint: PathBuf::from("(unknown)") })
}

/// Waits for a future on this thread: opening a volume is not worth a runtime.
fn wait_for<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}
