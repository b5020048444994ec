//! What is read from a disk, to be tried with whatever a disk may have made of it: see [`proto::decoders`].

use proto::checksum::{Checked, block_count};
use proto::decoders::{Decoder, a_blob, unsealed};
use proto::id::{ClusterId, DiskId, PartKey, SlotId};
use proto::limits::{DISK_BLOCK, RECORD_HEADER};

use crate::format::superblock::Superblock;
use crate::log::record::{self, Place, Stamp, What};
use crate::scrub::position::{Phase, Position};

/// Those of this crate.
pub const DECODERS: &[Decoder] = &[
    Decoder {
        name: "record",
        decode: read_record,
        example: a_record,
        seal: |bytes| seal_record(bytes),
    },
    Decoder { name: "payloads", decode: read_payloads, example: payload, seal: unsealed },
    Decoder {
        name: "superblock",
        decode: read_superblock,
        example: a_superblock,
        seal: |bytes| seal(bytes, 64),
    },
    Decoder {
        name: "scrub's position",
        decode: read_position,
        example: a_position,
        seal: |bytes| {
            let at = bytes.len().saturating_sub(4);
            seal(bytes, at);
        },
    },
];

const PLACE: Place = Place { file: 3, block: 17 };

/// The disk of all examples.
fn disk() -> DiskId {
    DiskId::from_slice(&[7; 16]).expect("16 bytes")
}

fn a_record() -> Vec<u8> {
    let key = PartKey::new(a_blob(70_000), 1).expect("a valid part");
    let payload = Checked::compute(vec![0x5a; 70_000].into());
    let stamp = Stamp { disk: disk(), place: PLACE, batch: 16, sequence: 99 };
    let mut block = vec![0; DISK_BLOCK];
    record::encode(&mut block, stamp, SlotId(4), What::Put(key), &payload);
    block
}

fn read_record(bytes: &[u8]) {
    // A record whose header can be read has a table as long as its payload.
    if let Ok(entry) = record::parse(bytes, disk(), PLACE) {
        let _ = record::footprint_blocks(entry.payload_len);
    }
}

/// Puts the checksum of what is before it to `at`.
fn seal(bytes: &mut [u8], at: usize) {
    if let Some((covered, rest)) = bytes.split_at_mut_checked(at)
        && let Some(crc) = rest.first_chunk_mut::<4>()
    {
        *crc = crc32c::crc32c(covered).to_le_bytes();
    }
}

/// The checksum of the table, then that of the header.
fn seal_record(bytes: &mut [u8]) {
    let Some(len) = bytes.get(52..56) else { return };
    let len = u32::from_le_bytes(len.try_into().expect("four bytes"));
    let table = 4 * block_count(len);
    if let Some(table) = bytes.get(RECORD_HEADER..RECORD_HEADER + table) {
        let crc = crc32c::crc32c(table);
        bytes[RECORD_HEADER - 8..RECORD_HEADER - 4].copy_from_slice(&crc.to_le_bytes());
    }
    seal(bytes, RECORD_HEADER - 4);
}

fn a_superblock() -> Vec<u8> {
    let cluster = ClusterId::from_slice(&[9; 16]).expect("16 bytes");
    Superblock { cluster, disk: disk(), capacity: 1 << 40, block_file: 1 << 28 }.one_copy(0)
}

fn read_superblock(bytes: &[u8]) {
    let _ = Superblock::decode(bytes);
}

fn a_position() -> Vec<u8> {
    let key = PartKey::new(a_blob(5000), 2).expect("a valid part");
    let mut position = Position::begin(1_700_000_000, PLACE);
    (position.phase, position.entry) = (Phase::Index, Some((SlotId(1), key)));
    (position.damaged, position.suspects) = (vec![(SlotId(1), key)], vec![(SlotId(2), key)]);
    position.encode(disk())
}

fn read_position(bytes: &[u8]) {
    if let Some(position) = Position::decode(bytes, disk()) {
        assert!(position.damaged.len() + position.suspects.len() <= bytes.len());
    }
}

fn payload() -> Vec<u8> {
    record::encode_blobs(&[a_blob(1), a_blob(2)]).data().to_vec()
}

fn read_payloads(bytes: &[u8]) {
    let blobs = record::decode_blobs(bytes);
    let parts = record::decode_parts(bytes);
    assert!(blobs.len() + parts.len() <= bytes.len(), "no more ids than bytes");
    let _ =
        (record::decode_slot(bytes), record::decode_fence(bytes), record::decode_rebuilt(bytes));
}

#[cfg(test)]
mod tests {
    #[test]
    fn whatever_is_on_a_disk_is_read_or_refused() {
        proto::decoders::hold(super::DECODERS);
    }
}
