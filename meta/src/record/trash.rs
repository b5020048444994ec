//! The record of what is in the trash: its key says where it was and what it is ([`crate::key::trash`]).
//!
//! ```text
//! offset  size  field                                      (little-endian)
//! 0       8     when       in nanoseconds since the epoch; 0: somebody wants it gone for good
//! 8       4     by         number of the user who deleted it
//! 12      -     name       that it had
//! ```

use crate::store::NAME_MAX;

/// What is known of a deletion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Deletion {
    /// When, in nanoseconds since the epoch; 0: somebody wants it gone for good.
    pub(crate) when: u64,
    /// By whom.
    pub(crate) by: u32,
    /// The name that it had.
    pub(crate) name: Vec<u8>,
}

impl Deletion {
    /// The encoding in the table above.
    pub(crate) fn encode(&self) -> Vec<u8> {
        [&self.when.to_le_bytes()[..], &self.by.to_le_bytes(), &self.name].concat()
    }

    /// What the bytes say; `None`: nothing.
    pub(crate) fn decode(value: &[u8]) -> Option<Self> {
        let (when, rest) = value.split_first_chunk()?;
        let (by, name) = rest.split_first_chunk()?;
        let good = (1..=NAME_MAX).contains(&name.len()) && !name.contains(&b'/');
        let (when, by) = (u64::from_le_bytes(*when), u32::from_le_bytes(*by));
        good.then(|| Self { when, by, name: name.to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_is_read_back(when: u64, by: u32, name in proptest::collection::vec(1u8..=b'.', 1..=NAME_MAX)) {
            let deletion = Deletion { when, by, name };
            prop_assert_eq!(Deletion::decode(&deletion.encode()), Some(deletion));
        }

        #[test]
        fn any_bytes_are_one_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Some(deletion) = Deletion::decode(&bytes) {
                prop_assert_eq!(deletion.encode(), bytes);
            }
        }
    }
}
