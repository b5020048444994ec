//! Mount points: what can be one, what is mounted where, and taking a mount away again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use meta::MountedBy;
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use proto::touch::touch;

use crate::mount::attach;
use crate::options::MountOptions;

/// The type of our mounts.
const TYPE: &str = "fuse.ashlar";

/// Why a directory cannot be mounted on, or a mount not be taken away.
#[derive(Debug, thiserror::Error)]
pub enum MountPointError {
    /// It is not there.
    #[error("mount point {}: no such directory", .0.display())]
    Missing(PathBuf),
    /// It is something else.
    #[error("mount point {}: not a directory", .0.display())]
    NotDirectory(PathBuf),
    /// It has something in it that the mount would hide.
    #[error("mount point {}: not empty", .0.display())]
    NotEmpty(PathBuf),
    /// Something is mounted there.
    #[error("mount point {}: {what} is mounted there already", path.display())]
    Busy {
        /// The directory.
        path: PathBuf,
        /// Source and type.
        what: String,
    },
    /// A mount whose process is gone.
    #[error("mount point {}: a dead mount is still there (take it away with: umount -l {})", .0.display(), .0.display())]
    Dead(PathBuf),
    /// The volume would be mounted over, or in, what it is made of.
    #[error("mount point {}: it overlaps with {}, which the volume needs", path.display(), other.display())]
    Overlap {
        /// The mount point.
        path: PathBuf,
        /// A disk or the metadata's directory.
        other: PathBuf,
    },
    /// The kernel has no FUSE.
    #[error("/dev/fuse is not there (load the kernel's module with: modprobe fuse)")]
    NoFuse,
    /// This user may not use FUSE.
    #[error("/dev/fuse: {0}")]
    FuseRefused(io::Error),
    /// Only root mounts without help.
    #[error(
        "fusermount3 is not installed, and only root can mount without it (Debian: apt install fuse3)"
    )]
    NoHelper,
    /// Nothing of ours is mounted there.
    #[error("{}: nothing is mounted there", .0.display())]
    NotMounted(PathBuf),
    /// Something else is.
    #[error("{}: {what} is mounted there, which is no volume of Ashlar", path.display())]
    NotOurs {
        /// The directory.
        path: PathBuf,
        /// Source and type.
        what: String,
    },
    /// Files are open for writing.
    #[error("{}: busy (a program has a file open for writing)", .0.display())]
    BeingWritten(PathBuf),
    /// Files are open.
    #[error("{}: busy (a program has a file or its working directory there)", .0.display())]
    InUse(PathBuf),
    /// Anything else.
    #[error("{}: {why}", path.display())]
    Other {
        /// The path.
        path: PathBuf,
        /// What the system says.
        why: String,
    },
}

/// How a mount is taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmount {
    /// If nobody uses it.
    Unused,
    /// From sight at once, and for good when nobody uses it any more.
    Lazy,
    /// If nobody uses it; requests that are not answered yet fail.
    Force,
    /// Both.
    ForceLazy,
}

/// One line of /proc/self/mountinfo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountEntry {
    /// Its number: no other mount has it at the same time.
    pub id: u32,
    /// `MAJOR:MINOR` of its device, that is, of the filesystem in it.
    pub device: String,
    /// Which directory of that filesystem is mounted.
    pub root: PathBuf,
    /// Where.
    pub path: PathBuf,
    /// Type, as `fuse.ashlar`.
    pub kind: String,
    /// Source: of ours, the volume.
    pub source: String,
    /// Options of the filesystem, then those of the mount, separated by commas.
    pub options: String,
}

impl MountEntry {
    /// What stands for the mount of a volume that this process serves without one: by this its desk is found.
    pub(crate) fn of_server(volume: &str, pid: u32) -> Self {
        Self {
            id: 0,
            device: format!("served by {pid}"),
            root: PathBuf::from("/"),
            path: PathBuf::new(),
            kind: TYPE.to_owned(),
            source: volume.to_owned(),
            options: String::new(),
        }
    }
}

/// By what the process is found that has a volume open here.
pub(crate) fn held_by(holder: &MountedBy, volume: &str) -> Result<MountEntry, MountPointError> {
    match holder.is_served_only() {
        true => Ok(MountEntry::of_server(volume, holder.pid)),
        false => volume_at(&holder.mountpoint),
    }
}

#[cfg(test)]
impl MountEntry {
    /// A volume's mount that is nowhere.
    pub(crate) fn example(source: &str, root: &str, path: &str) -> Self {
        Self {
            id: 1,
            device: "0:1048575".to_owned(),
            root: root.into(),
            path: path.into(),
            kind: TYPE.to_owned(),
            source: source.to_owned(),
            options: String::new(),
        }
    }
}

impl MountEntry {
    /// Is the filesystem read-only, so that no mount of it can be written to?
    pub fn is_read_only(&self) -> bool {
        self.options.split(',').find(|word| ["ro", "rw"].contains(word)) == Some("ro")
    }
}

/// Undoes the octal escapes of /proc: space, tab, newline and backslash.
fn unescape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let octal = (bytes[at] == b'\\')
            .then(|| text.get(at + 1..at + 4))
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(byte) => {
                out.push(byte);
                at += 4;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn parse_mountinfo(text: &str) -> Vec<MountEntry> {
    let entry = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let left: Vec<&str> = left.split(' ').collect();
        let right: Vec<&str> = right.split(' ').collect();
        Some(MountEntry {
            id: left.first()?.parse().ok()?,
            device: (*left.get(2)?).to_owned(),
            root: PathBuf::from(unescape(left.get(3)?)),
            path: PathBuf::from(unescape(left.get(4)?)),
            kind: (*right.first()?).to_owned(),
            source: unescape(right.get(1)?),
            options: format!("{},{}", right.get(2)?, left.get(5)?),
        })
    };
    text.lines().filter_map(entry).collect()
}

/// Everything that is mounted.
fn mounts() -> Vec<MountEntry> {
    parse_mountinfo(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default())
}

/// What is mounted at this very directory: the uppermost, if several are.
pub fn mounted_at(path: &Path) -> Option<MountEntry> {
    mounts().into_iter().rfind(|entry| entry.path == path)
}

/// All mounts of volumes.
pub fn volumes() -> Vec<MountEntry> {
    mounts().into_iter().filter(|entry| entry.kind == TYPE).collect()
}

/// All mounts of the same filesystem as this one. It ends with the last of them.
pub fn places(of: &MountEntry) -> Vec<MountEntry> {
    let same = |entry: &MountEntry| entry.device == of.device && entry.source == of.source;
    mounts().into_iter().filter(same).collect()
}

/// Is this mount there still? The kernel gives its numbers to others, but not at the same path.
pub fn is_there(mount: &MountEntry) -> bool {
    places(mount).iter().any(|place| place.id == mount.id && place.path == mount.path)
}

fn is_disconnect(error: &io::Error) -> bool {
    [Errno::ENOTCONN, Errno::ECONNABORTED].iter().any(|&e| error.raw_os_error() == Some(e as i32))
}

/// Is it a mount whose process is gone? One that hangs is not.
pub fn is_dead(path: &Path) -> bool {
    let path = path.to_owned();
    // What was cached before the end is still told: the directory itself must be asked.
    let asked = touch(move || fs::metadata(&path).err().or_else(|| fs::read_dir(&path).err()));
    asked.is_ok_and(|error| error.is_some_and(|e| is_disconnect(&e)))
}

/// Does work on a path that may hang.
fn touching<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce(&Path) -> Result<T, MountPointError> + Send + 'static,
) -> Result<T, MountPointError> {
    let owned = path.to_owned();
    touch(move || work(&owned)).unwrap_or_else(|e| {
        Err(MountPointError::Other { path: path.to_owned(), why: e.to_string() })
    })
}

/// Absolute and without links, as /proc says it. Asks nothing of what is mounted there, and waits for
/// what is above it no longer than for anything that may hang.
pub fn canonical(path: &Path) -> Result<PathBuf, MountPointError> {
    touching(path, find)
}

fn find(path: &Path) -> Result<PathBuf, MountPointError> {
    let other = |e: io::Error| match e.kind() {
        io::ErrorKind::NotFound => MountPointError::Missing(path.to_owned()),
        _ if is_disconnect(&e) => MountPointError::Dead(path.to_owned()),
        _ => MountPointError::Other { path: path.to_owned(), why: e.to_string() },
    };
    let absolute = std::path::absolute(path).map_err(other)?;
    let Some((parent, name)) = absolute.parent().zip(absolute.file_name()) else {
        return absolute.canonicalize().map_err(other);
    };
    let direct = parent.canonicalize().map_err(other)?.join(name);
    // Even to look whether it is a link would be to ask a mount there, which may be dead or hang.
    if mounted_at(&direct).is_some() || !direct.is_symlink() {
        return Ok(direct);
    }
    direct.canonicalize().map_err(other)
}

/// Checks that a volume can be mounted here; answers the absolute path. `needed` are directories
/// that the volume itself lies in; `nonempty`: what is in it may be hidden.
pub fn check(path: &Path, needed: &[&Path], nonempty: bool) -> Result<PathBuf, MountPointError> {
    let at = touching(path, find_free)?;
    let other =
        real_paths(needed).into_iter().find(|dir| at.starts_with(dir) || dir.starts_with(&at));
    if let Some(other) = other {
        return Err(MountPointError::Overlap { path: path.to_owned(), other });
    }
    let inside = at.clone();
    let listed = touching(path, move |path| {
        let other =
            |e: io::Error| MountPointError::Other { path: path.to_owned(), why: e.to_string() };
        Ok(fs::read_dir(&inside).map_err(other)?.next().is_none())
    });
    if !nonempty && !listed? {
        return Err(MountPointError::NotEmpty(path.to_owned()));
    }
    check_fuse()?;
    Ok(at)
}

/// The absolute path of a directory that nothing is mounted on.
fn find_free(path: &Path) -> Result<PathBuf, MountPointError> {
    let at = find(path)?;
    let name = || path.to_owned();
    if let Some(MountEntry { kind, source, .. }) = mounted_at(&at) {
        let dead = is_dead(&at);
        return Err(match dead {
            true => MountPointError::Dead(name()),
            false => MountPointError::Busy { path: name(), what: format!("{source} ({kind})") },
        });
    }
    match fs::metadata(&at) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err(MountPointError::Missing(name())),
        Err(e) => Err(MountPointError::Other { path: name(), why: e.to_string() }),
        Ok(metadata) if !metadata.is_dir() => Err(MountPointError::NotDirectory(name())),
        Ok(_) => Ok(at),
    }
}

/// Without links. Those that hang, which are all asked at once, are where they are said to be.
fn real_paths(all: &[&Path]) -> Vec<PathBuf> {
    let real = |path: &Path| {
        let asked = path.to_owned();
        touch(move || asked.canonicalize().ok()).ok().flatten().unwrap_or_else(|| path.to_owned())
    };
    thread::scope(|scope| {
        let asked: Vec<_> = all.iter().map(|path| scope.spawn(move || real(path))).collect();
        asked
            .into_iter()
            .map(|real| real.join().expect("a path is asked without a panic"))
            .collect()
    })
}

/// Can this process mount at all?
fn check_fuse() -> Result<(), MountPointError> {
    let opened = fs::OpenOptions::new().read(true).write(true).open("/dev/fuse");
    opened.map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => MountPointError::NoFuse,
        _ => MountPointError::FuseRefused(e),
    })?;
    if !nix::unistd::geteuid().is_root() && helper().is_none() {
        return Err(MountPointError::NoHelper);
    }
    Ok(())
}

/// fusermount3, wherever it is.
fn helper() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/bin", "/usr/bin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join("fusermount3"))
        .find(|file| file.is_file())
}

/// What is mounted at this directory, if it is one of our volumes.
pub fn volume_at(path: &Path) -> Result<MountEntry, MountPointError> {
    match mounted_at(path) {
        Some(entry) if entry.kind == TYPE => Ok(entry),
        Some(MountEntry { kind, source, .. }) => Err(MountPointError::NotOurs {
            path: path.to_owned(),
            what: format!("{source} ({kind})"),
        }),
        None => Err(MountPointError::NotMounted(path.to_owned())),
    }
}

/// Changes what the kernel does with the volume that is mounted here.
pub fn remount(path: &Path, options: &MountOptions) -> Result<(), MountPointError> {
    volume_at(path)?;
    attach::remount(path, options).map_err(|e| match e {
        Errno::EBUSY => MountPointError::BeingWritten(path.to_owned()),
        Errno::EPERM => MountPointError::Other {
            path: path.to_owned(),
            why: "only root can change a mount".to_owned(),
        },
        e => MountPointError::Other { path: path.to_owned(), why: e.desc().to_owned() },
    })
}

/// Takes a mount away.
pub fn unmount(path: &Path, how: Unmount) -> Result<(), MountPointError> {
    let name = || path.to_owned();
    let flags = match how {
        Unmount::Unused => MntFlags::empty(),
        Unmount::Lazy => MntFlags::MNT_DETACH,
        Unmount::Force => MntFlags::MNT_FORCE,
        Unmount::ForceLazy => MntFlags::MNT_FORCE | MntFlags::MNT_DETACH,
    };
    match umount2(path, flags) {
        Ok(()) => Ok(()),
        Err(Errno::EBUSY) => Err(MountPointError::InUse(name())),
        Err(Errno::EINVAL) => Err(MountPointError::NotMounted(name())),
        // It has nothing like force: what hangs is cut off from its users at least.
        Err(Errno::EPERM) => unmount_by_helper(path, how != Unmount::Unused),
        Err(e) => Err(MountPointError::Other { path: name(), why: e.desc().to_owned() }),
    }
}

fn unmount_by_helper(path: &Path, lazy: bool) -> Result<(), MountPointError> {
    let mut command = Command::new(helper().ok_or(MountPointError::NoHelper)?);
    command.arg("-u").args(lazy.then_some("-z")).arg("--").arg(path);
    let other = |why: String| MountPointError::Other { path: path.to_owned(), why };
    let output = command.output().map_err(|e| other(e.to_string()))?;
    let words = String::from_utf8_lossy(&output.stderr);
    match output.status.success() {
        true => Ok(()),
        false if words.contains("busy") => Err(MountPointError::InUse(path.to_owned())),
        false => Err(other(words.trim().to_owned())),
    }
}

/// Sequential readers ask for more at once when the kernel reads further ahead than its usual
/// 128 KiB. Needs root; without it reads work, only smaller.
pub(crate) fn raise_read_ahead(path: &Path, kib: u32) {
    let Some(entry) = mounted_at(path) else { return };
    let file = format!("/sys/class/bdi/{}/read_ahead_kb", entry.device);
    if let Err(e) = fs::write(&file, kib.to_string()) {
        tracing::debug!("{file}: {e}: the kernel reads ahead less");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_is_read_with_its_escapes() {
        let text = "36 35 98:0 /dir /mnt/a\\040b ro,noatime master:1 - fuse.ashlar my\\040volume rw,user_id=0\n\
                    37 35 0:42 / /proc rw - proc proc rw\nnonsense\n";
        let entries = parse_mountinfo(text);
        assert_eq!(entries.len(), 2);
        let MountEntry { id, device, root, path, kind, source, options } = entries[0].clone();
        assert_eq!(options, "rw,user_id=0,ro,noatime");
        assert!(!entries[0].is_read_only());
        assert_eq!((id, device.as_str(), root.as_path()), (36, "98:0", Path::new("/dir")));
        assert_eq!(path, Path::new("/mnt/a b"));
        assert_eq!((kind.as_str(), source.as_str()), ("fuse.ashlar", "my volume"));
    }

    #[test]
    fn bad_mount_points_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("full/x")).unwrap();
        fs::create_dir_all(at("disk/inside")).unwrap();
        fs::write(at("file"), "").unwrap();
        let disk = at("disk");
        let cases = [
            (at("missing"), "no such directory"),
            (at("file"), "not a directory"),
            (at("full"), "not empty"),
            (at("disk/inside"), "overlaps"),
            (dir.path().to_owned(), "overlaps"),
            (PathBuf::from("/proc"), "mounted there already"),
        ];
        for (path, expected) in cases {
            let error = check(&path, &[&disk], false).expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
        }
        assert!(matches!(
            unmount(&at("full"), Unmount::Unused),
            Err(MountPointError::NotMounted(_))
        ));
    }
}
