//! The side of a mount, or a server: a volume that a metad leads, on this machine or another.
//!
//! [`RemoteSession`] is a [`crate::MetaStore`] each of whose methods is an op that metad does: it keeps nothing itself.
//! Under it, `link` keeps a connection to whoever leads the volume, one after the other, and `connection` is one of
//! them; `kept` has what was answered and has to be asked again of the next one that leads.

mod connection;
mod kept;
mod link;
mod session;
#[cfg(test)]
mod tests;

pub use link::{RemoteError, Target};
pub use session::RemoteSession;
