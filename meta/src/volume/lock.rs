//! Who has a volume open on this machine, and where the machine keeps what is its own of volumes.
//!
//! `NAME.lock` is locked (flock) by whoever has the volume open, and says who that is. The lock ends with its
//! process, so a lock file that was left over keeps nobody out. It keeps the programs of one machine from
//! taking the volume from one another; what keeps machines apart, and any two that miss each other's lock, is the
//! fence in the store ([`crate::journal::takeover`]). It also says in whose name this machine took the volume over:
//! who has the lock knows that those owners are no more, however lately they were heard from.
//!
//! ```text
//! PID [OWNER [OWNER ...]]     newest first
//! where it is mounted         empty: it is served by doors alone
//! ```
//!
//! All of it is its owner's alone: it holds names, attributes, and who has mounted what where, which the
//! modes of a volume's directories may keep from others.

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use proto::id::OwnerId;
use proto::part_store::MAX_HOLDER;

/// Longest name of a volume, in bytes.
const NAME_MAX: usize = 64;
/// A look at a lock holds it for a moment: so often an opener tries again, and waits in between.
const LOCK_TRIES: usize = 20;
const LOCK_WAIT: Duration = Duration::from_millis(5);
/// Owners that are remembered: the last, and those before it whose fence may have come to nothing.
const OWNERS: usize = 4;
/// Modes of what is made: nothing for others.
const PRIVATE_FILE: u32 = 0o600;
const PRIVATE_DIRECTORY: u32 = 0o700;

/// Directories of this machine for the volumes of one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directories {
    /// Of chunks of snapshots, and locks.
    pub cache: PathBuf,
    /// Of locks, where the first takes none: on a filesystem that is read-only or full, or not ours to write.
    pub runtime: Option<PathBuf>,
}

/// Who has a volume open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountedBy {
    /// The process.
    pub pid: u32,
    /// Where it is mounted; empty: nowhere, it is served by doors alone.
    pub mountpoint: PathBuf,
}

impl MountedBy {
    /// Is it mounted nowhere?
    pub fn is_served_only(&self) -> bool {
        self.mountpoint.as_os_str().is_empty()
    }
}

impl fmt::Display for MountedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_served_only() {
            true => write!(f, "served by process {}", self.pid),
            false => write!(f, "mounted at {} by process {}", self.mountpoint.display(), self.pid),
        }
    }
}

/// Why a volume could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Not a name that a volume may have.
    #[error(
        "not a name of a volume: {0:?} (1 to {NAME_MAX} of a-z, 0-9, '.', '_' and '-', not starting with '.' or '-')"
    )]
    BadName(String),
    /// Somebody else has it open.
    #[error("volume {name} is {by}")]
    Mounted {
        /// The volume.
        name: String,
        /// Who has it open.
        by: MountedBy,
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

/// A volume's lock; given back when dropped.
pub struct VolumeLock {
    file: File,
    path: PathBuf,
    name: String,
    at: Directories,
    by: MountedBy,
    /// In whose names this machine took the volume over, newest first.
    owners: Vec<OwnerId>,
}

impl Directories {
    /// This one for everything.
    pub fn only(cache: &Path) -> Self {
        Self { cache: cache.to_owned(), runtime: None }
    }

    /// In the order in which they are tried for what must be written somewhere.
    pub fn all(&self) -> impl Iterator<Item = &Path> {
        std::iter::once(&*self.cache).chain(self.runtime.as_deref())
    }
}

impl VolumeLock {
    /// Takes it, in the first of the directories that can be written.
    ///
    /// # Errors
    /// [`LockError::Mounted`] when a process of this machine has the volume open; [`LockError::Io`] when
    /// there is no place for a lock.
    pub fn take(at: &Directories, name: &str, by: &MountedBy) -> Result<Self, LockError> {
        check_name(name)?;
        let (mut refused, mut unsigned) = (None, None);
        for dir in at.all() {
            let mut lock = match Self::take_in(dir, at, name, by) {
                Err(why @ LockError::Io { .. }) => {
                    refused.get_or_insert(why);
                    continue;
                }
                taken => taken?,
            };
            match lock.sign() {
                Ok(()) => return Ok(lock),
                Err(why) => {
                    refused.get_or_insert(why);
                    unsigned.get_or_insert(lock);
                }
            }
        }
        let why = refused.expect("there is a directory, and it was refused");
        let Some(lock) = unsigned else { return Err(why) };
        tracing::warn!("nobody is told who has volume {name} open: {why}");
        Ok(lock)
    }

    /// Takes it in one of the directories, unless it is held in another.
    fn take_in(
        dir: &Path,
        at: &Directories,
        name: &str,
        by: &MountedBy,
    ) -> Result<Self, LockError> {
        make_directory(dir).map_err(io_error("creating the directory of volumes' locks", dir))?;
        let path = file(dir, name, "lock");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(PRIVATE_FILE);
        let mut file = options.open(&path).map_err(io_error("opening", &path))?;
        for attempt in 1.. {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if attempt < LOCK_TRIES => thread::sleep(LOCK_WAIT),
                Err(TryLockError::WouldBlock) => {
                    let by = said_in(&mut file).by;
                    return Err(LockError::Mounted { name: name.to_owned(), by });
                }
                Err(TryLockError::Error(source)) => {
                    return Err(io_error("locking", &path)(source));
                }
            }
        }
        // Another may have found no room where there is some by now.
        let others = || at.all().filter(|other| *other != dir);
        if let Some(by) = others().find_map(|other| holder_in(other, name).ok().flatten()) {
            return Err(LockError::Mounted { name: name.to_owned(), by });
        }
        let mut owners = said_in(&mut file).owners;
        for mut other in
            others().filter_map(|other| File::open(self::file(other, name, "lock")).ok())
        {
            owners.extend(said_in(&mut other).owners);
        }
        let (name, at, by) = (name.to_owned(), at.clone(), by.clone());
        Ok(Self { file, path, name, at, by, owners })
    }

    /// Says in the lock who holds it.
    fn sign(&mut self) -> Result<(), LockError> {
        let mut holder = self.by.pid.to_string().into_bytes();
        self.owners.iter().for_each(|owner| holder.extend(format!(" {owner}").bytes()));
        holder.push(b'\n');
        holder.extend_from_slice(self.by.mountpoint.as_os_str().as_bytes());
        let emptied = self.file.set_len(0).and_then(|()| self.file.rewind());
        let written = emptied.and_then(|()| self.file.write_all(&holder));
        written.map_err(io_error("writing", &self.path))
    }

    /// In whose names this machine took the volume over: none of them is any more.
    pub(crate) fn owners(&self) -> &[OwnerId] {
        &self.owners
    }

    /// Says in the lock that the volume is taken over in this name, before it is.
    pub(crate) fn note_owner(&mut self, owner: OwnerId) {
        self.owners.insert(0, owner);
        self.owners.truncate(OWNERS);
        if let Err(why) = self.sign() {
            tracing::warn!("after a crash this mount will be taken to be alive for a while: {why}");
        }
    }

    /// Who has it, as other machines are told.
    pub(crate) fn holder(&self) -> String {
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let MountedBy { pid, mountpoint } = &self.by;
        let host = if host.trim().is_empty() { "a host without a name" } else { host.trim() };
        let at = match self.by.is_served_only() {
            true => String::new(),
            false => format!(" at {}", mountpoint.display()),
        };
        let name = format!("process {pid} of {host}{at}");
        let mut name = name.replace(char::is_control, "?");
        while name.len() > MAX_HOLDER {
            name.pop();
        }
        name
    }

    /// The volume that is locked.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where chunks of its snapshots are kept on this machine; `None`: they cannot be.
    pub(crate) fn chunk_directory(&self) -> Option<PathBuf> {
        let chunks = file(&self.at.cache, &self.name, "chunks");
        let made = make_directory(&chunks);
        made.inspect_err(|error| {
            let path = chunks.display();
            tracing::warn!(%path, %error, "metadata are not kept on this machine, and read from the disks each time");
        })
        .ok()
        .map(|()| chunks)
    }

    /// Takes away what this machine keeps of the volume, which is no more, and the lock with it.
    pub fn remove(self) {
        let chunks = file(&self.at.cache, &self.name, "chunks");
        for removed in [fs::remove_dir_all(chunks), fs::remove_file(&self.path)] {
            match removed {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(
                        "what this machine keeps of volume {} stays: {error}",
                        self.name
                    );
                }
                _ => {}
            }
        }
        // The last volume of its cluster: if there is another, it stays.
        let _ = self.path.parent().map(fs::remove_dir);
    }
}

/// Who has a volume open, if anybody has.
///
/// # Errors
/// When its lock cannot be looked at.
pub fn lock_holder(at: &Directories, name: &str) -> Result<Option<MountedBy>, LockError> {
    check_name(name)?;
    let mut refused = Ok(None);
    for dir in at.all() {
        match holder_in(dir, name) {
            Ok(None) => {}
            Ok(holder) => return Ok(holder),
            why => refused = why,
        }
    }
    refused
}

fn holder_in(dir: &Path, name: &str) -> Result<Option<MountedBy>, LockError> {
    let path = file(dir, name, "lock");
    let mut file = match File::open(&path) {
        Err(error)
            if [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&error.kind()) =>
        {
            return Ok(None);
        }
        opened => opened.map_err(io_error("opening", &path))?,
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => Ok(Some(said_in(&mut file).by)),
        Err(TryLockError::Error(source)) => Err(io_error("locking", &path)(source)),
    }
}

/// What a lock file says.
struct Said {
    by: MountedBy,
    owners: Vec<OwnerId>,
}

/// Reads it. Its holder may just be writing it: then nobody in particular.
fn said_in(file: &mut File) -> Said {
    let mut text = Vec::new();
    let parse = |text: &[u8]| {
        let at = text.iter().position(|&b| b == b'\n')?;
        let mut words = std::str::from_utf8(&text[..at]).ok()?.split(' ');
        let pid = words.next()?.parse().ok()?;
        let by = MountedBy { pid, mountpoint: OsStr::from_bytes(&text[at + 1..]).into() };
        Some(Said { by, owners: words.filter_map(|word| word.parse().ok()).collect() })
    };
    let read = file.read_to_end(&mut text).ok().and_then(|_| parse(&text));
    let nobody = || MountedBy { pid: 0, mountpoint: PathBuf::from("(unknown)") };
    read.unwrap_or_else(|| Said { by: nobody(), owners: Vec::new() })
}

/// Makes a directory of a machine, and those above it, closed to others.
///
/// # Errors
/// When it cannot be made; that it is there is fine.
pub fn make_directory(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(PRIVATE_DIRECTORY).create(dir)
}

fn check_name(name: &str) -> Result<(), LockError> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
    let good = (1..=NAME_MAX).contains(&name.len())
        && !name.starts_with(['.', '-'])
        && name.bytes().all(allowed);
    if good { Ok(()) } else { Err(LockError::BadName(name.to_owned())) }
}

fn file(dir: &Path, name: &str, suffix: &str) -> PathBuf {
    dir.join(format!("{name}.{suffix}"))
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LockError {
    let path = path.to_owned();
    move |source| LockError::Io { doing, path, source }
}
