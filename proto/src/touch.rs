//! Touching what may hang, as a disk or a filesystem that does not answer, for as long as one waits for it.
//!
//! The kernel lets nobody out of such a call, so a thread of its own makes it, and is left behind when
//! that takes too long. This is for commands that end soon after: the thread keeps what it has.

use std::io::{self, ErrorKind};
use std::panic::resume_unwind;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

/// How long anything is waited for.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Does work that may hang.
///
/// # Errors
/// [`ErrorKind::TimedOut`]: it has taken longer than [`PATIENCE`]. Otherwise there are no threads to be had.
pub fn touch<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    touch_for(PATIENCE, work)
}

fn touch_for<T: Send + 'static>(
    patience: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let (sender, receiver) = channel();
    let toucher = thread::Builder::new().name("touch".to_owned()).spawn(move || {
        // Who has given up does not hear of it.
        let _ = sender.send(work());
    })?;
    match receiver.recv_timeout(patience) {
        Ok(done) => Ok(done),
        Err(RecvTimeoutError::Timeout) => {
            let why = format!("no answer within {patience:?}: the disk or filesystem there hangs");
            Err(io::Error::new(ErrorKind::TimedOut, why))
        }
        Err(RecvTimeoutError::Disconnected) => match toucher.join() {
            Ok(()) => unreachable!("it has sent what it has done"),
            Err(panic) => resume_unwind(panic),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hangs_is_given_up_and_what_answers_is_told() {
        assert_eq!(touch(|| 7).unwrap(), 7);
        let (_never, hangs) = channel::<()>();
        let given_up = touch_for(Duration::from_millis(10), move || hangs.recv()).unwrap_err();
        assert_eq!(given_up.kind(), ErrorKind::TimedOut);
        assert!(given_up.to_string().starts_with("no answer within 10ms"), "{given_up}");
    }

    #[test]
    fn a_panic_is_the_callers() {
        let panicked = std::panic::catch_unwind(|| touch(|| panic!("the test says so")));
        assert!(panicked.is_err());
    }
}
