//! The proxy: cuts blobs into parts and keeps them on the slots of a group.
//!
//! It has no state of its own that matters. [`Proxy`] implements [`BlobStore`]; under it,
//!
//! * `rules`: what a volume wants of its blobs,
//! * [`placement`] (pure): what fails together, and which slots a blob's parts belong on; in its room how many may lie
//!   where, what follows from *which* slots answered, and how much more fits,
//! * [`codec`]: parts from bytes and back; in its room the code itself, and short intervals of lost parts,
//! * `machines`: put, get and restore without I/O: what to ask next, when to stop, what to answer; their driver, which
//!   does all the waiting; how many losses they survive,
//! * `slots`: one slot (latency, back-pressure, is it what it should be), and which are out of use, judged together,
//! * `proxy`: them all as one store; in its room what every slot is asked alike, which of them serve and since when,
//!   what keeps repair apart from puts and deletes, and one proxy after the other, as the group changes (`live`),
//! * [`repair`]: what brings parts back to where they belong,
//! * [`service`], [`cli`]: the doors of `proxyd`.

// What people are told goes through `proto::program`, which a closed pipe does not make panic.
#![cfg_attr(not(test), warn(clippy::print_stdout, clippy::print_stderr))]

mod blob_store;
pub mod cli;
pub mod codec;
mod machines;
pub mod metrics;
pub mod placement;
mod proxy;
pub mod repair;
mod rules;
pub mod service;
mod slots;

pub use blob_store::{BlobError, BlobStore, Listing, SlotStatus, Space, Stored, Volumes};
pub use machines::safety::{Losses, Safety};
pub use placement::space::blob_len;
pub use placement::{Group, Site};
pub use proxy::live::LiveProxy;
pub use proxy::standing::{Founded, NotGivenUp};
pub use proxy::{Answer, BadSlots, Proxy, ProxySettings, SlotHolds};
pub use rules::{Layout, TooManySpare, VolumeRules};
pub use slots::slot_client::SlotConfig;
