//! The machine's filesystem, as what a disk's files lie on.
//!
//! Where the filesystem refuses `O_DIRECT` (tmpfs), the same calls go through the page cache, and one warning says so.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Once};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, PosixFadviseAdvice, fallocate, posix_fadvise};
use nix::libc;
use nix::sys::uio::pwritev;

#[cfg(test)]
use super::faults::{self, Call};
use super::medium::{DiskDir, Medium, MediumFile, Mode};

/// Most buffers in one vectored write (the kernel's IOV_MAX).
const MAX_BUFFERS: usize = 1024;

/// The machine's filesystem.
#[derive(Debug)]
pub(crate) struct System;

/// This directory of it.
pub(crate) fn disk_dir(path: &Path) -> DiskDir {
    DiskDir::on(Arc::new(System), path)
}

impl Medium for System {
    fn open(&self, path: &Path, mode: Mode) -> io::Result<Box<dyn MediumFile>> {
        let file = match mode {
            Mode::Read | Mode::Write | Mode::Create => open_direct(path, mode)?,
            Mode::Cached => File::open(path)?,
            Mode::CachedWrite => {
                let mut options = File::options();
                options.read(true).write(true).create(true).truncate(false).open(path)?
            }
        };
        Ok(Box::new(SystemFile(file)))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn len(&self, path: &Path) -> io::Result<u64> {
        Ok(std::fs::metadata(path)?.len())
    }

    fn names(&self, directory: &Path) -> io::Result<Vec<OsString>> {
        std::fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name())).collect()
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        File::open(directory)?.sync_all()
    }
}

fn open_direct(path: &Path, mode: Mode) -> io::Result<File> {
    let create = mode == Mode::Create;
    let mut options = OpenOptions::new();
    options.read(true).write(mode != Mode::Read).create_new(create).mode(0o600);
    let direct = options.clone().custom_flags(libc::O_DIRECT).open(path);
    #[cfg(test)]
    let direct =
        direct.and_then(|file| faults::check(path, Call::OpenDirect, 0..u64::MAX).map(|()| file));
    match direct {
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {}
        opened => return opened,
    }
    static WARNED: Once = Once::new();
    WARNED.call_once(|| {
        tracing::warn!(path = %path.display(), "no direct I/O on this filesystem: going through the page cache");
    });
    // The kernel may have created the file before it refused the flag.
    options.create_new(false).create(create).truncate(false).open(path)
}

#[derive(Debug)]
struct SystemFile(File);

impl MediumFile for SystemFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn is_linked(&self) -> io::Result<bool> {
        Ok(self.0.metadata()?.nlink() > 0)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(buf, offset)
    }

    fn write_at(&self, mut offset: u64, mut buffers: &mut [IoSlice<'_>]) -> io::Result<()> {
        while !buffers.is_empty() {
            let count = buffers.len().min(MAX_BUFFERS);
            let written = match pwritev(&self.0, &buffers[..count], to_off(offset)) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => written,
                Err(Errno::EINTR) => continue,
                Err(e) => return Err(e.into()),
            };
            offset += written as u64;
            IoSlice::advance_slices(&mut buffers, written);
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn forget_cached(&self) -> io::Result<()> {
        Ok(posix_fadvise(&self.0, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?)
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        match fallocate(&self.0, FallocateFlags::empty(), 0, to_off(len)) {
            Err(Errno::EOPNOTSUPP) => self.0.set_len(len),
            other => Ok(other?),
        }
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        Ok(fallocate(&self.0, flags, to_off(offset), to_off(len))?)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
}

fn to_off(n: u64) -> libc::off_t {
    libc::off_t::try_from(n).expect("offsets lie within a block file")
}
