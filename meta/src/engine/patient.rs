//! A view that waits: what is not in memory is fetched, on the thread that looks.
//!
//! For long looks at everything, on a thread that may wait. Operations are run again instead.

use std::ops::{ControlFlow, Range};

use tokio::runtime::Handle;

use super::{Direction, Kv, Scanned, Value, View, Visit};
use crate::key::Key;
use crate::key::counters::Counters;
use crate::store::MetaError;

/// A view of an engine, and the engine that fetches what it misses.
pub(crate) struct Patient<'a> {
    pub(crate) view: &'a dyn View,
    pub(crate) kv: &'a dyn Kv,
    /// Where the fetching is done.
    pub(crate) runtime: &'a Handle,
}

impl View for Patient<'_> {
    fn counters(&self) -> Result<Counters, MetaError> {
        loop {
            match self.view.counters() {
                Err(MetaError::Elsewhere(missing)) => {
                    self.runtime.block_on(self.kv.fetch(&missing))?
                }
                found => return found,
            }
        }
    }

    fn get(&self, key: &Key) -> Result<Option<Value>, MetaError> {
        loop {
            match self.view.get(key) {
                Err(MetaError::Elsewhere(missing)) => {
                    self.runtime.block_on(self.kv.fetch(&missing))?
                }
                found => return found,
            }
        }
    }

    fn scan(&self, mut range: Range<Key>, direction: Direction, visit: &mut Visit<'_>) -> Scanned {
        loop {
            let mut last = None;
            let scanned = self.view.scan(range.clone(), direction, &mut |key, value| {
                last = Some(*key);
                visit(key, value)
            });
            let missing = match scanned {
                Err(MetaError::Elsewhere(missing)) => missing,
                scanned => return scanned,
            };
            self.runtime.block_on(self.kv.fetch(&missing))?;
            // What was shown is not shown again.
            match (direction, last) {
                (_, None) => {}
                (Direction::Forward, Some(last)) => range.start = last.successor(),
                (Direction::Backward, Some(last)) => range.end = last,
            }
            if range.start >= range.end {
                return Ok(ControlFlow::Continue(()));
            }
        }
    }
}
