//! rename(2): moves a name, replaces a target or swaps both; may leave a whiteout.

use super::last_name::lose_name;
use super::names::{add_inode, living_directory, named};
use crate::key;
use crate::record::inode::Inode;
use crate::rules::name::Name;
use crate::store::{Caller, Fate, Ino, Kind, MetaError, NewNode, ROOT, RenameMode, Unlinked};
use crate::txn::{Txn, damaged};

/// Moves a name; answers what the target named before, if it was replaced. `whiteout` is the number of the one
/// that it leaves, `fate` what becomes of what was replaced.
pub(crate) fn rename(
    txn: &mut Txn<'_>,
    from: (Ino, &[u8]),
    to: (Ino, &[u8]),
    mode: RenameMode,
    whiteout: Ino,
    fate: Fate,
) -> Result<Option<Unlinked>, MetaError> {
    let dots = MetaError::Invalid("a directory cannot be moved under this name");
    let from_name = Name::entry(from.1, dots.clone())?;
    let to_name = Name::entry(to.1, dots)?;
    let entries = [txn.entry_key(from.0, from_name), txn.entry_key(to.0, to_name)];
    txn.look_ahead([from.0, to.0].map(key::inode::key).into_iter().chain(entries))?;
    txn.directory(from.0)?;
    living_directory(txn, to.0)?;
    let source = txn.entry(from.0, from_name)?.ok_or(MetaError::NotFound)?;
    let target = txn.entry(to.0, to_name)?;
    txn.look_ahead_at_inodes(target.into_iter().chain([source]))?;
    let source = named(txn, source)?;
    let target = target.map(|ino| named(txn, ino)).transpose()?;
    match (mode, &target) {
        (RenameMode::NoReplace | RenameMode::Whiteout { replace: false, .. }, Some(_)) => {
            return Err(MetaError::Exists);
        }
        (RenameMode::ReplaceWhole(only), Some(target)) if target.attr.ino != only => {
            return Err(MetaError::Exists);
        }
        (RenameMode::Exchange, None) => return Err(MetaError::NotFound),
        _ => {}
    }
    refuse_loops(
        txn,
        &source,
        to.0,
        MetaError::Invalid("a directory cannot be moved into itself"),
    )?;
    if let Some(target) = &target {
        let error = match mode {
            RenameMode::Exchange => MetaError::Invalid("a directory cannot be moved into itself"),
            _ => MetaError::NotEmpty,
        };
        refuse_loops(txn, target, from.0, error)?;
        if target.attr.ino == source.attr.ino {
            return Ok(None);
        }
    }
    let whole = matches!((mode, fate), (RenameMode::ReplaceWhole(_), Fate::Trash { .. }));
    let ends = Ends { from: (from.0, from_name), to: (to.0, to_name), fate, whole };
    match (mode, target) {
        (RenameMode::Exchange, Some(target)) => exchange(txn, &ends, source, target).map(|()| None),
        (RenameMode::Whiteout { owner, .. }, target) => {
            replace(txn, &ends, source, target, Some((owner, whiteout)))
        }
        (_, target) => replace(txn, &ends, source, target, None),
    }
}

/// Both names, and what one loses.
struct Ends<'a> {
    from: (Ino, &'a [u8]),
    to: (Ino, &'a [u8]),
    /// What becomes of what was replaced.
    fate: Fate,
    /// It may be anything, with all that is in it.
    whole: bool,
}

/// Refuses to put a directory somewhere below itself.
fn refuse_loops(
    txn: &Txn<'_>,
    moving: &Inode,
    below: Ino,
    error: MetaError,
) -> Result<(), MetaError> {
    if !moving.is_dir() {
        return Ok(());
    }
    let mut at = below;
    loop {
        if at == moving.attr.ino {
            return Err(error);
        }
        if at == ROOT {
            return Ok(());
        }
        let parent = txn.directory(at)?.parent;
        if parent == at {
            return Err(damaged("the path of a directory"));
        }
        at = parent;
    }
}

fn replace(
    txn: &mut Txn<'_>,
    ends: &Ends<'_>,
    source: Inode,
    target: Option<Inode>,
    whiteout: Option<(Caller, Ino)>,
) -> Result<Option<Unlinked>, MetaError> {
    if let Some(target) = target.as_ref().filter(|_| !ends.whole) {
        match (source.is_dir(), target.is_dir()) {
            (true, false) => return Err(MetaError::NotDirectory),
            (false, true) => return Err(MetaError::IsDirectory),
            (true, true) if target.attr.size > 0 => return Err(MetaError::NotEmpty),
            _ => {}
        }
    }
    let (from, to) = (ends.from, ends.to);
    let mut change_from = Change { entries: 0, subdirs: -i32::from(source.is_dir()) };
    match whiteout {
        Some(whiteout) => leave_whiteout(txn, from, whiteout)?,
        None => {
            txn.remove_entry(from.0, from.1)?;
            change_from.entries -= 1;
        }
    }
    let mut change_to = Change::default();
    let gone = match target {
        Some(mut target) => {
            txn.replace_entry(to.0, to.1, source.attr.ino)?;
            if target.is_dir() {
                change_to.subdirs -= 1;
            }
            Some(lose_name(txn, &mut target, to, ends.fate)?)
        }
        None => {
            txn.add_entry(to.0, to.1, source.attr.ino)?;
            change_to.entries += 1;
            None
        }
    };
    change_to.subdirs += i32::from(source.is_dir());
    change_directory(txn, from.0, change_from)?;
    change_directory(txn, to.0, change_to)?;
    moved(txn, source, to.0);
    Ok(gone)
}

/// The name becomes a whiteout's.
fn leave_whiteout(
    txn: &mut Txn<'_>,
    (parent, name): (Ino, &[u8]),
    (owner, ino): (Caller, Ino),
) -> Result<(), MetaError> {
    let dir = txn.directory(parent)?;
    let whiteout = add_inode(txn, owner, ino, &dir, 0, &NewNode::Special(Kind::CharDevice, 0))?;
    txn.replace_entry(parent, name, whiteout.attr.ino)
}

fn exchange(
    txn: &mut Txn<'_>,
    ends: &Ends<'_>,
    source: Inode,
    target: Inode,
) -> Result<(), MetaError> {
    let (from, to) = (ends.from, ends.to);
    txn.replace_entry(from.0, from.1, target.attr.ino)?;
    txn.replace_entry(to.0, to.1, source.attr.ino)?;
    let to_source = i32::from(target.is_dir()) - i32::from(source.is_dir());
    change_directory(txn, from.0, Change { entries: 0, subdirs: to_source })?;
    change_directory(txn, to.0, Change { entries: 0, subdirs: -to_source })?;
    moved(txn, source, to.0);
    moved(txn, target, from.0);
    Ok(())
}

/// What a rename does to a directory's counts.
#[derive(Clone, Copy, Default)]
struct Change {
    entries: i64,
    subdirs: i32,
}

/// Both ends may be one directory: the second change reads what the first has written.
fn change_directory(txn: &mut Txn<'_>, ino: Ino, change: Change) -> Result<(), MetaError> {
    let mut dir = txn.directory(ino)?;
    let wrong = || damaged("a directory's count");
    let attr = &mut dir.attr;
    attr.size = attr.size.checked_add_signed(change.entries).ok_or_else(wrong)?;
    attr.nlink = attr.nlink.checked_add_signed(change.subdirs).ok_or_else(wrong)?;
    dir.touch_content(txn.now());
    txn.put_inode(&dir);
    Ok(())
}

fn moved(txn: &mut Txn<'_>, mut inode: Inode, to: Ino) {
    inode.attr.ctime = txn.now();
    if inode.is_dir() {
        inode.parent = to;
    }
    txn.put_inode(&inode);
}
