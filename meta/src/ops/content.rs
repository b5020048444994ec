//! The content of files: extents, the commit of a flush, truncate, holes, clones.
//!
//! Long operations go in steps. A truncate works from the tail and lowers the size with each step,
//! so that a crash in between leaves a file that was truncated less far, never one with a gap.

use std::ops::{ControlFlow, Range};

use proto::id::BlobId;

use super::{STEP, Step};
use crate::key::{self, Key};
use crate::record::inode::Inode;
use crate::rules::extent;
use crate::store::{Attr, Extent, FILE_MAX, FileUpdate, Ino, Kind, MetaError, Place, Relocation};
use crate::txn::Txn;

/// Extents that touch the range.
pub(crate) fn extents(
    txn: &Txn<'_>,
    ino: Ino,
    range: &Range<u64>,
    limit: usize,
) -> Result<Vec<Extent>, MetaError> {
    txn.extents_in(ino, range, limit)
}

/// A regular file that must be there.
fn file(txn: &Txn<'_>, ino: Ino) -> Result<Inode, MetaError> {
    let inode = txn.inode(ino)?;
    match inode.attr.kind {
        Kind::File => Ok(inode),
        Kind::Directory => Err(MetaError::IsDirectory),
        _ => Err(MetaError::Invalid("not a regular file")),
    }
}

/// One flush: new blobs, and the files their bytes belong to.
pub(crate) fn commit(
    txn: &mut Txn<'_>,
    blobs: &[BlobId],
    files: &[FileUpdate],
) -> Result<(), MetaError> {
    blobs.iter().for_each(|blob| txn.add_blob(*blob));
    txn.look_ahead(files.iter().flat_map(looked_at))?;
    for update in files {
        let mut inode = match file(txn, update.ino) {
            Err(MetaError::NotFound) => continue,
            found => found?,
        };
        for new in &update.extents {
            check_extent(update.ino, new)?;
            txn.replace_extents(&mut inode, &(new.offset..extent::end(new)), &[*new])?;
        }
        if let Some(size) = update.size_at_least {
            if size > FILE_MAX {
                return Err(MetaError::FileTooLarge);
            }
            inode.attr.size = inode.attr.size.max(size);
        }
        if let Some(mtime) = update.mtime {
            inode.touch_written(mtime);
        }
        txn.put_inode(&inode);
    }
    Ok(())
}

/// What the commit of one file begins with.
fn looked_at(file: &FileUpdate) -> impl Iterator<Item = Key> {
    let starts = file.extents.iter().map(|new| key::extent::key(file.ino, new.offset));
    starts.chain([key::inode::key(file.ino)])
}

fn check_extent(ino: Ino, extent: &Extent) -> Result<(), MetaError> {
    if extent.len == 0 {
        return Err(MetaError::Invalid("an extent without bytes"));
    }
    if extent.offset.checked_add(extent.len).is_none_or(|end| end > FILE_MAX) {
        return Err(MetaError::FileTooLarge);
    }
    let beyond = |place: Place| {
        u64::from(place.offset).saturating_add(extent.len) > u64::from(place.blob.len())
    };
    if extent.place.is_some_and(beyond) {
        return Err(MetaError::Invalid("an extent reaches beyond its blob"));
    }
    let end = extent::end(extent);
    if extent.place.is_some_and(|place| key::reference::key(&place.blob, ino, end).is_none()) {
        return Err(MetaError::Invalid("a blob of a session that cannot be"));
    }
    Ok(())
}

/// A range within what a file can be.
fn check_range(range: &Range<u64>) -> Result<(), MetaError> {
    if range.is_empty() {
        return Err(MetaError::Invalid("an empty range"));
    }
    if range.end > FILE_MAX { Err(MetaError::FileTooLarge) } else { Ok(()) }
}

/// Sets the size; extents beyond it go, from the tail.
pub(crate) fn truncate(txn: &mut Txn<'_>, ino: Ino, size: u64) -> Result<Step<Attr>, MetaError> {
    if size > FILE_MAX {
        return Err(MetaError::FileTooLarge);
    }
    let mut inode = file(txn, ino)?;
    let mut count = 0;
    let mut lowest = size;
    txn.each_extent_back(ino, size, &mut |extent| {
        count += 1;
        lowest = extent.offset.max(size);
        if count < STEP { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    if count > 0 {
        txn.replace_extents(&mut inode, &(lowest..u64::MAX), &[])?;
    }
    let done = count < STEP;
    inode.attr.size = if done { size } else { inode.attr.size.min(lowest) };
    inode.touch_content(txn.now());
    txn.put_inode(&inode);
    Ok(if done { Step::Done(inode.stat()) } else { Step::More(()) })
}

/// The start of the range that touches at most [`STEP`] extents.
fn bounded(txn: &Txn<'_>, ino: Ino, range: &Range<u64>) -> Result<Range<u64>, MetaError> {
    let mut end = range.end;
    let mut count = 0;
    txn.each_extent(ino, range.start + 1, &mut |extent| {
        count += 1;
        if extent.offset >= range.end {
            return ControlFlow::Break(());
        }
        if count < STEP {
            return ControlFlow::Continue(());
        }
        end = extent::end(&extent).min(range.end);
        ControlFlow::Break(())
    })?;
    Ok(range.start..end)
}

/// What ends a long operation on a range: size and times, or where to go on.
fn settle(txn: &mut Txn<'_>, mut inode: Inode, at: u64, end: u64, grow: bool) -> Step<Attr, u64> {
    if grow {
        inode.attr.size = inode.attr.size.max(at);
    }
    inode.touch_content(txn.now());
    txn.put_inode(&inode);
    if at < end { Step::More(at) } else { Step::Done(inode.stat()) }
}

/// Makes a range a hole, or allocated zeros.
pub(crate) fn clear_range(
    txn: &mut Txn<'_>,
    ino: Ino,
    range: &Range<u64>,
    allocate: bool,
    grow: bool,
) -> Result<Step<Attr, u64>, MetaError> {
    check_range(range)?;
    let mut inode = file(txn, ino)?;
    let part = bounded(txn, ino, range)?;
    let zeros = Extent { offset: part.start, len: part.end - part.start, place: None };
    let new = if allocate { &[zeros][..] } else { &[] };
    txn.replace_extents(&mut inode, &part, new)?;
    Ok(settle(txn, inode, part.end, range.end, grow))
}

/// Fills the holes of a range with allocated zeros.
pub(crate) fn allocate(
    txn: &mut Txn<'_>,
    ino: Ino,
    range: &Range<u64>,
    grow: bool,
) -> Result<Step<Attr, u64>, MetaError> {
    check_range(range)?;
    let mut inode = file(txn, ino)?;
    let part = bounded(txn, ino, range)?;
    let there = txn.extents_in(ino, &part, STEP)?;
    for hole in extent::holes(&there, &part) {
        let zeros = Extent { offset: hole.start, len: hole.end - hole.start, place: None };
        txn.replace_extents(&mut inode, &hole, &[zeros])?;
    }
    Ok(settle(txn, inode, part.end, range.end, grow))
}

/// Has `to` share the extents of `from`'s range, which ends with the file at the latest.
pub(crate) fn clone_range(
    txn: &mut Txn<'_>,
    from: Ino,
    range: &Range<u64>,
    to: Ino,
    to_offset: u64,
) -> Result<Step<Attr, u64>, MetaError> {
    let starts = [key::extent::key(from, range.start), key::extent::key(to, to_offset)];
    txn.look_ahead([from, to].map(key::inode::key).into_iter().chain(starts))?;
    let source = file(txn, from)?;
    let mut target = file(txn, to)?;
    let range = range.start..range.end.min(source.attr.size);
    if range.is_empty() {
        return Ok(Step::Done(target.stat()));
    }
    let len = range.end - range.start;
    let to_end = to_offset.checked_add(len).filter(|end| *end <= FILE_MAX);
    let to_end = to_end.ok_or(MetaError::FileTooLarge)?;
    if from == to && range.start < to_end && to_offset < range.end {
        return Err(MetaError::Invalid("ranges overlap"));
    }
    let by_source = bounded(txn, from, &range)?;
    let by_target = bounded(txn, to, &(to_offset..to_end))?;
    let len = (by_source.end - by_source.start).min(by_target.end - by_target.start);
    let part = range.start..range.start + len;
    let new: Vec<Extent> = txn
        .extents_in(from, &part, STEP)?
        .iter()
        .filter_map(|e| extent::clip(e, &part))
        .map(|e| Extent { offset: e.offset - range.start + to_offset, ..e })
        .collect();
    txn.replace_extents(&mut target, &(to_offset..to_offset + len), &new)?;
    let step = settle(txn, target, to_offset + len, to_end, true);
    Ok(match step {
        Step::More(_) => Step::More(part.end),
        Step::Done(attr) => Step::Done(attr),
    })
}

/// The cleaner's commit: moves what still lies where it was read.
pub(crate) fn relocate(
    txn: &mut Txn<'_>,
    blobs: &[BlobId],
    moves: &[Relocation],
) -> Result<(), MetaError> {
    blobs.iter().for_each(|blob| txn.add_blob(*blob));
    let keys =
        moves.iter().map(|one| [key::inode::key(one.ino), key::extent::key(one.ino, one.offset)]);
    txn.look_ahead(keys.flatten())?;
    for one in moves {
        match relocate_one(txn, one) {
            Err(MetaError::Damaged(why)) => {
                tracing::error!("what inode {} has in a blob stays there: {why}", one.ino.0);
            }
            moved => moved?,
        }
    }
    Ok(())
}

/// What of it cannot be moved is as it was.
fn relocate_one(txn: &mut Txn<'_>, one: &Relocation) -> Result<(), MetaError> {
    let Some(mut inode) = txn.find_inode(one.ino)? else { return Ok(()) };
    let target = Extent { offset: one.offset, len: one.len, place: Some(one.to) };
    check_extent(one.ino, &target)?;
    let range = one.offset..extent::end(&target);
    for there in txn.extents_in(one.ino, &range, usize::MAX)? {
        let Some(piece) = extent::clip(&there, &range) else { continue };
        let by = piece.offset - one.offset;
        if piece.place == Some(extent::forward(one.from, by)) {
            let new = Extent { place: Some(extent::forward(one.to, by)), ..piece };
            let range = piece.offset..extent::end(&piece);
            let replaced = txn.replace_extents(&mut inode, &range, &[new]);
            // Also where only the first pieces could be replaced.
            txn.put_inode(&inode);
            replaced?;
        }
    }
    Ok(())
}
