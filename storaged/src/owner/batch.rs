//! A batch: the records that one write and one sync make durable together, and how they lie in it.
//!
//! Payload that is aligned in memory goes to the disk from where it is; the rest, and all headers,
//! are put together in one scratch buffer.

use std::io::IoSlice;
use std::ops::Range;

use proto::buffer::Aligned;
use proto::checksum::Checked;
use proto::id::{BlobId, DiskId, SlotId};
use proto::limits::DISK_BLOCK;
use proto::part_store::PartError;

use crate::io::aligned::direct_prefix;
use crate::log::record::{Place, Stamp, What, encode, footprint, footprint_blocks, payload_offset};
use crate::shared::queue::Waiter;

/// Most records in a batch: each needs at most two buffers of a vectored write.
pub(crate) const MAX_RECORDS: usize = 500;
/// Bytes from which on a batch takes no more records.
pub(crate) const FULL_BATCH: u64 = 8 << 20;

/// A record to be written.
pub(crate) struct Planned {
    /// The slot it speaks of.
    pub(crate) slot: SlotId,
    /// What it says.
    pub(crate) what: What,
    /// Its payload.
    pub(crate) payload: Checked,
    /// The blobs in the payload of a delete or forget.
    pub(crate) blobs: Vec<BlobId>,
    /// Where the part was before.
    pub(crate) replaced: Option<Place>,
    /// Who waits for it; nobody for what the disk does by itself.
    pub(crate) waiter: Option<Waiter>,
}

impl Planned {
    /// Blocks of disk it takes.
    pub(crate) fn blocks(&self) -> u32 {
        footprint_blocks(self.payload.data().len() as u32)
    }

    /// Answers whoever waits.
    pub(crate) fn answer(self, result: Result<(), PartError>) {
        if let Some(waiter) = self.waiter {
            waiter.answer(result);
        }
    }
}

/// A run of bytes of the batch.
enum Piece {
    Scratch(Range<usize>),
    Payload(usize, Range<usize>),
}

/// A batch laid out: `pieces` one after the other are its bytes.
pub(crate) struct Layout {
    pieces: Vec<Piece>,
    /// Where each record lies.
    pub(crate) places: Vec<Place>,
    /// The block behind the last one.
    pub(crate) end: u32,
}

impl Layout {
    /// Lays the records out from `at` on, with sequences from `sequence` on. `scratch` grows as
    /// needed.
    pub(crate) fn new(
        disk: DiskId,
        at: Place,
        sequence: u64,
        records: &[Planned],
        scratch: &mut Aligned,
    ) -> Self {
        let needed: usize = records.iter().map(scratch_bytes).sum();
        if scratch.len() < needed {
            *scratch = Aligned::zeroed(needed.next_power_of_two());
        }
        let mut layout = Self { pieces: Vec::new(), places: Vec::new(), end: at.block };
        let mut used = 0;
        for (number, record) in records.iter().enumerate() {
            let place = Place { file: at.file, block: layout.end };
            let stamp = Stamp { disk, place, batch: at.block, sequence: sequence + number as u64 };
            let data = record.payload.data();
            let apart = payload_offset(data.len() as u32) == DISK_BLOCK;
            let head = if apart { DISK_BLOCK } else { record.blocks() as usize * DISK_BLOCK };
            scratch[used..used + head].fill(0);
            encode(
                &mut scratch[used..used + head],
                stamp,
                record.slot,
                record.what,
                &record.payload,
            );
            layout.scratch(used..used + head);
            used += head;
            if apart {
                let direct = direct_prefix(data);
                if direct > 0 {
                    layout.pieces.push(Piece::Payload(number, 0..direct));
                }
                let copied = data.len() - direct;
                let padded = copied.next_multiple_of(DISK_BLOCK);
                scratch[used..used + copied].copy_from_slice(&data[direct..]);
                scratch[used + copied..used + padded].fill(0);
                layout.scratch(used..used + padded);
                used += padded;
            }
            layout.places.push(place);
            layout.end += record.blocks();
        }
        layout
    }

    fn scratch(&mut self, range: Range<usize>) {
        match self.pieces.last_mut() {
            Some(Piece::Scratch(last)) if last.end == range.start => last.end = range.end,
            _ if range.is_empty() => {}
            _ => self.pieces.push(Piece::Scratch(range)),
        }
    }

    /// The bytes, as a vectored write takes them.
    pub(crate) fn buffers<'a>(
        &self,
        records: &'a [Planned],
        scratch: &'a Aligned,
    ) -> Vec<IoSlice<'a>> {
        let one = |piece: &Piece| match piece {
            Piece::Scratch(range) => IoSlice::new(&scratch[range.clone()]),
            Piece::Payload(number, range) => {
                IoSlice::new(&records[*number].payload.data()[range.clone()])
            }
        };
        self.pieces.iter().map(one).collect()
    }
}

fn scratch_bytes(record: &Planned) -> usize {
    let data = record.payload.data();
    footprint(data.len() as u32) as usize
        - if payload_offset(data.len() as u32) == DISK_BLOCK { direct_prefix(data) } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn planned(data: Bytes) -> Planned {
        Planned {
            slot: SlotId(1),
            what: What::Forget,
            payload: Checked::compute(data),
            blobs: Vec::new(),
            replaced: None,
            waiter: None,
        }
    }

    #[test]
    fn the_bytes_are_the_records_one_after_the_other_and_aligned_payload_is_not_copied() {
        let mut aligned = Aligned::zeroed(80 << 10);
        aligned.fill(7);
        let aligned = Bytes::from_owner(aligned);
        let records = [
            planned(vec![1; 10].into()),
            planned(aligned.clone()),
            planned(aligned.slice(..9000)),
            planned(aligned.slice(1..8193)),
            planned(aligned.slice(..70_000)),
        ];
        let mut scratch = Aligned::zeroed(1);
        let at = Place { file: 1, block: 5 };
        let layout = Layout::new(DiskId::random(), at, 1, &records, &mut scratch);
        let blocks: Vec<u32> = layout.places.iter().map(|place| place.block).collect();
        assert_eq!((blocks, layout.end), (vec![5, 6, 27, 30, 33], 52));
        let buffers = layout.buffers(&records, &scratch);
        assert!(buffers.iter().all(|b| b.len() % DISK_BLOCK == 0));
        assert!(buffers.iter().all(|b| (b.as_ptr() as usize).is_multiple_of(DISK_BLOCK)));
        let from_memory =
            |len| buffers.iter().any(|b| b.as_ptr() == aligned.as_ptr() && b.len() == len);
        assert!(from_memory(80 << 10) && from_memory(68 << 10), "the aligned ones");
        let bytes: Vec<u8> = buffers.iter().flat_map(|b| b.to_vec()).collect();
        assert_eq!(bytes.len(), 47 * DISK_BLOCK);
        assert_eq!(&bytes[2 * DISK_BLOCK..22 * DISK_BLOCK], &aligned[..]);
        // The third follows its header at once, in three blocks; the last does not.
        let third = &bytes[22 * DISK_BLOCK..25 * DISK_BLOCK];
        assert!(third[100..][..9000].iter().all(|b| *b == 7));
        assert!(third[100 + 9000..].iter().all(|b| *b == 0));
        let last = &bytes[29 * DISK_BLOCK..];
        assert!(last[..70_000].iter().all(|b| *b == 7) && last[70_000..].iter().all(|b| *b == 0));
    }
}
