//! Meta.
pub mod store;
pub use store::*;
