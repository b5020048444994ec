//! A volume that is served by doors alone, without any mount.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use super::control::Desk;
use super::error::MountError;
use super::mountpoint::MountEntry;
use super::open::{OpenVolume, VolumePlan};
use crate::fuse::synced::Synced;

/// A volume that is served.
pub struct Server {
    open: OpenVolume,
    stop: CancellationToken,
    desk: Option<Desk>,
}

impl Server {
    /// Opens the volume and its doors. It ends when `stop` is cancelled.
    ///
    /// # Errors
    /// Why not.
    pub async fn start(plan: VolumePlan, stop: CancellationToken) -> Result<Self, MountError> {
        let what = format!("volume {} was served", plan.volume);
        let mut open = OpenVolume::open(plan, (Path::new(""), &what), &stop).await?;
        if let Err(why) = open.open_doors((meta::ROOT, false)).await {
            open.end_unused().await?;
            return Err(why);
        }
        let entry = MountEntry::of_server(&open.plan().volume, std::process::id());
        let (settings, way) = (open.plan().settings(), open.follower().way());
        let synced = Arc::new(Synced::new(false, false));
        let desk = Desk::open(&entry, settings, open.filesystem.clone(), synced, way).await;
        let desk = desk.inspect_err(|e| tracing::warn!("commands cannot ask this process: {e}"));
        Ok(Self { open, stop, desk: desk.ok() })
    }

    /// Waits until it is told to end, and ends it.
    ///
    /// # Errors
    /// What could not be stored.
    pub async fn run(mut self) -> Result<(), MountError> {
        self.stop.cancelled().await;
        let since = Instant::now();
        if let Some(desk) = &mut self.desk {
            desk.close().await;
        }
        // Nobody can ask not to wait.
        let ended = self.open.end(std::future::pending()).await;
        if let Some(desk) = &self.desk {
            desk.tell(ended.as_ref().err().map(ToString::to_string)).await;
        }
        ended?;
        tracing::info!("served no more, everything stored in {:.1?}", since.elapsed());
        Ok(())
    }

    /// The volume that is served.
    pub fn open(&self) -> &OpenVolume {
        &self.open
    }
}
