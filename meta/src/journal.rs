//! The journal of a volume's metadata: every batch of changes, in order, as blobs in the volume's own store.
//!
//! * [`entry`]: one blob of it, as bytes.
//! * [`leader`]: who writes it.
//! * [`names`]: what its blobs are called, and those of snapshots, so that they are found without an index.
//! * [`takeover`]: how a leader begins.
//! * [`pulse`]: how others know that a leader is alive.
//! * [`peek`]: what can be told of a volume without that.
//! * [`destroy`]: how a volume ends.
//! * [`store`]: what it asks of the store.
//! * [`chain`]: which entries count, over all leaders there ever were. Pure.

pub(crate) mod chain;
pub(crate) mod destroy;
pub(crate) mod entry;
pub(crate) mod leader;
pub(crate) mod names;
pub(crate) mod peek;
pub(crate) mod pulse;
pub(crate) mod store;
pub(crate) mod takeover;
#[cfg(test)]
mod tests;
