//! What a panic ends: the one thing that it concerns, with an error to whoever waits for it.
//!
//! A panic is a fault of ours, or of a library that met bytes it did not expect. Whoever serves many
//! (a thread that takes requests, a task that lives as long as the process) runs each piece of work in
//! [`caught`] or [`caught_in`], answers for one that panicked, and takes the next; a task whose loop
//! must not end is run by [`keep_going`]. The locks in use here do not remember that their holder
//! panicked: what may be half done under one is changed in [`or_else`], which says what to make of it.

use std::any::Any;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

/// Rest before something that panicked is begun again.
const PAUSE: Duration = Duration::from_secs(1);

/// A piece of work panicked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} panicked: {why}")]
pub struct Panicked {
    what: &'static str,
    why: String,
}

impl Panicked {
    fn new(what: &'static str, panic: &(dyn Any + Send)) -> Self {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        let panicked = Self { what, why: text.unwrap_or_else(|| "without a word".to_owned()) };
        tracing::error!("{panicked}");
        panicked
    }
}

/// Does a piece of work, to its end or its panic.
///
/// # Errors
/// The panic.
pub fn caught<R>(what: &'static str, work: impl FnOnce() -> R) -> Result<R, Panicked> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| Panicked::new(what, &*panic))
}

/// The same for work that waits.
///
/// # Errors
/// The panic.
pub async fn caught_in<F: Future>(what: &'static str, work: F) -> Result<F::Output, Panicked> {
    let mut work = pin!(work);
    poll_fn(|context| match caught(what, || work.as_mut().poll(context)) {
        Ok(polled) => polled.map(Ok),
        Err(panicked) => Poll::Ready(Err(panicked)),
    })
    .await
}

/// Runs what is to go on until it ends by itself: after a panic it is begun anew.
pub async fn keep_going<F: Future<Output = ()>>(what: &'static str, mut begin: impl FnMut() -> F) {
    while caught_in(what, begin()).await.is_err() {
        tokio::time::sleep(PAUSE).await;
    }
}

/// Changes something under a lock. When that panics, `mend` makes of the half-done change what others
/// can live with, and the panic goes on.
pub fn or_else<S: ?Sized, R>(
    state: &mut S,
    change: impl FnOnce(&mut S) -> R,
    mend: impl FnOnce(&mut S),
) -> R {
    match catch_unwind(AssertUnwindSafe(|| change(state))) {
        Ok(result) => result,
        Err(panic) => {
            mend(state);
            resume_unwind(panic)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_told_and_ends_nothing_else() {
        assert_eq!(caught("adding", || 1 + 1), Ok(2));
        let panicked = caught("a test", || panic!("on {}", "purpose")).map(|()| 0).unwrap_err();
        assert_eq!(panicked.to_string(), "a test panicked: on purpose");
        let mut half = vec![1];
        let changed = caught("a change", || {
            let fails = |half: &mut Vec<i32>| assert_eq!(half.pop(), None, "now");
            or_else(&mut half, fails, |half| half.push(2));
        });
        assert!(changed.is_err() && half == [2]);
        assert_eq!(or_else(&mut half, |half| half.len(), |_| ()), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_must_go_on_is_begun_anew() {
        assert_eq!(caught_in("waiting", std::future::ready(7)).await, Ok(7));
        let mut begun = 0;
        let loops = keep_going("a loop", || {
            begun += 1;
            let last = begun == 3;
            async move {
                tokio::task::yield_now().await;
                assert!(last, "not the last one");
            }
        });
        loops.await;
        assert_eq!(begun, 3);
    }
}
