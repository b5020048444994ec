//! What happened in a run, as a hash: two runs of one seed have the same, or something is not simulated.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::Instant;

/// The trace of one run.
#[derive(Clone)]
pub struct Trace(Arc<Inner>);

struct Inner {
    began: Instant,
    /// Lines are shown as they come.
    shown: bool,
    state: Mutex<(u64, u64)>,
}

impl Trace {
    /// An empty one. Must be made within the runtime of the run.
    pub fn new(shown: bool) -> Self {
        Self(Arc::new(Inner {
            began: Instant::now(),
            shown,
            state: Mutex::new((0xcbf2_9ce4_8422_2325, 0)),
        }))
    }

    /// Something has happened now.
    pub fn note(&self, what: fmt::Arguments<'_>) {
        let line = format!("{:>10.3} {what}", self.0.began.elapsed().as_secs_f64());
        let mut state = self.0.state.lock();
        // FNV-1a
        for byte in line.bytes() {
            state.0 = (state.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        state.1 += 1;
        if self.0.shown {
            eprintln!("{line}");
        }
    }

    /// The hash of all so far, and how much that was.
    pub fn hash(&self) -> (u64, u64) {
        *self.0.state.lock()
    }
}

/// Notes something: arguments as of `format!`.
#[macro_export]
macro_rules! note {
    ($trace:expr, $($what:tt)*) => { $trace.note(format_args!($($what)*)) };
}
