//! What whoever leads a volume next has to know of a session that works from elsewhere, so that it goes on: what proves that it
//! is the one, and which of its latest changes are done. It is the value of the session's key, and changes in the transaction of
//! each of these changes: what a take-over finds of them, and what it finds here, is the same.
//!
//! ```text
//! offset  size  field                                      (little-endian)
//! 0       1     version    1
//! 1       32    secret     proves that a connection is the session's
//! 33      8     low        changes with numbers up to here are done, or failed
//! 41      2     length of its name
//! 43      -     who it is, for people (UTF-8)
//! -       17    each change above `low` that is done: number 8, outcome 1, inode 8
//! ```
//!
//! Outcomes: 0 nothing to tell, 1 the inode's attributes, 2 nothing lost a name, 3 the inode has lost a name, 4 it is an orphan since.

use std::collections::BTreeMap;

use zerocopy::little_endian::{U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::store::{Ino, Unlinked};

const VERSION: u8 = 1;

/// What a change came to, as far as its answer cannot be had by looking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// There is nothing to tell.
    Done,
    /// The attributes of this inode are what is told.
    Attr(Ino),
    /// What lost a name, if anything did.
    Unlinked(Option<Unlinked>),
}

/// A session, as its next leader knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    /// Proves that a connection is the session's.
    pub(crate) secret: [u8; 32],
    /// Who it is, for people.
    pub(crate) name: String,
    /// All changes up to here are done, or failed.
    pub(crate) low: u64,
    /// Those above that are done.
    pub(crate) done: BTreeMap<u64, Outcome>,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Head {
    version: u8,
    secret: [u8; 32],
    low: U64,
    name_len: U16,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Entry {
    number: U64,
    outcome: u8,
    ino: U64,
}

const _: () = assert!(size_of::<Head>() == 43 && size_of::<Entry>() == 17);

impl Window {
    /// Of a new session.
    pub(crate) fn new(secret: [u8; 32], name: String) -> Self {
        Self { secret, name, low: 0, done: BTreeMap::new() }
    }

    /// This change is done, whose client has heard what became of all up to `heard`.
    pub(crate) fn note(&mut self, number: u64, heard: u64, outcome: Outcome) {
        if heard > self.low {
            self.low = heard;
            self.done = self.done.split_off(&(heard + 1));
        }
        if number > self.low {
            self.done.insert(number, outcome);
        }
    }

    /// The encoding in the table above.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let name_len = U16::new(u16::try_from(self.name.len()).unwrap_or(0));
        let name = if name_len.get() == 0 { "" } else { &self.name };
        let (secret, low) = (self.secret, U64::new(self.low));
        let mut bytes = Head { version: VERSION, secret, low, name_len }.as_bytes().to_vec();
        bytes.extend_from_slice(name.as_bytes());
        for (number, outcome) in &self.done {
            let (outcome, ino) = match outcome {
                Outcome::Done => (0, Ino(0)),
                Outcome::Attr(ino) => (1, *ino),
                Outcome::Unlinked(None) => (2, Ino(0)),
                Outcome::Unlinked(Some(Unlinked { ino, orphan })) => (3 + u8::from(*orphan), *ino),
            };
            let entry = Entry { number: U64::new(*number), outcome, ino: U64::new(ino.0) };
            bytes.extend_from_slice(entry.as_bytes());
        }
        bytes
    }

    /// Reads it; `None` if it makes no sense, or is the value of a session that works where the volume is led.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (head, rest) = Head::read_from_prefix(bytes).ok()?;
        let (name, mut rest) = rest.split_at_checked(head.name_len.get().into())?;
        if head.version != VERSION {
            return None;
        }
        let mut window = Self::new(head.secret, std::str::from_utf8(name).ok()?.to_owned());
        window.low = head.low.get();
        while !rest.is_empty() {
            let (entry, more) = Entry::read_from_prefix(rest).ok()?;
            let ino = Ino(entry.ino.get());
            let unlinked = |orphan| Outcome::Unlinked(Some(Unlinked { ino, orphan }));
            let outcome = match entry.outcome {
                0 => Outcome::Done,
                1 => Outcome::Attr(ino),
                2 => Outcome::Unlinked(None),
                3 => unlinked(false),
                4 => unlinked(true),
                _ => return None,
            };
            window.done.insert(entry.number.get(), outcome);
            rest = more;
        }
        Some(window)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::btree_map;
    use proptest::prelude::*;

    use super::*;

    fn outcome() -> impl Strategy<Value = Outcome> {
        let unlinked = (any::<u64>(), any::<bool>())
            .prop_map(|(ino, orphan)| Outcome::Unlinked(Some(Unlinked { ino: Ino(ino), orphan })));
        prop_oneof![
            Just(Outcome::Done),
            Just(Outcome::Unlinked(None)),
            any::<u64>().prop_map(|ino| Outcome::Attr(Ino(ino))),
            unlinked,
        ]
    }

    proptest! {
        #[test]
        fn it_is_read_back(
            secret: [u8; 32], name in ".{0,20}", low: u64,
            done in btree_map(any::<u64>(), outcome(), 0..9),
        ) {
            let window = Window { secret, name, low, done };
            prop_assert_eq!(Window::decode(&window.encode()), Some(window));
        }

        #[test]
        fn what_makes_no_sense_is_nobody(bytes in proptest::collection::vec(any::<u8>(), 0..43)) {
            prop_assert_eq!(Window::decode(&bytes), None);
        }
    }

    #[test]
    fn it_has_what_was_done_and_forgets_what_was_heard() {
        let mut window = Window::new([7; 32], "a test".to_owned());
        window.note(2, 0, Outcome::Done);
        window.note(4, 0, Outcome::Attr(Ino(9)));
        let has = |window: &Window| {
            let done = |number: &u64| *number <= window.low || window.done.contains_key(number);
            (1..6).filter(done).collect::<Vec<u64>>()
        };
        assert_eq!(has(&window), [2, 4]);
        window.note(5, 3, Outcome::Unlinked(None));
        assert_eq!((has(&window), window.done.len()), (vec![1, 2, 3, 4, 5], 2));
        // One that nobody waited for is late.
        window.note(3, 2, Outcome::Done);
        assert_eq!((window.low, window.done.len()), (3, 2));
    }
}
