//! What went wrong last that is no client's fault: for whoever looks at how the volume is.

use std::collections::VecDeque;

use parking_lot::Mutex;

/// So many are remembered.
const REMEMBERED: usize = 64;
/// Longest sentence of one, in bytes.
const LONGEST: usize = 500;

/// Of this process.
static LAST: Mutex<VecDeque<(i64, String)>> = Mutex::new(VecDeque::new());

/// This went wrong just now.
pub(crate) fn note(why: &str) {
    let now = meta::wall_clock();
    let at = now.secs.saturating_mul(1000).saturating_add(i64::from(now.nanos / 1_000_000));
    remember(&mut LAST.lock(), at, why);
}

fn remember(last: &mut VecDeque<(i64, String)>, at: i64, why: &str) {
    last.truncate(REMEMBERED - 1);
    last.push_front((at, why[..why.floor_char_boundary(LONGEST)].to_owned()));
}

/// What went wrong last, the newest first, each with when, in milliseconds since 1970.
pub(crate) fn told() -> Vec<(i64, String)> {
    LAST.lock().iter().cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_come_first_and_there_are_no_more_than_so_many() {
        let mut last = VecDeque::new();
        for n in 0..200 {
            remember(&mut last, n, &"\u{fc}".repeat(400));
        }
        assert_eq!((last.len(), last[0].0, last[63].0), (64, 199, 136));
        assert_eq!(last[0].1.len(), LONGEST);
    }
}
