//! A file that is read and written past the page cache.
//!
//! Offsets, lengths and addresses are multiples of 4 KiB throughout. Each call counts among those of its disk for as
//! long as it takes.

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

use nix::libc;

#[cfg(test)]
use super::faults::{self, Call};
use super::medium::{Medium, MediumFile, Mode};
use crate::io::calls::Calls;

/// One open file.
#[derive(Debug)]
pub(crate) struct DirectFile {
    file: Box<dyn MediumFile>,
    calls: Arc<Calls>,
    #[cfg(test)]
    path: std::path::PathBuf,
}

impl DirectFile {
    /// Opens it.
    pub(crate) fn open(
        medium: &dyn Medium,
        path: &Path,
        mode: Mode,
        calls: Arc<Calls>,
    ) -> io::Result<Self> {
        #[cfg(test)]
        faults::check(path, Call::Open, 0..u64::from(mode != Mode::Create))?;
        let file = medium.open(path, mode)?;
        Ok(Self {
            file,
            calls,
            #[cfg(test)]
            path: path.to_owned(),
        })
    }

    /// The fault that a test has put here.
    #[cfg(test)]
    fn fault(&self, call: Call, offset: u64, len: u64) -> io::Result<()> {
        faults::check(&self.path, call, offset..offset.saturating_add(len))
    }

    /// Bytes of the file.
    pub(crate) fn len(&self) -> io::Result<u64> {
        let _call = self.calls.begin();
        self.file.size()
    }

    /// Has it a name still?
    pub(crate) fn is_linked(&self) -> io::Result<bool> {
        let _call = self.calls.begin();
        self.file.is_linked()
    }

    /// Makes durable what is in the file, whoever wrote it, and has reads come from the device: what a failed
    /// sync left in the kernel's memory looks written, and is not.
    pub(crate) fn settle(&self) -> io::Result<()> {
        self.sync()?;
        self.forget_cached()
    }

    /// Has reads come from the device, whatever of the file the kernel has in its memory.
    pub(crate) fn forget_cached(&self) -> io::Result<()> {
        let _call = self.calls.begin();
        #[cfg(test)]
        self.fault(Call::Forget, 0, u64::MAX)?;
        self.file.forget_cached()
    }

    /// Sets aside `len` bytes of disk space for the file.
    pub(crate) fn preallocate(&self, len: u64) -> io::Result<()> {
        let _call = self.calls.begin();
        #[cfg(test)]
        self.fault(Call::Preallocate, 0, len)?;
        self.file.preallocate(len)
    }

    /// Fills `buf` from `offset`.
    pub(crate) fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let _call = self.calls.begin();
        #[cfg(test)]
        self.fault(Call::Read, offset, buf.len() as u64)?;
        self.file.read_at(offset, buf)
    }

    /// Writes all of the buffers, one after the other, from `offset` on.
    pub(crate) fn write_vectored_at(
        &self,
        offset: u64,
        buffers: &mut [IoSlice<'_>],
    ) -> io::Result<()> {
        let _call = self.calls.begin();
        #[cfg(test)]
        self.fault(Call::Write, offset, buffers.iter().map(|b| b.len() as u64).sum())?;
        self.file.write_at(offset, buffers)
    }

    /// Returns once everything written before is on stable storage.
    pub(crate) fn sync(&self) -> io::Result<()> {
        let _call = self.calls.begin();
        #[cfg(test)]
        self.fault(Call::Sync, 0, u64::MAX)?;
        self.file.sync()
    }

    /// Gives the space of a range back; it reads as zeros.
    pub(crate) fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let _call = self.calls.begin();
        #[cfg(test)]
        self.fault(Call::Punch, offset, len)?;
        self.file.punch(offset, len)
    }

    /// Cuts the file off at `len`.
    pub(crate) fn truncate(&self, len: u64) -> io::Result<()> {
        let _call = self.calls.begin();
        #[cfg(test)]
        self.fault(Call::Truncate, len, 0)?;
        self.file.truncate(len)
    }
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
