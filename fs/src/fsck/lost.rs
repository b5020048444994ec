//! Which files have bytes that cannot be read.
//!
//! A blob is one of three things: it can be read; so many of its parts are nowhere that it is *lost*, whatever comes
//! back; or those that are missing may lie on disks that do not answer, and it is only *away*.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use anyhow::{Context, Result};
use meta::{Ino, Volume};
use proto::id::BlobId;
use serde::{Deserialize, Serialize};

/// Why a blob cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Why {
    /// Too few of its parts are left.
    Lost,
    /// Disks that are away may have enough of its parts.
    Away,
}

/// A file of which bytes cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct File {
    /// One of its names; `None`: it has none.
    path: Option<String>,
    /// Its inode.
    inode: u64,
    /// Why not.
    why: Why,
    /// So many bytes of it.
    bytes: u64,
    /// The first of them, from the start of the file.
    first: u64,
}

impl File {
    pub(super) fn is(&self, why: Why) -> bool {
        self.why == why
    }
}

impl fmt::Display for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, inode, why, bytes, first } = self;
        let why = match why {
            Why::Lost => "lost",
            Why::Away => "away",
        };
        match path {
            Some(path) => write!(f, "{why}: {bytes} bytes of {path}, from {first} on"),
            None => write!(
                f,
                "{why}: {bytes} bytes of inode {inode}, which has no name, from {first} on"
            ),
        }
    }
}

/// The files that have bytes in these blobs, by path.
pub(crate) async fn files(volume: &Volume, unreadable: &[(BlobId, Why)]) -> Result<Vec<File>> {
    let mut found: BTreeMap<(Ino, Why), (u64, u64)> = BTreeMap::new();
    for (id, why) in unreadable {
        let mut after = None;
        loop {
            let page = volume.references(*id, after, 1024).await;
            let (extents, next) = page.context("looking for the files of a blob")?;
            for (ino, extent) in extents {
                let (bytes, first) = found.entry((ino, *why)).or_insert((0, u64::MAX));
                *bytes += extent.len;
                *first = extent.offset.min(*first);
            }
            after = next;
            if after.is_none() {
                break;
            }
        }
    }
    let inos: BTreeSet<Ino> = found.keys().map(|(ino, _)| *ino).collect();
    let paths = volume.paths(inos).await.context("looking for the names of files")?;
    let file = |((ino, why), (bytes, first)): ((Ino, Why), (u64, u64))| File {
        path: paths.get(&ino).cloned(),
        inode: ino.0,
        why,
        bytes,
        first,
    };
    let mut files: Vec<File> = found.into_iter().map(file).collect();
    files.sort_by(|a, b| (&a.path, a.inode).cmp(&(&b.path, b.inode)));
    Ok(files)
}
