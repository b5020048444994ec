//! Randomness that can be repeated, and file contents that are a function of a number.

use std::time::{SystemTime, UNIX_EPOCH};

/// A small generator (splitmix64): good enough for test data, and the same on every machine.
#[derive(Clone, Debug)]
pub struct Seed(u64);

impl Seed {
    /// The seed of this run: `ASHLAR_SEED`, or a new one. Printed, so that a failure can be repeated.
    pub fn announced(test: &str) -> Self {
        let seed = match std::env::var("ASHLAR_SEED") {
            Ok(text) => text.parse().expect("ASHLAR_SEED is a number"),
            Err(_) => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .expect("it is later than 1970")
                .subsec_nanos()
                .into(),
        };
        println!("{test}: ASHLAR_SEED={seed}");
        Self(seed)
    }

    /// A generator that starts at `number`.
    pub fn new(number: u64) -> Self {
        Self(number)
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        mix(self.0)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next_u64() % bound
    }

    /// True `percent` times of a hundred.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// Puts them in any order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.below(last as u64 + 1);
            items.swap(last, usize::try_from(other).expect("an index"));
        }
    }

    /// Another generator, independent of this one.
    pub fn fork(&mut self) -> Self {
        Self(self.next_u64())
    }

    /// A length as files have them: mostly small, now and then several MiB.
    pub fn file_len(&mut self) -> usize {
        let bound = match self.below(20) {
            0 => 1,
            1..=5 => 4096,
            6..=14 => 64 << 10,
            15..=18 => 1 << 20,
            _ => 8 << 20,
        };
        usize::try_from(self.below(bound)).expect("a length fits in memory")
    }
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(state: u64) -> u64 {
    let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The bytes that the file with number `stamp` has at `offset`: random to a codec or a compressor,
/// and known to a reader without the writer's copy.
pub fn fill(stamp: u64, offset: u64, bytes: &mut [u8]) {
    let mut at = 0;
    while at < bytes.len() {
        let position = offset + at as u64;
        let word = mix(stamp ^ (position / 8).wrapping_mul(GOLDEN)).to_le_bytes();
        let skip = usize::try_from(position % 8).expect("below 8");
        let take = (8 - skip).min(bytes.len() - at);
        bytes[at..at + take].copy_from_slice(&word[skip..skip + take]);
        at += take;
    }
}

/// The first `len` bytes of the file with number `stamp`.
pub fn content(stamp: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fill(stamp, 0, &mut bytes);
    bytes
}

/// The first place where `bytes`, read at `offset`, is not what [`fill`] put there.
pub fn first_difference(stamp: u64, offset: u64, bytes: &[u8]) -> Option<u64> {
    let mut want = vec![0; bytes.len()];
    fill(stamp, offset, &mut want);
    if want == bytes {
        return None;
    }
    let at = want.iter().zip(bytes).position(|(a, b)| a != b).expect("they differ somewhere");
    Some(offset + at as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_of_a_file_is_the_same_wherever_the_reading_starts() {
        let whole = content(7, 1000);
        for (offset, len) in [(0, 1), (1, 7), (3, 13), (8, 8), (500, 500), (999, 1)] {
            let mut piece = vec![0; len];
            fill(7, offset as u64, &mut piece);
            assert_eq!(piece, whole[offset..offset + len], "{len} bytes at {offset}");
        }
    }

    #[test]
    fn a_changed_byte_is_found_where_it_is() {
        let mut bytes = content(7, 1000);
        assert_eq!(first_difference(7, 0, &bytes), None);
        bytes[333] ^= 1;
        assert_eq!(first_difference(7, 0, &bytes), Some(333));
        assert_eq!(first_difference(7, 300, &bytes[300..]), Some(333));
    }
}
