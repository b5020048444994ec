//! Access lists where they meet inodes: set by name, followed by chmod, inherited at birth.
//!
//! Invariant: a stored access list is extended, and the permission bits of its inode's mode are its
//! classes. Only directories have a default list. The walk of `ashlar fsck` checks both.

use super::xattr;
use crate::record::inode::Inode;
use crate::rules::acl::{ACCESS, Acl, DEFAULT, is_acl};
use crate::store::{Ino, Kind, MetaError};
use crate::txn::{Txn, damaged};

/// A list of an inode. Costs nothing where there are no extended attributes.
fn read(txn: &Txn<'_>, inode: &Inode, name: &[u8]) -> Result<Option<Acl>, MetaError> {
    let Some(value) = xattr::find(txn, inode, name)? else { return Ok(None) };
    Acl::parse(&value).map_err(|_| damaged("an access list"))
}

/// setxattr(2). An access list always replaces the one before.
pub(crate) fn setxattr(
    txn: &mut Txn<'_>,
    ino: Ino,
    name: &[u8],
    value: &[u8],
    must: Option<bool>,
) -> Result<(), MetaError> {
    xattr::set_by(txn, ino, name, value, |txn, inode| match is_acl(name) {
        true => set(txn, inode, name, value),
        false => xattr::put_new_or_old(txn, inode, name, value, must),
    })
}

/// setxattr(2) of a list; putting the inode is the caller's. An access list changes the mode, and
/// one that is no more than a mode is not kept.
fn set(txn: &mut Txn<'_>, inode: &mut Inode, name: &[u8], value: &[u8]) -> Result<(), MetaError> {
    let list = Acl::parse(value)?;
    if name == DEFAULT && list.is_some() && !inode.is_dir() {
        return Err(MetaError::AccessDenied);
    }
    if inode.attr.kind == Kind::Symlink {
        return Err(MetaError::NotSupported);
    }
    if name == ACCESS
        && let Some(list) = &list
    {
        inode.attr.mode = list.applied_to(inode.attr.mode);
    }
    match list.filter(|list| name == DEFAULT || list.is_extended()) {
        Some(list) => xattr::put(txn, inode, name, &list.to_value()),
        None => xattr::take(txn, inode, name).map(drop),
    }
}

/// After chmod(2): the access list follows the mode.
pub(crate) fn follow_mode(txn: &mut Txn<'_>, inode: &mut Inode) -> Result<(), MetaError> {
    let Some(mut list) = read(txn, inode, ACCESS)? else { return Ok(()) };
    list.chmod(inode.attr.mode);
    xattr::put(txn, inode, ACCESS, &list.to_value())
}

/// The lists and the permission bits of something new in `dir`, whose `attr.mode` is what was asked
/// for. Without a default list there, the umask takes its bits off; a symbolic link has no
/// permissions.
pub(crate) fn inherit(
    txn: &mut Txn<'_>,
    dir: &Inode,
    inode: &mut Inode,
    umask: u32,
) -> Result<(), MetaError> {
    if inode.attr.kind == Kind::Symlink {
        return Ok(());
    }
    let Some(default) = read(txn, dir, DEFAULT)? else {
        inode.attr.mode &= !(umask & 0o777);
        return Ok(());
    };
    let (access, mode) = default.inherited(inode.attr.mode);
    inode.attr.mode = mode;
    if access.is_extended() {
        xattr::put(txn, inode, ACCESS, &access.to_value())?;
    }
    if inode.is_dir() {
        xattr::put(txn, inode, DEFAULT, &default.to_value())?;
    }
    Ok(())
}
