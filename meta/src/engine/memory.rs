//! The engine of tests: everything in memory, with a line between what is durable and what is not,
//! so that a crash can be tried.

use async_trait::async_trait;
use parking_lot::RwLock;

use super::{Batch, Kv, Nothing, Over, Read, Value, View, Write};
use crate::key::counters;
use crate::store::MetaError;

/// Keys in memory. What was not synced is gone after [`MemoryKv::crash`].
#[derive(Default)]
pub(crate) struct MemoryKv {
    state: RwLock<State>,
}

#[derive(Clone, Default)]
struct State {
    pending: Batch,
    durable: Batch,
    synced: u64,
}

impl MemoryKv {
    /// What a power loss leaves of it.
    pub(crate) fn crash(&self) -> Self {
        let durable = self.state.read().durable.clone();
        Self { state: RwLock::new(State { durable, ..State::default() }) }
    }
}

#[async_trait]
impl Kv for MemoryKv {
    fn read(&self, body: &mut Read<'_>) -> Result<(), MetaError> {
        let state = self.state.read();
        body(&Over {
            writes: &state.pending,
            below: &Over { writes: &state.durable, below: &Nothing },
        })
    }

    fn read_durable(&self, body: &mut Read<'_>) -> Result<(), MetaError> {
        let state = self.state.read();
        body(&Over { writes: &state.durable, below: &Nothing })
    }

    fn transact(&self, body: &mut Write<'_>) -> Result<(), MetaError> {
        let mut state = self.state.write();
        let view = Over {
            writes: &state.pending,
            below: &Over { writes: &state.durable, below: &Nothing },
        };
        let change = body(&view)?;
        let counted = change.counting.over(view.counters().ok());
        state.pending.extend(change.writes);
        if let Some(counters) = counted {
            let value = Value::from(&counters.encode()[..]);
            state.pending.insert(counters::key(), Some(value));
        }
        Ok(())
    }

    fn batch(&self) -> u64 {
        self.state.read().synced + 1
    }

    fn durable_batches(&self) -> u64 {
        self.state.read().synced
    }

    async fn sync(&self) -> Result<(), MetaError> {
        let State { pending, durable, synced } = &mut *self.state.write();
        *synced += 1;
        for (key, value) in std::mem::take(pending) {
            match value {
                Some(_) => durable.insert(key, value),
                None => durable.remove(&key),
            };
        }
        Ok(())
    }
}

/// It, where syncs can fail.
#[cfg(test)]
pub(crate) struct Failing {
    pub(crate) kv: MemoryKv,
    /// They do.
    pub(crate) fails: std::sync::atomic::AtomicBool,
}

#[cfg(test)]
#[async_trait]
impl Kv for Failing {
    fn read(&self, body: &mut Read<'_>) -> Result<(), MetaError> {
        self.kv.read(body)
    }

    fn read_durable(&self, body: &mut Read<'_>) -> Result<(), MetaError> {
        self.kv.read_durable(body)
    }

    fn transact(&self, body: &mut Write<'_>) -> Result<(), MetaError> {
        self.kv.transact(body)
    }

    fn batch(&self) -> u64 {
        self.kv.batch()
    }

    fn durable_batches(&self) -> u64 {
        self.kv.durable_batches()
    }

    async fn sync(&self) -> Result<(), MetaError> {
        if self.fails.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(MetaError::Engine("the test says so".to_owned()));
        }
        self.kv.sync().await
    }
}
