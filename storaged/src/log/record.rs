//! The record: how one put, delete or other fact lies in a block file.
//!
//! A record starts on a 4 KiB boundary with a header and the CRC-32C table of its payload. A payload
//! of less than 64 KiB follows at once if that saves a block; any other starts at the next 4 KiB
//! boundary, so that it can be written from where it lies in memory, read in pieces, and given back
//! alone. Zeros pad the rest. So the place of every payload byte is a function of the payload's
//! length.
//!
//! ```text
//! offset  size  field        meaning (numbers are little endian)
//! 0       8     magic        b"ASHLREC\n"
//! 8       2     version      5
//! 10      1     kind         1 put, 2 delete, 3 forget, 4 slot, 5 lost, 6 fence, 7 drop, 8 rebuilt
//! 11      1     part         of a put or lost; else 0
//! 12      4     slot         number of the slot on the disk
//! 16      16    disk         id of the disk: a record that went astray is not believed
//! 32      8     sequence     rises with every record of the disk, never used twice
//! 40      4     file         number of the block file
//! 44      4     block        where the record starts, in 4 KiB blocks
//! 48      4     batch        where the batch starts that the record was written in
//! 52      4     payload_len
//! 56      31    blob         of a put or lost; else zeros
//! 87      1     reserved     zero
//! 88      4     table_crc    CRC-32C of the table
//! 92      4     header_crc   CRC-32C of bytes 0 to 91
//! 96      4*n   table        CRC-32C of each 64 KiB of payload
//! ```
//!
//! The payload of a put is the part. Delete and forget carry blob ids, 31 bytes each; drop carries a blob id and
//! the number of a part (1 byte) for each part; slot the group (4 bytes), its generation (8 bytes) and whether the
//! slot is rebuilding (1 byte, 0 or 1); fence the volume (4 bytes) that is promised, the epoch (8 bytes) and the
//! token of the owner (16 bytes); rebuilt the volume (4 bytes). Lost stands for a put that damage has taken: its
//! payload is as long, and zeros, so that the part stays known, corrupt, and accounted for as before.
//!
//! Invariants:
//! * Nothing of a record is believed before [`parse`] has checked header and table.
//! * Payload bytes are believed only after the check of their block.

use bytes::Bytes;
use proto::checksum::{Checked, block_count};
use proto::id::{
    BLOB_ID_LEN, BlobId, DiskId, Epoch, Generation, GroupId, OwnerId, PartKey, SlotId, VolumeId,
};
use proto::limits::{DISK_BLOCK, MAX_BLOBS_PER_REQUEST, MAX_PART, RECORD_HEADER};
pub(crate) use proto::limits::{footprint, payload_offset};
use proto::part_store::Issuer;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const MAGIC: [u8; 8] = *b"ASHLREC\n";
const VERSION: u16 = 5;
const HEADER: usize = size_of::<Header>();

/// Disk space of the largest record, in bytes.
pub(crate) const MAX_RECORD: u64 = MAX_PART as u64 + DISK_BLOCK as u64;

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    version: U16,
    kind: u8,
    part: u8,
    slot: U32,
    disk: [u8; 16],
    sequence: U64,
    file: U32,
    block: U32,
    batch: U32,
    payload_len: U32,
    blob: [u8; BLOB_ID_LEN],
    reserved: u8,
    table_crc: U32,
    header_crc: U32,
}

// The layout is a promise to disks already written: changing it must not compile.
const _: () = assert!(size_of::<Header>() == RECORD_HEADER);
const _: () = assert!(std::mem::offset_of!(Header, sequence) == 32);
const _: () = assert!(std::mem::offset_of!(Header, blob) == 56);
const _: () = assert!(std::mem::offset_of!(Header, header_crc) == 92);
// Header and table of the largest part fit into the first block.
const _: () = assert!(HEADER + 4 * (MAX_PART as usize).div_ceil(65536) <= DISK_BLOCK);

/// A place on a disk: a block file and a 4 KiB block in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place {
    /// Number of the block file.
    pub(crate) file: u32,
    /// Number of the block in it.
    pub(crate) block: u32,
}

impl Place {
    /// Both numbers in one, ordered alike.
    pub(crate) fn pack(self) -> u64 {
        u64::from(self.file) << 32 | u64::from(self.block)
    }

    /// The other way round.
    pub(crate) fn unpack(packed: u64) -> Self {
        Self { file: (packed >> 32) as u32, block: packed as u32 }
    }
}

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// The payload is this part.
    Put(PartKey),
    /// The blobs in the payload are deleted.
    Delete,
    /// The deletes of the blobs in the payload need not be remembered.
    Forget,
    /// The slot belongs to the group in the payload, at its generation, and serves or not.
    Slot,
    /// This part was here, and its bytes are lost.
    Lost(PartKey),
    /// The volume in the payload is promised.
    Fence,
    /// The parts in the payload are taken away; their blobs are not deleted.
    Drop,
    /// The slot holds all that it should of the volume in the payload.
    Rebuilt,
}

/// A checked header with its table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// What it says.
    pub(crate) what: What,
    /// The slot it speaks of.
    pub(crate) slot: SlotId,
    /// Its place in the order of all records.
    pub(crate) sequence: u64,
    /// Block where its batch starts.
    pub(crate) batch: u32,
    /// Payload bytes.
    pub(crate) payload_len: u32,
    /// CRC-32C of each 64 KiB of payload.
    pub(crate) table: Vec<u32>,
}

/// Where and when a record is written.
#[derive(Clone, Copy)]
pub(crate) struct Stamp {
    /// The disk.
    pub(crate) disk: DiskId,
    /// The place.
    pub(crate) place: Place,
    /// Block where the batch starts.
    pub(crate) batch: u32,
    /// The sequence number.
    pub(crate) sequence: u64,
}

/// Why bytes are not a record that may be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadRecord {
    /// Not a record at all; the usual end of a log.
    #[error("no record")]
    Magic,
    /// A torn or rotten header.
    #[error("the header's checksum does not match")]
    Header,
    /// A torn or rotten table.
    #[error("the checksum table's checksum does not match")]
    Table,
    /// A record of another disk or place.
    #[error("the record belongs elsewhere")]
    Astray,
    /// Intact but without meaning for this program.
    #[error("the record makes no sense to this version")]
    Meaning,
}

/// Blocks that a record takes on disk.
pub(crate) fn footprint_blocks(payload_len: u32) -> u32 {
    (footprint(payload_len) / DISK_BLOCK as u64) as u32
}

/// Writes header and table into the zeroed head of a record: its first block, or all of it if the
/// payload follows at once; then the payload too.
pub(crate) fn encode(head: &mut [u8], stamp: Stamp, slot: SlotId, what: What, payload: &Checked) {
    let checks = payload.checks();
    let len = payload.data().len() as u32;
    for (out, check) in head[HEADER..].chunks_exact_mut(4).zip(checks) {
        out.copy_from_slice(&check.to_le_bytes());
    }
    let (kind, part, blob) = match what {
        What::Put(key) => (1, key.part.get() as u8, key.blob.to_bytes()),
        What::Delete => (2, 0, [0; BLOB_ID_LEN]),
        What::Forget => (3, 0, [0; BLOB_ID_LEN]),
        What::Slot => (4, 0, [0; BLOB_ID_LEN]),
        What::Lost(key) => (5, key.part.get() as u8, key.blob.to_bytes()),
        What::Fence => (6, 0, [0; BLOB_ID_LEN]),
        What::Drop => (7, 0, [0; BLOB_ID_LEN]),
        What::Rebuilt => (8, 0, [0; BLOB_ID_LEN]),
    };
    let mut header = Header {
        magic: MAGIC,
        version: VERSION.into(),
        kind,
        part,
        slot: slot.0.into(),
        disk: *stamp.disk.as_bytes(),
        sequence: stamp.sequence.into(),
        file: stamp.place.file.into(),
        block: stamp.place.block.into(),
        batch: stamp.batch.into(),
        payload_len: len.into(),
        blob,
        reserved: 0,
        table_crc: crc32c::crc32c(&head[HEADER..HEADER + 4 * checks.len()]).into(),
        header_crc: 0.into(),
    };
    header.header_crc = header.crc().into();
    head[..HEADER].copy_from_slice(header.as_bytes());
    let offset = payload_offset(len);
    if offset < DISK_BLOCK {
        head[offset..offset + len as usize].copy_from_slice(payload.data());
    }
}

impl Header {
    fn crc(&self) -> u32 {
        crc32c::crc32c(&self.as_bytes()[..HEADER - 4])
    }

    fn part(&self) -> Option<PartKey> {
        let key = PartKey::new(BlobId::from_bytes(&self.blob)?, self.part.into())?;
        (key.blob.part_len() == self.payload_len.get()).then_some(key)
    }

    fn what(&self) -> Option<What> {
        match self.kind {
            1 => self.part().map(What::Put),
            5 => self.part().map(What::Lost),
            2 => Some(What::Delete),
            3 => Some(What::Forget),
            4 => Some(What::Slot),
            6 => Some(What::Fence),
            7 => Some(What::Drop),
            8 => Some(What::Rebuilt),
            _ => None,
        }
    }
}

/// Turns the first block of a record into facts, or says why not.
pub(crate) fn parse(block: &[u8], disk: DiskId, place: Place) -> Result<Entry, BadRecord> {
    let (header, rest) = Header::read_from_prefix(block).map_err(|_| BadRecord::Magic)?;
    if header.magic != MAGIC {
        return Err(BadRecord::Magic);
    }
    if header.crc() != header.header_crc.get() {
        return Err(BadRecord::Header);
    }
    let here = (header.file.get(), header.block.get()) == (place.file, place.block);
    if header.disk != *disk.as_bytes() || !here {
        return Err(BadRecord::Astray);
    }
    let payload_len = header.payload_len.get();
    if header.version.get() != VERSION || payload_len == 0 || payload_len > MAX_PART {
        return Err(BadRecord::Meaning);
    }
    let what = header.what().ok_or(BadRecord::Meaning)?;
    let table = rest.get(..4 * block_count(payload_len)).ok_or(BadRecord::Table)?;
    if crc32c::crc32c(table) != header.table_crc.get() {
        return Err(BadRecord::Table);
    }
    let table = table.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    Ok(Entry {
        what,
        slot: SlotId(header.slot.get()),
        sequence: header.sequence.get(),
        batch: header.batch.get(),
        payload_len,
        table: table.collect(),
    })
}

/// The payload of a delete or forget record.
pub(crate) fn encode_blobs(blobs: &[BlobId]) -> Checked {
    assert!((1..=MAX_BLOBS_PER_REQUEST).contains(&blobs.len()), "a batch has 1 to 1024 blobs");
    let bytes: Vec<u8> = blobs.iter().flat_map(BlobId::to_bytes).collect();
    Checked::compute(bytes.into())
}

/// Reads it back; bytes that are not ids are left out.
pub(crate) fn decode_blobs(payload: &[u8]) -> Vec<BlobId> {
    payload.chunks_exact(BLOB_ID_LEN).filter_map(BlobId::from_bytes).collect()
}

/// Bytes of a part in the payload of a drop record.
pub(crate) const PART_LEN: usize = BLOB_ID_LEN + 1;

/// The payload of a drop record.
pub(crate) fn encode_parts(parts: &[PartKey]) -> Checked {
    assert!((1..=MAX_BLOBS_PER_REQUEST).contains(&parts.len()), "a batch has 1 to 1024 parts");
    let mut bytes = Vec::with_capacity(parts.len() * PART_LEN);
    for key in parts {
        bytes.extend(key.blob.to_bytes());
        bytes.push(key.part.get() as u8);
    }
    Checked::compute(bytes.into())
}

/// Reads it back; bytes that name no part are left out.
pub(crate) fn decode_parts(payload: &[u8]) -> Vec<PartKey> {
    let one = |bytes: &[u8]| {
        PartKey::new(BlobId::from_bytes(&bytes[..BLOB_ID_LEN])?, bytes[BLOB_ID_LEN].into())
    };
    payload.chunks_exact(PART_LEN).filter_map(one).collect()
}

/// What a slot knows of its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Membership {
    /// The group.
    pub(crate) group: GroupId,
    /// The newest generation of it that the slot was addressed under.
    pub(crate) generation: Generation,
    /// What the slot does not hold it might have had.
    pub(crate) rebuilding: bool,
}

/// Bytes of the payload of a slot record.
pub(crate) const SLOT_LEN: usize = 13;

/// The payload of a slot record.
pub(crate) fn encode_slot(member: Membership) -> Checked {
    let mut bytes = Vec::with_capacity(SLOT_LEN);
    bytes.extend(member.group.0.to_le_bytes());
    bytes.extend(member.generation.0.to_le_bytes());
    bytes.push(member.rebuilding.into());
    Checked::compute(Bytes::from(bytes))
}

/// Reads it back.
pub(crate) fn decode_slot(payload: &[u8]) -> Option<Membership> {
    let payload: &[u8; SLOT_LEN] = payload.try_into().ok()?;
    let group = u32::from_le_bytes(payload[..4].try_into().ok()?);
    let generation = u64::from_le_bytes(payload[4..12].try_into().ok()?);
    let rebuilding = payload[12] != 0;
    Some(Membership { group: GroupId(group), generation: Generation(generation), rebuilding })
}

/// Bytes of the payload of a rebuilt record.
pub(crate) const REBUILT_LEN: usize = 4;

/// The payload of a rebuilt record.
pub(crate) fn encode_rebuilt(volume: VolumeId) -> Checked {
    Checked::compute(Bytes::copy_from_slice(&volume.0.to_le_bytes()))
}

/// Reads it back.
pub(crate) fn decode_rebuilt(payload: &[u8]) -> Option<VolumeId> {
    Some(VolumeId(u32::from_le_bytes(payload.try_into().ok()?)))
}

/// Bytes of the payload of a fence record.
pub(crate) const FENCE_LEN: usize = 28;

/// The payload of a fence record.
pub(crate) fn encode_fence(volume: VolumeId, promise: Issuer) -> Checked {
    let mut bytes = Vec::with_capacity(FENCE_LEN);
    bytes.extend(volume.0.to_le_bytes());
    bytes.extend(promise.epoch.0.to_le_bytes());
    bytes.extend(promise.owner.as_bytes());
    Checked::compute(Bytes::from(bytes))
}

/// Reads it back.
pub(crate) fn decode_fence(payload: &[u8]) -> Option<(VolumeId, Issuer)> {
    let payload: &[u8; FENCE_LEN] = payload.try_into().ok()?;
    let volume = u32::from_le_bytes(payload[..4].try_into().ok()?);
    let epoch = u64::from_le_bytes(payload[4..12].try_into().ok()?);
    let owner = OwnerId::from_slice(&payload[12..])?;
    Some((VolumeId(volume), Issuer { epoch: Epoch(epoch), owner }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::id::{SessionId, VolumeId};

    fn disk() -> DiskId {
        "0b6c0000-0000-4000-8000-000000000001".parse().unwrap()
    }

    const PLACE: Place = Place { file: 3, block: 17 };

    fn block(len: u32) -> Vec<u8> {
        let scheme = "copies(3)".parse().unwrap();
        let blob = BlobId::new(VolumeId(1), SessionId(2), 3, GroupId(0), len, scheme).unwrap();
        let key = PartKey::new(blob, 1).unwrap();
        let payload = Checked::compute(vec![0x5a; len as usize].into());
        let stamp = Stamp { disk: disk(), place: PLACE, batch: 16, sequence: 99 };
        let mut block = vec![0; DISK_BLOCK];
        encode(&mut block, stamp, SlotId(4), What::Put(key), &payload);
        block
    }

    #[test]
    fn a_written_record_reads_back() {
        let entry = parse(&block(70_000), disk(), PLACE).unwrap();
        assert_eq!((entry.sequence, entry.batch, entry.payload_len), (99, 16, 70_000));
        assert_eq!(entry.slot, SlotId(4));
        assert_eq!(entry.table.len(), 2);
    }

    #[test]
    fn every_flipped_bit_of_header_and_table_is_noticed() {
        let good = block(200_000);
        for bit in 0..(HEADER + 4 * 4) * 8 {
            let mut rotten = good.clone();
            rotten[bit / 8] ^= 1 << (bit % 8);
            assert!(parse(&rotten, disk(), PLACE).is_err(), "bit {bit} went unnoticed");
        }
    }

    #[test]
    fn a_record_elsewhere_is_not_believed() {
        let good = block(100);
        assert_eq!(parse(&good, DiskId::random(), PLACE), Err(BadRecord::Astray));
        for place in [Place { file: 4, block: 17 }, Place { file: 3, block: 18 }] {
            assert_eq!(parse(&good, disk(), place), Err(BadRecord::Astray));
        }
    }

    #[test]
    fn places_of_payloads() {
        for (len, offset, total) in [
            (1, 100, 4096),
            (3996, 100, 4096),
            (3997, 4096, 8192),
            (4096, 4096, 8192),
            (4132, 100, 8192),
            (8092, 100, 8192),
            (8093, 4096, 12_288),
            (61_532, 100, 61_632_u64.next_multiple_of(4096)),
            (65_536, 4096, 69_632),
            (65_537, 4096, 73_728),
            (70_000, 4096, 77_824),
        ] {
            assert_eq!((payload_offset(len), footprint(len)), (offset, total), "{len}");
        }
        assert_eq!(footprint(MAX_PART), MAX_RECORD);
    }

    /// The golden bytes of format 5. If this fails, the format has changed.
    #[test]
    fn the_format_stays_as_it_was() {
        let hex: String = block(100)[..104].iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(
            hex,
            concat!(
                "4153484c5245430a05000101040000000b6c0000000040008000000000000001",
                "6300000000000000030000001100000010000000640000000000000100000000",
                "0000000200000000000000030000000000000064000102007e0823be43eb695e",
                "194c9abb5a5a5a5a"
            )
        );
    }
}
