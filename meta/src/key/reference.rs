//! `R` blob, inode, end: the run of this file that ends there lies in this blob. Empty value: what the run is
//! says its own record ([`super::extent`]). It is what leads from a blob to all that have bytes in it, clones
//! included.
//!
//! There is one for each run that lies in a blob, so they are short: numbers without their leading zeros. Within
//! a volume session and sequence tell blobs apart.
//!
//! ```text
//! offset  size  field                                      (big-endian)
//! 0       1     bytes of session (upper 4 bits) and of sequence (lower 4 bits)
//! 1       s     session
//! -       q     sequence
//! -       1     bytes of inode (upper 4 bits) and of end (lower 4 bits)
//! -       i     inode
//! -       e     end
//! ```
//!
//! The references of a blob lie together, and each has one place in their order; which it is means nothing. All
//! of these fit in a key while sessions are below 2^32.

use proto::id::{BlobId, SessionId};

use super::{KEY_MAX, Key};
use crate::store::Ino;

const TAG: u8 = b'R';
/// Bytes that the four numbers may have: the tag and two bytes of lengths are the rest.
const NUMBERS: usize = KEY_MAX - 3;

/// The bytes of a number, without leading zeros.
struct Number {
    bytes: [u8; 8],
    zeros: usize,
}

impl Number {
    fn new(number: u64) -> Self {
        Self { bytes: number.to_be_bytes(), zeros: number.leading_zeros() as usize / 8 }
    }

    fn len(&self) -> usize {
        8 - self.zeros
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[self.zeros..]
    }

    /// Two of them, with their lengths before them.
    fn append(a: &Self, b: &Self, key: Key) -> Key {
        let lengths = (a.len() << 4 | b.len()) as u8;
        key.with_bytes(&[lengths]).with_bytes(a.bytes()).with_bytes(b.bytes())
    }
}

/// Key of the reference to a blob from the run that ends at `end`; `None`: no blob that was ever put has such
/// numbers.
pub(crate) fn key(blob: &BlobId, ino: Ino, end: u64) -> Option<Key> {
    let [session, sequence, ino, end] =
        [blob.session().0, blob.sequence(), ino.0, end].map(Number::new);
    let len: usize = [&session, &sequence, &ino, &end].map(Number::len).into_iter().sum();
    (len <= NUMBERS).then(|| {
        let key = Number::append(&session, &sequence, Key::tag(TAG));
        Number::append(&ino, &end, key)
    })
}

/// What a key says of a run: the session and sequence of its blob, its inode and its end.
pub(crate) fn parse(key: &Key) -> Option<(SessionId, u64, Ino, u64)> {
    let (session, sequence, rest) = two(key.body(TAG)?)?;
    let (ino, end, rest) = two(rest)?;
    rest.is_empty().then_some((SessionId(session), sequence, Ino(ino), end))
}

/// Two numbers, and what follows them.
fn two(bytes: &[u8]) -> Option<(u64, u64, &[u8])> {
    let (lengths, rest) = bytes.split_first()?;
    let (a, rest) = rest.split_at_checked(usize::from(lengths >> 4))?;
    let (b, rest) = rest.split_at_checked(usize::from(lengths & 15))?;
    Some((number(a)?, number(b)?, rest))
}

/// A number; `None` if it has leading zeros, or too many bytes.
fn number(bytes: &[u8]) -> Option<u64> {
    let mut whole = [0; 8];
    whole[8_usize.checked_sub(bytes.len())?..].copy_from_slice(bytes);
    (bytes.first() != Some(&0)).then(|| u64::from_be_bytes(whole))
}

/// Start of a blob's references.
pub(crate) fn of(session: SessionId, sequence: u64) -> Key {
    Number::append(&Number::new(session.0), &Number::new(sequence), Key::tag(TAG))
}

/// Start of all references.
pub(crate) fn all() -> Key {
    Key::tag(TAG)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proto::id::{GroupId, VolumeId};
    use proto::scheme::Scheme;

    fn blob(session: u64, sequence: u64) -> BlobId {
        let scheme = Scheme::erasure(4, 2).unwrap();
        BlobId::new(VolumeId(1), SessionId(session), sequence, GroupId(0), 9, scheme).unwrap()
    }

    /// A number of any length.
    fn any_length() -> impl Strategy<Value = u64> {
        (any::<u64>(), 0u32..=64).prop_map(|(n, shift)| n.checked_shr(shift).unwrap_or(0))
    }

    proptest! {
        #[test]
        fn it_is_read_back(
            session: u32, sequence in any_length(), ino in any_length(), end in any_length(),
            other in any_length(),
        ) {
            let id = blob(session.into(), sequence);
            let key = key(&id, Ino(ino), end).unwrap();
            prop_assert_eq!(parse(&key), Some((SessionId(session.into()), sequence, Ino(ino), end)));
            // Among its blob's, and among no other's.
            let range = |session, sequence| {
                let of = of(SessionId(session), sequence);
                of..of.after_prefix()
            };
            prop_assert!(range(session.into(), sequence).contains(&key));
            prop_assert_eq!(range(session.into(), other).contains(&key), other == sequence);
            prop_assert_eq!(range(other, sequence).contains(&key), other == u64::from(session));
            prop_assert!(key.successor() > key);
        }

        #[test]
        fn any_bytes_are_read_as_what_they_are_or_refused(
            bytes in proptest::collection::vec(0u8..20, 0..KEY_MAX),
        ) {
            let read = Key::tag(TAG).with_bytes(&bytes);
            if let Some((session, sequence, ino, end)) = parse(&read) {
                let again = Number::append(
                    &Number::new(ino.0),
                    &Number::new(end),
                    of(session, sequence),
                );
                prop_assert_eq!(again, read);
            }
        }
    }

    #[test]
    fn numbers_that_no_blob_has_are_refused_and_not_cut() {
        assert!(key(&blob(u32::MAX.into(), u64::MAX), Ino(u64::MAX), u64::MAX).is_some());
        assert_eq!(key(&blob(1 << 32, u64::MAX), Ino(u64::MAX), u64::MAX), None);
    }
}
