//! Asynchronous direct writes, as databases make them: by the kernel's AIO on a file opened with
//! O_DIRECT. All `unsafe` of it is here.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr;

use nix::libc;

/// What direct writes are aligned to.
pub const BLOCK: usize = 4096;
/// Opcode of a write: linux/aio_abi.h.
const PWRITE: u16 = 1;

/// linux/aio_abi.h: struct iocb, little-endian.
#[repr(C)]
#[derive(Default)]
struct Control {
    data: u64,
    key: u32,
    rw_flags: u32,
    opcode: u16,
    priority: i16,
    file: u32,
    buffer: u64,
    len: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    event_file: u32,
}

/// linux/aio_abi.h: struct io_event.
#[repr(C)]
#[derive(Default)]
struct Event {
    data: u64,
    control: u64,
    result: i64,
    result2: i64,
}

/// A queue of one request.
pub struct Queue(libc::c_ulong);

fn checked(answer: libc::c_long) -> io::Result<()> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

impl Queue {
    /// A new one.
    pub fn new() -> io::Result<Self> {
        let mut context: libc::c_ulong = 0;
        // SAFETY: the kernel writes one number, which lives until it returns.
        checked(unsafe { libc::syscall(libc::SYS_io_setup, 1, &raw mut context) })?;
        Ok(Self(context))
    }

    /// Submits a write of `block`, which is aligned, and waits until it is said to be done.
    pub fn write(&mut self, file: &File, block: &[u8; BLOCK], offset: u64) -> io::Result<()> {
        let mut control = Control {
            opcode: PWRITE,
            file: file.as_raw_fd().cast_unsigned(),
            buffer: block.as_ptr() as u64,
            len: BLOCK as u64,
            offset: offset.cast_signed(),
            ..Control::default()
        };
        let mut list = [&raw mut control];
        let mut event = Event::default();
        // SAFETY: the request and its buffer live until this function returns, and it does so only
        // after the kernel has told of its end, or refused it.
        unsafe {
            checked(libc::syscall(libc::SYS_io_submit, self.0, 1, list.as_mut_ptr()))?;
            let none = ptr::null_mut::<libc::timespec>();
            loop {
                match checked(libc::syscall(
                    libc::SYS_io_getevents,
                    self.0,
                    1,
                    1,
                    &raw mut event,
                    none,
                )) {
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => panic!("a request of which the kernel does not tell: {e}"),
                    Ok(()) => break,
                }
            }
        }
        match event.result {
            len if len == BLOCK as i64 => Ok(()),
            error if error < 0 => Err(io::Error::from_raw_os_error(-(error as i32))),
            len => Err(io::Error::other(format!("{len} bytes were written"))),
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: nothing is under way, as each write waits for its end.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.0) };
    }
}

/// A block at an aligned address.
#[repr(align(4096))]
pub struct Aligned(pub [u8; BLOCK]);
