//! What counts of a journal that has lost entries, and of snapshots that have lost chunks or their manifest. Pure.
//!
//! A take-over refuses such a volume ([`super::chain`]): something that was acknowledged is gone. Where somebody has given
//! that up, this decides what the volume stands on. No rule of the chain is broken that what is left can still tell:
//!
//! * Each entry says which epoch it stands on and where its own begins, so one entry of an epoch that can be read is
//!   enough to know that what older leaders left beyond that beginning was never acknowledged, nor any epoch between.
//! * An entry that can be read and is no such leftover counts, whatever is missing before it. Pieces of a batch count each
//!   by itself: what does not fit together is a check's to put right, and it does that for the entries that are gone as well.
//! * The newest snapshot is what the entries stand on; an older one that is whole is better only where all entries between
//!   the two are there. When its manifest is gone its chunks are stacked as they were written: whatever is merged is newer
//!   than all that it was merged with, so that of two chunks with one key the later one has the newer value.

use std::collections::{BTreeMap, BTreeSet};

use super::entry::Standing;
use crate::table::run::{ChunkRef, Run};

/// Epoch and LSN of an entry.
pub(crate) type At = (u64, u64);

/// What is left of a volume's metadata.
#[derive(Clone, Debug, Default)]
pub(crate) struct Left {
    /// Snapshots whose manifest can be read, by LSN and epoch, and how many of their chunks are gone.
    pub(crate) snapshots: BTreeMap<(u64, u64), usize>,
    /// Are there chunks of any snapshot?
    pub(crate) has_chunks: bool,
    /// Entries that can be read.
    pub(crate) entries: BTreeMap<At, Standing>,
    /// Entries that slots have, whether or not they can be read.
    pub(crate) listed: BTreeSet<At>,
}

/// What a volume can stand on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Base {
    /// A snapshot, by LSN and epoch: [`Left::snapshots`].
    Snapshot(u64, u64),
    /// All chunks there are. They have at least what entries up to this LSN said, of leaders up to this epoch.
    Chunks(u64, u64),
}

impl Base {
    /// LSN and epoch.
    fn place(self) -> (u64, u64) {
        match self {
            Self::Snapshot(lsn, epoch) | Self::Chunks(lsn, epoch) => (lsn, epoch),
        }
    }
}

/// What is done with what is left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// What the rest lies over.
    pub(crate) base: Base,
    /// Entries that count, in order: their LSNs rise.
    pub(crate) entries: Vec<At>,
    /// LSNs between the base and the last entry that nothing is left of, first and last of each gap.
    pub(crate) gaps: Vec<(u64, u64)>,
    /// The last LSN that anything of the volume has: the next leader goes on behind it.
    pub(crate) end: u64,
}

impl Plan {
    /// The epoch of the last entry that counts, or of the base.
    pub(crate) fn last_epoch(&self) -> u64 {
        self.entries.last().map_or(self.base.place().1, |(epoch, _)| *epoch)
    }
}

impl Left {
    /// What is done with it.
    pub(crate) fn plan(&self) -> Plan {
        let named = self.named_snapshot();
        let known = self.snapshots.iter().rev().filter(|(place, _)| !self.disowns(**place));
        let mut known = known.map(|((lsn, epoch), gone)| (Base::Snapshot(*lsn, *epoch), *gone));
        match known.next() {
            Some((newest, 0)) if newest.place().0 >= named.0 => self.over(newest),
            Some((newest, _)) if newest.place().0 >= named.0 => {
                let to = newest.place().0;
                // Nothing is missing up to where the newest one was.
                let as_good = |plan: &Plan| plan.gaps.iter().all(|(first, _)| *first > to);
                let mut whole = known.filter(|(_, gone)| *gone == 0);
                let older = whole.find_map(|(base, _)| Some(self.over(base)).filter(as_good));
                older.unwrap_or_else(|| self.over(newest))
            }
            None if !self.has_chunks => self.over(Base::Snapshot(0, 0)),
            _ => self.over(Base::Chunks(named.0, named.1)),
        }
    }

    /// LSN and epoch of the newest snapshot that an entry knows.
    fn named_snapshot(&self) -> (u64, u64) {
        let named = self.entries.values().map(|entry| (entry.snapshot.1, entry.snapshot.0));
        let named = named.max().unwrap_or((0, 0));
        match (named, self.entries.values().map(|entry| entry.lsn).min()) {
            // Its entries are deleted, and none that is left was written since: what is left follows it.
            ((0, _), Some(first)) if self.has_chunks && self.snapshots.is_empty() => (first - 1, 0),
            (named, _) => named,
        }
    }

    /// Was a snapshot unknown to a leader that came after the one that wrote it? Then it was never acknowledged, and
    /// its chunks may be deleted.
    fn disowns(&self, (lsn, epoch): (u64, u64)) -> bool {
        self.entries.values().any(|entry| entry.epoch > epoch && entry.snapshot.1 < lsn)
    }

    /// What counts over this base.
    fn over(&self, base: Base) -> Plan {
        let (lsn, epoch) = base.place();
        let entries = self.counting(lsn, epoch);
        let newest = self.entries.last_key_value().map_or(epoch, |((epoch, _), _)| *epoch);
        let listed = self.listed.iter().filter(|(of, _)| *of >= newest).map(|(_, lsn)| *lsn);
        let last = entries.last().map_or(lsn, |(_, last)| *last).max(listed.max().unwrap_or(0));
        let snapshots = self.snapshots.keys().map(|(lsn, _)| *lsn);
        let all = self.listed.iter().map(|(_, lsn)| *lsn).chain(snapshots).chain([lsn]);
        let end = all.max().unwrap_or(0);
        Plan { base, gaps: gaps(lsn, &entries, last), entries, end }
    }

    /// Entries that count behind a snapshot, in order.
    fn counting(&self, snapshot: u64, snapshot_epoch: u64) -> Vec<At> {
        let mut found = Vec::new();
        // Of epochs below the first, and below the second of their LSNs.
        let (mut epochs, mut lsns) = (u64::MAX, u64::MAX);
        while let Some(((epoch, _), newest)) = self.entries.range(..(epochs, 0)).next_back() {
            if *epoch < snapshot_epoch || lsns <= snapshot + 1 {
                break;
            }
            let of = self.entries.range((*epoch, snapshot + 1)..(*epoch, lsns));
            found.extend(of.rev().map(|(at, _)| *at));
            lsns = newest.first.min(lsns);
            epochs = (newest.before + 1).min(*epoch);
        }
        found.reverse();
        found
    }
}

/// The LSNs behind a snapshot and up to `last` that none of these entries has.
fn gaps(snapshot: u64, entries: &[At], last: u64) -> Vec<(u64, u64)> {
    let (mut gaps, mut next) = (Vec::new(), snapshot + 1);
    for (_, lsn) in entries {
        if *lsn > next {
            gaps.push((next, lsn - 1));
        }
        next = lsn + 1;
    }
    if last >= next {
        gaps.push((next, last));
    }
    gaps
}

/// Runs, newest first, of chunks in the order in which they were written: what a snapshot was whose manifest is gone. Chunks
/// that were written one behind the other with rising keys are one run, so that there are few.
pub(crate) fn stacked(chunks: impl IntoIterator<Item = ChunkRef>) -> Vec<Run> {
    let mut stack: Vec<Vec<ChunkRef>> = Vec::new();
    for chunk in chunks.into_iter().filter(|chunk| chunk.first <= chunk.last) {
        match stack.last_mut() {
            Some(run) if run.last().is_some_and(|last| last.last < chunk.first) => run.push(chunk),
            _ => stack.push(vec![chunk]),
        }
    }
    stack.into_iter().rev().filter_map(Run::new).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proto::id::{GroupId, VolumeId};
    use proto::scheme::Scheme;

    use super::*;
    use crate::key::Key;
    use crate::volume_store::names::{Namer, Role};

    fn entry(epoch: u64, lsn: u64, first: u64, before: u64, snapshot: At) -> (At, Standing) {
        ((epoch, lsn), Standing { epoch, lsn, first, before, snapshot })
    }

    /// Leaders that follow one another, each from where the one before had ended: entries that count, and what each left
    /// beyond its end.
    #[derive(Clone, Debug)]
    struct History {
        counting: Vec<(At, Standing)>,
        leftovers: Vec<(At, Standing)>,
    }

    fn history() -> impl Strategy<Value = History> {
        // Of each leader: entries that count, and leftovers. Only who has written something is stood on.
        proptest::collection::vec((0u64..6, 0u64..3), 1..6).prop_map(|leaders| {
            let mut history = History { counting: Vec::new(), leftovers: Vec::new() };
            let (mut next, mut before) = (1, 0);
            for (number, (count, more)) in leaders.into_iter().enumerate() {
                let epoch = number as u64 + 1;
                let at = |lsn| entry(epoch, lsn, next, before, (0, 0));
                history.counting.extend((next..next + count).map(at));
                history.leftovers.extend((next + count..next + count + more).map(at));
                if count > 0 {
                    (next, before) = (next + count, epoch);
                }
            }
            let last = history.counting.last().map_or(0, |((epoch, _), _)| *epoch);
            // Nobody has come after the newest one: what it has is not told from what counts.
            history.leftovers.retain(|((epoch, _), _)| *epoch < last);
            history
        })
    }

    fn ats(entries: &[(At, Standing)]) -> Vec<At> {
        entries.iter().map(|(at, _)| *at).collect()
    }

    proptest! {
        /// Whatever is lost: entries come in order, each LSN is there or in a gap, and all that counted is there that can
        /// be read. Nothing else is where each leader has an entry left.
        #[test]
        fn what_counted_and_is_left_counts(history in history(), lost: Vec<bool>) {
            let all = history.counting.iter().chain(&history.leftovers);
            let lost = lost.into_iter().chain(std::iter::repeat(false));
            let kept: BTreeMap<At, Standing> =
                all.zip(lost).filter(|(_, lost)| !lost).map(|(entry, _)| *entry).collect();
            let listed = kept.keys().copied().collect();
            let left = Left { entries: kept.clone(), listed, ..Left::default() };
            let plan = left.plan();
            let counting = ats(&history.counting);
            prop_assert!(plan.entries.is_sorted_by(|a, b| a.1 < b.1), "{:?}", plan.entries);
            let led: BTreeSet<u64> = counting.iter().map(|(epoch, _)| *epoch).collect();
            let known: BTreeSet<u64> = kept.keys().map(|(epoch, _)| *epoch).collect();
            if led.is_subset(&known) {
                let expected: Vec<At> =
                    counting.iter().copied().filter(|at| kept.contains_key(at)).collect();
                prop_assert_eq!(&plan.entries, &expected);
            }
            let last = plan.entries.last().map_or(0, |(_, lsn)| *lsn);
            let in_gaps = |lsn: u64| plan.gaps.iter().any(|(a, b)| (*a..=*b).contains(&lsn));
            for lsn in 1..=last {
                let there = plan.entries.iter().any(|(_, of)| *of == lsn);
                prop_assert!(there != in_gaps(lsn), "{} of {:?}", lsn, plan);
            }
            prop_assert!(plan.end >= last);
        }

        /// A key has the value of the last chunk that has it, as in the snapshot that they were of.
        #[test]
        fn chunks_are_stacked_as_they_were_written(bounds in proptest::collection::vec((0u64..40, 0u64..8), 0..20)) {
            let key = |n: u64| Key::tag(b'I').with(n);
            let scheme = Scheme::copies(3).unwrap();
            let namer = Namer { volume: VolumeId(9), epoch: 3, group: GroupId(0), scheme };
            let chunk = |(n, (first, len)): (usize, (u64, u64))| ChunkRef {
                id: namer.name(Role::Chunk, n as u64, 1000).unwrap(),
                crc: 0,
                first: key(first),
                last: key(first + len),
            };
            let chunks: Vec<ChunkRef> = bounds.into_iter().enumerate().map(chunk).collect();
            let runs = stacked(chunks.clone());
            let there: usize = runs.iter().map(|run| run.chunks.len()).sum();
            prop_assert_eq!(there, chunks.len());
            for n in 0..50 {
                let newest = chunks.iter().rev().find(|c| c.first <= key(n) && key(n) <= c.last);
                let found = runs.iter().find_map(|run| run.find(&key(n)));
                prop_assert_eq!(found, newest);
            }
        }
    }

    fn left(entries: Vec<(At, Standing)>, snapshots: &[((u64, u64), usize)]) -> Left {
        let entries: BTreeMap<At, Standing> = entries.into_iter().collect();
        let listed = entries.keys().copied().collect();
        let snapshots = snapshots.iter().copied().collect();
        Left { snapshots, has_chunks: true, entries, listed }
    }

    #[test]
    fn an_older_snapshot_is_better_only_where_nothing_is_missing_since() {
        let entries = |lsns: &[u64]| lsns.iter().map(|n| entry(2, *n, 1, 1, (2, 4))).collect();
        let plan = |lsns: &[u64], snapshots: &[((u64, u64), usize)]| {
            let Plan { base, gaps, .. } = left(entries(lsns), snapshots).plan();
            (base, gaps)
        };
        let (newer, older) = ((8, 2), (4, 2));
        let whole = &[5, 6, 7, 8, 9][..];
        let newest = Base::Snapshot(8, 2);
        assert_eq!(plan(whole, &[(newer, 0), (older, 0)]), (newest, vec![]));
        assert_eq!(plan(whole, &[(newer, 1), (older, 0)]), (Base::Snapshot(4, 2), vec![]));
        assert_eq!(plan(whole, &[(newer, 1), (older, 1)]), (newest, vec![]));
        assert_eq!(plan(&[5, 7, 8, 9], &[(newer, 1), (older, 0)]), (newest, vec![]));
        // What is missing since both is no reason.
        let since = (Base::Snapshot(4, 2), vec![(9, 9)]);
        assert_eq!(plan(&[5, 6, 7, 8, 10], &[(newer, 1), (older, 0)]), since);
    }

    #[test]
    fn a_lost_manifest_is_done_without() {
        // The entries know a snapshot that no manifest says anything of.
        let entries = vec![entry(2, 9, 1, 1, (2, 7)), entry(2, 11, 1, 1, (2, 7))];
        let plan = left(entries.clone(), &[((4, 2), 0)]).plan();
        assert_eq!((plan.base, plan.gaps), (Base::Chunks(7, 2), vec![(8, 8), (10, 10)]));
        assert_eq!((plan.entries, plan.end), (vec![(2, 9), (2, 11)], 11));
        // None knows of one, but there are chunks: what is left follows it.
        let unknowing = vec![entry(2, 9, 1, 1, (0, 0))];
        assert_eq!(left(unknowing, &[]).plan().base, Base::Chunks(8, 0));
        assert_eq!(left(Vec::new(), &[]).plan().base, Base::Chunks(0, 0));
        let without = Left { has_chunks: false, ..left(entries, &[]) };
        assert_eq!(without.plan().base, Base::Snapshot(0, 0));
    }

    #[test]
    fn a_snapshot_that_a_later_leader_did_not_know_is_none() {
        let later = vec![entry(3, 9, 9, 2, (2, 4))];
        let plan = left(later, &[((8, 2), 0), ((4, 2), 0)]).plan();
        assert_eq!((plan.base, plan.gaps), (Base::Snapshot(4, 2), vec![(5, 8)]));
    }
}
