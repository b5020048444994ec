//! Who may write, allocate or store how much: the data plane's side of [`crate::data::space`].
//!
//! New bytes are refused at write(2), fallocate(2) or copy_file_range(2) when they cannot be promised.
//! What was promised is never refused while the cleaner finds anything to gain: its blob waits. Slots
//! that are away are the exception: what has parts on them is replaced only as long as the others have
//! room for that.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use meta::{Ino, MetaError, Place, is_inline};
use proto::id::BlobId;
use tokio::time::{Instant, timeout};

use crate::data::Data;
use crate::data::queue::Scope;
use crate::data::reach::WHOLE;
use crate::data::space::{FULL_PATIENCE, StoreRoom, Taken};
use crate::error::DataError;

/// How often one who waits looks by himself.
const POLL: Duration = Duration::from_millis(50);
/// How long a blob waits for the cleaner at most.
const STORE_PATIENCE: Duration = Duration::from_secs(30);
/// How long the cleaner must have found nothing before what is tight is refused.
const TIGHT_PATIENCE: Duration = Duration::from_millis(500);
/// Extents asked for at once.
const PAGE: usize = 1024;

/// Waiting for room that the cleaner may find.
struct Hope {
    deadline: Instant,
    /// It ends when the cleaner has found nothing for so long.
    patience: Duration,
    in_vain: Option<Instant>,
}

impl Hope {
    fn new(patience: Duration) -> Self {
        Self { deadline: Instant::now() + STORE_PATIENCE, patience, in_vain: None }
    }

    /// Has it ended?
    fn is_over(&mut self, space: &StoreRoom) -> bool {
        let now = Instant::now();
        if !space.is_exhausted() {
            self.in_vain = None;
            return now >= self.deadline;
        }
        now >= self.deadline || now - *self.in_vain.get_or_insert(now) >= self.patience
    }
}

impl Data {
    /// Asks the store and metadata how much room there is.
    pub(crate) async fn learn_space(&self) {
        let space = self.blobs.space(self.volume.id, self.volume.scheme).await;
        if let Ok(usage) = self.meta.usage().await {
            self.space.learn(space, &usage, self.meta.disk_bytes());
        }
    }

    /// Learns again and again how much room there is, until stopped: what the cleaner does where it is here.
    pub(crate) async fn look_at_room(self: Arc<Self>) {
        loop {
            // Before much is written: what does not fit must not be accepted.
            self.learn_space().await;
            tokio::select! {
                () = self.stopping.cancelled() => return,
                () = self.space.wanted.notified() => {}
                () = tokio::time::sleep(self.settings.garbage_interval) => {}
            }
        }
    }

    /// Metadata has changed what is promised.
    pub(crate) async fn note_stored(&self) {
        if let Ok(usage) = self.meta.usage().await {
            self.space.note_stored(&usage);
        }
    }

    /// Room for a write that cannot be promised at a glance: bytes that replace others need none.
    pub(crate) async fn admit_write(
        self: &Arc<Self>,
        ino: Ino,
        range: &Range<u64>,
    ) -> Result<(), DataError> {
        // Memory first: bytes that land meanwhile are in metadata by then.
        let unstored = self.unstored_in(ino, range);
        let mut new = 0;
        let mut count = |hole: Range<u64>| {
            let known =
                |run: &Range<u64>| run.end.min(hole.end).saturating_sub(run.start.max(hole.start));
            new += hole.end - hole.start - unstored.iter().map(known).sum::<u64>();
        };
        let counted = match self.each_hole(ino, range.clone(), &mut count).await {
            Ok(()) if self.space.is_tight() => self.grows(ino, range.clone()).await,
            counted => counted.map(|()| false),
        };
        match counted {
            Ok(false) => self.admit(new).await,
            Ok(true) => {
                self.wait_while_tight().await?;
                self.admit(new).await
            }
            // An unlinked file's bytes go nowhere.
            Err(DataError::Meta(MetaError::NotFound)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Does replacing a range take more room than it gives back, as slots are away?
    async fn grows(&self, ino: Ino, range: Range<u64>) -> Result<bool, DataError> {
        let (mut blobs, mut allocated) = (BTreeSet::new(), false);
        self.each_part(ino, range, &mut |_, place| match place {
            Some(place) => drop(blobs.insert(place.blob)),
            None => allocated = true,
        })
        .await?;
        for blob in &blobs {
            if self.reach(blob).await < WHOLE {
                return Ok(true);
            }
        }
        Ok(allocated)
    }

    /// Waits for room on the slots that are up, which the cleaner may find: everything is stored first,
    /// so that the account is exact.
    ///
    /// # Errors
    /// [`StoreRoom::why_short`](crate::data::space::StoreRoom::why_short).
    async fn wait_while_tight(self: &Arc<Self>) -> Result<(), DataError> {
        let mut hope = Hope::new(TIGHT_PATIENCE);
        // Whether that succeeds shows in the account.
        let _ = timeout(FULL_PATIENCE, self.settle(&Scope::All)).await;
        let _waiting = self.space.wait();
        loop {
            self.learn_space().await;
            if !self.space.is_tight() {
                return Ok(());
            }
            let cut_off = self.space.is_cut_off() && !self.space.is_just_cut_off();
            if hope.is_over(&self.space) || cut_off {
                break;
            }
            self.space.wanted.notify_one();
            tokio::time::sleep(POLL).await;
        }
        Err(self.space.why_short())
    }

    /// Room for new bytes. Everything is stored first, so that the account is exact, and what was
    /// just deleted gets a moment to be counted.
    pub(crate) async fn admit(self: &Arc<Self>, new: u64) -> Result<(), DataError> {
        let replaces = new == 0;
        if replaces && !self.space.is_cut_off() {
            return Ok(());
        }
        let deadline = Instant::now() + FULL_PATIENCE;
        for step in 0.. {
            self.learn_space().await;
            while self.space.is_just_cut_off() {
                tokio::time::sleep(POLL).await;
                self.learn_space().await;
            }
            // What replaces others needs no more than disks that take writes.
            if self.space.is_cut_off() {
                break;
            }
            if replaces || self.space.fits(new) {
                return Ok(());
            }
            match step {
                0 if self.space.unstored() > 0 => {
                    // Whether that succeeds shows in the account.
                    let _ = timeout(FULL_PATIENCE, self.settle(&Scope::All)).await;
                }
                0 | 1 => tokio::time::sleep(POLL).await,
                _ if self.dying.load(Relaxed) > 0 && Instant::now() < deadline => {
                    tokio::time::sleep(POLL).await;
                }
                _ => break,
            }
        }
        Err(self.space.why_short())
    }

    /// Bytes of a range that metadata has no extent for.
    pub(crate) async fn holes_in(&self, ino: Ino, range: Range<u64>) -> Result<u64, DataError> {
        let mut holes = 0;
        self.each_hole(ino, range, &mut |hole| holes += hole.end - hole.start).await?;
        Ok(holes)
    }

    /// Bytes of a range that are stored, or allocated.
    pub(crate) async fn promised_in(&self, ino: Ino, range: Range<u64>) -> Result<u64, DataError> {
        let mut promised = 0;
        self.each_part(ino, range, &mut |part, _| promised += part.end - part.start).await?;
        Ok(promised)
    }

    async fn each_hole(
        &self,
        ino: Ino,
        range: Range<u64>,
        visit: &mut (dyn FnMut(Range<u64>) + Send),
    ) -> Result<(), DataError> {
        let (mut at, end) = (range.start, range.end);
        self.each_part(ino, range, &mut |part, _| {
            if at < part.start {
                visit(at..part.start);
            }
            at = part.end;
        })
        .await?;
        if at < end {
            visit(at..end);
        }
        Ok(())
    }

    /// What of a range extents cover, in order, and where it is stored, if it is.
    async fn each_part(
        &self,
        ino: Ino,
        mut range: Range<u64>,
        visit: &mut (dyn FnMut(Range<u64>, Option<Place>) + Send),
    ) -> Result<(), DataError> {
        while range.start < range.end {
            let page = self.meta.extents(ino, range.clone(), PAGE).await?;
            for extent in &page {
                let end = (extent.offset + extent.len).min(range.end);
                visit(extent.offset.max(range.start)..end, extent.place);
            }
            match page.last() {
                Some(last) if page.len() == PAGE => range.start = last.offset + last.len,
                _ => break,
            }
            // Of a file of very many extents: others go in between.
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    fn unstored_in(&self, ino: Ino, range: &Range<u64>) -> Vec<Range<u64>> {
        let mut runs = Vec::new();
        let Some(open_inode) = self.open_inodes.get(ino) else { return runs };
        let state = open_inode.state.lock();
        let mut at = range.start;
        while at < range.end
            && let Some(run) = state.dirty_ranges.next_run(at..range.end)
        {
            at = run.end;
            runs.push(run);
        }
        runs
    }

    /// Free room for a blob that is about to be put. Waits while the cleaner gets anywhere.
    ///
    /// # Errors
    /// [`DataError::NoSpace`]: there is none, and none to be gained.
    pub(crate) async fn room_to_put(&self, id: &BlobId) -> Result<Taken<'_>, DataError> {
        let cost = self.space.cost(id);
        let mut hope = Hope::new(FULL_PATIENCE);
        let mut waiting = None;
        loop {
            let freed = self.space.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if let Some(taken) = self.space.take(cost) {
                return Ok(taken);
            }
            waiting.get_or_insert_with(|| self.space.wait());
            if hope.is_over(&self.space) || self.stopping.is_cancelled() {
                break;
            }
            if timeout(POLL, freed).await.is_err() {
                self.space.wanted.notify_one();
            }
        }
        self.space.refuse();
        Err(self.space.why_short())
    }

    /// The share of a blob that is in reach, in thousandths, as far as is known without asking.
    pub(crate) fn known_reach(&self, id: &BlobId) -> u64 {
        match self.space.away() {
            0 => WHOLE,
            away => self.reach.known(away, id).unwrap_or(WHOLE),
        }
    }

    /// The share of a blob that is in reach, in thousandths.
    pub(crate) async fn reach(&self, id: &BlobId) -> u64 {
        let away = self.space.away();
        if away == 0 || is_inline(id) {
            return WHOLE;
        }
        if let Some(known) = self.reach.known(away, id) {
            return known;
        }
        let parts = self.blobs.in_reach(*id).await as u64;
        let share = parts * WHOLE / id.scheme().parts() as u64;
        self.reach.learn(away, *id, share);
        share
    }

    /// Room that deleting a blob gives back now.
    pub(crate) fn gives_back(&self, id: &BlobId) -> u64 {
        if is_inline(id) {
            return 0;
        }
        self.space.cost(id) * self.known_reach(id) / WHOLE
    }
}
