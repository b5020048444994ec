//! The end of every blob: what it holds, so that its live ranges can be found without a scan of all
//! metadata.
//!
//! ```text
//! 0                      data_len                         len - 16      len
//! | range 0 | range 1 | ... | zeros (padding) | entries ... | trailer     |
//!
//! entry     0   8  inode                    trailer   0   8  magic "ASHSUM01"
//! 20 B      8   8  offset in the file       16 B      8   4  number of entries
//!           16  4  length                             12  4  CRC-32C of entries, magic and number
//! ```
//!
//! All numbers are little-endian. Ranges lie one after the other from byte 0 on, in the order of the
//! entries, so that a range's place in the blob is the sum of the lengths before it.

use meta::Ino;

/// Bytes of one entry.
pub(crate) const ENTRY_LEN: usize = 20;
/// Bytes of the trailer.
pub(crate) const TRAILER_LEN: usize = 16;
const MAGIC: &[u8; 8] = b"ASHSUM01";

/// A range of a file that a blob holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The file.
    pub(crate) ino: Ino,
    /// First byte in the file.
    pub(crate) offset: u64,
    /// Bytes.
    pub(crate) len: u32,
}

/// Bytes of a summary with this many entries.
pub(crate) fn summary_len(entries: usize) -> usize {
    entries * ENTRY_LEN + TRAILER_LEN
}

/// Writes the summary; `out` has exactly [`summary_len`] bytes.
pub(crate) fn encode(entries: impl ExactSizeIterator<Item = Entry>, out: &mut [u8]) {
    let count = entries.len();
    assert_eq!(out.len(), summary_len(count), "room for the summary");
    let (body, trailer) = out.split_at_mut(count * ENTRY_LEN);
    for (entry, out) in entries.zip(body.chunks_exact_mut(ENTRY_LEN)) {
        out[0..8].copy_from_slice(&entry.ino.0.to_le_bytes());
        out[8..16].copy_from_slice(&entry.offset.to_le_bytes());
        out[16..20].copy_from_slice(&entry.len.to_le_bytes());
    }
    trailer[0..8].copy_from_slice(MAGIC);
    trailer[8..12].copy_from_slice(&(count as u32).to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(body), &trailer[..12]);
    trailer[12..16].copy_from_slice(&crc.to_le_bytes());
}

/// How many bytes the summary has, from the blob's last [`TRAILER_LEN`] bytes; not yet believed.
pub(crate) fn claimed_len(trailer: &[u8]) -> Result<usize, BadSummary> {
    if trailer.len() != TRAILER_LEN || &trailer[0..8] != MAGIC {
        return Err(BadSummary::Magic);
    }
    let count = u32::from_le_bytes(word(&trailer[8..12]));
    usize::try_from(count).map(summary_len).map_err(|_| BadSummary::Length)
}

/// Reads a whole summary of a blob of `blob_len` bytes.
pub(crate) fn decode(bytes: &[u8], blob_len: u32) -> Result<Vec<Entry>, BadSummary> {
    let at = bytes.len().checked_sub(TRAILER_LEN).ok_or(BadSummary::Length)?;
    let (body, trailer) = bytes.split_at(at);
    if claimed_len(trailer)? != bytes.len() {
        return Err(BadSummary::Length);
    }
    let crc = crc32c::crc32c_append(crc32c::crc32c(body), &trailer[..12]);
    if crc != u32::from_le_bytes(word(&trailer[12..16])) {
        return Err(BadSummary::Checksum);
    }
    let entries: Vec<Entry> = body
        .chunks_exact(ENTRY_LEN)
        .map(|e| Entry {
            ino: Ino(u64::from_le_bytes(word(&e[0..8]))),
            offset: u64::from_le_bytes(word(&e[8..16])),
            len: u32::from_le_bytes(word(&e[16..20])),
        })
        .collect();
    let data: u64 = entries.iter().map(|e| u64::from(e.len)).sum();
    if data + bytes.len() as u64 > u64::from(blob_len) {
        return Err(BadSummary::Length);
    }
    Ok(entries)
}

fn word<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().expect("a field of that many bytes")
}

/// Why bytes are no summary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadSummary {
    /// The last bytes are not a trailer.
    #[error("the blob does not end in a summary")]
    Magic,
    /// Numbers that do not add up.
    #[error("the blob's summary has a wrong length")]
    Length,
    /// Rotten.
    #[error("the blob's summary has a wrong checksum")]
    Checksum,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encoded(entries: &[Entry]) -> Vec<u8> {
        let mut out = vec![0; summary_len(entries.len())];
        encode(entries.iter().copied(), &mut out);
        out
    }

    proptest! {
        #[test]
        fn a_summary_survives(
            entries in proptest::collection::vec((any::<u64>(), any::<u64>(), 1u32..9000), 0..50),
        ) {
            let entries: Vec<Entry> =
                entries.into_iter().map(|(i, offset, len)| Entry { ino: Ino(i), offset, len }).collect();
            let bytes = encoded(&entries);
            prop_assert_eq!(claimed_len(&bytes[bytes.len() - TRAILER_LEN..]), Ok(bytes.len()));
            prop_assert_eq!(decode(&bytes, 8 << 20), Ok(entries));
        }

        #[test]
        fn a_flipped_bit_is_noticed(at in 0usize..56, bit in 0u8..8) {
            let mut bytes = encoded(&[
                Entry { ino: Ino(7), offset: 9, len: 3 },
                Entry { ino: Ino(8), offset: 0, len: 5 },
            ]);
            bytes[at] ^= 1 << bit;
            prop_assert!(decode(&bytes, 8 << 20).is_err());
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = decode(&bytes, 8 << 20);
        }
    }

    #[test]
    fn golden_bytes() {
        let bytes = encoded(&[Entry { ino: Ino(1), offset: 0x0203, len: 4 }]);
        assert_eq!(&bytes[..20], [1, 0, 0, 0, 0, 0, 0, 0, 3, 2, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0]);
        assert_eq!(&bytes[20..32], b"ASHSUM01\x01\0\0\0");
    }
}
