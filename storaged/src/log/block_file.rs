//! A block file: a preallocated file that records are appended to.
//!
//! Space is handed out in order, one record after another; nothing is ever overwritten in place. So
//! a crash can only cut off the tail, recovery is one forward scan, and a reader needs no lock: once
//! a record is in the index, its bytes do not move until the whole file is compacted away. A file
//! that is full is sealed: cut off behind its last record. Numbers of files are never used twice.
//!
//! ```text
//! | record | record | record | .... | zeros ........... |   (4 KiB blocks; see record.rs)
//! ```

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use proto::buffer::Aligned;
use proto::checksum::{Checked, Mismatch};
use proto::id::DiskId;
use proto::limits::{CHECK_BLOCK, DISK_BLOCK};

use crate::io::aligned::PooledBuf;
use crate::io::calls::Calls;
use crate::io::direct::DirectFile;
#[cfg(test)]
use crate::io::faults::{self, Call};
use crate::io::medium::{DiskDir, Mode};
use crate::log::record::{Entry, MAX_RECORD, Place, footprint_blocks, parse, payload_offset};

const BLOCK: u64 = DISK_BLOCK as u64;
/// Smallest block file, in bytes: one that holds the largest part and some more.
pub(crate) const MIN_BLOCK_FILE: u64 = 16 << 20;
/// Largest block file, in bytes.
pub(crate) const MAX_BLOCK_FILE: u64 = 16 << 30;
/// Bytes read at once while scanning small records.
const WINDOW: usize = 1 << 20;
/// From this size on a record is stepped over instead of read through, in blocks.
const LARGE: u32 = (256 << 10) / DISK_BLOCK as u32;

const _: () = assert!(MIN_BLOCK_FILE > MAX_RECORD);

/// What can be done with the files of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// All of it.
    Write,
    /// They are on a filesystem that is mounted read-only.
    Read,
}

/// One open block file.
#[derive(Debug)]
pub(crate) struct BlockFile {
    /// Its number, which is its name.
    pub(crate) number: u32,
    /// Its bytes.
    pub(crate) io: DirectFile,
}

/// The directory of the block files.
pub(crate) fn directory(disk: &Path) -> PathBuf {
    disk.join("blocks")
}

fn path(disk: &Path, number: u32) -> PathBuf {
    directory(disk).join(format!("{number:08}"))
}

/// Makes durable which block files there are.
pub(crate) fn sync_block_files(disk: &DiskDir) -> io::Result<()> {
    disk.medium.sync_directory(&directory(disk))
}

impl BlockFile {
    /// A new, empty, preallocated file. Nothing stays behind when there is no room.
    pub(crate) fn create(
        disk: &DiskDir,
        number: u32,
        len: u64,
        calls: &Arc<Calls>,
    ) -> io::Result<Self> {
        let path = path(disk, number);
        let _call = calls.begin();
        let io = DirectFile::open(&*disk.medium, &path, Mode::Create, calls.clone())?;
        let ready = io.preallocate(len).and_then(|()| sync_block_files(disk));
        if let Err(e) = ready {
            disk.medium.remove(&path)?;
            return Err(e);
        }
        Ok(Self { number, io })
    }

    /// Opens an existing file.
    pub(crate) fn open(
        disk: &DiskDir,
        number: u32,
        access: Access,
        calls: &Arc<Calls>,
    ) -> io::Result<Self> {
        let mode = match access {
            Access::Write => Mode::Write,
            Access::Read => Mode::Read,
        };
        let path = path(disk, number);
        Ok(Self { number, io: DirectFile::open(&*disk.medium, &path, mode, calls.clone())? })
    }

    /// Takes the file away. Open handles go on reading it.
    pub(crate) fn remove(disk: &DiskDir, number: u32) -> io::Result<()> {
        #[cfg(test)]
        faults::check(&path(disk, number), Call::Remove, 0..u64::MAX)?;
        match disk.medium.remove(&path(disk, number)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// Blocks of the file.
    pub(crate) fn blocks(&self) -> io::Result<u32> {
        Ok((self.io.len()? / BLOCK) as u32)
    }

    /// Reads whole blocks.
    pub(crate) fn read(&self, block: u32, blocks: u32) -> io::Result<Bytes> {
        let len = blocks as usize * DISK_BLOCK;
        let mut buf = PooledBuf::at_least(len);
        self.io.read_at(u64::from(block) * BLOCK, &mut buf.as_mut()[..len])?;
        Ok(Bytes::from_owner(buf).slice(..len))
    }

    /// The whole payload of a record, with its checks, not yet verified.
    pub(crate) fn payload(&self, found: &Found) -> io::Result<Checked> {
        let len = found.entry.payload_len;
        let buf = self.read(found.block, footprint_blocks(len))?;
        let at = payload_offset(len);
        let data = buf.slice(at..at + len as usize);
        Ok(Checked::received(data, found.entry.table.clone()).expect("a table fits its payload"))
    }

    /// The same, with zeros for what cannot be read, check block by check block.
    pub(crate) fn salvage(&self, found: &Found) -> Checked {
        let (len, offset) = (found.entry.payload_len, payload_offset(found.entry.payload_len));
        let blocks = footprint_blocks(len);
        let mut record = vec![0; blocks as usize * DISK_BLOCK];
        // Pieces of a check block, from the block with its first byte on.
        let (first, step) = ((offset / DISK_BLOCK) as u32, CHECK_BLOCK / DISK_BLOCK as u32);
        for from in (first..blocks).step_by(step as usize) {
            let count = step.min(blocks - from);
            if let Ok(read) = self.read(found.block + from, count) {
                record[from as usize * DISK_BLOCK..][..read.len()].copy_from_slice(&read);
            }
        }
        let data = Bytes::from(record).slice(offset..offset + len as usize);
        Checked::received(data, found.entry.table.clone()).expect("a table fits its payload")
    }

    /// Is the payload what its table says? A block that cannot be read is not.
    pub(crate) fn verify(&self, found: &Found) -> Result<(), Mismatch> {
        match self.payload(found) {
            Ok(payload) => payload.verify(),
            Err(_) => Err(Mismatch { block: 0 }),
        }
    }
}

/// Bytes of a file that perhaps cannot be opened.
pub(crate) fn len_of(disk: &DiskDir, number: u32) -> io::Result<u64> {
    disk.medium.len(&path(disk, number))
}

/// Numbers of the block files there are, in order. Other names are left alone.
pub(crate) fn numbers(disk: &DiskDir) -> io::Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for name in disk.medium.names(&directory(disk))? {
        let name = name.to_string_lossy();
        if name.len() == 8
            && let Ok(number) = name.parse()
        {
            numbers.push(number);
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// A record that a scan came across.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    /// Where it starts.
    pub(crate) block: u32,
    /// Its checked header.
    pub(crate) entry: Entry,
}

impl Found {
    /// The block behind it.
    pub(crate) fn end(&self) -> u32 {
        self.block + footprint_blocks(self.entry.payload_len)
    }
}

/// Walks the records of a file. Behind a damaged record it looks for the next good one, block by
/// block; sequences that do not rise are remains of something older and are passed over.
pub(crate) struct Scan<'a> {
    file: &'a BlockFile,
    disk: DiskId,
    at: u32,
    end: u32,
    sequence: u64,
    window: Aligned,
    window_start: u32,
    window_blocks: u32,
    step: u32,
    /// It has stepped over something that is no record, or cannot be read.
    pub(crate) damaged: bool,
}

impl<'a> Scan<'a> {
    /// From `start` to the end of the file, or to `end` if that comes first.
    pub(crate) fn new(file: &'a BlockFile, disk: DiskId, start: u32, end: u32) -> io::Result<Self> {
        Ok(Self {
            file,
            disk,
            at: start,
            end: end.min(file.blocks()?),
            sequence: 0,
            window: Aligned::zeroed(WINDOW),
            window_start: 0,
            window_blocks: 0,
            step: (WINDOW / DISK_BLOCK) as u32,
            damaged: false,
        })
    }

    /// The payload of the record that was found last, with its checks, not yet verified: from what was read of the
    /// file already, if it is all there.
    pub(crate) fn payload(&self, found: &Found) -> io::Result<Checked> {
        let window = self.window_start..self.window_start + self.window_blocks;
        if found.block < window.start || found.end() > window.end {
            return self.file.payload(found);
        }
        let len = found.entry.payload_len as usize;
        let from = (found.block - window.start) as usize * DISK_BLOCK
            + payload_offset(found.entry.payload_len);
        let data = Bytes::copy_from_slice(&self.window[from..from + len]);
        Ok(Checked::received(data, found.entry.table.clone()).expect("a table fits its payload"))
    }

    /// Reads on until `block` is in the window. `false` if it cannot be read.
    fn fill(&mut self, block: u32) -> bool {
        if (self.window_start..self.window_start + self.window_blocks).contains(&block) {
            return true;
        }
        for step in [self.step, 1] {
            let blocks = step.min(self.end - block);
            let bytes = blocks as usize * DISK_BLOCK;
            let offset = u64::from(block) * BLOCK;
            if self.file.io.read_at(offset, &mut self.window[..bytes]).is_ok() {
                (self.window_start, self.window_blocks) = (block, blocks);
                return true;
            }
        }
        self.window_blocks = 0;
        false
    }
}

impl Iterator for Scan<'_> {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        while self.at < self.end {
            let block = self.at;
            let readable = self.fill(block);
            let from = (block - self.window_start) as usize * DISK_BLOCK;
            let place = Place { file: self.file.number, block };
            let entry = readable
                .then(|| parse(&self.window[from..from + DISK_BLOCK], self.disk, place).ok())
                .flatten()
                .filter(|entry| entry.sequence > self.sequence);
            let Some(entry) = entry else {
                self.at += 1;
                self.step = (WINDOW / DISK_BLOCK) as u32;
                self.damaged = true;
                continue;
            };
            let found = Found { block, entry };
            if found.end() > self.end {
                self.at += 1;
                self.damaged = true;
                continue;
            }
            let large = found.end() - block >= LARGE;
            self.step = if large { 1 } else { (WINDOW / DISK_BLOCK) as u32 };
            self.sequence = found.entry.sequence;
            self.at = found.end();
            return Some(found);
        }
        None
    }
}
