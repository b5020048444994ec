//! Time during which this process ran. A process that was stopped, or whose machine stood still, has waited
//! for nobody meanwhile: what it finds unanswered afterwards was not late.
//!
//! A clock knows that it stood still by not having been looked at: whoever waits looks at it every [`TICK`].
//! Of a longer gap only [`MOST`] counts. A machine that is merely slow looks too late, too; then waits get
//! longer, and nobody is blamed for what this process has not come round to.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

/// How often who waits looks at the clock.
pub const TICK: Duration = Duration::from_millis(250);
/// How often [`Awake::tick`] looks while others do: more often than anybody waits for.
const BUSY_TICK: Duration = Duration::from_millis(5);
/// As much of a gap between two looks counts.
const MOST: Duration = Duration::from_secs(1);

/// A clock that stands still with the process.
#[derive(Debug)]
pub struct Awake {
    /// The last look, in true time and in its own.
    seen: Mutex<(Instant, Instant)>,
    /// Somebody has looked since the last tick.
    used: AtomicBool,
}

impl Default for Awake {
    fn default() -> Self {
        let now = Instant::now();
        Self { seen: Mutex::new((now, now)), used: AtomicBool::new(false) }
    }
}

impl Awake {
    /// What it shows: comparable with nothing but what it showed before.
    pub fn now(&self) -> Instant {
        self.used.store(true, Ordering::Relaxed);
        self.look()
    }

    fn look(&self) -> Instant {
        let mut seen = self.seen.lock();
        let (last, shown) = *seen;
        // Read under the lock, so that nobody goes back.
        let now = Instant::now();
        *seen = (now, shown + (now - last).min(MOST));
        seen.1
    }

    /// Looks every [`TICK`], for ever: for what is measured while nobody waits. It looks more often while others do,
    /// and spares them more than that costs: tokio wakes a thread for each timer that is earlier than all it knows
    /// of, and so for none of those that are further away than the next tick.
    pub async fn tick(&self) {
        loop {
            let busy = self.used.swap(false, Ordering::Relaxed);
            sleep(if busy { BUSY_TICK } else { TICK }).await;
            self.look();
        }
    }
}

/// Waits for `work`, as long as `bound` of the time in which this process runs.
///
/// # Errors
/// [`Late`] when it has not ended then. It is dropped.
pub async fn timeout<T>(bound: Duration, work: impl Future<Output = T>) -> Result<T, Late> {
    let clock = Awake::default();
    let end = clock.now() + bound;
    tokio::pin!(work);
    let mut left = bound;
    loop {
        tokio::select! {
            biased;
            done = &mut work => return Ok(done),
            () = sleep(left.min(TICK)) => {}
        }
        left = end - clock.now();
        if left.is_zero() {
            return Err(Late);
        }
    }
}

/// It has not ended in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Late;

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn what_a_process_stood_still_it_has_not_waited() {
        let (clock, start) = (Awake::default(), Instant::now());
        let begun = clock.now();
        tokio::time::advance(60 * SECOND).await;
        assert_eq!(clock.now() - begun, MOST);
        // Looked at, it runs with the others.
        let other = Instant::now();
        let later = clock.now();
        let _ = tokio::time::timeout(10 * SECOND, clock.tick()).await;
        assert_eq!(clock.now() - later, Instant::now() - other);
        assert!(Instant::now() - start >= 70 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_at_its_bound_and_not_by_a_standstill() {
        let start = Instant::now();
        assert_eq!(timeout(5 * SECOND, std::future::pending::<()>()).await, Err(Late));
        assert_eq!(Instant::now() - start, 5 * SECOND);
        assert_eq!(timeout(5 * SECOND, async { 1 }).await, Ok(1));
        // Answered a moment after a standstill that was longer than the bound.
        let answer = async {
            sleep(SECOND).await;
            tokio::time::advance(60 * SECOND).await;
            sleep(SECOND).await;
            2
        };
        assert_eq!(timeout(5 * SECOND, answer).await, Ok(2));
    }
}
