//! `C`: the counters of the volume.
//!
//! No change reads or writes this record. A change says what it adds ([`Counters`] again, as differences), and
//! the engine keeps the sums; it writes them along with the changes that they are of, so that they are exact
//! after a crash without any recount.
//!
//! ```text
//! offset  size  field                                      (little-endian, two's complement)
//! 0       8     inodes
//! 8       8     live bytes
//! 16      8     blob bytes
//! 24      8     blobs
//! 32      8     dead bytes
//! 40      8     allocated bytes
//! 48      8     disk bytes
//! ```

use std::ops::AddAssign;

use zerocopy::little_endian::I64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::Key;
use crate::store::Usage;

const TAG: u8 = b'C';

/// Bytes of the record.
pub(crate) const LEN: usize = 56;

/// Key of the counters.
pub(crate) fn key() -> Key {
    Key::tag(TAG)
}

/// Sums of what is counted, or by how much a change moves them. A sum below zero is a wrong one, and comes back
/// to what is right with what is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    /// Inodes in use.
    pub(crate) inodes: i64,
    /// Bytes that extents refer to.
    pub(crate) live_bytes: i64,
    /// Bytes of all blobs.
    pub(crate) blob_bytes: i64,
    /// Blobs.
    pub(crate) blobs: i64,
    /// Bytes of blobs beyond their live ones.
    pub(crate) dead_bytes: i64,
    /// Bytes of extents that are allocated zeros.
    pub(crate) allocated_bytes: i64,
    /// Bytes of disk that blobs take.
    pub(crate) disk_bytes: i64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Table([I64; 7]);

const _: () = assert!(size_of::<Table>() == LEN);

impl Counters {
    /// Nothing counted, or nothing moved.
    pub(crate) const NONE: Self = Self::of([0; 7]);

    /// What users see.
    pub(crate) fn usage(&self) -> Usage {
        let [inodes, live_bytes, blob_bytes, blobs, dead_bytes, allocated_bytes, disk_bytes] =
            self.numbers().map(|sum| sum.max(0).unsigned_abs());
        Usage { inodes, live_bytes, blob_bytes, dead_bytes, blobs, allocated_bytes, disk_bytes }
    }

    /// The encoding in the table above.
    pub(crate) fn encode(&self) -> [u8; LEN] {
        zerocopy::transmute!(Table(self.numbers().map(I64::new)))
    }

    /// `None` if the value makes no sense.
    pub(crate) fn decode(value: &[u8]) -> Option<Self> {
        Some(Self::of(Table::read_from_bytes(value).ok()?.0.map(I64::get)))
    }

    /// In the order of the table.
    const fn numbers(&self) -> [i64; 7] {
        [
            self.inodes,
            self.live_bytes,
            self.blob_bytes,
            self.blobs,
            self.dead_bytes,
            self.allocated_bytes,
            self.disk_bytes,
        ]
    }

    const fn of(numbers: [i64; 7]) -> Self {
        let [inodes, live_bytes, blob_bytes, blobs, dead_bytes, allocated_bytes, disk_bytes] =
            numbers;
        Self { inodes, live_bytes, blob_bytes, blobs, dead_bytes, allocated_bytes, disk_bytes }
    }
}

impl AddAssign for Counters {
    fn add_assign(&mut self, change: Self) {
        let (sums, changes) = (self.numbers(), change.numbers());
        *self = Self::of(std::array::from_fn(|at| sums[at].wrapping_add(changes[at])));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn they_are_read_back(numbers: [i64; 7]) {
            let counters = Counters::of(numbers);
            proptest::prop_assert_eq!(Counters::decode(&counters.encode()), Some(counters));
        }
    }

    #[test]
    fn the_format_does_not_drift() {
        let counters = Counters {
            inodes: 1,
            live_bytes: 2,
            blob_bytes: 3,
            blobs: 4,
            dead_bytes: 5,
            allocated_bytes: 6,
            disk_bytes: 7,
        };
        for (index, number) in counters.encode().chunks(8).enumerate() {
            assert_eq!(number, (index as i64 + 1).to_le_bytes());
        }
    }

    #[test]
    fn a_sum_that_is_wrong_is_never_a_huge_one_and_comes_back() {
        let mut counters = Counters { blobs: -1, inodes: 2, ..Counters::NONE };
        assert_eq!((counters.usage().blobs, counters.usage().inodes), (0, 2));
        counters += Counters { blobs: 3, inodes: -1, ..Counters::NONE };
        assert_eq!((counters.usage().blobs, counters.usage().inodes), (2, 1));
    }
}
