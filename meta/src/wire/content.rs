//! Ops on content.

use std::ops::Range;

use bytes::Bytes;
use proto::id::BlobId;
use proto::rpc::metad as wire;
use proto::rpc::metad::content_op::Op as Wire;

use super::few;
use super::values::{
    blobs_from_wire, blobs_to_wire, extents_from_wire, extents_to_wire, maybe_time,
    range_from_wire, time_to_wire,
};
use crate::store::{FileUpdate, Ino, MetaError};

/// One of them: a method of [`crate::store::MetaStore`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ContentOp {
    /// Of an inline blob, which is the only one then, with its bytes.
    Commit {
        blobs: Vec<BlobId>,
        inline: Option<Bytes>,
        files: Vec<FileUpdate>,
    },
    Truncate {
        ino: Ino,
        size: u64,
    },
    ClearRange {
        ino: Ino,
        range: Range<u64>,
        allocate: bool,
        grow: bool,
    },
    Allocate {
        ino: Ino,
        range: Range<u64>,
        grow: bool,
    },
    CloneRange {
        from: Ino,
        range: Range<u64>,
        to: Ino,
        to_offset: u64,
    },
    AdoptGarbage(Vec<BlobId>),
}

impl ContentOp {
    pub(crate) fn to_wire(&self) -> wire::ContentOp {
        let op = match self {
            Self::Commit { blobs, inline, files } => Wire::Commit(wire::Commit {
                blobs: blobs_to_wire(blobs),
                inline: inline.clone(),
                files: files.iter().map(file_to_wire).collect(),
            }),
            Self::Truncate { ino, size } => {
                Wire::Truncate(wire::Truncate { ino: ino.0, size: *size })
            }
            Self::ClearRange { ino, range: Range { start, end }, allocate, grow } => {
                let (ino, start, end) = (ino.0, *start, *end);
                let (allocate, grow) = (*allocate, *grow);
                Wire::ClearRange(wire::ClearRange { ino, start, end, allocate, grow })
            }
            Self::Allocate { ino, range: Range { start, end }, grow } => {
                let (ino, start, end, grow) = (ino.0, *start, *end, *grow);
                Wire::Allocate(wire::Allocate { ino, start, end, grow })
            }
            Self::CloneRange { from, range: Range { start, end }, to, to_offset } => {
                let (from, to, start, end) = (from.0, to.0, *start, *end);
                let to_offset = *to_offset;
                Wire::CloneRange(wire::CloneRange { from, start, end, to, to_offset })
            }
            Self::AdoptGarbage(blobs) => {
                Wire::AdoptGarbage(wire::AdoptGarbage { blobs: blobs_to_wire(blobs) })
            }
        };
        wire::ContentOp { op: Some(op) }
    }

    /// # Errors
    /// For what makes no sense, or is not known.
    pub(crate) fn from_wire(op: wire::ContentOp) -> Result<Self, MetaError> {
        Ok(match op.op.ok_or(MetaError::NotSupported)? {
            Wire::Commit(wire::Commit { blobs, inline, files }) => {
                few(&files)?;
                let files = files.into_iter().map(file_from_wire).collect::<Result<_, _>>()?;
                Self::Commit { blobs: blobs_from_wire(&blobs)?, inline, files }
            }
            Wire::Truncate(wire::Truncate { ino, size }) => Self::Truncate { ino: Ino(ino), size },
            Wire::ClearRange(wire::ClearRange { ino, start, end, allocate, grow }) => {
                let range = range_from_wire(start, end)?;
                Self::ClearRange { ino: Ino(ino), range, allocate, grow }
            }
            Wire::Allocate(wire::Allocate { ino, start, end, grow }) => {
                Self::Allocate { ino: Ino(ino), range: range_from_wire(start, end)?, grow }
            }
            Wire::CloneRange(wire::CloneRange { from, start, end, to, to_offset }) => {
                let range = range_from_wire(start, end)?;
                Self::CloneRange { from: Ino(from), range, to: Ino(to), to_offset }
            }
            Wire::AdoptGarbage(wire::AdoptGarbage { blobs }) => {
                Self::AdoptGarbage(blobs_from_wire(&blobs)?)
            }
        })
    }
}

fn file_to_wire(file: &FileUpdate) -> wire::commit::File {
    let FileUpdate { ino, extents, size_at_least, mtime } = file;
    wire::commit::File {
        ino: ino.0,
        extents: extents_to_wire(extents),
        size_at_least: *size_at_least,
        mtime: mtime.map(time_to_wire),
    }
}

fn file_from_wire(file: wire::commit::File) -> Result<FileUpdate, MetaError> {
    let wire::commit::File { ino, extents, size_at_least, mtime } = file;
    let (extents, mtime) = (extents_from_wire(extents)?, maybe_time(mtime)?);
    Ok(FileUpdate { ino: Ino(ino), extents, size_at_least, mtime })
}
