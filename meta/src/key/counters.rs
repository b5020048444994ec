//! `C`: the counters of the volume, and the numbers handed out next.
//!
//! They are an ordinary record that transactions change along with what is counted, so that they
//! are exact after a crash without any recount.
//!
//! ```text
//! offset  size  field                                      (little-endian)
//! 0       8     next inode       never used before
//! 8       8     next session     never used before
//! 16      8     inodes
//! 24      8     live bytes
//! 32      8     blob bytes
//! 40      8     blobs
//! 48      8     degraded blobs
//! 56      8     dead bytes
//! 64      8     allocated bytes
//! 72      8     disk bytes
//! ```

use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::Key;
use crate::store::Usage;

const TAG: u8 = b'C';

/// Key of the counters.
pub(crate) fn key() -> Key {
    Key::tag(TAG)
}

/// The counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    /// Number of the next inode.
    pub(crate) next_ino: u64,
    /// Number of the next session.
    pub(crate) next_session: u64,
    /// What is in use.
    pub(crate) usage: Usage,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Table([U64; 10]);

const _: () = assert!(size_of::<Table>() == 80);

impl Counters {
    /// The encoding in the table above.
    pub(crate) fn encode(&self) -> [u8; 80] {
        let Usage {
            inodes,
            live_bytes,
            blob_bytes,
            dead_bytes,
            blobs,
            degraded_blobs,
            allocated_bytes,
            disk_bytes,
        } = self.usage;
        let numbers = [
            self.next_ino,
            self.next_session,
            inodes,
            live_bytes,
            blob_bytes,
            blobs,
            degraded_blobs,
            dead_bytes,
            allocated_bytes,
            disk_bytes,
        ];
        zerocopy::transmute!(Table(numbers.map(U64::new)))
    }

    /// `None` if the value makes no sense.
    pub(crate) fn decode(value: &[u8]) -> Option<Self> {
        let [
            next_ino,
            next_session,
            inodes,
            live_bytes,
            blob_bytes,
            blobs,
            degraded_blobs,
            dead_bytes,
            allocated_bytes,
            disk_bytes,
        ] = Table::read_from_bytes(value).ok()?.0.map(U64::get);
        let usage = Usage {
            inodes,
            live_bytes,
            blob_bytes,
            dead_bytes,
            blobs,
            degraded_blobs,
            allocated_bytes,
            disk_bytes,
        };
        Some(Self { next_ino, next_session, usage })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn they_are_read_back(n: [u64; 10]) {
            let usage = Usage {
                inodes: n[2], live_bytes: n[3], blob_bytes: n[4], blobs: n[5], degraded_blobs: n[6],
                dead_bytes: n[7], allocated_bytes: n[8], disk_bytes: n[9],
            };
            let counters = Counters { next_ino: n[0], next_session: n[1], usage };
            proptest::prop_assert_eq!(Counters::decode(&counters.encode()), Some(counters));
        }
    }

    #[test]
    fn the_format_does_not_drift() {
        let usage = Usage {
            inodes: 3,
            live_bytes: 4,
            blob_bytes: 5,
            blobs: 6,
            degraded_blobs: 7,
            dead_bytes: 8,
            allocated_bytes: 9,
            disk_bytes: 10,
        };
        let bytes = Counters { next_ino: 1, next_session: 2, usage }.encode();
        for (index, number) in bytes.chunks(8).enumerate() {
            assert_eq!(number, (index as u64 + 1).to_le_bytes());
        }
    }
}
