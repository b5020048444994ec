//! What a session was answered and may not have heard, so that an ask that changes something is done once, however often it is
//! sent.
//!
//! Such an ask has a number, and is sent again under it when the connection broke before its reply. A connection is served only when
//! nothing is under way that older ones asked ([`super::sessions`]): what is sent again was done, and its reply is here, or it never
//! arrived. With each ask the client says up to which number it has heard all replies: those are forgotten.

use std::collections::BTreeMap;

use proto::metad::reply_len;
use proto::rpc::metad as wire;

/// Bytes that replies may take which a client has not said that it has heard.
const MOST: usize = 16 << 20;
/// What one takes beside its message.
const BESIDE: usize = 256;

/// What is to be done with an ask that has a number.
#[derive(Debug, PartialEq)]
pub(super) enum Due {
    /// It comes for the first time.
    New,
    /// It was done: this is its reply.
    Done(wire::Reply),
    /// The client makes no sense.
    Nonsense(&'static str),
}

/// Replies of one session.
#[derive(Default)]
pub(super) struct Window {
    /// By the numbers of their asks.
    kept: BTreeMap<u64, wire::Reply>,
    bytes: usize,
    /// All up to here have been heard.
    heard: u64,
}

fn cost(reply: &wire::Reply) -> usize {
    reply_len(reply) + BESIDE
}

impl Window {
    /// Of a session that goes on: what became of all up to `low` has been heard.
    pub(super) fn behind(low: u64) -> Self {
        Self { heard: low, ..Self::default() }
    }

    /// An ask of this number arrives, whose client has heard all replies up to `answered`.
    pub(super) fn asked(&mut self, number: u64, answered: u64) -> Due {
        if answered >= number {
            return Due::Nonsense("the client asks for what it has heard");
        }
        self.forget(answered);
        if number <= self.heard {
            return Due::Nonsense("the client asks again for what it has heard");
        }
        // Before all else: it is what lets the client say more.
        if let Some(reply) = self.kept.get(&number) {
            return Due::Done(reply.clone());
        }
        if self.bytes > MOST {
            return Due::Nonsense("the client does not say what it has heard");
        }
        Due::New
    }

    fn forget(&mut self, answered: u64) {
        if answered <= self.heard {
            return;
        }
        self.heard = answered;
        let kept = self.kept.split_off(&(answered + 1));
        let gone = std::mem::replace(&mut self.kept, kept);
        self.bytes -= gone.values().map(cost).sum::<usize>();
    }

    /// It was done, and this is about to be its reply.
    pub(super) fn keep(&mut self, number: u64, reply: &wire::Reply) {
        self.bytes += cost(reply);
        if let Some(before) = self.kept.insert(number, reply.clone()) {
            self.bytes -= cost(&before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(inodes: u64) -> wire::Reply {
        let unlinked = wire::Unlinked { ino: inodes, orphan: false };
        let answer = Some(wire::answer::Answer::Unlinked(unlinked));
        wire::Reply { answers: vec![wire::Answer { answer }], ..wire::Reply::default() }
    }

    #[test]
    fn what_was_done_is_answered_again_until_it_was_heard() {
        let mut window = Window::default();
        assert_eq!(window.asked(1, 0), Due::New);
        window.keep(1, &reply(7));
        assert_eq!(window.asked(3, 0), Due::New, "others may be late");
        window.keep(3, &reply(9));
        assert_eq!(window.asked(1, 0), Due::Done(reply(7)));
        assert_eq!(window.asked(2, 1), Due::New);
        window.keep(2, &reply(8));
        assert!(matches!(window.asked(1, 0), Due::Nonsense(_)), "it has heard that");
        assert_eq!(window.asked(3, 1), Due::Done(reply(9)));
        assert_eq!(window.asked(4, 3), Due::New);
        assert!(window.kept.is_empty() && window.bytes == 0);
        assert!(matches!(window.asked(4, 4), Due::Nonsense(_)));
    }

    #[test]
    fn who_never_says_what_it_has_heard_is_not_served_for_ever() {
        let mut window = Window::default();
        let mut number = 1;
        while window.asked(number, 0) == Due::New {
            window.keep(number, &reply(number));
            number += 1;
        }
        assert!((10_000..1 << 20).contains(&number), "{number}");
        assert!(matches!(window.asked(number, 0), Due::Nonsense(_)));
        assert_eq!(window.asked(1, 0), Due::Done(reply(1)), "what it has not heard it may ask for");
        assert_eq!(window.asked(number, number - 1), Due::New);
    }
}
