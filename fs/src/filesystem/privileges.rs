//! Who asks, as far as an operation still has to know.
//!
//! Whether somebody *may* is the kernel's to decide (`default_permissions`): it knows the caller's
//! groups, capabilities and user namespace, and a request carries none of them. What is left is what
//! a change takes away: setuid and setgid bits go unless the caller has CAP_FSETID or, for some, is
//! in the file's group. That is asked of /proc, and only when there is such a bit to lose.
//!
//! And whether who sets a file's times has it mapped: what it has stored there and the kernel has not
//! sent yet was before these times.

use std::fs;

use meta::{Attr, Ino};

/// Set user id on execution.
const SETUID: u32 = 0o4000;
/// Set group id on execution.
const SETGID: u32 = 0o2000;
/// The group may execute.
const GROUP_EXEC: u32 = 0o010;
/// Number of the capability to keep set-id bits: linux/capability.h.
const CAP_FSETID: u32 = 4;

/// The thread on whose behalf the kernel asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Requester {
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// Its number, 0 where that has none here.
    pub thread: u32,
}

/// What of an inode's mode a change by some requester takes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loses {
    /// Nothing.
    Nothing,
    /// Setuid, and setgid where the group may execute.
    SetIds,
    /// Setuid and setgid, whatever the group may.
    All,
}

impl Requester {
    /// What a change of the content by this requester takes away. `privileged`: the kernel has said
    /// whether it has CAP_FSETID.
    pub(crate) fn loses_by_writing(&self, attr: &Attr, privileged: Option<bool>) -> Loses {
        if attr.mode & (SETUID | SETGID) == 0 || privileged == Some(true) {
            return Loses::Nothing;
        }
        let known = Known::of(self);
        if privileged.is_none() && known.fsetid {
            return Loses::Nothing;
        }
        let stays = attr.mode & (SETGID | GROUP_EXEC) == SETGID && known.in_group(self, attr.gid);
        match (stays, attr.mode & SETUID) {
            (true, 0) => Loses::Nothing,
            (true, _) => Loses::SetIds,
            (false, _) => Loses::All,
        }
    }

    /// Does a change of owner, group or access list by this requester take away a setgid bit that
    /// others would keep?
    pub(crate) fn is_outsider(&self, attr: &Attr) -> bool {
        attr.mode & SETGID != 0 && {
            let known = Known::of(self);
            !known.fsetid && !known.in_group(self, attr.gid)
        }
    }
}

impl Requester {
    /// Does its process have the file in its memory, to be written? Waits while that memory's map
    /// changes, for which the process may be waiting for an answer of ours: on one session thread at
    /// a time, or elsewhere.
    pub(crate) fn maps(&self, ino: Ino) -> bool {
        let maps = match self.thread {
            0 => None,
            thread => fs::read_to_string(format!("/proc/{thread}/maps")).ok(),
        };
        maps.is_some_and(|maps| maps.lines().any(|line| shares(line, ino)))
    }
}

/// Is a line of `/proc/PID/maps` a writable, shared mapping of this inode?
fn shares(line: &str, ino: Ino) -> bool {
    let mut words = line.split_ascii_whitespace().skip(1);
    let (access, at) = (words.next().unwrap_or_default(), words.nth(2).unwrap_or_default());
    let shared = access.as_bytes().get(1) == Some(&b'w') && access.ends_with('s');
    shared && at.parse() == Ok(ino.0)
}

/// What /proc knows of a thread. Without it, root is privileged and groups are one.
struct Known {
    groups: Vec<u32>,
    fsetid: bool,
}

impl Known {
    fn of(requester: &Requester) -> Self {
        let status = match requester.thread {
            0 => None,
            thread => fs::read_to_string(format!("/proc/{thread}/status")).ok(),
        };
        let known = status.as_deref().and_then(Self::parse);
        known.unwrap_or_else(|| Self { groups: Vec::new(), fsetid: requester.uid == 0 })
    }

    fn parse(status: &str) -> Option<Self> {
        let field = |name| status.lines().find_map(|line| line.strip_prefix(name));
        let groups = field("Groups:")?.split_whitespace().map(str::parse).collect::<Result<_, _>>();
        let capabilities = u64::from_str_radix(field("CapEff:")?.trim(), 16).ok()?;
        Some(Self { groups: groups.ok()?, fsetid: capabilities >> CAP_FSETID & 1 == 1 })
    }

    fn in_group(&self, requester: &Requester, gid: u32) -> bool {
        requester.gid == gid || self.groups.contains(&gid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_proc_says_of_a_thread() {
        let status = "Name:\tx\nGid:\t10\t10\t10\t10\nGroups:\t5 77 \nCapEff:\t0000000000000010\n";
        let known = Known::parse(status).unwrap();
        assert_eq!((&known.groups[..], known.fsetid), (&[5, 77][..], true));
        let none = Known::parse("Groups:\t \nCapEff:\tffffffffffffffef\n").unwrap();
        assert_eq!((none.groups.len(), none.fsetid), (0, false));
        assert!(Known::parse("Groups:\t5\n").is_none());
    }

    #[test]
    fn what_proc_says_of_a_mapping() {
        let line = "7f1c9a200000-7f1c9a202000 rw-s 00000000 00:34 4711                 /mnt/a file";
        assert!(shares(line, Ino(4711)));
        assert!(!shares(line, Ino(471)));
        assert!(!shares(&line.replace("rw-s", "rw-p"), Ino(4711)), "of its own");
        assert!(!shares(&line.replace("rw-s", "r--s"), Ino(4711)), "only read");
        assert!(!shares("7ffd0000-7ffd1000 rw-p 00000000 00:00 0", Ino(0)));
        assert!(!shares("", Ino(0)));
        let nobody = Requester { uid: 0, gid: 0, thread: 0 };
        assert!(!nobody.maps(Ino(1)));
    }

    #[test]
    fn a_thread_that_is_not_known_is_judged_by_its_user() {
        let root = Known::of(&Requester { uid: 0, gid: 0, thread: 0 });
        let user = Known::of(&Requester { uid: 10, gid: 20, thread: u32::MAX });
        assert!(root.fsetid && !user.fsetid && user.groups.is_empty());
    }
}
