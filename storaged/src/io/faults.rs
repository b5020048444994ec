//! Faults that tests put under the block files of a disk. The program does not have them.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

/// What fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// Opening a file that is there.
    Open,
    /// Opening with `O_DIRECT`.
    OpenDirect,
    /// Setting space aside.
    Preallocate,
    /// Reading.
    Read,
    /// Writing.
    Write,
    /// Making durable.
    Sync,
    /// Having the kernel forget what it has of a file.
    Forget,
    /// Giving space back.
    Punch,
    /// Cutting off.
    Truncate,
    /// Taking a file away.
    Remove,
    /// Reading the index.
    ReadIndex,
    /// Writing the index, or making it longer.
    WriteIndex,
}

/// A fault: in place until it is dropped.
pub(crate) struct Fault(Arc<Rule>);

struct Rule {
    dir: PathBuf,
    call: Call,
    range: Range<u64>,
    outcome: Outcome,
    /// How many have met it; and is it gone?
    met: Mutex<(u64, bool)>,
    moved: Condvar,
}

/// What becomes of a call that meets a fault.
#[derive(Clone, Copy)]
enum Outcome {
    Errno(i32),
    Hang,
    Panic,
}

static RULES: Mutex<Vec<Arc<Rule>>> = Mutex::new(Vec::new());

impl Fault {
    /// Calls under the directory that touch the range of a file fail with this error.
    pub(crate) fn error(dir: &Path, call: Call, range: Range<u64>, errno: i32) -> Self {
        Self::new(dir, call, range, Outcome::Errno(errno))
    }

    /// They hang.
    pub(crate) fn hang(dir: &Path, call: Call) -> Self {
        Self::new(dir, call, 0..u64::MAX, Outcome::Hang)
    }

    /// They panic.
    pub(crate) fn panic(dir: &Path, call: Call) -> Self {
        Self::new(dir, call, 0..u64::MAX, Outcome::Panic)
    }

    fn new(dir: &Path, call: Call, range: Range<u64>, outcome: Outcome) -> Self {
        let (met, moved) = (Mutex::new((0, false)), Condvar::new());
        let rule = Arc::new(Rule { dir: dir.to_owned(), call, range, outcome, met, moved });
        RULES.lock().push(rule.clone());
        Self(rule)
    }

    /// How many calls have met it.
    pub(crate) fn met(&self) -> u64 {
        self.0.met.lock().0
    }

    /// Returns once a call has met it.
    pub(crate) fn wait(&self) {
        self.0.moved.wait_while(&mut self.0.met.lock(), |met| met.0 == 0);
    }
}

impl Drop for Fault {
    fn drop(&mut self) {
        RULES.lock().retain(|rule| !Arc::ptr_eq(rule, &self.0));
        self.0.met.lock().1 = true;
        self.0.moved.notify_all();
    }
}

/// The fault that a call meets, if any.
pub(crate) fn check(path: &Path, call: Call, range: Range<u64>) -> io::Result<()> {
    let meets = |rule: &&Arc<Rule>| {
        let touches = rule.range.start < range.end && range.start < rule.range.end;
        rule.call == call && path.starts_with(&rule.dir) && touches
    };
    let rule = RULES.lock().iter().find(meets).cloned();
    let Some(rule) = rule else { return Ok(()) };
    let mut met = rule.met.lock();
    met.0 += 1;
    rule.moved.notify_all();
    match rule.outcome {
        Outcome::Errno(errno) => Err(io::Error::from_raw_os_error(errno)),
        Outcome::Panic => panic!("as a test wants it"),
        Outcome::Hang => {
            rule.moved.wait_while(&mut met, |met| !met.1);
            Ok(())
        }
    }
}
