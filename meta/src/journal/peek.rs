//! What can be told of a volume without taking it over: what it is called, how it is protected, and whether
//! that can be read at all. Changes nothing, and never waits for more than a few blobs: it is for listings.

use std::sync::Arc;
use std::time::Duration;

use proto::id::{BlobId, SessionId, VolumeId};
use proto::scheme::Scheme;

use super::entry::Entry;
use super::takeover::{self, Onlooker, TakeOverError};
use crate::engine::{Batch, Kv as _};
use crate::journal::tables::{Bounds, JournaledKv, Tables};
use crate::key;
use crate::key::volume::VolumeRecord;
use crate::table::cache::Cache;
use crate::table::manifest::Manifest;
use crate::volume_store::names::{EPOCH_MAX, Role};
use crate::volume_store::{StoreError, VolumeStore};

/// Blobs that cannot be read before it is taken that none can.
const UNREADABLE_MOST: usize = 4;
/// Memory for blocks of chunks: one is looked at.
const CACHE: usize = 1 << 20;

/// What there is of a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Peeked {
    /// What it is called, if anything readable says so.
    pub(crate) name: Option<String>,
    /// How blobs of its metadata are protected; `None`: there are none.
    pub(crate) metadata: Option<Scheme>,
    /// Its destruction has begun.
    pub(crate) condemned: bool,
    /// Why its newest metadata cannot be used, or that there are none.
    pub(crate) damage: Option<String>,
}

/// Looks at a volume.
///
/// # Errors
/// When its blobs cannot be listed, or too few slots answer.
pub(crate) async fn peek(store: &dyn VolumeStore, volume: VolumeId) -> Result<Peeked, StoreError> {
    let mut listed = takeover::list(store).await?;
    listed.retain(|id| [Role::Entry, Role::Manifest].contains(&Role::of(id.session()).0));
    // Whoever leads may delete some while we look, but not the newest.
    listed.sort_by_key(|id| std::cmp::Reverse((id.sequence(), id.session())));
    let mut peeked = Peeked { metadata: listed.first().map(BlobId::scheme), ..Peeked::default() };
    let mut unreadable = 0;
    for id in listed {
        match name_in(store, volume, id).await {
            Ok(None) => continue,
            Ok(name) => {
                peeked.name = name;
                break;
            }
            Err(why) => {
                peeked.damage.get_or_insert(why.to_string());
                unreadable += 1;
            }
        }
        if unreadable == UNREADABLE_MOST {
            break;
        }
    }
    if peeked.name.is_none() {
        peeked.damage.get_or_insert("it has no metadata".to_owned());
    }
    if let Some(m) = parity_parts(store).await? {
        peeked.condemned = store.promised(m).await? >= EPOCH_MAX;
    }
    Ok(peeked)
}

/// What the volume is called by this entry or manifest; `None`: it is proven absent.
async fn name_in(
    store: &dyn VolumeStore,
    volume: VolumeId,
    id: BlobId,
) -> Result<Option<String>, TakeOverError> {
    let bytes = match store.get(id, 0..id.len()).await {
        Err(StoreError::NotFound) => return Ok(None),
        got => got?,
    };
    let name = match Role::of(id.session()).0 {
        Role::Manifest => {
            Manifest::decode(&bytes, volume).map_err(|e| TakeOverError::Manifest(id, e))?.name
        }
        _ => Entry::decode(id, &bytes).map_err(|e| TakeOverError::Entry(id, e))?.name,
    };
    Ok(Some(name))
}

/// How many units the volume can lose, by any blob of it, metadata first; `None`: it has none.
pub(crate) async fn parity_parts(store: &dyn VolumeStore) -> Result<Option<usize>, StoreError> {
    let metadata = Role::Chunk.session(0)..SessionId(u64::MAX);
    let data = SessionId(0)..metadata.start;
    for sessions in [metadata, data] {
        if let Some(first) = store.list(sessions, None).await?.first() {
            return Ok(Some(first.scheme().parity_parts()));
        }
    }
    Ok(None)
}

/// How the volume's data are protected: what it was formatted with.
///
/// # Errors
/// When its metadata cannot be read so far.
pub(crate) async fn scheme(
    store: Arc<dyn VolumeStore>,
    volume: VolumeId,
) -> Result<Option<Scheme>, String> {
    let store: Arc<dyn VolumeStore> = Arc::new(Onlooker(store));
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let listed = takeover::list(&*store).await.map_err(|e| text(&e))?;
    let mut manifests = takeover::manifests(&listed);
    let newest = takeover::newest_manifest(&*store, volume, &mut manifests).await;
    let value = match newest.map_err(|e| text(&e))? {
        // The record was in the first entry, and is in the snapshot since there is one.
        Some((manifest, _)) => {
            let cache = Cache::new(volume, store, None, CACHE);
            let tables = Tables::new(manifest.runs, Batch::new(), manifest.lsn, cache, NOTHING);
            let kv = JournaledKv::open(tables).await.map_err(|e| text(&e))?;
            kv.value(&key::volume::key()).await.map_err(|e| text(&e))?
        }
        None => {
            let entries = listed.iter().filter(|id| Role::of(id.session()).0 == Role::Entry);
            let first = entries.min_by_key(|id| (id.sequence(), id.session()));
            let Some(first) = first else { return Ok(None) };
            let bytes = store.get(*first, 0..first.len()).await.map_err(|e| text(&e))?;
            let entry = Entry::decode(*first, &bytes).map_err(|e| text(&e))?;
            entry.batch.get(&key::volume::key()).cloned().flatten()
        }
    };
    let record = value.map(|value| VolumeRecord::decode(&value)).transpose();
    Ok(record.map_err(|e| text(&e))?.map(|record| record.info.scheme))
}

/// Of tables that nothing is written to.
const NOTHING: Bounds = Bounds {
    interval: Duration::ZERO,
    batch_bytes: 1,
    entry_bytes: 1,
    snapshot_bytes: 1,
    snapshot_entries: 1,
};
