//! Opening a disk: from what lies in its directory to an owner that can go on.
//!
//! On a filesystem that is mounted read-only nothing is changed: what would be written of the index is in
//! memory, and the disk is read-only for as long as it is open.
//!
//! With a good index only the log behind its checkpoint is read. Without one, all block files are,
//! and the index is made anew: an index is never a reason to do without a disk. How the logs are read
//! is in [`crate::disk::replay`].

use std::sync::Arc;

use proto::guard::caught;
use proto::id::{ClusterId, DiskId};
use proto::limits::DISK_BLOCK;

use crate::disk::replay::Recovery;
use crate::error::DiskProblem;
use crate::format::superblock::Superblock;
use crate::index::fill::FileState;
use crate::index::{self, Home, Index, IndexResult, Saved, is_no_room};
use crate::io::medium::DiskDir;
use crate::log::block_file::{Access, numbers};
use crate::owner::Owner;
use crate::scrub;
use crate::shared::hands::Hands;

const BLOCK: u64 = DISK_BLOCK as u64;

/// Memory for the index's cache, in bytes; of tests so little that lookups reach the file.
const MEMORY: usize = if cfg!(test) { 64 << 10 } else { 8 << 20 };
/// Days in which a disk is scrubbed; tests do it themselves.
const SCRUB_DAYS: u32 = if cfg!(test) { 0 } else { scrub::DEFAULT_DAYS };

/// How a disk is opened.
#[derive(Clone, Copy, Debug)]
pub struct DiskOptions {
    /// Refuse a disk of another cluster.
    pub cluster: Option<ClusterId>,
    /// Refuse any other disk.
    pub disk: Option<DiskId>,
    /// Memory for the index's cache, in bytes.
    pub memory: usize,
    /// Set the index aside and make it anew from the block files.
    pub rebuild_index: bool,
    /// Days in which everything on it is read and verified, again and again; 0: never.
    pub scrub_days: u32,
}

impl Default for DiskOptions {
    fn default() -> Self {
        let scrub_days = SCRUB_DAYS;
        Self { cluster: None, disk: None, memory: MEMORY, rebuild_index: false, scrub_days }
    }
}

/// Everything up to a running owner.
pub(crate) fn recover(
    dir: &DiskDir,
    superblock: &Superblock,
    options: &DiskOptions,
    hands: Arc<dyn Hands>,
    access: Access,
) -> Result<Owner, DiskProblem> {
    if options.rebuild_index {
        index::set_aside(dir)?;
    }
    let missing = dir.medium.len(&index::path_in(dir)).is_err();
    let files = &numbers(dir)?;
    let opening = Opening { dir, superblock, memory: options.memory, hands, files, access };
    match opening.index() {
        Ok((index, Some(saved))) if opening.usable(&saved) => match opening.replay(index, saved) {
            Err(DiskProblem::Index(why)) => {
                tracing::warn!(dir = %dir.display(), "the index is damaged: {why}");
            }
            done => return done,
        },
        Ok((index, None)) if opening.files.is_empty() => {
            return opening.recovery(index)?.rebuild();
        }
        Ok(_) if missing => {}
        Ok(_) => tracing::warn!(dir = %dir.display(), "the index does not match the block files"),
        // It is good, and needs room to be opened.
        Err(e) if is_no_room(&e) && !missing => return Err(e.into()),
        Err(_) if missing => {}
        Err(e) => tracing::warn!(dir = %dir.display(), "the index is damaged: {e}"),
    }
    if access == Access::Read {
        tracing::error!(dir = %dir.display(), "the index is in memory, and made anew at the next start");
        return opening.rebuild(Home::Memory);
    }
    index::set_aside(dir)?;
    opening.rebuild_at_home()
}

/// A disk that is being opened.
struct Opening<'a> {
    dir: &'a DiskDir,
    superblock: &'a Superblock,
    memory: usize,
    hands: Arc<dyn Hands>,
    files: &'a [u32],
    access: Access,
}

impl Opening<'_> {
    fn index(&self) -> IndexResult<(Index, Option<Saved>)> {
        let path = index::path_in(self.dir);
        let home = match self.access {
            Access::Write => Home::File(path),
            Access::Read => Home::Over(path),
        };
        let index = Index::open(self.dir.medium.clone(), home, self.memory)?;
        let saved = index.saved(self.superblock.disk)?;
        Ok((index, saved))
    }

    /// Is the file there in which the checkpoint ends (it may have been about to be made), and can the
    /// account be one of these files?
    fn usable(&self, saved: &Saved) -> bool {
        let Saved { mark, files, .. } = saved;
        let ends = mark.place.block == 0 || self.files.contains(&mark.place.file);
        let most = self.superblock.block_file / BLOCK;
        let fits = |file: &FileState| {
            u64::from(file.tail) <= most && file.live <= u64::from(file.tail) * BLOCK
        };
        ends && u64::from(mark.place.block) <= most && files.values().all(fits)
    }

    /// What is wrong in the index may make anything of it: a panic is a reason to make it anew.
    fn replay(&self, index: Index, saved: Saved) -> Result<Owner, DiskProblem> {
        let replay = || {
            let recovery = self.recovery(index)?;
            match recovery.readable_again(&saved) {
                Some(file) => Err(DiskProblem::Index(format!("it lacks what is in file {file}"))),
                None => recovery.replay(saved),
            }
        };
        caught("replaying the log", replay)
            .unwrap_or_else(|panicked| Err(DiskProblem::Index(panicked.to_string())))
    }

    fn recovery(&self, index: Index) -> Result<Recovery<'_>, DiskProblem> {
        let hands = self.hands.clone();
        Recovery::new(self.dir, self.superblock, index, hands, self.files, self.access)
    }

    fn rebuild(&self, home: Home) -> Result<Owner, DiskProblem> {
        self.recovery(Index::open(self.dir.medium.clone(), home, self.memory)?)?.rebuild()
    }

    /// Without room for its file the index is in memory, until the next time.
    fn rebuild_at_home(&self) -> Result<Owner, DiskProblem> {
        let path = index::path_in(self.dir);
        let (dir, files) = (self.dir.display(), self.files.len());
        tracing::warn!(%dir, "making the index anew from {files} block files");
        match self.rebuild(Home::File(path.clone())) {
            Err(DiskProblem::NoIndexRoom(why)) => {
                tracing::error!(%dir, "the index is in memory, and made anew at the next start: {why}");
                // Half an index must not be taken for one.
                self.dir.medium.remove(&path)?;
                self.rebuild(Home::Memory)
            }
            done => done,
        }
    }
}
