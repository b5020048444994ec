//! What all requests of the API share.

use std::sync::Arc;

use proto::metrics_server::Metrics;
use tokio::sync::Mutex;

use super::archive::Archives;
use super::check::Check;
use super::shares::Shares;
use super::tickets::Tickets;
use super::uploads::Uploads;
use super::volumes::Volumes;
use crate::server::Server;
use crate::who::Who;

/// What looks through much, at once, and that of one account.
pub(super) const LOOKS: (usize, usize) = (8, 2);

/// The door.
pub(super) struct Door {
    pub(super) who: Arc<Who>,
    pub(super) uploads: Arc<Uploads>,
    pub(super) archives: Arc<Archives>,
    /// Turns for what looks through much: searches, and where files lie.
    pub(super) looks: Shares,
    /// The same of what looks through the trash.
    pub(super) trash: Shares,
    pub(super) tickets: Tickets,
    /// One at a time makes a share link.
    pub(super) linking: Mutex<()>,
    /// The volumes of the cluster.
    pub(super) volumes: Arc<Volumes>,
    /// The last check of the volume.
    pub(super) check: Arc<Check>,
    /// As long as this goes on, what is looked for in the background is.
    pub(super) server: Server,
    /// What this process counts.
    pub(super) counted: Metrics,
    /// Which doors it has open.
    pub(super) doors: Vec<&'static str>,
    /// Since when, in milliseconds since 1970.
    pub(super) since: i64,
}
