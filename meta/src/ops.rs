//! The operations: each a function of a transaction, one file per group.
//!
//! What may touch very many extents goes in steps of at most [`STEP`] of them, each a transaction of
//! its own that leaves the volume in order: [`Step::More`] says to come again.

pub(crate) mod accounts;
pub(crate) mod acl;
pub(crate) mod attr;
pub(crate) mod blobs;
pub(crate) mod content;
pub(crate) mod last_name;
pub(crate) mod list;
pub(crate) mod nameless;
pub(crate) mod names;
pub(crate) mod orphans;
pub(crate) mod rename;
pub(crate) mod sessions;
pub(crate) mod trash;
pub(crate) mod xattr;

/// Most extents that one transaction of a long operation touches: other changes wait that long.
pub(crate) const STEP: usize = 2048;

/// How far a long operation has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step<T, P = ()> {
    /// There is more to do, from here.
    More(P),
    /// It is done.
    Done(T),
}
