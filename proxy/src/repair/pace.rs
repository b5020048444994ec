//! How fast blobs are mended: so many bytes of parts a second, and a few blobs at once; while users ask for anything,
//! one at a time and a part of that rate. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Blobs mended at once, while nobody else wants anything of the disks and while somebody does.
const AT_ONCE: (usize, usize) = (8, 1);
/// While users are busy the rate is this many times less.
const YIELD: u64 = 8;
/// What was not used of the rate for longer than this is not made up for.
const BURST: Duration = Duration::from_millis(200);
/// Over which time it is measured.
const WINDOW: Duration = Duration::from_secs(10);

/// The pace of one volume's repair.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Bytes per second.
    rate: u64,
    next: Option<Instant>,
    /// Mended last: when, and bytes.
    done: VecDeque<(Instant, u64)>,
    began: Option<Instant>,
}

/// What the rate was charged for something that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Charge {
    pub(crate) bytes: u64,
    rate: u64,
}

impl Charge {
    fn time_for(self, bytes: u64) -> Duration {
        Duration::from_secs_f64(bytes as f64 / self.rate as f64)
    }
}

impl Pace {
    /// So many bytes per second at most.
    pub(crate) fn new(rate: u64) -> Self {
        Self { rate: rate.max(1), next: None, done: VecDeque::new(), began: None }
    }

    /// May one more be begun beside so many? If not now, and not because of those, then from when on.
    pub(crate) fn may_begin(
        &self,
        under_way: usize,
        busy: bool,
        now: Instant,
    ) -> Result<bool, Instant> {
        let most = if busy { AT_ONCE.1 } else { AT_ONCE.0 };
        match self.next {
            _ if under_way >= most => Ok(false),
            Some(next) if next > now => Err(next),
            _ => Ok(true),
        }
    }

    /// So many bytes of parts are about to be moved, as far as is known: they are charged to the rate, until that
    /// [ends](Self::end).
    pub(crate) fn begin(&mut self, bytes: u64, busy: bool, now: Instant) -> Charge {
        let rate = if busy { (self.rate / YIELD).max(1) } else { self.rate };
        let charge = Charge { bytes, rate };
        let from = self.next.unwrap_or(now).max(now.checked_sub(BURST).unwrap_or(now));
        self.next = Some(from + charge.time_for(bytes));
        self.began.get_or_insert(now);
        charge
    }

    /// So many were: more are charged, or what was charged for nothing is given back.
    pub(crate) fn end(&mut self, charge: Charge, bytes: u64, now: Instant) {
        if let Some(next) = self.next {
            let paid = charge.time_for(charge.bytes);
            self.next = (next + charge.time_for(bytes)).checked_sub(paid);
        }
        self.done.push_back((now, bytes));
        self.trim(now);
    }

    /// There is nothing to do any more.
    pub(crate) fn rest(&mut self) {
        self.began = None;
        self.done.clear();
    }

    fn trim(&mut self, now: Instant) {
        while self.done.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) > WINDOW) {
            self.done.pop_front();
        }
    }

    /// Bytes of parts put per second, lately.
    pub(crate) fn measured(&mut self, now: Instant) -> u64 {
        self.trim(now);
        let Some(began) = self.began else { return 0 };
        let bytes: u64 = self.done.iter().map(|(_, bytes)| bytes).sum();
        let span = now.saturating_duration_since(began).min(WINDOW).as_secs_f64();
        (bytes as f64 / span.max(0.1)) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_keeps_to_its_rate_and_gives_way() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut pace = Pace::new(1000);
        assert_eq!(pace.may_begin(0, false, start), Ok(true));
        let charge = pace.begin(1000, false, start);
        pace.end(charge, 1000, start + second / 2);
        assert_eq!(pace.may_begin(0, false, start), Err(start + second));
        assert_eq!(pace.may_begin(0, false, start + second), Ok(true));
        assert_eq!(pace.may_begin(8, false, start + second), Ok(false));
        assert_eq!(pace.may_begin(1, true, start + second), Ok(false));
        pace.begin(1000, true, start + second);
        assert_eq!(pace.may_begin(0, true, start + second), Err(start + 9 * second));
        // After a rest no more than a burst is made up for.
        pace.begin(1000, false, start + 60 * second);
        assert!(pace.may_begin(0, false, start + 60 * second).is_err());
        assert_eq!(pace.measured(start + second * 2), 500);
        pace.rest();
        assert_eq!(pace.measured(start + 2 * second), 0);
    }

    #[test]
    fn what_was_moved_is_charged_and_not_what_was_to_be() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        for (thought, moved, then) in [(1000, 0, 0), (1000, 500, 4), (0, 1000, 8), (1000, 1000, 8)]
        {
            let mut pace = Pace::new(1000);
            let charge = pace.begin(thought, true, start);
            // Users are gone meanwhile: what was done was done beside them.
            pace.end(charge, moved, start);
            let next = if then == 0 { Ok(true) } else { Err(start + then * second) };
            assert_eq!(pace.may_begin(0, false, start), next, "{thought}, {moved}");
        }
    }
}
