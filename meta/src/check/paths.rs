//! What inodes are called: for people who are told of a few of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::ControlFlow;

use crate::key;
use crate::record::dentry;
use crate::record::trash::Deletion;
use crate::store::{Ino, MetaError, ROOT};
use crate::txn::Txn;

/// Longest path that is followed, in names.
const DEPTH_MOST: usize = 4096;

/// Where an inode is named, and how.
type Named = HashMap<Ino, (Ino, Vec<u8>)>;

/// Paths of inodes that have any: of several one. Of what is in the trash, where it was, and that it is there. Reads all
/// entries, once for the inodes and once for the directories above them.
pub(super) fn of(txn: &Txn<'_>, inos: &BTreeSet<Ino>) -> Result<BTreeMap<Ino, String>, MetaError> {
    if inos.is_empty() {
        return Ok(BTreeMap::new());
    }
    let (mut named, mut trashed) = (Named::new(), BTreeSet::new());
    find(txn, inos, &mut named)?;
    find_deleted(txn, inos, (&mut named, &mut trashed))?;
    let mut above = BTreeSet::new();
    for (parent, _) in named.values() {
        let mut at = *parent;
        while at != ROOT && above.insert(at) {
            match txn.find_inode(at) {
                Ok(Some(dir)) => at = dir.parent,
                Ok(None) | Err(MetaError::Damaged(_)) => break,
                Err(error) => return Err(error),
            }
        }
    }
    if !above.is_empty() {
        find(txn, &above, &mut named)?;
        find_deleted(txn, &above, (&mut named, &mut trashed))?;
    }
    Ok(inos.iter().filter_map(|ino| Some((*ino, path(*ino, &named, &trashed)?))).collect())
}

/// Finds the names that those of these had which are in the trash.
fn find_deleted(
    txn: &Txn<'_>,
    wanted: &BTreeSet<Ino>,
    (named, trashed): (&mut Named, &mut BTreeSet<Ino>),
) -> Result<(), MetaError> {
    for ino in wanted {
        let inode = match txn.find_inode(*ino) {
            Ok(Some(inode)) if inode.in_trash => inode,
            Ok(_) | Err(MetaError::Damaged(_)) => continue,
            Err(error) => return Err(error),
        };
        let record = txn.get(&key::trash::key(inode.parent, *ino))?;
        if let Some(deletion) = record.and_then(|record| Deletion::decode(&record)) {
            named.insert(*ino, (inode.parent, deletion.name));
            trashed.insert(*ino);
        }
    }
    Ok(())
}

/// Finds the entries that name any of these.
fn find(txn: &Txn<'_>, wanted: &BTreeSet<Ino>, named: &mut Named) -> Result<(), MetaError> {
    let all = key::dentry::all();
    txn.scan(all..all.after_prefix(), &mut |key, bucket| {
        if let Some((parent, _)) = key::dentry::parse(key) {
            for entry in dentry::entries(bucket).flatten().filter(|e| wanted.contains(&e.ino)) {
                named.insert(entry.ino, (parent, entry.name.to_vec()));
            }
        }
        Ok(ControlFlow::Continue(()))
    })
    .map(drop)
}

fn path(ino: Ino, named: &Named, trashed: &BTreeSet<Ino>) -> Option<String> {
    let (mut at, mut names, mut is_trashed) = (ino, Vec::new(), false);
    while at != ROOT {
        is_trashed |= trashed.contains(&at);
        let (parent, name) = named.get(&at).filter(|_| names.len() < DEPTH_MOST)?;
        names.push(String::from_utf8_lossy(name));
        at = *parent;
    }
    names.reverse();
    let words = if is_trashed { ", which is in the trash" } else { "" };
    Some(format!("/{}{words}", names.join("/")))
}
