//! Zeros ahead of the log: what makes a small synced write cheap.
//!
//! A block file is preallocated. The first write to a block of it makes the filesystem note that the
//! block holds data now, and the sync that follows waits for that note in the filesystem's journal:
//! on ext4 more than half of the cost of a small batch. So the second of two small batches in a row
//! writes zeros behind itself, up to the end of a region; those that follow overwrite them, and
//! their syncs have nothing to note. Zeros are what a fresh file reads as anyway, so recovery sees no
//! difference. Large batches pay nothing.

use proto::limits::DISK_BLOCK;

use crate::log::record::Place;

/// A batch of fewer blocks is small.
const SMALL: u32 = (128 << 10) / DISK_BLOCK as u32;
/// Blocks of a region.
pub(crate) const REGION: u32 = (256 << 10) / DISK_BLOCK as u32;

/// What is known of the file that is written.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    file: u32,
    /// The blocks from the last batch up to this one have been written.
    written: u32,
    /// The last batch was small.
    small: bool,
}

impl Ahead {
    /// Blocks of zeros to write behind the batch from `at` to `end` of a file that has so many.
    pub(crate) fn zeros(&self, at: Place, end: u32, file_blocks: u32) -> u32 {
        let in_a_row = self.file == at.file && self.small && end - at.block < SMALL;
        if !in_a_row || end <= self.written {
            return 0;
        }
        let region_end = (end / REGION + 1) * REGION;
        region_end.min(file_blocks).saturating_sub(end)
    }

    /// The batch was written, with so many zeros behind it.
    pub(crate) fn wrote(&mut self, at: Place, end: u32, zeros: u32) {
        let before = if self.file == at.file { self.written } else { 0 };
        let written = before.max(end + zeros);
        *self = Self { file: at.file, written, small: end - at.block < SMALL };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Zeros behind each of the batches of a file, one after the other from block 0.
    fn zeros(batches: &[u32], file_blocks: u32) -> Vec<u32> {
        let mut ahead = Ahead::default();
        let mut at = Place { file: 1, block: 0 };
        let one = |blocks: &u32| {
            let end = at.block + blocks;
            let zeros = ahead.zeros(at, end, file_blocks);
            ahead.wrote(at, end, zeros);
            at.block = end;
            zeros
        };
        batches.iter().map(one).collect()
    }

    #[test]
    fn small_batches_in_a_row_pay_once_for_a_region_and_large_ones_never() {
        assert_eq!(zeros(&[2; 5], 1000), [0, 60, 0, 0, 0]);
        assert_eq!(zeros(&[30, 30, 4, 30], 1000), [0, 4, 0, 34], "one region after the other");
        assert_eq!(zeros(&[32, 32, 256, 256], 1000), [0; 4]);
        assert_eq!(zeros(&[2, 256, 2, 256, 2], 1000), [0; 5], "in turn with large ones");
        assert_eq!(zeros(&[2, 2, 256, 2, 2], 1000), [0, 60, 0, 0, 56]);
        assert_eq!(zeros(&[2, 2, 2], 10), [0, 6, 0], "not beyond the end of the file");
    }

    #[test]
    fn a_new_file_begins_anew() {
        let mut ahead = Ahead::default();
        let (old, new) = (Place { file: 1, block: 0 }, Place { file: 2, block: 0 });
        ahead.wrote(old, 2, 100);
        assert_eq!(ahead.zeros(new, 2, 1000), 0);
        ahead.wrote(new, 2, 0);
        assert_eq!(ahead.zeros(Place { file: 2, block: 2 }, 4, 1000), 60);
    }
}
