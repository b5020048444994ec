//! The session with the kernel: the handshake over a mount, the threads that serve it, and what the
//! kernel is told to forget.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use fuser::{INodeNo, MountOption, SessionACL};
use meta::Outdated;

use super::Door;
use crate::filesystem::Filesystem;
use crate::filesystem::outdated::Told;
use crate::fuse::forget::{Forgetting, forget};
use crate::fuse::stale::Pages;
use crate::options::{Atime, MountOptions};

/// Threads that take requests, each with its own channel to the kernel.
const SESSION_THREADS: usize = 4;

/// A mount whose requests nobody serves yet.
pub(crate) struct Session(fuser::Session<Door>);

impl Session {
    /// Shakes hands with the kernel over the device of a mount that [`crate::mount::attach`] has made.
    pub(crate) fn over(
        mut door: Door,
        device: OwnedFd,
        options: &MountOptions,
    ) -> io::Result<Self> {
        let (fs, pages) = (door.fs.clone(), door.pages.take());
        let config = config(options);
        Self(fuser::Session::from_fd(door, device, config.acl, config)?).watching(&fs, pages)
    }

    /// Mounts through fusermount3, for those who may not mount by themselves.
    pub(crate) fn by_helper(
        mut door: Door,
        volume: &str,
        at: &Path,
        options: &MountOptions,
    ) -> io::Result<Self> {
        let mut config = config(options);
        config.mount_options = words(volume, options);
        let (fs, pages) = (door.fs.clone(), door.pages.take());
        Self(fuser::Session::new(door, at, &config)?).watching(&fs, pages)
    }

    /// The kernel hears of attributes and pages that change behind its back.
    fn watching(self, fs: &Filesystem, pages: Option<Pages>) -> io::Result<Self> {
        let kernel = self.0.notifier();
        if let Some(pages) = pages {
            let kernel = kernel.clone();
            pages.serve(move |ino, range| {
                let (at, len) =
                    (range.start.cast_signed(), (range.end - range.start).cast_signed());
                if let Err(e) = kernel.inval_inode(INodeNo(ino.0), at, len) {
                    tracing::debug!("the kernel does not forget pages of inode {}: {e}", ino.0);
                }
            })?;
        }
        let forgetting = Forgetting::start(kernel.clone())?;
        fs.watch(Box::new(move |told| match told {
            Told::AtOnce(ino) => forget(&kernel, &Outdated::Attributes(ino)),
            Told::Forget(outdated, forgotten) => forgetting.have(outdated, forgotten),
        }));
        Ok(self)
    }

    /// Serves requests, on threads of its own, until the kernel has let go of the mount.
    pub(crate) fn serve(self) -> io::Result<()> {
        let serve = move || {
            if let Err(e) = self.0.run() {
                tracing::error!("the session with the kernel: {e}");
            }
        };
        std::thread::Builder::new().name("fuse".to_owned()).spawn(serve)?;
        Ok(())
    }
}

/// What fusermount3 is told.
fn words(volume: &str, options: &MountOptions) -> Vec<MountOption> {
    let either = |set, yes, no| if set { yes } else { no };
    let mut words = vec![
        MountOption::FSName(volume.to_owned()),
        MountOption::Subtype("ashlar".to_owned()),
        MountOption::DefaultPermissions,
        either(options.without_suid(), MountOption::NoSuid, MountOption::Suid),
        either(options.without_devices(), MountOption::NoDev, MountOption::Dev),
        either(options.noexec, MountOption::NoExec, MountOption::Exec),
        either(options.read_only, MountOption::RO, MountOption::RW),
        either(options.sync, MountOption::Sync, MountOption::Async),
    ];
    let further = [
        (options.atime == Some(Atime::Never), MountOption::NoAtime),
        (options.dirsync, MountOption::DirSync),
    ];
    words.extend(further.into_iter().filter_map(|(wanted, option)| wanted.then_some(option)));
    words
}

fn config(options: &MountOptions) -> fuser::Config {
    let mut config = fuser::Config::default();
    if options.everybody() {
        config.acl = SessionACL::All;
    }
    config.n_threads = Some(SESSION_THREADS);
    config.clone_fd = true;
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_helper_of_those_who_are_not_root_is_told_what_they_chose() {
        let plain = MountOptions { nosuid: Some(true), ..MountOptions::default() };
        let said = words("photos", &plain);
        for word in [MountOption::NoSuid, MountOption::Exec, MountOption::RW, MountOption::Async] {
            assert!(said.contains(&word), "{word:?}: {said:?}");
        }
        let chosen = MountOptions { read_only: true, noexec: true, sync: true, ..plain };
        let said = words("photos", &MountOptions { nosuid: Some(false), ..chosen });
        for word in [MountOption::Suid, MountOption::NoExec, MountOption::RO, MountOption::Sync] {
            assert!(said.contains(&word), "{word:?}: {said:?}");
        }
    }
}
