//! Filesystem metadata: what is in a volume, who may change it, and when a change is durable.
//!
//! [`MetaStore`] is the contract a filesystem uses; a [`Session`] keeps it, on a [`Volume`] that is open here, over an
//! ordered transactional key-value engine ([`engine::Kv`]). Each operation is one transaction: it reads
//! through a [`txn::Txn`], decides by the POSIX rules, and hands the engine one batch of writes.
//!
//! * `key` and its files: the schema. One file per kind of key.
//! * `inode`, `dentry`, `xattr`: the records behind the keys, as byte tables.
//! * `extent`, `perm`, `name`: pure deciders, without I/O or clock.
//! * `ops/*`: the operations, one file per group.
//! * `engine` and its files: the trait, and its implementation for tests. `journal`: the real one, in the volume's own
//!   store (`volume_store`), over sorted chunks (`table`).
//! * `volume`: format, open. `catalog`: list, destroy. `lock`: who has one open here. `check`: the walk
//!   behind `ashlar fsck`; `repair` puts right what it found.

#![forbid(unsafe_code)]

mod acl;
mod catalog;
mod check;
mod clock;
#[cfg(any(test, feature = "decoders"))]
pub mod decoders;
mod dentry;
#[cfg(test)]
mod dice;
mod engine;
mod extent;
mod inode;
mod journal;
mod key;
mod lock;
mod members;
pub mod metrics;
mod missing;
mod name;
mod on_proxy;
mod opened;
mod ops;
mod perm;
mod repair;
mod session;
pub mod store;
mod table;
pub mod testing;
#[cfg(test)]
mod tests;
mod txn;
mod volume;
mod volume_store;
mod xattr;

pub use catalog::{Catalog, FoundVolume, VolumeState, destroy, list, scheme_of};
pub use check::Report;
pub use clock::wall_clock;
pub use journal::destroy::Destroyed;
pub use journal::pulse::Holder;
pub use lock::{Directories, LockError, MountedBy, VolumeLock, lock_holder, make_directory};
pub use members::{Difference, Member, Members};
pub use on_proxy::ProxyStores;
pub use opened::Volume;
pub use repair::Repaired;
pub use session::Session;
pub use store::*;
pub use volume::{MemoryVolume, MetaSettings, VolumeError, format, in_memory, look, open};
pub use volume_store::{StoreError, VolumeStore, VolumeStores, Volumes};
