//! `-o sync` and `-o dirsync`: what has to be durable before its call returns.
//!
//! The kernel sends an FSYNC after each write to a mount with `sync`; for names and attributes it
//! leaves that to us. `sync` can be changed by a remount, which the kernel does not tell: whoever
//! remounts does ([`crate::mount::control`]).

use std::sync::atomic::{AtomicBool, Ordering};

use crate::metrics::Op;

/// What a mount's user has asked for.
#[derive(Debug)]
pub(crate) struct Synced {
    everything: AtomicBool,
    names: bool,
}

impl Synced {
    pub(crate) fn new(sync: bool, dirsync: bool) -> Self {
        Self { everything: AtomicBool::new(sync), names: dirsync }
    }

    /// After a remount.
    pub(crate) fn set(&self, sync: bool) {
        self.everything.store(sync, Ordering::Relaxed);
    }

    /// Does a change of this kind have to be durable when it is answered?
    pub(crate) fn covers(&self, op: Op) -> bool {
        let everything = self.everything.load(Ordering::Relaxed);
        match op {
            Op::Create | Op::Link | Op::Unlink | Op::Rmdir | Op::Rename => everything || self.names,
            Op::Setattr | Op::Setxattr | Op::Removexattr | Op::Fallocate | Op::CopyRange => {
                everything
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dirsync_is_about_names_and_sync_about_everything() {
        let plain = Synced::new(false, false);
        assert!(!plain.covers(Op::Create) && !plain.covers(Op::Setattr));
        plain.set(true);
        assert!(plain.covers(Op::Create) && plain.covers(Op::Setattr) && !plain.covers(Op::Read));
        let names = Synced::new(false, true);
        assert!(names.covers(Op::Rename) && !names.covers(Op::Setattr));
    }
}
