//! Filesystem metadata: what is in a volume, who may change it, and when a change is durable.
//!
//! [`MetaStore`] is the contract a filesystem uses; [`LocalMeta`] keeps it over an ordered
//! transactional key-value engine ([`engine::Kv`]). Each operation is one transaction: it reads
//! through a [`txn::Txn`], decides by the POSIX rules, and hands the engine one batch of writes.
//!
//! * `key` and its files: the schema. One file per kind of key.
//! * `inode`, `dentry`, `xattr`: the records behind the keys, as byte tables.
//! * `extent`, `perm`, `name`: pure deciders, without I/O or clock.
//! * `ops/*`: the operations, one file per group.
//! * `engine` and its files: the trait and its two implementations.
//! * `volume`: format, open, lock. `check`: the walk behind `ashlar fsck`.

#![forbid(unsafe_code)]

mod acl;
mod check;
mod dentry;
#[cfg(test)]
mod dice;
mod engine;
mod extent;
mod inode;
mod key;
mod local;
mod members;
mod name;
mod ops;
mod perm;
pub mod store;
#[cfg(test)]
mod tests;
mod txn;
mod volume;
mod xattr;

pub use check::Report;
pub use local::{LocalMeta, wall_clock};
pub use members::{Difference, Member, Members};
pub use store::*;
pub use volume::{
    MemoryVolume, MetaSettings, MountedBy, VolumeError, format, in_memory, lock_holder, open,
    volumes,
};
