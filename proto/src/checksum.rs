//! Bytes that travel with their checksums: one CRC-32C per 64 KiB check block.
//!
//! The table is computed once, where the bytes are made; every later holder either verifies it or
//! passes it on. It is what lies on disk beside a part, so a reader of any range can verify exactly
//! the blocks it touches.

use std::ops::Range;

use bytes::Bytes;

use crate::limits::CHECK_BLOCK;

/// CRC-32C of each check block of `data`; the last block may be shorter.
pub fn block_checks(data: &[u8]) -> Vec<u32> {
    data.chunks(CHECK_BLOCK as usize).map(crc32c::crc32c).collect()
}

/// How many check blocks `len` bytes have.
pub fn block_count(len: u32) -> usize {
    len.div_ceil(CHECK_BLOCK) as usize
}

/// `range` of a part of `part_len` bytes, widened to whole check blocks.
pub fn widen(range: Range<u32>, part_len: u32) -> Range<u32> {
    let start = range.start / CHECK_BLOCK * CHECK_BLOCK;
    let end = range.end.div_ceil(CHECK_BLOCK).saturating_mul(CHECK_BLOCK).min(part_len);
    start..end
}

/// Bytes whose checksum does not match: never to be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("checksum mismatch in block {block}")]
pub struct Mismatch {
    /// Which check block of the bytes, from 0.
    pub block: usize,
}

/// Bytes with the CRC-32C of each of their check blocks. Believed only after [`Checked::verify`].
#[derive(Clone, Debug)]
pub struct Checked {
    data: Bytes,
    checks: Vec<u32>,
}

impl Checked {
    /// Computes the checks of bytes that were made here.
    pub fn compute(data: Bytes) -> Self {
        let checks = block_checks(&data);
        Self { data, checks }
    }

    /// Puts bytes and the checks they came with together, unverified. `None` when their numbers
    /// do not add up.
    pub fn received(data: Bytes, checks: Vec<u32>) -> Option<Self> {
        (data.len().div_ceil(CHECK_BLOCK as usize) == checks.len()).then_some(Self { data, checks })
    }

    /// Compares every block with its check.
    pub fn verify(&self) -> Result<(), Mismatch> {
        let blocks = self.data.chunks(CHECK_BLOCK as usize).zip(&self.checks);
        for (block, (bytes, check)) in blocks.enumerate() {
            if crc32c::crc32c(bytes) != *check {
                return Err(Mismatch { block });
            }
        }
        Ok(())
    }

    /// The bytes.
    pub fn data(&self) -> &Bytes {
        &self.data
    }

    /// One CRC-32C per check block.
    pub fn checks(&self) -> &[u32] {
        &self.checks
    }

    /// Takes both apart.
    pub fn into_parts(self) -> (Bytes, Vec<u32>) {
        (self.data, self.checks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_of_a_block_is_noticed() {
        let data = Bytes::from(vec![7u8; CHECK_BLOCK as usize + 10]);
        let checks = Checked::compute(data.clone()).into_parts().1;
        for at in [0, 1, CHECK_BLOCK as usize - 1, CHECK_BLOCK as usize, data.len() - 1] {
            let mut rotten = data.to_vec();
            rotten[at] ^= 0x10;
            let got = Checked::received(rotten.into(), checks.clone()).unwrap().verify();
            assert_eq!(got, Err(Mismatch { block: at / CHECK_BLOCK as usize }));
        }
        assert!(Checked::received(data, checks[..1].to_vec()).is_none());
    }

    #[test]
    fn ranges_widen_to_whole_blocks_within_the_part() {
        assert_eq!(widen(5..6, 100), 0..100);
        assert_eq!(widen(70_000..70_001, 1 << 20), 65_536..131_072);
        assert_eq!(widen(0..65_537, 65_540), 0..65_540);
    }
}
