//! What becomes of an inode that loses a name: with the last one it is an orphan, or in the trash ([`super::trash`]).

use std::ops::ControlFlow;

use crate::key;
use crate::record::inode::Inode;
use crate::record::trash::Deletion;
use crate::store::{Fate, Ino, Kind, MetaError, Time, Unlinked};
use crate::txn::Txn;

/// A time as records have it.
pub(crate) fn nanoseconds(time: Time) -> u64 {
    let nanos = i128::from(time.secs) * 1_000_000_000 + i128::from(time.nanos);
    // 0 says something else.
    u64::try_from(nanos.max(1)).unwrap_or(u64::MAX)
}

/// An inode loses a name of a directory; with the last one it is deleted, or goes to the trash.
pub(crate) fn lose_name(
    txn: &mut Txn<'_>,
    inode: &mut Inode,
    (dir, name): (Ino, &[u8]),
    fate: Fate,
) -> Result<Unlinked, MetaError> {
    let is_last = inode.is_dir() || inode.attr.nlink == 1;
    let by = match fate {
        Fate::Trash { by } if is_last => by,
        // What was in it could not be put back.
        _ if inode.is_dir() && anything_of(txn, inode.attr.ino)? => inode.attr.uid,
        _ => return Ok(drop_name(txn, inode)),
    };
    let when = nanoseconds(txn.now());
    inode.attr.ctime = txn.now();
    inode.in_trash = true;
    inode.parent = dir;
    put(txn, inode.attr.ino, dir, &Deletion { when, by, name: name.to_vec() });
    txn.put_inode(inode);
    Ok(Unlinked { ino: inode.attr.ino, orphan: false })
}

/// Writes what is known of something in the trash.
pub(super) fn put(txn: &mut Txn<'_>, ino: Ino, dir: Ino, deletion: &Deletion) {
    txn.put(key::trash::key(dir, ino), &deletion.encode());
    txn.put(key::trash::key_by_time(deletion.when, ino), &key::trash::encode_dir(dir));
}

/// Removes it.
pub(super) fn take_out(txn: &mut Txn<'_>, ino: Ino, dir: Ino, when: u64) {
    txn.remove(key::trash::key(dir, ino));
    txn.remove(key::trash::key_by_time(when, ino));
}

/// Is anything in the trash that was in this directory?
pub(super) fn anything_of(txn: &Txn<'_>, dir: Ino) -> Result<bool, MetaError> {
    let start = key::trash::of(dir);
    let found = txn.scan(start..start.after_prefix(), &mut |_, _| Ok(ControlFlow::Break(())))?;
    Ok(found.is_break())
}

/// An inode loses a name; with the last one (a directory has but one) it becomes an orphan.
pub(crate) fn drop_name(txn: &mut Txn<'_>, inode: &mut Inode) -> Unlinked {
    let attr = &mut inode.attr;
    attr.nlink = if attr.kind == Kind::Directory { 0 } else { attr.nlink.saturating_sub(1) };
    attr.ctime = txn.now();
    let orphan = attr.nlink == 0;
    let ino = attr.ino;
    if orphan {
        inode.orphan_of = Some(txn.session());
        txn.put(key::orphan::key(txn.session(), ino), &[]);
    }
    txn.put_inode(inode);
    Unlinked { ino, orphan }
}
