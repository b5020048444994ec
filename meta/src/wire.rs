//! What travels between a session and its metad, as both ends mean it and as it travels ([`proto::rpc::metad`]).
//!
//! What arrives is checked here, once: a number is in its range, a range ends behind its start, a time is one. Whether
//! what is asked can be done is for the operations to say. An op that makes no sense is answered with
//! [`MetaError::Invalid`], and one that this version does not know with [`MetaError::NotSupported`]; neither ends the
//! connection.

pub(crate) mod accounts;
pub(crate) mod answer;
pub(crate) mod content;
pub(crate) mod failure;
pub(crate) mod look;
pub(crate) mod made;
pub(crate) mod names;
pub(crate) mod op;
#[cfg(test)]
pub(crate) mod samples;
pub(crate) mod trash;
pub(crate) mod values;

use bytes::Bytes;
use proto::limits::MAX_ENTRIES;

use crate::store::{Ino, MetaError};

/// What arrived makes no sense.
pub(crate) fn bad(why: &'static str) -> MetaError {
    MetaError::Invalid(why)
}

/// What a message must have.
pub(crate) fn there<T>(field: Option<T>) -> Result<T, MetaError> {
    field.ok_or(bad("a field of the request is missing"))
}

/// The entries of a page.
pub(crate) fn limit_from_wire(limit: u32) -> Result<usize, MetaError> {
    let limit = limit as usize;
    if limit > MAX_ENTRIES {
        return Err(bad("a page of too many entries"));
    }
    Ok(limit)
}

/// The same on its way: what is more than the other side takes, it refuses.
pub(crate) fn limit_to_wire(limit: usize) -> u32 {
    u32::try_from(limit).unwrap_or(u32::MAX)
}

/// Numbers of inodes, as they travel.
pub(crate) fn inos_to_wire(inos: &[Ino]) -> Vec<u64> {
    inos.iter().map(|ino| ino.0).collect()
}

/// Reads numbers of inodes, bounded.
pub(crate) fn inos_from_wire(inos: Vec<u64>) -> Result<Vec<Ino>, MetaError> {
    few(&inos)?;
    Ok(inos.into_iter().map(Ino).collect())
}

/// Are they no more than one request may name?
pub(crate) fn few<T>(list: &[T]) -> Result<(), MetaError> {
    if list.len() > MAX_ENTRIES { Err(bad("a list of too many entries")) } else { Ok(()) }
}

/// Bytes that are kept beyond the message that they came in.
pub(crate) fn owned(bytes: Bytes) -> Vec<u8> {
    bytes.into()
}
