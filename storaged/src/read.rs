//! Reading parts: direct, whole check blocks, and verified before anyone sees a byte.
//!
//! A reader needs no lock. If what it finds is not what it looked for, it looks again whether the
//! part has moved or is gone; only a part that is still there and still wrong is corrupt.

pub(crate) mod readers;

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use proto::checksum::{Checked, widen};
use proto::id::{PartKey, SlotId};
use proto::limits::{CHECK_BLOCK, DISK_BLOCK};
use proto::part_store::PartError;

use crate::log::block_file::BlockFile;
use crate::log::record::{Entry, Place, What, footprint_blocks, parse, payload_offset};
use crate::shared::Shared;

/// How often a part that moves under the reader is looked for again.
const ATTEMPTS: usize = 8;

fn corrupt(why: impl std::fmt::Display, place: Place) -> PartError {
    PartError::Corrupt(format!("{why}, in block file {} at block {}", place.file, place.block))
}

impl Shared {
    /// The whole check blocks around `range`.
    pub(crate) fn read(
        &self,
        slot: SlotId,
        key: PartKey,
        range: Range<u32>,
    ) -> Result<Checked, PartError> {
        let mut tried = None;
        for _ in 0..ATTEMPTS {
            let failed = |e| self.index_failed(&e);
            // What is put before it is declared rebuilt is seen below.
            let rebuilding = self.is_rebuilding(slot, key.blob.volume());
            let Some(place) = self.index.part(slot, key).map_err(failed)? else {
                let deleted = self.index.tombstone(slot, key.blob).map_err(failed)?.is_some();
                if deleted {
                    return Err(PartError::Deleted);
                }
                self.check_all_read()?;
                return Err(if rebuilding { PartError::NotRebuilt } else { PartError::NotFound });
            };
            self.doubts.check(place.file)?;
            match tried {
                Some((before, error)) if before == place => {
                    self.metrics.read_failed();
                    self.note_damage(slot, key);
                    return Err(error);
                }
                _ => {}
            }
            match self.read_at(place, slot, key, range.clone()) {
                Ok(data) => {
                    if data.data().len() == key.blob.part_len() as usize {
                        self.reads_well(slot, key);
                    }
                    self.metrics.read(data.data().len());
                    return Ok(data);
                }
                Err(error) => tried = Some((place, error)),
            }
        }
        Err(PartError::Io("the part kept moving while it was read".to_owned()))
    }

    /// The same, of the record at `place`.
    pub(crate) fn read_at(
        &self,
        place: Place,
        slot: SlotId,
        key: PartKey,
        range: Range<u32>,
    ) -> Result<Checked, PartError> {
        let len = key.blob.part_len();
        let wide = widen(range, len);
        let offset = payload_offset(len);
        let file = self.file(place)?;
        if offset < DISK_BLOCK {
            let record = read_blocks(&file, place.block, footprint_blocks(len))?;
            let entry = checked_entry(&record, self, place, slot, key)?;
            let data = record.slice(offset..offset + len as usize);
            return verified(data, entry.table, place);
        }
        let (first, last) = (wide.start / DISK_BLOCK as u32, wide.end.div_ceil(DISK_BLOCK as u32));
        let cached = self.tables.lock().get(&place).cloned();
        let (table, data) = match cached {
            Some(table) => {
                let buf = read_blocks(&file, place.block + 1 + first, last - first)?;
                (table, buf)
            }
            // The table lies right before the first byte: one read brings both.
            None if first == 0 => {
                let buf = read_blocks(&file, place.block, 1 + last)?;
                let table = self.remember(place, checked_entry(&buf, self, place, slot, key)?);
                (table, buf.slice(DISK_BLOCK..))
            }
            None => {
                let table = self.stored_checks(place, slot, key)?;
                let buf = read_blocks(&file, place.block + 1 + first, last - first)?;
                (table, buf)
            }
        };
        let checks = wide.start / CHECK_BLOCK..wide.end.div_ceil(CHECK_BLOCK);
        let checks = table[checks.start as usize..checks.end as usize].to_vec();
        verified(data.slice(..wide.len()), checks, place)
    }

    /// The checksum table of the record at `place`.
    pub(crate) fn stored_checks(
        &self,
        place: Place,
        slot: SlotId,
        key: PartKey,
    ) -> Result<Arc<[u32]>, PartError> {
        let block = read_blocks(&*self.file(place)?, place.block, 1)?;
        Ok(self.remember(place, checked_entry(&block, self, place, slot, key)?))
    }

    fn remember(&self, place: Place, entry: Entry) -> Arc<[u32]> {
        let table: Arc<[u32]> = entry.table.into();
        self.tables.lock().put(place, table.clone());
        table
    }

    fn file(&self, place: Place) -> Result<Arc<BlockFile>, PartError> {
        let file = self.files.read().get(&place.file).cloned();
        file.ok_or_else(|| corrupt("the file is missing or cannot be opened", place))
    }
}

fn read_blocks(file: &BlockFile, block: u32, blocks: u32) -> Result<Bytes, PartError> {
    file.read(block, blocks).map_err(|e| match e.kind() {
        std::io::ErrorKind::UnexpectedEof => {
            corrupt("the file is cut off", Place { file: file.number, block })
        }
        _ => PartError::Io(format!("reading block file {}: {e}", file.number)),
    })
}

fn checked_entry(
    block: &[u8],
    shared: &Shared,
    place: Place,
    slot: SlotId,
    key: PartKey,
) -> Result<Entry, PartError> {
    let entry = parse(block, shared.disk, place).map_err(|e| corrupt(e, place))?;
    if entry.what == What::Lost(key) && entry.slot == slot {
        return Err(corrupt("the part was lost to damage of the disk", place));
    }
    if entry.what != What::Put(key) || entry.slot != slot {
        return Err(corrupt("another record lies there", place));
    }
    Ok(entry)
}

fn verified(data: Bytes, checks: Vec<u32>, place: Place) -> Result<Checked, PartError> {
    let data = Checked::received(data, checks)
        .ok_or_else(|| corrupt("table and payload do not add up", place))?;
    data.verify().map_err(|e| corrupt(e, place))?;
    Ok(data)
}
