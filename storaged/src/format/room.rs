//! Room on a filesystem: what is free, and what of that is promised to disks already.
//!
//! A disk takes its capacity as it fills, not when it is made: what is free after another one was made
//! on the same filesystem is not what will be. Nobody keeps a list of disks, so they are looked for
//! where they are: around the directory, from near to far, no deeper than [`DEPTH`] below each
//! directory above it, on this filesystem only, and within a bound. Those that are elsewhere are not
//! found, and count as others' files do: by what they take already. Where other filesystems begin is
//! known without asking them: one that hangs holds nobody up.

use std::collections::{HashSet, VecDeque};
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::format::superblock::Superblock;
use crate::log::block_file;

/// How far below a directory disks are looked for.
const DEPTH: usize = 3;
/// Most entries of directories that are looked at.
const ENTRIES: usize = 20_000;

/// The room on a filesystem, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// What is free.
    pub free: u64,
    /// What the disks that are on it have still to take.
    pub promised: u64,
    /// How many those are.
    pub disks: usize,
}

impl Room {
    /// On the filesystem of a directory that need not be there yet. A disk in it does not count.
    ///
    /// # Errors
    /// What the filesystem says.
    pub fn around(dir: &Path) -> io::Result<Self> {
        let dir = std::path::absolute(dir)?;
        let there = dir.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
        let rest = dir.strip_prefix(there).unwrap_or(Path::new(""));
        let home = there.canonicalize()?;
        let dir = if rest == Path::new("") { home.clone() } else { home.join(rest) };
        let stat = nix::sys::statvfs::statvfs(&home)?;
        let free = stat.blocks_available() * stat.fragment_size();
        let owed = disks_around(&dir, home.metadata()?.dev())?;
        let promised = owed.iter().fold(0, |all: u64, one| all.saturating_add(*one));
        Ok(Self { free, promised, disks: owed.len() })
    }

    /// What is free, and promised to nobody.
    pub fn unpromised(&self) -> u64 {
        self.free.saturating_sub(self.promised)
    }
}

/// What each of the other disks on the filesystem has still to take.
fn disks_around(dir: &Path, filesystem: u64) -> io::Result<Vec<u64>> {
    let mounts = mount_points();
    let here = |path: &Path| {
        !mounts.contains(path) && path.symlink_metadata().is_ok_and(|m| m.dev() == filesystem)
    };
    let (mut owed, mut entries) = (Vec::new(), 0);
    let mut seen: HashSet<PathBuf> = HashSet::from([dir.to_owned()]);
    let own = |path: &&Path| !mounts.contains(*path);
    for above in dir.ancestors().take_while(own).filter_map(Path::parent) {
        let mut queue = VecDeque::from([(above.to_owned(), 0)]);
        while let Some((path, depth)) = queue.pop_front() {
            // What may not be looked at is nothing that is known.
            let Ok(list) = std::fs::read_dir(&path) else { continue };
            for entry in list.flatten() {
                entries += 1;
                if entries > ENTRIES {
                    return Ok(owed);
                }
                let path = entry.path();
                let directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
                if !directory || !here(&path) || !seen.insert(path.clone()) {
                    continue;
                }
                match Superblock::read(&path) {
                    Ok(disk) => owed.push(disk.capacity.saturating_sub(taken(&path))),
                    Err(_) if depth + 1 < DEPTH => queue.push_back((path, depth + 1)),
                    Err(_) => {}
                }
            }
        }
    }
    Ok(owed)
}

/// Where filesystems are mounted, as far as the kernel says so.
fn mount_points() -> HashSet<PathBuf> {
    let list = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    let point = |line: &[u8]| {
        let escaped = line.split(|byte| *byte == b' ').nth(4)?;
        Some(PathBuf::from(OsString::from_vec(unescape(escaped))))
    };
    list.split(|byte| *byte == b'\n').filter_map(point).collect()
}

/// White space and backslashes are octal there.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    while let [first, others @ ..] = rest {
        let octal = others.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        let code = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code.filter(|_| *first == b'\\') {
            Some(code) => {
                out.push(code);
                rest = &others[3..];
            }
            None => {
                out.push(*first);
                rest = others;
            }
        }
    }
    out
}

/// Bytes that the block files of a disk take.
fn taken(disk: &Path) -> u64 {
    let Ok(files) = std::fs::read_dir(block_file::directory(disk)) else { return 0 };
    files.flatten().filter_map(|file| Some(file.metadata().ok()?.blocks() * 512)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{InitOptions, init_disk};
    use proto::id::ClusterId;

    #[test]
    fn mount_points_are_read_as_the_kernel_writes_them() {
        assert_eq!(unescape(br"/mnt/a\040b\134c"), br"/mnt/a b\c");
        assert_eq!(unescape(br"/mnt/\9"), br"/mnt/\9");
        assert!(mount_points().contains(Path::new("/proc")));
    }

    #[test]
    fn disks_near_by_are_found_with_what_they_have_still_to_take() {
        const MIB: u64 = 1 << 20;
        let top = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let options = InitOptions { capacity: Some(96 * MIB), block_file: 16 * MIB };
            init_disk(&top.path().join(name), ClusterId::random(), options).unwrap();
        };
        // Others make and remove disks beside this directory at any time.
        let filesystem = top.path().metadata().unwrap().dev();
        let home = top.path().canonicalize().unwrap();
        let owed = |name: &str| {
            let owed = disks_around(&home.join(name), filesystem).unwrap();
            owed.into_iter().take(3).collect::<Vec<u64>>()
        };
        make("a/d0");
        make("a/d1");
        make("b/c/d2");
        assert_eq!(owed("a/new")[..2], [96 * MIB; 2]);
        assert_eq!(owed("new"), [96 * MIB; 3]);
        assert_eq!(owed("b/x/y/new"), [96 * MIB; 3], "in a directory that is not there yet");
        let file = std::fs::File::create(top.path().join("a/d0/blocks/00000001")).unwrap();
        nix::fcntl::fallocate(&file, nix::fcntl::FallocateFlags::empty(), 0, 16 << 20).unwrap();
        let mut both = owed("a/new")[..2].to_vec();
        both.sort_unstable();
        assert!(both[0].abs_diff(80 * MIB) < MIB && both[1] == 96 * MIB, "{both:?}");
        assert_eq!(owed("a/d0")[0], 96 * MIB, "not itself");
    }
}
