//! Who may do what: the decisions that the kernel makes for a mount, for whoever comes by a door that
//! the kernel does not watch. Pure.
//!
//! Asked is one that has an effective user and groups ([`Who`]); user 0 has all capabilities, any
//! other has none. Decided is by the mode, owner, group and access list of the inodes concerned, in
//! the order in which Linux asks, so that the error is the same, too: [`MetaError::AccessDenied`]
//! (EACCES) where permissions are missing, [`MetaError::NotPermitted`] (EPERM) where one has to be the
//! owner. Whether there is such a name, whether a directory is empty, and what else has nothing to
//! do with who asks, is decided elsewhere.
//!
//! What takes a path takes search ([`Who::search`]) in each directory of it, its last one included.
//! stat(2) and readlink(2) take no more than that.
//!
//! Not here: what of a mode is cleared or handed down whoever asks (`rules/perm.rs`).

use super::acl::{Acl, is_acl};
use crate::store::{Attr, Kind, MetaError};

/// To read a file, or the names in a directory.
pub const READ: u32 = 4;
/// To change a file, or, with [`EXECUTE`], the names in a directory.
pub const WRITE: u32 = 2;
/// To run a file, or to use the names in a directory.
pub const EXECUTE: u32 = 1;

/// Namespaces of extended attributes.
const USER: &[u8] = b"user.";
const TRUSTED: &[u8] = b"trusted.";

const SETUID: u32 = 0o4000;
const SETGID: u32 = 0o2000;
const STICKY: u32 = 0o1000;
const GROUP: u32 = 0o070;
const GROUP_EXECUTE: u32 = 0o010;
const ANY_EXECUTE: u32 = 0o111;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Who<'a> {
    /// Effective user. 0 has every capability.
    pub uid: u32,
    /// All groups, in any order: the effective one and the supplementary ones.
    pub gids: &'a [u32],
}

/// An inode with what guards it.
#[derive(Clone, Copy)]
pub struct Guarded<'a> {
    /// Its attributes.
    pub attr: &'a Attr,
    /// Its access list, if it has one; need not be known where [`Who::needs_acl`] says no.
    pub acl: Option<&'a Acl>,
}

/// Which times utimensat(2) sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Times {
    /// Both to now.
    Now,
    /// One of them, or to some other time.
    Chosen,
}

impl Who<'_> {
    /// Is the access list of an inode with these attributes to be asked at all? Costs less than to
    /// read it.
    pub fn needs_acl(self, attr: &Attr) -> bool {
        self.uid != 0 && self.uid != attr.uid && attr.mode & GROUP != 0
    }

    /// access(2): some of [`READ`], [`WRITE`] and [`EXECUTE`], all at once.
    pub fn access(self, inode: Guarded<'_>, wanted: u32) -> Result<(), MetaError> {
        match self.is_granted(inode, wanted) || self.overrides(inode.attr, wanted) {
            true => Ok(()),
            false => Err(MetaError::AccessDenied),
        }
    }

    /// To look up a name in a directory.
    pub fn search(self, dir: Guarded<'_>) -> Result<(), MetaError> {
        self.access(dir, EXECUTE)
    }

    /// open(2) of what is there: [`READ`], [`WRITE`] or both. `quiet`: with O_NOATIME.
    pub fn open(self, inode: Guarded<'_>, wanted: u32, quiet: bool) -> Result<(), MetaError> {
        self.access(inode, wanted)?;
        if quiet { self.own(inode.attr) } else { Ok(()) }
    }

    /// truncate(2).
    pub fn truncate(self, inode: Guarded<'_>) -> Result<(), MetaError> {
        self.access(inode, WRITE)
    }

    /// open(2) with O_CREAT of what is not there, mkdir(2), symlink(2), mknod(2).
    pub fn create(self, dir: Guarded<'_>, kind: Kind) -> Result<(), MetaError> {
        self.access(dir, WRITE | EXECUTE)?;
        match kind {
            Kind::CharDevice | Kind::BlockDevice if self.uid != 0 => Err(MetaError::NotPermitted),
            _ => Ok(()),
        }
    }

    /// unlink(2) and rmdir(2) of what a directory names.
    pub fn remove(self, dir: Guarded<'_>, named: &Attr) -> Result<(), MetaError> {
        self.access(dir, WRITE | EXECUTE)?;
        match dir.attr.mode & STICKY {
            0 => Ok(()),
            _ => self.own(named).or_else(|_| self.own(dir.attr)),
        }
    }

    /// rename(2) of `source`, which `from` names, to a name in `to`: of `target`, if that names
    /// something. A directory that moves changes what its `..` is, and has to be writable for that.
    pub fn rename(
        self,
        (from, source): (Guarded<'_>, Guarded<'_>),
        (to, target): (Guarded<'_>, Option<Guarded<'_>>),
        exchange: bool,
    ) -> Result<(), MetaError> {
        self.remove(from, source.attr)?;
        match target {
            Some(target) => self.remove(to, target.attr)?,
            None => self.access(to, WRITE | EXECUTE)?,
        }
        let moving = [Some(source), target.filter(|_| exchange)];
        for inode in moving.into_iter().flatten() {
            if inode.attr.kind == Kind::Directory && from.attr.ino != to.attr.ino {
                self.access(inode, WRITE)?;
            }
        }
        Ok(())
    }

    /// link(2): another name, in `dir`, for what is no directory. `protected`: as the kernel does with
    /// the setting `fs.protected_hardlinks`, which distributions turn on: one that is another's must
    /// be an ordinary file that one could read and write anyway.
    pub fn link(
        self,
        source: Guarded<'_>,
        dir: Guarded<'_>,
        protected: bool,
    ) -> Result<(), MetaError> {
        if protected && self.own(source.attr).is_err() {
            let mode = source.attr.mode;
            let both = SETGID | GROUP_EXECUTE;
            let privileged = mode & SETUID != 0 || mode & both == both;
            let ordinary = source.attr.kind == Kind::File && !privileged;
            if !ordinary || self.access(source, READ | WRITE).is_err() {
                return Err(MetaError::NotPermitted);
            }
        }
        self.access(dir, WRITE | EXECUTE)
    }

    /// chmod(2).
    pub fn chmod(self, attr: &Attr) -> Result<(), MetaError> {
        self.own(attr)
    }

    /// The mode that chmod(2) sets when asked for this one: no setgid bit of a group that one is
    /// not in. `gid`: the group of the inode, or the one that the same call gives it.
    pub fn mode_to_set(self, gid: u32, mode: u32) -> u32 {
        if self.is_in(gid) { mode } else { mode & !SETGID }
    }

    /// The mode that something new gets, of a mode that is asked for: in a setgid directory no program
    /// that runs as a group which its maker is not in.
    pub fn mode_to_create(self, dir: &Attr, kind: Kind, mode: u32) -> u32 {
        let both = SETGID | GROUP_EXECUTE;
        let program = kind != Kind::Directory && mode & both == both;
        match program && dir.mode & SETGID != 0 && !self.is_in(dir.gid) {
            true => mode & !SETGID,
            false => mode,
        }
    }

    /// chown(2); `None` leaves it as it is.
    pub fn chown(self, attr: &Attr, uid: Option<u32>, gid: Option<u32>) -> Result<(), MetaError> {
        let owner = self.uid == attr.uid;
        let user = uid.is_none_or(|uid| owner && uid == attr.uid);
        let group = gid.is_none_or(|gid| owner && (gid == attr.gid || self.gids.contains(&gid)));
        match self.uid == 0 || (user && group) {
            true => Ok(()),
            false => Err(MetaError::NotPermitted),
        }
    }

    /// utimensat(2): who may write may touch; any other time takes the owner.
    pub fn set_times(self, inode: Guarded<'_>, times: Times) -> Result<(), MetaError> {
        match (times, self.own(inode.attr)) {
            (Times::Now, Err(_)) => self.access(inode, WRITE),
            (_, owned) => owned,
        }
    }

    /// getxattr(2) of this name. What must not be known is as if it were not there.
    pub fn getxattr(self, inode: Guarded<'_>, name: &[u8]) -> Result<(), MetaError> {
        match inode.attr.kind {
            Kind::File | Kind::Directory if name.starts_with(USER) => self.access(inode, READ),
            _ if name.starts_with(USER) || !self.sees_xattr(name) => Err(MetaError::NoAttribute),
            _ => Ok(()),
        }
    }

    /// Does listxattr(2) name this one?
    pub fn sees_xattr(self, name: &[u8]) -> bool {
        self.uid == 0 || !name.starts_with(TRUSTED)
    }

    /// setxattr(2) and removexattr(2) of this name. Access lists are the owner's; in `user.`, what a
    /// sticky directory has is, too; all others, `trusted.` and `security.`, are root's.
    pub fn setxattr(self, inode: Guarded<'_>, name: &[u8]) -> Result<(), MetaError> {
        let attr = inode.attr;
        if is_acl(name) {
            return self.own(attr);
        }
        match attr.kind {
            Kind::File | Kind::Directory if name.starts_with(USER) => {
                if attr.kind == Kind::Directory && attr.mode & STICKY != 0 {
                    self.own(attr)?;
                }
                self.access(inode, WRITE)
            }
            _ if name.starts_with(USER) || self.uid != 0 => Err(MetaError::NotPermitted),
            _ => Ok(()),
        }
    }

    /// What only the owner may.
    pub fn own(self, attr: &Attr) -> Result<(), MetaError> {
        match self.uid == 0 || self.uid == attr.uid {
            true => Ok(()),
            false => Err(MetaError::NotPermitted),
        }
    }

    /// In the group, or as good as that: setgid bits of it stay.
    pub fn is_in(self, gid: u32) -> bool {
        self.uid == 0 || self.gids.contains(&gid)
    }

    /// By the class that one is in: the first that fits of owner, access list, group and others. A list
    /// whose mask grants nothing is not asked, and those it names are others, or in the group.
    fn is_granted(self, Guarded { attr, acl }: Guarded<'_>, wanted: u32) -> bool {
        let class = match acl {
            _ if self.uid == attr.uid => attr.mode >> 6,
            Some(acl) if attr.mode & GROUP != 0 => {
                return acl.grants(self.uid, self.gids, attr.gid, wanted);
            }
            _ if self.gids.contains(&attr.gid) => attr.mode >> 3,
            _ => attr.mode,
        };
        class & wanted == wanted
    }

    /// By capability: all but to run what nobody may.
    fn overrides(self, attr: &Attr, wanted: u32) -> bool {
        let may_run = attr.kind == Kind::Directory || attr.mode & ANY_EXECUTE != 0;
        self.uid == 0 && (wanted & EXECUTE == 0 || may_run)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Ino, Time};

    const ANN: Who<'static> = Who { uid: 10, gids: &[100, 101] };
    const BOB: Who<'static> = Who { uid: 11, gids: &[100] };
    const EVE: Who<'static> = Who { uid: 12, gids: &[102] };
    const ROOT: Who<'static> = Who { uid: 0, gids: &[0] };
    const ALL: [Who<'static>; 4] = [ANN, BOB, EVE, ROOT];
    const NO: Result<(), MetaError> = Err(MetaError::AccessDenied);
    const NEVER: Result<(), MetaError> = Err(MetaError::NotPermitted);
    const YES: Result<(), MetaError> = Ok(());

    /// Of Ann and the group 100.
    fn attr(kind: Kind, mode: u32) -> Attr {
        let t = Time::default();
        Attr {
            ino: Ino(2),
            kind,
            mode,
            nlink: 1,
            uid: ANN.uid,
            gid: 100,
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

    fn plain(attr: &Attr) -> Guarded<'_> {
        Guarded { attr, acl: None }
    }

    fn each(decide: impl Fn(Who<'_>) -> Result<(), MetaError>) -> [Result<(), MetaError>; 4] {
        ALL.map(decide)
    }

    #[test]
    fn the_first_class_that_fits_decides() {
        let cases = [
            (Kind::File, 0o400, READ, [YES, NO, NO, YES]),
            (Kind::File, 0o040, READ, [NO, YES, NO, YES]),
            (Kind::File, 0o004, READ, [NO, NO, YES, YES]),
            (Kind::File, 0o640, READ | WRITE, [YES, NO, NO, YES]),
            (Kind::File, 0o666, EXECUTE, [NO, NO, NO, NO]),
            (Kind::File, 0o001, READ | EXECUTE, [NO, NO, NO, YES]),
            (Kind::Directory, 0o000, READ | WRITE | EXECUTE, [NO, NO, NO, YES]),
            (Kind::Directory, 0o070, WRITE | EXECUTE, [NO, YES, NO, YES]),
        ];
        for (kind, mode, wanted, expected) in cases {
            let inode = attr(kind, mode);
            let found = each(|who| who.access(plain(&inode), wanted));
            assert_eq!(found, expected, "{mode:o} {wanted}");
        }
    }

    /// Of words as `u:11:6`, in their order.
    fn list(words: &str) -> Acl {
        let mut value = 2u32.to_le_bytes().to_vec();
        for word in words.split(' ') {
            let parts: Vec<&str> = word.split(':').collect();
            let (id, permissions) = (parts[1].parse().ok(), parts[2].parse::<u16>().unwrap());
            let tag = match (parts[0], id) {
                ("u", None) => 1,
                ("u", _) => 2,
                ("g", None) => 4,
                ("g", _) => 8,
                ("m", _) => 16,
                _ => 32u16,
            };
            value.extend_from_slice(&tag.to_le_bytes());
            value.extend_from_slice(&permissions.to_le_bytes());
            value.extend_from_slice(&id.unwrap_or(u32::MAX).to_le_bytes());
        }
        Acl::parse(&value).unwrap().unwrap()
    }

    #[test]
    fn a_list_names_users_then_groups_within_its_mask() {
        let cases = [
            // Bob by his name, though his group may more.
            ("u::0 u:11:4 g::7 m::7 o::0", WRITE, [NO, NO, NO]),
            ("u::0 u:12:6 g::0 m::2 o::7", WRITE, [NO, NO, YES]),
            ("u::0 u:12:6 g::0 m::2 o::7", READ, [NO, NO, NO]),
            // By any group that grants all of it, by none of those that grant some each.
            ("u::0 g::0 g:102:4 m::7 o::7", READ, [NO, NO, YES]),
            ("u::0 g::2 g:100:4 m::7 o::0", READ, [NO, YES, NO]),
            ("u::0 g::2 g:100:4 m::7 o::7", READ | WRITE, [NO, NO, YES]),
            // The owner is judged by nothing else.
            ("u::4 u:10:7 g::7 m::7 o::7", WRITE, [NO, YES, YES]),
            // A mask without anything: not asked.
            ("u::0 u:12:7 g::7 m::0 o::4", READ, [NO, NO, YES]),
        ];
        for (words, wanted, expected) in cases {
            let acl = list(words);
            let inode = attr(Kind::File, acl.applied_to(0));
            let guarded = Guarded { attr: &inode, acl: Some(&acl) };
            let found = [ANN, BOB, EVE].map(|who| who.access(guarded, wanted));
            assert_eq!(found, expected, "{words} {wanted}");
            assert_eq!(ROOT.access(guarded, wanted), YES);
            for who in ALL.into_iter().filter(|who| !who.needs_acl(&inode)) {
                assert_eq!(who.access(guarded, wanted), who.access(plain(&inode), wanted));
            }
        }
    }

    #[test]
    fn names_in_sticky_directories_are_their_owners() {
        let (open, mut sticky) = (attr(Kind::Directory, 0o777), attr(Kind::Directory, 0o1777));
        sticky.uid = EVE.uid;
        let file = attr(Kind::File, 0o000);
        let remove = |dir| each(|who| who.remove(plain(dir), &file));
        assert_eq!(remove(&open), [YES, YES, YES, YES]);
        assert_eq!(remove(&sticky), [YES, NEVER, YES, YES]);
        let moving = |from, to, target| {
            each(|who| who.rename((plain(from), plain(&file)), (plain(to), target), false))
        };
        assert_eq!(moving(&open, &sticky, None), [YES, YES, YES, YES]);
        assert_eq!(moving(&open, &sticky, Some(plain(&file))), [YES, NEVER, YES, YES]);
        assert_eq!(moving(&sticky, &open, None), [YES, NEVER, YES, YES]);
    }

    #[test]
    fn a_directory_that_moves_elsewhere_must_be_writable() {
        let (here, mut there) = (attr(Kind::Directory, 0o777), attr(Kind::Directory, 0o777));
        there.ino = Ino(3);
        let (moves, stays) = (attr(Kind::Directory, 0o555), attr(Kind::Directory, 0o777));
        let rename = |source, to, target, exchange| {
            each(|who| who.rename((plain(&here), plain(source)), (plain(to), target), exchange))
        };
        assert_eq!(rename(&moves, &here, None, false), [YES; 4]);
        assert_eq!(rename(&moves, &there, None, false), [NO, NO, NO, YES]);
        assert_eq!(rename(&stays, &there, Some(plain(&moves)), false), [YES; 4]);
        assert_eq!(rename(&stays, &there, Some(plain(&moves)), true), [NO, NO, NO, YES]);
    }

    #[test]
    fn what_is_the_owners() {
        let file = attr(Kind::File, 0o666);
        assert_eq!(each(|who| who.chmod(&file)), [YES, NEVER, NEVER, YES]);
        assert_eq!(each(|who| who.open(plain(&file), READ, true)), [YES, NEVER, NEVER, YES]);
        let times = |times| each(|who| who.set_times(plain(&file), times));
        assert_eq!(times(Times::Chosen), [YES, NEVER, NEVER, YES]);
        assert_eq!(times(Times::Now), [YES, YES, YES, YES]);
        let shut = attr(Kind::File, 0o000);
        assert_eq!(each(|who| who.set_times(plain(&shut), Times::Now)), [YES, NO, NO, YES]);
        let chown = |uid, gid| each(|who| who.chown(&file, uid, gid));
        assert_eq!(chown(Some(10), None), [YES, NEVER, NEVER, YES]);
        assert_eq!(chown(Some(11), None), [NEVER, NEVER, NEVER, YES]);
        assert_eq!(chown(None, Some(101)), [YES, NEVER, NEVER, YES]);
        assert_eq!(chown(Some(10), Some(102)), [NEVER, NEVER, NEVER, YES]);
        assert_eq!(chown(None, None), [YES; 4]);
    }

    #[test]
    fn another_name_takes_what_one_could_use_anyway() {
        let dir = attr(Kind::Directory, 0o777);
        let link = |kind, mode, protected| {
            let source = attr(kind, mode);
            each(|who| who.link(plain(&source), plain(&dir), protected))
        };
        assert_eq!(link(Kind::File, 0o666, true), [YES; 4]);
        assert_eq!(link(Kind::File, 0o644, true), [YES, NEVER, NEVER, YES]);
        assert_eq!(link(Kind::File, 0o644, false), [YES; 4]);
        assert_eq!(link(Kind::File, 0o4666, true), [YES, NEVER, NEVER, YES]);
        assert_eq!(link(Kind::File, 0o2676, true), [YES, NEVER, NEVER, YES]);
        assert_eq!(link(Kind::File, 0o2666, true), [YES; 4]);
        assert_eq!(link(Kind::Fifo, 0o666, true), [YES, NEVER, NEVER, YES]);
    }

    #[test]
    fn devices_are_roots_and_other_groups_programs_are_not_made() {
        let mut dir = attr(Kind::Directory, 0o2777);
        assert_eq!(each(|who| who.create(plain(&dir), Kind::Fifo)), [YES; 4]);
        let device = each(|who| who.create(plain(&dir), Kind::BlockDevice));
        assert_eq!(device, [NEVER, NEVER, NEVER, YES]);
        let made = |dir: &Attr, kind, mode| ALL.map(|who| who.mode_to_create(dir, kind, mode));
        assert_eq!(made(&dir, Kind::File, 0o2775), [0o2775, 0o2775, 0o775, 0o2775]);
        assert_eq!(made(&dir, Kind::File, 0o2765), [0o2765; 4]);
        assert_eq!(made(&dir, Kind::Directory, 0o2775), [0o2775; 4]);
        dir.mode = 0o777;
        assert_eq!(made(&dir, Kind::File, 0o2775), [0o2775; 4]);
        assert_eq!(ALL.map(|who| who.mode_to_set(100, 0o6755)), [0o6755, 0o6755, 0o4755, 0o6755]);
    }

    #[test]
    fn extended_attributes_by_their_namespace() {
        let (file, link) = (attr(Kind::File, 0o664), attr(Kind::Symlink, 0o777));
        let (dir, sticky) = (attr(Kind::Directory, 0o777), attr(Kind::Directory, 0o1777));
        let set = |attr, name: &[u8]| each(|who| who.setxattr(plain(attr), name));
        assert_eq!(set(&file, b"user.a"), [YES, YES, NO, YES]);
        assert_eq!(set(&dir, b"user.a"), [YES; 4]);
        assert_eq!(set(&sticky, b"user.a"), [YES, NEVER, NEVER, YES]);
        assert_eq!(set(&link, b"user.a"), [NEVER; 4]);
        for name in [&b"trusted.a"[..], b"security.a", b"security.capability"] {
            assert_eq!(set(&file, name), [NEVER, NEVER, NEVER, YES]);
        }
        assert_eq!(set(&file, crate::rules::acl::ACCESS), [YES, NEVER, NEVER, YES]);
        let shut = attr(Kind::File, 0o000);
        let get = |attr, name: &[u8]| each(|who| who.getxattr(plain(attr), name));
        let absent = Err(MetaError::NoAttribute);
        assert_eq!(get(&shut, b"user.a"), [NO, NO, NO, YES]);
        assert_eq!(get(&shut, b"security.a"), [YES; 4]);
        assert_eq!(get(&link, b"user.a"), [(); 4].map(|()| absent.clone()));
        assert_eq!(get(&file, b"trusted.a"), [absent.clone(), absent.clone(), absent, YES]);
    }
}
