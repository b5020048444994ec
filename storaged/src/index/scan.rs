//! Walks over the parts of an index, in the order of their keys: what redb has, under the changes that
//! lie over it.

use std::collections::BTreeMap;
use std::ops::{Bound, RangeInclusive};
use std::sync::Arc;

use proto::id::{BlobId, PartIndex, PartKey, SlotId};
use proto::part_store::{Page, Scope};

use super::key::{BLOB_KEY, PART_KEY, PartBytes, blob_bytes, key_of, part_bytes, prefixed};
use super::stored::{Stored, guarded};
use super::{Index, IndexResult};
use crate::log::record::Place;

impl Index {
    /// Parts in a range of keys, in order, up to `stop` saying enough.
    fn scan_parts(
        &self,
        range: RangeInclusive<PartBytes>,
        mut take: impl FnMut(SlotId, PartKey, Place) -> bool,
    ) -> IndexResult<()> {
        let layers = self.layers.read();
        // Changes of the upper layers in the range, the topmost winning.
        let mut changes: BTreeMap<PartBytes, Option<Place>> = BTreeMap::new();
        for layer in layers.iter().rev() {
            changes.extend(layer.parts.range(range.clone()).map(|(key, place)| (*key, *place)));
        }
        let stored = layers.stored.clone();
        drop(layers);
        let from = Bound::Included(*range.start());
        let mut stored = StoredParts { index: self, stored, from, to: *range.end(), rows: None };
        let mut below = stored.next()?;
        let mut above = changes.into_iter().peekable();
        loop {
            let (key, place) = match (below, above.peek().copied()) {
                (None, None) => return Ok(()),
                (Some((low, place)), high) if high.is_none_or(|(key, _)| low < key) => {
                    below = stored.next()?;
                    (low, Some(place))
                }
                (low, Some((key, place))) => {
                    above.next();
                    if low.is_some_and(|(low, _)| low == key) {
                        below = stored.next()?;
                    }
                    (key, place)
                }
                (Some(_), None) => unreachable!("nothing above: the arm before took it"),
            };
            if let (Some(place), Some((slot, part))) = (place, key_of(&key))
                && !take(slot, part, place)
            {
                return Ok(());
            }
        }
    }

    /// The parts of a blob, with their places.
    pub(crate) fn parts_of(
        &self,
        slot: SlotId,
        blob: BlobId,
    ) -> IndexResult<Vec<(PartIndex, Place)>> {
        let mut parts = Vec::new();
        self.scan_parts(prefixed(&blob_bytes(slot, blob)), |_, key, place| {
            parts.push((key.part, place));
            true
        })?;
        Ok(parts)
    }

    /// Every part of the disk, in order, until `take` says `false`.
    pub(crate) fn all_parts(
        &self,
        take: impl FnMut(SlotId, PartKey, Place) -> bool,
    ) -> IndexResult<()> {
        self.scan_parts(prefixed(&[]), take)
    }

    /// The first parts behind one, at most so many; behind `None`: the first of all.
    pub(crate) fn parts_after(
        &self,
        after: Option<(SlotId, PartKey)>,
        limit: usize,
    ) -> IndexResult<Vec<(SlotId, PartKey, Place)>> {
        let start = after.map_or([0; PART_KEY], |(slot, key)| part_bytes(slot, key));
        let mut found = Vec::new();
        self.scan_parts(start..=[0xff; PART_KEY], |slot, key, place| {
            if Some((slot, key)) != after {
                found.push((slot, key, place));
            }
            found.len() < limit
        })?;
        Ok(found)
    }

    /// Parts whose record is in the file. Reads the whole table: for damage only.
    pub(crate) fn parts_in(&self, file: u32) -> IndexResult<Vec<(SlotId, PartKey, Place)>> {
        let mut found = Vec::new();
        self.all_parts(|slot, key, place| {
            if place.file == file {
                found.push((slot, key, place));
            }
            true
        })?;
        Ok(found)
    }

    /// A page of a listing: at most `limit` blobs.
    pub(crate) fn list(
        &self,
        slot: SlotId,
        scope: Scope,
        after: Option<BlobId>,
        limit: usize,
    ) -> IndexResult<Page> {
        let mut prefix = slot.0.to_be_bytes().to_vec();
        if let Scope::Volume(volume) | Scope::Session(volume, _) = scope {
            prefix.extend(volume.0.to_be_bytes());
        }
        if let Scope::Session(_, session) = scope {
            prefix.extend(session.0.to_be_bytes());
        }
        let mut range: RangeInclusive<PartBytes> = prefixed(&prefix);
        if let Some(after) = after {
            let mut start = [0xff; PART_KEY];
            start[..BLOB_KEY].copy_from_slice(&blob_bytes(slot, after));
            if start > *range.end() {
                return Ok(Page { complete: true, ..Page::default() });
            }
            range = start.max(*range.start())..=*range.end();
        }
        let mut page = Page { complete: true, ..Page::default() };
        self.scan_parts(range, |_, key, _| {
            if let Some((blob, parts)) = page.entries.last_mut()
                && *blob == key.blob
            {
                parts.insert(key.part);
                return true;
            }
            page.complete = page.entries.len() < limit;
            if page.complete {
                page.entries.push((key.blob, [key.part].into_iter().collect()));
            }
            page.complete
        })?;
        Ok(page)
    }
}

/// The parts that redb has in a range of keys, in order, wherever they have to be read on.
struct StoredParts<'a> {
    index: &'a Index,
    stored: Arc<Stored>,
    from: Bound<PartBytes>,
    to: PartBytes,
    rows: Option<redb::Range<'static, &'static PartBytes, u64>>,
}

impl StoredParts<'_> {
    fn next(&mut self) -> IndexResult<Option<(PartBytes, Place)>> {
        loop {
            match guarded(|| self.try_next()) {
                Ok(row) => {
                    self.from = row.map_or(self.from, |(key, _)| Bound::Excluded(key));
                    return Ok(row);
                }
                Err(e) => {
                    self.stored = self.index.opened_anew(&self.stored, e)?;
                    self.rows = None;
                }
            }
        }
    }

    fn try_next(&mut self) -> IndexResult<Option<(PartBytes, Place)>> {
        let Some(table) = &self.stored.parts else { return Ok(None) };
        let rows = match &mut self.rows {
            Some(rows) => rows,
            none => {
                let range = (self.from.as_ref(), Bound::Included(&self.to));
                none.insert(table.range::<&PartBytes>(range)?)
            }
        };
        let Some(row) = rows.next() else { return Ok(None) };
        let (key, place) = row?;
        Ok(Some((*key.value(), Place::unpack(place.value()))))
    }
}
