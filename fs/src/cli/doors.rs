//! Doors beside the kernel's: where they are wanted, and who opens them.

use std::sync::OnceLock;

use anyhow::Result;
use proto::listen::Listen;

use crate::doors::{DoorPlan, Opener, WantedDoors};

/// Who opens doors in this program.
static OPENER: OnceLock<Opener> = OnceLock::new();

/// What a command that serves a volume takes.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct DoorArgs {
    /// Serve WebDAV, refs, key-value, metrics and health by HTTP at this address of this machine (127.0.0.1:7480, say)
    #[arg(long, value_name = "HOST:PORT")]
    pub(super) http: Option<Listen>,
    /// Serve key-value as lines of JSON over TCP at this address of this machine
    #[arg(long, value_name = "HOST:PORT")]
    pub(super) kv: Option<Listen>,
}

impl DoorArgs {
    /// What is wanted here, or else there.
    pub(super) fn or(self, other: WantedDoors) -> WantedDoors {
        WantedDoors { http: self.http.or(other.http), kv: self.kv.or(other.kv) }
    }
}

/// Says who opens doors. Once only.
pub(super) fn opened_by(opener: Opener) {
    OPENER.get_or_init(|| opener);
}

/// Takes the addresses of the doors that are wanted, and begins to count what they do. To be called before the volume
/// is opened, and within a tokio runtime.
pub(super) fn take(wanted: &WantedDoors) -> Result<Option<DoorPlan>> {
    if !wanted.any() {
        return Ok(None);
    }
    let opener = OPENER.get().expect("the program says who opens doors before it runs a command");
    let plan = wanted.take(*opener)?;
    proto::metrics_server::count()?;
    Ok(Some(plan))
}
