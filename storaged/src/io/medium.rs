//! What the files of a disk lie on: the seam under everything that is read and written of block files and index.
//!
//! [`System`](super::system::System) is the machine's filesystem. A simulated one loses, tears and misdirects what was
//! not made durable, and needs no device.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, IoSlice};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It is there, and is only read, past the page cache.
    Read,
    /// It is there, and is read and written past the page cache.
    Write,
    /// It must not be there yet; then as [`Mode::Write`].
    Create,
    /// It is there, and is only read, through the page cache.
    Cached,
    /// It is made if need be, and is read and written through the page cache.
    CachedWrite,
}

/// A filesystem, as a disk uses one.
///
/// # Errors
/// Those of the system: callers tell want of room and what is not there from all else.
pub trait Medium: Send + Sync + fmt::Debug + 'static {
    /// Opens a file.
    fn open(&self, path: &Path, mode: Mode) -> io::Result<Box<dyn MediumFile>>;
    /// Takes a file away. Who has it open goes on reading it.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Gives a file another name, in place of whatever had that.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Bytes of a file, which perhaps cannot be opened.
    fn len(&self, path: &Path) -> io::Result<u64>;
    /// What is in a directory, in any order.
    fn names(&self, directory: &Path) -> io::Result<Vec<OsString>>;
    /// Makes changes of a directory durable.
    fn sync_directory(&self, directory: &Path) -> io::Result<()>;
}

/// An open file of a [`Medium`].
///
/// # Errors
/// Those of the system.
pub trait MediumFile: Send + Sync + fmt::Debug {
    /// Bytes of the file.
    fn size(&self) -> io::Result<u64>;
    /// Has it a name still?
    fn is_linked(&self) -> io::Result<bool>;
    /// Fills `buf` from `offset`.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;
    /// Writes all of the buffers, one after the other, from `offset` on.
    fn write_at(&self, offset: u64, buffers: &mut [IoSlice<'_>]) -> io::Result<()>;
    /// Returns once everything written before is on stable storage.
    fn sync(&self) -> io::Result<()>;
    /// Has reads come from the device.
    fn forget_cached(&self) -> io::Result<()>;
    /// Sets aside `len` bytes of space for the file, which then is as long.
    fn preallocate(&self, len: u64) -> io::Result<()>;
    /// Gives the space of a range back; it reads as zeros.
    fn punch(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Makes the file so long: cut off, or longer by zeros.
    fn truncate(&self, len: u64) -> io::Result<()>;
}

/// A disk's directory, and what it lies on.
#[derive(Clone, Debug)]
pub(crate) struct DiskDir {
    path: PathBuf,
    pub(crate) medium: Arc<dyn Medium>,
}

impl DiskDir {
    /// This directory of a medium.
    pub(crate) fn on(medium: Arc<dyn Medium>, path: &Path) -> Self {
        Self { path: path.to_owned(), medium }
    }
}

impl Deref for DiskDir {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.path
    }
}
