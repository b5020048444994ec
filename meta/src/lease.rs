//! What somebody who caches what metadata said is told: the words of it, without any I/O.
//!
//! Who changes something behind such a cache says by these what of it no longer holds.

use crate::store::Ino;

/// What somebody who caches has to forget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outdated {
    /// The attributes of an inode.
    Attributes(Ino),
    /// The attributes of an inode, and its content: pages of a file, the listing of a directory. What is dirty of
    /// pages is written back first.
    Content(Ino),
    /// What a name of a directory is, or that it is not there.
    Name(Ino, Box<[u8]>),
}

impl Outdated {
    /// The inode that has to be known for anything of this to be.
    pub fn about(&self) -> Ino {
        match self {
            Self::Attributes(ino) | Self::Content(ino) | Self::Name(ino, _) => *ino,
        }
    }
}
