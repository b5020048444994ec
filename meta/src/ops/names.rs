//! Names: lookup, create, link, unlink, rmdir.

use super::last_name::lose_name;
use super::{acl, xattr};
use crate::key;
use crate::record::inode::Inode;
use crate::rules::name::Name;
use crate::rules::perm;
use crate::store::{
    Attr, Caller, Fate, Ino, Kind, LINK_MAX, Looked, MetaError, NewNode, SYMLINK_MAX, Unlinked,
};
use crate::txn::{Txn, damaged};

/// What a name of a directory is.
pub(crate) fn lookup(txn: &Txn<'_>, parent: Ino, name: &[u8]) -> Result<Attr, MetaError> {
    let name = Name::parse(name)?;
    let ino = match name {
        Name::Itself => parent,
        Name::Parent => txn.directory(parent)?.parent,
        Name::Entry(name) => match txn.entry(parent, name)? {
            Some(ino) => return named(txn, ino).map(|inode| inode.stat()),
            // Only now does it matter what the parent is.
            None => return Err(txn.directory(parent).err().unwrap_or(MetaError::NotFound)),
        },
    };
    Ok(txn.directory(ino)?.stat())
}

/// What these names of a directory are, each with this extended attribute; `None`: it is not there.
pub(crate) fn look(
    txn: &Txn<'_>,
    parent: Ino,
    names: &[Vec<u8>],
    attribute: &[u8],
) -> Result<Vec<Option<Looked>>, MetaError> {
    txn.look_ahead(names.iter().map(|name| txn.entry_key(parent, name)))?;
    let found = names.iter().map(|name| txn.entry(parent, name));
    let found: Vec<Option<Ino>> = found.collect::<Result<_, _>>()?;
    txn.look_ahead_at_inodes(found.iter().flatten().copied())?;
    let inodes = found.into_iter().map(|ino| ino.map(|ino| named(txn, ino)).transpose());
    let inodes: Vec<Option<Inode>> = inodes.collect::<Result<_, _>>()?;
    let with_any = inodes.iter().flatten().filter(|inode| inode.attr.xattrs > 0);
    txn.look_ahead(with_any.map(|inode| xattr::key_of(txn, inode, attribute)))?;
    let look = |inode: Inode| -> Result<Looked, MetaError> {
        let value = xattr::find(txn, &inode, attribute)?;
        Ok(Looked { attr: inode.stat(), value })
    };
    inodes.into_iter().map(|inode| inode.map(look).transpose()).collect()
}

/// The inode that an entry names: it is there.
pub(crate) fn named(txn: &Txn<'_>, ino: Ino) -> Result<Inode, MetaError> {
    txn.find_inode(ino)?.ok_or_else(|| damaged("a directory entry"))
}

/// A directory that still has a name, so that names may be added to it.
pub(crate) fn living_directory(txn: &Txn<'_>, ino: Ino) -> Result<Inode, MetaError> {
    let dir = txn.directory(ino)?;
    if dir.has_name() { Ok(dir) } else { Err(MetaError::NotFound) }
}

/// Creates an inode, of this number, with a name.
pub(crate) fn create(
    txn: &mut Txn<'_>,
    caller: Caller,
    ino: Ino,
    parent: Ino,
    name: &[u8],
    mode: u32,
    node: &NewNode,
) -> Result<Attr, MetaError> {
    let name = Name::entry(name, MetaError::Exists)?;
    txn.look_ahead_at_entry(parent, name)?;
    let mut dir = living_directory(txn, parent)?;
    if txn.entry(parent, name)?.is_some() {
        return Err(MetaError::Exists);
    }
    let inode = add_inode(txn, caller, ino, &dir, mode, node)?;
    txn.add_entry(parent, name, inode.attr.ino)?;
    dir.attr.size += 1;
    if inode.is_dir() {
        dir.attr.nlink += 1;
    }
    dir.touch_content(txn.now());
    txn.put_inode(&dir);
    Ok(inode.stat())
}

/// Creates an inode that is to get a name in this directory.
pub(crate) fn add_inode(
    txn: &mut Txn<'_>,
    caller: Caller,
    ino: Ino,
    dir: &Inode,
    mode: u32,
    node: &NewNode,
) -> Result<Inode, MetaError> {
    let mut inode = new_inode(txn, caller, dir, ino, mode, node)?;
    acl::inherit(txn, dir, &mut inode, caller.umask)?;
    txn.count_inodes(1);
    if let NewNode::Symlink(target) = node {
        txn.put(key::symlink::key(ino), target);
    }
    txn.put_inode(&inode);
    Ok(inode)
}

fn new_inode(
    txn: &Txn<'_>,
    caller: Caller,
    dir: &Inode,
    ino: Ino,
    mode: u32,
    node: &NewNode,
) -> Result<Inode, MetaError> {
    let (kind, rdev, size, mode) = match node {
        NewNode::File => (Kind::File, 0, 0, mode),
        NewNode::Directory => (Kind::Directory, 0, 0, mode),
        NewNode::Symlink(target) => {
            match target.len() {
                0 => return Err(MetaError::NotFound),
                len if len > SYMLINK_MAX => return Err(MetaError::NameTooLong),
                _ => {}
            }
            (Kind::Symlink, 0, target.len() as u64, 0o777)
        }
        NewNode::Special(kind @ (Kind::CharDevice | Kind::BlockDevice), rdev) => {
            (*kind, *rdev, 0, mode)
        }
        NewNode::Special(kind @ (Kind::Fifo | Kind::Socket), _) => (*kind, 0, 0, mode),
        NewNode::Special(..) => return Err(MetaError::Invalid("not a special file")),
    };
    let (gid, mode) = perm::inherit(caller, &dir.attr, kind, mode);
    let now = txn.now();
    let is_dir = kind == Kind::Directory;
    let attr = Attr {
        ino,
        kind,
        mode,
        nlink: if is_dir { 2 } else { 1 },
        uid: caller.uid,
        gid,
        rdev,
        xattrs: 0,
        size,
        stored: 0,
        atime: now,
        mtime: now,
        ctime: now,
        btime: now,
    };
    let parent = if is_dir { dir.attr.ino } else { Ino(0) };
    Ok(Inode { attr, parent, orphan_of: None, in_trash: false })
}

/// Another name for an inode that is no directory.
pub(crate) fn link(
    txn: &mut Txn<'_>,
    ino: Ino,
    parent: Ino,
    name: &[u8],
) -> Result<Attr, MetaError> {
    let name = Name::entry(name, MetaError::Exists)?;
    txn.look_ahead([key::inode::key(ino), key::inode::key(parent), txn.entry_key(parent, name)])?;
    let mut inode = txn.inode(ino)?;
    if inode.is_dir() {
        return Err(MetaError::NotPermitted);
    }
    let mut dir = living_directory(txn, parent)?;
    if !inode.has_name() {
        return Err(MetaError::NotFound);
    }
    if txn.entry(parent, name)?.is_some() {
        return Err(MetaError::Exists);
    }
    if inode.attr.nlink >= LINK_MAX {
        return Err(MetaError::TooManyLinks);
    }
    txn.add_entry(parent, name, ino)?;
    inode.attr.nlink += 1;
    inode.attr.ctime = txn.now();
    txn.put_inode(&inode);
    dir.attr.size += 1;
    dir.touch_content(txn.now());
    txn.put_inode(&dir);
    Ok(inode.stat())
}

/// Takes a name of a non-directory away.
pub(crate) fn unlink(txn: &mut Txn<'_>, parent: Ino, name: &[u8]) -> Result<Unlinked, MetaError> {
    let name = Name::entry(name, MetaError::IsDirectory)?;
    txn.look_ahead_at_entry(parent, name)?;
    let dir = txn.directory(parent)?;
    let ino = txn.entry(parent, name)?.ok_or(MetaError::NotFound)?;
    let inode = named(txn, ino)?;
    if inode.is_dir() {
        return Err(MetaError::IsDirectory);
    }
    take_away(txn, dir, name, inode, Fate::Gone)
}

/// Takes an empty directory away.
pub(crate) fn rmdir(txn: &mut Txn<'_>, parent: Ino, name: &[u8]) -> Result<Unlinked, MetaError> {
    let name = match Name::parse(name)? {
        Name::Entry(name) => name,
        Name::Itself => return Err(MetaError::Invalid("a directory cannot take itself away")),
        Name::Parent => return Err(MetaError::NotEmpty),
    };
    txn.look_ahead_at_entry(parent, name)?;
    let dir = txn.directory(parent)?;
    let ino = txn.entry(parent, name)?.ok_or(MetaError::NotFound)?;
    let inode = named(txn, ino)?;
    if !inode.is_dir() {
        return Err(MetaError::NotDirectory);
    }
    if inode.attr.size > 0 {
        return Err(MetaError::NotEmpty);
    }
    take_away(txn, dir, name, inode, Fate::Gone)
}

/// Takes a name away from what it named.
pub(super) fn take_away(
    txn: &mut Txn<'_>,
    mut dir: Inode,
    name: &[u8],
    mut inode: Inode,
    fate: Fate,
) -> Result<Unlinked, MetaError> {
    txn.remove_entry(dir.attr.ino, name)?;
    dir.attr.size = dir.attr.size.checked_sub(1).ok_or_else(|| damaged("a directory's count"))?;
    if inode.is_dir() {
        dir.attr.nlink -= 1;
    }
    dir.touch_content(txn.now());
    txn.put_inode(&dir);
    lose_name(txn, &mut inode, (dir.attr.ino, name), fate)
}

/// The target of a symbolic link.
pub(crate) fn readlink(txn: &Txn<'_>, ino: Ino) -> Result<Vec<u8>, MetaError> {
    if txn.inode(ino)?.attr.kind != Kind::Symlink {
        return Err(MetaError::Invalid("not a symbolic link"));
    }
    let target = txn.get(&key::symlink::key(ino))?;
    target.map(|t| t.to_vec()).ok_or_else(|| damaged("a symbolic link"))
}
