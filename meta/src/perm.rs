//! Who may, and which bits a change takes away: pure rules on attributes.
//!
//! Plain access by the permission bits (search, read, write of a directory) is checked by the
//! kernel, which knows the caller's supplementary groups; it is not repeated here. What is here are
//! the rules of ownership. Where a rule asks "is the caller in this group", only the caller's
//! effective group is known.

use crate::store::{Attr, Caller, Kind, MetaError, SetAttr};

/// Set user id on execution.
pub(crate) const SETUID: u32 = 0o4000;
/// Set group id on execution; of a directory: entries inherit its group.
pub(crate) const SETGID: u32 = 0o2000;
/// Restricted deletion.
pub(crate) const STICKY: u32 = 0o1000;
const GROUP_EXEC: u32 = 0o010;
const ALL_BITS: u32 = 0o7777;

fn owns(caller: Caller, attr: &Attr) -> bool {
    caller.uid == 0 || caller.uid == attr.uid
}

/// May the caller take `victim`'s name out of `dir`? In a sticky directory only the owner of
/// either may.
pub(crate) fn may_delete(caller: Caller, dir: &Attr, victim: &Attr) -> Result<(), MetaError> {
    if dir.mode & STICKY == 0 || owns(caller, dir) || owns(caller, victim) {
        Ok(())
    } else {
        Err(MetaError::NotPermitted)
    }
}

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

/// The mode without what a write by an unprivileged caller takes away: setuid, and setgid when the
/// group may execute (else it means mandatory locking).
pub(crate) fn without_privileges(mode: u32) -> u32 {
    let setgid = if mode & GROUP_EXEC != 0 { SETGID } else { 0 };
    mode & !(SETUID | setgid)
}

/// Does the change of mode take setuid or setgid away, and nothing else?
fn only_drops_privileges(old: u32, new: u32) -> bool {
    let dropped = old & !new;
    new & !old == 0 && dropped != 0 && dropped & !(SETUID | SETGID) == 0
}

/// The attributes after a change, times aside.
///
/// * Mode: the owner and root only, but anybody may take setuid and setgid away and nothing else: so
///   the kernel asks in the name of whoever writes to such a file. A file's setgid is dropped when the caller is neither root nor
///   in its group. (On directories it stays: users of a shared directory are often in its group by
///   a supplementary one, and on a mount the kernel has dropped the bit already if it must go.)
/// * Owner: root only. Group: root and the owner (of the new group's membership the kernel knows).
///   Either clears setuid and setgid of what is no directory, whoever asks, unless the same call
///   sets the mode.
/// * Times: the kernel has checked them: the owner may set any, a writer may set "now", and which of
///   these was meant can no longer be seen here.
pub(crate) fn change(caller: Caller, old: &Attr, set: &SetAttr) -> Result<Attr, MetaError> {
    let mut new = *old;
    if let Some(uid) = set.uid {
        if caller.uid != 0 && (uid != old.uid || caller.uid != old.uid) {
            return Err(MetaError::NotPermitted);
        }
        new.uid = uid;
    }
    if let Some(gid) = set.gid {
        if !owns(caller, old) {
            return Err(MetaError::NotPermitted);
        }
        new.gid = gid;
    }
    if (set.uid.is_some() || set.gid.is_some()) && old.kind != Kind::Directory {
        new.mode = without_privileges(new.mode);
    }
    if let Some(mode) = set.mode {
        if !owns(caller, old) && !only_drops_privileges(old.mode, mode & ALL_BITS) {
            return Err(MetaError::NotPermitted);
        }
        let outsider = caller.uid != 0 && caller.gid != new.gid;
        let drop = if outsider && old.kind != Kind::Directory { SETGID } else { 0 };
        new.mode = mode & ALL_BITS & !drop;
    }
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Ino, Time};

    const ROOT: Caller = Caller { uid: 0, gid: 0, umask: 0 };
    const ANN: Caller = Caller { uid: 10, gid: 100, umask: 0 };
    const BOB: Caller = Caller { uid: 11, gid: 100, umask: 0 };

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
            size: 0,
            stored: 0,
            atime: t,
            mtime: t,
            ctime: t,
            btime: t,
        }
    }

    #[test]
    fn sticky_directories() {
        let open = attr(Kind::Directory, 0o777, 0, 0);
        let sticky = attr(Kind::Directory, 0o1777, 0, 0);
        let of_ann = attr(Kind::File, 0o644, 10, 100);
        assert_eq!(may_delete(BOB, &open, &of_ann), Ok(()));
        assert_eq!(may_delete(BOB, &sticky, &of_ann), Err(MetaError::NotPermitted));
        for who in [ROOT, ANN] {
            assert_eq!(may_delete(who, &sticky, &of_ann), Ok(()));
        }
        let sticky_of_bob = attr(Kind::Directory, 0o1777, 11, 0);
        assert_eq!(may_delete(BOB, &sticky_of_bob, &of_ann), Ok(()));
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
        let dir = attr(Kind::Directory, 0o2755, 10, 200);
        let mode = |mode| SetAttr { mode: Some(mode), ..SetAttr::default() };
        let uid = |uid| SetAttr { uid: Some(uid), ..SetAttr::default() };
        let gid = |gid| SetAttr { gid: Some(gid), ..SetAttr::default() };
        let result = |who, attr: &Attr, set: SetAttr| {
            change(who, attr, &set).map(|a| (a.mode, a.uid, a.gid))
        };
        let no = Err(MetaError::NotPermitted);
        let cases = [
            (ANN, file, mode(0o600), Ok((0o600, 10, 100))),
            (BOB, file, mode(0o600), no.clone()),
            (BOB, file, mode(0o6755), no.clone()),
            (BOB, file, mode(0o755), Ok((0o755, 10, 100))),
            (BOB, file, mode(0o2755), Ok((0o2755, 10, 100))),
            (BOB, file, mode(0o754), no.clone()),
            (ROOT, file, mode(0o4600), Ok((0o4600, 10, 100))),
            (ANN, file, mode(0o2755), Ok((0o2755, 10, 100))),
            (Caller { gid: 9, ..ANN }, file, mode(0o2755), Ok((0o755, 10, 100))),
            (ANN, dir, mode(0o2775), Ok((0o2775, 10, 200))),
            (ANN, file, uid(10), Ok((0o755, 10, 100))),
            (ANN, file, uid(11), no.clone()),
            (ROOT, file, uid(11), Ok((0o755, 11, 100))),
            (ROOT, dir, uid(11), Ok((0o2755, 11, 200))),
            (ANN, file, gid(300), Ok((0o755, 10, 300))),
            (BOB, file, gid(300), no.clone()),
            (BOB, file, uid(10), no),
            (
                BOB,
                file,
                SetAttr { atime: Some(Time::default()), ..SetAttr::default() },
                Ok((0o6755, 10, 100)),
            ),
        ];
        for (who, attr, set, expected) in cases {
            assert_eq!(result(who, &attr, set), expected, "{who:?} {set:?}");
        }
    }

    #[test]
    fn a_write_takes_privileges_away() {
        for (before, after) in
            [(0o6755, 0o755), (0o2644, 0o2644), (0o4644, 0o644), (0o1777, 0o1777)]
        {
            assert_eq!(without_privileges(before), after);
        }
    }
}
