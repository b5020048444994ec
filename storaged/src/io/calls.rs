//! Which calls of a disk have not returned yet, and since when: how a disk that hangs is told from
//! one that has nothing to do.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// A disk with a call that takes longer hangs. A request has been given up long before.
const HANGS: Duration = if cfg!(test) { Duration::from_secs(1) } else { Duration::from_secs(5) };

/// The calls of one disk that are on their way.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    /// When each began. Places are used again; there are as many as there ever were calls at once.
    began: Mutex<Vec<Option<Instant>>>,
}

impl Calls {
    /// A call begins; it ends when the answer is dropped.
    pub(crate) fn begin(&self) -> Call<'_> {
        let now = Some(Instant::now());
        let mut began = self.began.lock();
        let at = began.iter().position(Option::is_none).unwrap_or(began.len());
        match began.get_mut(at) {
            Some(free) => *free = now,
            None => began.push(now),
        }
        Call { calls: self, at }
    }

    /// Is any of them on its way?
    pub(crate) fn are_busy(&self) -> bool {
        self.began.lock().iter().any(Option::is_some)
    }

    /// How long the oldest has not returned, if that is too long.
    pub(crate) fn hanging(&self) -> Option<Duration> {
        let oldest = self.began.lock().iter().flatten().min().copied()?;
        Some(oldest.elapsed()).filter(|age| *age >= HANGS)
    }
}

/// A call on its way.
pub(crate) struct Call<'a> {
    calls: &'a Calls,
    at: usize,
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.calls.began.lock()[self.at] = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_returned_does_not_hang_however_long_others_take() {
        let calls = Calls::default();
        let ages = |calls: &Calls| calls.began.lock().iter().flatten().count();
        let (first, second) = (calls.begin(), calls.begin());
        calls.began.lock()[0] = Instant::now().checked_sub(2 * HANGS);
        assert!(calls.hanging().is_some_and(|age| age >= 2 * HANGS));
        drop(first);
        assert_eq!((calls.hanging(), ages(&calls)), (None, 1));
        let third = calls.begin();
        assert_eq!(calls.began.lock().len(), 2, "its place is used again");
        drop((second, third));
        assert_eq!(ages(&calls), 0);
    }
}
