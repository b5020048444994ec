//! Opening a disk: from what lies in its directory to an owner that can go on.
//!
//! With a good index only the log behind its checkpoint is read. Without one, all block files are,
//! and the index is made anew. Either way the same code ([`Ledger`]) takes each record in, and
//! [`crate::recovery`] says where the log ends.

use std::collections::HashMap;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use crate::ahead::Ahead;
use crate::block_file::{BlockFile, Found, Scan, numbers};
use crate::commit::{Dead, Owner};
use crate::disk::{DiskOptions, Shared};
use crate::error::DiskProblem;
use crate::fill::{FileState, Space, Stage};
use crate::index::{Index, Mark, Saved};
use crate::ledger::Ledger;
use crate::record::{Place, What, decode_blobs};
use crate::recovery::{Seen, end_of_log};
use crate::superblock::Superblock;
use proto::buffer::Aligned;
use proto::limits::DISK_BLOCK;

const BLOCK: u64 = DISK_BLOCK as u64;
/// A new life of the disk starts its sequences so far behind the last one it knows of, so that no
/// number of a torn batch is ever used again.
const SEQUENCE_JUMP: u64 = 1 << 32;
/// Changes after which a rebuild writes a checkpoint.
const REBUILD_CHECKPOINT: usize = 64 << 10;

/// The index's file.
pub(crate) fn index_path(dir: &Path) -> PathBuf {
    dir.join("index.redb")
}

/// Everything up to a running owner.
pub(crate) fn recover(
    dir: &Path,
    superblock: &Superblock,
    options: &DiskOptions,
) -> Result<Owner, DiskProblem> {
    let path = index_path(dir);
    let memory = options.memory;
    if options.rebuild_index {
        set_aside(&path)?;
    }
    let missing = !path.exists();
    // A damaged file may also make redb panic; the logs hold everything, so that is no reason to stop.
    let opened = catch_unwind(|| {
        let index = Index::open(&path, memory)?;
        let saved = index.saved(superblock.disk)?;
        Ok((index, saved))
    })
    .unwrap_or_else(|_| Err(redb::Error::Corrupted("reading it panicked".to_owned())));
    let files = numbers(dir)?;
    match opened {
        Ok((index, Some(saved))) if usable(&saved, &files) => {
            match Recovery::new(dir, superblock, index, &files)?.replay(saved) {
                Err(DiskProblem::Index(why)) => tracing::warn!("the index is damaged: {why}"),
                done => return done,
            }
        }
        Ok((index, saved)) => {
            drop(index);
            if saved.is_none() && files.is_empty() {
                let index = Index::open(&path, memory)?;
                return Recovery::new(dir, superblock, index, &files)?.rebuild();
            }
            if !missing {
                tracing::warn!(dir = %dir.display(), "the index does not match the block files");
            }
        }
        Err(e) => tracing::warn!(dir = %dir.display(), "the index is damaged: {e}"),
    }
    set_aside(&path)?;
    tracing::warn!(dir = %dir.display(), "rebuilding the index from {} block files", files.len());
    let index = Index::open(&path, memory)?;
    Recovery::new(dir, superblock, index, &files)?.rebuild()
}

/// Is the file there in which the checkpoint ends? (It may have been about to be made.)
fn usable(saved: &Saved, files: &[u32]) -> bool {
    saved.mark.place.block == 0 || files.contains(&saved.mark.place.file)
}

/// Keeps a damaged index for whoever wants to know why; one is enough.
pub(crate) fn set_aside(path: &Path) -> std::io::Result<()> {
    if path.exists() {
        std::fs::rename(path, path.with_extension("redb.damaged"))?;
    }
    Ok(())
}

struct Recovery<'a> {
    superblock: &'a Superblock,
    shared: Shared,
    ledger: Ledger,
    sequence: u64,
    tail: Option<u32>,
}

impl<'a> Recovery<'a> {
    fn new(
        dir: &Path,
        superblock: &'a Superblock,
        index: Index,
        files: &[u32],
    ) -> Result<Self, DiskProblem> {
        let index = Arc::new(index);
        let shared = Shared::new(dir, superblock.disk, index.clone());
        for number in files {
            let file = Arc::new(BlockFile::open(dir, *number, &shared.calls)?);
            shared.files.write().insert(*number, file);
        }
        shared.reserve_numbers(files.last().copied().unwrap_or(0));
        let space = Space::new(superblock.capacity, superblock.block_file);
        let ledger = Ledger { index, space, holes: Vec::new() };
        Ok(Self { superblock, shared, ledger, sequence: 0, tail: None })
    }

    /// All block files, from the first record on.
    fn rebuild(mut self) -> Result<Owner, DiskProblem> {
        let mut files: Vec<u32> = self.shared.files.read().keys().copied().collect();
        files.sort_unstable();
        for number in &files {
            self.take_file(*number, 0, Some(number) == files.last())?;
        }
        self.into_owner(true)
    }

    /// What was written behind the checkpoint.
    fn replay(mut self, saved: Saved) -> Result<Owner, DiskProblem> {
        let Mark { place, sequence } = saved.mark;
        self.sequence = sequence;
        self.ledger.space.parts = saved.parts;
        self.ledger.space.files = saved.files;
        self.shared.reserve_numbers(place.file.saturating_sub(1));
        *self.shared.slots.write() = saved.slots;
        self.drop_doomed(place.file)?;
        let mut files: Vec<u32> = self.shared.files.read().keys().copied().collect();
        files.sort_unstable();
        let newer: Vec<u32> = files.iter().copied().filter(|n| *n >= place.file).collect();
        for number in &newer {
            let start = if *number == place.file { place.block } else { 0 };
            self.take_file(*number, start, Some(number) == newer.last())?;
        }
        for (number, state) in &self.ledger.space.files {
            if !files.contains(number) && (state.live > 0 || state.tombs > 0) {
                tracing::error!(disk = %self.shared.disk, "block file {number} is missing: its parts are lost");
            }
        }
        self.into_owner(false)
    }

    /// Finishes what a crash interrupted: files that the checkpoint had emptied.
    fn drop_doomed(&mut self, mark: u32) -> Result<(), DiskProblem> {
        let known = &self.ledger.space.files;
        let needed = |n: &u32| known.get(n).is_some_and(|file| file.stage != Stage::Doomed);
        let there: Vec<u32> = self.shared.files.read().keys().copied().collect();
        let mut gone: Vec<u32> = there.into_iter().filter(|n| *n < mark && !needed(n)).collect();
        gone.extend(known.iter().filter(|(_, f)| f.stage == Stage::Doomed).map(|(n, _)| *n));
        if gone.is_empty() {
            return Ok(());
        }
        for number in &gone {
            BlockFile::remove(&self.shared.dir, *number)?;
            self.shared.files.write().remove(number);
            self.ledger.space.files.remove(number);
        }
        crate::block_file::sync_directory(&crate::block_file::directory(&self.shared.dir))?;
        let dead: Dead = self.ledger.index.dead_in(|file| gone.contains(&file))?;
        self.ledger.bury(&dead)?;
        Ok(())
    }

    /// Takes in the records of one file from `start` on; only the last file can end in a tear.
    fn take_file(&mut self, number: u32, start: u32, last: bool) -> Result<(), DiskProblem> {
        let file = self.shared.files.read()[&number].clone();
        let found: Vec<Found> = Scan::new(&file, self.shared.disk, start, u32::MAX)?.collect();
        let seen: Vec<Seen> = found
            .iter()
            .map(|f| Seen { block: f.block, end: f.end(), batch: f.entry.batch })
            .collect();
        let end = if last {
            end_of_log(start, &seen, |suspect| {
                let found = found.iter().find(|f| f.block == suspect.block);
                found.is_some_and(|found| file.verify(found).is_ok())
            })
        } else {
            seen.last().map_or(start, |record| record.end)
        };
        if let Some(highest) = found.last() {
            self.sequence = self.sequence.max(highest.entry.sequence);
        }
        *self.ledger.space.file(number) = FileState {
            tail: end,
            stage: if last { Stage::Open } else { Stage::Sealed },
            ..*self.ledger.space.file(number)
        };
        for found in found.iter().filter(|found| found.block < end) {
            self.take_record(&file, found)?;
        }
        if last {
            self.tail = Some(number);
            self.erase_behind(&file, end, seen.last().map_or(end, |record| record.end))?;
        }
        Ok(())
    }

    fn take_record(&mut self, file: &BlockFile, found: &Found) -> Result<(), DiskProblem> {
        let slot = found.entry.slot;
        let place = Place { file: file.number, block: found.block };
        if let What::Put(key) | What::Lost(key) = found.entry.what {
            self.ledger.replay_put(slot, key, place)?;
        } else {
            let payload = match file.payload(found) {
                Ok(payload) if payload.verify().is_ok() => payload,
                read => {
                    let why = read.err().map_or("it has rotted".to_owned(), |e| e.to_string());
                    let Place { file, block } = place;
                    tracing::error!(disk = %self.shared.disk, file, block, "what a record said is lost: {why}");
                    return Ok(());
                }
            };
            match found.entry.what {
                What::Put(_) | What::Lost(_) => unreachable!("taken above"),
                What::Delete => self.ledger.delete(slot, &decode_blobs(payload.data()), place)?,
                What::Forget => self.ledger.forget(slot, &decode_blobs(payload.data()))?,
                What::Slot => self.shared.learn_slot(slot, payload.data()),
            }
        }
        if self.ledger.index.pending() >= REBUILD_CHECKPOINT {
            self.save(Mark {
                place: Place { file: file.number, block: found.end() },
                sequence: found.entry.sequence,
            })?;
        }
        Ok(())
    }

    fn save(&self, mark: Mark) -> Result<(), DiskProblem> {
        let checkpoint = self.ledger.index.freeze(self.shared.disk, &self.ledger.space, mark);
        self.ledger.index.write(&checkpoint)?;
        self.ledger.index.thaw();
        Ok(())
    }

    /// Remains of a torn batch must not be found by a later scan: zeros take their place.
    fn erase_behind(&self, file: &BlockFile, end: u32, seen: u32) -> Result<(), DiskProblem> {
        if seen <= end {
            return Ok(());
        }
        tracing::warn!(disk = %self.shared.disk, file = file.number, "the last batch was torn: cut off");
        // Made as long again by `into_owner`, with zeros.
        file.io.truncate(u64::from(end) * BLOCK)?;
        Ok(file.io.sync()?)
    }

    fn into_owner(mut self, rebuilt: bool) -> Result<Owner, DiskProblem> {
        self.sequence += SEQUENCE_JUMP;
        let current = self.tail.and_then(|number| self.shared.files.read().get(&number).cloned());
        if let Some(current) = &current {
            // A log that was cut off, or sealed in vain, is made whole again; without room for that
            // it stays sealed.
            let whole = current.io.len()? >= self.superblock.block_file;
            if !whole && let Err(e) = current.io.preallocate(self.superblock.block_file) {
                tracing::warn!(disk = %self.shared.disk, "no room for a whole block file: {e}");
                self.ledger.space.file(current.number).stage = Stage::Sealed;
            }
        }
        let open = |number: u32| {
            self.ledger.space.files.get(&number).is_some_and(|file| file.stage == Stage::Open)
        };
        let current = current.filter(|file| open(file.number));
        let mut owner = Owner {
            shared: Arc::new(self.shared),
            ledger: self.ledger,
            current,
            sequence: self.sequence,
            scratch: Aligned::zeroed(DISK_BLOCK),
            ahead: Ahead::default(),
            compaction: None,
            compact_from: Instant::now(),
            doomed: HashMap::new(),
            checkpoint: None,
            logged: 0,
            changed_at: Instant::now(),
        };
        owner.punch();
        if rebuilt {
            owner.checkpoint_now()?;
        }
        Ok(owner)
    }
}
