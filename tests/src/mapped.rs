//! A file in memory: the one place of this crate with `unsafe`.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use nix::libc;

/// A writable mapping of the first bytes of a file; unmapped at the end.
pub struct Mapped {
    start: *mut libc::c_void,
    len: usize,
}

impl Mapped {
    /// Maps the first `len` bytes (not 0) of `file`, which is open for reading and writing and is at
    /// least that long.
    pub fn shared(file: &File, len: usize) -> io::Result<Self> {
        Self::map(file, len, libc::MAP_SHARED)
    }

    /// As [`Self::shared`], but what is stored here stays here.
    pub fn private(file: &File, len: usize) -> io::Result<Self> {
        Self::map(file, len, libc::MAP_PRIVATE)
    }

    fn map(file: &File, len: usize, flags: libc::c_int) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                flags,
                file.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            Err(io::Error::last_os_error())
        } else {
            Ok(Self { start, len })
        }
    }

    /// A copy of `len` bytes at `offset`.
    pub fn read(&self, offset: usize, len: usize) -> Vec<u8> {
        assert!(offset + len <= self.len, "within the mapping");
        let mut bytes = vec![0; len];
        // SAFETY: the range lies in the mapping (checked), the target is as long, and they do not overlap.
        unsafe {
            std::ptr::copy_nonoverlapping(
                self.start.cast::<u8>().add(offset),
                bytes.as_mut_ptr(),
                len,
            );
        }
        bytes
    }

    /// Stores `bytes` at `offset`.
    pub fn write(&mut self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.len, "within the mapping");
        // SAFETY: the range lies in the mapping (checked), and we are its only writer (`&mut self`).
        unsafe {
            std::ptr::copy_nonoverlapping(
                bytes.as_ptr(),
                self.start.cast::<u8>().add(offset),
                bytes.len(),
            );
        }
    }

    /// Waits until what was stored has reached the file system.
    pub fn sync(&self) -> io::Result<()> {
        // SAFETY: start and len are those of a live mapping.
        match unsafe { libc::msync(self.start, self.len, libc::MS_SYNC) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: start and len are those of a live mapping, and nobody can use it after this.
        unsafe { libc::munmap(self.start, self.len) };
    }
}
