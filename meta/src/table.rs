//! The table of a volume's metadata: sorted chunks in the store, and what is remembered of them here.
//!
//! A *snapshot* is all keys at one LSN: a few [`run::Run`]s, newest first, each a list of chunks whose
//! keys rise. It is described by a manifest ([`manifest`]) and changes by merging newer keys in
//! ([`merge`]), which shares the chunks that no key has changed in.

pub(crate) mod cache;
pub(crate) mod chunk;
pub(crate) mod manifest;
pub(crate) mod merge;
pub(crate) mod run;
pub(crate) mod view;
