//! Names of things. An id is not a number: each has its own type, prints as what a person would
//! type, and is read back from the same text.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::limits::{MAX_BLOB, footprint};
pub use crate::part::{PartIndex, PartSet};
use crate::scheme::Scheme;

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident($int:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $int);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

// The six number ids differ in nothing but their name and width: a macro keeps them alike.
number_id! {
    /// One filesystem namespace of a cluster.
    VolumeId(u32)
}
number_id! {
    /// One mount alive. No two sessions of a volume ever share a number.
    SessionId(u64)
}

impl SessionId {
    /// The upper two bits of a session: 0 for blobs of files' data, what they are for blobs of metadata.
    pub const ROLE_SHIFT: u32 = 62;

    /// Do blobs of this session hold metadata?
    pub fn is_metadata(self) -> bool {
        self.0 >> Self::ROLE_SHIFT != 0
    }
}

number_id! {
    /// A set of slots that keep blobs together.
    GroupId(u32)
}
number_id! {
    /// Rises with every change of a group's membership.
    Generation(u64)
}
number_id! {
    /// A place for parts on a disk: its number on that disk.
    SlotId(u32)
}

number_id! {
    /// Of a volume: rises with every leader of its metadata.
    Epoch(u64)
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A new one that no other equals.
            pub fn random() -> Self {
                Self(Uuid::new_v4())
            }

            /// From its 16 bytes on disk or on the wire.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                Uuid::from_slice(bytes).ok().map(Self)
            }

            /// Its 16 bytes.
            pub fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::from_str(text).map(Self)
            }
        }
    };
}

uuid_id! {
    /// All disks, nodes and volumes that belong together.
    ClusterId
}
uuid_id! {
    /// One leader of a volume: a token that no other has.
    OwnerId
}
uuid_id! {
    /// One end of a link: what all connections have in common that it makes, one after the other.
    ClientId
}
uuid_id! {
    /// One machine of a cluster.
    NodeId
}
uuid_id! {
    /// One dedicated device or directory that a `storaged` owns.
    DiskId
}

/// Bytes of an encoded [`BlobId`].
pub const BLOB_ID_LEN: usize = 31;

/// Name of an immutable blob; says where it is kept, how long it is and how it is protected. So any
/// blob can be found by its id alone.
///
/// ```text
/// offset  size  field     (big-endian, so that a scan of one session is in order of sequence)
/// 0       4     volume
/// 4       8     session
/// 12      8     sequence
/// 20      4     group     whose slots keep its parts
/// 24      4     length    bytes of the blob, 1 to MAX_BLOB
/// 28      1     codec
/// 29      1     k
/// 30      1     m
/// ```
///
/// Printed as `VOLUME-SESSION-SEQUENCE-GROUP-LENGTH-SCHEME`, for example `1-3-17-0-4194304-ec(4,2)`.
/// Invariant: `len` is within 1 to [`MAX_BLOB`] and `scheme` is a valid one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlobId {
    volume: VolumeId,
    session: SessionId,
    sequence: u64,
    group: GroupId,
    len: u32,
    scheme: Scheme,
}

impl BlobId {
    /// `None` when `len` is 0 or above [`MAX_BLOB`].
    pub fn new(
        volume: VolumeId,
        session: SessionId,
        sequence: u64,
        group: GroupId,
        len: u32,
        scheme: Scheme,
    ) -> Option<Self> {
        let id = Self { volume, session, sequence, group, len, scheme };
        (1..=MAX_BLOB).contains(&len).then_some(id)
    }

    /// Volume the blob belongs to.
    pub fn volume(&self) -> VolumeId {
        self.volume
    }

    /// Session that wrote it.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// Its number within the session.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Group whose slots keep its parts.
    pub fn group(&self) -> GroupId {
        self.group
    }

    /// Bytes of the blob.
    #[allow(clippy::len_without_is_empty)] // a blob is never empty
    pub fn len(&self) -> u32 {
        self.len
    }

    /// How it is protected.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Bytes of each of its parts. A function of the id alone.
    pub fn part_len(&self) -> u32 {
        self.scheme.part_len(self.len)
    }

    /// Bytes of disk that all its parts take, headers included.
    pub fn disk_bytes(&self) -> u64 {
        footprint(self.part_len()) * self.scheme.parts() as u64
    }

    /// The encoding in the table above.
    pub fn to_bytes(&self) -> [u8; BLOB_ID_LEN] {
        let mut out = [0; BLOB_ID_LEN];
        out[0..4].copy_from_slice(&self.volume.0.to_be_bytes());
        out[4..12].copy_from_slice(&self.session.0.to_be_bytes());
        out[12..20].copy_from_slice(&self.sequence.to_be_bytes());
        out[20..24].copy_from_slice(&self.group.0.to_be_bytes());
        out[24..28].copy_from_slice(&self.len.to_be_bytes());
        out[28] = self.scheme.codec();
        out[29] = self.scheme.data_parts() as u8;
        out[30] = self.scheme.parity_parts() as u8;
        out
    }

    /// `None` when the bytes are not an id: wrong length, a length of 0, a scheme that cannot be.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; BLOB_ID_LEN] = bytes.try_into().ok()?;
        let u64_at = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_be_bytes(word)
        };
        let u32_at = |at: usize| {
            let mut word = [0; 4];
            word.copy_from_slice(&bytes[at..at + 4]);
            u32::from_be_bytes(word)
        };
        let scheme = Scheme::from_codec(bytes[28], bytes[29].into(), bytes[30].into())?;
        let (volume, session) = (VolumeId(u32_at(0)), SessionId(u64_at(4)));
        Self::new(volume, session, u64_at(12), GroupId(u32_at(20)), u32_at(24), scheme)
    }
}

impl fmt::Display for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { volume, session, sequence, group, len, scheme } = self;
        write!(f, "{volume}-{session}-{sequence}-{group}-{len}-{scheme}")
    }
}

impl fmt::Debug for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is not a blob id.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a blob id: {0:?} (expected VOLUME-SESSION-SEQUENCE-GROUP-LENGTH-SCHEME, as in 1-3-17-0-4096-ec(4,2))"
)]
pub struct NotABlobId(String);

impl FromStr for BlobId {
    type Err = NotABlobId;

    fn from_str(text: &str) -> Result<Self, NotABlobId> {
        let parse = || {
            let mut fields = text.splitn(6, '-');
            Self::new(
                VolumeId(fields.next()?.parse().ok()?),
                SessionId(fields.next()?.parse().ok()?),
                fields.next()?.parse().ok()?,
                GroupId(fields.next()?.parse().ok()?),
                fields.next()?.parse().ok()?,
                fields.next()?.parse().ok()?,
            )
        };
        parse().ok_or_else(|| NotABlobId(text.to_owned()))
    }
}

/// One part of one blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartKey {
    /// The blob.
    pub blob: BlobId,
    /// Which of its parts.
    pub part: PartIndex,
}

impl PartKey {
    /// `None` when the blob has no such part.
    pub fn new(blob: BlobId, part: usize) -> Option<Self> {
        (part < blob.scheme().parts()).then_some(())?;
        Some(Self { blob, part: PartIndex::new(part)? })
    }
}

impl fmt::Display for PartKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.blob, self.part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_blob_id_survives_bytes_and_text(
            volume: u32, session: u64, sequence: u64, group: u32, len in 1..=MAX_BLOB, k in 1usize..17, m in 0usize..9,
        ) {
            let scheme = Scheme::erasure(k, m).or(Scheme::copies(m + 1)).expect("valid");
            let (volume, session) = (VolumeId(volume), SessionId(session));
            let id = BlobId::new(volume, session, sequence, GroupId(group), len, scheme)
                .expect("in range");
            prop_assert_eq!((id.group(), id.len()), (GroupId(group), len));
            prop_assert_eq!(BlobId::from_bytes(&id.to_bytes()), Some(id));
            prop_assert_eq!(id.to_string().parse(), Ok(id));
        }

        #[test]
        fn any_bytes_are_an_id_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Some(id) = BlobId::from_bytes(&bytes) {
                prop_assert_eq!(&id.to_bytes()[..], &bytes[..]);
            }
        }
    }

    #[test]
    fn ids_of_one_session_are_ordered_by_sequence() {
        let id = |sequence, len| {
            let scheme = Scheme::copies(3).unwrap();
            BlobId::new(VolumeId(1), SessionId(2), sequence, GroupId(9), len, scheme).unwrap()
        };
        assert!(id(1, 900).to_bytes() < id(2, 5).to_bytes());
        assert!(id(255, 9).to_bytes() < id(256, 5).to_bytes());
    }

    #[test]
    fn part_sets() {
        let mut set = PartSet::first(3);
        set.remove(PartIndex::new(1).unwrap());
        set.insert(PartIndex::new(31).unwrap());
        assert_eq!(set.iter().map(PartIndex::get).collect::<Vec<_>>(), [0, 2, 31]);
        assert_eq!(PartSet::first(32).len(), 32);
        assert_eq!(set.minus(PartSet::first(1)).len(), 2);
    }
}
