//! How bytes reach a disk: [`aligned`] buffers and [`direct`] files, on a [`medium`], which is the machine's filesystem
//! ([`system`]). Nothing above knows `O_DIRECT`.

pub(crate) mod aligned;
pub(crate) mod calls;
pub(crate) mod direct;
#[cfg(test)]
pub(crate) mod faults;
pub mod medium;
pub(crate) mod system;
