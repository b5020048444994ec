//! Records of blobs: which there are, which are garbage.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use proto::id::BlobId;

use super::content;
use crate::engine::{Value, View};
use crate::key;
use crate::store::{BlobRecord, ExtentPage, FileUpdate, Ino, MetaError, NewBlob};
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
        let alive = BlobRecord { id, live: id.len().into(), degraded: false };
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
    content::commit(txn, &[NewBlob { id, degraded: false }], files)
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
    ids.iter().for_each(|id| txn.add_blob(NewBlob { id: *id, degraded: false }));
}

/// Of the next `limit` extents after the one that ends at `after`, those that lie in the blobs, and
/// the last that was looked at, unless it was the volume's last.
pub(crate) fn extents_in(
    txn: &Txn<'_>,
    blobs: &BTreeSet<BlobId>,
    after: Option<(Ino, u64)>,
    limit: usize,
) -> Result<ExtentPage, MetaError> {
    let start =
        after.map_or(key::extent::all(), |(ino, end)| key::extent::key(ino, end).successor());
    let (mut found, mut seen, mut last) = (Vec::new(), 0, None);
    let _ = txn.scan(start..key::extent::all().after_prefix(), &mut |key, value| {
        seen += 1;
        // What is damaged is nobody's to move.
        let Some((ino, end)) = key::extent::parse(key) else {
            tracing::error!("extent {key:?} is damaged");
            return Ok(ControlFlow::Continue(()));
        };
        match key::extent::decode(end, value) {
            Some(extent) if extent.place.is_some_and(|place| blobs.contains(&place.blob)) => {
                found.push((ino, extent));
            }
            Some(_) => {}
            None => tracing::error!("extent {key:?} of inode {} is damaged", ino.0),
        }
        last = Some((ino, end));
        Ok(if seen < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    })?;
    Ok((found, last.filter(|_| seen >= limit)))
}
