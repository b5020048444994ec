//! `H`: the numbers that are handed out next. None is ever used twice.
//!
//! Whoever makes inodes takes a range of numbers with one write of this record and hands them out in memory
//! ([`INODES`]). What of a range was not used by the end is never used.
//!
//! ```text
//! offset  size  field                                      (little-endian)
//! 0       8     next inode       never handed out before
//! 8       8     next session     never handed out before
//! ```

use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::Key;

const TAG: u8 = b'H';

/// Numbers of inodes that are taken at once.
pub(crate) const INODES: u64 = 1024;

/// Key of the numbers.
pub(crate) fn key() -> Key {
    Key::tag(TAG)
}

/// The numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Numbers {
    /// Number of the next inode.
    pub(crate) next_ino: u64,
    /// Number of the next session.
    pub(crate) next_session: u64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Table([U64; 2]);

const _: () = assert!(size_of::<Table>() == 16);

impl Numbers {
    /// The encoding in the table above.
    pub(crate) fn encode(&self) -> [u8; 16] {
        zerocopy::transmute!(Table([self.next_ino, self.next_session].map(U64::new)))
    }

    /// `None` if the value makes no sense.
    pub(crate) fn decode(value: &[u8]) -> Option<Self> {
        let [next_ino, next_session] = Table::read_from_bytes(value).ok()?.0.map(U64::get);
        Some(Self { next_ino, next_session })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn they_are_read_back(next_ino: u64, next_session: u64) {
            let numbers = Numbers { next_ino, next_session };
            proptest::prop_assert_eq!(Numbers::decode(&numbers.encode()), Some(numbers));
        }
    }

    #[test]
    fn the_format_does_not_drift() {
        let bytes = Numbers { next_ino: 1, next_session: 2 }.encode();
        assert_eq!(bytes, [1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
    }
}
