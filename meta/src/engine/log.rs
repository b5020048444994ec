//! The log beside redb's file: changes that are durable and not in redb yet.
//!
//! A commit of redb rewrites pages of several trees and a header, and syncs. A record of the log is one
//! write over zeros that are there already, and one data sync that has nothing to note in the
//! filesystem's journal. So what somebody waits for goes here, and redb takes it over later, many
//! records in one commit.
//!
//! ```text
//! offset  size  field     meaning (numbers are little endian)
//! 0       8     magic     b"ASHLLOG\n"
//! 8       8     epoch     drawn for each commit of redb, which names it
//! 16      4     index     0, 1, 2 ... within the epoch
//! 20      4     len       bytes of entries
//! 24      4     crc       CRC-32C of bytes 0 to 23 and of the entries
//! 28            entries   key length 1, key; value length 4 (2^32 - 1: removed), value
//! ```
//!
//! A record starts on a 4 KiB boundary; zeros pad it. The first of an epoch lies at 0.
//!
//! Invariants:
//! * A record counts only under the epoch that redb's last commit names, and only behind all records
//!   before it. So what is replayed is a prefix of what was logged since that commit, and a commit
//!   makes all records obsolete at once.
//! * Within an epoch nothing is written twice, and no two records share a block: a torn record harms
//!   no other.
//! * After a failed write or sync nothing is logged until the next commit.

use std::io;

use redb::StorageBackend;

use super::{Batch, Value};
use crate::key::Key;

const MAGIC: [u8; 8] = *b"ASHLLOG\n";
const HEADER: usize = 28;
const REMOVED: u32 = u32::MAX;
/// Records begin on multiples of this, which is also what direct I/O asks for.
const BLOCK: usize = 4096;
/// Most bytes of the file. It is read whole when a volume is opened after a crash.
const MOST: u64 = 8 << 20;
/// A batch with more bytes of entries is better off in redb at once.
const LARGEST: usize = 256 << 10;
/// The file grows by zeros up to a multiple of this.
const GROWTH: u64 = 256 << 10;

/// The log of one volume.
pub(crate) struct Log {
    file: Box<dyn StorageBackend>,
    /// `None`: it takes no records before the next commit.
    epoch: Option<u64>,
    index: u32,
    /// Where the next record goes.
    at: u64,
    /// Bytes of the file: all of them have been written.
    len: u64,
    buffer: Buffer,
}

impl Log {
    /// Over a file that may hold anything.
    pub(crate) fn new(file: Box<dyn StorageBackend>) -> io::Result<Self> {
        // Part of a block at the end is not used.
        let len = file.len()? / BLOCK as u64 * BLOCK as u64;
        Ok(Self { file, epoch: None, index: 0, at: 0, len, buffer: Buffer::default() })
    }

    /// What was logged since the commit that named `epoch`, all in one.
    pub(crate) fn replay(&self, epoch: u64) -> io::Result<Batch> {
        let mut bytes = vec![0; self.len.min(MOST) as usize];
        self.file.read(0, &mut bytes)?;
        let mut batch = Batch::new();
        let (mut at, mut index) = (0, 0);
        while let Some(record) = bytes.get(at..).and_then(|rest| Record::parse(rest, epoch))
            && record.index == index
            && decode(record.entries, &mut batch).is_some()
        {
            at += (HEADER + record.entries.len()).next_multiple_of(BLOCK);
            index += 1;
        }
        let behind = bytes[at..].chunks(BLOCK).skip(1);
        let lost = behind.filter(|block| Record::parse(block, epoch).is_some()).count();
        if lost > 0 {
            tracing::error!(
                "the metadata log is damaged behind record {index}: {lost} more are lost"
            );
        }
        Ok(batch)
    }

    /// A commit has named a new epoch: everything logged is obsolete.
    pub(crate) fn begin(&mut self, epoch: u64) {
        (self.epoch, self.index, self.at) = (Some(epoch), 0, 0);
    }

    /// Takes no records until the next commit.
    pub(crate) fn stop(&mut self) {
        self.epoch = None;
    }

    /// Makes a batch durable. `false`: there is no room for it.
    pub(crate) fn append(&mut self, batch: &Batch) -> io::Result<bool> {
        let Some(epoch) = self.epoch else { return Ok(false) };
        let entries = encoded_len(batch);
        let end = self.at + (HEADER + entries).next_multiple_of(BLOCK) as u64;
        if entries > LARGEST || end > MOST {
            return Ok(false);
        }
        let record = self.buffer.start();
        let start = record.len();
        record.resize(start + HEADER, 0);
        encode(batch, record);
        let (head, rest) = record[start..].split_at_mut(HEADER);
        head[..8].copy_from_slice(&MAGIC);
        head[8..16].copy_from_slice(&epoch.to_le_bytes());
        head[16..20].copy_from_slice(&self.index.to_le_bytes());
        head[20..24].copy_from_slice(&(entries as u32).to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&head[..24]), rest);
        head[24..].copy_from_slice(&crc.to_le_bytes());
        // What lies beyond the file's end is written as zeros, once for many records.
        let ahead = if end > self.len { end.next_multiple_of(GROWTH) } else { end };
        let bytes = self.buffer.padded((ahead - self.at) as usize);
        // A failure may leave the record whole on the disk: the next one must not take its place.
        self.epoch = None;
        self.file.write(self.at, bytes)?;
        self.file.sync_data()?;
        self.epoch = Some(epoch);
        self.len = self.len.max(ahead);
        self.at = end;
        self.index += 1;
        Ok(true)
    }
}

/// A record whose checksum is right.
struct Record<'a> {
    index: u32,
    entries: &'a [u8],
}

impl<'a> Record<'a> {
    fn parse(bytes: &'a [u8], epoch: u64) -> Option<Self> {
        let mut rest = bytes;
        let ours = take::<8>(&mut rest)? == MAGIC && u64::from_le_bytes(take(&mut rest)?) == epoch;
        let index = u32::from_le_bytes(take(&mut rest)?);
        let len = u32::from_le_bytes(take(&mut rest)?) as usize;
        let crc = u32::from_le_bytes(take(&mut rest)?);
        let entries = rest.get(..len)?;
        let right = crc32c::crc32c_append(crc32c::crc32c(&bytes[..24]), entries) == crc;
        (ours && right).then_some(Self { index, entries })
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*head)
}

fn encoded_len(batch: &Batch) -> usize {
    let one = |(key, value): (&Key, &Option<Value>)| {
        1 + key.as_bytes().len() + 4 + value.as_ref().map_or(0, |value| value.len())
    };
    batch.iter().map(one).sum()
}

fn encode(batch: &Batch, out: &mut Vec<u8>) {
    for (key, value) in batch {
        let key = key.as_bytes();
        out.push(key.len() as u8);
        out.extend_from_slice(key);
        let len = value.as_ref().map_or(REMOVED, |value| value.len() as u32);
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(value.as_deref().unwrap_or_default());
    }
}

/// Adds the entries to a batch; `None` where they make no sense.
fn decode(mut bytes: &[u8], batch: &mut Batch) -> Option<()> {
    while !bytes.is_empty() {
        let [len] = take(&mut bytes)?;
        let (key, rest) = bytes.split_at_checked(len.into())?;
        bytes = rest;
        let len = u32::from_le_bytes(take(&mut bytes)?);
        let value = match len {
            REMOVED => None,
            len => {
                let (value, rest) = bytes.split_at_checked(len as usize)?;
                bytes = rest;
                Some(Value::from(value))
            }
        };
        batch.insert(Key::from_bytes(key)?, value);
    }
    Some(())
}

/// Memory for one record, which direct I/O wants aligned.
#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

impl Buffer {
    /// Ready to append to. Bytes before what is appended are for alignment.
    fn start(&mut self) -> &mut Vec<u8> {
        // What a record takes at most: appending does not move it.
        let most = HEADER + LARGEST + GROWTH as usize + 2 * BLOCK;
        self.bytes.clear();
        self.bytes.reserve(most);
        self.start = self.bytes.as_ptr().align_offset(BLOCK);
        self.bytes.resize(self.start, 0);
        &mut self.bytes
    }

    /// What was appended, with zeros behind it up to `len`.
    fn padded(&mut self, len: usize) -> &[u8] {
        self.bytes.resize(self.start + len, 0);
        &self.bytes[self.start..]
    }
}
