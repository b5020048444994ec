//! The filesystem: what lies between the kernel and the two stores, metadata and blobs; and the
//! program `ashlar` that mounts it. A folder each, and each uses those below it:
//!
//! * [`cli`]: the commands.
//! * [`mount`]: a mount's life: the cluster file against what disks know (`roll_call`), disks opened in this process
//!   or daemons (`embedded`), the kernel's side (`attach`, `mountpoint`), how umount finds it and talks to it
//!   (`control`, `utab`), the same volume at another place (`bind_mount`).
//! * `fuse`: the kernel's door, alone in naming fuser, with pages that direct writes outdate (`stale`) and `-o sync`
//!   (`synced`).
//! * [`doors`]: how others serve the tree beside the kernel, who are not in this crate.
//! * [`tree`]: the tree as doors use it: by paths, for a user, with permissions decided here.
//! * [`filesystem`]: one function per system call, on our own types; what a change takes away (`privileges`),
//!   unlinked but open (`lookup_counts`), when what was read (`atime`), `status`.
//! * [`data`]: the data plane. Writes gathered in memory (`dirty_ranges`, `open_inode`, `write_budget`), packed into
//!   blobs (`pack`, `buffer`), stored (`queue`, `flush`), read back (`plan`, `read`, `cache`), changed by range
//!   (`content`); dead blobs deleted, half-dead ones emptied (`clean`, `sweep`).
//! * `trash`: what was deleted and where it was, as commands and doors show it, and how it is put back.
//! * [`access`]: who comes by a door that the kernel does not watch: passwords, access keys, tokens and share links.
//! * `fsck`: metadata against blobs against parts: what is lost, restorable or away (`blobs`), and of which files (`lost`).
//! * At the bottom: [`error`] and `errno` (the one match), [`options`], `metrics`.

// What people are told goes through `proto::program`, which a closed pipe does not make panic.
#![cfg_attr(not(test), warn(clippy::print_stdout, clippy::print_stderr))]

pub mod access;
pub mod cli;
pub mod data;
pub mod doors;
mod errno;
pub mod error;
pub mod filesystem;
mod fsck;
mod fuse;
mod metrics;
pub mod mount;
pub mod options;
#[cfg(test)]
mod testing;
mod trash;
pub mod tree;
