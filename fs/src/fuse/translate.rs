//! The kernel's words in ours, and our answers in its.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    Errno, FileAttr, FileType, Generation, INodeNo, RenameFlags, ReplyAttr, ReplyEmpty, ReplyEntry,
    ReplyWrite, ReplyXattr, Request, TimeOrNow,
};
use meta::{Attr, Caller, Kind, NewNode, RenameMode, Time};

use crate::data::BLOCK;
use crate::error::{FsError, FsResult};
use crate::filesystem::privileges::Requester;
use crate::filesystem::{Allocate, SetTime};

/// Inode numbers are never used twice.
pub(super) const GENERATION: Generation = Generation(0);
/// Linux's fallocate(2) flags.
const FALLOC_KEEP_SIZE: i32 = 1;
const FALLOC_PUNCH_HOLE: i32 = 2;
const FALLOC_ZERO_RANGE: i32 = 16;
/// Bits of a mode that say what kind of file it is.
const S_IFMT: u32 = 0o170_000;

pub(super) fn errno(error: &FsError) -> Errno {
    Errno::from_i32(error.errno() as i32)
}

pub(super) fn caller(req: &Request) -> Caller {
    Caller { uid: req.uid(), gid: req.gid(), umask: 0 }
}

pub(super) fn requester(req: &Request) -> Requester {
    Requester { uid: req.uid(), gid: req.gid(), thread: req.pid() }
}

pub(super) fn owned(name: &OsStr) -> Box<[u8]> {
    name.as_bytes().into()
}

pub(super) fn system_time(time: Time) -> SystemTime {
    let nanos = Duration::from_nanos(time.nanos.into());
    let secs = Duration::from_secs(time.secs.unsigned_abs());
    if time.secs >= 0 { UNIX_EPOCH + secs + nanos } else { UNIX_EPOCH - secs + nanos }
}

/// fuser 0.18 makes of (-2 s, 800 ms) the time 2.8 s before the epoch: undone here.
pub(super) fn time_of(time: SystemTime) -> Time {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => Time { secs: since.as_secs() as i64, nanos: since.subsec_nanos() },
        Err(e) => {
            let before = e.duration();
            Time { secs: -(before.as_secs() as i64), nanos: before.subsec_nanos() }
        }
    }
}

pub(super) fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => SetTime::To(time_of(time)),
    }
}

pub(super) fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
        Kind::CharDevice => FileType::CharDevice,
        Kind::BlockDevice => FileType::BlockDevice,
    }
}

pub(super) fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino.0),
        size: attr.size,
        // Whole blocks of ours, as holes are made of them, in the kernel's unit.
        blocks: attr.stored.next_multiple_of(BLOCK.into()) / 512,
        atime: system_time(attr.atime),
        mtime: system_time(attr.mtime),
        ctime: system_time(attr.ctime),
        crtime: system_time(attr.btime),
        kind: file_type(attr.kind),
        perm: (attr.mode & 0o7777) as u16,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: BLOCK,
        flags: 0,
    }
}

/// Inode 0 and a time to live: the kernel remembers that there is no such name.
pub(super) fn no_entry() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK,
        flags: 0,
    }
}

/// `ttl`: how long the kernel may believe it.
pub(super) fn reply_entry(reply: ReplyEntry, ttl: Duration, result: Result<Attr, Errno>) {
    match result {
        Ok(attr) => reply.entry(&ttl, &file_attr(&attr), GENERATION),
        Err(e) => reply.error(e),
    }
}

pub(super) fn reply_empty(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(e) => reply.error(e),
    }
}

/// `ttl`: how long the kernel may believe it.
pub(super) fn reply_attr(reply: ReplyAttr, ttl: Duration, result: Result<Attr, Errno>) {
    match result {
        Ok(attr) => reply.attr(&ttl, &file_attr(&attr)),
        Err(e) => reply.error(e),
    }
}

pub(super) fn reply_written(reply: ReplyWrite, result: Result<u32, Errno>) {
    match result {
        Ok(len) => reply.written(len),
        Err(e) => reply.error(e),
    }
}

pub(super) fn reply_xattr(reply: ReplyXattr, size: u32, result: Result<Vec<u8>, Errno>) {
    match result {
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => {
            reply.error(errno(&FsError::BufferTooSmall));
        }
        Ok(value) => reply.data(&value),
        Err(e) => reply.error(e),
    }
}

pub(super) fn special(mode: u32, rdev: u32) -> NewNode {
    match mode & S_IFMT {
        0o010_000 => NewNode::Special(Kind::Fifo, 0),
        0o020_000 => NewNode::Special(Kind::CharDevice, rdev),
        0o060_000 => NewNode::Special(Kind::BlockDevice, rdev),
        0o140_000 => NewNode::Special(Kind::Socket, 0),
        _ => NewNode::File,
    }
}

pub(super) fn allocate_mode(mode: i32) -> FsResult<Allocate> {
    match mode {
        0 => Ok(Allocate::Reserve { grow: true }),
        FALLOC_KEEP_SIZE => Ok(Allocate::Reserve { grow: false }),
        m if m == FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE => Ok(Allocate::Punch),
        FALLOC_ZERO_RANGE => Ok(Allocate::Zero { grow: true }),
        m if m == FALLOC_ZERO_RANGE | FALLOC_KEEP_SIZE => Ok(Allocate::Zero { grow: false }),
        _ => Err(FsError::NotSupported),
    }
}

pub(super) fn rename_mode(flags: RenameFlags, caller: Caller) -> FsResult<RenameMode> {
    let replace = !flags.contains(RenameFlags::RENAME_NOREPLACE);
    let others = flags - RenameFlags::RENAME_NOREPLACE;
    if others == RenameFlags::RENAME_WHITEOUT {
        Ok(RenameMode::Whiteout { replace, owner: caller })
    } else if others == RenameFlags::RENAME_EXCHANGE && replace {
        Ok(RenameMode::Exchange)
    } else if others.is_empty() {
        Ok(if replace { RenameMode::Replace } else { RenameMode::NoReplace })
    } else {
        Err(FsError::Invalid("no such flag of rename"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_the_epoch_survive_both_ways() {
        for (secs, nanos) in [(0, 0), (-1, 0), (-2, 800_000_000), (1, 5), (5_000_000_000, 1)] {
            let time = Time { secs, nanos };
            // What fuser makes of the kernel's words, by its own arithmetic.
            let since = Duration::new(secs.unsigned_abs(), nanos);
            let from_kernel = if secs >= 0 { UNIX_EPOCH + since } else { UNIX_EPOCH - since };
            assert_eq!(time_of(from_kernel), time);
            let true_nanos = i128::from(secs) * 1_000_000_000 + i128::from(nanos);
            let sent = match system_time(time).duration_since(UNIX_EPOCH) {
                Ok(since) => since.as_nanos().cast_signed(),
                Err(e) => -e.duration().as_nanos().cast_signed(),
            };
            assert_eq!(sent, true_nanos);
        }
    }

    #[test]
    fn fallocate_flags_that_make_no_sense_are_refused() {
        assert!(matches!(allocate_mode(3), Ok(Allocate::Punch)));
        assert!(matches!(allocate_mode(17), Ok(Allocate::Zero { grow: false })));
        for mode in [2, 8, 32, 64, 18] {
            assert!(allocate_mode(mode).is_err(), "{mode}");
        }
    }
}
