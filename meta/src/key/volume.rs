//! `V`: what the volume is. Written when it is formatted, and when its disks to spare change, or its trash.
//!
//! ```text
//! offset  size  field                                      (little-endian)
//! 0       8     magic      "ashlarmd"
//! 8       4     version    11
//! 12      4     volume     its number within the cluster
//! 16      16    cluster
//! 32      1     codec      of its scheme
//! 33      1     k
//! 34      1     m
//! 35      1     unit       level that copies of the journal lie apart on: 0 disk, 1 host, 2 rack
//! 36      1     whole      levels above of which one member may be silent, a bit for each
//! 37      1     min_spare  disks that can still be lost once a blob is stored
//! 38      1     least_spare  the least that this has ever been
//! 39      1     zero
//! 40      8     seed       of the hashes of names: secret, so that nobody can choose collisions
//! 48      2     trash_days  that what is deleted stays in the trash; 0: it goes at once
//! 50      6     zero
//! 56      -     name
//! ```

use proto::cluster::Level;
use proto::id::{ClusterId, VolumeId};
use proto::scheme::Scheme;
use proxy::{Layout, VolumeRules};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::Key;
use crate::store::VolumeInfo;

const TAG: u8 = b'V';
const MAGIC: [u8; 8] = *b"ashlarmd";
const VERSION: u32 = 11;

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
    /// Days that what is deleted stays in the trash; 0: it goes at once.
    pub(crate) trash_days: u16,
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
    unit: u8,
    whole: u8,
    min_spare: u8,
    least_spare: u8,
    zero: u8,
    seed: U64,
    trash_days: U16,
    zeros: [u8; 6],
}

const _: () = assert!(size_of::<Table>() == 56);

/// Why a record cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadVolume {
    /// Not ours at all.
    #[error(
        "its metadata do not say how it was formatted: they are not those of a volume, or their beginning is lost"
    )]
    Foreign,
    /// Written by another version of this software.
    #[error("its format is version {0}, this software reads version {VERSION}")]
    Version(u32),
}

impl VolumeRecord {
    /// The encoding in the table above.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let VolumeInfo { scheme, rules, .. } = self.info;
        let table = Table {
            magic: MAGIC,
            version: U32::new(VERSION),
            volume: U32::new(self.info.id.0),
            cluster: *self.info.cluster.as_bytes(),
            codec: scheme.codec(),
            k: scheme.data_parts() as u8,
            m: scheme.parity_parts() as u8,
            unit: rules.layout.unit as u8,
            whole: rules.layout.whole,
            min_spare: rules.min_spare,
            least_spare: rules.least_spare,
            zero: 0,
            seed: U64::new(self.seed),
            trash_days: U16::new(self.trash_days),
            zeros: [0; 6],
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
                rules: VolumeRules {
                    layout: Layout {
                        unit: *Level::ALL.get(usize::from(table.unit))?,
                        whole: table.whole,
                    },
                    min_spare: table.min_spare,
                    least_spare: table.least_spare,
                },
            })
        };
        let (seed, trash_days) = (table.seed.get(), table.trash_days.get());
        Ok(Self { info: info().ok_or(BadVolume::Foreign)?, seed, trash_days })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: String, id: u32, seed: u64) -> VolumeRecord {
        let scheme = Scheme::erasure(4, 2).unwrap();
        let cluster = ClusterId::from_slice(&[7; 16]).unwrap();
        let layout = Layout { unit: Level::Host, whole: 4 };
        let rules = VolumeRules::new(layout, 2).with_min_spare(1).with_min_spare(2);
        let info = VolumeInfo { name, id: VolumeId(id), cluster, scheme, rules };
        VolumeRecord { info, seed, trash_days: seed as u16 }
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
        newer[8] = 12;
        assert_eq!(VolumeRecord::decode(&newer), Err(BadVolume::Version(12)));
        let (mut scheme, mut unit) = (good.clone(), good.clone());
        (scheme[33], unit[35]) = (99, 3);
        for bad in [&good[..55], b"", &scheme, &unit] {
            assert_eq!(VolumeRecord::decode(bad), Err(BadVolume::Foreign));
        }
    }
}
