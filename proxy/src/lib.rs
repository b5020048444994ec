//! The proxy: cuts blobs into parts and keeps them on the slots of a group.
//!
//! It has no state of its own that matters. [`Proxy`] implements [`BlobStore`]; under it,
//!
//! * [`placement`] (pure): what fails together, and which slots a blob's parts belong on,
//! * `bounds` (pure): how many of them may lie where,
//! * `quorum` (pure): what follows from *which* slots answered,
//! * `put`, `get`, `restore` (state machines, no I/O): what to ask next, when to stop, what to answer,
//! * `driver`: all the waiting,
//! * [`codec`]: parts from bytes and back; `decode_tables`: short intervals of lost ones; `reed_solomon`: the code itself,
//! * `health` (pure): which slots are out of use, all of them judged together,
//! * `slot_client`: one slot: latency, back-pressure, is it what it should be,
//! * `survey`: what every slot is asked alike: listings, fences; `standing`: which of them serve, and since when,
//! * `live`: one proxy after the other, as the group changes,
//! * [`repair`]: what brings parts back to where they belong; `claims` keeps it apart from puts and deletes, `notices`
//!   are what those tell it, `traffic` is what it gives way to,
//! * `rules`: what a volume wants of its blobs,
//! * `space` (pure): how much more fits; `safety` (pure): how many losses that survives,
//! * [`service`], [`cli`]: the doors of `proxyd`.

// What people are told goes through `proto::program`, which a closed pipe does not make panic.
#![cfg_attr(not(test), warn(clippy::print_stdout, clippy::print_stderr))]

mod blob_store;
mod bounds;
mod claims;
pub mod cli;
pub mod codec;
mod decode_tables;
mod driver;
mod get;
mod health;
mod live;
#[cfg(test)]
mod machine_tests;
pub mod metrics;
mod notices;
pub mod placement;
mod proxy;
mod put;
mod quorum;
mod reed_solomon;
pub mod repair;
mod restore;
mod rules;
mod safety;
pub mod service;
mod slot_client;
mod sound;
mod space;
mod standing;
#[cfg(test)]
mod subset_tests;
mod survey;
mod traffic;

pub use blob_store::{BlobError, BlobStore, Listing, SlotStatus, Space, Stored, Volumes};
pub use live::LiveProxy;
pub use placement::{Group, Site};
pub use proxy::{Answer, BadSlots, Proxy, ProxySettings, SlotHolds};
pub use rules::{Layout, TooManySpare, VolumeRules};
pub use safety::{Losses, Safety};
pub use slot_client::SlotConfig;
pub use space::blob_len;
pub use standing::{Founded, NotGivenUp};
