//! The file that redb keeps the index in, and what takes its place where there can be none.
//!
//! On a filesystem that cannot be written the file that is there is only read, and what redb writes
//! stays in memory, over it. Without any file all of it does: the index is a cache, and is made anew
//! from the logs the next time.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use redb::StorageBackend;

use crate::io::calls::Calls;
#[cfg(test)]
use crate::io::faults::{self, Call};
use crate::io::medium::{Medium, MediumFile, Mode};

/// Bytes that are kept together in memory.
const BLOCK: usize = 4096;

/// Where an index is.
#[derive(Clone, Debug)]
pub(crate) enum Home {
    /// In this file, which is made if need be.
    File(PathBuf),
    /// In this file, which is left as it is, and in memory.
    Over(PathBuf),
    /// In memory.
    Memory,
}

/// What redb reads and writes. Nobody else has the file: the disk is locked.
#[derive(Debug)]
pub(super) struct IndexFile {
    file: Option<Box<dyn MediumFile>>,
    /// What was written, where that does not go to the file.
    over: Option<Mutex<Over>>,
    calls: Arc<Calls>,
    #[cfg(test)]
    path: PathBuf,
}

#[derive(Debug, Default)]
struct Over {
    len: u64,
    /// Bytes of the file that still count.
    base: u64,
    blocks: BTreeMap<u64, Box<[u8; BLOCK]>>,
}

impl IndexFile {
    pub(super) fn open(medium: &dyn Medium, home: &Home, calls: Arc<Calls>) -> io::Result<Self> {
        let (file, path) = match home {
            Home::File(path) => (Some(medium.open(path, Mode::CachedWrite)?), path.as_path()),
            Home::Over(path) => match medium.open(path, Mode::Cached) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => (None, path.as_path()),
                file => (Some(file?), path.as_path()),
            },
            Home::Memory => (None, Path::new("")),
        };
        let over = match home {
            Home::File(_) => None,
            Home::Over(_) | Home::Memory => {
                let len = file.as_ref().map_or(Ok(0), |file| file.size())?;
                Some(Mutex::new(Over { len, base: len, blocks: BTreeMap::new() }))
            }
        };
        #[cfg(not(test))]
        let _ = path;
        Ok(Self {
            file,
            over,
            calls,
            #[cfg(test)]
            path: path.to_owned(),
        })
    }

    #[cfg(test)]
    fn fault(&self, call: Call, offset: u64, len: usize) -> io::Result<()> {
        faults::check(&self.path, call, offset..offset.saturating_add(len as u64))
    }

    fn file(&self) -> io::Result<&dyn MediumFile> {
        self.file.as_deref().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// What a block holds.
    fn block(&self, over: &Over, number: u64) -> io::Result<[u8; BLOCK]> {
        if let Some(block) = over.blocks.get(&number) {
            return Ok(**block);
        }
        let mut block = [0; BLOCK];
        let start = number * BLOCK as u64;
        let len = over.base.saturating_sub(start).min(BLOCK as u64) as usize;
        if len > 0 {
            self.file()?.read_at(start, &mut block[..len])?;
        }
        Ok(block)
    }
}

/// The pieces of `len` bytes from `offset` on: block, where in it, and where in the bytes.
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let within = (at % BLOCK as u64) as usize;
        let piece = done..len.min(done + BLOCK - within);
        done = piece.end;
        (!piece.is_empty()).then_some((at / BLOCK as u64, within, piece))
    })
}

impl StorageBackend for IndexFile {
    fn len(&self) -> io::Result<u64> {
        let _call = self.calls.begin();
        match &self.over {
            Some(over) => Ok(over.lock().len),
            None => self.file()?.size(),
        }
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let _call = self.calls.begin();
        #[cfg(test)]
        self.fault(Call::ReadIndex, offset, out.len())?;
        let Some(over) = &self.over else { return self.file()?.read_at(offset, out) };
        let over = over.lock();
        if offset + out.len() as u64 > over.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (number, within, piece) in pieces(offset, out.len()) {
            let len = piece.len();
            out[piece].copy_from_slice(&self.block(&over, number)?[within..within + len]);
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let _call = self.calls.begin();
        #[cfg(test)]
        self.fault(Call::WriteIndex, len, 0)?;
        let Some(over) = &self.over else { return self.file()?.truncate(len) };
        let mut over = over.lock();
        let kept = len.div_ceil(BLOCK as u64);
        drop(over.blocks.split_off(&kept));
        // What is cut off reads as zeros when the file is longer again.
        let within = (len % BLOCK as u64) as usize;
        if len < over.len && within > 0 {
            let mut last = self.block(&over, kept - 1)?;
            last[within..].fill(0);
            over.blocks.insert(kept - 1, Box::new(last));
        }
        over.base = over.base.min(len);
        over.len = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let _call = self.calls.begin();
        if self.over.is_some() {
            return Ok(());
        }
        self.file()?.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let _call = self.calls.begin();
        #[cfg(test)]
        self.fault(Call::WriteIndex, offset, data.len())?;
        let Some(over) = &self.over else {
            return self.file()?.write_at(offset, &mut [IoSlice::new(data)]);
        };
        let mut over = over.lock();
        for (number, within, piece) in pieces(offset, data.len()) {
            let mut block = self.block(&over, number)?;
            block[within..within + piece.len()].copy_from_slice(&data[piece]);
            over.blocks.insert(number, Box::new(block));
        }
        over.len = over.len.max(offset + data.len() as u64);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::system::System;
    use redb::{Database, ReadableDatabase, TableDefinition};

    const TABLE: TableDefinition<'_, u64, u64> = TableDefinition::new("numbers");

    fn database(home: &Home) -> Database {
        let file = IndexFile::open(&System, home, Arc::default()).unwrap();
        Database::builder().create_with_backend(file).unwrap()
    }

    fn add(db: &Database, numbers: std::ops::Range<u64>) {
        let txn = db.begin_write().unwrap();
        for n in numbers {
            txn.open_table(TABLE).unwrap().insert(n, 7 * n).unwrap();
        }
        txn.commit().unwrap();
    }

    fn check(db: &Database, count: u64) {
        let table = db.begin_read().unwrap().open_table(TABLE).unwrap();
        assert_eq!(redb::ReadableTableMetadata::len(&table).unwrap(), count);
        assert!((0..count).all(|n| table.get(n).unwrap().unwrap().value() == 7 * n));
    }

    #[test]
    fn what_is_written_over_a_file_is_there_and_the_file_stays_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index.redb");
        add(&database(&Home::File(path.clone())), 0..5000);
        let before = std::fs::read(&path).unwrap();
        let over = database(&Home::Over(path.clone()));
        check(&over, 5000);
        add(&over, 5000..60_000);
        check(&over, 60_000);
        drop(over);
        assert!(std::fs::read(&path).unwrap() == before);
        for home in [Home::Memory, Home::Over(dir.path().join("none"))] {
            let db = database(&home);
            add(&db, 0..20_000);
            check(&db, 20_000);
        }
        assert!(!dir.path().join("none").exists());
    }

    #[test]
    fn what_is_cut_off_and_made_longer_again_is_zeros() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, vec![1; 3 * BLOCK]).unwrap();
        let file = IndexFile::open(&System, &Home::Over(path), Arc::default()).unwrap();
        file.write(BLOCK as u64 - 10, &[2; 20]).unwrap();
        file.set_len(BLOCK as u64 + 5).unwrap();
        file.set_len(3 * BLOCK as u64).unwrap();
        let mut all = vec![9; 3 * BLOCK];
        file.read(0, &mut all).unwrap();
        let mut want = vec![1; BLOCK - 10];
        want.extend([2; 15]);
        want.resize(3 * BLOCK, 0);
        assert!(all == want);
        assert!(file.read(1, &mut all).is_err(), "beyond the end");
    }
}
