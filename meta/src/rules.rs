//! Pure deciders, without I/O or clock: what ranges of a file lie where, who may, and what is a name.

pub(crate) mod acl;
pub(crate) mod extent;
pub mod may;
pub(crate) mod name;
pub(crate) mod perm;
