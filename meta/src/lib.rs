//! Filesystem metadata: what is in a volume, who may change it, and when a change is durable.
//!
//! [`MetaStore`] is the contract a filesystem uses; a [`Session`] keeps it, on a [`Volume`] that is open here, over an
//! ordered transactional key-value engine ([`engine::Kv`]), and a [`RemoteSession`] by asking whoever has it open ([`Metad`]). Each operation is one transaction: it reads
//! through a [`txn::Txn`], decides by the POSIX rules, and hands the engine one batch of writes.
//!
//! * `key` and its files: the schema. One file per kind of key.
//! * `record` and its files: the records behind the keys, as byte tables.
//! * `rules` and its files: pure deciders, without I/O or clock.
//! * `ops/*`: the operations, one file per group.
//! * `engine` and its files: the trait, and its implementation for tests. `journal`: the real one, in the volume's own
//!   store (`volume_store`), over sorted chunks (`table`).
//! * `account`: who may come by a door that the kernel does not watch.
//! * `lease`: what somebody who caches is told.
//! * `volume`: format, open; in its room one that is open, its sessions, which there are, who has one open here.
//! * `serve`: a volume that is open here, for sessions elsewhere; `remote`: such a session; `wire`: what travels in between.
//! * `check`: the walk behind `ashlar fsck`, and what puts right what it found.

#![forbid(unsafe_code)]

mod account;
mod check;
mod clock;
#[cfg(any(test, feature = "decoders"))]
pub mod decoders;
#[cfg(test)]
mod dice;
mod engine;
mod journal;
mod key;
mod lease;
pub mod metrics;
mod missing;
mod ops;
mod record;
mod remote;
mod rules;
mod serve;
pub mod store;
mod table;
pub mod testing;
#[cfg(test)]
mod tests;
mod txn;
mod volume;
mod volume_store;
mod wire;

pub use account::{ACCOUNT_NAME_MAX, Account, AccountKind, Pass, Secret, User, UserChange};
pub use check::Report;
pub use check::repair::Repaired;
pub use clock::{Steady, wall_clock};
pub use journal::destroy::Destroyed;
pub use journal::pulse::Holder;
pub use journal::takeover::remains::{Losses, LostEntries};
pub use lease::Outdated;
pub use record::members::{Difference, Member, Members};
pub use remote::{RemoteError, RemoteSession, Target};
pub use rules::acl::{Acl, Grantee};
pub use rules::may;
pub use serve::{Keeper, Metad};
pub use store::*;
pub use volume::catalog::{Catalog, FoundVolume, VolumeState, destroy, holder, list, scheme_of};
pub use volume::lock::{
    Directories, LockError, MountedBy, VolumeLock, lock_holder, make_directory,
};
pub use volume::opened::Volume;
pub use volume::session::Session;
pub use volume::{
    MemoryVolume, MetaSettings, VolumeError, format, in_memory, look, look_at_remains, open,
    salvage,
};
pub use volume_store::on_proxy::ProxyStores;
pub use volume_store::{StoreError, VolumeStore, VolumeStores, Volumes};
