//! The filesystem: what lies between the kernel and the two stores, metadata and blobs; and the
//! program `ashlar` that mounts it.
//!
//! * The kernel's door: `fuse` (alone in naming fuser) over [`filesystem`] (one function per system
//!   call, on our own types), with `stale` (pages that direct writes outdate), [`asker`] (what a change takes away), `lifetimes` (unlinked but
//!   open), `access` (when what was read) and `errno` (the one match).
//! * The data plane, [`data`]: writes gathered in memory (`dirty`, `handle`, `room`), packed into
//!   blobs (`pack`, `summary`, `buffer`), stored (`flush`), read back (`plan`, `read`, `cache`), changed by
//!   range (`content`); dead blobs deleted, half-dead ones emptied (`clean`, `sweep`).
//! * A mount's life: [`mount`], `attach` (the kernel's side), [`mountpoint`], `synced` (`-o sync`),
//!   `control` and `utab` (how umount finds it and talks to it), [`second`] (the same volume at another place), [`embedded`] (disks opened in this process, or daemons), [`roll_call`] (is the cluster file right?), [`status`], `metrics`;
//!   and the command line, [`cli`].

// What people are told goes through `proto::program`, which a closed pipe does not make panic.
#![cfg_attr(not(test), warn(clippy::print_stdout, clippy::print_stderr))]

mod access;
mod admit;
pub mod asker;
mod attach;
mod buffer;
mod cache;
mod clean;
pub mod cli;
mod content;
mod control;
pub mod data;
mod dirty;
pub mod embedded;
mod errno;
mod evacuate;
pub mod filesystem;
#[cfg(test)]
mod filesystem_tests;
mod flush;
mod fuse;
mod handle;
mod inline;
mod lifetimes;
mod metrics;
pub mod mount;
pub mod mountpoint;
pub mod outage;
mod pack;
mod plan;
mod reach;
mod read;
pub mod roll_call;
mod room;
pub mod second;
mod space;
mod stale;
pub mod status;
mod summary;
mod sweep;
mod synced;
#[cfg(test)]
mod testing;
mod utab;
mod victims;
