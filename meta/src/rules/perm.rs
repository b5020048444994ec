//! Which bits of a mode a change takes away, and what something new starts with: pure rules on
//! attributes.
//!
//! Who may change what is decided before: by the kernel, which knows the caller's groups, capabilities
//! and user namespace, or by `rules/may.rs`.

use crate::store::{Attr, Caller, Kind, SetAttr};

/// Set user id on execution.
const SETUID: u32 = 0o4000;
/// Set group id on execution; of a directory: entries inherit its group.
const SETGID: u32 = 0o2000;
const GROUP_EXEC: u32 = 0o010;
const ALL_BITS: u32 = 0o7777;

/// Group and mode of something new in `dir`: a setgid directory hands down its group, and to
/// directories the bit.
pub(crate) fn inherit(caller: Caller, dir: &Attr, kind: Kind, mode: u32) -> (u32, u32) {
    let mode = mode & ALL_BITS;
    match (dir.mode & SETGID != 0, kind) {
        (false, _) => (caller.gid, mode),
        (true, Kind::Directory) => (dir.gid, mode | SETGID),
        (true, _) => (dir.gid, mode),
    }
}

/// The mode without what a change of content or owner takes away: setuid, and setgid when the group
/// may execute (else it means mandatory locking) or the caller is an `outsider` to the group.
pub(crate) fn without_privileges(mode: u32, outsider: bool) -> u32 {
    let setgid = if outsider || mode & GROUP_EXEC != 0 { SETGID } else { 0 };
    mode & !(SETUID | setgid)
}

/// The attributes after a change, times aside. A new owner or group clears setuid and setgid of what
/// is no directory, whoever asks, unless the same call sets the mode.
pub(crate) fn change(old: &Attr, set: &SetAttr) -> Attr {
    let mut new = *old;
    new.uid = set.uid.unwrap_or(old.uid);
    new.gid = set.gid.unwrap_or(old.gid);
    if (set.uid.is_some() || set.gid.is_some()) && old.kind != Kind::Directory {
        new.mode = without_privileges(new.mode, set.outsider);
    }
    if let Some(mode) = set.mode {
        new.mode = mode & ALL_BITS;
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Ino, Time};

    const ANN: Caller = Caller { uid: 10, gid: 100, umask: 0 };

    fn attr(kind: Kind, mode: u32, uid: u32, gid: u32) -> Attr {
        let t = Time::default();
        Attr {
            ino: Ino(2),
            kind,
            mode,
            nlink: 1,
            uid,
            gid,
            rdev: 0,
            xattrs: 0,
            size: 0,
            stored: 0,
            atime: t,
            mtime: t,
            ctime: t,
            btime: t,
        }
    }

    #[test]
    fn setgid_directories_hand_down() {
        let plain = attr(Kind::Directory, 0o755, 0, 7);
        let setgid = attr(Kind::Directory, 0o2755, 0, 7);
        assert_eq!(inherit(ANN, &plain, Kind::File, 0o644), (100, 0o644));
        assert_eq!(inherit(ANN, &setgid, Kind::File, 0o644), (7, 0o644));
        assert_eq!(inherit(ANN, &setgid, Kind::Directory, 0o755), (7, 0o2755));
    }

    #[test]
    fn changes_of_mode_and_owner() {
        let file = attr(Kind::File, 0o6755, 10, 100);
        let locked = attr(Kind::File, 0o6745, 10, 100);
        let dir = attr(Kind::Directory, 0o2745, 10, 200);
        let none = SetAttr::default();
        let out = SetAttr { outsider: true, ..none };
        let cases = [
            (file, SetAttr { mode: Some(0o600), ..none }, (0o600, 10, 100)),
            (file, SetAttr { mode: Some(0o4600), ..out }, (0o4600, 10, 100)),
            (dir, SetAttr { mode: Some(0o2775), ..out }, (0o2775, 10, 200)),
            (file, SetAttr { uid: Some(10), ..none }, (0o755, 10, 100)),
            (file, SetAttr { gid: Some(300), ..none }, (0o755, 10, 300)),
            (locked, SetAttr { uid: Some(11), ..none }, (0o2745, 11, 100)),
            (locked, SetAttr { uid: Some(11), ..out }, (0o745, 11, 100)),
            (file, SetAttr { uid: Some(11), mode: Some(0o6755), ..out }, (0o6755, 11, 100)),
            (dir, SetAttr { uid: Some(11), gid: Some(1), ..out }, (0o2745, 11, 1)),
            (file, SetAttr { atime: Some(Time::default()), ..out }, (0o6755, 10, 100)),
        ];
        for (attr, set, expected) in cases {
            let new = change(&attr, &set);
            assert_eq!((new.mode, new.uid, new.gid), expected, "{set:?}");
        }
    }

    #[test]
    fn a_write_takes_privileges_away() {
        let cases = [
            (0o6755, 0o755, 0o755),
            (0o2644, 0o2644, 0o644),
            (0o4644, 0o644, 0o644),
            (0o1777, 0o1777, 0o1777),
        ];
        for (before, inside, outside) in cases {
            assert_eq!(without_privileges(before, false), inside);
            assert_eq!(without_privileges(before, true), outside);
        }
    }
}
