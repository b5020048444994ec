//! Ordered lists of blobs, one of each slot, merged into one of blobs with all that is known of them. Pure.
//!
//! Memory holds a page of each list. What a list that broke off had told counts; of what would have come it is
//! unheard, and the census has a gap.

use proto::id::{BlobId, PartIndex, PartSet};
use proto::part_store::Page;

use crate::placement::quorum::SlotSet;
use crate::repair::layout::Lying;

/// One list.
#[derive(Debug, Default)]
struct List {
    entries: std::vec::IntoIter<(BlobId, PartSet)>,
    /// The last blob told.
    last: Option<BlobId>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
enum State {
    #[default]
    GoesOn,
    Complete,
    Broken,
}

impl List {
    fn is_hungry(&self) -> bool {
        self.state == State::GoesOn && self.entries.as_slice().is_empty()
    }
}

/// The merge of a list of each slot, and perhaps one of those blobs that are wanted.
#[derive(Debug)]
pub(crate) struct Merge {
    lists: Vec<List>,
    wanted: Option<List>,
    rebuilding: SlotSet,
}

/// Which list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Of {
    Slot(usize),
    Wanted,
}

/// A blob that is on some list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sighting {
    pub(crate) blob: BlobId,
    /// Its parts, slot by slot.
    pub(crate) lying: Vec<Lying>,
    /// Is it among those that are wanted? `None`: nobody says.
    pub(crate) wanted: Option<bool>,
}

impl Merge {
    /// Of so many slots, those `unheard` left out; `wanted`: with a list of what is wanted.
    pub(crate) fn new(slots: usize, unheard: SlotSet, wanted: bool) -> Self {
        let mut merge = Self {
            lists: (0..slots).map(|_| List::default()).collect(),
            wanted: wanted.then(List::default),
            rebuilding: SlotSet::EMPTY,
        };
        unheard.iter().for_each(|slot| merge.lists[slot].state = State::Broken);
        merge
    }

    fn list(&mut self, of: Of) -> Option<&mut List> {
        match of {
            Of::Slot(slot) => self.lists.get_mut(slot),
            Of::Wanted => self.wanted.as_mut(),
        }
    }

    /// Lists that cannot be gone on with before they have told more, behind which blob.
    pub(crate) fn hungry(&self) -> Vec<(Of, Option<BlobId>)> {
        let slots = self.lists.iter().enumerate().map(|(slot, list)| (Of::Slot(slot), list));
        let all = slots.chain(self.wanted.iter().map(|list| (Of::Wanted, list)));
        all.filter(|(_, list)| list.is_hungry()).map(|(of, list)| (of, list.last)).collect()
    }

    /// A list has told more.
    pub(crate) fn feed(&mut self, of: Of, page: Page) {
        if let (Of::Slot(slot), true) = (of, page.rebuilding) {
            self.rebuilding.insert(slot);
        }
        let Some(list) = self.list(of) else { return };
        list.state = if page.complete { State::Complete } else { State::GoesOn };
        list.last = page.entries.last().map(|(blob, _)| *blob).or(list.last);
        list.entries = page.entries.into_iter();
    }

    /// A list tells no more.
    pub(crate) fn break_off(&mut self, of: Of) {
        if let Some(list) = self.list(of) {
            list.state = State::Broken;
        }
    }

    /// The slots whose lists have not broken off.
    pub(crate) fn heard(&self) -> SlotSet {
        SlotSet::that_are(self.lists.len(), |slot| self.lists[slot].state != State::Broken)
    }

    /// Slots that say that they do not have all that they should.
    pub(crate) fn rebuilding(&self) -> SlotSet {
        self.rebuilding
    }

    /// The next blob; `None`: some list is hungry, or all are at their end.
    pub(crate) fn next(&mut self) -> Option<Sighting> {
        let mut first: Option<BlobId> = None;
        for list in self.lists.iter().chain(&self.wanted) {
            match list.entries.as_slice().first() {
                Some((blob, _)) => first = Some(first.map_or(*blob, |first| first.min(*blob))),
                None if list.is_hungry() => return None,
                None => {}
            }
        }
        let blob = first?;
        let told = |list: &mut List| {
            let (next, parts) = *list.entries.as_slice().first()?;
            (next == blob).then(|| list.entries.next()).map(|_| parts)
        };
        let mut lying = Vec::with_capacity(blob.scheme().parts());
        for (slot, list) in self.lists.iter_mut().enumerate() {
            let parts = told(list).into_iter().flat_map(PartSet::iter);
            lying.extend(parts.map(|part: PartIndex| (part, slot)));
        }
        let heard = |list: &List| list.state != State::Broken;
        let wanted = self.wanted.as_mut().filter(|list| heard(list));
        let wanted = wanted.map(|list| told(list).is_some());
        Some(Sighting { blob, lying, wanted })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::id::{GroupId, SessionId, VolumeId};

    fn blob(sequence: u64) -> BlobId {
        let scheme = "ec(2,1)".parse().unwrap();
        BlobId::new(VolumeId(1), SessionId(7), sequence, GroupId(0), 4096, scheme).unwrap()
    }

    fn page(entries: &[(u64, &[usize])], complete: bool) -> Page {
        let parts = |parts: &[usize]| parts.iter().map(|p| PartIndex::new(*p).unwrap()).collect();
        let entries = entries.iter().map(|(n, held)| (blob(*n), parts(held))).collect();
        Page { entries, complete, rebuilding: false }
    }

    /// Number of a blob, its parts with their slots, and whether it is wanted.
    type Seen = (u64, Vec<(usize, usize)>, Option<bool>);

    fn sighted(merge: &mut Merge) -> Vec<Seen> {
        let told = |s: Sighting| {
            let lying = s.lying.iter().map(|(part, slot)| (part.get(), *slot)).collect();
            (s.blob.sequence(), lying, s.wanted)
        };
        std::iter::from_fn(|| merge.next()).map(told).collect()
    }

    #[test]
    fn blobs_come_in_order_with_all_that_every_list_tells() {
        let mut merge = Merge::new(3, SlotSet::only(2), true);
        assert_eq!(merge.hungry(), [(Of::Slot(0), None), (Of::Slot(1), None), (Of::Wanted, None)]);
        merge.feed(Of::Slot(0), page(&[(1, &[0]), (3, &[0, 2])], false));
        merge.feed(Of::Slot(1), page(&[(1, &[1]), (2, &[1]), (5, &[0])], true));
        assert_eq!(merge.next(), None, "the list of what is wanted is not here");
        merge.feed(Of::Wanted, page(&[(1, &[]), (4, &[]), (5, &[])], true));
        assert_eq!(
            sighted(&mut merge),
            [
                (1, vec![(0, 0), (1, 1)], Some(true)),
                (2, vec![(1, 1)], Some(false)),
                (3, vec![(0, 0), (2, 0)], Some(false)),
            ]
        );
        assert_eq!(merge.hungry(), [(Of::Slot(0), Some(blob(3)))]);
        merge.break_off(Of::Slot(0));
        assert_eq!(sighted(&mut merge), [(4, vec![], Some(true)), (5, vec![(0, 1)], Some(true))]);
        assert!(merge.hungry().is_empty());
        assert_eq!(merge.heard(), SlotSet::only(1));
    }
}
