//! How far something is that somebody waits for. On a terminal it is drawn, words of now above a bar with what is left, how
//! fast that goes and how long it takes; elsewhere words are lines, each time that they are others.

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use proto::program::{Unsaid, say};
use proxy::repair::report::span;

use crate::filesystem::status::bytes;

/// Over which time it is measured how fast something goes.
const WINDOW: Duration = Duration::from_secs(10);

/// How much of something is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Amount {
    /// Bytes that are done.
    pub(super) done: u64,
    /// Bytes that are left.
    pub(super) left: u64,
    /// Bytes done per second, lately.
    pub(super) rate: u64,
}

impl Amount {
    /// `1.2 GiB left, 312.0 MiB/s, done in 4 s`.
    fn words(&self) -> String {
        let Self { left, rate, .. } = *self;
        let soon = match left.div_ceil(rate.max(1)) {
            _ if rate == 0 => String::new(),
            seconds => format!(", {}/s, done in {}", bytes(rate), span(seconds)),
        };
        format!("{} left{soon}", bytes(left))
    }
}

/// Something of which nobody says more than how much is left.
#[derive(Debug, Default)]
pub(super) struct Countdown {
    /// The most that ever was.
    most: u64,
    /// When so much was left.
    seen: VecDeque<(Instant, u64)>,
}

impl Countdown {
    /// So many bytes are left now.
    pub(super) fn at(&mut self, left: u64, now: Instant) -> Amount {
        // It has begun again: how fast that went before says nothing of it.
        if self.seen.back().is_some_and(|(_, before)| left > *before) {
            self.seen.clear();
        }
        self.most = self.most.max(left);
        self.seen.push_back((now, left));
        while self.seen.len() > 2 && now.saturating_duration_since(self.seen[1].0) >= WINDOW {
            self.seen.pop_front();
        }
        let (since, before) = self.seen[0];
        let span = now.saturating_duration_since(since).as_secs_f64();
        let rate = if span > 0.0 { (before - left) as f64 / span } else { 0.0 };
        Amount { done: self.most - left, left, rate: rate as u64 }
    }
}

/// Where it is shown how far something is.
pub(super) enum Screen {
    /// Drawn on a terminal.
    Drawn(ProgressBar),
    /// Lines: the last one.
    Lines(Option<String>),
}

impl Screen {
    /// On stdout. `lines`: as lines whatever that is, as programs read them.
    pub(super) fn new(lines: bool) -> Self {
        match lines || !std::io::stdout().is_terminal() {
            true => Self::Lines(None),
            false => {
                let target = ProgressDrawTarget::stdout();
                Self::Drawn(ProgressBar::with_draw_target(Some(0), target).with_style(style(false)))
            }
        }
    }

    /// It is so now. Answers whether anybody may still read.
    ///
    /// # Errors
    /// When that cannot be written.
    pub(super) fn show(&mut self, text: String, amount: Amount) -> Result<bool, Unsaid> {
        match self {
            Self::Drawn(bar) => {
                let all = amount.done + amount.left;
                bar.set_style(style(amount.left > 0));
                bar.set_length(all);
                bar.set_position(amount.done);
                bar.set_prefix(amount.words());
                bar.set_message(text);
                bar.tick();
                Ok(true)
            }
            Self::Lines(last) if last.as_ref() == Some(&text) => Ok(true),
            Self::Lines(last) => say(last.insert(text)),
        }
    }

    /// It has come to its end, and was so then: that stays.
    ///
    /// # Errors
    /// When that cannot be written.
    pub(super) fn end(self, text: &str) -> Result<(), Unsaid> {
        match self {
            Self::Drawn(bar) => {
                bar.finish_and_clear();
                say(text).map(drop)
            }
            Self::Lines(_) => Ok(()),
        }
    }
}

/// With a bar, where there is something to wait for.
fn style(bar: bool) -> ProgressStyle {
    let template = if bar { "{wide_msg}\n{wide_bar} {prefix}" } else { "{wide_msg}" };
    ProgressStyle::with_template(template).expect("the template is one")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_told_with_how_long_that_takes_once_it_is_known_how_fast_it_goes() {
        for (left, rate, expected) in [
            (0, 0, "0 B left"),
            (3 << 29, 0, "1.5 GiB left"),
            (1 << 30, 312 << 20, "1.0 GiB left, 312.0 MiB/s, done in 4 s"),
            (1 << 40, 64 << 20, "1.0 TiB left, 64.0 MiB/s, done in 5 h"),
        ] {
            assert_eq!(Amount { done: 7, left, rate }.words(), expected);
        }
    }

    #[test]
    fn a_rate_is_measured_by_what_is_left_and_anew_when_it_begins_again() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut countdown = Countdown::default();
        let amount = |done, left, rate| Amount { done, left, rate };
        assert_eq!(countdown.at(1000, start), amount(0, 1000, 0));
        assert_eq!(countdown.at(800, start + 2 * second), amount(200, 800, 100));
        assert_eq!(countdown.at(800, start + 4 * second), amount(200, 800, 50));
        // What was long ago counts no more.
        assert_eq!(countdown.at(800, start + 14 * second), amount(200, 800, 0));
        assert_eq!(countdown.at(5000, start + 15 * second), amount(0, 5000, 0));
        assert_eq!(countdown.at(4000, start + 16 * second), amount(1000, 4000, 1000));
        assert_eq!(countdown.at(0, start + 20 * second), amount(5000, 0, 1000));
    }
}
