//! fs

mod buffer;
mod cache;
mod clean;
mod content;
pub mod data;
mod dirty;
mod flush;
mod handle;
mod pack;
mod read;
mod room;
mod summary;
