//! Extended attributes. Which namespaces there are and who may is the caller's concern.

use std::ops::ControlFlow;

use crate::key::{self, Key};
use crate::record::inode::Inode;
use crate::record::xattr;
use crate::store::{Ino, MetaError, NAME_MAX, XATTR_COUNT_MAX, XATTR_VALUE_MAX};
use crate::txn::{Txn, damaged};

fn check_name(name: &[u8]) -> Result<(), MetaError> {
    match name.len() {
        0 => Err(MetaError::Invalid("empty attribute name")),
        len if len > NAME_MAX => Err(MetaError::NameTooLong),
        _ if name.contains(&0) => Err(MetaError::Invalid("attribute name with a zero byte")),
        _ => Ok(()),
    }
}

/// The value of an attribute.
pub(crate) fn get(txn: &Txn<'_>, ino: Ino, name: &[u8]) -> Result<Vec<u8>, MetaError> {
    check_name(name)?;
    find(txn, &txn.inode(ino)?, name)?.ok_or(MetaError::NoAttribute)
}

/// The key of an attribute.
pub(super) fn key_of(txn: &Txn<'_>, inode: &Inode, name: &[u8]) -> Key {
    key::xattr::key(inode.attr.ino, txn.hash(name))
}

/// The value of an attribute, if it is there.
pub(crate) fn find(
    txn: &Txn<'_>,
    inode: &Inode,
    name: &[u8],
) -> Result<Option<Vec<u8>>, MetaError> {
    if inode.attr.xattrs == 0 {
        return Ok(None);
    }
    let bucket = txn.get(&key_of(txn, inode, name))?;
    Ok(xattr::find(bucket.as_deref().unwrap_or_default(), name)?.map(<[u8]>::to_vec))
}

/// Sets an attribute by what `set` does to the inode, if it can have this name and value.
pub(super) fn set_by(
    txn: &mut Txn<'_>,
    ino: Ino,
    name: &[u8],
    value: &[u8],
    set: impl FnOnce(&mut Txn<'_>, &mut Inode) -> Result<(), MetaError>,
) -> Result<(), MetaError> {
    check_name(name)?;
    if value.len() > XATTR_VALUE_MAX {
        return Err(MetaError::AttributeTooLarge);
    }
    let mut inode = txn.inode(ino)?;
    set(txn, &mut inode)?;
    inode.attr.ctime = txn.now();
    txn.put_inode(&inode);
    Ok(())
}

/// Sets an attribute that must be there already, or must not, if `must` says so; putting the inode is the caller's.
pub(super) fn put_new_or_old(
    txn: &mut Txn<'_>,
    inode: &mut Inode,
    name: &[u8],
    value: &[u8],
    must: Option<bool>,
) -> Result<(), MetaError> {
    match (find(txn, inode, name)?.is_some(), must) {
        (true, Some(false)) => Err(MetaError::Exists),
        (false, Some(true)) => Err(MetaError::NoAttribute),
        _ => put(txn, inode, name, value),
    }
}

/// Sets an attribute whether it is there or not; putting the inode is the caller's.
pub(crate) fn put(
    txn: &mut Txn<'_>,
    inode: &mut Inode,
    name: &[u8],
    value: &[u8],
) -> Result<(), MetaError> {
    let key = key::xattr::key(inode.attr.ino, txn.hash(name));
    let bucket = txn.get(&key)?;
    let bucket = bucket.as_deref().unwrap_or_default();
    match xattr::find(bucket, name)? {
        None if inode.attr.xattrs >= XATTR_COUNT_MAX => return Err(MetaError::AttributeTooLarge),
        None => inode.attr.xattrs += 1,
        Some(_) => {}
    }
    txn.put(key, &xattr::set(bucket, name, Some(value))?);
    Ok(())
}

/// Removes an attribute.
pub(crate) fn remove(txn: &mut Txn<'_>, ino: Ino, name: &[u8]) -> Result<(), MetaError> {
    check_name(name)?;
    let mut inode = txn.inode(ino)?;
    if !take(txn, &mut inode, name)? {
        return Err(MetaError::NoAttribute);
    }
    inode.attr.ctime = txn.now();
    txn.put_inode(&inode);
    Ok(())
}

/// Takes an attribute away if it is there; putting the inode is the caller's.
pub(crate) fn take(txn: &mut Txn<'_>, inode: &mut Inode, name: &[u8]) -> Result<bool, MetaError> {
    if inode.attr.xattrs == 0 {
        return Ok(false);
    }
    let key = key::xattr::key(inode.attr.ino, txn.hash(name));
    let Some(bucket) = txn.get(&key)? else { return Ok(false) };
    if xattr::find(&bucket, name)?.is_none() {
        return Ok(false);
    }
    txn.put_or_remove(key, &xattr::set(&bucket, name, None)?);
    inode.attr.xattrs -= 1;
    Ok(true)
}

/// The names of all attributes.
pub(crate) fn list(txn: &Txn<'_>, ino: Ino) -> Result<Vec<Vec<u8>>, MetaError> {
    let mut names = Vec::new();
    if txn.inode(ino)?.attr.xattrs == 0 {
        return Ok(names);
    }
    each_bucket(txn, ino, |_, bucket| {
        for entry in xattr::entries(bucket) {
            let (name, _) = entry.ok_or_else(xattr::damaged)?;
            names.push(name.to_vec());
        }
        Ok(())
    })?;
    Ok(names)
}

/// Removes all attributes of an inode that is going away.
pub(crate) fn remove_all(txn: &mut Txn<'_>, inode: &Inode) -> Result<(), MetaError> {
    if inode.attr.xattrs == 0 {
        return Ok(());
    }
    let mut hashes = Vec::new();
    each_bucket(txn, inode.attr.ino, |hash, _| {
        hashes.push(hash);
        Ok(())
    })?;
    hashes.into_iter().for_each(|hash| txn.remove(key::xattr::key(inode.attr.ino, hash)));
    Ok(())
}

fn each_bucket(
    txn: &Txn<'_>,
    ino: Ino,
    mut visit: impl FnMut(u64, &[u8]) -> Result<(), MetaError>,
) -> Result<(), MetaError> {
    let start = key::xattr::of(ino);
    txn.scan(start..start.after_prefix(), &mut |key, bucket| {
        let (_, hash) = key::xattr::parse(key).ok_or_else(|| damaged("an extended attribute"))?;
        visit(hash, bucket)?;
        Ok(ControlFlow::Continue(()))
    })
    .map(drop)
}
