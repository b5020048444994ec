//! A file that is read and written past the page cache.
//!
//! Offsets, lengths and addresses are multiples of 4 KiB throughout. Where the filesystem refuses
//! `O_DIRECT` (tmpfs), the same calls go through the page cache, and one warning says so. Each call
//! counts among those of its disk for as long as it takes.

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
use crate::calls::Calls;

/// Most buffers in one vectored write (the kernel's IOV_MAX).
pub(crate) const MAX_BUFFERS: usize = 1024;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It is there, and is only read.
    Read,
    /// It is there.
    Write,
    /// It must not be there yet.
    Create,
}

/// One open file.
#[derive(Debug)]
pub(crate) struct DirectFile {
    file: File,
    calls: Arc<Calls>,
    #[cfg(test)]
    path: std::path::PathBuf,
}

impl DirectFile {
    /// Opens it.
    pub(crate) fn open(path: &Path, mode: Mode, calls: Arc<Calls>) -> io::Result<Self> {
        let create = mode == Mode::Create;
        let mut options = OpenOptions::new();
        options.read(true).write(mode != Mode::Read).create_new(create).mode(0o600);
        #[cfg(test)]
        faults::check(path, Call::Open, 0..u64::from(!create))?;
        let direct = options.clone().custom_flags(libc::O_DIRECT).open(path);
        #[cfg(test)]
        let direct = direct
            .and_then(|file| faults::check(path, Call::OpenDirect, 0..u64::MAX).map(|()| file));
        match direct {
            Ok(file) => return Ok(Self::new(file, path, calls)),
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {}
            Err(e) => return Err(e),
        }
        static WARNED: Once = Once::new();
        WARNED.call_once(|| {
            tracing::warn!(path = %path.display(), "no direct I/O on this filesystem: going through the page cache");
        });
        // The kernel may have created the file before it refused the flag.
        let file = options.create_new(false).create(create).truncate(false).open(path)?;
        Ok(Self::new(file, path, calls))
    }

    #[cfg(test)]
    fn new(file: File, path: &Path, calls: Arc<Calls>) -> Self {
        Self { file, calls, path: path.to_owned() }
    }

    #[cfg(not(test))]
    fn new(file: File, _: &Path, calls: Arc<Calls>) -> Self {
        Self { file, calls }
    }

    /// The fault that a test has put here.
    #[cfg(test)]
    fn fault(&self, call: Call, offset: u64, len: u64) -> io::Result<()> {
        faults::check(&self.path, call, offset..offset.saturating_add(len))
    }

    /// Bytes of the file.
    pub(crate) fn len(&self) -> io::Result<u64> {
        let _call = self.calls.begin();
        Ok(self.file.metadata()?.len())
    }

    /// Has it a name still?
    pub(crate) fn is_linked(&self) -> io::Result<bool> {
        let _call = self.calls.begin();
        Ok(self.file.metadata()?.nlink() > 0)
    }

    /// Makes durable what is in the file, whoever wrote it, and has reads come from the device: what a failed
    /// sync left in the kernel's memory looks written, and is not.
    pub(crate) fn settle(&self) -> io::Result<()> {
        self.sync()?;
        Ok(posix_fadvise(&self.file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?)
    }

    /// Sets aside `len` bytes of disk space for the file.
    pub(crate) fn preallocate(&self, len: u64) -> io::Result<()> {
        let _call = self.calls.begin();
        #[cfg(test)]
        self.fault(Call::Preallocate, 0, len)?;
        match fallocate(&self.file, FallocateFlags::empty(), 0, to_off(len)) {
            Err(Errno::EOPNOTSUPP) => self.file.set_len(len),
            other => Ok(other?),
        }
    }

    /// Fills `buf` from `offset`.
    pub(crate) fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let _call = self.calls.begin();
        #[cfg(test)]
        self.fault(Call::Read, offset, buf.len() as u64)?;
        self.file.read_exact_at(buf, offset)
    }

    /// Writes all of the buffers, one after the other, from `offset` on.
    pub(crate) fn write_vectored_at(
        &self,
        mut offset: u64,
        mut buffers: &mut [IoSlice<'_>],
    ) -> io::Result<()> {
        let _call = self.calls.begin();
        #[cfg(test)]
        self.fault(Call::Write, offset, buffers.iter().map(|b| b.len() as u64).sum())?;
        while !buffers.is_empty() {
            let count = buffers.len().min(MAX_BUFFERS);
            let written = match pwritev(&self.file, &buffers[..count], to_off(offset)) {
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

    /// Returns once everything written before is on stable storage.
    pub(crate) fn sync(&self) -> io::Result<()> {
        let _call = self.calls.begin();
        #[cfg(test)]
        self.fault(Call::Sync, 0, u64::MAX)?;
        self.file.sync_data()
    }

    /// Gives the space of a range back; it reads as zeros.
    pub(crate) fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let _call = self.calls.begin();
        #[cfg(test)]
        self.fault(Call::Punch, offset, len)?;
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        Ok(fallocate(&self.file, flags, to_off(offset), to_off(len))?)
    }

    /// Cuts the file off at `len`.
    pub(crate) fn truncate(&self, len: u64) -> io::Result<()> {
        let _call = self.calls.begin();
        #[cfg(test)]
        self.fault(Call::Truncate, len, 0)?;
        self.file.set_len(len)
    }
}

fn to_off(n: u64) -> libc::off_t {
    libc::off_t::try_from(n).expect("offsets lie within a block file")
}

/// Is there no room for this now, on the filesystem, or in this process or machine for want of file
/// descriptors or memory? The disk is none the worse.
pub(crate) fn is_no_space(error: &io::Error) -> bool {
    let short = [libc::ENOSPC, libc::EDQUOT, libc::EMFILE, libc::ENFILE, libc::ENOMEM];
    error.raw_os_error().is_some_and(|errno| short.contains(&errno))
}

/// Is this the filesystem declining what it cannot do, now or ever? The disk is none the worse.
pub(crate) fn is_declined(error: &io::Error) -> bool {
    is_no_space(error) || is_unsupported(error)
}

/// Is this something that the filesystem can never do?
pub(crate) fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS))
}
