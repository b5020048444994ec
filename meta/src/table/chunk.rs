//! One chunk: a sorted run of keys with their values, as immutable bytes.
//!
//! A chunk is what snapshots are made of. It lies in the store as one blob, and in the cache of a
//! machine as a file of the same bytes. It is cut into blocks that are read, checked and remembered
//! one by one, so that a lookup reads one block and not the chunk.
//!
//! ```text
//! blocks    one after another, of about BLOCK bytes:
//!           entries: key length 1, key, value length 4 (2^32 - 1: removed), value; all rising
//! index     per block: length 4, CRC-32C of the block 4, key length 1, its first key
//! footer    (numbers are little endian)
//!   offset  size  field
//!   0       8     magic      b"ASHLCHNK"
//!   8       4     version    1
//!   12      4     volume
//!   16      4     blocks
//!   20      4     index      bytes of the index
//!   24      4     entries
//!   28      4     crc        CRC-32C of the index and of bytes 0 to 27
//! ```
//!
//! Invariants:
//! * No byte of a chunk is believed before the checksum over it was found right: the manifest has that of
//!   the footer, the footer that of the index, the index that of each block.
//! * Keys rise strictly, within a block and from block to block; [`Block::parse`] checks it.

use std::ops::Range;

use bytes::{Buf, Bytes};
use proto::id::VolumeId;
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::engine::Value;
use crate::key::Key;

/// A block is closed once it has so many bytes.
const BLOCK: usize = 16 << 10;
/// A chunk is closed once it has so many bytes; one entry more fits in the largest blob.
pub(crate) const CHUNK: usize = 4 << 20;
/// Bytes of the footer.
pub(crate) const FOOTER: usize = size_of::<Footer>();
const MAGIC: [u8; 8] = *b"ASHLCHNK";
const VERSION: u32 = 1;
const REMOVED: u32 = u32::MAX;
/// Bytes of an entry of the index before its key.
const INDEX_ENTRY: usize = 9;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Footer {
    magic: [u8; 8],
    version: U32,
    volume: U32,
    blocks: U32,
    index: U32,
    entries: U32,
    crc: U32,
}

const _: () = assert!(size_of::<Footer>() == 32);

/// Why the bytes of a chunk are not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadChunk {
    /// Not what was written.
    #[error("a chunk of metadata is damaged: {0}")]
    Damaged(&'static str),
    /// Written by another version of this software.
    #[error("a chunk of metadata has format {0}, this software reads format {VERSION}")]
    Version(u32),
}

/// Gathers entries into chunks.
pub(crate) struct Builder {
    volume: VolumeId,
    bytes: Vec<u8>,
    index: Vec<u8>,
    /// Where the open block begins.
    block: usize,
    /// Where its entry of the index begins.
    index_entry: usize,
    first: Option<Key>,
    blocks: u32,
    entries: u32,
    last: Option<Key>,
}

/// A chunk that was built.
pub(crate) struct Built {
    /// Its bytes.
    pub(crate) bytes: Bytes,
    /// Its least key.
    pub(crate) first: Key,
    /// Its greatest.
    pub(crate) last: Key,
    /// The checksum that its footer ends with.
    pub(crate) crc: u32,
}

impl Builder {
    /// An empty one.
    pub(crate) fn new(volume: VolumeId) -> Self {
        Self {
            volume,
            bytes: Vec::new(),
            index: Vec::new(),
            block: 0,
            index_entry: 0,
            first: None,
            blocks: 0,
            entries: 0,
            last: None,
        }
    }

    /// Bytes so far.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() + self.index.len()
    }

    /// Adds an entry; `None`: the key is removed.
    ///
    /// # Panics
    /// When the key is not greater than the one before.
    pub(crate) fn add(&mut self, key: Key, value: Option<&[u8]>) {
        assert!(self.last.is_none_or(|last| last < key), "keys of a chunk rise");
        if self.bytes.len() == self.block {
            self.open_block(&key);
        }
        put_entry(&mut self.bytes, &key, value);
        self.first.get_or_insert(key);
        self.last = Some(key);
        self.entries += 1;
        if self.bytes.len() - self.block >= BLOCK {
            self.close_block();
        }
    }

    /// Room for the block's length and checksum, then its first key.
    fn open_block(&mut self, key: &Key) {
        self.index_entry = self.index.len();
        self.index.extend_from_slice(&[0; INDEX_ENTRY - 1]);
        self.index.push(key.as_bytes().len() as u8);
        self.index.extend_from_slice(key.as_bytes());
    }

    fn close_block(&mut self) {
        let block = &self.bytes[self.block..];
        let entry = &mut self.index[self.index_entry..];
        entry[..4].copy_from_slice(&(block.len() as u32).to_le_bytes());
        entry[4..8].copy_from_slice(&crc32c::crc32c(block).to_le_bytes());
        self.block = self.bytes.len();
        self.blocks += 1;
    }

    /// The chunk, and an empty builder; `None` when nothing was added.
    pub(crate) fn finish(&mut self) -> Option<Built> {
        let mut done = std::mem::replace(self, Self::new(self.volume));
        let (first, last) = (done.first?, done.last?);
        if done.bytes.len() > done.block {
            done.close_block();
        }
        let mut footer = Footer {
            magic: MAGIC,
            version: U32::new(VERSION),
            volume: U32::new(done.volume.0),
            blocks: U32::new(done.blocks),
            index: U32::new(done.index.len() as u32),
            entries: U32::new(done.entries),
            crc: U32::ZERO,
        };
        let crc = footer_crc(&done.index, &footer);
        footer.crc = U32::new(crc);
        done.bytes.extend_from_slice(&done.index);
        done.bytes.extend_from_slice(footer.as_bytes());
        Some(Built { bytes: done.bytes.into(), first, last, crc })
    }
}

fn footer_crc(index: &[u8], footer: &Footer) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(index), &footer.as_bytes()[..FOOTER - 4])
}

/// Appends one entry.
pub(crate) fn put_entry(out: &mut Vec<u8>, key: &Key, value: Option<&[u8]>) {
    let key = key.as_bytes();
    out.push(key.len() as u8);
    out.extend_from_slice(key);
    let len = value.map_or(REMOVED, |value| value.len() as u32);
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(value.unwrap_or_default());
}

/// The entry at the start of `bytes`, and takes it off; `None` where it makes no sense.
pub(crate) fn take_entry<'a>(bytes: &mut &'a [u8]) -> Option<(Key, Option<&'a [u8]>)> {
    let (len, rest) = bytes.split_first()?;
    let (key, rest) = rest.split_at_checked(usize::from(*len))?;
    let (len, mut rest) = rest.split_first_chunk::<4>()?;
    let value = match u32::from_le_bytes(*len) {
        REMOVED => None,
        len => {
            let (value, behind) = rest.split_at_checked(len as usize)?;
            rest = behind;
            Some(value)
        }
    };
    *bytes = rest;
    Some((Key::from_bytes(key)?, value))
}

/// Where the blocks of a chunk are, and with which key each begins.
pub(crate) struct Index {
    firsts: Vec<Key>,
    /// Where each block begins, and where the last one ends.
    offsets: Vec<u32>,
    crcs: Vec<u32>,
}

impl Index {
    /// Bytes that the end of a chunk takes, index and footer: of the footer alone. The whole chunk has
    /// `len` bytes.
    pub(crate) fn len_of(footer: &[u8], volume: VolumeId, len: u32) -> Result<u32, BadChunk> {
        let footer = Self::footer(footer, volume)?;
        let end = footer.index.get().checked_add(FOOTER as u32);
        end.filter(|end| *end <= len).ok_or(BadChunk::Damaged("its index is longer than it is"))
    }

    fn footer(bytes: &[u8], volume: VolumeId) -> Result<&Footer, BadChunk> {
        let footer = Footer::ref_from_bytes(bytes).map_err(|_| BadChunk::Damaged("too short"))?;
        if footer.magic != MAGIC {
            return Err(BadChunk::Damaged("no chunk at all"));
        }
        if footer.version.get() != VERSION {
            return Err(BadChunk::Version(footer.version.get()));
        }
        if footer.volume.get() != volume.0 {
            return Err(BadChunk::Damaged("another volume's"));
        }
        Ok(footer)
    }

    /// From index and footer, the end of a chunk of `len` bytes whose footer must end with `crc`.
    pub(crate) fn parse(
        end: &[u8],
        volume: VolumeId,
        len: u32,
        crc: u32,
    ) -> Result<Self, BadChunk> {
        let at = end.len().checked_sub(FOOTER).ok_or(BadChunk::Damaged("too short"))?;
        let (index, footer) = end.split_at(at);
        let footer = Self::footer(footer, volume)?;
        let right = footer.crc == crc && footer_crc(index, footer) == crc;
        if index.len() != footer.index.get() as usize || !right {
            return Err(BadChunk::Damaged("its index"));
        }
        let nonsense = BadChunk::Damaged("its index makes no sense");
        let (mut firsts, mut offsets, mut crcs) = (Vec::new(), vec![0], Vec::new());
        let (mut rest, mut offset) = (index, 0u32);
        for _ in 0..footer.blocks.get() {
            let (bytes, behind) = rest.split_first_chunk::<4>().ok_or(nonsense)?;
            let (crc, behind) = behind.split_first_chunk::<4>().ok_or(nonsense)?;
            let (key_len, behind) = behind.split_first().ok_or(nonsense)?;
            let (key, behind) = behind.split_at_checked(usize::from(*key_len)).ok_or(nonsense)?;
            rest = behind;
            firsts.push(Key::from_bytes(key).ok_or(nonsense)?);
            offset = offset.checked_add(u32::from_le_bytes(*bytes)).ok_or(nonsense)?;
            offsets.push(offset);
            crcs.push(u32::from_le_bytes(*crc));
        }
        let whole = rest.is_empty()
            && u64::from(offset) + end.len() as u64 == u64::from(len)
            && firsts.is_sorted_by(|a, b| a < b)
            && !firsts.is_empty();
        if whole { Ok(Self { firsts, offsets, crcs }) } else { Err(nonsense) }
    }

    /// What a manifest says of a chunk that is all here and as it was written: its checksum, its least key and its greatest.
    pub(crate) fn words_of(chunk: &Bytes, volume: VolumeId) -> Result<(u32, Key, Key), BadChunk> {
        let short = BadChunk::Damaged("too short");
        let len = u32::try_from(chunk.len()).map_err(|_| BadChunk::Damaged("too long"))?;
        let footer = &chunk[chunk.len().checked_sub(FOOTER).ok_or(short)?..];
        let end = Self::len_of(footer, volume, len)?;
        let crc = Self::footer(footer, volume)?.crc.get();
        let index = Self::parse(&chunk[(len - end) as usize..], volume, len, crc)?;
        if !index.agrees(chunk) {
            return Err(BadChunk::Damaged("a block"));
        }
        let number = index.blocks() - 1;
        let range = index.range(number);
        let block = index.block(number, chunk.slice(range.start as usize..range.end as usize))?;
        let at = block.len().checked_sub(1).ok_or(BadChunk::Damaged("a block is empty"))?;
        Ok((crc, index.firsts[0], block.entry(at).0))
    }

    /// How many blocks there are.
    pub(crate) fn blocks(&self) -> u32 {
        self.firsts.len() as u32
    }

    /// The block that holds the key, if any does.
    pub(crate) fn find(&self, key: &Key) -> u32 {
        self.firsts.partition_point(|first| first <= key).saturating_sub(1) as u32
    }

    /// Where a block's bytes are in the chunk.
    pub(crate) fn range(&self, block: u32) -> Range<u32> {
        self.offsets[block as usize]..self.offsets[block as usize + 1]
    }

    /// A block, from its bytes.
    pub(crate) fn block(&self, block: u32, bytes: Bytes) -> Result<Block, BadChunk> {
        if crc32c::crc32c(&bytes) != self.crcs[block as usize] {
            return Err(BadChunk::Damaged("a block"));
        }
        Block::parse(bytes)
    }

    /// Is every block of a chunk, of which all bytes are here, what was written?
    pub(crate) fn agrees(&self, chunk: &[u8]) -> bool {
        (0..self.blocks()).all(|block| {
            let range = self.range(block);
            let bytes = chunk.get(range.start as usize..range.end as usize);
            bytes.is_some_and(|bytes| crc32c::crc32c(bytes) == self.crcs[block as usize])
        })
    }
}

/// One block, checked.
pub(crate) struct Block {
    bytes: Bytes,
    /// Where each entry begins.
    entries: Vec<u16>,
}

impl Block {
    /// From its bytes, whose checksum was found right.
    pub(crate) fn parse(bytes: Bytes) -> Result<Self, BadChunk> {
        let damaged = BadChunk::Damaged("a block makes no sense");
        let (mut rest, mut entries, mut last) = (&bytes[..], Vec::new(), None);
        while rest.has_remaining() {
            // Only the last entry of a block may be large, so that all begin within 64 KiB.
            entries.push(u16::try_from(bytes.len() - rest.len()).map_err(|_| damaged)?);
            let (key, _) = take_entry(&mut rest).ok_or(damaged)?;
            if last.is_some_and(|last| last >= key) {
                return Err(damaged);
            }
            last = Some(key);
        }
        Ok(Self { bytes, entries })
    }

    /// How many entries it has.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Entry `index`, below [`Block::len`].
    pub(crate) fn entry(&self, index: usize) -> (Key, Option<&[u8]>) {
        let mut bytes = &self.bytes[usize::from(self.entries[index])..];
        take_entry(&mut bytes).expect("the entries of a block were checked")
    }

    /// The first entry that is not below `key`.
    pub(crate) fn seek(&self, key: &Key) -> usize {
        self.entries.partition_point(|at| {
            let at = usize::from(*at);
            let len = usize::from(self.bytes[at]);
            &self.bytes[at + 1..at + 1 + len] < key.as_bytes()
        })
    }

    /// What the block has of a key: `None` nothing, `Some(None)` that it is removed.
    pub(crate) fn get(&self, key: &Key) -> Option<Option<Value>> {
        let index = self.seek(key);
        if index == self.len() {
            return None;
        }
        let (found, value) = self.entry(index);
        (found == *key).then(|| value.map(Value::from))
    }

    /// Bytes of memory that it takes, about.
    pub(crate) fn memory(&self) -> usize {
        self.bytes.len() + self.entries.len() * size_of::<u16>() + 64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const VOLUME: VolumeId = VolumeId(7);

    type Entries = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

    fn build(entries: &Entries) -> Built {
        let mut builder = Builder::new(VOLUME);
        for (key, value) in entries {
            builder.add(Key::from_bytes(key).unwrap(), value.as_deref());
        }
        builder.finish().expect("there are entries")
    }

    type Change = (Key, Option<Vec<u8>>);

    fn open(bytes: &Bytes, crc: u32) -> Result<Vec<Change>, BadChunk> {
        let len = bytes.len() as u32;
        let footer = bytes.len().checked_sub(FOOTER).ok_or(BadChunk::Damaged("short"))?;
        let end = Index::len_of(&bytes[footer..], VOLUME, len)? as usize;
        let index = Index::parse(&bytes[bytes.len() - end..], VOLUME, len, crc)?;
        let mut found = Vec::new();
        for number in 0..index.blocks() {
            let range = index.range(number);
            let block =
                index.block(number, bytes.slice(range.start as usize..range.end as usize))?;
            for at in 0..block.len() {
                let (key, value) = block.entry(at);
                assert_eq!(index.find(&key), number);
                assert_eq!(block.seek(&key), at);
                assert_eq!(block.get(&key), Some(value.map(Value::from)));
                found.push((key, value.map(<[u8]>::to_vec)));
            }
        }
        Ok(found)
    }

    fn entries() -> impl Strategy<Value = Entries> {
        let key = proptest::collection::vec(any::<u8>(), 1..20);
        let value = proptest::option::of(proptest::collection::vec(any::<u8>(), 0..3000));
        proptest::collection::btree_map(key, value, 1..60)
    }

    proptest! {
        #[test]
        fn what_was_added_is_found(entries in entries()) {
            let built = build(&entries);
            let found = open(&built.bytes, built.crc).unwrap();
            let expected: Vec<_> = entries
                .iter()
                .map(|(key, value)| (Key::from_bytes(key).unwrap(), value.clone()))
                .collect();
            prop_assert_eq!((built.first, built.last), (expected[0].0, expected.last().unwrap().0));
            let words = Index::words_of(&built.bytes, VOLUME);
            prop_assert_eq!(words, Ok((built.crc, built.first, built.last)));
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn no_flipped_bit_is_believed() {
        let entry = |n: u32| (n.to_be_bytes().to_vec(), Some(vec![n as u8; 40]));
        let built = build(&(0..500).map(entry).collect());
        assert!(open(&built.bytes, built.crc).is_ok());
        for byte in 0..built.bytes.len() {
            let mut rotten = built.bytes.to_vec();
            rotten[byte] ^= 1 << (byte % 8);
            assert!(open(&rotten.into(), built.crc).is_err(), "byte {byte}");
        }
        for len in 0..built.bytes.len() {
            assert!(open(&built.bytes.slice(..len), built.crc).is_err(), "cut at {len}");
        }
        assert!(open(&built.bytes, built.crc ^ 1).is_err(), "another chunk");
    }
}
