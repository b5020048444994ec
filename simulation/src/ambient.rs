//! Randomness and time of a thread, taken from a seed and from the simulation's clock.
//!
//! What a program asks the system for without anybody's knowing makes two runs differ: the keys of its hash maps, the
//! ids that it draws, the time. Libraries ask by two functions of libc, which stand here in the way: a thread that is
//! simulated gets numbers that follow from its seed, and the time that tokio's paused clock shows; every other thread
//! asks the kernel. So nothing of the product knows that it is simulated.
//!
//! Threads that a simulated one starts are not simulated: there must be none.

#![allow(unsafe_code)] // two functions of libc

use std::cell::Cell;
use std::time::Instant;

use nix::libc;

/// What a simulated clock shows first, in seconds: of the time since boot, and since 1970.
const BEGIN: (i64, i64) = (1_000_000, 1_800_000_000);

thread_local! {
    /// State of the generator; `None`: this thread is not simulated.
    static RANDOM: Cell<Option<u64>> = const { Cell::new(None) };
    /// When the simulation began.
    static ORIGIN: Cell<Option<Instant>> = const { Cell::new(None) };
    /// Nanoseconds since, as last seen.
    static SEEN: Cell<u64> = const { Cell::new(0) };
    /// Seconds that the clock on the wall is ahead of what it began with and what has passed since.
    static AHEAD: Cell<i64> = const { Cell::new(0) };
    /// The clock is being asked.
    static ASKING: Cell<bool> = const { Cell::new(false) };
}

/// From now on this thread is simulated. To be called once, by a thread that has made no hash map yet.
pub fn simulate(seed: u64) {
    RANDOM.set(Some(seed));
    ORIGIN.set(Some(Instant::now()));
}

/// The clock on the wall jumps by so many seconds, forwards or back: somebody has set it. What measures how much time
/// passes does not notice.
pub fn set_clock(by: i64) {
    AHEAD.set(AHEAD.get().saturating_add(by));
}

/// Nanoseconds since the simulation began, by tokio's clock where there is one.
fn elapsed() -> u64 {
    if let Some(origin) = ORIGIN.get()
        && !ASKING.replace(true)
    {
        if tokio::runtime::Handle::try_current().is_ok() {
            let now = tokio::time::Instant::now().into_std();
            SEEN.set(now.saturating_duration_since(origin).as_nanos() as u64);
        }
        ASKING.set(false);
    }
    SEEN.get()
}

/// The next number of SplitMix64.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// In place of libc's.
///
/// # Safety
/// As of libc's: `buf` has room for `len` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buf: *mut libc::c_void, len: usize, flags: libc::c_uint) -> isize {
    let Some(mut state) = RANDOM.get() else {
        // SAFETY: the kernel's own contract is that of this function.
        return unsafe { libc::syscall(libc::SYS_getrandom, buf, len, flags) as isize };
    };
    for at in 0..len {
        // SAFETY: the caller gives room for `len` bytes.
        unsafe { buf.cast::<u8>().add(at).write(next(&mut state) as u8) };
    }
    RANDOM.set(Some(state));
    len as isize
}

/// In place of libc's.
///
/// # Safety
/// As of libc's: `out` may be written to.
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(
    clock: libc::clockid_t,
    out: *mut libc::timespec,
) -> libc::c_int {
    let begin = match clock {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE => BEGIN.1 + AHEAD.get(),
        _ => BEGIN.0,
    };
    if RANDOM.get().is_none() {
        // SAFETY: the kernel's own contract is that of this function.
        return unsafe { libc::syscall(libc::SYS_clock_gettime, clock, out) as libc::c_int };
    }
    let elapsed = elapsed();
    let (tv_sec, tv_nsec) =
        (begin + (elapsed / 1_000_000_000) as i64, (elapsed % 1_000_000_000) as i64);
    // SAFETY: the caller gives a place for the time.
    unsafe { out.write(libc::timespec { tv_sec, tv_nsec }) };
    0
}
