//! Dead and half-dead blobs.
//!
//! Metadata counts the live bytes of every blob. Those with none are garbage: once that is durable
//! they are deleted, and their records go when every slot has confirmed it. Those with few are
//! emptied ([`crate::data::evacuate`]), the emptiest first.
//!
//! One task does it. While room is plenty it takes its time, and a blob is emptied when it is less
//! than a quarter alive, so that a byte is moved for every three that come free; nothing is scanned
//! while little is wasted. When room is scarce, or a blob waits for some, it does nothing else until
//! there is enough, and whatever takes more room than its live bytes would is worth emptying: small
//! blobs, which are kept as whole copies, are packed into full ones too. Nobody waits for the task
//! itself: [`crate::data::space`] tells those who wait of each piece of room that came free, and of the
//! cleaner's finding nothing.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use meta::BlobRecord;
use proto::id::BlobId;
use proto::limits::{MAX_BLOBS_PER_REQUEST, TARGET_BLOB};
use tokio::time::Instant;

use crate::data::Data;
use crate::data::evacuate::{Mover, Part};
use crate::data::victims::{Candidates, Worth};
use crate::error::DataError;

/// Waste that is not worth looking for victims, in bytes.
const TOLERATED: u64 = 16 << 20;
/// New waste that is worth another look when the last one has found nothing, in bytes.
const STEP: u64 = 1 << 20;
/// Least bytes of a blob that live ones are moved to where the store is full.
const LEAST: u32 = 16 << 10;
/// Most victims of one round, and live bytes from which on it takes no more.
const VICTIMS: usize = 1024;
const ROUND: u64 = 2 * TARGET_BLOB as u64;
/// Victims that are read at once.
const READS: usize = 4;
/// Victims that cannot be read after which a round ends: each may take seconds to fail.
const UNREADABLE: usize = 4;
/// How long a victim that could not be emptied is left alone.
const LEFT_ALONE: Duration = Duration::from_secs(600);
/// Most unconfirmed deletes that are remembered.
const TOLD: usize = 1 << 20;
/// Unconfirmed deletes are asked again after so long for each, and at the latest.
const ASK_EACH: Duration = Duration::from_millis(4);
const ASK_AGAIN: Duration = Duration::from_secs(60);
/// Deleting in the background rests for so many times as long as it took: a page of
/// [`MAX_BLOBS_PER_REQUEST`] small blobs is 30 ms of CPU on all disks together.
const SLOWLY: u32 = 9;

/// What the cleaner remembers.
#[derive(Default)]
struct Cleaning {
    candidates: Candidates,
    /// Waste, and number of blobs, when the last scan found all there was to find, and for whom.
    /// Without more of either there is nothing new.
    scanned: Option<(Worth, u64, u64)>,
    /// Victims that could not be emptied, and when.
    left_alone: BTreeMap<BlobId, Instant>,
    /// Garbage that was deleted where slots are up: others have not confirmed.
    told: HashSet<BlobId>,
    /// Room that it took.
    told_cost: u64,
    /// Those of it that need not be asked for again yet, and since when they were not.
    asked: HashSet<BlobId>,
    asked_since: Option<Instant>,
}

/// What is emptied at once.
struct Round {
    victims: Vec<BlobRecord>,
    /// There are no more than these.
    whole: bool,
    /// They are of a list of before, and what has died since may be worth more.
    old: bool,
}

impl Cleaning {
    /// What could not be done long ago may be possible now.
    fn forgive(&mut self) {
        let before = self.left_alone.len();
        self.left_alone.retain(|_, at| at.elapsed() < LEFT_ALONE);
        if self.left_alone.len() < before {
            self.scanned = None;
        }
    }

    /// Slots that were away may be back: what they have not confirmed is asked again, the later the
    /// more it is.
    fn ask_again(&mut self) {
        let patience = (ASK_EACH * self.asked.len() as u32).min(ASK_AGAIN);
        if self.asked_since.is_none_or(|since| since.elapsed() >= patience) {
            self.asked.clear();
            self.asked_since = Some(Instant::now());
        }
    }

    /// There is no use in trying to empty it for some time.
    fn leave(&mut self, id: BlobId) {
        self.left_alone.insert(id, Instant::now());
    }

    /// Is there no use in trying to empty it?
    fn leaves(&self, record: &BlobRecord) -> bool {
        self.left_alone.contains_key(&record.id)
    }
}

impl Data {
    /// Looks for garbage, and for half-dead blobs, until stopped.
    pub(crate) async fn run_cleaner(self: Arc<Self>) {
        let mut cleaning = Cleaning::default();
        let mut pause = self.settings.garbage_interval;
        // Before much is written: what does not fit must not be accepted.
        self.learn_space().await;
        // What earlier mounts left; metadata that cannot be read will say so to others.
        let _ = self.inline_blobs().await;
        loop {
            tokio::select! {
                () = self.stopping.cancelled() => return,
                () = self.space.wanted.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
            pause = match self.clean(&mut cleaning).await {
                Ok(()) => self.settings.garbage_interval,
                Err(error) => {
                    tracing::warn!(%error, "cleaning was interrupted and is tried again");
                    // Who waits must know that there is nothing to wait for at present.
                    self.space.note_exhausted(true);
                    (2 * pause).min(16 * self.settings.garbage_interval)
                }
            };
        }
    }

    /// Cleans while room is scarce and some is gained; else a little, at leisure.
    async fn clean(&self, cleaning: &mut Cleaning) -> Result<(), DataError> {
        self.learn_space().await;
        self.unload_inline(cleaning).await?;
        if !self.space.is_scarce() {
            self.collect_garbage_slowly(cleaning).await?;
        }
        cleaning.forgive();
        while self.space.is_scarce() && !self.stopping.is_cancelled() {
            let mut gained = self.free_now(cleaning).await?;
            if !self.space.is_plenty() {
                gained |= self.gain(cleaning).await?;
                self.learn_space().await;
            }
            let plenty = self.space.is_plenty();
            self.space.note_exhausted(!gained && !plenty);
            if !gained || plenty {
                return Ok(());
            }
        }
        self.clean_at_leisure(cleaning).await
    }

    /// Moves the bytes of inline blobs into full ones, when there are many.
    async fn unload_inline(&self, cleaning: &mut Cleaning) -> Result<(), DataError> {
        if !self.inline_is_due() {
            return Ok(());
        }
        let mut victims = Vec::new();
        for id in self.inline_blobs().await? {
            victims.extend(self.live_record(id).await?.filter(|record| !cleaning.leaves(record)));
        }
        if self.inline_is_due() {
            self.empty(&victims, self.space.blob(), cleaning).await?;
            self.inline_blobs().await?;
        }
        Ok(())
    }

    /// Deletes what is garbage, leaving time for others, until there is none or room is scarce.
    async fn collect_garbage_slowly(&self, cleaning: &mut Cleaning) -> Result<(), DataError> {
        let mut after = None;
        loop {
            let began = Instant::now();
            let Some(last) = self.delete_page(cleaning, after).await?.0 else { return Ok(()) };
            after = Some(last);
            tokio::select! {
                () = self.stopping.cancelled() => return Ok(()),
                () = self.space.wanted.notified() => return Ok(()),
                () = tokio::time::sleep(SLOWLY * began.elapsed()) => {}
            }
        }
    }

    /// Deletes what is garbage by now, at once. Was any?
    async fn free_now(&self, cleaning: &mut Cleaning) -> Result<bool, DataError> {
        self.meta.sync().await?;
        let (mut after, mut any) = (None, false);
        loop {
            let (last, deleted) = self.delete_page(cleaning, after).await?;
            any |= deleted;
            if last.is_none() {
                return Ok(any);
            }
            after = last;
        }
    }

    /// Deletes one page of garbage. Answers its last blob, `None` when there is no more, and whether
    /// room came free.
    async fn delete_page(
        &self,
        cleaning: &mut Cleaning,
        after: Option<BlobId>,
    ) -> Result<(Option<BlobId>, bool), DataError> {
        if after.is_none() {
            cleaning.ask_again();
        }
        let page = self.meta.garbage(after, MAX_BLOBS_PER_REQUEST).await?;
        let last = page.last().copied();
        let ids: Vec<_> = page.into_iter().filter(|id| !cleaning.asked.contains(id)).collect();
        if ids.is_empty() {
            return Ok((last, false));
        }
        ids.iter().for_each(|id| self.cache.forget(id));
        let unconfirmed: BTreeSet<BlobId> = self.delete_blobs(&ids).await.into_iter().collect();
        let confirmed: Vec<_> =
            ids.iter().filter(|id| !unconfirmed.contains(id)).copied().collect();
        if !confirmed.is_empty() {
            self.meta.forget_blobs(&confirmed).await?;
            self.status.lock().blobs_deleted += confirmed.len() as u64;
        }
        let mut gained = false;
        for id in &confirmed {
            let known = cleaning.told.remove(id);
            cleaning.told_cost -= if known { self.space.cost(id) } else { 0 };
            gained |= !known;
        }
        // Some slot is away. What lies behind is deleted on the others all the same.
        for id in unconfirmed.into_iter().take(TOLD.saturating_sub(cleaning.asked.len())) {
            cleaning.asked.insert(id);
            if cleaning.told.len() < TOLD && cleaning.told.insert(id) {
                cleaning.told_cost += self.space.cost(&id);
                gained = true;
            }
        }
        self.space.note_deleted(cleaning.told_cost);
        // Not reckoned but asked: room that is counted twice would be the cleaner's own.
        self.learn_space().await;
        Ok((last, gained))
    }

    /// Empties half-dead blobs, one round, when enough is wasted for that.
    async fn clean_at_leisure(&self, cleaning: &mut Cleaning) -> Result<(), DataError> {
        let usage = self.meta.usage().await?;
        let waste = usage.dead_bytes;
        // Waste that was deleted since may have been what was found.
        if let Some((_, at, _)) = &mut cleaning.scanned {
            *at = waste.min(*at);
        }
        let known = matches!(cleaning.scanned, Some((_, at, _)) if waste < at + TOLERATED);
        if waste <= TOLERATED.max(usage.blob_bytes / 8) || known {
            return Ok(());
        }
        let round = self.victims(Worth::Quarter, cleaning).await?;
        let (all, _) = self.empty(&round.victims, self.space.blob(), cleaning).await?;
        let done = all && round.whole;
        cleaning.scanned = done.then_some((Worth::Quarter, waste, usage.blobs));
        Ok(())
    }

    /// Room is scarce: empties what takes more room than it needs, one round. Was room gained?
    async fn gain(&self, cleaning: &mut Cleaning) -> Result<bool, DataError> {
        let usage = self.meta.usage().await?;
        if let Some((Worth::Anything, waste, blobs)) = cleaning.scanned
            && usage.dead_bytes < waste + STEP
            && usage.blobs <= blobs
        {
            return Ok(false);
        }
        let (gained, all) = loop {
            let round = self.victims(Worth::Anything, cleaning).await?;
            let emptied = self.empty_into_what_fits(&round.victims, cleaning).await;
            self.free_now(cleaning).await?;
            let (all, gained) = emptied?;
            if gained || !round.old {
                break (gained, all && round.whole);
            }
            cleaning.candidates = Candidates::default();
        };
        let nothing = all && !gained;
        cleaning.scanned = nothing.then_some((Worth::Anything, usage.dead_bytes, usage.blobs));
        Ok(gained)
    }

    /// Where too few slots have room for a part of a full blob, there may be room for smaller ones.
    async fn empty_into_what_fits(
        &self,
        victims: &[BlobRecord],
        cleaning: &mut Cleaning,
    ) -> Result<(bool, bool), DataError> {
        let mut target = self.space.blob();
        loop {
            match self.empty(victims, target, cleaning).await {
                Err(DataError::NoSpace) if target > LEAST => target /= 2,
                emptied => return emptied,
            }
        }
    }

    /// The emptiest blobs.
    async fn victims(&self, worth: Worth, cleaning: &mut Cleaning) -> Result<Round, DataError> {
        let mut candidates = std::mem::take(&mut cleaning.candidates);
        if !candidates.are_good_for(worth) {
            candidates = self.candidates(worth, |record| cleaning.leaves(record)).await?;
        }
        let (mut victims, mut live) = (Vec::new(), 0);
        while victims.len() < VICTIMS
            && live < ROUND
            && let Some(id) = candidates.next()
        {
            // The list is a little old: metadata says what has become of it, and slots how much of it
            // is in reach.
            let record = self.meta.blob(id).await?;
            if worth == Worth::Anything && record.is_some() {
                self.reach(&id).await;
            }
            let worthy = |r: &BlobRecord| self.is_worth(r, worth) && !cleaning.leaves(r);
            if let Some(record) = record.filter(worthy) {
                live += record.live;
                victims.push(record);
            }
        }
        let round = Round { victims, whole: candidates.is_whole(), old: candidates.is_old() };
        candidates.grow_old();
        cleaning.candidates = candidates;
        Ok(round)
    }

    /// Moves what is live of the victims to blobs of `target` bytes; were all of them done, and was
    /// room gained? While room is scarce it needs no more than a blob or two: what is empty is
    /// deleted before more is moved, until there is enough.
    async fn empty(
        &self,
        victims: &[BlobRecord],
        target: u32,
        cleaning: &mut Cleaning,
    ) -> Result<(bool, bool), DataError> {
        let eager = self.space.is_scarce();
        let mut unreadable = 0;
        let mut mover = Mover::new(self, target);
        let (mut emptied, mut freed) = (Vec::new(), 0);
        let read = |victim: &BlobRecord| {
            let id = victim.id;
            async move { (id, self.live_part(id, None).await) }
        };
        let mut read = stream::iter(victims).map(read).buffered(READS);
        while let Some((id, first)) = read.next().await {
            let emptying = match first {
                Ok(first) => self.empty_one(id, first, &mut mover, cleaning).await?,
                Err(error) => Err(error),
            };
            match emptying {
                Ok(done) => emptied.extend(done.then_some(id)),
                // It was deleted meanwhile.
                Err(_) if self.live_record(id).await?.is_none() => continue,
                Err(error) => {
                    tracing::warn!(blob = %id, %error, "a half-dead blob is left alone");
                    cleaning.leave(id);
                    unreadable += 1;
                    if unreadable < UNREADABLE {
                        continue;
                    }
                    break;
                }
            }
            if target < self.space.blob() {
                // Each victim that is empty is the room for the next.
                mover.send().await?;
            }
            if eager && mover.sent > freed {
                freed = mover.sent;
                self.free_now(cleaning).await?;
                if self.space.is_plenty() {
                    break;
                }
            }
        }
        let all = unreadable == 0 && read.next().await.is_none();
        mover.send().await?;
        Ok((all, self.gained_by(&emptied, cleaning).await? > mover.sent))
    }

    /// Moves what is live of one victim, part by part; answers whether that was begun, or why it cannot
    /// be read.
    async fn empty_one(
        &self,
        id: BlobId,
        mut part: Part,
        mover: &mut Mover<'_>,
        cleaning: &mut Cleaning,
    ) -> Result<Result<bool, DataError>, DataError> {
        if self.unknown_bytes(id, &part).await? > 0 {
            // Some may have been cloned meanwhile: then these are found now.
            part = match self.live_part(id, None).await {
                Ok(part) => part,
                Err(error) => return Ok(Err(error)),
            };
            let unknown = self.unknown_bytes(id, &part).await?;
            if unknown > 0 {
                // It would stay, and what was moved be there twice.
                tracing::warn!(blob = %id, "a half-dead blob is left alone: it is not known \
                    who has {unknown} of its bytes (ashlar fsck tells more)");
                cleaning.leave(id);
                return Ok(Ok(false));
            }
        }
        if self.live_record(id).await?.is_none() {
            return Ok(Ok(false));
        }
        while let Some(next) = mover.take_part(&part).await? {
            part = match self.live_part(id, Some(next)).await {
                Ok(part) => part,
                Err(error) => return Ok(Err(error)),
            };
        }
        Ok(Ok(true))
    }

    /// How many live bytes of a blob, of whose references this is the first part, nobody refers to.
    async fn unknown_bytes(&self, id: BlobId, first: &Part) -> Result<u64, DataError> {
        let referred = self.referred_bytes(id, first).await?;
        // After its references: what is overwritten meanwhile only lowers the count.
        let record = self.live_record(id).await?;
        Ok(record.map_or(0, |record| record.live.saturating_sub(referred)))
    }

    /// Room of blobs that were emptied. Who is alive still was cloned meanwhile, or is damaged.
    async fn gained_by(
        &self,
        emptied: &[BlobId],
        cleaning: &mut Cleaning,
    ) -> Result<u64, DataError> {
        let mut gained = 0;
        for id in emptied {
            match self.live_record(*id).await? {
                Some(_) => cleaning.leave(*id),
                None => gained += self.gives_back(id),
            }
        }
        Ok(gained)
    }

    /// The record of a blob that metadata still counts on: what was deleted since it was listed is no
    /// loss.
    async fn live_record(&self, id: BlobId) -> Result<Option<BlobRecord>, DataError> {
        Ok(self.meta.blob(id).await?.filter(|record| record.live > 0))
    }
}
