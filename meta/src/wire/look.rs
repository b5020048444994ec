//! Ops that change nothing.

use std::ops::Range;

use bytes::Bytes;
use proto::id::BlobId;
use proto::limits::MAX_LOOKS;
use proto::rpc::metad as wire;
use proto::rpc::metad::look::Look as Wire;

use super::values::{blob_from_wire, blob_to_wire, range_from_wire};
use super::{bad, limit_from_wire, limit_to_wire};
use crate::store::{Ino, MetaError};

/// One of them: a method of [`crate::store::MetaStore`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    Lookup(Ino, Bytes),
    At { parent: Ino, names: Vec<Bytes>, attribute: Bytes },
    Readdir { ino: Ino, cookie: u64, limit: usize },
    Getattr(Ino),
    Readlink(Ino),
    Getxattr(Ino, Bytes),
    Listxattr(Ino),
    Extents { ino: Ino, range: Range<u64>, limit: usize },
    InlineBytes(BlobId),
    Usage,
}

impl Look {
    pub(crate) fn to_wire(&self) -> wire::Look {
        let look = match self {
            Self::Lookup(parent, name) => {
                Wire::Lookup(wire::Lookup { parent: parent.0, name: name.clone() })
            }
            Self::At { parent, names, attribute } => Wire::At(wire::LookAt {
                parent: parent.0,
                names: names.clone(),
                attribute: attribute.clone(),
            }),
            Self::Readdir { ino, cookie, limit } => {
                let (ino, cookie, limit) = (ino.0, *cookie, limit_to_wire(*limit));
                Wire::Readdir(wire::Readdir { ino, cookie, limit })
            }
            Self::Getattr(ino) => Wire::Getattr(ino.0),
            Self::Readlink(ino) => Wire::Readlink(ino.0),
            Self::Getxattr(ino, name) => {
                Wire::Getxattr(wire::Getxattr { ino: ino.0, name: name.clone() })
            }
            Self::Listxattr(ino) => Wire::Listxattr(ino.0),
            Self::Extents { ino, range, limit } => Wire::Extents(wire::Extents {
                ino: ino.0,
                start: range.start,
                end: range.end,
                limit: limit_to_wire(*limit),
            }),
            Self::InlineBytes(blob) => Wire::InlineBytes(blob_to_wire(*blob)),
            Self::Usage => Wire::Usage(wire::Done {}),
        };
        wire::Look { look: Some(look) }
    }

    /// # Errors
    /// For what makes no sense, or is not known.
    pub(crate) fn from_wire(look: wire::Look) -> Result<Self, MetaError> {
        Ok(match look.look.ok_or(MetaError::NotSupported)? {
            Wire::Lookup(wire::Lookup { parent, name }) => Self::Lookup(Ino(parent), name),
            Wire::At(wire::LookAt { parent, names, attribute }) => {
                if names.len() > MAX_LOOKS {
                    return Err(bad("a look at too many names"));
                }
                Self::At { parent: Ino(parent), names, attribute }
            }
            Wire::Readdir(wire::Readdir { ino, cookie, limit }) => {
                Self::Readdir { ino: Ino(ino), cookie, limit: limit_from_wire(limit)? }
            }
            Wire::Getattr(ino) => Self::Getattr(Ino(ino)),
            Wire::Readlink(ino) => Self::Readlink(Ino(ino)),
            Wire::Getxattr(wire::Getxattr { ino, name }) => Self::Getxattr(Ino(ino), name),
            Wire::Listxattr(ino) => Self::Listxattr(Ino(ino)),
            Wire::Extents(wire::Extents { ino, start, end, limit }) => Self::Extents {
                ino: Ino(ino),
                range: range_from_wire(start, end)?,
                limit: limit_from_wire(limit)?,
            },
            Wire::InlineBytes(blob) => Self::InlineBytes(blob_from_wire(&blob)?),
            Wire::Usage(wire::Done {}) => Self::Usage,
        })
    }
}
