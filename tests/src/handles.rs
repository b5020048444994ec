//! File handles, as NFS servers and overlays keep them: names of files that outlive their paths and
//! the kernel's memory. All `unsafe` of it is here.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::libc;

/// Linux's MAX_HANDLE_SZ.
const LONGEST: usize = 128;

/// fcntl(2): struct file_handle, with room for any.
#[repr(C)]
#[derive(Clone)]
pub struct Handle {
    len: libc::c_uint,
    kind: libc::c_int,
    bytes: [u8; LONGEST],
}

impl Handle {
    /// Of what is at `path`; of a symlink itself.
    pub fn of(path: &Path) -> io::Result<Self> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        let mut handle = Self { len: LONGEST as libc::c_uint, kind: 0, bytes: [0; LONGEST] };
        let mut mount = 0;
        // SAFETY: the path ends with a zero byte; the kernel writes as many bytes of the handle as
        // it says to have, and one number. All live until it returns.
        let answer = unsafe {
            let to = (&raw mut handle).cast();
            libc::name_to_handle_at(libc::AT_FDCWD, path.as_ptr(), to, &raw mut mount, 0)
        };
        if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(handle) }
    }

    /// Opens what it names in the filesystem that `mount` is in.
    pub fn open(&self, mount: &File, flags: libc::c_int) -> io::Result<File> {
        let mut handle = self.clone();
        // SAFETY: the kernel reads the handle, which lives until it returns.
        let fd =
            unsafe { libc::open_by_handle_at(mount.as_raw_fd(), (&raw mut handle).cast(), flags) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor for us.
        Ok(unsafe { File::from_raw_fd(fd) })
    }
}
