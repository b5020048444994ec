//! Why a disk cannot be made or opened: one sentence each, with what to do where that is known.

use std::io;
use std::path::{Path, PathBuf};

use proto::id::{ClusterId, DiskId};

use crate::index::is_no_room;
use crate::log::block_file::{MAX_BLOCK_FILE, MIN_BLOCK_FILE};

/// A disk that cannot be made or opened.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", .path.display())]
pub struct DiskError {
    /// The disk's directory.
    pub path: PathBuf,
    /// What is wrong with it. Part of the sentence above, so not also its source.
    pub problem: DiskProblem,
}

impl DiskError {
    pub(crate) fn new(path: &Path, problem: DiskProblem) -> Self {
        Self { path: path.to_owned(), problem }
    }
}

/// What is wrong with a disk.
#[derive(Debug, thiserror::Error)]
pub enum DiskProblem {
    /// No superblock.
    #[error("not an ashlar disk: there is no superblock (is its filesystem mounted?)")]
    NotADisk,
    /// A file, or something else that has no entries.
    #[error("not a directory: give the disk a directory of its own")]
    NotADirectory,
    /// It is one already.
    #[error("already an ashlar disk; nothing was changed")]
    AlreadyADisk,
    /// Something else is there.
    #[error("the directory is not empty; nothing was changed")]
    NotEmpty,
    /// No good copy of the superblock.
    #[error("all three copies of the superblock are damaged")]
    Damaged,
    /// Made by a newer program, or by an older one whose format was given up.
    #[error(
        "the disk has format {found}, and this program knows only format {known}: {}",
        if found > known { "upgrade it" } else { "use the version that made it, or make it anew" }
    )]
    Format {
        /// What is on the disk.
        found: u32,
        /// What this program knows.
        known: u32,
    },
    /// Another process has it.
    #[error("the disk is in use by another process: stop that one first")]
    InUse,
    /// It is another cluster's.
    #[error("the disk belongs to cluster {found}, not to {expected}")]
    ForeignCluster {
        /// Its cluster.
        found: ClusterId,
        /// The one asked for.
        expected: ClusterId,
    },
    /// It is not the one that belongs here.
    #[error(
        "it holds disk {found}, and {named} belongs here{}",
        home.as_ref().map(|home| format!(" ({found} belongs in {})", home.display())).unwrap_or_default()
    )]
    OtherDisk {
        /// What is here.
        found: DiskId,
        /// What should be.
        named: DiskId,
        /// Where that which is here should be, if it is known.
        home: Option<PathBuf>,
    },
    /// The same disk under two paths.
    #[error("disk {disk} is given twice, also as {}", other.display())]
    Twice {
        /// The disk.
        disk: DiskId,
        /// Its other path.
        other: PathBuf,
    },
    /// Too little for the reserve and some data.
    #[error(
        "a capacity of {capacity} bytes is too small: at least {needed} are needed with these block files"
    )]
    TooSmall {
        /// What was asked for.
        capacity: u64,
        /// The least.
        needed: u64,
    },
    /// Others have been promised what is free.
    #[error(
        "{free} bytes are free, and the other disks on this filesystem ({disks}) have still to take {promised}: too \
         little is left for the {needed} bytes that are needed with these block files, unless --capacity says so"
    )]
    Promised {
        /// What is free.
        free: u64,
        /// How many other disks there are.
        disks: usize,
        /// What they have still to take.
        promised: u64,
        /// The least.
        needed: u64,
    },
    /// More than there is.
    #[error("a capacity of {capacity} bytes is not possible: {free} are free")]
    NoRoom {
        /// What was asked for.
        capacity: u64,
        /// What there is.
        free: u64,
    },
    /// A size that block files cannot have.
    #[error("a block file of {0} bytes is not possible: {MIN_BLOCK_FILE} to {MAX_BLOCK_FILE} are")]
    BlockFile(u64),
    /// There is no room for the index.
    #[error("no room for the index on its filesystem: {0}")]
    NoIndexRoom(String),
    /// The index cannot be read or written.
    #[error("index: {0}")]
    Index(String),
    /// A fault of this program, met while it was opened.
    #[error("opening it ended in a panic: {0}")]
    Panicked(String),
    /// The operating system said no.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<redb::Error> for DiskProblem {
    fn from(e: redb::Error) -> Self {
        if is_no_room(&e) { Self::NoIndexRoom(e.to_string()) } else { Self::Index(e.to_string()) }
    }
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}
