//! `V`: what the volume is. Written once, when it is formatted.
//!
//! ```text
//! offset  size  field                                      (little-endian)
//! 0       8     magic      "ashlarmd"
//! 8       4     version    7
//! 12      4     volume     its number within the cluster
//! 16      16    cluster
//! 32      1     codec      of its scheme
//! 33      1     k
//! 34      1     m
//! 35      1     zero
//! 36      8     seed       of the hashes of names: secret, so that nobody can choose collisions
//! 44      -     name
//! ```

use proto::id::{ClusterId, VolumeId};
use proto::scheme::Scheme;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::Key;
use crate::store::VolumeInfo;

const TAG: u8 = b'V';
const MAGIC: [u8; 8] = *b"ashlarmd";
const VERSION: u32 = 7;

/// Key of the record.
pub(crate) fn key() -> Key {
    Key::tag(TAG)
}

/// The record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VolumeRecord {
    /// What users know.
    pub(crate) info: VolumeInfo,
    /// Seed of the hashes of names.
    pub(crate) seed: u64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Table {
    magic: [u8; 8],
    version: U32,
    volume: U32,
    cluster: [u8; 16],
    codec: u8,
    k: u8,
    m: u8,
    zero: u8,
    seed: U64,
}

const _: () = assert!(size_of::<Table>() == 44);

/// Why a record cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadVolume {
    /// Not ours at all.
    #[error("it is not the metadata of a volume")]
    Foreign,
    /// Written by another version of this software.
    #[error("its format is version {0}, this software reads version {VERSION}")]
    Version(u32),
}

impl VolumeRecord {
    /// The encoding in the table above.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let scheme = self.info.scheme;
        let table = Table {
            magic: MAGIC,
            version: U32::new(VERSION),
            volume: U32::new(self.info.id.0),
            cluster: *self.info.cluster.as_bytes(),
            codec: scheme.codec(),
            k: scheme.data_parts() as u8,
            m: scheme.parity_parts() as u8,
            zero: 0,
            seed: U64::new(self.seed),
        };
        [table.as_bytes(), self.info.name.as_bytes()].concat()
    }

    /// What the bytes say, or why they say nothing.
    pub(crate) fn decode(value: &[u8]) -> Result<Self, BadVolume> {
        let (table, name) = Table::read_from_prefix(value).map_err(|_| BadVolume::Foreign)?;
        if table.magic != MAGIC {
            return Err(BadVolume::Foreign);
        }
        if table.version.get() != VERSION {
            return Err(BadVolume::Version(table.version.get()));
        }
        let info = || {
            Some(VolumeInfo {
                name: std::str::from_utf8(name).ok()?.to_owned(),
                id: VolumeId(table.volume.get()),
                cluster: ClusterId::from_slice(&table.cluster)?,
                scheme: Scheme::from_codec(table.codec, table.k.into(), table.m.into())?,
            })
        };
        Ok(Self { info: info().ok_or(BadVolume::Foreign)?, seed: table.seed.get() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: String, id: u32, seed: u64) -> VolumeRecord {
        let scheme = Scheme::erasure(4, 2).unwrap();
        let cluster = ClusterId::from_slice(&[7; 16]).unwrap();
        VolumeRecord { info: VolumeInfo { name, id: VolumeId(id), cluster, scheme }, seed }
    }

    proptest::proptest! {
        #[test]
        fn it_is_read_back(name in "[a-z0-9._-]{1,64}", id: u32, seed: u64) {
            let record = record(name, id, seed);
            proptest::prop_assert_eq!(VolumeRecord::decode(&record.encode()), Ok(record));
        }
    }

    #[test]
    fn what_is_not_ours_is_refused_with_a_reason() {
        let good = record("home".to_owned(), 1, 2).encode();
        let mut newer = good.clone();
        newer[8] = 9;
        assert_eq!(VolumeRecord::decode(&newer), Err(BadVolume::Version(9)));
        let mut scheme = good.clone();
        scheme[33] = 99;
        for bad in [&good[..43], b"", &scheme] {
            assert_eq!(VolumeRecord::decode(bad), Err(BadVolume::Foreign));
        }
    }
}
