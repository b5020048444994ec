//! readdir: pages of a directory, with cookies that are stable while entries come and go.
//!
//! The cookie of an entry is `hash << 8 | disc`, so a directory is listed in the order of its keys.
//! A page starts behind the cookie it is given, whether that entry is still there or not: what is
//! neither added nor removed in between is listed exactly once.

use std::ops::ControlFlow;

use crate::dentry;
use crate::key;
use crate::store::{DirEntry, Ino, MetaError};
use crate::txn::{Txn, damaged};

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
    let dir = txn.directory(ino)?;
    let mut entries = Vec::new();
    let dots = [(ITSELF, &b"."[..], ino), (PARENT, b"..", dir.parent)];
    for (at, name, ino) in dots.into_iter().filter(|(at, ..)| cookie < *at).take(limit) {
        // The parent of a directory that lost its name may be gone.
        let attr = txn.find_inode(ino)?.unwrap_or(dir).stat();
        entries.push(DirEntry { cookie: at, name: name.to_vec(), attr });
    }
    for (cookie, name, ino) in page(txn, ino, cookie, limit - entries.len())? {
        let inode = txn.find_inode(ino)?.ok_or_else(|| damaged("a directory entry"))?;
        entries.push(DirEntry { cookie, name, attr: inode.stat() });
    }
    Ok(entries)
}

fn page(
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
        let (_, hash) = key::dentry::parse(key).ok_or_else(|| damaged("a directory entry"))?;
        for entry in dentry::entries(bucket) {
            let entry = entry.ok_or_else(dentry::damaged)?;
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
