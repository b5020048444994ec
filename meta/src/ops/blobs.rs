//! Records of blobs: which there are, which are garbage.

use std::ops::ControlFlow;

use proto::id::BlobId;

use super::content;
use crate::engine::{Value, View};
use crate::key::{self, Key};
use crate::store::{BlobRecord, ExtentPage, FileUpdate, Ino, MetaError};
use crate::txn::Txn;

/// Blobs marked as garbage in a view (of what is durable), as long as `wanted` says so, at most
/// `limit`.
pub(crate) fn garbage(
    view: &dyn View,
    after: Option<BlobId>,
    limit: usize,
) -> Result<Vec<BlobId>, MetaError> {
    let start = after.map_or(key::garbage::all(), |id| key::garbage::key(&id).successor());
    let mut found = Vec::new();
    if limit == 0 {
        return Ok(found);
    }
    let _ = view.scan(
        start..key::garbage::all().after_prefix(),
        crate::engine::Direction::Forward,
        &mut |key, _| {
            match key::garbage::parse(key) {
                Some(id) => found.push(id),
                None => tracing::error!("mark {key:?} of a blob as garbage is damaged"),
            }
            Ok(if found.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        },
    )?;
    Ok(found)
}

/// Is it garbage still?
pub(crate) fn is_garbage(txn: &Txn<'_>, id: &BlobId) -> Result<bool, MetaError> {
    Ok(txn.get(&key::garbage::key(id))?.is_some())
}

/// Records of deleted blobs go.
pub(crate) fn forget(txn: &mut Txn<'_>, ids: &[BlobId]) -> Result<(), MetaError> {
    let keys = ids.iter().map(|id| [key::blob::key(id), key::garbage::key(id)]);
    txn.look_ahead(keys.flatten())?;
    ids.iter().try_for_each(|id| txn.forget_blob(id))
}

/// Records after `after`, in order. A damaged one stands for a blob that is wholly alive: it must be
/// neither cleaned nor taken for unknown.
pub(crate) fn list(
    txn: &Txn<'_>,
    after: Option<BlobId>,
    limit: usize,
) -> Result<Vec<BlobRecord>, MetaError> {
    let start = after.map_or(key::blob::all(), |id| key::blob::key(&id).successor());
    let mut found = Vec::new();
    if limit == 0 {
        return Ok(found);
    }
    let _ = txn.scan(start..key::blob::all().after_prefix(), &mut |key, value| {
        let Some(id) = key::blob::parse(key) else {
            tracing::error!("record {key:?} of a blob is damaged");
            return Ok(ControlFlow::Continue(()));
        };
        let alive = BlobRecord { id, live: id.len().into() };
        found.push(key::blob::decode(id, value).unwrap_or(alive));
        Ok(if found.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    })?;
    Ok(found)
}

/// One flush whose bytes go with it.
pub(crate) fn commit_inline(
    txn: &mut Txn<'_>,
    id: BlobId,
    bytes: &Value,
    files: &[FileUpdate],
) -> Result<(), MetaError> {
    txn.share(key::inline::key(&id), bytes);
    content::commit(txn, &[id], files)
}

/// Inline blobs after `after`, in order.
pub(crate) fn inline(
    txn: &Txn<'_>,
    after: Option<BlobId>,
    limit: usize,
) -> Result<Vec<BlobId>, MetaError> {
    let start = after.map_or(key::inline::all(), |id| key::inline::key(&id).successor());
    let mut found = Vec::new();
    if limit == 0 {
        return Ok(found);
    }
    let _ = txn.scan(start..key::inline::all().after_prefix(), &mut |key, _| {
        match key::inline::parse(key) {
            Some(id) => found.push(id),
            None => tracing::error!("the name {key:?} of an inline blob is damaged"),
        }
        Ok(if found.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    })?;
    Ok(found)
}

/// Records garbage that metadata never knew. What it knows is left as it is.
pub(crate) fn adopt(txn: &mut Txn<'_>, ids: &[BlobId]) {
    ids.iter().for_each(|id| txn.add_blob(*id));
}

/// Extents that lie in a blob, in the order of its references, at most `limit` of those behind `after`; and
/// where to go on. What is damaged is nobody's to move, and is not among them.
pub(crate) fn references(
    txn: &Txn<'_>,
    id: BlobId,
    after: Option<(Ino, u64)>,
    limit: usize,
) -> Result<ExtentPage, MetaError> {
    let all = key::reference::of(id.session(), id.sequence());
    let behind = |(ino, end)| key::reference::key(&id, ino, end).map(Key::successor);
    let start = after.and_then(behind).unwrap_or(all);
    let mut named = Vec::new();
    let _ = txn.scan(start..all.after_prefix(), &mut |key, _| {
        match key::reference::parse(key) {
            Some((_, _, ino, end)) => named.push((ino, end)),
            None => tracing::error!("reference {key:?} is damaged"),
        }
        Ok(if named.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    })?;
    let more = named.len() >= limit;
    txn.look_ahead(named.iter().map(|(ino, end)| key::extent::key(*ino, *end)))?;
    let (mut found, mut last) = (Vec::with_capacity(named.len()), None);
    for (ino, end) in named {
        match txn.extent(ino, end) {
            Ok(Some(extent)) if extent.place.is_some_and(|place| place.blob == id) => {
                found.push((ino, extent));
            }
            Ok(_) => tracing::error!("inode {} has nothing at {end} in blob {id}", ino.0),
            Err(MetaError::Damaged(why)) => {
                tracing::error!("what inode {} has in blob {id}: {why}", ino.0);
            }
            // What was found is an answer, and need not be looked for again.
            Err(MetaError::Elsewhere(_)) if last.is_some() => return Ok((found, last)),
            Err(error) => return Err(error),
        }
        last = Some((ino, end));
    }
    Ok((found, last.filter(|_| more)))
}
