//! The journal of a volume's metadata: every batch of changes, in order, as blobs in the volume's own store.
//!
//! * [`entry`]: one blob of it, as bytes.
//! * [`tables`]: all keys, the newest in memory: the engine that it makes durable.
//! * [`leader`]: who writes it.
//! * [`takeover`]: how a leader begins.
//! * [`pulse`]: how others know that a leader is alive.
//! * [`peek`]: what can be told of a volume without that.
//! * [`destroy`]: how a volume ends.
//! * [`chain`]: which entries count, over all leaders there ever were. Pure.
//! * [`salvage`]: which count where some are lost that were acknowledged. Pure.

pub(crate) mod chain;
pub(crate) mod destroy;
pub(crate) mod entry;
pub(crate) mod leader;
pub(crate) mod peek;
pub(crate) mod pulse;
pub(crate) mod salvage;
pub(crate) mod tables;
pub(crate) mod takeover;
#[cfg(test)]
mod tests;
