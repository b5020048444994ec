//! Futures without a task of their own: whoever wakes one goes on with it, on its own thread.
//!
//! A task costs a switch of threads: whoever has the answer wakes a thread of the runtime, which polls, and sends.
//! Where all that is left to do is short, whoever has the answer does it. [`begin`] polls a future where it is
//! called. Whoever has an answer gives it inside of [`lend`], and then goes on with what that has woken, as far as it
//! may be held up ([`Threads`]); what is woken anywhere else goes on in the runtime, as a task would.
//!
//! Guarantees: a future is polled by one thread at a time and again after each wake, like a task's; a wake polls
//! nothing, so that it may happen under any lock; what wakes itself while it is polled lets others go first, and so
//! goes on in the runtime; a panic is told and ends that future alone. A future that nobody wakes any more is
//! dropped.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use parking_lot::Mutex;
use tokio::runtime::Handle;

use crate::guard::caught;

/// What is to be done.
pub type Future = Pin<Box<dyn std::future::Future<Output = ()> + Send>>;

/// Which of the threads that are lent go on with a future.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Threads {
    /// All: what is left to do is next to nothing, such as sending an answer.
    Any,
    /// Those that may be held up for as long as a short computation takes.
    Patient,
    /// None: it may wait for a lock or a file. The runtime does.
    Runtime,
}

/// It waits to be woken.
const IDLE: u8 = 0;
/// It was woken, and somebody is to poll it.
const WOKEN: u8 = 1;
/// It is being polled.
const POLLED: u8 = 2;
/// It was woken while it was being polled.
const POLLED_AND_WOKEN: u8 = 3;
/// It has ended.
const ENDED: u8 = 4;

thread_local! {
    /// What this thread goes on with now.
    static LENT: Cell<Option<Threads>> = const { Cell::new(None) };
    /// What was woken meanwhile.
    static WOKEN_HERE: RefCell<VecDeque<Arc<Going>>> = const { RefCell::new(VecDeque::new()) };
}

struct Going {
    runtime: Handle,
    threads: Threads,
    state: AtomicU8,
    future: Mutex<Option<Future>>,
}

/// Polls a future, here; whoever wakes it goes on. Timers and tasks that it begins are the runtime's.
pub fn begin(runtime: &Handle, threads: Threads, future: Future) {
    let (runtime, state) = (runtime.clone(), AtomicU8::new(WOKEN));
    Arc::new(Going { runtime, threads, state, future: Mutex::new(Some(future)) }).poll();
}

/// Does `work`, which gives answers, and then goes on with those it has woken whose [`Threads`] are no more than
/// `threads`.
pub fn lend<T>(threads: Threads, work: impl FnOnce() -> T) -> T {
    if LENT.get().is_some() {
        // In the midst of what this thread was lent for: it comes next.
        return work();
    }
    LENT.set(Some(threads));
    let _returned = Returned;
    let done = work();
    while let Some(going) = next_woken() {
        going.poll();
    }
    done
}

/// Leaves a thread that was lent: what follows is for the runtime.
pub async fn leave() {
    tokio::task::yield_now().await;
}

fn next_woken() -> Option<Arc<Going>> {
    WOKEN_HERE.with_borrow_mut(VecDeque::pop_front)
}

/// The thread is its own again; after a panic the runtime goes on with what was woken.
struct Returned;

impl Drop for Returned {
    fn drop(&mut self) {
        LENT.set(None);
        while let Some(going) = next_woken() {
            going.poll_in_runtime();
        }
    }
}

impl Wake for Going {
    fn wake(self: Arc<Self>) {
        let woken =
            self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| match state {
                IDLE => Some(WOKEN),
                POLLED => Some(POLLED_AND_WOKEN),
                _ => None,
            });
        if woken != Ok(IDLE) {
            return;
        }
        if LENT.get().is_some_and(|lent| self.threads <= lent) {
            WOKEN_HERE.with_borrow_mut(|woken| woken.push_back(self));
        } else {
            self.poll_in_runtime();
        }
    }
}

/// To be polled by the runtime; one that takes no more tasks drops it, and with it the future, which may hold what
/// would wake it.
struct Unpolled(Option<Arc<Going>>);

impl Unpolled {
    fn poll(mut self) {
        self.0.take().into_iter().for_each(Going::poll);
    }
}

impl Drop for Unpolled {
    fn drop(&mut self) {
        if let Some(going) = self.0.take() {
            let dropped = going.future.lock().take();
            drop(dropped);
        }
    }
}

impl Going {
    fn poll_in_runtime(self: Arc<Self>) {
        let runtime = self.runtime.clone();
        let polling = Unpolled(Some(self));
        runtime.spawn(async move { polling.poll() });
    }

    fn poll(self: Arc<Self>) {
        let _entered = self.runtime.enter();
        let waker = Waker::from(self.clone());
        let mut context = Context::from_waker(&waker);
        self.state.store(POLLED, Ordering::Release);
        let mut future = self.future.lock();
        let Some(running) = future.as_mut() else { return };
        let polled = caught("going on with a request", || running.as_mut().poll(&mut context));
        if polled != Ok(Poll::Pending) {
            self.state.store(ENDED, Ordering::Release);
            let ended = future.take();
            drop(future);
            // It may panic, too.
            let _ = caught("ending a request", || drop(ended));
            return;
        }
        drop(future);
        let waits = self.state.compare_exchange(POLLED, IDLE, Ordering::AcqRel, Ordering::Acquire);
        if waits.is_err() {
            self.state.store(WOKEN, Ordering::Release);
            self.poll_in_runtime();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread::{self, ThreadId};

    use tokio::sync::{Semaphore, oneshot};

    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap()
    }

    /// A future that says on which thread it ended, and what wakes it.
    fn waiting(
        handle: &Handle,
        threads: Threads,
    ) -> (oneshot::Sender<()>, mpsc::Receiver<ThreadId>) {
        let (wake, woken) = oneshot::channel();
        let (told, ended) = mpsc::channel();
        begin(
            handle,
            threads,
            Box::pin(async move {
                let _ = woken.await;
                told.send(thread::current().id()).unwrap();
            }),
        );
        (wake, ended)
    }

    #[test]
    fn whoever_answers_goes_on_where_it_may() {
        let runtime = runtime();
        let same_thread = |threads, lent: Option<Threads>| {
            let (wake, ended) = waiting(runtime.handle(), threads);
            assert!(ended.try_recv().is_err());
            let answering = move || {
                let answer = || wake.send(()).unwrap();
                match lent {
                    Some(lent) => lend(lent, answer),
                    None => answer(),
                }
                thread::current().id()
            };
            thread::spawn(answering).join().unwrap() == ended.recv().unwrap()
        };
        assert!(same_thread(Threads::Any, Some(Threads::Any)));
        assert!(same_thread(Threads::Any, Some(Threads::Patient)));
        assert!(same_thread(Threads::Patient, Some(Threads::Patient)));
        assert!(!same_thread(Threads::Patient, Some(Threads::Any)));
        assert!(!same_thread(Threads::Any, None) && !same_thread(Threads::Patient, None));
    }

    #[test]
    fn a_wake_under_a_lock_that_its_poll_takes_is_no_deadlock() {
        let runtime = runtime();
        let lock = Arc::new(Mutex::new(0));
        let (wake, woken) = oneshot::channel::<()>();
        let (told, ended) = mpsc::channel();
        let taken = lock.clone();
        let goes_on = async move {
            let _ = woken.await;
            told.send(*taken.lock()).unwrap();
        };
        begin(runtime.handle(), Threads::Any, Box::pin(goes_on));
        lend(Threads::Any, || {
            let mut held = lock.lock();
            wake.send(()).unwrap();
            *held = 7;
        });
        assert_eq!(ended.try_recv(), Ok(7));
    }

    #[test]
    fn what_was_woken_goes_on_though_whoever_woke_it_panicked() {
        let runtime = runtime();
        let (wake, ended) = waiting(runtime.handle(), Threads::Any);
        let panics = || {
            wake.send(()).unwrap();
            panic!("as a test")
        };
        assert!(caught("a test", || lend(Threads::Any, panics)).is_err());
        assert!(ended.recv().is_ok());
    }

    #[test]
    fn one_that_is_ready_ends_at_once_and_one_that_panics_alone() {
        let runtime = runtime();
        let (told, ended) = mpsc::channel();
        let panics = told.clone();
        begin(
            runtime.handle(),
            Threads::Any,
            Box::pin(async move {
                let _told = panics;
                panic!("as a test");
            }),
        );
        begin(runtime.handle(), Threads::Any, Box::pin(async move { told.send(7).unwrap() }));
        assert_eq!(ended.try_iter().collect::<Vec<_>>(), [7]);
        assert_eq!(ended.try_recv(), Err(mpsc::TryRecvError::Disconnected), "both are dropped");
    }

    #[test]
    fn a_long_chain_of_wakes_needs_no_stack() {
        let (runtime, turn) = (runtime(), Arc::new(Semaphore::new(1)));
        let (told, ended) = mpsc::channel();
        let first = turn.clone().try_acquire_owned().unwrap();
        for n in 0..100_000 {
            let (turn, told) = (turn.clone(), told.clone());
            begin(
                runtime.handle(),
                Threads::Any,
                Box::pin(async move {
                    let permit = turn.acquire().await.unwrap();
                    told.send(n).unwrap();
                    drop(permit);
                }),
            );
        }
        assert!(ended.try_recv().is_err());
        lend(Threads::Any, || drop(first));
        assert_eq!(ended.try_iter().collect::<Vec<_>>(), (0..100_000).collect::<Vec<_>>());
    }

    #[test]
    fn no_wake_is_lost_between_many_threads() {
        let runtime = runtime();
        let (told, ended) = mpsc::channel();
        let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
        begin(
            runtime.handle(),
            Threads::Any,
            Box::pin(async move {
                let mut sum = 0_u64;
                while let Some(n) = receiver.recv().await {
                    sum += n;
                    // Its own timers, and wakes in the midst of a poll.
                    if n % 1000 == 0 {
                        tokio::task::yield_now().await;
                        tokio::time::sleep(std::time::Duration::from_micros(1)).await;
                    }
                }
                told.send(sum).unwrap();
            }),
        );
        thread::scope(|scope| {
            for _ in 0..4 {
                let sender = sender.clone();
                let send = move |n| lend(Threads::Any, || sender.send(n).unwrap());
                scope.spawn(move || (0..10_000).for_each(send));
            }
        });
        drop(sender);
        assert_eq!(ended.recv().unwrap(), 4 * (0..10_000).sum::<u64>());
    }
}
