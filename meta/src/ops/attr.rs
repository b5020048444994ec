//! Attributes: stat, chmod, chown, utimens, and what a write takes away.

use super::{acl, xattr};
use crate::rules::perm;
use crate::store::{Attr, Ino, MetaError, SetAttr, Time};
use crate::txn::Txn;

/// The extended attribute that holds a file's capabilities.
const CAPABILITY: &[u8] = b"security.capability";

/// stat(2).
pub(crate) fn getattr(txn: &Txn<'_>, ino: Ino) -> Result<Attr, MetaError> {
    txn.inode(ino).map(|inode| inode.stat())
}

/// chmod, chown and utimens.
pub(crate) fn setattr(txn: &mut Txn<'_>, ino: Ino, set: &SetAttr) -> Result<Attr, MetaError> {
    let mut inode = txn.inode(ino)?;
    let mut attr = perm::change(&inode.attr, set);
    if [set.atime, set.mtime, set.ctime].iter().flatten().any(|t| t.nanos >= 1_000_000_000) {
        return Err(MetaError::Invalid("a time with a billion nanoseconds or more"));
    }
    attr.atime = set.atime.unwrap_or(attr.atime);
    attr.mtime = set.mtime.unwrap_or(attr.mtime);
    attr.ctime = set.ctime.unwrap_or(txn.now());
    inode.attr = attr;
    if set.mode.is_some() {
        acl::follow_mode(txn, &mut inode)?;
    }
    txn.put_inode(&inode);
    Ok(inode.stat())
}

/// Reads, as many at once as there are.
pub(crate) fn accessed(txn: &mut Txn<'_>, reads: &[(Ino, Time)]) -> Result<(), MetaError> {
    txn.look_ahead_at_inodes(reads.iter().map(|(ino, _)| *ino))?;
    for &(ino, atime) in reads {
        match txn.inode(ino) {
            Ok(mut inode) => {
                inode.attr.atime = atime;
                txn.put_inode(&inode);
            }
            Err(MetaError::NotFound | MetaError::Damaged(_)) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Clears what a write by an unprivileged caller must.
pub(crate) fn clear_privileges(
    txn: &mut Txn<'_>,
    ino: Ino,
    outsider: bool,
) -> Result<(), MetaError> {
    let mut inode = txn.inode(ino)?;
    let had_capability = xattr::take(txn, &mut inode, CAPABILITY)?;
    let mode = perm::without_privileges(inode.attr.mode, outsider);
    if mode != inode.attr.mode || had_capability {
        inode.attr.mode = mode;
        inode.attr.ctime = txn.now();
        txn.put_inode(&inode);
    }
    Ok(())
}
