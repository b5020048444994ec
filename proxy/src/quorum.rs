//! The predicates over *which* slots answered that every decision of the proxy rests on.
//!
//! What they stand on: a put is acknowledged only when each part has one home slot, and either all
//! homes are on distinct fail domains, or (parts doubled up) no domain is home to more than m of
//! them. So whatever an acknowledged blob hides from us lies on domains we have not heard all of,
//! and each of those can hide at most [`room`] parts.

use proto::id::PartSet;
use proto::scheme::Scheme;

/// A set of slots of one group, by their number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct SlotSet(pub(crate) u64);

impl SlotSet {
    pub(crate) const EMPTY: Self = Self(0);

    pub(crate) fn first(count: usize) -> Self {
        Self(if count >= 64 { u64::MAX } else { (1 << count) - 1 })
    }

    pub(crate) fn only(slot: usize) -> Self {
        Self(1 << slot)
    }

    pub(crate) fn contains(self, slot: usize) -> bool {
        self.0 >> slot & 1 == 1
    }

    pub(crate) fn insert(&mut self, slot: usize) {
        self.0 |= 1 << slot;
    }

    pub(crate) fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(crate) fn minus(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Those of the first `count` slots that are so.
    pub(crate) fn that_are(count: usize, is: impl Fn(usize) -> bool) -> Self {
        let slots = (0..count).filter(|slot| is(*slot));
        slots.fold(Self::EMPTY, |set, slot| set.union(Self::only(slot)))
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = usize> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let slot = (rest != 0).then(|| rest.trailing_zeros() as usize)?;
            rest &= rest - 1;
            Some(slot)
        })
    }
}

impl std::fmt::Debug for SlotSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// How the parts of a blob may lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spread {
    /// Doubled up, where too few domains are alive to keep them apart.
    AsPossible,
    /// Each on a domain of its own, or the blob is not stored. So what is silent hides less of it: its absence
    /// can be proven with m domains silent.
    Apart,
}

/// Most parts of one blob that one fail domain may be home to: with m, losing it leaves k parts.
/// One is always allowed, or `copies(1)` could not be stored at all.
pub(crate) fn room(scheme: Scheme, spread: Spread) -> usize {
    match spread {
        Spread::AsPossible => scheme.parity_parts().max(1),
        Spread::Apart => 1,
    }
}

/// Is it proven that a put of the blob was never acknowledged?
///
/// `seen` are the parts that slots have shown to exist, rotten ones included; `unheard` counts the
/// fail domains of which at least one slot has not told all it holds, or is being rebuilt and might have held more (the generous reading: they
/// hold as much as they can). With enough parts seen to restore the blob, it is never absent.
pub(crate) fn absence_proven(
    scheme: Scheme,
    spread: Spread,
    seen: PartSet,
    unheard: usize,
) -> bool {
    let missing = scheme.parts() - seen.len();
    seen.len() < scheme.data_parts() && missing > unheard * room(scheme, spread)
}

/// May an answer of the group be relied on that slots of so many fail domains have not given?
///
/// Two such answers have a domain in common that gave both, as long as there are 2m + 1 domains; and what needs
/// m + 1 domains, as a journal's blob does, needs one that gave either.
pub(crate) fn all_but(silent: usize, m: usize) -> bool {
    silent <= m
}

/// Could slots of `silent` fail domains hide a whole acknowledged blob of `scheme`?
pub(crate) fn could_hide(scheme: Scheme, silent: usize) -> bool {
    silent * room(scheme, Spread::AsPossible) >= scheme.parts()
}

/// Which blobs a listing must not miss.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sought {
    /// Those of any scheme seen, or of the copies that go with it, or of two copies; their parts may have had to
    /// share domains.
    All,
    /// Those that were put apart, and survive the loss of so many domains; `None`: of as many as those
    /// that are seen, or of one.
    Apart(Option<usize>),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scheme(text: &str) -> Scheme {
        text.parse().unwrap()
    }

    #[test]
    fn absence_is_a_matter_of_what_the_unheard_could_hold() {
        let cases = [
            // (scheme, parts seen, domains unheard, proven)
            ("ec(4,2)", 0, 0, true),
            ("ec(4,2)", 3, 0, true),
            ("ec(4,2)", 4, 0, false), // can be restored
            ("ec(4,2)", 3, 1, true),  // one domain never holds more than two
            ("ec(4,2)", 1, 2, true),
            ("ec(4,2)", 2, 2, false), // two doubled up on each
            ("ec(4,2)", 0, 3, false),
            ("copies(3)", 0, 1, true),
            ("copies(3)", 0, 2, false), // two on one, one on the other
            ("copies(2)", 0, 1, true),
            ("copies(1)", 0, 0, true),
            ("copies(1)", 0, 1, false),
            ("ec(2,1)", 1, 1, true),
            ("ec(2,1)", 0, 3, false),
        ];
        for (text, seen, unheard, expected) in cases {
            let (scheme, seen) = (scheme(text), PartSet::first(seen));
            let proven = absence_proven(scheme, Spread::AsPossible, seen, unheard);
            assert_eq!(proven, expected, "{text}: {seen:?} seen, {unheard} domains unheard");
        }
        for (text, seen, unheard, expected) in [
            ("copies(3)", 0, 2, true),
            ("copies(3)", 0, 3, false),
            ("copies(3)", 1, 0, false),
            ("ec(4,2)", 2, 3, true),
            ("ec(4,2)", 2, 4, false),
        ] {
            let (scheme, seen) = (scheme(text), PartSet::first(seen));
            let proven = absence_proven(scheme, Spread::Apart, seen, unheard);
            assert_eq!(proven, expected, "{text}, apart: {seen:?} seen, {unheard} domains unheard");
        }
    }

    #[test]
    fn a_list_may_miss_blobs_once_the_silent_could_hold_one_whole() {
        for (text, tolerated) in
            [("ec(4,2)", 2), ("copies(3)", 1), ("copies(2)", 1), ("copies(1)", 0), ("ec(8,2)", 4)]
        {
            assert!(!could_hide(scheme(text), tolerated), "{text}");
            assert!(could_hide(scheme(text), tolerated + 1), "{text}");
        }
    }

    #[test]
    fn slot_sets() {
        let mut set = SlotSet::first(3);
        set.insert(63);
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 1, 2, 63]);
        assert_eq!((SlotSet::first(64).len(), set.minus(SlotSet::first(64))), (64, SlotSet::EMPTY));
    }
}
