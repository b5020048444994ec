//! The superblock: who a disk is.
//!
//! The file `superblock` holds three copies, each in its own 4 KiB block; any good one will do.
//! It is written once, when the disk is made, and is also what the lock is held on.
//!
//! ```text
//! offset  size  field       meaning (numbers are little endian)
//! 0       8     magic       b"ASHLDSK\n"
//! 8       4     version     of the format of the whole disk: 5
//! 12      4     copy        0, 1 or 2
//! 16      16    cluster     id
//! 32      16    disk        id
//! 48      8     capacity    bytes that block files may take in all
//! 56      8     block_file  bytes of one block file
//! 64      4     crc         CRC-32C of bytes 0 to 63
//! ```

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use proto::id::{ClusterId, DiskId};
use proto::limits::DISK_BLOCK;
use proto::touch::touch;
use serde::Serialize;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::{DiskError, DiskProblem};
use crate::log::block_file::{self, Access};

const MAGIC: [u8; 8] = *b"ASHLDSK\n";
const VERSION: u32 = 5;
/// Copies of it, each in a block of its own.
pub(crate) const COPIES: u32 = 3;
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct OnDisk {
    magic: [u8; 8],
    version: U32,
    copy: U32,
    cluster: [u8; 16],
    disk: [u8; 16],
    capacity: U64,
    block_file: U64,
    crc: U32,
}

const _: () = assert!(size_of::<OnDisk>() == 68);

/// What the superblock says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Superblock {
    /// The cluster the disk belongs to.
    pub cluster: ClusterId,
    /// The disk.
    pub disk: DiskId,
    /// Bytes that block files may take in all.
    pub capacity: u64,
    /// Bytes of one block file.
    pub block_file: u64,
}

/// Where it is.
pub(crate) fn path(dir: &Path) -> PathBuf {
    dir.join("superblock")
}

impl Superblock {
    /// One copy, as it lies on the disk.
    #[cfg(any(test, feature = "decoders"))]
    pub(crate) fn one_copy(&self, copy: u32) -> Vec<u8> {
        self.encode(copy).as_bytes().to_vec()
    }

    fn encode(&self, copy: u32) -> OnDisk {
        let mut out = OnDisk {
            magic: MAGIC,
            version: VERSION.into(),
            copy: copy.into(),
            cluster: *self.cluster.as_bytes(),
            disk: *self.disk.as_bytes(),
            capacity: self.capacity.into(),
            block_file: self.block_file.into(),
            crc: 0.into(),
        };
        out.crc = crc32c::crc32c(&out.as_bytes()[..64]).into();
        out
    }

    /// Reads one copy: the outer `None` is "not one of ours", the version comes before the rest.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Result<Self, u32>> {
        let (raw, _) = OnDisk::read_from_prefix(bytes).ok()?;
        if raw.magic != MAGIC || crc32c::crc32c(&bytes[..64]) != raw.crc.get() {
            return None;
        }
        if raw.version.get() != VERSION {
            return Some(Err(raw.version.get()));
        }
        Some(Ok(Self {
            cluster: ClusterId::from_slice(&raw.cluster)?,
            disk: DiskId::from_slice(&raw.disk)?,
            capacity: raw.capacity.get(),
            block_file: raw.block_file.get(),
        }))
    }

    /// Reads it from a disk's directory.
    pub fn read(dir: &Path) -> Result<Self, DiskError> {
        let fail = |problem| DiskError::new(dir, problem);
        let file = match File::open(path(dir)) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound && dir.is_dir() => {
                return Err(fail(DiskProblem::NotADisk));
            }
            Err(e) => return Err(fail(DiskProblem::Io(e))),
        };
        Self::read_file(&file).map_err(fail)
    }

    /// The same, of a disk that may hang.
    ///
    /// # Errors
    /// Also when it does not answer for [`proto::touch::PATIENCE`].
    pub fn read_soon(dir: &Path) -> Result<Self, DiskError> {
        let owned = dir.to_owned();
        touch(move || Self::read(&owned)).map_err(|e| DiskError::new(dir, DiskProblem::Io(e)))?
    }

    fn read_file(file: &File) -> Result<Self, DiskProblem> {
        let (mut newer, mut unreadable) = (None, None);
        for copy in 0..u64::from(COPIES) {
            let mut bytes = [0; size_of::<OnDisk>()];
            match file.read_exact_at(&mut bytes, copy * DISK_BLOCK as u64) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => continue,
                Err(e) => {
                    unreadable = Some(e);
                    continue;
                }
            }
            match Self::decode(&bytes) {
                Some(Ok(superblock)) => return Ok(superblock),
                Some(Err(version)) => newer = Some(version),
                None => {}
            }
        }
        Err(match (newer, unreadable) {
            (Some(found), _) => DiskProblem::Format { found, known: VERSION },
            (None, Some(e)) => DiskProblem::Io(e),
            (None, None) => DiskProblem::Damaged,
        })
    }
}

/// A disk that this process has, for as long as this lives.
pub(crate) struct Locked {
    /// The lock.
    pub(crate) lock: Flock<File>,
    /// Whose disk it is.
    pub(crate) superblock: Superblock,
    /// What can be done with it.
    pub(crate) access: Access,
}

/// Takes the disk for this process.
pub(crate) fn lock(dir: &Path) -> Result<Locked, DiskError> {
    let superblock = Superblock::read(dir)?;
    let fail = |problem| DiskError::new(dir, problem);
    let open = |write| OpenOptions::new().read(true).write(write).open(path(dir));
    let opened = match open(true) {
        Err(e) if e.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            open(false).map(|file| (file, Access::Read))
        }
        file => file.map(|file| (file, Access::Write)),
    };
    let (file, access) = opened.map_err(|e| fail(DiskProblem::Io(e)))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Locked { lock, superblock, access }),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(fail(DiskProblem::InUse)),
        Err((_, e)) => Err(fail(DiskProblem::Io(e.into()))),
    }
}

/// Has another process taken the disk?
pub fn is_in_use(dir: &Path) -> bool {
    matches!(lock(dir), Err(DiskError { problem: DiskProblem::InUse, .. }))
}

/// The superblock comes last and under its final name at once: a directory is a whole disk or none.
pub(crate) fn write(dir: &Path, superblock: &Superblock) -> io::Result<()> {
    std::fs::create_dir(block_file::directory(dir))?;
    let mut bytes = vec![0; COPIES as usize * DISK_BLOCK];
    for (copy, block) in bytes.chunks_mut(DISK_BLOCK).enumerate() {
        block[..size_of::<OnDisk>()].copy_from_slice(superblock.encode(copy as u32).as_bytes());
    }
    let fresh = dir.join("superblock.new");
    std::fs::write(&fresh, bytes)?;
    File::open(&fresh)?.sync_all()?;
    std::fs::rename(&fresh, path(dir))?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::init::{InitOptions, init_disk};

    const SMALL: InitOptions = InitOptions { capacity: Some(64 << 20), block_file: 16 << 20 };

    #[test]
    fn any_good_copy_will_do_and_no_bad_one_is_believed() {
        let dir = tempfile::tempdir().unwrap();
        let cluster = ClusterId::random();
        let disk = init_disk(dir.path(), cluster, SMALL).unwrap();
        let good = std::fs::read(path(dir.path())).unwrap();
        for byte in 0..size_of::<OnDisk>() {
            let mut bytes = good.clone();
            bytes[byte] ^= 1;
            bytes[DISK_BLOCK + byte] ^= 1;
            std::fs::write(path(dir.path()), &bytes).unwrap();
            assert_eq!(Superblock::read(dir.path()).unwrap().disk, disk);
            bytes[2 * DISK_BLOCK + byte] ^= 1;
            std::fs::write(path(dir.path()), &bytes).unwrap();
            assert!(Superblock::read(dir.path()).is_err(), "byte {byte}");
        }
    }

    #[test]
    fn another_format_is_refused_by_name_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        init_disk(dir.path(), ClusterId::random(), SMALL).unwrap();
        let superblock = Superblock::read(dir.path()).unwrap();
        for (version, advice) in [(9, "upgrade it"), (VERSION - 1, "make it anew")] {
            let mut raw = superblock.encode(0);
            raw.version = version.into();
            raw.crc = crc32c::crc32c(&raw.as_bytes()[..64]).into();
            std::fs::write(path(dir.path()), raw.as_bytes()).unwrap();
            let error = Superblock::read(dir.path()).unwrap_err().to_string();
            let said = error.contains(&format!("format {version}")) && error.contains(advice);
            assert!(said, "{error}");
        }
    }
}
