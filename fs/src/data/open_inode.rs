//! What the data plane remembers of one file while it is in use: bytes not stored yet, where the
//! stored ones lie, how it is being read.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use meta::{Access, Ino, Leases, Time};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::data::dirty_ranges::DirtyRanges;
use crate::data::plan::{Readers, Window};
use crate::error::DataError;

/// One file in use.
pub(crate) struct OpenInode {
    /// Its inode.
    pub(crate) ino: Ino,
    /// Never held while waiting.
    pub(crate) state: Mutex<State>,
    /// Held while metadata of its content changes (commit, truncate, punch, clone), so that a
    /// commit does not bring back what a truncate took away. Several are taken in order of inode.
    pub(crate) order: tokio::sync::Mutex<()>,
    /// Told when the last pin has gone.
    pub(crate) unpinned: Notify,
}

/// The changing part of a [`OpenInode`].
#[derive(Default)]
pub(crate) struct State {
    /// Bytes on their way to the store.
    pub(crate) dirty_ranges: DirtyRanges,
    /// Time of the last write that metadata does not know yet.
    pub(crate) mtime: Option<Time>,
    /// In the flusher's queue.
    pub(crate) queued: bool,
    /// The kernel has sent what was stored in a mapping: there may be more of it.
    pub(crate) mapped: bool,
    /// Why its bytes could not be stored the last time.
    pub(crate) error: Option<DataError>,
    /// Why bytes of it that were written are gone, and can never be stored.
    lost: Option<DataError>,
    /// How it is being read.
    pub(crate) readers: Readers,
    /// The last long read of it took more than one slice.
    pub(crate) fragmented: bool,
    /// What of the file may be kept here.
    pub(crate) access: Access,
    /// How many work with it by what was granted.
    pins: u32,
    /// Size in metadata, once asked.
    size: Option<u64>,
    windows: Windows,
    changes: u64,
}

/// Windows remembered per file: those of readers at several places.
const WINDOWS: usize = 4;
/// Extents of one remembered window, at most. Of what is more fragmented nothing is remembered: to
/// look through it once more is as much work as to ask for it.
pub(crate) const WINDOW_EXTENTS: usize = 256;
/// Extents that may be remembered of all files, before all are forgotten.
const REMEMBERED_MOST: usize = 1 << 17;

/// Extents that all files of this process remember.
static REMEMBERED: AtomicUsize = AtomicUsize::new(0);

/// What is remembered of a file's extents. The window that was used last comes last.
#[derive(Default)]
struct Windows(Vec<Window>);

impl Windows {
    fn covering(&mut self, range: &Range<u64>) -> Option<&Window> {
        let covers = |w: &Window| w.range.start <= range.start && range.end <= w.range.end;
        let at = self.0.iter().rposition(covers)?;
        self.0[at..].rotate_left(1);
        self.0.last()
    }

    fn add(&mut self, window: Window) {
        if window.extents.len() > WINDOW_EXTENTS {
            return;
        }
        if self.0.len() == WINDOWS {
            let oldest = self.0.remove(0);
            REMEMBERED.fetch_sub(oldest.extents.len(), Relaxed);
        }
        REMEMBERED.fetch_add(window.extents.len(), Relaxed);
        self.0.push(window);
    }

    fn clear(&mut self) {
        let extents = self.0.drain(..).map(|window| window.extents.len()).sum();
        REMEMBERED.fetch_sub(extents, Relaxed);
    }
}

impl Drop for Windows {
    fn drop(&mut self) {
        self.clear();
    }
}

impl State {
    /// Bytes of the file are gone: whoever reads, writes or syncs it is told from now on.
    pub(crate) fn lose(&mut self, why: DataError) {
        self.dirty_ranges = DirtyRanges::default();
        self.mtime = None;
        self.lost = Some(why);
        self.layout_changed(None);
    }

    /// Why the file can be used no more, if it cannot.
    pub(crate) fn check(&self) -> Result<(), DataError> {
        self.lost.clone().map_or(Ok(()), Err)
    }

    /// Metadata of the content changed: what was remembered of it no longer holds.
    pub(crate) fn layout_changed(&mut self, size: Option<u64>) {
        self.windows.clear();
        self.size = size;
        self.changes += 1;
    }

    /// Metadata's size grew to at least this.
    pub(crate) fn landed(&mut self, end: u64) {
        let size = self.size.map(|size| size.max(end));
        self.layout_changed(size);
    }

    /// Counts changes, so that an answer from metadata that was overtaken by one is not kept.
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    /// Size with bytes that are not stored yet; `None` before metadata was asked.
    pub(crate) fn size(&self) -> Option<u64> {
        self.size.map(|size| size.max(self.dirty_ranges.end()))
    }

    /// Keeps what metadata said, asked at `changes`.
    pub(crate) fn learn_size(&mut self, size: u64, changes: u64) {
        if self.changes == changes {
            self.size = Some(size);
        }
    }

    /// Keeps what metadata said, asked at `changes`.
    pub(crate) fn learn_window(&mut self, window: Window, changes: u64) {
        if self.changes == changes {
            self.windows.add(window);
        }
    }

    /// Remembered extents that cover the range.
    pub(crate) fn window(&mut self, range: &Range<u64>) -> Option<&Window> {
        self.windows.covering(range)
    }

    /// Does somebody work with it by what was granted?
    pub(crate) fn is_pinned(&self) -> bool {
        self.pins > 0
    }

    /// Keeps no more of the file than `to`, if nobody works with it and metadata knows all that was written.
    pub(crate) fn lower(&mut self, to: Access) -> bool {
        let free = !self.is_pinned() && self.dirty_ranges.is_empty() && self.mtime.is_none();
        if free && to < self.access {
            self.access = to;
            self.layout_changed(None);
        }
        free
    }

    fn is_idle(&self) -> bool {
        let stored = self.dirty_ranges.is_empty() && self.mtime.is_none() && !self.queued;
        stored && self.error.is_none() && self.lost.is_none()
    }
}

/// Files that are used by what was granted: it is not given back before this is dropped.
#[derive(Default)]
pub(crate) struct Pins(Vec<Arc<OpenInode>>);

impl Pins {
    /// All of them, in these ways; `None`: one of them may not be used so.
    pub(crate) fn take(wanted: &[(&Arc<OpenInode>, Access)]) -> Option<Self> {
        let mut pins = Self::default();
        for &(open_inode, access) in wanted {
            let mut state = open_inode.state.lock();
            if state.access < access {
                // Not under the lock: those taken so far go, and this file may be among them.
                drop(state);
                return None;
            }
            state.pins += 1;
            pins.0.push(Arc::clone(open_inode));
        }
        Some(pins)
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        for open_inode in &self.0 {
            let mut state = open_inode.state.lock();
            state.pins -= 1;
            if !state.is_pinned() {
                open_inode.unpinned.notify_waiters();
            }
        }
    }
}

const SHARDS: usize = 16;
/// OpenInodes per shard from which on idle ones are dropped.
const CROWDED: usize = 1024;

/// All files in use.
pub(crate) struct OpenInodes {
    shards: [Mutex<Shard>; SHARDS],
    /// What this session has been granted; `None`: all is ours.
    leases: Option<Arc<dyn Leases>>,
}

struct Shard {
    files: HashMap<Ino, Arc<OpenInode>>,
    prune_at: usize,
}

impl OpenInodes {
    /// None, of a session that has been granted this.
    pub(crate) fn new(leases: Option<Arc<dyn Leases>>) -> Self {
        let shard = || Mutex::new(Shard { files: HashMap::new(), prune_at: CROWDED });
        Self { shards: std::array::from_fn(|_| shard()), leases }
    }

    /// What the session has been granted; `None`: all is ours.
    pub(crate) fn leases(&self) -> Option<&Arc<dyn Leases>> {
        self.leases.as_ref()
    }

    fn shard(&self, ino: Ino) -> &Mutex<Shard> {
        &self.shards[ino.0 as usize % SHARDS]
    }

    /// The open inode of a file, if there is one.
    pub(crate) fn get(&self, ino: Ino) -> Option<Arc<OpenInode>> {
        self.shard(ino).lock().files.get(&ino).cloned()
    }

    /// The open inode of a file.
    pub(crate) fn open(&self, ino: Ino) -> Arc<OpenInode> {
        let mut shard = self.shard(ino).lock();
        if let Some(open_inode) = shard.files.get(&ino) {
            return Arc::clone(open_inode);
        }
        if shard.files.len() >= shard.prune_at {
            // Whoever uses an open inode holds a second reference, taken under this lock.
            shard.files.retain(|_, h| Arc::strong_count(h) > 1 || !h.state.lock().is_idle());
            shard.prune_at = CROWDED.max(2 * shard.files.len());
        }
        let access = self.leases.as_ref().map_or(Access::Write, |leases| leases.access(ino));
        let open_inode = Arc::new(OpenInode {
            ino,
            state: Mutex::new(State { access, ..State::default() }),
            order: Default::default(),
            unpinned: Notify::new(),
        });
        shard.files.insert(ino, Arc::clone(&open_inode));
        open_inode
    }

    /// Sees to it that no more extents are remembered than may be.
    pub(crate) fn bound_windows(&self) {
        if REMEMBERED.load(Relaxed) > REMEMBERED_MOST {
            for shard in &self.shards {
                let files: Vec<_> = shard.lock().files.values().cloned().collect();
                files.iter().for_each(|open_inode| open_inode.state.lock().windows.clear());
            }
        }
    }

    /// Files in use, and extents remembered of them.
    pub(crate) fn usage(&self) -> (usize, usize) {
        let files = self.shards.iter().map(|shard| shard.lock().files.len()).sum();
        (files, REMEMBERED.load(Relaxed))
    }

    /// Takes the open inode of a file away.
    pub(crate) fn remove(&self, ino: Ino) -> Option<Arc<OpenInode>> {
        self.shard(ino).lock().files.remove(&ino)
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use meta::Extent;

    use super::*;

    #[test]
    fn idle_open_inodes_go_and_busy_ones_stay() {
        let open_inodes = OpenInodes::new(None);
        let busy = open_inodes.open(Ino(SHARDS as u64));
        open_inodes.open(Ino(2 * SHARDS as u64)).state.lock().dirty_ranges.write(0, b"dirty");
        for n in 3..3000 {
            open_inodes.open(Ino(n * SHARDS as u64));
        }
        assert!(Arc::ptr_eq(&busy, &open_inodes.open(Ino(SHARDS as u64))));
        assert_eq!(
            open_inodes.open(Ino(2 * SHARDS as u64)).state.lock().dirty_ranges.dirty_len(),
            5
        );
        assert!(open_inodes.shard(Ino(0)).lock().files.len() <= CROWDED + 2);
    }

    fn window(range: Range<u64>, extents: usize) -> Window {
        let extents = (0..extents as u64).map(|n| Extent { offset: n, len: 1, place: None });
        Window { range, extents: extents.collect() }
    }

    #[test]
    fn what_is_remembered_of_extents_is_bounded_and_not_what_changed_meanwhile() {
        let open_inodes = OpenInodes::new(None);
        for ino in 0..2000 {
            let open_inode = open_inodes.open(Ino(ino));
            for place in 0..10 {
                let at = place << 30;
                let mut state = open_inode.state.lock();
                let changes = state.changes();
                state.learn_window(window(at..at + (1 << 30), 200), changes);
                state.learn_window(window(at..at + (1 << 30), 10_000), changes);
                state.learn_window(window(1 << 40..1 << 41, 1), changes + 1);
                drop(state);
                open_inodes.bound_windows();
                let (files, extents) = open_inodes.usage();
                // Other tests remember some too.
                assert!(extents <= 2 * REMEMBERED_MOST, "{extents} extents of {files} files");
            }
        }
        let open_inode = open_inodes.open(Ino(1999));
        let mut state = open_inode.state.lock();
        let most = state.windows.0.iter().map(|window| window.extents.len()).max();
        assert!(state.windows.0.len() <= WINDOWS && most.is_none_or(|most| most == 200));
        assert!(state.window(&(1 << 40..1 << 41)).is_none(), "asked before a change");
        assert!(state.window(&(9 << 30..10 << 30)).is_some());
        state.layout_changed(None);
        assert!(state.window(&(9 << 30..10 << 30)).is_none());
    }
}
