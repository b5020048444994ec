//! Proxy.
pub mod blob_store;
pub use blob_store::*;
