//! The storage daemon: owns disks, and keeps parts of blobs on them.
//!
//! A disk is a set of append-only logs of checked records, and an index that is a cache of them.
//! Nothing read from it is believed before it is checked; nothing is acknowledged before it is on
//! stable storage.
//!
//! Its rooms, each using those above it:
//!
//! * `io`: files, on the machine's filesystem or another [`medium`], and which calls do not return. `log`: how bytes
//!   lie in them.
//! * `index`: what lies where, and how much room is left.
//! * `format`: who a disk is ([`superblock`]), how large it may be ([`room`]), and how it is made.
//! * `shared`: what the owner, the readers and the scrub of a disk use; the queue of requests; the threads beside the
//!   owner's.
//! * `owner`: the one writer, from a request to one write and one sync, and space back; whether the disk is still
//!   there, and what of it counts after a failed sync. `read`: from a request to verified bytes.
//! * [`scrub`]: whether all that is on a disk still is.
//! * `disk`: [`Disk`] and its slots, what a proxy in the same process uses; opening one, after a crash or without an
//!   index (`disk/replay.rs`); one without threads ([`Stepped`]); all of a process ([`bay`]).
//! * `serve`: the same for other processes; [`daemon`], [`cli`]: the program.

// What people are told goes through `proto::program`, which a closed pipe does not make panic.
#![cfg_attr(not(test), warn(clippy::print_stdout, clippy::print_stderr))]
#![forbid(unsafe_code)]

pub mod cli;
pub mod daemon;
#[cfg(any(test, feature = "decoders"))]
pub mod decoders;
mod disk;
mod error;
#[cfg(test)]
mod fault_tests;
mod format;
mod index;
#[cfg(test)]
mod index_tests;
mod io;
mod log;
pub mod metrics;
mod owner;
mod read;
pub mod scrub;
mod serve;
mod shared;

pub use disk::bay;
pub use disk::open::DiskOptions;
pub use disk::stepped::Stepped;
pub use disk::{Disk, DiskState};
pub use error::{DiskError, DiskProblem};
pub use format::init::{DEFAULT_BLOCK_FILE, InitOptions, init_disk};
pub use format::{room, superblock};
pub use io::medium;
pub use serve::{clients, service};
