//! Names: which are allowed, and how they are hashed.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::key::dentry::HASH_BITS;
use crate::store::{MetaError, NAME_MAX};

/// Hash of a name with the volume's seed: 1 to 2^55 - 1.
pub(crate) type Hasher = fn(&[u8], u64) -> u64;

/// The hash of names.
pub(crate) fn hash(name: &[u8], seed: u64) -> u64 {
    (xxh3_64_with_seed(name, seed) >> (u64::BITS - HASH_BITS)).max(1)
}

/// What a name means to a lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Name<'a> {
    /// `.`
    Itself,
    /// `..`
    Parent,
    /// An entry.
    Entry(&'a [u8]),
}

impl<'a> Name<'a> {
    /// Refuses what no directory can hold.
    pub(crate) fn parse(name: &'a [u8]) -> Result<Self, MetaError> {
        match name {
            b"" => Err(MetaError::Invalid("empty name")),
            b"." => Ok(Self::Itself),
            b".." => Ok(Self::Parent),
            _ if name.len() > NAME_MAX => Err(MetaError::NameTooLong),
            _ if name.iter().any(|&b| b == b'/' || b == 0) => {
                Err(MetaError::Invalid("name with a slash or a zero byte"))
            }
            _ => Ok(Self::Entry(name)),
        }
    }

    /// The entry, or the error when it is `.` or `..`.
    pub(crate) fn entry(name: &'a [u8], dots: MetaError) -> Result<&'a [u8], MetaError> {
        match Self::parse(name)? {
            Self::Entry(name) => Ok(name),
            Self::Itself | Self::Parent => Err(dots),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_allowed_and_not() {
        let long = [b'a'; NAME_MAX + 1];
        assert_eq!(Name::parse(&long), Err(MetaError::NameTooLong));
        assert_eq!(Name::parse(&long[1..]), Ok(Name::Entry(&long[1..])));
        for bad in [&b""[..], b"a/b", b"/", b"a\0"] {
            assert!(matches!(Name::parse(bad), Err(MetaError::Invalid(_))), "{bad:?}");
        }
        for (name, parsed) in [
            (&b"."[..], Name::Itself),
            (b"..", Name::Parent),
            (b"...", Name::Entry(b"...")),
            (b"\xff\xfe", Name::Entry(b"\xff\xfe")),
        ] {
            assert_eq!(Name::parse(name), Ok(parsed));
        }
    }

    #[test]
    fn hashes_leave_room_for_the_cookie() {
        for i in 0..10_000u32 {
            let hash = hash(&i.to_be_bytes(), 7);
            assert!((1..1 << HASH_BITS).contains(&hash));
        }
    }
}
