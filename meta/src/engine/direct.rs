//! The file under the log: written past the page cache.
//!
//! A synced write through the page cache is copied there first and written back then; past it, it goes
//! to the disk from where it is. Where the filesystem refuses direct I/O, the page cache does.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use nix::libc::O_DIRECT;
use redb::StorageBackend;

/// An open file. Written offsets, lengths and addresses are multiples of 4 KiB.
#[derive(Debug)]
pub(crate) struct DirectFile {
    writer: File,
    /// Through the page cache: reads need not be aligned.
    reader: File,
}

impl DirectFile {
    /// Opens the file, or makes an empty one, whose name is durable.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let is_new = !path.exists();
        let reader = options.open(path)?;
        if is_new && let Some(dir) = path.parent() {
            let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
            File::open(dir)?.sync_all()?;
        }
        let writer = match options.custom_flags(O_DIRECT).open(path) {
            Err(e) if e.kind() == io::ErrorKind::InvalidInput => reader.try_clone()?,
            opened => opened?,
        };
        Ok(Self { writer, reader })
    }
}

impl StorageBackend for DirectFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.reader.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.reader.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.writer.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.writer.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.writer.write_all_at(data, offset)
    }
}
