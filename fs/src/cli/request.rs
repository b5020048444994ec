//! What is asked for of a mount, by `ashlar mount` or by mount(8).

use std::path::PathBuf;

use proto::size::Size;

use super::options::Options;
use super::setup::ClusterFile;

/// Less than this for what is not yet stored would make every write wait.
const LEAST_DIRTY: u64 = 8 << 20;

/// Everything that decides how a volume is mounted, from wherever it was said.
pub(super) struct Request {
    pub(super) volume: String,
    pub(super) mountpoint: PathBuf,
    pub(super) cluster: ClusterFile,
    pub(super) options: Options,
    /// Stays in the foreground.
    pub(super) foreground: bool,
    /// A volume that is mounted may be shown here as well; only root can do that.
    pub(super) bind_mount: bool,
}

impl Request {
    /// As mount(8) asks its helper.
    pub(super) fn of_helper(volume: String, mountpoint: PathBuf, options: Options) -> Self {
        let cluster = ClusterFile::default();
        Self { volume, mountpoint, cluster, options, foreground: false, bind_mount: true }
    }
}

/// The memory for what is not yet stored that this stands for.
pub(super) fn at_least(dirty: Size) -> Size {
    Size(dirty.0.max(LEAST_DIRTY))
}
