//! Orphans: inodes without a name, which are deleted when nothing has them open any more.

use std::ops::ControlFlow;

use proto::id::SessionId;

use super::{STEP, Step, xattr};
use crate::key::{self, Key};
use crate::record::inode::Inode;
use crate::rules::extent;
use crate::store::{Ino, Kind, MetaError};
use crate::txn::Txn;

/// Orphans of all sessions.
pub(crate) fn all(txn: &Txn<'_>) -> Result<Vec<(SessionId, Ino)>, MetaError> {
    list(txn, key::orphan::all())
}

/// Orphans of one session.
pub(crate) fn of_session(txn: &Txn<'_>, own: SessionId) -> Result<Vec<Ino>, MetaError> {
    Ok(list(txn, key::orphan::of(own))?.into_iter().map(|(_, ino)| ino).collect())
}

fn list(txn: &Txn<'_>, start: Key) -> Result<Vec<(SessionId, Ino)>, MetaError> {
    let mut found = Vec::new();
    let _ = txn.scan(start..start.after_prefix(), &mut |key, _| {
        match key::orphan::parse(key) {
            Some(orphan) => found.push(orphan),
            None => tracing::error!("orphan {key:?} is damaged"),
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}

/// Deletes orphans, as many as one transaction should; answers how many of the list are done with.
/// An orphan with very many extents loses some of them each time and stays an orphan to the last.
pub(crate) fn reap(txn: &mut Txn<'_>, inos: &[Ino]) -> Result<Step<(), usize>, MetaError> {
    let keys = inos.iter().map(|ino| [key::inode::key(*ino), key::extent::key(*ino, 0)]);
    txn.look_ahead(keys.flatten())?;
    let mut room = STEP;
    for (done, ino) in inos.iter().enumerate() {
        if room == 0 {
            return Ok(Step::More(done));
        }
        let Some(mut inode) = txn.find_inode(*ino)? else { continue };
        let Some(session) = inode.orphan_of.filter(|_| inode.attr.nlink == 0) else { continue };
        let taken = take_extents(txn, &mut inode, room)?;
        if taken == room {
            txn.put_inode(&inode);
            return Ok(Step::More(done));
        }
        room -= taken.max(1);
        remove(txn, &inode, session)?;
    }
    Ok(Step::Done(()))
}

/// Removes up to `most` extents from the front of a file.
fn take_extents(txn: &mut Txn<'_>, inode: &mut Inode, most: usize) -> Result<usize, MetaError> {
    if inode.attr.kind != Kind::File {
        return Ok(0);
    }
    let (mut count, mut end) = (0, 0);
    txn.each_extent(inode.attr.ino, 0, &mut |extent| {
        count += 1;
        end = extent::end(&extent);
        if count < most { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    if count > 0 {
        txn.replace_extents(inode, &(0..end), &[])?;
    }
    Ok(count)
}

fn remove(txn: &mut Txn<'_>, inode: &Inode, session: SessionId) -> Result<(), MetaError> {
    let ino = inode.attr.ino;
    xattr::remove_all(txn, inode)?;
    if inode.attr.kind == Kind::Symlink {
        txn.remove(key::symlink::key(ino));
    }
    txn.remove(key::orphan::key(session, ino));
    txn.remove(key::inode::key(ino));
    txn.count_inodes(-1);
    Ok(())
}
