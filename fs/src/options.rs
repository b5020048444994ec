//! What a user may choose about a mount's side of the kernel. Everything that has to know of it is above.

use std::fmt;
use std::path::PathBuf;

/// What the user chose about the kernel's side of a mount.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// No writes.
    pub read_only: bool,
    /// Other users may enter. `None`: root's mounts only.
    pub allow_other: Option<bool>,
    /// Setuid programs do not get their rights. `None`: not in root's mounts.
    pub nosuid: Option<bool>,
    /// Device files are dead. `None`: not in root's mounts.
    pub nodev: Option<bool>,
    /// Nothing can be executed.
    pub noexec: bool,
    /// When access times change. `None`: as the kernel does by default, relative.
    pub atime: Option<Atime>,
    /// Those of directories do not.
    pub nodiratime: bool,
    /// Times may be stored later than what they are the times of.
    pub lazytime: bool,
    /// Every change is stored before the call returns that makes it.
    pub sync: bool,
    /// Every change of names is.
    pub dirsync: bool,
    /// The directory of the volume that is mounted, instead of its root: a path from there, without
    /// `.` and `..`.
    pub subdirectory: Option<PathBuf>,
}

/// When reading changes access times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Atime {
    /// Never.
    Never,
    /// When the last one is older than the last change, or than a day.
    Relative,
    /// Always.
    Strict,
}

impl MountOptions {
    /// May users enter who did not mount?
    pub fn everybody(&self) -> bool {
        self.allow_other.unwrap_or_else(is_root)
    }

    /// Are setuid bits ignored?
    pub fn without_suid(&self) -> bool {
        self.nosuid.unwrap_or_else(|| !is_root())
    }

    /// Are device files dead?
    pub fn without_devices(&self) -> bool {
        self.nodev.unwrap_or_else(|| !is_root())
    }
}

impl fmt::Display for MountOptions {
    /// What was chosen, as the words behind `-o`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let either = |chosen: Option<bool>, yes, no| chosen.map(|set| if set { yes } else { no });
        let alone = |set: bool, word| set.then_some(word);
        let words = [
            Some(if self.read_only { "ro" } else { "rw" }),
            either(self.nosuid, "nosuid", "suid"),
            either(self.nodev, "nodev", "dev"),
            alone(self.noexec, "noexec"),
            self.atime.map(|atime| match atime {
                Atime::Never => "noatime",
                Atime::Relative => "relatime",
                Atime::Strict => "strictatime",
            }),
            alone(self.nodiratime, "nodiratime"),
            alone(self.lazytime, "lazytime"),
            alone(self.sync, "sync"),
            alone(self.dirsync, "dirsync"),
            alone(self.allow_other == Some(true), "allow_other"),
        ];
        f.write_str(&words.into_iter().flatten().collect::<Vec<_>>().join(","))?;
        match &self.subdirectory {
            Some(path) => write!(f, ",subdir={}", path.display()),
            None => Ok(()),
        }
    }
}

/// Is this root's process?
pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}
