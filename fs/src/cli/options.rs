//! The words behind `-o`, as mount(8), fstab and systemd write them.
//!
//! A word is obeyed, or it is one that concerns mount(8) and not the filesystem; any other is an
//! error with its name. A value with commas in it stands in double quotes.

use std::path::{Component, PathBuf};
use std::str::FromStr;

use proto::listen::Listen;
use proto::size::Size;

use super::care::Care;
use crate::doors::{Tls, WantedDoors};
use crate::options::{Atime, MountOptions};

/// What `-o` may say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    /// The kernel's side.
    pub(super) mount: MountOptions,
    /// Change the mount that is there.
    pub(super) remount: bool,
    /// Also from a mount that is alive, on another machine.
    pub(super) take_over: bool,
    /// A mount point may have something in it.
    pub(super) nonempty: bool,
    /// The cluster's file.
    pub(super) cluster: Option<PathBuf>,
    /// What to log.
    pub(super) log: Option<String>,
    /// Memory for reading again.
    pub(super) cache_size: Option<Size>,
    /// Memory for what is not yet stored.
    pub(super) dirty_size: Option<Size>,
    /// Where metrics are served.
    pub(super) metrics: Option<Listen>,
    /// Where doors are.
    pub(super) doors: WantedDoors,
    /// What is done by itself.
    pub(super) care: Care,
}

/// A word that is no option of ours, or not in this form.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadOption {
    #[error("no such mount option: {0}")]
    Unknown(String),
    #[error("mount option {0}: owners and modes are those in the volume, and are not mapped")]
    Mapped(String),
    #[error("mount option {0} takes no value")]
    NoValue(String),
    #[error("mount option {0} needs a value: {0}=...")]
    Value(String),
    #[error("mount option {name}: {why}")]
    Wrong { name: String, why: String },
}

/// What mount(8), fstab and systemd tell each other.
const OF_OTHERS: [&str; 25] = [
    "defaults",
    "auto",
    "noauto",
    "nofail",
    "_netdev",
    "user",
    "nouser",
    "users",
    "nousers",
    "owner",
    "noowner",
    "group",
    "nogroup",
    "comment",
    "silent",
    "loud",
    "nomand",
    "noiversion",
    // Always so.
    "default_permissions",
    // The kernel shows these of a mount, and mount(8) gives them back to a remount.
    "user_id",
    "group_id",
    "rootmode",
    "max_read",
    "blksize",
    "seclabel",
];
/// What other filesystems have to change owners and modes.
const MAPS: [&str; 8] = ["uid", "gid", "umask", "fmask", "dmask", "mode", "idmap", "X-mount.idmap"];

impl FromStr for Options {
    type Err = BadOption;

    fn from_str(text: &str) -> Result<Self, BadOption> {
        let mut options = Self::default();
        words(text).try_for_each(|word| options.understand(word))?;
        Ok(options)
    }
}

impl Options {
    /// Leaves out what is not known.
    pub(super) fn known(text: &str) -> Result<Self, BadOption> {
        let mut options = Self::default();
        words(text).try_for_each(|word| match options.understand(word) {
            Err(BadOption::Unknown(_)) => Ok(()),
            understood => understood,
        })?;
        Ok(options)
    }

    fn understand(&mut self, word: &str) -> Result<(), BadOption> {
        match word.split_once('=') {
            Some((name, value)) => self.take(name, Some(value.trim_matches('"'))),
            None => self.take(word, None),
        }
    }

    fn take(&mut self, name: &str, value: Option<&str>) -> Result<(), BadOption> {
        match value {
            _ if MAPS.contains(&name) => Err(BadOption::Mapped(name.to_owned())),
            _ if OF_OTHERS.contains(&name) => Ok(()),
            _ if name.starts_with("x-") || name.starts_with("X-") => Ok(()),
            Some(value) => self.set(name, value),
            None => self.switch(name),
        }
    }

    /// A word with a value.
    fn set(&mut self, name: &str, value: &str) -> Result<(), BadOption> {
        match name {
            "cluster" => self.cluster = Some(parsed(name, value)?),
            "subdir" => self.mount.subdirectory = Some(plain(name, value)?),
            "log" => self.log = Some(value.to_owned()),
            "cache-size" => self.cache_size = Some(parsed(name, value)?),
            "dirty-size" => self.dirty_size = Some(parsed(name, value)?),
            "metrics" => self.metrics = Some(parsed(name, value)?),
            "http" => self.doors.http = Some(parsed(name, value)?),
            "kv" => self.doors.kv = Some(parsed(name, value)?),
            "s3" => self.doors.s3 = Some(parsed(name, value)?),
            "tls-cert" => {
                self.tls_file(name, parsed(name, value)?, |files, file| files.0 = file)?
            }
            "tls-key" => self.tls_file(name, parsed(name, value)?, |files, file| files.1 = file)?,
            "disk-grace" => self.care.disk_grace = Some(parsed(name, value)?),
            "heal-rate" => self.care.heal_rate = Some(parsed(name, value)?),
            "census-every" => self.care.census_every = Some(parsed(name, value)?),
            "scrub-days" => self.care.scrub_days = Some(parsed(name, value)?),
            _ if Self::default().switch(name).is_ok() => {
                return Err(BadOption::NoValue(name.to_owned()));
            }
            _ => return Err(BadOption::Unknown(name.to_owned())),
        }
        Ok(())
    }

    /// One of the two files of a certificate; the other may have been named before.
    fn tls_file(
        &mut self,
        name: &str,
        file: PathBuf,
        set: impl FnOnce(&mut (PathBuf, PathBuf), PathBuf),
    ) -> Result<(), BadOption> {
        let mut files = match &self.doors.entry.tls {
            Tls::Files(cert, key) => (cert.clone(), key.clone()),
            _ => Default::default(),
        };
        set(&mut files, file);
        self.tls(name, Tls::Files(files.0, files.1))
    }

    /// Whether others may listen: said once, or the same again.
    fn tls(&mut self, name: &str, tls: Tls) -> Result<(), BadOption> {
        let before = &mut self.doors.entry.tls;
        let both_files = matches!((&*before, &tls), (Tls::Files(..), Tls::Files(..)));
        if *before != Tls::Within && *before != tls && !both_files {
            let why = "tls, tls-cert with tls-key, and insecure-no-tls exclude one another";
            return Err(BadOption::Wrong { name: name.to_owned(), why: why.to_owned() });
        }
        *before = tls;
        Ok(())
    }

    /// A word alone.
    fn switch(&mut self, name: &str) -> Result<(), BadOption> {
        if let Some(tls) = match name {
            "tls" => Some(Tls::Own),
            "insecure-no-tls" => Some(Tls::Insecure),
            _ => None,
        } {
            return self.tls(name, tls);
        }
        let mount = &mut self.mount;
        match name {
            "ro" => mount.read_only = true,
            "rw" => mount.read_only = false,
            "allow_other" => mount.allow_other = Some(true),
            "suid" => mount.nosuid = Some(false),
            "nosuid" => mount.nosuid = Some(true),
            "dev" => mount.nodev = Some(false),
            "nodev" => mount.nodev = Some(true),
            "exec" => mount.noexec = false,
            "noexec" => mount.noexec = true,
            "noatime" => mount.atime = Some(Atime::Never),
            "relatime" | "atime" | "nostrictatime" => mount.atime = Some(Atime::Relative),
            "strictatime" | "norelatime" => mount.atime = Some(Atime::Strict),
            "nodiratime" => mount.nodiratime = true,
            "diratime" => mount.nodiratime = false,
            "lazytime" => mount.lazytime = true,
            "nolazytime" => mount.lazytime = false,
            "sync" => mount.sync = true,
            "async" => mount.sync = false,
            "dirsync" => mount.dirsync = true,
            "remount" => self.remount = true,
            "take-over" => self.take_over = true,
            "nonempty" => self.nonempty = true,
            "no-login" => self.doors.entry.no_login = true,
            "cluster" | "subdir" | "log" | "cache-size" | "dirty-size" | "metrics" | "http"
            | "kv" | "s3" | "tls-cert" | "tls-key" | "disk-grace" | "heal-rate"
            | "census-every" | "scrub-days" => {
                return Err(BadOption::Value(name.to_owned()));
            }
            _ => return Err(BadOption::Unknown(name.to_owned())),
        }
        Ok(())
    }
}

fn parsed<T: FromStr>(name: &str, value: &str) -> Result<T, BadOption>
where
    T::Err: std::fmt::Display,
{
    match value {
        "" => Err(BadOption::Value(name.to_owned())),
        _ => value
            .parse()
            .map_err(|e: T::Err| BadOption::Wrong { name: name.to_owned(), why: e.to_string() }),
    }
}

/// A path from the root of the volume that leads down only.
fn plain(name: &str, value: &str) -> Result<PathBuf, BadOption> {
    let mut path = PathBuf::from("/");
    for part in parsed::<PathBuf>(name, value)?.components() {
        match part {
            Component::Normal(part) => path.push(part),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                let why = format!("{value} is not a plain path from the root of the volume");
                return Err(BadOption::Wrong { name: name.to_owned(), why });
            }
        }
    }
    Ok(path)
}

/// The words between commas, but those in double quotes.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    let separates = move |c: char| {
        quoted ^= c == '"';
        c == ',' && !quoted
    };
    text.split(separates).filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_the_kernel_of_others_and_of_ours_are_understood() {
        let text = "rw,noatime,ro,_netdev,nofail,user=me,x-systemd.automount,comment=a=b,sync,\
                    cluster=/etc/a b.toml,take-over,cache-size=1MiB,log=\"fs=debug,proxy=info\",subdir=a/./b/,,nosuid";
        let options: Options = text.parse().unwrap();
        let mount = MountOptions {
            read_only: true,
            atime: Some(Atime::Never),
            sync: true,
            nosuid: Some(true),
            subdirectory: Some("/a/b".into()),
            ..MountOptions::default()
        };
        let expected = Options {
            mount,
            cluster: Some("/etc/a b.toml".into()),
            log: Some("fs=debug,proxy=info".to_owned()),
            cache_size: Some(Size(1 << 20)),
            take_over: true,
            ..Options::default()
        };
        assert_eq!(options, expected);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let cases = [
            ("ro,shiny", "no such mount option: shiny"),
            ("shiny=1", "no such mount option: shiny"),
            ("uid=1000", "mount option uid: owners"),
            ("X-mount.idmap=u:0:1:1", "X-mount.idmap: owners"),
            ("ro=1", "ro takes no value"),
            ("cluster", "cluster needs a value"),
            ("subdir=", "subdir needs a value"),
            ("subdir=/a/../../b", "subdir: /a/../../b is not"),
            ("cache-size=big", "cache-size: not a size"),
            ("metrics=here", "metrics: "),
            ("http=here", "http: "),
            ("kv", "kv needs a value"),
            ("disk-grace=soon", "disk-grace: "),
            ("heal-rate", "heal-rate needs a value"),
            ("census-every=1s", "census-every: 1s is not between 1min and 365days"),
            ("scrub-days=4000", "scrub-days: 4000 is no number of days up to 3650"),
            ("scrub-days", "scrub-days needs a value"),
        ];
        for (text, expected) in cases {
            let error = text.parse::<Options>().expect_err(text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
