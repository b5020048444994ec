//! S3, version 4 signatures: a bucket is a folder at the top of what an account sees, an object is a file in it, and its
//! key the path there. It has a listener of its own, since addresses of S3 begin with the bucket.
//!
//! * `serve`: which request is answered by what; `asked`: what all of them have in common; `error`: what clients are told
//!   that goes wrong.
//! * `login`: who has signed. `body`: what is received, looked at before it is believed (`chunks`, `checksums`).
//! * `buckets`, `answers`: of buckets, and what there is none of. `list`: keys in the order of their bytes (`walk`, over
//!   `names`, since folders have an order of their own). `object`: files out; `put`: in, and copied; `delete`; `multipart`:
//!   in by parts (`parts` are kept where nobody sees them; `uploads` lists them); `tagging` (`tags`). Answers are `document`s, and so
//!   is what is `refused` before.
//! * Pure, and tried apart: `signature`, `chunks`, `checksums`, `keys`, `conditions`, `attributes`, `query`, `xml`, `elements`.
//!
//! The protocol is spoken here and not by a crate, as docs/decisions/0068 says.

mod answers;
mod asked;
mod attributes;
mod body;
mod buckets;
mod checksums;
mod chunks;
mod conditions;
#[cfg(any(test, feature = "decoders"))]
pub(crate) mod decoders;
mod delete;
mod document;
mod door;
mod elements;
mod error;
mod keys;
mod list;
mod login;
mod multipart;
mod names;
mod object;
mod parts;
mod put;
mod query;
mod refused;
mod serve;
mod signature;
mod tagging;
mod tags;
mod times;
mod uploads;
mod walk;
mod xml;

pub(crate) use door::Door;
pub(crate) use refused::in_documents;
pub(crate) use serve::routes;
