//! Which entries of the journal count, when leaders have followed one another. Pure.
//!
//! Each leader numbers its entries on from where it found the journal to end, and its first entry says
//! which epoch the one before is of. What an older leader left beyond that (an entry that was on too few
//! slots, on one that was silent then) was never acknowledged and counts for nothing, whenever it shows
//! up again. So the chain is followed from the newest epoch back to the snapshot, and then read forward.
//!
//! Acknowledgements go in order. So when an entry is proven absent, no later one of its epoch was ever
//! acknowledged; and when the first of an epoch is absent, nothing of the epoch counts. As a leader has no more
//! than [`FLYING_MOST`] entries under way, one that is so far behind another of its epoch was acknowledged: that it is
//! absent is a loss, and so is a snapshot that an entry names and that is not there.
//!
//! The same holds of snapshots. A leader knows each that was acknowledged before its time, and its entries
//! name one that is no older. So a snapshot that an entry of a later epoch does not know was never acknowledged:
//! it counts for nothing ([`Chain::disowns_snapshot`]), as chunks of it may be deleted by now.

use std::collections::BTreeMap;

use proto::id::BlobId;

use super::entry::Standing;
use super::leader::FLYING_MOST;
use crate::volume_store::names::Role;

/// Finds out which entries follow a snapshot.
#[derive(Debug)]
pub(crate) struct Chain {
    /// Epoch and LSN of the snapshot.
    snapshot: (u64, u64),
    /// What the slots have beyond it.
    listed: BTreeMap<(u64, u64), BlobId>,
    /// LSN of the last entry of each epoch that was sent before `listed` was begun to be gathered.
    sent: BTreeMap<u64, u64>,
    /// Entries that a newer epoch stands on: the last of them has this number, and is of this epoch.
    /// `None`: no entry is known to count yet.
    before: Option<(u64, u64)>,
    /// An epoch was left out because its first entries are not there.
    pub(crate) has_gap: bool,
    /// The parts of the chain that were found, newest first.
    segments: Vec<Segment>,
}

/// Entries of one epoch that follow one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    epoch: u64,
    first: u64,
    /// `None`: the epoch is the newest, and it ends where the first is absent.
    last: Option<u64>,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Read this entry (restoring it) and say what came of it: [`Chain::found`] or [`Chain::absent`].
    Read(BlobId),
    /// These follow the snapshot, in order.
    Replay(Replay),
}

/// The entries behind a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Replay {
    /// Were acknowledged: a missing one is a loss.
    pub(crate) sure: Vec<BlobId>,
    /// Of the newest leader: the journal ends with the first that is proven absent.
    pub(crate) open: Vec<BlobId>,
}

/// The journal cannot be followed: something that was acknowledged is missing, or contradicts itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the metadata journal is broken: {0}")]
pub(crate) struct Broken(pub(crate) String);

impl Chain {
    /// Behind a snapshot with this epoch and LSN, with what all slots but those that can be lost have.
    /// What is not an entry, or not behind it, is left out.
    pub(crate) fn new(
        snapshot: (u64, u64),
        ids: impl IntoIterator<Item = BlobId>,
    ) -> Result<Self, Broken> {
        let mut listed = BTreeMap::new();
        for id in ids {
            let (role, epoch) = Role::of(id.session());
            let lsn = id.sequence();
            if role != Role::Entry || lsn <= snapshot.1 || epoch < snapshot.0 {
                continue;
            }
            if let Some(other) = listed.insert((epoch, lsn), id) {
                return Err(Broken(format!("{other} and {id} have one number")));
            }
        }
        let (before, has_gap, segments) = (None, false, Vec::new());
        Ok(Self { snapshot, listed, sent: BTreeMap::new(), before, has_gap, segments })
    }

    /// These were on slots before anybody began to ask for what is listed: what one of them proves to have been
    /// acknowledged, the list must have.
    pub(crate) fn knowing_of(mut self, ids: impl IntoIterator<Item = BlobId>) -> Self {
        for id in ids {
            let (role, epoch) = Role::of(id.session());
            if role == Role::Entry {
                let last = self.sent.entry(epoch).or_default();
                *last = id.sequence().max(*last);
            }
        }
        self
    }

    /// What to do now.
    pub(crate) fn next(&self) -> Result<Next, Broken> {
        match self.before {
            // The newest epoch that has anything.
            None => match self.listed.last_key_value() {
                Some(((epoch, _), _)) => Ok(Next::Read(self.first_of(*epoch)?)),
                None => Ok(Next::Replay(Replay { sure: Vec::new(), open: Vec::new() })),
            },
            Some((_, lsn)) if lsn <= self.snapshot.1 => self.replay().map(Next::Replay),
            Some((epoch, _)) => Ok(Next::Read(self.first_of(epoch)?)),
        }
    }

    /// The first listed entry of an epoch.
    fn first_of(&self, epoch: u64) -> Result<BlobId, Broken> {
        let mut entries = self.listed.range((epoch, 0)..=(epoch, u64::MAX));
        let first = entries.next().map(|(_, id)| *id);
        first.ok_or_else(|| {
            Broken(format!("epoch {epoch} has no entries, but a later one stands on it"))
        })
    }

    /// Was the snapshot unknown to a leader that came after the one that wrote it, and wrote this entry?
    pub(crate) fn disowns_snapshot(&self, at: Standing) -> bool {
        at.epoch > self.snapshot.0 && at.snapshot.1 < self.snapshot.1
    }

    /// The entry that [`Chain::next`] asked for says this.
    pub(crate) fn found(&mut self, at: Standing) -> Result<(), Broken> {
        if at.snapshot.1 > self.snapshot.1 {
            return Err(Broken(format!("the snapshot of entry {} is missing", at.snapshot.1)));
        }
        let last = self.before.map(|(_, lsn)| lsn);
        let from = at.first.max(self.snapshot.1 + 1);
        if at.lsn != from {
            // The one before it is nowhere.
            if last.is_some() {
                return Err(Broken(format!("entry {from} of epoch {} is missing", at.epoch)));
            }
            self.may_end_before(at.epoch, from)?;
            self.has_gap = true;
            self.drop_epoch(at.epoch);
            return Ok(());
        }
        if at.before >= at.epoch || last.is_some_and(|last| last < from) {
            return Err(Broken(format!("epoch {} begins with {from} behind its end", at.epoch)));
        }
        self.segments.push(Segment { epoch: at.epoch, first: from, last });
        // What lies before: of the epoch that this one stands on, or in the snapshot.
        let before = if at.first > self.snapshot.1 { at.before } else { at.epoch };
        self.before = Some((before, from - 1));
        Ok(())
    }

    /// The entry that [`Chain::next`] asked for is proven absent.
    pub(crate) fn absent(&mut self, id: BlobId) -> Result<(), Broken> {
        if self.before.is_some() {
            return Err(Broken(format!("entry {id} is gone, but a later one stands on it")));
        }
        let (_, epoch) = Role::of(id.session());
        self.may_end_before(epoch, id.sequence())?;
        self.drop_epoch(epoch);
        Ok(())
    }

    /// May an epoch that is the newest have acknowledged nothing from this entry on, which is absent?
    pub(crate) fn may_end_before(&self, epoch: u64, lsn: u64) -> Result<(), Broken> {
        match self.sent.get(&epoch) {
            Some(last) if *last >= lsn + FLYING_MOST as u64 => Err(Broken(format!(
                "entry {lsn} of epoch {epoch} is missing, and entry {last} was sent after it had arrived"
            ))),
            _ => Ok(()),
        }
    }

    /// Nothing of the newest epoch was ever acknowledged.
    fn drop_epoch(&mut self, epoch: u64) {
        self.listed.retain(|(of, _), _| *of != epoch);
    }

    fn replay(&self) -> Result<Replay, Broken> {
        let (mut sure, mut open) = (Vec::new(), Vec::new());
        for segment in self.segments.iter().rev() {
            let end = segment.last.unwrap_or(u64::MAX);
            let listed = self.listed.range((segment.epoch, segment.first)..=(segment.epoch, end));
            let following = listed
                .zip(segment.first..)
                .take_while(|(((_, lsn), _), expected)| lsn == expected)
                .map(|((_, id), _)| *id);
            match segment.last {
                None => {
                    open.extend(following);
                    self.may_end_before(segment.epoch, segment.first + open.len() as u64)?;
                }
                Some(last) => {
                    let before = sure.len() as u64;
                    sure.extend(following);
                    let missing = segment.first + sure.len() as u64 - before;
                    if missing <= last {
                        let epoch = segment.epoch;
                        return Err(Broken(format!("entry {missing} of epoch {epoch} is missing")));
                    }
                }
            }
        }
        Ok(Replay { sure, open })
    }
}

#[cfg(test)]
mod tests {
    use proto::id::VolumeId;
    use proto::scheme::Scheme;

    use super::*;
    use crate::volume_store::names::Namer;

    fn id(epoch: u64, lsn: u64) -> BlobId {
        let scheme = Scheme::copies(3).unwrap();
        Namer { volume: VolumeId(1), group: proto::id::GroupId(0), epoch, scheme }
            .name(Role::Entry, lsn, 100)
            .unwrap()
    }

    /// Epochs as (epoch, first LSN, epoch before).
    struct Leaders(Vec<(u64, u64, u64)>);

    impl Leaders {
        /// The numbers that are replayed, sure and open, where `absent` entries turn out to be.
        fn follow(
            &self,
            snapshot: (u64, u64),
            listed: &[(u64, u64)],
            absent: &[(u64, u64)],
        ) -> Result<(Vec<u64>, Vec<u64>), Broken> {
            let ids = listed.iter().map(|(epoch, lsn)| id(*epoch, *lsn));
            let mut chain = Chain::new(snapshot, ids.clone())?.knowing_of(ids);
            loop {
                match chain.next()? {
                    Next::Read(id) => {
                        let (_, epoch) = Role::of(id.session());
                        let lsn = id.sequence();
                        if absent.contains(&(epoch, lsn)) {
                            chain.absent(id)?;
                            continue;
                        }
                        let (_, first, before) =
                            *self.0.iter().find(|(of, ..)| *of == epoch).unwrap();
                        chain.found(Standing { epoch, lsn, first, before, snapshot: (0, 0) })?;
                    }
                    Next::Replay(Replay { sure, open }) => {
                        let numbers = |ids: Vec<BlobId>| ids.iter().map(BlobId::sequence).collect();
                        return Ok((numbers(sure), numbers(open)));
                    }
                }
            }
        }
    }

    #[test]
    fn one_leader_is_read_to_its_first_gap() {
        let one = Leaders(vec![(1, 1, 0)]);
        let listed = [(1, 1), (1, 2), (1, 3), (1, 5)];
        assert_eq!(one.follow((0, 0), &listed, &[]), Ok((vec![], vec![1, 2, 3])));
        assert_eq!(one.follow((1, 2), &listed, &[]), Ok((vec![], vec![3])));
        assert_eq!(one.follow((1, 5), &listed, &[]), Ok((vec![], vec![])));
        assert_eq!(one.follow((0, 0), &[], &[]), Ok((vec![], vec![])));
    }

    #[test]
    fn a_gap_far_behind_the_last_entry_is_a_loss() {
        let one = Leaders(vec![(1, 1, 0)]);
        let with_gap = |last: u64| {
            let listed: Vec<_> = [1, 2].into_iter().chain(4..=last).map(|lsn| (1, lsn)).collect();
            one.follow((0, 0), &listed, &[])
        };
        let most = FLYING_MOST as u64;
        assert_eq!(with_gap(2 + most), Ok((vec![], vec![1, 2])), "all behind it were under way");
        assert!(with_gap(3 + most).is_err());
        // As it is where the first entry is missing.
        let first = |last: u64| {
            let listed: Vec<_> = (2..=last).map(|lsn| (1, lsn)).collect();
            one.follow((0, 0), &listed, &[])
        };
        assert_eq!(first(most), Ok((vec![], vec![])));
        assert!(first(1 + most).is_err());
        // It is listed, and on no slot any more.
        let listed: Vec<_> = (1..=1 + most).map(|lsn| (1, lsn)).collect();
        assert!(one.follow((0, 0), &listed, &[(1, 1)]).is_err());
    }

    #[test]
    fn what_came_while_it_was_listed_proves_nothing() {
        let ids = |lsns: &[u64]| lsns.iter().map(|lsn| id(1, *lsn)).collect::<Vec<_>>();
        let follow = |before: &[u64], listed: &[u64]| {
            let mut chain = Chain::new((0, 0), ids(listed))?.knowing_of(ids(before));
            chain.found(Standing { epoch: 1, lsn: 1, first: 1, before: 0, snapshot: (0, 0) })?;
            chain.next()
        };
        // The slots with the third were asked before it came, one with later ones after those had.
        let listed = [1, 2, 4, 5, 6, 7];
        assert!(follow(&[1, 2], &listed).is_ok());
        assert!(follow(&[1, 2, 4, 5], &listed).is_ok());
        assert!(follow(&[1, 2, 4, 5, 6], &listed).is_err(), "then the third was there before");
    }

    #[test]
    fn what_an_older_leader_left_beyond_its_end_counts_for_nothing() {
        let two = Leaders(vec![(1, 1, 0), (4, 3, 1)]);
        let listed = [(1, 1), (1, 2), (1, 3), (1, 4), (4, 3), (4, 4)];
        assert_eq!(two.follow((0, 0), &listed, &[]), Ok((vec![1, 2], vec![3, 4])));
        // The snapshot was written by the second leader, of what the first had done.
        assert_eq!(two.follow((4, 2), &listed, &[]), Ok((vec![], vec![3, 4])));
        assert_eq!(two.follow((1, 1), &listed, &[]), Ok((vec![2], vec![3, 4])));
    }

    #[test]
    fn a_leader_whose_first_entry_is_absent_was_none() {
        let leaders = Leaders(vec![(1, 1, 0), (2, 3, 1), (3, 3, 1)]);
        // The third stands on the first: what the second left shows up late.
        let listed = [(1, 1), (1, 2), (2, 3), (2, 4), (3, 3)];
        assert_eq!(leaders.follow((0, 0), &listed, &[]), Ok((vec![1, 2], vec![3])));
        assert_eq!(leaders.follow((0, 0), &listed, &[(3, 3)]), Ok((vec![1, 2], vec![3, 4])));
        let gone = [(3, 3), (2, 3)];
        assert_eq!(leaders.follow((0, 0), &listed, &gone), Ok((vec![], vec![1, 2])));
        // Its second entry is on some slot, its first on none.
        let late = [(1, 1), (1, 2), (3, 4)];
        assert_eq!(leaders.follow((0, 0), &late, &[]), Ok((vec![], vec![1, 2])));
        // So many were never under way at once.
        let later = [(1, 1), (1, 2), (3, 3 + FLYING_MOST as u64)];
        assert!(leaders.follow((0, 0), &later, &[]).is_err());
    }

    #[test]
    fn what_was_acknowledged_and_is_gone_is_a_loss() {
        let two = Leaders(vec![(1, 1, 0), (2, 4, 1)]);
        for listed in [&[(1, 1), (1, 3), (2, 4)][..], &[(1, 2), (1, 3), (2, 4)], &[(2, 4)]] {
            assert!(two.follow((0, 0), listed, &[]).is_err(), "{listed:?}");
        }
        let whole = [(1, 1), (1, 2), (1, 3), (2, 4)];
        assert!(two.follow((0, 0), &whole, &[(1, 1)]).is_err());
    }
}
