//! The bytes of a file as runs of equal ones: a terabyte of zeros is short.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// Bytes read at once.
const CHUNK: u64 = 256 << 10;

/// A value for every offset there can be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runs<T>(Vec<(u64, T)>);

impl<T: Clone + PartialEq> Runs<T> {
    /// The same everywhere.
    pub fn all(value: T) -> Self {
        Self(vec![(0, value)])
    }

    /// From `at` on, which is not before any run there is.
    fn push(&mut self, at: u64, value: T) {
        if self.0.last().is_none_or(|(_, last)| *last != value) {
            self.0.push((at, value));
        }
    }

    /// What `both` makes of the two values at each offset.
    pub fn merge<U, V: Clone + PartialEq>(
        &self,
        other: &Runs<U>,
        both: impl Fn(&T, &U) -> V,
    ) -> Runs<V> {
        let mut merged = Runs(Vec::new());
        let (mut here, mut there, mut at) = (0, 0, 0);
        loop {
            merged.push(at, both(&self.0[here].1, &other.0[there].1));
            let starts =
                [self.0.get(here + 1).map(|run| run.0), other.0.get(there + 1).map(|run| run.0)];
            let Some(next) = starts.into_iter().flatten().min() else { return merged };
            here += usize::from(starts[0] == Some(next));
            there += usize::from(starts[1] == Some(next));
            at = next;
        }
    }

    /// With the other's values in the range.
    pub fn replaced(&self, range: Range<u64>, other: &Self) -> Self {
        if range.is_empty() {
            return self.clone();
        }
        let mut within = Runs(Vec::new());
        within.push(0, range.start == 0);
        within.push(range.start, true);
        within.push(range.end, false);
        let chosen = other.merge(&within, |value, within| within.then(|| value.clone()));
        self.merge(&chosen, |old, new| new.clone().unwrap_or_else(|| old.clone()))
    }

    /// The first offset with such a value.
    pub fn find(&self, wanted: impl Fn(&T) -> bool) -> Option<(u64, &T)> {
        self.0.iter().find(|(_, value)| wanted(value)).map(|(at, value)| (*at, value))
    }
}

/// What a file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// Its length.
    pub size: u64,
    /// Its bytes; zero behind the end.
    pub bytes: Runs<u8>,
}

impl Content {
    /// Reads a file; holes are stepped over.
    ///
    /// # Errors
    /// As read(2) and lseek(2).
    pub fn of(file: &File) -> io::Result<Self> {
        let size = file.metadata()?.len();
        let mut bytes = Runs::all(0);
        let (mut at, mut buffer) = (0, vec![0; CHUNK as usize]);
        loop {
            let start = match seek(file, SeekFrom::Data(at)) {
                Err(Errno::NXIO) => return Ok(Self { size, bytes }),
                start => start?,
            };
            let end = seek(file, SeekFrom::Hole(start))?;
            bytes.push(at, 0);
            at = start;
            while at < end {
                let piece = &mut buffer[..(end - at).min(CHUNK) as usize];
                file.read_exact_at(piece, at)?;
                (at..).zip(piece.iter()).for_each(|(at, byte)| bytes.push(at, *byte));
                at += piece.len() as u64;
            }
            bytes.push(end, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(bytes: &[u8]) -> Runs<u8> {
        let mut runs = Runs(Vec::new());
        (0..).zip(bytes).for_each(|(at, byte)| runs.push(at, *byte));
        runs.push(bytes.len() as u64, 0);
        runs
    }

    #[test]
    fn runs_merge_and_replace_as_bytes_do() {
        let mut seed = crate::seed::Seed::new(1);
        for _ in 0..2000 {
            let mut bytes = || (0..12).map(|_| seed.below(3) as u8).collect::<Vec<u8>>();
            let (one, two) = (bytes(), bytes());
            let (from, to) = (seed.below(14) as usize, seed.below(14) as usize);
            let sums: Vec<u8> = one.iter().zip(&two).map(|(a, b)| a * 3 + b).collect();
            assert_eq!(runs(&one).merge(&runs(&two), |a, b| a * 3 + b), runs(&sums));
            let place = |at: usize| if (from..to).contains(&at) { two[at] } else { one[at] };
            let mixed: Vec<u8> = (0..12).map(place).collect();
            assert_eq!(runs(&one).replaced(from as u64..to as u64, &runs(&two)), runs(&mixed));
        }
    }

    #[test]
    fn a_file_with_holes_is_read_as_it_is() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"ab", 70_000).unwrap();
        file.set_len(1 << 40).unwrap();
        let content = Content::of(&file).unwrap();
        assert_eq!(content.size, 1 << 40);
        let around = Runs(vec![(0, 0), (70_000, b'a'), (70_001, b'b'), (70_002, 0)]);
        assert_eq!(content.bytes, around);
    }
}
