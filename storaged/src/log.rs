//! How bytes lie on a disk: [`block_file`]s, and in them [`record`]s, each with what it takes to check it.

pub(crate) mod block_file;
pub(crate) mod record;
