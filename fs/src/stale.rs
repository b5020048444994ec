//! Pages that the kernel has cached of what somebody writes past the cache (O_DIRECT).
//!
//! The kernel drops such pages itself when a direct write was waited for, but not when it was
//! asynchronous: who then reads through the cache finds old bytes. So the answer to a direct write is
//! held until its pages are gone. A page that is just being read is waited for, and that read may be
//! behind us in the queue: hence a thread of its own, which serves nothing else.
//!
//! Bounded by the direct writes that the kernel has under way.

use std::ops::Range;
use std::sync::mpsc;

use meta::Ino;
use parking_lot::Mutex;

/// Bytes of a file were written past the cache; what to do when no page has old ones any more.
struct Written {
    ino: Ino,
    range: Range<u64>,
    then: Box<dyn FnOnce() + Send>,
}

/// The way to the thread.
#[derive(Clone)]
pub(crate) struct Stale(mpsc::Sender<Written>);

/// The thread's end, to be served once there is a way to tell the kernel. (In a lock, so that it may
/// be kept where other threads see it.)
pub(crate) struct Pages(Mutex<mpsc::Receiver<Written>>);

/// Both ends.
pub(crate) fn channel() -> (Stale, Pages) {
    let (tell, told) = mpsc::channel();
    (Stale(tell), Pages(Mutex::new(told)))
}

impl Stale {
    /// Has the kernel forget the pages of a range, then does what is left to do.
    pub(crate) fn forget(&self, ino: Ino, range: Range<u64>, then: impl FnOnce() + Send + 'static) {
        let written = Written { ino, range, then: Box::new(then) };
        if let Err(mpsc::SendError(written)) = self.0.send(written) {
            (written.then)();
        }
    }
}

impl Pages {
    /// Tells the kernel by `forget`, on a thread that ends with the other end.
    pub(crate) fn serve(
        self,
        forget: impl Fn(Ino, Range<u64>) + Send + 'static,
    ) -> std::io::Result<()> {
        let serve = move || {
            for Written { ino, range, then } in self.0.into_inner() {
                forget(ino, range);
                then();
            }
        };
        std::thread::Builder::new().name("stale".to_owned()).spawn(serve).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn pages_are_forgotten_before_what_follows() {
        let (stale, pages) = channel();
        let (done, ended) = mpsc::channel();
        let order = Arc::new(Mutex::new(Vec::new()));
        for i in 0..3 {
            let (order, done) = (order.clone(), done.clone());
            stale.forget(Ino(i), i..i + 1, move || {
                order.lock().push(format!("then {i}"));
                done.send(()).unwrap();
            });
        }
        let told = order.clone();
        pages.serve(move |ino, _| told.lock().push(format!("forget {}", ino.0))).unwrap();
        (0..3).for_each(|_| ended.recv().unwrap());
        let expected = ["forget 0", "then 0", "forget 1", "then 1", "forget 2", "then 2"];
        assert_eq!(*order.lock(), expected);
    }

    #[test]
    fn nothing_is_left_undone_without_a_thread() {
        let (stale, pages) = channel();
        drop(pages);
        let (done, ended) = mpsc::channel();
        stale.forget(Ino(1), 0..1, move || done.send(()).unwrap());
        ended.recv().unwrap();
    }
}
