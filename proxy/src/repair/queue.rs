//! What is to be mended next: those blobs first that can lose the fewest units, and in turn one that a census has found
//! and one that somebody has noticed. However many are noticed meanwhile, what a census has found comes to its end.
//!
//! Pure, and bounded: where there is no room those that have more to spare are left to the next census. One that
//! somebody else is at is put off, and waits as any other: what it came from is not through before it is looked at.

use std::collections::{BTreeMap, HashMap, VecDeque};

use proto::id::BlobId;
use tokio::time::Instant;

use crate::repair::report::Counted;

/// Blobs that wait, at most.
pub(crate) const MOST: usize = 64 << 10;

/// What waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    /// What it has to spare, as far as is known: with less it comes sooner.
    pub(crate) spare: usize,
    /// Is what slots say they hold to be read first?
    pub(crate) verify: bool,
    /// A census has found it and not counted it: nobody wants it, or it leaves that to who looks at it, as it found too few
    /// parts.
    pub(crate) uncounted: bool,
    /// What a census has counted it to have to spare, if it found enough parts.
    pub(crate) counted: Option<usize>,
    /// Bytes of parts that are to be put.
    pub(crate) bytes: u64,
    /// The census that found it; `None`: somebody noticed it.
    pub(crate) census: Option<u64>,
}

impl Item {
    /// Of what somebody noticed. `verify`: what slots say they hold is to be read first.
    pub(crate) fn noticed(verify: bool) -> Self {
        Self { spare: 0, verify, uncounted: false, counted: None, bytes: 0, census: None }
    }

    /// As what a census has counted it, if that found it. `found`: what it had to spare when it was looked at, for want of
    /// what a census has said.
    pub(crate) fn was(&self, found: usize) -> Counted {
        match self.uncounted {
            true => Counted::Not,
            false => Counted::Spare(self.counted.unwrap_or(found)),
        }
    }

    fn lane(&self) -> Lane {
        if self.census.is_some() { Lane::Found } else { Lane::Noticed }
    }
}

/// Where a blob comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lane {
    Found,
    Noticed,
}

/// Blobs that wait to be mended.
#[derive(Debug)]
pub(crate) struct Queue {
    most: usize,
    /// The blobs of each lane, by what they have to spare.
    lanes: [BTreeMap<(usize, u64), BlobId>; 2],
    /// Whose turn it is.
    turn: Lane,
    items: HashMap<BlobId, (u64, Item)>,
    next: u64,
    /// Those that are put off, and until when, in that order.
    later: VecDeque<(Instant, BlobId, Item)>,
    overflowed: bool,
}

impl Queue {
    /// Of at most so many.
    pub(crate) fn new(most: usize) -> Self {
        let (lanes, items, later) = (Default::default(), HashMap::new(), VecDeque::new());
        Self { most, lanes, turn: Lane::Found, items, next: 0, later, overflowed: false }
    }

    /// A blob is to be mended. One that waits already keeps the more urgent of both.
    pub(crate) fn push(&mut self, blob: BlobId, mut item: Item) {
        if let Some((number, known)) = self.items.remove(&blob) {
            self.lane(known.lane()).remove(&(known.spare, number));
            item.spare = item.spare.min(known.spare);
            item.verify |= known.verify;
            item.uncounted |= known.uncounted;
            item.counted = item.counted.or(known.counted);
            item.bytes = item.bytes.max(known.bytes);
            item.census = item.census.max(known.census);
        }
        let next = self.next;
        self.lane(item.lane()).insert((item.spare, next), blob);
        self.items.insert(blob, (next, item));
        self.next += 1;
        if self.len() > self.most {
            self.drop_one();
        }
    }

    fn lane(&mut self, lane: Lane) -> &mut BTreeMap<(usize, u64), BlobId> {
        &mut self.lanes[lane as usize]
    }

    /// Leaves one to the next census, of the longer lane the least urgent.
    fn drop_one(&mut self) {
        let longer = self.lanes.iter_mut().max_by_key(|lane| lane.len());
        if let Some((_, last)) = longer.and_then(BTreeMap::pop_last) {
            self.items.remove(&last);
            self.overflowed = true;
        }
    }

    /// The most urgent of all whose turn it is.
    pub(crate) fn pop(&mut self) -> Option<(BlobId, Item)> {
        let other = match self.turn {
            Lane::Found => Lane::Noticed,
            Lane::Noticed => Lane::Found,
        };
        let turn = std::mem::replace(&mut self.turn, other);
        let first = self.lane(turn).pop_first();
        let (_, blob) = first.or_else(|| self.lane(other).pop_first())?;
        let (_, item) = self.items.remove(&blob).expect("what is in order is here");
        Some((blob, item))
    }

    /// A blob that was taken is not to be tried again before `until`, which is no earlier than for any other so far.
    pub(crate) fn put_off(&mut self, blob: BlobId, item: Item, until: Instant) {
        self.later.push_back((until, blob, item));
    }

    /// Those that were put off until now are to be mended again. Answers when the next will be.
    pub(crate) fn call_back(&mut self, now: Instant) -> Option<Instant> {
        while let Some((_, blob, item)) = self.later.pop_front_if(|(until, ..)| *until <= now) {
            self.push(blob, item);
        }
        self.later.front().map(|(until, ..)| *until)
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.items.len() + self.later.len()
    }

    /// Is nothing left of what censuses have found?
    pub(crate) fn is_through(&self) -> bool {
        let Self { lanes: [found, _], later, .. } = self;
        found.is_empty() && later.iter().all(|(_, _, item)| item.census.is_none())
    }

    /// Were there more than there is room for, since this was asked last?
    pub(crate) fn take_overflow(&mut self) -> bool {
        std::mem::take(&mut self.overflowed)
    }

    /// What an earlier census found counts no more: a new one finds it again.
    pub(crate) fn forget_census(&mut self) {
        for (_, blob) in std::mem::take(self.lane(Lane::Found)) {
            self.items.remove(&blob);
        }
        self.later.retain(|(_, _, item)| item.census.is_none());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::id::{GroupId, SessionId, VolumeId};
    use std::time::Duration;

    fn blob(sequence: u64) -> BlobId {
        let scheme = "ec(2,1)".parse().unwrap();
        BlobId::new(VolumeId(1), SessionId(7), sequence, GroupId(0), 4096, scheme).unwrap()
    }

    fn item(spare: usize) -> Item {
        Item { spare, verify: false, uncounted: false, counted: None, bytes: 1, census: None }
    }

    #[test]
    fn those_with_least_to_spare_come_first_and_stay_when_there_is_no_room() {
        let mut queue = Queue::new(3);
        for (sequence, spare) in [(1, 2), (2, 0), (3, 1), (4, 1), (3, 0)] {
            queue.push(blob(sequence), item(spare));
        }
        assert!(queue.take_overflow() && !queue.take_overflow());
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        let order: Vec<_> = order.iter().map(|(b, item)| (b.sequence(), item.spare)).collect();
        assert_eq!(order, [(2, 0), (3, 0), (4, 1)]);
    }

    #[test]
    fn what_is_noticed_of_a_blob_does_not_change_how_much_is_to_be_put() {
        let mut queue = Queue::new(3);
        queue.push(blob(1), Item { census: Some(1), bytes: 7, ..item(1) });
        queue.push(blob(1), Item::noticed(true));
        let found = queue.pop().map(|(_, item)| (item.verify, item.bytes, item.census));
        assert_eq!(found, Some((true, 7, Some(1))));
    }

    #[test]
    fn what_a_census_found_comes_to_its_end_however_much_is_noticed() {
        let mut queue = Queue::new(9);
        queue.push(blob(1), Item { census: Some(1), ..item(2) });
        queue.push(blob(2), Item { census: Some(1), ..item(1) });
        for sequence in 3..99 {
            queue.push(blob(sequence), Item::noticed(false));
            queue.push(blob(sequence + 100), Item::noticed(false));
            queue.pop();
        }
        assert_eq!((queue.is_through(), queue.len()), (true, 8));
    }

    #[test]
    fn what_was_noticed_outlives_a_census() {
        let mut queue = Queue::new(9);
        queue.push(blob(1), Item { census: Some(1), ..item(0) });
        queue.push(blob(2), Item { verify: true, ..item(1) });
        queue.forget_census();
        assert_eq!(queue.pop(), Some((blob(2), Item { verify: true, ..item(1) })));
        assert_eq!((queue.pop(), queue.len()), (None, 0));
    }

    #[test]
    fn what_is_put_off_waits_and_comes_back() {
        let (mut queue, now, second) = (Queue::new(2), Instant::now(), Duration::from_secs(1));
        queue.put_off(blob(1), Item { census: Some(1), ..item(0) }, now + second);
        queue.put_off(blob(2), item(1), now + 2 * second);
        assert_eq!((queue.call_back(now), queue.pop(), queue.len()), (Some(now + second), None, 2));
        assert_eq!(queue.call_back(now + second), Some(now + 2 * second));
        assert_eq!(
            queue.pop().map(|(blob, item)| (blob.sequence(), item.census)),
            Some((1, Some(1)))
        );
        // A new census finds what an older one has found, and it takes its room.
        queue.put_off(blob(1), Item { census: Some(1), ..item(0) }, now + 3 * second);
        queue.push(blob(3), item(0));
        assert!(queue.take_overflow(), "there is room for two");
        queue.forget_census();
        assert_eq!((queue.len(), queue.call_back(now + 3 * second)), (1, None));
        assert_eq!(queue.pop().map(|(blob, _)| blob.sequence()), Some(2));
    }
}
