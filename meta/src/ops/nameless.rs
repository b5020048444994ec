//! Files that are made without a name, and get one when they are whole: what is written under no name is seen by
//! nobody, and what takes a name does so in one step.
//!
//! Until it has its name, such a file is an orphan of the session that made it, as one that was unlinked while it is
//! open: whatever becomes of the session, it is deleted like those.

use super::last_name::{drop_name, lose_name};
use super::names::{add_inode, living_directory, named};
use crate::key;
use crate::rules::name::Name;
use crate::store::{Attr, Caller, Fate, Ino, MetaError, NewNode, Replaces, Unlinked};
use crate::txn::{Txn, damaged};

/// Creates an empty file, of this number, as a new entry of `parent` would be, but without a name.
pub(crate) fn create(
    txn: &mut Txn<'_>,
    caller: Caller,
    ino: Ino,
    parent: Ino,
    mode: u32,
) -> Result<Attr, MetaError> {
    let dir = living_directory(txn, parent)?;
    let mut inode = add_inode(txn, caller, ino, &dir, mode, &NewNode::File)?;
    drop_name(txn, &mut inode);
    Ok(inode.stat())
}

/// Gives such a file its name; answers what the name named before, and loses it.
pub(crate) fn place(
    txn: &mut Txn<'_>,
    ino: Ino,
    parent: Ino,
    name: &[u8],
    replaces: Replaces,
    fate: Fate,
) -> Result<Option<Unlinked>, MetaError> {
    let name = Name::entry(name, MetaError::IsDirectory)?;
    txn.look_ahead([key::inode::key(ino), key::inode::key(parent), txn.entry_key(parent, name)])?;
    let mut inode = txn.inode(ino)?;
    let mut dir = living_directory(txn, parent)?;
    if inode.attr.nlink > 0 || inode.is_dir() || inode.orphan_of != Some(txn.session()) {
        return Err(MetaError::Invalid("only what was made without a name can be given one"));
    }
    let before = txn.entry(parent, name)?;
    replaces.allow(before)?;
    let gone = match before {
        Some(before) => {
            let mut before = named(txn, before)?;
            if before.is_dir() {
                return Err(MetaError::IsDirectory);
            }
            txn.replace_entry(parent, name, ino)?;
            Some(lose_name(txn, &mut before, (parent, name), fate)?)
        }
        None => {
            txn.add_entry(parent, name, ino)?;
            dir.attr.size =
                dir.attr.size.checked_add(1).ok_or_else(|| damaged("a directory's count"))?;
            None
        }
    };
    dir.touch_content(txn.now());
    txn.put_inode(&dir);
    txn.remove(key::orphan::key(txn.session(), ino));
    inode.orphan_of = None;
    inode.attr.nlink = 1;
    inode.attr.ctime = txn.now();
    txn.put_inode(&inode);
    Ok(gone)
}
