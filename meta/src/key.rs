//! The schema: every kind of key in a volume's key space, one file each.
//!
//! A key starts with a tag byte, then big-endian numbers, so that the order of bytes is the order
//! of what they mean. All keys fit in [`KEY_MAX`] bytes and live inline, without an allocation:
//! names are hashed, and those of one hash share a value.
//!
//! | tag | file           | key                    | value                                  |
//! |-----|----------------|------------------------|----------------------------------------|
//! | `V` | [`volume`]     |                        | what the volume is                     |
//! | `M` | [`members`]    |                        | the slots that it has used             |
//! | `C` | [`counters`]   |                        | sums of what is in use                 |
//! | `H` | [`numbers`]    |                        | next inode's and next session's number |
//! | `S` | [`session`]    | session                | not closed; how it is known elsewhere  |
//! | `I` | [`inode`]      | inode                  | its attributes                         |
//! | `D` | [`dentry`]     | parent, hash of name   | entries with that hash                 |
//! | `L` | [`symlink`]    | inode                  | target of a symbolic link              |
//! | `E` | [`extent`]     | inode, end             | length and place of a run of bytes     |
//! | `X` | [`xattr`]      | inode, hash of name    | attributes with that hash              |
//! | `B` | [`blob`]       | blob id                | live bytes, flags                      |
//! | `G` | [`garbage`]    | blob id                | empty: it has no live byte             |
//! | `N` | [`inline`]     | blob id                | the bytes of an inline blob            |
//! | `O` | [`orphan`]     | session, inode         | empty: unlinked, perhaps still open    |
//! | `R` | [`reference`]  | blob, inode, end       | empty: this run lies in this blob      |
//! | `A` | [`account`]    | kind, name             | who may come in by a door              |
//! | `T` | [`trash`]      | directory, inode       | what was in it and is in the trash     |
//! | `W` | [`trash`]      | time, inode            | the same in order: its directory       |

pub(crate) mod account;
pub(crate) mod blob;
pub(crate) mod counters;
pub(crate) mod dentry;
pub(crate) mod extent;
pub(crate) mod garbage;
pub(crate) mod inline;
pub(crate) mod inode;
pub(crate) mod members;
pub(crate) mod numbers;
pub(crate) mod orphan;
pub(crate) mod reference;
pub(crate) mod session;
pub(crate) mod symlink;
pub(crate) mod trash;
pub(crate) mod volume;
pub(crate) mod xattr;

use std::cmp::Ordering;
use std::fmt;

/// Longest key, in bytes.
pub(crate) const KEY_MAX: usize = 31;

/// A key, inline: its bytes, zeros, and in the last byte its length. So 32 bytes compare as the key's
/// own bytes do: the zeros come first, and the length breaks the tie of a key that ends in zeros.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key([u8; KEY_MAX + 1]);

impl Key {
    /// From its bytes; `None` if there are too many.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        (bytes.len() <= KEY_MAX).then(|| Self([0; KEY_MAX + 1]).with_bytes(bytes))
    }

    /// A tag alone.
    pub(crate) fn tag(tag: u8) -> Self {
        Self([0; KEY_MAX + 1]).with_bytes(&[tag])
    }

    /// The key with a big-endian number appended.
    pub(crate) fn with(self, number: u64) -> Self {
        self.with_bytes(&number.to_be_bytes())
    }

    /// The key with bytes appended.
    ///
    /// # Panics
    /// When the key becomes too long: every kind of key fits.
    pub(crate) fn with_bytes(mut self, bytes: &[u8]) -> Self {
        let (start, end) = (self.len(), self.len() + bytes.len());
        assert!(end <= KEY_MAX, "a key has at most {KEY_MAX} bytes");
        self.0[start..end].copy_from_slice(bytes);
        self.0[KEY_MAX] = end as u8;
        self
    }

    /// The same with bytes that anybody has chosen; `None`: no key is so long.
    pub(crate) fn with_any_bytes(self, bytes: &[u8]) -> Option<Self> {
        (self.len() + bytes.len() <= KEY_MAX).then(|| self.with_bytes(bytes))
    }

    fn len(&self) -> usize {
        self.0[KEY_MAX].into()
    }

    /// Its bytes.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0[..self.len()]
    }

    /// The first key after all that start with this one.
    ///
    /// # Panics
    /// If all its bytes are 255: no tag is.
    pub(crate) fn after_prefix(mut self) -> Self {
        while let Some(last) = self.len().checked_sub(1) {
            if self.0[last] < u8::MAX {
                self.0[last] += 1;
                return self;
            }
            self.0[last] = 0;
            self.0[KEY_MAX] -= 1;
        }
        unreachable!("a key starts with a tag below 255")
    }

    /// The next key in order: nothing lies between.
    pub(crate) fn successor(self) -> Self {
        if self.len() < KEY_MAX { self.with_bytes(&[0]) } else { self.after_prefix() }
    }

    /// What follows the tag, if it is this one.
    fn body(&self, tag: u8) -> Option<&[u8]> {
        self.as_bytes().strip_prefix(&[tag])
    }

    /// The one number that follows the tag.
    fn one(&self, tag: u8) -> Option<u64> {
        Some(u64::from_be_bytes(self.body(tag)?.try_into().ok()?))
    }

    /// The two numbers that follow the tag.
    fn two(&self, tag: u8) -> Option<(u64, u64)> {
        let (first, second) = self.body(tag)?.split_first_chunk::<8>()?;
        Some((u64::from_be_bytes(*first), u64::from_be_bytes(second.try_into().ok()?)))
    }
}

impl Ord for Key {
    /// As two big numbers: tables compare keys all the time, and this needs no call.
    fn cmp(&self, other: &Self) -> Ordering {
        let halves = |key: &Self| {
            let half = |at: usize| {
                let mut half = [0; 16];
                half.copy_from_slice(&key.0[at..at + 16]);
                u128::from_be_bytes(half)
            };
            (half(0), half(16))
        };
        halves(self).cmp(&halves(other))
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (tag, body) =
            self.as_bytes().split_first().map_or(('-', &[][..]), |(t, b)| (char::from(*t), b));
        write!(f, "{tag}:{body:02x?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn keys_are_ordered_as_their_bytes(
            a in proptest::collection::vec(0u8..3, 0..KEY_MAX),
            b in proptest::collection::vec(0u8..3, 0..KEY_MAX),
            longest in proptest::collection::vec(0u8..3, KEY_MAX - 1),
        ) {
            let key = |bytes: &[u8]| Key::from_bytes(bytes).unwrap();
            prop_assert_eq!(key(&a).cmp(&key(&b)), a.cmp(&b));
            let whole = key(&a);
            prop_assert_eq!(whole.as_bytes(), &a[..]);
            prop_assert!(key(&a).successor() > key(&a));
            // Nothing lies between.
            for b in [key(&b), Key::tag(1).with_bytes(&longest)] {
                prop_assert_eq!(key(&a) < b, key(&a).successor() <= b);
                prop_assert_eq!(b < key(&a), b.successor() <= key(&a));
            }
        }

        #[test]
        fn a_prefix_ends_where_it_should(body in proptest::collection::vec(any::<u8>(), 0..10), tail: u64) {
            let prefix = Key::tag(b'I').with_bytes(&body);
            prop_assert!(prefix.with(tail) < prefix.after_prefix());
            prop_assert!(prefix.with(u64::MAX) < prefix.after_prefix());
            prop_assert!(!prefix.after_prefix().as_bytes().starts_with(prefix.as_bytes()));
        }
    }

    #[test]
    fn too_many_bytes_are_no_key() {
        assert_eq!(Key::from_bytes(&[1; KEY_MAX + 1]), None);
        assert_eq!(Key::from_bytes(&[1; 300]), None);
    }
}
