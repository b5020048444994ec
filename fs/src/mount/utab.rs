//! The table of mounts that mount(8) keeps beside the kernel's, /run/mount/utab: one line per mount
//! that it must know more about than the kernel tells.
//!
//! Without a line there `umount DIRECTORY` asks the mount itself for its type, hears `fuse`, and runs
//! no helper of ours: it would not wait until everything is stored. With a line it reads the type in
//! the kernel's table, `fuse.ashlar`. It takes the line away when it has unmounted.
//!
//! A line that is missing or left over does no harm, so nothing here is an error.

use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::mount::mountpoint::MountEntry;

const DIRECTORY: &str = "/run/mount";
const TABLE: &str = "/run/mount/utab";
const LOCK: &str = "/run/mount/utab.lock";

/// Adds the line of a mount.
pub(crate) fn add(mount: &MountEntry) {
    let line = line(mount);
    change(|text| [text, line.as_slice(), b"\n"].concat());
}

/// Takes it away, if mount(8) has not done so.
pub(crate) fn remove(mount: &MountEntry) {
    let ours = line(mount);
    change(|text| {
        // mount(8) may have added options to it.
        let others = text.split_inclusive(|&b| b == b'\n').filter(|line| !line.starts_with(&ours));
        others.flatten().copied().collect()
    });
}

fn line(mount: &MountEntry) -> Vec<u8> {
    let MountEntry { source, path, root, .. } = mount;
    let mut line = Vec::new();
    for (key, value) in [("SRC", Path::new(source)), ("TARGET", path), ("ROOT", root)] {
        line.extend_from_slice(format!("{key}=").as_bytes());
        for &byte in value.as_os_str().as_bytes() {
            match byte {
                b' ' | b'\t' | b'\n' | b'\\' => {
                    line.extend_from_slice(format!("\\{byte:03o}").as_bytes());
                }
                _ => line.push(byte),
            }
        }
        line.push(b' ');
    }
    line
}

/// Replaces the table by what `edit` makes of it, as mount(8) does: under its lock, whole or not at
/// all. Only root can.
fn change(edit: impl FnOnce(&[u8]) -> Vec<u8>) {
    let replace = || -> io::Result<()> {
        fs::create_dir_all(DIRECTORY)?;
        let lock = File::options().create(true).append(true).open(LOCK)?;
        lock.lock()?;
        let text = match fs::read(TABLE) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            read => read?,
        };
        let new = edit(&text);
        if new == text {
            return Ok(());
        }
        let file = format!("{TABLE}.{}", std::process::id());
        fs::write(&file, new)?;
        fs::rename(&file, TABLE)
    };
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    if let Err(e) = replace() {
        tracing::debug!("{TABLE}: {e}: umount(8) does not find our helper by itself");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_as_mount_writes_it() {
        let mount = |root, path| MountEntry::example("photos", root, path);
        let text = line(&mount("/", "/mnt/my photos"));
        assert_eq!(text, b"SRC=photos TARGET=/mnt/my\\040photos ROOT=/ ");
        let text = line(&mount("/2024", "/mnt"));
        assert_eq!(text, b"SRC=photos TARGET=/mnt ROOT=/2024 ");
    }
}
