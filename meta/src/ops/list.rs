//! readdir: pages of a directory, with cookies that are stable while entries come and go.
//!
//! The cookie of an entry is `hash << 8 | disc`, so a directory is listed in the order of its keys.
//! A page starts behind the cookie it is given, whether that entry is still there or not: what is
//! neither added nor removed in between is listed exactly once. What is damaged of a directory costs
//! the entries it hit: a name whose inode cannot be read is listed all the same.

use std::ops::ControlFlow;

use crate::key;
use crate::record::dentry;
use crate::store::{Attr, DirEntry, Ino, Kind, MetaError, Time};
use crate::txn::Txn;

/// Cookie of `.`.
const ITSELF: u64 = 1;
/// Cookie of `..`.
const PARENT: u64 = 2;

/// Up to `limit` entries after `cookie`.
pub(crate) fn readdir(
    txn: &Txn<'_>,
    ino: Ino,
    cookie: u64,
    limit: usize,
) -> Result<Vec<DirEntry>, MetaError> {
    txn.look_ahead([key::inode::key(ino), key::dentry::key(ino, cookie >> 8)])?;
    let dir = txn.directory(ino)?;
    let dots = [(ITSELF, &b"."[..], ino), (PARENT, b"..", dir.parent)];
    let dots = dots.into_iter().filter(|(at, ..)| cookie < *at).take(limit);
    let page = page(txn, ino, cookie, limit - dots.clone().count())?;
    let listed = dots.clone().map(|(.., ino)| ino).chain(page.iter().map(|(.., ino)| *ino));
    txn.look_ahead_at_inodes(listed)?;
    let mut entries = Vec::with_capacity(page.len());
    for (at, name, ino) in dots {
        // The parent of a directory that lost its name may be gone.
        let attr = attributes(txn, ino)?.unwrap_or(dir.stat());
        entries.push(DirEntry { cookie: at, name: name.to_vec(), attr, damaged: false });
    }
    for (cookie, name, ino) in page {
        let found = attributes(txn, ino)?;
        let damaged = found.is_none();
        let attr = found.unwrap_or_else(|| stand_in(ino));
        entries.push(DirEntry { cookie, name, attr, damaged });
    }
    Ok(entries)
}

/// `None`: the inode is damaged, or not there.
fn attributes(txn: &Txn<'_>, ino: Ino) -> Result<Option<Attr>, MetaError> {
    match txn.find_inode(ino) {
        Err(MetaError::Damaged(why)) => {
            tracing::error!("inode {}: {why}", ino.0);
            Ok(None)
        }
        found => Ok(found?.map(|inode| inode.stat())),
    }
}

/// For what has a name and no attributes.
fn stand_in(ino: Ino) -> Attr {
    let never = Time::default();
    Attr {
        ino,
        kind: Kind::File,
        mode: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        xattrs: 0,
        size: 0,
        stored: 0,
        atime: never,
        mtime: never,
        ctime: never,
        btime: never,
    }
}

pub(super) fn page(
    txn: &Txn<'_>,
    dir: Ino,
    after: u64,
    limit: usize,
) -> Result<Vec<(u64, Vec<u8>, Ino)>, MetaError> {
    let mut found = Vec::new();
    if limit == 0 {
        return Ok(found);
    }
    let range = key::dentry::key(dir, after >> 8)..key::dentry::of(dir).after_prefix();
    let _ = txn.scan(range, &mut |key, bucket| {
        let hash = key::dentry::parse(key).map(|(_, hash)| hash);
        for entry in dentry::entries(bucket) {
            let (Some(entry), Some(hash)) = (entry, hash) else {
                tracing::error!("directory {}: entry {key:?} is damaged and not listed", dir.0);
                break;
            };
            let cookie = hash << 8 | u64::from(entry.disc);
            if cookie > after {
                found.push((cookie, entry.name.to_vec(), entry.ino));
            }
            if found.len() == limit {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}
