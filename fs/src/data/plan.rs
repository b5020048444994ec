//! Planning reads: how a file is being read, and of what its bytes in a range are made. Pure.
//!
//! A read goes in slices: what of its range has at most so many runs, in memory and stored. What
//! memory has is noted first ([`Snapshot`]), under the file's lock, and metadata are asked after it:
//! bytes that were in neither would have been lost on their way from the one to the other. So a slice
//! needs one look at each, and its work is bounded however fragmented the file is.

use std::ops::Range;

use bytes::Bytes;
use meta::Extent;
use proto::id::BlobId;
use proto::limits::CHECK_BLOCK;

use crate::data::dirty_ranges::{DirtyRanges, Found};

/// Requests of one sequential reader may overtake one another by this much.
const SLACK: u64 = 2 << 20;
/// First read-ahead; doubles with every read.
const FIRST_AHEAD: u64 = 512 << 10;
/// A first read of at least this is taken for the begin of a sequential one.
const BOLD: u64 = 64 << 10;
/// Places of one file that are read at once and told apart.
const READERS: usize = 4;

/// How one reader goes through a file.
#[derive(Default)]
struct Reader {
    next: u64,
    streak: u32,
    ahead: u64,
}

impl Reader {
    /// Is this its next read?
    fn goes_on(&self, range: &Range<u64>) -> bool {
        let follows = self.next > 0 && self.next.abs_diff(range.start) <= SLACK;
        // Small steps around one place are not a walk: it has to go on where the last one ended.
        follows && (self.streak > 0 || range.start == self.next)
    }

    /// Notes a read and answers what should be fetched ahead of the next ones, if anything.
    fn note(&mut self, range: &Range<u64>, limit: u64) -> Option<Range<u64>> {
        let bold = is_bold(range);
        if bold || self.goes_on(range) {
            self.streak += 1;
            self.next = if bold { range.end } else { self.next.max(range.end) };
        } else {
            *self = Self { next: range.end, streak: 0, ahead: 0 };
            return None;
        }
        if bold {
            self.ahead = 0;
        }
        let window = (FIRST_AHEAD << self.streak.min(16)).min(limit);
        let from = self.ahead.max(range.end);
        let to = range.end + window;
        // Not for every read: in steps of a quarter.
        (to >= from + window / 4).then(|| {
            self.ahead = to;
            from..to
        })
    }
}

fn is_bold(range: &Range<u64>) -> bool {
    range.start == 0 && range.end >= BOLD
}

/// How a file is being read, at up to [`READERS`] places at once.
#[derive(Default)]
pub(crate) struct Readers {
    /// The last one to read comes first.
    readers: [Reader; READERS],
}

impl Readers {
    /// Notes a read. Is it a sequential one, and what should be fetched ahead of the next ones?
    pub(crate) fn note(&mut self, range: &Range<u64>, limit: u64) -> (bool, Option<Range<u64>>) {
        let own = self.readers.iter().position(|reader| reader.goes_on(range));
        self.readers[..=own.unwrap_or(READERS - 1)].rotate_right(1);
        let reader = &mut self.readers[0];
        if own.is_none() {
            *reader = Reader::default();
        }
        let ahead = reader.note(range, limit);
        (reader.streak > 0, ahead)
    }
}

/// Extents of a stretch of a file, as metadata had them at the last change.
pub(crate) struct Window {
    /// The stretch.
    pub(crate) range: Range<u64>,
    /// All extents that touch it, in order.
    pub(crate) extents: Vec<Extent>,
}

/// A run of a file's bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Segment {
    /// In memory, not stored yet.
    Memory(Bytes),
    /// A hole, or allocated room.
    Zeros(u64),
    /// In a blob.
    Stored(BlobId, Range<u32>),
}

impl Segment {
    fn len(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::Zeros(len) => *len,
            Self::Stored(_, range) => u64::from(range.end - range.start),
        }
    }
}

/// What of a range was in memory at one moment.
pub(crate) struct Snapshot {
    /// As far as it was looked through: to the end of the range, or of so many runs.
    pub(crate) range: Range<u64>,
    runs: Vec<(u64, Bytes)>,
}

impl Snapshot {
    /// Looks through a range for at most `most` runs.
    pub(crate) fn take(ranges: &DirtyRanges, mut range: Range<u64>, most: usize) -> Self {
        range.end = range.end.max(range.start);
        let mut runs = Vec::new();
        let mut at = range.start;
        while at < range.end
            && let Some((start, found)) = ranges.find(at..range.end)
        {
            let bytes = match found {
                Found::Dirty(data) => Bytes::copy_from_slice(data),
                Found::Flying(data) => data,
            };
            at = start + bytes.len() as u64;
            runs.push((start, bytes));
            if runs.len() == most {
                range.end = at;
            }
        }
        Self { range, runs }
    }

    /// Is all of the range in memory, so that nobody else need be asked?
    pub(crate) fn is_whole(&self) -> bool {
        let len: usize = self.runs.iter().map(|(_, bytes)| bytes.len()).sum();
        len as u64 == self.range.end - self.range.start
    }

    /// The slice: what was in memory over what is stored, as far as `window` reaches and as there are
    /// no more than about `most` runs, with holes between. At least one, unless the range is empty.
    ///
    /// # Panics
    /// If the window does not reach the start of a range that is not whole.
    pub(crate) fn over(self, window: Option<&Window>, most: usize) -> Slice {
        let mut slice = Slice { range: self.range.start..self.range.start, segments: Vec::new() };
        for (start, bytes) in self.runs {
            if !slice.fill(start, window, most) {
                return slice;
            }
            slice.push(Segment::Memory(bytes));
        }
        slice.fill(self.range.end, window, most);
        slice
    }
}

/// What the first bytes of a range are made of.
pub(crate) struct Slice {
    /// Which.
    pub(crate) range: Range<u64>,
    /// Of this, in order, without a gap.
    pub(crate) segments: Vec<Segment>,
}

impl Slice {
    fn push(&mut self, segment: Segment) {
        self.range.end += segment.len();
        self.segments.push(segment);
    }

    /// Goes on with what is stored, up to `end`; `false` when it did not come so far.
    fn fill(&mut self, end: u64, window: Option<&Window>, most: usize) -> bool {
        if self.range.end == end {
            return true;
        }
        let window = window.expect("what is not in memory was asked for");
        assert!(window.range.start <= self.range.end, "the window reaches the slice");
        let to = end.min(window.range.end);
        let first = window.extents.partition_point(|e| e.offset + e.len <= self.range.end);
        for extent in window.extents[first..].iter().take_while(|e| e.offset < to) {
            // Between two runs there may be a hole.
            if self.segments.len() >= 2 * most {
                return false;
            }
            let at = self.range.end;
            if extent.offset > at {
                self.push(Segment::Zeros(extent.offset - at));
            }
            let at = self.range.end;
            let len = (extent.offset + extent.len).min(to) - at;
            self.push(match extent.place {
                Some(place) => {
                    let from = place.offset + (at - extent.offset) as u32;
                    Segment::Stored(place.blob, from..from + len as u32)
                }
                None => Segment::Zeros(len),
            });
        }
        if self.range.end < to {
            self.push(Segment::Zeros(to - self.range.end));
        }
        self.range.end == end
    }

    /// The runs of blobs that it walks through and that are worth to be fetched, or to be let go, as
    /// wholes: not the small pieces that lie scattered over large blobs.
    pub(crate) fn streams(&self) -> Vec<(BlobId, Range<u32>)> {
        let mut runs: Vec<(BlobId, Range<u32>)> = Vec::new();
        for segment in &self.segments {
            let Segment::Stored(blob, range) = segment else { continue };
            match runs.last_mut() {
                Some((last, run)) if last == blob && run.end == range.start => run.end = range.end,
                _ => runs.push((*blob, range.clone())),
            }
        }
        runs.retain(|(blob, run)| {
            let len = run.end - run.start;
            len >= CHECK_BLOCK || len >= blob.len() / 4
        });
        runs
    }
}

#[cfg(test)]
mod tests {
    use meta::{Extent, Place};
    use proto::id::{GroupId, SessionId, VolumeId};
    use proto::scheme::Scheme;

    use super::*;

    const K: u64 = 1 << 10;

    #[test]
    fn sequential_readers_get_more_and_more_ahead_and_others_nothing() {
        let mut reader = Reader::default();
        assert_eq!(reader.note(&(0..4 * K), 8 << 20), None, "a short first read says nothing");
        assert!(reader.note(&(4 * K..8 * K), 8 << 20).is_some(), "the next one does");
        let mut reader = Reader::default();
        let mut ahead = 0;
        for nth in 0..200 {
            let range = nth * 128 * K..(nth + 1) * 128 * K;
            if let Some(wanted) = reader.note(&range, 8 << 20) {
                assert!(nth == 0 || wanted.start == ahead, "no gap, nothing twice");
                ahead = wanted.end;
            }
            assert!(nth == 0 || ahead >= range.end + (6 << 20).min(nth * 256 * K));
            assert!(ahead <= range.end + (8 << 20));
        }
        let mut reader = Reader::default();
        for at in [90u64, 17, 44, 3, 71, 28] {
            assert_eq!(reader.note(&(at << 30..(at << 30) + 4096), 8 << 20), None);
        }
    }

    #[test]
    fn readers_at_several_places_do_not_disturb_one_another() {
        let mut readers = Readers::default();
        for nth in 0..20 {
            for place in 0..READERS as u64 {
                let at = ((1 + place) << 30) + nth * 128 * K;
                let (sequential, _) = readers.note(&(at..at + 128 * K), 8 << 20);
                assert_eq!(sequential, nth > 0, "read {nth} at place {place}");
            }
        }
    }

    /// One byte every 64, in one blob.
    fn fragments(from: u64, count: u64) -> Window {
        let scheme = Scheme::copies(3).unwrap();
        let blob = BlobId::new(VolumeId(1), SessionId(1), 1, GroupId(0), 1 << 20, scheme).unwrap();
        let extents = (from..from + count).map(|n| Extent {
            offset: 64 * n,
            len: 1,
            place: Some(Place { blob, offset: n as u32 }),
        });
        Window { range: 64 * from..64 * (from + count), extents: extents.collect() }
    }

    #[test]
    fn a_slice_ends_where_its_window_or_its_measure_does() {
        let mut ranges = DirtyRanges::default();
        ranges.write(64 * 5, &[7; 64 * 3]);
        let range = 64 * 2..64 * 1000;
        let take = |most| Snapshot::take(&ranges, range.clone(), most);
        let window = fragments(2, 20);
        let slice = take(100).over(Some(&window), 100);
        assert_eq!(slice.range, 64 * 2..64 * 22, "as far as the window reaches");
        let lens: u64 = slice.segments.iter().map(Segment::len).sum();
        assert_eq!(lens, 64 * 20, "without a gap");
        let memory = |s: &&Segment| matches!(s, Segment::Memory(_));
        assert_eq!(slice.segments.iter().filter(memory).count(), 1);
        assert!(slice.segments.len() <= 2 * 20);
        let slice = take(100).over(Some(&fragments(2, 900)), 50);
        assert!(slice.segments.len() <= 102, "{} segments", slice.segments.len());
        assert!(!slice.range.is_empty());
        // Neither metadata nor a blob is asked for what is in memory.
        let whole = Snapshot::take(&ranges, 64 * 5..64 * 8, 100);
        assert!(whole.is_whole());
        assert_eq!(whole.over(None, 100).segments, [Segment::Memory(vec![7; 64 * 3].into())]);
        // Very many runs in memory are a slice's measure too.
        let mut ranges = DirtyRanges::default();
        (0..1000).for_each(|n| ranges.write(2 * n, &[1]));
        let snapshot = Snapshot::take(&ranges, 0..2000, 100);
        assert_eq!(snapshot.range, 0..199);
    }
}
