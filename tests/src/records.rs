//! What lies on the disks of a demo that is stopped: records of block files, found as a recovery finds them,
//! by their headers (`docs/formats.md`); and ways to damage the ones that keep metadata.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nix::unistd::Whence;
use proto::id::{BLOB_ID_LEN, BlobId};
use proto::limits::{CHECK_BLOCK, DISK_BLOCK, RECORD_HEADER, footprint, payload_offset};

const MAGIC: &[u8] = b"ASHLREC\n";
/// Kinds of records.
const PUT: u8 = 1;
const DELETE: u8 = 2;

/// What a blob is for: the upper two bits of its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Data of files.
    Data,
    /// A chunk of a snapshot of metadata.
    Chunk,
    /// An entry of the journal.
    Entry,
    /// The manifest of a snapshot.
    Manifest,
}

impl Role {
    /// Of this blob.
    pub fn of(blob: BlobId) -> Self {
        [Self::Data, Self::Chunk, Self::Entry, Self::Manifest][(blob.session().0 >> 62) as usize]
    }
}

/// A part of a blob on a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The blob.
    pub blob: BlobId,
    /// Which part of it.
    pub part: u8,
    file: PathBuf,
    /// Where the record begins, in bytes.
    at: u64,
}

impl Record {
    fn payload(&self) -> Range<u64> {
        let start = self.at + payload_offset(self.blob.part_len()) as u64;
        start..start + u64::from(self.blob.part_len())
    }

    /// Flips a bit of the payload; again, and it is as before.
    ///
    /// # Errors
    /// When the file cannot be changed.
    pub fn flip(&self, bit: u64) -> Result<()> {
        self.flip_at(self.payload(), bit)
    }

    /// The same in the header.
    ///
    /// # Errors
    /// When the file cannot be changed.
    pub fn flip_header(&self, bit: u64) -> Result<()> {
        self.flip_at(self.at..self.at + RECORD_HEADER as u64, bit)
    }

    fn flip_at(&self, within: Range<u64>, bit: u64) -> Result<()> {
        let file = File::options().read(true).write(true).open(&self.file)?;
        let (at, mut byte) = (within.start + bit / 8 % (within.end - within.start), [0]);
        file.read_exact_at(&mut byte, at)?;
        byte[0] ^= 1 << (bit % 8);
        file.write_all_at(&byte, at)?;
        Ok(file.sync_all()?)
    }

    /// Changes the payload as whoever wrote it would have: all checksums of the record are right again.
    ///
    /// # Errors
    /// When the file cannot be changed.
    pub fn rewrite(&self, change: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<()> {
        let file = File::options().read(true).write(true).open(&self.file)?;
        let payload = self.payload();
        let mut bytes = vec![0; self.blob.part_len() as usize];
        file.read_exact_at(&mut bytes, payload.start)?;
        change(&mut bytes)?;
        file.write_all_at(&bytes, payload.start)?;
        let blocks = bytes.chunks(CHECK_BLOCK as usize);
        let table: Vec<u8> = blocks.flat_map(|block| crc32c::crc32c(block).to_le_bytes()).collect();
        let mut header = [0; RECORD_HEADER];
        file.read_exact_at(&mut header, self.at)?;
        header[88..92].copy_from_slice(&crc32c::crc32c(&table).to_le_bytes());
        let crc = crc32c::crc32c(&header[..92]);
        header[92..96].copy_from_slice(&crc.to_le_bytes());
        file.write_all_at(&header, self.at)?;
        file.write_all_at(&table, self.at + RECORD_HEADER as u64)?;
        Ok(file.sync_all()?)
    }
}

/// The records of disks: one list for each.
#[derive(Clone, Debug)]
pub struct Disks(Vec<Vec<Record>>);

impl Disks {
    /// What these disks hold, and no disk says was deleted.
    ///
    /// # Errors
    /// When a block file cannot be read.
    pub fn read(directories: impl IntoIterator<Item = PathBuf>) -> Result<Self> {
        let (mut disks, mut deleted) = (Vec::new(), BTreeSet::new());
        for directory in directories {
            let mut records = Vec::new();
            let blocks = directory.join("blocks");
            let files = fs::read_dir(&blocks).with_context(|| format!("listing {blocks:?}"))?;
            let mut files = files.map(|e| Ok(e?.path())).collect::<Result<Vec<_>>>()?;
            files.sort();
            for file in files {
                scan(&file, &mut records, &mut deleted)?;
            }
            disks.push(records);
        }
        let alive = |records: &mut Vec<Record>| {
            records.retain(|record| !deleted.contains(&record.blob));
        };
        disks.iter_mut().for_each(alive);
        Ok(Self(disks))
    }

    /// Records of one disk that keep metadata.
    pub fn metadata(&self, disk: usize) -> impl Iterator<Item = &Record> {
        self.0[disk].iter().filter(|record| Role::of(record.blob) != Role::Data)
    }

    /// All copies of a blob.
    pub fn copies(&self, blob: BlobId) -> Vec<&Record> {
        self.0.iter().flatten().filter(|record| record.blob == blob).collect()
    }

    /// The last copy of a blob on each disk that has one, with the disk's number.
    pub fn copies_by_disk(&self, blob: BlobId) -> Vec<(usize, &Record)> {
        let last = |(disk, records): (usize, &'_ Vec<Record>)| {
            let at = records.iter().rposition(|record| record.blob == blob)?;
            Some((disk, at))
        };
        let found: Vec<_> = self.0.iter().enumerate().filter_map(last).collect();
        found.into_iter().map(|(disk, at)| (disk, &self.0[disk][at])).collect()
    }

    /// Blobs of this kind, in the order in which they were written.
    pub fn blobs(&self, role: Role) -> Vec<BlobId> {
        let all = self.0.iter().flatten().map(|record| record.blob);
        let mut blobs: Vec<BlobId> = all.filter(|blob| Role::of(*blob) == role).collect();
        blobs.sort_by_key(|blob| (blob.session(), blob.sequence()));
        blobs.dedup();
        blobs
    }

    /// What each disk holds: disk, blob and part.
    pub fn parts(&self) -> BTreeSet<(usize, BlobId, u8)> {
        let of = |(disk, records): (usize, &Vec<Record>)| -> Vec<_> {
            records.iter().map(|record| (disk, record.blob, record.part)).collect()
        };
        self.0.iter().enumerate().flat_map(of).collect()
    }
}

/// The puts of a block file, and the blobs that its deletes name.
fn scan(path: &Path, found: &mut Vec<Record>, deleted: &mut BTreeSet<BlobId>) -> Result<()> {
    let file = File::open(path)?;
    let len = file.metadata()?.len();
    let mut at = 0;
    while at < len {
        // Holes are what was given back, or never written.
        let Ok(data) = nix::unistd::lseek(&file, at as i64, Whence::SeekData) else { break };
        at = at.max(data as u64 / DISK_BLOCK as u64 * DISK_BLOCK as u64);
        let mut header = [0; RECORD_HEADER];
        let read = file.read_at(&mut header, at)?;
        // A header that a test has spoilt is none, as a recovery would have it.
        let right = crc32c::crc32c(&header[..92]).to_le_bytes() == header[92..];
        if read < RECORD_HEADER || !header.starts_with(MAGIC) || !right {
            at += DISK_BLOCK as u64;
            continue;
        }
        let payload_len = u32::from_le_bytes(header[52..56].try_into().expect("four bytes"));
        match header[10] {
            PUT => {
                let blob = BlobId::from_bytes(&header[56..87]).context("a put of no blob")?;
                ensure!(blob.part_len() == payload_len, "a part of {payload_len} bytes of {blob}");
                found.push(Record { blob, part: header[11], file: path.to_owned(), at });
            }
            DELETE => {
                let mut payload = vec![0; payload_len as usize];
                file.read_exact_at(&mut payload, at + payload_offset(payload_len) as u64)?;
                deleted.extend(payload.chunks_exact(BLOB_ID_LEN).filter_map(BlobId::from_bytes));
            }
            _ => {}
        }
        at += footprint(payload_len);
    }
    Ok(())
}
