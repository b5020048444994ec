//! Ranges of one file that were written and are not stored yet.
//!
//! Two maps. **Dirty** ranges wait to be packed; contiguous writes grow one chunk, writes over dirty
//! bytes change them in place. **In-flight** ranges are on their way to the store in a blob that has
//! a number (the *flight*). A reader sees dirty over in-flight over what metadata says.
//!
//! Invariants:
//! * chunks of one map never overlap each other;
//! * bytes that are in flight are not packed again before that flight has ended, so that commits of
//!   one byte happen in order;
//! * a newer write does not take older bytes out of flight: an fsync of the older ones still counts;
//! * what truncate and punch cut is gone from both maps, so that a flight that ends later does not
//!   bring it back;
//! * `memory` is what the chunks really hold, growth room included, and what it takes to keep each.
//!
//! Pure: no clock, no waiting.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use meta::{Extent, Place};
use proto::id::BlobId;

use crate::data::buffer::{CHUNK, chunk, recycle};
use crate::data::pack::Packer;

/// What a range takes beside its bytes: its place in a map (whose nodes are half empty where ranges
/// came in order), the counts of who shares it, what the allocator adds to small pieces, and what it
/// cannot use again when others go.
///
/// Measured, resident memory of a mount by one-byte writes, 64 bytes apart: 156 bytes a range (150 of them by
/// the slope) for 416,825 in order of which nothing was stored; with a store that hardly answers, when
/// 1.3 million were written, 199 MB for 989,000 that were left (201 each), and 218 MB for 927,000 in random
/// order (235 each).
pub(crate) const KEEPING: u64 = 200;
/// A dirty chunk below this that is written over as a whole gives way to the new bytes: one write over
/// many tiny ones leaves one chunk.
const TINY: usize = 4096;

/// Bytes in memory at an offset of the file, as a reader finds them.
pub(crate) enum Found<'a> {
    /// Still changing: to be copied.
    Dirty(&'a [u8]),
    /// Fixed: may be shared.
    Flying(Bytes),
}

/// Bytes on their way into a blob.
struct Flying {
    data: Bytes,
    flight: u64,
    /// Where they lie in that blob.
    at: u32,
}

/// What of one file is not stored yet.
#[derive(Default)]
pub(crate) struct DirtyRanges {
    dirty: BTreeMap<u64, BytesMut>,
    dirty_len: u64,
    dirty_memory: u64,
    flying: BTreeMap<u64, Flying>,
    flying_len: u64,
}

fn len_of(data: &[u8]) -> u64 {
    data.len() as u64
}

impl DirtyRanges {
    /// Bytes waiting to be packed.
    pub(crate) fn dirty_len(&self) -> u64 {
        self.dirty_len
    }

    /// Bytes that are not stored: waiting or on their way.
    pub(crate) fn unstored_len(&self) -> u64 {
        self.dirty_len + self.flying_len
    }

    /// Bytes of memory this holds.
    pub(crate) fn memory(&self) -> u64 {
        let ranges = self.dirty.len() + self.flying.len();
        self.dirty_memory + self.flying_len + KEEPING * ranges as u64
    }

    /// Is there nothing?
    pub(crate) fn is_empty(&self) -> bool {
        self.dirty.is_empty() && self.flying.is_empty()
    }

    /// One past the last byte; 0 when there is none.
    pub(crate) fn end(&self) -> u64 {
        let dirty = self.dirty.last_key_value().map_or(0, |(at, data)| at + len_of(data));
        let flying = self.flying.last_key_value().map_or(0, |(at, f)| at + len_of(&f.data));
        dirty.max(flying)
    }

    /// The dirty chunk that holds the byte at `at`.
    fn dirty_at(&self, at: u64) -> Option<(u64, &BytesMut)> {
        let (start, data) = self.dirty.range(..=at).next_back()?;
        (at < start + len_of(data)).then_some((*start, data))
    }

    fn flying_at(&self, at: u64) -> Option<(u64, &Flying)> {
        let (start, flying) = self.flying.range(..=at).next_back()?;
        (at < start + len_of(&flying.data)).then_some((*start, flying))
    }

    /// Writes `data` at `offset`.
    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) {
        let end = offset + len_of(data);
        self.give_way(offset..end);
        let mut at = offset;
        while at < end {
            let rest = &data[(at - offset) as usize..];
            let over = self.dirty.range_mut(..=at).next_back();
            match over.filter(|(start, chunk)| at < **start + len_of(chunk)) {
                Some((start, chunk)) => {
                    let skip = (at - start) as usize;
                    let len = rest.len().min(chunk.len() - skip);
                    chunk[skip..skip + len].copy_from_slice(&rest[..len]);
                    at += len as u64;
                }
                None => {
                    let next = self.dirty.range(at..).next().map_or(end, |(start, _)| *start);
                    let len = (next.min(end) - at) as usize;
                    at += self.append(at, &rest[..len]) as u64;
                }
            }
        }
    }

    /// Takes tiny chunks away that will be written over as wholes.
    fn give_way(&mut self, range: Range<u64>) {
        let whole = |at: u64, data: &BytesMut| data.len() < TINY && at + len_of(data) <= range.end;
        let mut from = range.start;
        while let Some((at, _)) =
            self.dirty.range(from..range.end).find(|(at, data)| whole(**at, data))
        {
            from = *at;
            // The same bytes again change in place: that costs nothing.
            if range == (from..from + len_of(&self.dirty[&from])) {
                return;
            }
            self.remove(from);
        }
    }

    /// Writes bytes where none are dirty, at the end of the chunk before or as a new one; answers
    /// how many.
    fn append(&mut self, at: u64, data: &[u8]) -> usize {
        let mut streaming = false;
        if let Some((start, chunk)) = self.dirty.range_mut(..at).next_back()
            && start + len_of(chunk) == at
        {
            if chunk.len() < CHUNK {
                let len = data.len().min(CHUNK - chunk.len());
                let before = chunk.capacity();
                if before - chunk.len() < len {
                    let room = (2 * before).clamp(chunk.len() + len, CHUNK.max(chunk.len() + len));
                    chunk.reserve(room - chunk.len());
                }
                chunk.extend_from_slice(&data[..len]);
                self.dirty_memory = self.dirty_memory + chunk.capacity() as u64 - before as u64;
                self.dirty_len += len as u64;
                return len;
            }
            streaming = true;
        }
        let len = data.len().min(CHUNK);
        // After a full chunk another full one is likely: saves growing it step by step.
        let mut chunk = chunk(if streaming { CHUNK } else { len });
        chunk.extend_from_slice(&data[..len]);
        self.insert(at, chunk);
        len
    }

    fn insert(&mut self, at: u64, chunk: BytesMut) {
        self.dirty_len += len_of(&chunk);
        self.dirty_memory += chunk.capacity() as u64;
        self.dirty.insert(at, chunk);
    }

    fn remove(&mut self, at: u64) -> BytesMut {
        let chunk = self.dirty.remove(&at).expect("a chunk starts there");
        self.dirty_len -= len_of(&chunk);
        self.dirty_memory -= chunk.capacity() as u64;
        chunk
    }

    /// Takes `range`, which lies within the chunk that starts at `start`, out of dirty.
    fn extract(&mut self, start: u64, range: Range<u64>) -> BytesMut {
        let mut chunk = self.remove(start);
        if range == (start..start + len_of(&chunk)) {
            // To cut it would make it one that is shared.
            return chunk;
        }
        let after = chunk.split_off((range.end - start) as usize);
        let wanted = chunk.split_off((range.start - start) as usize);
        if !after.is_empty() {
            self.insert(range.end, after);
        }
        if !chunk.is_empty() {
            self.insert(start, chunk);
        }
        wanted
    }

    /// Moves what fits into `packer`, is not in flight already and lies from `at` on, from dirty to
    /// `flight`. Answers where to go on when the packer is full, `None` at the end of the file.
    pub(crate) fn take(&mut self, flight: u64, mut at: u64, packer: &mut Packer) -> Option<u64> {
        while let Some((start, run)) = self.next_unpacked(at) {
            let len = packer.fits(run.start, run.end - run.start);
            if len == 0 {
                return Some(run.start);
            }
            let run = run.start..run.start + len;
            let data = self.extract(start, run.clone()).freeze();
            let place = packer.push(data.clone());
            self.flying_len += len;
            self.flying.insert(run.start, Flying { data, flight, at: place });
            at = run.end;
        }
        None
    }

    /// The first run of one chunk from `at` on that is not in flight, with the chunk's start.
    fn next_unpacked(&self, mut at: u64) -> Option<(u64, Range<u64>)> {
        loop {
            let (start, chunk) = self
                .dirty_at(at)
                .or_else(|| self.dirty.range(at..).next().map(|(start, chunk)| (*start, chunk)))?;
            at = at.max(start);
            if let Some((start, flying)) = self.flying_at(at) {
                at = start + len_of(&flying.data);
                continue;
            }
            let end = start + len_of(chunk);
            let next_flying = self.flying.range(at..end).next().map_or(end, |(start, _)| *start);
            return Some((start, at..next_flying));
        }
    }

    /// Cuts a range out of both maps.
    pub(crate) fn cut(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let first = self.dirty_at(range.start).map_or(range.start, |(start, _)| start);
        let starts: Vec<u64> =
            self.dirty.range(first..range.end).map(|(start, _)| *start).collect();
        for start in starts {
            let end = start + len_of(&self.dirty[&start]);
            self.remake(start, start.max(range.start)..end.min(range.end));
        }
        let first = self.flying_at(range.start).map_or(range.start, |(start, _)| start);
        let starts: Vec<u64> =
            self.flying.range(first..range.end).map(|(start, _)| *start).collect();
        for start in starts {
            self.cut_flying(start, &range);
        }
    }

    /// Cuts `gone` out of one chunk; what is left moves to memory of its own size.
    fn remake(&mut self, start: u64, gone: Range<u64>) {
        let chunk = self.remove(start);
        let before = &chunk[..(gone.start - start) as usize];
        let after = &chunk[(gone.end - start) as usize..];
        if !before.is_empty() {
            self.insert(start, BytesMut::from(before));
        }
        if !after.is_empty() {
            self.insert(gone.end, BytesMut::from(after));
        }
    }

    fn cut_flying(&mut self, start: u64, range: &Range<u64>) {
        let flying = self.flying.remove(&start).expect("a range in flight starts there");
        let end = start + len_of(&flying.data);
        self.flying_len -= len_of(&flying.data);
        let kept = [start..range.start.min(end), range.end.max(start)..end];
        for kept in kept.into_iter().filter(|kept| !kept.is_empty()) {
            let skip = (kept.start - start) as usize;
            let data = flying.data.slice(skip..(kept.end - start) as usize);
            self.flying_len += len_of(&data);
            let at = flying.at + skip as u32;
            self.flying.insert(kept.start, Flying { data, flight: flying.flight, at });
        }
    }

    /// Where the bytes of a flight that are still wanted lie, now that its blob is stored.
    pub(crate) fn landed(&self, flight: u64, blob: BlobId) -> Vec<Extent> {
        let mut extents: Vec<Extent> = Vec::new();
        for (offset, flying) in self.flying.iter().filter(|(_, flying)| flying.flight == flight) {
            let len = len_of(&flying.data);
            if let Some(last) = extents.last_mut()
                && last.offset + last.len == *offset
                && last
                    .place
                    .is_some_and(|p| u64::from(p.offset) + last.len == u64::from(flying.at))
            {
                last.len += len;
            } else {
                let place = Some(Place { blob, offset: flying.at });
                extents.push(Extent { offset: *offset, len, place });
            }
        }
        extents
    }

    /// The flight is committed: its bytes need not be kept.
    pub(crate) fn settle(&mut self, flight: u64) {
        for (_, flying) in self.flying.extract_if(.., |_, flying| flying.flight == flight) {
            self.flying_len -= len_of(&flying.data);
            recycle(flying.data);
        }
    }

    /// The flight failed: its bytes are dirty again where nothing newer is.
    pub(crate) fn give_back(&mut self, flight: u64) {
        let starts: Vec<u64> =
            self.flying.iter().filter(|(_, f)| f.flight == flight).map(|(at, _)| *at).collect();
        for start in starts {
            let data = self.flying.remove(&start).expect("it was just seen").data;
            self.flying_len -= len_of(&data);
            self.fill_gaps(start, &data);
        }
    }

    fn fill_gaps(&mut self, offset: u64, data: &[u8]) {
        let end = offset + len_of(data);
        let mut at = offset;
        while at < end {
            if let Some((start, chunk)) = self.dirty_at(at) {
                at = start + len_of(chunk);
                continue;
            }
            let next = self.dirty.range(at..).next().map_or(end, |(start, _)| *start).min(end);
            at += self.append(at, &data[(at - offset) as usize..(next - offset) as usize]) as u64;
        }
    }

    /// The flights that have bytes of this file.
    pub(crate) fn flights(&self) -> Vec<u64> {
        let mut flights: Vec<u64> = self.flying.values().map(|flying| flying.flight).collect();
        flights.sort_unstable();
        flights.dedup();
        flights
    }

    /// The first run of bytes in memory that touches `range`, clipped to it, with its offset.
    pub(crate) fn find(&self, range: Range<u64>) -> Option<(u64, Found<'_>)> {
        let at = range.start;
        let dirty = self.dirty_at(at).or_else(|| {
            self.dirty.range(range.clone()).next().map(|(start, chunk)| (*start, chunk))
        });
        let dirty_start = dirty.map_or(range.end, |(start, _)| start.max(at));
        if dirty_start > at {
            let flying = self.flying_at(at).or_else(|| {
                self.flying.range(at..dirty_start).next().map(|(start, flying)| (*start, flying))
            });
            if let Some((start, flying)) = flying {
                let from = start.max(at);
                let to = (start + len_of(&flying.data)).min(dirty_start);
                let data = flying.data.slice((from - start) as usize..(to - start) as usize);
                return Some((from, Found::Flying(data)));
            }
        }
        let (start, chunk) = dirty?;
        let to = (start + len_of(chunk)).min(range.end);
        let data = &chunk[(dirty_start - start) as usize..(to - start) as usize];
        Some((dirty_start, Found::Dirty(data)))
    }

    /// The same, as a range only.
    pub(crate) fn next_run(&self, range: Range<u64>) -> Option<Range<u64>> {
        let (at, found) = self.find(range)?;
        let len = match found {
            Found::Dirty(data) => data.len(),
            Found::Flying(data) => data.len(),
        };
        Some(at..at + len as u64)
    }
}

#[cfg(test)]
#[path = "dirty_ranges_tests.rs"]
mod tests;
