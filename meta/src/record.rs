//! The records behind the keys, as byte tables.

pub(crate) mod account;
pub(crate) mod dentry;
pub(crate) mod inode;
pub(crate) mod members;
pub(crate) mod trash;
pub(crate) mod window;
pub(crate) mod xattr;
