//! The storage daemon: owns disks, and keeps parts of blobs on them.
//!
//! A disk is a set of append-only logs of checked records, and an index that is a cache of them.
//! Nothing read from it is believed before it is checked; nothing is acknowledged before it is on
//! stable storage.
//!
//! * [`superblock`]: who a disk is; [`room`]: how large it may be; `init` makes one. `block_file`, `record`: how bytes
//!   lie on it.
//! * `queue`, `batch`, `ahead`, `owner`, `commit`: from a request to one write and one sync; `compact` and
//!   `give_back`: space back.
//! * `hands`: the threads beside the owner's, or whoever asks; `stepped`: a disk without any. `io`: the files, on the
//!   machine's filesystem or another medium.
//! * `shared`: what the owner, the readers and the scrub of a disk use. `read`, `readers`: from a request to verified
//!   bytes. `calls`: which of all these do not return.
//! * `index`, `ledger`, `fill`: what lies where, and how much room is left.
//! * `watch`: whether the disk is still there; [`scrub`]: whether all that is on it is,
//!   and `wish`: what that asks of the owner.
//! * `open`, `replay` and `recovery` (pure): after a crash, or without an index.
//! * [`Disk`] and its slots: what a proxy in the same process uses, of each disk that is in its
//!   [`bay`]; [`service`] and `acceptor` serve the same to others, by `link`, where `clients` knows whose connection
//!   is the newest and `asked` what to do; [`cli`] is the program, `arguments` and `admin` its
//!   commands; `replacing` are those that change a cluster file, by `cluster_text`.

// What people are told goes through `proto::program`, which a closed pipe does not make panic.
#![cfg_attr(not(test), warn(clippy::print_stdout, clippy::print_stderr))]
#![forbid(unsafe_code)]

mod acceptor;
mod admin;
mod ahead;
mod arguments;
mod asked;
mod batch;
pub mod bay;
mod beats;
mod block_file;
mod calls;
pub mod cli;
mod clients;
mod cluster_text;
mod commit;
mod compact;
pub mod daemon;
#[cfg(any(test, feature = "decoders"))]
pub mod decoders;
mod disk;
mod error;
#[cfg(test)]
mod fault_tests;
mod fill;
mod give_back;
mod hands;
mod index;
#[cfg(test)]
mod index_tests;
mod init;
mod io;
mod late;
mod ledger;
mod link;
pub mod metrics;
mod open;
mod owner;
mod queue;
mod read;
mod readers;
mod record;
mod recovery;
mod replacing;
mod replay;
pub mod room;
pub mod scrub;
mod scrubbing;
pub mod service;
mod shared;
mod slot;
mod stepped;
pub mod superblock;
mod watch;
mod wish;

pub use disk::{Disk, DiskState};
pub use error::{DiskError, DiskProblem};
pub use init::{DEFAULT_BLOCK_FILE, InitOptions, init_disk};
pub use io::medium;
pub use open::DiskOptions;
pub use stepped::Stepped;
