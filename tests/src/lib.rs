//! Starts, kills and corrupts.
