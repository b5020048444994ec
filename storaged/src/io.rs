//! How bytes reach a disk: [`aligned`] buffers and [`direct`] files. Nothing above knows `O_DIRECT`.

pub(crate) mod aligned;
pub(crate) mod direct;
#[cfg(test)]
pub(crate) mod faults;
