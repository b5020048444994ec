//! Making a disk: an empty directory becomes one, as large as it may be.

use std::path::Path;

use proto::id::{ClusterId, DiskId};
use proto::limits::DISK_BLOCK;

use crate::error::{DiskError, DiskProblem};
use crate::format::room::Room;
use crate::format::superblock::{self, Superblock};
use crate::log::block_file::{MAX_BLOCK_FILE, MIN_BLOCK_FILE};

/// Block files of a disk that is made without saying otherwise, in bytes.
pub const DEFAULT_BLOCK_FILE: u64 = 256 << 20;
/// Fewest block files a disk must have room for: what it keeps in reserve, and one to use.
const MIN_FILES: u64 = 4;

/// How a disk is made.
#[derive(Clone, Copy, Debug)]
pub struct InitOptions {
    /// Bytes that block files may take in all; `None`: 90 % of what is free and not promised to other
    /// disks ([`Room`]).
    pub capacity: Option<u64>,
    /// Bytes of one block file.
    pub block_file: u64,
}

impl Default for InitOptions {
    fn default() -> Self {
        Self { capacity: None, block_file: DEFAULT_BLOCK_FILE }
    }
}

/// Makes an empty or missing directory a disk of the cluster, under a new id.
///
/// # Errors
/// If the directory is not empty, cannot be written, or has no room for the capacity.
pub fn init_disk(
    dir: &Path,
    cluster: ClusterId,
    options: InitOptions,
) -> Result<DiskId, DiskError> {
    let fail = |problem| DiskError::new(dir, problem);
    let io = |e| DiskError::new(dir, DiskProblem::Io(e));
    if dir.exists() && !dir.is_dir() {
        return Err(fail(DiskProblem::NotADirectory));
    }
    std::fs::create_dir_all(dir).map_err(io)?;
    if superblock::path(dir).exists() {
        return Err(fail(DiskProblem::AlreadyADisk));
    }
    for entry in std::fs::read_dir(dir).map_err(io)? {
        // A fresh filesystem comes with a lost+found.
        if entry.map_err(io)?.file_name() != "lost+found" {
            return Err(fail(DiskProblem::NotEmpty));
        }
    }
    let room = Room::around(dir).map_err(io)?;
    let capacity = options.capacity.unwrap_or(room.unpromised() / 10 * 9);
    check_sizes(capacity, &options, &room).map_err(fail)?;
    let superblock = Superblock {
        cluster,
        disk: DiskId::random(),
        capacity,
        block_file: options.block_file / DISK_BLOCK as u64 * DISK_BLOCK as u64,
    };
    superblock::write(dir, &superblock).map_err(io)?;
    Ok(superblock.disk)
}

fn check_sizes(capacity: u64, options: &InitOptions, room: &Room) -> Result<(), DiskProblem> {
    let (block_file, free) = (options.block_file, room.free);
    if !(MIN_BLOCK_FILE..=MAX_BLOCK_FILE).contains(&block_file) {
        return Err(DiskProblem::BlockFile(block_file));
    }
    let needed = MIN_FILES * block_file;
    if capacity < needed && options.capacity.is_none() && room.promised > 0 {
        return Err(DiskProblem::Promised {
            free,
            disks: room.disks,
            promised: room.promised,
            needed,
        });
    }
    if capacity < needed {
        return Err(DiskProblem::TooSmall { capacity, needed });
    }
    if capacity > free {
        return Err(DiskProblem::NoRoom { capacity, free });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: InitOptions = InitOptions { capacity: Some(64 << 20), block_file: 16 << 20 };

    #[test]
    fn bad_places_and_sizes_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let init = |name: &str, options| {
            init_disk(&dir.path().join(name), ClusterId::random(), options).unwrap_err().to_string()
        };
        assert!(init("a", InitOptions { capacity: Some(1), ..SMALL }).contains("too small"));
        let huge = InitOptions { capacity: Some(1 << 60), ..SMALL };
        assert!(init("b", huge).contains("free"));
        assert!(init("c", InitOptions { block_file: 4096, ..SMALL }).contains("block file"));
        std::fs::create_dir(dir.path().join("d")).unwrap();
        std::fs::write(dir.path().join("d/precious"), "x").unwrap();
        assert!(init("d", SMALL).contains("not empty"));
        init_disk(&dir.path().join("e"), ClusterId::random(), SMALL).unwrap();
        assert!(init("e", SMALL).contains("already"));
    }
}
