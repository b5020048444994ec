//! Who a disk is and how it becomes one: its [`superblock`], how much [`room`] it may promise, and [`init`], which makes
//! it.

pub(crate) mod init;
pub mod room;
pub mod superblock;
