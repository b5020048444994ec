//! Which of a blob's parts, and sets of them.

use std::fmt;

use crate::limits::MAX_PARTS;

/// Which of a blob's k+m parts: 0 to k-1 are data, the rest parity. Always below [`MAX_PARTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartIndex(u8);

impl PartIndex {
    /// `None` from [`MAX_PARTS`] on.
    pub fn new(index: usize) -> Option<Self> {
        (index < MAX_PARTS).then_some(Self(index as u8))
    }

    /// The number itself, to index a slice with.
    pub fn get(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for PartIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A set of parts of one blob.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct PartSet(pub u32);

impl PartSet {
    /// No part.
    pub const EMPTY: Self = Self(0);

    /// Parts 0 to `count - 1`.
    ///
    /// # Panics
    /// Above [`MAX_PARTS`].
    pub fn first(count: usize) -> Self {
        assert!(count <= MAX_PARTS, "a blob has at most {MAX_PARTS} parts");
        Self(if count == 32 { u32::MAX } else { (1 << count) - 1 })
    }

    /// Is the part in the set?
    pub fn contains(self, part: PartIndex) -> bool {
        self.0 >> part.0 & 1 == 1
    }

    /// Adds a part.
    pub fn insert(&mut self, part: PartIndex) {
        self.0 |= 1 << part.0;
    }

    /// Takes a part out.
    pub fn remove(&mut self, part: PartIndex) {
        self.0 &= !(1 << part.0);
    }

    /// How many parts are in it.
    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Is there no part in it?
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// What is in either.
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in this and not in the other.
    pub fn minus(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The parts, in order.
    pub fn iter(self) -> impl Iterator<Item = PartIndex> {
        (0..32u8).filter(move |i| self.0 >> i & 1 == 1).map(PartIndex)
    }
}

impl fmt::Debug for PartSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(PartIndex::get)).finish()
    }
}

impl FromIterator<PartIndex> for PartSet {
    fn from_iter<I: IntoIterator<Item = PartIndex>>(parts: I) -> Self {
        let mut set = Self::EMPTY;
        parts.into_iter().for_each(|part| set.insert(part));
        set
    }
}
