//! Whether a disk is still where it was opened: its files have names, its filesystem takes writes, and its
//! device reads.
//!
//! What a process has open stays there for it when the directory is removed or its mount is gone: writes and
//! syncs succeed, and nobody ever sees again what they stored. So the owner looks every [`EVERY`], between
//! batches and before it writes one: no put is acknowledged later than one look and one batch after its file
//! has lost its name.
//!
//! A disk whose files are gone is lost: it is out until its directory is a disk again. One that is there and
//! cannot be written, or whose device does not even read its superblock, is read-only.
//!
//! Nothing of that writes, nor has the device written what it keeps in a cache: a disk that nobody uses has nothing
//! to do but to read a block every few seconds, by which alone a device shows that it is there.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::libc::{EACCES, EINTR, ENOMEM};
use nix::sys::stat::{major, minor};
use nix::sys::statvfs::{FsFlags, statvfs};
use proto::buffer::Aligned;
use proto::limits::DISK_BLOCK;

use crate::format::superblock::{COPIES, path};
use crate::io::direct::DirectFile;
use crate::io::medium::Mode;
use crate::log::block_file::Access;
use crate::shared::Shared;

/// Time between two looks.
const EVERY: Duration = Duration::from_secs(2);
/// So many looks are there for each question to the device.
const LOOKS_FOR_THE_DEVICE: u32 = 3;
/// Block files whose names are looked for at once, besides the one that is written.
const FILES: usize = 64;

/// What the owner of a disk knows of where its files are.
pub(crate) struct Watch {
    superblock: PathBuf,
    /// Device and inode of the superblock that is locked.
    identity: (u64, u64),
    file: DirectFile,
    access: Access,
    next: Instant,
    looks: u32,
    /// The last block file that was looked for.
    seen: u32,
}

/// Why a disk cannot be gone on with.
enum Trouble {
    /// Its files are not where they were.
    Gone(String),
    /// It is there, and cannot be written.
    ReadOnly(String),
}

impl Watch {
    /// For the disk whose superblock is locked.
    pub(crate) fn new(shared: &Shared, locked: &File, access: Access) -> io::Result<Self> {
        let superblock = path(&shared.dir);
        let there = locked.metadata()?;
        Ok(Self {
            file: DirectFile::open(
                &*shared.dir.medium,
                &superblock,
                Mode::Read,
                shared.calls.clone(),
            )?,
            identity: (there.dev(), there.ino()),
            superblock,
            access,
            next: Instant::now() + EVERY,
            looks: 0,
            seen: 0,
        })
    }

    /// Looks whether the disk is where it was, when it is time. The log is written in the file `current`; those
    /// that are `doomed` need not be there.
    pub(crate) fn look(
        &mut self,
        shared: &Shared,
        current: Option<u32>,
        doomed: impl Fn(u32) -> bool,
    ) {
        if Instant::now() < self.next || shared.is_lost() {
            return;
        }
        let looked = self.look_now(shared, current, doomed);
        self.next = Instant::now() + EVERY;
        match looked {
            Ok(()) => {}
            Err(Trouble::Gone(why)) => shared.lose(why),
            Err(Trouble::ReadOnly(_)) if shared.read_only().is_some() => {}
            Err(Trouble::ReadOnly(why)) => {
                tracing::error!(disk = %shared.disk, "the disk is read-only now: {why}");
                shared.set_read_only(&why);
            }
        }
    }

    fn look_now(
        &mut self,
        shared: &Shared,
        current: Option<u32>,
        doomed: impl Fn(u32) -> bool,
    ) -> Result<(), Trouble> {
        if let Some(why) = self.gone(shared) {
            return Err(Trouble::Gone(why));
        }
        self.look_for_files(shared, current, doomed)?;
        if self.access == Access::Read {
            return Ok(());
        }
        if is_read_only(shared).unwrap_or(false) {
            return Err(Trouble::ReadOnly("its filesystem is mounted read-only now".to_owned()));
        }
        self.looks += 1;
        if self.looks.is_multiple_of(LOOKS_FOR_THE_DEVICE) {
            self.read().map_err(|e| {
                Trouble::ReadOnly(format!("its device does not read the superblock: {e}"))
            })?;
            if let Some(word) = self.given_up(shared) {
                return Err(Trouble::ReadOnly(format!(
                    "its filesystem takes no more writes ({word}): the kernel's log says why"
                )));
            }
        }
        Ok(())
    }

    /// Why the disk is not where it was, if so. Asked also when something has failed: by the next look it may be back.
    pub(crate) fn gone(&self, shared: &Shared) -> Option<String> {
        let _call = shared.calls.begin();
        match std::fs::metadata(&self.superblock) {
            Ok(there) if (there.dev(), there.ino()) == self.identity => None,
            Ok(_) => Some("another disk is in its directory".to_owned()),
            // That says nothing of where it is.
            Err(e) if matches!(e.raw_os_error(), Some(EACCES | EINTR | ENOMEM)) => None,
            Err(e) => Some(format!("its superblock is gone: {e}")),
        }
    }

    /// The file that is written, and the next few of the others.
    fn look_for_files(
        &mut self,
        shared: &Shared,
        current: Option<u32>,
        doomed: impl Fn(u32) -> bool,
    ) -> Result<(), Trouble> {
        let files = shared.files.read();
        let mut numbers: Vec<u32> = files.keys().copied().filter(|n| !doomed(*n)).collect();
        numbers.sort_unstable();
        let from = numbers.partition_point(|number| *number <= self.seen);
        let others: Vec<u32> = numbers[from..].iter().take(FILES).copied().collect();
        self.seen = if others.len() < FILES { 0 } else { others[FILES - 1] };
        let looked_for: Vec<_> =
            current.into_iter().chain(others).filter_map(|n| files.get(&n).cloned()).collect();
        drop(files);
        for file in looked_for {
            if !file.io.is_linked().unwrap_or(true) {
                return Err(Trouble::Gone(format!("block file {} was removed", file.number)));
            }
        }
        Ok(())
    }

    /// What the kernel says of a filesystem that has met an error, or was shut down, if it is one.
    fn given_up(&self, shared: &Shared) -> Option<&'static str> {
        let _call = shared.calls.begin();
        // Where there is no such file nobody can tell.
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
        given_up(&mounts, self.identity.0)
    }

    /// One good copy of the superblock will do.
    fn read(&self) -> io::Result<()> {
        let mut block = Aligned::zeroed(DISK_BLOCK);
        let mut copies = (0..u64::from(COPIES))
            .map(|copy| self.file.read_at(copy * DISK_BLOCK as u64, &mut block));
        let first = copies.next().expect("there are copies");
        if first.is_ok() || copies.any(|copy| copy.is_ok()) { Ok(()) } else { first }
    }
}

/// What a filesystem says among the options of its mount when it takes no more writes, and its flags say nothing of it:
/// ext4 since Linux 6.15.
const GIVEN_UP: [&str; 2] = ["emergency_ro", "shutdown"];

/// The first of these words that a filesystem says, the one on this device, of the mounts in `/proc/self/mountinfo`.
fn given_up(mounts: &str, device: u64) -> Option<&'static str> {
    let device = format!("{}:{}", major(device), minor(device));
    // `36 35 98:0 /root /mnt rw,noatime shared:1 - ext4 /dev/sda1 rw,errors=continue`
    let options = mounts.lines().filter_map(|line| {
        let (place, filesystem) = line.split_once(" - ")?;
        (place.split(' ').nth(2)? == device).then(|| filesystem.rsplit(' ').next())?
    });
    let said: Vec<&str> = options.flat_map(|options| options.split(',')).collect();
    GIVEN_UP.into_iter().find(|word| said.contains(word))
}

fn is_read_only(shared: &Shared) -> nix::Result<bool> {
    let _call = shared.calls.begin();
    Ok(statvfs(&*shared.dir)?.flags().contains(FsFlags::ST_RDONLY))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::makedev;

    #[test]
    fn a_filesystem_that_has_given_up_says_so_among_the_options_of_its_mount() {
        let mounts = "\
            22 1 254:0 / / rw,relatime - ext4 /dev/root rw\n\
            30 22 7:1 / /srv/emergency_ro rw,relatime shared:5 - ext4 /dev/loop1 rw,errors=remount-ro\n\
            31 22 7:2 / /srv/b rw,relatime shared:6 master:1 - ext4 /dev/loop2 rw,errors=remount-ro,emergency_ro\n\
            32 22 7:3 / /srv/c rw - ext4 /dev/loop3 rw,shutdown\n\
            33 22 0:40 / /proc rw - proc proc rw\n";
        let said = |major, minor| given_up(mounts, makedev(major, minor));
        assert_eq!([said(254, 0), said(7, 1), said(7, 20)], [None; 3]);
        assert_eq!([said(7, 2), said(7, 3)], GIVEN_UP.map(Some));
    }
}
