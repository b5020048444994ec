//! Changes that were answered and may not be durable yet: should whoever leads the volume die, they are to be made again, as they
//! were, in the order in which they were made. Whoever receives an answer keeps its change before anybody hears of it.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use proto::rpc::metad as wire;

use crate::store::MetaError;
use crate::wire::made::Made;

/// Changes that are kept, at most, and bytes that they take: with more, the next waits until they are durable.
const MOST: usize = 4096;
const BYTES: usize = 16 << 20;
/// What one takes beside its message.
const BESIDE: usize = 256;
/// Places of what is owed to a new leader: behind all that has been made again.
const OWED: u64 = 1 << 63;

/// A change that was answered.
#[derive(Clone, Debug)]
pub(super) struct Change {
    /// The op.
    pub(super) op: wire::Op,
    /// Bytes of its message.
    pub(super) len: usize,
    /// How it was made.
    pub(super) made: Made,
}

#[derive(Default)]
struct State {
    /// By their numbers.
    changes: BTreeMap<u64, Change>,
    bytes: usize,
    /// Batches that were durable last.
    durable: u64,
    /// Why something that was answered is not there, if that is so.
    lost: Option<String>,
}

impl State {
    fn take(&mut self, number: u64) -> Option<Change> {
        let change = self.changes.remove(&number)?;
        self.bytes -= change.len + BESIDE;
        Some(change)
    }
}

/// Those of one session. All were made by one leader, but while they are made again by its successor.
#[derive(Default)]
pub(super) struct Kept(Mutex<State>);

impl Kept {
    /// It was answered.
    pub(super) fn keep(&self, number: u64, change: Change) {
        let mut state = self.0.lock();
        let _before = state.take(number);
        state.bytes += change.len + BESIDE;
        state.changes.insert(number, change);
    }

    /// So many batches of the leader that made them are durable.
    pub(super) fn durable(&self, batches: u64) {
        let mut state = self.0.lock();
        if std::mem::replace(&mut state.durable, batches) == batches {
            return;
        }
        let durable = state.changes.iter().filter(|(_, change)| change.made.batch <= batches);
        let durable: Vec<u64> = durable.map(|(number, _)| *number).collect();
        durable.into_iter().for_each(|number| drop(state.take(number)));
    }

    /// Are there so many that they have to become durable before there are more?
    pub(super) fn is_full(&self) -> bool {
        let state = self.0.lock();
        state.changes.len() >= MOST || state.bytes >= BYTES
    }

    /// Another leads, who has all up to `low`, and those in `done`. The others are owed to it.
    pub(super) fn pass_on(&self, low: u64, done: &[u64]) {
        let mut state = self.0.lock();
        let there = |number: &u64| *number <= low || done.contains(number);
        let there: Vec<u64> = state.changes.keys().copied().filter(there).collect();
        there.into_iter().for_each(|number| drop(state.take(number)));
        state.durable = 0;
        let mut owed: Vec<&mut Change> = state.changes.values_mut().collect();
        owed.sort_unstable_by_key(|change| change.made.order);
        for (change, order) in owed.into_iter().zip(OWED..) {
            (change.made.order, change.made.batch) = (order, u64::MAX);
        }
    }

    /// The numbers of those that are owed to whoever leads now, in the order in which they were made.
    pub(super) fn owed(&self) -> Vec<u64> {
        let state = self.0.lock();
        let owed = state.changes.iter().filter(|(_, change)| change.made.order >= OWED);
        let mut owed: Vec<_> = owed.map(|(number, change)| (change.made.order, *number)).collect();
        owed.sort_unstable();
        owed.into_iter().map(|(_, number)| number).collect()
    }

    /// One of them.
    pub(super) fn get(&self, number: u64) -> Option<Change> {
        self.0.lock().changes.get(&number).cloned()
    }

    /// It cannot be made again.
    pub(super) fn give_up(&self, number: u64, why: &MetaError) {
        let mut state = self.0.lock();
        state.take(number);
        state.lost.get_or_insert_with(|| why.to_string());
    }

    /// Is all there that was answered, or still kept?
    ///
    /// # Errors
    /// Once something could not be made again, for good: nobody knows whose it was that is asked next.
    pub(super) fn check(&self) -> Result<(), MetaError> {
        self.0.lock().lost.as_ref().map_or(Ok(()), |why| {
            Err(MetaError::Engine(format!(
                "something that was done was lost with whoever led the volume, and cannot be done again: {why}"
            )))
        })
    }

    /// Is nothing kept, as all is durable?
    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().changes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Time;

    fn change(order: u64, batch: u64) -> Change {
        let made = Made { order, batch, at: Time::default(), ino: None };
        Change { op: wire::Op { op: None }, len: 100, made }
    }

    #[test]
    fn what_is_not_durable_is_made_again_in_its_order() {
        let kept = Kept::default();
        for (number, order, batch) in [(1, 1, 1), (2, 5, 3), (3, 2, 1), (4, 3, 2), (6, 4, 2)] {
            kept.keep(number, change(order, batch));
        }
        kept.durable(1);
        assert!(kept.get(1).is_none() && kept.get(3).is_none() && kept.get(4).is_some());
        assert!(kept.owed().is_empty());
        kept.pass_on(1, &[4]);
        assert_eq!(kept.owed(), [6, 2]);
        assert!(kept.get(4).is_none(), "the successor has it");
        // The successor counts anew, and dies before it has all.
        kept.durable(100);
        kept.keep(6, change(1, 101));
        assert_eq!(kept.owed(), [2]);
        kept.pass_on(1, &[]);
        assert_eq!(kept.owed(), [6, 2]);
        kept.keep(6, change(1, 1));
        kept.durable(1);
        assert_eq!(kept.owed(), [2]);
        assert!(kept.get(6).is_none());
        assert_eq!((kept.check(), kept.is_empty()), (Ok(()), false));
        kept.give_up(2, &MetaError::Exists);
        assert_eq!(kept.0.lock().bytes, 0);
        assert!(kept.is_empty() && kept.check().is_err());
    }

    #[test]
    fn it_is_full_some_day() {
        let kept = Kept::default();
        for number in 1..=MOST as u64 {
            assert!(!kept.is_full());
            kept.keep(number, change(number, 7));
        }
        assert!(kept.is_full());
        kept.durable(7);
        assert!(!kept.is_full());
        kept.keep(1, Change { len: BYTES, ..change(1, 8) });
        assert!(kept.is_full());
    }
}
