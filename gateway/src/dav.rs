//! WebDAV, class 1 and 2 (RFC 4918), by `/dav/`: the whole tree that the door shows, as a client that mounts it sees it.
//!
//! * `serve`: which request is answered by what; `asked`: what all of them have in common, and whether it may be done,
//!   by `If`, `If-Match` and locks.
//! * `content`: files out and in, folders made. `find`, `patch`: properties; `properties` says which there are, and where
//!   those lie that clients set. `trees`: what is deleted, copied and moved with all that is in it. `locking`: LOCK, UNLOCK.
//! * Pure, and tried apart: `address`, `headers`, `locks`, `xml`.
//!
//! The protocol is spoken here and not by a crate, as docs/decisions/0067 says.

mod address;
mod asked;
mod content;
#[cfg(any(test, feature = "decoders"))]
pub(crate) mod decoders;
mod door;
mod find;
mod headers;
mod locking;
mod locks;
mod patch;
mod properties;
mod serve;
mod trees;
mod xml;

pub(crate) use serve::routes;
