//! How fast a disk is scrubbed. Pure: time is what the caller says it is.
//!
//! A pass takes four fifths of the time that it may, and the next begins when that time is over, so that no
//! byte waits longer than it may, even if a pass falls a little behind. Within that the pace is what is left
//! over the time left, not below a floor (small disks are done soon, and rest) and not above a ceiling (users
//! come first, also on a disk that was off for a week).

use std::time::Duration;

/// Bytes a second at least, while there is something to read.
const FLOOR: u64 = 1 << 20;
/// Bytes a second at most.
const CEILING: u64 = 64 << 20;
/// What one read costs besides its bytes, in bytes: a disk that turns has to move its head.
pub(crate) const READ: u64 = 64 << 10;
/// Longest that users' reads and writes are waited for, as a multiple of the pause that there is anyhow.
const YIELDS: u32 = 4;
/// Longest in all.
const YIELDS_FOR: Duration = Duration::from_secs(2);

/// Seconds that a pass takes, of the days in which everything is to be read.
pub(crate) fn pass_seconds(days: u32) -> u64 {
    u64::from(days) * 86_400 / 5 * 4
}

/// Bytes a second, when so many are left to be read in so many seconds.
pub(crate) fn rate(left: u64, seconds: u64) -> u64 {
    (left / seconds.max(1)).clamp(FLOOR, CEILING)
}

/// The pause after a step that cost so many bytes and took so long.
pub(crate) fn pause(bytes: u64, rate: u64, took: Duration) -> Duration {
    Duration::from_secs_f64(bytes as f64 / rate as f64).saturating_sub(took)
}

/// How long users are waited for before a step, if they never stop.
pub(crate) fn patience(pause: Duration) -> Duration {
    (pause * YIELDS).min(YIELDS_FOR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_read_in_time_and_within_bounds() {
        const TIB: u64 = 1 << 40;
        let pass = pass_seconds(14);
        assert_eq!(pass, 967_680);
        for (bytes, seconds, expected) in [
            (0, pass, FLOOR),
            (1 << 30, pass, FLOOR),
            (20 * TIB, pass, 20 * TIB / pass),
            (20 * TIB, 0, CEILING),
            (1 << 30, 100, (1 << 30) / 100),
        ] {
            assert_eq!(rate(bytes, seconds), expected, "{bytes} in {seconds} s");
        }
        // A pass of which some steps are late catches up.
        let (mut left, mut now, mut steps) = (30 * TIB, 0.0, 0_u64);
        while left > 0 {
            let bytes = left.min(1 << 30);
            let late = if steps.is_multiple_of(3) { 20.0 } else { 0.0 };
            now += bytes as f64 / rate(left, pass.saturating_sub(now as u64)) as f64 + late;
            (left, steps) = (left - bytes, steps + 1);
        }
        assert!(now <= pass as f64 * 1.05, "{now} s of {pass}");
    }

    #[test]
    fn pauses_make_the_rate_and_give_way_within_bounds() {
        let second = Duration::from_secs(1);
        assert_eq!(pause(FLOOR, FLOOR, Duration::ZERO), second);
        assert_eq!(pause(FLOOR, FLOOR, second / 4), second * 3 / 4);
        assert_eq!(pause(FLOOR, FLOOR, 2 * second), Duration::ZERO);
        assert_eq!(patience(second / 10), second * 4 / 10);
        assert_eq!(patience(60 * second), YIELDS_FOR);
    }
}
