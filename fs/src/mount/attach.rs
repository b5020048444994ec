//! Making a mount, root's way: the kernel builds it detached, it is served, and only then does it
//! appear at its mount point. So nobody ever meets a mount that does not answer.
//!
//! Done here and not by fuser, which knows too few options and unmounts behind its users' back. Who
//! is not root mounts through fusermount3 ([`crate::fuse::Session::by_helper`]), which shows the
//! mount before it is served and cannot mount a part of a volume.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use crate::options::{Atime, MountOptions};

/// What is behind `fuse.` in the type that /proc/mounts shows.
const SUBTYPE: &str = "ashlar";
/// The root of a volume is a directory; the rest of its mode is asked for.
const ROOT_MODE: &str = "40000";

/// A mount that is nowhere yet. Dropped, it is gone.
pub(crate) struct Detached(OwnedFd);

/// Makes a mount. Also answers the device on which the kernel will ask for what is in it.
pub(crate) fn create(volume: &str, options: &MountOptions) -> io::Result<(OwnedFd, Detached)> {
    let device = OpenOptions::new().read(true).write(true).open("/dev/fuse")?;
    let context = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
    configure(&context, &device, volume, options)
        .map_err(|e| io::Error::new(e.kind(), explained(context.try_clone(), &e)))?;
    let attributes = attributes(options);
    let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    Ok((device.into(), Detached(mount)))
}

fn configure(
    context: &OwnedFd,
    device: &File,
    volume: &str,
    options: &MountOptions,
) -> io::Result<()> {
    let words = [
        ("source", volume.to_owned()),
        ("subtype", SUBTYPE.to_owned()),
        ("fd", device.as_raw_fd().to_string()),
        ("rootmode", ROOT_MODE.to_owned()),
        ("user_id", nix::unistd::getuid().to_string()),
        ("group_id", nix::unistd::getgid().to_string()),
    ];
    for (key, value) in words {
        fsconfig_set_string(context, key, value)?;
    }
    let flags = [
        ("default_permissions", true),
        ("allow_other", options.everybody()),
        ("ro", options.read_only),
        ("sync", options.sync),
        ("dirsync", options.dirsync),
        ("lazytime", options.lazytime),
    ];
    for (flag, _) in flags.into_iter().filter(|(_, set)| *set) {
        fsconfig_set_flag(context, flag)?;
    }
    Ok(fsconfig_create(context)?)
}

/// The error with what the kernel says about it, if it says anything.
fn explained(context: io::Result<OwnedFd>, error: &io::Error) -> String {
    let mut said = [0; 256];
    let len = context.and_then(|log| Ok(rustix::io::read(log, &mut said)?)).unwrap_or(0);
    match String::from_utf8_lossy(&said[..len]).trim() {
        "" => error.to_string(),
        words => format!("{error} ({})", words.trim_start_matches("e ")),
    }
}

/// What belongs to the mount and not to the filesystem in it.
fn attributes(options: &MountOptions) -> MountAttrFlags {
    let mut flags = match options.atime {
        None | Some(Atime::Relative) => MountAttrFlags::MOUNT_ATTR_RELATIME,
        Some(Atime::Strict) => MountAttrFlags::MOUNT_ATTR_STRICTATIME,
        Some(Atime::Never) => MountAttrFlags::MOUNT_ATTR_NOATIME,
    };
    flags.set(MountAttrFlags::MOUNT_ATTR_NODIRATIME, options.nodiratime);
    flags.set(MountAttrFlags::MOUNT_ATTR_RDONLY, options.read_only);
    flags.set(MountAttrFlags::MOUNT_ATTR_NOSUID, options.without_suid());
    flags.set(MountAttrFlags::MOUNT_ATTR_NODEV, options.without_devices());
    flags.set(MountAttrFlags::MOUNT_ATTR_NOEXEC, options.noexec);
    flags
}

/// The same as [`attributes`] and the filesystem's own flags, as mount(2) has them.
fn flags(options: &MountOptions) -> MsFlags {
    let mut flags = match options.atime {
        // With none of the others this one is set for a new mount, and kept as it is by a remount.
        None => MsFlags::empty(),
        Some(Atime::Relative) => MsFlags::MS_RELATIME,
        Some(Atime::Strict) => MsFlags::MS_STRICTATIME,
        Some(Atime::Never) => MsFlags::MS_NOATIME,
    };
    flags.set(MsFlags::MS_NODIRATIME, options.nodiratime);
    flags.set(MsFlags::MS_RDONLY, options.read_only);
    flags.set(MsFlags::MS_NOSUID, options.without_suid());
    flags.set(MsFlags::MS_NODEV, options.without_devices());
    flags.set(MsFlags::MS_NOEXEC, options.noexec);
    flags.set(MsFlags::MS_SYNCHRONOUS, options.sync);
    flags.set(MsFlags::MS_DIRSYNC, options.dirsync);
    flags.set(MsFlags::MS_LAZYTIME, options.lazytime);
    flags
}

/// Changes what the kernel does with a mount: every flag becomes what `options` say. Whoever changes
/// one flag has to give the others as they are, as mount(8) does.
pub(crate) fn remount(at: &Path, options: &MountOptions) -> nix::Result<()> {
    mount(None::<&str>, at, None::<&str>, MsFlags::MS_REMOUNT | flags(options), None::<&str>)
}

impl Detached {
    /// Makes it appear at `at`: whole, or `part` of it, a path from its root. Its requests must be
    /// served by now: the kernel walks that path.
    pub(crate) fn attach(self, at: &Path, part: Option<&Path>) -> io::Result<()> {
        let tree = match part {
            Some(part) => self.part(at, part)?,
            None => self,
        };
        Ok(move_mount(&tree.0, "", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
    }

    /// Another mount of a directory of the one at `at`; links do not lead out of it.
    pub(crate) fn copy(at: &Path, directory: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(at, flags, Mode::empty())?;
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let directory = Path::new(".").join(directory);
        let inside = openat2(root, directory, flags, Mode::empty(), beneath)?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH;
        Ok(Self(open_tree(inside, "", flags)?))
    }

    /// Makes it appear at `at` with these options, as far as they are a mount's and not those of the
    /// filesystem in it.
    pub(crate) fn attach_with(self, at: &Path, options: &MountOptions) -> io::Result<()> {
        // What is not said is as with any new mount, and not as where it was copied.
        let atime = options.atime.or(Some(Atime::Relative));
        let flags = flags(&MountOptions { atime, ..options.clone() });
        let unseen = at.to_owned();
        let changed = self.out_of_sight(at, move || {
            let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | flags;
            mount(None::<&str>, &unseen, None::<&str>, flags, None::<&str>)?;
            Self::copy(&unseen, Path::new(""))
        })?;
        changed.attach(at, None)
    }

    /// A mount of a directory in it. The kernel copies trees only out of mounts that are somewhere
    /// (before Linux 6.15).
    fn part(self, at: &Path, part: &Path) -> io::Result<Self> {
        let (unseen, part) = (at.to_owned(), part.strip_prefix("/").unwrap_or(part).to_owned());
        self.out_of_sight(at, move || Self::copy(&unseen, &part))
    }

    /// What `work` makes of it while it is mounted at `at` where nobody sees it: in a namespace that
    /// only the thread has which does the work.
    fn out_of_sight(
        self,
        at: &Path,
        work: impl FnOnce() -> io::Result<Self> + Send + 'static,
    ) -> io::Result<Self> {
        let at: PathBuf = at.to_owned();
        let unseen = move || {
            unshare(CloneFlags::CLONE_NEWNS)?;
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
            move_mount(self.0.as_fd(), "", CWD, &at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
            work()
        };
        let thread = std::thread::Builder::new().name("out of sight".to_owned()).spawn(unseen)?;
        thread.join().expect("mounting in a namespace does not panic")
    }
}
