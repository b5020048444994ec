//! What goes into which blob: ranges of many files, in order of inode and offset, into blobs of
//! [`TARGET_BLOB`](proto::limits::TARGET_BLOB) bytes, or of fewer where disks are small or full.
//!
//! A run that does not fit is cut where a page of the file ends, so that pages stay whole and, for
//! big runs, aligned within the blob. A full blob is padded to exactly the target, so that each of
//! its parts is a whole number of disk blocks. One of very many tiny ranges is full before, at
//! [`RANGES`] of them. Pure: it is given ranges and gives a layout.

use bytes::Bytes;
use proto::buffer::{Buffer, Pool};

/// Runs are cut at multiples of this.
const PAGE: u64 = 4096;
/// A blob that comes within this of the target is padded up to it.
const PAD: usize = 2 * PAGE as usize;
/// Most ranges of one blob: they become extents in one transaction, and other changes of metadata wait
/// for it. Pages fill a blob with a quarter of this.
const RANGES: usize = 4096;

/// A blob in the making.
pub(crate) struct Packer {
    pieces: Vec<Bytes>,
    data_len: usize,
    target: usize,
}

impl Packer {
    /// An empty one for a blob of `target` bytes, at most [`TARGET_BLOB`](proto::limits::TARGET_BLOB).
    pub(crate) fn of(target: u32) -> Self {
        Self { pieces: Vec::new(), data_len: 0, target: target as usize }
    }

    /// Bytes that a range may still have.
    fn room(&self) -> usize {
        if self.pieces.len() >= RANGES {
            return 0;
        }
        self.target.saturating_sub(self.data_len)
    }

    /// How many bytes of a run at `offset` of a file may be put in now; 0 when the blob is full.
    pub(crate) fn fits(&self, offset: u64, len: u64) -> u64 {
        let room = self.room() as u64;
        if len <= room {
            return len;
        }
        if room == 0 {
            return 0;
        }
        let end = (offset + room) / PAGE * PAGE;
        end.saturating_sub(offset)
    }

    /// Puts a range in; answers where in the blob it will lie. [`Packer::fits`] has said it fits.
    pub(crate) fn push(&mut self, data: Bytes) -> u32 {
        let (at, len) = (self.data_len, data.len());
        assert!(len > 0 && len <= self.room(), "the range fits");
        self.data_len += len;
        self.pieces.push(data);
        at as u32
    }

    /// Is nothing in it?
    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Bytes of files in it.
    pub(crate) fn data_len(&self) -> usize {
        self.data_len
    }

    /// Has it no room for a page more?
    pub(crate) fn is_full(&self) -> bool {
        self.room() < PAGE as usize
    }

    /// Bytes of the blob it will be.
    pub(crate) fn blob_len(&self) -> u32 {
        let len = self.data_len;
        (if len + PAD > self.target { self.target } else { len }) as u32
    }

    /// The blob's bytes: the one copy on the way to the disks.
    pub(crate) fn assemble(&self, pool: &std::sync::Arc<Pool>) -> Bytes {
        let mut buffer: Buffer = pool.take(self.blob_len() as usize);
        let out = buffer.bytes_mut();
        let mut at = 0;
        for piece in &self.pieces {
            out[at..at + piece.len()].copy_from_slice(piece);
            at += piece.len();
        }
        out[at..].fill(0);
        buffer.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proto::limits::TARGET_BLOB;

    #[test]
    fn a_stream_makes_full_blobs_of_whole_pages() {
        let run = Bytes::from(vec![9u8; 1 << 20]);
        let mut packer = Packer::of(TARGET_BLOB);
        let mut offset = 0;
        while packer.fits(offset, 1 << 20) > 0 {
            let len = packer.fits(offset, 1 << 20);
            packer.push(run.slice(..len as usize));
            offset += len;
        }
        assert!(packer.is_full());
        assert_eq!(packer.data_len(), TARGET_BLOB as usize);
        let blob = packer.assemble(&Pool::new(TARGET_BLOB as usize, 1));
        assert_eq!(blob.len(), TARGET_BLOB as usize);
    }

    #[test]
    fn a_blob_of_tiny_ranges_is_full_when_they_are_many() {
        let mut packer = Packer::of(TARGET_BLOB);
        let mut at = 0;
        while packer.fits(at, 1) > 0 {
            packer.push(Bytes::from_static(b"x"));
            at += 64;
        }
        assert!(packer.is_full());
        assert_eq!((packer.data_len(), packer.pieces.len()), (RANGES, RANGES));
        // Also of small files' bytes, which are one file's extent each.
        let mut packer = Packer::of(TARGET_BLOB);
        let files = (0u64..).take_while(|_| {
            let fits = packer.fits(0, 100) > 0;
            if fits {
                packer.push(Bytes::from_static(&[1; 100]));
            }
            fits
        });
        assert_eq!(files.count(), RANGES);
    }

    proptest! {
        #[test]
        fn every_range_lies_where_it_was_put(
            ranges in proptest::collection::vec((0u64..1 << 30, 1usize..100_000), 1..200),
        ) {
            let mut packer = Packer::of(TARGET_BLOB);
            let mut places = Vec::new();
            for (nth, (offset, len)) in ranges.into_iter().enumerate() {
                let take = packer.fits(offset, len as u64) as usize;
                prop_assert!(take <= len);
                if take == 0 {
                    continue;
                }
                let data = Bytes::from(vec![nth as u8; take]);
                places.push((packer.push(data.clone()) as usize, data));
            }
            let blob = packer.assemble(&Pool::new(TARGET_BLOB as usize, 1));
            prop_assert!(blob.len() <= TARGET_BLOB as usize);
            prop_assert_eq!(blob.len(), packer.blob_len() as usize);
            let total: usize = places.iter().map(|(_, data)| data.len()).sum();
            for (at, data) in places {
                prop_assert_eq!(&blob[at..at + data.len()], &data[..]);
            }
            prop_assert_eq!(total, packer.data_len());
            prop_assert!(blob[total..].iter().all(|byte| *byte == 0));
        }
    }
}
