//! The record of an inode.
//!
//! ```text
//! offset  size  field                                      (little-endian)
//! 0       1     kind       0 file, 1 directory, 2 symlink, 3 fifo, 4 socket, 5 char, 6 block device
//! 1       3     zero
//! 4       4     mode       permission bits, setuid, setgid, sticky
//! 8       4     nlink
//! 12      4     uid
//! 16      4     gid
//! 20      4     rdev
//! 24      4     xattrs     how many extended attributes it has
//! 28      4     nanoseconds of atime
//! 32      4     nanoseconds of mtime
//! 36      4     nanoseconds of ctime
//! 40      4     nanoseconds of btime
//! 44      8     seconds of atime
//! 52      8     seconds of mtime
//! 60      8     seconds of ctime
//! 68      8     seconds of btime
//! 76      8     size       directories: number of entries
//! 84      8     stored     bytes of its extents
//! 92      8     parent     of a directory; the root is its own. Of what is in the trash, the directory it was in
//! 100     8     session    in which it became an orphan; 0: it has a name; 2^64 - 1: it is in the trash
//! ```

use proto::id::SessionId;
use zerocopy::little_endian::{I64, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::store::{Attr, Ino, Kind, Time};

/// Bytes of a record.
pub(crate) const LEN: usize = 108;
/// In the place of a session: it is in the trash.
const IN_TRASH: u64 = u64::MAX;
/// What stat(2) says of a directory's size.
const DIRECTORY_SIZE: u64 = 4096;

/// An inode: what stat(2) tells, and what only metadata needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Inode {
    /// What stat(2) tells. `size` of a directory is the number of its entries here.
    pub(crate) attr: Attr,
    /// Where a directory is; the root is its own parent. Where what is in the trash was. 0 for others.
    pub(crate) parent: Ino,
    /// The session in which it lost its last name.
    pub(crate) orphan_of: Option<SessionId>,
    /// It is in the trash: its record there counts as its last name, and nobody else sees it as one.
    pub(crate) in_trash: bool,
}

impl Inode {
    /// What stat(2) tells. What is in the trash has been deleted, as far as anybody can tell who still has it open.
    pub(crate) fn stat(&self) -> Attr {
        let nlink = if self.in_trash { 0 } else { self.attr.nlink };
        match self.attr.kind {
            Kind::Directory => Attr { size: DIRECTORY_SIZE, nlink, ..self.attr },
            _ => Attr { nlink, ..self.attr },
        }
    }

    /// Has it a name, so that it can get another, or a directory entries?
    pub(crate) fn has_name(&self) -> bool {
        self.attr.nlink > 0 && !self.in_trash
    }

    /// Is it a directory?
    pub(crate) fn is_dir(&self) -> bool {
        self.attr.kind == Kind::Directory
    }

    /// The content of a file changed, or a directory's entries.
    pub(crate) fn touch_content(&mut self, now: Time) {
        self.attr.mtime = now;
        self.attr.ctime = now;
    }

    /// Its content changed a while ago: what was changed since keeps its later time.
    pub(crate) fn touch_written(&mut self, at: Time) {
        self.attr.mtime = at;
        self.attr.ctime = self.attr.ctime.max(at);
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Table {
    kind: u8,
    zero: [u8; 3],
    mode: U32,
    nlink: U32,
    uid: U32,
    gid: U32,
    rdev: U32,
    xattrs: U32,
    nanos: [U32; 4],
    secs: [I64; 4],
    size: U64,
    stored: U64,
    parent: U64,
    session: U64,
}

const _: () = assert!(size_of::<Table>() == LEN);

/// Number of a kind in records.
pub(crate) fn kind_number(kind: Kind) -> u8 {
    match kind {
        Kind::File => 0,
        Kind::Directory => 1,
        Kind::Symlink => 2,
        Kind::Fifo => 3,
        Kind::Socket => 4,
        Kind::CharDevice => 5,
        Kind::BlockDevice => 6,
    }
}

/// The kind of a number; `None` if there is none.
pub(crate) fn kind_of(number: u8) -> Option<Kind> {
    Some(match number {
        0 => Kind::File,
        1 => Kind::Directory,
        2 => Kind::Symlink,
        3 => Kind::Fifo,
        4 => Kind::Socket,
        5 => Kind::CharDevice,
        6 => Kind::BlockDevice,
        _ => return None,
    })
}

impl Inode {
    /// The encoding in the table above.
    pub(crate) fn encode(&self) -> [u8; LEN] {
        let a = &self.attr;
        let times = [a.atime, a.mtime, a.ctime, a.btime];
        zerocopy::transmute!(Table {
            kind: kind_number(a.kind),
            zero: [0; 3],
            mode: a.mode.into(),
            nlink: a.nlink.into(),
            uid: a.uid.into(),
            gid: a.gid.into(),
            rdev: a.rdev.into(),
            xattrs: a.xattrs.into(),
            nanos: times.map(|t| t.nanos.into()),
            secs: times.map(|t| t.secs.into()),
            size: a.size.into(),
            stored: a.stored.into(),
            parent: self.parent.0.into(),
            session: self.session().into(),
        })
    }

    fn session(&self) -> u64 {
        match self.in_trash {
            true => IN_TRASH,
            false => self.orphan_of.map_or(0, |session| session.0),
        }
    }

    /// The inode with this number; `None` if the value makes no sense.
    pub(crate) fn decode(ino: Ino, value: &[u8]) -> Option<Self> {
        let t = Table::read_from_bytes(value).ok()?;
        let time = |i: usize| Time { secs: t.secs[i].get(), nanos: t.nanos[i].get() };
        if t.nanos.iter().any(|nanos| nanos.get() >= 1_000_000_000) {
            return None;
        }
        let attr = Attr {
            ino,
            kind: kind_of(t.kind)?,
            mode: t.mode.get(),
            nlink: t.nlink.get(),
            uid: t.uid.get(),
            gid: t.gid.get(),
            rdev: t.rdev.get(),
            xattrs: t.xattrs.get(),
            size: t.size.get(),
            stored: t.stored.get(),
            atime: time(0),
            mtime: time(1),
            ctime: time(2),
            btime: time(3),
        };
        let session = t.session.get();
        Some(Self {
            attr,
            parent: Ino(t.parent.get()),
            orphan_of: (![0, IN_TRASH].contains(&session)).then_some(SessionId(session)),
            in_trash: session == IN_TRASH,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_is_read_back(
            ino: u64, kind in 0u8..7, n: [u32; 6], times: [(i64, u32); 4], wide: [u64; 3],
            session in 0..u64::MAX, in_trash: bool,
        ) {
            let time = |i: usize| Time { secs: times[i].0, nanos: times[i].1 % 1_000_000_000 };
            let attr = Attr {
                ino: Ino(ino), kind: kind_of(kind).unwrap(), mode: n[0], nlink: n[1], uid: n[2],
                gid: n[3], rdev: n[4], xattrs: n[5], size: wide[0], stored: wide[1],
                atime: time(0), mtime: time(1), ctime: time(2), btime: time(3),
            };
            let inode = Inode {
                attr, parent: Ino(wide[2]),
                orphan_of: (session != 0 && !in_trash).then_some(SessionId(session)), in_trash,
            };
            prop_assert_eq!(Inode::decode(Ino(ino), &inode.encode()), Some(inode));
        }

        #[test]
        fn any_bytes_are_an_inode_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(inode) = Inode::decode(Ino(5), &bytes) {
                prop_assert_eq!(bytes.len(), LEN);
                prop_assert!(bytes[0] < 7, "{:?}", inode);
                prop_assert!(inode.attr.mtime.nanos < 1_000_000_000);
            }
        }
    }
}
