//! Schemes: how a blob is cut into parts, and which part a byte lies in.
//!
//! The code is systematic: the k data parts are contiguous slices of the blob, so that a ranged
//! read normally touches one part on one disk. All arithmetic between blob offsets, parts and check
//! blocks is here, and it is pure.
//!
//! ```text
//! blob   |0 ........ part_len|........ 2 part_len|... len|  (zero padding to k * part_len)
//! parts  |    data part 0    |    data part 1    |  ...  | parity 0 | ...
//! ```

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::limits::{CHECK_BLOCK, DISK_BLOCK};
use crate::part::PartIndex;

/// Codec number of plain copies: every part is the whole blob.
const COPIES: u8 = 0;
/// Codec number of reed-solomon-simd's Leopard-RS code over GF(2^16).
const REED_SOLOMON_SIMD: u8 = 1;

/// Most data parts.
pub const MAX_DATA_PARTS: usize = 16;
/// Most parity parts.
pub const MAX_PARITY_PARTS: usize = 8;

/// `ec(k,m)` (k data and m parity parts) or `copies(n)` (n whole copies).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Scheme {
    codec: u8,
    k: u8,
    m: u8,
}

impl Scheme {
    /// `ec(k,m)`: any k of the k+m parts restore the blob.
    pub fn erasure(k: usize, m: usize) -> Result<Self, BadScheme> {
        if !(2..=MAX_DATA_PARTS).contains(&k) || !(1..=MAX_PARITY_PARTS).contains(&m) {
            return Err(BadScheme::Parts { k, m });
        }
        Ok(Self { codec: REED_SOLOMON_SIMD, k: k as u8, m: m as u8 })
    }

    /// `copies(n)`: any one of the n copies is the blob.
    pub fn copies(n: usize) -> Result<Self, BadScheme> {
        if !(1..=MAX_PARITY_PARTS + 1).contains(&n) {
            return Err(BadScheme::Copies(n));
        }
        Ok(Self { codec: COPIES, k: 1, m: (n - 1) as u8 })
    }

    /// From its three numbers on disk or on the wire; `None` if there is no such scheme.
    pub fn from_codec(codec: u8, k: usize, m: usize) -> Option<Self> {
        match codec {
            COPIES if k == 1 => Self::copies(m + 1).ok(),
            REED_SOLOMON_SIMD => Self::erasure(k, m).ok(),
            _ => None,
        }
    }

    /// The codec's number in a blob id.
    pub fn codec(self) -> u8 {
        self.codec
    }

    /// k: parts that together hold the blob's bytes.
    pub fn data_parts(self) -> usize {
        self.k.into()
    }

    /// m: parts that may be lost.
    pub fn parity_parts(self) -> usize {
        self.m.into()
    }

    /// k+m.
    pub fn parts(self) -> usize {
        self.data_parts() + self.parity_parts()
    }

    /// Is every part the whole blob?
    pub fn is_copies(self) -> bool {
        self.codec == COPIES
    }

    /// `copies(m+1)`: survives as many losses as this scheme, in fewer and whole I/Os.
    pub fn as_copies(self) -> Self {
        Self { codec: COPIES, k: 1, m: self.m }
    }

    /// How many units keep the parts of its blobs apart: one for each part, and 2m+1, so that of two who take a
    /// journal over by the answers of all but m at least one answer is both's.
    pub fn units(self) -> usize {
        self.parts().max(2 * self.parity_parts() + 1)
    }

    /// Bytes of each part of a blob of `len` bytes.
    ///
    /// Copies are as long as the blob. Coded parts are rounded up to 64 bytes (the code works on
    /// such units), and from 64 KiB on to whole disk blocks, so that they are written without being
    /// copied.
    pub fn part_len(self, len: u32) -> u32 {
        if self.is_copies() {
            return len;
        }
        let slice = len.div_ceil(self.k.into());
        let unit = if slice >= CHECK_BLOCK { DISK_BLOCK as u32 } else { 64 };
        slice.next_multiple_of(unit)
    }

    /// Bytes that `len` bytes of user data take on disks, without headers.
    pub fn raw_len(self, len: u64) -> u64 {
        if self.is_copies() {
            len * self.parts() as u64
        } else {
            (len * self.parts() as u64).div_ceil(self.data_parts() as u64)
        }
    }

    /// The pieces of data parts that hold `range` of a blob of `len` bytes, in order.
    ///
    /// # Panics
    /// If the range is empty or reaches beyond the blob.
    pub fn pieces(self, len: u32, range: Range<u32>) -> impl Iterator<Item = Piece> {
        assert!(range.start < range.end && range.end <= len, "range {range:?} within 0..{len}");
        let part_len = if self.is_copies() { len } else { self.part_len(len) };
        (range.start / part_len..=(range.end - 1) / part_len).map(move |part| {
            let base = part * part_len;
            let start = range.start.max(base);
            let end = range.end.min(base.saturating_add(part_len));
            let index = PartIndex::new(part as usize).expect("a data part is a part");
            Piece { part: index, in_part: start - base..end - base, in_blob: start..end }
        })
    }

    /// The range of the blob that lies in the same check block of the same data part as `offset`:
    /// the unit in which it is read, verified and cached.
    ///
    /// # Panics
    /// If `offset` is not below `len`.
    pub fn block_around(self, len: u32, offset: u32) -> Range<u32> {
        assert!(offset < len, "offset {offset} within 0..{len}");
        let part_len = if self.is_copies() { len } else { self.part_len(len) };
        let base = offset / part_len * part_len;
        let start = base + (offset - base) / CHECK_BLOCK * CHECK_BLOCK;
        let end = start.saturating_add(CHECK_BLOCK).min(base.saturating_add(part_len)).min(len);
        start..end
    }
}

/// Where a range of a blob lies: bytes `in_part` of `part` are bytes `in_blob` of the blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The data part.
    pub part: PartIndex,
    /// Range within the part.
    pub in_part: Range<u32>,
    /// The same bytes as a range of the blob.
    pub in_blob: Range<u32>,
}

/// A scheme that cannot be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadScheme {
    /// k or m out of range.
    #[error(
        "ec({k},{m}) is not possible: data parts must be 2 to {MAX_DATA_PARTS}, parity parts 1 to {MAX_PARITY_PARTS}"
    )]
    Parts {
        /// Data parts asked for.
        k: usize,
        /// Parity parts asked for.
        m: usize,
    },
    /// Number of copies out of range.
    #[error("copies({0}) is not possible: copies must be 1 to {max}", max = MAX_PARITY_PARTS + 1)]
    Copies(usize),
    /// Not the text of a scheme.
    #[error("not a scheme: {0:?} (expected ec(K,M) or copies(N), as in ec(4,2))")]
    Text(String),
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_copies() {
            write!(f, "copies({})", self.parts())
        } else {
            write!(f, "ec({},{})", self.k, self.m)
        }
    }
}

impl fmt::Debug for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Scheme {
    type Err = BadScheme;

    fn from_str(text: &str) -> Result<Self, BadScheme> {
        let bad = || BadScheme::Text(text.to_owned());
        let (name, rest) = text.trim().split_once('(').ok_or_else(bad)?;
        let numbers = rest.strip_suffix(')').ok_or_else(bad)?;
        let numbers: Vec<usize> = numbers
            .split(',')
            .map(|n| n.trim().parse().map_err(|_| bad()))
            .collect::<Result<_, _>>()?;
        match (name.trim(), numbers.as_slice()) {
            ("ec", [k, m]) => Self::erasure(*k, *m),
            ("copies", [n]) => Self::copies(*n),
            _ => Err(bad()),
        }
    }
}

impl TryFrom<String> for Scheme {
    type Error = BadScheme;

    fn try_from(text: String) -> Result<Self, BadScheme> {
        text.parse()
    }
}

impl From<Scheme> for String {
    fn from(scheme: Scheme) -> Self {
        scheme.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::MAX_BLOB;
    use proptest::prelude::*;

    #[test]
    fn text() {
        for good in ["ec(4,2)", "ec(16,8)", "copies(1)", "copies(9)"] {
            assert_eq!(good.parse::<Scheme>().unwrap().to_string(), good);
        }
        assert_eq!(" ec( 8 , 3 ) ".parse(), Scheme::erasure(8, 3));
        for bad in [
            "",
            "ec",
            "ec(4)",
            "ec(0,2)",
            "ec(1,2)",
            "ec(40,300)",
            "ec(4,0)",
            "copies(0)",
            "copies(10)",
            "ec(4,-2)",
            "xor(4,2)",
            "ec(4,2",
        ] {
            assert!(bad.parse::<Scheme>().is_err(), "{bad}");
        }
    }

    #[test]
    fn part_lengths() {
        let ec = Scheme::erasure(4, 2).unwrap();
        let cases =
            [(1, 64), (256, 64), (257, 128), (4 << 20, 1 << 20), ((4 << 20) + 1, (1 << 20) + 4096)];
        for (len, part) in cases {
            assert_eq!(ec.part_len(len), part, "blob of {len}");
        }
        assert_eq!(Scheme::copies(3).unwrap().part_len(777), 777);
    }

    fn any_scheme() -> impl Strategy<Value = Scheme> {
        prop_oneof![
            (2usize..=16, 1usize..=8).prop_map(|(k, m)| Scheme::erasure(k, m).unwrap()),
            (1usize..=9).prop_map(|n| Scheme::copies(n).unwrap()),
        ]
    }

    proptest! {
        #[test]
        fn pieces_cover_the_range_once(
            scheme in any_scheme(), len in 1..=MAX_BLOB, a: u32, b: u32,
        ) {
            let (start, end) = (a % len, b % len);
            let range = start.min(end)..start.max(end) + 1;
            let mut at = range.start;
            for piece in scheme.pieces(len, range.clone()) {
                prop_assert_eq!(piece.in_blob.start, at);
                prop_assert_eq!(piece.in_blob.len(), piece.in_part.len());
                prop_assert!(piece.part.get() < scheme.data_parts());
                prop_assert!(piece.in_part.end <= scheme.part_len(len));
                at = piece.in_blob.end;
            }
            prop_assert_eq!(at, range.end);
        }

        #[test]
        fn a_block_holds_its_offset_and_lies_in_one_part(
            scheme in any_scheme(), len in 1..=MAX_BLOB, offset: u32,
        ) {
            let offset = offset % len;
            let block = scheme.block_around(len, offset);
            prop_assert!(block.contains(&offset) && block.len() <= CHECK_BLOCK as usize);
            let pieces: Vec<_> = scheme.pieces(len, block).collect();
            prop_assert_eq!(pieces.len(), 1);
            prop_assert_eq!(pieces[0].in_part.start % CHECK_BLOCK, 0);
        }
    }
}
