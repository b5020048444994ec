//! The predicates over *which* slots answered that every decision of the proxy rests on.
//!
//! What they stand on: a put is acknowledged only when each part has one home slot, and either all homes are apart
//! ([`Spread::Apart`]), or no disk is home to more than [`room`] of them. So whatever an acknowledged blob hides
//! from us lies on slots we have not heard, and how many parts these can hide follows from where they are.

use proto::id::{PartSet, VolumeId};
use proto::scheme::Scheme;

use crate::rules::Layout;

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

    pub(crate) fn both(self, other: Self) -> Self {
        Self(self.0 & other.0)
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
    /// Doubled up, where too few units are alive to keep them apart, as long as so many more disks can be lost.
    AsPossible { spare: usize },
    /// Each on a unit of its own, or the blob is not stored. So what is silent hides less of it: its absence
    /// can be proven with m units silent.
    Apart(Layout),
}

impl Spread {
    /// The worst that a blob of any volume may have been put by.
    pub(crate) const ANY: Self = Self::AsPossible { spare: 0 };
}

/// Most parts of one blob that one disk may be home to, when `spare` disks can be lost and leave k parts.
///
/// With none to spare, as many as there are when parts are doubled up on m+1 disks: metadata need so many. One is
/// always allowed, or `copies(1)` could not be stored at all.
pub(crate) fn room(scheme: Scheme, spare: usize) -> usize {
    let m = scheme.parity_parts();
    match spare.min(m) {
        0 => m.max(scheme.parts().div_ceil(m + 1)),
        spare => m / spare,
    }
}

/// Is it proven that a put of the blob was never acknowledged?
///
/// `seen` are the parts that slots have shown to exist, rotten ones included; `hidden` how many parts those
/// slots may hold that have not told all they hold, or are being rebuilt and might have held more (the generous reading: they hold as much as they can). With
/// enough parts seen to restore the blob, it is never absent.
pub(crate) fn absence_proven(scheme: Scheme, seen: PartSet, hidden: usize) -> bool {
    let missing = scheme.parts() - seen.len();
    seen.len() < scheme.data_parts() && missing > hidden
}

/// Which blobs a listing must not miss.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sought {
    /// Those of any scheme seen, or of the copies that go with it, or of two copies; their parts may have had to
    /// share disks.
    All,
    /// Those of a volume that were put apart, and survive the loss of so many units; `None`: of as many as those
    /// that are seen, or of one.
    Apart(VolumeId, Option<usize>),
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
            // (scheme, parts seen, parts hidden, proven)
            ("ec(4,2)", 0, 0, true),
            ("ec(4,2)", 3, 0, true),
            ("ec(4,2)", 4, 0, false), // can be restored
            ("ec(4,2)", 3, 2, true),
            ("ec(4,2)", 2, 4, false),
            ("ec(4,2)", 0, 6, false),
            ("copies(3)", 0, 2, true),
            ("copies(3)", 0, 3, false),
            ("copies(3)", 1, 0, false),
            ("copies(1)", 0, 0, true),
            ("copies(1)", 0, 1, false),
        ];
        for (text, seen, hidden, expected) in cases {
            let proven = absence_proven(scheme(text), PartSet::first(seen), hidden);
            assert_eq!(proven, expected, "{text}: {seen:?} seen, {hidden} hidden");
        }
    }

    #[test]
    fn parts_double_up_as_far_as_disks_to_spare_allow() {
        let cases = [
            // (scheme, most on a disk with 0, 1, 2 and 3 disks to spare)
            ("ec(4,2)", [2, 2, 1, 1]),
            ("ec(8,3)", [3, 3, 1, 1]),
            ("ec(9,4)", [4, 4, 2, 1]),
            ("ec(2,1)", [2, 1, 1, 1]),
            ("ec(8,2)", [4, 2, 1, 1]),
            ("copies(3)", [2, 2, 1, 1]),
            ("copies(2)", [1, 1, 1, 1]),
            ("copies(1)", [1, 1, 1, 1]),
        ];
        for (text, most) in cases {
            assert_eq!([0, 1, 2, 3].map(|spare| room(scheme(text), spare)), most, "{text}");
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
