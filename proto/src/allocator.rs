//! The allocator of every binary, and what we set about it.
//!
//! Large buffers come and go all the time: requests, parts, blobs. glibc maps and unmaps each of
//! them, and mimalloc as it comes gives unused memory back after a second; either way the kernel
//! clears the same pages over and over, which was half the CPU of a cold sequential read. So memory
//! once used is kept, as long as the process is not larger than its bounds allow for: beyond that
//! [`bound_memory`] lets the system have what is free.
//!
//! Transparent huge pages make direct I/O cheap, which pins whole ones; but the first byte of a buffer
//! takes 2 MiB of one, and where buffers of many sizes come and go a mount that used 300 MB held 570.
//! So only a process that is small takes any: the buffers that it keeps from then on lie in them.

use std::ffi::c_long;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// mimalloc with those settings, as the `#[global_allocator]` of a binary.
pub use mimalloc::MiMalloc;
use nix::sys::prctl::set_thp_disable;
use parking_lot::Mutex;

/// `mi_option_purge_delay` in mimalloc's list of options.
const PURGE_DELAY: i32 = 15;
/// Milliseconds after which mimalloc gives back by itself what is free: practically never, but it
/// keeps note of it for [`bound_memory`].
const NEVER: c_long = 24 * 3600 * 1000;

/// What was given back is not taken at once again: clearing it costs more than keeping it.
const REST: Duration = Duration::from_secs(1);

/// Keeps memory once it was used. To be called first in `main`.
#[allow(unsafe_code)]
pub fn keep_memory() {
    // SAFETY: sets a number in mimalloc's table of options, which has this index in the version that
    // is built in; any other index would set another option and break no memory.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, NEVER) }
}

/// Bounds the memory of the process: larger than `most` bytes, it gives back what is free, at most once
/// per [`REST`]; from half of that on it takes no more huge pages. To be called often, by a thread that
/// also allocates.
#[allow(unsafe_code)]
pub fn bound_memory(most: u64) {
    static LARGE: AtomicBool = AtomicBool::new(false);
    static COLLECTED: Mutex<Option<Instant>> = Mutex::new(None);
    let resident = resident_bytes();
    let large = resident > most / 2;
    if LARGE.swap(large, Relaxed) != large {
        // A kernel that has no huge pages may refuse, which is as well.
        let _ = set_thp_disable(large);
    }
    let mut collected = COLLECTED.lock();
    if resident > most && collected.is_none_or(|at| at.elapsed() >= REST) {
        *collected = Some(Instant::now());
        // SAFETY: tidies up this thread's heap and what all threads have let go; nothing else.
        unsafe { libmimalloc_sys::mi_collect(true) }
    }
}

/// Bytes that the allocator has from the system, used or not.
#[allow(unsafe_code)]
pub fn allocated_bytes() -> u64 {
    let mut figures = [0usize; 8];
    let [elapsed, user, system, resident, most, committed, most_committed, faults] = &mut figures;
    // SAFETY: writes eight numbers, which live until it returns.
    unsafe {
        libmimalloc_sys::mi_process_info(
            elapsed,
            user,
            system,
            resident,
            most,
            committed,
            most_committed,
            faults,
        );
    }
    figures[5] as u64
}

/// Bytes of this process that are in memory.
pub fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * 4096
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_how_large_it_is() {
        let before = resident_bytes();
        let used = vec![1u8; 64 << 20];
        assert!(resident_bytes() >= before.max(used.len() as u64));
        bound_memory(0);
        assert!(used.iter().all(|byte| *byte == 1));
    }
}
