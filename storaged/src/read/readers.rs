//! The threads of a disk on which its reads wait for it.
//!
//! They are the disk's own ([`Hands`]): one that never answers holds up its own readers and nothing else. There
//! are at most [`THREADS`], each started when a read finds no idle one and ended when it has been idle
//! for long ([`Hands::patience`]); the one that was busy last is woken first, so that few of them stay. What waits for
//! them is bounded, too; a read whose caller has gone is not begun.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use proto::guard::caught;
use proto::on_wake::{self, Threads};
use proto::part_store::PartError;
use tokio::sync::{Semaphore, oneshot};

use crate::shared::hands::Hands;

/// Most threads that read one disk.
const THREADS: usize = 8;
/// Reads of one disk that are on their way or wait for a thread; further ones wait outside.
const READS: usize = 2 * THREADS;

/// One read. It knows whether anybody still waits for it.
type Read = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct State {
    waiting: VecDeque<Read>,
    /// Threads that wait for a read, the one that has waited longest first.
    idle: Vec<Thread>,
    threads: usize,
    closed: bool,
}

/// The readers of one disk.
pub(crate) struct Readers {
    hands: Arc<dyn Hands>,
    state: Arc<Mutex<State>>,
    room: Arc<Semaphore>,
}

fn closed() -> PartError {
    PartError::Io("the disk is closed".to_owned())
}

impl Readers {
    /// Whose threads come from these hands.
    pub(crate) fn new(hands: Arc<dyn Hands>) -> Self {
        Self { hands, state: Arc::default(), room: Arc::new(Semaphore::new(READS)) }
    }

    /// Runs a read on one of the threads, and waits for it.
    ///
    /// # Errors
    /// What the read answers; that the disk is closed; that no thread can be had.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> Result<T, PartError> + Send + 'static,
    ) -> Result<T, PartError> {
        let room = self.room.clone().acquire_owned().await.map_err(|_| closed())?;
        let (done, answer) = oneshot::channel();
        self.hand_over(Box::new(move || {
            let _room = room;
            if !done.is_closed() {
                // A panic is the end of this read alone.
                let answer = caught("a read", read)
                    .unwrap_or_else(|panicked| Err(PartError::Io(panicked.to_string())));
                // The caller may have gone away meanwhile: then nobody needs it.
                let _ = on_wake::lend(Threads::Patient, || done.send(answer));
            }
        }))?;
        answer.await.map_err(|_| closed())?
    }

    fn hand_over(&self, read: Read) -> Result<(), PartError> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(closed());
        }
        state.waiting.push_back(read);
        if let Some(thread) = state.idle.pop() {
            thread.unpark();
        } else if state.threads < THREADS {
            state.threads += 1;
            drop(state);
            return self.start_thread();
        }
        Ok(())
    }

    /// Has one more thread, which was counted.
    fn start_thread(&self) -> Result<(), PartError> {
        let (own, patience) = (self.state.clone(), self.hands.patience());
        let serving = Box::new(move || serve(&own, patience));
        let Err(e) = self.hands.start("disk-read", serving) else { return Ok(()) };
        let mut state = self.state.lock();
        state.threads -= 1;
        if state.threads > 0 {
            return Ok(());
        }
        state.waiting.clear();
        Err(PartError::Io(format!("no thread to read with: {e}")))
    }

    /// Begins no more reads: who waits for one learns that the disk is closed.
    pub(crate) fn close(&self) {
        self.room.close();
        let mut state = self.state.lock();
        state.closed = true;
        let waiting = std::mem::take(&mut state.waiting);
        state.idle.drain(..).for_each(|thread| thread.unpark());
        drop(state);
        // What a read holds is let go of without the lock.
        drop(waiting);
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.close();
    }
}

/// The life of one thread.
fn serve(state: &Mutex<State>, patience: Duration) {
    while let Some(read) = next(state, patience) {
        read();
    }
}

/// The next read; `None` when there was none for a while, or will be none.
fn next(state: &Mutex<State>, patience: Duration) -> Option<Read> {
    let own = thread::current();
    let mut state_now = state.lock();
    let mut idle_until = None;
    loop {
        if let Some(read) = state_now.waiting.pop_front() {
            state_now.idle.retain(|thread| thread.id() != own.id());
            return Some(read);
        }
        let until = *idle_until.get_or_insert_with(|| Instant::now() + patience);
        let left = until.saturating_duration_since(Instant::now());
        if state_now.closed || left.is_zero() {
            state_now.idle.retain(|thread| thread.id() != own.id());
            state_now.threads -= 1;
            return None;
        }
        if !state_now.idle.iter().any(|thread| thread.id() == own.id()) {
            state_now.idle.push(own.clone());
        }
        drop(state_now);
        thread::park_timeout(left);
        state_now = state.lock();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::shared::hands::own_threads;

    fn readers() -> Readers {
        Readers::new(own_threads())
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn reads_that_hang_hold_up_no_more_than_their_own_disk() {
        let (stuck, well) = (Arc::new(readers()), readers());
        let (go, gate) = mpsc::channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        let hanging: Vec<_> = (0..2 * READS)
            .map(|_| {
                let (stuck, gate) = (stuck.clone(), gate.clone());
                let read = move || Ok(gate.lock().recv().is_ok());
                tokio::spawn(async move { stuck.run(read).await })
            })
            .collect();
        while stuck.state.lock().threads < THREADS
            || stuck.state.lock().waiting.len() != READS - THREADS
        {
            tokio::task::yield_now().await;
        }
        for n in 0..100 {
            assert_eq!(well.run(move || Ok(n)).await, Ok(n));
        }
        assert_eq!(stuck.state.lock().waiting.len(), READS - THREADS, "the rest waits outside");
        drop(go);
        for read in hanging {
            assert_eq!(read.await.unwrap(), Ok(false));
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn nobody_waits_for_a_read_that_panics_or_a_disk_that_is_closed() {
        let readers = readers();
        for _ in 0..2 * READS {
            let panics = || -> Result<(), _> { panic!("as a test") };
            let answer = readers.run(panics).await.unwrap_err().to_string();
            assert!(answer.contains("a read panicked: as a test"), "{answer}");
        }
        assert_eq!(readers.run(|| Ok(1)).await, Ok(1), "the threads go on");
        readers.close();
        assert_eq!(readers.run(|| Ok(1)).await, Err(closed()));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_read_whose_caller_has_gone_is_not_begun() {
        let readers = Arc::new(readers());
        let (go, gate) = mpsc::channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        let begun = Arc::new(Mutex::new(0));
        let mut callers = tokio::task::JoinSet::new();
        for _ in 0..READS {
            let (readers, gate, begun) = (readers.clone(), gate.clone(), begun.clone());
            let read = move || {
                *begun.lock() += 1;
                Ok(gate.lock().recv().is_ok())
            };
            callers.spawn(async move { readers.run(read).await });
        }
        while *begun.lock() < THREADS || readers.state.lock().waiting.len() < READS - THREADS {
            tokio::task::yield_now().await;
        }
        callers.shutdown().await;
        drop(go);
        assert_eq!(readers.run(|| Ok(7)).await, Ok(7));
        assert_eq!(*begun.lock(), THREADS);
    }
}
