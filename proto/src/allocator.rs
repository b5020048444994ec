//! The allocator of every binary, and the one setting of it that matters to us.
//!
//! Large buffers come and go all the time: requests, parts, blobs. glibc maps and unmaps each of
//! them, and mimalloc as it comes gives unused memory back after milliseconds; either way the kernel
//! clears the same pages over and over, which was half the CPU of a cold sequential read. So memory
//! once used is kept. What a process may use is bounded by its buffers and caches, not by its
//! allocator.

use std::ffi::c_long;

/// mimalloc with that setting, as the `#[global_allocator]` of a binary.
pub use mimalloc::MiMalloc;

/// `mi_option_purge_delay` in mimalloc's list of options.
const PURGE_DELAY: i32 = 15;
/// Its value for "never".
const NEVER: c_long = -1;

/// Keeps memory once it was used. To be called first in `main`.
#[allow(unsafe_code)]
pub fn keep_memory() {
    // SAFETY: sets a number in mimalloc's table of options, which has this index in the version that
    // is built in; any other index would set another option and break no memory.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, NEVER) }
}
