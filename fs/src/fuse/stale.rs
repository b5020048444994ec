//! Pages that the kernel has cached of what somebody writes past the cache (O_DIRECT).
//!
//! The kernel drops such pages itself when a direct write was waited for, but not when it was
//! asynchronous: who then reads through the cache finds old bytes. So the answer to a direct write is
//! held until its pages are gone. A page that is just being read is waited for, and that read may be
//! behind us in the queue: hence a thread of its own, which serves nothing else.
//!
//! The other way round, pages may hold what we have not got: what was stored in a mapping is sent when
//! the kernel comes to it. Where a file's times are set meanwhile, that would come later and replace
//! them; so its pages go before (the kernel sends what is dirty of them first), if it is mapped at all.
//!
//! Bounded by the direct writes, and changes of times, that the kernel has under way.

use std::ops::Range;
use std::sync::mpsc;

use meta::Ino;
use parking_lot::Mutex;
use proto::guard::caught;

use crate::filesystem::privileges::Requester;

/// The whole of a file, as the kernel counts.
const WHOLE: Range<u64> = 0..i64::MAX as u64;

/// Pages of a file must go; what to do when they have.
struct Written {
    ino: Ino,
    range: Range<u64>,
    /// Only if this one has the file mapped.
    mapped_by: Option<Requester>,
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
    /// Has the kernel invalidate the pages of a range, then does what is left to do.
    pub(crate) fn invalidate(
        &self,
        ino: Ino,
        range: Range<u64>,
        then: impl FnOnce() + Send + 'static,
    ) {
        self.send(Written { ino, range, mapped_by: None, then: Box::new(then) });
    }

    /// Has the kernel send what was stored in a mapping of the file, then does what is left to do.
    /// `mapped_by`: only if this one has it mapped; otherwise it is known to be.
    pub(crate) fn write_back(
        &self,
        ino: Ino,
        mapped_by: Option<Requester>,
        then: impl FnOnce() + Send + 'static,
    ) {
        self.send(Written { ino, range: WHOLE, mapped_by, then: Box::new(then) });
    }

    fn send(&self, written: Written) {
        if let Err(mpsc::SendError(written)) = self.0.send(written) {
            (written.then)();
        }
    }
}

impl Pages {
    /// Tells the kernel by `invalidate`, on a thread that ends with the other end.
    pub(crate) fn serve(
        self,
        invalidate: impl Fn(Ino, Range<u64>) + Send + 'static,
    ) -> std::io::Result<()> {
        let serve = move || {
            for Written { ino, range, mapped_by, then } in self.0.into_inner() {
                let invalidate = || {
                    if mapped_by.is_none_or(|requester| requester.maps(ino)) {
                        invalidate(ino, range);
                    }
                };
                // Whoever waits is answered all the same, and so is the next.
                let _ = caught("having pages forgotten", invalidate);
                let _ = caught("answering a request", then);
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
    fn pages_are_invalidated_before_what_follows() {
        let (stale, pages) = channel();
        let (done, ended) = mpsc::channel();
        let order = Arc::new(Mutex::new(Vec::new()));
        for i in 0..3 {
            let (order, done) = (order.clone(), done.clone());
            stale.invalidate(Ino(i), i..i + 1, move || {
                order.lock().push(format!("then {i}"));
                done.send(()).unwrap();
            });
        }
        let told = order.clone();
        pages.serve(move |ino, _| told.lock().push(format!("invalidate {}", ino.0))).unwrap();
        (0..3).for_each(|_| ended.recv().unwrap());
        let expected =
            ["invalidate 0", "then 0", "invalidate 1", "then 1", "invalidate 2", "then 2"];
        assert_eq!(*order.lock(), expected);
    }

    #[test]
    fn a_panic_ends_one_answer_and_not_the_thread() {
        let (stale, pages) = channel();
        let (done, ended) = mpsc::channel();
        for ino in 0..3 {
            let done = done.clone();
            stale.invalidate(Ino(ino), 0..1, move || {
                assert!(ino != 1, "an answer panics");
                done.send(ino).unwrap();
            });
        }
        pages.serve(|ino, _| assert!(ino != Ino(0), "the kernel's side panics")).unwrap();
        let within = std::time::Duration::from_secs(20);
        assert_eq!([ended.recv_timeout(within), ended.recv_timeout(within)], [Ok(0), Ok(2)]);
    }

    #[test]
    fn pages_stay_of_what_is_not_mapped() {
        let (stale, pages) = channel();
        let (done, ended) = mpsc::channel();
        let nobody = Requester { uid: 0, gid: 0, thread: 0 };
        for (ino, by) in [(1, Some(nobody)), (2, None)] {
            let done = done.clone();
            stale.write_back(Ino(ino), by, move || done.send(format!("then {ino}")).unwrap());
        }
        pages.serve(move |ino, _| done.send(format!("invalidate {}", ino.0)).unwrap()).unwrap();
        let said: Vec<_> = (0..3).map(|_| ended.recv().unwrap()).collect();
        assert_eq!(said, ["then 1", "invalidate 2", "then 2"]);
    }

    #[test]
    fn nothing_is_left_undone_without_a_thread() {
        let (stale, pages) = channel();
        drop(pages);
        let (done, ended) = mpsc::channel();
        stale.invalidate(Ino(1), 0..1, move || done.send(()).unwrap());
        ended.recv().unwrap();
    }
}
