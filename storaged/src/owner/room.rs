//! Room for what is to be written: who finds none waits, and never makes any.
//!
//! Room is made by the owner a slice at a time ([`crate::owner::compact`]), between requests, so that between two
//! answers there is never more than a batch and a slice, however full the disk. Three rules say when:
//!
//! * A request without room *waits* ([`crate::owner::waiting`]), while others are served. It is decided anew once there is
//!   room; and refused as [`PartError::Full`] when there is nothing left to gain, or after [`PATIENCE`].
//! * What is put while room runs short is *paid for* before more is put ([`owed`]): so a file is empty by the time that
//!   there is no other room, and nobody waits for all of it at once.
//! * A reserve that was broken into is made whole again, whether anybody waits or not. What the file needs that is being
//!   emptied then is left to it: deletes and fences, too, wait where they would take that.
//!
//! Which file is emptied is said by [`crate::index::fill::Space::best_victim`]. Its room is there after a checkpoint, one
//! for each file at most, which another thread writes.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use proto::limits::DISK_BLOCK;
use proto::part_store::PartError;

use crate::owner::Owner;
use crate::shared::queue::{Request, closed};

/// Longest that a request waits for room. Whoever asked takes a disk that does not answer for 2 s for one that hangs.
pub(crate) const PATIENCE: Duration =
    if cfg!(test) { Duration::from_secs(60) } else { Duration::from_millis(1500) };

/// Bytes to be moved for so many that were put, when `left` have to be moved before there is more room than `slack`. While
/// there is far more than that, none: dead records are fewer the sooner they are looked for. Then four for each, and more
/// only where there is less slack than that.
fn owed(put: u64, slack: u64, left: u64) -> u64 {
    if slack > left + left / 4 {
        return 0;
    }
    let beyond = u128::from(slack.saturating_sub(left));
    let share = (u128::from(put) * u128::from(left)).checked_div(beyond);
    share.and_then(|share| u64::try_from(share).ok()).map_or(left, |share| share.min(left))
}

impl Owner {
    /// Blocks left in the current file.
    pub(crate) fn free_blocks(&self) -> u32 {
        let Some(current) = &self.current else { return 0 };
        let used = self.ledger.space.files.get(&current.number).map_or(0, |file| file.tail);
        self.ledger.space.file_blocks().saturating_sub(used)
    }

    /// Those of them that are not needed for what is left of the file that is being emptied, where no other can be begun for it.
    pub(crate) fn spare_blocks(&self) -> u32 {
        let (free, space) = (self.free_blocks(), &self.ledger.space);
        match &self.compaction {
            Some(work) if !self.closing && !space.may_open(false) => {
                let needed = space.needed(work.file).div_ceil(DISK_BLOCK as u64);
                free.saturating_sub(u32::try_from(needed).unwrap_or(u32::MAX))
            }
            _ => free,
        }
    }

    /// Bytes of records that can be moved before a file has gone.
    pub(crate) fn room_to_move(&self) -> u64 {
        let space = &self.ledger.space;
        let spare = if space.may_open(false) { space.file_blocks() } else { 0 };
        u64::from(self.free_blocks() + spare) * DISK_BLOCK as u64
    }

    /// Is there room for a record of so many blocks? Begins the next file where that may be; new data leave the reserve
    /// alone.
    pub(crate) fn room(&mut self, blocks: u32, new_data: bool) -> Result<bool, PartError> {
        let fits =
            self.free_blocks() >= blocks || self.ledger.space.may_open(new_data) && self.roll()?;
        Ok(fits && !(new_data && self.ledger.space.reserve_broken()))
    }

    /// The same for somebody who has waited since. `false`: he is to wait.
    ///
    /// # Errors
    /// [`PartError::Full`] when he need not hope for any, and what a closed disk says.
    pub(crate) fn find_room(
        &mut self,
        since: Option<Instant>,
        blocks: u32,
        new_data: bool,
    ) -> Result<bool, PartError> {
        let patient = since.is_none_or(|since| since.elapsed() < PATIENCE);
        let others_first = match new_data {
            true => self.debt > 0,
            false => self.spare_blocks() < blocks && blocks <= self.free_blocks(),
        };
        if others_first && patient && self.can_gain() {
            return Ok(false);
        }
        if self.room(blocks, new_data)? {
            return Ok(true);
        }
        match patient && self.can_gain() {
            true => Ok(false),
            false if self.closing => Err(closed()),
            false => Err(PartError::Full),
        }
    }

    /// The request is decided later.
    pub(crate) fn wait(&mut self, mut request: Request) {
        request.waits_since.get_or_insert_with(Instant::now);
        self.waiting.push(request);
    }

    /// Those who wait have their turn before all others once there is room for the first of them, or no hope. On a disk that
    /// takes no writes room is not even looked for: that could begin a file.
    pub(crate) fn resume(&mut self, pending: &mut VecDeque<Request>) {
        let Some(first) = self.waiting.first() else { return };
        let (since, new_data) = (first.waits_since, first.ask.is_put());
        // It may bring news of its group, which is a record, too.
        let blocks = first.ask.blocks().max(1);
        if self.shared.read_only().is_none() && self.find_room(since, blocks, new_data) == Ok(false)
        {
            return;
        }
        let mut all = self.waiting.take();
        all.append(pending);
        *pending = all;
    }

    /// So many bytes of records were put.
    pub(crate) fn owe(&mut self, put: u64) {
        // What was gained already is there soon.
        if put == 0 || self.frees_soon() {
            return;
        }
        let space = &self.ledger.space;
        let emptied = self.compaction.as_ref().map(|work| work.file);
        let Some(file) = emptied.or_else(|| self.victim(false)) else { return };
        let left = space.needed(file);
        let slack = match space.reserve_broken() {
            true => 0,
            false => {
                let blocks = u64::from(self.free_blocks())
                    + space.files_to_come() * u64::from(space.file_blocks());
                blocks * DISK_BLOCK as u64
            }
        };
        self.debt = (self.debt + owed(put, slack, left)).min(left);
    }

    /// Is a slice of compaction due, however soon after the last?
    pub(crate) fn wants_room(&self) -> bool {
        let wanted =
            !self.waiting.is_empty() || self.debt > 0 || self.ledger.space.reserve_broken();
        wanted && !self.frees_soon()
    }

    /// The file to be emptied for those who want room. For somebody who finds none the one that is written counts, too.
    pub(crate) fn victim(&self, waits: bool) -> Option<u32> {
        let space = &self.ledger.space;
        let open = waits && space.may_open(false);
        space.best_victim(self.room_to_move(), open, &self.unfit)
    }

    /// Will there be more room than now, if the owner goes on?
    fn can_gain(&self) -> bool {
        if self.closing || self.shared.read_only().is_some() {
            return false;
        }
        let empties = || self.compaction.is_some() || self.victim(true).is_some();
        self.frees_soon() || self.has_holes() || Instant::now() >= self.gain_from && empties()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use proto::id::{BlobId, Epoch, OwnerId, PartKey, SlotId, VolumeId};
    use proto::part_store::Issuer;
    use tempfile::TempDir;

    use super::*;
    use crate::fault_tests::{self, Asked, ask, ask_put, content, fresh, get, key, put, recover};
    use crate::index::fill::{FileState, Stage};
    use crate::log::record::footprint;
    use crate::owner::compact::SLICE;
    use crate::shared::queue::Ask;

    /// A part too small for its space to be given back without compaction.
    fn small(n: u64) -> PartKey {
        key(n, 60_000)
    }

    /// Turns of the owner until this is answered. In each, beside what is answered, no more is written than a slice.
    fn turns(owner: &mut Owner, mut asked: Asked) -> (Result<(), PartError>, u64) {
        let record = footprint(60_000);
        for turn in 1.. {
            let before = owner.sequence;
            assert!(owner.turn(owner.patience()));
            let answer = asked.as_mut().now_or_never();
            // What was asked, and deletes that are remembered; the slot's own record may be moved, too.
            let moved = (owner.sequence - before).saturating_sub(3) * record;
            assert!(moved <= SLICE + 2 * record, "{moved} bytes were moved in one turn");
            if let Some(answer) = answer {
                return (answer, turn);
            }
            assert!(turn < 1_000_000, "it is never answered");
        }
        unreachable!("it is answered or not")
    }

    /// Nearly all that may be taken is taken, and of each file a little is dead. Whatever is overwritten is stored, and while
    /// it waits for room no turn of the owner takes longer than a slice.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_full_disk_is_overwritten_for_ever_and_no_turn_moves_more_than_a_slice() {
        let dir = fresh();
        let mut owner = recover(&dir);
        let most = owner.ledger.space.fill().available / footprint(60_000);
        let mut live: Vec<u64> = (0..most * 97 / 100).collect();
        for n in &live {
            let asked = ask_put(&owner, small(*n));
            assert_eq!(turns(&mut owner, asked).0, Ok(()));
        }
        let (mut random, before) = (1u64, owner.sequence);
        for n in 10_000..10_700 {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let at = (random >> 33) as usize % live.len();
            let gone = vec![small(live.swap_remove(at)).blob];
            for asked in [Ask::Delete(gone.clone(), None), Ask::Forget(gone, None)] {
                let asked = ask(&owner, asked);
                assert_eq!(turns(&mut owner, asked).0, Ok(()), "{n}");
            }
            let asked = ask_put(&owner, small(n));
            assert_eq!(turns(&mut owner, asked).0, Ok(()), "{n}");
            live.push(n);
        }
        let moved = owner.sequence - before - 3 * 700;
        assert!(moved > 100, "there was room for nearly all of it: {moved} records were moved");
        owner.end();
        owner.ledger.index.close();
        drop(owner);
        std::fs::remove_file(dir.path().join("d/index.redb")).unwrap();
        let (disk, store) = fault_tests::open(&dir);
        assert_eq!(disk.state().parts, live.len() as u64);
        for n in live {
            assert_eq!(get(&store, small(n)).await.unwrap(), content(small(n)), "{n}");
        }
    }

    /// Two files of 273 parts and a little, of which the first has so many dead ones; and so much is taken by others that
    /// there is no room before it is emptied.
    async fn short(dead: u64) -> (TempDir, Owner) {
        let dir = fresh();
        {
            let (_disk, store) = fault_tests::open(&dir);
            for n in 0..547 {
                put(&store, small(n)).await.unwrap();
            }
            let blobs: Vec<BlobId> = (0..dead).map(|n| small(n).blob).collect();
            store.delete(&blobs, None).await.unwrap();
        }
        let mut owner = recover(&dir);
        let others = FileState { tail: 36 * 256, stage: Stage::Kept, ..FileState::open() };
        owner.ledger.space.files.insert(99, others);
        (dir, owner)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn whoever_has_nothing_to_do_with_what_waits_for_room_is_served_meanwhile() {
        let (_dir, mut owner) = short(120).await;
        let late = small(1000);
        let mut first = ask_put(&owner, late);
        let mut second = ask_put(&owner, small(1001));
        assert!(owner.turn(Duration::ZERO));
        let issuer = Issuer { epoch: Epoch(1), owner: OwnerId::random() };
        let others = [
            ask(&owner, Ask::Delete(vec![small(300).blob], None)),
            ask(&owner, Ask::DropPart(small(301), None)),
            ask(&owner, Ask::Fence(VolumeId(7), issuer)),
        ];
        let mut own = [
            ask(&owner, Ask::Delete(vec![small(302).blob, late.blob], None)),
            ask(&owner, Ask::Forget(vec![late.blob], None)),
            ask(&owner, Ask::Turn),
        ];
        assert!(owner.turn(Duration::ZERO));
        for mut other in others {
            assert_eq!(other.as_mut().now_or_never(), Some(Ok(())));
        }
        for asked in own.iter_mut().chain([&mut first, &mut second]) {
            assert_eq!(asked.as_mut().now_or_never(), None);
        }
        // What was asked before is done before.
        assert_eq!(turns(&mut owner, first).0, Ok(()));
        while !owner.waiting.is_empty() {
            owner.turn(owner.patience());
        }
        for asked in own.into_iter().chain([second]) {
            assert_eq!(asked.await, Ok(()));
        }
        let there = |n| owner.ledger.index.part(SlotId(0), small(n)).unwrap().is_some();
        assert_eq!([1000, 1001, 300, 301, 302].map(there), [false, true, false, false, false]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn where_next_to_nothing_can_be_gained_a_put_is_refused_at_once_and_nothing_is_moved() {
        // With the slot's own record 61 blocks of 4096, and 76.
        for (dead, answer) in [(4, Err(PartError::Full)), (5, Ok(()))] {
            let (_dir, mut owner) = short(dead).await;
            let before = owner.sequence;
            let asked = ask_put(&owner, small(1000));
            let (answered, turns) = turns(&mut owner, asked);
            assert_eq!((answered, turns == 1), (answer.clone(), answer.is_err()), "{dead}");
            assert_eq!(owner.sequence == before, answer.is_err(), "{dead}");
        }
    }

    /// Without a reserve a file is emptied into what is left of the one that is written. What is written there between two
    /// slices leaves what it needs: else nothing might ever be emptied again.
    #[tokio::test(flavor = "multi_thread")]
    async fn nobody_takes_the_room_that_a_file_is_being_emptied_into() {
        let (dir, mut owner) = short(10).await;
        let issuer = Issuer { epoch: Epoch(1), owner: OwnerId::random() };
        let mut fences = Vec::new();
        for turn in 0..10 {
            let volumes = (0..20).map(|n| VolumeId(100 + turn * 20 + n));
            fences.extend(volumes.map(|volume| ask(&owner, Ask::Fence(volume, issuer))));
            assert!(owner.turn(Duration::ZERO));
        }
        let is_emptied =
            |owner: &Owner| owner.compaction.as_ref().is_some_and(|work| work.file == 1);
        assert!(is_emptied(&owner) && !owner.waiting.is_empty());
        while is_emptied(&owner) || !owner.waiting.is_empty() {
            owner.turn(owner.patience());
        }
        for fence in fences {
            assert_eq!(fence.await, Ok(()));
        }
        assert_eq!(owner.checkpoint_now(), Ok(()));
        assert!(!dir.path().join("d/blocks/00000001").exists());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_disk_that_takes_no_writes_any_more_begins_nothing_for_who_waits_and_rests() {
        let (dir, mut owner) = short(120).await;
        let waits = ask_put(&owner, small(1000));
        assert!(owner.turn(Duration::ZERO));
        assert!(!owner.waiting.is_empty() && owner.compaction.is_some());
        // There would be room by now, in a file that is not begun yet.
        owner.ledger.space.files.remove(&99);
        let (current, full) =
            (owner.current.as_ref().unwrap().number, owner.ledger.space.file_blocks());
        owner.ledger.space.file(current).tail = full;
        let files = || std::fs::read_dir(dir.path().join("d/blocks")).unwrap().count();
        let before = files();
        owner.shared.set_read_only("as a test wants it");
        assert!(owner.turn(Duration::ZERO));
        let answer = waits.await;
        assert!(matches!(answer, Err(PartError::Io(_))), "{answer:?}");
        assert_eq!(files(), before, "a file was begun");
        // What was being done is not gone on with, and not looked for all the time.
        assert!(owner.patience() >= Duration::from_secs(1), "{:?}", owner.patience());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn who_waits_when_the_disk_is_closed_is_answered() {
        let (_dir, mut owner) = short(120).await;
        let waits = ask_put(&owner, small(1000));
        assert!(owner.turn(Duration::ZERO));
        assert!(!owner.waiting.is_empty());
        owner.shared.close();
        assert!(!owner.turn(Duration::ZERO));
        assert_eq!(waits.await, Err(closed()));
    }

    #[test]
    fn what_is_put_is_paid_for_the_sooner_the_less_room_there_is() {
        const MIB: u64 = 1 << 20;
        for (slack, left, paid) in [
            (100, 10, 0),
            (126, 100, 0),
            (125, 100, 4),
            (120, 100, 5),
            (110, 100, 10),
            (101, 100, 100),
            (100, 100, 100),
            (0, 100, 100),
            (12, 10, 5),
            (0, 0, 0),
        ] {
            let owed = owed(MIB, slack * MIB, left * MIB);
            assert_eq!(owed, paid * MIB, "{left} MiB to move, and {slack} MiB of room");
        }
        // All is moved by the time that there is no other room, however it is put.
        for put in [4096, 60_000, MIB, 8 * MIB] {
            let (mut slack, mut left) = (256 * MIB, 240 * MIB);
            while left > 0 {
                let paid = owed(put, slack, left).min(left);
                assert!(slack >= put, "{left} bytes are left when there is no room");
                (slack, left) = (slack - put.min(slack), left - paid);
                slack = slack.saturating_sub(paid);
            }
        }
    }
}
