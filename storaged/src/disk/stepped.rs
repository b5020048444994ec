//! A disk without threads: what its owner does is done when whoever has the disk says so, and reads by who asks for them.
//!
//! It is what a [`Disk`] is, over any [`Medium`] that never waits: the same owner, readers, recovery and slots. So
//! a simulation says in which order everything happens. It is scrubbed when that is asked for here, and its scrub begins
//! anew when it is opened. Nobody locks it, or looks whether it is still there.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::disk::Disk;
use crate::disk::open::{self, DiskOptions};
use crate::error::DiskError;
use crate::format::superblock::Superblock;
use crate::io::medium::{DiskDir, Medium};
use crate::log::block_file::Access;
use crate::owner::Owner;
use crate::scrub::{self, Scrub};
use crate::shared::hands::Asker;

/// An open disk, and its owner. Dropped, it leaves what is not in the index to the log, as a crash does.
pub struct Stepped {
    disk: Arc<Disk>,
    owner: Owner,
    scrub: Option<Scrub>,
}

impl Stepped {
    /// Recovers the disk that lies in this directory of a medium, in which there is a directory `blocks`.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn open(
        medium: Arc<dyn Medium>,
        dir: &Path,
        superblock: Superblock,
        options: &DiskOptions,
    ) -> Result<Self, DiskError> {
        let home = DiskDir::on(medium, dir);
        let owner = open::recover(&home, &superblock, options, Arc::new(Asker), Access::Write)
            .map_err(|problem| DiskError::new(dir, problem))?;
        let disk = Arc::new(Disk::of(&owner, superblock));
        let (shared, days) = (owner.shared.clone(), options.scrub_days);
        let scrub = (days > 0).then(|| Scrub::resume(shared, days, None, scrub::seconds_now()));
        Ok(Self { disk, owner, scrub })
    }

    /// The disk, for who asks something of it: its answers come with [`Stepped::step`].
    pub fn disk(&self) -> &Arc<Disk> {
        &self.disk
    }

    /// Serves the requests there are, and does a little of what is to be done besides. Answers after what time it has
    /// to be called again, without requests; `None`: it cannot go on, and has to be opened anew.
    pub fn step(&mut self) -> Option<Duration> {
        self.owner.turn(Duration::ZERO);
        (!self.owner.shared.is_lost()).then(|| self.owner.patience())
    }

    /// How long the scrub leaves a disk alone that was just opened.
    pub const SCRUBBED_AFTER: Duration = scrub::BEGIN;

    /// A step of the scrub: does a little of it, or begins a pass if somebody has asked for one. Answers after what time
    /// the next is due; a disk that is not scrubbed has none.
    pub fn scrub(&mut self) -> Option<Duration> {
        let Self { scrub, owner, .. } = self;
        scrub.as_mut().map(|scrub| scrub.step_beside(owner))
    }

    /// Leaves everything in the index. No more is asked of it.
    pub fn close(mut self) {
        self.disk.refuse();
        while self.owner.turn(Duration::ZERO) {}
        self.owner.end();
    }
}

impl Drop for Stepped {
    fn drop(&mut self) {
        self.disk.refuse();
        self.owner.shared.release();
    }
}
