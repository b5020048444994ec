//! What a check says: what is wrong, and how it is put right.

use std::collections::{BTreeMap, BTreeSet};

use proto::id::BlobId;

use crate::engine::Value;
use crate::key::Key;
use crate::key::counters::Counters;
use crate::key::numbers::Numbers;
use crate::record::inode::Inode;
use crate::store::Ino;

/// Most problems that are spelt out.
const PROBLEMS_MOST: usize = 1000;
/// Most that is put right after one walk; another finds the rest.
pub(super) const MENDS_MOST: usize = 100_000;

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Inodes seen.
    pub inodes: u64,
    /// Entries of directories seen.
    pub entries: u64,
    /// Extents seen.
    pub extents: u64,
    /// Blobs seen.
    pub blobs: u64,
    /// What is wrong, one sentence each; at most a thousand.
    pub problems: Vec<String>,
    /// Paths of the inodes that these are about, by their numbers, where they have any.
    pub paths: BTreeMap<Ino, String>,
    /// Inline blobs whose bytes are gone.
    pub gone: Vec<BlobId>,
    /// What is done about them, one sentence each.
    pub(crate) mending: Vec<String>,
    pub(crate) mends: Vec<Mend>,
    pub(super) about: BTreeSet<Ino>,
}

/// How something is put right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mend {
    /// A key has another value, or none.
    Write(Key, Option<Value>),
    /// An entry that names nothing goes.
    Unname(Ino, Vec<u8>),
    /// An inode without a name, as it shall be, gets one in `lost+found`.
    Adopt(Inode),
    /// This is how much there is of everything.
    Count(Counters),
    /// These are the next numbers.
    Number(Numbers),
}

impl Report {
    /// Is everything in order?
    pub fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }

    /// What is wrong, with the paths of what it is about.
    pub fn sentences(&self) -> impl Iterator<Item = String> {
        self.problems.iter().map(|text| self.named(text.clone()))
    }

    /// A sentence, with the path of what it is about.
    pub(crate) fn named(&self, text: String) -> String {
        let number = |text: &str| -> Option<u64> {
            let (_, behind) = text.split_once("inode ")?;
            let end = behind.find(|c: char| !c.is_ascii_digit()).unwrap_or(behind.len());
            behind[..end].parse().ok()
        };
        match number(&text).and_then(|number| self.paths.get(&Ino(number))) {
            Some(path) => format!("{path}: {text}"),
            None => text,
        }
    }

    pub(super) fn problem(&mut self, text: String) {
        if self.problems.len() < PROBLEMS_MOST {
            self.problems.push(text);
        }
    }

    /// What is wrong, and what is done about it.
    pub(super) fn told(&mut self, text: String, how: &str) {
        if self.mending.len() < PROBLEMS_MOST {
            self.mending.push(format!("{text}: {how}"));
        }
        self.problem(text);
    }

    pub(super) fn mend(&mut self, mend: Mend) {
        if self.mends.len() < MENDS_MOST {
            self.mends.push(mend);
        }
    }

    /// What is wrong, and how it is put right, unless that is not sure.
    pub(super) fn mendable(&mut self, sure: bool, text: String, how: &str, mend: Mend) {
        if sure {
            self.told(text, how);
            self.mend(mend);
        } else {
            self.problem(text);
        }
    }

    /// A problem is about this inode.
    pub(super) fn about(&mut self, ino: Ino) {
        if self.about.len() < PROBLEMS_MOST {
            self.about.insert(ino);
        }
    }
}
