//! The engine: an ordered, transactional key-value store.
//!
//! A transaction is a closure that reads a [`View`] and answers one [`Change`]; an engine
//! may run it again when it conflicted, so it must have no other effect. What it read cannot change
//! before its change is applied. A change is visible to all later reads at once, and becomes durable
//! whole, in order, with or before a later [`Kv::sync`].
//!
//! Two changes that touch different keys do not depend on one another: what nearly all of them move, the
//! counters, is not read and written by them but added to, and how sums are kept is the engine's affair.

pub(crate) mod memory;
pub(crate) mod patient;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use async_trait::async_trait;

use crate::key::Key;
use crate::key::counters::{self, Counters};
use crate::missing::Missing;
use crate::store::{JournalStatus, MetaError};

/// A value: cheap to share.
pub(crate) type Value = Arc<[u8]>;
/// Writes, in order of their keys; `None` removes.
pub(crate) type Batch = BTreeMap<Key, Option<Value>>;
/// What a transaction does to the keys.
#[derive(Debug, Default)]
pub(crate) struct Change {
    /// Its writes.
    pub(crate) writes: Batch,
    /// What it does to the counters.
    pub(crate) counting: Counting,
}

impl From<Batch> for Change {
    fn from(writes: Batch) -> Self {
        Self { writes, counting: Counting::default() }
    }
}

/// What a transaction does to the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counting {
    /// They move by this.
    Add(Counters),
    /// They are this: everything was counted.
    Set(Counters),
}

impl Default for Counting {
    fn default() -> Self {
        Self::Add(Counters::NONE)
    }
}

impl Counting {
    /// The counters, which were `before`; `None`: they are not known, or nothing moves.
    pub(crate) fn over(self, before: Option<Counters>) -> Option<Counters> {
        match (self, before) {
            (Self::Set(now), _) => Some(now),
            (Self::Add(Counters::NONE), _) | (Self::Add(_), None) => None,
            (Self::Add(change), Some(mut sums)) => {
                sums += change;
                Some(sums)
            }
        }
    }
}

/// What a scan answers: `Break` when the visitor stopped it.
pub(crate) type Scanned = Result<ControlFlow<()>, MetaError>;
/// Sees each key of a scan with its value, and says whether to go on.
pub(crate) type Visit<'a> = dyn FnMut(&Key, &[u8]) -> Scanned + 'a;
/// What a read does with its view.
pub(crate) type Read<'a> = dyn FnMut(&dyn View) -> Result<(), MetaError> + 'a;
/// What a transaction does: it may be run again.
pub(crate) type Write<'a> = dyn FnMut(&dyn View) -> Result<Change, MetaError> + 'a;

/// Order of a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// Rising keys.
    Forward,
    /// Falling keys.
    Backward,
}

impl Direction {
    /// Does `a` come before `b`?
    pub(crate) fn before(self, a: &Key, b: &Key) -> bool {
        match self {
            Self::Forward => a < b,
            Self::Backward => a > b,
        }
    }
}

/// All keys at one moment.
pub(crate) trait View {
    /// The value of a key.
    fn get(&self, key: &Key) -> Result<Option<Value>, MetaError>;
    /// Shows the keys of a range to the visitor, in order.
    fn scan(&self, range: Range<Key>, direction: Direction, visit: &mut Visit<'_>) -> Scanned;
    /// The counters at that moment: unless the view knows better, as they are recorded.
    fn counters(&self) -> Result<Counters, MetaError> {
        recorded(self.get(&counters::key())?.as_deref())
    }
}

/// What a record of the counters says.
pub(crate) fn recorded(value: Option<&[u8]>) -> Result<Counters, MetaError> {
    let counters = value.and_then(Counters::decode);
    counters.ok_or_else(|| MetaError::Damaged("the record of the counters is damaged".to_owned()))
}

/// An engine.
#[async_trait]
pub(crate) trait Kv: Send + Sync + 'static {
    /// Reads what is visible now.
    fn read(&self, body: &mut Read<'_>) -> Result<(), MetaError>;
    /// Reads what is durable: an earlier state.
    fn read_durable(&self, body: &mut Read<'_>) -> Result<(), MetaError>;
    /// Runs a transaction.
    fn transact(&self, body: &mut Write<'_>) -> Result<(), MetaError>;
    /// Bytes of memory that batches take which are not durable yet.
    fn unsynced_bytes(&self) -> usize {
        0
    }
    /// Bytes of disk that all keys take, with all copies.
    fn disk_bytes(&self) -> u64 {
        0
    }
    /// How the journal is, if there is one.
    fn journal(&self) -> Option<JournalStatus> {
        None
    }
    /// Does the store have room for changes that take some?
    fn may_grow(&self) -> bool {
        true
    }
    /// Is there room in memory for more changes?
    fn has_room(&self) -> bool {
        true
    }
    /// Waits until there is.
    async fn room(&self) -> Result<(), MetaError> {
        Ok(())
    }
    /// Fetches what a transaction or a read has missed ([`MetaError::Elsewhere`]).
    async fn fetch(&self, _: &Missing) -> Result<(), MetaError> {
        Ok(())
    }
    /// The value of one key, wherever it is.
    async fn value(&self, key: &Key) -> Result<Option<Value>, MetaError> {
        loop {
            let mut value = None;
            let read = self.read(&mut |view| {
                value = view.get(key)?;
                Ok(())
            });
            match read {
                Err(MetaError::Elsewhere(missing)) => self.fetch(&missing).await?,
                read => return read.map(|()| value),
            }
        }
    }
    /// Why nothing can be changed any more; `None`: it can.
    fn ended(&self) -> Option<String> {
        None
    }
    /// The batch of changes that is being gathered: with it all that was visible before becomes durable.
    fn batch(&self) -> u64;
    /// Batches that are durable.
    fn durable_batches(&self) -> u64;
    /// Returns when everything that was visible at the call is durable. After an error nothing is
    /// lost: it is tried again with the next sync.
    async fn sync(&self) -> Result<(), MetaError>;
}

/// No key at all: what lies below everything.
pub(crate) struct Nothing;

impl View for Nothing {
    fn get(&self, _: &Key) -> Result<Option<Value>, MetaError> {
        Ok(None)
    }

    fn scan(&self, _: Range<Key>, _: Direction, _: &mut Visit<'_>) -> Scanned {
        Ok(ControlFlow::Continue(()))
    }
}

/// Writes over a view.
pub(crate) struct Over<'a, V: ?Sized> {
    /// The newer writes.
    pub(crate) writes: &'a Batch,
    /// What they lie over.
    pub(crate) below: &'a V,
}

impl<V: View + ?Sized> View for Over<'_, V> {
    fn counters(&self) -> Result<Counters, MetaError> {
        match self.writes.get(&counters::key()) {
            Some(written) => recorded(written.as_deref()),
            None => self.below.counters(),
        }
    }

    fn get(&self, key: &Key) -> Result<Option<Value>, MetaError> {
        match self.writes.get(key) {
            Some(value) => Ok(value.clone()),
            None => self.below.get(key),
        }
    }

    fn scan(&self, range: Range<Key>, direction: Direction, visit: &mut Visit<'_>) -> Scanned {
        let mut newer = self.writes.range(range.clone());
        let mut next = || match direction {
            Direction::Forward => newer.next(),
            Direction::Backward => newer.next_back(),
        };
        let show = |key: &Key, value: &Option<Value>, visit: &mut Visit<'_>| match value {
            Some(value) => visit(key, value),
            None => Ok(ControlFlow::Continue(())),
        };
        let mut head = next();
        let flow = self.below.scan(range, direction, &mut |key, value| {
            while let Some((newer, written)) = head {
                if newer == key {
                    head = next();
                    return show(newer, written, visit);
                }
                if !direction.before(newer, key) {
                    break;
                }
                head = next();
                if show(newer, written, visit)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            visit(key, value)
        })?;
        if flow.is_break() {
            return Ok(flow);
        }
        while let Some((key, value)) = head {
            head = next();
            if show(key, value, visit)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}
