//! The clock that files get their times from.

use nix::time::ClockId;

use crate::store::Time;

/// Tells the time.
pub(crate) type Clock = fn() -> Time;

/// The time of this machine that files get. The kernel's own filesystems take theirs from the same
/// clock, which moves with its ticks: from a finer one, a file written here could be newer than
/// one that was written elsewhere after it.
pub fn wall_clock() -> Time {
    let now = ClockId::CLOCK_REALTIME_COARSE.now().expect("the kernel has this clock");
    Time { secs: now.tv_sec(), nanos: now.tv_nsec() as u32 }
}
