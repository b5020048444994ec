//! Of which files bytes are lost, for `ashlar status`: those of the blobs that repair names as lost.
//!
//! Names are found by a look at all of them, so that is not done each time that somebody asks: only when other blobs are
//! lost than before, or a while has passed. How many files are looked for is bounded; `ashlar fsck --lost` names all.

use std::collections::BTreeSet;
use std::time::Duration;

use meta::{Ino, MetaError, MetaSettings, Volume, VolumeError, VolumeStores};
use proto::id::BlobId;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::time::Instant;

/// What was found holds so long, while the same blobs are lost: files may get other names.
const HOLDS: Duration = Duration::from_secs(60);
/// Files of one blob that are looked for.
const OF_A_BLOB: usize = 64;
/// Files that are named.
const NAMED: usize = 10;

/// Files that have lost bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostNames {
    /// Paths of the first of them, in order.
    pub named: Vec<String>,
    /// How many more there are, at least.
    pub more: u64,
}

/// What was last found.
#[derive(Default)]
pub(crate) struct LostFiles(Mutex<Option<Looked>>);

struct Looked {
    blobs: Vec<BlobId>,
    at: Instant,
    names: LostNames,
}

impl LostFiles {
    /// The files of a volume that have bytes in these blobs, as it is in the store: a long look at what is mounted would
    /// hold up whoever changes it.
    ///
    /// # Errors
    /// When the metadata cannot be read.
    pub(crate) async fn of(
        &self,
        stores: &dyn VolumeStores,
        volume: &str,
        blobs: Vec<BlobId>,
    ) -> Result<LostNames, VolumeError> {
        let mut last = self.0.lock().await;
        if blobs.is_empty() {
            *last = None;
            return Ok(LostNames::default());
        }
        if let Some(looked) = &*last
            && looked.blobs == blobs
            && looked.at.elapsed() < HOLDS
        {
            return Ok(looked.names.clone());
        }
        let volume = meta::look(stores, volume, None, MetaSettings::default()).await?;
        let names = look(&volume, &blobs).await.map_err(|why| VolumeError::Damaged {
            name: volume.info().name.clone(),
            reason: why.to_string(),
        })?;
        *last = Some(Looked { blobs, at: Instant::now(), names: names.clone() });
        Ok(names)
    }
}

async fn look(volume: &Volume, blobs: &[BlobId]) -> Result<LostNames, MetaError> {
    let mut inos = BTreeSet::new();
    for id in blobs {
        let (extents, _) = volume.references(*id, None, OF_A_BLOB).await?;
        inos.extend(extents.into_iter().map(|(ino, _)| ino));
    }
    let paths = volume.paths(inos.clone()).await?;
    let nameless = |ino: &Ino| format!("inode {}, which has no name", ino.0);
    let name = |ino: &Ino| paths.get(ino).cloned().unwrap_or_else(|| nameless(ino));
    let mut named: Vec<String> = inos.iter().map(name).collect();
    named.sort();
    let more = named.len().saturating_sub(NAMED) as u64;
    named.truncate(NAMED);
    Ok(LostNames { named, more })
}
