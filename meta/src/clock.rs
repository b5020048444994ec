//! The clock that files get their times from, and when it may be believed.

use std::time::Duration;

use nix::time::ClockId;
use tokio::time::Instant;

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

/// When the clock is believed by whoever takes away for good what is old by it: when it has gone on as time did, for long enough and
/// whenever it was looked at. One that was just set, or that nobody has had the time to set, says nothing of what is old.
pub struct Steady {
    every: Duration,
    /// From here on it has gone evenly.
    began: Instant,
    last: (Instant, Time),
}

impl Steady {
    /// To be looked at so often at least; it is not believed before it has gone evenly for so long.
    pub fn new(every: Duration) -> Self {
        let now = Instant::now();
        Self { every, began: now, last: (now, wall_clock()) }
    }

    /// The time, if it may be believed.
    pub fn look(&mut self) -> Option<Time> {
        let this = (Instant::now(), wall_clock());
        let before = std::mem::replace(&mut self.last, this);
        if !goes_evenly(before, this, self.every) {
            self.began = this.0;
        }
        (self.began.elapsed() >= self.every).then_some(this.1)
    }
}

/// Has the clock gone on between two looks as time did, up to a difference?
fn goes_evenly(before: (Instant, Time), after: (Instant, Time), within: Duration) -> bool {
    let passed = (after.0 - before.0).as_secs();
    let shown = u64::try_from(after.1.secs - before.1.secs).unwrap_or(u64::MAX);
    shown.abs_diff(passed) < within.as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_jumps_says_nothing_of_what_is_old() {
        let every = Duration::from_secs(600);
        let (begin, at) = (Instant::now(), |secs| Time { secs, nanos: 0 });
        let later = begin + every;
        for (shown, evenly) in
            [(1_600, true), (1_200, true), (1_000, false), (90_000, false), (0, false)]
        {
            let looks = ((begin, at(1_000)), (later, at(shown)));
            assert_eq!(goes_evenly(looks.0, looks.1, every), evenly, "{shown}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_believes_a_clock_at_first_sight() {
        // Time goes on here as it is told, and the clock as it ever does.
        let mut clock = Steady::new(Duration::from_secs(600));
        assert!(clock.look().is_none());
        for (seconds, believed) in
            [(300, false), (300, true), (900, false), (0, false), (300, false), (300, true)]
        {
            tokio::time::advance(Duration::from_secs(seconds)).await;
            assert_eq!(clock.look().is_some(), believed, "after {seconds} more");
        }
    }
}
