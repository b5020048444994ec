//! A manifest: which chunks a snapshot is made of.
//!
//! ```text
//! offset  size  field                                  (numbers are little endian)
//! 0       8     magic      b"ASHLMANI"
//! 8       4     version    1
//! 12      4     volume
//! 16      8     epoch      of the leader that wrote it
//! 24      8     lsn        of the last batch that the snapshot has
//! 32      4     runs
//! 36      4     name       bytes of the volume's name
//! 40      4     crc        CRC-32C of bytes 0 to 39 and of all that follows
//! 44      -     the volume's name; per run, newest first: chunks 4, then per chunk:
//!                 blob id 31, crc 4, key length 1, first key, key length 1, last key
//! ```
//!
//! [`Manifest::decode`] believes no byte before the checksum over all of them was found right.

use proto::id::{BLOB_ID_LEN, BlobId, VolumeId};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::run::{ChunkRef, Run};
use crate::key::Key;

const MAGIC: [u8; 8] = *b"ASHLMANI";
const VERSION: u32 = 1;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Head {
    magic: [u8; 8],
    version: U32,
    volume: U32,
    epoch: U64,
    lsn: U64,
    runs: U32,
    name: U32,
    crc: U32,
}

const HEAD: usize = size_of::<Head>();
const _: () = assert!(HEAD == 44);

/// All keys of a volume at one LSN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    /// What the volume is called.
    pub(crate) name: String,
    /// Of the leader that wrote it.
    pub(crate) epoch: u64,
    /// Of the last batch in it.
    pub(crate) lsn: u64,
    /// Newest first: what one has of a key hides what those behind it have.
    pub(crate) runs: Vec<Run>,
}

/// Why a manifest is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadManifest {
    /// Not what was written.
    #[error("a manifest of metadata is damaged")]
    Damaged,
    /// Written by another version of this software.
    #[error("a manifest of metadata has format {0}, this software reads format {VERSION}")]
    Version(u32),
}

impl Manifest {
    /// Nothing at all: what a volume stands on before its first snapshot.
    pub(crate) fn empty(name: &str) -> Self {
        Self { name: name.to_owned(), epoch: 0, lsn: 0, runs: Vec::new() }
    }

    /// The encoding in the table above.
    pub(crate) fn encode(&self, volume: VolumeId) -> Vec<u8> {
        let mut head = Head {
            magic: MAGIC,
            version: U32::new(VERSION),
            volume: U32::new(volume.0),
            epoch: U64::new(self.epoch),
            lsn: U64::new(self.lsn),
            runs: U32::new(self.runs.len() as u32),
            name: U32::new(self.name.len() as u32),
            crc: U32::ZERO,
        };
        let mut bytes = vec![0; HEAD];
        bytes.extend_from_slice(self.name.as_bytes());
        for run in &self.runs {
            bytes.extend_from_slice(&(run.chunks.len() as u32).to_le_bytes());
            for chunk in run.chunks.iter() {
                bytes.extend_from_slice(&chunk.id.to_bytes());
                bytes.extend_from_slice(&chunk.crc.to_le_bytes());
                for key in [chunk.first, chunk.last] {
                    bytes.push(key.as_bytes().len() as u8);
                    bytes.extend_from_slice(key.as_bytes());
                }
            }
        }
        head.crc = U32::new(checksum(&head, &bytes[HEAD..]));
        bytes[..HEAD].copy_from_slice(head.as_bytes());
        bytes
    }

    /// What the bytes say, or why they say nothing.
    pub(crate) fn decode(bytes: &[u8], volume: VolumeId) -> Result<Self, BadManifest> {
        let damaged = BadManifest::Damaged;
        let (head, rest) = Head::ref_from_prefix(bytes).map_err(|_| damaged)?;
        if head.magic != MAGIC {
            return Err(damaged);
        }
        if head.version.get() != VERSION {
            return Err(BadManifest::Version(head.version.get()));
        }
        if head.volume.get() != volume.0 || checksum(head, rest) != head.crc.get() {
            return Err(damaged);
        }
        let (name, mut rest) = rest.split_at_checked(head.name.get() as usize).ok_or(damaged)?;
        let name = std::str::from_utf8(name).map_err(|_| damaged)?.to_owned();
        let mut runs = Vec::new();
        for _ in 0..head.runs.get() {
            let chunks = u32::from_le_bytes(take(&mut rest).ok_or(damaged)?);
            let mut run = Vec::new();
            for _ in 0..chunks {
                run.push(chunk(&mut rest).ok_or(damaged)?);
            }
            runs.push(Run::new(run).ok_or(damaged)?);
        }
        let manifest = Self { name, epoch: head.epoch.get(), lsn: head.lsn.get(), runs };
        if rest.is_empty() { Ok(manifest) } else { Err(damaged) }
    }

    /// All chunks, of all runs.
    pub(crate) fn chunks(&self) -> impl Iterator<Item = &ChunkRef> {
        self.runs.iter().flat_map(|run| run.chunks.iter())
    }
}

fn checksum(head: &Head, rest: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&head.as_bytes()[..HEAD - 4]), rest)
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*head)
}

fn chunk(bytes: &mut &[u8]) -> Option<ChunkRef> {
    let id = BlobId::from_bytes(&take::<BLOB_ID_LEN>(bytes)?)?;
    let crc = u32::from_le_bytes(take(bytes)?);
    let mut key = || {
        let [len] = take(bytes)?;
        let (key, rest) = bytes.split_at_checked(len.into())?;
        *bytes = rest;
        Key::from_bytes(key)
    };
    Some(ChunkRef { id, crc, first: key()?, last: key()? })
}

#[cfg(test)]
mod tests {
    use proto::scheme::Scheme;

    use super::*;
    use crate::volume_store::names::{Namer, Role};

    fn manifest() -> Manifest {
        let namer = Namer {
            volume: VolumeId(9),
            group: proto::id::GroupId(0),
            epoch: 3,
            scheme: Scheme::copies(3).unwrap(),
        };
        let chunk = |n: u64| ChunkRef {
            id: namer.name(Role::Chunk, n, 1000 + n as usize).unwrap(),
            crc: n as u32,
            first: Key::tag(b'I').with(2 * n),
            last: Key::tag(b'I').with(2 * n + 1),
        };
        let runs = [0..2, 0..0, 5..9].map(|chunks| Run::new(chunks.map(chunk).collect()).unwrap());
        Manifest { name: "home".to_owned(), epoch: 3, lsn: 77, runs: runs.into() }
    }

    #[test]
    fn it_is_read_back_and_nothing_that_changed_is_believed() {
        let bytes = manifest().encode(VolumeId(9));
        assert_eq!(Manifest::decode(&bytes, VolumeId(9)), Ok(manifest()));
        assert!(Manifest::decode(&bytes, VolumeId(8)).is_err());
        for bit in 0..bytes.len() * 8 {
            let mut rotten = bytes.clone();
            rotten[bit / 8] ^= 1 << (bit % 8);
            assert!(Manifest::decode(&rotten, VolumeId(9)).is_err(), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(Manifest::decode(&bytes[..len], VolumeId(9)).is_err(), "cut at {len}");
        }
    }
}
