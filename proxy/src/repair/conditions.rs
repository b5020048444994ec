//! What slots have said last of how they are: which are being rebuilt, what their disks know to be damaged, how far
//! their scrubs are. Pure.

use std::collections::BTreeSet;

use proto::id::BlobId;
use proto::part_store::{Condition, ScrubState};

use crate::placement::quorum::SlotSet;

/// What was said last by each slot of a group.
#[derive(Debug)]
pub(crate) struct Conditions {
    /// `None`: it has said nothing, or was away the last time.
    last: Vec<Option<Condition>>,
    /// Damaged blobs that somebody was told of.
    told: BTreeSet<BlobId>,
    /// Those of them that are remains of what nobody wants: too little of each is left to mend it.
    remains: BTreeSet<BlobId>,
    /// Slots whose disks held nothing when they said something last.
    empty: SlotSet,
}

impl Conditions {
    /// Of so many slots.
    pub(crate) fn new(slots: usize) -> Self {
        let (told, remains) = (BTreeSet::new(), BTreeSet::new());
        Self { last: vec![None; slots], told, remains, empty: SlotSet::EMPTY }
    }

    /// The disk of a slot held nothing when somebody else asked it last.
    pub(crate) fn was_empty(&mut self, slot: usize) {
        if self.last[slot].is_none() {
            self.empty.insert(slot);
        }
    }

    /// This is what they say now: the damaged blobs that are news, or were told before the last census.
    pub(crate) fn hear(&mut self, said: Vec<Option<Condition>>) -> Vec<BlobId> {
        self.last = said;
        for (slot, said) in self.last.iter().enumerate() {
            match said {
                Some(said) if said.parts == 0 && !said.rebuilding => self.empty.insert(slot),
                Some(_) => self.empty = self.empty.minus(SlotSet::only(slot)),
                None => {}
            }
        }
        let damaged = self.damaged();
        let news = damaged.difference(&self.told).copied().collect();
        self.remains.retain(|blob| damaged.contains(blob));
        self.told = damaged;
        news
    }

    /// A blob is whole again, whatever was said of it before that: what is damaged still is said again.
    pub(crate) fn is_whole(&mut self, blob: &BlobId) {
        for said in self.last.iter_mut().flatten() {
            said.damaged.retain(|damaged| damaged != blob);
        }
    }

    /// Too little of a blob is left to mend it, and nobody wants it: that it is damaged harms nobody.
    pub(crate) fn nobody_wants(&mut self, blob: BlobId) {
        if self.told.contains(&blob) {
            self.remains.insert(blob);
        }
    }

    /// What is damaged still is told again.
    pub(crate) fn tell_again(&mut self) {
        self.told.clear();
    }

    fn damaged(&self) -> BTreeSet<BlobId> {
        let said = self.last.iter().flatten();
        said.flat_map(|condition| condition.damaged.iter().copied()).collect()
    }

    /// Blobs of which some part is known to be damaged, but for remains of what nobody wants.
    pub(crate) fn damaged_blobs(&self) -> usize {
        self.damaged().difference(&self.remains).count()
    }

    /// Slots that say that they do not have all that they should.
    pub(crate) fn rebuilding(&self) -> SlotSet {
        let says = |slot: usize| self.last[slot].as_ref().is_some_and(|said| said.rebuilding);
        SlotSet::that_are(self.last.len(), says)
    }

    /// Slots whose disks hold nothing, or held nothing before they went away.
    pub(crate) fn empty(&self) -> SlotSet {
        self.empty
    }

    /// Parts that the disk of a slot holds, of whatever volume; `None`: it does not say.
    pub(crate) fn parts(&self, slot: usize) -> Option<u64> {
        self.last[slot].as_ref().map(|said| said.parts)
    }

    /// How far scrubs are.
    pub(crate) fn scrubs(&self) -> impl Iterator<Item = ScrubState> {
        self.last.iter().flatten().filter_map(|said| said.scrub)
    }

    /// Is there something that may be otherwise in a moment?
    pub(crate) fn is_moving(&self) -> bool {
        let moves = |said: &Condition| {
            !said.damaged.is_empty() || said.scrub.is_some_and(|scrub| scrub.asked)
        };
        self.last.iter().flatten().any(moves)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::id::{GroupId, SessionId, VolumeId};

    #[test]
    fn damage_is_told_once_and_again_after_a_census() {
        let blob = |sequence| {
            let scheme = "ec(2,1)".parse().unwrap();
            BlobId::new(VolumeId(1), SessionId(7), sequence, GroupId(0), 4096, scheme).unwrap()
        };
        let says = |blobs: &[u64]| {
            Some(Condition {
                damaged: blobs.iter().copied().map(blob).collect(),
                ..Condition::default()
            })
        };
        let mut conditions = Conditions::new(2);
        assert!(!conditions.is_moving());
        assert_eq!(conditions.hear(vec![says(&[1, 2]), says(&[2, 3])]), [1, 2, 3].map(blob));
        assert_eq!(conditions.hear(vec![says(&[1, 2]), says(&[4])]), [blob(4)]);
        assert!(conditions.is_moving());
        assert_eq!(conditions.hear(vec![says(&[1]), None]), []);
        assert_eq!((conditions.damaged_blobs(), conditions.rebuilding()), (1, SlotSet::EMPTY));
        // It is back, with what it had before.
        assert_eq!(conditions.hear(vec![says(&[1]), says(&[4])]), [blob(4)]);
        conditions.tell_again();
        assert_eq!(conditions.hear(vec![says(&[1]), says(&[4])]), [1, 4].map(blob));
        // It is mended before that is said.
        conditions.is_whole(&blob(1));
        assert_eq!(conditions.damaged_blobs(), 1);
        assert_eq!(conditions.hear(vec![says(&[1]), says(&[4])]), [], "it was told of");
        assert_eq!(conditions.damaged_blobs(), 2);
        // What is left of a put that failed stays until it is swept.
        conditions.nobody_wants(blob(4));
        assert_eq!(conditions.damaged_blobs(), 1);
        conditions.hear(vec![says(&[1]), says(&[])]);
        conditions.hear(vec![says(&[1]), says(&[4])]);
        assert_eq!(conditions.damaged_blobs(), 2, "it was gone meanwhile");
        // One that was empty when it went away has nothing to lose.
        let holds = |parts| Some(Condition { parts, ..Condition::default() });
        conditions.hear(vec![holds(3), holds(0)]);
        conditions.hear(vec![None, None]);
        assert_eq!((conditions.empty(), conditions.parts(1)), (SlotSet::only(1), None));
        conditions.hear(vec![None, holds(1)]);
        assert_eq!(conditions.empty(), SlotSet::EMPTY);
        // Another knows of one that was empty, and is away since.
        let mut others = Conditions::new(2);
        (0..2).for_each(|slot| others.was_empty(slot));
        others.hear(vec![holds(1), None]);
        assert_eq!(others.empty(), SlotSet::only(1));
        // Nor is one empty that is to be filled again: what belongs there is on its way.
        let fills = Some(Condition { rebuilding: true, ..Condition::default() });
        conditions.hear(vec![fills.clone(), holds(0)]);
        assert_eq!(conditions.empty(), SlotSet::only(1));
        conditions.hear(vec![None, fills]);
        assert_eq!(conditions.empty(), SlotSet::EMPTY);
    }
}
